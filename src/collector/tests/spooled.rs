//! A collector with a spool: what readers and queues find behind what is held, and after a restart.

mod exit;
mod finished;

use std::path::Path;

use super::*;
use crate::{
    batch::EntryId,
    collector::{CollectorConfig, SubscribeOptions},
    spool::{
        Bounds, Place, Seek, Spool,
        sim::{Faults, Sim},
    },
    stream::{
        LogStream,
        view::{FleetStream, MachineView, Seen, ViewStart},
    },
};

/// A directory that goes when it is dropped.
pub(super) struct Dir(std::path::PathBuf);

impl Dir {
    pub(super) fn new() -> Self {
        Self(crate::scratch::path("collector"))
    }

    pub(super) fn open(&self) -> LogCollector {
        self.open_with(Bounds::new(1 << 30))
    }

    pub(super) fn open_with(&self, bounds: Bounds) -> LogCollector {
        // A few bodies are held, the rest is on the disk.
        let mut config = CollectorConfig { budget_bytes: 64 << 20, history_bytes: 4_000, ..CollectorConfig::default() };
        config.queue.lines = 10;
        LogCollector::with_spool(config, self.path(), bounds).unwrap()
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A body of two machines' lines: `m` with one of stderr among three, and `other`.
fn body(number: u32) -> String {
    let record = |machine: &str, stream: &str, message: String| {
        format!("{{\"instance\":\"{machine}\",\"stream\":\"{stream}\",\"message\":\"{message}\"}}\n")
    };
    record("m", "stdout", format!("{number}a"))
        + &record("other", "stdout", format!("{number}x"))
        + "rejected\n"
        + &record("m", "stderr", format!("{number}b"))
        + &record("m", "stdout", format!("{number}c"))
}

pub(super) fn push_bodies(collector: &LogCollector, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let receipt = collector.push(body(number)).unwrap();
        assert_eq!((receipt.received, receipt.accepted, receipt.rejected), (5, 4, 1), "the spool takes all");
    }
}

/// The messages of `m` in bodies of these numbers.
pub(super) fn lines_of_m(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.flat_map(|number| ["a", "b", "c"].map(|line| format!("{number}{line}"))).collect()
}

pub(super) fn stdout_of_m(numbers: std::ops::Range<u32>) -> Vec<String> {
    lines_of_m(numbers).into_iter().filter(|line| !line.ends_with('b')).collect()
}

/// What a view shows until it is caught up: messages, their numbers, their ids; and lines skipped.
pub(super) async fn play(view: &mut MachineView) -> (Vec<String>, Vec<Option<u64>>, Vec<EntryId>, u64) {
    let (mut messages, mut seqs, mut ids, mut skipped) = (Vec::new(), Vec::new(), Vec::new(), 0);
    loop {
        match view.step() {
            Some(Seen::Lines(lines)) => {
                for entry in lines.entries() {
                    messages.push(entry.message().to_owned());
                    seqs.push(entry.machine_seq());
                    ids.push(entry.id().unwrap());
                }
            }
            Some(Seen::Skipped(lines)) => skipped += lines.unwrap(),
            Some(Seen::Past) => view.fetch().await,
            None => return (messages, seqs, ids, skipped),
        }
    }
}

pub(super) async fn play_fleet(fleet: &mut FleetStream) -> (Vec<String>, u64) {
    let (mut messages, mut skipped) = (Vec::new(), 0);
    loop {
        match fleet.step() {
            Some(Seen::Lines(batch)) => {
                skipped += batch.skipped_before();
                messages.extend(batch.entries().map(|entry| entry.message().to_owned()));
            }
            Some(Seen::Skipped(_)) => panic!("it is always known how many"),
            Some(Seen::Past) => fleet.fetch().await,
            None => return (messages, skipped),
        }
    }
}

pub(super) fn view(collector: &LogCollector, start: &ViewStart) -> MachineView {
    MachineView::new(collector, "m", start, |_| true)
}

pub(super) fn backlog() -> ViewStart {
    ViewStart { backlog: true, ..ViewStart::default() }
}

/// The rest of a queue, up to now.
pub(super) async fn drain(stream: &mut LogStream) -> Vec<String> {
    let mut messages = Vec::new();
    while stream.queue_lines() > 0 {
        messages.extend(stream.next_batch().await.unwrap().entries().map(|entry| entry.message().to_owned()));
    }
    messages
}

pub(super) fn check_balance(collector: &LogCollector) {
    let stats = collector.stats();
    let accounted = stats.queue_lines_delivered + stats.queue_lines_dropped + stats.queue_lines;
    assert_eq!(stats.queue_lines_in, accounted, "{stats:#?}");
    let counted = collector.spool_counted();
    assert_eq!(counted.lines_in, counted.lines_released + counted.lines_dropped.iter().sum::<u64>() + counted.lines);
}

#[tokio::test]
async fn logs_reach_back_behind_what_is_held_and_over_a_restart() {
    let dir = Dir::new();
    let first = dir.open();
    push_bodies(&first, 0..40);
    assert!(first.stats().history_lines < 40, "most of it is not held");
    let (messages, seqs, ids, skipped) = play(&mut view(&first, &backlog())).await;
    assert_eq!((messages, skipped), (lines_of_m(0..40), 0));
    assert_eq!(seqs, (1..=120).map(Some).collect::<Vec<_>>());
    first.close_spool();
    drop(first);

    let second = dir.open();
    push_bodies(&second, 40..60);
    let (messages, seqs, ids_again, skipped) = play(&mut view(&second, &backlog())).await;
    assert_eq!((messages, skipped), (lines_of_m(0..60), 0));
    assert_eq!(seqs[..120], [None; 120], "what was before this process knew the machine has no number");
    assert_eq!(seqs[120..], (1..=60).map(Some).collect::<Vec<_>>());
    assert_eq!(ids, ids_again[..120], "ids outlive the process");
    let mut fleet = FleetStream::new(&second, &backlog(), |_| true);
    let (messages, skipped) = play_fleet(&mut fleet).await;
    assert_eq!((messages.len(), skipped), (240, 0));
    assert_eq!(messages[..4], ["0a", "0x", "0b", "0c"]);
}

#[tokio::test]
async fn a_view_begins_at_an_id_a_time_or_so_many_lines_wherever_they_are() {
    let dir = Dir::new();
    let first = dir.open();
    push_bodies(&first, 0..20);
    let between = Timestamp::now();
    push_bodies(&first, 20..30);
    let all = lines_of_m(0..40);
    let (.., ids, _) = play(&mut view(&first, &backlog())).await;
    first.close_spool();
    drop(first);
    let second = dir.open();
    push_bodies(&second, 30..40);

    for (at, id) in ids.iter().enumerate() {
        let start = ViewStart { after: Some(*id), ..ViewStart::default() };
        assert_eq!(play(&mut view(&second, &start)).await.0, all[at + 1..], "after line {at}");
        let mut fleet = FleetStream::new(&second, &start, |_| true);
        assert_eq!(play_fleet(&mut fleet).await.0.len() as u64, 160 - 1 - id.line);
    }
    for last in [0, 1, 2, 3, 29, 30, 31, 89, 90, 91, 119, 120, 1000] {
        let start = ViewStart { last: Some(last), ..ViewStart::default() };
        let expected = &all[120 - (last as usize).min(120)..];
        assert_eq!(play(&mut view(&second, &start)).await.0, expected, "the last {last}");
        let of_m = |entry: &crate::batch::EntryView<'_>| entry.machine_id() == "m";
        let (messages, _) = play_fleet(&mut FleetStream::new(&second, &start, of_m)).await;
        assert_eq!(messages.iter().filter(|message| !message.ends_with('x')).count(), expected.len());
    }
    let start = ViewStart { since: Some(between), ..ViewStart::default() };
    assert_eq!(play(&mut view(&second, &start)).await.0, lines_of_m(20..40));
    let (messages, _) = play_fleet(&mut FleetStream::new(&second, &start, |_| true)).await;
    assert_eq!(messages.len(), 80);
}

#[tokio::test]
async fn a_queue_whose_reader_is_slow_continues_on_the_disk_and_loses_nothing() {
    let dir = Dir::new();
    let collector = dir.open();
    let mut stream = LogStream::new(collector.subscribe("m").unwrap());
    push_bodies(&collector, 0..50);
    assert!(collector.machine_facts("m").unwrap().queue_behind);
    check_balance(&collector);
    let mut read = Vec::new();
    for _ in 0..7 {
        read.push(stream.next().await.unwrap().message().to_owned());
    }
    push_bodies(&collector, 50..60);
    check_balance(&collector);
    read.extend(drain(&mut stream).await);
    assert_eq!(read, stdout_of_m(0..60));
    assert!(!collector.machine_facts("m").unwrap().queue_behind, "it has caught up");
    push_bodies(&collector, 60..61);
    assert_eq!(drain(&mut stream).await, stdout_of_m(60..61));
    check_balance(&collector);
    assert_eq!(collector.stats().queue_lines_delivered, 122);
}

#[tokio::test]
async fn queues_go_on_after_a_restart_from_what_was_not_delivered() {
    for (closed, read_before) in [(true, 0), (true, 5), (true, 40), (false, 5), (false, 40)] {
        let dir = Dir::new();
        let first = dir.open();
        push_bodies(&first, 0..5);
        let options = SubscribeOptions { streams: Some("all".parse().unwrap()), ..SubscribeOptions::default() };
        let (queue, _) = first.subscribe_with("m", options).unwrap();
        let mut stream = LogStream::new(queue);
        push_bodies(&first, 5..25);
        for _ in 0..read_before {
            stream.next().await.unwrap();
        }
        if closed {
            drop(stream);
            first.close_spool();
        } else {
            // As a crash leaves it: noted a while ago.
            first.store_positions(true);
            stream.next().await.unwrap();
            push_bodies(&first, 25..26);
            drop(stream);
            first.spool().unwrap().shut();
        }
        drop(first);

        let second = dir.open();
        let end = if closed { 25 } else { 26 };
        check_balance(&second);
        push_bodies(&second, end..30);
        let (queue, created) = second.subscribe_with("m", options).unwrap();
        assert!(!created, "it was there");
        let read = drain(&mut LogStream::new(queue)).await;
        let all = lines_of_m(5..30);
        assert!(all.ends_with(&read), "in order, to the end: {read:?}");
        let again = read.len() - (all.len() - read_before);
        assert!(again < 3, "no more again than what is in one body: {again} of {}", read.len());
        check_balance(&second);
    }
}

#[tokio::test]
async fn a_queues_age_is_that_of_its_oldest_line_also_after_a_restart() {
    let dir = Dir::new();
    let first = dir.open();
    let (with_queue, without, without_stderr) = ("m", "other", "n");
    drop(first.subscribe(with_queue).unwrap());
    push_bodies(&first, 0..2);
    let line = |stream: &str| format!("{{\"instance\":\"n\",\"message\":\"\",\"stream\":\"{stream}\"}}");
    let _ = first.push(line("stderr")).unwrap();
    let received = Instant::now();
    let _ = first.push(line("stdout")).unwrap();
    first.close_spool();
    drop(first);

    let second = dir.open();
    let options = SubscribeOptions { backlog: true, ..SubscribeOptions::default() };
    drop(second.subscribe_with(without, options).unwrap());
    let of_stdout = SubscribeOptions { streams: Some("stdout".parse().unwrap()), ..options };
    drop(second.subscribe_with(without_stderr, of_stdout).unwrap());
    let lag = |machine| second.machine_facts(machine).unwrap().lag_seconds;
    for machine in [with_queue, without] {
        let least = received.elapsed().as_secs_f64();
        let lag = lag(machine);
        assert!(lag >= least, "{machine}: {lag} of {least} s");
    }
    let lag = lag(without_stderr);
    assert!(lag > 0.0 && lag <= received.elapsed().as_secs_f64(), "what it does not want is no line of it: {lag} s");
}

#[tokio::test]
async fn a_finished_machines_queue_is_read_to_its_end_after_a_restart_and_no_further() {
    let dir = Dir::new();
    let first = dir.open();
    let queue = first.subscribe("m").unwrap();
    push_bodies(&first, 0..15);
    assert!(first.finish("m"));
    push_bodies(&first, 15..20);
    drop(queue);
    first.shut_down();
    first.close_spool();
    drop(first);

    let second = dir.open();
    let queue = second.queue_to_read("m").unwrap();
    let mut stream = LogStream::new(queue);
    let read: Vec<_> = stream.collect().await.iter().map(|entry| entry.message().to_owned()).collect();
    assert_eq!(read, stdout_of_m(0..15));
    assert!(stream.done() && !stream.timed_out());
    check_balance(&second);
    drop(stream);
    second.close_spool();
    drop(second);
    let third = dir.open();
    assert!(third.queue_to_read("m").is_none(), "it was read to its end");
}

#[tokio::test]
async fn what_the_spool_lets_go_of_is_dropped_from_queues_and_told() {
    let dir = Dir::new();
    // Segments are of 64 KiB at least.
    let bounds = Bounds { segment_bytes: 4_096, ..Bounds::new(1 << 20) };
    let collector = dir.open_with(Bounds { bytes_max: 16_384, ..bounds });
    let mut stream = LogStream::new(collector.subscribe("m").unwrap());
    let mut look = view(&collector, &backlog());
    push_bodies(&collector, 0..10);
    let mut read = vec![stream.next().await.unwrap().message().to_owned()];
    push_bodies(&collector, 10..200);
    check_balance(&collector);
    let dropped = collector.stats().queue_lines_dropped;
    assert!(dropped > 100, "{dropped}");
    read.extend(drain(&mut stream).await);
    let all = stdout_of_m(0..200);
    assert_eq!(read.len() as u64 + dropped, 400);
    assert_eq!(stream.lines_skipped(), dropped);
    assert!(
        read.iter().all(|line| all.contains(line)) && read.is_sorted_by_key(|line| all.iter().position(|l| l == line))
    );
    check_balance(&collector);
    let (messages, _, _, skipped) = play(&mut look).await;
    assert_eq!(messages.len() as u64 + skipped, 600, "seen + skipped = produced");
    assert!(lines_of_m(0..200).ends_with(&messages) && skipped > 100);
    let mut fleet = FleetStream::new(&collector, &backlog(), |_| true);
    let seen = play_fleet(&mut fleet).await.0.len() as u64;
    assert_eq!(seen, collector.spool_counted().lines);
}

#[tokio::test]
async fn a_new_queue_with_backlog_begins_with_all_that_is_there() {
    let dir = Dir::new();
    let first = dir.open();
    push_bodies(&first, 0..10);
    first.close_spool();
    drop(first);
    let second = dir.open();
    push_bodies(&second, 10..30);
    let options = SubscribeOptions { backlog: true, ..SubscribeOptions::default() };
    let (queue, _) = second.subscribe_with("m", options).unwrap();
    assert_eq!(second.stats().queue_lines, 60);
    check_balance(&second);
    push_bodies(&second, 30..31);
    assert_eq!(drain(&mut LogStream::new(queue)).await, stdout_of_m(0..31));
    check_balance(&second);
}

#[tokio::test]
async fn a_damaged_batch_costs_its_own_lines_alone_and_is_told() {
    let dir = Dir::new();
    let collector = dir.open();
    let queue = collector.subscribe("m").unwrap();
    push_bodies(&collector, 0..30);
    let place: Place = collector.spool().unwrap().first(Seek::Seq(14)).unwrap().unwrap();
    collector.close_spool();
    let segment = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.into_iter().find(|path| path.extension().is_some_and(|ext| ext == "seg")).unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    // Within the body: each has its own number.
    let at = bytes.windows(5).position(|window| window == b"\"13a\"").unwrap();
    bytes[at + 3] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    assert_eq!(place.lines(), 4);

    let mut lines = stdout_of_m(0..30);
    let mut stream = LogStream::new(queue);
    let mut read = Vec::new();
    while stream.queue_lines() > 0 {
        read.extend(stream.next_batch().await.unwrap().entries().map(|entry| entry.message().to_owned()));
    }
    lines.retain(|line| !["13a", "13c"].contains(&line.as_str()));
    assert_eq!((read, stream.lines_skipped()), (lines, 2));
    check_balance(&collector);
    let (messages, _, _, skipped) = play(&mut view(&collector, &backlog())).await;
    assert_eq!((messages.len(), skipped), (87, 3));
    let (messages, skipped) = play_fleet(&mut FleetStream::new(&collector, &backlog(), |_| true)).await;
    assert_eq!((messages.len(), skipped), (116, 4));
    assert_eq!(lost_in(&collector, "spool"), [("corrupt".to_owned(), Some(4))]);
    assert_eq!(lost_in(&collector, "queue"), [("history_evicted".to_owned(), Some(2))]);
    drop(stream);
    drop(collector);
    // Noted with the tables, which were closed before it was found.
    for found in [vec![("corrupt".to_owned(), Some(4))], Vec::new()] {
        let next = dir.open();
        assert_eq!(play_fleet(&mut FleetStream::new(&next, &backlog(), |_| true)).await.1, 4);
        assert_eq!(lost_in(&next, "spool"), found);
        next.close_spool();
    }
}

#[test]
fn a_spool_whose_disk_refused_a_body_is_not_ready_until_it_has_taken_one() {
    let sim = Sim::new(1);
    let open = |observer| Spool::open_on(Arc::new(sim.clone()), Bounds::new(1 << 30), Some(observer));
    let collector = LogCollector::over_spool(CollectorConfig::default(), open).unwrap();
    assert!(collector.spool_takes(1));
    sim.set_faults(Faults { syncs_fail: 1, ..Faults::default() });
    assert!(collector.push(body(0)).is_err());
    assert!(!collector.spool_takes(1));
    let _ = collector.push(body(1)).unwrap();
    assert!(collector.spool_takes(1));
    collector.close_spool();
}

/// The reason and the lines of each of the losses in one place.
fn lost_in(collector: &LogCollector, place: &str) -> Vec<(String, Option<u64>)> {
    let losses = collector.losses(None, None).entries.into_iter().filter(|loss| loss.place == place);
    losses.map(|loss| (loss.reason.into_owned(), loss.lines)).collect()
}

#[tokio::test]
async fn what_was_dropped_before_a_stop_or_by_it_is_told_behind_it() {
    for is_clean in [true, false] {
        let dir = Dir::new();
        let bounds = Bounds { segment_bytes: 4_096, bytes_max: 16_384, ..Bounds::new(1 << 20) };
        let first = dir.open_with(bounds);
        let queue = first.subscribe("m").unwrap();
        push_bodies(&first, 0..200);
        let evicted = first.stats().queue_lines_dropped;
        assert!(evicted > 0);
        first.shut_down();
        if is_clean {
            first.close_spool();
        } else {
            first.store_positions(true);
            first.spool().unwrap().shut();
        }
        let stats = first.stats();
        assert_eq!(stats.queue_lines + stats.queue_lines_dropped, 400);
        let by_reason = |reason: &str| -> u64 {
            let lost = lost_in(&first, "queue");
            lost.iter().filter(|(of, _)| of == reason).map(|(_, lines)| lines.unwrap()).sum()
        };
        assert_eq!(by_reason("shutdown"), stats.queue_lines_dropped - evicted);
        assert_eq!(by_reason("history_evicted"), evicted);
        drop((queue, first));

        let second = dir.open_with(bounds);
        let mut stream = LogStream::new(second.queue_to_read("m").unwrap());
        let read = drain(&mut stream).await;
        assert!(stdout_of_m(0..200).ends_with(&read), "{read:?}");
        assert_eq!(read.len() as u64 + stream.lines_skipped(), 400, "clean: {is_clean}");
        check_balance(&second);
        let lost_meanwhile = stats.queue_lines - read.len() as u64;
        assert_eq!(second.stats().queue_lines_dropped, lost_meanwhile, "what was counted is not counted again");
        assert!(!is_clean || lost_meanwhile == 0, "{lost_meanwhile}");
    }
}

#[tokio::test]
async fn what_was_over_a_limit_comes_back_from_the_disk_and_is_accounted_for() {
    let dir = Dir::new();
    let mut config = CollectorConfig { history_bytes: 4_000, ..CollectorConfig::default() };
    config.queue.lines = 4;
    config.limit.machine.lines_per_second = 1;
    let collector = LogCollector::with_spool(config, dir.path(), Bounds::new(1 << 30)).unwrap();
    let mut stream = LogStream::new(collector.subscribe("m").unwrap());
    push_bodies(&collector, 0..50);
    let limited = collector.stats().queue_lines_dropped_by_reason["limited"];
    assert!((80..=90).contains(&limited), "{limited} of a hundred, but for a burst of ten");
    check_balance(&collector);
    collector.finish("m");
    let read: Vec<_> = stream.collect().await.iter().map(|entry| entry.message().to_owned()).collect();
    assert!(stdout_of_m(0..50).starts_with(&read[..10]), "{read:?}");
    assert!(read.len() > 10, "what is read from the disk has no marks");
    check_balance(&collector);
    let stats = assert_balanced(&collector);
    assert_eq!((stats.queue_lines, stats.queue_lines_delivered), (0, read.len() as u64));
    assert_eq!(stream.lines_skipped(), limited);
}

#[tokio::test]
async fn records_that_were_too_long_are_not_there_when_the_body_is_read_back() {
    let dir = Dir::new();
    let mut config = CollectorConfig { line_bytes_max: 300, history_bytes: 0, ..CollectorConfig::default() };
    let collector = LogCollector::with_spool(config.clone(), dir.path(), Bounds::new(1 << 30)).unwrap();
    let queue = collector.subscribe("m").unwrap();
    let line = |message: &str| format!("{{\"instance\":\"m\",\r\n\"message\":\"{message}\"}}");
    let long = line(&"x".repeat(1000));
    let bodies = [
        format!("[{},{long},{},{long}]", line("a"), line("b")),
        format!("{}{long}{}", line("c"), line("d")),
        [line("e"), long.clone(), line("f")].join("\n").replace("\r\n", ""),
        line("g"),
    ];
    for body in bodies {
        let receipt = collector.push(body).unwrap();
        assert_eq!(receipt.received, receipt.accepted + receipt.rejected);
    }
    let expected = ["a", "b", "c", "d", "e", "f", "g"];
    let (messages, _, ids, skipped) = play(&mut view(&collector, &backlog())).await;
    assert_eq!((messages.as_slice(), skipped), (expected.map(str::to_owned).as_slice(), 0));
    assert!(ids.is_sorted_by_key(|id| id.line) && ids.last().unwrap().line == 6);
    drop(queue);
    collector.close_spool();
    drop(collector);
    // Whatever the bound is now.
    config.line_bytes_max = 1 << 20;
    let collector = LogCollector::with_spool(config, dir.path(), Bounds::new(1 << 30)).unwrap();
    let (messages, skipped) = play_fleet(&mut FleetStream::new(&collector, &backlog(), |_| true)).await;
    assert_eq!((messages.as_slice(), skipped), (expected.map(str::to_owned).as_slice(), 0));
    let mut stream = LogStream::new(collector.subscribe("m").unwrap());
    assert_eq!(drain(&mut stream).await, expected);
    check_balance(&collector);
}

#[tokio::test]
async fn a_machine_that_was_finished_twice_keeps_all_its_lines_over_a_restart() {
    // The order of the roster is random.
    for _ in 0..8 {
        let dir = Dir::new();
        let first = dir.open();
        for (from, to) in [(0, 3), (3, 8)] {
            drop(first.subscribe("m").unwrap());
            push_bodies(&first, from..to);
            assert!(first.finish("m"));
        }
        first.close_spool();
        drop(first);
        let second = dir.open();
        let mut stream = LogStream::new(second.queue_to_read("m").unwrap());
        let read: Vec<_> = stream.collect().await.iter().map(|entry| entry.message().to_owned()).collect();
        assert_eq!(read, stdout_of_m(0..8));
        check_balance(&second);
    }
}

#[tokio::test]
async fn a_shutdown_forgets_no_subscription() {
    let dir = Dir::new();
    let first = dir.open();
    drop(first.subscribe("m").unwrap());
    first.shut_down();
    first.maintain();
    first.abandon_and_tidy(tokio::time::Instant::now());
    first.close_spool();
    drop(first);
    let second = dir.open();
    push_bodies(&second, 0..2);
    let (queue, created) = second.subscribe_with("m", SubscribeOptions::default()).unwrap();
    assert!(!created, "it is subscribed still");
    assert_eq!(drain(&mut LogStream::new(queue)).await, stdout_of_m(0..2));
}

#[tokio::test]
async fn lines_over_a_limit_never_cost_the_account_of_a_queue_that_is_behind() {
    let dir = Dir::new();
    let mut config = CollectorConfig { history_bytes: 0, ..CollectorConfig::default() };
    config.queue.lines = 1;
    config.limit.machine.lines_per_second = 1;
    let collector = LogCollector::with_spool(config, dir.path(), Bounds::new(1 << 30)).unwrap();
    let mut stream = LogStream::new(collector.subscribe("m").unwrap());
    let lines = |count: usize| "{\"instance\":\"m\",\"message\":\"x\"}\n".repeat(count);
    for count in [1, 20, 3, 8] {
        let _ = collector.push(lines(count)).unwrap();
        check_balance(&collector);
    }
    drain(&mut stream).await;
    check_balance(&collector);
    assert!(stream.lines_skipped() <= 32, "{}", stream.lines_skipped());
}

#[tokio::test]
async fn a_large_batch_is_read_in_pieces_by_who_goes_back_and_is_let_go_of() {
    let dir = Dir::new();
    let collector = dir.open();
    let record = |number: u32| {
        let machine = if number.is_multiple_of(2) { "m" } else { "other" };
        format!("{{\"instance\":\"{machine}\",\"message\":\"{number} {}\"}}\n", "x".repeat(200))
    };
    let _ = collector.push((0..1000).map(record).collect::<String>()).unwrap();
    push_bodies(&collector, 0..20);
    let before = collector.stats().memory_used_bytes;
    let (mut machine, mut fleet) = (view(&collector, &backlog()), FleetStream::new(&collector, &backlog(), |_| true));
    for number in (0..1000_u32).step_by(2) {
        let lines = loop {
            match machine.step() {
                Some(Seen::Lines(lines)) => break lines,
                Some(Seen::Past) => machine.fetch().await,
                _ => panic!("there is more"),
            }
        };
        let first = lines.entries().next().unwrap();
        assert!(first.message().starts_with(&format!("{number} ")), "{number}");
        assert_eq!(first.machine_seq(), Some(u64::from(number / 2) + 1));
        if number < 998 {
            machine.put_back(&lines, lines.rows.start + 1);
        }
    }
    for number in 0..1000_u32 {
        let lines = loop {
            match fleet.step() {
                Some(Seen::Lines(lines)) => break lines,
                Some(Seen::Past) => fleet.fetch().await,
                _ => panic!("there is more"),
            }
        };
        let first = lines.entries().next().unwrap();
        assert!(first.message().starts_with(&format!("{number} ")), "{number}");
        if number < 999 {
            fleet.put_back(&lines, number + 1);
        }
    }
    drop((machine, fleet));
    assert!(collector.stats().memory_used_bytes > before, "it is kept for the next piece");
    let later = tokio::time::Instant::now() + std::time::Duration::from_secs(1);
    collector.shared.history.past().unwrap().forget(later);
    assert_eq!(collector.stats().memory_used_bytes, before, "and let go of when nobody comes");
}

/// State in the only queue of `m`, and where the line is kept.
fn explained(collector: &LogCollector, id: EntryId) -> (String, serde_json::Value) {
    let told = serde_json::to_value(collector.explain(id).unwrap()).unwrap();
    (told["queues"][0]["state"].as_str().unwrap_or("none").to_owned(), told)
}

#[tokio::test]
async fn a_spooled_line_is_explained_where_its_queue_stands_and_after_a_restart() {
    let dir = Dir::new();
    let first = dir.open();
    push_bodies(&first, 0..5);
    let mut stream = LogStream::new(first.subscribe("m").unwrap());
    push_bodies(&first, 5..40);
    let (messages, _, ids, _) = play(&mut view(&first, &backlog())).await;
    let id = |message: &str| ids[messages.iter().position(|text| text == message).unwrap()];
    for _ in 0..7 {
        stream.next().await.unwrap();
    }
    let state = |collector: &LogCollector, message: &str| explained(collector, id(message)).0;
    assert_eq!(state(&first, "4c"), "before");
    assert_eq!(state(&first, "5a"), "delivered");
    assert_eq!(state(&first, "5b"), "filtered");
    assert_eq!(state(&first, "39c"), "behind");
    let (_, told) = explained(&first, id("7a"));
    let kept = &told["kept"];
    assert_eq!(
        (&kept["history"], &kept["spool"]["sequence"], &kept["spool"]["lines"]),
        (&false.into(), &8.into(), &4.into())
    );
    let file = dir.path().join(kept["spool"]["file"].as_str().unwrap());
    let bytes = std::fs::read(file).unwrap();
    let (at, len) = (kept["spool"]["offset"].as_u64().unwrap(), kept["spool"]["bytes"].as_u64().unwrap());
    let record = String::from_utf8_lossy(&bytes[at as usize..(at + len) as usize]).into_owned();
    assert!(record.contains("\"7a\""), "the record is where it is said to be");
    assert_eq!(told["limited"], serde_json::Value::Null, "the disk does not keep that");
    assert_eq!(explained(&first, id("39c")).1["kept"]["history"], true);
    drop(stream);
    first.close_spool();
    drop(first);

    let second = dir.open();
    assert_eq!(state(&second, "4c"), "before", "where the queue began is kept");
    assert_eq!(state(&second, "39c"), "behind");
    let (_, told) = explained(&second, id("5a"));
    assert_eq!(
        told["queues"][0]["state"], "unknown",
        "this journal is in memory, and knows nothing of that time: {told}"
    );
    let options = SubscribeOptions::default();
    let mut stream = LogStream::new(second.subscribe_with("m", options).unwrap().0);
    drain(&mut stream).await;
    drop(stream);
    assert_eq!(state(&second, "39c"), "delivered");
    assert_eq!(explained(&second, id("39c")).1["entry"]["message"], "39c");
}

#[tokio::test]
async fn a_line_that_left_the_spool_is_gone_and_its_queue_may_have_lost_it() {
    let dir = Dir::new();
    let bounds = Bounds { segment_bytes: 4_096, ..Bounds::new(1 << 20) };
    let collector = dir.open_with(Bounds { bytes_max: 16_384, ..bounds });
    let _queue = collector.subscribe("m").unwrap();
    push_bodies(&collector, 0..30);
    let (messages, _, ids, _) = play(&mut view(&collector, &backlog())).await;
    let id = ids[messages.iter().position(|text| text == "20a").unwrap()];
    assert_eq!(explained(&collector, id).0, "behind");
    push_bodies(&collector, 30..200);
    let (state, told) = explained(&collector, id);
    assert_eq!((&told["state"], &told["machine"]["machine_id"]), (&"gone".into(), &"m".into()));
    assert!(told["why"].as_str().unwrap().starts_with("removed from the spool"), "{told}");
    assert_eq!((state.as_str(), &told["queues"][0]["reason"]), ("unknown", &"history_evicted".into()));
    assert!(!told["losses"].as_array().unwrap().is_empty());
}
