//! An exec: another process in a container that runs, under everything that the container's own processes are under.
//!
//! The runtime's process prepares what needs the host: the container's cgroup, limits, the seccomp program, the socket of a
//! terminal. Then it has a child in the container's pid namespace, a sibling of itself, so that the shim is the parent.
//! The child ([`inside`]) joins the other namespaces, becomes who it is to be, and executes the program. It says through
//! a pipe why it could not; the pipe closes without a word when the program runs.
//!
//! Neither of the two can be traced or looked into by the container's processes, as far as the kernel can prevent it, and
//! the child takes no descriptor of the host along but its standard ones.

mod inside;
pub mod plan;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use windlass_model::{Context, Error, Kind, Result};
use windlass_sys::cgroup::Layout;
use windlass_sys::enter::{self, Namespaces};
use windlass_sys::{fs, process};

use super::seccomp::Filter;
use super::{answer, label};
use plan::{Limit, Plan};

/// The longest reason that is read, in bytes.
const REASON: u64 = 4096;

/// The names of limits, as the OCI specification has them.
const LIMITS: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

/// Where an exec is to be.
#[derive(Debug)]
pub struct Target<'a> {
    /// The container's bundle.
    pub bundle: &'a Path,
    /// The folder with its state.
    pub state: &'a Path,
    /// The daemon's folder for compiled seccomp profiles.
    pub cache: Option<&'a Path>,
    /// Its cgroup, as its specification names it.
    pub cgroup: &'a str,
    /// Its first process.
    pub pid: u32,
    /// When that process began; see [`enter::birth`].
    pub birth: u64,
    /// Where a terminal is to be sent; nothing for a process without one.
    pub console: Option<&'a Path>,
}

/// What the child takes along.
struct Parcel {
    plan: Plan,
    filter: Option<Filter>,
    namespaces: Namespaces,
    /// The container's first process.
    process: OwnedFd,
    /// Its root folder, where that is not the root of a mount namespace of its own.
    root: Option<OwnedFd>,
    console: Option<UnixStream>,
    /// The host's `/proc`, for labels: what is mounted in the container's place may be anything.
    proc: Option<OwnedFd>,
}

/// Runs the process in the file `process`; gives its id.
///
/// # Errors
/// [`Kind::FailedPrecondition`] where the container has ended; otherwise why the process cannot be.
pub fn run(target: &Target<'_>, process: &Path) -> Result<u32> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(std::io::Error::from)
        .context(|| "hide the runtime".into())?;
    let parcel = pack(target, process)?;
    let (reasons, teller) =
        pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from).context(|| "make a pipe".into())?;
    let Some(pid) = enter::fork_sibling()? else {
        drop(reasons);
        let error = inside::become_process(parcel);
        answer::write(&mut File::from(teller), &Err(error)).ok();
        std::process::exit(1);
    };
    drop(teller);
    let mut reason = String::new();
    File::from(reasons).take(REASON).read_to_string(&mut reason).context(|| "wait for the process".into())?;
    match answer::parse(&reason) {
        Some(Err(error)) => Err(error),
        _ => Ok(pid),
    }
}

/// Prepares this process, from which the child inherits, and what the child needs.
fn pack(target: &Target<'_>, file: &Path) -> Result<Parcel> {
    let plan = Plan::read(target.bundle, file)?;
    let handle = process::open_handle(target.pid).map_err(|error| ended(error, target))?;
    if enter::birth(target.pid).map_err(|error| ended(error, target))? != target.birth {
        return Err(Error::precondition(format!("the container's first process {} has ended", target.pid)));
    }
    let namespaces = Namespaces::foreign(target.pid).map_err(|error| ended(error, target))?;
    let filter = plan.filtered.then(|| Filter::of(target.bundle, target.state, target.cache)).transpose()?;
    let root =
        (!namespaces.has_mount()).then(|| fs::open_folder(&Path::new("/proc").join(format!("{}/root", target.pid))));
    let console = target.console.map(|path| {
        UnixStream::connect(path).context(|| format!("connect to the terminal's socket {}", path.display()))
    });
    let labelled = plan.apparmor.is_some() || plan.selinux.is_some();
    let parcel = Parcel {
        filter,
        namespaces,
        root: root.transpose()?,
        console: console.transpose()?,
        proc: labelled.then(label::proc).transpose()?,
        process: handle,
        plan,
    };
    settle(&parcel.plan, target)?;
    parcel.namespaces.join_pid(parcel.process.as_fd())?;
    Ok(parcel)
}

/// Gives this process what a child inherits and only the host may give.
fn settle(plan: &Plan, target: &Target<'_>) -> Result<()> {
    bind_to(plan.affinity.initial.as_deref())?;
    enter_cgroup(target)?;
    bind_to(plan.affinity.last.as_deref())?;
    if let Some(score) = plan.oom_score {
        process::adjust_oom_score(score)?;
    }
    if let Some((class, priority)) = plan.io_priority {
        enter::set_io_priority(class, priority)?;
    }
    if let Some(scheduling) = plan.scheduling {
        scheduling.apply()?;
    }
    plan.limits.iter().try_for_each(limit)
}

/// Moves this process into the container's cgroup, or where that lets no processes in (version 2, when the container
/// manages cgroups below it) to where its first process is.
fn enter_cgroup(target: &Target<'_>) -> Result<()> {
    let layout = Layout::detect()?;
    let Err(error) = layout.enter(target.cgroup) else { return Ok(()) };
    let file = format!("/proc/{}/cgroup", target.pid);
    let text = std::fs::read_to_string(&file).context(|| format!("read {file}"))?;
    match text.lines().find_map(|line| line.strip_prefix("0::")) {
        Some(actual) if layout.is_v2() && actual != target.cgroup => layout.enter(actual),
        _ => Err(error),
    }
}

fn bind_to(processors: Option<&str>) -> Result<()> {
    let Some(text) = processors.filter(|text| !text.is_empty()) else { return Ok(()) };
    let set = processor_set(text).ok_or_else(|| Error::invalid(format!("execCPUAffinity {text:?}")))?;
    sched_setaffinity(None, &set).map_err(std::io::Error::from).context(|| format!("use the processors {text}"))
}

/// The processors of a list as `0-3,5`.
fn processor_set(text: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        (first..=last).for_each(|number| set.set(number));
    }
    Some(set)
}

fn limit(limit: &Limit) -> Result<()> {
    let found = LIMITS.iter().find(|(name, _)| *name == limit.kind);
    let (_, resource) = found.ok_or_else(|| Error::invalid(format!("limit {:?} is not known", limit.kind)))?;
    let value = |number: u64| (number != u64::MAX).then_some(number);
    setrlimit(*resource, Rlimit { current: value(limit.soft), maximum: value(limit.hard) })
        .map_err(std::io::Error::from)
        .context(|| format!("set {} to {} (at most {})", limit.kind, limit.soft, limit.hard))
}

fn ended(error: Error, target: &Target<'_>) -> Error {
    match error.kind() {
        Kind::NotFound => Error::precondition(format!("the container's first process {} has ended", target.pid)),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_listed_as_the_kernel_lists_them() {
        let set = processor_set("0-2, 5").unwrap();
        let members: Vec<_> = (0..8).filter(|number| set.is_set(*number)).collect();
        assert_eq!(members, [0, 1, 2, 5]);
        for wrong in ["", "a", "3-1", "1-", "99999999"] {
            assert!(processor_set(wrong).is_none(), "{wrong}");
        }
    }
}
