//! When a connection last moved, for the time-out of those that nobody uses any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The time of a connection's last byte, shared by its two directions.
#[derive(Clone, Debug)]
pub(super) struct Clock(Arc<Times>);

#[derive(Debug)]
struct Times {
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self(Arc::new(Times { start: Instant::now(), last: AtomicU64::new(0) }))
    }

    /// A byte moved.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(now, Ordering::Relaxed);
    }

    /// Ends once nothing has moved for `limit`.
    pub(super) async fn still_for(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.0.last.load(Ordering::Relaxed));
            let end = self.0.start + last + limit;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn only_a_still_connection_is_idle() {
        let clock = Clock::new();
        clock.touch();
        assert!(clock.still_for(Duration::from_secs(3600)).now_or_never().is_none());
        clock.still_for(Duration::ZERO).await;
    }
}
