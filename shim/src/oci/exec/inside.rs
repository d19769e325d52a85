//! What an exec's process does to itself before it becomes the program, in the order in which rights are given up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid, fchown, fstat, major, minor};
use rustix::io::Errno;
use rustix::process::{chroot, fchdir, umask};
use rustix::thread::{
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use windlass_model::{Context, Error, Result};
use windlass_sys::{enter, process, tty};

use super::Parcel;
use super::plan::{Plan, Size, User};
use crate::oci::{capabilities, label, program};

/// Mode bits that new files do not get, where nobody says.
const UMASK: u32 = 0o022;

/// Becomes the process; comes back only with the reason why not.
pub fn become_process(parcel: Parcel) -> Error {
    match prepare(parcel) {
        Ok((path, plan)) => program::execute(&path, &plan.args, plan.env),
        Err(error) => error,
    }
}

fn prepare(parcel: Parcel) -> Result<(std::path::PathBuf, Plan)> {
    let Parcel { mut plan, filter, namespaces, process, root, console, proc } = parcel;
    namespaces.join_rest(process.as_fd())?;
    drop(process);
    if let Some(root) = root {
        change_root(&root)?;
    }
    if namespaces.has_user() {
        become_user(0, 0).context(|| "become root in the user namespace".into())?;
    }
    process::start_session()?;
    match console {
        Some(socket) => take_terminal(socket, plan.size, plan.user.uid)?,
        None => replace_null()?,
    }
    if let Some(proc) = proc {
        plan.apparmor.as_deref().map_or(Ok(()), |profile| label::apparmor(&proc, profile))?;
        plan.selinux.as_deref().map_or(Ok(()), |wanted| label::selinux(&proc, wanted))?;
    }
    enter::close_on_exec()?;
    umask(Mode::from_raw_mode(plan.user.umask.unwrap_or(UMASK)));
    if let Some(personality) = plan.personality {
        enter::set_personality(personality)?;
    }
    plan.capabilities.bound()?;
    // Root may go where the user may not, and the other way round where the files are of another machine.
    let arrived = program::go_to(&plan.cwd);
    take_user(&plan.user, namespaces.has_user())?;
    if matches!(arrived, Err(Errno::ACCESS | Errno::PERM)) { program::go_to(&plan.cwd) } else { arrived }
        .map_err(std::io::Error::from)
        .context(|| format!("go to the working directory {:?}", plan.cwd))?;
    program::check_place()?;
    program::add_home(&mut plan.env, plan.user.uid);
    let path = program::find(&plan.args[0], &plan.env)?;
    // Without the flag a filter is a matter of rights, so it comes before they are given up; with it, it comes last.
    if plan.no_new_privileges {
        set_no_new_privs(true).map_err(std::io::Error::from).context(|| "refuse new privileges".into())?;
        plan.capabilities.take()?;
        filter.map_or(Ok(()), |filter| filter.load())?;
    } else {
        capabilities::raise()?;
        filter.map_or(Ok(()), |filter| filter.load())?;
        plan.capabilities.take()?;
    }
    Ok((path, plan))
}

/// For a container without a mount namespace of its own.
fn change_root(root: &OwnedFd) -> Result<()> {
    let changed = fchdir(root).and_then(|()| chroot("."));
    changed.map_err(std::io::Error::from).context(|| "enter the container's root folder".into())
}

fn become_user(uid: u32, gid: u32) -> std::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Becomes the user with its groups and keeps, for now, what root is permitted.
fn take_user(user: &User, in_user_namespace: bool) -> Result<()> {
    let groups: Vec<Gid> = user.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
    match set_thread_groups(&groups) {
        // A user namespace may forbid to leave groups; a process in it has none that mean anything there.
        Err(Errno::PERM) if in_user_namespace && groups.is_empty() => {}
        outcome => {
            outcome.map_err(std::io::Error::from).context(|| format!("join the groups {:?}", user.additional_gids))?
        }
    }
    set_keep_capabilities(true).map_err(std::io::Error::from).context(|| "keep capabilities".into())?;
    become_user(user.uid, user.gid).context(|| format!("become user {} of group {}", user.uid, user.gid))
}

/// Makes the terminal of the session, with the container's own `devpts`, and sends its other side away.
fn take_terminal(socket: UnixStream, size: Option<Size>, uid: u32) -> Result<()> {
    let (master, slave) = tty::make_terminal()?;
    if let Some(size) = size.filter(|size| size.width > 0 && size.height > 0) {
        tty::resize(&master, size.width, size.height)?;
    }
    fchown(&slave, Some(Uid::from_raw(uid)), None)
        .map_err(std::io::Error::from)
        .context(|| format!("give the terminal to user {uid}"))?;
    tty::send_console(&socket, &master)?;
    let failed = |error: Errno| std::io::Error::from(error);
    rustix::process::ioctl_tiocsctty(&slave).map_err(failed).context(|| "take the terminal".into())?;
    standard(slave.as_fd(), [true; 3]).map_err(failed).context(|| "take the terminal".into())
}

/// Replaces the host's `/dev/null` among the standard descriptors by the container's, where it has one.
fn replace_null() -> Result<()> {
    let is_null = |descriptor: BorrowedFd<'_>| {
        fstat(descriptor).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3)
        })
    };
    let which = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()].map(is_null);
    if !which.contains(&true) {
        return Ok(());
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(null) = rustix::fs::open("/dev/null", flags, Mode::empty()) else { return Ok(()) };
    if !is_null(null.as_fd()) {
        return Ok(());
    }
    standard(null.as_fd(), which).map_err(std::io::Error::from).context(|| "replace /dev/null".into())
}

fn standard(descriptor: BorrowedFd<'_>, which: [bool; 3]) -> rustix::io::Result<()> {
    if which[0] {
        rustix::stdio::dup2_stdin(descriptor)?;
    }
    if which[1] {
        rustix::stdio::dup2_stdout(descriptor)?;
    }
    if which[2] {
        rustix::stdio::dup2_stderr(descriptor)?;
    }
    Ok(())
}
