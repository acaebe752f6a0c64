//! fleetdrain: the central log drain for large Fly.io fleets.

pub mod config;

#[cfg(feature = "server")]
pub mod http;

#[cfg(feature = "server")]
mod body;
pub mod record;

pub mod batch;
pub mod budget;

pub mod admission;

pub mod collector;

pub(crate) mod queue;

pub(crate) mod history;

pub mod stream;

pub(crate) mod metrics;
