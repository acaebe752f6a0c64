//! Backpressure that a sender hardly notices: it is held a little before it is refused.
//!
//! Fly's log shipper backs off for up to an hour once it was refused, so holding it is kinder. But who is held holds a
//! connection and perhaps memory: not for long, and not many.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::link::Link;
use crate::{budget::Room, config};

/// How long a body under way may still arrive after the shutdown began; `shutdown.deadline` is 4 s, and its lines are to be
/// flushed within that too.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// How many senders are held, of how many that may be.
#[derive(Debug)]
pub(super) struct Holding {
    bounds: config::Backpressure,
    held: AtomicUsize,
    shutdown: CancellationToken,
}

/// Why a sender is not held any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// It was held for as long as may be, or as many are held as may be, or it is gone.
    Refuse,
    ShuttingDown,
}

impl Holding {
    pub(super) fn new(bounds: config::Backpressure, shutdown: CancellationToken) -> Self {
        Self { bounds, held: AtomicUsize::new(0), shutdown }
    }

    pub(super) fn is_shutting_down(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// Ends when a body under way can no longer be waited for.
    pub(super) async fn shutdown_grace(&self) {
        self.shutdown.cancelled().await;
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    }

    pub(super) fn hold<'a>(&'a self, link: Option<&'a Link>) -> Hold<'a> {
        Hold { holding: self, link, waited: Duration::ZERO }
    }
}

/// One body's wait for room: all its waits together are bounded by `backpressure.wait`.
pub(super) struct Hold<'a> {
    holding: &'a Holding,
    link: Option<&'a Link>,
    waited: Duration,
}

impl Hold<'_> {
    /// How long the sender was held so far; not its own slowness.
    pub(super) fn waited(&self) -> Duration {
        self.waited
    }

    /// Waits for `room`, which was registered before the last try.
    ///
    /// Cancel safe.
    pub(super) async fn wait(&mut self, room: Room<'_>) -> Result<(), Expired> {
        let left = self.holding.bounds.wait.saturating_sub(self.waited);
        let _place = Place::take(self.holding).filter(|_| !left.is_zero()).ok_or(Expired::Refuse)?;
        let since = Instant::now();
        let outcome = tokio::select! {
            biased;
            () = self.holding.shutdown.cancelled() => Err(Expired::ShuttingDown),
            waited = timeout(left, room.wait()) => waited.map_err(|_| Expired::Refuse),
            () = gone(self.link) => Err(Expired::Refuse),
        };
        self.waited += since.elapsed();
        outcome
    }
}

async fn gone(link: Option<&Link>) {
    match link {
        Some(link) => link.gone().await,
        None => std::future::pending().await,
    }
}

/// One of the places for held senders.
struct Place<'a>(&'a Holding);

impl<'a> Place<'a> {
    fn take(holding: &'a Holding) -> Option<Self> {
        let free = |held: usize| (held < holding.bounds.waiting_max).then_some(held + 1);
        holding.held.fetch_update(Ordering::AcqRel, Ordering::Relaxed, free).ok().map(|_| Self(holding))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    fn holding(waiting_max: usize) -> Holding {
        let bounds = config::Backpressure { wait: Duration::from_secs(10), waiting_max };
        Holding::new(bounds, CancellationToken::new())
    }

    #[tokio::test(start_paused = true)]
    async fn all_waits_of_a_body_together_are_bounded() {
        let (holding, budget) = (holding(1), Budget::new(800));
        let permit = budget.try_reserve(1).unwrap();
        let mut hold = holding.hold(None);
        let start = Instant::now();
        let release = async {
            tokio::time::sleep(Duration::from_secs(6)).await;
            drop(permit);
        };
        let mut room = budget.room();
        room.enable();
        let (waited, ()) = tokio::join!(hold.wait(room), release);
        assert_eq!(waited, Ok(()));
        assert_eq!(hold.wait(budget.room()).await, Err(Expired::Refuse));
        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(hold.wait(budget.room()).await, Err(Expired::Refuse));
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_is_refused_at_once() {
        let (holding, budget) = (holding(1), Budget::new(800));
        let (mut first, mut second) = (holding.hold(None), holding.hold(None));
        let start = Instant::now();
        let (one, other) = tokio::join!(first.wait(budget.room()), async {
            let refused = second.wait(budget.room()).await;
            (refused, start.elapsed())
        });
        assert_eq!((one, other), (Err(Expired::Refuse), (Err(Expired::Refuse), Duration::ZERO)));
        assert_eq!(holding.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_every_wait() {
        let (holding, budget) = (holding(1), Budget::new(800));
        holding.shutdown.cancel();
        assert_eq!(holding.hold(None).wait(budget.room()).await, Err(Expired::ShuttingDown));
    }
}
