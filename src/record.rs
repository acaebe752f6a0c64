//! Bytes to rows. (Interface only so far.)
use std::collections::VecDeque;

use crate::batch::Row;

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

/// Parses bodies; keeps its scratch space and shape cache from one to the next, so one belongs to a connection or thread.
#[derive(Debug, Default)]
pub(crate) struct Parser {}

impl Parser {
    /// Splits `body` into records and turns each into a row.
    pub(crate) fn parse(&mut self, body: &[u8], limits: Limits) -> Parsed {
        let _ = (body, limits);
        Parsed::default()
    }
}
