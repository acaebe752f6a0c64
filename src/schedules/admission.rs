//! Bodies of several machines, some of whose queues block: all of a body is taken, or nothing.

use super::*;
use crate::{SubscribeOptions, config::Full, stream::view::ViewStart};

const MACHINES: [&str; 2] = ["m", "n"];

fn blocking(collector: &LogCollector, machine: &str) -> LogQueue {
    let options = SubscribeOptions { full: Some(Full::Block), ..SubscribeOptions::default() };
    collector.subscribe_with(machine, options).unwrap().0
}

/// A thread that pushes bodies of a line for each machine, and gives each up after two refusals. Returns the numbers of those
/// that were taken.
fn fickle_sender(collector: &LogCollector, sender: u32, bodies: u32) -> JoinHandle<Vec<(u32, u32)>> {
    let collector = collector.clone();
    spawn(move || {
        let is_taken = |number: &u32| {
            let text = format!("{sender}-{number}");
            let lines = MACHINES.map(|machine| (machine, Kind::Stdout, &*text));
            (0..2).any(|_| {
                yield_now();
                push(&collector, &lines).is_ok_and(|receipt| {
                    assert_eq!(receipt.accepted, 2, "all of it has a consumer");
                    true
                })
            })
        };
        (0..bodies).filter(is_taken).map(|number| (sender, number)).collect()
    })
}

/// A thread that keeps room for a body of both machines, and then has no use for it: as where the disk then refuses it.
fn change_of_mind(collector: &LogCollector) -> JoinHandle<()> {
    let collector = collector.clone();
    spawn(move || {
        let lines = MACHINES.map(|machine| (machine, Kind::Stdout, "9-0"));
        for _ in 0..3 {
            let draft = draft(&collector, &lines, Timestamp::now()).unwrap();
            let machines = collector.machines_of(&draft.batch);
            drop(collector.reserve_queues(&draft.batch, &machines));
        }
    })
}

fn reader(queue: &LogQueue) -> JoinHandle<Got> {
    let queue = queue.clone();
    spawn(move || read_with_breaks(&queue, always))
}

#[test]
fn a_body_is_taken_whole_or_not_at_all() {
    explore(|| {
        let collector = collector(|_| {});
        let queues = MACHINES.map(|machine| blocking(&collector, machine));
        let senders = [0, 1].map(|number| fickle_sender(&collector, number, 3));
        let other = change_of_mind(&collector);
        // Only one of the queues is read meanwhile: the other soon is full.
        let reading = reader(&queues[0]);
        let mut taken: Vec<_> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
        other.join().unwrap();
        for queue in &queues {
            let probe = queue.inner().probe();
            assert_eq!(probe.reserved, (0, 0), "what was promised is given back");
            assert!(probe.lines <= 3, "{probe:?}");
        }
        // Who looks sees the same as who consumes, in every machine.
        let mut looked = Got::default();
        let mut fleet = collector.fleet_from(&ViewStart { backlog: true, ..ViewStart::default() });
        collector.shut_down();
        while let Some(batch) = block_on(fleet.next()) {
            assert_eq!((batch.len(), batch.skipped_before()), (2, 0));
            looked.note(&batch.entries().next().unwrap());
        }
        drop(fleet);
        let read = reading.join().unwrap();
        let mut left = Got::default();
        read_the_rest(&queues[1], &mut left);
        for got in [&looked, &read, &left] {
            got.assert_in_order();
            let mut lines = got.lines.clone();
            lines.sort_unstable();
            taken.sort_unstable();
            assert_eq!((lines, got.told), (taken.clone(), 0), "nothing of a body that was refused");
        }
        drop(queues);
        assert_settled(collector);
    });
}

#[test]
fn who_is_held_for_a_queue_is_woken_by_every_way_of_making_room() {
    explore(|| {
        let collector = collector(|_| {});
        let queues = MACHINES.map(|machine| blocking(&collector, machine));
        let senders = [0, 1].map(|number| {
            let collector = collector.clone();
            spawn(move || {
                let push = |body| {
                    let text = format!("{number}-{body}");
                    insist(&collector, &MACHINES.map(|machine| (machine, Kind::Stdout, &*text))).accepted
                };
                (0..3).map(push).sum::<u64>()
            })
        });
        let other = change_of_mind(&collector);
        let reading = reader(&queues[0]);
        // What is full and never read makes room when it ends.
        let finishing = {
            let collector = collector.clone();
            spawn(move || collector.finish("n"))
        };
        let accepted: u64 = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
        assert!(finishing.join().unwrap());
        other.join().unwrap();
        collector.finish("m");
        let read = reading.join().unwrap();
        let mut left = Got::default();
        read_the_rest(&queues[1], &mut left);
        read.assert_in_order();
        left.assert_in_order();
        assert_eq!((read.lines.len(), read.told, left.told), (6, 0, 0));
        assert_eq!(read.total() + left.total(), accepted);
        for queue in &queues {
            assert_eq!(queue.inner().probe().reserved, (0, 0));
        }
        drop(queues);
        assert_settled(collector);
    });
}

#[test]
fn room_in_a_queue_that_was_replaced_is_given_back_to_it() {
    explore(|| {
        let collector = collector(|_| {});
        let old = blocking(&collector, "m");
        let senders = [0, 1].map(|number| {
            let collector = collector.clone();
            let push = move |body| insist(&collector, &[("m", Kind::Stdout, &*format!("{number}-{body}"))]);
            spawn(move || (0..4).map(push).collect::<Vec<_>>())
        });
        let reopening = {
            let collector = collector.clone();
            spawn(move || {
                collector.finish("m");
                yield_now();
                blocking(&collector, "m")
            })
        };
        let new = reopening.join().unwrap();
        let reading = reader(&new);
        let receipts: Vec<_> = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
        collector.finish("m");
        let mut got = Got::default();
        read_the_rest(&old, &mut got);
        got.lines.extend(reading.join().unwrap().lines);
        got.assert_in_order();
        let accepted: u64 = receipts.iter().map(|receipt| receipt.accepted).sum();
        let unrouted: u64 = receipts.iter().map(|receipt| receipt.unrouted).sum();
        assert_eq!((got.total(), accepted + unrouted), (accepted, 8), "{got:?}");
        for queue in [&old, &new] {
            let probe = queue.inner().probe();
            assert_eq!((probe.lines, probe.bytes, probe.reserved), (0, 0, (0, 0)));
        }
        drop((old, new));
        assert_settled(collector);
    });
}

#[test]
fn what_is_taken_before_the_shutdown_comes_before_the_end() {
    explore(|| {
        let collector = collector(|config| config.queue.lines = 100);
        let queue = collector.subscribe("m").unwrap();
        let sending = sender_until_refused(&collector);
        let reading = reader(&queue);
        yield_now();
        collector.shut_down();
        let (accepted, got) = (sending.join().unwrap(), reading.join().unwrap());
        got.assert_gapless();
        assert_eq!((got.lines.len() as u32, got.told), (accepted, 0));
        drop(queue);
        assert_settled(collector);
    });
}
