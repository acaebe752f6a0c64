//! A drain on free ports of loopback.

use std::io;

use crate::{LogCollector, LogDrainServer};

/// A whole drain, in memory, on free ports of loopback, for as long as it lives: senders post to [`TestDrain::url`], readers ask
/// at [`TestDrain::control_url`].
///
/// ```
/// use fleetdrain::testing::{FlyRecord, TestDrain};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let drain = TestDrain::start().await?;
/// let queue = drain.collector().subscribe("4d891d77b05118")?;
///
/// // Here your own code would post to `drain.url()`.
/// drain.collector().push(FlyRecord::new("4d891d77b05118", "hello").to_string())?;
///
/// drain.stop().await; // ends every stream
/// let entries = fleetdrain::drain_queue(&queue, None).await?;
/// assert_eq!(entries[0].message(), "hello");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TestDrain {
    collector: LogCollector,
    server: LogDrainServer,
}

impl TestDrain {
    /// Starts a drain with the default configuration.
    ///
    /// # Errors
    ///
    /// When loopback has no free port.
    pub async fn start() -> io::Result<Self> {
        Self::of(LogCollector::default()).await
    }

    /// Starts a drain for `collector`.
    ///
    /// # Errors
    ///
    /// When loopback has no free port.
    pub async fn of(collector: LogCollector) -> io::Result<Self> {
        let mut server = LogDrainServer::new(collector.clone()).host("127.0.0.1").control("127.0.0.1:0");
        server.start().await?;
        Ok(Self { collector, server })
    }

    /// What it collects into.
    #[must_use]
    pub fn collector(&self) -> &LogCollector {
        &self.collector
    }

    /// Where senders post to: `http://127.0.0.1:PORT`.
    ///
    /// # Panics
    ///
    /// Never: a drain that was not started is none.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url().expect("it is started")
    }

    /// Where readers ask: `http://127.0.0.1:PORT`.
    ///
    /// # Panics
    ///
    /// Never: a drain that was not started is none.
    #[must_use]
    pub fn control_url(&self) -> String {
        format!("http://{}", self.server.control_addr().expect("it is started"))
    }

    /// Stops it and ends every stream; what is queued stays readable in process.
    pub async fn stop(mut self) {
        self.server.stop().await;
    }
}
