//! One writer thread in front of RocksDB: closures in, groups of them out as one write each.
//!
//! A caller queues a closure and waits. The writer thread takes what is queued, tenant by tenant in turns
//! ([`super::queue`]), runs the closures one after the other (each sees what the ones before it wrote), and writes all of
//! it as one RocksDB batch without syncing. Callers of
//! [`Durability::Crash`] have their answer then. Those of [`Durability::Power`] go on to the syncing thread, which syncs
//! the write-ahead log once for all that have gathered there. So a slow disk delays those who asked for it and nobody
//! else, and many callers share one sync.
//!
//! A closure that fails leaves nothing behind. One that was queued runs even if its caller no longer waits.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use windlass_model::{Context, Error, Namespace, Result};

use super::changes::Changes;
use super::queue::{Lane, Queue};
use super::rocks::{OlderLogs, Rocks, rocks_error};
use super::table::Each;
use super::{Key, Reader, Table, migrate};

/// The largest group of closures; a tenant that asks for one change waits for no more than this of a flood.
const GROUP: usize = 128;
/// How long a sync waits for more to come, where several came for those before it. A disk that syncs at once would get one
/// for nearly each caller otherwise; one that is slow gathers them by itself, and a caller alone never waits.
const GATHER: Duration = Duration::from_micros(250);

/// How much a write must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// `kill -9` of the daemon: in the write-ahead log, not synced.
    Crash,
    /// Also a power cut: the write-ahead log is synced before the answer.
    Power,
}

/// The database; clones are the same one.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    rocks: Arc<Rocks>,
    queue: Arc<Queue<Queued>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    counters: Arc<Counters>,
}

/// What the database did since it was opened, for tests and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Closures that were run.
    pub updates: u64,
    /// Batches written: one for each group that changed anything.
    pub writes: u64,
    /// Syncs of the write-ahead log.
    pub syncs: u64,
}

#[derive(Default)]
struct Counters {
    updates: AtomicU64,
    writes: AtomicU64,
    syncs: AtomicU64,
}

/// The committed state at one moment. Later writes do not show.
pub struct View<'a>(rocksdb::Snapshot<'a>);

/// A transaction: sees the committed state, the closures before it in its group, and its own writes.
pub struct Tx<'a> {
    rocks: &'a Rocks,
    group: &'a Writes,
    own: Writes,
    after: Vec<After>,
    changes: &'a mut Changes,
}

/// New values by key; `None` is a deletion.
type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
/// What is done once a transaction is as durable as asked.
type After = Box<dyn FnOnce() + Send>;
/// Tells the caller; gets the error that the whole group met, if any.
type Answer = Box<dyn FnOnce(Result<()>) + Send>;
/// Runs a caller's closure; the answer is held back until the write is done. Fails where the closure failed.
type Change = Box<dyn FnOnce(&mut Tx<'_>) -> (Answer, bool) + Send>;

type Queued = (Durability, Change);

/// What waits for a sync.
struct Pending {
    after: Vec<After>,
    answer: Answer,
}

impl Db {
    /// Opens the database in `folder`, makes it where it is missing, and brings its layout up to date.
    ///
    /// # Errors
    /// [`windlass_model::Kind::FailedPrecondition`] where a later version wrote it, [`windlass_model::Kind::DataLoss`] where it is damaged.
    pub async fn open(folder: &Path) -> Result<Self> {
        let path = folder.to_owned();
        let db = crate::blocking(move || Self::open_raw(&path)).await?;
        if let Err(error) = migrate::run(&db).await {
            db.close().await;
            return Err(error);
        }
        Ok(db)
    }

    /// Opens the database without looking at its layout.
    pub(super) fn open_raw(folder: &Path) -> Result<Self> {
        let (rocks, older) = super::rocks::open(folder)?;
        let rocks = Arc::new(rocks);
        let counters = Arc::new(Counters::default());
        let queue = Arc::new(Queue::new());
        let (to_sync, pending) = mpsc::unbounded_channel();
        let syncer = Syncer { rocks: rocks.clone(), older, counters: counters.clone(), pending };
        let writer = Writer {
            rocks: rocks.clone(),
            counters: counters.clone(),
            queue: queue.clone(),
            to_sync,
            changes: Changes::default(),
        };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(run).context(|| format!("start thread {name}"))
        };
        let threads = vec![
            spawn("meta-write", Box::new(move || writer.run()))?,
            spawn("meta-sync", Box::new(move || syncer.run()))?,
        ];
        Ok(Self(Arc::new(Inner { rocks, queue, threads: Mutex::new(threads), counters })))
    }

    /// Lets the changes of one tenant go before those of the others from now on.
    pub(crate) fn favour(&self, namespace: Namespace) {
        self.0.queue.favour(Lane::Tenant(namespace));
    }

    /// Runs `change` on the writer thread, alone among all writers, and writes what it wrote, all or nothing.
    ///
    /// `change` runs to its end even if the caller stops waiting. It must not block for long: every writer waits for it.
    ///
    /// # Errors
    /// What `change` answers; [`windlass_model::Kind::ResourceExhausted`] for a full disk; [`windlass_model::Kind::Unavailable`] after [`Db::close`].
    pub async fn update<T: Send + 'static>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.update_in(Lane::Core, durability, change).await
    }

    /// As [`Db::update`], in the turns of a tenant.
    pub(crate) async fn update_in<T: Send + 'static>(
        &self,
        lane: Lane,
        durability: Durability,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (tell, told) = oneshot::channel();
        let change = boxed(change, move |result| drop(tell.send(result)));
        if !self.0.queue.push(lane, (durability, change)).await {
            return Err(shut());
        }
        told.await.map_err(|_| shut())?
    }

    /// Queues `change` without waiting for its outcome, which `done` gets on a thread of the database. The queue has no
    /// bound for these: callers see to it that few of theirs are queued.
    ///
    /// # Errors
    /// [`windlass_model::Kind::Unavailable`] after [`Db::close`]; `done` gets nothing then.
    pub fn post<T: Send + 'static>(
        &self,
        durability: Durability,
        change: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) -> Result<()> {
        if self.0.queue.push_now(Lane::Core, (durability, boxed(change, done))) { Ok(()) } else { Err(shut()) }
    }

    /// The committed state as it is now; blocks at most for a read of the disk.
    pub fn view(&self) -> View<'_> {
        View(self.0.rocks.snapshot())
    }

    /// Looks at the committed state as it is now.
    ///
    /// # Errors
    /// What `look` answers.
    pub fn read<T>(&self, look: impl FnOnce(&View<'_>) -> Result<T>) -> Result<T> {
        look(&self.view())
    }

    /// What was done since the database was opened.
    pub fn metrics(&self) -> Metrics {
        let counters = &self.0.counters;
        Metrics {
            updates: counters.updates.load(Ordering::Relaxed),
            writes: counters.writes.load(Ordering::Relaxed),
            syncs: counters.syncs.load(Ordering::Relaxed),
        }
    }

    /// Does what is queued, then takes no more. The files are closed when the last clone is gone.
    pub async fn close(&self) {
        self.0.queue.close();
        let threads = std::mem::take(&mut *self.0.threads.lock());
        let joined = crate::blocking(move || {
            threads
                .into_iter()
                .try_for_each(JoinHandle::join)
                .map_err(|_| Error::internal("a database thread panicked"))
        });
        if let Err(error) = joined.await {
            tracing::error!(%error, "closing the database");
        }
    }
}

impl Drop for Inner {
    /// Ends the threads of a database that nobody closed: one that runs on into the end of the process would find RocksDB's
    /// own globals gone.
    fn drop(&mut self) {
        self.queue.close();
        let here = std::thread::current().id();
        // The last handle may have gone with a closure, on the writer's own thread. A thread that panicked has said so.
        for thread in self.threads.get_mut().drain(..).filter(|thread| thread.thread().id() != here) {
            let _ = thread.join();
        }
    }
}

fn shut() -> Error {
    Error::unavailable("the database is shut")
}

/// Joins a closure with the way to tell its outcome.
fn boxed<T: Send + 'static>(
    change: impl FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    tell: impl FnOnce(Result<T>) + Send + 'static,
) -> Change {
    Box::new(move |tx| {
        let outcome = catch_unwind(AssertUnwindSafe(|| change(tx)))
            .unwrap_or_else(|_| Err(Error::internal("a change of records panicked")));
        let good = outcome.is_ok();
        let answer: Answer = Box::new(move |written| tell(outcome.and_then(|value| written.map(|()| value))));
        (answer, good)
    })
}

/// The writer thread's state.
struct Writer {
    rocks: Arc<Rocks>,
    counters: Arc<Counters>,
    queue: Arc<Queue<Queued>>,
    to_sync: mpsc::UnboundedSender<Vec<Pending>>,
    changes: Changes,
}

impl Writer {
    fn run(mut self) {
        while let Some(taken) = self.queue.take(GROUP) {
            self.counters.updates.fetch_add(taken.len() as u64, Ordering::Relaxed);
            let mut group = Group::default();
            for (durability, change) in taken {
                group.add(&self.rocks, &mut self.changes, durability, change);
            }
            self.write(group);
        }
    }

    /// Writes the group as one batch; answers those who asked for [`Durability::Crash`], passes on the others.
    fn write(&mut self, group: Group) {
        self.changes.note(group.writes.keys());
        let written = if group.writes.is_empty() { Ok(()) } else { self.write_batch(&group.writes) };
        let mut pending = Vec::new();
        for Member { durability, after, answer, good } in group.members {
            match &written {
                // A closure that failed has nothing to wait for, and its answer is its own error.
                Ok(()) if good && durability == Durability::Power => pending.push(Pending { after, answer }),
                Ok(()) => finish(after, answer),
                Err(error) => answer(Err(error.share())),
            }
        }
        if !pending.is_empty() {
            // The syncing thread lives as long as this sender.
            let _ = self.to_sync.send(pending);
        }
    }

    fn write_batch(&self, writes: &Writes) -> Result<()> {
        let mut batch = rocksdb::WriteBatch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        self.rocks.write(batch).map_err(|error| rocks_error("write records", error))
    }
}

/// The closures that were run since the last write.
#[derive(Default)]
struct Group {
    writes: Writes,
    members: Vec<Member>,
}

struct Member {
    durability: Durability,
    after: Vec<After>,
    answer: Answer,
    good: bool,
}

impl Group {
    fn add(&mut self, rocks: &Rocks, changes: &mut Changes, durability: Durability, change: Change) {
        let mut tx = Tx { rocks, group: &self.writes, own: Writes::new(), after: Vec::new(), changes };
        let (answer, good) = change(&mut tx);
        let Tx { own, mut after, .. } = tx;
        if good {
            self.writes.extend(own);
        } else {
            after.clear();
        }
        self.members.push(Member { durability, after, answer, good });
    }
}

/// The syncing thread's state.
struct Syncer {
    rocks: Arc<Rocks>,
    /// To be synced before anything that is written now.
    older: OlderLogs,
    counters: Arc<Counters>,
    pending: mpsc::UnboundedReceiver<Vec<Pending>>,
}

impl Syncer {
    fn run(mut self) {
        // How many came together lately.
        let mut crowd = 1;
        while let Some(first) = self.pending.blocking_recv() {
            let mut gathered = first;
            if crowd > 1 {
                std::thread::sleep(GATHER);
            }
            while let Ok(next) = self.pending.try_recv() {
                gathered.extend(next);
            }
            crowd = gathered.len().max(crowd / 2);
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
            let synced = self.sync();
            for Pending { after, answer } in gathered {
                match &synced {
                    Ok(()) => finish(after, answer),
                    Err(error) => answer(Err(error.share())),
                }
            }
        }
    }
}

impl Syncer {
    fn sync(&mut self) -> Result<()> {
        self.older.sync()?;
        self.rocks.flush_wal(true).map_err(|error| rocks_error("sync records", error))
    }
}

fn finish(after: Vec<After>, answer: Answer) {
    for act in after {
        if catch_unwind(AssertUnwindSafe(act)).is_err() {
            tracing::error!("what follows a change of records panicked");
        }
    }
    answer(Ok(()));
}

impl Tx<'_> {
    /// Writes the record under `key`, new or not.
    ///
    /// # Errors
    /// [`windlass_model::Kind::Internal`] where the value has no JSON form.
    pub fn put<K: Key, V: Serialize>(&mut self, table: &Table<K, V>, key: &K, value: &V) -> Result<()> {
        self.own.insert(table.key(key), Some(table.bytes(value)?));
        Ok(())
    }

    /// Deletes the record under `key`, if there is one.
    pub fn delete<K: Key, V>(&mut self, table: &Table<K, V>, key: &K) {
        self.own.insert(table.key(key), None);
    }

    /// Keeps the keys of all writes from now on; a [`Db::view`] taken after this shows no less than what is not kept. There
    /// is one watcher.
    pub(crate) fn watch_changes(&mut self) {
        self.changes.begin();
    }

    /// The keys written since [`Tx::watch_changes`] or the last call, up to the transactions before this one; `None` where
    /// there were too many.
    pub(crate) fn changes(&mut self) -> Option<BTreeSet<Vec<u8>>> {
        let mut keys = self.changes.take()?;
        keys.extend(self.group.keys().cloned());
        Some(keys)
    }

    /// Ends the watch.
    pub(crate) fn forget_changes(&mut self) {
        self.changes.end();
    }

    /// Does `act` once the transaction is as durable as asked, before its caller is told; never if it fails. `act` runs
    /// on a thread of the database and must not wait.
    pub fn after_commit(&mut self, act: impl FnOnce() + Send + 'static) {
        self.after.push(Box::new(act));
    }
}

impl Reader for Tx<'_> {
    fn bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.own.get(key).or_else(|| self.group.get(key)) {
            Some(value) => Ok(value.clone()),
            None => self.rocks.get(key).map_err(|error| rocks_error("read a record", error)),
        }
    }

    fn range(&self, prefix: &[u8], each: Each<'_>) -> Result<()> {
        // What is not written yet hides what is.
        let mut newer: BTreeMap<&[u8], Option<&[u8]>> = BTreeMap::new();
        for writes in [self.group, &self.own] {
            let from = writes.range::<[u8], _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
            newer.extend(
                from.take_while(|(key, _)| key.starts_with(prefix))
                    .map(|(key, value)| (key.as_slice(), value.as_deref())),
            );
        }
        let mut newer = newer.into_iter().peekable();
        let mut more = true;
        walk(self.rocks.raw_iterator_opt(super::rocks::scanning(prefix)), prefix, &mut |key, value| {
            while let Some((new_key, new_value)) = newer.next_if(|(new_key, _)| *new_key <= key) {
                if let Some(new_value) = new_value {
                    more = each(new_key, new_value)?;
                }
                if new_key == key || !more {
                    return Ok(more);
                }
            }
            more = each(key, value)?;
            Ok(more)
        })?;
        for (key, value) in newer {
            if let Some(value) = value.filter(|_| more) {
                more = each(key, value)?;
            }
        }
        Ok(())
    }
}

impl Reader for View<'_> {
    fn bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.0.get(key).map_err(|error| rocks_error("read a record", error))
    }

    fn range(&self, prefix: &[u8], each: Each<'_>) -> Result<()> {
        walk(self.0.raw_iterator_opt(super::rocks::scanning(prefix)), prefix, each)
    }
}

fn walk(mut cursor: rocksdb::DBRawIterator<'_>, prefix: &[u8], each: Each<'_>) -> Result<()> {
    cursor.seek(prefix);
    while let Some((key, value)) = cursor.item() {
        if !key.starts_with(prefix) || !each(key, value)? {
            return Ok(());
        }
        cursor.next();
    }
    cursor.status().map_err(|error| rocks_error("read records", error))
}

#[cfg(test)]
mod tests;
