//! A shim's process, held by a handle (pidfd) that can never mean another process.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;
use windlass_model::Result;

use super::bundle::Bundle;
use super::table::Key;
use crate::blocking;

/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// One process of a shim.
#[derive(Debug)]
pub(super) struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// The process that a bundle or a shim names, if it lives and was started for `key`.
    pub(super) fn of_shim(pid: u32, key: &Key) -> Option<Self> {
        let handle = open(pid)?;
        // The command line is read after the handle was opened: if it fits, the handle is the shim's.
        if !command_line_names(pid, key) {
            return None;
        }
        // Deprecated for types that may give out another descriptor later; an OwnedFd keeps its one.
        #[allow(deprecated)]
        AsyncFd::with_interest(handle, Interest::READABLE).ok().map(Self)
    }

    /// Kills it; one that is gone is killed.
    pub(super) fn kill(&self) {
        // The only other answer is "no such process".
        let _ = pidfd_send_signal(self.0.get_ref(), Signal::KILL);
    }

    /// Waits for its end. Cancel safe.
    pub(super) async fn wait(&self) {
        // A pidfd is readable once its process has ended, and stays so.
        let _ = self.0.readable().await;
    }

    /// Waits for its end, but not for ever; true if it ended.
    pub(super) async fn ended_within(&self, limit: Duration) -> bool {
        timeout(limit, self.wait()).await.is_ok()
    }
}

/// Kills every process that was started for the shim `key`, also one that has not come up, and waits until they are gone.
pub(super) async fn kill_all(key: &Key, bundle: &Bundle) -> Result<()> {
    let named = bundle.shim_pid();
    let wanted = key.clone();
    let found = blocking(move || Ok(search(&wanted))).await?;
    let processes: Vec<Process> = found.into_iter().chain(named).filter_map(|pid| Process::of_shim(pid, key)).collect();
    for process in &processes {
        process.kill();
    }
    for process in &processes {
        if !process.ended_within(PATIENCE).await {
            tracing::warn!("a killed shim does not end; it hangs in the kernel");
        }
    }
    Ok(())
}

fn open(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// True where the process's arguments are those of a shim for `key`.
fn command_line_names(pid: u32, key: &Key) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let arguments: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let follows = |flag: &[u8], value: &str| {
        arguments.windows(2).any(|pair| pair.first() == Some(&flag) && pair.last() == Some(&value.as_bytes()))
    };
    follows(b"-id", key.1.as_str()) && follows(b"-namespace", key.0.as_str())
}

/// The processes that look like shims for `key`.
fn search(key: &Key) -> Vec<u32> {
    let listing = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = listing.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id() && command_line_names(*pid, key)).collect()
}
