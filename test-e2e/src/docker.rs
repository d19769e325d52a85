//! The real `dockerd` (Debian's docker.io) on a node's containerd API, with directories and a cgroup of its own and no network.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::Node;

/// A running dockerd; killed when dropped.
#[derive(Debug)]
pub struct Docker {
    child: Child,
    dir: PathBuf,
    containerd: PathBuf,
    cgroup: String,
}

impl Docker {
    /// Starts it and waits for its first answer.
    ///
    /// # Errors
    /// Where it does not come up; then with the end of its log.
    pub async fn start(node: &Node) -> Result<Self> {
        Self::start_on(node, node.setup.socket.clone()).await
    }

    /// The same over another of the node's sockets.
    ///
    /// # Errors
    /// As there.
    pub async fn start_on(node: &Node, containerd: PathBuf) -> Result<Self> {
        let dir = node.dir().join("docker");
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("daemon.json"), "{}")?;
        let cgroup = format!("/{}/docker", node.tag());
        let child = spawn(&dir, &containerd, &cgroup)?;
        let mut docker = Self { child, dir, containerd, cgroup };
        docker.ready().await?;
        Ok(docker)
    }

    async fn ready(&mut self) -> Result<()> {
        let up = crate::eventually("dockerd answers", Duration::from_secs(30), async || {
            let ended = self.child.try_wait().ok().flatten().is_some();
            (ended || self.output(&["version"]).is_ok_and(|output| output.status.success())).then_some(!ended)
        });
        match up.await {
            Ok(true) => Ok(()),
            other => bail!("dockerd: {other:?}: {}", self.log_tail()),
        }
    }

    /// Kills it and starts it again; containers live on.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn restart(&mut self, meanwhile: Duration) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        tokio::time::sleep(meanwhile).await;
        self.child = spawn(&self.dir, &self.containerd, &self.cgroup)?;
        self.ready().await
    }

    /// Makes the image `box` of busybox.
    ///
    /// # Errors
    /// What docker says.
    pub fn import(&self) -> Result<()> {
        let file = self.dir.join("box.tar");
        fs::write(&file, crate::Layer::busybox(crate::Compression::None)?.tar())?;
        self.run(&["import", &file.to_string_lossy(), "box"]).map(drop)
    }

    /// The command with its arguments, which is killed where it takes very long.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "60", "/usr/bin/docker", "-H"]).arg(format!("unix://{}/d.sock", self.dir.display()));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Its output, whatever its end.
    ///
    /// # Errors
    /// Where there is no docker.
    pub fn output(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).output().context("run docker")
    }

    /// What it prints where it succeeds, without white space at the ends.
    ///
    /// # Errors
    /// Its own words where it does not.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "docker {}: {}: {told}", arguments.join(" "), output.status);
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A field of what it knows of a container, by a template.
    ///
    /// # Errors
    /// What docker says.
    pub fn inspect(&self, container: &str, template: &str) -> Result<String> {
        self.run(&["inspect", "-f", template, container])
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

fn spawn(dir: &std::path::Path, containerd: &std::path::Path, cgroup: &str) -> Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
    let at = |name: &str| dir.join(name);
    fs::remove_file(at("pid")).ok();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "/usr/sbin/dockerd", "--config-file"]).arg(at("daemon.json"));
    command.arg("--containerd").arg(containerd).arg("--data-root").arg(at("root")).arg("--exec-root").arg(at("exec"));
    command.arg("-H").arg(format!("unix://{}/d.sock", dir.display())).arg("--pidfile").arg(at("pid"));
    command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--live-restore"]);
    command.arg(format!("--cgroup-parent={cgroup}"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("start dockerd")
}

impl Drop for Docker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of dockerd's log ---\n{}", self.log_tail());
        }
        self.child.kill().ok();
        self.child.wait().ok();
        // dockerd binds its root to itself and keeps the host's network by a name and, killed, leaves both.
        for own in ["root", "exec/netns/default"] {
            nix::mount::umount2(&self.dir.join(own), nix::mount::MntFlags::MNT_DETACH).ok();
        }
    }
}
