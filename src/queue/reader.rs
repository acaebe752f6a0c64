//! The reader's side of a queue: taking, delivering, giving back, and the wait for something to take.

use std::{
    cmp::Ordering,
    collections::VecDeque,
    task::{Context, Poll},
};

use tokio::time::Instant;

use super::{
    Item, Queue, Reason, State, Taken,
    item::{Ids, warm},
    waiters::{Ticket, Wakes},
};
use crate::config::Full;

/// Groups, and lines, that a reader takes together: so many that the memory they lie in is waited for side by side, and so few that
/// it is in the caches still when they are read.
const TOGETHER_ITEMS: usize = 16;
const TOGETHER_LINES: u64 = 64;
/// Groups copied under one lock.
const COPIED_TOGETHER: usize = 16;

impl Queue {
    pub(crate) fn attach(&self) {
        self.state.lock().readers.come();
    }

    pub(crate) fn detach(&self, now: Instant) {
        self.state.lock().readers.go(now);
    }

    /// What comes next.
    pub(crate) fn take(&self) -> Taken {
        let mut state = self.state.lock();
        self.take_locked(&mut state)
    }

    fn take_locked(&self, state: &mut State) -> Taken {
        let Some(item) = state.pop() else {
            return self.nothing_queued(state);
        };
        if let Some(skip) = state.next_skip(|| item.first_seq()) {
            state.front.push_front(item);
            return skip.told();
        }
        state.hand_over(&item, &self.common.ledger);
        Taken::Item(item)
    }

    /// Takes what comes behind `items`, which a reader has taken, up to some groups and up to `most` lines or a group more; and brings
    /// it into the caches.
    pub(crate) fn take_more(&self, items: &mut VecDeque<Item>, most: u64) {
        let mut lines: u64 = items.iter().map(|item| item.lines).sum();
        let most = most.min(TOGETHER_LINES);
        if lines == 0 {
            return;
        }
        let mut state = self.state.lock();
        while items.len() < TOGETHER_ITEMS
            && lines < most
            && !state.has_skips()
            && let Some(item) = state.pop()
        {
            state.hand_over(&item, &self.common.ledger);
            lines += item.lines;
            items.push_back(item);
        }
        drop(state);
        warm(items, most as usize);
    }

    fn nothing_queued(&self, state: &mut State) -> Taken {
        if state.behind.is_some() {
            return Taken::Behind;
        }
        match (state.next_skip(|| u64::MAX), state.ended()) {
            (Some(skip), _) => skip.told(),
            (None, Some((ended, _))) => Taken::Ended(ended),
            (None, None) => Taken::Empty,
        }
    }

    /// Puts an item back where it belongs among what was given back before.
    fn put_front(&self, state: &mut State, item: Item) {
        let at = state.front.partition_point(|other| other.first_seq().cmp(&item.first_seq()) == Ordering::Less);
        state.front.insert(at, item);
    }

    /// A reader hands on `lines` of what it holds: they are delivered, and their room is free again.
    pub(crate) fn deliver(&self, lines: u64, bytes: usize) {
        self.deliver_locked(&mut self.state.lock(), lines, bytes);
        self.announce_room();
    }

    fn deliver_locked(&self, state: &mut State, lines: u64, bytes: usize) {
        state.lines -= lines;
        state.bytes -= bytes;
        state.held_lines -= lines;
        state.held_bytes -= bytes;
        self.common.ledger.queue_delivered(lines);
    }

    /// Only those who send to a `block` queue wait for its room.
    fn announce_room(&self) {
        if self.terms.full == Full::Block {
            self.common.budget.announce_room();
        }
    }

    /// What a reader held and did not deliver, in order; the next reader gets it first.
    pub(crate) fn give_back(&self, items: impl DoubleEndedIterator<Item = Item>) {
        // Where there is not room for all any more it is the oldest that go.
        let copies: Vec<Item> = items.rev().map(|item| self.own_copy(item)).collect();
        if copies.is_empty() {
            return;
        }
        // Let go of behind the lock: others may wait for their room.
        let mut gone = Vec::new();
        let mut trimmed = Vec::new();
        let mut wakes = Wakes::default();
        let mut state = self.state.lock();
        for mut item in copies {
            if self.terms.full == Full::DropOldest {
                let all = !trimmed.is_empty();
                trimmed.extend(self.trim(&mut state, &mut item, all));
            }
            state.held_lines -= item.lines;
            state.held_bytes -= item.bytes;
            if item.lines == 0 {
                state.bytes -= item.bytes;
                gone.push(item);
                continue;
            }
            self.put_front(&mut state, item);
        }
        for Trimmed { from, to, lines, ids } in trimmed.into_iter().rev() {
            self.skip(&mut state, from, to, lines, ids, Reason::QueueFull);
        }
        state.waiters.wake_all(&mut wakes);
    }

    /// Takes off what has no room any more of an item that is given back: newer lines came meanwhile. Takes off `all` where some of a
    /// newer one had none.
    fn trim(&self, state: &mut State, item: &mut Item, all: bool) -> Option<Trimmed> {
        let (from, start, lines, bytes) = (item.first_seq(), item.rows.start, item.lines, item.bytes);
        while item.lines > 0 && (all || !self.fits(state, item.lines, item.bytes)) {
            item.next_row(self.terms.streams);
        }
        let dropped = lines - item.lines;
        let to = if item.lines == 0 { item.end_seq() } else { item.first_seq() };
        state.lines -= dropped;
        state.held_lines -= dropped;
        state.bytes -= bytes - item.bytes;
        state.held_bytes -= bytes - item.bytes;
        let ids = item.ids(start..item.rows.start, self.terms.streams);
        (dropped > 0).then_some(Trimmed { from, to, lines: dropped, ids })
    }

    /// A reader that will hold an item for a while lets go of other machines' bytes.
    pub(crate) fn own_copy(&self, mut item: Item) -> Item {
        if item.copied {
            return item;
        }
        // Without room for a copy the batch stays pinned, within the budget: losing the lines would be worse.
        item.compacted(&self.common.budget, self.terms.streams).unwrap_or(item)
    }
}

/// Lines that have no room any more, from one `machine_seq` to another.
struct Trimmed {
    from: u64,
    to: u64,
    lines: u64,
    ids: Ids,
}

/// Whether a reader still has to deliver what it takes, or to give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handing {
    /// It holds what it takes.
    Hold,
    /// What it takes is delivered.
    Deliver,
}

/// A reader's wait for something to take. The reader counts as waiting until it gets something or [`Queue::leave`]s; one that rests
/// until it leaves.
#[derive(Debug, Default)]
pub(crate) struct Wait(Option<Ticket>);

#[cfg(test)]
impl Wait {
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl Queue {
    /// Takes what there is, or has the task woken when there may be something. Never [`Taken::Empty`].
    ///
    /// With [`Handing::Deliver`] an item counts as delivered when it is returned, all in one step.
    pub(crate) fn poll_take(&self, wait: &mut Wait, cx: &mut Context<'_>, handing: Handing) -> Poll<Taken> {
        // Wakers are cloned and dropped with the lock not held; see [`Wakes`].
        let mut own = wait.0.is_none().then(|| cx.waker().clone());
        loop {
            let mut state = self.state.lock();
            let taken = self.take_locked(&mut state);
            if !matches!(taken, Taken::Empty) {
                // One that rests may have had much handed on, and is to let go of it.
                let ticket = wait.0.take_if(|ticket| !state.waiters.rests(*ticket));
                let kept = ticket.and_then(|ticket| state.waiters.leave(ticket));
                if let (Taken::Item(item), Handing::Deliver) = (&taken, handing) {
                    self.deliver_locked(&mut state, item.lines, item.bytes);
                    drop(state);
                    self.announce_room();
                } else {
                    drop(state);
                }
                drop(kept);
                return Poll::Ready(taken);
            }
            if wait.0.is_some_and(|ticket| state.waiters.will_wake(ticket, cx.waker())) {
                return Poll::Pending;
            }
            let Some(waker) = own.take() else {
                drop(state);
                own = Some(cx.waker().clone());
                continue;
            };
            let replaced = match wait.0 {
                Some(ticket) => state.waiters.stay(ticket, waker),
                None => {
                    wait.0 = Some(state.waiters.enter(waker));
                    None
                }
            };
            drop(state);
            drop(replaced);
            return Poll::Pending;
        }
    }

    /// A reader that has taken all there was comes again of itself, within moments, or [`Queue::leave`]s: what comes until then
    /// need not be copied.
    pub(crate) fn rest(&self, wait: &mut Wait) {
        wait.0.get_or_insert_with(|| self.state.lock().waiters.rest());
    }

    /// A reader waits no longer. It passes no wake on: whatever came has woken all that waited.
    pub(crate) fn leave(&self, wait: &mut Wait) {
        let Some(ticket) = wait.0.take() else { return };
        let mut state = self.state.lock();
        let kept = state.waiters.leave(ticket);
        let handed_on = state.front.iter().filter(|item| !item.copied).count();
        drop(state);
        drop(kept);
        // What was handed on to a reader that then left must not pin its batch while it waits for the next.
        for _ in 0..handed_on.div_ceil(COPIED_TOGETHER) {
            if self.copy_some().is_empty() {
                break;
            }
        }
    }

    /// Copies some of what was handed on; not all under one lock, for publishers wait for it. Returns what it was copied from.
    fn copy_some(&self) -> Vec<Item> {
        let mut state = self.state.lock();
        let uncopied = state.front.iter_mut().filter(|item| !item.copied);
        // Without room for a copy the batch stays pinned.
        let replace = |item: &mut Item| {
            let copy = item.compacted(&self.common.budget, self.terms.streams)?;
            Some(std::mem::replace(item, copy))
        };
        uncopied.filter_map(replace).take(COPIED_TOGETHER).collect()
    }
}
