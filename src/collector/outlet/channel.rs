//! What waits for a sink where there is no spool.

use std::{collections::VecDeque, sync::Arc};

use tokio::time::Instant;

use super::{OutletState, Source, Wanted, lines_of};
use crate::batch::Batch;

/// A bounded channel of whole batches.
#[derive(Debug)]
pub(super) struct Channel {
    bytes_max: usize,
    waiting: VecDeque<(Arc<Batch>, Wanted, usize)>,
    /// Of what waits or is under way.
    bytes: usize,
    /// Kept for bodies that are on their way in.
    reserved: usize,
}

impl Channel {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, waiting: VecDeque::new(), bytes: 0, reserved: 0 }
    }

    /// An empty one takes any one batch.
    fn has_room(&self, bytes: usize) -> bool {
        let held = self.bytes + self.reserved;
        held == 0 || held.saturating_add(bytes) <= self.bytes_max
    }

    /// Takes a batch in, if there is room or it was promised.
    pub(super) fn push(&mut self, batch: &Arc<Batch>, wanted: &Wanted, promised: bool) -> bool {
        let bytes = batch.charged_bytes();
        let fits = promised || self.has_room(bytes);
        if fits {
            self.bytes += bytes;
            self.waiting.push_back((Arc::clone(batch), wanted.clone(), bytes));
        }
        fits
    }

    pub(super) fn pop(&mut self) -> Option<(Arc<Batch>, Wanted, usize)> {
        self.waiting.pop_front()
    }

    /// Whether the batch with this line waits here.
    pub(super) fn has(&self, line: u64) -> bool {
        self.waiting.iter().any(|(batch, ..)| (batch.first_line..batch.first_line + batch.lines()).contains(&line))
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// A channel that goes on with what waits in this one, behind what was taken from it and is not settled.
    pub(super) fn handed_over(&mut self, bytes_max: usize, taken: Vec<(Arc<Batch>, Wanted, usize)>) -> Self {
        let waiting: VecDeque<_> = taken.into_iter().chain(self.waiting.drain(..)).collect();
        let bytes = std::mem::take(&mut self.bytes);
        Self { bytes_max, waiting, bytes, reserved: 0 }
    }

    /// Lines that wait.
    pub(super) fn lines(&self) -> u64 {
        self.waiting.iter().map(|(batch, wanted, _)| lines_of(batch, wanted)).sum()
    }

    /// Empties it for good: nothing is taken in any more.
    pub(super) fn clear(&mut self) -> Vec<(Arc<Batch>, Wanted)> {
        self.bytes = 0;
        self.waiting.drain(..).map(|(batch, wanted, _)| (batch, wanted)).collect()
    }

    /// The number of the next batch.
    pub(super) fn next_seq(&self) -> u64 {
        self.waiting.front().map_or(u64::MAX, |(batch, ..)| batch.seq)
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|(batch, ..)| batch.received)
    }
}

/// Room that a `block` outlet keeps for a body that is being admitted; dropping it gives the room back.
pub(super) struct Room {
    state: Arc<OutletState>,
    bytes: usize,
}

impl Room {
    /// Keeps room for `bytes`; `Err` if there is none.
    pub(super) fn take(state: &Arc<OutletState>, bytes: usize) -> Result<Option<Self>, ()> {
        let mut inner = state.inner.lock();
        let Source::Channel(channel) = &mut inner.source else { return Ok(None) };
        if !channel.has_room(bytes) {
            return Err(());
        }
        channel.reserved += bytes;
        drop(inner);
        Ok(Some(Self { state: Arc::clone(state), bytes }))
    }

    /// Gives it back to a channel that takes in now what it was kept for.
    pub(super) fn settle(&mut self, channel: &mut Channel) {
        channel.reserved -= std::mem::take(&mut self.bytes);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        if let Source::Channel(channel) = &mut self.state.inner.lock().source {
            channel.reserved -= self.bytes;
        }
        self.state.budget.announce_room();
    }
}
