//! Batches on disk: what is acknowledged is there after any crash.
//!
//! A segmented log of our own. One record is one batch: the body as it was sent, and what is needed to make the batch again.
//! A machine's past, a time and a line are found through each segment's index, without reading what lies between.
//!
//! ```text
//! directory   format                  version and id of the spool
//!             cursors, positions      small tables that outlive a crash: sinks', queues'
//!             finished                the same: machines whose logs have ended
//!             damage                  another: what is known to be lost of which segment
//!             SEQUENCE-LINE.seg       segments, named for the first record and line that they may hold
//!             quarantine-*.bin        copies of what was damaged
//!
//! segment     header 64 │ record │ record │ … │ index: records, machines, postings, keys │ footer 144
//!                                             └─ once it is sealed
//! record      marker 8 · CRC32C of the header 4 · CRC32C of the payload 4 · lengths of meta, body and key 12 · lines 4
//!             sequence 8 · first line 8 · received at 8 · synced before it 8 │ key │ machines with their lines │ body
//! ```
//!
//! The marker is random for each segment, so that no body can look like a record to who searches behind damage for the next.
//! A record belongs to a segment if its sequence is not below the segment's and below the next one's, both as their names say.
//! Assumed of the disk: a sector of 512 bytes is written whole or not at all, so what was synced in it stays.
//!
//! - [`write`]: group commit, and what is known after which failure; [`open`]: the end of the log after any stop.
//! - [`retain`]: what goes when, and cursors; [`log`]: which segments there are; [`find`]: finding and reading records.
//! - [`scan`]: trusting nothing; [`offline`]: what `fleetdrain spool` shows and mends.
//! - [`fs`]: all that is asked of a file system, so that tests can have a worse one.
//!
//! Calls that read or open wait for the disk: from async code make them where blocking is allowed.
//!
//! ## Metrics
//!
//! [`Spool::counted`] has what the families `spool_*` tell.

mod fs;

mod types;

mod format;
mod index;
mod pages;
mod table;

mod find;
mod log;
mod open;
mod quarantine;
mod retain;
mod scan;
mod write;

pub mod offline;
mod read;
mod threads;

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "fuzzing needs less of it than the tests do"))]
pub(crate) mod sim;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering::Relaxed},
    time::Instant,
};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;

use self::{fs::Disk, log::Log, threads::Threads};
pub use self::{
    read::{MachineRecords, Records},
    retain::Gone,
    threads::{Encoded, Pending, Slot},
    types::{
        AppendError, Appended, Bounds, Counted, Full, KINDS, Lines, NewRecord, Observer, OpenError, Place, Position,
        ReadError, Record, Removing, ReserveError, Seek,
    },
};
use crate::metrics::Histogram;

#[derive(Debug)]
struct Counts {
    lines_in: AtomicU64,
    released: AtomicU64,
    dropped_expired: AtomicU64,
    dropped_full: AtomicU64,
    dropped_corrupt: AtomicU64,
    /// Of these, what somebody has journaled.
    corrupt_journaled: AtomicU64,
    corrupt_records: AtomicU64,
    /// When it last refused what it had room for, if it has taken nothing since.
    failed: Mutex<Option<Instant>>,
    fsync: Arc<Histogram>,
}

impl Default for Counts {
    fn default() -> Self {
        let zero = AtomicU64::default;
        Self {
            lines_in: zero(),
            released: zero(),
            dropped_expired: zero(),
            dropped_full: zero(),
            dropped_corrupt: zero(),
            corrupt_journaled: zero(),
            corrupt_records: zero(),
            failed: Mutex::default(),
            fsync: Arc::new(Histogram::new(Histogram::LATENCY)),
        }
    }
}

/// An open spool. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Spool {
    log: Arc<Log>,
    threads: Arc<Threads>,
}

impl Spool {
    /// Opens the spool in `dir`, or begins one there, and starts its three threads.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. Damage is none of them.
    pub fn open(dir: &Path, bounds: Bounds, observer: Option<Arc<dyn Observer>>) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(Disk::open_or_create(dir)?), bounds, observer)
    }

    /// As [`Spool::open`], on a file system that may be another than the machine's.
    pub(crate) fn open_on(
        fs: Arc<dyn fs::Fs>,
        bounds: Bounds,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self, OpenError> {
        let log = Arc::new(Log::open(fs, bounds, observer)?);
        let threads = Arc::new(Threads::start(&log)?);
        Ok(Self { log, threads })
    }

    /// Names this spool for as long as it exists: whoever keeps sequences or lines elsewhere keeps this beside them.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.log.id
    }

    /// The sequences and lines that are there: of the oldest record's, and behind the newest.
    #[must_use]
    pub fn range(&self) -> (std::ops::Range<u64>, std::ops::Range<u64>) {
        let list = self.log.list.read();
        let (first, end) = (list.first(), list.end);
        (first.seq..end.seq, first.line..end.line)
    }

    /// Takes a place for a record of about `bytes`; given back when the slot is dropped or its record's fate is known.
    ///
    /// # Errors
    ///
    /// See [`ReserveError`]; nothing was taken.
    pub fn reserve(&self, bytes: usize) -> Result<Slot, ReserveError> {
        self.threads.reserve(&self.log, bytes as u64)
    }

    /// Reserves and appends; for who has nothing to do in between.
    ///
    /// # Errors
    ///
    /// See [`ReserveError`]; nothing was taken.
    pub fn append(&self, record: &NewRecord<'_>) -> Result<Pending, ReserveError> {
        Ok(self.reserve(record.body.len())?.append(record))
    }

    /// The first record at `seek` or behind; `None` if there is none yet.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn first(&self, seek: Seek) -> Result<Option<Place>, ReadError> {
        self.log.first(seek)
    }

    /// The last record before `seq`.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn last_before(&self, seq: u64) -> Result<Option<Place>, ReadError> {
        self.log.last_before(seq)
    }

    /// The first record at `seq` or behind with lines of a machine; one in 2⁶⁴ others may come up too.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn machine_first(&self, machine: &str, seq: u64) -> Result<Option<Place>, ReadError> {
        self.log.machine_first(machine, seq)
    }

    /// As [`Spool::machine_first`], with such lines of it as are `wanted`.
    pub(crate) fn machine_first_with(
        &self,
        machine: &str,
        seq: u64,
        wanted: impl Fn(Lines) -> bool,
    ) -> Result<Option<Place>, ReadError> {
        self.log.machine_first_with(machine, seq, wanted)
    }

    /// The last record before `seq` with lines of a machine; one in 2⁶⁴ others may come up too.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn machine_last_before(&self, machine: &str, seq: u64) -> Result<Option<Place>, ReadError> {
        self.log.machine_last_before(machine, seq)
    }

    /// A machine's lines, by kind, in the records whose sequence is in `seqs`.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn machine_lines(&self, machine: &str, seqs: std::ops::Range<u64>) -> Result<[u64; KINDS], ReadError> {
        self.log.machine_lines(machine, &seqs)
    }

    /// Where records are missing of segments that are known to be damaged, oldest first: from behind the sequence of the one before
    /// to that of the next. What a damaged index cannot tell is left out.
    #[must_use]
    pub fn gaps(&self) -> Vec<std::ops::Range<u64>> {
        self.log.gaps_in(&(0..u64::MAX))
    }

    /// Whether records are missing in `seqs`; asks the indexes of damaged segments about that part alone.
    pub(crate) fn has_gap(&self, seqs: &std::ops::Range<u64>) -> bool {
        !seqs.is_empty() && !self.log.gaps_in(seqs).is_empty()
    }

    /// Reads one record, in [`Place::bytes`] of memory.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn read(&self, place: &Place) -> Result<Record, ReadError> {
        self.log.read(place)
    }

    /// The records from `seek` on, to the end as it is when that is reached.
    #[must_use]
    pub fn records(&self, seek: Seek) -> Records<'_> {
        Records::new(&self.log, seek)
    }

    /// The records from `seq` on that have lines of a machine.
    #[must_use]
    pub fn machine_records<'a>(&'a self, machine: &'a str, seq: u64) -> MachineRecords<'a> {
        MachineRecords::new(&self.log, machine, seq)
    }

    /// The newest `max` keys of records received at `since` or later, oldest first: sequence, time of receipt, key.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn recent_keys(&self, since: Timestamp, max: usize) -> Result<Vec<(u64, Timestamp, Bytes)>, ReadError> {
        self.log.recent_keys(since, max)
    }

    /// The sequence that a sink wants next; `None` if it has no cursor.
    #[must_use]
    pub fn cursor(&self, name: &str) -> Option<u64> {
        self.log.cursors.lock().value(name.as_bytes()).map(retain::cursor)
    }

    /// All cursors.
    #[must_use]
    pub fn cursors(&self) -> Vec<(String, u64)> {
        let cursors = self.log.cursors.lock();
        cursors
            .rows()
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), retain::cursor(value)))
            .collect()
    }

    /// Notes that a sink has everything before `seq`. Durable within a second, and before anything that it allows to go; a
    /// crash before that takes it back to where it was.
    pub fn set_cursor(&self, name: &str, seq: u64) {
        let mut cursors = self.log.cursors.lock();
        let began = cursors.value(name.as_bytes()).and_then(|value| value.get(8..)).unwrap_or_default();
        let value = [&seq.to_le_bytes(), began].concat();
        cursors.set(name.as_bytes(), &value);
    }

    /// Notes beside a sink's cursor the line that it began with, or went back to.
    pub fn set_cursor_began(&self, name: &str, line: u64) {
        let mut cursors = self.log.cursors.lock();
        let Some(seq) = cursors.value(name.as_bytes()).map(retain::cursor) else { return };
        cursors.set(name.as_bytes(), &[seq.to_le_bytes(), line.to_le_bytes()].concat());
    }

    /// The line that a sink began with; `None` if it has no cursor, or one of an earlier version, which did not note that.
    #[must_use]
    pub fn cursor_began(&self, name: &str) -> Option<u64> {
        let cursors = self.log.cursors.lock();
        cursors.value(name.as_bytes())?.get(8..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Has a sink's cursor hold nothing back for as long as the sink is away.
    pub fn park_cursor(&self, name: &str) {
        self.log.parked.lock().insert(name.as_bytes().into());
    }

    /// Has a sink's cursor hold back again what it has not passed.
    pub fn unpark_cursor(&self, name: &str) {
        self.log.parked.lock().remove(name.as_bytes());
    }

    /// Forgets a sink: it holds nothing back any more.
    pub fn remove_cursor(&self, name: &str) {
        self.log.cursors.lock().remove(name.as_bytes());
    }

    /// Every queue's position, by machine.
    #[must_use]
    pub fn positions(&self) -> Vec<(String, Position)> {
        let positions = self.log.positions.lock();
        let position =
            |value: &[u8]| Position { at: retain::cursor(value), note: value.get(8..).unwrap_or_default().to_vec() };
        positions.rows().map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), position(value))).collect()
    }

    /// Notes where a machine's queue stands; durable within a second.
    pub fn set_position(&self, machine: &str, position: &Position) {
        let value = [&position.at.to_le_bytes()[..], &position.note].concat();
        self.log.positions.lock().set(machine.as_bytes(), &value);
    }

    /// Forgets a machine's queue.
    pub fn remove_position(&self, machine: &str) {
        self.log.positions.lock().remove(machine.as_bytes());
    }

    /// Every machine that is finished, or is to be, and when.
    #[must_use]
    pub fn finished(&self) -> Vec<(String, Timestamp)> {
        let finished = self.log.finished.lock();
        let at = |value: &[u8]| {
            let millis = value.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes));
            Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MIN)
        };
        finished.rows().map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), at(value))).collect()
    }

    /// Notes when a machine is finished; durable within a second.
    pub fn set_finished(&self, machine: &str, at: Timestamp) {
        self.log.finished.lock().set(machine.as_bytes(), &at.as_millisecond().to_le_bytes());
    }

    /// Notes that a machine is not finished.
    pub fn remove_finished(&self, machine: &str) {
        self.log.finished.lock().remove(machine.as_bytes());
    }

    /// Makes every row of these tables durable now.
    ///
    /// # Errors
    ///
    /// What the disk says; the next second tries anew.
    pub fn store_tables(&self) -> io::Result<()> {
        self.log.store_tables()
    }

    /// What there is to tell of the spool.
    #[must_use]
    pub fn counted(&self) -> Counted {
        self.log.counted()
    }

    /// As [`Counted::lines_dropped_corrupt`], without a look at the disk.
    #[cfg(feature = "server")]
    pub(crate) fn lines_damaged(&self) -> u64 {
        self.log.counts.dropped_corrupt.load(Relaxed)
    }

    /// Lines that damage has cost since this was asked last. What an earlier process has found is not found again.
    pub(crate) fn take_lines_damaged(&self) -> u64 {
        let all = self.log.counts.dropped_corrupt.load(Relaxed);
        all.saturating_sub(self.log.counts.corrupt_journaled.swap(all, Relaxed))
    }

    /// Whether its disk refuses what there is room for: it did when it was last asked to write, and that was within so long a time.
    #[cfg(feature = "server")]
    pub(crate) fn has_failed_within(&self, time: std::time::Duration) -> bool {
        self.log.counts.failed.lock().is_some_and(|failed| failed.elapsed() < time)
    }

    /// How long syncs took.
    #[must_use]
    pub(crate) fn fsync_seconds(&self) -> &Arc<Histogram> {
        &self.log.counts.fsync
    }

    /// Writes what waits, seals the last segment, stores the tables and ends the threads. What comes later is refused.
    pub fn shut(&self) {
        self.threads.shut();
    }
}

impl Log {
    fn store_tables(&self) -> io::Result<()> {
        let stored = [&self.cursors, &self.damage].map(|table| table.lock().store(&*self.fs));
        stored.into_iter().chain([self.store_queues()]).collect()
    }

    /// Together, who is finished first: no queue that is on the disk may find there that its machine had ended before.
    fn store_queues(&self) -> io::Result<()> {
        let (mut finished, mut positions) = (self.finished.lock(), self.positions.lock());
        finished.store(&*self.fs)?;
        positions.store(&*self.fs)
    }

    fn counted(&self) -> Counted {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let counts = &self.counts;
        let bytes = self.bytes();
        // What the volume has room for may be less than it is to take.
        let room = self.fs.free().map(|free| bytes.saturating_add(free));
        let counted = Counted {
            lines_released: count(&counts.released),
            lines_dropped_expired: count(&counts.dropped_expired),
            lines_dropped_full: count(&counts.dropped_full),
            lines_dropped_corrupt: count(&counts.dropped_corrupt),
            corrupt_records: count(&counts.corrupt_records),
            lines_in: count(&counts.lines_in),
            bytes,
            unsent_bytes: self.unsent_bytes(),
            budget_bytes: room.map_or(self.bounds.bytes_max, |room| self.bounds.bytes_max.min(room)),
            segments: self.list.read().segments.len() as u64,
            oldest: self.first(Seek::Seq(0)).ok().flatten().map(|place| place.received_at()),
            lines: 0,
        };
        let gone = counted.lines_released
            + counted.lines_dropped_expired
            + counted.lines_dropped_full
            + counted.lines_dropped_corrupt;
        Counted { lines: counted.lines_in.saturating_sub(gone), ..counted }
    }

    /// What is done each second: tables are stored, and what is too old or too much goes.
    fn tidy(&self, now: Timestamp) {
        if let Err(error) = self.store_tables() {
            tracing::warn!(%error, "the spool's tables could not be stored");
        }
        self.seal_old(now);
        self.retain(now, 0);
    }
}
