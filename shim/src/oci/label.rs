//! The security modules' names for what a program is confined by, told to the kernel for the next program that this
//! process executes.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, fstatfs, open, openat};
use rustix::io::Errno;
use windlass_model::{Context, Error, Kind, Result};

/// What `statfs` says of a `/proc` (`PROC_SUPER_MAGIC`).
const PROC: i64 = 0x9fa0;

/// The `/proc` that this process sees; whoever rules the files may have put anything there, so it is looked at.
///
/// # Errors
/// [`Kind::FailedPrecondition`] where it is none.
pub fn proc() -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open("/proc", flags, Mode::empty());
    let folder = folder.map_err(std::io::Error::from).context(|| "open /proc".into())?;
    match fstatfs(&folder) {
        Ok(system) if system.f_type == PROC => Ok(folder),
        _ => Err(Error::precondition("/proc is not what shows processes")),
    }
}

/// Has AppArmor confine the program by `profile`.
///
/// # Errors
/// [`Kind::FailedPrecondition`] where there is no such profile or no AppArmor.
pub fn apparmor(proc: &OwnedFd, profile: &str) -> Result<()> {
    let text = format!("exec {profile}");
    let written = match write(proc, "self/attr/apparmor/exec", &text) {
        // An old kernel has one set of files for all modules.
        Err(Errno::NOENT) => write(proc, "self/attr/exec", &text),
        outcome => outcome,
    };
    explain(written, || format!("apply the AppArmor profile {profile:?}"))
}

/// Has SELinux label the program.
///
/// # Errors
/// [`Kind::FailedPrecondition`] where there is no such label or no SELinux.
pub fn selinux(proc: &OwnedFd, label: &str) -> Result<()> {
    explain(write(proc, "self/attr/exec", label), || format!("apply the SELinux label {label:?}"))
}

fn write(proc: &OwnedFd, file: &str, text: &str) -> rustix::io::Result<()> {
    let file = openat(proc, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

fn explain(outcome: rustix::io::Result<()>, doing: impl FnOnce() -> String) -> Result<()> {
    match outcome {
        Err(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) => {
            Err(Error::new(Kind::FailedPrecondition, format!("{}: the kernel has none", doing())))
        }
        outcome => outcome.map_err(std::io::Error::from).context(doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_the_kernel_does_not_know_is_refused() {
        let proc = proc().unwrap();
        assert!(apparmor(&proc, "no such profile").is_err());
        assert!(selinux(&proc, "no:such:label").is_err());
    }
}
