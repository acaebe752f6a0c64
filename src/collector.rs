//! The machine table and the publish section. (Interface only so far.)
use std::sync::Arc;

use crate::budget::Budget;

/// Routes lines to machines' queues.
#[derive(Clone, Debug)]
pub struct LogCollector {
    budget: Arc<Budget>,
}

impl LogCollector {
    /// stub: replaced by the real constructor.
    #[must_use]
    pub fn new(config: &crate::config::Config) -> Self {
        Self { budget: Budget::new(config.memory.budget) }
    }

    /// stub: the budget, for tests that fill it.
    #[must_use]
    pub fn budget_for_tests(&self) -> Arc<Budget> {
        Arc::clone(&self.budget)
    }

    /// The byte budget that bodies and batches are charged to.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }
}
