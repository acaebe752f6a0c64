//! Random calls, and beside them an independent plain list of every line ever sent with its fate.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::atomic::Ordering::SeqCst,
    task::{Context, Poll, Wake, Waker},
};

use futures_core::Stream;
use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::{
    batch::EntryId,
    journal::Entry as Loss,
    queue::HANDED_ON_MAX,
    stream::{
        EntryBatch, FleetStream, LogStream, Ready, StreamEvent,
        view::{MachineView, Seen, ViewStart},
    },
};

const MACHINES: [&str; 3] = ["m0", "m1", "m2"];
const KINDS: [Kind; 4] = [Kind::Stdout, Kind::Stderr, Kind::System, Kind::Other];
const STREAMS: [Streams; 3] = [Streams::STDOUT, Streams::STDOUT_AND_STDERR, Streams::ALL];
const FULL: [Full; 3] = [Full::CatchUp, Full::Block, Full::DropOldest];
const ABANDONED_AFTER: Duration = Duration::from_secs(60);
const BUDGET_AMPLE: usize = 1 << 22;
const STALLED_AFTER: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
enum Op {
    Admit { lines: Vec<(u8, u8, u8)> },
    Subscribe { machine: u8, streams: u8, full: u8, backlog: bool },
    Share { reader: u8 },
    Read { reader: u8, count: u8 },
    ReadBatch { reader: u8, keep: bool },
    Show { reader: u8, count: u8 },
    Park { reader: u8 },
    Rest { reader: u8 },
    LetGo { reader: u8 },
    DropReader { reader: u8 },
    Finish { machine: u8 },
    FinishAfter { machine: u8, millis: u16 },
    Advance { millis: u32 },
    View { machine: u8, backlog: bool },
    StepView { view: u8, count: u8 },
    DropView { view: u8 },
    StepFleet { count: u8 },
    Starts { machine: u8, line: u16, last: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    let line = (0..3u8, prop_oneof![6 => Just(0u8), 2 => Just(1), 1 => Just(2), 1 => Just(3)], 0..40u8);
    prop_oneof![
        10 => prop::collection::vec(line.clone(), 1..8).prop_map(|lines| Op::Admit { lines }),
        1 => prop::collection::vec(line, 20..60).prop_map(|lines| Op::Admit { lines }),
        4 => (0..3u8, 0..3u8, 0..3u8, any::<bool>())
            .prop_map(|(machine, streams, full, backlog)| Op::Subscribe { machine, streams, full, backlog }),
        1 => any::<u8>().prop_map(|reader| Op::Share { reader }),
        8 => (any::<u8>(), 1..20u8).prop_map(|(reader, count)| Op::Read { reader, count }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(reader, keep)| Op::ReadBatch { reader, keep }),
        4 => (any::<u8>(), 1..40u8).prop_map(|(reader, count)| Op::Show { reader, count }),
        3 => any::<u8>().prop_map(|reader| Op::Park { reader }),
        3 => any::<u8>().prop_map(|reader| Op::Rest { reader }),
        1 => any::<u8>().prop_map(|reader| Op::LetGo { reader }),
        1 => any::<u8>().prop_map(|reader| Op::DropReader { reader }),
        1 => (0..3u8).prop_map(|machine| Op::Finish { machine }),
        1 => (0..3u8, 1..5000u16).prop_map(|(machine, millis)| Op::FinishAfter { machine, millis }),
        3 => prop_oneof![4 => 1..3000u32, 1 => 10_000..100_000u32].prop_map(|millis| Op::Advance { millis }),
        1 => (0..3u8, any::<bool>()).prop_map(|(machine, backlog)| Op::View { machine, backlog }),
        2 => (any::<u8>(), 1..6u8).prop_map(|(view, count)| Op::StepView { view, count }),
        1 => any::<u8>().prop_map(|view| Op::DropView { view }),
        1 => (1..6u8).prop_map(|count| Op::StepFleet { count }),
        1 => (0..3u8, any::<u16>(), 0..20u8).prop_map(|(machine, line, last)| Op::Starts { machine, line, last }),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Setup {
    budget: usize,
    history: usize,
    lines: usize,
    bytes: usize,
    /// Lines of a machine in a second; 0: no limit.
    limit: usize,
}

fn setup() -> impl Strategy<Value = Setup> {
    let budget = prop_oneof![Just(60_000usize), Just(200_000), Just(BUDGET_AMPLE)];
    let history = prop_oneof![Just(1usize), Just(4_000), Just(20_000), Just(1 << 20)];
    let lines = prop_oneof![Just(3usize), Just(10), Just(30)];
    let bytes = prop_oneof![Just(1_500usize), Just(6_000), Just(1 << 20)];
    let limit = prop_oneof![2 => Just(0usize), 1 => Just(1), 1 => Just(3)];
    (budget, history, lines, bytes, limit).prop_map(|(budget, history, lines, bytes, limit)| Setup {
        budget,
        history,
        lines,
        bytes,
        limit,
    })
}

struct Line {
    text: String,
    machine: usize,
    kind: Kind,
    seq: u64,
    batch: usize,
    /// Over its machine's limit: no queue may give it out.
    limited: bool,
}

struct Sent {
    charged: usize,
    at: Timestamp,
    evicted: bool,
}

/// A queue as the list sees it.
struct Queued {
    machine: Arc<Machine>,
    queue: Arc<Queue>,
    streams: Streams,
    full: Full,
    /// Every line that it ever got, and whether it was delivered.
    lines: Vec<(usize, bool)>,
    place: HashMap<String, usize>,
    told: u64,
    live: bool,
    /// Never more than one reader at a time: order and places of skips are then exact.
    solo: bool,
    next: usize,
    untold: u64,
    /// What it is told stands exactly where it belongs: exempt lines of a body come before it is told what was over the limit
    /// around them.
    exact: bool,
    /// It was without a reader while time went by.
    abandonable: bool,
    largest: u64,
    largest_bytes: usize,
}

struct Reader {
    queue: usize,
    stream: LogStream,
    told: u64,
    parked: Option<Arc<Flag>>,
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

struct Looker {
    machine: usize,
    view: MachineView,
    /// The next `machine_seq`.
    next: u64,
}

struct World {
    collector: LogCollector,
    setup: Setup,
    lines: Vec<Line>,
    batches: Vec<Sent>,
    next_seq: [u64; 3],
    finish_at: [Option<Instant>; 3],
    finished: [bool; 3],
    seen: [bool; 3],
    queues: Vec<Queued>,
    current: [Option<usize>; 3],
    readers: Vec<Reader>,
    kept: Vec<EntryBatch>,
    views: Vec<Looker>,
    fleet: FleetStream,
    fleet_next: u64,
    clock: i64,
    /// When lines passed each machine's limit.
    passed: [Vec<Instant>; 3],
}

impl World {
    fn new(setup: Setup) -> Self {
        let collector = small(|config| {
            (config.budget_bytes, config.history_bytes) = (setup.budget, setup.history);
            (config.queue.lines, config.queue.bytes) = (setup.lines, setup.bytes);
            (config.queue.abandoned_after, config.queue.stalled_after) = (ABANDONED_AFTER, STALLED_AFTER);
            config.limit.machine.lines_per_second = setup.limit;
            config.machines.finished_keep = Duration::from_secs(1 << 30);
            config.machines.idle_expire = Duration::from_secs(1 << 30);
        });
        let fleet = collector.fleet();
        Self {
            collector,
            setup,
            lines: Vec::new(),
            batches: Vec::new(),
            next_seq: [1; 3],
            finish_at: [None; 3],
            finished: [false; 3],
            seen: [false; 3],
            queues: Vec::new(),
            current: [None; 3],
            readers: Vec::new(),
            kept: Vec::new(),
            views: Vec::new(),
            fleet,
            fleet_next: 0,
            clock: 1_000_000,
            passed: [const { Vec::new() }; 3],
        }
    }

    /// Whether one more line of a machine is within its limit now: in no time that ends now may more pass than ten seconds' worth
    /// and what that time is worth.
    fn passes(&mut self, machine: usize, kind: Kind) -> bool {
        let (now, passed) = (Instant::now(), &mut self.passed[machine]);
        let allowed = |since: Instant| self.setup.limit as u128 * (10_000_000_000 + (now - since).as_nanos());
        let within =
            |(from, since): (usize, &Instant)| (passed.len() - from + 1) as u128 * 1_000_000_000 <= allowed(*since);
        if self.setup.limit == 0 || kind == Kind::System {
            return true;
        }
        let passes = passed.iter().enumerate().all(within);
        if passes {
            passed.push(now);
        }
        passes
    }

    fn admit(&mut self, picked: &[(u8, u8, u8)]) {
        let first = self.lines.len();
        let texts: Vec<String> = picked
            .iter()
            .enumerate()
            .map(|(index, (.., pad))| format!("{}{}", first + index, "x".repeat(usize::from(*pad) * 3)))
            .collect();
        let body: Vec<_> = picked
            .iter()
            .zip(&texts)
            .map(|((machine, kind, _), text)| {
                (MACHINES[usize::from(*machine)], KINDS[usize::from(*kind)], text.as_str())
            })
            .collect();
        // Some bodies were overtaken by younger ones.
        self.clock += 1000;
        let at = Timestamp::from_millisecond(self.clock - if first.is_multiple_of(4) { 5000 } else { 0 }).unwrap();
        let before = self.collector.stats();
        let probes: Vec<_> = self.queues.iter().map(|queue| queue.queue.probe()).collect();
        let Some(draft) = draft(&self.collector, &body, at) else { return };
        let charged = draft.batch.charged_bytes();
        let receipt = match self.collector.admit(draft) {
            Ok(admission) => admission.wait().unwrap(),
            Err(refused) => {
                assert_eq!(refused.cause, Cause::QueueFull);
                drop(refused);
                assert_eq!(before, self.collector.stats(), "a refusal takes nothing");
                let after: Vec<_> = self.queues.iter().map(|queue| queue.queue.probe()).collect();
                assert_eq!(probes, after, "a refusal leaves every queue as it was");
                let blocks = |machine: usize| {
                    self.current[machine].is_some_and(|queue| {
                        let queue = &self.queues[queue];
                        queue.live && queue.full == Full::Block && !queue.queue.probe().behind
                    })
                };
                assert!(picked.iter().any(|(machine, ..)| blocks(usize::from(*machine))), "nobody could refuse this");
                return;
            }
        };
        let at = at.max(self.batches.last().map_or(at, |last| last.at));
        self.batches.push(Sent { charged, at, evicted: false });
        let mut held: usize = self.batches.iter().filter(|batch| !batch.evicted).map(|batch| batch.charged).sum();
        let newest = self.batches.len() - 1;
        for batch in self.batches[..newest].iter_mut().filter(|batch| !batch.evicted) {
            if held <= self.setup.history {
                break;
            }
            batch.evicted = true;
            held -= batch.charged;
        }
        let mut fates = (0, 0, 0);
        let mut wanted: HashMap<usize, (u64, usize)> = HashMap::new();
        for ((machine, kind, _), text) in picked.iter().zip(texts) {
            let (machine, kind) = (usize::from(*machine), KINDS[usize::from(*kind)]);
            let index = self.lines.len();
            let seq = self.next_seq[machine];
            self.next_seq[machine] += 1;
            self.seen[machine] = true;
            let mut limited = false;
            match self.current[machine].filter(|queue| self.queues[*queue].live) {
                None => fates.2 += 1,
                Some(queue) if !self.queues[queue].streams.wants(kind) => fates.1 += 1,
                Some(queue) => {
                    fates.0 += 1;
                    limited = !self.passes(machine, kind);
                    let sum = wanted.entry(queue).or_default();
                    *sum = (sum.0 + 1, sum.1 + text.len() + 200);
                    let queue = &mut self.queues[queue];
                    queue.place.insert(text.clone(), queue.lines.len());
                    queue.lines.push((index, false));
                }
            }
            self.lines.push(Line { text, machine, kind, seq, batch: newest, limited });
        }
        for (queue, (lines, bytes)) in wanted {
            let queue = &mut self.queues[queue];
            queue.largest = queue.largest.max(lines);
            queue.largest_bytes = queue.largest_bytes.max(bytes + 1000);
        }
        assert_eq!((receipt.accepted, receipt.filtered, receipt.unrouted), fates);
        assert_eq!(receipt.received, picked.len() as u64);
    }

    fn subscribe(&mut self, machine: usize, streams: Streams, full: Full, backlog: bool) {
        let options = SubscribeOptions { streams: Some(streams), full: Some(full), backlog };
        let existing = self.current[machine].filter(|queue| self.queues[*queue].live);
        let (handle, created) = match self.collector.subscribe_with(MACHINES[machine], options) {
            Ok(got) => got,
            Err(SubscribeError::Conflict { streams: has, full: does }) => {
                let queue = &self.queues[existing.expect("only an existing queue can conflict")];
                assert_eq!((queue.streams, queue.full), (has, does));
                assert_ne!((streams, full), (has, does));
                return;
            }
            Err(other) => panic!("{other}"),
        };
        assert_eq!(created, existing.is_none());
        if let Some(queue) = existing {
            assert!(Arc::ptr_eq(&self.queues[queue].queue, handle.inner()));
            return self.add_reader(queue, LogStream::new(handle));
        }
        let wanted = |line: &Line| {
            let is_held = line.machine == machine && !self.batches[line.batch].evicted;
            backlog && is_held && streams.wants(line.kind) && !line.limited
        };
        let lines: Vec<_> = (0..self.lines.len()).filter(|index| wanted(&self.lines[*index])).collect();
        let place = lines.iter().enumerate().map(|(at, index)| (self.lines[*index].text.clone(), at)).collect();
        self.queues.push(Queued {
            machine: Arc::clone(handle.machine()),
            queue: Arc::clone(handle.inner()),
            streams,
            full,
            lines: lines.into_iter().map(|index| (index, false)).collect(),
            place,
            told: 0,
            live: true,
            solo: true,
            next: 0,
            untold: 0,
            exact: self.setup.limit == 0 || streams != Streams::ALL,
            abandonable: false,
            largest: 0,
            largest_bytes: 0,
        });
        let queue = self.queues.len() - 1;
        self.current[machine] = Some(queue);
        (self.finished[machine], self.finish_at[machine], self.seen[machine]) = (false, None, true);
        self.add_reader(queue, LogStream::new(handle));
    }

    fn add_reader(&mut self, queue: usize, stream: LogStream) {
        if self.readers.iter().any(|reader| reader.queue == queue) {
            self.queues[queue].solo = false;
        }
        self.readers.push(Reader { queue, stream, told: 0, parked: None });
    }

    fn another_handle(&self, queue: usize) -> LogStream {
        let Queued { machine, queue, .. } = &self.queues[queue];
        LogStream::new(LogQueue::new(&self.collector, machine, queue))
    }

    fn reader(&self, picked: u8) -> Option<usize> {
        (!self.readers.is_empty()).then(|| usize::from(picked) % self.readers.len())
    }

    /// Notes what a reader was told to have missed.
    fn note_told(&mut self, reader: usize) {
        let reader = &mut self.readers[reader];
        let told = reader.stream.lines_skipped() - reader.told;
        reader.told += told;
        let queue = &mut self.queues[reader.queue];
        queue.told += told;
        queue.untold += told;
    }

    fn note_read(&mut self, reader: usize, text: &str, seq: u64, id: EntryId) {
        self.note_told(reader);
        let queue = &mut self.queues[self.readers[reader].queue];
        let at = *queue.place.get(text).unwrap_or_else(|| panic!("{text} was never this queue's"));
        let (index, delivered) = &mut queue.lines[at];
        assert!(!*delivered, "{text} was delivered twice");
        assert!(!self.lines[*index].limited, "{text} was over the limit");
        *delivered = true;
        assert_eq!((self.lines[*index].seq, *index as u64), (seq, id.line), "numbers are what the list says");
        if queue.solo {
            assert!(at >= queue.next, "{text} came out of order");
            let missed = &queue.lines[queue.next..at];
            if queue.exact {
                assert_eq!(missed.len() as u64, queue.untold, "told in place, and exactly, before {text}");
            }
            let lost = |(index, _): &(usize, bool)| {
                let line = &self.lines[*index];
                line.limited || self.batches[line.batch].evicted
            };
            if queue.full != Full::DropOldest && !queue.abandonable {
                assert!(missed.iter().all(lost), "lost though the history held it");
            }
            (queue.next, queue.untold) = (at + 1, 0);
        }
    }

    /// Reads once; whether there was something.
    fn read(&mut self, reader: usize) -> bool {
        self.readers[reader].parked = None;
        let event = self.readers[reader].stream.next_event().now_or_never();
        self.note_event(reader, event)
    }

    fn note_event(&mut self, reader: usize, event: Option<Option<StreamEvent>>) -> bool {
        match event {
            None => {
                self.note_told(reader);
                let probe = self.queues[self.readers[reader].queue].queue.probe();
                assert!(!probe.has_something, "a reader waits though there is something: {probe:?}");
                false
            }
            Some(Some(StreamEvent::Entry(entry))) => {
                self.note_read(reader, entry.message(), entry.machine_seq().unwrap(), entry.id().unwrap());
                true
            }
            Some(Some(StreamEvent::Skipped(lines) | StreamEvent::Limited(lines))) => {
                assert!(lines > 0);
                self.note_told(reader);
                true
            }
            Some(None) => {
                self.note_told(reader);
                let Reader { queue, stream, .. } = &mut self.readers[reader];
                let queue = &mut self.queues[*queue];
                assert!(!queue.live && stream.done() && !stream.timed_out());
                if queue.solo {
                    assert!(
                        !queue.exact || queue.untold == (queue.lines.len() - queue.next) as u64,
                        "told before the end"
                    );
                    (queue.next, queue.untold) = (queue.lines.len(), 0);
                }
                assert_eq!(stream.next_event().now_or_never(), Some(None), "again and again");
                false
            }
            Some(Some(StreamEvent::SkippedUnknown)) => panic!("it is always known how many"),
        }
    }

    fn read_batch(&mut self, reader: usize, keep: bool) {
        self.readers[reader].parked = None;
        let batch = self.readers[reader].stream.next_batch().now_or_never();
        let Some(Some(batch)) = batch else { return self.note_told(reader) };
        assert!(!batch.is_empty() && batch.len() == batch.entries().count());
        for entry in batch.entries() {
            self.note_read(reader, entry.message(), entry.machine_seq().unwrap(), entry.id().unwrap());
        }
        if keep {
            self.kept.push(batch);
            if self.kept.len() > 3 {
                self.kept.remove(0);
            }
        }
    }

    /// Reads up to `count` lines as a reader over HTTP does: without a wait, and delivered together.
    fn show(&mut self, reader: usize, count: u8) {
        for _ in 0..count {
            let stream = &mut self.readers[reader].stream;
            let line = match stream.next_ready() {
                Some(Ready::Line(entry)) => {
                    Some((entry.message().to_owned(), entry.machine_seq().unwrap(), entry.id().unwrap()))
                }
                Some(Ready::SkippedUnknown) => panic!("it is always known how many"),
                Some(Ready::Skipped(_) | Ready::Limited(_)) => None,
                None => {
                    if !stream.has_more(u64::from(count)) {
                        break;
                    }
                    None
                }
            };
            match line {
                Some((text, seq, id)) => self.note_read(reader, &text, seq, id),
                None => self.note_told(reader),
            }
        }
        self.readers[reader].stream.deliver();
    }

    /// Polls a reader as a task would, and leaves it waiting.
    fn park(&mut self, reader: usize) {
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        let polled = Pin::new(&mut self.readers[reader].stream).poll_next(&mut Context::from_waker(&waker));
        self.readers[reader].parked = None;
        match polled {
            Poll::Pending => {
                self.note_event(reader, None);
                self.readers[reader].parked = Some(flag);
            }
            Poll::Ready(entry) => {
                self.note_event(reader, Some(entry.map(StreamEvent::Entry)));
            }
        }
    }

    fn note_finished(&mut self, machine: usize) {
        self.finish_at[machine] = None;
        self.finished[machine] |= self.seen[machine];
        if let Some(queue) = self.current[machine] {
            self.queues[queue].live = false;
        }
    }

    async fn advance(&mut self, millis: u32) {
        for (index, queue) in self.queues.iter_mut().enumerate() {
            // Generous: of what may have been abandoned it is not asserted that it is still there.
            queue.abandonable |= !self.readers.iter().any(|reader| reader.queue == index);
        }
        tokio::time::advance(Duration::from_millis(u64::from(millis))).await;
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        for machine in 0..MACHINES.len() {
            if self.finish_at[machine].is_some_and(|at| at <= Instant::now()) {
                self.note_finished(machine);
            }
        }
        self.collector.maintain();
    }

    fn line_of(&self, machine: usize, seq: u64) -> &Line {
        let mut lines = self.lines.iter();
        lines.find(|line| line.machine == machine && line.seq == seq).expect("no line out of nothing")
    }

    fn step_view(&mut self, view: usize) -> bool {
        let (machine, mut next) = (self.views[view].machine, self.views[view].next);
        let step = self.views[view].view.step();
        let more = step.is_some();
        match step {
            Some(Seen::Lines(lines)) => {
                for entry in lines.entries() {
                    let line = self.line_of(machine, next);
                    assert_eq!((entry.message(), entry.machine_seq()), (line.text.as_str(), Some(line.seq)));
                    next += 1;
                }
            }
            Some(Seen::Skipped(missed)) => {
                let missed = missed.expect("ids of this process are known");
                assert!(missed > 0);
                for seq in next..next + missed {
                    let line = self.line_of(machine, seq);
                    assert!(self.batches[line.batch].evicted, "skipped though the history holds it");
                }
                next += missed;
            }
            Some(Seen::Past) => unreachable!("there is no spool"),
            None => {
                assert_eq!(next, self.next_seq[machine], "seen + skipped = produced");
                assert_eq!(self.views[view].view.ended().is_some(), self.finished[machine]);
            }
        }
        self.views[view].next = next;
        more
    }

    fn step_fleet(&mut self) -> bool {
        let Some(Seen::Lines(batch)) = self.fleet.step() else {
            assert_eq!(self.fleet_next, self.lines.len() as u64, "seen + skipped = produced");
            return false;
        };
        for number in self.fleet_next..self.fleet_next + batch.skipped_before() {
            assert!(self.batches[self.lines[number as usize].batch].evicted);
        }
        self.fleet_next += batch.skipped_before();
        assert!(!batch.is_empty() && batch.len() == batch.entries().len());
        for entry in batch.entries() {
            let line = &self.lines[self.fleet_next as usize];
            assert_eq!((entry.message(), entry.machine_seq()), (line.text.as_str(), Some(line.seq)));
            self.fleet_next += 1;
        }
        true
    }

    /// Every way to begin in the past shows exactly what the list says.
    fn check_starts(&self, machine: usize, picked: u16, last: u8) {
        if self.lines.is_empty() {
            return;
        }
        let picked = usize::from(picked) % self.lines.len();
        let since = self.batches[self.lines[picked].batch].at;
        let young = |line: &Line| self.batches[line.batch].at >= since;
        let first_young = self.lines.iter().position(young).unwrap_or(self.lines.len());
        let id = EntryId {
            epoch: self.collector.epoch(),
            line: picked as u64,
            machine_seq: self.lines[picked].seq,
            machine: EntryId::mark(MACHINES[self.lines[picked].machine]),
        };
        let all: Vec<usize> = (0..self.lines.len()).collect();
        let mine: Vec<usize> = all.iter().copied().filter(|index| self.lines[*index].machine == machine).collect();
        for (of_one, lines) in [(true, mine), (false, all)] {
            let held = |index: &&usize| !self.batches[self.lines[**index].batch].evicted;
            let matching = lines.iter().rev().filter(held).filter(|index| self.lines[**index].kind == Kind::Stderr);
            let first_last = matching.take(last.into()).last().copied().unwrap_or(self.lines.len());
            let (backlog, last) = (ViewStart { backlog: true, ..ViewStart::default() }, Some(u64::from(last)));
            let starts = [
                (backlog.clone(), 0),
                (ViewStart { since: Some(since), ..backlog.clone() }, first_young),
                (ViewStart { last, ..backlog.clone() }, first_last),
                (ViewStart { last, since: Some(since), ..backlog.clone() }, first_last.max(first_young)),
                (ViewStart { after: Some(id), ..backlog }, picked + 1),
            ];
            for (start, from) in starts {
                let resumes = start.after.is_some();
                if of_one && resumes && self.lines[picked].machine != machine {
                    continue;
                }
                let asked = || lines.iter().filter(|index| **index >= from);
                let expected: Vec<_> = asked().filter(held).map(|index| self.lines[*index].text.clone()).collect();
                let lost = asked().filter(|index| resumes && !held(index)).count() as u64;
                let got = if of_one { self.play_machine(machine, &start) } else { self.play_fleet(&start) };
                assert_eq!(got, (expected, lost), "{start:?}");
            }
        }
    }

    fn play_machine(&self, machine: usize, start: &ViewStart) -> (Vec<String>, u64) {
        let mut view = MachineView::new(&self.collector, MACHINES[machine], start, |entry| entry.stream() == "stderr");
        let (mut seen, mut skipped) = (Vec::new(), 0);
        while let Some(step) = view.step() {
            match step {
                Seen::Lines(lines) => seen.extend(lines.entries().map(|entry| entry.message().to_owned())),
                Seen::Skipped(missed) => skipped += missed.unwrap(),
                Seen::Past => unreachable!("there is no spool"),
            }
        }
        (seen, skipped)
    }

    fn play_fleet(&self, start: &ViewStart) -> (Vec<String>, u64) {
        let mut fleet = FleetStream::new(&self.collector, start, |entry| entry.stream() == "stderr");
        let (mut seen, mut skipped) = (Vec::new(), 0);
        while let Some(Seen::Lines(batch)) = fleet.step() {
            skipped += batch.skipped_before();
            seen.extend(batch.entries().map(|entry| entry.message().to_owned()));
        }
        (seen, skipped)
    }

    async fn apply(&mut self, op: &Op) {
        match op {
            Op::Admit { lines } => self.admit(lines),
            &Op::Subscribe { machine, streams, full, backlog } => {
                let (streams, full) = (STREAMS[usize::from(streams)], FULL[usize::from(full)]);
                self.subscribe(machine.into(), streams, full, backlog);
            }
            &Op::Finish { machine } => {
                let machine = usize::from(machine);
                assert_eq!(self.collector.finish(MACHINES[machine]), self.seen[machine]);
                self.note_finished(machine);
            }
            &Op::FinishAfter { machine, millis } => {
                let (machine, linger) = (usize::from(machine), Duration::from_millis(millis.into()));
                assert_eq!(self.collector.finish_after(MACHINES[machine], linger), self.seen[machine]);
                if self.seen[machine] && !self.finished[machine] {
                    self.finish_at[machine] = Some(Instant::now() + linger);
                }
            }
            &Op::Advance { millis } => self.advance(millis).await,
            &Op::Starts { machine, line, last } => self.check_starts(machine.into(), line, last),
            &Op::StepFleet { count } => {
                let _ = (0..count).take_while(|_| self.step_fleet()).count();
            }
            &Op::View { machine, backlog } => self.look(machine.into(), backlog),
            &Op::StepView { view, .. } | &Op::DropView { view } if !self.views.is_empty() => {
                let view = usize::from(view) % self.views.len();
                match op {
                    &Op::StepView { count, .. } => {
                        let _ = (0..count).take_while(|_| self.step_view(view)).count();
                    }
                    _ => drop(self.views.swap_remove(view)),
                }
            }
            &Op::Share { reader }
            | &Op::Read { reader, .. }
            | &Op::ReadBatch { reader, .. }
            | &Op::Show { reader, .. }
            | &Op::Park { reader }
            | &Op::Rest { reader }
            | &Op::LetGo { reader }
            | &Op::DropReader { reader } => {
                if let Some(reader) = self.reader(reader) {
                    self.apply_to(reader, op);
                }
            }
            Op::StepView { .. } | Op::DropView { .. } => {}
        }
        self.check();
    }

    fn apply_to(&mut self, reader: usize, op: &Op) {
        match *op {
            Op::Read { count, .. } => {
                let _ = (0..count).take_while(|_| self.read(reader)).count();
            }
            Op::ReadBatch { keep, .. } => self.read_batch(reader, keep),
            Op::Show { count, .. } if self.readers[reader].parked.is_none() => self.show(reader, count),
            Op::Park { .. } => self.park(reader),
            Op::Rest { .. } if self.readers[reader].parked.is_none() => self.readers[reader].stream.rest(),
            Op::LetGo { .. } => self.readers[reader].stream.let_go(),
            Op::DropReader { .. } => drop(self.readers.swap_remove(reader)),
            Op::Share { .. } => {
                let queue = self.readers[reader].queue;
                self.add_reader(queue, self.another_handle(queue));
            }
            _ => {}
        }
    }

    fn look(&mut self, machine: usize, backlog: bool) {
        let start = ViewStart { backlog, ..ViewStart::default() };
        let view = MachineView::new(&self.collector, MACHINES[machine], &start, |_| true);
        let is_held = |line: &&Line| line.machine == machine && !self.batches[line.batch].evicted;
        let live = self.next_seq[machine];
        let next = self.lines.iter().find(is_held).filter(|_| backlog).map_or(live, |line| line.seq);
        self.views.push(Looker { machine, view, next });
    }

    /// What holds after every call.
    fn check(&self) {
        let stats = assert_balanced(&self.collector);
        let sent: u64 = self.queues.iter().map(|queue| queue.lines.len() as u64).sum();
        assert_eq!(stats.queue_lines_in, sent);
        let delivered = |queue: &Queued| queue.lines.iter().filter(|(_, delivered)| *delivered).count() as u64;
        assert_eq!(stats.queue_lines_delivered, self.queues.iter().map(delivered).sum::<u64>());
        let live = self.queues.iter().filter(|queue| queue.live).count();
        assert_eq!(stats.subscriptions, live as u64);
        assert_eq!(self.collector.machine_ids().len(), live);
        assert_eq!(stats.viewers as usize, self.views.len() + 1);
        self.check_losses(&stats);
        let limited =
            |queue: &Queued| queue.lines.iter().filter(|(index, _)| self.lines[*index].limited).count() as u64;
        let limited = self.queues.iter().map(limited).sum::<u64>();
        assert_eq!(stats.queue_lines_dropped_by_reason["limited"], limited);
        for (index, queue) in self.queues.iter().enumerate() {
            let readers: Vec<_> = self.readers.iter().filter(|reader| reader.queue == index).collect();
            self.check_queue(queue, &readers);
        }
    }

    /// Every dropped line is in exactly one entry of the journal, under its reason and its machine.
    fn check_losses(&self, stats: &Stats) {
        let losses = self.collector.losses(None, None).entries;
        let lost = |is_it: &dyn Fn(&Loss) -> bool| -> u64 {
            losses.iter().filter(|loss| is_it(loss)).map(|loss| loss.lines.unwrap()).sum()
        };
        for (reason, dropped) in &stats.queue_lines_dropped_by_reason {
            assert_eq!(lost(&|loss| loss.reason == *reason), *dropped, "{reason}: {losses:?}");
        }
        for machine in MACHINES {
            let queues = self.queues.iter().filter(|queue| queue.machine.id == machine);
            let dropped: u64 = queues.map(|queue| queue.queue.facts().dropped).sum();
            assert_eq!(lost(&|loss| loss.machine.as_deref() == Some(machine)), dropped, "{machine}: {losses:?}");
        }
        for loss in losses {
            let (first, last) = (loss.first_id.unwrap(), loss.last_id.unwrap());
            for id in [first, last] {
                let line = &self.lines[id.line as usize];
                assert_eq!((MACHINES[line.machine], line.seq), (loss.machine.as_deref().unwrap(), id.machine_seq));
            }
            assert!(last.machine_seq - first.machine_seq < loss.lines.unwrap() + self.lines.len() as u64);
            assert!(first.machine_seq <= last.machine_seq, "{loss:?}");
        }
    }

    fn check_queue(&self, queue: &Queued, readers: &[&Reader]) {
        let probe = queue.queue.probe();
        let parked: Vec<_> = readers.iter().filter_map(|reader| reader.parked.as_ref()).collect();
        assert_eq!(probe.reserved, (0, 0));
        let resting = readers.iter().filter(|reader| reader.stream.rests()).count();
        assert_eq!(probe.waiting as usize, parked.len() + resting);
        if probe.waiting == 0 && self.setup.budget == BUDGET_AMPLE {
            assert!(queue.queue.uncopied() < HANDED_ON_MAX, "who is not there keeps no batch");
        }
        if readers.is_empty() {
            assert_eq!((probe.held_lines, probe.held_bytes, probe.readers), (0, 0, 0));
        }
        let (lines_max, bytes_max) = (self.setup.lines as u64, self.setup.bytes);
        assert!(probe.lines - probe.held_lines <= lines_max.max(queue.largest), "{probe:?}");
        assert!(probe.bytes - probe.held_bytes <= bytes_max.max(queue.largest_bytes), "{probe:?}");
        if queue.solo && queue.full != Full::DropOldest {
            assert!(probe.lines <= lines_max.max(queue.largest), "{probe:?}");
        }
        if probe.lines == 0 {
            assert_eq!(probe.bytes, 0, "no line costs nothing");
        }
        if probe.has_something {
            assert!(parked.iter().all(|flag| flag.0.load(SeqCst)), "somebody sleeps: {probe:?}");
        }
    }

    /// Reads everything, and looks whether the drain's own account was right.
    fn settle(mut self) {
        let before = self.collector.stats();
        for reader in 0..self.readers.len() {
            while self.read(reader) {}
            self.check();
        }
        // One that came to the end while another held lines is done, and leaves what was given back to the next.
        self.readers.clear();
        for queue in 0..self.queues.len() {
            self.add_reader(queue, self.another_handle(queue));
            while self.read(queue) {}
            self.check();
        }
        let after = assert_balanced(&self.collector);
        assert_eq!(after.queue_lines, 0);
        let delivered = after.queue_lines_delivered - before.queue_lines_delivered;
        assert_eq!(delivered, before.queue_lines, "what was said to be left");
        assert_eq!(after.queue_lines_dropped, before.queue_lines_dropped, "reading drops nothing");
        for queue in &self.queues {
            let delivered = queue.lines.iter().filter(|(_, delivered)| *delivered).count() as u64;
            assert_eq!(delivered + queue.told, queue.lines.len() as u64, "delivered or told");
        }
        for view in 0..self.views.len() {
            while self.step_view(view) {}
        }
        while self.step_fleet() {}
        let budget = Arc::clone(self.collector.budget());
        let kept = std::mem::take(&mut self.kept);
        drop(self);
        assert!(kept.is_empty() || budget.used() > 0, "what a user holds is in the budget");
        drop(kept);
        assert_eq!(budget.used(), 0, "nothing leaks");
    }
}

fn run(setup: Setup, ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(setup);
        for op in ops {
            world.apply(op).await;
        }
        world.settle();
    });
}

/// `MODEL_CASES=100000 cargo test --release --lib model` runs it for long.
fn cases() -> u32 {
    std::env::var("MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_line_has_the_fate_that_a_plain_list_gives_it(
        setup in setup(),
        ops in prop::collection::vec(op(), 1..120),
    ) {
        run(setup, &ops);
    }
}
