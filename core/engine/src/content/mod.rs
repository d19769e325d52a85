//! Content: verified blobs by digest, shared by all namespaces, known to each by record.

mod blobs;
mod ingest;
mod store;

pub(crate) use blobs::{Blobs, Sealed};
pub(crate) use ingest::expire;
pub use ingest::{IngestStatus, Writer};
pub use store::{BlobRecord, Info, Store, WriteRequest};
#[allow(unused_imports, reason = "the pieces of a pull's one batch")]
pub(crate) use store::{adopt, record, remove};
