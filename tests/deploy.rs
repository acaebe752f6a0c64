//! The files of `deploy/`, each held to the program and to what owns its format.

#![cfg(all(feature = "cli", feature = "spool"))]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

mod support;

#[path = "deploy/fly.rs"]
mod fly;
#[path = "deploy/image.rs"]
mod image;
#[path = "deploy/monitoring.rs"]
mod monitoring;
#[path = "deploy/release.rs"]
mod release;
#[path = "deploy/systemd.rs"]
mod systemd;

use std::{path::PathBuf, process::Command};

/// A path of the sources.
fn source(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(source(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a program says, if it says that something is wrong.
fn passes(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).join("\n");
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// The words of `text` that begin with `start` and go on as a name or path does.
fn words<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(start).map(|(at, _)| {
        let end = text[at..].find(|char: char| !(char.is_ascii_alphanumeric() || "_/.-".contains(char)));
        text[at..].split_at(end.unwrap_or(text.len() - at)).0.trim_end_matches('.')
    })
}

#[test]
fn the_docs_name_files_and_settings_that_there_are() {
    let settings = read("docs/configuration.md");
    for page in ["docs/deploy.md", "docs/fly.md"] {
        let text = read(page);
        for path in ["deploy/", "dashboards/", "scripts/", "tests/"].iter().flat_map(|start| words(&text, start)) {
            assert!(source(path).exists() || path.starts_with("dashboards/fleetdrain"), "{page}: {path}");
        }
        for name in words(&text, "FLEETDRAIN_").filter(|name| name.contains("__")) {
            let key = name.trim_start_matches("FLEETDRAIN_").to_lowercase().replacen("__", ".", 1);
            let is_secret = key.ends_with(".token");
            assert!(is_secret || settings.contains(&format!("| `{key}` |")), "{page}: {name}");
        }
    }
}

/// Whole seconds of `55s` or `15min`.
fn seconds(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.find(|char: char| !char.is_ascii_digit()).unwrap());
    number.parse::<u64>().unwrap() * if unit == "min" { 60 } else { 1 }
}
