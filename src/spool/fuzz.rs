//! A spool whose files were damaged in any way.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    Bounds, Lines, MachineRecords, NewRecord, OpenError, Record, Records, Seek,
    format::FORMAT_FILE,
    fs::Fs,
    log::Log,
    offline::{repair_in, verify_in},
    sim::Sim,
    threads::hand,
    write::{Completion, Handed, tell},
};
use crate::fuzzing::Choices;

const RECORDS: u64 = 14;
const MACHINES: [&str; 3] = ["a", "b", "6e82d4e6a37548"];

/// Files to damage: segments sealed and not, the tables, the format.
const FILES_MAX: usize = 16;

/// What is written as number `seq`, the first being 1: its body, its machine, its lines.
fn written(seq: u64) -> (Bytes, &'static str, u32, Vec<u8>) {
    let mut body = format!("{seq} ").into_bytes();
    body.extend((0..seq * 37 % 400).map(|at| (at ^ seq) as u8));
    let key = if seq.is_multiple_of(3) { vec![seq as u8; 20] } else { Vec::new() };
    (body.into(), MACHINES[(seq % 3) as usize], 1 + (seq % 4) as u32, key)
}

fn at(seq: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap_or_default() + Duration::from_secs(seq)
}

fn bounds() -> Bounds {
    Bounds { segment_bytes: 1500, keep: Duration::from_secs(1 << 32), ..Bounds::new(1 << 40) }
}

fn append(log: &Log, seq: u64) {
    let (body, machine, lines, key) = written(seq);
    let machines = [(machine, Lines([lines, 0, 0, 0]))];
    let record = NewRecord { body, received_at: at(seq), lines, machines: &machines, key: &key };
    let handed = hand(&record).expect("a record of few bytes");
    let done = Completion::new(|fate| assert!(fate.is_ok(), "{fate:?}"));
    log.commit(VecDeque::from([Handed { done, ..handed }]), tell);
}

/// A sound spool: several segments, the last of them not sealed, a cursor and a position.
fn sound() -> Sim {
    let sim = Sim::new(1);
    let log = Log::open(Arc::new(sim.clone()), bounds(), None).expect("an empty disk");
    (1..=RECORDS).for_each(|seq| append(&log, seq));
    log.cursors.lock().set(b"sink", &3_u64.to_le_bytes());
    log.positions.lock().set(b"a", &5_u64.to_le_bytes());
    log.store_tables().expect("the disk takes them");
    sim.kill()
}

/// However a spool's files were damaged, it opens or says why not, and never panics. What it then gives was written, each record once and
/// in order, by every way of reading; it takes new records behind the old, gives them back after a restart, and loses nothing by
/// a repair.
pub(crate) fn spool(data: &[u8]) {
    thread_local!(static SOUND: Sim = sound());
    let sim = SOUND.with(Sim::copy);
    let mut choices = Choices(data);
    let mut changes = 0;
    while !choices.is_over() && changes < 8 {
        damage(&sim, &mut choices);
        changes += 1;
    }
    let _ = verify_in(Arc::new(sim.copy()));
    let repaired = sim.copy();
    let log = match Log::open(Arc::new(sim.clone()), bounds(), None) {
        Ok(log) => log,
        Err(error) => return assert_reason(&error),
    };
    let held = held(&log);
    assert_ways(&log, &held);
    append(&log, RECORDS + 1);
    let end = log.list.read().end.seq;
    log.store_tables().expect("the disk takes them");
    drop(log);

    let log = Log::open(Arc::new(sim.crash()), bounds(), None).expect("what was opened opens again");
    let mut records: Vec<_> = Records::new(&log, Seek::Seq(0)).filter_map(Result::ok).collect();
    let newest = records.pop().expect("what was appended is there");
    assert!(is_written(&newest, RECORDS + 1) && newest.seq + 1 == end, "{newest:?}");
    assert_same(&records, &held, "a restart");

    if let Ok(checked) = repair_in(Arc::new(repaired.clone())) {
        let log = Log::open(Arc::new(repaired), bounds(), None).expect("what was repaired opens");
        // It looks at every byte, and may find what stands elsewhere than the index says.
        let found = self::held(&log);
        let lost: Vec<_> = held.iter().filter(|record| !found.contains(record)).map(|record| record.seq).collect();
        assert!(lost.is_empty(), "lost by a repair: {lost:?} of {checked:#?}");
    }
}

fn assert_same(records: &[Record], before: &[Record], event: &str) {
    let seqs = |records: &[Record]| records.iter().map(|record| record.seq).collect::<Vec<_>>();
    assert_eq!(seqs(records), seqs(before), "after {event}");
    assert!(records == before, "after {event}: {records:?} {before:?}");
}

/// Changes one file in one way.
fn damage(sim: &Sim, choices: &mut Choices<'_>) {
    let mut names: Vec<_> = sim.list().expect("the disk works").into_iter().map(|(name, _)| name).collect();
    names.sort();
    names.truncate(FILES_MAX);
    let Some(count) = Some(names.len()).filter(|count| *count > 0) else { return };
    let name = &names[choices.below(count)];
    let (change, place, length) = (choices.below(10), choices.below(1 << 16), choices.below(1 << 10));
    let other = &names[choices.below(count)];
    let from = sim.content(other);
    match change {
        8 => return sim.unlink(name).expect("the disk works"),
        9 => return sim.rename(name, other).expect("the disk works"),
        _ => {}
    }
    let bytes = choices.take(if change < 3 { length % 64 } else { 0 });
    sim.damage(name, |content| {
        let at = place % (content.len() + 1);
        let end = (at + length).min(content.len());
        match change {
            0 => drop(content.splice(at..(at + bytes.len()).min(content.len()), bytes.iter().copied())),
            1 => drop(content.splice(at..at, bytes.iter().copied())),
            2 => content.get_mut(at).into_iter().for_each(|byte| *byte ^= bytes.first().unwrap_or(&1)),
            3 => content.truncate(at),
            4 => content[at..end].fill(0),
            5 => drop(content.drain(at..end)),
            // What the disk should have written elsewhere: in this file, or in another.
            6 => copy_within(content, at, end - at, length * 7),
            _ => {
                let piece = from.get(at..(at + length).min(from.len())).unwrap_or_default();
                drop(content.splice(at..end, piece.iter().copied()));
            }
        }
    });
}

fn copy_within(content: &mut [u8], from: usize, length: usize, to: usize) {
    if !content.is_empty() {
        let to = to % content.len();
        let length = length.min(content.len() - to);
        content.copy_within(from..from + length, to);
    }
}

/// A disk that works is refused for one reason only: what the format file says.
fn assert_reason(error: &OpenError) {
    let is_format = matches!(error, OpenError::UnknownVersion { .. }) || error.to_string().contains(FORMAT_FILE);
    assert!(is_format || matches!(error, OpenError::Io(_)), "{error:?}");
}

fn is_written(record: &Record, seq: u64) -> bool {
    let (body, machine, lines, key) = written(seq);
    let machines = [(machine, Lines([lines, 0, 0, 0]))];
    record.body == body
        && record.lines == u64::from(lines)
        && record.machines().eq(machines)
        && record.key.as_deref().unwrap_or_default() == key
}

/// All that can be read; asserts that it was written and stands in order.
fn held(log: &Log) -> Vec<Record> {
    let records: Vec<_> = Records::new(log, Seek::Seq(0)).filter_map(Result::ok).collect();
    for record in &records {
        assert!(record.seq <= RECORDS && is_written(record, record.seq), "never written: {record:?}");
    }
    for pair in records.windows(2) {
        assert!(pair[0].seq < pair[1].seq && pair[0].first_line + pair[0].lines <= pair[1].first_line, "{pair:?}");
    }
    records
}

/// Each way to find a record finds those that are held.
fn assert_ways(log: &Log, held: &[Record]) {
    for machine in MACHINES {
        let of_machine = held.iter().filter(|record| record.machines().any(|(id, _)| id == machine));
        let found: Vec<_> = MachineRecords::new(log, machine, 0).filter_map(Result::ok).collect();
        assert!(found.is_sorted_by(|one, next| one.seq < next.seq), "{machine}");
        assert!(found.iter().all(|record| is_written(record, record.seq)), "{machine}");
        // Where bytes went from the middle of a file, an index says where records were, and a scan finds some where they are now.
        assert!(of_machine.clone().all(|record| found.contains(record)), "{machine}");
    }
    for record in held {
        let place = log.first(Seek::Line(record.first_line)).ok().flatten().expect("a line that is held is found");
        assert_eq!(place.seq(), record.seq);
    }
    // A key is known from the index too, where its record is damaged: it was acknowledged, and is not to be taken again.
    let keys = log.recent_keys(at(0), 1000).expect("the disk works");
    assert!(keys.iter().all(|(seq, _, key)| written(*seq).3 == *key), "{keys:?}");
    assert!(keys.is_sorted_by(|one, next| one.0 < next.0), "{keys:?}");
    for record in held.iter().filter(|record| record.key.is_some()) {
        assert!(keys.iter().any(|(seq, ..)| *seq == record.seq), "{keys:?} {record:?}");
    }
}
