//! Machines that are finished a while after somebody said so: lines that come until then are still theirs.
//!
//! A room of its own, because the wait is a task, and the machine table's guards must never be near an await.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::collector::{Lingering, LogCollector, Machine, Shared};

impl LogCollector {
    /// As [`LogCollector::finish`], once `linger` has passed: lines that come until then are the machine's still.
    ///
    /// # Panics
    ///
    /// If `linger` is not zero and no Tokio runtime is running.
    pub fn finish_after(&self, machine_id: &str, linger: Duration) -> bool {
        if linger.is_zero() {
            return self.finish(machine_id);
        }
        let at = Instant::now() + linger;
        match self.linger_until(machine_id, at) {
            Lingering::NeverSeen => return false,
            Lingering::Settled => {}
            Lingering::Wanted(machine) => {
                tokio::spawn(finish_at(Arc::downgrade(&self.shared), Arc::downgrade(&machine), at));
            }
        }
        true
    }
}

/// Keeps neither the collector nor the machine: who is gone needs no finish.
async fn finish_at(shared: Weak<Shared>, machine: Weak<Machine>, mut at: Instant) {
    loop {
        sleep_until(at).await;
        let (Some(shared), Some(machine)) = (shared.upgrade(), machine.upgrade()) else { return };
        let Some(later) = (LogCollector { shared }).finish_if_due(&machine) else { return };
        at = later;
    }
}
