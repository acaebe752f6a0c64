//! The currency of the house: one body becomes one [`Batch`], and everything inside holds an `Arc` of it plus a row range.
//!
//! A batch owns the pristine bytes of its body, a side arena for strings that could not be used as sent (escapes, repairs),
//! a table of fixed-size [`Row`]s of `u32` spans, the rows grouped by machine, and its permit on the byte budget, which is
//! given back when the last holder lets go. A span costs 1.3 ns a line where four owned strings cost 49–162 ns.

mod digits;
mod entry;
mod id;
mod row;
mod streams;

use std::{fmt, hash::BuildHasher, ops::Range};

use bytes::Bytes;
use hashbrown::HashTable;
use jiff::Timestamp;
use tokio::time::Instant;

#[cfg(feature = "sinks")]
pub(crate) use self::digits::write_decimal;
#[cfg(feature = "server")]
pub(crate) use self::entry::Clock;
use self::row::{move_row, text};
pub(crate) use self::{
    entry::write_json_string,
    id::{Mark, Origin},
    row::{NOTE, Row, Sent, Span, same_bytes},
    streams::Kind,
};
pub use self::{
    entry::{EntryView, LogEntry},
    id::{BadEntryId, EntryId},
    streams::{Streams, UnknownStream},
};
use crate::budget::Permit;

/// The first `machine_seq` as it is counted inside. The lines that a spool has kept from before their machine was known to this
/// process stand below it, so that one machine's lines are one sequence wherever they are; those have no number to be shown.
pub(crate) const FIRST_SEQ: u64 = 1 << 48;

/// Set in the epoch of a spool, which is not that of one process.
pub(crate) const SPOOLED: u64 = 1 << 63;

/// A `machine_seq` as it is shown: 1, 2, 3…
fn shown_seq(seq: u64) -> Option<u64> {
    seq.saturating_add(1).checked_sub(FIRST_SEQ).filter(|shown| *shown > 0)
}

/// Where a machine's group stands: which batch, and which of its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupRef {
    pub(crate) batch: u64,
    pub(crate) group: u32,
}

/// The rows of one machine in one batch, in the order of the body.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) machine: Span,
    /// Which rows by the batch's order of machines; see [`Batch::row`].
    pub(crate) rows: Range<u32>,
    /// Bytes of the records as sent.
    pub(crate) bytes: u64,
    /// Lines by [`Kind`].
    pub(crate) counts: [u32; Kind::COUNT],
    /// The `machine_seq` of the first row; set when the batch is published.
    pub(crate) first_seq: u64,
    /// The machine's, for its lines' ids; set when the batch is published.
    pub(crate) mark: Option<Mark>,
    /// The machine's group before this one, if the history may still hold it; set when the batch is published.
    pub(crate) prev: Option<GroupRef>,
}

impl Group {
    pub(crate) fn lines(&self) -> u64 {
        u64::from(self.rows.end - self.rows.start)
    }

    /// The `machine_seq` after the last row.
    pub(crate) fn end_seq(&self) -> u64 {
        self.first_seq + self.lines()
    }
}

/// One body's entries. Built by `record`, numbered by `collector`, then shared as `Arc<Batch>` and never changed.
pub(crate) struct Batch {
    pub(crate) bytes: Bytes,
    pub(crate) arena: Box<[u8]>,
    /// In the order of the body.
    pub(crate) rows: Box<[Row]>,
    /// Index of each row, machine by machine: to sort these is a tenth of sorting the rows. Empty where the order is the body's.
    order: Box<[u32]>,
    pub(crate) groups: Box<[Group]>,
    /// Bytes of all records as sent.
    pub(crate) record_bytes: u64,
    /// When the drain had received it; never earlier than the batch before.
    pub(crate) received_at: Timestamp,
    /// The same moment on the clock that ages and latencies are measured by.
    pub(crate) received: Instant,
    /// Batches published before this one; set when it is published.
    pub(crate) seq: u64,
    /// Lines published before this batch's first; set when it is published.
    pub(crate) first_line: u64,
    /// Which process and collector numbered it; see [`EntryId`].
    pub(crate) epoch: u64,
    /// Read back from the spool: not one that the history holds.
    pub(crate) from_spool: bool,
    /// Whether any of its rows is over a limit; spares everybody else to look.
    pub(crate) has_limited: bool,
    /// Held until the last holder lets go. `None` only for what was never admitted (`parse`, tests).
    pub(crate) permit: Option<Permit>,
}

/// The size of a cache line of most processors, and how much of a record is brought to the caches at once.
const CACHE_LINE_BYTES: usize = 64;
const TOUCHED_BYTES: usize = 1 << 10;

impl Batch {
    /// Groups `rows`, which come in the order of the body, by machine.
    pub(crate) fn new(bytes: Bytes, arena: Vec<u8>, mut rows: Vec<Row>, received_at: Timestamp) -> Self {
        let (order, groups) = group_by_machine(&bytes, &arena, &mut rows);
        Self {
            bytes,
            arena: arena.into_boxed_slice(),
            rows: boxed(rows),
            order,
            record_bytes: groups.iter().map(|group| group.bytes).sum(),
            groups,
            received_at,
            received: Instant::now(),
            seq: 0,
            first_line: 0,
            epoch: 0,
            from_spool: false,
            has_limited: false,
            permit: None,
        }
    }

    /// Moves the records to a body of their own if they are less than half of the one that they came in: what was rejected, or
    /// is blank, must not be held for the little that was accepted.
    pub(crate) fn leave_behind_the_rest(&mut self) {
        if self.rows.is_empty() || self.record_bytes >= self.bytes.len() as u64 / 2 {
            return;
        }
        let mut bytes = Vec::with_capacity(self.record_bytes as usize);
        for row in &mut self.rows {
            *row = move_row(*row, &self.bytes, &self.arena, &mut bytes);
        }
        (self.bytes, self.arena) = (bytes.into(), Box::default());
        for index in 0..self.groups.len() {
            self.groups[index].machine = self.row(self.groups[index].rows.start).machine;
        }
    }

    /// Bytes that this batch holds beside its body: what the budget is charged on top of the body's capacity.
    pub(crate) fn table_bytes(&self) -> usize {
        size_of::<Self>()
            + self.arena.len()
            + size_of_val(&*self.rows)
            + size_of_val(&*self.order)
            + size_of_val(&*self.groups)
    }

    /// Bytes charged to the budget, or held without it.
    pub(crate) fn charged_bytes(&self) -> usize {
        self.permit.as_ref().map_or_else(|| self.bytes.len() + self.table_bytes(), Permit::bytes)
    }

    pub(crate) fn lines(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The row at `index` by the order of machines: those of each group are contiguous.
    #[inline]
    pub(crate) fn row(&self, index: u32) -> &Row {
        let at = self.order.get(index as usize).copied().unwrap_or(index);
        &self.rows[at as usize]
    }

    pub(crate) fn row_mut(&mut self, index: u32) -> &mut Row {
        let at = self.order.get(index as usize).copied().unwrap_or(index);
        &mut self.rows[at as usize]
    }

    /// Reads a byte of each cache line of a row's record, at most of its first kilobyte. What is returned means nothing.
    #[inline]
    pub(crate) fn touch(&self, row: &Row) -> u8 {
        let record = row.raw.of(&self.bytes, &self.arena);
        record[..record.len().min(TOUCHED_BYTES)].iter().step_by(CACHE_LINE_BYTES).fold(0, |sum, byte| sum ^ byte)
    }

    /// How many of a group's lines a queue of these streams takes charge of, and how many of them are over a limit.
    pub(crate) fn wanted(&self, group: &Group, streams: Streams) -> (u64, u64) {
        let wanted = streams.count(&group.counts);
        if !self.has_limited {
            return (wanted, 0);
        }
        let rows = group.rows.clone().map(|index| self.row(index));
        (wanted, rows.filter(|row| row.limited && streams.wants(row.kind)).count() as u64)
    }

    pub(crate) fn machine_id(&self, group: &Group) -> &str {
        text(group.machine, &self.bytes, &self.arena)
    }

    /// A batch of its own with the rows of `group` in `rows` that `streams` wants: what waits in a queue, so that a
    /// sleeping reader never pins other machines' bytes. Numbers and times stay.
    pub(crate) fn compact(&self, group: &Group, rows: Range<u32>, streams: Streams) -> Self {
        let wanted = || rows.clone().map(|index| self.row(index)).filter(|row| streams.wants_row(row));
        let bytes = wanted().map(|row| row.raw.len() + row.bytes_apart()).sum();
        let mut bytes = Vec::with_capacity(bytes);
        let mut machine = Span::EMPTY;
        let mut counts = [0; Kind::COUNT];
        let copies: Box<[Row]> = wanted()
            .map(|row| {
                counts[row.kind as usize] += 1;
                let copy = move_row(*row, &self.bytes, &self.arena, &mut bytes);
                machine = copy.machine;
                Row { group: 0, ..copy }
            })
            .collect();
        let record_bytes = copies.iter().map(|row| row.raw.len() as u64).sum();
        let whole = 0..copies.len() as u32;
        let group = Group { machine, rows: whole, bytes: record_bytes, counts, prev: None, ..*group };
        Self {
            bytes: bytes.into(),
            arena: Box::default(),
            rows: copies,
            order: Box::default(),
            groups: Box::new([group]),
            record_bytes,
            has_limited: false,
            permit: None,
            ..*self
        }
    }

    /// The row at `index` by the order of machines, as an entry that borrows from this batch.
    pub(crate) fn view(&self, index: u32) -> EntryView<'_> {
        self.view_of(self.row(index))
    }

    /// One of the rows as an entry that borrows from this batch.
    pub(crate) fn view_of<'a>(&'a self, row: &'a Row) -> EntryView<'a> {
        let group = &self.groups[row.group as usize];
        let (machine_seq, mark) = (group.first_seq + u64::from(row.rank), group.mark);
        let line = self.first_line + u64::from(row.ordinal);
        EntryView {
            body: &self.bytes,
            arena: &self.arena,
            row,
            origin: Some(Origin { epoch: self.epoch, line, machine_seq, mark, received_at: self.received_at }),
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("seq", &self.seq)
            .field("lines", &self.rows.len())
            .field("groups", &self.groups.len())
            .finish_non_exhaustive()
    }
}

/// Sorts rows by machine, machines in order of first sight, and keeps the order within each. Gives the rows' indices in that
/// order, none if it is theirs, and the groups.
fn group_by_machine(body: &[u8], arena: &[u8], rows: &mut [Row]) -> (Box<[u32]>, Box<[Group]>) {
    let hasher = foldhash::fast::RandomState::default();
    let mut table: HashTable<u32> = HashTable::with_capacity(rows.len().min(256));
    let mut groups: Vec<Group> = Vec::new();
    let mut last = 0;
    for row in &mut *rows {
        let id = row.machine.of(body, arena);
        let same = |group: &Group| same_bytes(group.machine.of(body, arena), id);
        if !groups.get(last as usize).is_some_and(same) {
            let again = |&index: &u32| hasher.hash_one(groups[index as usize].machine.of(body, arena));
            let entry = table.entry(hasher.hash_one(id), |&index| same(&groups[index as usize]), again);
            last = *entry.or_insert(groups.len() as u32).get();
        }
        if last as usize == groups.len() {
            let counts = [0; Kind::COUNT];
            groups.push(Group {
                machine: row.machine,
                rows: 0..0,
                bytes: 0,
                counts,
                first_seq: 0,
                mark: None,
                prev: None,
            });
        }
        let group = &mut groups[last as usize];
        (row.group, row.rank) = (last, group.rows.end);
        group.rows.end += 1;
        group.bytes += row.raw.len() as u64;
        group.counts[row.kind as usize] += 1;
    }
    let mut start = 0;
    for group in &mut groups {
        group.rows = start..start + group.rows.end;
        start = group.rows.end;
    }
    (order_of(rows, &groups), groups.into_boxed_slice())
}

/// A table no larger than what it is charged for: an allocator that shrinks one in place keeps what was too much of it.
fn boxed(rows: Vec<Row>) -> Box<[Row]> {
    if rows.capacity() > rows.len() + rows.len() / 8 { rows.as_slice().into() } else { rows.into_boxed_slice() }
}

/// The rows' indices, machine by machine.
fn order_of(rows: &[Row], groups: &[Group]) -> Box<[u32]> {
    if groups.len() <= 1 {
        return Box::default();
    }
    let mut order = vec![0; rows.len()].into_boxed_slice();
    for (row, index) in rows.iter().zip(0..) {
        order[(groups[row.group as usize].rows.start + row.rank) as usize] = index;
    }
    order
}
