//! What a run with viewers that stall found.

use crate::compare::{median, thousands};
use crate::report::Latency;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What lines may cost beside viewers that stall, as a ratio.
pub(crate) const COST_MAX: f64 = 1.05;
/// What the process may need beside its budget, in hundredths of it.
const BESIDE_BUDGET_PERCENT: u64 = 15;
/// And for each connection that a reader is answered over: hyper's two buffers of 8 KiB, and what is around them.
const CONNECTION_BYTES: u64 = 24 << 10;

/// A stretch in which lines were sent by a schedule.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Load {
    pub(super) lines: u64,
    /// The drain's.
    pub(super) cpu_seconds: f64,
    /// From when a body was due until its answer.
    pub(super) answers: Latency,
}

impl Load {
    fn cost(&self) -> f64 {
        self.cpu_seconds / self.lines.max(1) as f64
    }
}

/// What the viewers of a round had in the end.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Told {
    pub(super) viewers: u64,
    /// Of them, those that missed lines: a viewer that missed none did not stall.
    pub(super) stalled: u64,
    pub(super) produced: u64,
    pub(super) seen: u64,
    pub(super) skipped: u64,
    pub(super) wrong: u64,
    pub(super) named: Vec<String>,
}

/// A stretch beside viewers that stall.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Round {
    pub(super) load: Load,
    /// Of the drain's memory for each viewer: open, stalled, gone.
    pub(super) opened_bytes_each: u64,
    pub(super) bytes_each: u64,
    pub(super) left_bytes_each: u64,
    /// The most that was resident from the first viewer's coming to the last one's going.
    pub(super) resident_bytes_max: u64,
    pub(super) told: Told,
    /// Whether the drain counts no viewer once they have gone.
    pub(super) is_forgotten: bool,
}

/// What became of viewers that never read on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cut {
    pub(super) viewers: usize,
    /// Not cut off in time; none: the drain does not say.
    pub(super) left: Option<u64>,
    pub(super) left_bytes_each: u64,
    pub(super) failed: Vec<String>,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    viewers: usize,
    stalled_seconds: u32,
    budget_bytes: u64,
    /// Before, between and behind the rounds.
    pub(super) alone: Vec<Load>,
    pub(super) rounds: Vec<Round>,
    pub(super) cut: Option<Cut>,
    /// Tries of senders that were not answered 200.
    pub(super) failed: Vec<String>,
    /// The median of what a line costs beside them, against the mean of before and after.
    pub(super) cost: f64,
    /// The same of the p99 of answers.
    pub(super) p99: f64,
}

/// Of a report in JSON, what the targets are about.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Measured {
    pub(crate) cost: f64,
}

impl Report {
    pub(super) fn new(viewers: usize, stalled_seconds: u32, budget_bytes: u64) -> Self {
        let (alone, rounds, failed) = (Vec::new(), Vec::new(), Vec::new());
        Self { viewers, stalled_seconds, budget_bytes, alone, rounds, cut: None, failed, cost: f64::NAN, p99: f64::NAN }
    }

    /// All rounds were run.
    pub(super) fn sum_up(&mut self) {
        self.cost = self.ratio(Load::cost);
        self.p99 = self.ratio(|load| load.answers.p99);
    }

    fn ratio(&self, value: impl Fn(&Load) -> f64) -> f64 {
        let around = self.alone.windows(2).map(|pair| f64::midpoint(value(&pair[0]), value(&pair[1])));
        let ratios: Vec<f64> =
            self.rounds.iter().zip(around).map(|(round, alone)| value(&round.load) / alone).collect();
        median(&ratios)
    }

    /// What was promised and not kept; what CPU lines cost only where that is to be judged.
    pub(super) fn broken(&self, judges_cost: bool) -> Vec<String> {
        let mut broken = Vec::new();
        let failed = || self.failed.iter().chain(self.cut.iter().flat_map(|cut| &cut.failed));
        if let Some(first) = failed().next() {
            broken.push(format!("{} bodies were not answered 200, first: {first}", failed().count()));
        }
        let resident_max = self.budget_bytes
            + self.budget_bytes / 100 * BESIDE_BUDGET_PERCENT
            + CONNECTION_BYTES * self.viewers as u64;
        for (number, round) in self.rounds.iter().enumerate() {
            let Round { told, resident_bytes_max: resident, .. } = round;
            let number = number + 1;
            if told.wrong > 0 {
                broken.push(format!("round {number}: {} viewers have not all, first: {}", told.wrong, told.named[0]));
            }
            if told.stalled < told.viewers {
                let count = told.viewers - told.stalled;
                broken.push(format!("round {number}: {count} viewers missed nothing: they did not stall"));
            }
            if *resident > resident_max {
                let (resident, max, budget) = (resident >> 20, resident_max >> 20, self.budget_bytes >> 20);
                broken.push(format!(
                    "round {number}: {resident} MiB were resident, over {max} MiB, with a budget of {budget} MiB"
                ));
            }
            if !round.is_forgotten {
                broken.push(format!("round {number}: the drain still counts viewers that have hung up"));
            }
        }
        if let Some(Cut { left, viewers, .. }) = &self.cut
            && *left != Some(0)
        {
            let left = left.map_or_else(|| "an unknown number".to_owned(), |left| left.to_string());
            broken.push(format!("{left} of {viewers} viewers that never read on were not cut off"));
        }
        if judges_cost && self.cost > COST_MAX {
            broken.push(format!("a line costs {:.3} times the CPU beside them, over {COST_MAX}", self.cost));
        }
        broken
    }

    pub(super) fn text(&self, judges_cost: bool) -> String {
        let mut out = format!("{:<24} {:>12} {:>12} {:>10}", "", "lines", "lines/CPU-s", "p99");
        let _ = writeln!(out, " {:>10} {:>9} {:>9} {:>9}", "resident", "open", "stalled", "gone");
        let row = |out: &mut String, name: &str, load: &Load| {
            let (lines, pace) = (thousands(load.lines as f64), thousands(1.0 / load.cost()));
            let _ = write!(out, "{name:<24} {lines:>12} {pace:>12} {:>7.2} ms", load.answers.p99);
        };
        let name = format!("beside {} stalled", thousands(self.viewers as f64));
        for (number, alone) in self.alone.iter().enumerate() {
            row(&mut out, "alone", alone);
            out.push('\n');
            if let Some(round) = self.rounds.get(number) {
                row(&mut out, &name, &round.load);
                let each = [round.opened_bytes_each, round.bytes_each, round.left_bytes_each];
                let [open, stalled, gone] = each.map(|bytes| thousands(bytes as f64));
                let _ = writeln!(
                    out,
                    " {:>6} MiB {open:>9} {stalled:>9} {gone:>9}",
                    thousands((round.resident_bytes_max >> 20) as f64)
                );
            }
        }
        let _ = writeln!(
            out,
            "\nresident: at most, with a budget of {} MiB; open, stalled, gone: bytes of the drain for each viewer",
            self.budget_bytes >> 20
        );
        let sum =
            |value: fn(&Told) -> u64| thousands(self.rounds.iter().map(|round| value(&round.told)).sum::<u64>() as f64);
        let _ = writeln!(
            out,
            "viewers   {} stalled for {} s of lines: {} seen + {} told as skipped of {} produced; {} have not all",
            sum(|told| told.viewers),
            self.stalled_seconds,
            sum(|told| told.seen),
            sum(|told| told.skipped),
            sum(|told| told.produced),
            sum(|told| told.wrong)
        );
        let verdict = if self.cost <= COST_MAX { "met" } else { "MISSED" };
        let _ = writeln!(
            out,
            "a line    {:.3} times the CPU beside them, p99 of answers {:.2} times as long; target ≤ {COST_MAX} of the CPU: {verdict}",
            self.cost, self.p99
        );
        if let Some(Cut { viewers, left, left_bytes_each, .. }) = &self.cut {
            let cut = left.map_or(0, |left| *viewers as u64 - left.min(*viewers as u64));
            let (cut, viewers, each) =
                (thousands(cut as f64), thousands(*viewers as f64), thousands(*left_bytes_each as f64));
            let _ =
                writeln!(out, "cut off   {cut} of {viewers} that never read on; {each} bytes for each are still held");
        }
        for broken in self.broken(judges_cost) {
            let _ = writeln!(out, "BROKEN    {broken}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(cpu_seconds: f64) -> Load {
        Load { lines: 1_000, cpu_seconds, answers: Latency::default() }
    }

    fn round(cpu_seconds: f64) -> Round {
        let told = Told { viewers: 3, stalled: 3, produced: 30, seen: 10, skipped: 20, ..Told::default() };
        Round {
            load: load(cpu_seconds),
            opened_bytes_each: 1,
            bytes_each: 2,
            left_bytes_each: 0,
            resident_bytes_max: 100,
            told,
            is_forgotten: true,
        }
    }

    fn report(rounds: Vec<Round>) -> Report {
        let alone = (0..=rounds.len()).map(|number| load(1.0 + number as f64)).collect();
        let mut report = Report { alone, rounds, ..Report::new(3, 5, 100) };
        report.sum_up();
        report
    }

    #[test]
    fn each_round_is_held_against_what_is_around_it() {
        let report = report(vec![round(1.5), round(2.6), round(3.5)]);
        assert!((report.cost - 1.0).abs() < 1e-9, "{}", report.cost);
        assert!(report.broken(true).is_empty());
    }

    #[test]
    fn what_is_broken_is_told_and_the_cost_only_where_it_is_judged() {
        let dear = report(vec![round(2.0)]);
        assert_eq!((dear.broken(false).len(), dear.broken(true).len()), (0, 1));
        let told = |told: Told| report(vec![Round { told, ..round(1.5) }]).broken(false);
        let fine = round(1.0).told;
        assert_eq!(told(Told { wrong: 1, named: vec![String::new()], ..fine.clone() }).len(), 1);
        assert_eq!(told(Told { stalled: 2, ..fine }).len(), 1);
        assert_eq!(
            report(vec![Round { resident_bytes_max: 116 + 3 * CONNECTION_BYTES, ..round(1.5) }]).broken(false).len(),
            1
        );
        let cut = |left| Some(Cut { viewers: 3, left, left_bytes_each: 0, failed: Vec::new() });
        let left = |left| Report { cut: cut(left), ..report(vec![round(1.5)]) }.broken(false).len();
        assert_eq!([left(Some(0)), left(Some(1)), left(None)], [0, 1, 1]);
        assert_eq!(report(vec![Round { is_forgotten: false, ..round(1.5) }]).broken(false).len(), 1);
    }
}
