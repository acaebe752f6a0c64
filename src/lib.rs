//! fleetdrain: the central log drain for large Fly.io fleets.

pub mod batch;
pub mod budget;
pub mod config;
pub mod record;

pub mod admission;
pub mod collector;

#[cfg(feature = "server")]
pub mod service;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
