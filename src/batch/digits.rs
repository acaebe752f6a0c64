//! Numbers as text, eight digits at once and where they stay: what is stored in pieces and read back as one waits until the pieces have
//! arrived.

/// Room for any number in hex.
pub(super) const HEX_MAX: usize = 16;
/// Room for any number in decimal.
pub(super) const DECIMAL_MAX: usize = 20;

const E8: u64 = 100_000_000;

/// Writes `number` in hex at `at`, where [`HEX_MAX`] bytes have room, and gives where it ends: behind that may stand anything.
#[inline]
pub(super) fn put_hex(out: &mut [u8], at: usize, number: u64) -> usize {
    let (front, last) = ((number >> 32) as u32, number as u32);
    match front {
        0 => put(out, at, hex_digits(last), (last | 1).leading_zeros() / 4),
        _ => {
            let at = put(out, at, hex_digits(front), front.leading_zeros() / 4);
            put(out, at, hex_digits(last), 0)
        }
    }
}

/// Writes `number` in decimal at `at`, where [`DECIMAL_MAX`] bytes have room, and gives where it ends: behind that may stand anything.
#[inline]
pub(super) fn put_decimal(out: &mut [u8], at: usize, number: u64) -> usize {
    if number < E8 {
        return put_eight(out, at, number, true);
    }
    let (front, last) = (number / E8, number % E8);
    let at = match front / E8 {
        0 => put_eight(out, at, front, true),
        first => {
            let at = put_eight(out, at, first, true);
            put_eight(out, at, front % E8, false)
        }
    };
    put_eight(out, at, last, false)
}

/// Writes a `number` below [`E8`] in decimal, with its zeros in front unless it `is_first`.
#[inline]
fn put_eight(out: &mut [u8], at: usize, number: u64, is_first: bool) -> usize {
    let digits = decimal_digits(number);
    let zeros = if is_first { (digits | 1).leading_zeros() / 8 } else { 0 };
    put(out, at, digits | u64::from_be_bytes([b'0'; 8]), zeros)
}

/// Writes eight digits at `at`, the highest first, without the first `zeros` of them.
#[inline]
fn put(out: &mut [u8], at: usize, digits: u64, zeros: u32) -> usize {
    out[at..at + 8].copy_from_slice(&(digits << (8 * zeros)).to_be_bytes());
    at + 8 - zeros as usize
}

/// Appends `number` in decimal.
#[cfg(any(feature = "sinks", test))]
#[inline]
pub(crate) fn write_decimal(out: &mut Vec<u8>, number: u64) {
    let start = out.len();
    out.extend_from_slice(&[0; DECIMAL_MAX]);
    let len = put_decimal(&mut out[start..], 0, number);
    out.truncate(start + len);
}

/// The eight digits of `number` as text: each nibble to a byte of its own, the highest first.
fn hex_digits(number: u32) -> u64 {
    let mut nibbles = u64::from(number);
    nibbles = (nibbles | nibbles << 16) & 0x0000_ffff_0000_ffff;
    nibbles = (nibbles | nibbles << 8) & 0x00ff_00ff_00ff_00ff;
    nibbles = (nibbles | nibbles << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // One in each byte that is to be a letter.
    let letters = (nibbles + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
    nibbles + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10)
}

/// The digits of a `number` below [`E8`], each in a byte of its own, the highest first. It is halved into numbers of four digits, of
/// two, and of one, all of a size at once; products with shifts in place of the divisions, exact for numbers as small as these.
fn decimal_digits(number: u64) -> u64 {
    let split = |halves: u64, quotients: u64, base: u64, bits: u32| quotients << bits | (halves - quotients * base);
    let fours = split(number, number / 10_000, 10_000, 32);
    let twos = split(fours, (fours * 10_486) >> 20 & 0x0000_007f_0000_007f, 100, 16);
    split(twos, (twos * 103) >> 10 & 0x000f_000f_000f_000f, 10, 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(number: u64) {
        let mut out = b"1".to_vec();
        write_decimal(&mut out, number);
        assert_eq!(String::from_utf8(out).unwrap(), format!("1{number}"));
        let mut text = [b'-'; 1 + HEX_MAX];
        let end = put_hex(&mut text, 1, number);
        assert_eq!(std::str::from_utf8(&text[..end]).unwrap(), format!("-{number:x}"));
    }

    #[test]
    fn eight_digits_and_the_ends_of_each_length_are_written() {
        (0..10_000).for_each(|number| check(number * 10_000 + (9_999 - number)));
        for power in (0..20).map(|exponent| 10_u64.pow(exponent)) {
            [power - 1, power, power + 1].into_iter().for_each(check);
        }
        [u64::MAX - 1, u64::MAX].into_iter().for_each(check);
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_the_formatter_shows_them(shift in 0..64_u32, any: u64) {
            check(any >> shift);
        }
    }
}
