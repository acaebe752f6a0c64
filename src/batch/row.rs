//! Where a line's texts lie in its batch.

use super::streams::Kind;

/// The top bit of a span's start: set when the bytes are in the arena, not in the body.
const ARENA: u32 = 1 << 31;

/// Where a piece of text lies: in the body as sent, or in the batch's arena. 8 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// No text at all.
    pub(crate) const EMPTY: Self = Self { start: 0, len: 0 };

    /// Bytes of the body. Bodies are under 2 GiB: `ingest.decoded_bytes_max` is bounded so.
    pub(crate) fn body(start: usize, len: usize) -> Self {
        debug_assert!(start + len < ARENA as usize);
        Self { start: start as u32, len: len as u32 }
    }

    /// Bytes of the arena.
    pub(crate) fn arena(start: usize, len: usize) -> Self {
        debug_assert!(start + len < ARENA as usize);
        Self { start: start as u32 | ARENA, len: len as u32 }
    }

    pub(crate) fn len(self) -> usize {
        self.len as usize
    }

    pub(crate) fn is_empty(self) -> bool {
        self.len == 0
    }

    pub(crate) fn is_arena(self) -> bool {
        self.start & ARENA != 0
    }

    /// Offset in the body or the arena, whichever it lies in.
    pub(crate) fn start(self) -> usize {
        (self.start & !ARENA) as usize
    }

    /// Whether all of it lies within `record`, a part of the body.
    pub(super) fn is_within(self, record: Self) -> bool {
        !self.is_arena() && self.start >= record.start && self.start + self.len <= record.start + record.len
    }

    /// The bytes that this span names.
    pub(crate) fn of<'a>(self, body: &'a [u8], arena: &'a [u8]) -> &'a [u8] {
        let from = if self.is_arena() { arena } else { body };
        &from[self.start()..self.start() + self.len()]
    }
}

/// One parsed record: spans into its batch's body and arena. Every span but `raw` names valid UTF-8. 88 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// The record as sent, always in the body; may hold invalid UTF-8 inside strings.
    pub(crate) raw: Span,
    pub(crate) machine: Span,
    pub(crate) message: Span,
    /// Only for [`Kind::Other`]; the other kinds name themselves.
    pub(crate) stream: Span,
    pub(crate) timestamp: Span,
    pub(crate) app: Span,
    pub(crate) region: Span,
    pub(crate) host: Span,
    pub(crate) level: Span,
    /// Which of the batch's rows this is in the order of the body, from 0.
    pub(crate) ordinal: u32,
    /// Index of its machine's group; set when the rows are grouped.
    pub(crate) group: u32,
    /// Which of its machine's rows in the batch this is, from 0; set when the rows are grouped.
    pub(crate) rank: u32,
    pub(crate) kind: Kind,
    /// Of the kind `system`, and from Fly's `runner`: it may tell that the machine has exited.
    pub(crate) runner: bool,
    /// Over a limit: its machine's queue drops it. Set when the batch is published.
    pub(crate) limited: bool,
    pub(crate) sent: Sent,
}

/// What is known of a record's bytes: what need not be looked for when it is written as sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Nothing.
    #[default]
    Any,
    /// Valid UTF-8.
    Utf8,
    /// Also an object without a line break and without a member [`NOTE`].
    Ready,
}

impl Sent {
    /// What is known when no more was looked at than whether it is UTF-8.
    pub(crate) fn by_utf8(is_utf8: bool) -> Self {
        if is_utf8 { Self::Utf8 } else { Self::Any }
    }

    pub(crate) fn is_utf8(self) -> bool {
        self != Self::Any
    }
}

/// The member that sinks add to a record, with its quotes.
pub(crate) const NOTE: &str = "\"fleetdrain\"";

impl Row {
    /// Bytes of this row's text that do not lie in its record.
    pub(super) fn bytes_apart(mut self) -> usize {
        let raw = self.raw;
        self.text_spans().iter().filter(|span| !span.is_within(raw)).map(|span| span.len()).sum()
    }

    /// The spans that may lie in the arena, for whoever moves a row elsewhere.
    pub(crate) fn text_spans(&mut self) -> [&mut Span; 8] {
        [
            &mut self.machine,
            &mut self.message,
            &mut self.stream,
            &mut self.timestamp,
            &mut self.app,
            &mut self.region,
            &mut self.host,
            &mut self.level,
        ]
    }
}

/// Whether two texts are the same. Ids and pieces of records are short: comparing word by word right here beats a call.
#[inline]
pub(crate) fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (Some((_, last)), Some((_, other_last))) = (one.split_last_chunk::<8>(), other.split_last_chunk::<8>()) else {
        return one.iter().zip(other).all(|(one, other)| one == other);
    };
    // The last word may overlap the one before it.
    let words = |bytes| <[u8]>::as_chunks::<8>(bytes).0;
    last == other_last && words(one).iter().zip(words(other)).all(|(one, other)| one == other)
}

/// A span's text. Every span but `raw` is valid UTF-8 by construction; a broken invariant shows as U+FFFD, never as a panic.
pub(super) fn text<'a>(span: Span, body: &'a [u8], arena: &'a [u8]) -> &'a str {
    std::str::from_utf8(span.of(body, arena)).unwrap_or("\u{FFFD}")
}

/// Appends one row's record, and its strings that lie apart from it, to `bytes`, and moves its spans there.
pub(super) fn move_row(mut row: Row, body: &[u8], arena: &[u8], bytes: &mut Vec<u8>) -> Row {
    let record = row.raw;
    let (from, to) = (record.start(), bytes.len());
    bytes.extend_from_slice(row.raw.of(body, arena));
    row.raw = Span::body(to, row.raw.len());
    for span in row.text_spans() {
        *span = match *span {
            empty if empty.is_empty() => Span::EMPTY,
            sent if sent.is_within(record) => Span::body(sent.start() - from + to, sent.len()),
            // From the arena, or from behind the record where an earlier move has put it.
            text => {
                let start = bytes.len();
                bytes.extend_from_slice(text.of(body, arena));
                Span::body(start, text.len())
            }
        };
    }
    row
}
