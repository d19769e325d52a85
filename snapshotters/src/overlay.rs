//! The overlay driver: one folder of changes per snapshot, laid over those of its parents by overlayfs.
//!
//! On disk: `<root>/<id>/fs` holds the snapshot's own files and `<root>/<id>/work` is overlayfs's own place. Deletions
//! are character devices 0:0 and the xattr `trusted.overlay.opaque`, as overlayfs reads them, so a layer can be written
//! straight into `fs`.

use std::fs::{FileTimes, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use windlass_model::snapshotter::{Kind, Labels, LayerTarget, SnapshotId, Snapshotter, Usage, Whiteouts};
use windlass_model::{Context, Error, Mount, Result};
use windlass_sys::mount::{mount_all, unmount};

use crate::folder::Folder;
use crate::usage;

/// Snapshots by overlayfs.
#[derive(Debug)]
pub struct Overlay {
    folder: Folder,
}

impl Overlay {
    /// Takes `root` as the driver's folder, makes it if missing, and tries whether overlayfs works on its file system;
    /// `FailedPrecondition` if not (another overlay below, say).
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let folder = Folder::open(root.into())?;
        let driver = Self { folder };
        driver.probe()?;
        Ok(driver)
    }

    /// Mounts an overlay of empty folders, once.
    fn probe(&self) -> Result<()> {
        let place = self.folder.path().join(".probe");
        let tried = (|| {
            unmount(&place.join("merged"))?;
            windlass_sys::fs::remove_tree(&place)?;
            for name in ["lower", "fs", "work", "merged"] {
                std::fs::create_dir_all(place.join(name)).context(|| format!("make {}", place.display()))?;
            }
            let mount = overlay(Some(&place), &[place.join("lower")])?;
            mount_all(&[mount], &place.join("merged"))?;
            unmount(&place.join("merged"))
        })();
        let cleared = windlass_sys::fs::remove_tree(&place);
        tried.map_err(|error| {
            let root = self.folder.path().display();
            Error::with_source(
                windlass_model::Kind::FailedPrecondition,
                format!("overlayfs does not work on {root}"),
                error,
            )
        })?;
        cleared
    }

    fn files(&self, id: SnapshotId) -> PathBuf {
        self.folder.entry(id).join("fs")
    }

    fn make(&self, id: SnapshotId, parents: &[SnapshotId]) -> Result<()> {
        // The uppermost folder gives the merged root its owner, mode and time, so each inherits those of the one below.
        let below = match parents.first() {
            Some(parent) => {
                let path = self.files(*parent);
                Some(path.symlink_metadata().context(|| format!("look at parent snapshot {parent}"))?)
            }
            None => None,
        };
        self.folder.make(id, |entry| {
            let files = entry.join("fs");
            std::fs::create_dir(entry.join("work"))
                .and_then(|()| std::fs::create_dir(&files))
                .and_then(|()| std::fs::set_permissions(&files, Permissions::from_mode(0o755)))
                .and_then(|()| below.map_or(Ok(()), |below| inherit(&files, &below)))
                .context(|| format!("make {}", files.display()))
        })
    }
}

/// Gives a folder the owner, mode and modification time of another.
fn inherit(files: &Path, from: &Metadata) -> std::io::Result<()> {
    std::os::unix::fs::lchown(files, Some(from.uid()), Some(from.gid()))?;
    std::fs::set_permissions(files, Permissions::from_mode(from.mode() & 0o7777))?;
    std::fs::File::open(files)?.set_times(FileTimes::new().set_modified(from.modified()?))
}

impl Snapshotter for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn prepare(&self, id: SnapshotId, parents: &[SnapshotId], _labels: &Labels) -> Result<()> {
        self.make(id, parents)
    }

    fn view(&self, id: SnapshotId, parents: &[SnapshotId], _labels: &Labels) -> Result<()> {
        self.make(id, parents)
    }

    fn mounts(&self, id: SnapshotId, parents: &[SnapshotId], kind: Kind) -> Result<Vec<Mount>> {
        let entry = self.folder.entry(id);
        if !entry.exists() {
            return Err(Error::not_found(format!("snapshot {id} is not on disk")));
        }
        let lowers: Vec<PathBuf> = parents.iter().map(|parent| self.files(*parent)).collect();
        let mount = match (kind, lowers.as_slice()) {
            (Kind::Active, []) => bind(&self.files(id), "rw")?,
            (Kind::Active, lowers) => overlay(Some(&entry), lowers)?,
            (_, []) => bind(&self.files(id), "ro")?,
            (_, [only]) => bind(only, "ro")?,
            (_, lowers) => overlay(None, lowers)?,
        };
        Ok(vec![mount])
    }

    fn commit(&self, id: SnapshotId, _parents: &[SnapshotId]) -> Result<()> {
        // The work folder is of no use below others, and takes two inodes for each layer.
        windlass_sys::fs::remove_tree(&self.folder.entry(id).join("work"))
            .context(|| format!("commit snapshot {id}"))?;
        match self.files(id).symlink_metadata() {
            Ok(_) => Ok(()),
            Err(error) => Err(error).context(|| format!("commit snapshot {id}")),
        }
    }

    fn remove(&self, id: SnapshotId) -> Result<()> {
        self.folder.remove(id)
    }

    fn usage(&self, id: SnapshotId, _parents: &[SnapshotId]) -> Result<Usage> {
        usage::walk(&self.files(id))
    }

    fn ids(&self) -> Result<Vec<SnapshotId>> {
        self.folder.ids()
    }

    fn layer_target(&self, id: SnapshotId) -> Option<LayerTarget> {
        Some(LayerTarget { path: self.files(id), whiteouts: Whiteouts::Overlay })
    }
}

fn bind(source: &Path, access: &str) -> Result<Mount> {
    Ok(Mount {
        kind: "bind".into(),
        source: text(source)?.into(),
        target: String::new(),
        options: vec![access.into(), "rbind".into()],
    })
}

/// An overlay over `lowers`, nearest first; writable where the snapshot's own folder is given.
fn overlay(own: Option<&Path>, lowers: &[PathBuf]) -> Result<Mount> {
    let mut options = vec!["index=off".to_owned()];
    if let Some(own) = own {
        options.push(format!("workdir={}", escape(&own.join("work"))?));
        options.push(format!("upperdir={}", escape(&own.join("fs"))?));
    }
    let lowers = lowers.iter().map(|lower| escape(lower)).collect::<Result<Vec<_>>>()?;
    options.push(format!("lowerdir={}", lowers.join(":")));
    Ok(Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options })
}

/// A path as overlayfs wants it in its options.
fn escape(path: &Path) -> Result<String> {
    let mut escaped = String::new();
    for character in text(path)?.chars() {
        if matches!(character, '\\' | ':' | ',') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    Ok(escaped)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::invalid(format!("{} is not UTF-8, and mounts are text", path.display())))
}
