//! Prometheus, Grafana and the senders.

use std::process::Command;

use serde_json::Value;

use super::{passes, read, source};

#[test]
#[ignore = "needs promtool (Debian package prometheus)"]
fn the_scrape_configuration_and_its_rules_are_prometheus() {
    let said =
        passes(Command::new("promtool").args(["check", "config"]).arg(source("deploy/prometheus/prometheus.yml")));
    assert!(said.contains("rules.yml"), "the alerts are loaded with it: {said}");
}

/// A YAML file as the library reads it that most tools are built on.
fn yaml(path: &str) -> Value {
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    serde_json::from_str(&passes(Command::new("python3").args(["-c", script]).arg(source(path)))).unwrap()
}

#[test]
#[ignore = "needs PyYAML"]
fn the_senders_post_to_the_port_that_takes_logs() {
    let vector = yaml("deploy/senders/vector.yaml");
    let sink = &vector["sinks"]["fleetdrain"];
    assert_eq!(sink["uri"], "http://fleetdrain.internal:8080/");
    assert_eq!(sink["inputs"][0], *vector["sources"].as_object().unwrap().keys().next().unwrap());
    // The four encodings that the drain decodes, by the names of Vector.
    assert!(["gzip", "zlib", "zstd", "snappy", "none"].contains(&sink["compression"].as_str().unwrap()));
    let fluent = yaml("deploy/senders/fluent-bit.yaml");
    let output = &fluent["pipeline"]["outputs"][0];
    assert_eq!((&output["host"], &output["port"]), (&"fleetdrain.internal".into(), &8080.into()));
    assert_eq!(output["retry_limit"], "no_limits");
}

#[test]
#[ignore = "needs PyYAML"]
fn grafana_is_given_the_boards_and_a_prometheus() {
    let source = &yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0];
    assert_eq!((&source["type"], &source["access"]), (&"prometheus".into(), &"proxy".into()));
    let provider = &yaml("deploy/grafana/provisioning/dashboards/fleetdrain.yml")["providers"][0];
    assert_eq!(provider["type"], "file");
    assert!(provider["options"]["path"].as_str().unwrap().starts_with('/'));
    let scrape = yaml("deploy/prometheus/prometheus.yml");
    assert_eq!(scrape["scrape_configs"][0]["job_name"], "fleetdrain", "what rules and boards select by");
    assert_eq!(scrape["global"]["scrape_interval"], source["jsonData"]["timeInterval"]);
}

#[test]
fn no_file_of_deploy_holds_a_secret() {
    for path in ["senders/fly-log-shipper.toml", "senders/vector.yaml", "senders/fluent-bit.yaml", "fly.toml"] {
        let text = read(&format!("deploy/{path}"));
        for line in text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.ends_with(':')) {
            let words = ["token:", "token =", "password:", "bearer "];
            let is_secret = words.iter().any(|word| line.to_lowercase().contains(word));
            assert!(!is_secret || line.contains("${"), "{path}: {line}");
        }
    }
}
