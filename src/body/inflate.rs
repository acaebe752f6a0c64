//! Deflate in its two wrappers: zlib, one stream; gzip (RFC 1952), members one after another.
//!
//! The state is made anew for each: with mimalloc that takes 0.3 µs, and a pool of states gained nothing that could be
//! measured on bodies of 2 KB or 300 KB.

use flate2::{Decompress, FlushDecompress, Status};

use super::Damage;

/// What a state holds: a window of 32 KiB, its tables and their padding (zlib-rs 0.6).
pub(super) const STATE_BYTES: usize = 48 << 10;
/// The window of all of deflate.
const WINDOW_BITS: u8 = 15;

pub(super) struct Inflate {
    /// Reads the wrapper and checks its sums too.
    stream: Decompress,
    gzip: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Stream,
    /// At the end of a stream: of gzip another may follow, or zeros to the end.
    Between,
    Padding,
}

impl Inflate {
    pub(super) fn gzip() -> Self {
        Self { stream: Decompress::new_gzip(WINDOW_BITS), gzip: true, state: State::Stream }
    }

    pub(super) fn zlib() -> Self {
        Self { stream: Decompress::new(true), gzip: false, state: State::Stream }
    }

    /// Whether the body may end here.
    pub(super) fn is_complete(&self) -> bool {
        self.state != State::Stream
    }

    /// Goes on within one stream, or between two; returns the bytes taken.
    pub(super) fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Damage> {
        match (self.state, input.first()) {
            (State::Stream, _) | (_, None) => {}
            // Zeros pad a member to a tape's or disk's block.
            (_, Some(0)) if self.gzip => {
                self.state = State::Padding;
                return Ok(input.iter().take_while(|&&byte| byte == 0).count());
            }
            (State::Between, Some(_)) if self.gzip => *self = Self::gzip(),
            _ => return Err(Damage::Found("bytes behind the end")),
        }
        let before = self.stream.total_in();
        if self.stream.decompress_vec(input, out, FlushDecompress::None)? == Status::StreamEnd {
            self.state = State::Between;
        }
        Ok((self.stream.total_in() - before) as usize)
    }
}
