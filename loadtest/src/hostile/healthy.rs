//! Senders as they should be, whose answers are timed while others misbehave.

use crate::client::{Connection, Target};
use crate::generate::{Generator, RecordSpec, rfc3339};
use hdrhistogram::Histogram;
use http_body_util::Full;
use hyper::{Method, StatusCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const LINES: usize = 50;

/// What they were told.
#[derive(Debug)]
pub(super) struct Health {
    /// From when a body was due until its answer, in microseconds.
    pub(super) answers: Histogram<u64>,
    /// Tries that were not answered 200.
    pub(super) failed: Vec<String>,
}

/// One sender, with a body every `interval` until it is told to stop.
pub(super) async fn send(target: Target, number: u32, interval: Duration, stop: Arc<AtomicBool>) -> Health {
    let mut generator =
        Generator::whole_fleet(&RecordSpec::default(), 0x00be_a000 | number, 100, 1.0, u64::from(number));
    let mut health = Health { answers: crate::run::histogram(), failed: Vec::new() };
    let (mut connection, mut plain) = (None, Vec::new());
    let mut due = Instant::now();
    while !stop.load(Relaxed) {
        tokio::time::sleep_until(due.into()).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        generator.body(LINES, 0, &rfc3339(now.as_nanos()), &mut plain);
        match post(&target, &mut connection, plain.clone().into()).await {
            Ok(StatusCode::OK) => {}
            Ok(status) => health.failed.push(status.to_string()),
            Err(error) => {
                connection = None;
                health.failed.push(error.to_string());
            }
        }
        health.answers.saturating_record(due.elapsed().as_micros() as u64);
        due += interval;
    }
    health
}

async fn post(
    target: &Target,
    connection: &mut Option<Connection>,
    body: bytes::Bytes,
) -> Result<StatusCode, crate::client::Broken> {
    let open = match connection {
        Some(open) if !open.is_closed() => open,
        _ => connection.insert(Connection::open(target, None).await?),
    };
    let request = target.request(Method::POST, "/").body(Full::new(body))?;
    Ok(open.exchange(request).await?.status)
}
