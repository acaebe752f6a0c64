//! Recent batches in memory, and the one cursor behind `logs`, `tail`, backlog, catch-up and resume.
//!
//! The history is a ring of batches bounded in bytes. A cursor reads the past at its reader's pace and hands over to live:
//! it knows the number of the line it wants next, so what it missed is a subtraction, never a guess. Each group links to its
//! machine's previous one, so one machine's past touches only its own batches.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use jiff::Timestamp;
use parking_lot::RwLock;

use crate::batch::{Batch, Group, GroupRef};

/// The most groups a cursor looks ahead; beyond it walks back again, so that a reader far behind stays small.
const PLAN_MAX: usize = 1024;

/// Recent batches, in the order in which they were published.
#[derive(Debug)]
pub(crate) struct History {
    bytes_max: usize,
    ring: RwLock<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    batches: VecDeque<Arc<Batch>>,
    /// The number of the oldest batch held, or of the next one if none is.
    first: u64,
    bytes: usize,
    /// Lines published so far.
    lines: u64,
}

/// What the history says of a batch's number.
pub(crate) enum Held {
    Batch(Arc<Batch>),
    Evicted,
    NotYet,
}

impl History {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, ring: RwLock::default() }
    }

    /// The number that the next batch gets, and how many lines were published before it. Only the publisher asks.
    pub(crate) fn end(&self) -> (u64, u64) {
        let ring = self.ring.read();
        (ring.first + ring.batches.len() as u64, ring.lines)
    }

    /// Appends the next batch; [`History::evict`] then until nothing is over the bound.
    pub(crate) fn append(&self, batch: Arc<Batch>) {
        let mut ring = self.ring.write();
        ring.bytes += batch.charged_bytes();
        ring.lines = batch.first_line + batch.lines();
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
        ring.first += 1;
        Some(oldest)
    }

    pub(crate) fn batch(&self, seq: u64) -> Held {
        let ring = self.ring.read();
        match seq.checked_sub(ring.first) {
            None => Held::Evicted,
            Some(index) => {
                ring.batches.get(index as usize).map_or(Held::NotYet, |batch| Held::Batch(Arc::clone(batch)))
            }
        }
    }

    /// The number of the oldest batch held.
    pub(crate) fn first_seq(&self) -> u64 {
        self.ring.read().first
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
        FleetCursor { seq: ring.first + after as u64, line: line.min(ring.lines) }
    }

    /// Where a reader of all machines stands who has read up to `line`: what was evicted since counts as missed.
    pub(crate) fn after_line(&self, line: u64) -> FleetCursor {
        self.at_line(line.saturating_add(1))
    }

    /// Where a reader of all machines stands who wants what was received at `time` or later.
    pub(crate) fn at_time(&self, time: Timestamp) -> FleetCursor {
        let ring = self.ring.read();
        let index = ring.batches.partition_point(|batch| batch.received_at < time);
        let line = ring.batches.get(index).map_or(ring.lines, |batch| batch.first_line);
        FleetCursor { seq: ring.first + index as u64, line }
    }

    /// Where a reader of all machines stands who wants only what is still to come.
    pub(crate) fn live(&self) -> FleetCursor {
        let (seq, line) = self.end();
        FleetCursor { seq, line }
    }

    /// The first line held.
    pub(crate) fn oldest_line(&self) -> u64 {
        let ring = self.ring.read();
        ring.batches.front().map_or(ring.lines, |batch| batch.first_line)
    }

    fn group<T>(&self, at: GroupRef, read: impl FnOnce(&Group, &Batch) -> T) -> Option<T> {
        let ring = self.ring.read();
        let batch = ring.batches.get(at.batch.checked_sub(ring.first)? as usize)?;
        Some(read(&batch.groups[at.group as usize], batch))
    }
}

/// Lines to read from one batch, of all machines.
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
    pub(crate) fn step(&mut self, history: &History) -> Option<FleetStep> {
        let batch = match history.batch(self.seq) {
            Held::Batch(batch) => batch,
            Held::NotYet => return None,
            Held::Evicted => {
                self.seq = history.first_seq();
                let Held::Batch(batch) = history.batch(self.seq) else { return self.step(history) };
                batch
            }
        };
        let missed = batch.first_line.saturating_sub(self.line);
        let from = self.line.saturating_sub(batch.first_line) as u32;
        self.line = batch.first_line + batch.lines();
        self.seq += 1;
        Some(FleetStep { batch, from, missed })
    }

    /// Where a reader stands who wants `line` next, which is in batch `seq`.
    pub(crate) fn at(seq: u64, line: u64) -> Self {
        Self { seq, line }
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

/// Lines to read from one batch, of one machine.
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
}

impl MachineCursor {
    /// A cursor that wants `machine_seq` `next` first.
    pub(crate) fn new(next: u64) -> Self {
        Self { next, plan: VecDeque::new() }
    }

    /// The `machine_seq` wanted next.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next
    }

    /// Goes back to `next`, which is in the group at `at`: the rest of a group that was taken only in part.
    pub(crate) fn put_back(&mut self, at: GroupRef, next: u64) {
        self.plan.push_back(at);
        self.next = next;
    }

    /// The machine's next lines, or how many were lost at its very end, or `None` when caught up with `trail`.
    pub(crate) fn step(&mut self, history: &History, trail: Trail) -> Option<Result<MachineStep, u64>> {
        while self.next < trail.next_seq {
            let Some(at) = self.plan.pop_back() else {
                self.plan(history, trail);
                if self.plan.is_empty() {
                    // Nothing of the machine is held any more.
                    let missed = trail.next_seq - self.next;
                    self.next = trail.next_seq;
                    return Some(Err(missed));
                }
                continue;
            };
            let Held::Batch(batch) = history.batch(at.batch) else {
                self.plan.clear();
                continue;
            };
            let group = &batch.groups[at.group as usize];
            let missed = group.first_seq.saturating_sub(self.next);
            let start = group.rows.start + self.next.saturating_sub(group.first_seq) as u32;
            let rows = start..group.rows.end;
            self.next = group.end_seq();
            return Some(Ok(MachineStep { at, rows, missed, batch }));
        }
        None
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
