//! What is left behind: compares what a node holds now with what it held when it was marked as clean.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::asked::CgroupDriver;
use crate::daemon::Flavour;
use crate::node::Node;
use crate::{kernel, systemd};

/// Everything that a pod may leave behind, as readable lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings(pub BTreeSet<String>);

/// The directories in which a daemon keeps one entry per pod, container, snapshot or ingest, and how deep those lie.
fn rooms(node: &Node) -> Vec<(PathBuf, usize)> {
    let (root, state) = (node.setup.root.clone(), node.setup.state.clone());
    match node.setup.flavour {
        Flavour::Windlass => vec![
            (state.join("bundles"), 2),
            (state.join("netns"), 1),
            (state.join("userns"), 1),
            (root.join("snapshots/overlay"), 1),
            (root.join("snapshots/native"), 1),
            (root.join("content/ingest"), 1),
        ],
        Flavour::Containerd => vec![
            (state.join("io.containerd.runtime.v2.task"), 2),
            (state.join("io.containerd.grpc.v1.cri"), 2),
            (state.join("netns"), 1),
            (state.join("io.containerd.grpc.v1.cri/netns"), 1),
            (root.join("io.containerd.grpc.v1.cri"), 2),
            (root.join("io.containerd.snapshotter.v1.overlayfs/snapshots"), 1),
            (root.join("io.containerd.content.v1.content/ingest"), 1),
        ],
    }
}

impl Holdings {
    /// What the node holds now. Records are asked of the daemon, if it answers.
    pub async fn of(node: &Node) -> Self {
        let mut held = BTreeSet::new();
        let tag = node.tag();
        let own = [node.daemon.pid(), node.registry.pid()];
        let foreign = |(pid, command): &(u32, String)| !own.contains(pid) && !command.starts_with("strace ");
        for (pid, command) in kernel::processes_of(&tag).into_iter().filter(foreign) {
            held.insert(format!("process {pid} {command}"));
        }
        held.extend(kernel::mounts_below(node.dir()).iter().map(|point| format!("mount {}", point.display())));
        for pod in &node.cgroup_parents() {
            held.extend(kernel::cgroups_below(pod).iter().map(|path| format!("cgroup {}", path.display())));
        }
        if node.setup.cgroup_driver == CgroupDriver::Systemd {
            held.extend(systemd::units(&tag).iter().map(|unit| format!("unit {unit}")));
        }
        held.extend(node.cni.ports().iter().map(|port| format!("veth {port}")));
        held.extend(node.cni.reservations().iter().map(|address| format!("reservation {address}")));
        held.extend(node.cni.rules().iter().map(|rule| format!("iptables {rule}")));
        for (dir, depth) in rooms(node) {
            held.extend(kernel::entries_at(&dir, depth).iter().map(|path| format!("path {}", path.display())));
        }
        let logs = node.dir().join("logs");
        let open = kernel::descriptors(node.daemon.pid()).into_iter().filter(|path| path.starts_with(&logs));
        held.extend(open.map(|path| format!("descriptor {}", path.display())));
        held.extend(records(node).await);
        Self(held)
    }

    /// What is held now and was not held then.
    pub fn beyond(&self, then: &Self) -> Vec<String> {
        self.0.difference(&then.0).cloned().collect()
    }
}

async fn records(node: &Node) -> Vec<String> {
    let mut lines = Vec::new();
    for pod in node.cri.pods(None).await.unwrap_or_default() {
        lines.push(format!("pod record {} {}", pod.id, pod.metadata.unwrap_or_default().name));
    }
    for container in node.cri.containers(None).await.unwrap_or_default() {
        lines.push(format!("container record {}", container.id));
    }
    lines
}

/// Fails, naming what is left, unless the node holds within `limit` nothing beyond what it held then.
pub async fn assert_none(node: &Node, then: &Holdings, limit: Duration) -> Result<()> {
    let mut left = Vec::new();
    let clean = crate::eventually("clean", limit, async || {
        left = Holdings::of(node).await.beyond(then);
        left.is_empty().then_some(())
    });
    let clean = clean.await;
    clean.map_err(|_| anyhow!("left behind:\n  {}", left.join("\n  ")))
}
