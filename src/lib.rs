//! fleetdrain: the central log drain for large Fly.io fleets.

pub mod batch;
pub mod budget;
pub mod record;
