//! The event bus: numbered envelopes for whoever listens, bounded for those who listen slowly.
//!
//! Events of most namespaces are also kept ([`journal`]), so that a listener that was away can be told what it missed
//! ([`watch`]). They are told when they are kept, so that one that somebody has heard of has one number for ever, whatever
//! becomes of this process. Those of namespaces that the core was opened with as [`Config::hints`] are not: whoever listens to them
//! looks at the records after a gap.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use windlass_model::event::{Envelope, Event};
use windlass_model::{Namespace, Result, Timestamp};

use crate::meta::{Db, Sequence, Tx, schema::setting};

mod channels;
mod journal;
mod once;
mod seats;
mod watch;

use channels::Channels;
use journal::Journal;
use once::Once;
use seats::Seat;
pub(crate) use seats::SubscriptionRecord;
pub use watch::{Watch, Watcher};

/// How many events a receiver may be behind before it misses the oldest.
const BACKLOG: usize = 4096;

/// What the bus is made with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The namespaces whose events are hints only, and are not kept.
    pub hints: BTreeSet<Namespace>,
}

/// The bus; clones are the same one.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    channels: Channels,
    /// The lock makes the order of numbers that of delivery; nothing waits while it is held.
    turn: Mutex<Turn>,
    once: Mutex<Once>,
    journal: Journal,
    closed: CancellationToken,
}

struct Turn {
    sequence: Sequence,
    /// The last number that was given out.
    last: u64,
}

/// One listener. Events published before it was made are not for it, but it may get one that was not kept yet.
pub struct Receiver(broadcast::Receiver<Arc<Envelope>>);

/// What a listener gets.
#[derive(Clone, Debug)]
pub enum Received {
    /// The next event.
    Event(Arc<Envelope>),
    /// The listener was too slow and missed this many; what follows is the oldest still kept.
    Lagged(u64),
}

impl Events {
    pub(crate) async fn open(db: &Db, config: Config) -> Result<Self> {
        let sequence = Sequence::open(db, setting::EVENTS, 0).await?;
        let channels = Channels::new();
        let mut once = Once::default();
        let known = |envelope: &Envelope| {
            once.is_new(&envelope.namespace, &envelope.event, envelope.timestamp);
        };
        let journal = Journal::open(db, config.hints, channels.clone(), known)?;
        let turn = Turn { last: sequence.take(), sequence };
        Ok(Self(Arc::new(Inner {
            channels,
            turn: Mutex::new(turn),
            once: Mutex::new(once),
            journal,
            closed: CancellationToken::new(),
        })))
    }

    /// Tells every listener, as soon as the event is kept where it is to be, and gives its number. Waits for nothing.
    pub fn publish(&self, namespace: &Namespace, event: Event) -> u64 {
        self.publish_at(namespace, event, Timestamp::now())
    }

    /// As [`Events::publish`], for an event that happened `at` a moment before.
    pub fn publish_at(&self, namespace: &Namespace, event: Event, at: Timestamp) -> u64 {
        let mut turn = self.0.turn.lock();
        let number = turn.sequence.take();
        turn.last = number;
        let envelope = Arc::new(Envelope { sequence: number, timestamp: at, namespace: namespace.clone(), event });
        self.0.journal.keep(&envelope);
        number
    }

    /// As [`Events::publish_at`], for what a shim says, which may say it again: only the first time counts.
    pub(crate) fn publish_once(&self, namespace: &Namespace, event: Event, at: Timestamp) {
        // What is not kept is not told again either.
        if !self.0.journal.keeps(namespace) || self.0.once.lock().is_new(namespace, &event, at) {
            self.publish_at(namespace, event, at);
        }
    }

    /// Waits until everything that was published survives the end of this process.
    ///
    /// # Errors
    /// Where it could not be written; it is tried again with the next event.
    pub async fn settle(&self) -> Result<()> {
        self.0.journal.settle().await
    }

    /// As [`Events::settle`], but for a namespace whose events are not kept anyway.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn settle_of(&self, namespace: &Namespace) -> Result<()> {
        if self.0.journal.keeps(namespace) { self.settle().await } else { Ok(()) }
    }

    /// Listens from now on to the events of all namespaces.
    pub fn subscribe(&self) -> Receiver {
        self.listen(None).0
    }

    /// Listens from now on to the events of one namespace; no other's can make this listener miss one.
    pub fn subscribe_to(&self, namespace: &Namespace) -> Receiver {
        self.listen(Some(namespace)).0
    }

    /// A listener, and the number of the last event that is not for it.
    fn listen(&self, namespace: Option<&Namespace>) -> (Receiver, u64) {
        let turn = self.0.turn.lock();
        (Receiver(self.0.channels.listen(namespace)), turn.last)
    }

    /// Ends every [`Watcher`], which would never end by itself, so that the daemon can.
    pub fn close(&self) {
        self.0.closed.cancel();
    }

    /// Ends when [`Events::close`] was called: the end of every stream that would not end by itself.
    pub fn closing(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.closed.clone().cancelled_owned()
    }

    /// Publishes `event` once `tx` is as durable as asked, and never if it fails.
    pub(crate) fn after_commit(&self, tx: &mut Tx<'_>, namespace: &Namespace, event: Event) {
        let (events, namespace) = (self.clone(), namespace.clone());
        tx.after_commit(move || {
            events.publish(&namespace, event);
        });
    }
}

impl Receiver {
    /// The next event, or `None` once the core is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<Received> {
        match self.0.recv().await {
            Ok(envelope) => Some(Received::Event(envelope)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Received::Lagged(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests;
