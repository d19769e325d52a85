//! Blobs on the way.
use windlass_model::{Digest, Error, Result, Timestamp, snapshotter::Labels};
use super::Sealed;

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
pub struct Writer { offset: u64 }

impl Writer {
    /// Bytes there.
    pub fn offset(&self) -> u64 { self.offset }
    /// Appends (copies `bytes` to a blocking thread).
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> { let _ = bytes; Err(Error::unimplemented("write")) }
    /// Appends from a thread that may block.
    pub fn write_blocking(&mut self, bytes: &[u8]) -> Result<()> { let _ = bytes; Err(Error::unimplemented("write")) }
    /// Cuts the ingest to `offset` bytes and hashes what is left.
    pub async fn truncate(&mut self, offset: u64) -> Result<()> { let _ = offset; Err(Error::unimplemented("truncate")) }
    /// Makes it a blob of this namespace, durably.
    pub async fn commit(self, size: Option<u64>, expected: Option<&Digest>, labels: Labels) -> Result<Digest> { let _ = (size, expected, labels); Err(Error::unimplemented("commit")) }
    /// Makes it a blob file, verified, neither synced nor recorded.
    pub(crate) async fn seal(self, size: u64, digest: &Digest) -> Result<Sealed> { let _ = (size, digest); Err(Error::unimplemented("seal")) }
    /// Throws the ingest away.
    pub async fn abort(self) -> Result<()> { Err(Error::unimplemented("abort")) }
}
