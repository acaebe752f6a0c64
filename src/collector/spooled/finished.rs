//! Machines that are finished, or are to be: noted as that changes, and so again in the next process. Who resumes in such a
//! machine's log after a restart is told its end, and waits for nothing.

use std::{collections::HashMap, sync::Arc, time::Duration};

use compact_str::CompactString;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::{
    LogCollector,
    machine::{Ending, Machine},
};
use crate::{
    queue::{Ended, Wakes},
    spool::Spool,
};

#[derive(Debug, Default)]
pub(in super::super) struct Finishing {
    /// What is still to be stored: when a machine is finished, or that it is not. Kept apart from the spool's table, since whoever
    /// changes it holds the publish lock, and the table's is held over a sync.
    changes: Mutex<HashMap<CompactString, Option<Timestamp>>>,
    /// Machines that an earlier process was to finish and has not.
    lingering: Mutex<Vec<Arc<Machine>>>,
}

/// A moment by the wall's clock as it goes now.
fn time_of(moment: Instant) -> Timestamp {
    let (now, wall) = (Instant::now(), Timestamp::now());
    let (ahead, ago) = (moment.saturating_duration_since(now), now.saturating_duration_since(moment));
    wall.saturating_add(ahead).and_then(|wall| wall.saturating_sub(ago)).unwrap_or(wall)
}

impl LogCollector {
    /// Notes when a machine is finished or is to be, or that it is not any more.
    pub(in super::super) fn note_ending(&self, machine: &Machine, before: Option<Ending>, ending: Option<Ending>) {
        let at = match ending {
            None if before.is_none() => return,
            // It goes on in the next process as if there had been no stop.
            Some(Ending::Finished(_, Ended::Shutdown)) => return,
            None => None,
            Some(Ending::Lingering(at) | Ending::Finished(at, Ended::Finished)) => Some(time_of(at)),
        };
        if self.spool().is_some() {
            self.shared.finishing.changes.lock().insert(machine.id.clone(), at);
        }
    }

    /// Gives what has changed to the spool, which stores it with its tables. May wait for the disk.
    pub(super) fn store_finished(&self, spool: &Spool) {
        let changes = std::mem::take(&mut *self.shared.finishing.changes.lock());
        for (machine, at) in changes {
            match at {
                Some(at) => spool.set_finished(&machine, at),
                None => spool.remove_finished(&machine),
            }
        }
    }

    /// Takes up what an earlier process had finished, or was to finish, behind its queues.
    pub(super) fn take_up_finished(&self) {
        let Some(spool) = self.spool() else { return };
        let now = Timestamp::now();
        for (machine, at) in spool.finished() {
            // Of these two one is nothing.
            let ago = Duration::try_from(now.duration_since(at)).unwrap_or_default();
            let ahead = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            if machine.is_empty() || ago >= self.shared.config.machines.finished_keep {
                spool.remove_finished(&machine);
            } else {
                self.take_up_one(&machine, ago, ahead);
            }
        }
    }

    /// One that was finished `ago`, or is to be when `ahead` is over.
    fn take_up_one(&self, machine_id: &str, ago: Duration, ahead: Duration) {
        let mut wakes = Wakes::default();
        let (machine, publisher) = self.machine_for_good(machine_id);
        let now = Instant::now();
        let mut state = machine.state.lock();
        self.see(&mut state);
        if ahead.is_zero() {
            drop(state);
            self.finish_machine(&publisher, &machine, Ended::Finished, &mut wakes);
            // Kept for as long as if there had been no restart.
            let then = now.checked_sub(ago).unwrap_or(now);
            self.enter(&machine, &mut machine.state.lock(), Some(Ending::Finished(then, Ended::Finished)));
        } else {
            self.enter(&machine, &mut state, Some(Ending::Lingering(now + ahead)));
            drop(state);
            self.shared.finishing.lingering.lock().push(machine);
        }
    }

    /// Finishes those of an earlier process whose time has come.
    pub(super) fn finish_lingering(&self) {
        let lingering = std::mem::take(&mut *self.shared.finishing.lingering.lock());
        let waiting: Vec<_> = lingering.into_iter().filter(|machine| self.finish_if_due(machine).is_some()).collect();
        self.shared.finishing.lingering.lock().extend(waiting);
    }
}
