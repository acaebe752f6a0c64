//! The one writer: a group of records is written, synced once, and only then seen and acknowledged.
//!
//! What can go wrong, and what is then known of the group:
//!
//! - a write fails, for want of space or otherwise: it is cut back, and the cut synced. Nothing was taken.
//! - the sync fails, or that of the cut: nobody knows what is on the disk, and syncing once more would not tell (the kernel
//!   reports a lost page once, then calls it clean). The segment is given up where its last synced record ends, and the next
//!   one begins with the number of the first that failed, so that what may be behind is void from then on. A crash before
//!   that leaves it to be found: `unknown`.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    AppendError, Appended, Lines,
    format::{Base, Footer, HEADER, RECORD, RecordHeader, SegmentHeader, unguessable},
    fs::File,
    index::MemIndex,
    log::{Live, Log, Segment, nanoseconds, timestamp},
};

/// A segment's index is at most about so many bytes on the disk, and twice that in memory; a single record's may be more.
const INDEX_BYTES_MAX: usize = 4 << 20;

/// How often a group is tried again after old segments made room for it.
const RETRIES_MAX: usize = 8;

/// The disk is full though more went than a group needs: somebody else takes the room, or the disk lies. For so long no more old
/// records go for nothing.
const FUTILE: Duration = Duration::from_secs(10);

/// A segment is not written for longer than this part of `spool.keep`, or its oldest record would stay too long.
const AGE_SHARE: i64 = 8;

/// What becomes of a record.
pub(crate) type Fate = Result<Appended, AppendError>;

type Then = Box<dyn FnOnce(Fate) + Send>;

/// What happens when a record's fate is known. Dropped before, it tells that nothing is known.
#[derive(Default)]
pub(crate) struct Completion(Option<Then>);

impl Completion {
    pub(crate) fn new(then: impl FnOnce(Fate) + Send + 'static) -> Self {
        Self(Some(Box::new(then)))
    }

    /// Tells that nothing was taken.
    pub(super) fn refuse(self, error: io::Error) {
        self.call(Err(AppendError::refused(error)));
    }

    fn call(mut self, fate: Fate) {
        if let Some(then) = self.0.take() {
            then(fate);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then(Err(super::threads::gone()));
        }
    }
}

/// A record as it is handed to the writer, who gives it its numbers.
pub(crate) struct Handed {
    /// Key, then machines.
    pub(crate) meta: Vec<u8>,
    pub(crate) key_bytes: u32,
    pub(crate) body: Bytes,
    pub(crate) payload_crc: u32,
    pub(crate) lines: u32,
    /// Hashes and lines.
    pub(crate) machines: Vec<(u64, Lines)>,
    pub(crate) received_at: i64,
    pub(crate) done: Completion,
}

impl Handed {
    fn bytes(&self) -> u64 {
        (RECORD + self.meta.len() + self.body.len()) as u64
    }
}

/// A group of records, and what became of it.
pub(super) type Committed = (Vec<Handed>, Result<Vec<RecordHeader>, AppendError>);

/// Tells each record of a group its fate.
pub(super) fn tell((group, result): Committed) {
    match result {
        Ok(headers) => {
            for (record, header) in group.into_iter().zip(headers) {
                record.done.call(Ok(appended(&header)));
            }
        }
        Err(error) => group.into_iter().for_each(|record| record.done.call(Err(error.clone()))),
    }
}

/// What only the writer knows.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    active: Option<Active>,
    /// The numbers of the next record.
    next: Base,
    /// No record is received earlier than the one before: nanoseconds since 1970.
    newest: i64,
    /// Until when it is of no use to make room.
    futile_until: Option<Instant>,
}

impl Writer {
    pub(super) fn new(next: Base, newest: i64) -> Self {
        Self { active: None, next, newest, futile_until: None }
    }
}

/// The room that was made for a group.
struct Room {
    retries: usize,
    freed: u64,
    needed: u64,
}

/// The segment that is written.
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    file: Arc<dyn File>,
    marker: u64,
    /// Behind the last synced record.
    end: u64,
    /// When the first record was received.
    oldest: Option<i64>,
    /// Bytes of the index so far.
    index_bytes: usize,
}

impl Active {
    fn is_empty(&self) -> bool {
        self.oldest.is_none()
    }
}

impl Log {
    /// Writes and syncs the records, in their order and in as few groups as segments allow, and hands on what became of each
    /// group: in the log's order, with no lock held.
    pub(super) fn commit(&self, mut records: VecDeque<Handed>, mut known: impl FnMut(Committed)) {
        while !records.is_empty() {
            let committed = self.commit_group(&mut records);
            *self.counts.failed.lock() = committed.1.is_err().then(Instant::now);
            known(committed);
        }
    }

    /// Takes as many records as fit into one segment, and makes them durable.
    fn commit_group(&self, records: &mut VecDeque<Handed>) -> Committed {
        let mut writer = self.writer.lock();
        let mut room = Room { retries: 0, freed: 0, needed: records.iter().map(Handed::bytes).sum() };
        loop {
            let fits = match self.fitting(&mut writer, records) {
                Ok(fits) => fits,
                Err(error) if is_no_space(&error) && self.makes_room(&mut writer, &mut room) => continue,
                // Nothing of these was written.
                Err(error) => return (records.drain(..).collect(), Err(AppendError::refused(error))),
            };
            let group = || records.iter().take(fits);
            match self.write_group(&mut writer, group()) {
                Ok(headers) => {
                    writer.futile_until = None;
                    return (records.drain(..fits).collect(), Ok(headers));
                }
                Err(AppendError::Refused { source })
                    if is_no_space(&source) && self.makes_room(&mut writer, &mut room) => {}
                Err(error) => return (records.drain(..fits).collect(), Err(error)),
            }
        }
    }

    /// Whether an old segment went so that a group can be tried again.
    fn makes_room(&self, writer: &mut Writer, room: &mut Room) -> bool {
        if writer.futile_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        if room.retries == RETRIES_MAX || room.freed > room.needed {
            writer.futile_until = Some(Instant::now() + FUTILE);
            return false;
        }
        room.retries += 1;
        let freed = self.make_room();
        room.freed += freed.unwrap_or(0);
        freed.is_some()
    }

    /// How many of the records go into the segment that is written, which is a new one if not even the first does.
    fn fitting(&self, writer: &mut Writer, records: &VecDeque<Handed>) -> io::Result<usize> {
        let first = records.front().map_or(0, Handed::bytes);
        let received_at = records.front().map_or(0, |record| record.received_at);
        if writer.active.as_ref().is_some_and(|active| self.is_full(active, first, received_at)) {
            self.seal(writer);
        }
        let active = match &writer.active {
            Some(active) => active,
            None => writer.active.insert(self.create_segment(writer.next, timestamp(received_at))?),
        };
        let mut end = active.end;
        let fits = records.iter().take_while(|record| {
            end += record.bytes();
            end <= self.bounds.segment_bytes
        });
        Ok(fits.count().max(1))
    }

    fn is_full(&self, active: &Active, bytes: u64, received_at: i64) -> bool {
        let age_max = nanoseconds_of(self.bounds.keep) / AGE_SHARE;
        let Some(oldest) = active.oldest else { return false };
        active.end + bytes > self.bounds.segment_bytes
            || active.index_bytes >= INDEX_BYTES_MAX
            || received_at.saturating_sub(oldest) > age_max
    }

    /// Makes the segment whose first record will be `base`. On an error there is none.
    fn create_segment(&self, base: Base, now: Timestamp) -> io::Result<Active> {
        self.retain(now, self.bounds.segment_bytes);
        let name = base.segment_name();
        let marker = unguessable() | 1 << 63;
        let file = self.fs.create_anew(&name)?;
        // Room taken beforehand spares each sync a change of the file's length: a lone appender of 340 KB gets 640 MiB/s with
        // it, 491 without (`cargo bench --bench spool`, ext4). Where there is not enough of it, or the file system cannot, the
        // file grows.
        if file.allocate(self.bounds.segment_bytes).is_err() {
            let _ = file.set_len(0);
        }
        let header = SegmentHeader { spool: self.id, base, marker }.encode();
        let made = file.write_all_at(&mut [IoSlice::new(&header)], 0).and_then(|()| self.fs.sync_dir());
        if let Err(error) = made {
            let _ = self.fs.unlink(&name);
            return Err(error);
        }
        let bytes = file.len().unwrap_or(self.bounds.segment_bytes);
        let live = Live { file: Arc::clone(&file), marker, index: MemIndex::default(), end: HEADER as u64 };
        let segment = Segment::new(base, bytes, Some(live));
        self.list.write().segments.push_back(Arc::clone(&segment));
        Ok(Active { segment, file, marker, end: HEADER as u64, oldest: None, index_bytes: 0 })
    }

    fn write_group<'a>(
        &self,
        writer: &mut Writer,
        group: impl Iterator<Item = &'a Handed> + Clone,
    ) -> Result<Vec<RecordHeader>, AppendError> {
        let Some(active) = &writer.active else { return Ok(Vec::new()) };
        let headers = number(group.clone(), active, writer.next, writer.newest);
        let encoded: Vec<_> = headers.iter().map(RecordHeader::encode).collect();
        let mut pieces: Vec<_> = encoded
            .iter()
            .zip(group.clone())
            .flat_map(|(header, record)| [&header[..], &record.meta, &record.body].map(IoSlice::new))
            .collect();
        if let Err(error) = active.file.write_all_at(&mut pieces, active.end) {
            return Err(self.take_back(writer, error));
        }
        let started = Instant::now();
        let synced = active.file.sync();
        self.counts.fsync.record(started.elapsed());
        if let Err(error) = synced {
            tracing::error!(%error, segment = active.segment.base.seq, "a sync of the spool failed: a new segment begins");
            self.give_up(writer);
            return Err(AppendError::unknown(error));
        }
        self.publish(writer, &headers, group);
        Ok(headers)
    }

    /// The records are durable: from here on readers see them.
    fn publish<'a>(&self, writer: &mut Writer, headers: &[RecordHeader], group: impl Iterator<Item = &'a Handed>) {
        let (Some(active), Some(last)) = (&mut writer.active, headers.last()) else { return };
        if let Some(live) = &mut *active.segment.live.write() {
            for (header, record) in headers.iter().zip(group) {
                live.index.push(header, active.end, &record.meta[..record.key_bytes as usize], &record.machines);
                active.end += header.bytes();
            }
            live.end = active.end;
            active.index_bytes = live.index.bytes();
        }
        active.oldest.get_or_insert(headers[0].received_at);
        active.segment.bytes.fetch_max(active.end, Relaxed);
        let next = Base { seq: last.base.seq + 1, line: last.base.line + u64::from(last.lines) };
        self.counts.lines_in.fetch_add(next.line - writer.next.line, Relaxed);
        writer.next = next;
        writer.newest = last.received_at;
        // Without the segment's lock: others take the two the other way round.
        self.list.write().end = next;
    }

    /// Cuts off what a failed write left, durably: only then is it true that nothing was taken.
    fn take_back(&self, writer: &mut Writer, error: io::Error) -> AppendError {
        let Some(active) = &writer.active else { return AppendError::refused(error) };
        let cut = active.file.set_len(active.end).and_then(|()| active.file.sync());
        match cut {
            Ok(()) => {
                active.segment.bytes.store(active.end, Relaxed);
                AppendError::refused(error)
            }
            Err(cut) => {
                tracing::error!(%error, %cut, "a write to the spool failed and could not be taken back");
                self.give_up(writer);
                AppendError::unknown(error)
            }
        }
    }

    /// Never writes to the segment again. What is behind its last synced record is void once the next segment stands.
    fn give_up(&self, writer: &mut Writer) {
        let Some(active) = writer.active.take() else { return };
        let _ = active.file.set_len(active.end);
        self.close(&active, active.end);
        if active.is_empty() {
            self.list.write().segments.retain(|segment| segment.base != active.segment.base);
            let _ = self.fs.unlink(&active.segment.base.segment_name());
        }
    }

    /// Ends the segment that is written with its index, and so that it is read without a scan.
    fn seal(&self, writer: &mut Writer) {
        let Some(active) = writer.active.take_if(|active| !active.is_empty()) else { return };
        let bytes = match self.write_footer(&active) {
            Ok(bytes) => bytes,
            Err(error) => {
                // Its records are as safe as before; whoever looks for one scans it.
                tracing::warn!(%error, segment = active.segment.base.seq, "a segment of the spool has no index");
                let _ = active.file.set_len(active.end);
                active.end
            }
        };
        self.close(&active, bytes);
    }

    fn write_footer(&self, active: &Active) -> io::Result<u64> {
        let Some(sealed) = active.segment.live.read().as_ref().map(|live| {
            let (base, next_seq) = (active.segment.base, live.index.last().map_or(0, |last| last.seq + 1));
            live.index.seal(Footer { base, marker: active.marker, end: live.end, next_seq, ..Footer::default() })
        }) else {
            return Ok(active.end);
        };
        write_sealed(&*active.file, active.end, &sealed)
    }

    /// Readers find the segment's index on the disk from now on.
    fn close(&self, active: &Active, bytes: u64) {
        let live = active.segment.live.write().take();
        let newest = live.as_ref().and_then(|live| live.index.last()).map_or(i64::MIN, |entry| entry.received_at);
        active.segment.newest.store(newest, Relaxed);
        active.segment.bytes.store(bytes, Relaxed);
    }

    /// Seals what is written: the spool is shut, or has had no record for long.
    pub(super) fn seal_active(&self) {
        self.seal(&mut self.writer.lock());
    }

    /// Ends a segment whose records would otherwise stay too long because nothing follows them, and begins the next, so
    /// that the numbers go on when it is gone.
    pub(super) fn seal_old(&self, now: Timestamp) {
        let mut writer = self.writer.lock();
        if writer.active.as_ref().is_some_and(|active| self.is_full(active, 0, nanoseconds(now))) {
            self.seal(&mut writer);
            if let Ok(active) = self.create_segment(writer.next, now) {
                writer.active = Some(active);
            }
        }
    }
}

/// Writes an index and footer behind a segment's last record, and makes the segment end there. How long it then is.
pub(super) fn write_sealed(file: &dyn File, end: u64, sealed: &[u8]) -> io::Result<u64> {
    file.write_all_at(&mut [IoSlice::new(sealed)], end)?;
    file.set_len(end + sealed.len() as u64)?;
    file.sync()?;
    Ok(end + sealed.len() as u64)
}

/// The headers of a group's records, the first of which is `next`.
fn number<'a>(
    group: impl Iterator<Item = &'a Handed>,
    active: &Active,
    mut next: Base,
    mut newest: i64,
) -> Vec<RecordHeader> {
    // The segment's own header is synced with the first record.
    let synced = if active.is_empty() { 0 } else { active.end };
    let headers = group.map(|record| {
        newest = newest.max(record.received_at);
        let header = RecordHeader {
            marker: active.marker,
            payload_crc: record.payload_crc,
            meta_bytes: record.meta.len() as u32,
            body_bytes: record.body.len() as u32,
            key_bytes: record.key_bytes,
            base: next,
            lines: record.lines,
            received_at: newest,
            synced,
        };
        next = Base { seq: next.seq + 1, line: next.line + u64::from(record.lines) };
        header
    });
    headers.collect()
}

fn appended(header: &RecordHeader) -> Appended {
    Appended { seq: header.base.seq, first_line: header.base.line, received_at: timestamp(header.received_at) }
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) fn nanoseconds_of(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
