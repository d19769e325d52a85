//! The event bus: numbered envelopes for whoever listens, bounded for those who listen slowly.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;
use windlass_model::event::{Envelope, Event};
use windlass_model::{Namespace, Timestamp};

use crate::meta::{Sequence, Tx};

/// How many events a receiver may be behind before it misses the oldest.
const BACKLOG: usize = 4096;

/// The bus; clones are the same one.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    sender: broadcast::Sender<Arc<Envelope>>,
    /// The lock makes the order of numbers that of delivery; nothing waits while it is held.
    sequence: Mutex<Sequence>,
}

/// One listener. Events published before it was made are not for it.
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
    pub(crate) fn new(sequence: Sequence) -> Self {
        Self(Arc::new(Inner { sender: broadcast::Sender::new(BACKLOG), sequence: Mutex::new(sequence) }))
    }

    /// Tells every listener, without waiting for any, and gives the event's number.
    pub fn publish(&self, namespace: &Namespace, event: Event) -> u64 {
        let sequence = self.0.sequence.lock();
        let number = sequence.take();
        let envelope = Envelope { sequence: number, timestamp: Timestamp::now(), namespace: namespace.clone(), event };
        // An error means that nobody listens.
        let _ = self.0.sender.send(Arc::new(envelope));
        number
    }

    /// Listens from now on.
    pub fn subscribe(&self) -> Receiver {
        Receiver(self.0.sender.subscribe())
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
