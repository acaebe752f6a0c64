//! `sink`: lines as a store gets them, from batches that nobody has touched since they were received.
//!
//! ```sh
//! cargo bench --features bench --bench sink
//! ```
//!
//! Each turn writes a parcel of 48 bodies of 1,000 lines, another each time, of 256 MiB of them: what a sink delivers is no longer in the
//! caches. The floor copies the records and as many bytes more as the drain adds to each.

#![allow(clippy::unwrap_used, reason = "a panic here is the bench's failure report")]
#![allow(missing_docs, reason = "criterion's macros write public items")]

mod support;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use fleetdrain::{
    LogCollector,
    bench::{Lines, Lots},
    collector::CollectorConfig,
};

use support::{Fleet, LINES, fill_history, is_trial, settings, throughput};

const MACHINES: usize = 1_000;
/// Bodies of a parcel: 16 MiB.
const BATCHES: usize = 48;
/// About what the drain adds to a record, with the newline.
const NOTE: [u8; 140] = [b'x'; 140];
const FILES: usize = 4;

fn lots(criterion: &mut Criterion) {
    let history_bytes = if is_trial() { 32 << 20 } else { 256 << 20 };
    let mut config = CollectorConfig::default();
    (config.history_bytes, config.budget_bytes) = (history_bytes, 2 * history_bytes);
    let collector = LogCollector::new(config);
    fill_history(&collector, &Fleet::new(MACHINES), LINES, history_bytes);
    let parcels = Lines::held(&collector, BATCHES);
    let mut next = (0..parcels.len()).cycle();
    let mut next = || &parcels[next.next().unwrap()];

    let mut group = criterion.benchmark_group("lots");
    let bytes = parcels[0].records().map(<[u8]>::len).sum();
    group.throughput(throughput(parcels[0].count(), bytes));
    for (name, template) in [("one file", "all.ndjson"), ("a file for each app", "{app}/{date}.ndjson")] {
        let mut lots = Lots::new(template);
        group.bench_function(name, |bencher| bencher.iter(|| black_box(lots.write(next()))));
    }
    let mut files = [const { Vec::new() }; FILES];
    group.bench_function("floor: a copy", |bencher| {
        bencher.iter(|| {
            files.iter_mut().for_each(Vec::clear);
            for (number, record) in next().records().enumerate() {
                let file = &mut files[number % FILES];
                file.extend_from_slice(record);
                file.extend_from_slice(&NOTE);
            }
            black_box(&files);
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = settings(); targets = lots }
criterion_main!(benches);
