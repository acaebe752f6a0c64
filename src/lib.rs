//! The central log drain for large Fly.io fleets: senders post what they really send, every record is accounted for, and
//! every machine's log becomes a stream that ends cleanly.
//!
//! ```text
//! POST body ─► one buffer ─► rows (spans) ─► grouped by machine ─┬─► machine queues ─► LogStream, GET …/queue     (consume)
//!   http         body          record          batch             │     queue              stream, http
//!                                          admission, collector  └─► history ────────► logs, tail, backlog, resume (look)
//!                                                                      history            stream::view, http
//! ```
//!
//! One body becomes one batch. Everything inside holds a reference to it and a range of its rows; its permit on the byte
//! budget is given back when the last holder lets go. Publishing is serial, so the order of the history, of the queues and of
//! each machine's numbers is one order. The modules below stand in the order in which a line meets them.
//!
//! # As a library
//!
//! ```
//! use fleetdrain::{LogCollector, LogStream};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let collector = LogCollector::default();
//! // Subscribe before the machine exists, so that nothing of it is missed.
//! let queue = collector.subscribe("4d891d77b05118")?;
//!
//! let receipt = collector.push(
//!     r#"{"fly":{"app":{"instance":"4d891d77b05118","name":"my-app"}},"message":"hello"}
//! {"fly":{"app":{"instance":"0e286551c30586","name":"my-app"}},"message":"nobody has subscribed to me"}
//! not a record"#,
//! )?;
//! assert_eq!((receipt.received, receipt.accepted, receipt.unrouted, receipt.rejected), (3, 1, 1, 1));
//!
//! collector.finish("4d891d77b05118");
//! let mut stream = LogStream::new(queue);
//! while let Some(entry) = stream.next().await {
//!     assert_eq!((entry.app_name(), entry.message()), ("my-app", "hello"));
//! }
//! assert!(stream.done() && !stream.timed_out());
//! # Ok(()) }
//! ```
//!
//! `LogDrainServer` (feature `server`) puts the two HTTP listeners in front of a collector; the binary (feature `cli`) is that
//! with a configuration. With neither feature the crate is parsing, collector and streams.
//!
//! # To read on
//!
//! Each page begins with what it is for, and has examples that run:
//!
//! 1. [`record`]: what is a record, what becomes of it, and why one is rejected.
//! 2. [`batch`]: a body's records together, and an entry as a reader gets it: [`LogEntry`], owned, or [`EntryView`], borrowed.
//! 3. [`budget`]: the bytes that everything is charged to.
//! 4. [`admission`]: [`LogCollector::push`] and the account it returns; a refusal gives the body back.
//! 5. [`collector`]: subscribe, finish, and what is known of each machine.
//! 6. [`stream`]: reading: one machine's queue ([`LogStream`]), or all machines without disturbing ([`FleetStream`]).
//! 7. `service` and `http`: [`LogDrainServer`] and its two listeners; `tls`: their certificates.
//! 8. [`config`]: every setting.
//! 9. `testing` (feature `testing`): records in Fly's form, fleets and a drain on free ports, for your own tests.
//!
//! What is promised over all of it is in `docs/guarantees.md` of the repository.
//!
//! # Features
//!
//! All but the last are on by default: `server` (listeners, metrics, configuration), `cli` (the binary), `tls`, `spool` (batches on
//! disk), `fly` (Fly's NATS as a source), `sinks`, `s3` and `jetstream` (on to stores), and `testing`.

#![cfg_attr(not(feature = "server"), allow(dead_code, reason = "the listeners are what uses the rest"))]

pub mod config;

#[cfg(feature = "tls")]
pub mod tls;
#[cfg(all(feature = "server", not(feature = "tls")))]
#[path = "tls/absent.rs"]
pub mod tls;

#[cfg(feature = "server")]
pub(crate) mod grant;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod service;

#[cfg(feature = "server")]
pub(crate) mod fly;

#[cfg(feature = "server")]
mod body;
pub mod record;

pub mod batch;
pub mod budget;
#[cfg(feature = "server")]
pub(crate) mod filter;

pub mod admission;

#[cfg(feature = "spool")]
#[doc(hidden)]
pub mod spool;

pub mod collector;
mod linger;

pub mod exit;

pub(crate) mod queue;

pub(crate) mod history;

pub(crate) mod journal;

pub mod stream;

#[cfg(feature = "sinks")]
pub(crate) mod sink;
#[cfg(all(feature = "server", not(feature = "sinks")))]
#[path = "sink/absent.rs"]
pub(crate) mod sink;

pub(crate) mod metrics;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;

mod sync;

#[cfg(all(test, shuttle))]
mod schedules;
#[cfg(test)]
mod scratch;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(feature = "server")]
pub use crate::service::LogDrainServer;
pub use crate::{
    batch::{EntryId, EntryView, LogEntry, Streams},
    collector::{LogCollector, SubscribeOptions},
    exit::ExitStatus,
    record::{parse_log_entry, parse_ndjson},
    stream::{FleetStream, LogQueue, LogStream, StreamEvent, async_iter_queue, drain_queue},
};

/// The examples of README.md and docs/, compiled and run.
#[cfg(all(doctest, feature = "server"))]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/from-python.md")]
    struct FromPython;
    #[doc = include_str!("../docs/reading.md")]
    struct Reading;
    #[doc = include_str!("../docs/sending.md")]
    struct Sending;
}
