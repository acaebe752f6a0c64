//! Queues that hold, or may yet hold, lines: the live ones and the finished ones that are not drained.

use std::{hash::BuildHasher, sync::Arc};

use hashbrown::HashTable;

use super::Machine;
use crate::queue::Queue;

/// A queue with its machine.
pub(super) type Pair = (Arc<Machine>, Arc<Queue>);

/// A table by the queue's address, which is not kept a second time: every subscribed machine pays for its row.
#[derive(Default)]
pub(super) struct Roster {
    table: HashTable<Pair>,
    hasher: foldhash::fast::RandomState,
}

/// What a queue is known by while somebody holds it.
pub(super) fn key(queue: &Arc<Queue>) -> usize {
    Arc::as_ptr(queue).addr()
}

impl Roster {
    /// Adds a queue that is not there.
    pub(super) fn insert(&mut self, machine: Arc<Machine>, queue: Arc<Queue>) {
        let Self { table, hasher } = self;
        table.insert_unique(hasher.hash_one(key(&queue)), (machine, queue), |(_, queue)| hasher.hash_one(key(queue)));
    }

    pub(super) fn get(&self, at: usize) -> Option<&Pair> {
        self.table.find(self.hasher.hash_one(at), |(_, queue)| key(queue) == at)
    }

    /// Does nothing if it is not there.
    pub(super) fn remove(&mut self, queue: &Arc<Queue>) {
        let at = key(queue);
        if let Ok(entry) = self.table.find_entry(self.hasher.hash_one(at), |(_, queue)| key(queue) == at) {
            entry.remove();
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.table.iter()
    }

    /// All of them, so that the roster's lock need not be held.
    pub(super) fn all(&self) -> Vec<Pair> {
        self.table.iter().cloned().collect()
    }
}
