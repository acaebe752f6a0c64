//! `fleetdrain tail` in a terminal, as a person sees it: a pseudo-terminal of script(1), which is part of every Linux system.

#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

mod support;

use std::{
    io::{Read, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use hyper::StatusCode;
use support::{Client, FlyRecord, drain::Drain, fly_record};

/// `fleetdrain tail` with its output in a terminal.
struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    /// All that was shown.
    shown: String,
}

impl Terminal {
    fn tail(control: SocketAddr, args: &str, env: &[(&str, &str)]) -> Self {
        let command = format!("{} tail --url http://{control} {args}", env!("CARGO_BIN_EXE_fleetdrain"));
        // What is never shown is a failure, not a wait.
        let mut child = Command::new("timeout")
            .args([
                "--foreground",
                "60",
                "script",
                "--quiet",
                "--return",
                "--flush",
                "--command",
                &command,
                "/dev/null",
            ])
            .env_remove("NO_COLOR")
            .env("TERM", "xterm-256color")
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (keyboard, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, keyboard, screen, shown: String::new() }
    }

    /// Reads on until `text` is shown; what came before it, since the call before.
    fn shows(&mut self, text: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            if let Some(at) = self.shown.find(text) {
                return self.shown.drain(..at + text.len()).collect();
            }
            let read = self.screen.read(&mut bytes).unwrap();
            assert_ne!(read, 0, "{text:?} is not shown: {:?}", self.shown);
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }

    /// Presses Ctrl-C: the exit code, and what was shown last.
    fn interrupt(mut self) -> (i32, String) {
        self.keyboard.write_all(b"\x03").unwrap();
        let mut bytes = Vec::new();
        self.screen.read_to_end(&mut bytes).unwrap();
        let shown = self.shown + &String::from_utf8_lossy(&bytes);
        (self.child.wait().unwrap().code().unwrap(), shown)
    }
}

async fn post(ingest: SocketAddr, record: String) {
    assert_eq!(Client::connect(ingest).await.post(&[], record).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_terminal_gets_colours_and_no_control_character_of_a_message() {
    let drain = Drain::start(&[]);
    let hostile = "up\x1b[2J\x07 \u{202e}down\r\n";
    post(drain.ingest, FlyRecord::new("m1", hostile).level("error").to_string()).await;

    let mut tail = Terminal::tail(drain.control, "--since 1h", &[]);
    let shown = tail.shows("down\\r\\n");
    assert!(shown.contains("\x1b[") && shown.contains("my-app[m1]\x1b[0m"), "coloured: {shown:?}");
    assert!(shown.ends_with("up\\x1b[2J\\x07 \\u{202e}down\\r\\n"), "{shown:?}");
    let (code, _) = tail.interrupt();
    assert_eq!(code, 130);

    let mut tail = Terminal::tail(drain.control, "--since 1h", &[("NO_COLOR", "1")]);
    let shown = tail.shows("down\\r\\n");
    assert!(!shown.contains('\x1b'), "NO_COLOR: {shown:?}");
    assert_eq!(tail.interrupt().0, 130);

    let piped = support::drain::fleetdrain(
        &["tail", "--url", &format!("http://{}", drain.control), "--since", "1h", "-n", "-o", "raw"],
        &[],
    );
    let piped = { piped }.output().unwrap();
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), format!("{hostile}\n"), "byte for byte");
}

#[tokio::test]
async fn a_restart_of_the_drain_is_told_and_nothing_is_missed() {
    let dir = format!("{}/terminal-spool", env!("CARGO_TARGET_TMPDIR"));
    let _ = std::fs::remove_dir_all(&dir);
    let env = [("FLEETDRAIN_SPOOL__DIR", &*dir)];
    let drain = Drain::start(&env);
    let control = drain.control;
    post(drain.ingest, fly_record("m1", "before")).await;
    let mut tail = Terminal::tail(control, "-m m1 -o raw", &[]);
    tail.shows("before");

    drain.signal("-TERM");
    tail.shows("the drain has shut down; resuming in ");
    assert_eq!(drain.wait().0, 0);
    let drain = Drain::start_at(&control.to_string(), &env);
    post(drain.ingest, fly_record("m1", "after")).await;
    let shown = tail.shows("after");
    assert!(!shown.contains("before"), "shown once: {shown:?}");
    let (code, rest) = tail.interrupt();
    assert_eq!(code, 130);
    assert!(!rest.contains("after"), "shown once: {rest:?}");
}
