//! What waits for the writer thread: a lane for each tenant and one or two for the core itself, served in turns, so that a flood
//! in one lane delays no other by more than one group. One lane may be favoured: it goes first, and in few company.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use windlass_model::Namespace;

/// How many callers of one lane may be queued before its next one waits to be let in.
const ROOM: usize = 1024;
/// How much of the other lanes comes along with what was taken from the favoured one, which waits for all of it.
const COMPANY: usize = 16;

/// Whose change it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// The core's own: numbers, events, garbage.
    Core,
    /// The namespaces themselves.
    Namespaces,
    /// A tenant's.
    Tenant(Namespace),
}

/// The queue.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

struct State<T> {
    lanes: HashMap<Lane, Waiting<T>>,
    /// Lanes that hold something, each once, in the order of their turns.
    turns: VecDeque<Lane>,
    favoured: Option<Lane>,
    closed: bool,
}

struct Waiting<T> {
    room: Arc<Semaphore>,
    items: VecDeque<Held<T>>,
}

/// What waits, with its room.
type Held<T> = (T, Option<OwnedSemaphorePermit>);

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(ROOM)), items: VecDeque::new() }
    }
}

impl<T> Waiting<T> {
    /// True where something is in the lane, or somebody is about to enter it: whoever is holds its room.
    fn is_wanted(&self) -> bool {
        !self.items.is_empty() || Arc::strong_count(&self.room) > 1
    }
}

impl<T> State<T> {
    /// Takes up to `most` of `lane`, whose turn it is; with more in it, it waits for the next one.
    fn serve(&mut self, lane: Lane, most: usize, taken: &mut Vec<Held<T>>) {
        let Some(waiting) = self.lanes.get_mut(&lane) else { return };
        let count = most.min(waiting.items.len());
        taken.extend(waiting.items.drain(..count));
        if !waiting.items.is_empty() {
            self.turns.push_back(lane);
        }
    }
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        let state = State { lanes: HashMap::new(), turns: VecDeque::new(), favoured: None, closed: false };
        Self { state: Mutex::new(state), filled: Condvar::new() }
    }

    /// Serves `lane` before the others from now on.
    pub(super) fn favour(&self, lane: Lane) {
        self.state.lock().favoured = Some(lane);
    }

    /// Queues `item`, after waiting for room in its lane. False where the queue is closed. Cancel safe.
    pub(super) async fn push(&self, lane: Lane, item: T) -> bool {
        let room = self.state.lock().lanes.entry(lane.clone()).or_default().room.clone();
        // The semaphore is never closed.
        let permit = room.acquire_owned().await.ok();
        self.put(lane, item, permit)
    }

    /// Queues `item` at once, for callers that limit themselves. False where the queue is closed.
    pub(super) fn push_now(&self, lane: Lane, item: T) -> bool {
        self.put(lane, item, None)
    }

    fn put(&self, lane: Lane, item: T, permit: Option<OwnedSemaphorePermit>) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        let waiting = state.lanes.entry(lane.clone()).or_default();
        waiting.items.push_back((item, permit));
        if waiting.items.len() == 1 {
            state.turns.push_back(lane);
            self.filled.notify_one();
        }
        true
    }

    /// Waits for something and takes up to `most`: what the favoured lane has with a little of the others, or one of each
    /// lane in turn; `None` once it is closed and empty. Blocks.
    pub(super) fn take(&self, most: usize) -> Option<Vec<T>> {
        let mut taken = Vec::new();
        {
            let mut state = self.state.lock();
            while state.turns.is_empty() && !state.closed {
                self.filled.wait(&mut state);
            }
            let first = state.turns.iter().position(|lane| Some(lane) == state.favoured.as_ref());
            let mut limit = most;
            let mut rest = None;
            if let Some(lane) = first.and_then(|place| state.turns.remove(place)) {
                state.serve(lane, most.saturating_sub(COMPANY).max(1), &mut taken);
                limit = most.min(taken.len() + COMPANY);
                // What more it has is not the company of what was taken.
                if state.turns.back() == state.favoured.as_ref() {
                    rest = state.turns.pop_back();
                }
            }
            while taken.len() < limit
                && let Some(lane) = state.turns.pop_front()
            {
                state.serve(lane, 1, &mut taken);
            }
            state.turns.extend(rest);
        }
        // Room is given back outside the lock, as that wakes those who wait for it.
        let items: Vec<T> = taken.into_iter().map(|(item, _)| item).collect();
        self.state.lock().lanes.retain(|_, waiting| waiting.is_wanted());
        (!items.is_empty()).then_some(items)
    }

    /// Takes nothing more; what is queued is still handed out.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.filled.notify_all();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.state.lock().lanes.values().map(|waiting| waiting.items.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(name: &str) -> Lane {
        Lane::Tenant(name.parse().unwrap())
    }

    #[tokio::test]
    async fn lanes_are_served_in_turns() {
        let queue = Queue::new();
        for number in 0..5 {
            assert!(queue.push(lane("flood"), format!("f{number}")).await);
        }
        assert!(queue.push(lane("k8s.io"), "k0".into()).await);
        assert!(queue.push_now(Lane::Core, "c0".into()));
        assert_eq!(queue.take(4).unwrap(), ["f0", "k0", "c0", "f1"]);
        assert_eq!(queue.take(100).unwrap(), ["f2", "f3", "f4"]);
        assert!(queue.state.lock().lanes.is_empty());
    }

    #[tokio::test]
    async fn the_favoured_lane_goes_first_and_in_few_company() {
        let queue = Queue::new();
        queue.favour(lane("k8s.io"));
        for number in 0..100 {
            assert!(queue.push(lane("flood"), number).await);
        }
        for number in 1000..1003 {
            assert!(queue.push(lane("k8s.io"), number).await);
        }
        let taken = queue.take(64).unwrap();
        assert_eq!(taken[..3], [1000, 1001, 1002]);
        assert_eq!(taken[3..], (0..COMPANY).collect::<Vec<_>>());
        assert_eq!(queue.take(64).unwrap().len(), 64);
        // It does not shut the others out, however much it has.
        for number in 1000..1100 {
            assert!(queue.push(lane("k8s.io"), number).await);
        }
        assert_eq!(queue.take(64).unwrap().iter().filter(|number| **number < 1000).count(), COMPANY);
    }

    #[tokio::test]
    async fn a_full_lane_keeps_its_own_callers_waiting_and_no_other() {
        let queue = Arc::new(Queue::new());
        for number in 0..ROOM {
            assert!(queue.push(lane("flood"), number).await);
        }
        let late = tokio::spawn({
            let queue = queue.clone();
            async move { queue.push(lane("flood"), usize::MAX).await }
        });
        tokio::task::yield_now().await;
        assert!(queue.push(lane("other"), 7).await);
        assert_eq!(queue.len(), ROOM + 1);
        assert_eq!(queue.take(2).unwrap(), [0, 7]);
        assert!(late.await.unwrap());
        assert_eq!(queue.len(), ROOM);
    }

    #[tokio::test]
    async fn a_closed_queue_hands_out_its_rest() {
        let queue = Queue::new();
        assert!(queue.push_now(Lane::Core, 1));
        queue.close();
        assert!(!queue.push(Lane::Core, 2).await);
        assert_eq!(queue.take(10), Some(vec![1]));
        assert_eq!(queue.take(10), None);
    }
}
