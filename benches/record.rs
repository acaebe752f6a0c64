//! `record`: bytes to rows, beside what else could do it and beside its floor.
//!
//! ```sh
//! cargo bench --bench record
//! ```
//!
//! Bodies are seeded: 1,000 records of Fly's shape, about 340 bytes each, three in ten with escapes.

#![allow(clippy::unwrap_used, reason = "a panic here is the bench's failure report")]
#![allow(missing_docs, reason = "criterion's macros write public items")]

use std::{fmt::Write, hint::black_box};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use fleetdrain::parse_ndjson;

const RECORDS: usize = 1000;

/// How the records of a body differ from each other beside their values.
#[derive(Clone, Copy)]
enum Shapes {
    /// Fly's one shape.
    One,
    /// Each record has a key that no other has: the shape cache never helps.
    Each,
}

fn records(shapes: Shapes) -> Vec<String> {
    (0..RECORDS).map(|index| record(index, shapes)).collect()
}

fn record(index: usize, shapes: Shapes) -> String {
    let machine = (index * 2_654_435_761) % 333;
    let escapes = if index % 10 < 3 { r#"said \"ok\" and\tleft"# } else { "said nothing more at all" };
    let mut record = format!(
        r#"{{"event":{{"provider":"app"}},"fly":{{"app":{{"instance":"{machine:014x}","name":"restless-moon-8905"}},"region":"lax"}},"host":"f442","log":{{"level":"info"}},"message":"request_id={index:08} GET /api/v1/orders/{index} completed in 12 ms status=200 {escapes}, worker {index} of the pool is idle again","timestamp":"2026-06-27T01:19:11.{index:09}Z"}}"#,
    );
    if let Shapes::Each = shapes {
        record.pop();
        write!(record, r#","k{index}":0}}"#).unwrap();
    }
    record
}

fn whole(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, body: &str) {
    let body = bytes::Bytes::copy_from_slice(body.as_bytes());
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function(name, |bench| {
        bench.iter(|| {
            let parsed = parse_ndjson(black_box(&body).clone());
            assert_eq!(parsed.received(), RECORDS as u64);
            parsed
        });
    });
}

fn record_forms(criterion: &mut Criterion) {
    let (lines, varied) = (records(Shapes::One), records(Shapes::Each));
    let mut group = criterion.benchmark_group("record");
    whole(&mut group, "lines", &lines.join("\n"));
    whole(&mut group, "array", &format!("[{}]", lines.join(",")));
    whole(&mut group, "objects", &lines.concat());
    whole(&mut group, "lines, every one of another shape", &varied.join("\n"));
    group.finish();
}

fn others(criterion: &mut Criterion) {
    let lines = records(Shapes::One);
    let body = lines.join("\n");
    let mut group = criterion.benchmark_group("record, others");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("simd-json tape alone, a scratch copy of each line", |bench| {
        let mut scratch = Vec::new();
        let mut buffers = simd_json::Buffers::default();
        let mut tape = simd_json::Tape::null();
        bench.iter(|| {
            for line in body.as_bytes().split(|&byte| byte == b'\n') {
                scratch.clear();
                scratch.extend_from_slice(line);
                scratch.extend_from_slice(&[0; 64]);
                let mut filled = std::mem::replace(&mut tape, simd_json::Tape::null()).reset();
                simd_json::fill_tape_padded(&mut scratch, line.len(), &mut buffers, &mut filled).unwrap();
                black_box(&filled.0);
                tape = filled.reset();
            }
        });
    });
    group.bench_function("serde_json::Value", |bench| {
        bench.iter(|| {
            for line in body.as_bytes().split(|&byte| byte == b'\n') {
                black_box(serde_json::from_slice::<serde_json::Value>(line).unwrap());
            }
        });
    });
    group.bench_function("floor: find the line breaks, check UTF-8", |bench| {
        bench.iter(|| {
            let breaks = memchr::memchr_iter(b'\n', black_box(body.as_bytes())).count();
            (breaks, std::str::from_utf8(body.as_bytes()).is_ok())
        });
    });
    group.finish();
}

criterion_group!(benches, record_forms, others);
criterion_main!(benches);
