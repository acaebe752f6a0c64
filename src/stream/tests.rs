//! The rules of the Python module's streams, on a paused clock.

use std::{cell::RefCell, rc::Rc};

use futures_util::FutureExt;
use tokio::time::advance;

use super::*;
use crate::{
    batch::Kind,
    collector::tests::{assert_balanced, push, push_numbers, small},
    stream::view::{MachineView, Seen, ViewStart},
};

impl LogQueue {
    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn subscribed() -> (LogCollector, LogQueue) {
    let collector = small(|config| config.queue.lines = 1000);
    let queue = collector.subscribe("m").unwrap();
    (collector, queue)
}

/// Pushes one line after each of `seconds`, on its own task.
fn push_later(collector: &LogCollector, seconds: &[u64]) {
    let (collector, seconds, mut at) = (collector.clone(), seconds.to_vec(), Instant::now());
    tokio::spawn(async move {
        for (number, wait) in seconds.into_iter().enumerate() {
            at += SECOND * wait as u32;
            sleep_until(at).await;
            let _ = push_numbers(&collector, "m", number as u32..number as u32 + 1).unwrap();
        }
    });
}

fn messages(entries: &[LogEntry]) -> Vec<&str> {
    entries.iter().map(LogEntry::message).collect()
}

#[tokio::test(start_paused = true)]
async fn the_item_timeout_starts_anew_for_each_line() {
    let (collector, queue) = subscribed();
    push_later(&collector, &[4, 4, 4, 6]);
    let start = Instant::now();
    let mut stream = LogStream::new(queue).with_item_timeout(SECOND * 5);
    assert_eq!(messages(&stream.collect().await), ["0", "1", "2"]);
    assert_eq!(start.elapsed().as_secs(), 17);
    assert!(stream.done() && stream.timed_out());
    assert_eq!((stream.lines_yielded(), stream.outcome()), (3, Some(Err(Timeout::Item))));
}

#[tokio::test(start_paused = true)]
async fn the_total_timeout_runs_from_the_first_read() {
    let (collector, queue) = subscribed();
    push_later(&collector, &[12, 4, 4, 4]);
    let mut stream = LogStream::new(queue).with_total_timeout(SECOND * 10);
    advance(SECOND * 10).await;
    let start = Instant::now();
    assert_eq!(messages(&stream.collect().await), ["0", "1"]);
    assert_eq!(start.elapsed().as_secs(), 10);
    assert_eq!((stream.timed_out(), stream.outcome()), (true, Some(Err(Timeout::Total))));
}

#[tokio::test(start_paused = true)]
async fn the_nearer_timeout_counts() {
    for (item, total, expected) in [(3, 10, Timeout::Item), (10, 3, Timeout::Total)] {
        let (_collector, queue) = subscribed();
        let start = Instant::now();
        let mut stream = LogStream::new(queue).with_item_timeout(SECOND * item).with_total_timeout(SECOND * total);
        assert_eq!(stream.next().await, None);
        assert_eq!((start.elapsed().as_secs(), stream.outcome()), (3, Some(Err(expected))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_wake_for_nothing_does_not_start_the_item_timeout_anew() {
    let (collector, queue) = subscribed();
    let mut slow = LogStream::new(queue.clone()).with_item_timeout(SECOND * 5);
    let started = Instant::now();
    let slow = tokio::spawn(async move { (slow.next().await, started.elapsed()) });
    tokio::task::yield_now().await;
    for _ in 0..4 {
        advance(SECOND).await;
        let _ = push_numbers(&collector, "m", 0..1).unwrap();
        // Faster than the one that waits and is being woken.
        assert!(LogStream::new(queue.clone()).next().now_or_never().is_some());
        tokio::task::yield_now().await;
    }
    let (line, took) = slow.await.unwrap();
    assert_eq!((line, took.as_secs()), (None, 5));
}

#[tokio::test(start_paused = true)]
async fn lines_that_are_there_are_read_though_no_time_is_left_to_wait() {
    let (collector, queue) = subscribed();
    let _ = push_numbers(&collector, "m", 0..3).unwrap();
    let mut stream = LogStream::new(queue).with_item_timeout(Duration::ZERO);
    assert_eq!(messages(&stream.collect().await), ["0", "1", "2"]);
    assert!(stream.timed_out());
}

#[tokio::test(start_paused = true)]
async fn endless_timeouts_do_not_overflow() {
    let (collector, queue) = subscribed();
    let mut stream = LogStream::new(queue).with_item_timeout(Duration::MAX).with_total_timeout(Duration::MAX);
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    assert!(stream.next().await.is_some());
    assert!(stream.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn at_the_end_a_stream_is_done_again_and_again_and_has_not_timed_out() {
    let (collector, queue) = subscribed();
    let _ = push_numbers(&collector, "m", 0..2).unwrap();
    assert!(collector.finish("m"));
    let mut stream = LogStream::new(queue).with_item_timeout(SECOND).with_total_timeout(SECOND);
    assert!(!stream.done());
    assert_eq!(messages(&stream.collect().await), ["0", "1"]);
    for _ in 0..3 {
        assert_eq!(stream.next().await, None);
        assert!(stream.next_batch().await.is_none());
        advance(SECOND * 2).await;
    }
    assert!(stream.done() && !stream.timed_out());
    assert_eq!((stream.lines_yielded(), stream.outcome()), (2, Some(Ok(Ended::Finished))));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_timed_out_leaves_its_lines_to_the_next_reader() {
    let (collector, queue) = subscribed();
    let _ = push_numbers(&collector, "m", 0..3).unwrap();
    let mut stream = LogStream::new(queue.clone()).with_total_timeout(SECOND);
    assert_eq!(stream.next().await.unwrap().message(), "0");
    advance(SECOND).await;
    assert_eq!((stream.next().await, stream.timed_out()), (None, true));
    let mut next = LogStream::new(queue);
    assert_eq!(next.next().now_or_never().flatten().unwrap().message(), "1");
    assert!(stream.done());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_stream_ends_when_its_machine_is_finished() {
    let (collector, queue) = subscribed();
    let reader = tokio::spawn(async move { LogStream::new(queue).collect().await });
    tokio::task::yield_now().await;
    let _ = push_numbers(&collector, "m", 0..2).unwrap();
    assert!(collector.finish("m") && !collector.finish("never seen"));
    assert_eq!(messages(&reader.await.unwrap()), ["0", "1"]);
    assert_balanced(&collector);
}

#[tokio::test(start_paused = true)]
async fn late_lines_of_a_lingering_machine_are_still_its_own() {
    let (collector, queue) = subscribed();
    assert!(collector.finish_after("m", SECOND * 5));
    push_later(&collector, &[4, 2]);
    let start = Instant::now();
    assert_eq!(messages(&LogStream::new(queue).collect().await), ["0"]);
    assert_eq!(start.elapsed().as_secs(), 5);
    assert!(collector.machine_ids().is_empty());
    assert!(!collector.finish_after("never seen", SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_put_off_until_the_last_moment_is_put_off() {
    let (collector, queue) = subscribed();
    assert!(collector.finish_after("m", SECOND * 5));
    advance(SECOND * 5).await;
    // The timer is due, and its task has not run yet.
    assert!(collector.finish_after("m", SECOND * 5));
    tokio::task::yield_now().await;
    assert_eq!(collector.finish_if_due(queue.machine()), Some(Instant::now() + SECOND * 5));
    assert_eq!(collector.machine_ids(), ["m"]);
    let start = Instant::now();
    assert!(LogStream::new(queue).collect().await.is_empty());
    assert_eq!(start.elapsed(), SECOND * 5);
}

#[tokio::test(start_paused = true)]
async fn a_stream_left_pending_does_not_keep_lines_from_other_readers() {
    let (collector, queue) = subscribed();
    let mut left_pending = LogStream::new(queue.clone());
    assert!(futures_util::StreamExt::next(&mut left_pending).now_or_never().is_none());
    let reader = tokio::spawn(async move { LogStream::new(queue).with_item_timeout(SECOND).next().await });
    tokio::task::yield_now().await;
    let pushed = Instant::now();
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    assert_eq!(reader.await.unwrap().unwrap().message(), "0");
    assert_eq!(pushed.elapsed(), Duration::ZERO, "it was woken for the line, not by its time-out");
    assert!(!left_pending.done());
}

#[tokio::test(start_paused = true)]
async fn draining_in_time_returns_all_and_too_late_what_was_read() {
    let (collector, queue) = subscribed();
    let _ = push_numbers(&collector, "m", 0..2).unwrap();
    let late = drain_queue(&queue, Some(SECOND)).await.unwrap_err();
    assert_eq!((messages(&late.entries), late.timeout), (vec!["0", "1"], SECOND));
    let _ = push_numbers(&collector, "m", 2..4).unwrap();
    assert!(collector.finish("m"));
    assert_eq!(messages(&drain_queue(&queue, Some(SECOND)).await.unwrap()), ["2", "3"]);
    assert_eq!(drain_queue(&queue, None).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_a_stream_of_its_lines_until_the_end() {
    let (collector, queue) = subscribed();
    let got = Rc::new(RefCell::new(Vec::new()));
    let reading = futures_util::StreamExt::for_each(async_iter_queue(&queue), |entry| {
        got.borrow_mut().push(entry.message().to_owned());
        std::future::ready(())
    });
    let writing = async {
        for number in 0..3 {
            tokio::time::sleep(SECOND).await;
            let _ = push_numbers(&collector, "m", number..number + 1).unwrap();
        }
        collector.finish_all();
    };
    tokio::join!(reading, writing);
    assert_eq!(*got.borrow(), ["0", "1", "2"]);
    let texts: Vec<String> = futures_util::StreamExt::collect(LogStream::new(queue).messages()).await;
    assert!(texts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_subscribes_twice_shares_the_queue_and_machines_never_mix() {
    let (collector, queue) = subscribed();
    let again = collector.subscribe("m").unwrap();
    let other = collector.subscribe("other").unwrap();
    assert!(queue.is_same(&again) && !queue.is_same(&other));
    let mut ids = collector.machine_ids();
    ids.sort();
    assert_eq!(ids, ["m", "other"]);
    let lines = [("m", Kind::Stdout, "0"), ("other", Kind::Stdout, "1"), ("unknown", Kind::Stdout, "2")];
    let receipt = push(&collector, &lines).unwrap();
    assert_eq!((receipt.accepted, receipt.unrouted), (2, 1));
    collector.finish_all();
    assert!(collector.machine_ids().is_empty());
    assert_eq!(messages(&drain_queue(&other, None).await.unwrap()), ["1"]);
    let (one, two) = (drain_queue(&queue, None).await.unwrap(), drain_queue(&again, None).await.unwrap());
    assert_eq!((messages(&one), two), (vec!["0"], vec![]), "each line goes to one of them");
}

#[tokio::test(start_paused = true)]
async fn an_attached_machine_is_finished_when_the_handle_is_dropped() {
    let collector = small(|_| {});
    let attached = collector.attach("m").unwrap();
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    let mut stream = LogStream::new(attached.queue().clone());
    drop(attached);
    assert_eq!(messages(&stream.collect().await), ["0"]);
    assert!(stream.done() && !stream.timed_out());
}

#[tokio::test(start_paused = true)]
async fn a_stream_dropped_in_the_middle_puts_the_rest_back_first() {
    let (collector, queue) = subscribed();
    let _ = push_numbers(&collector, "m", 0..4).unwrap();
    let _ = push_numbers(&collector, "m", 4..6).unwrap();
    let mut first = LogStream::new(queue.clone());
    assert_eq!(first.next().await.unwrap().message(), "0");
    drop(first);
    assert_eq!(queue.lines(), 5);
    collector.finish_all();
    assert_eq!(messages(&drain_queue(&queue, None).await.unwrap()), ["1", "2", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn whole_batches_come_zero_copy_and_hold_the_budget() {
    let (collector, queue) = subscribed();
    let mut stream = LogStream::new(queue);
    let writing = collector.clone();
    let (batch, ()) = tokio::join!(stream.next_batch(), async move {
        let _ = push_numbers(&writing, "m", 0..3).unwrap();
    });
    let batch = batch.unwrap();
    assert_eq!((batch.len(), stream.lines_yielded()), (3, 3));
    let budget = Arc::clone(collector.budget());
    drop((collector, stream));
    assert!(budget.used() > 0);
    drop(batch);
    assert_eq!(budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_stream_sees_future_machines_and_ends_with_the_collector() {
    let collector = small(|_| {});
    let mut fleet = collector.fleet();
    let writing = collector.clone();
    tokio::spawn(async move {
        for machine in ["a", "b"] {
            tokio::time::sleep(SECOND).await;
            let _ = push(&writing, &[(machine, Kind::System, "0"), ("c", Kind::Stdout, "1")]).unwrap();
        }
        writing.shut_down();
    });
    let (mut seen, start) = (Vec::new(), Instant::now());
    while let Some(batch) = fleet.next().await {
        let at = start.elapsed().as_secs();
        seen.extend(batch.entries().map(|entry| (entry.machine_id().to_owned(), at)));
    }
    let expected = [("a", 1), ("c", 1), ("b", 2), ("c", 2)];
    assert_eq!(seen, expected.map(|(id, at)| (id.to_owned(), at)), "each as soon as it was sent");
    assert!(fleet.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_view_waits_for_a_machine_not_yet_seen_and_ends_with_it() {
    let collector = small(|_| {});
    let mut view = MachineView::new(&collector, "m", &ViewStart::default(), |_| true);
    assert!(!collector.finish("m"), "who only waits for it has not seen it");
    push_later(&collector, &[1, 1]);
    let finishing = collector.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SECOND * 3).await;
        assert!(finishing.finish("m"));
    });
    let (mut seen, start) = (Vec::new(), Instant::now());
    while view.ended().is_none() {
        match view.step() {
            Some(Seen::Lines(lines)) => seen.extend(lines.entries().map(|_| start.elapsed().as_secs())),
            Some(Seen::Skipped(_) | Seen::Past) => panic!("nothing was evicted"),
            None if view.ended().is_some() => {}
            None => view.changed().await,
        }
    }
    assert_eq!(seen, [1, 2], "each as soon as it was sent");
    assert_eq!((view.ended(), start.elapsed().as_secs()), (Some(Ended::Finished), 3));
}

#[tokio::test(start_paused = true)]
async fn a_view_that_begins_while_the_collector_shuts_down_ends() {
    let collector = small(|_| {});
    collector.shut_down();
    let mut view = MachineView::new(&collector, "m", &ViewStart::default(), |_| true);
    view.changed().await;
    assert!(view.step().is_none());
    assert_eq!(view.ended(), Some(Ended::Shutdown));
    assert!(collector.subscribe("m").is_err());
    assert_eq!(push_numbers(&collector, "m", 0..1), Err(crate::admission::Cause::ShuttingDown));
}

#[tokio::test(start_paused = true)]
async fn at_shutdown_streams_end_behind_what_is_queued_and_the_rest_is_counted() {
    let (collector, queue) = subscribed();
    let other = collector.subscribe("other").unwrap();
    let _ = push_numbers(&collector, "m", 0..2).unwrap();
    let _ = push_numbers(&collector, "other", 0..3).unwrap();
    drop(collector.subscribe("slow").unwrap());
    let _ = push_numbers(&collector, "slow", 0..5).unwrap();
    collector.shut_down();
    let mut stream = LogStream::new(queue);
    assert_eq!(messages(&stream.collect().await), ["0", "1"]);
    assert_eq!(stream.outcome(), Some(Ok(Ended::Shutdown)));
    let mut slow = LogStream::new(collector.queue_to_read("slow").unwrap());
    assert_eq!(slow.next().await.unwrap().message(), "0");
    assert_eq!(collector.drop_what_is_left(), 3 + 4, "what a reader holds is lost with it");
    assert_eq!(assert_balanced(&collector).queue_lines_dropped_by_reason["shutdown"], 3);
    drop(slow);
    let mut other = LogStream::new(other);
    assert_eq!(other.next_event().await, Some(StreamEvent::Skipped(3)));
    assert_eq!(other.next_event().await, None);
}

/// Takes what there is without a wait, as a reader over HTTP does. Lines that it holds then.
fn take_now(stream: &mut LogStream, queue: &LogQueue) -> u64 {
    assert!(stream.has_more(u64::MAX));
    queue.inner().probe().held_lines
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_together_is_bounded_in_bodies_and_in_lines() {
    for (lines, held) in [(1, 16), (30, 90)] {
        let (collector, queue) = subscribed();
        for body in 0..30 {
            let _ = push_numbers(&collector, "m", body * lines..(body + 1) * lines).unwrap();
        }
        let mut stream = LogStream::new(queue.clone());
        assert_eq!(take_now(&mut stream, &queue), held);
        while stream.next_ready().is_some() || stream.has_more(u64::MAX) {}
        assert!(stream.more().now_or_never().is_none());
        assert_eq!(stream.held.room(), 0, "nobody pays for it while nothing comes");
        drop(stream);
        let all = LogStream::new(queue).collect().now_or_never();
        assert_eq!(all, None, "it has not ended");
        assert_eq!(assert_balanced(&collector).queue_lines_delivered, 30 * u64::from(lines));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_shown_is_delivered_at_the_latest_when_its_reader_leaves() {
    let (collector, queue) = subscribed();
    let _ = push_numbers(&collector, "m", 0..3).unwrap();
    let mut stream = LogStream::new(queue.clone());
    assert_eq!(take_now(&mut stream, &queue), 3);
    assert!(stream.next_ready().is_some());
    assert_eq!(queue.lines(), 3, "they are delivered together");
    drop(stream);
    assert_eq!((queue.lines(), queue.inner().probe().held_lines), (2, 0));
    assert_eq!(assert_balanced(&collector).queue_lines_delivered, 1);
    assert_eq!(LogStream::new(queue).next().await.unwrap().message(), "1");
}
