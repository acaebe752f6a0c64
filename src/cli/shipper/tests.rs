use super::*;
use crate::config::{MachineMemory, Sources, load};

fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn translated(variables: &[(&str, &str)]) -> Translation {
    translate(&environment(variables)).expect("something is set")
}

/// What `validate --config` finds wrong with `toml`, with `env` set.
fn mistakes(toml: &str, env: &[(String, String)]) -> Option<String> {
    let memory = MachineMemory { bytes: 8 << 30, from: "cgroup limit" };
    let file = Some((PathBuf::from("fleetdrain.toml"), toml.to_owned()));
    load(&Sources { file, env: env.to_vec(), memory: Some(memory), ..Sources::default() })
        .err()
        .map(|mistakes| mistakes.to_string())
}

/// A value that such a variable might have, and that says which it is.
fn plausible(name: &str) -> String {
    match name {
        "AWS_REGION" => "eu-central-1".to_owned(),
        "S3_SSE" => "AES256".to_owned(),
        "DATADOG_SITE" => "datadoghq.eu".to_owned(),
        "BETTER_STACK_INGESTING_HOST" | "BETTER_STACK_URI" => "s1.eu-nbg-2.betterstackdata.com".to_owned(),
        "NETWORK" => "fdaa:0:abcd".to_owned(),
        "SUBJECT" => "logs.my-app.>".to_owned(),
        name if ["_URL", "_URI", "ENDPOINT", "URL_S3"].iter().any(|end| name.ends_with(end)) => {
            "https://store.example/base/".to_owned()
        }
        name => format!("value-of-{}", name.to_lowercase().replace('_', "-")),
    }
}

fn is_secret(name: &str) -> bool {
    ["TOKEN", "KEY", "PASSWORD", "AUTH", "ACCESS_KEY_ID", "PROJECT_ID"].iter().any(|end| name.ends_with(end))
}

fn read_by_shipper() -> BTreeSet<&'static str> {
    let of = |of: &'static Destination| {
        let needs = of.needs.iter().chain(of.wants).flat_map(|need| need.split('|'));
        let keys = of.keys.iter().chain(of.secrets).flat_map(|(_, template)| names_in(template));
        needs.filter(|need| !need.contains('=')).chain(keys).chain(names_in(of.path))
    };
    let others = NO_COUNTERPART.iter().flat_map(|(names, _)| names.iter().copied());
    DESTINATIONS
        .iter()
        .flat_map(of)
        .chain(others)
        .chain(["ORG", "ACCESS_TOKEN", "SUBJECT", "QUEUE", "NETWORK"])
        .collect()
}

/// What a shell makes of `NAME="expression"` where the shipper's variables are set.
fn in_shell(expression: &str, environment: &BTreeMap<String, String>) -> String {
    let output = std::process::Command::new("sh")
        .args(["-c", &format!("printf %s \"{expression}\"")])
        .env_clear()
        .envs(environment)
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The variables that the comments say to set, to what.
fn secrets_of(toml: &str, environment: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let lines = toml.lines().filter_map(|line| line.strip_prefix("#     ")?.trim_end_matches(" \\").split_once('='));
    lines.map(|(name, value)| (name.to_owned(), in_shell(value.trim_matches('"'), environment))).collect()
}

#[test]
fn every_destination_becomes_a_sink_that_validates_with_and_without_its_secrets() {
    for of in DESTINATIONS {
        let needs = of.needs.iter().chain(of.wants).map(|need| need.split('|').next().unwrap());
        let optional = of.keys.iter().chain(of.secrets).flat_map(|(_, template)| names_in(template));
        for names in [needs.clone().collect::<Vec<_>>(), needs.clone().chain(optional).collect()] {
            let variable = |name: &str| match name.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => (name.to_owned(), plausible(name)),
            };
            let environment: BTreeMap<_, _> = names.iter().map(|name| variable(name)).collect();
            let Translation { toml, .. } = translate(&environment).unwrap();
            assert!(toml.contains(&format!("\n[sinks.{}]\n", of.name)), "{toml}");
            assert_eq!(mistakes(&toml, &[]), None, "{toml}");
            let secrets = secrets_of(&toml, &environment);
            assert!(!secrets.is_empty() || of.name == "quickwit" || of.name == "loki" || of.secrets[0].0 == "PASSWORD");
            assert_eq!(mistakes(&toml, &secrets), None, "{secrets:?}\n{toml}");
        }
    }
}

#[test]
fn no_secret_is_printed_and_nothing_that_is_set_goes_unmentioned() {
    let environment: BTreeMap<_, _> =
        read_by_shipper().into_iter().map(|name| (name.to_owned(), plausible(name))).collect();
    let Translation { toml, notes } = translate(&environment).unwrap();
    assert_eq!(mistakes(&toml, &[]), None, "{toml}");
    let printed = format!("{toml}{}", notes.join("\n"));
    for (name, value) in &environment {
        if is_secret(name) {
            assert!(!printed.contains(value.as_str()), "{name} is printed: {printed}");
        }
    }
    let kinds: BTreeSet<_> = DESTINATIONS.iter().map(|of| of.name).collect();
    assert!(kinds.iter().all(|name| toml.contains(&format!("[sinks.{name}]"))), "{toml}");
    for name in NO_COUNTERPART.iter().flat_map(|(names, _)| *names) {
        assert!(
            notes.iter().any(|note| note.starts_with("no counterpart: ") && note.contains(name)),
            "{name}: {notes:?}"
        );
    }
}

#[test]
fn the_source_is_as_the_shipper_has_it() {
    let all = [
        ("ORG", "my-org"),
        ("ACCESS_TOKEN", "hunter2"),
        ("SUBJECT", "logs.my-app.>"),
        ("QUEUE", "ha"),
        ("NETWORK", "fdaa:0:abcd"),
    ];
    let Translation { toml, notes } = translated(&all);
    for line in [
        "#     FLEETDRAIN_FLY__TOKEN=\"$ACCESS_TOKEN\"",
        "enabled = true",
        "org = \"my-org\"",
        "subjects = [\"logs.my-app.>\"]",
        "queue_group = \"ha\"",
        "url = \"nats://[fdaa:0:abcd::3]:4223\"",
    ] {
        assert!(toml.lines().any(|printed| printed == line), "{line}: {toml}");
    }
    assert_eq!(mistakes(&toml, &[]), None);
    assert!(notes.iter().any(|note| note.starts_with("QUEUE: ")), "{notes:?}");
    let bare = translated(&[("ACCESS_TOKEN", "hunter2")]).toml;
    assert!(bare.contains("org = \"personal\"") && !bare.contains("subjects") && !bare.contains("url"), "{bare}");
}

#[test]
fn what_a_url_may_hold_of_secrets_is_left_out() {
    let Translation { toml, notes } = translated(&[("HTTP_URL", "https://me:hunter2@store.example/in?key=hunter3")]);
    assert!(toml.contains("url = \"https://store.example/in\"\n") && !toml.contains("hunter"), "{toml}");
    assert!(toml.contains("FLEETDRAIN_SINKS__HTTP__URL=\"${HTTP_URL}\""), "{toml}");
    assert!(notes.iter().any(|note| note.contains("FLEETDRAIN_SINKS__HTTP__PASSWORD")), "{notes:?}");
}

#[test]
fn the_stores_own_path_goes_behind_the_users() {
    let url =
        |url| translated(&[("LOKI_URL", url)]).toml.lines().find(|line| line.starts_with("url")).unwrap().to_owned();
    assert_eq!(url("https://loki.example"), "url = \"https://loki.example\"");
    assert_eq!(url("https://loki.example/"), "url = \"https://loki.example/\"");
    assert_eq!(url("https://loki.example/a/"), "url = \"https://loki.example/a/loki/api/v1/push\"");
    assert_eq!(url("https://h/loki/api/v1/push"), "url = \"https://h/loki/api/v1/push\"");
}

#[test]
fn what_is_half_set_is_told_and_nothing_is_no_configuration() {
    let notes = translated(&[("AXIOM_TOKEN", "t"), ("VECTOR_LOG", "debug")]).notes;
    assert!(notes.contains(&"no sink axiom: AXIOM_TOKEN is set without AXIOM_DATASET".to_owned()), "{notes:?}");
    assert!(notes.contains(&"no counterpart: VECTOR_LOG: Vector's own".to_owned()), "{notes:?}");
    assert!(translate(&environment(&[("PATH", "/bin"), ("ORG", " ")])).is_none());
}
