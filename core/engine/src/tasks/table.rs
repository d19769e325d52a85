//! Which task lives in which shim, and how it ended: the one place where an exit is taken, once, whoever reports it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;
use windlass_model::process::Exit;
use windlass_model::{Id, Namespace, Result};

use super::bundle::{Bundle, Ended};

/// A thing in its namespace.
pub(super) type Key = (Namespace, Id);

/// How something ended: set once, whoever reports it, and never changed.
#[derive(Debug)]
pub(super) struct Ending(watch::Sender<Option<Exit>>);

/// One task. Its exit is set once and never changes.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) namespace: Namespace,
    pub(super) id: Id,
    /// The sandbox, or the container itself where it has a shim of its own.
    pub(super) shim: Id,
    pub(super) bundle: Bundle,
    /// True once the bundle is removed: nothing is written there any more, for the next task of that name has it.
    removed: Mutex<bool>,
    pid: AtomicU32,
    exit: Ending,
    /// How many execs are under way.
    execs: watch::Sender<usize>,
}

/// An exec that is under way.
#[derive(Debug)]
pub(super) struct Underway(Arc<Entry>);

/// All tasks of all namespaces.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<HashMap<Key, Arc<Entry>>>);

impl Ending {
    pub(super) fn new(known: Option<Exit>) -> Self {
        Self(watch::Sender::new(known))
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        *self.0.borrow()
    }

    /// Takes an exit; false where one is known already.
    pub(super) fn take(&self, exit: Exit) -> bool {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(exit);
            first
        })
    }

    /// Waits for the exit. Cancel safe.
    pub(super) async fn wait(&self) -> Exit {
        let mut exits = self.0.subscribe();
        loop {
            if let Some(exit) = *exits.borrow_and_update() {
                return exit;
            }
            if exits.changed().await.is_err() {
                // The sender is a field of self, so it outlives this borrow.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Entry {
    pub(super) fn new(namespace: Namespace, id: Id, shim: Id, bundle: Bundle, ended: Option<Ended>) -> Arc<Self> {
        Arc::new(Self {
            namespace,
            id,
            shim,
            bundle,
            removed: Mutex::new(false),
            pid: AtomicU32::new(ended.map_or(0, |ended| ended.pid)),
            exit: Ending::new(ended.map(|ended| ended.exit)),
            execs: watch::Sender::new(0),
        })
    }

    /// Its first process; 0 before that is known.
    pub(super) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub(super) fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        self.exit.exit()
    }

    /// Takes an exit; false where one is known already.
    pub(super) fn end(&self, exit: Exit) -> bool {
        self.exit.take(exit)
    }

    /// Waits for the exit. Cancel safe.
    pub(super) async fn wait(&self) -> Exit {
        self.exit.wait().await
    }
}

impl Entry {
    /// Writes down in the bundle how the task ended, unless that is not known or the bundle is removed. Blocks.
    pub(super) fn keep_exit(&self) -> Result<()> {
        // Held while writing: a bundle that is being removed must not get a file meanwhile.
        let removed = self.removed.lock();
        match self.exit() {
            Some(exit) if !*removed => self.bundle.set_ended(Ended { pid: self.pid(), exit }),
            _ => Ok(()),
        }
    }

    /// Removes the bundle for good; a second time does nothing. Blocks.
    pub(super) fn remove_bundle(&self) -> Result<()> {
        let mut removed = self.removed.lock();
        if !*removed {
            self.bundle.remove()?;
            *removed = true;
        }
        Ok(())
    }

    /// Counts an exec until the answer is dropped.
    pub(super) fn begin_exec(self: &Arc<Self>) -> Underway {
        self.execs.send_modify(|count| *count += 1);
        Underway(self.clone())
    }

    /// Waits until no exec is under way. Cancel safe.
    pub(super) async fn execs_ended(&self) {
        // The sender is a field of self, so it outlives this wait.
        let _ = self.execs.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.execs.send_modify(|count| *count -= 1);
    }
}

impl Table {
    pub(super) fn get(&self, namespace: &Namespace, id: &Id) -> Option<Arc<Entry>> {
        self.0.lock().get(&(namespace.clone(), id.clone())).cloned()
    }

    /// Adds a task; gives back the one that has its name already.
    pub(super) fn insert(&self, entry: Arc<Entry>) -> Result<(), Arc<Entry>> {
        use std::collections::hash_map::Entry::{Occupied, Vacant};
        match self.0.lock().entry((entry.namespace.clone(), entry.id.clone())) {
            Occupied(known) => Err(known.get().clone()),
            Vacant(place) => {
                place.insert(entry);
                Ok(())
            }
        }
    }

    pub(super) fn remove(&self, namespace: &Namespace, id: &Id) {
        self.0.lock().remove(&(namespace.clone(), id.clone()));
    }

    /// The tasks of one shim.
    pub(super) fn of_shim(&self, namespace: &Namespace, shim: &Id) -> Vec<Arc<Entry>> {
        let all = self.0.lock();
        all.values().filter(|entry| entry.namespace == *namespace && entry.shim == *shim).cloned().collect()
    }

    /// All tasks of a namespace.
    pub(super) fn of_namespace(&self, namespace: &Namespace) -> Vec<Arc<Entry>> {
        self.0.lock().values().filter(|entry| entry.namespace == *namespace).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use windlass_model::Timestamp;

    use super::*;
    use crate::tasks::bundle::Bundles;

    fn entry() -> Arc<Entry> {
        let (namespace, id): (Namespace, Id) = ("n".parse().unwrap(), "c".parse().unwrap());
        let bundle = Bundles::new(std::path::Path::new("/nowhere")).of(&namespace, &id);
        Entry::new(namespace, id, "s".parse().unwrap(), bundle, None)
    }

    #[tokio::test]
    async fn the_first_exit_stands() {
        let entry = entry();
        let waiting = {
            let entry = entry.clone();
            tokio::spawn(async move { entry.wait().await })
        };
        tokio::task::yield_now().await;
        assert!(entry.end(Exit { status: 3, at: Timestamp(1) }));
        assert!(!entry.end(Exit { status: 137, at: Timestamp(2) }));
        assert_eq!(waiting.await.unwrap().status, 3);
        assert_eq!(entry.wait().await.status, 3);
    }

    #[test]
    fn a_removed_bundle_stays_away() {
        let state = tempfile::tempdir().unwrap();
        let (namespace, id): (Namespace, Id) = ("n".parse().unwrap(), "c".parse().unwrap());
        for round in 0..200 {
            let bundle = Bundles::new(state.path()).of(&namespace, &id);
            let sandbox: Id = "s".parse().unwrap();
            bundle.fill(&sandbox, b"{}").unwrap();
            let entry = Entry::new(namespace.clone(), id.clone(), sandbox.clone(), bundle.clone(), None);
            entry.end(Exit { status: 3, at: Timestamp(1) });
            let writer = {
                let entry = entry.clone();
                std::thread::spawn(move || (0..20).for_each(|_| entry.keep_exit().unwrap()))
            };
            entry.remove_bundle().unwrap();
            assert!(!bundle.exists(), "round {round}");
            // The next task of that name has the bundle now; what is late of the old one must not touch it.
            bundle.fill(&sandbox, b"{}").unwrap();
            writer.join().unwrap();
            entry.remove_bundle().unwrap();
            assert!(bundle.exists() && bundle.ended().is_none(), "round {round}");
            bundle.remove().unwrap();
        }
    }

    #[test]
    fn a_name_is_taken_once() {
        let table = Table::default();
        let first = entry();
        table.insert(first.clone()).unwrap();
        assert!(table.insert(entry()).is_err());
        assert_eq!(table.of_shim(&first.namespace, &first.shim).len(), 1);
        table.remove(&first.namespace, &first.id);
        assert!(table.get(&first.namespace, &first.id).is_none());
    }
}
