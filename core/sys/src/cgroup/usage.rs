//! What a cgroup has used, read from files whose places are looked up once.
//!
//! The kernel's files may be missing (a controller that is off), partial or of another kernel's making: what cannot be
//! read is absent or zero, and never an error. Only where the cgroup itself is gone there is no answer.

mod detail;
mod files;
mod members;
mod pressure;

use std::path::{Path, PathBuf};

use windlass_model::{Error, Result};

use super::Layout;
pub use detail::{Detail, DeviceIo, HugePages};
use files::{Files, pairs};
pub use members::{Members, soft_open_files};
pub use pressure::{Pressure, Stall, Stalls};

/// No limit, in the kernel's words of version 1: the largest multiple of a page.
const UNLIMITED: u64 = i64::MAX as u64 / 2;

/// A cgroup's counters; what the kernel does not tell is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time in nanoseconds.
    pub cpu_nanos: u64,
    /// Of it in user mode, nanoseconds.
    pub cpu_user_nanos: u64,
    /// Of it in the kernel, nanoseconds.
    pub cpu_system_nanos: u64,
    /// False where the memory controller is off: then all that follows about memory and swap is zero.
    pub tells_memory: bool,
    /// Memory in bytes, caches included.
    pub memory: u64,
    /// The limit of memory in bytes; `u64::MAX` where there is none.
    pub memory_limit: u64,
    /// Of memory, caches that have not been used lately, in bytes.
    pub inactive_file: u64,
    /// Anonymous memory in bytes.
    pub anonymous: u64,
    /// Caches of files in bytes.
    pub cache: u64,
    /// Of the caches, what processes have mapped, in bytes.
    pub mapped_file: u64,
    /// Page faults, those of cgroups below included.
    pub faults: u64,
    /// Page faults that went to disk, those of cgroups below included.
    pub major_faults: u64,
    /// Swapped out, in bytes.
    pub swap: u64,
    /// The limit of what may be swapped out, in bytes; `u64::MAX` where there is none.
    pub swap_limit: u64,
    /// Processes and threads.
    pub pids: u64,
    /// The limit of processes; 0 where there is none.
    pub pids_limit: u64,
    /// How much its processes have waited; only with version 2.
    pub pressure: Pressure,
}

/// Where the files of one cgroup are.
#[derive(Clone, Debug)]
pub struct Counters(Place);

#[derive(Clone, Debug)]
enum Place {
    V1 { cpu: Option<PathBuf>, cpuacct: Option<PathBuf>, memory: Option<PathBuf>, more: More },
    V2(PathBuf),
}

/// The hierarchies of version 1 that are asked less often.
#[derive(Clone, Debug)]
struct More {
    pids: Option<PathBuf>,
    blkio: Option<PathBuf>,
    hugetlb: Option<PathBuf>,
}

impl Usage {
    /// Reads the counters of `cgroup`.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for a wrong name; a missing cgroup reads as zeroes.
    pub fn read(layout: &Layout, cgroup: &str) -> Result<Self> {
        Ok(Counters::of(layout, cgroup)?.usage().unwrap_or(Self { memory_limit: u64::MAX, ..Self::default() }))
    }

    /// Memory in bytes that cannot be reclaimed at once: all of it less the caches that nobody has used lately.
    pub fn working_set(&self) -> u64 {
        self.memory.saturating_sub(self.inactive_file)
    }
}

impl Counters {
    /// The places of `cgroup`, which need not be there yet.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for a wrong name.
    pub fn of(layout: &Layout, cgroup: &str) -> Result<Self> {
        if layout.is_v2() {
            return Ok(Self(Place::V2(layout.controller(cgroup, "")?)));
        }
        let folder = |controller| match layout.controller(cgroup, controller) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err::<_, Error>(error),
        };
        Ok(Self(Place::V1 {
            cpu: folder("cpu")?,
            cpuacct: folder("cpuacct")?,
            memory: folder("memory")?,
            more: More { pids: folder("pids")?, blkio: folder("blkio")?, hugetlb: folder("hugetlb")? },
        }))
    }

    /// The counters; nothing where the cgroup is not there.
    pub fn usage(&self) -> Option<Usage> {
        let mut files = Files::default();
        match &self.0 {
            Place::V2(folder) => usage_v2(folder, &mut files),
            Place::V1 { cpuacct, memory, more, .. } => {
                let mut usage = Usage { memory_limit: u64::MAX, swap_limit: u64::MAX, ..Usage::default() };
                let cpu = cpuacct.as_deref().is_some_and(|folder| cpu_v1(folder, &mut files, &mut usage));
                let memory = memory.as_deref().is_some_and(|folder| memory_v1(folder, &mut files, &mut usage));
                if let Some(folder) = &more.pids {
                    usage.pids = files.number(folder, "pids.current").unwrap_or(0);
                    usage.pids_limit = files.number(folder, "pids.max").unwrap_or(0);
                }
                (cpu || memory).then_some(usage)
            }
        }
    }

    /// Processor time in nanoseconds alone; nothing where the cgroup is not there.
    pub fn cpu_nanos(&self) -> Option<u64> {
        let mut files = Files::default();
        match &self.0 {
            Place::V2(folder) => {
                let text = files.text(folder, "cpu.stat")?;
                pairs(text).find(|(name, _)| *name == "usage_usec").map(|(_, micros)| micros.saturating_mul(1000))
            }
            Place::V1 { cpuacct, .. } => files.number(cpuacct.as_deref()?, "cpuacct.usage"),
        }
    }
}

fn usage_v2(folder: &Path, files: &mut Files) -> Option<Usage> {
    let mut usage = Usage { memory_limit: u64::MAX, swap_limit: u64::MAX, ..Usage::default() };
    // Every cgroup of version 2 has this file, with or without the cpu controller.
    for (name, value) in pairs(files.text(folder, "cpu.stat")?) {
        match name {
            "usage_usec" => usage.cpu_nanos = value.saturating_mul(1000),
            "user_usec" => usage.cpu_user_nanos = value.saturating_mul(1000),
            "system_usec" => usage.cpu_system_nanos = value.saturating_mul(1000),
            _ => {}
        }
    }
    if let Some(memory) = files.number(folder, "memory.current") {
        usage.tells_memory = true;
        usage.memory = memory;
        usage.memory_limit = files.number(folder, "memory.max").unwrap_or(u64::MAX);
        usage.swap = files.number(folder, "memory.swap.current").unwrap_or(0);
        usage.swap_limit = files.number(folder, "memory.swap.max").unwrap_or(u64::MAX);
        for (name, value) in pairs(files.text(folder, "memory.stat").unwrap_or_default()) {
            match name {
                "anon" => usage.anonymous = value,
                "file" => usage.cache = value,
                "file_mapped" => usage.mapped_file = value,
                "inactive_file" => usage.inactive_file = value,
                "pgfault" => usage.faults = value,
                "pgmajfault" => usage.major_faults = value,
                _ => {}
            }
        }
    }
    usage.pids = files.number(folder, "pids.current").unwrap_or(0);
    usage.pids_limit = files.number(folder, "pids.max").unwrap_or(0);
    usage.pressure = Pressure::read(folder, files);
    Some(usage)
}

fn cpu_v1(folder: &Path, files: &mut Files, usage: &mut Usage) -> bool {
    let Some(total) = files.number(folder, "cpuacct.usage") else { return false };
    usage.cpu_nanos = total;
    usage.cpu_user_nanos = files.number(folder, "cpuacct.usage_user").unwrap_or(0);
    usage.cpu_system_nanos = files.number(folder, "cpuacct.usage_sys").unwrap_or(0);
    true
}

fn memory_v1(folder: &Path, files: &mut Files, usage: &mut Usage) -> bool {
    let Some(memory) = files.number(folder, "memory.usage_in_bytes") else { return false };
    usage.tells_memory = true;
    usage.memory = memory;
    usage.memory_limit = files.number(folder, "memory.limit_in_bytes").map_or(u64::MAX, limit_v1);
    let (mut memory_limit, mut both_limit) = (u64::MAX, u64::MAX);
    for (name, value) in pairs(files.text(folder, "memory.stat").unwrap_or_default()) {
        match name {
            "hierarchical_memory_limit" => memory_limit = limit_v1(value),
            "hierarchical_memsw_limit" => both_limit = limit_v1(value),
            "total_rss" => usage.anonymous = value,
            "total_cache" => usage.cache = value,
            "total_mapped_file" => usage.mapped_file = value,
            "total_inactive_file" => usage.inactive_file = value,
            "total_pgfault" => usage.faults = value,
            "total_pgmajfault" => usage.major_faults = value,
            "total_swap" => usage.swap = value,
            _ => {}
        }
    }
    if both_limit != u64::MAX {
        usage.swap_limit = both_limit.saturating_sub(memory_limit);
    }
    true
}

fn limit_v1(limit: u64) -> u64 {
    if limit > UNLIMITED { u64::MAX } else { limit }
}

#[cfg(test)]
mod tests;
