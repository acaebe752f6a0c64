use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::{
    LogCollector,
    batch::EntryView,
    collector::{
        CollectorConfig, SinkStats,
        outlet::{OutletFull, OutletTerms},
    },
    filter::Filter,
    sink::Delivery,
};

/// What a store does with the next parcels.
#[derive(Clone, Debug)]
enum Does {
    Takes,
    IsDown,
    Hangs,
    Denies,
    AsksToWait(u64),
    IsTooSmallFor(usize),
    /// Takes every other line, and asks for the rest again.
    TakesHalf,
    /// Says of each line that it will never take it.
    WantsNone,
    Panics,
}

/// A store that never takes a line with `poison` in it, and does as it was told for the first deliveries.
#[derive(Default)]
struct Store {
    script: Mutex<VecDeque<Does>>,
    lines: Mutex<HashMap<String, usize>>,
    deliveries: Mutex<Vec<(Instant, usize)>>,
    opened: AtomicUsize,
}

impl Store {
    fn new(script: impl IntoIterator<Item = Does>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script.into_iter().collect()), ..Self::default() })
    }

    fn take<'a>(&self, entries: impl Iterator<Item = EntryView<'a>>) {
        let mut lines = self.lines.lock();
        entries.for_each(|entry| *lines.entry(entry.message().to_owned()).or_default() += 1);
    }

    fn waits(&self) -> Vec<Duration> {
        let deliveries = self.deliveries.lock();
        deliveries.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
    }
}

impl Sink for Store {
    /// Nothing depends on it.
    fn open(&self) -> Delivery<'_> {
        Box::pin(async move {
            assert!(self.deliveries.lock().is_empty());
            match self.opened.fetch_add(1, Relaxed) {
                0 => Err(Failure::Denied { reason: "as it always does".to_owned() }),
                _ => panic!("as it always does"),
            }
        })
    }

    fn deliver<'a>(&'a self, parcel: &'a Parcel) -> Delivery<'a> {
        Box::pin(async move {
            self.deliveries.lock().push((Instant::now(), parcel.lines()));
            let reason = "as it was told".to_owned();
            let does = self.script.lock().pop_front().unwrap_or(Does::Takes);
            match does {
                Does::IsDown => return Err(Failure::Unavailable { reason, retry_after: None }),
                Does::Hangs => std::future::pending().await,
                Does::Denies => return Err(Failure::Denied { reason }),
                Does::AsksToWait(seconds) => {
                    return Err(Failure::Unavailable { reason, retry_after: Some(Duration::from_secs(seconds)) });
                }
                Does::IsTooSmallFor(lines) => {
                    // It stays so.
                    self.script.lock().push_front(does);
                    if parcel.lines() >= lines {
                        return Err(Failure::TooLarge { reason });
                    }
                }
                Does::TakesHalf if parcel.lines() > 1 => {
                    self.take(parcel.entries().step_by(2));
                    let again = (1..parcel.lines()).step_by(2).collect();
                    return Err(Failure::Partly { again, never: Vec::new(), reason, retry_after: None });
                }
                Does::Panics => panic!("as it was told"),
                Does::WantsNone => {
                    self.script.lock().push_front(does);
                    let never = (0..parcel.lines()).collect();
                    return Err(Failure::Partly { again: Vec::new(), never, reason, retry_after: None });
                }
                Does::Takes | Does::TakesHalf => {}
            }
            assert!(parcel.entries().all(|entry| entry.message() != "curse"), "as it was told");
            if parcel.entries().any(|entry| entry.message().contains("poison")) {
                return Err(Failure::Never { reason });
            }
            self.take(parcel.entries());
            Ok(())
        })
    }

    fn probe(&self) -> Delivery<'_> {
        Box::pin(async { Ok(()) })
    }
}

fn terms() -> Terms {
    Terms {
        parcels: ParcelBounds { lines: 100, bytes: 1 << 20, age: Duration::from_secs(1) },
        concurrency_max: 4,
        deadline: Duration::from_secs(60),
        bytes_max: 1 << 20,
        dead_letters: DeadLetters::new(None, "store"),
    }
}

fn body(lines: std::ops::Range<usize>) -> String {
    lines.map(|line| format!("{{\"instance\":\"m{}\",\"message\":\"line {line}\"}}\n", line % 7)).collect()
}

async fn driven(mut outlet: Outlet, sink: Arc<dyn Sink>, terms: Terms, orders: watch::Receiver<Order>) -> Outlet {
    drive(&mut outlet, sink, terms, orders, CancellationToken::new()).await;
    outlet
}

fn outlet_of(collector: &LogCollector, filter: Option<Filter>) -> Outlet {
    outlet_with(collector, filter, 64 << 20)
}

fn outlet_with(collector: &LogCollector, filter: Option<Filter>, bytes_max: usize) -> Outlet {
    collector.add_outlet(OutletTerms {
        name: "store".into(),
        filter,
        full: OutletFull::DropNewest,
        bytes_max,
        is_awaited: false,
    })
}

/// Pushes `bodies`, delivers all and shuts down.
async fn delivered(store: &Arc<Store>, bodies: Vec<String>, terms: Terms) -> SinkStats {
    let collector = LogCollector::new(CollectorConfig::default());
    let outlet = outlet_of(&collector, None);
    let state = Arc::clone(outlet.state());
    for body in bodies {
        let _ = collector.push(body).unwrap();
    }
    let (_orders, told) = watch::channel(Order::Run);
    let sink: Arc<dyn Sink> = Arc::clone(store) as Arc<dyn Sink>;
    let driving = tokio::spawn(driven(outlet, sink, terms, told));
    collector.shut_down();
    driving.await.unwrap();
    let stats = state.stats();
    assert_eq!(stats.lines_in, stats.lines_delivered + stats.lines_dropped + stats.lines_in_flight, "{stats:?}");
    stats
}

#[tokio::test(start_paused = true)]
async fn every_line_arrives_whatever_the_store_does() {
    let script = [
        Does::IsDown,
        Does::Hangs,
        Does::AsksToWait(30),
        Does::Denies,
        Does::TakesHalf,
        Does::IsDown,
        Does::TakesHalf,
        Does::Panics,
        Does::Takes,
        Does::IsDown,
    ];
    let store = Store::new(script);
    let stats = delivered(&store, vec![body(0..950), body(950..1_000)], terms()).await;
    assert_eq!((stats.lines_in, stats.lines_delivered, stats.lines_in_flight), (1_000, 1_000, 0));
    assert!(stats.retries >= 7, "{stats:?}");
    assert_eq!(stats.last_error, None);
    assert_eq!(store.opened.load(Relaxed), OPEN_TRIES as usize);
    let lines = store.lines.lock();
    assert_eq!(lines.len(), 1_000);
    assert!(lines.values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_to_wait_is_left_alone_so_long() {
    let store = Store::new([Does::AsksToWait(30), Does::AsksToWait(3_600)]);
    delivered(&store, vec![body(0..10)], terms()).await;
    let waits = store.waits();
    assert_eq!(waits.len(), 2);
    assert!((Duration::from_secs(30)..Duration::from_secs(32)).contains(&waits[0]), "{waits:?}");
    // An hour is more than anybody is believed.
    assert!((RETRY_AFTER_MAX..RETRY_AFTER_MAX + BACKOFF_MAX).contains(&waits[1]), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_to_wait_gets_no_other_parcel_either() {
    let store = Store::new([Does::Takes, Does::AsksToWait(30)]);
    delivered(&store, vec![body(0..500)], terms()).await;
    // The third was under way with the second, and arrived.
    let waits = store.waits();
    assert!(waits[..2].iter().all(Duration::is_zero) && waits[2] >= Duration::from_secs(30), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn while_nothing_arrives_one_parcel_at_a_time_is_tried() {
    let store = Store::new([Does::Takes, Does::Takes, Does::Takes].into_iter().chain(vec![Does::Hangs; 12]));
    let stats = delivered(&store, vec![body(0..1_000)], terms()).await;
    assert_eq!(stats.lines_delivered, 1_000);
    // Three were under way when the first of them was found to hang.
    let waits = store.waits();
    let hanging = &waits[5..14];
    assert!(hanging.iter().all(|wait| *wait >= terms().deadline), "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn of_many_lines_only_those_are_given_up_that_are_not_wanted() {
    let store = Store::new([]);
    let poison = "{\"instance\":\"m\",\"message\":\"poison\"}\n";
    let stats = delivered(&store, vec![body(0..317) + poison + &body(317..500)], terms()).await;
    assert_eq!((stats.lines_delivered, stats.lines_dropped), (500, 1));
    assert_eq!(stats.lines_dropped_by_reason["dead_letter"], 1);
    assert_eq!(store.lines.lock().len(), 500);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_wants_nothing_is_doubted_before_everything_is_given_up() {
    let store = Store::new([]);
    let poison = "{\"instance\":\"m\",\"message\":\"poison\"}\n";
    let stats = delivered(&store, vec![poison.repeat(DOUBT + 50)], terms()).await;
    assert_eq!((stats.lines_dropped, stats.retries), (DOUBT as u64 + 50, 50));
    assert!(stats.last_error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_line_by_line_is_doubted_too() {
    let store = Store::new([Does::WantsNone]);
    let stats = delivered(&store, vec![body(0..300)], terms()).await;
    // A parcel of a hundred at once, and each of the others after a second try.
    assert_eq!((stats.lines_dropped, stats.retries), (300, 2));
}

#[tokio::test(start_paused = true)]
async fn a_few_lines_of_many_batches_do_not_hold_them_all() {
    let (store, collector) = (Store::new([]), LogCollector::default());
    let filter = Filter { machines: vec!["m0".to_owned()], ..Filter::default() };
    // As a sink has it: one bound for what waits and for what is in hand.
    let bytes_max = 100_000;
    let outlet = outlet_with(&collector, Some(filter), bytes_max);
    let state = Arc::clone(outlet.state());
    let (_orders, told) = watch::channel(Order::Run);
    let sink: Arc<dyn Sink> = Arc::clone(&store) as Arc<dyn Sink>;
    let parcels = ParcelBounds { lines: 10_000, age: Duration::from_secs(3_600), ..terms().parcels };
    let driving = tokio::spawn(driven(outlet, sink, Terms { parcels, bytes_max, ..terms() }, told));
    for at in 0..50 {
        let _ = collector.push(body(at * 100..(at + 1) * 100)).unwrap();
        // Nothing is slow here.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let stats = state.stats();
    assert_eq!(stats.lines_dropped, 0, "for want of room that few lines took: {stats:?}");
    collector.shut_down();
    driving.await.unwrap();
    assert_eq!(state.stats().lines_delivered, 715);
}

#[tokio::test(start_paused = true)]
async fn lines_that_a_sink_panics_at_are_given_up_and_no_others() {
    let store = Store::new([]);
    let curse = "{\"instance\":\"m\",\"message\":\"curse\"}\n";
    let stats = delivered(&store, vec![body(0..30) + curse + &body(30..60)], terms()).await;
    assert_eq!((stats.lines_delivered, stats.lines_dropped_by_reason["dead_letter"]), (60, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_goes_in_parts_and_in_order() {
    let store = Store::new([Does::IsTooSmallFor(8)]);
    let stats = delivered(&store, vec![body(0..100)], Terms { concurrency_max: 1, ..terms() }).await;
    assert_eq!((stats.lines_delivered, stats.lines_dropped), (100, 0));
    let sizes: Vec<usize> =
        store.deliveries.lock().iter().map(|(_, lines)| *lines).filter(|lines| *lines < 8).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_paused_sink_delivers_nothing_until_it_goes_on() {
    let collector = LogCollector::default();
    let outlet = outlet_of(&collector, None);
    let state = Arc::clone(outlet.state());
    let (orders, told) = watch::channel(Order::Pause);
    let store = Store::new([]);
    let sink: Arc<dyn Sink> = Arc::clone(&store) as Arc<dyn Sink>;
    let driving = tokio::spawn(driven(outlet, sink, terms(), told));
    let _ = collector.push(body(0..10)).unwrap();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!((state.stats().lines_in_flight, store.lines.lock().len()), (10, 0));
    orders.send(Order::Run).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((state.stats().lines_in_flight, store.lines.lock().len()), (0, 10));
    collector.shut_down();
    driving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_room_in_memory_one_parcel_at_a_time_goes() {
    let begun = async |has_room: bool| {
        let collector = LogCollector::default();
        let outlet = outlet_of(&collector, None);
        let state = Arc::clone(outlet.state());
        let _ = collector.push(body(0..400)).unwrap();
        let budget = collector.budget();
        let rest = budget.body_bytes_max() - budget.used() - 1;
        let _rest = (!has_room).then(|| budget.try_reserve(rest).unwrap());
        // Six that arrive make room for four at once; two more there are.
        let store = Store::new(vec![Does::Takes; 6].into_iter().chain([Does::Hangs, Does::Hangs]));
        let (_orders, told) = watch::channel(Order::Run);
        let sink: Arc<dyn Sink> = Arc::clone(&store) as Arc<dyn Sink>;
        let parcels = ParcelBounds { lines: 50, ..terms().parcels };
        let driving = tokio::spawn(driven(outlet, sink, Terms { parcels, ..terms() }, told));
        tokio::time::sleep(Duration::from_secs(30)).await;
        let begun = store.deliveries.lock().len();
        collector.shut_down();
        driving.await.unwrap();
        assert_eq!(state.stats().lines_delivered, 400);
        begun
    };
    assert_eq!((begun(true).await, begun(false).await), (8, 7));
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        3 => Just(Does::Takes),
        1 => Just(Does::IsDown),
        1 => Just(Does::Hangs),
        1 => Just(Does::Denies),
        1 => (0u64..100).prop_map(Does::AsksToWait),
        1 => Just(Does::TakesHalf),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_wanted_is_delivered_once_and_in_the_balance(
        script in prop::collection::vec(does(), 0..30),
        sizes in prop::collection::vec(1usize..300, 1..6),
        (lines, bytes, concurrency_max) in (1usize..120, 20usize..4_000, 1usize..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let mut at = 0;
        let bodies: Vec<String> = sizes.iter().map(|size| { at += size; body(at - size..at) }).collect();
        let parcels = ParcelBounds { lines, bytes, age: Duration::from_millis(10) };
        let store = Store::new(script);
        let stats = runtime.block_on(delivered(&store, bodies, Terms { parcels, concurrency_max, ..terms() }));
        prop_assert_eq!((stats.lines_in, stats.lines_delivered), (at as u64, at as u64));
        let taken = store.lines.lock();
        prop_assert_eq!(taken.len(), at);
        prop_assert!(taken.values().all(|times| *times == 1));
    }
}
