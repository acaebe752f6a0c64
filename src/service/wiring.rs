//! What both listeners share, and one scrape's view of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Map, Value};

use super::running::Certificates;
use crate::{
    collector::{LogCollector, MachineFacts, SinkStats, Stats},
    config::Config,
    fly::FlyCounters,
    http::{
        HttpCounters,
        problem::Reason as Refusal,
        read::{Access, ControlState, Hooks, SinksHook},
        rejected::RejectedRecords,
        status::{Counted, Reason, Trouble},
    },
    metrics::{MachineSeries, Metrics, SOURCE_REASONS, SPOOL_REASONS, Snapshot},
};

/// A sink whose deliveries fail is failing when so long nothing has arrived.
const SINK_SILENCE: Duration = Duration::from_secs(30);

/// What `/healthz` warns of while the configuration on the disk is not the one that is live.
const STALE: &str =
    "the configuration was not reloaded, the one before stays: the drain's log says why, `fleetdrain validate` where";

/// What both listeners share.
#[derive(Clone)]
pub(super) struct Wiring {
    pub(super) collector: LogCollector,
    pub(super) counters: Arc<HttpCounters>,
    metrics: Arc<Metrics>,
    pub(super) rejected: Arc<RejectedRecords>,
    pub(super) fly: Arc<FlyCounters>,
    /// Whether the last reload of the configuration worked.
    pub(super) reloaded: Arc<AtomicBool>,
    machines_max: usize,
    certificates: Certificates,
}

impl Wiring {
    pub(super) fn new(collector: &LogCollector, config: &Config, certificates: Certificates) -> Self {
        let ledger = &collector.shared.ledger;
        let (latency, lag) = (Arc::clone(&ledger.delivery_latency), Arc::clone(&ledger.log_lag));
        let metrics = Metrics::new(latency, lag, collector.fsync_seconds());
        let metrics = Arc::new(metrics);
        let counters = Arc::new(HttpCounters::default());
        let requests = Arc::clone(&metrics);
        let count = move |listener, status, took| requests.answered(listener, status, took);
        counters.on_answer.get_or_init(|| Box::new(count));
        Self {
            collector: collector.clone(),
            counters,
            metrics,
            rejected: Arc::default(),
            fly: Arc::default(),
            reloaded: Arc::new(AtomicBool::new(true)),
            machines_max: config.metrics.machines_max,
            certificates,
        }
    }

    /// What the routes of the control listener work on.
    pub(super) fn control(&self, access: Access, sinks: SinksHook) -> Arc<ControlState> {
        let (rendering, counting) = (self.clone(), Arc::clone(&self.counters));
        let (counted, spooled) = (Arc::clone(&self.counters), self.collector.clone());
        let (dropped, failing) = (self.collector.clone(), self.collector.clone());
        let reloaded = Arc::clone(&self.reloaded);
        let (fly, fly_counted, fly_troubles) = (Arc::clone(&self.fly), Arc::clone(&self.fly), Arc::clone(&self.fly));
        let hooks = Hooks {
            metrics: Box::new(move || rendering.render()),
            counters: Box::new(move || {
                of_bodies(&counting).into_iter().chain(of_spool(&spooled)).chain(of_fly(&fly)).collect()
            }),
            sinks,
            rejected: Arc::clone(&self.rejected),
            counted: Box::new(move || Counted {
                dropped: fly_counted.overflow()
                    + sinks_of(&dropped).iter().map(|sink| sink.lines_dropped).sum::<u64>()
                    + dropped.spool_lines_damaged(),
                refused: refused_for_want_of_room(&counted),
            }),
            troubles: Box::new(move || {
                let sinks = sinks_of(&failing);
                sinks.iter().filter_map(trouble).chain(fly_troubles.troubles()).collect()
            }),
            warning: Box::new(move || (!reloaded.load(Relaxed)).then(|| STALE.to_owned())),
        };
        ControlState::new(self.collector.clone(), access, hooks)
    }

    /// All metrics as Prometheus text.
    pub(super) fn render(&self) -> String {
        self.metrics.render(&self.snapshot())
    }

    fn snapshot(&self) -> Snapshot {
        let stats = self.collector.stats();
        let machines = self.collector.loudest_machines(self.machines_max);
        let machines_omitted = stats.machines.saturating_sub(machines.len() as u64);
        Snapshot {
            config_reload_success: self.reloaded.load(Relaxed),
            unclean_stop: self.collector.shared.journal.unclean_stop(),
            certificate_expiry: self.certificates.expiries(),
            wire_bytes: self.counters.wire_bytes(),
            body_bytes: self.counters.body_bytes(),
            bodies_refused: self.counters.bodies_refused(),
            bodies_duplicate: self.counters.bodies_duplicate(),
            machines: machines.into_iter().map(series).collect(),
            machines_omitted,
            spool: self.collector.spool_counted(),
            fly: self.fly.snapshot(),
            ..of_collector(&stats)
        }
    }
}

/// The counters of bodies, under the names of their metrics.
fn of_bodies(counters: &HttpCounters) -> Map<String, Value> {
    let refused = counters.bodies_refused();
    let by_reason: Map<String, Value> =
        Refusal::ALL.iter().zip(refused).map(|(reason, count)| (reason.as_str().to_owned(), count.into())).collect();
    Map::from_iter([
        ("wire_bytes".to_owned(), counters.wire_bytes().into()),
        ("body_bytes".to_owned(), counters.body_bytes().into()),
        ("bodies_duplicate".to_owned(), counters.bodies_duplicate().into()),
        ("bodies_refused".to_owned(), refused.iter().sum::<u64>().into()),
        ("bodies_refused_by_reason".to_owned(), by_reason.into()),
    ])
}

/// The spool's counters, under the names of their metrics.
fn of_spool(collector: &LogCollector) -> Map<String, Value> {
    let counted = collector.spool_counted();
    let Ok(Value::Object(counters)) = serde_json::to_value(&counted) else { return Map::new() };
    let by_reason: Map<String, Value> = SPOOL_REASONS
        .iter()
        .zip(counted.lines_dropped)
        .map(|(reason, lines)| ((*reason).to_owned(), lines.into()))
        .collect();
    let dropped = [
        ("spool_lines_dropped".to_owned(), counted.lines_dropped.iter().sum::<u64>().into()),
        ("spool_lines_dropped_by_reason".to_owned(), by_reason.into()),
    ];
    counters.into_iter().map(|(name, value)| (format!("spool_{name}"), value)).chain(dropped).collect()
}

/// The counters of the source `fly`, under the names of their metrics.
fn of_fly(counters: &FlyCounters) -> Map<String, Value> {
    let counted = counters.snapshot();
    let Ok(Value::Object(counters)) = serde_json::to_value(&counted) else { return Map::new() };
    let by_reason: Map<String, Value> = SOURCE_REASONS
        .iter()
        .zip(counted.lines_dropped)
        .map(|(reason, lines)| ((*reason).to_owned(), lines.into()))
        .collect();
    let dropped = [
        ("source_lines_dropped".to_owned(), counted.lines_dropped.iter().sum::<u64>().into()),
        ("source_lines_dropped_by_reason".to_owned(), by_reason.into()),
    ];
    counters.into_iter().map(|(name, value)| (format!("fly_{name}"), value)).chain(dropped).collect()
}

/// Bodies that were not at fault themselves.
fn refused_for_want_of_room(counters: &HttpCounters) -> u64 {
    let refused = counters.bodies_refused();
    [Refusal::QueueFull, Refusal::Memory, Refusal::Spool, Refusal::Jetstream]
        .iter()
        .map(|reason| refused[*reason as usize])
        .sum()
}

fn sinks_of(collector: &LogCollector) -> Vec<SinkStats> {
    collector.shared.outlets.stats()
}

/// A sink fails if what it tried last did, and nothing has arrived for a while.
fn trouble(sink: &SinkStats) -> Option<Reason> {
    let error = sink.failing()?;
    let now = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
    let silent = sink.last_success_timestamp_seconds.is_none_or(|at| now - at > SINK_SILENCE.as_secs_f64());
    silent.then(|| Reason::new(Trouble::SinkFailing, format!("{}: {error}", sink.name)))
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
        sinks: stats.sinks.clone(),
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
        lag_seconds: machine.lag_seconds,
        first_seen: machine.first_seen.as_millisecond() as f64 / 1000.0,
        latency_p50: machine.latency_p50_seconds,
        latency_p99: machine.latency_p99_seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_has_nothing_under_way_is_not_failing_whatever_its_last_line_came_to() {
        let sink = SinkStats { last_error: Some("refused for good".to_owned()), ..SinkStats::default() };
        assert_eq!(trouble(&sink), None);
        let trying = SinkStats { lines_in_flight: 1, ..sink };
        assert_eq!(trouble(&trying).map(|reason| reason.reason), Some(Trouble::SinkFailing));
    }
}
