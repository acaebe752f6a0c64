//! What is told of a line: everything that can become of one in a queue, in memory and on the disk.

use futures_util::FutureExt;
use serde_json::Value;

use super::*;
use crate::{
    config::Full,
    stream::{LogStream, view::ViewStart},
};

/// Every id, by message, as `tail` tells it from the history.
fn ids(collector: &LogCollector) -> Vec<(String, EntryId)> {
    let mut fleet = collector.fleet_from(&ViewStart { backlog: true, ..ViewStart::default() });
    let mut ids = Vec::new();
    while let Some(Some(batch)) = fleet.next().now_or_never() {
        ids.extend(batch.entries().map(|entry| (entry.message().to_owned(), entry.id().unwrap())));
    }
    ids
}

fn id(collector: &LogCollector, message: &str) -> EntryId {
    ids(collector).into_iter().find(|(text, _)| text == message).expect("it is held").1
}

fn told(collector: &LogCollector, id: EntryId) -> Value {
    serde_json::to_value(collector.explain(id).unwrap()).unwrap()
}

/// State and reason in the only queue.
#[track_caller]
fn in_queue(collector: &LogCollector, id: EntryId) -> (String, Option<String>) {
    let told = told(collector, id);
    let queues = told["queues"].as_array().unwrap();
    assert_eq!(queues.len(), 1, "{told}");
    let text = |key: &str| queues[0][key].as_str().map(str::to_owned);
    (text("state").unwrap(), text("reason"))
}

fn state(state: &str) -> (String, Option<String>) {
    (state.to_owned(), None)
}

fn dropped(state: &str, reason: &str) -> (String, Option<String>) {
    (state.to_owned(), Some(reason.to_owned()))
}

async fn take(stream: &mut LogStream, lines: usize) {
    for _ in 0..lines {
        stream.next().await.unwrap();
    }
}

#[tokio::test]
async fn a_line_is_before_its_queue_then_queued_then_delivered() {
    let collector = small(|_| {});
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    let nobody = told(&collector, id(&collector, "0"));
    assert_eq!((&nobody["queues"], &nobody["state"]), (&serde_json::json!([]), &"held".into()));
    let mut stream = LogStream::new(collector.subscribe("m").unwrap());
    let _ = push_numbers(&collector, "m", 1..4).unwrap();
    let [zero, one, two, three] = ["0", "1", "2", "3"].map(|number| id(&collector, number));
    assert_eq!(in_queue(&collector, zero), state("before"));
    assert_eq!(in_queue(&collector, one), state("queued"));
    take(&mut stream, 2).await;
    assert_eq!(in_queue(&collector, one), state("handed"), "a reader may hold it still");
    assert_eq!(in_queue(&collector, three).0, "handed", "of the same batch");
    take(&mut stream, 1).await;
    assert!(stream.next().now_or_never().is_none());
    for id in [one, two, three] {
        assert_eq!(in_queue(&collector, id), state("delivered"));
    }
    let told = told(&collector, two);
    assert_eq!((&told["entry"]["message"], &told["entry"]["machine_seq"]), (&"2".into(), &3.into()));
    assert_eq!((&told["kept"]["history"], &told["kept"]["spool"]), (&true.into(), &Value::Null));
    assert_eq!((&told["limited"], &told["machine"]["state"]), (&false.into(), &"live".into()));
    collector.finish("m");
    let _ = push_numbers(&collector, "m", 4..5).unwrap();
    assert_eq!(in_queue(&collector, id(&collector, "4")), state("after"));
}

#[tokio::test]
async fn a_queue_that_wants_a_backlog_begins_with_it() {
    let collector = small(|_| {});
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    let (queue, _) =
        collector.subscribe_with("m", SubscribeOptions { backlog: true, ..SubscribeOptions::default() }).unwrap();
    assert_eq!(in_queue(&collector, id(&collector, "0")), state("behind"));
    drop(queue);
}

#[tokio::test]
async fn a_line_that_is_not_wanted_is_filtered_and_one_over_a_limit_limited() {
    let collector = small(|config| config.limit.machine.lines_per_second = 1);
    let _queue = collector.subscribe("m").unwrap();
    let _ = push(&collector, &[("m", Kind::Stderr, "error")]).unwrap();
    assert_eq!(in_queue(&collector, id(&collector, "error")), state("filtered"));
    let _ = push_numbers(&collector, "m", 0..15).unwrap();
    let ids = ids(&collector);
    let limited = ids.iter().filter(|(_, id)| in_queue(&collector, *id) == dropped("limited", "limited")).count();
    assert_eq!(limited, 5, "but for a burst of ten");
    assert_eq!(told(&collector, ids.last().unwrap().1)["limited"], true);
    assert_eq!(told(&collector, ids[1].1)["limited"], false);
}

#[tokio::test]
async fn what_a_full_queue_dropped_is_told_apart_from_what_it_delivered() {
    let collector = small(|config| config.queue.full = Full::DropOldest);
    let mut stream = LogStream::new(collector.subscribe("m").unwrap());
    let _ = push_numbers(&collector, "m", 0..4).unwrap();
    take(&mut stream, 4).await;
    assert!(stream.next().now_or_never().is_none());
    for number in 1..4 {
        let _ = push_numbers(&collector, "m", 4 * number..4 * number + 4).unwrap();
    }
    let fates: Vec<_> = ids(&collector).iter().map(|(_, id)| in_queue(&collector, *id)).collect();
    assert_eq!(fates[..4], [(); 4].map(|()| state("delivered")));
    assert_eq!(fates[4..6], [(); 2].map(|()| dropped("dropped", "queue_full")));
    assert_eq!(fates[6..], [(); 10].map(|()| state("queued")));
    let losses = told(&collector, id(&collector, "4"))["losses"].clone();
    assert_eq!((&losses[0]["reason"], &losses[0]["lines"]), (&"queue_full".into(), &2.into()));
    assert_balanced(&collector);
}

#[tokio::test]
async fn drops_that_a_queue_has_forgotten_are_told_as_the_journal_knows_them() {
    let collector = small(|config| {
        config.queue.full = Full::DropOldest;
        config.queue.lines = 1;
    });
    let mut stream = LogStream::new(collector.subscribe("m").unwrap());
    // Each time one is dropped, and one is delivered.
    for number in 0..40 {
        let _ = push_numbers(&collector, "m", 2 * number..2 * number + 1).unwrap();
        let _ = push_numbers(&collector, "m", 2 * number + 1..2 * number + 2).unwrap();
        while let Some(event) = stream.next_event().now_or_never().flatten() {
            drop(event);
        }
    }
    let fates: Vec<_> = ids(&collector).iter().map(|(_, id)| in_queue(&collector, *id)).collect();
    assert_eq!(fates[79], state("delivered"));
    assert_eq!(fates[78], dropped("dropped", "queue_full"));
    assert_eq!(fates[1], dropped("unknown", "queue_full"), "the journal has the first and the last");
    assert_eq!(fates[0], dropped("dropped", "queue_full"), "which is the first");
}

#[tokio::test]
async fn a_line_that_the_history_evicted_is_gone_but_where_a_queue_holds_it() {
    let collector = small(|config| config.history_bytes = 1);
    let mut stream = LogStream::new(collector.subscribe("m").unwrap());
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    let zero = id(&collector, "0");
    let _ = push_numbers(&collector, "other", 1..2).unwrap();
    let held = told(&collector, zero);
    assert_eq!(
        (&held["state"], &held["kept"]["history"], &held["kept"]["queue"]),
        (&"held".into(), &false.into(), &true.into())
    );
    assert_eq!(held["entry"]["message"], "0");
    take(&mut stream, 1).await;
    assert!(stream.next().now_or_never().is_none());
    let gone = told(&collector, zero);
    assert_eq!((&gone["state"], &gone["entry"]), (&"gone".into(), &Value::Null));
    assert!(gone["why"].as_str().unwrap().contains("history.bytes"), "{gone}");
    assert_eq!(gone["machine"]["machine_id"], "m", "by the mark of its id");
    assert_eq!(in_queue(&collector, zero), state("delivered"));
}

#[test]
fn an_id_that_is_none_of_ours_is_told_so() {
    let collector = small(|_| {});
    let _ = push_numbers(&collector, "m", 0..2).unwrap();
    let real = id(&collector, "1");
    let why = |id: EntryId| collector.explain(id).unwrap_err();
    assert_eq!(why(EntryId { epoch: real.epoch ^ 1, ..real }), Unexplained::OtherProcess);
    assert_eq!(why(EntryId { epoch: real.epoch | crate::batch::SPOOLED, ..real }), Unexplained::OtherSpool);
    assert_eq!(why(EntryId { line: 2, ..real }), Unexplained::NotYet);
    assert_eq!(why(EntryId { machine: 7, ..real }), Unexplained::NoSuchLine);
    assert_eq!(why(EntryId { machine_seq: 7, ..real }), Unexplained::NoSuchLine);
}
