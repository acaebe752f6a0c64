//! Senders as they should be, whose answers are timed while others misbehave.

use crate::client::{Connection, Target};
use crate::generate::{Generator, rfc3339};
use hdrhistogram::Histogram;
use http_body_util::Full;
use hyper::{Method, StatusCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One sender with a connection and machines of its own.
#[derive(Debug)]
pub(crate) struct Healthy {
    target: Target,
    pub(crate) generator: Generator,
    /// Lines of a body.
    lines: usize,
    /// Between two bodies.
    interval: Duration,
    connection: Option<Connection>,
}

/// What it was told.
#[derive(Debug)]
pub(crate) struct Health {
    /// From when a body was due until its answer, in microseconds.
    pub(crate) answers: Histogram<u64>,
    /// Tries that were not answered 200.
    pub(crate) failed: Vec<String>,
}

impl Healthy {
    pub(crate) fn new(target: Target, generator: Generator, lines: usize, interval: Duration) -> Self {
        Self { target, generator, lines, interval, connection: None }
    }

    /// Sends body number 0, 1, 2… by a schedule fixed beforehand for as long as `goes_on` says so.
    pub(crate) async fn send(mut self, goes_on: impl Fn(u64) -> bool + Send) -> (Self, Health) {
        let mut health = Health { answers: crate::run::histogram(), failed: Vec::new() };
        let mut plain = Vec::new();
        let mut due = Instant::now();
        for number in 0.. {
            if !goes_on(number) {
                break;
            }
            tokio::time::sleep_until(due.into()).await;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let contents = self.generator.body(self.lines, 0, &rfc3339(now.as_nanos()), &mut plain);
            match self.post(plain.clone().into()).await {
                Ok(StatusCode::OK) => {}
                Ok(status) => {
                    // It took nothing: the next body has these numbers.
                    self.generator.take_back(&contents);
                    health.failed.push(status.to_string());
                }
                Err(error) => {
                    self.connection = None;
                    health.failed.push(error.to_string());
                }
            }
            health.answers.saturating_record(due.elapsed().as_micros() as u64);
            due += self.interval;
        }
        (self, health)
    }

    async fn post(&mut self, body: bytes::Bytes) -> Result<StatusCode, crate::client::Broken> {
        let open = match &mut self.connection {
            Some(open) if !open.is_closed() => open,
            closed => closed.insert(Connection::open(&self.target, None).await?),
        };
        let request = self.target.request(Method::POST, "/").body(Full::new(body))?;
        Ok(open.exchange(request).await?.status)
    }
}
