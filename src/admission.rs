//! The only way in: reserve → durable → commit, all of a body or nothing of it.
//!
//! *Reserve* takes what the body needs: its permit on the byte budget, and room in the `block` queues it goes to. *Durable*
//! is where a spool or JetStream will make it safe; in memory there is nothing to do. *Commit* publishes, and cannot fail.
//! Whatever fails before that rolls back by being dropped, so a refusal takes nothing.

use std::{fmt, sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    batch::{Batch, write_json_string},
    collector::LogCollector,
    record::{Limits, Parsed, Parser, RecordError, RejectReason, RejectedSample},
};

/// Rejections that an answer names.
pub const ERRORS_MAX: usize = 10;
/// What a refused sender is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A parsed body on its way in: the batch, and the account of what was not taken into it.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) batch: Batch,
    pub(crate) received: u64,
    pub(crate) rejected: [u64; RejectReason::ALL.len()],
    pub(crate) repaired: u64,
    pub(crate) errors: Vec<RecordError>,
    pub(crate) samples: Vec<RejectedSample>,
}

impl Draft {
    /// Puts a parsed body into a batch; the caller sets `batch.permit`.
    pub(crate) fn new(bytes: Bytes, parsed: Parsed, received_at: Timestamp) -> Self {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// A machine in it has a full queue that was subscribed with `full=block`.
    #[error("the queue of a machine in it is full")]
    QueueFull,
    /// The byte budget has no room now.
    #[error("the byte budget has no room")]
    Memory,
    /// It would not fit an empty budget; trying again is of no use.
    #[error("it is too large for the byte budget")]
    TooLarge,
    /// The collector is shutting down.
    #[error("the collector is shutting down")]
    ShuttingDown,
}

/// A body that was refused: nothing of it was taken, and it is given back.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) draft: Box<Draft>,
    pub(crate) cause: Cause,
    pub(crate) retry_after: Duration,
}

/// A body that [`LogCollector::push`] refused: nothing of it was taken.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("a body of {} bytes was refused: {cause}", body.len())]
#[non_exhaustive]
pub struct PushError {
    /// The body, given back.
    pub body: Bytes,
    /// Why.
    pub cause: Cause,
    /// How long to wait before pushing it again.
    pub retry_after: Duration,
}

impl fmt::Debug for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushError").field("bytes", &self.body.len()).field("cause", &self.cause).finish_non_exhaustive()
    }
}

impl LogCollector {
    /// Takes all of a body or nothing. Never waits. `draft.batch.permit` must be set.
    pub(crate) fn admit(&self, draft: Draft) -> Result<Receipt, Refused> {
        let refuse = |draft, cause| Err(Refused { draft: Box::new(draft), cause, retry_after: RETRY_AFTER });
        if self.is_shutting_down() {
            return refuse(draft, Cause::ShuttingDown);
        }
        let machines = self.machines_of(&draft.batch);
        match self.reserve_queues(&draft.batch, &machines) {
            Err(()) => refuse(draft, Cause::QueueFull),
            Ok(rooms) => Ok(self.commit(draft, |batch| self.publish(batch, machines, rooms))),
        }
    }

    fn commit(&self, draft: Draft, publish: impl FnOnce(Batch) -> (u64, u64, u64)) -> Receipt {
        let Draft { batch, received, rejected, repaired, errors, .. } = draft;
        let (accepted, filtered, unrouted) = if batch.rows.is_empty() { (0, 0, 0) } else { publish(batch) };
        let ledger = &self.shared.ledger;
        for (counter, count) in ledger.rejected.iter().zip(rejected).filter(|(_, count)| *count > 0) {
            counter.fetch_add(count, Relaxed);
        }
        ledger.accepted.fetch_add(accepted, Relaxed);
        ledger.filtered.fetch_add(filtered, Relaxed);
        ledger.unrouted.fetch_add(unrouted, Relaxed);
        ledger.repaired.fetch_add(repaired, Relaxed);
        ledger.received.fetch_add(received, Relaxed);
        let rejected = rejected.iter().sum();
        let errors = errors.into_iter().take(ERRORS_MAX).collect();
        Receipt { received, accepted, filtered, unrouted, rejected, errors }
    }

    /// Takes all records of a body, in any of the forms that senders use, or none of them. Never waits.
    ///
    /// Parsing is done here, on the caller's time: about a quarter of a millisecond for a thousand lines.
    ///
    /// # Errors
    ///
    /// [`PushError`] gives the body back, with the cause and how long to wait.
    pub fn push(&self, body: impl Into<Bytes>) -> Result<Receipt, PushError> {
        let body = body.into();
        let refuse = |body, cause| Err(PushError { body, cause, retry_after: RETRY_AFTER });
        if body.len() > self.budget().body_bytes_max() {
            return refuse(body, Cause::TooLarge);
        }
        let Some(mut permit) = self.budget().try_reserve(body.len()) else {
            return refuse(body, Cause::Memory);
        };
        let limits = Limits { line_bytes_max: self.shared.config.line_bytes_max, errors_max: ERRORS_MAX };
        let parsed = Parser::default().parse(&body, limits);
        let mut draft = Draft::new(body, parsed, Timestamp::now());
        let held = draft.batch.bytes.len() + draft.batch.table_bytes();
        if !permit.try_resize(held) {
            let cause = if held > self.budget().body_bytes_max() { Cause::TooLarge } else { Cause::Memory };
            return refuse(draft.batch.bytes, cause);
        }
        draft.batch.permit = Some(permit);
        self.admit(draft).or_else(|refused| refuse(refused.draft.batch.bytes, refused.cause))
    }

    /// Pushes one line of standard output of one machine, as the Python module's `push(id, line)` did.
    ///
    /// # Errors
    ///
    /// As [`LogCollector::push`]; the body given back is the record made of the line.
    pub fn push_line(&self, machine_id: &str, line: &str) -> Result<Receipt, PushError> {
        let mut record = Vec::with_capacity(machine_id.len() + line.len() + 32);
        record.extend_from_slice(b"{\"instance\":");
        write_json_string(&mut record, machine_id);
        record.extend_from_slice(b",\"message\":");
        write_json_string(&mut record, line);
        record.push(b'}');
        self.push(record)
    }
}
