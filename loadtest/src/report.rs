//! What a run found, as text, JSON and a page.

mod html;

use crate::client::Account;
use crate::compare::thousands;
use crate::run::{Meter, Tally, Told};
use crate::scenario::Scenario;
use crate::verify::{Seen, Sent};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// One second of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) at_seconds: f64,
    pub(crate) sent_per_second: f64,
    pub(crate) read_per_second: f64,
    pub(crate) answer_p99_ms: f64,
    pub(crate) end_to_end_p99_ms: f64,
    pub(crate) behind_ms: f64,
    pub(crate) refused: u64,
}

impl Sample {
    /// The stretch between two looks at moment, lines sent, lines read.
    pub(crate) fn between(meter: &Meter, last: (Instant, u64, u64), now: (Instant, u64, u64)) -> Self {
        let seconds = (now.0 - last.0).as_secs_f64();
        let [answer, end_to_end, behind] = meter.interval().map(|micros| micros as f64 / 1_000.0);
        Self {
            at_seconds: meter.since_epoch(now.0).as_secs_f64(),
            sent_per_second: (now.1 - last.1) as f64 / seconds,
            read_per_second: (now.2 - last.2) as f64 / seconds,
            answer_p99_ms: answer,
            end_to_end_p99_ms: end_to_end,
            behind_ms: behind,
            refused: meter.refused.load(Relaxed),
        }
    }

    /// The progress line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:>5.0} s  sent {:>9}/s  read {:>9}/s  p99 answer {:>8.2} ms  end to end {:>8.2} ms  behind {:>7.1} ms  refused {}",
            self.at_seconds,
            thousands(self.sent_per_second),
            thousands(self.read_per_second),
            self.answer_p99_ms,
            self.end_to_end_p99_ms,
            self.behind_ms,
            self.refused
        )
    }
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
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
    fn of(histogram: &Histogram<u64>) -> Self {
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

    fn line(&self) -> String {
        if self.count == 0 {
            return "nothing measured".to_owned();
        }
        let Self { count, p50, p90, p99, p999, max, .. } = self;
        format!("p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms  (n = {count})")
    }
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: Scenario,
    pub(crate) run: String,
    pub(crate) seconds: f64,
    pub(crate) rate_asked: Option<f64>,
    pub(crate) calibrated: Option<f64>,
    pub(crate) lines_per_second: f64,
    pub(crate) behind_max_ms: f64,
    pub(crate) sent: Tally,
    pub(crate) answers: Latency,
    pub(crate) end_to_end: Latency,
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
        let [answers, end_to_end] = meter.totals();
        Self {
            scenario: scenario.clone(),
            run: format!("{run:08x}"),
            seconds: 0.0,
            rate_asked: None,
            calibrated: None,
            lines_per_second: 0.0,
            behind_max_ms: meter.behind_max().as_secs_f64() * 1_000.0,
            sent: tally.clone(),
            answers: Latency::of(&answers),
            end_to_end: Latency::of(&end_to_end),
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
        let _ = writeln!(text, "answer      {}", self.answers.line());
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
