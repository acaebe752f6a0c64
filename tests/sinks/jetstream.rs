//! The sink `jetstream`: the real binary and a real nats-server that asks for a password and keeps its streams on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use async_nats::jetstream::{
    self, Context,
    stream::{RetentionPolicy, StorageType, Stream},
};
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};

#[path = "../support/nats.rs"]
mod nats;

use self::nats::NatsServer;
use super::{
    PATIENCE, lines, post, sink, start,
    support::{
        Client,
        drain::{Drain, run},
    },
};

const PASSWORD: &str = "secret";

/// A nats-server that keeps streams, with a user for the drain and one that reads.
struct Nats {
    server: NatsServer,
    /// What its configuration says beside the users, and of the drain's rights.
    more: String,
    rights: &'static str,
}

impl Nats {
    fn start(name: &str, password: &str, more: &str) -> Self {
        let mut nats = Self::new(name);
        more.clone_into(&mut nats.more);
        nats.configure(password);
        nats.server.run();
        nats
    }

    /// One that does not run yet.
    fn new(name: &str) -> Self {
        Self { server: NatsServer::new(&format!("jetstream-{name}")), more: String::new(), rights: "" }
    }

    fn configure(&self, password: &str) {
        self.server.configure(&format!(
            "jetstream {{ store_dir: {:?} }}\nauthorization {{ users: [\n  {{ user: drain, password: {password:?} {} }}\n  \
             {{ user: reader, password: {PASSWORD:?} }}\n] }}\n{}\n",
            self.server.dir.join("store"),
            self.rights,
            self.more
        ));
    }

    async fn reader(&self) -> Context {
        jetstream::new(self.server.connect("reader", PASSWORD).await)
    }

    fn env(&self, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let own = [
            ("FLEETDRAIN_SINKS__STORE__TYPE", "jetstream"),
            ("FLEETDRAIN_SINKS__STORE__USER", "drain"),
            ("FLEETDRAIN_SINKS__STORE__PASSWORD", PASSWORD),
            ("FLEETDRAIN_SINKS__STORE__BATCH_LINES_MAX", "300"),
            ("FLEETDRAIN_SINKS__STORE__BATCH_AGE_MAX", "50ms"),
            ("FLEETDRAIN_SHUTDOWN__DEADLINE", "60s"),
        ];
        let mut env: Vec<_> = own.iter().chain(more).map(|(name, value)| (*name, (*value).to_owned())).collect();
        env.push(("FLEETDRAIN_SINKS__STORE__URL", format!("nats://127.0.0.1:{}", self.server.port)));
        env
    }
}

/// The records in a stream.
#[derive(Default)]
struct Kept {
    /// How often each number is there.
    numbers: BTreeMap<u64, usize>,
    /// Of each machine.
    seqs: BTreeMap<String, BTreeSet<u64>>,
}

impl Kept {
    async fn of(stream: &Stream) -> Self {
        let state = &stream.cached_info().state;
        let mut kept = Self::default();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let records: Vec<Value> = message
                .payload
                .split(|byte| *byte == b'\n')
                .filter_map(|line| serde_json::from_slice(line).ok())
                .collect();
            assert!(!records.is_empty() && message.payload.ends_with(b"\n"));
            for record in records {
                *kept.numbers.entry(record["message"].as_str().unwrap().parse().unwrap()).or_default() += 1;
                let seqs = kept.seqs.entry(record["instance"].as_str().unwrap().to_owned()).or_default();
                seqs.extend(record["fleetdrain"]["machine_seq"].as_u64());
            }
        }
        let repeats: usize = kept.numbers.values().map(|times| times - 1).sum();
        println!("{} messages, {} lines, {repeats} came again", state.messages, kept.numbers.len());
        kept
    }

    /// Every machine's lines are numbered from 1, and none is missing.
    fn assert_whole(&self, lines: usize) {
        assert_eq!(self.numbers.len(), lines);
        for (machine, seqs) in &self.seqs {
            assert_eq!(seqs.last(), Some(&(seqs.len() as u64)), "{machine}");
        }
        assert_eq!(self.seqs.values().map(BTreeSet::len).sum::<usize>(), lines);
    }
}

/// Asks until the sink's count is at least so.
async fn until(drain: &Drain, count: &str, least: usize) {
    let from = Instant::now();
    loop {
        let told = sink(drain).await;
        if told[count].as_u64().unwrap() >= least as u64 {
            return;
        }
        assert!(from.elapsed() < PATIENCE, "{count} is not {least}: {told}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Asks until the verdict for alerts names the sink, and says this.
async fn until_alarmed(drain: &Drain, text: &str) {
    let from = Instant::now();
    loop {
        let (status, verdict) = Client::connect(drain.control).await.call(Method::GET, "/healthz").await;
        assert!(!verdict.to_string().contains(PASSWORD), "{verdict}");
        let mut reasons = verdict["reasons"].as_array().unwrap().iter();
        let failing = reasons.find(|reason| reason["reason"] == "sink_failing");
        if failing.is_some_and(|reason| reason["detail"].as_str().unwrap().contains(text)) {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            return;
        }
        assert!(from.elapsed() < PATIENCE, "{text} is not said: {verdict}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn every_record_is_in_the_stream_though_the_server_is_killed_under_load() {
    let mut nats = Nats::start("killed", PASSWORD, "");
    let drain = start(&nats.env(&[]));
    let kills = async {
        for part in 1..=3 {
            until(&drain, "lines_delivered", part * lines() / 5).await;
            nats.server.kill();
            nats.server.run();
        }
    };
    tokio::join!(post(&drain, 0..lines()), kills);
    until(&drain, "lines_delivered", lines()).await;
    let told = sink(&drain).await;
    assert_eq!((&told["lines_dropped"], &told["lines_in_flight"]), (&0.into(), &0.into()), "{told}");
    assert!(told["retries"].as_u64().unwrap() > 0, "{told}");
    let stream = nats.reader().await.get_stream("FLEETDRAIN").await.unwrap();
    Kept::of(&stream).await.assert_whole(lines());
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert_eq!(code, 0, "{said}");
}

#[cfg(feature = "spool")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn what_a_crash_left_in_the_spool_is_in_the_stream() {
    let nats = Nats::start("crash", PASSWORD, "");
    let spool = nats.server.dir.join("spool");
    let env = nats.env(&[
        ("FLEETDRAIN_SPOOL__DIR", spool.to_str().unwrap()),
        // Little is held, so that the rest is read from the disk.
        ("FLEETDRAIN_HISTORY__BYTES", "50KB"),
    ]);
    let (third, all) = (lines() / 3, lines());
    for (from, to) in [(0, third), (third, 2 * third)] {
        let drain = start(&env);
        post(&drain, from..to).await;
        until(&drain, "lines_delivered", third / 4).await;
        drain.kill();
    }
    let drain = start(&env);
    post(&drain, 2 * third..all).await;
    until(&drain, "lines_delivered", all - 2 * third).await;
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert_eq!(code, 0, "{said}");
    let stream = nats.reader().await.get_stream("FLEETDRAIN").await.unwrap();
    assert_eq!(Kept::of(&stream).await.numbers.len(), all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn a_stream_that_is_absent_is_made_as_it_is_set_and_then_left_alone() {
    let nats = Nats::start("absent", PASSWORD, "");
    let mut env = nats.env(&[
        ("FLEETDRAIN_SINKS__STORE__STREAM", "LOGS"),
        ("FLEETDRAIN_SINKS__STORE__SUBJECT", "logs.{machine}.all"),
        ("FLEETDRAIN_SINKS__STORE__REPLICAS", "1"),
        ("FLEETDRAIN_SINKS__STORE__RETENTION", "workqueue"),
        ("FLEETDRAIN_SINKS__STORE__STORAGE", "memory"),
        ("FLEETDRAIN_SINKS__STORE__MAX_AGE", "2d"),
        ("FLEETDRAIN_SINKS__STORE__MAX_BYTES", "64MiB"),
        ("FLEETDRAIN_SINKS__STORE__DUPLICATE_WINDOW", "5m"),
        ("FLEETDRAIN_SINKS__STORE__COMPRESSION", "zstd"),
    ]);
    let drain = start(&env);
    post(&drain, 0..500).await;
    until(&drain, "lines_delivered", 500).await;
    let reader = nats.reader().await;
    let stream = reader.get_stream("LOGS").await.unwrap();
    let config = &stream.cached_info().config;
    assert_eq!(config.subjects, ["logs.*.all"]);
    assert_eq!((config.num_replicas, config.max_bytes), (1, 64 << 20));
    assert_eq!((config.retention, config.storage), (RetentionPolicy::WorkQueue, StorageType::Memory));
    assert_eq!((config.max_age.as_secs(), config.duplicate_window.as_secs()), (2 * 86_400, 300));
    // A message holds the lines of its subject's machine, and says how it is packed.
    for sequence in 1..=stream.cached_info().state.messages {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let machine = message.subject.split('.').nth(1).unwrap();
        assert_eq!(message.headers.get("Content-Encoding").unwrap().as_str(), "zstd");
        let lines = String::from_utf8(zstd::decode_all(&*message.payload).unwrap()).unwrap();
        assert!(
            lines.lines().all(|line| line.starts_with(&format!("{{\"instance\":\"{machine}\","))),
            "{machine}: {lines}"
        );
    }
    drain.signal("-TERM");
    assert_eq!(drain.wait().0, 0);
    env.push(("FLEETDRAIN_SINKS__STORE__MAX_AGE", "1d".to_owned()));
    let drain = start(&env);
    post(&drain, 0..10).await;
    until(&drain, "lines_delivered", 10).await;
    assert_eq!(reader.get_stream("LOGS").await.unwrap().cached_info().config.max_age.as_secs(), 2 * 86_400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn a_wrong_password_is_alarmed_and_tried_until_it_is_right() {
    let nats = Nats::start("password", "another", "");
    let drain = start(&nats.env(&[]));
    post(&drain, 0..100).await;
    until_alarmed(&drain, "authorization violation").await;
    nats.configure(PASSWORD);
    nats.server.reload();
    until(&drain, "lines_delivered", 100).await;
    // Of a connection that is there the server takes back what it allowed.
    nats.configure("another");
    nats.server.reload();
    post(&drain, 100..200).await;
    until(&drain, "retries", sink(&drain).await["retries"].as_u64().unwrap() as usize + 1).await;
    nats.configure(PASSWORD);
    nats.server.reload();
    until(&drain, "lines_delivered", 200).await;
    let stream = nats.reader().await.get_stream("FLEETDRAIN").await.unwrap();
    Kept::of(&stream).await.assert_whole(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn a_right_that_is_missing_is_alarmed_at_once_and_used_when_it_is_given() {
    let mut nats = Nats::new("rights");
    nats.rights = ", permissions: { publish: { deny: \"fleetdrain.>\" } }";
    nats.configure(PASSWORD);
    nats.server.run();
    let drain = start(&nats.env(&[]));
    post(&drain, 0..100).await;
    until_alarmed(&drain, "Permissions Violation").await;
    nats.rights = "";
    nats.configure(PASSWORD);
    nats.server.reload();
    until(&drain, "lines_delivered", 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn server_and_drain_prove_to_each_other_who_they_are() {
    let mut nats = Nats::new("tls");
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let path = |name: &str| nats.server.dir.join(name).to_str().unwrap().to_owned();
    fs::write(path("ca.pem"), params.self_signed(&authority).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, authority);
    for name in ["server", "drain"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        fs::write(path(&format!("{name}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    let (ca, certificate, key) = (path("ca.pem"), path("server.pem"), path("server.key"));
    let (own_certificate, own_key) = (path("drain.pem"), path("drain.key"));
    nats.more = format!("tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}");
    nats.configure(PASSWORD);
    nats.server.run();
    let mut env = nats.env(&[("FLEETDRAIN_SINKS__STORE__CA_FILE", &ca)]);
    let url = format!("tls://127.0.0.1:{}", nats.server.port);
    env.push(("FLEETDRAIN_SINKS__STORE__URL", url));
    let drain = start(&env);
    post(&drain, 0..10).await;
    until(&drain, "retries", 1).await;
    assert_eq!(sink(&drain).await["lines_delivered"], 0, "the server asks for a certificate");
    drop(drain);
    env.push(("FLEETDRAIN_SINKS__STORE__CERT_FILE", own_certificate));
    env.push(("FLEETDRAIN_SINKS__STORE__KEY_FILE", own_key));
    let drain = start(&env);
    post(&drain, 0..10).await;
    until(&drain, "lines_delivered", 10).await;
}

#[cfg(feature = "spool")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn the_same_lines_sent_again_are_one_message() {
    let nats = Nats::start("again", PASSWORD, "");
    let spool = nats.server.dir.join("spool");
    let drain = start(&nats.env(&[("FLEETDRAIN_SPOOL__DIR", spool.to_str().unwrap())]));
    post(&drain, 0..100).await;
    until(&drain, "lines_delivered", 100).await;
    let rewind = "/api/v1/sinks/store/rewind?since=1h";
    let (status, told) = Client::connect(drain.control).await.call(Method::POST, rewind).await;
    assert_eq!((status, &told["lines"]), (StatusCode::OK, &100.into()), "{told}");
    until(&drain, "lines_delivered", 200).await;
    let mut stream = nats.reader().await.get_stream("FLEETDRAIN").await.unwrap();
    assert_eq!(stream.info().await.unwrap().state.messages, 1);
    Kept::of(&stream).await.assert_whole(100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn a_batch_over_the_servers_limit_is_halved_until_only_what_never_fits_is_left() {
    let nats = Nats::start("limit", PASSWORD, "max_payload: 8KB");
    let drain = start(&nats.env(&[]));
    post(&drain, 0..1_000).await;
    let mut client = Client::connect(drain.ingest).await;
    let large = format!("{{\"instance\":\"m0\",\"message\":\"0\",\"pad\":\"{}\"}}", "x".repeat(9_000));
    let (status, _) = client.post(&[], large).await;
    assert_eq!(status, StatusCode::OK);
    until(&drain, "lines_dropped", 1).await;
    until(&drain, "lines_delivered", 1_000).await;
    let stream = nats.reader().await.get_stream("FLEETDRAIN").await.unwrap();
    Kept::of(&stream).await.assert_whole(1_000);
}

#[test]
#[ignore = "needs a real nats-server: scripts/test.sh"]
fn a_server_that_would_not_take_lines_is_found_before_the_start() {
    let nats = Nats::start("probe", PASSWORD, "");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let reader = runtime.block_on(nats.reader());
    let messages =
        || runtime.block_on(async { reader.get_stream("FLEETDRAIN").await.unwrap().cached_info().state.messages });
    let connect = |more: &[(&'static str, &str)]| {
        let env = nats.env(more);
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (code, _, said) = run(&["validate", "--connect"], &env);
        (code, said)
    };
    // The server may be starting.
    runtime.block_on(reader.query_account()).unwrap();
    let (code, said) = connect(&[]);
    assert_eq!(code, 0, "the stream can be made: {said}");
    runtime
        .block_on(reader.create_stream(jetstream::stream::Config {
            name: "FLEETDRAIN".to_owned(),
            subjects: vec!["fleetdrain.*".to_owned()],
            ..Default::default()
        }))
        .unwrap();
    let (code, said) = connect(&[]);
    assert_eq!((code, messages()), (0, 0), "{said}");
    let (code, said) = connect(&[("FLEETDRAIN_SINKS__STORE__SUBJECT", "elsewhere")]);
    assert_eq!(code, 69);
    assert!(said.contains("takes nothing on elsewhere"), "{said}");
    let (code, said) = connect(&[("FLEETDRAIN_SINKS__STORE__STREAM", "OTHER")]);
    assert_eq!(code, 69, "the subject is of another stream: {said}");
    let (code, said) = connect(&[("FLEETDRAIN_SINKS__STORE__PASSWORD", "wrong")]);
    assert_eq!(code, 69);
    assert!(said.contains("authorization violation"), "{said}");
}
