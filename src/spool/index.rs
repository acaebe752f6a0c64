//! A segment's index: where its records are, and which of them hold lines of a machine.
//!
//! In memory while the segment is written or after it was scanned ([`MemIndex`]); at the segment's end once it is sealed
//! ([`SealedIndex`]), read page by page. Both answer the four questions of [`Index`]; everything else is a binary search.

use std::{io, ops::Range, sync::Arc};

use hashbrown::HashMap;

use super::{
    format::{Footer, RecordHeader, checksum, u32_at, u64_at},
    fs::File,
    pages::{Pages, write_table},
    types::{KINDS, Lines},
};

/// Bytes of a record's entry on the disk.
const ENTRY: usize = 40;
/// Bytes of a machine's row: hash, first posting, postings.
const MACHINE: usize = 16;
/// Bytes of a posting.
const POSTING: usize = 4 + 4 * KINDS;
/// Bytes before a key: sequence, time of receipt, length.
const KEY_HEAD: usize = 20;

/// Where a record is, and what one wants to know before reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    pub(crate) first_line: u64,
    /// Nanoseconds since 1970.
    pub(crate) received_at: i64,
    pub(crate) lines: u32,
    /// Of the payload.
    pub(crate) bytes: u32,
}

impl Entry {
    fn encode(&self, out: &mut Vec<u8>) {
        for field in [self.seq, self.offset, self.first_line, self.received_at.cast_unsigned()] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.lines.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Self {
        Self {
            seq: u64_at(bytes, 0),
            offset: u64_at(bytes, 8),
            first_line: u64_at(bytes, 16),
            received_at: u64_at(bytes, 24).cast_signed(),
            lines: u32_at(bytes, 32),
            bytes: u32_at(bytes, 36),
        }
    }
}

/// That a record has lines of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Posting {
    /// Which of the segment's records.
    pub(crate) record: u32,
    pub(crate) lines: Lines,
}

impl Posting {
    fn encode(&self, out: &mut Vec<u8>) {
        for number in std::iter::once(self.record).chain(self.lines.0) {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Self {
        Self { record: u32_at(bytes, 0), lines: Lines(std::array::from_fn(|kind| u32_at(bytes, 4 + 4 * kind))) }
    }
}

/// What is asked of a segment's index.
pub(crate) trait Index {
    /// How many records.
    fn records(&self) -> u64;
    /// The record at `at`, in the order of their sequences; `at` is less than [`Index::records`].
    fn entry(&mut self, at: u64) -> io::Result<Entry>;
    /// How many records have lines of the machine with this hash.
    fn postings(&mut self, machine: u64) -> io::Result<u64>;
    /// One of those, by its rank among them.
    fn posting(&mut self, machine: u64, rank: u64) -> io::Result<Posting>;

    /// How many records stand before the first for which `before` is false.
    fn partition(&mut self, before: &dyn Fn(&Entry) -> bool) -> io::Result<u64> {
        let (mut from, mut to) = (0, self.records());
        while from < to {
            let middle = from + (to - from) / 2;
            if before(&self.entry(middle)?) {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        Ok(from)
    }

    /// How many of a machine's records stand before the record at `at`.
    fn postings_before(&mut self, machine: u64, at: u64) -> io::Result<u64> {
        let (mut from, mut to) = (0, self.postings(machine)?);
        while from < to {
            let middle = from + (to - from) / 2;
            if u64::from(self.posting(machine, middle)?.record) < at {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        Ok(from)
    }

    /// Adds up a machine's lines in the records whose sequence is in `seqs`.
    fn machine_lines(&mut self, machine: u64, seqs: &Range<u64>) -> io::Result<[u64; KINDS]> {
        let mut sums = [0; KINDS];
        if self.postings(machine)? == 0 {
            return Ok(sums);
        }
        let (from, to) =
            (self.partition(&|entry| entry.seq < seqs.start)?, self.partition(&|entry| entry.seq < seqs.end)?);
        let ranks = self.postings_before(machine, from)?..self.postings_before(machine, to)?;
        for rank in ranks {
            self.posting(machine, rank)?.lines.add_to(&mut sums);
        }
        Ok(sums)
    }
}

/// An index in memory.
#[derive(Debug, Default)]
pub(crate) struct MemIndex {
    entries: Vec<Entry>,
    machines: HashMap<u64, Vec<Posting>>,
    postings: usize,
    /// One behind the other: [`KEY_HEAD`], then the key.
    keys: Vec<u8>,
}

impl MemIndex {
    /// Adds the next record. `machines`: their hashes, with the lines of each.
    pub(crate) fn push(&mut self, header: &RecordHeader, offset: u64, key: &[u8], machines: &[(u64, Lines)]) {
        let record = self.entries.len() as u32;
        self.entries.push(Entry {
            seq: header.base.seq,
            offset,
            first_line: header.base.line,
            received_at: header.received_at,
            lines: header.lines,
            bytes: header.payload_bytes() as u32,
        });
        for &(machine, lines) in machines {
            self.machines.entry(machine).or_default().push(Posting { record, lines });
        }
        self.postings += machines.len();
        if !key.is_empty() {
            self.keys.extend_from_slice(&header.base.seq.to_le_bytes());
            self.keys.extend_from_slice(&header.received_at.to_le_bytes());
            self.keys.extend_from_slice(&(key.len() as u32).to_le_bytes());
            self.keys.extend_from_slice(key);
        }
    }

    /// Bytes that this index takes on the disk, and about half of what it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.len() * ENTRY + self.machines.len() * MACHINE + self.postings * POSTING + self.keys.len()
    }

    pub(crate) fn last(&self) -> Option<&Entry> {
        self.entries.last()
    }

    pub(crate) fn first(&self) -> Option<&Entry> {
        self.entries.first()
    }

    /// How many records.
    pub(crate) fn records(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Of all records.
    pub(crate) fn lines(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.lines)).sum()
    }

    pub(crate) fn keys(&self) -> &[u8] {
        &self.keys
    }

    /// What to write behind a segment's last record to seal it: tables, keys and footer, of which `footer` says base,
    /// marker and end.
    pub(crate) fn seal(&self, mut footer: Footer) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes() + self.bytes() / 8 + 1024);
        let mut items = Vec::with_capacity(self.entries.len() * ENTRY);
        self.entries.iter().for_each(|entry| entry.encode(&mut items));
        footer.places = write_table(&mut out, footer.end, &items, ENTRY);
        let mut sorted: Vec<_> = self.machines.iter().collect();
        sorted.sort_unstable_by_key(|(hash, _)| **hash);
        items.clear();
        let mut first = 0u32;
        for (hash, postings) in &sorted {
            items.extend_from_slice(&hash.to_le_bytes());
            items.extend_from_slice(&first.to_le_bytes());
            items.extend_from_slice(&(postings.len() as u32).to_le_bytes());
            first += postings.len() as u32;
        }
        footer.machines = write_table(&mut out, footer.end, &items, MACHINE);
        items.clear();
        for posting in sorted.iter().flat_map(|(_, postings)| postings.iter()) {
            posting.encode(&mut items);
        }
        footer.postings = write_table(&mut out, footer.end, &items, POSTING);
        footer.keys.offset = footer.end + out.len() as u64;
        footer.keys.items = self.keys.len() as u64;
        footer.keys_crc = checksum(&[&self.keys]);
        out.extend_from_slice(&self.keys);
        footer.newest = self.last().map_or(i64::MIN, |entry| entry.received_at);
        out.extend_from_slice(&footer.encode());
        out
    }
}

/// The keys that [`MemIndex::keys`] holds: sequence, time of receipt in nanoseconds since 1970, key.
pub(crate) fn decode_keys(mut keys: &[u8]) -> impl Iterator<Item = (u64, i64, &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = keys.split_first_chunk::<KEY_HEAD>()?;
        let (key, rest) = rest.split_at_checked(u32_at(head, 16) as usize)?;
        keys = rest;
        Some((u64_at(head, 0), u64_at(head, 8).cast_signed(), key))
    })
}

impl Index for &MemIndex {
    fn records(&self) -> u64 {
        self.entries.len() as u64
    }

    fn entry(&mut self, at: u64) -> io::Result<Entry> {
        Ok(self.entries[at as usize])
    }

    fn postings(&mut self, machine: u64) -> io::Result<u64> {
        Ok(self.machines.get(&machine).map_or(0, |postings| postings.len() as u64))
    }

    fn posting(&mut self, machine: u64, rank: u64) -> io::Result<Posting> {
        Ok(self.machines[&machine][rank as usize])
    }
}

/// The index at the end of a sealed segment.
#[derive(Debug)]
pub(crate) struct SealedIndex {
    file: Arc<dyn File>,
    footer: Footer,
    entries: Pages,
    machines: Pages,
    postings: Pages,
    /// The machine that was looked up last: hash, first posting, postings.
    last: Option<(u64, u64, u64)>,
}

impl SealedIndex {
    pub(crate) fn new(file: Arc<dyn File>, footer: Footer) -> Self {
        Self {
            file,
            footer,
            entries: Pages::new(footer.places, ENTRY),
            machines: Pages::new(footer.machines, MACHINE),
            postings: Pages::new(footer.postings, POSTING),
            last: None,
        }
    }

    /// The keys of the segment's records; see [`decode_keys`].
    pub(crate) fn keys(&self) -> io::Result<Vec<u8>> {
        let mut keys = vec![0; self.footer.keys.items as usize];
        self.file.read_exact_at(&mut keys, self.footer.keys.offset)?;
        if checksum(&[&keys]) != self.footer.keys_crc {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the keys of a segment are damaged"));
        }
        Ok(keys)
    }

    /// The machine's first posting, and how many it has.
    fn machine(&mut self, machine: u64) -> io::Result<(u64, u64)> {
        if let Some((hash, first, count)) = self.last
            && hash == machine
        {
            return Ok((first, count));
        }
        let all = self.machines.items();
        let row = self.machines.partition(&*self.file, (0, all), |row| u64_at(row, 0) < machine)?;
        let mut found = (0, 0);
        if row < all {
            let row = self.machines.item(&*self.file, row)?;
            if u64_at(row, 0) == machine {
                found = (u32_at(row, 8).into(), u32_at(row, 12).into());
            }
        }
        self.last = Some((machine, found.0, found.1));
        Ok(found)
    }
}

impl Index for SealedIndex {
    fn records(&self) -> u64 {
        self.entries.items()
    }

    fn entry(&mut self, at: u64) -> io::Result<Entry> {
        Ok(Entry::decode(self.entries.item(&*self.file, at)?))
    }

    fn postings(&mut self, machine: u64) -> io::Result<u64> {
        Ok(self.machine(machine)?.1)
    }

    fn posting(&mut self, machine: u64, rank: u64) -> io::Result<Posting> {
        let (first, _) = self.machine(machine)?;
        Ok(Posting::decode(self.postings.item(&*self.file, first + rank)?))
    }
}
