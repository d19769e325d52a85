//! Pseudo terminals: how they are made, the socket on which an OCI runtime hands over a console, and the window's size.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, major, minor};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use windlass_model::{Error, Result};

use crate::errno;

/// What `statfs` says of a `devpts` (`DEVPTS_SUPER_MAGIC`).
const DEVPTS: i64 = 0x1cd1;

/// Takes the descriptor that the other side of a connected socket sent: a console's master side.
///
/// # Errors
/// Where nothing has arrived yet (a non-blocking socket), or a message without a descriptor.
pub fn receive_console(socket: &impl AsFd) -> Result<OwnedFd> {
    let mut name = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .map_err(|error| errno(error, || "receive a console".into()))?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(console) = descriptors.next()
        {
            return Ok(console);
        }
    }
    Err(Error::data_loss("an OCI runtime sent no console"))
}

/// Sends a descriptor over a connected socket, under a name that [`receive_console`] does not look at.
///
/// # Errors
/// Where nobody receives it.
pub fn send_console(socket: &impl AsFd, console: &impl AsFd) -> Result<()> {
    let descriptors = [console.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[IoSlice::new(b"/dev/ptmx")], &mut control, SendFlags::NOSIGNAL)
        .map(drop)
        .map_err(|error| errno(error, || "send a console".into()))
}

/// Makes a terminal of the `devpts` at this process's `/dev/pts`: its master side, and the side for programs.
///
/// Whoever rules the files here may have put something else there, so what is opened is looked at.
///
/// # Errors
/// [`windlass_model::Kind::FailedPrecondition`] where `/dev/pts/ptmx` is not of a `devpts`; otherwise where the kernel refuses.
pub fn make_terminal() -> Result<(OwnedFd, OwnedFd)> {
    let failed = |error| errno(error, || "make a terminal from /dev/pts/ptmx".into());
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).map_err(failed)?;
    let system = rustix::fs::fstatfs(&master).map_err(failed)?;
    let stat = rustix::fs::fstat(&master).map_err(failed)?;
    if system.f_type != DEVPTS || (major(stat.st_rdev), minor(stat.st_rdev)) != (5, 2) {
        return Err(Error::precondition("/dev/pts/ptmx is not what makes terminals"));
    }
    unlockpt(&master).map_err(failed)?;
    let slave =
        ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(failed)?;
    Ok((master, slave))
}

/// Tells the terminal's programs how large its window is, in characters.
///
/// # Errors
/// Where `console` is no terminal.
pub fn resize(console: &impl AsFd, width: u16, height: u16) -> Result<()> {
    tcsetwinsize(console, Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 })
        .map_err(|error| errno(error, || "resize a terminal".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::openpt;

    #[test]
    fn a_terminal_is_made_and_handed_over() {
        let (master, slave) = make_terminal().unwrap();
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        send_console(&here, &master).unwrap();
        let received = receive_console(&there).unwrap();
        resize(&received, 7, 9).unwrap();
        let size = rustix::termios::tcgetwinsize(&slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (7, 9));
    }

    #[test]
    fn a_window_keeps_its_size() {
        let console = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        resize(&console, 120, 40).unwrap();
        let size = rustix::termios::tcgetwinsize(&console).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (120, 40));
        assert!(resize(&std::fs::File::open("/dev/null").unwrap(), 1, 1).is_err());
    }
}
