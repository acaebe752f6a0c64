//! `metrics`: rendering `GET /metrics`.
//!
//! ```sh
//! cargo bench --features bench --bench metrics
//! ```
//!
//! With the series of the 50 loudest machines, which is the default, and with those of all. Beside each, a copy of as many
//! bytes into a `Vec`.

#![allow(missing_docs, reason = "criterion's macros write public items")]

mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fleetdrain::{LogCollector, LogQueue, bench, config::Config};

use support::{Random, is_trial, machine_id, show_all};

/// Of the machines seen, at most so many are subscribed.
const SUBSCRIBED_MAX: usize = 10_000;

/// A collector that has seen `machines`, and the handles that keep its queues read.
fn collector(machines: usize) -> (LogCollector, Vec<LogQueue>) {
    let collector = LogCollector::default();
    let subscribe = |number| collector.subscribe(&machine_id(number)).expect("room for a queue");
    let queues = (0..machines.min(SUBSCRIBED_MAX)).map(subscribe).collect();
    show_all(&collector, machines, &mut Random::new(1));
    (collector, queues)
}

fn render(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metrics");
    let sizes: &[usize] = if is_trial() { &[1_000] } else { &[1_000, 100_000] };
    for &machines in sizes {
        let (collector, _queues) = collector(machines);
        let mut config = Config::default();
        for (name, shown) in [("loudest", config.metrics.machines_max), ("all", machines)] {
            config.metrics.machines_max = shown;
            let render = bench::metrics(&collector, &config);
            let text = render();
            assert_eq!(text.matches("\nfleetdrain_machine_lines_total{").count(), shown);
            group.throughput(Throughput::Bytes(text.len() as u64));
            group.bench_function(BenchmarkId::new(name, machines), |bench| bench.iter(&render));
            group.bench_function(BenchmarkId::new(format!("{name}, floor: as many bytes"), machines), |bench| {
                bench.iter(|| black_box(&text).as_bytes().to_vec());
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = support::settings();
    targets = render
}
criterion_main!(benches);
