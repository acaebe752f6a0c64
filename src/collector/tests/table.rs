//! Who is remembered, for how long, and what that costs.

use tokio::time::advance;

use super::{outlet::Wants, *};
use crate::collector::machine::{MachineState, Places};
use crate::stream::{
    LogStream,
    view::{MachineView, Seen, ViewStart},
};

fn known(collector: &LogCollector) -> Vec<String> {
    let mut ids: Vec<_> = collector.all_machines().iter().map(|machine| machine.id.to_string()).collect();
    ids.sort();
    ids
}

#[tokio::test(start_paused = true)]
async fn a_full_table_forgets_the_least_recent_but_never_one_that_somebody_wants() {
    let collector = small(|config| config.machines.max = 4);
    let subscribed = collector.subscribe("subscribed").unwrap();
    let view = MachineView::new(&collector, "watched", &ViewStart::default(), |_| true);
    let finished = collector.subscribe("finished, and read").unwrap();
    collector.finish("finished, and read");
    for number in 0..20 {
        advance(Duration::from_secs(1)).await;
        let _ = push_numbers(&collector, &format!("m{number}"), 0..1).unwrap();
    }
    assert_eq!(known(&collector), ["finished, and read", "m19", "subscribed", "watched"]);
    assert_eq!(collector.stats().machines, 3, "who is waited for was not seen");
    drop((subscribed, view, finished));
    advance(Duration::from_secs(1)).await;
    let _ = push_numbers(&collector, "last", 0..1).unwrap();
    assert!(known(&collector).contains(&"subscribed".to_owned()), "subscribed, though nobody reads it");
    assert_eq!(known(&collector).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn machines_are_kept_as_long_as_they_must_be() {
    let collector = small(|config| {
        config.machines.idle_expire = Duration::from_secs(100);
        config.machines.finished_keep = Duration::from_secs(50);
    });
    let queue = collector.subscribe("finished").unwrap();
    let _subscribed = collector.subscribe("subscribed").unwrap();
    let _ = push(&collector, &[("idle", Kind::Stdout, "0"), ("finished", Kind::Stdout, "1")]).unwrap();
    collector.finish("finished");
    advance(Duration::from_secs(60)).await;
    collector.maintain();
    assert_eq!(known(&collector), ["finished", "idle", "subscribed"], "who is read stays");
    drop(queue);
    advance(Duration::from_secs(30)).await;
    collector.maintain();
    assert_eq!(known(&collector), ["idle", "subscribed"]);
    assert_eq!(assert_balanced(&collector).queue_lines_dropped_by_reason["abandoned"], 1);
    let lost = collector.losses(None, Some("finished")).entries;
    assert_eq!((&*lost[0].reason, lost[0].lines), ("abandoned", Some(1)), "before it was forgotten");
    advance(Duration::from_secs(60)).await;
    collector.maintain();
    assert_eq!(known(&collector), ["subscribed"]);
    // What is held of it is found, and it counts on.
    let messages = || {
        let mut view =
            MachineView::new(&collector, "idle", &ViewStart { backlog: true, ..ViewStart::default() }, |_| true);
        let mut messages = Vec::new();
        while let Some(Seen::Lines(lines)) = view.step() {
            messages.extend(lines.entries().map(|entry| (entry.message().to_owned(), entry.machine_seq().unwrap())));
        }
        messages
    };
    assert_eq!(messages(), [("0".to_owned(), 1)]);
    assert!(collector.machine_facts("idle").is_none(), "who is looked for was not seen");
    advance(Duration::from_secs(100)).await;
    collector.maintain();
    assert_eq!(known(&collector), ["subscribed"]);
    let _ = push_numbers(&collector, "idle", 1..2).unwrap();
    let _ = push_numbers(&collector, "fresh", 1..2).unwrap();
    assert_eq!(messages(), [("0".to_owned(), 1), ("1".to_owned(), 2)]);
    let [idle, fresh] = ["idle", "fresh"].map(|id| collector.machine_facts(id).unwrap());
    assert_eq!((idle.lines, fresh.lines), (2, 1));
    assert!(idle.bytes > fresh.bytes, "{} {}", idle.bytes, fresh.bytes);
}

#[tokio::test(start_paused = true)]
async fn of_a_machine_that_was_forgotten_nothing_is_kept_once_its_lines_are_gone() {
    let collector = small(|config| {
        config.machines.idle_expire = Duration::from_secs(1);
        config.history_bytes = 1;
    });
    let _ = push_numbers(&collector, "gone", 0..3).unwrap();
    let _ = push_numbers(&collector, "held", 0..1).unwrap();
    advance(Duration::from_secs(2)).await;
    collector.maintain();
    let is_kept = |id| collector.shared.forgotten.get(id).is_some();
    assert_eq!((known(&collector).len(), is_kept("gone"), is_kept("held")), (0, false, true));
    let _ = push_numbers(&collector, "other", 0..1).unwrap();
    advance(Duration::from_secs(1)).await;
    collector.maintain();
    assert!(!is_kept("held"));
}

#[tokio::test(start_paused = true)]
async fn a_machine_chosen_to_be_forgotten_but_wanted_since_stays() {
    let collector = small(|_| {});
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    let machine = collector.known("m").unwrap();
    let queue = collector.subscribe("m").unwrap();
    collector.forget(&machine);
    let _ = push_numbers(&collector, "m", 1..2).unwrap();
    assert_eq!(LogStream::new(queue).next().await.unwrap().message(), "1");
}

#[tokio::test(start_paused = true)]
async fn a_body_on_its_way_in_brings_a_forgotten_machine_back_alive() {
    let collector = small(|_| {});
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    collector.finish("m");
    let draft = draft(&collector, &[("m", Kind::Stdout, "1")], Timestamp::now()).unwrap();
    let machines = collector.machines_of(&draft.batch);
    collector.forget(&collector.known("m").unwrap());
    let published = collector.publish(draft.batch, machines, Vec::new(), Wants::default());
    assert_eq!(published.unwrap(), (0, 0, 1));
    assert_eq!(collector.machine_facts("m").unwrap().state, "live");
    assert_eq!(collector.stats().machines, 1);
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_bounded() {
    let collector = small(|config| config.queue.subscriptions_max = 2);
    let _one = collector.subscribe("a").unwrap();
    let _two = collector.subscribe("b").unwrap();
    assert_eq!(collector.subscribe("c").unwrap_err(), SubscribeError::TooMany { bound: 2 });
    assert!(collector.subscribe("a").is_ok());
    collector.finish("a");
    assert!(collector.subscribe("c").is_ok());
    assert_eq!(collector.subscribe("").unwrap_err(), SubscribeError::BadId { bytes: 0 });
    assert_eq!(collector.subscribe(&"x".repeat(129)).unwrap_err(), SubscribeError::BadId { bytes: 129 });
}

/// A ratchet: shrink it, or say in the commit what a hundred thousand machines pay for.
#[test]
fn a_machine_stays_small() {
    assert!(size_of::<Machine>() <= 176, "{}", size_of::<Machine>());
    assert!(size_of::<Queue>() <= 208, "{}", size_of::<Queue>());
}

/// Bytes that the process has in use, by the allocator's own count of resident pages.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// `cargo test --lib costs -- --ignored --nocapture --test-threads 1`
#[test]
#[ignore = "measures the whole process: alone, by hand"]
fn what_a_machine_costs() {
    const COUNT: usize = 200_000;
    println!("Machine {} B, state {} B", size_of::<Machine>(), size_of::<MachineState>());
    println!("Queue {} B", size_of::<Queue>());
    let config = CollectorConfig { budget_bytes: 1 << 30, history_bytes: 1, ..CollectorConfig::default() };
    let collector = LogCollector::new(config);
    let before = resident();
    for number in 0..COUNT {
        let _ = push_numbers(&collector, &format!("{number:014x}"), 0..1).unwrap();
    }
    let seen = resident();
    println!("a machine seen: {} B", (seen - before) / COUNT);
    for number in 0..COUNT {
        drop(collector.subscribe(&format!("{number:014x}")).unwrap());
    }
    println!("its subscription: {} B", (resident() - seen) / COUNT);
}

#[tokio::test(start_paused = true)]
async fn the_age_of_what_is_still_to_be_caught_up_is_told() {
    let collector = small(|config| config.queue.lines = 1);
    let queue = collector.subscribe("m").unwrap();
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    advance(Duration::from_secs(10)).await;
    for number in 1..3 {
        let _ = push_numbers(&collector, "m", number..number + 1).unwrap();
        advance(Duration::from_secs(10)).await;
    }
    let mut stream = LogStream::new(queue);
    for age in [30.0, 20.0, 10.0] {
        let facts = collector.machine_facts("m").unwrap();
        assert_eq!((facts.lag_seconds, collector.stats().oldest_entry_age_seconds), (age, age));
        stream.next().await.unwrap();
    }
    assert_eq!(collector.stats().oldest_entry_age_seconds, 0.0);
}

#[cfg(feature = "server")]
#[test]
fn who_consumes_a_queue_never_reopens_a_machine_that_is_finished_meanwhile() {
    let collector = small(|_| {});
    for round in 0..500 {
        let id = format!("m{round}");
        let first = collector.subscribe(&id).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| collector.finish(&id));
            let consumed = collector.queue_to_consume(&id, SubscribeOptions::default()).unwrap();
            assert!(matches!(consumed, Consume::Queue(queue) if queue.is_same(&first)));
        });
        assert_eq!(collector.machine_facts(&id).unwrap().state, "finished");
    }
}

#[test]
fn what_was_missed_since_an_evicted_line_of_another_machine_is_unknown() {
    let collector = small(|config| config.history_bytes = 2000);
    for number in 0..40 {
        let _ = push_numbers(&collector, ["other", "m"][usize::from(number > 0)], number..number + 1).unwrap();
    }
    let id = |line, machine_seq, machine| EntryId {
        epoch: collector.epoch(),
        line,
        machine_seq,
        machine: EntryId::mark(machine),
    };
    let first_seen = |after| {
        let start = ViewStart { after: Some(after), ..ViewStart::default() };
        MachineView::new(&collector, "m", &start, |_| true).step()
    };
    assert!(matches!(first_seen(id(0, 1, "other")), Some(Seen::Skipped(None))));
    assert!(matches!(first_seen(id(1, 1, "m")), Some(Seen::Skipped(Some(lost))) if (1..39).contains(&lost)));
}

#[test]
fn a_machine_counts_once_it_is_seen_and_until_it_is_forgotten() {
    let collector = small(|config| config.machines.idle_expire = Duration::ZERO);
    let view = MachineView::new(&collector, "m", &ViewStart::default(), |_| true);
    let count = || (collector.stats().machines, collector.all_machine_facts().len());
    assert_eq!(count(), (0, 0));
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    let _ = push_numbers(&collector, "m", 1..2).unwrap();
    drop(collector.subscribe("subscribed").unwrap());
    assert_eq!(count(), (2, 2));
    drop(view);
    collector.maintain();
    assert_eq!(count(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_machine_is_first_seen_once_until_it_is_forgotten() {
    let collector = small(|config| config.machines.idle_expire = Duration::from_secs(50));
    let first_seen = |collector: &LogCollector| {
        let at = collector.machine_facts("m").unwrap().first_seen.duration_since(collector.shared.started_at);
        at.as_secs()
    };
    advance(Duration::from_secs(7)).await;
    let _ = push_numbers(&collector, "m", 0..1).unwrap();
    advance(Duration::from_secs(40)).await;
    let _ = push_numbers(&collector, "m", 1..2).unwrap();
    drop(collector.subscribe("m").unwrap());
    assert_eq!(first_seen(&collector), 7);
    collector.finish("m");
    collector.forget(&collector.known("m").unwrap());
    let _ = push_numbers(&collector, "m", 2..3).unwrap();
    assert_eq!(first_seen(&collector), 47, "its counters have begun anew");
}

#[test]
fn machines_share_the_names_of_their_app_and_region() {
    let collector = LogCollector::default();
    let names = |id: &str| {
        let facts = collector.machine_facts(id).unwrap();
        (facts.app_name, facts.region)
    };
    let record = |id: &str, app: &str, region: &str| {
        let fly = format!(r#"{{"app":{{"instance":"{id}","name":"{app}"}},"region":"{region}"}}"#);
        let _ = collector.push(format!("{{\"fly\":{fly}}}")).unwrap();
    };
    record("a", "web", "lax");
    record("b", "web", "lax");
    record("b", "", "");
    assert_eq!((names("a"), names("b")), (("web".into(), "lax".into()), ("web".into(), "lax".into())));
    let place = |id: &str| collector.known(id).unwrap().state.lock().place.clone().unwrap();
    assert!(Arc::ptr_eq(&place("a"), &place("b")));
    record("b", "", "ams");
    assert_eq!((names("a").1, names("b")), ("lax".into(), ("web".into(), "ams".into())));
    for number in 0..Places::MAX + 10 {
        record("c", &number.to_string(), "lax");
    }
    assert!(collector.shared.publisher.lock().places.table.len() <= Places::MAX);
    assert_eq!((names("a").0, names("c").0), ("web".into(), (Places::MAX + 9).to_string()));
}
