//! The blob files, shared by all namespaces: where they are, who needs them, and how they go away.
//!
//! A file stands in `blobs/` under its digest only after its bytes were verified. It stays as long as a namespace has a
//! record of it or somebody in this process holds a [`Pin`] on it; whoever takes away the last of those takes away the
//! file. Looking and removing are one step under one lock, so a writer that found a file can rely on it. Files that a
//! crash left without record are removed when the core is opened, before anybody looks.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use windlass_model::{Context, Digest, Error, Namespace, Result};

use crate::meta::schema::{BLOBS, NAMESPACES};
use crate::meta::{Db, Durability, Reader, View};

/// The blob files of one core; clones are the same.
#[derive(Clone)]
pub(crate) struct Blobs(Arc<Inner>);

struct Inner {
    /// `<root>/content`.
    root: PathBuf,
    db: Db,
    pins: Mutex<HashMap<Digest, usize>>,
    /// Ingests that have a writer, by the name of their folder.
    pub(super) writing: Mutex<HashSet<String>>,
    trashed: AtomicU64,
}

/// Keeps a blob's file while it has no record yet.
pub(super) struct Pin {
    blobs: Blobs,
    digest: Digest,
}

/// A blob that is verified and stands among the blob files, but is neither recorded nor synced. Sync the file system of
/// the root, then record it with [`super::record`]; keep this until that batch is written. Dropped without a record, its
/// file goes away.
pub(crate) struct Sealed {
    pub(super) namespace: Namespace,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(super) _pin: Pin,
}

/// Keeps others from writing the same ingest.
pub(super) struct WriteLock {
    blobs: Blobs,
    name: String,
}

impl Blobs {
    /// Opens the folders, makes them where they are missing, and sweeps what a crash left.
    ///
    /// Records whose file is missing or has another size are dropped, so that the next pull fetches the blob again.
    pub(crate) async fn open(root: &Path, db: &Db) -> Result<Self> {
        let blobs = Self(Arc::new(Inner {
            root: root.to_owned(),
            db: db.clone(),
            pins: Mutex::default(),
            writing: Mutex::default(),
            trashed: AtomicU64::new(0),
        }));
        let me = blobs.clone();
        let lost = crate::blocking(move || me.sweep().context(|| format!("sweep {}", me.0.root.display()))).await?;
        if !lost.is_empty() {
            db.update(Durability::Power, move |tx| {
                lost.iter().for_each(|key| tx.delete(&BLOBS, key));
                Ok(())
            })
            .await?;
        }
        Ok(blobs)
    }

    /// Removes files without record, and gives records without file.
    fn sweep(&self) -> Result<Vec<(Namespace, Digest)>> {
        for folder in [self.folder(), self.ingests(), self.trash()] {
            fs::create_dir_all(folder)?;
        }
        for left in fs::read_dir(self.trash())? {
            fs::remove_file(left?.path())?;
        }
        let recorded = self.0.db.view().scan(&BLOBS, &())?;
        let known: HashSet<Digest> = recorded.iter().map(|((_, digest), _)| *digest).collect();
        let mut sizes = HashMap::new();
        for entry in fs::read_dir(self.folder())? {
            let entry = entry?;
            match entry.file_name().to_str().and_then(|name| format!("sha256:{name}").parse::<Digest>().ok()) {
                Some(digest) if known.contains(&digest) => {
                    sizes.insert(digest, entry.metadata()?.len());
                }
                _ => {
                    tracing::info!(path = %entry.path().display(), "removing a blob file without record");
                    fs::remove_file(entry.path())?;
                }
            }
        }
        let lost = |((namespace, digest), record): (_, super::BlobRecord)| {
            if sizes.get(&digest) == Some(&record.size) {
                return None;
            }
            tracing::warn!(%namespace, %digest, "forgetting a blob whose file is missing or has another size");
            Some((namespace, digest))
        };
        Ok(recorded.into_iter().filter_map(lost).collect())
    }

    fn folder(&self) -> PathBuf {
        self.0.root.join("blobs/sha256")
    }

    fn trash(&self) -> PathBuf {
        self.0.root.join("trash")
    }

    /// The folder of blobs on the way.
    pub(super) fn ingests(&self) -> PathBuf {
        self.0.root.join("ingest")
    }

    /// Where the blob is, or would be.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder().join(digest.hex())
    }

    /// Moves a verified file to its place, or away where the blob is there already, and pins the blob.
    pub(super) fn install(&self, file: &Path, digest: &Digest) -> Result<Pin> {
        let place = self.path(digest);
        let mut pins = self.0.pins.lock();
        match place.try_exists() {
            Ok(true) => fs::remove_file(file),
            Ok(false) => fs::rename(file, &place),
            Err(error) => Err(error),
        }
        .context(|| format!("put blob {digest} in its place"))?;
        *pins.entry(*digest).or_default() += 1;
        Ok(Pin { blobs: self.clone(), digest: *digest })
    }

    /// Pins a blob that stands here, whichever namespace has it, and gives its size; `None` where it does not.
    pub(super) fn pin(&self, digest: &Digest) -> Result<Option<(Pin, u64)>> {
        let mut pins = self.0.pins.lock();
        let size = match fs::metadata(self.path(digest)) {
            Ok(file) => file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(|| format!("look at blob {digest}")),
        };
        *pins.entry(*digest).or_default() += 1;
        Ok(Some((Pin { blobs: self.clone(), digest: *digest }, size)))
    }

    /// The committed records.
    pub(super) fn view(&self) -> View<'_> {
        self.0.db.view()
    }

    /// Makes the bytes and the name of an installed blob survive a power cut.
    pub(super) fn sync(&self, digest: &Digest) -> Result<()> {
        // A record says that somebody did this before.
        if is_recorded(&self.0.db.view(), digest)? {
            return Ok(());
        }
        let sync = |path: &Path| File::open(path)?.sync_all();
        sync(&self.path(digest)).and_then(|()| sync(&self.folder())).context(|| format!("sync blob {digest}"))
    }

    /// Removes the file of a blob that nobody needs any more; leaves it where somebody does. Blocks.
    pub(crate) fn remove_unneeded(&self, digest: &Digest) {
        let outcome = {
            let pins = self.0.pins.lock();
            if pins.contains_key(digest) { Ok(None) } else { self.move_to_trash(digest) }
        };
        self.empty(digest, outcome);
    }

    /// The file's new place, unless there is a record. The caller holds the lock on the pins.
    fn move_to_trash(&self, digest: &Digest) -> Result<Option<PathBuf>> {
        if is_recorded(&self.0.db.view(), digest)? {
            return Ok(None);
        }
        let number = self.0.trashed.fetch_add(1, Ordering::Relaxed);
        let place = self.trash().join(number.to_string());
        match fs::rename(self.path(digest), &place) {
            Ok(()) => Ok(Some(place)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Unlinks outside of the lock: a big file takes its time. What fails here is swept at the next open.
    fn empty(&self, digest: &Digest, outcome: Result<Option<PathBuf>>) {
        let unlinked = outcome.and_then(|place| place.map_or(Ok(()), |place| Ok(fs::remove_file(place)?)));
        if let Err(error) = unlinked {
            tracing::warn!(%digest, %error, "a blob file could not be removed");
        }
    }

    /// The right to write the ingest in the folder `name`.
    pub(super) fn lock(&self, name: &str) -> Option<WriteLock> {
        let new = self.0.writing.lock().insert(name.to_owned());
        new.then(|| WriteLock { blobs: self.clone(), name: name.to_owned() })
    }

    /// Opens a blob's file.
    pub(super) fn open_file(&self, digest: &Digest, size: u64) -> Result<File> {
        let file = match File::open(self.path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::data_loss(format!("blob {digest} is recorded but its file is gone")));
            }
            other => other.context(|| format!("open blob {digest}"))?,
        };
        let found = file.metadata()?.len();
        if found != size {
            return Err(Error::data_loss(format!("blob {digest} has {found} bytes on disk instead of {size}")));
        }
        Ok(file)
    }
}

/// True where any namespace has a record of the blob.
pub(super) fn is_recorded(reader: &impl Reader, digest: &Digest) -> Result<bool> {
    for (namespace, _) in reader.scan(&NAMESPACES, &())? {
        if reader.has(&BLOBS, &(namespace, *digest))? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Drop for Pin {
    fn drop(&mut self) {
        let outcome = {
            let mut pins = self.blobs.0.pins.lock();
            match pins.get_mut(&self.digest) {
                Some(count) if *count > 1 => {
                    *count -= 1;
                    Ok(None)
                }
                _ => {
                    pins.remove(&self.digest);
                    self.blobs.move_to_trash(&self.digest)
                }
            }
        };
        let (blobs, digest) = (self.blobs.clone(), self.digest);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if matches!(outcome, Ok(Some(_))) => {
                drop(runtime.spawn_blocking(move || blobs.empty(&digest, outcome)));
            }
            _ => blobs.empty(&digest, outcome),
        }
    }
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        self.blobs.0.writing.lock().remove(&self.name);
    }
}
