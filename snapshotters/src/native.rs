//! The native driver: a full copy for each snapshot; it needs nothing of the kernel and works on every file system.
//!
//! On disk: `<root>/<id>/fs` is the whole tree. On file systems that share extents a copy costs no space.

mod copy;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use windlass_model::snapshotter::{Kind, Labels, LayerTarget, SnapshotId, Snapshotter, Usage, Whiteouts};
use windlass_model::{Context, Error, Mount, Result};

use crate::folder::Folder;
use crate::usage;

/// Snapshots by copying.
#[derive(Debug)]
pub struct Native {
    folder: Folder,
}

impl Native {
    /// Takes `root` as the driver's folder and makes it if missing.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self { folder: Folder::open(root.into())? })
    }

    fn files(&self, id: SnapshotId) -> PathBuf {
        self.folder.entry(id).join("fs")
    }

    fn make(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<()> {
        self.folder.make(id, |entry| {
            let files = entry.join("fs");
            std::fs::create_dir(&files)
                .and_then(|()| std::fs::set_permissions(&files, Permissions::from_mode(0o755)))
                .context(|| format!("make {}", files.display()))?;
            match parents.first() {
                Some(parent) => {
                    copy::tree(&self.files(*parent), &files).context(|| format!("copy parent snapshot {parent}"))
                }
                None => Ok(()),
            }
        })
    }

    /// The tree of `id`, or `NotFound`.
    fn present(&self, id: SnapshotId) -> Result<PathBuf> {
        let files = self.files(id);
        if files.exists() { Ok(files) } else { Err(Error::not_found(format!("snapshot {id} is not on disk"))) }
    }
}

impl Snapshotter for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn prepare(&self, id: SnapshotId, parents: &[SnapshotId], _labels: &Labels) -> Result<()> {
        self.make(id, parents)
    }

    fn view(&self, id: SnapshotId, parents: &[SnapshotId], _labels: &Labels) -> Result<()> {
        // Nobody can write to a view, so with a parent it needs no copy; the entry only stands for the id.
        if parents.is_empty() { self.make(id, parents) } else { self.folder.make(id, |_| Ok(())) }
    }

    fn mounts(&self, id: SnapshotId, parents: &[SnapshotId], kind: Kind) -> Result<Vec<Mount>> {
        if !self.folder.entry(id).exists() {
            return Err(Error::not_found(format!("snapshot {id} is not on disk")));
        }
        let (files, access) = match (kind, parents.first()) {
            (Kind::Active, _) => (self.present(id)?, "rw"),
            (_, Some(parent)) => (self.present(*parent)?, "ro"),
            (_, None) => (self.present(id)?, "ro"),
        };
        let source = files
            .to_str()
            .ok_or_else(|| Error::invalid(format!("{} is not UTF-8, and mounts are text", files.display())))?;
        let options = vec![access.into(), "rbind".into()];
        Ok(vec![Mount { kind: "bind".into(), source: source.into(), target: String::new(), options }])
    }

    fn commit(&self, id: SnapshotId, _parents: &[SnapshotId]) -> Result<()> {
        self.present(id).map(|_| ())
    }

    fn remove(&self, id: SnapshotId) -> Result<()> {
        self.folder.remove(id)
    }

    fn usage(&self, id: SnapshotId, _parents: &[SnapshotId]) -> Result<Usage> {
        usage::walk(&self.folder.entry(id))
    }

    fn ids(&self) -> Result<Vec<SnapshotId>> {
        self.folder.ids()
    }

    fn layer_target(&self, id: SnapshotId) -> Option<LayerTarget> {
        Some(LayerTarget { path: self.files(id), whiteouts: Whiteouts::Apply })
    }
}
