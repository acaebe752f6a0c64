//! `queue`: one machine's queue, from the offer of a group to its reader.
//!
//! ```sh
//! cargo bench --features bench --bench queue
//! ```
//!
//! A queue is offered to from within the publish section, so each figure is that of publishing a body of one machine and
//! taking it; `no queue` is publishing alone, and what is over is the queue's. Readers are polled by hand: no runtime, no
//! wakes. The floors pass a reference-counted group on.

#![allow(clippy::unwrap_used, reason = "a panic here is the bench's failure report")]
#![allow(missing_docs, reason = "criterion's macros write public items")]

mod support;

use std::{
    cell::Cell,
    collections::VecDeque,
    hint::black_box,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
};

use bytes::Bytes;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use fleetdrain::{
    LogCollector, LogStream, SubscribeOptions,
    bench::{Parser, Rows, publish},
    collector::CollectorConfig,
    config::Full,
};
use futures_util::FutureExt;
use parking_lot::Mutex;

use support::{Random, record, throughput};

const MACHINE: &str = "4d891d77b05118";
/// Lines a body: the least, and what a loud machine has in a body of 1,000 lines.
const SIZES: [usize; 2] = [1, 20];
/// Lines that a small queue holds.
const SMALL: usize = 100;
/// Bodies that a reader who comes late finds.
const BEHIND: usize = 100;

/// A body of the machine's, again and again.
struct Bodies {
    parser: Parser,
    body: Bytes,
    lines: usize,
}

impl Bodies {
    fn new(lines: usize) -> Self {
        let mut random = Random::new(1);
        let records: Vec<_> = (0..lines).map(|_| record(MACHINE, &mut random)).collect();
        Self { parser: Parser::default(), body: records.join("\n").into(), lines }
    }

    /// A body of its own, as from the wire, and its rows.
    fn next(&mut self) -> (Bytes, Rows) {
        let body = Bytes::copy_from_slice(&self.body);
        let rows = self.parser.parse(&body);
        (body, rows)
    }

    /// Times `turn` on one body after another.
    fn bench(mut self, group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut turn: impl FnMut(Bytes, Rows)) {
        group.throughput(throughput(self.lines, self.body.len()));
        group.bench_function(BenchmarkId::new(name, self.lines), |bench| {
            bench.iter_batched(|| self.next(), |(body, rows)| turn(body, rows), BatchSize::SmallInput);
        });
    }
}

/// A collector whose history is full all the time, as it is in a drain that has run for a while.
fn collector(queue_lines: usize) -> LogCollector {
    let mut config = CollectorConfig::default();
    config.history_bytes = 4 << 20;
    config.queue.lines = queue_lines;
    LogCollector::new(config)
}

fn stream(collector: &LogCollector, full: Full) -> LogStream {
    let options = SubscribeOptions { full: Some(full), ..SubscribeOptions::default() };
    LogStream::new(collector.subscribe_with(MACHINE, options).unwrap().0)
}

/// A reader's task, polled by hand: it counts lines into `read` and waits for more.
struct Reader {
    task: Pin<Box<dyn Future<Output = ()>>>,
    read: Rc<Cell<usize>>,
}

impl Reader {
    fn new(mut stream: LogStream) -> Self {
        let read = Rc::new(Cell::new(0));
        let counted = Rc::clone(&read);
        let task = async move {
            while let Some(batch) = stream.next_batch().await {
                counted.set(counted.get() + batch.len());
            }
        };
        let mut reader = Self { task: Box::pin(task), read };
        reader.poll();
        reader
    }

    fn poll(&mut self) {
        assert!(self.task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
}

/// Takes what there is, without waiting. Returns its lines.
fn take(stream: &mut LogStream) -> Option<usize> {
    stream.next_batch().now_or_never().map(|batch| batch.unwrap().len())
}

fn turns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    for lines in SIZES {
        let alone = collector(SMALL);
        Bodies::new(lines).bench(&mut group, "no queue", |body, rows| {
            assert_eq!(publish(&alone, body, rows).unrouted, lines as u64);
        });
        let waiting = collector(SMALL);
        let mut reader = Reader::new(stream(&waiting, Full::CatchUp));
        Bodies::new(lines).bench(&mut group, "waiting reader", |body, rows| {
            assert_eq!(publish(&waiting, body, rows).accepted, lines as u64);
            reader.poll();
            assert_eq!(reader.read.take(), lines);
        });
        let asleep = collector(SMALL);
        let mut sleeper = stream(&asleep, Full::CatchUp);
        Bodies::new(lines).bench(&mut group, "sleeping reader, compact copies", |body, rows| {
            let _ = publish(&asleep, body, rows);
            assert_eq!(take(&mut sleeper), Some(lines));
        });
        full(&mut group, lines);
        floors(&mut group, lines);
    }
    group.finish();
}

/// Queues that are full at each offer, once they have filled up.
fn full(group: &mut BenchmarkGroup<'_, WallTime>, lines: usize) {
    for (name, full) in [("full, catch_up", Full::CatchUp), ("full, drop_oldest", Full::DropOldest)] {
        let collector = collector(SMALL);
        let _unread = stream(&collector, full);
        let mut bodies = Bodies::new(lines);
        while collector.stats().queue_lines_dropped == 0 {
            let (body, rows) = bodies.next();
            let _ = publish(&collector, body, rows);
        }
        bodies.bench(group, name, |body, rows| assert_eq!(publish(&collector, body, rows).accepted, lines as u64));
        assert!(collector.stats().queue_lines >= SMALL as u64);
    }
    let collector = collector(lines);
    let mut late = stream(&collector, Full::CatchUp);
    let mut bodies = Bodies::new(lines);
    group.throughput(throughput(BEHIND * lines, BEHIND * bodies.body.len()));
    group.bench_function(BenchmarkId::new(format!("{BEHIND} bodies behind, then caught up"), lines), |bench| {
        bench.iter_batched(
            || (0..BEHIND).map(|_| bodies.next()).collect::<Vec<_>>(),
            |many| {
                many.into_iter().for_each(|(body, rows)| drop(publish(&collector, body, rows)));
                let read: usize = std::iter::from_fn(|| take(&mut late)).sum();
                assert_eq!(read, BEHIND * lines);
            },
            BatchSize::SmallInput,
        );
    });
}

fn floors(group: &mut BenchmarkGroup<'_, WallTime>, lines: usize) {
    let bytes = Bodies::new(lines).body.len();
    let batch = Arc::new(0_u64);
    group.throughput(throughput(lines, bytes));
    let (sender, receiver) = flume::unbounded();
    group.bench_function(BenchmarkId::new("floor: flume", lines), |bench| {
        bench.iter(|| {
            sender.send((black_box(Arc::clone(&batch)), 0..lines)).unwrap();
            receiver.try_recv().unwrap()
        });
    });
    let queue = Mutex::new(VecDeque::new());
    group.bench_function(BenchmarkId::new("floor: Mutex<VecDeque>", lines), |bench| {
        bench.iter(|| {
            queue.lock().push_back((black_box(Arc::clone(&batch)), 0..lines));
            queue.lock().pop_front().unwrap()
        });
    });
}

criterion_group! {
    name = benches;
    config = support::settings();
    targets = turns
}
criterion_main!(benches);
