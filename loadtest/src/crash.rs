//! Conservation, proved from outside: the drain is killed again and again, and what it acknowledged must be there.

mod body;
mod drain;
mod fleet;
mod flip;
mod follow;
mod inject;
mod judge;
mod ledger;
mod overload;
mod read;
mod report;
mod sender;
mod view;

use crate::client::chain;
use crate::compare::write_json;
use crate::failure::Failure;
use crate::generate::new_run;
use crate::random::Random;
use crate::report::Latency;
use crate::run::histogram;
use clap::Args;
use drain::{Life, Setup};
use fleet::Fleet;
use follow::{Followers, From};
use hyper::{Method, StatusCode};
use inject::{Episode, Fault, SmallDisk};
use judge::{Rules, Verdict};
use ledger::Ledger;
use nix::sys::signal::Signal;
use report::{Faults, Flips, Followed, Report, Times};
use sender::{Sender, Shared, Tally};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use view::{NAMED_MAX, View};

/// So long the senders may take for their last body.
const FINISH_WAIT: Duration = Duration::from_secs(60);
/// A kill that comes before the drain is ready comes within this time.
const EARLY_MAX: Duration = Duration::from_millis(60);
/// A fault lasts at least so long: one that no call comes upon is none.
const FAULT_MIN: Duration = Duration::from_millis(100);
/// After a fault of the disk a body must be acknowledged within this time.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// So often it is told how far the run is.
const PROGRESS: Duration = Duration::from_secs(10);

/// How the drain is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Stop {
    /// SIGKILL, at any moment.
    Kill,
    /// SIGTERM, as a deploy does: it must exit 0.
    Term,
}

/// Kills a drain under load, again and again, and judges what is there in the end. Exits 65 if a promise is broken.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  loadtest crash --drain target/release/fleetdrain --kills 100
  loadtest crash --drain target/release/fleetdrain --signal term --life 2000
  loadtest crash --drain target/release/fleetdrain --inject fsync-eio
  loadtest crash --drain target/release/fleetdrain --kills 8 --life 2000 \\
      --senders 32 --inject full-disk --overload")]
pub(crate) struct CrashArgs {
    /// The drain's binary
    #[arg(long, value_name = "FILE")]
    drain: PathBuf,
    /// How often it is killed
    #[arg(long, default_value_t = 20)]
    kills: u64,
    /// No more kills after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Senders, each with a connection and machines of its own
    #[arg(long, default_value_t = 4)]
    senders: u32,
    /// Machines of each sender
    #[arg(long, default_value_t = 4)]
    machines: u32,
    /// Records of a body, on average
    #[arg(long, default_value_t = 50)]
    lines_per_body: usize,
    /// Records a second, of all senders together
    #[arg(long, default_value_t = 20_000.0)]
    rate: f64,
    /// Milliseconds that the drain lives, on average
    #[arg(long, default_value_t = 400)]
    life: u64,
    /// Seed of bodies and moments [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Where the spool is to be: a directory that is empty or does not exist [default: a fresh one for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave the directory behind; it stays anyway when a promise is broken
    #[arg(long)]
    keep: bool,
    /// How it is ended
    #[arg(long, value_enum, default_value_t = Stop::Kill)]
    signal: Stop,
    /// Send an Idempotency-Key with every body, and repeat it until it is acknowledged (the default)
    #[arg(long, conflicts_with = "no_key")]
    idempotency_key: bool,
    /// Send no Idempotency-Key: a repeat is allowed for each try without a sure answer
    #[arg(long)]
    no_key: bool,
    /// Who follows meanwhile
    #[arg(long, value_enum, default_value_t = From::None)]
    readers: From,
    /// What fails for a while in each of the drain's lives
    #[arg(long, value_enum)]
    inject: Option<Fault>,
    /// Twice what the drain takes, a `block` queue whose reader is dead, and a disk
    /// on which what the drain gives up is taken by others
    #[arg(long, requires = "inject", conflicts_with_all = ["readers", "no_spool", "flip"])]
    overload: bool,
    /// Flip so many bits of the stopped spool, one at a time
    #[arg(long, default_value_t = 0)]
    flip: u64,
    /// Without a spool: what is acknowledged is in memory, so the harness must find it lost
    #[arg(long)]
    no_spool: bool,
    /// A setting of the drain, as `spool.bytes_max=1GiB`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl CrashArgs {
    fn check(&self) -> Result<(), Failure> {
        let wrong = [
            (self.senders == 0 || self.senders > 1_000, "--senders must be from 1 to 1000"),
            (self.machines == 0 || self.machines > 99, "--machines must be from 1 to 99"),
            (self.lines_per_body == 0, "--lines-per-body must be above 0"),
            (self.rate < 1.0, "--rate must be at least 1"),
            (self.life == 0, "--life must be above 0"),
            (self.no_spool && (self.flip > 0 || self.inject.is_some()), "--flip and --inject need a spool"),
            (self.inject == Some(Fault::FullDisk) && self.flip > 0, "--flip needs room for a copy, not a full disk"),
        ];
        match wrong.iter().find(|(wrong, _)| *wrong) {
            Some((_, message)) => Err(Failure::usage(message)),
            None => self.inject.map_or(Ok(()), Fault::check),
        }
    }

    fn settings(&self) -> Result<Vec<(String, String)>, Failure> {
        let pairs = self.set.iter().map(|set| {
            let pair = set.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            pair.ok_or_else(|| Failure::usage(format!("--set {set:?}: no `=` in it")))
        });
        // The user's come last, and win.
        let own = overload::SETTINGS.iter().filter(|_| self.overload);
        own.map(|&(key, value)| Ok((key.to_owned(), value.to_owned()))).chain(pairs).collect()
    }

    /// The run's directory, made if there is none.
    fn directory(&self, run: u32) -> Result<PathBuf, Failure> {
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => std::env::temp_dir().join(format!("fleetdrain-crash-{run:08x}")),
        };
        let failed = |error| Failure::io(format!("{}: {error}", dir.display()));
        std::fs::create_dir_all(&dir).map_err(failed)?;
        match std::fs::read_dir(&dir).map_err(failed)?.next() {
            None => Ok(dir),
            Some(_) => Err(Failure::usage(format!("--dir {}: not empty", dir.display()))),
        }
    }
}

/// Runs it.
pub(crate) fn run(args: &CrashArgs) -> Result<(), Failure> {
    args.check()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = args.seed.unwrap_or(now.as_nanos() as u64 % 1_000_000_000);
    let run = new_run();
    let dir = args.directory(run)?;
    eprintln!("seed {seed}, directory {}", dir.display());
    let disk = if args.inject == Some(Fault::FullDisk) { Some(SmallDisk::mount(&dir, args.overload)?) } else { None };
    let report = Crash::new(args, seed, run, dir.clone())?.run()?;
    print!("{}", report.text());
    write_json(args.json.as_deref(), &report)?;
    let keep = args.keep || !(report.violations.is_empty() || args.no_spool);
    drop(disk);
    if !keep {
        std::fs::remove_dir_all(&dir).map_err(Failure::io)?;
    }
    match report.violations.len() {
        0 => Ok(()),
        count => Err(Failure::data(format!(
            "{count} promises broken, see the report; the spool is left in {}",
            dir.display()
        ))),
    }
}

/// A run under way.
struct Crash<'a> {
    args: &'a CrashArgs,
    dir: PathBuf,
    setup: Setup,
    fleet: Fleet,
    random: Random,
    runtime: Runtime,
    shared: Arc<Shared>,
    /// The reader of the one `block` queue.
    reader: Option<overload::Reader>,
    /// What was read by resuming behind the last id after each start.
    resumed: View,
    report: Report,
    began: Instant,
    told: Instant,
}

impl<'a> Crash<'a> {
    fn new(args: &'a CrashArgs, seed: u64, run: u32, dir: PathBuf) -> Result<Self, Failure> {
        let mut random = Random::new(seed);
        let fleet = Fleet { run, senders: args.senders, machines: args.machines };
        let spool = (!args.no_spool).then(|| dir.join("spool"));
        let ports = drain::free_ports(&mut Random::new(u64::from(run)))?;
        let setup = Setup { program: args.drain.clone(), spool, settings: args.settings()?, ports };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let report = Report {
            seed,
            run: format!("{run:08x}"),
            signal: if args.signal == Stop::Kill { "SIGKILL" } else { "SIGTERM" },
            keys: !args.no_key,
            spool: setup.spool.as_ref().map(|spool| spool.display().to_string()),
            seconds: 0.0,
            kills: 0,
            early_kills: 0,
            ready: Times::default(),
            ending: Times::default(),
            sent: Tally::default(),
            resumes: 0,
            resumed_lines: 0,
            verdict: Verdict::default(),
            followed: None,
            faults: Faults { kind: args.inject, ..Faults::default() },
            overload: None,
            refusals: Latency::default(),
            flips: Flips::default(),
            violations: Vec::new(),
        };
        // The moments must not depend on how many ports were taken.
        random.next();
        Ok(Self {
            args,
            dir,
            setup,
            fleet,
            random,
            runtime: runtime.map_err(Failure::io)?,
            shared: Arc::new(Shared::new(args.rate)),
            reader: None,
            resumed: View::new("resumed", fleet, true),
            report,
            began: Instant::now(),
            told: Instant::now(),
        })
    }

    fn run(mut self) -> Result<Report, Failure> {
        let mut life = self.start()?;
        let followers = Followers::start(self.args.readers, self.fleet, &self.setup, &self.runtime)?;
        let senders: Vec<_> = (0..self.args.senders).map(|number| self.sender(number as usize)).collect();
        let senders: Vec<_> = senders.into_iter().map(|sender| self.runtime.spawn(sender.send())).collect();
        if self.args.overload {
            let machine = self.fleet.id_text(self.fleet.machine_of(0, 0));
            self.reader = Some(overload::Reader::start(&self.setup, &machine, &self.runtime));
            self.report.overload = Some(overload::calibrate(&self.shared)?);
        }
        let limit = self.args.seconds.map(Duration::from_secs);
        while self.report.kills < self.args.kills && limit.is_none_or(|limit| self.began.elapsed() < limit) {
            self.live(&mut life, self.args.inject)?;
            life = self.end_and_start(life)?;
            self.progress();
        }
        if let Some(reader) = &self.reader {
            reader.revive();
        }
        self.live(&mut life, None)?;
        let ledgers = self.finish(senders, &mut life)?;
        self.report.seconds = self.began.elapsed().as_secs_f64();
        self.resume();
        let mut history = View::new("history", self.fleet, true);
        read_history(&self.setup, &self.runtime, &mut history)?;
        self.judge(&ledgers, &history);
        self.balances()?;
        self.judge_followers(followers, &ledgers, &history);
        let status = life.end(Signal::SIGTERM)?;
        // What nobody consumed in memory is left behind, and that is told by 74.
        self.report.require(status.success() || self.args.no_spool, || format!("the last SIGTERM ended with {status}"));
        self.flip(&ledgers, &history)?;
        Ok(self.report)
    }

    fn start(&mut self) -> Result<Life, Failure> {
        let mut life = Life::start(&self.setup)?;
        let ready = life.ready(&self.setup, &self.runtime)?;
        self.report.ready.add(ready);
        Ok(life)
    }

    fn sender(&mut self, number: usize) -> Sender {
        let seed = self.random.next();
        let args = self.args;
        let maker = body::Maker::new(self.fleet, number, args.lines_per_body, !args.no_key, Random::new(seed));
        Sender {
            run: self.fleet.run,
            number,
            target: self.setup.ingest(),
            maker,
            random: Random::new(!seed),
            keys: !args.no_key,
            has_spool: !args.no_spool,
            share: 1.0 / f64::from(args.senders),
            shared: Arc::clone(&self.shared),
            ledger: Ledger::default(),
            tally: Tally::default(),
            connection: None,
        }
    }

    /// A random time of `life` on average: mostly short, sometimes long.
    fn moment(&mut self, average: Duration) -> Duration {
        average.mul_f64(-(1.0 - self.random.unit()).ln()).min(average * 5)
    }

    /// Lets the drain live for a while, with a fault of its disk if there is to be one.
    fn live(&mut self, life: &mut Life, fault: Option<Fault>) -> Result<(), Failure> {
        let average = Duration::from_millis(self.args.life);
        let moment = self.moment(average);
        std::thread::sleep(moment);
        life.is_alive()?;
        let Some(fault) = fault else { return Ok(()) };
        let is_blocked = self.reader.as_ref().map(|reader| reader.die(&self.shared));
        let lasting = self.args.overload;
        let episode = Episode::begin(fault, life.server.pid(), &self.dir, &mut self.random, lasting)?;
        self.report.faults.times += 1;
        let lasts = FAULT_MIN + self.moment(average);
        std::thread::sleep(lasts);
        life.is_alive()?;
        if self.args.signal == Stop::Kill && self.random.below(3) == 0 && !self.args.overload {
            self.report.faults.killed += 1;
            // Dead before the fault ends: it must not get on in between.
            life.server.signal(Signal::SIGKILL)?;
            self.report.faults.calls_failed += episode.end();
            return Ok(());
        }
        self.report.faults.calls_failed += episode.end();
        self.recover();
        let moment = self.moment(average);
        std::thread::sleep(moment);
        if let Some(is_blocked) = is_blocked {
            self.free(is_blocked);
        }
        life.is_alive()
    }

    /// Ends the dead reader's death, and waits for who was refused for its queue.
    fn free(&mut self, is_blocked: bool) {
        let hangs_up = self.random.below(2) == 0;
        let (Some(reader), Some(overload)) = (&self.reader, &mut self.report.overload) else { return };
        overload.unblocked += u64::from(!is_blocked);
        let took = reader.end(hangs_up, &self.shared, 3 * RECOVERY_MAX);
        overload.freed.add(took);
        let how = if hangs_up { "hung up" } else { "read again" };
        self.report.require(took < RECOVERY_MAX, || {
            format!("who was refused for a dead reader's queue was not taken for {took:?} after that {how}")
        });
    }

    /// Waits for the first body to be acknowledged after a fault.
    fn recover(&mut self) {
        let since = Instant::now();
        while !self.shared.acknowledged_since(since) && since.elapsed() < 3 * RECOVERY_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = since.elapsed();
        self.report.faults.recovery.add(took);
        self.report.require(took < RECOVERY_MAX, || {
            format!("nothing was acknowledged for {took:?} after a fault of the disk")
        });
    }

    /// Ends the drain and starts it again; some are killed once more before they are ready.
    fn end_and_start(&mut self, mut life: Life) -> Result<Life, Failure> {
        loop {
            self.report.kills += 1;
            self.shared.kills();
            match (self.args.signal, life.server.ended()) {
                // Killed within a fault.
                (Stop::Kill, Some(_)) => {}
                (Stop::Kill, None) => drop(life.end(Signal::SIGKILL)?),
                (Stop::Term, _) => {
                    let asked = Instant::now();
                    let status = life.end(Signal::SIGTERM)?;
                    self.report.ending.add(asked.elapsed());
                    self.report.require(status.success(), || format!("SIGTERM ended with {status}, not with 0"));
                }
            }
            if self.args.signal == Stop::Kill && self.report.kills < self.args.kills && self.random.below(5) == 0 {
                life = Life::start(&self.setup)?;
                std::thread::sleep(EARLY_MAX.mul_f64(self.random.unit()));
                self.report.early_kills += 1;
                continue;
            }
            let life = self.start()?;
            self.resume();
            return Ok(life);
        }
    }

    /// Reads what has come since the last time, behind the last id.
    fn resume(&mut self) {
        let path = match self.resumed.last_id(None) {
            Some(id) => format!("/api/v1/tail?after={id}&follow=false"),
            None => "/api/v1/tail?since=24h&follow=false".to_owned(),
        };
        let (target, view) = (self.setup.control(), &mut self.resumed);
        let outcome = self.runtime.block_on(read::read(&target, &path, |line| view.take(line)));
        self.report.resumes += 1;
        let trouble = match outcome {
            Ok(reason) if reason == "caught_up" => return,
            Ok(reason) => format!("GET {path} ended with {reason}"),
            Err(error) => format!("GET {path}: {}", chain(&*error)),
        };
        if self.report.violations.len() < NAMED_MAX {
            self.report.violations.push(trouble);
        }
    }

    fn progress(&mut self) {
        if self.told.elapsed() > PROGRESS {
            self.told = Instant::now();
            let (kills, records) = (self.report.kills, self.shared.acknowledged());
            eprintln!("{:.0} s: {kills} kills, {records} records acknowledged", self.began.elapsed().as_secs_f64());
        }
    }

    /// Lets each sender bring its last body to an end.
    fn finish(
        &mut self,
        senders: Vec<JoinHandle<Result<Sender, Failure>>>,
        life: &mut Life,
    ) -> Result<Vec<Ledger>, Failure> {
        self.shared.finish();
        let deadline = Instant::now() + FINISH_WAIT;
        let mut ledgers = Vec::new();
        for sender in senders {
            let left = deadline.saturating_duration_since(Instant::now());
            let done = self.runtime.block_on(async { tokio::time::timeout(left, sender).await });
            let late = || Failure::data(format!("a body was not taken within {FINISH_WAIT:?} of the last start"));
            let done = done.map_err(|_| life.server.explain(late()))?;
            let sender = done.map_err(Failure::io)??;
            self.report.sent.add(sender.tally);
            ledgers.push(sender.ledger);
        }
        life.is_alive()?;
        Ok(ledgers)
    }

    /// How refusals were told, and whether there were those of both kinds.
    fn judge_refusals(&mut self) {
        let mut refusals = histogram();
        std::mem::take(&mut self.report.sent.refusals)
            .into_iter()
            .for_each(|micros| refusals.saturating_record(micros.into()));
        self.report.refusals = Latency::of(&refusals);
        let Some(overload) = &self.report.overload else { return };
        let unblocked = overload.unblocked;
        let told = [429, 503].map(|status| self.report.sent.answers.get(&status).copied().unwrap_or(0));
        self.report.require(unblocked == 0, || format!("a dead reader's full queue refused nobody {unblocked} times"));
        self.report.require(told.iter().all(|&count| count > 0), || {
            format!("it was no overload: {} bodies were answered 429, {} were answered 503", told[0], told[1])
        });
    }

    fn judge(&mut self, ledgers: &[Ledger], history: &View) {
        self.judge_refusals();
        let oldest_may_go = self.args.inject.is_some_and(|fault| matches!(fault, Fault::FullDisk | Fault::Enospc));
        let rules = Rules { keys: !self.args.no_key, oldest_may_go };
        let verdict = judge::judge(self.fleet, ledgers, history, rules);
        let Report { sent, faults, .. } = &self.report;
        let mut broken = Vec::new();
        if !verdict.is_clean() {
            broken.extend(verdict.named.iter().cloned());
        }
        if sent.wrong > 0 {
            broken.push(format!("{} answers that the contract does not allow", sent.wrong));
            broken.extend(sent.wrong_named.iter().cloned());
        }
        if faults.times > 0 && faults.calls_failed == 0 {
            broken.push("no call failed: the faults were none".to_owned());
        }
        if sent.acknowledged_records == 0 {
            broken.push("nothing was acknowledged: there was nothing to lose".to_owned());
        }
        for view in [history, &self.resumed] {
            if view.faults.count() > 0 || (view.faults.skipped > 0 && !oldest_may_go) {
                let (name, faults) = (view.name, &view.faults);
                let view::Faults { altered, ids_not_increasing, skipped, .. } = faults;
                broken.push(format!(
                    "{name}: {altered} altered, {ids_not_increasing} ids not increasing, {skipped} skipped"
                ));
                broken.extend(faults.named.iter().cloned());
            }
        }
        if !oldest_may_go {
            broken.extend(different("resuming by id", self.fleet, ledgers, &self.resumed, history));
        }
        self.report.resumed_lines = self.resumed.read;
        self.report.verdict = verdict;
        self.report.violations.extend(broken);
    }

    /// Everything is quiet: what the drain says it counted must add up.
    fn balances(&mut self) -> Result<(), Failure> {
        const BALANCES: [(&str, &[&str]); 3] = [
            ("lines_received", &["lines_accepted", "lines_filtered", "lines_unrouted", "lines_rejected"]),
            ("queue_lines_in", &["queue_lines_delivered", "queue_lines_dropped", "queue_lines"]),
            ("spool_lines_in", &["spool_lines_released", "spool_lines_dropped", "spool_lines"]),
        ];
        let (status, stats) = self.runtime.block_on(self.setup.control().call(Method::GET, "/api/v1/stats"))?;
        let stats: Value = serde_json::from_slice(&stats).unwrap_or_default();
        for (whole, parts) in BALANCES.iter().filter(|_| status == StatusCode::OK) {
            let of = |name: &str| stats[name].as_u64();
            let sum: Option<u64> = parts.iter().map(|part| of(part)).sum();
            let is_told = of(whole).is_some() || *whole == "spool_lines_in" && self.args.no_spool;
            self.report.require(is_told && of(whole) == sum, || {
                format!("{whole} {:?} is not the sum {sum:?} of {}", of(whole), parts.join(", "))
            });
        }
        Ok(())
    }

    fn judge_followers(&mut self, followers: Followers, ledgers: &[Ledger], history: &View) {
        let from = followers.from;
        if from == From::None {
            return;
        }
        let (view, trouble) = followers.settle(history.read);
        let mut followed = Followed { from, read: view.read, missed: 0, again: 0 };
        for (_, _, here, there) in view.differences(history, ledgers) {
            followed.missed +=
                u64::from(there.saturating_sub(here).min(if from == From::Queue { 1 - here.min(1) } else { 3 }));
            followed.again += u64::from(here.saturating_sub(there));
        }
        let mut broken = trouble;
        // A queue gives again what it gave last.
        if from != From::Queue || followed.missed > 0 {
            broken.extend(different(&format!("following by {from:?}"), self.fleet, ledgers, &view, history));
        }
        let disorder = view.out_of_order(ledgers).count();
        if disorder > 0 {
            broken.push(format!("following by {from:?}: {disorder} records out of order"));
        }
        if view.faults.count() + view.faults.skipped > 0 {
            broken.push(format!("following by {from:?}: {:?}", view.faults));
        }
        self.report.followed = Some(followed);
        self.report.violations.extend(broken);
    }

    fn flip(&mut self, ledgers: &[Ledger], history: &View) -> Result<(), Failure> {
        let whole = flip::Whole { fleet: self.fleet, ledgers, view: history };
        for _ in 0..self.args.flip {
            flip::flip_one(&self.setup, &self.dir, &whole, &mut self.random, &self.runtime, &mut self.report.flips)?;
        }
        let broken = std::mem::take(&mut self.report.flips.broken);
        self.report.violations.extend(broken);
        Ok(())
    }
}

/// Reads everything that the drain has.
fn read_history(setup: &Setup, runtime: &Runtime, view: &mut View) -> Result<(), Failure> {
    let path = "/api/v1/tail?since=24h&follow=false";
    let outcome = runtime.block_on(read::read(&setup.control(), path, |line| view.take(line)));
    match outcome {
        Ok(reason) if reason == "caught_up" => Ok(()),
        Ok(reason) => Err(Failure::data(format!("GET {path} ended with {reason}"))),
        Err(error) => Err(Failure::data(format!("GET {path}: {}", chain(&*error)))),
    }
}

/// How what a reader has read differs from what is stored; nothing if it does not.
fn different(what: &str, fleet: Fleet, ledgers: &[Ledger], here: &View, stored: &View) -> Vec<String> {
    let name = |sender: usize, record: u64| {
        let machine = fleet.id_text(fleet.machine_of(sender, record));
        format!("machine {machine} number {}", fleet.sequence_of(record))
    };
    if here.is_same(stored) {
        let renamed = here.renamed(stored).map_or_else(String::new, |(owner, id, now)| {
            format!(", as {}: read as {id}, now {now}", name(owner.sender, owner.record))
        });
        let told = format!("{what}: ids that were read are not those that the history has now{renamed}");
        return if here.has_same_ids(stored) { Vec::new() } else { vec![told] };
    }
    let mut named = vec![format!("{what} has not read what the history holds, or in another order")];
    named.extend(here.differences(stored, ledgers).take(NAMED_MAX).map(|(sender, record, read, there)| {
        format!("{what}: {} was read {read} times, is stored {there} times", name(sender, record))
    }));
    named
}
