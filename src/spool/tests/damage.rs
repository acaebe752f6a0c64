//! Bytes that are not what was written.

use super::*;

fn specs(count: u64) -> Vec<Spec> {
    let machines = ["a", "b", "c"];
    let spec = |number: u64| {
        let machine = machines[(number % 3) as usize];
        Spec {
            key: vec![7; (number % 2) as usize * 20],
            ..Spec::new(number, 40 * (number % 9) as usize, &[(machine, 2)])
        }
    };
    (0..count).map(spec).collect()
}

/// A spool of several segments, the last of them not sealed.
fn spool(count: u64) -> (Sim, Vec<Spec>) {
    let sim = Sim::new(1);
    let log = open(&sim, bounds());
    let specs = specs(count);
    append_all(&log, &specs);
    log.cursors.lock().set(b"sink", &1u64.to_le_bytes());
    log.store_tables().unwrap();
    (sim.kill(), specs)
}

/// Which of the specs are missing among the records; asserts that nothing else is there, and the order.
#[track_caller]
fn missing(records: &[Record], specs: &[Spec]) -> Vec<usize> {
    let mut records = records.iter().peekable();
    let missing = (0..specs.len()).filter(|&at| records.next_if(|record| specs[at].is(record)).is_none()).collect();
    assert_eq!(records.next(), None);
    missing
}

#[test]
fn a_flipped_bit_loses_only_the_record_it_hit() {
    let (sim, specs) = spool(60);
    let whole = open(&sim.copy(), bounds());
    let places: Vec<_> = (1..=60).map(|seq| whole.first(Seek::Seq(seq)).unwrap().unwrap()).collect();
    let names: Vec<_> = sim.list().unwrap().into_iter().collect();
    let mut rng = Rng(3);
    let (mut lost, mut kept) = (0, 0);
    for round in 0..1500 {
        let (name, bytes) = &names[round % names.len()];
        let bit = rng.below(bytes * 8);
        let flipped = sim.copy();
        flipped.damage(name, |content| content[(bit / 8) as usize] ^= 1 << (bit % 8));
        let log = open(&flipped, bounds());
        let hit = places.iter().position(|place| {
            let record = place.entry.offset..place.entry.offset + place.bytes() as u64;
            place.segment.segment_name() == *name && record.contains(&(bit / 8))
        });
        let missing = missing(&read_all(&log), &specs);
        assert!(missing.iter().all(|&at| Some(at) == hit), "bit {bit} of {name} lost {missing:?}, not {hit:?}");
        let is_last = hit == Some(specs.len() - 1);
        let counted = log.counted();
        assert_eq!(counted.corrupt_records, u64::from(!missing.is_empty() && !is_last), "{counted:?}");
        assert_eq!(counted.lines, 2 * (60 - missing.len() as u64));
        for machine in ["a", "b", "c"] {
            let of_machine = |at: &usize| specs[*at].machines[0].0 == machine;
            let expected = (0..60).filter(|at| !missing.contains(at)).filter(of_machine);
            let found = MachineRecords::new(&log, machine, 0).map(|record| record.unwrap().seq as usize - 1);
            assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "bit {bit} of {name}");
        }
        lost += missing.len();
        kept += usize::from(missing.is_empty());
    }
    assert!(lost > 500 && kept > 100, "{lost} {kept}");
}

#[test]
fn damage_is_counted_once_copied_and_remembered_over_a_restart() {
    let (sim, _) = spool(60);
    let log = open(&sim, bounds());
    let place = log.first(Seek::Seq(5)).unwrap().unwrap();
    sim.damage(&place.segment.segment_name(), |content| content[place.entry.offset as usize + 70] ^= 1);
    for _ in 0..3 {
        assert_eq!(read_all(&log).len(), 59);
        assert!(matches!(log.read(&place), Err(ReadError::Damaged)));
    }
    let counted = log.counted();
    assert_eq!((counted.corrupt_records, counted.lines_dropped_corrupt), (1, 2));
    assert_eq!((counted.lines_in, counted.lines), (120, 118));
    let copies: Vec<_> = sim.list().unwrap().into_iter().filter(|(name, _)| name.starts_with("quarantine-")).collect();
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].1, place.bytes() as u64);
    log.store_tables().unwrap();
    let log = open(&sim.crash(), bounds());
    assert_eq!(read_all(&log).len(), 59);
    let counted = log.counted();
    assert_eq!((counted.lines_in, counted.lines, counted.lines_dropped_corrupt), (118, 118, 0));
}

#[test]
fn a_body_that_looks_like_a_record_is_not_taken_for_one() {
    let sim = Sim::new(1);
    let log = open(&sim, bounds());
    append_all(&log, &specs(3));
    let forged = sim.content(&segment_names(&sim)[0])[HEADER..2000].to_vec();
    // In a segment of its own, behind whose first record's damaged header the search begins.
    log.seal_active();
    let spec = Spec { body: forged.into(), ..Spec::new(9, 0, &[("a", 1)]) };
    append_all(&log, &[spec, Spec::new(10, 50, &[("a", 1)])]);
    let sim = sim.kill();
    sim.damage(&segment_names(&sim)[1], |content| content[HEADER + 20] ^= 1);
    let records = read_all(&open(&sim, bounds()));
    let seqs: Vec<_> = records.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 5]);
}

#[test]
fn repair_makes_whole_what_verify_finds() {
    let (sim, specs) = spool(60);
    let names = segment_names(&sim);
    let verify = |sim: &Sim| verify_in(Arc::new(sim.clone())).unwrap();
    assert!(verify(&sim).iter().all(Checked::is_whole));
    let mut rng = Rng(5);
    for round in 0..200 {
        let other = sim.copy();
        let name = &names[round % (names.len() - 1)];
        let bit = rng.below(other.content(name).len() as u64 * 8);
        other.damage(name, |content| content[(bit / 8) as usize] ^= 1 << (bit % 8));
        let found = verify(&other);
        let is_whole: Vec<_> = found.iter().map(Checked::is_whole).collect();
        // A footer that is gone costs nothing, and leaves a segment that is not sealed.
        let hit = found.iter().find(|checked| checked.segment.name == *name).unwrap();
        assert!(!hit.is_whole() || !hit.segment.is_sealed, "bit {bit} of {name}: {hit:?}");
        assert_eq!(is_whole.iter().filter(|whole| !**whole).count(), usize::from(!hit.is_whole()));
        let before = missing(&read_all(&open(&other.copy(), bounds())), &specs);
        assert_eq!(repair_in(Arc::new(other.clone())).unwrap(), found);
        let mended = verify(&other);
        assert!(mended.iter().all(|checked| checked.is_whole() && checked.segment.is_sealed), "{mended:#?}");
        assert_eq!(missing(&read_all(&open(&other, bounds())), &specs), before);
    }
}

#[test]
fn repair_keeps_what_stands_behind_a_first_sector_that_is_gone() {
    let (sim, specs) = spool(60);
    let names = segment_names(&sim);
    // All but the last are sealed. The second range is the header's end and the first record's marker.
    for (name, range) in names[..names.len() - 1].iter().flat_map(|name| [(name, 0..512), (name, 50..68)]) {
        let other = sim.copy();
        other.damage(name, |content| content[range].fill(0x5a));
        let before = missing(&read_all(&open(&other.copy(), bounds())), &specs);
        assert!(before.len() < 10, "{before:?}");
        repair_in(Arc::new(other.clone())).unwrap();
        assert_eq!(missing(&read_all(&open(&other, bounds())), &specs), before);
    }
}

#[test]
fn looking_changes_nothing() {
    let (sim, _) = spool(60);
    sim.damage(&segment_names(&sim)[1], |content| content[100] ^= 1);
    let calls = sim.calls();
    let _ = verify_in(Arc::new(sim.clone())).unwrap();
    assert_eq!(sim.calls(), calls);
}

#[test]
fn a_bad_block_costs_its_records_and_never_the_start() {
    let (sim, specs) = spool(60);
    let names = segment_names(&sim);
    for name in &names {
        let other = sim.copy();
        other.break_block(name);
        let log = open(&other, bounds());
        let before = sim.content(name);
        let records = Records::new(&log, Seek::Seq(0)).filter_map(Result::ok).collect::<Vec<_>>();
        assert!(records.len() >= 30 && missing(&records, &specs).len() < 30);
        append_all(&log, &[Spec::new(100, 20, &[("a", 1)])]);
        if name == names.last().unwrap() {
            assert_eq!(other.content(name), before, "what may be read another time was changed");
        }
    }
}
