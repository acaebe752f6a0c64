//! Where a sink stands in the past, where there is a spool.
//!
//! What a sink wants is counted in when it is published. Of one without a filter the numbers of the lines tell what it has missed;
//! of one with a filter it is kept how many it wanted of which batches ([`Owed`]), and what is left of these when it has passed them
//! is what it has missed. What a filter wants of batches from before this process, or of those that it is sent back to, is counted
//! in when they are read.

use std::{collections::VecDeque, sync::Arc};

use tokio::time::Instant;

use super::{OutletState, SinkReason, Source, Wanted, tally::Tally, wanted_of};
use crate::{
    batch::Batch,
    collector::LogCollector,
    filter::Filter,
    history::{FleetCursor, FleetStep, History, Next},
};

/// Batches whose wanted lines are counted one by one; beyond, two and two together.
const OWED_MAX: usize = 1024;
/// Of so many of the newest it is kept which they are, so that the filter does not look again.
const KNOWN_MAX: usize = 64;

/// Where a sink stands.
pub(super) struct Position {
    cursor: FleetCursor,
    is_filtered: bool,
    /// What a filter wants of batches before this number is counted in when they are read.
    counted_from: u64,
    owed: VecDeque<Owed>,
    /// When the oldest batch was received that is still to be read, or one before it.
    waiting_since: Option<Instant>,
    /// Batches before this number were published or are about to be.
    end: u64,
    /// It is offered nothing from this batch on.
    until: u64,
    fetched: Option<Box<Fetched>>,
    /// The cursor as it was stored last, and when.
    #[cfg(feature = "spool")]
    pub(super) stored: Option<(u64, Instant)>,
}

/// Lines that a filter wants of batches `first..=last` and that were not read yet.
struct Owed {
    first: u64,
    last: u64,
    lines: u64,
    rows: Wanted,
}

/// What comes next, from wherever it was read.
pub(super) struct Fetched {
    /// Where the cursor stood, and where it stands behind it.
    from: FleetCursor,
    to: FleetCursor,
    next: Next<FleetStep>,
    wanted: Wanted,
}

/// What a sink finds at its position.
pub(super) enum Ahead {
    Ready(Box<Fetched>),
    /// To be looked at by the filter, unless it is known what that wants.
    Held {
        from: FleetCursor,
        to: FleetCursor,
        next: Next<FleetStep>,
        known: Wanted,
    },
    Past,
    Empty,
}

impl Fetched {
    pub(super) fn new(
        from: FleetCursor,
        to: FleetCursor,
        next: Next<FleetStep>,
        known: Wanted,
        filter: Option<&Filter>,
    ) -> Self {
        let wanted = match &next {
            Next::Lines(step) if known.is_none() => wanted_of(&step.batch, filter),
            _ => known,
        };
        Self { from, to, next, wanted }
    }

    /// The batch that was found, from which row on, and what is wanted of it.
    pub(super) fn batch(&self) -> Option<(&Batch, u32, &Wanted)> {
        match &self.next {
            Next::Lines(step) => Some((&step.batch, step.from, &self.wanted)),
            Next::Lost(_) | Next::Past => None,
        }
    }
}

/// Reads from the disk what comes next for a sink.
pub(super) async fn fetch(collector: LogCollector, state: Arc<OutletState>) -> Fetched {
    let Some(past) = collector.shared.history.past() else { unreachable!("without a spool nobody stands on the disk") };
    let reader = collector.clone();
    past.read(move || {
        let from = match &state.inner.lock().source {
            Source::Position(position) => position.cursor,
            // Another end has taken its place meanwhile, and nobody asks any more.
            Source::Channel(_) => {
                return Fetched::new(FleetCursor::at(0, 0), FleetCursor::at(0, 0), Next::Past, None, None);
            }
        };
        let history = &reader.shared.history;
        let mut to = from;
        // It may have been moved since to where the history holds what comes next.
        let next = match to.step(history) {
            Some(Next::Past) | None => to.read_past(history),
            Some(next) => next,
        };
        Fetched::new(from, to, next, None, state.filter())
    })
    .await
}

impl Position {
    /// A sink that stands at `cursor` while batches from number `end` on are still to come.
    pub(super) fn new(cursor: FleetCursor, is_filtered: bool, end: u64, waiting_since: Option<Instant>) -> Self {
        Self {
            cursor,
            is_filtered,
            counted_from: end,
            owed: VecDeque::new(),
            waiting_since,
            end,
            until: u64::MAX,
            fetched: None,
            #[cfg(feature = "spool")]
            stored: None,
        }
    }

    pub(super) fn seq(&self) -> u64 {
        self.cursor.seq()
    }

    /// The line to be read next.
    pub(super) fn line(&self) -> u64 {
        self.cursor.line()
    }

    /// The batches that are for it, and of which what a filter wants was counted in when they were published.
    #[cfg(test)]
    pub(super) fn counted(&self) -> std::ops::Range<u64> {
        self.counted_from..self.end.min(self.until)
    }

    /// Batches from number `seq` on are not for it.
    pub(super) fn end_at(&mut self, seq: u64) {
        self.until = seq;
    }

    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// A batch is about to be published.
    pub(super) fn coming(&mut self, seq: u64, wanted: &Wanted, lines: u64, received: Instant) {
        self.end = seq + 1;
        self.waiting_since.get_or_insert(received);
        if !self.is_filtered || lines == 0 {
            return;
        }
        self.owed.push_back(Owed { first: seq, last: seq, lines, rows: wanted.clone() });
        if let Some(old) = self.owed.len().checked_sub(KNOWN_MAX + 1) {
            self.owed[old].rows = None;
        }
        if self.owed.len() > OWED_MAX {
            self.owed = in_pairs(&self.owed);
        }
    }

    /// What comes next.
    pub(super) fn step(&mut self, history: &History) -> Ahead {
        let from = self.cursor;
        if self.seq() >= self.until {
            return Ahead::Empty;
        }
        if let Some(fetched) = self.fetched.take().filter(|fetched| fetched.from == from) {
            return Ahead::Ready(fetched);
        }
        let mut to = from;
        match to.step(history) {
            Some(Next::Past) => Ahead::Past,
            Some(next) => {
                let known = match &next {
                    Next::Lines(step) => self.known(step.batch.seq),
                    Next::Lost(_) | Next::Past => None,
                };
                Ahead::Held { from, to, next, known }
            }
            None => {
                if self.seq() >= self.end {
                    self.waiting_since = None;
                }
                Ahead::Empty
            }
        }
    }

    /// Which rows a filter wants of a batch, if that is still known.
    fn known(&self, seq: u64) -> Wanted {
        let at = self.owed.partition_point(|owed| owed.last < seq);
        self.owed.get(at).filter(|owed| owed.first == seq).and_then(|owed| owed.rows.clone())
    }

    pub(super) fn keep(&mut self, fetched: Fetched) {
        self.fetched = Some(Box::new(fetched));
    }

    /// Moves on over what was found, if the sink still stands there; the batch to hand out.
    pub(super) fn claim(&mut self, tally: &mut Tally, fetched: Fetched) -> Option<FleetStep> {
        let Fetched { from, to, next, wanted } = fetched;
        if from != self.cursor {
            return None;
        }
        self.cursor = to;
        let missed = match &next {
            Next::Lines(step) => step.missed,
            Next::Lost(missed) => *missed,
            Next::Past => 0,
        };
        if !self.is_filtered {
            tally.dropped_unknown(SinkReason::QueueFull, missed);
        }
        let Next::Lines(step) = next else {
            self.forgo_before(self.seq(), tally);
            self.forgo_carried(tally);
            return None;
        };
        self.waiting_since = Some(step.batch.received);
        if let Some(rows) = &wanted {
            let lines = rows.len() as u64;
            if step.batch.seq < self.counted_from {
                tally.came_back(lines);
                tally.filtered(step.batch.lines() - lines);
            } else {
                self.pay(step.batch.seq, lines);
            }
        }
        self.forgo_before(self.seq(), tally);
        self.forgo_carried(tally);
        Some(step)
    }

    /// Behind what was there when it began, nothing of what was carried over comes back any more.
    pub(super) fn forgo_carried(&self, tally: &mut Tally) {
        if self.seq() >= self.counted_from {
            tally.forgo_carried();
        }
    }

    /// So many lines of a batch were read that were counted in when it was published.
    fn pay(&mut self, seq: u64, lines: u64) {
        let at = self.owed.partition_point(|owed| owed.last < seq);
        if let Some(owed) = self.owed.get_mut(at).filter(|owed| owed.first <= seq) {
            owed.lines = owed.lines.saturating_sub(lines);
        }
    }

    /// What a filter wanted of batches before this number and was not read is gone.
    fn forgo_before(&mut self, seq: u64, tally: &mut Tally) {
        while let Some(owed) = self.owed.pop_front_if(|owed| owed.last < seq) {
            tally.dropped_unknown(SinkReason::QueueFull, owed.lines);
        }
    }
}

/// What the spool does, and whom it lets go back.
#[cfg(feature = "spool")]
impl Position {
    /// Batches before number `seq`, whose lines end at `line`, are about to go: what was not read of them, and is not held either,
    /// is dropped.
    pub(super) fn lose_before(&mut self, seq: u64, line: u64, history: &History, tally: &mut Tally) {
        let to = line.min(history.oldest_line());
        let Some(lost) = to.checked_sub(self.cursor.line()).filter(|lost| *lost > 0) else { return };
        self.cursor = if to == line { FleetCursor::at(seq, line) } else { history.at_line(to) };
        if !self.is_filtered {
            tally.dropped_unknown(SinkReason::QueueFull, lost);
        }
        self.forgo_before(self.seq(), tally);
        self.forgo_carried(tally);
    }

    /// Lines from `line` up to here: those that are read again if it goes back there.
    pub(super) fn lines_since(&self, line: u64) -> u64 {
        self.cursor.line().saturating_sub(line)
    }

    /// Goes back to `line` in batch `seq`, received at `received`.
    pub(super) fn go_back(&mut self, seq: u64, line: u64, received: Instant, tally: &mut Tally) {
        let lines = self.lines_since(line);
        if lines == 0 {
            return;
        }
        if self.is_filtered {
            self.counted_from = self.counted_from.max(self.seq());
        } else {
            tally.came_in(lines);
        }
        self.cursor = FleetCursor::at(seq, line);
        self.waiting_since = Some(received);
    }
}

fn in_pairs(owed: &VecDeque<Owed>) -> VecDeque<Owed> {
    let (old, new) = (owed.len() - KNOWN_MAX, owed.len());
    let pairs = (0..old).step_by(2).map(|at| {
        let pair = at..(at + 2).min(old);
        Owed {
            first: owed[at].first,
            last: owed[pair.end - 1].last,
            lines: pair.map(|at| owed[at].lines).sum(),
            rows: None,
        }
    });
    let newest = (old..new).map(|at| Owed { rows: owed[at].rows.clone(), ..owed[at] });
    pairs.chain(newest).collect()
}
