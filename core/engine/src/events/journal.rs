//! Events that are kept, by namespace, for listeners that were away: written in the order of their numbers, many at a
//! time, without a sync of the disk; the oldest go by count and by age.
//!
//! An event waits in memory until a batch has taken it, and at most one batch of the journal's own is queued: so a
//! publisher never waits, and a full disk costs no event as long as the daemon runs. Where each known listener is
//! ([`super::seats`]) goes into the same batches.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use windlass_model::event::Envelope;
use windlass_model::{Error, Kind, Namespace, Result, Timestamp};

use super::channels::Channels;
use super::seats::{Seats, SubscriptionRecord};
use crate::meta::schema::{EVENTS, EVENTS_GONE, SUBSCRIPTIONS};
use crate::meta::{Db, Durability, Reader, Tx};

/// How many events of one namespace are kept.
pub(super) const KEPT: usize = 8192;
/// How many more there may be before they are cut down to [`KEPT`].
pub(super) const SLACK: usize = 256;
/// How old events get, in nanoseconds: a day.
const OLDEST: i64 = 24 * 3600 * 1_000_000_000;
/// How often the age of the oldest is looked at.
const AGE_CHECK: Duration = Duration::from_secs(60);
/// How many events may wait for a disk that takes none before the oldest are given up.
const WAITING: usize = 16 * KEPT;
/// How many of a namespace's last events shims may tell again after the end of a daemon: one of each shim, which were all
/// under way in the moment of that end. Reading more would only delay the start.
const RETOLD: usize = 1024;

/// The kept events; clones are the same.
#[derive(Clone)]
pub(super) struct Journal(Arc<Inner>);

struct Inner {
    db: Db,
    hints: BTreeSet<Namespace>,
    channels: Channels,
    state: Mutex<State>,
}

struct State {
    /// What is not known to be written, in order.
    waiting: VecDeque<Arc<Envelope>>,
    /// The last number that a batch has taken; back to an earlier one where that batch failed.
    taken: u64,
    /// The last number that listeners were told.
    told: u64,
    /// A batch is queued.
    posted: bool,
    /// The numbers that are written, by namespace.
    kept: HashMap<Namespace, VecDeque<u64>>,
    seats: Seats,
    aged: Instant,
}

/// What one batch did.
struct Batch {
    /// The last number that was known to be taken before it.
    before: u64,
    added: Vec<(Namespace, u64)>,
    /// The newest number that went, by namespace.
    gone: BTreeMap<Namespace, u64>,
    seats: Vec<(u64, Option<SubscriptionRecord>)>,
}

impl Journal {
    /// The journal as an earlier daemon left it; `known` is shown the last [`RETOLD`] events of each namespace.
    pub(super) fn open(
        db: &Db,
        hints: BTreeSet<Namespace>,
        channels: Channels,
        mut known: impl FnMut(&Envelope),
    ) -> Result<Self> {
        let view = db.view();
        let mut kept: HashMap<Namespace, VecDeque<u64>> = HashMap::new();
        for (namespace, number) in view.keys(&EVENTS, &())? {
            kept.entry(namespace).or_default().push_back(number);
        }
        for (namespace, numbers) in &kept {
            // One by one: they may be large.
            for number in numbers.range(numbers.len().saturating_sub(RETOLD)..) {
                view.find(&EVENTS, &(namespace.clone(), *number))?.iter().for_each(&mut known);
            }
        }
        let seats = Seats::load(view.scan(&SUBSCRIPTIONS, &())?);
        // The age of what an earlier daemon left is looked at soon.
        let aged = Instant::now().checked_sub(AGE_CHECK).unwrap_or_else(Instant::now);
        let state = State { waiting: VecDeque::new(), taken: 0, told: 0, posted: false, kept, seats, aged };
        Ok(Self(Arc::new(Inner { db: db.clone(), hints, channels, state: Mutex::new(state) })))
    }

    /// True where the events of a namespace are kept.
    pub(super) fn keeps(&self, namespace: &Namespace) -> bool {
        !self.0.hints.contains(namespace)
    }

    /// Keeps an event, soon, and has it told then; at once where it is not to be kept.
    pub(super) fn keep(&self, envelope: &Arc<Envelope>) {
        if !self.keeps(&envelope.namespace) {
            return self.0.channels.tell(envelope);
        }
        let mut state = self.0.state.lock();
        if state.waiting.len() >= WAITING {
            // It is not kept, but whoever listens hears of it.
            let oldest = state.waiting.front().map_or(0, |oldest| oldest.sequence);
            self.tell(&mut state, oldest);
            state.waiting.pop_front();
        }
        state.waiting.push_back(envelope.clone());
        self.post(&mut state);
    }

    /// Changes where listeners are, and writes that down soon.
    pub(super) fn seats<T>(&self, change: impl FnOnce(&mut Seats) -> T) -> T {
        let mut state = self.0.state.lock();
        let answer = change(&mut state.seats);
        if state.seats.is_dirty() {
            self.post(&mut state);
        }
        answer
    }

    /// Queues a batch, unless one is queued.
    fn post(&self, state: &mut State) {
        if std::mem::replace(&mut state.posted, true) {
            return;
        }
        let (writer, journal) = (self.clone(), self.clone());
        let change = move |tx: &mut Tx<'_>| {
            writer.0.state.lock().posted = false;
            writer.write(tx)
        };
        let done = move |batch| {
            if let Err(error) = journal.done(batch) {
                tracing::warn!(%error, "events could not be kept");
            }
        };
        if self.0.db.post(Durability::Crash, change, done).is_err() {
            // There is no database any more, and nothing to wait for.
            state.posted = false;
            self.tell(state, u64::MAX);
        }
    }

    /// Tells what waits, up to a number, to those who have not been told. In order, as the state is locked.
    fn tell(&self, state: &mut State, until: u64) {
        let told = state.told;
        for envelope in state.waiting.iter().filter(|one| one.sequence > told && one.sequence <= until) {
            self.0.channels.tell(envelope);
            state.told = envelope.sequence;
        }
    }

    /// Waits until everything that was handed over is written.
    pub(super) async fn settle(&self) -> Result<()> {
        if self.0.state.lock().waiting.is_empty() {
            return Ok(());
        }
        let (writer, journal) = (self.clone(), self.clone());
        let (tell, told) = oneshot::channel();
        let done = move |batch| drop(tell.send(journal.done(batch)));
        self.0.db.post(Durability::Crash, move |tx| writer.write(tx), done)?;
        told.await.map_err(|_| Error::unavailable("the database is shut"))?
    }

    /// The events of one namespace after number `after`, in order; with `strict`, all of them.
    ///
    /// # Errors
    /// [`Kind::OutOfRange`] where some of them are no longer kept, and `strict`.
    pub(super) fn after(&self, namespace: &Namespace, after: u64, strict: bool) -> Result<Vec<Envelope>> {
        let view = self.0.db.view();
        let gone = view.find(&EVENTS_GONE, namespace)?.unwrap_or(0);
        if strict && gone > after {
            let what = format!("events of namespace {namespace} up to number {gone} are no longer kept");
            return Err(Error::new(Kind::OutOfRange, what));
        }
        let numbers = self.0.state.lock().kept.get(namespace).cloned().unwrap_or_default();
        let mut found = Vec::new();
        for number in numbers.into_iter().filter(|number| *number > after) {
            // One that went meanwhile was told of above, or is older than a day.
            found.extend(view.find(&EVENTS, &(namespace.clone(), number))?);
        }
        Ok(found)
    }

    /// The namespaces with kept events.
    pub(super) fn namespaces(&self) -> Vec<Namespace> {
        self.0.state.lock().kept.keys().cloned().collect()
    }

    /// In a transaction: writes what waits, takes away what is too much, and notes where listeners are.
    fn write(&self, tx: &mut Tx<'_>) -> Result<Batch> {
        let mut state = self.0.state.lock();
        let before = state.taken;
        let mut batch = Batch { before, added: Vec::new(), gone: BTreeMap::new(), seats: state.seats.take_dirty() };
        for envelope in state.waiting.iter().filter(|envelope| envelope.sequence > before) {
            let key = (envelope.namespace.clone(), envelope.sequence);
            tx.put(&EVENTS, &key, envelope)?;
            batch.added.push(key);
        }
        state.taken = batch.added.last().map_or(before, |(_, number)| *number);
        self.trim(tx, &mut state, &mut batch)?;
        for (id, record) in &batch.seats {
            match record {
                Some(record) => tx.put(&SUBSCRIPTIONS, id, record)?,
                None => tx.delete(&SUBSCRIPTIONS, id),
            }
        }
        Ok(batch)
    }

    fn trim(&self, tx: &mut Tx<'_>, state: &mut State, batch: &mut Batch) -> Result<()> {
        let by_age = state.aged.elapsed() >= AGE_CHECK;
        if by_age {
            state.aged = Instant::now();
        }
        let limit = Timestamp::now().nanos() - OLDEST;
        for (namespace, numbers) in &state.kept {
            let many = if numbers.len() > KEPT + SLACK { numbers.len() - KEPT } else { 0 };
            let mut last = None;
            for (place, number) in numbers.iter().enumerate() {
                let key = (namespace.clone(), *number);
                let old = || -> Result<bool> {
                    let found = if by_age { tx.find(&EVENTS, &key)? } else { None };
                    Ok(found.is_some_and(|envelope| envelope.timestamp.nanos() < limit))
                };
                if place >= many && !old()? {
                    break;
                }
                tx.delete(&EVENTS, &key);
                last = Some(*number);
            }
            if let Some(last) = last {
                tx.put(&EVENTS_GONE, namespace, &last)?;
                batch.gone.insert(namespace.clone(), last);
            }
        }
        Ok(())
    }

    /// Takes note of what became of a batch.
    fn done(&self, batch: Result<Batch>) -> Result<()> {
        let mut state = self.0.state.lock();
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                // Nobody knows how far the batch came: all that waits is written once more, which changes nothing where
                // it is there. Listeners do not wait for that.
                let taken = std::mem::take(&mut state.taken);
                self.tell(&mut state, taken);
                state.seats.all_dirty();
                return Err(error);
            }
        };
        let last = batch.added.last().map_or(batch.before, |(_, number)| *number);
        self.tell(&mut state, last);
        while state.waiting.front().is_some_and(|envelope| envelope.sequence <= last) {
            state.waiting.pop_front();
        }
        for (namespace, number) in batch.added {
            state.kept.entry(namespace).or_default().push_back(number);
        }
        for (namespace, last) in batch.gone {
            let left = state.kept.get_mut(&namespace).map_or(0, |numbers| {
                while numbers.front().is_some_and(|number| *number <= last) {
                    numbers.pop_front();
                }
                numbers.len()
            });
            if left == 0 {
                state.kept.remove(&namespace);
            }
        }
        Ok(())
    }
}
