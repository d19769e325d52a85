//! Writes the entries of a layer into a folder: files with all they carry, and deletions as the driver wants them.
//!
//! Names come from strangers. A name is first made relative to the root, and one that climbs out of it is refused; what
//! its parent folder is, the kernel says (`openat2`, which keeps links inside the root), and the last component is never
//! followed. So links in the layer itself lead at most to another place in the layer.
//!
//! A deletion is an entry `.wh.<name>`; `.wh..wh..opq` hides everything that lower layers have in its folder (OCI image
//! spec 1.1, `layer.md`). Deletions mean lower layers only, wherever they stand among the entries of their own.

mod metadata;
mod parents;
mod whiteout;

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use windlass_model::snapshotter::{LayerTarget, Whiteouts};
use windlass_model::{Context, Error, Kind, Result};

use self::metadata::Times;
pub(super) use self::metadata::proc_path;
pub(super) use self::whiteout::{OPAQUE, PREFIX};
use super::tar::{Archive, Entry, EntryKind, Extent};
use super::{Limits, os};

/// The longest path, in bytes: the kernel's.
const MAX_PATH: usize = 4095;
/// How many bytes of paths are remembered for the end; see [`Applier::implied`] and [`Applier::times`].
const MAX_REMEMBERED: usize = 32 << 20;

/// A layer being written.
struct Applier {
    root: Arc<OwnedFd>,
    whiteouts: Whiteouts,
    /// The folder that was written to last: entries of a folder mostly stand together.
    parent: Option<(Vec<u8>, Arc<OwnedFd>)>,
    /// Folders that no entry described so far.
    implied: BTreeSet<Vec<u8>>,
    implied_bytes: usize,
    /// Times of folders, set when nothing more is written into them.
    times: Times,
    /// With [`Whiteouts::Apply`], the inodes that this layer wrote, which its own deletions spare.
    own: HashSet<u64>,
}

/// Writes all entries; gives the folders that no entry described.
pub(super) fn apply<R: BufRead>(
    archive: &mut Archive<R>,
    target: &LayerTarget,
    limits: &Limits,
) -> Result<Vec<PathBuf>> {
    let root = windlass_sys::fs::open_folder(&target.path)?;
    let mut applier = Applier {
        root: Arc::new(root),
        whiteouts: target.whiteouts,
        parent: None,
        implied: BTreeSet::from([Vec::new()]),
        implied_bytes: 0,
        times: Times::default(),
        own: HashSet::new(),
    };
    let mut entries = 0;
    while let Some(entry) = archive.next()? {
        entries += 1;
        if entries > limits.entries {
            return Err(Error::new(Kind::ResourceExhausted, format!("it has more than {} entries", limits.entries)));
        }
        applier.entry(archive, &entry).context(|| format!("entry {:?}", shown(&entry.path)))?;
    }
    applier.times.apply(&applier.root);
    let implied = std::mem::take(&mut applier.implied);
    Ok(implied.into_iter().map(|path| PathBuf::from(std::ffi::OsString::from_vec(path))).collect())
}

/// A name from an archive, fit for a message.
pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned()
}

/// A name relative to the root, without `.`, `..` and doubled slashes; empty for the root itself.
fn clean(name: &[u8]) -> Result<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.pop().is_none() => {
                return Err(Error::invalid(format!("{:?} leads out of the layer", shown(name))));
            }
            b".." => {}
            part => parts.push(part),
        }
    }
    let path = parts.join(&b'/');
    if path.len() > MAX_PATH {
        return Err(Error::invalid(format!("{:?}… is longer than {MAX_PATH} bytes", shown(name))));
    }
    Ok(path)
}

/// Folder and last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

impl Applier {
    fn entry<R: BufRead>(&mut self, archive: &mut Archive<R>, entry: &Entry) -> Result<()> {
        let path = clean(&entry.path)?;
        if path.is_empty() {
            return match entry.kind {
                EntryKind::Directory => self.describe_folder(&self.root.clone(), &path, entry),
                _ => Err(Error::invalid("the layer's root must be a folder")),
            };
        }
        let (folder, name) = split(&path);
        if path.starts_with(whiteout::META) && !path.starts_with(OPAQUE) {
            // What aufs kept for itself.
            return Ok(());
        }
        if name.starts_with(PREFIX) {
            return self.whiteout(folder, name);
        }
        let parent = self.parent(folder)?;
        match entry.kind {
            EntryKind::Directory => return self.folder(&parent, &path, name, entry),
            EntryKind::File => self.file(archive, &parent, name, entry)?,
            EntryKind::HardLink => self.hard_link(&parent, name, entry)?,
            EntryKind::Symlink => self.symlink(&parent, name, entry)?,
            EntryKind::Character | EntryKind::Block | EntryKind::Fifo => self.node(&parent, name, entry)?,
        }
        self.own(&parent, name)
    }

    fn folder(&mut self, parent: &Arc<OwnedFd>, path: &[u8], name: &[u8], entry: &Entry) -> Result<()> {
        let made = rustix::fs::mkdirat(&**parent, name, Mode::RWXU);
        let mut opaque = false;
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = rustix::fs::statat(&**parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(os)?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    // A deletion and then a folder of that name: nothing of the lower folder shall show through.
                    opaque = self.is_whiteout(&there);
                    self.clear(parent, name)?;
                    rustix::fs::mkdirat(&**parent, name, Mode::RWXU).map_err(os)?;
                }
            }
            Err(error) => return Err(os(error)),
        }
        let folder = Arc::new(open_folder(parent, name)?);
        if opaque {
            whiteout::make_opaque(&folder)?;
        }
        self.describe_folder(&folder, path, entry)?;
        self.own(parent, name)
    }

    fn describe_folder(&mut self, folder: &Arc<OwnedFd>, path: &[u8], entry: &Entry) -> Result<()> {
        if self.implied.remove(path) {
            self.implied_bytes -= path.len();
        }
        metadata::describe(folder, entry)?;
        self.times.later(&self.root, path, entry.mtime);
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        archive: &mut Archive<R>,
        parent: &Arc<OwnedFd>,
        name: &[u8],
        entry: &Entry,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::openat(&**parent, name, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(self.place(parent, name, make)?);
        match &entry.sparse {
            None => write_all(archive, &mut file)?,
            Some((size, extents)) => write_sparse(archive, &file, *size, extents)?,
        }
        metadata::describe(file.as_fd(), entry)?;
        rustix::fs::futimens(&file, &metadata::timestamps(entry.mtime)).map_err(os)?;
        Ok(())
    }

    fn hard_link(&mut self, parent: &Arc<OwnedFd>, name: &[u8], entry: &Entry) -> Result<()> {
        let target = clean(&entry.link)?;
        let (folder, target_name) = split(&target);
        let missing =
            || Error::invalid(format!("it is a hard link to {:?}, which the layer does not hold", shown(&target)));
        if target_name.is_empty() {
            return Err(missing());
        }
        let from = match parents::find(&self.root, folder) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
            from => from.map_err(os)?,
        };
        let there = match rustix::fs::statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(missing()),
            there => there.map_err(os)?,
        };
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory || self.is_whiteout(&there) {
            return Err(missing());
        }
        if let Ok(old) = rustix::fs::statat(&**parent, name, AtFlags::SYMLINK_NOFOLLOW)
            && (old.st_dev, old.st_ino) == (there.st_dev, there.st_ino)
        {
            // A link to itself must not remove itself first.
            return Ok(());
        }
        let make = || rustix::fs::linkat(&from, target_name, &**parent, name, AtFlags::empty());
        self.place(parent, name, make)
    }

    fn symlink(&mut self, parent: &Arc<OwnedFd>, name: &[u8], entry: &Entry) -> Result<()> {
        if entry.link.is_empty() {
            return Err(Error::invalid("a link points at nothing"));
        }
        self.place(parent, name, || rustix::fs::symlinkat(&*entry.link, &**parent, name))?;
        metadata::describe_name(parent, name, entry)
    }

    fn node(&mut self, parent: &Arc<OwnedFd>, name: &[u8], entry: &Entry) -> Result<()> {
        let kind = match entry.kind {
            EntryKind::Character => FileType::CharacterDevice,
            EntryKind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = rustix::fs::makedev(entry.device.0, entry.device.1);
        self.place(parent, name, || rustix::fs::mknodat(&**parent, name, kind, Mode::RUSR | Mode::WUSR, device))?;
        metadata::describe_name(parent, name, entry)
    }

    /// Makes something under a name, whatever stood there before.
    fn place<T>(&mut self, parent: &Arc<OwnedFd>, name: &[u8], make: impl Fn() -> rustix::io::Result<T>) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                self.clear(parent, name)?;
                make().map_err(os)
            }
            result => result.map_err(os),
        }
    }

    /// Removes what stands under a name.
    fn clear(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        // The folder that is remembered may be in what goes away.
        self.parent = None;
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => windlass_sys::fs::remove_tree(&proc_path(parent, name)),
            Err(error) => Err(os(error)),
        }
    }

    /// Remembers that this layer wrote what stands under a name.
    fn own(&mut self, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        if self.whiteouts == Whiteouts::Apply {
            self.own.insert(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(os)?.st_ino);
        }
        Ok(())
    }
}

fn open_folder(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(os)
}

fn write_all<R: BufRead>(archive: &mut Archive<R>, file: &mut File) -> Result<()> {
    loop {
        let bytes = archive.fill()?;
        let length = bytes.len();
        if length == 0 {
            return Ok(());
        }
        file.write_all(bytes)?;
        archive.consume(length);
    }
}

fn write_sparse<R: BufRead>(archive: &mut Archive<R>, file: &File, size: u64, extents: &[Extent]) -> Result<()> {
    for extent in extents {
        let (mut offset, end) = (extent.offset, extent.offset + extent.length);
        while offset < end {
            let bytes = archive.fill()?;
            let length = bytes.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
            file.write_all_at(&bytes[..length], offset)?;
            archive.consume(length);
            offset += length as u64;
            if length == 0 {
                return Err(Error::data_loss("a sparse file ends early"));
            }
        }
    }
    Ok(file.set_len(size)?)
}
