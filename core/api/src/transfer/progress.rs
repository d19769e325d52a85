//! Progress over a stream. A client that is slow misses steps in between; the transfer does not wait for it.

use std::time::Duration;

use containerd_client::types::transfer::Progress as Word;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use windlass_engine::images::{Progress, Reporter};

use crate::streaming::Stream;
use crate::words;

/// How many steps wait for the client.
const STEPS: usize = 256;
/// How long the last steps may take to reach the client.
const LAST: Duration = Duration::from_secs(5);

/// The task that tells the client.
pub(super) struct Told(JoinHandle<()>);

/// A reporter whose steps go over `stream`, which ends with the reporter.
pub(super) fn over(stream: Stream) -> (Reporter, Option<Told>) {
    let (sender, mut steps) = mpsc::channel(STEPS);
    let listener = move |step: Progress| drop(sender.try_send(step));
    let telling = async move {
        while let Some(step) = steps.recv().await {
            if stream.send(&word(step)).await.is_err() {
                return;
            }
        }
    };
    (Reporter::new(listener), Some(Told(tokio::spawn(telling))))
}

impl Told {
    /// Waits until the last step is told, after the reporter is gone.
    pub(super) async fn finish(mut self) {
        if tokio::time::timeout(LAST, &mut self.0).await.is_err() {
            self.0.abort();
        }
    }
}

fn word(step: Progress) -> Word {
    Word {
        event: step.event,
        name: step.name,
        parents: step.parents,
        progress: words::size(step.progress),
        total: words::size(step.total),
        desc: step.descriptor.map(words::descriptor),
    }
}
