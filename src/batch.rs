//! The currency of the house: one body becomes one [`Batch`], and everything inside holds an `Arc` of it plus a row range.
//!
//! A batch owns the pristine bytes of its body, a side arena for strings that could not be used as sent (escapes, repairs),
//! a table of fixed-size [`Row`]s of `u32` spans, the rows grouped by machine, and its permit on the byte budget, which is
//! given back when the last holder lets go. A span costs 1.3 ns a line where four owned strings cost 49–162 ns.

use std::{fmt, hash::BuildHasher, ops::Range, str::FromStr};

use bytes::Bytes;
use hashbrown::HashTable;
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};
use tokio::time::Instant;

use crate::budget::Permit;

/// The top bit of a span's start: set when the bytes are in the arena, not in the body.
const ARENA: u32 = 1 << 31;

/// The first `machine_seq` as it is counted inside. The lines that a spool has kept from before their machine was known to this
/// process stand below it, so that one machine's lines are one sequence wherever they are; those have no number to be shown.
pub(crate) const FIRST_SEQ: u64 = 1 << 48;

/// Set in the epoch of a spool, which is not that of one process.
pub(crate) const SPOOLED: u64 = 1 << 63;

/// A `machine_seq` as it is shown: 1, 2, 3…
fn shown_seq(seq: u64) -> Option<u64> {
    seq.saturating_add(1).checked_sub(FIRST_SEQ).filter(|shown| *shown > 0)
}

/// Where a piece of text lies: in the body as sent, or in the batch's arena. 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// No text at all.
    pub(crate) const EMPTY: Self = Self { start: 0, len: 0 };

    /// Bytes of the body. Bodies are under 2 GiB: `ingest.decoded_bytes_max` is bounded so.
    pub(crate) fn body(start: usize, len: usize) -> Self {
        debug_assert!(start + len < ARENA as usize);
        Self { start: start as u32, len: len as u32 }
    }

    /// Bytes of the arena.
    pub(crate) fn arena(start: usize, len: usize) -> Self {
        debug_assert!(start + len < ARENA as usize);
        Self { start: start as u32 | ARENA, len: len as u32 }
    }

    pub(crate) fn len(self) -> usize {
        self.len as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.len == 0
    }

    pub(crate) fn is_arena(self) -> bool {
        self.start & ARENA != 0
    }

    /// Offset in the body or the arena, whichever it lies in.
    pub(crate) fn start(self) -> usize {
        (self.start & !ARENA) as usize
    }

    /// Whether all of it lies within `record`, a part of the body.
    fn is_within(self, record: Self) -> bool {
        !self.is_arena() && self.start >= record.start && self.start + self.len <= record.start + record.len
    }

    /// The bytes that this span names.
    pub(crate) fn of<'a>(self, body: &'a [u8], arena: &'a [u8]) -> &'a [u8] {
        let from = if self.is_arena() { arena } else { body };
        &from[self.start()..self.start() + self.len()]
    }
}

/// What kind of output a line is; decides which queues want it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    #[default]
    Stdout = 0,
    Stderr = 1,
    System = 2,
    /// A `stream` of the sender's own naming; its text is [`Row::stream`].
    Other = 3,
}

impl Kind {
    pub(crate) const COUNT: usize = 4;

    /// The kind that a `stream` value names.
    pub(crate) fn of(stream: &[u8]) -> Self {
        match stream {
            b"stdout" => Self::Stdout,
            b"stderr" => Self::Stderr,
            b"system" => Self::System,
            _ => Self::Other,
        }
    }
}

/// The kinds of lines that a queue takes; see contract: stdout unless asked otherwise, `system` only where named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Streams(u8);

impl Streams {
    /// Standard output only: the default of a queue.
    pub const STDOUT: Self = Self(1 << Kind::Stdout as u8);
    /// Standard output and standard error: `include_stderr`.
    pub const STDOUT_AND_STDERR: Self = Self(Self::STDOUT.0 | 1 << Kind::Stderr as u8);
    /// Everything, platform records and streams of the sender's own naming too.
    pub const ALL: Self = Self((1 << Kind::COUNT) - 1);

    pub(crate) fn wants(self, kind: Kind) -> bool {
        self.wants_number(kind as usize)
    }

    /// As [`Streams::wants`], by the kind's number.
    pub(crate) fn wants_number(self, kind: usize) -> bool {
        self.0 & (1 << kind) != 0
    }

    /// A bit for each kind.
    #[cfg(feature = "spool")]
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// What [`Streams::bits`] gave.
    #[cfg(feature = "spool")]
    pub(crate) fn of_bits(bits: u8) -> Option<Self> {
        (bits != 0 && bits & !Self::ALL.0 == 0).then_some(Self(bits))
    }

    /// Whether a queue of these streams gives this line to its reader.
    pub(crate) fn wants_row(self, row: &Row) -> bool {
        self.wants(row.kind) && !row.limited
    }

    /// How many of a group's lines are wanted.
    pub(crate) fn count(self, counts: &[u32; Kind::COUNT]) -> u64 {
        self.count_all(&counts.map(u64::from))
    }

    /// As [`Streams::count`], for the lines of many groups.
    pub(crate) fn count_all(self, counts: &[u64; Kind::COUNT]) -> u64 {
        (0..Kind::COUNT).filter(|&kind| self.0 & (1 << kind) != 0).map(|kind| counts[kind]).sum()
    }
}

/// A name that is not a stream; see [`Streams`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown stream {0:?}: expected a list of stdout, stderr and system, or all")]
pub struct UnknownStream(String);

impl FromStr for Streams {
    type Err = UnknownStream;

    /// Reads `stdout`, `stdout,stderr`, `system`, `all` and the like.
    fn from_str(list: &str) -> Result<Self, UnknownStream> {
        list.split(',').map(str::trim).try_fold(Self(0), |Self(mask), name| {
            Ok(Self(match name {
                "stdout" => mask | 1 << Kind::Stdout as u8,
                "stderr" => mask | 1 << Kind::Stderr as u8,
                "system" => mask | 1 << Kind::System as u8,
                "all" => Self::ALL.0,
                other => return Err(UnknownStream(other.to_owned())),
            }))
        })
    }
}

impl fmt::Display for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all");
        }
        let names = [(Kind::Stdout, "stdout"), (Kind::Stderr, "stderr"), (Kind::System, "system")];
        let wanted = names.iter().filter(|(kind, _)| self.wants(*kind)).map(|(_, name)| *name);
        f.write_str(&wanted.collect::<Vec<_>>().join(","))
    }
}

/// One parsed record: spans into its batch's body and arena. Every span but `raw` names valid UTF-8. 88 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// The record as sent, always in the body; may hold invalid UTF-8 inside strings.
    pub(crate) raw: Span,
    pub(crate) machine: Span,
    pub(crate) message: Span,
    /// Only for [`Kind::Other`]; the other kinds name themselves.
    pub(crate) stream: Span,
    pub(crate) timestamp: Span,
    pub(crate) app: Span,
    pub(crate) region: Span,
    pub(crate) host: Span,
    pub(crate) level: Span,
    /// Which of the batch's rows this is in the order of the body, from 0.
    pub(crate) ordinal: u32,
    /// Index of its machine's group; set when the rows are grouped.
    pub(crate) group: u32,
    /// Which of its machine's rows in the batch this is, from 0; set when the rows are grouped.
    pub(crate) rank: u32,
    pub(crate) kind: Kind,
    /// Of the kind `system`, and from Fly's `runner`: it may tell that the machine has exited.
    pub(crate) runner: bool,
    /// Over a limit: its machine's queue drops it. Set when the batch is published.
    pub(crate) limited: bool,
    /// The record is valid UTF-8 for certain.
    pub(crate) utf8: bool,
}

impl Row {
    /// Bytes of this row's text that do not lie in its record.
    fn bytes_apart(mut self) -> usize {
        let raw = self.raw;
        self.text_spans().iter().filter(|span| !span.is_within(raw)).map(|span| span.len()).sum()
    }

    /// The spans that may lie in the arena, for whoever moves a row elsewhere.
    pub(crate) fn text_spans(&mut self) -> [&mut Span; 8] {
        [
            &mut self.machine,
            &mut self.message,
            &mut self.stream,
            &mut self.timestamp,
            &mut self.app,
            &mut self.region,
            &mut self.host,
            &mut self.level,
        ]
    }
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

impl Batch {
    /// Groups `rows`, which come in the order of the body, by machine.
    pub(crate) fn new(bytes: Bytes, arena: Vec<u8>, mut rows: Vec<Row>, received_at: Timestamp) -> Self {
        let (order, groups) = group_by_machine(&bytes, &arena, &mut rows);
        Self {
            bytes,
            arena: arena.into_boxed_slice(),
            rows: boxed(rows),
            order,
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
        let live: u64 = self.groups.iter().map(|group| group.bytes).sum();
        if self.rows.is_empty() || live >= self.bytes.len() as u64 / 2 {
            return;
        }
        let mut bytes = Vec::with_capacity(live as usize);
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
        let bytes_sent = copies.iter().map(|row| row.raw.len() as u64).sum();
        let whole = 0..copies.len() as u32;
        let group = Group { machine, rows: whole, bytes: bytes_sent, counts, first_seq: group.first_seq, prev: None };
        Self {
            bytes: bytes.into(),
            arena: Box::default(),
            rows: copies,
            order: Box::default(),
            groups: Box::new([group]),
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
        let machine_seq = self.groups[row.group as usize].first_seq + u64::from(row.rank);
        let line = self.first_line + u64::from(row.ordinal);
        EntryView {
            body: &self.bytes,
            arena: &self.arena,
            row,
            origin: Some(Origin { epoch: self.epoch, line, machine_seq, received_at: self.received_at }),
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
            groups.push(Group { machine: row.machine, rows: 0..0, bytes: 0, counts, first_seq: 0, prev: None });
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

/// Whether two texts are the same. Ids and pieces of records are short: comparing word by word right here beats a call.
#[inline]
pub(crate) fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (Some((_, last)), Some((_, other_last))) = (one.split_last_chunk::<8>(), other.split_last_chunk::<8>()) else {
        return one.iter().zip(other).all(|(one, other)| one == other);
    };
    // The last word may overlap the one before it.
    let words = |bytes| <[u8]>::as_chunks::<8>(bytes).0;
    last == other_last && words(one).iter().zip(words(other)).all(|(one, other)| one == other)
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

/// A span's text. Every span but `raw` is valid UTF-8 by construction; a broken invariant shows as U+FFFD, never as a panic.
fn text<'a>(span: Span, body: &'a [u8], arena: &'a [u8]) -> &'a str {
    std::str::from_utf8(span.of(body, arena)).unwrap_or("\u{FFFD}")
}

/// Names one line for as long as this process lives (with a spool: longer). Opaque to users, who hand it back to resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    pub(crate) epoch: u64,
    pub(crate) line: u64,
    pub(crate) machine_seq: u64,
    /// Tells one machine's ids from another's: who resumes in the log of another machine than the id is of must not be told
    /// a number of skipped lines that was counted there. See [`EntryId::mark`].
    pub(crate) machine: u32,
}

impl EntryId {
    /// A short hash of a machine's name, the same in every process: with a spool, ids outlive theirs.
    pub(crate) fn mark(machine: &str) -> u32 {
        Self::mark_of(machine.as_bytes())
    }

    fn mark_of(machine: &[u8]) -> u32 {
        // FNV-1a, folded. Two machines with the same mark cost a wrong number of skipped lines, no line.
        let hash = machine
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        (hash ^ hash >> 32) as u32
    }

    /// Appends what `Display` shows, without its machinery.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.reserve(64);
        write_hex(out, self.epoch);
        out.push(b'-');
        write_hex(out, self.line);
        out.push(b'-');
        write_hex(out, self.machine_seq);
        out.push(b'-');
        write_hex(out, self.machine.into());
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}-{:x}", self.epoch, self.line, self.machine_seq, self.machine)
    }
}

/// A text that is no id of an entry; see [`EntryId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an entry id")]
pub struct BadEntryId(String);

impl FromStr for EntryId {
    type Err = BadEntryId;

    fn from_str(text: &str) -> Result<Self, BadEntryId> {
        let parse = || {
            let mut parts = text.split('-').map(|part| match part.as_bytes() {
                [b'0'..=b'9' | b'a'..=b'f', ..] => u64::from_str_radix(part, 16).ok(),
                _ => None,
            });
            let (epoch, line, machine_seq) = (parts.next()??, parts.next()??, parts.next()??);
            let id = Self { epoch, line, machine_seq, machine: parts.next()??.try_into().ok()? };
            parts.next().is_none().then_some(id)
        };
        parse().ok_or_else(|| BadEntryId(text.chars().take(80).collect()))
    }
}

/// What the drain adds to a record: what its id is made of, and when it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) epoch: u64,
    pub(crate) line: u64,
    pub(crate) machine_seq: u64,
    pub(crate) received_at: Timestamp,
}

impl Origin {
    /// The id, which is made only where it is shown: few of the lines that are looked at are.
    fn id(self, machine: &[u8]) -> EntryId {
        let Self { epoch, line, machine_seq, .. } = self;
        // An id that outlives the process is the same in the next one, which counts a machine's lines anew.
        let machine_seq = shown_seq(machine_seq).filter(|_| epoch & SPOOLED == 0).unwrap_or(0);
        EntryId { epoch, line, machine_seq, machine: EntryId::mark_of(machine) }
    }
}

/// An entry that borrows from its batch: what readers print and [`LogEntry`] owns.
#[derive(Clone, Copy, Debug)]
pub struct EntryView<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) arena: &'a [u8],
    pub(crate) row: &'a Row,
    pub(crate) origin: Option<Origin>,
}

impl<'a> EntryView<'a> {
    fn text(&self, span: Span) -> &'a str {
        text(span, self.body, self.arena)
    }

    /// The Machine's id; never empty, at most 128 bytes.
    #[must_use]
    pub fn machine_id(&self) -> &'a str {
        self.text(self.row.machine)
    }

    /// The line itself; an object or array that was sent as `message` is its JSON text as sent.
    #[must_use]
    pub fn message(&self) -> &'a str {
        self.text(self.row.message)
    }

    /// `stdout`, `stderr`, `system`, or what the sender called it.
    #[must_use]
    pub fn stream(&self) -> &'a str {
        match self.row.kind {
            Kind::Stdout => "stdout",
            Kind::Stderr => "stderr",
            Kind::System => "system",
            Kind::Other => self.text(self.row.stream),
        }
    }

    /// The record's own time as sent, or `""`.
    #[must_use]
    pub fn timestamp(&self) -> &'a str {
        self.text(self.row.timestamp)
    }

    /// The app's name, or `""`.
    #[must_use]
    pub fn app_name(&self) -> &'a str {
        self.text(self.row.app)
    }

    /// The region's code, or `""`.
    #[must_use]
    pub fn region(&self) -> &'a str {
        self.text(self.row.region)
    }

    /// Fly's host, or `""`.
    #[must_use]
    pub fn host(&self) -> &'a str {
        self.text(self.row.host)
    }

    /// The level as sent, or `""`.
    #[must_use]
    pub fn level(&self) -> &'a str {
        self.text(self.row.level)
    }

    /// The record as sent, byte for byte.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.row.raw.of(self.body, self.arena)
    }

    /// The line's id; `None` for what was parsed but never pushed.
    #[must_use]
    pub fn id(&self) -> Option<EntryId> {
        self.origin.map(|origin| origin.id(self.machine_id().as_bytes()))
    }

    /// When the drain had received it; `None` for what was parsed but never pushed.
    #[must_use]
    pub fn received_at(&self) -> Option<Timestamp> {
        self.origin.map(|origin| origin.received_at)
    }

    /// 1, 2, 3… per machine while it is known to this process; `None` for what a spool kept from before, and for what was parsed
    /// but never pushed.
    #[must_use]
    pub fn machine_seq(&self) -> Option<u64> {
        self.origin.and_then(|origin| shown_seq(origin.machine_seq))
    }

    /// How many lines of all machines were published before it.
    #[cfg(feature = "server")]
    pub(crate) fn line(&self) -> Option<u64> {
        self.origin.map(|origin| origin.line)
    }

    /// Appends the entry as one JSON object on one line, without a newline: the fields in the contract's order, then `id`,
    /// `received_at` and `machine_seq` where the drain gave them, then `raw` if asked for.
    pub fn write_json(&self, out: &mut Vec<u8>, with_raw: bool) {
        self.write_json_by(&mut Clock::default(), out, with_raw);
    }

    /// As [`EntryView::write_json`], for many lines: those of one batch share the text of their time of receipt.
    pub(crate) fn write_json_by(&self, clock: &mut Clock, out: &mut Vec<u8>, with_raw: bool) {
        let row = self.row;
        let fields: [(&[u8], Span); 5] = [
            (b",\"timestamp\":", row.timestamp),
            (b",\"app_name\":", row.app),
            (b",\"region\":", row.region),
            (b",\"host\":", row.host),
            (b",\"level\":", row.level),
        ];
        out.extend_from_slice(b"{\"machine_id\":");
        self.write_text(out, row.machine);
        out.extend_from_slice(b",\"message\":");
        self.write_text(out, row.message);
        out.extend_from_slice(b",\"stream\":");
        match row.kind {
            Kind::Other => self.write_text(out, row.stream),
            Kind::Stdout | Kind::Stderr | Kind::System => write_json_string(out, self.stream()),
        }
        for (key, span) in fields {
            out.extend_from_slice(key);
            self.write_text(out, span);
        }
        if let Some(origin) = self.origin {
            out.push(b',');
            self.write_origin(origin, clock, out);
        }
        if with_raw {
            out.extend_from_slice(b",\"raw\":");
            self.write_raw(out);
        }
        out.push(b'}');
    }

    /// Appends the record as sent, on one line, without a newline: line breaks between tokens become spaces, invalid UTF-8 becomes
    /// U+FFFD.
    pub(crate) fn write_raw(&self, out: &mut Vec<u8>) {
        let (raw, start) = (self.raw(), out.len());
        if self.row.utf8 {
            out.extend_from_slice(raw);
        } else {
            out.extend_from_slice(String::from_utf8_lossy(raw).as_bytes());
        }
        // A line break inside a string would have been malformed, so every one that is left stands between tokens.
        let mut rest = &mut out[start..];
        while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
            rest[at] = b' ';
            rest = &mut rest[at + 1..];
        }
    }

    /// Whether a text of it is that of another.
    #[cfg(feature = "sinks")]
    pub(crate) fn has_same(&self, other: &EntryView<'_>, text: impl Fn(&Row) -> Span) -> bool {
        text(self.row).of(self.body, self.arena) == text(other.row).of(other.body, other.arena)
    }

    /// Appends what the drain gave it as members, if it gave it something: `id`, `received_at` and `machine_seq`.
    #[cfg(feature = "sinks")]
    pub(crate) fn write_given(&self, clock: &mut Clock, out: &mut Vec<u8>) {
        if let Some(origin) = self.origin {
            self.write_origin(origin, clock, out);
        }
    }

    /// Appends the members `id`, `received_at` and `machine_seq`.
    fn write_origin(&self, origin: Origin, clock: &mut Clock, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"id\":\"");
        origin.id(self.row.machine.of(self.body, self.arena)).write(out);
        out.extend_from_slice(b"\",\"received_at\":\"");
        clock.write(out, origin.received_at);
        out.extend_from_slice(b"\",\"machine_seq\":");
        match shown_seq(origin.machine_seq) {
            Some(seq) => write_decimal(out, seq),
            None => out.extend_from_slice(b"null"),
        }
    }

    /// Appends a text of the row as a JSON string. One that lies in the record between quotes is one already: it was read as a
    /// string without escapes, and is copied with them.
    #[inline]
    fn write_text(&self, out: &mut Vec<u8>, span: Span) {
        match self.quoted(span) {
            Some(string) => out.extend_from_slice(string),
            None => write_json_string(out, self.text(span)),
        }
    }

    /// A text with the quotes around it, if it stands so in the record. Numbers and containers do not; what was unescaped or
    /// repaired lies elsewhere, where the bytes beside it are another's.
    #[inline]
    fn quoted(&self, span: Span) -> Option<&'a [u8]> {
        let record = self.row.raw;
        if span.is_empty() || !span.is_within(record) || span.start() == record.start() {
            return None;
        }
        let end = span.start() + span.len() + 1;
        let string = self.body.get(span.start() - 1..end).filter(|_| end <= record.start() + record.len())?;
        (string.first() == Some(&b'"') && string.last() == Some(&b'"')).then_some(string)
    }

    /// An owned copy of this line alone.
    #[must_use]
    pub fn to_entry(&self) -> LogEntry {
        let mut bytes = Vec::with_capacity(self.row.raw.len() + self.row.bytes_apart());
        let row = move_row(*self.row, self.body, self.arena, &mut bytes);
        LogEntry { bytes: bytes.into_boxed_slice(), row, origin: self.origin }
    }
}

/// Appends one row's record, and its strings that lie apart from it, to `bytes`, and moves its spans there.
fn move_row(mut row: Row, body: &[u8], arena: &[u8], bytes: &mut Vec<u8>) -> Row {
    let record = row.raw;
    let (from, to) = (record.start(), bytes.len());
    bytes.extend_from_slice(row.raw.of(body, arena));
    row.raw = Span::body(to, row.raw.len());
    for span in row.text_spans() {
        *span = match *span {
            empty if empty.is_empty() => Span::EMPTY,
            sent if sent.is_within(record) => Span::body(sent.start() - from + to, sent.len()),
            // From the arena, or from behind the record where an earlier move has put it.
            text => {
                let start = bytes.len();
                bytes.extend_from_slice(text.of(body, arena));
                Span::body(start, text.len())
            }
        };
    }
    row
}

/// The last time of receipt that was written, as text: to write one anew costs as much as half of the entry.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    at: Option<Timestamp>,
    text: String,
}

impl Clock {
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, at: Timestamp) {
        if self.at != Some(at) {
            (self.at, self.text) = (Some(at), at.to_string());
        }
        out.extend_from_slice(self.text.as_bytes());
    }
}

pub(crate) fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

fn write_hex(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 16];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b"0123456789abcdef"[number as usize & 15];
        number >>= 4;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends `text` as a JSON string.
pub(crate) fn write_json_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a Vec takes any write, and a str is always a JSON string");
}

/// One parsed record, owned: `Clone + Send + Sync + 'static`, one allocation, outside the byte budget.
///
/// The counterpart of the Python module's `LogEntry`. The fields and where they come from are in the crate's record rules.
#[derive(Clone, PartialEq, Eq)]
pub struct LogEntry {
    bytes: Box<[u8]>,
    row: Row,
    origin: Option<Origin>,
}

macro_rules! owned_accessors {
    ($($(#[$doc:meta])* $name:ident -> $type:ty;)*) => {
        impl LogEntry {
            $($(#[$doc])* #[must_use] pub fn $name(&self) -> $type { self.view().$name() })*
        }
    };
}

owned_accessors! {
    /// The Machine's id; never empty, at most 128 bytes.
    machine_id -> &str;
    /// The line itself; an object or array that was sent as `message` is its JSON text as sent.
    message -> &str;
    /// `stdout`, `stderr`, `system`, or what the sender called it.
    stream -> &str;
    /// The record's own time as sent, or `""`.
    timestamp -> &str;
    /// The app's name, or `""`.
    app_name -> &str;
    /// The region's code, or `""`.
    region -> &str;
    /// Fly's host, or `""`.
    host -> &str;
    /// The level as sent, or `""`.
    level -> &str;
    /// The record as sent, byte for byte.
    raw -> &[u8];
    /// The line's id; `None` for what was parsed but never pushed.
    id -> Option<EntryId>;
    /// When the drain had received it; `None` for what was parsed but never pushed.
    received_at -> Option<Timestamp>;
    /// 1, 2, 3… per machine while it is known to this process; `None` for what a spool kept from before, and for what was parsed
    /// but never pushed.
    machine_seq -> Option<u64>;
}

impl LogEntry {
    /// The same entry, borrowed.
    #[must_use]
    pub fn view(&self) -> EntryView<'_> {
        EntryView { body: &self.bytes, arena: &[], row: &self.row, origin: self.origin }
    }
}

impl fmt::Debug for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogEntry")
            .field("machine_id", &self.machine_id())
            .field("message", &self.message())
            .field("stream", &self.stream())
            .field("timestamp", &self.timestamp())
            .field("app_name", &self.app_name())
            .field("region", &self.region())
            .field("machine_seq", &self.machine_seq())
            .finish_non_exhaustive()
    }
}

impl Serialize for LogEntry {
    /// The keys of [`EntryView::write_json`] without `raw`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("machine_id", self.machine_id())?;
        map.serialize_entry("message", self.message())?;
        map.serialize_entry("stream", self.stream())?;
        map.serialize_entry("timestamp", self.timestamp())?;
        map.serialize_entry("app_name", self.app_name())?;
        map.serialize_entry("region", self.region())?;
        map.serialize_entry("host", self.host())?;
        map.serialize_entry("level", self.level())?;
        if let Some(origin) = &self.origin {
            map.serialize_entry("id", &format_args!("{}", origin.id(self.machine_id().as_bytes())))?;
            map.serialize_entry("received_at", &format_args!("{}", origin.received_at))?;
            map.serialize_entry("machine_seq", &self.machine_seq())?;
        }
        map.end()
    }
}
