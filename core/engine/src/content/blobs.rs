//! Blob files.
use windlass_model::Digest;
pub(crate) struct Blobs;
/// A blob that is verified and stands among the blob files, but is neither recorded nor synced. Record it with
/// [`super::record`] after a sync; dropped without a record, its file goes away.
pub(crate) struct Sealed { pub(crate) digest: Digest, pub(crate) size: u64 }
