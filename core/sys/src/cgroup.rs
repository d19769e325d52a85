//! Control groups of both versions, by reading and writing their files.
//!
//! A cgroup is named by its path from the root of the hierarchies, as the OCI specification's `cgroupsPath` has it:
//! `/kubepods/pod1/c1`, or systemd's `slice:prefix:name`. With version 1 (and the hybrid set-up) a cgroup is a folder in
//! each hierarchy; with version 2 it is one folder.

mod devices;
mod events;
mod limits;
mod usage;

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::statfs;
use windlass_model::{Context, Error, Result};

use crate::process;

pub use devices::DeviceRule;
pub use events::OomWatch;
pub use limits::{Before, Limits};
pub use usage::{Counters, Detail, DeviceIo, HugePages, Members, Pressure, Stall, Stalls, Usage, soft_open_files};

/// Where the hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// What `statfs` says of a hierarchy of version 1 (`CGROUP_SUPER_MAGIC`).
const MAGIC_V1: i64 = 0x0027_e0eb;
/// What `statfs` says of version 2 (`CGROUP2_SUPER_MAGIC`).
const MAGIC_V2: i64 = 0x6367_7270;
/// How long a dead process may take to leave its cgroup.
const LEAVE: Duration = Duration::from_secs(2);

/// The machine's hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One folder for each controller, by the mount's name (`memory`, `cpu,cpuacct`, `systemd`).
    V1(Vec<PathBuf>),
    /// One folder.
    V2(PathBuf),
}

impl Layout {
    /// Looks at `/sys/fs/cgroup`.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`] where nothing is mounted there.
    pub fn detect() -> Result<Self> {
        let root = Path::new(ROOT);
        let magic = |path: &Path| statfs(path).map_or(0, |found| found.f_type);
        if magic(root) == MAGIC_V2 {
            return Ok(Self::V2(root.into()));
        }
        let mut hierarchies = Vec::new();
        for entry in fs::read_dir(root).context(|| format!("list {ROOT}"))? {
            let entry = entry.context(|| format!("list {ROOT}"))?;
            // `cpu` may be a link to `cpu,cpuacct`.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && magic(&entry.path()) == MAGIC_V1 {
                hierarchies.push(entry.path());
            }
        }
        hierarchies.sort();
        if hierarchies.is_empty() {
            return Err(Error::not_found(format!("no cgroups are mounted in {ROOT}")));
        }
        Ok(Self::V1(hierarchies))
    }

    /// True with version 2 alone.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// The folders of a cgroup, one for each hierarchy.
    ///
    /// # Errors
    /// [`windlass_model::Kind::InvalidArgument`] for a name that leads out of the hierarchy or is its root.
    pub fn folders(&self, cgroup: &str) -> Result<Vec<PathBuf>> {
        let relative = relative(cgroup)?;
        Ok(match self {
            Self::V1(hierarchies) => hierarchies.iter().map(|hierarchy| hierarchy.join(&relative)).collect(),
            Self::V2(root) => vec![root.join(&relative)],
        })
    }

    /// The folder of a cgroup where `controller` is; with version 2 the only one.
    pub fn controller(&self, cgroup: &str, controller: &str) -> Result<PathBuf> {
        let relative = relative(cgroup)?;
        match self {
            Self::V2(root) => Ok(root.join(relative)),
            Self::V1(hierarchies) => hierarchies
                .iter()
                .find(|path| {
                    path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.split(',').any(|n| n == controller))
                })
                .map(|hierarchy| hierarchy.join(relative))
                .ok_or_else(|| Error::not_found(format!("cgroup controller {controller}"))),
        }
    }

    /// Makes the cgroup and its parents; succeeds where it is there.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn create(&self, cgroup: &str) -> Result<()> {
        for folder in self.folders(cgroup)? {
            make(&folder).context(|| format!("make cgroup {}", folder.display()))?;
        }
        Ok(())
    }

    /// Moves a process into the cgroup, which is made where it is missing.
    ///
    /// # Errors
    /// Where the process is gone or the kernel refuses.
    pub fn join(&self, cgroup: &str, pid: u32) -> Result<()> {
        for folder in self.folders(cgroup)? {
            make(&folder).context(|| format!("make cgroup {}", folder.display()))?;
            write(&folder.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Moves this process, which has one thread, into the cgroup where that is there.
    ///
    /// With version 1 a thread that moves itself waits for nobody. [`Layout::join`] waits until every processor has
    /// noticed that processes may not fork for now, which takes the kernel about ten milliseconds.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`] where it is nowhere, or where the kernel refuses.
    pub fn enter(&self, cgroup: &str) -> Result<()> {
        let file = if self.is_v2() { "cgroup.procs" } else { "tasks" };
        let mut found = false;
        for folder in self.folders(cgroup)? {
            match write(&folder.join(file), "0") {
                Err(error) if error.is_not_found() => {}
                outcome => {
                    outcome?;
                    found = true;
                }
            }
        }
        if found { Ok(()) } else { Err(Error::not_found(format!("cgroup {cgroup}"))) }
    }

    /// Moves this process, which has one thread, to the roots of all hierarchies, out of whatever cgroup it is in; as
    /// quick as [`Layout::enter`].
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn leave(&self) -> Result<()> {
        match self {
            Self::V1(hierarchies) => hierarchies.iter().try_for_each(|root| write(&root.join("tasks"), "0")),
            Self::V2(root) => write(&root.join("cgroup.procs"), "0"),
        }
    }

    /// The processes in the cgroup and in those below it; none where it is missing.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn processes(&self, cgroup: &str) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        // With version 1 a process may have been moved out of single hierarchies by whoever is root in the container.
        for folder in self.folders(cgroup)? {
            collect(&folder, &mut found).context(|| format!("list the processes of {}", folder.display()))?;
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Sends `SIGKILL` to all that is in the cgroup and below, this process excepted; frozen ones are thawed.
    ///
    /// # Errors
    /// Where its files cannot be read.
    pub fn kill(&self, cgroup: &str) -> Result<()> {
        if let Self::V2(root) = self {
            let switch = root.join(relative(cgroup)?).join("cgroup.kill");
            if !self.processes(cgroup)?.contains(&std::process::id()) && fs::write(&switch, "1").is_ok() {
                return Ok(());
            }
        }
        // A process may fork while the list is read.
        for _ in 0..5 {
            let alive = self.processes(cgroup)?;
            let mut hit = false;
            for pid in alive.into_iter().filter(|pid| *pid != 0 && *pid != std::process::id()) {
                hit |= process::signal(pid, 9).is_ok();
            }
            self.thaw(cgroup).ok();
            if !hit {
                break;
            }
        }
        Ok(())
    }

    /// Removes the cgroup and those below it; succeeds where it is missing. Dead processes are given 2 s to leave it.
    ///
    /// # Errors
    /// [`windlass_model::Kind::Internal`] (`EBUSY`) where a process stays in it.
    pub fn remove(&self, cgroup: &str) -> Result<()> {
        let mut pause = Duration::from_micros(200);
        let begin = Instant::now();
        while self.is_left_to_systemd(cgroup)? && begin.elapsed() < LEAVE {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        let deadline = Instant::now() + LEAVE;
        while !self.try_remove(cgroup)? {
            if Instant::now() > deadline {
                return Err(Error::internal(format!("cgroup {cgroup} is still in use")));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(())
    }

    /// One attempt to remove the cgroup and those below it, for callers that wait on their own; false where a process is
    /// in it.
    ///
    /// # Errors
    /// Where the kernel refuses for another reason.
    pub fn try_remove(&self, cgroup: &str) -> Result<bool> {
        for folder in self.folders(cgroup)? {
            match remove_tree(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::ResourceBusy => return Ok(false),
                Err(error) => return Err(error).context(|| format!("remove cgroup {}", folder.display())),
            }
        }
        if !self.is_v2() {
            // Beside version 1 there may be an idle version 2, where runc makes the same folders.
            remove_tree(&Path::new(ROOT).join("unified").join(relative(cgroup)?)).ok();
        }
        Ok(true)
    }

    /// True while the folder of a unit is there that systemd removes when its last process has ended. Whoever were faster
    /// would take the news from systemd, and the unit would stay for ever. Always false with version 1, where systemd's
    /// hierarchy is its own.
    ///
    /// # Errors
    /// As [`Layout::folders`].
    pub fn is_left_to_systemd(&self, cgroup: &str) -> Result<bool> {
        let is_unit = self.is_v2() && !cgroup.starts_with('/') && cgroup.contains(':');
        Ok(is_unit && self.folders(cgroup)?.iter().any(|folder| folder.exists()))
    }

    /// Stops all processes of the cgroup; the kernel may take a moment, see [`Layout::is_frozen`].
    ///
    /// # Errors
    /// Where the freezer is missing or the kernel refuses.
    pub fn freeze(&self, cgroup: &str) -> Result<()> {
        match self {
            Self::V1(_) => write(&self.controller(cgroup, "freezer")?.join("freezer.state"), "FROZEN"),
            Self::V2(_) => write(&self.controller(cgroup, "")?.join("cgroup.freeze"), "1"),
        }
    }

    /// Lets the processes of a frozen cgroup go on.
    ///
    /// # Errors
    /// Where the freezer is missing or the kernel refuses.
    pub fn thaw(&self, cgroup: &str) -> Result<()> {
        match self {
            Self::V1(_) => write(&self.controller(cgroup, "freezer")?.join("freezer.state"), "THAWED"),
            Self::V2(_) => write(&self.controller(cgroup, "")?.join("cgroup.freeze"), "0"),
        }
    }

    /// True where all processes of the cgroup have stopped.
    ///
    /// # Errors
    /// Where the freezer is missing.
    pub fn is_frozen(&self, cgroup: &str) -> Result<bool> {
        let (file, sign) = match self {
            Self::V1(_) => (self.controller(cgroup, "freezer")?.join("freezer.state"), "FROZEN"),
            Self::V2(_) => (self.controller(cgroup, "")?.join("cgroup.events"), "frozen 1"),
        };
        let text = fs::read_to_string(&file).context(|| format!("read {}", file.display()))?;
        Ok(text.lines().any(|line| line == sign))
    }
}

/// The path below the root of a hierarchy that a cgroup's name means.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] for the root itself and for names with `..`.
pub fn relative(cgroup: &str) -> Result<PathBuf> {
    let path = match cgroup.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] if !cgroup.starts_with('/') => systemd_path(slice, prefix, name),
        _ => PathBuf::from(cgroup.trim_start_matches('/')),
    };
    let clean = path.components().all(|component| matches!(component, Component::Normal(_)));
    if path.as_os_str().is_empty() || !clean {
        return Err(Error::invalid(format!("cgroup path {cgroup:?}")));
    }
    Ok(path)
}

/// Where systemd puts a unit: `a-b.slice` lies in `a.slice`, and a scope in its slice.
fn systemd_path(slice: &str, prefix: &str, name: &str) -> PathBuf {
    let mut path = PathBuf::new();
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    if stem != "-" {
        for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
            path.push(format!("{}.slice", &stem[..end]));
        }
    }
    match (prefix, name) {
        (_, "") => {}
        (_, name) if name.ends_with(".slice") => path.push(name),
        ("", name) => path.push(format!("{name}.scope")),
        (prefix, name) => path.push(format!("{prefix}-{name}.scope")),
    }
    path
}

/// Makes a folder and its parents; a new cpuset of version 1 gets its parent's processors and memory.
fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make(folder.parent().ok_or(error)?)?;
            match fs::create_dir(folder) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Err(error) => return Err(error),
    }
    if folder.components().nth(4).is_some_and(|name| name.as_os_str() == "cpuset") {
        let parent = folder.parent().unwrap_or(folder);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(folder.join(file), fs::read(parent.join(file))?)?;
        }
    }
    Ok(())
}

/// Adds the processes of a folder and of those below it.
fn collect(folder: &Path, found: &mut Vec<u32>) -> io::Result<()> {
    match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
        // A threaded cgroup of version 2 has none; a removed one neither.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    }
    for folder in children(folder)? {
        collect(&folder, found)?;
    }
    Ok(())
}

fn children(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut children = Vec::new();
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    children.push(entry.path());
                }
            }
        }
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(children)
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    // Nearly always there is nothing below.
    match fs::remove_dir(folder) {
        Ok(()) => return Ok(()),
        Err(error) if is_gone(&error) => return Ok(()),
        Err(_) => {}
    }
    for child in children(folder)? {
        remove_tree(&child)?;
    }
    match fs::remove_dir(folder) {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// A cgroup that was removed while its files were open answers `ENODEV`.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Writes a control file, which the kernel takes as one write or refuses.
fn write(file: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut open| open.write_all(text.as_bytes()))
        .context(|| format!("write {text:?} to {}", file.display()))
}

#[cfg(test)]
mod tests;
