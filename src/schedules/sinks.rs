//! A sink's end of the collector: it takes batches, settles them, hands over to another end, and goes.

use super::*;
use crate::collector::outlet::{Outlet, OutletFull, OutletTerms};

fn terms(full: OutletFull, bytes_max: usize) -> OutletTerms {
    OutletTerms { name: "store".into(), filter: None, full, bytes_max, is_awaited: false }
}

/// Tells that what was taken has arrived.
fn settle(outlet: &Outlet, taken: &crate::collector::outlet::Taken, got: &mut Got) {
    taken.run.entries().for_each(|entry| got.note(&entry));
    outlet.state().delivered(taken.run.rows.len() as u64);
    outlet.state().done(taken.number);
}

/// Takes until `lines` are settled or the collector has shut down. Now and then another end takes over, from the first that is not
/// settled.
fn deliver(mut outlet: Outlet, terms: &OutletTerms, lines: u64) -> (Outlet, Got) {
    let mut got = Got::default();
    while got.total() < lines {
        let Some(taken) = block_on(outlet.next()) else { break };
        match thread_rng().gen_range(0..4) {
            // What is under way comes again.
            0 => outlet = outlet.handed_over(terms.clone()),
            // All up to this one is settled by one word.
            1 => match outlet.try_next() {
                Some(next) => {
                    taken.run.entries().for_each(|entry| got.note(&entry));
                    outlet.state().delivered(taken.run.rows.len() as u64);
                    settle(&outlet, &next, &mut got);
                }
                None => settle(&outlet, &taken, &mut got),
            },
            _ => settle(&outlet, &taken, &mut got),
        }
    }
    (outlet, got)
}

/// As [`assert_settled`], and the sink's own balance.
fn assert_sink_settled(collector: LogCollector, delivered: u64, dropped: u64) {
    let sinks = collector.stats().sinks;
    for sink in &sinks {
        assert_eq!(sink.lines_in, sink.lines_delivered + sink.lines_dropped + sink.lines_in_flight, "{sink:?}");
        assert_eq!((sink.lines_delivered, sink.lines_dropped), (delivered, dropped), "{sink:?}");
    }
    let budget = Arc::clone(collector.budget());
    drop(collector);
    assert_eq!(budget.used(), 0, "nothing leaks");
}

#[test]
fn a_sink_is_woken_by_every_batch_and_hands_over_what_it_has_not_settled() {
    explore(|| {
        let collector = collector(|_| {});
        let terms = terms(OutletFull::DropNewest, 1 << 18);
        let outlet = collector.add_outlet(terms.clone());
        let delivering = spawn(move || deliver(outlet, &terms, 16));
        for sender in [0, 1].map(|number| sender(&collector, "m", number, 4)) {
            assert_eq!(sender.join().unwrap(), 8);
        }
        let (outlet, got) = delivering.join().unwrap();
        got.assert_once();
        got.assert_in_order();
        assert_eq!(got.lines.len(), 16);
        collector.shut_down();
        drop(outlet);
        assert_sink_settled(collector, 16, 0);
    });
}

#[test]
fn a_sink_that_blocks_lets_in_what_it_has_settled_room_for() {
    explore(|| {
        let collector = collector(|_| {});
        // Of one body at a time.
        let terms = terms(OutletFull::Block, 1);
        let outlet = collector.add_outlet(terms.clone());
        let senders = [0, 1].map(|number| sender(&collector, "m", number, 3));
        let (outlet, got) = spawn(move || deliver(outlet, &terms, 12)).join().unwrap();
        for sender in senders {
            assert_eq!(sender.join().unwrap(), 6);
        }
        got.assert_once();
        got.assert_in_order();
        assert_eq!(got.lines.len(), 12);
        collector.shut_down();
        drop(outlet);
        assert_sink_settled(collector, 12, 0);
    });
}

#[test]
fn a_sink_that_goes_refuses_nobody_any_more_and_what_it_leaves_is_on_record() {
    explore(|| {
        let collector = collector(|_| {});
        let terms = terms(OutletFull::Block, 1);
        let outlet = collector.add_outlet(terms.clone());
        let senders = [0, 1].map(|number| sender(&collector, "m", number, 3));
        let most = thread_rng().gen_range(0..8);
        let delivering = spawn(move || deliver(outlet, &terms, most).1);
        let accepted: u64 = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
        let got = delivering.join().unwrap();
        got.assert_once();
        got.assert_in_order();
        let lost: u64 = collector.losses(None, None).entries.iter().filter_map(|loss| loss.lines).sum();
        assert_eq!(got.total() + lost, accepted, "{got:?}");
        assert_sink_settled(collector, 0, 0);
    });
}

#[test]
fn what_is_taken_before_the_shutdown_comes_to_the_sink_before_the_end() {
    explore(|| {
        let collector = collector(|_| {});
        let terms = terms(OutletFull::DropNewest, 1 << 18);
        let outlet = collector.add_outlet(terms.clone());
        let sending = sender_until_refused(&collector);
        let delivering = spawn(move || deliver(outlet, &terms, u64::MAX));
        yield_now();
        collector.shut_down();
        let (taken, (outlet, got)) = (sending.join().unwrap(), delivering.join().unwrap());
        assert_eq!(got.lines.len() as u32, taken);
        drop(outlet);
        assert_sink_settled(collector, u64::from(taken), 0);
    });
}
