//! CPU per line of several servers under the same bodies.

mod table;

pub(crate) use table::thousands;

use crate::client::{Connection, Target};
use crate::encode::Encoding;
use crate::failure::Failure;
use crate::generate::{Form, Generator, RecordSpec, Shapes, machine_id, rfc3339};
use crate::process::{self, Server};
use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::{Method, StatusCode, header};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The run id of all bodies of a comparison: they are the same on every machine and day.
const RUN: u32 = 0x00c0_ffee;

/// Ceiling, naive and the drain, pinned to one CPU, the generator on another.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompareArgs {
    /// The drain's binary; without it only the yardsticks are measured
    #[arg(long, value_name = "FILE")]
    drain: Option<PathBuf>,
    /// The example that subscribes and drains every machine: the fair peer of naive [default: examples/count_lines beside the drain, if there]
    #[arg(long, value_name = "FILE")]
    count_lines: Option<PathBuf>,
    /// Lines per body, each a row of the table
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100, 10])]
    lines_per_body: Vec<usize>,
    /// Lines sent to each server in each round
    #[arg(long, default_value_t = 1_000_000)]
    lines: usize,
    /// Unmeasured lines sent to each server first; the default fills the drain's history, whose memory is touched for
    /// the first time by then
    #[arg(long, default_value_t = 1_000_000)]
    warm_up: usize,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Machines in the fleet
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    machines: u32,
    /// Exponent of Zipf's law over the machines; 0 is uniform
    #[arg(long, default_value_t = 1.0)]
    zipf: f64,
    /// Distinct lines pregenerated; the bodies are repeated from there
    #[arg(long, default_value_t = 200_000)]
    distinct_lines: usize,
    /// Mean bytes of a record
    #[arg(long, default_value_t = 340)]
    line_bytes: usize,
    /// Whether lines repeat the shipper's shape or each has its own
    #[arg(long, value_enum, default_value_t = Shapes::Fly)]
    shapes: Shapes,
    /// The bodies' form
    #[arg(long, value_enum, default_value_t = Form::Lines)]
    form: Form,
    /// The bodies' content encoding
    #[arg(long, value_enum, default_value_t = Encoding::Identity)]
    encoding: Encoding,
    /// Connections of the generator
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Leave out the naive server
    #[arg(long)]
    no_naive: bool,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What one server did in one round.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    cpu_seconds: f64,
    wall_seconds: f64,
}

/// All rounds of one server with one body size.
#[derive(Clone, Debug, Serialize)]
struct Series {
    server: String,
    lines_per_body: usize,
    lines: usize,
    rounds: Vec<Round>,
    resident_bytes: u64,
}

/// Runs the comparison.
pub(crate) fn run(args: &CompareArgs) -> Result<(), Failure> {
    if args.lines_per_body.contains(&0) || args.lines == 0 || args.distinct_lines == 0 {
        return Err(Failure::usage("lines, distinct lines and lines per body must be above 0"));
    }
    let cpus = process::cpus();
    let (server_cpu, own_cpu) = match cpus.as_slice() {
        [first, .., last] => (Some(*first), Some(*last)),
        _ => (None, None),
    };
    // On a machine-list file of its own, that ends with this function.
    let machines = MachineList::write(args.machines)?;
    let servers = start(args, &machines.0, server_cpu)?;
    let pinned = own_cpu.is_some_and(process::pin);
    println!("{}", table::heading(args, server_cpu.filter(|_| pinned).zip(own_cpu)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::io)?;
    let mut all = Vec::new();
    for &lines_per_body in &args.lines_per_body {
        let series = runtime.block_on(measure(args, lines_per_body, &servers))?;
        println!("{}", table::section(&series));
        all.extend(series);
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&all).map_err(Failure::io)?;
        std::fs::write(path, text).map_err(|error| Failure::io(format!("{}: {error}", path.display())))?;
    }
    Ok(())
}

fn start(args: &CompareArgs, machines: &Path, cpu: Option<usize>) -> Result<Vec<Server>, Failure> {
    let own = std::env::current_exe().map_err(Failure::io)?;
    let mut servers = Vec::new();
    let mut add = |name: &str, program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments);
        // The drain's own environment must not configure what is measured.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("FLEETDRAIN_")) {
            command.env_remove(key);
        }
        Server::start(name, command, cpu).map(|server| servers.push(server))
    };
    add("ceiling", &own, &["ceiling", "--listen", "127.0.0.1:0"])?;
    if !args.no_naive {
        add("naive", &own, &["naive", "--listen", "127.0.0.1:0"])?;
    }
    if let Some(drain) = &args.drain {
        add("drain", drain, &["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])?;
    }
    if let Some(example) = count_lines(args) {
        let machines = machines.to_string_lossy();
        let listen = ["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--machines", &machines];
        add("count_lines", &example, &listen)?;
    }
    Ok(servers)
}

fn count_lines(args: &CompareArgs) -> Option<PathBuf> {
    let beside = || {
        let example = args.drain.as_ref()?.parent()?.join("examples/count_lines");
        example.is_file().then_some(example)
    };
    args.count_lines.clone().or_else(beside)
}

/// A file of machine ids, one a line, removed when dropped.
struct MachineList(PathBuf);

impl MachineList {
    fn write(count: u32) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("loadtest-machines-{}.txt", std::process::id()));
        let mut text = Vec::with_capacity(count as usize * 15);
        for number in 0..count {
            text.extend_from_slice(&machine_id(RUN, number));
            text.push(b'\n');
        }
        std::fs::write(&path, text).map_err(|error| Failure::io(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for MachineList {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Bodies and what they cost nobody to make again.
struct Bodies {
    bodies: Vec<Bytes>,
    lines_per_body: usize,
    encoding: Encoding,
}

impl Bodies {
    fn generate(args: &CompareArgs, lines_per_body: usize) -> Result<Self, Failure> {
        let spec =
            RecordSpec { line_bytes: args.line_bytes, form: args.form, shapes: args.shapes, ..RecordSpec::default() };
        let mut generator = Generator::whole_fleet(&spec, RUN, args.machines as usize, args.zipf, 1);
        let mut buffer = Vec::new();
        let mut bodies = Vec::new();
        for number in 0..args.distinct_lines.div_ceil(lines_per_body) {
            // A body each millisecond from a fixed day on: the bodies do not depend on when they are made.
            let timestamp = rfc3339(1_782_523_151_000_000_000 + number as u128 * 1_000_000);
            generator.body(lines_per_body, 0, &timestamp, &mut buffer);
            bodies.push(Bytes::from(args.encoding.encode(&buffer).map_err(Failure::io)?));
        }
        Ok(Self { bodies, lines_per_body, encoding: args.encoding })
    }
}

async fn measure(args: &CompareArgs, lines_per_body: usize, servers: &[Server]) -> Result<Vec<Series>, Failure> {
    let bodies = Arc::new(Bodies::generate(args, lines_per_body)?);
    let count = args.lines.div_ceil(lines_per_body);
    let mut targets = Vec::new();
    for server in servers {
        targets.push(Target::resolve(&server.ingest, None).await?);
    }
    let mut series: Vec<Series> = servers
        .iter()
        .map(|server| Series {
            server: server.name.clone(),
            lines_per_body,
            lines: count * lines_per_body,
            rounds: Vec::new(),
            resident_bytes: 0,
        })
        .collect();
    // Warm-up: the tables of machines, the allocator and the branch predictors settle outside the measurement.
    for (server, target) in servers.iter().zip(&targets) {
        send(&server.name, target, &bodies, args.warm_up.div_ceil(lines_per_body), args.connections).await?;
    }
    // Interleaved, so that what else happens on the machine meets all servers alike.
    for _ in 0..args.rounds {
        for ((server, target), series) in servers.iter().zip(&targets).zip(&mut series) {
            let before = server.cpu_at_rest()?;
            let wall = send(&server.name, target, &bodies, count, args.connections).await?;
            let cpu = server.cpu_at_rest()? - before;
            series.rounds.push(Round { cpu_seconds: cpu.as_secs_f64(), wall_seconds: wall.as_secs_f64() });
            series.resident_bytes = server.resident_bytes();
        }
    }
    Ok(series)
}

/// Sends `count` bodies over `connections` connections as fast as they are taken.
async fn send(
    name: &str,
    target: &Target,
    bodies: &Arc<Bodies>,
    count: usize,
    connections: u16,
) -> Result<Duration, Failure> {
    let started = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..connections)
        .map(|_| {
            let (target, bodies, next) = (target.clone(), Arc::clone(bodies), Arc::clone(&next));
            tokio::spawn(async move { send_some(&target, &bodies, &next, count).await })
        })
        .collect();
    for sender in senders {
        let sent = sender.await.map_err(Failure::io)?;
        sent.map_err(|error| Failure::data(format!("{name}: {error}")))?;
    }
    Ok(started.elapsed())
}

async fn send_some(target: &Target, bodies: &Bodies, next: &AtomicUsize, count: usize) -> Result<(), Failure> {
    let mut connection = Connection::open(target, None).await.map_err(Failure::unavailable)?;
    loop {
        let number = next.fetch_add(1, Relaxed);
        if number >= count {
            return Ok(());
        }
        let mut request = target.request(Method::POST, "/").header(header::CONTENT_TYPE, "application/json");
        if let Some(encoding) = bodies.encoding.header() {
            request = request.header(header::CONTENT_ENCODING, encoding);
        }
        let body = Full::new(bodies.bodies[number % bodies.bodies.len()].clone());
        let request = request.body(body).map_err(Failure::io)?;
        let answer = connection.exchange(request).await.map_err(Failure::unavailable)?;
        if answer.status != StatusCode::OK {
            return Err(Failure::data(format!("answered {}: {}", answer.status, answer.body.escape_ascii())));
        }
        // A server that throws lines away would look quick. The ceiling does, and has no account.
        if let Some(account) = answer.account()
            && (account.received != bodies.lines_per_body as u64 || account.rejected > 0)
        {
            return Err(Failure::data(format!("{} lines sent, answer {account:?}", bodies.lines_per_body)));
        }
    }
}
