//! Bodies as they arrive: content decoding under caps, into one contiguous buffer that is charged as it grows.
//!
//! A [`BodyReader`] takes a body's frames in any sizes and decodes each at once, so that a body that is too large, corrupt or
//! a bomb ends where that shows, not when it has all been read. It never waits: where the next step would make it hold
//! more than its caller allows, it says what it wants ([`Progress::NeedsRoom`]) and goes on from there when called again.
//!
//! What is held at rest, decoder state included, is never more than its caller allows. While the buffer moves to a larger one, both may exist for
//! the time of a copy: at most one such pair a thread, since no call here waits.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod inflate;
#[cfg(test)]
mod tests;
mod zstd;

use std::fmt;

use bytes::Bytes;
use flate2::DecompressError;

use self::{inflate::Inflate, zstd::Zstd};

/// What a plain body reserves at first, the least that takes what has arrived: who sends a trickle holds a trickle, whatever it
/// announced.
const FIRST_STEPS: [usize; 3] = [512, STEP_MIN, 64 << 10];
/// What a plain body of known length grows by: what was announced becomes more believable the more of it is there.
const BELIEVED_RATIO: usize = 16;
/// What a compressed body reserves at first for each byte that has arrived, and at most: logs shrink to a tenth and less.
const EXPANSION: usize = 16;
const FIRST_DECODED_MAX: usize = 1 << 20;
/// How large a compressed buffer becomes by doubling: few of real senders' are larger.
pub(crate) const DECODED_FREELY_MAX: usize = 1 << 20;
/// What it grows by beyond that, and so what one call decodes before its caller is asked for room again: some 200 µs, for which others
/// wait.
const DECODED_AT_ONCE: usize = 256 << 10;
/// The smallest growth.
const STEP_MIN: usize = 4 << 10;
/// No snappy block expands further: its densest element is a copy of 64 bytes in 3.
const SNAPPY_RATIO_MAX: usize = 22;

/// A content coding that we decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    /// Any number of members, zero padding behind them.
    Gzip,
    /// Deflate in a zlib wrapper, as HTTP means it (RFC 9110, 8.4.1.2).
    Deflate,
    /// Any number of frames.
    Zstd,
    /// One raw block, as Vector sends it; not the framed format.
    Snappy,
}

impl Encoding {
    /// Reads one coding's name: blanks around it and case do not matter. `None`: one that we do not have.
    pub(crate) fn from_header(value: &[u8]) -> Option<Self> {
        const NAMES: [(&str, Encoding); 6] = [
            ("identity", Encoding::Identity),
            ("gzip", Encoding::Gzip),
            ("x-gzip", Encoding::Gzip),
            ("deflate", Encoding::Deflate),
            ("zstd", Encoding::Zstd),
            ("snappy", Encoding::Snappy),
        ];
        let value = value.trim_ascii();
        NAMES.iter().find(|(name, _)| value.eq_ignore_ascii_case(name.as_bytes())).map(|&(_, encoding)| encoding)
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
            Self::Snappy => "snappy",
        })
    }
}

/// The caps of one body, both inclusive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    pub(crate) wire_bytes_max: usize,
    pub(crate) decoded_bytes_max: usize,
}

/// Where a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a body that needs room has not taken all of its frame"]
pub(crate) enum Progress {
    /// All that was given is taken.
    Done,
    /// `consumed` bytes of the frame are taken; the rest, given again with `room >= want`, goes on. `want` is a wish for
    /// all that this body holds, never more than its caps need.
    NeedsRoom { consumed: usize, want: usize },
}

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is over {bound} bytes on the wire")]
    WireTooLarge { bound: usize },
    #[error("the body is over {bound} bytes decoded")]
    DecodedTooLarge { bound: usize },
    #[error("the {encoding} body is corrupt: {damage}")]
    Corrupt { encoding: Encoding, damage: Damage },
    #[error("the {encoding} body ends before its end")]
    Truncated { encoding: Encoding },
}

/// What is wrong with a compressed body. Shown as part of [`BodyError`], whose message alone reaches the sender.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    #[error(transparent)]
    Inflate(#[from] DecompressError),
    #[error(transparent)]
    Snappy(#[from] snap::Error),
    #[error("{0}")]
    Found(&'static str),
    #[error("a window of {bytes} bytes is over the bound of {bound} (RFC 8878, 3.1.1.1.2)")]
    Window { bytes: u64, bound: u64 },
    #[error("a block that claims {claimed} bytes cannot be {wire} bytes long")]
    Expansion { claimed: usize, wire: usize },
}

/// What a decoder's step can end in, beside progress.
#[derive(Debug)]
enum Fault {
    Damage(Damage),
    /// The body says itself that it will be over the cap.
    TooLarge,
}

impl From<Damage> for Fault {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

/// One body under way.
pub(crate) struct BodyReader {
    encoding: Encoding,
    limits: BodyLimits,
    /// The announced length on the wire; believed only as far as it saves copies.
    size_hint: Option<usize>,
    /// The decoded body; of a snappy body the wire's bytes until it is finished.
    out: Vec<u8>,
    decoder: Decoder,
    wire_bytes: u64,
}

enum Decoder {
    /// Nothing has arrived: an empty body is empty in every encoding, since senders' handshakes send such.
    Idle,
    Plain,
    Inflate(Inflate),
    Zstd(Zstd),
    Finished,
}

impl Decoder {
    fn new(encoding: Encoding, room: usize) -> Self {
        match encoding {
            Encoding::Identity | Encoding::Snappy => Self::Plain,
            Encoding::Gzip => Self::Inflate(Inflate::gzip()),
            Encoding::Deflate => Self::Inflate(Inflate::zlib()),
            Encoding::Zstd => Self::Zstd(Zstd::new(room)),
        }
    }

    /// Decodes some of `input` into the spare capacity of `out`, at most `decoded_max` bytes in all.
    fn step(&mut self, input: &[u8], out: &mut Vec<u8>, decoded_max: usize) -> Result<usize, Fault> {
        match self {
            Self::Idle | Self::Finished => Ok(0),
            Self::Plain => {
                let take = input.len().min(out.capacity() - out.len());
                out.extend_from_slice(&input[..take]);
                Ok(take)
            }
            Self::Inflate(inflate) => Ok(inflate.step(input, out)?),
            Self::Zstd(zstd) => zstd.step(input, out, decoded_max),
        }
    }

    /// Whether the encoding may end here.
    fn is_complete(&self) -> bool {
        match self {
            Self::Idle | Self::Plain | Self::Finished => true,
            Self::Inflate(inflate) => inflate.is_complete(),
            Self::Zstd(zstd) => zstd.is_complete(),
        }
    }

    /// Whether output may still come though no input is left.
    fn may_hold_output(&self) -> bool {
        match self {
            Self::Idle | Self::Plain | Self::Finished => false,
            Self::Inflate(inflate) => !inflate.is_complete(),
            Self::Zstd(zstd) => zstd.is_decoding(),
        }
    }

    /// Bytes of state held now.
    fn held_bytes(&self) -> usize {
        match self {
            Self::Idle | Self::Plain | Self::Finished => 0,
            Self::Inflate(_) => inflate::STATE_BYTES,
            Self::Zstd(zstd) => zstd.held_bytes(),
        }
    }

    /// Bytes of state that the next step will hold.
    fn next_bytes(&self) -> usize {
        match self {
            Self::Zstd(zstd) => zstd.next_bytes(),
            other => other.held_bytes(),
        }
    }
}

impl BodyReader {
    /// A body of which nothing has arrived yet; holds nothing.
    ///
    /// `size_hint` is its announced length on the wire (`Content-Length`), in bytes.
    pub(crate) fn new(encoding: Encoding, limits: BodyLimits, size_hint: Option<u64>) -> Self {
        let size_hint = size_hint.and_then(|bytes| usize::try_from(bytes).ok());
        Self { encoding, limits, size_hint, out: Vec::new(), decoder: Decoder::Idle, wire_bytes: 0 }
    }

    /// Takes (part of) one frame: decodes as much as it can without holding more than `room` bytes in total.
    ///
    /// # Errors
    ///
    /// [`BodyError`]; the body is then good for nothing but [`Self::wire_bytes`].
    pub(crate) fn push(&mut self, frame: &[u8], room: usize) -> Result<Progress, BodyError> {
        if frame.is_empty() {
            return Ok(Progress::Done);
        }
        if self.wire_bytes + frame.len() as u64 > self.limits.wire_bytes_max as u64 {
            return Err(BodyError::WireTooLarge { bound: self.limits.wire_bytes_max });
        }
        if let Some(want) = self.start(frame.len(), room) {
            return Ok(Progress::NeedsRoom { consumed: 0, want });
        }
        let mut consumed = 0;
        while consumed < frame.len() {
            let rest = &frame[consumed..];
            if let Some(want) = self.make_room(rest.len(), room)? {
                return Ok(Progress::NeedsRoom { consumed, want });
            }
            let before = self.out.len();
            let taken = self.step(rest)?;
            if taken == 0 && self.out.len() == before {
                return Err(self.corrupt(Damage::Found("the decoder makes no progress")));
            }
            consumed += taken;
            self.wire_bytes += taken as u64;
        }
        Ok(Progress::Done)
    }

    /// Says that the wire has ended: flushes what the decoder still holds and checks that the encoding is complete.
    ///
    /// May need room too, and is then called again; `consumed` is 0.
    ///
    /// # Errors
    ///
    /// As [`Self::push`].
    pub(crate) fn finish(&mut self, room: usize) -> Result<Progress, BodyError> {
        if self.encoding == Encoding::Snappy {
            return self.finish_snappy(room);
        }
        while self.decoder.may_hold_output() {
            if let Some(want) = self.make_room(0, room)? {
                return Ok(Progress::NeedsRoom { consumed: 0, want });
            }
            let before = self.out.len();
            self.step(&[])?;
            if self.out.len() == before {
                break;
            }
        }
        if !self.decoder.is_complete() {
            return Err(BodyError::Truncated { encoding: self.encoding });
        }
        self.decoder = Decoder::Finished;
        Ok(Progress::Done)
    }

    /// The decoded body, once [`Self::finish`] is done. Holds [`Self::kept_bytes`].
    pub(crate) fn into_bytes(self) -> Bytes {
        if self.is_worth_keeping() { Bytes::from(self.out) } else { Bytes::copy_from_slice(&self.out) }
    }

    /// What the [`Bytes`] of [`Self::into_bytes`] will hold: what to charge for them.
    pub(crate) fn kept_bytes(&self) -> usize {
        if self.is_worth_keeping() { self.out.capacity() } else { self.out.len() }
    }

    /// Whether there is nothing to decode.
    pub(crate) fn is_plain(&self) -> bool {
        self.encoding == Encoding::Identity
    }

    /// Bytes really held now: the buffer's capacity and the decoder's state.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn held_bytes(&self) -> usize {
        self.out.capacity() + self.decoder.held_bytes()
    }

    /// Bytes taken from the wire.
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    /// Bytes decoded so far; of a snappy body none before it is finished.
    pub(crate) fn decoded_bytes(&self) -> u64 {
        let is_wire = self.encoding == Encoding::Snappy && !matches!(self.decoder, Decoder::Finished);
        if is_wire { 0 } else { self.out.len() as u64 }
    }

    /// A buffer that is three quarters full is kept as it is: the copy would cost more than the rest is worth.
    fn is_worth_keeping(&self) -> bool {
        self.out.len() >= self.out.capacity() - self.out.capacity() / 4
    }

    /// Sets the decoder up at the first byte; `Some(want)`: there is no room for its state.
    fn start(&mut self, incoming: usize, room: usize) -> Option<usize> {
        if matches!(self.decoder, Decoder::Idle) {
            let state = match self.encoding {
                Encoding::Identity | Encoding::Snappy => 0,
                Encoding::Gzip | Encoding::Deflate => inflate::STATE_BYTES,
                Encoding::Zstd => zstd::STATE_BYTES,
            };
            let want = state + self.next_capacity(incoming);
            if want > room {
                return Some(want);
            }
            self.decoder = Decoder::new(self.encoding, room);
        }
        None
    }

    fn step(&mut self, input: &[u8]) -> Result<usize, BodyError> {
        let bound = self.limits.decoded_bytes_max;
        let step = self.decoder.step(input, &mut self.out, bound);
        // First: a decoder that has filled its room sees what is wrong behind it or does not, by how the body came in pieces.
        if self.encoding != Encoding::Snappy && self.out.len() > bound {
            return Err(BodyError::DecodedTooLarge { bound });
        }
        match step {
            Ok(taken) => Ok(taken),
            Err(Fault::Damage(damage)) => Err(self.corrupt(damage)),
            Err(Fault::TooLarge) => Err(BodyError::DecodedTooLarge { bound }),
        }
    }

    fn corrupt(&self, damage: Damage) -> BodyError {
        BodyError::Corrupt { encoding: self.encoding, damage }
    }

    /// Makes sure that the next step can write at least one byte; `Some(want)`: it may not, by `room`.
    fn make_room(&mut self, incoming: usize, room: usize) -> Result<Option<usize>, BodyError> {
        let state = self.decoder.next_bytes();
        let (len, capacity) = (self.out.len(), self.out.capacity());
        if len < capacity {
            return Ok((state + capacity > room).then_some(state + capacity));
        }
        if len >= self.capacity_max() {
            // Only a plain body gets here: a compressed one is found out by the byte beyond its cap.
            return Err(BodyError::DecodedTooLarge { bound: self.limits.decoded_bytes_max });
        }
        let target = self.next_capacity(incoming);
        let allowed = target.min(room.saturating_sub(state));
        // Less than a quarter more would make the growth quadratic under a caller who gives a little at a time.
        if allowed < target && allowed < capacity + (capacity / 4).max(STEP_MIN) {
            return Ok(Some(state + target));
        }
        self.out.reserve_exact(allowed - len);
        Ok(None)
    }

    /// The capacity to grow to: double, but of what is decoded no more than [`DECODED_AT_ONCE`] once it is large; for a plain body what was
    /// announced if that is enough and not far more than has arrived; and no more than the caps need.
    fn next_capacity(&self, incoming: usize) -> usize {
        let plain = self.arrives_plain();
        let needed = self.out.len() + if plain { incoming } else { 1 };
        let mut target = match self.out.capacity() {
            0 => self.first_capacity(incoming),
            capacity if capacity < STEP_MIN => STEP_MIN,
            capacity if plain && self.size_hint.is_some() => capacity.saturating_mul(BELIEVED_RATIO),
            capacity if plain => capacity.saturating_mul(2),
            capacity if capacity < DECODED_FREELY_MAX => capacity.saturating_mul(2).min(DECODED_FREELY_MAX),
            capacity => capacity.saturating_add(DECODED_AT_ONCE),
        };
        if let Some(hint) = self.size_hint.filter(|_| plain) {
            // Framing lets no more come than was announced; if more did, a decoder's growth is right for it.
            target = target.min(if hint >= needed { hint } else { needed.saturating_mul(2) });
        }
        target.max(needed).min(self.capacity_max())
    }

    fn first_capacity(&self, incoming: usize) -> usize {
        if self.arrives_plain() {
            let fitting = FIRST_STEPS.into_iter().find(|&step| step >= incoming);
            return fitting.unwrap_or(FIRST_STEPS[FIRST_STEPS.len() - 1]);
        }
        incoming.saturating_mul(EXPANSION).clamp(STEP_MIN, FIRST_DECODED_MAX)
    }

    /// Whether what is held while it arrives are the wire's bytes.
    fn arrives_plain(&self) -> bool {
        matches!(self.encoding, Encoding::Identity | Encoding::Snappy)
    }

    /// The largest capacity that this body can use. A decoder needs one byte beyond the cap to show that there is more.
    fn capacity_max(&self) -> usize {
        match self.encoding {
            Encoding::Snappy => self.limits.wire_bytes_max,
            Encoding::Identity => self.limits.decoded_bytes_max,
            _ => self.limits.decoded_bytes_max.saturating_add(1),
        }
    }

    /// Decodes the block whose wire bytes are all here, if the length that it claims is within the caps, possible and has room.
    fn finish_snappy(&mut self, room: usize) -> Result<Progress, BodyError> {
        if matches!(self.decoder, Decoder::Idle | Decoder::Finished) {
            self.decoder = Decoder::Finished;
            return Ok(Progress::Done);
        }
        let wire = self.out.len();
        let claimed = snap::raw::decompress_len(&self.out).map_err(|error| self.corrupt(error.into()))?;
        if claimed > self.limits.decoded_bytes_max {
            return Err(BodyError::DecodedTooLarge { bound: self.limits.decoded_bytes_max });
        }
        if claimed / SNAPPY_RATIO_MAX > wire {
            return Err(self.corrupt(Damage::Expansion { claimed, wire }));
        }
        let want = self.out.capacity() + claimed;
        if want > room {
            return Ok(Progress::NeedsRoom { consumed: 0, want });
        }
        let mut decoded = vec![0; claimed];
        match snap::raw::Decoder::new().decompress(&self.out, &mut decoded) {
            Ok(_) => {}
            Err(error) if is_short(&error) => return Err(BodyError::Truncated { encoding: self.encoding }),
            Err(error) => return Err(self.corrupt(error.into())),
        }
        self.out = decoded;
        self.decoder = Decoder::Finished;
        Ok(Progress::Done)
    }
}

/// Whether a snappy block breaks off: an element, or the whole, is shorter than it says.
fn is_short(error: &snap::Error) -> bool {
    match error {
        snap::Error::Literal { len, src_len, .. } => len > src_len,
        snap::Error::CopyRead { len, src_len } => len > src_len,
        snap::Error::HeaderMismatch { expected_len, got_len } => got_len < expected_len,
        _ => false,
    }
}
