//! Snapshot records inside a transaction: put, deleted and followed to their ancestors.

use windlass_model::event::Event;
use windlass_model::snapshotter::{Kind, Labels, SnapshotId};
use windlass_model::{Error, Namespace, Result, Timestamp};

use super::{Key, SnapshotRecord};
use crate::events::Events;
use crate::meta::schema::{SNAPSHOT_CHILDREN, SNAPSHOTS};
use crate::meta::{Reader, Tx};
use crate::namespaces;

/// The outcome of [`record_committed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// The name now stands for the number that was given.
    New,
    /// The name stood for this other number already; the caller discards its own ([`Snapshots::discard`]).
    Existing(SnapshotId),
}

pub(super) fn missing(key: &str) -> Error {
    Error::not_found(format!("snapshot {key:?} does not exist"))
}

pub(super) fn exists(key: &Key) -> Error {
    Error::already_exists(format!("snapshot {:?} exists already", key.2))
}

/// The numbers of `name` and its ancestors in the namespace and driver of `beside`.
pub(super) fn chain(reader: &impl Reader, beside: &Key, name: &str) -> Result<Vec<SnapshotId>> {
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
pub(super) fn insert(tx: &mut Tx<'_>, events: &Events, key: &Key, record: SnapshotRecord) -> Result<()> {
    namespaces::ensure(tx, events, &key.0)?;
    if let Some(parent) = &record.parent {
        tx.put(&SNAPSHOT_CHILDREN, &child_key(key, parent), &())?;
    }
    tx.put(&SNAPSHOTS, key, &record)
}

/// Deletes a record with its entry among its parent's children.
pub(super) fn delete(tx: &mut Tx<'_>, key: &Key, record: &SnapshotRecord) {
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
