//! A listener that misses nothing: first what it has not had of the kept events, then what happens.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use windlass_model::event::{Envelope, Event};
use windlass_model::{Error, Id, Kind, Namespace, Result};

use super::{Events, Received, Receiver, Seat};
use crate::Core;

/// Which of a namespace's events are wanted.
type Wanted = Box<dyn Fn(&Envelope) -> bool + Send + Sync>;

/// What a listener wants.
pub struct Watch {
    /// The namespaces that it may hear of; `None`: all.
    pub namespaces: Option<BTreeSet<Namespace>>,
    /// Which of their events it wants.
    pub wanted: Wanted,
    /// The number of the last event that it has had, where it knows.
    pub after: Option<u64>,
    /// What it asks for, in a form that can be compared: so it is known again when it comes back from being cut off.
    pub who: String,
}

/// A listener.
pub struct Watcher {
    events: Events,
    wanted: Wanted,
    namespaces: Option<BTreeSet<Namespace>>,
    /// What it missed.
    missed: VecDeque<Arc<Envelope>>,
    receiver: Receiver,
    /// The last event before those that the receiver is for.
    position: u64,
    pub(super) seat: Option<Seat>,
    /// The event that was given last; it has arrived when the next one is asked for.
    given: Option<u64>,
}

impl Core {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`Kind::OutOfRange`] where `watch.after` is older than what is kept; [`Kind::Unavailable`] when the daemon ends.
    pub async fn watch(&self, watch: Watch) -> Result<Watcher> {
        let Watch { namespaces, wanted, after, who } = watch;
        let events = self.events().clone();
        let only = namespaces.as_ref().filter(|names| names.len() == 1).and_then(|names| names.first());
        let (receiver, position) = events.listen(only);
        // Those who say where they were need no seat.
        let seat = if after.is_none() { Seat::take(&events, &who, position) } else { None };
        let (from, strict) = match (after, &seat) {
            (Some(after), _) => (after, true),
            (None, Some(seat)) => (seat.after(), false),
            (None, None) => (position, false),
        };
        let mut watcher =
            Watcher { events, wanted, namespaces, missed: VecDeque::new(), receiver, position, seat, given: None };
        if from < position {
            let mut missed = watcher.events.missed(watcher.namespaces.as_ref(), from, position, strict).await?;
            if !strict {
                missed.retain(|envelope| !self.outdated(envelope));
            }
            watcher.missed = missed;
        }
        Ok(watcher)
    }

    /// True for the end of a first process that was followed by another one: whoever started that knew of the end, and
    /// would take the news for the end of the new one.
    fn outdated(&self, envelope: &Envelope) -> bool {
        let Event::TaskExit { container, process, pid, .. } = &envelope.event else { return false };
        let Ok(id) = container.parse::<Id>() else { return false };
        (process == container || process.is_empty()) && self.roster().runs_another(&envelope.namespace, &id, *pid)
    }
}

impl Events {
    /// The kept events after number `after` up to number `until`, in order.
    async fn missed(
        &self,
        namespaces: Option<&BTreeSet<Namespace>>,
        after: u64,
        until: u64,
        strict: bool,
    ) -> Result<VecDeque<Arc<Envelope>>> {
        self.settle().await?;
        let (events, namespaces) = (self.clone(), namespaces.cloned());
        crate::blocking(move || {
            let journal = &events.0.journal;
            let names = namespaces.map_or_else(|| journal.namespaces(), |names| names.into_iter().collect());
            let mut found = Vec::new();
            for name in names {
                // Whoever did not say where it was cannot be told that this is too long ago.
                found.extend(journal.after(&name, after, strict)?);
            }
            found.retain(|envelope| envelope.sequence <= until);
            found.sort_by_key(|envelope| envelope.sequence);
            Ok(found.into_iter().map(Arc::new).collect())
        })
        .await
    }
}

impl Watcher {
    /// The number of the last event before those that follow as they happen.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next event.
    ///
    /// # Errors
    /// [`Kind::ResourceExhausted`] where events come faster than they are asked for, so that some were missed;
    /// [`Kind::Unavailable`] when the daemon ends. Both are the last answer.
    pub async fn next(&mut self) -> Result<Arc<Envelope>> {
        if let (Some(number), Some(seat)) = (self.given.take(), &self.seat) {
            seat.advance(number);
        }
        let next = self.find().await;
        match &next {
            Ok(envelope) if self.events.0.journal.keeps(&envelope.namespace) => self.given = Some(envelope.sequence),
            Ok(_) => {}
            Err(_) => {
                if let Some(seat) = &mut self.seat {
                    seat.keep();
                }
            }
        }
        next
    }

    async fn find(&mut self) -> Result<Arc<Envelope>> {
        let ending = || Error::unavailable("the daemon is about to end");
        while let Some(envelope) = self.missed.pop_front() {
            if (self.wanted)(&envelope) {
                return Ok(envelope);
            }
        }
        loop {
            let received = tokio::select! {
                biased;
                () = self.events.0.closed.cancelled() => return Err(ending()),
                received = self.receiver.recv() => received,
            };
            match received {
                None => return Err(ending()),
                Some(Received::Lagged(missed)) => {
                    let what = format!("{missed} events were missed: they are read too slowly");
                    return Err(Error::new(Kind::ResourceExhausted, what));
                }
                Some(Received::Event(envelope)) => {
                    let open = self.namespaces.as_ref().is_none_or(|names| names.contains(&envelope.namespace));
                    if envelope.sequence > self.position && open && (self.wanted)(&envelope) {
                        return Ok(envelope);
                    }
                }
            }
        }
    }
}
