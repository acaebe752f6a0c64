//! What the benches in `benches/` need of the inside. **No API**: it may change or go with any commit.
//!
//! Each item does what the server does at that place, and nothing beside it.

use bytes::Bytes;
use jiff::Timestamp;

pub use crate::sink::bench::{Lines, Lots};
use crate::{
    admission::{Draft, ERRORS_MAX, Receipt},
    body::{BodyLimits, BodyReader, Encoding, Progress},
    collector::{CollectorConfig, LogCollector},
    config::Config,
    record::{self, Limits, Parsed},
    service,
};

/// A parser that stays warm from one body to the next, with the server's default bounds.
#[derive(Debug)]
pub struct Parser {
    parser: record::Parser,
    limits: Limits,
}

impl Default for Parser {
    fn default() -> Self {
        let line_bytes_max = CollectorConfig::default().line_bytes_max;
        Self { parser: record::Parser::default(), limits: Limits { line_bytes_max, errors_max: ERRORS_MAX } }
    }
}

impl Parser {
    /// Turns a decoded body into rows.
    pub fn parse(&mut self, body: &[u8]) -> Rows {
        Rows(self.parser.parse(body, self.limits))
    }
}

/// The rows of one body.
#[derive(Debug)]
pub struct Rows(Parsed);

impl Rows {
    /// Records in the body.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.0.received
    }

    /// Of these, those that are none of a machine's.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.0.rejected.iter().sum()
    }
}

/// Takes a parsed body in: groups its rows, charges the budget, publishes.
///
/// # Panics
///
/// When the collector refuses it.
pub fn publish(collector: &LogCollector, body: Bytes, rows: Rows) -> Receipt {
    let budget = collector.budget();
    let mut permit = budget.try_reserve(body.len()).expect("the budget has room for a body");
    let mut draft = Draft::new(body, rows.0, Timestamp::now(), collector.keeps_bodies());
    let fits = permit.try_resize(draft.batch.bytes.len() + draft.batch.table_bytes());
    assert!(fits, "the budget has room for a body's rows");
    draft.batch.permit = Some(permit);
    let taken = collector.admit(draft).expect("the collector takes every body");
    taken.wait().expect("the disk takes every body")
}

/// Decodes a body that arrives in `frames`, as the server does where memory is plenty; `content_encoding` is the header's value.
///
/// # Panics
///
/// When the encoding is unknown or the body corrupt.
pub fn decode<'a>(content_encoding: &str, frames: impl IntoIterator<Item = &'a [u8]>, length: u64) -> Bytes {
    let encoding = Encoding::from_header(content_encoding.as_bytes()).expect("an encoding that the drain has");
    let ingest = Config::default().ingest;
    let limits = BodyLimits { wire_bytes_max: ingest.body_bytes_max, decoded_bytes_max: ingest.decoded_bytes_max };
    let mut reader = BodyReader::new(encoding, limits, Some(length));
    let mut room = 0;
    for mut frame in frames {
        while let Progress::NeedsRoom { consumed, want } = reader.push(frame, room).expect("a sound body") {
            frame = &frame[consumed..];
            room = want;
        }
    }
    while let Progress::NeedsRoom { want, .. } = reader.finish(room).expect("a whole body") {
        room = want;
    }
    reader.into_bytes()
}

/// What `GET /metrics` answers for `collector`.
pub fn metrics(collector: &LogCollector, config: &Config) -> impl Fn() -> String + use<> {
    service::metrics_text(collector, config)
}
