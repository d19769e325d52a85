//! One owner for each moving thing: mutating verbs on one subject run one after another, a retry joins the verb it
//! repeats, and no caller can cancel what it began.
//!
//! The kubelet gives up on a call and sends it again while the first one is still at work. A verb therefore runs in a
//! task of its own: a dropped RPC drops only the waiting. A second call of the same verb on the same subject waits for
//! the same result; a different verb on that subject starts after the one before it has ended. Nothing is locked
//! meanwhile: a subject's verbs form a queue in which each task awaits its predecessor.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::Instrument as _;
use windlass_model::{Error, Result};

/// What a finished verb leaves for all who wait: its value, of a type that only the verb knows.
type Outcome = Option<Result<Arc<dyn Any + Send + Sync>, Arc<Error>>>;

/// The verbs that are at work or wait for their turn.
#[derive(Clone, Default)]
pub struct Verbs {
    subjects: Arc<Mutex<HashMap<String, Vec<Entry>>>>,
}

/// One verb of one subject.
struct Entry {
    verb: &'static str,
    outcome: watch::Receiver<Outcome>,
}

/// Takes a verb out of its subject's queue when it ends, also when it panics.
struct Leave {
    verbs: Verbs,
    subject: String,
    outcome: watch::Receiver<Outcome>,
}

impl Verbs {
    /// Runs `work` as `verb` of `subject`, after those that came before it; if the same verb of that subject is at work
    /// or waits already, its result is awaited instead and `work` is dropped.
    ///
    /// A subject is a kind and a name: `pod/<name of the pod>`, `container/<id>`. A verb always has the same result
    /// type.
    ///
    /// # Errors
    /// The error of the work, the same one for each caller; [`windlass_model::Kind::Internal`] where it panicked.
    pub async fn join<T, F>(&self, subject: impl Into<String>, verb: &'static str, work: F) -> Result<T>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let outcome = self.admit(subject.into(), verb, work, true);
        Self::result(outcome, verb).await
    }

    /// As [`Verbs::join`], but never joins: each call of the verb asks for something else and has its own turn.
    ///
    /// # Errors
    /// As [`Verbs::join`].
    pub async fn turn<T, F>(&self, subject: impl Into<String>, verb: &'static str, work: F) -> Result<T>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let outcome = self.admit(subject.into(), verb, work, false);
        Self::result(outcome, verb).await
    }

    async fn result<T>(mut outcome: watch::Receiver<Outcome>, verb: &'static str) -> Result<T>
    where
        T: Clone + Send + Sync + 'static,
    {
        let broken = || Error::internal(format!("{verb} ended without a result"));
        let outcome = outcome.wait_for(Option::is_some).await.map_err(|_| broken())?.clone();
        match outcome {
            Some(Ok(value)) => value.downcast_ref::<T>().cloned().ok_or_else(broken),
            Some(Err(error)) => Err(error.share()),
            None => Err(broken()),
        }
    }

    /// As [`Verbs::join`], for work that nobody waits for.
    pub fn begin<F>(&self, subject: impl Into<String>, verb: &'static str, work: F)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.admit(subject.into(), verb, work, true);
    }

    /// True while any verb of `subject` is at work or waits; for tests.
    #[cfg(test)]
    pub fn is_busy(&self, subject: &str) -> bool {
        self.subjects.lock().contains_key(subject)
    }

    /// The verb to wait for: one that is there already where it may be joined, or `work` as the newest of the queue.
    fn admit<T, F>(&self, subject: String, verb: &'static str, work: F, may_join: bool) -> watch::Receiver<Outcome>
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut subjects = self.subjects.lock();
        let queue = subjects.entry(subject.clone()).or_default();
        // Only the newest: joining an older one would jump over a different verb that was asked for in between.
        if let Some(entry) = queue.last().filter(|entry| may_join && entry.verb == verb) {
            return entry.outcome.clone();
        }
        let before = queue.last().map(|entry| entry.outcome.clone());
        let (sender, outcome) = watch::channel(None);
        queue.push(Entry { verb, outcome: outcome.clone() });
        let leave = Leave { verbs: self.clone(), subject, outcome: outcome.clone() };
        let task = async move {
            let leave = leave;
            if let Some(mut before) = before {
                // An error says that the predecessor is gone, which is what is waited for.
                let _ = before.wait_for(Option::is_some).await;
            }
            let result = work.await.map(|value| Arc::new(value) as Arc<dyn Any + Send + Sync>).map_err(Arc::new);
            // Out of the queue first: whoever sees the result and calls again starts anew.
            drop(leave);
            sender.send_replace(Some(result));
        };
        // The task ends with its work and is owned by the queue's entry.
        tokio::spawn(task.in_current_span());
        outcome
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut subjects = self.verbs.subjects.lock();
        if let Some(queue) = subjects.get_mut(&self.subject) {
            queue.retain(|entry| !entry.outcome.same_channel(&self.outcome));
            if queue.is_empty() {
                subjects.remove(&self.subject);
            }
        }
    }
}

/// The name of a pod as the CRI makes it unique: a retry repeats it, a new attempt does not.
pub fn pod_name(metadata: &windlass_cri_api::v1::PodSandboxMetadata) -> String {
    // None of them holds a slash (pod/plan.rs), so different pods never have the same name.
    [&metadata.name, &metadata.namespace, &metadata.uid, &metadata.attempt.to_string()].map(String::as_str).join("/")
}

/// A fresh id: 64 hexadecimal digits, as kubelet, crictl and log collectors know them.
pub fn fresh_id() -> Result<windlass_model::Id> {
    let halves = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
    halves.map(|half| half.simple().to_string()).concat().parse()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_retry_joins_and_gets_the_same_result() {
        let verbs = Verbs::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Notify::new());
        let work = || {
            let (runs, gate) = (runs.clone(), gate.clone());
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                gate.notified().await;
                Ok("id".to_string())
            }
        };
        let calls = [verbs.join("pod/a", "run", work()), verbs.join("pod/a", "run", work())];
        let (results, ()) = tokio::join!(futures::future::join_all(calls), async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            gate.notify_waiters();
        });
        assert!(results.into_iter().all(|result| result.unwrap() == "id"));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert!(!verbs.is_busy("pod/a"));
    }

    #[tokio::test]
    async fn a_dropped_caller_cancels_nothing() {
        let verbs = Verbs::default();
        let done = Arc::new(Notify::new());
        let signal = done.clone();
        let call = verbs.join("pod/a", "run", async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            signal.notify_one();
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
        tokio::time::timeout(Duration::from_secs(5), done.notified()).await.unwrap();
    }

    #[tokio::test]
    async fn different_verbs_take_turns_and_an_error_reaches_every_caller() {
        let verbs = Verbs::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        let step = |name: &'static str, wait: u64| {
            let order = order.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                order.lock().push(name);
                if name == "stop" { Err(Error::unavailable("shim")) } else { Ok(()) }
            }
        };
        let (run, stop, again, other) = tokio::join!(
            verbs.join("pod/a", "run", step("run", 20)),
            verbs.join("pod/a", "stop", step("stop", 0)),
            verbs.join("pod/a", "stop", step("stop", 0)),
            verbs.join("pod/b", "run", step("other", 0)),
        );
        run.unwrap();
        other.unwrap();
        assert_eq!(stop.unwrap_err().kind(), windlass_model::Kind::Unavailable);
        assert!(again.unwrap_err().to_string().contains("shim"));
        assert_eq!(*order.lock(), ["other", "run", "stop"]);
    }

    #[tokio::test]
    async fn calls_that_ask_for_different_things_each_have_their_turn() {
        let verbs = Verbs::default();
        let order = Arc::new(Mutex::new(Vec::new()));
        let update = |value: u32| {
            let order = order.clone();
            async move {
                tokio::task::yield_now().await;
                order.lock().push(value);
                Ok(value)
            }
        };
        let (one, two) = tokio::join!(
            verbs.turn("container/a", "update", update(1)),
            verbs.turn("container/a", "update", update(2))
        );
        assert_eq!((one.unwrap(), two.unwrap()), (1, 2));
        assert_eq!(*order.lock(), [1, 2]);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_the_subject() {
        let verbs = Verbs::default();
        let bad = verbs.join::<(), _>("pod/a", "run", async { panic!("on purpose") }).await;
        assert_eq!(bad.unwrap_err().kind(), windlass_model::Kind::Internal);
        verbs.join("pod/a", "stop", async { Ok(()) }).await.unwrap();
        verbs.join("pod/a", "run", async { Ok(()) }).await.unwrap();
    }

    #[test]
    fn an_id_is_64_digits() {
        let (one, two) = (fresh_id().unwrap(), fresh_id().unwrap());
        assert_eq!(one.as_str().len(), 64);
        assert_ne!(one, two);
    }
}
