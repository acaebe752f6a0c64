//! The end of a chunked body, found by a scan of every byte of its framing.
//!
//! The bytes go on to hyper as they are; the scan only says how many belong to the message and that hyper cannot read
//! them otherwise: sizes are hexadecimal digits, lines end with CR LF, extensions and trailers are bounded.

use super::head::is_token;

/// Hexadecimal digits of a chunk's size, leading zeros included: as many as a `u64` has.
const SIZE_DIGITS_MAX: u32 = 16;

/// Bytes of chunk extensions in one message, and of its trailers. hyper allows 16 KiB of each and would answer later.
const EXTENSION_BYTES_MAX: u32 = 8 << 10;
const TRAILER_BYTES_MAX: u32 = 8 << 10;

/// Trailer lines in one message; hyper allows 100.
const TRAILERS_MAX: u32 = 64;

/// What is wrong with a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChunkFault {
    #[error("a chunk's size is not a hexadecimal number")]
    Size,
    #[error("a chunk's size is over {SIZE_DIGITS_MAX} digits")]
    SizeTooLong,
    #[error("a chunk extension has a byte that is not allowed")]
    Extension,
    #[error("chunk extensions are over {EXTENSION_BYTES_MAX} bytes")]
    ExtensionsTooLong,
    #[error("a line of the framing does not end with CR LF")]
    LineEnd,
    #[error("a trailer line is malformed")]
    Trailer,
    #[error("trailers are over {TRAILER_BYTES_MAX} bytes or {TRAILERS_MAX} lines")]
    TrailersTooLong,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// In a chunk's size, after so many digits.
    #[default]
    Size,
    Extension,
    /// LF expected, after a size or extension.
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

/// Where a chunked body stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ChunkScan {
    state: State,
    /// Of the chunk at hand: its size while it is read, then what is left of it.
    left: u64,
    digits: u32,
    extension_bytes: u32,
    trailer_bytes: u32,
    trailers: u32,
}

impl ChunkScan {
    /// Whether the message's last byte was seen.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Looks at `bytes` and says how many of them belong to the message: all of them unless it ends before.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, ChunkFault> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            if self.state == State::Data {
                at += self.skip_data(bytes.len() - at);
            } else {
                self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    fn skip_data(&mut self, available: usize) -> usize {
        let skipped = usize::try_from(self.left).map_or(available, |left| left.min(available));
        self.left -= skipped as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        skipped
    }

    fn step(&mut self, byte: u8) -> Result<(), ChunkFault> {
        self.state = match (self.state, byte) {
            (State::Size, _) => self.size(byte)?,
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, _) => self.extension(byte)?,
            (State::SizeLf, b'\n') => self.after_size(),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            (State::Trailer, b'\r') => State::LastLf,
            (State::LastLf, b'\n') => State::Done,
            (State::Trailer | State::TrailerName | State::TrailerValue | State::TrailerLf, _) => self.trailer(byte)?,
            _ => return Err(ChunkFault::LineEnd),
        };
        Ok(())
    }

    fn size(&mut self, byte: u8) -> Result<State, ChunkFault> {
        match (byte, self.digits) {
            (b'\r', 1..) => return Ok(State::SizeLf),
            (b';', 1..) => return Ok(State::Extension),
            (_, SIZE_DIGITS_MAX..) => return Err(ChunkFault::SizeTooLong),
            _ => {}
        }
        let digit = (byte as char).to_digit(16).ok_or(ChunkFault::Size)?;
        self.left = self.left << 4 | u64::from(digit);
        self.digits += 1;
        Ok(State::Size)
    }

    fn extension(&mut self, byte: u8) -> Result<State, ChunkFault> {
        self.extension_bytes += 1;
        match byte {
            _ if self.extension_bytes > EXTENSION_BYTES_MAX => Err(ChunkFault::ExtensionsTooLong),
            b'\t' | b' '..=b'~' | 0x80.. => Ok(State::Extension),
            _ => Err(ChunkFault::Extension),
        }
    }

    fn after_size(&mut self) -> State {
        self.digits = 0;
        if self.left == 0 { State::Trailer } else { State::Data }
    }

    fn trailer(&mut self, byte: u8) -> Result<State, ChunkFault> {
        self.trailer_bytes += 1;
        self.trailers += u32::from(self.state == State::Trailer);
        if self.trailer_bytes > TRAILER_BYTES_MAX || self.trailers > TRAILERS_MAX {
            return Err(ChunkFault::TrailersTooLong);
        }
        match (self.state, byte) {
            (State::Trailer | State::TrailerName, _) if is_token(byte) => Ok(State::TrailerName),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::Trailer),
            _ => Err(ChunkFault::Trailer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(body: &[u8]) -> Result<(usize, bool), ChunkFault> {
        let mut scan = ChunkScan::default();
        scan.take(body).map(|taken| (taken, scan.is_done()))
    }

    #[test]
    fn the_message_ends_where_it_ends_and_not_a_byte_later() {
        for body in [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "3;a=b\r\nabc\r\n000\r\nX: y\r\n\r\n",
            "A\r\n0123456789\r\n0;x\r\n\r\n",
        ] {
            let more = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(scan(more.as_bytes()), Ok((body.len(), true)), "{body:?}");
        }
    }

    #[test]
    fn any_split_gives_the_same_verdict() {
        let bodies: [&[u8]; 4] =
            [b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\nrest", b"3\r\nabcd", b"zz\r\n", b"1\r\na\r\n0\r\n folded\r\n\r\n"];
        for body in bodies {
            let whole = scan(body).map(|(taken, _)| taken);
            for cut in 0..body.len() {
                let mut scan = ChunkScan::default();
                let halves = scan.take(&body[..cut]).and_then(|first| Ok(first + scan.take(&body[first..])?));
                assert_eq!(halves, whole, "{body:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn hostile_framing_is_refused() {
        for (body, fault) in [
            ("\r\n", ChunkFault::Size),
            ("g\r\n", ChunkFault::Size),
            ("-1\r\n", ChunkFault::Size),
            ("+1\r\n", ChunkFault::Size),
            ("0x1\r\n", ChunkFault::Size),
            (" 1\r\n", ChunkFault::Size),
            ("1 \r\n", ChunkFault::Size),
            ("1\na\r\n", ChunkFault::Size),
            ("00000000000000001\r\n", ChunkFault::SizeTooLong),
            ("1;a\nb\r\n", ChunkFault::Extension),
            ("1;\0\r\n", ChunkFault::Extension),
            ("1\rX", ChunkFault::LineEnd),
            ("1\r\nab\r\n", ChunkFault::LineEnd),
            ("1\r\na\n", ChunkFault::LineEnd),
            ("0\r\n\rX", ChunkFault::LineEnd),
            ("0\r\n X: y\r\n\r\n", ChunkFault::Trailer),
            ("0\r\nX y\r\n\r\n", ChunkFault::Trailer),
            ("0\r\nX: y\n\r\n", ChunkFault::Trailer),
            ("0\r\n: y\r\n\r\n", ChunkFault::Trailer),
        ] {
            assert_eq!(scan(body.as_bytes()), Err(fault), "{body:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = format!("1;{}\r\na\r\n", "x".repeat(EXTENSION_BYTES_MAX as usize / 4)).repeat(5);
        assert_eq!(scan(extension.as_bytes()), Err(ChunkFault::ExtensionsTooLong));
        let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(TRAILERS_MAX as usize + 1));
        assert_eq!(scan(trailers.as_bytes()), Err(ChunkFault::TrailersTooLong));
        let long = format!("0\r\nX: {}\r\n\r\n", "y".repeat(TRAILER_BYTES_MAX as usize));
        assert_eq!(scan(long.as_bytes()), Err(ChunkFault::TrailersTooLong));
    }
}
