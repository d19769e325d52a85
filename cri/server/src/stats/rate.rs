//! Processor time in a second, from samples of the last while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use windlass_model::Timestamp;

/// Over how long a rate is taken, where there are samples that old.
const WINDOW: Duration = Duration::from_secs(10);
/// Samples closer together than this say little.
const APART: Duration = Duration::from_secs(1);
/// A rate over less than this is noise.
const SHORTEST: Duration = Duration::from_millis(100);
/// What has begun since then is measured from its beginning.
const YOUNG: Duration = Duration::from_secs(60);

/// Processor time at some moments, oldest first.
#[derive(Debug, Default)]
pub(super) struct Samples(VecDeque<(Instant, u64)>);

impl Samples {
    /// When the last sample was taken.
    pub(super) fn last(&self) -> Option<Instant> {
        self.0.back().map(|(at, _)| *at)
    }

    /// Adds a sample; answers nanoseconds of processor time in a second since the newest sample that is old enough, or
    /// since `born`, when the counter was zero. Nothing where there is neither.
    pub(super) fn rate(&mut self, at: Instant, nanos: u64, born: Option<Instant>) -> Option<u64> {
        if self.0.back().is_some_and(|(_, before)| *before > nanos) {
            // The counter has begun anew.
            self.0.clear();
        }
        if let (true, Some(born)) = (self.0.is_empty(), born) {
            self.0.push_back((born, 0));
        }
        while self.0.get(1).is_some_and(|(second, _)| at.saturating_duration_since(*second) >= WINDOW) {
            self.0.pop_front();
        }
        let rate = self.0.front().and_then(|(since, before)| {
            let passed = at.checked_duration_since(*since).filter(|passed| *passed >= SHORTEST)?;
            let rate = u128::from(nanos - before) * 1_000_000_000 / passed.as_nanos();
            Some(u64::try_from(rate).unwrap_or(u64::MAX))
        });
        if self.last().is_none_or(|last| at.saturating_duration_since(last) >= APART) {
            self.0.push_back((at, nanos));
        }
        rate
    }
}

/// The moment `began` by the clock of `now`, which is `at` by the wall clock; nothing where it is long ago or to come.
pub(super) fn since(began: Timestamp, at: Timestamp, now: Instant) -> Option<Instant> {
    let age = u64::try_from(at.nanos().checked_sub(began.nanos())?).ok().map(Duration::from_nanos)?;
    (began.happened() && age < YOUNG).then(|| now.checked_sub(age)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_rate_is_taken_over_the_last_while() {
        let (begin, mut samples) = (Instant::now(), Samples::default());
        let mut at = |seconds: u64, nanos: u64| samples.rate(begin + Duration::from_secs(seconds), nanos, None);
        assert_eq!(at(0, 5 * SECOND), None, "one sample is no rate");
        assert_eq!(at(10, 10 * SECOND), Some(SECOND / 2));
        assert_eq!(at(20, 10 * SECOND), Some(0), "not since the first");
        assert_eq!(at(22, 16 * SECOND), Some(6 * SECOND / 12));
        assert_eq!(at(30, SECOND), None, "the counter has begun anew");
        assert_eq!(at(40, 2 * SECOND), Some(SECOND / 10));
    }

    #[test]
    fn what_is_young_is_measured_from_its_beginning() {
        let (begin, mut samples) = (Instant::now(), Samples::default());
        let at = begin + Duration::from_secs(2);
        assert_eq!(samples.rate(at, SECOND, Some(begin)), Some(SECOND / 2));
        let mut samples = Samples::default();
        assert_eq!(samples.rate(begin + Duration::from_millis(5), SECOND, Some(begin)), None, "too short");
        let now = Instant::now();
        assert!(since(Timestamp(1_000), Timestamp(2_000), now).is_some());
        assert_eq!(since(Timestamp(2_000), Timestamp(1_000), now), None, "a clock that was set");
        assert_eq!(since(Timestamp(0), Timestamp(1_000), now), None, "it never began");
        assert_eq!(since(Timestamp(1), Timestamp(i64::MAX), now), None);
    }

    #[test]
    fn many_questions_keep_few_samples() {
        let (begin, mut samples) = (Instant::now(), Samples::default());
        for tenth in 0..1000 {
            samples.rate(begin + Duration::from_millis(tenth * 100), tenth * SECOND / 10, None);
        }
        assert!(samples.0.len() < 15, "{}", samples.0.len());
    }
}
