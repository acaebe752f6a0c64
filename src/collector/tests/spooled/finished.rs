//! Machines that are finished stay so over a restart.

use jiff::Timestamp;
use tokio::time::{Duration, Instant, advance};

use super::*;
use crate::{collector::Lingering, queue::Ended, spool::Spool};

fn ended(collector: &LogCollector, machine: &str) -> Option<Ended> {
    collector.known(machine).and_then(|machine| machine.state.lock().ended())
}

/// Stops it, and starts the next one.
fn restarted(collector: LogCollector, dir: &Dir) -> LogCollector {
    collector.shut_down();
    collector.close_spool();
    drop(collector);
    dir.open()
}

#[tokio::test]
async fn a_finished_machine_stays_so_until_it_is_subscribed_anew() {
    let dir = Dir::new();
    let first = dir.open();
    push_bodies(&first, 0..3);
    assert!(first.finish("m"));
    let mut second = restarted(first, &dir);
    for _ in 0..2 {
        assert_eq!((ended(&second, "m"), ended(&second, "other")), (Some(Ended::Finished), None));
        let mut all = view(&second, &backlog());
        let (messages, _, ids, _) = play(&mut all).await;
        assert_eq!(messages, lines_of_m(0..3));
        assert!(all.is_over(), "it waits for nothing");
        let behind = ViewStart { after: ids.last().copied(), ..ViewStart::default() };
        assert!(view(&second, &behind).is_over(), "who resumes behind the last line is told so");
        drop(all);
        // And once more, of one that was itself taken up.
        second = restarted(second, &dir);
    }
    drop(second.subscribe("m").unwrap());
    let third = restarted(second, &dir);
    assert_eq!(ended(&third, "m"), None);
}

#[tokio::test(start_paused = true)]
async fn what_was_to_be_finished_is_finished_by_the_next_process() {
    let dir = Dir::new();
    let first = dir.open();
    push_bodies(&first, 0..3);
    drop(first.subscribe("other").unwrap());
    for machine in ["m", "other"] {
        let lingering = first.linger_until(machine, Instant::now() + Duration::from_secs(3600));
        assert!(matches!(lingering, Lingering::Wanted(_)));
    }
    let second = restarted(first, &dir);
    second.maintain();
    assert_eq!((ended(&second, "m"), ended(&second, "other")), (None, None), "its time has not come");
    push_bodies(&second, 3..4);
    advance(Duration::from_secs(3601)).await;
    second.maintain();
    assert_eq!((ended(&second, "m"), ended(&second, "other")), (Some(Ended::Finished), Some(Ended::Finished)));
    let mut all = view(&second, &backlog());
    assert_eq!(play(&mut all).await.0, lines_of_m(0..4), "what came in time is part of it");
}

#[tokio::test]
async fn a_finish_counts_from_when_it_was_not_from_the_restart() {
    let dir = Dir::new();
    let first = dir.open();
    push_bodies(&first, 0..1);
    first.close_spool();
    drop(first);
    let spool = Spool::open(dir.path(), Bounds::new(1 << 30), None).unwrap();
    let ago = |time: Duration| Timestamp::now().saturating_sub(time).unwrap();
    // The default is an hour.
    spool.set_finished("m", ago(Duration::from_secs(3601)));
    spool.set_finished("other", ago(Duration::from_secs(60)));
    spool.shut();
    drop(spool);
    let second = dir.open();
    assert_eq!((ended(&second, "m"), ended(&second, "other")), (None, Some(Ended::Finished)));
    second.close_spool();
    let kept = second.spool().unwrap().finished();
    let [(machine, at)] = &*kept else { panic!("{kept:?}") };
    assert!(machine == "other" && *at <= ago(Duration::from_secs(59)), "{at}");
}

#[tokio::test]
async fn a_queue_that_is_noted_is_not_found_beside_its_machines_end_of_before() {
    let dir = Dir::new();
    let first = dir.open();
    push_bodies(&first, 0..1);
    assert!(first.finish("m"));
    first.store_positions(true);
    drop(first.subscribe("m").unwrap());
    // The spool stores its tables on its own, too: what a kill would leave then is what they hold now.
    first.spool().unwrap().store_tables().unwrap();
    assert!(first.spool().unwrap().finished().iter().all(|(machine, _)| machine != "m"));
    assert!(first.spool().unwrap().positions().iter().any(|(machine, _)| machine == "m"));
}
