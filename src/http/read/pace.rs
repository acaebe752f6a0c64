//! How often readers are written to: a write costs the kernel more than the lines in it cost us.
//!
//! A machine that logs all the time costs its reader a hundred writes a second, not one for each body that it is in; where
//! many such machines are followed each goes slower, so that all together stay near a bound. One that is quiet does not wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The time between a frame that held all there was and the next, where few are written to.
pub(super) const PACE_LEAST: Duration = Duration::from_millis(10);

/// The same where very many are: people do not see it, and what queues hold meanwhile is little.
const PACE_MOST: Duration = Duration::from_millis(250);

/// The share of each in the time of all: 25,000 writes a second take a sixth of a core's time (`docs/performance.md`).
const SHARE: Duration = Duration::from_micros(40);

/// A frame of so many bytes is worth its write, however many others there are. What comes slower than that does not fill a
/// queue within the longest pace.
const WORTH_BYTES: usize = 16 << 10;

/// How many readers were just written to.
#[derive(Debug, Default)]
pub(super) struct Pacing(AtomicUsize);

/// The wait of one of them.
#[derive(Debug)]
pub(super) struct Paced {
    pub(super) until: Instant,
    pacing: Arc<Pacing>,
}

impl Pacing {
    /// The wait behind a frame of `bytes` made `now`.
    pub(super) fn after(self: &Arc<Self>, now: Instant, bytes: usize) -> Paced {
        let readers = self.0.fetch_add(1, Relaxed) + 1;
        let pace = match bytes {
            WORTH_BYTES.. => PACE_LEAST,
            _ => SHARE.saturating_mul(u32::try_from(readers).unwrap_or(u32::MAX)).clamp(PACE_LEAST, PACE_MOST),
        };
        Paced { until: now + pace, pacing: Arc::clone(self) }
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.pacing.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_who_are_written_to_go_slower_and_few_or_large_frames_do_not() {
        let (pacing, now) = (Arc::<Pacing>::default(), Instant::now());
        let pace = |bytes| pacing.after(now, bytes).until - now;
        assert_eq!(pace(1), PACE_LEAST);
        let others: Vec<Paced> = (0..999).map(|_| pacing.after(now, 1)).collect();
        assert_eq!(pace(1), Duration::from_millis(40));
        assert_eq!(pace(WORTH_BYTES), PACE_LEAST);
        let more: Vec<Paced> = (0..100_000).map(|_| pacing.after(now, 1)).collect();
        assert_eq!(pace(1), PACE_MOST);
        drop((others, more));
        assert_eq!(pace(1), PACE_LEAST, "it is they who are there that count");
    }
}
