//! The life of a process in a container: one enum, one table of what may happen when.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::time::Timestamp;

/// Where a process is in its life. Numbers and names are containerd's (`api/types/task`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Not known (the shim does not answer).
    #[default]
    Unknown,
    /// Made, the user's program not started.
    Created,
    /// The user's program runs.
    Running,
    /// Ended; its exit is known.
    Stopped,
    /// Frozen.
    Paused,
    /// On the way to being frozen.
    Pausing,
}

/// What can be asked of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Start the user's program.
    Start,
    /// Send a signal.
    Kill,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Start another process beside it.
    Exec,
    /// The kernel reported its end.
    Exit,
    /// Forget it.
    Delete,
}

impl State {
    /// The state after `verb`, or the error that names both.
    ///
    /// # Errors
    /// [`crate::Kind::FailedPrecondition`] where the table has no such transition.
    pub fn after(self, verb: Verb) -> Result<Self> {
        use State::{Created, Paused, Pausing, Running, Stopped};
        match (self, verb) {
            (Created, Verb::Start) => Ok(Running),
            (Created | Running | Paused | Pausing, Verb::Kill) => Ok(self),
            (Running, Verb::Pause) => Ok(Paused),
            (Paused, Verb::Resume) => Ok(Running),
            (Created | Running, Verb::Exec) => Ok(self),
            (Created | Running | Paused | Pausing, Verb::Exit) => Ok(Stopped),
            (Created | Stopped, Verb::Delete) => Ok(Stopped),
            _ => Err(Error::precondition(format!("cannot {verb:?} a process that is {self:?}").to_lowercase())),
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, or 128 plus the signal.
    pub status: u32,
    /// When the kernel reported it.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_process_can_only_be_deleted() {
        for verb in [Verb::Start, Verb::Kill, Verb::Pause, Verb::Resume, Verb::Exec, Verb::Exit] {
            assert!(State::Stopped.after(verb).is_err(), "{verb:?}");
        }
        assert_eq!(State::Stopped.after(Verb::Delete).unwrap(), State::Stopped);
    }

    #[test]
    fn a_refused_transition_names_both() {
        let error = State::Stopped.after(Verb::Start).unwrap_err();
        assert_eq!(error.to_string(), "cannot start a process that is stopped");
    }
}
