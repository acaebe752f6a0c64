//! The spool as it is used, on a real disk.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
};

use super::*;
use crate::spool::{Lines, Observer, Position, Removing, ReserveError, offline};

/// A directory of its own, removed in the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        Self(crate::scratch::path("spool").join("made").join("with its parents"))
    }

    fn open(&self) -> Spool {
        Spool::open(&self.0, Bounds::new(1 << 30), None).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap().parent().unwrap());
    }
}

fn record(body: &str) -> NewRecord<'_> {
    NewRecord {
        body: Bytes::copy_from_slice(body.as_bytes()),
        lines: 1,
        machines: &[("a", Lines([1, 0, 0, 0]))],
        received_at: Timestamp::now(),
        key: b"",
    }
}

#[test]
fn what_many_append_at_once_is_there_in_the_order_in_which_it_was_told() {
    let dir = Dir::new();
    let spool = dir.open();
    let told = Arc::new(Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (spool, told) = (&spool, &told);
            scope.spawn(move || {
                for number in 0..50 {
                    let told = Arc::clone(told);
                    let body = format!("{thread} {number}");
                    let slot = spool.reserve(body.len()).unwrap();
                    let named = body.clone();
                    slot.append_then(&record(&body), move |result| told.lock().push((result.unwrap().seq, named)));
                    if number % 10 == 0 {
                        spool.append(&record(&format!("{thread} {number} too"))).unwrap().wait().unwrap();
                    }
                }
            });
        }
    });
    spool.shut();
    let told = std::mem::take(&mut *told.lock());
    assert_eq!(told.len(), 400);
    assert!(told.is_sorted_by_key(|(seq, _)| *seq));
    drop(spool);
    let spool = dir.open();
    assert_eq!(spool.range(), (1..441, 0..440));
    let records: Vec<_> = spool.records(Seek::Seq(0)).map(Result::unwrap).collect();
    assert_eq!(records.len(), 440);
    for (seq, body) in told {
        assert_eq!(records[seq as usize - 1].body, body);
    }
    for thread in 0..8 {
        let bodies = records.iter().map(|record| std::str::from_utf8(&record.body).unwrap());
        let mine = bodies.filter_map(|body| body.strip_prefix(&format!("{thread} ")));
        let numbers: Vec<u32> = mine.filter_map(|number| number.parse().ok()).collect();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    }
    spool.shut();
}

#[tokio::test]
async fn a_record_can_be_awaited_and_found_in_every_way() {
    let dir = Dir::new();
    let spool = dir.open();
    let machines = [("a", Lines([2, 0, 0, 0])), ("b", Lines([1, 1, 0, 1]))];
    let now = Timestamp::now();
    let new =
        NewRecord { body: Bytes::from_static(b"body"), received_at: now, lines: 5, machines: &machines, key: b"key" };
    let appended = spool.append(&new).unwrap().await.unwrap();
    assert_eq!((appended.seq, appended.first_line, appended.received_at), (1, 0, now));
    let place = spool.machine_first("b", 0).unwrap().unwrap();
    assert_eq!((place.seq(), place.lines(), place.first_line(), place.received_at()), (1, 5, 0, now));
    let record = spool.read(&place).unwrap();
    assert_eq!((&record.body[..], record.key.as_deref()), (&b"body"[..], Some(&b"key"[..])));
    assert!(record.machines().eq(machines));
    assert_eq!(spool.first(Seek::Line(4)).unwrap(), Some(place));
    assert_eq!(spool.first(Seek::Line(5)).unwrap(), None);
    assert_eq!(spool.first(Seek::Time(now)).unwrap(), Some(place));
    assert_eq!(spool.last_before(2).unwrap(), Some(place));
    assert_eq!(spool.machine_last_before("a", 2).unwrap(), Some(place));
    assert_eq!(spool.machine_records("c", 0).count(), 0);
    assert_eq!(spool.recent_keys(now, 9).unwrap(), [(1, now, Bytes::from_static(b"key"))]);
    assert_eq!(spool.recent_keys(now + Duration::from_secs(1), 9).unwrap(), []);
    assert_eq!(spool.fsync_seconds().counted().count, 1);
    spool.shut();
}

#[test]
fn cursors_and_positions_outlive_a_restart() {
    let dir = Dir::new();
    let spool = dir.open();
    let id = spool.id();
    let position = Position { at: 7, note: b"stdout".to_vec() };
    spool.set_cursor("sink", 3);
    spool.set_cursor("gone", 3);
    spool.set_position("machine", &position);
    spool.set_position("gone", &position);
    spool.store_tables().unwrap();
    spool.remove_cursor("gone");
    spool.remove_position("gone");
    spool.shut();
    drop(spool);
    let spool = dir.open();
    assert_eq!(spool.id(), id);
    assert_eq!((spool.cursor("sink"), spool.cursor("gone")), (Some(3), None));
    assert_eq!(spool.cursors(), [("sink".to_owned(), 3)]);
    assert_eq!(spool.positions(), [("machine".to_owned(), position)]);
    spool.shut();
}

#[test]
fn a_second_process_finds_the_directory_locked() {
    let dir = Dir::new();
    let spool = dir.open();
    let second = Spool::open(&dir.0, Bounds::default(), None);
    assert!(matches!(second, Err(OpenError::Locked)), "{second:?}");
    assert!(matches!(offline::repair(&dir.0), Err(OpenError::Locked)));
    spool.append(&record("body")).unwrap().wait().unwrap();
    // To look is allowed.
    assert!(offline::verify(&dir.0).unwrap()[0].is_whole());
    assert_eq!(offline::ls(&dir.0).unwrap()[0].records, 1);
    spool.shut();
    drop(spool);
    let found = offline::repair(&dir.0).unwrap();
    assert!(found[0].segment.is_sealed, "{found:?}");
    let mut bodies = Vec::new();
    offline::dump(&dir.0, Seek::Seq(0), Some("a"), |_, record| {
        bodies.push(record.body);
        true
    })
    .unwrap();
    assert_eq!(bodies, ["body"]);
    dir.open().shut();
}

#[test]
fn what_waits_for_the_writer_is_bounded_but_for_a_single_record() {
    let dir = Dir::new();
    let bounds = Bounds { waiting_bytes_max: 1000, ..Bounds::new(1 << 30) };
    let spool = Spool::open(&dir.0, bounds, None).unwrap();
    let large = spool.reserve(1 << 30).unwrap();
    assert_eq!(spool.reserve(1).unwrap_err(), ReserveError::Busy);
    drop(large);
    let slots: Vec<_> = (0..10).map(|_| spool.reserve(100).unwrap()).collect();
    assert_eq!(spool.reserve(1).unwrap_err(), ReserveError::Busy);
    let appended = slots.into_iter().map(|slot| slot.append(&record("body"))).collect::<Vec<_>>();
    for pending in appended {
        pending.wait().unwrap();
    }
    let late = spool.reserve(100).unwrap();
    spool.shut();
    assert_eq!(spool.reserve(1).unwrap_err(), ReserveError::Shut);
    assert!(matches!(late.append(&record("late")).wait(), Err(AppendError::Refused { .. })));
    assert_eq!(spool.records(Seek::Seq(0)).count(), 10);
}

#[test]
fn what_cursors_hold_back_refuses_a_reservation_and_two_do_not_take_the_same_room() {
    let dir = Dir::new();
    let spool = Spool::open(&dir.0, Bounds { segment_bytes: 64 << 10, ..Bounds::new(300 << 10) }, None).unwrap();
    spool.set_cursor("sink", 0);
    let first = spool.reserve(200 << 10).unwrap();
    assert_eq!(spool.reserve(200 << 10).unwrap_err(), ReserveError::Full);
    drop(first);
    drop(spool.reserve(200 << 10).unwrap());
    spool.shut();
}

#[derive(Debug, Default)]
struct Rooms(AtomicU64);

impl Observer for Rooms {
    fn removing(&self, _: &Removing<'_>) {}

    fn room(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn an_observer_is_told_of_room_before_a_record_is() {
    let dir = Dir::new();
    let rooms = Arc::new(Rooms::default());
    let spool = Spool::open(&dir.0, Bounds::new(1 << 30), Some(rooms.clone())).unwrap();
    let before = rooms.0.load(Ordering::Relaxed);
    spool.append(&record("body")).unwrap().wait().unwrap();
    assert!(rooms.0.load(Ordering::Relaxed) > before);
    spool.shut();
}

#[test]
fn what_cannot_be_written_is_refused() {
    let dir = Dir::new();
    let spool = dir.open();
    let name = "x".repeat(1 << 16);
    let refused =
        spool.append(&NewRecord { machines: &[(&name, Lines([1, 0, 0, 0]))], ..record("body") }).unwrap().wait();
    assert!(matches!(refused, Err(AppendError::Refused { source }) if source.kind() == io::ErrorKind::InvalidInput));
    spool.append(&record("body")).unwrap().wait().unwrap();
    spool.shut();
}
