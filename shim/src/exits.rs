//! Whose ends the kernel reports: every child of the shim is claimed by a call, a process or nobody.
//!
//! A process may end before the call that made it has said its id. While calls are under way, ends that nobody claims are
//! remembered, and given to whoever claims them later.

use std::collections::HashMap;

use tokio::sync::oneshot;
use windlass_model::Timestamp;
use windlass_model::process::Exit;
use windlass_sys::process::{self, Reaped};

/// Whose process it is.
#[derive(Debug)]
pub enum Owner {
    /// A runtime that was called; whoever called waits for its status.
    Call(oneshot::Sender<u32>),
    /// A process of a container: its first, or the exec of that name.
    Process {
        /// The container.
        container: String,
        /// The exec.
        exec: Option<String>,
    },
    /// Process 1 of the pod's shared pid namespace.
    Init,
}

/// What the reaping of a child means to the pod.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// A process of a container ended.
    Process {
        /// The container.
        container: String,
        /// The exec, or nothing for the first process.
        exec: Option<String>,
        /// How.
        exit: Exit,
    },
    /// Process 1 of the shared pid namespace ended.
    Init(Exit),
}

/// The claims.
#[derive(Debug, Default)]
pub struct Exits {
    owners: HashMap<u32, Owner>,
    early: HashMap<u32, Exit>,
    calls: usize,
}

impl Exits {
    /// A runtime was called as process `pid`; the receiver gets its status.
    pub fn expect_call(&mut self, pid: u32) -> oneshot::Receiver<u32> {
        let (sender, receiver) = oneshot::channel();
        self.owners.insert(pid, Owner::Call(sender));
        self.calls += 1;
        receiver
    }

    /// What the call made has been claimed, or it made nothing.
    pub fn finish_call(&mut self) {
        self.calls = self.calls.saturating_sub(1);
        if self.calls == 0 {
            self.early = HashMap::new();
        }
    }

    /// `owner` has the process `pid`; its end, where it has come already.
    pub fn claim(&mut self, pid: u32, owner: Owner) -> Option<Ended> {
        match self.early.remove(&pid) {
            Some(exit) => self.ended(owner, exit),
            None => {
                self.owners.insert(pid, owner);
                None
            }
        }
    }

    /// Reaps the next child that has ended and is claimed; nothing where there is none left.
    pub fn next(&mut self) -> Option<Ended> {
        while let Ok(Some(reaped)) = process::reap() {
            if let Some(ended) = self.take(reaped) {
                return Some(ended);
            }
        }
        None
    }

    fn take(&mut self, reaped: Reaped) -> Option<Ended> {
        let exit = Exit { status: reaped.status, at: Timestamp::now() };
        match self.owners.remove(&reaped.pid) {
            Some(owner) => self.ended(owner, exit),
            None => {
                if self.calls > 0 {
                    self.early.insert(reaped.pid, exit);
                }
                None
            }
        }
    }

    fn ended(&mut self, owner: Owner, exit: Exit) -> Option<Ended> {
        match owner {
            Owner::Call(waiting) => {
                waiting.send(exit.status).ok();
                None
            }
            Owner::Process { container, exec } => Some(Ended::Process { container, exec, exit }),
            Owner::Init => Some(Ended::Init(exit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner::Process { container: "c".into(), exec: None }
    }

    #[test]
    fn an_end_before_its_claim_is_not_lost() {
        let mut exits = Exits::default();
        let mut waiting = exits.expect_call(10);
        assert_eq!(exits.take(Reaped { pid: 11, status: 3 }), None);
        assert_eq!(exits.take(Reaped { pid: 10, status: 0 }), None);
        assert_eq!(waiting.try_recv(), Ok(0));
        let ended = exits.claim(11, owner());
        assert!(matches!(ended, Some(Ended::Process { exit: Exit { status: 3, .. }, .. })));
        exits.finish_call();
        assert!(exits.early.is_empty());
    }

    #[test]
    fn orphans_are_forgotten_where_nobody_waits() {
        let mut exits = Exits::default();
        assert_eq!(exits.take(Reaped { pid: 5, status: 1 }), None);
        assert!(exits.early.is_empty());
        assert_eq!(exits.claim(6, owner()), None);
        assert!(matches!(exits.take(Reaped { pid: 6, status: 137 }), Some(Ended::Process { .. })));
    }
}
