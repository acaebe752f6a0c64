//! The SBOM that a release carries.

use std::process::Command;

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
