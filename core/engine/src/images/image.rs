//! Image records, and what their manifests say.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use oci_spec::image::ImageConfiguration;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use windlass_model::digest::chain_ids;
use windlass_model::event::Event;
use windlass_model::snapshotter::Labels;
use windlass_model::{Context, Descriptor, Digest, Error, Kind, LeaseId, Namespace, Platform, Result, Timestamp};

use super::artifact;
use super::manifest::{Document, MAX_CONFIG, MAX_MANIFEST, Manifest, choose};
use crate::events::Events;
use crate::leases::{self, Resource};
use crate::meta::schema::IMAGES;
use crate::meta::{Durability, Reader, Tx};
use crate::records::check_labels;
use crate::{Tenant, namespaces};

/// How many details are remembered before all are forgotten and read again.
const REMEMBERED: usize = 256;
/// How many indexes may point at each other before a manifest comes.
const MAX_DEPTH: usize = 4;

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
    /// The image's id: the digest of its configuration; for an artifact, whose configuration says nothing, the digest of
    /// its manifest.
    pub id: Digest,
    /// The manifest.
    pub manifest: Descriptor,
    /// The configuration; an empty one for an artifact.
    pub config: ImageConfiguration,
    /// The layers as blobs, lowest first; the files of an artifact.
    pub layers: Vec<Descriptor>,
    /// The layers' uncompressed digests, lowest first; none for an artifact.
    pub diff_ids: Vec<Digest>,
    /// The name of the snapshot that holds all layers; `None` without layers.
    pub chain_id: Option<Digest>,
    /// Bytes of manifest, configuration and layers, compressed.
    pub size: u64,
    /// What an artifact calls itself; `None` for an image. An artifact cannot be run, only mounted.
    pub artifact_type: Option<String>,
    /// The annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// Details read so far, by the digest that the record points at. They never change; they are only forgotten.
#[derive(Default)]
pub(crate) struct Details(Mutex<HashMap<Digest, Arc<ImageDetail>>>);

/// The images of one namespace.
#[derive(Clone)]
pub struct Images {
    pub(crate) tenant: Tenant,
    lease: Option<LeaseId>,
}

impl ImageRecord {
    /// A record without labels.
    pub fn new(name: impl Into<String>, target: Descriptor) -> Self {
        let never = Timestamp::default();
        Self { name: name.into(), target, labels: Labels::new(), created_at: never, updated_at: never }
    }
}

impl ImageDetail {
    /// What manifest and configuration say together.
    ///
    /// # Errors
    /// [`Kind::DataLoss`] where they contradict each other or are not what they should be.
    pub(crate) fn new(descriptor: Descriptor, manifest: Manifest, config: &[u8]) -> Result<Self> {
        let sizes = manifest.layers.iter().map(|layer| layer.size);
        let size = sizes.fold(descriptor.size.saturating_add(manifest.config.size), u64::saturating_add);
        if manifest.artifact_type.is_some() {
            artifact::files(&manifest.layers)?;
            return Ok(Self {
                id: descriptor.digest,
                chain_id: Some(artifact::snapshot_name(&descriptor.digest)),
                manifest: descriptor,
                config: ImageConfiguration::default(),
                layers: manifest.layers,
                diff_ids: Vec::new(),
                size,
                artifact_type: manifest.artifact_type,
                annotations: manifest.annotations,
            });
        }
        let parsed: ImageConfiguration = serde_json::from_slice(config)
            .map_err(|error| Error::with_source(Kind::DataLoss, "an image configuration cannot be parsed", error))?;
        let diff_ids = parsed.rootfs().diff_ids().iter().map(|text| text.parse()).collect::<Result<Vec<Digest>>>();
        let diff_ids = diff_ids.map_err(|error| Error::with_source(Kind::DataLoss, "an image configuration", error))?;
        if diff_ids.len() != manifest.layers.len() {
            let (layers, ids) = (manifest.layers.len(), diff_ids.len());
            return Err(Error::data_loss(format!("an image has {layers} layers, its configuration names {ids}")));
        }
        Ok(Self {
            id: manifest.config.digest,
            manifest: descriptor,
            config: parsed,
            layers: manifest.layers,
            chain_id: chain_ids(&diff_ids).last().copied(),
            diff_ids,
            size,
            artifact_type: None,
            annotations: manifest.annotations,
        })
    }

    /// The names of the snapshots that hold it, lowest first: one for each layer, one for all of an artifact.
    pub(crate) fn chain(&self) -> Vec<Digest> {
        match self.artifact_type {
            Some(_) => self.chain_id.into_iter().collect(),
            None => chain_ids(&self.diff_ids),
        }
    }
}

impl Details {
    pub(crate) fn get(&self, target: &Digest) -> Option<Arc<ImageDetail>> {
        self.0.lock().get(target).cloned()
    }

    /// Remembers the detail of the image that `target` (manifest or index) is on this machine.
    pub(crate) fn put(&self, target: Digest, detail: Arc<ImageDetail>) {
        let mut remembered = self.0.lock();
        if remembered.len() >= REMEMBERED {
            remembered.clear();
        }
        remembered.insert(target, detail);
    }

    fn forget(&self, target: &Digest) {
        self.0.lock().remove(target);
    }
}

impl Images {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self { tenant, lease: None }
    }

    /// The same images; what is written from now on is held by `lease`. Only one that [expires](leases::EXPIRE) needs that.
    pub fn under(self, lease: Option<LeaseId>) -> Self {
        Self { lease, ..self }
    }

    fn key(&self, name: &str) -> (Namespace, String) {
        (self.tenant.namespace().clone(), name.to_owned())
    }

    /// The record.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn get(&self, name: &str) -> Result<ImageRecord> {
        self.tenant.core.0.db.view().find(&IMAGES, &self.key(name))?.ok_or_else(|| missing(name))
    }

    /// All records, in the order of their names.
    pub async fn list(&self) -> Result<Vec<ImageRecord>> {
        let found = self.tenant.core.0.db.view().scan(&IMAGES, self.tenant.namespace())?;
        Ok(found.into_iter().map(|(_, record)| record).collect())
    }

    /// Keeps a new record; both of its times become now.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`]; [`Kind::InvalidArgument`] for an empty name or labels that are too long;
    /// [`Kind::NotFound`] without the lease.
    pub async fn create(&self, record: ImageRecord) -> Result<ImageRecord> {
        check(&record)?;
        let (key, events, lease) = (self.key(&record.name), self.tenant.events().clone(), self.lease.clone());
        let change = move |tx: &mut Tx<'_>| {
            if tx.has(&IMAGES, &key)? {
                return Err(Error::already_exists(format!("image {:?} exists already", key.1)));
            }
            hold(tx, &key.0, &record, lease.as_ref())?;
            put(tx, &events, &key.0, record)
        };
        self.tenant.update(Durability::Power, change).await
    }

    /// Changes a record by `change`, alone among all writers; its name and time of creation stay.
    ///
    /// # Errors
    /// [`Kind::NotFound`], and whatever `change` answers, in which case nothing changes.
    pub async fn update(
        &self,
        name: &str,
        change: impl FnOnce(&mut ImageRecord) -> Result<()> + Send + 'static,
    ) -> Result<ImageRecord> {
        let (key, events, lease) = (self.key(name), self.tenant.events().clone(), self.lease.clone());
        let change = move |tx: &mut Tx<'_>| {
            let mut record = tx.find(&IMAGES, &key)?.ok_or_else(|| missing(&key.1))?;
            change(&mut record)?;
            if record.name != key.1 {
                return Err(Error::invalid(format!("image {:?} cannot change its name", key.1)));
            }
            check(&record)?;
            hold(tx, &key.0, &record, lease.as_ref())?;
            put(tx, &events, &key.0, record)
        };
        let record = self.tenant.update(Durability::Power, change).await?;
        self.tenant.core.0.collector.nudge();
        Ok(record)
    }

    /// Creates or replaces a record; the time of creation of an existing one stays.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for an empty name or labels that are too long.
    pub async fn put(&self, record: ImageRecord) -> Result<ImageRecord> {
        check(&record)?;
        let (namespace, events) = (self.tenant.namespace().clone(), self.tenant.events().clone());
        let change = move |tx: &mut Tx<'_>| put(tx, &events, &namespace, record);
        let record = self.tenant.update(Durability::Power, change).await?;
        self.tenant.core.0.collector.nudge();
        Ok(record)
    }

    /// Forgets a name. What only it referred to goes with the next collection, which is started.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn delete(&self, name: &str) -> Result<()> {
        self.delete_if(name, None).await
    }

    /// As [`Images::delete`], only if the name points at `target`, where that is given.
    ///
    /// # Errors
    /// [`Kind::NotFound`], also for a name that points elsewhere.
    pub async fn delete_if(&self, name: &str, target: Option<Digest>) -> Result<()> {
        let (key, events, lease) = (self.key(name), self.tenant.events().clone(), self.lease.clone());
        let change = move |tx: &mut Tx<'_>| {
            let record = tx.find(&IMAGES, &key)?.ok_or_else(|| missing(&key.1))?;
            let found = record.target.digest;
            if let Some(wanted) = target.filter(|wanted| *wanted != found) {
                return Err(Error::not_found(format!("image {:?} points at {found}, not at {wanted}", key.1)));
            }
            if let Some(lease) = &lease {
                leases::remove(tx, &key.0, lease, &Resource::image(&key.1));
            }
            remove(tx, &events, &key);
            Ok(record)
        };
        let record = self.tenant.update(Durability::Power, change).await?;
        self.tenant.core.0.details.forget(&record.target.digest);
        self.tenant.core.0.collector.nudge();
        Ok(())
    }

    /// What the image is on this machine: reads manifest and configuration once, then remembers them.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where a blob is missing or no entry of the index fits this machine; [`Kind::DataLoss`] where
    /// manifest or configuration are not what they should be.
    pub async fn describe(&self, record: &ImageRecord) -> Result<Arc<ImageDetail>> {
        let (content, details) = (self.tenant.content(), &self.tenant.core.0.details);
        // Remembered details are another namespace's, too; only who knows the blob may see them.
        content.info(&record.target.digest).await.context(|| format!("describe image {:?}", record.name))?;
        if let Some(detail) = details.get(&record.target.digest) {
            return Ok(detail);
        }
        let detail = self.read(&record.target).await.context(|| format!("describe image {:?}", record.name))?;
        let detail = Arc::new(detail);
        details.put(record.target.digest, detail.clone());
        Ok(detail)
    }

    async fn read(&self, target: &Descriptor) -> Result<ImageDetail> {
        let (content, platform) = (self.tenant.content(), Platform::host());
        let mut descriptor = target.clone();
        for _ in 0..MAX_DEPTH {
            let bytes = content.read(&descriptor.digest, MAX_MANIFEST).await?;
            match Document::parse(&bytes, &descriptor.media_type)? {
                Document::Index(entries) => descriptor = choose(&entries, &platform)?.clone(),
                Document::Manifest(manifest) => {
                    let config = content.read(&manifest.config.digest, MAX_CONFIG).await?;
                    return ImageDetail::new(descriptor, *manifest, &config);
                }
            }
        }
        Err(Error::data_loss(format!("{} leads through more than {MAX_DEPTH} indexes", target.digest)))
    }
}

fn missing(name: &str) -> Error {
    Error::not_found(format!("image {name:?} does not exist"))
}

fn check(record: &ImageRecord) -> Result<()> {
    if record.name.is_empty() {
        return Err(Error::invalid("an image needs a name"));
    }
    check_labels(&record.labels)
}

/// Lets the lease hold an image that would otherwise go when it expires.
fn hold(tx: &mut Tx<'_>, namespace: &Namespace, record: &ImageRecord, lease: Option<&LeaseId>) -> Result<()> {
    match lease.filter(|_| record.labels.contains_key(leases::EXPIRE)) {
        Some(lease) => leases::add(tx, namespace, lease, &Resource::image(&record.name)),
        None => Ok(()),
    }
}

/// Inside a larger batch: forgets a name.
pub(crate) fn remove(tx: &mut Tx<'_>, events: &Events, key: &(Namespace, String)) {
    tx.delete(&IMAGES, key);
    events.after_commit(tx, &key.0, Event::ImageDelete { name: key.1.clone() });
}

/// Inside a larger batch: creates or replaces an image record; the time of creation of an existing one stays.
pub(crate) fn put(
    tx: &mut Tx<'_>,
    events: &Events,
    namespace: &Namespace,
    mut record: ImageRecord,
) -> Result<ImageRecord> {
    check(&record)?;
    namespaces::ensure(tx, events, namespace)?;
    let key = (namespace.clone(), record.name.clone());
    let found = tx.find(&IMAGES, &key)?;
    let now = Timestamp::now();
    record.created_at = found.as_ref().map_or(now, |found| found.created_at);
    record.updated_at = now;
    tx.put(&IMAGES, &key, &record)?;
    let (name, labels) = (key.1, record.labels.clone());
    let told = if found.is_some() { Event::ImageUpdate { name, labels } } else { Event::ImageCreate { name, labels } };
    events.after_commit(tx, namespace, told);
    Ok(record)
}

#[cfg(test)]
mod tests;
