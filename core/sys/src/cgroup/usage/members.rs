//! The processes of a cgroup and what they hold open.

use std::fs;

use super::{Counters, Place};
use crate::cgroup::collect;

/// What the processes of a cgroup are and hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Processes, those of cgroups below included.
    pub processes: u64,
    /// Their open descriptors.
    pub descriptors: u64,
    /// Of these, sockets.
    pub sockets: u64,
}

impl Counters {
    /// Counts the processes and their descriptors, by looking at each; nothing where the cgroup is not there.
    pub fn members(&self) -> Option<Members> {
        let folder = match &self.0 {
            Place::V2(folder) => folder,
            Place::V1 { cpu, cpuacct, memory, .. } => memory.as_ref().or(cpuacct.as_ref()).or(cpu.as_ref())?,
        };
        let mut pids = Vec::new();
        collect(folder, &mut pids).ok()?;
        let mut members = Members { processes: pids.len() as u64, ..Members::default() };
        for pid in pids {
            // A process that has ended meanwhile holds nothing.
            for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                members.descriptors += 1;
                let target = fs::read_link(entry.path()).unwrap_or_default();
                members.sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            }
        }
        Some(members)
    }
}

/// How many files a process may have open, by its soft limit; `u64::MAX` for any number, nothing where it is gone.
pub fn soft_open_files(pid: u32) -> Option<u64> {
    soft_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?, "Max open files")
}

fn soft_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soft_limit_is_found() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max processes             96365                96365                processes\n\
            Max open files            20000                40000                files\nMax file locks unlimited 1 locks\n";
        assert_eq!(soft_limit(text, "Max open files"), Some(20000));
        assert_eq!(soft_limit(text, "Max file locks"), Some(u64::MAX));
        assert_eq!((soft_limit(text, "Max cpu"), soft_limit("Max cpu", "Max cpu")), (None, None));
        assert!(soft_open_files(std::process::id()).is_some_and(|limit| limit > 0));
    }
}
