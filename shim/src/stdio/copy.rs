//! The carrying itself: one task for each stream.
//!
//! A container may write faster than lines can be taken one by one. Where a read brings much, the pipe is made larger and
//! left alone for a moment afterwards, so that the next read brings much again: the cost is per read, not per line.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::{Errno, read, write};
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use windlass_model::{Result, Timestamp};

use super::attach::{Viewers, press_end};
use crate::log::{Lines, Log};

/// What one read takes while little comes, in bytes.
pub(super) const SMALL: usize = 4 * 1024;
/// What one read takes while much comes, in bytes.
const LARGE: usize = 128 * 1024;
/// The size of a busy pipe, in bytes; the most that the kernel grants by default.
const PIPE: usize = 1024 * 1024;
/// How long a busy pipe is left to fill.
const PAUSE: Duration = Duration::from_millis(2);
/// Rounds less than this apart are too many.
const CLOSE: Duration = Duration::from_micros(500);

/// Where an output goes.
#[derive(Debug)]
pub enum Sink {
    /// Nowhere.
    Nowhere,
    /// A file.
    File(File),
    /// A named pipe, non-blocking.
    Pipe(AsyncFd<OwnedFd>),
    /// The container's log.
    Log {
        /// This stream's lines.
        lines: Lines,
        /// The file of both streams.
        log: Arc<Mutex<Log>>,
    },
}

/// What a round of reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// The source is empty for now.
    Empty,
    /// There was much, and there may be more.
    Busy,
    /// The source has ended.
    End,
}

impl Sink {
    /// A named pipe.
    ///
    /// # Errors
    /// Where it cannot be watched.
    pub fn pipe(fd: OwnedFd) -> Result<Self> {
        super::watched(fd).map(Self::Pipe)
    }

    async fn take(&mut self, bytes: &[u8]) {
        match self {
            Self::Nowhere => {}
            // A full disk takes a terminal's output away, not the program behind it.
            Self::File(file) => drop(file.write_all(bytes)),
            Self::Pipe(pipe) => drop(send(pipe, bytes).await),
            Self::Log { lines, log } => {
                lines.feed(bytes, Timestamp::now(), &mut log.lock().unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    fn finish(&mut self) {
        if let Self::Log { lines, log } = self {
            lines.finish(Timestamp::now(), &mut log.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// Carries one output to its end. `drained` is dropped as soon as all that was written before `ended` is carried.
pub async fn output(
    source: Arc<AsyncFd<OwnedFd>>,
    mut sink: Sink,
    viewers: Arc<Viewers>,
    mut ended: watch::Receiver<bool>,
    drained: oneshot::Sender<()>,
) {
    let mut drained = Some(drained);
    let mut widened = false;
    let mut last = Instant::now();
    let mut busy = false;
    loop {
        let round = tokio::select! {
            biased;
            // What an ended process wrote is in the pipe already: one pipe's length from here is all of it.
            _ = ended.changed(), if drained.is_some() => {
                let round = carry(&source, &mut sink, &viewers, PIPE).await;
                drained = None;
                round
            }
            () = tokio::time::sleep(PAUSE), if busy => carry(&source, &mut sink, &viewers, PIPE).await,
            ready = source.readable(), if !busy => {
                let Ok(mut ready) = ready else { break };
                let round = carry(&source, &mut sink, &viewers, LARGE).await;
                if round != Round::End {
                    ready.clear_ready();
                }
                round
            }
        };
        // Rounds that follow each other closely are made fewer; a readiness cleared too early is found by the pause.
        busy = match round {
            Round::End => break,
            Round::Busy => true,
            Round::Empty => last.elapsed() < CLOSE,
        };
        last = Instant::now();
        if busy && !widened {
            widened = true;
            rustix::pipe::fcntl_setpipe_size(source.get_ref(), PIPE).ok();
        }
    }
    sink.finish();
    viewers.close();
}

/// Reads until the source is empty or has given `limit` bytes.
async fn carry(source: &AsyncFd<OwnedFd>, sink: &mut Sink, viewers: &Viewers, limit: usize) -> Round {
    let mut total = 0;
    // Most reads bring a line or two; large memory is only touched, and kept, while it is needed.
    let mut buffer = vec![0; SMALL];
    loop {
        match read(source.get_ref(), &mut buffer) {
            Ok(0) => return Round::End,
            Ok(count) => {
                sink.take(&buffer[..count]).await;
                viewers.offer(&buffer[..count]);
                total += count;
                if total >= limit {
                    return Round::Busy;
                }
                if count == buffer.len() && count == SMALL {
                    buffer = vec![0; LARGE];
                }
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if total >= SMALL => return Round::Busy,
            Err(Errno::AGAIN) => return Round::Empty,
            // EIO: the other side of a terminal has been closed by all.
            Err(_) => return Round::End,
        }
    }
}

/// Carries input until its source ends or the process takes no more.
pub async fn input(source: AsyncFd<OwnedFd>, sink: Arc<AsyncFd<OwnedFd>>, terminal: bool) {
    let mut buffer = Vec::new();
    let mut last = b'\n';
    loop {
        let Ok(mut ready) = source.readable().await else { return };
        buffer.resize(SMALL, 0);
        match read(source.get_ref(), &mut buffer[..]) {
            Ok(0) => break,
            Ok(count) => {
                if !send(&sink, &buffer[..count]).await {
                    return;
                }
                last = buffer[count - 1];
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                ready.clear_ready();
                buffer = Vec::new();
            }
            Err(_) => break,
        }
    }
    if terminal {
        press_end(&sink, last == b'\n');
    }
}

/// Writes all of `bytes`; false where nobody can read them any more.
pub(super) async fn send(to: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Ok(mut ready) = to.writable().await else { return false };
        match write(to.get_ref(), bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(_) => return false,
        }
    }
    true
}
