//! What a queue holds: some lines of one machine, as a range of a batch's rows.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use crate::{
    batch::{Batch, EntryId, Group, GroupRef, Row, Streams},
    budget::{Budget, Permit},
    history::MachineCursor,
};

/// What an item costs beside its lines: the batch, its one group, the channel's slot.
pub(super) const ITEM_BYTES: usize = size_of::<Batch>() + size_of::<Group>() + size_of::<Item>() + 64;

/// The latency of every group is measured in batches of so many groups, and that of one in so many in larger ones: a clock, two
/// counters that all readers share and a line of memory for each machine cost more than the queue's lock.
const MEASURED_ALL: usize = 16;
const MEASURED_EACH: u8 = 8;

/// For how many groups the latency of this one counts, most often for none.
fn weight(batch: &Batch, at: GroupRef) -> u8 {
    if batch.groups.len() <= MEASURED_ALL {
        return 1;
    }
    // Scattered: senders may take turns, and each have its machines in the same order in all of its bodies.
    let scattered = at.batch.wrapping_add(u64::from(at.group)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    if scattered % u64::from(MEASURED_EACH) == 0 { MEASURED_EACH } else { 0 }
}

/// Some wanted lines of one group, on their way to a reader.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) batch: Arc<Batch>,
    /// Index into the batch's groups.
    pub(crate) group: u32,
    /// Rows left; those of streams that the queue does not want are passed over.
    pub(crate) rows: Range<u32>,
    /// Wanted lines left.
    pub(crate) lines: u64,
    /// What they cost of the queue's bound.
    pub(crate) bytes: usize,
    /// The group in the batch as published, of which this may be a compact copy.
    pub(super) origin: GroupRef,
    /// The `machine_seq` behind the last row.
    end_seq: u64,
    pub(super) copied: bool,
    /// Room for a copy of these lines, kept for when their reader does not come for them after all.
    pub(super) room: Option<Permit>,
    /// For how many groups its latency counts.
    pub(super) weight: u8,
}

impl Item {
    pub(super) fn whole(batch: Arc<Batch>, at: GroupRef, rows: Range<u32>, streams: Streams) -> Self {
        let (lines, bytes) = cost(&batch, rows.clone(), streams);
        let last = rows.clone().next_back().map(|index| batch.row(index));
        let end_seq = batch.groups[at.group as usize].first_seq + last.map_or(0, |row| u64::from(row.rank) + 1);
        let weight = weight(&batch, at);
        Self { batch, group: at.group, rows, lines, bytes, origin: at, end_seq, copied: false, room: None, weight }
    }

    /// All of a group's lines that `streams` wants, of which there are `lines`.
    pub(super) fn of_group(batch: Arc<Batch>, at: GroupRef, lines: u64, streams: Streams) -> Self {
        let group = &batch.groups[at.group as usize];
        if lines < group.lines() {
            let rows = group.rows.clone();
            return Self::whole(batch, at, rows, streams);
        }
        let bytes = ITEM_BYTES + group.bytes as usize + lines as usize * size_of::<Row>();
        let (rows, end_seq, weight) = (group.rows.clone(), group.end_seq(), weight(&batch, at));
        Self { batch, group: at.group, rows, lines, bytes, origin: at, end_seq, copied: false, room: None, weight }
    }

    pub(crate) fn group(&self) -> &Group {
        &self.batch.groups[self.group as usize]
    }

    /// The `machine_seq` of the first row left.
    pub(super) fn first_seq(&self) -> u64 {
        let rank = if self.rows.is_empty() { 0 } else { self.batch.row(self.rows.start).rank };
        self.group().first_seq + u64::from(rank)
    }

    /// Where a cursor stands that wants these lines next.
    pub(super) fn cursor(&self) -> MachineCursor {
        MachineCursor::within(self.origin.batch, self.group().first_seq, self.first_seq())
    }

    /// The `machine_seq` behind the last row, left or taken.
    pub(super) fn end_seq(&self) -> u64 {
        self.end_seq
    }

    /// The ids of the first and the last wanted line among `rows`, which are rows of its batch.
    pub(super) fn ids(&self, rows: Range<u32>, streams: Streams) -> Ids {
        ids(&self.batch, rows, streams)
    }

    /// Takes the next wanted row off the front.
    pub(crate) fn next_row(&mut self, streams: Streams) -> Option<u32> {
        let index = self.rows.find(|&index| streams.wants_row(self.batch.row(index)))?;
        self.lines -= 1;
        let cost = line_cost(self.batch.row(index));
        self.bytes = self.bytes.saturating_sub(cost);
        Some(index)
    }

    /// The same lines in a batch of their own, if they keep room for that or the reserve for copies has some.
    pub(super) fn compacted(&mut self, budget: &Arc<Budget>, streams: Streams) -> Option<Self> {
        let permit = self.room.take().or_else(|| self.room_for_a_copy(budget))?;
        Some(self.copied_into(permit, streams))
    }

    /// The same lines, for whose copy no room is kept any more: their reader has come for them.
    pub(crate) fn without_room(mut self) -> Self {
        self.room = None;
        self
    }

    /// Room for a copy of these lines.
    pub(super) fn room_for_a_copy(&self, budget: &Arc<Budget>) -> Option<Permit> {
        room_for_a_copy(budget, &self.batch, self.bytes)
    }

    pub(super) fn copied_into(&self, permit: Permit, streams: Streams) -> Self {
        let mut batch = self.batch.compact(self.group(), self.rows.clone(), streams);
        let mut permit = permit;
        let held = ITEM_BYTES + batch.bytes.len() + size_of_val(&*batch.rows);
        // A copy is charged for what it holds; growing past the estimate can fail only when the reserve is all but full.
        let _ = permit.try_resize(held);
        batch.permit = Some(permit);
        let rows = 0..batch.rows.len() as u32;
        Self { batch: Arc::new(batch), group: 0, rows, copied: true, room: None, ..*self }
    }
}

/// Room for a copy of lines of a batch that cost `bytes`, with an upper bound of the side-arena text that it takes along.
pub(super) fn room_for_a_copy(budget: &Arc<Budget>, batch: &Batch, bytes: usize) -> Option<Permit> {
    budget.try_copy(bytes + batch.arena.len().min(bytes))
}

/// Brings the first `lines` lines of `items` into the caches. They were received a while ago, and lie here and there: what is read of
/// them now waits for memory side by side, what is read as they are written would one piece after the other.
pub(super) fn warm(items: &VecDeque<Item>, lines: usize) {
    let rows = || items.iter().flat_map(|item| item.rows.clone().map(|index| (&*item.batch, index))).take(lines);
    let ranks = rows().fold(0, |sum, (batch, index)| sum ^ batch.row(index).rank);
    let texts = rows().fold(0, |sum, (batch, index)| sum ^ batch.touch(batch.row(index)));
    std::hint::black_box((ranks, texts));
}

/// The first and the last of some lines.
pub(super) type Ids = Option<(EntryId, EntryId)>;

/// The ids of the first and the last line wanted among `rows` of a batch.
pub(super) fn ids(batch: &Batch, rows: Range<u32>, streams: Streams) -> Ids {
    ids_where(batch, rows, |row| streams.wants_row(row))
}

/// The ids of the first and the last line among `rows` of a batch that are `wanted`.
pub(super) fn ids_where(batch: &Batch, mut rows: Range<u32>, wanted: impl Fn(&Row) -> bool) -> Ids {
    let wanted = |index: &u32| wanted(batch.row(*index));
    let first = rows.find(wanted)?;
    let last = rows.rfind(wanted).unwrap_or(first);
    batch.view(first).id().zip(batch.view(last).id())
}

pub(super) fn line_cost(row: &Row) -> usize {
    row.raw.len() + size_of::<Row>()
}

/// Lines wanted among `rows` of a batch, and what they cost of a queue's bound.
pub(super) fn cost(batch: &Batch, rows: Range<u32>, streams: Streams) -> (u64, usize) {
    let wanted = rows.map(|index| batch.row(index)).filter(|row| streams.wants_row(row));
    wanted.fold((0, ITEM_BYTES), |(lines, bytes), row| (lines + 1, bytes + line_cost(row)))
}

pub(super) fn group_cost(batch: &Batch, group: &Group, streams: Streams) -> (u64, usize) {
    cost(batch, group.rows.clone(), streams)
}
