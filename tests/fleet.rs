//! A fleet through real sockets: every line read exactly once and in order, or counted where it went.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a panic is the failure report, in the helpers too")]

mod support;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fleetdrain::{LogCollector, LogDrainServer, collector::CollectorConfig};
use hyper::{Method, StatusCode};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;
use support::{Client, assert_balances, fly_record};

const MACHINES: usize = 1000;
const LINES: u64 = 1000;
const SENDERS: usize = 8;
const READERS: usize = 40;
const BODY_LINES: usize = 500;
const POLICIES: [&str; 3] = ["catch_up", "block", "drop_oldest"];

/// What the readers of one machine saw.
#[derive(Default)]
struct Account {
    read: Vec<u64>,
    skipped: u64,
    /// Connections cut in the middle of an answer, whose last lines may have been in flight.
    cut: u64,
    ended: bool,
}

#[derive(Clone, Copy)]
struct Fleet {
    ingest: SocketAddr,
    control: SocketAddr,
    seed: u64,
}

fn machine_id(index: usize) -> String {
    format!("{index:014x}")
}

fn policy(machine: usize) -> &'static str {
    POLICIES[machine % POLICIES.len()]
}

/// One machine in four has readers who hang up; of the others every line must be told for.
fn is_cut(machine: usize) -> bool {
    machine % 4 == 3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_a_fleet_is_read_once_in_order_or_counted_where_it_went() {
    let seed = std::env::var("FLEET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_627);
    println!("FLEET_SEED={seed}");
    let mut config = CollectorConfig::default();
    config.budget_bytes = 192 << 20;
    config.history_bytes = 24 << 20;
    config.queue.lines = 300;
    let mut server = LogDrainServer::new(LogCollector::new(config)).host("127.0.0.1").control("127.0.0.1:0");
    server.start().await.unwrap();
    let (ingest, control) = (server.ingest_addr().unwrap(), server.control_addr().unwrap());
    let fleet = Fleet { ingest, control, seed };
    subscribe_all(fleet).await;

    let sending = Arc::new(AtomicUsize::new(SENDERS));
    let readers: Vec<_> = (0..READERS).map(|reader| tokio::spawn(read(fleet, reader, Arc::clone(&sending)))).collect();
    let senders: Vec<_> = (0..SENDERS).map(|sender| tokio::spawn(send(fleet, sender, Arc::clone(&sending)))).collect();
    let mut answered = [0; 4];
    for sender in senders {
        let fates = sender.await.unwrap();
        answered.iter_mut().zip(fates).for_each(|(sum, fate)| *sum += fate);
    }
    let mut accounts = HashMap::new();
    for reader in readers {
        accounts.extend(reader.await.unwrap());
    }

    let (_, stats) = Client::connect(control).await.call(Method::GET, "/api/v1/stats").await;
    println!("{stats:#}");
    assert_balances(&stats);
    let total = MACHINES as u64 * LINES;
    assert_eq!(answered, [total, total, 0, 0], "received, accepted, filtered and unrouted by the senders' own account");
    assert_eq!(stats["lines_received"], total, "a refusal that took something would count twice");
    assert_eq!(stats["queue_lines"], 0);
    check(&accounts, &stats);
    server.stop().await;
}

fn check(accounts: &HashMap<usize, Account>, stats: &Value) {
    assert_eq!(accounts.len(), MACHINES);
    let (mut read, mut skipped) = (0, 0);
    for (machine, account) in accounts {
        let id = machine_id(*machine);
        assert!(account.ended, "{id} ended");
        assert!(account.read.is_sorted_by(|a, b| a < b), "{id}: repeated or out of order: {:?}", account.read);
        let lines = account.read.len() as u64;
        let told = lines + account.skipped;
        if account.cut == 0 {
            assert_eq!(told, LINES, "{id} ({}): {lines} read, {} skipped", policy(*machine), account.skipped);
        } else {
            assert!(told <= LINES, "{id}: {told} lines told for");
        }
        read += lines;
        skipped += account.skipped;
    }
    println!("read {read}, skipped {skipped}");
    let dropped = stats["queue_lines_dropped"].as_u64().unwrap();
    assert!(skipped <= dropped, "{skipped} lines told as skipped, {dropped} dropped");
    assert!(read <= stats["queue_lines_delivered"].as_u64().unwrap());
    assert!(skipped > 0, "the queues were never full: the test proves nothing");
}

async fn subscribe_all(fleet: Fleet) {
    let mut client = Client::connect(fleet.control).await;
    for machine in 0..MACHINES {
        let path = format!("/api/v1/machines/{}?full={}", machine_id(machine), policy(machine));
        assert_eq!(client.call(Method::PUT, &path).await.0, StatusCode::CREATED);
    }
}

/// Sends its machines' lines in random mixes, one after another within a machine; whatever is refused is sent again.
async fn send(fleet: Fleet, sender: usize, sending: Arc<AtomicUsize>) -> [u64; 4] {
    let mut random = StdRng::seed_from_u64(fleet.seed ^ sender as u64);
    let mut left: Vec<(usize, u64)> = (sender..MACHINES).step_by(SENDERS).map(|machine| (machine, 0)).collect();
    let mut client = Client::connect(fleet.ingest).await;
    let mut fates = [0; 4];
    while !left.is_empty() {
        let records: Vec<String> = (0..BODY_LINES).map_while(|_| next_record(&mut left, &mut random)).collect();
        let body = if random.random_bool(0.3) { format!("[{}]", records.join(",")) } else { records.join("\n") };
        loop {
            let (status, answer) = client.post(&[], body.clone()).await;
            if status == StatusCode::OK {
                let count = |name: &str| answer[name].as_u64().unwrap();
                let names = ["received", "accepted", "filtered", "unrouted"];
                fates.iter_mut().zip(names).for_each(|(sum, name)| *sum += count(name));
                break;
            }
            let refused = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
            assert!(refused.contains(&status), "{status}: {answer}");
            tokio::time::sleep(Duration::from_millis(random.random_range(1..50))).await;
        }
        if random.random_bool(0.05) {
            client = Client::connect(fleet.ingest).await;
        }
    }
    sending.fetch_sub(1, Ordering::SeqCst);
    fates
}

fn next_record(left: &mut Vec<(usize, u64)>, random: &mut StdRng) -> Option<String> {
    let at = random.random_range(0..left.len().max(1));
    let (machine, line) = left.get_mut(at)?;
    *line += 1;
    let padding = "é\\\"".repeat(random.random_range(0..12));
    let record = fly_record(&machine_id(*machine), &format!("{line} {padding}"));
    if *line == LINES {
        left.swap_remove(at);
    }
    Some(record)
}

/// Reads its machines in turn, with time-outs, bounds and hang-ups; once all is sent, finishes them and reads to the end.
async fn read(fleet: Fleet, reader: usize, sending: Arc<AtomicUsize>) -> HashMap<usize, Account> {
    let mut random = StdRng::seed_from_u64(fleet.seed ^ 0xAEAD ^ (reader as u64) << 32);
    let mut machines: Vec<usize> = (reader..MACHINES).step_by(READERS).collect();
    let mut accounts: HashMap<usize, Account> = machines.iter().map(|&machine| (machine, Account::default())).collect();
    while sending.load(Ordering::SeqCst) > 0 {
        machines.shuffle(&mut random);
        for &machine in &machines {
            let account = accounts.get_mut(&machine).unwrap();
            read_some(fleet, machine, account, &mut random).await;
        }
    }
    for &machine in &machines {
        let path = format!("/api/v1/machines/{}", machine_id(machine));
        let mut client = Client::connect(fleet.control).await;
        assert_eq!(client.call(Method::DELETE, &path).await.0, StatusCode::ACCEPTED);
        let account = accounts.get_mut(&machine).unwrap();
        let mut lines = client.get(&format!("{path}/queue")).await;
        while let Some(event) = lines.next().await {
            note(account, &event);
        }
    }
    accounts
}

async fn read_some(fleet: Fleet, machine: usize, account: &mut Account, random: &mut impl Rng) {
    let (lines_max, wait) = (random.random_range(1..200), random.random_range(1..20));
    let path = format!(
        "/api/v1/machines/{}/queue?max_lines={lines_max}&item_timeout={wait}ms&total_timeout=2s",
        machine_id(machine)
    );
    let mut client = Client::connect(fleet.control).await;
    let mut lines = client.get(&path).await;
    let hang_up_after = if is_cut(machine) { random.random_range(0..50) } else { usize::MAX };
    for _ in 0..hang_up_after {
        let Some(event) = lines.next().await else { return };
        note(account, &event);
    }
    account.cut += 1;
}

fn note(account: &mut Account, event: &Value) {
    match event["event"].as_str() {
        Some("end") => account.ended |= event["reason"] == "finished",
        Some("skipped") => account.skipped += event["lines"].as_u64().unwrap(),
        Some(other) => panic!("unknown event {other}"),
        None => {
            let message = event["message"].as_str().unwrap();
            account.read.push(message.split(' ').next().unwrap().parse().unwrap());
        }
    }
}
