//! What became of one line, as far as this process knows: where it is kept, which queues and sinks had it, and what was lost.
//!
//! Nothing is noted for this beside what the rooms keep anyway, but where queues and sinks began. So where a queue is past a line,
//! it is the loss journal that tells whether the line was dropped; what cannot be told apart is called unknown.

mod fates;

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use self::fates::{Fate, Known};
use super::{LogCollector, Machine};
use crate::{
    batch::{Batch, EntryId, FIRST_SEQ, GroupRef, LogEntry, SPOOLED},
    history::{Lookup, Stored},
    journal::{Entry, Losses},
    queue::{Line, Queue, Trace},
};

/// The most entries of the loss journal that are told beside a line.
const LOSSES_MAX: usize = 50;

/// What is known of a line.
#[derive(Debug, Serialize)]
pub(crate) struct Explained {
    pub(crate) id: String,
    /// `held` or `gone`.
    pub(crate) state: &'static str,
    /// Of a line that is gone: why.
    pub(crate) why: Option<String>,
    /// `None` if nothing is left of it.
    pub(crate) entry: Option<LogEntry>,
    /// Whose it is; of a line that is gone, if just one machine that is known fits the id.
    pub(crate) machine: Option<Whose>,
    pub(crate) kept: Kept,
    /// Whether it was over a limit; `None` where that is not known any more.
    pub(crate) limited: Option<bool>,
    pub(crate) queues: Vec<Fate>,
    pub(crate) sinks: Vec<Fate>,
    /// What the loss journal has of this machine, or of nobody knows whom, since the line was received; the oldest first.
    pub(crate) losses: Vec<Entry>,
    /// Losses before this are not all known any more.
    pub(crate) losses_complete_since: Option<String>,
}

/// The machine of a line.
#[derive(Debug, Serialize)]
pub(crate) struct Whose {
    machine_id: String,
    /// `live`, `finished`, or `unknown` to this process.
    state: &'static str,
}

/// Where a line is kept.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Kept {
    /// In the history in memory.
    pub(crate) history: bool,
    /// In a queue in memory.
    pub(crate) queue: bool,
    /// On the disk.
    pub(crate) spool: Option<Stored>,
}

/// Why nothing can be told of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unexplained {
    #[error("the id is of another process: of one before a restart, without a spool, or of another drain")]
    OtherProcess,
    #[error("the id is of another spool than this drain has")]
    OtherSpool,
    #[error("no line has this id yet")]
    NotYet,
    #[error("no line has this id: there is another line in its place")]
    NoSuchLine,
    #[error("the spool cannot be read now")]
    Unreadable,
}

/// What is left of a line.
struct Left {
    batch: Arc<Batch>,
    row: usize,
}

impl LogCollector {
    /// Tells what became of the line with that id. Waits for the disk where there is a spool, and reads a batch of it at most.
    ///
    /// # Errors
    ///
    /// See [`Unexplained`].
    pub(crate) fn explain(&self, id: EntryId) -> Result<Explained, Unexplained> {
        if id.epoch != self.epoch() {
            let spooled = id.epoch & SPOOLED != 0;
            return Err(if spooled { Unexplained::OtherSpool } else { Unexplained::OtherProcess });
        }
        if id.line >= self.shared.history.end().1 {
            return Err(Unexplained::NotYet);
        }
        let (left, kept, why) = self.look_for(id)?;
        if left.as_ref().is_some_and(|left| left.entry().id() != Some(id)) {
            return Err(Unexplained::NoSuchLine);
        }
        Ok(self.account_of(id, left.as_ref(), kept, why))
    }

    /// What is left of the line in the history or on the disk, where that is, and if nowhere, why.
    fn look_for(&self, id: EntryId) -> Result<(Option<Left>, Kept, Option<String>), Unexplained> {
        let history = &self.shared.history;
        let held = history.batch_with_line(id.line);
        let mut kept = Kept { history: held.is_some(), ..Kept::default() };
        let at =
            |batch: &Arc<Batch>| Some(Left { batch: Arc::clone(batch), row: (id.line - batch.first_line) as usize });
        let Some(past) = history.past() else {
            let why = held.is_none().then(|| "evicted from the history, which has history.bytes of memory".to_owned());
            return Ok((held.as_ref().and_then(at), kept, why));
        };
        let (found, place) = past.look_up(id.line);
        let left = held.or_else(|| place.and_then(|place| past.load(&place)).map(Arc::new));
        let why = match found {
            Lookup::Found(stored) => {
                kept.spool = left.is_some().then_some(stored);
                left.is_none().then(|| "its record in the spool is damaged".to_owned())
            }
            Lookup::Unreadable if left.is_none() => return Err(Unexplained::Unreadable),
            _ if left.is_some() => None,
            Lookup::Damaged => Some("its record in the spool was damaged, and is left out".to_owned()),
            Lookup::Removed { oldest } => {
                let oldest = oldest.map_or_else(String::new, |at| format!("; the oldest line there was received {at}"));
                Some(format!("removed from the spool: over spool.keep or spool.bytes_max{oldest}"))
            }
            Lookup::Unreadable => None,
        };
        Ok((left.as_ref().and_then(at), kept, why))
    }

    fn account_of(&self, id: EntryId, left: Option<&Left>, mut kept: Kept, why: Option<String>) -> Explained {
        let name = match left {
            Some(left) => Some(left.entry().machine_id().to_owned()),
            None => self.machine_of(id),
        };
        let machine = name.as_deref().and_then(|name| self.known(name));
        let line = self.line_of(id, left, kept.history, machine.as_deref());
        let queues = machine.as_deref().map(|machine| self.queues_of(machine)).unwrap_or_default();
        let traces: Vec<(Arc<Queue>, Trace)> =
            queues.into_iter().map(|queue| (Arc::clone(&queue), queue.trace(line))).collect();
        // A queue may hold what the history has let go of.
        let queued = traces.iter().find_map(|(_, trace)| match trace {
            Trace::Queued(batch, row) => Some(batch.view(*row).to_entry()),
            _ => None,
        });
        kept.queue = queued.is_some();
        let entry = left.map(Left::entry).or(queued);
        let received = entry.as_ref().and_then(LogEntry::received_at);
        let since = received.unwrap_or(if self.keeps_bodies() { Timestamp::MIN } else { self.shared.started_at });
        let losses = self.losses(Some(since), name.as_deref());
        let known = Known { id, since, started: self.shared.started_at, limited: line.limited, losses: &losses };
        let sinks = self.sink_fates(&known, line, left);
        Explained {
            id: id.to_string(),
            state: if entry.is_some() { "held" } else { "gone" },
            why: why.filter(|_| entry.is_none()),
            machine: name.map(|machine_id| Whose { machine_id, state: state_of(machine.as_deref()) }),
            kept,
            limited: line.limited,
            queues: traces.iter().map(|(queue, trace)| known.of_queue(queue, trace)).collect(),
            sinks,
            entry,
            losses_complete_since: losses.complete_since.map(|at| at.to_string()),
            losses: some_of(losses, id),
        }
    }

    /// The only machine known that an id may be of.
    fn machine_of(&self, id: EntryId) -> Option<String> {
        let mut fitting = self.shared.table.iter().filter(|entry| EntryId::mark(&entry.key().0.id) == id.machine);
        let one = fitting.next().map(|entry| entry.key().0.id.to_string());
        one.filter(|_| fitting.next().is_none())
    }

    /// The queues that may have had a line of this machine: its own, and those of before it was reopened that are still read.
    fn queues_of(&self, machine: &Machine) -> Vec<Arc<Queue>> {
        let mut queues: Vec<Arc<Queue>> = machine.state.lock().queue.iter().cloned().collect();
        let roster = self.shared.roster.lock();
        let older = roster.iter().filter(|(of, _)| of.id == machine.id).map(|(_, queue)| queue);
        let older: Vec<_> =
            older.filter(|queue| queues.iter().all(|known| !Arc::ptr_eq(known, queue))).cloned().collect();
        queues.extend(older);
        queues
    }

    fn line_of(&self, id: EntryId, left: Option<&Left>, held: bool, machine: Option<&Machine>) -> Line {
        let Some(left) = left else {
            let seq = id.machine_seq.checked_sub(1).map(|before| FIRST_SEQ + before);
            return Line { number: id.line, batch: None, seq, kind: None, limited: None };
        };
        let (batch, row) = (&left.batch, &left.batch.rows[left.row]);
        let seq =
            machine.and_then(|machine| self.seq_of(machine, batch, row.group)).map(|first| first + u64::from(row.rank));
        // The disk does not keep what was over a limit.
        Line {
            number: id.line,
            batch: Some(batch.seq),
            seq,
            kind: Some(row.kind),
            limited: held.then_some(row.limited),
        }
    }

    /// The `machine_seq` of the first row of a group of its machine, by the numbers that the machine goes by now.
    fn seq_of(&self, machine: &Machine, batch: &Batch, group: u32) -> Option<u64> {
        let (history, trail) = (&self.shared.history, machine.trail());
        let at = GroupRef { batch: batch.seq, group };
        let mut first = None;
        trail.walk_back(history, |here, group, _| {
            if here == at {
                first = Some(group.first_seq);
            }
            here > at
        });
        first.or_else(|| history.past().map(|past| past.seq_at(&machine.id, batch.seq, trail)))
    }
}

impl Left {
    fn entry(&self) -> LogEntry {
        self.batch.view_of(&self.batch.rows[self.row]).to_entry()
    }
}

fn state_of(machine: Option<&Machine>) -> &'static str {
    match machine.map(|machine| machine.state.lock().ended().is_some()) {
        Some(true) => "finished",
        Some(false) => "live",
        None => "unknown",
    }
}

/// Of too many losses those that may be the line's own first.
fn some_of(losses: Losses, id: EntryId) -> Vec<Entry> {
    let mut entries = losses.entries;
    if entries.len() > LOSSES_MAX {
        entries.sort_by_key(|entry| !fates::covers(entry, id));
        entries.truncate(LOSSES_MAX);
        entries.sort_by_key(|entry| entry.from);
    }
    entries
}
