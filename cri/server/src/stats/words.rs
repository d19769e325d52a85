//! Readings in the CRI's words. What the kernel does not tell is left out, never zero.

use windlass_cri_api::v1;
use windlass_sys::cgroup::{Stall, Stalls};
use windlass_sys::links::Link;

use super::{Measure, Reading};

/// The interface that a pod's network has by the kubelet's convention.
const DEFAULT_INTERFACE: &str = "eth0";

fn number(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

/// What is left below a limit.
fn available(limit: u64, used: u64) -> Option<v1::UInt64Value> {
    if limit == u64::MAX { None } else { number(limit.saturating_sub(used)) }
}

/// Processor time and the wait for it.
pub(crate) fn cpu(reading: &Reading) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: reading.at.nanos(),
        usage_core_nano_seconds: number(reading.usage.cpu_nanos),
        usage_nano_cores: reading.nano_cores.and_then(number),
        psi: reading.usage.pressure.cpu.map(psi),
    }
}

/// Memory and the wait for it.
pub(crate) fn memory(reading: &Reading) -> Option<v1::MemoryUsage> {
    let usage = Some(&reading.usage).filter(|usage| usage.tells_memory)?;
    Some(v1::MemoryUsage {
        timestamp: reading.at.nanos(),
        working_set_bytes: number(usage.working_set()),
        available_bytes: available(usage.memory_limit, usage.working_set()),
        usage_bytes: number(usage.memory),
        rss_bytes: number(usage.anonymous),
        page_faults: number(usage.faults),
        major_page_faults: number(usage.major_faults),
        psi: usage.pressure.memory.map(psi),
    })
}

/// What is swapped out.
pub(crate) fn swap(reading: &Reading) -> Option<v1::SwapUsage> {
    let usage = Some(&reading.usage).filter(|usage| usage.tells_memory)?;
    Some(v1::SwapUsage {
        timestamp: reading.at.nanos(),
        swap_available_bytes: available(usage.swap_limit, usage.swap),
        swap_usage_bytes: number(usage.swap),
    })
}

/// The wait for input and output.
pub(crate) fn io(reading: &Reading) -> Option<v1::IoUsage> {
    let stalls = reading.usage.pressure.io?;
    Some(v1::IoUsage { timestamp: reading.at.nanos(), psi: Some(psi(stalls)) })
}

/// The interfaces of a pod.
pub(crate) fn network(reading: &Reading) -> Option<v1::NetworkUsage> {
    let interfaces: Vec<_> = reading.links.as_ref()?.iter().map(interface).collect();
    let default = interfaces.iter().find(|interface| interface.name == DEFAULT_INTERFACE).or(interfaces.first());
    Some(v1::NetworkUsage { timestamp: reading.at.nanos(), default_interface: default.cloned(), interfaces })
}

/// What a layer takes on the file system at `mountpoint`.
pub(crate) fn layer(measure: Measure, mountpoint: String) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: measure.at.nanos(),
        fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
        used_bytes: number(measure.usage.bytes),
        inodes_used: number(measure.usage.inodes),
    }
}

fn interface(link: &Link) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: link.name.clone(),
        rx_bytes: number(link.received.bytes),
        rx_errors: number(link.received.errors),
        tx_bytes: number(link.sent.bytes),
        tx_errors: number(link.sent.errors),
    }
}

fn psi(stalls: Stalls) -> v1::PsiStats {
    v1::PsiStats { full: Some(stall(stalls.full)), some: Some(stall(stalls.some)) }
}

fn stall(stall: Stall) -> v1::PsiData {
    v1::PsiData {
        // The kernel counts microseconds, the CRI nanoseconds.
        total: stall.total_micros.saturating_mul(1000),
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    }
}
