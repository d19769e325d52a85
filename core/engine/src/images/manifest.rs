//! Manifests and indexes.
use windlass_model::{Descriptor, Error, Platform, Result};

/// The largest manifest or index that is read, in bytes.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// The largest image configuration that is read, in bytes.
pub const MAX_CONFIG: u64 = 4 << 20;

/// A parsed manifest or index (OCI or Docker schema 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document { 
    /// One image.
    Manifest(Manifest), 
    /// One image for each platform.
    Index(Vec<Descriptor>) 
}
/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest { pub config: Descriptor, pub layers: Vec<Descriptor> }
impl Document {
    /// Parses and checks; DataLoss... `media_type` as the descriptor or the registry says, may be empty.
    pub fn parse(bytes: &[u8], media_type: &str) -> Result<Self> { let _ = (bytes, media_type); Err(Error::unimplemented("parse")) }
}
/// The entry of an index for `platform`: exact variant before any variant, NotFound where there is none.
pub fn choose<'a>(entries: &'a [Descriptor], platform: &Platform) -> Result<&'a Descriptor> { let _ = (entries, platform); Err(Error::unimplemented("choose")) }
