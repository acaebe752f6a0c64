//! Zstandard (RFC 8878): any number of frames, each with a bounded window, skippable frames between them.
//!
//! Frame headers are read here before zstd sees them, because zstd allocates a frame's window as soon as it has the header:
//! so that has to be within its bound, and has to have room, before.

use std::cell::RefCell;

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, get_error_name};

use super::{Damage, Fault};

/// What a context holds before it has seen a frame; the real size is asked of it then.
pub(super) const STATE_BYTES: usize = 96 << 10;

/// RFC 8878 recommends to support windows of 8 MB at least, and gives no reason to support more: `zstd -19` uses 8 MiB.
const WINDOW_LOG_MAX: u32 = 23;
const WINDOW_BYTES_MAX: u64 = 1 << WINDOW_LOG_MAX;
/// No block is larger.
const BLOCK_BYTES_MAX: u64 = 128 << 10;
const FRAME_MAGIC: u32 = 0xFD2F_B528;
/// The 16 magic numbers of skippable frames, with their last four bits zero.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
/// Magic number and size.
const SKIPPABLE_HEADER: usize = 8;
/// Magic, descriptor, window, dictionary id and content size at their longest.
const HEADER_MAX: usize = 4 + 1 + 1 + 4 + 8;

pub(super) struct Zstd {
    /// `None` only if there was no memory for one.
    context: Option<DCtx<'static>>,
    head: [u8; HEADER_MAX],
    head_len: usize,
    state: State,
    /// Bytes that the frame at hand still has to decode to, where its header says how many: zstd does not look when its last
    /// block is empty.
    owed: Option<u64>,
}

#[derive(Clone, Copy)]
enum State {
    /// Collecting a frame's header; the encoding may end where none of it is there yet.
    Head,
    /// The header is whole, but zstd has not seen it: this is what the frame will make it hold.
    Ready {
        state_bytes: usize,
    },
    Frame,
    Skip {
        left: u32,
    },
}

impl Zstd {
    /// `room`: what the body may hold now.
    pub(super) fn new(room: usize) -> Self {
        let context = take_context(room);
        Self { context, head: [0; HEADER_MAX], head_len: 0, state: State::Head, owed: None }
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state, State::Head) && self.head_len == 0
    }

    pub(super) fn is_decoding(&self) -> bool {
        matches!(self.state, State::Frame)
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.context.as_ref().map_or(0, DCtx::sizeof)
    }

    pub(super) fn next_bytes(&self) -> usize {
        match self.state {
            State::Ready { state_bytes } => state_bytes.max(self.held_bytes()),
            _ => self.held_bytes(),
        }
    }

    /// Goes on by one header, one skip or one call of zstd; returns the bytes taken.
    pub(super) fn step(&mut self, input: &[u8], out: &mut Vec<u8>, decoded_max: usize) -> Result<usize, Fault> {
        match self.state {
            State::Head => self.take_head(input, decoded_max.saturating_sub(out.len())),
            State::Ready { .. } => {
                let (head, len) = (self.head, std::mem::take(&mut self.head_len));
                self.state = State::Frame;
                let taken = self.decode(&head[..len], out)?;
                debug_assert_eq!(taken, len, "zstd takes a header whole");
                Ok(self.decode(input, out)?)
            }
            State::Frame => Ok(self.decode(input, out)?),
            State::Skip { left } => {
                let taken = input.len().min(left as usize);
                let left = left - taken as u32;
                self.state = if left == 0 { State::Head } else { State::Skip { left } };
                Ok(taken)
            }
        }
    }

    /// Collects a frame's header, and at its end checks what the frame will need.
    fn take_head(&mut self, input: &[u8], decoded_left: usize) -> Result<usize, Fault> {
        let mut taken = 0;
        loop {
            let wanted = header_len(&self.head[..self.head_len])?;
            if self.head_len == wanted {
                self.begin_frame(decoded_left)?;
                return Ok(taken);
            }
            let piece = &input[taken..input.len().min(taken + wanted - self.head_len)];
            if piece.is_empty() {
                return Ok(taken);
            }
            self.head[self.head_len..self.head_len + piece.len()].copy_from_slice(piece);
            self.head_len += piece.len();
            taken += piece.len();
        }
    }

    fn begin_frame(&mut self, decoded_left: usize) -> Result<(), Fault> {
        let head = &self.head[..self.head_len];
        if le(&head[..4]) as u32 != FRAME_MAGIC {
            let left = le(&head[4..]) as u32;
            self.state = if left == 0 { State::Head } else { State::Skip { left } };
            self.head_len = 0;
            return Ok(());
        }
        let Frame { window, content } = Frame::read(head);
        if content.is_some_and(|bytes| bytes > decoded_left as u64) {
            return Err(Fault::TooLarge);
        }
        if window > WINDOW_BYTES_MAX {
            return Err(Damage::Window { bytes: window, bound: WINDOW_BYTES_MAX }.into());
        }
        self.owed = content;
        let block = window.min(BLOCK_BYTES_MAX);
        // As `ZSTD_decodingBufferSize_min` has it: a window, two blocks and 64 bytes, beside a block of input.
        let state_bytes = STATE_BYTES + (window + 3 * block + 64) as usize;
        self.state = State::Ready { state_bytes };
        Ok(())
    }

    fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Damage> {
        let context = self.context.as_mut().ok_or(Damage::Found("no memory for its decoder"))?;
        let mut from = InBuffer::around(input);
        let end = out.len();
        let left = context
            .decompress_stream(&mut OutBuffer::around_pos(out, end), &mut from)
            .map_err(|code| Damage::Found(get_error_name(code)))?;
        let decoded = (out.len() - end) as u64;
        self.owed = self.owed.map(|owed| owed.saturating_sub(decoded));
        if left == 0 {
            if self.owed.is_some_and(|owed| owed > 0) {
                return Err(Damage::Found("a frame decodes to less than it says"));
            }
            self.state = State::Head;
        }
        Ok(from.pos())
    }
}

impl Drop for Zstd {
    fn drop(&mut self) {
        if let Some(context) = self.context.take() {
            give_back(context);
        }
    }
}

/// Contexts that a thread keeps from one body to the next: making one takes 10 µs, three times a small body's decoding.
const KEPT_MAX: usize = 2;
/// The largest that is kept, since idle ones are charged to no budget: a window of 2 MiB, which level 3 takes for a body of
/// unknown length.
const KEPT_BYTES_MAX: usize = 3 << 20;

thread_local! {
    static KEPT: RefCell<Vec<DCtx<'static>>> = const { RefCell::new(Vec::new()) };
}

/// A context that holds at most `room` bytes, kept or new; `None` if memory is out.
fn take_context(room: usize) -> Option<DCtx<'static>> {
    let kept = KEPT.try_with(|kept| kept.borrow_mut().pop()).ok().flatten();
    let mut context = match kept.filter(|context| context.sizeof() <= room) {
        Some(context) => context,
        None => DCtx::try_create()?,
    };
    context.reset(ResetDirective::SessionOnly).ok()?;
    context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).ok()?;
    Some(context)
}

/// Keeps a context on this thread, wherever it was taken.
fn give_back(context: DCtx<'static>) {
    // An error means that the thread is ending: its contexts end with it.
    let _ = KEPT.try_with(|kept| {
        let mut kept = kept.borrow_mut();
        if kept.len() < KEPT_MAX && context.sizeof() <= KEPT_BYTES_MAX {
            kept.push(context);
        }
    });
}

/// What a frame's header says.
struct Frame {
    window: u64,
    /// Bytes decoded, where the sender knew.
    content: Option<u64>,
}

impl Frame {
    /// `head`: a frame's header, whole.
    fn read(head: &[u8]) -> Self {
        let descriptor = head[4];
        let content = match content_len(descriptor) {
            0 => None,
            // Two bytes count from 256: one byte has the smaller sizes.
            2 => Some(le(&head[head.len() - 2..]) + 256),
            len => Some(le(&head[head.len() - len..])),
        };
        let window = match content {
            Some(bytes) if is_single_segment(descriptor) => bytes,
            _ => {
                let base = 1_u64 << (10 + (head[5] >> 3));
                base + base / 8 * u64::from(head[5] & 7)
            }
        };
        Self { window, content }
    }
}

/// How long the header that begins with `head` is, as far as one can tell yet.
fn header_len(head: &[u8]) -> Result<usize, Damage> {
    if head.len() < 4 {
        return Ok(4);
    }
    let magic = le(&head[..4]) as u32;
    if magic & !0xF == SKIPPABLE_MAGIC {
        return Ok(SKIPPABLE_HEADER);
    }
    if magic != FRAME_MAGIC {
        return Err(Damage::Found("no frame begins here"));
    }
    let Some(&descriptor) = head.get(4) else { return Ok(5) };
    let window_len = usize::from(!is_single_segment(descriptor));
    let dictionary_len = [0, 1, 2, 4][usize::from(descriptor & 3)];
    Ok(5 + window_len + dictionary_len + content_len(descriptor))
}

fn is_single_segment(descriptor: u8) -> bool {
    descriptor & 1 << 5 != 0
}

/// How many bytes of the header name the content's size.
fn content_len(descriptor: u8) -> usize {
    match descriptor >> 6 {
        0 => usize::from(is_single_segment(descriptor)),
        1 => 2,
        2 => 4,
        _ => 8,
    }
}

/// Up to eight bytes, little-endian.
fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}
