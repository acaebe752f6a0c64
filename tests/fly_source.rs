//! Logs straight from Fly's NATS: the real binary and a real nats-server that asks for a password.

#![cfg(all(feature = "cli", feature = "fly"))]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

#[path = "support/nats.rs"]
mod nats;
mod support;

use std::{io::BufRead, process::Stdio, time::Duration};

use hyper::Method;
use jiff::Timestamp;
use nats::NatsServer;
use serde_json::Value;
use support::{Client, assert_balances, drain::Drain};
use tokio::time::{Instant, sleep};

/// Nothing here takes so long but where something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// A nats-server with one user.
struct Nats {
    server: NatsServer,
}

impl Nats {
    fn start(name: &str, password: &str) -> Self {
        let mut nats = Self { server: NatsServer::new(&format!("fly-{name}")) };
        nats.configure(password);
        nats.server.run();
        nats
    }

    fn configure(&self, password: &str) {
        self.server.configure(&format!("authorization {{ user: my-org, password: {password:?} }}\n"));
    }

    async fn connect(&self, password: &str) -> async_nats::Client {
        self.server.connect("my-org", password).await
    }
}

fn start(nats: &Nats, token: &str) -> Drain {
    start_with(
        nats,
        &[("FLEETDRAIN_FLY__TOKEN", token), ("FLEETDRAIN_FLY__CANARY", "false"), ("FLY_APP_NAME", "log-drain")],
        Stdio::inherit(),
    )
}

fn start_with(nats: &Nats, env: &[(&str, &str)], stdout: Stdio) -> Drain {
    let url = format!("nats://127.0.0.1:{}", nats.server.port);
    let common = [
        ("FLEETDRAIN_FLY__ENABLED", "true"),
        ("FLEETDRAIN_FLY__URL", &url),
        ("FLEETDRAIN_FLY__ORG", "my-org"),
        ("FLEETDRAIN_SINKS__NOWHERE__TYPE", "null"),
    ];
    Drain::start_with(&[], &[&common, env].concat(), stdout)
}

fn record(app: &str, number: usize) -> String {
    let instance = format!("4d891d77b{:05}", number % 1_000);
    format!(
        r#"{{"event":{{"provider":"app"}},"fly":{{"app":{{"instance":"{instance}","name":"{app}"}},"region":"lax"}},"host":"f442","log":{{"level":"info"}},"message":"line {number}","timestamp":"2026-06-27T01:19:11.789045558Z"}}"#
    )
}

async fn publish(client: &async_nats::Client, app: &str, payload: impl Into<bytes::Bytes>) {
    client.publish(format!("logs.{app}.lax.4d891d77b00000"), payload.into()).await.unwrap();
}

async fn stats(drain: &Drain) -> Value {
    let (_, stats) = Client::connect(drain.control).await.call(Method::GET, "/api/v1/stats").await;
    assert_balances(&stats);
    stats
}

async fn metric(drain: &Drain, sample: &str) -> Option<f64> {
    let mut client = Client::connect(drain.control).await;
    let response = client.send(Method::GET, "/metrics", &[], "").await;
    let text = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let text = String::from_utf8(text.to_vec()).unwrap();
    text.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok())
}

/// Asks until the answer is as `wanted`.
async fn until(drain: &Drain, what: &str, wanted: impl AsyncFn(&Drain) -> bool) {
    let from = Instant::now();
    while !wanted(drain).await {
        if from.elapsed() > PATIENCE {
            let told = stats(drain).await;
            panic!("{what} never came: {told}");
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// What the loss journal tells of the source.
async fn losses(drain: &Drain) -> Vec<Value> {
    let (_, losses) = Client::connect(drain.control).await.call(Method::GET, "/api/v1/losses").await;
    losses["losses"].as_array().unwrap().iter().filter(|loss| loss["where"] == "source:fly").cloned().collect()
}

/// Asserts that there is one gap, which began and ended within these times.
fn assert_one_gap(losses: &[Value], began: [Timestamp; 2], ended: [Timestamp; 2]) {
    let [gap] = losses else { panic!("one gap: {losses:?}") };
    let time = |key: &str| gap[key].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert_eq!((&gap["reason"], &gap["lines"]), (&"disconnected".into(), &Value::Null), "{gap}");
    assert!((began[0]..=began[1]).contains(&time("from")), "{gap}, not from {began:?}");
    assert!((ended[0]..=ended[1]).contains(&time("to")), "{gap}, not to {ended:?}");
}

/// What `/healthz` says of the source, if something is wrong with it.
async fn trouble(drain: &Drain) -> Option<String> {
    let (_, verdict) = Client::connect(drain.control).await.call(Method::GET, "/healthz").await;
    let reasons = verdict["reasons"].as_array()?;
    let reason = reasons.iter().find(|reason| reason["reason"] == "source_silent")?;
    Some(reason["detail"].as_str().unwrap().to_owned())
}

async fn is_connected(drain: &Drain) -> bool {
    metric(drain, "fleetdrain_fly_connected ").await == Some(1.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn a_burst_is_received_or_counted_and_no_message_is_two_records() {
    const BURST: usize = 200_000;
    let nats = Nats::start("burst", "secret");
    let drain = start(&nats, "secret");
    until(&drain, "the connection", is_connected).await;
    let client = nats.connect("secret").await;
    for number in 0..BURST {
        publish(&client, "my-app", record("my-app", number)).await;
    }
    publish(&client, "my-app", "not a record\n{\"instance\":\"m\"}").await;
    publish(&client, "my-app", "{\"instance\":\n\"m\",\r\n\"message\":\"pretty\"}").await;
    publish(&client, "my-app", "[1,2,3]").await;
    publish(&client, "log-drain", record("log-drain", 0)).await;
    client.flush().await.unwrap();
    let overflow = "fleetdrain_source_lines_dropped_total{source=\"fly\",reason=\"overflow\"} ";
    let own_app = "fleetdrain_source_lines_dropped_total{source=\"fly\",reason=\"own_app\"} ";
    until(&drain, "the burst", async |drain| {
        let received = stats(drain).await["lines_received"].as_u64().unwrap();
        let lost = metric(drain, overflow).await.unwrap() + metric(drain, own_app).await.unwrap();
        received as f64 + lost >= (BURST + 4) as f64
    })
    .await;
    let told = stats(&drain).await;
    let (lost, own) = (metric(&drain, overflow).await.unwrap(), metric(&drain, own_app).await.unwrap());
    println!("{} received, {lost} lost", told["lines_received"]);
    assert_eq!(told["lines_received"].as_u64().unwrap() as f64 + lost + own, (BURST + 4) as f64, "{told}");
    if lost == 0.0 {
        assert_eq!((own, &told["lines_rejected"]), (1.0, &2.into()), "{told}");
    }
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn a_message_is_one_record_whatever_it_holds_and_our_own_are_left_out() {
    let nats = Nats::start("one", "secret");
    let drain = start(&nats, "secret");
    until(&drain, "the connection", is_connected).await;
    let client = nats.connect("secret").await;
    for payload in
        ["not a record\n{\"instance\":\"m\"}", "{\"instance\":\n\"m\",\r\n\"message\":\"pretty\"}", "[1,2,3]"]
    {
        publish(&client, "my-app", payload).await;
    }
    publish(&client, "log-drain", record("log-drain", 0)).await;
    publish(&client, "my-app", record("my-app", 1)).await;
    client.flush().await.unwrap();
    until(&drain, "the last message", async |drain| stats(drain).await["lines_received"] == 4).await;
    let told = stats(&drain).await;
    assert_eq!((&told["lines_accepted"], &told["lines_rejected"]), (&2.into(), &2.into()), "{told}");
    let own_app = "fleetdrain_source_lines_dropped_total{source=\"fly\",reason=\"own_app\"} ";
    assert_eq!(metric(&drain, own_app).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn a_server_that_was_gone_is_found_again_and_the_gap_is_on_record() {
    let mut nats = Nats::start("gone", "secret");
    let drain = start(&nats, "secret");
    until(&drain, "the connection", is_connected).await;
    let client = nats.connect("secret").await;
    let heard = Timestamp::now();
    publish(&client, "my-app", record("my-app", 0)).await;
    client.flush().await.unwrap();
    until(&drain, "a line", async |drain| stats(drain).await["lines_received"] == 1).await;
    drop(client);
    nats.server.kill();
    until(&drain, "the end of the connection", async |drain| !is_connected(drain).await).await;
    assert!(losses(&drain).await.is_empty(), "it is not over yet");
    let (seen, back) = (Timestamp::now(), Timestamp::now());
    nats.server.run();
    until(&drain, "the connection", is_connected).await;
    let found = Timestamp::now();
    let client = nats.connect("secret").await;
    publish(&client, "my-app", record("my-app", 1)).await;
    client.flush().await.unwrap();
    until(&drain, "the line", async |drain| stats(drain).await["lines_received"] == 2).await;
    // From when it was heard last on.
    assert_one_gap(&losses(&drain).await, [heard, seen], [back, found]);
    until(&drain, "a verdict without it", async |drain| trouble(drain).await.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn a_gap_that_is_open_at_the_end_is_on_record_at_the_next_start() {
    let mut nats = Nats::start("open-gap", "secret");
    let spool = nats.server.dir.join("spool");
    let env = [
        ("FLEETDRAIN_FLY__TOKEN", "secret"),
        ("FLEETDRAIN_FLY__CANARY", "false"),
        ("FLEETDRAIN_SPOOL__DIR", spool.to_str().unwrap()),
    ];
    let began = Timestamp::now();
    let drain = start_with(&nats, &env, Stdio::inherit());
    until(&drain, "the connection", is_connected).await;
    nats.server.kill();
    until(&drain, "the end of the connection", async |drain| !is_connected(drain).await).await;
    let lost = Timestamp::now();
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert_eq!(code, 0, "{said}");
    let ended = Timestamp::now();
    let drain = start_with(&nats, &env, Stdio::inherit());
    assert_one_gap(&losses(&drain).await, [began, lost], [lost, ended]);
    // What has never been connected has missed nothing that it can tell of.
    drain.signal("-TERM");
    assert_eq!(drain.wait().0, 0);
    let drain = start_with(&nats, &env, Stdio::inherit());
    assert_eq!(losses(&drain).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn what_the_server_objects_to_is_told_while_it_is_connected() {
    let mut nats = Nats { server: NatsServer::new("fly-denied") };
    let denied = "authorization { users: [{ user: my-org, password: secret, permissions: { subscribe: { deny: \"logs.>\" } } }] }\n";
    nats.server.configure(denied);
    nats.server.run();
    let drain = start(&nats, "secret");
    until(&drain, "the verdict", async |drain| {
        let told = trouble(drain).await.unwrap_or_default().to_lowercase();
        told.starts_with("fly: connected, but: ") && told.contains("permissions violation")
    })
    .await;
    nats.configure("secret");
    nats.server.kill();
    nats.server.run();
    until(&drain, "its end", async |drain| trouble(drain).await.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn what_waits_under_steady_flow_is_not_taken_for_lost() {
    const EACH: u64 = 50;
    const LINES: u64 = 30_000;
    let nats = Nats::start("steady", "secret");
    let spool = nats.server.dir.join("spool");
    let env = [
        ("FLEETDRAIN_FLY__TOKEN", "secret"),
        ("FLEETDRAIN_FLY__CANARY", "false"),
        ("FLEETDRAIN_FLY__BATCH_LINES", "50"),
        ("FLEETDRAIN_SPOOL__DIR", spool.to_str().unwrap()),
    ];
    let drain = start_with(&nats, &env, Stdio::inherit());
    until(&drain, "the connection", is_connected).await;
    let client = nats.connect("secret").await;
    let mut control = Client::connect(drain.control).await;
    let mut sent = 0;
    // There is always about as much that waits, and far less than may.
    while sent < LINES {
        let (_, told) = control.call(Method::GET, "/api/v1/stats").await;
        let mut left = told["lines_received"].as_u64().unwrap() + 2_000 - sent;
        while left >= EACH {
            for number in 0..EACH {
                publish(&client, "my-app", record("my-app", number as usize)).await;
            }
            (sent, left) = (sent + EACH, left - EACH);
        }
        client.flush().await.unwrap();
    }
    until(&drain, "all of it", async |drain| stats(drain).await["lines_received"] == sent).await;
    let overflow = "fleetdrain_source_lines_dropped_total{source=\"fly\",reason=\"overflow\"} ";
    assert_eq!((metric(&drain, overflow).await, losses(&drain).await), (Some(0.0), vec![]));
    assert_eq!(metric(&drain, "fleetdrain_fly_messages_total ").await, Some(sent as f64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn a_token_that_is_wrong_or_revoked_is_told_and_tried_until_it_is_right() {
    let nats = Nats::start("token", "another");
    let drain = start(&nats, "secret");
    // From the server, which is there then: one that is still starting would die of what has it read its configuration anew.
    until(&drain, "the verdict", async |drain| {
        trouble(drain).await.is_some_and(|told| told.to_lowercase().contains("authorization violation"))
    })
    .await;
    nats.configure("secret");
    nats.server.reload();
    until(&drain, "the connection", is_connected).await;
    nats.configure("another");
    nats.server.reload();
    until(&drain, "the end of the connection", async |drain| !is_connected(drain).await).await;
    nats.configure("secret");
    nats.server.reload();
    until(&drain, "the connection", is_connected).await;
    until(&drain, "a verdict without it", async |drain| trouble(drain).await.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn what_a_drain_that_is_full_cannot_take_is_counted_and_the_rest_arrives() {
    const LINES: usize = 20_000;
    let nats = Nats::start("slow", "secret");
    let drain = start_with(
        &nats,
        &[
            ("FLEETDRAIN_FLY__TOKEN", "secret"),
            ("FLEETDRAIN_FLY__CANARY", "false"),
            ("FLEETDRAIN_FLY__PENDING_MAX", "100"),
            ("FLEETDRAIN_FLY__BATCH_LINES", "10"),
            // It refuses whatever comes while one batch is there.
            ("FLEETDRAIN_SINKS__NOWHERE__FULL", "block"),
            ("FLEETDRAIN_SINKS__NOWHERE__QUEUE_BYTES", "1"),
        ],
        Stdio::inherit(),
    );
    until(&drain, "the connection", is_connected).await;
    let tell = async |what: &str| {
        let path = format!("/api/v1/sinks/nowhere/{what}");
        assert_eq!(Client::connect(drain.control).await.call(Method::POST, &path).await.0, 200);
    };
    tell("pause").await;
    let client = nats.connect("secret").await;
    for number in 0..LINES {
        publish(&client, "my-app", record("my-app", number)).await;
    }
    client.flush().await.unwrap();
    let overflow = "fleetdrain_source_lines_dropped_total{source=\"fly\",reason=\"overflow\"} ";
    until(&drain, "the overflow", async |drain| metric(drain, overflow).await.unwrap() > 0.0).await;
    assert!(metric(&drain, "fleetdrain_fly_slow_consumers_total ").await.unwrap() > 0.0);
    // Nobody reads what it says here: a line for each message dropped would have stopped it.
    assert!(is_connected(&drain).await, "nobody is thrown out for being slow");
    tell("resume").await;
    until(&drain, "the rest", async |drain| {
        let received = stats(drain).await["lines_received"].as_u64().unwrap() as f64;
        received + metric(drain, overflow).await.unwrap() >= LINES as f64
    })
    .await;
    let told = stats(&drain).await;
    let lost = metric(&drain, overflow).await.unwrap();
    assert_eq!(told["lines_received"].as_u64().unwrap() as f64 + lost, LINES as f64, "{told}");
    let (_, losses) = Client::connect(drain.control).await.call(Method::GET, "/api/v1/losses").await;
    let of_source = losses["losses"].as_array().unwrap().iter().filter(|loss| loss["reason"] == "overflow");
    assert_eq!(of_source.map(|loss| loss["lines"].as_u64().unwrap()).sum::<u64>() as f64, lost, "{losses}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real nats-server: scripts/test.sh"]
async fn a_canary_that_fly_brings_back_is_counted_and_reaches_nobody() {
    let nats = Nats::start("canary", "secret");
    // Without FLY_APP_NAME nothing but the canary itself tells that it is ours.
    let env = [("FLEETDRAIN_FLY__TOKEN", "secret"), ("FLEETDRAIN_FLY__CANARY", "true")];
    let mut drain = start_with(&nats, &env, Stdio::piped());
    let mut stdout = drain.stdout();
    until(&drain, "the connection", is_connected).await;
    let (status, _) = Client::connect(drain.control).await.call(Method::PUT, "/api/v1/machines/3d8d9014b32d68").await;
    assert_eq!(status, 201);
    let mut tail = Client::connect(drain.control).await;
    let mut tail = tail.get("/api/v1/tail").await;
    let client = nats.connect("secret").await;
    for number in 1..=2 {
        let mut line = String::new();
        (stdout, line) = tokio::task::spawn_blocking(move || {
            stdout.read_line(&mut line).unwrap();
            (stdout, line)
        })
        .await
        .unwrap();
        until(&drain, "the canary's count", async |drain| {
            metric(drain, "fleetdrain_fly_canary_sent_total ").await == Some(f64::from(number))
        })
        .await;
        assert_eq!(metric(&drain, "fleetdrain_fly_canary_received_total ").await, Some(f64::from(number - 1)));
        // As Fly sends it: the line is the record's message.
        let message = Value::from(line.trim_end());
        let record = format!(
            r#"{{"event":{{"provider":"app"}},"fly":{{"app":{{"instance":"3d8d9014b32d68","name":"log-drain"}},"region":"lax"}},"host":"f442","log":{{"level":"info"}},"message":{message},"timestamp":"2026-06-27T01:19:11.789045558Z"}}"#
        );
        client.publish("logs.log-drain.lax.3d8d9014b32d68", record.into()).await.unwrap();
        client.flush().await.unwrap();
        until(&drain, "the canary's return", async |drain| {
            metric(drain, "fleetdrain_fly_canary_received_total ").await == Some(f64::from(number))
        })
        .await;
        assert!(metric(&drain, "fleetdrain_fly_canary_lag_seconds ").await.unwrap() > 0.0);
    }
    // What comes behind them is the first that anybody gets.
    publish(&client, "my-app", record("my-app", 7)).await;
    client.flush().await.unwrap();
    assert_eq!(tail.next().await.unwrap()["message"], "line 7");
    let told = stats(&drain).await;
    let of_sink = &told["sinks"][0]["lines_in"];
    assert_eq!(
        (&told["lines_received"], &told["queue_lines_in"], of_sink),
        (&1.into(), &0.into(), &1.into()),
        "{told}"
    );
}
