//! Bytes to rows.
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

/// What a body turned out to hold. `received = rows + rejected`.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// In the order of the body.
    pub(crate) rows: Vec<Row>,
    pub(crate) arena: Vec<u8>,
    pub(crate) received: u64,
    /// By [`RejectReason`].
    pub(crate) rejected: [u64; 5],
    /// Records (rejected ones not) with strings in which invalid UTF-8 or lone surrogates became U+FFFD.
    pub(crate) repaired: u64,
    /// The first 10 rejections.
    pub(crate) errors: Vec<RecordError>,
}
