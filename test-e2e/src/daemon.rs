//! Starting, killing and restarting a daemon on directories of its own: windlassd, or containerd as the reference.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::asked::{self, CgroupDriver};
use crate::cri::Cri;

/// Which daemon is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// windlassd from `WINDLASS_BIN_DIR` or the target directory.
    Windlass,
    /// Debian's containerd with runc, under a private configuration.
    Containerd,
}

/// What a daemon is started with. A restart uses the same.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which daemon.
    pub flavour: Flavour,
    /// Lasting data.
    pub root: PathBuf,
    /// What may be gone after a reboot.
    pub state: PathBuf,
    /// The CRI socket.
    pub socket: PathBuf,
    /// The file of the configuration; written by `Setup::write_config`.
    pub config: PathBuf,
    /// Where the daemon's output goes.
    pub log: PathBuf,
    /// CNI configuration.
    pub cni_conf: PathBuf,
    /// CNI plugins.
    pub cni_bin: PathBuf,
    /// `hosts.toml` directories.
    pub certs: PathBuf,
    /// Runtime handlers by the path of an OCI runtime.
    pub handlers: Vec<(String, PathBuf)>,
    /// The default handler; empty is the daemon's own choice.
    pub default_handler: String,
    /// Who makes the cgroups.
    pub cgroup_driver: CgroupDriver,
    /// The image that containerd needs for a pod.
    pub pause: String,
    /// Words before the daemon's own command, such as `strace -D -f …`.
    pub wrap: Vec<String>,
    /// Lines added to the `[cri]` of windlassd's configuration.
    pub more_cri: String,
    /// Lines added to the end of the configuration.
    pub more_config: String,
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// How long it took from the start of the process to the first answer.
    pub first_answer: Duration,
}

impl Flavour {
    /// What `WINDLASS_E2E_RUNTIME` asks for.
    pub fn of_environment() -> Self {
        match std::env::var("WINDLASS_E2E_RUNTIME").as_deref() {
            Ok("containerd") => Self::Containerd,
            _ => Self::Windlass,
        }
    }
}

/// The directory with windlassd, its shim and the command line.
pub fn bin_dir() -> Result<PathBuf> {
    if let Ok(dir) = std::env::var("WINDLASS_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let home = PathBuf::from(std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned()));
    let target = std::env::var("CARGO_TARGET_DIR").map_or_else(|_| home.join(".cache/windlass/target"), PathBuf::from);
    for dir in ["bin", "release"] {
        if target.join(dir).join("windlassd").exists() {
            return Ok(target.join(dir));
        }
    }
    bail!("no windlassd under {}: run hack/build, or set WINDLASS_BIN_DIR", target.display())
}

impl Setup {
    /// Writes the daemon's configuration.
    pub fn write_config(&self) -> Result<()> {
        let text = match self.flavour {
            Flavour::Windlass => self.windlass_config(),
            Flavour::Containerd => self.containerd_config(),
        };
        fs::write(&self.config, text)?;
        Ok(())
    }

    fn windlass_config(&self) -> String {
        let mut text = format!(
            "version = 1\nroot = {:?}\nstate = {:?}\naddress = {:?}\n[cri]\ncgroup_driver = {:?}\n",
            self.root,
            self.state,
            self.socket,
            self.cgroup_driver.word()
        );
        if !self.default_handler.is_empty() {
            let _ = writeln!(text, "default_runtime = {:?}", self.default_handler);
        }
        let _ = writeln!(text, "{}", self.more_cri);
        let _ = writeln!(text, "[cri.cni]\nconf_dir = {:?}\nbin_dirs = [{:?}]", self.cni_conf, self.cni_bin);
        let _ = writeln!(text, "[cri.runtimes.windlass]");
        for (name, binary) in &self.handlers {
            let _ = writeln!(text, "[cri.runtimes.{name}]\nbinary = {binary:?}");
        }
        let _ = writeln!(text, "[registry]\nconfig_path = {:?}\n{}", self.certs, self.more_config);
        text
    }

    fn containerd_config(&self) -> String {
        let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
        let default = if self.default_handler.is_empty() { "runc" } else { &self.default_handler };
        let mut text = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.btrfs\", \
             \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.internal.v1.opt\", \
             \"io.containerd.tracing.processor.v1.otlp\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {ttrpc:?}\n\
             [{cri}]\nsandbox_image = {pause:?}\ndisable_tcp_service = true\nstream_server_address = \"127.0.0.1\"\n\
             stream_server_port = \"0\"\nrestrict_oom_score_adj = true\nnetns_mounts_under_state_dir = true\n\
             [{cri}.cni]\nconf_dir = {conf:?}\nbin_dir = {bin:?}\n\
             [{cri}.registry]\nconfig_path = {certs:?}\n\
             [{cri}.containerd]\ndefault_runtime_name = {default:?}\n",
            root = self.root,
            state = self.state,
            socket = self.socket,
            ttrpc = self.socket.with_extension("ttrpc"),
            pause = self.pause,
            conf = self.cni_conf,
            bin = self.cni_bin,
            certs = self.certs,
        );
        let runc = ("runc".to_owned(), PathBuf::from("/usr/sbin/runc"));
        for (name, binary) in
            self.handlers.iter().chain(self.handlers.iter().all(|(name, _)| name != "runc").then_some(&runc))
        {
            let runtime = format!("{cri}.containerd.runtimes.{name}");
            let _ = writeln!(text, "[{runtime}]\nruntime_type = \"io.containerd.runc.v2\"");
            let systemd = self.cgroup_driver == CgroupDriver::Systemd;
            let _ = writeln!(text, "[{runtime}.options]\nBinaryName = {binary:?}\nSystemdCgroup = {systemd}");
        }
        text.push_str(&self.more_config);
        text
    }

    /// The daemon's command: what wraps it, its binary, its flags.
    pub fn command(&self) -> Result<Command> {
        let mut words = self.wrap.clone();
        let path = std::env::var("PATH").unwrap_or_default();
        let (binary, path) = match self.flavour {
            Flavour::Windlass => {
                let dir = bin_dir()?;
                (dir.join("windlassd"), format!("{}:{path}", dir.display()))
            }
            Flavour::Containerd => (PathBuf::from("/usr/bin/containerd"), path),
        };
        words.push(binary.to_string_lossy().into_owned());
        words.extend(["--config".to_owned(), self.config.to_string_lossy().into_owned()]);
        // The daemon ends with its test, even if that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(words).env("PATH", path).stdin(Stdio::null());
        Ok(command)
    }

    /// Starts the process and returns at once. Its output is added to the log.
    pub fn spawn(&self) -> Result<Child> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = self.command()?;
        command.stdout(log.try_clone()?).stderr(log);
        command.spawn().context("start of the daemon")
    }

    /// Starts the daemon and waits for its first answer.
    pub async fn start(&self) -> Result<(Daemon, Cri)> {
        let begin = Instant::now();
        let mut child = self.spawn()?;
        loop {
            if let Ok(cri) = Cri::connect(&self.socket).await
                && cri.version().await.is_ok()
            {
                return Ok((Daemon { child, first_answer: begin.elapsed() }, cri));
            }
            if let Some(status) = child.try_wait()? {
                bail!("the daemon ended with {status}:\n{}", self.log_tail());
            }
            if begin.elapsed() > asked::patient(Duration::from_secs(30)) {
                child.kill().ok();
                child.wait().ok();
                bail!("the daemon does not answer:\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The last lines of the daemon's log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Daemon {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// SIGTERM, and waits for the end at most ten seconds.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)?;
        let child = &mut self.child;
        crate::eventually("the daemon ends", Duration::from_secs(10), async || child.try_wait().ok().flatten()).await
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(status.signal().map_or_else(|| format!("{status}"), |signal| format!("signal {signal}")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A path that is short enough for a Unix socket.
pub fn fits_a_socket(path: &Path) -> bool {
    path.as_os_str().len() <= 107
}
