//! What one namespace knows of the blobs.

use std::fs::{self, File};
use std::io::Read;

use serde::{Deserialize, Serialize};
use windlass_model::event::Event;
use windlass_model::snapshotter::Labels;
use windlass_model::{Context, Descriptor, Digest, Error, Kind, LeaseId, Namespace, Result, Timestamp};

use super::blobs::{Blobs, Sealed};
use super::ingest::{self, IngestStatus, Intent, Writer};
use crate::events::Events;
use crate::leases::{self, Resource};
use crate::meta::schema::{BLOBS, NAMESPACES};
use crate::meta::{Durability, Reader, Tx};
use crate::records::check_labels;
use crate::{Tenant, namespaces};

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

/// How a blob is going to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteRequest {
    /// The name under which it is written and resumed.
    pub reference: String,
    /// Bytes there will be, 0 where nobody knows.
    pub total: u64,
    /// The digest it is to have, where somebody knows.
    pub expected: Option<Digest>,
    /// What holds it, from now on and when it is a blob.
    pub lease: Option<LeaseId>,
}

/// What becomes of a commit whose blob the namespace knows already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// Its labels are added.
    Label,
    /// It is refused.
    Refuse,
}

/// The blobs of one namespace.
#[derive(Clone)]
pub struct Store {
    tenant: Tenant,
}

impl Info {
    fn new(digest: Digest, record: BlobRecord) -> Self {
        let BlobRecord { size, labels, created_at, updated_at } = record;
        Self { digest, size, labels, created_at, updated_at }
    }
}

impl Store {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self { tenant }
    }

    pub(super) fn blobs(&self) -> &Blobs {
        &self.tenant.core.0.blobs
    }

    fn key(&self, digest: &Digest) -> (Namespace, Digest) {
        (self.tenant.namespace().clone(), *digest)
    }

    /// What is known of a blob.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where this namespace does not know it.
    pub async fn info(&self, digest: &Digest) -> Result<Info> {
        let record = self.tenant.core.0.db.view().find(&BLOBS, &self.key(digest))?;
        Ok(Info::new(*digest, record.ok_or_else(|| missing(digest))?))
    }

    /// All blobs, in the order of their digests.
    pub async fn list(&self) -> Result<Vec<Info>> {
        let found = self.tenant.core.0.db.view().scan(&BLOBS, self.tenant.namespace())?;
        Ok(found.into_iter().map(|((_, digest), record)| Info::new(digest, record)).collect())
    }

    /// All bytes of a blob, verified once more.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::ResourceExhausted`] for more than `max` bytes; [`Kind::DataLoss`] where the bytes on disk
    /// are not those of the digest.
    pub async fn read(&self, digest: &Digest, max: u64) -> Result<Vec<u8>> {
        let size = self.info(digest).await?.size;
        if size > max {
            let message = format!("blob {digest} has {size} bytes, at most {max} are read");
            return Err(Error::new(Kind::ResourceExhausted, message));
        }
        let (blobs, digest) = (self.blobs().clone(), *digest);
        crate::blocking(move || {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            let file = blobs.open_file(&digest, size)?;
            file.take(max).read_to_end(&mut bytes).context(|| format!("read blob {digest}"))?;
            if Digest::of(&bytes) != digest {
                return Err(Error::data_loss(format!("blob {digest} is damaged on disk")));
            }
            Ok(bytes)
        })
        .await
    }

    /// As [`Store::read`], also of a blob that only other namespaces know, for who was told its digest by somebody who may
    /// tell. No record is made.
    ///
    /// # Errors
    /// As [`Store::read`]; [`Kind::NotFound`] for another namespace's blob where this tenant is isolated.
    pub(crate) async fn read_shared(&self, descriptor: &Descriptor, max: u64) -> Result<Vec<u8>> {
        match self.read(&descriptor.digest, max).await {
            Err(error) if error.is_not_found() && !self.tenant.is_isolated() && descriptor.size <= max => {}
            read => return read,
        }
        let (blobs, digest, size) = (self.blobs().clone(), descriptor.digest, descriptor.size);
        crate::blocking(move || {
            if !blobs.path(&digest).try_exists()? {
                return Err(missing(&digest));
            }
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            blobs.open_file(&digest, size)?.take(max).read_to_end(&mut bytes)?;
            if Digest::of(&bytes) == digest {
                Ok(bytes)
            } else {
                Err(Error::data_loss(format!("blob {digest} is damaged")))
            }
        })
        .await
    }

    /// The open file of a blob, at its start, and its size. It can be read to its end even if the blob is deleted.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::DataLoss`] where the file is gone or has another size.
    pub async fn open(&self, digest: &Digest) -> Result<(File, u64)> {
        let size = self.info(digest).await?.size;
        let (blobs, digest) = (self.blobs().clone(), *digest);
        crate::blocking(move || Ok((blobs.open_file(&digest, size)?, size))).await
    }

    /// Changes the labels of a blob by `change`, alone among all writers.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::InvalidArgument`] for labels that are too long.
    pub async fn update_labels(
        &self,
        digest: &Digest,
        change: impl FnOnce(&mut Labels) + Send + 'static,
    ) -> Result<Info> {
        let key = self.key(digest);
        let change = move |tx: &mut Tx<'_>| {
            let mut record = tx.find(&BLOBS, &key)?.ok_or_else(|| missing(&key.1))?;
            change(&mut record.labels);
            check_labels(&record.labels)?;
            record.updated_at = Timestamp::now();
            tx.put(&BLOBS, &key, &record)?;
            Ok(Info::new(key.1, record))
        };
        self.tenant.update(Durability::Power, change).await
    }

    /// Forgets a blob in this namespace, whatever refers to it; its file goes when no namespace knows it.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn delete(&self, digest: &Digest) -> Result<()> {
        let (key, events) = (self.key(digest), self.tenant.events().clone());
        let change = move |tx: &mut Tx<'_>| {
            if !tx.has(&BLOBS, &key)? {
                return Err(missing(&key.1));
            }
            remove(tx, &events, &key);
            Ok(())
        };
        self.tenant.update(Durability::Power, change).await?;
        let (blobs, digest) = (self.blobs().clone(), *digest);
        crate::blocking(move || {
            blobs.remove_unneeded(&digest);
            Ok(())
        })
        .await
    }

    /// Makes a blob that another namespace has known to this one, without a byte copied, and holds it by `lease`.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where no namespace has it; [`Kind::FailedPrecondition`] where its size is not the expected one.
    pub async fn adopt(&self, expected: &Descriptor, lease: Option<&LeaseId>) -> Result<Info> {
        let (key, events) = (self.key(&expected.digest), self.tenant.events().clone());
        let (size, lease, isolated) = (expected.size, lease.cloned(), self.tenant.is_isolated());
        let change = move |tx: &mut Tx<'_>| {
            let record =
                adopt(tx, &events, (&key.0, isolated), &key.1, Labels::new())?.ok_or_else(|| missing(&key.1))?;
            if record.size != size {
                let found = record.size;
                return Err(Error::precondition(format!("blob {} has {found} bytes, expected are {size}", key.1)));
            }
            hold(tx, &key, lease.as_ref())?;
            Ok(Info::new(key.1, record))
        };
        self.tenant.update(Durability::Power, change).await
    }

    /// Begins or resumes writing a blob under a name of the caller's choice. With `expected`, size and digest are checked
    /// at the commit and the size already while bytes come.
    ///
    /// # Errors
    /// [`Kind::AlreadyExists`] where this namespace knows the expected blob (`lease` holds it then);
    /// [`Kind::Unavailable`] where the reference has a writer; [`Kind::NotFound`] without the lease.
    pub async fn ingest(
        &self,
        reference: &str,
        expected: Option<&Descriptor>,
        lease: Option<&LeaseId>,
    ) -> Result<Writer> {
        if reference.is_empty() {
            return Err(Error::invalid("an ingest needs a reference"));
        }
        self.require_lease(lease)?;
        if let Some(expected) = expected
            && self.hold_existing(&expected.digest, lease).await?
        {
            return Err(exists(&expected.digest));
        }
        let intent = Intent {
            namespace: self.tenant.namespace().clone(),
            reference: reference.to_owned(),
            total: expected.map_or(0, |expected| expected.size),
            expected: expected.map(|expected| expected.digest),
            started_at: Timestamp::now(),
            leased: false,
        };
        let (store, lease) = (self.clone(), lease.cloned());
        crate::blocking(move || {
            let blobs = store.blobs().clone();
            Writer::open(store, &blobs, intent, lease, None)
        })
        .await
    }

    /// As [`Store::ingest`], with what clients of the API may leave open. A blob that another namespace has comes without
    /// a byte sent, unless the tenant is isolated: its writer is complete. The lease holds the ingest, too, until that is committed or aborted.
    ///
    /// # Errors
    /// As [`Store::ingest`].
    pub async fn writer(&self, request: WriteRequest) -> Result<Writer> {
        let WriteRequest { reference, mut total, expected, lease } = request;
        if reference.is_empty() {
            return Err(Error::invalid("an ingest needs a reference"));
        }
        self.require_lease(lease.as_ref())?;
        if let Some(expected) = &expected
            && self.hold_existing(expected, lease.as_ref()).await?
        {
            return Err(exists(expected));
        }
        let namespace = self.tenant.namespace().clone();
        if let Some(lease) = lease.clone() {
            let (namespace, resource) = (namespace.clone(), Resource::ingest(&reference));
            let change = move |tx: &mut Tx<'_>| leases::add(tx, &namespace, &lease, &resource);
            // As lasting as the ingest, which is not synced either.
            self.tenant.update(Durability::Crash, change).await?;
        }
        let store = self.clone();
        crate::blocking(move || {
            let blobs = store.blobs().clone();
            let shared = match expected.filter(|_| !store.tenant.is_isolated()) {
                Some(digest) => blobs.pin(&digest)?.map(|(pin, size)| (pin, digest, size)),
                None => None,
            };
            let shared = shared.filter(|(_, _, size)| total == 0 || total == *size);
            total = shared.as_ref().map_or(total, |(_, _, size)| *size);
            let leased = lease.is_some();
            let intent = Intent { namespace, reference, total, expected, started_at: Timestamp::now(), leased };
            Writer::open(store, &blobs, intent, lease, shared)
        })
        .await
    }

    fn require_lease(&self, lease: Option<&LeaseId>) -> Result<()> {
        let Some(lease) = lease else { return Ok(()) };
        leases::require(&self.tenant.core.0.db.view(), self.tenant.namespace(), lease)
    }

    /// True where this namespace knows the blob; then `lease` holds it.
    async fn hold_existing(&self, digest: &Digest, lease: Option<&LeaseId>) -> Result<bool> {
        let (db, key) = (&self.tenant.core.0.db, self.key(digest));
        let exists = db.view().has(&BLOBS, &key)?;
        let Some(lease) = lease.filter(|_| exists).cloned() else { return Ok(exists) };
        // Looked at once more: the collector may have taken it meanwhile.
        self.tenant
            .update(Durability::Power, move |tx| {
                let exists = tx.has(&BLOBS, &key)?;
                if exists {
                    hold(tx, &key, Some(&lease))?;
                }
                Ok(exists)
            })
            .await
    }

    /// How far the ingests of this namespace are, in no order.
    pub async fn statuses(&self) -> Result<Vec<IngestStatus>> {
        let (blobs, namespace) = (self.blobs().clone(), self.tenant.namespace().clone());
        crate::blocking(move || {
            let mut found = Vec::new();
            for entry in fs::read_dir(blobs.ingests())? {
                found.extend(ingest::status(&entry?.path())?.filter(|(owner, _)| *owner == namespace));
            }
            Ok(found.into_iter().map(|(_, status)| status).collect())
        })
        .await
    }

    /// How far an ingest is.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn status(&self, reference: &str) -> Result<IngestStatus> {
        let folder = self.blobs().ingests().join(Intent::folder_name(self.tenant.namespace(), reference));
        let status = crate::blocking(move || ingest::status(&folder)).await?;
        status.map(|(_, status)| status).ok_or_else(|| no_ingest(reference))
    }

    /// Throws an ingest away; `lease` no longer holds it.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Unavailable`] where it has a writer.
    pub async fn abort(&self, reference: &str, lease: Option<&LeaseId>) -> Result<()> {
        let (blobs, name) = (self.blobs().clone(), reference.to_owned());
        let folder = Intent::folder_name(self.tenant.namespace(), reference);
        crate::blocking(move || {
            let path = blobs.ingests().join(&folder);
            if !path.try_exists()? {
                return Err(no_ingest(&name));
            }
            let _lock = blobs
                .lock(&folder)
                .ok_or_else(|| Error::unavailable(format!("ingest {name:?} is locked: it has a writer")))?;
            Ok(fs::remove_dir_all(path)?)
        })
        .await?;
        let Some(lease) = lease.cloned() else { return Ok(()) };
        let (namespace, resource) = (self.tenant.namespace().clone(), Resource::ingest(reference));
        let change = move |tx: &mut Tx<'_>| {
            leases::remove(tx, &namespace, &lease, &resource);
            Ok(())
        };
        self.tenant.update(Durability::Crash, change).await
    }

    /// Records a sealed and synced blob, alone in its batch; `lease` holds it instead of the ingest `reference`.
    pub(super) async fn record_sealed(
        &self,
        sealed: Sealed,
        labels: Labels,
        lease: Option<LeaseId>,
        reference: String,
        existing: Existing,
    ) -> Result<Digest> {
        check_labels(&labels)?;
        let (digest, events) = (sealed.digest, self.tenant.events().clone());
        let change = move |tx: &mut Tx<'_>| {
            let key = (sealed.namespace.clone(), digest);
            let refused = existing == Existing::Refuse && tx.has(&BLOBS, &key)?;
            if !refused {
                record(tx, &events, &sealed, labels)?;
            }
            hold(tx, &key, lease.as_ref())?;
            if let Some(lease) = &lease {
                leases::remove(tx, &key.0, lease, &Resource::ingest(&reference));
            }
            // Handed back, so that the file is pinned until the record is there.
            Ok((sealed, refused))
        };
        let (_sealed, refused) = self.tenant.update(Durability::Power, change).await?;
        if refused { Err(exists(&digest)) } else { Ok(digest) }
    }
}

fn exists(digest: &Digest) -> Error {
    Error::already_exists(format!("blob {digest} exists already"))
}

fn missing(digest: &Digest) -> Error {
    Error::not_found(format!("blob {digest} does not exist"))
}

fn no_ingest(reference: &str) -> Error {
    Error::not_found(format!("ingest {reference:?} does not exist"))
}

fn hold(tx: &mut Tx<'_>, (namespace, digest): &(Namespace, Digest), lease: Option<&LeaseId>) -> Result<()> {
    lease.map_or(Ok(()), |lease| leases::add(tx, namespace, lease, &Resource::content(digest)))
}

/// Inside a larger batch: records a sealed blob in its namespace. Its bytes must be synced by then (one `syncfs` for all
/// blobs of a pull), and `sealed` must live until the batch is written. Where the namespace knows the blob already, the
/// labels are added.
pub(crate) fn record(tx: &mut Tx<'_>, events: &Events, sealed: &Sealed, labels: Labels) -> Result<()> {
    note(tx, events, &sealed.namespace, &sealed.digest, sealed.size, labels).map(drop)
}

/// Inside a larger batch: makes a blob that any namespace has known to `namespace` and gives its record; `None` where no
/// namespace has it. The labels are added to those it has. Where the second of `namespace` is true, only its own count.
pub(crate) fn adopt(
    tx: &mut Tx<'_>,
    events: &Events,
    (namespace, isolated): (&Namespace, bool),
    digest: &Digest,
    labels: Labels,
) -> Result<Option<BlobRecord>> {
    let mut owners = vec![namespace.clone()];
    if !isolated {
        owners.extend(tx.keys(&NAMESPACES, &())?);
    }
    for owner in owners {
        if let Some(record) = tx.find(&BLOBS, &(owner, *digest))? {
            return note(tx, events, namespace, digest, record.size, labels).map(Some);
        }
    }
    Ok(None)
}

/// Inside a larger batch: forgets a blob in one namespace. The caller removes the file afterwards.
pub(crate) fn remove(tx: &mut Tx<'_>, events: &Events, key: &(Namespace, Digest)) {
    tx.delete(&BLOBS, key);
    events.after_commit(tx, &key.0, Event::ContentDelete { digest: key.1.to_string() });
}

fn note(
    tx: &mut Tx<'_>,
    events: &Events,
    namespace: &Namespace,
    digest: &Digest,
    size: u64,
    labels: Labels,
) -> Result<BlobRecord> {
    namespaces::ensure(tx, events, namespace)?;
    let key = (namespace.clone(), *digest);
    let now = Timestamp::now();
    let found = tx.find(&BLOBS, &key)?;
    let new = found.is_none();
    if new {
        events.after_commit(tx, namespace, Event::ContentCreate { digest: digest.to_string(), size });
    }
    let mut record = found.unwrap_or(BlobRecord { size, labels: Labels::new(), created_at: now, updated_at: now });
    if new || !labels.is_empty() {
        record.labels.extend(labels);
        record.updated_at = now;
        tx.put(&BLOBS, &key, &record)?;
    }
    Ok(record)
}

#[cfg(test)]
mod tests;
