//! The daemon's Unix sockets: bound before anything else is opened, so that early callers wait instead of failing.

use std::fs::{DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::net::UnixListener;

/// A bound socket and its file, which goes when this goes.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

/// Binds `path` for root alone. The file of a daemon that died is removed first; one where somebody listens is not.
///
/// # Errors
/// Where somebody listens, or something that is no socket lies there.
pub fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
    if let Some(folder) = path.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o711).create(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    clear(path)?;
    let listener = UnixListener::bind(path).with_context(|| format!("bind {}", path.display()))?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(|| format!("own {}", path.display()))?;
    Ok((listener, file))
}

/// Lets everybody connect to a bound socket.
///
/// # Errors
/// Where its mode cannot be changed.
pub fn open_to_all(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(0o666)).with_context(|| format!("open {}", path.display()))
}

/// Removes a socket that nobody listens on.
fn clear(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("look at {}", path.display())),
        Ok(found) if !found.file_type().is_socket() => bail!("{} is there and is no socket", path.display()),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("another daemon listens on {}", path.display()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
        }
        Err(error) => Err(error).with_context(|| format!("see who listens on {}", path.display())),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_dead_socket_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.sock");
        let (listener, file) = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(format!("{:#}", bind(&path).unwrap_err()).contains("another daemon"));
        drop(listener);
        // The file is left, as after a crash.
        std::mem::forget(file);
        let (_listener, file) = bind(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "x").unwrap();
        assert!(bind(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
    }
}
