//! Whether the load was what the scenario says it is, and what it cost the drain.

use super::{Report, Sample};
use crate::compare::thousands;
use crate::process;
use std::fmt;

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

impl Report {
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
        let Some(burst) = self.profile.as_ref().and_then(|profile| profile.burst) else { return };
        let peak = self.most(|sample| sample.sent_per_second);
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

    fn overload(&self) -> Overload {
        let is_behind = self.profile.is_some() && self.behind_max_ms >= OVERLOADED_BEHIND_MS;
        let busiest = self.most(|sample| sample.drain_busy);
        match self.drain_cpus {
            // Of the histogram: a calibration's refusals are none of the run's.
            _ if self.refusals.count > 0 => Overload::Refusing,
            _ if !is_behind => Overload::None,
            Some(_) if busiest >= BUSY * self.cpus_allowed() => Overload::Busy,
            Some(_) => Overload::OfTheGenerator,
            None => Overload::Behind,
        }
    }

    /// The most in any second that was sent in; the first holds some of the calibration.
    fn most(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        let own = self.samples.iter().filter(|sample| sample.at_seconds >= self.began_at_seconds + 1.0);
        own.map(value).fold(0.0, f64::max)
    }

    /// CPUs that a drain of ours may use.
    fn cpus_allowed(&self) -> f64 {
        let cpus = self.scenario.drain.cpus.unwrap_or_else(|| process::cpus().len());
        cpus as f64 * self.scenario.drain.cpu_quota.unwrap_or(1.0)
    }

    pub(super) fn overload_line(&self) -> String {
        let yes = if self.overloaded { "yes" } else { "no" };
        let tries = self.sent.bodies + self.sent.refusals;
        let share = 100.0 * self.sent.refusals as f64 / tries.max(1) as f64;
        let (overload, behind) = (self.overload(), self.behind_max_ms);
        format!("{yes}: {overload}; {share:.1} % of the tries refused, senders up to {behind:.0} ms behind")
    }

    /// What the drain used, as far as it is known.
    pub(super) fn drain(&self) -> Option<String> {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Meter, Tally};
    use crate::scenario::Scenario;
    use std::time::Duration;

    /// A run of 10 s behind a calibration of 2 s: one CPU for the drain, senders `behind`, and in each second so many lines
    /// sent and so much CPU used.
    fn judged(scenario: &str, behind: Duration, seconds: [(f64, f64); 12]) -> Report {
        let scenario = Scenario::read(&format!("[drain]\ncpus = 1\n[load]\n{scenario}"), &[]).unwrap();
        let meter = Meter::new();
        meter.behind(behind);
        let mut report = Report::new(&scenario, 1, &meter, &Tally::default());
        report.profile = scenario.load.profile(1_000.0);
        report.drain_cpus = Some(0.1);
        report.began_at_seconds = 2.0;
        report.lines_per_second = seconds[2..].iter().map(|second| second.0).sum::<f64>() / 10.0;
        let sample = |(at, (sent_per_second, drain_busy)): (usize, (f64, f64))| Sample {
            at_seconds: at as f64 + 1.0,
            sent_per_second,
            drain_busy,
            ..Sample::default()
        };
        report.samples = seconds.into_iter().enumerate().map(sample).collect();
        report.judge_load();
        report
    }

    const OVERLOADS: &str = "rate = \"2x\"\noverloads = true";
    const BURST: &str = "rate = 100\nburst = { rate = 1000, every = \"5s\", length = \"1s\" }";

    #[test]
    fn senders_behind_a_drain_with_cpu_to_spare_are_no_overload() {
        let late = Duration::from_secs(3);
        // Busy in the calibration alone.
        let mut seconds = [(1_000.0, 0.3); 12];
        seconds[0].1 = 1.0;
        let report = judged(OVERLOADS, late, seconds);
        assert!(!report.overloaded && report.violations.len() == 1, "{:?}", report.violations);
        seconds[5].1 = 0.9;
        let report = judged(OVERLOADS, late, seconds);
        assert!(report.overloaded && report.violations.is_empty(), "{:?}", report.violations);
        assert!(!judged(OVERLOADS, Duration::ZERO, seconds).overloaded);
    }

    #[test]
    fn bursts_must_be_seen_outside_the_calibration() {
        let mut seconds = [(100.0, 0.1); 12];
        seconds[0].0 = 5_000.0;
        assert_eq!(judged(BURST, Duration::ZERO, seconds).violations.len(), 1);
        seconds[6].0 = 900.0;
        assert!(judged(BURST, Duration::ZERO, seconds).violations.is_empty());
    }
}
