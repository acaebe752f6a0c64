//! Random operations, faults and crashes against a model of what was promised.

use std::collections::BTreeMap;

use super::*;

/// Seeds of an ordinary run; `SPOOL_SEEDS=10000 cargo test --lib spool::tests::property` runs more.
const SEEDS: u64 = 400;

const MACHINES: [&str; 5] = ["4d891d77b05118", "0e286551c30586", "a", "b", ""];

/// What is known of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Acked(Appended),
    /// It may be there after the next start.
    Unknown,
    /// It must never be seen.
    Void,
}

/// What the world outside was told.
#[derive(Debug)]
struct Model {
    rng: Rng,
    /// By their bodies.
    specs: BTreeMap<Bytes, (Spec, Fate)>,
    made: u64,
    /// Every record at this sequence or behind that was acknowledged is there.
    removed_before: u64,
    /// Nothing before this sequence is ever seen again.
    gone_before: u64,
    cursors: BTreeMap<&'static str, Noted>,
    positions: BTreeMap<&'static str, Noted>,
    id: Option<u64>,
    now: u64,
    /// Whether the disk of this seed ever fails.
    may_fail: bool,
    /// Whether it did so since the start.
    has_failed: bool,
}

/// The values that a row of a table may have after a crash: the last one that was stored, and those since.
#[derive(Clone, Debug, Default)]
struct Noted(Vec<Option<u64>>);

impl Noted {
    fn set(&mut self, value: Option<u64>) {
        if self.0.is_empty() {
            self.0.push(None);
        }
        self.0.push(value);
    }

    fn last(&self) -> Option<u64> {
        self.0.last().copied().flatten()
    }

    fn store(&mut self) {
        let last = self.0.pop();
        self.0 = last.into_iter().collect();
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        Self {
            rng: Rng(seed ^ 0x5eed),
            specs: BTreeMap::new(),
            made: 0,
            removed_before: 0,
            gone_before: 0,
            cursors: BTreeMap::new(),
            positions: BTreeMap::new(),
            id: None,
            now: 0,
            may_fail: seed.is_multiple_of(2),
            has_failed: false,
        }
    }

    fn spec(&mut self, segment_bytes: u64) -> Spec {
        self.made += 1;
        self.now += self.rng.below(3);
        let bytes = match self.rng.below(20) {
            0 => self.rng.below(3 * segment_bytes),
            1..=6 => self.rng.below(segment_bytes / 2),
            _ => self.rng.below(200),
        };
        let mut machines = Vec::new();
        for id in MACHINES {
            if self.rng.once_in(3) || (id.is_empty() && machines.is_empty()) {
                machines.push((id, 1 + self.rng.below(9) as u32));
            }
        }
        let mut spec = Spec::new(self.made, bytes as usize, &machines);
        // Clocks go back, too.
        spec.received_at = at((10 + self.now).saturating_sub(self.rng.below(4)));
        if self.rng.once_in(3) {
            spec.key = format!("key {}", self.made).into_bytes();
        }
        spec
    }

    fn append(&mut self, log: &Log) {
        let group: Vec<_> = (0..=self.rng.below(4)).map(|_| self.spec(log.bounds.segment_bytes)).collect();
        let results = append(log, &group);
        let mut acked = None;
        for (spec, result) in group.into_iter().zip(results) {
            let fate = match result {
                Ok(appended) => {
                    assert!(acked.is_none_or(|last| last < appended.seq));
                    acked = Some(appended.seq);
                    Fate::Acked(appended)
                }
                Err(AppendError::Unknown { .. }) => Fate::Unknown,
                Err(AppendError::Refused { .. }) => Fate::Void,
            };
            if matches!(fate, Fate::Acked(_)) {
                // The segment that follows a failed one stands: what failed is void from now on.
                let unknown = self.specs.values_mut().filter(|(_, fate)| *fate == Fate::Unknown);
                unknown.for_each(|(_, fate)| *fate = Fate::Void);
            }
            self.specs.insert(spec.body.clone(), (spec, fate));
        }
    }

    fn set_cursor(&mut self, log: &Log) {
        let name = ["a", "b"][self.rng.below(2) as usize];
        let noted = self.cursors.entry(name).or_default();
        let list = log.list.read();
        let (first, end) = (list.first().seq, list.end.seq);
        drop(list);
        // A sink that begins does so at something that is there, and then goes on.
        let from = noted.last().unwrap_or(first).max(first);
        if self.rng.once_in(12) {
            noted.set(None);
            log.cursors.lock().remove(name.as_bytes());
        } else {
            let value = from + self.rng.below((end - from).min(20) + 1);
            noted.set(Some(value));
            log.cursors.lock().set(name.as_bytes(), &value.to_le_bytes());
        }
    }

    fn set_position(&mut self, log: &Log) {
        let name = MACHINES[self.rng.below(5) as usize];
        let noted = self.positions.entry(name).or_default();
        if self.rng.once_in(8) {
            noted.set(None);
            log.positions.lock().remove(name.as_bytes());
        } else {
            let value = self.rng.next();
            noted.set(Some(value));
            log.positions.lock().set(name.as_bytes(), &value.to_le_bytes());
        }
    }

    fn store(&mut self, log: &Log) {
        if log.store_tables().is_ok() {
            self.cursors.values_mut().for_each(Noted::store);
            self.positions.values_mut().for_each(Noted::store);
        }
    }

    fn tidy(&mut self, log: &Log) {
        self.now += self.rng.below(40);
        log.seal_old(at(self.now));
        log.retain(at(self.now), 0);
    }

    /// What went may go; what a cursor held back is there.
    fn note_removed(&mut self, log: &Log, is_healthy: bool) {
        let first = log.list.read().first().seq;
        let held = self.cursors.values().filter_map(Noted::last).min();
        if let Some(held) = held.filter(|_| log.bounds.full == Full::Refuse && first > self.removed_before) {
            assert!(first <= held, "segments up to {first} went before the cursor at {held}");
        }
        self.removed_before = self.removed_before.max(first);
        if is_healthy {
            self.gone_before = self.gone_before.max(first);
        }
    }

    fn step(&mut self, sim: &Sim, log: &Log) {
        match self.rng.below(100) {
            0..60 => self.append(log),
            60..72 => self.set_cursor(log),
            72..78 => self.set_position(log),
            78..84 => self.store(log),
            84..90 => self.tidy(log),
            90..92 => log.seal_active(),
            92..96 if self.has_failed => {}
            92..96 => self.check(log, false),
            _ if self.may_fail => self.change_faults(sim),
            _ => {}
        }
    }

    fn change_faults(&mut self, sim: &Sim) {
        let faults = match self.rng.below(4) {
            0 => Faults { eio_in: 4 + self.rng.below(30), ..Faults::default() },
            1 => Faults { space: Some(self.rng.below(40_000)), ..Faults::default() },
            2 => Faults { short_in: 1 + self.rng.below(3), ..Faults::default() },
            _ => Faults::default(),
        };
        self.has_failed |= faults.eio_in > 0 || faults.space.is_some();
        sim.set_faults(faults);
    }

    /// Compares everything that can be read with what was promised.
    fn check(&mut self, log: &Log, is_start: bool) {
        let records = read_all(log);
        for pair in records.windows(2) {
            assert!(pair[0].seq < pair[1].seq && pair[0].received_at <= pair[1].received_at);
            assert!(pair[0].first_line + pair[0].lines <= pair[1].first_line);
        }
        assert!(records.first().is_none_or(|first| first.seq >= self.gone_before), "what was gone is back");
        for record in &records {
            let Some((spec, fate)) = self.specs.get_mut(&record.body) else { panic!("invented: {record:?}") };
            assert!(spec.is(record));
            let numbers = Appended { seq: record.seq, first_line: record.first_line, received_at: record.received_at };
            match fate {
                Fate::Acked(acked) => assert_eq!(*acked, numbers),
                Fate::Unknown if is_start => *fate = Fate::Acked(numbers),
                Fate::Unknown | Fate::Void => panic!("{fate:?}, and yet there: {record:?}"),
            }
        }
        let mut unknown_left = Vec::new();
        for (body, (_, fate)) in &self.specs {
            match fate {
                Fate::Acked(acked) if acked.seq >= self.removed_before => {
                    assert!(records.iter().any(|record| record.seq == acked.seq), "lost: {acked:?}");
                }
                Fate::Unknown if is_start => unknown_left.push(body.clone()),
                _ => {}
            }
        }
        for body in unknown_left {
            self.specs.get_mut(&body).unwrap().1 = Fate::Void;
        }
        self.check_ways(log, &records);
        let counted = log.counted();
        assert_eq!(counted.lines, records.iter().map(|record| record.lines).sum::<u64>(), "{counted:?}");
        assert!(counted.lines == 0 || counted.oldest == Some(records[0].received_at));
    }

    /// All ways to find a record agree with reading all of them.
    fn check_ways(&mut self, log: &Log, records: &[Record]) {
        let end = log.list.read().end;
        let seq = self.rng.below(end.seq + 2);
        let line = self.rng.below(end.line + 2);
        let time = at(self.rng.below(self.now + 12));
        let seqs = |records: &mut dyn Iterator<Item = &Record>| records.map(|record| record.seq).collect::<Vec<_>>();
        let found = |place: Result<Option<super::super::Place>, ReadError>| place.unwrap().map(|place| place.seq());
        let first = |is_it: &dyn Fn(&&Record) -> bool| records.iter().find(is_it).map(|record| record.seq);
        assert_eq!(found(log.first(Seek::Seq(seq))), first(&|record| record.seq >= seq));
        assert_eq!(found(log.first(Seek::Line(line))), first(&|record| record.first_line + record.lines > line));
        assert_eq!(found(log.first(Seek::Time(time))), first(&|record| record.received_at >= time));
        let before = records.iter().rev().find(|record| record.seq < seq).map(|record| record.seq);
        assert_eq!(found(log.last_before(seq)), before);
        for machine in MACHINES {
            let is_of = |record: &&Record| record.machines().any(|(id, _)| id == machine);
            let expected = seqs(&mut records.iter().filter(|record| record.seq >= seq).filter(is_of));
            let read: Vec<_> = MachineRecords::new(log, machine, seq).map(Result::unwrap).collect();
            assert_eq!(seqs(&mut read.iter()), expected, "{machine}");
            let before = records.iter().rev().filter(is_of).find(|record| record.seq < seq).map(|record| record.seq);
            assert_eq!(found(log.machine_last_before(machine, seq)), before);
            let seqs = seq.saturating_sub(self.rng.below(20))..seq;
            let mut sums = [0; KINDS];
            let lines = records.iter().filter(|record| seqs.contains(&record.seq)).flat_map(Record::machines);
            lines.filter(|(id, _)| *id == machine).for_each(|(_, lines)| lines.add_to(&mut sums));
            assert_eq!(log.machine_lines(machine, &seqs).unwrap(), sums, "{machine} {seqs:?}");
        }
        let keys: Vec<_> = log.recent_keys(time, 1000).unwrap().into_iter().map(|(seq, _, key)| (seq, key)).collect();
        let recent = records.iter().filter(|record| record.received_at >= time);
        assert_eq!(keys, recent.filter_map(|record| Some((record.seq, record.key.clone()?))).collect::<Vec<_>>());
    }

    fn check_tables(&mut self, log: &Log) {
        for (table, noted) in [(&log.cursors, &mut self.cursors), (&log.positions, &mut self.positions)] {
            let table = table.lock();
            for (name, noted) in noted {
                let found = table.value(name.as_bytes()).map(|value| u64::from_le_bytes(value.try_into().unwrap()));
                assert!(noted.0.is_empty() || noted.0.contains(&found), "{name}: {found:?}, promised {noted:?}");
                // It goes on from there. What a killed process left may be in the page cache only, until it is stored.
                let at = noted.0.iter().rposition(|value| *value == found);
                noted.0.truncate(at.map_or(0, |at| at + 1));
            }
        }
    }

    /// After a start: nothing that was promised is missing.
    fn check_start(&mut self, sim: &Sim, log: &Log) {
        assert_eq!(*self.id.get_or_insert(log.id), log.id);
        self.check_tables(log);
        self.note_removed(log, true);
        self.check(log, true);
        let checked = verify_in(Arc::new(sim.clone())).unwrap();
        if !self.may_fail {
            assert!(
                checked.iter().all(|checked| checked.segment.is_sealed || checked.segment.records == 0),
                "{checked:#?}"
            );
        }
    }
}

fn random_bounds(rng: &mut Rng) -> Bounds {
    let bounds = Bounds { segment_bytes: 1500 + rng.below(5000), ..bounds() };
    match rng.below(4) {
        0 => Bounds { bytes_max: 20_000, ..bounds },
        1 => Bounds { bytes_max: 20_000, full: Full::DropOldest, ..bounds },
        2 => Bounds { keep: Duration::from_secs(60), ..bounds },
        _ => bounds,
    }
}

fn run(seed: u64) {
    let mut sim = Sim::new(seed);
    let mut model = Model::new(seed);
    let bounds = random_bounds(&mut model.rng);
    for _ in 0..5 {
        sim.set_faults(Faults::default());
        // The power may go during the start, too.
        if model.rng.once_in(4) {
            sim.crash_after(1 + model.rng.below(12));
            let _ = Log::open(Arc::new(sim.clone()), bounds, None);
            sim = sim.crash();
        }
        let log = open(&sim, bounds);
        model.check_start(&sim, &log);
        model.has_failed = false;
        if !model.rng.once_in(4) {
            sim.crash_after(1 + model.rng.below(150));
        }
        for _ in 0..model.rng.below(80) {
            let before = model.has_failed;
            model.step(&sim, &log);
            model.note_removed(&log, !sim.has_crashed() && !before && !model.has_failed);
            if sim.has_crashed() {
                break;
            }
        }
        sim = if model.rng.once_in(5) && !sim.has_crashed() { sim.kill() } else { sim.crash() };
    }
    sim.set_faults(Faults::default());
    let log = open(&sim, bounds);
    model.check_start(&sim, &log);
}

#[test]
fn what_was_acknowledged_is_there_after_any_crash_and_nothing_else() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seeds = match number("SPOOL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SPOOL_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("seed {seed}: run it alone with SPOOL_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
