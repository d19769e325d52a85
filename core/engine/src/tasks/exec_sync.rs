//! Runs a program in a container to its end and collects what it says.
//!
//! What it says beyond the limit is read and dropped, so that it never blocks. Nobody can leave the program running:
//! neither by a time-out nor by hanging up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use windlass_model::{Error, Result};

use super::client::Client;
use super::exec::{self, Running};
use super::streams::{Output, TaskStreams};
use super::table::Entry;
use super::{ExecOutput, ExecSync, StartExec};

/// Farther away than any program runs.
const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Runs `request` in a container of the shim behind `client`; where the returned future is dropped, the program is killed.
pub(super) async fn run(client: Client, entry: Arc<Entry>, request: ExecSync) -> Result<ExecOutput> {
    let ExecSync { container, process, timeout: patience, limit } = request;
    let deadline = Instant::now() + patience.unwrap_or(NEVER);
    let late = || {
        let seconds = patience.unwrap_or_default().as_secs_f32();
        Error::deadline(format!(
            "the program in container {container} did not end in time ({seconds} s) and was killed"
        ))
    };
    let order = StartExec {
        container: container.clone(),
        process,
        terminal: false,
        stdin: false,
        stdout: true,
        stderr: true,
        grace: Duration::ZERO,
    };
    let started = timeout_at(deadline, exec::start(client, entry, order)).await;
    let (mut streams, running) = started.unwrap_or_else(|_| Err(late()))?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let work = collect(&mut streams, &running, &mut stdout, &mut stderr, limit);
    let done = timeout_at(deadline, work).await;
    // What it left behind may hold its pipes when its time is up, but it has ended.
    let exit = running.exit();
    running.finish().await;
    match (done, exit) {
        (Ok(Err(error)), _) => Err(error),
        (_, Some(exit)) => Ok(ExecOutput { stdout, stderr, exit }),
        (_, None) => Err(late()),
    }
}

/// Takes both outputs to their end, and the program's own.
async fn collect(
    streams: &mut TaskStreams,
    running: &Running,
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
    limit: usize,
) -> Result<()> {
    tokio::join!(keep(&mut streams.stdout, stdout, limit), keep(&mut streams.stderr, stderr, limit));
    running.wait().await.map(drop)
}

/// Keeps the beginning of an output.
async fn keep(output: &mut Option<Output>, kept: &mut Vec<u8>, limit: usize) {
    let Some(output) = output else { return };
    while let Some(piece) = output.next().await {
        let room = limit.saturating_sub(kept.len());
        kept.extend_from_slice(piece.get(..room).unwrap_or(piece));
    }
}
