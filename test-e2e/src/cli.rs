//! The command line as a person or a script uses it: the real binary, in a namespace of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::daemon::bin_dir;

/// `windlass` on one daemon's socket, for one namespace.
#[derive(Clone, Debug)]
pub struct Cli {
    binary: PathBuf,
    socket: PathBuf,
    namespace: String,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    /// Its exit status.
    pub status: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

impl Cli {
    /// The command line for a namespace of the daemon at `socket`.
    pub fn new(socket: &Path, namespace: &str) -> Result<Self> {
        Ok(Self { binary: bin_dir()?.join("windlass"), socket: socket.to_owned(), namespace: namespace.to_owned() })
    }

    /// The namespace that it works in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same for another namespace.
    pub fn of(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// A command that is yet to be started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        // A command that hangs is a failure, and leaves nothing running.
        command
            .args(["--foreground", "--signal=KILL", "120"])
            .arg(&self.binary)
            .arg("--address")
            .arg(&self.socket)
            .args(words);
        command.env("CONTAINERD_NAMESPACE", &self.namespace).env_remove("CONTAINERD_SNAPSHOTTER");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command, however it ends.
    pub fn run(&self, words: &[&str]) -> Result<Done> {
        let output = self.command(words).output().with_context(|| format!("{words:?}"))?;
        Done::of(&output)
    }

    /// Runs a command with something on its standard input, however it ends.
    pub fn run_with(&self, words: &[&str], input: &[u8]) -> Result<Done> {
        let mut child =
            self.command(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("its standard input")?;
        let input = input.to_owned();
        // It may end without having read everything.
        let writing = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input).ok());
        let output = child.wait_with_output()?;
        writing.join().ok();
        Done::of(&output)
    }

    /// Runs a command that has to succeed; what it wrote.
    pub fn ok(&self, words: &[&str]) -> Result<String> {
        let done = self.run(words)?;
        ensure!(
            done.status == 0,
            "windlass {}: status {}: {}{}",
            words.join(" "),
            done.status,
            done.stdout,
            done.stderr
        );
        Ok(done.stdout)
    }

    /// Runs a command that has to succeed, and reads what it wrote as JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let text = self.ok(&[&["--json"], words].concat())?;
        serde_json::from_str(&text).with_context(|| format!("windlass {}: {text}", words.join(" ")))
    }

    /// Runs a command that has to fail; what it complained.
    pub fn fails(&self, words: &[&str]) -> Result<String> {
        let done = self.run(words)?;
        if done.status == 0 {
            bail!("windlass {} succeeded: {}", words.join(" "), done.stdout);
        }
        Ok(done.stderr)
    }

    /// The value of `field` in each row of a list.
    pub fn column(&self, words: &[&str], field: &str) -> Result<Vec<String>> {
        let rows = self.json(words)?;
        let rows = rows.as_array().context("a list")?;
        Ok(rows.iter().filter_map(|row| row[field].as_str()).map(str::to_owned).collect())
    }
}

impl Done {
    fn of(output: &Output) -> Result<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let status = output.status.code().context("killed by a signal")?;
        Ok(Self { status, stdout: text(&output.stdout), stderr: text(&output.stderr) })
    }
}
