//! What a collector tells: the ledger behind the balances, its stats, and facts of machines.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use super::{
    LogCollector,
    machine::{Machine, RANK_WINDOW, RATE_WINDOW, Window},
};
use crate::{
    batch::FIRST_SEQ,
    metrics::Histogram,
    queue::{QueueFacts, Reason},
    record::RejectReason,
};

/// Every counter of the balances, separate per collector, without any metrics recorder.
pub(crate) struct Ledger {
    pub(crate) received: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) filtered: AtomicU64,
    pub(crate) unrouted: AtomicU64,
    pub(crate) repaired: AtomicU64,
    pub(crate) rejected: [AtomicU64; RejectReason::ALL.len()],
    queue_in: AtomicU64,
    queue_delivered: AtomicU64,
    queue_dropped: [AtomicU64; Reason::NAMES.len()],
    pub(crate) viewer_skipped: AtomicU64,
    pub(crate) viewers: AtomicU64,
    /// Received → taken by a queue's reader, by groups.
    pub(crate) delivery_latency: Arc<Histogram>,
    /// A record's own timestamp → received.
    pub(crate) log_lag: Arc<Histogram>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            received: AtomicU64::default(),
            accepted: AtomicU64::default(),
            filtered: AtomicU64::default(),
            unrouted: AtomicU64::default(),
            repaired: AtomicU64::default(),
            rejected: Default::default(),
            queue_in: AtomicU64::default(),
            queue_delivered: AtomicU64::default(),
            queue_dropped: Default::default(),
            viewer_skipped: AtomicU64::default(),
            viewers: AtomicU64::default(),
            delivery_latency: Arc::new(Histogram::new(Histogram::LATENCY)),
            log_lag: Arc::new(Histogram::new(Histogram::LAG)),
        }
    }
}

impl Ledger {
    pub(crate) fn queue_in(&self, lines: u64) {
        self.queue_in.fetch_add(lines, Relaxed);
    }

    pub(crate) fn queue_delivered(&self, lines: u64) {
        self.queue_delivered.fetch_add(lines, Relaxed);
    }

    pub(crate) fn queue_dropped(&self, reason: Reason, lines: u64) {
        self.queue_dropped[reason as usize].fetch_add(lines, Relaxed);
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("received", &self.received).finish_non_exhaustive()
    }
}

/// Every counter of the balances, and what is held now. Balances hold at every quiet moment:
/// `lines_received = lines_accepted + lines_filtered + lines_unrouted + lines_rejected` and
/// `queue_lines_in = queue_lines_delivered + queue_lines_dropped + queue_lines`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the metric of its name; see the metrics reference")]
pub struct Stats {
    pub lines_received: u64,
    pub lines_accepted: u64,
    pub lines_filtered: u64,
    pub lines_unrouted: u64,
    pub lines_rejected: u64,
    pub lines_rejected_by_reason: BTreeMap<&'static str, u64>,
    pub lines_repaired: u64,
    pub queue_lines_in: u64,
    pub queue_lines_delivered: u64,
    pub queue_lines_dropped: u64,
    pub queue_lines_dropped_by_reason: BTreeMap<&'static str, u64>,
    /// Counted in the queues, not derived from the three before.
    pub queue_lines: u64,
    pub queue_bytes: u64,
    pub viewer_skipped_lines: u64,
    pub viewers: u64,
    pub machines: u64,
    pub subscriptions: u64,
    pub history_lines: u64,
    pub history_bytes: u64,
    pub history_seconds: f64,
    pub memory_used_bytes: u64,
    pub memory_budget_bytes: u64,
    pub oldest_entry_age_seconds: f64,
    /// One for each sink.
    pub sinks: Vec<SinkStats>,
}

/// One sink's counters: `lines_in = lines_delivered + lines_dropped + lines_in_flight` whenever they are asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the metric of its name; see the metrics reference")]
pub struct SinkStats {
    pub name: String,
    pub lines_in: u64,
    pub lines_filtered: u64,
    pub lines_delivered: u64,
    pub lines_dropped: u64,
    pub lines_dropped_by_reason: BTreeMap<&'static str, u64>,
    pub lines_in_flight: u64,
    pub retries: u64,
    /// How long the oldest line has waited that is neither delivered nor dropped.
    pub lag_seconds: f64,
    pub last_success_timestamp_seconds: Option<f64>,
    /// Of its last delivery, if that failed.
    pub last_error: Option<String>,
}

impl SinkStats {
    /// Why nothing arrives now. What was refused for good is over, where nothing else is under way.
    #[cfg(feature = "server")]
    pub(crate) fn failing(&self) -> Option<&str> {
        self.last_error.as_deref().filter(|_| self.lines_in_flight > 0)
    }
}

impl Stats {
    /// Rejected lines in the order of [`RejectReason::ALL`].
    #[must_use]
    pub fn rejected_by_reason(&self) -> [u64; RejectReason::ALL.len()] {
        RejectReason::ALL.map(|reason| self.lines_rejected_by_reason.get(reason.as_str()).copied().unwrap_or(0))
    }

    /// Dropped lines in the order of [`Reason`].
    #[cfg(feature = "server")]
    pub(crate) fn dropped_by_reason(&self) -> [u64; Reason::NAMES.len()] {
        Reason::NAMES.map(|reason| self.queue_lines_dropped_by_reason.get(reason).copied().unwrap_or(0))
    }
}

/// One machine, as told to operators.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the JSON API's; see the API reference")]
pub struct MachineFacts {
    pub machine_id: String,
    pub state: &'static str,
    /// When it will be finished, if somebody said so with a linger that is not over.
    pub finishes_at: Option<String>,
    pub app_name: String,
    pub region: String,
    pub lines: u64,
    pub bytes: u64,
    pub dropped: u64,
    pub lines_per_second: f64,
    pub bytes_per_second: f64,
    /// Lines of about the last five minutes.
    pub lines_recent: u64,
    pub subscribed: bool,
    pub streams: Option<String>,
    pub full: Option<&'static str>,
    pub queue_lines: u64,
    pub queue_bytes: u64,
    pub queue_behind: bool,
    pub readers: u32,
    /// How long the oldest queued line has waited.
    pub lag_seconds: f64,
    pub latency_p50_seconds: Option<f64>,
    pub latency_p99_seconds: Option<f64>,
    pub last_seen: Option<String>,
    /// When its counters began.
    #[serde(skip)]
    pub(crate) first_seen: Timestamp,
}

impl LogCollector {
    /// Every counter of the balances, and what is held now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (ledger, shared) = (&self.shared.ledger, &self.shared);
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let now = Instant::now();
        let (history_bytes, history_lines, oldest) = shared.history.held();
        let queues = self.queue_totals();
        let by = |names: &[&'static str], counts: &[AtomicU64]| {
            names.iter().copied().zip(counts.iter().map(load)).collect::<BTreeMap<_, _>>()
        };
        let rejected = by(&RejectReason::ALL.map(RejectReason::as_str), &ledger.rejected);
        let dropped = by(&Reason::NAMES, &ledger.queue_dropped);
        let age = |since: Option<Instant>| since.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        Stats {
            lines_received: load(&ledger.received),
            lines_accepted: load(&ledger.accepted),
            lines_filtered: load(&ledger.filtered),
            lines_unrouted: load(&ledger.unrouted),
            lines_rejected: rejected.values().sum(),
            lines_rejected_by_reason: rejected,
            lines_repaired: load(&ledger.repaired),
            queue_lines_in: load(&ledger.queue_in),
            queue_lines_delivered: load(&ledger.queue_delivered),
            queue_lines_dropped: dropped.values().sum(),
            queue_lines_dropped_by_reason: dropped,
            queue_lines: queues.lines,
            queue_bytes: queues.bytes,
            viewer_skipped_lines: load(&ledger.viewer_skipped),
            viewers: load(&ledger.viewers),
            machines: shared.seen.load(Relaxed) as u64,
            subscriptions: shared.subscriptions.load(Relaxed) as u64,
            history_lines,
            history_bytes: history_bytes as u64,
            history_seconds: age(oldest),
            memory_used_bytes: shared.budget.used() as u64,
            memory_budget_bytes: shared.budget.limit() as u64,
            oldest_entry_age_seconds: age([queues.oldest, shared.outlets.oldest()].into_iter().flatten().min()),
            sinks: shared.outlets.stats(),
        }
    }

    /// Lines that queues have dropped so far; cheaper than [`LogCollector::stats`].
    pub(crate) fn queue_lines_dropped(&self) -> u64 {
        self.shared.ledger.queue_dropped.iter().map(|counter| counter.load(Relaxed)).sum()
    }

    pub(super) fn queue_totals(&self) -> QueueFacts {
        // Not under the roster's lock: facts take each queue's own.
        let queues: Vec<_> = self.shared.roster.lock().iter().map(|(_, queue)| Arc::clone(queue)).collect();
        queues.iter().map(|queue| queue.facts()).fold(QueueFacts::default(), |sum, queue| QueueFacts {
            lines: sum.lines + queue.lines,
            bytes: sum.bytes + queue.bytes,
            oldest: [sum.oldest, queue.oldest].into_iter().flatten().min(),
            ..sum
        })
    }

    /// Facts of one machine, or `None` if it was never seen.
    #[must_use]
    pub fn machine_facts(&self, machine_id: &str) -> Option<MachineFacts> {
        let machine = self.known(machine_id)?;
        self.facts_of(&machine, Instant::now())
    }

    /// Facts of every machine seen, in no order.
    #[must_use]
    pub fn all_machine_facts(&self) -> Vec<MachineFacts> {
        let now = Instant::now();
        self.all_machines().iter().filter_map(|machine| self.facts_of(machine, now)).collect()
    }

    /// The machines with most lines in about the last five minutes, at most `count` of them.
    #[cfg(feature = "server")]
    pub(crate) fn loudest_machines(&self, count: usize) -> Vec<MachineFacts> {
        let now = Instant::now();
        let elapsed = now.duration_since(self.shared.started);
        let mut ranked: Vec<_> = self
            .shared
            .table
            .iter()
            .filter_map(|entry| {
                let state = entry.key().0.state.lock();
                state.seen.map(|_| (state.recent.total(elapsed, RANK_WINDOW) as u64, Arc::clone(&entry.key().0)))
            })
            .collect();
        if ranked.len() > count && count > 0 {
            ranked.select_nth_unstable_by_key(count - 1, |(lines, _)| std::cmp::Reverse(*lines));
        }
        ranked.truncate(count);
        ranked.iter().filter_map(|(_, machine)| self.facts_of(machine, now)).collect()
    }

    /// Shows every machine seen to `visit`, in no order: a million facts at once would be half a gigabyte.
    #[cfg(feature = "server")]
    pub(crate) fn visit_machines(&self, visit: impl FnMut(MachineFacts)) {
        let now = Instant::now();
        self.all_machines().iter().filter_map(|machine| self.facts_of(machine, now)).for_each(visit);
    }

    pub(super) fn all_machines(&self) -> Vec<Arc<Machine>> {
        self.shared.table.iter().map(|entry| Arc::clone(&entry.key().0)).collect()
    }

    fn facts_of(&self, machine: &Machine, now: Instant) -> Option<MachineFacts> {
        let state = machine.state.lock();
        let since_start = Duration::from_secs(u64::from(state.seen?.get() - 1));
        let elapsed = now.duration_since(self.shared.started);
        let next_seq = machine.trail.load().next_seq;
        let queue = state.queue.as_ref().map(|queue| queue.facts()).unwrap_or_default();
        let terms = state.live_queue().map(|queue| queue.terms);
        let per_second = |window: Window| window.total(elapsed, RATE_WINDOW) / RATE_WINDOW.as_secs_f64();
        Some(MachineFacts {
            machine_id: machine.id.to_string(),
            state: if state.ended().is_some() { "finished" } else { "live" },
            finishes_at: state.finishes_at().map(|at| self.shared.time_of(at).to_string()),
            app_name: state.app().to_owned(),
            region: state.region().to_owned(),
            lines: next_seq - FIRST_SEQ,
            bytes: state.bytes,
            dropped: state.dropped_before + queue.dropped,
            lines_per_second: per_second(state.rate),
            bytes_per_second: per_second(state.rate_bytes),
            lines_recent: state.recent.total(elapsed, RANK_WINDOW) as u64,
            subscribed: terms.is_some(),
            streams: terms.map(|terms| terms.streams.to_string()),
            full: terms.map(|terms| terms.full.as_str()),
            queue_lines: queue.lines,
            queue_bytes: queue.bytes,
            queue_behind: queue.behind,
            readers: queue.readers,
            lag_seconds: queue.oldest.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64()),
            latency_p50_seconds: queue.latency_p50_seconds,
            latency_p99_seconds: queue.latency_p99_seconds,
            first_seen: self.shared.time_of(self.shared.started + since_start),
            last_seen: (next_seq > FIRST_SEQ).then(|| self.shared.time_of(state.touched).to_string()),
        })
    }
}
