//! Exits and boot lines over a restart.

use tokio::time::Duration;

use super::*;
use crate::{config::BootLines, exit::ExitStatus};

fn fly(provider: &str, message: &str) -> String {
    format!(r#"{{"event":{{"provider":"{provider}"}},"fly":{{"app":{{"instance":"m"}}}},"message":"{message}"}}"#)
        + "\n"
}

fn collector(dir: &Dir, boot_lines: BootLines) -> LogCollector {
    let config = CollectorConfig { history_bytes: 0, boot_lines, ..CollectorConfig::default() };
    LogCollector::with_spool(config, dir.path(), Bounds::new(1 << 30)).unwrap()
}

#[tokio::test]
async fn what_a_line_was_by_kind_it_stays_when_boot_lines_is_changed() {
    let dir = Dir::new();
    let body = |number: u32| {
        fly("app", &format!("{number}a")) + &fly("app", " INFO Starting clean up.") + &fly("app", &format!("{number}b"))
    };
    let settings = [BootLines::Stdout, BootLines::System, BootLines::Stdout];
    for (round, boot_lines) in settings.into_iter().enumerate() {
        let collector = collector(&dir, boot_lines);
        drop(collector.subscribe("m").unwrap());
        (0..10).for_each(|number| drop(collector.push(body(10 * round as u32 + number)).unwrap()));
        collector.close_spool();
    }
    for boot_lines in BootLines::ALL {
        let collector = collector(&dir, boot_lines);
        let options = SubscribeOptions { backlog: true, ..SubscribeOptions::default() };
        if boot_lines == BootLines::Stdout {
            let mut stream = LogStream::new(collector.subscribe_with("m", options).unwrap().0);
            let lines = drain(&mut stream).await;
            assert_eq!(lines.len(), 30 + 20 + 30, "those of the second round are system");
            check_balance(&collector);
            let stats = assert_balanced(&collector);
            assert_eq!((stats.queue_lines, stats.queue_lines_delivered), (0, 80));
        }
        let (messages, _, _, skipped) = play(&mut view(&collector, &backlog())).await;
        assert_eq!((messages.len(), skipped), (90, 0));
        collector.close_spool();
    }
}

#[cfg(feature = "server")]
#[tokio::test]
async fn an_exit_of_before_the_restart_is_found_on_the_disk() {
    let linger = Duration::from_secs(30);
    let exited = fly("runner", "machine exited with exit code 9, not restarting");
    // What came behind the exit, and whether it ended the log.
    for (behind, expected) in [(0, Some(9)), (3, Some(9)), (100, None)] {
        let dir = Dir::new();
        {
            let collector = collector(&dir, BootLines::Stdout);
            let _ = collector.push(fly("app", "a")).unwrap();
            let _ = collector.push(exited.clone()).unwrap();
            (0..behind).for_each(|_| drop(collector.push(fly("app", "late")).unwrap()));
            collector.close_spool();
        }
        let collector = collector(&dir, BootLines::Stdout);
        collector.recall_exit("m");
        collector.recall_exit("never seen");
        let view = view(&collector, &backlog()).until_exit(linger, true);
        assert_eq!(view.exit_told().map(ExitStatus::code), expected.map(Some), "{behind} lines behind it");
    }
}
