//! The only way in: reserve → durable → commit, all of a body or nothing of it.
//!
//! *Reserve* takes what the body needs: its permit on the byte budget, and room in the `block` queues it goes to. *Durable*
//! is where the spool makes it safe; in memory there is nothing to do. *Commit* publishes, and what is durable is published whatever
//! comes; a body in memory is still refused there if the shutdown has begun meanwhile. Whatever fails rolls back by being dropped, so
//! a refusal takes nothing. Nobody sees a line before it is as safe as its answer
//! says: with a spool it is published by the spool's own thread, in the order of the log.

#[cfg(feature = "spool")]
pub(crate) mod keyed;

use std::{
    fmt,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, Wake},
    thread::{self, Thread},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::{
    batch::{Batch, Group, write_json_string},
    collector::{Fates, LogCollector, outlet::Awaited},
    record::{Limits, Parsed, Parser, RecordError, RejectReason, RejectedSample},
};
#[cfg(feature = "spool")]
use crate::{
    collector::{Machine, outlet::Wants},
    queue::QueueRoom,
    spool::{AppendError, Appended, Lines, NewRecord, ReserveError, Spool},
};

/// Rejections that an answer names.
pub const ERRORS_MAX: usize = 10;
/// What a refused sender is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Who is told that a body was taken.
pub(crate) type Told = Box<dyn FnOnce(&Receipt) + Send>;

/// A parsed body on its way in: the batch, and the account of what was not taken into it.
pub(crate) struct Draft {
    pub(crate) batch: Batch,
    pub(crate) received: u64,
    pub(crate) rejected: [u64; RejectReason::ALL.len()],
    pub(crate) repaired: u64,
    pub(crate) errors: Vec<RecordError>,
    pub(crate) samples: Vec<RejectedSample>,
    /// The `Idempotency-Key`, to be kept beside it.
    pub(crate) key: Option<Box<[u8]>>,
    /// Told that it was taken; dropped if it was not.
    pub(crate) taken: Option<Told>,
    /// Its sender waits for the sinks that are to acknowledge.
    pub(crate) asks_sinks: bool,
}

impl Draft {
    /// Puts a parsed body into a batch; the caller sets `batch.permit`. With `whole` it keeps the body as it was sent.
    pub(crate) fn new(bytes: Bytes, parsed: Parsed, received_at: Timestamp, whole: bool) -> Self {
        let mut batch = Batch::new(bytes, parsed.arena, parsed.rows, received_at);
        if !whole {
            batch.leave_behind_the_rest();
        }
        Self {
            batch,
            key: None,
            taken: None,
            asks_sinks: false,
            received: parsed.received,
            rejected: parsed.rejected,
            repaired: parsed.repaired,
            errors: parsed.errors,
            samples: parsed.samples.into(),
        }
    }

    /// Bytes that it holds, where its body's buffer has no room to spare.
    pub(crate) fn held_bytes(&self) -> usize {
        self.batch.bytes.len() + self.batch.table_bytes()
    }

    /// Whether the body is not blank and every record of it is malformed: answered 400, with nothing taken.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.received > 0 && self.rejected[RejectReason::MalformedJson as usize] == self.received
    }
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("batch", &self.batch).field("received", &self.received).finish_non_exhaustive()
    }
}

/// A body that was taken, or will be once it is durable.
#[derive(Debug)]
pub(crate) enum Admission {
    Taken(Committed),
    #[cfg_attr(not(feature = "spool"), expect(dead_code, reason = "only the spool takes time"))]
    Writing(Writing),
}

/// What becomes of a body that is being written. Dropping it changes nothing about the body.
#[derive(Debug)]
pub(crate) struct Writing(oneshot::Receiver<Result<Committed, Cause>>);

/// A body that was taken.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) receipt: Receipt,
    /// Sinks were asked to acknowledge it: the receipt as it is when they have. Dropped, if one of them ends before.
    pub(crate) by_sinks: Option<oneshot::Receiver<Receipt>>,
}

impl Future for Writing {
    /// [`Cause::Spool`]: nothing was taken. [`Cause::Unknown`]: nobody knows.
    type Output = Result<Committed, Cause>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|told| told.unwrap_or(Err(Cause::Unknown)))
    }
}

impl Admission {
    /// Waits on this thread until the body is durable.
    pub(crate) fn wait(self) -> Result<Receipt, Cause> {
        match self {
            Self::Taken(committed) => Ok(committed.receipt),
            Self::Writing(writing) => writing.wait().map(|committed| committed.receipt),
        }
    }
}

impl Writing {
    fn wait(self) -> Result<Committed, Cause> {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(thread::current())).into();
        // Not by the caller's task's share of its thread, which is not given back before that task returns.
        let mut writing = pin!(tokio::task::unconstrained(self));
        loop {
            match writing.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(fate) => return fate,
                Poll::Pending => thread::park(),
            }
        }
    }
}

/// What an acknowledgement is worth, the weakest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Ack {
    /// A crash may cost it.
    #[default]
    Memory,
    /// It is in the spool, and synced.
    Disk,
    /// A store has it.
    Sink,
}

impl Ack {
    /// Its name in the header `Fleetdrain-Ack`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Sink => "sink",
        }
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
    /// What holds for every accepted record.
    pub ack: Ack,
}

/// Why a body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// A machine in it has a full queue that was subscribed with `full=block`.
    #[error("the queue of a machine in it is full")]
    QueueFull,
    /// A sink that wants lines of it has no room, and was told to block.
    #[error("a sink for it is full")]
    SinkFull,
    /// The byte budget has no room now.
    #[error("the byte budget has no room")]
    Memory,
    /// The spool has no room now, or could not take it.
    #[error("the spool has no room, or could not take it")]
    Spool,
    /// A sync of the spool failed: the body may have been taken all the same.
    #[error("it is not known whether the spool took it")]
    Unknown,
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

/// What the spool keeps of a body: as it was sent, so that it is read again as it was read. Whether a record was too long hangs
/// on a setting that may change, so where one was, it is an array of the others, each as it was sent.
#[cfg(feature = "spool")]
fn kept_body(draft: &Draft) -> Bytes {
    let batch = &draft.batch;
    if draft.rejected[RejectReason::LineTooLong as usize] == 0 {
        return batch.bytes.clone();
    }
    let mut body = vec![b'['];
    for row in &batch.rows {
        if body.len() > 1 {
            body.push(b',');
        }
        body.extend_from_slice(row.raw.of(&batch.bytes, &batch.arena));
    }
    body.push(b']');
    body.into()
}

fn refuse<T>(draft: Draft, cause: Cause) -> Result<T, Refused> {
    Err(Refused { draft: Box::new(draft), cause, retry_after: RETRY_AFTER })
}

/// A body that [`LogCollector::push`] refused: nothing of it was taken, but where the cause is [`Cause::Unknown`].
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

/// How old some records of a batch were when it was received: the first of each of a few machines.
///
/// Taken before the batch is published and recorded after, in one go: the hot path pays some 30 ns for each that is looked at, one
/// for every [`LagSample::LINES_EACH`] lines and at least one.
struct LagSample {
    lags: [Duration; Self::GROUPS_MAX],
    count: usize,
}

impl LagSample {
    /// Machines looked at in a batch, at most, and for how many lines each.
    const GROUPS_MAX: usize = 16;
    const LINES_EACH: usize = 16;

    fn of(batch: &Batch) -> Self {
        let received = batch.received_at.as_nanosecond();
        let sent = |group: &Group| {
            let timestamp = batch.row(group.rows.start).timestamp;
            nanoseconds_since_1970(timestamp.of(&batch.bytes, &batch.arena))
        };
        let mut sample = Self { lags: [Duration::ZERO; Self::GROUPS_MAX], count: 0 };
        let wanted = batch.rows.len().div_ceil(Self::LINES_EACH).min(Self::GROUPS_MAX);
        for sent in batch.groups.iter().take(wanted).filter_map(sent) {
            // A clock that is ahead of ours says nothing about the way.
            let lag = u64::try_from((received - sent).max(0)).unwrap_or(u64::MAX);
            sample.lags[sample.count] = Duration::from_nanos(lag);
            sample.count += 1;
        }
        sample
    }

    fn iter(&self) -> impl Iterator<Item = Duration> {
        self.lags[..self.count].iter().copied()
    }
}

/// Reads `YYYY-MM-DDTHH:MM:SS[.fraction]Z`, the form of RFC 3339 that Fly sends, by integers alone; `None` for any other.
fn nanoseconds_since_1970(text: &[u8]) -> Option<i128> {
    let (seconds, fraction) = text.strip_suffix(b"Z")?.split_at_checked(19)?;
    let punctuation = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if punctuation.iter().any(|&(at, byte)| seconds[at] != byte) {
        return None;
    }
    let number = |from: usize, to: usize| digits(&seconds[from..to]);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let nanoseconds = match fraction {
        [] => 0,
        [b'.', fraction @ ..] if !fraction.is_empty() => {
            let known = &fraction[..fraction.len().min(9)];
            digits(known)? * 10_i64.pow(9 - known.len() as u32)
        }
        _ => return None,
    };
    let whole = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(i128::from(whole) * 1_000_000_000 + i128::from(nanoseconds))
}

fn digits(text: &[u8]) -> Option<i64> {
    let add = |sum: i64, &byte: &u8| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0'));
    text.iter().try_fold(0, add)
}

/// Counts years from March, so that the leap day is a year's last (H. Hinnant, `days_from_civil`).
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

impl LogCollector {
    /// Takes all of a body or nothing. Never waits. `draft.batch.permit` must be set.
    pub(crate) fn admit(&self, draft: Draft) -> Result<Admission, Refused> {
        if self.is_shutting_down() {
            return refuse(draft, Cause::ShuttingDown);
        }
        let machines = self.machines_of(&draft.batch);
        let Ok(rooms) = self.reserve_queues(&draft.batch, &machines) else {
            return refuse(draft, Cause::QueueFull);
        };
        let Ok(wants) = self.shared.outlets.wants(&draft.batch, draft.asks_sinks) else {
            return refuse(draft, Cause::SinkFull);
        };
        #[cfg(feature = "spool")]
        if let Some(spool) = self.spool().filter(|_| !draft.batch.rows.is_empty()) {
            return self.write(spool, draft, machines, rooms, wants);
        }
        let awaited = wants.awaited().cloned();
        let publish = |batch| self.publish(batch, machines, rooms, wants);
        self.commit(draft, awaited.as_deref(), publish).map(Admission::Taken)
    }

    /// Hands a body to the spool, which publishes it once it is durable.
    #[cfg(feature = "spool")]
    fn write(
        &self,
        spool: &Spool,
        draft: Draft,
        machines: Vec<Option<Arc<Machine>>>,
        rooms: Vec<(u32, QueueRoom)>,
        wants: Wants,
    ) -> Result<Admission, Refused> {
        let batch = &draft.batch;
        let slot = match spool.reserve(batch.bytes.len()) {
            Ok(slot) => slot,
            Err(ReserveError::Shut) => return refuse(draft, Cause::ShuttingDown),
            Err(ReserveError::Busy | ReserveError::Full) => return refuse(draft, Cause::Spool),
        };
        let lines: Vec<_> = batch.groups.iter().map(|group| (batch.machine_id(group), Lines(group.counts))).collect();
        let body = kept_body(&draft);
        let key = draft.key.as_ref().map(|key| keyed::encode(key, &draft));
        let record = slot.encode(&NewRecord {
            body,
            received_at: batch.received_at,
            lines: batch.rows.len() as u32,
            machines: &lines,
            key: key.as_deref().unwrap_or_default(),
        });
        let (tell, told) = oneshot::channel();
        let collector = self.clone();
        record.append_then(move |result| {
            let fate = match result {
                Ok(appended) => Ok(collector.commit_written(draft, &appended, machines, rooms, wants)),
                Err(AppendError::Refused { .. }) => Err(Cause::Spool),
                Err(AppendError::Unknown { .. }) => Err(Cause::Unknown),
            };
            // Its sender may have gone.
            let _ = tell.send(fate);
        });
        Ok(Admission::Writing(Writing(told)))
    }

    /// Publishes a body that is durable. The spool has taken charge of all of it.
    #[cfg(feature = "spool")]
    fn commit_written(
        &self,
        mut draft: Draft,
        appended: &Appended,
        machines: Vec<Option<Arc<Machine>>>,
        rooms: Vec<(u32, QueueRoom)>,
        wants: Wants,
    ) -> Committed {
        let batch = &mut draft.batch;
        (batch.seq, batch.first_line, batch.received_at) = (appended.seq, appended.first_line, appended.received_at);
        let bytes = batch.bytes.len();
        batch.leave_behind_the_rest();
        if batch.bytes.len() < bytes {
            let held = batch.bytes.len() + batch.table_bytes();
            // Less than before always fits.
            let _ = batch.permit.as_mut().is_none_or(|permit| permit.try_resize(held));
        }
        let lines = batch.lines();
        let awaited = wants.awaited().cloned();
        let publish = |batch| self.publish(batch, machines, rooms, wants).map(|_| (lines, 0, 0));
        self.commit(draft, awaited.as_deref(), publish).expect("what is durable is published, whatever comes")
    }

    /// What is acknowledged as soon as it is published.
    pub(crate) fn ack(&self) -> Ack {
        if self.keeps_bodies() { Ack::Disk } else { Ack::Memory }
    }

    fn commit(
        &self,
        mut draft: Draft,
        awaited: Option<&Awaited>,
        publish: impl FnOnce(Batch) -> Result<Fates, Box<Batch>>,
    ) -> Result<Committed, Refused> {
        let lags = LagSample::of(&draft.batch);
        let published = if draft.batch.rows.is_empty() { Ok((0, 0, 0)) } else { publish(draft.batch) };
        let (accepted, filtered, unrouted) = match published {
            Ok(fates) => fates,
            Err(batch) => {
                draft.batch = *batch;
                return refuse(draft, Cause::ShuttingDown);
            }
        };
        let Draft { received, rejected, repaired, errors, taken, .. } = draft;
        let ledger = &self.shared.ledger;
        lags.iter().for_each(|lag| ledger.log_lag.record(lag));
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
        let receipt = Receipt { received, accepted, filtered, unrouted, rejected, errors, ack: self.ack() };
        let by_sinks = match awaited {
            Some(awaited) => Some(tell_when_settled(awaited, receipt.clone(), taken)),
            None => {
                if let Some(taken) = taken {
                    taken(&receipt);
                }
                None
            }
        };
        Ok(Committed { receipt, by_sinks })
    }

    /// Takes all records of a body, in any of the forms that senders use, or none of them. Never waits, but with a spool for
    /// the disk, on the caller's thread: from async code call it where blocking is allowed.
    ///
    /// Parsing is done here, on the caller's time: about a quarter of a millisecond for a thousand lines. Sinks are not waited for,
    /// whatever their `ack` is.
    ///
    /// # Errors
    ///
    /// [`PushError`] gives the body back, with the cause and how long to wait.
    ///
    /// ```
    /// use fleetdrain::LogCollector;
    ///
    /// let collector = LogCollector::default();
    /// let receipt = collector.push(r#"[{"instance":"m1","message":"one"}, {"message":"of no machine"}]"#)?;
    /// assert_eq!((receipt.received, receipt.unrouted, receipt.rejected), (2, 1, 1));
    /// assert_eq!((receipt.errors[0].record, receipt.errors[0].reason.as_str()), (2, "no_machine_id"));
    /// # Ok::<(), fleetdrain::admission::PushError>(())
    /// ```
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
        let parsed = Parser::new(self.shared.config.boot_lines).parse(&body, limits);
        // To be given back as it came: what is published may be less.
        let mut draft = Draft::new(body.clone(), parsed, Timestamp::now(), self.keeps_bodies());
        let held = draft.held_bytes();
        if !permit.try_resize(held) {
            let cause = if held > self.budget().body_bytes_max() { Cause::TooLarge } else { Cause::Memory };
            return refuse(body, cause);
        }
        draft.batch.permit = Some(permit);
        let taken = self.admit(draft).map_err(|refused| refused.cause).and_then(Admission::wait);
        taken.or_else(|cause| refuse(body, cause))
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

/// Has `taken` told only when sinks have settled the body: a repeat is to be refused until then, as one that is under way.
fn tell_when_settled(awaited: &Awaited, mut receipt: Receipt, taken: Option<Told>) -> oneshot::Receiver<Receipt> {
    let covers_all = awaited.lines() == receipt.accepted;
    let (tell, told) = oneshot::channel();
    awaited.then(move |is_whole| {
        if is_whole && covers_all {
            receipt.ack = Ack::Sink;
        }
        if let Some(taken) = taken {
            taken(&receipt);
        }
        // Its sender may have gone.
        let _ = tell.send(receipt);
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_jiff_reads_them() {
        let same = |text: &str| {
            let expected: Timestamp = text.parse().unwrap();
            assert_eq!(nanoseconds_since_1970(text.as_bytes()), Some(expected.as_nanosecond()), "{text}");
        };
        for year in 1970..2110 {
            for day in ["01-01", "02-28", "03-01", "06-27", "12-31"] {
                same(&format!("{year}-{day}T01:19:11.789045558Z"));
            }
        }
        for text in
            ["2024-02-29T00:00:00Z", "0001-01-01T00:00:00Z", "2026-06-27T23:59:59.5Z", "2026-06-27T23:59:59.123456Z"]
        {
            same(text);
        }
    }

    #[test]
    fn what_is_no_time_has_no_age() {
        for text in [
            "",
            "Z",
            "1782523151",
            "2026-06-27",
            "2026-06-27 01:19:11Z",
            "2026-06-27T01:19:11",
            "2026-06-27T01:19:11+02:00",
            "2026-06-27T01:19:11.Z",
            "2026-06-27T01:19:11,5Z",
            "2026-13-27T01:19:11Z",
            "2026-00-27T01:19:11Z",
            "2026-06-32T01:19:11Z",
            "2026-06-27T24:19:11Z",
            "2026-06-27T01:60:11Z",
            "20x6-06-27T01:19:11Z",
            "2026-06-27T01:19:1\u{e9}Z",
        ] {
            assert_eq!(nanoseconds_since_1970(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_blank_is_not_held_with_what_is_not() {
        let collector = LogCollector::default();
        let body = "{\"instance\":\"m\"}".to_owned() + &"\n".repeat(1 << 20);
        assert_eq!(collector.push(body).unwrap().received, 1);
        assert!(collector.stats().history_bytes < 2_000);
    }

    #[test]
    fn what_was_rejected_is_not_held_with_what_was_not() {
        let collector = LogCollector::default();
        let good = |number: u32| format!("{{\"instance\":\"m{number}\",\"message\":\"say \\\"{number}\\\"\"}}\n");
        let body = good(1) + &"x".repeat(1 << 20) + "\n" + &good(2) + &good(1);
        let queue = collector.subscribe("m1").unwrap();
        let receipt = collector.push(body).unwrap();
        assert_eq!((receipt.received, receipt.accepted, receipt.unrouted, receipt.rejected), (4, 2, 1, 1));
        let stats = collector.stats();
        assert!(stats.history_bytes < 2_000 && stats.memory_used_bytes < 10_000, "{stats:?}");
        collector.finish("m1");
        let mut stream = crate::stream::LogStream::new(queue);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let entries = runtime.block_on(stream.collect());
        let told: Vec<_> = entries.iter().map(|entry| (entry.machine_id(), entry.message(), entry.raw())).collect();
        let raw = good(1);
        assert_eq!(told, [("m1", "say \"1\"", raw.trim_end().as_bytes()); 2]);
        assert_eq!(entries[1].machine_seq(), Some(2));
    }

    #[test]
    fn the_age_of_a_few_machines_records_is_noted_per_body() {
        let collector = LogCollector::default();
        let record = |machine: u32, time: &str| format!("{{\"instance\":\"m{machine}\",\"timestamp\":\"{time}\"}}\n");
        let old = (Timestamp::now() - Duration::from_secs(100)).to_string();
        let _ = collector.push(record(0, &old)).unwrap();
        let _ = collector.push(record(0, "9999-01-01T00:00:00Z") + &record(1, "yesterday")).unwrap();
        let noted = collector.shared.ledger.log_lag.counted();
        assert_eq!(noted.count, 2);
        assert!((100.0..110.0).contains(&noted.sum), "{noted:?}");
        let mut noted = 2;
        for (lines, looked_at) in [(50, 4), (1_000, LagSample::GROUPS_MAX as u64)] {
            let _ = collector.push((0..lines).map(|machine| record(machine, &old)).collect::<String>()).unwrap();
            noted += looked_at;
            assert_eq!(collector.shared.ledger.log_lag.counted().count, noted, "{lines} lines");
        }
    }
}
