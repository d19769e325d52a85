//! Where each listener is in the events, remembered beyond the end of a daemon.
//!
//! containerd's API has no word for "from where I was". So a seat is kept for each listener that is known by what it asks
//! for. A listener that goes away by itself gives its seat up. One that is cut off, by the end of the daemon or because it
//! reads too slowly, finds it again: the next listener that asks for the same takes the seat, and gets what happened
//! since. A seat that nobody takes for [`RETURN`] is given up, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Events;

/// How long a seat is kept for a listener that was cut off.
const RETURN: Duration = Duration::from_secs(600);
/// How many seats there are; a listener that finds none is not remembered.
const SEATS: usize = 1024;

/// A seat as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubscriptionRecord {
    /// What its listener asks for, in a form that can be compared.
    who: String,
    /// The last event that it was given.
    after: u64,
}

/// All seats.
#[derive(Default)]
pub(super) struct Seats {
    all: BTreeMap<u64, SubscriptionRecord>,
    /// Those whose listeners were cut off, and until when they are kept.
    empty: BTreeMap<u64, Instant>,
    /// Those that are not written down as they are.
    dirty: BTreeSet<u64>,
    next: u64,
}

/// A listener's seat; given up when it is dropped, unless its listener was cut off.
pub(crate) struct Seat {
    events: Events,
    id: u64,
    after: AtomicU64,
    cut_off: bool,
}

impl Seats {
    /// Those of an earlier daemon, whose listeners were all cut off.
    pub(super) fn load(records: Vec<(u64, SubscriptionRecord)>) -> Self {
        let until = Instant::now() + RETURN;
        let all: BTreeMap<_, _> = records.into_iter().collect();
        let empty = all.keys().map(|id| (*id, until)).collect();
        let next = all.keys().last().map_or(0, |id| id + 1);
        Self { all, empty, dirty: BTreeSet::new(), next }
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn all_dirty(&mut self) {
        self.dirty.extend(self.all.keys());
    }

    /// What is to be written down; `None` is a seat that was given up.
    pub(super) fn take_dirty(&mut self) -> Vec<(u64, Option<SubscriptionRecord>)> {
        std::mem::take(&mut self.dirty).into_iter().map(|id| (id, self.all.get(&id).cloned())).collect()
    }

    fn give_up(&mut self, id: u64) {
        self.all.remove(&id);
        self.empty.remove(&id);
        self.dirty.insert(id);
    }

    /// A seat for `who`: the one it was cut off from, or a new one at the event `now`. Its number and where it is.
    fn sit(&mut self, who: &str, now: u64) -> Option<(u64, u64)> {
        let today = Instant::now();
        let late: Vec<u64> = self.empty.iter().filter(|(_, until)| **until < today).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.give_up(id));
        let own = self.empty.keys().find(|id| self.all.get(id).is_some_and(|record| record.who == who)).copied();
        if let Some(id) = own {
            self.empty.remove(&id);
            return Some((id, self.all.get(&id).map_or(now, |record| record.after)));
        }
        if self.all.len() >= SEATS {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.all.insert(id, SubscriptionRecord { who: who.to_owned(), after: now });
        self.dirty.insert(id);
        Some((id, now))
    }

    fn advance(&mut self, id: u64, after: u64) {
        if let Some(record) = self.all.get_mut(&id).filter(|record| record.after < after) {
            record.after = after;
            self.dirty.insert(id);
        }
    }

    fn leave(&mut self, id: u64, cut_off: bool) {
        if cut_off {
            self.empty.insert(id, Instant::now() + RETURN);
        } else {
            self.give_up(id);
        }
    }
}

impl Seat {
    /// A seat for `who`, at the event `now` where it is a new one; `None` where all are taken.
    pub(super) fn take(events: &Events, who: &str, now: u64) -> Option<Self> {
        let (id, after) = events.0.journal.seats(|seats| seats.sit(who, now))?;
        Some(Self { events: events.clone(), id, after: AtomicU64::new(after), cut_off: false })
    }

    /// The last event that its listener was given.
    pub(super) fn after(&self) -> u64 {
        self.after.load(Ordering::Relaxed)
    }

    /// Its listener was given the event `number`.
    pub(super) fn advance(&self, number: u64) {
        self.after.store(number, Ordering::Relaxed);
        self.events.0.journal.seats(|seats| seats.advance(self.id, number));
    }

    /// Its listener is about to be cut off.
    pub(super) fn keep(&mut self) {
        self.cut_off = true;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let cut_off = self.cut_off || self.events.0.closed.is_cancelled();
        self.events.0.journal.seats(|seats| seats.leave(self.id, cut_off));
    }
}
