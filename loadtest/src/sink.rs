//! What a drain tells of its sink.

use crate::client::Target;
use crate::failure::Failure;
use hyper::Method;
use serde_json::Value;
use std::time::{Duration, Instant};

/// Nothing takes so long but what never comes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until the one sink has delivered so many lines, asking every `every`.
pub(crate) async fn delivered(control: &Target, lines: u64, every: Duration) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        let (_, answer) = control.call(Method::GET, "/api/v1/sinks").await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(Failure::data)?;
        let sink = &answer["sinks"][0];
        if sink["lines_delivered"] == lines {
            return Ok(());
        }
        if sink["lines_dropped"] != 0 || started.elapsed() > PATIENCE {
            return Err(Failure::data(format!("{lines} lines are not delivered: {sink}")));
        }
        tokio::time::sleep(every).await;
    }
}
