//! Forgetting: execs and containers, with what they leave in the kernel and on disk.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use windlass_model::event::Event;
use windlass_model::process::State;
use windlass_model::{Error, Result};
use windlass_sys::cgroup::Layout;
use windlass_wire::convert;
use windlass_wire::task::{CreateTaskResponse, DeleteRequest, DeleteResponse};

use super::{Done, Exec, Pod, answer, finish_call, query};
use crate::bundle::Bundle;
use crate::oci::{Call, Moment, Verb};
use crate::process::Process;
use crate::serve::Reply;

/// How long killed processes may take to leave their cgroup, and systemd to remove it.
const LEAVE: Duration = Duration::from_secs(5);
/// How often it is looked whether the output of the last execs has been carried, which has a limit of its own.
const LAST_WORDS: Duration = Duration::from_millis(2);

/// A runtime that forgets a container, and its status to come.
type DeleteCall = (Call, oneshot::Receiver<u32>);

impl Exec {
    /// True where the kernel has reported its end and its output is still on the way.
    fn is_ending(&self) -> bool {
        self.process.ending.is_some() && self.process.exit.is_none()
    }
}

impl Pod {
    pub(super) fn delete(&mut self, request: DeleteRequest, reply: Reply<DeleteResponse>) {
        if !request.exec_id.is_empty() {
            return answer(reply, self.delete_exec(&request.id, &request.exec_id));
        }
        let Some(container) = self.containers.get_mut(&request.id) else {
            return answer(reply, Err(Error::not_found(format!("container {}", request.id))));
        };
        if let Some(waiting) = &mut container.removal {
            return waiting.push(reply);
        }
        match (container.init.busy, container.init.state()) {
            (false, State::Stopped) => {
                container.removal = Some(vec![reply]);
                self.remove(&request.id, None);
            }
            // What waits for its start is ended first; the removal follows its exit.
            (false, State::Created) => {
                container.removal = Some(vec![reply]);
                if container.init.ending.is_none() {
                    container.init.signal(9).ok();
                }
            }
            (busy, state) => {
                let what = if busy { "another call is under way".into() } else { format!("it is {state:?}") };
                let refusal = format!("cannot delete container {}: {what}", request.id);
                answer(reply, Err(Error::precondition(refusal.to_lowercase())));
            }
        }
    }

    fn delete_exec(&mut self, id: &str, name: &str) -> Result<DeleteResponse> {
        let container = self.container(id)?;
        let exec = container.execs.get(name).ok_or_else(|| Error::not_found(format!("exec {name}")))?;
        let process = &exec.process;
        if process.busy || !matches!(process.state(), State::Unknown | State::Stopped) {
            return Err(Error::precondition(format!("cannot delete exec {name}: it has not ended")));
        }
        let response = deleted(process);
        if let Some(logger) = container.execs.remove(name).and_then(|mut exec| exec.process.take_logger()) {
            // The set remembers those that are through until it is asked.
            while container.loggers.try_join_next().is_some() {}
            container.loggers.spawn(logger.finish());
        }
        Ok(response)
    }

    /// Takes away what a container leaves, as a piece of work; `failed` is the creation that did not succeed.
    pub(super) fn remove(&mut self, id: &str, failed: Option<(Error, Reply<CreateTaskResponse>)>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let bundle = container.bundle.clone();
        container.oom = None;
        // Nothing of ours may hold the pipes that a logging program reads to their end.
        let logger = container.init.take_logger();
        let call = if bundle.runtime.is_some() { self.call_delete(id) } else { None };
        let (layout, limit) = (self.limits.layout.clone(), self.call_limit);
        let hooked = bundle.calls_hooks(Moment::Poststop);
        let container = id.to_owned();
        self.work.spawn(async move {
            let emptied = empty(&layout, &bundle, call, limit).await;
            if let Some(logger) = logger {
                logger.finish().await;
            }
            match emptied {
                Ok(()) if hooked => Done::Emptied { container, failed },
                emptied => Done::Removed { container, result: emptied.and_then(|()| bundle.clear()), failed },
            }
        });
    }

    /// The built-in runtime's last hooks run when all processes are gone, as a piece of work, and cannot stop the removal.
    pub(super) fn emptied(&mut self, id: &str, failed: Option<(Error, Reply<CreateTaskResponse>)>) {
        let Some(bundle) = self.containers.get(id).map(|container| container.bundle.clone()) else { return };
        let (call, limit) = (self.call_delete(id), self.call_limit);
        let container = id.to_owned();
        self.work.spawn(async move {
            finish_delete(&container, call, limit).await;
            Done::Removed { container, result: bundle.clear(), failed }
        });
    }

    /// Has the runtime forget a container.
    fn call_delete(&mut self, id: &str) -> Option<DeleteCall> {
        let container = self.containers.get(id)?;
        let call = self.caller.call(&container.bundle, &Verb::Delete, container.systemd, None, None);
        let call = call.inspect_err(|error| eprintln!("delete of container {id}: {error}")).ok()?;
        let status = self.exits.expect_call(call.pid);
        // It makes no process that would have to be claimed.
        self.exits.finish_call();
        Some((call, status))
    }

    pub(super) fn removed(&mut self, id: &str, result: Result<()>, failed: Option<(Error, Reply<CreateTaskResponse>)>) {
        // Everything in the container is dead by now. Whoever waits for one of its execs is told how that ended first.
        self.reap();
        let Some(container) = self.containers.get_mut(id) else { return };
        let ending = container.execs.values().any(Exec::is_ending);
        let mut loggers = std::mem::take(&mut container.loggers);
        if !ending {
            for logger in container.execs.values_mut().filter_map(|exec| exec.process.take_logger()) {
                loggers.spawn(logger.finish());
            }
        }
        if ending || !loggers.is_empty() {
            let container = id.to_owned();
            self.work.spawn(async move {
                loggers.join_all().await;
                tokio::time::sleep(LAST_WORDS).await;
                Done::Removed { container, result, failed }
            });
            return;
        }
        let Some(mut container) = self.containers.remove(id) else { return };
        if let Some((error, reply)) = failed {
            container.bundle.forget(&self.bundle);
            answer(reply, Err(error));
            return self.check_stopped();
        }
        let waiting = container.removal.take().unwrap_or_default();
        match result {
            Ok(()) => {
                container.bundle.forget(&self.bundle);
                let exit = container.init.exit.unwrap_or_else(query::unseen);
                for reply in waiting {
                    answer(reply, Ok(deleted(&container.init)));
                }
                self.outbox.publish(Event::TaskDelete {
                    container: id.into(),
                    process: String::new(),
                    pid: container.init.pid,
                    status: exit.status,
                    at: exit.at,
                });
            }
            Err(error) => {
                // It stays, so that the removal can be tried again.
                for reply in waiting {
                    answer(reply, Err(error.share()));
                }
                self.containers.insert(id.into(), container);
            }
        }
    }
}

fn deleted(process: &Process) -> DeleteResponse {
    let exit = process.exit.unwrap_or_else(query::unseen);
    DeleteResponse {
        pid: process.pid,
        exit_status: exit.status,
        exited_at: convert::timestamp(exit.at),
        ..DeleteResponse::default()
    }
}

/// Waits for a runtime that forgets a container. What it should have done and has not is done by this shim.
async fn finish_delete(id: &str, call: Option<DeleteCall>, limit: Duration) {
    if let Some((call, status)) = call
        && let Err(error) = finish_call(call, status, limit).await
    {
        eprintln!("delete of container {id}: {error}");
    }
}

/// Lets the runtime forget, kills what is left, and removes the cgroup.
async fn empty(layout: &Layout, bundle: &Bundle, call: Option<DeleteCall>, limit: Duration) -> Result<()> {
    finish_delete(&bundle.id, call, limit).await;
    layout.kill(&bundle.cgroup)?;
    let mut pause = Duration::from_millis(1);
    let begin = Instant::now();
    while layout.is_left_to_systemd(&bundle.cgroup)? && begin.elapsed() < LEAVE {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    let deadline = Instant::now() + LEAVE;
    while !layout.try_remove(&bundle.cgroup)? {
        if Instant::now() > deadline {
            return Err(Error::internal(format!("processes of container {} do not end", bundle.id)));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
        layout.kill(&bundle.cgroup)?;
    }
    Ok(())
}
