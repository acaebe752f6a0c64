//! `stats` and `sinks` of the binary against a drain of the binary: what one answers, the other understands.

use crate::support::{
    Client,
    drain::{Drain, run},
    fly_record, text,
};

/// What a command says of `drain`, which is content.
fn says(drain: &Drain, args: &[&str]) -> String {
    let url = format!("http://{}", drain.control);
    let (code, out, err) = run(args, &[("FLEETDRAIN_URL", &url)]);
    assert_eq!((code, err.as_str()), (0, ""), "{args:?}: {out}");
    out
}

/// The words of the line of `table` that begins with `name`.
fn row<'a>(table: &'a str, name: &str) -> Vec<&'a str> {
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|row| row.first() == Some(&name)).unwrap_or_else(|| panic!("no {name}: {table}"))
}

/// Waits until the sink `name` has delivered `lines`, as `sinks` tells it.
fn delivered(drain: &Drain, name: &str, lines: &str) -> Vec<String> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let table = says(drain, &["sinks"]);
        let row = row(&table, name);
        if row[4] == lines {
            return row.iter().map(ToString::to_string).collect();
        }
        assert!(std::time::Instant::now() < deadline, "{table}");
        std::thread::yield_now();
    }
}

async fn post(drain: &Drain, lines: usize) {
    let body: Vec<String> = (0..lines).map(|line| fly_record("m1", &format!("line {line}"))).collect();
    assert_eq!(Client::connect(drain.ingest).await.post(&[], body.join("\n")).await.0, hyper::StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stats_and_sinks_tell_of_a_drain_that_runs() {
    let drain = Drain::start(&[("FLEETDRAIN_SINKS__NOWHERE__TYPE", "null")]);
    post(&drain, 1234).await;
    let told = delivered(&drain, "nowhere", "1,234");
    assert_eq!(told[..7], ["nowhere", "null", "running", "1,234", "1,234", "0", "0"]);

    let stats = says(&drain, &["stats"]);
    assert_eq!(row(&stats, "lines_received"), ["lines_received", "1,234"]);
    assert_eq!(row(&stats, "lines_accepted"), ["lines_accepted", "1,234"]);
    assert_eq!(row(&stats, "queue_lines_dropped_by_reason.queue_full")[1], "0");
    let json: serde_json::Value = serde_json::from_str(&says(&drain, &["stats", "--json"])).unwrap();
    crate::support::assert_balances(&json);
    // No counter is left out of the table, and none is made up.
    let answer: serde_json::Value = serde_json::from_str(&text(drain.control, "/api/v1/stats").await).unwrap();
    for name in answer.as_object().unwrap().keys() {
        assert!(stats.lines().any(|line| line.starts_with(name.as_str())), "{name}: {stats}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_runs_is_paused_resumed_and_sent_back() {
    let dir = format!("{}/cli-rewind-spool", env!("CARGO_TARGET_TMPDIR"));
    let _ = std::fs::remove_dir_all(&dir);
    let drain = Drain::start(&[("FLEETDRAIN_SINKS__NOWHERE__TYPE", "null"), ("FLEETDRAIN_SPOOL__DIR", &dir)]);
    let paused = says(&drain, &["sinks", "pause", "nowhere"]);
    assert_eq!(row(&paused, "nowhere")[2], "paused");
    post(&drain, 100).await;
    assert_eq!(row(&says(&drain, &["sinks"]), "nowhere")[4], "0");
    says(&drain, &["sinks", "resume", "nowhere"]);
    delivered(&drain, "nowhere", "100");
    let would = says(&drain, &["sinks", "rewind", "nowhere", "--since", "1h", "--dry-run"]);
    assert!(would.starts_with("nowhere: 100 lines") && would.contains("would be"), "{would}");
    let does = says(&drain, &["sinks", "rewind", "nowhere", "--since", "1h"]);
    assert!(does.starts_with("nowhere: 100 lines") && does.contains("are delivered again"), "{does}");
    delivered(&drain, "nowhere", "200");
}
