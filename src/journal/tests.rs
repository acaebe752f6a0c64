//! What the journal keeps, through every kind of stop.

use std::{collections::BTreeSet, fs, path::PathBuf};

use proptest::prelude::*;

use super::*;
use crate::batch::EntryId;

/// A directory that goes with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        Self(crate::scratch::path("journal"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn id(number: u64) -> EntryId {
    EntryId { epoch: 1, line: number, machine_seq: number, machine: EntryId::mark("m") }
}

fn loss(machine: &str, second: i64, lines: u64) -> Loss {
    Loss {
        machine: machine.to_owned(),
        app: "app".to_owned(),
        place: "queue".into(),
        reason: "queue_full",
        lines,
        from: at(second),
        to: at(second),
        ids: Some((id(second as u64), id(second as u64 + lines))),
    }
}

fn sum(journal: &Journal) -> u64 {
    journal.read(None, None).entries.iter().filter_map(|entry| entry.lines).sum()
}

fn shown(journal: &Journal) -> Vec<(String, i64, i64, Option<u64>)> {
    let second = |at: Timestamp| at.as_second() - 1_800_000_000;
    let machine = |entry: &Entry| entry.machine.clone().unwrap_or_default();
    let entries = journal.read(None, None).entries;
    entries.iter().map(|entry| (machine(entry), second(entry.from), second(entry.to), entry.lines)).collect()
}

fn opened(dir: &Scratch) -> Journal {
    let journal = Journal::default();
    journal.keep_in(&dir.0, 1 << 20).unwrap();
    journal
}

#[test]
fn losses_of_ten_seconds_are_one_entry() {
    let journal = Journal::default();
    for second in [0, 3, 9, 10, 12] {
        journal.note(loss("m", second, 2));
    }
    journal.note(loss("other", 12, 5));
    let row = |machine: &str, from, to, lines| (machine.to_owned(), from, to, Some(lines));
    assert_eq!(shown(&journal), [row("m", 0, 9, 6), row("m", 10, 12, 4), row("other", 12, 12, 5)]);
    let first = &journal.read(None, None).entries[0];
    assert_eq!((first.first_id, first.last_id), (Some(id(0)), Some(id(11))));
    assert_eq!(first.app.as_deref(), Some("app"));
}

#[test]
fn since_and_machine_pick_what_reached_into_that_time() {
    let journal = Journal::default();
    journal.note(loss("m", 0, 1));
    journal.note(loss("m", 9, 1));
    journal.note(loss("other", 20, 1));
    let count = |since, machine| journal.read(since, machine).entries.len();
    assert_eq!((count(None, None), count(Some(at(9)), None), count(Some(at(10)), None)), (2, 2, 1));
    assert_eq!((count(None, Some("m")), count(None, Some("nobody"))), (1, 0));
}

#[test]
fn over_every_bound_the_count_stays_exact() {
    let journal = Journal::default();
    let many = ENTRIES_MAX as u64 + 500;
    for window in 0..3 {
        for machine in 0..many {
            journal.note(loss(&format!("m{machine}"), window * 20, 3));
        }
    }
    assert_eq!(sum(&journal), 3 * 3 * many);
    let entries = journal.read(None, Some("nobody")).entries;
    assert!(entries.iter().all(|entry| entry.machine.is_none() && entry.first_id.is_none()));
    assert!((2..=4).contains(&entries.len()), "one of each window, one of what had no room: {}", entries.len());
    assert!(journal.read(None, None).entries.len() <= 2 * ENTRIES_MAX + 2);
}

#[test]
fn what_is_kept_on_disk_outlives_the_process() {
    let dir = Scratch::new();
    let journal = opened(&dir);
    journal.note(loss("m", 0, 3));
    journal.write(None);
    journal.note(loss("m", 100, 4));
    journal.close();
    let journal = opened(&dir);
    let row = |from, lines| ("m".to_owned(), from, from, Some(lines));
    assert_eq!(shown(&journal), [row(0, 3), row(100, 4)]);
    assert!(journal.read(None, None).on_disk);
}

#[test]
fn a_directory_has_one_journal() {
    let dir = Scratch::new();
    let journal = opened(&dir);
    let error = Journal::default().keep_in(&dir.0, 1 << 20).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    drop(journal);
    opened(&dir);
}

#[test]
fn an_unclean_stop_is_on_record_with_what_was_in_memory() {
    let dir = Scratch::new();
    let journal = opened(&dir);
    let now = Timestamp::now();
    journal.note(Loss { from: now, to: now, ..loss("m", 0, 3) });
    let oldest = now - Duration::from_secs(5);
    journal.write(Some(Undelivered { lines: 7, oldest }));
    drop(journal);
    let journal = opened(&dir);
    assert_eq!(journal.unclean_stop(), Some(UncleanStop { undelivered: Some(7) }));
    let entries = journal.read(None, None).entries;
    assert_eq!(entries.len(), 2, "{entries:?}");
    let stop = &entries[0];
    assert_eq!((&*stop.reason, stop.lines, stop.undelivered, stop.from), ("unclean_stop", None, Some(7), oldest));
    assert!(stop.to >= now && stop.machine.is_none());
    assert_eq!(entries[1].lines, Some(3), "noted, and not yet appended when the process was killed");
    journal.close();
    drop(journal);
    let next = opened(&dir);
    assert_eq!(next.unclean_stop(), None, "the last stop was clean, though the journal has the one before");
    assert_eq!(next.read(None, None).entries.len(), 2);
}

#[test]
fn with_a_spool_an_unclean_stop_costs_nothing() {
    let dir = Scratch::new();
    let journal = opened(&dir);
    journal.write(None);
    drop(journal);
    let journal = opened(&dir);
    assert_eq!(journal.read(None, None).entries, []);
    assert_eq!(journal.unclean_stop(), None);
}

#[test]
fn entries_appended_behind_the_last_heartbeat_are_not_repeated() {
    let dir = Scratch::new();
    let journal = opened(&dir);
    let now = Timestamp::now();
    journal.note(Loss { from: now, to: now, ..loss("m", 0, 3) });
    journal.write(None);
    let heartbeat = fs::read(dir.path("losses.heartbeat")).unwrap();
    journal.note(Loss { from: now, to: now + Duration::from_secs(1), ..loss("m", 0, 2) });
    journal.close();
    // The process was killed between the two writes.
    fs::write(dir.path("losses.heartbeat"), heartbeat).unwrap();
    assert_eq!(sum(&opened(&dir)), 5);
}

#[test]
fn a_torn_last_line_is_cut_and_a_torn_heartbeat_is_an_unclean_stop() {
    let dir = Scratch::new();
    let journal = opened(&dir);
    journal.note(loss("m", 0, 3));
    journal.close();
    let path = dir.path("losses.ndjson");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&whole[..], &whole[..whole.len() / 2]].concat()).unwrap();
    let journal = opened(&dir);
    assert_eq!(fs::read(&path).unwrap(), whole);
    journal.note(loss("m", 20, 4));
    journal.close();
    assert_eq!(sum(&opened(&dir)), 7);
    fs::write(dir.path("losses.heartbeat"), b"{\"stopped\":fal").unwrap();
    let journal = opened(&dir);
    assert_eq!(journal.unclean_stop(), Some(UncleanStop { undelivered: None }));
    let entries = journal.read(None, None).entries;
    assert_eq!(entries.iter().filter(|entry| entry.reason == "unclean_stop" && entry.undelivered.is_none()).count(), 1);
}

#[test]
fn the_files_stay_within_their_bound_and_the_newest_are_kept() {
    let dir = Scratch::new();
    let journal = Journal::default();
    let bytes_max = 16 << 10;
    journal.keep_in(&dir.0, bytes_max).unwrap();
    assert_eq!(journal.read(None, None).complete_since, None);
    for second in 0..300 {
        journal.note(loss("m", second * 10, 1));
        journal.write(None);
        let bytes = |name| fs::metadata(dir.path(name)).map_or(0, |file| file.len());
        assert!(bytes("losses.ndjson") + bytes("losses.1.ndjson") <= bytes_max as u64);
    }
    let kept = shown(&journal);
    assert!(kept.len() > 30 && kept.len() < 300, "{}", kept.len());
    assert_eq!(kept.last().unwrap().1, 2990);
    assert!(kept.windows(2).all(|pair| pair[1].1 - pair[0].1 == 10), "no gap: {kept:?}");
    let since = journal.read(None, None).complete_since.unwrap();
    assert_eq!(since, at(kept[0].1));
}

#[test]
fn while_the_disk_fails_losses_stay_in_memory_and_are_written_later() {
    let dir = Scratch::new();
    let journal = opened(&dir);
    journal.disk.lock().as_mut().unwrap().refuse_writes(true);
    journal.note(loss("m", 0, 3));
    journal.note(loss("m", 20, 4));
    journal.write(None);
    assert_eq!(fs::metadata(dir.path("losses.ndjson")).unwrap().len(), 0);
    assert_eq!(sum(&journal), 7);
    journal.disk.lock().as_mut().unwrap().refuse_writes(false);
    journal.write(None);
    assert_ne!(fs::metadata(dir.path("losses.ndjson")).unwrap().len(), 0);
    journal.close();
    assert_eq!(sum(&opened(&dir)), 7);
}

#[derive(Clone, Debug)]
enum Step {
    Note { machine: u8, lines: u64, after: i64 },
    Write,
    Stop,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u8, 1..100u64, 0..8i64).prop_map(|(machine, lines, after)| Step::Note { machine, lines, after }),
        3 => Just(Step::Write),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_lost_line_is_in_exactly_one_entry(steps in prop::collection::vec(step(), 1..60)) {
        let dir = Scratch::new();
        let mut journal = opened(&dir);
        let (mut noted, mut durable) = (0, 0);
        let mut now = 0;
        for step in steps {
            if matches!(step, Step::Stop | Step::Kill) {
                now += 1;
            }
            match step {
                Step::Note { machine, lines, after } => {
                    now += after;
                    journal.note(loss(&format!("m{machine}"), now, lines));
                    noted += lines;
                }
                Step::Write => {
                    journal.write(None);
                    durable = noted;
                }
                Step::Stop => {
                    journal.close();
                    journal = opened(&dir);
                    durable = noted;
                }
                Step::Kill => {
                    drop(journal);
                    journal = opened(&dir);
                    noted = durable;
                }
            }
            prop_assert_eq!(sum(&journal), noted);
            let entries = journal.read(None, None).entries;
            let keys: BTreeSet<_> = entries.iter().map(|entry| (entry.machine.clone(), entry.from)).collect();
            prop_assert_eq!(keys.len(), entries.len(), "one entry for each: {:?}", entries);
        }
    }
}
