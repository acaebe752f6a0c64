//! Buffers of bodies, used again: fresh ones of a megabyte cost a page fault every 4 KiB.

use bytes::Bytes;
use parking_lot::Mutex;

/// Kept at once, and each at most so large: 16 MiB a sink.
const KEPT_MAX: usize = 4;
const KEPT_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty one with room for `bytes`.
    pub(super) fn take(&self, bytes: usize) -> Vec<u8> {
        let mut buffer = self.0.lock().pop().unwrap_or_default();
        buffer.reserve(bytes);
        buffer
    }

    /// Takes one back, unless somebody else still holds it.
    pub(super) fn give_back(&self, buffer: Bytes) {
        if !buffer.is_unique() {
            return;
        }
        let mut buffer = Vec::from(buffer);
        buffer.clear();
        let mut kept = self.0.lock();
        if buffer.capacity() <= KEPT_BYTES_MAX && kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    }
}
