//! Processes: signals, reaping, handles on their end, OOM scores, and descriptors that are handed to children.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions};
use windlass_model::{Context, Error, Result};

use crate::errno;

/// Bit of `CAP_SYS_RESOURCE` in a capability set.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// A child that ended and whose entry in the process table is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Its process id, free for others from now on.
    pub pid: u32,
    /// Exit code, or 128 plus the signal.
    pub status: u32,
}

/// Sends signal `number`, real-time ones included; 0 only asks whether the process is there.
///
/// # Errors
/// [`windlass_model::Kind::NotFound`] where there is no such process.
pub fn signal(pid: u32, number: u32) -> Result<()> {
    let (target, number) = match (libc::pid_t::try_from(pid), libc::c_int::try_from(number)) {
        (Ok(target), Ok(number)) if target > 0 && number <= libc::SIGRTMAX() => (target, number),
        _ => return Err(Error::invalid(format!("signal {number} to process {pid}"))),
    };
    // JUSTIFICATION: the safe wrappers know no real-time signals, which images name as their stop signal.
    // SAFETY: kill takes two integers and touches no memory; `target` is positive, so no group is meant.
    match unsafe { libc::kill(target, number) } {
        0 => Ok(()),
        _ => match Errno::last() {
            Errno::ESRCH => Err(Error::not_found(format!("process {pid}"))),
            error => Err(errno(error, || format!("send signal {number} to process {pid}"))),
        },
    }
}

/// True while the process is there, as a zombie too.
pub fn exists(pid: u32) -> bool {
    match signal(pid, 0) {
        Ok(()) => true,
        Err(error) => !error.is_not_found(),
    }
}

/// A descriptor that becomes readable when the process ends.
///
/// # Errors
/// [`windlass_model::Kind::NotFound`] where there is no such process.
pub fn open_handle(pid: u32) -> Result<OwnedFd> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let id = id.ok_or_else(|| Error::invalid(format!("process id {pid}")))?;
    match rustix::process::pidfd_open(id, PidfdFlags::NONBLOCK) {
        Ok(handle) => Ok(handle),
        Err(rustix::io::Errno::SRCH) => Err(Error::not_found(format!("process {pid}"))),
        Err(error) => Err(errno(error, || format!("open process {pid}"))),
    }
}

/// Takes the next ended child from the process table, if there is one.
///
/// # Errors
/// Where the kernel refuses; having no children is not an error.
pub fn reap() -> Result<Option<Reaped>> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                // A real-time signal is a number like any other here.
                let signalled = || status.terminating_signal().map(|signal| 128 + signal);
                if let Some(status) = status.exit_status().or_else(signalled) {
                    return Ok(Some(Reaped { pid: pid.as_raw_pid() as u32, status: status as u32 }));
                }
            }
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(errno(error, || "wait for children".into())),
        }
    }
}

/// Makes this process the parent of orphans among its descendants.
///
/// # Errors
/// Where the kernel refuses.
pub fn set_subreaper() -> Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| errno(error, || "become a subreaper".into()))
}

/// Has the kernel kill this process when its parent ends.
///
/// # Errors
/// Where the kernel refuses.
pub fn die_with_parent() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|error| errno(error, || "set the parent-death signal".into()))
}

/// Leaves the session of the caller.
///
/// # Errors
/// Where this process leads a group already.
pub fn start_session() -> Result<()> {
    nix::unistd::setsid().map(drop).map_err(|error| errno(error, || "start a session".into()))
}

/// Has `SIGPIPE` end this process again, which Rust's start code prevents; what is executed afterwards inherits it.
///
/// # Errors
/// Where the kernel refuses.
pub fn restore_sigpipe() -> Result<()> {
    use nix::sys::signal::{SigHandler, Signal};
    // JUSTIFICATION: a program in a container must meet the default it was written for.
    // SAFETY: the default action runs no code of this process.
    unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) }
        .map(drop)
        .map_err(|error| errno(error, || "restore SIGPIPE".into()))
}

/// Has the kernel take away this process's ended children by itself.
///
/// # Errors
/// Where the kernel refuses.
pub fn ignore_children() -> Result<()> {
    use nix::sys::signal::{SigHandler, Signal};
    // JUSTIFICATION: process 1 of a namespace must leave no zombies, and needs no other code for it.
    // SAFETY: ignoring a signal runs no code of this process.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigIgn) }
        .map(drop)
        .map_err(|error| errno(error, || "ignore SIGCHLD".into()))
}

/// Sends `SIGKILL` to the process group that `leader` leads.
pub fn kill_group(leader: u32) {
    if let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
    }
}

/// Sends a signal to the process group that `leader` leads; where it leads none, nothing is done.
pub fn signal_group(leader: u32, number: u32) {
    let group = i32::try_from(leader).ok().filter(|leader| *leader > 1);
    let signal = i32::try_from(number).ok().and_then(|number| nix::sys::signal::Signal::try_from(number).ok());
    if let (Some(group), Some(signal)) = (group, signal) {
        // The only other answer is that there is no such group.
        nix::sys::signal::killpg(nix::unistd::Pid::from_raw(group), signal).ok();
    }
}

/// This process's `oom_score_adj`.
///
/// # Errors
/// Where `/proc` is not there.
pub fn oom_score() -> Result<i32> {
    let text = fs::read_to_string("/proc/self/oom_score_adj").context(|| "read oom_score_adj".into())?;
    text.trim().parse().map_err(|_| Error::data_loss(format!("oom_score_adj is {text:?}")))
}

/// True where this process may lower `oom_score_adj` below what it was given.
pub fn may_lower_oom_score() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & CAP_SYS_RESOURCE != 0)
}

/// Sets this process's `oom_score_adj`, or leaves it where the kernel does not let it sink so far. Gives what it is now.
///
/// # Errors
/// Where `/proc` is not there.
pub fn adjust_oom_score(score: i32) -> Result<i32> {
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Ok(()) => Ok(score),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => oom_score(),
        Err(error) => Err(error).context(|| format!("set oom_score_adj to {score}")),
    }
}

/// Gives memory that is free again back to the kernel; for long lives with rare, large needs.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // JUSTIFICATION: the allocator keeps what it was once given, and there is one of these processes for each pod.
    // SAFETY: malloc_trim takes an integer, locks the heap itself, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the pages of this program's own file, code and constants; what is used again is mapped again from the
/// kernel's cache. Of a long life most of the code is needed once.
pub fn release_program() {
    // JUSTIFICATION: only the loader knows where the program's segments are.
    // SAFETY: the callback has the type that is asked for, keeps nothing of what it is shown, and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(release_segments), std::ptr::null_mut()) };
}

/// Lets go of the segments of one object, the first that is shown: the program itself.
extern "C" fn release_segments(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // JUSTIFICATION: the loader gives a pointer.
    // SAFETY: it is valid during the callback.
    let object = unsafe { &*object };
    // JUSTIFICATION: as above.
    // SAFETY: the loader says where the program's headers are and how many, and they are never changed.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        // At least the size of a page.
        let page = (header.p_align as usize).max(1);
        let begin = (object.dlpi_addr as usize + header.p_vaddr as usize).next_multiple_of(page);
        let end = (object.dlpi_addr as usize + header.p_vaddr as usize + header.p_filesz as usize) / page * page;
        if begin < end {
            // JUSTIFICATION: nothing else gives pages back.
            // SAFETY: whole pages of a segment that nobody can write to hold what the file holds, so the kernel brings
            // the same bytes back whenever they are touched, this very code included.
            unsafe { libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_DONTNEED) };
        }
    }
    1
}

/// Takes ownership of a descriptor that the parent of this process left open for it; it will not pass to children.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] where no such descriptor is open or it is one of stdin, stdout, stderr.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    if number <= 2 {
        return Err(Error::invalid(format!("descriptor {number} is not one that is handed over")));
    }
    // JUSTIFICATION: a descriptor that arrives through exec is only a number.
    // SAFETY: F_GETFD takes an integer and touches no memory.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(Error::invalid(format!("descriptor {number} is not open")));
    }
    // JUSTIFICATION: as above.
    // SAFETY: it is open, and the parent named it on our command line so that this is the one place that owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    set_inheritable(&owned, false)?;
    Ok(owned)
}

/// Lets children have the descriptor after they execute, or keeps it from them.
///
/// # Errors
/// Where the kernel refuses.
pub fn set_inheritable(fd: &impl AsFd, inheritable: bool) -> Result<()> {
    let flags = if inheritable { rustix::io::FdFlags::empty() } else { rustix::io::FdFlags::CLOEXEC };
    rustix::io::fcntl_setfd(fd, flags).map_err(|error| errno(error, || "change a descriptor's flags".into()))
}

/// A handle on the program at `path` through a read-only mount of its own that is attached nowhere.
///
/// What is executed by this handle (`/proc/self/fd/N`) shows a `/proc/<pid>/exe` that nobody can open for writing, so a
/// container that is entered by it cannot overwrite the program on the host (CVE-2019-5736), and nothing is copied.
///
/// # Errors
/// Where the kernel is older than 5.12 or refuses.
pub fn sealed_program(path: &Path) -> Result<OwnedFd> {
    use rustix::mount::{OpenTreeFlags, open_tree};
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, path, flags)
        .map_err(|error| errno(error, || format!("clone the mount of {}", path.display())))?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // JUSTIFICATION: no safe wrapper exists for mount_setattr.
    // SAFETY: the descriptor is open, the path is an empty C string, and the struct lives through the call with its size.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 { Ok(tree) } else { Err(errno(Errno::last(), || "make a mount read-only".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_process_is_not_found() {
        assert!(signal(0x003f_fff0, 0).unwrap_err().is_not_found());
        assert!(open_handle(0x003f_fff0).unwrap_err().is_not_found());
        assert!(!exists(0x003f_fff0));
        assert!(exists(std::process::id()));
    }

    #[test]
    fn wrong_signals_and_groups_are_refused() {
        assert!(signal(0, 9).is_err());
        assert!(signal(std::process::id(), 200).is_err());
        assert!(signal(u32::MAX, 0).is_err());
    }

    #[test]
    fn descriptors_that_are_not_open_are_not_taken() {
        assert!(inherited(1).is_err());
        assert!(inherited(100_000).is_err());
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        // The pages of files that are mapped, in kB.
        let mapped = || {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap().to_owned();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = mapped();
        release_program();
        assert!(mapped() < before);
    }

    #[test]
    fn a_sealed_program_cannot_be_opened_for_writing() {
        // A copy, which nothing else executes: a busy file answers ETXTBSY.
        let copy = std::env::temp_dir().join(format!("windlass-sealed-{}", std::process::id()));
        fs::copy("/bin/sleep", &copy).unwrap();
        let program = sealed_program(&copy).unwrap();
        fs::remove_file(&copy).unwrap();
        let path = format!("/proc/self/fd/{}", program.as_raw_fd());
        let error = fs::OpenOptions::new().write(true).open(&path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        assert!(std::process::Command::new(path).arg("0").status().unwrap().success());
    }
}
