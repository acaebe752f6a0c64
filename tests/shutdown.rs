//! How `fleetdrain serve` ends: what readers still get, what is told, and the exit code.
#![cfg(feature = "cli")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStderr, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

struct Drain {
    process: Child,
    stderr: BufReader<ChildStderr>,
    ingest: String,
    control: String,
}

impl Drain {
    fn start(deadline: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_fleetdrain"))
            .args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .env("FLEETDRAIN_SHUTDOWN__DEADLINE", deadline)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut listening = || {
            let mut line = String::new();
            stderr.read_line(&mut line).unwrap();
            line.trim_end().rsplit_once("http://").unwrap().1.to_owned()
        };
        let (ingest, control) = (listening(), listening());
        Self { process, stderr, ingest, control }
    }

    /// Asks, and leaves the answer to be read.
    fn ask(addr: &str, method: &str, path: &str, body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(addr).unwrap();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}");
        socket.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).unwrap();
        socket
    }

    fn answer(mut socket: TcpStream) -> String {
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Subscribes to a machine and sends it `lines` of `bytes` each.
    fn fill(&self, lines: usize, bytes: usize) {
        let subscribed = Self::answer(Self::ask(&self.control, "PUT", "/api/v1/machines/m", ""));
        assert!(subscribed.starts_with("HTTP/1.1 201"), "{subscribed}");
        let record = format!("{{\"instance\":\"m\",\"message\":\"{}\"}}\n", "x".repeat(bytes));
        let taken = Self::answer(Self::ask(&self.ingest, "POST", "/", &record.repeat(lines)));
        assert!(taken.contains(&format!("\"accepted\":{lines},")), "{taken}");
    }

    fn read_queue(&self) -> TcpStream {
        Self::ask(&self.control, "GET", "/api/v1/machines/m/queue", "")
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
    }

    /// The exit code, and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.process.wait().unwrap().code(), said)
    }
}

#[test]
fn readers_get_what_is_queued_and_the_end() {
    let drain = Drain::start("4s");
    drain.fill(3, 10);
    let mut reader = drain.read_queue();
    // Who is not accepted yet when it stops is not a reader.
    reader.read_exact(&mut [0; 12]).unwrap();
    drain.terminate();
    let answer = Drain::answer(reader);
    assert!(answer.matches("machine_seq").count() == 3 && answer.contains(r#""reason":"shutdown""#), "{answer}");
    let (code, said) = drain.end();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn what_a_reader_is_too_slow_for_is_told_and_exits_74() {
    let drain = Drain::start("300ms");
    // One group, more than any socket's buffers hold: the reader takes it from the queue and cannot hand it on.
    drain.fill(20_000, 1000);
    let mut slow = drain.read_queue();
    slow.read_exact(&mut [0; 1000]).unwrap();
    drain.terminate();
    let (code, said) = drain.end();
    assert_eq!(code, Some(74), "{said}");
    assert!(said.contains("acknowledged lines were left"), "{said}");
}

#[test]
fn who_asks_twice_does_not_wait() {
    let drain = Drain::start("60s");
    drain.fill(20_000, 1000);
    let mut slow = drain.read_queue();
    slow.read_exact(&mut [0; 1000]).unwrap();
    let begun = Instant::now();
    drain.terminate();
    // The first must be taken before the second comes: two signals that wait are one.
    while TcpStream::connect(&drain.control).is_ok() {
        std::thread::yield_now();
    }
    drain.terminate();
    assert_eq!(drain.end().0, Some(74));
    assert!(begun.elapsed() < Duration::from_secs(30));
}
