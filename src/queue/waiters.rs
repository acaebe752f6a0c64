//! The readers that wait for a queue to have something, and how their tasks are woken.

use std::task::Waker;

use smallvec::SmallVec;

/// Readers that wait, most often one. A reader stays on the list, woken or not, until it has looked again.
///
/// Not flume's own list: who is on that costs an allocation for each wait and can only be woken by an item, and a queue has more to
/// tell (dropped lines, its end, that it went behind).
#[derive(Debug, Default)]
pub(super) struct Waiters {
    list: SmallVec<[Waiter; 1]>,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    /// `None` once it was woken.
    waker: Option<Waker>,
}

/// A place on the list, unlike all others that are on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl Waiters {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn enter(&mut self, waker: &Waker) -> Ticket {
        let ticket = Ticket(self.list.last().map_or(0, |last| last.ticket.0 + 1));
        self.list.push(Waiter { ticket, waker: Some(waker.clone()) });
        ticket
    }

    /// Waits on, in the task of `waker`.
    pub(super) fn stay(&mut self, ticket: Ticket, waker: &Waker) {
        let Some(waiter) = self.list.iter_mut().find(|waiter| waiter.ticket == ticket) else { return };
        match &mut waiter.waker {
            Some(kept) => kept.clone_from(waker),
            gone => *gone = Some(waker.clone()),
        }
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.list.retain(|waiter| waiter.ticket != ticket);
    }

    /// Wakes all of them. Which of several is there at once cannot be known: one may have been polled and then left alone.
    pub(super) fn wake_all(&mut self) {
        self.list.iter_mut().filter_map(|waiter| waiter.waker.take()).for_each(Waker::wake);
    }
}
