//! Pseudo terminals: the socket on which an OCI runtime hands over a console, and the window's size.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::termios::{Winsize, tcsetwinsize};
use windlass_model::{Error, Result};

use crate::errno;

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
    use rustix::pty::{OpenptFlags, openpt};

    #[test]
    fn a_window_keeps_its_size() {
        let console = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        resize(&console, 120, 40).unwrap();
        let size = rustix::termios::tcgetwinsize(&console).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (120, 40));
        assert!(resize(&std::fs::File::open("/dev/null").unwrap(), 1, 1).is_err());
    }
}
