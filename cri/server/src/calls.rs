//! How often each call of the CRI came, how it ended and how long it took, as Prometheus' text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tonic::Code;

use crate::Server;
use crate::container::Container;

/// The upper ends of the histogram's buckets, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0, 30.0, 120.0];

/// The calls by name.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<BTreeMap<&'static str, Call>>);

#[derive(Debug, Default)]
struct Call {
    under_way: u64,
    /// How often it ended with each code.
    ended: BTreeMap<i32, u64>,
    /// How many took at most so long, bucket by bucket, and longer than all.
    buckets: [u64; BUCKETS.len() + 1],
    took: Duration,
}

/// A call under way. One that is dropped before it ended was given up by its caller.
pub(crate) struct Counted<'a> {
    calls: &'a Calls,
    name: &'static str,
    begun: Instant,
    code: Code,
}

impl Calls {
    /// Counts a call from now on.
    pub(crate) fn begin(&self, name: &'static str) -> Counted<'_> {
        self.0.lock().entry(name).or_default().under_way += 1;
        Counted { calls: self, name, begun: Instant::now(), code: Code::Cancelled }
    }

    fn write(&self, text: &mut String) {
        let calls = self.0.lock();
        head(text, "windlass_cri_calls_total", "counter", "Calls of the CRI that have ended.");
        for (name, call) in calls.iter() {
            for (code, count) in &call.ended {
                let code = Code::from(*code);
                line(
                    text,
                    "windlass_cri_calls_total",
                    &[("call", name), ("code", &format!("{code:?}"))],
                    *count as f64,
                );
            }
        }
        head(text, "windlass_cri_calls_under_way", "gauge", "Calls of the CRI that have not ended.");
        for (name, call) in calls.iter() {
            line(text, "windlass_cri_calls_under_way", &[("call", name)], call.under_way as f64);
        }
        let metric = "windlass_cri_call_duration_seconds";
        head(text, metric, "histogram", "How long calls of the CRI took.");
        for (name, call) in calls.iter() {
            let mut so_far = 0;
            let ends = BUCKETS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
            for (end, count) in ends.zip(call.buckets) {
                so_far += count;
                line(text, &format!("{metric}_bucket"), &[("call", name), ("le", &end)], so_far as f64);
            }
            line(text, &format!("{metric}_sum"), &[("call", name)], call.took.as_secs_f64());
            line(text, &format!("{metric}_count"), &[("call", name)], so_far as f64);
        }
    }
}

impl Counted<'_> {
    /// The call has ended.
    pub(crate) fn end(mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        let mut calls = self.calls.0.lock();
        let call = calls.entry(self.name).or_default();
        call.under_way = call.under_way.saturating_sub(1);
        *call.ended.entry(self.code as i32).or_default() += 1;
        let bucket = BUCKETS.iter().position(|end| took.as_secs_f64() <= *end).unwrap_or(BUCKETS.len());
        call.buckets[bucket] += 1;
        call.took += took;
    }
}

impl Server {
    /// The server's own metrics: its calls, the stages of what it makes, its pods and containers.
    pub fn own_metrics(&self) -> String {
        let mut text = String::new();
        self.calls.write(&mut text);
        let sums = self.timelines.sums();
        head(&mut text, "windlass_stages_total", "counter", "Stages of pods and containers coming up that have ended.");
        for (stage, count, _) in &sums {
            line(&mut text, "windlass_stages_total", &[("stage", stage)], *count as f64);
        }
        head(&mut text, "windlass_stage_seconds_total", "counter", "How long those stages took.");
        for (stage, _, seconds) in &sums {
            line(&mut text, "windlass_stage_seconds_total", &[("stage", stage)], *seconds);
        }
        head(&mut text, "windlass_pods", "gauge", "Pods by how far they are.");
        let pods = self.pods.all();
        for (rung, count) in counted(pods.iter().map(|pod| format!("{:?}", pod.rung).to_lowercase())) {
            line(&mut text, "windlass_pods", &[("rung", &rung)], count as f64);
        }
        head(&mut text, "windlass_containers", "gauge", "Containers by how far they are.");
        let containers = self.containers.all();
        let rung = |container: &Container| format!("{:?}", container.rung).to_lowercase();
        for (rung, count) in counted(containers.iter().map(|container| rung(container))) {
            line(&mut text, "windlass_containers", &[("rung", &rung)], count as f64);
        }
        text
    }
}

fn counted(words: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    words.fold(BTreeMap::new(), |mut counts, word| {
        *counts.entry(word).or_default() += 1;
        counts
    })
}

/// What a metric is. Writing to a String cannot fail, here and below.
fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// One value; labels are words of ours, without anything to escape.
fn line(text: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let _ = writeln!(text, "{name}{{{}}} {value}", labels.join(","));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_their_end() {
        let calls = Calls::default();
        calls.begin("Version").end(Code::Ok);
        calls.begin("Version").end(Code::Ok);
        calls.begin("Version").end(Code::NotFound);
        drop(calls.begin("Status"));
        let _under_way = calls.begin("Version");
        let mut text = String::new();
        calls.write(&mut text);
        for line in [
            "windlass_cri_calls_total{call=\"Version\",code=\"Ok\"} 2",
            "windlass_cri_calls_total{call=\"Version\",code=\"NotFound\"} 1",
            "windlass_cri_calls_total{call=\"Status\",code=\"Cancelled\"} 1",
            "windlass_cri_calls_under_way{call=\"Version\"} 1",
            "windlass_cri_call_duration_seconds_bucket{call=\"Version\",le=\"+Inf\"} 3",
            "windlass_cri_call_duration_seconds_count{call=\"Version\"} 3",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }
}
