//! What the benches share: seeded bodies of the shape that Fly really sends, the binary's allocator, criterion's settings.

#![allow(dead_code, reason = "each bench uses its own part")]

#[allow(unused_imports, reason = "its tests run elsewhere")]
#[path = "../../src/testing/random.rs"]
mod random;

use std::{env, fmt::Write, time::Duration};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use fleetdrain::{LogCollector, bench};

pub(crate) use self::random::Random;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Lines of a large body.
pub(crate) const LINES: usize = 1_000;
/// Bytes of a record, on the average; real ones have 235 to 776.
const RECORD_BYTES: usize = 340;

/// Short measurements: figures here are to be compared with their floor, within one run.
pub(crate) fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1_500))
}

/// Whether each bench is only to be tried once (`cargo test`, `--test`): what takes long to set up is then left out.
pub(crate) fn is_trial() -> bool {
    let asked = |flag: &str| env::args().any(|arg| arg == flag);
    asked("--test") || !asked("--bench")
}

/// Lines and bytes that one turn of a bench handles.
pub(crate) fn throughput(lines: usize, bytes: usize) -> Throughput {
    Throughput::ElementsAndBytes { elements: lines as u64, bytes: bytes as u64 }
}

/// One of these.
fn pick<'a>(random: &mut Random, of: &[&'a str]) -> &'a str {
    of[random.below(of.len())]
}

/// The id of a machine: 14 hex digits, scattered like real ones, each number's its own.
pub(crate) fn machine_id(number: usize) -> String {
    // An odd factor permutes the 56 bits.
    format!("{:014x}", (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xff_ffff_ffff_ffff)
}

/// Machines that log in proportion to Zipf's law: number 0 is the loudest.
pub(crate) struct Fleet {
    /// Running sums of 1/rank.
    sums: Vec<f64>,
}

impl Fleet {
    pub(crate) fn new(machines: usize) -> Self {
        let sum = |sum: &mut f64, rank: usize| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        };
        Self { sums: (1..=machines).scan(0.0, sum).collect() }
    }

    pub(crate) fn len(&self) -> usize {
        self.sums.len()
    }

    /// The number of a machine.
    pub(crate) fn draw(&self, random: &mut Random) -> usize {
        let at = random.unit() * self.sums.last().expect("a fleet has machines");
        self.sums.partition_point(|&sum| sum <= at).min(self.len() - 1)
    }

    pub(crate) fn records(&self, lines: usize, random: &mut Random) -> Vec<String> {
        (0..lines).map(|_| record(&machine_id(self.draw(random)), random)).collect()
    }

    /// A body of NDJSON.
    pub(crate) fn body(&self, lines: usize, random: &mut Random) -> Bytes {
        self.records(lines, random).join("\n").into()
    }
}

/// A record as the official shipper sends it: 340 bytes or a few more, three in ten with escapes, 7 % with non-ASCII.
pub(crate) fn record(machine: &str, random: &mut Random) -> String {
    const APPS: [&str; 4] = ["restless-moon-8905", "billing-worker", "api", "tenant-4711-runner"];
    const REGIONS: [&str; 6] = ["lax", "fra", "iad", "syd", "gru", "ams"];
    const WORDS: [&str; 14] = [
        "request",
        "completed",
        "in",
        "12",
        "ms",
        "status=200",
        "GET",
        "/api/v1/orders",
        "user=4711",
        "upstream",
        "worker",
        "2a09:8280:1::1:8c5",
        "a690644f-30e4-4271",
        "[info]",
    ];
    const ESCAPED: [&str; 4] = [r#"\"POST\""#, r"\tat main.rs:42\n", r"C:\\app\\run", r"\u001b[32mok\u001b[0m"];
    const NON_ASCII: [&str; 4] = ["→ prêt", "日本語のログ", "größe", "✓ done"];
    // The timestamp and what closes the record.
    const TAIL_BYTES: usize = 48;

    // Where a machine runs goes with it.
    let place = &mut Random::new(machine.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte)));
    let (app, region, host) = (pick(place, &APPS), pick(place, &REGIONS), 100 + place.below(900));
    let mut record = format!(
        r#"{{"event":{{"provider":"app"}},"fly":{{"app":{{"instance":"{machine}","name":"{app}"}},"region":"{region}"}},"host":"f{host}","log":{{"level":"info"}},"message":""#,
    );
    if random.below(100) < 30 {
        record += pick(random, &ESCAPED);
    }
    if random.below(100) < 7 {
        record += pick(random, &NON_ASCII);
    }
    let end = RECORD_BYTES - TAIL_BYTES - 20 + random.below(40);
    while record.len() < end {
        record.push(' ');
        record += pick(random, &WORDS);
    }
    let (second, nanos) = (random.below(60), random.below(1_000_000_000));
    write!(record, r#"","timestamp":"2026-06-27T01:19:{second:02}.{nanos:09}Z"}}"#).expect("a String takes any write");
    record
}

/// Shows `collector` every machine of a fleet once.
pub(crate) fn show_all(collector: &LogCollector, machines: usize, random: &mut Random) {
    let mut parser = bench::Parser::default();
    for first in (0..machines).step_by(LINES) {
        let numbers = first..machines.min(first + LINES);
        let records: Vec<_> = numbers.map(|number| record(&machine_id(number), random)).collect();
        let body = Bytes::from(records.join("\n"));
        let rows = parser.parse(&body);
        let _ = bench::publish(collector, body, rows);
    }
}

/// Fills the history of a collector that has `history_bytes` for it with bodies of so many lines: each from now on evicts
/// others, as in a drain that has run for a while.
pub(crate) fn fill_history(collector: &LogCollector, fleet: &Fleet, lines: usize, history_bytes: usize) {
    let mut parser = bench::Parser::default();
    let text = fleet.body(lines, &mut Random::new(1));
    for _ in 0..history_bytes.div_ceil(text.len()) {
        let body = Bytes::copy_from_slice(&text);
        let rows = parser.parse(&body);
        let _ = bench::publish(collector, body, rows);
    }
}
