//! Backpressure that a sender hardly notices: it is held a little before it is refused.
//!
//! Fly's log shipper backs off for up to an hour once it was refused, so holding it is kinder. But who is held holds a
//! connection and perhaps memory: not for long, and not many.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
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

/// Who holds more than this and wants more still waits alone: those who wait for each other's memory would all wait in vain, and
/// everybody else with them. Smaller ones, `backpressure.waiting_max` of them, leave room.
const MUCH_BYTES: usize = 1 << 20;

/// How many senders are held, of how many that may be.
#[derive(Debug)]
pub(super) struct Holding {
    bounds: config::Backpressure,
    held: AtomicUsize,
    /// One of them holds much.
    holds_much: AtomicBool,
    shutdown: CancellationToken,
}

/// Why a sender is not held any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// It was held for as long as may be, or as many are held as may be, or it holds much and another such waits, or it is gone.
    Refuse,
    ShuttingDown,
}

impl Holding {
    pub(super) fn new(bounds: config::Backpressure, shutdown: CancellationToken) -> Self {
        Self { bounds, held: AtomicUsize::new(0), holds_much: AtomicBool::new(false), shutdown }
    }

    pub(super) fn is_shutting_down(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    /// Ends when a body under way can no longer be waited for.
    pub(super) async fn shutdown_grace(&self) {
        self.shutdown.cancelled().await;
        sleep(SHUTDOWN_GRACE).await;
    }

    pub(super) fn hold(&self, link: Option<Arc<Link>>) -> Hold<'_> {
        Hold { holding: self, link, waited: Duration::ZERO }
    }
}

/// One body's wait for room: all its waits together are bounded by `backpressure.wait`.
pub(super) struct Hold<'a> {
    holding: &'a Holding,
    link: Option<Arc<Link>>,
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
    /// `holds`: bytes of the budget that it holds while it waits for more of them; 0 if it waits for something else.
    ///
    /// Cancel safe if `attempt` is.
    pub(super) async fn until<T>(
        &mut self,
        budget: &Budget,
        holds: usize,
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
                place = Some(Place::take(self.holding, holds > MUCH_BYTES).ok_or(Expired::Refuse)?);
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
            () = gone(self.link.as_deref()) => Err(Expired::Refuse),
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
struct Place<'a> {
    holding: &'a Holding,
    holds_much: bool,
}

impl<'a> Place<'a> {
    fn take(holding: &'a Holding, holds_much: bool) -> Option<Self> {
        if holds_much && holding.holds_much.swap(true, Ordering::AcqRel) {
            return None;
        }
        let free = |held: usize| (held < holding.bounds.waiting_max).then_some(held + 1);
        let taken = holding.held.fetch_update(Ordering::AcqRel, Ordering::Relaxed, free).is_ok();
        if !taken && holds_much {
            holding.holds_much.store(false, Ordering::Release);
        }
        taken.then(|| Self { holding, holds_much })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.holds_much {
            self.holding.holds_much.store(false, Ordering::Release);
        }
        self.holding.held.fetch_sub(1, Ordering::AcqRel);
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
        let (found, ()) = tokio::join!(hold.until(&budget, 0, || budget.try_reserve(700)), release);
        assert!(found.is_ok());
        assert_eq!(start.elapsed().as_millis(), 6_100);
        assert_eq!(hold.until(&budget, 0, NEVER).await, Err(Expired::Refuse));
        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(hold.until(&budget, 0, NEVER).await, Err(Expired::Refuse));
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_time_alone_lets_in_is_tried_though_no_room_is_announced() {
        let (holding, budget) = (holding(1), Budget::new(800));
        let start = Instant::now();
        let after = |millis: u128| move || (start.elapsed().as_millis() >= millis).then_some(());
        assert_eq!(holding.hold(None).until(&budget, 0, after(1_000)).await, Ok(()));
        assert_eq!(start.elapsed().as_millis(), 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_try_is_at_the_end_of_the_wait() {
        let bounds = config::Backpressure { wait: Duration::from_millis(9_900), waiting_max: 1 };
        let (holding, budget) = (Holding::new(bounds, CancellationToken::new()), Budget::new(800));
        let start = Instant::now();
        let at_the_end = || (start.elapsed().as_millis() >= 9_900).then_some(());
        assert_eq!(holding.hold(None).until(&budget, 0, at_the_end).await, Ok(()));
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
        assert_eq!(holding.hold(None).until(&budget, 0, futile).await, Err(Expired::Refuse));
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
            let refused = second.until(&budget, 0, NEVER).await;
            (refused, start.elapsed())
        };
        let (one, other) = tokio::join!(first.until(&budget, 0, NEVER), late);
        assert_eq!((one, other), (Err(Expired::Refuse), (Err(Expired::Refuse), RETRY_EVERY)));
        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(holding.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_who_hold_much_and_want_more_one_waits() {
        let (holding, budget) = (holding(3), Budget::new(8 << 20));
        let [mut first, mut second] = [(); 2].map(|()| budget.try_reserve(3 << 20).unwrap());
        let small = budget.try_reserve(1 << 20).unwrap();
        let start = Instant::now();
        let mut large = holding.hold(None);
        let grown = large.until(&budget, first.bytes(), || first.try_resize(6 << 20).then_some(()));
        let other = async {
            let mut hold = holding.hold(None);
            let refused = hold.until(&budget, second.bytes(), || second.try_resize(6 << 20).then_some(())).await;
            assert_eq!((refused, start.elapsed()), (Err(Expired::Refuse), Duration::ZERO));
            // Who holds little may wait beside it.
            let mut waits = holding.hold(None);
            let (waited, ()) = tokio::join!(waits.until(&budget, small.bytes(), NEVER), async {
                sleep(RETRY_EVERY).await;
                drop(second);
            });
            assert_eq!((waited, start.elapsed().as_secs()), (Err(Expired::Refuse), 10));
        };
        let (grown, ()) = tokio::join!(grown, other);
        assert_eq!(grown, Ok(()));
        assert!(!holding.holds_much.load(Ordering::Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_every_wait() {
        let (holding, budget) = (holding(1), Budget::new(800));
        holding.shutdown.cancel();
        assert_eq!(holding.hold(None).until(&budget, 0, NEVER).await, Err(Expired::ShuttingDown));
    }
}
