//! The fast way through a record of unknown shape: simd-json, whose only user this is.
//!
//! It parses a scratch copy, for it unescapes in place and the body must stay pristine; its tape is reused from record to record.
//! The tape tells strings by where they lie, numbers and containers only by value. So whatever it cannot place, and whatever
//! simd-json refuses, is left to the scanner.

use std::{fmt, ops::Range};

use memchr::memchr;
use simd_json::{Buffers, Node, StaticNode, Tape};

use super::{
    fields::{Found, Level, Place, Slot, Sort, Texts, Value},
    lex::skip_blanks,
    scan::DEPTH_MAX,
};

/// The longest record that goes this way. A tape may take 24 bytes for each byte of its record, and each connection keeps one.
pub(super) const RECORD_BYTES_MAX: usize = 64 << 10;

/// What the tape could tell of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// A valid object; its fields are found.
    Object,
    /// Valid, but something else.
    NotAnObject,
    /// The scanner must say.
    Unknown,
}

/// simd-json with its buffers.
pub(super) struct TapeReader {
    scratch: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl Default for TapeReader {
    fn default() -> Self {
        Self { scratch: Vec::new(), buffers: Buffers::with_max_depth(0, DEPTH_MAX), tape: Tape(Vec::new()) }
    }
}

impl fmt::Debug for TapeReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapeReader").finish_non_exhaustive()
    }
}

impl TapeReader {
    /// Reads the record at `range`, and puts what its keys bring into `found`.
    pub(super) fn read(&mut self, body: &[u8], range: Range<usize>, found: &mut Found) -> Reading {
        let record = &body[range.clone()];
        if record.len() > RECORD_BYTES_MAX {
            return Reading::Unknown;
        }
        let padded = record.len() + simd_json::INPUT_PADDING;
        if self.scratch.len() < padded {
            self.scratch.resize(padded, b' ');
        }
        self.scratch[..record.len()].copy_from_slice(record);
        let base = self.scratch.as_ptr().addr();
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let input = &mut self.scratch[..padded];
        let reading = match simd_json::fill_tape_padded(input, record.len(), &mut self.buffers, &mut tape) {
            Ok(()) => {
                found.clear();
                let escapes = memchr(b'\\', record).is_some();
                Walk { nodes: &tape.0, base, body, start: range.start, escapes, found }.record()
            }
            Err(_) => Reading::Unknown,
        };
        self.tape = tape.reset();
        reading
    }

    /// Where the texts are that the last [`Self::read`] found in `body`.
    pub(super) fn texts<'a>(&'a self, body: &'a [u8], range: Range<usize>) -> Texts<'a> {
        Texts { body, valid: true, unescaped: Some((&self.scratch[..range.len()], range.start)) }
    }
}

/// The scanner must look: the tape does not say where a wanted value stands.
struct Unplaced;

struct Walk<'a> {
    nodes: &'a [Node<'a>],
    /// The address of the scratch copy's first byte.
    base: usize,
    body: &'a [u8],
    /// Where the record begins in the body.
    start: usize,
    /// Whether the record has a backslash anywhere.
    escapes: bool,
    found: &'a mut Found,
}

impl<'a> Walk<'a> {
    fn record(mut self) -> Reading {
        match self.nodes.first() {
            Some(&Node::Object { len, .. }) => match self.object(0, len, Level::Record) {
                Ok(()) => Reading::Object,
                Err(Unplaced) => Reading::Unknown,
            },
            Some(_) => Reading::NotAnObject,
            None => Reading::Unknown,
        }
    }

    /// The keys of the object at node `at`. Recursion ends with [`Level`]: three objects.
    fn object(&mut self, at: usize, len: usize, level: Level) -> Result<(), Unplaced> {
        let mut next = at + 1;
        for _ in 0..len {
            let (Some(&Node::String(key)), Some(&value)) = (self.nodes.get(next), self.nodes.get(next + 1)) else {
                return Err(Unplaced);
            };
            if let Some(place) = level.locate(key.as_bytes()) {
                self.found.forget(place);
                self.value(place, key, value, next + 1)?;
            }
            next += 2 + inner_nodes(value);
        }
        Ok(())
    }

    fn value(&mut self, place: Place, key: &'a str, value: Node<'a>, at: usize) -> Result<(), Unplaced> {
        match value {
            Node::Object { len, .. } => {
                if len > 0 && place.slot.is_some_and(Slot::takes_containers) {
                    return Err(Unplaced);
                }
                place.inside.map_or(Ok(()), |level| self.object(at, len, level))
            }
            Node::Array { len, .. } if len > 0 && place.slot.is_some_and(Slot::takes_containers) => Err(Unplaced),
            Node::Array { .. } => Ok(()),
            Node::String(text) => {
                let value = self.string(text);
                self.set(place, value);
                Ok(())
            }
            Node::Static(StaticNode::Null | StaticNode::Bool(false)) => Ok(()),
            Node::Static(StaticNode::Bool(true)) if place.slot.is_some_and(Slot::takes_true) => {
                let start = self.behind(key)?;
                self.set(place, Value::of(Sort::True, start, 4));
                Ok(())
            }
            Node::Static(StaticNode::Bool(true)) => Ok(()),
            Node::Static(_) if place.slot.is_some_and(Slot::takes_numbers) => {
                let start = self.behind(key)?;
                let digits = number(&self.body[start..]);
                self.set(place, Value::number(start, digits));
                Ok(())
            }
            Node::Static(_) => Ok(()),
        }
    }

    fn set(&mut self, place: Place, value: Value) {
        if let Some(slot) = place.slot {
            self.found.set(slot, value);
        }
    }

    /// A string of the scratch copy; without escapes it stands in the body just so.
    fn string(&self, text: &str) -> Value {
        let start = self.place(text);
        // An escape's first byte lies within the length of its unescaped text, for each escape gives at least one byte.
        let escaped = self.escapes && memchr(b'\\', &self.body[start..start + text.len()]).is_some();
        Value::string(start, text.len(), escaped)
    }

    /// Where in the body a string of the scratch copy begins.
    fn place(&self, text: &str) -> usize {
        text.as_ptr().addr() - self.base + self.start
    }

    /// Where the value of a key begins that is known to be followed by a colon.
    fn behind(&self, key: &str) -> Result<usize, Unplaced> {
        let end = self.place(key) + key.len();
        let colon = skip_blanks(self.body, end + 1);
        // The key's source is longer than its text if it was written with escapes.
        if self.body.get(end) != Some(&b'"') || self.body.get(colon) != Some(&b':') {
            return Err(Unplaced);
        }
        Ok(skip_blanks(self.body, colon + 1))
    }
}

/// How many nodes lie inside a value.
fn inner_nodes(value: Node<'_>) -> usize {
    match value {
        Node::Object { count, .. } | Node::Array { count, .. } => count,
        Node::String(_) | Node::Static(_) => 0,
    }
}

/// The number that valid JSON begins with.
fn number(text: &[u8]) -> &[u8] {
    let len = text.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).count();
    &text[..len]
}
