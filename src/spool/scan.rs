//! Reads a segment without trusting any length in it: what is valid, what is damaged, what was torn off.

use std::{io, ops::Range};

use memchr::memmem;
use rustix::io::Errno;

use super::{
    Lines,
    format::{Base, HEADER, RECORD, RecordHeader, SegmentHeader, UnknownVersion, decode_machines, machine_hash},
    fs::File,
    index::MemIndex,
    log::read_footer,
};

/// Bytes read at once.
const WINDOW: usize = 1 << 20;

/// What a disk gives or refuses as a whole.
const BLOCK: usize = 4096;

/// The most damaged places of one segment that are told apart; more are one with the last.
const DAMAGE_MAX: usize = 1000;

/// What a scan found in a segment.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    /// The valid records.
    pub(crate) index: MemIndex,
    /// What the segment's records begin with, unless even that is lost.
    pub(crate) marker: Option<u64>,
    /// Behind the last valid record.
    pub(crate) end: u64,
    /// Everything before this was synced before the last valid record was written.
    pub(crate) synced: u64,
    /// Bytes between valid records that are none.
    pub(crate) damage: Vec<Range<u64>>,
    /// How many bytes behind [`Scanned::end`] are not all zero: torn off by a crash, taken back, or an index.
    pub(crate) tail: u64,
    /// Whether the disk refused to give some of the bytes; they were taken for zeros.
    pub(crate) unreadable: bool,
}

/// Why a segment cannot be scanned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error("format version {}", .0.0)]
    UnknownVersion(UnknownVersion),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Whether an error says that bytes are not what was written, rather than that they cannot be had now.
pub(crate) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        || error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

/// The segment's header; `None` if it is damaged or not its name's.
pub(crate) fn read_header(file: &dyn File, base: Base) -> Result<Option<SegmentHeader>, ScanError> {
    let mut bytes = [0; HEADER];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if is_damage(&error) => return Ok(None),
        read => read?,
    }
    let header = SegmentHeader::decode(&bytes).map_err(ScanError::UnknownVersion)?;
    Ok(header.filter(|header| header.base == base))
}

/// Finds every valid record of a segment whose sequence is in `base.seq..until`.
///
/// A record that follows in `until` or beyond is void: the segment was given up before it was acknowledged, and the next one
/// begins with its number. They are written in order, but a disk may write one elsewhere: wherever they stand, they are in order of
/// their sequences in the index.
pub(crate) fn scan(file: &dyn File, base: Base, until: u64) -> Result<Scanned, ScanError> {
    let mut window = Window { file, len: file.len()?, start: 0, bytes: Vec::new(), unreadable: false };
    let mut scanned = Scanned { end: HEADER as u64, ..Scanned::default() };
    let marker = match read_header(file, base)? {
        Some(header) => Some(header.marker),
        // One bad sector may hold the first record too, whose checksum does not cover what it begins with: the footer is asked first.
        None => match read_footer(file, base)? {
            Some(footer) => Some(footer.marker),
            // The first record's place is known, and so what all of them begin with.
            None => window.header(HEADER as u64)?.filter(|first| first.base.seq >= base.seq).map(|first| first.marker),
        },
    };
    scanned.marker = marker;
    let mut at = HEADER as u64;
    // Each valid record's sequence, and where it is.
    let mut places: Vec<(u64, u64)> = Vec::new();
    let mut in_order = true;
    let finder = marker.map(|marker| memmem::Finder::new(&marker.to_le_bytes()).into_owned());
    while let (Some(marker), Some(finder)) = (marker, &finder) {
        let Some(record) = window.record(at, marker, base)? else {
            match window.find(at + 1, finder)? {
                Some(candidate) => at = candidate,
                None => break,
            }
            continue;
        };
        let behind = at + record.header.bytes();
        if record.header.base.seq < until {
            scanned.note_damage(at);
            in_order &= scanned.follows(&record);
            if in_order {
                scanned.push(&record, at);
            }
            places.push((record.header.base.seq, at));
            scanned.end = behind;
        }
        at = behind;
    }
    if let (false, Some(marker)) = (in_order, marker) {
        places.sort_unstable();
        scanned.index = MemIndex::default();
        for (_, at) in places {
            let record = window.record(at, marker, base)?.filter(|record| scanned.follows(record));
            record.into_iter().for_each(|record| scanned.push(&record, at));
        }
    }
    scanned.tail = window.last_set(scanned.end)?;
    scanned.unreadable = window.unreadable;
    Ok(scanned)
}

impl Scanned {
    /// Whether the record comes behind all that are in the index.
    fn follows(&self, record: &Found) -> bool {
        let Base { seq, line } = record.header.base;
        self.index.last().is_none_or(|last| last.seq < seq && last.first_line + u64::from(last.lines) <= line)
    }

    fn push(&mut self, record: &Found, at: u64) {
        let machines: Vec<_> = record.machines().map(|(id, lines)| (machine_hash(id), lines)).collect();
        self.index.push(&record.header, at, record.key(), &machines);
        self.synced = record.header.synced;
    }

    /// A valid record begins at `at`: whatever stands between the last one and it is damage.
    fn note_damage(&mut self, at: u64) {
        if at == self.end {
            return;
        }
        let is_full = self.damage.len() >= DAMAGE_MAX;
        match self.damage.last_mut().filter(|_| is_full) {
            Some(last) => last.end = at,
            None => self.damage.push(self.end..at),
        }
    }
}

/// A valid record, without its body.
struct Found {
    header: RecordHeader,
    meta: Vec<u8>,
}

impl Found {
    fn key(&self) -> &[u8] {
        self.meta.get(..self.header.key_bytes as usize).unwrap_or_default()
    }

    fn machines(&self) -> impl Iterator<Item = (&str, Lines)> {
        decode_machines(self.meta.get(self.header.key_bytes as usize..).unwrap_or_default())
    }
}

/// A part of a file, read ahead.
struct Window<'a> {
    file: &'a dyn File,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
    unreadable: bool,
}

impl Window<'_> {
    /// The bytes from `at` on: `wanted`, at most [`WINDOW`], or fewer at the file's end.
    fn bytes(&mut self, at: u64, wanted: usize) -> io::Result<&[u8]> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if !held.contains(&at) || held.end < at + wanted as u64 {
            self.read(at)?;
        }
        let start = (at - self.start) as usize;
        let end = (start + wanted).min(self.bytes.len());
        Ok(&self.bytes[start.min(end)..end])
    }

    fn read(&mut self, at: u64) -> io::Result<()> {
        self.start = at;
        self.bytes.clear();
        self.bytes.resize(self.len.saturating_sub(at).min(WINDOW as u64) as usize, 0);
        let mut filled = 0;
        while filled < self.bytes.len() {
            let here = at + filled as u64;
            match self.file.read_at(&mut self.bytes[filled..], here) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A bad block is damage like any other.
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    self.unreadable = true;
                    filled += BLOCK - (here % BLOCK as u64) as usize;
                }
                Err(error) => return Err(error),
            }
        }
        let whole = filled.min(self.bytes.len());
        self.bytes.truncate(whole);
        Ok(())
    }

    fn header(&mut self, at: u64) -> io::Result<Option<RecordHeader>> {
        Ok(self.bytes(at, RECORD)?.first_chunk().and_then(RecordHeader::decode))
    }

    /// The record at `at`, if there is a valid one of a segment that begins with `base`.
    fn record(&mut self, at: u64, marker: u64, base: Base) -> io::Result<Option<Found>> {
        let Some(header) = self.header(at)? else { return Ok(None) };
        if header.marker != marker || header.base.seq < base.seq || header.base.line < base.line {
            return Ok(None);
        }
        let (mut meta, mut crc, mut read) = (Vec::new(), 0, 0);
        while read < header.payload_bytes() {
            let wanted = (header.payload_bytes() - read).min(WINDOW as u64) as usize;
            let piece = self.bytes(at + RECORD as u64 + read, wanted)?;
            if piece.len() < wanted {
                return Ok(None);
            }
            let of_meta = (u64::from(header.meta_bytes).saturating_sub(read)).min(wanted as u64) as usize;
            meta.extend_from_slice(&piece[..of_meta]);
            crc = crc32c::crc32c_append(crc, piece);
            read += wanted as u64;
        }
        Ok((crc == header.payload_crc).then_some(Found { header, meta }))
    }

    /// Where `marker` stands next, from `at` on.
    fn find(&mut self, mut at: u64, marker: &memmem::Finder<'_>) -> io::Result<Option<u64>> {
        loop {
            let piece = self.bytes(at, WINDOW)?;
            if let Some(found) = marker.find(piece) {
                return Ok(Some(at + found as u64));
            }
            if piece.len() < WINDOW {
                return Ok(None);
            }
            // It may begin in this piece and end in the next.
            at += (WINDOW - size_of::<u64>() + 1) as u64;
        }
    }

    /// How many bytes from `at` on come before nothing but zeros.
    fn last_set(&mut self, at: u64) -> io::Result<u64> {
        let mut here = at;
        let mut last = at;
        loop {
            let piece = self.bytes(here, WINDOW)?;
            let words = piece.chunks(8).rposition(|word| word.iter().any(|&byte| byte != 0));
            if let Some(word) = words {
                last = here + (word as u64 + 1) * 8;
            }
            if piece.len() < WINDOW {
                return Ok((last - at).min((here - at) + piece.len() as u64));
            }
            here += WINDOW as u64;
        }
    }
}
