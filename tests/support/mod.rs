//! What the end-to-end tests share: a small HTTP client, records of Fly's shape, and the balances.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a panic here is a test's failure report")]

pub(crate) mod drain;
// The module `testing` has it behind a feature that these tests run without, too.
#[allow(unreachable_pub, reason = "public where it is at home")]
#[path = "../../src/testing/record.rs"]
mod record;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use fleetdrain::LogCollector;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

pub(crate) use self::record::FlyRecord;

/// One keep-alive connection.
pub(crate) struct Client {
    addr: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { addr, sender }
    }

    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path).header("host", self.addr.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.ready().await.unwrap();
        self.sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap()
    }

    pub(crate) async fn post(&mut self, headers: &[(&str, &str)], body: impl Into<Bytes>) -> (StatusCode, Value) {
        read_json(self.send(Method::POST, "/", headers, body).await).await
    }

    /// The status of a posted body; `None` when the connection was closed instead.
    pub(crate) async fn try_post(&mut self, body: String) -> Option<StatusCode> {
        self.sender.ready().await.ok()?;
        let request = Request::post("/").header("host", self.addr.to_string()).body(Full::new(body.into())).unwrap();
        self.sender.send_request(request).await.ok().map(|response| response.status())
    }

    pub(crate) async fn call(&mut self, method: Method, path: &str) -> (StatusCode, Value) {
        read_json(self.send(method, path, &[], "").await).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Lines {
        Lines { response: self.send(Method::GET, path, &[], "").await, buffer: Vec::new() }
    }
}

/// The text that a path answers.
pub(crate) async fn text(addr: SocketAddr, path: &str) -> String {
    let response = Client::connect(addr).await.send(Method::GET, path, &[], "").await;
    assert_eq!(response.status(), StatusCode::OK);
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn read_json(response: Response<Incoming>) -> (StatusCode, Value) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// The lines of an NDJSON answer, as they come.
pub(crate) struct Lines {
    pub(crate) response: Response<Incoming>,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line that is not a keep-alive; `None` at the end of the body.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.len() > 1 {
                    return Some(serde_json::from_slice(&line).unwrap());
                }
                continue;
            }
            let frame = tokio::time::timeout(Duration::from_secs(60), self.response.body_mut().frame());
            match frame.await.expect("a stream neither ends nor goes on")? {
                Ok(frame) => self.buffer.extend_from_slice(frame.data_ref().unwrap()),
                Err(_) => return None,
            }
        }
    }
}

/// A record as Fly's shipper sends it.
pub(crate) fn fly_record(machine: &str, message: &str) -> String {
    FlyRecord::new(machine, message).to_string()
}

/// Asserts the balances of the contract on what `stats` answers.
pub(crate) fn assert_balances(stats: &Value) {
    let count = |name: &str| stats[name].as_u64().unwrap_or_else(|| panic!("{name} in {stats}"));
    let fates = ["lines_accepted", "lines_filtered", "lines_unrouted", "lines_rejected"];
    assert_eq!(count("lines_received"), fates.map(count).iter().sum::<u64>(), "{stats}");
    let went = ["queue_lines_delivered", "queue_lines_dropped", "queue_lines"];
    assert_eq!(count("queue_lines_in"), went.map(count).iter().sum::<u64>(), "{stats}");
    if stats.get("spool_lines_in").is_some() {
        let went = ["spool_lines_released", "spool_lines_dropped", "spool_lines"];
        assert_eq!(count("spool_lines_in"), went.map(count).iter().sum::<u64>(), "{stats}");
    }
    for sink in stats["sinks"].as_array().unwrap_or_else(|| panic!("sinks in {stats}")) {
        let count = |name: &str| sink[name].as_u64().unwrap_or_else(|| panic!("{name} in {sink}"));
        let went = ["lines_delivered", "lines_dropped", "lines_in_flight"];
        assert_eq!(count("lines_in"), went.map(count).iter().sum::<u64>(), "{sink}");
        let reasons = sink["lines_dropped_by_reason"].as_object().unwrap_or_else(|| panic!("reasons in {sink}"));
        assert_eq!(count("lines_dropped"), reasons.values().filter_map(Value::as_u64).sum::<u64>(), "{sink}");
    }
}

/// Asserts the balances when a test is over: whatever it did, every line is accounted for.
pub(crate) struct Balances(pub(crate) LogCollector);

impl Drop for Balances {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_balances(&serde_json::to_value(self.0.stats()).unwrap());
        }
    }
}
