//! The table as a whole: its names, its labels, and values from made-up readings.

use std::collections::HashSet;

use windlass_sys::cgroup::{Detail, DeviceIo, HugePages, Members, Stall, Stalls, Usage};

use super::*;
use crate::stats::More;

fn names() -> Vec<&'static str> {
    POD.iter().map(|family| family.name).chain(CONTAINER.iter().map(|family| family.name)).collect()
}

#[test]
fn the_table_has_each_name_once_and_all_are_cadvisors() {
    let names = names();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    assert_eq!(names.len(), 56);
    assert!(names.iter().all(|name| name.starts_with("container_")));
}

#[test]
fn every_series_has_the_labels_of_its_family() {
    let pressure = Some(Stalls { some: Stall { total_micros: 7_900_000, ..Stall::default() }, full: Stall::default() });
    let usage = Usage {
        cpu_nanos: 2_500_000_000,
        tells_memory: true,
        memory: 100,
        inactive_file: 40,
        memory_limit: u64::MAX,
        pressure: windlass_sys::cgroup::Pressure { cpu: pressure, memory: pressure, io: pressure },
        ..Usage::default()
    };
    let detail = Detail {
        devices: vec![DeviceIo { major: 4_000_000, minor: 1, read_bytes: 4096, ..DeviceIo::default() }],
        huge_pages: vec![HugePages { size: "2MB".into(), usage: 1, max_usage: Some(2) }],
        max_memory: Some(200),
        cpu_quota: Some(20_000),
        ..Detail::default()
    };
    let disk = Disk { device: "/dev/vda".into(), space: Default::default() };
    let source = OfContainer {
        at: Timestamp(1),
        usage,
        more: Arc::new(More { detail, members: Members::default(), open_files: Some(1024) }),
        started: 5,
        layer: Some(Default::default()),
        disk: Some(Arc::new(disk)),
    };
    let base: [String; 6] = BASE.map(str::to_owned);
    let metrics = series(CONTAINER, &base, source.at, &source);
    for family in CONTAINER {
        let of_family: Vec<_> = metrics.iter().filter(|metric| metric.name == family.name).collect();
        assert!(!of_family.is_empty(), "{} has no value", family.name);
        let keys = family.descriptor().label_keys.len();
        assert!(of_family.iter().all(|metric| metric.label_values.len() == keys), "{}", family.name);
        let series: HashSet<_> = of_family.iter().map(|metric| &metric.label_values).collect();
        assert_eq!(series.len(), of_family.len(), "{} has a series twice", family.name);
    }
    let value = |name: &str| {
        metrics.iter().find(|metric| metric.name == name).and_then(|metric| metric.value).map(|value| value.value)
    };
    assert_eq!(value("container_cpu_usage_seconds_total"), Some(2));
    assert_eq!(value("container_memory_working_set_bytes"), Some(60));
    assert_eq!(value("container_spec_memory_limit_bytes"), Some(0));
    assert_eq!(value("container_pressure_io_waiting_seconds_total"), Some(7));
    assert_eq!(value("container_fs_reads_bytes_total"), Some(4096));
}

#[test]
fn what_the_kernel_does_not_tell_has_no_value() {
    let source = OfContainer {
        at: Timestamp(1),
        usage: Usage::default(),
        more: Arc::new(More { detail: Detail::default(), members: Members::default(), open_files: None }),
        started: 0,
        layer: None,
        disk: None,
    };
    let metrics = series(CONTAINER, &BASE.map(str::to_owned), source.at, &source);
    assert!(!metrics.iter().any(|metric| metric.name.contains("memory") || metric.name.contains("pressure")));
    assert!(metrics.iter().any(|metric| metric.name == "container_cpu_usage_seconds_total"));
    assert_eq!(path_of("/kubepods/pod1/c1"), "/kubepods/pod1/c1");
    assert_eq!(path_of("a-b.slice:windlass:c1"), "/a.slice/a-b.slice/windlass-c1.scope");
}
