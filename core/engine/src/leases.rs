//! Leases: named holds that keep resources from the garbage collector, optionally until a moment.

use serde::{Deserialize, Serialize};
use windlass_model::{Error, LeaseId, Namespace, Result, Timestamp, snapshotter::Labels};

use crate::Tenant;
use crate::meta::schema::{LEASED, LEASES};
use crate::meta::{Durability, Reader, Tx};
use crate::records::check_labels;
use crate::{namespaces, snapshots};

/// The label whose RFC 3339 value ends a lease at that moment.
pub const EXPIRE: &str = "containerd.io/gc.expire";
/// The label that makes a lease hold only what it names, not what that refers to.
pub const FLAT: &str = "containerd.io/gc.flat";

/// What is stored of a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Labels of the client.
    #[serde(default)]
    pub labels: Labels,
    /// When it was made.
    #[serde(default)]
    pub created_at: Timestamp,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Labels of the client.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Something that a lease holds, in containerd's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// `content`, `snapshots/<driver>`, `images` or `ingests`.
    pub kind: String,
    /// A digest, a snapshot's key, an image's name, an ingest's reference.
    pub id: String,
}

/// The leases of one namespace.
#[derive(Clone)]
pub struct Leases {
    tenant: Tenant,
}

impl Resource {
    /// A blob.
    pub fn content(digest: &windlass_model::Digest) -> Self {
        Self { kind: "content".into(), id: digest.to_string() }
    }

    /// A snapshot of `driver`.
    pub fn snapshot(driver: &str, key: &str) -> Self {
        Self { kind: format!("snapshots/{driver}"), id: key.into() }
    }

    /// An image.
    pub fn image(name: &str) -> Self {
        Self { kind: "images".into(), id: name.into() }
    }

    /// A blob on the way.
    pub fn ingest(reference: &str) -> Self {
        Self { kind: "ingests".into(), id: reference.into() }
    }

    /// The resource, with its driver called as the engine calls it.
    ///
    /// # Errors
    /// [`windlass_model::Kind::Unimplemented`] for a kind that no lease can hold, [`windlass_model::Kind::InvalidArgument`]
    /// for an id that is none of its kind.
    fn checked(&self) -> Result<Self> {
        let refuse = || Error::invalid(format!("a lease cannot hold {:?} of kind {:?}", self.id, self.kind));
        if self.id.is_empty() {
            return Err(refuse());
        }
        match (self.kind.as_str(), self.kind.split_once('/')) {
            ("content", _) => self.id.parse().map(|digest| Self::content(&digest)),
            ("images" | "ingests", _) => Ok(self.clone()),
            (_, Some(("snapshots", driver))) if !driver.is_empty() && !driver.contains('/') => {
                Ok(Self::snapshot(snapshots::driver_name(driver), &self.id))
            }
            ("snapshots", _) | (_, Some(("snapshots" | "content" | "images" | "ingests", _))) => Err(refuse()),
            _ => Err(Error::unimplemented(format!("no lease can hold things of kind {:?}", self.kind))),
        }
    }
}

impl LeaseRecord {
    /// True where the lease holds only what it names.
    pub(crate) fn is_flat(&self) -> bool {
        self.labels.contains_key(FLAT)
    }
}

impl Leases {
    pub(crate) fn new(tenant: Tenant) -> Self {
        Self { tenant }
    }

    /// Makes a lease.
    ///
    /// # Errors
    /// [`windlass_model::Kind::AlreadyExists`]; [`windlass_model::Kind::InvalidArgument`] for a bad expiry.
    pub async fn create(&self, id: &LeaseId, labels: Labels) -> Result<Lease> {
        check_labels(&labels)?;
        let record = LeaseRecord { labels, created_at: Timestamp::now() };
        expiry(&record.labels)?;
        let (events, namespace, id) = (self.tenant.events().clone(), self.tenant.namespace().clone(), id.clone());
        let change = move |tx: &mut Tx<'_>| {
            let key = (namespace, id);
            if tx.has(&LEASES, &key)? {
                return Err(Error::already_exists(format!("lease {} exists already", key.1)));
            }
            namespaces::ensure(tx, &events, &key.0)?;
            tx.put(&LEASES, &key, &record)?;
            Ok(Lease { id: key.1, labels: record.labels, created_at: record.created_at })
        };
        self.tenant.update(Durability::Power, change).await
    }

    /// Makes a lease for work under way; it outlives a daemon that dies by a day at most.
    ///
    /// # Errors
    /// As [`Leases::create`].
    pub async fn create_for_a_day(&self, id: &LeaseId) -> Result<Lease> {
        let expires = (chrono::Utc::now() + chrono::Duration::hours(24)).to_rfc3339();
        self.create(id, Labels::from([(EXPIRE.to_owned(), expires)])).await
    }

    /// Ends a lease; what only it held goes with the next collection, which is started unless `collect` waits for it.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`].
    pub async fn delete(&self, id: &LeaseId) -> Result<()> {
        let (namespace, id) = (self.tenant.namespace().clone(), id.clone());
        self.tenant.update(Durability::Power, move |tx| delete(tx, &namespace, &id)).await?;
        self.tenant.core.0.collector.nudge();
        Ok(())
    }

    /// All leases, in the order of their ids.
    pub async fn list(&self) -> Result<Vec<Lease>> {
        let found = self.tenant.core.0.db.view().scan(&LEASES, self.tenant.namespace())?;
        let lease =
            |((_, id), record): (_, LeaseRecord)| Lease { id, labels: record.labels, created_at: record.created_at };
        Ok(found.into_iter().map(lease).collect())
    }

    /// Lets a lease hold `resource`, which need not exist yet.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`] without the lease; [`windlass_model::Kind::InvalidArgument`] for an unknown kind.
    pub async fn add_resource(&self, id: &LeaseId, resource: Resource) -> Result<()> {
        let (namespace, id) = (self.tenant.namespace().clone(), id.clone());
        self.tenant.update(Durability::Power, move |tx| add(tx, &namespace, &id, &resource)).await
    }

    /// Lets a lease no longer hold `resource`; fine where it did not.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`] without the lease.
    pub async fn remove_resource(&self, id: &LeaseId, resource: Resource) -> Result<()> {
        let resource = resource.checked()?;
        let (namespace, id) = (self.tenant.namespace().clone(), id.clone());
        let change = move |tx: &mut Tx<'_>| {
            require(tx, &namespace, &id)?;
            remove(tx, &namespace, &id, &resource);
            Ok(())
        };
        self.tenant.update(Durability::Power, change).await?;
        self.tenant.core.0.collector.nudge();
        Ok(())
    }

    /// What a lease holds.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`] without the lease.
    pub async fn resources(&self, id: &LeaseId) -> Result<Vec<Resource>> {
        let view = self.tenant.core.0.db.view();
        let prefix = (self.tenant.namespace().clone(), id.clone());
        require(&view, &prefix.0, id)?;
        let found = view.scan(&LEASED, &prefix)?;
        Ok(found.into_iter().map(|((_, _, kind, id), ())| Resource { kind, id }).collect())
    }
}

/// When what has these labels ends, where it does.
///
/// # Errors
/// [`windlass_model::Kind::InvalidArgument`] where the label is not RFC 3339.
pub(crate) fn expiry(labels: &Labels) -> Result<Option<Timestamp>> {
    let Some(text) = labels.get(EXPIRE) else { return Ok(None) };
    let moment = chrono::DateTime::parse_from_rfc3339(text)
        .map_err(|_| Error::invalid(format!("label {EXPIRE}={text:?} is not an RFC 3339 time")))?;
    Ok(Some(Timestamp(moment.timestamp_nanos_opt().unwrap_or(i64::MAX))))
}

/// # Errors
/// [`windlass_model::Kind::NotFound`] without the lease.
pub(crate) fn require(reader: &impl Reader, namespace: &Namespace, id: &LeaseId) -> Result<()> {
    if reader.has(&LEASES, &(namespace.clone(), id.clone()))? {
        return Ok(());
    }
    Err(Error::not_found(format!("lease {id} does not exist")))
}

/// Inside a larger batch: lets a lease hold `resource`.
///
/// # Errors
/// [`windlass_model::Kind::NotFound`] without the lease; [`windlass_model::Kind::InvalidArgument`] for an unknown kind.
pub(crate) fn add(tx: &mut Tx<'_>, namespace: &Namespace, id: &LeaseId, resource: &Resource) -> Result<()> {
    let Resource { kind, id: held } = resource.checked()?;
    require(tx, namespace, id)?;
    tx.put(&LEASED, &(namespace.clone(), id.clone(), kind, held), &())
}

/// Inside a larger batch: lets a lease no longer hold `resource`; fine where it did not, or where there is no such lease.
pub(crate) fn remove(tx: &mut Tx<'_>, namespace: &Namespace, id: &LeaseId, resource: &Resource) {
    tx.delete(&LEASED, &(namespace.clone(), id.clone(), resource.kind.clone(), resource.id.clone()));
}

/// True where any lease of the namespace holds exactly `resource`.
pub(crate) fn is_held(reader: &impl Reader, namespace: &Namespace, resource: &Resource) -> Result<bool> {
    let mut held = false;
    for ((_, lease), _) in reader.scan(&LEASES, namespace)? {
        let key = (namespace.clone(), lease, resource.kind.clone(), resource.id.clone());
        held = held || reader.has(&LEASED, &key)?;
    }
    Ok(held)
}

/// Inside a larger batch: ends a lease.
///
/// # Errors
/// [`windlass_model::Kind::NotFound`].
pub(crate) fn delete(tx: &mut Tx<'_>, namespace: &Namespace, id: &LeaseId) -> Result<()> {
    require(tx, namespace, id)?;
    let key = (namespace.clone(), id.clone());
    for (resource, ()) in tx.scan(&LEASED, &key)? {
        tx.delete(&LEASED, &resource);
    }
    tx.delete(&LEASES, &key);
    Ok(())
}
