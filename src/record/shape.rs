//! The shape cache: senders repeat one template, so that most records are known but for their values.
//!
//! A shape is a record that the scanner found valid, with a hole for each string value and each number. A later record of that
//! shape needs one comparison for each piece between holes and one lexer's step for each hole; any difference at all leaves it to
//! the scanner. Its syntax is right because the pieces equal valid ones and what fills a hole is lexed in full. Its meaning is
//! right because keys are pieces: the same holes bring the same slots, of a repeated key the last, and the rules run on each
//! record's own values. Escaped keys are pieces like any other. UTF-8 is looked at apart from all this.

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::{
    hash::{BuildHasher, Hasher},
    str,
};

use memchr::{memchr2, memmem};

use super::{
    fields::{Found, Slot, Value},
    lex::{Lexer, Step},
    scan::Scan,
};
use crate::batch::{NOTE, Sent};

/// Shapes kept: one for each template of a connection's senders; a few suffice.
const SHAPES_MAX: usize = 16;

/// Shapes seen once that are remembered, so that a constant that varies does not evict the good ones.
const SIGHTS_MAX: usize = 32;

/// Shapes that a record is compared with: senders' templates may agree up to their ends, and a record that has none of many shapes
/// would cost more than the scanner takes.
const ATTEMPTS_MAX: usize = 4;

/// Where the cache is of no use, it is looked at for one record in so many.
const SAMPLED: u8 = 8;

/// Misses in a row, at the most, until the cache counts as of no use; a hit is worth some.
const LUCK_MAX: u8 = 64;
const LUCK_OF_A_HIT: u8 = 4;

/// Bounds of one shape, for each connection keeps some.
pub(super) const HOLES_MAX: usize = 64;
const PIECES_BYTES_MAX: usize = 4 << 10;

/// A string value or a number, as the scanner met it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) string: bool,
    pub(super) slot: Option<Slot>,
}

/// Up to a hole: how many bytes stand before it, and what fills it.
#[derive(Debug)]
struct Gap {
    before: usize,
    string: bool,
    slot: Option<Slot>,
    usual: Usual,
}

/// The length that a value usually has: ids, regions and times never change theirs. Where it is right, the next piece can be
/// looked at before this value's end was found.
#[derive(Clone, Copy, Debug, Default)]
struct Usual {
    bytes: u8,
    /// Values of this length in a row, up to [`Usual::TRUSTED`].
    seen: u8,
}

impl Usual {
    const TRUSTED: u8 = 8;

    fn is_trusted(self) -> bool {
        self.seen == Self::TRUSTED
    }

    /// Notes a value's length in bytes; only short ones are worth it.
    fn note(&mut self, bytes: usize) {
        match u8::try_from(bytes) {
            Ok(bytes) if bytes == self.bytes => self.seen = (self.seen + 1).min(Self::TRUSTED),
            Ok(bytes) => *self = Self { bytes, seen: 0 },
            Err(_) => self.seen = 0,
        }
    }
}

#[derive(Debug)]
struct Shape {
    /// All pieces, one after another, and [`PIECES_PADDING`] zeros. A string's opening quote ends a piece; its closing one is the
    /// value's.
    pieces: Box<[u8]>,
    gaps: Box<[Gap]>,
    /// Whether a piece holds a line break, which no record of lines can.
    breaks: bool,
    /// What is known of its records that are valid UTF-8: the names of their members and all between their tokens are pieces.
    sent: Sent,
    /// Which of all shapes ever kept this is; tells whose values [`Found`] holds.
    number: u64,
    /// Its pieces' hash.
    hash: u64,
    /// The number of the shape whose record came behind one of this shape the last time.
    then: u64,
}

/// Zeros behind a shape's pieces, so that each piece can be read as whole blocks.
const PIECES_PADDING: usize = 32;

/// What a record of a known shape turned out to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Match {
    pub(super) end: usize,
    lone_surrogate: bool,
    sent: Sent,
}

/// The shapes of one connection.
#[derive(Debug)]
pub(super) struct Shapes {
    /// Those that are met often stand in front.
    shapes: Vec<Shape>,
    kept: u64,
    /// The number of the shape that was met last, and of the one that should come now.
    last: u64,
    expected: u64,
    /// 0: of no use.
    luck: u8,
    passed: u8,
    /// Hashes of shapes seen once.
    sights: [u64; SIGHTS_MAX],
    next_sight: usize,
    hasher: foldhash::fast::RandomState,
    way: Way,
}

/// How records are compared with shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// None is ever known: every record by the scanner.
    #[cfg(any(test, feature = "fuzzing"))]
    Never,
    /// By words; on every processor.
    Portable,
    /// By blocks of 32 bytes.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Default for Way {
    /// The fastest that this processor has.
    fn default() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Self::Avx2;
        }
        Self::Portable
    }
}

impl Default for Shapes {
    fn default() -> Self {
        Self::new(Way::default())
    }
}

impl Shapes {
    pub(super) fn new(way: Way) -> Self {
        Self {
            shapes: Vec::new(),
            kept: 0,
            last: 0,
            expected: 0,
            luck: LUCK_MAX,
            passed: 0,
            sights: [0; SIGHTS_MAX],
            next_sight: 0,
            hasher: foldhash::fast::RandomState::default(),
            way,
        }
    }

    /// Reads the record at `start` if it has a known shape, and puts what its keys bring into `found`.
    ///
    /// `one_line` leaves out shapes that go over several lines.
    #[inline]
    pub(super) fn read(
        &mut self,
        body: &[u8],
        start: usize,
        one_line: bool,
        found: &mut Found,
    ) -> Option<(Scan, Sent)> {
        if self.shapes.is_empty() || self.is_passed_over() {
            return None;
        }
        let known = self.read_known(body, start, one_line, found);
        self.luck = match known {
            Some(_) => (self.luck + LUCK_OF_A_HIT).min(LUCK_MAX),
            None => self.luck.saturating_sub(1),
        };
        known.map(|read| (Scan::valid_object(read.end, read.lone_surrogate), read.sent))
    }

    /// Whether the next record is not worth a look.
    fn is_passed_over(&mut self) -> bool {
        self.passed = if self.luck == 0 { (self.passed + 1) % SAMPLED } else { 0 };
        self.passed != 0
    }

    /// Tries the shape that came next the last time, then those in front.
    #[inline]
    pub(super) fn read_known(&mut self, body: &[u8], start: usize, one_line: bool, found: &mut Found) -> Option<Match> {
        let expected = self.index_of(self.expected);
        let others = (0..self.shapes.len()).filter(|&index| Some(index) != expected);
        for index in expected.into_iter().chain(others).take(ATTEMPTS_MAX) {
            let shape = &mut self.shapes[index];
            if one_line && shape.breaks {
                continue;
            }
            if let Some(read) = shape.read(self.way, body, start, found) {
                self.met(index, Some(index) == expected);
                return Some(read);
            }
        }
        None
    }

    #[inline]
    fn index_of(&self, number: u64) -> Option<usize> {
        self.shapes.iter().position(|shape| shape.number == number)
    }

    /// A record of the shape at `index` was met.
    #[inline]
    fn met(&mut self, index: usize, as_expected: bool) {
        let (number, then) = (self.shapes[index].number, self.shapes[index].then);
        if !as_expected {
            if let Some(last) = self.index_of(self.last) {
                self.shapes[last].then = number;
            }
            self.shapes.swap(index, index.saturating_sub(1));
        }
        (self.last, self.expected) = (number, then);
    }

    /// Notes the shape of the valid record at `start`, which is valid UTF-8 and whose keys brought `found`; at its second sight it
    /// is kept. Records that were passed over are not noted either.
    pub(super) fn learn(&mut self, body: &[u8], start: usize, scan: &Scan, holes: &[Hole], found: &Found) {
        if self.passed != 0 {
            return;
        }
        let values: usize = holes.iter().map(|hole| hole.end - hole.start).sum();
        let plain = scan.whole && scan.object && !scan.too_deep && !scan.lone_surrogate;
        if !plain
            || !(1..=HOLES_MAX).contains(&holes.len())
            || scan.end - start - values > PIECES_BYTES_MAX
            || found.has_fixed()
        {
            return;
        }
        let hash = self.hash(body, start, scan.end, holes);
        if let Some(known) = self.shapes.iter().position(|shape| shape.hash == hash) {
            // It stood too far behind to be tried.
            self.shapes[..=known].rotate_right(1);
            self.met(0, false);
        } else if self.sights.contains(&hash) {
            self.kept += 1;
            let shape = Shape::of(body, start, scan.end, holes, found);
            self.keep(Shape { number: self.kept, hash, then: self.kept, ..shape });
        } else {
            self.sights[self.next_sight] = hash;
            self.next_sight = (self.next_sight + 1) % SIGHTS_MAX;
        }
    }

    fn keep(&mut self, shape: Shape) {
        self.shapes.truncate(SHAPES_MAX - 1);
        self.shapes.push(shape);
    }

    fn hash(&self, body: &[u8], start: usize, end: usize, holes: &[Hole]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        let mut from = start;
        for hole in holes {
            hasher.write(&body[from..hole.start]);
            from = hole.resume();
        }
        hasher.write(&body[from..end]);
        hasher.finish()
    }
}

impl Hole {
    /// Where the next piece begins.
    fn resume(&self) -> usize {
        self.end + usize::from(self.string)
    }
}

impl Shape {
    fn of(body: &[u8], start: usize, end: usize, holes: &[Hole], found: &Found) -> Self {
        let mut pieces = Vec::new();
        let mut from = start;
        let gap = |hole: &Hole| {
            let before = hole.start - from;
            pieces.extend_from_slice(&body[from..hole.start]);
            from = hole.resume();
            // Of a repeated key only the last counts, and `found` has kept that one.
            let slot = hole.slot.filter(|&slot| found.stands_at(slot, hole.start));
            Gap { before, string: hole.string, slot, usual: Usual::default() }
        };
        let gaps = holes.iter().map(gap).collect();
        pieces.extend_from_slice(&body[from..end]);
        let breaks = pieces.contains(&b'\n');
        let is_ready = memchr2(b'\r', b'\n', &pieces).is_none() && memmem::find(&pieces, NOTE.as_bytes()).is_none();
        let sent = if is_ready { Sent::Ready } else { Sent::Utf8 };
        pieces.extend_from_slice(&[0; PIECES_PADDING]);
        Self { pieces: pieces.into(), gaps, breaks, sent, number: 0, hash: 0, then: 0 }
    }

    #[inline]
    fn sent(&self, is_utf8: bool) -> Sent {
        if is_utf8 { self.sent } else { Sent::Any }
    }

    #[inline]
    fn read(&mut self, way: Way, body: &[u8], start: usize, found: &mut Found) -> Option<Match> {
        found.belong_to(self.number);
        match way {
            #[cfg(any(test, feature = "fuzzing"))]
            Way::Never => None,
            Way::Portable => self.read_portably(body, start, found).ok().flatten(),
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code, reason = "a function with a target feature can only be called so")]
            // SAFETY: this way is only chosen where the processor has AVX2, which is all that the function asks for.
            Way::Avx2 => unsafe { avx2::read(self, body, start, found) },
        }
    }

    fn read_portably(&self, body: &[u8], start: usize, found: &mut Found) -> Step<Option<Match>> {
        let mut lexer = Lexer::new(body, start);
        let mut pieces = &self.pieces[..self.pieces.len() - PIECES_PADDING];
        for gap in &self.gaps {
            let (piece, rest) = pieces.split_at(gap.before);
            if !lexer.skip_piece(piece) {
                return Ok(None);
            }
            pieces = rest;
            let value = gap.value(&mut lexer)?;
            if let Some(slot) = gap.slot {
                found.set(slot, value);
            }
        }
        let read = |lexer: Lexer<'_>| Match {
            end: lexer.pos,
            lone_surrogate: lexer.lone_surrogate,
            sent: self.sent(str::from_utf8(&body[start..lexer.pos]).is_ok()),
        };
        Ok(lexer.skip_piece(pieces).then(|| read(lexer)))
    }
}

impl Gap {
    fn value(&self, lexer: &mut Lexer<'_>) -> Step<Value> {
        let start = lexer.pos;
        if self.string {
            let source = lexer.string_inside()?;
            return Ok(Value::string(start, source.end - start, source.escaped));
        }
        lexer.number()?;
        Ok(Value::number(start, &lexer.body[start..lexer.pos]))
    }
}
