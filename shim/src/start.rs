//! `start`: makes the socket, leaves a serving process behind, tells how to reach it, and ends at once.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use windlass_model::{Context, Result};
use windlass_sys::process;
use windlass_wire::bootstrap::Bootstrap;
use windlass_wire::words;

use crate::flags::Flags;

/// The longest path that a socket's address holds, in bytes.
const MAX_SOCKET: usize = 107;
/// Where sockets lie whose own folder has too long a path.
const SHORT_SOCKETS: &str = "/run/windlass-s";

/// Starts a shim for the bundle in the flags.
///
/// # Errors
/// Where the socket or the process cannot be made.
pub fn run(flags: &Flags) -> Result<()> {
    let bundle = &flags.bundle;
    let outbox = bundle.join(words::OUTBOX_DIR);
    fs::create_dir_all(&outbox).context(|| format!("make {}", outbox.display()))?;
    let socket = socket_path(bundle, words::SOCKET_FILE)?;
    fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(&socket).context(|| format!("listen on {}", socket.display()))?;
    let log = OpenOptions::new().append(true).create(true).open(bundle.join(words::LOG_FILE));
    let log = log.map_or_else(|_| Stdio::null(), Stdio::from);
    process::set_inheritable(&listener, true)?;
    let child = Command::new("/proc/self/exe")
        .args(["serve", "-namespace", flags.namespace.as_str(), "-id", flags.id.as_str()])
        .args(["-listen", &listener.as_raw_fd().to_string()])
        .arg("-bundle")
        .arg(bundle)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context(|| "start the serving process".into())?;
    let bootstrap = Bootstrap::ttrpc(&socket).to_json();
    let noted = windlass_sys::fs::write_atomic(&bundle.join(words::PID_FILE), child.id().to_string().as_bytes())
        .and_then(|()| windlass_sys::fs::write_atomic(&bundle.join(words::BOOTSTRAP_FILE), bootstrap.as_bytes()))
        .and_then(|()| std::io::stdout().write_all(bootstrap.as_bytes()).context(|| "answer".into()));
    if noted.is_err() {
        // Nobody will ever know of it.
        process::signal(child.id(), 9).ok();
    }
    noted
}

/// The path of the socket `name` of `folder`: in it, or elsewhere where that path would be too long.
///
/// # Errors
/// Where the other folder cannot be made.
pub fn socket_path(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    if path.as_os_str().len() <= MAX_SOCKET {
        return Ok(path);
    }
    fs::create_dir_all(SHORT_SOCKETS).context(|| format!("make {SHORT_SOCKETS}"))?;
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    Ok(Path::new(SHORT_SOCKETS).join(format!("{:016x}", hasher.finish())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_get_a_short_socket() {
        let short = socket_path(Path::new("/run/a"), "s.sock").unwrap();
        assert_eq!(short, Path::new("/run/a/s.sock"));
        let folder = PathBuf::from(format!("/run/{}", "x".repeat(110)));
        let one = socket_path(&folder, "s.sock").unwrap();
        assert!(one.as_os_str().len() <= MAX_SOCKET);
        assert_eq!(one, socket_path(&folder, "s.sock").unwrap());
        assert_ne!(one, socket_path(&folder, "t.sock").unwrap());
    }
}
