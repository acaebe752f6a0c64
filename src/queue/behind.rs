//! A queue that is behind: where it continues, in the history or on the disk, until it has passed its machine's last group.
//!
//! In the history it stands at a group, which an eviction drops, or with a spool leaves to the disk. There it stands where its
//! cursor does; what comes next is fetched with no lock held, and taken if the queue stands there still.

use std::{ops::Range, sync::Arc};

use tokio::time::Instant;

use super::{
    Ids, Item, Place, Queue, Reason, Skip, State, Taken, ids,
    item::{ITEM_BYTES, cost, line_cost},
};
use crate::{
    batch::{Batch, GroupRef, Streams},
    collector::Ledger,
    history::{Held, History, MachineCursor, MachineStep, Next, Trail},
};

/// Where a queue that is behind continues.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) stand: Stand,
    /// When what comes next was received, or on the disk what came before it.
    pub(super) received: Instant,
    pub(super) cursor: MachineCursor,
    /// Wanted lines from there on.
    pub(super) lines: u64,
}

/// What a queue that is behind reads next.
#[derive(Clone, Debug)]
pub(super) enum Stand {
    /// A group that is still in the history, and its rows left; the cursor stands behind it.
    Held(GroupRef, Range<u32>),
    /// What the cursor comes to on the disk.
    Spooled,
}

impl Behind {
    pub(super) fn place(&self) -> GroupRef {
        match self.stand {
            Stand::Held(at, _) => at,
            Stand::Spooled => GroupRef { batch: self.cursor.from(), group: u32::MAX },
        }
    }

    /// Lines that it has read, or dropped. More than were told of can only come from the disk, which knows of no limits, and whose
    /// index may be damaged: those come in here.
    fn pass(&mut self, lines: u64, ledger: &Ledger) {
        ledger.queue_in(lines.saturating_sub(self.lines));
        self.lines = self.lines.saturating_sub(lines);
    }

    /// Whether it stands on the disk, at the line with that `machine_seq`.
    fn is_where(&self, seq: u64) -> bool {
        matches!(self.stand, Stand::Spooled) && self.cursor.next_seq() == seq
    }
}

/// Where a queue stands whose next lines are on the disk.
#[derive(Clone, Debug)]
pub(crate) struct OnDisk {
    pub(crate) cursor: MachineCursor,
    /// The machine's place at this moment, as far as it concerns the queue, and the wanted lines up to it.
    pub(crate) trail: Trail,
    pub(crate) lines: u64,
    pub(crate) streams: Streams,
}

/// What was fetched from the disk for a queue.
pub(crate) struct Fetched {
    /// For where it stood.
    pub(crate) wanted: u64,
    /// The cursor behind what was fetched.
    pub(crate) cursor: MachineCursor,
    pub(crate) next: Next<MachineStep>,
    /// Wanted lines that are not there any more.
    pub(crate) lost: u64,
}

impl Queue {
    /// Starts a new queue behind, so that its reader gets what the history holds first. Returns where it stands.
    pub(crate) fn start_at(&self, history: &History, trail: Trail, from: u64) -> Place {
        let mut wanted = 0;
        trail.walk_back(history, |_, group, batch| {
            // What was over a limit then is none of this queue's lines.
            let (all, limited) = batch.wanted(group, self.terms.streams);
            wanted += all - limited;
            group.first_seq > from
        });
        self.start_behind(history, trail, MachineCursor::new(from, 0), wanted, Instant::now())
    }

    /// Starts a new queue behind, where `cursor` stands, with `wanted` lines to read, on the disk since `received`. Returns where it
    /// stands.
    pub(crate) fn start_behind(
        &self,
        history: &History,
        trail: Trail,
        cursor: MachineCursor,
        wanted: u64,
        received: Instant,
    ) -> Place {
        self.common.ledger.queue_in(wanted);
        self.continue_at(&mut self.state.lock(), cursor, wanted, received, history, trail)
    }

    /// Leaves `item`, which was just published, and everything after it to the history.
    pub(super) fn go_behind(&self, state: &mut State, item: &Item, history: &History, trail: Trail) -> Place {
        self.continue_at(state, item.cursor(), item.lines, item.batch.received, history, trail)
    }

    pub(super) fn continue_at(
        &self,
        state: &mut State,
        mut cursor: MachineCursor,
        lines: u64,
        received: Instant,
        history: &History,
        trail: Trail,
    ) -> Place {
        debug_assert!(state.behind.is_none());
        state.is_moving();
        let (stand, received) = match cursor.step(history, trail)? {
            Next::Lines(step) => (Stand::Held(step.at, step.rows), step.batch.received),
            Next::Past => (Stand::Spooled, received),
            Next::Lost(_) => return None,
        };
        let behind = Behind { stand, received, cursor, lines };
        let place = behind.place();
        state.behind = Some(Box::new(behind));
        Some(place)
    }

    /// The history has evicted `batch`, which holds what this queue would have read next.
    ///
    /// Returns where the queue stands now: further on, or nowhere if it has caught up.
    pub(crate) fn evicted(&self, batch: &Batch, history: &History, trail: Trail) -> Place {
        let mut state = self.state.lock();
        let behind = state.behind.as_mut()?;
        let (at, rows) = match &behind.stand {
            Stand::Held(at, rows) if at.batch == batch.seq => (*at, rows.clone()),
            Stand::Held(..) | Stand::Spooled => return Some(behind.place()),
        };
        // What has left the disk before the history is dropped as if there were none.
        if history.past().is_some_and(|past| !past.has_left(batch.seq)) {
            behind.cursor = batch.cursor_at(at, rows.start);
            behind.stand = Stand::Spooled;
            return Some(behind.place());
        }
        let trail = state.until_the_end(trail);
        self.drop_group(&mut state, batch, Reason::HistoryEvicted, history, trail)
    }

    /// Drops what is left of the group that a queue stands at, and goes on to the next.
    pub(super) fn drop_group(
        &self,
        state: &mut State,
        batch: &Batch,
        reason: Reason,
        history: &History,
        trail: Trail,
    ) -> Place {
        let behind = state.behind.as_mut()?;
        let Stand::Held(at, rows) = behind.stand.clone() else { return Some(behind.place()) };
        let group = &batch.groups[at.group as usize];
        let from = group.first_seq + u64::from(rows.start - group.rows.start);
        let (lines, _) = cost(batch, rows.clone(), self.terms.streams);
        behind.pass(lines, &self.common.ledger);
        let to = group.end_seq();
        let ids = ids(batch, rows, self.terms.streams);
        self.skip(state, from, to, lines, ids, reason);
        self.advance(state, history, trail)
    }

    /// Moves a queue that is behind to its next group; live again when there is none.
    fn advance(&self, state: &mut State, history: &History, trail: Trail) -> Place {
        let behind = state.behind.as_mut()?;
        match behind.cursor.step(history, trail) {
            Some(Next::Lines(step)) => {
                debug_assert_eq!(step.missed, 0, "evictions are counted when they happen");
                (behind.stand, behind.received) = (Stand::Held(step.at, step.rows), step.batch.received);
                Some(step.at)
            }
            Some(Next::Past) => {
                behind.stand = Stand::Spooled;
                Some(behind.place())
            }
            Some(Next::Lost(_)) | None => {
                let (left, at) = (behind.lines, behind.cursor.next_seq());
                // A damaged index may have told too many.
                debug_assert!(left == 0 || history.past().is_some(), "who has caught up has nothing left to read");
                state.behind = None;
                self.skip(state, at, at, left, None, Reason::HistoryEvicted);
                None
            }
        }
    }

    /// Takes the next lines for a reader of a queue that is behind. Returns where it stands then.
    ///
    /// The second is `None` when the queue has changed meanwhile, and the reader must look again.
    pub(crate) fn claim(&self, history: &History, trail: Trail) -> (Place, Option<Taken>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let trail = state.until_the_end(trail);
        if !state.front.is_empty() || !state.channel.is_empty() {
            return (state.behind.as_ref().map(|behind| behind.place()), None);
        }
        while let Some(behind) = &mut state.behind {
            let Stand::Held(at, left) = behind.stand.clone() else {
                let place = Some(behind.place());
                let (cursor, lines, streams) = (behind.cursor.clone(), behind.lines, self.terms.streams);
                let skip = state.next_skip(|| cursor.next_seq());
                let on_disk = || Taken::OnDisk(Box::new(OnDisk { cursor, trail, lines, streams }));
                return (place, Some(skip.map_or_else(on_disk, Skip::told)));
            };
            let Held::Batch(batch) = history.batch(at.batch) else {
                unreachable!("a queue that is behind stands at a group that the history holds");
            };
            let group = &batch.groups[at.group as usize];
            let from = group.first_seq + u64::from(left.start - group.rows.start);
            let skipped = state.rare.as_mut().and_then(|rare| rare.skips.pop_front_if(|skip| skip.from <= from));
            if let Some(skip) = skipped {
                return (Some(at), Some(skip.told()));
            }
            let rows = self.at_most_a_queueful(&batch, left.clone());
            let item = Item::whole(Arc::clone(&batch), at, rows.clone(), self.terms.streams);
            behind.pass(item.lines, &self.common.ledger);
            let place = if rows.end < left.end {
                behind.stand = Stand::Held(at, rows.end..left.end);
                Some(at)
            } else {
                self.advance(state, history, trail)
            };
            // A group may hold nothing but streams that the queue does not want.
            if item.lines > 0 {
                state.lines += item.lines;
                state.bytes += item.bytes;
                state.hand_over(&item, &self.common.ledger);
                return (place, Some(Taken::Item(item)));
            }
        }
        (None, None)
    }

    /// As [`Queue::claim`], with what was fetched where that said [`Taken::OnDisk`].
    pub(crate) fn claim_fetched(&self, fetched: Fetched, history: &History, trail: Trail) -> (Place, Option<Taken>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let trail = state.until_the_end(trail);
        let has_older = !state.front.is_empty() || !state.channel.is_empty();
        let Some(behind) = &mut state.behind else { return (None, None) };
        if has_older || !behind.is_where(fetched.wanted) {
            return (Some(behind.place()), None);
        }
        let Fetched { wanted, cursor, next, lost } = fetched;
        let lost = lost.min(behind.lines);
        let step = match next {
            Next::Lines(step) if lost == 0 => step,
            // Told first, and then read again: nothing is held across a slow socket.
            Next::Lines(step) => {
                let first = step.batch.groups[step.at.group as usize].first_seq;
                behind.cursor = MachineCursor::new(first, step.at.batch);
                behind.lines -= lost;
                self.skip(state, wanted, first, lost, None, Reason::HistoryEvicted);
                return (state.behind.as_ref().map(|behind| behind.place()), None);
            }
            Next::Lost(_) | Next::Past => {
                behind.lines -= lost;
                let to = cursor.next_seq();
                behind.cursor = cursor;
                self.skip(state, wanted, to, lost, None, Reason::HistoryEvicted);
                return (self.advance(state, history, trail), None);
            }
        };
        let rows = self.at_most_a_queueful(&step.batch, step.rows.clone());
        let item = Item::whole(Arc::clone(&step.batch), step.at, rows.clone(), self.terms.streams);
        behind.pass(item.lines, &self.common.ledger);
        behind.received = step.batch.received;
        let place = if rows.end < step.rows.end {
            behind.cursor = step.batch.cursor_at(step.at, rows.end);
            Some(behind.place())
        } else {
            behind.cursor = cursor;
            self.advance(state, history, trail)
        };
        if item.lines == 0 {
            return (place, None);
        }
        state.lines += item.lines;
        state.bytes += item.bytes;
        state.hand_over(&item, &self.common.ledger);
        (place, Some(Taken::Item(item)))
    }

    /// Where the queue stands on the disk, if it does.
    #[cfg(feature = "spool")]
    pub(crate) fn on_disk(&self, trail: Trail) -> Option<OnDisk> {
        let state = self.state.lock();
        let behind = state.behind.as_ref().filter(|behind| matches!(behind.stand, Stand::Spooled))?;
        let trail = state.until_the_end(trail);
        Some(OnDisk { cursor: behind.cursor.clone(), trail, lines: behind.lines, streams: self.terms.streams })
    }

    /// Drops, of what is on the disk, the next `lines`, of which it wants `wanted`: what is before batch `to`. Returns where
    /// the queue stands then. Nothing if it does not stand at `at` any more.
    #[cfg(feature = "spool")]
    pub(crate) fn drop_spooled(
        &self,
        at: u64,
        (lines, wanted): (u64, u64),
        to: u64,
        reason: Reason,
        history: &History,
        trail: Trail,
    ) -> Place {
        let mut state = self.state.lock();
        let state = &mut *state;
        let trail = state.until_the_end(trail);
        let behind = state.behind.as_mut()?;
        if !behind.is_where(at) {
            return Some(behind.place());
        }
        let wanted = wanted.min(behind.lines);
        behind.lines -= wanted;
        behind.cursor.pass_by(lines, to);
        // Which they were is not worth reading them.
        self.skip(state, at, at + lines, wanted, None, reason);
        self.advance(state, history, trail)
    }

    /// As many of `rows` as a queue may hold, and at least one wanted line if there is one.
    fn at_most_a_queueful(&self, batch: &Batch, rows: Range<u32>) -> Range<u32> {
        let (mut lines, mut bytes) = (0, ITEM_BYTES);
        let over = rows.clone().position(|index| {
            let row = batch.row(index);
            if self.terms.streams.wants_row(row) {
                lines += 1;
                bytes += line_cost(row);
            }
            lines > 1 && (lines > self.common.bounds.lines || bytes > self.common.bounds.bytes)
        });
        rows.start..over.map_or(rows.end, |over| rows.start + over as u32)
    }

    /// The ids of the first and the last line that a queue which is behind would still have read.
    pub(super) fn ids_of_rest(&self, behind: &Behind, history: &History, trail: Trail) -> Ids {
        let in_group = |at: GroupRef, from: Option<u32>| match history.batch(at.batch) {
            Held::Batch(batch) => {
                let rows = batch.groups[at.group as usize].rows.clone();
                ids(&batch, from.unwrap_or(rows.start)..rows.end, self.terms.streams)
            }
            Held::Evicted | Held::NotYet => None,
        };
        // A group may hold nothing but streams that the queue does not want: then the neighbour's end is told, or nothing.
        let Stand::Held(at, rows) = &behind.stand else { return None };
        let (first, end_of_first) = in_group(*at, Some(rows.start))?;
        let last = trail.last.filter(|last| last != at).and_then(|last| in_group(last, None));
        Some((first, last.map_or(end_of_first, |(_, last)| last)))
    }
}
