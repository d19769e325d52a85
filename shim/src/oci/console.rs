//! The socket on which an OCI runtime hands over the terminal that it made.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use windlass_model::{Context, Result};
use windlass_sys::tty;

use crate::start::socket_path;

/// A socket that waits for one terminal; its file goes with it.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    /// Listens in `folder`, under `name`.
    ///
    /// # Errors
    /// Where the socket cannot be made.
    pub fn listen(folder: &Path, name: &str) -> Result<Self> {
        let path = socket_path(folder, name)?;
        fs::remove_file(&path).ok();
        let listener = UnixListener::bind(&path).context(|| format!("listen on {}", path.display()))?;
        listener.set_nonblocking(true).context(|| format!("listen on {}", path.display()))?;
        Ok(Self { path, listener })
    }

    /// The socket, as the runtime is told.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the terminal that the runtime has sent; to be called when the runtime has ended.
    ///
    /// # Errors
    /// Where it sent none.
    pub fn take(&self) -> Result<OwnedFd> {
        let (stream, _) = self.listener.accept().context(|| "the OCI runtime sent no terminal".into())?;
        tty::receive_console(&stream)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}
