//! What a crash run found, as text and JSON.

use super::follow::From;
use super::inject::Fault;
use super::judge::Verdict;
use super::overload::Overloaded;
use super::sender::Tally;
use crate::compare::thousands;
use crate::report::Latency;
use serde::Serialize;
use std::fmt::Write;

/// Times in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Times(Vec<f64>);

impl Times {
    pub(super) fn add(&mut self, time: std::time::Duration) {
        self.0.push(time.as_secs_f64() * 1_000.0);
    }

    pub(super) fn max(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }

    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }

    pub(super) fn text(&self) -> String {
        format!("{:.0} ms median, {:.0} ms at most (n = {})", self.median(), self.max(), self.0.len())
    }
}

/// What the faults of the disk did.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Faults {
    pub(super) kind: Option<Fault>,
    pub(super) times: u64,
    pub(super) calls_failed: u64,
    /// Killed while it lasted.
    pub(super) killed: u64,
    /// From the fault's end to the next answer 200.
    pub(super) recovery: Times,
}

/// What flipped bits did.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Flips {
    pub(super) made: u64,
    pub(super) lost_a_body: u64,
    pub(super) records_lost: u64,
    #[serde(skip)]
    pub(super) broken: Vec<String>,
}

/// What those who followed have read.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Followed {
    pub(super) from: From,
    pub(super) read: u64,
    /// Records of the history that they never had.
    pub(super) missed: u64,
    /// Read more often than they are stored: a queue may give again what it gave in its last second.
    pub(super) again: u64,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) seed: u64,
    pub(super) run: String,
    pub(super) signal: &'static str,
    pub(super) keys: bool,
    pub(super) spool: Option<String>,
    pub(super) seconds: f64,
    pub(super) kills: u64,
    /// Of them, those that came before it was ready.
    pub(super) early_kills: u64,
    pub(super) ready: Times,
    /// From SIGTERM to the end.
    pub(super) ending: Times,
    pub(super) sent: Tally,
    pub(super) resumes: u64,
    pub(super) resumed_lines: u64,
    pub(super) verdict: Verdict,
    pub(super) followed: Option<Followed>,
    pub(super) faults: Faults,
    pub(super) overload: Option<Overloaded>,
    /// From when a body was sent until its 429 or 503.
    pub(super) refusals: Latency,
    pub(super) flips: Flips,
    /// What was promised and not kept; empty is success.
    pub(super) violations: Vec<String>,
}

impl Report {
    pub(super) fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(otherwise());
        }
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // A String takes any write.
        let mut line = |name: &str, text: String| {
            let _ = writeln!(out, "{name:<12} {text}");
        };
        let count = |value: u64| thousands(value as f64);
        let Self { sent, verdict, faults, flips, .. } = self;
        let early = format!("{} before it was ready", self.early_kills);
        line("crash", format!("{} times {}, {early}; seed {}, run {}", self.kills, self.signal, self.seed, self.run));
        let keys = if self.keys { "with Idempotency-Key" } else { "without Idempotency-Key" };
        let (bodies, records) = (count(sent.bodies), count(sent.records));
        line(
            "sent",
            format!(
                "{bodies} bodies, {records} records in {:.0} s over {} connections, {keys}",
                self.seconds, sent.connections
            ),
        );
        let acks: Vec<String> = sent.acks.iter().map(|(ack, bodies)| format!("{ack} {}", count(*bodies))).collect();
        line(
            "acknowledged",
            format!("{} records; bodies by Fleetdrain-Ack: {}", count(sent.acknowledged_records), acks.join(", ")),
        );
        let answers: Vec<String> =
            sent.answers.iter().map(|(status, tries)| format!("{status} {}", count(*tries))).collect();
        line(
            "tries",
            format!(
                "{}; {} unanswered ({} hung up), {} unknown; {} duplicates; {} bodies cut off, {} given up",
                answers.join(", "),
                count(sent.unanswered),
                count(sent.abandoned),
                count(sent.unknown),
                count(sent.duplicates),
                count(sent.broken_bodies),
                count(sent.given_up)
            ),
        );
        line("start", format!("to /readyz: {}", self.ready.text()));
        if self.ending.max() > 0.0 {
            line("end", format!("from SIGTERM: {}", self.ending.text()));
        }
        if let Some(overload) = &self.overload {
            line("overload", overload.text());
        }
        if self.refusals.count > 0 {
            line("refusals", format!("429 or 503 after {}", self.refusals.line()));
        }
        if let Some(kind) = faults.kind {
            let Faults { times, calls_failed, killed, .. } = faults;
            line("faults", format!("{kind:?} {times} times, {calls_failed} calls failed, killed in {killed} of them"));
            line("recovery", format!("from a fault's end to the next 200: {}", faults.recovery.text()));
        }
        line(
            "stored",
            format!(
                "{} records, {} of them never acknowledged, {} repeats that are allowed",
                count(verdict.stored),
                count(verdict.unacknowledged_but_there),
                count(verdict.repeats_allowed)
            ),
        );
        if verdict.gone_with_the_oldest > 0 {
            line(
                "",
                format!(
                    "{} acknowledged records gone with the oldest, for want of room",
                    count(verdict.gone_with_the_oldest)
                ),
            );
        }
        line("resumed", format!("{} times by id: {} lines", count(self.resumes), count(self.resumed_lines)));
        if let Some(Followed { from, read, missed, again }) = &self.followed {
            line(
                "followed",
                format!(
                    "{from:?}: {} read, {} missed, {} more often than stored",
                    count(*read),
                    count(*missed),
                    count(*again)
                ),
            );
        }
        if flips.made > 0 {
            line(
                "flips",
                format!(
                    "{} bits, {} of them cost a body, {} records in all",
                    flips.made, flips.lost_a_body, flips.records_lost
                ),
            );
        }
        line(
            "verdict",
            format!(
                "{} lost, {} repeated, {} there though refused, {} bodies taken in part, {} out of order",
                count(verdict.lost),
                count(verdict.repeated),
                count(verdict.refused_but_there),
                count(verdict.torn_bodies),
                count(verdict.out_of_order)
            ),
        );
        for violation in &self.violations {
            line("BROKEN", violation.clone());
        }
        out
    }
}
