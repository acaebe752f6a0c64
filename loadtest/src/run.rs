//! The simulated fleet: senders, readers, behaviours, and the verdict.

mod churn;
mod meter;
mod reader;
mod sender;

use crate::client::Target;
use crate::compare::write_json;
use crate::failure::Failure;
use crate::generate::{Generator, Machine, new_run, run_id};
use crate::process::{self, Launch, Server};
use crate::random::zipf_weights;
use crate::report::{Look, Memory, Report, Sample};
use crate::scenario::{From, Scenario};
use crate::schedule::{Profile, Schedule};
use crate::verify::Sent;
use churn::Churner;
use clap::Args;
use hyper::Method;
pub(crate) use meter::{Meter, histogram};
use nix::unistd::Pid;
use reader::Reader;
pub(crate) use reader::Told;
pub(crate) use sender::Tally;
use sender::{Plan, Sender};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// A fleet against a drain. Exits 65 if a line or an account is wrong.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// The ingest listener
    #[arg(long, value_name = "URL", required_unless_present = "drain", conflicts_with = "drain")]
    url: Option<String>,
    /// The drain's binary, to start one as the scenario's section `drain` has it
    #[arg(long, value_name = "FILE", conflicts_with = "control")]
    drain: Option<PathBuf>,
    /// The control listener; without it nobody reads and only the answers are verified
    #[arg(long, value_name = "URL")]
    control: Option<String>,
    /// Bearer token of the ingest listener
    #[arg(long, env = "FLEETDRAIN_INGEST__TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Bearer token of the control listener
    #[arg(long, env = "FLEETDRAIN_TOKEN", hide_env_values = true)]
    control_token: Option<String>,
    /// A scenario file; see loadtest/scenarios
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Lines a second, `max` (closed loop), or `2x` of what a calibration finds
    #[arg(long)]
    rate: Option<String>,
    /// How long to send, as 30s
    #[arg(long)]
    duration: Option<String>,
    /// Stop after so many lines
    #[arg(long)]
    lines: Option<String>,
    /// Lines a body
    #[arg(long)]
    lines_per_body: Option<String>,
    /// Connections; each machine's lines go over one of them
    #[arg(long)]
    connections: Option<String>,
    /// identity, gzip or zstd
    #[arg(long)]
    encoding: Option<String>,
    /// lines or array
    #[arg(long)]
    form: Option<String>,
    /// Machines in the fleet
    #[arg(long)]
    machines: Option<String>,
    /// Readers
    #[arg(long)]
    readers: Option<String>,
    /// Mean bytes of a record
    #[arg(long)]
    line_bytes: Option<String>,
    /// retry or count bodies answered 429 and 503
    #[arg(long)]
    refused: Option<String>,
    /// Any key of a scenario, as `readers.slow=0.5`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Others send to this drain too: do not hold its statistics against ours
    #[arg(long)]
    shared: bool,
    /// Seed of everything that is random but the run's id
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads of the generator [default: up to 4]
    #[arg(long)]
    threads: Option<usize>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as a page of its own
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl RunArgs {
    fn scenario(&self) -> Result<Scenario, Failure> {
        let text = match &self.scenario {
            Some(path) => {
                std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?
            }
            None => String::new(),
        };
        let flags = [
            ("load.rate", &self.rate),
            ("load.duration", &self.duration),
            ("load.lines", &self.lines),
            ("load.lines_per_body", &self.lines_per_body),
            ("load.connections", &self.connections),
            ("load.encoding", &self.encoding),
            ("load.refused", &self.refused),
            ("records.form", &self.form),
            ("records.line_bytes", &self.line_bytes),
            ("fleet.machines", &self.machines),
            ("readers.count", &self.readers),
        ];
        // Without a control listener nobody can read, whatever the machines.
        let nobody =
            (self.control.is_none() && self.drain.is_none()).then(|| ("readers.count".to_owned(), "0".to_owned()));
        let mut overrides: Vec<(String, String)> = nobody.into_iter().collect();
        let flags = flags.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        overrides.extend(flags);
        for set in &self.set {
            let (key, value) =
                set.split_once('=').ok_or_else(|| Failure::usage(format!("--set {set:?}: no `=` in it")))?;
            overrides.push((key.to_owned(), value.to_owned()));
        }
        Scenario::read(&text, &overrides)
    }
}

/// Runs a scenario.
pub(crate) fn run(args: &RunArgs) -> Result<(), Failure> {
    let scenario = args.scenario()?;
    process::prepare_open_files();
    let own = args.drain.as_deref().map(|drain| start_drain(drain, &scenario)).transpose()?;
    let threads = args.threads.unwrap_or_else(|| process::cpus().len().clamp(1, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .enable_all()
        .build()
        .map_err(Failure::io)?;
    let (report, own) = runtime.block_on(Run::start(args, scenario, own));
    let report = report.map_err(|failure| match own {
        Some(mut own) => own.explain(failure),
        None => failure,
    })?;
    print!("{}", report.text());
    write_json(args.json.as_deref(), &report)?;
    if let Some(path) = &args.html {
        std::fs::write(path, report.html()).map_err(|error| Failure::io(format!("{}: {error}", path.display())))?;
    }
    match report.violations.len() {
        0 => Ok(()),
        count => Err(Failure::data(format!("{count} promises broken, see the report"))),
    }
}

/// Starts the drain that is to be measured; this process keeps to the CPUs that are left, if the scenario says so.
fn start_drain(program: &Path, scenario: &Scenario) -> Result<Server, Failure> {
    let cpus = process::cpus();
    let own = scenario.drain.cpus.unwrap_or(0).min(cpus.len());
    let (drains, rest) = cpus.split_at(own);
    let launch = Launch { cpus: drains, ..Launch::drain(program) };
    let launch = scenario.drain.settings.iter().fold(launch, |launch, (key, value)| launch.set(key, value));
    let mut server = Server::start("drain", &launch)?;
    if let Some(quota) = scenario.drain.cpu_quota {
        server.throttle(quota);
    }
    if own > 0 && !rest.is_empty() {
        process::pin(rest);
    }
    Ok(server)
}

/// Where a machine's lines are made: which sender, which place in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) sender: usize,
    pub(crate) index: usize,
}

/// A run under way.
struct Run {
    scenario: Scenario,
    run: u32,
    control: Option<Target>,
    meter: Arc<Meter>,
    sent: watch::Sender<Option<Arc<Sent>>>,
    readers: Vec<JoinHandle<Told>>,
}

impl Run {
    /// Runs; `own` is the drain that was started for it, and comes back.
    async fn start(
        args: &RunArgs,
        scenario: Scenario,
        own: Option<Server>,
    ) -> (Result<Report, Failure>, Option<Server>) {
        let report = Self::try_start(args, scenario, own.as_ref()).await;
        (report, own)
    }

    async fn try_start(args: &RunArgs, scenario: Scenario, own: Option<&Server>) -> Result<Report, Failure> {
        let (url, control) = match own {
            Some(own) => (own.ingest.as_str(), Some(&own.control)),
            None => (args.url.as_deref().unwrap_or_default(), args.control.as_ref()),
        };
        let target = Target::resolve(url, args.token.clone()).await?;
        let control = match control {
            Some(url) => Some(Target::resolve(url, args.control_token.clone()).await?),
            None => None,
        };
        let run = Self {
            scenario,
            run: new_run(),
            control,
            meter: Arc::new(Meter::new()),
            sent: watch::Sender::new(None),
            readers: Vec::new(),
        };
        run.go(args, target, own).await
    }

    async fn go(mut self, args: &RunArgs, target: Target, own: Option<&Server>) -> Result<Report, Failure> {
        let before = stats(self.control.as_ref()).await;
        let weights = weights(&self.scenario);
        let (parts, places) = partition(&weights, self.scenario.load.connections);
        let (mut senders, swaps) = self.senders(&weights, &parts, &target, args.seed);
        self.subscribe().await?;
        let samples = self.watch_progress(own.map(Server::pid), self.scenario.load.waves.is_some());
        let interrupted = self.heed_interrupt();

        let mut calibrated = None;
        if self.scenario.load.needs_calibration() {
            let (back, measured) = self.calibrate(senders).await?;
            senders = back;
            calibrated = Some(measured);
        }
        let profile = self.scenario.load.profile(calibrated.unwrap_or(0.0));
        let churner = self.churn(places, swaps);
        let began = Instant::now();
        let lines_before = self.meter.lines_sent.load(Relaxed);
        let cpu_before = own.map(Server::cpu).transpose()?;
        let senders = self.send(senders, profile.as_ref()).await?;
        let elapsed = began.elapsed();
        let cpu = own.map(Server::cpu).transpose()?.zip(cpu_before).map(|(after, before)| after - before);
        let lines = self.meter.lines_sent.load(Relaxed) - lines_before;

        self.meter.sending_over.store(true, Relaxed);
        let mut tally = Tally::default();
        let mut sent = Sent::new();
        for sender in &senders {
            tally.add(&sender.tally);
            sent.extend(sender.generator.machines.iter().map(|machine| (machine.id, machine.sent)));
        }
        drop(senders);
        if let Some(churner) = churner {
            let churned = churner.await.map_err(Failure::io)?;
            sent.extend(churned.gone.iter().map(|machine| (machine.id, machine.sent)));
            self.readers.extend(churned.readers);
        }
        let sent = Arc::new(sent);
        self.sent.send_replace(Some(Arc::clone(&sent)));
        let mut told = Vec::new();
        for reader in std::mem::take(&mut self.readers) {
            told.push(reader.await.map_err(Failure::io)?);
        }
        samples.abort();
        let samples = samples_of(samples).await;
        let memory = Memory::of(self.control.as_ref(), own, &samples).await;
        let was_interrupted = interrupted.is_finished();
        interrupted.abort();
        let mut report = Report::new(&self.scenario, self.run, &self.meter, &tally);
        report.rate_asked = profile.as_ref().map(|profile| profile.lines_per_second);
        report.profile = profile;
        report.memory = memory;
        report.drain_cpus = cpu.map(|cpu| cpu.as_secs_f64() / elapsed.as_secs_f64());
        report.calibrated = calibrated;
        report.began_at_seconds = self.meter.since_epoch(began).as_secs_f64();
        // A schedule goes on behind its last body, until the next would be due.
        let load = &self.scenario.load;
        let is_scheduled = report.profile.is_some() && load.lines.is_none() && !was_interrupted;
        let sending = if is_scheduled { elapsed.max(load.duration.0) } else { elapsed };
        report.seconds = sending.as_secs_f64();
        report.lines_per_second = lines as f64 / report.seconds;
        report.samples = samples;
        report.interrupted = was_interrupted;
        report.judge_readers(&told, &sent);
        report.judge_accounts(&tally);
        report.judge_load();
        report.judge_days();
        if let Some(before) = before
            && let Some(after) = stats_at_rest(self.control.as_ref()).await
        {
            report.judge_stats(&before, &after, &tally, args.shared);
        }
        Ok(report)
    }

    fn senders(
        &self,
        weights: &[f64],
        parts: &[Vec<usize>],
        target: &Target,
        seed: u64,
    ) -> (Vec<Sender>, Vec<mpsc::UnboundedSender<sender::Swap>>) {
        let total: f64 = weights.iter().sum();
        let budget = Arc::new(AtomicU64::new(self.scenario.load.lines.unwrap_or(u64::MAX)));
        let spec = self.scenario.records.spec();
        let mut swaps = Vec::new();
        let senders = parts.iter().enumerate().map(|(number, part)| {
            let (swap, receiver) = mpsc::unbounded_channel();
            swaps.push(swap);
            let machines = part.iter().map(|&machine| Machine::new(self.run, machine as u32)).collect();
            let own: Vec<f64> = part.iter().map(|&machine| weights[machine]).collect();
            Sender {
                number,
                share: own.iter().sum::<f64>() / total,
                generator: Generator::new(&spec, self.run, machines, &own, seed.wrapping_add(number as u64)),
                target: target.clone(),
                load: self.scenario.load.clone(),
                run: self.run,
                meter: Arc::clone(&self.meter),
                swaps: receiver,
                budget: Arc::clone(&budget),
                tally: Tally::default(),
                connection: None,
                storms: 0,
            }
        });
        (senders.collect(), swaps)
    }

    /// Starts the readers and waits until all are subscribed: what is sent before is not theirs.
    async fn subscribe(&mut self) -> Result<(), Failure> {
        let Some(control) = self.control.clone() else { return Ok(()) };
        let count = self.scenario.readers.count;
        let mut waiting = Vec::new();
        for number in 0..count {
            let machine =
                (self.scenario.readers.from != From::Tail).then(|| Machine::new(self.run, self.followed(number)).id);
            let reader = self.reader(&control, machine, number);
            let (ready, is_ready) = oneshot::channel();
            self.readers.push(tokio::spawn(reader.read(ready)));
            // `logs` of a machine not yet seen may keep its answer's head until there is something to say.
            if self.scenario.readers.from != From::Logs {
                waiting.push(is_ready);
            }
        }
        for ready in waiting {
            let waited = tokio::time::timeout(Duration::from_secs(15), ready).await;
            if !matches!(waited, Ok(Ok(()))) {
                return Err(Failure::unavailable("the readers could not subscribe"));
            }
        }
        Ok(())
    }

    /// The machine that reader `number` follows: spread over the ranks, the loudest first.
    fn followed(&self, number: u32) -> u32 {
        (u64::from(number) * u64::from(self.scenario.fleet.machines) / u64::from(self.scenario.readers.count)) as u32
    }

    fn reader(&self, control: &Target, machine: Option<crate::generate::MachineId>, number: u32) -> Reader {
        let settings = self.scenario.readers.clone();
        let slow = settings.has_slow(number);
        Reader {
            machine,
            target: control.clone(),
            settings,
            run: run_id(self.run),
            slow,
            number,
            meter: Arc::clone(&self.meter),
            sent: self.sent.subscribe(),
        }
    }

    fn churn(
        &self,
        places: Vec<Place>,
        swaps: Vec<mpsc::UnboundedSender<sender::Swap>>,
    ) -> Option<JoinHandle<churn::Churned>> {
        let every = self.scenario.fleet.churn_every?.0;
        let control = self.control.clone()?;
        let followed = (0..self.scenario.readers.count).map(|number| self.followed(number)).collect();
        let churner = Churner {
            template: self.reader(&control, None, 0),
            run: self.run,
            every,
            at_a_time: self.scenario.fleet.churn_machines,
            followed,
            next: self.scenario.fleet.machines,
            places,
            swaps,
        };
        Some(tokio::spawn(churner.run()))
    }

    /// Finds what the drain takes as fast as it can. The first third is not measured: connections are opened and memory is
    /// touched for the first time in it.
    async fn calibrate(&self, senders: Vec<Sender>) -> Result<(Vec<Sender>, f64), Failure> {
        let span = self.scenario.load.calibrate.0;
        eprintln!("calibrating for {span:?}");
        let until = Instant::now() + span / 3;
        let senders = all(senders.into_iter().map(|sender| sender.send(Plan::Max { until }))).await?;
        let (began, before) = (Instant::now(), self.meter.lines_sent.load(Relaxed));
        let until = began + span * 2 / 3;
        let senders = all(senders.into_iter().map(|sender| sender.send(Plan::Max { until }))).await?;
        let lines = self.meter.lines_sent.load(Relaxed) - before;
        let measured = lines as f64 / began.elapsed().as_secs_f64();
        if lines == 0 {
            return Err(Failure::data("the drain took nothing in the calibration"));
        }
        eprintln!("the drain takes {measured:.0} lines/s");
        self.meter.forget_latencies();
        Ok((senders, measured))
    }

    async fn send(&self, senders: Vec<Sender>, profile: Option<&Profile>) -> Result<Vec<Sender>, Failure> {
        let load = &self.scenario.load;
        let start = Instant::now();
        let until = start + load.duration.0;
        let count = senders.len() as f64;
        all(senders.into_iter().map(|sender| {
            let plan = match profile {
                None => Plan::Max { until },
                Some(profile) => {
                    let stagger = sender.number as f64 / count;
                    let (share, lines_per_body) = (sender.share, load.lines_per_body);
                    let schedule = Schedule { profile: profile.clone(), share, lines_per_body, stagger };
                    Plan::Open { start, until, schedule }
                }
            };
            sender.send(plan)
        }))
        .await
    }

    /// Prints a line and keeps a sample every second.
    /// `asks`: how much of its budget the drain uses, too, which costs it a scrape.
    fn watch_progress(&self, own: Option<Pid>, asks: bool) -> JoinHandle<()> {
        let (meter, control) = (Arc::clone(&self.meter), self.control.clone());
        SAMPLES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            tick.tick().await;
            let mut last = Look::now(&meter, own);
            loop {
                tick.tick().await;
                let now = Look::now(&meter, own);
                let mut sample = Sample::between(&meter, last, now);
                sample.resident_bytes = match (own, &control) {
                    (Some(own), _) => process::resident_bytes_of(own) as f64,
                    (None, Some(control)) => resident_bytes(control).await,
                    (None, None) => 0.0,
                };
                if let Some(control) = control.as_ref().filter(|_| asks) {
                    sample.ask(control).await;
                }
                eprintln!("{}", sample.line());
                SAMPLES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(sample);
                last = now;
            }
        })
    }

    /// Ctrl-C ends the sending, not the verification.
    fn heed_interrupt(&self) -> JoinHandle<()> {
        let meter = Arc::clone(&self.meter);
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                meter.stop.store(true, Relaxed);
            }
        })
    }
}

/// Kept outside the task, which is aborted.
static SAMPLES: std::sync::Mutex<Vec<Sample>> = std::sync::Mutex::new(Vec::new());

async fn samples_of(task: JoinHandle<()>) -> Vec<Sample> {
    let _ = task.await;
    std::mem::take(&mut *SAMPLES.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Runs all at once; the first failure is the failure of all.
async fn all<T: Send + 'static>(
    tasks: impl Iterator<Item = impl Future<Output = Result<T, Failure>> + Send + 'static>,
) -> Result<Vec<T>, Failure> {
    let handles: Vec<_> = tasks.map(tokio::spawn).collect();
    let mut done = Vec::with_capacity(handles.len());
    for handle in handles {
        done.push(handle.await.map_err(Failure::io)?);
    }
    done.into_iter().collect()
}

/// Each machine's weight, loudest first.
fn weights(scenario: &Scenario) -> Vec<f64> {
    let mut weights = zipf_weights(scenario.fleet.machines as usize, scenario.fleet.zipf);
    if let Some(hot) = scenario.fleet.hot_share
        && weights.len() > 1
    {
        let others: f64 = weights[1..].iter().sum();
        weights[0] = others * hot / (1.0 - hot);
    }
    weights
}

/// Gives each machine to one connection, the heaviest first to whoever carries least.
fn partition(weights: &[f64], connections: usize) -> (Vec<Vec<usize>>, Vec<Place>) {
    let mut parts = vec![Vec::new(); connections];
    let mut loads = vec![0.0_f64; connections];
    let mut places = Vec::with_capacity(weights.len());
    for (machine, weight) in weights.iter().enumerate() {
        let sender = (0..connections).min_by(|&a, &b| loads[a].total_cmp(&loads[b])).unwrap_or(0);
        places.push(Place { sender, index: parts[sender].len() });
        parts[sender].push(machine);
        loads[sender] += weight;
    }
    (parts, places)
}

/// By the drain's own word; 0 if it has none within a while: an overloaded drain must not hold up the samples.
async fn resident_bytes(control: &Target) -> f64 {
    let asked = gauge(control, "process_resident_memory_bytes");
    tokio::time::timeout(Duration::from_millis(500), asked).await.ok().flatten().unwrap_or(0.0)
}

/// A gauge of the drain's `/metrics`.
pub(crate) async fn gauge(control: &Target, name: &str) -> Option<f64> {
    let [value] = gauges(control, [name]).await?;
    value
}

/// Several of them, of one moment.
pub(crate) async fn gauges<const N: usize>(control: &Target, names: [&str; N]) -> Option<[Option<f64>; N]> {
    let (status, body) = control.call(Method::GET, "/metrics").await.ok()?;
    let text = std::str::from_utf8(&body).ok().filter(|_| status.is_success())?;
    let value = |name| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    Some(names.map(value))
}

async fn stats(control: Option<&Target>) -> Option<Value> {
    let (status, body) = control?.call(Method::GET, "/api/v1/stats").await.ok()?;
    status.is_success().then(|| serde_json::from_slice(&body).ok())?
}

/// Balances hold at quiet moments: waits for one, for a while.
async fn stats_at_rest(control: Option<&Target>) -> Option<Value> {
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut last = stats(control).await?;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = stats(control).await?;
        let same = ["lines_received", "queue_lines_in", "queue_lines_delivered", "queue_lines"]
            .iter()
            .all(|key| now.get(key) == last.get(key));
        if same || Instant::now() > deadline {
            return Some(now);
        }
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_belongs_to_one_connection_and_each_has_some() {
        let weights = zipf_weights(1_000, 1.0);
        let (parts, places) = partition(&weights, 7);
        assert!(parts.iter().all(|part| !part.is_empty()));
        for (machine, place) in places.iter().enumerate() {
            assert_eq!(parts[place.sender][place.index], machine);
        }
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 1_000);
    }

    #[test]
    fn a_hot_machine_has_its_share() {
        let mut scenario = Scenario::default();
        scenario.fleet.hot_share = Some(0.9);
        let weights = weights(&scenario);
        assert!((weights[0] / weights.iter().sum::<f64>() - 0.9).abs() < 1e-9);
    }
}
