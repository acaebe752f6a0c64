//! The load test against its own naive server: what it promises to notice, it notices.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};

struct Naive {
    child: Child,
    url: String,
}

impl Naive {
    fn start(faults: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .args(["naive", "--listen", "127.0.0.1:0"])
            .args(faults)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        BufReader::new(child.stderr.take().expect("piped")).read_line(&mut line).expect("a line");
        let url = line.trim().strip_prefix("ingest listening on ").expect("the address").to_owned();
        Self { child, url }
    }

    fn run(&self, arguments: &[&str]) -> (ExitStatus, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .args(["run", "--url", &self.url, "--control", &self.url, "--machines", "40", "--readers", "40"])
            .args(["--lines-per-body", "50", "--duration", "60s", "--set", "readers.settle=2s"])
            .args(arguments)
            .output()
            .expect("the binary runs");
        (output.status, String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Naive {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_line_is_read_once_and_in_order() {
    let naive = Naive::start(&[]);
    let arguments =
        ["--rate", "max", "--lines", "4000", "--set", "records.stderr=0.2", "--set", "records.malformed=0.1"];
    let (status, report) = naive.run(&arguments);
    assert_eq!(status.code(), Some(0), "{report}");
    assert!(report.contains("account     received 4,000"), "{report}");
    assert!(report.contains("40 streams ended"), "{report}");
}

#[test]
fn encodings_and_arrays_arrive_whole() {
    let naive = Naive::start(&[]);
    for encoding in ["gzip", "zstd"] {
        let (status, report) =
            naive.run(&["--rate", "max", "--lines", "1000", "--encoding", encoding, "--form", "array"]);
        assert_eq!(status.code(), Some(0), "{report}");
    }
}

#[test]
fn a_lost_line_fails_the_run() {
    let naive = Naive::start(&["--lose-every", "500"]);
    let (status, report) = naive.run(&["--rate", "max", "--lines", "1000"]);
    assert_eq!(status.code(), Some(65), "{report}");
    assert!(report.contains("2 lines lost, 0 repeated, 0 reordered"), "{report}");
}

#[test]
fn a_repeated_line_fails_the_run() {
    let naive = Naive::start(&["--repeat-every", "500"]);
    let (status, report) = naive.run(&["--rate", "max", "--lines", "1000"]);
    assert_eq!(status.code(), Some(65), "{report}");
    assert!(report.contains("0 lines lost, 2 repeated"), "{report}");
}

#[test]
fn refused_bodies_are_sent_again_and_timed_apart() {
    let naive = Naive::start(&["--refuse-every", "5"]);
    let (status, report) = naive.run(&["--rate", "max", "--lines", "1000", "--set", "load.overloads=true"]);
    assert_eq!(status.code(), Some(0), "{report}");
    assert!(report.contains("account     received 1,000 = accepted 1,000"), "{report}");
    // 20 bodies; every fifth try is refused.
    assert!(report.contains(" 4 refusals, 0 lines given up"), "{report}");
    assert!(report.contains("overloaded  yes: it refused bodies; 16.7 % of the tries"), "{report}");
    let line = report.lines().find(|line| line.starts_with("refusal ")).expect("refusals have a line of their own");
    assert!(line.ends_with("(n = 4)"), "{line}");
}

#[test]
fn lines_that_were_refused_and_given_up_are_nobodys_loss() {
    let naive = Naive::start(&["--refuse-every", "5"]);
    let (status, report) = naive.run(&["--rate", "max", "--lines", "1000", "--refused", "count"]);
    assert_eq!(status.code(), Some(0), "{report}");
    assert!(report.contains(" 4 refusals, 200 lines given up"), "{report}");
    assert!(report.contains("account     received 800 = accepted 800"), "{report}");
}

#[test]
fn a_promise_of_overload_that_is_not_kept_fails_the_run() {
    let naive = Naive::start(&[]);
    let (status, report) = naive.run(&["--rate", "max", "--lines", "1000", "--set", "load.overloads=true"]);
    assert_eq!(status.code(), Some(65), "{report}");
    assert!(report.contains("the scenario promises overload"), "{report}");
}

#[test]
fn bodies_that_take_their_time_arrive_whole() {
    let naive = Naive::start(&[]);
    let (status, report) = naive.run(&["--rate", "max", "--lines", "1000", "--set", "load.body_takes=100ms"]);
    assert_eq!(status.code(), Some(0), "{report}");
    assert!(report.contains("account     received 1,000 = accepted 1,000"), "{report}");
}

#[test]
fn an_unknown_key_is_a_usage_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["run", "--url", "http://127.0.0.1:1", "--set", "load.speed=3"])
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(64));
}
