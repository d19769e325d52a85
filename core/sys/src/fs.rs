//! Files and folders in the ways a runtime needs them: replaced at once, opened beneath a root, locked, removed safely.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use windlass_model::{Context, Error, Kind, Result};

use crate::errno;

/// How deep [`remove_tree`] goes before it lifts a folder up; bounds its open descriptors whatever the tree is.
const REMOVE_DEPTH: usize = 64;

/// How often a lookup beneath a root is tried again after the kernel saw a rename on its way.
const LOOKUP_TRIES: usize = 64;

/// Numbers for names that nothing else in this process uses.
static UNIQUE: AtomicU64 = AtomicU64::new(0);

/// A lock on a file, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Replaces the content of `path` at once (mode 0600): a reader, and a process killed in the middle, sees the old bytes
/// or the new ones. Nothing is synced, so after a power cut the file may be empty.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = beside(path, "draft");
    let written = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        // The draft is worth nothing; the error that made it so is what the caller must see.
        let _ = std::fs::remove_file(&draft);
    }
    written.context(|| format!("write {}", path.display()))
}

/// Opens `path` below the folder `root`; every `..`, link or mount that leads out of it, and every link of `/proc`, is
/// refused with `PermissionDenied`.
pub fn open_beneath(root: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    lookup(root.as_fd(), path, flags, mode, resolve).map_err(|error| lookup_error(error, path))
}

/// Opens `path` as a process would that has `root` for its root folder: absolute links and `..` stay inside.
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    lookup(root.as_fd(), path, flags, mode, resolve).map_err(|error| lookup_error(error, path))
}

/// Opens a folder to be a root for [`open_beneath`], [`open_in_root`] and other calls relative to it.
pub fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| errno(error, || format!("open {}", path.display())))
}

/// Writes everything that the file system holding `path` has in memory to its disk.
pub fn sync_filesystem(path: &Path) -> Result<()> {
    let file = File::open(path).context(|| format!("open {}", path.display()))?;
    rustix::fs::syncfs(&file).map_err(|error| errno(error, || format!("sync the file system of {}", path.display())))
}

/// Locks the file at `path`, made if missing, against every other holder; `FailedPrecondition` if somebody has it.
pub fn lock_exclusive(path: &Path) -> Result<Lock> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .context(|| format!("open the lock {}", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock { _file: file }),
        Err(Errno::WOULDBLOCK) => Err(Error::precondition(format!("{} is locked by another process", path.display()))),
        Err(error) => Err(errno(error, || format!("lock {}", path.display()))),
    }
}

/// Removes a file or a whole folder; nothing there is success.
///
/// Links are removed, not followed. A mount anywhere in the tree is left untouched with everything in it, and the call
/// ends with `FailedPrecondition`: what a bind mount shows belongs to somebody else. Depth costs neither stack nor open
/// files.
pub fn remove_tree(path: &Path) -> Result<()> {
    let doing = || format!("remove {}", path.display());
    let Some(name) = path.file_name() else {
        return Err(Error::invalid(format!("{} has no name to remove", path.display())));
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(errno(error, doing)),
    };
    let name = CString::new(name.as_bytes()).map_err(|_| Error::invalid("a path holds a zero byte"))?;
    remove_entry(parent.as_fd(), &name).map_err(|error| match error {
        Errno::XDEV | Errno::BUSY => {
            Error::precondition(format!("remove {}: something is mounted in it", path.display()))
        }
        error => errno(error, doing),
    })
}

/// A name next to `path` that nobody else uses.
fn beside(path: &Path, word: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{word}-{}-{}", std::process::id(), UNIQUE.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

fn lookup(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    // openat2 refuses a mode where nothing can be created, and an empty path.
    let mode = if flags.intersects(OFlags::CREATE | OFlags::TMPFILE) { mode } else { Mode::empty() };
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < LOOKUP_TRIES => tries += 1,
            result => return result,
        }
    }
}

fn lookup_error(error: Errno, path: &Path) -> Error {
    match error {
        Errno::XDEV => Error::new(Kind::PermissionDenied, format!("{} leads out of its root", path.display())),
        error => errno(error, || format!("open {}", path.display())),
    }
}

/// Removes `name` in `parent`, whatever it is.
fn remove_entry(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    let Some(root) = open_to_empty(parent, name)? else {
        return Ok(());
    };
    // Each pass lifts what lies too deep up to the root, so that the next pass finds it near.
    while empty_folder(root.as_fd(), root.as_fd(), 0)? {}
    remove_folder(parent, name)
}

/// The folder `name`, opened without crossing a mount; anything else is removed at once and gives `None`.
fn open_to_empty(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    match lookup(parent, Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())), flags, Mode::empty(), resolve) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::NOTDIR | Errno::LOOP) => match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Empties `folder`; true if something was lifted into `root` instead of removed, or came up meanwhile.
fn empty_folder(root: BorrowedFd<'_>, folder: BorrowedFd<'_>, depth: usize) -> rustix::io::Result<bool> {
    let mut again = false;
    let mut entries = Dir::read_from(folder)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() != FileType::Directory && entry.file_type() != FileType::Unknown {
            unlink(folder, name)?;
            continue;
        }
        let Some(inner) = open_to_empty(folder, name)? else { continue };
        if depth >= REMOVE_DEPTH {
            let number = UNIQUE.fetch_add(1, Ordering::Relaxed);
            rustix::fs::renameat(folder, name, root, format!(".lifted-{}-{number}", std::process::id()))?;
            again = true;
        } else {
            again |= empty_folder(root, inner.as_fd(), depth + 1)?;
            remove_folder(folder, name)?;
        }
    }
    Ok(again)
}

fn unlink(folder: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

fn remove_folder(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
