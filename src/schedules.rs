//! Threads in every order that a scheduler thinks of: shuttle chooses who goes on at each lock, counter and wake of [`crate::sync`].
//!
//! `scripts/schedules.sh` runs these; no other build has them. There is no clock that goes on here and no memory that is weakly ordered:
//! what waits for a time is tested elsewhere, and a fence that is missing is not found.
//!
//! Of each schedule half of the iterations choose at random, the other half by few changes of priority (PCT). `SHUTTLE_ITERATIONS`
//! says how many of each; what fails is printed, with its seed (`SHUTTLE_RANDOM_SEED`) and as a schedule (`SHUTTLE_REPLAY`).

#![expect(clippy::unwrap_used, reason = "tests, which clippy knows by a plain `cfg(test)` alone")]

mod admission;
mod budget;
mod handover;
mod queue;
#[cfg(feature = "sinks")]
mod sinks;

use std::{
    collections::{HashMap, HashSet},
    env,
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use jiff::Timestamp;
use shuttle::{
    Config, Runner,
    future::block_on,
    rand::{Rng, thread_rng},
    scheduler::{PctScheduler, RandomScheduler, ReplayScheduler},
    sync::mpsc::{self, Receiver, Sender},
    thread::{JoinHandle, spawn, yield_now},
};

use crate::{
    admission::{Admission, Receipt},
    batch::{EntryView, Kind},
    collector::{
        CollectorConfig, LogCollector, Stats,
        tests::{assert_balanced, draft, push, small},
    },
    stream::{LogQueue, LogStream, StreamEvent},
};

/// Iterations of each schedule by each scheduler, where `SHUTTLE_ITERATIONS` does not say.
const ITERATIONS: usize = 4_000;
/// Changes of priority within an iteration.
const CHANGES: usize = 3;

/// Runs `schedule` in many orders.
fn explore(schedule: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    // Unoptimised code of ours takes more than the default.
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    // What runs on unwinds in a collector that is half changed, and would panic again.
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    if let Ok(encoded) = env::var("SHUTTLE_REPLAY") {
        Runner::new(ReplayScheduler::new_from_encoded(&encoded), config).run(schedule);
        return;
    }
    let iterations = env::var("SHUTTLE_ITERATIONS").map_or(ITERATIONS, |number| number.parse().expect("a number"));
    let schedule = Arc::new(schedule);
    let again = Arc::clone(&schedule);
    Runner::new(RandomScheduler::new(iterations), config.clone()).run(move || schedule());
    Runner::new(PctScheduler::new(CHANGES, iterations), config).run(move || again());
}

/// A collector whose queues are soon full, and where nothing is due by time.
fn collector(change: impl FnOnce(&mut CollectorConfig)) -> LogCollector {
    small(|config| {
        config.queue.lines = 3;
        config.queue.stalled_after = Duration::from_secs(3600);
        change(config);
    })
}

/// What readers got: a sender and a number for each line, in order; and what they were told to have missed.
#[derive(Debug, Default)]
struct Got {
    lines: Vec<(u32, u32)>,
    told: u64,
}

impl Got {
    fn note(&mut self, entry: &EntryView<'_>) {
        let (sender, number) = entry.message().split_once('-').expect("who sent it, and its number");
        self.lines.push((sender.parse().unwrap(), number.parse().unwrap()));
    }

    fn note_event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Entry(entry) => self.note(&entry.view()),
            StreamEvent::Skipped(lines) => self.told += lines,
            StreamEvent::SkippedUnknown | StreamEvent::Limited(_) => panic!("nothing is unknown, or limited, here"),
        }
    }

    fn total(&self) -> u64 {
        self.lines.len() as u64 + self.told
    }

    /// No line is there twice.
    fn assert_once(&self) {
        let mut seen = HashSet::new();
        assert!(self.lines.iter().all(|line| seen.insert(line)), "a line came twice: {self:?}");
    }

    /// Each sender's lines are there in order, once each.
    fn assert_in_order(&self) {
        let mut last = HashMap::new();
        for (sender, number) in &self.lines {
            let before = last.insert(sender, number);
            assert!(before.is_none_or(|before| before < number), "out of order: {self:?}");
        }
    }

    /// Nothing is missing between a sender's lines.
    fn assert_gapless(&self) {
        let mut next: HashMap<u32, u32> = HashMap::new();
        for &(sender, number) in &self.lines {
            let next = next.entry(sender).or_insert(number);
            assert_eq!(number, *next, "a gap: {self:?}");
            *next += 1;
        }
    }
}

/// Has a body taken, as a held sender does: once more when there is room, if it is refused.
fn insist(collector: &LogCollector, lines: &[(&str, Kind, &str)]) -> Receipt {
    let mut draft = draft(collector, lines, Timestamp::now()).expect("the budget has room for all of them");
    loop {
        let mut room = collector.budget().room();
        room.enable();
        // It is kept: were it given back each time, that would be taken for room, and nobody would ever sleep.
        draft = match collector.admit(draft) {
            Ok(Admission::Taken(committed)) => return committed.receipt,
            Ok(Admission::Writing(_)) => unreachable!("there is no spool"),
            Err(refused) => *refused.draft,
        };
        block_on(room.wait());
        // Room in one queue that is given back for want of it in another wakes, too: real senders pause.
        yield_now();
    }
}

/// A thread that pushes bodies of two lines of `machine`. Returns how many lines were accepted.
fn sender(collector: &LogCollector, machine: &'static str, sender: u32, bodies: u32) -> JoinHandle<u64> {
    let collector = collector.clone();
    spawn(move || {
        let push = |body| {
            let texts = [0, 1].map(|line| format!("{sender}-{}", body * 2 + line));
            insist(&collector, &texts.each_ref().map(|text| (machine, Kind::Stdout, &**text))).accepted
        };
        (0..bodies).map(push).sum()
    })
}

/// A thread that pushes a line of machine `m` after the other until it is refused. Returns how many were taken.
fn sender_until_refused(collector: &LogCollector) -> JoinHandle<u32> {
    let collector = collector.clone();
    spawn(move || {
        let mut taken = 0;
        while push(&collector, &[("m", Kind::Stdout, &*format!("0-{taken}"))]).is_ok() {
            taken += 1;
            yield_now();
        }
        taken
    })
}

/// What comes next, or `None` if nothing came before the reader lost its patience.
async fn next_event_soon(stream: &mut LogStream, mut patience: u32) -> Option<Option<StreamEvent>> {
    let mut reading = pin!(stream.next_event());
    poll_fn(|cx| match reading.as_mut().poll(cx) {
        Poll::Ready(event) => Poll::Ready(Some(event)),
        Poll::Pending if patience == 0 => Poll::Ready(None),
        Poll::Pending => {
            patience -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

/// Reads a queue until its end, or until `goes_on` says no: it is told how many lines came, or were said to be missing.
///
/// Now and then it cancels a read, or leaves with what it holds and comes back.
fn read_with_breaks(queue: &LogQueue, mut goes_on: impl FnMut(u64) -> bool) -> Got {
    let mut got = Got::default();
    let mut stream = LogStream::new(queue.clone());
    loop {
        let event = match thread_rng().gen_range(0..6) {
            0 => {
                stream = LogStream::new(queue.clone());
                continue;
            }
            1 => {
                stream.rest();
                yield_now();
                if !stream.has_more(thread_rng().gen_range(1..4)) {
                    continue;
                }
                // Who looks so shows at once what there is to be told.
                Some(stream.ready_event().expect("it has more"))
            }
            2 => {
                stream.let_go();
                continue;
            }
            3 => match block_on(next_event_soon(&mut stream, thread_rng().gen_range(0..3))) {
                Some(event) => event,
                None => continue,
            },
            // A lost wake shows here: nobody is left that can go on.
            _ => block_on(stream.next_event()),
        };
        let Some(event) = event else { return got };
        let before = got.total();
        got.note_event(event);
        if !goes_on(got.total() - before) {
            return got;
        }
    }
}

/// Reads to the end.
fn always(_: u64) -> bool {
    true
}

/// What readers have come to so far.
fn counted() -> (Sender<u64>, Receiver<u64>) {
    mpsc::channel()
}

/// Waits until readers have come to so many lines: no end or shutdown wakes them meanwhile.
fn wait_until_read(counted: &Receiver<u64>, lines: u64) {
    let mut read = 0;
    while read < lines {
        read += counted.recv().expect("there are readers");
    }
}

/// Reads what is left of a queue that has ended.
fn read_the_rest(queue: &LogQueue, got: &mut Got) {
    let mut stream = LogStream::new(queue.clone());
    while let Some(event) = block_on(stream.next_event()) {
        got.note_event(event);
    }
}

/// All balances hold, nothing is held or promised, and the budget comes back.
#[track_caller]
fn assert_settled(collector: LogCollector) -> Stats {
    let stats = assert_balanced(&collector);
    assert_eq!(stats.queue_lines, 0, "{stats:?}");
    let budget = Arc::clone(collector.budget());
    drop(collector);
    assert_eq!(budget.used(), 0, "nothing leaks");
    stats
}
