//! `fly.toml`: keys that Fly knows, settings that the drain knows, and nothing that listens in public.

use toml::{Table, Value};

use super::{read, seconds};
use crate::support::drain::run;

/// Every key that flyctl reads (its `internal/appconfig`, `Config` and what is in it) as far as our files use them; `*` is any name.
const KEYS: [&str; 32] = [
    "app",
    "primary_region",
    "kill_signal",
    "kill_timeout",
    "build.dockerfile",
    "build.ignorefile",
    "build.image",
    "build.build-target",
    "build.args.*",
    "deploy.strategy",
    "deploy.wait_timeout",
    "env.*",
    "mounts.source",
    "mounts.destination",
    "mounts.initial_size",
    "mounts.snapshot_retention",
    "mounts.auto_extend_size_threshold",
    "mounts.auto_extend_size_increment",
    "mounts.auto_extend_size_limit",
    "vm.size",
    "vm.memory",
    "restart.policy",
    "restart.retries",
    "checks.*.port",
    "checks.*.type",
    "checks.*.interval",
    "checks.*.timeout",
    "checks.*.grace_period",
    "checks.*.method",
    "checks.*.path",
    "metrics.port",
    "metrics.path",
];

fn keys(table: &Table, above: &str, found: &mut Vec<String>) {
    for (name, value) in table {
        let is_free = matches!(above, "env." | "checks." | "build.args.");
        let key = format!("{above}{}", if is_free { "*" } else { name });
        match value {
            Value::Table(table) => keys(table, &format!("{key}."), found),
            Value::Array(all) if all.iter().all(Value::is_table) => {
                all.iter().filter_map(Value::as_table).for_each(|table| keys(table, &format!("{key}."), found));
            }
            _ => found.push(key),
        }
    }
}

fn parsed(path: &str) -> Table {
    read(path).parse().unwrap()
}

/// The drain's variables of `fly.toml`, as the machine has them.
fn env(fly: &Table) -> Vec<(String, String)> {
    let set =
        fly["env"].as_table().unwrap().iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
    set.chain([("FLY_APP_NAME".to_owned(), "fleetdrain".to_owned())]).collect()
}

fn validate(env: &[(String, String)], more: &[(&str, &str)]) -> (i32, String, String) {
    let env: Vec<_> =
        env.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(more.iter().copied()).collect();
    run(&["validate"], &env)
}

#[test]
fn every_key_is_one_that_fly_reads() {
    for path in ["deploy/fly.toml", "deploy/senders/fly-log-shipper.toml"] {
        let mut found = Vec::new();
        keys(&parsed(path), "", &mut found);
        assert!(found.len() > 5);
        for key in found {
            assert!(KEYS.contains(&key.as_str()), "{path}: {key}");
        }
    }
}

#[test]
fn every_setting_of_fly_toml_is_the_drains() {
    let env = env(&parsed("deploy/fly.toml"));
    let tokens = [("FLEETDRAIN_INGEST__TOKEN", "senders"), ("FLEETDRAIN_CONTROL__TOKEN", "readers")];
    let (exit, out, err) = validate(&env, &tokens);
    assert_eq!((exit, err.as_str()), (0, ""), "{out}");
    for (name, value) in &env {
        let Some(key) = name.strip_prefix("FLEETDRAIN_") else { continue };
        let key = key.to_lowercase().replacen("__", ".", 1);
        let line = out.lines().find(|line| line.starts_with(&key)).unwrap_or_else(|| panic!("{key}: {out}"));
        assert_eq!(line.split_whitespace().last(), Some("env"), "{value} is not in force: {line}");
    }
    let (exit, _, err) = validate(&env, &[]);
    assert_eq!(exit, 78, "without a control token it does not start: {err}");
    let fly = [("FLEETDRAIN_FLY__ORG", "my-org"), ("FLEETDRAIN_FLY__TOKEN", "x"), ("FLEETDRAIN_FLY__ENABLED", "true")];
    let (exit, out, err) = validate(&env, &[&tokens[..], &fly[..]].concat());
    assert_eq!(exit, 0, "{out}{err}");
}

#[test]
fn nothing_listens_in_public_and_nothing_stops_the_machine() {
    let fly = parsed("deploy/fly.toml");
    for service in ["http_service", "services"] {
        assert!(!fly.contains_key(service), "{service}");
    }
    let at = |section: &str, key: &str| fly[section][key].as_integer().unwrap();
    assert_eq!(fly["env"]["FLEETDRAIN_CONTROL__LISTEN"].as_str(), Some("[::]:8081"));
    assert_eq!(at("metrics", "port"), 8081);
    assert_eq!(fly["checks"]["ready"]["port"].as_integer(), Some(8081));
    assert_eq!(fly["checks"]["ready"]["path"].as_str(), Some("/readyz"));
}

#[test]
fn the_drain_has_the_time_to_end_before_it_is_killed() {
    let fly = parsed("deploy/fly.toml");
    let deadline = seconds(fly["env"]["FLEETDRAIN_SHUTDOWN__DEADLINE"].as_str().unwrap());
    assert_eq!((seconds(fly["kill_timeout"].as_str().unwrap()), deadline), (60, 55));
    assert_eq!(fly["kill_signal"].as_str(), Some("SIGTERM"));
}

#[test]
fn the_spool_is_on_the_volume_and_fits_it() {
    let fly = parsed("deploy/fly.toml");
    let mount = fly["mounts"][0].as_table().unwrap();
    let (dir, bytes) = (&fly["env"]["FLEETDRAIN_SPOOL__DIR"], &fly["env"]["FLEETDRAIN_SPOOL__BYTES_MAX"]);
    assert!(dir.as_str().unwrap().starts_with(&format!("{}/", mount["destination"].as_str().unwrap())));
    assert_eq!((bytes.as_str(), mount["initial_size"].as_str()), (Some("8GiB"), Some("10gb")));
}
