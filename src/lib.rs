//! fleetdrain: the central log drain for large Fly.io fleets.

pub mod batch;
#[cfg(feature = "server")]
mod body;
pub mod budget;
pub mod config;
pub mod record;

pub mod admission;
pub mod collector;

mod metrics;
