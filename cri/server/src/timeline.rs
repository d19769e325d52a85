//! Which stages a pod and a container go through while they come up, since when, and for how long.
//!
//! They are kept in memory as long as what they are about is there: a call that is given up says where its work is, a
//! verbose status shows all of them, and their sums are metrics.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::future::Future;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use windlass_model::Id;

/// The most stages that are kept of one pod or container: a start that is tried again and again adds no more.
const MOST: usize = 32;

/// The stages of everything.
#[derive(Debug, Default)]
pub(crate) struct Timelines {
    known: Mutex<HashMap<Id, Timeline>>,
    sums: Mutex<BTreeMap<&'static str, Sum>>,
}

#[derive(Debug)]
struct Timeline {
    begun: Instant,
    stages: Vec<Stage>,
}

#[derive(Debug)]
struct Stage {
    name: &'static str,
    begun: Instant,
    took: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    count: u64,
    took: Duration,
}

/// A stage under way; its end is when this is dropped, also where the work was given up.
struct Running<'a> {
    timelines: &'a Timelines,
    id: &'a Id,
    name: &'static str,
    begun: Instant,
}

impl Timelines {
    /// Does `work` as the stage `name` of `id`. Stages may run at the same time.
    pub(crate) async fn stage<T>(&self, id: &Id, name: &'static str, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        {
            let mut known = self.known.lock();
            let timeline = known.entry(id.clone()).or_insert_with(|| Timeline { begun, stages: Vec::new() });
            if timeline.stages.len() < MOST {
                timeline.stages.push(Stage { name, begun, took: None });
            }
        }
        let _running = Running { timelines: self, id, name, begun };
        work.await
    }

    /// The stages that `id` is at: `network for 29.8 s`; empty where none is under way.
    pub(crate) fn at(&self, id: &Id) -> String {
        let mut text = String::new();
        let known = self.known.lock();
        let stages = known.get(id).into_iter().flat_map(|timeline| &timeline.stages);
        for stage in stages.filter(|stage| stage.took.is_none()) {
            let more = if text.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{more}{} for {:.1} s", stage.name, stage.begun.elapsed().as_secs_f64());
        }
        text
    }

    /// All stages of `id`, as a verbose status shows them; times are in milliseconds from the first.
    pub(crate) fn told(&self, id: &Id) -> Value {
        let known = self.known.lock();
        let Some(timeline) = known.get(id) else { return json!([]) };
        let millis = |time: Duration| (time.as_secs_f64() * 1e5).round() / 100.0;
        let stage = |stage: &Stage| {
            let begun = stage.begun.saturating_duration_since(timeline.begun);
            json!({"stage": stage.name, "begunMs": millis(begun), "tookMs": stage.took.map(millis)})
        };
        timeline.stages.iter().map(stage).collect()
    }

    /// Forgets what is gone.
    pub(crate) fn forget(&self, id: &Id) {
        self.known.lock().remove(id);
    }

    /// For each stage how often it ended, and the seconds that took together.
    pub(crate) fn sums(&self) -> Vec<(&'static str, u64, f64)> {
        let sums = self.sums.lock();
        sums.iter().map(|(name, sum)| (*name, sum.count, sum.took.as_secs_f64())).collect()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        if let Some(timeline) = self.timelines.known.lock().get_mut(self.id) {
            let mine = timeline.stages.iter_mut().find(|stage| stage.name == self.name && stage.begun == self.begun);
            mine.into_iter().for_each(|stage| stage.took = Some(took));
        }
        let mut sums = self.timelines.sums.lock();
        let sum = sums.entry(self.name).or_default();
        sum.count += 1;
        sum.took += took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_are_told_while_they_run_and_afterwards() {
        let timelines = Timelines::default();
        let id: Id = "p1".parse().unwrap();
        assert_eq!((timelines.at(&id), timelines.told(&id)), (String::new(), json!([])));
        let network = timelines.stage(&id, "network", async { timelines.at(&id) });
        let shim = timelines.stage(&id, "shim", async { timelines.at(&id) });
        let (first, second) = tokio::join!(network, shim);
        assert_eq!((first.as_str(), second.as_str()), ("network for 0.0 s", "shim for 0.0 s"));
        assert_eq!(timelines.at(&id), "");
        let told = timelines.told(&id);
        assert_eq!((&told[0]["stage"], &told[1]["stage"]), (&json!("network"), &json!("shim")));
        assert!(told[1]["begunMs"].is_number() && told[1]["tookMs"].is_number());
        timelines.forget(&id);
        assert_eq!(timelines.told(&id), json!([]));
        assert_eq!(
            timelines.sums().iter().map(|(name, count, _)| (*name, *count)).collect::<Vec<_>>(),
            [("network", 1), ("shim", 1)]
        );
    }

    #[tokio::test]
    async fn work_that_is_given_up_ends_its_stage_and_there_are_not_many() {
        let timelines = Timelines::default();
        let id: Id = "c1".parse().unwrap();
        let never = timelines.stage(&id, "task", std::future::pending::<()>());
        assert!(tokio::time::timeout(Duration::from_millis(1), never).await.is_err());
        assert_eq!(timelines.at(&id), "");
        for _ in 0..2 * MOST {
            timelines.stage(&id, "task", async {}).await;
        }
        assert_eq!(timelines.told(&id).as_array().map(Vec::len), Some(MOST));
    }
}
