//! The reader's side of a queue: taking, delivering, giving back, and the wait for something to take.

use std::{
    cmp::Ordering,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use flume::r#async::RecvFut;
use tokio::time::Instant;

use super::{Item, Queue, Reason, State, Taken, Token};
use crate::config::Full;

impl Queue {
    pub(crate) fn attach(&self) {
        let mut state = self.state.lock();
        state.readers += 1;
        state.readerless_since = None;
    }

    pub(crate) fn detach(&self, now: Instant) {
        let mut state = self.state.lock();
        state.readers -= 1;
        if state.readers == 0 {
            state.readerless_since = Some(now);
        }
    }

    /// What comes next.
    pub(crate) fn take(&self) -> Taken {
        let mut state = self.state.lock();
        self.take_locked(&mut state)
    }

    fn take_locked(&self, state: &mut State) -> Taken {
        let Some(item) = self.pop(state) else {
            return self.nothing_queued(state);
        };
        if let Some(skip) = state.skips.pop_front_if(|skip| skip.from <= item.first_seq()) {
            state.front.push_front(item);
            return Taken::Skipped(skip.lines);
        }
        state.hand_over(&item, &self.ledger);
        Taken::Item(item)
    }

    fn nothing_queued(&self, state: &mut State) -> Taken {
        if state.behind.is_some() {
            return Taken::Behind;
        }
        match (state.skips.pop_front(), state.ended) {
            (Some(skip), _) => Taken::Skipped(skip.lines),
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
        let mut state = self.state.lock();
        state.lines -= lines;
        state.bytes -= bytes;
        state.held_lines -= lines;
        state.held_bytes -= bytes;
        self.ledger.queue_delivered(lines);
        drop(state);
        if self.terms.full == Full::Block {
            self.budget.announce_room();
        }
    }

    /// What a reader held and did not deliver; the next reader gets it first.
    pub(crate) fn give_back(&self, mut item: Item) {
        let mut state = self.state.lock();
        if self.terms.full == Full::DropOldest {
            self.trim(&mut state, &mut item);
        }
        state.held_lines -= item.lines;
        state.held_bytes -= item.bytes;
        if item.lines == 0 {
            state.bytes -= item.bytes;
            return;
        }
        let item = self.own_copy(item);
        self.put_front(&mut state, item);
        self.wake_all(&mut state);
    }

    /// Drops what has no room any more of an item that is given back: newer lines came meanwhile.
    fn trim(&self, state: &mut State, item: &mut Item) {
        let (from, lines, bytes) = (item.first_seq(), item.lines, item.bytes);
        while item.lines > 0 && !self.fits(state, item.lines, item.bytes) {
            item.next_row(self.terms.streams);
        }
        let dropped = lines - item.lines;
        let to = if item.lines == 0 { item.end_seq() } else { item.first_seq() };
        state.lines -= dropped;
        state.held_lines -= dropped;
        state.bytes -= bytes - item.bytes;
        state.held_bytes -= bytes - item.bytes;
        self.skip(state, from, to, dropped, Reason::QueueFull);
    }

    /// A reader that will hold an item for a while lets go of other machines' bytes.
    pub(crate) fn own_copy(&self, item: Item) -> Item {
        if item.copied {
            return item;
        }
        // Without room for a copy the batch stays pinned, within the budget: losing the lines would be worse.
        item.compacted(&self.budget, self.terms.streams).unwrap_or(item)
    }
}

/// A reader's wait for something to take. The reader counts as waiting until it gets something or drops this.
#[derive(Debug)]
pub(crate) struct Wait {
    queue: Arc<Queue>,
    /// Registered with the channel for a wake. What comes is taken under the queue's lock, not by this: in between it would
    /// be out of sight for everybody else, and out of order.
    turn: Option<RecvFut<'static, Token>>,
}

impl Wait {
    pub(crate) fn new(queue: &Arc<Queue>) -> Self {
        Self { queue: Arc::clone(queue), turn: None }
    }

    /// Takes what there is, or has the task woken when there may be something. Never [`Taken::Empty`].
    pub(crate) fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Taken> {
        let queue = &*self.queue;
        let mut state = queue.state.lock();
        let taken = queue.take_locked(&mut state);
        let last = self.turn.take();
        state.waiting -= u32::from(last.is_some());
        if !matches!(taken, Taken::Empty) {
            return Poll::Ready(taken);
        }
        state.waiting += 1;
        // A fresh future each turn: a reused one grows without bound (flume #182), and one that was woken for nothing looks
        // and registers again in two steps, between which it misses a send.
        let mut turn = queue.receiver.clone().into_recv_async();
        let registered = Pin::new(&mut turn).poll(cx);
        debug_assert!(registered.is_pending(), "who sends holds the queue's lock, and the channel was just emptied");
        self.turn = Some(turn);
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some(turn) = self.turn.take() else { return };
        drop(turn);
        let queue = &*self.queue;
        let mut state = queue.state.lock();
        state.waiting -= 1;
        // What was handed over zero-copy to a reader that then left must not pin its batch while it waits for the next.
        let arrived: Vec<Token> = queue.receiver.try_iter().collect();
        for token in arrived {
            if let Token::Item(item) = token {
                let item = queue.own_copy(item);
                state.front.push_back(item);
            }
        }
        // The wake may have been this reader's alone. One that finds nothing would be passed on for ever.
        if state.has_something() {
            queue.wake_all(&mut state);
        }
    }
}
