//! All shims by name, each with its one owner task, and the tasks inside them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use windlass_model::event::Event;
use windlass_model::process::Exit;
use windlass_model::{Error, Id, Namespace, Result, Timestamp};

use super::bundle::{Bundles, Found};
use super::client::Client;
use super::owner::{Birth, Command, Owner, Phase};
use super::table::{Ending, Entry, Key, Table};
use super::{ShimConfig, launch};
use crate::blocking;
use crate::events::Events;

/// How many shims are connected to at the same time when a daemon starts.
const RECONNECTS: usize = 64;
/// How many requests an owner keeps while it is busy.
const MAILBOX: usize = 16;

/// The live shims of all namespaces; clones are the same roster.
#[derive(Clone)]
pub struct Roster(Arc<Inner>);

pub(super) struct Inner {
    pub(super) bundles: Bundles,
    pub(super) config: ShimConfig,
    pub(super) tasks: Table,
    pub(super) reconnects: Semaphore,
    pub(super) stop: CancellationToken,
    events: Events,
    shims: Mutex<HashMap<Key, Handle>>,
    owners: TaskTracker,
    /// Where owners run, whoever asks for a shim: not as a part of one tenant's work, which may have to step back.
    runtime: tokio::runtime::Handle,
}

/// How a shim's owner is reached.
#[derive(Clone)]
struct Handle {
    mailbox: mpsc::Sender<Command>,
    phase: watch::Receiver<Phase>,
    /// How the sandbox ended; never set for the shim of a single container.
    ending: Arc<Ending>,
}

impl Roster {
    /// Finds the shims under `state` and reconnects to them in the background: a verb waits for its own shim only.
    ///
    /// # Errors
    /// Where the folder of bundles cannot be read.
    pub(crate) async fn open(state: PathBuf, config: ShimConfig, events: Events) -> Result<Self> {
        let bundles = Bundles::new(&state);
        let found = {
            let bundles = bundles.clone();
            blocking(move || {
                let found = bundles.scan()?;
                Ok(found
                    .into_iter()
                    .map(|found| {
                        let ended = match &found {
                            Found::Container(namespace, id, _) => {
                                let bundle = bundles.of(namespace, id);
                                bundle.sweep_streams();
                                bundle.ended()
                            }
                            Found::Shim(..) => None,
                        };
                        (found, ended)
                    })
                    .collect::<Vec<_>>())
            })
            .await?
        };
        let roster = Self(Arc::new(Inner {
            bundles,
            config,
            tasks: Table::default(),
            reconnects: Semaphore::new(RECONNECTS),
            stop: CancellationToken::new(),
            events,
            shims: Mutex::default(),
            owners: TaskTracker::new(),
            runtime: tokio::runtime::Handle::current(),
        }));
        let mut shims = Vec::new();
        for (found, ended) in found {
            match found {
                Found::Shim(namespace, id) => shims.push((namespace, id)),
                Found::Container(namespace, id, shim) => {
                    let bundle = roster.0.bundles.of(&namespace, &id);
                    // A name stands once on a disk, so nothing can be there yet.
                    let _ = roster.0.tasks.insert(Entry::new(namespace, id, shim, bundle, ended));
                }
            }
        }
        // Owners come last: they look for the tasks of their shim.
        for (namespace, id) in shims {
            roster.spawn(&mut roster.0.shims.lock(), (namespace, id), Birth::Reconnect);
        }
        Ok(roster)
    }

    /// Lets every owner go; the shims live on.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.owners.close();
        self.0.owners.wait().await;
    }

    /// True where a container's task lives and its first process is known and not `pid`.
    pub(crate) fn runs_another(&self, namespace: &Namespace, id: &Id, pid: u32) -> bool {
        let entry = self.0.tasks.get(namespace, id);
        entry.is_some_and(|entry| entry.exit().is_none() && ![0, pid].contains(&entry.pid()))
    }

    /// A task that runs as `pid`, without a shim.
    #[cfg(test)]
    pub(crate) fn pretend(&self, namespace: &Namespace, id: &Id, pid: u32) {
        let bundle = self.0.bundles.of(namespace, id);
        let entry = Entry::new(namespace.clone(), id.clone(), id.clone(), bundle, None);
        entry.set_pid(pid);
        self.0.tasks.insert(entry).unwrap();
    }

    /// True where a shim of the namespace may live.
    pub(crate) fn holds(&self, namespace: &Namespace) -> bool {
        let shims = self.0.shims.lock();
        shims.iter().any(|((of, _), handle)| of == namespace && !matches!(&*handle.phase.borrow(), Phase::Gone))
    }

    /// How many shims there are, reachable or not.
    pub fn len(&self) -> usize {
        self.0.shims.lock().len()
    }

    /// True where there is no shim.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes what a shim reports: the end of a task goes into the table, once; everything is published.
    pub(super) fn take(&self, namespace: &Namespace, event: Event, at: Timestamp) {
        self.0.take(namespace, event, at);
    }

    /// Waits until what was published for a namespace survives the end of this process.
    pub(super) async fn settle(&self, namespace: &Namespace) -> Result<()> {
        self.0.events.settle_of(namespace).await
    }

    /// Starts the shim of a task that is in the table, and has its owner bring it up.
    pub(super) async fn boot_task(
        &self,
        key: Key,
        birth: impl FnOnce(oneshot::Sender<Result<()>>) -> Birth,
    ) -> Result<()> {
        self.boot(key, |_| false, birth).await
    }

    /// Starts the shim of a sandbox and has its owner bring it up.
    pub(super) async fn boot_sandbox<T>(
        &self,
        key: Key,
        birth: impl FnOnce(oneshot::Sender<Result<T>>) -> Birth,
    ) -> Result<T> {
        // Both would have the same bundle.
        self.boot(key, |(namespace, id)| self.0.tasks.get(namespace, id).is_some(), birth).await
    }

    async fn boot<T>(
        &self,
        key: Key,
        taken: impl FnOnce(&Key) -> bool,
        birth: impl FnOnce(oneshot::Sender<Result<T>>) -> Birth,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        {
            let mut shims = self.0.shims.lock();
            if shims.contains_key(&key) {
                return Err(Error::already_exists(format!("sandbox {} has a shim", key.1)));
            }
            if taken(&key) {
                return Err(Error::already_exists(format!("container {} has a task", key.1)));
            }
            self.spawn(&mut shims, key, birth(reply));
        }
        answer.await.unwrap_or_else(|_| Err(Error::unavailable("the daemon is stopping")))
    }

    /// Adds a task to the table, unless it or a sandbox of its name is there.
    pub(super) fn add_task(&self, entry: Arc<Entry>) -> Result<()> {
        let key = (entry.namespace.clone(), entry.id.clone());
        // Held meanwhile, so that no sandbox takes the name.
        let shims = self.0.shims.lock();
        let known = shims.get(&key).is_some_and(|handle| !matches!(&*handle.phase.borrow(), Phase::Gone));
        match self.0.tasks.insert(entry) {
            Err(_) => Err(Error::already_exists(format!("container {} has a task", key.1))),
            Ok(()) if known => {
                self.0.tasks.remove(&key.0, &key.1);
                Err(Error::already_exists(format!("there is a sandbox {}", key.1)))
            }
            Ok(()) => Ok(()),
        }
    }

    /// How a sandbox ends or has ended; nothing where there is no shim of that name, or it is a single container's.
    pub(super) fn ending(&self, key: &Key) -> Option<Arc<Ending>> {
        let ending = self.0.shims.lock().get(key)?.ending.clone();
        self.0.tasks.get(&key.0, &key.1).is_none().then_some(ending)
    }

    /// True where there is a bundle of that name and nobody to look after it. Blocks for a moment.
    pub(super) fn is_leftover(&self, key: &Key) -> bool {
        !self.0.shims.lock().contains_key(key)
            && self.0.tasks.get(&key.0, &key.1).is_none()
            && self.0.bundles.of(&key.0, &key.1).exists()
    }

    /// Takes a shim down with everything in it, whatever state it is in; nothing there is success.
    pub(super) async fn down(&self, key: Key) -> Result<()> {
        loop {
            let bundle = self.0.bundles.of(&key.0, &key.1);
            let mailbox = {
                let mut shims = self.0.shims.lock();
                match shims.get(&key) {
                    Some(handle) => handle.mailbox.clone(),
                    None if !bundle.exists() => return Ok(()),
                    None => self.spawn(&mut shims, key.clone(), Birth::Leftover),
                }
            };
            let (reply, answer) = oneshot::channel();
            // An owner that ends between the look-up and here has taken its shim down already: the next round sees it.
            if mailbox.send(Command::Down(reply)).await.is_ok()
                && let Ok(result) = answer.await
            {
                return result;
            }
            if self.0.stop.is_cancelled() {
                return Err(Error::unavailable("the daemon is stopping"));
            }
            tokio::task::yield_now().await;
        }
    }

    /// The connection to a shim, once it is known whether there is one.
    ///
    /// # Errors
    /// `NotFound` where there is no such shim; `Unavailable` where it does not answer.
    pub(super) async fn client(&self, key: &Key) -> Result<Client> {
        let missing = || Error::not_found(format!("no shim for {}", key.1));
        let handle = self.0.shims.lock().get(key).cloned();
        let mut phase = handle.ok_or_else(missing)?.phase;
        loop {
            match &*phase.borrow_and_update() {
                Phase::Live(client) => return Ok(client.clone()),
                Phase::Silent => {
                    return Err(Error::unavailable(format!("the shim of {} does not answer", key.1)));
                }
                Phase::Gone => return Err(missing()),
                Phase::Connecting => {}
            }
            phase.changed().await.map_err(|_| missing())?;
        }
    }

    /// Waits, no longer than `limit`, until a shim's owner no longer takes its connection for a working one.
    pub(super) async fn lost(&self, key: &Key, limit: Duration) {
        let handle = self.0.shims.lock().get(key).cloned();
        if let Some(Handle { mut phase, .. }) = handle {
            // An error is that there is no owner any more.
            let _ = timeout(limit, phase.wait_for(|phase| !matches!(phase, Phase::Live(_)))).await;
        }
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    fn spawn(&self, shims: &mut HashMap<Key, Handle>, key: Key, birth: Birth) -> mpsc::Sender<Command> {
        let (mailbox, commands) = mpsc::channel(MAILBOX);
        let (phase, watched) = watch::channel(Phase::Connecting);
        let ending = Arc::new(Ending::new(None));
        shims.insert(key.clone(), Handle { mailbox: mailbox.clone(), phase: watched, ending: ending.clone() });
        let span = tracing::info_span!("shim", namespace = %key.0, pod = %key.1);
        let owner = Owner::new(self.0.clone(), key.clone(), commands, phase, ending);
        let roster: Weak<Inner> = Arc::downgrade(&self.0);
        let work = async move {
            let phase = owner.run(birth).await;
            if let Some(roster) = roster.upgrade() {
                roster.shims.lock().remove(&key);
            }
            // Dropped only now: whoever waits for the end must not find the name taken.
            drop(phase);
        };
        self.0.owners.spawn_on(work.instrument(span), &self.0.runtime);
        mailbox
    }
}

impl Inner {
    /// See [`Roster::take`].
    pub(super) fn take(&self, namespace: &Namespace, event: Event, at: Timestamp) {
        let ended = match &event {
            Event::TaskExit { container, process, pid, status, at } if process == container || process.is_empty() => {
                let entry = container.parse().ok().and_then(|id: Id| self.tasks.get(namespace, &id));
                if let Some(entry) = &entry {
                    if entry.pid() == 0 {
                        entry.set_pid(*pid);
                    }
                    if !entry.end(Exit { status: *status, at: *at }) {
                        return;
                    }
                }
                entry
            }
            _ => None,
        };
        self.tell(namespace, event, at);
        if let Some(entry) = ended {
            self.note_told(&entry);
        }
    }

    /// Takes the end of a task that no shim reported.
    pub(super) fn take_exit(&self, entry: &Arc<Entry>, exit: Exit) {
        if entry.end(exit) {
            let container = entry.id.to_string();
            let process = container.clone();
            let event = Event::TaskExit { container, process, pid: entry.pid(), status: exit.status, at: exit.at };
            self.tell(&entry.namespace, event, exit.at);
            self.note_told(entry);
        }
    }

    /// Takes the end of a sandbox and tells it, once.
    pub(super) fn end_sandbox(&self, key: &Key, ending: &Ending, exit: Exit) {
        if ending.take(exit) {
            self.publish(&key.0, Event::SandboxExit { id: key.1.to_string(), status: exit.status, at: exit.at });
        }
    }

    /// Tells that a task is forgotten whose shim is dead.
    pub(super) fn tell_deletion(&self, entry: &Entry, exit: Exit) {
        let (container, process) = (entry.id.to_string(), String::new());
        let event = Event::TaskDelete { container, process, pid: entry.pid(), status: exit.status, at: exit.at };
        self.publish(&entry.namespace, event);
    }

    /// Writes down that the end of a task with a shim of its own was told: it may stay, ended, as long as its client
    /// likes, and the next daemon is not to tell it again. Pods' are told to the CRI's server only, which knows them.
    fn note_told(&self, entry: &Arc<Entry>) {
        if entry.shim != entry.id {
            return;
        }
        let (entry, events) = (entry.clone(), self.events.clone());
        self.owners.spawn(async move {
            // First the event is kept, from which the next daemon knows as well that it was told.
            let noted = match events.settle_of(&entry.namespace).await {
                Ok(()) => {
                    let entry = entry.clone();
                    blocking(move || entry.keep_exit()).await
                }
                error => error,
            };
            if let Err(error) = noted {
                tracing::warn!(container = %entry.id, %error, "an exit may be told once more");
            }
        });
    }

    /// Tells what happened in a shim `at` a moment before, and may have been told already.
    fn tell(&self, namespace: &Namespace, event: Event, at: Timestamp) {
        tracing::debug!(%namespace, ?event, "event");
        self.events.publish_once(namespace, event, at);
    }

    pub(super) fn publish(&self, namespace: &Namespace, event: Event) {
        tracing::debug!(%namespace, ?event, "event");
        self.events.publish(namespace, event);
    }

    /// The executable of a shim by runtime name.
    pub(super) fn resolve(&self, shim: Option<&str>) -> Result<PathBuf> {
        launch::resolve(&self.config, shim)
    }
}
