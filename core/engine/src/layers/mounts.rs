//! The mounts that a client names, as folders: which snapshot each folder is of, and what may be done with it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use windlass_model::snapshotter::{Kind as SnapshotKind, Whiteouts};
use windlass_model::{Context, Error, Kind, Mount, Result};
use windlass_sys::mount::{OverlayFolders, mount_all, overlay_folders, unmount};

use crate::Tenant;
use crate::layer::diff::Trees;
use crate::snapshots::Folders;

/// Where a layer is unpacked.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) whiteouts: Whiteouts,
    /// The folders below, nearest first.
    pub(super) below: Vec<PathBuf>,
}

/// A tree as its mounts show it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tree {
    Empty,
    Folder(PathBuf),
    /// Several folders, nearest first, the first of which may be written to.
    Overlay {
        upper: Option<PathBuf>,
        lower: Vec<PathBuf>,
    },
}

/// The two trees of a diff.
#[derive(Debug)]
pub(super) struct Sides {
    lower: Tree,
    upper: Tree,
}

impl Tree {
    fn of(folders: &Folders, mounts: &[Mount]) -> Result<Self> {
        let mount = match mounts {
            [] => return Ok(Self::Empty),
            [mount] if mount.target.is_empty() => mount,
            _ => return Err(Error::unimplemented("layers of several mounts that lie in each other")),
        };
        let tree = match mount.kind.as_str() {
            "bind" | "rbind" => Self::Folder(PathBuf::from(&mount.source)),
            "overlay" => {
                let OverlayFolders { upper, lower, .. } = overlay_folders(&mount.options);
                match (upper, lower) {
                    (None, lower) if lower.is_empty() => return Err(Error::invalid("an overlay has no folders")),
                    (None, lower) if lower.len() == 1 => Self::Folder(lower[0].clone()),
                    (upper, lower) => Self::Overlay { upper, lower },
                }
            }
            other => return Err(Error::unimplemented(format!("layers of a mount of type {other:?}"))),
        };
        tree.folders().try_for_each(|folder| folders.kind(folder).map(drop))?;
        Ok(tree)
    }

    /// Its folders, nearest first.
    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        let (first, rest): (Option<&PathBuf>, &[PathBuf]) = match self {
            Self::Empty => (None, &[]),
            Self::Folder(folder) => (Some(folder), &[]),
            Self::Overlay { upper, lower } => (upper.as_ref(), lower),
        };
        first.into_iter().chain(rest)
    }

    /// Opens the tree to be read. An overlay is mounted for as long as its descriptor is open, and nowhere to be seen.
    fn open(&self, state: &Path) -> Result<Option<OwnedFd>> {
        match self {
            Self::Empty => Ok(None),
            Self::Folder(folder) => windlass_sys::fs::open_folder(folder).map(Some),
            Self::Overlay { .. } => {
                let folders: Vec<&PathBuf> = self.folders().collect();
                let lower = windlass_sys::mount::join_overlay_folders(&folders)?;
                let options = vec!["ro".into(), "index=off".into(), format!("lowerdir={lower}")];
                let mount = Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options };
                seen_once(&mount, state).map(Some)
            }
        }
    }
}

impl Place {
    /// Where a layer goes that is unpacked into `mounts`.
    pub(super) fn writable(tenant: &Tenant, mounts: &[Mount]) -> Result<Self> {
        let folders = Folders::of(tenant)?;
        let place = match Tree::of(&folders, mounts)? {
            Tree::Empty => return Err(Error::invalid("a layer is applied to no mounts")),
            Tree::Folder(folder) => Self { folder, whiteouts: Whiteouts::Apply, below: Vec::new() },
            Tree::Overlay { upper: Some(folder), lower } => {
                Self { folder, whiteouts: Whiteouts::Overlay, below: lower }
            }
            Tree::Overlay { upper: None, .. } => {
                return Err(Error::invalid("a layer is applied to a read-only overlay"));
            }
        };
        if folders.kind(&place.folder)? != SnapshotKind::Active {
            let message = format!("{} is not of a writable snapshot", place.folder.display());
            return Err(Error::new(Kind::PermissionDenied, message));
        }
        Ok(place)
    }
}

impl Sides {
    pub(super) fn new(tenant: &Tenant, lower: &[Mount], upper: &[Mount]) -> Result<Self> {
        let folders = Folders::of(tenant)?;
        let lower = Tree::of(&folders, lower).context(|| "the older tree".into())?;
        let upper = Tree::of(&folders, upper).context(|| "the newer tree".into())?;
        Ok(Self { lower, upper })
    }

    /// The short way to read them: what overlayfs kept of the changes; `None` where it kept nothing. Blocks.
    pub(super) fn changes(&self, state: &Path) -> Result<Option<Trees>> {
        let (Some(own), Some(lower)) = (self.own_folder(), self.lower.open(state)?) else { return Ok(None) };
        Ok(Some(Trees::Overlay { lower, upper: windlass_sys::fs::open_folder(&own)? }))
    }

    /// The long way. Blocks.
    pub(super) fn whole(&self, state: &Path) -> Result<Trees> {
        let upper = self.upper.open(state)?.map_or_else(|| nothing(state), Ok)?;
        Ok(Trees::Whole { lower: self.lower.open(state)?, upper })
    }

    /// The folder with all that the newer tree has over the older one, where overlayfs keeps one.
    fn own_folder(&self) -> Option<PathBuf> {
        let mut folders = self.upper.folders();
        let own = folders.next()?;
        let stands_on = self.lower != Tree::Empty && folders.eq(self.lower.folders());
        stands_on.then(|| own.clone())
    }
}

/// Performs a mount that nobody else gets to see: it goes away with the descriptor.
fn seen_once(mount: &Mount, state: &Path) -> Result<OwnedFd> {
    let place = state.join(format!("diff-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&place).context(|| format!("make {}", place.display()))?;
    let opened = mount_all(std::slice::from_ref(mount), &place).and_then(|()| {
        let opened = windlass_sys::fs::open_folder(&place);
        unmount(&place)?;
        opened
    });
    std::fs::remove_dir(&place).context(|| format!("remove {}", place.display()))?;
    opened
}

/// An empty folder that is gone as soon as it is open.
fn nothing(state: &Path) -> Result<OwnedFd> {
    let place = state.join(format!("diff-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&place).context(|| format!("make {}", place.display()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&place, flags, Mode::empty());
    std::fs::remove_dir(&place).context(|| format!("remove {}", place.display()))?;
    Ok(opened.map_err(std::io::Error::from)?)
}
