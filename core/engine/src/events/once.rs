//! What shims have told lately: a shim tells an event again where it does not know that it was taken, because its daemon
//! ended between keeping the event and answering. Such an event has its number already, and gets no second one.

use std::collections::{HashSet, VecDeque};

use windlass_model::event::Event;
use windlass_model::{Namespace, Timestamp};

/// How many are remembered; of one shim no more than one can come again, unless it is dead.
const REMEMBERED: usize = 16384;

/// By what an event is known: whose it is, the container, the process, and when it happened.
type Key = (Namespace, String, String, Timestamp);

/// The events that are known.
#[derive(Debug, Default)]
pub(super) struct Once {
    known: HashSet<Key>,
    order: VecDeque<Key>,
}

impl Once {
    /// Remembers an event; false where it is known. Those that shims do not keep, and so do not tell again, are always new.
    pub(super) fn is_new(&mut self, namespace: &Namespace, event: &Event, at: Timestamp) -> bool {
        let key = match event {
            Event::TaskExit { container, process, at, .. } => {
                (namespace.clone(), container.clone(), process.clone(), *at)
            }
            Event::TaskOom { container } => (namespace.clone(), container.clone(), String::new(), at),
            _ => return true,
        };
        if !self.known.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_new_once_and_the_oldest_are_forgotten() {
        let (mut once, namespace) = (Once::default(), "a".parse().unwrap());
        let oom = Event::TaskOom { container: "c".into() };
        let mut told = |at: i64| once.is_new(&namespace, &oom, Timestamp(at));
        assert_eq!([told(1), told(1), told(2)], [true, false, true]);
        assert!((3..REMEMBERED as i64 + 3).all(&mut told));
        assert!(told(1) && !told(REMEMBERED as i64));
        let start = Event::TaskStart { container: "c".into(), pid: 1 };
        assert!(once.is_new(&namespace, &start, Timestamp(1)) && once.is_new(&namespace, &start, Timestamp(1)));
    }
}
