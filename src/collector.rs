//! The machine table and the publish section. (Interface only so far.)
use std::sync::Arc;

use crate::budget::Budget;

/// Routes lines to machines' queues.
#[derive(Clone, Debug)]
pub struct LogCollector {
    budget: Arc<Budget>,
}

impl LogCollector {
    /// The byte budget that bodies and batches are charged to.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}
