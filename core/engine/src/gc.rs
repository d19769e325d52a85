//! The garbage collector: what nothing refers to goes, records first and files afterwards.
//!
//! Roots are containers, images and leases that have not expired, and whatever a label keeps by itself ([`labels`]). From
//! there it follows image targets, containers' snapshots, snapshots' parents and labels ([`graph`]). Activations of mounts
//! refer to nothing that is theirs, but are kept as snapshots are. A lease with `containerd.io/gc.flat` keeps what it names
//! with what that stands on, not what its labels refer to.
//!
//! A collection reads all records in a view, which stops nobody. The writer thread only tells which keys were written
//! since: those records stay, with all they refer to. So it looks at candidates and changes, never at everything, and
//! deletes a few hundred at a time; nothing that was referred to meanwhile is lost. Files are removed after that, outside;
//! a crash in between leaves files without record for the next open to remove.

mod graph;
mod labels;

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use windlass_model::{Digest, Error, Kind, Namespace, Result, Timestamp};

use self::graph::{Graph, Node};
use crate::content;
use crate::core::Inner;
use crate::images;
use crate::meta::schema::{BLOBS, IMAGES, LEASES, MOUNTS, SNAPSHOTS};
use crate::meta::{Db, Durability, Reader, Tx};
use crate::mounts::{self, Activation};
use crate::snapshots::{self, SnapshotRecord};
use crate::{Core, leases};

/// How long an active snapshot, a view or an activation that nothing refers to is left alone: its container is yet to be
/// recorded. One that was made under a lease has none.
pub const GRACE: Duration = Duration::from_secs(10 * 60);
/// How long after a deletion the background collection waits for more of them.
const SETTLE: Duration = Duration::from_secs(5);
/// How often the background collection runs unasked, for what expires.
const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How many things one transaction deletes.
const BITE: usize = 256;
/// How often a collection begins anew because more was written meanwhile than is kept count of.
const ATTEMPTS: usize = 3;

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcStats {
    /// Leases that had expired.
    pub leases: usize,
    /// Images that had expired.
    pub images: usize,
    /// Blobs, counted in each namespace that knew them.
    pub blobs: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Activations of mounts.
    pub mounts: usize,
    /// Ingests that nobody continued.
    pub ingests: usize,
}

/// The background collection of one core.
#[derive(Default)]
pub(crate) struct Collector {
    asked: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
    /// One collection at a time.
    running: tokio::sync::Mutex<()>,
}

type BlobKey = (Namespace, Digest);
type SnapshotKey = (Namespace, String, String);

/// What one transaction deleted.
#[derive(Default)]
struct Taken {
    leases: usize,
    images: usize,
    blobs: Vec<BlobKey>,
    snapshots: Vec<(SnapshotKey, SnapshotRecord)>,
    /// The ids of activations.
    mounts: Vec<String>,
}

/// Ends the writer thread's keeping of changes.
struct Watching(Db);

impl Drop for Watching {
    fn drop(&mut self) {
        let end = |tx: &mut Tx<'_>| {
            tx.forget_changes();
            Ok(())
        };
        // An error means that there is no writer thread any more.
        let _ = self.0.post(Durability::Crash, end, |_: Result<()>| {});
    }
}

impl Collector {
    /// Asks for a collection soon; many calls are one.
    pub(crate) fn nudge(&self) {
        self.asked.notify_one();
    }

    /// Starts the background task, which ends with the core.
    pub(crate) fn start(&self, core: Weak<Inner>) {
        let asked = self.asked.clone();
        let run = async move {
            loop {
                if tokio::time::timeout(INTERVAL, asked.notified()).await.is_ok() {
                    tokio::time::sleep(SETTLE).await;
                }
                let Some(core) = core.upgrade().map(Core) else { return };
                match collect(&core).await {
                    Ok(stats) if stats == GcStats::default() => {}
                    Ok(stats) => tracing::info!(?stats, "collected garbage"),
                    Err(error) => tracing::warn!(%error, "collecting garbage"),
                }
            }
        };
        *self.task.lock() = Some(tokio::spawn(run));
    }

    /// Ends the background task. A collection under way ends at its next step; whatever it left is found again.
    pub(crate) async fn stop(&self) {
        let task = self.task.lock().take();
        if let Some(task) = task {
            task.abort();
            // The only error is that it was cut off.
            let _ = task.await;
        }
    }
}

/// Collects now, to the end even if the caller goes away. See [`Core::collect`].
pub(crate) async fn collect(core: &Core) -> Result<GcStats> {
    let core = core.clone();
    let collecting = tokio::spawn(async move {
        let _one = core.0.collector.running.lock().await;
        let mut stats = GcStats::default();
        for _ in 0..ATTEMPTS {
            if records(&core, &mut stats).await? {
                let blobs = core.0.blobs.clone();
                stats.ingests = crate::blocking(move || content::expire(&blobs)).await?;
                return Ok(stats);
            }
        }
        Err(Error::unavailable("records change faster than garbage can be told from them"))
    });
    collecting.await.map_err(|error| Error::with_source(Kind::Internal, "the collection broke off", error))?
}

/// Deletes the records that nothing keeps, and then their files; false where too much was written meanwhile.
async fn records(core: &Core, stats: &mut GcStats) -> Result<bool> {
    let db = &core.0.db;
    let begin = |tx: &mut Tx<'_>| {
        tx.watch_changes();
        Ok(())
    };
    db.update(Durability::Crash, begin).await?;
    let _watching = Watching(db.clone());
    let looking = core.clone();
    let read = crate::blocking(move || {
        let graph = Graph::read(&looking.0.db.view(), Timestamp::now())?;
        let garbage = graph.garbage();
        Ok((graph, garbage))
    });
    let (mut graph, garbage) = read.await?;
    if graph.expired.is_empty() && garbage.is_empty() {
        return Ok(true);
    }
    let mut bites = garbage.chunks(BITE);
    let mut bite = bites.next().unwrap_or_default();
    loop {
        let (numbers, events) = (bite.to_vec(), core.events().clone());
        // Synced before a file goes: a record that came back after a power cut would have no file.
        let swept = db.update(Durability::Power, move |tx| {
            let Some(changes) = tx.changes() else { return Ok(None) };
            changes.iter().try_for_each(|key| graph.revive(tx, key))?;
            graph.follow();
            let mut taken = Taken::default();
            for (namespace, lease) in std::mem::take(&mut graph.expired) {
                if tx.has(&LEASES, &(namespace.clone(), lease.clone()))? {
                    leases::delete(tx, &namespace, &lease)?;
                    taken.leases += 1;
                }
            }
            for node in numbers.iter().filter_map(|number| graph.unkept(*number)) {
                taken.delete(tx, &events, node)?;
            }
            Ok(Some((graph, taken)))
        });
        let Some((back, taken)) = swept.await? else { return Ok(false) };
        graph = back;
        stats.leases += taken.leases;
        stats.images += taken.images;
        stats.blobs += taken.blobs.len();
        stats.snapshots += taken.snapshots.len();
        stats.mounts += taken.mounts.len();
        taken.remove_files(core).await?;
        match bites.next() {
            Some(next) => bite = next,
            None => return Ok(true),
        }
    }
}

impl Taken {
    fn delete(&mut self, tx: &mut Tx<'_>, events: &crate::Events, node: &Node) -> Result<()> {
        match node.clone() {
            Node::Blob(namespace, digest) => {
                let key = (namespace, digest);
                if tx.has(&BLOBS, &key)? {
                    content::remove(tx, events, &key);
                    self.blobs.push(key);
                }
            }
            Node::Snapshot(namespace, driver, key) => {
                let key = (namespace, driver, key);
                if let Some(record) = tx.find(&SNAPSHOTS, &key)? {
                    snapshots::remove(tx, events, &key, &record);
                    self.snapshots.push((key, record));
                }
            }
            Node::Image(namespace, name) => {
                let key = (namespace, name);
                if tx.has(&IMAGES, &key)? {
                    images::remove(tx, events, &key);
                    self.images += 1;
                }
            }
            Node::Mount(namespace, name) => {
                let key = (namespace, name);
                if let Some(record) = tx.find(&MOUNTS, &key)?.filter(Activation::is_whole) {
                    tx.delete(&MOUNTS, &key);
                    self.mounts.push(record.id().to_owned());
                }
            }
            // Always kept.
            Node::Container(..) => {}
        }
        Ok(())
    }

    async fn remove_files(self, core: &Core) -> Result<()> {
        // First: they may be of the snapshots that go.
        mounts::discard(core.state().to_owned(), self.mounts).await;
        for ((namespace, driver, _), record) in self.snapshots {
            // A driver that is no longer configured leaves its files to whoever configures it again.
            if let Ok(snapshots) = core.tenant(namespace).snapshots(&driver) {
                snapshots.discard_in_turn(record.id).await;
            }
        }
        let blobs = core.0.blobs.clone();
        crate::blocking(move || {
            self.blobs.iter().for_each(|(_, digest)| blobs.remove_unneeded(digest));
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests;
