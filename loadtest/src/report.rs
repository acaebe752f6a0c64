//! What a run found, as text, JSON and a page.

mod html;

use crate::client::{Account, Target};
use crate::compare::thousands;
use crate::process::{self, Server};
use crate::run::{Meter, Tally, Told, gauge};
use crate::scenario::Scenario;
use crate::schedule::Profile;
use crate::verify::{Seen, Sent};
use hdrhistogram::Histogram;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Senders that are so far behind their schedule have met a drain that takes less than they want to send.
const OVERLOADED_BEHIND_MS: f64 = 500.0;
/// Looks are a second apart.
const STANDSTILL_SECONDS: f64 = 2.5;
/// Whoever uses, or waits for, so much of the CPUs that it may use has none to spare in that second.
const BUSY: f64 = 0.8;

/// What shows that more was sent than can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overload {
    None,
    Refusing,
    /// Senders are behind, and the drain has no CPU to spare.
    Busy,
    /// Senders are behind, and the drain's CPU time is not known.
    Behind,
    /// Senders are behind, but not for the drain's sake.
    OfTheGenerator,
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "nothing was refused, and the senders kept to their schedule",
            Self::Refusing => "it refused bodies",
            Self::Busy => "it had no CPU to spare",
            Self::Behind => "its senders fell behind their schedule, or the generator did",
            Self::OfTheGenerator => "its senders fell behind for want of CPU of their own",
        })
    }
}

/// A look at the meter's counters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    at: Instant,
    sent: u64,
    read: u64,
    refused: u64,
    /// How long the drain, if it is ours, has run or waited for a CPU.
    busy: Duration,
}

impl Look {
    pub(crate) fn now(meter: &Meter, own: Option<Pid>) -> Self {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let (sent, read, refused) = (count(&meter.lines_sent), count(&meter.lines_read), count(&meter.refused));
        Self { at: Instant::now(), sent, read, refused, busy: own.map(process::run_or_waited).unwrap_or_default() }
    }
}

/// One second of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) at_seconds: f64,
    pub(crate) sent_per_second: f64,
    pub(crate) read_per_second: f64,
    pub(crate) refused_per_second: f64,
    pub(crate) answer_p99_ms: f64,
    pub(crate) end_to_end_p99_ms: f64,
    pub(crate) refusal_p99_ms: f64,
    pub(crate) behind_ms: f64,
    /// CPUs that a drain of ours used or waited for.
    pub(crate) drain_busy: f64,
    /// The drain's, 0 if it does not say.
    pub(crate) resident_bytes: f64,
}

impl Sample {
    /// The stretch between two looks.
    pub(crate) fn between(meter: &Meter, last: Look, now: Look) -> Self {
        let seconds = (now.at - last.at).as_secs_f64();
        let [answer, end_to_end, refusal, behind] = meter.interval().map(|micros| micros as f64 / 1_000.0);
        Self {
            at_seconds: meter.since_epoch(now.at).as_secs_f64(),
            sent_per_second: (now.sent - last.sent) as f64 / seconds,
            read_per_second: (now.read - last.read) as f64 / seconds,
            refused_per_second: (now.refused - last.refused) as f64 / seconds,
            answer_p99_ms: answer,
            end_to_end_p99_ms: end_to_end,
            refusal_p99_ms: refusal,
            behind_ms: behind,
            drain_busy: now.busy.saturating_sub(last.busy).as_secs_f64() / seconds,
            resident_bytes: 0.0,
        }
    }

    /// The progress line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:>5.0} s  sent {:>9}/s  read {:>9}/s  p99 answer {:>8.2} ms  end to end {:>8.2} ms  behind {:>7.1} ms  refused {:>6}/s  RSS {:>5.0} MB",
            self.at_seconds,
            thousands(self.sent_per_second),
            thousands(self.read_per_second),
            self.answer_p99_ms,
            self.end_to_end_p99_ms,
            self.behind_ms,
            thousands(self.refused_per_second),
            self.resident_bytes / 1e6
        )
    }
}

/// What the drain held.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// The most that was resident: by the kernel's own mark if the drain is our child, else of the samples.
    pub(crate) resident_bytes_max: f64,
    pub(crate) budget_bytes: f64,
}

impl Memory {
    /// None where nobody tells.
    pub(crate) async fn of(control: Option<&Target>, own: Option<&Server>, samples: &[Sample]) -> Option<Self> {
        let budget_bytes = gauge(control?, "fleetdrain_memory_budget_bytes").await?;
        let sampled = samples.iter().map(|sample| sample.resident_bytes).fold(0.0, f64::max);
        let resident_bytes_max = own.map_or(sampled, |own| own.resident_bytes_max() as f64);
        Some(Self { resident_bytes_max, budget_bytes })
    }

    /// How much more than the budget was resident, as a fraction of it; below 0 if less.
    pub(crate) fn excess(&self) -> f64 {
        self.resident_bytes_max / self.budget_bytes - 1.0
    }
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    /// Quantile → milliseconds, for the curve.
    pub(crate) curve: Vec<(f64, f64)>,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        // Half of what is left each step: as many points for the last permille as for the first half.
        let curve = (0..=68).map(|step| 1.0 - 0.5_f64.powf(f64::from(step) / 4.0));
        let enough = |quantile: &f64| (1.0 - quantile) * histogram.len() as f64 >= 1.0;
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: if histogram.is_empty() { 0.0 } else { histogram.max() as f64 / 1_000.0 },
            curve: curve.filter(enough).map(|quantile| (quantile, at(quantile))).collect(),
        }
    }

    pub(crate) fn line(&self) -> String {
        if self.count == 0 {
            return "nothing measured".to_owned();
        }
        let Self { count, p50, p90, p99, p999, max, .. } = self;
        format!("p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms  (n = {count})")
    }
}

/// Of a report in JSON, what the targets are about.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Measured {
    pub(crate) refusals: Latency,
    pub(crate) memory: Option<Memory>,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: Scenario,
    pub(crate) run: String,
    pub(crate) seconds: f64,
    pub(crate) rate_asked: Option<f64>,
    pub(crate) profile: Option<Profile>,
    pub(crate) calibrated: Option<f64>,
    pub(crate) lines_per_second: f64,
    pub(crate) behind_max_ms: f64,
    pub(crate) sent: Tally,
    pub(crate) answers: Latency,
    pub(crate) end_to_end: Latency,
    /// From when a refused try was sent until its answer.
    pub(crate) refusals: Latency,
    pub(crate) overloaded: bool,
    /// CPUs that the drain used while we sent, if it is our child.
    pub(crate) drain_cpus: Option<f64>,
    pub(crate) memory: Option<Memory>,
    pub(crate) readers: usize,
    pub(crate) reader_reconnects: u64,
    pub(crate) streams_ended: usize,
    pub(crate) seen: Seen,
    pub(crate) interrupted: bool,
    /// What was promised and not kept; empty is success.
    pub(crate) violations: Vec<String>,
    /// What a reader of the figures should know.
    pub(crate) notes: Vec<String>,
    pub(crate) samples: Vec<Sample>,
}

impl Report {
    pub(crate) fn new(scenario: &Scenario, run: u32, meter: &Meter, tally: &Tally) -> Self {
        let [answers, end_to_end, refusals] = meter.totals();
        Self {
            scenario: scenario.clone(),
            run: format!("{run:08x}"),
            seconds: 0.0,
            rate_asked: None,
            profile: None,
            calibrated: None,
            lines_per_second: 0.0,
            behind_max_ms: meter.behind_max().as_secs_f64() * 1_000.0,
            sent: tally.clone(),
            answers: Latency::of(&answers),
            end_to_end: Latency::of(&end_to_end),
            refusals: Latency::of(&refusals),
            overloaded: false,
            drain_cpus: None,
            memory: None,
            readers: 0,
            reader_reconnects: 0,
            streams_ended: 0,
            seen: Seen::default(),
            interrupted: false,
            violations: Vec::new(),
            notes: Vec::new(),
            samples: Vec::new(),
        }
    }

    fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(otherwise());
        }
    }

    /// Every line once and in order, and every stream ended.
    pub(crate) fn judge_readers(&mut self, told: &[Told], sent: &Sent) {
        self.readers = told.len();
        for reader in told {
            self.seen.add(&reader.verdict(sent));
            self.reader_reconnects += reader.reconnects;
            self.streams_ended += usize::from(reader.ended == Some(true));
        }
        let seen = self.seen;
        self.require(seen.is_clean(), || {
            let Seen { lost, repeated, reordered, foreign, .. } = seen;
            format!("readers: {lost} lines lost, {repeated} repeated, {reordered} reordered, {foreign} foreign")
        });
        let endless = told.iter().filter(|reader| reader.ended == Some(false)).count();
        self.require(endless == 0, || format!("{endless} streams of finished machines did not end as finished"));
        let mut troubles: Vec<&String> = told.iter().filter_map(|reader| reader.trouble.as_ref()).collect();
        troubles.dedup();
        self.require(troubles.is_empty(), || format!("{} readers had trouble, first: {}", troubles.len(), troubles[0]));
        if told.is_empty() {
            self.notes.push("nobody read: only the answers were verified".to_owned());
        }
    }

    /// The sum over all answers is what was sent, and each fits its body.
    pub(crate) fn judge_accounts(&mut self, tally: &Tally) {
        self.require(tally.wrong_accounts == 0, || {
            let first = tally.first_wrong.as_deref().unwrap_or_default();
            format!("{} answers do not fit their bodies, first: {first}", tally.wrong_accounts)
        });
        let account = tally.account;
        self.require(account.balances(), || format!("the answers' sum does not balance: {account:?}"));
        self.require(account.received == tally.lines && account.rejected == tally.malformed, || {
            format!("{} lines sent ({} malformed), the answers add up to {account:?}", tally.lines, tally.malformed)
        });
        if account.unrouted > 0 {
            self.notes.push(format!("{} lines had no consumer (unrouted)", thousands(account.unrouted as f64)));
        }
        if tally.cut_short > 0 {
            self.notes.push(format!(
                "{} senders were too far behind to send all that was due: latencies would have grown further",
                tally.cut_short
            ));
        }
        if let Some(first) = &tally.first_broken {
            self.notes.push(format!("{} connections broke, first: {first}", tally.broken_connections));
        }
        if self.behind_max_ms > 100.0 && self.rate_asked.is_some() {
            self.notes.push(format!(
                "the senders were up to {:.0} ms behind the schedule; latencies count from the schedule and include it",
                self.behind_max_ms
            ));
        }
    }

    /// A second's look that comes seconds late tells of a machine that paused, or had no CPU for us at all.
    fn note_standstill(&mut self) {
        let times = self.samples.iter().map(|sample| sample.at_seconds);
        let gaps = times.clone().zip(times.skip(1)).map(|(one, next)| next - one);
        let longest = gaps.fold(0.0, f64::max);
        if longest > STANDSTILL_SECONDS {
            self.notes.push(format!(
                "the generator itself stood still for {longest:.1} s: this run says little about the drain"
            ));
        }
    }

    /// Whether the load was what the scenario says it is: overload where it promises overload, and bursts that are seen in
    /// the samples.
    pub(crate) fn judge_load(&mut self) {
        self.note_standstill();
        let is_whole = !self.interrupted;
        let overload = self.overload();
        self.overloaded = overload != Overload::None && overload != Overload::OfTheGenerator;
        if overload == Overload::OfTheGenerator {
            self.notes.push(
                "the senders fell behind while the drain had CPU to spare: the generator is the bottleneck".to_owned(),
            );
        }
        self.require(self.overloaded || !self.scenario.load.overloads || !is_whole, || {
            format!("the scenario promises overload, but the drain was not overloaded ({overload})")
        });
        let Some(burst) = self.profile.and_then(|profile| profile.burst) else { return };
        let peak = self.samples.iter().map(|sample| sample.sent_per_second).fold(0.0, f64::max);
        let mean = self.lines_per_second;
        // What cannot be taken at once is spread over the time behind the burst: then it is the overload that shows it.
        let is_seen = peak > 1.2 * mean && (peak >= 0.7 * burst.lines_per_second || self.overloaded);
        self.require(is_seen || !is_whole, || {
            format!(
                "the bursts of {} lines/s were not seen: at most {}, {} on average",
                thousands(burst.lines_per_second),
                thousands(peak),
                thousands(mean)
            )
        });
        let (most, ordinary) = (thousands(peak), thousands(mean));
        self.notes.push(format!("bursts: {most} lines/s in the busiest second, {ordinary} on average"));
    }

    /// The drain's own ledger agrees with the answers and balances.
    pub(crate) fn judge_stats(&mut self, before: &Value, after: &Value, tally: &Tally, shared: bool) {
        let Account { received, accepted, filtered, unrouted, rejected, .. } = tally.account;
        let answers = [
            ("lines_received", received),
            ("lines_accepted", accepted),
            ("lines_filtered", filtered),
            ("lines_unrouted", unrouted),
            ("lines_rejected", rejected),
        ];
        let number = |stats: &Value, key: &str| stats.get(key).and_then(Value::as_u64);
        if shared {
            self.notes.push("others may send too: the drain's statistics were not compared".to_owned());
        } else {
            for (key, answered) in answers {
                let counted = number(after, key).zip(number(before, key)).map(|(after, before)| after - before);
                self.require(counted == Some(answered), || {
                    format!("statistics: {key} grew by {counted:?}, the answers add up to {answered}")
                });
            }
        }
        self.balance(
            after,
            "lines_received",
            &["lines_accepted", "lines_filtered", "lines_unrouted", "lines_rejected"],
        );
        self.balance(after, "queue_lines_in", &["queue_lines_delivered", "queue_lines_dropped", "queue_lines"]);
    }

    fn balance(&mut self, stats: &Value, whole: &str, parts: &[&str]) {
        let number = |key: &str| stats.get(key).and_then(Value::as_u64);
        let (Some(total), Some(sum)) = (number(whole), parts.iter().map(|key| number(key)).sum::<Option<u64>>()) else {
            self.notes.push(format!("the statistics have no {whole}, or not all of {parts:?}"));
            return;
        };
        self.require(total == sum, || format!("statistics: {whole} = {total}, but its parts add up to {sum}"));
    }

    /// The report for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let count = |number: u64| thousands(number as f64);
        let (sent, seen, account) = (&self.sent, &self.seen, &self.sent.account);
        let asked = self
            .rate_asked
            .map_or_else(|| "as fast as possible".to_owned(), |rate| format!("{} asked", thousands(rate)));
        let _ = writeln!(text, "\nrun {}  {}", self.run, self.scenario.description);
        if let Some(calibrated) = self.calibrated {
            let _ = writeln!(text, "calibrated  {} lines/s", thousands(calibrated));
        }
        let _ = writeln!(
            text,
            "sent        {} lines/s over {:.1} s ({asked})",
            thousands(self.lines_per_second),
            self.seconds
        );
        let _ = writeln!(
            text,
            "            {} lines in {} bodies, {} MB on the wire; {} refusals, {} lines given up, {} broken connections, {} connects",
            count(sent.lines),
            count(sent.bodies),
            count(sent.wire_bytes / 1_000_000),
            count(sent.refusals),
            count(sent.refused_lines),
            sent.broken_connections,
            sent.reconnects
        );
        let _ = writeln!(
            text,
            "account     received {} = accepted {} + filtered {} + unrouted {} + rejected {}; {} duplicates",
            count(account.received),
            count(account.accepted),
            count(account.filtered),
            count(account.unrouted),
            count(account.rejected),
            sent.duplicates
        );
        let _ = writeln!(text, "overloaded  {}", self.overload_line());
        if let Some(drain) = self.drain() {
            let _ = writeln!(text, "drain       {drain}");
        }
        let _ = writeln!(text, "answer      {}", self.answers.line());
        if self.refusals.count > 0 {
            let _ = writeln!(text, "refusal     {}", self.refusals.line());
        }
        let _ = writeln!(text, "end to end  {}", self.end_to_end.line());
        let _ = writeln!(
            text,
            "readers     {} ({} reconnects, {} streams ended) read {}: lost {}, repeated {}, reordered {}, foreign {}; told as skipped {} (+{} unnumbered), in flight when torn {}",
            self.readers,
            self.reader_reconnects,
            self.streams_ended,
            count(seen.read),
            seen.lost,
            seen.repeated,
            seen.reordered,
            seen.foreign,
            count(seen.skipped_told),
            seen.skipped_unknown,
            seen.lost_in_flight
        );
        for note in &self.notes {
            let _ = writeln!(text, "note        {note}");
        }
        for violation in &self.violations {
            let _ = writeln!(text, "BROKEN      {violation}");
        }
        let _ = writeln!(text, "verdict     {}", self.verdict());
        text
    }

    fn overload(&self) -> Overload {
        let is_behind = self.profile.is_some() && self.behind_max_ms >= OVERLOADED_BEHIND_MS;
        let busiest = self.samples.iter().map(|sample| sample.drain_busy).fold(0.0, f64::max);
        match self.drain_cpus {
            // Of the histogram: a calibration's refusals are none of the run's.
            _ if self.refusals.count > 0 => Overload::Refusing,
            _ if !is_behind => Overload::None,
            Some(_) if busiest >= BUSY * self.cpus_allowed() => Overload::Busy,
            Some(_) => Overload::OfTheGenerator,
            None => Overload::Behind,
        }
    }

    /// CPUs that a drain of ours may use.
    fn cpus_allowed(&self) -> f64 {
        let cpus = self.scenario.drain.cpus.unwrap_or_else(|| process::cpus().len());
        cpus as f64 * self.scenario.drain.cpu_quota.unwrap_or(1.0)
    }

    fn overload_line(&self) -> String {
        let yes = if self.overloaded { "yes" } else { "no" };
        let tries = self.sent.bodies + self.sent.refusals;
        let share = 100.0 * self.sent.refusals as f64 / tries.max(1) as f64;
        let (overload, behind) = (self.overload(), self.behind_max_ms);
        format!("{yes}: {overload}; {share:.1} % of the tries refused, senders up to {behind:.0} ms behind")
    }

    fn drain(&self) -> Option<String> {
        let cpu = self.drain_cpus.map(|cpus| format!("{cpus:.2} of {} CPUs while we sent", self.cpus_allowed()));
        let memory = self.memory.map(|memory| {
            format!(
                "resident at most {:.1} MB, budget {:.1} MB ({:+.0} %)",
                memory.resident_bytes_max / 1e6,
                memory.budget_bytes / 1e6,
                100.0 * memory.excess()
            )
        });
        let parts: Vec<String> = [cpu, memory].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    fn verdict(&self) -> &'static str {
        match (self.violations.is_empty(), self.interrupted) {
            (false, _) => "FAILED",
            (true, true) => "kept, as far as the run went (interrupted)",
            (true, false) => "kept: every line accounted for",
        }
    }

    /// The report as a page that needs nothing else.
    pub(crate) fn html(&self) -> String {
        html::page(self)
    }
}
