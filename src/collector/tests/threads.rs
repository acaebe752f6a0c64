//! Publishers, readers, disconnects and finishes side by side; then an independent count.

use std::{collections::HashMap, thread};

use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;
use crate::stream::{LogStream, StreamEvent};

const MACHINES: usize = 6;
const PUBLISHERS: usize = 3;
const READERS: usize = 8;

/// What readers got: by machine and publisher the numbers in the order of each reader, and what they were told to have missed.
#[derive(Default)]
struct Got {
    lines: Vec<(usize, usize, u64)>,
    told: u64,
}

/// How long the storms last: a few hundred milliseconds, or `STORM_SECONDS`.
fn storm() -> Duration {
    let seconds = std::env::var("STORM_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(Duration::from_millis(300), Duration::from_secs_f64)
}

fn name(machine: usize) -> String {
    format!("m{machine}")
}

fn seed() -> u64 {
    let seed = std::env::var("STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("STORM_SEED={seed}");
    seed
}

/// Pushes bodies of several machines; a refused one again until it is taken. Returns lines pushed by machine.
fn publish(collector: &LogCollector, publisher: usize, seed: u64, until: std::time::Instant) -> [u64; MACHINES] {
    let mut rng = SmallRng::seed_from_u64(seed ^ publisher as u64);
    let mut next = [0u64; MACHINES];
    while std::time::Instant::now() < until {
        let mut lines = Vec::new();
        for _ in 0..rng.random_range(1..12) {
            let machine = rng.random_range(0..MACHINES);
            lines.push((name(machine), format!("{publisher}-{}", next[machine])));
            next[machine] += 1;
        }
        let body: Vec<_> = lines.iter().map(|(id, text)| (id.as_str(), Kind::Stdout, text.as_str())).collect();
        let mut tries = 0;
        while push(collector, &body).is_err() {
            thread::sleep(Duration::from_micros(rng.random_range(1..300)));
            tries += 1;
            assert!(tries < 200_000, "a body is refused for ever");
        }
        if rng.random_range(0..4) == 0 {
            thread::sleep(Duration::from_micros(rng.random_range(1..400)));
        }
    }
    next
}

fn note(got: &mut Got, entry: &crate::batch::EntryView<'_>) {
    let machine = entry.machine_id()[1..].parse().unwrap();
    let (publisher, number) = entry.message().split_once('-').unwrap();
    got.lines.push((machine, publisher.parse().unwrap(), number.parse().unwrap()));
}

/// Reads one machine's queue to its end, with pauses, cancelled reads and reconnects.
async fn read(collector: LogCollector, machine: usize, seed: u64) -> Got {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut got = Got::default();
    let mut stream = None;
    loop {
        let reader = stream.get_or_insert_with(|| {
            LogStream::new(collector.queue_to_read(&name(machine)).expect("it was subscribed before"))
        });
        let told = reader.lines_skipped();
        let limit = Duration::from_micros(rng.random_range(0..1500));
        let event = match rng.random_range(0..10) {
            0 => match tokio::time::timeout(limit, reader.next_batch()).await {
                Ok(Some(batch)) => {
                    batch.entries().for_each(|entry| note(&mut got, &entry));
                    Err(())
                }
                Ok(None) => Ok(None),
                Err(_) => Err(()),
            },
            // Without a time-out: a lost wake-up shows here.
            1 => Ok(reader.next_event().await),
            _ => tokio::time::timeout(limit, reader.next_event()).await.map_err(drop),
        };
        got.told += reader.lines_skipped() - told;
        match event {
            Ok(Some(StreamEvent::Entry(entry))) => note(&mut got, &entry.view()),
            Ok(None) => return got,
            _ => {}
        }
        match rng.random_range(0..400) {
            0..4 => stream = None,
            4..8 => tokio::time::sleep(Duration::from_micros(rng.random_range(1..3000))).await,
            8..40 => {
                if let Some(reader) = &mut stream {
                    reader.rest();
                    tokio::time::sleep(Duration::from_micros(rng.random_range(1..300))).await;
                    let told = reader.lines_skipped();
                    let _ = reader.has_more(rng.random_range(1..100));
                    got.told += reader.lines_skipped() - told;
                }
            }
            _ => {}
        }
    }
}

/// Nothing is sent any more: readers that are there take what is queued, or they sleep though they were to be woken.
fn wait_until_read(collector: &LogCollector) {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while collector.stats().queue_lines > 0 {
        assert!(std::time::Instant::now() < until, "readers sleep: {:?}", collector.all_machine_facts());
        thread::yield_now();
    }
}

/// Publishers and readers of all policies, two readers on some queues; at the end every line is accounted for.
fn storm_over(full: [Full; MACHINES], change: impl FnOnce(&mut CollectorConfig)) -> Stats {
    let seed = seed();
    let collector = small(|config| {
        config.queue.stalled_after = Duration::from_secs(3600);
        change(config);
    });
    for (machine, full) in full.into_iter().enumerate() {
        let options = SubscribeOptions { full: Some(full), ..SubscribeOptions::default() };
        drop(collector.subscribe_with(&name(machine), options).unwrap());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap();
    let readers: Vec<_> = (0..READERS)
        .map(|reader| runtime.spawn(read(collector.clone(), reader % MACHINES, seed ^ (reader as u64) << 32)))
        .collect();
    let mut watching = collector.fleet();
    let until = std::time::Instant::now() + storm();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let collector = collector.clone();
            thread::spawn(move || publish(&collector, publisher, seed, until))
        })
        .collect();
    let looking = runtime.spawn(async move {
        let mut seen = 0;
        while let Some(batch) = watching.next().await {
            seen += batch.len() as u64 + batch.skipped_before();
        }
        seen
    });
    while publishers.iter().any(|publisher| !publisher.is_finished()) {
        // Whoever looks takes every lock there is.
        collector.maintain();
        let _ = (collector.stats(), collector.all_machine_facts(), collector.machine_ids());
        thread::sleep(Duration::from_millis(1));
    }
    let sent: Vec<_> = publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect();
    wait_until_read(&collector);
    collector.finish_all();
    let got: Vec<Got> = runtime.block_on(async {
        let mut got = Vec::new();
        for reader in readers {
            let read = tokio::time::timeout(Duration::from_secs(20), reader).await;
            got.push(read.unwrap_or_else(|_| panic!("a reader sleeps: {:?}", collector.stats())).unwrap());
        }
        got
    });
    // What a reader gave back after the others had come to the end.
    let mut rest = Got::default();
    for machine in 0..MACHINES {
        let mut stream = LogStream::new(collector.queue_to_read(&name(machine)).unwrap());
        for entry in runtime.block_on(stream.collect()) {
            note(&mut rest, &entry.view());
        }
        rest.told += stream.lines_skipped();
    }
    collector.shut_down();
    let total: u64 = sent.iter().flatten().sum();
    assert_eq!(runtime.block_on(looking).unwrap(), total, "a viewer of all: seen + skipped = produced");
    let stats = assert_balanced(&collector);
    assert_eq!((stats.queue_lines, stats.lines_accepted, stats.queue_lines_in), (0, total, total));
    let told: u64 = got.iter().chain([&rest]).map(|got| got.told).sum();
    assert_eq!(stats.queue_lines_dropped, told, "every drop was told");
    let mut delivered: HashMap<(usize, usize, u64), u32> = HashMap::new();
    for line in got.iter().chain([&rest]).flat_map(|got| &got.lines) {
        *delivered.entry(*line).or_default() += 1;
    }
    assert!(delivered.values().all(|times| *times == 1), "a line was delivered twice");
    assert_eq!(delivered.len() as u64 + told, total);
    // Alone on its queue, a reader sees each publisher's lines in order, whatever it gave back in between.
    for (reader, got) in got.iter().enumerate().filter(|(reader, _)| (READERS - MACHINES..MACHINES).contains(reader)) {
        let mut last = HashMap::new();
        for (machine, publisher, number) in &got.lines {
            let before = last.insert((machine, publisher), *number);
            assert!(before.is_none_or(|before| before < *number), "reader {reader} read out of order");
        }
    }
    let budget = Arc::clone(collector.budget());
    drop(collector);
    drop(runtime);
    assert_eq!(budget.used(), 0, "nothing leaks");
    stats
}

#[test]
fn every_line_is_delivered_once_or_told_with_room_for_copies() {
    let full = [Full::CatchUp, Full::Block, Full::DropOldest, Full::CatchUp, Full::Block, Full::DropOldest];
    let _ = storm_over(full, |config| config.budget_bytes = 1 << 24);
}

#[test]
fn every_line_is_delivered_once_or_told_when_the_reserve_is_short() {
    let full = [Full::CatchUp, Full::CatchUp, Full::DropOldest, Full::CatchUp, Full::DropOldest, Full::CatchUp];
    let _ = storm_over(full, |config| {
        config.budget_bytes = 100_000;
        config.history_bytes = 30_000;
    });
}

#[test]
fn catch_up_loses_nothing_that_the_history_holds() {
    let stats = storm_over([Full::CatchUp; MACHINES], |config| {
        (config.budget_bytes, config.history_bytes) = (1 << 30, 1 << 29);
        config.queue.lines = 3;
    });
    assert_eq!(stats.queue_lines_dropped, 0);
}

/// Every push meets readers that wait, that were just woken for nothing, or that are just leaving.
#[test]
fn no_reader_sleeps_while_lines_are_queued() {
    let seed = seed();
    let collector = small(|_| {});
    let queue = collector.subscribe("m0").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap();
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let mut stream = LogStream::new(queue.clone());
            let mut rng = SmallRng::seed_from_u64(seed ^ reader);
            runtime.spawn(async move {
                let mut lines = 0;
                while !stream.done() {
                    let limit = Duration::from_micros(rng.random_range(0..200));
                    let read = if reader == 0 && rng.random() {
                        tokio::time::timeout(limit, stream.next()).await.unwrap_or_default()
                    } else {
                        stream.next().await
                    };
                    lines += u64::from(read.is_some());
                }
                lines
            })
        })
        .collect();
    let until = std::time::Instant::now() + storm();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut sent = 0;
    while std::time::Instant::now() < until {
        for _ in 0..rng.random_range(1..4) {
            push_numbers(&collector, "m0", 0..rng.random_range(1..3)).map(|taken| sent += taken.accepted).unwrap();
        }
        wait_until_read(&collector);
    }
    collector.finish_all();
    let read: u64 = readers.into_iter().map(|reader| runtime.block_on(reader).unwrap()).sum();
    assert_eq!(read, sent);
    assert_eq!(queue.inner().probe().waiting, 0);
}

/// Subscribes, finishes, reopens, forgets and looks, all at once: nothing waits for ever, and the balances hold.
#[test]
fn subscriptions_come_and_go_while_lines_are_published() {
    let seed = seed();
    let collector = small(|config| {
        config.machines.finished_keep = Duration::from_millis(2);
        config.machines.idle_expire = Duration::from_millis(2);
        config.machines.max = 4;
        config.queue.abandoned_after = Duration::from_millis(3);
    });
    let until = std::time::Instant::now() + storm();
    let publishers: Vec<_> = (0..2)
        .map(|publisher| {
            let collector = collector.clone();
            thread::spawn(move || publish(&collector, publisher, seed, until).iter().sum::<u64>())
        })
        .collect();
    let others: Vec<_> = (0..3)
        .map(|other| {
            let collector = collector.clone();
            thread::spawn(move || come_and_go(&collector, seed ^ other << 40, until))
        })
        .collect();
    let sent: u64 = publishers.into_iter().map(|publisher| publisher.join().unwrap()).sum();
    others.into_iter().for_each(|other| other.join().unwrap());
    let stats = assert_balanced(&collector);
    assert_eq!(stats.lines_received, sent);
    assert_eq!(stats.machines as usize, collector.all_machines().len());
    assert_eq!(stats.subscriptions as usize, collector.machine_ids().len());
    assert_eq!(stats.viewers, 0);
    let budget = Arc::clone(collector.budget());
    drop(collector);
    assert_eq!(budget.used(), 0, "nothing leaks");
}

fn come_and_go(collector: &LogCollector, seed: u64, until: std::time::Instant) {
    use futures_util::FutureExt;

    use crate::stream::view::{MachineView, ViewStart};
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut streams = Vec::new();
    let mut views = Vec::new();
    while std::time::Instant::now() < until {
        let id = name(rng.random_range(0..MACHINES));
        match rng.random_range(0..10) {
            0 => {
                let full = [Full::CatchUp, Full::DropOldest][rng.random_range(0..2)];
                let options = SubscribeOptions { full: Some(full), backlog: rng.random(), streams: None };
                streams.extend(collector.subscribe_with(&id, options).map(|(queue, _)| LogStream::new(queue)));
            }
            1 => {
                collector.finish(&id);
            }
            2 if !streams.is_empty() => drop(streams.swap_remove(rng.random_range(0..streams.len()))),
            3 => collector.maintain(),
            4 => {
                let _ = (collector.stats(), collector.all_machine_facts(), collector.machine_ids());
            }
            5 => {
                let start = ViewStart { backlog: rng.random(), ..ViewStart::default() };
                views.push(MachineView::new(collector, &id, &start, |_| true));
                if views.len() > 4 {
                    views.remove(0);
                }
            }
            _ => {
                for stream in &mut streams {
                    let _ = stream.next().now_or_never();
                }
                for view in &mut views {
                    while view.step().is_some() {}
                }
            }
        }
    }
}
