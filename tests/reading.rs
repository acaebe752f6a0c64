//! Reading over real sockets: `logs` and `tail` look, `queue` consumes, and every end and gap is told.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests: a panic there is the failure report")]

#[path = "reading/exit.rs"]
mod exit;
mod support;

use std::{net::SocketAddr, time::Duration};

use fleetdrain::{
    LogDrainServer,
    collector::{CollectorConfig, LogCollector},
    config::Config,
};
use serde_json::{Value, json};
use support::Balances;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

/// A bound on every wait: nothing here takes long unless it hangs.
const SOON: Duration = Duration::from_secs(20);

struct Drain {
    collector: LogCollector,
    addr: SocketAddr,
    server: LogDrainServer,
    _balances: Balances,
}

impl Drain {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(set: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        set(&mut config);
        let collector = LogCollector::new(CollectorConfig::from(&config));
        let mut server =
            LogDrainServer::with_config(collector.clone(), config).host("127.0.0.1").control("127.0.0.1:0");
        server.start().await.unwrap();
        let addr = server.control_addr().unwrap();
        let _balances = Balances(collector.clone());
        Self { collector, addr, server, _balances }
    }

    /// Pushes lines of one machine whose messages are `numbers`.
    fn push(&self, machine: &str, numbers: impl IntoIterator<Item = u64>) {
        let body: String =
            numbers.into_iter().map(|number| format!("{}\n", record(machine, &number.to_string()))).collect();
        let _ = self.collector.push(body).unwrap();
    }

    fn push_records(&self, records: &[Value]) {
        let body: String = records.iter().map(|record| format!("{record}\n")).collect();
        let _ = self.collector.push(body).unwrap();
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        Answer::of(self.addr, method, path, headers).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[]).await
    }

    async fn json(&self, path: &str) -> Value {
        let mut answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        answer.json().await
    }
}

fn record(machine: &str, message: &str) -> Value {
    json!({ "instance": machine, "message": message })
}

/// An answer whose body is read as it comes.
struct Answer {
    status: u16,
    head: String,
    body: BufReader<TcpStream>,
    is_chunked: bool,
    /// Of the chunk, or of the whole body.
    length: usize,
    got: Vec<u8>,
    taken: usize,
    over: bool,
}

impl Answer {
    async fn of(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // A reader is slow as soon as it does not read, not when the kernel has taken megabytes for it.
        socket.set_recv_buffer_size(256 << 10).unwrap();
        let mut stream = socket.connect(addr).await.unwrap();
        let host =
            if headers.iter().any(|(name, _)| *name == "Host") { String::new() } else { format!("Host: {addr}\r\n") };
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        stream.write_all(format!("{method} {path} HTTP/1.1\r\n{host}{headers}\r\n").as_bytes()).await.unwrap();
        let mut body = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(
                timeout(SOON, body.read_line(&mut head)).await.expect("headers come at once").unwrap(),
                0,
                "{head}"
            );
        }
        let head = head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        let is_chunked = field(&head, "transfer-encoding") == Some("chunked");
        let over = method == "HEAD";
        Self { status, head, body, is_chunked, length, got: Vec::new(), taken: 0, over }
    }

    fn header(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// Takes the next chunk, or all of a body that is not chunked; `false` when it is over.
    async fn fill(&mut self) -> bool {
        if self.over {
            return false;
        }
        if self.is_chunked {
            let mut size = String::new();
            self.body.read_line(&mut size).await.unwrap();
            self.length =
                usize::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("no chunk's size: {size:?}"));
            // 60 KiB and a line, of which the longest here are 10,000 bytes and some.
            assert!(self.length <= 72 << 10, "a chunk of {} bytes", self.length);
        }
        self.over = !self.is_chunked || self.length == 0;
        let start = self.got.len();
        self.got.resize(start + self.length, 0);
        self.body.read_exact(&mut self.got[start..]).await.unwrap();
        if self.is_chunked {
            let mut end = [0; 2];
            self.body.read_exact(&mut end).await.unwrap();
            assert_eq!(end, *b"\r\n");
        }
        self.length > 0
    }

    /// The next line, without its end; `None` when the answer is over.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.got[self.taken..].iter().position(|byte| *byte == b'\n') {
                let line = self.got[self.taken..self.taken + end].to_vec();
                self.taken += end + 1;
                return Some(String::from_utf8(line).unwrap());
            }
            self.got.drain(..std::mem::take(&mut self.taken));
            if !timeout(SOON, self.fill()).await.expect("a line comes soon") {
                assert!(self.got.is_empty(), "an answer that breaks off: {:?}", self.got);
                return None;
            }
        }
    }

    async fn next(&mut self) -> Option<Value> {
        Some(serde_json::from_str(&self.line().await?).unwrap())
    }

    /// The messages of the next lines.
    async fn messages(&mut self, count: usize) -> Vec<String> {
        let mut messages = Vec::new();
        for _ in 0..count {
            messages.push(message(&self.next().await.unwrap()));
        }
        messages
    }

    async fn rest(&mut self) -> Vec<Value> {
        let mut rest = Vec::new();
        while let Some(record) = self.next().await {
            rest.push(record);
        }
        rest
    }

    /// The messages until the end, and the end's reason.
    async fn until_end(&mut self) -> (Vec<String>, String) {
        let mut records = self.rest().await;
        let end = records.pop().unwrap();
        assert_eq!(end["event"], "end", "{end}");
        (records.iter().map(message).collect(), end["reason"].as_str().unwrap().to_owned())
    }

    async fn text(&mut self) -> String {
        while timeout(SOON, self.fill()).await.expect("the body comes soon") {}
        String::from_utf8(self.got.split_off(self.taken)).unwrap()
    }

    async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// The detail of a problem, which says its own status.
    async fn problem(&mut self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.head);
        let problem = self.json().await;
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].is_string());
        problem["detail"].as_str().unwrap().to_owned()
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn message(entry: &Value) -> String {
    entry["message"].as_str().unwrap_or_else(|| panic!("no entry: {entry}")).to_owned()
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !holds() {
        assert!(since.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

const M: &str = "/api/v1/machines";

#[tokio::test]
async fn logs_shows_the_past_then_the_present_then_the_end() {
    let drain = Drain::new().await;
    drain.push("m", 0..3);
    let mut logs = drain.get(&format!("{M}/m/logs")).await;
    assert_eq!(logs.status, 200);
    assert_eq!(logs.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(logs.header("cache-control"), Some("no-store"));
    assert_eq!(logs.header("x-accel-buffering"), Some("no"));
    let first = logs.next().await.unwrap();
    assert_eq!(
        (&first["machine_id"], &first["stream"], &first["machine_seq"]),
        (&"m".into(), &"stdout".into(), &1.into())
    );
    assert!(first["id"].is_string() && first["received_at"].as_str().unwrap().ends_with('Z'));
    assert!(first.get("raw").is_none());
    assert_eq!(logs.messages(2).await, numbers(1..3));
    drain.push("other", 0..3);
    drain.push("m", 3..5);
    assert_eq!(logs.messages(2).await, numbers(3..5));
    assert!(drain.collector.finish("m"));
    assert_eq!(logs.until_end().await, (vec![], "finished".to_owned()));
}

#[tokio::test]
async fn logs_of_a_machine_not_yet_seen_waits_for_it() {
    let drain = Drain::new().await;
    let mut logs = drain.get(&format!("{M}/later/logs")).await;
    assert_eq!(logs.status, 200);
    assert_eq!(drain.get(&format!("{M}/later")).await.status, 404);
    drain.push("later", 0..2);
    assert_eq!(logs.messages(2).await, numbers(0..2));
}

#[tokio::test]
async fn logs_without_backlog_shows_only_what_comes() {
    let drain = Drain::new().await;
    drain.push("m", 0..3);
    let mut logs = drain.get(&format!("{M}/m/logs?backlog=false")).await;
    drain.push("m", 3..4);
    assert_eq!(logs.messages(1).await, numbers(3..4));
}

#[tokio::test]
async fn a_finished_machine_plays_what_is_held_and_behind_its_last_line_there_is_nothing() {
    let drain = Drain::new().await;
    drain.push("m", 0..3);
    drain.collector.finish("m");
    let path = format!("{M}/m/logs");
    let lines = drain.get(&path).await.rest().await;
    assert_eq!(lines.len(), 4);
    let last = lines[2]["id"].as_str().unwrap();
    assert_eq!(drain.get(&format!("{path}?after={last}")).await.status, 204);
    assert_eq!(drain.send("GET", &path, &[("Last-Event-ID", last)]).await.status, 204);
    let before = lines[1]["id"].as_str().unwrap();
    let (messages, reason) = drain.get(&format!("{path}?after={before}")).await.until_end().await;
    assert_eq!((messages, reason.as_str()), (numbers(2..3), "finished"));
    // The header is newer than the query, which a browser repeats as it was.
    let again = drain.send("GET", &format!("{path}?after={before}"), &[("Last-Event-ID", last)]).await;
    assert_eq!(again.status, 204);
    assert_eq!(drain.send("PUT", &format!("{M}/m"), &[]).await.status, 201);
    drain.push("m", 3..4);
    let mut reopened = drain.get(&format!("{path}?after={last}")).await;
    assert_eq!(reopened.messages(1).await, numbers(3..4));
}

#[tokio::test]
async fn resuming_by_id_neither_misses_nor_repeats() {
    let drain = Drain::new().await;
    for body in 0..5 {
        let records: Vec<Value> =
            (0..6).map(|line| record(if line % 2 == 0 { "a" } else { "b" }, &(body * 6 + line).to_string())).collect();
        drain.push_records(&records);
    }
    for (path, count) in [(format!("{M}/a/logs?follow=false"), 15), ("/api/v1/tail?last=1000&follow=false".into(), 30)]
    {
        let mut all = drain.get(&path).await.rest().await;
        assert_eq!(all.pop().unwrap()["reason"], "caught_up");
        assert_eq!(all.len(), count);
        for cut in 0..count {
            let after = all[cut]["id"].as_str().unwrap();
            let resumed = drain.get(&format!("{path}&after={after}")).await.rest().await;
            assert_eq!(resumed[..resumed.len() - 1], all[cut + 1..], "{path} {cut}");
        }
    }
}

#[tokio::test]
async fn an_id_of_another_process_is_told_as_a_gap_of_unknown_size() {
    let drain = Drain::new().await;
    drain.push("m", 0..2);
    for path in [format!("{M}/m/logs?follow=false&after=1-2-3-4"), "/api/v1/tail?follow=false&after=1-2-3-4".into()] {
        let lines = drain.get(&path).await.rest().await;
        assert_eq!(lines[0], json!({ "event": "skipped", "lines": null }));
        assert_eq!(lines[1..3].iter().map(message).collect::<Vec<_>>(), numbers(0..2));
    }
}

#[tokio::test]
async fn a_queue_is_consumed_to_its_end() {
    let drain = Drain::new().await;
    let mut queue = drain.get(&format!("{M}/m/queue")).await;
    assert_eq!(queue.status, 200);
    drain.push("m", 0..2);
    assert_eq!(queue.messages(2).await, numbers(0..2));
    drain.push("m", 2..4);
    drain.collector.finish("m");
    assert_eq!(queue.until_end().await, (numbers(2..4), "finished".into()));
    assert_eq!(drain.get(&format!("{M}/m/queue")).await.until_end().await, (vec![], "finished".into()));
    let stats = drain.collector.stats();
    assert_eq!((stats.queue_lines_in, stats.queue_lines_delivered, stats.queue_lines), (4, 4, 0));
}

#[tokio::test]
async fn a_finished_machines_queue_stays_readable_until_it_is_drained() {
    let drain = Drain::new().await;
    assert_eq!(drain.send("PUT", &format!("{M}/m"), &[]).await.status, 201);
    drain.push("m", 0..3);
    assert_eq!(drain.send("DELETE", &format!("{M}/m"), &[]).await.status, 202);
    drain.push("m", 3..4);
    let path = format!("{M}/m/queue");
    assert_eq!(drain.get(&format!("{path}?max_lines=1")).await.until_end().await, (numbers(0..1), "max_lines".into()));
    assert_eq!(drain.get(&path).await.until_end().await, (numbers(1..3), "finished".into()));
    assert_eq!(drain.get(&path).await.until_end().await, (vec![], "finished".into()));
    assert_eq!(drain.json(&format!("{M}/m")).await["state"], "finished");
}

#[tokio::test]
async fn a_finished_machine_without_a_queue_has_only_the_end() {
    let drain = Drain::new().await;
    drain.push("m", 0..3);
    drain.collector.finish("m");
    assert_eq!(drain.get(&format!("{M}/m/queue")).await.until_end().await, (vec![], "finished".into()));
    assert_eq!(drain.collector.stats().subscriptions, 0);
}

#[tokio::test]
async fn what_a_queue_reader_leaves_the_next_one_gets_first() {
    let drain = Drain::new().await;
    drain.send("PUT", &format!("{M}/m"), &[]).await;
    drain.push("m", 0..10);
    let path = format!("{M}/m/queue?follow=false");
    assert_eq!(drain.get(&format!("{path}&max_lines=4")).await.until_end().await, (numbers(0..4), "max_lines".into()));
    drain.push("m", 10..12);
    assert_eq!(drain.get(&path).await.until_end().await, (numbers(4..12), "caught_up".into()));
}

#[tokio::test]
async fn a_queue_reader_that_goes_away_costs_only_what_was_handed_to_its_connection() {
    let drain = Drain::with(|config| {
        config.queue.lines = 1_000_000;
        config.queue.bytes = 1 << 30;
    })
    .await;
    drain.send("PUT", &format!("{M}/m"), &[]).await;
    let (bodies, lines) = (25, 1000);
    let filler = "x".repeat(500);
    for body in 0..bodies {
        let text: String =
            (0..lines).map(|line| format!("{}\n", record("m", &format!("{} {filler}", body * lines + line)))).collect();
        let _ = drain.collector.push(text).unwrap();
    }
    let number = |entry: &Value| message(entry).split(' ').next().unwrap().parse::<u64>().unwrap();
    let mut first = drain.get(&format!("{M}/m/queue")).await;
    for expected in 0..100 {
        assert_eq!(number(&first.next().await.unwrap()), expected);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let held = drain.collector.stats();
    assert!(held.queue_lines_delivered < bodies * lines, "a slow reader's lines wait in the queue: {held:?}");
    drop(first);
    let readers = || drain.collector.machine_facts("m").unwrap().readers;
    eventually("the connection is seen to be closed", || readers() == 0).await;
    let delivered = drain.collector.stats().queue_lines_delivered;
    let rest = drain.get(&format!("{M}/m/queue?follow=false")).await.rest().await;
    let rest: Vec<u64> = rest[..rest.len() - 1].iter().map(number).collect();
    assert_eq!(rest, (delivered..bodies * lines).collect::<Vec<_>>());
    let stats = drain.collector.stats();
    assert_eq!((stats.queue_lines_in, stats.queue_lines_delivered, stats.queue_lines), (25_000, 25_000, 0));
}

#[tokio::test]
async fn readers_of_one_queue_share_its_lines() {
    let drain = Drain::new().await;
    let path = format!("{M}/m/queue");
    let (mut one, mut two) = (drain.get(&path).await, drain.get(&path).await);
    for body in 0..50 {
        drain.push("m", body * 2..body * 2 + 2);
        tokio::task::yield_now().await;
    }
    drain.collector.finish("m");
    let (one, two) = (one.until_end().await, two.until_end().await);
    assert_eq!((one.1.as_str(), two.1.as_str()), ("finished", "finished"));
    let parse = |lines: Vec<String>| lines.iter().map(|line| line.parse().unwrap()).collect::<Vec<u64>>();
    let (one, two) = (parse(one.0), parse(two.0));
    assert!(one.is_sorted() && two.is_sorted());
    let mut all = [one, two].concat();
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn looking_takes_nothing_from_a_queue() {
    let drain = Drain::new().await;
    let mut queue = drain.get(&format!("{M}/m/queue")).await;
    let mut logs = drain.get(&format!("{M}/m/logs")).await;
    let mut tail = drain.get("/api/v1/tail").await;
    drain.push("m", 0..100);
    for reader in [&mut queue, &mut logs, &mut tail] {
        assert_eq!(reader.messages(100).await, numbers(0..100));
    }
}

#[tokio::test]
async fn a_queue_takes_the_streams_it_was_asked_to() {
    let drain = Drain::new().await;
    let streams = ["stdout", "stderr", "system", "audit"];
    let wanted: [(&str, &[&str]); 5] = [
        ("", &["stdout"]),
        ("&streams=stderr", &["stderr"]),
        ("&streams=stdout,stderr", &["stdout", "stderr"]),
        ("&streams=stdout,system", &["stdout", "system"]),
        ("&streams=all", &streams),
    ];
    for (machine, (query, expected)) in wanted.into_iter().enumerate() {
        let mut queue = drain.get(&format!("{M}/{machine}/queue?max_lines={}{query}", expected.len())).await;
        let record = |stream| json!({ "instance": machine.to_string(), "message": stream, "stream": stream });
        drain.push_records(&streams.map(record));
        assert_eq!(queue.until_end().await.0, expected, "{query}");
    }
}

#[tokio::test]
async fn tail_shows_only_what_comes_unless_asked_for_the_past() {
    let drain = Drain::new().await;
    drain.push("a", 0..3);
    let mut live = drain.get("/api/v1/tail").await;
    let last = drain.get("/api/v1/tail?last=2&follow=false").await.until_end().await;
    assert_eq!(last, (numbers(1..3), "caught_up".into()));
    let since = drain.get("/api/v1/tail?since=1h&follow=false").await.until_end().await;
    assert_eq!(since, (numbers(0..3), "caught_up".into()));
    let none = drain.get("/api/v1/tail?since=0s&follow=false").await.until_end().await;
    assert_eq!(none, (vec![], "caught_up".into()));
    drain.push("b", 3..4);
    assert_eq!(live.messages(1).await, numbers(3..4));
}

#[tokio::test]
async fn tail_shows_lines_in_the_order_in_which_they_were_sent() {
    let drain = Drain::new().await;
    let mut live = drain.get("/api/v1/tail?machine=m0,m3&machine=m4").await;
    let records: Vec<Value> =
        (0..10_000).map(|number| record(&format!("m{}", number * number % 7), &number.to_string())).collect();
    drain.push_records(&records);
    let expected: Vec<String> = (0..10_000u64)
        .filter(|number| [0, 3, 4].contains(&(number * number % 7)))
        .map(|number| number.to_string())
        .collect();
    assert_eq!(live.messages(expected.len()).await, expected);
    let all = drain.get("/api/v1/tail?last=1000000&follow=false").await.until_end().await.0;
    assert_eq!(all, numbers(0..10_000));
}

#[tokio::test]
async fn tail_filters_by_what_an_entry_says() {
    let drain = Drain::new().await;
    let fly = |message: &str, app: &str, region: &str, level: &str, provider: &str| {
        json!({
            "event": { "provider": provider }, "fly": { "app": { "instance": message, "name": app }, "region": region },
            "log": { "level": level }, "message": message,
        })
    };
    drain.push_records(&[
        fly("one error", "shop", "ams", "error", "app"),
        fly("two", "shop", "fra", "info", "app"),
        fly("three error", "blog", "ams", "error", "runner"),
        fly("four", "blog", "lax", "info", "app"),
    ]);
    let cases: [(&str, &[&str]); 12] = [
        ("", &["one error", "two", "three error", "four"]),
        ("app=shop", &["one error", "two"]),
        ("app=shop,blog&region=lax", &["four"]),
        ("region=ams&region=fra", &["one error", "two", "three error"]),
        ("machine=two", &["two"]),
        ("machine=tw", &[]),
        ("level=error&stream=stdout", &["one error"]),
        ("stream=system", &["three error"]),
        ("include=%5Eo|f", &["one error", "four"]),
        ("exclude=error", &["two", "four"]),
        ("include=error&exclude=three", &["one error"]),
        ("app=shop&last=1", &["two"]),
    ];
    for (query, expected) in cases {
        let last = if query.contains("last") { "" } else { "&last=100" };
        let path = format!("/api/v1/tail?follow=false{last}&{query}");
        assert_eq!(drain.get(&path).await.until_end().await.0, expected, "{query}");
    }
}

#[tokio::test]
async fn a_slow_viewer_pins_nothing_and_is_told_exactly_what_it_missed() {
    let drain = Drain::with(|config| config.history.bytes = 1 << 20).await;
    for path in ["/api/v1/tail?machine=m", &format!("{M}/m/logs"), "/api/v1/tail?include=7"] {
        let before = drain.collector.stats().viewer_skipped_lines;
        let mut viewer = drain.get(path).await;
        let (bodies, lines) = (80, 500);
        let filler = "x".repeat(400);
        for body in 0..bodies {
            let text: String = (0..lines)
                .map(|line| {
                    let machine = if line % 5 == 4 { "other" } else { "m" };
                    format!("{}\n", record(machine, &format!("{} {filler}", body * lines + line)))
                })
                .collect();
            let _ = drain.collector.push(text).unwrap();
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let held = drain.collector.stats().memory_used_bytes;
        assert!(held < 2 << 20, "{held} bytes are held");
        let end = format!("7 {path}");
        drain.push_records(&[record("m", &end)]);
        let (mut shown, mut skipped, mut first_seq) = (0, 0, None);
        let last = loop {
            let next = viewer.next().await.unwrap();
            if let Some(lines) = next["lines"].as_u64() {
                skipped += lines;
                continue;
            }
            shown += 1;
            first_seq = first_seq.or(next["machine_seq"].as_u64());
            if message(&next) == end {
                break next;
            }
        };
        assert!(skipped > 0, "{path}: the history is far smaller than what was sent");
        assert_eq!(drain.collector.stats().viewer_skipped_lines - before, skipped);
        if path.contains("logs") {
            // One machine's own lines are counted, nobody else's.
            assert_eq!(first_seq.unwrap() + shown + skipped - 1, last["machine_seq"], "{path}");
        }
        drop(viewer);
        eventually("the viewer is gone", || drain.collector.stats().viewers == 0).await;
    }
}

#[tokio::test]
async fn a_tail_of_everything_accounts_for_every_line() {
    let drain = Drain::with(|config| config.history.bytes = 1 << 20).await;
    let mut viewer = drain.get("/api/v1/tail").await;
    let filler = "x".repeat(400);
    for body in 0..150 {
        let text: String = (0..500)
            .map(|line| format!("{}\n", record(&format!("m{}", line % 50), &format!("{} {filler}", body * 500 + line))))
            .collect();
        let _ = drain.collector.push(text).unwrap();
        tokio::task::yield_now().await;
    }
    let mut expected = 0;
    while expected < 75_000 {
        let next = viewer.next().await.unwrap();
        match next["lines"].as_u64() {
            Some(lines) => expected += lines,
            None => {
                assert_eq!(message(&next).split(' ').next().unwrap(), expected.to_string());
                expected += 1;
            }
        }
    }
    assert_eq!(expected, 75_000);
}

#[tokio::test]
async fn a_queue_that_was_overtaken_by_the_history_tells_what_was_dropped() {
    let drain = Drain::with(|config| {
        config.history.bytes = 1 << 20;
        config.queue.lines = 100;
    })
    .await;
    drain.send("PUT", &format!("{M}/m"), &[]).await;
    for body in 0..100u64 {
        let filler = "x".repeat(500);
        let text: String =
            (0..100).map(|line| format!("{}\n", record("m", &format!("{} {filler}", body * 100 + line)))).collect();
        let _ = drain.collector.push(text).unwrap();
    }
    drain.collector.finish("m");
    let lines = drain.get(&format!("{M}/m/queue")).await.rest().await;
    let mut expected = 0;
    for line in &lines[..lines.len() - 1] {
        match line["lines"].as_u64() {
            Some(lines) => expected += lines,
            None => {
                assert_eq!(message(line).split(' ').next().unwrap(), expected.to_string());
                expected += 1;
            }
        }
    }
    assert_eq!(expected, 10_000);
    let stats = drain.collector.stats();
    assert_eq!(stats.queue_lines_in, 10_000);
    assert_eq!(stats.queue_lines_delivered + stats.queue_lines_dropped, 10_000);
    assert!(stats.queue_lines_dropped_by_reason["history_evicted"] > 0);
    assert_eq!(drain.get("/healthz").await.json().await["reasons"][0]["reason"], "losing");
}

#[tokio::test]
async fn each_end_says_its_reason() {
    let drain = Drain::new().await;
    drain.push("m", 0..5);
    for path in [format!("{M}/m/logs?"), "/api/v1/tail?since=1h&".into(), format!("{M}/m/queue?backlog=true&")] {
        for (query, lines, reason) in [
            ("max_lines=0", 0, "max_lines"),
            ("max_lines=2", 2, "max_lines"),
            ("item_timeout=30ms", 5, "item_timeout"),
            ("total_timeout=30ms", 5, "total_timeout"),
            ("item_timeout=1h&total_timeout=30ms", 5, "total_timeout"),
            ("item_timeout=30ms&total_timeout=1h", 5, "item_timeout"),
            ("follow=false", 5, "caught_up"),
        ] {
            if path.contains("queue") {
                // Each case begins with a queue of five lines.
                drain.collector.finish("m");
                assert_eq!(drain.send("PUT", &format!("{M}/m?backlog=true"), &[]).await.status, 201);
            }
            let (shown, ended) = drain.get(&format!("{path}{query}")).await.until_end().await;
            assert_eq!((shown, ended.as_str()), (numbers(0..lines), reason), "{path}{query}");
        }
    }
}

#[tokio::test]
async fn item_timeout_counts_only_lines_that_are_shown() {
    let drain = Drain::new().await;
    let mut tail = drain.get("/api/v1/tail?machine=wanted&item_timeout=300ms").await;
    let since = Instant::now();
    let feed = async {
        loop {
            drain.push("other", 0..1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (shown, reason) = tokio::select! {
        ended = tail.until_end() => ended,
        () = feed => unreachable!(),
    };
    assert_eq!((shown, reason.as_str()), (vec![], "item_timeout"));
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_view_that_does_not_follow_ends_at_what_was_there_when_it_was_asked_for() {
    let drain = Drain::new().await;
    let filler = "x".repeat(10_000);
    let records: Vec<Value> = (0..800).map(|number| record("m", &format!("{number} {filler}"))).collect();
    drain.push_records(&records);
    for path in [format!("{M}/m/logs?follow=false"), "/api/v1/tail?follow=false&since=1h".into()] {
        let held = drain.collector.stats().history_lines;
        let mut view = drain.get(&path).await;
        drain.push("m", 0..10);
        let (shown, reason) = view.until_end().await;
        assert_eq!((shown.len() as u64, reason.as_str()), (held, "caught_up"), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_every_fifteen_seconds_but_in_plain_text() {
    let drain = Drain::new().await;
    for path in [format!("{M}/m/logs"), "/api/v1/tail".into(), format!("{M}/m/queue")] {
        let since = Instant::now();
        let path = format!("{path}{}item_timeout=50s", if path.contains('?') { "&" } else { "?" });
        let mut reader = drain.get(&path).await;
        for _ in 0..3 {
            assert_eq!(reader.line().await.unwrap(), "");
        }
        assert!(since.elapsed() >= Duration::from_secs(45), "{:?}", since.elapsed());
        assert_eq!(reader.next().await.unwrap()["reason"], "item_timeout");
        let mut events = drain.send("GET", &path, &[("Accept", "text/event-stream")]).await;
        assert_eq!((events.line().await.unwrap().as_str(), events.line().await.unwrap().as_str()), (":", ""));
    }
}

#[tokio::test]
async fn events_carry_ids_and_the_end() {
    let drain = Drain::new().await;
    drain.push("m", 0..2);
    drain.collector.finish("m");
    let mut events = drain.send("GET", &format!("{M}/m/logs"), &[("Accept", "text/event-stream")]).await;
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    let text = events.text().await;
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 3, "{text}");
    for (number, event) in events[..2].iter().enumerate() {
        let (id, data) = event.split_once("\ndata: ").unwrap();
        let entry: Value = serde_json::from_str(data).unwrap();
        assert_eq!(entry["message"], number.to_string());
        assert_eq!(id.strip_prefix("id: ").unwrap(), entry["id"]);
    }
    assert_eq!(events[2], "event: end\ndata: {\"event\":\"end\",\"reason\":\"finished\"}");
}

#[tokio::test]
async fn plain_text_is_messages_and_nothing_else() {
    let drain = Drain::new().await;
    drain.push("m", 0..3);
    let mut text = drain.send("GET", &format!("{M}/m/logs?max_lines=2"), &[("Accept", "text/plain")]).await;
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(text.text().await, "0\n1\n");
    let mut empty = drain.send("GET", "/api/v1/tail?follow=false", &[("Accept", "text/plain")]).await;
    assert_eq!(empty.text().await, "");
}

#[tokio::test]
async fn raw_is_the_record_as_sent_on_one_line() {
    let drain = Drain::new().await;
    let _ = drain.collector.push("[{\"b\":1,\r\n  \"instance\":\"m\",\"a\":[1e999]}]").unwrap();
    let mut logs = drain.get(&format!("{M}/m/logs?raw=true")).await;
    let line = logs.line().await.unwrap();
    assert!(line.ends_with(",\"raw\":{\"b\":1,    \"instance\":\"m\",\"a\":[1e999]}}"), "{line}");
}

#[tokio::test]
async fn a_head_request_gets_the_headers_and_disturbs_nothing() {
    let drain = Drain::new().await;
    drain.push("m", 0..1);
    for (path, content_type) in [
        (format!("{M}/m/logs"), "application/x-ndjson"),
        (format!("{M}/m/queue"), "application/x-ndjson"),
        ("/api/v1/tail".into(), "application/x-ndjson"),
        ("/api/v1/stats".into(), "application/json"),
        (M.into(), "application/json"),
    ] {
        let mut answer = drain.send("HEAD", &path, &[("Connection", "close")]).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(content_type)), "{path}");
        let mut rest = Vec::new();
        timeout(SOON, answer.body.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert!(rest.is_empty(), "{path}");
    }
    let stats = drain.collector.stats();
    assert_eq!((stats.subscriptions, stats.viewers), (0, 0));
}

#[tokio::test]
async fn put_subscribes_once_and_for_good() {
    let drain = Drain::with(|config| config.queue.subscriptions_max = 2).await;
    let put = async |path: &str| drain.send("PUT", &format!("{M}/{path}"), &[]).await;
    let mut created = put("m?streams=stdout,stderr&full=block").await;
    assert_eq!(created.status, 201);
    let facts = created.json().await;
    assert_eq!((&facts["streams"], &facts["full"]), (&"stdout,stderr".into(), &"block".into()));
    for same in ["m", "m?streams=stderr,stdout", "m?full=block&backlog=true"] {
        assert_eq!(put(same).await.status, 200, "{same}");
    }
    for other in ["m?streams=stdout", "m?full=drop_oldest"] {
        let mut conflict = put(other).await;
        assert_eq!(conflict.status, 409, "{other}");
        assert!(conflict.problem().await.contains("streams=stdout,stderr and full=block"));
        let mut reader = drain.get(&format!("{M}/{}", other.replace("m?", "m/queue?"))).await;
        assert_eq!(reader.status, 409, "{other}");
        reader.problem().await;
    }
    for (bad, named) in [
        ("m?streams=all,none", "streams=\"all,none\""),
        ("m?full=never", "full=\"never\""),
        ("m?backlog=yes", "backlog=\"yes\""),
        ("m?follow=true", "\"follow\""),
        ("m?full=block&full=block", "full is given twice"),
        (&"i".repeat(129), "1 to 128 bytes, not 129"),
        ("", "1 to 128 bytes, not 0"),
        ("%ff", "UTF-8"),
    ] {
        let mut refused = put(bad).await;
        assert_eq!(refused.status, 400, "{bad}");
        let detail = refused.problem().await;
        assert!(detail.contains(named), "{bad}: {detail}");
    }
    assert_eq!(put(&"i".repeat(128)).await.status, 201);
    let mut over = put("third").await;
    assert_eq!((over.status, over.header("retry-after").is_some()), (503, true));
    assert!(over.problem().await.contains("queue.subscriptions_max"));
    let over = drain.get(&format!("{M}/third/queue")).await;
    assert_eq!((over.status, over.header("retry-after").is_some()), (503, true));
}

#[tokio::test]
async fn delete_finishes_after_its_linger() {
    let drain = Drain::new().await;
    let mut unknown = drain.send("DELETE", &format!("{M}/m"), &[]).await;
    assert_eq!(unknown.status, 404);
    unknown.problem().await;
    let mut queue = drain.get(&format!("{M}/m/queue")).await;
    assert_eq!(drain.send("DELETE", &format!("{M}/m?linger=150ms"), &[]).await.status, 202);
    let told = drain.json(&format!("{M}/m")).await;
    assert_eq!((&told["state"], told["finishes_at"].is_string()), (&"live".into(), true));
    drain.push("m", 0..2);
    assert_eq!(queue.until_end().await, (numbers(0..2), "finished".into()));
    let told = drain.json(&format!("{M}/m")).await;
    assert_eq!((&told["state"], &told["finishes_at"]), (&"finished".into(), &Value::Null));
    assert_eq!(drain.send("DELETE", &format!("{M}/m?linger=soon"), &[]).await.status, 400);
}

#[tokio::test]
async fn who_reads_the_old_queue_of_a_reopened_machine_reads_it_to_its_end() {
    let drain = Drain::new().await;
    let path = format!("{M}/m/queue");
    let mut old = drain.get(&path).await;
    drain.push("m", 0..2);
    drain.collector.finish("m");
    assert_eq!(drain.send("PUT", &format!("{M}/m"), &[]).await.status, 201);
    drain.push("m", 2..4);
    assert_eq!(old.until_end().await, (numbers(0..2), "finished".into()));
    assert_eq!(drain.get(&path).await.messages(2).await, numbers(2..4));
}

#[tokio::test]
async fn ids_are_percent_decoded() {
    let drain = Drain::new().await;
    drain.push("a/b c?ü", 0..1);
    assert_eq!(drain.json(&format!("{M}/a%2Fb%20c%3F%C3%BC")).await["machine_id"], "a/b c?ü");
    assert_eq!(drain.get(&format!("{M}/a%2Fb%20c%3F%C3%BC/logs")).await.messages(1).await, numbers(0..1));
}

#[tokio::test]
async fn machines_come_in_pages() {
    let drain = Drain::new().await;
    for machine in 0..30u64 {
        drain.push(&format!("m{machine}"), 0..machine + 1);
    }
    let page = drain.json(M).await;
    assert_eq!((page["machines"].as_array().unwrap().len(), &page["next"]), (30, &Value::Null));
    assert_eq!((&page["machines"][0]["machine_id"], &page["machines"][0]["lines"]), (&"m29".into(), &30.into()));
    for key in
        ["state", "bytes", "lines_per_second", "queue_lines", "latency_p99_seconds", "last_seen", "app_name", "region"]
    {
        assert!(page["machines"][0].get(key).is_some(), "{key}");
    }
    let first = drain.json(&format!("{M}?sort=bytes&limit=20")).await;
    let next = first["next"].as_str().unwrap();
    let second = drain.json(&format!("{M}?sort=bytes&limit=20&after={next}")).await;
    assert_eq!((second["machines"].as_array().unwrap().len(), &second["next"]), (10, &Value::Null));
}

#[tokio::test]
async fn every_mistake_is_a_problem_that_names_it() {
    let drain = Drain::new().await;
    for (method, path, status, named) in [
        ("GET", "/nothing", 404, "/nothing"),
        ("GET", "/api/v1/machines/never", 404, "never"),
        ("GET", "/api/v1/machines/m/unknown", 404, "unknown"),
        ("POST", "/api/v1/tail", 405, "POST"),
        ("OPTIONS", "/api/v1/stats", 405, "OPTIONS"),
        ("GET", "/api/v1/tail?item_timeout=5", 400, "item_timeout=\"5\""),
        ("GET", "/api/v1/tail?total_timeout=1.5s", 400, "500ms, 30s"),
        ("GET", "/api/v1/tail?max_lines=many", 400, "max_lines=\"many\""),
        ("GET", "/api/v1/tail?last=-1", 400, "last=\"-1\""),
        ("GET", "/api/v1/tail?follow=no", 400, "true or false"),
        ("GET", "/api/v1/tail?since=yesterday", 400, "since=\"yesterday\""),
        ("GET", "/api/v1/tail?after=x", 400, "after=\"x\""),
        ("GET", "/api/v1/tail?include=(", 400, "include=\"(\""),
        ("GET", "/api/v1/tail?exclude=%5Cw%7B1000%7D%7B100%7D", 400, "exclude="),
        ("GET", "/api/v1/tail?instance=m", 400, "machine, stream"),
        ("GET", "/api/v1/machines/m/logs?app=x", 400, "\"app\""),
        ("GET", "/api/v1/machines/m/queue?since=5m", 400, "\"since\""),
        ("GET", "/api/v1/stats?x=1", 400, "takes none"),
        ("GET", "/api/v1/machines?limit=0", 400, "1 to 10000"),
    ] {
        let mut answer = drain.send(method, path, &[]).await;
        assert_eq!(answer.status, status, "{path}");
        if status == 405 {
            assert_eq!(answer.header("allow"), Some("get, head"), "{path}");
        }
        let detail = answer.problem().await;
        assert!(detail.contains(named), "{path}: {detail}");
    }
    let mut bad = drain.send("GET", "/api/v1/tail", &[("Last-Event-ID", "x")]).await;
    assert_eq!(bad.status, 400);
    assert!(bad.problem().await.contains("Last-Event-ID"));
    assert_eq!(drain.collector.stats().viewers, 0);
}

const CALLS: [&str; 10] = [
    "/",
    "/api/v1/stats",
    "/api/v1/machines",
    "/api/v1/machines/m",
    "/api/v1/machines/m/queue?follow=false",
    "/api/v1/machines/m/logs?follow=false",
    "/api/v1/tail?follow=false",
    "/api/v1/rejected",
    "/api/v1/openapi.json",
    "/nothing",
];
const OPEN: [&str; 4] = ["/metrics", "/livez", "/readyz", "/healthz"];

#[tokio::test]
async fn with_a_token_only_health_and_metrics_answer_without() {
    let drain = Drain::with(|config| config.control.tokens = vec!["secret".into()]).await;
    drain.push("m", 0..1);
    for path in CALLS {
        let mut denied = drain.get(path).await;
        assert_eq!((denied.status, denied.header("www-authenticate")), (401, Some("bearer")), "{path}");
        denied.problem().await;
        let mut wrong = drain.send("GET", path, &[("Authorization", "Bearer secrets")]).await;
        assert_eq!(wrong.status, 401, "{path}");
        assert!(wrong.problem().await.starts_with("this token is not"), "{path}");
        let elsewhere =
            [("Host", "drain.example"), ("Origin", "https://evil.example"), ("Authorization", "Bearer secret")];
        let right = drain.send("GET", path, &elsewhere).await;
        assert_eq!(right.status, if path == "/nothing" { 404 } else { 200 }, "{path}");
        let basic = drain.send("GET", path, &[("Authorization", "Basic YW55OnNlY3JldA==")]).await;
        assert_eq!(basic.status, right.status, "{path}");
    }
    for path in OPEN {
        assert_eq!(drain.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn without_a_token_no_web_page_reads_a_developers_logs() {
    let drain = Drain::new().await;
    drain.push("m", 0..1);
    for path in CALLS {
        let expected = if path == "/nothing" { 404 } else { 200 };
        let mut rebound = drain.send("GET", path, &[("Host", "evil.example:8081")]).await;
        assert_eq!(rebound.status, 403, "{path}");
        rebound.problem().await;
        for (name, value) in [("Origin", "http://evil.example"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")] {
            assert_eq!(drain.send("GET", path, &[(name, value)]).await.status, 403, "{path} {value}");
        }
        assert_eq!(drain.send("GET", path, &[("Host", "localhost:1")]).await.status, expected, "{path}");
        let own = format!("http://{}", drain.addr);
        assert_eq!(drain.send("GET", path, &[("Origin", &own)]).await.status, expected, "{path}");
    }
    for path in OPEN {
        assert_eq!(drain.send("GET", path, &[("Host", "drain.internal:8081")]).await.status, 200, "{path}");
        assert_eq!(drain.send("GET", path, &[("Origin", "http://evil.example")]).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn stats_and_documents_are_json() {
    let drain = Drain::new().await;
    drain.push("m", 0..3);
    let stats = drain.json("/api/v1/stats").await;
    assert_eq!((&stats["lines_received"], &stats["lines_unrouted"]), (&3.into(), &3.into()));
    assert_eq!(drain.json("/api/v1/rejected").await, json!({ "rejected": [] }));
    assert_eq!(drain.json("/api/v1/openapi.json").await["openapi"], "3.1.0");
    assert_eq!(drain.json("/healthz").await, json!({ "status": "ok", "reasons": [] }));
    assert_eq!(drain.json("/readyz").await["status"], "ok");
    let mut index = drain.get("/").await;
    assert!(index.text().await.contains("/api/v1/machines/{id}/logs"));
}

#[tokio::test]
async fn shutting_down_ends_every_stream_behind_what_is_queued() {
    let drain = Drain::new().await;
    let paths = [format!("{M}/m/queue"), format!("{M}/m/logs"), format!("{M}/later/logs"), "/api/v1/tail".into()];
    let mut readers = Vec::new();
    for path in &paths {
        readers.push(drain.get(path).await);
    }
    drain.push("m", 0..2);
    let (addr, mut server) = (drain.addr, drain.server);
    let stopping = tokio::spawn(async move { server.stop().await });
    for (reader, path) in readers.iter_mut().zip(&paths) {
        let (shown, reason) = reader.until_end().await;
        let expected = if path.contains("later") { vec![] } else { numbers(0..2) };
        assert_eq!((shown, reason.as_str()), (expected, "shutdown"), "{path}");
    }
    timeout(SOON, stopping).await.unwrap().unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_connection_serves_one_answer_after_another() {
    let drain = Drain::new().await;
    drain.push("m", 0..2);
    let mut stream = BufReader::new(TcpStream::connect(drain.addr).await.unwrap());
    for _ in 0..3 {
        let request = format!("GET {M}/m/logs?follow=false HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n0\r\n\r\n") {
            assert_ne!(timeout(SOON, stream.read_line(&mut answer)).await.unwrap().unwrap(), 0);
        }
        assert!(answer.contains("caught_up"));
    }
}

async fn post(ingest: SocketAddr, body: &str) {
    let mut sender = TcpStream::connect(ingest).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    sender.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(SOON, sender.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn an_array_that_is_cut_off_where_nothing_stands_is_told_to_be_so() {
    let drain = Drain::new().await;
    post(drain.server.ingest_addr().unwrap(), "[{\"instance\":\"m\"},").await;
    let rejected = drain.json("/api/v1/rejected").await;
    let told = &rejected["rejected"][0];
    assert_eq!((&told["bytes"], &told["detail"]), (&"".into(), &"the body ends where more must come".into()));
}

#[tokio::test]
async fn the_other_rooms_are_heard_too() {
    let drain = Drain::new().await;
    let ingest = drain.server.ingest_addr().unwrap();
    let body = "{\"message\":\"of nobody\"}\n\u{1}nonsense\n{\"instance\":\"m\",\"message\":\"fine\"}\n";
    post(ingest, body).await;
    let rejected = drain.json("/api/v1/rejected").await;
    let records = rejected["rejected"].as_array().unwrap();
    let told: Vec<_> =
        records.iter().map(|one| (one["line"].as_u64().unwrap(), one["reason"].as_str().unwrap())).collect();
    assert_eq!(told, [(2, "malformed_json"), (1, "no_machine_id")]);
    assert_eq!((&records[1]["bytes"], &records[1]["detail"]), (&"{\"message\":\"of nobody\"}".into(), &Value::Null));
    assert!(records[0]["time"].as_str().unwrap().ends_with('Z'));
    let stats = drain.json("/api/v1/stats").await;
    assert_eq!((&stats["lines_rejected"], &stats["bodies_refused"]), (&2.into(), &0.into()));
    assert!(stats["body_bytes"].as_u64().unwrap() >= body.len() as u64);
    assert_eq!(stats["bodies_refused_by_reason"]["queue_full"], 0);
    let mut metrics = drain.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.text().await.contains("fleetdrain_lines_received_total 3"));
}

#[tokio::test]
async fn a_slow_queue_reader_does_not_pin_the_bodies_its_lines_came_in() {
    let drain = Drain::with(|config| {
        config.history.bytes = 64 << 10;
        config.queue.lines = 1_000_000;
        config.queue.bytes = 64 << 20;
    })
    .await;
    let mut queue = drain.get(&format!("{M}/m/queue")).await;
    let (own, others) = ("x".repeat(2000), "y".repeat(900 << 10));
    // The first bodies fill the connection; then the reader holds one in part.
    for body in 0..25 {
        let lines = (0..200).map(|line| record("m", &format!("{} {own}", body * 200 + line)));
        let others = (0..3).map(|_| record("other", &others));
        drain.push_records(&lines.chain(others).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drain.push("evicting", 0..2000);
    let stats = drain.collector.stats();
    assert!(stats.queue_lines > 300, "the reader is slow: {stats:?}");
    // The rest of a copy of its own lines, and the history; a body with the others' is twice as much.
    let beside_the_queue = stats.memory_used_bytes - stats.queue_bytes;
    assert!(beside_the_queue < 3 << 19, "{beside_the_queue} bytes are held beside the queue's");
    drain.collector.finish("m");
    let (lines, reason) = queue.until_end().await;
    assert_eq!((lines.len(), reason.as_str()), (5000, "finished"));
}

#[tokio::test]
async fn every_dropped_line_is_in_the_loss_journal() {
    let drain = Drain::with(|config| config.queue.lines = 10).await;
    let losses = async |query: &str| drain.json(&format!("/api/v1/losses{query}")).await;
    assert_eq!(losses("").await["losses"], json!([]));
    for machine in ["m", "n"] {
        assert_eq!(drain.send("PUT", &format!("{M}/{machine}?full=drop_oldest"), &[]).await.status, 201);
        // An empty queue takes any one body; then each body pushes out those before it.
        (0..5).for_each(|body| drain.push(machine, body * 10..body * 10 + 10));
    }
    let all = losses("").await;
    assert_eq!((&all["kept"], all["losses"].as_array().unwrap().len()), (&"memory".into(), 2));
    let stats = drain.json("/api/v1/stats").await;
    let lost: u64 = all["losses"].as_array().unwrap().iter().map(|loss| loss["lines"].as_u64().unwrap()).sum();
    assert_eq!((lost, &stats["queue_lines_dropped"]), (80, &80.into()));
    let of_one = losses("?machine=m&since=1h").await["losses"][0].clone();
    assert_eq!((&of_one["where"], &of_one["reason"]), (&"queue".into(), &"queue_full".into()));
    // The ids are those of the first and the last line that were dropped.
    let mut logs = drain.get(&format!("{M}/m/logs?follow=false")).await;
    let lines = logs.rest().await;
    assert_eq!((&of_one["first_id"], &of_one["last_id"]), (&lines[0]["id"], &lines[39]["id"]));
    assert_eq!(losses("?since=0s").await["losses"], json!([]));
    assert_eq!(losses("?machine=nobody").await["losses"], json!([]));
    assert_eq!(drain.get("/api/v1/losses?since=yesterday").await.status, 400);
    assert_eq!(drain.get("/api/v1/losses?machine=").await.status, 400);
}

/// A record of an app, on a stream.
fn app_record(machine: &str, app: &str, stream: &str, message: u64) -> Value {
    let app = json!({ "instance": machine, "name": app });
    json!({ "fly": { "app": app }, "stream": stream, "message": message.to_string() })
}

#[tokio::test]
async fn a_machine_over_its_limit_loses_the_excess_and_is_told_so() {
    let drain = Drain::with(|config| config.limit.machine.lines_per_second = 2).await;
    for machine in ["loud", "quiet"] {
        assert_eq!(drain.send("PUT", &format!("{M}/{machine}?streams=all"), &[]).await.status, 201);
    }
    let lines = (0..30).map(|number| app_record("loud", "web", "stdout", number));
    let exempt = app_record("loud", "web", "system", 30);
    let quiet = app_record("quiet", "web", "stdout", 31);
    drain.push_records(&lines.chain([exempt, quiet]).collect::<Vec<_>>());
    let mut queue = drain.get(&format!("{M}/loud/queue?follow=false")).await;
    let told = queue.rest().await;
    let messages: Vec<_> = told.iter().filter_map(|line| line["message"].as_str()?.parse::<u64>().ok()).collect();
    assert_eq!(messages, (0..20).chain([30]).collect::<Vec<_>>(), "a burst of ten seconds, and what is exempt");
    assert_eq!(told[21], json!({"event": "limited", "lines": 10}));
    assert_eq!(told[22], json!({"event": "end", "reason": "caught_up"}));
    let mut quiet = drain.get(&format!("{M}/quiet/queue?follow=false")).await;
    assert_eq!(quiet.messages(1).await, ["31"]);
    // Who looks sees all of it.
    let mut logs = drain.get(&format!("{M}/loud/logs?follow=false")).await;
    assert_eq!(logs.until_end().await.0.len(), 31);
    let stats = drain.json("/api/v1/stats").await;
    assert_eq!((&stats["lines_accepted"], &stats["queue_lines_delivered"]), (&32.into(), &22.into()));
    assert_eq!(stats["queue_lines_dropped_by_reason"]["limited"], 10);
    let loss = drain.json("/api/v1/losses").await["losses"][0].clone();
    assert_eq!((&loss["machine"], &loss["reason"], &loss["lines"]), (&"loud".into(), &"limited".into(), &10.into()));
    assert_eq!(loss["app"], "web");
}

#[tokio::test]
async fn an_app_over_its_limit_is_limited_over_all_its_machines() {
    let drain = Drain::with(|config| config.limit.app.bytes_per_second = 100).await;
    for machine in ["one", "two", "other"] {
        assert_eq!(drain.send("PUT", &format!("{M}/{machine}"), &[]).await.status, 201);
    }
    let of = |machine, app| (0..10).map(move |number| app_record(machine, app, "stdout", number));
    let records: Vec<_> = of("one", "web").chain(of("two", "web")).chain(of("other", "api")).collect();
    let bytes = records[0].to_string().len();
    drain.push_records(&records);
    // One more line passes while there is a byte left.
    let web = 1000_usize.div_ceil(bytes) as u64;
    let stats = drain.json("/api/v1/stats").await;
    assert_eq!(stats["queue_lines_dropped_by_reason"]["limited"], 20 - web, "{bytes} bytes a line");
    let mut other = drain.get(&format!("{M}/other/queue?follow=false")).await;
    assert_eq!(other.until_end().await.0.len(), 10);
    let mut two = drain.get(&format!("{M}/two/queue?follow=false")).await;
    let told = two.rest().await;
    assert_eq!(told[told.len() - 2], json!({"event": "limited", "lines": 20 - web}));
}
