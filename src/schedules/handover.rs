//! Readers that come from the past and pass to what is live, while two publish.

use super::*;
use crate::{
    FleetStream, SubscribeOptions,
    stream::view::{MachineView, Seen, ViewStart},
};

const BACKLOG: ViewStart = ViewStart { backlog: true, since: None, last: None, after: None };

/// A queue of the machine that begins with what the history holds, and is behind at once.
fn with_backlog(collector: &LogCollector) -> LogQueue {
    collector.subscribe_with("m", SubscribeOptions { backlog: true, ..SubscribeOptions::default() }).unwrap().0
}

fn lines_sent(senders: impl IntoIterator<Item = JoinHandle<u64>>) {
    for sender in senders {
        let _ = sender.join().unwrap();
    }
}

/// A queue is created while two publish, and goes behind and comes back as often as the schedule has it. Its end comes when it has
/// given `enough` lines.
fn queue_with_backlog(enough: u64, change: fn(&mut CollectorConfig)) -> (Got, Stats) {
    let collector = collector(change);
    let senders = [0, 1].map(|number| sender(&collector, "m", number, 4));
    let (counts, counted) = counted();
    let reading = {
        let collector = collector.clone();
        let goes_on = move |lines| {
            // Nobody listens any more once it was enough.
            let _ = counts.send(lines);
            true
        };
        spawn(move || read_with_breaks(&with_backlog(&collector), goes_on))
    };
    lines_sent(senders);
    wait_until_read(&counted, enough);
    // Were it created only now, it would be the new one of a finished machine.
    while collector.queue_to_read("m").is_none() {
        yield_now();
    }
    collector.finish("m");
    let got = reading.join().unwrap();
    got.assert_once();
    got.assert_in_order();
    let stats = assert_settled(collector);
    assert_eq!(stats.queue_lines_in, got.total(), "{got:?}");
    (got, stats)
}

#[test]
fn a_queue_that_begins_with_its_backlog_has_every_line_once_and_in_order() {
    explore(|| {
        let (got, stats) = queue_with_backlog(16, |_| {});
        assert_eq!((got.lines.len(), got.told, stats.queue_lines_dropped), (16, 0, 0), "{got:?}");
        got.assert_gapless();
    });
}

#[test]
fn what_is_evicted_before_a_queue_that_is_behind_is_told() {
    explore(|| {
        let (got, stats) = queue_with_backlog(0, |config| config.history_bytes = 1_500);
        assert_eq!(got.told, stats.queue_lines_dropped, "{got:?}");
    });
}

/// Looks at the machine until its end, or until it has seen `enough`.
fn look(mut view: MachineView, enough: u64) -> Got {
    let mut got = Got::default();
    while got.total() < enough {
        match view.step() {
            Some(Seen::Lines(lines)) => lines.entries().for_each(|entry| got.note(&entry)),
            Some(Seen::Skipped(lines)) => got.told += lines.expect("in one process it is known"),
            Some(Seen::Past) => unreachable!("there is no spool"),
            None if view.ended().is_some() => break,
            None => block_on(view.changed()),
        }
    }
    got.assert_once();
    got.assert_in_order();
    got
}

fn view(collector: &LogCollector, start: &ViewStart) -> MachineView {
    MachineView::new(collector, "m", start, |_| true)
}

#[test]
fn who_looks_at_a_machine_sees_every_line_once_and_in_order() {
    explore(|| {
        let collector = collector(|_| {});
        let senders = [0, 1].map(|number| sender(&collector, "m", number, 4));
        let looking = {
            let collector = collector.clone();
            // No end wakes it: only lines do.
            spawn(move || look(view(&collector, &BACKLOG), 16))
        };
        let got = looking.join().unwrap();
        lines_sent(senders);
        assert_eq!((got.lines.len(), got.told), (16, 0), "{got:?}");
        got.assert_gapless();
        assert_settled(collector);
    });
}

#[test]
fn who_looks_at_a_machine_from_now_on_misses_nothing_from_then_on() {
    explore(|| {
        let collector = collector(|_| {});
        let senders = [0, 1].map(|number| sender(&collector, "m", number, 4));
        let looking = {
            let collector = collector.clone();
            spawn(move || look(view(&collector, &ViewStart::default()), u64::MAX))
        };
        lines_sent(senders);
        collector.finish("m");
        let got = looking.join().unwrap();
        got.assert_gapless();
        assert!(got.lines.iter().all(|line| got.lines.contains(&(line.0, 7))), "up to the end: {got:?}");
        assert_settled(collector);
    });
}

#[test]
fn who_looks_at_a_machine_too_slowly_is_told_how_much_was_evicted() {
    explore(|| {
        let collector = collector(|config| config.history_bytes = 1_500);
        let view = view(&collector, &ViewStart::default());
        let looking = spawn(move || look(view, 16));
        let senders = [0, 1].map(|number| sender(&collector, "m", number, 4));
        lines_sent(senders);
        assert_eq!(looking.join().unwrap().total(), 16);
        assert_settled(collector);
    });
}

/// Looks at all machines until the shutdown, or until it has seen `enough`. A machine's own numbers ascend without a gap, but for
/// what was skipped.
fn look_at_all(mut fleet: FleetStream, enough: u64) -> Got {
    let (mut got, mut seqs) = (Got::default(), HashMap::<String, u64>::new());
    while got.total() < enough {
        let Some(batch) = block_on(fleet.next()) else { break };
        got.told += batch.skipped_before();
        for entry in batch.entries() {
            got.note(&entry);
            let seq = entry.machine_seq().unwrap();
            let before = seqs.insert(entry.machine_id().to_owned(), seq);
            let follows = |before| if got.told == 0 { seq == before + 1 } else { seq > before };
            assert!(before.is_none_or(follows), "{} of {}", seq, entry.machine_id());
        }
    }
    got.assert_once();
    got.assert_in_order();
    got
}

fn senders_of_two_machines(collector: &LogCollector) -> [JoinHandle<u64>; 3] {
    [("m", 0), ("n", 1), ("m", 2)].map(|(machine, number)| sender(collector, machine, number, 3))
}

#[test]
fn who_looks_at_all_sees_every_line_once_and_in_order() {
    explore(|| {
        let collector = collector(|_| {});
        let senders = senders_of_two_machines(&collector);
        let looking = {
            let collector = collector.clone();
            spawn(move || look_at_all(collector.fleet_from(&BACKLOG), 18))
        };
        let got = looking.join().unwrap();
        lines_sent(senders);
        assert_eq!((got.lines.len(), got.told), (18, 0), "{got:?}");
        assert_settled(collector);
    });
}

#[test]
fn who_looks_at_all_from_now_on_misses_nothing_from_then_on() {
    explore(|| {
        let collector = collector(|_| {});
        let senders = senders_of_two_machines(&collector);
        let looking = {
            let collector = collector.clone();
            spawn(move || look_at_all(collector.fleet(), u64::MAX))
        };
        lines_sent(senders);
        collector.shut_down();
        let got = looking.join().unwrap();
        assert_eq!(got.told, 0);
        got.assert_gapless();
        assert!(got.lines.iter().all(|line| got.lines.contains(&(line.0, 5))), "up to the end: {got:?}");
        assert_settled(collector);
    });
}

#[test]
fn who_looks_at_all_too_slowly_is_told_how_much_was_evicted() {
    explore(|| {
        let collector = collector(|config| config.history_bytes = 1_500);
        let fleet = collector.fleet();
        let looking = spawn(move || look_at_all(fleet, 18));
        lines_sent(senders_of_two_machines(&collector));
        assert_eq!(looking.join().unwrap().total(), 18);
        assert_settled(collector);
    });
}

/// The table has room for one machine: each line of another has the first forgotten, while bodies for it are on their way.
#[test]
fn a_machine_that_is_forgotten_while_a_body_of_it_is_on_its_way_is_remembered_again() {
    explore(|| {
        let collector = collector(|config| config.machines.max = 1);
        let senders = [("m", 0), ("n", 1), ("m", 2)].map(|(machine, number)| sender(&collector, machine, number, 2));
        let looking = {
            let collector = collector.clone();
            spawn(move || look(view(&collector, &ViewStart::default()), u64::MAX))
        };
        lines_sent(senders);
        collector.shut_down();
        let _ = looking.join().unwrap();
        let machines = collector.all_machine_facts().len();
        let stats = assert_settled(collector);
        assert_eq!((stats.lines_received, stats.machines as usize), (12, machines));
    });
}

/// A machine is subscribed, read to its end and finished, twice, while lines of it and of another come, and the table has room for one.
#[test]
fn queues_that_come_and_go_give_every_line_that_they_accepted() {
    explore(|| {
        let collector = collector(|config| config.machines.max = 1);
        let [of_m, of_n] = [("m", 0), ("n", 1)].map(|(machine, number)| sender(&collector, machine, number, 3));
        let coming = {
            let collector = collector.clone();
            spawn(move || {
                let mut got = Got::default();
                for _ in 0..2 {
                    let queue = collector.subscribe("m").unwrap();
                    let reading = spawn(move || read_with_breaks(&queue, always));
                    yield_now();
                    assert!(collector.finish("m"), "who subscribes makes it known");
                    got.lines.extend(reading.join().unwrap().lines);
                }
                got
            })
        };
        let accepted = of_m.join().unwrap();
        assert_eq!(of_n.join().unwrap(), 0, "nobody is subscribed");
        let got = coming.join().unwrap();
        got.assert_once();
        got.assert_in_order();
        assert_eq!(got.total(), accepted, "{got:?}");
        let machines = collector.all_machine_facts().len() as u64;
        let stats = assert_settled(collector);
        assert_eq!((stats.lines_received, stats.machines, stats.subscriptions), (12, machines, 0));
    });
}

#[test]
fn what_is_taken_before_the_shutdown_is_seen_before_the_end() {
    explore(|| {
        let collector = collector(|_| {});
        let view = view(&collector, &BACKLOG);
        let sending = sender_until_refused(&collector);
        let looking = spawn(move || look(view, u64::MAX));
        yield_now();
        collector.shut_down();
        let (taken, got) = (sending.join().unwrap(), looking.join().unwrap());
        got.assert_gapless();
        assert_eq!(got.total(), u64::from(taken));
        assert_settled(collector);
    });
}
