//! A shim's process, held by a handle (pidfd) that can never mean another process.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;
use windlass_model::Result;

use super::table::Key;
use crate::blocking;

/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// One process of a shim.
#[derive(Debug)]
pub(super) struct Process(AsyncFd<OwnedFd>);

/// The shim that is meant: another daemon on this machine may have one of the same name.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) key: Key,
    pub(super) bundle: PathBuf,
    /// The daemon's own socket.
    pub(super) address: PathBuf,
}

impl Process {
    /// The process that a bundle or a shim names, if it lives and was started for that shim.
    pub(super) fn of_shim(pid: u32, wanted: &Wanted) -> Option<Self> {
        let handle = open(pid)?;
        // The command line is read after the handle was opened: if it fits, the handle is the shim's.
        if !wanted.is_named_by(pid) {
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

/// Kills every process that was started for a shim, also one that has not come up, and waits until they are gone.
/// `named` is the one that its bundle names.
pub(super) async fn kill_all(wanted: Wanted, named: Option<u32>) -> Result<()> {
    let sought = wanted.clone();
    let found = blocking(move || Ok(sought.search())).await?;
    let pids = found.into_iter().chain(named);
    let processes: Vec<Process> = pids.filter_map(|pid| Process::of_shim(pid, &wanted)).collect();
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

impl Wanted {
    /// True where the process's arguments are those of this shim.
    fn is_named_by(&self, pid: u32) -> bool {
        command_line(pid).is_some_and(|line| self.is_named_in(&line))
    }

    fn is_named_in(&self, line: &[u8]) -> bool {
        let (namespace, id) = &self.key;
        after(line, "-id") == Some(id.as_str().as_bytes())
            && after(line, "-namespace") == Some(namespace.as_str().as_bytes())
            && after(line, "-bundle").is_none_or(|bundle| bundle == self.bundle.as_os_str().as_encoded_bytes())
    }

    /// True where that is not another daemon's, which shims that do not name their bundle tell by the socket.
    fn is_ours_in(&self, line: &[u8]) -> bool {
        after(line, "-address").is_none_or(|socket| socket == self.address.as_os_str().as_encoded_bytes())
    }

    /// The processes that look like this shim's.
    fn search(&self) -> Vec<u32> {
        let listing = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = listing.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let meant =
            |pid: &u32| command_line(*pid).is_some_and(|line| self.is_named_in(&line) && self.is_ours_in(&line));
        pids.filter(|pid| *pid != std::process::id() && meant(pid)).collect()
    }
}

fn command_line(pid: u32) -> Option<Vec<u8>> {
    std::fs::read(format!("/proc/{pid}/cmdline")).ok()
}

/// The argument after a flag.
fn after<'a>(line: &'a [u8], flag: &str) -> Option<&'a [u8]> {
    let mut arguments = line.split(|byte| *byte == 0);
    arguments.find(|argument| *argument == flag.as_bytes())?;
    arguments.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_of_the_same_name_may_be_another_daemons() {
        let key = ("n".parse().unwrap(), "c".parse().unwrap());
        let wanted = Wanted { key, bundle: "/run/a/n/c".into(), address: "/run/a.sock".into() };
        let named = |words: &str| {
            let line = words.replace(' ', "\0");
            wanted.is_named_in(line.as_bytes()) && wanted.is_ours_in(line.as_bytes())
        };
        assert!(named("shim serve -namespace n -id c -listen 3 -bundle /run/a/n/c"));
        assert!(named("shim -namespace n -id c -address /run/a.sock"));
        assert!(!named("shim serve -namespace n -id c -listen 3 -bundle /run/b/n/c"));
        assert!(!named("shim -namespace n -id c -address /run/b.sock"));
        assert!(!named("shim -namespace m -id c") && !named("shim -namespace n -id d") && !named("sh -c"));
    }
}
