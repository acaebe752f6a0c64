//! Readers that come from the past and pass to what is live, while two publish.

use super::*;
use crate::{
    LogQueue, SubscribeOptions,
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

/// A queue is created while two publish, and goes behind and comes back as often as the schedule has it.
fn queue_with_backlog(change: fn(&mut CollectorConfig)) -> (Got, Stats) {
    let collector = collector(change);
    let senders = [0, 1].map(|number| sender(&collector, "m", number, 4));
    let reading = {
        let collector = collector.clone();
        spawn(move || read_with_breaks(&with_backlog(&collector)))
    };
    lines_sent(senders);
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
        let (got, stats) = queue_with_backlog(|_| {});
        assert_eq!((got.lines.len(), got.told, stats.queue_lines_dropped), (16, 0, 0), "{got:?}");
        got.assert_gapless();
    });
}

#[test]
fn what_is_evicted_before_a_queue_that_is_behind_is_told() {
    explore(|| {
        let (got, stats) = queue_with_backlog(|config| config.history_bytes = 1_500);
        assert_eq!(got.told, stats.queue_lines_dropped, "{got:?}");
    });
}

/// Looks at the machine until its end.
fn look(collector: &LogCollector, start: &ViewStart) -> Got {
    let mut view = MachineView::new(collector, "m", start, |_| true);
    let mut got = Got::default();
    loop {
        match view.step() {
            Some(Seen::Lines(lines)) => lines.entries().for_each(|entry| got.note(&entry)),
            Some(Seen::Skipped(lines)) => got.told += lines.expect("in one process it is known"),
            Some(Seen::Past) => unreachable!("there is no spool"),
            None if view.ended().is_some() => return got,
            None => block_on(view.changed()),
        }
    }
}

fn looked_at(start: ViewStart, history_bytes: usize) -> Got {
    let collector = collector(|config| config.history_bytes = history_bytes);
    let senders = [0, 1].map(|number| sender(&collector, "m", number, 4));
    let looking = [start, BACKLOG].map(|start| {
        let collector = collector.clone();
        spawn(move || look(&collector, &start))
    });
    lines_sent(senders);
    collector.finish("m");
    let [got, whole] = looking.map(|looking| looking.join().unwrap());
    for got in [&got, &whole] {
        got.assert_once();
        got.assert_in_order();
    }
    assert_settled(collector);
    assert!(whole.total() <= 16, "{whole:?}");
    got
}

#[test]
fn who_looks_at_a_machine_sees_every_line_once_and_in_order() {
    explore(|| {
        let got = looked_at(BACKLOG, 1 << 18);
        assert_eq!((got.lines.len(), got.told), (16, 0), "{got:?}");
        got.assert_gapless();
    });
}

#[test]
fn who_looks_at_a_machine_from_now_on_misses_nothing_from_then_on() {
    explore(|| looked_at(ViewStart::default(), 1 << 18).assert_gapless());
}

#[test]
fn who_looks_at_a_machine_too_slowly_is_told_how_much_was_evicted() {
    explore(|| drop(looked_at(BACKLOG, 1_500)));
}

/// Looks at all machines until the shutdown. A machine's own numbers ascend without a gap, but for what was skipped.
fn look_at_all(collector: &LogCollector, start: &ViewStart) -> Got {
    let mut fleet = collector.fleet_from(start);
    let (mut got, mut seqs) = (Got::default(), HashMap::<String, u64>::new());
    while let Some(batch) = block_on(fleet.next()) {
        got.told += batch.skipped_before();
        for entry in batch.entries() {
            got.note(&entry);
            let seq = entry.machine_seq().unwrap();
            let before = seqs.insert(entry.machine_id().to_owned(), seq);
            let follows = |before| if got.told == 0 { seq == before + 1 } else { seq > before };
            assert!(before.is_none_or(follows), "{} of {}", seq, entry.machine_id());
        }
    }
    got
}

fn all_looked_at(start: ViewStart, history_bytes: usize) -> Got {
    let collector = collector(|config| config.history_bytes = history_bytes);
    let senders = [("m", 0), ("n", 1), ("m", 2)].map(|(machine, number)| sender(&collector, machine, number, 3));
    let looking = {
        let collector = collector.clone();
        spawn(move || look_at_all(&collector, &start))
    };
    lines_sent(senders);
    collector.shut_down();
    let got = looking.join().unwrap();
    got.assert_once();
    got.assert_in_order();
    assert_settled(collector);
    got
}

#[test]
fn who_looks_at_all_sees_every_line_once_and_in_order() {
    explore(|| {
        let got = all_looked_at(BACKLOG, 1 << 18);
        assert_eq!((got.lines.len(), got.told), (18, 0), "{got:?}");
    });
}

#[test]
fn who_looks_at_all_from_now_on_misses_nothing_from_then_on() {
    explore(|| {
        let got = all_looked_at(ViewStart::default(), 1 << 18);
        assert_eq!(got.told, 0);
        got.assert_gapless();
    });
}

#[test]
fn who_looks_at_all_too_slowly_is_told_how_much_was_evicted() {
    explore(|| drop(all_looked_at(BACKLOG, 1_500)));
}

/// The table has room for one machine: each line of another has the first forgotten, while bodies for it are on their way.
#[test]
fn a_machine_that_is_forgotten_while_a_body_of_it_is_on_its_way_is_remembered_again() {
    explore(|| {
        let collector = collector(|config| config.machines.max = 1);
        let senders = [("m", 0), ("n", 1), ("m", 2)].map(|(machine, number)| sender(&collector, machine, number, 2));
        let looking = {
            let collector = collector.clone();
            spawn(move || look(&collector, &ViewStart::default()))
        };
        lines_sent(senders);
        collector.shut_down();
        let got = looking.join().unwrap();
        got.assert_once();
        got.assert_in_order();
        let machines = collector.all_machine_facts().len();
        let stats = assert_settled(collector);
        assert_eq!((stats.lines_received, stats.machines as usize), (12, machines));
    });
}
