//! What `fleetdrain spool` shows and mends: without a drain, or beside one that runs.
//!
//! [`ls`], [`verify`] and [`dump`] touch nothing and take no lock; beside a running drain they may find the end of the last
//! segment half written. [`repair`] takes the lock.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    ops::Range,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{
    Bounds, Counts, MachineRecords, OpenError, ReadError, Record, Records, Seek,
    format::{Base, CURSORS_FILE, DAMAGE_FILE, FINISHED_FILE, Footer, POSITIONS_FILE, SegmentHeader, unguessable},
    fs::{Access, Disk, File, Fs},
    log::{List, Log, Segment, read_footer, timestamp},
    open::{bases, read_id},
    quarantine::Quarantine,
    scan::{Scanned, read_header, scan},
    table::Table,
    write::{Writer, write_sealed},
};

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// Of the file.
    pub name: String,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Whether it ends with its index.
    pub is_sealed: bool,
    /// How many records can be read.
    pub records: u64,
    /// From the first record's sequence to behind the last's.
    pub seqs: Range<u64>,
    /// From the first record's first line to behind the last's last.
    pub lines: Range<u64>,
    /// When the first and the last record were received.
    pub received: Option<(Timestamp, Timestamp)>,
}

/// What became of a segment that was read in whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// What can be read of it.
    pub segment: SegmentInfo,
    /// Where bytes are that should be records and are not.
    pub damage: Vec<Range<u64>>,
    /// Bytes behind the last record that are neither an index nor zeros: torn off by a crash, or being written.
    pub torn_bytes: u64,
    /// Whether its header is damaged: nothing is lost by it.
    pub is_header_damaged: bool,
    /// Whether it is sealed, and its index is not that of the records that can be read.
    pub is_index_damaged: bool,
    /// Whether the disk refused to give parts of it.
    pub is_unreadable: bool,
}

impl Checked {
    /// Whether there is nothing to mend. A torn end is no damage (nothing in it was acknowledged), nor is what an index
    /// already leaves out.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let records = if self.segment.is_sealed { !self.is_index_damaged } else { self.damage.is_empty() };
        records && !self.is_header_damaged && !self.is_unreadable
    }
}

/// The segments of the spool in `dir`, oldest first. Reads their indexes; scans what has none.
///
/// # Errors
///
/// See [`OpenError`].
pub fn ls(dir: &Path) -> Result<Vec<SegmentInfo>, OpenError> {
    let log = Log::look(Arc::new(Disk::open(dir)?))?;
    let segments: Vec<_> = log.list.read().segments.iter().cloned().collect();
    segments.iter().map(|segment| log.info(segment).map_err(as_open_error)).collect()
}

/// Reads all of the spool in `dir` and compares it with its checksums, oldest segment first.
///
/// # Errors
///
/// See [`OpenError`]. Damage is none of them.
pub fn verify(dir: &Path) -> Result<Vec<Checked>, OpenError> {
    verify_in(Arc::new(Disk::open(dir)?))
}

pub(super) fn verify_in(fs: Arc<dyn Fs>) -> Result<Vec<Checked>, OpenError> {
    Log::look(fs)?.check(|_, _, _, _| Ok(()))
}

/// Ends the spool's log as a start does, and then every segment at its last record, with an index of what can be read. What
/// was damaged is copied into quarantine and stays where it is. What was found, oldest segment first.
///
/// # Errors
///
/// See [`OpenError`]. Damage is none of them.
pub fn repair(dir: &Path) -> Result<Vec<Checked>, OpenError> {
    repair_in(Arc::new(Disk::open(dir)?))
}

pub(super) fn repair_in(fs: Arc<dyn Fs>) -> Result<Vec<Checked>, OpenError> {
    // Beforehand, or what the start mends would not be told.
    let found = verify_in(Arc::clone(&fs))?;
    let log = Log::open(fs, Bounds::default(), None)?;
    log.check(|log, segment, checked, scanned| {
        let needs_none = checked.segment.is_sealed && checked.is_whole();
        if needs_none || scanned.unreadable { Ok(()) } else { log.mend(segment, checked, scanned) }
    })?;
    log.store_tables()?;
    Ok(found)
}

/// Reads records of the spool in `dir`, of all machines or of one, for as long as `each`, which is told the spool's id too, says so.
/// Damaged ones are left out.
///
/// # Errors
///
/// See [`OpenError`].
pub fn dump(
    dir: &Path,
    from: Seek,
    machine: Option<&str>,
    mut each: impl FnMut(u64, Record) -> bool,
) -> Result<(), OpenError> {
    let log = Log::look(Arc::new(Disk::open(dir)?))?;
    let records: Box<dyn Iterator<Item = Result<Record, ReadError>>> = match machine {
        None => Box::new(Records::new(&log, from)),
        Some(machine) => {
            let first = log.first(from).map_err(as_open_error)?;
            let Some(first) = first else { return Ok(()) };
            Box::new(MachineRecords::new(&log, machine, first.seq()))
        }
    };
    for record in records {
        if !each(log.id, record.map_err(as_open_error)?) {
            break;
        }
    }
    Ok(())
}

fn as_open_error(error: ReadError) -> OpenError {
    match error {
        ReadError::Io(error) => OpenError::Io(error),
        error => OpenError::Io(io::Error::other(error)),
    }
}

impl Log {
    /// Opens a spool to look at: nothing is locked, mended or written.
    fn look(fs: Arc<dyn Fs>) -> Result<Self, OpenError> {
        let id = read_id(&*fs)?;
        let files = fs.list()?;
        let bases = bases(&files);
        if id.is_none() && bases.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no spool in it").into());
        }
        let mut header_id = None;
        for (base, _) in bases.iter().rev().take(2) {
            let header = read_header(&*fs.open(&base.segment_name(), Access::Read)?, *base)?;
            header_id = header_id.or(header.map(|header| header.spool));
        }
        let end = bases.last().map_or_else(Base::default, |(last, _)| Base { seq: u64::MAX, ..*last });
        let segments: VecDeque<_> = bases.iter().map(|&(base, bytes)| Segment::new(base, bytes, None)).collect();
        Ok(Self {
            bounds: Bounds::default(),
            id: id.or(header_id).unwrap_or_default(),
            list: List { segments, end }.into(),
            writer: Writer::default().into(),
            cursors: Table::open(&*fs, CURSORS_FILE)?.into(),
            parked: Mutex::default(),
            positions: Table::open(&*fs, POSITIONS_FILE)?.into(),
            finished: Table::open(&*fs, FINISHED_FILE)?.into(),
            damage: Table::open(&*fs, DAMAGE_FILE)?.into(),
            counts: Counts::default(),
            observer: None,
            quarantine: Quarantine::shut().into(),
            removing: Mutex::default(),
            cache: VecDeque::new().into(),
            fs,
        })
    }

    fn info(&self, segment: &Segment) -> Result<SegmentInfo, ReadError> {
        let name = segment.base.segment_name();
        let file = self.fs.open(&name, Access::Read)?;
        let is_sealed = read_footer(&*file, segment.base)?.is_some();
        let (records, ends) = self.with_index(segment, |index| {
            let records = index.records();
            let ends = records.checked_sub(1).map(|last| Ok::<_, io::Error>((index.entry(0)?, index.entry(last)?)));
            Ok((records, ends.transpose()?))
        })?;
        let base = segment.base;
        let (mut seqs, mut lines) = (base.seq..base.seq, base.line..base.line);
        if let Some((first, last)) = &ends {
            (seqs, lines) = (first.seq..last.seq + 1, first.first_line..last.first_line + u64::from(last.lines));
        }
        let received = ends.map(|(first, last)| (timestamp(first.received_at), timestamp(last.received_at)));
        Ok(SegmentInfo { name, bytes: file.len()?, is_sealed, records, seqs, lines, received })
    }

    /// Reads every segment in whole; `then` may mend what was found.
    fn check(
        &self,
        mut then: impl FnMut(&Self, &Segment, &Checked, &Scanned) -> io::Result<()>,
    ) -> Result<Vec<Checked>, OpenError> {
        let segments: Vec<_> = self.list.read().segments.iter().cloned().collect();
        let mut all = Vec::with_capacity(segments.len());
        for (index, segment) in segments.iter().enumerate() {
            let until = segments.get(index + 1).map_or(u64::MAX, |next| next.base.seq);
            let file = self.fs.open(&segment.base.segment_name(), Access::Read)?;
            let scanned = scan(&*file, segment.base, until)?;
            let checked = self.compare(segment, &*file, &scanned)?;
            then(self, segment, &checked, &scanned)?;
            all.push(checked);
        }
        Ok(all)
    }

    fn compare(&self, segment: &Segment, file: &dyn File, scanned: &Scanned) -> Result<Checked, OpenError> {
        let footer = read_footer(file, segment.base)?;
        let mut damage = scanned.damage.clone();
        let (mut is_index_damaged, mut torn_bytes) = (false, scanned.tail);
        if let Some(footer) = footer {
            torn_bytes = 0;
            if scanned.end < footer.end {
                damage.push(scanned.end..footer.end);
            }
            is_index_damaged = !is_index_of(file, footer, scanned)?;
        }
        let found = scanned.index.first().zip(scanned.index.last());
        let base = segment.base;
        let (mut seqs, mut lines) = (base.seq..base.seq, base.line..base.line);
        if let Some((first, last)) = found {
            (seqs, lines) = (first.seq..last.seq + 1, first.first_line..last.first_line + u64::from(last.lines));
        }
        Ok(Checked {
            segment: SegmentInfo {
                name: base.segment_name(),
                bytes: file.len()?,
                is_sealed: footer.is_some(),
                records: scanned.index.records(),
                seqs,
                lines,
                received: found.map(|(first, last)| (timestamp(first.received_at), timestamp(last.received_at))),
            },
            damage,
            torn_bytes,
            is_header_damaged: read_header(file, base)?.is_none(),
            is_index_damaged,
            is_unreadable: scanned.unreadable,
        })
    }

    /// Gives a segment an index of what can be read of it.
    fn mend(&self, segment: &Segment, checked: &Checked, scanned: &Scanned) -> io::Result<()> {
        let file = self.fs.open(&checked.segment.name, Access::Write)?;
        for damage in &checked.damage {
            self.quarantine.lock().keep(&*self.fs, &*file, segment.base, damage.clone());
        }
        let footer = read_footer(&*file, segment.base)?;
        let last = scanned.index.last().map_or(segment.base.seq, |last| last.seq + 1);
        let footer = Footer {
            base: segment.base,
            marker: scanned.marker.unwrap_or_else(unguessable),
            // Damage at the end stays where it is; the index is written behind it.
            end: footer.map_or(scanned.end, |footer| footer.end.max(scanned.end)),
            next_seq: footer.map_or(last, |footer| footer.next_seq.max(last)),
            ..Footer::default()
        };
        if checked.is_header_damaged {
            let header = SegmentHeader { spool: self.id, base: segment.base, marker: footer.marker };
            file.write_all_at(&mut [IoSlice::new(&header.encode())], 0)?;
        }
        file.set_len(footer.end)?;
        let bytes = write_sealed(&*file, footer.end, &scanned.index.seal(footer))?;
        segment.bytes.store(bytes, Relaxed);
        self.cache.lock().clear();
        Ok(())
    }
}

/// Whether the index that a segment ends with is that of its records, byte by byte.
fn is_index_of(file: &dyn File, footer: Footer, scanned: &Scanned) -> io::Result<bool> {
    let expected = scanned.index.seal(Footer {
        base: footer.base,
        marker: footer.marker,
        end: footer.end,
        next_seq: footer.next_seq,
        ..Footer::default()
    });
    if footer.end + expected.len() as u64 != file.len()? {
        return Ok(false);
    }
    let mut found = vec![0; expected.len()];
    file.read_exact_at(&mut found, footer.end)?;
    Ok(found == expected)
}
