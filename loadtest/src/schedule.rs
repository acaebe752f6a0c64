//! When each body is due: fixed before the first is sent, whatever the drain does meanwhile.
//!
//! A sender that waits for an answer before it *plans* the next body measures a stalled drain once; all the bodies
//! that should have gone out in the meantime are left out (coordinated omission). Here the k-th body's time depends
//! on k alone, and its latency counts from that time even when it could only be sent later.

use serde::Serialize;
use std::time::Duration;

/// A recurring stretch at another rate.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Burst {
    pub(crate) lines_per_second: f64,
    pub(crate) every: Duration,
    pub(crate) length: Duration,
}

/// A stretch of a day.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Wave {
    pub(crate) name: String,
    pub(crate) lines_per_second: f64,
    pub(crate) length: Duration,
}

/// The rate of the whole fleet over time.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Profile {
    /// On average, where there are waves.
    pub(crate) lines_per_second: f64,
    /// A burst ends each period of `every`.
    pub(crate) burst: Option<Burst>,
    /// A day, again and again; empty: every hour is like the other.
    pub(crate) waves: Vec<Wave>,
}

impl Profile {
    pub(crate) fn steady(lines_per_second: f64) -> Self {
        Self { lines_per_second, burst: None, waves: Vec::new() }
    }

    /// Days of these waves.
    pub(crate) fn days(waves: Vec<Wave>) -> Self {
        let lines: f64 = waves.iter().map(Wave::lines).sum();
        let day: Duration = waves.iter().map(|wave| wave.length).sum();
        Self { lines_per_second: lines / day.as_secs_f64(), burst: None, waves }
    }

    /// When the fleet's line number `line` is due after the start.
    pub(crate) fn due(&self, line: f64) -> Duration {
        if !self.waves.is_empty() {
            return self.due_in_days(line);
        }
        let Some(burst) = self.burst else { return Duration::from_secs_f64(line / self.lines_per_second) };
        let quiet = burst.every.saturating_sub(burst.length).as_secs_f64();
        let quiet_lines = quiet * self.lines_per_second;
        let period_lines = quiet_lines + burst.length.as_secs_f64() * burst.lines_per_second;
        let periods = (line / period_lines).floor();
        let rest = line - periods * period_lines;
        let within = if rest < quiet_lines {
            rest / self.lines_per_second
        } else {
            quiet + (rest - quiet_lines) / burst.lines_per_second
        };
        Duration::from_secs_f64(periods * burst.every.as_secs_f64() + within)
    }

    fn due_in_days(&self, line: f64) -> Duration {
        let lines: f64 = self.waves.iter().map(Wave::lines).sum();
        let day: Duration = self.waves.iter().map(|wave| wave.length).sum();
        let days = (line / lines).floor();
        let (mut rest, mut within) = (line - days * lines, 0.0);
        for wave in &self.waves {
            if rest < wave.lines() {
                within += rest / wave.lines_per_second;
                break;
            }
            rest -= wave.lines();
            within += wave.length.as_secs_f64();
        }
        Duration::from_secs_f64(days * day.as_secs_f64() + within)
    }
}

impl Wave {
    fn lines(&self) -> f64 {
        self.lines_per_second * self.length.as_secs_f64()
    }
}

/// The times of one connection's bodies, which carry `share` of the fleet's lines.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) profile: Profile,
    pub(crate) share: f64,
    pub(crate) lines_per_body: usize,
    /// In bodies, below 1: connections do not all send in the same instant.
    pub(crate) stagger: f64,
}

impl Schedule {
    /// When body number `body` is due after the start.
    pub(crate) fn due(&self, body: u64) -> Duration {
        self.profile.due((body as f64 + self.stagger) * self.lines_per_body as f64 / self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_felt_by_every_body_that_was_due_in_it() {
        let schedule = Schedule { profile: Profile::steady(10_000.0), share: 1.0, lines_per_body: 100, stagger: 0.0 };
        // A server that takes a second for the first body and a millisecond for each other.
        let mut free = Duration::ZERO;
        let latencies: Vec<Duration> = (0..200)
            .map(|body| {
                let due = schedule.due(body);
                let sent = due.max(free);
                free = sent + Duration::from_millis(if body == 0 { 1_000 } else { 1 });
                free - due
            })
            .collect();
        assert_eq!(latencies[1], Duration::from_millis(991));
        assert_eq!(latencies[50], Duration::from_millis(550));
        let slow = latencies.iter().filter(|latency| latency.as_millis() > 100).count();
        assert!(slow > 95, "only {slow} bodies show a stall that spans 100");
        assert_eq!(latencies[199], Duration::from_millis(1));
    }

    #[test]
    fn shares_add_up_to_the_whole_rate() {
        let due_within = |share| {
            let schedule = Schedule { profile: Profile::steady(10_000.0), share, lines_per_body: 10, stagger: 0.0 };
            (0..).take_while(|&body| schedule.due(body) < Duration::from_secs(1)).count()
        };
        assert_eq!(due_within(0.75) + due_within(0.25), 1_000);
    }

    #[test]
    fn a_burst_raises_the_rate_at_the_end_of_each_period() {
        let burst = Burst { lines_per_second: 1_000.0, every: Duration::from_secs(10), length: Duration::from_secs(2) };
        let profile = Profile { burst: Some(burst), ..Profile::steady(100.0) };
        assert_eq!(profile.due(400.0), Duration::from_secs(4));
        assert_eq!(profile.due(800.0), Duration::from_secs(8));
        assert_eq!(profile.due(1_800.0), Duration::from_secs(9));
        assert_eq!(profile.due(2_800.0), Duration::from_secs(10));
        assert_eq!(profile.due(3_200.0), Duration::from_secs(14));
    }

    #[test]
    fn each_day_has_its_waves() {
        let wave = |name: &str, lines_per_second, seconds| Wave {
            name: name.to_owned(),
            lines_per_second,
            length: Duration::from_secs(seconds),
        };
        let profile = Profile::days(vec![wave("night", 10.0, 6), wave("day", 100.0, 4)]);
        assert_eq!(profile.lines_per_second, 46.0);
        for (line, second) in
            [(0.0, 0.0), (30.0, 3.0), (60.0, 6.0), (260.0, 8.0), (460.0, 10.0), (490.0, 13.0), (920.0, 20.0)]
        {
            assert_eq!(profile.due(line), Duration::from_secs_f64(second), "line {line}");
        }
    }
}
