//! What lies on the disk, byte by byte: names, headers and the footer. Integers are little-endian.
//!
//! Every structure has a checksum of its own, so that one flipped bit is found where it is and costs no neighbour. What has
//! to be known even of a damaged segment (which sequences and lines are its own) is in its name, which no crash tears.

use std::hash::{BuildHasher, RandomState};

use super::types::{KINDS, Lines};

/// The version of the format that this code writes; it reads this and the one before, of which there is none yet.
pub(crate) const VERSION: u32 = 1;
/// The largest that there may ever be.
const VERSION_MAX: u32 = 99;

/// The file that names the format and the spool; the first to be written, and rewritten only by another version.
pub(crate) const FORMAT_FILE: &str = "format";
pub(crate) const CURSORS_FILE: &str = "cursors";
pub(crate) const POSITIONS_FILE: &str = "positions";
pub(crate) const FINISHED_FILE: &str = "finished";
pub(crate) const DAMAGE_FILE: &str = "damage";
/// What a file ends in until it is whole and takes its own name.
pub(crate) const UNFINISHED: &str = ".tmp";
pub(crate) const QUARANTINE: &str = "quarantine-";

const SEGMENT_MAGIC: &[u8; 8] = b"FDSPOOL\n";
const FOOTER_MAGIC: &[u8; 8] = b"FDSEALED";

/// Bytes of a segment's header: magic, version, the version's complement, spool, base sequence, base line, marker, checksum.
pub(crate) const HEADER: usize = 64;
/// Bytes of a record's header.
pub(crate) const RECORD: usize = 64;
/// Bytes of a sealed segment's footer, its last ones.
pub(crate) const FOOTER: usize = 144;

/// A version of the format that this code does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnknownVersion(pub(crate) u64);

/// The checksum of several pieces.
pub(crate) fn checksum(pieces: &[&[u8]]) -> u32 {
    pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece))
}

/// A number that no sender can guess.
pub(crate) fn unguessable() -> u64 {
    RandomState::new().hash_one(0u8)
}

/// How an index knows a machine. Two machines with one hash cost a record read in vain, never a wrong line: a record has
/// its machines' names.
pub(crate) fn machine_hash(id: &str) -> u64 {
    // FNV-1a, then mixed so that the high bits differ too: the table is searched by them.
    let fnv = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (fnv ^ fnv >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ mixed >> 32
}

/// Writes integers one behind the other into a structure of fixed size.
struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        let (field, rest) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        field.copy_from_slice(bytes);
        self.0 = rest;
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A place in the spool's two counts: the sequence and the line that come next there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Base {
    pub(crate) seq: u64,
    pub(crate) line: u64,
}

impl Base {
    /// The name of the segment that begins here. Names sort as their bases do.
    pub(crate) fn segment_name(self) -> String {
        format!("{:020}-{:020}.seg", self.seq, self.line)
    }

    /// The base that a segment's name says; `None` for any other file.
    pub(crate) fn of_segment(name: &str) -> Option<Self> {
        let (seq, line) = name.strip_suffix(".seg")?.split_once('-')?;
        let number = |digits: &str| {
            (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
        };
        Some(Self { seq: number(seq)?, line: number(line)? })
    }
}

/// The content of [`FORMAT_FILE`]: `fleetdrain spool 1 89abcdef01234567`.
pub(crate) fn format_text(id: u64) -> String {
    format!("fleetdrain spool {VERSION} {id:016x}\n")
}

/// The spool's id, or `None` if the text is damaged.
pub(crate) fn read_format(text: &[u8]) -> Result<Option<u64>, UnknownVersion> {
    let words = || {
        let text = std::str::from_utf8(text).ok()?;
        let mut words = text.strip_prefix("fleetdrain spool ")?.split_ascii_whitespace();
        let (version, id) = (words.next()?, words.next());
        let version = version.parse().ok().or_else(|| id.filter(|id| is_id(id)).and(worded_version(version)))?;
        Some((version, id))
    };
    match words() {
        Some((version, _)) if version != u64::from(VERSION) => Err(UnknownVersion(version)),
        Some((_, Some(id))) => Ok(u64::from_str_radix(id, 16).ok()),
        _ => Ok(None),
    }
}

fn is_id(word: &str) -> bool {
    word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A version that is no number, as `2.0`: what of it is one, or the largest. No flipped bit makes more than one letter of ours.
fn worded_version(word: &str) -> Option<u64> {
    let digits: String =
        word.chars().skip_while(|char| !char.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    let number = digits.parse().ok().filter(|&number| number != u64::from(VERSION)).unwrap_or(u64::MAX);
    (word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_graphic())).then_some(number)
}

/// What a segment's header says beside its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) spool: u64,
    pub(crate) base: Base,
    /// What each of the segment's records begins with. Random: no sender can make a body that looks like a record.
    pub(crate) marker: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut fields = Fields(&mut bytes[..HEADER - 4]);
        fields.put(SEGMENT_MAGIC).u32(VERSION).u32(!VERSION);
        fields.u64(self.spool).u64(self.base.seq).u64(self.base.line).u64(self.marker);
        let crc = checksum(&[&bytes[..HEADER - 4]]);
        bytes[HEADER - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` if the header is damaged. A version counts only beside its complement, and none is ever 0 or that large: neither a flipped
    /// bit nor a place where zeros meet ones is another version.
    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Result<Option<Self>, UnknownVersion> {
        let version = u32_at(bytes, 8);
        let may_be_version = (1..=VERSION_MAX).contains(&version) && version == !u32_at(bytes, 12);
        if &bytes[..8] != SEGMENT_MAGIC || !may_be_version {
            return Ok(None);
        }
        if version != VERSION {
            return Err(UnknownVersion(version.into()));
        }
        if checksum(&[&bytes[..HEADER - 4]]) != u32_at(bytes, HEADER - 4) {
            return Ok(None);
        }
        let base = Base { seq: u64_at(bytes, 24), line: u64_at(bytes, 32) };
        Ok(Some(Self { spool: u64_at(bytes, 16), base, marker: u64_at(bytes, 40) }))
    }
}

/// The header of a record: marker, checksum of the rest, checksum of the payload, and everything of fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) marker: u64,
    pub(crate) payload_crc: u32,
    /// Bytes of key and machines, which stand before the body.
    pub(crate) meta_bytes: u32,
    pub(crate) body_bytes: u32,
    pub(crate) key_bytes: u32,
    pub(crate) base: Base,
    pub(crate) lines: u32,
    /// Nanoseconds since 1970.
    pub(crate) received_at: i64,
    /// Everything before this offset of the segment was synced when the record was written.
    pub(crate) synced: u64,
}

impl RecordHeader {
    pub(crate) fn encode(&self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        let mut fields = Fields(&mut bytes);
        fields.u64(self.marker).u32(0).u32(self.payload_crc);
        fields.u32(self.meta_bytes).u32(self.body_bytes).u32(self.key_bytes).u32(self.lines);
        fields.u64(self.base.seq).u64(self.base.line);
        fields.u64(self.received_at.cast_unsigned()).u64(self.synced);
        let crc = checksum(&[&bytes[12..]]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` if this is no header, or a damaged one.
    pub(crate) fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        if checksum(&[&bytes[12..]]) != u32_at(bytes, 8) {
            return None;
        }
        Some(Self {
            marker: u64_at(bytes, 0),
            payload_crc: u32_at(bytes, 12),
            meta_bytes: u32_at(bytes, 16),
            body_bytes: u32_at(bytes, 20),
            key_bytes: u32_at(bytes, 24),
            lines: u32_at(bytes, 28),
            base: Base { seq: u64_at(bytes, 32), line: u64_at(bytes, 40) },
            received_at: u64_at(bytes, 48).cast_signed(),
            synced: u64_at(bytes, 56),
        })
    }

    /// Bytes of the payload: key, machines, body.
    pub(crate) fn payload_bytes(&self) -> u64 {
        u64::from(self.meta_bytes) + u64::from(self.body_bytes)
    }

    /// Bytes of the whole record.
    pub(crate) fn bytes(&self) -> u64 {
        RECORD as u64 + self.payload_bytes()
    }
}

/// The part of a payload before the body: the key, then each machine's lines and name.
///
/// `None` if a length does not fit its field.
pub(crate) fn encode_meta(key: &[u8], machines: &[(&str, Lines)]) -> Option<Vec<u8>> {
    let bytes: usize = machines.iter().map(|(id, _)| id.len() + 7).sum();
    let mut meta = Vec::with_capacity(key.len() + bytes);
    meta.extend_from_slice(key);
    for (id, lines) in machines {
        meta.extend_from_slice(&u16::try_from(id.len()).ok()?.to_le_bytes());
        meta.extend_from_slice(id.as_bytes());
        // Most have lines of one kind: a bit for each kind that has some, then how many.
        let some = |kind: &usize| lines.0[*kind] > 0;
        meta.push((0..KINDS).filter(some).map(|kind| 1 << kind).sum());
        (0..KINDS).filter(some).for_each(|kind| meta.extend_from_slice(&lines.0[kind].to_le_bytes()));
    }
    u32::try_from(meta.len()).ok()?;
    Some(meta)
}

/// The machines of a record with their lines, as [`encode_meta`] wrote them behind the key.
pub(crate) fn decode_machines(mut machines: &[u8]) -> impl Iterator<Item = (&str, Lines)> {
    std::iter::from_fn(move || {
        let (len, rest) = machines.split_first_chunk::<2>()?;
        let (id, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
        let (kinds, mut rest) = rest.split_first()?;
        let mut lines = Lines::default();
        for kind in (0..KINDS).filter(|kind| kinds & 1 << kind != 0) {
            let (count, behind) = rest.split_first_chunk::<4>()?;
            (lines.0[kind], rest) = (u32::from_le_bytes(*count), behind);
        }
        machines = rest;
        Some((std::str::from_utf8(id).ok()?, lines))
    })
}

/// A table of a sealed segment's index: where its pages begin, how many items it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) offset: u64,
    pub(crate) items: u64,
}

/// The end of a sealed segment: where its records end and where its index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) base: Base,
    pub(crate) marker: u64,
    /// Behind the last record.
    pub(crate) end: u64,
    pub(crate) places: Table,
    pub(crate) machines: Table,
    pub(crate) postings: Table,
    /// One item is one byte.
    pub(crate) keys: Table,
    pub(crate) keys_crc: u32,
    /// Nanoseconds since 1970: when the last record was received.
    pub(crate) newest: i64,
    /// The sequence that may be given next: behind those that were torn off, too.
    pub(crate) next_seq: u64,
}

impl Footer {
    pub(crate) fn encode(&self) -> [u8; FOOTER] {
        let mut bytes = [0; FOOTER];
        let mut fields = Fields(&mut bytes[..FOOTER - 4]);
        fields.put(FOOTER_MAGIC).u32(VERSION).u32(self.keys_crc);
        fields.u64(self.base.seq).u64(self.base.line).u64(self.marker).u64(self.end);
        for table in [self.places, self.machines, self.postings, self.keys] {
            fields.u64(table.offset).u64(table.items);
        }
        fields.u64(self.newest.cast_unsigned()).u64(self.next_seq);
        let crc = checksum(&[&bytes[..FOOTER - 4]]);
        bytes[FOOTER - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` if this is no footer, or a damaged one.
    pub(crate) fn decode(bytes: &[u8; FOOTER]) -> Option<Self> {
        let whole = &bytes[..8] == FOOTER_MAGIC && checksum(&[&bytes[..FOOTER - 4]]) == u32_at(bytes, FOOTER - 4);
        if !whole || u32_at(bytes, 8) != VERSION {
            return None;
        }
        let table = |at| Table { offset: u64_at(bytes, at), items: u64_at(bytes, at + 8) };
        Some(Self {
            keys_crc: u32_at(bytes, 12),
            base: Base { seq: u64_at(bytes, 16), line: u64_at(bytes, 24) },
            marker: u64_at(bytes, 32),
            end: u64_at(bytes, 40),
            places: table(48),
            machines: table(64),
            postings: table(80),
            keys: table(96),
            newest: u64_at(bytes, 112).cast_signed(),
            next_seq: u64_at(bytes, 120),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_their_base_and_sort_as_it_does() {
        let bases = [Base { seq: 9, line: 100 }, Base { seq: 10, line: 7 }, Base { seq: u64::MAX, line: u64::MAX }];
        let names = bases.map(Base::segment_name);
        assert!(names.is_sorted());
        assert_eq!(names.each_ref().map(|name| Base::of_segment(name)), bases.map(Some));
        for other in ["format", "1-2.seg", "+0000000000000000001-00000000000000000002.seg", "x.seg"] {
            assert_eq!(Base::of_segment(other), None, "{other}");
        }
    }

    #[test]
    fn a_flipped_bit_in_a_header_is_damage_and_never_another_version() {
        let header = SegmentHeader { spool: 5, base: Base { seq: 6, line: 7 }, marker: 8 };
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(Some(header)));
        let record = RecordHeader {
            marker: 1 << 63 | 3,
            payload_crc: 4,
            meta_bytes: 5,
            body_bytes: 6,
            key_bytes: 7,
            base: Base { seq: 8, line: 9 },
            lines: 10,
            received_at: -11,
            synced: 12,
        };
        assert_eq!(RecordHeader::decode(&record.encode()), Some(record));
        let footer = Footer { base: header.base, newest: -1, next_seq: 8, keys_crc: 3, end: 99, ..Footer::default() };
        assert_eq!(Footer::decode(&footer.encode()), Some(footer));
        for bit in 0..HEADER * 8 {
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bytes), Ok(None), "bit {bit}");
            let mut bytes = record.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // The marker is compared with the segment's, not with a checksum.
            assert_eq!(RecordHeader::decode(&bytes).is_none(), bit >= 64, "bit {bit}");
        }
        for bit in 0..FOOTER * 8 {
            let mut bytes = footer.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Footer::decode(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut bytes = SegmentHeader { spool: 0, base: Base::default(), marker: 0 }.encode();
        bytes[8..16].copy_from_slice(&[2, 0, 0, 0, 0xfd, 0xff, 0xff, 0xff]);
        assert_eq!(SegmentHeader::decode(&bytes), Err(UnknownVersion(2)));
        bytes[8..16].copy_from_slice(&[0xff, 1, 0, 0, 0, 0xfe, 0xff, 0xff]);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(None), "zeros that meet ones");
        assert_eq!(read_format(format_text(0xabc).as_bytes()), Ok(Some(0xabc)));
        assert_eq!(read_format(b"fleetdrain spool 7 89ab and more\n"), Err(UnknownVersion(7)));
        for (word, version) in
            [("2.0", 2), ("v2", 2), ("1.5", u64::MAX), ("next", u64::MAX), ("99999999999999999999", u64::MAX)]
        {
            let text = format!("fleetdrain spool {word} 89abcdef01234567\n");
            assert_eq!(read_format(text.as_bytes()), Err(UnknownVersion(version)), "{word}");
        }
        let ours = format_text(0x89ab_cdef_0123_4567).into_bytes();
        for bit in 0..ours.len() * 8 {
            let mut bytes = ours.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let is_version = bit / 8 == "fleetdrain spool ".len() && bytes[bit / 8].is_ascii_digit();
            assert_eq!(read_format(&bytes).is_err(), is_version, "bit {bit}");
        }
        for damaged in ["", "fleetdrain spool 1", "fleetdrain spool x 12", "fleetdrbin spool 7 89ab"] {
            assert_eq!(read_format(damaged.as_bytes()), Ok(None), "{damaged}");
        }
    }

    #[test]
    fn machines_are_read_back_behind_the_key() {
        let machines = [
            ("4d891d77b05118", Lines([3, 0, 0, 0])),
            ("", Lines([0, 1, 0, 2])),
            ("é", Lines([u32::MAX; KINDS])),
            ("none", Lines::default()),
        ];
        let meta = encode_meta(b"key", &machines).unwrap();
        assert_eq!(decode_machines(&meta[3..]).collect::<Vec<_>>(), machines);
        assert_eq!(encode_meta(b"", &[(&"x".repeat(70_000), Lines::default())]), None);
    }
}
