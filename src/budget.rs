//! The byte budget: every byte that is held for somebody's record is behind a [`Permit`].
//!
//! There is no gauge beside the budget: what is in use *is* the sum of the living permits, so the two cannot disagree.
//! One eighth is set apart for the compact copies of queues whose reader is not there, or may not come (`Pool::Copies`); without
//! it there would be no room for them just when there is need, because the bodies they are copied from fill the rest.

use std::{fmt, sync::Arc};

use crate::sync::{
    Notified, Notify,
    atomic::{AtomicUsize, Ordering, fence},
};

/// The part of the budget that compact copies of queued lines may use: one in so many bytes.
const COPIES_SHARE: usize = 8;

/// The part of what bodies may take that readers' large frames may use at most: one in so many bytes. Readers that stop reading
/// keep theirs for as long as they like.
const FRAMES_SHARE: usize = 16;

/// Which part of the budget a permit belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    /// Bodies while they arrive, batches, history.
    Bodies,
    /// Compact copies that wait in queues.
    Copies,
    /// What is on its way to readers: a part of what bodies may take.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only the control listener has readers"))]
    Frames,
}

/// A bound on bytes held, shared by everything that holds them.
pub struct Budget {
    bodies: Share,
    copies: Share,
    frames: Share,
    released: Notify,
    waiting: AtomicUsize,
}

struct Share {
    limit: usize,
    used: AtomicUsize,
}

impl Share {
    fn try_take(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= self.limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Budget {
    /// A budget of `limit` bytes, of which one eighth is set apart for compact copies.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        let copies = limit / COPIES_SHARE;
        let share = |limit| Share { limit, used: AtomicUsize::new(0) };
        Arc::new(Self {
            bodies: share(limit - copies),
            copies: share(copies),
            frames: share((limit - copies) / FRAMES_SHARE),
            released: Notify::new(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// The whole bound, in bytes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.bodies.limit + self.copies.limit
    }

    /// Bytes held now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.bodies.used.load(Ordering::Relaxed) + self.copies.used.load(Ordering::Relaxed)
    }

    /// The most that one body may ever hold: what an empty budget has room for.
    #[must_use]
    pub fn body_bytes_max(&self) -> usize {
        self.bodies.limit
    }

    /// Takes `bytes` for a body, or nothing if they do not fit now.
    #[must_use]
    pub fn try_reserve(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take(Pool::Bodies, bytes)
    }

    /// Takes `bytes` for what can wait, or nothing: a quarter of what bodies may take is left to them.
    #[cfg(feature = "sinks")]
    pub(crate) fn try_spare(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let limit = self.bodies.limit - self.bodies.limit / 4;
        let is_spare = self.bodies.used.load(Ordering::Relaxed).saturating_add(bytes) <= limit;
        is_spare.then(|| self.try_reserve(bytes))?
    }

    /// Whether bodies have less than half of what they may take: then some may be kept a little longer.
    pub(crate) fn has_plenty(&self) -> bool {
        self.bodies.used.load(Ordering::Relaxed) < self.bodies.limit / 2
    }

    /// Takes `bytes` for a compact copy, or nothing if they do not fit now.
    pub(crate) fn try_copy(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take(Pool::Copies, bytes)
    }

    /// Takes `bytes` for what is on its way to a reader, or nothing if readers have all that they may have, or bodies all there is.
    #[cfg(feature = "server")]
    pub(crate) fn try_frame(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take(Pool::Frames, bytes)
    }

    fn take(self: &Arc<Self>, pool: Pool, bytes: usize) -> Option<Permit> {
        self.try_take(pool, bytes).then(|| Permit { budget: Arc::clone(self), pool, bytes })
    }

    fn try_take(&self, pool: Pool, bytes: usize) -> bool {
        match pool {
            Pool::Bodies => self.bodies.try_take(bytes),
            Pool::Copies => self.copies.try_take(bytes),
            Pool::Frames if !self.frames.try_take(bytes) => false,
            Pool::Frames => {
                let fits = self.bodies.try_take(bytes);
                if !fits {
                    self.frames.give_back(bytes);
                }
                fits
            }
        }
    }

    fn give_back(&self, pool: Pool, bytes: usize) {
        match pool {
            Pool::Bodies => self.bodies.give_back(bytes),
            Pool::Copies => self.copies.give_back(bytes),
            Pool::Frames => {
                self.bodies.give_back(bytes);
                self.frames.give_back(bytes);
            }
        }
        self.announce_room();
    }

    /// Registers for the next release of any room. Create it *before* trying, so that a release in between is not missed.
    ///
    /// Cancel safe: dropping it only unregisters.
    pub(crate) fn room(&self) -> Room<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // With its counterpart in `announce_room`: either the try that follows sees the bytes that were released, or the
        // release sees who waits. Without the two fences both may read what was before.
        fence(Ordering::SeqCst);
        Room { budget: self, notified: Box::pin(self.released.notified()) }
    }

    /// Wakes whoever waits for room: bytes were released, or a queue has room again.
    pub(crate) fn announce_room(&self) {
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.released.notify_waiters();
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("used", &self.used()).field("limit", &self.limit()).finish_non_exhaustive()
    }
}

/// A registered wait for room in a [`Budget`]; see [`Budget::room`].
pub(crate) struct Room<'a> {
    budget: &'a Budget,
    notified: std::pin::Pin<Box<Notified<'a>>>,
}

impl Room<'_> {
    /// Makes sure that every release from now on ends the wait.
    pub(crate) fn enable(&mut self) {
        self.notified.as_mut().enable();
    }

    /// Waits until something was released since [`Room::enable`].
    pub(crate) async fn wait(mut self) {
        self.notified.as_mut().await;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.budget.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to hold so many bytes; dropping it gives them back.
#[must_use = "dropping a permit gives its bytes back"]
pub struct Permit {
    budget: Arc<Budget>,
    pool: Pool,
    bytes: usize,
}

impl Permit {
    /// Bytes held by this permit.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Grows or shrinks to `bytes`; `false`, with nothing changed, if they do not fit now.
    #[must_use]
    pub fn try_resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes {
            if !self.budget.try_take(self.pool, bytes - self.bytes) {
                return false;
            }
            self.bytes = bytes;
        } else {
            self.give_back(self.bytes - bytes);
        }
        true
    }

    fn give_back(&mut self, bytes: usize) {
        if bytes > 0 {
            self.bytes -= bytes;
            self.budget.give_back(self.pool, bytes);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("bytes", &self.bytes).field("pool", &self.pool).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_gives_nothing_until_a_permit_is_dropped() {
        let budget = Budget::new(800);
        let whole = budget.try_reserve(700).unwrap();
        assert!(budget.try_reserve(1).is_none());
        assert_eq!(budget.used(), 700);
        drop(whole);
        assert_eq!(budget.used(), 0);
        assert!(budget.try_reserve(700).is_some());
    }

    #[cfg(feature = "sinks")]
    #[test]
    fn what_can_wait_leaves_a_quarter_to_bodies() {
        let budget = Budget::new(800);
        let bodies = budget.try_reserve(500).unwrap();
        assert!(budget.try_spare(26).is_none());
        assert_eq!(budget.try_spare(25).map(|room| room.bytes()), Some(25));
        assert!(budget.try_reserve(200).is_some());
        drop(bodies);
        assert!(budget.try_spare(525).is_some());
    }

    #[test]
    fn bodies_never_take_the_room_of_copies() {
        let budget = Budget::new(800);
        let _bodies = budget.try_reserve(700).unwrap();
        let copies = budget.try_copy(100).unwrap();
        assert!(budget.try_copy(1).is_none());
        drop(copies);
        assert!(budget.try_reserve(1).is_none());
    }

    #[cfg(feature = "server")]
    #[test]
    fn frames_take_a_part_of_what_bodies_may_take_and_no_more() {
        let budget = Budget::new(1600);
        let frames = budget.try_frame(80).unwrap();
        assert!(budget.try_frame(8).is_none());
        assert_eq!(budget.used(), 80);
        assert!(budget.try_reserve(1321).is_none());
        drop(frames);
        let bodies = budget.try_reserve(1400).unwrap();
        assert!(budget.try_frame(1).is_none());
        drop(bodies);
        assert!(budget.try_frame(87).is_some(), "a try that came to nothing has left nothing behind");
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_permit_that_cannot_grow_stays_as_it_was() {
        let budget = Budget::new(800);
        let mut permit = budget.try_reserve(10).unwrap();
        assert!(!permit.try_resize(701));
        assert_eq!((permit.bytes(), budget.used()), (10, 10));
        assert!(permit.try_resize(700));
        assert!(permit.try_resize(1));
        assert_eq!(budget.used(), 1);
    }

    #[tokio::test]
    async fn a_release_between_registering_and_waiting_is_not_missed() {
        let budget = Budget::new(800);
        let permit = budget.try_reserve(700).unwrap();
        let mut room = budget.room();
        room.enable();
        drop(permit);
        room.wait().await;
    }
}
