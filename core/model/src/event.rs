//! What happened, told to whoever listens (containerd's topics and envelope).

use serde::{Deserialize, Serialize};

use crate::id::Namespace;
use crate::time::Timestamp;

/// One event, in its namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Grows by one with each event of this daemon's root; never used twice.
    pub sequence: u64,
    /// When it happened.
    pub timestamp: Timestamp,
    /// Whose event it is.
    pub namespace: Namespace,
    /// What happened.
    pub event: Event,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A namespace came into being.
    NamespaceCreate {
        /// Its name.
        name: String,
    },
    /// A namespace's labels changed.
    NamespaceUpdate {
        /// Its name.
        name: String,
    },
    /// A namespace went away.
    NamespaceDelete {
        /// Its name.
        name: String,
    },
    /// A blob was committed or first seen in this namespace.
    ContentCreate {
        /// Its digest.
        digest: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A blob left this namespace.
    ContentDelete {
        /// Its digest.
        digest: String,
    },
    /// An image name came into being.
    ImageCreate {
        /// The full reference.
        name: String,
    },
    /// An image name points elsewhere or has other labels.
    ImageUpdate {
        /// The full reference.
        name: String,
    },
    /// An image name went away.
    ImageDelete {
        /// The full reference.
        name: String,
    },
    /// A snapshot was prepared or viewed.
    SnapshotPrepare {
        /// Its key.
        key: String,
        /// Its parent's name, or empty.
        parent: String,
        /// The driver.
        snapshotter: String,
    },
    /// A snapshot was committed.
    SnapshotCommit {
        /// The key it had.
        key: String,
        /// The name it has.
        name: String,
        /// The driver.
        snapshotter: String,
    },
    /// A snapshot was removed.
    SnapshotRemove {
        /// Its key or name.
        key: String,
        /// The driver.
        snapshotter: String,
    },
    /// A container record was made.
    ContainerCreate {
        /// Its id.
        id: String,
    },
    /// A container record was changed.
    ContainerUpdate {
        /// Its id.
        id: String,
    },
    /// A container record was removed.
    ContainerDelete {
        /// Its id.
        id: String,
    },
    /// A sandbox record was made.
    SandboxCreate {
        /// Its id.
        id: String,
    },
    /// A sandbox booted.
    SandboxStart {
        /// Its id.
        id: String,
    },
    /// A sandbox ended (its shim went away).
    SandboxExit {
        /// Its id.
        id: String,
        /// The status of its init, or 137 where the shim was killed.
        status: u32,
        /// When.
        at: Timestamp,
    },
    /// A task was made.
    TaskCreate {
        /// The container.
        container: String,
        /// Its process.
        pid: u32,
    },
    /// A task's program runs.
    TaskStart {
        /// The container.
        container: String,
        /// Its process.
        pid: u32,
    },
    /// An exec was added.
    TaskExecAdded {
        /// The container.
        container: String,
        /// The exec.
        exec: String,
    },
    /// An exec's program runs.
    TaskExecStarted {
        /// The container.
        container: String,
        /// The exec.
        exec: String,
        /// Its process.
        pid: u32,
    },
    /// A process of a task ended.
    TaskExit {
        /// The container.
        container: String,
        /// The exec, or the container's id for its first process.
        process: String,
        /// Its process id.
        pid: u32,
        /// Exit code, or 128 plus the signal.
        status: u32,
        /// When.
        at: Timestamp,
    },
    /// The kernel killed a process of the task for memory.
    TaskOom {
        /// The container.
        container: String,
    },
    /// A task was frozen.
    TaskPaused {
        /// The container.
        container: String,
    },
    /// A task was thawed.
    TaskResumed {
        /// The container.
        container: String,
    },
    /// A task was forgotten.
    TaskDelete {
        /// The container.
        container: String,
        /// Its process.
        pid: u32,
        /// How it ended.
        status: u32,
        /// When it ended.
        at: Timestamp,
    },
}

impl Event {
    /// The topic under which containerd publishes this event.
    pub fn topic(&self) -> &'static str {
        match self {
            Self::NamespaceCreate { .. } => "/namespaces/create",
            Self::NamespaceUpdate { .. } => "/namespaces/update",
            Self::NamespaceDelete { .. } => "/namespaces/delete",
            Self::ContentCreate { .. } => "/content/create",
            Self::ContentDelete { .. } => "/content/delete",
            Self::ImageCreate { .. } => "/images/create",
            Self::ImageUpdate { .. } => "/images/update",
            Self::ImageDelete { .. } => "/images/delete",
            Self::SnapshotPrepare { .. } => "/snapshot/prepare",
            Self::SnapshotCommit { .. } => "/snapshot/commit",
            Self::SnapshotRemove { .. } => "/snapshot/remove",
            Self::ContainerCreate { .. } => "/containers/create",
            Self::ContainerUpdate { .. } => "/containers/update",
            Self::ContainerDelete { .. } => "/containers/delete",
            Self::SandboxCreate { .. } => "/sandboxes/create",
            Self::SandboxStart { .. } => "/sandboxes/start",
            Self::SandboxExit { .. } => "/sandboxes/exit",
            Self::TaskCreate { .. } => "/tasks/create",
            Self::TaskStart { .. } => "/tasks/start",
            Self::TaskExecAdded { .. } => "/tasks/exec-added",
            Self::TaskExecStarted { .. } => "/tasks/exec-started",
            Self::TaskExit { .. } => "/tasks/exit",
            Self::TaskOom { .. } => "/tasks/oom",
            Self::TaskPaused { .. } => "/tasks/paused",
            Self::TaskResumed { .. } => "/tasks/resumed",
            Self::TaskDelete { .. } => "/tasks/delete",
        }
    }
}
