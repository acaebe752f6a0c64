//! `record`: bytes to rows, beside what else could do it and beside its floor.
//!
//! ```sh
//! cargo bench --features bench --bench record
//! ```
//!
//! The parser is warm, as the server's are. Bodies of one case differ in their text, so that a branch predictor cannot learn
//! them by heart. The floor's check of UTF-8 ends where a text is invalid.

#![allow(clippy::unwrap_used, reason = "a panic here is the bench's failure report")]
#![allow(missing_docs, reason = "criterion's macros write public items")]

mod support;

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use fleetdrain::bench::Parser;

use support::{Fleet, LINES, Random, throughput};

const BODIES: usize = 4;
/// Templates in rotation: as many as the shape cache holds at least, a few more than it holds, and far more.
const SHAPES: [usize; 3] = [4, 12, 40];

/// Templates that a parser has seen before it meets a hostile body.
const SHAPES_KNOWN: usize = 8;

/// Bodies of one kind, of which each is to bring so many records.
struct Case {
    name: String,
    bodies: Vec<Vec<u8>>,
    received: usize,
    rejected: usize,
}

impl Case {
    /// Bodies of `LINES` good records.
    fn good(name: &str, mut body: impl FnMut(&mut Random) -> Vec<u8>) -> Self {
        let bodies = (0..BODIES as u64).map(|seed| body(&mut Random::new(seed))).collect();
        Self { name: name.to_owned(), bodies, received: LINES, rejected: 0 }
    }

    /// One body of which nothing is taken.
    fn hostile(name: &str, body: Vec<u8>, rejected: usize) -> Self {
        Self { name: name.to_owned(), bodies: vec![body], received: rejected, rejected }
    }

    /// Calls `handle` with one body after another.
    fn run<T>(&self, group: &mut BenchmarkGroup<'_, WallTime>, function: &str, mut handle: impl FnMut(&[u8]) -> T) {
        let mut bodies = self.bodies.iter().cycle();
        group.bench_function(function, |bench| bench.iter(|| handle(black_box(bodies.next().unwrap()))));
    }

    fn bench(&self, criterion: &mut Criterion, others: bool) {
        let mut group = criterion.benchmark_group(format!("record/{}", self.name));
        let bytes = self.bodies.iter().map(Vec::len).sum::<usize>() / self.bodies.len();
        group.throughput(throughput(self.received, bytes));
        let mut parser = Parser::default();
        if self.rejected > 0 {
            // Shapes that agree with what comes up to its end are the worst to have learned.
            (0..2).for_each(|_| drop(parser.parse(&lines(&rotating(&mut Random::new(0), SHAPES_KNOWN, b"0")))));
        }
        for body in &self.bodies {
            let rows = parser.parse(body);
            assert_eq!(
                (rows.received(), rows.rejected()),
                (self.received as u64, self.rejected as u64),
                "{}",
                self.name
            );
        }
        self.run(&mut group, "drain", |body| parser.parse(body));
        if others {
            self.run(&mut group, "simd-json tape", simd_json_tapes());
        }
        self.run(&mut group, "floor: newlines, UTF-8", |body| {
            (memchr::memchr_iter(b'\n', body).count(), std::str::from_utf8(body).is_ok())
        });
        group.finish();
    }
}

/// Reads each line into a tape, from a scratch copy of it: what there is to beat.
fn simd_json_tapes() -> impl FnMut(&[u8]) {
    let mut scratch = Vec::new();
    let mut buffers = simd_json::Buffers::default();
    let mut tape = simd_json::Tape::null();
    move |body| {
        for line in body.split(|&byte| byte == b'\n') {
            scratch.clear();
            scratch.extend_from_slice(line);
            scratch.extend_from_slice(&[0; 64]);
            let mut filled = std::mem::replace(&mut tape, simd_json::Tape::null()).reset();
            simd_json::fill_tape_padded(&mut scratch, line.len(), &mut buffers, &mut filled).unwrap();
            black_box(&filled.0);
            tape = filled.reset();
        }
    }
}

fn fleet_records(random: &mut Random) -> Vec<String> {
    Fleet::new(1_000).records(LINES, random)
}

fn lines(records: &[impl AsRef<[u8]>]) -> Vec<u8> {
    records.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(&b'\n')
}

/// Records of `shapes` templates in rotation, the same in every body; a template has a key of its own, with `value`.
fn rotating(random: &mut Random, shapes: usize, value: &[u8]) -> Vec<Vec<u8>> {
    with_keys(random, value, |index| (index % shapes) as u64)
}

/// Records that each have another shape, so that the shape cache never helps.
fn varied(random: &mut Random, value: &[u8]) -> Vec<Vec<u8>> {
    let first = random.next() >> 32;
    with_keys(random, value, |index| first + index as u64)
}

/// Records that end with `,"kNUMBER":value}`.
fn with_keys(random: &mut Random, value: &[u8], number: impl Fn(usize) -> u64) -> Vec<Vec<u8>> {
    let record = |(index, record): (usize, String)| {
        let mut record = record.into_bytes();
        record.pop();
        record.extend_from_slice(format!(r#","k{}":"#, number(index)).as_bytes());
        record.extend_from_slice(value);
        record.push(b'}');
        record
    };
    fleet_records(random).into_iter().enumerate().map(record).collect()
}

fn forms(criterion: &mut Criterion) {
    Case::good("lines", |random| lines(&fleet_records(random))).bench(criterion, true);
    Case::good("array", |random| format!("[{}]", fleet_records(random).join(",")).into_bytes()).bench(criterion, false);
    Case::good("objects", |random| fleet_records(random).concat().into_bytes()).bench(criterion, false);
}

fn shapes(criterion: &mut Criterion) {
    Case::good("every line another shape", |random| lines(&varied(random, b"0"))).bench(criterion, true);
    for shapes in SHAPES {
        let name = format!("{shapes} shapes in rotation");
        Case::good(&name, |random| lines(&rotating(random, shapes, b"0"))).bench(criterion, true);
    }
    let dense = format!("\"{}\"", r"escape\n".repeat(250));
    let name = format!("{} shapes in rotation, 2 kB of escapes", SHAPES[1]);
    Case::good(&name, |random| lines(&rotating(random, SHAPES[1], dense.as_bytes()))).bench(criterion, true);
    Case::good("2 kB of escapes", |random| lines(&rotating(random, 1, dense.as_bytes()))).bench(criterion, true);
}

/// What RFC 8259 allows and simd-json refuses, and what is repaired; each line of another shape.
fn scanner_only(criterion: &mut Criterion) {
    let deep = [vec![b'['; 999], vec![b']'; 999]].concat();
    let cases: [(&str, &[u8]); 4] = [
        ("1e999", b"1e999"),
        ("lone surrogates", br#""half \ud83d of a pair, \udc00 another""#),
        ("1,000 levels", &deep),
        ("invalid UTF-8", b"\"\xff\xfe not text \xc3\""),
    ];
    for (name, value) in cases {
        Case::good(name, |random| lines(&varied(random, value))).bench(criterion, false);
    }
}

fn hostile(criterion: &mut Criterion) {
    const MIB: usize = 1 << 20;
    let cut_short = |random: &mut Random| {
        let records = fleet_records(random);
        lines(&records.iter().map(|record| &record[..record.len() - 1]).collect::<Vec<_>>())
    };
    let never_closed = [&br#"{"instance":"4d891d77b05118","message":""#[..], &b"a".repeat(MIB - 64)].concat();
    let tiny = MIB / 3;
    for case in [
        Case::hostile("every line malformed at its end", cut_short(&mut Random::new(1)), LINES),
        Case::hostile(
            "every line malformed at its start",
            lines(&["panic: no JSON at all, whatever you do"; LINES]),
            LINES,
        ),
        Case::hostile("1 MiB of [", vec![b'['; MIB], 1),
        Case::hostile("a string of 1 MiB never closed", never_closed, 1),
        Case::hostile("tiny records, no machine", lines(&vec!["{}"; tiny]), tiny),
        Case::hostile("tiny records, malformed", lines(&vec!["{]"; tiny]), tiny),
    ] {
        case.bench(criterion, false);
    }
    let small = lines(&vec![r#"{"instance":"a"}"#; MIB / 17]);
    Case { name: "tiny records".to_owned(), bodies: vec![small], received: MIB / 17, rejected: 0 }
        .bench(criterion, false);
}

criterion_group! {
    name = benches;
    config = support::settings();
    targets = forms, shapes, scanner_only, hostile
}
criterion_main!(benches);
