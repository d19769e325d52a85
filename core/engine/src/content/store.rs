//! What one namespace knows of the blobs.
use std::fs::File;
use serde::{Deserialize, Serialize};
use windlass_model::{Descriptor, Digest, Error, Id, Namespace, Result, Timestamp, snapshotter::Labels};
use super::{IngestStatus, Sealed, Writer};
use crate::Tenant;
use crate::events::Events;
use crate::meta::Tx;

/// What is stored of a blob in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// How many bytes.
    pub size: u64,
    /// Labels of the client.
    #[serde(default)]
    pub labels: Labels,
    /// When it was recorded.
    #[serde(default)]
    pub created_at: Timestamp,
    /// When its labels last changed.
    #[serde(default)]
    pub updated_at: Timestamp,
}

/// A blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its digest.
    pub digest: Digest,
    /// How many bytes.
    pub size: u64,
    /// Labels of the client.
    pub labels: Labels,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When its labels last changed.
    pub updated_at: Timestamp,
}

/// The blobs of one namespace.
#[derive(Clone)]
pub struct Store { tenant: Tenant }

impl Store {
    pub(crate) fn new(tenant: Tenant) -> Self { Self { tenant } }
    pub async fn info(&self, digest: &Digest) -> Result<Info> { let _ = (digest, &self.tenant); Err(Error::unimplemented("info")) }
    pub async fn list(&self) -> Result<Vec<Info>> { Err(Error::unimplemented("list")) }
    /// All bytes, verified; more than `max` is refused (ResourceExhausted).
    pub async fn read(&self, digest: &Digest, max: u64) -> Result<Vec<u8>> { let _ = (digest, max); Err(Error::unimplemented("read")) }
    /// The open file and its size.
    pub async fn open(&self, digest: &Digest) -> Result<(File, u64)> { let _ = digest; Err(Error::unimplemented("open")) }
    pub async fn update_labels(&self, digest: &Digest, change: impl FnOnce(&mut Labels) + Send + 'static) -> Result<Info> { let _ = (digest, change); Err(Error::unimplemented("update_labels")) }
    pub async fn delete(&self, digest: &Digest) -> Result<()> { let _ = digest; Err(Error::unimplemented("delete")) }
    /// Knows a blob that another namespace has. NotFound where nobody has it.
    pub async fn adopt(&self, expected: &Descriptor, lease: Option<&Id>) -> Result<Info> { let _ = (expected, lease); Err(Error::unimplemented("adopt")) }
    pub async fn ingest(&self, reference: &str, expected: Option<&Descriptor>, lease: Option<&Id>) -> Result<Writer> { let _ = (reference, expected, lease); Err(Error::unimplemented("ingest")) }
    pub async fn statuses(&self) -> Result<Vec<IngestStatus>> { Err(Error::unimplemented("statuses")) }
    pub async fn status(&self, reference: &str) -> Result<IngestStatus> { let _ = reference; Err(Error::unimplemented("status")) }
    pub async fn abort(&self, reference: &str) -> Result<()> { let _ = reference; Err(Error::unimplemented("abort")) }
}

/// Inside a larger batch: records a sealed blob in its namespace, after its bytes were synced. Known already, its labels
/// are added. The `Sealed` must live until the batch is written.
pub(crate) fn record(tx: &mut Tx<'_>, events: &Events, sealed: &Sealed, labels: Labels) -> Result<()> { let _ = (tx, events, sealed.size, sealed.digest, labels); Err(Error::unimplemented("record")) }
/// Inside a larger batch: makes a blob that another namespace has known to `namespace`; true where it now is known.
pub(crate) fn adopt(tx: &mut Tx<'_>, events: &Events, namespace: &Namespace, digest: &Digest, labels: Labels) -> Result<bool> { let _ = (tx, events, namespace, digest, labels); Err(Error::unimplemented("adopt")) }
