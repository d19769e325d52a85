//! Content: verified blobs by digest, shared by all namespaces, known to each by record.

mod blobs;
mod ingest;
mod store;

pub(crate) use blobs::Blobs;
pub use ingest::{IngestStatus, Writer};
pub use store::{BlobRecord, Info, Store};
pub(crate) use blobs::Sealed;
pub(crate) use store::{adopt, record};
