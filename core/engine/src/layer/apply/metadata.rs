//! What a file carries beside its bytes: owner, mode, extended attributes, times.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use windlass_model::{Context, Result};

use super::{MAX_REMEMBERED, shown};
use crate::layer::os;
use crate::layer::tar::{Entry, EntryKind};

/// Times of folders that are still written into.
#[derive(Default)]
pub(super) struct Times {
    pending: Vec<(Vec<u8>, (i64, u32))>,
    bytes: usize,
}

impl Times {
    /// Sets a folder's time at the end. With very many folders the first ones get theirs early: that bounds memory, and
    /// costs them their time only if more is written into them.
    pub(super) fn later(&mut self, root: &OwnedFd, path: &[u8], mtime: (i64, u32)) {
        self.bytes += path.len() + 48;
        if self.bytes > MAX_REMEMBERED {
            self.apply(root);
        }
        self.pending.push((path.to_vec(), mtime));
    }

    pub(super) fn apply(&mut self, root: &OwnedFd) {
        self.bytes = 0;
        for (path, mtime) in std::mem::take(&mut self.pending) {
            let path = if path.is_empty() { b"." } else { path.as_slice() };
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            // The folder may have been replaced by a later entry; then there is nothing to set.
            if let Ok(folder) = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
                let _ = rustix::fs::futimens(&folder, &timestamps(mtime));
            }
        }
    }
}

pub(super) fn timestamps((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// A path to `name` in a folder that is open, for calls that take only paths.
pub(in crate::layer) fn proc_path(folder: &OwnedFd, name: &[u8]) -> PathBuf {
    let folder = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    folder.join(std::ffi::OsStr::from_bytes(name))
}

/// Gives an open file or folder its owner, mode and attributes: in this order, as a new owner costs a file its set-id
/// bits and capabilities.
pub(super) fn describe(file: impl AsFd, entry: &Entry) -> Result<()> {
    let file = file.as_fd();
    let (uid, gid) = owner(entry);
    rustix::fs::fchown(file, uid, gid).map_err(os).context(|| "set the owner".into())?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(os).context(|| "set the mode".into())?;
    set_xattrs(entry, |name, value| fsetxattr(file, name, value))
}

/// The same for a link, a device or a pipe, which is not opened.
pub(super) fn describe_name(parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<()> {
    let (uid, gid) = owner(entry);
    rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(os)?;
    if entry.kind != EntryKind::Symlink {
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty()).map_err(os)?;
    }
    let path = proc_path(parent, name);
    set_xattrs(entry, |name, value| rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty()))?;
    rustix::fs::utimensat(parent, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(os)?;
    Ok(())
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

fn fsetxattr(file: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
}

fn set_xattrs(entry: &Entry, set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>) -> Result<()> {
    for (name, value) in &entry.xattrs {
        // These steer overlayfs itself; a layer could point its folders elsewhere with them.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        match set(name, value) {
            Ok(()) => {}
            Err(Errno::NOTSUP) => tracing::debug!(name = shown(name), "this file system has no such attribute"),
            // Labels of a security module that is not there, and attributes of users on what is neither file nor folder.
            Err(Errno::PERM | Errno::INVAL) if !name.starts_with(b"security.capability") => {
                tracing::debug!(name = shown(name), "an attribute cannot be set");
            }
            Err(error) => return Err(os(error)).context(|| format!("set the attribute {:?}", shown(name))),
        }
    }
    Ok(())
}
