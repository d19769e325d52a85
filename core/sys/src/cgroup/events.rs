//! Being told that the kernel killed a process of a cgroup for memory.
//!
//! Version 1 writes to an eventfd that is registered for `memory.oom_control`; version 2 changes `memory.events`, which
//! inotify reports. Both files count the kills, so that an event without a new kill (the cgroup's removal) is told apart.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use windlass_model::{Context, Result};

use super::Layout;
use crate::errno;

/// A registration for a cgroup's kills; its descriptor becomes readable when there may be news.
#[derive(Debug)]
pub struct OomWatch {
    notice: OwnedFd,
    counter: PathBuf,
    seen: u64,
}

impl OomWatch {
    /// Registers for the kills in `cgroup`.
    ///
    /// # Errors
    /// Where the cgroup or its memory controller is missing.
    pub fn new(layout: &Layout, cgroup: &str) -> Result<Self> {
        let folder = layout.controller(cgroup, "memory")?;
        let (notice, counter) = if layout.is_v2() {
            let counter = folder.join("memory.events");
            let notice = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
                .map_err(|error| errno(error, || "open inotify".into()))?;
            inotify::add_watch(&notice, &counter, inotify::WatchFlags::MODIFY)
                .map_err(|error| errno(error, || format!("watch {}", counter.display())))?;
            (notice, counter)
        } else {
            let counter = folder.join("memory.oom_control");
            let notice = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|error| errno(error, || "open an eventfd".into()))?;
            let control = fs::File::open(&counter).context(|| format!("open {}", counter.display()))?;
            let line = format!("{} {}", notice.as_raw_fd(), control.as_raw_fd());
            super::write(&folder.join("cgroup.event_control"), &line)?;
            (notice, counter)
        };
        let seen = kills(&counter);
        Ok(Self { notice, counter, seen })
    }

    /// To be called when the descriptor is readable: true where the kernel has killed since the last call.
    pub fn take(&mut self) -> bool {
        let mut notices = [MaybeUninit::<u8>::uninit(); 512];
        rustix::io::read(&self.notice, &mut notices).ok();
        let now = kills(&self.counter);
        let news = now > self.seen;
        self.seen = now.max(self.seen);
        news
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notice.as_fd()
    }
}

impl AsRawFd for OomWatch {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.notice.as_raw_fd()
    }
}

/// How many processes the kernel has killed here; both versions write `oom_kill N`.
fn kills(counter: &PathBuf) -> u64 {
    let text = fs::read_to_string(counter).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}
