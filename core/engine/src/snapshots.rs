//! Snapshot records, and the driver calls that go with them.
//!
//! The order of disk and record is the same everywhere: files first when something comes, record first when it goes. So a
//! crash leaves at most files without a record, which are removed when the core is opened. Driver calls run on blocking
//! threads, never on the database's; a lock for each number keeps two of them from meeting on one snapshot.

mod folders;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use windlass_model::event::Event;
use windlass_model::snapshotter::{Kind, Labels, SnapshotId, Snapshotter, Usage};
use windlass_model::{Context, Error, LeaseId, Mount, Namespace, Result, Timestamp};

use crate::events::Events;
use crate::leases::{self, Resource};
use crate::meta::schema::{SNAPSHOT_CHILDREN, SNAPSHOTS, setting};
use crate::meta::{Db, Durability, Reader, Sequence, Tx};
use crate::records::check_labels;
use crate::{Tenant, namespaces};
pub(crate) use folders::Folders;

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

/// What the snapshots of all namespaces share.
pub(crate) struct Shared {
    ids: Sequence,
    busy: Mutex<HashMap<SnapshotId, Arc<tokio::sync::Mutex<()>>>>,
    /// What committed snapshots take never changes, and counting it walks all their files.
    usages: Mutex<HashMap<SnapshotId, Usage>>,
    /// Numbers without record whose files are still there, with their driver.
    left: Mutex<BTreeSet<(String, SnapshotId)>>,
}

/// Keeps other driver calls from a snapshot.
struct Turn<'a> {
    shared: &'a Shared,
    id: SnapshotId,
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

/// The outcome of [`record_committed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// The name now stands for the number that was given.
    New,
    /// The name stood for this other number already; the caller discards its own ([`Snapshots::discard`]).
    Existing(SnapshotId),
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

impl Shared {
    /// Removes files without record in every driver's folder, and finds the first free number.
    pub(crate) async fn open(db: &Db, drivers: &[Arc<dyn Snapshotter>]) -> Result<Self> {
        let mut recorded: HashMap<String, HashSet<SnapshotId>> = HashMap::new();
        let (mut highest, mut left) = (0, BTreeSet::new());
        for ((_, driver, _), record) in db.view().scan(&SNAPSHOTS, &())? {
            highest = highest.max(record.id);
            recorded.entry(driver).or_default().insert(record.id);
        }
        for driver in drivers {
            let (driver, known) = (driver.clone(), recorded.remove(driver.name()).unwrap_or_default());
            let name = driver.name();
            let (on_disk, stuck) = crate::blocking(move || sweep(driver.as_ref(), &known)).await?;
            highest = highest.max(on_disk);
            left.extend(stuck.into_iter().map(|id| (name.to_owned(), id)));
        }
        let ids = Sequence::open(db, setting::SNAPSHOTS, highest + 1).await?;
        Ok(Self { ids, busy: Mutex::default(), usages: Mutex::default(), left: Mutex::new(left) })
    }

    /// Waits until no other driver call concerns `id`.
    async fn turn(&self, id: SnapshotId) -> Turn<'_> {
        let lock = self.busy.lock().entry(id).or_default().clone();
        Turn { shared: self, id, held: Some(lock.lock_owned().await) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut busy = self.shared.busy.lock();
        self.held = None;
        // The map's own handle is the last one where nobody waits.
        if busy.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            busy.remove(&self.id);
        }
    }
}

/// Removes what is on disk without record; gives the highest number that was there, and those that could not be removed.
/// Blocks.
fn sweep(driver: &dyn Snapshotter, known: &HashSet<SnapshotId>) -> Result<(SnapshotId, Vec<SnapshotId>)> {
    let (mut highest, mut stuck) = (0, Vec::new());
    for id in driver.ids().context(|| format!("list snapshots of driver {}", driver.name()))? {
        highest = highest.max(id);
        if known.contains(&id) {
            continue;
        }
        tracing::info!(driver = driver.name(), id, "removing a snapshot without record");
        // One that cannot be removed must not keep the daemon from starting; its number is not used again.
        if let Err(error) = driver.remove(id) {
            tracing::warn!(driver = driver.name(), id, %error, "a snapshot without record could not be removed");
            stuck.push(id);
        }
    }
    Ok((highest, stuck))
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

    /// Makes a writable snapshot of the committed snapshot `parent` (or of nothing) and gives its mounts. Crash durability:
    /// with a lease, the lease holds it; without, the collector leaves it alone for a while ([`crate::gc::GRACE`]).
    ///
    /// With the label [`REF`], nothing is made where there is a snapshot of the name that it gives.
    ///
    /// # Errors
    /// [`windlass_model::Kind::AlreadyExists`] (the lease holds what is there); [`windlass_model::Kind::NotFound`] for
    /// parent or lease; [`windlass_model::Kind::FailedPrecondition`] for a parent that is not committed.
    pub async fn prepare(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
        lease: Option<&LeaseId>,
    ) -> Result<Vec<Mount>> {
        self.make(Kind::Active, key, parent, labels, lease).await
    }

    /// As [`Snapshots::prepare`], but read-only.
    ///
    /// # Errors
    /// As [`Snapshots::prepare`].
    pub async fn view(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
        lease: Option<&LeaseId>,
    ) -> Result<Vec<Mount>> {
        self.make(Kind::View, key, parent, labels, lease).await
    }

    async fn make(
        &self,
        kind: Kind,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
        lease: Option<&LeaseId>,
    ) -> Result<Vec<Mount>> {
        check_labels(&labels)?;
        if key.is_empty() {
            return Err(Error::invalid("a snapshot needs a key"));
        }
        let lease = lease.or(self.lease.as_ref());
        if let Some(lease) = lease {
            leases::require(&self.db().view(), self.tenant.namespace(), lease)?;
        }
        for taken in labels.get(REF).map(String::as_str).into_iter().chain([key]) {
            self.refuse_existing(taken, lease).await?;
        }
        let key = self.key(key);
        let parents = parent.map_or_else(|| Ok(Vec::new()), |parent| self.chain(parent))?;
        let id = self.reserve();
        let (given, chain) = (labels.clone(), parents.clone());
        let made = self.drive(move |driver| {
            match kind {
                Kind::View => driver.view(id, &chain, &given)?,
                _ => driver.prepare(id, &chain, &given)?,
            }
            driver.mounts(id, &chain, kind)
        });
        let made = made.await.context(|| format!("prepare snapshot {:?}", key.2));
        let recorded = match made {
            Ok(mounts) => self.record_made(key, id, kind, parent, labels, lease, parents).await.map(|()| mounts),
            Err(error) => Err(error),
        };
        if recorded.is_err() {
            self.discard(id).await;
        }
        recorded
    }

    /// Refuses a name that is taken; the lease holds what is there.
    async fn refuse_existing(&self, name: &str, lease: Option<&LeaseId>) -> Result<()> {
        let key = self.key(name);
        if !self.db().view().has(&SNAPSHOTS, &key)? {
            return Ok(());
        }
        let Some(lease) = lease.cloned() else { return Err(exists(&key)) };
        // Looked at once more: the collector may have taken it meanwhile.
        let change = move |tx: &mut Tx<'_>| {
            let there = tx.has(&SNAPSHOTS, &key)?;
            if there {
                leases::add(tx, &key.0, &lease, &Resource::snapshot(&key.1, &key.2))?;
            }
            Ok(there.then_some(key))
        };
        self.tenant.update(Durability::Crash, change).await?.map_or(Ok(()), |key| Err(exists(&key)))
    }

    #[allow(clippy::too_many_arguments, reason = "the columns of one record")]
    async fn record_made(
        &self,
        key: Key,
        id: SnapshotId,
        kind: Kind,
        parent: Option<&str>,
        labels: Labels,
        lease: Option<&LeaseId>,
        parents: Vec<SnapshotId>,
    ) -> Result<()> {
        let (events, parent, lease) = (self.tenant.events().clone(), parent.map(str::to_owned), lease.cloned());
        let change = move |tx: &mut Tx<'_>| {
            // The parent may have gone, or come back as another, while the driver worked.
            if let Some(parent) = &parent
                && chain(tx, &key, parent)? != parents
            {
                return Err(Error::new(windlass_model::Kind::Aborted, format!("snapshot {parent:?} was replaced")));
            }
            if tx.has(&SNAPSHOTS, &key)? {
                return Err(exists(&key));
            }
            if let Some(lease) = &lease {
                leases::add(tx, &key.0, lease, &Resource::snapshot(&key.1, &key.2))?;
            }
            let (now, leased) = (Timestamp::now(), lease.is_some());
            let told = Event::SnapshotPrepare {
                key: key.2.clone(),
                parent: parent.clone().unwrap_or_default(),
                snapshotter: key.1.clone(),
            };
            events.after_commit(tx, &key.0, told);
            let record = SnapshotRecord { id, kind, parent, labels, leased, created_at: now, updated_at: now };
            insert(tx, &events, &key, record)
        };
        self.tenant.update(Durability::Crash, change).await
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

    /// Ends the writing to `key` and gives it a name, durably: its files are synced first.
    ///
    /// # Errors
    /// [`windlass_model::Kind::NotFound`]; [`windlass_model::Kind::AlreadyExists`] for the name;
    /// [`windlass_model::Kind::FailedPrecondition`] for a view or a committed one.
    pub async fn commit(&self, name: &str, key: &str, labels: Labels) -> Result<()> {
        check_labels(&labels)?;
        let (record, parents) = self.with_parents(key)?;
        let id = record.id;
        let (from, to) = (self.key(key), self.key(name));
        if record.kind != Kind::Active {
            return Err(Error::precondition(format!("snapshot {key:?} is {:?}, not Active", record.kind)));
        }
        if name.is_empty() || from == to {
            return Err(Error::invalid("a committed snapshot needs a name that is not its key"));
        }
        self.refuse_existing(name, self.lease.as_ref()).await?;
        let _turn = self.shared().turn(id).await;
        self.drive(move |driver| {
            driver.commit(id, &parents)?;
            windlass_sys::fs::sync_filesystem(driver.root())
        })
        .await
        .context(|| format!("commit snapshot {key:?}"))?;
        let (events, lease) = (self.tenant.events().clone(), self.lease.clone());
        let change = move |tx: &mut Tx<'_>| {
            let record = tx.find(&SNAPSHOTS, &from)?.filter(|found| found.id == id && found.kind == Kind::Active);
            let mut record = record.ok_or_else(|| missing(&from.2))?;
            if tx.has(&SNAPSHOTS, &to)? {
                return Err(exists(&to));
            }
            if let Some(lease) = &lease {
                leases::remove(tx, &from.0, lease, &Resource::snapshot(&from.1, &from.2));
                leases::add(tx, &to.0, lease, &Resource::snapshot(&to.1, &to.2))?;
            }
            delete(tx, &from, &record);
            record.kind = Kind::Committed;
            record.labels = labels;
            record.updated_at = Timestamp::now();
            insert(tx, &events, &to, record)?;
            let told = Event::SnapshotCommit { key: from.2, name: to.2.clone(), snapshotter: to.1.clone() };
            events.after_commit(tx, &to.0, told);
            Ok(())
        };
        self.tenant.update(Durability::Power, change).await
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

fn missing(key: &str) -> Error {
    Error::not_found(format!("snapshot {key:?} does not exist"))
}

fn exists(key: &Key) -> Error {
    Error::already_exists(format!("snapshot {:?} exists already", key.2))
}

/// The numbers of `name` and its ancestors in the namespace and driver of `beside`.
fn chain(reader: &impl Reader, beside: &Key, name: &str) -> Result<Vec<SnapshotId>> {
    let mut numbers = Vec::new();
    let mut next = Some(name.to_owned());
    while let Some(name) = next {
        let key = (beside.0.clone(), beside.1.clone(), name);
        let record = reader.find(&SNAPSHOTS, &key)?.ok_or_else(|| missing(&key.2))?;
        if record.kind != Kind::Committed {
            return Err(Error::precondition(format!("snapshot {:?} is {:?}, not Committed", key.2, record.kind)));
        }
        numbers.push(record.id);
        next = record.parent;
    }
    Ok(numbers)
}

fn child_key(key: &Key, parent: &str) -> (Namespace, String, String, String) {
    (key.0.clone(), key.1.clone(), parent.to_owned(), key.2.clone())
}

/// Puts a record that is not there yet, with its entry among its parent's children.
fn insert(tx: &mut Tx<'_>, events: &Events, key: &Key, record: SnapshotRecord) -> Result<()> {
    namespaces::ensure(tx, events, &key.0)?;
    if let Some(parent) = &record.parent {
        tx.put(&SNAPSHOT_CHILDREN, &child_key(key, parent), &())?;
    }
    tx.put(&SNAPSHOTS, key, &record)
}

/// Deletes a record with its entry among its parent's children.
fn delete(tx: &mut Tx<'_>, key: &Key, record: &SnapshotRecord) {
    if let Some(parent) = &record.parent {
        tx.delete(&SNAPSHOT_CHILDREN, &child_key(key, parent));
    }
    tx.delete(&SNAPSHOTS, key);
}

/// Inside a larger batch: forgets a snapshot on which no other stands. The caller removes the files afterwards.
pub(crate) fn remove(tx: &mut Tx<'_>, events: &Events, key: &Key, record: &SnapshotRecord) {
    delete(tx, key, record);
    events.after_commit(tx, &key.0, Event::SnapshotRemove { key: key.2.clone(), snapshotter: key.1.clone() });
}

/// Inside a larger batch: records a committed snapshot whose files are made ([`Snapshots::reserve`], driver's `prepare`
/// and `commit`) and synced (one `syncfs` for all layers of a pull). Record the lowest layer first: the parent must be
/// recorded, if only by the same batch.
///
/// # Errors
/// [`windlass_model::Kind::NotFound`] for the parent.
#[allow(clippy::too_many_arguments, reason = "the columns of one record")]
pub(crate) fn record_committed(
    tx: &mut Tx<'_>,
    events: &Events,
    namespace: &Namespace,
    driver: &str,
    name: &str,
    parent: Option<&str>,
    id: SnapshotId,
    labels: Labels,
) -> Result<Recorded> {
    let key = (namespace.clone(), driver.to_owned(), name.to_owned());
    if let Some(found) = tx.find(&SNAPSHOTS, &key)? {
        return Ok(Recorded::Existing(found.id));
    }
    if let Some(parent) = parent {
        chain(tx, &key, parent)?;
    }
    let now = Timestamp::now();
    let parent = parent.map(str::to_owned);
    let record =
        SnapshotRecord { id, kind: Kind::Committed, parent, labels, leased: false, created_at: now, updated_at: now };
    insert(tx, events, &key, record)?;
    let told = Event::SnapshotCommit { key: String::new(), name: key.2.clone(), snapshotter: key.1.clone() };
    events.after_commit(tx, namespace, told);
    Ok(Recorded::New)
}

#[cfg(test)]
mod tests;
