//! Recent batches in memory, and the one cursor behind `logs`, `tail`, backlog, catch-up and resume.
//!
//! The history is a ring of batches bounded in bytes. A cursor reads the past at its reader's pace and hands over to live:
//! it knows the number of the line it wants next, so what it missed is a subtraction, never a guess. Each group links to its
//! machine's previous one, so one machine's past touches only its own batches.
//!
//! With a spool the past goes on behind the ring's oldest batch: there a cursor says [`Next::Past`], and is moved on by
//! [`MachineCursor::read_past`] and [`FleetCursor::read_past`], which wait for the disk.

#[cfg_attr(not(feature = "spool"), path = "history/past/none.rs")]
mod past;

use std::{collections::VecDeque, ops::Range, sync::Arc};

use jiff::Timestamp;

#[cfg(all(feature = "sinks", feature = "spool"))]
pub(crate) use self::past::instant_of;
pub(crate) use self::past::{Past, Start};
use crate::{
    batch::{Batch, Group, GroupRef},
    sync::RwLock,
};

/// The most groups a cursor looks ahead; beyond it walks back again, so that a reader far behind stays small.
const PLAN_MAX: usize = 1024;

/// Recent batches, in the order in which they were published.
#[derive(Debug)]
pub(crate) struct History {
    bytes_max: usize,
    ring: RwLock<Ring>,
    /// Where the past goes on that is not held.
    past: Option<Past>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Their numbers ascend; the spool, which gives them where there is one, leaves some out.
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    /// The least number that the next batch may get.
    next: u64,
    /// Lines published so far.
    lines: u64,
}

impl Ring {
    /// The number of the oldest batch held, or of the next one if none is.
    fn first(&self) -> u64 {
        self.batches.front().map_or(self.next, |batch| batch.seq)
    }

    /// Where the batch of that number, or the next one, stands.
    fn index(&self, seq: u64) -> usize {
        let guess = seq.saturating_sub(self.first()) as usize;
        match self.batches.get(guess) {
            Some(batch) if batch.seq == seq => guess,
            _ => self.batches.partition_point(|batch| batch.seq < seq),
        }
    }

    fn oldest_line(&self) -> u64 {
        self.batches.front().map_or(self.lines, |batch| batch.first_line)
    }
}

/// Where a batch is on the disk.
#[cfg(feature = "server")]
#[cfg_attr(not(feature = "spool"), allow(dead_code, reason = "without a spool nothing is"))]
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Stored {
    /// The segment's file in the spool's directory.
    pub(crate) file: String,
    /// Where the record begins there, and its bytes.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// The record's number, which `fleetdrain spool dump --from` takes.
    pub(crate) sequence: u64,
    /// Lines of the record.
    pub(crate) lines: u64,
}

/// What the disk says of a line.
#[cfg(feature = "server")]
#[cfg_attr(not(feature = "spool"), allow(dead_code, reason = "without a spool nobody says it"))]
#[derive(Debug)]
pub(crate) enum Lookup {
    Found(Stored),
    /// Its segment was removed; the oldest line that is left was received then.
    Removed {
        oldest: Option<Timestamp>,
    },
    /// Its record is damaged, and left out.
    Damaged,
    /// The disk does not answer now.
    Unreadable,
}

/// What the history says of a batch's number.
pub(crate) enum Held {
    Batch(Arc<Batch>),
    Evicted,
    NotYet,
}

impl History {
    /// An empty ring that goes on from `start`.
    pub(crate) fn new(bytes_max: usize, start: Start) -> Self {
        let Start { seq, line, past } = start;
        Self { bytes_max, ring: RwLock::new(Ring { next: seq, lines: line, ..Ring::default() }), past }
    }

    /// What is not held any more, where there is such a thing.
    pub(crate) fn past(&self) -> Option<&Past> {
        self.past.as_ref()
    }

    /// The least number that the next batch may get, and how many lines were published before it.
    pub(crate) fn end(&self) -> (u64, u64) {
        let ring = self.ring.read();
        (ring.next, ring.lines)
    }

    /// Appends the next batch; [`History::evict`] then until nothing is over the bound.
    pub(crate) fn append(&self, batch: Arc<Batch>) {
        let mut ring = self.ring.write();
        ring.bytes += batch.charged_bytes();
        ring.lines = batch.first_line + batch.lines();
        ring.next = batch.seq + 1;
        ring.batches.push_back(batch);
    }

    /// Evicts the oldest batch if the history is over its bound; the newest stays, however large.
    ///
    /// One at a time, so that a queue which stood there finds its next lines still held.
    pub(crate) fn evict(&self) -> Option<Arc<Batch>> {
        let mut ring = self.ring.write();
        if ring.bytes <= self.bytes_max || ring.batches.len() <= 1 {
            return None;
        }
        let oldest = ring.batches.pop_front()?;
        ring.bytes -= oldest.charged_bytes();
        Some(oldest)
    }

    /// The batch of that number, or the next one.
    pub(crate) fn batch(&self, seq: u64) -> Held {
        let ring = self.ring.read();
        if seq < ring.first() {
            return Held::Evicted;
        }
        ring.batches.get(ring.index(seq)).map_or(Held::NotYet, |batch| Held::Batch(Arc::clone(batch)))
    }

    /// The batch held that has this line.
    #[cfg(feature = "server")]
    pub(crate) fn batch_with_line(&self, line: u64) -> Option<Arc<Batch>> {
        let ring = self.ring.read();
        let after = ring.batches.partition_point(|batch| batch.first_line <= line);
        let batch = ring.batches.get(after.checked_sub(1)?)?;
        (line < batch.first_line + batch.lines()).then(|| Arc::clone(batch))
    }

    /// The last batch held before that number.
    pub(crate) fn batch_before(&self, seq: u64) -> Option<Arc<Batch>> {
        let ring = self.ring.read();
        ring.index(seq).checked_sub(1).and_then(|index| ring.batches.get(index)).map(Arc::clone)
    }

    /// Whether it holds the batch of that number, and nothing else does.
    pub(crate) fn holds(&self, seq: u64) -> bool {
        self.past.is_none() && seq >= self.first_seq()
    }

    /// The number of the oldest batch held.
    pub(crate) fn first_seq(&self) -> u64 {
        self.ring.read().first()
    }

    /// Bytes and lines held, and the time of receipt of the oldest.
    pub(crate) fn held(&self) -> (usize, u64, Option<tokio::time::Instant>) {
        let ring = self.ring.read();
        let oldest = ring.batches.front();
        let lines = oldest.map_or(0, |batch| ring.lines - batch.first_line);
        (ring.bytes, lines, oldest.map(|batch| batch.received))
    }

    /// Where a reader of all machines stands who wants everything from `line` on.
    pub(crate) fn at_line(&self, line: u64) -> FleetCursor {
        let ring = self.ring.read();
        let after = ring.batches.partition_point(|batch| batch.first_line + batch.lines() <= line);
        let seq = ring.batches.get(after).map_or(ring.next, |batch| batch.seq);
        FleetCursor { seq, line: line.min(ring.lines) }
    }

    /// Where a reader of all machines stands who has read up to `line`: what was evicted since counts as missed.
    pub(crate) fn after_line(&self, line: u64) -> FleetCursor {
        self.at_line(line.saturating_add(1))
    }

    /// Where a reader of all machines stands who wants what was received at `time` or later.
    pub(crate) fn at_time(&self, time: Timestamp) -> FleetCursor {
        let ring = self.ring.read();
        let index = ring.batches.partition_point(|batch| batch.received_at < time);
        let place = ring.batches.get(index).map(|batch| (batch.seq, batch.first_line));
        let (seq, line) = place.unwrap_or((ring.next, ring.lines));
        FleetCursor { seq, line }
    }

    /// Where a reader of all machines stands who wants only what is still to come.
    pub(crate) fn live(&self) -> FleetCursor {
        let (seq, line) = self.end();
        FleetCursor { seq, line }
    }

    /// The first line held.
    pub(crate) fn oldest_line(&self) -> u64 {
        self.ring.read().oldest_line()
    }

    fn group<T>(&self, at: GroupRef, read: impl FnOnce(&Group, &Batch) -> T) -> Option<T> {
        let ring = self.ring.read();
        let batch = ring.batches.get(ring.index(at.batch)).filter(|batch| batch.seq == at.batch)?;
        Some(read(&batch.groups[at.group as usize], batch))
    }
}

/// What a cursor comes to.
#[derive(Debug)]
pub(crate) enum Next<T> {
    Lines(T),
    /// So many lines were evicted, and none of them is left.
    Lost(u64),
    /// What comes next is not held any more, and to be read from the disk.
    Past,
}

/// Lines to read from one batch, of all machines.
#[derive(Debug)]
pub(crate) struct FleetStep {
    pub(crate) batch: Arc<Batch>,
    /// The first row wanted, as a [`crate::batch::Row::ordinal`].
    pub(crate) from: u32,
    /// Lines evicted before the cursor came to them.
    pub(crate) missed: u64,
}

/// Reads all machines, in the order of publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FleetCursor {
    seq: u64,
    /// The number of the line wanted next.
    line: u64,
}

impl FleetCursor {
    /// The next batch, or `None` when caught up.
    pub(crate) fn step(&mut self, history: &History) -> Option<Next<FleetStep>> {
        if history.past.is_some() && self.line < history.oldest_line() {
            return Some(Next::Past);
        }
        let batch = match history.batch(self.seq) {
            Held::Batch(batch) => batch,
            Held::NotYet => return None,
            Held::Evicted => {
                self.seq = history.first_seq();
                return self.step(history);
            }
        };
        Some(Next::Lines(self.pass(batch)))
    }

    /// Goes on behind `batch`, which is the next one.
    fn pass(&mut self, batch: Arc<Batch>) -> FleetStep {
        let missed = batch.first_line.saturating_sub(self.line);
        let from = self.line.saturating_sub(batch.first_line) as u32;
        self.line = batch.first_line + batch.lines();
        self.seq = batch.seq + 1;
        FleetStep { batch, from, missed }
    }

    /// Where a reader stands who wants `line` next, which is in batch `seq`.
    pub(crate) fn at(seq: u64, line: u64) -> Self {
        Self { seq, line }
    }

    /// The batch that has the line wanted next is not before this number.
    #[cfg(feature = "sinks")]
    pub(crate) fn seq(self) -> u64 {
        self.seq
    }

    /// The later of two places.
    pub(crate) fn max(self, other: Self) -> Self {
        if other.line > self.line { other } else { self }
    }

    /// The number of the line wanted next.
    pub(crate) fn line(self) -> u64 {
        self.line
    }
}

/// A machine's place in the history: its newest group, and the `machine_seq` that its next line gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trail {
    pub(crate) last: Option<GroupRef>,
    pub(crate) next_seq: u64,
    /// All of the machine's lines up to `next_seq` are in batches before this number.
    pub(crate) end: u64,
}

impl Trail {
    /// Walks back from the machine's newest group to its oldest one held, for as long as `each` says so.
    pub(crate) fn walk_back(self, history: &History, mut each: impl FnMut(GroupRef, &Group, &Batch) -> bool) {
        let mut at = self.last;
        while let Some(here) = at {
            let step = history.group(here, |group, batch| each(here, group, batch).then_some(group.prev));
            at = step.flatten().flatten();
        }
    }

    /// The `machine_seq` of the oldest line held, or of the next line if none is.
    pub(crate) fn oldest_seq(self, history: &History) -> u64 {
        let mut oldest = self.next_seq;
        self.walk_back(history, |_, group, _| {
            oldest = group.first_seq;
            true
        });
        oldest
    }
}

impl Batch {
    /// Where a cursor stands that wants the row at `index` of the group at `at` next.
    pub(crate) fn cursor_at(&self, at: GroupRef, index: u32) -> MachineCursor {
        let group = &self.groups[at.group as usize];
        MachineCursor::within(at.batch, group.first_seq, group.first_seq + u64::from(index - group.rows.start))
    }
}

/// Lines to read from one batch, of one machine.
#[derive(Debug)]
pub(crate) struct MachineStep {
    pub(crate) batch: Arc<Batch>,
    pub(crate) at: GroupRef,
    pub(crate) rows: Range<u32>,
    /// Lines evicted before the cursor came to them.
    pub(crate) missed: u64,
}

/// Reads one machine, in the order of its `machine_seq`.
#[derive(Clone, Debug)]
pub(crate) struct MachineCursor {
    /// The `machine_seq` wanted next.
    next: u64,
    /// Groups to read, the next one last.
    plan: VecDeque<GroupRef>,
    /// The batch that has the line wanted next is not before this number, and the machine's first line from here on has
    /// `machine_seq` `first`: where to go on on the disk.
    from: u64,
    first: u64,
}

impl MachineCursor {
    /// A cursor that wants `machine_seq` `next` first, the machine's first line in batches from number `from` on.
    pub(crate) fn new(next: u64, from: u64) -> Self {
        Self { next, plan: VecDeque::new(), from, first: next }
    }

    /// A cursor that stands at `next`, in the group of `batch` that begins with `first`.
    pub(crate) fn within(batch: u64, first: u64, next: u64) -> Self {
        Self { next, plan: VecDeque::new(), from: batch, first }
    }

    /// A cursor that wants what comes behind `trail`.
    pub(crate) fn live(trail: Trail) -> Self {
        Self::new(trail.next_seq, trail.end)
    }

    /// The batch that has the line wanted next is not before this number.
    pub(crate) fn from(&self) -> u64 {
        self.from
    }

    /// Lines that went by without being read.
    pub(crate) fn pass_by(&mut self, lines: u64, from: u64) {
        self.plan.clear();
        (self.next, self.from) = (self.next + lines, from);
        self.first = self.next;
    }

    /// The `machine_seq` wanted next.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next
    }

    /// Goes back to `next`, which is in a group of `batch`: the rest of a group that was taken only in part.
    pub(crate) fn put_back(&mut self, batch: &Batch, at: GroupRef, next: u64) {
        if !batch.from_spool {
            self.plan.push_back(at);
        }
        (self.next, self.from, self.first) = (next, at.batch, batch.groups[at.group as usize].first_seq);
    }

    /// The machine's next lines, or `None` when caught up with `trail`.
    pub(crate) fn step(&mut self, history: &History, trail: Trail) -> Option<Next<MachineStep>> {
        if self.next >= trail.next_seq {
            return None;
        }
        let held = self.next_held(history, trail);
        let first = held.as_ref().map_or(trail.next_seq, |(at, batch)| batch.groups[at.group as usize].first_seq);
        if history.past.is_some() && first > self.next {
            return Some(Next::Past);
        }
        let Some((at, batch)) = held else {
            // Nothing of the machine is held any more.
            let missed = trail.next_seq - self.next;
            self.pass_by(missed, trail.end);
            return Some(Next::Lost(missed));
        };
        self.plan.pop_back();
        Some(Next::Lines(self.pass(at, batch)))
    }

    /// The oldest group held that has lines still to be read; it stays in the plan.
    fn next_held(&mut self, history: &History, trail: Trail) -> Option<(GroupRef, Arc<Batch>)> {
        loop {
            let Some(at) = self.plan.back().copied() else {
                self.plan(history, trail);
                if self.plan.is_empty() {
                    return None;
                }
                continue;
            };
            match history.batch(at.batch) {
                Held::Batch(batch) => return Some((at, batch)),
                Held::Evicted | Held::NotYet => self.plan.clear(),
            }
        }
    }

    /// Goes on behind the group at `at`, which is the next one.
    fn pass(&mut self, at: GroupRef, batch: Arc<Batch>) -> MachineStep {
        let group = &batch.groups[at.group as usize];
        let missed = group.first_seq.saturating_sub(self.next);
        let start = group.rows.start + self.next.saturating_sub(group.first_seq) as u32;
        let rows = start..group.rows.end;
        (self.next, self.from) = (group.end_seq(), at.batch + 1);
        self.first = self.next;
        MachineStep { at, rows, missed, batch }
    }

    /// Collects the oldest groups held that are still to be read.
    fn plan(&mut self, history: &History, trail: Trail) {
        self.plan.clear();
        trail.walk_back(history, |at, group, _| {
            let wanted = group.end_seq() > self.next;
            if wanted {
                if self.plan.len() == PLAN_MAX {
                    self.plan.pop_front();
                }
                self.plan.push_back(at);
            }
            wanted && group.first_seq > self.next
        });
    }
}

#[cfg(test)]
mod tests;
