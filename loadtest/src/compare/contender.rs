//! Who is measured.

use super::beside::Beside;
use super::bodies::{Bodies, MachineList, RUN, send};
use super::followers::Followers;
use super::{CompareArgs, count_lines_of, places, target};
use crate::failure::Failure;
use crate::process::{Launch, Server};
use hyper::Method;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A server that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Bare hyper that throws bodies away
    Ceiling,
    /// A JSON value a line, owned strings, a task a machine
    Naive,
    /// `fleetdrain serve` without a consumer
    Drain,
    /// The library with a `LogStream` a machine, each in a task of its own
    CountLines,
    /// The library with one `FleetStream`
    Fleet,
    /// `fleetdrain serve`, every machine's queue followed over HTTP
    Queues,
    /// `fleetdrain serve` with a sink `file`, uncompressed
    FileSink,
    /// `fleetdrain serve` with a sink `http`, uncompressed, to a server that throws bodies away
    HttpSink,
    /// `fleetdrain serve` that gets every line as a message of a nats-server with authentication, as from Fly
    Fly,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::Naive => "naive",
            Self::Drain => "drain",
            Self::CountLines => "count_lines",
            Self::Fleet => "fleet",
            Self::Queues => "queues",
            Self::FileSink => "file_sink",
            Self::HttpSink => "http_sink",
            Self::Fly => "fly",
        }
    }

    /// Whether it can have more threads than one: the others are yardsticks, or have as many as CPUs.
    fn has_threads(self) -> bool {
        matches!(self, Self::CountLines | Self::Fleet)
    }
}

/// Machines that can be followed over HTTP at once: the drain's own bound on connections.
const QUEUES_MAX: u32 = 10_000;

/// A server under measurement.
pub(super) struct Contender {
    kind: Kind,
    pub(super) machines: u32,
    pub(super) threads: u16,
    pub(super) server: Server,
    followers: Option<Followers>,
    beside: Option<Beside>,
    sent: u64,
}

impl Contender {
    /// Starts every server that is asked for, for the machines of `list`.
    pub(super) fn start_all(args: &CompareArgs, list: &MachineList, cpus: &[usize]) -> Result<Vec<Self>, Failure> {
        let mut contenders = Vec::new();
        for kind in asked(args)? {
            let threads: &[u16] = if kind.has_threads() { &args.threads } else { &[1] };
            for &threads in threads {
                contenders.push(Self::start(args, kind, list, threads, cpus)?);
            }
        }
        Ok(contenders)
    }

    fn start(
        args: &CompareArgs,
        kind: Kind,
        list: &MachineList,
        threads: u16,
        cpus: &[usize],
    ) -> Result<Self, Failure> {
        let machines = list.machines;
        if kind == Kind::Queues && machines > QUEUES_MAX {
            return Err(Failure::usage(format!("queues: at most {QUEUES_MAX} machines can be followed over HTTP")));
        }
        let program = program(args, kind)?;
        let (path, number) = (list.path.to_string_lossy(), threads.to_string());
        let own = [kind.name(), "--listen", "127.0.0.1:0"];
        let counting = ["--listen", "127.0.0.1:0", "--threads", &number];
        let launch = match kind {
            Kind::Ceiling | Kind::Naive => Launch::new(&program, &own),
            Kind::Drain | Kind::Queues | Kind::FileSink | Kind::HttpSink | Kind::Fly => Launch::drain(&program),
            Kind::CountLines => Launch::new(&program, &[&counting[..], &["--machines", &path]].concat()),
            Kind::Fleet => Launch::new(&program, &[&counting[..], &["--fleet"]].concat()),
        };
        let (servers, own) = places(cpus, threads);
        let beside = Beside::start(kind, &args.nats_server, own.as_slice())?;
        let launch = beside.iter().fold(launch, |launch, beside| beside.settings(launch));
        let launch = Launch { cpus: servers, ..launch };
        let name = if threads == 1 { kind.name().to_owned() } else { format!("{} ×{threads}", kind.name()) };
        let server = Server::start(&name, &launch)?;
        Ok(Self { kind, machines, threads, server, followers: None, beside, sent: 0 })
    }

    /// Connects the readers, if it is to have some.
    pub(super) async fn follow(&mut self) -> Result<(), Failure> {
        if self.kind == Kind::Queues {
            let control = target(&self.server.control).await?;
            self.followers = Some(Followers::connect(&control, RUN, self.machines).await?);
        }
        Ok(())
    }

    /// Sends `count` bodies, and waits until the readers, if it has some, have every line.
    pub(super) async fn take(
        &mut self,
        bodies: &Arc<Bodies>,
        count: usize,
        connections: u16,
    ) -> Result<Duration, Failure> {
        let taken = self.try_take(bodies, count, connections).await;
        taken.map_err(|failure| self.server.explain(failure.because(format!("measuring {}", self.server.name))))
    }

    async fn try_take(&mut self, bodies: &Arc<Bodies>, count: usize, connections: u16) -> Result<Duration, Failure> {
        let ingest = target(&self.server.ingest).await?;
        let started = std::time::Instant::now();
        let published = match &mut self.beside {
            Some(beside) => beside.publish(&self.server, bodies, count, self.sent).await,
            None => None,
        };
        match published {
            Some(published) => published?,
            None => drop(send(&ingest, bodies, count, connections).await?),
        }
        self.sent += (count * bodies.lines_per_body) as u64;
        if let Some(beside) = &self.beside {
            beside.settled(&self.server, self.sent).await?;
        }
        if let Some(followers) = &mut self.followers {
            bodies.add_lines(count, followers.expected());
            followers.have_all().await?;
        }
        Ok(started.elapsed())
    }

    /// Ends it, and asks what it counted: a server that loses lines would look quick.
    pub(super) async fn settle(self) -> Result<(), Failure> {
        let (name, sent) = (self.server.name.clone(), self.sent);
        let counted = match self.kind {
            Kind::Ceiling => return Ok(()),
            Kind::Naive => number(&stats(&self.server.ingest).await?, "lines_drained"),
            Kind::Drain | Kind::FileSink | Kind::HttpSink | Kind::Fly => {
                number(&stats(&self.server.control).await?, "lines_received")
            }
            Kind::Queues => number(&stats(&self.server.control).await?, "queue_lines_delivered"),
            Kind::CountLines | Kind::Fleet => {
                let printed = self.server.end()?;
                printed.lines().find_map(|line| line.strip_prefix("total ")?.parse().ok())
            }
        };
        match counted {
            Some(counted) if counted == sent => Ok(()),
            _ => Err(Failure::data(format!("{name}: {sent} lines sent, counted {counted:?}"))),
        }
    }
}

/// Who is asked for, or by default those that are there.
fn asked(args: &CompareArgs) -> Result<Vec<Kind>, Failure> {
    if !args.servers.is_empty() {
        return Ok(args.servers.clone());
    }
    let all = [Kind::Ceiling, Kind::Naive, Kind::Drain, Kind::CountLines];
    Ok(all.into_iter().filter(|&kind| program(args, kind).is_ok()).collect())
}

fn program(args: &CompareArgs, kind: Kind) -> Result<PathBuf, Failure> {
    let drain = args.drain.as_deref();
    let missing = |flag: &str| Failure::usage(format!("{} needs {flag}", kind.name()));
    match kind {
        Kind::Ceiling | Kind::Naive => std::env::current_exe().map_err(Failure::io),
        Kind::Drain | Kind::Queues | Kind::FileSink | Kind::HttpSink | Kind::Fly => {
            drain.map(Path::to_owned).ok_or_else(|| missing("--drain"))
        }
        Kind::CountLines | Kind::Fleet => count_lines_of(args.count_lines.as_deref(), drain)
            .ok_or_else(|| missing("--count-lines, or examples/count_lines beside --drain")),
    }
}

async fn stats(url: &str) -> Result<Value, Failure> {
    let (_, body) = target(url).await?.call(Method::GET, "/api/v1/stats").await?;
    serde_json::from_slice(&body).map_err(|error| Failure::data(format!("{url}/api/v1/stats: {error}")))
}

fn number(stats: &Value, key: &str) -> Option<u64> {
    stats.get(key)?.as_u64()
}
