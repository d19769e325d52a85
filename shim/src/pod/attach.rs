//! What the daemon's streaming sessions ask for beyond containerd's protocol: attaching, and the end of execs.

use std::time::Duration;

use windlass_model::process::State;
use windlass_model::{Error, Result};
use windlass_sys::process as kernel;
use windlass_wire::extension::{AttachRequest, AttachResponse, EndExecsRequest, EndExecsResponse};

use super::{Done, Exec, Pod};
use crate::process::Process;
use crate::stdio::Wish;

/// SIGHUP.
const HANG_UP: u32 = 1;
/// SIGKILL.
const KILL: u32 = 9;

impl Pod {
    pub(super) fn attach(&mut self, request: AttachRequest) -> Result<AttachResponse> {
        let process = self.process(&request.container_id, "")?;
        if process.ending.is_some() || process.state() == State::Stopped {
            return Err(Error::precondition(format!("container {} has ended", request.container_id)));
        }
        let io = process.io.as_mut().ok_or_else(|| Error::precondition("the process was not started"))?;
        let wish = Wish { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: false };
        io.attach(&wish).map(|()| AttachResponse::default())
    }

    pub(super) fn end_execs(&mut self, request: &EndExecsRequest) -> Result<EndExecsResponse> {
        if request.prefix.is_empty() {
            return Err(Error::invalid("prefix: is empty"));
        }
        let mut doomed = Vec::new();
        for (id, container) in &mut self.containers {
            if request.container_id.is_empty() || request.container_id == *id {
                let names = container.execs.keys().filter(|name| name.starts_with(&request.prefix));
                doomed.extend(names.map(|name| (id.clone(), name.clone())));
            }
        }
        let grace = Duration::from_secs(request.grace_seconds.into());
        for (container, exec) in &doomed {
            if let Some(found) = self.containers.get_mut(container).and_then(|found| found.execs.get_mut(exec)) {
                found.doomed = Some(grace);
                self.end_doomed(container, exec);
            }
        }
        Ok(EndExecsResponse { ended: doomed.len() as u32, ..EndExecsResponse::default() })
    }

    /// Has an exec end that nobody asks for any more, and forgets it where it has.
    pub(super) fn end_doomed(&mut self, container: &str, exec: &str) {
        let Some(found) = self.containers.get_mut(container) else { return };
        let Some(Exec { process, doomed: Some(grace), .. }) = found.execs.get_mut(exec) else { return };
        if process.busy {
            // It comes back here when it runs.
        } else if matches!(process.state(), State::Unknown | State::Stopped) {
            found.execs.remove(exec);
        } else if process.ending.is_some() {
            // It comes back here when its output is carried.
        } else if grace.is_zero() {
            signal(process, KILL);
        } else {
            signal(process, HANG_UP);
            let (grace, container, exec) = (std::mem::take(grace), container.to_owned(), exec.to_owned());
            self.work.spawn(async move {
                tokio::time::sleep(grace).await;
                Done::GraceOver { container, exec }
            });
        }
    }
}

/// Sends a signal to a process and to the group that it leads; what has left that group is the container's.
fn signal(process: &Process, number: u32) {
    kernel::signal_group(process.pid, number);
    // It may lead none; and one that has ended meanwhile needs no signal.
    process.signal(number).ok();
}
