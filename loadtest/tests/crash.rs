//! `crash` against a drain of a few lines that breaks each promise on purpose: what it promises to notice, it notices.

use std::path::PathBuf;
use std::process::Command;

struct Ran {
    code: Option<i32>,
    report: String,
}

/// Kills the keeper a few times; `fault` is what it does wrong.
fn crash(name: &str, fault: &str, arguments: &[&str]) -> Ran {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("crash").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    let loadtest = env!("CARGO_BIN_EXE_loadtest");
    let output = Command::new(loadtest)
        .args(["crash", "--drain", loadtest, "--kills", "4", "--rate", "8000", "--lines-per-body", "10"])
        .args(["--seed", "7", "--set", &format!("keeper.fault={fault}"), "--dir"])
        .arg(&dir)
        .args(arguments)
        .output()
        .expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), report: text(&output.stdout) + &text(&output.stderr) }
}

fn is_clean(name: &str, arguments: &[&str]) {
    let ran = crash(name, "none", arguments);
    assert_eq!(ran.code, Some(0), "{}", ran.report);
    assert!(
        ran.report.contains("0 lost, 0 repeated, 0 there though refused, 0 bodies taken in part"),
        "{}",
        ran.report
    );
}

fn is_noticed(fault: &str, arguments: &[&str], told: &str) {
    let ran = crash(fault, fault, arguments);
    assert_eq!(ran.code, Some(65), "{}", ran.report);
    let broken = ran.report.lines().any(|line| line.starts_with("BROKEN") && line.contains(told));
    assert!(broken, "no {told:?} in\n{}", ran.report);
}

#[test]
fn a_drain_that_keeps_its_word_is_clean() {
    is_clean("keys", &[]);
    is_clean("no-keys", &["--no-key"]);
    is_clean("term", &["--signal", "term"]);
}

#[test]
fn readers_that_go_on_behind_their_last_id_are_clean() {
    is_clean("logs", &["--readers", "logs"]);
    is_clean("tail", &["--readers", "tail"]);
    is_clean("queue", &["--readers", "queue"]);
}

#[test]
fn an_acknowledgement_before_the_write_is_noticed() {
    is_noticed("lose", &[], "lost: ");
}

#[test]
fn what_was_shown_and_then_lost_is_noticed() {
    is_noticed("show-early", &["--readers", "tail"], "following by Tail has not read what the history holds");
}

#[test]
fn a_body_kept_twice_is_noticed() {
    is_noticed("repeat", &["--no-key"], "repeated: ");
}

#[test]
fn keys_that_do_not_outlive_a_restart_are_noticed() {
    is_noticed("forget-keys", &[], "repeated: ");
}

#[test]
fn a_refusal_that_takes_the_body_is_noticed() {
    is_noticed("keep-refused", &["--no-key"], "there though refused: ");
}

#[test]
fn a_body_taken_in_part_is_noticed() {
    is_noticed("tear", &[], "taken in part: ");
}

#[test]
fn another_order_within_a_machine_is_noticed() {
    is_noticed("turn", &[], "out of order: ");
}

#[test]
fn a_changed_message_is_noticed() {
    is_noticed("alter", &[], "altered: ");
}

#[test]
fn ids_that_begin_anew_are_noticed() {
    is_noticed("renumber", &[], "ids not increasing");
}

#[test]
fn a_line_that_is_missed_at_resume_is_noticed() {
    is_noticed("skip-at-resume", &[], "resuming by id has not read what the history holds");
}

#[test]
fn a_weaker_acknowledgement_is_noticed() {
    is_noticed("say-memory", &[], "Fleetdrain-Ack: memory");
}

#[test]
fn a_bad_end_on_sigterm_is_noticed() {
    is_noticed("end-badly", &["--signal", "term"], "SIGTERM ended with exit status: 3");
}

#[test]
#[ignore = "needs strace"]
fn a_disk_that_fails_for_a_while_is_survived() {
    for (fault, status) in
        [("fsync-eio", " unknown"), ("fsync-once", " unknown"), ("enospc", "503 "), ("write-eio", "503 ")]
    {
        let ran = crash(fault, "none", &["--inject", fault]);
        assert_eq!(ran.code, Some(0), "{}", ran.report);
        assert!(ran.report.contains("4 times") && ran.report.contains(status), "{}", ran.report);
        assert!(!ran.report.contains(" 0 calls failed"), "{}", ran.report);
    }
}

#[test]
#[ignore = "needs strace"]
fn a_drain_that_never_recovers_is_noticed() {
    is_noticed("sulk", &["--inject", "fsync-once"], "after a fault of the disk");
}
