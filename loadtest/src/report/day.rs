//! What the drain held by day and night: queues grow in a peak, and must give their memory back.

use super::{Report, Sample};
use crate::compare::thousands;
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

/// Means over the second half of a wave: what came before it has had time to go.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Held {
    /// From 1.
    day: u32,
    wave: String,
    sent_per_second: f64,
    resident_bytes: f64,
    used_bytes: f64,
    queue_lines: f64,
}

impl Held {
    fn of(day: u32, wave: &str, samples: &[&Sample]) -> Option<Self> {
        let mean = |value: fn(&Sample) -> f64| {
            // A drain that did not answer in time said nothing.
            let told: Vec<f64> = samples.iter().map(|sample| value(sample)).filter(|value| *value > 0.0).collect();
            told.iter().sum::<f64>() / told.len().max(1) as f64
        };
        (!samples.is_empty()).then(|| Self {
            day,
            wave: wave.to_owned(),
            sent_per_second: mean(|sample| sample.sent_per_second),
            resident_bytes: mean(|sample| sample.resident_bytes),
            used_bytes: mean(|sample| sample.used_bytes),
            queue_lines: mean(|sample| sample.queue_lines),
        })
    }
}

impl Report {
    /// What was held in each wave, and whether nights are alike.
    pub(crate) fn judge_days(&mut self) {
        let Some(profile) = self.profile.as_ref().filter(|profile| !profile.waves.is_empty()) else { return };
        let (mut at, mut days) = (Duration::ZERO, Vec::new());
        for day in 1..=self.scenario.load.days {
            for wave in &profile.waves {
                let (half, end) = (at + wave.length / 2, at + wave.length);
                let is_within = |sample: &&Sample| {
                    let at = sample.at_seconds - self.began_at_seconds;
                    (half.as_secs_f64()..end.as_secs_f64()).contains(&at)
                };
                let samples: Vec<&Sample> = self.samples.iter().filter(is_within).collect();
                days.extend(Held::of(day, &wave.name, &samples));
                at = end;
            }
        }
        self.days = days;
        let Some(max) = self.scenario.drain.resident_grows_max.filter(|_| !self.interrupted) else { return };
        let growth = self.nights().map(|(second, last)| last.resident_bytes / second.resident_bytes - 1.0);
        self.require(growth.is_some_and(|growth| growth <= max), || match growth {
            Some(growth) => format!(
                "a night's resident memory grew by {:.1} % from the second day to the last, over {:.0} %",
                100.0 * growth,
                100.0 * max
            ),
            None => "there were no nights to compare".to_owned(),
        });
    }

    /// The quietest wave of the second day, and of the last one.
    fn nights(&self) -> Option<(&Held, &Held)> {
        let waves = &self.profile.as_ref()?.waves;
        let night = waves.iter().min_by(|one, other| one.lines_per_second.total_cmp(&other.lines_per_second))?;
        let mut nights = self.days.iter().filter(|held| held.wave == night.name && held.day >= 2);
        let second = nights.next()?;
        Some((second, nights.next_back()?))
    }

    /// A row a day; nothing where a day has no waves.
    pub(super) fn days_text(&self) -> String {
        let mut text = String::new();
        if self.days.is_empty() {
            return text;
        }
        text.push_str(
            "by day      resident MB / of the budget MB / lines in queues, in the second half of each wave\n",
        );
        let mut last = 0;
        for Held { day, wave, resident_bytes, used_bytes, queue_lines, .. } in &self.days {
            if *day != last {
                last = *day;
                let _ = write!(text, "{}day {day:<6}", if text.ends_with('\n') { "  " } else { "\n  " });
            }
            let lines = thousands(*queue_lines);
            let _ = write!(text, "  {wave} {:.0}/{:.0}/{lines}", resident_bytes / 1e6, used_bytes / 1e6);
        }
        text.push('\n');
        if let Some((second, last)) = self.nights() {
            let growth = 100.0 * (last.resident_bytes / second.resident_bytes - 1.0);
            let _ = writeln!(
                text,
                "nights      resident {:.1} MB on day {}, {:.1} MB on day {}: {growth:+.1} %; of the budget {:.1} MB, {:.1} MB",
                second.resident_bytes / 1e6,
                second.day,
                last.resident_bytes / 1e6,
                last.day,
                second.used_bytes / 1e6,
                last.used_bytes / 1e6
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Meter, Tally};
    use crate::scenario::Scenario;

    /// A run of three days of 20 s behind a calibration of 5 s, whose resident memory is as told at each second.
    fn judged(resident: impl Fn(u32) -> f64) -> Report {
        let text = "[drain]\nresident_grows_max = 0.1\n[load]\nduration = \"60s\"\ndays = 3\nwaves = [{ name = \"night\", \
                    rate = 10, share = 1 }, { name = \"day\", rate = 100, share = 1 }]";
        let scenario = Scenario::read(text, &[]).unwrap();
        let mut report = Report::new(&scenario, 1, &Meter::new(), &Tally::default());
        report.profile = scenario.load.profile(0.0);
        report.began_at_seconds = 5.0;
        let sample = |second| Sample {
            at_seconds: f64::from(second) + 5.0,
            resident_bytes: resident(second),
            used_bytes: 1.0,
            ..Sample::default()
        };
        report.samples = (0..60).map(sample).collect();
        report.judge_days();
        report
    }

    /// Days are loud, and what they held goes in the first half of the night.
    fn flat(second: u32) -> f64 {
        match second % 20 {
            0..5 => 3e8,
            5..10 => 1e8,
            _ => 4e8,
        }
    }

    #[test]
    fn nights_alike_are_flat_whatever_the_days() {
        let report = judged(flat);
        assert!(report.violations.is_empty(), "{:?}", report.violations);
        assert_eq!(report.days.len(), 6);
        assert!(report.days_text().contains("100.0 MB on day 2, 100.0 MB on day 3: +0.0 %"), "{}", report.days_text());
    }

    #[test]
    fn nights_that_grow_are_found_but_not_the_first() {
        assert!(judged(|second| if second < 20 { 5e7 } else { flat(second) }).violations.is_empty());
        let report = judged(|second| if second < 40 { flat(second) } else { 1.2 * flat(second) });
        assert_eq!(report.violations.len(), 1);
        assert!(report.violations[0].contains("grew by 20.0 %"), "{:?}", report.violations);
    }
}
