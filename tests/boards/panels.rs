//! What single panels say of series that are made up: promtool asks their queries as Grafana would for the last hour of two.

use std::{fmt::Write, fs, process::Command};

use crate::{board_queries, filled_in, scratch};

/// Tests of promtool, as it reads them.
struct Cases(String);

impl Cases {
    /// `told` is what the panel is to say; `None`: nothing.
    fn add(&mut self, board: &str, panel: &str, series: &[(String, String)], labels: &str, told: Option<u32>) {
        let place = format!("{board}.json: \"{panel}\"");
        let query = board_queries(board).into_iter().find(|query| query.place == place).unwrap();
        let hour = query.expr.replace("$__range_s", "3600").replace("$__range", "1h");
        let samples = told.map_or(String::new(), |told| format!("{{ labels: '{{{labels}}}', value: {told} }}"));
        self.0.push_str("  - interval: 1m\n    input_series:\n");
        for (name, values) in series {
            let _ = writeln!(self.0, "      - series: '{name}'\n        values: '{values}'");
        }
        let (expr, at) = (filled_in(&hour), "eval_time: 2h");
        let _ = writeln!(self.0, "    promql_expr_test: [{{ expr: '{expr}', {at}, exp_samples: [{samples}] }}]");
    }

    fn hold(&self, name: &str) {
        let dir = scratch(&format!("panels-{name}"));
        fs::write(dir.join("cases.yml"), format!("evaluation_interval: 1m\ntests:\n{}", self.0)).unwrap();
        let output = Command::new("promtool").args(["test", "rules", "cases.yml"]).current_dir(&dir).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("SUCCESS"), "{said}\n{}", self.0);
        fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
#[ignore = "needs promtool: scripts/test.sh"]
fn a_machine_is_told_what_it_lost_in_the_time_shown_and_no_more() {
    let labels = "machine=\"m2\", source_app=\"app\", source_region=\"lax\"";
    let named = |family: &str| format!("fleetdrain_machine_{family}{{job=\"fleetdrain\",instance=\"d1\",{labels}}}");
    let mut cases = Cases(String::new());
    // When it was first seen, its drops and that time at each minute, and what it lost in the second hour.
    for (dropped, first_seen, told) in [
        // It comes, and loses before anybody has scraped it; or a little later; or is quiet again at the end.
        ("_x89 150x30", "_x89 5400x30", Some(150)),
        ("_x89 0x10 150x20", "_x89 5400x30", Some(150)),
        ("_x89 150x20 _x10", "_x89 5400x20 _x10", Some(150)),
        // It was there, and lost, before it came among the loudest, or was among them all the time.
        ("_x89 1000x30", "_x89 60x30", Some(0)),
        ("1000x120", "60x120", Some(0)),
        ("1000x60 1007x59", "60x120", Some(7)),
        // Nobody has heard of it.
        ("_x120", "_x120", None),
    ] {
        let series = [
            (named("dropped_total"), dropped.to_owned()),
            (named("first_seen_timestamp_seconds"), first_seen.to_owned()),
        ];
        cases.add("machine", "Dropped", &series, "", told);
        cases.add("fleet", "Drops", &series, labels, told);
    }
    cases.hold("drops");
}

#[test]
#[ignore = "needs promtool: scripts/test.sh"]
fn only_a_drain_that_runs_the_source_can_be_without_fly() {
    let drain = |instance: &str, enabled: u8, connected: u8| {
        [("enabled", enabled), ("connected", connected)].map(|(name, value)| {
            let name = format!("fleetdrain_fly_{name}{{job=\"fleetdrain\",instance=\"{instance}\"}}");
            (name, format!("{value}x120"))
        })
    };
    let mut cases = Cases(String::new());
    for (other, told) in [(drain("d2", 0, 0), None), (drain("d2", 1, 1), Some(1)), (drain("d2", 1, 0), Some(0))] {
        let both = [drain("d1", 0, 0), other].concat();
        cases.add("overview", "Connected", &both, "", told);
    }
    cases.hold("fly");
}

#[test]
#[ignore = "needs promtool: scripts/test.sh"]
fn what_the_spool_lets_go_of_by_age_or_for_want_of_room_is_not_lost() {
    let gone = [("expired", "0+600x120"), ("full", "0+600x120"), ("corrupt", "0+1x120")].map(|(reason, values)| {
        let labels = format!("{{job=\"fleetdrain\",instance=\"d1\",reason=\"{reason}\"}}");
        (format!("fleetdrain_spool_lines_dropped_total{labels}"), values.to_owned())
    });
    let mut cases = Cases(String::new());
    for panel in ["Lost", "Lost, in all", "Damaged in the spool"] {
        cases.add("overview", panel, &gone, "", Some(60));
    }
    cases.hold("spool");
}

#[test]
#[ignore = "needs promtool: scripts/test.sh"]
fn an_unclean_stop_is_shown_while_the_start_behind_it_is() {
    let drain = |instance: &str, stop: u8, lines: u32, started: u32| {
        let labels = format!("{{job=\"fleetdrain\",instance=\"{instance}\"}}");
        [
            (format!("fleetdrain_unclean_stop{labels}"), format!("{stop}x120")),
            (format!("fleetdrain_unclean_stop_lines{labels}"), format!("{lines}x120")),
            (format!("process_start_time_seconds{labels}"), format!("{started}x120")),
        ]
    };
    let mut cases = Cases(String::new());
    let all = [drain("d1", 1, 12, 5400), drain("d2", 1, 700, 60), drain("d3", 0, 0, 5400)].concat();
    cases.add("overview", "Unclean stops", &all, "", Some(1));
    cases.add("overview", "In memory at an unclean stop", &all, "", Some(12));
    let long_ago = drain("d2", 1, 700, 60);
    cases.add("overview", "Unclean stops", &long_ago, "", Some(0));
    cases.hold("stops");
}
