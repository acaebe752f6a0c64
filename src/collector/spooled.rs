//! A collector whose lines outlive it: the spool behind its history, and its queues' positions in it.
//!
//! A queue's position is stored twice a second: after a crash its reader may see that time again, but misses nothing. What time
//! or want of room removes of the spool is dropped from the queues that were still to read it, at that moment.

mod finished;
mod note;
mod positions;

#[cfg(feature = "server")]
use std::time::Duration;
use std::{
    path::Path,
    sync::{Arc, OnceLock, Weak},
};

use jiff::Timestamp;
use tokio::time::Instant;

use self::positions::Left;
pub(super) use self::{finished::Finishing, positions::Stored};
use super::{CollectorConfig, LogCollector, Machine, Shared};
#[cfg(feature = "server")]
use crate::{
    admission::{Receipt, keyed},
    exit::{self, Mark},
    metrics::{Histogram, SpoolSnapshot},
};
use crate::{
    budget::Budget,
    history::Past,
    queue::{OnDisk, Queue, Reason},
    spool::{Bounds, Observer, OpenError, Removing, Spool},
};

/// For how long a spool whose disk refused a body is not ready for another, while none has been taken.
#[cfg(feature = "server")]
const FAILED_FOR: Duration = Duration::from_secs(5);

/// Batches of a machine that are looked at for its exit: Fly tells that a few seconds behind the last line.
#[cfg(feature = "server")]
const RECALLED_MAX: usize = 16;

/// Who hears of what the spool does on its own.
#[derive(Debug)]
struct Listening {
    budget: Arc<Budget>,
    shared: OnceLock<Weak<Shared>>,
}

impl Observer for Listening {
    fn removing(&self, removing: &Removing<'_>) {
        let Some(shared) = self.shared.get().and_then(Weak::upgrade) else { return };
        let to = removing.seqs().end;
        // First: a queue that is sent to the disk from now on finds nothing there, and must not be overlooked below.
        shared.history.past().into_iter().for_each(|past| past.leave(to));
        shared.outlets.lose_before(to, removing.lines().end, &shared.history);
        // What the history holds still is not lost.
        let to = to.min(shared.history.first_seq());
        LogCollector { shared }.lose_before(to, |_| true, Reason::HistoryEvicted);
    }

    fn room(&self) {
        self.budget.announce_room();
    }
}

impl LogCollector {
    /// Looks on the disk for an exit that the machine's log told to an earlier process, if it has told this one nothing. Waits for
    /// the disk.
    #[cfg(feature = "server")]
    pub(crate) fn recall_exit(&self, machine_id: &str) {
        let Some(past) = self.shared.history.past() else { return };
        let (machine, publisher) = self.machine_for_good(machine_id);
        let trail = machine.trail();
        drop(publisher);
        if trail.last.is_some() {
            return;
        }
        let mut later = Vec::new();
        let mut seq = trail.end;
        while later.len() < RECALLED_MAX {
            let Some(place) = past.batch_before(seq, Some(machine_id)) else { return };
            seq = place.seq();
            let Some(batch) = past.load(&place) else { return };
            let group = batch.groups.iter().position(|group| batch.machine_id(group) == machine_id);
            let exits = exit::exits_in(&self.shared.config.exit_patterns, &batch);
            let exit = exits.into_iter().find(|(index, _)| Some(*index as usize) == group);
            let Some((_, exit)) = exit else {
                later.push(batch.received);
                continue;
            };
            let mark = Mark::of_past(exit.status, seq, batch.received, later.into_iter().rev());
            machine.with_exits(|exits| exits.recall(mark));
            return;
        }
    }

    /// Makes a machine known of which an earlier process has kept lines. `false`: there are none. Waits for the disk.
    #[cfg(feature = "server")]
    pub(crate) fn recall_machine(&self, machine_id: &str) -> bool {
        let end = self.shared.history.end().0;
        let kept = self.shared.history.past().and_then(|past| past.batch_before(end, Some(machine_id)));
        if kept.is_some() {
            let (machine, _publisher) = self.machine_for_good(machine_id);
            self.see(&mut machine.state.lock());
        }
        kept.is_some()
    }

    /// A collector that keeps every body in the spool in `dir` before it takes it, and goes on from what is there: its lines,
    /// and its queues. Waits for the disk.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn with_spool(config: CollectorConfig, dir: &Path, bounds: Bounds) -> Result<Self, OpenError> {
        Self::over_spool(config, |observer| Spool::open(dir, bounds, Some(observer)))
    }

    /// As [`LogCollector::with_spool`], over the spool that `open` opens.
    pub(crate) fn over_spool(
        config: CollectorConfig,
        open: impl FnOnce(Arc<dyn Observer>) -> Result<Spool, OpenError>,
    ) -> Result<Self, OpenError> {
        let budget = Budget::new(config.budget_bytes);
        let listening = Arc::new(Listening { budget: Arc::clone(&budget), shared: OnceLock::new() });
        let spool = open(Arc::clone(&listening) as Arc<dyn Observer>)?;
        let left = Left::of(&spool);
        let start = Past::start(spool, Arc::clone(&budget), config.boot_lines);
        let epoch = start.past.as_ref().map_or(0, Past::epoch);
        let collector = Self::going_on(config, budget, start, epoch);
        // Set once, here.
        let _ = listening.shared.set(Arc::downgrade(&collector.shared));
        collector.take_up(left);
        collector.take_up_finished();
        Ok(collector)
    }

    /// Where every body is kept before it is taken.
    pub(crate) fn spool(&self) -> Option<&Spool> {
        self.shared.history.past().map(Past::spool)
    }

    /// The bodies with an `Idempotency-Key` that the spool has taken within `keep`, at most `max`: key, age, account.
    #[cfg(feature = "server")]
    pub(crate) fn recent_keys(&self, keep: Duration, max: usize) -> Vec<(Box<[u8]>, Duration, Receipt)> {
        let Some(spool) = self.spool() else { return Vec::new() };
        let now = Timestamp::now();
        let kept = spool.recent_keys(now.saturating_sub(keep).unwrap_or(Timestamp::MIN), max);
        let kept = kept.unwrap_or_else(|error| {
            tracing::error!(%error, "the spool's keys cannot be read: a body that is repeated now may be taken twice");
            Vec::new()
        });
        let decoded = kept.iter().filter_map(|(_, at, key)| {
            let (key, receipt) = keyed::decode(key)?;
            // A clock that was set back makes none of them old.
            let age = Duration::try_from(now.duration_since(*at)).unwrap_or_default();
            Some((key.into(), age, receipt))
        });
        decoded.collect()
    }

    /// Whether the spool, if there is one, would take a body of so many bytes. One whose disk has just refused a body would not; only
    /// another body tells whether that is over, so it counts for a time.
    #[cfg(feature = "server")]
    pub(crate) fn spool_takes(&self, bytes: usize) -> bool {
        self.spool().is_none_or(|spool| !spool.has_failed_within(FAILED_FOR) && spool.reserve(bytes).is_ok())
    }

    /// What the spool has counted.
    #[cfg(feature = "server")]
    pub(crate) fn spool_counted(&self) -> SpoolSnapshot {
        let Some(counted) = self.spool().map(Spool::counted) else { return SpoolSnapshot::default() };
        let age = |at: Timestamp| Timestamp::now().duration_since(at).as_secs_f64().max(0.0);
        SpoolSnapshot {
            lines_in: counted.lines_in,
            lines_released: counted.lines_released,
            lines_dropped: [counted.lines_dropped_expired, counted.lines_dropped_full, counted.lines_dropped_corrupt],
            corrupt_records: counted.corrupt_records,
            lines: counted.lines,
            bytes: counted.bytes,
            unsent_bytes: counted.unsent_bytes,
            budget_bytes: counted.budget_bytes,
            segments: counted.segments,
            oldest_age_seconds: counted.oldest.map_or(0.0, age),
        }
    }

    /// Lines that damage in the spool has cost.
    #[cfg(feature = "server")]
    pub(crate) fn spool_lines_damaged(&self) -> u64 {
        self.spool().map_or(0, Spool::lines_damaged)
    }

    /// How long the spool's syncs took.
    #[cfg(feature = "server")]
    pub(crate) fn fsync_seconds(&self) -> Arc<Histogram> {
        let none = || Arc::new(Histogram::new(Histogram::LATENCY));
        self.spool().map_or_else(none, |spool| Arc::clone(spool.fsync_seconds()))
    }

    /// Notes where every queue stands, if it is time for that, and lets go of what readers have left.
    pub(super) fn store_positions_in_time(&self) {
        let now = Instant::now();
        self.finish_lingering();
        self.shared.history.past().into_iter().for_each(|past| past.forget(now));
        if self.spool().is_some() && self.shared.stored.lock().is_due(now) {
            self.shared.outlets.store_cursors();
            self.store_positions(true);
        }
    }

    /// Writes what waits, notes where the queues stand, and lets go of the spool: for who ends it, after the last push. What queues
    /// have in memory alone, since it has left the spool, is dropped (`shutdown`). Waits for the disk. Does nothing without a spool.
    pub fn close_spool(&self) {
        if let Some(spool) = self.spool() {
            self.give_up_unspooled();
            self.store_positions(false);
            self.shared.outlets.store_cursors();
            spool.shut();
        }
    }

    /// Drops what queues that stand on the disk have not read of the batches before number `to`.
    fn lose_before(&self, to: u64, is_concerned: impl Fn(&Queue) -> bool, reason: Reason) {
        let behind: Vec<_> = {
            let publisher = self.shared.publisher.lock();
            publisher.behind.range(..(to, 0)).map(|(_, pair)| pair.clone()).collect()
        };
        for (machine, queue) in behind.iter().filter(|(_, queue)| is_concerned(queue)) {
            self.lose_of(machine, queue, to, reason);
        }
    }

    fn lose_of(&self, machine: &Arc<Machine>, queue: &Arc<Queue>, to: u64, reason: Reason) {
        // Its reader may read on meanwhile: then what is left to lose is looked up anew.
        while let Some(at) = queue.on_disk(machine.trail()).filter(|at| at.cursor.from() < to) {
            let to = to.min(at.trail.end);
            let lines = self.unread_before(&machine.id, &at, to);
            let mut publisher = self.shared.publisher.lock();
            let from = queue.place();
            let (history, trail) = (&self.shared.history, machine.trail());
            let place = queue.drop_spooled(at.cursor.next_seq(), lines, to, reason, history, trail);
            publisher.moved(machine, queue, from, place);
            if to == at.trail.end {
                return;
            }
        }
    }

    /// Lines that a queue which stands at `at` has not read of the batches before number `to`: all, and those that it wants.
    fn unread_before(&self, machine: &str, at: &OnDisk, to: u64) -> (u64, u64) {
        let Some(past) = self.shared.history.past() else { return (0, 0) };
        let lines = past.machine_lines(machine, at.cursor.from()..to);
        let (all, wanted) = (lines.iter().sum::<u64>(), at.streams.count_all(&lines));
        let (read, read_wanted) = past.read_of(machine, &at.cursor, at.streams);
        (all.saturating_sub(read), wanted.saturating_sub(read_wanted))
    }

    /// Drops from the queues that nobody reads what has waited on the disk for too long.
    pub(super) fn abandon_on_disk(&self, now: Instant) {
        let Some(past) = self.shared.history.past() else { return };
        let after = self.shared.config.queue.abandoned_after;
        let abandoned = |queue: &Queue| queue.is_readerless_since(now, after);
        if !self.shared.publisher.lock().behind.values().any(|(_, queue)| abandoned(queue)) {
            return;
        }
        let since = Timestamp::now().saturating_sub(after).unwrap_or(Timestamp::MIN);
        // What cannot be known now is looked up in the next turn.
        let Ok(place) = past.batch_at_time(since) else { return };
        let to = place.map_or(self.shared.history.end().0, |place| place.seq());
        self.lose_before(to, abandoned, Reason::Abandoned);
    }
}
