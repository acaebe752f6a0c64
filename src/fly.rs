//! Fly's NATS as a source: one record a message, gathered into bodies that go the way of any other.
//!
//! Core NATS keeps nothing: what comes while we are not connected is gone, and what comes while the drain is full waits in
//! memory, up to `fly.pending_max`, and is then dropped by the client. The first is a gap in the loss journal, the second is counted.
//! Our own app's records are left out, or each line that we say would become another.
//!
//! ## Metrics
//!
//! `fly_*`, `source_lines_dropped_total`.

#[cfg(feature = "fly")]
mod canary;
mod counters;
#[cfg(feature = "fly")]
mod drops;
#[cfg(feature = "fly")]
mod gather;
#[cfg(feature = "fly")]
mod inbox;
#[cfg(feature = "fly")]
mod source;

pub(crate) use self::counters::FlyCounters;
#[cfg(feature = "fly")]
pub(crate) use self::source::{FlySource, Keep};
