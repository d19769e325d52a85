//! The table of metric families. What a container did not do or the kernel does not count has no value; a zero is counted.

use windlass_cri_api::v1;
use windlass_sys::cgroup::{DeviceIo, Stalls};
use windlass_sys::links::Link;

use super::sources::{OfContainer, OfPod, device, seconds};
use super::{BASE, Values};

/// One metric family of pods or of containers.
pub(super) struct Family<S> {
    pub(super) name: &'static str,
    help: &'static str,
    pub(super) kind: v1::MetricType,
    /// Its labels beyond those that every series has.
    labels: &'static [&'static str],
    /// Finds its values.
    pub(super) read: fn(&S, &mut Values),
}

impl<S> Family<S> {
    /// What ListMetricDescriptors says of it.
    pub(super) fn descriptor(&self) -> v1::MetricDescriptor {
        let keys = BASE.iter().chain(self.labels);
        v1::MetricDescriptor {
            name: self.name.into(),
            help: self.help.into(),
            label_keys: keys.map(|key| (*key).to_owned()).collect(),
        }
    }
}

const fn counter<S>(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: fn(&S, &mut Values),
) -> Family<S> {
    Family { name, help, kind: v1::MetricType::Counter, labels, read }
}

const fn gauge<S>(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: fn(&S, &mut Values),
) -> Family<S> {
    Family { name, help, kind: v1::MetricType::Gauge, labels, read }
}

const INTERFACE: &[&str] = &["interface"];
const DEVICE: &[&str] = &["device"];

/// What a pod has as a whole: its network.
pub(super) const POD: &[Family<OfPod>] = &[
    counter("container_network_receive_bytes_total", "Bytes that came in.", INTERFACE, |pod, values| {
        links(pod, values, |link| link.received.bytes);
    }),
    counter("container_network_receive_packets_total", "Packets that came in.", INTERFACE, |pod, values| {
        links(pod, values, |link| link.received.packets);
    }),
    counter(
        "container_network_receive_packets_dropped_total",
        "Packets dropped on the way in.",
        INTERFACE,
        |pod, values| {
            links(pod, values, |link| link.received.dropped);
        },
    ),
    counter("container_network_receive_errors_total", "Errors on the way in.", INTERFACE, |pod, values| {
        links(pod, values, |link| link.received.errors);
    }),
    counter("container_network_transmit_bytes_total", "Bytes that went out.", INTERFACE, |pod, values| {
        links(pod, values, |link| link.sent.bytes);
    }),
    counter("container_network_transmit_packets_total", "Packets that went out.", INTERFACE, |pod, values| {
        links(pod, values, |link| link.sent.packets);
    }),
    counter(
        "container_network_transmit_packets_dropped_total",
        "Packets dropped on the way out.",
        INTERFACE,
        |pod, values| {
            links(pod, values, |link| link.sent.dropped);
        },
    ),
    counter("container_network_transmit_errors_total", "Errors on the way out.", INTERFACE, |pod, values| {
        links(pod, values, |link| link.sent.errors);
    }),
];

/// What each container has.
pub(super) const CONTAINER: &[Family<OfContainer>] = &[
    gauge("container_last_seen", "When it was looked at last, in seconds since 1970.", &[], |one, values| {
        values.one(seconds(u64::try_from(one.at.nanos()).unwrap_or(0)));
    }),
    gauge("container_start_time_seconds", "When it was started, in seconds since 1970.", &[], |one, values| {
        values.one(one.started);
    }),
    // Processors.
    counter("container_cpu_usage_seconds_total", "Processor time, in seconds.", &["cpu"], |one, values| {
        values.labelled(seconds(one.usage.cpu_nanos), ["total"]);
    }),
    counter("container_cpu_user_seconds_total", "Processor time in user mode, in seconds.", &[], |one, values| {
        values.one(seconds(one.usage.cpu_user_nanos));
    }),
    counter("container_cpu_system_seconds_total", "Processor time in the kernel, in seconds.", &[], |one, values| {
        values.one(seconds(one.usage.cpu_system_nanos));
    }),
    counter(
        "container_cpu_cfs_periods_total",
        "Periods in which processor time was handed out.",
        &[],
        |one, values| {
            values.one(one.more.detail.periods);
        },
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Periods in which processor time ran out.",
        &[],
        |one, values| {
            values.one(one.more.detail.throttled_periods);
        },
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Time spent waiting for the next period, in seconds.",
        &[],
        |one, values| {
            values.one(seconds(one.more.detail.throttled_nanos));
        },
    ),
    // Memory.
    gauge("container_memory_usage_bytes", "Memory in use, caches included.", &[], |one, values| {
        memory(one, values, one.usage.memory);
    }),
    gauge("container_memory_working_set_bytes", "Memory that cannot be reclaimed at once.", &[], |one, values| {
        memory(one, values, one.usage.working_set());
    }),
    gauge("container_memory_rss", "Anonymous memory.", &[], |one, values| {
        memory(one, values, one.usage.anonymous);
    }),
    gauge("container_memory_cache", "Caches of files.", &[], |one, values| {
        memory(one, values, one.usage.cache);
    }),
    gauge("container_memory_mapped_file", "Caches of files that are mapped.", &[], |one, values| {
        memory(one, values, one.usage.mapped_file);
    }),
    gauge("container_memory_swap", "Memory that is swapped out.", &[], |one, values| {
        memory(one, values, one.usage.swap);
    }),
    gauge("container_memory_kernel_usage", "The kernel's memory for it.", &[], |one, values| {
        memory(one, values, one.more.detail.kernel_memory);
    }),
    gauge("container_memory_max_usage_bytes", "The most memory that was ever in use.", &[], |one, values| {
        one.more.detail.max_memory.into_iter().for_each(|most| values.one(most));
    }),
    counter("container_memory_failcnt", "How often the limit of memory was hit.", &[], |one, values| {
        memory(one, values, one.more.detail.limit_hits);
    }),
    counter("container_memory_failures_total", "Page faults.", &["failure_type", "scope"], |one, values| {
        if one.usage.tells_memory {
            values.labelled(one.more.detail.own_faults, ["pgfault", "container"]);
            values.labelled(one.more.detail.own_major_faults, ["pgmajfault", "container"]);
            values.labelled(one.usage.faults, ["pgfault", "hierarchy"]);
            values.labelled(one.usage.major_faults, ["pgmajfault", "hierarchy"]);
        }
    }),
    counter("container_oom_events_total", "Processes that were killed for memory.", &[], |one, values| {
        memory(one, values, one.more.detail.oom_kills);
    }),
    gauge("container_hugetlb_usage_bytes", "Huge pages in use.", &["pagesize"], |one, values| {
        one.more.detail.huge_pages.iter().for_each(|pages| values.labelled(pages.usage, [&pages.size]));
    }),
    gauge(
        "container_hugetlb_max_usage_bytes",
        "The most huge pages that were ever in use.",
        &["pagesize"],
        |one, values| {
            for pages in &one.more.detail.huge_pages {
                pages.max_usage.into_iter().for_each(|most| values.labelled(most, [&pages.size]));
            }
        },
    ),
    // Disks.
    gauge("container_fs_usage_bytes", "Bytes that it has written to its root file system.", DEVICE, |one, values| {
        if let (Some(layer), Some(disk)) = (one.layer, &one.disk) {
            values.labelled(layer.bytes, [&disk.device]);
        }
    }),
    gauge("container_fs_limit_bytes", "The size of the file system.", DEVICE, |one, values| {
        one.disk.iter().for_each(|disk| values.labelled(disk.space.bytes, [&disk.device]));
    }),
    gauge("container_fs_inodes_total", "The inodes of the file system.", DEVICE, |one, values| {
        one.disk.iter().for_each(|disk| values.labelled(disk.space.inodes, [&disk.device]));
    }),
    gauge("container_fs_inodes_free", "The free inodes of the file system.", DEVICE, |one, values| {
        one.disk.iter().for_each(|disk| values.labelled(disk.space.free_inodes, [&disk.device]));
    }),
    counter("container_fs_reads_total", "Reads from a device.", DEVICE, |one, values| {
        devices(one, values, |io| io.reads);
    }),
    counter("container_fs_reads_bytes_total", "Bytes read from a device.", DEVICE, |one, values| {
        devices(one, values, |io| io.read_bytes);
    }),
    counter("container_fs_writes_total", "Writes to a device.", DEVICE, |one, values| {
        devices(one, values, |io| io.writes);
    }),
    counter("container_fs_writes_bytes_total", "Bytes written to a device.", DEVICE, |one, values| {
        devices(one, values, |io| io.written_bytes);
    }),
    counter(
        "container_blkio_device_usage_total",
        "Bytes moved to and from a device.",
        &["device", "major", "minor", "operation"],
        |one, values| {
            for io in &one.more.detail.devices {
                let (name, major, minor) = (device(io), io.major.to_string(), io.minor.to_string());
                values.labelled(io.read_bytes, [&name, &major, &minor, "Read"]);
                values.labelled(io.written_bytes, [&name, &major, &minor, "Write"]);
            }
        },
    ),
    // Processes.
    gauge("container_processes", "Processes.", &[], |one, values| {
        values.one(one.more.members.processes);
    }),
    gauge("container_threads", "Processes and threads.", &[], |one, values| {
        values.one(one.usage.pids);
    }),
    gauge("container_threads_max", "The limit of processes and threads; 0 is none.", &[], |one, values| {
        values.one(one.usage.pids_limit);
    }),
    gauge("container_file_descriptors", "Open descriptors of all its processes.", &[], |one, values| {
        values.one(one.more.members.descriptors);
    }),
    gauge("container_sockets", "Open sockets of all its processes.", &[], |one, values| {
        values.one(one.more.members.sockets);
    }),
    gauge("container_ulimits_soft", "Soft limits of its first process.", &["ulimit"], |one, values| {
        one.more.open_files.into_iter().for_each(|limit| values.labelled(limit, ["max_open_files"]));
    }),
    // Limits.
    gauge(
        "container_spec_cpu_period",
        "The length of a period of processor time, in microseconds.",
        &[],
        |one, values| {
            values.one(one.more.detail.cpu_period);
        },
    ),
    gauge("container_spec_cpu_quota", "The processor time in a period, in microseconds.", &[], |one, values| {
        one.more.detail.cpu_quota.into_iter().for_each(|quota| values.one(quota));
    }),
    gauge("container_spec_cpu_shares", "Its share where processors are scarce.", &[], |one, values| {
        values.one(one.more.detail.cpu_shares);
    }),
    gauge("container_spec_memory_limit_bytes", "The limit of memory; 0 is none.", &[], |one, values| {
        memory(one, values, if one.usage.memory_limit == u64::MAX { 0 } else { one.usage.memory_limit });
    }),
    gauge(
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is kept for it; 0 is none.",
        &[],
        |one, values| {
            memory(one, values, one.more.detail.memory_reservation);
        },
    ),
    gauge("container_spec_memory_swap_limit_bytes", "The limit of swap; 0 is none.", &[], |one, values| {
        memory(one, values, one.more.detail.swap_limit);
    }),
    // Pressure.
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which all waited for a processor.",
        &[],
        |one, values| {
            stalled(one.usage.pressure.cpu, values);
        },
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which some waited for a processor.",
        &[],
        |one, values| {
            waiting(one.usage.pressure.cpu, values);
        },
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Time in which all waited for memory.",
        &[],
        |one, values| {
            stalled(one.usage.pressure.memory, values);
        },
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Time in which some waited for memory.",
        &[],
        |one, values| {
            waiting(one.usage.pressure.memory, values);
        },
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Time in which all waited for input or output.",
        &[],
        |one, values| {
            stalled(one.usage.pressure.io, values);
        },
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Time in which some waited for input or output.",
        &[],
        |one, values| {
            waiting(one.usage.pressure.io, values);
        },
    ),
];

fn links(pod: &OfPod, values: &mut Values, value: fn(&Link) -> u64) {
    pod.reading.links.iter().flatten().for_each(|link| values.labelled(value(link), [&link.name]));
}

fn devices(one: &OfContainer, values: &mut Values, value: fn(&DeviceIo) -> u64) {
    one.more.detail.devices.iter().for_each(|io| values.labelled(value(io), [&device(io)]));
}

fn memory(one: &OfContainer, values: &mut Values, value: u64) {
    if one.usage.tells_memory {
        values.one(value);
    }
}

fn stalled(stalls: Option<Stalls>, values: &mut Values) {
    stalls.into_iter().for_each(|stalls| values.one(stalls.full.total_micros / 1_000_000));
}

fn waiting(stalls: Option<Stalls>, values: &mut Values) {
    stalls.into_iter().for_each(|stalls| values.one(stalls.some.total_micros / 1_000_000));
}
