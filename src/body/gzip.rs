//! Gzip (RFC 1952) over a raw inflation: headers, checksums, members one after another.
//!
//! The wrapper is parsed here and not by flate2, because only a raw inflation can be reset without giving its state away.

use flate2::Crc;

use super::{Damage, inflate, pool::PooledInflate};

const HEADER_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

pub(super) struct Gzip {
    inflate: PooledInflate,
    /// Of the header until the body begins, then of the body.
    crc: Crc,
    /// The header's flags of which nothing was read yet.
    flags: u8,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// The ten bytes that every header begins with.
    Fixed(Collected<10>),
    ExtraLength(Collected<2>),
    Extra(u16),
    /// A name or comment, to its zero byte.
    Text,
    HeaderCrc(Collected<2>),
    Deflated,
    Trailer(Collected<8>),
    /// After a member: another one, zeros to the end, or the end.
    Between,
    Padding,
}

/// A field that may come in pieces.
#[derive(Clone, Copy)]
struct Collected<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Collected<N> {
    const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    /// Takes what is missing from `input`: bytes taken, and whether the field is whole.
    fn fill(&mut self, input: &[u8]) -> (usize, bool) {
        let taken = input.len().min(N - self.len);
        self.bytes[self.len..self.len + taken].copy_from_slice(&input[..taken]);
        self.len += taken;
        (taken, self.len == N)
    }
}

impl Gzip {
    pub(super) fn new() -> Self {
        let state = State::Fixed(Collected::EMPTY);
        Self { inflate: PooledInflate::take(false), crc: Crc::new(), flags: 0, state }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state, State::Between | State::Padding)
    }

    pub(super) fn is_inflating(&self) -> bool {
        matches!(self.state, State::Deflated)
    }

    /// Goes on by one field or one inflation; returns the bytes taken.
    pub(super) fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Damage> {
        match self.state {
            State::Deflated => self.inflate(input, out),
            State::Trailer(mut field) => {
                let (taken, whole) = field.fill(input);
                self.state = State::Trailer(field);
                if whole {
                    self.check_trailer(field.bytes)?;
                }
                Ok(taken)
            }
            State::Between if input[0] == 0 => {
                self.state = State::Padding;
                Ok(1)
            }
            State::Between => {
                self.inflate.reset(false);
                self.crc.reset();
                self.state = State::Fixed(Collected::EMPTY);
                self.header(input)
            }
            State::Padding if input.iter().all(|&byte| byte == 0) => Ok(input.len()),
            State::Padding => Err(Damage::Found("bytes behind the end")),
            _ => self.header(input),
        }
    }

    fn inflate(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Damage> {
        let before = out.len();
        let (taken, ended) = inflate(&mut self.inflate, input, out)?;
        self.crc.update(&out[before..]);
        if ended {
            self.state = State::Trailer(Collected::EMPTY);
        }
        Ok(taken)
    }

    fn check_trailer(&mut self, trailer: [u8; 8]) -> Result<(), Damage> {
        let [a, b, c, d, e, f, g, h] = trailer;
        if u32::from_le_bytes([a, b, c, d]) != self.crc.sum() {
            return Err(Damage::Found("the checksum does not match"));
        }
        // The length is modulo 2^32, as the format has it.
        if u32::from_le_bytes([e, f, g, h]) != self.inflate.total_out() as u32 {
            return Err(Damage::Found("the length does not match"));
        }
        self.state = State::Between;
        Ok(())
    }

    /// Takes header bytes: one field, or as much of it as is there.
    fn header(&mut self, input: &[u8]) -> Result<usize, Damage> {
        let taken = match &mut self.state {
            State::Fixed(field) => {
                let (taken, whole) = field.fill(input);
                check_fixed(field)?;
                self.crc.update(&input[..taken]);
                if whole {
                    self.flags = field.bytes[3];
                    self.next_field();
                }
                return Ok(taken);
            }
            State::HeaderCrc(field) => {
                let (taken, whole) = field.fill(input);
                let stored = u16::from_le_bytes(field.bytes);
                if whole {
                    if stored != self.crc.sum() as u16 {
                        return Err(Damage::Found("the header's checksum does not match"));
                    }
                    self.next_field();
                }
                return Ok(taken);
            }
            State::ExtraLength(field) => {
                let (taken, whole) = field.fill(input);
                if whole {
                    self.state = State::Extra(u16::from_le_bytes(field.bytes));
                }
                taken
            }
            State::Extra(left) => {
                let taken = input.len().min(usize::from(*left));
                *left -= taken as u16;
                taken
            }
            _ => input.iter().position(|&byte| byte == 0).map_or(input.len(), |end| end + 1),
        };
        self.crc.update(&input[..taken]);
        let ended = match self.state {
            State::Extra(left) => left == 0,
            State::Text => input[..taken].last() == Some(&0),
            _ => false,
        };
        if ended {
            self.next_field();
        }
        Ok(taken)
    }

    /// Goes to the next field that the flags announce, in the format's order, or to the body.
    fn next_field(&mut self) {
        let announced = |flag| self.flags & flag != 0;
        let (flag, state) = if announced(EXTRA) {
            (EXTRA, State::ExtraLength(Collected::EMPTY))
        } else if announced(NAME) {
            (NAME, State::Text)
        } else if announced(COMMENT) {
            (COMMENT, State::Text)
        } else if announced(HEADER_CRC) {
            (HEADER_CRC, State::HeaderCrc(Collected::EMPTY))
        } else {
            self.crc.reset();
            (0, State::Deflated)
        };
        self.flags &= !flag;
        self.state = state;
    }
}

/// Checks the header's constant bytes as soon as they are there, so that what is no gzip at all is never called truncated.
fn check_fixed(field: &Collected<10>) -> Result<(), Damage> {
    const CONSTANT: [u8; 3] = [0x1f, 0x8b, 8];
    let there = field.len.min(CONSTANT.len());
    if field.bytes[..there] != CONSTANT[..there] {
        return Err(Damage::Found("no gzip member begins here"));
    }
    if field.len > 3 && field.bytes[3] & RESERVED != 0 {
        return Err(Damage::Found("a reserved flag is set"));
    }
    Ok(())
}
