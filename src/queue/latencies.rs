//! How long one machine's lines waited: the quantiles of its queue.

use std::time::Duration;

/// The most latencies counted before older ones weigh half.
const LATENCIES_MAX: u32 = 1 << 16;

/// Latencies by powers of two of a microsecond.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    counts: [u32; 32],
    total: u32,
}

impl Latencies {
    pub(super) fn record(&mut self, latency: Duration) {
        let micros = latency.as_micros().max(1);
        let bucket = (micros.ilog2() as usize).min(self.counts.len() - 1);
        self.counts[bucket] += 1;
        self.total += 1;
        if self.total >= LATENCIES_MAX {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// The latency that a share of `quantile` stayed under, interpolated within its bucket.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = quantile * f64::from(self.total);
        let mut below = 0.0;
        for (bucket, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = f64::from(count);
            if below + count >= rank {
                let floor = (1u64 << bucket) as f64;
                return Some(floor * (1.0 + ((rank - below) / count).clamp(0.0, 1.0)) / 1e6);
            }
            below += count;
        }
        None
    }
}
