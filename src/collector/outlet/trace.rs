//! What became of one line at a sink's end, as far as that knows.

use super::{OutletState, Source};
use crate::batch::EntryView;

/// Where a sink began, by the number of a line: it has no part in those before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Began {
    /// `None`: not known, because an earlier version did not note it.
    pub(super) line: Option<u64>,
    /// Where this process took it up.
    pub(super) resumed: Option<u64>,
}

/// What a sink's end knows of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SinkTrace {
    /// It was there before the sink.
    Before,
    /// The sink does not want it.
    Filtered,
    /// Dropped, over a limit.
    Limited,
    /// The sink has not come to it.
    Waiting,
    /// It is on its way, and not settled.
    InFlight,
    /// The sink is past it: it was delivered, unless the journal tells of a loss.
    Passed { before_this_process: bool },
}

impl OutletState {
    /// What is known here of line `number`; `entry` with whether it is known to have been over a limit, if there is
    /// anything left of it to look at.
    pub(crate) fn trace(&self, number: u64, entry: Option<(&EntryView<'_>, bool)>) -> SinkTrace {
        let inner = self.inner.lock();
        let began = inner.began;
        if began.line.is_some_and(|line| number < line) {
            return SinkTrace::Before;
        }
        if entry.zip(self.filter()).is_some_and(|((entry, _), filter)| !filter.wants(entry)) {
            return SinkTrace::Filtered;
        }
        let limited = entry.is_some_and(|(_, limited)| limited);
        let waits = match &inner.source {
            Source::Channel(channel) => channel.has(number),
            Source::Position(position) => number >= position.line(),
        };
        if waits || limited {
            return if limited { SinkTrace::Limited } else { SinkTrace::Waiting };
        }
        if inner.under_way.iter().any(|taken| taken.has(number)) {
            return SinkTrace::InFlight;
        }
        let before_this_process = began.resumed.is_some_and(|line| number < line);
        SinkTrace::Passed { before_this_process }
    }

    /// What the sink goes back to is its own from then on.
    #[cfg(feature = "spool")]
    pub(super) fn began_before(&self, number: u64) {
        let mut inner = self.inner.lock();
        let Began { line, resumed } = inner.began;
        inner.began = Began { line: line.map(|line| line.min(number)), resumed: resumed.map(|line| line.min(number)) };
        drop(inner);
        self.store_began();
    }

    pub(super) fn store_began(&self) {
        #[cfg(feature = "spool")]
        {
            // Not with the lock held: the spool may wait for the disk.
            let line = self.inner.lock().began.line;
            if let (Some(spool), Some(line)) = (&self.spool, line) {
                spool.set_cursor_began(&self.terms.name, line);
            }
        }
    }
}
