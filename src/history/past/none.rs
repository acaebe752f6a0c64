//! In place of the past that a spool keeps, where the crate is built without: there is none.

use super::{FleetCursor, FleetStep, History, MachineCursor, MachineStep, Next, Trail};

/// Where the history goes on from.
#[derive(Debug, Default)]
pub(crate) struct Start {
    pub(crate) seq: u64,
    pub(crate) line: u64,
    pub(crate) past: Option<Past>,
}

/// There is none.
#[derive(Debug)]
pub(crate) enum Past {}

impl Past {
    pub(crate) async fn read<T: Send + 'static>(&self, _read: impl FnOnce() -> T + Send + 'static) -> T {
        match *self {}
    }

    #[cfg(feature = "server")]
    pub(crate) async fn search<T: Send + 'static>(&self, _search: impl FnOnce() -> T + Send + 'static) -> T {
        match *self {}
    }

    #[cfg(feature = "server")]
    pub(crate) fn look_up(&self, _line: u64) -> (super::Lookup, Option<std::convert::Infallible>) {
        match *self {}
    }

    #[cfg(feature = "server")]
    pub(crate) fn load(&self, _place: &std::convert::Infallible) -> Option<crate::batch::Batch> {
        match *self {}
    }

    #[cfg(feature = "server")]
    pub(crate) fn seq_at(&self, _machine: &str, _seq: u64, _trail: Trail) -> u64 {
        match *self {}
    }

    pub(crate) fn has_gap(&self, _seqs: std::ops::Range<u64>) -> bool {
        match *self {}
    }

    pub(crate) fn has_left(&self, _seq: u64) -> bool {
        match *self {}
    }

    pub(crate) fn oldest_line(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn received_from(
        &self,
        _machine: &str,
        _seq: u64,
        _streams: crate::batch::Streams,
    ) -> Option<tokio::time::Instant> {
        match *self {}
    }

    pub(crate) fn machine_lines(
        &self,
        _machine: &str,
        _seqs: std::ops::Range<u64>,
    ) -> [u64; crate::batch::Kind::COUNT] {
        match *self {}
    }
}

impl FleetCursor {
    pub(crate) fn read_past(&mut self, _history: &History) -> Next<FleetStep> {
        unreachable!("there is no past")
    }
}

impl MachineCursor {
    pub(crate) fn read_past(&mut self, _history: &History, _machine: &str, _trail: Trail) -> Next<MachineStep> {
        unreachable!("there is no past")
    }
}
