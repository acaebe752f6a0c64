//! What senders rely on, over real sockets: framing, deadlines, early answers, tokens, encodings, the account.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a panic is the failure report, in the helpers too")]

mod support;

use std::{
    io::ErrorKind,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use fleetdrain::{
    budget::Budget,
    collector::{CollectorConfig, LogCollector, SubscribeOptions},
    config::{Config, Full},
    http::IngestListener,
    stream::{LogQueue, LogStream},
};
use support::Balances;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

const RECORD: &str = r#"{"instance":"a1","message":"hello"}"#;

struct Drain {
    addr: SocketAddr,
    collector: LogCollector,
    listener: IngestListener,
    _balances: Balances,
}

fn start(adjust: impl FnOnce(&mut Config)) -> Drain {
    let mut config = Config::default();
    config.ingest.listen = Some("127.0.0.1:0".parse().unwrap());
    config.memory.budget = 64 << 20;
    config.history.bytes = 1 << 20;
    config.backpressure.wait = Duration::from_millis(300);
    adjust(&mut config);
    let collector = LogCollector::new(CollectorConfig::from(&config));
    let listener = IngestListener::start(&config, collector.clone()).unwrap();
    let _balances = Balances(collector.clone());
    Drain { addr: listener.addr, collector, listener, _balances }
}

fn drain() -> Drain {
    start(|_| {})
}

struct Sender(TcpStream);

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
        self.head.lines().find(named).and_then(|line| line.split_once(':')).map(|(_, value)| value.trim())
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

impl Drain {
    async fn connect(&self) -> Sender {
        Sender(TcpStream::connect(self.addr).await.unwrap())
    }

    fn budget(&self) -> &Arc<Budget> {
        &self.listener.budget
    }

    /// Sends one request on a connection of its own and reads its answer.
    async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut sender = self.connect().await;
        sender.send(request).await;
        sender.answer().await
    }

    async fn post(&self, headers: &str, body: &str) -> Answer {
        self.ask(post(headers, body)).await
    }
}

fn post(headers: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: drain\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

impl Sender {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    async fn read_head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match tokio::time::timeout(PATIENCE, self.0.read_u8()).await.expect("an answer") {
                Ok(byte) => head.push(byte),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof && head.is_empty() => return None,
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
            }
        }
        Some(String::from_utf8(head).unwrap())
    }

    async fn answer(&mut self) -> Answer {
        let head = self.read_head().await.expect("an answer before the end");
        let status = head[9..12].parse().unwrap();
        let mut answer = Answer { status, head, body: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    /// Everything until the drain closes; a reset fails.
    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("an end").unwrap();
        String::from_utf8(rest).unwrap()
    }
}

#[tokio::test]
async fn hostile_framing_is_answered_400_and_nothing_behind_it_is_read() {
    let drain = drain();
    let cases: &[(&str, &str)] = &[
        ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "no Host"),
        ("POST / HTTP/1.1\r\nHost: a\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "two Hosts, even alike"),
        ("POST / HTTP/1.1\r\nHost: a\r\nhOST: b\r\nContent-Length: 0\r\n\r\n", "two Hosts in other case"),
        ("POST / HTTP/1.1\r\nHost: a b\r\nContent-Length: 0\r\n\r\n", "a Host that is two"),
        ("POST / HTTP/1.1\r\nHost: a/b\r\nContent-Length: 0\r\n\r\n", "a Host with a path"),
        ("POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n", "HTTP/1.0 without Host"),
        ("POST / HTTP/1.1\nHost: a\nContent-Length: 0\n\n", "bare LF throughout"),
        ("POST / HTTP/1.1\r\nHost: a\nContent-Length: 0\r\n\r\n", "one bare LF"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\n", "bare LF as the empty line"),
        ("POST / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\nContent-Length: 0\r\n\r\n", "bare CR in a value"),
        ("\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "two empty lines before the request"),
        ("\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "bare LF before the request"),
        ("POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\nContent-Length: 0\r\n\r\n", "a folded line"),
        ("POST / HTTP/1.1\r\n Host: a\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "blank before the first header"),
        ("POST / HTTP/1.1\r\nHost : a\r\nContent-Length: 0\r\n\r\n", "blank before a colon"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "blank before a colon, chunked"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde",
            "two lengths, even alike",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde", "two lengths"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nabcde", "a list of lengths"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nabcde", "a signed length"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nabcde", "a hexadecimal length"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", "an empty length"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "a negative length"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", "a length over 64 bits"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "both, turned",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "twice",
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "chunked listed twice"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "a coding before chunked"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", "identity is no longer one"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", "quoted"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", "with a parameter"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "vertical tab"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", "an empty one"),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "chunked in HTTP/1.0"),
        ("POST / HTTP/2.0\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "another version"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "the preface of HTTP/2"),
        ("POST /\r\n\r\n", "HTTP/0.9"),
        ("POST  /  HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "more than one blank"),
        ("POST /a b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "a blank in the target"),
        ("POST / HTTP/1.1\r\nHost: a\r\nX\r\nContent-Length: 0\r\n\r\n", "a header without a colon"),
        ("POST / HTTP/1.1\r\nHost: a\r\nX: \0\r\nContent-Length: 0\r\n\r\n", "NUL in a value"),
        ("\x16\x03\x01\x02\x00", "TLS"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "a chunk size that is none"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n", "blank behind a size"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", "bare LF behind a size"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "more than its size"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\n", "over 64 bits"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX y\r\n\r\n", "a broken trailer"),
    ];
    for (head, why) in cases {
        let mut sender = drain.connect().await;
        sender.send(format!("{head}{}", post("", RECORD))).await;
        let answer = sender.answer().await;
        assert_eq!(answer.status, 400, "{why}: {answer:?}");
        assert!(answer.closes(), "{why}: {answer:?}");
        assert_eq!(answer.json()["reason"], "bad_request", "{why}");
        assert_eq!(sender.rest().await, "", "{why}: something behind it was answered");
    }
}

#[tokio::test]
async fn lawful_framing_is_taken() {
    let drain = drain();
    let length = RECORD.len();
    for (request, why) in [
        (post("", RECORD), "plain"),
        (format!("\r\n{}", post("", RECORD)), "one empty line before"),
        (post("X: a\u{e9}\t b\r\n", RECORD), "obs-text and tabs"),
        (
            format!("POST http://drain/x HTTP/1.1\r\nhost:drain:80\r\ncontent-length:{length}\r\n\r\n{RECORD}"),
            "absolute form",
        ),
        (
            format!("PUT /any/path?q=1 HTTP/1.1\r\nHost: [::1]:8080\r\nContent-Length: 00{length}\r\n\r\n{RECORD}"),
            "zeros",
        ),
        (format!("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{RECORD}"), "HTTP/1.0"),
        (
            format!(
                "POST / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: CHUNKED\r\n\r\n{length:X};a=\"b\"\r\n{RECORD}\r\n000\r\nX: y\r\n\r\n"
            ),
            "chunked",
        ),
    ] {
        let answer = drain.ask(&request).await;
        assert_eq!((answer.status, &answer.json()["received"]), (200, &1.into()), "{why}: {answer:?}");
    }
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed_even_if_it_asks_to_be_kept() {
    let drain = drain();
    let mut sender = drain.connect().await;
    let old = post("Connection: keep-alive\r\n", RECORD).replace("HTTP/1.1", "HTTP/1.0");
    sender.send(format!("{old}{}", post("", RECORD))).await;
    let answer = sender.answer().await;
    assert_eq!((answer.status, answer.closes()), (200, true), "{answer:?}");
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_the_hostile_one_last() {
    let drain = drain();
    let mut sender = drain.connect().await;
    let two = format!("{RECORD}\n{RECORD}\n");
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
        two.len()
    );
    let hostile = "POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    sender
        .send(format!(
            "{}{chunked}HEAD / HTTP/1.1\r\nHost: a\r\n\r\n{}{hostile}{chunked}",
            post("", RECORD),
            post("", "")
        ))
        .await;
    assert_eq!(sender.answer().await.json()["received"], 1);
    assert_eq!(sender.answer().await.json()["received"], 2);
    let head = sender.read_head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(sender.answer().await.json()["received"], 0);
    assert_eq!(sender.answer().await.status, 400);
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn a_repeated_body_does_not_end_the_connection() {
    let drain = drain();
    let mut sender = drain.connect().await;
    let keyed = |key: &str| post(&format!("Idempotency-Key: {key}\r\n"), RECORD);
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{RECORD}\r\n0\r\n\r\n",
        RECORD.len()
    );
    sender.send([keyed("k"), keyed("k"), chunked, keyed("l")].concat()).await;
    for duplicate in [false, true, true, false] {
        let answer = sender.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, None));
        assert_eq!(answer.json().get("duplicate").is_some_and(|told| told == true), duplicate);
    }
}

#[tokio::test]
async fn a_target_that_is_none_is_refused_like_any_other_mistake() {
    let drain = drain();
    for target in ["/<x>", "/`", "/?a=\"b\"", "?x", "a/b", "http://", "[::1"] {
        let answer = drain.ask(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!((answer.status, answer.header("content-type")), (400, Some("application/problem+json")), "{target}");
    }
    for target in ["/%3Cx%3E", "/a{b}|c", "/?a=b&c", "http://a/b", "/é"] {
        let answer = drain.ask(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{target}");
    }
}

#[tokio::test]
async fn a_thousand_pipelined_requests_are_all_answered() {
    let drain = drain();
    let mut sender = drain.connect().await;
    let all = post("", RECORD).repeat(1000);
    let (mut read, mut write) = sender.0.split();
    let send = async { write.write_all(all.as_bytes()).await.unwrap() };
    let answers = async {
        let mut text = Vec::new();
        while String::from_utf8_lossy(&text).matches("HTTP/1.1 200").count() < 1000 {
            let mut piece = [0; 1 << 16];
            let length = tokio::time::timeout(PATIENCE, read.read(&mut piece)).await.expect("answers").unwrap();
            assert!(length > 0, "closed early");
            text.extend_from_slice(&piece[..length]);
        }
    };
    tokio::join!(send, answers);
}

#[tokio::test]
async fn a_request_in_single_bytes_is_taken() {
    let drain = drain();
    let mut sender = drain.connect().await;
    sender.0.set_nodelay(true).unwrap();
    let length = RECORD.len();
    let request =
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{RECORD}\r\n0\r\n\r\n");
    for byte in request.as_bytes() {
        sender.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(sender.answer().await.json()["received"], 1);
}

#[tokio::test]
async fn large_bodies_flow_on_one_connection_by_length_and_chunked() {
    let drain = drain();
    let mut sender = drain.connect().await;
    let body = format!("{RECORD}\n").repeat(80_000);
    for _ in 0..2 {
        sender.send(post("", &body)).await;
        assert_eq!(sender.answer().await.json()["received"], 80_000);
        sender.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for chunk in body.as_bytes().chunks(10_007) {
            sender.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()).await;
        }
        sender.send("0\r\n\r\n").await;
        let answer = sender.answer().await;
        assert_eq!(answer.json()["received"], 80_000);
        assert!(!answer.closes(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_sender_that_half_closes_still_gets_its_answer() {
    let drain = drain();
    let mut sender = drain.connect().await;
    sender.send(post("", RECORD)).await;
    sender.0.shutdown().await.unwrap();
    assert_eq!(sender.answer().await.status, 200);
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn expect_100_continue_gets_the_100_then_the_answer() {
    let drain = drain();
    let mut sender = drain.connect().await;
    let request = post("Expect: 100-continue\r\n", RECORD);
    let (head, body) = request.split_at(request.len() - RECORD.len());
    sender.send(head).await;
    assert_eq!(sender.read_head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    sender.send(body).await;
    assert_eq!(sender.answer().await.status, 200);
}

#[tokio::test]
async fn expect_100_continue_gets_the_refusal_instead_of_the_100() {
    let drain = start(|config| config.ingest.tokens = vec!["secret".into()]);
    let mut sender = drain.connect().await;
    sender.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n").await;
    let answer = sender.answer().await;
    assert_eq!((answer.status, answer.closes()), (401, true), "{answer:?}");
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn an_early_413_is_read_by_who_sends_on_without_looking() {
    let drain = start(|config| config.ingest.body_bytes_max = 1 << 20);
    let mut sender = drain.connect().await;
    let length = 50 << 20;
    sender.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")).await;
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..50 {
        sender.send(&piece).await;
    }
    let answer = sender.answer().await;
    assert_eq!((answer.status, answer.closes()), (413, true), "{answer:?}");
    assert_eq!(answer.json()["reason"], "too_large");
    assert!(answer.body.contains("ingest.body_bytes_max = 1048576"), "{answer:?}");
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn an_early_413_is_read_by_who_would_send_100_mb_slowly() {
    let drain = start(|config| config.ingest.body_bytes_max = 1 << 20);
    let mut sender = drain.connect().await;
    sender.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 104857600\r\n\r\n").await;
    for _ in 0..20 {
        sender.send(&[b'x'; 1000]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(sender.answer().await.status, 413);
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn a_chunked_body_over_the_bound_is_answered_413_without_a_reset() {
    let drain = start(|config| config.ingest.body_bytes_max = 1 << 20);
    let mut sender = drain.connect().await;
    sender.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let chunk = [b"100000\r\n".as_slice(), &vec![b'x'; 1 << 20], b"\r\n"].concat();
    for _ in 0..20 {
        sender.send(&chunk).await;
    }
    assert_eq!(sender.answer().await.status, 413);
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn a_head_begun_and_not_finished_is_answered_408() {
    let drain = start(|config| config.ingest.header_deadline = Duration::from_millis(200));
    let mut sender = drain.connect().await;
    sender.send("POST / HTTP/1.1\r\nHost: a\r\n").await;
    let answer = sender.answer().await;
    assert_eq!((answer.status, answer.closes()), (408, true), "{answer:?}");
    assert_eq!(answer.json()["reason"], "too_slow");
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn a_second_head_begun_and_not_finished_is_answered_408_too() {
    let drain = start(|config| config.ingest.header_deadline = Duration::from_millis(200));
    let mut sender = drain.connect().await;
    sender.send(format!("{}POST /", post("", RECORD))).await;
    assert_eq!(sender.answer().await.status, 200);
    assert_eq!(sender.answer().await.status, 408);
}

#[tokio::test]
async fn a_slow_body_is_answered_408() {
    let drain = start(|config| config.ingest.body_deadline = Duration::from_millis(200));
    for head in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let mut sender = drain.connect().await;
        sender.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}")).await;
        let answer = sender.answer().await;
        assert_eq!((answer.status, answer.closes()), (408, true), "{answer:?}");
        assert_eq!(sender.rest().await, "");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let drain = start(|config| config.ingest.idle = Duration::from_millis(300));
    let mut fresh = drain.connect().await;
    let mut used = drain.connect().await;
    used.send(post("", RECORD)).await;
    assert_eq!(used.answer().await.status, 200);
    let since = Instant::now();
    assert_eq!(fresh.rest().await, "");
    assert_eq!(used.rest().await, "");
    let waited = since.elapsed();
    assert!(waited >= Duration::from_millis(250) && waited < Duration::from_secs(2), "{waited:?}");
}

#[tokio::test]
async fn a_connection_in_use_outlives_the_idle_deadline() {
    let drain = start(|config| config.ingest.idle = Duration::from_millis(300));
    let mut sender = drain.connect().await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        sender.send(post("", RECORD)).await;
        assert_eq!(sender.answer().await.status, 200);
    }
}

#[tokio::test]
async fn heads_are_bounded_in_bytes_and_lines() {
    let drain = drain();
    assert_eq!(drain.post(&format!("X: {}\r\n", "y".repeat(30_000)), RECORD).await.status, 200);
    assert_eq!(drain.post(&format!("X: {}\r\n", "y".repeat(70_000)), RECORD).await.status, 431);
    assert_eq!(drain.post(&"X: y\r\n".repeat(98), RECORD).await.status, 200);
    assert_eq!(drain.post(&"X: y\r\n".repeat(101), RECORD).await.status, 431);
}

#[tokio::test]
async fn head_is_exactly_200_on_any_path_and_other_methods_are_405() {
    let drain = drain();
    for path in ["/", "/any/thing", "/livez"] {
        let mut sender = drain.connect().await;
        sender.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert!(sender.read_head().await.unwrap().starts_with("HTTP/1.1 200 "));
    }
    for method in ["GET", "DELETE", "OPTIONS", "CONNECT", "FLEETDRAIN-REFUSED"] {
        let target = if method == "CONNECT" { "a:1" } else { "/logs" };
        let answer = drain.ask(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST, PUT, HEAD")), "{method}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
}

#[tokio::test]
async fn a_token_is_asked_for_as_bearer_or_basic_password() {
    let drain = start(|config| config.ingest.tokens = vec!["old".into(), "new".into()]);
    for (authorization, status) in [
        ("Authorization: Bearer old\r\n", 200),
        ("authorization: bearer new\r\n", 200),
        ("Authorization: Basic dXNlcjpuZXc=\r\n", 200),
        ("Authorization: Basic dXNlcjp3cm9uZw==\r\n", 401),
        ("Authorization: Bearer wrong\r\n", 401),
        ("", 401),
    ] {
        let answer = drain.post(authorization, RECORD).await;
        assert_eq!(answer.status, status, "{authorization}");
        if status == 401 {
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert_eq!(answer.json()["reason"], "unauthorized");
        }
        let mut sender = drain.connect().await;
        sender.send(format!("HEAD / HTTP/1.1\r\nHost: a\r\n{authorization}\r\n")).await;
        let head = sender.read_head().await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{authorization}: {head}");
    }
    assert_eq!(drain.ask("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn unknown_and_stacked_encodings_are_415() {
    let drain = drain();
    for (headers, status) in [
        ("Content-Encoding: identity\r\n", 200),
        ("Content-Encoding: ,\r\nContent-Encoding: identity ,\r\n", 200),
        ("Content-Encoding: , gzip\r\n", 400),
        ("Content-Encoding: gzip,,zstd\r\n", 415),
        ("Content-Encoding: IDENTITY\r\n", 200),
        ("Content-Encoding: br\r\n", 415),
        ("Content-Encoding: gzip, zstd\r\n", 415),
        ("Content-Encoding: identity, identity\r\n", 415),
        ("Content-Encoding: gzip\r\n", 400),
        ("Content-Encoding: ZSTD\r\n", 400),
        ("Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n", 415),
    ] {
        let answer = drain.post(headers, RECORD).await;
        assert_eq!(answer.status, status, "{headers}: {answer:?}");
        if status == 415 {
            assert_eq!(answer.json()["reason"], "unsupported_encoding");
        }
    }
}

#[tokio::test]
async fn encoded_bodies_are_decoded() {
    let drain = drain();
    let body = format!("{RECORD}\n").repeat(3000);
    let gzip = || {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, body.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    for (coding, bytes) in [("X-Gzip", gzip()), ("zstd", zstd::encode_all(body.as_bytes(), 1).unwrap())] {
        let length = bytes.len();
        let head =
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: {coding}\r\nContent-Length: {length}\r\n\r\n");
        let answer = drain.ask([head.into_bytes(), bytes].concat()).await;
        assert_eq!((answer.status, &answer.json()["received"]), (200, &3000.into()), "{coding}");
    }
}

#[tokio::test]
async fn a_bomb_is_413() {
    let drain = start(|config| config.ingest.decoded_bytes_max = 1 << 20);
    let bytes = zstd::encode_all(&vec![b' '; 8 << 20][..], 1).unwrap();
    let head =
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: zstd\r\nContent-Length: {}\r\n\r\n", bytes.len());
    assert_eq!(drain.ask([head.into_bytes(), bytes].concat()).await.status, 413);
    assert_eq!(drain.budget().used(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn bombs_that_do_not_fit_beside_each_other_are_413_all_the_same() {
    const DECODED: usize = 16 << 20;
    let turns = (std::thread::available_parallelism().unwrap().get() / 2).max(1);
    let bombs = 16.max(2 * turns);
    let drain = start(|config| {
        config.ingest.decoded_bytes_max = DECODED;
        config.backpressure.wait = Duration::ZERO;
        // Room for those that have a turn, and for the mebibyte that each may have without one; an eighth is reserved.
        config.memory.budget = (turns * DECODED + bombs * (2 << 20)) * 8 / 7;
    });
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut encoder, &vec![b' '; 64 << 20]).unwrap();
    let bytes = encoder.finish().unwrap();
    let head =
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", bytes.len());
    let request = [head.into_bytes(), bytes].concat();
    let answers = futures_util::future::join_all((0..bombs).map(|_| drain.ask(&request))).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, vec![413; bombs], "none has to wait for what another one holds");
    assert_eq!(drain.budget().used(), 0);
}

#[tokio::test]
async fn every_record_is_accounted_for() {
    let drain = drain();
    let answer = drain.post("", &format!("{RECORD}\n\n{{\"x\":1}}\nnope\n{RECORD}\n")).await;
    assert_eq!((answer.status, answer.header("fleetdrain-ack")), (200, Some("memory")));
    let json = answer.json();
    assert_eq!((&json["received"], &json["rejected"]), (&4.into(), &2.into()));
    let fates: u64 =
        ["accepted", "filtered", "unrouted", "rejected"].iter().map(|&fate| json[fate].as_u64().unwrap()).sum();
    assert_eq!(fates, 4);
    assert_eq!(json["errors"][1], serde_json::json!({"record": 3, "line": 4, "reason": "malformed_json"}));
    assert!(json["note"].is_string());
    assert_eq!(drain.listener.rejected(), 2);
}

#[tokio::test]
async fn handshakes_and_empty_bodies_are_200_and_unreadable_ones_400() {
    let drain = drain();
    for (body, status, received) in
        [("", 200, 0), ("\r\n \n", 200, 0), ("{}", 200, 1), (r#"{"content":"tests"}"#, 200, 1), ("nope\nnope", 400, 0)]
    {
        let answer = drain.post("", body).await;
        assert_eq!(answer.status, status, "{body:?}: {answer:?}");
        if status == 200 {
            assert_eq!((&answer.json()["received"], &answer.json()["errors"].is_array()), (&received.into(), &true));
        }
    }
    assert_eq!(drain.budget().used(), 0);
}

#[tokio::test]
async fn a_repeated_key_is_answered_as_before_and_taken_once() {
    let drain = drain();
    let key = "Idempotency-Key: k1\r\n";
    let first = drain.post(key, RECORD).await.json();
    let again = drain.post(key, RECORD).await;
    assert_eq!((again.status, &again.json()["duplicate"]), (200, &true.into()));
    assert_eq!((&first["duplicate"], &first["received"]), (&serde_json::Value::Null, &again.json()["received"]));
    assert_eq!(drain.post(&format!("Idempotency-Key: {}\r\n", "k".repeat(129)), RECORD).await.status, 400);
    assert_eq!(drain.post(&format!("Idempotency-Key: {}\r\n", "k".repeat(128)), RECORD).await.status, 200);
}

#[tokio::test]
async fn a_key_under_way_is_503_and_forgotten_when_its_body_is_refused() {
    let drain = start(|config| config.ingest.body_deadline = Duration::from_millis(400));
    let mut slow = drain.connect().await;
    slow.send("POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: k\r\nContent-Length: 100\r\n\r\n{").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let meanwhile = drain.post("Idempotency-Key: k\r\n", RECORD).await;
    assert_eq!((meanwhile.status, meanwhile.header("retry-after")), (503, Some("1")));
    assert_eq!(slow.answer().await.status, 408);
    let after = drain.post("Idempotency-Key: k\r\n", RECORD).await;
    assert_eq!((after.status, &after.json()["duplicate"]), (200, &serde_json::Value::Null));
}

#[tokio::test]
async fn without_room_the_refusal_comes_instead_of_the_100() {
    let drain = drain();
    let budget = Arc::clone(drain.budget());
    let all = budget.try_reserve(budget.body_bytes_max()).unwrap();
    for length in [format!("Content-Length: {}", RECORD.len()), "Transfer-Encoding: chunked".to_owned()] {
        let mut sender = drain.connect().await;
        sender.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{length}\r\nExpect: 100-continue\r\n\r\n")).await;
        let answer = sender.answer().await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    }
    drop(all);
    let mut sender = drain.connect().await;
    sender.send(post("Expect: 100-continue\r\n", RECORD)).await;
    assert_eq!(sender.read_head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(sender.answer().await.status, 200);
}

#[tokio::test]
async fn without_room_a_sender_is_held_then_refused_503() {
    let drain = drain();
    let budget = Arc::clone(drain.budget());
    let all = budget.try_reserve(budget.body_bytes_max()).unwrap();
    let since = Instant::now();
    let answer = drain.post("", RECORD).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    assert_eq!(answer.json()["reason"], "memory");
    assert!(since.elapsed() >= Duration::from_millis(300), "{:?}", since.elapsed());
    assert_eq!(drain.ask("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 503);
    drop(all);
    assert_eq!(drain.ask("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_held_sender_is_taken_as_soon_as_there_is_room() {
    let drain = start(|config| config.backpressure.wait = Duration::from_secs(10));
    let budget = Arc::clone(drain.budget());
    let all = budget.try_reserve(budget.body_bytes_max()).unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(all);
    };
    let since = Instant::now();
    let (answer, ()) = tokio::join!(drain.post("", RECORD), release);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(since.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn no_more_senders_are_held_than_may_be() {
    let drain = start(|config| {
        config.backpressure.wait = Duration::from_secs(10);
        config.backpressure.waiting_max = 1;
    });
    let budget = Arc::clone(drain.budget());
    let all = budget.try_reserve(budget.body_bytes_max()).unwrap();
    let second = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let since = Instant::now();
        let answer = drain.post("", RECORD).await;
        assert!(since.elapsed() < Duration::from_secs(5));
        drop(all);
        answer
    };
    let (first, second) = tokio::join!(drain.post("", RECORD), second);
    assert_eq!((first.status, second.status), (200, 503));
}

#[tokio::test]
async fn a_body_that_an_empty_budget_could_not_hold_is_413_at_once() {
    let drain = start(|config| config.memory.budget = 1 << 20);
    let answer = drain.post("", &"x".repeat(1 << 20)).await;
    assert_eq!((answer.status, &answer.json()["reason"]), (413, &"too_large".into()));
    assert_eq!(drain.budget().used(), 0);
}

#[tokio::test]
async fn a_sender_that_leaves_amid_a_body_leaves_nothing_behind() {
    let drain = drain();
    let budget = Arc::clone(drain.budget());
    let mut sender = drain.connect().await;
    sender.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n{RECORD}")).await;
    while budget.used() == 0 {
        tokio::task::yield_now().await;
    }
    drop(sender);
    let since = Instant::now();
    while budget.used() > 0 {
        assert!(since.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A drain with a machine `full` whose queue has no room, and the queue, which must live.
async fn with_full_queue(wait: Duration) -> (Drain, LogQueue) {
    let drain = start(|config| {
        config.backpressure.wait = wait;
        config.queue.lines = 1;
    });
    let queue = full_queue(&drain).await;
    (drain, queue)
}

/// Fills the queue of the machine `full` with one line.
async fn full_queue(drain: &Drain) -> LogQueue {
    let block = SubscribeOptions { full: Some(Full::Block), ..SubscribeOptions::default() };
    let (queue, _) = drain.collector.subscribe_with("full", block).unwrap();
    let answer = drain.post("", &RECORD.replace("a1", "full")).await;
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &1.into()));
    queue
}

#[tokio::test]
async fn a_full_queue_is_429_after_the_wait_and_nothing_is_taken() {
    let (drain, _queue) = with_full_queue(Duration::from_millis(300)).await;
    let (used, since) = (drain.budget().used(), Instant::now());
    let body = format!("{RECORD}\n{}", RECORD.replace("a1", "full"));
    let answer = drain.post("Idempotency-Key: k\r\n", &body).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    assert_eq!(answer.json()["reason"], "queue_full");
    assert!(since.elapsed() >= Duration::from_millis(300));
    assert_eq!(drain.budget().used(), used);
    assert_eq!(drain.collector.stats().lines_received, 1);
    assert_eq!(drain.listener.refused("queue_full"), 1);
}

#[tokio::test]
async fn a_sender_held_for_a_full_queue_is_taken_when_its_reader_reads() {
    let (drain, queue) = with_full_queue(Duration::from_secs(8)).await;
    let read = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        LogStream::new(queue).next_batch().await
    };
    let body = RECORD.replace("a1", "full");
    let (answer, _) = tokio::join!(drain.post("", &body), read);
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &1.into()), "{answer:?}");
}

#[tokio::test]
async fn a_held_sender_is_taken_once_the_full_queue_has_been_without_a_reader() {
    let (drain, queue) = with_full_queue(Duration::from_secs(15)).await;
    drop(queue);
    let since = Instant::now();
    let answer = drain.post("", &RECORD.replace("a1", "full")).await;
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &1.into()), "{answer:?}");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_held_sender_is_taken_once_the_full_queue_has_stalled() {
    let drain = start(|config| {
        config.backpressure.wait = Duration::from_secs(15);
        (config.queue.lines, config.queue.stalled_after) = (1, Duration::from_millis(500));
    });
    let _queue = full_queue(&drain).await;
    let since = Instant::now();
    let answer = drain.post("", &RECORD.replace("a1", "full")).await;
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &1.into()), "{answer:?}");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_sender_held_for_the_second_of_two_queues_is_refused_in_time() {
    let (drain, _queue) = with_full_queue(Duration::from_millis(300)).await;
    let block = SubscribeOptions { full: Some(Full::Block), ..SubscribeOptions::default() };
    let _roomy = drain.collector.subscribe_with("a1", block).unwrap();
    let since = Instant::now();
    let answer = drain.post("", &format!("{RECORD}\n{}", RECORD.replace("a1", "full"))).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    // What the first queue had promised is given back at each try, and must not be taken for room.
    assert!(since.elapsed() < Duration::from_millis(900), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_held_sender_that_leaves_is_let_go_at_once() {
    let (drain, _queue) = with_full_queue(Duration::from_secs(60)).await;
    let used = drain.budget().used();
    let mut sender = drain.connect().await;
    sender.send(post("", &RECORD.replace("a1", "full"))).await;
    while drain.budget().used() == used {
        tokio::task::yield_now().await;
    }
    drop(sender);
    let since = Instant::now();
    while drain.budget().used() > used {
        assert!(since.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(drain.collector.stats().lines_received, 1);
}

#[tokio::test]
async fn an_offered_upgrade_changes_nothing() {
    let drain = start(|config| config.ingest.body_bytes_max = 1 << 20);
    let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    let mut sender = drain.connect().await;
    for _ in 0..2 {
        sender.send(post(upgrade, RECORD)).await;
        assert_eq!(sender.answer().await.status, 200);
    }
    sender.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{upgrade}Content-Length: 20971520\r\n\r\n")).await;
    for _ in 0..20 {
        sender.send(vec![b'x'; 1 << 20]).await;
    }
    assert_eq!(sender.answer().await.status, 413);
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn a_body_where_none_is_wanted_is_thrown_away() {
    let drain = drain();
    let mut sender = drain.connect().await;
    sender.send(post("", RECORD).replace("POST", "DELETE")).await;
    let answer = sender.answer().await;
    assert_eq!((answer.status, answer.closes()), (405, true), "{answer:?}");
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn a_body_that_does_not_end_before_the_shutdown_is_503() {
    let drain = drain();
    let mut sender = drain.connect().await;
    sender.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{").await;
    while drain.budget().used() == 0 {
        tokio::task::yield_now().await;
    }
    let since = Instant::now();
    let stop = tokio::spawn(drain.listener.stop());
    let answer = sender.answer().await;
    assert_eq!((answer.status, &answer.json()["reason"]), (503, &"shutting_down".into()), "{answer:?}");
    stop.await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
}

#[tokio::test]
async fn over_the_cap_a_connection_is_answered_503() {
    let drain = start(|config| config.ingest.connections_max = 1);
    let mut first = drain.connect().await;
    first.send(post("", RECORD)).await;
    assert_eq!(first.answer().await.status, 200);
    let answer = drain.post("", RECORD).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    drop(first);
    let since = Instant::now();
    while drain.post("", RECORD).await.status != 200 {
        assert!(since.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_lets_the_body_under_way_be_answered() {
    let drain = drain();
    let mut idle = drain.connect().await;
    idle.send(post("", RECORD)).await;
    assert_eq!(idle.answer().await.status, 200);
    let used = drain.budget().used();
    let mut busy = drain.connect().await;
    let request = post("", RECORD);
    busy.send(&request[..request.len() - 5]).await;
    while drain.budget().used() == used {
        tokio::task::yield_now().await;
    }
    let stop = tokio::spawn(drain.listener.stop());
    assert_eq!(idle.rest().await, "");
    busy.send(&request[request.len() - 5..]).await;
    let answer = busy.answer().await;
    assert_eq!((answer.status, answer.closes()), (200, true), "{answer:?}");
    drop(busy);
    tokio::time::timeout(PATIENCE, stop).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_was_there_before_the_shutdown_has_its_answer() {
    let drain = drain();
    let mut senders = Vec::new();
    for _ in 0..8 {
        let mut sender = drain.connect().await;
        sender.send(post("", RECORD)).await;
        assert_eq!(sender.answer().await.status, 200);
        senders.push(sender);
    }
    // The listener's tasks share this thread: none of them has seen the request before the shutdown begins.
    for sender in &mut senders {
        sender.send(post("", RECORD)).await;
    }
    let stop = tokio::spawn(drain.listener.stop());
    for mut sender in senders {
        let answer = sender.answer().await;
        assert_eq!((answer.status, answer.closes()), (503, true), "{answer:?}");
    }
    tokio::time::timeout(PATIENCE, stop).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_compressed_body_whose_encoding_was_not_named_is_told_so() {
    let drain = drain();
    let gzip = [&[0x1f, 0x8b, 8, 0][..], b"anything"].concat();
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", gzip.len());
    let answer = drain.ask([head.as_bytes(), &gzip].concat()).await;
    let detail = answer.json()["detail"].to_string();
    assert!(answer.status == 400 && detail.contains("Content-Encoding: gzip"), "{answer:?}");
}
