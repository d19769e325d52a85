//! A program that runs in a container beside its first, with streams to whoever asked for it.
//!
//! ```text
//! start ──> running ──(it ends)──> ended ──(Running is dropped)──> forgotten
//!              └──(Running is dropped: nobody wants it)──> told to hang up, killed after a grace ──> forgotten
//! ```
//!
//! Each has a task of its own here, which its caller cannot cancel: a caller that leaves must not leave the program, nor
//! the shim's memory of it, behind. What a daemon that died could not end is ended when the next one connects.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use windlass_model::process::Exit;
use windlass_model::{Error, Id, Kind, Result};
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::task::ExecProcessRequest;
use windlass_wire::words;

use super::StartExec;
use super::client::{Client, QUICK};
use super::streams::{Ending, Fifos, TaskStreams};
use super::table::Entry;

/// How the names of our execs begin; other clients of a shim name theirs otherwise.
pub(super) const PREFIX: &str = "windlass-exec-";
/// SIGHUP.
const HANG_UP: u32 = 1;
/// SIGKILL.
const KILL: u32 = 9;

/// A program that was started. Dropping this says that nobody wants it any more: one that runs is told to hang up and is
/// killed after its grace.
#[derive(Debug)]
pub struct Running {
    control: Control,
    ending: Ending,
    owner: JoinHandle<()>,
    _wanted: DropGuard,
}

/// What can be done to the program.
#[derive(Clone)]
struct Control {
    client: Client,
    container: Id,
    id: String,
}

/// What the program's own task is to do.
struct Owner {
    control: Control,
    entry: Arc<Entry>,
    ended: watch::Sender<Option<Result<Exit>>>,
    abandoned: CancellationToken,
    grace: Duration,
}

/// Starts a program in a container of the shim behind `client`.
pub(super) async fn start(client: Client, entry: Arc<Entry>, request: StartExec) -> Result<(TaskStreams, Running)> {
    let id = format!("{PREFIX}{}", uuid::Uuid::new_v4().simple());
    let control = Control { client, container: request.container.clone(), id };
    let (ended, ending) = watch::channel(None);
    let abandoned = CancellationToken::new();
    let (started, answer) = oneshot::channel();
    let owner = Owner { control: control.clone(), entry, ended, abandoned: abandoned.clone(), grace: request.grace };
    let owner = tokio::spawn(owner.run(request, started));
    // Before the answer is waited for: a caller that leaves now is noticed as well.
    let running = Running { control, ending, owner, _wanted: abandoned.drop_guard() };
    let streams = answer.await.unwrap_or_else(|_| Err(cut_off()))?;
    Ok((streams, running))
}

fn cut_off() -> Error {
    Error::internal("an exec was cut off")
}

impl Running {
    /// Waits for the program's end. Cancel safe.
    ///
    /// # Errors
    /// Where the shim is lost, or does not know the program any more.
    pub async fn wait(&self) -> Result<Exit> {
        let mut ending = self.ending.clone();
        let ended = ending.wait_for(Option::is_some).await;
        let ended = ended.map_err(|_| cut_off())?;
        match &*ended {
            Some(Ok(exit)) => Ok(*exit),
            Some(Err(error)) => Err(error.share()),
            None => Err(cut_off()),
        }
    }

    /// How it ended, if it has.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.ending.borrow().as_ref().and_then(|ended| ended.as_ref().ok()).copied()
    }

    /// Changes the size of its terminal's window, in characters.
    ///
    /// # Errors
    /// `FailedPrecondition` where it has no terminal.
    pub async fn resize(&self, width: u16, height: u16) -> Result<()> {
        let Control { client, container, id } = &self.control;
        client.resize(container, id, width, height).await
    }

    /// Lets it see the end of its input; to be called once the writing end was dropped.
    pub async fn close_stdin(&self) -> Result<()> {
        let Control { client, container, id } = &self.control;
        client.close_stdin(container, id).await
    }

    /// Gives it up and waits until the shim has been told so.
    pub async fn finish(self) {
        let Self { owner, _wanted, .. } = self;
        drop(_wanted);
        // Its panic has been logged where it happened.
        let _ = owner.await;
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("container", &self.container).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Owner {
    async fn run(self, request: StartExec, started: oneshot::Sender<Result<TaskStreams>>) {
        // An ended task is not deleted while its shim still owes us the exec's end.
        let _underway = self.entry.begin_exec();
        match self.begin(request).await {
            Ok(streams) => {
                // Nobody there to take them: then it is abandoned too.
                let _ = started.send(Ok(streams));
                self.follow().await;
            }
            Err(error) => {
                self.end(Duration::ZERO).await;
                let _ = started.send(Err(error));
            }
        }
    }

    async fn begin(&self, request: StartExec) -> Result<TaskStreams> {
        let Control { client, container, id } = &self.control;
        let mut fifos = Fifos::new(&self.entry.bundle.streams(), id)?;
        let ending = self.ended.subscribe();
        let (stdin, offered) = fifos.input(request.stdin)?;
        let (stdout, out) = fifos.output("out", request.stdout, Some(&ending))?;
        let (stderr, err) = fifos.output("err", request.stderr, Some(&ending))?;
        let spec = Any { type_url: words::TYPE_PROCESS.into(), value: request.process, ..Any::default() };
        let request = ExecProcessRequest {
            id: container.to_string(),
            exec_id: id.clone(),
            terminal: request.terminal,
            stdin,
            stdout,
            stderr,
            spec: MessageField::some(spec),
            ..ExecProcessRequest::default()
        };
        client.exec(&request).await?;
        client.start(container, id).await?;
        let stdin = offered.map(super::streams::Offered::settle).transpose()?;
        Ok(TaskStreams { stdin, stdout: out, stderr: err })
    }

    /// Waits for the end of the program or of all interest in it.
    async fn follow(&self) {
        let Control { client, container, id } = &self.control;
        tokio::select! {
            biased;
            exit = client.wait_exec(container, id) => {
                let known = exit.is_ok();
                self.ended.send_replace(Some(exit));
                // Deleting it would take away what is still on its way.
                self.abandoned.cancelled().await;
                if known { self.forget().await } else { self.end(Duration::ZERO).await }
            }
            () = self.abandoned.cancelled() => self.end(self.grace).await,
        }
    }

    async fn forget(&self) {
        let Control { client, container, id } = &self.control;
        match client.delete(container, id).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!(%container, exec = id, %error, "an ended exec was not deleted"),
        }
    }

    /// Has the shim end the program, and forget it.
    async fn end(&self, grace: Duration) {
        let Control { client, container, id } = &self.control;
        match client.end_execs(Some(container), id, grace).await {
            Ok(_) => return,
            // Its next connection begins with ending what is left.
            Err(error) if error.kind() == Kind::Unavailable => {
                return tracing::debug!(%container, exec = id, %error, "an exec is left to the next connection");
            }
            Err(error) => tracing::debug!(%container, exec = id, %error, "a shim without this service"),
        }
        // The long way, which every shim knows.
        if !grace.is_zero() && client.kill(container, id, HANG_UP, false).await.is_ok() {
            let _ = timeout(grace, client.wait_exec(container, id)).await;
        }
        if client.kill(container, id, KILL, false).await.is_ok() {
            let _ = timeout(QUICK, client.wait_exec(container, id)).await;
        }
        self.forget().await;
    }
}
