//! The smallest pieces of JSON: strings, numbers, literals, white space; and where each of them breaks.

use super::text;
use crate::batch::same_bytes;

/// The text is broken at the lexer's position: no JSON text could have that byte there.
pub(super) struct Broken;

pub(super) type Step<T = ()> = Result<T, Broken>;

/// A string's source between its quotes.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) escaped: bool,
}

/// Goes through a body byte by byte.
pub(super) struct Lexer<'a> {
    pub(super) body: &'a [u8],
    pub(super) pos: usize,
    /// Whether a string held half of a surrogate pair.
    pub(super) lone_surrogate: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(body: &'a [u8], pos: usize) -> Self {
        Self { body, pos, lone_surrogate: false }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.body.get(self.pos).copied()
    }

    /// A string from its opening quote, which is here, to behind its closing one.
    pub(super) fn string(&mut self) -> Step<Source> {
        self.pos += 1;
        self.string_inside()
    }

    /// A string from behind its opening quote to behind its closing one.
    #[inline]
    pub(super) fn string_inside(&mut self) -> Step<Source> {
        let start = self.pos;
        self.pos = plain_end(self.body, start);
        if self.peek() == Some(b'"') {
            self.pos += 1;
            return Ok(Source { start, end: self.pos - 1, escaped: false });
        }
        self.escaped_string(start)
    }

    /// The rest of a string that has an escape here.
    fn escaped_string(&mut self, start: usize) -> Step<Source> {
        let mut surrogates = Surrogates::default();
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape(&mut surrogates)?,
                _ => return Err(Broken),
            }
            self.pos = plain_end(self.body, self.pos);
        }
        let end = self.pos;
        self.pos += 1;
        self.lone_surrogate |= surrogates.lone > 0;
        Ok(Source { start, end, escaped: true })
    }

    /// One escape from its backslash on.
    fn escape(&mut self, surrogates: &mut Surrogates) -> Step {
        let start = self.pos;
        self.pos += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.pos += 1,
            Some(b'u') => {
                self.pos += 1;
                for _ in 0..4 {
                    self.expect_one(|byte| byte.is_ascii_hexdigit())?;
                }
                surrogates.unit(text::hex(self.body, start + 2).unwrap_or(0), start);
            }
            _ => return Err(Broken),
        }
        Ok(())
    }

    pub(super) fn number(&mut self) -> Step {
        self.skip_if(b'-');
        if !self.skip_if(b'0') {
            self.digits()?;
        }
        if self.skip_if(b'.') {
            self.digits()?;
        }
        if self.skip_if(b'e') || self.skip_if(b'E') {
            let _sign = self.skip_if(b'+') || self.skip_if(b'-');
            self.digits()?;
        }
        Ok(())
    }

    /// At least one digit.
    fn digits(&mut self) -> Step {
        self.expect_one(|byte| byte.is_ascii_digit())?;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.pos += 1;
        }
        Ok(())
    }

    /// `true`, `false` or `null`.
    pub(super) fn literal(&mut self, name: &[u8]) -> Step {
        name.iter().try_for_each(|&byte| self.expect(byte))
    }

    pub(super) fn expect(&mut self, wanted: u8) -> Step {
        self.expect_one(|byte| byte == wanted)
    }

    /// Goes past `piece` if it stands here.
    #[inline]
    pub(super) fn skip_piece(&mut self, piece: &[u8]) -> bool {
        let end = self.pos + piece.len();
        let here = self.body.get(self.pos..end).is_some_and(|here| same_bytes(here, piece));
        self.pos = if here { end } else { self.pos };
        here
    }

    fn expect_one(&mut self, fits: impl Fn(u8) -> bool) -> Step {
        if !self.peek().is_some_and(fits) {
            return Err(Broken);
        }
        self.pos += 1;
        Ok(())
    }

    fn skip_if(&mut self, byte: u8) -> bool {
        let here = self.peek() == Some(byte);
        self.pos += usize::from(here);
        here
    }

    pub(super) fn skip_blanks(&mut self) {
        self.pos = skip_blanks(self.body, self.pos);
    }
}

/// The first position from `pos` on that is not JSON's white space.
pub(super) fn skip_blanks(body: &[u8], mut pos: usize) -> usize {
    while matches!(body.get(pos), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        pos += 1;
    }
    pos
}

/// The first position from `pos` on that does not stand for itself in a string: a quote, a backslash, a control byte, the end.
///
/// Most of a record is strings, so not byte by byte: short ones by words, the middle of long ones by blocks that the compiler
/// turns into vector code. Bytes over 0x7F pass; they are looked at where the string is used.
#[inline]
fn plain_end(body: &[u8], start: usize) -> usize {
    let mut pos = start;
    while let Some(chunk) = body.get(pos..).and_then(<[u8]>::first_chunk) {
        if let Some(at) = special_in_word(u64::from_le_bytes(*chunk)) {
            return pos + at;
        }
        pos += 8;
        if pos - start == 24 {
            pos = plain_blocks_end(body, pos);
        }
    }
    while body.get(pos).is_some_and(|&byte| !is_special(byte)) {
        pos += 1;
    }
    pos
}

/// Goes past whole blocks without anything special.
fn plain_blocks_end(body: &[u8], mut pos: usize) -> usize {
    while let Some(block) = body.get(pos..).and_then(<[u8]>::first_chunk::<32>) {
        if block.iter().fold(false, |any, &byte| any | is_special(byte)) {
            break;
        }
        pos += block.len();
    }
    pos
}

#[inline]
fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// Which byte of a little-endian word is the first special one.
#[inline]
fn special_in_word(word: u64) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    // Each subtraction sets the top bit of the first byte that is zero, or below 0x20; what it sets above that may be wrong.
    let special = quote.wrapping_sub(ONES) & !quote
        | backslash.wrapping_sub(ONES) & !backslash
        | word.wrapping_sub(ONES * 0x20) & !word;
    (special & TOPS != 0).then(|| (special & TOPS).trailing_zeros() as usize / 8)
}

/// The surrogates of one string, and how many of them have no partner.
#[derive(Default)]
struct Surrogates {
    lone: usize,
    /// Just past a high one that may still find its other half right there.
    high_end: Option<usize>,
}

impl Surrogates {
    /// Notes the UTF-16 unit of an escape that begins at `start`.
    fn unit(&mut self, unit: u32, start: usize) {
        if text::is_high(unit) {
            self.lone += 1;
            self.high_end = Some(start + 6);
        } else if text::is_low(unit) && self.high_end.take() == Some(start) {
            self.lone -= 1;
        } else if text::is_low(unit) {
            self.lone += 1;
        }
    }
}
