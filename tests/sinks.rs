//! What is accepted arrives at the stores: the real binary, a store that fails, SIGKILL in between.

#![cfg(all(feature = "cli", feature = "sinks"))]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

mod support;

#[cfg(all(feature = "spool", feature = "s3"))]
#[path = "sinks/each.rs"]
mod each;
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
    /// What requests had as `Authorization`.
    tokens: Mutex<Vec<String>>,
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
            tokens: Mutex::default(),
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
        let token = request.headers().get("authorization").map(|token| token.to_str().unwrap().to_owned());
        self.tokens.lock().unwrap().extend(token);
        let mut response = Response::new(Empty::new());
        if self.is_down.load(Relaxed) {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(response);
        }
        match failing(turn).await? {
            Some(status) => *response.status_mut() = status,
            None => self.take(request.into_body().collect().await.map_err(|_| Cut)?.to_bytes().as_ref()),
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

/// How a store fails at a turn, if it does: one in ten.
async fn failing(turn: usize) -> Result<Option<StatusCode>, Cut> {
    match turn % 40 {
        9 => Ok(Some(StatusCode::TOO_MANY_REQUESTS)),
        19 => Ok(Some(StatusCode::INTERNAL_SERVER_ERROR)),
        29 => std::future::pending().await,
        39 => Err(Cut),
        _ => Ok(None),
    }
}

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

/// As [`env`], with a spool that holds nothing yet.
#[cfg(feature = "spool")]
fn spooled_env(store: &Store, name: &str) -> Vec<(&'static str, String)> {
    let dir = scratch(name);
    let mut env = env(store);
    env.push(("FLEETDRAIN_SPOOL__DIR", dir.to_str().unwrap().to_owned()));
    // Little is held, so that the rest is read from the disk.
    env.push(("FLEETDRAIN_HISTORY__BYTES", "50KB".to_owned()));
    env
}

/// A directory that is not there.
fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sinks").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    dir
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

#[cfg(feature = "spool")]
#[tokio::test]
async fn who_waits_for_a_sink_is_answered_before_the_drain_ends() {
    let store = Store::start().await;
    store.is_down.store(true, Relaxed);
    let mut env = spooled_env(&store, "waits");
    env.push(("FLEETDRAIN_SINKS__STORE__ACK", "sink".to_owned()));
    env.retain(|(name, _)| *name != "FLEETDRAIN_SHUTDOWN__DEADLINE");
    let drain = start(&env);
    let ((status, worth, problem), ()) = tokio::join!(post_keyed(&drain, 1), async {
        while sink(&drain).await["lines_in_flight"] != 1 {
            tokio::task::yield_now().await;
        }
        drain.signal("-TERM");
    });
    assert_eq!((status, worth.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "unknown"), "{problem}");
    assert_eq!(drain.wait().0, 0, "its line is in the spool");
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

/// Waits until every line that the one sink has got is delivered or dropped.
async fn settled(drain: &Drain) {
    let waited = timeout(PATIENCE, async {
        while sink(drain).await["lines_in_flight"] != 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{}", sink(drain).await);
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
    let env = spooled_env(&store, "crash");
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

#[tokio::test]
async fn lines_do_not_go_round_between_a_drain_and_its_own_sink() {
    // A load balancer, say: neither knows where it leads.
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", between.local_addr().unwrap());
    let drain = start(&[
        ("FLEETDRAIN_SINKS__STORE__TYPE", "http".to_owned()),
        ("FLEETDRAIN_SINKS__STORE__URL", url),
        ("FLEETDRAIN_SINKS__STORE__BATCH_AGE_MAX", "50ms".to_owned()),
    ]);
    let ingest = drain.ingest;
    tokio::spawn(async move {
        loop {
            let (mut near, _) = between.accept().await.unwrap();
            let mut far = tokio::net::TcpStream::connect(ingest).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    post(&drain, 0..10).await;
    let told = async {
        loop {
            if let Some(error) = sink(&drain).await["last_error"].as_str() {
                return error.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let error = timeout(PATIENCE, told).await.expect("the sink fails");
    assert!(error.contains("508") && error.contains("of this very drain"), "{error}");
    let (_, stats) = Client::connect(drain.control).await.call(Method::GET, "/api/v1/stats").await;
    assert_eq!(stats["lines_received"], 10, "{stats}");
    // Another drain's are welcome.
    let mut client = Client::connect(drain.ingest).await;
    let answer = client.post(&[("fleetdrain-from", "1f")], "{\"instance\":\"m\"}").await;
    assert_eq!(answer.0, StatusCode::OK, "{}", answer.1);
}

/// A drain whose sinks are in a file that changes.
struct Configured {
    file: PathBuf,
    drain: Drain,
}

impl Configured {
    fn start(name: &str, sinks: &[String], env: &[(&str, &str)]) -> Self {
        let dir = scratch(name);
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("fleetdrain.toml");
        std::fs::write(&file, sinks.concat()).unwrap();
        let drain = Drain::start_with(&["--config", file.to_str().unwrap()], env, std::process::Stdio::inherit());
        Self { file, drain }
    }

    /// What it says when its file has these sinks now.
    fn reload(&mut self, sinks: &[String]) -> String {
        std::fs::write(&self.file, sinks.concat()).unwrap();
        self.drain.signal("-HUP");
        self.drain.says("reloaded")
    }

    /// What is told of a sink, its balance held; `None` if nothing is.
    async fn told(&self, name: &str) -> Option<Value> {
        let (_, stats) = Client::connect(self.drain.control).await.call(Method::GET, "/api/v1/stats").await;
        assert_balances(&stats);
        let sink = stats["sinks"].as_array().unwrap().iter().find(|sink| sink["name"] == name)?.clone();
        let count = |name: &str| sink[name].as_u64().unwrap();
        let went = count("lines_delivered") + count("lines_dropped") + count("lines_in_flight");
        assert_eq!(count("lines_in"), went, "{sink}");
        Some(sink)
    }

    /// Waits until what is told of a sink is as wanted.
    async fn until(&self, name: &str, wanted: impl Fn(Option<&Value>) -> bool) {
        let waited = timeout(PATIENCE, async {
            while !wanted(self.told(name).await.as_ref()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "{name}: {:?}", self.told(name).await);
    }

    async fn metric(&self, sample: &str) -> f64 {
        let text = support::text(self.drain.control, "/metrics").await;
        text.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok()).unwrap()
    }
}

fn http_sink(name: &str, url: &str) -> String {
    format!(
        "[sinks.{name}]\ntype = \"http\"\nurl = \"{url}\"\nbatch_lines_max = 300\nbatch_age_max = \"50ms\"\ndeliver_deadline = \"500ms\"\n"
    )
}

/// The URL of a port that nobody listens on, or will: it stays taken as long as the tests run.
fn nowhere() -> String {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap());
    std::mem::forget(socket);
    url
}

fn has_all(told: Option<&Value>, lines: usize) -> bool {
    told.is_some_and(|told| told["lines_delivered"] == lines && told["lines_in_flight"] == 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_swaps_sinks_and_a_bad_file_keeps_the_old() {
    let (kept, old, new, gone, added) =
        (Store::start().await, Store::start().await, Store::start().await, Store::start().await, Store::start().await);
    let sinks = |url: &str| vec![http_sink("kept", &kept.url), http_sink("changed", url)];
    let before = [sinks(&old.url), vec![http_sink("gone", &gone.url)]].concat();
    let mut configured = Configured::start("swap", &before, &[]);
    post(&configured.drain, 0..2_000).await;
    for store in [&kept, &old, &gone] {
        store.has(2_000).await;
    }
    let after = [sinks(&new.url), vec![http_sink("added", &added.url)]].concat();
    let said = configured.reload(&after);
    for change in ["added added", "changed changed", "removed gone"] {
        assert!(said.contains(change), "one that is as it was is not touched: {said}");
    }
    post(&configured.drain, 2_000..4_000).await;
    kept.has(4_000).await;
    new.has(2_000).await;
    added.has(2_000).await;
    configured.until("gone", |told| told.is_none()).await;
    assert_eq!((old.numbers.lock().unwrap().len(), gone.numbers.lock().unwrap().len()), (2_000, 2_000));
    configured.until("kept", |told| has_all(told, 4_000)).await;
    configured.until("added", |told| has_all(told, 2_000)).await;
    configured.until("changed", |told| has_all(told, 4_000)).await;
    assert_eq!(configured.metric("fleetdrain_config_reload_success ").await, 1.0);
    assert_eq!(configured.metric("fleetdrain_sink_lines_in_total{sink=\"changed\"} ").await, 4_000.0);

    let said = configured.reload(&[http_sink("kept", "ftp://nowhere/")]);
    assert!(said.contains("is not reloaded, the old one stays") && said.contains("sinks.kept.url"), "{said}");
    assert_eq!(configured.metric("fleetdrain_config_reload_success ").await, 0.0);
    post(&configured.drain, 4_000..5_000).await;
    kept.has(5_000).await;
    new.has(3_000).await;
    added.has(3_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_sink_delivers_what_the_one_before_it_could_not() {
    let dir = scratch("changed-spool");
    let spool = [("FLEETDRAIN_SPOOL__DIR", dir.to_str().unwrap()), ("FLEETDRAIN_HISTORY__BYTES", "50KB")];
    let with_spool: &[(&str, &str)] = if cfg!(feature = "spool") { &spool } else { &[] };
    for (name, env) in [("changed", &[][..]), ("changed-spooled", with_spool)] {
        let store = Store::start().await;
        let mut configured = Configured::start(name, &[http_sink("store", &nowhere())], env);
        post(&configured.drain, 0..3_000).await;
        configured.until("store", |told| told.is_some_and(|told| told["last_error"].is_string())).await;
        configured.reload(&[http_sink("store", &store.url)]);
        post(&configured.drain, 3_000..4_000).await;
        store.has(4_000).await;
        configured.until("store", |told| has_all(told, 4_000)).await;
        let told = configured.told("store").await.unwrap();
        assert_eq!((&told["lines_in"], &told["lines_dropped"]), (&4_000.into(), &0.into()), "{told}");
        assert!(told["retries"].as_u64().unwrap() > 0 || told["last_error"].is_null(), "{told}");
        // Another filter takes what was counted in for the one before it too, or drops it, counted.
        let errors = format!("{}levels = [\"error\"]\n", http_sink("store", &store.url));
        configured.reload(&[errors]);
        let mut client = Client::connect(configured.drain.ingest).await;
        let body = "{\"instance\":\"m\",\"message\":\"9\"}\n".repeat(1_000);
        // The one before may still be at work, with its own filter, when this comes.
        for bodies in 1.. {
            assert_eq!(client.post(&[], body.clone()).await.0, StatusCode::OK);
            let count = |told: &Value, name: &str| told[name].as_u64().unwrap();
            let settled = |told: &Value| count(told, "lines_delivered") + count(told, "lines_filtered");
            configured.until("store", |told| told.is_some_and(|told| settled(told) == 4_000 + 1_000 * bodies)).await;
            let told = configured.told("store").await.unwrap();
            if count(&told, "lines_filtered") > 0 {
                assert_eq!(told["lines_filtered"], 1_000, "all of a body, and of none before it: {told}");
                assert!(has_all(Some(&told), 3_000 + 1_000 * bodies as usize), "{told}");
                break;
            }
            assert!(bodies < 100, "the new filter never came");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_gone_drops_what_it_could_not_flush_and_says_so() {
    let mut configured =
        Configured::start("gone", &[http_sink("store", &nowhere())], &[("FLEETDRAIN_SHUTDOWN__DEADLINE", "100ms")]);
    post(&configured.drain, 0..1_000).await;
    configured.reload(&[]);
    configured.until("store", |told| told.is_none()).await;
    let (_, losses) = Client::connect(configured.drain.control).await.call(Method::GET, "/api/v1/losses").await;
    let losses = losses["losses"].as_array().unwrap();
    assert!(losses.iter().all(|loss| loss["where"] == "sink:store" && loss["reason"] == "shutdown"), "{losses:?}");
    assert_eq!(losses.iter().map(|loss| loss["lines"].as_u64().unwrap()).sum::<u64>(), 1_000, "{losses:?}");
    // Its counters go on where they stood.
    let store = Store::start().await;
    configured.reload(&[http_sink("store", &store.url)]);
    post(&configured.drain, 1_000..1_500).await;
    store.has(500).await;
    configured.until("store", |told| has_all(told, 500)).await;
    let told = configured.told("store").await.unwrap();
    assert_eq!((&told["lines_in"], &told["lines_dropped"]), (&1_500.into(), &1_000.into()), "{told}");
}

#[cfg(feature = "spool")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_returns_finds_in_the_spool_what_it_has_not_had() {
    let dir = scratch("returns-spool");
    let env = [
        ("FLEETDRAIN_SPOOL__DIR", dir.to_str().unwrap()),
        ("FLEETDRAIN_HISTORY__BYTES", "50KB"),
        ("FLEETDRAIN_SHUTDOWN__DEADLINE", "100ms"),
    ];
    let mut configured = Configured::start("returns", &[http_sink("store", &nowhere())], &env);
    post(&configured.drain, 0..1_000).await;
    configured.reload(&[]);
    configured.until("store", |told| told.is_none()).await;
    assert_eq!(configured.metric("fleetdrain_spool_unsent_bytes ").await, 0.0, "it holds nothing back");
    post(&configured.drain, 1_000..1_500).await;
    let store = Store::start().await;
    configured.reload(&[http_sink("store", &store.url)]);
    store.has(1_500).await;
    configured.until("store", |told| has_all(told, 1_500)).await;
    let told = configured.told("store").await.unwrap();
    assert_eq!((&told["lines_in"], &told["lines_dropped"]), (&1_500.into(), &0.into()), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_file_is_read_again() {
    let store = Store::start().await;
    let dir = scratch("tokens");
    std::fs::create_dir_all(&dir).unwrap();
    let token = dir.join("token");
    std::fs::write(&token, "old\n").unwrap();
    let sink = format!("{}token_file = {:?}\n", http_sink("store", &store.url), token.to_str().unwrap());
    let mut configured = Configured::start("token", std::slice::from_ref(&sink), &[]);
    post(&configured.drain, 0..100).await;
    store.has(100).await;
    std::fs::write(&token, "new\n").unwrap();
    let said = configured.reload(std::slice::from_ref(&sink));
    assert!(said.contains("changed store") && !said.contains("new\n"), "{said}");
    post(&configured.drain, 100..200).await;
    store.has(200).await;
    let tokens = store.tokens.lock().unwrap().clone();
    assert_eq!((tokens.first().unwrap().as_str(), tokens.last().unwrap().as_str()), ("Bearer old", "Bearer new"));
}

/// What the client command says of a drain: exit code, standard output, standard error.
fn command(drain: &Drain, args: &[&str]) -> (i32, String, String) {
    let url = format!("http://{}", drain.control);
    run(&[&["sinks"], args].concat(), &[("FLEETDRAIN_URL", &url)])
}

#[cfg(feature = "spool")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_sent_back_delivers_every_line_since_then_again() {
    const LINES: usize = 5_000;
    let store = Store::start().await;
    let drain = start(&spooled_env(&store, "rewind"));
    post(&drain, 0..LINES).await;
    store.has(LINES).await;
    settled(&drain).await;
    let (delivered, repeats) = (sink(&drain).await["lines_delivered"].clone(), store.repeats());
    let (code, said, _) = command(&drain, &["rewind", "store", "--since", "1h", "--dry-run"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("store: 5,000 lines") && said.contains("would be"), "{said}");
    let told = sink(&drain).await;
    assert_eq!((&told["lines_delivered"], &told["lines_in"]), (&delivered, &LINES.into()), "a dry run changes nothing");
    let (code, said, _) = command(&drain, &["rewind", "store", "--since", "1h"]);
    assert!(code == 0 && said.contains("5,000 lines") && said.contains("are delivered again"), "{said}");
    settled(&drain).await;
    assert!(store.numbers.lock().unwrap().values().all(|times| *times >= 2));
    assert_eq!(store.numbers.lock().unwrap().len(), LINES);
    assert!(store.repeats() >= repeats + LINES);
    assert_eq!(sink(&drain).await["lines_in"], 2 * LINES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_pauses_a_sink_and_lets_it_go_on() {
    let store = Store::start().await;
    let drain = start(&env(&store));
    let (code, said, _) = command(&drain, &["pause", "store"]);
    assert!(code == 0 && said.contains("paused"), "{said}");
    post(&drain, 0..10).await;
    let (_, said, _) = command(&drain, &[]);
    let row: Vec<&str> = said.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..7], ["store", "http", "paused", "10", "0", "0", "10"], "{said}");
    assert_eq!(command(&drain, &["resume", "store"]).0, 0);
    store.has(10).await;
    let (code, _, said) = command(&drain, &["pause", "stor"]);
    assert_eq!(code, 64);
    assert!(said.contains("no sink \"stor\": there are store"), "{said}");
    let (code, _, said) = command(&drain, &["rewind", "store", "--since", "1h"]);
    assert_eq!(code, 69);
    assert!(said.contains("there is no spool"), "{said}");
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
