//! fleetdrain: the central log drain for large Fly.io fleets.

pub mod config;

#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod service;

#[cfg(feature = "server")]
mod body;
pub mod record;

pub mod batch;
pub mod budget;

pub mod admission;

pub mod collector;
mod linger;

pub(crate) mod queue;

pub(crate) mod history;

pub mod stream;

pub(crate) mod metrics;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;

#[cfg(feature = "server")]
pub use crate::service::LogDrainServer;
pub use crate::{
    batch::{EntryId, EntryView, LogEntry, Streams},
    collector::{LogCollector, SubscribeOptions},
    record::{parse_log_entry, parse_ndjson},
    stream::{FleetStream, LogQueue, LogStream, StreamEvent, async_iter_queue, drain_queue},
};
