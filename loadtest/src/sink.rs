//! What a drain tells of itself, waited for.

use crate::client::Target;
use crate::failure::Failure;
use hyper::Method;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Nothing takes so long but what never comes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until the one sink has delivered so many lines, asking every `every`.
pub(crate) async fn delivered(control: &Target, lines: u64, every: Duration) -> Result<(), Failure> {
    let is_so = |answer: &Value| {
        let sink = &answer["sinks"][0];
        match sink["lines_dropped"] == 0 {
            true => Ok(sink["lines_delivered"] == lines),
            false => Err(Failure::data(format!("lines were dropped: {sink}"))),
        }
    };
    wait(control, "/api/v1/sinks", every, is_so).await
}

/// Waits until the drain has received so many lines, asking every `every`.
pub(crate) async fn received(control: &Target, lines: u64, every: Duration) -> Result<(), Failure> {
    wait(control, "/api/v1/stats", every, |stats| Ok(stats["lines_received"].as_u64() >= Some(lines))).await
}

async fn wait(
    control: &Target,
    path: &str,
    every: Duration,
    is_so: impl Fn(&Value) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let (_, answer) = control.call(Method::GET, path).await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(Failure::data)?;
        if is_so(&answer)? {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            return Err(Failure::data(format!("still not after {PATIENCE:?}: {answer}")));
        }
        tokio::time::sleep(every).await;
    }
}
