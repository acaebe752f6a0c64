//! One scrape: the rooms' integers in, Prometheus text out.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, Gauge, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::{
    catalogue::{
        FAMILIES, Family, Kind, REJECT_REASONS, ReadCounter, ReadCounters, ReadGauge, ReadGauges, SOURCE_REASONS,
        SPOOL_REASONS, Source,
    },
    histogram::Histogram,
    process,
    text::{write_head, write_sample},
};
use crate::{collector::SinkStats, journal::UncleanStop};

macro_rules! reasons {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub(crate) enum $type { $($(#[$variant_doc])* $variant),* }

        impl $type {
            pub(crate) const NAMES: [&str; [$($name),*].len()] = [$($name),*];
        }
    };
}

reasons! {
    /// Why a whole body was refused: the closed set of the contract, what cannot happen yet included.
    BodyRefusal {
        Unauthorized = "unauthorized",
        BadRequest = "bad_request",
        TooSlow = "too_slow",
        TooLarge = "too_large",
        UnsupportedEncoding = "unsupported_encoding",
        QueueFull = "queue_full",
        Memory = "memory",
        Spool = "spool",
        Jetstream = "jetstream",
        ShuttingDown = "shutting_down",
    }
}

impl BodyRefusal {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; Self::NAMES.len()] = [
        Self::Unauthorized,
        Self::BadRequest,
        Self::TooSlow,
        Self::TooLarge,
        Self::UnsupportedEncoding,
        Self::QueueFull,
        Self::Memory,
        Self::Spool,
        Self::Jetstream,
        Self::ShuttingDown,
    ];

    /// The name in answers and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

reasons! {
    /// Which listener a request came to.
    Listener {
        Ingest = "ingest",
        Control = "control",
    }
}

/// What the rooms have counted, at one moment. Counters never go back from one snapshot to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) config_reload_success: bool,
    pub(crate) unclean_stop: Option<UncleanStop>,
    /// By [`Listener`], in seconds since 1970; 0: it has none.
    pub(crate) certificate_expiry: [f64; Listener::NAMES.len()],
    pub(crate) wire_bytes: u64,
    pub(crate) body_bytes: u64,
    /// By [`BodyRefusal`].
    pub(crate) bodies_refused: [u64; BodyRefusal::NAMES.len()],
    pub(crate) bodies_duplicate: u64,
    pub(crate) lines_received: u64,
    pub(crate) lines_accepted: u64,
    pub(crate) lines_filtered: u64,
    pub(crate) lines_unrouted: u64,
    /// By `RejectReason`.
    pub(crate) lines_rejected: [u64; REJECT_REASONS.len()],
    pub(crate) lines_repaired: u64,
    pub(crate) queue_lines_in: u64,
    pub(crate) queue_lines_delivered: u64,
    /// By [`crate::queue::Reason`].
    pub(crate) queue_lines_dropped: [u64; crate::queue::Reason::NAMES.len()],
    pub(crate) queue_lines: u64,
    pub(crate) queue_bytes: u64,
    pub(crate) oldest_entry_age_seconds: f64,
    pub(crate) memory_used_bytes: u64,
    pub(crate) memory_budget_bytes: u64,
    pub(crate) history_seconds: f64,
    pub(crate) machines_known: u64,
    pub(crate) subscriptions: u64,
    pub(crate) viewers: u64,
    pub(crate) viewer_skipped_lines: u64,
    pub(crate) spool: SpoolSnapshot,
    pub(crate) fly: FlySnapshot,
    /// Every sink.
    pub(crate) sinks: Vec<SinkStats>,
    /// The loudest machines, each once.
    pub(crate) machines: Vec<MachineSeries>,
    /// How many machines are not in `machines`.
    pub(crate) machines_omitted: u64,
}

/// What the spool has counted; all 0 without one.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct SpoolSnapshot {
    pub(crate) lines_in: u64,
    pub(crate) lines_released: u64,
    /// By [`SPOOL_REASONS`].
    #[serde(skip)]
    pub(crate) lines_dropped: [u64; SPOOL_REASONS.len()],
    pub(crate) corrupt_records: u64,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) unsent_bytes: u64,
    pub(crate) budget_bytes: u64,
    pub(crate) segments: u64,
    pub(crate) oldest_age_seconds: f64,
}

/// What the source `fly` has counted; all 0 without it. `messages` = received by the ledger + `lines_dropped` + in hand.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct FlySnapshot {
    /// The source runs.
    pub(crate) enabled: bool,
    pub(crate) connected: bool,
    pub(crate) reconnects: u64,
    pub(crate) slow_consumers: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    /// By [`SOURCE_REASONS`].
    #[serde(skip)]
    pub(crate) lines_dropped: [u64; SOURCE_REASONS.len()],
    pub(crate) canary_sent: u64,
    pub(crate) canary_received: u64,
    pub(crate) canary_lag_seconds: f64,
}

/// One machine's own series. The texts are what a sender wrote.
#[derive(Clone, Debug, Default)]
pub(crate) struct MachineSeries {
    pub(crate) machine: String,
    pub(crate) app: String,
    pub(crate) region: String,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
    pub(crate) queue_lines: u64,
    pub(crate) lag_seconds: f64,
    /// In seconds since 1970.
    pub(crate) first_seen: f64,
    /// Seconds; `None`: nothing was delivered lately.
    pub(crate) latency_p50: Option<f64>,
    pub(crate) latency_p99: Option<f64>,
}

/// The handles behind the catalogue. Local to its owner: nothing is installed for the whole process.
pub(crate) struct Metrics {
    exporter: PrometheusHandle,
    counters: Vec<(Counter, ReadCounter)>,
    counters_by: Vec<(Vec<Counter>, ReadCounters)>,
    gauges: Vec<(Gauge, ReadGauge)>,
    gauges_by: Vec<(Vec<Gauge>, ReadGauges)>,
    requests: [Requests; Listener::NAMES.len()],
    delivery_latency: Arc<Histogram>,
    log_lag: Arc<Histogram>,
    fsync: Arc<Histogram>,
}

impl Metrics {
    /// All families, at 0. The first two histograms are the collector's, the third is the spool's.
    pub(crate) fn new(delivery_latency: Arc<Histogram>, log_lag: Arc<Histogram>, fsync: Arc<Histogram>) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let mut metrics = Self {
            exporter: recorder.handle(),
            counters: Vec::new(),
            counters_by: Vec::new(),
            gauges: Vec::new(),
            gauges_by: Vec::new(),
            requests: [Requests::new(), Requests::new()],
            delivery_latency,
            log_lag,
            fsync,
        };
        for family in FAMILIES {
            metrics.register(&recorder, family);
        }
        metrics
    }

    fn register(&mut self, recorder: &PrometheusRecorder, family: &Family) {
        let labelled = |value: &&'static str| vec![Label::from_static_parts(family.labels[0], value)];
        match family.source {
            Source::Counter(read) => self.counters.push((counter(recorder, family, Vec::new()), read)),
            Source::CounterBy(values, read) => {
                let handles = values.iter().map(|value| counter(recorder, family, labelled(value))).collect();
                self.counters_by.push((handles, read));
            }
            Source::Gauge(read) => self.gauges.push((gauge(recorder, family, Vec::new()), read)),
            Source::GaugeBy(values, read) => {
                let handles = values.iter().map(|value| gauge(recorder, family, labelled(value))).collect();
                self.gauges_by.push((handles, read));
            }
            Source::Build => {
                let version = Label::from_static_parts(family.labels[0], env!("CARGO_PKG_VERSION"));
                gauge(recorder, family, vec![version]).set(1.0);
            }
            Source::Written => {}
        }
    }

    /// Counts one answered request. `took`: from its head to the head of its answer, so that a stream's length is not in it.
    pub(crate) fn answered(&self, listener: Listener, status: u16, took: Duration) {
        self.requests[listener as usize].record(status, took);
    }

    /// Everything as Prometheus text, version 0.0.4, families in the catalogue's order.
    pub(crate) fn render(&self, snapshot: &Snapshot) -> String {
        self.set(snapshot);
        let exported = self.exporter.render();
        let mut exported = by_family(&exported);
        let process = process::read();
        let mut out = String::with_capacity(16 << 10);
        for family in FAMILIES {
            match exported.remove(family.name) {
                Some(mut lines) => {
                    // Comments sort before samples, HELP before TYPE: `#` is less than any letter.
                    lines.sort_unstable();
                    lines.iter().for_each(|line| out.extend([line, "\n"]));
                }
                None => self.write(family, snapshot, &process, &mut out),
            }
        }
        out
    }

    /// Gives the exporter's handles their values.
    fn set(&self, snapshot: &Snapshot) {
        for (counter, read) in &self.counters {
            counter.absolute(read(snapshot));
        }
        for (counters, read) in &self.counters_by {
            counters.iter().zip(read(snapshot)).for_each(|(counter, &value)| counter.absolute(value));
        }
        for (gauge, read) in &self.gauges {
            gauge.set(read(snapshot));
        }
        for (gauges, read) in &self.gauges_by {
            gauges.iter().zip(read(snapshot)).for_each(|(gauge, &value)| gauge.set(value));
        }
    }

    /// Writes a family that the exporter does not have.
    fn write(&self, family: &Family, snapshot: &Snapshot, process: &[(&str, f64)], out: &mut String) {
        let &Family { name, kind, help, .. } = family;
        if let Some((_, value)) = process.iter().find(|(process_name, _)| *process_name == name) {
            write_head(out, name, kind.as_str(), help);
            return write_sample(out, name, &[], value);
        }
        if name.starts_with("process_") {
            return;
        }
        write_head(out, name, kind.as_str(), help);
        match (name, kind) {
            ("fleetdrain_http_requests_total", _) => {
                let listeners = Listener::NAMES.iter().zip(&self.requests);
                listeners.for_each(|(listener, requests)| requests.write_codes(name, listener, out));
            }
            ("fleetdrain_http_request_duration_seconds", _) => {
                for (listener, requests) in Listener::NAMES.iter().zip(&self.requests) {
                    write_histogram(name, &[("listener", listener)], &requests.durations, out);
                }
            }
            ("fleetdrain_source_lines_dropped_total", _) => {
                for (reason, lines) in SOURCE_REASONS.iter().zip(snapshot.fly.lines_dropped) {
                    write_sample(out, name, &[("source", "fly"), ("reason", reason)], lines);
                }
            }
            ("fleetdrain_delivery_latency_seconds", _) => write_histogram(name, &[], &self.delivery_latency, out),
            ("fleetdrain_log_lag_seconds", _) => write_histogram(name, &[], &self.log_lag, out),
            ("fleetdrain_spool_fsync_seconds", _) => write_histogram(name, &[], &self.fsync, out),
            (name, _) if name.starts_with("fleetdrain_sink_") => {
                snapshot.sinks.iter().for_each(|sink| write_sink(sink, name, out));
            }
            (_, Kind::Summary) => snapshot.machines.iter().for_each(|machine| machine.write_quantiles(name, out)),
            _ => snapshot.machines.iter().for_each(|machine| machine.write(name, out)),
        }
    }
}

fn write_sink(sink: &SinkStats, name: &str, out: &mut String) {
    let label = ("sink", sink.name.as_str());
    if name == "fleetdrain_sink_lines_dropped_total" {
        for (reason, lines) in &sink.lines_dropped_by_reason {
            write_sample(out, name, &[label, ("reason", reason)], lines);
        }
        return;
    }
    let value = match name {
        "fleetdrain_sink_lines_in_total" => sink.lines_in as f64,
        "fleetdrain_sink_lines_filtered_total" => sink.lines_filtered as f64,
        "fleetdrain_sink_lines_delivered_total" => sink.lines_delivered as f64,
        "fleetdrain_sink_lines_in_flight" => sink.lines_in_flight as f64,
        "fleetdrain_sink_retries_total" => sink.retries as f64,
        "fleetdrain_sink_lag_seconds" => sink.lag_seconds,
        _ => sink.last_success_timestamp_seconds.unwrap_or(0.0),
    };
    write_sample(out, name, &[label], value);
}

fn counter(recorder: &PrometheusRecorder, family: &Family, labels: Vec<Label>) -> Counter {
    recorder.describe_counter(KeyName::from_const_str(family.name), Some(family.unit), family.help.into());
    recorder.register_counter(&Key::from_parts(family.name, labels), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, family: &Family, labels: Vec<Label>) -> Gauge {
    recorder.describe_gauge(KeyName::from_const_str(family.name), Some(family.unit), family.help.into());
    recorder.register_gauge(&Key::from_parts(family.name, labels), &METADATA)
}

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// The exporter's lines by family; it sets families apart with empty lines and begins each with a comment that names it.
fn by_family(text: &str) -> HashMap<&str, Vec<&str>> {
    let blocks = text.split("\n\n").filter(|block| !block.is_empty());
    blocks.filter_map(|block| Some((block.split(' ').nth(2)?, block.lines().collect()))).collect()
}

/// The requests of one listener.
struct Requests {
    /// By status, from 100.
    codes: Box<[AtomicU64; 500]>,
    durations: Histogram,
}

impl Requests {
    /// Shown from the start, though nobody was answered so yet: what the contract answers to senders and readers.
    const USUAL: [u16; 16] = [200, 201, 202, 204, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 503];

    fn new() -> Self {
        Self { codes: Box::new([const { AtomicU64::new(0) }; 500]), durations: Histogram::new(Histogram::REQUEST) }
    }

    fn record(&self, status: u16, took: Duration) {
        // What is no status is the server's fault.
        let status = if (100..600).contains(&status) { status } else { 500 };
        self.codes[usize::from(status - 100)].fetch_add(1, Ordering::Relaxed);
        self.durations.record(took);
    }

    fn write_codes(&self, name: &str, listener: &str, out: &mut String) {
        for (code, requests) in (100_u16..).zip(self.codes.iter()) {
            let requests = requests.load(Ordering::Relaxed);
            if requests > 0 || Self::USUAL.contains(&code) {
                write_sample(out, name, &[("listener", listener), ("code", &code.to_string())], requests);
            }
        }
    }
}

fn write_histogram(name: &str, labels: &[(&str, &str)], histogram: &Histogram, out: &mut String) {
    let counted = histogram.counted();
    let bucket = format!("{name}_bucket");
    for (bound, count) in counted.buckets {
        write_sample(out, &bucket, &[labels, &[("le", &bound.to_string())]].concat(), count);
    }
    write_sample(out, &bucket, &[labels, &[("le", "+Inf")]].concat(), counted.count);
    write_sample(out, &format!("{name}_sum"), labels, counted.sum);
    write_sample(out, &format!("{name}_count"), labels, counted.count);
}

impl MachineSeries {
    fn labels(&self) -> [(&str, &str); 3] {
        [("machine", &self.machine), ("source_app", &self.app), ("source_region", &self.region)]
    }

    fn write(&self, name: &str, out: &mut String) {
        let value = match name {
            "fleetdrain_machine_lines_total" => self.lines as f64,
            "fleetdrain_machine_bytes_total" => self.bytes as f64,
            "fleetdrain_machine_dropped_total" => self.dropped as f64,
            "fleetdrain_machine_lag_seconds" => self.lag_seconds,
            "fleetdrain_machine_first_seen_timestamp_seconds" => self.first_seen,
            _ => self.queue_lines as f64,
        };
        write_sample(out, name, &self.labels(), value);
    }

    fn write_quantiles(&self, name: &str, out: &mut String) {
        for (quantile, seconds) in [("0.5", self.latency_p50), ("0.99", self.latency_p99)] {
            if let Some(seconds) = seconds {
                let [machine, app, region] = self.labels();
                write_sample(out, name, &[machine, app, region, ("quantile", quantile)], seconds);
            }
        }
    }
}
