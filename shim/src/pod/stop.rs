//! The pod's end: stopping, waiting for it, and the shim's own end.
//!
//! A pod ends when it is stopped, or when process 1 of its shared pid namespace dies. The shim stays, so that its state
//! and its tasks can be asked for, until it is shut down; what runs then is ended first.

use std::time::Duration;

use windlass_model::process::{Exit, State};
use windlass_model::{Error, Result, Timestamp};
use windlass_sys::{mount, process as kernel};
use windlass_wire::sandbox::{ShutdownSandboxResponse, StopSandboxRequest, StopSandboxResponse};
use windlass_wire::words;

use super::{Done, Pod, answer};
use crate::serve::Reply;

/// How long stopping may take, where the daemon does not say.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How far the pod's end has come, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct End {
    exit: Option<Exit>,
    /// Who stops it, by the number of the request.
    stopping: Vec<(u64, Reply<StopSandboxResponse>)>,
    /// How many have been told to stop it.
    stops: u64,
    waiting: Vec<Reply<Exit>>,
    /// Who wants the shim to end once nothing runs.
    leaving: Vec<Reply<ShutdownSandboxResponse>>,
}

impl End {
    /// How the pod ended, if it has.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Takes the end, where none is known yet, and tells whoever waits.
    pub(super) fn take(&mut self, exit: Exit) {
        let exit = *self.exit.get_or_insert(exit);
        for reply in self.waiting.drain(..) {
            answer(reply, Ok(exit));
        }
    }

    fn is_wanted(&self) -> bool {
        !self.stopping.is_empty() || !self.leaving.is_empty()
    }
}

impl Pod {
    /// Kills all that runs in the pod; the answer comes when every end is told.
    pub(super) fn stop_sandbox(&mut self, request: &StopSandboxRequest, reply: Reply<StopSandboxResponse>) {
        if let Err(error) = self.check_id(&request.sandbox_id) {
            return answer(reply, Err(error));
        }
        let limit = match request.timeout_secs {
            0 => STOP_LIMIT,
            seconds => Duration::from_secs(seconds.into()),
        };
        self.sandbox.end.stops += 1;
        let number = self.sandbox.end.stops;
        self.sandbox.end.stopping.push((number, reply));
        self.kill_all();
        self.check_stopped();
        if self.sandbox.end.is_wanted() {
            self.work.spawn(async move {
                tokio::time::sleep(limit).await;
                Done::StopTimeout(number)
            });
        }
    }

    fn kill_all(&self) {
        for container in self.containers.values() {
            if let Err(error) = self.limits.layout.kill(&container.bundle.cgroup) {
                eprintln!("kill container {}: {error}", container.bundle.id);
            }
        }
    }

    /// Ends the stopping when the last process has ended.
    pub(super) fn check_stopped(&mut self) {
        if !self.sandbox.end.is_wanted() || self.is_busy() {
            return;
        }
        if let Some(pid) = self.sandbox.init_pid {
            kernel::signal(pid, 9).ok();
        }
        let result = mount::unmount(&self.bundle.join(words::SHM_DIR));
        self.sandbox.end.take(Exit { status: 0, at: Timestamp::now() });
        for (_, reply) in self.sandbox.end.stopping.drain(..) {
            let result = result.as_ref().map(|()| StopSandboxResponse::default());
            answer(reply, result.map_err(Error::share));
        }
        for reply in self.sandbox.end.leaving.drain(..) {
            self.over = true;
            answer(reply, Ok(ShutdownSandboxResponse::default()));
        }
    }

    /// True where anything runs, or is about to.
    fn is_busy(&self) -> bool {
        let alive = |state| !matches!(state, State::Unknown | State::Stopped);
        self.containers.values().any(|container| {
            container.init.busy
                || alive(container.init.state())
                || container.execs.values().any(|exec| alive(exec.process.state()))
        })
    }

    pub(super) fn stop_timeout(&mut self, number: u64) {
        let stopping = std::mem::take(&mut self.sandbox.end.stopping);
        let (late, rest) = stopping.into_iter().partition(|(of, _)| *of == number);
        self.sandbox.end.stopping = rest;
        let late: Vec<(u64, Reply<StopSandboxResponse>)> = late;
        for (_, reply) in late {
            answer(reply, Err(Error::deadline("processes of the pod do not end")));
        }
    }

    pub(super) fn wait_sandbox(&mut self, id: &str, reply: Reply<Exit>) {
        match (self.check_made(id), self.sandbox.end.exit) {
            (Err(error), _) => answer(reply, Err(error)),
            (_, Some(exit)) => answer(reply, Ok(exit)),
            (_, None) => self.sandbox.end.waiting.push(reply),
        }
    }

    /// Ends the shim, after all that runs in it.
    pub(super) fn shutdown_sandbox(&mut self, id: &str, reply: Reply<ShutdownSandboxResponse>) {
        if let Err(error) = self.check_id(id) {
            return answer(reply, Err(error));
        }
        self.sandbox.end.leaving.push(reply);
        self.kill_all();
        self.check_stopped();
    }

    /// Refuses what is meant for another pod, or for one that nobody made.
    pub(super) fn check_made(&self, id: &str) -> Result<()> {
        self.check_id(id)?;
        if self.sandbox.is_pod() { Ok(()) } else { Err(Error::not_found(format!("sandbox {id} was not created"))) }
    }

    /// What is left to do when the last letter is answered.
    pub fn leave(&mut self) {
        mount::unmount(&self.bundle.join(words::SHM_DIR)).ok();
        if let Some(home) = self.sandbox.home.take() {
            home.move_out(&self.limits.layout, &self.bundle);
        }
    }
}
