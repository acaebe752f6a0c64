//! fleetdrain: the central log drain for large Fly.io fleets.

#[cfg(feature = "server")]
pub mod http;

#[cfg(feature = "server")]
pub mod body;

pub mod batch;
pub mod budget;
pub mod config;
pub mod record;

pub mod admission;
pub mod collector;
