//! Descriptors that a child finds under a number of its own.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::FdFlags;

/// Gives the child of `command` the descriptor `fd` as number `number`, over whatever it would have there. The parent's
/// copy is closed with the command.
pub fn pass(command: &mut Command, fd: OwnedFd, number: RawFd) {
    let renumber = move || {
        if fd.as_raw_fd() == number {
            // Nothing to copy, and the copy is what would lose the flag.
            rustix::io::fcntl_setfd(&fd, FdFlags::empty())?;
            return Ok(());
        }
        // JUSTIFICATION: safe wrappers take the target as an owned descriptor, and in a child nobody owns this number.
        // SAFETY: dup2 touches no memory; `fd` is open as long as the closure lives.
        let made = unsafe { libc::dup2(fd.as_raw_fd(), number) };
        if made < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // JUSTIFICATION: the standard library has no other way to pass a descriptor beyond the three.
    // SAFETY: between fork and exec the closure makes only system calls that are safe in a signal handler, and takes no
    // lock and no memory.
    unsafe { command.pre_exec(renumber) };
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_child_finds_its_descriptor() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read word <&3; echo got-$word >&3"]);
        pass(&mut command, theirs.into(), 3);
        let mut child = command.spawn().unwrap();
        drop(command);
        ours.write_all(b"it\n").unwrap();
        let mut answer = String::new();
        ours.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "got-it\n");
        assert!(child.wait().unwrap().success());
    }
}
