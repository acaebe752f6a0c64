//! Bodies whose answers wait for sinks (`ack = "sink"`).

use std::{collections::VecDeque, sync::Arc};

use crate::sync::Mutex;

/// Told whether every line that was wanted is in a store.
type Then = Box<dyn FnOnce(bool) + Send>;

/// A body that sinks are asked to acknowledge: settled when each of them has.
///
/// If the drain ends before, it is dropped, and with it who was to be told.
pub(crate) struct Awaited {
    /// Lines that one of these sinks wants.
    lines: u64,
    state: Mutex<State>,
}

struct State {
    /// Sinks that have not settled it, and one for who is to be told.
    left: usize,
    /// Some of the lines were dropped.
    is_short: bool,
    then: Option<Then>,
}

impl Awaited {
    pub(super) fn new(lines: u64) -> Self {
        Self { lines, state: Mutex::new(State { left: 1, is_short: false, then: None }) }
    }

    /// Lines that one of the sinks wants.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// Calls `then` when all is settled: at once, or on the thread of the sink that is the last.
    pub(crate) fn then(&self, then: impl FnOnce(bool) + Send + 'static) {
        self.state.lock().then = Some(Box::new(then));
        self.settled_by_one();
    }

    /// Not every line comes to a store.
    pub(super) fn shorten(&self) {
        self.state.lock().is_short = true;
    }

    pub(super) fn settled_by_one(&self) {
        let mut state = self.state.lock();
        state.left -= 1;
        let then = if state.left == 0 { state.then.take() } else { None };
        let is_whole = !state.is_short;
        drop(state);
        if let Some(then) = then {
            then(is_whole);
        }
    }
}

/// The bodies that one sink is asked to acknowledge, by their batches' numbers.
#[derive(Default)]
pub(super) struct Awaiting(VecDeque<(u64, Arc<Awaited>)>);

impl Awaiting {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A batch is about to be published whose lines the sink has taken charge of, or has not.
    pub(super) fn push(&mut self, seq: u64, awaited: &Arc<Awaited>, is_taken: bool) {
        if is_taken {
            awaited.state.lock().left += 1;
            self.0.push_back((seq, Arc::clone(awaited)));
        } else {
            awaited.shorten();
        }
    }

    /// Lines of this batch were dropped.
    pub(super) fn shorten(&self, seq: u64) {
        let at = self.0.partition_point(|(other, _)| *other < seq);
        if let Some((_, awaited)) = self.0.get(at).filter(|(other, _)| *other == seq) {
            awaited.shorten();
        }
    }

    /// Lines were dropped of batches before this one; nobody knows which.
    pub(super) fn shorten_before(&self, seq: u64) {
        self.0.iter().take_while(|(other, _)| *other < seq).for_each(|(_, awaited)| awaited.shorten());
    }

    /// Takes out those before batch number `seq`: they are settled, which is to be told with no lock held.
    pub(super) fn settled_before(&mut self, seq: u64) -> Vec<Arc<Awaited>> {
        let count = self.0.partition_point(|(other, _)| *other < seq);
        self.0.drain(..count).map(|(_, awaited)| awaited).collect()
    }

    /// Nobody hears of them any more.
    pub(super) fn clear(&mut self) -> Vec<Arc<Awaited>> {
        self.0.drain(..).map(|(_, awaited)| awaited).collect()
    }
}
