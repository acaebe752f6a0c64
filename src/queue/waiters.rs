//! The readers that wait for a queue to have something, and how their tasks are woken.

use std::task::Waker;

use smallvec::SmallVec;

/// Tasks that are woken when this is dropped.
///
/// Declare it before the guard of any lock: a waker runs what its executor likes, both when it wakes and when it is dropped. That
/// may well be the drop of a reader, which takes its queue's lock.
#[derive(Debug, Default)]
pub(crate) struct Wakes(SmallVec<[Waker; 2]>);

impl Wakes {
    /// Room for the tasks of so many queues, and a few more.
    pub(crate) fn with_capacity(queues: usize) -> Self {
        Self(SmallVec::with_capacity(queues))
    }

    /// Has that task woken, too.
    pub(crate) fn push(&mut self, waker: Waker) {
        self.0.push(waker);
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

/// Readers that wait or rest, most often one. A reader stays on the list, woken or not, until it has looked again.
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
    /// Comes of itself, soon.
    rests: bool,
    /// `None` once it was woken, and of one that rests.
    waker: Option<Waker>,
}

/// A place on the list, unlike all others that are on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u32);

impl Waiters {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether one of them waits, woken or not.
    pub(super) fn has_waiting(&self) -> bool {
        self.list.iter().any(|waiter| !waiter.rests)
    }

    /// Whether one of them comes of itself, soon.
    pub(super) fn has_resting(&self) -> bool {
        self.list.iter().any(|waiter| waiter.rests)
    }

    /// Whether that is the place of one that comes of itself.
    pub(super) fn rests(&self, ticket: Ticket) -> bool {
        self.list.iter().any(|waiter| waiter.ticket == ticket && waiter.rests)
    }

    pub(super) fn enter(&mut self, waker: Waker) -> Ticket {
        self.push(Some(waker))
    }

    /// Goes on the list and is woken by nothing.
    pub(super) fn rest(&mut self) -> Ticket {
        self.push(None)
    }

    fn push(&mut self, waker: Option<Waker>) -> Ticket {
        let mut ticket = Ticket(self.list.last().map_or(0, |last| last.ticket.0.wrapping_add(1)));
        while self.list.iter().any(|waiter| waiter.ticket == ticket) {
            ticket.0 = ticket.0.wrapping_add(1);
        }
        self.list.push(Waiter { ticket, rests: waker.is_none(), waker });
        ticket
    }

    /// Whether it is the task of `waker` that will be woken for `ticket`.
    pub(super) fn will_wake(&self, ticket: Ticket, waker: &Waker) -> bool {
        let waiter = self.list.iter().find(|waiter| waiter.ticket == ticket);
        waiter.and_then(|waiter| waiter.waker.as_ref()).is_some_and(|kept| kept.will_wake(waker))
    }

    /// Waits on, in the task of `waker`. Returns the waker that was kept until now, to be dropped behind the lock.
    #[must_use]
    pub(super) fn stay(&mut self, ticket: Ticket, waker: Waker) -> Option<Waker> {
        match self.list.iter_mut().find(|waiter| waiter.ticket == ticket) {
            Some(waiter) => {
                waiter.rests = false;
                waiter.waker.replace(waker)
            }
            None => Some(waker),
        }
    }

    /// Waits no longer. Returns the waker that was kept, to be dropped behind the lock.
    #[must_use]
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        let at = self.list.iter().position(|waiter| waiter.ticket == ticket)?;
        self.list.remove(at).waker
    }

    /// Wakes all of them. Which of several is there at once cannot be known: one may have been polled and then left alone.
    pub(super) fn wake_all(&mut self, wakes: &mut Wakes) {
        wakes.0.extend(self.list.iter_mut().filter_map(|waiter| waiter.waker.take()));
    }
}
