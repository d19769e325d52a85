//! Tasks as the real `ctr` asks for them: a node, its `ctr`, a root file system with busybox, and a namespace that no other
//! test has, because cgroups are called after namespace and container.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::Result;

use crate::tenant::Tenant;
use crate::{Compression, Ctr, Layer, Node, eventually};

/// The bench of one test.
#[derive(Debug)]
pub struct Bench {
    /// The node.
    pub node: Node,
    /// Its `ctr`.
    pub ctr: Ctr,
    /// The root file system.
    pub rootfs: String,
    /// The namespace.
    pub namespace: String,
}

/// A root file system with busybox, unpacked in the node's folder.
///
/// # Errors
/// Where it cannot be written.
pub fn rootfs(node: &Node) -> Result<PathBuf> {
    let rootfs = node.dir().join("rootfs");
    for folder in ["proc", "dev", "sys"] {
        fs::create_dir_all(rootfs.join(folder))?;
    }
    tar::Archive::new(Layer::busybox(Compression::None)?.tar()).unpack(&rootfs)?;
    Ok(rootfs)
}

impl Bench {
    /// A new one; none where containerd is judged.
    pub async fn start() -> Result<Option<Self>> {
        let mut node = Node::start().await?;
        if node.excused("these are stories of names that ctr gives to Windlass") {
            return Ok(None);
        }
        let rootfs = rootfs(&node)?;
        node.mark().await;
        let ctr = Ctr::debian(&node);
        let (rootfs, namespace) = (rootfs.to_string_lossy().into_owned(), node.tag());
        Ok(Some(Self { node, ctr, rootfs, namespace }))
    }

    /// A client of the API in the bench's namespace.
    pub async fn tenant(&self) -> Result<Tenant> {
        // A client's namespace is for the life of its process.
        Tenant::connect(&self.node.setup.socket, Some(String::leak(self.namespace.clone()))).await
    }

    /// What `ctr` prints where it succeeds.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        self.ctr.run(&self.namespace, words)
    }

    /// What it complains of where it fails.
    pub fn refused(&self, words: &[&str]) -> Result<String> {
        self.ctr.refused(&self.namespace, words)
    }

    /// Its output, whatever its end.
    pub fn output(&self, words: &[&str]) -> Result<Output> {
        self.ctr.output(&self.namespace, words)
    }

    /// `ctr run` of a script in the background, with more flags.
    pub fn begin(&self, name: &str, flags: &[&str], script: &str) -> Result<()> {
        let mut words = vec!["run", "-d"];
        words.extend(flags);
        words.extend(["--rootfs", &self.rootfs, name, "/bin/sh", "-c", script]);
        self.run(&words).map(drop)
    }

    /// The pid and state of a task, as `ctr tasks ls` has them.
    pub fn state(&self, name: &str) -> Result<Option<(String, String)>> {
        let table = self.run(&["tasks", "ls"])?;
        let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|row| row[0] == name);
        Ok(row.map(|row| (row[1].to_owned(), row[2].to_owned())))
    }

    /// Waits for a state; gives the pid.
    pub async fn until(&self, name: &str, wanted: &str) -> Result<String> {
        let limit = Duration::from_secs(40);
        eventually(&format!("{name} is {wanted}"), limit, async || {
            self.state(name).ok().flatten().filter(|(_, state)| state == wanted).map(|(pid, _)| pid)
        })
        .await
    }

    /// Forgets an ended task and its container; gives what `ctr` says of its end.
    pub fn remove(&self, name: &str) -> Result<String> {
        let told = self.output(&["tasks", "rm", name])?;
        self.run(&["containers", "rm", name])?;
        Ok(String::from_utf8_lossy(&told.stderr).into_owned())
    }

    /// Kills a task and forgets it.
    pub async fn end(&self, name: &str) -> Result<()> {
        self.run(&["tasks", "kill", "-s", "SIGKILL", name])?;
        self.until(name, "STOPPED").await?;
        self.remove(name).map(drop)
    }
}
