//! What is accepted arrives at the stores: the real binary, a store that fails, SIGKILL in between.

#![cfg(all(feature = "cli", feature = "sinks"))]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

mod support;

#[cfg(feature = "jetstream")]
#[path = "sinks/jetstream.rs"]
mod jetstream;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use support::{
    Client, assert_balances,
    drain::{Drain, run},
};
use tokio::{net::TcpListener, sync::watch, time::timeout};

/// Records that each test sends; more by hand: `SINK_LINES=1000000`.
fn lines() -> usize {
    std::env::var("SINK_LINES").ok().map_or(20_000, |lines| lines.parse().unwrap())
}

/// Records in a body.
const BODY: usize = 1_000;
/// Nothing here takes so long but where a line is lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// A store over HTTP that fails one request in ten: 429, 500, no answer, a connection cut short.
struct Store {
    url: String,
    /// How often each number has come.
    numbers: Mutex<HashMap<u64, usize>>,
    /// How many different numbers.
    known: watch::Sender<usize>,
    requests: AtomicUsize,
    /// Answers 503 to everything.
    is_down: AtomicBool,
}

impl Store {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let store = Arc::new(Self {
            url: format!("http://{}/", listener.local_addr().unwrap()),
            numbers: Mutex::default(),
            known: watch::Sender::new(0),
            requests: AtomicUsize::new(0),
            is_down: AtomicBool::new(false),
        });
        let serving = Arc::clone(&store);
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let store = Arc::clone(&serving);
                let service = service_fn(move |request| Arc::clone(&store).answer(request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        store
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Cut> {
        let turn = self.requests.fetch_add(1, Relaxed);
        let mut response = Response::new(Empty::new());
        if self.is_down.load(Relaxed) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(response);
        }
        match turn % 40 {
            9 => *response.status_mut() = StatusCode::TOO_MANY_REQUESTS,
            19 => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
            29 => std::future::pending().await,
            39 => return Err(Cut),
            _ => self.take(request.into_body().collect().await.map_err(|_| Cut)?.to_bytes().as_ref()),
        }
        Ok(response)
    }

    fn take(&self, body: &[u8]) {
        let mut numbers = self.numbers.lock().unwrap();
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let record: Value = serde_json::from_slice(line).unwrap();
            assert!(record["fleetdrain"]["id"].is_string(), "{record}");
            *numbers.entry(record["message"].as_str().unwrap().parse().unwrap()).or_default() += 1;
        }
        self.known.send_replace(numbers.len());
    }

    /// Waits until `lines` different records are here.
    async fn has(&self, lines: usize) {
        let mut known = self.known.subscribe();
        let waited = timeout(PATIENCE, known.wait_for(|known| *known >= lines)).await;
        assert!(waited.is_ok(), "{} of {lines} lines have arrived", *self.known.borrow());
    }

    fn repeats(&self) -> usize {
        self.numbers.lock().unwrap().values().map(|times| times - 1).sum()
    }
}

/// A connection that ends before its answer.
#[derive(Debug, thiserror::Error)]
#[error("cut short")]
struct Cut;

fn env(store: &Store) -> Vec<(&'static str, String)> {
    vec![
        ("FLEETDRAIN_SINKS__STORE__TYPE", "http".to_owned()),
        ("FLEETDRAIN_SINKS__STORE__URL", store.url.clone()),
        ("FLEETDRAIN_SINKS__STORE__BATCH_LINES_MAX", "300".to_owned()),
        ("FLEETDRAIN_SINKS__STORE__BATCH_AGE_MAX", "50ms".to_owned()),
        ("FLEETDRAIN_SINKS__STORE__DELIVER_DEADLINE", "500ms".to_owned()),
        ("FLEETDRAIN_SHUTDOWN__DEADLINE", "60s".to_owned()),
    ]
}

fn start(env: &[(&str, String)]) -> Drain {
    Drain::start(&env.iter().map(|(name, value)| (*name, value.as_str())).collect::<Vec<_>>())
}

async fn post(drain: &Drain, numbers: std::ops::Range<usize>) {
    let mut client = Client::connect(drain.ingest).await;
    for first in numbers.clone().step_by(BODY) {
        let record = |number| format!("{{\"instance\":\"m{}\",\"message\":\"{number}\"}}\n", number % 97);
        let body: String = (first..(first + BODY).min(numbers.end)).map(record).collect();
        let response = client.send(Method::POST, "/", &[], body).await;
        assert_eq!(response.status(), StatusCode::OK);
        let account = response.into_body().collect().await.unwrap().to_bytes();
        let account: Value = serde_json::from_slice(&account).unwrap();
        assert_eq!(account["received"], account["accepted"], "{account}");
    }
}

/// Posts one numbered record under a key of its own: the status, what the answer is worth, the account.
async fn post_keyed(drain: &Drain, number: usize) -> (StatusCode, String, Value) {
    let (key, body) = (format!("key-{number}"), format!("{{\"instance\":\"m\",\"message\":\"{number}\"}}\n"));
    let mut client = Client::connect(drain.ingest).await;
    let response = client.send(Method::POST, "/", &[("idempotency-key", &key)], body).await;
    let worth = response.headers().get("fleetdrain-ack").map_or("", |worth| worth.to_str().unwrap()).to_owned();
    let status = response.status();
    let account = response.into_body().collect().await.unwrap().to_bytes();
    (status, worth, serde_json::from_slice(&account).unwrap())
}

#[tokio::test]
async fn an_answer_waits_for_the_sink_that_is_to_acknowledge() {
    let store = Store::start().await;
    store.is_down.store(true, Relaxed);
    let mut env = env(&store);
    env.push(("FLEETDRAIN_SINKS__STORE__ACK", "sink".to_owned()));
    env.push(("FLEETDRAIN_INGEST__ACK_DEADLINE", "200ms".to_owned()));
    let drain = start(&env);
    let (status, worth, problem) = post_keyed(&drain, 1).await;
    assert_eq!((status, worth.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "unknown"), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("ingest.ack_deadline"), "{problem}");
    let (status, worth, _) = post_keyed(&drain, 1).await;
    assert_eq!((status, worth.as_str()), (StatusCode::SERVICE_UNAVAILABLE, ""), "its first is under way");
    store.is_down.store(false, Relaxed);
    store.has(1).await;
    let patience = tokio::time::Instant::now() + PATIENCE;
    let account = loop {
        let (status, worth, account) = post_keyed(&drain, 1).await;
        if status == StatusCode::OK {
            assert_eq!(worth, "sink");
            break account;
        }
        assert!(tokio::time::Instant::now() < patience, "{account}");
    };
    assert_eq!(account["duplicate"], true, "{account}");
    let mut number = 2;
    // One answer in ten of this store is a failure, which is tried again, and may take longer than we wait.
    while post_keyed(&drain, number).await.0 != StatusCode::OK {
        number += 1;
    }
    assert!(store.numbers.lock().unwrap().contains_key(&(number as u64)), "acknowledged, and not there");
}

/// What is told of the one sink, its balance held.
async fn sink(drain: &Drain) -> Value {
    let (_, stats) = Client::connect(drain.control).await.call(Method::GET, "/api/v1/stats").await;
    assert_balances(&stats);
    let sink = stats["sinks"][0].clone();
    let count = |name: &str| sink[name].as_u64().unwrap();
    assert_eq!(
        count("lines_in"),
        count("lines_delivered") + count("lines_dropped") + count("lines_in_flight"),
        "{sink}"
    );
    sink
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_arrives_at_a_store_that_fails() {
    let store = Store::start().await;
    let drain = start(&env(&store));
    post(&drain, 0..lines()).await;
    let told = sink(&drain).await;
    assert_eq!((&told["lines_in"], &told["lines_dropped"]), (&lines().into(), &0.into()));
    store.has(lines()).await;
    let told = sink(&drain).await;
    assert!(told["retries"].as_u64().unwrap() > 0, "{told}");
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert_eq!(code, 0, "{said}");
    println!("{} requests, {} lines came again", store.requests.load(Relaxed), store.repeats());
    assert_eq!(store.numbers.lock().unwrap().len(), lines());
}

#[cfg(feature = "spool")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_in_the_spool_is_delivered_by_the_next_process() {
    let store = Store::start().await;
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sinks").join("crash");
    let _ = std::fs::remove_dir_all(&dir);
    let mut env = env(&store);
    env.push(("FLEETDRAIN_SPOOL__DIR", dir.to_str().unwrap().to_owned()));
    // Little is held, so that the rest is read from the disk.
    env.push(("FLEETDRAIN_HISTORY__BYTES", "50KB".to_owned()));
    let (third, all) = (lines() / 3, lines());
    let drain = start(&env);
    post(&drain, 0..third).await;
    store.has(third / 3).await;
    drain.kill();
    let drain = start(&env);
    post(&drain, third..2 * third).await;
    store.has(third).await;
    drain.kill();
    let drain = start(&env);
    post(&drain, 2 * third..all).await;
    store.has(all).await;
    let told = sink(&drain).await;
    assert_eq!(told["lines_dropped"], 0);
    drain.signal("-TERM");
    assert_eq!(drain.wait().0, 0);
    println!("{} requests, {} lines came again", store.requests.load(Relaxed), store.repeats());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_is_paused_resumed_and_told_of() {
    let store = Store::start().await;
    let drain = start(&env(&store));
    let asked = async |method, path: &str| Client::connect(drain.control).await.call(method, path).await;
    let (status, paused) = asked(Method::POST, "/api/v1/sinks/store/pause").await;
    assert_eq!((status, &paused["state"]), (StatusCode::OK, &"paused".into()));
    post(&drain, 0..10).await;
    let (_, sinks) = asked(Method::GET, "/api/v1/sinks").await;
    let told = &sinks["sinks"][0];
    assert_eq!((&told["name"], &told["type"], &told["lines_in_flight"]), (&"store".into(), &"http".into(), &10.into()));
    assert_eq!(asked(Method::POST, "/api/v1/sinks/other/pause").await.0, StatusCode::NOT_FOUND);
    assert_eq!(asked(Method::POST, "/api/v1/sinks/store/rewind").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(asked(Method::POST, "/api/v1/sinks/store/rewind?since=1h").await.0, StatusCode::CONFLICT);
    assert_eq!(*store.known.borrow(), 0);
    let (_, resumed) = asked(Method::POST, "/api/v1/sinks/store/resume").await;
    assert_eq!(resumed["state"], "running");
    store.has(10).await;
}

#[test]
fn a_store_that_would_not_take_lines_is_found_before_the_start() {
    let connect = |url: &str| {
        let env = [("FLEETDRAIN_SINKS__STORE__TYPE", "http"), ("FLEETDRAIN_SINKS__STORE__URL", url)];
        run(&["validate", "--connect"], &env)
    };
    // A port that nobody listens on: it was one, and is given back.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _, said) = connect(&format!("http://{gone}/"));
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("sinks.store"), "{said}");
    let (code, _, said) = run(&["validate"], &[("FLEETDRAIN_SINKS__STORE__TYPE", "htp")]);
    assert_eq!(code, 78);
    assert!(said.contains("FLEETDRAIN_SINKS__STORE__TYPE: sinks.store.type: \"htp\" is none of"), "{said}");
}
