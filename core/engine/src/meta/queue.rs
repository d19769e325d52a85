//! What waits for the writer thread: a lane for each tenant and one or two for the core itself, served in turns, so that a flood
//! in one lane delays no other by more than one group.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use windlass_model::Namespace;

/// How many callers of one lane may be queued before its next one waits to be let in.
const ROOM: usize = 1024;

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
    closed: bool,
}

struct Waiting<T> {
    room: Arc<Semaphore>,
    items: VecDeque<(T, Option<OwnedSemaphorePermit>)>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(ROOM)), items: VecDeque::new() }
    }
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        let state = State { lanes: HashMap::new(), turns: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), filled: Condvar::new() }
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

    /// Waits for something and takes up to `most`, one of each lane in turn; `None` once it is closed and empty. Blocks.
    pub(super) fn take(&self, most: usize) -> Option<Vec<T>> {
        let mut state = self.state.lock();
        while state.turns.is_empty() && !state.closed {
            self.filled.wait(&mut state);
        }
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(lane) = state.turns.pop_front()
        {
            let Some(waiting) = state.lanes.get_mut(&lane) else { continue };
            taken.extend(waiting.items.pop_front().map(|(item, _)| item));
            if !waiting.items.is_empty() {
                state.turns.push_back(lane);
            } else if Arc::strong_count(&waiting.room) == 1 {
                // Nobody is about to enter it: whoever is holds its room.
                state.lanes.remove(&lane);
            }
        }
        (!taken.is_empty()).then_some(taken)
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
