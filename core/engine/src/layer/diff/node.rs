//! What stands under a name: its kind, owner, mode, time, link and attributes, and whether two of those are the same.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use windlass_model::Result;

use crate::layer::apply::proc_path;
use crate::layer::os;

/// The longest list of attribute names, and the longest value, that the kernel gives.
const MAX_XATTR: usize = 64 << 10;
/// How much of two files is compared at once.
const PIECE: usize = 64 << 10;

/// How overlayfs marks its own (Linux, `Documentation/filesystems/overlayfs.rst`).
const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// What stands under a name.
pub(super) struct Node {
    pub(super) stat: Stat,
    /// What a symbolic link points at.
    pub(super) link: Vec<u8>,
    /// In the order of their names, without those of overlayfs.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Those of overlayfs, without their beginning.
    pub(super) overlay: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Node {
    /// `None` where there is nothing (any more).
    pub(super) fn read(parent: &OwnedFd, name: &[u8]) -> Result<Option<Self>> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.map_err(os)?,
        };
        let mut node = Self { stat, link: Vec::new(), xattrs: Vec::new(), overlay: Vec::new() };
        if node.kind() == FileType::Symlink {
            match rustix::fs::readlinkat(parent, name, Vec::new()) {
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                link => node.link = link.map_err(os)?.into_bytes(),
            }
        }
        node.read_xattrs(parent, name)?;
        Ok(Some(node))
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(super) fn is_folder(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// True for overlayfs's mark of a deletion.
    pub(super) fn is_whiteout(&self) -> bool {
        self.kind() == FileType::CharacterDevice && self.stat.st_rdev == 0
    }

    /// One of overlayfs's own attributes.
    pub(super) fn overlay(&self, name: &[u8]) -> Option<&[u8]> {
        self.overlay.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_slice())
    }

    /// Where all names of one file meet; `None` for what has one name.
    pub(super) fn shared(&self) -> Option<(u64, u64)> {
        (!self.is_folder() && self.stat.st_nlink > 1).then_some((self.stat.st_dev, self.stat.st_ino))
    }

    fn read_xattrs(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        let path = proc_path(parent, name);
        let mut names = vec![0; MAX_XATTR];
        let length = match rustix::fs::llistxattr(&path, &mut names) {
            Err(Errno::NOTSUP | Errno::NOENT | Errno::PERM | Errno::ACCESS) => 0,
            length => length.map_err(os)?,
        };
        for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let own = OVERLAY.iter().find_map(|start| name.strip_prefix(*start));
            // What a security module or the file system keeps for itself means nothing on another machine.
            let travels = name == b"security.capability" || name.starts_with(b"user.") || name.starts_with(b"trusted.");
            if own.is_none() && !travels {
                continue;
            }
            let mut value = vec![0; MAX_XATTR];
            let length = match rustix::fs::lgetxattr(&path, name, &mut value) {
                Err(Errno::NODATA | Errno::NOENT | Errno::NOTSUP) => continue,
                length => length.map_err(os)?,
            };
            value.truncate(length);
            match own {
                Some(own) => self.overlay.push((own.to_vec(), value)),
                None => self.xattrs.push((name.to_vec(), value)),
            }
        }
        self.xattrs.sort();
        Ok(())
    }

    /// True where both are of one kind, owner and mode and carry the same attributes.
    pub(super) fn is_described_as(&self, other: &Self) -> bool {
        let (one, two) = (&self.stat, &other.stat);
        (one.st_mode, one.st_uid, one.st_gid) == (two.st_mode, two.st_uid, two.st_gid) && self.xattrs == other.xattrs
    }

    /// True where nothing tells `upper` from `self`, which is not a folder. Times in whole seconds may hide a change, as
    /// layers carry no finer ones; then the bytes decide.
    pub(super) fn is_same(&self, at: &OwnedFd, upper: &Self, upper_at: &OwnedFd, name: &[u8]) -> Result<bool> {
        let (one, two) = (&self.stat, &upper.stat);
        if (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino) {
            return Ok(true);
        }
        if !self.is_described_as(upper) || one.st_mtime != two.st_mtime || one.st_rdev != two.st_rdev {
            return Ok(false);
        }
        if self.kind() == FileType::Symlink {
            return Ok(self.link == upper.link);
        }
        if self.kind() != FileType::RegularFile {
            return Ok(true);
        }
        if one.st_size != two.st_size {
            return Ok(false);
        }
        match (one.st_mtime_nsec, two.st_mtime_nsec) {
            (first, second) if first == second && first != 0 => Ok(true),
            (first, second) if first != 0 && second != 0 => Ok(false),
            _ => same_bytes(at, upper_at, name),
        }
    }
}

/// The names in a folder, in the order of their bytes.
pub(super) fn names(folder: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).map_err(os)? {
        let entry = entry.map_err(os)?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort();
    Ok(names)
}

/// Opens a folder in a folder; `None` where there is none (any more).
pub(super) fn folder(parent: &OwnedFd, name: &[u8]) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        folder => folder.map(Some).map_err(os),
    }
}

/// Opens a regular file; `None` where there is none (any more). What became a pipe meanwhile does not block.
pub(super) fn file(parent: &OwnedFd, name: &[u8]) -> Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
        file => file.map_err(os)?,
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(os)?.st_mode);
    Ok((kind == FileType::RegularFile).then(|| File::from(file)))
}

fn same_bytes(one: &OwnedFd, two: &OwnedFd, name: &[u8]) -> Result<bool> {
    let (Some(one), Some(two)) = (file(one, name)?, file(two, name)?) else { return Ok(false) };
    let (mut first, mut second) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let length = fill(&one, &mut first)?;
        if fill(&two, &mut second)? != length || first[..length] != second[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
    }
}

/// Reads until `into` is full or the file ends.
fn fill(mut file: &File, into: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read(&mut into[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}
