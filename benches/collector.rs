//! `collector`: publishing a body into a machine table of any size, and how soon a waiting reader has it.
//!
//! ```sh
//! cargo bench --features bench --bench collector
//! ```
//!
//! `publish` is all that follows parsing: rows are grouped by machine, the budget is charged, and the body goes to the history
//! and the queues. Its figures are in lines where bodies are drawn by Zipf's law, in machines where each line is another's.
//! `latency` is the time from before the publish to the moment at which a waiting reader has the lines; on another thread the
//! kernel's wake is most of it.

#![allow(clippy::unwrap_used, reason = "a panic here is the bench's failure report")]
#![allow(missing_docs, reason = "criterion's macros write public items")]

mod support;

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    hint::black_box,
    rc::Rc,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{
    Bencher, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use fleetdrain::{
    LogCollector, LogStream,
    bench::{Parser, Rows, publish},
    collector::CollectorConfig,
};
use tokio::{
    runtime::{Builder, Runtime},
    task::{LocalSet, yield_now},
    time::timeout,
};

use support::{Fleet, LINES, Random, fill_history, is_trial, machine_id, record, show_all};

/// Bodies in turn: together they name more machines than fit a core's caches.
const BODIES: usize = 64;
/// Of the machines seen, at most so many are subscribed: the loudest.
const SUBSCRIBED_MAX: usize = 10_000;
/// No measurement takes longer.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long a reader on another thread is given to go to sleep.
const SETTLE: Duration = Duration::from_micros(50);

/// Whose lines a body holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mix {
    /// Machines in proportion to Zipf's law.
    Zipf,
    /// Each line is another machine's, all machines alike.
    Each,
}

/// Bodies of a fleet, in turn.
struct Bodies {
    parser: Parser,
    bodies: Vec<Bytes>,
    /// The machines of each body, once each.
    machines: Vec<Vec<String>>,
    turn: usize,
}

impl Bodies {
    fn new(machines: usize, mix: Mix) -> Self {
        let mut random = Random::new(2);
        let fleet = Fleet::new(machines);
        let lines_max = if mix == Mix::Each { machines.min(LINES) } else { LINES };
        let numbers: Vec<Vec<usize>> = (0..BODIES)
            .map(|_| match mix {
                Mix::Zipf => (0..lines_max).map(|_| fleet.draw(&mut random)).collect(),
                Mix::Each => distinct(machines, lines_max, &mut random),
            })
            .collect();
        let body = |numbers: &Vec<usize>, random: &mut Random| {
            let records: Vec<_> = numbers.iter().map(|&number| record(&machine_id(number), random)).collect();
            Bytes::from(records.join("\n"))
        };
        let bodies = numbers.iter().map(|numbers| body(numbers, &mut random)).collect();
        let once = |numbers: &Vec<usize>| HashSet::<usize>::from_iter(numbers.iter().copied());
        let machines = numbers.iter().map(|numbers| once(numbers).into_iter().map(machine_id).collect()).collect();
        Self { parser: Parser::default(), bodies, machines, turn: 0 }
    }

    /// The next body, as from the wire, and its rows.
    fn next(&mut self) -> (Bytes, Rows) {
        self.turn = (self.turn + 1) % self.bodies.len();
        let body = Bytes::copy_from_slice(&self.bodies[self.turn]);
        let rows = self.parser.parse(&body);
        (body, rows)
    }

    fn next_machines(&mut self) -> &[String] {
        self.turn = (self.turn + 1) % self.machines.len();
        &self.machines[self.turn]
    }
}

/// `count` numbers below `machines`, none twice.
fn distinct(machines: usize, count: usize, random: &mut Random) -> Vec<usize> {
    let mut seen = HashSet::new();
    std::iter::repeat_with(|| random.below(machines)).filter(|number| seen.insert(*number)).take(count).collect()
}

/// A collector that has seen `machines`.
fn collector(machines: usize) -> LogCollector {
    let mut config = CollectorConfig::default();
    config.machines.max = config.machines.max.max(2 * machines);
    let history_bytes = config.history_bytes;
    let collector = LogCollector::new(config);
    show_all(&collector, machines, &mut Random::new(1));
    if !is_trial() {
        fill_history(&collector, &Fleet::new(machines), LINES, history_bytes);
    }
    collector
}

/// Times publishing alone.
fn unrouted(bench: &mut Bencher<'_>, collector: &LogCollector, bodies: &mut Bodies) {
    let mut turn = |_| {
        let (body, rows) = bodies.next();
        let start = Instant::now();
        let receipt = publish(collector, body, rows);
        let took = start.elapsed();
        assert_eq!(receipt.unrouted, receipt.received);
        took
    };
    bench.iter_custom(|turns| (0..turns).map(&mut turn).sum());
}

/// A task for each subscribed machine, all of them on the publisher's thread.
struct Readers {
    runtime: Runtime,
    tasks: LocalSet,
    read: Rc<Cell<u64>>,
}

impl Readers {
    fn new(collector: &LogCollector, machines: usize) -> Self {
        let (tasks, read) = (LocalSet::new(), Rc::new(Cell::new(0)));
        for number in 0..machines.min(SUBSCRIBED_MAX) {
            let stream = LogStream::new(collector.subscribe(&machine_id(number)).unwrap());
            tasks.spawn_local(count(stream, Rc::clone(&read)));
        }
        let runtime = current_thread();
        // Every reader must wait before anything is timed, and a turn of the executor starts only some of them.
        tasks.block_on(&runtime, async {
            for _ in 0..machines.min(SUBSCRIBED_MAX) {
                yield_now().await;
            }
        });
        Self { runtime, tasks, read }
    }

    /// Times publishing until every reader has taken its lines.
    fn time(&self, bench: &mut Bencher<'_>, collector: &LogCollector, bodies: &mut Bodies) {
        let turn = async || {
            let (body, rows) = bodies.next();
            let start = Instant::now();
            let accepted = publish(collector, body, rows).accepted;
            while self.read.get() < accepted {
                yield_now().await;
            }
            let took = start.elapsed();
            assert_eq!(self.read.take(), accepted);
            took
        };
        time_turns(bench, &self.runtime, &self.tasks, turn);
    }
}

async fn count(mut stream: LogStream, read: Rc<Cell<u64>>) {
    while let Some(batch) = stream.next_batch().await {
        read.set(read.get() + batch.len() as u64);
    }
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn publishing(criterion: &mut Criterion) {
    let sizes: &[usize] = if is_trial() { &[10, 1_000] } else { &[10, 1_000, 100_000, 1_000_000] };
    for &machines in sizes {
        // Made by the first bench that is not filtered out.
        let (mut shared, mut readers) = (None, None);
        for mix in [Mix::Zipf, Mix::Each] {
            let mut bodies = None;
            let mut group = group(criterion, mix, machines);
            group.bench_function(BenchmarkId::new("nobody subscribed", machines), |bench| {
                let bodies = bodies.get_or_insert_with(|| Bodies::new(machines, mix));
                unrouted(bench, shared.get_or_insert_with(|| collector(machines)), bodies);
            });
            floors(&mut group, machines, &mut bodies, mix);
        }
        for mix in [Mix::Zipf, Mix::Each] {
            if mix == Mix::Each && machines > SUBSCRIBED_MAX {
                // Hardly a line would be a subscribed machine's.
                continue;
            }
            let mut bodies = None;
            let name = format!("{} subscribed and read", machines.min(SUBSCRIBED_MAX));
            group(criterion, mix, machines).bench_function(BenchmarkId::new(name, machines), |bench| {
                let collector = &*shared.get_or_insert_with(|| collector(machines));
                let bodies = bodies.get_or_insert_with(|| Bodies::new(machines, mix));
                readers.get_or_insert_with(|| Readers::new(collector, machines)).time(bench, collector, bodies);
            });
        }
    }
}

fn group(criterion: &mut Criterion, mix: Mix, machines: usize) -> BenchmarkGroup<'_, WallTime> {
    let (name, lines) = match mix {
        Mix::Zipf => ("collector/publish, by Zipf", LINES),
        Mix::Each => ("collector/publish, each line another", machines.min(LINES)),
    };
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(lines as u64));
    group
}

/// What a body's machines cost at least: a look-up each, a queue item each.
fn floors(group: &mut BenchmarkGroup<'_, WallTime>, machines: usize, bodies: &mut Option<Bodies>, mix: Mix) {
    let mut table = None;
    group.bench_function(BenchmarkId::new("floor: HashMap look-ups", machines), |bench| {
        let count = |number| (machine_id(number), 0_u64);
        let table: &mut HashMap<_, _, foldhash::fast::RandomState> =
            table.get_or_insert_with(|| (0..machines).map(count).collect());
        let bodies = bodies.get_or_insert_with(|| Bodies::new(machines, mix));
        bench.iter(|| {
            for machine in bodies.next_machines() {
                *table.get_mut(machine).unwrap() += 1;
            }
        });
    });
    let (sender, receiver) = flume::unbounded();
    let batch = Arc::new(0_u64);
    group.bench_function(BenchmarkId::new("floor: flume, send and receive", machines), |bench| {
        let bodies = bodies.get_or_insert_with(|| Bodies::new(machines, mix));
        bench.iter(|| {
            for _ in bodies.next_machines() {
                sender.send((Arc::clone(&batch), 0..1_u32)).unwrap();
                black_box(receiver.try_recv().unwrap());
            }
        });
    });
}

/// Times what `turn` says, with `tasks` on the same thread.
fn time_turns(bench: &mut Bencher<'_>, runtime: &Runtime, tasks: &LocalSet, mut turn: impl AsyncFnMut() -> Duration) {
    bench.iter_custom(|turns| {
        let all = async {
            let mut took = Duration::ZERO;
            for _ in 0..turns {
                took += turn().await;
            }
            took
        };
        tasks.block_on(runtime, async { timeout(DEADLINE, all).await.unwrap() })
    });
}

/// Where the reader waits.
#[derive(Clone, Copy)]
enum Thread {
    /// In a task on the publisher's thread.
    Same,
    /// In a runtime of its own, whose thread is asleep.
    Another,
}

impl Thread {
    fn name(self) -> &'static str {
        match self {
            Self::Same => "same thread",
            Self::Another => "another thread",
        }
    }

    /// Times from what `offer` returns to what `reader` says through `taken`: when it had what was offered.
    fn time(
        self,
        bench: &mut Bencher<'_>,
        reader: impl Future<Output = ()> + Send + 'static,
        taken: &mpsc::Receiver<Instant>,
        mut offer: impl FnMut() -> Instant,
    ) {
        match self {
            Self::Same => {
                let (runtime, tasks) = (current_thread(), LocalSet::new());
                tasks.spawn_local(reader);
                tasks.block_on(&runtime, yield_now());
                let turn = async || {
                    let start = offer();
                    loop {
                        match taken.try_recv() {
                            Ok(at) => return at - start,
                            Err(_) => yield_now().await,
                        }
                    }
                };
                time_turns(bench, &runtime, &tasks, turn);
            }
            Self::Another => {
                let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
                runtime.spawn(reader);
                let mut turn = |_| {
                    settle();
                    let start = offer();
                    taken.recv_timeout(DEADLINE).unwrap() - start
                };
                bench.iter_custom(|turns| (0..turns).map(&mut turn).sum());
            }
        }
    }
}

/// Gives a reader on another thread the time to fall asleep.
fn settle() {
    let start = Instant::now();
    while start.elapsed() < SETTLE {
        std::hint::spin_loop();
    }
}

/// Publishes `body` again and again; says when it began to.
fn offers(collector: LogCollector, body: &Bytes) -> impl FnMut() -> Instant {
    let mut parser = Parser::default();
    move || {
        let body = Bytes::copy_from_slice(body);
        let rows = parser.parse(&body);
        let start = Instant::now();
        let _ = publish(&collector, body, rows);
        start
    }
}

fn latency(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("collector/latency");
    for thread in [Thread::Same, Thread::Another] {
        let name = thread.name();
        for (machines, lines) in [(1, 1), (1_000, LINES)] {
            let body = Fleet::new(machines).body(lines, &mut Random::new(3));
            group.bench_function(BenchmarkId::new(format!("LogStream, {name}"), lines), |bench| {
                let (collector, (took, taken)) = (LogCollector::default(), mpsc::channel());
                // The loudest machine, which is in every body.
                let mut stream = LogStream::new(collector.subscribe(&machine_id(0)).unwrap());
                let reader =
                    async move { while stream.next_batch().await.is_some() && took.send(Instant::now()).is_ok() {} };
                thread.time(bench, reader, &taken, offers(collector, &body));
            });
            group.bench_function(BenchmarkId::new(format!("FleetStream, {name}"), lines), |bench| {
                let (collector, (took, taken)) = (LogCollector::default(), mpsc::channel());
                let mut fleet = collector.fleet();
                let reader = async move { while fleet.next().await.is_some() && took.send(Instant::now()).is_ok() {} };
                thread.time(bench, reader, &taken, offers(collector, &body));
            });
        }
        group.bench_function(format!("floor: flume, {name}"), |bench| {
            let ((took, taken), (sender, receiver)) = (mpsc::channel(), flume::unbounded());
            let reader =
                async move { while receiver.recv_async().await.is_ok() && took.send(Instant::now()).is_ok() {} };
            let offer = || {
                let start = Instant::now();
                sender.send(()).unwrap();
                start
            };
            thread.time(bench, reader, &taken, offer);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = support::settings();
    targets = publishing, latency
}
criterion_main!(benches);
