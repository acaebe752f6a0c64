//! `openapi.json` against the format's own validator, and against the running drain by a fuzzer.

use std::{path::PathBuf, process::Command};

use crate::support::{Client, drain::Drain, fly_record, text};

/// The document of `drain` in a file of its own.
async fn document(drain: &Drain) -> PathBuf {
    let file = std::env::temp_dir().join(format!("fleetdrain-openapi-{}.json", drain.control.port()));
    std::fs::write(&file, text(drain.control, "/api/v1/openapi.json").await).unwrap();
    file
}

/// What a program says, if it says that something is wrong.
fn passes(command: &mut Command) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success(), "{}", said.join("\n"));
}

#[tokio::test]
#[ignore = "needs openapi-spec-validator (PyPI)"]
async fn the_document_is_openapi_3_1() {
    let drain = Drain::start(&[]);
    let file = document(&drain).await;
    passes(Command::new("openapi-spec-validator").args(["--schema", "3.1"]).arg(&file));
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
#[ignore = "needs schemathesis (PyPI)"]
async fn a_fuzzer_gets_only_answers_that_the_document_tells_of() {
    let spool = std::env::temp_dir().join(format!("fleetdrain-fuzzed-{}", std::process::id()));
    let env = [("FLEETDRAIN_SINKS__SOME__TYPE", "null"), ("FLEETDRAIN_SPOOL__DIR", spool.to_str().unwrap())];
    let drain = Drain::start(&env);
    let lines = [fly_record("4d891d77b05118", "one"), "{\"message\":\"of none\"}".to_owned()].join("\n");
    assert_eq!(Client::connect(drain.ingest).await.post(&[], lines).await.0, 200);
    let file = document(&drain).await;
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/control/schemathesis.toml");
    let mut fuzz = Command::new("schemathesis");
    fuzz.args(["--config-file", config, "run", "--url", &format!("http://{}", drain.control)]).arg(&file);
    passes(fuzz.current_dir(std::env::temp_dir()).env("NO_COLOR", "1"));
    // It lives, and its ledger is whole.
    text(drain.control, "/healthz").await;
    std::fs::remove_file(file).unwrap();
    std::fs::remove_dir_all(spool).unwrap();
}
