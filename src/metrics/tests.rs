use std::{
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use super::{catalogue::*, *};
use crate::journal::UncleanStop;

/// The samples of one family: what stands behind its name, and the value.
fn samples<'a>(text: &'a str, name: &str) -> Vec<(&'a str, &'a str)> {
    let series = text.lines().filter_map(|line| line.strip_prefix(name));
    series.filter(|rest| rest.starts_with(['{', ' '])).map(|rest| rest.rsplit_once(' ').unwrap()).collect()
}

fn busy() -> (Metrics, Snapshot) {
    let delivery_latency = Arc::new(Histogram::new(Histogram::LATENCY));
    let metrics = Metrics::new(Arc::clone(&delivery_latency), Arc::new(Histogram::new(Histogram::LAG)), latency());
    metrics.answered(Listener::Ingest, 200, Duration::from_millis(3));
    metrics.answered(Listener::Control, 418, Duration::from_secs(3600));
    metrics.answered(Listener::Control, 9999, Duration::ZERO);
    delivery_latency.record(Duration::from_micros(40));
    let hostile = MachineSeries {
        machine: "a\\b\"} 1\nfleetdrain_machines 666\n\0\r\u{7f}é".to_owned(),
        app: "x".repeat(127) + "é" + &"y".repeat(1 << 20),
        region: String::new(),
        lines: 7,
        dropped: 6,
        queue_lines: 5,
        lag_seconds: 4.5,
        first_seen: 1_800_000_000.25,
        latency_p50: Some(0.25),
        latency_p99: Some(1e-7),
        ..MachineSeries::default()
    };
    let quiet = MachineSeries { machine: "4d891d77b05118".to_owned(), ..MachineSeries::default() };
    let snapshot = Snapshot {
        lines_received: 12,
        queue_lines_dropped: [1, 2, 3, 4, 5],
        memory_used_bytes: 1 << 40,
        history_seconds: 0.5,
        machines: vec![hostile, quiet],
        machines_omitted: 3,
        ..Snapshot::default()
    };
    (metrics, snapshot)
}

fn fresh() -> Metrics {
    Metrics::new(latency(), Arc::new(Histogram::new(Histogram::LAG)), latency())
}

#[test]
fn every_family_is_there_from_the_start_at_0() {
    let text = fresh().render(&Snapshot::default());
    for Family { name, kind, help, labels, .. } in FAMILIES {
        let head = format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str());
        assert_eq!(text.matches(&head).count(), 1, "{name}");
        if name.starts_with("process_")
            || name.ends_with("build_info")
            || labels.iter().any(|label| ["machine", "sink"].contains(label))
        {
            continue;
        }
        let name = if *kind == Kind::Histogram { format!("{name}_count") } else { (*name).to_owned() };
        let samples = samples(&text, &name);
        assert!(!samples.is_empty(), "{name}");
        assert!(samples.iter().all(|(_, value)| *value == "0"), "{name}: {samples:?}");
    }
    assert_eq!(
        samples(&text, "fleetdrain_build_info"),
        [(concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), "1")]
    );
}

#[test]
fn every_closed_label_value_is_there_from_the_start() {
    let text = fresh().render(&Snapshot::default());
    let count = |name| samples(&text, name).len();
    assert_eq!(count("fleetdrain_bodies_refused_total"), 10);
    assert_eq!(count("fleetdrain_lines_rejected_total"), 5);
    assert_eq!(count("fleetdrain_queue_lines_dropped_total"), 5);
    assert_eq!(count("fleetdrain_http_request_duration_seconds_count"), 2);
    for reason in crate::record::RejectReason::ALL {
        assert_eq!(REJECT_REASONS[reason as usize], reason.as_str());
    }
}

#[test]
fn an_unclean_stop_is_told_with_what_is_known_of_it() {
    let told = |unclean_stop| {
        let text = fresh().render(&Snapshot { unclean_stop, ..Snapshot::default() });
        ["", "_lines"].map(|part| samples(&text, &format!("fleetdrain_unclean_stop{part}"))[0].1.to_owned())
    };
    assert_eq!(told(None), ["0", "0"]);
    assert_eq!(told(Some(UncleanStop { undelivered: Some(12) })), ["1", "12"]);
    assert_eq!(told(Some(UncleanStop { undelivered: Some(0) })), ["1", "0"]);
    assert_eq!(told(Some(UncleanStop { undelivered: None })), ["1", "NaN"]);
}

#[test]
fn a_scrape_shows_what_was_counted() {
    let (metrics, snapshot) = busy();
    let text = metrics.render(&snapshot);
    assert_eq!(samples(&text, "fleetdrain_lines_received_total"), [("", "12")]);
    assert_eq!(samples(&text, "fleetdrain_memory_used_bytes"), [("", "1099511627776")]);
    assert_eq!(samples(&text, "fleetdrain_history_seconds"), [("", "0.5")]);
    for (at, reason) in ["queue_full", "history_evicted", "abandoned", "limited", "shutdown"].iter().enumerate() {
        let sample = (format!("{{reason=\"{reason}\"}}"), (at + 1).to_string());
        let dropped = samples(&text, "fleetdrain_queue_lines_dropped_total");
        assert!(dropped.contains(&(&sample.0, &sample.1)), "{sample:?} in {dropped:?}");
    }
    let requests = samples(&text, "fleetdrain_http_requests_total");
    for (labels, value) in [
        ("{listener=\"ingest\",code=\"200\"}", "1"),
        ("{listener=\"control\",code=\"418\"}", "1"),
        ("{listener=\"control\",code=\"500\"}", "1"),
        ("{listener=\"control\",code=\"200\"}", "0"),
    ] {
        assert!(requests.contains(&(labels, value)), "{labels} in {requests:?}");
    }
    assert!(text.contains("fleetdrain_delivery_latency_seconds_bucket{le=\"0.0001\"} 1\n"));
    assert!(text.contains("fleetdrain_delivery_latency_seconds_sum 0.00004\n"));
    assert!(text.contains("fleetdrain_http_request_duration_seconds_bucket{listener=\"control\",le=\"60\"} 1\n"));
    assert!(text.contains("fleetdrain_http_request_duration_seconds_bucket{listener=\"control\",le=\"+Inf\"} 2\n"));
}

#[test]
fn what_a_sender_wrote_stays_inside_its_label() {
    let (metrics, snapshot) = busy();
    let text = metrics.render(&snapshot);
    assert_eq!(samples(&text, "fleetdrain_machines"), [("", "0")]);
    let app = "x".repeat(127);
    let labels = format!(
        "machine=\"a\\\\b\\\"}} 1\\nfleetdrain_machines 666\\n\0\r\u{7f}é\",source_app=\"{app}\",source_region=\"\""
    );
    assert!(text.contains(&format!("\nfleetdrain_machine_lines_total{{{labels}}} 7\n")));
    for (family, value) in [
        ("bytes_total", "0"),
        ("dropped_total", "6"),
        ("queue_lines", "5"),
        ("lag_seconds", "4.5"),
        ("first_seen_timestamp_seconds", "1800000000.25"),
    ] {
        assert!(text.contains(&format!("\nfleetdrain_machine_{family}{{{labels}}} {value}\n")), "{family}");
    }
    assert!(
        text.contains(&format!("\nfleetdrain_machine_delivery_latency_seconds{{{labels},quantile=\"0.5\"}} 0.25\n"))
    );
    assert!(text.contains(&format!("{labels},quantile=\"0.99\"}} 0.0000001\n")));
    assert_eq!(text.matches("quantile=").count(), 2);
}

#[test]
fn two_scrapes_differ_in_nothing_but_the_process() {
    let (metrics, snapshot) = busy();
    let ours = || {
        let text = metrics.render(&snapshot);
        text.lines().filter(|line| !line.starts_with("process_")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(ours(), ours());
}

#[test]
fn names_follow_the_contract() {
    for Family { name, kind, unit, labels, help, .. } in FAMILIES {
        assert!(name.starts_with("fleetdrain_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        let suffix = match unit {
            ::metrics::Unit::Bytes => "_bytes",
            ::metrics::Unit::Seconds => "_seconds",
            _ => "",
        };
        assert!(name.trim_end_matches("_total").ends_with(suffix), "{name}");
        assert!(labels.iter().all(|label| !["app", "region", "host", "instance"].contains(label)), "{name}");
        assert!(!help.contains(['\\', '\n']), "{name}");
    }
    let mut names: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), FAMILIES.len());
}

#[test]
#[ignore = "needs promtool (Debian package prometheus)"]
fn promtool_has_nothing_to_say() {
    for (metrics, snapshot) in [(fresh(), Snapshot::default()), busy()] {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let text = metrics.render(&snapshot);
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
    }
}

fn latency() -> Arc<Histogram> {
    Arc::new(Histogram::new(Histogram::LATENCY))
}
