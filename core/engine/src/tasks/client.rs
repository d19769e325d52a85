//! One connection to one shim: every call has a time-out, and the end of the connection is told to whoever waits for it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use windlass_model::process::Exit;
use windlass_model::{Context, Error, Id, Kind, Namespace, Result};
use windlass_wire::bootstrap::Bootstrap;
use windlass_wire::extension::{AttachRequest, EndExecsRequest, ExtensionClient, ReopenLogRequest};
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::sandbox::SandboxClient;
use windlass_wire::task::{
    CloseIORequest, ConnectRequest, CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, ProcessInfo as ProcessInfoWord, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
    StateRequest, StatsRequest, UpdateTaskRequest, WaitRequest,
};
use windlass_wire::ttrpc::asynchronous::{Client as Transport, transport::Socket};
use windlass_wire::ttrpc::context::Context as Metadata;
use windlass_wire::{TaskPort, convert, ttrpc, words};

use super::{Member, ProcessInfo, TaskState};
use crate::TypedBytes;

mod sandbox;

/// For calls that a shim answers from its memory.
pub(super) const QUICK: Duration = Duration::from_secs(5);
/// For calls that run an OCI runtime.
pub(super) const SLOW: Duration = Duration::from_secs(60);
/// For the end of all processes of a pod.
pub(super) const STOP: Duration = Duration::from_secs(15);

/// A connection to a shim; clones share it and may call at the same time.
#[derive(Clone)]
pub(super) struct Client {
    task: TaskPort,
    sandbox: SandboxClient,
    extension: ExtensionClient,
    /// The sandbox's process, once it is known; it never changes while the connection stands.
    pid: Arc<OnceLock<u32>>,
    namespace: Namespace,
}

/// Ends when the connection does. The shim itself may still live.
#[derive(Debug)]
pub(super) struct Closed(oneshot::Receiver<Infallible>);

/// A socket that is dropped with the connection, and the sender in it too.
struct Watched {
    stream: UnixStream,
    _closed: oneshot::Sender<Infallible>,
}

impl Closed {
    pub(super) async fn wait(&mut self) {
        // The sender is never used; it can only be dropped.
        let _ = (&mut self.0).await;
    }
}

impl Client {
    /// Connects to the address that a shim answered.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where nothing listens there: that shim is dead. [`Kind::DeadlineExceeded`] where the
    /// connection is not taken. [`Kind::Unimplemented`] for a shim that speaks neither task service 2 nor 3 over ttrpc.
    pub(super) async fn connect(bootstrap: &Bootstrap, namespace: &Namespace) -> Result<(Self, Closed)> {
        let Bootstrap { version, address, protocol } = bootstrap;
        if !matches!(version, 2 | 3) || protocol != "ttrpc" {
            let what =
                format!("the shim at {address} speaks task service {version} over {protocol}, not 2 or 3 over ttrpc");
            return Err(Error::unimplemented(what));
        }
        let path = bootstrap.socket().ok_or_else(|| Error::unimplemented(format!("shim address {address:?}")))?;
        let stream = match timeout(QUICK, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if is_dead(&error) => {
                return Err(Error::with_source(Kind::NotFound, format!("no shim listens on {address}"), error));
            }
            Ok(Err(error)) => return Err(error).context(|| format!("connect to the shim on {address}")),
            Err(_) => return Err(Error::deadline(format!("the shim on {address} takes no connection"))),
        };
        let (sender, closed) = oneshot::channel();
        let transport = Transport::new(Socket::new(Watched { stream, _closed: sender }));
        let client = Self {
            task: TaskPort::new(transport.clone(), *version)?,
            sandbox: SandboxClient::new(transport.clone()),
            extension: ExtensionClient::new(transport),
            pid: Arc::default(),
            namespace: namespace.clone(),
        };
        Ok((client, Closed(closed)))
    }

    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::default();
        metadata.set(words::NAMESPACE_HEADER.into(), vec![self.namespace.to_string()]);
        metadata
    }

    /// Ends the shim of a container that has one of its own.
    pub(super) async fn shutdown_task(&self, id: &Id) -> Result<()> {
        let request = ShutdownRequest { id: id.to_string(), now: true, ..ShutdownRequest::default() };
        call(QUICK, "Shutdown", self.task.shutdown(self.metadata(), &request)).await.map(drop)
    }

    /// The shim's own process, as it says.
    pub(super) async fn shim_pid(&self, id: &Id) -> Result<u32> {
        let request = ConnectRequest { id: id.to_string(), ..ConnectRequest::default() };
        call(QUICK, "Connect", self.task.connect(self.metadata(), &request)).await.map(|answer| answer.shim_pid)
    }

    pub(super) async fn create(&self, request: &CreateTaskRequest) -> Result<u32> {
        call(SLOW, "Create", self.task.create(self.metadata(), request)).await.map(|answer| answer.pid)
    }

    /// Starts a task, or the exec of that name; answers the process.
    pub(super) async fn start(&self, id: &Id, exec: &str) -> Result<u32> {
        let request = StartRequest { id: id.to_string(), exec_id: exec.to_owned(), ..StartRequest::default() };
        call(SLOW, "Start", self.task.start(self.metadata(), &request)).await.map(|answer| answer.pid)
    }

    pub(super) async fn state(&self, id: &Id) -> Result<TaskState> {
        self.describe(id, "").await.map(|info| info.state)
    }

    /// What a task's first process is and where its streams go, or the exec of that name.
    pub(super) async fn describe(&self, id: &Id, exec: &str) -> Result<ProcessInfo> {
        let request = StateRequest { id: id.to_string(), exec_id: exec.to_owned(), ..StateRequest::default() };
        let answer = call(QUICK, "State", self.task.state(self.metadata(), &request)).await?;
        let exit = Exit { status: answer.exit_status, at: convert::from_timestamp(&answer.exited_at) };
        let state = TaskState {
            state: convert::from_state(answer.status),
            pid: answer.pid,
            exit: exit.at.happened().then_some(exit),
        };
        Ok(ProcessInfo {
            id: if exec.is_empty() { id.to_string() } else { exec.to_owned() },
            state,
            stdin: answer.stdin,
            stdout: answer.stdout,
            stderr: answer.stderr,
            terminal: answer.terminal,
        })
    }

    pub(super) async fn kill(&self, id: &Id, exec: &str, signal: u32, all: bool) -> Result<()> {
        let request =
            KillRequest { id: id.to_string(), exec_id: exec.to_owned(), signal, all, ..KillRequest::default() };
        call(SLOW, "Kill", self.task.kill(self.metadata(), &request)).await.map(drop)
    }

    /// Forgets an ended task, or the ended exec of that name; answers its process and how it ended.
    pub(super) async fn delete(&self, id: &Id, exec: &str) -> Result<(u32, Exit)> {
        let request = DeleteRequest { id: id.to_string(), exec_id: exec.to_owned(), ..DeleteRequest::default() };
        let answer = call(SLOW, "Delete", self.task.delete(self.metadata(), &request)).await?;
        Ok((answer.pid, Exit { status: answer.exit_status, at: convert::from_timestamp(&answer.exited_at) }))
    }

    /// Waits for the end of an exec, however long that takes.
    pub(super) async fn wait_exec(&self, id: &Id, exec: &str) -> Result<Exit> {
        let request = WaitRequest { id: id.to_string(), exec_id: exec.to_owned(), ..WaitRequest::default() };
        let answer = self.task.wait(self.metadata(), &request).await.map_err(convert::from_error)?;
        Ok(Exit { status: answer.exit_status, at: convert::from_timestamp(&answer.exited_at) })
    }

    pub(super) async fn exec(&self, request: &ExecProcessRequest) -> Result<()> {
        call(SLOW, "Exec", self.task.exec(self.metadata(), request)).await.map(drop)
    }

    /// Changes the size of a task's terminal, or of that of the exec of that name.
    pub(super) async fn resize(&self, id: &Id, exec: &str, width: u16, height: u16) -> Result<()> {
        let request = ResizePtyRequest {
            id: id.to_string(),
            exec_id: exec.to_owned(),
            width: width.into(),
            height: height.into(),
            ..ResizePtyRequest::default()
        };
        call(QUICK, "ResizePty", self.task.resize_pty(self.metadata(), &request)).await.map(drop)
    }

    /// Lets a process see the end of its input.
    pub(super) async fn close_stdin(&self, id: &Id, exec: &str) -> Result<()> {
        let request =
            CloseIORequest { id: id.to_string(), exec_id: exec.to_owned(), stdin: true, ..CloseIORequest::default() };
        call(QUICK, "CloseIO", self.task.close_io(self.metadata(), &request)).await.map(drop)
    }

    pub(super) async fn attach(&self, request: &AttachRequest) -> Result<()> {
        call(QUICK, "Attach", self.extension.attach(self.metadata(), request)).await.map(drop)
    }

    /// Ends the execs whose names begin with `prefix`, of one container or of all; says how many there were.
    pub(super) async fn end_execs(&self, container: Option<&Id>, prefix: &str, grace: Duration) -> Result<u32> {
        let request = EndExecsRequest {
            container_id: container.map(Id::to_string).unwrap_or_default(),
            prefix: prefix.to_owned(),
            grace_seconds: u32::try_from(grace.as_secs()).unwrap_or(u32::MAX),
            ..EndExecsRequest::default()
        };
        call(QUICK, "EndExecs", self.extension.end_execs(self.metadata(), &request)).await.map(|answer| answer.ended)
    }

    pub(super) async fn pids(&self, id: &Id) -> Result<Vec<Member>> {
        let request = PidsRequest { id: id.to_string(), ..PidsRequest::default() };
        let answer = call(QUICK, "Pids", self.task.pids(self.metadata(), &request)).await?;
        let member =
            |process: ProcessInfoWord| Member { pid: process.pid, details: process.info.into_option().map(typed) };
        Ok(answer.processes.into_iter().map(member).collect())
    }

    /// What a task has used, in the words of its shim.
    pub(super) async fn stats(&self, id: &Id) -> Result<TypedBytes> {
        let request = StatsRequest { id: id.to_string(), ..StatsRequest::default() };
        let answer = call(QUICK, "Stats", self.task.stats(self.metadata(), &request)).await?;
        let missing = || Error::unavailable(format!("the shim tells nothing of what {id} uses"));
        answer.stats.into_option().map(typed).ok_or_else(missing)
    }

    pub(super) async fn pause(&self, id: &Id) -> Result<()> {
        let request = PauseRequest { id: id.to_string(), ..PauseRequest::default() };
        call(SLOW, "Pause", self.task.pause(self.metadata(), &request)).await.map(drop)
    }

    pub(super) async fn resume(&self, id: &Id) -> Result<()> {
        let request = ResumeRequest { id: id.to_string(), ..ResumeRequest::default() };
        call(SLOW, "Resume", self.task.resume(self.metadata(), &request)).await.map(drop)
    }

    pub(super) async fn update(&self, id: &Id, resources: Vec<u8>) -> Result<()> {
        let resources = Any { type_url: words::TYPE_RESOURCES.into(), value: resources, ..Any::default() };
        let resources = MessageField::some(resources);
        let request = UpdateTaskRequest { id: id.to_string(), resources, ..UpdateTaskRequest::default() };
        call(SLOW, "Update", self.task.update(self.metadata(), &request)).await.map(drop)
    }

    pub(super) async fn reopen_log(&self, id: &Id) -> Result<()> {
        let request = ReopenLogRequest { container_id: id.to_string(), ..ReopenLogRequest::default() };
        call(QUICK, "ReopenLog", self.extension.reopen_log(self.metadata(), &request)).await.map(drop)
    }
}

/// True where the error says that nobody listens, now or ever again.
fn is_dead(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
    matches!(error.kind(), ConnectionRefused | NotFound | NotADirectory)
}

fn typed(any: Any) -> TypedBytes {
    TypedBytes { type_url: any.type_url, value: any.value }
}

fn silent(verb: &str, limit: Duration) -> Error {
    Error::deadline(format!("the shim did not answer {verb} within {} s", limit.as_secs()))
}

async fn call<T>(limit: Duration, verb: &str, answer: impl Future<Output = ttrpc::Result<T>>) -> Result<T> {
    match timeout(limit, answer).await {
        Ok(answer) => answer.map_err(convert::from_error).context(|| format!("shim: {verb}")),
        Err(_) => Err(silent(verb, limit)),
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Poller<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Poller<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
