//! What the drain says of itself to Prometheus: the catalogue of families, and the handles behind them.
//!
//! The rooms count in plain integers of their own and hand them over in a [`Snapshot`] when somebody scrapes, so that the
//! path of a line never touches a recorder. Only what has to be seen one by one is recorded as it happens, in a
//! [`Histogram`] of a fixed size: the exporter's own keeps every sample until it is swept (some 20 MiB a million) and costs a
//! group 28–44 ns, with two threads on it 67–142; this one's figures are with its type.
//!
//! The exporter renders counters and gauges; what it cannot do is written by hand: histograms, series that exist for one
//! scrape only (machines, the process), and the catalogue's order, since its own is a hash map's.
//!
//! ## Metrics
//!
//! All of them: see [`catalogue::FAMILIES`], and `docs/metrics.md`, which is printed from it.

mod histogram;

#[cfg(feature = "server")]
mod catalogue;
#[cfg(feature = "server")]
mod process;
#[cfg(feature = "cli")]
mod reference;
#[cfg(feature = "server")]
mod scrape;
#[cfg(test)]
#[cfg(feature = "server")]
mod tests;
#[cfg(feature = "server")]
mod text;

pub(crate) use histogram::Histogram;

#[cfg(feature = "server")]
pub(crate) use catalogue::{SOURCE_REASONS, SPOOL_REASONS};
#[cfg(feature = "cli")]
pub(crate) use reference::reference;
#[cfg(feature = "server")]
pub(crate) use scrape::{BodyRefusal, FlySnapshot, Listener, MachineSeries, Metrics, Snapshot, SpoolSnapshot};
