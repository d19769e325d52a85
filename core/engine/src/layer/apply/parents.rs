//! The folder in which an entry belongs: found by the kernel, or made where no entry made it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use windlass_model::{Error, Kind, Result};

use super::{Applier, MAX_REMEMBERED, shown, whiteout};
use crate::layer::os;

/// How many links are followed on the way to a folder, as the kernel has it.
const MAX_LINKS: usize = 40;

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The folder `path` as a process sees it whose root is `root`.
pub(super) fn find(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, FOLDER, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

impl Applier {
    /// The folder `path`, made if need be.
    pub(super) fn parent(&mut self, path: &[u8]) -> Result<Arc<OwnedFd>> {
        if let Some((known, folder)) = &self.parent
            && known == path
        {
            return Ok(folder.clone());
        }
        let folder = match find(&self.root, path) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make(path)?,
            Err(error) => return Err(os(error)),
        };
        let folder = Arc::new(folder);
        self.parent = Some((path.to_vec(), folder.clone()));
        Ok(folder)
    }

    /// Walks to `path` by hand and makes the folders that are missing, through links, too.
    fn make(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let mut ahead: Vec<Vec<u8>> = components(path).rev().collect();
        let mut here: Vec<Vec<u8>> = Vec::new();
        let mut folder = find(&self.root, b"").map_err(os)?;
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == b".." {
                // `here` holds no links, so its parent is what the kernel would say, and the root's is the root.
                here.pop();
                folder = find(&self.root, &here.join(&b'/')).map_err(os)?;
                continue;
            }
            match rustix::fs::openat(&folder, &*name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(next) => folder = next,
                Err(Errno::NOENT) => folder = self.imply(&folder, &here, &name, false)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let there = rustix::fs::statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW).map_err(os)?;
                    if FileType::from_raw_mode(there.st_mode) == FileType::Symlink {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Error::invalid(format!("{:?} lies behind a loop of links", shown(path))));
                        }
                        let target = rustix::fs::readlinkat(&folder, &*name, Vec::new()).map_err(os)?.into_bytes();
                        if target.starts_with(b"/") {
                            here.clear();
                            folder = find(&self.root, b"").map_err(os)?;
                        }
                        ahead.extend(components(&target).rev());
                        continue;
                    }
                    if !self.is_whiteout(&there) {
                        let blocking = shown(&name);
                        return Err(Error::invalid(format!(
                            "{:?} is no folder, for {blocking:?} is none",
                            shown(path)
                        )));
                    }
                    self.clear(&folder, &name)?;
                    folder = self.imply(&folder, &here, &name, true)?;
                }
                Err(error) => return Err(os(error)),
            }
            here.push(name);
        }
        Ok(folder)
    }

    /// Makes a folder that no entry described; one may still come.
    fn imply(&mut self, parent: &OwnedFd, here: &[Vec<u8>], name: &[u8], opaque: bool) -> Result<OwnedFd> {
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(parent, name, mode).map_err(os)?;
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(os)?;
        let mut path = here.join(&b'/');
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        self.implied_bytes += path.len();
        if self.implied_bytes > MAX_REMEMBERED {
            return Err(Error::new(Kind::ResourceExhausted, "the layer has too many folders without entries"));
        }
        self.implied.insert(path);
        self.own(parent, name)?;
        if opaque {
            whiteout::make_opaque(&super::open_folder(parent, name)?)?;
        }
        rustix::fs::openat(parent, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()).map_err(os)
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec)
}
