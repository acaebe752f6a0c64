//! Sinks' ends over the spool: where they begin, their cursors, what is removed before they have it, and going back.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    Began, Channel, Inner, LogCollector, OutletState, OutletTerms, Outlets, Position, SinkReason, Source, Tally,
};
use crate::{
    history::{FleetCursor, History, instant_of},
    spool::{ReadError, Seek},
};

/// How often a cursor is noted while its sink is busy.
const CURSOR_EVERY: Duration = Duration::from_millis(250);

/// Where a sink goes on that was here before.
pub(super) struct Start {
    cursor: FleetCursor,
    received: Instant,
}

/// What a sink that goes back delivers again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rewound {
    /// When the first of these lines was received; `None` if there are none.
    pub(crate) from: Option<Timestamp>,
    /// Before any filter.
    pub(crate) lines: u64,
}

/// Why a sink cannot go back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RewindError {
    #[error("without a spool there is nothing to go back to")]
    NoSpool,
    #[error("the spool cannot be read now")]
    Unreadable(#[from] ReadError),
}

impl LogCollector {
    /// Where the sink of that name stood. Waits for the disk.
    pub(super) fn start_of(&self, name: &str) -> Option<Start> {
        let spool = self.spool()?;
        spool.unpark_cursor(name);
        let seq = spool.cursor(name)?;
        // Before the disk is looked at: what is published from here on is not overlooked, if there is nothing before it.
        let (end, end_line) = self.shared.history.end();
        let caught_up = Start { cursor: FleetCursor::at(end, end_line), received: Instant::now() };
        match spool.first(Seek::Seq(seq)) {
            Ok(place) => Some(place.map_or(caught_up, |place| Start {
                cursor: FleetCursor::at(place.seq(), place.first_line()),
                received: instant_of(place.received_at()),
            })),
            Err(error) => {
                tracing::error!(%error, sink = name, "the sink's place in the spool cannot be read: it begins anew");
                None
            }
        }
    }

    /// With the publish lock held. `left`: the line that a sink of that name wanted next when it went.
    pub(super) fn source_of(
        &self,
        terms: &OutletTerms,
        start: Option<Start>,
        left: Option<u64>,
        tally: &mut Tally,
    ) -> Source {
        let history = &self.shared.history;
        if history.past().is_none() {
            return Source::Channel(Channel::new(terms.bytes_max));
        }
        let (end, end_line) = history.end();
        let is_filtered = terms.filter.is_some();
        let (cursor, since) = start.map_or((history.live(), None), |start| (start.cursor, Some(start.received)));
        if !is_filtered {
            // The spool may have let go of what came before it returned.
            let gone = left.map_or(0, |left| cursor.line().saturating_sub(left));
            tally.came_back(end_line.saturating_sub(cursor.line()) + gone);
            tally.dropped_unknown(SinkReason::QueueFull, gone);
            tally.forgo_carried();
        }
        let position = Position::new(cursor, is_filtered, end, since);
        position.forgo_carried(tally);
        Source::Position(position)
    }

    /// Where the sink of that name began, of which `source` is made. With the publish lock held.
    pub(super) fn began_of(&self, name: &str, source: &Source) -> Began {
        let now = self.shared.history.end().1;
        let (Some(spool), Source::Position(position)) = (self.spool(), source) else {
            return Began { line: Some(now), resumed: None };
        };
        match spool.cursor(name) {
            Some(_) => Began { line: spool.cursor_began(name), resumed: Some(position.line()) },
            None => Began { line: Some(position.line()), resumed: None },
        }
    }

    /// Forgets where sinks stood that are not named, so that they hold nothing back any more.
    pub(crate) fn forget_sinks_but(&self, names: &[&str]) {
        let Some(spool) = self.spool() else { return };
        for (name, seq) in spool.cursors().iter().filter(|(name, _)| !names.contains(&name.as_str())) {
            // `None`: the disk does not say.
            let lines_at_most = match spool.first(Seek::Seq(*seq)) {
                Ok(next) => Some(next.map_or(0, |next| self.shared.history.end().1.saturating_sub(next.first_line()))),
                Err(_) => None,
            };
            if lines_at_most == Some(0) {
                tracing::info!(sink = %name, "a sink is no longer configured; it had everything");
            } else {
                tracing::warn!(
                    sink = %name,
                    lines_at_most,
                    "a sink is no longer configured: what it has not had of the spool is given up; once it is set again `fleetdrain \
                     sinks rewind` delivers what the spool still keeps"
                );
            }
            spool.remove_cursor(name);
        }
    }
}

impl Outlets {
    /// Batches before number `seq`, whose lines end at `line`, are about to go.
    pub(crate) fn lose_before(&self, seq: u64, line: u64, history: &History) {
        for state in self.list().iter() {
            let mut inner = state.inner.lock();
            let Inner { tally, source: Source::Position(position), awaiting, .. } = &mut *inner else { continue };
            let dropped = tally.lines_dropped();
            position.lose_before(seq, line, history, tally);
            if tally.lines_dropped() > dropped {
                awaiting.shorten_before(position.seq());
            }
            Inner::unlock(inner);
        }
    }

    /// Notes where every sink stands.
    pub(crate) fn store_cursors(&self) {
        self.list().iter().for_each(|state| state.store_cursor());
    }
}

impl Inner {
    /// Where another end goes on that takes the place of this one: at the first line that is not settled.
    pub(super) fn goes_on_at(&self) -> Option<Start> {
        if let Source::Channel(_) = self.source {
            return None;
        }
        let (seq, line) = self.unsettled();
        Some(Start { cursor: FleetCursor::at(seq, line), received: self.oldest().unwrap_or_else(Instant::now) })
    }

    /// The number of the batch before which everything is settled, if it is to be noted.
    fn cursor_to_store(&mut self, every: Duration) -> Option<u64> {
        let (seq, _) = self.unsettled();
        let Source::Position(position) = &mut self.source else { return None };
        let now = Instant::now();
        if position.stored.is_some_and(|(_, at)| now.saturating_duration_since(at) < every) {
            return None;
        }
        let before = position.stored.replace((seq, now));
        (before.map(|(seq, _)| seq) != Some(seq)).then_some(seq)
    }
}

impl OutletState {
    /// Lets its cursor hold nothing back until a sink of that name is there again.
    pub(super) fn park_cursor(&self) {
        if let Some(spool) = &self.spool {
            spool.park_cursor(&self.terms.name);
        }
    }

    pub(super) fn store_cursor(&self) {
        self.store_cursor_every(Duration::ZERO);
    }

    pub(super) fn store_cursor_in_time(&self) {
        self.store_cursor_every(CURSOR_EVERY);
    }

    fn store_cursor_every(&self, every: Duration) {
        let Some(spool) = &self.spool else { return };
        // Noted in the order in which they are found: a later one must not be overtaken.
        let _one_at_a_time = self.storing.lock();
        let due = self.inner.lock().cursor_to_store(every);
        if let Some(seq) = due {
            spool.set_cursor(&self.terms.name, seq);
        }
    }

    /// Goes back to what was received at `since` or later, or says what that would come to. Waits for the disk.
    ///
    /// What is under way stays so, and may then be delivered twice.
    ///
    /// # Errors
    ///
    /// See [`RewindError`].
    pub(crate) fn rewind(&self, since: Timestamp, dry_run: bool) -> Result<Rewound, RewindError> {
        let spool = self.spool.as_ref().ok_or(RewindError::NoSpool)?;
        let nothing = Rewound { from: None, lines: 0 };
        let Some(place) = spool.first(Seek::Time(since))? else { return Ok(nothing) };
        let lines = {
            let mut inner = self.inner.lock();
            let Inner { tally, source: Source::Position(position), .. } = &mut *inner else {
                return Err(RewindError::NoSpool);
            };
            let lines = position.lines_since(place.first_line());
            if !dry_run {
                position.go_back(place.seq(), place.first_line(), instant_of(place.received_at()), tally);
            }
            lines
        };
        if lines == 0 {
            return Ok(nothing);
        }
        if !dry_run {
            self.began_before(place.first_line());
            self.store_cursor();
            self.ready.notify_one();
        }
        Ok(Rewound { from: Some(place.received_at()), lines })
    }
}
