//! Every family: name, kind, unit, labels and help, once.

use metrics::Unit;

use super::scrape::{BodyRefusal, Listener, Snapshot};
use crate::queue::Reason as QueueReason;

/// What a family measures, as Prometheus types it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// Where a counter stands in a snapshot.
pub(super) type ReadCounter = fn(&Snapshot) -> u64;
/// Where the counters of one family stand, by its label's values.
pub(super) type ReadCounters = fn(&Snapshot) -> &[u64];
/// Where a gauge stands.
pub(super) type ReadGauge = fn(&Snapshot) -> f64;
/// Where the gauges of one family stand, by its label's values.
pub(super) type ReadGauges = fn(&Snapshot) -> &[f64];

/// Where a family's samples come from at a scrape.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    Counter(ReadCounter),
    /// One counter for each value of the family's label, in the order of the values.
    CounterBy(&'static [&'static str], ReadCounters),
    Gauge(ReadGauge),
    /// One gauge for each value of the family's label, in the order of the values.
    GaugeBy(&'static [&'static str], ReadGauges),
    /// Always 1, with what is built as labels.
    Build,
    /// Written by hand: see `scrape`.
    Written,
}

/// One family of the catalogue.
#[derive(Clone, Copy)]
pub(crate) struct Family {
    /// The whole name, prefix and suffix included.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
    pub(crate) source: Source,
}

/// The names of [`crate::record::RejectReason`], in its order.
pub(crate) const REJECT_REASONS: [&str; 5] =
    ["line_too_long", "too_deep", "malformed_json", "not_an_object", "no_machine_id"];

/// Why lines go from the spool that not every sink has: the closed set of the contract.
pub(crate) const SPOOL_REASONS: [&str; 3] = ["expired", "full", "corrupt"];

/// Why a source's records never reach the ledger: the closed set of the contract.
pub(crate) const SOURCE_REASONS: [&str; 2] = ["own_app", "overflow"];

/// Fly overwrites `app`, `region`, `host` and `instance` when it scrapes: those names would never arrive.
const MACHINE: &[&str] = &["machine", "source_app", "source_region"];

/// Whose name is its own.
const SINK: &[&str] = &["sink"];

use Kind::{Counter, Gauge, Histogram, Summary};
use Source::Written;
use Unit::{Bytes, Count, Seconds};

fn undelivered_at_stop(snapshot: &Snapshot) -> f64 {
    snapshot.unclean_stop.map_or(0.0, |stop| stop.undelivered.map_or(f64::NAN, |lines| lines as f64))
}

macro_rules! family {
    ($name:literal, $kind:expr, $unit:expr, $labels:expr, $source:expr, $help:literal) => {
        Family { name: $name, kind: $kind, unit: $unit, labels: $labels, help: $help, source: $source }
    };
}

/// All families, in the order of a scrape.
#[rustfmt::skip]
pub(crate) const FAMILIES: &[Family] = &[
    family!("fleetdrain_build_info", Gauge, Count, &["version"], Source::Build,
        "Always 1; the version as a label."),
    family!("fleetdrain_config_reload_success", Gauge, Count, &[], Source::Gauge(|s| f64::from(u8::from(s.config_reload_success))),
        "1 if the configuration was last loaded without error, else 0."),
    family!("fleetdrain_unclean_stop", Gauge, Count, &[], Source::Gauge(|s| f64::from(u8::from(s.unclean_stop.is_some()))),
        "1 if the process before this one did not stop by itself and may have lost what was in memory, else 0; 0 where no directory keeps the loss journal."),
    family!("fleetdrain_unclean_stop_lines", Gauge, Count, &[], Source::Gauge(undelivered_at_stop),
        "Acknowledged lines that were in memory alone when that process was last known to live, about a second before, counted for each queue and sink; NaN: nobody knows."),
    family!("fleetdrain_certificate_expiry_timestamp_seconds", Gauge, Seconds, &["listener"], Source::GaugeBy(&Listener::NAMES, |s| &s.certificate_expiry),
        "When a certificate of the listener's chain first expires, in seconds since 1970; 0 where it speaks plainly."),

    family!("fleetdrain_http_requests_total", Counter, Count, &["listener", "code"], Written,
        "Requests answered."),
    family!("fleetdrain_http_request_duration_seconds", Histogram, Seconds, &["listener"], Written,
        "From a request's head to the head of its answer."),
    family!("fleetdrain_wire_bytes_total", Counter, Bytes, &[], Source::Counter(|s| s.wire_bytes),
        "Bytes of bodies as received."),
    family!("fleetdrain_body_bytes_total", Counter, Bytes, &[], Source::Counter(|s| s.body_bytes),
        "Bytes of bodies decoded."),
    family!("fleetdrain_bodies_refused_total", Counter, Count, &["reason"], Source::CounterBy(&BodyRefusal::NAMES, |s| &s.bodies_refused),
        "Bodies answered 4xx or 5xx, of which nothing was taken."),
    family!("fleetdrain_bodies_duplicate_total", Counter, Count, &[], Source::Counter(|s| s.bodies_duplicate),
        "Bodies repeated with a known Idempotency-Key, and not taken again."),

    family!("fleetdrain_lines_received_total", Counter, Count, &[], Source::Counter(|s| s.lines_received),
        "Records in the bodies that were taken: accepted, filtered, unrouted and rejected."),
    family!("fleetdrain_lines_accepted_total", Counter, Count, &[], Source::Counter(|s| s.lines_accepted),
        "Records that a consumer took charge of."),
    family!("fleetdrain_lines_filtered_total", Counter, Count, &[], Source::Counter(|s| s.lines_filtered),
        "Records with consumers of which none wants them."),
    family!("fleetdrain_lines_unrouted_total", Counter, Count, &[], Source::Counter(|s| s.lines_unrouted),
        "Records without any consumer."),
    family!("fleetdrain_lines_rejected_total", Counter, Count, &["reason"], Source::CounterBy(&REJECT_REASONS, |s| &s.lines_rejected),
        "Records that are none of a machine."),
    family!("fleetdrain_lines_repaired_total", Counter, Count, &[], Source::Counter(|s| s.lines_repaired),
        "Records with invalid UTF-8 or lone surrogates that became U+FFFD."),
    family!("fleetdrain_source_lines_dropped_total", Counter, Count, &["source", "reason"], Written,
        "Records that a source left out or could not hold, and the ledger never received."),
    family!("fleetdrain_fly_enabled", Gauge, Count, &[], Source::Gauge(|s| f64::from(u8::from(s.fly.enabled))),
        "1 while the source fly runs, connected or not."),
    family!("fleetdrain_fly_connected", Gauge, Count, &[], Source::Gauge(|s| f64::from(u8::from(s.fly.connected))),
        "1 while the source fly is connected and subscribed."),
    family!("fleetdrain_fly_reconnects_total", Counter, Count, &[], Source::Counter(|s| s.fly.reconnects),
        "Connections to Fly's NATS after the first."),
    family!("fleetdrain_fly_slow_consumers_total", Counter, Count, &[], Source::Counter(|s| s.fly.slow_consumers),
        "Times that more messages waited than may, and some were dropped."),
    family!("fleetdrain_fly_messages_total", Counter, Count, &[], Source::Counter(|s| s.fly.messages),
        "Messages that came from Fly's NATS, those dropped included."),
    family!("fleetdrain_fly_bytes_total", Counter, Bytes, &[], Source::Counter(|s| s.fly.bytes),
        "Bytes of the messages that were taken."),
    family!("fleetdrain_fly_canary_sent_total", Counter, Count, &[], Source::Counter(|s| s.fly.canary_sent),
        "Canaries written to standard output."),
    family!("fleetdrain_fly_canary_received_total", Counter, Count, &[], Source::Counter(|s| s.fly.canary_received),
        "Canaries that Fly brought back."),
    family!("fleetdrain_fly_canary_lag_seconds", Gauge, Seconds, &[], Source::Gauge(|s| s.fly.canary_lag_seconds),
        "From standard output to us, of the last canary that came back."),
    family!("fleetdrain_log_lag_seconds", Histogram, Seconds, &[], Written,
        "From a record's own timestamp to its receipt."),

    family!("fleetdrain_queue_lines_in_total", Counter, Count, &[], Source::Counter(|s| s.queue_lines_in),
        "Lines offered to queues."),
    family!("fleetdrain_queue_lines_delivered_total", Counter, Count, &[], Source::Counter(|s| s.queue_lines_delivered),
        "Lines taken by a queue's reader."),
    family!("fleetdrain_queue_lines_dropped_total", Counter, Count, &["reason"], Source::CounterBy(&QueueReason::NAMES, |s| &s.queue_lines_dropped),
        "Lines that a queue gave up."),
    family!("fleetdrain_queue_lines", Gauge, Count, &[], Source::Gauge(|s| s.queue_lines as f64),
        "Lines in queues, what is left to catch up included."),
    family!("fleetdrain_queue_bytes", Gauge, Bytes, &[], Source::Gauge(|s| s.queue_bytes as f64),
        "Bytes in queues."),
    family!("fleetdrain_delivery_latency_seconds", Histogram, Seconds, &[], Written,
        "From received to taken by a queue's reader, by groups of lines; of a body with many machines one in eight stands for all."),
    family!("fleetdrain_oldest_entry_age_seconds", Gauge, Seconds, &[], Source::Gauge(|s| s.oldest_entry_age_seconds),
        "How long the oldest queued or unsent entry has waited."),

    family!("fleetdrain_sink_lines_in_total", Counter, Count, SINK, Written,
        "Lines that a sink wants, what is in the spool and unsent included."),
    family!("fleetdrain_sink_lines_filtered_total", Counter, Count, SINK, Written,
        "Lines that a sink does not want."),
    family!("fleetdrain_sink_lines_delivered_total", Counter, Count, SINK, Written,
        "Lines that its store has."),
    family!("fleetdrain_sink_lines_dropped_total", Counter, Count, &["sink", "reason"], Written,
        "Lines that a sink gave up."),
    family!("fleetdrain_sink_lines_in_flight", Gauge, Count, SINK, Written,
        "Lines that a sink wants and its store has not said to have."),
    family!("fleetdrain_sink_retries_total", Counter, Count, SINK, Written,
        "Deliveries that were tried again."),
    family!("fleetdrain_sink_lag_seconds", Gauge, Seconds, SINK, Written,
        "How long ago the oldest of those in flight was received."),
    family!("fleetdrain_sink_last_success_timestamp_seconds", Gauge, Seconds, SINK, Written,
        "When its store last said to have lines, in seconds since 1970; 0: never."),

    family!("fleetdrain_spool_lines_in_total", Counter, Count, &[], Source::Counter(|s| s.spool.lines_in),
        "Lines written to the spool, those found in it at the start included."),
    family!("fleetdrain_spool_lines_released_total", Counter, Count, &[], Source::Counter(|s| s.spool.lines_released),
        "Lines that went from the spool when every sink had them."),
    family!("fleetdrain_spool_lines_dropped_total", Counter, Count, &["reason"], Source::CounterBy(&SPOOL_REASONS, |s| &s.spool.lines_dropped),
        "Lines that went from it before that: for spool.keep (expired) or for want of room (full), which queues and sinks that miss them count as their own, or damaged."),
    family!("fleetdrain_spool_corrupt_records_total", Counter, Count, &[], Source::Counter(|s| s.spool.corrupt_records),
        "Damaged places found in the spool, each of them a batch or more."),
    family!("fleetdrain_spool_lines", Gauge, Count, &[], Source::Gauge(|s| s.spool.lines as f64),
        "Lines in the spool."),
    family!("fleetdrain_spool_bytes", Gauge, Bytes, &[], Source::Gauge(|s| s.spool.bytes as f64),
        "Bytes of the spool on the disk."),
    family!("fleetdrain_spool_unsent_bytes", Gauge, Bytes, &[], Source::Gauge(|s| s.spool.unsent_bytes as f64),
        "Bytes of it that not every sink has."),
    family!("fleetdrain_spool_budget_bytes", Gauge, Bytes, &[], Source::Gauge(|s| s.spool.budget_bytes as f64),
        "The bytes that the spool may take of the disk: spool.bytes_max, or what it has and the volume has free if that is less; 0 without one."),
    family!("fleetdrain_spool_segments", Gauge, Count, &[], Source::Gauge(|s| s.spool.segments as f64),
        "Files that the spool is made of."),
    family!("fleetdrain_spool_oldest_age_seconds", Gauge, Seconds, &[], Source::Gauge(|s| s.spool.oldest_age_seconds),
        "How long ago the oldest batch in the spool was received."),
    family!("fleetdrain_spool_fsync_seconds", Histogram, Seconds, &[], Written,
        "How long each sync of the spool took."),

    family!("fleetdrain_memory_used_bytes", Gauge, Bytes, &[], Source::Gauge(|s| s.memory_used_bytes as f64),
        "Bytes of the budget in use."),
    family!("fleetdrain_memory_budget_bytes", Gauge, Bytes, &[], Source::Gauge(|s| s.memory_budget_bytes as f64),
        "The byte budget."),
    family!("fleetdrain_history_seconds", Gauge, Seconds, &[], Source::Gauge(|s| s.history_seconds),
        "How far the history reaches back."),
    family!("fleetdrain_machines", Gauge, Count, &[], Source::Gauge(|s| s.machines_known as f64),
        "Machines in the table."),
    family!("fleetdrain_subscriptions", Gauge, Count, &[], Source::Gauge(|s| s.subscriptions as f64),
        "Machines with a queue."),
    family!("fleetdrain_viewers", Gauge, Count, &[], Source::Gauge(|s| s.viewers as f64),
        "Open logs and tails."),
    family!("fleetdrain_viewer_skipped_lines_total", Counter, Count, &[], Source::Counter(|s| s.viewer_skipped_lines),
        "Lines that logs and tails were too late for."),

    family!("fleetdrain_machine_lines_total", Counter, Count, MACHINE, Written,
        "Lines of the machines with most lines lately."),
    family!("fleetdrain_machine_bytes_total", Counter, Bytes, MACHINE, Written,
        "Bytes of their records."),
    family!("fleetdrain_machine_dropped_total", Counter, Count, MACHINE, Written,
        "Lines that their queues gave up."),
    family!("fleetdrain_machine_queue_lines", Gauge, Count, MACHINE, Written,
        "Lines in their queues."),
    family!("fleetdrain_machine_lag_seconds", Gauge, Seconds, MACHINE, Written,
        "How long the oldest line in their queues has waited, read or not."),
    family!("fleetdrain_machine_first_seen_timestamp_seconds", Gauge, Seconds, MACHINE, Written,
        "When this process first knew them, and their counters began, in seconds since 1970."),
    family!("fleetdrain_machine_delivery_latency_seconds", Summary, Seconds, MACHINE, Written,
        "From received to taken by their queues' readers."),
    family!("fleetdrain_machine_series_omitted", Gauge, Count, &[], Source::Gauge(|s| s.machines_omitted as f64),
        "Machines without series of their own here; the JSON API has all."),

    family!("process_cpu_seconds_total", Counter, Seconds, &[], Written,
        "User and system processor time."),
    family!("process_resident_memory_bytes", Gauge, Bytes, &[], Written,
        "Resident memory."),
    family!("process_virtual_memory_bytes", Gauge, Bytes, &[], Written,
        "Virtual memory."),
    family!("process_open_fds", Gauge, Count, &[], Written,
        "Open file descriptors."),
    family!("process_max_fds", Gauge, Count, &[], Written,
        "The bound on open file descriptors."),
    family!("process_start_time_seconds", Gauge, Seconds, &[], Written,
        "When the process began, in seconds since 1970."),
    family!("process_threads", Gauge, Count, &[], Written,
        "Threads of the process."),
];
