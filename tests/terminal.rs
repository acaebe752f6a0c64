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

    /// Reads to the end: every byte that was written to the terminal, and the exit code.
    fn rest(mut self) -> (Vec<u8>, i32) {
        let mut bytes = Vec::new();
        self.screen.read_to_end(&mut bytes).unwrap();
        (bytes, self.child.wait().unwrap().code().unwrap())
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

/// What a terminal emulator of `COLUMNS` shows when it has read `bytes`: its lines, and the colour of each character.
struct Screen {
    lines: Vec<String>,
    colours: Vec<Vec<String>>,
    title: String,
}

const COLUMNS: usize = 160;

impl Screen {
    fn of(bytes: &[u8]) -> Self {
        let script = "\
import json, sys, pyte
columns = int(sys.argv[1])
screen = pyte.Screen(columns, 20)
pyte.ByteStream(screen).feed(sys.stdin.buffer.read())
rows = [[screen.buffer[row][column] for column in range(columns)] for row in range(20)]
json.dump({'lines': [line.rstrip() for line in screen.display], 'title': screen.title,
           'colours': [[one.fg for one in row] for row in rows]}, sys.stdout)";
        let mut python = Command::new("python3")
            .args(["-c", script, &COLUMNS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(bytes).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success(), "pyte does not run");
        let screen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let lines: Vec<String> = serde_json::from_value(screen["lines"].clone()).unwrap();
        let shown = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
        Self {
            lines: lines[..shown].to_vec(),
            colours: serde_json::from_value(screen["colours"].clone()).unwrap(),
            title: serde_json::from_value(screen["title"].clone()).unwrap(),
        }
    }

    /// The colour of `text`, all of which has the same, in line `line`.
    fn colour(&self, line: usize, text: &str) -> &str {
        // A character is a column here: no test shows a wider one.
        let at = self.lines[line].find(text).unwrap_or_else(|| panic!("{text} in {:?}", self.lines));
        let at = self.lines[line][..at].chars().count();
        let mut colours = self.colours[line][at..at + text.chars().count()].iter();
        let first = colours.next().unwrap();
        assert!(colours.all(|colour| colour == first), "{text} is of several colours");
        first
    }
}

/// Records that try to erase the screen, write over other lines, colour and name the terminal, beside two that do not.
async fn hostile_drain() -> Drain {
    let drain = Drain::start(&[]);
    let records = [
        FlyRecord::new("m1", "first").level("info").to_string(),
        FlyRecord::new("m2", "\x1b[2J\x1b[H\x1b[31mgone\x1b]0;named\x07\u{9b}2J").level("error").to_string(),
        FlyRecord::new("m1", "over\rwritten\x08\x08\nnext\u{202e}line").to_string(),
        FlyRecord::new("m1", "last").to_string(),
    ];
    for record in records {
        post(drain.ingest, record).await;
    }
    drain
}

#[tokio::test]
#[ignore = "needs pyte (PyPI)"]
async fn a_terminal_emulator_shows_each_record_on_a_line_of_its_own() {
    let drain = hostile_drain().await;
    let (bytes, code) = Terminal::tail(drain.control, "--since 1h --no-tail", &[]).rest();
    let screen = Screen::of(&bytes);
    assert_eq!((code, screen.lines.len()), (0, 4), "{:?}", screen.lines);
    let ends = [
        "first",
        "\\x1b[2J\\x1b[H\\x1b[31mgone\\x1b]0;named\\x07\\u{9b}2J",
        "over\\rwritten\\x08\\x08\\nnext\\u{202e}line",
        "last",
    ];
    for (line, end) in screen.lines.iter().zip(ends) {
        assert!(line.ends_with(end), "{line:?} does not end with {end:?}");
    }
    assert_eq!(screen.title, "", "no record names the terminal");
    // A machine has a colour of its own, a message none, whatever is in it.
    let [first, second] = [screen.colour(0, "my-app[m1]"), screen.colour(1, "my-app[m2]")];
    assert!(first != second && first != "default" && second != "default", "{first} {second}");
    assert_eq!(screen.colour(3, "my-app[m1]"), first);
    assert_eq!(screen.colour(1, "gone"), "default");
    assert_eq!(screen.colour(3, "last"), "default");
}

#[tokio::test]
#[ignore = "needs pyte (PyPI)"]
async fn a_terminal_emulator_shows_the_same_without_colours() {
    let drain = hostile_drain().await;
    let coloured = Terminal::tail(drain.control, "--since 1h --no-tail", &[]).rest().0;
    let plain = Terminal::tail(drain.control, "--since 1h --no-tail", &[("NO_COLOR", "1")]).rest().0;
    let (coloured, plain) = (Screen::of(&coloured), Screen::of(&plain));
    assert_eq!(plain.lines, coloured.lines);
    assert!(plain.colours.iter().flatten().all(|colour| colour == "default"));
}
