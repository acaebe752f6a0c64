//! What an idle machine costs in memory.

use crate::client::{Connection, Target};
use crate::compare::{RUN, target, thousands, write_json};
use crate::failure::Failure;
use crate::generate::machine_id;
use crate::process::{Launch, Server};
use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Lines a body while machines are first seen.
const LINES_PER_BODY: u32 = 1_000;
/// Connections that subscribe at once.
const SUBSCRIBERS: u32 = 4;

/// What a machine costs the drain while it is idle: seen once, and subscribed.
///
/// Measured as the difference between N and 2N machines, so that what the process needs anyway cancels, and so that the
/// tables, which grow by doubling, are as full at the end as at the beginning.
#[derive(Args, Clone, Debug)]
pub(crate) struct MemoryArgs {
    /// The drain's binary
    #[arg(long, value_name = "FILE")]
    pub(crate) drain: PathBuf,
    /// N
    #[arg(long, default_value_t = 400_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    pub(crate) machines: u32,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// The length of an id: 14 hexadecimal digits.
pub(crate) const ID_BYTES: f64 = 14.0;

/// Bytes a machine, its id included.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) seen: f64,
    /// Beyond what it costs to be seen.
    pub(crate) queue: f64,
}

/// Measures and prints.
pub(crate) fn run(args: &MemoryArgs) -> Result<(), Failure> {
    let measured = measure(args)?;
    let Measured { seen, queue } = measured;
    let number = |bytes: f64| thousands(bytes.round());
    println!("seen              {} bytes a machine, its id of 14 bytes included", number(seen));
    println!("subscribed        {} bytes more, for its queue", number(queue));
    println!("seen + subscribed {} bytes", number(seen + queue));
    write_json(args.json.as_deref(), &measured)
}

/// Starts a drain, shows it 2N machines and subscribes 2N machines.
pub(crate) fn measure(args: &MemoryArgs) -> Result<Measured, Failure> {
    let machines = args.machines;
    let launch = Launch::drain(&args.drain)
        // What was freed goes back at once, or a table's old half would count as the next machines'.
        .environment("MIMALLOC_PURGE_DELAY", "0")
        // Next to no history, or its bytes would be measured.
        .set("history.bytes", "64KiB")
        .set("machines.max", &(4 * machines).to_string())
        .set("queue.subscriptions_max", &(4 * machines).to_string());
    let mut server = Server::start("drain", &launch)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::io)?;
    let measured = runtime.block_on(grow(&server, machines));
    measured.map_err(|failure| server.explain(failure))
}

async fn grow(server: &Server, machines: u32) -> Result<Measured, Failure> {
    let (ingest, control) = (target(&server.ingest).await?, target(&server.control).await?);
    // Pools and parsers get their memory from machines that are not counted.
    for _ in 0..20 {
        see(&ingest, 3 * machines..3 * machines + LINES_PER_BODY).await?;
    }
    let mut resident = Vec::new();
    for number in 0..2 {
        see(&ingest, number * machines..(number + 1) * machines).await?;
        resident.push(at_rest(server).await);
    }
    let seen = (resident[1] - resident[0]) / f64::from(machines);
    for number in 0..2 {
        subscribe(&control, number * machines..(number + 1) * machines).await?;
        resident.push(at_rest(server).await);
    }
    let queue = (resident[3] - resident[2]) / f64::from(machines);
    eprintln!("resident after N and 2N were seen, N and 2N subscribed: {resident:?}");
    let known = machines_known(&control).await;
    let expected = f64::from(2 * machines + LINES_PER_BODY);
    if known != Some(expected) {
        return Err(Failure::data(format!("the drain knows {known:?} machines, not {expected}")));
    }
    Ok(Measured { seen, queue })
}

async fn machines_known(control: &Target) -> Option<f64> {
    crate::run::gauge(control, "fleetdrain_machines").await
}

/// Memory of the heap, once the allocator has given back what it held a moment longer.
async fn at_rest(server: &Server) -> f64 {
    let mut least = server.anonymous_bytes();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        least = least.min(server.anonymous_bytes());
    }
    least as f64
}

/// Sends a line of each of these machines.
async fn see(ingest: &Target, machines: std::ops::Range<u32>) -> Result<(), Failure> {
    let mut connection = Connection::open(ingest, None).await?;
    let numbers: Vec<u32> = machines.collect();
    for numbers in numbers.chunks(LINES_PER_BODY as usize) {
        let mut body = Vec::new();
        for &number in numbers {
            let id = machine_id(RUN, number);
            body.extend_from_slice(br#"{"event":{"provider":"app"},"fly":{"app":{"instance":""#);
            body.extend_from_slice(&id);
            body.extend_from_slice(
                br#"","name":"my-app"},"region":"lax"},"message":"hello","timestamp":"2026-06-27T01:19:11.789045558Z"}"#,
            );
            body.push(b'\n');
        }
        let request = ingest.request(Method::POST, "/").body(Full::new(Bytes::from(body))).map_err(Failure::io)?;
        let answer = connection.exchange(request).await?;
        if answer.account().map(|account| account.received) != Some(numbers.len() as u64) {
            return Err(Failure::data(format!("answered {}: {}", answer.status, answer.body.escape_ascii())));
        }
    }
    Ok(())
}

/// Subscribes these machines, over a few connections.
async fn subscribe(control: &Target, machines: std::ops::Range<u32>) -> Result<(), Failure> {
    let tasks: Vec<_> = (0..SUBSCRIBERS)
        .map(|own| {
            let (control, machines) = (control.clone(), machines.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(&control, None).await?;
                for number in machines.skip(own as usize).step_by(SUBSCRIBERS as usize) {
                    let id = machine_id(RUN, number);
                    let path = format!("/api/v1/machines/{}", String::from_utf8_lossy(&id));
                    let request = control.request(Method::PUT, &path).body(Full::default()).map_err(Failure::io)?;
                    let answer = connection.exchange(request).await?;
                    if answer.status != StatusCode::CREATED {
                        return Err(Failure::data(format!("PUT {path} was answered {}", answer.status)));
                    }
                }
                Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(Failure::io)??;
    }
    Ok(())
}
