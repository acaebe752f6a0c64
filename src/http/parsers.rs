//! A few parsers, each with its scratch space and shape cache warm, shared by all connections.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::ingest::Arrived;
use crate::{
    admission::Draft,
    budget::Permit,
    record::{Limits, Parser},
};

/// A pool of parsers. The last one used goes out first: its caches are warm.
#[derive(Clone, Debug)]
pub(super) struct Parsers {
    idle: Arc<Mutex<Vec<Parser>>>,
    idle_max: usize,
}

impl Parsers {
    /// Keeps at most `idle_max` parsers while they are not used.
    pub(super) fn new(idle_max: usize) -> Self {
        Self { idle: Arc::default(), idle_max }
    }

    /// Parses a body into a draft; see [`Draft::new`] for `whole`. Takes up to seconds of CPU for the largest bodies.
    pub(super) fn build(&self, arrived: Arrived, limits: Limits, whole: bool) -> (Draft, Permit) {
        let mut parser = self.pop();
        let parsed = parser.parse(&arrived.bytes, limits);
        self.give_back(parser);
        (Draft::new(arrived.bytes, parsed, Timestamp::now(), whole), arrived.permit)
    }

    fn pop(&self) -> Parser {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, parser: Parser) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.idle_max {
            idle.push(parser);
        }
    }
}
