//! Watches a container's cgroup for processes that the kernel killed for memory.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use windlass_model::{Context, Result};
use windlass_sys::cgroup::{Layout, OomWatch};

use crate::stdio::watched;

/// When it is looked after a notice whether the kernel has killed.
const LOOKS: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(100), Duration::from_secs(1)];

/// A running watch; it ends when dropped.
#[derive(Debug)]
pub struct Oom {
    watch: Arc<Mutex<OomWatch>>,
    _task: JoinSet<()>,
}

impl Oom {
    /// Watches `cgroup` and calls `killed` at each kill.
    ///
    /// # Errors
    /// Where the cgroup has no memory controller.
    pub fn start(layout: &Layout, cgroup: &str, killed: impl Fn() + Send + 'static) -> Result<Self> {
        let watch = OomWatch::new(layout, cgroup)?;
        let notice = watch.as_fd().try_clone_to_owned().context(|| "watch for memory".into())?;
        let notice = watched(notice)?;
        let watch = Arc::new(Mutex::new(watch));
        let shared = Arc::clone(&watch);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok(mut ready) = notice.readable().await {
                ready.clear_ready();
                // Version 1 gives notice before it kills, and the count may be behind.
                for pause in LOOKS {
                    tokio::time::sleep(pause).await;
                    if take(&shared) {
                        killed();
                        break;
                    }
                }
            }
        });
        Ok(Self { watch, _task: task })
    }

    /// True where the kernel has killed since it was last told, now and not only when the task gets its turn: a kill is
    /// to be told before the exit that it caused.
    pub fn take(&self) -> bool {
        take(&self.watch)
    }
}

fn take(watch: &Mutex<OomWatch>) -> bool {
    watch.lock().unwrap_or_else(PoisonError::into_inner).take()
}
