//! What a queue has dropped, until it is journaled.

use jiff::Timestamp;

use super::{Reason, item::Ids};
use crate::journal::widest;

/// Lines that a queue dropped for one reason.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    pub(crate) reason: Reason,
    pub(crate) lines: u64,
    /// When the first and the last of them were dropped.
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) ids: Ids,
}

/// Adds lines that are dropped just now; the list is no longer than there are reasons.
pub(super) fn note_lost(list: &mut Vec<Lost>, reason: Reason, lines: u64, ids: Ids) {
    let now = Timestamp::now();
    let Some(known) = list.iter_mut().find(|lost| lost.reason == reason) else {
        list.push(Lost { reason, lines, from: now, to: now, ids });
        return;
    };
    known.lines += lines;
    known.to = known.to.max(now);
    known.ids = widest(known.ids, ids);
}
