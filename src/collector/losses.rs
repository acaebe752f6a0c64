//! What queues have dropped, on its way to the loss journal.

use std::sync::Arc;

use jiff::Timestamp;

use super::{LogCollector, Machine};
#[cfg(feature = "spool")]
use crate::spool::Spool;
use crate::{
    journal::{Loss, Losses, Undelivered},
    queue::{Lost, Queue, Reason},
};

impl LogCollector {
    /// Has the queues that dropped lines tell the journal. Who leaves the roster has told before.
    pub(crate) fn journal_losses(&self) {
        let _one_at_a_time = self.shared.journaling.lock();
        #[cfg(feature = "spool")]
        self.journal_damage();
        self.shared.outlets.take_lost().into_iter().for_each(|loss| self.shared.journal.note(loss));
        let losers = std::mem::take(&mut *self.shared.queues.losers.lock());
        if losers.is_empty() {
            return;
        }
        let queues: Vec<_> = {
            let roster = self.shared.roster.lock();
            losers.iter().filter_map(|&key| roster.get(key).cloned()).collect()
        };
        for (machine, queue) in queues {
            self.journal_queue(&machine, &queue);
        }
    }

    /// Notes what damage in the spool has cost: whose lines they were stood in the damaged records.
    #[cfg(feature = "spool")]
    fn journal_damage(&self) {
        let lines = self.spool().map_or(0, Spool::take_lines_damaged);
        if lines > 0 {
            self.shared.journal.note(loss("spool", "corrupt", lines));
        }
    }

    /// Has one queue tell the journal what it dropped.
    pub(super) fn journal_queue(&self, machine: &Arc<Machine>, queue: &Queue) {
        for Lost { reason, lines, from, to, ids } in queue.take_lost() {
            self.journal(machine, Loss { from, to, ids, ..loss("queue", reason.as_str(), lines) });
        }
    }

    /// Notes what readers hold when the process ends: it was not handed on.
    pub(crate) fn journal_what_is_held(&self) {
        let queues = self.shared.roster.lock().all();
        for (machine, queue) in queues {
            let held = queue.held_lines();
            if held > 0 {
                self.journal(&machine, loss("queue", Reason::Shutdown.as_str(), held));
            }
        }
    }

    fn journal(&self, machine: &Arc<Machine>, loss: Loss) {
        let app = machine.state.lock().app().to_owned();
        self.shared.journal.note(Loss { machine: machine.id.to_string(), app, ..loss });
    }

    /// Writes the journal where it is kept; may wait for a disk.
    pub(crate) fn write_journal(&self) {
        self.journal_losses();
        // What is in a spool is there at the next start.
        let at_stake = (!self.keeps_bodies()).then(|| self.undelivered());
        self.shared.journal.write(at_stake);
    }

    /// Writes all of the journal, and that the process stops by itself.
    pub(crate) fn close_journal(&self) {
        self.journal_losses();
        self.shared.journal.close();
    }

    /// What an unclean stop would cost now: in memory is all there is of it.
    fn undelivered(&self) -> Undelivered {
        let (queues, sinks) = (self.queue_totals(), &self.shared.outlets);
        let now = Timestamp::now();
        let oldest = [queues.oldest, sinks.oldest()].into_iter().flatten().min();
        let oldest = oldest.and_then(|oldest| now.checked_sub(oldest.elapsed()).ok());
        Undelivered { lines: queues.lines + sinks.in_flight(), oldest: oldest.unwrap_or(now) }
    }

    /// What was lost from `since` on, of one machine or of all; see [`crate::journal::Journal::read`].
    pub(crate) fn losses(&self, since: Option<Timestamp>, machine: Option<&str>) -> Losses {
        self.journal_losses();
        self.shared.journal.read(since, machine)
    }
}

/// Lines that are lost now, nobody says of which machine.
fn loss(place: &'static str, reason: &'static str, lines: u64) -> Loss {
    let now = Timestamp::now();
    let (machine, app) = (String::new(), String::new());
    Loss { machine, app, place: place.into(), reason, lines, from: now, to: now, ids: None }
}
