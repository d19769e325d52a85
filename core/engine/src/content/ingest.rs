//! Blobs on the way: files that grow, are hashed as they grow, and survive the daemon.
//!
//! An ingest is a folder `ingest/<hash of namespace and reference>` with `ref` (JSON: whose it is, what is expected) and
//! `data`. Its offset is the length of `data`; nothing else is kept, so there is nothing that a crash could leave in
//! disagreement. A writer that resumes hashes what is there. An ingest that nobody touches for [`EXPIRY`] is removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use windlass_model::{Context, Digest, Error, Id, Kind, Namespace, Result, Timestamp, snapshotter::Labels};

use super::blobs::{Blobs, Sealed, WriteLock};
use super::store::Store;

/// How long an ingest is kept after its last byte.
pub(super) const EXPIRY: Duration = Duration::from_secs(24 * 60 * 60);

/// How far an ingest is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestStatus {
    /// The name under which it is written and resumed.
    pub reference: String,
    /// Bytes there.
    pub offset: u64,
    /// Bytes there will be, 0 where nobody said.
    pub total: u64,
    /// The digest it is to have, where somebody said.
    pub expected: Option<Digest>,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When bytes last came.
    pub updated_at: Timestamp,
}

/// The one writer of an ingest. Dropped, it leaves the ingest to be resumed.
///
/// A call that is cut off (its future dropped) leaves the writer unusable, as it is unknown how far the call came; every
/// later call answers [`Kind::Aborted`]. A new writer of the same reference knows.
pub struct Writer {
    store: Store,
    lease: Option<Id>,
    state: Option<State>,
}

/// What is in `ref`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Intent {
    pub(super) namespace: Namespace,
    pub(super) reference: String,
    pub(super) total: u64,
    pub(super) expected: Option<Digest>,
    pub(super) started_at: Timestamp,
}

struct State {
    folder: PathBuf,
    intent: Intent,
    file: File,
    hash: Sha256,
    offset: u64,
    /// Last: released when the folder is left alone.
    lock: WriteLock,
}

impl Intent {
    /// The name of the folder; any reference is a good file name this way.
    pub(super) fn folder_name(namespace: &Namespace, reference: &str) -> String {
        Digest::of(format!("{namespace}\0{reference}").as_bytes()).hex()
    }
}

impl Writer {
    /// Opens or begins the ingest. Blocks: it hashes what is there.
    pub(super) fn open(store: Store, blobs: &Blobs, intent: Intent, lease: Option<Id>) -> Result<Self> {
        let name = Intent::folder_name(&intent.namespace, &intent.reference);
        let lock = blobs
            .lock(&name)
            .ok_or_else(|| Error::unavailable(format!("ingest {:?} is locked: it has a writer", intent.reference)))?;
        let folder = blobs.ingests().join(name);
        let state = State::open(folder, intent, lock).context(|| "open ingest".into())?;
        Ok(Self { store, lease, state: Some(state) })
    }

    /// Bytes there; the next write goes here.
    pub fn offset(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.offset)
    }

    /// Appends; copies `bytes` to a thread that may block.
    ///
    /// # Errors
    /// [`Kind::ResourceExhausted`] for a full disk and [`Kind::FailedPrecondition`] for more bytes than were announced;
    /// the writer stays as it was before the call.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let bytes = bytes.to_vec();
        self.with_state(move |state| state.append(&bytes)).await
    }

    /// Appends from a thread that may block.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn write_blocking(&mut self, bytes: &[u8]) -> Result<()> {
        self.state.as_mut().ok_or_else(cut_off)?.append(bytes)
    }

    /// Cuts the ingest to `offset` bytes and hashes what is left.
    ///
    /// # Errors
    /// [`Kind::OutOfRange`] where there are fewer bytes.
    pub async fn truncate(&mut self, offset: u64) -> Result<()> {
        self.with_state(move |state| state.truncate(offset)).await
    }

    /// Makes it a blob of this namespace (and holds it by the lease), durably. Where the namespace knows the blob already,
    /// the labels are added to those it has.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] for another size or digest than asked. With bytes missing, the ingest is kept to be
    /// resumed; with wrong ones it is thrown away.
    pub async fn commit(mut self, size: Option<u64>, expected: Option<&Digest>, labels: Labels) -> Result<Digest> {
        let state = self.state.take().ok_or_else(cut_off)?;
        let (blobs, expected) = (self.store.blobs().clone(), expected.copied());
        let sealed = crate::blocking(move || {
            let sealed = state.seal(&blobs, size, expected)?;
            blobs.sync(&sealed.digest)?;
            Ok(sealed)
        })
        .await?;
        self.store.record_sealed(sealed, labels, self.lease).await
    }

    /// Makes it a blob file, verified, neither synced nor recorded. Errors as [`Writer::commit`].
    pub(crate) async fn seal(mut self, size: u64, digest: &Digest) -> Result<Sealed> {
        let state = self.state.take().ok_or_else(cut_off)?;
        let (blobs, digest) = (self.store.blobs().clone(), *digest);
        crate::blocking(move || state.seal(&blobs, Some(size), Some(digest))).await
    }

    /// Throws the ingest away.
    ///
    /// # Errors
    /// What the file system answers.
    pub async fn abort(mut self) -> Result<()> {
        let state = self.state.take().ok_or_else(cut_off)?;
        crate::blocking(move || Ok(fs::remove_dir_all(&state.folder)?)).await
    }

    async fn with_state(&mut self, work: impl FnOnce(&mut State) -> Result<()> + Send + 'static) -> Result<()> {
        let mut state = self.state.take().ok_or_else(cut_off)?;
        let (state, outcome) = crate::blocking(move || {
            let outcome = work(&mut state);
            Ok((state, outcome))
        })
        .await?;
        self.state = Some(state);
        outcome
    }
}

fn cut_off() -> Error {
    Error::new(Kind::Aborted, "an earlier call on this writer was cut off")
}

impl State {
    fn open(folder: PathBuf, mut intent: Intent, lock: WriteLock) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        // An ingest of something else under the same name starts anew.
        let found =
            read_intent(&folder).filter(|found| found.expected == intent.expected && found.total == intent.total);
        let resumes = found.is_some();
        match found {
            Some(found) => intent = found,
            None => windlass_sys::fs::write_atomic(&folder.join("ref"), &serde_json::to_vec(&intent).map_err(broken)?)?,
        }
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(!resumes).open(folder.join("data"))?;
        let mut state = Self { folder, intent, file, hash: Sha256::new(), offset: 0, lock };
        let length = state.file.metadata()?.len();
        let length = if state.intent.total == 0 { length } else { length.min(state.intent.total) };
        state.truncate(length)?;
        Ok(state)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.offset + bytes.len() as u64;
        if self.intent.total != 0 && end > self.intent.total {
            return Err(Error::precondition(format!(
                "ingest {:?} gets more than the {} bytes announced",
                self.intent.reference, self.intent.total
            )));
        }
        if let Err(error) = self.file.write_all(bytes) {
            // What was written of it goes, so that file, hash and offset agree; if that fails, the next open sees it.
            let _ = self.file.set_len(self.offset);
            let _ = self.file.seek(SeekFrom::Start(self.offset));
            return Err(error).context(|| format!("write ingest {:?}", self.intent.reference));
        }
        self.hash.update(bytes);
        self.offset = end;
        Ok(())
    }

    fn truncate(&mut self, offset: u64) -> Result<()> {
        if offset > self.file.metadata()?.len() {
            let message = format!("ingest {:?} has fewer than {offset} bytes", self.intent.reference);
            return Err(Error::new(Kind::OutOfRange, message));
        }
        self.file.set_len(offset)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hash = hash_of(&self.file, offset)?;
        self.offset = offset;
        Ok(())
    }

    /// Verifies, and moves the bytes to the blobs.
    fn seal(self, blobs: &Blobs, size: Option<u64>, expected: Option<Digest>) -> Result<Sealed> {
        let Self { folder, intent, hash, offset, lock, .. } = self;
        let size = size.or((intent.total != 0).then_some(intent.total));
        if let Some(size) = size.filter(|size| *size != offset) {
            if offset > size {
                fs::remove_dir_all(&folder)?;
            }
            let reference = &intent.reference;
            return Err(Error::precondition(format!("ingest {reference:?} has {offset} bytes, expected are {size}")));
        }
        let digest = Digest::from_bytes(hash.finalize().into());
        if let Some(expected) = expected.or(intent.expected).filter(|expected| *expected != digest) {
            fs::remove_dir_all(&folder)?;
            let reference = &intent.reference;
            return Err(Error::precondition(format!("ingest {reference:?} is {digest}, expected is {expected}")));
        }
        let pin = blobs.install(&folder.join("data"), &digest)?;
        if let Err(error) = fs::remove_dir_all(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "the folder of a finished ingest stays until the next start");
        }
        drop(lock);
        Ok(Sealed { namespace: intent.namespace, digest, size: offset, _pin: pin })
    }
}

fn broken(error: serde_json::Error) -> Error {
    Error::with_source(Kind::Internal, "an ingest's intent cannot be written", error)
}

/// Hashes the next `length` bytes of `file`.
fn hash_of(mut file: &File, length: u64) -> Result<Sha256> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 128 << 10];
    let mut left = length;
    while left > 0 {
        let room = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = file.read(&mut piece[..room])?;
        if count == 0 {
            return Err(Error::data_loss("the file of an ingest shrank"));
        }
        hash.update(&piece[..count]);
        left -= count as u64;
    }
    Ok(hash)
}

fn read_intent(folder: &Path) -> Option<Intent> {
    serde_json::from_slice(&fs::read(folder.join("ref")).ok()?).ok()
}

/// An ingest's folder as it is now, or `None` where there is none (any more).
pub(super) fn status(folder: &Path) -> Result<Option<(Namespace, IngestStatus)>> {
    let Some(intent) = read_intent(folder) else { return Ok(None) };
    let data = match fs::metadata(folder.join("data")) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Intent { namespace, reference, total, expected, started_at } = intent;
    let updated_at = data.modified()?.into();
    Ok(Some((namespace, IngestStatus { reference, offset: data.len(), total, expected, started_at, updated_at })))
}

/// Removes ingests that are broken or that nobody touched for [`EXPIRY`], and gives how many. Blocks.
pub(crate) fn expire(blobs: &Blobs) -> Result<usize> {
    let oldest = Timestamp::now().nanos().saturating_sub(EXPIRY.as_nanos() as i64);
    let mut removed = 0;
    for entry in fs::read_dir(blobs.ingests())? {
        let entry = entry?;
        // Whoever holds the lock keeps the ingest.
        let Some(_lock) = entry.file_name().to_str().and_then(|name| blobs.lock(name)) else { continue };
        let keep = status(&entry.path())?.is_some_and(|(_, status)| status.updated_at.nanos() >= oldest);
        if !keep {
            tracing::info!(folder = %entry.path().display(), "removing an abandoned ingest");
            fs::remove_dir_all(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}
