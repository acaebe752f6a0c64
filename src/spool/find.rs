//! Finding records by sequence, line, time and machine, and reading them.

use std::{
    collections::VecDeque,
    io,
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    KINDS, Lines, Place, ReadError, Record, Seek,
    format::{Base, RECORD, RecordHeader, checksum, machine_hash},
    fs::File,
    index::{Entry, Index, decode_keys},
    log::{Log, Segment, nanoseconds, timestamp},
    scan::is_damage,
};

impl Log {
    /// Looks for a record in `from` and the segments behind it (`forward`) or before it.
    fn search(
        &self,
        from: Option<Arc<Segment>>,
        forward: bool,
        find: impl Fn(&mut dyn Index) -> io::Result<Option<Entry>>,
    ) -> Result<Option<Place>, ReadError> {
        let mut next = from;
        while let Some(segment) = next {
            match self.with_index(&segment, &find) {
                Ok(Some(entry)) => return Ok(Some(segment.place(entry))),
                // Removed while we were looking.
                Ok(None) | Err(ReadError::Gone) => {}
                Err(error) => return Err(error),
            }
            next = if forward { self.segment_after(segment.base) } else { self.segment_before(segment.base) };
        }
        Ok(None)
    }

    /// The first record at `seek` or behind.
    pub(crate) fn first(&self, seek: Seek) -> Result<Option<Place>, ReadError> {
        let at = |before: &dyn Fn(&Entry) -> bool, index: &mut dyn Index| {
            let found = index.partition(before)?;
            (found < index.records()).then(|| index.entry(found)).transpose()
        };
        match seek {
            Seek::Seq(seq) => self.search(self.segment_with(seq), true, |index| at(&|entry| entry.seq < seq, index)),
            Seek::Line(line) => self.search(self.segment_where(|base| base.line <= line), true, |index| {
                at(&|entry| entry.first_line + u64::from(entry.lines) <= line, index)
            }),
            Seek::Time(time) => {
                let time = nanoseconds(time);
                let from = self.first_segment_until(time)?;
                self.search(from, true, |index| at(&|entry| entry.received_at < time, index))
            }
        }
    }

    /// The last record before `seq`.
    pub(crate) fn last_before(&self, seq: u64) -> Result<Option<Place>, ReadError> {
        self.search(self.segment_with(seq), false, |index| {
            let found = index.partition(&|entry| entry.seq < seq)?;
            found.checked_sub(1).map(|last| index.entry(last)).transpose()
        })
    }

    /// The first record at `seq` or behind that has lines of a machine with the same hash.
    pub(crate) fn machine_first(&self, machine: &str, seq: u64) -> Result<Option<Place>, ReadError> {
        self.machine_first_with(machine, seq, |_| true)
    }

    /// As [`Log::machine_first`], with such lines of it as are `wanted`.
    pub(crate) fn machine_first_with(
        &self,
        machine: &str,
        seq: u64,
        wanted: impl Fn(Lines) -> bool,
    ) -> Result<Option<Place>, ReadError> {
        let hash = machine_hash(machine);
        self.search(self.segment_with(seq), true, |index| {
            let at = index.partition(&|entry| entry.seq < seq)?;
            for rank in index.postings_before(hash, at)?..index.postings(hash)? {
                let posting = index.posting(hash, rank)?;
                if wanted(posting.lines) {
                    return index.entry(posting.record.into()).map(Some);
                }
            }
            Ok(None)
        })
    }

    /// The last record before `seq` that has lines of a machine with the same hash.
    pub(crate) fn machine_last_before(&self, machine: &str, seq: u64) -> Result<Option<Place>, ReadError> {
        let hash = machine_hash(machine);
        self.search(self.segment_with(seq), false, |index| {
            let at = index.partition(&|entry| entry.seq < seq)?;
            let Some(rank) = index.postings_before(hash, at)?.checked_sub(1) else { return Ok(None) };
            let posting = index.posting(hash, rank)?;
            index.entry(posting.record.into()).map(Some)
        })
    }

    /// A machine's lines, by kind, in the records whose sequence is in `seqs`.
    pub(crate) fn machine_lines(&self, machine: &str, seqs: &Range<u64>) -> Result<[u64; KINDS], ReadError> {
        let hash = machine_hash(machine);
        let mut sums = [0; KINDS];
        let mut next = self.segment_with(seqs.start);
        while let Some(segment) = next.filter(|segment| segment.base.seq < seqs.end) {
            match self.with_index(&segment, |index| index.machine_lines(hash, seqs)) {
                Ok(lines) => sums.iter_mut().zip(lines).for_each(|(sum, lines)| *sum += lines),
                // Removed while we were looking.
                Err(ReadError::Gone) => {}
                Err(error) => return Err(error),
            }
            next = self.segment_after(segment.base);
        }
        Ok(sums)
    }

    /// Where records are missing of damaged segments: the lines of one segment's records follow each other.
    /// Only those that reach into `seqs`.
    pub(crate) fn gaps_in(&self, seqs: &Range<u64>) -> Vec<Range<u64>> {
        let damaged: Vec<_> = {
            let list = self.list.read();
            let segments = list.segments.iter().enumerate();
            segments
                .filter(|(_, segment)| segment.base.seq < seqs.end && segment.lost.lock().lines > 0)
                .map(|(index, segment)| (Arc::clone(segment), list.end_of(index)))
                .filter(|(_, end)| end.seq > seqs.start)
                .collect()
        };
        let of = |(segment, end): &(Arc<Segment>, Base)| {
            self.with_index(segment, |index| gaps_of(index, segment.base, *end, seqs))
        };
        let gaps = damaged.iter().flat_map(|damaged| of(damaged).unwrap_or_default());
        gaps.filter(|gap| gap.start < seqs.end && gap.end > seqs.start).collect()
    }

    /// The first segment whose last record was not received before `time`: a binary search that reads a few footers.
    fn first_segment_until(&self, time: i64) -> Result<Option<Arc<Segment>>, ReadError> {
        let at = |index: usize| self.list.read().segments.get(index).cloned();
        let (mut from, mut to) = (0, self.list.read().segments.len());
        while from < to {
            let middle = from + (to - from) / 2;
            let Some(segment) = at(middle) else { break };
            if self.newest(&segment)?.is_some_and(|newest| newest < time) {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        Ok(at(from))
    }

    /// When the segment's last record was received, in nanoseconds since 1970; `None` if it has none.
    pub(super) fn newest(&self, segment: &Segment) -> Result<Option<i64>, ReadError> {
        let known = segment.newest.load(Relaxed);
        if known > i64::MIN {
            return Ok(Some(known));
        }
        let newest = self.with_index(segment, |index| {
            let last = index.records().checked_sub(1);
            last.map(|last| Ok(index.entry(last)?.received_at)).transpose()
        })?;
        if segment.live.read().is_none() {
            segment.newest.store(newest.unwrap_or(i64::MIN), Relaxed);
        }
        Ok(newest)
    }

    /// Reads the record at `place`.
    pub(crate) fn read(&self, place: &Place) -> Result<Record, ReadError> {
        let segment = self.segment_with(place.entry.seq).filter(|segment| segment.base == place.segment);
        let segment = segment.ok_or(ReadError::Gone)?;
        let live = segment.live.read().as_ref().map(|live| (Arc::clone(&live.file), Some(live.marker)));
        let (file, marker) = match live {
            Some(live) => live,
            None => {
                let closed = self.closed(&segment)?;
                (Arc::clone(&closed.file), closed.marker)
            }
        };
        match read_record(&*file, &place.entry, marker) {
            Ok(Some(record)) => Ok(record),
            Ok(None) => {
                self.count_damaged_record(place, &*file);
                Err(ReadError::Damaged)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The keys of records received at `since` or later, the newest `max` of them, oldest first.
    pub(crate) fn recent_keys(&self, since: Timestamp, max: usize) -> Result<Vec<(u64, Timestamp, Bytes)>, ReadError> {
        let since = nanoseconds(since);
        let mut recent = VecDeque::new();
        let mut next = self.list.read().segments.back().cloned();
        while let Some(segment) = next {
            if recent.len() >= max || self.newest(&segment)?.is_some_and(|newest| newest < since) {
                break;
            }
            let keys = self.keys(&segment)?;
            let of_segment: Vec<_> = decode_keys(&keys).filter(|(_, at, _)| *at >= since).collect();
            for (seq, at, key) in of_segment.into_iter().rev().take(max - recent.len()) {
                recent.push_front((seq, timestamp(at), Bytes::copy_from_slice(key)));
            }
            next = self.segment_before(segment.base);
        }
        Ok(recent.into())
    }

    fn keys(&self, segment: &Segment) -> Result<Vec<u8>, ReadError> {
        if let Some(live) = &*segment.live.read() {
            return Ok(live.index.keys().to_vec());
        }
        match self.closed(segment)?.keys() {
            Err(error) if is_damage(&error) => Ok(self.rescan(segment)?.keys()?),
            other => Ok(other?),
        }
    }
}

/// Where lines are missing of a segment that holds those from `base` to `end`, as far as that reaches into `seqs`.
fn gaps_of(index: &mut dyn Index, base: Base, end: Base, seqs: &Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let behind = |entry: &Entry| Base { seq: entry.seq + 1, line: entry.first_line + u64::from(entry.lines) };
    let from = index.partition(&|entry| entry.seq < seqs.start)?;
    let before = from.checked_sub(1).map(|last| index.entry(last)).transpose()?;
    let (mut gaps, mut next) = (Vec::new(), before.as_ref().map_or(base, behind));
    for at in from..index.records() {
        let entry = index.entry(at)?;
        if entry.first_line > next.line {
            gaps.push(next.seq..entry.seq);
        }
        if entry.seq >= seqs.end {
            return Ok(gaps);
        }
        next = behind(&entry);
    }
    if end.line > next.line {
        gaps.push(next.seq..end.seq);
    }
    Ok(gaps)
}

/// Reads one record; `None` if it is not what was written.
fn read_record(file: &dyn File, entry: &Entry, marker: Option<u64>) -> io::Result<Option<Record>> {
    let mut bytes = vec![0; RECORD + entry.bytes as usize];
    match file.read_exact_at(&mut bytes, entry.offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let Some(header) = bytes.first_chunk().and_then(RecordHeader::decode) else { return Ok(None) };
    let is_it = Some(header.marker) == marker && header.base.seq == entry.seq;
    if !is_it || header.payload_bytes() != u64::from(entry.bytes) || checksum(&[&bytes[RECORD..]]) != header.payload_crc
    {
        return Ok(None);
    }
    let bytes = Bytes::from(bytes);
    let body = RECORD + header.meta_bytes as usize;
    let key = RECORD + header.key_bytes as usize;
    Ok(Some(Record {
        seq: header.base.seq,
        first_line: header.base.line,
        lines: header.lines.into(),
        received_at: timestamp(header.received_at),
        key: (header.key_bytes > 0).then(|| bytes.slice(RECORD..key)),
        machines: bytes.slice(key..body),
        body: bytes.slice(body..),
    }))
}
