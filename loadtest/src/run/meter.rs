//! What all senders and readers measure into.

use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A latency histogram of the whole run and of the current second, in microseconds.
#[derive(Debug)]
struct Timed {
    total: Histogram<u64>,
    interval: Histogram<u64>,
}

impl Timed {
    fn new() -> Self {
        Self { total: histogram(), interval: histogram() }
    }
}

/// One microsecond to an hour, three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are valid")
}

/// Shared by all tasks of a run.
#[derive(Debug)]
pub(crate) struct Meter {
    /// Times in marks count from here.
    pub(crate) epoch: Instant,
    epoch_nanos: u128,
    answers: Mutex<Timed>,
    end_to_end: Mutex<Timed>,
    refusals: Mutex<Timed>,
    pub(crate) lines_sent: AtomicU64,
    pub(crate) lines_read: AtomicU64,
    pub(crate) refused: AtomicU64,
    behind: AtomicU64,
    behind_max: AtomicU64,
    /// Somebody pressed Ctrl-C, or a task failed: stop sending.
    pub(crate) stop: AtomicBool,
    /// Slow readers may catch up now.
    pub(crate) sending_over: AtomicBool,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            epoch_nanos: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos(),
            answers: Mutex::new(Timed::new()),
            end_to_end: Mutex::new(Timed::new()),
            refusals: Mutex::new(Timed::new()),
            lines_sent: AtomicU64::new(0),
            lines_read: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            behind: AtomicU64::new(0),
            behind_max: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            sending_over: AtomicBool::new(false),
        }
    }

    pub(crate) fn since_epoch(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.epoch)
    }

    /// Nanoseconds since 1970 of a moment of this run.
    pub(crate) fn unix_nanos(&self, moment: Instant) -> u128 {
        self.epoch_nanos + self.since_epoch(moment).as_nanos()
    }

    /// A body that was due at `due` is answered now.
    pub(crate) fn answered(&self, due: Instant, lines: u64) {
        self.lines_sent.fetch_add(lines, Relaxed);
        let micros = due.elapsed().as_micros() as u64;
        let mut answers = lock(&self.answers);
        answers.total.saturating_record(micros);
        answers.interval.saturating_record(micros);
    }

    /// A try that went out at `sent` was refused now. From when it was sent: a refusal answers this try, not what its body
    /// has waited before.
    pub(crate) fn refused(&self, sent: Instant) {
        self.refused.fetch_add(1, Relaxed);
        let micros = sent.elapsed().as_micros() as u64;
        let mut refusals = lock(&self.refusals);
        refusals.total.saturating_record(micros);
        refusals.interval.saturating_record(micros);
    }

    /// Lines with these latencies in microseconds were read.
    pub(crate) fn read(&self, latencies: &[u64]) {
        self.lines_read.fetch_add(latencies.len() as u64, Relaxed);
        let mut end_to_end = lock(&self.end_to_end);
        for &micros in latencies {
            end_to_end.total.saturating_record(micros);
            end_to_end.interval.saturating_record(micros);
        }
    }

    /// A body goes out `late` after it was due.
    pub(crate) fn behind(&self, late: Duration) {
        let micros = late.as_micros() as u64;
        self.behind.fetch_max(micros, Relaxed);
        self.behind_max.fetch_max(micros, Relaxed);
    }

    pub(crate) fn behind_max(&self) -> Duration {
        Duration::from_micros(self.behind_max.load(Relaxed))
    }

    /// The calibration is over: its latencies are not the run's.
    pub(crate) fn forget_latencies(&self) {
        *lock(&self.answers) = Timed::new();
        *lock(&self.end_to_end) = Timed::new();
        *lock(&self.refusals) = Timed::new();
        self.behind.store(0, Relaxed);
        self.behind_max.store(0, Relaxed);
    }

    /// The last second: p99 of answers, p99 end to end, p99 of refusals, how far behind the schedule; microseconds.
    pub(crate) fn interval(&self) -> [u64; 4] {
        let take = |timed: &Mutex<Timed>| {
            let mut timed = lock(timed);
            let p99 = timed.interval.value_at_quantile(0.99);
            timed.interval.reset();
            p99
        };
        [take(&self.answers), take(&self.end_to_end), take(&self.refusals), self.behind.swap(0, Relaxed)]
    }

    /// The latencies of the whole run: answers, end to end, refusals.
    pub(crate) fn totals(&self) -> [Histogram<u64>; 3] {
        [&self.answers, &self.end_to_end, &self.refusals].map(|timed| lock(timed).total.clone())
    }
}

fn lock(timed: &Mutex<Timed>) -> MutexGuard<'_, Timed> {
    timed.lock().unwrap_or_else(PoisonError::into_inner)
}
