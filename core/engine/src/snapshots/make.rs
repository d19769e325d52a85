//! How a snapshot comes: prepared or viewed over a committed one, and committed itself.

use windlass_model::event::Event;
use windlass_model::snapshotter::{Kind, Labels, SnapshotId};
use windlass_model::{Context, Error, LeaseId, Mount, Result, Timestamp};

use super::record::{chain, delete, exists, insert, missing};
use super::{Key, REF, SnapshotRecord, Snapshots};
use crate::leases::{self, Resource};
use crate::meta::schema::SNAPSHOTS;
use crate::meta::{Durability, Reader, Tx};
use crate::records::check_labels;

impl Snapshots {
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
}
