//! One process of a container, its first or an exec: its state, its streams, and who waits for its end.

use windlass_model::process::{Exit, State, Verb};
use windlass_model::{Error, Result};
use windlass_sys::process::signal;

use crate::serve::Reply;
use crate::stdio::logger::Logger;
use crate::stdio::{Io, Wish};

/// A process.
#[derive(Debug)]
pub struct Process {
    state: State,
    /// Its id on the host; 0 until there is one.
    pub pid: u32,
    /// When it began, where that is needed; see [`windlass_sys::enter::birth`].
    pub birth: u64,
    /// What the client asked for.
    pub wish: Wish,
    /// Its streams.
    pub io: Option<Io>,
    /// How it ended, once its output is carried.
    pub exit: Option<Exit>,
    /// A call of a runtime for it is under way.
    pub busy: bool,
    /// The kernel has reported its end, which is not told yet.
    pub ending: Option<Exit>,
    /// Who waits for its end.
    pub waiting: Vec<Reply<Exit>>,
}

impl Process {
    /// A process that is still to be made.
    pub fn new(wish: Wish) -> Self {
        Self {
            state: State::Unknown,
            pid: 0,
            birth: 0,
            wish,
            io: None,
            exit: None,
            busy: false,
            ending: None,
            waiting: Vec::new(),
        }
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        self.state
    }

    /// The runtime has made it.
    pub fn created(&mut self) {
        self.state = State::Created;
    }

    /// Goes to the state after `verb`.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`] where the table has no such step, or a call is under way.
    pub fn step(&mut self, verb: Verb) -> Result<()> {
        self.state = self.after(verb)?;
        Ok(())
    }

    /// The state after `verb`, without going there.
    ///
    /// # Errors
    /// As [`Process::step`].
    pub fn after(&self, verb: Verb) -> Result<State> {
        if self.busy {
            return Err(Error::precondition(format!("cannot {verb:?}: another call is under way").to_lowercase()));
        }
        self.state.after(verb)
    }

    /// What writes its output down, where that is a logging program; the process has ended and its streams go with it.
    pub fn take_logger(&mut self) -> Option<Logger> {
        self.io.take_if(|io| io.has_logger()).and_then(Io::into_logger)
    }

    /// The end is to be told: nothing of it can be undone.
    pub fn finish(&mut self, exit: Exit) {
        self.state = State::Stopped;
        self.exit = Some(exit);
        for reply in self.waiting.drain(..) {
            reply.send(Ok(exit)).ok();
        }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`] where it has ended.
    pub fn signal(&self, number: u32) -> Result<()> {
        let gone = || Error::not_found("process already finished");
        if self.state == State::Stopped || self.ending.is_some() {
            return Err(gone());
        }
        self.state.after(Verb::Kill)?;
        // It is a child that has not been reaped, so the id cannot have gone to another.
        signal(self.pid, number).map_err(|error| if error.is_not_found() { gone() } else { error })
    }
}
