//! In place of the spool, where the crate is built without: nothing outlives the collector.

use std::{sync::Arc, time::Duration};

use super::LogCollector;
use crate::{
    admission::Receipt,
    metrics::{Histogram, SpoolSnapshot},
};

impl LogCollector {
    pub(crate) fn recent_keys(&self, _keep: Duration, _max: usize) -> Vec<(Box<[u8]>, Duration, Receipt)> {
        Vec::new()
    }

    pub(crate) fn spool_takes(&self, _bytes: usize) -> bool {
        true
    }

    pub(crate) fn spool_counted(&self) -> SpoolSnapshot {
        SpoolSnapshot::default()
    }

    pub(crate) fn spool_lines_damaged(&self) -> u64 {
        0
    }

    pub(crate) fn fsync_seconds(&self) -> Arc<Histogram> {
        Arc::new(Histogram::new(Histogram::LATENCY))
    }

    pub(crate) fn store_positions(&self, _durably: bool) {}

    pub(crate) fn close_spool(&self) {}

    pub(crate) fn store_subscriptions(&self) {}

    pub(crate) fn recall_machine(&self, _machine_id: &str) -> bool {
        false
    }
}
