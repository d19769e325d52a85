//! Changes the limits of a container that the built-in runtime made.
//!
//! The cgroup's files are written by [`Layout::limit`], all or none. Where systemd has the cgroup, its unit is told the
//! same afterwards: systemd writes a unit's properties into the files again when it reads its configuration anew.

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use oci_spec::runtime::LinuxResources;
use serde_json::Value;
use windlass_model::{Error, Kind, Result};
use windlass_sys::cgroup::{Layout, Limits};

use super::runtime::refused;

/// Sets the limits of `cgroup` to those of `resources`, in the OCI specification's words; devices are not looked at.
/// systemd needs the container's name.
///
/// # Errors
/// [`Kind::InvalidArgument`] where they are none, [`Kind::FailedPrecondition`] where more memory is used; otherwise where
/// the kernel or systemd refuses. In each case the old limits are in force.
pub fn change(layout: &Layout, cgroup: &str, resources: &Value, container: &str, systemd: bool) -> Result<()> {
    let wanted: LinuxResources = serde_json::from_value(resources.clone())
        .map_err(|error| Error::with_source(Kind::InvalidArgument, "resources of a container", error))?;
    let limits = limits(&wanted)?;
    let before = layout.limit(cgroup, &limits)?;
    let has_unit = systemd && layout.is_v2() && !cgroup.starts_with('/');
    if !has_unit {
        return Ok(());
    }
    // systemd rounds what it writes itself, so the files have the last word.
    match tell_systemd(cgroup, wanted, container).and_then(|()| layout.limit(cgroup, &limits)) {
        Ok(_) => Ok(()),
        Err(error) => {
            before.restore();
            Err(error)
        }
    }
}

/// Sets the files of version 2 that the way through systemd leaves out: huge pages, and what has no property of a unit.
///
/// # Errors
/// As [`change`].
pub fn complete(layout: &Layout, cgroup: &str, resources: &Value) -> Result<()> {
    if !layout.is_v2() || resources.is_null() {
        return Ok(());
    }
    let wanted: LinuxResources = serde_json::from_value(resources.clone())
        .map_err(|error| Error::with_source(Kind::InvalidArgument, "resources of a container", error))?;
    let Limits { hugepages, unified, .. } = limits(&wanted)?;
    layout.limit(cgroup, &Limits { hugepages, unified, ..Limits::default() }).map(drop)
}

/// The limits in the kernel's words.
fn limits(wanted: &LinuxResources) -> Result<Limits> {
    let mut limits = Limits::default();
    if let Some(cpu) = wanted.cpu() {
        limits.cpu_shares = cpu.shares().filter(|shares| *shares > 0);
        limits.cpu_quota = cpu.quota().filter(|quota| *quota != 0);
        limits.cpu_period = cpu.period().filter(|period| *period > 0);
        limits.cpus = cpu.cpus().clone().filter(|list| !list.is_empty());
        limits.mems = cpu.mems().clone().filter(|list| !list.is_empty());
    }
    if let Some(memory) = wanted.memory() {
        limits.memory = memory.limit().filter(|bytes| *bytes != 0);
        limits.memory_swap = memory.swap().filter(|bytes| *bytes != 0);
    }
    limits.pids = wanted.pids().as_ref().map(|pids| pids.limit()).filter(|count| *count != 0);
    for limit in wanted.hugepage_limits().iter().flatten() {
        let bytes = u64::try_from(limit.limit()).map_err(|_| Error::invalid("a negative limit of huge pages"))?;
        limits.hugepages.push((limit.page_size().clone(), bytes));
    }
    limits.unified = wanted.unified().iter().flatten().map(|(name, text)| (name.clone(), text.clone())).collect();
    // One order for every call: a map has none.
    limits.unified.sort();
    Ok(limits)
}

/// Sets the unit's properties for what systemd has properties of.
fn tell_systemd(cgroup: &str, mut wanted: LinuxResources, container: &str) -> Result<()> {
    let properties = wanted.unified().iter().flatten().filter_map(property).collect();
    wanted.set_unified(Some(properties));
    let config =
        CgroupConfig { cgroup_path: cgroup.into(), systemd_cgroup: true, container_name: container.to_owned() };
    let change =
        ControllerOpt { resources: &wanted, disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
    create_cgroup_manager(config).map_err(refused)?.apply(&change).map_err(refused)
}

/// A file of version 2 in the form that has a property, where it has one: only numbers have.
fn property((name, text): (&String, &String)) -> Option<(String, String)> {
    let number = match (name.as_str(), text.trim()) {
        ("memory.min" | "memory.low" | "memory.high" | "memory.max", "max") => u64::MAX.to_string(),
        ("pids.max", "max") => "-1".into(),
        (_, number) if number.parse::<u64>().is_ok() => number.to_owned(),
        _ => return None,
    };
    // The way to systemd takes a weight for shares and would convert it once more; the file has it right.
    (name != "cpu.weight").then(|| (name.clone(), number))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn zero_and_nothing_leave_a_limit_alone() {
        let wanted = json!({"cpu": {"shares": 0, "quota": -1, "cpus": ""}, "memory": {"limit": 5, "swap": 0},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "unified": {"b": "2", "a": "1"}});
        let limits = limits(&serde_json::from_value(wanted).unwrap()).unwrap();
        let expected = Limits {
            cpu_quota: Some(-1),
            memory: Some(5),
            hugepages: vec![("2MB".into(), 0)],
            unified: vec![("a".into(), "1".into()), ("b".into(), "2".into())],
            ..Limits::default()
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn systemd_is_told_numbers() {
        let told = |name: &str, text: &str| property((&name.into(), &text.into())).map(|(_, text)| text);
        assert_eq!(told("memory.high", "max").unwrap(), u64::MAX.to_string());
        assert_eq!(told("pids.max", "max").unwrap(), "-1");
        assert_eq!(told("memory.high", "17\n").unwrap(), "17");
        assert_eq!(told("cpu.max", "max 100000"), None);
        assert_eq!(told("cpu.weight", "100"), None);
    }
}
