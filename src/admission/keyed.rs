//! A body's `Idempotency-Key` as the spool keeps it: with what its sender is to be told when it comes again.

use super::{Ack, Draft, Receipt};

/// Bytes before the key: records received and rejected.
const HEAD: usize = 16;

pub(super) fn encode(key: &[u8], draft: &Draft) -> Vec<u8> {
    let rejected: u64 = draft.rejected.iter().sum();
    [&draft.received.to_le_bytes()[..], &rejected.to_le_bytes(), key].concat()
}

/// The key, and the account without its errors; `None` for what is no such thing.
pub(crate) fn decode(kept: &[u8]) -> Option<(&[u8], Receipt)> {
    let (head, key) = kept.split_first_chunk::<HEAD>()?;
    let (received, rejected) = head.split_first_chunk::<8>()?;
    let received = u64::from_le_bytes(*received);
    let rejected = u64::from_le_bytes(*rejected.first_chunk()?);
    // The spool had taken charge of all of them.
    Some((
        key,
        Receipt {
            received,
            accepted: received.saturating_sub(rejected),
            rejected,
            ack: Ack::Disk,
            ..Receipt::default()
        },
    ))
}
