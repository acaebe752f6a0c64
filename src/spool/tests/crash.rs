//! One kind of failure at a time, and what is told of it.

use super::*;

fn specs(numbers: std::ops::Range<u64>) -> Vec<Spec> {
    numbers.map(|number| Spec::new(number, 300, &[("a", 2), ("b", 1)])).collect()
}

#[track_caller]
fn assert_unknown(results: &[Result<Appended, AppendError>]) {
    assert!(results.iter().all(|result| matches!(result, Err(AppendError::Unknown { .. }))), "{results:?}");
}

#[track_caller]
fn assert_refused(results: &[Result<Appended, AppendError>], kind: io::ErrorKind) {
    let is_it = |result: &Result<Appended, AppendError>| matches!(result, Err(AppendError::Refused { source }) if source.kind() == kind);
    assert!(results.iter().all(is_it), "{results:?}");
}

#[test]
fn after_a_failed_sync_the_next_record_goes_to_another_segment_and_what_failed_is_void() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let log = open(&sim, bounds());
        let all = specs(0..8);
        append_all(&log, &all[..3]);
        sim.set_faults(Faults { syncs_fail: 1, ..Faults::default() });
        assert_unknown(&append(&log, &all[3..5]));
        assert_holds(&log, &all[..3]);
        append_all(&log, &all[5..]);
        let taken = [&all[..3], &all[5..]].concat();
        assert_holds(&log, &taken);
        assert_eq!(segment_names(&sim).len(), 2);
        // Whatever the disk kept of the two is no part of the log any more.
        let log = open(&sim.crash(), bounds());
        assert_holds(&log, &taken);
    }
}

#[test]
fn what_is_unknown_is_there_after_a_crash_or_it_is_not() {
    let mut found = [0; 3];
    for seed in 0..100 {
        let sim = Sim::new(seed);
        let log = open(&sim, bounds());
        let all = specs(0..4);
        append_all(&log, &all[..2]);
        sim.set_faults(Faults { syncs_fail: 1, ..Faults::default() });
        assert_unknown(&append(&log, &all[2..]));
        let log = open(&sim.crash(), bounds());
        let records = read_all(&log);
        assert!(all[..2].iter().zip(&records).all(|(spec, record)| spec.is(record)));
        assert!(records.iter().all(|record| all.iter().any(|spec| spec.is(record))));
        found[records.len() - 2] += 1;
    }
    assert!(found[0] > 0 && found[2] > 0, "{found:?}");
}

#[test]
fn what_a_failed_sync_left_in_the_page_cache_is_written_again_at_the_next_start() {
    for seed in 0..100 {
        let sim = Sim::new(seed);
        let log = open(&sim, bounds());
        let all = specs(0..4);
        append_all(&log, &all[..2]);
        // The cut of the segment fails, too; then the process ends before it comes to a new one.
        sim.set_faults(Faults { syncs_fail: 1, cuts_fail: 1, ..Faults::default() });
        assert_unknown(&append(&log, &all[2..]));
        let sim = sim.kill();
        let log = open(&sim, bounds());
        assert_holds(&log, &all);
        // It was shown, so it stays.
        let log = open(&sim.crash(), bounds());
        assert_holds(&log, &all);
    }
}

#[test]
fn without_space_nothing_is_taken_and_with_space_it_goes_on() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let log = open(&sim, bounds());
        let all = specs(0..33);
        append_all(&log, &all[..3]);
        // Cursors keep old segments from making room.
        log.cursors.lock().set(b"sink", &0u64.to_le_bytes());
        sim.set_faults(Faults { space: Some(sim.used() + seed * 10), ..Faults::default() });
        let mut refused = 0;
        for group in all[3..27].chunks(2) {
            let mut results = append(&log, group);
            // Two records may be in two segments.
            results.retain(Result::is_err);
            assert_refused(&results, io::ErrorKind::StorageFull);
            refused += results.len();
        }
        assert!(refused > 0);
        sim.set_faults(Faults::default());
        append_all(&log, &all[27..]);
        let taken = read_all(&log).len();
        assert_eq!(taken, all.len() - refused);
        let records = read_all(&open(&sim.crash(), bounds()));
        assert_eq!(records.len(), taken, "what was refused is there after a crash");
    }
}

#[test]
fn what_was_refused_is_not_there_after_a_crash() {
    let mut refused = 0;
    for seed in 0..200 {
        let sim = Sim::new(seed);
        let log = open(&sim, Bounds { segment_bytes: 1 << 20, ..bounds() });
        let all = specs(0..5);
        // No room for a whole segment beforehand, so that it grows; then for one record of three, or two.
        sim.set_faults(Faults { space: Some(5000), ..Faults::default() });
        append_all(&log, &all[..2]);
        sim.set_faults(Faults { space: Some(sim.used() + 500 + 2 * seed), ..Faults::default() });
        let results = append(&log, &all[2..]);
        assert_refused(&results, io::ErrorKind::StorageFull);
        refused += results.len();
        assert_holds(&open(&sim.crash(), bounds()), &all[..2]);
    }
    assert_eq!(refused, 600);
}

#[test]
fn a_write_that_fails_is_taken_back() {
    let sim = Sim::new(1);
    let log = open(&sim, bounds());
    let all = specs(0..4);
    append_all(&log, &all[..2]);
    sim.set_faults(Faults { writes_fail: 1, ..Faults::default() });
    assert_refused(&append(&log, &all[2..3]), io::Error::from(rustix::io::Errno::IO).kind());
    append_all(&log, &all[3..]);
    assert_eq!(segment_names(&sim).len(), 1);
    let taken = [&all[..2], &all[3..]].concat();
    assert_holds(&log, &taken);
    assert_holds(&open(&sim.crash(), bounds()), &taken);
}

#[test]
fn short_writes_are_gone_on_with() {
    let sim = Sim::new(1);
    let log = open(&sim, bounds());
    sim.set_faults(Faults { short_in: 1, ..Faults::default() });
    let all = specs(0..40);
    append_all(&log, &all);
    assert_holds(&log, &all);
    assert_holds(&open(&sim.crash(), bounds()), &all);
}

#[test]
fn old_segments_that_nobody_needs_make_room_on_a_full_disk() {
    let sim = Sim::new(1);
    let log = open(&sim, bounds());
    let all = specs(0..60);
    append_all(&log, &all[..40]);
    sim.set_faults(Faults { space: Some(sim.used()), ..Faults::default() });
    append_all(&log, &all[40..]);
    let counted = log.counted();
    assert!(counted.lines_dropped_full > 0 && counted.lines_released == 0, "{counted:?}");
    assert_eq!(counted.lines, read_all(&log).len() as u64 * 3);
    assert_eq!(counted.lines_in, 60 * 3);
}

#[test]
fn a_disk_that_stays_full_whatever_goes_costs_few_old_records() {
    let sim = Sim::new(1);
    let log = open(&sim, bounds());
    append_all(&log, &specs(0..100));
    let before = segment_names(&sim).len();
    for spec in specs(100..200) {
        // As much goes to somebody else as is made room.
        sim.set_faults(Faults { space: Some(0), ..Faults::default() });
        let refused = append(&log, &[spec]).remove(0).unwrap_err();
        assert!(matches!(refused, AppendError::Refused { .. }), "{refused:?}");
    }
    let after = segment_names(&sim).len();
    assert!(after + 3 >= before && before >= 10, "{before} segments, then {after}");
    sim.set_faults(Faults::default());
    append_all(&log, &specs(200..210));
    assert_eq!(log.counted().lines_in, 110 * 3);
}

#[test]
fn a_start_reads_one_segment_whatever_the_backlog() {
    let read_at_start = |records: u64| {
        let sim = Sim::new(1);
        let log = open(&sim, bounds());
        append_all(&log, &specs(0..records));
        let sim = sim.kill();
        let before = sim.bytes_read();
        let log = open(&sim, bounds());
        let read = sim.bytes_read() - before;
        assert_eq!(read_all(&log).len() as u64, records);
        (segment_names(&sim).len(), read)
    };
    let (few, bytes) = read_at_start(30);
    let (many, bytes_of_many) = read_at_start(3 * 1000);
    assert!(few >= 3 && many > 200, "{few} {many}");
    assert!(bytes.abs_diff(bytes_of_many) < 2 * 4096, "{bytes} bytes of {few} segments, {bytes_of_many} of {many}");
}

#[test]
fn another_version_is_left_alone() {
    let sim = Sim::new(1);
    append_all(&open(&sim, bounds()), &specs(0..20));
    let refused = |sim: &Sim| {
        let calls = sim.calls();
        let refused = Log::open(Arc::new(sim.clone()), bounds(), None);
        assert!(matches!(refused, Err(OpenError::UnknownVersion { version: 2 })), "{refused:?}");
        assert_eq!(sim.calls(), calls, "something was touched");
    };
    let other = sim.copy();
    other.damage(FORMAT_FILE, |text| text[17] = b'2');
    refused(&other);
    // The format file is lost, and a segment says it.
    let other = sim.copy();
    other.unlink(FORMAT_FILE).unwrap();
    other.damage(segment_names(&other).last().unwrap(), |header| {
        header[8..16].copy_from_slice(&[2, 0, 0, 0, 0xfd, 0xff, 0xff, 0xff]);
    });
    refused(&other);
}

#[test]
fn the_spools_id_outlives_its_format_file() {
    let sim = Sim::new(1);
    let log = open(&sim, bounds());
    append_all(&log, &specs(0..3));
    for content in [&b""[..], b"fleetdr", b"fleetdrain spool 1 0"] {
        let other = sim.copy();
        other.damage(FORMAT_FILE, |text| *text = content.to_vec());
        let reopened = open(&other, bounds());
        assert!(reopened.id == log.id || content.ends_with(b" 0"));
        assert_holds(&reopened, &specs(0..3));
    }
}

#[test]
fn numbers_go_on_when_everything_is_gone() {
    let sim = Sim::new(1);
    let old = Bounds { keep: Duration::from_secs(80), ..bounds() };
    let log = open(&sim, old);
    append_all(&log, &specs(0..30));
    let end = log.list.read().end;
    log.seal_old(at(10_000));
    log.retain(at(10_000), 0);
    assert_eq!(read_all(&log), []);
    let log = open(&sim.crash(), old);
    assert_eq!(log.list.read().end, end);
    let mut late = Spec::new(99, 10, &[("a", 1)]);
    late.received_at = at(10_000);
    let appended = append(&log, &[late]).remove(0).unwrap();
    assert_eq!((appended.seq, appended.first_line), (end.seq, end.line));
}

#[test]
fn no_cursor_waits_behind_what_is_still_to_come() {
    let sim = Sim::new(1);
    let log = open(&sim, bounds());
    append_all(&log, &specs(0..30));
    log.cursors.lock().set(b"sink", &31u64.to_le_bytes());
    log.store_tables().unwrap();
    for name in segment_names(&sim) {
        sim.unlink(&name).unwrap();
    }
    let log = open(&sim, bounds());
    assert_eq!(append(&log, &specs(0..1))[0].as_ref().unwrap().seq, 31);
}

#[test]
fn a_table_that_cannot_be_read_is_no_reason_not_to_start() {
    let sim = Sim::new(1);
    let log = open(&sim, bounds());
    append_all(&log, &specs(0..3));
    log.cursors.lock().set(b"sink", &2u64.to_le_bytes());
    log.store_tables().unwrap();
    sim.break_block("cursors");
    let log = open(&sim, bounds());
    assert_holds(&log, &specs(0..3));
    log.cursors.lock().set(b"sink", &3u64.to_le_bytes());
    log.store_tables().unwrap();
    assert_eq!(open(&sim.crash(), bounds()).slowest_cursor(), Some(3));
}

#[test]
fn a_table_that_a_killed_process_left_is_not_taken_for_stored() {
    for seed in 0..50 {
        let sim = Sim::new(seed);
        let log = open(&sim, bounds());
        let set = |value: u64| log.cursors.lock().set(b"sink", &value.to_le_bytes());
        set(1);
        log.store_tables().unwrap();
        set(2);
        sim.set_faults(Faults { syncs_fail: 1, ..Faults::default() });
        assert!(log.store_tables().is_err());
        let sim = sim.kill();
        let log = open(&sim, bounds());
        assert_eq!(log.slowest_cursor(), Some(2));
        log.store_tables().unwrap();
        assert_eq!(open(&sim.crash(), bounds()).slowest_cursor(), Some(2));
    }
}
