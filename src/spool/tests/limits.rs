//! What goes, when, and what is told of it.

use super::*;
use crate::spool::{Gone, Observer, Removing, fs};

fn specs(numbers: std::ops::Range<u64>) -> Vec<Spec> {
    numbers.map(|number| Spec::new(number, 300, &[("a", 2), ("b", 1)])).collect()
}

fn set_cursor(log: &Log, seq: u64) {
    log.cursors.lock().set(b"sink", &seq.to_le_bytes());
}

fn small(full: Full) -> Bounds {
    Bounds { bytes_max: 20_000, full, ..bounds() }
}

/// Of what is there: lines in, and what became of those that are not.
#[track_caller]
fn assert_balance(log: &Log) {
    let counted = log.counted();
    let lines: u64 = read_all(log).iter().map(|record| record.lines).sum();
    assert_eq!(counted.lines, lines, "{counted:?}");
    let gone = counted.lines_released + counted.lines_dropped_expired + counted.lines_dropped_full;
    assert_eq!(counted.lines_in, gone + lines, "{counted:?}");
}

#[test]
fn without_cursors_the_oldest_goes_when_there_is_too_much() {
    let sim = Sim::new(1);
    let log = open(&sim, small(Full::Refuse));
    for spec in specs(0..200) {
        append_all(&log, &[spec]);
        assert!(log.bytes() <= 20_000);
        assert!(!log.is_full_for(1000));
    }
    let records = read_all(&log);
    assert!(records.len() > 20 && records.last().unwrap().seq == 200);
    let counted = log.counted();
    assert_eq!(counted.lines_dropped_full, counted.lines_in - counted.lines);
    assert_balance(&log);
}

#[test]
fn a_spool_may_take_no_more_than_its_volume_has_room_for() {
    let sim = Sim::new(1);
    let log = open(&sim, small(Full::Refuse));
    append_all(&log, &specs(0..10));
    assert_eq!(log.counted().budget_bytes, 20_000);
    let others = sim.used() - log.bytes();
    sim.set_faults(Faults { space: Some(others + 12_000), ..Faults::default() });
    assert_eq!(log.counted().budget_bytes, 12_000);
    sim.set_faults(Faults { space: Some(others + 30_000), ..Faults::default() });
    assert_eq!(log.counted().budget_bytes, 20_000);
}

#[test]
fn a_real_volume_tells_what_it_has_free() {
    let disk = fs::Disk::open(&std::env::temp_dir()).unwrap();
    assert!((1..1 << 60).contains(&disk.free().unwrap()));
}

#[test]
fn what_is_older_than_keep_goes() {
    let sim = Sim::new(1);
    let log = open(&sim, Bounds { keep: Duration::from_secs(100), ..bounds() });
    append_all(&log, &specs(0..60));
    assert_eq!(read_all(&log).len(), 60);
    log.retain(at(130), 0);
    let first = &read_all(&log)[0];
    assert!(first.received_at > at(20) && first.received_at <= at(31), "{:?}", first.received_at);
    assert!(log.counted().lines_dropped_expired >= 20 * 3);
    assert_balance(&log);
    // The last segment goes too, though nothing is appended any more.
    log.seal_old(at(1000));
    log.retain(at(1000), 0);
    assert_eq!(read_all(&log), []);
    assert_balance(&log);
}

#[test]
fn a_cursor_holds_back_what_it_has_not_passed_and_what_it_has_passed_stays_for_keep() {
    let sim = Sim::new(1);
    let log = open(&sim, Bounds { keep: Duration::from_secs(100), ..bounds() });
    set_cursor(&log, 1);
    append_all(&log, &specs(0..60));
    log.retain(at(10_000), 0);
    assert_eq!(read_all(&log).len(), 60);
    set_cursor(&log, 45);
    log.retain(at(60), 0);
    assert_eq!(read_all(&log).len(), 60);
    log.retain(at(10_000), 0);
    let first = read_all(&log)[0].seq;
    assert!((30..=45).contains(&first), "{first}");
    let counted = log.counted();
    assert_eq!(counted.lines_released, (first - 1) * 3);
    assert_balance(&log);
    let after = log.first(Seek::Seq(45)).unwrap().unwrap();
    let sizes = (45..=60).map(|seq| log.first(Seek::Seq(seq)).unwrap().unwrap().bytes() as u64);
    assert!(counted.unsent_bytes >= sizes.sum::<u64>() && counted.unsent_bytes < log.bytes());
    assert_eq!(after.seq(), 45);
    set_cursor(&log, 61);
    assert_eq!(log.counted().unsent_bytes, 0);
}

#[test]
fn refuse_refuses_when_cursors_hold_back_all_that_fits() {
    let sim = Sim::new(1);
    let log = open(&sim, small(Full::Refuse));
    set_cursor(&log, 1);
    let mut taken = 0;
    while !log.is_full_for(400) {
        append_all(&log, &specs(taken..taken + 1));
        taken += 1;
        assert!(taken < 100 && log.bytes() <= 20_000);
    }
    assert!(taken > 20, "{taken}");
    log.retain(at(10_000), 0);
    assert!(log.is_full_for(400));
    set_cursor(&log, taken / 2);
    assert!(!log.is_full_for(400));
    assert_eq!(read_all(&log).len() as u64, taken);
}

#[test]
fn drop_oldest_drops_what_a_cursor_has_not_passed_and_releases_what_it_has() {
    let sim = Sim::new(1);
    let log = open(&sim, small(Full::DropOldest));
    // In the middle of the first segment.
    set_cursor(&log, 4);
    for spec in specs(0..100) {
        assert!(!log.is_full_for(400));
        append_all(&log, &[spec]);
        assert!(log.bytes() <= 20_000);
    }
    let counted = log.counted();
    assert_eq!(counted.lines_released, 3 * 3);
    assert_eq!(counted.lines_dropped_full, counted.lines_in - counted.lines - 9);
    assert_balance(&log);
}

#[test]
fn cursors_are_durable_before_anything_goes_because_of_them() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let log = open(&sim, small(Full::Refuse));
        set_cursor(&log, 1);
        append_all(&log, &specs(0..20));
        set_cursor(&log, 18);
        append_all(&log, &specs(20..60));
        assert!(read_all(&log)[0].seq > 1);
        let log = open(&sim.crash(), small(Full::Refuse));
        assert_eq!(log.slowest_cursor(), Some(18));
    }
}

#[derive(Debug, Default)]
struct Told(Mutex<Vec<(std::ops::Range<u64>, Gone, u64)>>);

impl Observer for Told {
    fn removing(&self, removing: &Removing<'_>) {
        let lines = removing.machine_lines("a", 5).iter().sum();
        assert_eq!(removing.machine_lines("nobody", 0), [0; KINDS]);
        assert_eq!(removing.lines(), (removing.seqs().start - 1) * 3..(removing.seqs().end - 1) * 3);
        self.0.lock().push((removing.seqs(), removing.reason(), lines));
    }

    fn room(&self) {}
}

#[test]
fn an_observer_is_told_what_goes_and_counts_a_machines_lines() {
    let sim = Sim::new(1);
    let told = Arc::new(Told::default());
    let log = Log::open(Arc::new(sim), small(Full::Refuse), Some(told.clone())).unwrap();
    append_all(&log, &specs(0..100));
    let told = told.0.lock();
    assert!(told.len() > 3);
    let mut next = 1;
    for (seqs, reason, lines) in told.iter() {
        assert_eq!((seqs.start, *reason), (next, Gone::Full));
        assert_eq!(*lines, 2 * (seqs.end - seqs.start.max(5)));
        next = seqs.end;
    }
    assert_eq!(next, read_all(&log)[0].seq);
}

#[test]
fn a_segment_ends_when_its_index_is_large_enough() {
    let sim = Sim::new(1);
    let log = open(&sim, Bounds { segment_bytes: 32 << 20, ..bounds() });
    let names: Vec<_> = (0..20_000).map(|number| format!("{number:014x}")).collect();
    let machines: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let specs: Vec<_> = (0..50).map(|number| Spec::new(number, 10, &machines)).collect();
    append_all(&log, &specs);
    let sizes: Vec<_> = log.list.read().segments.iter().map(|segment| segment.base.seq).collect();
    assert!(sizes.len() > 1 && sizes[1] < 40, "{sizes:?}");
    assert_eq!(MachineRecords::new(&log, &names[777], 0).count(), 50);
}

#[test]
fn tables_are_written_anew_when_they_hold_too_much_and_rows_can_go() {
    let sim = Sim::new(1);
    let log = open(&sim, bounds());
    let note = [9; 1000];
    for round in 0..400u64 {
        let mut positions = log.positions.lock();
        positions.set(format!("machine {}", round % 7).as_bytes(), &[&round.to_le_bytes()[..], &note].concat());
        if round == 390 {
            positions.remove(b"machine 3");
        }
        drop(positions);
        log.store_tables().unwrap();
    }
    let bytes = sim.content("positions").len();
    assert!((7000..80_000).contains(&bytes), "{bytes}");
    let log = open(&sim.crash(), bounds());
    let positions = log.positions.lock();
    let rows: Vec<_> = positions.rows().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
    assert_eq!(rows, ["machine 0", "machine 1", "machine 2", "machine 3", "machine 4", "machine 5", "machine 6"]);
    assert_eq!(positions.value(b"machine 0").unwrap()[..8], 399u64.to_le_bytes());
    drop(positions);
    log.positions.lock().remove(b"machine 3");
    log.store_tables().unwrap();
    assert_eq!(open(&sim.crash(), bounds()).positions.lock().rows().count(), 6);
}
