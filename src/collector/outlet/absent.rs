//! In place of sinks' ends, where the crate is built without: there is none.

use std::sync::Arc;

use tokio::time::Instant;

use super::SinkStats;
use crate::{
    batch::{Batch, Group, Streams},
    journal::Loss,
    queue::Offered,
};

#[derive(Default)]
pub(crate) struct Outlets {}

#[derive(Default)]
pub(crate) struct Wants {}

/// There is nobody to wait for.
pub(crate) enum Awaited {}

impl Awaited {
    pub(crate) fn lines(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn then(&self, _then: impl FnOnce(bool) + Send + 'static) {
        match *self {}
    }
}

impl Outlets {
    #[expect(clippy::unnecessary_wraps, reason = "with sinks it may be")]
    pub(crate) fn wants(&self, _batch: &Batch, _is_asked: bool) -> Result<Wants, ()> {
        Ok(Wants {})
    }

    pub(crate) fn stats(&self) -> Vec<SinkStats> {
        Vec::new()
    }

    pub(crate) fn oldest(&self) -> Option<Instant> {
        None
    }

    pub(crate) fn in_flight(&self) -> u64 {
        0
    }

    pub(crate) fn take_lost(&self) -> Vec<Loss> {
        Vec::new()
    }

    pub(crate) fn wake(&self) {}

    pub(crate) fn give_up(&self) -> u64 {
        0
    }

    #[cfg(feature = "spool")]
    pub(crate) fn lose_before(&self, _seq: u64, _line: u64, _history: &crate::history::History) {}

    #[cfg(feature = "spool")]
    pub(crate) fn store_cursors(&self) {}
}

impl Wants {
    pub(crate) fn awaited(&self) -> Option<&Arc<Awaited>> {
        None
    }

    pub(crate) fn is_current(&self, _outlets: &Outlets) -> bool {
        true
    }

    pub(crate) fn renew(&mut self, _outlets: &Outlets, _batch: &Batch) {}

    pub(crate) fn are_none(&self) -> bool {
        true
    }

    pub(crate) fn has(&self, _row: u32) -> bool {
        false
    }

    pub(crate) fn offer(&mut self, _batch: &Arc<Batch>) {}

    pub(crate) fn fate(&self, _index: usize, group: &Group, queue: Option<(Offered, Streams)>) -> (u64, u64, u64) {
        queue.map_or((0, 0, group.lines()), |(offered, _)| (offered.accepted, offered.filtered, 0))
    }

    pub(crate) fn tell(self, _batch: &Batch) {}
}
