//! Folders that look like cgroups, whole, partial and hostile.

use std::fs;

use super::*;

fn write(folder: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
}

/// A layout of version 1 below a temporary folder, and counters of its cgroup `/p/c`.
fn v1(controllers: &[(&str, &[(&str, &str)])]) -> (tempfile::TempDir, Counters) {
    let root = tempfile::tempdir().unwrap();
    let folders = controllers.iter().map(|(controller, files)| {
        write(&root.path().join(controller).join("p/c"), files);
        root.path().join(controller)
    });
    let layout = Layout::V1(folders.collect());
    let counters = Counters::of(&layout, "/p/c").unwrap();
    (root, counters)
}

fn v2(files: &[(&str, &str)]) -> (tempfile::TempDir, Counters) {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("p/c"), files);
    let counters = Counters::of(&Layout::V2(root.path().into()), "/p/c").unwrap();
    (root, counters)
}

#[test]
fn version_1_is_read_from_its_hierarchies() {
    let stat = "cache 1\ntotal_cache 11\ntotal_rss 22\ntotal_mapped_file 33\ntotal_inactive_file 44\ntotal_pgfault 55\n\
        total_pgmajfault 6\ntotal_swap 7\npgfault 5\npgmajfault 2\nhierarchical_memory_limit 1000\nhierarchical_memsw_limit 1500\n";
    let (_root, counters) = v1(&[
        (
            "cpu,cpuacct",
            &[
                ("cpuacct.usage", "9000\n"),
                ("cpuacct.usage_user", "5000\n"),
                ("cpuacct.usage_sys", "4000\n"),
                ("cpu.stat", "nr_periods 3\nnr_throttled 2\nthrottled_time 1000\n"),
                ("cpu.cfs_quota_us", "20000\n"),
                ("cpu.cfs_period_us", "100000\n"),
                ("cpu.shares", "512\n"),
            ],
        ),
        (
            "memory",
            &[
                ("memory.usage_in_bytes", "100\n"),
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.stat", stat),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"),
                ("memory.kmem.usage_in_bytes", "12\n"),
                ("memory.max_usage_in_bytes", "200\n"),
                ("memory.failcnt", "8\n"),
                ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
                ("memory.memsw.limit_in_bytes", "1500\n"),
            ],
        ),
        ("pids", &[("pids.current", "3\n"), ("pids.max", "max\n")]),
        (
            "blkio",
            &[
                (
                    "blkio.throttle.io_service_bytes_recursive",
                    "253:0 Read 4096\n253:0 Write 8192\n253:0 Sync 1\nTotal 12288\n",
                ),
                ("blkio.throttle.io_serviced_recursive", "253:0 Read 1\n253:0 Write 2\nTotal 3\n"),
            ],
        ),
        ("hugetlb", &[("hugetlb.2MB.usage_in_bytes", "2097152\n"), ("hugetlb.2MB.max_usage_in_bytes", "4194304\n")]),
    ]);
    let usage = counters.usage().unwrap();
    assert_eq!((usage.cpu_nanos, usage.cpu_user_nanos, usage.cpu_system_nanos), (9000, 5000, 4000));
    assert_eq!((usage.memory, usage.memory_limit, usage.working_set()), (100, u64::MAX, 56));
    assert_eq!((usage.anonymous, usage.cache, usage.mapped_file), (22, 11, 33));
    assert_eq!((usage.faults, usage.major_faults, usage.swap, usage.swap_limit), (55, 6, 7, 500));
    assert_eq!((usage.pids, usage.pids_limit, usage.pressure), (3, 0, Pressure::default()));
    assert_eq!(counters.cpu_nanos(), Some(9000));
    let detail = counters.detail().unwrap();
    assert_eq!((detail.periods, detail.throttled_periods, detail.throttled_nanos), (3, 2, 1000));
    assert_eq!((detail.own_faults, detail.own_major_faults, detail.oom_kills), (5, 2, 4));
    assert_eq!((detail.kernel_memory, detail.max_memory, detail.limit_hits), (12, Some(200), 8));
    assert_eq!((detail.cpu_quota, detail.cpu_period, detail.cpu_shares), (Some(20000), 100_000, 512));
    assert_eq!((detail.memory_reservation, detail.swap_limit), (0, 1500));
    let io = DeviceIo { major: 253, minor: 0, read_bytes: 4096, written_bytes: 8192, reads: 1, writes: 2 };
    assert_eq!(detail.devices, [io]);
    assert_eq!(detail.huge_pages, [HugePages { size: "2MB".into(), usage: 2 << 20, max_usage: Some(4 << 20) }]);
}

#[test]
fn version_2_is_read_from_its_folder() {
    let (_root, counters) = v2(&[
        ("cpu.stat", "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\nthrottled_usec 1\n"),
        ("memory.current", "100\n"),
        ("memory.max", "300\n"),
        ("memory.peak", "200\n"),
        ("memory.stat", "anon 22\nfile 11\nkernel 12\nfile_mapped 33\ninactive_file 144\npgfault 55\npgmajfault 6\n"),
        ("memory.events", "low 0\nhigh 0\nmax 8\noom 1\noom_kill 4\n"),
        ("memory.swap.current", "7\n"),
        ("memory.swap.max", "500\n"),
        ("memory.min", "50\n"),
        ("pids.current", "3\n"),
        ("pids.max", "100\n"),
        (
            "cpu.pressure",
            "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        ),
        ("io.stat", "253:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n254:0\n"),
        ("cpu.max", "20000 100000\n"),
        ("cpu.weight", "100\n"),
        ("hugetlb.2MB.current", "0\n"),
    ]);
    let usage = counters.usage().unwrap();
    assert_eq!((usage.cpu_nanos, usage.memory, usage.memory_limit, usage.working_set()), (9000, 100, 300, 0));
    assert_eq!((usage.swap, usage.swap_limit, usage.pids, usage.pids_limit), (7, 500, 3, 100));
    assert_eq!(usage.pressure.cpu.unwrap().some.avg10, 1.5);
    assert_eq!((usage.pressure.memory, usage.pressure.io), (None, None));
    let detail = counters.detail().unwrap();
    assert_eq!((detail.max_memory, detail.limit_hits, detail.oom_kills), (Some(200), 8, 4));
    assert_eq!((detail.cpu_quota, detail.cpu_period, detail.cpu_shares), (Some(20000), 100_000, 2597));
    assert_eq!((detail.throttled_nanos, detail.memory_reservation, detail.swap_limit), (1000, 50, 500));
    assert_eq!(detail.devices[0].read_bytes, 4096);
    assert_eq!(detail.huge_pages, [HugePages { size: "2MB".into(), usage: 0, max_usage: None }]);
}

#[test]
fn a_cgroup_that_is_gone_has_no_answer() {
    let root = tempfile::tempdir().unwrap();
    for layout in [Layout::V2(root.path().into()), Layout::V1(vec![root.path().join("memory")]), Layout::V1(vec![])] {
        let counters = Counters::of(&layout, "/gone").unwrap();
        assert_eq!((counters.usage(), counters.cpu_nanos(), counters.detail()), (None, None, None));
    }
    let layout = Layout::V2(root.path().into());
    assert_eq!(Usage::read(&layout, "/gone").unwrap().memory_limit, u64::MAX);
    assert!(Counters::of(&layout, "/../out").is_err());
}

#[test]
fn a_controller_that_is_off_leaves_the_rest() {
    let (_root, counters) = v2(&[("cpu.stat", "usage_usec 9\n")]);
    let usage = counters.usage().unwrap();
    assert_eq!((usage.cpu_nanos, usage.tells_memory, usage.memory), (9000, false, 0));
    assert_eq!(counters.detail().unwrap().max_memory, None);
    let (_root, counters) = v1(&[("memory", &[("memory.usage_in_bytes", "5\n")])]);
    let usage = counters.usage().unwrap();
    assert_eq!((usage.cpu_nanos, usage.tells_memory, usage.memory), (0, true, 5));
}

#[test]
fn odd_files_are_no_numbers() {
    let long = format!("usage_usec 9\n{}\nuser_usec 5\n", "x".repeat(300_000));
    let odd: [&str; 7] =
        ["", "\0\0", "usage_usec", "usage_usec -1\n", "usage_usec 99999999999999999999999\n", "usage_usec\t9\n", &long];
    for text in odd {
        let (_root, counters) = v2(&[
            ("cpu.stat", text),
            ("memory.current", "18446744073709551615\n"),
            ("memory.stat", text),
            ("io.stat", "a:b rbytes=1\n1 rbytes=1\n1:2:3 rbytes=1\n4294967296:0 rbytes=1\n1:2 rbytes=x wbytes\n"),
            ("cpu.max", "max"),
            ("cpu.weight", "18446744073709551615"),
        ]);
        let usage = counters.usage().unwrap();
        assert!(usage.cpu_nanos == 0 || usage.cpu_nanos == 9000, "{text:.40}");
        assert_eq!(usage.memory, u64::MAX);
        let detail = counters.detail().unwrap();
        assert_eq!(detail.devices, [DeviceIo { major: 1, minor: 2, ..DeviceIo::default() }]);
        assert_eq!((detail.cpu_quota, detail.cpu_period, detail.cpu_shares), (None, 100_000, 262_144));
    }
    let (root, counters) = v2(&[("cpu.stat", "usage_usec 18446744073709551615\n")]);
    assert_eq!(counters.cpu_nanos(), Some(u64::MAX));
    fs::write(root.path().join("p/c/cpu.stat"), b"usage_usec 9\n\xff\xfe").unwrap();
    assert_eq!(counters.usage(), None, "what is no text tells nothing");
}
