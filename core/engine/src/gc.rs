//! The garbage collector: what nothing refers to goes, records first and files afterwards.
//!
//! Roots are images, containers, leases that have not expired, and whatever carries the label `containerd.io/gc.root`.
//! From there it follows image targets, a snapshot's parent, and the labels `containerd.io/gc.ref.content…` (a digest) and
//! `containerd.io/gc.ref.snapshot.<driver>…` (a name) on anything reached; `…` is nothing, or `.` or `/` and any words.
//! A lease with `containerd.io/gc.flat` keeps only what it names.
//!
//! A collection first marks in a view, which stops nobody. Only if that finds garbage does it mark once more on the
//! writer's thread and delete in the same transaction, so nothing that was referred to meanwhile is lost. Files are
//! removed after that, outside; a crash in between leaves files without record for the next open to remove.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use windlass_model::snapshotter::{Kind, Labels};
use windlass_model::{Digest, LeaseId, Namespace, Result, Timestamp};

use crate::content::{self, BlobRecord};
use crate::core::Inner;
use crate::meta::schema::{BLOBS, CONTAINERS, IMAGES, LEASED, LEASES, SANDBOXES, SNAPSHOTS};
use crate::meta::{Durability, Reader, Tx};
use crate::snapshots::{self, SnapshotRecord};
use crate::{Core, leases};

/// How long an active snapshot or view that nothing refers to is left alone: its container is yet to be recorded.
pub const GRACE: Duration = Duration::from_secs(10 * 60);
/// How long after a deletion the background collection waits for more of them.
const SETTLE: Duration = Duration::from_secs(5);
/// How often the background collection runs unasked, for what expires.
const INTERVAL: Duration = Duration::from_secs(60 * 60);

const ROOT: &str = "containerd.io/gc.root";
const REFERS_TO_CONTENT: &str = "containerd.io/gc.ref.content";
const REFERS_TO_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcStats {
    /// Leases that had expired.
    pub leases: usize,
    /// Blobs, counted in each namespace that knew them.
    pub blobs: usize,
    /// Snapshots.
    pub snapshots: usize,
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

/// What a marking found to delete.
#[derive(Debug, Default)]
struct Garbage {
    leases: Vec<(Namespace, LeaseId)>,
    blobs: Vec<BlobKey>,
    snapshots: Vec<(SnapshotKey, SnapshotRecord)>,
}

/// What a reference leads to.
enum Node {
    Blob(BlobKey),
    Snapshot(SnapshotKey),
}

/// A marking under way.
struct Marking {
    blobs: BTreeMap<BlobKey, BlobRecord>,
    snapshots: BTreeMap<SnapshotKey, SnapshotRecord>,
    marked_blobs: HashSet<BlobKey>,
    marked_snapshots: HashSet<SnapshotKey>,
    todo: Vec<Node>,
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

/// Collects now. See [`Core::collect`].
pub(crate) async fn collect(core: &Core) -> Result<GcStats> {
    let _one = core.0.collector.running.lock().await;
    let looking = core.clone();
    let anything = crate::blocking(move || Ok(!mark(&looking.0.db.view(), Timestamp::now())?.is_empty())).await?;
    let mut garbage = Garbage::default();
    if anything {
        let events = core.events().clone();
        let sweep = move |tx: &mut Tx<'_>| {
            let garbage = mark(tx, Timestamp::now())?;
            for (namespace, lease) in &garbage.leases {
                leases::delete(tx, namespace, lease)?;
            }
            garbage.blobs.iter().for_each(|key| content::remove(tx, &events, key));
            garbage.snapshots.iter().for_each(|(key, record)| snapshots::remove(tx, &events, key, record));
            Ok(garbage)
        };
        // Synced before a file goes: a record that came back after a power cut would have no file.
        garbage = core.0.db.update(Durability::Power, sweep).await?;
    }
    let mut stats = GcStats {
        leases: garbage.leases.len(),
        blobs: garbage.blobs.len(),
        snapshots: garbage.snapshots.len(),
        ingests: 0,
    };
    for ((namespace, driver, _), record) in garbage.snapshots {
        // A driver that is no longer configured leaves its files to whoever configures it again.
        if let Ok(snapshots) = core.tenant(namespace).snapshots(&driver) {
            snapshots.discard_in_turn(record.id).await;
        }
    }
    let (blobs, gone) = (core.0.blobs.clone(), garbage.blobs);
    stats.ingests = crate::blocking(move || {
        gone.iter().for_each(|(_, digest)| blobs.remove_unneeded(digest));
        content::expire(&blobs)
    })
    .await?;
    Ok(stats)
}

impl Garbage {
    fn is_empty(&self) -> bool {
        self.leases.is_empty() && self.blobs.is_empty() && self.snapshots.is_empty()
    }
}

/// Marks what the roots lead to and gives the rest.
fn mark(reader: &impl Reader, now: Timestamp) -> Result<Garbage> {
    let mut marking = Marking {
        blobs: reader.scan(&BLOBS, &())?.into_iter().collect(),
        snapshots: reader.scan(&SNAPSHOTS, &())?.into_iter().collect(),
        marked_blobs: HashSet::new(),
        marked_snapshots: HashSet::new(),
        todo: Vec::new(),
    };
    let expired = marking.leases(reader, now)?;
    for ((namespace, _), image) in reader.scan(&IMAGES, &())? {
        marking.labels(&namespace, &image.labels);
        marking.todo.push(Node::Blob((namespace, image.target.digest)));
    }
    for ((namespace, _), container) in reader.scan(&CONTAINERS, &())? {
        marking.labels(&namespace, &container.labels);
        if !container.snapshot_key.is_empty() {
            marking.todo.push(Node::Snapshot((namespace, container.snapshotter, container.snapshot_key)));
        }
    }
    for ((namespace, _), sandbox) in reader.scan(&SANDBOXES, &())? {
        marking.labels(&namespace, &sandbox.labels);
    }
    marking.roots_by_themselves(now);
    marking.follow();
    Ok(marking.rest(expired))
}

impl Marking {
    /// Takes the live leases as roots and gives those that have expired.
    fn leases(&mut self, reader: &impl Reader, now: Timestamp) -> Result<Vec<(Namespace, LeaseId)>> {
        let mut expired = Vec::new();
        for (key, lease) in reader.scan(&LEASES, &())? {
            // A label that cannot be read keeps the lease.
            if lease.expires().ok().flatten().is_some_and(|end| end <= now) {
                expired.push(key);
                continue;
            }
            for ((namespace, _, kind, id), ()) in reader.scan(&LEASED, &key)? {
                let node = match (kind.as_str(), kind.strip_prefix("snapshots/")) {
                    ("content", _) => id.parse().ok().map(|digest| Node::Blob((namespace, digest))),
                    ("images", _) => reader
                        .find(&IMAGES, &(namespace.clone(), id))?
                        .map(|image| Node::Blob((namespace, image.target.digest))),
                    (_, Some(driver)) => Some(Node::Snapshot((namespace, driver.to_owned(), id))),
                    _ => None,
                };
                match node {
                    Some(node) if lease.is_flat() => drop(self.mark(&node)),
                    Some(node) => self.todo.push(node),
                    None => {}
                }
            }
        }
        Ok(expired)
    }

    /// What stays without anything that refers to it.
    fn roots_by_themselves(&mut self, now: Timestamp) {
        let youngest = now.nanos().saturating_sub(GRACE.as_nanos() as i64);
        let blobs = self.blobs.iter().filter(|(_, blob)| blob.labels.contains_key(ROOT));
        self.todo.extend(blobs.map(|(key, _)| Node::Blob(key.clone())));
        let snapshots = self.snapshots.iter().filter(|(_, snapshot)| {
            let fresh = snapshot.kind != Kind::Committed && snapshot.created_at.nanos() > youngest;
            fresh || snapshot.labels.contains_key(ROOT)
        });
        self.todo.extend(snapshots.map(|(key, _)| Node::Snapshot(key.clone())));
    }

    /// Takes what labels refer to.
    fn labels(&mut self, namespace: &Namespace, labels: &Labels) {
        for (label, value) in labels {
            if let Some(rest) = label.strip_prefix(REFERS_TO_CONTENT) {
                if let (true, Ok(digest)) = (rest.is_empty() || rest.starts_with(['.', '/']), value.parse()) {
                    self.todo.push(Node::Blob((namespace.clone(), digest)));
                }
            } else if let Some(rest) = label.strip_prefix(REFERS_TO_SNAPSHOT) {
                let driver = rest.split(['.', '/']).next().unwrap_or(rest);
                self.todo.push(Node::Snapshot((namespace.clone(), driver.to_owned(), value.clone())));
            }
        }
    }

    /// Marks one thing, and tells whether that is news.
    fn mark(&mut self, node: &Node) -> bool {
        match node {
            Node::Blob(key) => self.marked_blobs.insert(key.clone()),
            Node::Snapshot(key) => self.marked_snapshots.insert(key.clone()),
        }
    }

    /// Follows references until there are no new ones.
    fn follow(&mut self) {
        // What a flat lease marked was not followed; if something else leads there, it is.
        let mut followed_blobs = HashSet::new();
        let mut followed_snapshots = HashSet::new();
        while let Some(node) = self.todo.pop() {
            self.mark(&node);
            match node {
                Node::Blob(key) => {
                    let labels = self.blobs.get(&key).map(|blob| blob.labels.clone());
                    let namespace = key.0.clone();
                    if let (true, Some(labels)) = (followed_blobs.insert(key), labels) {
                        self.labels(&namespace, &labels);
                    }
                }
                Node::Snapshot(key) => {
                    let Some(snapshot) = self.snapshots.get(&key) else { continue };
                    let (parent, labels) = (snapshot.parent.clone(), snapshot.labels.clone());
                    let (namespace, driver) = (key.0.clone(), key.1.clone());
                    if followed_snapshots.insert(key) {
                        self.labels(&namespace, &labels);
                        self.todo.extend(parent.map(|parent| Node::Snapshot((namespace, driver, parent))));
                    }
                }
            }
        }
    }

    /// What was not marked. A snapshot on which another stands stays, too: a flat lease may keep only the upper one.
    fn rest(mut self, leases: Vec<(Namespace, LeaseId)>) -> Garbage {
        let mut next: Vec<SnapshotKey> = self.marked_snapshots.iter().cloned().collect();
        while let Some((namespace, driver, key)) = next.pop() {
            let snapshot = self.snapshots.get(&(namespace.clone(), driver.clone(), key));
            let parent = snapshot.and_then(|snapshot| snapshot.parent.clone());
            if let Some(parent) = parent.map(|parent| (namespace, driver, parent))
                && self.marked_snapshots.insert(parent.clone())
            {
                next.push(parent);
            }
        }
        let blobs = self.blobs.into_keys().filter(|key| !self.marked_blobs.contains(key)).collect();
        let snapshots = self.snapshots.into_iter().filter(|(key, _)| !self.marked_snapshots.contains(key)).collect();
        Garbage { leases, blobs, snapshots }
    }
}

#[cfg(test)]
mod tests;
