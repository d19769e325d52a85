//! The real `ctr`, as a person at a shell uses it: Debian's (containerd 1.6), and a newer one where there is one.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use crate::Node;

/// A `ctr` that talks to a node's daemon.
#[derive(Clone, Debug)]
pub struct Ctr {
    program: PathBuf,
    address: PathBuf,
    /// True from containerd 2.0 on, where images are moved by the daemon (Transfer) and not by `ctr` itself.
    pub transfers: bool,
}

impl Ctr {
    /// Debian's.
    pub fn debian(node: &Node) -> Self {
        Self { program: "/usr/bin/ctr".into(), address: node.setup.socket.clone(), transfers: false }
    }

    /// The one that `WINDLASS_E2E_CTR2` names, of containerd 2.
    pub fn newer(node: &Node) -> Option<Self> {
        let program = PathBuf::from(std::env::var_os("WINDLASS_E2E_CTR2")?);
        Some(Self { program, address: node.setup.socket.clone(), transfers: true })
    }

    /// All that are here.
    pub fn all(node: &Node) -> Vec<Self> {
        [Self::debian(node)].into_iter().chain(Self::newer(node)).collect()
    }

    /// The command with its arguments in a namespace.
    pub fn command(&self, namespace: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--address").arg(&self.address).args(["--namespace", namespace]).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// What it prints where it succeeds.
    ///
    /// # Errors
    /// Its own words where it does not.
    pub fn run(&self, namespace: &str, arguments: &[&str]) -> Result<String> {
        let output = self.output(namespace, arguments)?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ctr {}: {}: {told}", arguments.join(" "), output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What it complains of where it fails.
    ///
    /// # Errors
    /// Where it succeeds.
    pub fn refused(&self, namespace: &str, arguments: &[&str]) -> Result<String> {
        let output = self.output(namespace, arguments)?;
        ensure!(!output.status.success(), "ctr {} succeeded", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Its output, whatever its end.
    pub fn output(&self, namespace: &str, arguments: &[&str]) -> Result<Output> {
        self.command(namespace, arguments).output().with_context(|| format!("run {}", self.program.display()))
    }

    /// Starts it and goes on.
    pub fn start(&self, namespace: &str, arguments: &[&str]) -> Result<Child> {
        let mut command = self.command(namespace, arguments);
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
    }
}
