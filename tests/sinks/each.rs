//! Every record arrives at each kind of store, whatever fails and whoever is killed.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, client::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Cut, Drain, PATIENCE, failing, lines, post, scratch, settled, start};

/// How often each number has come.
type Numbers = BTreeMap<usize, usize>;

fn every_one_is_there(numbers: &Numbers) {
    let repeats: usize = numbers.values().map(|times| times - 1).sum();
    println!("{} lines, {repeats} came again", numbers.len());
    let missing: Vec<usize> = (0..lines()).filter(|number| !numbers.contains_key(number)).take(5).collect();
    assert!(missing.is_empty(), "such as {missing:?} of {} are missing", lines());
}

/// A drain with a spool of its own and one sink.
fn env(name: &str, sink: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let spool = scratch(&format!("{name}-spool"));
    let common = [
        ("FLEETDRAIN_SPOOL__DIR", spool.to_str().unwrap()),
        ("FLEETDRAIN_HISTORY__BYTES", "50KB"),
        ("FLEETDRAIN_SINKS__STORE__BATCH_LINES_MAX", "300"),
        ("FLEETDRAIN_SINKS__STORE__BATCH_AGE_MAX", "50ms"),
        ("FLEETDRAIN_SINKS__STORE__DELIVER_DEADLINE", "2s"),
        ("FLEETDRAIN_SHUTDOWN__DEADLINE", "60s"),
    ];
    common.iter().chain(sink).map(|(key, value)| (*key, (*value).to_owned())).collect()
}

/// Sends all records through drains of which two are killed, and lets the third deliver the rest.
async fn killed_twice(env: &[(&str, String)], mut between: impl AsyncFnMut(&Drain)) {
    let (third, all) = (lines() / 3, lines());
    let drain = start(env);
    post(&drain, 0..third).await;
    between(&drain).await;
    drain.kill();
    let drain = start(env);
    post(&drain, third..2 * third).await;
    between(&drain).await;
    drain.kill();
    let drain = start(env);
    post(&drain, 2 * third..all).await;
    settled(&drain).await;
    drain.signal("-TERM");
    assert_eq!(drain.wait().0, 0);
}

/// Waits until something was delivered.
async fn some_is_delivered(drain: &Drain) {
    let waited = timeout(PATIENCE, async {
        while super::sink(drain).await["lines_delivered"] == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{}", super::sink(drain).await);
}

/// The numbers in all files below a directory, whose lines are whole.
fn numbers_in(directory: &Path, numbers: &mut Numbers) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            numbers_in(&path, numbers);
            continue;
        }
        assert!(!path.to_str().unwrap().ends_with(".part"), "{} has no name yet", path.display());
        for line in fs::read_to_string(&path).unwrap().lines() {
            let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            *numbers.entry(record["message"].as_str().unwrap().parse().unwrap()).or_default() += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_have_every_record_after_two_kills() {
    let directory = scratch("each-files");
    let sink = [
        ("FLEETDRAIN_SINKS__STORE__TYPE", "file"),
        ("FLEETDRAIN_SINKS__STORE__DIRECTORY", directory.to_str().unwrap()),
        ("FLEETDRAIN_SINKS__STORE__PATH", "{machine}.ndjson"),
        ("FLEETDRAIN_SINKS__STORE__COMPRESSION", "none"),
    ];
    killed_twice(&env("each-file", &sink), some_is_delivered).await;
    let mut numbers = Numbers::new();
    numbers_in(&directory, &mut numbers);
    every_one_is_there(&numbers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_drain_has_every_record_over_kills_of_both() {
    let archive = scratch("each-archive");
    let second = env(
        "each-second",
        &[
            ("FLEETDRAIN_SINKS__STORE__TYPE", "file"),
            ("FLEETDRAIN_SINKS__STORE__DIRECTORY", archive.to_str().unwrap()),
            ("FLEETDRAIN_SINKS__STORE__COMPRESSION", "none"),
        ],
    );
    let mut receiver = Some(start(&second));
    // It keeps its address over the kill.
    let (url, place) = forwarded(receiver.as_ref().unwrap().ingest).await;
    let first = [
        ("FLEETDRAIN_SINKS__STORE__TYPE", "http"),
        ("FLEETDRAIN_SINKS__STORE__FORMAT", "fleetdrain"),
        ("FLEETDRAIN_SINKS__STORE__URL", &*url),
    ];
    killed_twice(&env("each-first", &first), async |drain: &Drain| {
        some_is_delivered(drain).await;
        receiver.take().unwrap().kill();
        let next = start(&second);
        *place.lock().unwrap() = next.ingest;
        receiver = Some(next);
    })
    .await;
    let receiver = receiver.unwrap();
    settled(&receiver).await;
    receiver.signal("-TERM");
    assert_eq!(receiver.wait().0, 0);
    let mut numbers = Numbers::new();
    numbers_in(&archive, &mut numbers);
    every_one_is_there(&numbers);
}

/// A URL whose connections go to a place that may change.
async fn forwarded(to: SocketAddr) -> (String, Arc<Mutex<SocketAddr>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let place = Arc::new(Mutex::new(to));
    let current = Arc::clone(&place);
    tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            let to = *current.lock().unwrap();
            tokio::spawn(async move {
                // Nobody is there while the next one starts.
                let Ok(mut to) = TcpStream::connect(to).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
            });
        }
    });
    (url, place)
}

/// An S3 server behind a proxy that fails one request in ten.
struct Bucket {
    server: Child,
    asks: ChildStdin,
    says: BufReader<ChildStdout>,
    url: String,
}

impl Bucket {
    async fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sinks/s3_server.py");
        let mut python = Command::new("python3");
        python.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = python.spawn().unwrap();
        let (asks, mut says) = (server.stdin.take().unwrap(), BufReader::new(server.stdout.take().unwrap()));
        let mut url = String::new();
        says.read_line(&mut url).unwrap();
        let upstream = url.trim().strip_prefix("http://").expect("it says where it is").to_owned();
        Self { server, asks, says, url: proxy(upstream).await }
    }

    fn numbers(&mut self) -> Numbers {
        writeln!(self.asks, "?").unwrap();
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        let number = |pair: &str| {
            let (number, times) = pair.split_once(':').unwrap();
            (number.parse().unwrap(), times.parse().unwrap())
        };
        line.split_whitespace().map(number).collect()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Its URL.
async fn proxy(upstream: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (upstream, turns) = (Arc::new(upstream), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (upstream, turns) = (Arc::clone(&upstream), Arc::clone(&turns));
            let service = service_fn(move |request| pass(Arc::clone(&upstream), turns.fetch_add(1, Relaxed), request));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    url
}

/// Fails, or lets the server answer.
async fn pass(upstream: Arc<String>, turn: usize, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    if let Some(status) = failing(turn).await? {
        return Response::builder().status(status).body(Full::default()).map_err(|_| Cut);
    }
    let (parts, body) = request.into_parts();
    let body = Full::new(body.collect().await.map_err(|_| Cut)?.to_bytes());
    let socket = TcpStream::connect(upstream.as_str()).await.map_err(|_| Cut)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(|_| Cut)?;
    tokio::spawn(connection);
    let answer = sender.send_request(Request::from_parts(parts, body)).await.map_err(|_| Cut)?;
    let (parts, body) = answer.into_parts();
    Ok(Response::from_parts(parts, Full::new(body.collect().await.map_err(|_| Cut)?.to_bytes())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real S3 server: scripts/test.sh"]
async fn a_bucket_has_every_record_through_failures_and_two_kills() {
    let mut bucket = Bucket::start().await;
    let sink = [
        ("FLEETDRAIN_SINKS__STORE__TYPE", "s3"),
        ("FLEETDRAIN_SINKS__STORE__BUCKET", "logs"),
        ("FLEETDRAIN_SINKS__STORE__ENDPOINT", &*bucket.url.clone()),
        ("FLEETDRAIN_SINKS__STORE__REGION", "us-east-1"),
        ("FLEETDRAIN_SINKS__STORE__COMPRESSION", "none"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let mut env = env("each-s3", &sink);
    if lines() > 100_000 {
        env.retain(|(key, _)| *key != "FLEETDRAIN_SINKS__STORE__BATCH_LINES_MAX");
    }
    killed_twice(&env, some_is_delivered).await;
    every_one_is_there(&bucket.numbers());
}
