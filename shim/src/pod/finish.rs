//! What comes back: ends of processes, and answers of runtimes.

use std::fs;

use windlass_model::event::Event;
use windlass_model::process::{Exit, State, Verb};
use windlass_model::{Error, Result};
use windlass_sys::enter;
use windlass_wire::task::{CreateTaskResponse, Empty, StartResponse};

use super::{Done, Pod, Purpose, answer};
use crate::exits::{Ended, Owner};
use crate::oci::console::Console;
use crate::oom::Oom;
use crate::serve::Reply;

impl Pod {
    pub(super) fn reap(&mut self) {
        while let Some(ended) = self.exits.next() {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::Process { container, exec, exit } => self.process_ended(container, exec, exit),
            Ended::Init(exit) => self.init_ended(exit),
        }
    }

    /// The output is carried first, then the end is told.
    fn process_ended(&mut self, id: String, exec: Option<String>, exit: Exit) {
        let Ok(process) = self.process(&id, exec.as_deref().unwrap_or_default()) else { return };
        process.ending = Some(exit);
        let drained = process.io.as_mut().map(crate::stdio::Io::drain);
        if exec.is_none()
            && let Some(container) = self.containers.get(&id).filter(|container| !container.bundle.own_pids)
        {
            // Without a pid namespace of its own nothing else ends what the first process leaves behind.
            self.limits.layout.kill(&container.bundle.cgroup).ok();
        }
        self.work.spawn(async move {
            if let Some(drained) = drained {
                drained.await;
            }
            Done::Drained { container: id, exec, exit }
        });
    }

    pub(super) fn finish(&mut self, done: Done) {
        match done {
            Done::Called { purpose, outcome } => self.called(purpose, outcome),
            Done::Drained { container, exec, exit } => self.drained(container, exec, exit),
            Done::Emptied { container, failed } => self.emptied(&container, failed),
            Done::Removed { container, result, failed } => self.removed(&container, result, failed),
            Done::GraceOver { container, exec } => self.end_doomed(&container, &exec),
            Done::StopTimeout(number) => self.stop_timeout(number),
        }
    }

    fn drained(&mut self, id: String, exec: Option<String>, exit: Exit) {
        let Ok(process) = self.process(&id, exec.as_deref().unwrap_or_default()) else { return };
        process.finish(exit);
        let pid = process.pid;
        let Ok(container) = self.container(&id) else { return };
        let killed = container.oom.as_ref().is_some_and(Oom::take);
        let removal = exec.is_none() && container.removal.is_some();
        if killed {
            self.oom_killed(&id);
        }
        if let Some(exec) = &exec {
            self.end_doomed(&id, exec);
        }
        let process = exec.unwrap_or_else(|| id.clone());
        let (status, at) = (exit.status, exit.at);
        self.outbox.publish(Event::TaskExit { container: id.clone(), process, pid, status, at });
        if removal {
            self.remove(&id, None);
        }
        self.check_stopped();
    }

    fn called(&mut self, purpose: Purpose, outcome: Result<u32>) {
        match purpose {
            Purpose::Create { container, console, reply } => self.created(&container, console, outcome, reply),
            Purpose::Start { container, reply } => self.started(container, outcome, reply),
            Purpose::Exec { container, exec, console, file, reply } => {
                fs::remove_file(file).ok();
                self.exec_started(container, exec, console, outcome, reply);
            }
            Purpose::Update { file, reply } => {
                fs::remove_file(file).ok();
                answer(reply, outcome.map(|_| Empty::default()));
            }
        }
        self.exits.finish_call();
    }

    fn created(&mut self, id: &str, console: Option<Console>, outcome: Result<u32>, reply: Reply<CreateTaskResponse>) {
        let owner = Owner::Process { container: id.into(), exec: None };
        match self.adopt(id, "", console.as_ref(), outcome, owner) {
            Ok((pid, ended)) => {
                // Before its end is reaped, the id cannot be another's.
                if let Ok(process) = self.process(id, "") {
                    process.birth = enter::birth(pid).unwrap_or_default();
                }
                self.watch_memory(id);
                answer(reply, Ok(CreateTaskResponse { pid, ..CreateTaskResponse::default() }));
                let setup = self.container(id).map(|container| container.setup()).unwrap_or_default();
                self.outbox.publish(Event::TaskCreate { container: id.into(), pid, setup: Box::new(setup) });
                ended.into_iter().for_each(|ended| self.ended(ended));
            }
            Err(error) => self.remove(id, Some((error, reply))),
        }
    }

    fn started(&mut self, id: String, outcome: Result<u32>, reply: Reply<StartResponse>) {
        let Ok(process) = self.process(&id, "") else {
            return answer(reply, Err(Error::not_found(format!("container {id}"))));
        };
        process.busy = false;
        let pid = process.pid;
        match outcome {
            Ok(_) => {
                // A short program may have ended while the runtime was still speaking.
                if process.state() == State::Created {
                    process.step(Verb::Start).ok();
                }
                answer(reply, Ok(StartResponse { pid, ..StartResponse::default() }));
                self.outbox.publish(Event::TaskStart { container: id, pid });
            }
            Err(error) => {
                // A hook may have failed when the program ran already. What did not start must not go on running.
                process.signal(9).ok();
                answer(reply, Err(error));
            }
        }
    }

    fn exec_started(
        &mut self,
        id: String,
        exec: String,
        console: Option<Console>,
        outcome: Result<u32>,
        reply: Reply<StartResponse>,
    ) {
        let owner = Owner::Process { container: id.clone(), exec: Some(exec.clone()) };
        match self.adopt(&id, &exec, console.as_ref(), outcome, owner) {
            Ok((pid, ended)) => {
                if let Ok(process) = self.process(&id, &exec) {
                    process.step(Verb::Start).ok();
                }
                answer(reply, Ok(StartResponse { pid, ..StartResponse::default() }));
                self.end_doomed(&id, &exec);
                self.outbox.publish(Event::TaskExecStarted { container: id, exec, pid });
                ended.into_iter().for_each(|ended| self.ended(ended));
            }
            Err(error) => {
                if let Ok(process) = self.process(&id, &exec) {
                    process.io = None;
                }
                self.end_doomed(&id, &exec);
                answer(reply, Err(error));
            }
        }
    }

    /// Takes over the process that a runtime has made: its streams, and its end, which may have come already.
    fn adopt(
        &mut self,
        id: &str,
        exec: &str,
        console: Option<&Console>,
        outcome: Result<u32>,
        owner: Owner,
    ) -> Result<(u32, Option<Ended>)> {
        let process = self.process(id, exec)?;
        process.busy = false;
        let pid = outcome?;
        process.pid = pid;
        let console = console.map(Console::take).transpose()?;
        let io = process.io.as_mut().ok_or_else(|| Error::internal("a process without streams"))?;
        io.start(console)?;
        process.created();
        Ok((pid, self.exits.claim(pid, owner)))
    }

    fn watch_memory(&mut self, id: &str) {
        let kills = self.kills.0.clone();
        let Some(container) = self.containers.get_mut(id) else { return };
        let name = id.to_owned();
        let killed = move || drop(kills.send(name.clone()));
        match Oom::start(&self.limits.layout, &container.bundle.cgroup, killed) {
            Ok(oom) => container.oom = Some(oom),
            Err(error) => eprintln!("container {id}: {error}"),
        }
    }

    /// A pid namespace without its process 1 is dead, and what is in it with it.
    fn init_ended(&mut self, exit: Exit) {
        eprintln!("process 1 of the shared pid namespace ended with status {}", exit.status);
        self.sandbox.init_pid = None;
        self.sandbox.end.take(exit);
    }
}
