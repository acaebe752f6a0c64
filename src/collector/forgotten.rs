//! Machines that were forgotten while the history held lines of theirs: where these are, should somebody ask.
//!
//! Not where there is a spool: who comes back finds them there.

use compact_str::CompactString;
use hashbrown::HashMap;

use super::machine::Known;
use crate::sync::Mutex;

/// More than so many are not kept: names come from the network. Of who is not the lines are found by `tail` alone.
const MACHINES_MAX: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Forgotten(Mutex<HashMap<CompactString, Known>>);

impl Forgotten {
    /// The machine is forgotten; `None` if there is nothing of it to be found.
    pub(super) fn keep(&self, id: &CompactString, machine: Option<Known>) {
        let mut kept = self.0.lock();
        // What is kept of it may be older.
        kept.remove(id);
        if let Some(machine) = machine.filter(|_| kept.len() < MACHINES_MAX) {
            kept.insert(id.clone(), machine);
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Known> {
        self.0.lock().get(id).copied()
    }

    /// The machine is known again.
    pub(super) fn remove(&self, id: &str) {
        self.0.lock().remove(id);
    }

    /// Batches before number `first` are gone.
    pub(super) fn evicted(&self, first: u64) {
        let mut kept = self.0.lock();
        kept.retain(|_, machine| machine.last.batch >= first);
        kept.shrink_to_fit();
    }
}
