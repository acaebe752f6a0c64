//! What a release is made of: the script behind its build, and the SBOM.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::{passes, source};

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn sbom() -> String {
    let mut script = Command::new(source("scripts/sbom.py"));
    passes(script.arg(TARGET).current_dir(source("")).env("SOURCE_DATE_EPOCH", "1782000000"))
}

#[test]
fn the_sbom_has_what_is_in_the_binary_and_is_the_same_each_time() {
    let first = sbom();
    assert_eq!(first, sbom());
    let document: serde_json::Value = serde_json::from_str(first.trim()).unwrap();
    assert_eq!(document["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
    let scope = |name: &str| {
        let mut all = document["components"].as_array().unwrap().iter();
        all.find(|one| one["name"] == name).map(|one| one["scope"].as_str().unwrap())
    };
    assert_eq!(
        (scope("hyper"), scope("rustls"), scope("zstd-sys")),
        (Some("required"), Some("required"), Some("required"))
    );
    assert_eq!(scope("syn"), Some("excluded"), "only macros need it");
    assert_eq!(scope("criterion"), None, "only benches need it");
}

#[test]
#[ignore = "needs cyclonedx-python-lib (PyPI)"]
fn the_sbom_is_cyclonedx() {
    let script = "\
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
wrong = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())
sys.exit(str(wrong) if wrong else 0)";
    let file = std::env::temp_dir().join(format!("fleetdrain-sbom-{}.json", std::process::id()));
    std::fs::write(&file, sbom()).unwrap();
    passes(Command::new("python3").args(["-c", script]).arg(&file));
    std::fs::remove_file(file).unwrap();
}

/// What `scripts/release.sh` makes of the binary under test, which stands for the static one that takes minutes to build.
struct Release {
    dir: PathBuf,
    output: Output,
}

impl Release {
    fn make(name: &str, flags: &[&str]) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("release-{name}"));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        // Without what only a debugger needs there is less to pack.
        let binary = dir.join("stripped");
        passes(Command::new("strip").arg("-o").args([&binary, Path::new(env!("CARGO_BIN_EXE_fleetdrain"))]));
        let mut script = Command::new(source("scripts/release.sh"));
        let output =
            script.args(flags).arg("--binary").arg(&binary).arg("--out").arg(dir.join("out")).output().unwrap();
        Self { dir, output }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// A command that runs where the files are.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.join("out"));
        command
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn a_release_is_unpacked_checked_and_run() {
    let release = Release::make("whole", &["--trial"]);
    assert!(release.output.status.success(), "{}", release.said());
    assert!(release.said().contains("is not static"), "a trial is told: {}", release.said());
    passes(release.command("sha256sum").args(["--check", "--strict", "SHA256SUMS"]));
    let sums = std::fs::read_to_string(release.dir.join("out/SHA256SUMS")).unwrap();
    let names: Vec<&str> = sums.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let name = names[1].trim_end_matches(".tar.gz");
    assert_eq!(names, [format!("{name}.cdx.json"), format!("{name}.tar.gz")]);

    passes(release.command("tar").args(["-xzf", names[1]]));
    let unpacked = release.dir.join("out").join(name);
    let version = passes(Command::new(unpacked.join("fleetdrain")).arg("--version"));
    assert_eq!(version.trim(), concat!("fleetdrain ", env!("CARGO_PKG_VERSION")));
    for file in
        ["README.md", "CHANGELOG.md", "LICENSE-MIT", "deploy/systemd/fleetdrain.service", "dashboards/rules.yml"]
    {
        assert!(unpacked.join(file).is_file(), "{file}");
    }
    // As docs/deploy.md installs it.
    let config = unpacked.join("deploy/systemd/fleetdrain.toml");
    passes(Command::new(unpacked.join("fleetdrain")).args(["validate", "--config"]).arg(config));
    let sbom = std::fs::read_to_string(release.dir.join("out").join(names[0])).unwrap();
    let sbom: serde_json::Value = serde_json::from_str(&sbom).unwrap();
    assert_eq!(sbom["metadata"]["component"]["name"], "fleetdrain");
}

#[test]
fn the_same_sources_make_the_same_files() {
    let sums = |name| std::fs::read_to_string(Release::make(name, &["--trial"]).dir.join("out/SHA256SUMS")).unwrap();
    assert_eq!(sums("once"), sums("twice"));
}

#[test]
fn what_is_no_release_is_not_packed_as_one() {
    let release = Release::make("dynamic", &[]);
    // No section of the changelog, or not static.
    assert!(matches!(release.output.status.code(), Some(65 | 70)), "{}", release.said());
    assert!(!release.dir.join("out").exists());
    let unknown = Release::make("unknown", &["--frobnicate"]);
    assert_eq!(unknown.output.status.code(), Some(64), "{}", unknown.said());
}
