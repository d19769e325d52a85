//! The task service of any shim, asked by whichever name it has: versions 2 and 3 differ in nothing else.

use containerd_shim_protos::api::{
    CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest,
    DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest,
    ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
    StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use ttrpc::asynchronous::Client;
use ttrpc::context::Context;
use windlass_model::{Error, Result};

/// A client of a shim's task service.
#[derive(Clone)]
pub struct TaskPort {
    client: Client,
    service: &'static str,
}

impl TaskPort {
    /// The service of `version` on a connection.
    ///
    /// # Errors
    /// [`windlass_model::Kind::Unimplemented`] for a version that is neither 2 nor 3.
    pub fn new(client: Client, version: u32) -> Result<Self> {
        let service = match version {
            2 => "containerd.task.v2.Task",
            3 => "containerd.task.v3.Task",
            other => return Err(Error::unimplemented(format!("task service {other} of a shim"))),
        };
        Ok(Self { client, service })
    }
}

/// One method for each of the service's that the daemon calls.
macro_rules! verbs {
    ($($name:ident($route:literal, $request:ty) -> $answer:ty;)*) => {
        impl TaskPort {
            $(
                #[doc = concat!("Calls `", $route, "`.")]
                ///
                /// # Errors
                /// What the shim answers, or that the connection broke.
                pub async fn $name(&self, context: Context, request: &$request) -> ttrpc::Result<$answer> {
                    let mut answer = <$answer>::default();
                    ttrpc::async_client_request!(self, context, request, self.service, $route, answer);
                }
            )*
        }
    };
}

verbs! {
    create("Create", CreateTaskRequest) -> CreateTaskResponse;
    start("Start", StartRequest) -> StartResponse;
    state("State", StateRequest) -> StateResponse;
    kill("Kill", KillRequest) -> Empty;
    exec("Exec", ExecProcessRequest) -> Empty;
    wait("Wait", WaitRequest) -> WaitResponse;
    delete("Delete", DeleteRequest) -> DeleteResponse;
    pids("Pids", PidsRequest) -> PidsResponse;
    close_io("CloseIO", CloseIORequest) -> Empty;
    resize_pty("ResizePty", ResizePtyRequest) -> Empty;
    pause("Pause", PauseRequest) -> Empty;
    resume("Resume", ResumeRequest) -> Empty;
    update("Update", UpdateTaskRequest) -> Empty;
    stats("Stats", StatsRequest) -> StatsResponse;
    connect("Connect", ConnectRequest) -> ConnectResponse;
    shutdown("Shutdown", ShutdownRequest) -> Empty;
}
