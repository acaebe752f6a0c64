//! The library as a user embeds it: a drain that counts the lines of some machines, or of all.
//!
//! ```sh
//! cargo run --release --example count_lines -- --listen 127.0.0.1:8080 --machines ids.txt
//! cargo run --release --example count_lines -- --fleet
//! ```
//!
//! Subscribes to each machine id of `--machines FILE` (one a line) with a `LogStream` of its own read by `next_batch`, or
//! looks at all of them with one `FleetStream` (`--fleet`). Ends on SIGTERM or SIGINT with the counts.

use std::{error::Error, net::SocketAddr, path::PathBuf};

use clap::Parser;
use fleetdrain::{LogCollector, LogDrainServer, LogStream};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

#[derive(Parser)]
#[command(about = "Counts lines, machine by machine")]
struct Args {
    /// Where senders post to
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where readers ask; nowhere unless given
    #[arg(long, value_name = "ADDR")]
    control: Option<String>,
    /// A file of machine ids to subscribe to, one a line
    #[arg(long, value_name = "FILE", required_unless_present = "fleet")]
    machines: Option<PathBuf>,
    /// Count all machines
    #[arg(long)]
    fleet: bool,
    /// Worker threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut runtime = match args.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    runtime.enable_all().build()?.block_on(count(args))
}

async fn count(args: Args) -> Result<(), Box<dyn Error>> {
    let collector = LogCollector::default();
    let mut counting = JoinSet::new();
    if let Some(file) = &args.machines {
        for id in std::fs::read_to_string(file)?.lines() {
            let stream = LogStream::new(collector.subscribe(id)?);
            counting.spawn(count_machine(stream));
        }
    }
    if args.fleet {
        let mut fleet = collector.fleet();
        counting.spawn(async move {
            let mut lines = 0;
            while let Some(batch) = fleet.next().await {
                lines += batch.len() as u64;
            }
            ("all machines".to_owned(), lines)
        });
    }

    let mut server = LogDrainServer::new(collector).host(&args.listen.ip().to_string()).port(args.listen.port());
    if let Some(control) = &args.control {
        server = server.control(control);
    }
    server.start().await?;
    eprintln!("ingest listening on {}", server.url().expect("it has started"));
    if let Some(addr) = server.control_addr() {
        eprintln!("control listening on http://{addr}");
    }

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.stop().await;
    let mut total = 0;
    for (name, lines) in counting.join_all().await {
        if lines > 0 {
            println!("{name} {lines}");
        }
        total += lines;
    }
    println!("total {total}");
    Ok(())
}

async fn count_machine(mut stream: LogStream) -> (String, u64) {
    while stream.next_batch().await.is_some() {}
    (stream.machine_id().to_owned(), stream.lines_yielded())
}
