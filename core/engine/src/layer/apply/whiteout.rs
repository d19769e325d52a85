//! Deletions: of one name, or of all that lower layers have in a folder.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, Stat, XattrFlags};
use rustix::io::Errno;
use windlass_model::snapshotter::Whiteouts;
use windlass_model::{Error, Result};

use super::{Applier, open_folder, shown};
use crate::layer::os;

/// What a deletion's name begins with.
pub(in crate::layer) const PREFIX: &[u8] = b".wh.";
/// What the names of aufs begin with.
pub(super) const META: &[u8] = b".wh..wh.";
/// The name that hides a folder's lower content.
pub(in crate::layer) const OPAQUE: &[u8] = b".wh..wh..opq";

/// How overlayfs reads the same (Linux, `Documentation/filesystems/overlayfs.rst`).
const OPAQUE_ATTRIBUTE: &[u8] = b"trusted.overlay.opaque";

pub(super) fn make_opaque(folder: &OwnedFd) -> Result<()> {
    rustix::fs::fsetxattr(folder, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty()).map_err(os)
}

impl Applier {
    /// True for overlayfs's mark of a deletion, where this layer uses it.
    pub(super) fn is_whiteout(&self, there: &Stat) -> bool {
        self.whiteouts == Whiteouts::Overlay
            && FileType::from_raw_mode(there.st_mode) == FileType::CharacterDevice
            && there.st_rdev == 0
    }

    pub(super) fn whiteout(&mut self, folder: &[u8], name: &[u8]) -> Result<()> {
        if name.starts_with(META) {
            return if name == OPAQUE { self.hide_all(folder) } else { Ok(()) };
        }
        let name = &name[PREFIX.len()..];
        if matches!(name, b"" | b"." | b"..") {
            return Err(Error::invalid(format!("it deletes {:?}, which is no name", shown(name))));
        }
        let parent = self.parent(folder)?;
        match self.whiteouts {
            Whiteouts::Overlay => self.mark(&parent, name),
            Whiteouts::Apply => self.remove_lower(&parent, name),
        }
    }

    fn hide_all(&mut self, folder: &[u8]) -> Result<()> {
        let parent = self.parent(folder)?;
        let opened = open_folder(&parent, b".")?;
        match self.whiteouts {
            Whiteouts::Overlay => make_opaque(&opened),
            Whiteouts::Apply => self.empty_lower(opened),
        }
    }

    /// Leaves overlayfs's mark, unless this layer itself has something of that name: that hides what is below anyway.
    fn mark(&mut self, parent: &Arc<OwnedFd>, name: &[u8]) -> Result<()> {
        match rustix::fs::mknodat(&**parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(&**parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(os)?;
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    make_opaque(&open_folder(parent, name)?)?;
                }
                Ok(())
            }
            Err(error) => Err(os(error)),
        }
    }

    fn remove_lower(&mut self, parent: &Arc<OwnedFd>, name: &[u8]) -> Result<()> {
        let there = match rustix::fs::statat(&**parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            there => there.map_err(os)?,
        };
        if !self.own.contains(&there.st_ino) {
            return self.clear(parent, name);
        }
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            return self.empty_lower(open_folder(parent, name)?);
        }
        Ok(())
    }

    /// Removes what lower layers have in a folder, and in its folders that are of both.
    fn empty_lower(&mut self, folder: OwnedFd) -> Result<()> {
        let mut folders = vec![Arc::new(folder)];
        while let Some(folder) = folders.pop() {
            let mut entries = Dir::read_from(&*folder).map_err(os)?;
            while let Some(entry) = entries.read() {
                let entry = entry.map_err(os)?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                if !self.own.contains(&entry.ino()) {
                    self.clear(&folder, name)?;
                } else if entry.file_type() == FileType::Directory {
                    folders.push(Arc::new(open_folder(&folder, name)?));
                }
            }
        }
        Ok(())
    }
}
