//! Signals: their names, and those that come to us on behalf of a program we watch.

use std::future::poll_fn;
use std::task::Poll;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

/// What is passed on to a program. What stops and continues us stays ours.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];

/// The largest number of a signal.
const LARGEST: u32 = 64;

/// Signals that come to this process, from the making of this on.
#[derive(Debug)]
pub(crate) struct Signals {
    listeners: Vec<(u32, Listener)>,
}

impl Signals {
    /// Catches all that is passed on, and the news of another window size.
    pub fn listen() -> Result<Self> {
        let numbers = PASSED_ON.iter().map(|signal| *signal as i32).chain([Signal::SIGWINCH as i32]);
        let listen = |number: i32| {
            let listener = signal(SignalKind::from_raw(number)).with_context(|| format!("catch signal {number}"))?;
            Ok((u32::try_from(number)?, listener))
        };
        Ok(Self { listeners: numbers.map(listen).collect::<Result<_>>()? })
    }

    /// The number of the next one. Cancel safe.
    pub async fn next(&mut self) -> u32 {
        poll_fn(|context| {
            for (number, listener) in &mut self.listeners {
                if let Poll::Ready(Some(())) = listener.poll_recv(context) {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// True for the news of another window size.
pub(crate) fn is_resize(number: u32) -> bool {
    number == Signal::SIGWINCH as u32
}

/// Reads a signal: `SIGTERM`, `TERM`, `term` or `15`.
pub(crate) fn number(text: &str) -> Result<u32, String> {
    let unknown = || format!("{text:?} is no signal");
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=LARGEST).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<Signal>().map(|signal| signal as u32).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["SIGTERM", "TERM", "term", "15"] {
            assert_eq!(number(text), Ok(15), "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGNONSENSE", "SIG"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
