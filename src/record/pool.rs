//! A few parsers, each with its scratch space and shape cache warm, shared by all who read bodies.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{Limits, Parsed, Parser};
use crate::config::BootLines;

/// A pool of parsers. The last one used goes out first: its caches are warm.
#[derive(Clone, Debug)]
pub(crate) struct Parsers {
    idle: Arc<Mutex<Vec<Parser>>>,
    idle_max: usize,
    boot_lines: BootLines,
}

impl Parsers {
    /// Keeps at most `idle_max` parsers while they are not used.
    pub(crate) fn new(idle_max: usize, boot_lines: BootLines) -> Self {
        Self { idle: Arc::default(), idle_max, boot_lines }
    }

    /// As [`Parser::parse`]. Takes up to seconds of CPU for the largest bodies.
    pub(crate) fn parse(&self, body: &[u8], limits: Limits) -> Parsed {
        let idle = self.idle.lock().pop();
        let mut parser = idle.unwrap_or_else(|| Parser::new(self.boot_lines));
        let parsed = parser.parse(body, limits);
        let mut idle = self.idle.lock();
        if idle.len() < self.idle_max {
            idle.push(parser);
        }
        parsed
    }
}
