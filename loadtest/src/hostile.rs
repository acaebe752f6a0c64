//! Slow and hostile peers: each is got rid of in time and with the right status, costs little, and hardly disturbs others.

mod bomb;
mod peer;

use crate::client::Target;
use crate::compare::{thousands, write_json};
use crate::failure::Failure;
use crate::generate::{Generator, RecordSpec};
use crate::healthy::{Health, Healthy};
use crate::process::{self, Launch, Server};
use crate::report::Latency;
use crate::run::histogram;
use bomb::{Bomb, bombs};
use clap::Args;
use peer::{End, Manner, behave, status};
use serde::Serialize;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// The drain's deadlines are short, so that the run is.
const HEADER_DEADLINE: Duration = Duration::from_secs(2);
const BODY_DEADLINE: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_secs(5);
/// A deadline is kept if who it is for is got rid of within this time of it: on a busy machine timers are late.
const LATE_MAX: Duration = Duration::from_secs(3);
const BUDGET: &str = "256MiB";
const BUDGET_BYTES: u64 = 256 << 20;
/// What the process may need beside its budget, in hundredths of it: code, tables, decoders' states, the allocator's rest.
const BESIDE_BUDGET_PERCENT: u64 = 15;
/// What the drain keeps of the healthy senders' lines, and in what time they send twice as many.
const HISTORY: &str = "4MiB";
const WARM_UP: Duration = Duration::from_secs(3);
/// What a connection may hold, also with a body under way.
const CONNECTION_BYTES_MAX: u64 = 16 << 10;
const HEALTHY: u32 = 4;
/// Lines of a healthy sender's body.
const HEALTHY_LINES: u32 = 50;

/// Slow and hostile peers against a drain of its own, while healthy senders are timed. Exits 65 if one of them is not got rid
/// of as promised, or a healthy sender is refused.
#[derive(Args, Clone, Debug)]
pub(crate) struct HostileArgs {
    /// The drain's binary
    #[arg(long, value_name = "FILE")]
    drain: PathBuf,
    /// Idle connections
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Peers that trickle, at once
    #[arg(long, default_value_t = 1_000)]
    slow: usize,
    /// Bombs at once
    #[arg(long, default_value_t = 4)]
    bombs: usize,
    /// Seconds for which healthy senders are alone, and each bomb is repeated
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Lines a second of the healthy senders together
    #[arg(long, default_value_t = 10_000)]
    rate: u32,
    /// Only what contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One kind of peer.
#[derive(Clone, Debug, Serialize)]
struct Trial {
    name: String,
    peers: usize,
    /// How they ended → how many.
    ends: BTreeMap<String, u64>,
    /// Until the last was got rid of.
    last_seconds: f64,
    /// The most that was resident meanwhile.
    resident_bytes_max: u64,
    /// Memory of the drain for each of them, where they hold connections.
    bytes_each: Option<u64>,
    /// Of the healthy senders meanwhile.
    answers: Latency,
    broken: Vec<String>,
}

/// Runs it.
pub(crate) fn run(args: &HostileArgs) -> Result<(), Failure> {
    process::prepare_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(Failure::io)?;
    // What peers cost us is no cost of the drain's: healthy senders, who are timed, go before them.
    let peers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(process::give_way)
        .build();
    let peers = peers.map_err(Failure::io)?;
    let seconds = |time: Duration| format!("{}s", time.as_secs());
    let launch = Launch::drain(&args.drain)
        .set("ingest.header_deadline", &seconds(HEADER_DEADLINE))
        .set("ingest.body_deadline", &seconds(BODY_DEADLINE))
        .set("ingest.idle", &seconds(IDLE))
        .set("ingest.connections_max", &(args.connections + args.slow + 1_000).to_string())
        .set("memory.budget", BUDGET)
        .set("history.bytes", HISTORY);
    let trials = runtime.block_on(all(args, &launch, peers.handle()))?;
    write_json(args.json.as_deref(), &trials)?;
    println!(
        "\nmemory.budget = {BUDGET}; p99 is of the healthy senders meanwhile, and how many times as long as alone"
    );
    let broken: Vec<String> = trials.into_iter().flat_map(|trial| trial.broken).collect();
    broken.iter().for_each(|broken| println!("BROKEN  {broken}"));
    match broken.len() {
        0 => Ok(()),
        count => Err(Failure::data(format!("{count} promises broken"))),
    }
}

/// A drain, and who is set on it.
struct Hostile<'a> {
    args: &'a HostileArgs,
    server: Server,
    target: Target,
    /// Where hostile peers run.
    peers: &'a Handle,
}

/// What a peer must come to.
struct Expected {
    ends: &'static [End],
    /// Not before, and not much later.
    deadline: Duration,
}

async fn all(args: &HostileArgs, launch: &Launch<'_>, peers: &Handle) -> Result<Vec<Trial>, Failure> {
    // A new drain for each crowd: one that had held a crowd before would hold the next in the same memory.
    let fresh = async || {
        let mut server = Server::start("drain", launch)?;
        let target = Target::resolve(&server.ingest, None).await.map_err(|failure| server.explain(failure))?;
        let hostile = Hostile { args, server, target, peers };
        // Full before anything is measured: what the healthy senders' lines take must not be counted for others.
        hostile.trial("warm-up", 0, tokio::time::sleep(WARM_UP)).await;
        Ok::<_, Failure>(hostile)
    };
    let is_wanted = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only));
    let [peers, ended, last, each, most, p99] = ["peers", "ended", "last", "bytes each", "resident", "p99"];
    println!("{:<34} {peers:>7}  {ended:<30} {last:>7} {each:>10} {most:>9} {p99:>10}", "");
    let alone = Duration::from_secs(args.seconds);
    let mut hostile = fresh().await?;
    let base = hostile.trial("healthy senders alone", 0, tokio::time::sleep(alone)).await.1;
    print(&base, &base);
    let mut trials = Vec::new();
    let (many, slow) = (args.connections, args.slow);
    let peers = [
        (Manner::Idle, "idle connections", many, Expected { ends: &[End::Closed], deadline: IDLE }),
        (
            Manner::SlowHead,
            "heads that trickle",
            slow,
            Expected { ends: &[End::Status(408)], deadline: HEADER_DEADLINE },
        ),
        (
            Manner::SlowBody,
            "bodies that trickle",
            slow,
            Expected { ends: &[End::Status(408)], deadline: BODY_DEADLINE },
        ),
        (
            Manner::SilentBody,
            "bodies whose sender vanished",
            slow,
            Expected { ends: &[End::Status(408)], deadline: BODY_DEADLINE },
        ),
        (
            Manner::HalfBody,
            "bodies half sent, then closed",
            slow,
            Expected { ends: &[End::Status(400), End::Closed], deadline: Duration::ZERO },
        ),
        (Manner::NeverReads, "senders that read no answer", 20, Expected { ends: &[End::Closed], deadline: IDLE }),
    ];
    for (manner, name, count, expected) in peers {
        if is_wanted(name) {
            hostile = fresh().await?;
            trials.push(hostile.peers(manner, name, count, &expected).await);
            print(&trials[trials.len() - 1], &base);
        }
    }
    for bomb in bombs()?.into_iter().filter(|bomb| is_wanted(bomb.name)) {
        trials.push(hostile.bomb(&bomb).await);
        print(&trials[trials.len() - 1], &base);
    }
    Ok(trials)
}

impl Hostile<'_> {
    /// Lets healthy senders send while `hostile` is under way.
    async fn trial<T>(&self, name: &str, peers: usize, hostile: impl Future<Output = T>) -> (T, Trial) {
        let stop = Arc::new(AtomicBool::default());
        let mut senders: JoinSet<(Healthy, Health)> = JoinSet::new();
        for number in 0..HEALTHY {
            let stop = Arc::clone(&stop);
            senders.spawn(self.healthy(number).send(move |_| !stop.load(Relaxed)));
        }
        self.server.forget_resident_max();
        let began = Instant::now();
        let outcome = hostile.await;
        let last_seconds = began.elapsed().as_secs_f64();
        let resident_bytes_max = self.server.resident_bytes_max();
        stop.store(true, Relaxed);
        let (mut answers, mut broken) = (histogram(), Vec::new());
        for (_, health) in senders.join_all().await {
            // The same bounds: it cannot fail.
            let _ = answers.add(&health.answers);
            if let Some(first) = health.failed.first() {
                broken.push(format!("{name}: a healthy sender failed {} times, first: {first}", health.failed.len()));
            }
        }
        if resident_bytes_max > BUDGET_BYTES + BUDGET_BYTES / 100 * BESIDE_BUDGET_PERCENT {
            broken.push(format!("{name}: {} MiB were resident, with a budget of {BUDGET}", resident_bytes_max >> 20));
        }
        let (ends, name, answers) = (BTreeMap::new(), name.to_owned(), Latency::of(&answers));
        (outcome, Trial { name, peers, ends, last_seconds, resident_bytes_max, bytes_each: None, answers, broken })
    }

    fn healthy(&self, number: u32) -> Healthy {
        let (spec, run) = (RecordSpec::default(), 0x00be_a000 | number);
        let generator = Generator::whole_fleet(&spec, run, 100, 1.0, u64::from(number));
        let interval = f64::from(HEALTHY_LINES * HEALTHY) / f64::from(self.args.rate);
        Healthy::new(self.target.clone(), generator, HEALTHY_LINES as usize, Duration::from_secs_f64(interval))
    }

    async fn peers(&self, manner: Manner, name: &str, count: usize, expected: &Expected) -> Trial {
        let patience = expected.deadline + LATE_MAX;
        let before = self.server.anonymous_bytes();
        let ((ends, held), mut trial) = self.trial(name, count, self.crowd(manner, count, patience)).await;
        trial.peers = ends.len();
        let mut early = 0;
        for (end, after) in ends {
            // Half a second for the difference between its clock and ours.
            // The drain's time begins when it can write no more, before its peer notices.
            let is_early = after + Duration::from_millis(500) < expected.deadline && manner != Manner::NeverReads;
            early += u64::from(is_early && end != End::StillOpen);
            if !expected.ends.contains(&end) && trial.broken.len() < 10 {
                trial.broken.push(format!(
                    "{name}: {end:?} after {after:?}, expected {:?} after {:?}",
                    expected.ends, expected.deadline
                ));
            }
            *trial.ends.entry(text(&end)).or_default() += 1;
        }
        if early > 0 {
            trial.broken.push(format!("{name}: {early} were got rid of before {:?} were over", expected.deadline));
        }
        // Those of the last kind come to rest only later.
        if ![Manner::HalfBody, Manner::NeverReads].contains(&manner) {
            let each = held.saturating_sub(before) / count.max(1) as u64;
            trial.bytes_each = Some(each);
            if each > CONNECTION_BYTES_MAX {
                trial.broken.push(format!("{name}: {each} bytes for each, over {CONNECTION_BYTES_MAX}"));
            }
        }
        trial
    }

    /// How each of them ended, and the drain's memory while all of them were there. Those who are gone at once come again: a percentile of
    /// half a second would be that of a single answer.
    async fn crowd(&self, manner: Manner, count: usize, patience: Duration) -> (Vec<(End, Duration)>, u64) {
        let until = Instant::now() + Duration::from_secs(self.args.seconds);
        let (mut ends, held) = self.crowd_once(manner, count, patience).await;
        while manner == Manner::HalfBody && Instant::now() < until {
            ends.extend(self.crowd_once(manner, count, patience).await.0);
        }
        (ends, held)
    }

    async fn crowd_once(&self, manner: Manner, count: usize, patience: Duration) -> (Vec<(End, Duration)>, u64) {
        let address = self.target.address;
        // Their coming, too, is no cost of the drain's.
        let coming = self.peers.spawn(async move {
            let mut peers = JoinSet::new();
            for _ in 0..count {
                let connected = Arc::new(Notify::new());
                peers.spawn(behave(manner, address, patience, Arc::clone(&connected)));
                // One after the other, or the listener's backlog overflows.
                let _ = tokio::time::timeout(Duration::from_secs(1), connected.notified()).await;
            }
            peers
        });
        let peers = coming.await.expect("no peer panics before it has come");
        tokio::time::sleep(HEADER_DEADLINE / 4).await;
        let held = self.server.anonymous_bytes();
        (peers.join_all().await, held)
    }

    /// So many at a time, again and again.
    async fn bomb(&self, bomb: &Bomb) -> Trial {
        let throwing = async {
            let until = Instant::now() + Duration::from_secs(self.args.seconds);
            let mut thrown = Vec::new();
            while Instant::now() < until {
                let mut at_once = JoinSet::new();
                for _ in 0..self.args.bombs {
                    at_once.spawn_on(throw(self.target.clone(), bomb.clone()), self.peers);
                }
                thrown.extend(at_once.join_all().await);
            }
            thrown
        };
        let (thrown, mut trial) = self.trial(bomb.name, 0, throwing).await;
        trial.peers = thrown.len();
        for outcome in thrown {
            // Where they do not fit beside each other some are turned away before it shows what they are.
            let turned_away = if self.args.bombs > 4 { 503 } else { 413 };
            let is_refused =
                outcome.as_ref().is_ok_and(|status| bomb.statuses.contains(status) || *status == turned_away);
            let outcome = outcome.map_or_else(|error| error, |status| status.to_string());
            if !is_refused && trial.broken.len() < 10 {
                trial.broken.push(format!("{}: {outcome}, expected {:?}", bomb.name, bomb.statuses));
            }
            *trial.ends.entry(outcome).or_default() += 1;
        }
        trial
    }
}

/// Sends a bomb and reads the answer, at once. An answer that comes before the body's end is no reason for the drain to close
/// before it has read that: whoever only reads once all is sent would read a reset.
async fn throw(target: Target, bomb: Bomb) -> Result<u16, String> {
    let mut stream = TcpStream::connect(target.address).await.map_err(|error| error.to_string())?;
    let Bomb { encoding, body, .. } = bomb;
    let head = [
        "POST / HTTP/1.1",
        &format!("Host: {}", target.authority),
        &format!("Content-Encoding: {encoding}"),
        &format!("Content-Length: {}", body.len()),
        "Connection: close\r\n\r\n",
    ];
    let (mut reading, mut writing) = stream.split();
    let mut told = Vec::new();
    let write = async {
        writing.write_all(head.join("\r\n").as_bytes()).await?;
        writing.write_all(&body).await
    };
    let (written, read) = tokio::join!(write, reading.read_to_end(&mut told));
    match (status(&told), written, read) {
        (Some(status), Ok(()), Ok(_)) => Ok(status),
        (status, written, read) => Err(format!("status {status:?}, sent {written:?}, read {read:?}")),
    }
}

fn text(end: &End) -> String {
    match end {
        End::Status(status) => status.to_string(),
        End::Closed => "closed".to_owned(),
        End::StillOpen => "still open".to_owned(),
        End::NotConnected(error) => format!("not connected: {error}"),
    }
}

fn print(trial: &Trial, base: &Trial) {
    let ends: Vec<String> =
        trial.ends.iter().map(|(end, count)| format!("{end} × {}", thousands(*count as f64))).collect();
    let each = trial.bytes_each.map_or_else(String::new, |bytes| thousands(bytes as f64));
    let times = trial.answers.p99 / base.answers.p99.max(0.001);
    println!(
        "{:<34} {:>7}  {:<30} {:>6.1}s {:>10} {:>5} MiB {:>7.2} ms {:>5.1}x",
        trial.name,
        thousands(trial.peers as f64),
        ends.join(", "),
        trial.last_seconds,
        each,
        trial.resident_bytes_max >> 20,
        trial.answers.p99,
        times
    );
}
