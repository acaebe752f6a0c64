//! Backpressure that a sender hardly notices: it is held a little before it is refused.
//!
//! Fly's log shipper backs off for up to an hour once it was refused, so holding it is kinder. But who is held holds a
//! connection and perhaps memory: not for long, and not many.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::link::Link;
use crate::{
    budget::{Budget, Room},
    config,
};

/// How long a body under way may still arrive after the shutdown began; `shutdown.deadline` is 4 s, and its lines are to be
/// flushed within that too.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// How often a held sender is tried though no room was announced: a `block` queue that has had no reader for a second, or
/// into which nothing fitted for `queue.stalled_after`, refuses nobody any more, and it is time alone that makes it so.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// The least time between two tries: many releases must not make many senders try at once again and again, and a try that
/// fails at the second of two queues gives back what it had of the first, which announces room to itself too.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

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
        sleep(SHUTDOWN_GRACE).await;
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

    /// Holds the sender until `attempt` gives something: it is made at once, whenever `budget` has room again, every
    /// [`RETRY_EVERY`], and one last time when the sender was held for as long as may be.
    ///
    /// Cancel safe if `attempt` is.
    pub(super) async fn until<T>(
        &mut self,
        budget: &Budget,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, Expired> {
        if let Some(found) = attempt() {
            return Ok(found);
        }
        // Kept from one try to the next, or who comes later could take it in between.
        let mut place = None;
        loop {
            // Registered before the try, or the release that it needs could fall between the two.
            let mut room = budget.room();
            room.enable();
            if let Some(found) = attempt() {
                return Ok(found);
            }
            if place.is_none() {
                place = Some(Place::take(self.holding).ok_or(Expired::Refuse)?);
            }
            self.wait(room).await?;
        }
    }

    /// Waits for `room` or for the time of the next try.
    async fn wait(&mut self, room: Room<'_>) -> Result<(), Expired> {
        let left = self.holding.bounds.wait.saturating_sub(self.waited);
        if left.is_zero() {
            return Err(Expired::Refuse);
        }
        let since = Instant::now();
        let woken = async { tokio::join!(room.wait(), sleep(RETRY_PAUSE)) };
        let outcome = tokio::select! {
            biased;
            () = self.holding.shutdown.cancelled() => Err(Expired::ShuttingDown),
            _ = timeout(left.min(RETRY_EVERY), woken) => Ok(()),
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

    /// Nothing but time passes.
    const NEVER: fn() -> Option<()> = || None;

    #[tokio::test(start_paused = true)]
    async fn all_waits_of_a_body_together_are_bounded() {
        let (holding, budget) = (holding(1), Budget::new(800));
        let permit = budget.try_reserve(700).unwrap();
        let mut hold = holding.hold(None);
        let start = Instant::now();
        let release = async {
            tokio::time::sleep(Duration::from_millis(6_100)).await;
            drop(permit);
        };
        let (found, ()) = tokio::join!(hold.until(&budget, || budget.try_reserve(700)), release);
        assert!(found.is_ok());
        assert_eq!(start.elapsed().as_millis(), 6_100);
        assert_eq!(hold.until(&budget, NEVER).await, Err(Expired::Refuse));
        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(hold.until(&budget, NEVER).await, Err(Expired::Refuse));
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_time_alone_lets_in_is_tried_though_no_room_is_announced() {
        let (holding, budget) = (holding(1), Budget::new(800));
        let start = Instant::now();
        let after = |millis: u128| move || (start.elapsed().as_millis() >= millis).then_some(());
        assert_eq!(holding.hold(None).until(&budget, after(1_000)).await, Ok(()));
        assert_eq!(start.elapsed().as_millis(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_try_is_at_the_end_of_the_wait() {
        let bounds = config::Backpressure { wait: Duration::from_millis(9_900), waiting_max: 1 };
        let (holding, budget) = (Holding::new(bounds, CancellationToken::new()), Budget::new(800));
        let start = Instant::now();
        let at_the_end = || (start.elapsed().as_millis() >= 9_900).then_some(());
        assert_eq!(holding.hold(None).until(&budget, at_the_end).await, Ok(()));
        assert_eq!(start.elapsed().as_millis(), 9_900);
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_announces_room_to_itself_does_not_spin() {
        let (holding, budget) = (holding(1), Budget::new(800));
        let mut tries = 0;
        let futile = || {
            tries += 1;
            assert!(tries < 10_000, "spins");
            budget.announce_room();
            None::<()>
        };
        assert_eq!(holding.hold(None).until(&budget, futile).await, Err(Expired::Refuse));
        assert!((900..1_100).contains(&tries), "{tries} tries in 10 s");
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_is_refused_at_once() {
        let (holding, budget) = (holding(1), Budget::new(800));
        let (mut first, mut second) = (holding.hold(None), holding.hold(None));
        let start = Instant::now();
        let late = async {
            // At a moment when the first one is being tried again.
            tokio::time::sleep(RETRY_EVERY).await;
            let refused = second.until(&budget, NEVER).await;
            (refused, start.elapsed())
        };
        let (one, other) = tokio::join!(first.until(&budget, NEVER), late);
        assert_eq!((one, other), (Err(Expired::Refuse), (Err(Expired::Refuse), RETRY_EVERY)));
        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(holding.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_every_wait() {
        let (holding, budget) = (holding(1), Budget::new(800));
        holding.shutdown.cancel();
        assert_eq!(holding.hold(None).until(&budget, NEVER).await, Err(Expired::ShuttingDown));
    }
}
