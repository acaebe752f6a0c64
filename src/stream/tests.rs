//! The rules of the Python module's streams, on a paused clock.

use super::*;

impl LogQueue {
    pub(crate) fn inner(&self) -> &Arc<Queue> {
        &self.queue
    }

    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }
}
