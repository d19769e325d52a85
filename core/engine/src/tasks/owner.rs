//! The owner of one shim: brings it up or back, watches it, and takes it down or cleans up behind it.
//!
//! ```text
//! boot ──> live ──(connection or process ends)──> connecting ──(nobody listens)──> dead ──> gone
//!           ▲                                        │  ▲
//!           └───────────────(it answers)─────────────┘  └─ every few seconds while it takes no connection
//! from every state but dead: Down ──> going down ──> gone
//! ```
//!
//! A shim that does not answer is never killed for that: its containers may work well. Only a shim that is certainly
//! dead, or that somebody wants down, is cleaned up behind.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use windlass_model::process::{Exit, State as TaskPhase};
use windlass_model::{Error, Kind, Result, Timestamp};
use windlass_wire::bootstrap::Bootstrap;

use super::bundle::Bundle;
use super::client::{Client, Closed, QUICK};
use super::exec::PREFIX;
use super::launch::{Launcher, PATIENCE};
use super::process::{self, Process, Wanted};
use super::roster::Inner;
use super::shim_log::{self, ShimLog};
use super::table::{Ending, Key};
use super::{BootSandbox, Booted, CreateSandbox, death};
use crate::blocking;

/// How long a shim that was told to end may take.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long a silent shim is left alone before it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How an owner's life begins.
pub(super) enum Birth {
    /// A shim is started for a sandbox, which is made with it.
    Boot(Box<BootSandbox>, oneshot::Sender<Result<Booted>>),
    /// A shim is started for a sandbox that is made later.
    Sandbox(Box<CreateSandbox>, oneshot::Sender<Result<()>>),
    /// A shim is started for one container; the name is the runtime's.
    Task(Option<String>, oneshot::Sender<Result<()>>),
    /// An earlier daemon started it.
    Reconnect,
    /// There is a folder and nobody knows more.
    Leftover,
}

/// What an owner can be asked.
#[derive(Debug)]
pub(super) enum Command {
    /// Take the shim down.
    Down(oneshot::Sender<Result<()>>),
}

/// What the others see of a shim.
#[derive(Clone)]
pub(super) enum Phase {
    /// It is not known yet whether it answers.
    Connecting,
    /// It answers.
    Live(Client),
    /// It lives and does not answer.
    Silent,
    /// It is no more.
    Gone,
}

/// Where an owner is.
enum State {
    Connecting {
        lost: bool,
    },
    Live(Line),
    Dead,
    GoingDown(Option<Line>, Option<oneshot::Sender<Result<()>>>),
    /// The shim is no more, or is left to the next daemon.
    Over,
}

/// A working line to a shim.
struct Line {
    client: Client,
    closed: Closed,
    process: Option<Process>,
}

pub(super) struct Owner {
    roster: Arc<Inner>,
    key: Key,
    bundle: Bundle,
    mailbox: mpsc::Receiver<Command>,
    phase: watch::Sender<Phase>,
    /// False for the shim of a single container.
    sandbox: bool,
    /// How the sandbox ended.
    ending: Arc<Ending>,
    /// What a shim of another's making has to say.
    log: Option<ShimLog>,
}

impl Owner {
    pub(super) fn new(
        roster: Arc<Inner>,
        key: Key,
        mailbox: mpsc::Receiver<Command>,
        phase: watch::Sender<Phase>,
        ending: Arc<Ending>,
    ) -> Self {
        let bundle = roster.bundles.of(&key.0, &key.1);
        Self { roster, key, bundle, mailbox, phase, sandbox: true, ending, log: None }
    }

    /// Lives until the shim is gone or the daemon stops.
    pub(super) async fn run(mut self, birth: Birth) -> watch::Sender<Phase> {
        let mut state = self.begin(birth).await;
        loop {
            state = match state {
                State::Connecting { lost } => self.connecting(lost).await,
                State::Live(line) => self.live(line).await,
                State::Dead => self.dead().await,
                State::GoingDown(line, reply) => self.going_down(line, reply).await,
                State::Over => return self.phase,
            }
        }
    }

    async fn begin(&mut self, birth: Birth) -> State {
        match birth {
            Birth::Boot(request, reply) => {
                let booted = self.boot_sandbox(&request).await;
                self.born(booted, reply).await
            }
            Birth::Sandbox(request, reply) => {
                let created = self.create_sandbox(&request).await;
                self.born(created, reply).await
            }
            Birth::Task(shim, reply) => {
                self.sandbox = false;
                let started = self.launch(shim.as_deref()).await.map(|line| (line, ()));
                self.born(started, reply).await
            }
            Birth::Reconnect => {
                self.sandbox = self.bundle.sandbox().as_ref() != Some(&self.key.1);
                State::Connecting { lost: false }
            }
            Birth::Leftover => {
                self.sandbox = self.bundle.sandbox().as_ref() != Some(&self.key.1);
                match self.mailbox.recv().await {
                    Some(Command::Down(reply)) => State::GoingDown(None, Some(reply)),
                    None => State::Over,
                }
            }
        }
    }

    /// Answers the one who wanted the shim; what came up only by half goes down first.
    async fn born<T>(&mut self, result: Result<(Line, T)>, reply: oneshot::Sender<Result<T>>) -> State {
        match result {
            Ok((line, answer)) => {
                self.phase.send_replace(Phase::Live(line.client.clone()));
                let _ = reply.send(Ok(answer));
                State::Live(line)
            }
            Err(error) => {
                let next = self.going_down(None, None).await;
                let _ = reply.send(Err(error));
                next
            }
        }
    }

    async fn boot_sandbox(&mut self, request: &BootSandbox) -> Result<(Line, Booted)> {
        let line = self.launch(request.shim.as_deref()).await?;
        let booted = line.client.boot(self.bundle.path(), request).await?;
        Ok((line, booted))
    }

    async fn create_sandbox(&mut self, request: &CreateSandbox) -> Result<(Line, ())> {
        let (bundle, spec) = (self.bundle.clone(), request.spec.clone());
        // The shim may look for the specification as soon as it is started.
        blocking(move || bundle.begin_sandbox(spec.as_deref())).await?;
        let line = self.launch(request.shim.as_deref()).await?;
        line.client.create_sandbox(self.bundle.path(), request).await?;
        let bundle = self.bundle.clone();
        blocking(move || bundle.end_creation()).await?;
        Ok((line, ()))
    }

    async fn launch(&mut self, shim: Option<&str>) -> Result<Line> {
        let binary = self.roster.resolve(shim)?;
        let (bundle, other) = (self.bundle.clone(), (binary != self.roster.config.shim).then(|| binary.clone()));
        blocking(move || {
            bundle.make()?;
            other.map_or(Ok(()), |binary| bundle.set_binary(&binary))
        })
        .await?;
        self.follow_log()?;
        let bootstrap = self.launcher(binary).start().await?;
        let bundle = self.bundle.clone();
        let kept = bootstrap.clone();
        // Ours has written it already; the next daemon needs it from others as well.
        blocking(move || bundle.keep_bootstrap(&kept)).await?;
        self.dial(&bootstrap).await
    }

    /// Our shim writes a file; the others need somebody who reads.
    fn follow_log(&mut self) -> Result<()> {
        if self.log.is_none() && self.bundle.binary().is_some() {
            self.log = Some(shim_log::follow(self.bundle.path())?);
        }
        Ok(())
    }

    fn launcher(&self, binary: std::path::PathBuf) -> Launcher {
        Launcher {
            binary,
            namespace: self.key.0.clone(),
            id: self.key.1.clone(),
            bundle: self.bundle.clone(),
            config: self.roster.config.clone(),
            patience: PATIENCE,
        }
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            key: self.key.clone(),
            bundle: self.bundle.path().to_owned(),
            address: self.roster.config.api_address.clone(),
        }
    }

    async fn dial(&self, bootstrap: &Bootstrap) -> Result<Line> {
        let (client, closed) = Client::connect(bootstrap, &self.key.0).await?;
        let pid = match self.bundle.shim_pid() {
            Some(pid) => Some(pid),
            // A shim may well refuse this before it has a task; its process is a comfort, not a need.
            None => client.shim_pid(&self.key.1).await.ok(),
        };
        let process = pid.and_then(|pid| Process::of_shim(pid, &self.wanted()));
        Ok(Line { client, closed, process })
    }

    /// Tries once to reach a shim that an earlier daemon started or whose connection broke.
    async fn reach(&self) -> Result<Line> {
        let _permit = self.roster.reconnects.acquire().await.map_err(|_| Error::unavailable("stopping"))?;
        let attempt = async {
            let line = self.dial(&Bootstrap::load(self.bundle.path())?).await?;
            line.client.ping(&self.key.1).await?;
            self.ask_states(&line.client).await;
            self.end_execs(&line.client).await;
            Result::Ok(line)
        };
        match timeout(QUICK, attempt).await {
            Ok(result) => result,
            Err(_) => Err(Error::deadline("the shim did not answer in time")),
        }
    }

    /// Learns what became of the shim's tasks while nobody listened.
    async fn ask_states(&self, client: &Client) {
        for entry in self.roster.tasks.of_shim(&self.key.0, &self.key.1) {
            if entry.exit().is_some() {
                continue;
            }
            match client.state(&entry.id).await {
                Ok(state) => {
                    entry.set_pid(state.pid);
                    if state.state == TaskPhase::Stopped {
                        let exit = state.exit.unwrap_or(Exit { status: 255, at: Timestamp::now() });
                        self.roster.take_exit(&entry, exit);
                    }
                }
                // A task that the shim does not know was never made; its verbs find that out by themselves.
                Err(error) => tracing::debug!(container = %entry.id, %error, "state after reconnect"),
            }
        }
    }

    /// Ends the execs of connections before this one: whoever wanted their output is not there any more.
    async fn end_execs(&self, client: &Client) {
        match client.end_execs(None, PREFIX, Duration::ZERO).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "execs of an earlier connection were ended"),
            // Another shim's execs end when their FIFOs break, or with their container.
            Err(error) => tracing::debug!(%error, "execs of an earlier connection"),
        }
    }

    /// Learns whether the sandbox ended while nobody listened.
    async fn ask_end(&self, client: &Client) {
        let id = &self.key.1;
        let status = client.sandbox_status(id, false).await;
        if status.is_ok_and(|status| status.exited_at.happened())
            && let Ok(Ok(exit)) = timeout(QUICK, client.wait_sandbox(id)).await
        {
            self.roster.end_sandbox(&self.key, &self.ending, exit);
        }
    }

    async fn connecting(&mut self, lost: bool) -> State {
        if lost {
            self.phase.send_replace(Phase::Connecting);
        }
        if let Err(error) = self.follow_log() {
            tracing::warn!(%error, "the shim's log is not read");
        }
        loop {
            let reached = tokio::select! {
                biased;
                () = self.roster.stop.cancelled() => return State::Over,
                reached = self.reach() => reached,
            };
            match reached {
                Ok(line) if self.bundle.is_half_made() => {
                    tracing::info!("a sandbox that was not created is taken down");
                    return State::GoingDown(Some(line), None);
                }
                Ok(line) => {
                    if self.sandbox && !lost {
                        self.ask_end(&line.client).await;
                    }
                    self.phase.send_replace(Phase::Live(line.client.clone()));
                    return State::Live(line);
                }
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::DataLoss | Kind::Unimplemented) => {
                    tracing::warn!(%error, "the shim is dead");
                    return State::Dead;
                }
                Err(error) => {
                    tracing::warn!(%error, "the shim is silent");
                    self.phase.send_replace(Phase::Silent);
                }
            }
            tokio::select! {
                biased;
                () = self.roster.stop.cancelled() => return State::Over,
                Some(Command::Down(reply)) = self.mailbox.recv() => return State::GoingDown(None, Some(reply)),
                () = sleep(RETRY) => {}
            }
        }
    }

    async fn live(&mut self, mut line: Line) -> State {
        let ended = async {
            match &line.process {
                Some(process) => process.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.roster.stop.cancelled() => State::Over,
            Some(Command::Down(reply)) = self.mailbox.recv() => State::GoingDown(Some(line), Some(reply)),
            () = ended => State::Connecting { lost: true },
            () = line.closed.wait() => State::Connecting { lost: true },
        }
    }

    async fn dead(&mut self) -> State {
        self.phase.send_replace(Phase::Connecting);
        // A shim that nobody can reach any more may still run; its containers are about to be killed, so it must end too.
        if let Err(error) = self.bury(false).await {
            tracing::error!(%error, "cleaning up behind a dead shim failed; taking it down will try again");
        }
        self.tell_exit(death::KILLED);
        self.phase.send_replace(Phase::Gone);
        self.answer_the_rest();
        State::Over
    }

    async fn going_down(&mut self, line: Option<Line>, reply: Option<oneshot::Sender<Result<()>>>) -> State {
        let was_live = matches!(&*self.phase.borrow(), Phase::Live(_) | Phase::Silent);
        let orderly = match line {
            Some(line) => self.say_farewell(line).await,
            None => false,
        };
        self.phase.send_replace(Phase::Connecting);
        let result = self.bury(orderly).await;
        if was_live {
            self.tell_exit(if orderly { 0 } else { death::KILLED });
        }
        self.phase.send_replace(Phase::Gone);
        if let Some(reply) = reply {
            let _ = reply.send(result);
        }
        self.answer_the_rest();
        State::Over
    }

    /// Asks a shim to end everything and itself; true if it did.
    async fn say_farewell(&self, mut line: Line) -> bool {
        let id = &self.key.1;
        let stopped = if self.sandbox { line.client.stop(id, None).await } else { self.end_task(&line.client).await };
        if let Err(error) = stopped {
            tracing::warn!(%error, "the shim does not stop its processes");
            return false;
        }
        for entry in self.roster.tasks.of_shim(&self.key.0, id) {
            match line.client.delete(&entry.id, "").await {
                Ok((pid, exit)) => {
                    entry.set_pid(pid);
                    self.roster.take_exit(&entry, exit);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => tracing::warn!(container = %entry.id, %error, "the shim does not delete a task"),
            }
        }
        // The shim may end before its answer is out, so only its end counts.
        let _ = if self.sandbox { line.client.shutdown(id).await } else { line.client.shutdown_task(id).await };
        match &line.process {
            Some(process) => process.ended_within(FAREWELL).await,
            None => timeout(FAREWELL, line.closed.wait()).await.is_ok(),
        }
    }

    async fn end_task(&self, client: &Client) -> Result<()> {
        let (namespace, id) = &self.key;
        match client.kill(id, "", 9, true).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        }
        if let Some(entry) = self.roster.tasks.get(namespace, id) {
            let _ = timeout(QUICK, entry.wait()).await;
        }
        Ok(())
    }

    /// Cleans up behind a shim that has ended or must end now.
    async fn bury(&self, orderly: bool) -> Result<()> {
        if !orderly {
            process::kill_all(self.wanted(), self.bundle.shim_pid()).await?;
        }
        death::take_outbox(&self.roster, &self.bundle).await?;
        let binary = self.bundle.binary().unwrap_or_else(|| self.roster.config.shim.clone());
        let launcher = (!orderly && self.bundle.exists()).then(|| self.launcher(binary));
        death::end_tasks(&self.roster, &self.key, launcher).await?;
        let (bundle, sandbox) = (self.bundle.clone(), self.sandbox);
        // A container's bundle goes with its task, not with its shim.
        blocking(move || if sandbox { bundle.remove() } else { bundle.forget_shim() }).await
    }

    fn tell_exit(&self, status: u32) {
        if self.sandbox {
            self.roster.end_sandbox(&self.key, &self.ending, Exit { status, at: Timestamp::now() });
        }
    }

    /// Whoever else wanted the shim down has it down now.
    fn answer_the_rest(&mut self) {
        self.mailbox.close();
        // Those that are dropped unanswered look again and find nothing, or a rest that is taken down anew.
        while self.mailbox.try_recv().is_ok() {}
    }
}
