//! In place of the spool, where the crate is built without: every outlet is a channel.

use super::{Began, Channel, Inner, LogCollector, OutletState, OutletTerms, Source, Tally};

/// Where a sink goes on, where there is nothing to go on from.
pub(super) struct Start;

impl LogCollector {
    pub(super) fn start_of(&self, _name: &str) -> Start {
        Start
    }

    pub(super) fn source_of(
        &self,
        terms: &OutletTerms,
        _start: Start,
        _left: Option<u64>,
        _tally: &mut Tally,
    ) -> Source {
        Source::Channel(Channel::new(terms.bytes_max))
    }

    pub(super) fn began_of(&self, _name: &str, _source: &Source) -> Began {
        Began { line: Some(self.shared.history.end().1), resumed: None }
    }
}

impl Inner {
    pub(super) fn goes_on_at(&self) -> Start {
        Start
    }
}

impl OutletState {
    pub(super) fn park_cursor(&self) {}

    pub(super) fn store_cursor(&self) {}

    pub(super) fn store_cursor_in_time(&self) {}
}
