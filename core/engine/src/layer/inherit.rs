//! Owner, mode, times and attributes of folders that a layer has only because something lies in them.
//!
//! A layer that changes `etc/passwd` need not have an entry for `etc`. Unpacked by itself it gets a folder `etc` of no
//! particular kind, which overlayfs would show instead of the one below. So when all layers are there, such folders
//! take what the nearest layer below says of them.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use windlass_model::{Context, Result};

use super::os;

/// The longest list of attribute names, and the longest value, that the kernel gives.
const MAX_XATTR: usize = 64 << 10;

/// What one layer knows of a folder.
enum Found {
    Folder(OwnedFd),
    /// Nothing; those below may.
    Unknown,
    /// That there is none, whatever those below say.
    Gone,
}

/// Gives `implied` folders of `layer` what the folders of `below`, nearest first, say of them.
pub(crate) fn inherit(layer: &Path, implied: &[PathBuf], below: &[PathBuf]) -> Result<()> {
    if implied.is_empty() || below.is_empty() {
        return Ok(());
    }
    let layer_root = windlass_sys::fs::open_folder(layer)?;
    let below: Vec<OwnedFd> = below.iter().map(|path| windlass_sys::fs::open_folder(path)).collect::<Result<_>>()?;
    for path in implied {
        // Replaced by something else later in the same layer.
        let Ok(own) = open(&layer_root, path) else { continue };
        for root in &below {
            match find(root, path)? {
                Found::Folder(folder) => {
                    copy(&folder, &own).context(|| format!("inherit {}", path.display()))?;
                    break;
                }
                Found::Unknown => {}
                Found::Gone => break,
            }
        }
    }
    Ok(())
}

fn open(root: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

fn find(root: &OwnedFd, path: &Path) -> Result<Found> {
    match open(root, path) {
        Ok(folder) => return Ok(Found::Folder(folder)),
        // A file, a link or a deletion stands in the way.
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Gone),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(os(error)),
    }
    // Missing here. It is missing below, too, if this layer hides what is below one of the folders that it has.
    for ancestor in path.ancestors().skip(1) {
        let Ok(folder) = open(root, ancestor) else { continue };
        let mut value = [0; 1];
        if rustix::fs::fgetxattr(&folder, "trusted.overlay.opaque", &mut value).is_ok_and(|_| value == *b"y") {
            return Ok(Found::Gone);
        }
    }
    Ok(Found::Unknown)
}

fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let of = rustix::fs::fstat(from).map_err(os)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(of.st_uid)), Some(Gid::from_raw(of.st_gid))).map_err(os)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(of.st_mode & 0o7777)).map_err(os)?;
    let mut names = vec![0; MAX_XATTR];
    let length = match rustix::fs::flistxattr(from, &mut names) {
        Err(Errno::NOTSUP) => 0,
        length => length.map_err(os)?,
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0; MAX_XATTR];
        let length = rustix::fs::fgetxattr(from, name, &mut value).map_err(os)?;
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => {
                return Err(os(error)).context(|| format!("attribute {:?}", std::ffi::OsStr::from_bytes(name)));
            }
        }
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(of.st_atime, of.st_atime_nsec as _),
        last_modification: time(of.st_mtime, of.st_mtime_nsec as _),
    };
    rustix::fs::futimens(to, &times).map_err(os)?;
    Ok(())
}
