//! Being told that the kernel killed a process of a cgroup for memory.
//!
//! Version 1 writes to an eventfd that is registered for `memory.oom_control`; version 2 changes `memory.events`, which
//! inotify reports. Both files count the kills, so that an event without a new kill (the cgroup's removal) is told apart.
//!
//! systemd removes a scope as soon as its last process has ended, which may be before the count is read, and takes the
//! kernel's last notice along. Then the cgroup above tells, whose file counts what happened below: a kill since the last
//! look, in the moments after something was reported here, was one here.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use windlass_model::{Context, Result};

use super::Layout;
use crate::errno;

/// How long a report says something of what happens next. The kernel holds back further ones for 10 ms.
const STIR: Duration = Duration::from_secs(1);

/// A registration for a cgroup's kills; its descriptor becomes readable when there may be news.
#[derive(Debug)]
pub struct OomWatch {
    notice: OwnedFd,
    counter: PathBuf,
    seen: u64,
    /// The file of the cgroup above, with version 2, and its count.
    above: Option<(PathBuf, u64)>,
    stirred: Option<Instant>,
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
        let seen = kills(&counter).unwrap_or_default();
        let above = folder.parent().filter(|_| layout.is_v2()).map(|folder| folder.join("memory.events"));
        let above = above.and_then(|file| kills(&file).map(|count| (file, count)));
        Ok(Self { notice, counter, seen, above, stirred: None })
    }

    /// To be called when the descriptor is readable: true where the kernel has killed since the last call.
    pub fn take(&mut self) -> bool {
        let mut notices = [MaybeUninit::<u8>::uninit(); 512];
        if self.above.is_some() {
            let mut reports = inotify::Reader::new(&self.notice, &mut notices);
            while let Ok(report) = reports.next() {
                if report.events().contains(inotify::ReadFlags::MODIFY) {
                    self.stirred = Some(Instant::now());
                }
            }
        } else {
            rustix::io::read(&self.notice, &mut notices).ok();
        }
        let above = self.above.as_mut().and_then(|(file, seen)| {
            let now = kills(file)?;
            let news = now > *seen;
            *seen = now;
            Some(news)
        });
        match kills(&self.counter) {
            Some(now) => {
                let news = now > self.seen;
                self.seen = now.max(self.seen);
                news
            }
            None => above == Some(true) && self.stirred.is_some_and(|at| at.elapsed() < STIR),
        }
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

/// How many processes the kernel has killed here, and below with version 2; both versions write `oom_kill N`. Nothing
/// where the file is gone.
fn kills(counter: &Path) -> Option<u64> {
    let text = fs::read_to_string(counter).ok()?;
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    Some(count.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
}
