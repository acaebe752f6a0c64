//! The sink `jetstream` beside async-nats alone: the same messages to the same server.

use crate::client::Target;
use crate::compare::{Bodies, BodyArgs, median, send, target, thousands};
use crate::failure::Failure;
use crate::process::{Launch, Server};
use crate::sink::delivered;
use async_nats::jetstream::{self, Context, stream::Config};
use async_nats::{ConnectOptions, HeaderMap, header::NATS_MESSAGE_ID};
use bytes::Bytes;
use clap::Args;
use hyper::{Method, StatusCode};
use std::collections::VecDeque;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LINES_PER_BODY: usize = 1_000;
/// Messages that are sent and not yet acknowledged, at most: as many as the sink may have.
const IN_FLIGHT: usize = 1_000;
/// How often the drain is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// How many lines a second the sink `jetstream` ships, beside async-nats alone publishing the very same messages.
///
/// Starts a nats-server with a stream on disk, and a drain. In each round the paused sink gets the lines, is resumed, and is
/// done when the stream has acknowledged all of them; then its messages are read back and published to a second stream of the
/// same server by async-nats, at most 1,000 unacknowledged. Encoding is the sink's cost and not the other's.
#[derive(Args, Clone, Debug)]
pub(crate) struct JetStreamArgs {
    /// The drain's binary
    #[arg(long, value_name = "FILE")]
    drain: PathBuf,
    /// The server's binary
    #[arg(long, value_name = "FILE", env = "NATS_SERVER", default_value = "nats-server")]
    nats_server: PathBuf,
    /// Where it keeps its streams, emptied afterwards [default: a folder of the system's for such]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Lines a round
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1_000..=2_000_000))]
    lines: u32,
    /// Rounds; the median counts. One more before them warms up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// A setting of the sink, as batch_bytes_max=256KiB; may be repeated
    #[arg(long = "sink", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// What a round came to.
#[derive(Clone, Copy, Debug)]
struct Round {
    sink: Duration,
    /// The drain's CPU time meanwhile.
    cpu: Duration,
    alone: Duration,
    messages: usize,
    bytes: usize,
}

/// Measures and prints.
pub(crate) fn run(args: &JetStreamArgs) -> Result<(), Failure> {
    let own = std::env::temp_dir().join(format!("fleetdrain-jetstream-{}", std::process::id()));
    let store = args.store.clone().unwrap_or(own);
    let measured = measure(args, &store);
    let _ = std::fs::remove_dir_all(&store);
    let rounds = measured?;
    let lines = f64::from(args.lines);
    let rate = |time: Duration| thousands((lines / time.as_secs_f64()).round());
    for Round { sink, cpu, alone, messages, bytes } in &rounds {
        println!(
            "sink {} lines/s, {:.2} CPU-s/M   alone {} lines/s   {messages} messages of {} bytes",
            rate(*sink),
            cpu.as_secs_f64() * 1e6 / lines,
            rate(*alone),
            thousands((bytes / messages.max(&1)) as f64),
        );
    }
    let shares: Vec<f64> = rounds.iter().map(|round| round.alone.as_secs_f64() / round.sink.as_secs_f64()).collect();
    println!("the sink ships {:.0} % of what async-nats alone publishes", 100.0 * median(&shares));
    Ok(())
}

fn measure(args: &JetStreamArgs, store: &std::path::Path) -> Result<Vec<Round>, Failure> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).map_err(Failure::io)?.port();
    let (directory, port) = (store.to_string_lossy(), port.to_string());
    let arguments = ["-js", "-sd", &directory, "-a", "127.0.0.1", "-p", &port];
    let mut nats = Server::spawn("nats-server", &Launch::new(&args.nats_server, &arguments))?;
    let url = format!("nats://127.0.0.1:{port}");
    let mut launch = Launch::drain(&args.drain)
        .set("memory.budget", "3GiB")
        .set("history.bytes", "16MiB")
        .environment("FLEETDRAIN_SINKS__STORE__TYPE", "jetstream")
        .environment("FLEETDRAIN_SINKS__STORE__URL", &url)
        .environment("FLEETDRAIN_SINKS__STORE__QUEUE_BYTES", "2GiB")
        // A round's last batch is not full: by default it would wait a second for more, as long as all the others take.
        .environment("FLEETDRAIN_SINKS__STORE__BATCH_AGE_MAX", "20ms");
    for setting in &args.settings {
        let (key, value) = setting.split_once('=').ok_or_else(|| Failure::usage(format!("--sink {setting}: no =")))?;
        launch = launch.environment(&format!("FLEETDRAIN_SINKS__STORE__{}", key.to_uppercase()), value);
    }
    let mut drain = Server::start("drain", &launch)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::io)?;
    let rounds = runtime.block_on(rounds(args, &url, &drain));
    rounds.map_err(|failure| nats.explain(drain.explain(failure)))
}

async fn rounds(args: &JetStreamArgs, url: &str, drain: &Server) -> Result<Vec<Round>, Failure> {
    let bodies = Arc::new(Bodies::of(&BodyArgs { lines_per_body: LINES_PER_BODY, ..BodyArgs::default() })?);
    let (ingest, control) = (target(&drain.ingest).await?, target(&drain.control).await?);
    let client = ConnectOptions::new().retry_on_initial_connect().connect(url).await.map_err(Failure::unavailable)?;
    let context = jetstream::new(client);
    let alone = Config { name: "ALONE".to_owned(), subjects: vec!["alone".to_owned()], ..Config::default() };
    context.create_stream(alone).await.map_err(Failure::unavailable)?;
    let mut rounds = Vec::new();
    let mut expected = 0;
    for number in 0..=args.rounds {
        call(&control, "/api/v1/sinks/store/pause").await?;
        send(&ingest, &bodies, args.lines as usize / LINES_PER_BODY, 4).await?;
        expected += u64::from(args.lines) / LINES_PER_BODY as u64 * LINES_PER_BODY as u64;
        let cpu = drain.cpu_at_rest()?;
        let started = Instant::now();
        call(&control, "/api/v1/sinks/store/resume").await?;
        delivered(&control, expected, ASK_EVERY).await?;
        let (sink, cpu) = (started.elapsed(), drain.cpu_at_rest()? - cpu);
        let messages = take_all(&context, "FLEETDRAIN").await?;
        let (count, bytes) = (messages.len(), messages.iter().map(Bytes::len).sum());
        let alone = publish(&context, number, messages).await?;
        if number > 0 {
            rounds.push(Round { sink, cpu, alone, messages: count, bytes });
        }
    }
    Ok(rounds)
}

async fn call(control: &Target, path: &str) -> Result<(), Failure> {
    match control.call(Method::POST, path).await? {
        (StatusCode::OK, _) => Ok(()),
        (status, body) => Err(Failure::data(format!("{path}: answered {status}: {}", body.escape_ascii()))),
    }
}

/// Reads every message of a stream, and empties it.
async fn take_all(context: &Context, stream: &str) -> Result<Vec<Bytes>, Failure> {
    let stream = context.get_stream(stream).await.map_err(Failure::unavailable)?;
    let state = &stream.cached_info().state;
    let mut messages = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        messages.push(stream.get_raw_message(sequence).await.map_err(Failure::unavailable)?.payload);
    }
    stream.purge().await.map_err(Failure::unavailable)?;
    Ok(messages)
}

/// Publishes them as the sink does, and waits for every acknowledgement.
async fn publish(context: &Context, round: u32, messages: Vec<Bytes>) -> Result<Duration, Failure> {
    let started = Instant::now();
    let mut unacknowledged = VecDeque::new();
    for (number, message) in messages.into_iter().enumerate() {
        if unacknowledged.len() == IN_FLIGHT
            && let Some(first) = unacknowledged.pop_front()
        {
            acknowledged(first).await?;
        }
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, format!("{round}-{number}"));
        let sent = context.publish_with_headers("alone", headers, message).await;
        unacknowledged.push_back(sent.map_err(Failure::unavailable)?);
    }
    for waiting in unacknowledged {
        acknowledged(waiting).await?;
    }
    let took = started.elapsed();
    let stream = context.get_stream("ALONE").await.map_err(Failure::unavailable)?;
    stream.purge().await.map_err(Failure::unavailable)?;
    Ok(took)
}

async fn acknowledged(waiting: jetstream::context::PublishAckFuture) -> Result<(), Failure> {
    waiting.await.map(drop).map_err(Failure::unavailable)
}
