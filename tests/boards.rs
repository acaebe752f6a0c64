//! The boards and rules of `dashboards/`: they name what there is, and a real Prometheus answers every one of their queries.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

#[path = "boards/panels.rs"]
mod panels;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use regex::Regex;
use serde_json::Value;
use support::{Client, drain::Drain, fly_record, text};

const BOARDS: [&str; 3] = ["fleet", "machine", "overview"];

fn repo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(repo().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn board(name: &str) -> Value {
    serde_json::from_str(&read(&format!("dashboards/{name}.json"))).unwrap()
}

/// The panels that show something.
fn panels(board: &Value) -> impl Iterator<Item = &Value> {
    board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// One query and where it stands.
#[derive(Debug)]
struct Query {
    place: String,
    expr: String,
    is_alert: bool,
}

fn board_queries(name: &str) -> Vec<Query> {
    let board = board(name);
    let mut queries = Vec::new();
    for panel in panels(&board) {
        for target in panel["targets"].as_array().unwrap() {
            let place = format!("{name}.json: {}", panel["title"]);
            queries.push(Query { place, expr: target["expr"].as_str().unwrap().to_owned(), is_alert: false });
        }
    }
    for annotation in board["annotations"]["list"].as_array().unwrap() {
        let place = format!("{name}.json: {}", annotation["name"]);
        queries.push(Query { place, expr: annotation["expr"].as_str().unwrap().to_owned(), is_alert: true });
    }
    queries
}

/// The rules' expressions, by the one form in which `rules.yml` is written.
fn rule_queries() -> Vec<Query> {
    let rules = read("dashboards/rules.yml");
    let mut queries: Vec<Query> = Vec::new();
    let (mut rule, mut in_block) = (String::new(), false);
    for line in rules.lines() {
        let bare = line.trim();
        if let Some(name) = bare.strip_prefix("- alert: ").or_else(|| bare.strip_prefix("- record: ")) {
            rule = name.to_owned();
            in_block = false;
        } else if let Some(expr) = bare.strip_prefix("expr: ") {
            in_block = expr == "|";
            let expr = if in_block { String::new() } else { expr.to_owned() };
            let is_alert = rule.starts_with("Fleetdrain");
            queries.push(Query { place: format!("rules.yml: {rule}"), expr, is_alert });
        } else if in_block && line.starts_with("          ") {
            let expr = &mut queries.last_mut().unwrap().expr;
            expr.push_str(bare);
            expr.push(' ');
        } else {
            in_block = false;
        }
    }
    let rules = rules.matches("expr:").count();
    assert_eq!(queries.len(), rules);
    assert!(queries.iter().all(|query| !query.expr.is_empty()), "{queries:?}");
    queries
}

fn all_queries() -> Vec<Query> {
    let boards = BOARDS.into_iter().flat_map(board_queries);
    boards.chain(rule_queries()).collect()
}

/// The catalogue as docs/metrics.md has it, which a unit test holds to the code: families with their labels.
fn catalogue() -> BTreeMap<String, BTreeSet<String>> {
    let (row, tick) = (Regex::new("(?m)^\\| `([a-z0-9_]+)` \\|(.*)\\|$").unwrap(), Regex::new("`([a-z_]+)`").unwrap());
    let page = read("docs/metrics.md");
    row.captures_iter(&page)
        .map(|row| {
            let labels = row[2].split('|').nth(2).unwrap();
            (row[1].to_owned(), tick.captures_iter(labels).map(|label| label[1].to_owned()).collect())
        })
        .collect()
}

/// The values that labels are closed to, by family and label, from the same page.
fn closed_labels() -> BTreeMap<(String, String), BTreeSet<String>> {
    let row = Regex::new("(?m)^\\| `([a-z0-9_]+)` \\|(.*)\\|$").unwrap();
    let closed = Regex::new(r"`([a-z_]+)`: ([^;|]+)").unwrap();
    let page = read("docs/metrics.md");
    let rows = row.captures_iter(&page).flat_map(|row| {
        let labels = row[2].split('|').nth(2).unwrap().to_owned();
        let sets = closed.captures_iter(&labels).map(|label| {
            let values = label[2].split(',').map(|value| value.trim().to_owned()).collect();
            ((row[1].to_owned(), label[1].to_owned()), values)
        });
        sets.collect::<Vec<_>>()
    });
    rows.collect()
}

/// The family of a sample's name.
fn family<'a>(name: &'a str, catalogue: &BTreeMap<String, BTreeSet<String>>) -> &'a str {
    let parts = ["_bucket", "_sum", "_count"].into_iter().filter_map(|part| name.strip_suffix(part));
    parts.into_iter().find(|family| catalogue.contains_key(*family)).unwrap_or(name)
}

fn names(expr: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\b(?:fleetdrain|process)_[a-z0-9_]+\b").unwrap();
    name.find_iter(expr).map(|found| found.as_str().to_owned()).collect()
}

fn labels(expr: &str) -> BTreeSet<String> {
    let grouped = Regex::new(r"\bby \(([^)]*)\)").unwrap();
    let matched = Regex::new(r#"[{,]\s*([a-z_]+)\s*(?:=~|!~|!=|=)""#).unwrap();
    let grouped = grouped
        .captures_iter(expr)
        .flat_map(|by| by[1].split(',').map(|label| label.trim().to_owned()).collect::<Vec<_>>());
    grouped.chain(matched.captures_iter(expr).map(|label| label[1].to_owned())).collect()
}

#[test]
fn every_metric_named_exists() {
    let catalogue = catalogue();
    assert!(catalogue.len() > 40, "docs/metrics.md is not read right");
    for Query { place, expr, .. } in all_queries() {
        for name in names(&expr) {
            let family = family(&name, &catalogue);
            assert!(catalogue.contains_key(family), "{place} asks for {name}, which is not in docs/metrics.md");
        }
    }
}

#[test]
fn every_family_is_on_a_board_or_in_a_rule() {
    let catalogue = catalogue();
    let shown: BTreeSet<String> = all_queries().iter().flat_map(|query| names(&query.expr)).collect();
    let shown: BTreeSet<&str> = shown.iter().map(|name| family(name, &catalogue)).collect();
    // Told in other words, or of no interest for itself.
    let elsewhere = [
        "fleetdrain_bodies_duplicate_total",
        "fleetdrain_fly_bytes_total",
        "fleetdrain_fly_messages_total",
        "fleetdrain_lines_repaired_total",
        "process_threads",
        "process_virtual_memory_bytes",
    ];
    let missing: Vec<&String> =
        catalogue.keys().filter(|name| !shown.contains(name.as_str()) && !elsewhere.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_label_used_exists() {
    let catalogue = catalogue();
    for Query { place, expr, .. } in all_queries() {
        let names = names(&expr);
        let mut known: BTreeSet<&str> = ["job", "instance", "way", "le"].into();
        known.extend(
            names.iter().filter_map(|name| catalogue.get(family(name, &catalogue))).flatten().map(String::as_str),
        );
        // What the recording rules keep of what they sum up.
        if expr.contains("fleetdrain:") {
            known.extend(["sink", "source", "reason"]);
        }
        for label in labels(&expr) {
            assert!(known.contains(label.as_str()), "{place} uses {label}: {expr}");
        }
    }
}

#[test]
fn every_label_value_named_exists() {
    let (catalogue, mut closed) = (catalogue(), closed_labels());
    assert!(closed[&("fleetdrain_bodies_refused_total".to_owned(), "reason".to_owned())].contains("too_large"));
    assert!(closed[&("fleetdrain_sink_lines_dropped_total".to_owned(), "reason".to_owned())].contains("dead_letter"));
    let way = Regex::new(r"labels: \{ way: (\w+) \}").unwrap();
    let rules = read("dashboards/rules.yml");
    let ways: BTreeSet<String> = way.captures_iter(&rules).map(|way| way[1].to_owned()).collect();
    assert_eq!(ways.len(), 5);
    closed.insert(("fleetdrain:lines_lost:rate5m".to_owned(), "way".to_owned()), ways);
    let selector = Regex::new(r"([a-zA-Z_][a-zA-Z0-9_:]*)\{([^}]*)\}").unwrap();
    let matcher = Regex::new(r#"([a-z_]+)\s*(?:=~|!~|!=|=)\s*"([^"]*)""#).unwrap();
    let mut named = 0;
    for Query { place, expr, .. } in all_queries() {
        for found in selector.captures_iter(&expr) {
            for (_, [label, value]) in matcher.captures_iter(&found[2]).map(|found| found.extract()) {
                // A board's variable, or what Prometheus is told to call the job.
                if value.starts_with('$') || label == "job" {
                    continue;
                }
                let family = family(&found[1], &catalogue);
                let known = closed.get(&(family.to_owned(), label.to_owned()));
                let known = known.unwrap_or_else(|| panic!("{place}: nothing says what {label} of {family} can be"));
                for one in value.split('|') {
                    assert!(known.contains(one), "{place}: {family} has no {label}=\"{one}\", only {known:?}");
                    named += 1;
                }
            }
        }
    }
    assert!(named > 15, "matchers are not read right: {named}");
}

#[test]
fn only_what_can_be_negative_has_no_floor() {
    let floor = |name, title: &str| {
        let board = board(name);
        let panel = panels(&board).find(|panel| panel["title"] == title).unwrap();
        panel["fieldConfig"]["defaults"]["min"].clone()
    };
    assert_eq!(floor("overview", "Ledger out of balance"), Value::Null);
    assert_eq!(floor("overview", "Canaries missing"), Value::Null);
    assert_eq!(floor("overview", "Lost, in all"), 0);
}

#[test]
fn every_refusal_of_a_body_is_ours_or_the_senders() {
    // Not at fault themselves, gone with this process, and too slow, which senders repeat.
    let ours = ["queue_full", "memory", "spool", "jetstream"];
    let repeated = ["shutting_down", "too_slow"];
    let all = &closed_labels()[&("fleetdrain_bodies_refused_total".to_owned(), "reason".to_owned())];
    let reason = Regex::new(r#"reason=~"([^"]*)""#).unwrap();
    let of = |alert: &str| -> BTreeSet<String> {
        let query = rule_queries().into_iter().find(|query| query.place.ends_with(alert)).unwrap();
        reason.captures(&query.expr).unwrap()[1].split('|').map(str::to_owned).collect()
    };
    let (refusing, turning_away) = (of("FleetdrainRefusing"), of("FleetdrainTurningAway"));
    assert_eq!(refusing, ours.map(str::to_owned).into());
    let told = refusing.union(&turning_away).cloned().chain(repeated.map(str::to_owned));
    assert_eq!(told.collect::<BTreeSet<_>>(), *all);
    assert!(refusing.is_disjoint(&turning_away));
    // The board tells of each.
    let board = board("overview");
    let what =
        panels(&board).find(|panel| panel["title"] == "Refused bodies by reason").unwrap()["description"].clone();
    assert!(all.iter().all(|reason| what.as_str().unwrap().contains(reason)), "{what}");
}

#[test]
fn every_counter_is_asked_for_its_rate() {
    let counter = Regex::new(r"(?:(\w+)\()?\b((?:fleetdrain|process)_[a-z0-9_]+_total)\b").unwrap();
    for Query { place, expr, .. } in all_queries() {
        // The balances compare counters as they stand.
        if place.contains("Ledger out of balance") || place.contains("Damaged places") {
            continue;
        }
        for found in counter.captures_iter(&expr) {
            let function = found.get(1).map_or("", |function| function.as_str());
            // The last two tell what a series that is new began with.
            let functions = ["rate", "increase", "min_over_time", "last_over_time"];
            assert!(functions.contains(&function), "{place}: {expr}");
        }
    }
}

#[test]
fn every_rate_on_a_board_has_the_interval_of_its_scrapes() {
    let range = Regex::new(r"\[([^\]]*)\]").unwrap();
    for Query { place, expr, .. } in BOARDS.into_iter().flat_map(board_queries) {
        for found in range.captures_iter(&expr) {
            let wanted =
                if expr.contains("increase(") && !expr.contains("_bucket") { "$__range" } else { "$__rate_interval" };
            assert_eq!(&found[1], wanted, "{place}: {expr}");
        }
    }
}

#[test]
fn boards_can_be_imported_and_provisioned() {
    let uid = Regex::new(r#""uid": "([^"]*)""#).unwrap();
    for name in BOARDS {
        let board = board(name);
        assert_eq!(board["uid"], format!("fleetdrain-{name}"));
        assert_eq!(board["id"], Value::Null);
        assert!(board["schemaVersion"].as_u64().unwrap() >= 39);
        assert_eq!(board["__inputs"][0]["pluginId"], "prometheus");
        let input = format!("${{{}}}", board["__inputs"][0]["name"].as_str().unwrap());
        let variables = board["templating"]["list"].as_array().unwrap();
        assert_eq!(variables[0]["name"], "datasource");
        assert_eq!((&variables[0]["type"], &variables[0]["query"]), (&"datasource".into(), &"prometheus".into()));
        assert_eq!(variables[0]["current"]["value"], input);
        assert_eq!(board["annotations"]["list"][0]["name"], "Restarts");
        // No data source by its own number, anywhere.
        let written = read(&format!("dashboards/{name}.json"));
        for found in uid.captures_iter(&written) {
            assert!(&found[1] == "${datasource}" || found[1] == format!("fleetdrain-{name}"), "{name}: {}", &found[1]);
        }
        let kinds: BTreeSet<&str> = panels(&board).map(|panel| panel["type"].as_str().unwrap()).collect();
        let required = board["__requires"].as_array().unwrap();
        assert!(kinds.iter().all(|kind| required.iter().any(|one| one["id"] == *kind)), "{name}: {kinds:?}");
        for other in BOARDS.into_iter().filter(|other| *other != name) {
            let url = format!("/d/fleetdrain-{other}");
            assert!(board["links"].as_array().unwrap().iter().any(|link| link["url"] == url), "{name} has no {url}");
        }
    }
}

#[test]
fn every_panel_has_a_unit_a_description_and_a_place_of_its_own() {
    for name in BOARDS {
        let board = board(name);
        let (mut taken, mut ids) = (HashMap::new(), BTreeSet::new());
        for panel in board["panels"].as_array().unwrap() {
            let title = &panel["title"];
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: {title}");
            if panel["type"] != "row" {
                let what = panel["description"].as_str().unwrap_or_default();
                assert!(what.ends_with('.') || what.contains(": "), "{name}: {title}");
                let unit = panel["fieldConfig"]["defaults"]["unit"].as_str();
                assert!(unit.is_some_and(|unit| !unit.is_empty()), "{name}: {title}");
                assert!(!panel["targets"].as_array().unwrap().is_empty(), "{name}: {title}");
            }
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(place("x") + place("w") <= 24, "{name}: {title}");
            for (x, y) in (place("x")..place("x") + place("w"))
                .flat_map(|x| (place("y")..place("y") + place("h")).map(move |y| (x, y)))
            {
                let before = taken.insert((x, y), title);
                assert_eq!(before, None, "{name}: {title} stands on another");
            }
        }
    }
}

#[test]
fn the_ledger_adds_up_every_way_of_losing() {
    let total = board_queries("overview").into_iter().find(|query| query.place.contains("Lost, in all")).unwrap();
    // What leaves the spool by age or for want of room is no loss for itself, nor are this app's own logs.
    for way in [
        "lines_rejected_total{}",
        "queue_lines_dropped_total{}",
        "sink_lines_dropped_total{}",
        "spool_lines_dropped_total{reason=\"corrupt\"}",
        "source_lines_dropped_total{reason!=\"own_app\"}",
    ] {
        let on_board = way.replace('{', "{job=~\"$job\",instance=~\"$drain\",").replace(",}", "}");
        assert!(total.expr.contains(&format!("increase(fleetdrain_{on_board}[")), "{}", total.expr);
        let in_rule = format!("rate(fleetdrain_{}[5m])", way.trim_end_matches("{}"));
        let recorded = rule_queries().into_iter().filter(|query| query.place.contains("lines_lost"));
        assert_eq!(recorded.filter(|query| query.expr.contains(&in_rule)).count(), 1, "{in_rule}");
    }
}

#[test]
fn every_alert_has_its_page_in_the_runbook_and_its_test() {
    let (rules, runbook, tests) =
        (read("dashboards/rules.yml"), read("docs/runbook.md"), read("dashboards/rules_test.yml"));
    let alert = Regex::new(r"- alert: (\w+)").unwrap();
    let alerts: BTreeSet<&str> = alert.captures_iter(&rules).map(|found| found.extract::<1>().1[0]).collect();
    assert!(alerts.len() > 12);
    for alert in &alerts {
        let url =
            format!("https://github.com/fleetdrain/fleetdrain/blob/main/docs/runbook.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&url), "{alert} has no runbook_url");
        assert!(runbook.contains(&format!("\n## {alert}\n")), "{alert} has no page in docs/runbook.md");
        for word in ["fires", "does not fire"] {
            assert!(tests.contains(&format!("- name: {alert} {word}\n")), "{alert} {word}: has no test");
        }
    }
    let section = Regex::new(r"(?m)^## (Fleetdrain\w+)$").unwrap();
    for found in section.captures_iter(&runbook) {
        assert!(alerts.contains(&found[1]), "{} is in the runbook and is no alert", &found[1]);
    }
}

#[test]
#[ignore = "needs python3: scripts/test.sh"]
fn boards_are_what_their_generator_writes() {
    let script = repo().join("dashboards/generate.py");
    let output = Command::new("python3").arg(script).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs grafana-foundation-sdk (PyPI): scripts/test.sh"]
fn grafana_knows_every_key_of_the_boards() {
    let boards = BOARDS.map(|name| format!("dashboards/{name}.json"));
    let mut models = Command::new("python3");
    let output = models.arg("tests/boards/models.py").args(boards).current_dir(repo()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
#[ignore = "needs promtool: scripts/test.sh"]
fn promtool_finds_the_rules_right() {
    for args in [["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]] {
        let output = Command::new("promtool").args(args).current_dir(repo().join("dashboards")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("SUCCESS"), "{args:?}: {said}");
    }
}

struct Prometheus {
    child: Child,
    addr: SocketAddr,
    dir: PathBuf,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Prometheus {
    /// Scrapes `target` as the job of the rules, and evaluates them.
    fn scraping(target: SocketAddr, rules: &Path) -> Self {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dir = scratch(&format!("prometheus-{}", addr.port()));
        let config = dir.join("prometheus.yml");
        let yaml = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\nrule_files: ['{}']\n\
             scrape_configs:\n- job_name: fleetdrain\n  static_configs: [{{targets: ['{target}']}}]\n",
            rules.display()
        );
        fs::write(&config, yaml).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={addr}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, addr, dir }
    }

    /// What a query finds; the server's own words where it cannot run it.
    async fn ask(&self, expr: &str) -> Result<Vec<Value>, String> {
        let path = format!("/api/v1/query?query={}", utf8_percent_encode(expr, NON_ALPHANUMERIC));
        let (_, answer) = Client::connect(self.addr).await.call(Method::GET, &path).await;
        if answer["status"] != "success" {
            return Err(answer.to_string());
        }
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until a query finds something.
    async fn until_found(&self, expr: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if tokio::net::TcpStream::connect(self.addr).await.is_ok()
                && self.ask(expr).await.is_ok_and(|found| !found.is_empty())
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("nothing is found for {expr}");
    }
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("fleetdrain-boards-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// A round of load: two machines, of which one loses; rejects, a refusal, a reader of a queue.
async fn load(drain: &Drain, round: usize) {
    let mut body: Vec<String> = (0..200).map(|line| fly_record("m1", &format!("{round} {line}"))).collect();
    body.extend((0..40).map(|line| fly_record("m2", &format!("{round} {line}"))));
    body.push("{}".to_owned());
    let mut sender = Client::connect(drain.ingest).await;
    let (status, answer) = sender.post(&[], body.join("\n")).await;
    assert_eq!((status, &answer["rejected"]), (StatusCode::OK, &1.into()), "{answer}");
    let (status, _) = Client::connect(drain.ingest).await.post(&[("content-encoding", "br")], "{}").await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let mut queue =
        Client::connect(drain.control).await.get("/api/v1/machines/m2/queue?follow=false&max_lines=20").await;
    while queue.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs prometheus: scripts/test.sh"]
async fn every_query_runs_on_a_real_prometheus_and_finds_what_a_loaded_drain_has() {
    let spool = scratch("spool");
    let drain = Drain::start(&[
        ("FLEETDRAIN_SPOOL__DIR", spool.to_str().unwrap()),
        ("FLEETDRAIN_QUEUE__LINES", "100"),
        ("FLEETDRAIN_SINKS__NOWHERE__TYPE", "null"),
        ("FLEETDRAIN_SINKS__NOWHERE__BATCH_AGE_MAX", "50ms"),
    ]);
    for (machine, full) in [("m1", "drop_oldest"), ("m2", "catch_up")] {
        let path = format!("/api/v1/machines/{machine}?full={full}");
        assert_eq!(Client::connect(drain.control).await.call(Method::PUT, &path).await.0, StatusCode::CREATED);
    }
    let prometheus = Prometheus::scraping(drain.control, &repo().join("dashboards/rules.yml"));
    prometheus.until_found("fleetdrain_build_info").await;
    // Rates need samples before and after; the load goes on until the last of the recording rules has both.
    for round in 0.. {
        load(&drain, round).await;
        let is_recorded =
            "fleetdrain:lines_lost:rate5m{way=\"queue\"} > 0 and on() (fleetdrain:delivery_latency_seconds:p99_5m > 0)";
        if round >= 4 && prometheus.ask(is_recorded).await.is_ok_and(|found| !found.is_empty()) {
            break;
        }
        assert!(round < 200, "nothing is recorded");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    prometheus.until_found("fleetdrain_sink_last_success_timestamp_seconds > 0").await;
    let mut wrong = Vec::new();
    for Query { place, expr, is_alert } in all_queries() {
        let asked = filled_in(&expr);
        match prometheus.ask(&asked).await {
            Err(said) => wrong.push(format!("{place}: {asked}\n    {said}")),
            Ok(found) => {
                // Alerts watch for what a healthy drain does not show, and this one does not run the source.
                let may_be_empty = is_alert || place == "overview.json: \"Connected\"";
                if found.is_empty() && !may_be_empty {
                    wrong.push(format!("{place}: finds nothing: {asked}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What was done to it is seen: it loses, and the ledger says so.
    prometheus.until_found("ALERTS{alertname=\"FleetdrainLosing\",alertstate=\"firing\",way=\"queue\"}").await;
    let ledger = board_queries("overview").into_iter().find(|query| query.place.contains("Lost, in all")).unwrap();
    prometheus.until_found(&format!("({}) > 0", filled_in(&ledger.expr))).await;
    first_loss_is_seen(&drain).await;
    let _ = fs::remove_dir_all(spool);
}

/// A machine's first loss, with which its series begins, is on the boards in full.
async fn first_loss_is_seen(drain: &Drain) {
    let put = "/api/v1/machines/m3?full=drop_oldest";
    assert_eq!(Client::connect(drain.control).await.call(Method::PUT, put).await.0, StatusCode::CREATED);
    // An empty queue takes any one body: the second makes it lose the first.
    for lines in [150, 100] {
        let body: Vec<String> = (0..lines).map(|line| fly_record("m3", &line.to_string())).collect();
        let (status, answer) = Client::connect(drain.ingest).await.post(&[], body.join("\n")).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    // One that has scraped nothing of it before.
    let prometheus = Prometheus::scraping(drain.control, &repo().join("dashboards/rules.yml"));
    prometheus.until_found("fleetdrain_machine_dropped_total{machine=\"m3\"} == 150").await;
    for (name, panel) in [("machine", "Dropped"), ("fleet", "Drops")] {
        let place = format!("{name}.json: \"{panel}\"");
        let query = board_queries(name).into_iter().find(|query| query.place == place).unwrap();
        let expr = query.expr.replace("$machine", "m3").replace("$__range_s", "600").replace("$__range", "10m");
        let found = prometheus.ask(&filled_in(&expr)).await.unwrap();
        let of_m3 = found.iter().find(|one| name == "machine" || one["metric"]["machine"] == "m3");
        assert_eq!(of_m3.map(|one| &one["value"][1]), Some(&"150".into()), "{place}: {found:?}");
    }
    // Nobody reads its queue, and so its lag grows.
    prometheus.until_found("fleetdrain_machine_lag_seconds{machine=\"m3\"} > 0").await;
}

/// A board's expression as Grafana sends it.
fn filled_in(expr: &str) -> String {
    [("$__rate_interval", "1m"), ("$__range_s", "60"), ("$__range", "1m"), ("$job", ".*"), ("$drain", ".*")]
        .into_iter()
        .chain([("$machine", "m2"), ("$app", ".*"), ("$region", ".*"), ("$top", "10")])
        .fold(expr.to_owned(), |expr, (variable, value)| expr.replace(variable, value))
}

#[tokio::test]
async fn the_running_drain_shows_every_family_of_the_catalogue() {
    let drain = Drain::start(&[]);
    let metrics = text(drain.control, "/metrics").await;
    for family in catalogue().keys() {
        assert!(metrics.contains(&format!("# TYPE {family} ")), "{family}");
    }
}
