//! Why the built-in runtime failed: libcontainer's errors name the step, and only its events of `tracing` name the cause.
//!
//! The events come from several processes, because the container's first process is forked long before it executes
//! anything; a pipe that all of them inherit brings them together.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use windlass_model::{Context, Error, Result};

/// The longest text of one event, in characters; it is cut in its middle, as the cause stands at its end.
const EVENT: usize = 400;
/// How many events are added to an error: those that come later only say which steps failed for it.
const EVENTS: usize = 2;
/// The most that is read, in bytes; what a pipe holds.
const HELD: u64 = 64 * 1024;

/// The events of this process and of those that it forks.
#[derive(Debug)]
pub struct Causes {
    pipe: OwnedFd,
}

/// Writes each error on a line of its own.
struct Teller {
    pipe: File,
}

/// An event as text: its message, then its other fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Causes {
    /// Listens to the errors of this process from now on.
    ///
    /// # Errors
    /// Where there is no pipe, or somebody listens already.
    pub fn listen() -> Result<Self> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(std::io::Error::from)
            .context(|| "make a pipe".into())?;
        tracing::subscriber::set_global_default(Teller { pipe: theirs.into() })
            .map_err(|_| Error::internal("events are listened to already"))?;
        Ok(Self { pipe: ours })
    }

    /// Adds what was told so far and `message` does not say. The first events come from where it happened.
    pub fn add(self, message: String) -> String {
        let mut told = Vec::new();
        // An error here is that nobody has written yet what would come next.
        File::from(self.pipe).take(HELD).read_to_end(&mut told).ok();
        explain(message, &String::from_utf8_lossy(&told))
    }
}

fn explain(mut message: String, told: &str) -> String {
    for line in told.lines().take(EVENTS) {
        if !message.contains(line) {
            message.push_str("; ");
            message.push_str(line);
        }
    }
    message
}

impl Subscriber for Teller {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        // A full pipe holds the first events, which are those that matter.
        (&self.pipe).write_all(text.line().as_bytes()).ok();
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, ", {name}: {value:?}"),
        };
        debug_assert!(written.is_ok(), "writing to a string cannot fail");
    }
}

impl Text {
    fn line(mut self) -> String {
        self.message.push_str(&self.fields);
        let text = self.message.replace(['\n', '\r'], " ");
        let count = text.chars().count();
        if count <= EVENT {
            return text + "\n";
        }
        let head = text.chars().take(EVENT / 2);
        let tail = text.chars().skip(count - EVENT / 2);
        head.chain(" ... ".chars()).chain(tail).chain(['\n']).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_explained_once_and_within_bounds() {
        assert_eq!(explain("cannot start".into(), "no folder\ncannot start\nno folder\n"), "cannot start; no folder");
        let many: String = (0..1000).map(|number| format!("event {number}\n")).collect();
        assert_eq!(explain("failed".into(), &many), "failed; event 0; event 1");
    }

    #[test]
    fn a_long_event_keeps_both_ends() {
        let text = Text { message: format!("begin{}end\n", "é".repeat(2000)), fields: ", errno: ENOENT".into() };
        let line = text.line();
        assert!(line.starts_with("begin") && line.ends_with("errno: ENOENT\n") && line.chars().count() < EVENT + 10);
    }
}
