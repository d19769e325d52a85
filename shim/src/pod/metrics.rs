//! What a container has used, in the messages that containerd's clients decode: one for each version of cgroups.
//!
//! Docker looks into messages inside these without asking whether they are there, so all are there.

use windlass_model::Result;
use windlass_sys::cgroup::{Counters, Detail, DeviceIo, Layout, Usage};
use windlass_wire::protobuf::MessageField;
use windlass_wire::protobuf::well_known_types::any::Any;
use windlass_wire::{convert, metrics, words};

/// The metrics of `cgroup`; all zero where it is gone.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for a wrong name.
pub(super) fn read(layout: &Layout, cgroup: &str) -> Result<Any> {
    let usage = Usage::read(layout, cgroup)?;
    let detail = Counters::of(layout, cgroup)?.detail().unwrap_or_default();
    if layout.is_v2() {
        convert::any(words::TYPE_METRICS_V2, &v2(&usage, &detail))
    } else {
        convert::any(words::TYPE_METRICS_V1, &v1(&usage, &detail))
    }
}

fn v1(usage: &Usage, detail: &Detail) -> metrics::v1::Metrics {
    use metrics::v1::{
        BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat, Metrics, PidsStat,
        Throttle,
    };
    let cpu = CPUStat {
        usage: MessageField::some(CPUUsage {
            total: usage.cpu_nanos,
            user: usage.cpu_user_nanos,
            kernel: usage.cpu_system_nanos,
            ..CPUUsage::default()
        }),
        throttling: MessageField::some(Throttle {
            periods: detail.periods,
            throttled_periods: detail.throttled_periods,
            throttled_time: detail.throttled_nanos,
            ..Throttle::default()
        }),
        ..CPUStat::default()
    };
    let memory = MemoryStat {
        usage: MessageField::some(MemoryEntry {
            usage: usage.memory,
            limit: usage.memory_limit,
            max: detail.max_memory.unwrap_or_default(),
            failcnt: detail.limit_hits,
            ..MemoryEntry::default()
        }),
        // Version 1 counts memory and swap together.
        swap: MessageField::some(MemoryEntry {
            usage: usage.memory.saturating_add(usage.swap),
            limit: usage.memory_limit.saturating_add(usage.swap_limit),
            ..MemoryEntry::default()
        }),
        kernel: MessageField::some(MemoryEntry { usage: detail.kernel_memory, ..MemoryEntry::default() }),
        kernel_tcp: MessageField::some(MemoryEntry::default()),
        hierarchical_memory_limit: usage.memory_limit,
        cache: usage.cache,
        total_cache: usage.cache,
        rss: usage.anonymous,
        total_rss: usage.anonymous,
        mapped_file: usage.mapped_file,
        total_mapped_file: usage.mapped_file,
        inactive_file: usage.inactive_file,
        total_inactive_file: usage.inactive_file,
        pg_fault: detail.own_faults,
        total_pg_fault: usage.faults,
        pg_maj_fault: detail.own_major_faults,
        total_pg_maj_fault: usage.major_faults,
        ..MemoryStat::default()
    };
    let blkio = BlkIOStat {
        io_service_bytes_recursive: entries(&detail.devices, |io| (io.read_bytes, io.written_bytes)),
        io_serviced_recursive: entries(&detail.devices, |io| (io.reads, io.writes)),
        ..BlkIOStat::default()
    };
    let pages = detail.huge_pages.iter().map(|pages| HugetlbStat {
        usage: pages.usage,
        max: pages.max_usage.unwrap_or_default(),
        pagesize: pages.size.clone(),
        ..HugetlbStat::default()
    });
    Metrics {
        hugetlb: pages.collect(),
        pids: MessageField::some(PidsStat { current: usage.pids, limit: usage.pids_limit, ..PidsStat::default() }),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory),
        blkio: MessageField::some(blkio),
        memory_oom_control: MessageField::some(MemoryOomControl {
            oom_kill: detail.oom_kills,
            ..MemoryOomControl::default()
        }),
        ..Metrics::default()
    }
}

/// Two entries for each device: what was read and what was written.
fn entries(devices: &[DeviceIo], counts: impl Fn(&DeviceIo) -> (u64, u64)) -> Vec<metrics::v1::BlkIOEntry> {
    use metrics::v1::BlkIOEntry;
    let entry = |io: &DeviceIo, op: &str, value| BlkIOEntry {
        op: op.into(),
        major: io.major.into(),
        minor: io.minor.into(),
        value,
        ..BlkIOEntry::default()
    };
    let both = |io: &DeviceIo| {
        let (read, written) = counts(io);
        [entry(io, "Read", read), entry(io, "Write", written)]
    };
    devices.iter().flat_map(both).collect()
}

fn v2(usage: &Usage, detail: &Detail) -> metrics::v2::Metrics {
    use metrics::v2::{CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PidsStat};
    let cpu = CPUStat {
        usage_usec: usage.cpu_nanos / 1000,
        user_usec: usage.cpu_user_nanos / 1000,
        system_usec: usage.cpu_system_nanos / 1000,
        nr_periods: detail.periods,
        nr_throttled: detail.throttled_periods,
        throttled_usec: detail.throttled_nanos / 1000,
        ..CPUStat::default()
    };
    let memory = MemoryStat {
        usage: usage.memory,
        usage_limit: usage.memory_limit,
        max_usage: detail.max_memory.unwrap_or_default(),
        swap_usage: usage.swap,
        swap_limit: usage.swap_limit,
        inactive_file: usage.inactive_file,
        file: usage.cache,
        file_mapped: usage.mapped_file,
        anon: usage.anonymous,
        pgfault: usage.faults,
        pgmajfault: usage.major_faults,
        ..MemoryStat::default()
    };
    let device = |io: &DeviceIo| IOEntry {
        major: io.major.into(),
        minor: io.minor.into(),
        rbytes: io.read_bytes,
        wbytes: io.written_bytes,
        rios: io.reads,
        wios: io.writes,
        ..IOEntry::default()
    };
    let pages = detail.huge_pages.iter().map(|pages| HugeTlbStat {
        current: pages.usage,
        max: pages.max_usage.unwrap_or_default(),
        pagesize: pages.size.clone(),
        ..HugeTlbStat::default()
    });
    Metrics {
        pids: MessageField::some(PidsStat { current: usage.pids, limit: usage.pids_limit, ..PidsStat::default() }),
        cpu: MessageField::some(cpu),
        memory: MessageField::some(memory),
        io: MessageField::some(IOStat { usage: detail.devices.iter().map(device).collect(), ..IOStat::default() }),
        hugetlb: pages.collect(),
        memory_events: MessageField::some(MemoryEvents {
            max: detail.limit_hits,
            oom_kill: detail.oom_kills,
            ..MemoryEvents::default()
        }),
        ..Metrics::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_that_docker_looks_into_is_there() {
        let (usage, io) =
            (Usage { memory: 5, swap: 1, ..Usage::default() }, DeviceIo { reads: 3, ..Default::default() });
        let detail = Detail { devices: vec![io], throttled_nanos: 2000, ..Detail::default() };
        let one = v1(&usage, &detail);
        assert_eq!(one.cpu.throttling.throttled_time, 2000);
        assert_eq!((one.memory.usage.usage, one.memory.swap.usage, one.memory.kernel.usage), (5, 6, 0));
        let read = &one.blkio.io_serviced_recursive[0];
        assert_eq!((read.op.as_str(), read.value, one.blkio.io_serviced_recursive.len()), ("Read", 3, 2));
        let two = v2(&usage, &detail);
        assert_eq!((two.cpu.throttled_usec, two.memory.swap_usage, two.io.usage[0].rios), (2, 1, 3));
    }
}
