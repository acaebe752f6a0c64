//! What goes in and comes out: plain structs, and what can be wrong.

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    format::{self, Base},
    index::Entry,
    log::{self, Log, Segment},
    retain::Gone,
};

/// What is done when the spool is full of what cursors have not passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Full {
    /// [`super::Spool::reserve`] refuses.
    #[default]
    Refuse,
    /// The oldest segment goes all the same.
    DropOldest,
}

/// How much a spool keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// `spool.keep`: a segment stays for as long, unless there is no room.
    pub keep: Duration,
    /// `spool.bytes_max`: of all segments on the disk.
    pub bytes_max: u64,
    /// `spool.full`.
    pub full: Full,
    /// Bytes of a segment before the next is begun; a larger record has one to itself. Old records go by the segment, and
    /// one is scanned at start.
    pub segment_bytes: u64,
    /// Bytes of records that wait for the writer. One record is always taken, however large.
    pub waiting_bytes_max: u64,
}

impl Bounds {
    /// The contract's defaults, for `bytes_max` bytes in all.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self {
            keep: Duration::from_secs(24 * 60 * 60),
            bytes_max,
            full: Full::Refuse,
            // So that what goes at once is a small part, and a start scans little. Segments of 64 MiB were no faster (`cargo
            // bench --bench spool`, 16 appenders: 998 MiB/s, and 1,002 with these).
            segment_bytes: (bytes_max / 16).clamp(64 << 10, 16 << 20),
            waiting_bytes_max: 32 << 20,
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self::new(10 << 30)
    }
}

/// Why a spool cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it: exit code 69.
    #[error("the spool is in use by another process")]
    Locked,
    /// Nothing was touched: exit code 78.
    #[error("the spool has format version {version}, this program knows version {}", format::VERSION)]
    UnknownVersion {
        /// What the spool says.
        version: u64,
    },
    /// The disk does not do what is asked of it: exit code 74.
    #[error("the spool cannot be opened")]
    Io(#[from] io::Error),
}

/// Why there is no place for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// As many bytes as may wait for the writer do so.
    #[error("the spool's writer has as many bytes to write as it may")]
    Busy,
    /// Cursors hold back all that fits: `spool.full = refuse`.
    #[error("the spool is full")]
    Full,
    /// The spool is shut.
    #[error("the spool is shut")]
    Shut,
}

/// Why a record is not in the spool.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Nothing of it was taken: no room on the disk, or a write that failed and was taken back.
    #[error("the spool could not take it")]
    Refused {
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// It may have been taken: a sync failed. After a restart it is there or it is not; before, it is not.
    #[error("it is not known whether the spool took it")]
    Unknown {
        /// What the operating system said.
        source: Arc<io::Error>,
    },
}

impl AppendError {
    pub(super) fn refused(source: io::Error) -> Self {
        Self::Refused { source: Arc::new(source) }
    }

    pub(super) fn unknown(source: io::Error) -> Self {
        Self::Unknown { source: Arc::new(source) }
    }
}

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It was removed meanwhile.
    #[error("it is not in the spool any more")]
    Gone,
    /// It is not what was written; it is counted, and copied into quarantine.
    #[error("a record of the spool is damaged")]
    Damaged,
    /// The disk does not give it now.
    #[error("the spool cannot be read")]
    Io(#[source] io::Error),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// How many kinds of lines are told apart.
pub const KINDS: usize = 4;

/// Lines of a machine in a record, by kind. The spool adds them up; what the kinds are is its owner's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines(pub [u32; KINDS]);

impl Lines {
    /// Of all kinds.
    #[must_use]
    pub fn total(self) -> u64 {
        self.0.iter().copied().map(u64::from).sum()
    }

    pub(super) fn add_to(self, sums: &mut [u64; KINDS]) {
        sums.iter_mut().zip(self.0).for_each(|(sum, lines)| *sum += u64::from(lines));
    }
}

/// One batch, to be appended.
#[derive(Clone, Debug, Default)]
pub struct NewRecord<'a> {
    /// As sent, decoded; under 4 GiB.
    pub body: Bytes,
    /// When it was received. The spool makes it no earlier than the record before.
    pub received_at: Timestamp,
    /// How many lines the batch has.
    pub lines: u32,
    /// Each machine of the batch with its lines; a name is at most 64 KiB.
    pub machines: &'a [(&'a str, Lines)],
    /// The `Idempotency-Key` with whatever is to be known when it comes again; empty: none.
    pub key: &'a [u8],
}

/// A record's numbers, once it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Ascending, with holes.
    pub seq: u64,
    /// Lines in the spool before this record's, since it was begun.
    pub first_line: u64,
    /// No earlier than the record before.
    pub received_at: Timestamp,
}

/// One batch, as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// See [`Appended::seq`].
    pub seq: u64,
    /// See [`Appended::first_line`].
    pub first_line: u64,
    /// How many lines.
    pub lines: u64,
    /// When it was received.
    pub received_at: Timestamp,
    /// See [`NewRecord::key`].
    pub key: Option<Bytes>,
    pub(super) machines: Bytes,
    /// As sent, decoded.
    pub body: Bytes,
}

impl Record {
    /// The machines of the batch, each with its lines.
    pub fn machines(&self) -> impl Iterator<Item = (&str, Lines)> {
        format::decode_machines(&self.machines)
    }
}

/// Where to begin reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The record with this sequence, or the next.
    Seq(u64),
    /// The record that holds this line, or the next.
    Line(u64),
    /// The first record received then or later.
    Time(Timestamp),
}

/// Where a record is: small, and valid until the record is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) segment: Base,
    pub(super) entry: Entry,
}

impl Place {
    /// See [`Appended::seq`].
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.entry.seq
    }

    /// See [`Appended::first_line`].
    #[must_use]
    pub fn first_line(&self) -> u64 {
        self.entry.first_line
    }

    /// How many lines.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.entry.lines.into()
    }

    /// Bytes that the record takes in memory when it is read: to be had from the budget before.
    #[must_use]
    pub fn bytes(&self) -> usize {
        format::RECORD + self.entry.bytes as usize
    }

    /// When it was received.
    #[must_use]
    pub fn received_at(&self) -> Timestamp {
        log::timestamp(self.entry.received_at)
    }

    /// The sequence that the segment of the record is named for.
    #[must_use]
    pub fn segment(&self) -> u64 {
        self.segment.seq
    }

    /// The file that the record is in.
    #[must_use]
    pub fn segment_name(&self) -> String {
        self.segment.segment_name()
    }

    /// Where the record begins in that file, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.entry.offset
    }
}

/// A queue's place, kept over a restart; see [`super::Spool::set_position`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Whatever number says where the queue stands.
    pub at: u64,
    /// Whatever else is to be known of it.
    pub note: Vec<u8>,
}

/// A segment that is about to go.
pub struct Removing<'a> {
    pub(super) log: &'a Log,
    pub(super) segment: &'a Segment,
    pub(super) end: Base,
    pub(super) reason: Gone,
}

impl Removing<'_> {
    /// The sequences that it may hold.
    #[must_use]
    pub fn seqs(&self) -> std::ops::Range<u64> {
        self.segment.base.seq..self.end.seq
    }

    /// The lines that it held before any damage.
    #[must_use]
    pub fn lines(&self) -> std::ops::Range<u64> {
        self.segment.base.line..self.end.line
    }

    /// Why it goes.
    #[must_use]
    pub fn reason(&self) -> Gone {
        self.reason
    }
}

impl fmt::Debug for Removing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Removing").field("seqs", &self.seqs()).field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// Who is told what the spool does on its own. Called on the spool's threads.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A segment is about to go, and can still be read. Must not append to the spool and wait for it.
    fn removing(&self, removing: &Removing<'_>);

    /// [`super::Spool::reserve`] may succeed where it was refused.
    fn room(&self);
}

/// What the families `spool_*` count. Lines in the spool at the start count as having come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// `spool_lines_in_total`
    pub lines_in: u64,
    /// `spool_lines_released_total`
    pub lines_released: u64,
    /// `spool_lines_dropped_total{reason="expired"}`
    pub lines_dropped_expired: u64,
    /// `spool_lines_dropped_total{reason="full"}`
    pub lines_dropped_full: u64,
    /// `spool_lines_dropped_total{reason="corrupt"}`
    pub lines_dropped_corrupt: u64,
    /// `spool_corrupt_records_total`: damaged places, each of them a record or more.
    pub corrupt_records: u64,
    /// `spool_lines`
    pub lines: u64,
    /// `spool_bytes`
    pub bytes: u64,
    /// `spool_unsent_bytes`
    pub unsent_bytes: u64,
    /// `spool_budget_bytes`: `spool.bytes_max`, or what there is room for on the volume.
    pub budget_bytes: u64,
    /// `spool_segments`
    pub segments: u64,
    /// When the oldest record was received, for `spool_oldest_age_seconds`.
    pub oldest: Option<Timestamp>,
}
