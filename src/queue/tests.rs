//! What a queue promises to senders, and a look inside for the tests of the other rooms.

mod wakers;

use super::*;

/// What a queue holds, for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) lines: u64,
    pub(crate) bytes: usize,
    pub(crate) held_lines: u64,
    pub(crate) held_bytes: usize,
    pub(crate) reserved: (u64, usize),
    pub(crate) behind_lines: u64,
    pub(crate) behind: bool,
    pub(crate) waiting: u32,
    pub(crate) readers: u32,
    pub(crate) has_something: bool,
}

impl State {
    /// Whether a reader would find something.
    fn has_something(&self) -> bool {
        !self.front.is_empty()
            || !self.channel.is_empty()
            || self.behind.is_some()
            || self.rare.as_ref().is_some_and(|rare| !rare.skips.is_empty() || rare.ended.is_some())
    }
}

impl Queue {
    pub(crate) fn probe(&self) -> Probe {
        let state = self.state.lock();
        Probe {
            lines: state.lines,
            bytes: state.bytes,
            held_lines: state.held_lines,
            held_bytes: state.held_bytes,
            reserved: state.reserved(),
            behind_lines: state.behind.as_ref().map_or(0, |behind| behind.lines),
            behind: state.behind.is_some(),
            waiting: state.waiters.len() as u32,
            readers: state.readers.count(),
            has_something: state.has_something(),
        }
    }

    /// Items that wait and are not compact copies. None of them is in the channel.
    pub(crate) fn uncopied(&self) -> usize {
        self.state.lock().front.iter().filter(|item| !item.copied).count()
    }

    /// Items for which the list of what comes before the channel has room.
    pub(crate) fn front_capacity(&self) -> usize {
        self.state.lock().front.capacity()
    }

    /// Whether there is a channel.
    pub(crate) fn has_channel(&self) -> bool {
        self.state.lock().channel.is_made()
    }
}

mod policies {
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        task::{Context, Wake, Waker},
        time::Duration,
    };

    use futures_util::FutureExt;
    use tokio::time::advance;

    use crate::{
        admission::Cause,
        batch::{Kind, Streams},
        collector::{
            CollectorConfig, LogCollector, SubscribeOptions,
            tests::{assert_balanced, push, push_numbers, small},
        },
        config::Full,
        queue::{HANDED_ON_MAX, KEPT_GROUPS_MAX},
        stream::{LogQueue, LogStream, Ready, StreamEvent},
    };

    pub(super) fn with(full: Full, change: impl FnOnce(&mut CollectorConfig)) -> (LogCollector, LogQueue) {
        let collector = small(change);
        let options = SubscribeOptions { full: Some(full), ..SubscribeOptions::default() };
        let (queue, _) = collector.subscribe_with("m", options).unwrap();
        (collector, queue)
    }

    /// What there is to read at once: numbers, and `-lines` for what was skipped.
    fn read_all(stream: &mut LogStream) -> Vec<i64> {
        let mut got = Vec::new();
        while let Some(Some(event)) = stream.next_event().now_or_never() {
            got.push(match event {
                StreamEvent::Entry(entry) => entry.message().parse().unwrap(),
                StreamEvent::Skipped(lines) | StreamEvent::Limited(lines) => -(lines as i64),
                StreamEvent::SkippedUnknown => unreachable!("it is always known how many"),
            });
        }
        got
    }

    fn read_queue(queue: &LogQueue) -> Vec<i64> {
        read_all(&mut LogStream::new(queue.clone()))
    }

    fn numbers(range: std::ops::Range<i64>) -> Vec<i64> {
        range.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_block_queue_refuses_and_takes_again_when_read() {
        let (collector, queue) = with(Full::Block, |_| {});
        let _ = push_numbers(&collector, "m", 0..8).unwrap();
        assert_eq!(push_numbers(&collector, "m", 8..11), Err(Cause::QueueFull));
        let _ = push_numbers(&collector, "m", 8..10).unwrap();
        assert_eq!(push_numbers(&collector, "m", 10..11), Err(Cause::QueueFull));
        let mut stream = LogStream::new(queue.clone());
        assert_eq!(stream.next().await.unwrap().message(), "0");
        let _ = push_numbers(&collector, "m", 10..11).unwrap();
        assert_eq!(read_all(&mut stream), numbers(1..11));
        assert_balanced(&collector);
    }

    #[tokio::test(start_paused = true)]
    async fn room_kept_for_a_refused_body_is_given_back() {
        let (collector, queue) = with(Full::Block, |_| {});
        let other = SubscribeOptions { full: Some(Full::Block), ..SubscribeOptions::default() };
        let (_full, _) = collector.subscribe_with("full", other).unwrap();
        let _ = push_numbers(&collector, "full", 0..10).unwrap();
        let used = collector.budget().used();
        let refused = push(&collector, &[("m", Kind::Stdout, "0"), ("full", Kind::Stdout, "1")]);
        assert_eq!(refused, Err(Cause::QueueFull));
        assert_eq!((queue.inner().probe().reserved, collector.budget().used()), ((0, 0), used));
        let _ = push_numbers(&collector, "m", 0..10).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_queue_takes_any_one_body() {
        for full in [Full::Block, Full::DropOldest, Full::CatchUp] {
            let (collector, queue) = with(full, |_| {});
            let _ = push_numbers(&collector, "m", 0..50).unwrap();
            let probe = queue.inner().probe();
            assert_eq!((probe.lines, probe.behind), (50, false));
            assert_eq!(push_numbers(&collector, "m", 50..51).is_err(), full == Full::Block);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_queue_without_a_reader_for_a_second_goes_behind_and_blocks_again_when_caught_up() {
        let (collector, queue) = with(Full::Block, |_| {});
        let _ = push_numbers(&collector, "m", 0..10).unwrap();
        drop(queue);
        advance(Duration::from_millis(999)).await;
        assert_eq!(push_numbers(&collector, "m", 10..11), Err(Cause::QueueFull));
        advance(Duration::from_millis(1)).await;
        let _ = push_numbers(&collector, "m", 10..40).unwrap();
        let queue = collector.subscribe("m").unwrap();
        assert!(queue.inner().probe().behind);
        assert_eq!(assert_balanced(&collector).queue_lines, 40);
        assert_eq!(read_queue(&queue), numbers(0..40));
        assert!(!queue.inner().probe().behind);
        let _ = push_numbers(&collector, "m", 40..50).unwrap();
        assert_eq!(push_numbers(&collector, "m", 50..51), Err(Cause::QueueFull), "it blocks again");
        assert_balanced(&collector);
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_queue_into_which_nothing_fits_for_long_goes_behind() {
        let (collector, queue) = with(Full::Block, |config| config.queue.stalled_after = Duration::from_secs(10));
        let _ = push_numbers(&collector, "m", 0..10).unwrap();
        advance(Duration::from_secs(60)).await;
        assert_eq!(push_numbers(&collector, "m", 10..12), Err(Cause::QueueFull), "it stalls from the first refusal on");
        advance(Duration::from_secs(9)).await;
        assert_eq!(push_numbers(&collector, "m", 10..12), Err(Cause::QueueFull));
        let mut stream = LogStream::new(queue.clone());
        let _ = (stream.next().await, stream.next().await);
        let _ = push_numbers(&collector, "m", 10..12).unwrap();
        advance(Duration::from_secs(9)).await;
        assert_eq!(push_numbers(&collector, "m", 12..13), Err(Cause::QueueFull), "something fitted meanwhile");
        advance(Duration::from_secs(10)).await;
        let _ = push_numbers(&collector, "m", 12..30).unwrap();
        assert!(queue.inner().probe().behind);
        assert_eq!(read_all(&mut stream), numbers(2..30));
    }

    #[tokio::test(start_paused = true)]
    async fn drop_oldest_keeps_exactly_the_newest_lines() {
        let (collector, queue) = with(Full::DropOldest, |_| {});
        for start in (0..30).step_by(3) {
            let _ = push_numbers(&collector, "m", start..start + 3).unwrap();
        }
        assert_eq!(queue.inner().probe().lines, 10);
        assert_eq!(read_queue(&queue), [vec![-20], numbers(20..30)].concat());
        assert_eq!(assert_balanced(&collector).queue_lines_dropped_by_reason["queue_full"], 20);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_reader_holds_costs_the_newest_lines_no_room() {
        let (collector, queue) = with(Full::DropOldest, |_| {});
        let _ = push_numbers(&collector, "m", 0..10).unwrap();
        let mut holds = LogStream::new(queue.clone());
        assert_eq!(holds.next().await.unwrap().message(), "0");
        for start in (10..40).step_by(5) {
            let _ = push_numbers(&collector, "m", start..start + 5).unwrap();
        }
        let probe = queue.inner().probe();
        assert_eq!((probe.lines, probe.held_lines), (19, 9));
        // Given back, they are the oldest, and there is no room for them.
        drop(holds);
        assert_eq!(queue.inner().probe().lines, 10);
        let mut got = read_queue(&queue);
        got.retain(|number| *number > 0);
        assert_eq!(got, numbers(30..40));
        assert_eq!(assert_balanced(&collector).queue_lines_dropped, 29);
    }

    #[tokio::test(start_paused = true)]
    async fn catch_up_loses_nothing_that_the_history_holds() {
        let (collector, queue) = with(Full::CatchUp, |_| {});
        for start in 0..100 {
            let _ = push_numbers(&collector, "m", start * 2..start * 2 + 2).unwrap();
        }
        let probe = queue.inner().probe();
        assert_eq!((probe.lines, probe.behind_lines), (10, 190));
        let mut stream = LogStream::new(queue.clone());
        assert_eq!(read_all(&mut stream), numbers(0..200));
        let _ = push_numbers(&collector, "m", 200..203).unwrap();
        assert!(!queue.inner().probe().behind, "caught up, it is live again");
        assert_eq!(read_all(&mut stream), numbers(200..203));
    }

    #[tokio::test(start_paused = true)]
    async fn evictions_while_behind_are_counted_once_and_when_they_happen() {
        let (collector, queue) = with(Full::CatchUp, |config| config.history_bytes = 10_000);
        for start in 0..300 {
            let _ = push_numbers(&collector, "m", start * 2..start * 2 + 2).unwrap();
            assert_balanced(&collector);
        }
        let dropped = collector.stats().queue_lines_dropped_by_reason["history_evicted"];
        assert!(dropped > 400);
        // One body evicts all others at once.
        let _ = push_numbers(&collector, "m", 600..700).unwrap();
        assert_eq!(assert_balanced(&collector).queue_lines_dropped, 590);
        assert_eq!(read_queue(&queue), [numbers(0..10), vec![-590], numbers(600..700)].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn a_used_up_reserve_sends_a_queue_behind_and_gives_its_copies_back() {
        let (collector, queue) = with(Full::CatchUp, |config| {
            (config.budget_bytes, config.queue.lines) = (80_000, 1000);
        });
        for number in 0..30 {
            let _ = push_numbers(&collector, "m", number..number + 1).unwrap();
        }
        let probe = queue.inner().probe();
        assert!(probe.behind && probe.lines == 0, "{probe:?}");
        assert_eq!(queue.inner().front_capacity(), 0);
        let stats = collector.stats();
        assert_eq!(stats.memory_used_bytes, stats.history_bytes, "no copy is left");
        assert_eq!(read_queue(&queue), numbers(0..30));
    }

    #[tokio::test(start_paused = true)]
    async fn no_line_is_read_twice_when_copies_are_given_up_between_two_readers() {
        let (collector, queue) = with(Full::CatchUp, |config| {
            (config.budget_bytes, config.queue.lines) = (80_000, 1000);
        });
        let _ = push_numbers(&collector, "m", 0..3).unwrap();
        let _ = push_numbers(&collector, "m", 3..4).unwrap();
        let mut first = LogStream::new(queue.clone());
        assert_eq!(first.next().await.unwrap().message(), "0");
        assert_eq!(LogStream::new(queue.clone()).next().await.unwrap().message(), "3");
        drop(first);
        for number in 4..30 {
            let _ = push_numbers(&collector, "m", number..number + 1).unwrap();
        }
        assert!(queue.inner().probe().behind);
        assert_eq!(read_queue(&queue), [vec![1, 2], numbers(4..30)].concat());
        assert_balanced(&collector);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_behind_ends_where_its_machine_was_finished() {
        let (collector, queue) = with(Full::CatchUp, |_| {});
        for start in 0..10 {
            let _ = push_numbers(&collector, "m", start * 5..start * 5 + 5).unwrap();
        }
        assert!(queue.inner().probe().behind && collector.finish("m"));
        let _ = push_numbers(&collector, "m", 50..60).unwrap();
        let reopened = collector.subscribe("m").unwrap();
        assert!(!reopened.is_same(&queue));
        let _ = push_numbers(&collector, "m", 60..65).unwrap();
        let mut old = LogStream::new(queue);
        assert_eq!(read_all(&mut old), numbers(0..50));
        assert!(old.done() && !old.timed_out());
        assert_eq!((old.next().await, old.next().await), (None, None));
        assert_eq!(read_queue(&reopened), numbers(60..65));
        assert_balanced(&collector);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_without_a_reader_for_too_long_is_dropped_and_told() {
        let (collector, queue) = with(Full::CatchUp, |config| config.queue.abandoned_after = Duration::from_secs(60));
        for start in 0..4 {
            let _ = push_numbers(&collector, "m", start * 5..start * 5 + 5).unwrap();
        }
        drop(queue);
        advance(Duration::from_secs(30)).await;
        let _ = push_numbers(&collector, "m", 20..22).unwrap();
        advance(Duration::from_secs(29)).await;
        collector.maintain();
        assert_eq!(assert_balanced(&collector).queue_lines, 22);
        advance(Duration::from_secs(4)).await;
        collector.maintain();
        let stats = assert_balanced(&collector);
        assert_eq!((stats.queue_lines, stats.queue_lines_dropped_by_reason["abandoned"]), (2, 20));
        assert_eq!(stats.subscriptions, 1, "the queue itself stays");
        let mut got = read_queue(&collector.subscribe("m").unwrap());
        let told: i64 = got.extract_if(.., |number| *number < 0).sum();
        assert_eq!((got, told), (numbers(20..22), -20));
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_queue_of_a_reopened_machine_leaves_the_books() {
        let (collector, queue) = with(Full::CatchUp, |config| config.queue.abandoned_after = Duration::from_secs(60));
        let _ = push_numbers(&collector, "m", 0..5).unwrap();
        collector.finish("m");
        let _reopened = collector.subscribe("m").unwrap();
        let old = std::sync::Arc::downgrade(queue.inner());
        drop(queue);
        for _ in 0..2 {
            advance(Duration::from_secs(61)).await;
            collector.maintain();
        }
        collector.maintain();
        assert_eq!(assert_balanced(&collector).queue_lines_dropped, 5);
        assert!(old.upgrade().is_none(), "nobody holds it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_reader_gets_the_batch_itself_and_a_sleeping_one_a_copy() {
        let (collector, queue) = with(Full::CatchUp, |_| {});
        let _ = push_numbers(&collector, "m", 0..1).unwrap();
        assert_eq!(queue.inner().uncopied(), 0);
        let mut stream = LogStream::new(queue.clone());
        assert_eq!(read_all(&mut stream), numbers(0..1));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(futures_core::Stream::poll_next(std::pin::Pin::new(&mut stream), &mut context).is_pending());
        let _ = push_numbers(&collector, "m", 1..2).unwrap();
        assert_eq!(queue.inner().uncopied(), 1, "it finds a reader that waits");
        for number in 2..10 {
            let _ = push_numbers(&collector, "m", number..number + 1).unwrap();
        }
        assert_eq!(queue.inner().uncopied(), HANDED_ON_MAX, "the reader has enough to take when it comes");
        assert_eq!(read_all(&mut stream), numbers(1..10));
        assert!(futures_core::Stream::poll_next(std::pin::Pin::new(&mut stream), &mut context).is_pending());
        let _ = push_numbers(&collector, "m", 10..11).unwrap();
        drop(stream);
        assert_eq!((queue.inner().uncopied(), queue.inner().probe().waiting), (0, 0), "who left pins nothing");
        assert_eq!(read_queue(&queue), numbers(10..11));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_a_reader_rests_is_not_copied_as_long_as_there_is_plenty_of_memory() {
        let (collector, queue) = with(Full::CatchUp, |config| config.queue.lines = 100);
        let one = |number: u32| drop(push_numbers(&collector, "m", number..number + 1).unwrap());
        let mut stream = LogStream::new(queue.clone());
        stream.rest();
        (0..40).for_each(one);
        assert_eq!((queue.inner().uncopied(), queue.inner().has_channel()), (40, false));

        let budget = collector.budget();
        let others = budget.try_reserve(budget.body_bytes_max() / 2).unwrap();
        one(40);
        drop(others);
        one(41);
        assert_eq!(
            (queue.inner().uncopied(), queue.inner().has_channel()),
            (40, true),
            "behind the first copy all are"
        );
        assert_eq!(std::iter::from_fn(|| next(&mut stream)).collect::<Vec<_>>(), numbers(0..42));
        assert!(queue.inner().front_capacity() <= KEPT_GROUPS_MAX, "{}", queue.inner().front_capacity());

        for is_dropped in [false, true] {
            assert!(stream.rests());
            (42..50).for_each(one);
            assert_eq!(queue.inner().uncopied(), 8);
            if is_dropped {
                stream = LogStream::new(queue.clone());
            } else {
                stream.let_go();
            }
            assert_eq!((queue.inner().uncopied(), queue.inner().probe().waiting), (0, 0), "who left pins nothing");
            assert_eq!(read_all(&mut stream), numbers(42..50));
            stream.rest();
        }
    }

    /// As a reader over HTTP looks for the next line: without a wait.
    fn next(stream: &mut LogStream) -> Option<i64> {
        loop {
            match stream.next_ready() {
                Some(Ready::Line(entry)) => {
                    let number = entry.message().parse().ok();
                    stream.deliver();
                    return number;
                }
                Some(_) => unreachable!("nothing is dropped"),
                None => {}
            }
            if !stream.has_more(u64::MAX) {
                return None;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_rests_and_does_not_come_has_room_for_its_copies_whatever_others_take() {
        let (collector, queue) = with(Full::CatchUp, |config| config.queue.lines = 100);
        let one = |number: u32| drop(push_numbers(&collector, "m", number..number + 1).unwrap());
        let budget = collector.budget();
        let mut stream = LogStream::new(queue.clone());
        stream.rest();
        (0..40).for_each(one);
        let mut others: Vec<_> = std::iter::from_fn(|| budget.try_copy(1000)).collect();
        others.extend(std::iter::from_fn(|| budget.try_copy(1)));
        assert_eq!(queue.inner().uncopied(), 40);
        stream.let_go();
        assert_eq!((queue.inner().uncopied(), queue.inner().probe().behind), (0, false));

        // Nor is anything handed on without such room, or with hardly any memory left, to one that may not come.
        stream.rest();
        one(40);
        assert!(queue.inner().probe().behind, "the history has them all");
        drop(others);
        assert_eq!(std::iter::from_fn(|| next(&mut stream)).collect::<Vec<_>>(), numbers(0..41));
        let bodies = budget.try_reserve(budget.body_bytes_max() / 2).unwrap();
        one(41);
        assert_eq!((queue.inner().uncopied(), queue.inner().has_channel()), (0, true));
        drop(bodies);
        assert_eq!(next(&mut stream), Some(41));
        assert_balanced(&collector);
    }

    #[tokio::test(start_paused = true)]
    async fn of_what_is_given_back_the_newest_stay() {
        let (_collector, queue) = {
            let (collector, queue) = with(Full::DropOldest, |_| {});
            let one = |number: u32| drop(push_numbers(&collector, "m", number..number + 1).unwrap());
            (0..10).for_each(one);
            let mut stream = LogStream::new(queue.clone());
            assert!(stream.has_more(u64::MAX));
            assert_eq!(queue.inner().probe().held_lines, 10, "taken together");
            (10..18).for_each(one);
            drop(stream);
            (collector, queue)
        };
        assert_eq!(read_queue(&queue), [&[-8][..], &numbers(8..18)].concat());
    }

    /// Lines of 3 kB do not fit behind newer ones, and older ones of a few bytes would.
    #[tokio::test(start_paused = true)]
    async fn nothing_older_stays_than_what_had_no_room() {
        let (collector, queue) =
            with(Full::DropOldest, |config| (config.queue.lines, config.queue.bytes) = (100, 6000));
        let large = "x".repeat(3000);
        let mut stream = LogStream::new(queue.clone());
        for text in ["0", "1", &large] {
            let _ = push(&collector, &[("m", Kind::Stdout, text)]).unwrap();
        }
        assert!(stream.has_more(u64::MAX));
        assert_eq!(queue.inner().probe().held_lines, 3);
        let _ = push(&collector, &[("m", Kind::Stdout, &large)]).unwrap();
        drop(stream);
        let mut stream = LogStream::new(queue);
        assert_eq!(stream.next_event().now_or_never(), Some(Some(StreamEvent::Skipped(3))));
        assert!(stream.next_event().now_or_never().is_some_and(|event| event.is_some()));
        assert!(stream.next_event().now_or_never().is_none());
    }

    /// One that always holds something, for what it takes together is more than it shows at a time.
    #[cfg(feature = "spool")]
    #[tokio::test(start_paused = true)]
    async fn a_reader_that_never_has_all_there_is_comes_on_all_the_same() {
        let (collector, queue) =
            with(Full::CatchUp, |config| (config.queue.lines, config.queue.bytes) = (1000, 1 << 20));
        (0..100).for_each(|number| drop(push_numbers(&collector, "m", number..number + 1).unwrap()));
        assert!(!queue.inner().probe().behind);
        let mut stream = LogStream::new(queue.clone());
        for _ in 0..4 {
            let mut shown = 0;
            while shown < 19 {
                match stream.next_ready() {
                    Some(_) => shown += 1,
                    None => assert!(stream.has_more(u64::MAX)),
                }
            }
            stream.deliver();
        }
        let standing = queue.inner().standing(queue.machine().trail());
        assert!((76 - 16..=76).contains(&standing.at), "{standing:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_rested_and_takes_one_lets_go_of_the_others() {
        let (collector, queue) = with(Full::CatchUp, |config| config.queue.lines = 100);
        let mut stream = LogStream::new(queue.clone());
        stream.rest();
        (0..9).for_each(|number| drop(push_numbers(&collector, "m", number..number + 1).unwrap()));
        assert!(stream.more().now_or_never().unwrap());
        assert_eq!((queue.inner().uncopied(), queue.inner().probe().waiting, stream.rests()), (0, 0, false));
        assert_eq!(read_all(&mut stream), numbers(0..9));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_rests_is_woken_once_it_waits_and_not_before() {
        let (collector, queue) = with(Full::CatchUp, |_| {});
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut stream = LogStream::new(queue.clone());
        stream.rest();
        let _ = push_numbers(&collector, "m", 0..1).unwrap();
        assert_eq!(next(&mut stream), Some(0));
        let mut more = pin!(stream.more());
        assert!(more.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!((woken.0.load(SeqCst), queue.inner().probe().waiting), (0, 1), "in the same place");
        (1..9).for_each(|number| drop(push_numbers(&collector, "m", number..number + 1).unwrap()));
        assert_eq!(woken.0.load(SeqCst), 1);
        assert_eq!(queue.inner().uncopied(), HANDED_ON_MAX, "nobody knows when it comes");
        assert!(more.now_or_never().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_leaves_no_channel_behind_once_it_is_read() {
        let (collector, queue) = with(Full::CatchUp, |config| config.queue.lines = 100);
        assert!(!queue.inner().has_channel(), "nothing has waited yet");
        for number in 0..40 {
            let _ = push_numbers(&collector, "m", number..number + 1).unwrap();
        }
        assert!(queue.inner().has_channel());
        assert_eq!(read_queue(&queue), numbers(0..40));
        assert!(!queue.inner().has_channel());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_leaves_takes_nobodys_wake_with_it_though_the_lines_were_moved_meanwhile() {
        let (collector, queue) = with(Full::CatchUp, |_| {});
        let read = |queue: LogQueue| tokio::spawn(async move { LogStream::new(queue).next().await });
        let (first, second) = (read(queue.clone()), read(queue));
        tokio::task::yield_now().await;
        let _ = push_numbers(&collector, "m", 0..1).unwrap();
        assert_eq!(collector.stats().queue_lines, 1, "looking for the oldest takes it out of the channel");
        first.abort();
        let line = tokio::time::timeout(Duration::from_secs(1), second).await.expect("it was woken");
        assert_eq!(line.unwrap().unwrap().message(), "0");
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_without_wanted_lines_is_nothing_to_read() {
        let collector = small(|_| {});
        let _ = push(&collector, &[("m", Kind::Stderr, "0"), ("m", Kind::System, "1")]).unwrap();
        let options = SubscribeOptions { streams: Some(Streams::STDOUT), backlog: true, full: None };
        let (queue, _) = collector.subscribe_with("m", options).unwrap();
        let mut stream = LogStream::new(queue.clone());
        assert!(!stream.has_more(u64::MAX));
        let _ = push_numbers(&collector, "m", 2..3).unwrap();
        assert!(stream.has_more(u64::MAX));
        assert_eq!(read_all(&mut stream), [2]);
        assert!(!queue.inner().probe().behind);
    }

    #[tokio::test(start_paused = true)]
    async fn of_large_bodies_a_share_is_measured_and_stands_for_all_and_each_machine_has_its_turn() {
        const MACHINES: usize = 40;
        let collector = small(|_| {});
        let names: Vec<String> = (0..MACHINES).map(|machine| format!("m{machine}")).collect();
        let mut streams: Vec<_> = names.iter().map(|id| LogStream::new(collector.subscribe(id).unwrap())).collect();
        let body: Vec<_> = names.iter().map(|id| (id.as_str(), Kind::Stdout, "0")).collect();
        for turn in 1..=100_u64 {
            // Senders take turns, so that every machine's batches have even numbers.
            let _ = (push(&collector, &body).unwrap(), push(&collector, &[("another", Kind::Stdout, "0")]).unwrap());
            streams.iter_mut().for_each(|stream| assert_eq!(read_all(stream), [0]));
            let (groups, counted) = (turn * MACHINES as u64, collector.shared.ledger.delivery_latency.counted().count);
            assert!(counted.abs_diff(groups) <= groups / 5 + 80, "{counted} of {groups}");
        }
        for facts in collector.all_machine_facts().iter().filter(|facts| facts.machine_id != "another") {
            assert!(facts.latency_p50_seconds.is_some(), "{} was never measured", facts.machine_id);
        }
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn given_back_lines_wake_a_reader_that_waits() {
        let (collector, queue) = with(Full::CatchUp, |_| {});
        let (mut holder, mut other) = (LogStream::new(queue.clone()), LogStream::new(queue));
        let _ = push_numbers(&collector, "m", 0..3).unwrap();
        holder.next().await.unwrap();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut reading = pin!(other.next());
        assert!(reading.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(holder);
        assert_eq!(woken.0.load(SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn going_behind_wakes_a_reader_that_waits_beside_one_that_holds() {
        let (collector, queue) = with(Full::CatchUp, |config| config.queue.lines = 3);
        let (mut holder, mut other) = (LogStream::new(queue.clone()), LogStream::new(queue));
        let _ = push_numbers(&collector, "m", 0..3).unwrap();
        assert!(holder.more().await);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut reading = pin!(other.next());
        assert!(reading.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let _ = push_numbers(&collector, "m", 3..6).unwrap();
        assert_eq!(woken.0.load(SeqCst), 1);
        assert!(reading.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    }
}
