//! What is lost, or seems to be, where memory and disk do not reach back equally far, and over a stop.

use super::{spooled::*, *};
use crate::{
    batch::EntryId,
    spool::Bounds,
    stream::{
        LogStream, StreamEvent,
        view::{FleetStream, Seen, ViewStart},
    },
};

/// A spool that keeps less than the history holds.
fn short_of(dir: &Dir) -> LogCollector {
    let config = CollectorConfig { budget_bytes: 64 << 20, history_bytes: 1 << 20, ..CollectorConfig::default() };
    let bounds = Bounds { segment_bytes: 4_096, bytes_max: 16_384, ..Bounds::new(1 << 20) };
    LogCollector::with_spool(config, dir.path(), bounds).unwrap()
}

#[tokio::test]
async fn a_view_resumes_from_the_history_where_the_disk_has_let_go() {
    let dir = Dir::new();
    let collector = short_of(&dir);
    push_bodies(&collector, 0..200);
    let past = collector.shared.history.past().unwrap();
    assert!(past.oldest_line() > 400 && collector.shared.history.oldest_line() == 0);
    let all = lines_of_m(0..200);
    let (messages, _, ids, skipped) = play(&mut view(&collector, &backlog())).await;
    assert_eq!((messages, skipped), (all.clone(), 0), "all that is held");
    let (messages, skipped) = play_fleet(&mut FleetStream::new(&collector, &backlog(), |_| true)).await;
    assert_eq!((messages.len(), skipped), (800, 0));
    for at in [0, 1, 2, 3, 100, 299, 300, 301, 598, 599] {
        let start = ViewStart { after: Some(ids[at]), ..ViewStart::default() };
        let (messages, .., skipped) = play(&mut view(&collector, &start)).await;
        assert_eq!((messages, skipped), (all[at + 1..].to_vec(), 0), "after line {at}");
        let other = ViewStart { after: Some(EntryId { line: ids[at].line + 1, ..ids[at] }), ..ViewStart::default() };
        let (messages, .., skipped) = play(&mut view(&collector, &other)).await;
        assert!(all.ends_with(&messages) && skipped == 0 && messages.len() + at >= 597, "after another machine's line");
    }
}

/// Reads a queue up to now: how many lines, each of which must be where it belongs among `all`, and how many were skipped.
async fn read_in_place(stream: &mut LogStream, all: &[String]) -> (u64, u64) {
    let (mut lines, mut skipped) = (0, 0);
    while stream.queue_lines() > 0 {
        match stream.next_event().await.unwrap() {
            StreamEvent::Entry(entry) => {
                let at = (lines + skipped) as usize;
                assert_eq!(entry.message(), all[at], "after {lines} lines and {skipped} skipped");
                lines += 1;
            }
            StreamEvent::Skipped(count) => skipped += count,
            other => panic!("{other:?}"),
        }
    }
    (lines, skipped)
}

#[tokio::test]
async fn what_leaves_the_disk_before_the_history_is_lost_once_and_in_its_place() {
    for history_bytes in [4_000, 20_000, 60_000, 1 << 20] {
        let dir = Dir::new();
        let mut config = CollectorConfig { budget_bytes: 64 << 20, history_bytes, ..CollectorConfig::default() };
        config.queue.lines = 10;
        let bounds = Bounds { segment_bytes: 4_096, bytes_max: 16_384, ..Bounds::new(1 << 20) };
        let collector = LogCollector::with_spool(config, dir.path(), bounds).unwrap();
        let mut stream = LogStream::new(collector.subscribe("m").unwrap());
        push_bodies(&collector, 0..300);
        check_balance(&collector);
        let all = stdout_of_m(0..300);
        let dropped = collector.stats().queue_lines_dropped;
        let (lines, skipped) = read_in_place(&mut stream, &all).await;
        assert_eq!(lines + skipped, 600, "{history_bytes}");
        assert_eq!(skipped, collector.stats().queue_lines_dropped);
        assert_eq!(skipped, dropped, "all of it was dropped when it went");
        assert_eq!(dropped > 0, history_bytes < 1 << 20, "what is held is not lost: {history_bytes}");
        assert_balanced(&collector);
    }
}

/// A spool in small segments.
fn in_small_segments(dir: &Dir) -> LogCollector {
    dir.open_with(Bounds { segment_bytes: 4_096, ..Bounds::new(1 << 20) })
}

/// Takes the oldest segments away, as time does while no drain is there.
fn remove_oldest(dir: &Dir, count: usize) {
    for segment in segments(dir).into_iter().take(count) {
        std::fs::remove_file(segment).unwrap();
    }
}

/// The segments' files, oldest first.
fn segments(dir: &Dir) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = files.filter(|path| path.extension().is_some_and(|ext| ext == "seg")).collect();
    segments.sort();
    segments
}

#[tokio::test]
async fn what_left_the_spool_while_no_drain_was_there_is_told_to_the_line() {
    for (read_before, finished) in [(0, false), (7, false), (7, true)] {
        let dir = Dir::new();
        let first = in_small_segments(&dir);
        let mut stream = LogStream::new(first.subscribe("m").unwrap());
        let idle = first.subscribe("idle").unwrap();
        push_bodies(&first, 0..100);
        for _ in 0..read_before {
            stream.next().await.unwrap();
        }
        if finished {
            first.finish("m");
        }
        drop((stream, idle));
        first.close_spool();
        drop(first);
        remove_oldest(&dir, 3);

        let second = in_small_segments(&dir);
        let told = second.losses(None, Some("m")).entries;
        let lost: u64 = told.iter().map(|loss| loss.lines.unwrap()).sum();
        assert!(lost > 10 && told.iter().all(|loss| loss.place == "queue" && loss.reason == "history_evicted"));
        assert_eq!(second.losses(None, Some("idle")).entries, [], "who had nothing has lost nothing");
        let mut stream = LogStream::new(second.queue_to_read("m").unwrap());
        let (lines, skipped) = read_in_place(&mut stream, &stdout_of_m(0..100)[read_before..]).await;
        assert_eq!((lines + skipped, skipped), (200 - read_before as u64, lost));
        assert_balanced(&second);
        drop(stream);
        second.close_spool();
        drop(second);
        let third = in_small_segments(&dir);
        assert_eq!(third.losses(None, None).entries, [], "told once");
    }
}

#[tokio::test]
async fn what_came_after_the_last_note_and_left_is_told_as_unknown() {
    let dir = Dir::new();
    let first = in_small_segments(&dir);
    drop((first.subscribe("m").unwrap(), first.subscribe("idle").unwrap()));
    push_bodies(&first, 0..2);
    first.store_positions(true);
    push_bodies(&first, 2..100);
    // As a crash leaves it.
    first.spool().unwrap().shut();
    drop(first);
    remove_oldest(&dir, 3);
    let second = in_small_segments(&dir);
    for machine in ["m", "idle"] {
        let losses = second.losses(None, Some(machine)).entries;
        assert!(
            losses.iter().any(|loss| loss.machine.as_deref() == Some(machine) && loss.lines.is_none()),
            "{machine}"
        );
    }
    let mut stream = LogStream::new(second.queue_to_read("m").unwrap());
    assert_eq!(stream.next_event().await, Some(StreamEvent::Skipped(4)), "of these it was known");
    assert_eq!(stream.next_event().await, Some(StreamEvent::SkippedUnknown));
    assert!(stdout_of_m(0..100).ends_with(&drain(&mut stream).await));
    assert_balanced(&second);
}

#[tokio::test]
async fn damage_that_is_found_at_the_start_after_a_kill_is_told_in_its_place() {
    let dir = Dir::new();
    let first = dir.open();
    drop((first.subscribe("m").unwrap(), first.subscribe("later").unwrap()));
    push_bodies(&first, 0..20);
    first.store_positions(true);
    // What a kill leaves: the last segment has no index.
    let copy = Dir::new();
    std::fs::create_dir_all(copy.path()).unwrap();
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    let segment = segments(&copy).pop().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(5).position(|window| window == b"\"13a\"").unwrap();
    bytes[at + 2] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    for restart in 0..2 {
        let second = copy.open();
        let mut look = view(&second, &backlog());
        let (mut seen, mut unknown) = (Vec::new(), Vec::new());
        loop {
            match look.step() {
                Some(Seen::Lines(lines)) => seen.extend(lines.entries().map(|entry| entry.message().to_owned())),
                Some(Seen::Skipped(None)) => unknown.push(seen.len()),
                Some(Seen::Skipped(lines)) => panic!("{lines:?} at {}", seen.len()),
                Some(Seen::Past) => look.fetch().await,
                None => break,
            }
        }
        assert_eq!((seen.len(), unknown), (57, vec![39]), "where body 13 was");
        drop(look);
        let losses = second.losses(None, Some("m")).entries;
        assert!(losses.iter().any(|loss| loss.lines.is_none() && loss.place == "queue"), "{restart}: {losses:?}");
        let mut stream = LogStream::new(second.queue_to_read("m").unwrap());
        if restart == 0 {
            assert_eq!(stream.next().await.unwrap().message(), "0a");
        } else {
            let mut before = 0;
            let unknown = loop {
                match stream.next_event().await {
                    Some(StreamEvent::Entry(_)) => before += 1,
                    other => break other,
                }
            };
            assert_eq!((unknown, before), (Some(StreamEvent::SkippedUnknown), 26), "where body 13 was");
            assert_eq!(stream.next().await.unwrap().message(), "14a");
            drain(&mut stream).await;
        }
        drop(stream);
        assert_balanced(&second);
        second.close_spool();
    }
    let third = copy.open();
    assert_eq!(third.losses(None, None).entries, [], "nobody stands before it any more");
}
