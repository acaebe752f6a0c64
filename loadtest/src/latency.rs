//! From receipt until taken by its reader, at a share of what the drain can take.

use crate::client::Connection;
use crate::compare::{self, Bodies, BodyArgs, MachineList, count_lines_of, send, thousands, write_json};
use crate::failure::Failure;
use crate::process::{self, Launch, Server};
use crate::report::Latency;
use crate::run::histogram;
use crate::schedule::{Profile, Schedule};
use clap::Args;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long lines wait between their receipt and the reader of their machine, at half load.
///
/// The readers are `count_lines --latency`, a `LogStream` a machine, in the drain's own process: what is measured is the
/// drain's, not a network's. Receipt is when the drain stamps `received_at`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LatencyArgs {
    /// The example that subscribes and drains every machine [default: examples/count_lines beside the drain]
    #[arg(long, value_name = "FILE", required_unless_present = "drain")]
    pub(crate) count_lines: Option<PathBuf>,
    /// The drain's binary, to find the example by
    #[arg(long, value_name = "FILE")]
    pub(crate) drain: Option<PathBuf>,
    /// Share of what the drain takes as fast as it can
    #[arg(long, default_value_t = 0.5)]
    pub(crate) load: f64,
    /// Seconds to find out what the drain can take
    #[arg(long, default_value_t = 5)]
    pub(crate) calibrate: u64,
    /// Seconds to measure
    #[arg(long, default_value_t = 30)]
    pub(crate) duration: u64,
    /// Lines per body
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) lines_per_body: u32,
    /// Machines in the fleet, all subscribed
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) machines: u32,
    /// Worker threads of the server
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) threads: u16,
    /// Connections of the generator
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) connections: u16,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) maximum: f64,
    pub(crate) rate: f64,
    /// Received → taken, in microseconds: p50, p99, p99.9, most.
    pub(crate) waited: [f64; 4],
    /// From when each body was due until it was answered.
    pub(crate) answers: Latency,
    pub(crate) behind: Duration,
}

/// Measures and prints.
pub(crate) fn run(args: &LatencyArgs) -> Result<(), Failure> {
    let measured = measure(args)?;
    let Measured { maximum, rate, waited: [p50, p99, p999, max], answers, behind } = &measured;
    println!("maximum           {} lines/s (closed loop, {} connections)", thousands(*maximum), args.connections);
    println!("sent              {} lines/s, bodies up to {behind:.1?} late", thousands(*rate));
    println!(
        "received → taken  p50 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3} ms",
        p50 / 1e3,
        p99 / 1e3,
        p999 / 1e3,
        max / 1e3
    );
    println!("due → answered    {}", answers.line());
    write_json(args.json.as_deref(), &measured)
}

/// Finds what the drain can take, then sends a share of it to a fresh one.
pub(crate) fn measure(args: &LatencyArgs) -> Result<Measured, Failure> {
    let missing = || Failure::usage("latency needs --count-lines, or examples/count_lines beside --drain");
    let program = count_lines_of(args.count_lines.as_deref(), args.drain.as_deref()).ok_or_else(missing)?;
    if !(args.load > 0.0 && args.load.is_finite()) {
        return Err(Failure::usage("--load must be above 0"));
    }
    let list = MachineList::write(args.machines)?;
    let (path, threads) = (list.path.to_string_lossy(), args.threads.to_string());
    let arguments = ["--listen", "127.0.0.1:0", "--latency", "--threads", &threads, "--machines", &path];
    let cpus = process::cpus();
    let (servers, own) = compare::places(&cpus, args.threads);
    let launch = Launch { cpus: servers, ..Launch::new(&program, &arguments) };
    let start = || Server::start("count_lines", &launch);
    // Both before this thread is pinned: they could not go elsewhere any more.
    let (first, second) = (start()?, start()?);
    if !own.is_some_and(|own| process::pin(&[own])) {
        eprintln!("NOT pinned (one CPU, or not allowed): trust these figures less");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::io)?;
    let bodies = Arc::new(Bodies::of(&BodyArgs {
        lines_per_body: args.lines_per_body as usize,
        machines: args.machines,
        ..BodyArgs::default()
    })?);
    let maximum = runtime.block_on(maximum(args, &first, &bodies))?;
    first.end()?;
    let rate = maximum * args.load;
    eprintln!("it takes {} lines/s; sending {}", thousands(maximum), thousands(rate));
    let (sent, answers, behind) = runtime.block_on(send_open(args, &second, &bodies, rate))?;
    let printed = second.end()?;
    let counted = printed.lines().find_map(|line| line.strip_prefix("total ")?.parse::<u64>().ok());
    if counted != Some(sent) {
        return Err(Failure::data(format!("{sent} lines sent, counted {counted:?}")));
    }
    let waited = printed.lines().find_map(waited);
    let waited = waited.ok_or_else(|| Failure::data("count_lines did not print what lines waited"))?;
    Ok(Measured { maximum, rate, waited, answers: Latency::of(&answers), behind })
}

/// The line `waited_micros p50=1 p99=2 p99.9=3 max=4`.
fn waited(line: &str) -> Option<[f64; 4]> {
    let mut values = line.strip_prefix("waited_micros ")?.split(' ');
    let mut value = |name: &str| values.next()?.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
    Some([value("p50")?, value("p99")?, value("p99.9")?, value("max")?])
}

/// Lines a second in a closed loop: bodies for a second at a time, until the time is over.
async fn maximum(args: &LatencyArgs, server: &Server, bodies: &Arc<Bodies>) -> Result<f64, Failure> {
    let target = compare::target(&server.ingest).await?;
    let count = 1_000_000_usize.div_ceil(bodies.lines_per_body);
    // The first pass warms up.
    send(&target, bodies, count, args.connections).await?;
    let (began, mut passes) = (Instant::now(), 0);
    while passes == 0 || began.elapsed() < Duration::from_secs(args.calibrate) {
        send(&target, bodies, count, args.connections).await?;
        passes += 1;
    }
    Ok((passes * count * bodies.lines_per_body) as f64 / began.elapsed().as_secs_f64())
}

/// Sends at `rate` by a schedule fixed beforehand; lines sent, latencies of the answers from when bodies were due in
/// microseconds, and how late the latest body went out.
async fn send_open(
    args: &LatencyArgs,
    server: &Server,
    bodies: &Arc<Bodies>,
    rate: f64,
) -> Result<(u64, Histogram<u64>, Duration), Failure> {
    let target = compare::target(&server.ingest).await?;
    let profile = Profile::steady(rate);
    let start = Instant::now() + Duration::from_millis(50);
    let until = start + Duration::from_secs(args.duration);
    let senders: Vec<_> = (0..args.connections)
        .map(|number| {
            let share = 1.0 / f64::from(args.connections);
            let stagger = f64::from(number) * share;
            let schedule = Schedule { profile: profile.clone(), share, lines_per_body: bodies.lines_per_body, stagger };
            let (target, bodies, step) = (target.clone(), Arc::clone(bodies), usize::from(args.connections));
            tokio::spawn(async move {
                let mut connection: Connection = Connection::open(&target, None).await?;
                let (mut sent, mut answers, mut behind) = (0, histogram(), Duration::ZERO);
                for body in 0.. {
                    let due = start + schedule.due(body);
                    if due >= until {
                        break;
                    }
                    tokio::time::sleep_until(due.into()).await;
                    behind = behind.max(due.elapsed());
                    bodies.send(&mut connection, &target, usize::from(number) + body as usize * step).await?;
                    answers.saturating_record(due.elapsed().as_micros() as u64);
                    sent += bodies.lines_per_body as u64;
                }
                Ok::<_, Failure>((sent, answers, behind))
            })
        })
        .collect();
    let (mut sent, mut answers, mut behind) = (0, histogram(), Duration::ZERO);
    for sender in senders {
        let (lines, latencies, late) = sender.await.map_err(Failure::io)??;
        sent += lines;
        answers.add(latencies).map_err(Failure::io)?;
        behind = behind.max(late);
    }
    Ok((sent, answers, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_count_lines_prints_is_understood() {
        assert_eq!(waited("waited_micros p50=1 p99=20 p99.9=300 max=4000"), Some([1.0, 20.0, 300.0, 4000.0]));
        assert_eq!(waited("total 17"), None);
        assert_eq!(waited("waited_micros p50=1 p99=x"), None);
    }
}
