//! One machine's queue: two who send, one who reads and breaks off, one who finishes the machine.

use super::*;
use crate::{SubscribeOptions, config::Full};

fn subscribed(collector: &LogCollector, full: Full) -> LogQueue {
    let options = SubscribeOptions { full: Some(full), ..SubscribeOptions::default() };
    collector.subscribe_with("m", options).unwrap().0
}

/// A thread that looks now and then whether the queue keeps to its bound; bodies here are smaller than that.
fn observer(queue: &LogQueue, full: Full) -> JoinHandle<()> {
    let queue = Arc::clone(queue.inner());
    spawn(move || {
        for _ in 0..8 {
            let probe = queue.probe();
            // What a reader holds cannot be dropped, and so does not count there.
            let counts = if full == Full::DropOldest { probe.lines - probe.held_lines } else { probe.lines };
            assert!(counts + probe.reserved.0 <= 3, "{probe:?}");
            assert!(probe.held_lines <= probe.lines && probe.held_bytes <= probe.bytes, "{probe:?}");
            yield_now();
        }
    })
}

/// Nothing is lost or told twice, each sender's lines are in order, the bound holds, and the end comes behind what was accepted.
fn sent_read_and_finished(full: Full, change: fn(&mut CollectorConfig)) {
    let collector = collector(change);
    let queue = subscribed(&collector, full);
    let senders = [0, 1].map(|number| sender(&collector, "m", number, 3));
    let looking = observer(&queue, full);
    let reading = {
        let queue = queue.clone();
        spawn(move || read_with_breaks(&queue, always))
    };
    let finishing = {
        let collector = collector.clone();
        spawn(move || {
            // Not always among the first.
            (0..thread_rng().gen_range(0..8)).for_each(|_| yield_now());
            collector.finish("m");
        })
    };
    let accepted: u64 = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
    finishing.join().unwrap();
    looking.join().unwrap();
    let got = reading.join().unwrap();
    got.assert_once();
    got.assert_in_order();
    assert_eq!(got.total(), accepted, "{got:?}");
    let probe = queue.inner().probe();
    assert_eq!((probe.lines, probe.bytes, probe.reserved, probe.waiting, probe.behind), (0, 0, (0, 0), 0, false));
    drop(queue);
    let stats = assert_settled(collector);
    assert_eq!(stats.queue_lines_dropped, got.told);
    if got.told == 0 {
        got.assert_gapless();
    }
    assert!(
        full == Full::DropOldest || stats.history_lines < 12 || got.told == 0,
        "what the history holds is not lost"
    );
}

#[test]
fn a_queue_that_catches_up_loses_nothing() {
    explore(|| sent_read_and_finished(Full::CatchUp, |_| {}));
}

#[test]
fn a_queue_that_catches_up_tells_what_the_history_has_let_go() {
    explore(|| sent_read_and_finished(Full::CatchUp, |config| config.history_bytes = 800));
}

#[test]
fn a_queue_that_catches_up_needs_no_reserve() {
    explore(|| sent_read_and_finished(Full::CatchUp, |config| config.budget_bytes = 16_000));
}

#[test]
fn a_queue_that_blocks_refuses_until_there_is_room_and_loses_nothing() {
    explore(|| sent_read_and_finished(Full::Block, |_| {}));
}

#[test]
fn a_queue_that_drops_its_oldest_tells_how_many() {
    explore(|| sent_read_and_finished(Full::DropOldest, |_| {}));
}

/// Readers share a queue, each breaks off now and then, and one leaves for good: no line goes to two of them or to none, and who
/// stays is woken by lines alone.
fn shared(full: Full) {
    let collector = collector(|_| {});
    let queue = subscribed(&collector, full);
    let (counts, counted) = counted();
    let readers = [u64::MAX, thread_rng().gen_range(0..6)].map(|most| {
        let (queue, counts, mut left) = (queue.clone(), counts.clone(), most);
        let goes_on = move |lines| {
            left = left.saturating_sub(lines);
            counts.send(lines).unwrap();
            left > 0
        };
        spawn(move || read_with_breaks(&queue, goes_on))
    });
    let senders = [0, 1].map(|number| sender(&collector, "m", number, 2));
    let accepted: u64 = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
    wait_until_read(&counted, accepted);
    collector.finish("m");
    let mut got = Got::default();
    for reader in readers {
        let read = reader.join().unwrap();
        got.lines.extend(read.lines);
        got.told += read.told;
    }
    // What one gave back after the other had come to the end.
    read_the_rest(&queue, &mut got);
    got.assert_once();
    assert_eq!((got.total(), accepted), (8, 8), "{got:?}");
    drop(queue);
    assert_settled(collector);
}

#[test]
fn readers_that_share_a_queue_share_its_lines() {
    explore(|| shared(Full::CatchUp));
}

#[test]
fn readers_that_share_a_queue_that_blocks_make_room_for_its_senders() {
    explore(|| shared(Full::Block));
}

#[test]
fn readers_that_share_a_queue_that_drops_are_told_once() {
    explore(|| shared(Full::DropOldest));
}

/// A body of two lines for each of three readers, who leave when they have read one line or none.
#[test]
fn what_readers_give_back_is_in_order_again() {
    explore(|| {
        let collector = collector(|config| config.queue.lines = 6);
        let queue = subscribed(&collector, Full::CatchUp);
        for body in 0..3 {
            let texts = [0, 1].map(|line| format!("0-{}", body * 2 + line));
            let _ = insist(&collector, &texts.each_ref().map(|text| ("m", Kind::Stdout, &**text)));
        }
        let leaving = [0, 1, 1].map(|most| {
            let queue = queue.clone();
            spawn(move || {
                let mut stream = LogStream::new(queue);
                let mut got = Got::default();
                assert!(block_on(stream.more()));
                (0..most).for_each(|_| got.note_event(stream.ready_event().unwrap()));
                got
            })
        });
        let mut taken: Vec<_> = leaving.into_iter().flat_map(|reader| reader.join().unwrap().lines).collect();
        collector.finish("m");
        let mut got = Got::default();
        read_the_rest(&queue, &mut got);
        got.assert_in_order();
        assert_eq!(got.lines.len(), 4);
        taken.extend(got.lines);
        taken.sort_unstable();
        assert_eq!(taken, (0..6).map(|number| (0, number)).collect::<Vec<_>>());
        drop(queue);
        assert_settled(collector);
    });
}
