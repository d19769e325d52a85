//! The words between daemon and shim: containerd's shim v2 services over ttrpc, our extension service, and the files
//! that both sides read.
//!
//! A shim serves [`task`] and [`sandbox`] and, where it is ours, [`extension`]. It calls [`events`], which the daemon
//! serves. [`bootstrap`] is what a shim prints when it has started; [`outbox`] is where it keeps what the daemon has
//! not acknowledged; [`stdio`] is how a task's output is described. [`TaskPort`] speaks to shims of others as well.

pub mod bootstrap;
pub mod convert;
pub mod extension;
pub mod outbox;
mod port;
pub mod stdio;
pub mod words;

pub use port::TaskPort;
pub use stdio::Stdio;

pub use protobuf;
pub use ttrpc;

/// The task service, version 3: messages, the async client and the trait that a shim implements.
pub mod task {
    pub use containerd_shim_protos::api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
        DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, Mount, PauseRequest, PidsRequest,
        PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse,
        StateRequest, StateResponse, StatsRequest, StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
    };
    pub use containerd_shim_protos::shim::oci::{Options, ProcessDetails};
    pub use containerd_shim_protos::shim_async::{Task, TaskClient, create_task};
}

/// The sandbox service, version 1: messages, the async client and the trait that a shim implements.
pub mod sandbox {
    pub use containerd_shim_protos::sandbox_api::{
        CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest, PlatformResponse,
        SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest, SandboxStatusResponse,
        ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest, StartSandboxResponse, StopSandboxRequest,
        StopSandboxResponse, WaitSandboxRequest, WaitSandboxResponse,
    };
    pub use containerd_shim_protos::sandbox_async::{Sandbox, SandboxClient, create_sandbox};
    pub use containerd_shim_protos::types::platform::Platform;
}

/// The events service that the daemon serves and shims call, and the messages inside its envelopes.
pub mod events {
    pub use containerd_shim_protos::events::sandbox::SandboxExit;
    pub use containerd_shim_protos::events::task::{
        TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM,
        TaskPaused, TaskResumed, TaskStart,
    };
    pub use containerd_shim_protos::shim::event::Envelope;
    pub use containerd_shim_protos::shim::events::ForwardRequest;
    pub use containerd_shim_protos::shim_async::{Events, EventsClient, create_events};
}

/// What `Stats` answers: cgroup metrics, one message for each version of cgroups.
pub mod metrics {
    pub use containerd_shim_protos::cgroups::metrics as v1;
    pub use containerd_shim_protos::cgroups_v2::metrics as v2;
}
