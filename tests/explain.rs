//! `fleetdrain explain` and what it asks: the real binary, from a line's receipt to its end, over a restart.

#![cfg(all(feature = "cli", feature = "spool", feature = "sinks"))]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

mod support;

use std::path::PathBuf;

use hyper::{Method, StatusCode};
use serde_json::Value;
use support::{
    Client,
    drain::{Drain, run},
    fly_record, text,
};

/// An empty directory of a test's own.
fn dir(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("explain").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

async fn post(drain: &Drain, messages: impl IntoIterator<Item = String>) {
    let body: String = messages.into_iter().map(|message| fly_record("m", &message) + "\n").collect();
    assert_eq!(Client::connect(drain.ingest).await.post(&[], body).await.0, StatusCode::OK);
}

/// The ids of all that is there, as `tail` tells them.
async fn ids(drain: &Drain) -> Vec<String> {
    let lines = text(drain.control, "/api/v1/tail?since=1h&follow=false").await;
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["id"].as_str().map(str::to_owned)).collect()
}

/// `fleetdrain explain`: exit code, output, error.
async fn explain(drain: &Drain, id: &str) -> (i32, String, String) {
    let (url, id) = (format!("http://{}", drain.control), id.to_owned());
    tokio::task::spawn_blocking(move || run(&["explain", "--url", &url, &id], &[])).await.unwrap()
}

#[track_caller]
fn says(told: &(i32, String, String), expected: &[&str]) {
    let (code, out, err) = told;
    assert_eq!((*code, err.as_str()), (0, ""), "{out}");
    for expected in expected {
        assert!(out.contains(expected), "{expected}: {out}");
    }
}

#[tokio::test]
async fn a_line_is_explained_from_its_receipt_to_its_delivery_and_after_a_restart() {
    let dir = dir("restart");
    let (spool, archive) = (dir.join("spool"), dir.join("archive"));
    std::fs::create_dir_all(&archive).unwrap();
    let env = [
        ("FLEETDRAIN_SPOOL__DIR", spool.to_str().unwrap()),
        ("FLEETDRAIN_SINKS__ARCHIVE__TYPE", "file"),
        ("FLEETDRAIN_SINKS__ARCHIVE__DIRECTORY", archive.to_str().unwrap()),
    ];
    let drain = Drain::start(&env);
    post(&drain, ["before".to_owned()]).await;
    let (status, _) = Client::connect(drain.control).await.call(Method::PUT, "/api/v1/machines/m").await;
    assert_eq!(status, StatusCode::CREATED);
    post(&drain, ["one".to_owned(), "two".to_owned()]).await;
    let ids = ids(&drain).await;
    assert_eq!(ids.len(), 3);
    says(&explain(&drain, &ids[0]).await, &["queue      before"]);
    says(
        &explain(&drain, &ids[1]).await,
        &[
            "message    one",
            "machine    m (live)",
            "app        my-app",
            "number     2 of",
            "queue      queued",
            "kept       in the history in memory; in a queue in memory; on the disk in 0",
            "limited    no",
            "sink       archive: ",
            "losses     none",
        ],
    );
    let read = text(drain.control, "/api/v1/machines/m/queue?follow=false").await;
    assert!(read.contains("two"), "{read}");
    says(&explain(&drain, &ids[1]).await, &["queue      delivered: a reader took it"]);
    drain.signal("-TERM");
    assert_eq!(drain.wait().0, 0);

    let drain = Drain::start(&env);
    says(&explain(&drain, &ids[0]).await, &["message    before", "queue      before", "sink       archive: delivered"]);
    says(&explain(&drain, &ids[2]).await, &["message    two", "queue      delivered: a process before this one"]);
    let epoch = ids[0].split('-').next().unwrap();
    for (id, code, why) in [
        ("nonsense", 65, "is not an entry id"),
        (format!("{epoch}-ffff-0-0").as_str(), 69, "no line has this id yet"),
        (format!("{epoch}-0-0-0").as_str(), 69, "there is another line in its place"),
        ("1-0-1-0", 69, "of another process"),
        ("ffffffffffffffff-0-1-0", 69, "of another spool"),
    ] {
        let (exit, out, err) = explain(&drain, id).await;
        assert_eq!((exit, out.as_str()), (code, ""), "{id}: {err}");
        assert!(err.contains(why), "{id}: {err}");
    }
    let (status, problem) = Client::connect(drain.control).await.call(Method::GET, "/api/v1/explain/x").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
    let url = format!("http://{}", drain.control);
    drain.kill();
    let (exit, ..) = tokio::task::spawn_blocking(move || run(&["explain", "--url", &url, &ids[0]], &[])).await.unwrap();
    assert_eq!(exit, 69);
}

#[tokio::test]
async fn a_line_that_was_dropped_or_limited_is_told_why() {
    let drain = Drain::start(&[
        ("FLEETDRAIN_QUEUE__FULL", "drop_oldest"),
        ("FLEETDRAIN_QUEUE__LINES", "4"),
        ("FLEETDRAIN_LIMIT__MACHINE__LINES_PER_SECOND", "1"),
    ]);
    Client::connect(drain.control).await.call(Method::PUT, "/api/v1/machines/m").await;
    for number in 0..12 {
        post(&drain, [number.to_string()]).await;
    }
    let ids = ids(&drain).await;
    says(
        &explain(&drain, &ids[0]).await,
        &["queue      dropped, queue_full", "losses     of this machine", "queue_full"],
    );
    says(&explain(&drain, &ids[11]).await, &["queue      limited: the queue dropped it", "limited    yes"]);
    let (status, told) =
        Client::connect(drain.control).await.call(Method::GET, &format!("/api/v1/explain/{}", ids[9])).await;
    assert_eq!((status, &told["queues"][0]["state"]), (StatusCode::OK, &"queued".into()), "{told}");
}
