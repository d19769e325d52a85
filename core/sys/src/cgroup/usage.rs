//! What a cgroup has used: processor time, memory, processes.

use std::fs;
use std::path::Path;

use windlass_model::Result;

use super::Layout;

/// A cgroup's counters; what the kernel does not tell is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in nanoseconds.
    pub cpu_nanos: u64,
    /// Of it in user mode, nanoseconds.
    pub cpu_user_nanos: u64,
    /// Of it in the kernel, nanoseconds.
    pub cpu_system_nanos: u64,
    /// Memory in bytes, caches included.
    pub memory: u64,
    /// The limit of memory in bytes; `u64::MAX` where there is none.
    pub memory_limit: u64,
    /// Of memory, caches that have not been used lately, in bytes.
    pub inactive_file: u64,
    /// Anonymous memory in bytes.
    pub anonymous: u64,
    /// Page faults.
    pub faults: u64,
    /// Page faults that went to disk.
    pub major_faults: u64,
    /// Processes and threads.
    pub pids: u64,
    /// The limit of processes; 0 where there is none.
    pub pids_limit: u64,
}

impl Usage {
    /// Reads the counters of `cgroup`.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for a wrong name; a missing cgroup reads as zeroes.
    pub fn read(layout: &Layout, cgroup: &str) -> Result<Self> {
        if layout.is_v2() { Self::read_v2(&layout.controller(cgroup, "")?) } else { Self::read_v1(layout, cgroup) }
    }

    fn read_v2(folder: &Path) -> Result<Self> {
        let cpu = text(&folder.join("cpu.stat"));
        let memory = text(&folder.join("memory.stat"));
        Ok(Self {
            cpu_nanos: field(&cpu, "usage_usec") * 1000,
            cpu_user_nanos: field(&cpu, "user_usec") * 1000,
            cpu_system_nanos: field(&cpu, "system_usec") * 1000,
            memory: number(&folder.join("memory.current")),
            memory_limit: text(&folder.join("memory.max")).trim().parse().unwrap_or(u64::MAX),
            inactive_file: field(&memory, "inactive_file"),
            anonymous: field(&memory, "anon"),
            faults: field(&memory, "pgfault"),
            major_faults: field(&memory, "pgmajfault"),
            pids: number(&folder.join("pids.current")),
            pids_limit: number(&folder.join("pids.max")),
        })
    }

    fn read_v1(layout: &Layout, cgroup: &str) -> Result<Self> {
        let mut usage = Self { memory_limit: u64::MAX, ..Self::default() };
        if let Ok(folder) = layout.controller(cgroup, "cpuacct") {
            usage.cpu_nanos = number(&folder.join("cpuacct.usage"));
            usage.cpu_user_nanos = number(&folder.join("cpuacct.usage_user"));
            usage.cpu_system_nanos = number(&folder.join("cpuacct.usage_sys"));
        }
        if let Ok(folder) = layout.controller(cgroup, "memory") {
            let memory = text(&folder.join("memory.stat"));
            usage.memory = number(&folder.join("memory.usage_in_bytes"));
            let limit = number(&folder.join("memory.limit_in_bytes"));
            // "No limit" is the largest multiple of a page.
            usage.memory_limit = if limit == 0 || limit > i64::MAX as u64 / 2 { u64::MAX } else { limit };
            usage.inactive_file = field(&memory, "total_inactive_file");
            usage.anonymous = field(&memory, "total_rss");
            usage.faults = field(&memory, "total_pgfault");
            usage.major_faults = field(&memory, "total_pgmajfault");
        }
        if let Ok(folder) = layout.controller(cgroup, "pids") {
            usage.pids = number(&folder.join("pids.current"));
            usage.pids_limit = number(&folder.join("pids.max"));
        }
        Ok(usage)
    }
}

fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// The number in a file; "max" and what is missing are 0.
fn number(file: &Path) -> u64 {
    text(file).trim().parse().unwrap_or(0)
}

/// The number after `name` in lines of "name number".
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}
