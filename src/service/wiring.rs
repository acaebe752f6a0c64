//! What both listeners share, and one scrape's view of it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::{
    collector::{LogCollector, MachineFacts, Stats},
    config::Config,
    http::{HttpCounters, RejectedRecords},
    metrics::{MachineSeries, Metrics, Snapshot},
};

/// What both listeners share.
#[derive(Clone)]
pub(super) struct Wiring {
    pub(super) collector: LogCollector,
    pub(super) counters: Arc<HttpCounters>,
    pub(super) rejected: Arc<RejectedRecords>,
    /// Whether the last reload of the configuration worked.
    pub(super) reloaded: Arc<AtomicBool>,
    machines_max: usize,
}

impl Wiring {
    pub(super) fn new(collector: &LogCollector, config: &Config) -> Self {
        let ledger = &collector.shared.ledger;
        let metrics = Metrics::new(Arc::clone(&ledger.delivery_latency), Arc::clone(&ledger.log_lag));
        Self {
            collector: collector.clone(),
            counters: Arc::new(HttpCounters::new(metrics)),
            rejected: Arc::default(),
            reloaded: Arc::new(AtomicBool::new(true)),
            machines_max: config.metrics.machines_max,
        }
    }

    /// All metrics as Prometheus text.
    pub(super) fn render(&self) -> String {
        self.counters.metrics().render(&self.snapshot())
    }

    fn snapshot(&self) -> Snapshot {
        let stats = self.collector.stats();
        let machines = self.collector.loudest_machines(self.machines_max);
        let machines_omitted = stats.machines.saturating_sub(machines.len() as u64);
        Snapshot {
            config_reload_success: self.reloaded.load(Relaxed),
            wire_bytes: self.counters.wire_bytes(),
            body_bytes: self.counters.body_bytes(),
            bodies_refused: self.counters.bodies_refused(),
            bodies_duplicate: self.counters.bodies_duplicate(),
            machines: machines.into_iter().map(series).collect(),
            machines_omitted,
            ..of_collector(&stats)
        }
    }
}

fn of_collector(stats: &Stats) -> Snapshot {
    Snapshot {
        lines_received: stats.lines_received,
        lines_accepted: stats.lines_accepted,
        lines_filtered: stats.lines_filtered,
        lines_unrouted: stats.lines_unrouted,
        lines_rejected: stats.rejected_by_reason(),
        lines_repaired: stats.lines_repaired,
        queue_lines_in: stats.queue_lines_in,
        queue_lines_delivered: stats.queue_lines_delivered,
        queue_lines_dropped: stats.dropped_by_reason(),
        queue_lines: stats.queue_lines,
        queue_bytes: stats.queue_bytes,
        oldest_entry_age_seconds: stats.oldest_entry_age_seconds,
        memory_used_bytes: stats.memory_used_bytes,
        memory_budget_bytes: stats.memory_budget_bytes,
        history_seconds: stats.history_seconds,
        machines_known: stats.machines,
        subscriptions: stats.subscriptions,
        viewers: stats.viewers,
        viewer_skipped_lines: stats.viewer_skipped_lines,
        ..Snapshot::default()
    }
}

fn series(machine: MachineFacts) -> MachineSeries {
    MachineSeries {
        machine: machine.machine_id,
        app: machine.app_name,
        region: machine.region,
        lines: machine.lines,
        bytes: machine.bytes,
        dropped: machine.dropped,
        queue_lines: machine.queue_lines,
        latency_p50: machine.latency_p50_seconds,
        latency_p99: machine.latency_p99_seconds,
    }
}
