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

/// Whole seconds of `55s` or `15min`.
fn seconds(text: &str) -> u64 {
    let (number, unit) = text.split_at(text.find(|char: char| !char.is_ascii_digit()).unwrap());
    number.parse::<u64>().unwrap() * if unit == "min" { 60 } else { 1 }
}
