//! Running things: sandboxes, tasks and execs, each in a shim that outlives the daemon.
//!
//! ```text
//! <state>/bundles/<namespace>/<sandbox>/     bootstrap.json shim.pid s.sock outbox/ shm/ log    (written by the shim)
//! <state>/bundles/<namespace>/<container>/   config.json rootfs/ exec/ sandbox exit.json        (written here)
//! ```
//!
//! `sandbox` names the shim that a container lives in, so that a new daemon needs no records to find it. `exit.json` says
//! how a task ended: where its shim is no more and cannot be asked, and where that was told already, lest the next daemon
//! tells it again. A shim of another's making has its log in a FIFO of that name. [`Roster`] has one owner task for each
//! shim; [`Tasks`] is one namespace's view of it.

mod attach;
mod bundle;
mod client;
mod death;
mod events_server;
mod exec;
mod exec_sync;
mod launch;
mod named;
mod owner;
mod process;
mod roster;
mod sandbox;
mod shim_log;
mod streams;
mod table;
mod task;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use windlass_model::process::{Exit, State};
use windlass_model::{Id, Mount, Timestamp};

use crate::TypedBytes;

pub use attach::Attached;
pub use events_server::serve_events;
pub use exec::Running;
pub use roster::Roster;
pub use streams::{Output, TaskStreams};
pub use task::Tasks;

/// How shims are started and what they are told.
#[derive(Clone, Debug)]
pub struct ShimConfig {
    /// Our shim's executable.
    pub shim: PathBuf,
    /// The socket where the daemon serves [`serve_events`].
    pub events_address: PathBuf,
    /// The socket where the daemon serves gRPC.
    pub api_address: PathBuf,
}

/// What a sandbox needs to come up.
#[derive(Clone, Debug)]
pub struct BootSandbox {
    /// Its id.
    pub id: Id,
    /// Another shim v2, by runtime name (`io.containerd.kata.v2`) or path; `None`: ours.
    pub shim: Option<String>,
    /// The pinned network namespace; `None`: the host's.
    pub netns: Option<PathBuf>,
    /// What the shim makes for the containers to share.
    pub options: PodOptions,
}

/// What our shim makes for the containers of a pod to share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodOptions {
    /// The host name, set in a uts namespace of its own.
    pub hostname: String,
    /// Make an ipc namespace; false: the host's.
    pub new_ipc: bool,
    /// Make a uts namespace; false: the host's.
    pub new_uts: bool,
    /// One pid namespace for all containers.
    pub shared_pid: bool,
    /// Kernel parameters set inside the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// The pod's cgroup, relative to the hierarchy's root, that the shim joins; empty: stay where it is.
    pub cgroup: String,
    /// `cgroup` is in systemd's words (`slice:prefix:name`) and systemd makes it.
    pub systemd_cgroup: bool,
    /// `oom_score_adj` of the shim itself.
    pub oom_score_adj: i32,
    /// Bytes of the tmpfs that containers share as `/dev/shm`, at `<bundle>/shm`; 0: none.
    pub shm_bytes: u64,
    /// The OCI runtime's executable; `None`: the one built into the shim.
    pub runtime_binary: Option<PathBuf>,
    /// The pinned user namespace that owns what the shim makes; `None`: the host's.
    pub userns: Option<PathBuf>,
    /// User and group of that tmpfs.
    pub shm_owner: (u32, u32),
}

/// A sandbox that came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Booted {
    /// `/proc/<pid>/ns/{ipc,uts,net}`, and `pid` where it is shared, are the pod's namespaces.
    pub pid: u32,
    /// When.
    pub created_at: Timestamp,
}

/// A sandbox as a client of the containerd API wants it; what its shim makes of that is the shim's.
#[derive(Clone, Debug)]
pub struct CreateSandbox {
    /// Its id.
    pub id: Id,
    /// The shim, by runtime name or path; `None`: ours.
    pub shim: Option<String>,
    /// A specification, JSON, which the shim finds in its bundle as `config.json`.
    pub spec: Option<Vec<u8>>,
    /// The mounts that make its root file system, where it has one.
    pub rootfs: Vec<Mount>,
    /// What the shim is told, in words of its own.
    pub options: Option<TypedBytes>,
    /// The network namespace; empty: none.
    pub netns: String,
    /// What else the shim is told.
    pub annotations: BTreeMap<String, String>,
}

/// What a shim tells of its sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxInfo {
    /// `/proc/<pid>/ns` has its namespaces; 0 where it was not started.
    pub pid: u32,
    /// `SANDBOX_READY` or `SANDBOX_NOTREADY`, or what a shim of another's making says.
    pub state: String,
    /// What helps to find a fault, by name.
    pub info: BTreeMap<String, String>,
    /// When it was started.
    pub created_at: Timestamp,
    /// When it ended.
    pub exited_at: Timestamp,
    /// What the shim says beside that.
    pub extra: Option<TypedBytes>,
}

/// What a task needs to be made.
#[derive(Clone, Debug)]
pub struct CreateTask {
    /// The container.
    pub id: Id,
    /// The sandbox whose shim runs it; `None`: a shim of its own.
    pub sandbox: Option<Id>,
    /// The OCI runtime specification, JSON.
    pub spec: Vec<u8>,
    /// The mounts that make the root file system, for the shim to perform.
    pub rootfs: Vec<Mount>,
    /// Give the process a terminal.
    pub terminal: bool,
    /// Where stdin comes from: empty, a path of a FIFO, or a URI (`attach://`, `attach://once`).
    pub stdin: String,
    /// Where stdout goes to: empty, a path of a FIFO, or a URI (`cri-log://…`, `attach://`).
    pub stdout: String,
    /// Where stderr goes to.
    pub stderr: String,
    /// The OCI runtime.
    pub runtime: TaskRuntime,
}

/// How the OCI runtime of a task is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskRuntime {
    /// Another shim v2, by runtime name or path, for a task with a shim of its own; `None`: ours.
    pub shim: Option<String>,
    /// The OCI runtime's executable; `None`: the one built into the shim.
    pub binary: Option<PathBuf>,
    /// The specification's cgroup is in systemd's words and systemd makes it.
    pub systemd_cgroup: bool,
    /// What a client tells the shim itself, in place of the two above.
    pub options: Option<TypedBytes>,
}

/// What is known about a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskState {
    /// Where it is in its life.
    pub state: State,
    /// Its first process; 0 where that is not known.
    pub pid: u32,
    /// How it ended, where it did.
    pub exit: Option<Exit>,
}

/// What a client is told of a container's first process, or of an exec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessInfo {
    /// The container's id, or the exec's.
    pub id: String,
    /// Where it is in its life.
    pub state: TaskState,
    /// Where its input comes from, as it was asked for; empty where that is not known any more.
    pub stdin: String,
    /// Where its output goes.
    pub stdout: String,
    /// Where its errors go.
    pub stderr: String,
    /// It has a terminal.
    pub terminal: bool,
}

/// A process that runs in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id on the host.
    pub pid: u32,
    /// What the shim says of it.
    pub details: Option<TypedBytes>,
}

/// A program to run in a container under a name that the client gives, with streams that it looks after.
#[derive(Clone, Debug)]
pub struct AddExec {
    /// The container.
    pub container: Id,
    /// Its name, unique in the container.
    pub id: Id,
    /// The OCI `Process`, JSON.
    pub process: Vec<u8>,
    /// Give it a terminal.
    pub terminal: bool,
    /// Where stdin comes from, as in [`CreateTask`].
    pub stdin: String,
    /// Where stdout goes to.
    pub stdout: String,
    /// Where stderr goes to.
    pub stderr: String,
}

/// A program to run in a container, with streams to whoever asks for it.
#[derive(Clone, Debug)]
pub struct StartExec {
    /// The container.
    pub container: Id,
    /// The OCI `Process`, JSON.
    pub process: Vec<u8>,
    /// Give it a terminal; `process` must say so too.
    pub terminal: bool,
    /// It gets input; otherwise that is at its end.
    pub stdin: bool,
    /// Its output is wanted.
    pub stdout: bool,
    /// Its errors are wanted; never with a terminal.
    pub stderr: bool,
    /// How long it may take to end by itself, told to hang up, when nobody wants it any more; in whole seconds.
    pub grace: Duration,
}

/// Which of a container's own streams are wanted.
#[derive(Clone, Debug)]
pub struct AttachTask {
    /// The container.
    pub container: Id,
    /// A way to its input.
    pub stdin: bool,
    /// Copies of its output, or of its terminal's.
    pub stdout: bool,
    /// Copies of its errors; never with a terminal.
    pub stderr: bool,
}

/// A program to run in a container to its end.
#[derive(Clone, Debug)]
pub struct ExecSync {
    /// The container.
    pub container: Id,
    /// The OCI `Process`, JSON.
    pub process: Vec<u8>,
    /// After this time the program is killed and the answer is `DeadlineExceeded`; `None`: never.
    pub timeout: Option<Duration>,
    /// How many bytes of each stream are kept; what comes after is read and dropped.
    pub limit: usize,
}

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// The first bytes of its stdout.
    pub stdout: Vec<u8>,
    /// The first bytes of its stderr.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit: Exit,
}

#[cfg(test)]
mod tests;
