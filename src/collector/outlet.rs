//! One sink's end of the collector: what it wants of each batch, until it has settled it.
//!
//! Without a spool an outlet is a bounded channel of whole batches; what is under way counts too, until it is settled. With one it is
//! a position, and reads the past at its own pace: in the history where that holds the batch, else on the disk. Its cursor
//! there moves when everything before it is settled, so what was not is there at the next start.
//!
//! What a sink wants of a body is found before the publish lock is taken; see [`Wants`]. An outlet is offered a batch under that
//! lock, just before the history has it, so that no line is delivered that was not counted in.
//!
//! Lock order: publish → outlet → history.

mod awaited;
mod channel;
mod handover;
mod lost;
#[cfg_attr(not(feature = "spool"), expect(dead_code, reason = "without a spool there is no past to stand in"))]
mod position;
#[cfg(feature = "spool")]
mod spooled;
mod tally;
mod trace;
#[cfg(not(feature = "spool"))]
mod unspooled;
mod wants;

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use jiff::Timestamp;
use tokio::time::Instant;

#[cfg(feature = "spool")]
pub(crate) use self::spooled::RewindError;
pub(crate) use self::{
    awaited::Awaited,
    trace::SinkTrace,
    wants::{Outlets, Wants},
};
use self::{
    awaited::Awaiting,
    channel::{Channel, Room},
    handover::Departed,
    lost::Lost,
    position::{Ahead, Fetched, Position},
    tally::{Settled, Tally},
    trace::Began,
};
use super::{LogCollector, SinkStats};
use crate::{
    batch::Batch,
    budget::{Budget, Permit},
    filter::Filter,
    journal::Loss,
    sink::{Rows, Run},
    sync::{Mutex, MutexGuard, Notify, atomic::AtomicBool},
};

/// What an outlet without a spool does when it has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OutletFull {
    /// Drops what comes, at once.
    #[default]
    DropNewest,
    /// Refuses bodies with lines for it.
    Block,
}

impl OutletFull {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::DropNewest => "drop_newest",
            Self::Block => "block",
        }
    }
}

/// What a sink wants of the collector.
#[derive(Clone, Debug)]
pub(crate) struct OutletTerms {
    /// Unlike any other's; its cursor in a spool goes by this.
    pub(crate) name: Box<str>,
    /// `None`: every line.
    pub(crate) filter: Option<Filter>,
    /// Without a spool, which has a `full` of its own.
    pub(crate) full: OutletFull,
    /// Without a spool: of the batches that wait or are under way, as charged to the budget. An empty outlet takes any one.
    pub(crate) bytes_max: usize,
    /// Whether who sends lines for it waits until it has settled them.
    pub(crate) is_awaited: bool,
}

/// Why lines were dropped that a sink wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SinkReason {
    QueueFull = 0,
    DeadLetter = 1,
    Limited = 2,
    Shutdown = 3,
}

impl SinkReason {
    pub(crate) const ALL: [Self; 4] = [Self::QueueFull, Self::DeadLetter, Self::Limited, Self::Shutdown];
    /// The names in metrics, by the variants' numbers: the closed set of the contract.
    pub(crate) const NAMES: [&str; 4] = ["queue_full", "dead_letter", "limited", "shutdown"];

    pub(crate) fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// Which rows of a batch a sink wants; `None`: all.
type Wanted = Option<Arc<[u32]>>;

/// What a sink wants of one batch, on its way.
#[derive(Debug)]
pub(crate) struct Taken {
    /// A line at least.
    pub(crate) run: Run,
    /// 1, 2, 3… in the order of taking; see [`OutletState::done`].
    pub(crate) number: u64,
}

/// What was taken and is not settled.
#[derive(Debug)]
struct UnderWay {
    number: u64,
    seq: u64,
    first_line: u64,
    /// Of the whole batch.
    lines: u64,
    /// Of a channel, which alone cannot find it again.
    run: Option<Run>,
    received: Instant,
    /// Of the channel's bound.
    bytes: usize,
}

/// One sink's end of the collector. It is the sink's only reader.
///
/// Dropping it ends it: without a spool what was not settled is dropped with reason `shutdown`, with one it is left there.
pub(crate) struct Outlet {
    collector: LogCollector,
    state: Arc<OutletState>,
    fetching: Option<Pin<Box<dyn Future<Output = Fetched> + Send>>>,
}

/// What everybody may know of an outlet, and its reader tells.
pub(crate) struct OutletState {
    terms: OutletTerms,
    budget: Arc<Budget>,
    #[cfg(feature = "spool")]
    spool: Option<crate::spool::Spool>,
    /// Held while the cursor is noted.
    #[cfg(feature = "spool")]
    storing: Mutex<()>,
    ready: Notify,
    lost: Lost,
    /// It is offered nothing more.
    retired: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    tally: Tally,
    source: Source,
    under_way: VecDeque<UnderWay>,
    awaiting: Awaiting,
    numbers: u64,
    last_error: Option<String>,
    began: Began,
}

enum Source {
    Channel(Channel),
    #[cfg_attr(not(feature = "spool"), expect(dead_code, reason = "without a spool there is no past to stand in"))]
    Position(Position),
}

/// What an outlet's reader finds.
enum Step {
    Lines(Taken),
    /// There may be more now.
    Again,
    Past,
    Empty,
}

impl Outlet {
    pub(super) fn new(collector: &LogCollector, state: Arc<OutletState>) -> Self {
        Self { collector: collector.clone(), state, fetching: None }
    }

    /// What its sink tells, and others ask.
    pub(crate) fn state(&self) -> &Arc<OutletState> {
        &self.state
    }

    /// The next lines wanted, of one batch; `None` when the collector has shut down and everything was taken.
    ///
    /// With a spool nothing bounds how much is taken and not settled, but who takes it. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Taken> {
        loop {
            // Asked before the step: nothing is published behind it.
            let is_shutting_down = self.collector.is_shutting_down();
            match self.step() {
                Step::Lines(taken) => return Some(taken),
                Step::Again => {}
                Step::Past => self.fetch().await,
                Step::Empty if is_shutting_down => return None,
                Step::Empty => self.state.ready.notified().await,
            }
        }
    }

    /// As [`Outlet::next`], where that need not wait: neither for lines to come, nor for the disk.
    pub(crate) fn try_next(&mut self) -> Option<Taken> {
        loop {
            match self.step() {
                Step::Lines(taken) => return Some(taken),
                Step::Again => {}
                Step::Past | Step::Empty => return None,
            }
        }
    }

    fn step(&mut self) -> Step {
        let history = &self.collector.shared.history;
        let mut inner = self.state.inner.lock();
        match &mut inner.source {
            Source::Channel(channel) => {
                let Some((batch, wanted, bytes)) = channel.pop() else { return Step::Empty };
                let picked = pick(&batch, 0, &wanted);
                self.state.hand_out(inner, &batch, picked, bytes)
            }
            Source::Position(position) => {
                let ahead = position.step(history);
                drop(inner);
                match ahead {
                    Ahead::Empty => Step::Empty,
                    Ahead::Past => Step::Past,
                    Ahead::Ready(fetched) => self.state.claim(*fetched),
                    // Not with the lock held, which publishing waits for.
                    Ahead::Held { from, to, next, known } => {
                        self.state.claim(Fetched::new(from, to, next, known, self.state.filter()))
                    }
                }
            }
        }
    }

    /// Reads from the disk what comes next.
    async fn fetch(&mut self) {
        let (collector, state) = (&self.collector, &self.state);
        let fetching = self.fetching.get_or_insert_with(|| {
            let (collector, state) = (collector.clone(), Arc::clone(state));
            Box::pin(position::fetch(collector, state))
        });
        let fetched = fetching.as_mut().await;
        self.fetching = None;
        // The next step finds it.
        self.state.keep(fetched);
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.state.store_cursor();
        // What a shutdown leaves is told by the collector, to who asks it last.
        if !self.collector.is_shutting_down() {
            self.collector.remove_outlet(&self.state);
        }
    }
}

impl UnderWay {
    /// Whether a line is of its batch.
    fn has(&self, line: u64) -> bool {
        (self.first_line..self.first_line + self.lines).contains(&line)
    }
}

impl Inner {
    /// The first batch that is not settled, by its number, and the line of it that is the first; of a channel only the number counts.
    fn unsettled(&self) -> (u64, u64) {
        let next = match &self.source {
            Source::Channel(channel) => (channel.next_seq(), u64::MAX),
            Source::Position(position) => (position.seq(), position.line()),
        };
        self.under_way.iter().map(|taken| (taken.seq, taken.first_line)).min().map_or(next, |taken| taken.min(next))
    }

    /// The first line that it delivers again when it goes on from its cursor; `None`: it has none.
    fn line_of_cursor(&self) -> Option<u64> {
        matches!(self.source, Source::Position(_)).then(|| self.unsettled().1)
    }

    /// Gives the lock back, and then tells of the bodies that are settled by now.
    fn unlock(mut inner: MutexGuard<'_, Self>) {
        let mut settled = Vec::new();
        if inner.awaiting.len() > 0 {
            let (seq, _) = inner.unsettled();
            settled = inner.awaiting.settled_before(seq);
        }
        drop(inner);
        settled.iter().for_each(|awaited| awaited.settled_by_one());
    }

    /// When the oldest line was received that is not settled.
    fn oldest(&self) -> Option<Instant> {
        let waiting = match &self.source {
            Source::Channel(channel) => channel.oldest(),
            Source::Position(position) => position.waiting_since(),
        };
        let under_way = self.under_way.iter().map(|taken| taken.received).min();
        [waiting, under_way].into_iter().flatten().min()
    }
}

impl Source {
    fn give_back(&mut self, bytes: usize) {
        if let Self::Channel(channel) = self {
            channel.give_back(bytes);
        }
    }
}

/// Rows that are wanted, apart from those of them that are over a limit.
struct Picked {
    rows: Rows,
    limited: Vec<u32>,
}

/// The rows wanted from `from` on.
fn pick(batch: &Batch, from: u32, wanted: &Wanted) -> Picked {
    let all = |rows| Picked { rows, limited: Vec::new() };
    match wanted {
        None if !batch.has_limited => all(Rows::Range(from..batch.rows.len() as u32)),
        Some(rows) if !batch.has_limited => {
            let start = rows.partition_point(|row| *row < from);
            all(Rows::These(Arc::clone(rows), start..rows.len()))
        }
        _ => {
            let is_limited = |row: &u32| batch.rows[*row as usize].limited;
            let wanted: Vec<u32> = match wanted {
                None => (from..batch.rows.len() as u32).collect(),
                Some(rows) => rows.iter().copied().filter(|row| *row >= from).collect(),
            };
            let (limited, rows): (Vec<u32>, Vec<u32>) = wanted.into_iter().partition(is_limited);
            let whole = 0..rows.len();
            Picked { rows: Rows::These(rows.into(), whole), limited }
        }
    }
}

/// The rows of a batch that a filter wants; `None`: all.
fn wanted_of(batch: &Batch, filter: Option<&Filter>) -> Wanted {
    let filter = filter?;
    let wants = |(row, entry)| filter.wants(&batch.view_of(entry)).then_some(row);
    Some((0..).zip(&batch.rows).filter_map(wants).collect())
}

fn lines_of(batch: &Batch, wanted: &Wanted) -> u64 {
    wanted.as_ref().map_or(batch.lines(), |rows| rows.len() as u64)
}

/// What its reader tells of what it took, and what others ask.
impl OutletState {
    pub(crate) fn name(&self) -> &str {
        &self.terms.name
    }

    fn filter(&self) -> Option<&Filter> {
        self.terms.filter.as_ref()
    }

    /// Hands out what was found at the sink's position.
    fn claim(&self, fetched: Fetched) -> Step {
        // Looked at before the lock is taken, and handed out before it is given back: a cursor that is noted in between would be
        // behind lines that nobody has.
        let picked = fetched.batch().map(|(batch, from, wanted)| pick(batch, from, wanted));
        let mut inner = self.inner.lock();
        let Inner { tally, source: Source::Position(position), awaiting, .. } = &mut *inner else { return Step::Again };
        let dropped = tally.lines_dropped();
        let found = position.claim(tally, fetched);
        if tally.lines_dropped() > dropped {
            awaiting.shorten_before(position.seq());
        }
        let (Some(found), Some(picked)) = (found, picked) else {
            Inner::unlock(inner);
            return Step::Again;
        };
        self.hand_out(inner, &found.batch, picked, 0)
    }

    /// Hands out rows of a batch, but for those over their limits.
    fn hand_out(&self, mut inner: MutexGuard<'_, Inner>, batch: &Arc<Batch>, picked: Picked, bytes: usize) -> Step {
        let Picked { rows, limited } = picked;
        let is_noted = !limited.is_empty() && inner.tally.dropped(SinkReason::Limited, limited.len() as u64);
        if is_noted {
            inner.awaiting.shorten(batch.seq);
        }
        let step = if rows.len() == 0 {
            inner.source.give_back(bytes);
            Step::Again
        } else {
            inner.numbers += 1;
            let number = inner.numbers;
            let run = Run { batch: Arc::clone(batch), rows };
            let kept = matches!(inner.source, Source::Channel(_)).then(|| run.clone());
            inner.under_way.push_back(UnderWay {
                number,
                seq: batch.seq,
                first_line: batch.first_line,
                lines: batch.lines(),
                run: kept,
                received: batch.received,
                bytes,
            });
            Step::Lines(Taken { run, number })
        };
        Inner::unlock(inner);
        if is_noted {
            self.lost.note(SinkReason::Limited, batch, limited.into_iter());
        }
        step
    }

    /// Drops rows of a batch, which are ascending.
    fn drop_rows(&self, reason: SinkReason, batch: &Batch, rows: impl ExactSizeIterator<Item = u32>) {
        let lines = rows.len() as u64;
        let mut inner = self.inner.lock();
        if lines == 0 || !inner.tally.dropped(reason, lines) {
            return;
        }
        inner.awaiting.shorten(batch.seq);
        drop(inner);
        self.lost.note(reason, batch, rows);
    }

    fn keep(&self, fetched: Fetched) {
        if let Source::Position(position) = &mut self.inner.lock().source {
            position.keep(fetched);
        }
    }

    /// Room in the byte budget for what its sink makes of lines, if there is some to spare now.
    pub(crate) fn try_spare(&self, bytes: usize) -> Option<Permit> {
        self.budget.try_spare(bytes)
    }

    /// So many of the lines taken have arrived.
    pub(crate) fn delivered(&self, lines: u64) {
        let mut inner = self.inner.lock();
        inner.tally.delivered(lines);
        inner.last_error = None;
    }

    /// These of the lines taken were given up.
    pub(crate) fn dropped(&self, reason: SinkReason, run: &Run) {
        self.drop_rows(reason, &run.batch, run.rows.iter());
    }

    /// Everything that was taken up to `number` is settled: delivered or dropped, which is told before.
    pub(crate) fn done(&self, number: u64) {
        let mut freed = 0;
        let mut inner = self.inner.lock();
        while let Some(taken) = inner.under_way.pop_front_if(|taken| taken.number <= number) {
            freed += taken.bytes;
        }
        inner.source.give_back(freed);
        Inner::unlock(inner);
        if freed > 0 {
            self.budget.announce_room();
        }
        self.store_cursor_in_time();
    }

    /// A delivery was tried once more.
    pub(crate) fn retried(&self) {
        self.inner.lock().tally.retries += 1;
    }

    /// Why the last delivery failed; forgotten with the next that does not.
    pub(crate) fn failed(&self, error: &str) {
        self.inner.lock().last_error = Some(error.to_owned());
    }

    /// Its numbers now.
    pub(crate) fn stats(&self) -> SinkStats {
        let inner = self.inner.lock();
        let Settled { lines_in, filtered, delivered, dropped } = inner.tally.settled();
        let lines_dropped = dropped.iter().sum();
        let age = |since: Instant| Instant::now().saturating_duration_since(since).as_secs_f64();
        SinkStats {
            name: self.terms.name.to_string(),
            lines_in,
            lines_filtered: filtered,
            lines_delivered: delivered,
            lines_dropped,
            lines_dropped_by_reason: SinkReason::NAMES.into_iter().zip(dropped).collect(),
            lines_in_flight: inner.tally.in_flight(),
            retries: inner.tally.retries,
            lag_seconds: inner.oldest().filter(|_| inner.tally.in_flight() > 0).map_or(0.0, age),
            last_success_timestamp_seconds: inner.tally.last_success.map(seconds),
            last_error: inner.last_error.clone(),
        }
    }

    /// When the oldest line was received that is not settled, and how many these are.
    fn unsent(&self) -> (Option<Instant>, u64) {
        let inner = self.inner.lock();
        let lines = inner.tally.in_flight();
        (inner.oldest().filter(|_| lines > 0), lines)
    }

    /// Whoever waits for it is told that it will not acknowledge; the body is taken all the same.
    fn release(&self) {
        let awaiting = self.inner.lock().awaiting.clear();
        for awaited in awaiting {
            awaited.shorten();
            awaited.settled_by_one();
        }
    }

    fn take_lost(&self) -> Vec<Loss> {
        let unknown = self.inner.lock().tally.take_unknown();
        for (reason, lines) in SinkReason::ALL.into_iter().zip(unknown).filter(|(_, lines)| *lines > 0) {
            self.lost.note_unknown(reason, lines);
        }
        self.lost.take(&self.terms.name)
    }

    /// Gives up what is in memory alone, for good. Returns how many lines that were.
    fn give_up(&self) -> u64 {
        let mut inner = self.inner.lock();
        let before = inner.tally.settled().dropped[SinkReason::Shutdown as usize];
        let unheard = inner.awaiting.clear();
        let waiting = match &mut inner.source {
            Source::Channel(channel) => Some(channel.clear()),
            Source::Position(_) => None,
        };
        drop(inner);
        drop(unheard);
        let Some(waiting) = waiting else { return 0 };
        for (batch, wanted) in waiting {
            let Picked { rows, limited } = pick(&batch, 0, &wanted);
            self.drop_rows(SinkReason::Limited, &batch, limited.iter().copied());
            self.drop_rows(SinkReason::Shutdown, &batch, rows.iter());
        }
        let tally = &mut self.inner.lock().tally;
        tally.dropped_unknown(SinkReason::Shutdown, tally.in_flight());
        tally.close();
        tally.settled().dropped[SinkReason::Shutdown as usize] - before
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

impl LogCollector {
    /// Opens a sink's end. From now on the sink is a consumer of what it wants.
    ///
    /// With a spool it goes on where a sink of that name stood, or begins with what comes next. Waits for the disk then.
    pub(crate) fn add_outlet(&self, mut terms: OutletTerms) -> Outlet {
        terms.filter = terms.filter.filter(|filter| !filter.wants_all());
        let start = self.start_of(&terms.name);
        let publisher = self.shared.publisher.lock();
        let Departed { mut tally, left } = self.shared.outlets.recall(&terms.name).unwrap_or_default();
        let source = self.source_of(&terms, start, left, &mut tally);
        let began = self.began_of(&terms.name, &source);
        let state = self.state_of(terms, tally, source, Awaiting::default(), began);
        self.shared.outlets.add(&state);
        drop(publisher);
        state.store_cursor();
        state.store_began();
        Outlet::new(self, state)
    }

    fn state_of(
        &self,
        terms: OutletTerms,
        tally: Tally,
        source: Source,
        awaiting: Awaiting,
        began: Began,
    ) -> Arc<OutletState> {
        let inner = Inner { tally, source, under_way: VecDeque::new(), awaiting, numbers: 0, last_error: None, began };
        Arc::new(OutletState {
            terms,
            budget: Arc::clone(&self.shared.budget),
            #[cfg(feature = "spool")]
            spool: self.spool().cloned(),
            #[cfg(feature = "spool")]
            storing: Mutex::default(),
            ready: Notify::new(),
            lost: Lost::default(),
            retired: AtomicBool::new(false),
            inner: Mutex::new(inner),
        })
    }

    /// What is known of the sinks' ends that are open.
    pub(crate) fn outlets(&self) -> Arc<[Arc<OutletState>]> {
        self.shared.outlets.list()
    }

    fn remove_outlet(&self, state: &Arc<OutletState>) {
        let publisher = self.shared.publisher.lock();
        let was_there = self.shared.outlets.remove(state);
        drop(publisher);
        // Another has its place already, and all that it had.
        if !was_there {
            return;
        }
        state.release();
        state.give_up();
        state.take_lost().into_iter().for_each(|loss| self.shared.journal.note(loss));
        state.depart(&self.shared.outlets);
        // Who was refused for it may come now.
        self.shared.budget.announce_room();
    }
}

#[cfg(test)]
mod tests;
