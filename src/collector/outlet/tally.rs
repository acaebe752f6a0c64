//! What became of the lines that a sink wants: always `in = delivered + dropped + in_flight`.

use jiff::Timestamp;

use super::SinkReason;

/// The counters. Guarded by the outlet's lock, so that they agree whenever they are looked at.
#[derive(Debug, Default)]
pub(super) struct Tally {
    settled: Settled,
    pub(super) retries: u64,
    pub(super) last_success: Option<Timestamp>,
    /// What was dropped of nobody knows which machines, and is not noted for the journal.
    unknown: [u64; SinkReason::ALL.len()],
    /// Everything was given up: what its reader says of it comes too late.
    closed: bool,
    /// Lines counted in that an end of that name before this one had not settled, and that have not come back yet.
    carried: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settled {
    pub(super) lines_in: u64,
    pub(super) filtered: u64,
    pub(super) delivered: u64,
    pub(super) dropped: [u64; SinkReason::ALL.len()],
}

impl Tally {
    pub(super) fn settled(&self) -> Settled {
        self.settled
    }

    pub(super) fn lines_dropped(&self) -> u64 {
        self.settled.dropped.iter().sum()
    }

    /// Lines neither delivered nor dropped.
    pub(super) fn in_flight(&self) -> u64 {
        let settled = self.settled.delivered + self.lines_dropped();
        debug_assert!(settled <= self.settled.lines_in, "more was settled than came in: {self:?}");
        self.settled.lines_in.saturating_sub(settled)
    }

    /// Lines counted in that are to come back.
    #[cfg(test)]
    pub(super) fn carried(&self) -> u64 {
        self.carried
    }

    pub(super) fn came_in(&mut self, lines: u64) {
        self.settled.lines_in += lines;
    }

    /// Lines are there again: those that were carried over are counted in already.
    pub(super) fn came_back(&mut self, lines: u64) {
        let known = lines.min(self.carried);
        self.carried -= known;
        self.came_in(lines - known);
    }

    /// What is counted, without what is not journaled.
    pub(super) fn counters(&self) -> Self {
        Self { settled: self.settled, retries: self.retries, last_success: self.last_success, ..Self::default() }
    }

    /// The counters go on in the next end of that name; what is not settled is to come back there.
    pub(super) fn carried_over(self) -> Self {
        Self { carried: self.in_flight(), closed: false, ..self }
    }

    /// What has not come back by now never will: it is gone, or no longer wanted.
    pub(super) fn forgo_carried(&mut self) {
        let carried = std::mem::take(&mut self.carried);
        self.dropped_unknown(SinkReason::Shutdown, carried);
    }

    pub(super) fn filtered(&mut self, lines: u64) {
        self.settled.filtered += lines;
    }

    pub(super) fn delivered(&mut self, lines: u64) {
        if !self.closed {
            self.settled.delivered += lines;
            self.last_success = Some(Timestamp::now());
        }
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Drops lines, unless they were given up already. Who drops them says whose they were; see [`Lost`](super::lost::Lost).
    #[must_use]
    pub(super) fn dropped(&mut self, reason: SinkReason, lines: u64) -> bool {
        if !self.closed {
            self.settled.dropped[reason as usize] += lines;
        }
        !self.closed
    }

    /// Drops lines of which nobody knows whose they are.
    pub(super) fn dropped_unknown(&mut self, reason: SinkReason, lines: u64) {
        if lines > 0 && self.dropped(reason, lines) {
            self.unknown[reason as usize] += lines;
        }
    }

    /// Lines dropped of which nobody knows whose they were, by reason, since this was last asked.
    pub(super) fn take_unknown(&mut self) -> [u64; SinkReason::ALL.len()] {
        std::mem::take(&mut self.unknown)
    }
}
