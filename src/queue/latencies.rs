//! How long one machine's lines waited: the quantiles of its queue.

use std::time::Duration;

/// Latencies by powers of two of a microsecond. A count that is full halves all of them: older ones weigh less.
///
/// One line of cache.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Latencies([u16; 32]);

impl Latencies {
    /// Counts a latency `times` times.
    pub(super) fn record(&mut self, latency: Duration, times: u8) {
        let micros = latency.as_secs().saturating_mul(1_000_000) + u64::from(latency.subsec_micros());
        let bucket = (micros.max(1).ilog2() as usize).min(self.0.len() - 1);
        self.0[bucket] += u16::from(times);
        if self.0[bucket] > u16::MAX - u16::from(u8::MAX) {
            self.0.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// The latency that a share of `quantile` stayed under, interpolated within its bucket.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        let total: u32 = self.0.iter().copied().map(u32::from).sum();
        let rank = quantile * f64::from(total);
        let mut below = 0.0;
        for (bucket, &count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
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
