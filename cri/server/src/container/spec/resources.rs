//! Limits of a container: what may be asked for, how a later wish changes them, and where the cgroup is.
//!
//! What containerd does and we do, too: limits of huge pages are left out where the kernel has no such controller, since
//! the kubelet sends them to every node; swap is limited where the kernel can, and a container of whose swap nothing is
//! said gets none.

use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxHugepageLimit, LinuxMemoryBuilder,
    LinuxResources,
};
use windlass_cri_api::v1;
use windlass_model::{Error, Id, Result};

use super::Host;
use crate::CgroupDriver;
use crate::container::plan::{require, wrong};

/// What the kernel takes as a period of processor time, in microseconds.
const PERIODS: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// The least quota of processor time that the kernel takes, in microseconds.
const LEAST_QUOTA: i64 = 1_000;

/// Refuses limits that no kernel takes; `field` is where they stand in the request.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] naming the field.
pub(crate) fn check(asked: &v1::LinuxContainerResources, field: &str) -> Result<()> {
    let field = |name: &str| format!("{field}.{name}");
    let (period, quota) = (asked.cpu_period, asked.cpu_quota);
    require(period == 0 || PERIODS.contains(&period), &field("cpu_period"), "is not in 1000..=1000000 microseconds")?;
    let known = matches!(quota, -1 | 0) || quota >= LEAST_QUOTA;
    require(known, &field("cpu_quota"), "is neither -1 (none) nor at least 1000 microseconds")?;
    require(asked.cpu_shares >= 0, &field("cpu_shares"), "is negative")?;
    let (memory, swap) = (asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes);
    require(memory >= -1, &field("memory_limit_in_bytes"), "is negative")?;
    require(swap >= -1, &field("memory_swap_limit_in_bytes"), "is negative")?;
    let together = swap <= 0 || memory == 0 || (memory > 0 && swap >= memory);
    require(together, &field("memory_swap_limit_in_bytes"), "is below the memory limit")?;
    require((-1000..=1000).contains(&asked.oom_score_adj), &field("oom_score_adj"), "is not in -1000..=1000")?;
    require(is_list(&asked.cpuset_cpus), &field("cpuset_cpus"), "is not a list of numbers")?;
    require(is_list(&asked.cpuset_mems), &field("cpuset_mems"), "is not a list of numbers")?;
    for (name, value) in &asked.unified {
        let field = field(&format!("unified[{name:?}]"));
        let plain = !name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.') && name.contains('.');
        require(plain, &field, "names something that is no cgroup file")?;
        // To these not limits are written but processes, or what keeps the cgroup together.
        require(!name.starts_with("cgroup."), &field, "names a file that is the runtime's own")?;
        require(!value.is_empty() && !value.contains('\0'), &field, "has no value to write")?;
    }
    for (at, limit) in asked.hugepage_limits.iter().enumerate() {
        let field = field(&format!("hugepage_limits[{at}]"));
        require(is_page_size(&limit.page_size), &format!("{field}.page_size"), "names no page size")?;
        require(i64::try_from(limit.limit).is_ok(), &format!("{field}.limit"), "is too large")?;
    }
    Ok(())
}

/// Refuses what this machine has no way for.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] naming the field.
pub(crate) fn check_machine(asked: &v1::LinuxContainerResources, field: &str, host: &Host) -> Result<()> {
    if !asked.unified.is_empty() && !host.cgroup_v2 {
        return Err(wrong(&format!("{field}.unified"), "needs cgroups of version 2, and this machine has version 1"));
    }
    Ok(())
}

/// Numbers and ranges of them, separated by commas, or nothing.
fn is_list(text: &str) -> bool {
    let range = |part: &str| {
        let mut ends = part.splitn(2, '-').map(|end| end.parse::<u32>().ok().filter(|_| !end.starts_with('+')));
        match (ends.next().flatten(), ends.next()) {
            (Some(_), None) => true,
            (Some(first), Some(Some(last))) => first <= last,
            _ => false,
        }
    };
    text.is_empty() || text.split(',').all(range)
}

/// A size of huge pages as the kernel names its files: `64KB`, `2MB`, `1GB`.
fn is_page_size(text: &str) -> bool {
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| text.strip_suffix(unit));
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

/// The limits after a change: what the change leaves out stays. Where it changes the memory and says nothing of swap,
/// the container may swap as much as before.
pub(crate) fn merge(
    old: &v1::LinuxContainerResources,
    change: &v1::LinuxContainerResources,
) -> v1::LinuxContainerResources {
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let text = |old: &String, new: &String| if new.is_empty() { old.clone() } else { new.clone() };
    let memory = number(old.memory_limit_in_bytes, change.memory_limit_in_bytes);
    let swap = match (change.memory_swap_limit_in_bytes, old.memory_swap_limit_in_bytes) {
        (0, before @ 1..) if memory < 0 => before.min(-1),
        (0, before @ 1..) if old.memory_limit_in_bytes > 0 => {
            before.saturating_add(memory.saturating_sub(old.memory_limit_in_bytes))
        }
        (new, before) => number(before, new),
    };
    let mut hugepages = old.hugepage_limits.clone();
    for limit in &change.hugepage_limits {
        hugepages.retain(|known| known.page_size != limit.page_size);
        hugepages.push(limit.clone());
    }
    let mut unified = old.unified.clone();
    unified.extend(change.unified.clone());
    v1::LinuxContainerResources {
        cpu_period: number(old.cpu_period, change.cpu_period),
        cpu_quota: number(old.cpu_quota, change.cpu_quota),
        cpu_shares: number(old.cpu_shares, change.cpu_shares),
        memory_limit_in_bytes: memory,
        oom_score_adj: number(old.oom_score_adj, change.oom_score_adj),
        cpuset_cpus: text(&old.cpuset_cpus, &change.cpuset_cpus),
        cpuset_mems: text(&old.cpuset_mems, &change.cpuset_mems),
        hugepage_limits: hugepages,
        unified,
        memory_swap_limit_in_bytes: swap,
    }
}

/// The limits in OCI words; nothing is set that the request leaves out.
pub(crate) fn resources(asked: &v1::LinuxContainerResources, host: &Host) -> Result<LinuxResources> {
    let broken = |error: &dyn std::fmt::Display| Error::internal(format!("resources: {error}"));
    let mut cpu = LinuxCpuBuilder::default();
    if asked.cpu_shares > 0 {
        cpu = cpu.shares(asked.cpu_shares.unsigned_abs());
    }
    if asked.cpu_quota != 0 {
        cpu = cpu.quota(asked.cpu_quota);
    }
    if asked.cpu_period > 0 {
        cpu = cpu.period(asked.cpu_period.unsigned_abs());
    }
    if !asked.cpuset_cpus.is_empty() {
        cpu = cpu.cpus(asked.cpuset_cpus.clone());
    }
    if !asked.cpuset_mems.is_empty() {
        cpu = cpu.mems(asked.cpuset_mems.clone());
    }
    let mut limits = LinuxResources::default();
    limits.set_cpu(Some(cpu.build().map_err(|error| broken(&error))?));
    if asked.memory_limit_in_bytes != 0 {
        let mut memory = LinuxMemoryBuilder::default().limit(asked.memory_limit_in_bytes);
        if host.limits_swap {
            // Without a word about swap a container gets none: memory and swap together are the memory limit.
            memory = memory.swap(match asked.memory_swap_limit_in_bytes {
                0 => asked.memory_limit_in_bytes,
                swap => swap,
            });
        }
        limits.set_memory(Some(memory.build().map_err(|error| broken(&error))?));
    }
    if host.limits_hugepages && !asked.hugepage_limits.is_empty() {
        limits.set_hugepage_limits(Some(asked.hugepage_limits.iter().map(hugepages).collect()));
    }
    if !asked.unified.is_empty() {
        limits.set_unified(Some(asked.unified.clone().into_iter().collect()));
    }
    Ok(limits)
}

fn hugepages(limit: &v1::HugepageLimit) -> LinuxHugepageLimit {
    let mut made = LinuxHugepageLimit::default();
    made.set_page_size(limit.page_size.clone());
    made.set_limit(i64::try_from(limit.limit).unwrap_or(i64::MAX));
    made
}

/// The device rules: nothing but what the runtime always allows, then what was asked for.
pub(crate) fn device_rules(privileged: bool, devices: &[(LinuxDevice, String)]) -> Result<Vec<LinuxDeviceCgroup>> {
    let broken = |error| Error::internal(format!("device rules: {error}"));
    let all = LinuxDeviceCgroupBuilder::default().allow(privileged).access("rwm").build().map_err(broken)?;
    let mut rules = vec![all];
    for (device, access) in devices {
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(device.typ())
            .major(device.major())
            .minor(device.minor())
            .access(access.as_str());
        rules.push(rule.build().map_err(broken)?);
    }
    Ok(rules)
}

/// The score that this process can set: one below its floor is raised to it, and the log says so.
pub(crate) fn oom_score(asked: i64, host: &Host) -> i32 {
    let asked = i32::try_from(asked).unwrap_or_default().clamp(-1000, 1000);
    let given = asked.max(host.oom_score_floor);
    if given != asked {
        tracing::info!(asked, given, "oom_score_adj is raised: lowering it needs CAP_SYS_RESOURCE");
    }
    given
}

/// The cgroup of a container, in the words of the driver, below its pod's `parent`.
pub(crate) fn cgroup_path(driver: CgroupDriver, parent: &str, id: &Id) -> PathBuf {
    match driver {
        CgroupDriver::Cgroupfs => {
            let parent = if parent.is_empty() { "/windlass" } else { parent };
            PathBuf::from(parent).join(id.as_str())
        }
        CgroupDriver::Systemd => {
            // The kubelet sends the whole path of the slice; systemd finds the rest from the last name.
            let slice = parent.trim_end_matches('/').rsplit('/').next().filter(|slice| !slice.is_empty());
            format!("{}:windlass:{id}", slice.unwrap_or("system.slice")).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::security::tests::host;
    use super::*;

    #[test]
    fn limits_are_written_in_oci_words() {
        let asked = v1::LinuxContainerResources {
            cpu_shares: 512,
            cpu_quota: 20_000,
            cpu_period: 100_000,
            cpuset_cpus: "0-1".into(),
            memory_limit_in_bytes: 1 << 20,
            hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 0 }],
            unified: [("memory.high".to_string(), "5".to_string())].into(),
            ..Default::default()
        };
        let on = Host { limits_hugepages: true, ..host() };
        let written = serde_json::to_value(resources(&asked, &on).unwrap()).unwrap();
        assert_eq!(written["cpu"], json!({"shares": 512, "quota": 20000, "period": 100000, "cpus": "0-1"}));
        assert_eq!(written["memory"], json!({"limit": 1 << 20, "swap": 1 << 20}));
        assert_eq!(written["hugepageLimits"], json!([{"pageSize": "2MB", "limit": 0}]));
        assert_eq!(written["unified"], json!({"memory.high": "5"}));
        let off = Host { limits_swap: false, ..host() };
        let written = serde_json::to_value(resources(&asked, &off).unwrap()).unwrap();
        assert_eq!(written["memory"], json!({"limit": 1 << 20}));
        assert!(written.get("hugepageLimits").is_none_or(serde_json::Value::is_null));
    }

    fn refused(change: impl FnOnce(&mut v1::LinuxContainerResources)) -> String {
        let mut asked = v1::LinuxContainerResources::default();
        change(&mut asked);
        let refused = check(&asked, "linux").and_then(|()| check_machine(&asked, "linux", &host()));
        refused.unwrap_err().to_string()
    }

    #[test]
    fn each_wrong_limit_is_named() {
        let none = v1::LinuxContainerResources::default();
        check(&none, "linux").unwrap();
        assert!(refused(|r| r.cpu_period = 999).contains("linux.cpu_period"));
        assert!(refused(|r| r.cpu_quota = -2).contains("linux.cpu_quota"));
        assert!(refused(|r| r.cpu_quota = 5).contains("linux.cpu_quota"));
        assert!(refused(|r| r.cpu_shares = -1).contains("linux.cpu_shares"));
        assert!(refused(|r| r.memory_limit_in_bytes = -2).contains("linux.memory_limit_in_bytes"));
        assert!(refused(|r| r.oom_score_adj = 1001).contains("linux.oom_score_adj"));
        for list in ["x", "1-", "3-1", "1,,2", "+1", "-1"] {
            assert!(refused(|r| r.cpuset_cpus = list.into()).contains("linux.cpuset_cpus"), "{list}");
        }
        for (memory, swap) in [(10, 5), (-1, 5), (0, -2)] {
            let text = refused(|r| (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (memory, swap));
            assert!(text.contains("linux.memory_swap_limit_in_bytes"), "{text}");
        }
        for (name, value) in [("", "1"), ("../x.y", "1"), ("cgroup.procs", "1"), ("plain", "1"), ("memory.high", "")] {
            assert!(refused(|r| drop(r.unified.insert(name.into(), value.into()))).contains("unified"), "{name}");
        }
        for size in ["", "MB", "2M", "2 MB"] {
            let limit = v1::HugepageLimit { page_size: size.into(), limit: 1 };
            assert!(refused(|r| r.hugepage_limits = vec![limit]).contains("hugepage_limits[0].page_size"), "{size}");
        }
    }

    #[test]
    fn a_change_leaves_alone_what_it_does_not_name() {
        let old = v1::LinuxContainerResources {
            cpu_shares: 100,
            cpu_quota: 5000,
            memory_limit_in_bytes: 100,
            memory_swap_limit_in_bytes: 130,
            cpuset_cpus: "0".into(),
            hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 5 }],
            unified: [("a.b".to_string(), "1".to_string())].into(),
            ..Default::default()
        };
        assert_eq!(merge(&old, &Default::default()), old);
        let change = v1::LinuxContainerResources {
            cpu_quota: -1,
            memory_limit_in_bytes: 200,
            hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: 6 }],
            unified: [("a.b".to_string(), "2".to_string())].into(),
            ..Default::default()
        };
        let new = merge(&old, &change);
        assert_eq!((new.cpu_shares, new.cpu_quota, new.cpuset_cpus.as_str()), (100, -1, "0"));
        assert_eq!((new.memory_limit_in_bytes, new.memory_swap_limit_in_bytes), (200, 230));
        assert_eq!((new.hugepage_limits[0].limit, new.unified["a.b"].as_str()), (6, "2"));
        let unlimited = v1::LinuxContainerResources { memory_limit_in_bytes: -1, ..Default::default() };
        assert_eq!(merge(&old, &unlimited).memory_swap_limit_in_bytes, -1);
        let swap = v1::LinuxContainerResources { memory_swap_limit_in_bytes: 500, ..Default::default() };
        assert_eq!(merge(&old, &swap).memory_swap_limit_in_bytes, 500);
    }

    #[test]
    fn cgroups_are_named_in_the_drivers_words() {
        let id: Id = "c1".parse().unwrap();
        let slice = "/kubepods.slice/kubepods-pod1.slice";
        for (driver, parent, path) in [
            (CgroupDriver::Cgroupfs, "/kubepods/pod1", "/kubepods/pod1/c1"),
            (CgroupDriver::Cgroupfs, "", "/windlass/c1"),
            (CgroupDriver::Systemd, slice, "kubepods-pod1.slice:windlass:c1"),
            (CgroupDriver::Systemd, "", "system.slice:windlass:c1"),
        ] {
            assert_eq!(cgroup_path(driver, parent, &id), PathBuf::from(path));
        }
    }

    #[test]
    fn a_score_below_the_floor_is_raised() {
        assert_eq!(oom_score(-997, &host()), 0);
        assert_eq!(oom_score(-997, &Host { oom_score_floor: -1000, ..host() }), -997);
        assert_eq!(oom_score(5000, &host()), 1000);
    }
}
