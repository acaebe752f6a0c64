//! The segments as one log: which there are, their indexes, and what of them is lost.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};

use super::{
    Bounds, Counts, Observer, Place, ReadError,
    format::{Base, FOOTER, Footer, RECORD, u64_at},
    fs::{Access, File, Fs},
    index::{Entry, Index, MemIndex, SealedIndex},
    quarantine::Quarantine,
    retain::Unlinking,
    scan::{ScanError, Scanned, is_damage, scan},
    table::Table,
    write::Writer,
};

/// How many closed segments are kept open for readers.
const CACHE: usize = 8;

/// Everything of a spool but its threads.
#[derive(Debug)]
pub(crate) struct Log {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) bounds: Bounds,
    pub(super) id: u64,
    pub(super) list: RwLock<List>,
    pub(super) writer: Mutex<Writer>,
    pub(super) cursors: Mutex<Table>,
    /// Names of cursors that hold nothing back: their sinks are not configured now.
    pub(super) parked: Mutex<BTreeSet<Box<[u8]>>>,
    pub(super) positions: Mutex<Table>,
    /// Machines whose logs have ended, or are to.
    pub(super) finished: Mutex<Table>,
    /// What is known to be lost of which segment; see [`Lost`].
    pub(super) damage: Mutex<Table>,
    pub(super) counts: Counts,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) quarantine: Mutex<Quarantine>,
    /// Held while segments are removed.
    pub(super) removing: Mutex<Unlinking>,
    pub(super) cache: Mutex<VecDeque<Arc<Closed>>>,
}

/// The segments, oldest first.
#[derive(Debug, Default)]
pub(crate) struct List {
    pub(super) segments: VecDeque<Arc<Segment>>,
    /// What comes after the last record that readers may see.
    pub(super) end: Base,
}

impl List {
    /// What comes first.
    pub(super) fn first(&self) -> Base {
        self.segments.front().map_or(self.end, |segment| segment.base)
    }

    /// What comes after the segment that stands at `index`.
    pub(super) fn end_of(&self, index: usize) -> Base {
        self.segments.get(index + 1).map_or(self.end, |next| next.base)
    }

    fn position(&self, segment: &Segment) -> Option<usize> {
        let index = self.segments.partition_point(|other| other.base < segment.base);
        self.segments.get(index).is_some_and(|found| found.base == segment.base).then_some(index)
    }
}

/// One segment, of which little is in memory but while it is written.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(super) base: Base,
    /// On the disk.
    pub(super) bytes: AtomicU64,
    /// Nanoseconds since 1970: when the last record was received; `i64::MIN` if that has to be looked up.
    pub(super) newest: AtomicI64,
    /// While it is written.
    pub(super) live: RwLock<Option<Live>>,
    pub(super) lost: Mutex<Lost>,
}

/// The segment that is written, as far as it is synced.
#[derive(Debug)]
pub(crate) struct Live {
    pub(super) file: Arc<dyn File>,
    pub(super) marker: u64,
    pub(super) index: MemIndex,
    /// Behind the last record.
    pub(super) end: u64,
}

/// What was found damaged in a segment, now or before: nothing is counted twice.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    pub(super) lines: u64,
    /// Where.
    offsets: BTreeSet<u64>,
}

impl Lost {
    /// The most places that are remembered of one segment.
    const OFFSETS_MAX: usize = 4000;

    /// What the table says of a segment.
    pub(super) fn of(base: Base, table: &Table) -> Option<Self> {
        let mut numbers = table.value(base.segment_name().as_bytes())?.chunks_exact(8).map(|bytes| u64_at(bytes, 0));
        Some(Self { lines: numbers.next()?, offsets: numbers.collect() })
    }

    fn note(&self, base: Base, table: &mut Table) {
        let numbers = std::iter::once(&self.lines).chain(self.offsets.iter().take(Self::OFFSETS_MAX));
        table.set(base.segment_name().as_bytes(), &numbers.flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>());
    }
}

/// A segment that is not written any more, opened for readers.
#[derive(Debug)]
pub(crate) struct Closed {
    base: Base,
    pub(super) file: Arc<dyn File>,
    pub(super) marker: Option<u64>,
    index: Mutex<ClosedIndex>,
}

#[derive(Debug)]
enum ClosedIndex {
    Sealed(Box<SealedIndex>),
    Scanned(MemIndex),
}

impl Closed {
    fn index<T>(&self, read: impl FnOnce(&mut dyn Index) -> io::Result<T>) -> io::Result<T> {
        match &mut *self.index.lock() {
            ClosedIndex::Sealed(index) => read(&mut **index),
            ClosedIndex::Scanned(index) => read(&mut &*index),
        }
    }

    pub(super) fn is(&self, base: Base) -> bool {
        self.base == base
    }

    pub(super) fn keys(&self) -> io::Result<Vec<u8>> {
        match &*self.index.lock() {
            ClosedIndex::Sealed(index) => index.keys(),
            ClosedIndex::Scanned(index) => Ok(index.keys().to_vec()),
        }
    }
}

/// The footer of a sealed segment; `None` if it is not sealed, or not whole.
pub(super) fn read_footer(file: &dyn File, base: Base) -> io::Result<Option<Footer>> {
    let Some(at) = file.len()?.checked_sub(FOOTER as u64) else { return Ok(None) };
    let mut bytes = [0; FOOTER];
    match file.read_exact_at(&mut bytes, at) {
        Err(error) if is_damage(&error) => return Ok(None),
        read => read?,
    }
    Ok(Footer::decode(&bytes).filter(|footer| footer.base == base))
}

impl Segment {
    pub(super) fn new(base: Base, bytes: u64, live: Option<Live>) -> Arc<Self> {
        Arc::new(Self {
            base,
            bytes: bytes.into(),
            newest: i64::MIN.into(),
            live: RwLock::new(live),
            lost: Mutex::default(),
        })
    }

    pub(super) fn place(&self, entry: Entry) -> Place {
        Place { segment: self.base, entry }
    }
}

impl Log {
    /// The segment that holds `seq`, or the oldest if that is gone.
    pub(super) fn segment_with(&self, seq: u64) -> Option<Arc<Segment>> {
        self.segment_where(|base| base.seq <= seq)
    }

    /// The last segment whose base fulfils `is_before`, or the oldest if none does.
    pub(super) fn segment_where(&self, is_before: impl Fn(Base) -> bool) -> Option<Arc<Segment>> {
        let list = self.list.read();
        let index = list.segments.partition_point(|segment| is_before(segment.base));
        list.segments.get(index.saturating_sub(1)).cloned()
    }

    pub(super) fn segment_after(&self, base: Base) -> Option<Arc<Segment>> {
        let list = self.list.read();
        let index = list.segments.partition_point(|segment| segment.base <= base);
        list.segments.get(index).cloned()
    }

    pub(super) fn segment_before(&self, base: Base) -> Option<Arc<Segment>> {
        let list = self.list.read();
        let index = list.segments.partition_point(|segment| segment.base < base);
        list.segments.get(index.checked_sub(1)?).cloned()
    }

    /// Asks a segment's index, wherever that is; where it is damaged, one made anew from the records.
    pub(super) fn with_index<T>(
        &self,
        segment: &Segment,
        read: impl Fn(&mut dyn Index) -> io::Result<T>,
    ) -> Result<T, ReadError> {
        if let Some(live) = &*segment.live.read() {
            return Ok(read(&mut &live.index)?);
        }
        match self.closed(segment)?.index(&read) {
            Err(error) if is_damage(&error) => Ok(self.rescan(segment)?.index(&read)?),
            other => Ok(other?),
        }
    }

    pub(super) fn closed(&self, segment: &Segment) -> Result<Arc<Closed>, ReadError> {
        if let Some(found) = self.cached(segment.base) {
            return Ok(found);
        }
        let file = self.fs.open(&segment.base.segment_name(), Access::Read)?;
        let Some(footer) = read_footer(&*file, segment.base)? else { return self.rescan(segment) };
        let index = SealedIndex::new(Arc::clone(&file), footer);
        let index = Mutex::new(ClosedIndex::Sealed(Box::new(index)));
        Ok(self.remember(Closed { base: segment.base, file, marker: Some(footer.marker), index }))
    }

    fn cached(&self, base: Base) -> Option<Arc<Closed>> {
        let mut cache = self.cache.lock();
        let index = cache.iter().position(|closed| closed.base == base)?;
        let found = cache.remove(index)?;
        cache.push_front(Arc::clone(&found));
        Some(found)
    }

    fn remember(&self, closed: Closed) -> Arc<Closed> {
        let closed = Arc::new(closed);
        let mut cache = self.cache.lock();
        cache.retain(|other| other.base != closed.base);
        cache.truncate(CACHE - 1);
        cache.push_front(Arc::clone(&closed));
        closed
    }

    /// Makes the index of a segment that was not sealed, or whose index is damaged, from its records.
    pub(super) fn rescan(&self, segment: &Segment) -> Result<Arc<Closed>, ReadError> {
        let until = {
            let list = self.list.read();
            let index = list.position(segment).ok_or(ReadError::Gone)?;
            list.end_of(index)
        };
        let file = self.fs.open(&segment.base.segment_name(), Access::Read)?;
        let scanned = scan(&*file, segment.base, until.seq).map_err(|error| match error {
            ScanError::Io(error) => ReadError::Io(error),
            ScanError::UnknownVersion(_) => ReadError::Io(io::Error::new(io::ErrorKind::Unsupported, error)),
        })?;
        self.count_damage(segment, &*file, &scanned, until.line);
        let (marker, index) = (scanned.marker, Mutex::new(ClosedIndex::Scanned(scanned.index)));
        Ok(self.remember(Closed { base: segment.base, file, marker, index }))
    }

    /// Counts what a scan did not find of a segment whose lines end at `end`, and puts it in quarantine.
    pub(super) fn count_damage(&self, segment: &Segment, file: &dyn File, scanned: &Scanned, end: u64) {
        let mut lost = segment.lost.lock();
        for damage in &scanned.damage {
            if lost.offsets.insert(damage.start) {
                self.counts.corrupt_records.fetch_add(1, Relaxed);
                self.quarantine.lock().keep(&*self.fs, file, segment.base, damage.clone());
            }
        }
        let lines = (end - segment.base.line).saturating_sub(scanned.index.lines());
        let new = lines.saturating_sub(lost.lines);
        lost.lines += new;
        self.counts.dropped_corrupt.fetch_add(new, Relaxed);
        if new > 0 || !scanned.damage.is_empty() {
            lost.note(segment.base, &mut self.damage.lock());
        }
    }

    /// Counts a record that is not what was written, once.
    pub(super) fn count_damaged_record(&self, place: &Place, file: &dyn File) {
        let Some(segment) = self.segment_with(place.entry.seq).filter(|segment| segment.base == place.segment) else {
            return;
        };
        let mut lost = segment.lost.lock();
        if lost.offsets.insert(place.entry.offset) {
            let end = place.entry.offset + RECORD as u64 + u64::from(place.entry.bytes);
            lost.lines += u64::from(place.entry.lines);
            self.counts.corrupt_records.fetch_add(1, Relaxed);
            self.counts.dropped_corrupt.fetch_add(place.entry.lines.into(), Relaxed);
            lost.note(segment.base, &mut self.damage.lock());
            self.quarantine.lock().keep(&*self.fs, file, segment.base, place.entry.offset..end);
        }
    }
}

/// Nanoseconds since 1970, as far as 64 bits go: the years 1677 to 2262.
pub(super) fn nanoseconds(time: Timestamp) -> i64 {
    let bounds = (i64::MIN + 1).into()..=i64::MAX.into();
    time.as_nanosecond().clamp(*bounds.start(), *bounds.end()) as i64
}

pub(super) fn timestamp(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(nanoseconds.into()).expect("64 bits of nanoseconds are within the range of time stamps")
}
