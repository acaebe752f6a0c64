//! The text of a JSON string: escapes resolved, what is not Unicode repaired.

use memchr::memchr;

const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Appends `bytes` with every invalid sequence replaced as [`String::from_utf8_lossy`] does.
pub(super) fn push_repaired(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            push_char(REPLACEMENT, out);
        }
    }
}

/// Appends the text of a string whose escapes are known to be well formed; `source` is what lies between its quotes.
///
/// Invalid UTF-8 and lone surrogates become U+FFFD; `valid` says that the source is known to be UTF-8.
pub(super) fn unescape(source: &[u8], valid: bool, out: &mut Vec<u8>) {
    out.reserve(source.len() + BLOCK);
    let mut rest = source;
    if valid {
        // Text between escapes is short: to copy a block and cut it where the escape is beats a search and a copy.
        while let Some(block) = rest.first_chunk::<BLOCK>() {
            let plain = first_backslash(block);
            out.extend_from_slice(block);
            out.truncate(out.len() - BLOCK + plain);
            rest = &rest[plain..];
            if plain < BLOCK {
                let used = push_escape(&rest[1..], out);
                rest = &rest[1 + used..];
            }
        }
    }
    while let Some(at) = memchr(b'\\', rest) {
        push(&rest[..at], valid, out);
        let used = push_escape(&rest[at + 1..], out);
        rest = &rest[at + 1 + used..];
    }
    push(rest, valid, out);
}

/// Bytes copied at a time.
const BLOCK: usize = 16;

/// Where the first backslash of a block is; [`BLOCK`] if there is none.
#[inline]
fn first_backslash(block: &[u8; BLOCK]) -> usize {
    let word = u128::from_le_bytes(*block);
    const ONES: u128 = u128::from_ne_bytes([1; BLOCK]);
    let zero_where = word ^ (ONES * b'\\' as u128);
    // The top bit of the first byte that is zero; what is set above that may be wrong.
    let found = zero_where.wrapping_sub(ONES) & !zero_where & (ONES << 7);
    found.trailing_zeros() as usize / 8
}

#[inline]
fn push(bytes: &[u8], valid: bool, out: &mut Vec<u8>) {
    if valid {
        out.extend_from_slice(bytes);
    } else {
        push_repaired(bytes, out);
    }
}

/// Appends what the escape means that stands behind a backslash, and gives the bytes that it takes there.
fn push_escape(escape: &[u8], out: &mut Vec<u8>) -> usize {
    let byte = match escape.first() {
        Some(b'b') => 0x08,
        Some(b'f') => 0x0c,
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'u') => return push_unicode(escape, out),
        Some(&byte) => byte,
        None => return 0,
    };
    out.push(byte);
    1
}

fn push_unicode(escape: &[u8], out: &mut Vec<u8>) -> usize {
    let unit = hex(escape, 1).unwrap_or(0xFFFD);
    let next = escape.get(5..7).filter(|next| next == b"\\u").and_then(|_| hex(escape, 7));
    if let Some(low) = next.filter(|&next| is_high(unit) && is_low(next)) {
        let code = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
        push_char(char::from_u32(code).unwrap_or(REPLACEMENT), out);
        return 11;
    }
    push_char(char::from_u32(unit).unwrap_or(REPLACEMENT), out);
    5
}

/// Four hexadecimal digits at `at`.
#[inline]
pub(super) fn hex(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..)?.first_chunk::<4>()?;
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}

/// Whether a UTF-16 unit begins a pair.
pub(super) fn is_high(unit: u32) -> bool {
    (0xD800..0xDC00).contains(&unit)
}

/// Whether a UTF-16 unit ends a pair.
pub(super) fn is_low(unit: u32) -> bool {
    (0xDC00..0xE000).contains(&unit)
}

fn push_char(char: char, out: &mut Vec<u8>) {
    out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
}
