//! The catalogue as a page: `docs/metrics.md` holds what is printed here.

use std::fmt::Write;

use metrics::Unit;

use super::{
    catalogue::{FAMILIES, Family, Kind, SOURCE_REASONS, Source},
    scrape::Listener,
};

/// Why a sink drops lines: the closed set of the contract, which a drain without sinks tells of, too.
const SINK_REASONS: [&str; 4] = ["queue_full", "dead_letter", "limited", "shutdown"];

/// The rows of `docs/metrics.md`: every family with its type, unit, labels and the values that they are closed to, and its help.
pub(crate) fn reference() -> String {
    let mut text = String::from("| family | type | unit | labels | what it is |\n|---|---|---|---|---|\n");
    for family in FAMILIES {
        let Family { name, kind, help, .. } = family;
        let _ = writeln!(text, "| `{name}` | {} | {} | {} | {help} |", kind.as_str(), unit(family), labels(family));
    }
    text
}

fn unit(family: &Family) -> &'static str {
    match family.unit {
        Unit::Bytes => "bytes",
        Unit::Seconds => "seconds",
        _ => "",
    }
}

fn labels(family: &Family) -> String {
    let own = family.labels.iter().map(|label| match closed(family, label) {
        Some(values) => format!("`{label}`: {}", values.join(", ")),
        None => format!("`{label}`"),
    });
    let of_its_kind = match family.kind {
        Kind::Histogram => Some("`le`".to_owned()),
        Kind::Summary => Some("`quantile`: 0.5, 0.99".to_owned()),
        Kind::Counter | Kind::Gauge => None,
    };
    own.chain(of_its_kind).collect::<Vec<_>>().join("; ")
}

/// All values that a label can have; `None` where others choose them: senders, an operator, HTTP.
fn closed(family: &Family, label: &str) -> Option<&'static [&'static str]> {
    match family.source {
        // One label makes such a family.
        Source::CounterBy(values, _) | Source::GaugeBy(values, _) => Some(values),
        _ => match (family.name, label) {
            (_, "listener") => Some(&Listener::NAMES),
            ("fleetdrain_source_lines_dropped_total", "source") => Some(&["fly"]),
            ("fleetdrain_source_lines_dropped_total", "reason") => Some(&SOURCE_REASONS),
            ("fleetdrain_sink_lines_dropped_total", "reason") => Some(&SINK_REASONS),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_holds_the_catalogue() {
        let page = include_str!("../../docs/metrics.md");
        assert!(
            page.contains(&reference()),
            "put the output of `fleetdrain config --metrics-markdown` into docs/metrics.md"
        );
    }

    #[cfg(feature = "sinks")]
    #[test]
    fn the_reasons_of_sinks_are_theirs() {
        assert_eq!(SINK_REASONS, crate::collector::outlet::SinkReason::NAMES);
    }

    #[test]
    fn a_closed_label_is_told_with_its_values() {
        let text = reference();
        assert!(text.contains("`reason`: line_too_long, too_deep, malformed_json, not_an_object, no_machine_id |"));
        assert!(text.contains("`listener`: ingest, control; `le` |"));
        assert!(text.contains("| `sink`; `reason`: queue_full, dead_letter, limited, shutdown |"));
        assert!(text.contains("| `source`: fly; `reason`: own_app, overflow |"));
        assert!(text.contains("`machine`; `source_app`; `source_region`; `quantile`: 0.5, 0.99 |"));
    }
}
