//! The library as a user embeds it: a drain that counts the lines of some machines, or of all.
//!
//! ```sh
//! cargo run --release --example count_lines -- --listen 127.0.0.1:8080 --machines ids.txt
//! cargo run --release --example count_lines -- --fleet
//! ```
//!
//! Subscribes to each machine id of `--machines FILE` (one a line) with a `LogStream` of its own read by `next_batch`, or
//! looks at all of them with one `FleetStream` (`--fleet`). Ends on SIGTERM or SIGINT with the counts, and with `--latency`
//! also says how long lines waited between their receipt and this program.

use std::{error::Error, net::SocketAddr, path::PathBuf};

use clap::Parser;
use fleetdrain::{EntryView, FleetStream, LogCollector, LogDrainServer, LogStream};
use hdrhistogram::Histogram;
use jiff::Timestamp;
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
    /// Measure how long each line waited from its receipt until it was taken here
    #[arg(long)]
    latency: bool,
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
            counting.spawn(count_machine(stream, Counted::of(id, args.latency)));
        }
    }
    if args.fleet {
        counting.spawn(count_fleet(collector.fleet(), Counted::of("all machines", args.latency)));
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
    let mut total = Counted::of("total", args.latency);
    for counted in counting.join_all().await {
        if counted.lines > 0 {
            println!("{} {}", counted.name, counted.lines);
        }
        total.add(&counted);
    }
    if let Some(waited) = &total.waited {
        let at = |quantile| waited.value_at_quantile(quantile);
        let (median, p99, p999) = (at(0.5), at(0.99), at(0.999));
        println!("waited_micros p50={median} p99={p99} p99.9={p999} max={}", waited.max());
    }
    println!("{} {}", total.name, total.lines);
    Ok(())
}

/// Ends when the machine is finished, or the drain stops.
async fn count_machine(mut stream: LogStream, mut counted: Counted) -> Counted {
    while let Some(batch) = stream.next_batch().await {
        counted.take(batch.len(), || batch.entries().next());
    }
    counted
}

async fn count_fleet(mut fleet: FleetStream, mut counted: Counted) -> Counted {
    while let Some(batch) = fleet.next().await {
        counted.take(batch.len(), || batch.entries().next());
    }
    counted
}

/// What was read of a machine, or of all.
struct Counted {
    name: String,
    lines: u64,
    /// From receipt until taken, in microseconds.
    waited: Option<Box<Histogram<u64>>>,
}

impl Counted {
    fn of(name: &str, latency: bool) -> Self {
        let waited = latency.then(|| Box::new(Histogram::new(3).expect("three digits are allowed")));
        Self { name: name.to_owned(), lines: 0, waited }
    }

    /// Takes `lines` lines that were received together with `first`, which is only looked at where latency is asked for.
    fn take<'a>(&mut self, lines: usize, first: impl FnOnce() -> Option<EntryView<'a>>) {
        self.lines += lines as u64;
        if let Some(waited) = &mut self.waited
            && let Some(received) = first().and_then(|entry| entry.received_at())
        {
            let micros = Timestamp::now().duration_since(received).as_micros();
            waited.saturating_record_n(u64::try_from(micros).unwrap_or(0), lines as u64);
        }
    }

    fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        if let (Some(waited), Some(more)) = (&mut self.waited, &other.waited) {
            waited.add(&**more).expect("both grow as they need");
        }
    }
}
