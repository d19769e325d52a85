//! Limits of a container and where its cgroup is.

use std::path::PathBuf;

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxHugepageLimit, LinuxMemoryBuilder,
    LinuxResources,
};
use windlass_cri_api::v1;
use windlass_model::{Error, Id, Result};

use super::Host;
use crate::CgroupDriver;

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
