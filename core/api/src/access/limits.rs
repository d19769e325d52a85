//! How much one tenant may ask for at the same time, so that a flood of one is no famine of the others.
//!
//! Short calls of a namespace beyond [`AT_ONCE`] wait their turn, and beyond [`WAITING`] are refused. Long ones (waits and
//! streams) hold nothing but a place while nothing happens, and beyond [`LONG`] are refused; those that want a blob synced
//! wait their turn for that ([`COMMITS`]).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::table::Takes;

/// How many short calls of one namespace are worked on at the same time.
const AT_ONCE: usize = 16;
/// How many more of them may wait.
const WAITING: usize = 1024;
/// How many long calls of one namespace there may be.
const LONG: usize = 4096;

/// How many listeners to events one namespace may have: each event is shown to each of them.
const LISTENERS: usize = 64;
/// How many blobs of one namespace are synced at the same time.
const COMMITS: usize = 4;

/// The limits of all namespaces of a daemon; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Limits(Arc<Mutex<HashMap<String, Arc<Lane>>>>);

#[derive(Debug)]
struct Lane {
    short: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    long: Arc<Semaphore>,
    listeners: Arc<Semaphore>,
    commits: Arc<Semaphore>,
}

/// A place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    limits: Limits,
    name: String,
    lane: Option<Arc<Lane>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Default for Lane {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            short: places(AT_ONCE),
            waiting: places(WAITING),
            long: places(LONG),
            listeners: places(LISTENERS),
            commits: places(COMMITS),
        }
    }
}

impl Limits {
    /// A turn to have a blob of the namespace `name` synced. Cancel safe.
    pub(crate) async fn commit(&self, name: &str) -> Place {
        let lane = self.0.lock().entry(name.to_owned()).or_default().clone();
        let mut place = Place { limits: self.clone(), name: name.to_owned(), lane: Some(lane.clone()), permit: None };
        // The semaphore is never closed.
        place.permit = lane.commits.clone().acquire_owned().await.ok();
        place
    }

    /// A place for a call of the namespace `name`. Cancel safe.
    ///
    /// # Errors
    /// `ResourceExhausted` where the namespace has too many of them.
    pub(super) async fn enter(&self, name: &str, takes: Takes) -> Result<Place, Status> {
        let lane = self.0.lock().entry(name.to_owned()).or_default().clone();
        let mut place = Place { limits: self.clone(), name: name.to_owned(), lane: Some(lane.clone()), permit: None };
        let full = |what: &str, count| {
            Status::resource_exhausted(format!("namespace {name:?} has {count} {what} already: try again later"))
        };
        let permit = match takes {
            Takes::Long => lane.long.clone().try_acquire_owned().map_err(|_| full("streams and waits", LONG))?,
            Takes::Listens => lane.listeners.clone().try_acquire_owned().map_err(|_| full("listeners", LISTENERS))?,
            Takes::Short => match lane.short.clone().try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    let _queued =
                        lane.waiting.clone().try_acquire_owned().map_err(|_| full("calls waiting", WAITING))?;
                    let turn = lane.short.clone().acquire_owned().await;
                    turn.map_err(|_| Status::internal("the limits are gone"))?
                }
            },
        };
        place.permit = Some(permit);
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.permit.take());
        let mut lanes = self.limits.0.lock();
        drop(self.lane.take());
        // The map's own is the last: nobody is in it or about to be.
        if lanes.get(&self.name).is_some_and(|lane| Arc::strong_count(lane) == 1) {
            lanes.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_waits_for_itself_and_is_refused_at_last() {
        let limits = Limits::default();
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(limits.enter("flood", Takes::Short).await.expect("a place"));
        }
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| {
                let limits = limits.clone();
                tokio::spawn(async move { limits.enter("flood", Takes::Short).await.map(drop) })
            })
            .collect();
        let lane = limits.0.lock().get("flood").cloned().expect("a lane");
        while lane.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        drop(lane);
        let refused = limits.enter("flood", Takes::Short).await.expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(limits.enter("other", Takes::Short).await.expect("another's place"));
        drop(held);
        for call in waiting {
            call.await.expect("joined").expect("its turn");
        }
        assert!(limits.0.lock().is_empty());
    }

    #[tokio::test]
    async fn few_blobs_of_one_namespace_are_synced_at_once() {
        let limits = Limits::default();
        let mut held = Vec::new();
        for _ in 0..COMMITS {
            held.push(limits.commit("flood").await);
        }
        let late = tokio::spawn({
            let limits = limits.clone();
            async move { drop(limits.commit("flood").await) }
        });
        tokio::task::yield_now().await;
        assert!(!late.is_finished());
        drop(limits.commit("other").await);
        held.pop();
        late.await.expect("joined");
    }

    #[tokio::test]
    async fn long_calls_have_places_of_their_own() {
        let limits = Limits::default();
        let mut held = Vec::new();
        for _ in 0..LONG {
            held.push(limits.enter("a", Takes::Long).await.expect("a place"));
        }
        assert!(limits.enter("a", Takes::Long).await.is_err());
        limits.enter("a", Takes::Short).await.expect("a short one");
        held.pop();
        limits.enter("a", Takes::Long).await.expect("a place again");
    }
}
