//! What a monitoring system asks of a cgroup beyond its usage: throttling, devices, huge pages, limits.

use std::collections::BTreeMap;
use std::path::Path;

use super::files::{Files, pairs};
use super::{Counters, Place, limit_v1};

/// What the kernel gives a cgroup that sets no period, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// A cgroup's rarer counters; what the kernel does not tell is zero or absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// Periods in which processor time was handed out.
    pub periods: u64,
    /// Of them those in which it ran out.
    pub throttled_periods: u64,
    /// How long the processes waited for the next period, nanoseconds.
    pub throttled_nanos: u64,
    /// Page faults of this cgroup's own processes.
    pub own_faults: u64,
    /// Of them those that went to disk.
    pub own_major_faults: u64,
    /// The kernel's memory for the cgroup, bytes.
    pub kernel_memory: u64,
    /// The most memory that was ever in use, bytes; absent where the kernel keeps no record.
    pub max_memory: Option<u64>,
    /// How often the limit of memory was hit.
    pub limit_hits: u64,
    /// Processes that the kernel killed for memory.
    pub oom_kills: u64,
    /// Block devices that it used.
    pub devices: Vec<DeviceIo>,
    /// Huge pages by their size.
    pub huge_pages: Vec<HugePages>,
    /// The length of a period, microseconds.
    pub cpu_period: u64,
    /// Processor time in a period, microseconds; absent where there is no limit.
    pub cpu_quota: Option<u64>,
    /// Its share where processors are scarce, in the words of version 1.
    pub cpu_shares: u64,
    /// Memory that is kept for it, bytes; 0: none.
    pub memory_reservation: u64,
    /// The limit of swap (with version 1, of memory and swap together), bytes; 0: none.
    pub swap_limit: u64,
}

/// What went to and came from one block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device.
    pub major: u32,
    /// The device.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// The size in the kernel's words: `2MB`.
    pub size: String,
    /// In use, bytes.
    pub usage: u64,
    /// The most that was ever in use, bytes; absent where the kernel keeps no record.
    pub max_usage: Option<u64>,
}

type Devices = BTreeMap<(u32, u32), DeviceIo>;

impl Counters {
    /// The rarer counters; nothing where the cgroup is not there.
    pub fn detail(&self) -> Option<Detail> {
        let mut files = Files::default();
        let mut detail = Detail { cpu_period: DEFAULT_PERIOD, ..Detail::default() };
        match &self.0 {
            Place::V2(folder) => detail.fill_v2(folder, &mut files).then_some(detail),
            Place::V1 { cpu, memory, more, .. } => {
                let cpu = cpu.as_deref().is_some_and(|folder| detail.fill_cpu_v1(folder, &mut files));
                let memory = memory.as_deref().is_some_and(|folder| detail.fill_memory_v1(folder, &mut files));
                if let Some(folder) = &more.blkio {
                    detail.devices = devices_v1(folder, &mut files);
                }
                if let Some(folder) = &more.hugetlb {
                    detail.huge_pages = huge_pages(folder, "usage_in_bytes", &mut files);
                }
                (cpu || memory).then_some(detail)
            }
        }
    }
}

impl Detail {
    fn fill_v2(&mut self, folder: &Path, files: &mut Files) -> bool {
        let Some(text) = files.text(folder, "cpu.stat") else { return false };
        for (name, value) in pairs(text) {
            match name {
                "nr_periods" => self.periods = value,
                "nr_throttled" => self.throttled_periods = value,
                "throttled_usec" => self.throttled_nanos = value.saturating_mul(1000),
                _ => {}
            }
        }
        for (name, value) in pairs(files.text(folder, "memory.stat").unwrap_or_default()) {
            match name {
                "pgfault" => self.own_faults = value,
                "pgmajfault" => self.own_major_faults = value,
                "kernel" => self.kernel_memory = value,
                _ => {}
            }
        }
        for (name, value) in pairs(files.text(folder, "memory.events").unwrap_or_default()) {
            match name {
                "max" => self.limit_hits = value,
                "oom_kill" => self.oom_kills = value,
                _ => {}
            }
        }
        self.max_memory = files.number(folder, "memory.peak");
        self.memory_reservation = files.number(folder, "memory.min").unwrap_or(0);
        self.swap_limit = files.number(folder, "memory.swap.max").unwrap_or(0);
        self.devices = files.text(folder, "io.stat").map(devices_v2).unwrap_or_default();
        self.huge_pages = huge_pages(folder, "current", files);
        if let Some((quota, period)) = files.text(folder, "cpu.max").and_then(|text| text.trim().split_once(' ')) {
            self.cpu_quota = quota.parse().ok();
            self.cpu_period = period.parse().unwrap_or(DEFAULT_PERIOD);
        }
        if let Some(weight) = files.number(folder, "cpu.weight") {
            self.cpu_shares = shares(weight);
        }
        true
    }

    fn fill_cpu_v1(&mut self, folder: &Path, files: &mut Files) -> bool {
        let Some(text) = files.text(folder, "cpu.stat") else { return false };
        for (name, value) in pairs(text) {
            match name {
                "nr_periods" => self.periods = value,
                "nr_throttled" => self.throttled_periods = value,
                "throttled_time" => self.throttled_nanos = value,
                _ => {}
            }
        }
        // "-1" is no limit, and no number of ours.
        self.cpu_quota = files.number(folder, "cpu.cfs_quota_us");
        self.cpu_period = files.number(folder, "cpu.cfs_period_us").unwrap_or(DEFAULT_PERIOD);
        self.cpu_shares = files.number(folder, "cpu.shares").unwrap_or(0);
        true
    }

    fn fill_memory_v1(&mut self, folder: &Path, files: &mut Files) -> bool {
        let Some(text) = files.text(folder, "memory.stat") else { return false };
        for (name, value) in pairs(text) {
            match name {
                "pgfault" => self.own_faults = value,
                "pgmajfault" => self.own_major_faults = value,
                _ => {}
            }
        }
        let control = pairs(files.text(folder, "memory.oom_control").unwrap_or_default());
        self.oom_kills = control.filter(|(name, _)| *name == "oom_kill").map(|(_, value)| value).sum();
        self.kernel_memory = files.number(folder, "memory.kmem.usage_in_bytes").unwrap_or(0);
        self.max_memory = files.number(folder, "memory.max_usage_in_bytes");
        self.limit_hits = files.number(folder, "memory.failcnt").unwrap_or(0);
        let mut limit = |name| files.number(folder, name).map(limit_v1).filter(|limit| *limit != u64::MAX).unwrap_or(0);
        self.memory_reservation = limit("memory.soft_limit_in_bytes");
        self.swap_limit = limit("memory.memsw.limit_in_bytes");
        true
    }
}

/// Shares of version 1 that a weight of version 2 stands for, as the runtimes turn one into the other.
fn shares(weight: u64) -> u64 {
    2 + weight.clamp(1, 10_000).saturating_sub(1) * 262_142 / 9_999
}

/// Lines of "253:0 Read 4096", one file for bytes and one for operations.
fn devices_v1(folder: &Path, files: &mut Files) -> Vec<DeviceIo> {
    let mut found = Devices::new();
    for (file, bytes) in
        [("blkio.throttle.io_service_bytes_recursive", true), ("blkio.throttle.io_serviced_recursive", false)]
    {
        for line in files.text(folder, file).unwrap_or_default().lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(device), Some(operation), Some(value)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let (Some(device), Ok(value)) = (numbers(device), value.parse()) else { continue };
            let entry = found.entry(device).or_default();
            match (operation, bytes) {
                ("Read", true) => entry.read_bytes = value,
                ("Write", true) => entry.written_bytes = value,
                ("Read", false) => entry.reads = value,
                ("Write", false) => entry.writes = value,
                _ => {}
            }
        }
    }
    listed(found)
}

/// Lines of "253:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0".
fn devices_v2(text: &str) -> Vec<DeviceIo> {
    let mut found = Devices::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(device) = words.next().and_then(numbers) else { continue };
        let entry = found.entry(device).or_default();
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match name {
                "rbytes" => entry.read_bytes = value,
                "wbytes" => entry.written_bytes = value,
                "rios" => entry.reads = value,
                "wios" => entry.writes = value,
                _ => {}
            }
        }
    }
    listed(found)
}

fn numbers(device: &str) -> Option<(u32, u32)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn listed(found: Devices) -> Vec<DeviceIo> {
    found.into_iter().map(|((major, minor), io)| DeviceIo { major, minor, ..io }).collect()
}

/// Each size has files named `hugetlb.2MB.…`.
fn huge_pages(folder: &Path, usage_file: &str, files: &mut Files) -> Vec<HugePages> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut sizes: Vec<String> = names
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (size, file) = name.strip_prefix("hugetlb.")?.split_once('.')?;
            (file == usage_file).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    let read = sizes.into_iter().map(|size| HugePages {
        usage: files.number(folder, &format!("hugetlb.{size}.{usage_file}")).unwrap_or(0),
        max_usage: files.number(folder, &format!("hugetlb.{size}.max_usage_in_bytes")),
        size,
    });
    read.collect()
}
