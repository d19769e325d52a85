//! Becoming a process of a container that runs: its namespaces, a child in them, and the last steps before its program.

use std::fs;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use windlass_model::{Context, Error, Kind, Result};

use crate::errno;

/// Has the kernel tell a supervisor of each call that the filter wants to be asked about.
pub const FILTER_NEW_LISTENER: u32 = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
/// Has the kernel write down what the filter refuses.
pub const FILTER_LOG: u32 = libc::SECCOMP_FILTER_FLAG_LOG as u32;
/// Leaves speculative store bypass as it is.
pub const FILTER_SPEC_ALLOW: u32 = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
/// Lets only deadly signals disturb a call that a supervisor has taken.
pub const FILTER_WAIT_KILLABLE: u32 = 1 << 5;

/// The names below `/proc/<pid>/ns` and what `setns` calls them.
const NAMESPACES: [(&str, ThreadNameSpaceType); 8] = [
    ("user", ThreadNameSpaceType::USER),
    ("mnt", ThreadNameSpaceType::MOUNT),
    ("pid", ThreadNameSpaceType::PROCESS_ID),
    ("net", ThreadNameSpaceType::NETWORK),
    ("ipc", ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION),
    ("uts", ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME),
    ("cgroup", ThreadNameSpaceType::CONTROL_GROUP),
    ("time", ThreadNameSpaceType::TIME),
];

/// Namespaces of one process that another is not in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces(ThreadNameSpaceType);

impl Namespaces {
    /// Those of process `pid` that this process is not in.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where the process is gone.
    pub fn foreign(pid: u32) -> Result<Self> {
        let mut found = ThreadNameSpaceType::empty();
        for (name, kind) in NAMESPACES {
            // A kernel without one kind of namespace shows no file for it.
            let Ok(ours) = fs::metadata(format!("/proc/self/ns/{name}")) else { continue };
            let file = format!("/proc/{pid}/ns/{name}");
            let theirs = fs::metadata(&file).context(|| format!("look at {file}"))?;
            found.set(kind, (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino()));
        }
        Ok(Self(found))
    }

    /// True where one is a user namespace.
    pub fn has_user(self) -> bool {
        self.0.contains(ThreadNameSpaceType::USER)
    }

    /// True where one is a mount namespace.
    pub fn has_mount(self) -> bool {
        self.0.contains(ThreadNameSpaceType::MOUNT)
    }

    /// Has the children to come of this process be born in the pid namespace, where there is one.
    ///
    /// # Errors
    /// Where `process`, a pidfd, has ended, or the kernel refuses.
    pub fn join_pid(self, process: BorrowedFd<'_>) -> Result<()> {
        join(process, self.0 & ThreadNameSpaceType::PROCESS_ID)
    }

    /// Moves this process into all but the pid namespace, in one step.
    ///
    /// # Errors
    /// Where `process`, a pidfd, has ended, or the kernel refuses.
    pub fn join_rest(self, process: BorrowedFd<'_>) -> Result<()> {
        join(process, self.0 - ThreadNameSpaceType::PROCESS_ID)
    }
}

fn join(process: BorrowedFd<'_>, kinds: ThreadNameSpaceType) -> Result<()> {
    if kinds.is_empty() {
        return Ok(());
    }
    match move_into_thread_name_spaces(process, kinds) {
        Err(rustix::io::Errno::SRCH) => Err(Error::precondition("the container's first process has ended")),
        outcome => outcome.map_err(|error| errno(error, || format!("join the container's namespaces ({kinds:?})"))),
    }
}

/// Makes a copy of this process as another child of its parent; gives the child's id, and nothing in the child.
///
/// # Errors
/// [`Kind::FailedPrecondition`] where this process has more than one thread, which a copy could not live without;
/// otherwise where the kernel refuses.
pub fn fork_sibling() -> Result<Option<u32>> {
    // A folder has a link for itself, one for its name, and one for each folder in it.
    let threads = fs::metadata("/proc/self/task").context(|| "count threads".into())?.nlink().saturating_sub(2);
    if threads != 1 {
        return Err(Error::precondition(format!("a process with {threads} threads cannot be copied")));
    }
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    let (none, zero) = (std::ptr::null::<libc::c_void>(), 0_usize);
    // JUSTIFICATION: no safe wrapper makes siblings.
    // SAFETY: without CLONE_VM and with no stack given this is fork: the child goes on with a copy of all memory, and as
    // there is one thread, no lock is held that nobody will let go of.
    let answer = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, zero) };
    match u32::try_from(answer) {
        Ok(0) => Ok(None),
        Ok(pid) => Ok(Some(pid)),
        Err(_) => Err(errno(Errno::last(), || "make a process".into())),
    }
}

/// Has all descriptors above stderr close when a program is executed.
///
/// # Errors
/// Where the kernel refuses.
pub fn close_on_exec() -> Result<()> {
    let (first, last): (libc::c_uint, libc::c_uint) = (3, libc::c_uint::MAX);
    // JUSTIFICATION: no safe wrapper exists for close_range.
    // SAFETY: it takes integers, touches no memory, and with this flag closes nothing that is in use.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if answer == 0 { Ok(()) } else { Err(errno(Errno::last(), || "mark descriptors".into())) }
}

/// Puts this process under a seccomp filter, a BPF program as libseccomp exports it. Gives the descriptor of a supervisor
/// where `flags` ask for one.
///
/// # Errors
/// [`Kind::InvalidArgument`] where the program is none; otherwise where the kernel refuses.
pub fn filter_calls(program: &[u8], flags: u32) -> Result<Option<OwnedFd>> {
    let mut instructions: Vec<libc::sock_filter> = Vec::with_capacity(program.len() / 8);
    let (chunks, rest) = program.as_chunks::<8>();
    for [c0, c1, jt, jf, k0, k1, k2, k3] in chunks.iter().copied() {
        let (code, k) = (u16::from_ne_bytes([c0, c1]), u32::from_ne_bytes([k0, k1, k2, k3]));
        instructions.push(libc::sock_filter { code, jt, jf, k });
    }
    let length = u16::try_from(instructions.len()).ok().filter(|length| *length > 0 && rest.is_empty());
    let length = length.ok_or_else(|| Error::invalid("a seccomp filter of a wrong size"))?;
    let filter = libc::sock_fprog { len: length, filter: instructions.as_mut_ptr() };
    // JUSTIFICATION: no safe wrapper exists for seccomp.
    // SAFETY: the struct and the instructions that it points to live through the call, which reads and copies them.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    match i32::try_from(answer) {
        Ok(answer) if answer >= 0 && flags & FILTER_NEW_LISTENER == 0 => Ok(None),
        // JUSTIFICATION: the kernel answers with a number.
        // SAFETY: a descriptor that the kernel has just made has no other owner.
        Ok(answer) if answer >= 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(answer) })),
        _ => Err(errno(Errno::last(), || "load the seccomp profile".into())),
    }
}

/// Sets the class (1 real-time, 2 best effort, 3 idle) and priority of this process's input and output.
///
/// # Errors
/// Where the kernel refuses.
pub fn set_io_priority(class: u32, priority: u32) -> Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    let value = (class << 13) | (priority & 0x1fff);
    // JUSTIFICATION: no safe wrapper exists for ioprio_set.
    // SAFETY: it takes integers and touches no memory.
    let answer = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) };
    if answer == 0 { Ok(()) } else { Err(errno(Errno::last(), || "set the priority of input and output".into())) }
}

/// How the kernel shares processors, as `sched_setattr` takes it (the first version of its struct).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduling {
    /// The size of this struct in bytes; [`Scheduling::apply`] sets it.
    pub size: u32,
    /// The policy's number.
    pub policy: u32,
    /// Bits of `SCHED_FLAG_*`.
    pub flags: u64,
    /// For ordinary policies.
    pub nice: i32,
    /// For real-time policies.
    pub priority: u32,
    /// For deadlines, in nanoseconds, as the next two.
    pub runtime: u64,
    /// See there.
    pub deadline: u64,
    /// See there.
    pub period: u64,
}

impl Scheduling {
    /// Applies it to this thread.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn apply(mut self) -> Result<()> {
        self.size = size_of::<Self>() as u32;
        // JUSTIFICATION: no safe wrapper exists for sched_setattr.
        // SAFETY: the struct lives through the call, says its own size, and the call reads no more than that.
        let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const self, 0) };
        if answer == 0 { Ok(()) } else { Err(errno(Errno::last(), || "set the scheduler".into())) }
    }
}

/// Sets the personality of this process, by its number.
///
/// # Errors
/// Where the kernel refuses.
pub fn set_personality(persona: u32) -> Result<()> {
    // JUSTIFICATION: the safe wrapper knows the flags but not the domains.
    // SAFETY: it takes an integer and touches no memory.
    let answer = unsafe { libc::personality(persona.into()) };
    if answer >= 0 { Ok(()) } else { Err(errno(Errno::last(), || format!("set personality {persona:#x}"))) }
}

/// When process `pid` began, in clock ticks after the machine did; with the id this names one process for good.
///
/// # Errors
/// [`Kind::NotFound`] where there is no such process.
pub fn birth(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&file).context(|| format!("read {file}"))?;
    let field = text.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)?.parse().ok());
    field.ok_or_else(|| Error::new(Kind::DataLoss, format!("{file} says {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_process_has_one_birth_and_no_foreign_namespaces_of_its_own() {
        let own = std::process::id();
        assert_eq!(birth(own).unwrap(), birth(own).unwrap());
        assert!(birth(own).unwrap() >= birth(1).unwrap());
        assert!(birth(0x003f_fff0).unwrap_err().is_not_found());
        assert_eq!(Namespaces::foreign(own).unwrap(), Namespaces(ThreadNameSpaceType::empty()));
    }

    #[test]
    fn a_process_that_has_ended_cannot_be_joined() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let handle = crate::process::open_handle(child.id()).unwrap();
        child.wait().unwrap();
        let namespaces = Namespaces(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME);
        assert_eq!(namespaces.join_rest(handle.as_fd()).unwrap_err().kind(), Kind::FailedPrecondition);
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for wrong in [&[][..], &[0; 7], &[0; 12]] {
            assert_eq!(filter_calls(wrong, 0).unwrap_err().kind(), Kind::InvalidArgument);
        }
        // A program that does not end with a return.
        assert!(filter_calls(&[0; 8], 0).is_err());
    }

    #[test]
    fn a_process_with_threads_is_not_copied() {
        // The test's harness runs each test on a thread of its own.
        assert_eq!(fork_sibling().unwrap_err().kind(), Kind::FailedPrecondition);
    }
}
