//! How the process starts and ends: what it prepares and says, what it leaves, and its exit code.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use support::{Client, assert_balances, drain::Drain, fly_record, text};

/// A drain with its loss journal in `dir`.
fn with_journal(dir: &Path) -> Drain {
    Drain::start(&[("FLEETDRAIN_JOURNAL__DIR", dir.to_str().unwrap()), ("FLEETDRAIN_SHUTDOWN__DEADLINE", "100ms")])
}

async fn subscribe(drain: &Drain, id: &str) {
    let path = format!("/api/v1/machines/{id}");
    assert_eq!(Client::connect(drain.control).await.call(Method::PUT, &path).await.0, StatusCode::CREATED);
}

async fn post(drain: &Drain, body: String) {
    assert_eq!(Client::connect(drain.ingest).await.post(&[], body).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_drain_with_nothing_left_exits_0_at_once() {
    let drain = Drain::start(&[]);
    post(&drain, fly_record("a", "unrouted: nobody was promised anything")).await;
    let asked = Instant::now();
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert_eq!(code, 0, "{said}");
    assert!(asked.elapsed() < Duration::from_secs(3), "it did not wait for its deadline: {said}");
}

#[tokio::test]
async fn acknowledged_lines_without_a_reader_are_told_and_exit_74() {
    let drain = Drain::start(&[("FLEETDRAIN_SHUTDOWN__DEADLINE", "300ms")]);
    subscribe(&drain, "a").await;
    post(&drain, [fly_record("a", "one"), fly_record("a", "two")].join("\n")).await;
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert_eq!(code, 74, "{said}");
    assert!(said.contains("2 acknowledged lines"), "{said}");
}

#[tokio::test]
async fn streams_end_behind_what_is_queued_with_reason_shutdown() {
    let drain = Drain::start(&[]);
    subscribe(&drain, "a").await;
    let mut viewer = Client::connect(drain.control).await;
    let mut tail = viewer.get("/api/v1/tail").await;
    post(&drain, [fly_record("a", "one"), fly_record("a", "two")].join("\n")).await;
    let mut reader = Client::connect(drain.control).await;
    let mut queue = reader.get("/api/v1/machines/a/queue").await;
    drain.signal("-INT");
    for lines in [&mut tail, &mut queue] {
        assert_eq!(lines.next().await.unwrap()["message"], "one");
        assert_eq!(lines.next().await.unwrap()["message"], "two");
        assert_eq!(lines.next().await.unwrap(), serde_json::json!({"event": "end", "reason": "shutdown"}));
        assert_eq!(lines.next().await, None);
    }
    let (code, said) = drain.wait();
    assert_eq!(code, 0, "{said}");
}

/// A reader that has begun and reads no further than a line, of a body larger than the sockets' buffers.
async fn read_a_line_of_many(drain: &Drain) -> support::Lines {
    subscribe(drain, "a").await;
    post(drain, (fly_record("a", &"x".repeat(1000)) + "\n").repeat(20_000)).await;
    let mut queue = Client::connect(drain.control).await.get("/api/v1/machines/a/queue").await;
    queue.next().await.unwrap();
    queue
}

#[tokio::test]
async fn what_a_reader_is_too_slow_for_is_told_and_exits_74() {
    let dir = journal_dir("slow");
    let drain = with_journal(&dir);
    // One group: the reader has taken all of it from the queue, and cannot hand it on.
    let _slow = read_a_line_of_many(&drain).await;
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert_eq!(code, 74, "{said}");
    let told = said.split(" acknowledged lines were left").next().unwrap().rsplit(' ').next().unwrap();
    let drain = with_journal(&dir);
    let lost: u64 = losses(&drain).await.iter().map(|loss| loss["lines"].as_u64().unwrap()).sum();
    assert_eq!(told, lost.to_string(), "{said}");
    drop(drain);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn who_asks_twice_does_not_wait() {
    let drain = Drain::start(&[("FLEETDRAIN_SHUTDOWN__DEADLINE", "60s")]);
    let _slow = read_a_line_of_many(&drain).await;
    let asked = Instant::now();
    drain.signal("-TERM");
    // Two signals that wait are one: the second comes when the first was heard.
    while tokio::net::TcpStream::connect(drain.control).await.is_ok() {}
    drain.signal("-INT");
    let (code, said) = drain.wait();
    assert_eq!(code, 74, "{said}");
    assert!(asked.elapsed() < Duration::from_secs(30), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_the_signal_is_read_or_told() {
    let drain = Drain::start(&[]);
    subscribe(&drain, "a").await;
    let mut reader = Client::connect(drain.control).await;
    let mut queue = reader.get("/api/v1/machines/a/queue").await;
    let ingest = drain.ingest;
    let sender = tokio::spawn(async move {
        let mut acknowledged = 0u64;
        let mut client = Client::connect(ingest).await;
        while let Some(status) = client.try_post(fly_record("a", &acknowledged.to_string())).await {
            match status {
                StatusCode::OK => acknowledged += 1,
                StatusCode::SERVICE_UNAVAILABLE => break,
                other => panic!("{other}"),
            }
        }
        acknowledged
    });
    let mut read = 0u64;
    while read < 200 {
        assert_eq!(queue.next().await.unwrap()["message"], read.to_string());
        read += 1;
    }
    let (_, stats) = Client::connect(drain.control).await.call(Method::GET, "/api/v1/stats").await;
    assert_eq!(stats["lines_received"], stats["lines_accepted"], "{stats}");
    drop(stats);
    drain.signal("-TERM");
    loop {
        let event = queue.next().await.unwrap();
        if event["event"] == "end" {
            break assert_eq!(event["reason"], "shutdown");
        }
        assert_eq!(event["message"], read.to_string());
        read += 1;
    }
    let acknowledged = sender.await.unwrap();
    // The last body may have been taken though its answer was cut off.
    assert!(read == acknowledged || read == acknowledged + 1, "{acknowledged} acknowledged, {read} read");
    assert_eq!(drain.wait().0, 0);
}

/// A directory for a loss journal, which begins empty.
fn journal_dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("fleetdrain-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

async fn losses(drain: &Drain) -> Vec<Value> {
    let (status, losses) = Client::connect(drain.control).await.call(Method::GET, "/api/v1/losses").await;
    assert_eq!((status, &losses["kept"]), (StatusCode::OK, &"disk".into()));
    losses["losses"].as_array().unwrap().clone()
}

#[tokio::test]
async fn what_a_stop_leaves_behind_is_on_record() {
    let dir = journal_dir("stop");
    let drain = with_journal(&dir);
    subscribe(&drain, "a").await;
    subscribe(&drain, "b").await;
    post(&drain, [fly_record("a", "one"), fly_record("b", "two"), fly_record("a", "three")].join("\n")).await;
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert!(code == 74 && said.contains("3 acknowledged lines"), "{said}");
    let drain = with_journal(&dir);
    let mut told: Vec<_> = losses(&drain)
        .await
        .iter()
        .map(|loss| json!([loss["machine"], loss["app"], loss["reason"], loss["lines"]]))
        .collect();
    told.sort_by_key(ToString::to_string);
    assert_eq!(told, [json!(["a", "my-app", "shutdown", 2]), json!(["b", "my-app", "shutdown", 1])]);
    drain.signal("-TERM");
    assert_eq!(drain.wait().0, 0);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn what_a_kill_may_have_cost_is_on_record_at_the_next_start() {
    let dir = journal_dir("kill");
    let drain = with_journal(&dir);
    subscribe(&drain, "a").await;
    post(&drain, [fly_record("a", "one"), fly_record("a", "two")].join("\n")).await;
    let heartbeat = dir.join("losses.heartbeat");
    let said = || std::fs::read(&heartbeat).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    while said().is_none_or(|said| said["undelivered"] != 2) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drain.signal("-KILL");
    drop(drain);
    let drain = with_journal(&dir);
    let told = losses(&drain).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["reason"], &told[0]["lines"]), (&"unclean_stop".into(), &Value::Null));
    assert_eq!(told[0]["undelivered"], 2);
    let metrics = text(drain.control, "/metrics").await;
    assert!(metrics.contains("\nfleetdrain_unclean_stop 1\n"), "{metrics}");
    assert!(metrics.contains("\nfleetdrain_unclean_stop_lines 2\n"), "{metrics}");
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("without a shutdown: 2 acknowledged lines were unread"), "{said}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn with_a_spool_losses_are_beside_it_and_a_kill_costs_nothing() {
    let dir = journal_dir("spool");
    let env = [("FLEETDRAIN_SPOOL__DIR", dir.to_str().unwrap()), ("FLEETDRAIN_QUEUE__LINES", "1")];
    let drain = Drain::start(&env);
    let mut client = Client::connect(drain.control).await;
    assert_eq!(client.call(Method::PUT, "/api/v1/machines/a?full=drop_oldest").await.0, StatusCode::CREATED);
    for message in ["one", "two"] {
        post(&drain, fly_record("a", message)).await;
    }
    let told = |losses: &[Value]| losses.iter().map(|loss| json!([loss["reason"], loss["lines"]])).collect::<Vec<_>>();
    let dropped = [json!(["queue_full", 1])];
    assert_eq!(told(&losses(&drain).await), dropped);
    // It is safe from a kill once a heartbeat has told it.
    let heartbeat = dir.join("losses.heartbeat");
    while !std::fs::read_to_string(&heartbeat).is_ok_and(|text| text.contains("queue_full")) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drain.signal("-KILL");
    drop(drain);
    let drain = Drain::start(&env);
    assert_eq!(told(&losses(&drain).await), dropped, "and no unclean stop");
    drop(drain);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_directory_holds_one_drains_losses() {
    let dir = journal_dir("lock");
    let drain = with_journal(&dir);
    let second = Command::new(env!("CARGO_BIN_EXE_fleetdrain"))
        .args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .env("FLEETDRAIN_JOURNAL__DIR", &dir)
        .output()
        .unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(74), "{said}");
    assert!(said.contains(dir.to_str().unwrap()), "{said}");
    drop(drain);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_reload_swaps_tokens_and_a_bad_one_keeps_the_old() {
    let dir = std::env::temp_dir().join(format!("fleetdrain-reload-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("tokens");
    std::fs::write(&file, "old\n").unwrap();
    let drain = Drain::start(&[("FLEETDRAIN_INGEST__TOKEN_FILE", file.to_str().unwrap())]);
    assert_eq!(status_with(&drain, "old").await, StatusCode::OK);
    assert_eq!(status_with(&drain, "new").await, StatusCode::UNAUTHORIZED);

    std::fs::write(&file, "new\n").unwrap();
    drain.signal("-HUP");
    while status_with(&drain, "new").await != StatusCode::OK {}
    assert_eq!(status_with(&drain, "old").await, StatusCode::UNAUTHORIZED);

    std::fs::remove_file(&file).unwrap();
    drain.signal("-HUP");
    loop {
        let (_, stats) = Client::connect(drain.control).await.call(Method::GET, "/api/v1/stats").await;
        assert_balances(&stats);
        let metrics = support::text(drain.control, "/metrics").await;
        if metrics.contains("fleetdrain_config_reload_success 0") {
            break;
        }
    }
    assert_eq!(status_with(&drain, "new").await, StatusCode::OK);
    let (status, health) = Client::connect(drain.control).await.call(Method::GET, "/healthz").await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &"ok".into()), "{health}");
    assert!(health["warnings"][0].as_str().unwrap().contains("was not reloaded"), "{health}");
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("token_file"), "it says which setting is wrong: {said}");
    std::fs::remove_dir_all(&dir).unwrap();
}

async fn status_with(drain: &Drain, token: &str) -> StatusCode {
    let authorization = format!("Bearer {token}");
    Client::connect(drain.ingest).await.post(&[("authorization", &authorization)], "").await.0
}

#[cfg(target_os = "linux")]
#[test]
fn a_start_makes_room_for_the_files_of_all_connections_and_takes_small_pages() {
    let drain = Drain::start(&[("FLEETDRAIN_INGEST__CONNECTIONS_MAX", "900")]);
    // Of both listeners.
    assert!(drain.status("FDSize") >= 2 * 900, "{}", drain.status("FDSize"));
    assert_eq!(drain.status("THP_enabled"), 0);
}
