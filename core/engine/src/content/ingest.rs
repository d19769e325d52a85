//! Blobs on the way: files that grow, are hashed as they grow, and survive the daemon.
//!
//! An ingest is a folder `ingest/<hash of namespace and reference>` with `ref` (JSON: whose it is, what is expected) and
//! `data`. Its offset is the length of `data`; nothing else is kept, so there is nothing that a crash could leave in
//! disagreement. A writer that resumes hashes what is there.
//!
//! An ingest begun under a lease stays as long as a lease holds it; any other is removed when nobody touches it for
//! [`EXPIRY`]. The writer of a blob that another namespace has is complete from the start and has no folder, unless its
//! client insists on writing the bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use windlass_model::{Context, Digest, Error, Kind, LeaseId, Namespace, Result, Timestamp, snapshotter::Labels};

use super::blobs::{Blobs, Pin, Sealed, WriteLock};
use super::store::{Existing, Store};
use crate::leases::{self, Resource};

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
    lease: Option<LeaseId>,
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
    /// Begun under a lease, which then decides how long it is kept.
    #[serde(default)]
    pub(super) leased: bool,
}

struct State {
    folder: PathBuf,
    intent: Intent,
    bytes: Bytes,
    updated_at: Timestamp,
    /// Last: released when the folder is left alone.
    lock: WriteLock,
}

/// Where the bytes are.
enum Bytes {
    /// In the folder's `data`, as far as they came.
    Growing { file: File, hash: Sha256, offset: u64 },
    /// All of them in the blob that another namespace has.
    Shared { pin: Pin, digest: Digest, size: u64 },
}

impl Intent {
    /// The name of the folder; any reference is a good file name this way.
    pub(super) fn folder_name(namespace: &Namespace, reference: &str) -> String {
        Digest::of(format!("{namespace}\0{reference}").as_bytes()).hex()
    }

    /// True where `other` can be the same blob.
    fn agrees(&self, other: &Self) -> bool {
        let digests = self.expected.zip(other.expected).is_none_or(|(one, two)| one == two);
        digests && (self.total == other.total || self.total == 0 || other.total == 0)
    }
}

impl Writer {
    /// Opens or begins the ingest; with `shared`, the blob is there already. Blocks: it hashes what is there.
    pub(super) fn open(
        store: Store,
        blobs: &Blobs,
        intent: Intent,
        lease: Option<LeaseId>,
        shared: Option<(Pin, Digest, u64)>,
    ) -> Result<Self> {
        let name = Intent::folder_name(&intent.namespace, &intent.reference);
        let lock = blobs
            .lock(&name)
            .ok_or_else(|| Error::unavailable(format!("ingest {:?} is locked: it has a writer", intent.reference)))?;
        let folder = blobs.ingests().join(name);
        let state = match shared {
            Some((pin, digest, size)) => {
                let bytes = Bytes::Shared { pin, digest, size };
                State { folder, updated_at: intent.started_at, intent, bytes, lock }
            }
            None => State::open(folder, intent, lock).context(|| "open ingest".into())?,
        };
        Ok(Self { store, lease, state: Some(state) })
    }

    /// Bytes there; the next write goes here.
    pub fn offset(&self) -> u64 {
        self.state.as_ref().map_or(0, State::offset)
    }

    /// The digest of the bytes there.
    ///
    /// # Errors
    /// [`Kind::Aborted`] after a call that was cut off.
    pub fn digest(&self) -> Result<Digest> {
        Ok(match &self.state.as_ref().ok_or_else(cut_off)?.bytes {
            Bytes::Growing { hash, .. } => Digest::from_bytes(hash.clone().finalize().into()),
            Bytes::Shared { digest, .. } => *digest,
        })
    }

    /// How far it is.
    ///
    /// # Errors
    /// [`Kind::Aborted`] after a call that was cut off.
    pub fn status(&self) -> Result<IngestStatus> {
        let state = self.state.as_ref().ok_or_else(cut_off)?;
        Ok(IngestStatus {
            reference: state.intent.reference.clone(),
            offset: state.offset(),
            total: state.intent.total,
            expected: state.intent.expected,
            started_at: state.intent.started_at,
            updated_at: state.updated_at,
        })
    }

    /// Appends; copies `bytes` to a thread that may block.
    ///
    /// # Errors
    /// [`Kind::ResourceExhausted`] for a full disk and [`Kind::FailedPrecondition`] for more bytes than were announced;
    /// the writer stays as it was before the call.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.append(bytes.to_vec()).await
    }

    /// Appends on a thread that may block, without a copy.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub async fn append(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.with_state(move |state, blobs| state.append(&bytes, blobs)).await
    }

    /// Appends from a thread that may block.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn write_blocking(&mut self, bytes: &[u8]) -> Result<()> {
        self.state.as_mut().ok_or_else(cut_off)?.append(bytes, self.store.blobs())
    }

    /// Cuts the ingest to `offset` bytes and hashes what is left.
    ///
    /// # Errors
    /// [`Kind::OutOfRange`] where there are fewer bytes.
    pub async fn truncate(&mut self, offset: u64) -> Result<()> {
        self.with_state(move |state, blobs| state.truncate(offset, blobs)).await
    }

    /// As [`Writer::truncate`], from a thread that may block.
    ///
    /// # Errors
    /// As [`Writer::truncate`].
    pub(crate) fn truncate_blocking(&mut self, offset: u64) -> Result<()> {
        self.state.as_mut().ok_or_else(cut_off)?.truncate(offset, self.store.blobs())
    }

    /// Makes it a blob of this namespace (and holds it by the lease), durably. Where the namespace knows the blob already,
    /// the labels are added to those it has.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] for another size or digest than asked. With bytes missing, the ingest is kept to be
    /// resumed; with wrong ones it is thrown away.
    pub async fn commit(self, size: Option<u64>, expected: Option<&Digest>, labels: Labels) -> Result<Digest> {
        self.finish(size, expected, labels, Existing::Label).await
    }

    /// As [`Writer::commit`], but a blob that the namespace knows already keeps its labels.
    ///
    /// # Errors
    /// As [`Writer::commit`], and [`Kind::AlreadyExists`] for such a blob; the lease holds it then, too.
    pub async fn commit_new(self, size: Option<u64>, expected: Option<&Digest>, labels: Labels) -> Result<Digest> {
        self.finish(size, expected, labels, Existing::Refuse).await
    }

    async fn finish(
        mut self,
        size: Option<u64>,
        expected: Option<&Digest>,
        labels: Labels,
        existing: Existing,
    ) -> Result<Digest> {
        let state = self.state.take().ok_or_else(cut_off)?;
        let reference = state.intent.reference.clone();
        let (blobs, expected) = (self.store.blobs().clone(), expected.copied());
        let sealed = crate::blocking(move || {
            let sealed = state.seal(&blobs, size, expected)?;
            blobs.sync(&sealed.digest)?;
            Ok(sealed)
        })
        .await?;
        self.store.record_sealed(sealed, labels, self.lease, reference, existing).await
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
        crate::blocking(move || state.discard()).await
    }

    async fn with_state(&mut self, work: impl FnOnce(&mut State, &Blobs) -> Result<()> + Send + 'static) -> Result<()> {
        let mut state = self.state.take().ok_or_else(cut_off)?;
        let blobs = self.store.blobs().clone();
        let (state, outcome) = crate::blocking(move || {
            let outcome = work(&mut state, &blobs);
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
        let found = read_intent(&folder).filter(|found| found.agrees(&intent));
        let resumes = found.is_some();
        if let Some(found) = &found {
            intent.started_at = found.started_at;
            intent.expected = intent.expected.or(found.expected);
            intent.total = intent.total.max(found.total);
            // Whoever began it without a lease counts on the time that it is kept.
            intent.leased &= found.leased;
        }
        if found.as_ref() != Some(&intent) {
            windlass_sys::fs::write_atomic(&folder.join("ref"), &serde_json::to_vec(&intent).map_err(broken)?)?;
        }
        let bytes = open_data(&folder, !resumes)?;
        let mut state = Self { folder, updated_at: intent.started_at, intent, bytes, lock };
        if let Bytes::Growing { file, .. } = &state.bytes {
            let data = file.metadata()?;
            state.updated_at = data.modified()?.into();
            let length = if state.intent.total == 0 { data.len() } else { data.len().min(state.intent.total) };
            state.cut(length)?;
        }
        Ok(state)
    }

    fn offset(&self) -> u64 {
        match &self.bytes {
            Bytes::Growing { offset, .. } => *offset,
            Bytes::Shared { size, .. } => *size,
        }
    }

    fn append(&mut self, bytes: &[u8], blobs: &Blobs) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.unshare(blobs)?;
        let Bytes::Growing { file, hash, offset } = &mut self.bytes else { return Err(cut_off()) };
        let end = *offset + bytes.len() as u64;
        if self.intent.total != 0 && end > self.intent.total {
            return Err(Error::precondition(format!(
                "ingest {:?} gets more than the {} bytes announced",
                self.intent.reference, self.intent.total
            )));
        }
        if let Err(error) = file.write_all(bytes) {
            // What was written of it goes, so that file, hash and offset agree; if that fails, the next open sees it.
            let _ = file.set_len(*offset);
            let _ = file.seek(SeekFrom::Start(*offset));
            return Err(error).context(|| format!("write ingest {:?}", self.intent.reference));
        }
        hash.update(bytes);
        *offset = end;
        self.updated_at = Timestamp::now();
        Ok(())
    }

    fn truncate(&mut self, offset: u64, blobs: &Blobs) -> Result<()> {
        if offset > self.offset() {
            let message = format!("ingest {:?} has fewer than {offset} bytes", self.intent.reference);
            return Err(Error::new(Kind::OutOfRange, message));
        }
        self.unshare(blobs)?;
        self.cut(offset)?;
        self.updated_at = Timestamp::now();
        Ok(())
    }

    fn cut(&mut self, length: u64) -> Result<()> {
        let Bytes::Growing { file, hash, offset } = &mut self.bytes else { return Err(cut_off()) };
        file.set_len(length)?;
        file.seek(SeekFrom::Start(0))?;
        *hash = hash_of(file, length)?;
        *offset = length;
        Ok(())
    }

    /// Copies the bytes of a shared blob into a folder of its own, as somebody is going to change them.
    fn unshare(&mut self, blobs: &Blobs) -> Result<()> {
        let Bytes::Shared { digest, size, .. } = &self.bytes else { return Ok(()) };
        let (digest, size) = (*digest, *size);
        fs::create_dir_all(&self.folder)?;
        let intent = serde_json::to_vec(&self.intent).map_err(broken)?;
        windlass_sys::fs::write_atomic(&self.folder.join("ref"), &intent)?;
        fs::copy(blobs.path(&digest), self.folder.join("data")).context(|| format!("copy blob {digest}"))?;
        self.bytes = open_data(&self.folder, false)?;
        self.cut(size)
    }

    /// Verifies, and moves the bytes to the blobs.
    fn seal(self, blobs: &Blobs, size: Option<u64>, expected: Option<Digest>) -> Result<Sealed> {
        let (offset, reference) = (self.offset(), self.intent.reference.clone());
        let size = size.or((self.intent.total != 0).then_some(self.intent.total));
        if let Some(size) = size.filter(|size| *size != offset) {
            if offset > size {
                self.discard()?;
            }
            return Err(Error::precondition(format!("ingest {reference:?} has {offset} bytes, expected are {size}")));
        }
        let digest = match &self.bytes {
            Bytes::Growing { hash, .. } => Digest::from_bytes(hash.clone().finalize().into()),
            Bytes::Shared { digest, .. } => *digest,
        };
        if let Some(expected) = expected.or(self.intent.expected).filter(|expected| *expected != digest) {
            self.discard()?;
            return Err(Error::precondition(format!("ingest {reference:?} is {digest}, expected is {expected}")));
        }
        let Self { folder, intent, bytes, lock, .. } = self;
        let pin = match bytes {
            Bytes::Growing { .. } => blobs.install(&folder.join("data"), &digest)?,
            Bytes::Shared { pin, .. } => pin,
        };
        if let Err(error) = remove_folder(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "the folder of a finished ingest stays until the next start");
        }
        drop(lock);
        Ok(Sealed { namespace: intent.namespace, digest, size: offset, _pin: pin })
    }

    fn discard(self) -> Result<()> {
        Ok(remove_folder(&self.folder)?)
    }
}

/// Opens the bytes of an ingest at their start.
fn open_data(folder: &Path, anew: bool) -> Result<Bytes> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(anew).open(folder.join("data"))?;
    Ok(Bytes::Growing { file, hash: Sha256::new(), offset: 0 })
}

/// Removes the folder of an ingest; a shared one may have none.
pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
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
    Ok(look(folder)?.map(|(intent, status)| (intent.namespace, status)))
}

fn look(folder: &Path) -> Result<Option<(Intent, IngestStatus)>> {
    let Some(intent) = read_intent(folder) else { return Ok(None) };
    let data = match fs::metadata(folder.join("data")) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let status = IngestStatus {
        reference: intent.reference.clone(),
        offset: data.len(),
        total: intent.total,
        expected: intent.expected,
        started_at: intent.started_at,
        updated_at: data.modified()?.into(),
    };
    Ok(Some((intent, status)))
}

/// Removes ingests that are broken, those whose lease has ended, and those without one that nobody touched for [`EXPIRY`];
/// gives how many. Blocks.
pub(crate) fn expire(blobs: &Blobs) -> Result<usize> {
    let oldest = Timestamp::now().nanos().saturating_sub(EXPIRY.as_nanos() as i64);
    let mut removed = 0;
    for entry in fs::read_dir(blobs.ingests())? {
        let entry = entry?;
        // Whoever holds the lock keeps the ingest.
        let Some(_lock) = entry.file_name().to_str().and_then(|name| blobs.lock(name)) else { continue };
        let keep = match look(&entry.path())? {
            // The lease is recorded before the folder is made, so looking now, under the lock, misses none.
            Some((intent, status)) if intent.leased => {
                leases::is_held(&blobs.view(), &intent.namespace, &Resource::ingest(&status.reference))?
            }
            Some((_, status)) => status.updated_at.nanos() >= oldest,
            None => false,
        };
        if !keep {
            tracing::info!(folder = %entry.path().display(), "removing an abandoned ingest");
            remove_folder(&entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}
