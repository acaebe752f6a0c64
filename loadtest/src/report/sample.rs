//! A run second by second, and what the drain held.

use crate::client::Target;
use crate::compare::thousands;
use crate::process::{self, Server};
use crate::run::{Meter, gauge, gauges};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

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
#[derive(Clone, Copy, Debug, Default, Serialize)]
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
    /// Of its budget, and lines in its queues: only asked for where a day has waves.
    pub(crate) used_bytes: f64,
    pub(crate) queue_lines: f64,
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
            used_bytes: 0.0,
            queue_lines: 0.0,
        }
    }

    /// Asks the drain what it holds; an overloaded drain must not hold up the samples.
    pub(crate) async fn ask(&mut self, control: &Target) {
        let asked = gauges(control, ["fleetdrain_memory_used_bytes", "fleetdrain_queue_lines"]);
        let told = tokio::time::timeout(Duration::from_millis(500), asked).await.ok().flatten();
        if let Some([used, lines]) = told {
            (self.used_bytes, self.queue_lines) = (used.unwrap_or(0.0), lines.unwrap_or(0.0));
        }
    }

    /// The progress line.
    pub(crate) fn line(&self) -> String {
        // Nothing is ever so fast or so small: nobody has measured it.
        let known = |value: f64, digits: usize| if value > 0.0 { format!("{value:.digits$}") } else { "-".to_owned() };
        format!(
            "{:>5.0} s  sent {:>9}/s  read {:>9}/s  p99 answer {:>8} ms  end to end {:>8} ms  behind {:>7.1} ms  refused {:>6}/s  RSS {:>5} MB",
            self.at_seconds,
            thousands(self.sent_per_second),
            thousands(self.read_per_second),
            known(self.answer_p99_ms, 2),
            known(self.end_to_end_p99_ms, 2),
            self.behind_ms,
            thousands(self.refused_per_second),
            known(self.resident_bytes / 1e6, 0)
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
