//! Queues' places in the spool: noted while they move, and taken up by the next process.
//!
//! Beside its place it is noted of a queue how many lines it had left, and of all together up to which batch that was true. So the
//! next process knows what has left the spool meanwhile: while none was there, or before a crash.

use std::{collections::HashMap, ops::Range, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    super::{LogCollector, Machine, SubscribeOptions},
    note::Note,
};
use crate::{
    batch::FIRST_SEQ,
    history::{MachineCursor, Past, Trail},
    journal::Loss,
    queue::{Began, Ended, Queue, Reason, Standing, Terms, Wakes},
    spool::{Position, Spool},
    stream::LogQueue,
};

/// How often the queues' positions are made durable: so much of a queue its reader may see again after a crash.
const POSITIONS_EVERY: Duration = Duration::from_millis(500);

/// Places at which a queue is told of losses that nobody counted.
const UNSURE_MAX: usize = 16;

/// The positions that were stored last, by machine.
#[derive(Debug, Default)]
pub(in super::super) struct Stored {
    pub(super) positions: HashMap<String, Position>,
    at: Option<Instant>,
}

impl Stored {
    /// Whether they are to be stored again; who is told so does.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.at.is_none_or(|at| now.duration_since(at) >= POSITIONS_EVERY);
        if due {
            self.at = Some(now);
        }
        due
    }
}

/// What the process before has left.
pub(super) struct Left {
    positions: Vec<(String, Position)>,
    /// What queues had left is known of batches before this number.
    known_to: Option<u64>,
    /// Where records are missing.
    gaps: Vec<Range<u64>>,
}

impl Left {
    /// Of no machine's name.
    const KNOWN_TO: &str = "";

    /// Before anything is removed.
    pub(super) fn of(spool: &Spool) -> Self {
        let (of_all, positions): (Vec<_>, _) =
            spool.positions().into_iter().partition(|(machine, _)| machine == Self::KNOWN_TO);
        Self { positions, known_to: of_all.first().map(|(_, position)| position.at), gaps: spool.gaps() }
    }

    /// Before which batches a queue that stands at batch `at` and ends before batch `to` may have lost lines, nobody knows how many.
    fn unsure(&self, at: u64, to: u64, oldest: u64) -> Vec<u64> {
        let is_unsure = at < oldest && self.known_to.is_none_or(|known| known < oldest.min(to));
        let gaps = self.gaps.iter().filter(|gap| gap.end > at && gap.start < to).map(|gap| gap.end);
        is_unsure.then_some(at).into_iter().chain(gaps).take(UNSURE_MAX).collect()
    }
}

impl LogCollector {
    /// Takes up the queues where they stood.
    pub(super) fn take_up(&self, left: Left) {
        let mut unsure = Vec::new();
        for (machine, position) in &left.positions {
            if let Some(loss) = self.restore(machine, position, &left) {
                unsure.push(loss);
            }
        }
        unsure.into_iter().for_each(|loss| self.shared.journal.note_unknown(loss));
        // What was not taken up goes with the next store.
        self.shared.stored.lock().positions = left.positions.into_iter().collect();
    }

    /// Takes up a queue where it stood when this spool was left. What it may have lost meanwhile, if nobody knows how much.
    fn restore(&self, machine_id: &str, position: &Position, left: &Left) -> Option<Loss> {
        let Some(note) = Note::decode(&position.note) else {
            tracing::warn!("a queue's position says nothing of the queue, which is left out");
            return None;
        };
        let past = self.shared.history.past()?;
        let to = note.end.unwrap_or(self.shared.history.end().0);
        let lines = past.machine_lines(machine_id, position.at..to);
        let (all, wanted) = (lines.iter().sum::<u64>(), note.streams.count_all(&lines));
        let lost = lost_of(past, machine_id, position.at, &note);
        let unsure = left.unsure(position.at, to, past.oldest_seq());
        if note.end.is_some() && wanted == 0 && lost == 0 && note.skipped == 0 && unsure.is_empty() {
            // It was read to its end.
            return None;
        }
        let began = Began::before(note.began, position.at);
        let options = SubscribeOptions { streams: Some(note.streams), full: Some(note.full), backlog: false };
        let mut wakes = Wakes::default();
        let (machine, mut publisher) = self.machine_to_subscribe(machine_id).ok()?;
        let queue = match self.create_queue(&mut publisher, &machine, options, None, Some(began)) {
            Ok(queue) => queue,
            Err(error) => {
                tracing::warn!(%error, "a queue of the spool is left out");
                return None;
            }
        };
        let trail = Trail { last: None, next_seq: FIRST_SEQ, end: to };
        if wanted > 0 {
            let cursor = MachineCursor::new(FIRST_SEQ - all, position.at);
            let received = past.received_from(machine_id, position.at, note.streams).unwrap_or_else(Instant::now);
            let place = queue.start_behind(&self.shared.history, trail, cursor, wanted, received);
            publisher.moved(&machine, &queue, None, place);
        }
        let seq_at = |batch: &u64| FIRST_SEQ - past.machine_lines(machine_id, *batch..to).iter().sum::<u64>();
        queue.skipped_before((FIRST_SEQ - all).saturating_sub(lost), note.skipped);
        queue.lost_before(FIRST_SEQ - all, lost, unsure.iter().map(seq_at));
        if note.end.is_some() {
            // Before the machine's, which would take in what came behind it.
            queue.end(Ended::Finished, trail, &mut wakes);
            self.finish_machine(&publisher, &machine, Ended::Finished, &mut wakes);
        }
        (!unsure.is_empty()).then(|| {
            let now = Timestamp::now();
            let machine = machine_id.to_owned();
            let (app, reason) = (String::new(), Reason::HistoryEvicted.as_str());
            Loss { machine, app, place: "queue".into(), reason, lines: 0, from: now, to: now, ids: None }
        })
    }

    /// Notes where every queue stands; durable within a second, or now with `durably`.
    pub(crate) fn store_positions(&self, durably: bool) {
        let Some(spool) = self.spool() else { return };
        let mut stored = self.shared.stored.lock();
        // Looked at before any queue is: what comes later is not yet known of all.
        let known_to = self.shared.history.end().0;
        let roster = self.shared.roster.lock().all();
        let mut now: HashMap<String, (u64, Note)> = HashMap::with_capacity(roster.len());
        for (machine, queue) in roster {
            let (at, note) = self.noted(&machine, &queue);
            // A machine that was reopened may have an old queue still to be read: its next reader goes on from there.
            now.entry(machine.id.to_string())
                .and_modify(|(other_at, other)| {
                    *other_at = at.min(*other_at);
                    *other = other.with(note);
                })
                .or_insert((at, note));
        }
        let now: HashMap<_, _> =
            now.into_iter().map(|(machine, (at, note))| (machine, Position { at, note: note.encode() })).collect();
        for (machine, position) in &now {
            if stored.positions.get(machine) != Some(position) {
                spool.set_position(machine, position);
            }
        }
        for machine in stored.positions.keys().filter(|machine| !now.contains_key(*machine)) {
            spool.remove_position(machine);
        }
        if !now.is_empty() {
            spool.set_position(Left::KNOWN_TO, &Position { at: known_to, note: Vec::new() });
        }
        stored.positions = now;
        drop(stored);
        if durably {
            self.store_subscriptions();
        } else {
            self.store_finished(spool);
        }
    }

    /// Makes durable now which queues there are, where they were last noted to stand, and which machines are finished. Waits for the
    /// disk.
    pub(crate) fn store_subscriptions(&self) {
        let Some(spool) = self.spool() else { return };
        self.store_finished(spool);
        if let Err(error) = spool.store_tables() {
            tracing::error!(%error, "the queues' positions could not be stored");
        }
    }

    /// Notes a queue if it was just created. Not with the publish lock held: this may wait for the disk.
    pub(in super::super) fn store_new_position(&self, machine: &Machine, (queue, is_new): &(LogQueue, bool)) {
        if let Some(spool) = self.spool().filter(|_| *is_new) {
            // First: the next process must not find the queue beside its machine's end of before.
            self.store_finished(spool);
            spool.set_position(&machine.id, &self.position(machine, queue.inner()));
        }
    }

    fn position(&self, machine: &Machine, queue: &Queue) -> Position {
        let (at, note) = self.noted(machine, queue);
        Position { at, note: note.encode() }
    }

    /// Where a queue stands, and what is kept beside that.
    fn noted(&self, machine: &Machine, queue: &Queue) -> (u64, Note) {
        let state = machine.state.lock();
        let Standing { at, lines, to, skipped } = queue.standing(machine.trail.load());
        drop(state);
        let (Terms { streams, full }, began) = (queue.terms, queue.began.line());
        (at, Note { streams, full, began, left: Some((lines, to)), skipped, end: queue.end_at() })
    }

    /// Drops from the queues what waits in memory alone, since it has left the spool: the next process will not find it.
    pub(super) fn give_up_unspooled(&self) {
        let Some(oldest) = self.shared.history.past().map(Past::oldest_seq) else { return };
        let roster = self.shared.roster.lock().all();
        let mut publisher = self.shared.publisher.lock();
        for (machine, queue) in roster {
            let from = queue.place();
            let to = queue.give_up_before(oldest, Reason::Shutdown, &self.shared.history, machine.trail());
            publisher.moved(&machine, &queue, from, to);
        }
    }
}

/// Wanted lines that a queue had left at batch `at` and that have left the spool since.
fn lost_of(past: &Past, machine: &str, at: u64, note: &Note) -> u64 {
    let Some((lines, to)) = note.left.filter(|(lines, _)| *lines > 0 && at < past.oldest_seq()) else { return 0 };
    let there = note.streams.count_all(&past.machine_lines(machine, at..to));
    lines.saturating_sub(there)
}
