//! The spool against a disk that forgets, tears and fails; each module one kind of claim.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;

use super::{
    AppendError, Appended, Bounds, Full, KINDS, Lines, MachineRecords, NewRecord, OpenError, ReadError, Record,
    Records, Seek, Spool,
    format::{Base, FORMAT_FILE, HEADER},
    fs::Fs,
    log::Log,
    offline::{Checked, repair_in, verify_in},
    sim::{Faults, Rng, Sim},
    threads::hand,
    write::{Completion, Handed, tell},
};

mod crash;
mod damage;
mod limits;
mod property;
mod threads;

/// A record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spec {
    body: Bytes,
    received_at: Timestamp,
    machines: Vec<(String, u32)>,
    key: Vec<u8>,
}

impl Spec {
    /// `number` makes it unlike any other.
    fn new(number: u64, bytes: usize, machines: &[(&str, u32)]) -> Self {
        let mut body = format!("{number} ").into_bytes();
        body.extend((0..bytes).map(|at| (at as u64 ^ number) as u8));
        let machines = machines.iter().map(|(id, lines)| ((*id).to_owned(), *lines)).collect();
        Self { body: body.into(), received_at: at(number), machines, key: Vec::new() }
    }

    fn lines(&self) -> u32 {
        self.machines.iter().map(|(_, lines)| lines).sum()
    }

    fn is(&self, record: &Record) -> bool {
        record.body == self.body
            && record.lines == u64::from(self.lines())
            && record.machines().eq(self.machines.iter().map(|(id, lines)| (id.as_str(), by_kind(*lines))))
            && record.key.as_deref().unwrap_or_default() == self.key
    }
}

/// So many lines of two kinds.
fn by_kind(lines: u32) -> Lines {
    Lines([lines - lines / 3, 0, lines / 3, 0])
}

/// A time so many seconds after the tests' beginning.
fn at(seconds: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds as i64).unwrap()
}

fn bounds() -> Bounds {
    Bounds { segment_bytes: 4096, keep: Duration::from_secs(1 << 32), ..Bounds::new(1 << 40) }
}

fn open(sim: &Sim, bounds: Bounds) -> Log {
    Log::open(Arc::new(sim.clone()), bounds, None).unwrap()
}

/// Appends the records as one group.
fn append(log: &Log, specs: &[Spec]) -> Vec<Result<Appended, AppendError>> {
    let results = Arc::new(Mutex::new(Vec::new()));
    let handed: VecDeque<_> = specs
        .iter()
        .map(|spec| {
            let machines: Vec<_> = spec.machines.iter().map(|(id, lines)| (id.as_str(), by_kind(*lines))).collect();
            let record = NewRecord {
                body: spec.body.clone(),
                received_at: spec.received_at,
                lines: spec.lines(),
                machines: &machines,
                key: &spec.key,
            };
            let results = Arc::clone(&results);
            Handed { done: Completion::new(move |result| results.lock().push(result)), ..hand(&record).unwrap() }
        })
        .collect();
    log.commit(handed, tell);
    let results = std::mem::take(&mut *results.lock());
    assert_eq!(results.len(), specs.len());
    results
}

fn append_all(log: &Log, specs: &[Spec]) {
    for result in specs.iter().flat_map(|spec| append(log, std::slice::from_ref(spec))) {
        result.unwrap();
    }
}

fn read_all(log: &Log) -> Vec<Record> {
    Records::new(log, Seek::Seq(0)).map(Result::unwrap).collect()
}

/// Asserts that exactly these records are there, in this order.
#[track_caller]
fn assert_holds(log: &Log, specs: &[Spec]) {
    let records = read_all(log);
    let numbers: Vec<_> =
        records.iter().map(|record| String::from_utf8_lossy(&record.body[..8]).into_owned()).collect();
    assert_eq!(records.len(), specs.len(), "{numbers:?}");
    for (record, spec) in records.iter().zip(specs) {
        assert!(spec.is(record), "{spec:?} is not {record:?}");
    }
}

fn segment_names(fs: &dyn Fs) -> Vec<String> {
    let mut names: Vec<_> = fs.list().unwrap().into_iter().map(|(name, _)| name).collect();
    names.retain(|name| Base::of_segment(name).is_some());
    names.sort();
    names
}
