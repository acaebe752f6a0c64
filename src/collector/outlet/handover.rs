//! Ends that come and go while the drain runs: one takes another's place, goes for good, or comes back.
//!
//! The counters of a name never go back. What the end before had not settled is counted in once, and comes back from where it is: from
//! the channel, or from the spool behind the cursor.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{Channel, LogCollector, Outlet, OutletState, OutletTerms, Outlets, Source, UnderWay, Wanted, tally::Tally};
use crate::{batch::Batch, sink::Run};

/// What is remembered of an end that is gone.
#[derive(Debug, Default)]
pub(super) struct Departed {
    pub(super) tally: Tally,
    /// The line that it wanted next of the spool.
    pub(super) left: Option<u64>,
}

impl Outlet {
    /// Whether what waits is in memory alone.
    pub(crate) fn is_channel(&self) -> bool {
        matches!(self.state.inner.lock().source, Source::Channel(_))
    }

    /// Another end in the place of this one, without a line lost in between: it begins with what this one had not settled.
    pub(crate) fn handed_over(self, mut terms: OutletTerms) -> Self {
        terms.filter = terms.filter.filter(|filter| !filter.wants_all());
        let (collector, old) = (self.collector.clone(), Arc::clone(&self.state));
        let publisher = collector.shared.publisher.lock();
        let state = {
            let mut inner = old.inner.lock();
            let start = inner.goes_on_at();
            let mut tally = std::mem::take(&mut inner.tally).carried_over();
            let under_way = std::mem::take(&mut inner.under_way);
            let source = if let Source::Channel(channel) = &mut inner.source {
                let taken: Vec<_> = under_way.into_iter().filter_map(again).collect();
                let waiting = channel.handed_over(terms.bytes_max, taken);
                tally.came_back(waiting.lines());
                tally.forgo_carried();
                Source::Channel(waiting)
            } else {
                // It has no cursor any more that could be noted.
                inner.source = Source::Channel(Channel::new(0));
                collector.source_of(&terms, start, None, &mut tally)
            };
            let awaiting = std::mem::take(&mut inner.awaiting);
            // What it wants may be another.
            awaiting.shorten_before(u64::MAX);
            let state = collector.state_of(terms, tally, source, awaiting, inner.began);
            state.retired.store(old.retired.load(Relaxed), Relaxed);
            state
        };
        collector.shared.outlets.replace(&old, &state);
        drop(publisher);
        old.lost.take(old.name()).into_iter().for_each(|loss| collector.shared.journal.note(loss));
        state.store_cursor();
        Self::new(&collector, state)
    }
}

/// What was taken, as it waited before.
fn again(taken: UnderWay) -> Option<(Arc<Batch>, Wanted, usize)> {
    let UnderWay { run, bytes, .. } = taken;
    run.map(|Run { batch, rows }| (batch, Some(rows.iter().collect()), bytes))
}

impl OutletState {
    /// Leaves what is known of it behind for when a sink of its name comes back; until then it holds nothing back.
    pub(super) fn depart(&self, outlets: &Outlets) {
        let inner = self.inner.lock();
        let (tally, left) = (inner.tally.counters().carried_over(), inner.line_of_cursor());
        drop(inner);
        outlets.remember(&self.terms.name, Departed { tally, left });
        self.park_cursor();
    }
}

impl LogCollector {
    /// Offers the sink of that name nothing more; what it has not had by now it may still take.
    pub(crate) fn retire_outlet(&self, name: &str) {
        let _publisher = self.shared.publisher.lock();
        let end = self.shared.history.end().0;
        self.shared
            .outlets
            .list()
            .iter()
            .filter(|state| state.name() == name)
            .for_each(|state| self.shared.outlets.retire(state, end));
    }
}
