//! Opening a spool: the lock, the version, and the end of the log after whatever kind of stop.
//!
//! Only the last segment can be unsealed (or one whose sync failed, which is scanned when somebody reads it), so the start
//! takes as long as scanning one segment, whatever the backlog.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use parking_lot::Mutex;

use super::{
    Bounds, Counts, Observer, OpenError,
    format::{
        Base, CURSORS_FILE, DAMAGE_FILE, FINISHED_FILE, FORMAT_FILE, Footer, POSITIONS_FILE, RECORD, UNFINISHED,
        UnknownVersion, format_text, read_format, unguessable,
    },
    fs::{Access, File, Fs},
    index::Entry,
    log::{List, Log, Lost, Segment, nanoseconds, read_footer},
    quarantine::Quarantine,
    retain::cursor,
    scan::{ScanError, Scanned, is_damage, read_header, scan},
    table::Table,
    write::{Writer, write_sealed},
};

/// Bytes written at once where a segment is written over itself.
const REWRITE: usize = 1 << 20;

impl Log {
    /// Opens the spool in a directory, or begins one.
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        bounds: Bounds,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self, OpenError> {
        // Before the lock too: a spool of another version is not even locked.
        read_id(&*fs)?;
        fs.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked,
            _ => OpenError::Io(error),
        })?;
        let id = read_id(&*fs)?;
        let files = fs.list()?;
        let bases = bases(&files);
        let header_id = header_id(&*fs, &bases)?;
        let id = match id {
            Some(id) => id,
            None => write_format(&*fs, header_id.unwrap_or_else(unguessable))?,
        };
        let damage = Table::open(&*fs, DAMAGE_FILE)?;
        let segments: VecDeque<_> = bases.iter().map(|&(base, bytes)| Segment::new(base, bytes, None)).collect();
        for (segment, lost) in segments.iter().filter_map(|segment| Some((segment, Lost::of(segment.base, &damage)?))) {
            *segment.lost.lock() = lost;
        }
        // Until the end is found, every record of the last segment is before it.
        let end = segments.back().map_or(Base { seq: 1, line: 0 }, |last| Base { seq: u64::MAX, ..last.base });
        let log = Self {
            bounds,
            id,
            list: List { segments, end }.into(),
            writer: Writer::default().into(),
            cursors: Table::open(&*fs, CURSORS_FILE)?.into(),
            parked: Mutex::default(),
            damage: damage.into(),
            positions: Table::open(&*fs, POSITIONS_FILE)?.into(),
            finished: Table::open(&*fs, FINISHED_FILE)?.into(),
            counts: Counts::default(),
            observer,
            quarantine: Quarantine::of(&files).into(),
            removing: Mutex::default(),
            cache: VecDeque::new().into(),
            fs,
        };
        log.recover_end()?;
        Ok(log)
    }

    /// Finds where the log ends and makes the last segment fit to be read, so that a new one may begin.
    fn recover_end(&self) -> Result<(), OpenError> {
        let last = self.list.read().segments.back().cloned();
        let (next, newest) = match last {
            Some(last) => self.recover(&last)?,
            None => (self.list.read().end, i64::MIN),
        };
        // Segments may have been taken away by hand: a cursor must not wait behind what is still to come.
        let passed = self.cursors.lock().rows().map(|(_, value)| cursor(value)).max();
        let next = Base { seq: next.seq.max(passed.unwrap_or(0)), ..next };
        // An index made while the end was not known has not counted what is missing before it.
        self.cache.lock().clear();
        let mut list = self.list.write();
        list.end = next;
        // What was found lost before this start has not come in to it. What this start finds has, and is dropped.
        let lost: u64 = list.segments.iter().map(|segment| segment.lost.lock().lines).sum();
        let dropped = self.counts.dropped_corrupt.load(Relaxed);
        self.counts.lines_in.store((next.line - list.first().line + dropped).saturating_sub(lost), Relaxed);
        drop(list);
        // The last segment may have no records: then an earlier one says when the last was received.
        let last = || self.last_before(u64::MAX).ok().flatten().map(|place| nanoseconds(place.received_at()));
        let newest = if newest == i64::MIN { last().unwrap_or(newest) } else { newest };
        *self.writer.lock() = Writer::new(next, newest);
        Ok(())
    }

    /// What comes after the last segment, and when its last record was received.
    fn recover(&self, last: &Arc<Segment>) -> Result<(Base, i64), OpenError> {
        let name = last.base.segment_name();
        let file = self.fs.open(&name, Access::Write)?;
        if let Some(footer) = read_footer(&*file, last.base)?
            && let Ok(entry) = self.last_entry(last)
        {
            let line = entry.map_or(last.base.line, |entry| entry.first_line + u64::from(entry.lines));
            return Ok((Base { seq: footer.next_seq, line }, footer.newest));
        }
        let scanned = scan(&*file, last.base, u64::MAX).map_err(OpenError::from)?;
        let found = scanned.index.last().map(|entry| (entry.seq + 1, entry.first_line + u64::from(entry.lines)));
        let (seq, line) = found.unwrap_or((last.base.seq, last.base.line));
        self.count_damage(last, &*file, &scanned, line);
        // Before the segment is sealed: nobody counts what is missing from one that is.
        if let Err(error) = self.damage.lock().store(&*self.fs) {
            tracing::warn!(%error, "what is lost of the spool could not be noted");
        }
        // A cursor may have passed records that are lost with the tail: their numbers are not given again.
        let next = Base { seq: seq + scanned.tail.div_ceil(RECORD as u64), line };
        let newest = scanned.index.last().map_or(i64::MIN, |entry| entry.received_at);
        if scanned.unreadable {
            // What the disk may give another time is not touched.
            tracing::warn!(segment = last.base.seq, "parts of the spool's last segment cannot be read");
            return Ok((Base { seq: next.seq + 1, ..next }, newest));
        }
        if next == last.base {
            // Nothing was ever written to it: the next segment takes its name.
            self.list.write().segments.pop_back();
            return Ok((next, newest));
        }
        let marker = scanned.marker.unwrap_or_else(unguessable);
        let footer = Footer { base: last.base, marker, end: scanned.end, next_seq: next.seq, ..Footer::default() };
        self.cut_and_seal(last, &*file, &scanned, &scanned.index.seal(footer));
        Ok((next, newest))
    }

    fn last_entry(&self, last: &Segment) -> Result<Option<Entry>, super::ReadError> {
        self.with_index(last, |index| index.records().checked_sub(1).map(|at| index.entry(at)).transpose())
    }

    /// Cuts a torn tail and ends the segment with its index. The last records may never have been synced: this does it, and
    /// writes them once more before: after a sync that failed the page cache has what the disk has not, and calls it clean. If
    /// it cannot be done, the segment is scanned by whoever reads it.
    fn cut_and_seal(&self, last: &Segment, file: &dyn File, scanned: &Scanned, sealed: &[u8]) {
        let end = scanned.end;
        let rewritten = file.set_len(end).and_then(|()| rewrite(file, scanned.synced..end));
        match rewritten.and_then(|()| write_sealed(file, end, sealed)) {
            Ok(bytes) => last.bytes.store(bytes, Relaxed),
            Err(error) => tracing::warn!(%error, segment = last.base.seq, "the spool's last segment cannot be sealed"),
        }
    }
}

/// Writes a part of a file over itself.
fn rewrite(file: &dyn File, part: Range<u64>) -> io::Result<()> {
    let step = |at: u64| part.end.saturating_sub(at).min(REWRITE as u64) as usize;
    let mut piece = vec![0; step(part.start)];
    let mut at = part.start;
    while at < part.end {
        let bytes = step(at);
        file.read_exact_at(&mut piece[..bytes], at)?;
        file.write_all_at(&mut [IoSlice::new(&piece[..bytes])], at)?;
        at += bytes as u64;
    }
    Ok(())
}

/// The segments' bases with their bytes, in order.
pub(super) fn bases(files: &[(String, u64)]) -> Vec<(Base, u64)> {
    let mut bases: Vec<_> = files.iter().filter_map(|(name, bytes)| Some((Base::of_segment(name)?, *bytes))).collect();
    bases.sort_unstable();
    bases
}

/// The spool's id as its format file says; `None` if there is none, or a damaged one.
pub(super) fn read_id(fs: &dyn Fs) -> Result<Option<u64>, OpenError> {
    let file = match fs.open(FORMAT_FILE, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut text = vec![0; file.len()?.min(256) as usize];
    match file.read_exact_at(&mut text, 0) {
        Err(error) if is_damage(&error) => return Ok(None),
        read => read?,
    }
    Ok(read_format(&text)?)
}

/// The spool's id as its newest segment with a whole header says.
fn header_id(fs: &dyn Fs, bases: &[(Base, u64)]) -> Result<Option<u64>, OpenError> {
    // The newest may be torn, the one before is whole unless the disk has a fault.
    for (base, _) in bases.iter().rev().take(2) {
        let file = fs.open(&base.segment_name(), Access::Read)?;
        if let Some(header) = read_header(&*file, *base).map_err(OpenError::from)? {
            return Ok(Some(header.spool));
        }
    }
    Ok(None)
}

fn write_format(fs: &dyn Fs, id: u64) -> Result<u64, OpenError> {
    let unfinished = format!("{FORMAT_FILE}{UNFINISHED}");
    let file = fs.create_anew(&unfinished)?;
    file.write_all_at(&mut [IoSlice::new(format_text(id).as_bytes())], 0)?;
    file.sync()?;
    fs.rename(&unfinished, FORMAT_FILE)?;
    fs.sync_dir()?;
    Ok(id)
}

impl From<UnknownVersion> for OpenError {
    fn from(UnknownVersion(version): UnknownVersion) -> Self {
        Self::UnknownVersion { version }
    }
}

impl From<ScanError> for OpenError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::UnknownVersion(version) => version.into(),
            ScanError::Io(error) => Self::Io(error),
        }
    }
}
