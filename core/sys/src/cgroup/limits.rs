//! Limits of a cgroup: which files are written, in which order, and how they come back when the kernel refuses one.
//!
//! The files depend on each other. With version 1 memory may never be more than memory and swap together, and a share of
//! processor time (quota by period) never more than the parent's, so growing and shrinking need opposite orders. With
//! version 2 the kernel takes any memory limit and kills until it holds, so there the space is looked at first.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use windlass_model::{Context, Error, Kind, Result};

use super::Layout;

/// The period of processor time unless one is set, in microseconds: the kernel's own.
const PERIOD: u64 = 100_000;

/// What is to be limited, and to what; what is absent stays as it is. `-1` is "no limit".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Weight against siblings, 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// Processor time for each period, in microseconds.
    pub cpu_quota: Option<i64>,
    /// The period, in microseconds.
    pub cpu_period: Option<u64>,
    /// Processors, as a list like `0-2,7`.
    pub cpus: Option<String>,
    /// Memory nodes, as a list.
    pub mems: Option<String>,
    /// Memory in bytes.
    pub memory: Option<i64>,
    /// Memory and swap together, in bytes.
    pub memory_swap: Option<i64>,
    /// Processes and threads.
    pub pids: Option<i64>,
    /// Huge pages: size as in `2MB`, bytes.
    pub hugepages: Vec<(String, u64)>,
    /// Files of version 2 by name, and what to write.
    pub unified: Vec<(String, String)>,
}

/// What files held before they were written.
#[derive(Debug, Default)]
pub struct Before(Vec<(PathBuf, String)>);

/// A file to be written.
type Write = (PathBuf, String);

impl Layout {
    /// Sets limits of the cgroup: all of them or, after an error, none.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] where the cgroup uses more memory than the limit and the kernel cannot take it back;
    /// [`Kind::InvalidArgument`] for a file of version 2 that is not there; what else the kernel refuses.
    pub fn limit(&self, cgroup: &str, limits: &Limits) -> Result<Before> {
        let mut before = Before::default();
        let set = match self {
            Self::V1(_) => self.plan_v1(cgroup, limits).and_then(|plan| before.write_all(plan)),
            Self::V2(_) => {
                let folder = self.controller(cgroup, "")?;
                let room = limits.memory.map_or(Ok(()), |bytes| make_room(&folder, bytes));
                room.and_then(|()| plan_v2(&folder, limits)).and_then(|plan| before.write_all(plan))
            }
        };
        match set {
            Ok(()) => Ok(before),
            Err(error) => {
                before.restore();
                Err(error)
            }
        }
    }

    /// Has the kernel free memory of the cgroup until `bytes` are enough for it; only version 2 needs to be asked before
    /// a limit is set. A negative number is no limit.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] where more is used.
    pub fn make_room(&self, cgroup: &str, bytes: i64) -> Result<()> {
        match self {
            Self::V1(_) => Ok(()),
            Self::V2(_) => make_room(&self.controller(cgroup, "")?, bytes),
        }
    }

    fn plan_v1(&self, cgroup: &str, limits: &Limits) -> Result<Vec<Write>> {
        let mut plan = Vec::new();
        if limits.memory.is_some() || limits.memory_swap.is_some() {
            let folder = self.controller(cgroup, "memory")?;
            let memory = limits.memory.map(|bytes| (folder.join("memory.limit_in_bytes"), bytes.to_string()));
            let file = folder.join("memory.memsw.limit_in_bytes");
            let swap = limits.memory_swap.map(|bytes| (file.clone(), bytes.to_string()));
            // Never less together than memory alone, also in between.
            let grows = limits.memory_swap.is_some_and(|bytes| bytes < 0 || bytes.unsigned_abs() >= number(&file));
            plan.extend(if grows { [swap, memory] } else { [memory, swap] }.into_iter().flatten());
        }
        if limits.cpu_shares.is_some() || limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
            let folder = self.controller(cgroup, "cpu")?;
            plan.extend(limits.cpu_shares.map(|shares| (folder.join("cpu.shares"), shares.to_string())));
            let file = folder.join("cpu.cfs_period_us");
            let period = limits.cpu_period.map(|micros| (file.clone(), micros.to_string()));
            let quota = limits.cpu_quota.map(|micros| (folder.join("cpu.cfs_quota_us"), micros.to_string()));
            // A longer period takes from the present quota's share, a shorter one adds to it.
            let longer = limits.cpu_period.is_some_and(|micros| micros >= number(&file));
            plan.extend(if longer { [period, quota] } else { [quota, period] }.into_iter().flatten());
        }
        for (file, list) in [("cpuset.cpus", &limits.cpus), ("cpuset.mems", &limits.mems)] {
            if let Some(list) = list {
                plan.push((self.controller(cgroup, "cpuset")?.join(file), list.clone()));
            }
        }
        if let Some(count) = limits.pids {
            plan.push((self.controller(cgroup, "pids")?.join("pids.max"), or_max(count)));
        }
        for (size, bytes) in &limits.hugepages {
            let file = format!("hugetlb.{size}.limit_in_bytes");
            plan.push((self.controller(cgroup, "hugetlb")?.join(file), bytes.to_string()));
        }
        match limits.unified.first() {
            None => Ok(plan),
            Some((file, _)) => Err(Error::invalid(format!("{file} needs cgroups of version 2"))),
        }
    }
}

fn plan_v2(folder: &Path, limits: &Limits) -> Result<Vec<Write>> {
    let mut plan = Vec::new();
    plan.extend(limits.memory.map(|bytes| (folder.join("memory.max"), or_max(bytes))));
    if let Some(bytes) = swap_v2(limits)? {
        let file = folder.join("memory.swap.max");
        // Without the file there is no swap to forbid.
        if bytes != 0 || file.exists() {
            plan.push((file, or_max(bytes)));
        }
    }
    plan.extend(limits.cpu_shares.map(|shares| (folder.join("cpu.weight"), weight(shares).to_string())));
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let file = folder.join("cpu.max");
        let now = fs::read_to_string(&file).unwrap_or_default();
        let mut now = now.split_whitespace();
        let (quota, period) = (now.next().unwrap_or("max"), now.next().and_then(|text| text.parse().ok()));
        let quota = limits.cpu_quota.map_or_else(|| quota.to_owned(), or_max);
        plan.push((file, format!("{quota} {}", limits.cpu_period.or(period).unwrap_or(PERIOD))));
    }
    plan.extend(limits.cpus.clone().map(|list| (folder.join("cpuset.cpus"), list)));
    plan.extend(limits.mems.clone().map(|list| (folder.join("cpuset.mems"), list)));
    plan.extend(limits.pids.map(|count| (folder.join("pids.max"), or_max(count))));
    let hugepages = limits.hugepages.iter();
    plan.extend(hugepages.map(|(size, bytes)| (folder.join(format!("hugetlb.{size}.max")), bytes.to_string())));
    for (name, value) in &limits.unified {
        if name.contains('/') || !folder.join(name).is_file() {
            return Err(Error::invalid(format!("the cgroup has no file {name:?}: no such controller is enabled")));
        }
        plan.push((folder.join(name), value.clone()));
    }
    Ok(plan)
}

/// What may be swapped, from memory and swap together.
fn swap_v2(limits: &Limits) -> Result<Option<i64>> {
    Ok(match (limits.memory, limits.memory_swap) {
        (_, None) => None,
        (_, Some(..0)) => Some(-1),
        (Some(memory @ 0..), Some(both)) if both >= memory => Some(both - memory),
        (memory, Some(both)) => {
            return Err(Error::invalid(format!("memory and swap of {both} bytes with a memory limit of {memory:?}")));
        }
    })
}

/// Has the kernel free memory until the limit is not below what is used: later it would kill for it.
fn make_room(folder: &Path, limit: i64) -> Result<()> {
    let Ok(limit) = u64::try_from(limit) else { return Ok(()) };
    let file = folder.join("memory.current");
    let surplus = number(&file).saturating_sub(limit);
    if surplus > 0 {
        // It answers an error where it could not free all, and old kernels have no such file.
        let _ = fs::write(folder.join("memory.reclaim"), surplus.to_string());
    }
    let used = number(&file);
    if used > limit {
        return Err(Error::precondition(format!("a memory limit of {limit} bytes is below the {used} that are used")));
    }
    Ok(())
}

impl Before {
    fn write_all(&mut self, plan: Vec<Write>) -> Result<()> {
        for (file, text) in plan {
            let old = fs::read_to_string(&file).context(|| format!("read {}", file.display()))?;
            write(&file, &text)?;
            self.0.push((file, old));
        }
        Ok(())
    }

    /// Writes back what the files held, the last one first.
    pub fn restore(self) {
        for (file, old) in self.0.into_iter().rev() {
            if let Err(error) = write(&file, old.trim_end()) {
                tracing::warn!(%error, "a limit could not be taken back");
            }
        }
    }
}

/// Writes a limit and tells why the kernel refuses it.
fn write(file: &Path, text: &str) -> Result<()> {
    // The kernel does not see a write of nothing, and an empty set is a limit, too.
    let bytes = if text.is_empty() { "\n" } else { text };
    let refused = match fs::OpenOptions::new().write(true).truncate(true).open(file).and_then(|mut open| {
        use std::io::Write as _;
        open.write_all(bytes.as_bytes())
    }) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let is_memory = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("memory."));
    if is_memory && refused.kind() == ErrorKind::ResourceBusy {
        let used = number(&file.with_file_name("memory.usage_in_bytes"));
        let message = format!("a limit of {text} bytes in {} is below the {used} that are used", file.display());
        return Err(Error::with_source(Kind::FailedPrecondition, message, refused));
    }
    Err(refused).context(|| format!("write {text:?} to {}", file.display()))
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

/// The number in a file; what has no limit is as high as it goes.
fn number(file: &Path) -> u64 {
    match fs::read_to_string(file) {
        Ok(text) => text.trim().parse().unwrap_or(u64::MAX),
        Err(_) => 0,
    }
}

/// The weight of version 2 for shares of version 1: both ends and both defaults (1024 and 100) meet.
fn weight(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // A hair less, so that what is whole is not rounded up by an error of the last digit.
    ((10f64.powf(exponent) - 1e-9).ceil() as u64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like a hierarchy of version 1 with one cgroup.
    fn v1(files: &[(&str, &str)]) -> (tempfile::TempDir, Layout) {
        let root = tempfile::tempdir().unwrap();
        let mut hierarchies: Vec<PathBuf> = Vec::new();
        for (file, text) in files {
            let controller = root.path().join(file.split('.').next().unwrap());
            fs::create_dir_all(controller.join("g")).unwrap();
            fs::write(controller.join("g").join(file), text).unwrap();
            hierarchies.push(controller);
        }
        hierarchies.dedup();
        (root, Layout::V1(hierarchies))
    }

    fn names(plan: Vec<Write>) -> Vec<(String, String)> {
        plan.into_iter().map(|(file, text)| (file.file_name().unwrap().to_string_lossy().into_owned(), text)).collect()
    }

    fn pair(file: &str, text: &str) -> (String, String) {
        (file.into(), text.into())
    }

    #[test]
    fn memory_alone_is_never_more_than_with_swap() {
        let (_root, layout) = v1(&[("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "100")]);
        let plan = |bytes| {
            let limits = Limits { memory: Some(bytes), memory_swap: Some(bytes), ..Limits::default() };
            names(layout.plan_v1("/g", &limits).unwrap())
        };
        let (memory, swap) = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes");
        assert_eq!(plan(200), [pair(swap, "200"), pair(memory, "200")]);
        assert_eq!(plan(50), [pair(memory, "50"), pair(swap, "50")]);
        assert_eq!(plan(-1), [pair(swap, "-1"), pair(memory, "-1")]);
    }

    #[test]
    fn a_share_of_time_never_grows_on_the_way() {
        let (_root, layout) = v1(&[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")]);
        let plan = |period, quota| {
            let limits = Limits { cpu_period: Some(period), cpu_quota: Some(quota), ..Limits::default() };
            names(layout.plan_v1("/g", &limits).unwrap()).remove(0).0
        };
        assert_eq!(plan(200_000, 100_000), "cpu.cfs_period_us");
        assert_eq!(plan(10_000, 5_000), "cpu.cfs_quota_us");
    }

    #[test]
    fn what_was_written_before_a_refusal_is_taken_back() {
        let (root, layout) = v1(&[("cpu.shares", "1024\n"), ("pids.max", "max\n")]);
        fs::remove_file(root.path().join("pids/g/pids.max")).unwrap();
        let limits = Limits { cpu_shares: Some(7), pids: Some(5), ..Limits::default() };
        assert!(layout.limit("/g", &limits).is_err());
        assert_eq!(fs::read_to_string(root.path().join("cpu/g/cpu.shares")).unwrap(), "1024");
        let limits = Limits { cpu_shares: Some(7), ..Limits::default() };
        layout.limit("/g", &limits).unwrap().restore();
        assert_eq!(fs::read_to_string(root.path().join("cpu/g/cpu.shares")).unwrap(), "1024");
    }

    #[test]
    fn version_1_has_no_unified_files() {
        let (_root, layout) = v1(&[("cpu.shares", "1024")]);
        let limits = Limits { unified: vec![pair("memory.high", "5")], ..Limits::default() };
        assert_eq!(layout.limit("/g", &limits).unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn version_2_has_words_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("g");
        fs::create_dir(&folder).unwrap();
        for (file, text) in [("cpu.max", "max 100000"), ("memory.swap.max", "max"), ("memory.high", "max")] {
            fs::write(folder.join(file), text).unwrap();
        }
        let limits = Limits {
            memory: Some(100),
            memory_swap: Some(150),
            cpu_shares: Some(1024),
            cpu_quota: Some(5000),
            pids: Some(-1),
            hugepages: vec![("2MB".into(), 4)],
            unified: vec![pair("memory.high", "90")],
            ..Limits::default()
        };
        let expected = [
            pair("memory.max", "100"),
            pair("memory.swap.max", "50"),
            pair("cpu.weight", "100"),
            pair("cpu.max", "5000 100000"),
            pair("pids.max", "max"),
            pair("hugetlb.2MB.max", "4"),
            pair("memory.high", "90"),
        ];
        assert_eq!(names(plan_v2(&folder, &limits).unwrap()), expected);
        let unknown = Limits { unified: vec![pair("io.weight", "5")], ..Limits::default() };
        assert_eq!(plan_v2(&folder, &unknown).unwrap_err().kind(), Kind::InvalidArgument);
        let contrary = Limits { memory: Some(100), memory_swap: Some(50), ..Limits::default() };
        assert_eq!(plan_v2(&folder, &contrary).unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn a_limit_below_what_is_used_is_refused_before_anybody_is_killed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("g")).unwrap();
        fs::write(root.path().join("g/memory.current"), "1000").unwrap();
        fs::write(root.path().join("g/memory.max"), "max").unwrap();
        let layout = Layout::V2(root.path().into());
        let limits = |bytes| Limits { memory: Some(bytes), ..Limits::default() };
        let refused = layout.limit("/g", &limits(999)).unwrap_err();
        assert_eq!(refused.kind(), Kind::FailedPrecondition);
        assert_eq!(fs::read_to_string(root.path().join("g/memory.max")).unwrap(), "max");
        layout.limit("/g", &limits(1000)).unwrap();
        layout.limit("/g", &limits(-1)).unwrap();
    }

    #[test]
    fn shares_and_weights_meet_at_the_ends_and_in_the_middle() {
        for (shares, expected) in [(2, 1), (1024, 100), (262_144, 10_000), (0, 1), (u64::MAX, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert!(weight(100) < weight(512) && weight(512) < 100);
    }
}
