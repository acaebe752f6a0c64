//! The publish section: numbers a batch, appends it to the history and offers it to its machines' queues, all in one.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    LogCollector,
    limit::{self, Meters},
    machine::{Machine, MachineState, Places, RANK_WINDOW, RATE_WINDOW},
    outlet::Wants,
    roster::key,
};
use crate::{
    batch::{Batch, Group, GroupRef, Span, Streams},
    exit::{self, Exit},
    history::Next,
    queue::{Fetched, Offered, OnDisk, Place as QueuePlace, Queue, QueueRoom, Taken, Wakes},
};

/// Apps' and regions' names longer than this are cut in the machine table; records keep them whole.
const NAME_BYTES_MAX: usize = 128;

/// How many of a batch's lines were accepted, filtered and unrouted.
pub(crate) type Fates = (u64, u64, u64);

/// What the publish lock guards.
#[derive(Default)]
pub(super) struct Publisher {
    /// When the newest batch was received.
    pub(super) newest: Option<(Timestamp, Instant)>,
    pub(super) places: Places,
    pub(super) meters: Meters,
    /// Queues that are behind, by the batch that each would read next: an eviction looks only at those it concerns.
    pub(super) behind: BTreeMap<(u64, usize), (Arc<Machine>, Arc<Queue>)>,
}

impl Publisher {
    /// Bodies are parsed side by side, and a wall clock may be set back; published times only go forward.
    pub(super) fn set_received(&mut self, batch: &mut Batch) {
        if let Some((at, instant)) = self.newest {
            batch.received_at = batch.received_at.max(at);
            batch.received = batch.received.max(instant);
        }
        self.newest = Some((batch.received_at, batch.received));
    }

    pub(super) fn moved(&mut self, machine: &Arc<Machine>, queue: &Arc<Queue>, from: QueuePlace, to: QueuePlace) {
        if from == to {
            return;
        }
        if let Some(at) = from {
            self.behind.remove(&(at.batch, key(queue)));
        }
        if let Some(at) = to {
            self.behind.insert((at.batch, key(queue)), (Arc::clone(machine), Arc::clone(queue)));
        }
    }
}

/// When a batch was received, as its machines note it.
struct Moment {
    /// Which of the windows of [`RANK_WINDOW`] and [`RATE_WINDOW`] it is in.
    rank_index: u32,
    rate_index: u32,
}

impl Moment {
    fn of(batch: &Batch, started: Instant) -> Self {
        let elapsed = batch.received.saturating_duration_since(started).as_secs();
        Self {
            rank_index: (elapsed / RANK_WINDOW.as_secs()) as u32,
            rate_index: (elapsed / RATE_WINDOW.as_secs()) as u32,
        }
    }
}

/// A batch that is offered to its machines, and whom that wakes.
struct Offering<'a> {
    batch: &'a Arc<Batch>,
    moment: Moment,
    wakes: &'a mut Wakes,
}

impl LogCollector {
    /// The machines of a batch's groups, in their order, as far as they are known: a body that is refused makes none known.
    pub(crate) fn machines_of(&self, batch: &Batch) -> Vec<Option<Arc<Machine>>> {
        batch.groups.iter().map(|group| self.known(batch.machine_id(group))).collect()
    }

    /// Keeps room in the `block` queues among `machines`, or says that one of them has none.
    pub(crate) fn reserve_queues(
        &self,
        batch: &Batch,
        machines: &[Option<Arc<Machine>>],
    ) -> Result<Vec<(u32, QueueRoom)>, ()> {
        let mut rooms = Vec::new();
        let known = machines.iter().enumerate().filter_map(|(index, machine)| Some((index, machine.as_ref()?)));
        for (index, machine) in known.filter(|(_, machine)| machine.blocks.load(Relaxed)) {
            let queue = machine.state.lock().live_queue().cloned();
            let Some(queue) = queue else { continue };
            let room = queue.reserve(batch, &batch.groups[index], Instant::now())?;
            rooms.extend(room.map(|room| (index as u32, room)));
        }
        Ok(rooms)
    }

    /// Numbers a batch, appends it to the history and offers it to its machines' queues.
    ///
    /// # Errors
    ///
    /// Gives the batch back where the shutdown has begun meanwhile, and readers have their end: nobody would read it. One that the spool
    /// has is published all the same.
    pub(crate) fn publish(
        &self,
        mut batch: Batch,
        machines: Vec<Option<Arc<Machine>>>,
        rooms: Vec<(u32, QueueRoom)>,
        mut wants: Wants,
    ) -> Result<Fates, Box<Batch>> {
        let shared = &*self.shared;
        let groups = machines.into_iter().zip(&batch.groups);
        let new = |group| self.machine(batch.machine_id(group));
        let mut machines: Vec<_> = groups.map(|(known, group)| known.unwrap_or_else(|| new(group))).collect();
        let exits = exit::exits_in(&shared.config.exit_patterns, &batch);
        let mut wakes = Wakes::with_capacity(machines.len());
        let mut publisher = loop {
            let publisher = shared.publisher.lock();
            if wants.is_current(&shared.outlets) {
                break publisher;
            }
            drop(publisher);
            wants.renew(&shared.outlets, &batch);
        };
        if !self.keeps_bodies() {
            // Looked at with the lock held that readers are ended under.
            if self.is_shutting_down() {
                return Err(Box::new(batch));
            }
            // Else the spool has numbered it.
            (batch.seq, batch.first_line) = shared.history.end();
        }
        batch.epoch = shared.epoch;
        publisher.set_received(&mut batch);
        for (group, machine) in batch.groups.iter_mut().zip(&mut machines) {
            if machine.forgotten.load(Relaxed) {
                self.revive(machine);
            }
            let trail = machine.trail.load();
            (group.first_seq, group.mark, group.prev) = (trail.next_seq, machine.trail.mark, trail.last);
        }
        let limit = &shared.config.limit;
        if limit.machine.is_on() || limit.app.is_on() {
            limit::mark(limit, &mut publisher.meters, &mut batch, &machines, &wants);
        }
        let moment = Moment::of(&batch, shared.started);
        let batch = Arc::new(batch);
        let mut offering = Offering { batch: &batch, moment, wakes: &mut wakes };
        wants.offer(&batch);
        shared.history.append(Arc::clone(&batch));
        let mut evicted = Vec::new();
        while let Some(batch) = shared.history.evict() {
            self.count_evicted(&mut publisher, &batch);
            evicted.push(batch);
        }
        let mut rooms = rooms.into_iter().peekable();
        let mut exits = exits.into_iter().peekable();
        let (mut fates, mut queue_in) = ((0, 0, 0), 0);
        for (index, machine) in machines.iter().enumerate() {
            let room = rooms.next_if(|(at, _)| *at as usize == index).map(|(_, room)| room);
            let exit = exits.next_if(|(at, _)| *at as usize == index).map(|(_, exit)| exit);
            let queue = self.offer(&mut publisher, &mut offering, machine, index as u32, room, exit);
            queue_in += queue.map_or(0, |(offered, _)| offered.accepted);
            let (accepted, filtered, unrouted) = wants.fate(index, &batch.groups[index], queue);
            fates = (fates.0 + accepted, fates.1 + filtered, fates.2 + unrouted);
        }
        shared.ledger.queue_in(queue_in);
        drop(publisher);
        wants.tell(&batch);
        shared.fleet.notify_waiters();
        drop(wakes);
        // Batches that nobody holds any more are freed here, out of everybody's way.
        drop(evicted);
        Ok(fates)
    }

    fn offer(
        &self,
        publisher: &mut Publisher,
        offering: &mut Offering<'_>,
        machine: &Arc<Machine>,
        index: u32,
        room: Option<QueueRoom>,
        exit: Option<Exit>,
    ) -> Option<(Offered, Streams)> {
        let Offering { batch, moment, wakes } = offering;
        let at = GroupRef { batch: batch.seq, group: index };
        let group = &batch.groups[index as usize];
        let mut state = machine.state.lock();
        let exit = exit.map(|exit| self.with_code(exit, machine));
        machine.note_exit(&mut state, exit, batch, group, wakes);
        machine.trail.store(at, group.end_seq());
        self.note(&mut publisher.places, &mut state, batch, group, moment);
        let offered = state.live_queue().map(|queue| {
            // Room in a queue that was replaced meanwhile is of no use to the new one.
            let room = room.filter(|room| Arc::ptr_eq(room.queue(), queue));
            let (offered, went_behind) =
                queue.offer(batch, at, room, &self.shared.history, machine.trail.load(), wakes);
            publisher.moved(machine, queue, None, went_behind);
            (offered, queue.terms.streams)
        });
        drop(state);
        if machine.watchers.load(Relaxed) > 0 {
            machine.wake_watchers();
        }
        offered
    }

    /// An exit whose record has no code gets the one that init told shortly before, if the history holds that.
    fn with_code(&self, exit: Exit, machine: &Machine) -> Exit {
        let trail = machine.trail.load();
        exit::look_back(exit, |each| trail.walk_back(&self.shared.history, |_, group, batch| each(group, batch)))
    }

    /// A machine becomes known to users.
    pub(super) fn see(&self, state: &mut MachineState) {
        if state.seen.is_none() {
            let elapsed = self.shared.started.elapsed().as_secs();
            state.seen = Some(NonZeroU32::MIN.saturating_add(u32::try_from(elapsed).unwrap_or(u32::MAX)));
            self.shared.seen.fetch_add(1, Relaxed);
        }
    }

    fn note(&self, places: &mut Places, state: &mut MachineState, batch: &Batch, group: &Group, moment: &Moment) {
        self.see(state);
        state.bytes += group.bytes;
        state.touched = batch.received;
        state.recent.add(moment.rank_index, group.lines());
        state.rate.add(moment.rate_index, group.lines());
        state.rate_bytes.add(moment.rate_index, group.bytes);
        let last = batch.row(group.rows.end - 1);
        let same = |name: Span, kept: &str| name.is_empty() || name.of(&batch.bytes, &batch.arena) == kept.as_bytes();
        if !same(last.app, state.app()) || !same(last.region, state.region()) {
            let last = batch.view_of(last);
            let (app, region) = (name_or(last.app_name(), state.app()), name_or(last.region(), state.region()));
            state.place = Some(places.get(app, region));
        }
    }

    fn count_evicted(&self, publisher: &mut Publisher, batch: &Batch) {
        let affected: Vec<_> = publisher
            .behind
            .range((batch.seq, 0)..(batch.seq + 1, 0))
            .map(|(_, (machine, queue))| (Arc::clone(machine), Arc::clone(queue)))
            .collect();
        for (machine, queue) in affected {
            let from = queue.place();
            let to = queue.evicted(batch, &self.shared.history, machine.trail());
            publisher.moved(&machine, &queue, from, to);
        }
    }

    /// Takes the next lines of a queue that is behind, for one of its readers; `None` if it must look again.
    pub(crate) fn claim(&self, machine: &Arc<Machine>, queue: &Arc<Queue>) -> Option<Taken> {
        let mut publisher = self.shared.publisher.lock();
        let from = queue.place();
        let (to, taken) = queue.claim(&self.shared.history, machine.trail());
        publisher.moved(machine, queue, from, to);
        taken
    }

    /// Fetches from the disk what comes next for a queue that stands there. Cancel safe.
    pub(crate) async fn fetch(self, machine: Arc<Machine>, at: OnDisk) -> Fetched {
        let Some(past) = self.shared.history.past() else {
            unreachable!("without a spool no queue stands on the disk")
        };
        let collector = self.clone();
        past.read(move || collector.fetch_now(&machine, at)).await
    }

    fn fetch_now(&self, machine: &Machine, at: OnDisk) -> Fetched {
        let OnDisk { mut cursor, trail, lines, streams } = at;
        let wanted = cursor.next_seq();
        let next = cursor.read_past(&self.shared.history, &machine.id, trail);
        // Where a cursor goes on that has lost something, everything up to it is lost.
        let goes_on = match &next {
            Next::Lines(step) if step.missed > 0 => Some(step.at.batch),
            Next::Lines(_) => None,
            Next::Lost(_) | Next::Past => Some(cursor.from()),
        };
        let left = |from| {
            self.shared
                .history
                .past()
                .map_or(0, |past| streams.count_all(&past.machine_lines(&machine.id, from..trail.end)))
        };
        let lost = goes_on.map_or(0, |from| lines.saturating_sub(left(from)));
        Fetched { wanted, cursor, next, lost }
    }

    /// As [`LogCollector::claim`], with what was fetched.
    pub(crate) fn claim_fetched(&self, machine: &Arc<Machine>, queue: &Arc<Queue>, fetched: Fetched) -> Option<Taken> {
        let mut publisher = self.shared.publisher.lock();
        let from = queue.place();
        let (to, taken) = queue.claim_fetched(fetched, &self.shared.history, machine.trail());
        publisher.moved(machine, queue, from, to);
        taken
    }
}

/// A name as far as it is kept, or the one `before` where a record has none.
fn name_or<'a>(name: &'a str, before: &'a str) -> &'a str {
    if name.is_empty() { before } else { &name[..name.floor_char_boundary(NAME_BYTES_MAX)] }
}
