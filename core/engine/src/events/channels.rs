//! Who listens: one channel for those who listen to everything, and one for each namespace that somebody listens to.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast::{Receiver, Sender};
use windlass_model::Namespace;
use windlass_model::event::Envelope;

use super::BACKLOG;

/// The channels; clones are the same.
#[derive(Clone)]
pub(super) struct Channels(Arc<Inner>);

struct Inner {
    all: Sender<Arc<Envelope>>,
    /// Those who listen to one namespace only: a flood of another's events does not reach them.
    of: Mutex<HashMap<Namespace, Sender<Arc<Envelope>>>>,
}

impl Channels {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner { all: Sender::new(BACKLOG), of: Mutex::default() }))
    }

    /// Tells everybody who listens, without waiting for anybody.
    pub(super) fn tell(&self, envelope: &Arc<Envelope>) {
        let mut of = self.0.of.lock();
        // An error means that nobody listens.
        if of.get(&envelope.namespace).is_some_and(|channel| channel.send(envelope.clone()).is_err()) {
            of.remove(&envelope.namespace);
        }
        drop(of);
        let _ = self.0.all.send(envelope.clone());
    }

    /// Listens from now on to one namespace, or to all.
    pub(super) fn listen(&self, namespace: Option<&Namespace>) -> Receiver<Arc<Envelope>> {
        match namespace {
            None => self.0.all.subscribe(),
            Some(namespace) => {
                let mut of = self.0.of.lock();
                of.entry(namespace.clone()).or_insert_with(|| Sender::new(BACKLOG)).subscribe()
            }
        }
    }
}
