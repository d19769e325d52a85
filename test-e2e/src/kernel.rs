//! What the kernel says is there: mounts, processes, cgroups, descriptors. Read from `/proc` and `/sys` only.

use std::fs;
use std::path::{Path, PathBuf};

/// Mount points below (or at) `dir`, deepest last.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}

/// Processes that belong to `tag`: it stands in their command line, environment or cgroup. Pid and command line.
pub fn processes_of(tag: &str) -> Vec<(u32, String)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id()).filter_map(|pid| process_of(pid, tag)).collect()
}

fn process_of(pid: u32, tag: &str) -> Option<(u32, String)> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let command = read("cmdline");
    let named = |bytes: &[u8]| bytes.windows(tag.len()).any(|window| window == tag.as_bytes());
    if !(named(&command) || named(&read("cgroup")) || named(&read("environ"))) || is_zombie(pid) {
        return None;
    }
    Some((pid, String::from_utf8_lossy(&command).replace('\0', " ")))
}

/// Whether a process has ended and waits only for its parent to see it.
pub fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// The pids of the processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return found };
    for task in tasks.flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
    }
    found
}

/// The roots of the mounted cgroup hierarchies: one per controller on v1, one alone on v2.
pub fn cgroup_roots() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let cgroups = text.lines().filter(|line| line.contains(" - cgroup "));
    let mut roots: Vec<PathBuf> = cgroups.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect();
    if roots.is_empty() {
        roots.push(PathBuf::from("/sys/fs/cgroup"));
    }
    roots
}

/// Makes the cgroup `name` in every hierarchy, as the kubelet does for a pod before it asks for the sandbox.
pub fn make_cgroup(name: &str) {
    for root in cgroup_roots() {
        let mut path = root.clone();
        for part in name.trim_matches('/').split('/') {
            let parent = path.clone();
            path.push(part);
            if fs::create_dir(&path).is_ok() {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if let Ok(value) = fs::read(parent.join(file)) {
                        fs::write(path.join(file), value).ok();
                    }
                }
            }
        }
    }
}

/// The cgroups below `name`, not `name` itself, in all hierarchies; deepest first.
pub fn cgroups_below(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in cgroup_roots() {
        collect_dirs(&root.join(name.trim_matches('/')), &mut found);
    }
    found
}

/// Removes the cgroup `name` and those below it, as far as they are empty.
pub fn remove_cgroup(name: &str) {
    for path in cgroups_below(name) {
        fs::remove_dir(path).ok();
    }
    for root in cgroup_roots() {
        fs::remove_dir(root.join(name.trim_matches('/'))).ok();
    }
}

fn collect_dirs(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect_dirs(&entry.path(), found);
        found.push(entry.path());
    }
}

/// The entries exactly `depth` levels below `dir`, without following links.
pub fn entries_at(dir: &Path, depth: usize) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let entries = entries.flatten();
    if depth <= 1 {
        return entries.map(|entry| entry.path()).collect();
    }
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.flat_map(|entry| entries_at(&entry.path(), depth - 1)).collect()
}

/// What the open descriptors of a process point at.
pub fn descriptors(pid: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// A number in KiB of `/proc/<pid>/smaps_rollup` (or `status`), such as `Pss` or `VmRSS`.
pub fn memory_kib(pid: u32, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find(|line| line.split(':').next() == Some(key));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// The CPU time in milliseconds that a cgroup and all below it have used, those that are gone included.
pub fn cgroup_cpu_ms(name: &str) -> f64 {
    let name = name.trim_matches('/');
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    if let Ok(nanos) = read(format!("/sys/fs/cgroup/cpuacct/{name}/cpuacct.usage")).trim().parse::<f64>() {
        return nanos / 1e6;
    }
    let text = read(format!("/sys/fs/cgroup/{name}/cpu.stat"));
    let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    micros.and_then(|micros| micros.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
}

/// The CPU time in milliseconds that a living process has used, to ten milliseconds.
pub fn process_cpu_ms(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) * 10.0
}

/// What `/proc/meminfo` calls `MemAvailable`, in KiB, with the page cache dropped first so that it does not blur the number.
pub fn available_kib() -> u64 {
    fs::write("/proc/sys/vm/drop_caches", "3").ok();
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Whether a process runs a shim, whatever it calls itself.
pub fn is_shim(pid: u32) -> bool {
    let path = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    path.to_string_lossy().contains("containerd-shim")
}
