//! A collector whose lines outlive it: the spool behind its history, and its queues' positions in it.
//!
//! A queue's position is stored twice a second: after a crash its reader may see that time again, but misses nothing. What time
//! or want of room removes of the spool is dropped from the queues that were still to read it, at that moment.

mod note;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use self::note::Note;
use super::{CollectorConfig, LogCollector, Machine, Shared, SubscribeOptions};
#[cfg(feature = "server")]
use crate::{
    admission::{Receipt, keyed},
    exit::{self, Mark},
    metrics::{Histogram, SpoolSnapshot},
};
use crate::{
    batch::FIRST_SEQ,
    budget::Budget,
    history::{MachineCursor, Past, Trail},
    queue::{Ended, OnDisk, Queue, Reason, Wakes},
    spool::{Bounds, Observer, OpenError, Position, Removing, Spool},
    stream::LogQueue,
};

/// Batches of a machine that are looked at for its exit: Fly tells that a few seconds behind the last line.
#[cfg(feature = "server")]
const RECALLED_MAX: usize = 16;

/// How often the queues' positions are made durable: so much of a queue its reader may see again after a crash.
const POSITIONS_EVERY: Duration = Duration::from_millis(500);

/// Who hears of what the spool does on its own.
#[derive(Debug)]
struct Listening {
    budget: Arc<Budget>,
    shared: OnceLock<Weak<Shared>>,
}

impl Observer for Listening {
    fn removing(&self, removing: &Removing<'_>) {
        let Some(shared) = self.shared.get().and_then(Weak::upgrade) else { return };
        shared.outlets.lose_before(removing.seqs().end, removing.lines().end, &shared.history);
        LogCollector { shared }.lose_before(removing.seqs().end, |_| true, Reason::HistoryEvicted);
    }

    fn room(&self) {
        self.budget.announce_room();
    }
}

/// The positions that were stored last, by machine.
#[derive(Debug, Default)]
pub(super) struct Stored {
    positions: HashMap<String, Position>,
    at: Option<Instant>,
}

impl Stored {
    /// Whether they are to be stored again; who is told so does.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.at.is_none_or(|at| now.duration_since(at) >= POSITIONS_EVERY);
        if due {
            self.at = Some(now);
        }
        due
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
            let Some((_, status)) = exit else {
                later.push(batch.received);
                continue;
            };
            let mark = Mark::of_past(status, seq, batch.received, later.into_iter().rev());
            machine.with_exits(|exits| exits.recall(mark));
            return;
        }
    }

    /// A collector that keeps every body in the spool in `dir` before it takes it, and goes on from what is there: its lines,
    /// and its queues. Waits for the disk.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn with_spool(config: CollectorConfig, dir: &Path, bounds: Bounds) -> Result<Self, OpenError> {
        let budget = Budget::new(config.budget_bytes);
        let listening = Arc::new(Listening { budget: Arc::clone(&budget), shared: OnceLock::new() });
        let spool = Spool::open(dir, bounds, Some(Arc::clone(&listening) as Arc<dyn Observer>))?;
        let positions = spool.positions();
        let start = Past::start(spool, Arc::clone(&budget), config.boot_lines);
        let epoch = start.past.as_ref().map_or(0, Past::epoch);
        let collector = Self::going_on(config, budget, start, epoch);
        // Set once, here.
        let _ = listening.shared.set(Arc::downgrade(&collector.shared));
        for (machine, position) in &positions {
            collector.restore(machine, position);
        }
        // What was not taken up goes with the next store.
        collector.shared.stored.lock().positions = positions.into_iter().collect();
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

    /// Whether the spool, if there is one, would take a body of so many bytes.
    #[cfg(feature = "server")]
    pub(crate) fn spool_takes(&self, bytes: usize) -> bool {
        self.spool().is_none_or(|spool| spool.reserve(bytes).is_ok())
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

    /// How long the spool's syncs took.
    #[cfg(feature = "server")]
    pub(crate) fn fsync_seconds(&self) -> Arc<Histogram> {
        let none = || Arc::new(Histogram::new(Histogram::LATENCY));
        self.spool().map_or_else(none, |spool| Arc::clone(spool.fsync_seconds()))
    }

    /// Takes up a queue where it stood when this spool was left.
    fn restore(&self, machine_id: &str, position: &Position) {
        let Some(note) = Note::decode(&position.note) else {
            tracing::warn!("a queue's position says nothing of the queue, which is left out");
            return;
        };
        let Some(past) = self.shared.history.past() else { return };
        let to = note.end.unwrap_or(self.shared.history.end().0);
        let lines = past.machine_lines(machine_id, position.at..to);
        let (all, wanted) = (lines.iter().sum::<u64>(), note.streams.count_all(&lines));
        if note.end.is_some() && wanted == 0 {
            // It was read to its end.
            return;
        }
        let options = SubscribeOptions { streams: Some(note.streams), full: Some(note.full), backlog: false };
        let mut wakes = Wakes::default();
        let Ok((machine, mut publisher)) = self.machine_to_subscribe(machine_id) else { return };
        let queue = match self.create_queue(&mut publisher, &machine, options, None) {
            Ok(queue) => queue,
            Err(error) => {
                tracing::warn!(%error, "a queue of the spool is left out");
                return;
            }
        };
        let trail = Trail { last: None, next_seq: FIRST_SEQ, end: to };
        if wanted > 0 {
            let cursor = MachineCursor::new(FIRST_SEQ - all, position.at);
            let place = queue.start_behind(&self.shared.history, trail, cursor, wanted);
            publisher.moved(&machine, &queue, None, place);
        }
        if note.end.is_some() {
            // Before the machine's, which would take in what came behind it.
            queue.end(Ended::Finished, trail, &mut wakes);
            self.finish_machine(&publisher, &machine, Ended::Finished, &mut wakes);
        }
    }

    /// Notes where every queue stands; durable within a second, or now with `durably`.
    pub(crate) fn store_positions(&self, durably: bool) {
        let Some(spool) = self.spool() else { return };
        let mut stored = self.shared.stored.lock();
        let roster: Vec<_> = self.shared.roster.lock().values().cloned().collect();
        // With where each ends: of several queues of a machine the last one's terms count.
        let mut now: HashMap<String, (Position, u64)> = HashMap::with_capacity(roster.len());
        for (machine, queue) in roster {
            let position = self.position(&machine, &queue);
            // A machine that was reopened may have an old queue still to be read: its next reader goes on from there.
            let end = queue.end_at().unwrap_or(u64::MAX);
            now.entry(machine.id.to_string())
                .and_modify(|(other, other_end)| {
                    if end > *other_end {
                        (other.note, *other_end) = (position.note.clone(), end);
                    }
                    other.at = other.at.min(position.at);
                })
                .or_insert((position, end));
        }
        let now: HashMap<_, _> = now.into_iter().map(|(machine, (position, _))| (machine, position)).collect();
        for (machine, position) in &now {
            if stored.positions.get(machine) != Some(position) {
                spool.set_position(machine, position);
            }
        }
        for machine in stored.positions.keys().filter(|machine| !now.contains_key(*machine)) {
            spool.remove_position(machine);
        }
        stored.positions = now;
        drop(stored);
        if durably && let Err(error) = spool.store_tables() {
            tracing::error!(%error, "the queues' positions could not be stored");
        }
    }

    /// Notes a queue if it was just created. Not with the publish lock held: this may wait for the disk.
    pub(super) fn store_new_position(&self, machine: &Machine, (queue, is_new): &(LogQueue, bool)) {
        if let Some(spool) = self.spool().filter(|_| *is_new) {
            spool.set_position(&machine.id, &self.position(machine, queue.inner()));
        }
    }

    /// Notes where every queue stands, if it is time for that, and lets go of what readers have left.
    pub(super) fn store_positions_in_time(&self) {
        let now = Instant::now();
        self.shared.history.past().into_iter().for_each(|past| past.forget(now));
        if self.spool().is_some() && self.shared.stored.lock().is_due(now) {
            self.shared.outlets.store_cursors();
            self.store_positions(true);
        }
    }

    fn position(&self, machine: &Machine, queue: &Queue) -> Position {
        let state = machine.state.lock();
        let at = queue.position(machine.trail.load());
        drop(state);
        let note = Note { streams: queue.terms.streams, full: queue.terms.full, end: queue.end_at() };
        Position { at, note: note.encode() }
    }

    /// Writes what waits, notes where the queues stand, and lets go of the spool: for who ends it, after the last push. Waits for the
    /// disk. Does nothing without a spool.
    pub fn close_spool(&self) {
        if let Some(spool) = self.spool() {
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
