//! What becomes of messages that the drain does not take at once. No server is there: the connection is tried in vain.

use super::*;
use crate::collector::CollectorConfig;

const RECORD_BYTES: usize = 1 << 10;

fn source(collector: &LogCollector, change: impl FnOnce(&mut Config)) -> FlySource {
    let mut config = Config::default();
    config.fly.url = "nats://127.0.0.1:1".to_owned();
    config.fly.canary = false;
    change(&mut config);
    FlySource::new(&config, collector.clone(), Arc::default(), Arc::default(), Box::new(|_, _| {}))
}

fn small(budget_bytes: usize) -> LogCollector {
    LogCollector::new(CollectorConfig { budget_bytes, history_bytes: 0, ..CollectorConfig::default() })
}

/// A record of so many bytes.
fn message(bytes: usize) -> Message {
    let (start, end) = ("{\"instance\":\"m\",\"message\":\"", "\"}");
    let payload = format!("{start}{}{end}", "x".repeat(bytes - start.len() - end.len()));
    Message {
        subject: "logs.app.ams.m".into(),
        reply: None,
        length: payload.len(),
        payload: payload.into(),
        headers: None,
        status: None,
        description: None,
    }
}

/// Messages of these sizes, handed on as one batch.
async fn hand_on(source: &mut FlySource, sizes: impl IntoIterator<Item = usize>) {
    let mut inbox = source.connect().await.unwrap();
    sizes.into_iter().for_each(|bytes| source.add(&message(bytes)));
    source.hand_on(&mut inbox).await;
}

fn lost(source: &FlySource) -> (u64, u64) {
    let journaled: u64 = source.collector.losses(None, None).entries.iter().filter_map(|loss| loss.lines).sum();
    (source.counters.overflow(), journaled)
}

#[tokio::test]
async fn of_a_batch_that_is_too_large_only_what_is_so_alone_is_lost() {
    let collector = small(64 << 10);
    let mut source = source(&collector, |config| config.fly.pending_max = 1);
    let sizes = (0..100).map(|at| if at == 41 { 1 << 20 } else { RECORD_BYTES });
    hand_on(&mut source, sizes).await;
    assert_eq!((collector.stats().lines_received, lost(&source)), (99, (1, 1)));
    assert_eq!(source.counters.snapshot().messages, 100);
}

#[tokio::test]
async fn a_batch_that_would_fill_the_budget_goes_in_parts() {
    let collector = small(64 << 10);
    let mut source = source(&collector, |config| config.fly.pending_max = 8);
    assert_eq!(collector.budget().used(), 8 * PENDING_BYTES);
    let sizes = vec![RECORD_BYTES; collector.budget().body_bytes_max() / RECORD_BYTES - 4];
    hand_on(&mut source, sizes.clone()).await;
    assert_eq!((collector.stats().lines_received, lost(&source)), (sizes.len() as u64, (0, 0)));
}

#[tokio::test]
async fn what_a_drain_that_is_shutting_down_does_not_take_is_counted_once() {
    let collector = small(64 << 10);
    collector.shut_down();
    let mut source = source(&collector, |_| {});
    hand_on(&mut source, [RECORD_BYTES; 3]).await;
    assert_eq!((collector.stats().lines_received, lost(&source)), (0, (3, 3)));
    assert_eq!(source.counters.snapshot().messages, 3);
}

#[cfg(feature = "spool")]
#[tokio::test(start_paused = true)]
async fn a_batch_whose_sync_failed_is_offered_again() {
    use crate::spool::{
        Bounds, Spool,
        sim::{Faults, Sim},
    };

    let sim = Sim::new(1);
    let open = |observer| Spool::open_on(Arc::new(sim.clone()), Bounds::new(1 << 30), Some(observer));
    let collector = LogCollector::over_spool(CollectorConfig::default(), open).unwrap();
    let mut source = source(&collector, |_| {});
    sim.set_faults(Faults { syncs_fail: 1, ..Faults::default() });
    hand_on(&mut source, [RECORD_BYTES; 3]).await;
    let stats = collector.stats();
    assert_eq!((stats.lines_received, stats.lines_accepted, lost(&source)), (3, 3, (0, 0)));
    collector.close_spool();
}

#[tokio::test]
async fn what_may_wait_is_divided_among_the_subjects_and_charged() {
    let subjects = |count: usize| (0..count).map(|at| format!("logs.app{at}.>")).collect::<Vec<_>>();
    let free = 1 << 20;
    for (count, pending_max, taken, each) in [
        (1, 100, 0, 100),
        (4, 100, 0, 25),
        (3, 100, 0, 33),
        // An eighth of the budget at most.
        (1, 10_000, 0, 128),
        (2, 10_000, 0, 64),
        // At least one of each.
        (5, 3, 0, 1),
        // What room there is.
        (1, 100, 850 << 10, 25),
        (2, 100, free, 1),
    ] {
        let collector = small(free);
        let _other = collector.budget().try_reserve(taken.min(collector.budget().body_bytes_max())).unwrap();
        let before = collector.budget().used();
        let source = source(&collector, |config| {
            (config.fly.subjects, config.fly.pending_max) = (subjects(count), pending_max);
        });
        let charged = if taken < free { each * count * PENDING_BYTES } else { 0 };
        let found = (source.pending.each, collector.budget().used() - before);
        assert_eq!(found, (each, charged), "{count} subjects, {pending_max} at most, {taken} bytes taken");
    }
}

#[test]
fn halves_are_of_whole_lines_and_in_order() {
    let told = |body: &str| halves(body.as_bytes()).map(|(first, second)| [first, second].map(|half| half.to_vec()));
    let expected = |first: &str, second: &str| Some([first, second].map(|half| half.as_bytes().to_vec()));
    assert_eq!(told("aa\nbb\ncc\ndd\n"), expected("aa\nbb\n", "cc\ndd\n"));
    assert_eq!(told("aaaaaaaa\nb\n"), expected("aaaaaaaa\n", "b\n"));
    assert_eq!(told("a\nbbbbbbbb\n"), expected("a\n", "bbbbbbbb\n"));
    assert_eq!((told("aaaa\n"), told("\n")), (None, None));
}
