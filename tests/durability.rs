//! What is acknowledged is there after any end of the process: the real binary, a real directory, SIGKILL and SIGTERM.

#![cfg(all(feature = "cli", feature = "spool"))]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

mod support;

use std::path::{Path, PathBuf};

use hyper::{Method, StatusCode};
use serde_json::Value;
use support::{
    Client, assert_balances,
    drain::{Drain, run},
    fly_record, text,
};

/// An empty directory of a test's own.
fn dir(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("durability").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// `fleetdrain serve --spool`.
struct Spooled(Drain);

impl Spooled {
    fn start(dir: &Path) -> Self {
        Self(Drain::start(&[
            ("FLEETDRAIN_SPOOL__DIR", dir.to_str().unwrap()),
            // Little is held, so that readers find the rest on the disk.
            ("FLEETDRAIN_HISTORY__BYTES", "20KB"),
        ]))
    }

    fn kill(self) {
        self.0.kill();
    }

    /// Its exit code and what it said.
    fn terminate(self) -> (i32, String) {
        self.0.signal("-TERM");
        self.0.wait()
    }

    async fn post(&self, headers: &[(&str, &str)], body: String) -> Value {
        let response = Client::connect(self.0.ingest).await.send(Method::POST, "/", headers, body).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["fleetdrain-ack"], "disk");
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    async fn assert_balances(&self) {
        assert_balances(&Client::connect(self.0.control).await.call(Method::GET, "/api/v1/stats").await.1);
    }

    /// The messages that a path answers, and its other lines.
    async fn messages(&self, path: &str) -> (Vec<String>, Vec<Value>) {
        let text = text(self.0.control, path).await;
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let (entries, events): (Vec<_>, Vec<_>) = lines.partition(|line| line.get("event").is_none());
        (entries.iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect(), events)
    }
}

/// 20 bodies of 5 lines each, of two machines in turn.
fn bodies(from: usize, to: usize) -> impl Iterator<Item = String> {
    let line = |number: usize| fly_record(["a", "b"][number % 2], &format!("line {number}"));
    (from..to).map(move |body| (5 * body..5 * body + 5).map(line).collect())
}

fn expected(from: usize, to: usize, machine: Option<usize>) -> Vec<String> {
    let wanted = |number: &usize| machine.is_none_or(|machine| number % 2 == machine);
    (5 * from..5 * to).filter(wanted).map(|number| format!("line {number}")).collect()
}

const NOW: &str = "follow=false";

#[tokio::test]
async fn every_acknowledged_line_is_there_after_a_kill() {
    let dir = dir("kill");
    for round in 0..4 {
        let drain = Spooled::start(&dir);
        for body in bodies(20 * round, 20 * (round + 1)) {
            drain.post(&[], body).await;
        }
        drain.assert_balances().await;
        drain.kill();
    }
    let drain = Spooled::start(&dir);
    let (all, events) = drain.messages(&format!("/api/v1/tail?since=1h&{NOW}")).await;
    assert_eq!(all, expected(0, 80, None));
    assert_eq!(events.len(), 1, "the end alone: {events:?}");
    let (of_b, _) = drain.messages(&format!("/api/v1/machines/b/logs?{NOW}")).await;
    assert_eq!(of_b, expected(0, 80, Some(1)));
    let losses = Client::connect(drain.0.control).await.call(Method::GET, "/api/v1/losses").await.1;
    assert_eq!(losses["losses"], serde_json::json!([]), "four kills have cost nothing");
    let (last, _) = drain.messages(&format!("/api/v1/machines/b/logs?{NOW}&last=7")).await;
    assert_eq!(last, expected(0, 80, Some(1))[193..]);
    drain.assert_balances().await;
}

#[tokio::test]
async fn a_view_resumes_by_id_over_restarts_without_a_gap_or_a_repeat() {
    let dir = dir("resume");
    let (mut read, mut after) = (Vec::new(), String::new());
    for round in 0..3 {
        let drain = Spooled::start(&dir);
        for body in bodies(20 * round, 20 * (round + 1)) {
            drain.post(&[], body).await;
        }
        let text = text(drain.0.control, &format!("/api/v1/tail?{NOW}&max_lines=70{after}&last=1000000")).await;
        let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        for entry in entries.filter(|line| line.get("event").is_none()) {
            read.push(entry["message"].as_str().unwrap().to_owned());
            after = format!("&after={}", entry["id"].as_str().unwrap());
        }
        drain.kill();
    }
    let drain = Spooled::start(&dir);
    let (rest, _) = drain.messages(&format!("/api/v1/tail?{NOW}{after}")).await;
    read.extend(rest);
    assert_eq!(read, expected(0, 60, None));
}

#[tokio::test]
async fn a_finished_machine_is_told_to_be_so_after_a_restart() {
    let dir = dir("finished");
    let drain = Spooled::start(&dir);
    drain.post(&[], fly_record("a", "last words")).await;
    let mut control = Client::connect(drain.0.control).await;
    assert_eq!(control.call(Method::DELETE, "/api/v1/machines/a").await.0, StatusCode::ACCEPTED);
    // What was answered is on the disk.
    drain.kill();

    let drain = Spooled::start(&dir);
    // Whoever follows a machine that is not finished waits for more: not longer than this, so that it shows.
    let told = text(drain.0.control, "/api/v1/machines/a/logs?item_timeout=10s").await;
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["message"], &lines[1]["reason"]), (&"last words".into(), &"finished".into()));
    let behind = format!("/api/v1/machines/a/logs?after={}", lines[0]["id"].as_str().unwrap());
    let answer = Client::connect(drain.0.control).await.send(Method::GET, &behind, &[], String::new()).await;
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_subscription_that_was_answered_outlives_a_kill_at_once() {
    let dir = dir("subscribed");
    let drain = Spooled::start(&dir);
    let mut control = Client::connect(drain.0.control).await;
    assert_eq!(control.call(Method::PUT, "/api/v1/machines/a").await.0, StatusCode::CREATED);
    drain.post(&[], fly_record("a", "first words")).await;
    drain.kill();

    let drain = Spooled::start(&dir);
    let queue = format!("/api/v1/machines/a/queue?{NOW}");
    assert_eq!(drain.messages(&queue).await.0, ["first words"]);
    drain.assert_balances().await;
}

#[tokio::test]
async fn the_start_says_what_the_spool_holds_and_damage_in_it_is_a_loss_to_the_verdict() {
    let dir = dir("damaged");
    let drain = Spooled::start(&dir);
    for body in bodies(0, 5) {
        drain.post(&[], body).await;
    }
    drain.kill();
    let paths = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let segment = paths.filter(|path| path.extension().is_some_and(|is| is == "seg")).min().unwrap();
    let mut content = std::fs::read(&segment).unwrap();
    content[200] ^= 4;
    std::fs::write(&segment, &content).unwrap();

    let drain = Spooled::start(&dir);
    let (status, health) = Client::connect(drain.0.control).await.call(Method::GET, "/healthz").await;
    assert_eq!(
        (status, &health["reasons"][0]["reason"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"losing".into()),
        "{health}"
    );
    let (_, losses) = Client::connect(drain.0.control).await.call(Method::GET, "/api/v1/losses?since=1h").await;
    let lost = &losses["losses"][0];
    assert_eq!((&lost["where"], &lost["reason"], &lost["lines"]), (&"spool".into(), &"corrupt".into(), &5.into()));
    let (read, events) = drain.messages(&format!("/api/v1/machines/b/logs?{NOW}")).await;
    assert_eq!(read, expected(1, 5, Some(1)));
    assert_eq!(events[0], serde_json::json!({"event": "skipped", "lines": null}), "nobody knows whose they were");
    let (code, said) = drain.terminate();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("lines of before, the oldest received"), "{said}");
}

#[tokio::test]
async fn a_machine_that_only_the_disk_knows_can_be_finished() {
    let dir = dir("recalled");
    let drain = Spooled::start(&dir);
    drain.post(&[], fly_record("a", "before")).await;
    drain.kill();

    let drain = Spooled::start(&dir);
    let mut control = Client::connect(drain.0.control).await;
    assert_eq!(control.call(Method::DELETE, "/api/v1/machines/unknown").await.0, StatusCode::NOT_FOUND);
    assert_eq!(control.call(Method::DELETE, "/api/v1/machines/a?linger=1ms").await.0, StatusCode::ACCEPTED);
    let (messages, events) = drain.messages("/api/v1/machines/a/logs").await;
    assert_eq!((messages, &events[0]["reason"]), (vec!["before".to_owned()], &"finished".into()));
}

#[tokio::test]
async fn a_repeated_idempotency_key_is_known_after_a_kill() {
    let dir = dir("keys");
    let body = fly_record("a", "once") + "broken\n";
    let key = [("idempotency-key", "order 66")];
    let drain = Spooled::start(&dir);
    let first = drain.post(&key, body.clone()).await;
    drain.kill();
    let drain = Spooled::start(&dir);
    let again = drain.post(&key, body).await;
    assert_eq!(again["duplicate"], true);
    for count in ["received", "accepted", "filtered", "unrouted", "rejected"] {
        assert_eq!(first[count], again[count], "{count}");
    }
    let (all, _) = drain.messages(&format!("/api/v1/tail?since=1h&{NOW}")).await;
    assert_eq!(all, ["once"]);
}

#[tokio::test]
async fn a_stopped_drain_leaves_nothing_behind_and_its_queues_go_on() {
    let dir = dir("stop");
    let drain = Spooled::start(&dir);
    let path = "/api/v1/machines/a";
    assert_eq!(Client::connect(drain.0.control).await.call(Method::PUT, path).await.0, StatusCode::CREATED);
    for body in bodies(0, 20) {
        drain.post(&[], body).await;
    }
    let (code, said) = drain.terminate();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("the spool is closed"), "{said}");

    let drain = Spooled::start(&dir);
    let status = Client::connect(drain.0.control).await.call(Method::PUT, path).await.0;
    assert_eq!(status, StatusCode::OK, "it is still subscribed");
    for body in bodies(20, 22) {
        drain.post(&[], body).await;
    }
    let (read, _) = drain.messages(&format!("{path}/queue?{NOW}")).await;
    assert_eq!(read, expected(0, 22, Some(0)));
    drain.assert_balances().await;
    let (code, _) = drain.terminate();
    assert_eq!(code, 0);

    let drain = Spooled::start(&dir);
    let (read, _) = drain.messages(&format!("{path}/queue?{NOW}")).await;
    assert_eq!(read, Vec::<String>::new(), "all of it was delivered");
}

#[tokio::test]
async fn what_a_queue_has_in_memory_alone_is_lost_by_a_stop_that_says_so() {
    let dir = dir("memory_alone");
    let start = || {
        Spooled(Drain::start(&[
            ("FLEETDRAIN_SPOOL__DIR", dir.to_str().unwrap()),
            ("FLEETDRAIN_SPOOL__BYTES_MAX", "1MiB"),
        ]))
    };
    let drain = start();
    let path = "/api/v1/machines/quiet";
    assert_eq!(Client::connect(drain.0.control).await.call(Method::PUT, path).await.0, StatusCode::CREATED);
    drain.post(&[], (0..3).map(|number| fly_record("quiet", &format!("line {number}"))).collect()).await;
    // The spool lets go of the oldest; the queue holds its lines.
    for _ in 0..60 {
        drain.post(&[], fly_record("noisy", &"x".repeat(30_000))).await;
    }
    let (code, said) = drain.terminate();
    assert_eq!(code, 74, "{said}");
    assert!(said.contains("3 acknowledged lines"), "{said}");

    let drain = start();
    let (_, losses) = Client::connect(drain.0.control).await.call(Method::GET, "/api/v1/losses?since=1h").await;
    let lost: Vec<_> = losses["losses"].as_array().unwrap().iter().collect();
    assert_eq!(lost.len(), 1, "{losses}");
    assert_eq!(
        (&lost[0]["machine"], &lost[0]["reason"], &lost[0]["lines"]),
        (&"quiet".into(), &"shutdown".into(), &3.into())
    );
    drain.post(&[], fly_record("quiet", "line 3")).await;
    let (read, events) = drain.messages(&format!("{path}/queue?{NOW}")).await;
    assert_eq!((read, &events[0]), (vec!["line 3".to_owned()], &serde_json::json!({"event": "skipped", "lines": 3})));
    drain.assert_balances().await;
}

#[tokio::test]
async fn a_second_process_exits_69_and_a_format_from_the_future_78() {
    let dir = dir("exits");
    let drain = Spooled::start(&dir);
    let start_on = |dir: &Path| {
        let (code, _, said) = run(
            &["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--spool", dir.to_str().unwrap()],
            &[],
        );
        (code, said)
    };
    let (code, said) = start_on(&dir);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("in use by another process"), "{said}");
    drain.kill();
    let format = dir.join("format");
    let known = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, known.replace("spool 1", "spool 9")).unwrap();
    let (code, said) = start_on(&dir);
    assert_eq!(code, 78, "{said}");
    let (code, said) = start_on(Path::new("/proc/no such place"));
    assert_eq!(code, 74, "{said}");
}

#[cfg(feature = "sinks")]
#[tokio::test]
async fn neither_listener_is_ready_while_the_spool_takes_nothing() {
    let dir = dir("ready");
    let drain = Drain::start(&[
        ("FLEETDRAIN_SPOOL__DIR", dir.to_str().unwrap()),
        ("FLEETDRAIN_SPOOL__BYTES_MAX", "1MiB"),
        ("FLEETDRAIN_BACKPRESSURE__WAIT", "0s"),
        // Nobody listens there, and what it has not taken is not removed.
        ("FLEETDRAIN_SINKS__AWAY__TYPE", "http"),
        ("FLEETDRAIN_SINKS__AWAY__URL", "http://127.0.0.1:9/"),
    ]);
    let is_ready = async |address| {
        Client::connect(address).await.send(Method::GET, "/readyz", &[], "").await.status() == StatusCode::OK
    };
    assert!(is_ready(drain.ingest).await && is_ready(drain.control).await);
    let body = fly_record("a", &"x".repeat(30_000));
    let mut status = StatusCode::OK;
    for _ in 0..60 {
        status = Client::connect(drain.ingest).await.send(Method::POST, "/", &[], body.clone()).await.status();
    }
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((is_ready(drain.ingest).await, is_ready(drain.control).await), (false, false));
}
