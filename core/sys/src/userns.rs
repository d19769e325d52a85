//! User namespaces, and other namespaces that belong to one.
//!
//! The kernel lets only a process of one thread make or join a user namespace, so all of it happens in a short-lived
//! child that knows nothing but system calls. What the child made lives on in pins (files that it is mounted on) or in
//! descriptors.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::pipe::{PipeFlags, pipe_with};
use windlass_model::{Context as _, Error, Result};

use crate::errno;
use crate::idmap::IdMap;

/// What the child does before it tells how it went.
#[derive(Clone, Copy)]
struct Steps {
    /// The user namespace to join, or -1.
    join: RawFd,
    /// The namespaces to make.
    make: CloneFlags,
}

/// A child that sleeps; it is killed when this is dropped.
struct Child {
    pid: libc::pid_t,
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid) {
            // Nobody else waits for it, so the number is still its own.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            while matches!(
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()),
                Err(rustix::io::Errno::INTR)
            ) {}
        }
    }
}

/// A user namespace with `map` that lives as long as the descriptor.
///
/// # Errors
/// Where the kernel makes none.
pub fn open(map: &IdMap) -> Result<OwnedFd> {
    let child = make(map, CloneFlags::empty())?;
    Ok(File::open(child.namespace("user")).context(|| "open a user namespace".into())?.into())
}

/// Makes a user namespace with `map` and pins it at `user`; the network stays the host's. Nothing may be there yet; its
/// folder is made. After an error nothing is left.
///
/// # Errors
/// [`windlass_model::Kind::AlreadyExists`] where there is something; the kernel's refusal otherwise.
pub fn create_on_host_network(map: &IdMap, user: &Path) -> Result<()> {
    let child = make(map, CloneFlags::empty())?;
    crate::netns::pin(&child.namespace("user"), user).context(|| format!("make the user namespace {}", user.display()))
}

/// Makes a user namespace with `map` and pins it at `user`, and with it a network namespace of its own, with `lo` up,
/// pinned at `net`. Nothing may be at either path yet; their folders are made. After an error nothing is left.
///
/// # Errors
/// [`windlass_model::Kind::AlreadyExists`] where there is something; the kernel's refusal otherwise.
pub fn create(map: &IdMap, user: &Path, net: &Path) -> Result<()> {
    let child = make(map, CloneFlags::CLONE_NEWNET)?;
    let doing = || format!("make the user namespace {}", user.display());
    crate::netns::pin(&child.namespace("user"), user).context(doing)?;
    let network = crate::netns::pin(&child.namespace("net"), net).and_then(|()| {
        // What is at `net` now is this namespace's pin, which must not outlive a failure.
        crate::netns::raise(net).inspect_err(|_| drop(crate::netns::remove(net)))
    });
    network.inspect_err(|_| drop(crate::netns::remove(user))).context(doing)
}

/// Moves this process into new namespaces of the kinds `flags` that belong to the user namespace `owner`; the process
/// itself stays in its own user namespace.
///
/// # Errors
/// Where the kernel refuses.
pub fn enter_new(owner: BorrowedFd<'_>, flags: CloneFlags) -> Result<()> {
    let doing = || "make namespaces of a user namespace".to_owned();
    let child = start(Steps { join: owner.as_raw_fd(), make: flags }).context(doing)?;
    let kinds =
        [(CloneFlags::CLONE_NEWIPC, "ipc"), (CloneFlags::CLONE_NEWUTS, "uts"), (CloneFlags::CLONE_NEWNET, "net")];
    for (flag, name) in kinds {
        if flags.contains(flag) {
            let namespace = File::open(child.namespace(name)).context(doing)?;
            nix::sched::setns(namespace, flag).map_err(|error| errno(error, doing))?;
        }
    }
    Ok(())
}

/// Starts `program` with `arguments` and no environment as process 1 of a new pid namespace that belongs to the user
/// namespace `owner`, as root of it; answers its id. It is a child of this process.
///
/// # Errors
/// Where the kernel refuses.
pub fn spawn_first(owner: BorrowedFd<'_>, program: BorrowedFd<'_>, arguments: &[&CStr]) -> Result<u32> {
    let doing = || "start process 1 of a user namespace".to_owned();
    let mut argv: Vec<*const libc::c_char> = arguments.iter().map(|text| text.as_ptr()).collect();
    argv.push(std::ptr::null());
    let envp: [*const libc::c_char; 1] = [std::ptr::null()];
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| errno(error, doing))?;
    let steps = Steps { join: owner.as_raw_fd(), make: CloneFlags::empty() };
    let (program, report) = (program.as_raw_fd(), theirs.as_raw_fd());
    let forked = fork(|| {
        let failed = prepare(steps);
        if failed != 0 {
            tell(report, -failed);
            return;
        }
        match clone_first() {
            0 => execute(program, &argv, &envp, report),
            pid if pid > 0 => tell(report, pid),
            _ => tell(report, -last_error()),
        }
    });
    drop(theirs);
    let middle = Child { pid: forked.context(doing)? };
    // The end of the pipe: the program runs, or nobody is left.
    let mut told = Vec::new();
    let read = File::from(ours).read_to_end(&mut told);
    drop(middle);
    read.context(doing)?;
    let (numbers, _) = told.as_chunks::<4>();
    let numbers = || numbers.iter().map(|bytes| i32::from_ne_bytes(*bytes));
    match (numbers().find(|number| *number < 0), numbers().find(|number| *number > 0)) {
        (Some(error), _) => Err(io::Error::from_raw_os_error(-error)).context(doing),
        (None, Some(pid)) => Ok(pid.unsigned_abs()),
        (None, None) => Err(Error::internal("process 1 of a user namespace was killed while it was made")),
    }
}

/// A child in a new user namespace with `map` and new namespaces of the kinds `more` that belong to it.
fn make(map: &IdMap, more: CloneFlags) -> Result<Child> {
    let child =
        start(Steps { join: -1, make: CloneFlags::CLONE_NEWUSER | more }).context(|| "make a user namespace".into())?;
    let [uids, gids] = map.lines();
    for (file, text) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("/proc/{}/{file}", child.pid);
        // One write: the kernel takes the map as a whole.
        std::fs::write(&path, text).context(|| format!("write {file} of a user namespace"))?;
    }
    Ok(child)
}

impl Child {
    fn namespace(&self, name: &str) -> PathBuf {
        format!("/proc/{}/ns/{name}", self.pid).into()
    }
}

/// A child that took `steps` and sleeps.
fn start(steps: Steps) -> io::Result<Child> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    let report = theirs.as_raw_fd();
    let forked = fork(|| {
        tell(report, -prepare(steps));
        sleep();
    });
    drop(theirs);
    let child = Child { pid: forked? };
    match read_number(ours)? {
        0 => Ok(child),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// Reads what [`tell`] wrote.
fn read_number(pipe: OwnedFd) -> io::Result<i32> {
    let mut bytes = [0; 4];
    File::from(pipe).read_exact(&mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

/// Runs `work` in a child, which then ends; answers its id. `work` may call nothing but the functions below: other
/// threads may have held any lock when the child was made, and it would never be released.
fn fork(work: impl FnOnce()) -> io::Result<libc::pid_t> {
    // A handler of this process must not run in the child, where it would speak for this process.
    let mut before = SigSet::empty();
    nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before))?;
    // JUSTIFICATION: only a process of one thread may join a user namespace, and this one has many.
    // SAFETY: the child calls only functions that are async-signal-safe, and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        work();
        exit();
    }
    let error = io::Error::last_os_error();
    before.thread_set_mask()?;
    if pid > 0 { Ok(pid) } else { Err(error) }
}

/// Takes `steps` in the child; answers an errno or 0.
fn prepare(steps: Steps) -> i32 {
    // JUSTIFICATION: runs between fork and exec, where only system calls may be made.
    // SAFETY: an integer argument; no memory is touched.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return last_error();
    }
    if steps.join >= 0 {
        // JUSTIFICATION: as above.
        // SAFETY: integers only; the descriptor is the caller's and open.
        if unsafe { libc::setns(steps.join, libc::CLONE_NEWUSER) } != 0 {
            return last_error();
        }
        let failed = become_root();
        if failed != 0 {
            return failed;
        }
    }
    // JUSTIFICATION: as above.
    // SAFETY: an integer argument.
    if !steps.make.is_empty() && unsafe { libc::unshare(steps.make.bits()) } != 0 {
        return last_error();
    }
    0
}

/// Becomes root of the user namespace, and so nobody outside: a process of the container that takes this one over has
/// won nothing.
fn become_root() -> i32 {
    // JUSTIFICATION: the C library's own functions speak to all threads of the process, of which the child has one.
    // SAFETY: an empty list has no memory to be read.
    if unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) } != 0 {
        return last_error();
    }
    // JUSTIFICATION: as above.
    // SAFETY: integers only.
    if unsafe { libc::syscall(libc::SYS_setresgid, 0, 0, 0) } != 0 {
        return last_error();
    }
    // JUSTIFICATION: as above.
    // SAFETY: integers only.
    if unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) } != 0 {
        return last_error();
    }
    0
}

/// Forks into a new pid namespace, as a sibling of this process.
fn clone_first() -> i32 {
    let flags = libc::CLONE_NEWPID | libc::CLONE_PARENT | libc::SIGCHLD;
    // JUSTIFICATION: fork(2) knows neither flag.
    // SAFETY: without CLONE_VM it is a fork: the child has a copy of all memory and goes on where this one is.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    i32::try_from(pid).unwrap_or(-1)
}

fn execute(program: RawFd, argv: &[*const libc::c_char], envp: &[*const libc::c_char], report: RawFd) {
    // JUSTIFICATION: runs between fork and exec.
    // SAFETY: both lists end with a null pointer and point to C strings that the parent's frame holds.
    unsafe { libc::execveat(program, c"".as_ptr(), argv.as_ptr().cast(), envp.as_ptr().cast(), libc::AT_EMPTY_PATH) };
    tell(report, -last_error());
}

/// Writes a number to the parent.
fn tell(report: RawFd, number: i32) {
    let bytes = number.to_ne_bytes();
    // JUSTIFICATION: runs between fork and exec.
    // SAFETY: the four bytes are on this frame; a pipe takes so few at once or not at all.
    unsafe { libc::write(report, bytes.as_ptr().cast(), bytes.len()) };
}

fn sleep() {
    loop {
        // JUSTIFICATION: runs between fork and exec.
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

fn exit() -> ! {
    // JUSTIFICATION: the parent's exit handlers are not the child's.
    // SAFETY: it never returns.
    unsafe { libc::_exit(0) }
}

fn last_error() -> i32 {
    nix::errno::Errno::last_raw()
}

/// The namespace pinned at `pin`, for those who join it.
///
/// # Errors
/// Where there is none.
pub fn pinned(pin: &Path) -> Result<OwnedFd> {
    if !crate::netns::is_pinned(pin) {
        return Err(Error::not_found(format!("no namespace is pinned at {}", pin.display())));
    }
    Ok(File::open(pin).context(|| format!("open {}", pin.display()))?.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::idmap::Range;

    fn map() -> IdMap {
        let range = || vec![Range { inside: 0, outside: 100_000, length: 65_536 }];
        IdMap::new(range(), range()).unwrap()
    }

    fn link(path: &str) -> PathBuf {
        std::fs::read_link(path).unwrap()
    }

    #[test]
    fn a_network_belongs_to_its_user_namespace() {
        let folder = tempfile::tempdir().unwrap();
        let (user, net) = (folder.path().join("user"), folder.path().join("net"));
        create(&map(), &user, &net).unwrap();
        let again = create(&map(), &user, &net).unwrap_err();
        assert_eq!(again.kind(), windlass_model::Kind::AlreadyExists);
        assert!(crate::netns::is_pinned(&user) && crate::netns::is_pinned(&net));
        let network = pinned(&net).unwrap();
        let owner = owner_of(network.as_fd()).unwrap();
        let user_id = rustix::fs::fstat(pinned(&user).unwrap()).unwrap().st_ino;
        assert_eq!(rustix::fs::fstat(&owner).unwrap().st_ino, user_id);
        let up = crate::netns::enter(&net, || std::net::TcpListener::bind("127.0.0.1:0").is_ok());
        assert!(up.unwrap());
        for pin in [&user, &net] {
            crate::netns::remove(pin).unwrap();
        }
        assert!(pinned(&user).unwrap_err().is_not_found());
    }

    /// The user namespace that owns another namespace (`NS_GET_USERNS` of ioctl_nsfs(2)).
    fn owner_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        const NS_GET_USERNS: libc::Ioctl = 0xb701;
        // JUSTIFICATION: no safe crate wraps this question of a test.
        // SAFETY: the request takes no argument.
        let found = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
        if found < 0 {
            return Err(io::Error::last_os_error());
        }
        // JUSTIFICATION: the kernel just made this descriptor for us.
        // SAFETY: it is open and nobody else has it.
        Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(found) })
    }

    #[test]
    fn process_one_is_root_inside_and_nobody_outside() {
        let namespace = open(&map()).unwrap();
        let program = File::open("/bin/busybox").unwrap();
        let pid = spawn_first(namespace.as_fd(), program.as_fd(), &[c"sleep", c"100"]).unwrap();
        let child = Child { pid: pid.cast_signed() };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("NSpid:") && status.lines().any(|line| line.starts_with("Uid:\t100000\t")), "{status}");
        assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
        let inside = link(&format!("/proc/{pid}/ns/user"));
        drop(child);
        assert_ne!(inside, link("/proc/self/ns/user"));
        assert!(spawn_first(namespace.as_fd(), File::open("/dev/null").unwrap().as_fd(), &[c"x"]).is_err());
    }

    #[test]
    fn what_cannot_be_made_is_an_error() {
        let file = File::open("/dev/null").unwrap();
        assert!(enter_new(file.as_fd(), CloneFlags::CLONE_NEWUTS).is_err());
        assert!(spawn_first(file.as_fd(), file.as_fd(), &[c"x"]).is_err());
    }
}
