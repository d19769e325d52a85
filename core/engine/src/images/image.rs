//! Image records and what their manifests say.
use std::sync::Arc;
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use windlass_model::{Descriptor, Digest, Error, Namespace, Result, Timestamp, snapshotter::Labels};
use crate::Tenant;
use crate::events::Events;
use crate::meta::Tx;

/// A name and what it points at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The name, unique in its namespace.
    pub name: String,
    /// A manifest or an index.
    pub target: Descriptor,
    /// Labels of the client.
    #[serde(default)]
    pub labels: Labels,
    /// When it was recorded.
    #[serde(default)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Timestamp,
}

/// What an image is for this machine's platform.
#[derive(Clone, Debug)]
pub struct ImageDetail {
    /// The digest of the configuration: the image's id.
    pub id: Digest,
    /// The manifest.
    pub manifest: Descriptor,
    /// The configuration.
    pub config: ImageConfiguration,
    /// The layers as blobs, lowest first.
    pub layers: Vec<Descriptor>,
    /// The layers' uncompressed digests, lowest first.
    pub diff_ids: Vec<Digest>,
    /// The name of the snapshot that holds all layers; `None` without layers.
    pub chain_id: Option<Digest>,
    /// Bytes of manifest, configuration and layers, compressed.
    pub size: u64,
}

/// Details read so far.
pub(crate) struct Details;

/// The images of one namespace.
#[derive(Clone)]
pub struct Images { pub(crate) tenant: Tenant }

impl Images {
    pub(crate) fn new(tenant: Tenant) -> Self { Self { tenant } }
    pub async fn get(&self, name: &str) -> Result<ImageRecord> { let _ = name; Err(Error::unimplemented("get")) }
    pub async fn list(&self) -> Result<Vec<ImageRecord>> { Err(Error::unimplemented("list")) }
    pub async fn create(&self, record: ImageRecord) -> Result<ImageRecord> { let _ = record; Err(Error::unimplemented("create")) }
    pub async fn update(&self, name: &str, change: impl FnOnce(&mut ImageRecord) -> Result<()> + Send + 'static) -> Result<ImageRecord> { let _ = (name, change); Err(Error::unimplemented("update")) }
    /// Creates or replaces.
    pub async fn put(&self, record: ImageRecord) -> Result<ImageRecord> { let _ = record; Err(Error::unimplemented("put")) }
    pub async fn delete(&self, name: &str) -> Result<()> { let _ = name; Err(Error::unimplemented("delete")) }
    pub async fn describe(&self, record: &ImageRecord) -> Result<Arc<ImageDetail>> { let _ = record; Err(Error::unimplemented("describe")) }
}

/// Inside a larger batch: creates or replaces an image record; `created_at` of an existing one stays.
pub(crate) fn put(tx: &mut Tx<'_>, events: &Events, namespace: &Namespace, record: ImageRecord) -> Result<ImageRecord> { let _ = (tx, events, namespace, &record); Err(Error::unimplemented("put")) }
