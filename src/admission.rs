//! The only way in: reserve → durable → commit, all of a body or nothing of it.
//!
//! *Reserve* takes what the body needs: its permit on the byte budget, and room in the `block` queues it goes to. *Durable*
//! is where a spool or JetStream will make it safe; in memory there is nothing to do. *Commit* publishes, and cannot fail.
//! Whatever fails before that rolls back by being dropped, so a refusal takes nothing.

use std::{fmt, sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    batch::{Batch, Group, write_json_string},
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
        let mut batch = Batch::new(bytes, parsed.arena, parsed.rows, received_at);
        batch.leave_behind_the_rest();
        Self {
            batch,
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
        let lags = LagSample::of(&batch);
        let (accepted, filtered, unrouted) = if batch.rows.is_empty() { (0, 0, 0) } else { publish(batch) };
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
        // To be given back as it came: what is published may be less.
        let mut draft = Draft::new(body.clone(), parsed, Timestamp::now());
        let held = draft.batch.bytes.len() + draft.batch.table_bytes();
        if !permit.try_resize(held) {
            let cause = if held > self.budget().body_bytes_max() { Cause::TooLarge } else { Cause::Memory };
            return refuse(body, cause);
        }
        draft.batch.permit = Some(permit);
        self.admit(draft).or_else(|refused| refuse(body, refused.cause))
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
