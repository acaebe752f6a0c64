//! Records as Fly sends them, a seeded fleet, and a drain on free ports: for the tests of what you build on fleetdrain.
//!
//! Behind the feature `testing`, meant for dev-dependencies:
//!
//! ```toml
//! [dev-dependencies]
//! fleetdrain = { version = "0.1", features = ["testing"] }
//! ```
//!
//! A record is made by [`FlyRecord`], a body by [`ndjson`] or [`array()`], and the load of many machines by [`Fleet`]. A
//! `LogCollector` takes them as they are:
//!
//! ```
//! use fleetdrain::{LogCollector, LogStream, testing::{self, FlyRecord}};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let collector = LogCollector::default();
//! let mut stream = LogStream::new(collector.subscribe("4d891d77b05118")?);
//!
//! collector.push(testing::ndjson([
//!     FlyRecord::new("4d891d77b05118", "[job:exit:0]").app("jobs").level("info"),
//!     FlyRecord::new("4d891d77b05118", "machine exited with exit code 0").provider("runner"), // no output of the app's
//! ]))?;
//! collector.finish("4d891d77b05118");
//!
//! let entries = stream.collect().await;
//! assert_eq!(entries.len(), 1, "a queue takes what the app wrote to standard output");
//! assert_eq!((entries[0].app_name(), entries[0].message()), ("jobs", "[job:exit:0]"));
//! # Ok(()) }
//! ```
//!
//! `TestDrain` (with the feature `server`) is the same over HTTP.

#[cfg(feature = "server")]
mod drain;
mod fleet;
#[allow(dead_code, reason = "loadtest, which has this file too, draws in more ways")]
mod random;
mod record;

#[cfg(feature = "server")]
pub use self::drain::TestDrain;
pub use self::{
    fleet::Fleet,
    record::{FlyRecord, array, ndjson},
};
