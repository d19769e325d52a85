//! What happened, told to whoever listens (containerd's topics and envelope).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::{Namespace, is_identifier};
use crate::mount::Mount;
use crate::snapshotter::Labels;
use crate::time::Timestamp;
use crate::typed::TypedBytes;

/// The most bytes that the topic of a published event may have.
const MAX_TOPIC: usize = 512;

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
        /// Its labels.
        #[serde(default, skip_serializing_if = "Labels::is_empty")]
        labels: Labels,
    },
    /// A namespace's labels changed.
    NamespaceUpdate {
        /// Its name.
        name: String,
        /// Its labels.
        #[serde(default, skip_serializing_if = "Labels::is_empty")]
        labels: Labels,
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
        /// Its labels.
        #[serde(default, skip_serializing_if = "Labels::is_empty")]
        labels: Labels,
    },
    /// An image name points elsewhere or has other labels.
    ImageUpdate {
        /// The full reference.
        name: String,
        /// Its labels.
        #[serde(default, skip_serializing_if = "Labels::is_empty")]
        labels: Labels,
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
        /// The name of its image; may be empty.
        #[serde(default)]
        image: String,
        /// The name of its runtime.
        #[serde(default)]
        runtime: String,
        /// Options for that runtime.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        options: Option<TypedBytes>,
    },
    /// A container record was changed.
    ContainerUpdate {
        /// Its id.
        id: String,
        /// The name of its image; may be empty.
        #[serde(default)]
        image: String,
        /// Its labels.
        #[serde(default, skip_serializing_if = "Labels::is_empty")]
        labels: Labels,
        /// The key of its root file system; may be empty.
        #[serde(default)]
        snapshot_key: String,
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
        /// What it was made from.
        #[serde(default)]
        setup: Box<TaskSetup>,
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
    /// A task was written to a checkpoint.
    TaskCheckpointed {
        /// The container.
        container: String,
        /// Where: a path, or the digest of a blob.
        checkpoint: String,
    },
    /// A process of a task was forgotten.
    TaskDelete {
        /// The container.
        container: String,
        /// The exec; empty for the first process.
        #[serde(default)]
        process: String,
        /// Its process.
        pid: u32,
        /// How it ended.
        status: u32,
        /// When it ended.
        at: Timestamp,
    },
    /// What a client or a foreign shim published; it passes through as it is.
    Opaque {
        /// The topic.
        topic: String,
        /// The message.
        message: TypedBytes,
    },
}

/// What a task was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskSetup {
    /// The folder of its bundle.
    pub bundle: String,
    /// The mounts that make its root file system.
    pub rootfs: Vec<Mount>,
    /// Its input, as the client named it.
    pub stdin: String,
    /// Its output.
    pub stdout: String,
    /// Its errors.
    pub stderr: String,
    /// It has a terminal.
    pub terminal: bool,
    /// The checkpoint it was restored from; empty where it was not.
    pub checkpoint: String,
}

impl Event {
    /// The topic under which containerd publishes this event.
    pub fn topic(&self) -> &str {
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
            Self::TaskCheckpointed { .. } => "/tasks/checkpointed",
            Self::TaskDelete { .. } => "/tasks/delete",
            Self::Opaque { topic, .. } => topic,
        }
    }
}

/// The most bytes that the message of a published event may have: listeners keep thousands of events.
pub const MAX_PUBLISHED: usize = 16 * 1024;

/// Checks what a client or a foreign shim publishes: `topic` is identifiers, each with a `/` before it, and its message
/// of `bytes` bytes is not too long.
///
/// # Errors
/// [`crate::Kind::InvalidArgument`].
pub fn check_published(topic: &str, bytes: usize) -> Result<()> {
    let good =
        topic.len() <= MAX_TOPIC && topic.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_identifier));
    if !good {
        let start: String = topic.chars().take(64).collect();
        return Err(Error::invalid(format!("event topic {start:?} is not identifiers, each with a '/' before it")));
    }
    if bytes > MAX_PUBLISHED {
        return Err(Error::invalid(format!("an event of {bytes} bytes: at most {MAX_PUBLISHED} are passed on")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_an_earlier_version_are_read() {
        let text = r#"{"type":"task_create","container":"c","pid":7}"#;
        let event: Event = serde_json::from_str(text).expect("an old event");
        assert_eq!(event, Event::TaskCreate { container: "c".into(), pid: 7, setup: Box::default() });
        assert_eq!(event.topic(), "/tasks/create");
    }

    #[test]
    fn topics_are_checked_as_containerd_does() {
        for good in ["/a", "/tasks/exit", "/a/b-c/d.e"] {
            check_published(good, MAX_PUBLISHED).expect(good);
        }
        for bad in ["", "/", "a", "tasks/exit", "//a", "/a/", "/a b", "/a/../b"] {
            assert!(check_published(bad, 0).is_err(), "{bad}");
        }
        assert!(check_published(&format!("/{}", "a/".repeat(300)), 0).is_err());
        assert!(check_published("/a", MAX_PUBLISHED + 1).is_err());
    }

    #[test]
    fn an_opaque_event_keeps_its_bytes() {
        let message = TypedBytes { type_url: "x.Y".into(), value: vec![0, 255] };
        let event = Event::Opaque { topic: "/x/y".into(), message };
        let text = serde_json::to_string(&event).expect("json");
        assert_eq!(serde_json::from_str::<Event>(&text).expect("json"), event);
        assert_eq!(event.topic(), "/x/y");
    }
}
