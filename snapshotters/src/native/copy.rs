//! A copy of a tree that keeps everything a container can see: owners, modes, times, xattrs, links, devices and holes.
//!
//! Order matters to the kernel: a change of owner clears set-id bits and file capabilities, so it comes first, then
//! xattrs, then the mode, then the times. The times of a folder come last of all, when nothing is put into it any more.
//! Folders are opened beneath the two roots one at a time, so that neither links nor depth can lead astray.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use windlass_model::{Context, Result};
use windlass_sys::fs::{open_beneath, open_folder};

/// How folders are opened on both sides.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// A copy under way.
struct Copy {
    source: OwnedFd,
    target: OwnedFd,
    /// Files with several names, by device and inode, with the first name that the copy gave them.
    linked: HashMap<(u64, u64), PathBuf>,
    /// Folders still to be filled, relative to the roots.
    folders: Vec<PathBuf>,
    /// Folders made, in their order, with what they were.
    made: Vec<(PathBuf, Stat)>,
}

/// Copies everything in the folder `source` into the empty folder `target`, and what `source` itself is.
pub(super) fn tree(source: &Path, target: &Path) -> Result<()> {
    let mut copy = Copy {
        source: open_folder(source)?,
        target: open_folder(target)?,
        linked: HashMap::new(),
        folders: vec![PathBuf::new()],
        made: Vec::new(),
    };
    while let Some(folder) = copy.folders.pop() {
        copy.fill(&folder)?;
    }
    copy.finish_folders()
}

impl Copy {
    /// Copies the entries of one folder; folders among them are made and queued.
    fn fill(&mut self, path: &Path) -> Result<()> {
        let from = open_beneath(&self.source, path, FOLDER, Mode::empty())?;
        let into = open_beneath(&self.target, path, FOLDER, Mode::empty())?;
        let status =
            rustix::fs::fstat(&from).map_err(io::Error::from).context(|| format!("look at {}", path.display()))?;
        self.made.push((path.to_owned(), status));
        let entries = Dir::read_from(&from).map_err(io::Error::from).context(|| format!("list {}", path.display()))?;
        for entry in entries {
            let entry = entry.map_err(io::Error::from).context(|| format!("list {}", path.display()))?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let inner = path.join(OsStr::from_bytes(name.to_bytes()));
            self.entry(from.as_fd(), into.as_fd(), name, &inner).context(|| format!("copy {}", inner.display()))?;
        }
        Ok(())
    }

    fn entry(&mut self, from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &CStr, path: &Path) -> io::Result<()> {
        let status = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(status.st_mode);
        if kind == FileType::Directory {
            rustix::fs::mkdirat(into, name, Mode::RWXU)?;
            self.folders.push(path.to_owned());
            return Ok(());
        }
        if status.st_nlink > 1 {
            let inode = (status.st_dev, status.st_ino);
            if let Some(first) = self.linked.get(&inode) {
                return Ok(rustix::fs::linkat(&self.target, first, into, name, AtFlags::empty())?);
            }
            self.linked.insert(inode, path.to_owned());
        }
        match kind {
            FileType::RegularFile => copy_file(from, into, name, &status)?,
            FileType::Symlink => {
                rustix::fs::symlinkat(&*rustix::fs::readlinkat(from, name, Vec::new())?, into, name)?;
            }
            _ => rustix::fs::mknodat(into, name, kind, Mode::RUSR | Mode::WUSR, status.st_rdev)?,
        }
        metadata(from, into, name, &status)?;
        Ok(rustix::fs::utimensat(into, name, &times(&status), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Owners, modes and times of the folders, the innermost first.
    fn finish_folders(&self) -> Result<()> {
        for (path, status) in self.made.iter().rev() {
            let finish = || -> io::Result<()> {
                let from = open_beneath(&self.source, path, FOLDER, Mode::empty()).map_err(io::Error::other)?;
                let into = open_beneath(&self.target, path, FOLDER, Mode::empty()).map_err(io::Error::other)?;
                metadata(from.as_fd(), into.as_fd(), c".", status)?;
                Ok(rustix::fs::futimens(&into, &times(status))?)
            };
            finish().context(|| format!("copy what {} is", path.display()))?;
        }
        Ok(())
    }
}

fn copy_file(from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &CStr, status: &Stat) -> io::Result<()> {
    let source = rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rustix::fs::openat(into, name, flags, Mode::RUSR | Mode::WUSR)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let size = u64::try_from(status.st_size).unwrap_or(0);
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&source, SeekFrom::Hole(start))?;
        copy_range(&source, &target, start, end)?;
        at = end;
    }
    Ok(rustix::fs::ftruncate(&target, size)?)
}

/// Copies the bytes from `start` to `end` to the same place; a source that ends sooner is an error.
fn copy_range(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let left = usize::try_from(end - read).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(source, Some(&mut read), target, Some(&mut written), left) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return copy_by_hand(source, target, read, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &OwnedFd, target: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let (source, target) = (std::fs::File::from(source.try_clone()?), std::fs::File::from(target.try_clone()?));
    let mut buffer = vec![0; 256 * 1024];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let count = source.read_at(&mut buffer[..want], at)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        target.write_all_at(&buffer[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

/// Owner, xattrs and mode, in the order in which the kernel does not undo them.
fn metadata(from: BorrowedFd<'_>, into: BorrowedFd<'_>, name: &CStr, status: &Stat) -> io::Result<()> {
    let (owner, group) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    rustix::fs::chownat(into, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    copy_xattrs(&reach(from, name), &reach(into, name))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(into, name, Mode::from_raw_mode(status.st_mode & 0o7777), AtFlags::empty())?;
    }
    Ok(())
}

/// A path to `name` in an open folder, for the calls that take nothing but paths.
fn reach(folder: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(OsStr::from_bytes(name.to_bytes()))
}

fn copy_xattrs(from: &Path, into: &Path) -> io::Result<()> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::llistxattr(from, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut value = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        value.resize(64 * 1024, 0);
        let length = rustix::fs::lgetxattr(from, name, value.as_mut_slice())?;
        match rustix::fs::lsetxattr(into, name, &value[..length], XattrFlags::empty()) {
            // Labels of a security module that is off or knows better belong to the host, not to the content.
            Err(Errno::OPNOTSUPP | Errno::PERM) if name.starts_with(b"security.") && name != b"security.capability" => {
            }
            result => result?,
        }
    }
    Ok(())
}

fn times(status: &Stat) -> Timestamps {
    let time = |seconds, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos.cast_signed() };
    Timestamps {
        last_access: time(status.st_atime, status.st_atime_nsec),
        last_modification: time(status.st_mtime, status.st_mtime_nsec),
    }
}
