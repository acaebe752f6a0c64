mod in_flight;

#[cfg(feature = "spool")]
use std::path::PathBuf;

use futures_util::FutureExt;

use super::*;
use crate::{
    admission::Cause,
    batch::{EntryId, Kind},
    collector::tests::{draft, push, push_numbers, small},
    stream::view::ViewStart,
};

fn terms(filter: Option<Filter>, full: OutletFull, bytes_max: usize) -> OutletTerms {
    OutletTerms { name: "store".into(), filter, full, bytes_max, is_awaited: false }
}

fn stderr_only() -> Option<Filter> {
    Some(Filter { streams: vec!["stderr".into()], ..Filter::default() })
}

/// As [`check_balance`], and that what is in flight waits or was taken, where nothing of it was told in part.
#[track_caller]
fn check(collector: &LogCollector) -> SinkStats {
    let sink = check_balance(collector);
    assert_eq!(sink.lines_in_flight, in_flight::held(collector, &collector.outlets()[0]), "{sink:?}");
    sink
}

/// Both balances, and that every dropped line is on record.
#[track_caller]
fn check_balance(collector: &LogCollector) -> SinkStats {
    let stats = collector.stats();
    let fates = stats.lines_accepted + stats.lines_filtered + stats.lines_unrouted + stats.lines_rejected;
    assert_eq!(stats.lines_received, fates, "{stats:?}");
    let lost: u64 = collector.losses(None, None).entries.iter().filter_map(|loss| loss.lines).sum();
    let sink = stats.sinks.first().cloned().expect("there is a sink");
    assert_eq!(sink.lines_in, sink.lines_delivered + sink.lines_dropped + sink.lines_in_flight, "{sink:?}");
    assert_eq!(lost, stats.queue_lines_dropped + sink.lines_dropped, "{stats:?}");
    sink
}

fn messages(taken: &Taken) -> Vec<String> {
    taken.run.entries().map(|entry| entry.message().to_owned()).collect()
}

fn settle(outlet: &Outlet, taken: &Taken) {
    outlet.state().delivered(taken.run.rows.len() as u64);
    outlet.state().done(taken.number);
}

#[test]
fn every_line_has_its_fate_by_what_queues_and_sinks_want() {
    let lines =
        [("m", Kind::Stdout, "a"), ("m", Kind::Stderr, "b"), ("n", Kind::Stdout, "c"), ("n", Kind::Stderr, "d")];
    let collector = small(|_| {});
    let mut outlet = collector.add_outlet(terms(stderr_only(), OutletFull::DropNewest, 1 << 20));
    let _queue = collector.subscribe("m").unwrap();
    let receipt = push(&collector, &lines).unwrap();
    assert_eq!((receipt.accepted, receipt.filtered, receipt.unrouted), (3, 1, 0));
    assert_eq!(collector.stats().queue_lines_in, 1, "queues count their own");
    let taken = outlet.try_next().unwrap();
    assert_eq!(messages(&taken), ["b", "d"]);
    assert_eq!(check(&collector).lines_in_flight, 2);
    settle(&outlet, &taken);
    let sink = check(&collector);
    assert_eq!((sink.lines_in, sink.lines_filtered, sink.lines_delivered, sink.lag_seconds), (2, 2, 2, 0.0));
    drop(outlet);
    let receipt = push(&collector, &lines).unwrap();
    assert_eq!((receipt.accepted, receipt.filtered, receipt.unrouted), (1, 1, 2), "it is a consumer no longer");
    let _whole = collector.add_outlet(terms(None, OutletFull::DropNewest, 1 << 20));
    assert_eq!(push(&collector, &lines).unwrap().accepted, 4);
}

#[test]
fn a_dead_sink_that_drops_refuses_nobody_and_its_losses_are_on_record() {
    let collector = small(|_| {});
    let outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1));
    for number in 0..200 {
        assert_eq!(push_numbers(&collector, "m", number * 10..number * 10 + 10).unwrap().accepted, 10);
    }
    let sink = check(&collector);
    assert_eq!((sink.lines_in, sink.lines_dropped, sink.lines_in_flight), (2000, 1990, 10));
    let losses = collector.losses(None, Some("m")).entries;
    assert!(losses.iter().all(|loss| loss.place == "sink:store" && loss.reason == "queue_full"), "{losses:?}");
    collector.shut_down();
    drop(outlet);
    assert_eq!(collector.drop_what_is_left(), 10, "what a sink in memory has not settled is lost at the end");
    assert_eq!(check(&collector).lines_in_flight, 0);
}

#[tokio::test]
async fn a_sink_that_blocks_refuses_until_what_was_taken_is_settled() {
    let collector = small(|_| {});
    let mut outlet = collector.add_outlet(terms(None, OutletFull::Block, 1));
    let _ = push_numbers(&collector, "m", 0..5).unwrap();
    assert_eq!(push_numbers(&collector, "m", 5..6), Err(Cause::SinkFull));
    let taken = outlet.next().await.unwrap();
    assert_eq!(push_numbers(&collector, "m", 5..6), Err(Cause::SinkFull), "what is under way counts");
    let mut room = collector.budget().room();
    room.enable();
    settle(&outlet, &taken);
    assert!(room.wait().now_or_never().is_some(), "who is held hears of it");
    drop(taken);
    let _ = push_numbers(&collector, "m", 5..6).unwrap();
    assert_eq!(check(&collector).lines_in_flight, 1);
    collector.shut_down();
    let taken = outlet.next().await.unwrap();
    settle(&outlet, &taken);
    assert!(outlet.next().await.is_none());
    assert_eq!(collector.drop_what_is_left(), 0);
}

#[test]
fn a_sink_that_blocks_keeps_room_for_a_body_that_is_being_admitted_and_gets_it_back() {
    let collector = small(|_| {});
    let _outlet = collector.add_outlet(terms(None, OutletFull::Block, 1));
    let draft = draft(&collector, &[("m", Kind::Stdout, "0")], Timestamp::now()).unwrap();
    let wants = collector.shared.outlets.wants(&draft.batch, false).unwrap();
    assert_eq!(
        push_numbers(&collector, "m", 1..2),
        Err(Cause::SinkFull),
        "two bodies would be over the bound together"
    );
    let mut room = collector.budget().room();
    room.enable();
    drop(wants);
    assert!(room.wait().now_or_never().is_some(), "who is held hears of it");
    let _ = push_numbers(&collector, "m", 1..2).unwrap();
    assert_eq!(check(&collector).lines_in, 1, "nothing came of the first");
}

#[test]
fn what_is_over_a_limit_is_not_for_sinks_whether_there_is_a_queue_or_not() {
    for is_subscribed in [true, false] {
        let collector = small(|config| config.limit.machine.lines_per_second = 1);
        let _queue = is_subscribed.then(|| collector.subscribe("m").unwrap());
        let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1 << 20));
        let _ = push_numbers(&collector, "m", 0..15).unwrap();
        let taken = outlet.try_next().unwrap();
        assert_eq!(taken.run.rows.len(), 10);
        settle(&outlet, &taken);
        assert_eq!(outlet.state().stats().lines_dropped_by_reason["limited"], 5);
        check(&collector);
    }
}

#[test]
fn what_nobody_wants_is_not_paid_for_by_a_limit() {
    let collector = small(|config| config.limit.machine.lines_per_second = 1);
    let mut outlet = collector.add_outlet(terms(stderr_only(), OutletFull::DropNewest, 1 << 20));
    let lines = |kind| [("m", kind, "x"); 10];
    for _ in 0..3 {
        let _ = push(&collector, &lines(Kind::Stdout)).unwrap();
    }
    let _ = push(&collector, &lines(Kind::Stderr)).unwrap();
    assert_eq!(outlet.try_next().unwrap().run.rows.len(), 10);

    // Also where they stand among each other, and among those of other machines.
    let mixed = [("other", Kind::Stdout, "x"), ("another", Kind::Stderr, "x"), ("other", Kind::Stderr, "x")].repeat(10);
    let _ = push(&collector, &mixed).unwrap();
    assert_eq!(outlet.try_next().unwrap().run.rows.len(), 20);
}

/// Bodies whose answers wait for sinks.
mod awaited {
    use tokio::sync::oneshot::{Receiver, error::TryRecvError};

    use super::*;
    use crate::{
        admission::{Ack, Admission, Committed, Draft},
        collector::tests::draft,
    };

    fn asked(collector: &LogCollector, name: &str, stream: Option<&str>) -> Outlet {
        let filter = stream.map(|stream| Filter { streams: vec![stream.into()], ..Filter::default() });
        let terms = terms(filter, OutletFull::DropNewest, 1 << 20);
        collector.add_outlet(OutletTerms { name: name.into(), is_awaited: true, ..terms })
    }

    fn admit(collector: &LogCollector, lines: &[(&str, Kind, &str)]) -> Committed {
        let draft = Draft { asks_sinks: true, ..draft(collector, lines, Timestamp::now()).unwrap() };
        match collector.admit(draft).unwrap() {
            Admission::Taken(committed) => committed,
            Admission::Writing(_) => unreachable!("there is no spool"),
        }
    }

    fn waiting(collector: &LogCollector, lines: &[(&str, Kind, &str)]) -> Receiver<crate::admission::Receipt> {
        admit(collector, lines).by_sinks.expect("a sink was asked")
    }

    const BOTH: [(&str, Kind, &str); 2] = [("m", Kind::Stdout, "a"), ("n", Kind::Stderr, "b")];

    #[test]
    fn a_body_is_acknowledged_when_every_sink_that_was_asked_has_settled_it() {
        let collector = small(|_| {});
        let (mut out, mut err) = (asked(&collector, "out", Some("stdout")), asked(&collector, "err", Some("stderr")));
        let mut first = waiting(&collector, &BOTH);
        let mut second = waiting(&collector, &BOTH);
        let taken = [out.try_next().unwrap(), out.try_next().unwrap()];
        settle(&out, &taken[0]);
        assert_eq!(first.try_recv(), Err(TryRecvError::Empty), "the other has not");
        let taken_err = err.try_next().unwrap();
        settle(&err, &taken_err);
        assert_eq!(first.try_recv().unwrap().ack, Ack::Sink);
        assert_eq!(second.try_recv(), Err(TryRecvError::Empty));
        settle(&out, &taken[1]);
        let taken_err = err.try_next().unwrap();
        settle(&err, &taken_err);
        assert_eq!(second.try_recv().unwrap().ack, Ack::Sink);
    }

    #[test]
    fn who_sends_what_no_asked_sink_wants_does_not_wait() {
        let collector = small(|_| {});
        let _err = asked(&collector, "err", Some("stderr"));
        let committed = admit(&collector, &[("m", Kind::Stdout, "a")]);
        assert!(committed.by_sinks.is_none());
        assert_eq!((committed.receipt.filtered, committed.receipt.ack), (1, Ack::Memory));
    }

    #[test]
    fn who_does_not_ask_does_not_wait() {
        let collector = small(|_| {});
        let outlet = asked(&collector, "whole", None);
        let admission = collector.admit(draft(&collector, &BOTH, Timestamp::now()).unwrap()).unwrap();
        let Admission::Taken(committed) = admission else { unreachable!("there is no spool") };
        assert!(committed.by_sinks.is_none());
        assert_eq!(outlet.state().inner.lock().awaiting.len(), 0, "nothing is kept for nobody");
    }

    #[test]
    fn an_answer_is_worth_what_its_weakest_line_is() {
        let collector = small(|_| {});
        let mut err = asked(&collector, "err", Some("stderr"));
        let _queue = collector.subscribe("m").unwrap();
        let mut partly = waiting(&collector, &BOTH);
        let taken = err.try_next().unwrap();
        settle(&err, &taken);
        assert_eq!(partly.try_recv().unwrap().ack, Ack::Memory, "a queue alone has the line on stdout");
        let mut buried = waiting(&collector, &BOTH[1..]);
        let taken = err.try_next().unwrap();
        err.state().dropped(SinkReason::DeadLetter, &taken.run);
        err.state().done(taken.number);
        assert_eq!(buried.try_recv().unwrap().ack, Ack::Memory, "the store has not taken it");
    }

    #[test]
    fn sinks_that_change_while_a_body_comes_in_are_not_said_to_have_it() {
        let collector = small(|_| {});
        let whole = asked(&collector, "whole", None);
        let draft = draft(&collector, &BOTH, Timestamp::now()).unwrap();
        let outlets = &collector.shared.outlets;
        let mut wants = outlets.wants(&draft.batch, true).unwrap();
        let awaited = Arc::clone(wants.awaited().unwrap());
        drop(whole);
        assert!(!wants.is_current(outlets));
        wants.renew(outlets, &draft.batch);
        let (tell, mut told) = tokio::sync::oneshot::channel();
        awaited.then(|is_whole| tell.send(is_whole).unwrap());
        assert_eq!(told.try_recv(), Ok(false));
    }

    #[test]
    fn who_waits_for_a_sink_that_goes_is_told_what_holds_without_it() {
        let collector = small(|_| {});
        let err = asked(&collector, "err", Some("stderr"));
        let mut lost = waiting(&collector, &BOTH[1..]);
        drop(err);
        assert_eq!(lost.try_recv().unwrap().ack, Ack::Memory);
        let err = asked(&collector, "err", Some("stderr"));
        let mut left = waiting(&collector, &BOTH[1..]);
        collector.shut_down();
        drop(err);
        assert_eq!(collector.drop_what_is_left(), 1, "what went with the first was told then");
        assert_eq!(left.try_recv(), Err(TryRecvError::Closed));
    }
}

#[test]
fn an_end_that_takes_anothers_place_has_what_that_had_not_settled() {
    let collector = small(|_| {});
    let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1 << 20));
    (0..5).for_each(|body| drop(push_numbers(&collector, "m", body * 10..body * 10 + 10).unwrap()));
    let first = outlet.try_next().unwrap();
    settle(&outlet, &first);
    let second = outlet.try_next().unwrap();
    outlet.state().delivered(4);
    let mut outlet = outlet.handed_over(terms(stderr_only(), OutletFull::Block, 1 << 20));
    let sink = check(&collector);
    assert_eq!((sink.lines_in, sink.lines_delivered, sink.lines_in_flight), (54, 14, 40), "four come twice");
    assert_eq!(push_numbers(&collector, "m", 50..60).unwrap().accepted, 0, "another filter");
    let again: Vec<Taken> = std::iter::from_fn(|| outlet.try_next()).collect();
    assert_eq!((again.len(), messages(&again[0])), (4, messages(&second)));
    again.iter().for_each(|taken| settle(&outlet, taken));
    let sink = check(&collector);
    assert_eq!((sink.lines_in, sink.lines_delivered, sink.lines_dropped, sink.lines_filtered), (54, 54, 0, 10));
}

#[test]
fn an_end_that_goes_may_take_what_it_has_and_its_counters_wait_for_its_return() {
    let collector = small(|_| {});
    let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1 << 20));
    (0..3).for_each(|body| drop(push_numbers(&collector, "m", body * 10..body * 10 + 10).unwrap()));
    collector.retire_outlet("store");
    assert_eq!(push_numbers(&collector, "m", 30..40).unwrap().unrouted, 10, "it is a consumer no longer");
    let taken = outlet.try_next().unwrap();
    settle(&outlet, &taken);
    assert_eq!(check(&collector).lines_in_flight, 20, "it is told of until it is gone");
    drop(outlet);
    assert!(collector.stats().sinks.is_empty());
    let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1 << 20));
    let sink = check(&collector);
    assert_eq!((sink.lines_in, sink.lines_delivered, sink.lines_dropped), (30, 10, 20));
    let _ = push_numbers(&collector, "m", 40..45).unwrap();
    let taken = outlet.try_next().unwrap();
    settle(&outlet, &taken);
    assert_eq!((check(&collector).lines_in, check(&collector).lines_delivered), (35, 15));
}

/// State and reason of a line at the only sink.
#[track_caller]
fn fate(collector: &LogCollector, id: EntryId) -> (String, Option<String>) {
    let told = serde_json::to_value(collector.explain(id).unwrap()).unwrap();
    let text = |key: &str| told["sinks"][0][key].as_str().map(str::to_owned);
    (text("state").unwrap(), text("reason"))
}

/// Every id that is held.
fn ids(collector: &LogCollector) -> Vec<EntryId> {
    let mut fleet = collector.fleet_from(&ViewStart { backlog: true, ..ViewStart::default() });
    let batches = std::iter::from_fn(|| fleet.next().now_or_never().flatten());
    batches.flat_map(|batch| batch.entries().map(|entry| entry.id().unwrap()).collect::<Vec<_>>()).collect()
}

#[test]
fn a_line_at_a_sink_is_explained_from_before_it_to_its_delivery() {
    let collector = small(|config| config.limit.machine.lines_per_second = 1);
    let _queue = collector.subscribe("m").unwrap();
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    let filter = Filter { exclude: Some(crate::filter::pattern("^1$").unwrap()), ..Filter::default() };
    let mut outlet = collector.add_outlet(terms(Some(filter), OutletFull::DropNewest, 1 << 20));
    let _ = push_numbers(&collector, "m", 1..15).unwrap();
    let state = |at: usize| fate(&collector, ids(&collector)[at]).0;
    assert_eq!([state(0), state(1), state(2), state(14)], ["before", "filtered", "waiting", "limited"]);
    let taken = outlet.try_next().unwrap();
    assert_eq!(state(2), "in_flight");
    settle(&outlet, &taken);
    assert_eq!([state(2), state(14)], ["delivered", "limited"]);
}

#[test]
fn a_line_that_a_sink_dropped_is_explained_with_its_reason() {
    let collector = small(|_| {});
    let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1));
    for number in 0..3 {
        let _ = push_numbers(&collector, "m", number..number + 1).unwrap();
    }
    let all = ids(&collector);
    assert_eq!(fate(&collector, all[2]), ("dropped".into(), Some("queue_full".into())));
    let taken = outlet.try_next().unwrap();
    outlet.state().dropped(SinkReason::DeadLetter, &taken.run);
    outlet.state().done(taken.number);
    assert_eq!(fate(&collector, all[0]), ("dropped".into(), Some("dead_letter".into())));
}

#[cfg(feature = "spool")]
mod spooled {
    use super::*;
    use crate::{
        collector::CollectorConfig,
        spool::{Bounds, Full},
    };

    pub(super) struct Dir(PathBuf);

    impl Dir {
        pub(super) fn new() -> Self {
            Self(crate::scratch::path("outlet"))
        }

        pub(super) fn open(&self, bounds: Bounds) -> LogCollector {
            let config = CollectorConfig { budget_bytes: 64 << 20, history_bytes: 4_000, ..CollectorConfig::default() };
            LogCollector::with_spool(config, &self.0, bounds).unwrap()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn body(number: u32, pad: usize) -> String {
        let record = |stream| {
            let pad = "x".repeat(pad);
            format!(
                "{{\"instance\":\"m\",\"stream\":\"{stream}\",\"message\":\"{stream}{number}\",\"pad\":\"{pad}\"}}\n"
            )
        };
        record("stdout") + &record("stderr")
    }

    async fn drain(outlet: &mut Outlet) -> Vec<String> {
        let mut all = Vec::new();
        while outlet.state().stats().lines_in_flight > 0 {
            let taken = outlet.next().await.unwrap();
            all.extend(messages(&taken));
            settle(outlet, &taken);
        }
        all
    }

    #[tokio::test]
    async fn a_sink_goes_on_after_a_restart_where_it_had_settled_everything() {
        let dir = Dir::new();
        let collector = dir.open(Bounds::new(1 << 30));
        let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1));
        (0..40).for_each(|number| drop(collector.push(body(number, 0)).unwrap()));
        for _ in 0..10 {
            let taken = outlet.next().await.unwrap();
            settle(&outlet, &taken);
        }
        // Under way, and not settled.
        let _taken = outlet.next().await.unwrap();
        assert_eq!(check(&collector).lines_in_flight, 60);
        collector.shut_down();
        drop(outlet);
        assert_eq!(collector.drop_what_is_left(), 0);
        collector.close_spool();
        drop(collector);
        let collector = dir.open(Bounds::new(1 << 30));
        let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1));
        assert_eq!(check(&collector).lines_in, 60, "what is unsent counts from the start");
        let _ = collector.push(body(40, 0)).unwrap();
        let all = drain(&mut outlet).await;
        let expected: Vec<_> =
            (10..41).flat_map(|number| ["stdout", "stderr"].map(|s| format!("{s}{number}"))).collect();
        assert_eq!(all, expected);
        check(&collector);
        let rewound = outlet.state().rewind(Timestamp::UNIX_EPOCH, true).unwrap();
        assert_eq!((rewound.lines, check(&collector).lines_in), (82, 62), "a dry run changes nothing");
        let _ = outlet.state().rewind(Timestamp::UNIX_EPOCH, false).unwrap();
        assert_eq!(drain(&mut outlet).await.len(), 82);
        check(&collector);
        collector.forget_sinks_but(&[]);
        assert_eq!(collector.spool().unwrap().cursors(), []);
        collector.close_spool();
    }

    #[tokio::test]
    async fn where_a_sink_began_outlives_a_restart_and_a_rewind_moves_it() {
        let dir = Dir::new();
        let collector = dir.open(Bounds::new(1 << 30));
        let _ = collector.push(body(0, 0)).unwrap();
        let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1));
        (1..4).for_each(|number| drop(collector.push(body(number, 0)).unwrap()));
        let all = ids(&collector);
        assert_eq!([0, 1, 2].map(|at| fate(&collector, all[at]).0), ["before", "before", "waiting"]);
        let taken = outlet.try_next().unwrap();
        settle(&outlet, &taken);
        collector.shut_down();
        drop(outlet);
        collector.close_spool();
        drop(collector);
        let collector = dir.open(Bounds::new(1 << 30));
        let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1));
        assert_eq!([0, 1, 4].map(|at| fate(&collector, all[at]).0), ["before", "before", "waiting"]);
        drain(&mut outlet).await;
        assert_eq!([1, 4, 7].map(|at| fate(&collector, all[at]).0), ["before", "delivered", "delivered"]);
        let _ = outlet.state().rewind(Timestamp::UNIX_EPOCH, false).unwrap();
        assert_eq!(fate(&collector, all[0]).0, "waiting");
        drain(&mut outlet).await;
        assert_eq!(fate(&collector, all[0]).0, "delivered");
        collector.close_spool();
    }

    #[tokio::test]
    async fn a_filter_is_asked_again_of_what_is_read_from_the_disk() {
        let dir = Dir::new();
        let collector = dir.open(Bounds::new(1 << 30));
        let outlet = collector.add_outlet(terms(stderr_only(), OutletFull::DropNewest, 1));
        (0..40).for_each(|number| drop(collector.push(body(number, 0)).unwrap()));
        assert_eq!((check(&collector).lines_in, check(&collector).lines_filtered), (40, 40));
        collector.shut_down();
        drop(outlet);
        collector.close_spool();
        drop(collector);
        let collector = dir.open(Bounds::new(1 << 30));
        let mut outlet = collector.add_outlet(terms(stderr_only(), OutletFull::DropNewest, 1));
        for number in 0..40 {
            let taken = outlet.next().await.unwrap();
            assert_eq!(messages(&taken), [format!("stderr{number}")]);
            settle(&outlet, &taken);
            check(&collector);
        }
        assert_eq!(check(&collector).lines_delivered, 40);
        collector.close_spool();
    }

    #[tokio::test]
    async fn a_slow_sink_holds_the_spool_back_or_loses_what_it_drops() {
        for (full, filter) in [(Full::Refuse, None), (Full::DropOldest, None), (Full::DropOldest, stderr_only())] {
            let dir = Dir::new();
            let collector = dir.open(Bounds { full, segment_bytes: 64 << 10, ..Bounds::new(256 << 10) });
            let mut outlet = collector.add_outlet(terms(filter, OutletFull::DropNewest, 1));
            let taken = (0..200).take_while(|number| collector.push(body(*number, 2_000)).is_ok()).count() as u64;
            assert_eq!(taken == 200, full == Full::DropOldest, "{taken}");
            assert!(collector.spool().unwrap().counted().unsent_bytes > 0);
            let read = drain(&mut outlet).await.len() as u64;
            let sink = check(&collector);
            let wanted = if sink.lines_filtered > 0 { taken } else { 2 * taken };
            assert_eq!((sink.lines_in, sink.lines_delivered, sink.lines_in_flight), (wanted, read, 0));
            assert_eq!(sink.lines_dropped > 0, full == Full::DropOldest, "{sink:?}");
            assert_eq!(sink.lines_dropped, sink.lines_dropped_by_reason["queue_full"]);
            collector.close_spool();
        }
    }

    #[tokio::test]
    async fn a_sink_that_goes_takes_nothing_that_it_was_not_offered() {
        let dir = Dir::new();
        let collector = dir.open(Bounds::new(1 << 30));
        let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1));
        (0..2).for_each(|number| drop(collector.push(body(number, 0)).unwrap()));
        let taken = outlet.next().await.unwrap();
        settle(&outlet, &taken);
        collector.retire_outlet("store");
        let _ = collector.push(body(2, 0)).unwrap();
        let taken = outlet.try_next().expect("it was offered before");
        settle(&outlet, &taken);
        assert!(outlet.try_next().is_none());
        let sink = check(&collector);
        assert_eq!((sink.lines_in, sink.lines_delivered), (4, 4));
        collector.close_spool();
    }

    #[test]
    fn a_sink_that_returns_misses_nothing_that_comes_meanwhile() {
        let dir = Dir::new();
        let collector = dir.open(Bounds::new(1 << 30));
        let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1));
        let _ = collector.push(body(0, 0)).unwrap();
        let taken = outlet.try_next().unwrap();
        settle(&outlet, &taken);
        drop(outlet);
        // As `add_outlet` does, with a body between its look at the disk and the publish lock.
        let start = collector.start_of("store");
        let _ = collector.push(body(1, 0)).unwrap();
        let mut tally = Tally::default();
        let publisher = collector.shared.publisher.lock();
        let source = collector.source_of(&terms(None, OutletFull::DropNewest, 1), start, None, &mut tally);
        let Source::Position(position) = source else { unreachable!("there is a spool") };
        assert_eq!((tally.in_flight(), position.line()), (2, 2));
        drop(publisher);
        collector.close_spool();
    }

    #[tokio::test]
    async fn an_end_that_takes_anothers_place_goes_on_from_its_cursor() {
        let dir = Dir::new();
        let collector = dir.open(Bounds::new(1 << 30));
        let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1));
        (0..40).for_each(|number| drop(collector.push(body(number, 0)).unwrap()));
        for _ in 0..10 {
            let taken = outlet.next().await.unwrap();
            settle(&outlet, &taken);
        }
        let _under_way = outlet.next().await.unwrap();
        let mut outlet = outlet.handed_over(terms(None, OutletFull::DropNewest, 1));
        let sink = check(&collector);
        assert_eq!((sink.lines_in, sink.lines_delivered, sink.lines_in_flight), (80, 20, 60));
        for _ in 0..10 {
            let taken = outlet.next().await.unwrap();
            settle(&outlet, &taken);
        }
        // Forty lines are counted in, of which the next end wants half.
        let mut outlet = outlet.handed_over(terms(stderr_only(), OutletFull::DropNewest, 1));
        let _ = collector.push(body(40, 0)).unwrap();
        assert_eq!(drain(&mut outlet).await.len(), 21);
        let sink = check(&collector);
        assert_eq!((sink.lines_in, sink.lines_delivered, sink.lines_dropped), (81, 61, 20));
        assert_eq!(sink.lines_dropped_by_reason["shutdown"], 20);
        collector.close_spool();
    }

    #[tokio::test]
    async fn an_end_that_is_away_holds_nothing_back_and_what_went_meanwhile_is_counted() {
        let dir = Dir::new();
        let bounds = Bounds { full: Full::Refuse, segment_bytes: 64 << 10, ..Bounds::new(256 << 10) };
        let collector = dir.open(bounds);
        let outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1));
        (0..10).for_each(|number| drop(collector.push(body(number, 2_000)).unwrap()));
        collector.retire_outlet("store");
        drop(outlet);
        // Far more than the spool holds, and nothing is refused.
        (10..300).for_each(|number| drop(collector.push(body(number, 2_000)).unwrap()));
        let mut outlet = collector.add_outlet(terms(None, OutletFull::DropNewest, 1));
        let read = drain(&mut outlet).await.len() as u64;
        let sink = check(&collector);
        assert_eq!((sink.lines_in, sink.lines_delivered + sink.lines_dropped), (600, 600));
        assert_eq!((sink.lines_delivered, sink.lines_dropped_by_reason["queue_full"]), (read, 600 - read));
        assert!(0 < read && read < 600, "{read}");
        collector.close_spool();
    }
}
