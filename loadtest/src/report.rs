//! What a run found, as text, JSON and a page.

mod day;
mod html;
mod load;
mod sample;

pub(crate) use sample::{Look, Memory, Sample};

use crate::client::Account;
use crate::compare::thousands;
use crate::run::{Meter, Tally, Told};
use crate::scenario::Scenario;
use crate::schedule::Profile;
use crate::verify::{Seen, Sent};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write;

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
    /// When the sending proper began: samples before are of the calibration.
    pub(crate) began_at_seconds: f64,
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
    /// What the drain held in each wave of each day.
    days: Vec<day::Held>,
}

impl Report {
    pub(crate) fn new(scenario: &Scenario, run: u32, meter: &Meter, tally: &Tally) -> Self {
        let [answers, end_to_end, refusals] = meter.totals();
        Self {
            scenario: scenario.clone(),
            run: format!("{run:08x}"),
            began_at_seconds: 0.0,
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
            days: Vec::new(),
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
        let _ = writeln!(text, "\n{}", format!("run {}  {}", self.run, self.scenario.description).trim_end());
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
            "            {} lines in {} bodies, {:.1} MB on the wire; {} refusals, {} lines given up, {} broken connections, {} connects",
            count(sent.lines),
            count(sent.bodies),
            sent.wire_bytes as f64 / 1e6,
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
        text.push_str(&self.days_text());
        let _ = writeln!(text, "answer      {}", self.answers.line());
        if self.refusals.count > 0 {
            let _ = writeln!(text, "refusal     {}", self.refusals.line());
        }
        let _ = writeln!(text, "end to end  {}", self.end_to_end.line());
        if self.readers > 0 {
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
        }
        for note in &self.notes {
            let _ = writeln!(text, "note        {note}");
        }
        for violation in &self.violations {
            let _ = writeln!(text, "BROKEN      {violation}");
        }
        let _ = writeln!(text, "verdict     {}", self.verdict());
        text
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
