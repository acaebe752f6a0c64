//! The only way in: reserve → durable → commit. (Interface only so far.)
use std::time::Duration;

use jiff::Timestamp;

use crate::{
    batch::Batch,
    collector::LogCollector,
    record::{Parsed, RecordError, RejectReason, RejectedSample},
};

/// A parsed body on its way in: the batch, and the account of what was not taken into it.
pub(crate) struct Draft {
    pub(crate) batch: Batch,
    pub(crate) received: u64,
    pub(crate) rejected: [u64; 5],
    pub(crate) repaired: u64,
    pub(crate) errors: Vec<RecordError>,
    pub(crate) samples: Vec<RejectedSample>,
}

impl Draft {
    /// Puts a parsed body into a batch; the caller sets `batch.permit`.
    pub(crate) fn new(bytes: bytes::Bytes, parsed: Parsed, received_at: Timestamp) -> Self {
        Self {
            batch: Batch::new(bytes, parsed.arena, &parsed.rows, received_at),
            received: parsed.received,
            rejected: parsed.rejected,
            repaired: parsed.repaired,
            errors: parsed.errors,
            samples: parsed.samples.into(),
        }
    }

    /// Whether the body is not blank and every record of it is malformed: answered 400, with nothing taken.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.received > 0 && self.rejected[RejectReason::MalformedJson as usize] == self.received
    }
}

/// The fate of every record of a body that was taken: `received = accepted + filtered + unrouted + rejected`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct Receipt {
    /// Records in the body.
    pub received: u64,
    /// A consumer took charge of it.
    pub accepted: u64,
    /// There are consumers for it, none wants it.
    pub filtered: u64,
    /// There is no consumer for it.
    pub unrouted: u64,
    /// Not a record of a machine.
    pub rejected: u64,
    /// The first ten rejections.
    pub errors: Vec<RecordError>,
}

/// Why a body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// A machine in it has a full queue that was subscribed with `full=block`.
    QueueFull,
    /// The byte budget has no room now.
    Memory,
    /// The collector is shutting down.
    ShuttingDown,
}

/// A body that was refused: nothing of it was taken. It is given back.
pub(crate) struct Refused {
    pub(crate) draft: Box<Draft>,
    pub(crate) cause: Cause,
    pub(crate) retry_after: Duration,
}

impl LogCollector {
    /// Takes all of a body or nothing. Never waits.
    pub(crate) fn admit(&self, draft: Draft) -> Result<Receipt, Refused> {
        // stub: a machine named `full` has a full queue, `closing` stands for a shutdown; all others are unrouted.
        let is = |id: &str| draft.batch.groups.iter().any(|group| draft.batch.machine_id(group) == id);
        let cause = if is("full") {
            Cause::QueueFull
        } else if is("closing") {
            Cause::ShuttingDown
        } else {
            return Ok(Receipt {
                received: draft.received,
                unrouted: draft.batch.lines(),
                rejected: draft.rejected.iter().sum(),
                errors: draft.errors,
                ..Receipt::default()
            });
        };
        Err(Refused { draft: Box::new(draft), cause, retry_after: Duration::from_secs(1) })
    }
}
