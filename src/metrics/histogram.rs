//! A histogram of fixed size that any thread may record into.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

/// Counts of durations by upper bound, and their sum.
///
/// A record takes 12–19 ns; where two threads do nothing else, 19–79 ns of the clock each (2 cores of an EPYC, release).
#[derive(Debug)]
pub(crate) struct Histogram {
    /// Seconds, ascending; what is over the last is counted too.
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// The bucket counted last, which is most often the next one's: to look there first takes a third of a search.
    last: AtomicUsize,
    /// Seconds, as the bits of an `f64`: integers of nanoseconds would run over within ten lines dated 1970.
    sum: AtomicU64,
}

/// A histogram's state at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Counted {
    /// Upper bounds in seconds, each with how many durations were at most that long.
    pub(crate) buckets: Vec<(f64, u64)>,
    /// How many there were in all.
    pub(crate) count: u64,
    /// Seconds.
    pub(crate) sum: f64,
}

impl Histogram {
    /// From received to taken by a queue's reader: from the same wake-up to a reader that catches up.
    pub(crate) const LATENCY: &[f64] = &[
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        60.0, 300.0, 600.0,
    ];
    /// From a record's own time to its receipt: senders batch for a second, and repeat for hours.
    pub(crate) const LAG: &[f64] =
        &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];
    /// A request: up to the body's deadline of 60 s.
    pub(crate) const REQUEST: &[f64] =
        &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

    /// An empty histogram. `bounds`: upper bounds in seconds, inclusive, ascending.
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, last: AtomicUsize::new(0), sum: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub(crate) fn record(&self, duration: Duration) {
        self.record_times(duration, 1);
    }

    /// Counts a duration that stands for so many.
    pub(crate) fn record_times(&self, duration: Duration, times: u8) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bucket(seconds);
        self.counts[bucket].fetch_add(u64::from(times), Ordering::Relaxed);
        let add = |sum| Some((f64::from_bits(sum) + seconds * f64::from(times)).to_bits());
        // The closure never refuses, so neither does the update.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn bucket(&self, seconds: f64) -> usize {
        let last = self.last.load(Ordering::Relaxed);
        let below = last.checked_sub(1).map_or(f64::NEG_INFINITY, |before| self.bounds[before]);
        if below < seconds && self.bounds.get(last).is_none_or(|&bound| seconds <= bound) {
            return last;
        }
        let bucket = self.bounds.partition_point(|&bound| bound < seconds);
        self.last.store(bucket, Ordering::Relaxed);
        bucket
    }

    /// What was counted so far. The count is that of the buckets; the sum may be a few durations ahead or behind.
    pub(crate) fn counted(&self) -> Counted {
        let mut count = 0;
        let mut running = self.counts.iter().map(|bucket| {
            count += bucket.load(Ordering::Relaxed);
            count
        });
        let buckets = self.bounds.iter().copied().zip(running.by_ref()).collect();
        running.for_each(drop);
        Counted { buckets, count, sum: f64::from_bits(self.sum.load(Ordering::Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_up_to_and_with_their_bound() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        for millis in [0, 500, 625, 1000, 1125, 5000] {
            histogram.record(Duration::from_millis(millis));
        }
        let expected = Counted { buckets: vec![(0.5, 2), (1.0, 4)], count: 6, sum: 8.25 };
        assert_eq!(histogram.counted(), expected);
    }

    #[test]
    fn the_last_bucket_is_only_a_guess() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        for millis in [5000, 5000, 1000, 1000, 250, 500, 501, 1001] {
            histogram.record(Duration::from_millis(millis));
        }
        assert_eq!(histogram.counted().buckets, [(0.5, 2), (1.0, 5)]);
    }

    #[test]
    fn no_record_is_lost_between_threads() {
        let histogram = Histogram::new(Histogram::LATENCY);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5000).for_each(|_| histogram.record(Duration::from_millis(500))));
            }
        });
        let Counted { count, sum, .. } = histogram.counted();
        assert_eq!((count, sum), (20_000, 10_000.0));
    }

    #[test]
    fn bounds_ascend() {
        for bounds in [Histogram::LATENCY, Histogram::LAG, Histogram::REQUEST] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
