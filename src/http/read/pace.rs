//! How often readers are written to: a write costs the kernel more than the lines in it cost us.
//!
//! A machine that logs all the time costs its reader a hundred writes a second, not one for each body that it is in; where
//! many such machines are followed each goes slower, so that all together stay near a bound. One that is quiet does not wait.

use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::available_parallelism,
    time::Duration,
};

use tokio::time::Instant;

/// The time between a frame that held all there was and the next, where few are written to.
pub(super) const PACE_LEAST: Duration = Duration::from_millis(10);

/// The same where very many are: people do not see it.
const PACE_MOST: Duration = Duration::from_millis(250);

/// The share of each in the time of all, on one core: a write takes some 10 µs of it, and nearly all is to be left for lines. Not in the
/// configuration: whoever wants lines sooner than that is a program in this process.
const SHARE: Duration = Duration::from_micros(200);

/// A frame of so many bytes is worth its write, however many others there are.
const WORTH_BYTES: usize = 48 << 10;

/// How many readers were just written to.
#[derive(Debug)]
pub(super) struct Pacing {
    readers: AtomicUsize,
    /// Of each reader in the time of all.
    share: Duration,
}

/// The wait of one of them.
#[derive(Debug)]
pub(super) struct Paced {
    pub(super) until: Instant,
    pacing: Arc<Pacing>,
}

impl Default for Pacing {
    fn default() -> Self {
        Self::on(available_parallelism().map_or(1, NonZero::get))
    }
}

impl Pacing {
    fn on(cores: usize) -> Self {
        Self { readers: AtomicUsize::new(0), share: SHARE / u32::try_from(cores).unwrap_or(u32::MAX) }
    }

    /// The wait behind a frame of `bytes` made `now`.
    ///
    /// `is_bounded`: what comes meanwhile may not wait, because where it would is bounded, and full it drops or refuses.
    pub(super) fn after(self: &Arc<Self>, now: Instant, bytes: usize, is_bounded: bool) -> Paced {
        let readers = self.readers.fetch_add(1, Relaxed) + 1;
        let of_all = || self.share.saturating_mul(u32::try_from(readers).unwrap_or(u32::MAX));
        let pace = if is_bounded || bytes >= WORTH_BYTES { PACE_LEAST } else { of_all().clamp(PACE_LEAST, PACE_MOST) };
        Paced { until: now + pace, pacing: Arc::clone(self) }
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.pacing.readers.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
impl Pacing {
    /// One of two cores, with so many others that were just written to.
    pub(super) fn among(others: usize) -> (Arc<Self>, Vec<Paced>) {
        let pacing = Arc::new(Self::on(2));
        let others = (0..others).map(|_| pacing.after(Instant::now(), 1, false)).collect();
        (pacing, others)
    }

    pub(super) fn readers(&self) -> usize {
        self.readers.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_who_are_written_to_go_slower_and_few_or_large_frames_do_not() {
        let (pacing, others) = Pacing::among(999);
        let now = Instant::now();
        let pace = |bytes, is_bounded| pacing.after(now, bytes, is_bounded).until - now;
        assert_eq!(pace(1, false), Duration::from_millis(100));
        assert_eq!((pace(WORTH_BYTES, false), pace(1, true)), (PACE_LEAST, PACE_LEAST));
        let more: Vec<Paced> = (0..100_000).map(|_| pacing.after(now, 1, false)).collect();
        assert_eq!(pace(1, false), PACE_MOST);
        drop((others, more));
        assert_eq!(pace(1, false), PACE_LEAST, "it is they who are there that count");
    }
}
