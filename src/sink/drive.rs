//! The delivery loop, once for all destinations.
//!
//! Lines are taken from the sink's outlet for as long as there is room, gathered into parcels, and delivered several at a time. A
//! parcel that fails waits and is tried again for ever; meanwhile one at a time goes, until one arrives. A parcel that the store
//! will never take is halved until the lines are found that it does not want: these are its dead letters.
//!
//! The outlet's cursor moves over what is wholly settled: a number that the outlet gave is done when no piece of its lines is left.

mod window;

use std::{
    collections::{BTreeMap, VecDeque},
    hash::BuildHasher,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::window::Window;
use super::{Failure, Parcel, ParcelBounds, Run, Sink, dead_letter::DeadLetters};
use crate::{
    budget::Permit,
    collector::outlet::{Outlet, OutletState, SinkReason, Taken},
};

/// The first wait after a failure, and the longest; the true one is any time up to it.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// No store is believed that asks for more.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// How often an alarm about the same sink is repeated in the log.
const ALARM_EVERY: Duration = Duration::from_secs(60);

/// Lines given up in a row after which the store, not the lines, may be what is wrong: from then on each is tried a second time, after
/// a wait, and that is an alarm.
const DOUBT: usize = 100;

/// Tries to open what is a sink's own before that is told, and how long after each.
const OPEN_TRIES: u32 = 4;
const OPEN_AGAIN: Duration = Duration::from_millis(500);

const PANICKED: &str = "the sink panicked; standard error has where";

/// Failures after which a sink's panic is the lines' fault.
const PANICS_MAX: u32 = 2;

/// What a delivery loop is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Run,
    /// Deliver nothing for now.
    Pause,
    /// Deliver what there is, then end: of what waits in a spool that is what was taken.
    Finish,
    /// End when nothing is under way any more: another goes on with the rest.
    HandOver,
}

/// What a delivery loop goes by.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) parcels: ParcelBounds,
    pub(crate) concurrency_max: usize,
    /// Of one delivery.
    pub(crate) deadline: Duration,
    /// Of the batches that what is taken and not settled lies in, as charged to the budget.
    pub(crate) bytes_max: usize,
    pub(crate) dead_letters: DeadLetters,
}

/// A parcel, and how its delivery goes.
#[derive(Debug)]
struct Job {
    parcel: Parcel,
    /// Of each of its runs what the outlet gave it as.
    numbers: Vec<u64>,
    failures: u32,
    due: Instant,
}

impl Job {
    fn new(runs: Vec<(Run, u64)>, failures: u32, due: Instant) -> Self {
        let (runs, numbers) = runs.into_iter().unzip();
        Self { parcel: Parcel::new(runs), numbers, failures, due }
    }

    /// The lines at `places`, which are ascending, as a job of their own; `None` if there are none.
    fn part(&self, places: &[usize], failures: u32, due: Instant) -> Option<Self> {
        let runs =
            self.parcel.parts(places).into_iter().map(|(index, run)| (run, self.numbers[index])).collect::<Vec<_>>();
        (!runs.is_empty()).then(|| Self::new(runs, failures, due))
    }
}

/// Delivers what `outlet` gives, until the collector has shut down and everything is settled, or it is told to end. Dropped in
/// between, what is not settled stays with the outlet: in its spool, to be handed over, or to be given up.
pub(crate) async fn drive(
    outlet: &mut Outlet,
    sink: Arc<dyn Sink>,
    mut terms: Terms,
    mut orders: watch::Receiver<Order>,
    shutdown: CancellationToken,
) {
    terms.concurrency_max = terms.concurrency_max.min(sink.concurrency_max());
    let deadline = terms.deadline;
    let mut work = Work::new(Arc::clone(outlet.state()), terms);
    tokio::select! {
        failed = open(&*sink, deadline) => {
            if let Some(reason) = failed {
                work.state.failed(&reason);
                tracing::error!(sink = work.state.name(), reason, "it cannot be opened; the first lines try it again");
            }
        }
        _ = orders.changed() => {}
        () = shutdown.cancelled() => {}
    }
    let mut under_way = FuturesUnordered::new();
    let (mut is_open, mut is_told) = (true, true);
    loop {
        let order = match *orders.borrow_and_update() {
            // Nobody is left who could have it go on.
            Order::Pause if !is_told => Order::Run,
            order => order,
        };
        let is_held = matches!(order, Order::Pause | Order::HandOver);
        let may_end = order == Order::HandOver || shutdown.is_cancelled();
        if is_held && may_end && under_way.is_empty() {
            break;
        }
        is_open &= order != Order::Finish || outlet.is_channel();
        // One moment for all that follows: what falls due later is waited for.
        let now = Instant::now();
        while !is_held && let Some((job, room)) = work.next(now, under_way.len(), &*sink) {
            under_way.push(attempt(Arc::clone(&sink), job, room, deadline));
        }
        let mut takes = is_open && !is_held && work.has_room(under_way.len());
        if takes && let Some(taken) = outlet.try_next() {
            work.take(taken);
            continue;
        }
        if takes && order == Order::Finish {
            (is_open, takes) = (false, false);
        }
        if work.complete_in_time(now, !is_open) {
            continue;
        }
        if !is_open && under_way.is_empty() && work.is_empty() {
            break;
        }
        let wake = work.wakes_at(now, is_held);
        tokio::select! {
            Some((job, outcome)) = under_way.next(), if !under_way.is_empty() => work.settle(job, outcome).await,
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            taken = outlet.next(), if takes => match taken {
                Some(taken) => work.take(taken),
                None => is_open = false,
            },
            changed = orders.changed(), if is_told => is_told = changed.is_ok(),
            () = shutdown.cancelled(), if is_held && !shutdown.is_cancelled() => {}
        }
    }
}

/// Has the sink open what is its own. Why it cannot, if it still cannot after some tries: one whose place it takes may not have gone yet.
async fn open(sink: &dyn Sink, deadline: Duration) -> Option<String> {
    let mut tries_left = OPEN_TRIES;
    loop {
        tries_left -= 1;
        let reason = match timeout(deadline, AssertUnwindSafe(sink.open()).catch_unwind()).await {
            Ok(Ok(Ok(()))) => return None,
            Ok(Ok(Err(failure))) => failure.to_string(),
            Ok(Err(_)) => PANICKED.to_owned(),
            Err(_) => format!("no answer within {deadline:?}"),
        };
        if tries_left == 0 {
            return Some(reason);
        }
        sleep(OPEN_AGAIN).await;
    }
}

/// One try. A sink that panics is a store that cannot be reached: its lines wait, and it is told of. It panics at them each time: then
/// the lines are found that it does so for, and given up.
async fn attempt(
    sink: Arc<dyn Sink>,
    job: Job,
    _room: Option<Permit>,
    deadline: Duration,
) -> (Job, Result<(), Failure>) {
    let panicked = || match PANICKED.to_owned() {
        reason if job.failures < PANICS_MAX => Err(Failure::Unavailable { reason, retry_after: None }),
        reason => Err(Failure::Never { reason }),
    };
    let outcome = timeout(deadline, AssertUnwindSafe(sink.deliver(&job.parcel)).catch_unwind()).await;
    let outcome = match outcome {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => panicked(),
        Err(_) => Err(Failure::Unavailable { reason: format!("no answer within {deadline:?}"), retry_after: None }),
    };
    (job, outcome)
}

/// A batch that lines are left of.
#[derive(Debug)]
struct Held {
    /// Pieces of it in jobs.
    pieces: usize,
    bytes: usize,
}

/// What was taken and is not settled, but for what is under way.
struct Work {
    state: Arc<OutletState>,
    terms: Terms,
    window: Window,
    /// The parcel in the making, its lines and bytes, and since when.
    gathered: Vec<(Run, u64)>,
    lines: usize,
    bytes: usize,
    since: Instant,
    ready: VecDeque<Job>,
    /// To be tried again when they are due.
    failed: Vec<Job>,
    /// The store has asked to be left alone until then.
    not_before: Option<Instant>,
    /// What is left of each number that the outlet gave.
    taken: BTreeMap<u64, Held>,
    /// The newest of these.
    newest: u64,
    /// Bytes of all batches that are held.
    in_hand: usize,
    /// Lines given up since the last that arrived.
    given_up: usize,
    jitter: foldhash::fast::RandomState,
    alarmed: Option<Instant>,
    /// It was told that the store fails, and has not recovered since.
    is_told_failing: bool,
    recovered: Option<Instant>,
}

impl Work {
    fn new(state: Arc<OutletState>, terms: Terms) -> Self {
        Self {
            window: Window::new(terms.concurrency_max),
            state,
            terms,
            gathered: Vec::new(),
            lines: 0,
            bytes: 0,
            since: Instant::now(),
            ready: VecDeque::new(),
            failed: Vec::new(),
            not_before: None,
            taken: BTreeMap::new(),
            newest: 0,
            in_hand: 0,
            given_up: 0,
            jitter: foldhash::fast::RandomState::default(),
            alarmed: None,
            is_told_failing: false,
            recovered: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.ready.is_empty() && self.failed.is_empty()
    }

    /// Whether more may be taken: no more parcels than may be under way wait, and no more bytes than are allowed.
    fn has_room(&self, under_way: usize) -> bool {
        let jobs = self.ready.len() + self.failed.len() + under_way;
        jobs < self.window.limit() && self.in_hand < self.terms.bytes_max
    }

    /// The next parcel to deliver now, and the room for it. One may go at any time; further ones where the byte budget has room.
    fn next(&mut self, now: Instant, under_way: usize, sink: &dyn Sink) -> Option<(Job, Option<Permit>)> {
        if under_way >= self.window.limit() {
            return None;
        }
        if self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        let due = self.failed.iter().enumerate().filter(|(_, job)| job.due <= now).min_by_key(|(_, job)| job.due);
        let due = due.map(|(index, _)| index);
        // While nothing arrives what has failed is tried, not what comes after.
        if due.is_none() && self.window.is_failing() && !self.failed.is_empty() {
            return None;
        }
        let job = due.map_or_else(|| self.ready.front(), |index| self.failed.get(index))?;
        let room = self.state.try_spare(sink.form_bytes(&job.parcel));
        if room.is_none() && under_way > 0 {
            return None;
        }
        let job = match due {
            Some(index) => {
                self.state.retried();
                self.failed.swap_remove(index)
            }
            None => self.ready.pop_front()?,
        };
        Some((job, room))
    }

    /// When there is something to do though nothing happens, after `now`.
    fn wakes_at(&self, now: Instant, is_held: bool) -> Option<Instant> {
        let complete = (!self.gathered.is_empty()).then(|| self.since + self.terms.parcels.age);
        let retry = self.failed.iter().map(|job| job.due).min().filter(|_| !is_held);
        // What is due and waits for others to be over is looked at when they are.
        [complete, retry, self.not_before].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// Adds lines to the parcel in the making, cut where that is full.
    fn take(&mut self, taken: Taken) {
        let Taken { run, number } = taken;
        self.newest = number;
        let bytes = run.batch.charged_bytes();
        self.taken.insert(number, Held { pieces: 0, bytes });
        self.in_hand += bytes;
        let mut rest = Some(run);
        while let Some(run) = rest {
            let ParcelBounds { lines, bytes, .. } = self.terms.parcels;
            let (fits, taken) =
                run.fitting(lines - self.lines, bytes.saturating_sub(self.bytes), self.gathered.is_empty());
            if fits == 0 {
                self.complete();
                rest = Some(run);
                continue;
            }
            if self.gathered.is_empty() {
                self.since = Instant::now();
            }
            let (front, behind) = run.split_at(fits);
            self.gathered.push((front, number));
            self.add_piece(number);
            (self.lines, self.bytes) = (self.lines + fits, self.bytes + taken);
            if self.lines >= lines || self.bytes >= bytes {
                self.complete();
            }
            rest = behind;
        }
        // A few lines of each of many batches hold them all, and what is held is no room for others, as while a large parcel is on its
        // way. A channel takes no more than fits, so that all of it is seldom reached.
        if self.in_hand >= self.terms.bytes_max / 4 {
            self.complete();
        }
    }

    fn add_piece(&mut self, number: u64) {
        if let Some(held) = self.taken.get_mut(&number) {
            held.pieces += 1;
        }
    }

    fn complete(&mut self) {
        if !self.gathered.is_empty() {
            let runs = std::mem::take(&mut self.gathered);
            self.ready.push_back(Job::new(runs, 0, Instant::now()));
            (self.lines, self.bytes) = (0, 0);
        }
    }

    /// Completes the parcel in the making if it is old `now`, or `at_once`. Says whether it did.
    fn complete_in_time(&mut self, now: Instant, at_once: bool) -> bool {
        let is_due = at_once || now >= self.since + self.terms.parcels.age;
        let completes = is_due && !self.gathered.is_empty();
        if completes {
            self.complete();
        }
        completes
    }

    async fn settle(&mut self, job: Job, outcome: Result<(), Failure>) {
        let lines = job.parcel.lines();
        match outcome {
            Ok(()) => {
                self.window.arrived();
                self.given_up = 0;
                self.state.delivered(lines as u64);
                self.tell_of_recovery();
                self.over(job);
            }
            Err(Failure::Unavailable { reason, retry_after }) => self.try_again(job, &reason, retry_after),
            Err(Failure::Denied { reason }) => {
                self.alarm(&reason);
                self.try_again(job, &reason, None);
            }
            Err(Failure::TooLarge { reason } | Failure::Never { reason }) if lines == 1 => {
                self.give_up(job, &reason).await;
            }
            Err(Failure::TooLarge { .. } | Failure::Never { .. }) => {
                let places: Vec<usize> = (0..lines).collect();
                let (front, behind) = places.split_at(lines / 2);
                // In front of what came later, and in order.
                for places in [behind, front] {
                    let part = job.part(places, 0, Instant::now());
                    part.into_iter().for_each(|part| self.put_first(part));
                }
                self.over(job);
            }
            Err(Failure::Partly { again, never, reason, retry_after }) => {
                let taken = lines.saturating_sub(again.len() + never.len());
                if taken > 0 {
                    self.window.arrived();
                    self.given_up = 0;
                    self.state.delivered(taken as u64);
                }
                let now = Instant::now();
                if let Some(part) = job.part(&never, job.failures, now) {
                    self.add_pieces(&part);
                    self.give_up(part, &reason).await;
                }
                if let Some(part) = job.part(&again, job.failures, now) {
                    self.add_pieces(&part);
                    self.try_again(part, &reason, retry_after);
                }
                self.over(job);
            }
        }
    }

    fn put_first(&mut self, part: Job) {
        self.add_pieces(&part);
        self.ready.push_front(part);
    }

    fn add_pieces(&mut self, part: &Job) {
        part.numbers.iter().for_each(|number| self.add_piece(*number));
    }

    fn try_again(&mut self, mut job: Job, reason: &str, retry_after: Option<Duration>) {
        self.window.failed();
        self.state.failed(reason);
        tracing::debug!(sink = self.state.name(), reason, failures = job.failures + 1, "a delivery failed");
        self.tell_of_failure(reason);
        let now = Instant::now();
        let longest = BACKOFF.saturating_mul(1 << job.failures.min(6)).min(BACKOFF_MAX);
        let any = self.jitter.hash_one((now, job.failures)) as f64 / u64::MAX as f64;
        let asked = retry_after.map(|wait| wait.min(RETRY_AFTER_MAX));
        // Of all that is for it, not of this parcel alone.
        self.not_before = self.not_before.max(asked.map(|wait| now + wait));
        let wait = longest.mul_f64(any).max(asked.unwrap_or_default());
        job.failures += 1;
        job.due = now + wait;
        self.failed.push(job);
    }

    /// Once until it recovers, and no more often than alarms: a store that fails now and then is no news.
    fn tell_of_failure(&mut self, reason: &str) {
        let is_recent = self.recovered.is_some_and(|at| at.elapsed() < ALARM_EVERY);
        if !self.is_told_failing && !is_recent {
            self.is_told_failing = true;
            tracing::warn!(sink = self.state.name(), reason, "a delivery failed; lines wait, and are tried again");
        }
    }

    fn tell_of_recovery(&mut self) {
        if std::mem::take(&mut self.is_told_failing) {
            self.recovered = Some(Instant::now());
            tracing::info!(sink = self.state.name(), "it takes lines again");
        }
    }

    fn alarm(&mut self, reason: &str) {
        let now = Instant::now();
        // Told so, it is not told as a failure, too.
        self.is_told_failing = true;
        if self.alarmed.is_none_or(|at| now.duration_since(at) >= ALARM_EVERY) {
            self.alarmed = Some(now);
            tracing::error!(
                sink = self.state.name(),
                reason,
                "the store does not let us in, or knows no such place; lines wait"
            );
        }
    }

    /// Gives up what the store says that it will never take; after many of such a second time only.
    async fn give_up(&mut self, job: Job, reason: &str) {
        if self.given_up >= DOUBT && job.failures == 0 {
            self.alarm(reason);
            self.try_again(job, reason, None);
        } else {
            self.bury(job, reason).await;
        }
    }

    async fn bury(&mut self, job: Job, reason: &str) {
        self.given_up += job.parcel.lines();
        self.state.failed(reason);
        self.terms.dead_letters.keep(self.state.name(), &job.parcel, reason).await;
        job.parcel.runs().for_each(|run| self.state.dropped(SinkReason::DeadLetter, run));
        self.over(job);
    }

    /// All of a job's lines are settled, or in other jobs.
    fn over(&mut self, job: Job) {
        for number in job.numbers {
            let Some(held) = self.taken.get_mut(&number) else { continue };
            held.pieces -= 1;
            if held.pieces == 0 {
                self.in_hand -= held.bytes;
                self.taken.remove(&number);
            }
        }
        let done = self.taken.first_key_value().map_or(self.newest, |(number, _)| number - 1);
        self.state.done(done);
    }
}

#[cfg(test)]
mod tests;
