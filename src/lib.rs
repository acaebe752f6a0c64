//! fleetdrain: the central log drain for large Fly.io fleets.

#[cfg(feature = "server")]
pub mod http;

pub mod config;

pub mod record;

pub mod batch;
pub mod budget;

pub mod admission;

pub mod collector;

pub(crate) mod queue;

pub(crate) mod history;

pub mod stream;
