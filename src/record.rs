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
        // stub: lines of flat objects with an `instance`, named by their place.
        let _ = limits;
        let mut parsed = Parsed::default();
        for (index, line) in body.split(|&byte| byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            parsed.received += 1;
            let value: Result<serde_json::Value, _> = serde_json::from_slice(line);
            let reason = match &value {
                Err(_) => RejectReason::MalformedJson,
                Ok(serde_json::Value::Object(object)) if object.contains_key("instance") => {
                    let at = |part: &[u8]| part.as_ptr() as usize - body.as_ptr() as usize;
                    let key = b"\"instance\":\"";
                    let from = line.windows(key.len()).position(|window| window == key).map_or(0, |at| at + key.len());
                    let length = line[from..].iter().position(|&byte| byte == b'"').unwrap_or(0);
                    let machine = crate::batch::Span::body(at(line) + from, length);
                    let raw = crate::batch::Span::body(at(line), line.len());
                    parsed.rows.push(Row { raw, machine, ordinal: parsed.rows.len() as u32, ..Row::default() });
                    continue;
                }
                Ok(serde_json::Value::Object(_)) => RejectReason::NoMachineId,
                Ok(_) => RejectReason::NotAnObject,
            };
            parsed.rejected[reason as usize] += 1;
            let error = RecordError { record: parsed.received, line: index as u64 + 1, reason };
            if parsed.errors.len() < limits.errors_max {
                parsed.errors.push(error);
            }
            parsed.samples.push_back(RejectedSample { error, bytes: line.into() });
        }
        parsed
    }
}
