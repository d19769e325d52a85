//! What the snapshots of all namespaces share: their numbers, whose turn a driver call is, and what is on disk without record.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use windlass_model::snapshotter::{SnapshotId, Snapshotter, Usage};
use windlass_model::{Context, Result};

use crate::meta::schema::{SNAPSHOTS, setting};
use crate::meta::{Db, Reader, Sequence};

/// What the snapshots of all namespaces share.
pub(crate) struct Shared {
    pub(super) ids: Sequence,
    busy: Mutex<HashMap<SnapshotId, Arc<tokio::sync::Mutex<()>>>>,
    /// What committed snapshots take never changes, and counting it walks all their files.
    pub(super) usages: Mutex<HashMap<SnapshotId, Usage>>,
    /// Numbers without record whose files are still there, with their driver.
    pub(super) left: Mutex<BTreeSet<(String, SnapshotId)>>,
}

/// Keeps other driver calls from a snapshot.
pub(super) struct Turn<'a> {
    shared: &'a Shared,
    id: SnapshotId,
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
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
    pub(super) async fn turn(&self, id: SnapshotId) -> Turn<'_> {
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
