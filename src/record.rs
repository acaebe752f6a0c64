//! Bytes to rows: the forms of a body, the grammar of a record, the seed's field rules. Pure: no I/O, no clock.
//!
//! `forms` splits a body into records. A record of a known `shape` needs a few comparisons and one look at each value; any other
//! goes to `scan`, which knows the whole grammar and has the last word; `fields` holds the rules for both.
//!
//! ```
//! let body = "{\"machine_id\":\"4d891d77b05118\",\"message\":\"hello\"}\nnot json\n";
//! let parsed = fleetdrain::record::parse_ndjson(body);
//! assert_eq!((parsed.received(), parsed.rejected()), (2, 1));
//! assert_eq!(parsed.entries().next().map(|entry| entry.message()), Some("hello"));
//! ```

use std::{collections::VecDeque, fmt};

use bytes::Bytes;

#[cfg(any(feature = "server", feature = "spool"))]
pub(crate) use self::pool::Parsers;
use self::{
    fields::{Found, Texts},
    scan::Scanner,
    shape::Shapes,
};
use crate::{
    batch::{EntryView, LogEntry, Row, Sent, Span},
    config::BootLines,
};

mod boot;
mod fields;
mod forms;
mod lex;
#[cfg(any(feature = "server", feature = "spool"))]
mod pool;
mod scan;
mod shape;
mod text;

#[cfg(any(test, feature = "fuzzing"))]
mod agreement;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "only tests and fuzzing ask it")]
mod reference;
#[cfg(test)]
mod tests;

/// Bytes of a body over which spans cannot reach.
const BODY_BYTES_MAX: usize = 1 << 31;

/// Why a record was rejected: the first of these that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RejectReason {
    /// Longer than `ingest.line_bytes_max`.
    LineTooLong,
    /// Nested deeper than 1,000 levels.
    TooDeep,
    /// Not JSON by RFC 8259.
    MalformedJson,
    /// JSON, but not an object.
    NotAnObject,
    /// None of the fields that name a machine fits.
    NoMachineId,
}

impl RejectReason {
    /// All reasons, in the order in which they are looked for.
    pub const ALL: [Self; 5] =
        [Self::LineTooLong, Self::TooDeep, Self::MalformedJson, Self::NotAnObject, Self::NoMachineId];

    /// The name in answers and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LineTooLong => "line_too_long",
            Self::TooDeep => "too_deep",
            Self::MalformedJson => "malformed_json",
            Self::NotAnObject => "not_an_object",
            Self::NoMachineId => "no_machine_id",
        }
    }
}

/// One rejected record, named by its place in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Its ordinal among the records received, from 1.
    pub record: u64,
    /// The line of the decoded body where it begins, from 1.
    pub line: u64,
    /// Why.
    pub reason: RejectReason,
}

/// A rejected record with the start of its bytes, for `GET /api/v1/rejected`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RejectedSample {
    pub(crate) error: RecordError,
    /// At most 1 KiB.
    pub(crate) bytes: Box<[u8]>,
}

/// Bounds of the parser.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The largest single record, in bytes.
    pub(crate) line_bytes_max: usize,
    /// Rejections kept with their place: 10 for an answer, all of them for `fleetdrain parse`.
    pub(crate) errors_max: usize,
}

/// What a body turned out to hold. `received = rows + rejected`.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// In the order of the body.
    pub(crate) rows: Vec<Row>,
    pub(crate) arena: Vec<u8>,
    pub(crate) received: u64,
    /// By [`RejectReason`].
    pub(crate) rejected: [u64; 5],
    /// Accepted records with strings in which invalid UTF-8 or lone surrogates became U+FFFD.
    pub(crate) repaired: u64,
    /// The first rejections, at most [`Limits::errors_max`].
    pub(crate) errors: Vec<RecordError>,
    /// The last 100 rejections.
    pub(crate) samples: VecDeque<RejectedSample>,
}

/// Parses bodies; keeps its scratch space and shapes from one to the next, so one belongs to a connection or thread.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    scanner: Scanner,
    shapes: Shapes,
    found: Found,
    /// Empty; its memory is kept for the next body's strings.
    arena: Vec<u8>,
    /// Bytes of body for each row of the last body; 0 before the first.
    record_bytes: usize,
    /// Whether what init, the kernel and Firecracker write is of the kind `system`.
    boot_is_system: bool,
}

impl Parser {
    /// A parser that takes lines of init, the kernel and Firecracker for what `boot_lines` says.
    pub(crate) fn new(boot_lines: BootLines) -> Self {
        Self { boot_is_system: boot_lines == BootLines::System, ..Self::default() }
    }

    /// Splits `body` into records and turns each into a row.
    ///
    /// `body` is decoded, less than 2 GiB. Rows come in input order; a bad record is counted in its place and never stops its
    /// neighbours.
    pub(crate) fn parse(&mut self, body: &[u8], limits: Limits) -> Parsed {
        forms::parse(self, body, limits)
    }

    /// As [`Parser::parse`], of a body that is known to be lines: a first record that is an array, or two, spoils only itself.
    #[cfg(feature = "fly")]
    pub(crate) fn parse_lines(&mut self, body: &[u8], limits: Limits) -> Parsed {
        forms::parse_lines(self, body, limits)
    }
}

/// Parses one record by the drain's field rules: the counterpart of the Python module's function of that name.
///
/// `record` is one JSON object with or without white space around it, of any length up to 512 MiB.
///
/// # Errors
///
/// Gives the first [`RejectReason`] that holds if the record is none of a machine's.
///
/// ```
/// use fleetdrain::record::{RejectReason, parse_log_entry};
///
/// let record = br#"{"fly":{"app":{"instance":"4d891d77b05118","name":"web"}},"message":"hello"}"#;
/// let entry = parse_log_entry(record).expect("a machine is named");
/// assert_eq!((entry.machine_id(), entry.app_name(), entry.stream()), ("4d891d77b05118", "web", "stdout"));
/// assert_eq!(parse_log_entry(b"[1]"), Err(RejectReason::NotAnObject));
/// ```
pub fn parse_log_entry(record: &[u8]) -> Result<LogEntry, RejectReason> {
    let record = forms::trim_blanks(record);
    if record.len() > RECORD_BYTES_MAX {
        return Err(RejectReason::LineTooLong);
    }
    let mut found = Found::default();
    let scan = Scanner::default().scan(record, 0, &mut found);
    scan.verdict(record.len())?;
    let texts = Texts { body: record, sent: Sent::Any };
    let mut arena = Vec::new();
    let raw = Span::body(0, record.len());
    let row = found.row(&texts, raw, false, &mut arena).ok_or(RejectReason::NoMachineId)?;
    Ok(EntryView { body: record, arena: &arena, row: &row, origin: None }.to_entry())
}

/// The longest record that [`parse_log_entry`] takes, so that its repaired text can still be addressed.
const RECORD_BYTES_MAX: usize = 512 << 20;

/// Parses a whole body in any form that a sender may post: JSON lines, one array, or objects one after another.
///
/// The counterpart of the Python module's function of that name. Where that skipped what it could not read, this says what it was:
/// see [`ParsedBody::errors`].
///
/// # Panics
///
/// If the body is 2 GiB or larger.
///
/// ```
/// use fleetdrain::record::{RejectReason, parse_ndjson};
///
/// let parsed = parse_ndjson(r#"[{"instance":"a1","msg":"up"},{"msg":"nobody's"}]"#);
/// let messages: Vec<_> = parsed.entries().map(|entry| entry.message()).collect();
/// assert_eq!(messages, ["up"]);
/// assert_eq!(parsed.errors()[0].reason, RejectReason::NoMachineId);
/// ```
pub fn parse_ndjson(body: impl Into<Bytes>) -> ParsedBody {
    let bytes = body.into();
    assert!(bytes.len() < BODY_BYTES_MAX, "body of {} bytes: a body is less than 2 GiB", bytes.len());
    let limits = Limits { line_bytes_max: usize::MAX, errors_max: usize::MAX };
    let parsed = Parser::default().parse(&bytes, limits);
    ParsedBody { bytes, parsed }
}

/// What [`parse_ndjson`] found; holds the body, from which its entries borrow.
pub struct ParsedBody {
    bytes: Bytes,
    parsed: Parsed,
}

impl ParsedBody {
    /// The accepted records, in the order of the body.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = EntryView<'_>> {
        let (body, arena) = (&*self.bytes, &*self.parsed.arena);
        self.parsed.rows.iter().map(move |row| EntryView { body, arena, row, origin: None })
    }

    /// The accepted records as owned entries, in the order of the body.
    #[must_use]
    pub fn into_entries(self) -> Vec<LogEntry> {
        self.entries().map(|entry| entry.to_entry()).collect()
    }

    /// Records in the body: those accepted and those rejected.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.parsed.received
    }

    /// Records that are none of a machine's.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.parsed.rejected.iter().sum()
    }

    /// Every rejection, in the order of the body.
    #[must_use]
    pub fn errors(&self) -> &[RecordError] {
        &self.parsed.errors
    }

    /// Accepted records with strings in which invalid UTF-8 or lone surrogates became U+FFFD.
    #[must_use]
    pub fn repaired(&self) -> u64 {
        self.parsed.repaired
    }
}

impl fmt::Debug for ParsedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParsedBody")
            .field("received", &self.received())
            .field("rejected", &self.rejected())
            .field("repaired", &self.repaired())
            .finish_non_exhaustive()
    }
}
