//! Snapshot records, and the driver calls that go with them.
//!
//! The order of disk and record is the same everywhere: files first when something comes, record first when it goes. So a
//! crash leaves at most files without a record, which are removed when the core is opened. Driver calls run on blocking
//! threads, never on the database's; a lock for each number keeps two of them from meeting on one snapshot.

mod folders;
mod make;
mod record;
mod shared;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use windlass_model::snapshotter::{Kind, Labels, SnapshotId, Snapshotter, Usage};
use windlass_model::{Context, Error, LeaseId, Mount, Namespace, Result, Timestamp};

use self::record::{chain, missing};
use crate::Tenant;
use crate::leases::{self, Resource};
use crate::meta::schema::{SNAPSHOT_CHILDREN, SNAPSHOTS};
use crate::meta::{Db, Durability, Reader, Tx};
use crate::records::check_labels;
pub(crate) use folders::Folders;
pub(crate) use record::{Recorded, record_committed, remove};
pub(crate) use shared::Shared;

/// The label that names the committed snapshot for which another is prepared.
pub const REF: &str = "containerd.io/snapshot.ref";

/// What is stored of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// The driver's number.
    pub id: SnapshotId,
    /// What it is.
    pub kind: Kind,
    /// The name of the committed snapshot it stands on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Labels of the client.
    #[serde(default)]
    pub labels: Labels,
    /// Made under a lease: when nothing holds it any more, it goes without [`crate::gc::GRACE`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leased: bool,
    /// When it was recorded.
    #[serde(default)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[serde(default)]
    pub updated_at: Timestamp,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its key, or its name once committed.
    pub key: String,
    /// The name of the committed snapshot it stands on.
    pub parent: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// Labels of the client.
    pub labels: Labels,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The driver's number.
    pub id: SnapshotId,
}

/// The snapshots of one driver in one namespace.
#[derive(Clone)]
pub struct Snapshots {
    tenant: Tenant,
    driver: Arc<dyn Snapshotter>,
    lease: Option<LeaseId>,
}

/// A snapshot's place in the table: namespace, driver, key.
type Key = (Namespace, String, String);

/// A driver by the engine's name for it: containerd's clients call the overlay driver `overlayfs`, in requests, in container
/// records and in labels.
pub fn driver_name(name: &str) -> &str {
    if name == "overlayfs" { "overlay" } else { name }
}

impl SnapshotInfo {
    fn new(key: String, record: SnapshotRecord) -> Self {
        let SnapshotRecord { id, kind, parent, labels, created_at, updated_at, leased: _ } = record;
        Self { key, parent, kind, labels, created_at, updated_at, id }
    }
}

impl Snapshots {
    pub(crate) fn new(tenant: Tenant, driver: &str) -> Result<Self> {
        let driver = tenant.core.driver(driver)?.clone();
        Ok(Self { tenant, driver, lease: None })
    }

    /// The same snapshots; what is made from now on is held by `lease`.
    pub fn under(self, lease: Option<LeaseId>) -> Self {
        Self { lease, ..self }
    }

    /// The driver's name.
    pub fn driver(&self) -> &'static str {
        self.driver.name()
    }

    fn db(&self) -> &Db {
        &self.tenant.core.0.db
    }

    fn shared(&self) -> &Shared {
        &self.tenant.core.0.snapshots
    }

    fn key(&self, key: &str) -> Key {
        (self.tenant.namespace().clone(), self.driver.name().to_owned(), key.to_owned())
    }

    /// A driver call, on a thread that may block.
    async fn drive<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Snapshotter) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let driver = self.driver.clone();
        crate::blocking(move || call(driver.as_ref())).await
    }

    /// The mounts of a prepared or viewed snapshot, as often as asked.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::FailedPrecondition`] for a committed one.
    pub async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let (record, parents) = self.with_parents(key)?;
        if record.kind == Kind::Committed {
            return Err(Error::precondition(format!("snapshot {key:?} is committed: prepare or view one over it")));
        }
        self.drive(move |driver| driver.mounts(record.id, &parents, record.kind)).await
    }

    /// Removes a snapshot and its files.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::FailedPrecondition`] where others stand on it.
    pub async fn remove(&self, key: &str) -> Result<()> {
        let (events, key, lease) = (self.tenant.events().clone(), self.key(key), self.lease.clone());
        let record = self.db().view().find(&SNAPSHOTS, &key)?.ok_or_else(|| missing(&key.2))?;
        let id = record.id;
        let durability = if record.kind == Kind::Committed { Durability::Power } else { Durability::Crash };
        let _turn = self.shared().turn(id).await;
        let change = move |tx: &mut Tx<'_>| {
            let record = tx.find(&SNAPSHOTS, &key)?.filter(|found| found.id == id).ok_or_else(|| missing(&key.2))?;
            if let Some((_, _, _, child)) = tx.first(&SNAPSHOT_CHILDREN, &key)? {
                return Err(Error::precondition(format!(
                    "snapshot {:?} cannot be removed: {child:?} stands on it",
                    key.2
                )));
            }
            if let Some(lease) = &lease {
                leases::remove(tx, &key.0, lease, &Resource::snapshot(&key.1, &key.2));
            }
            remove(tx, &events, &key, &record);
            Ok(())
        };
        self.tenant.update(durability, change).await?;
        self.discard(id).await;
        // What it stood on may stay for nothing else.
        self.tenant.core.0.collector.nudge();
        Ok(())
    }

    /// Removes what the driver could not remove when its time had come.
    ///
    /// # Errors
    /// What the driver answers; the others are removed all the same.
    pub async fn clean_up(&self) -> Result<()> {
        let mine = |(driver, _): &&(String, SnapshotId)| driver == self.driver.name();
        let left: Vec<_> = self.shared().left.lock().iter().filter(mine).cloned().collect();
        let mut outcome = Ok(());
        for entry in left {
            let _turn = self.shared().turn(entry.1).await;
            match self.drive(move |driver| driver.remove(entry.1)).await {
                Ok(()) => drop(self.shared().left.lock().remove(&entry)),
                Err(error) => outcome = Err(error).context(|| format!("remove the files of snapshot {}", entry.1)),
            }
        }
        outcome
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`].
    pub async fn stat(&self, key: &str) -> Result<SnapshotInfo> {
        let record = self.db().view().find(&SNAPSHOTS, &self.key(key))?.ok_or_else(|| missing(key))?;
        Ok(SnapshotInfo::new(key.to_owned(), record))
    }

    /// All snapshots, in the order of their keys.
    pub async fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let prefix = (self.tenant.namespace().clone(), self.driver.name().to_owned());
        let found = self.db().view().scan(&SNAPSHOTS, &prefix)?;
        Ok(found.into_iter().map(|((_, _, key), record)| SnapshotInfo::new(key, record)).collect())
    }

    /// What a snapshot takes on disk, its parents not counted. Counted once for a committed one.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`].
    pub async fn usage(&self, key: &str) -> Result<Usage> {
        let (record, parents) = self.with_parents(key)?;
        let id = record.id;
        if let Some(usage) = self.shared().usages.lock().get(&id) {
            return Ok(*usage);
        }
        let usage = self.drive(move |driver| driver.usage(id, &parents)).await?;
        if record.kind == Kind::Committed {
            self.shared().usages.lock().insert(id, usage);
        }
        Ok(usage)
    }

    /// Changes the labels by `change`, alone among all writers.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::InvalidArgument`] for labels that are too long.
    pub async fn update_labels(
        &self,
        key: &str,
        change: impl FnOnce(&mut Labels) + Send + 'static,
    ) -> Result<SnapshotInfo> {
        let key = self.key(key);
        let change = move |tx: &mut Tx<'_>| {
            let mut record = tx.find(&SNAPSHOTS, &key)?.ok_or_else(|| missing(&key.2))?;
            change(&mut record.labels);
            check_labels(&record.labels)?;
            record.updated_at = Timestamp::now();
            tx.put(&SNAPSHOTS, &key, &record)?;
            Ok(SnapshotInfo::new(key.2, record))
        };
        self.tenant.update(Durability::Power, change).await
    }

    /// A number that no snapshot of this root had or will have, for files that are made before their record.
    pub(crate) fn reserve(&self) -> SnapshotId {
        self.shared().ids.take()
    }

    /// The numbers of the committed snapshot `name` and its ancestors, nearest first: the `parents` of a driver call.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::FailedPrecondition`] where it is not committed.
    pub(crate) fn chain(&self, name: &str) -> Result<Vec<SnapshotId>> {
        chain(&self.db().view(), &self.key(name), name)
    }

    /// Removes the files of a number that has no record (any more). What fails here is tried again by
    /// [`Snapshots::clean_up`] and at the next open.
    pub(crate) async fn discard(&self, id: SnapshotId) {
        self.shared().usages.lock().remove(&id);
        if let Err(error) = self.drive(move |driver| driver.remove(id)).await {
            tracing::warn!(driver = self.driver.name(), id, %error, "the files of a snapshot could not be removed");
            self.shared().left.lock().insert((self.driver.name().to_owned(), id));
        }
    }

    /// As [`Snapshots::discard`], after every other driver call on that number has ended.
    pub(crate) async fn discard_in_turn(&self, id: SnapshotId) {
        let _turn = self.shared().turn(id).await;
        self.discard(id).await;
    }

    fn with_parents(&self, key: &str) -> Result<(SnapshotRecord, Vec<SnapshotId>)> {
        let (view, place) = (self.db().view(), self.key(key));
        let record = view.find(&SNAPSHOTS, &place)?.ok_or_else(|| missing(key))?;
        let parents = record.parent.as_deref().map_or_else(|| Ok(Vec::new()), |parent| chain(&view, &place, parent))?;
        Ok((record, parents))
    }
}

#[cfg(test)]
mod tests;
