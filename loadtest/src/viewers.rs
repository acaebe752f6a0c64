//! Viewers that stop reading: they cost senders next to nothing, and each is told what it missed.

mod report;
mod viewer;

use crate::client::Target;
use crate::compare::write_json;
use crate::failure::Failure;
use crate::generate::{Generator, Machine, MachineId, RecordSpec, new_run};
use crate::healthy::Healthy;
use crate::process::{self, Launch, Server};
use crate::report::Latency;
use crate::run::{gauge, histogram};
use clap::Args;
pub(crate) use report::{COST_MAX, Measured};
use report::{Cut, Load, Report, Round, Told};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use viewer::{Counts, Viewer};

const BUDGET: &str = "256MiB";
const BUDGET_BYTES: u64 = 256 << 20;
/// Short, so that who stalls misses lines, and has not much to read in the end.
const HISTORY: &str = "256KiB";
/// Lines that a step of filling sends: fewer than the history holds, so that nobody skips what should fill its buffers.
const STEP_LINES: u32 = 400;
/// So many steps fill the buffers of who looks at one machine.
const STEPS: u32 = 24;
const SENDERS: u32 = 4;
/// Every so many-th viewer looks at one machine.
const MACHINE_EVERY: usize = 10;
/// Viewers that open at once, and that read on.
const OPEN_AT_ONCE: usize = 200;
const READ_AT_ONCE: usize = 50;
/// A viewer that nothing comes to for so long has what it gets. Long: a virtual machine may stand still for a minute, and the kernel
/// of who has waited long for a reader asks it only every two minutes, where the word that it reads again was dropped on the way.
const SETTLE: Duration = Duration::from_secs(150);
/// Viewers that never read on are cut off after so long, in the last part of a run.
const CUT_AFTER: Duration = Duration::from_secs(2);
/// And are gone within this time, on whatever machine.
const CUT_WAIT: Duration = Duration::from_secs(60);
/// Viewers that hung up are forgotten within this time.
const GONE_WAIT: Duration = Duration::from_secs(20);
/// So many wrong viewers of a round are named.
const NAMED_MAX: usize = 5;

/// Viewers that read the head of their answer and then nothing, against a drain of its own: what the drain's CPU per line is beside
/// them and without them, in turn, and whether each is told exactly what it missed once it reads on. Then a drain that cuts off after
/// 2 s who does not read: it must do so with all of them. Exits 65 if one is not, or if more memory is resident than the budget,
/// 15 %, and 24 KiB for each.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  loadtest viewers --drain target/release/fleetdrain
  loadtest viewers --drain target/debug/fleetdrain --viewers 200 --rounds 1
  loadtest viewers --drain target/release/fleetdrain --judge --rounds 7")]
pub(crate) struct ViewersArgs {
    /// The drain's binary
    #[arg(long, value_name = "FILE")]
    drain: PathBuf,
    /// Viewers; every tenth looks at one machine, the others at all
    #[arg(long, default_value_t = 10_000)]
    viewers: usize,
    /// So long they read nothing while lines are sent and timed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    stalled_seconds: u32,
    /// So often it is measured with viewers, and once more without
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Lines a second
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    rate: u32,
    /// Lines a body
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    lines_per_body: u32,
    /// Machines
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(4..=10_000))]
    machines: u32,
    /// Exit 65 if lines cost more than 5 % more CPU beside them: on a machine of their own
    #[arg(long)]
    judge: bool,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs it.
pub(crate) fn run(args: &ViewersArgs) -> Result<(), Failure> {
    process::prepare_open_files();
    let cpus = process::cpus();
    // One CPU for the drain where there are several: CPU time per line grows by being moved about.
    let (own, rest) = cpus.split_at(usize::from(cpus.len() > 1));
    let launch = Launch { cpus: own, ..Launch::drain(&args.drain) }
        // The bound of both listeners.
        .set("ingest.connections_max", &(args.viewers + 1_000).to_string())
        .set("memory.budget", BUDGET)
        .set("history.bytes", HISTORY);
    let rest = rest.to_vec();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().on_thread_start(move || {
        if !rest.is_empty() {
            process::pin(&rest);
        }
    });
    let runtime = builder.build().map_err(Failure::io)?;
    let mut server = Server::start("drain", &launch)?;
    let report = runtime.block_on(async { Viewers::start(args, &server).await?.all().await });
    let mut report = report.map_err(|failure| server.explain(failure))?;
    drop(server);
    eprintln!("{} viewers that never read on", args.viewers);
    let launch = launch.set("control.stalled_after", &format!("{}s", CUT_AFTER.as_secs()));
    let cut = cut(args, &launch, &runtime);
    let failure = cut.map(|cut| report.cut = Some(cut)).err();
    write_json(args.json.as_deref(), &report)?;
    print!("{}", report.text(args.judge));
    if let Some(failure) = failure {
        return Err(failure);
    }
    match report.broken(args.judge).len() {
        0 => Ok(()),
        count => Err(Failure::data(format!("{count} promises broken"))),
    }
}

/// Viewers that never read on, at a drain that has little patience.
fn cut(args: &ViewersArgs, launch: &Launch<'_>, runtime: &tokio::runtime::Runtime) -> Result<Cut, Failure> {
    let mut server = Server::start("drain", launch)?;
    let cut = runtime.block_on(async { Viewers::start(args, &server).await?.cut().await });
    cut.map_err(|failure| server.explain(failure))
}

struct Viewers<'a> {
    args: &'a ViewersArgs,
    server: &'a Server,
    run: u32,
    ingest: Target,
    control: Target,
    /// Empty while they send.
    senders: Vec<Healthy>,
}

impl<'a> Viewers<'a> {
    async fn start(args: &'a ViewersArgs, server: &'a Server) -> Result<Self, Failure> {
        let ingest = Target::resolve(&server.ingest, None).await?;
        let control = Target::resolve(&server.control, None).await?;
        let mut viewers = Self { args, server, run: new_run(), ingest, control, senders: Vec::new() };
        viewers.senders = (0..SENDERS).map(|number| viewers.sender(number)).collect();
        Ok(viewers)
    }

    /// Each sender has machines of its own: order is promised within a machine and connection.
    fn sender(&self, number: u32) -> Healthy {
        let own = (number..self.args.machines).step_by(SENDERS as usize);
        let machines: Vec<Machine> = own.map(|machine| Machine::new(self.run, machine)).collect();
        let weights = vec![1.0; machines.len()];
        let generator = Generator::new(&RecordSpec::default(), self.run, machines, &weights, u64::from(number));
        let lines = self.args.lines_per_body;
        let interval = f64::from(lines * SENDERS) / f64::from(self.args.rate);
        Healthy::new(self.ingest.clone(), generator, lines as usize, Duration::from_secs_f64(interval))
    }

    async fn all(mut self) -> Result<Report, Failure> {
        let mut report = Report::new(self.args.viewers, self.args.stalled_seconds, BUDGET_BYTES);
        // Each machine is known, and the pools are warm, before anything is measured.
        self.fill(&mut report.failed).await?;
        eprintln!("alone");
        report.alone.push(self.load(&mut report.failed).await?);
        for round in 1..=self.args.rounds {
            eprintln!("round {round}: {} viewers", self.args.viewers);
            let stalled = self.round(&mut report).await?;
            report.rounds.push(stalled);
            eprintln!("alone");
            report.alone.push(self.load(&mut report.failed).await?);
        }
        report.sum_up();
        Ok(report)
    }

    /// Opens the viewers, has them stall, measures beside them, and has them read on.
    async fn round(&mut self, report: &mut Report) -> Result<Round, Failure> {
        let before = self.server.anonymous_bytes();
        self.server.forget_resident_max();
        let viewers = self.open().await?;
        let opened = self.server.anonymous_bytes();
        self.fill(&mut report.failed).await?;
        let load = self.load(&mut report.failed).await?;
        let held = self.server.anonymous_bytes();
        eprintln!("they read on");
        let told = self.read_on(viewers).await?;
        let resident_bytes_max = self.server.resident_bytes_max();
        let is_forgotten = self.forgotten().await;
        let left = self.at_rest().await;
        let each = |bytes: u64| bytes.saturating_sub(before) / self.args.viewers.max(1) as u64;
        let (opened_bytes_each, bytes_each, left_bytes_each) = (each(opened), each(held), each(left));
        Ok(Round { load, opened_bytes_each, bytes_each, left_bytes_each, resident_bytes_max, told, is_forgotten })
    }

    /// Has viewers stall for ever.
    async fn cut(mut self) -> Result<Cut, Failure> {
        let mut failed = Vec::new();
        self.send(1, &mut failed).await?;
        let before = self.server.anonymous_bytes();
        let viewers = self.open().await?;
        // Lines for all of them to stall at, until none is left: who stalls later is cut off later.
        let until = Instant::now() + CUT_WAIT;
        let mut left = self.viewers_left().await;
        while left != Some(0) && Instant::now() < until {
            self.fill(&mut failed).await?;
            left = self.viewers_left().await;
        }
        let cut = Cut {
            viewers: viewers.len(),
            left,
            left_bytes_each: self.at_rest().await.saturating_sub(before) / viewers.len().max(1) as u64,
            failed,
        };
        drop(viewers);
        Ok(cut)
    }

    async fn viewers_left(&self) -> Option<u64> {
        gauge(&self.control, "fleetdrain_viewers").await.map(|count| count as u64)
    }

    /// The least that is held within a few seconds: the allocator keeps what was given back for a moment.
    async fn at_rest(&self) -> u64 {
        let mut least = self.server.anonymous_bytes();
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            least = least.min(self.server.anonymous_bytes());
        }
        least
    }

    /// Fills what lies between the drain and a viewer, more slowly than anything is evicted.
    async fn fill(&mut self, failed: &mut Vec<String>) -> Result<(), Failure> {
        let bodies = u64::from(STEP_LINES.div_ceil(SENDERS * self.args.lines_per_body));
        for _ in 0..STEPS {
            self.send(bodies, failed).await?;
            self.server.cpu_at_rest()?;
        }
        Ok(())
    }

    /// Sends for the time set, and measures.
    async fn load(&mut self, failed: &mut Vec<String>) -> Result<Load, Failure> {
        let lines = u64::from(self.args.rate) * u64::from(self.args.stalled_seconds);
        let bodies = lines.div_ceil(u64::from(SENDERS * self.args.lines_per_body)).max(1);
        let (cpu, sent) = (self.server.cpu_at_rest()?, self.lines());
        let answers = self.send(bodies, failed).await?;
        let cpu = self.server.cpu_at_rest()? - cpu;
        Ok(Load { lines: self.lines() - sent, cpu_seconds: cpu.as_secs_f64(), answers })
    }

    async fn send(&mut self, bodies: u64, failed: &mut Vec<String>) -> Result<Latency, Failure> {
        let mut sending = JoinSet::new();
        for sender in self.senders.drain(..) {
            sending.spawn(sender.send(move |number| number < bodies));
        }
        let mut answers = histogram();
        while let Some(sent) = sending.join_next().await {
            let (sender, health) = sent.map_err(Failure::io)?;
            // The same bounds: it cannot fail.
            let _ = answers.add(&health.answers);
            failed.extend(health.failed);
            self.senders.push(sender);
        }
        Ok(Latency::of(&answers))
    }

    fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.senders.iter().flat_map(|sender| &sender.generator.machines)
    }

    fn lines(&self) -> u64 {
        self.machines().map(|machine| machine.sent[0]).sum()
    }

    fn counts(&self) -> Counts {
        self.machines().map(|machine| (machine.id, machine.sent[0])).collect()
    }

    async fn open(&self) -> Result<Vec<Viewer>, Failure> {
        let began = Arc::new(self.counts());
        let ids: Vec<MachineId> = self.machines().map(|machine| machine.id).collect();
        let machine_of = |number: usize| {
            (number % MACHINE_EVERY == MACHINE_EVERY - 1).then(|| ids[number / MACHINE_EVERY % ids.len()])
        };
        let (mut viewers, mut opening) = (Vec::new(), JoinSet::new());
        for number in 0..self.args.viewers {
            if opening.len() >= OPEN_AT_ONCE
                && let Some(opened) = opening.join_next().await
            {
                viewers.push(opened.map_err(Failure::io)??);
            }
            let (control, machine, run, began) =
                (self.control.clone(), machine_of(number), self.run, Arc::clone(&began));
            opening.spawn(async move { Viewer::open(&control, machine, run, began).await });
        }
        while let Some(opened) = opening.join_next().await {
            viewers.push(opened.map_err(Failure::io)??);
        }
        Ok(viewers)
    }

    /// Lets them read on, some at a time, and judges each.
    async fn read_on(&self, viewers: Vec<Viewer>) -> Result<Told, Failure> {
        let produced = Arc::new(self.counts());
        let mut told = Told::default();
        let mut reading = JoinSet::new();
        let mut viewers = viewers.into_iter();
        loop {
            while reading.len() < READ_AT_ONCE
                && let Some(viewer) = viewers.next()
            {
                let produced = Arc::clone(&produced);
                reading.spawn(async move { viewer.read_on(&produced, SETTLE).await });
            }
            let Some(read) = reading.join_next().await else { break };
            let (end, watch) = read.map_err(Failure::io)?;
            told.viewers += 1;
            told.produced += watch.wanted(&produced);
            told.seen += watch.seen;
            told.skipped += watch.skipped;
            told.stalled += u64::from(watch.skipped > 0);
            let wrong = watch.wrong(&produced);
            told.wrong += u64::from(wrong.is_some());
            if let Some(wrong) = wrong.filter(|_| told.named.len() < NAMED_MAX) {
                told.named.push(format!("{wrong} ({end:?})"));
            }
        }
        Ok(told)
    }

    /// Waits until the drain knows that nobody is there any more.
    async fn forgotten(&self) -> bool {
        let until = Instant::now() + GONE_WAIT;
        while Instant::now() < until {
            if self.viewers_left().await == Some(0) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }
}
