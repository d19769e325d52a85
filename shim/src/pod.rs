//! The pod: the one owner of all processes, behind a mailbox.
//!
//! The loop takes one letter, one ended child or one finished piece of work at a time, and none of them waits: a call of an
//! OCI runtime is a child whose end comes back as [`Done`]. So a runtime that hangs holds up its own container only.

mod attach;
mod boot;
mod finish;
mod metrics;
mod plan;
mod query;
mod remove;
mod stop;
mod task;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use windlass_model::event::TaskSetup;
use windlass_model::process::Exit;
use windlass_model::{Context, Error, Id, Mount, Namespace, Result};
use windlass_sys::cgroup::Layout;
use windlass_sys::process as kernel;
use windlass_wire::task::{DeleteResponse, Empty, StartResponse};

use crate::bundle::{Bundle, Limits};
use crate::exits::Exits;
use crate::oci::console::Console;
use crate::oci::{Call, Caller};
use crate::oom::Oom;
use crate::outbox::Outbox;
use crate::process::Process;
use crate::serve::{Letter, Reply};
use crate::stdio::logger;
use boot::Sandbox;

/// How long an OCI runtime may take for one call, where the daemon does not say.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// How long nothing must have happened before memory is given back: giving back is work, and so is needing it again.
const REST: Duration = Duration::from_millis(300);

/// Everything that this shim looks after.
#[derive(Debug)]
pub struct Pod {
    id: Id,
    namespace: Namespace,
    bundle: PathBuf,
    limits: Limits,
    call_limit: Duration,
    caller: Caller,
    outbox: Outbox,
    exits: Exits,
    containers: BTreeMap<String, Container>,
    sandbox: Sandbox,
    work: JoinSet<Done>,
    kills: (mpsc::UnboundedSender<String>, mpsc::UnboundedReceiver<String>),
    over: bool,
}

/// A container.
#[derive(Debug)]
struct Container {
    bundle: Bundle,
    systemd: bool,
    init: Process,
    /// The mounts of its root file system, until its creation is told.
    rootfs: Vec<Mount>,
    execs: BTreeMap<String, Exec>,
    oom: Option<Oom>,
    /// Logging programs of execs that are forgotten, on their way to their ends.
    loggers: JoinSet<()>,
    /// Who waits for its removal; somebody does from when it begins.
    removal: Option<Vec<Reply<DeleteResponse>>>,
}

impl Container {
    /// What the event of its creation says of it.
    fn setup(&mut self) -> TaskSetup {
        let wish = &self.init.wish;
        TaskSetup {
            bundle: self.bundle.path.display().to_string(),
            rootfs: std::mem::take(&mut self.rootfs),
            stdin: wish.stdin.clone(),
            stdout: wish.stdout.clone(),
            stderr: wish.stderr.clone(),
            terminal: wish.terminal,
            ..TaskSetup::default()
        }
    }
}

/// Another process in a container.
#[derive(Debug)]
struct Exec {
    process: Process,
    spec: Vec<u8>,
    /// Nobody will ask for it any more: it has so long to end by itself, and is forgotten then.
    doomed: Option<Duration>,
}

/// A piece of work that is finished.
#[derive(Debug)]
enum Done {
    /// A runtime has answered.
    Called { purpose: Purpose, outcome: Result<u32> },
    /// The output of an ended process has been carried.
    Drained { container: String, exec: Option<String>, exit: Exit },
    /// All processes of a container are gone, and its last hooks are to run.
    Emptied { container: String, failed: Option<(Error, Reply<windlass_wire::task::CreateTaskResponse>)> },
    /// What a container left has been taken away.
    Removed {
        container: String,
        result: Result<()>,
        failed: Option<(Error, Reply<windlass_wire::task::CreateTaskResponse>)>,
    },
    /// An exec that nobody asks for any more had its time to end by itself.
    GraceOver { container: String, exec: String },
    /// A stop has taken long enough; its number.
    StopTimeout(u64),
}

/// What a runtime was called for.
#[derive(Debug)]
enum Purpose {
    Create { container: String, console: Option<Console>, reply: Reply<windlass_wire::task::CreateTaskResponse> },
    Start { container: String, reply: Reply<StartResponse> },
    Exec { container: String, exec: String, console: Option<Console>, file: PathBuf, reply: Reply<StartResponse> },
    Update { file: PathBuf, reply: Reply<Empty> },
}

impl Pod {
    /// A pod without anything in it.
    ///
    /// # Errors
    /// Where this machine has no cgroups, or the program cannot be sealed.
    pub fn new(id: Id, namespace: Namespace, bundle: PathBuf, outbox: Outbox) -> Result<Self> {
        let lowest_oom_score = (!kernel::may_lower_oom_score()).then(kernel::oom_score).transpose()?;
        Ok(Self {
            id,
            namespace,
            bundle,
            limits: Limits { layout: Layout::detect()?, lowest_oom_score },
            call_limit: CALL_LIMIT,
            caller: Caller::new()?,
            outbox,
            exits: Exits::default(),
            containers: BTreeMap::new(),
            sandbox: Sandbox::default(),
            work: JoinSet::new(),
            kills: mpsc::unbounded_channel(),
            over: false,
        })
    }

    /// Takes letters until the shim is to end.
    ///
    /// # Errors
    /// Where children's ends cannot be watched.
    pub async fn run(&mut self, mut mailbox: mpsc::UnboundedReceiver<Letter>) -> Result<()> {
        let mut children = signal(SignalKind::child()).context(|| "watch children".into())?;
        let mut rested = false;
        while !self.over {
            let resting = std::mem::replace(&mut rested, false);
            tokio::select! {
                biased;
                _ = children.recv() => self.reap(),
                Some(container) = self.kills.1.recv() => self.oom_killed(&container),
                Some(done) = self.work.join_next() => match done {
                    Ok(done) => self.finish(done),
                    Err(error) => eprintln!("a task of the shim failed: {error}"),
                },
                letter = mailbox.recv() => match letter {
                    Some(letter) => self.open(letter),
                    None => break,
                },
                () = tokio::time::sleep(REST), if !resting => {
                    kernel::trim_heap();
                    kernel::release_program();
                    rested = true;
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, letter: Letter) {
        match letter {
            Letter::Create(request, reply) => self.create(*request, reply),
            Letter::Start(request, reply) => self.start(request, reply),
            Letter::Exec(request, reply) => answer(reply, self.exec(*request)),
            Letter::Kill(request, reply) => answer(reply, self.kill(&request)),
            Letter::Delete(request, reply) => self.delete(request, reply),
            Letter::Update(request, reply) => self.update(request, reply),
            Letter::Pause(request, reply) => answer(reply, self.pause(&request.id)),
            Letter::Resume(request, reply) => answer(reply, self.resume(&request.id)),
            Letter::CloseIo(request, reply) => answer(reply, self.close_io(&request)),
            Letter::ResizePty(request, reply) => answer(reply, self.resize(&request)),
            Letter::Wait(request, reply) => self.wait(&request, reply),
            Letter::State(request, reply) => answer(reply, self.state(&request)),
            Letter::Pids(request, reply) => answer(reply, self.pids(&request.id)),
            Letter::Stats(request, reply) => answer(reply, self.stats(&request.id)),
            Letter::Connect(request, reply) => answer(reply, self.connect(&request.id)),
            Letter::ReopenLog(request, reply) => answer(reply, self.reopen_log(&request.container_id)),
            Letter::Attach(request, reply) => answer(reply, self.attach(*request)),
            Letter::EndExecs(request, reply) => answer(reply, self.end_execs(&request)),
            Letter::Shutdown(request, reply) => answer(reply, self.shutdown(request.now)),
            Letter::CreateSandbox(request, reply) => answer(reply, self.create_sandbox(*request)),
            Letter::StartSandbox(request, reply) => answer(reply, self.start_sandbox(&request.sandbox_id)),
            Letter::StopSandbox(request, reply) => self.stop_sandbox(&request, reply),
            Letter::WaitSandbox(request, reply) => self.wait_sandbox(&request.sandbox_id, reply),
            Letter::SandboxStatus(request, reply) => answer(reply, self.sandbox_status(&request)),
            Letter::SandboxMetrics(request, reply) => answer(reply, self.sandbox_metrics(&request.sandbox_id)),
            Letter::ShutdownSandbox(request, reply) => self.shutdown_sandbox(&request.sandbox_id, reply),
        }
    }

    fn container(&mut self, id: &str) -> Result<&mut Container> {
        self.containers.get_mut(id).ok_or_else(|| Error::not_found(format!("container {id}")))
    }

    /// A container's first process, or its exec of a name that is not empty.
    fn process(&mut self, container: &str, exec: &str) -> Result<&mut Process> {
        let found = self.container(container)?;
        if exec.is_empty() {
            return Ok(&mut found.init);
        }
        let exec = found.execs.get_mut(exec).map(|exec| &mut exec.process);
        exec.ok_or_else(|| Error::not_found(format!("process of container {container}")))
    }

    /// Waits for a call, within its limit, as a piece of work; where it succeeded, also for a logging program that is to
    /// be `ready` by then.
    fn follow(&mut self, call: Call, ready: Option<OwnedFd>, purpose: Purpose) {
        let status = self.exits.expect_call(call.pid);
        let limit = self.call_limit;
        self.work.spawn(async move {
            let outcome = finish_call(call, status, limit).await;
            if let Some(ready) = ready.filter(|_| outcome.is_ok()) {
                logger::ready(ready).await;
            }
            Done::Called { purpose, outcome }
        });
    }
}

/// The outcome of a call whose process ends with `status`, which is killed where it takes longer than `limit`.
async fn finish_call(call: Call, status: tokio::sync::oneshot::Receiver<u32>, limit: Duration) -> Result<u32> {
    match tokio::time::timeout(limit, status).await {
        Ok(Ok(status)) => call.outcome(status),
        Ok(Err(_)) => Err(Error::internal("the end of an OCI runtime was not told")),
        Err(_) => {
            call.abort();
            Err(Error::deadline(format!("the OCI runtime did not answer within {} s", limit.as_secs())))
        }
    }
}

/// Answers; a client that is gone does not need it.
fn answer<T>(reply: Reply<T>, result: Result<T>) {
    reply.send(result).ok();
}
