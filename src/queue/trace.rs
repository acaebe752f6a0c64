//! What became of one line in a queue, as far as the queue knows.

use std::{collections::VecDeque, sync::Arc};

use super::{Item, Queue, Reason, State, behind::Stand};
use crate::batch::{Batch, Kind};

/// Stretches of dropped lines that are remembered; beyond, the oldest are forgotten, and only the journal knows of them.
const GONE_MAX: usize = 16;

/// Where a queue began, for who asks later whether a line was ever its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Began {
    line: u64,
    resumed: u64,
}

impl Began {
    /// In place of what there is not: a queue is small.
    const NONE: u64 = u64::MAX;

    /// A queue that begins behind so many lines of all machines.
    pub(crate) fn now(line: u64) -> Self {
        Self { line, resumed: Self::NONE }
    }

    /// A queue that this process takes up at batch `resumed`. An earlier version did not note where it began.
    #[cfg(feature = "spool")]
    pub(crate) fn before(line: Option<u64>, resumed: u64) -> Self {
        Self { line: line.unwrap_or(Self::NONE), resumed }
    }

    /// Lines of all machines before the queue; `None`: not known.
    pub(crate) fn line(self) -> Option<u64> {
        Some(self.line).filter(|line| *line != Self::NONE)
    }

    /// The batch that it stood at when this process took it up, if it did.
    pub(crate) fn resumed(self) -> Option<u64> {
        Some(self.resumed).filter(|batch| *batch != Self::NONE)
    }
}

/// A line, as a queue is asked for it: what is `None` is not known any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// Lines of all machines before it.
    pub(crate) number: u64,
    /// The number of its batch.
    pub(crate) batch: Option<u64>,
    /// Its `machine_seq`, by the numbers that its machine goes by now.
    pub(crate) seq: Option<u64>,
    pub(crate) kind: Option<Kind>,
    /// Whether it was over a limit.
    pub(crate) limited: Option<bool>,
}

/// What a queue knows of a line.
#[derive(Clone, Debug)]
pub(crate) enum Trace {
    /// It was there before the queue.
    Before,
    /// It came behind the queue's end.
    After,
    /// The queue does not take lines of its stream.
    Filtered,
    /// Dropped at once, over a limit.
    Limited,
    /// It waits in memory: a row of this batch.
    Queued(Arc<Batch>, u32),
    /// The queue is behind, and comes to it; on the disk or in the history.
    Behind {
        on_disk: bool,
    },
    /// A reader took it or one behind it, and has not yet handed everything on.
    Handed {
        lines: u64,
    },
    Dropped(Reason),
    Delivered,
    /// The queue is past it: it was delivered, unless the journal tells of a loss.
    Passed {
        before_this_process: bool,
    },
}

/// Lines that were dropped, told or not.
#[derive(Clone, Copy, Debug)]
struct Gone {
    from: u64,
    to: u64,
    reason: Reason,
}

/// The newest stretches of dropped lines, by `machine_seq`.
#[derive(Debug, Default)]
pub(super) struct Memory {
    gone: VecDeque<Gone>,
    /// Of lines before this one some were dropped that are not in the list any more.
    forgotten_to: u64,
}

impl Memory {
    /// Every wanted line from `from` on and before `to` is dropped.
    pub(super) fn note(&mut self, from: u64, to: u64, reason: Reason) {
        // Only some of a stretch are over a limit; its lines carry a mark.
        if reason == Reason::Limited || to <= from {
            return;
        }
        if let Some(last) = self.gone.back_mut().filter(|last| last.to == from && last.reason == reason) {
            last.to = to;
            return;
        }
        if self.gone.len() == GONE_MAX
            && let Some(oldest) = self.gone.pop_front()
        {
            self.forgotten_to = self.forgotten_to.max(oldest.to);
        }
        self.gone.push_back(Gone { from, to, reason });
    }

    fn reason(&self, seq: u64) -> Option<Reason> {
        self.gone.iter().find(|gone| (gone.from..gone.to).contains(&seq)).map(|gone| gone.reason)
    }
}

impl Queue {
    /// What is known here of a line of this queue's machine, which ends at the number of a batch and a `machine_seq`.
    pub(crate) fn trace(&self, line: Line) -> Trace {
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some((batch, row)) = find(state, line.number) {
            return Trace::Queued(batch, row);
        }
        if self.began.line().is_some_and(|began| line.number < began) {
            return Trace::Before;
        }
        if let Some((_, end)) = state.ended()
            && (line.batch.is_some_and(|batch| batch >= end.end) || line.seq.is_some_and(|seq| seq >= end.next_seq))
        {
            return Trace::After;
        }
        if line.kind.is_some_and(|kind| !self.terms.streams.wants(kind)) {
            return Trace::Filtered;
        }
        if let Some(reason) = line.seq.and_then(|seq| state.rare.as_ref()?.memory.reason(seq)) {
            return Trace::Dropped(reason);
        }
        if let Some(on_disk) = is_ahead(state, line) {
            return if line.limited == Some(true) { Trace::Limited } else { Trace::Behind { on_disk } };
        }
        if line.limited == Some(true) {
            return Trace::Limited;
        }
        let before_this_process =
            self.began.resumed().is_some_and(|resumed| line.batch.is_none_or(|batch| batch < resumed));
        if before_this_process {
            return Trace::Passed { before_this_process };
        }
        let held_from = state.handed_over.as_ref().filter(|_| state.held_lines > 0).map(|handed| handed.from);
        if held_from.is_some_and(|from| line.batch.is_none_or(|batch| batch >= from)) {
            return Trace::Handed { lines: state.held_lines };
        }
        let forgotten_to = state.rare.as_ref().map_or(0, |rare| rare.memory.forgotten_to);
        match line.seq {
            Some(seq) if seq < state.taken_to && seq >= forgotten_to => Trace::Delivered,
            _ => Trace::Passed { before_this_process },
        }
    }
}

/// Whether a queue that is behind comes to a line still; if so, whether from the disk.
fn is_ahead(state: &State, line: Line) -> Option<bool> {
    let behind = state.behind.as_ref()?;
    let next = match &behind.stand {
        // The cursor stands behind the group.
        Stand::Held(_, rows) => behind.cursor.next_seq() - rows.len() as u64,
        Stand::Spooled => behind.cursor.next_seq(),
    };
    let is_ahead = match (line.seq, line.batch) {
        (Some(seq), _) => seq >= next,
        (None, Some(batch)) => batch >= behind.place().batch,
        (None, None) => false,
    };
    is_ahead.then_some(matches!(behind.stand, Stand::Spooled))
}

/// A line that waits in memory: its batch there, and its row.
fn find(state: &mut State, number: u64) -> Option<(Arc<Batch>, u32)> {
    let row_of = |item: &Item| {
        let mut rows = item.rows.clone();
        rows.find(|&index| item.batch.first_line + u64::from(item.batch.row(index).ordinal) == number)
            .map(|row| (Arc::clone(&item.batch), row))
    };
    state.front.iter().find_map(row_of).or_else(|| state.channel.find(row_of))
}
