//! The services over ttrpc: each request becomes a letter to the pod's mailbox, and the answer comes back with it.

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use windlass_model::process::Exit;
use windlass_model::{Error, Result};
use windlass_wire::extension::{
    AttachRequest, AttachResponse, EndExecsRequest, EndExecsResponse, Extension, ReopenLogRequest, ReopenLogResponse,
};
use windlass_wire::protobuf::MessageField;
use windlass_wire::sandbox::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, Platform, PlatformRequest,
    PlatformResponse, Sandbox, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest, StartSandboxResponse,
    StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest, WaitSandboxResponse,
};
use windlass_wire::task::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse,
    StatsRequest, StatsResponse, Task, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use windlass_wire::ttrpc::r#async::TtrpcContext;
use windlass_wire::{convert, ttrpc};

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T>>;

/// A request and where its answer goes.
#[derive(Debug)]
pub enum Letter {
    /// Makes a container and its first process.
    Create(Box<CreateTaskRequest>, Reply<CreateTaskResponse>),
    /// Starts a process.
    Start(StartRequest, Reply<StartResponse>),
    /// Asks for a process's state.
    State(StateRequest, Reply<StateResponse>),
    /// Sends a signal.
    Kill(KillRequest, Reply<Empty>),
    /// Adds an exec.
    Exec(Box<ExecProcessRequest>, Reply<Empty>),
    /// Waits for a process's end.
    Wait(WaitRequest, Reply<Exit>),
    /// Forgets a process that has ended.
    Delete(DeleteRequest, Reply<DeleteResponse>),
    /// Lists a container's processes.
    Pids(PidsRequest, Reply<PidsResponse>),
    /// Closes a process's input.
    CloseIo(CloseIORequest, Reply<Empty>),
    /// Changes the size of a terminal.
    ResizePty(ResizePtyRequest, Reply<Empty>),
    /// Freezes a container.
    Pause(PauseRequest, Reply<Empty>),
    /// Thaws a container.
    Resume(ResumeRequest, Reply<Empty>),
    /// Changes a container's limits.
    Update(UpdateTaskRequest, Reply<Empty>),
    /// Asks what a container uses.
    Stats(StatsRequest, Reply<StatsResponse>),
    /// Asks for process ids.
    Connect(ConnectRequest, Reply<ConnectResponse>),
    /// Ends a shim that has nothing to do.
    Shutdown(ShutdownRequest, Reply<Empty>),
    /// Opens a container's log anew.
    ReopenLog(ReopenLogRequest, Reply<ReopenLogResponse>),
    /// Attaches a client to a container.
    Attach(Box<AttachRequest>, Reply<AttachResponse>),
    /// Ends execs that nobody asks for any more.
    EndExecs(EndExecsRequest, Reply<EndExecsResponse>),
    /// Says what the pod is to be.
    CreateSandbox(Box<CreateSandboxRequest>, Reply<CreateSandboxResponse>),
    /// Makes the pod's namespaces.
    StartSandbox(StartSandboxRequest, Reply<StartSandboxResponse>),
    /// Ends all that runs in the pod.
    StopSandbox(StopSandboxRequest, Reply<StopSandboxResponse>),
    /// Waits for the pod's end.
    WaitSandbox(WaitSandboxRequest, Reply<Exit>),
    /// Asks for the pod's state.
    SandboxStatus(SandboxStatusRequest, Reply<SandboxStatusResponse>),
    /// Ends the shim.
    ShutdownSandbox(ShutdownSandboxRequest, Reply<ShutdownSandboxResponse>),
    /// Asks what the pod uses.
    SandboxMetrics(SandboxMetricsRequest, Reply<SandboxMetricsResponse>),
}

/// The services' side of the mailbox.
#[derive(Clone, Debug)]
pub struct Door(mpsc::UnboundedSender<Letter>);

impl Door {
    /// All services behind one door.
    pub fn services(
        mailbox: mpsc::UnboundedSender<Letter>,
    ) -> std::collections::HashMap<String, ttrpc::r#async::Service> {
        let door = Arc::new(Self(mailbox));
        let mut services = windlass_wire::task::create_task(door.clone());
        services.extend(windlass_wire::sandbox::create_sandbox(door.clone()));
        services.extend(windlass_wire::extension::create_extension(door));
        services
    }

    async fn ask<T>(&self, letter: impl FnOnce(Reply<T>) -> Letter + Send) -> ttrpc::Result<T> {
        let over = || Error::unavailable("the shim is ending");
        let (reply, answer) = oneshot::channel();
        self.0.send(letter(reply)).map_err(|_| convert::error(&over()))?;
        answer.await.unwrap_or_else(|_| Err(over())).map_err(|error| convert::error(&error))
    }
}

/// One line for each request that is only passed on, in the form that `async_trait` gives to methods.
macro_rules! forward {
    ($($name:ident($request:ty) -> $answer:ty = $letter:expr;)*) => {
        $(fn $name<'life0, 'life1, 'async_trait>(
            &'life0 self,
            _: &'life1 TtrpcContext,
            request: $request,
        ) -> Pin<Box<dyn Future<Output = ttrpc::Result<$answer>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            'life1: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(self.ask(move |reply| ($letter)(request.into(), reply)))
        })*
    };
}

#[async_trait]
impl Task for Door {
    forward! {
        create(CreateTaskRequest) -> CreateTaskResponse = Letter::Create;
        start(StartRequest) -> StartResponse = Letter::Start;
        state(StateRequest) -> StateResponse = Letter::State;
        kill(KillRequest) -> Empty = Letter::Kill;
        exec(ExecProcessRequest) -> Empty = Letter::Exec;
        delete(DeleteRequest) -> DeleteResponse = Letter::Delete;
        pids(PidsRequest) -> PidsResponse = Letter::Pids;
        close_io(CloseIORequest) -> Empty = Letter::CloseIo;
        resize_pty(ResizePtyRequest) -> Empty = Letter::ResizePty;
        pause(PauseRequest) -> Empty = Letter::Pause;
        resume(ResumeRequest) -> Empty = Letter::Resume;
        update(UpdateTaskRequest) -> Empty = Letter::Update;
        stats(StatsRequest) -> StatsResponse = Letter::Stats;
        connect(ConnectRequest) -> ConnectResponse = Letter::Connect;
        shutdown(ShutdownRequest) -> Empty = Letter::Shutdown;
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        let exit = self.ask(|reply| Letter::Wait(request, reply)).await?;
        Ok(WaitResponse { exit_status: exit.status, exited_at: convert::timestamp(exit.at), ..WaitResponse::default() })
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        Err(convert::error(&Error::unimplemented("checkpoints")))
    }
}

#[async_trait]
impl Sandbox for Door {
    forward! {
        create_sandbox(CreateSandboxRequest) -> CreateSandboxResponse = Letter::CreateSandbox;
        start_sandbox(StartSandboxRequest) -> StartSandboxResponse = Letter::StartSandbox;
        stop_sandbox(StopSandboxRequest) -> StopSandboxResponse = Letter::StopSandbox;
        sandbox_status(SandboxStatusRequest) -> SandboxStatusResponse = Letter::SandboxStatus;
        shutdown_sandbox(ShutdownSandboxRequest) -> ShutdownSandboxResponse = Letter::ShutdownSandbox;
        sandbox_metrics(SandboxMetricsRequest) -> SandboxMetricsResponse = Letter::SandboxMetrics;
    }

    async fn wait_sandbox(&self, _: &TtrpcContext, request: WaitSandboxRequest) -> ttrpc::Result<WaitSandboxResponse> {
        let exit = self.ask(|reply| Letter::WaitSandbox(request, reply)).await?;
        Ok(WaitSandboxResponse {
            exit_status: exit.status,
            exited_at: convert::timestamp(exit.at),
            ..WaitSandboxResponse::default()
        })
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, _: PingRequest) -> ttrpc::Result<PingResponse> {
        Ok(PingResponse::default())
    }

    async fn platform(&self, _: &TtrpcContext, _: PlatformRequest) -> ttrpc::Result<PlatformResponse> {
        let host = windlass_model::Platform::host();
        let platform =
            Platform { os: host.os, architecture: host.architecture, variant: host.variant, ..Platform::default() };
        Ok(PlatformResponse { platform: MessageField::some(platform), ..PlatformResponse::default() })
    }
}

#[async_trait]
impl Extension for Door {
    forward! {
        reopen_log(ReopenLogRequest) -> ReopenLogResponse = Letter::ReopenLog;
        attach(AttachRequest) -> AttachResponse = Letter::Attach;
        end_execs(EndExecsRequest) -> EndExecsResponse = Letter::EndExecs;
    }
}
