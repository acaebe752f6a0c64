//! What sinks want of a body on its way in.

use std::{collections::HashMap, sync::Arc};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Awaited, Departed, Inner, OutletFull, OutletState, Room, SinkReason, Source, Wanted, lines_of, wanted_of};
use crate::{
    batch::{Batch, Group, Kind, Streams},
    collector::SinkStats,
    journal::Loss,
    queue::Offered,
    sync::{
        Mutex, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Bodies that one sink may be asked to acknowledge and has not: some 300 bytes each.
const AWAITED_MAX: usize = 10_000;

/// The sinks' ends that are open. Changed under the publish lock alone.
#[derive(Default)]
pub(crate) struct Outlets {
    /// Counts the changes: 0 while there was never any.
    generation: AtomicU64,
    list: RwLock<Arc<[Arc<OutletState>]>>,
    /// Of those that were here, by name: their counters go on when they return.
    departed: Mutex<HashMap<Box<str>, Departed>>,
}

/// So many names of sinks that were here are remembered.
const DEPARTED_MAX: usize = 64;

/// What the sinks want of one batch, and the room that they keep for it.
///
/// Made before the publish lock is taken, because a filter takes its time; if the sinks have changed by then, once more.
#[derive(Default)]
pub(crate) struct Wants {
    generation: u64,
    each: SmallVec<[Want; 1]>,
    union: Union,
    awaited: Option<Arc<Awaited>>,
}

struct Want {
    state: Arc<OutletState>,
    rows: Wanted,
    room: Option<Room>,
    /// Found no room.
    is_dropped: bool,
}

/// What is wanted by any sink.
#[derive(Default)]
enum Union {
    /// There is no sink.
    #[default]
    NoSink,
    All,
    /// Lines of each group, by kind.
    Some(Box<[[u32; Kind::COUNT]]>),
}

impl Outlets {
    pub(super) fn list(&self) -> Arc<[Arc<OutletState>]> {
        Arc::clone(&self.list.read())
    }

    pub(super) fn add(&self, state: &Arc<OutletState>) {
        let mut list = self.list.write();
        // Of a drain that was stopped and started again there may be one that nobody reads any more.
        let others = list.iter().filter(|other| other.name() != state.name());
        *list = others.chain([state]).cloned().collect();
        self.generation.fetch_add(1, Relaxed);
    }

    /// Says whether it was there.
    pub(super) fn remove(&self, state: &Arc<OutletState>) -> bool {
        let mut list = self.list.write();
        let before = list.len();
        *list = list.iter().filter(|other| !Arc::ptr_eq(other, state)).cloned().collect();
        self.generation.fetch_add(1, Relaxed);
        list.len() < before
    }

    /// Puts one in another's place.
    pub(super) fn replace(&self, old: &Arc<OutletState>, new: &Arc<OutletState>) {
        let mut list = self.list.write();
        let place = |state: &Arc<OutletState>| if Arc::ptr_eq(state, old) { new } else { state }.clone();
        *list = list.iter().map(place).collect();
        self.generation.fetch_add(1, Relaxed);
    }

    /// Offers it nothing more; it is still one of those that are counted.
    pub(super) fn retire(&self, state: &OutletState, end: u64) {
        state.retired.store(true, Relaxed);
        if let Source::Position(position) = &mut state.inner.lock().source {
            position.end_at(end);
        }
        self.generation.fetch_add(1, Relaxed);
    }

    pub(super) fn remember(&self, name: &str, departed: Departed) {
        let mut all = self.departed.lock();
        if all.len() < DEPARTED_MAX || all.contains_key(name) {
            all.insert(name.into(), departed);
        }
    }

    pub(super) fn recall(&self, name: &str) -> Option<Departed> {
        self.departed.lock().remove(name)
    }

    /// What sinks want of `batch`, with room where it must be kept; `Err` where there is none.
    ///
    /// `is_asked`: somebody waits for the sinks that are to acknowledge.
    pub(crate) fn wants(&self, batch: &Batch, is_asked: bool) -> Result<Wants, ()> {
        let mut wants = Wants::default();
        wants.renew(self, batch);
        for want in wants.each.iter_mut().filter(|want| want.state.terms.full == OutletFull::Block) {
            if lines_of(batch, &want.rows) > 0 {
                want.room = Room::take(&want.state, batch.charged_bytes())?;
            }
        }
        if is_asked {
            wants.awaited = wants.await_sinks(batch)?;
        }
        Ok(wants)
    }

    /// Each sink's numbers.
    pub(crate) fn stats(&self) -> Vec<SinkStats> {
        self.list().iter().map(|state| state.stats()).collect()
    }

    /// When the oldest line was received that a sink has not settled.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.list().iter().filter_map(|state| state.unsent().0).min()
    }

    /// How many lines sinks have not settled.
    pub(crate) fn in_flight(&self) -> u64 {
        self.list().iter().map(|state| state.unsent().1).sum()
    }

    /// What was dropped since this was last asked.
    pub(crate) fn take_lost(&self) -> Vec<Loss> {
        self.list().iter().flat_map(|state| state.take_lost()).collect()
    }

    /// Wakes the sinks' readers, to see that the collector has shut down.
    pub(crate) fn wake(&self) {
        self.list().iter().for_each(|state| state.ready.notify_one());
    }

    /// Gives up what is in memory alone. Returns how many lines that were.
    pub(crate) fn give_up(&self) -> u64 {
        self.list().iter().map(|state| state.give_up()).sum()
    }
}

impl Wants {
    /// What is to be waited for; `Err` if a sink has more than enough to acknowledge.
    fn await_sinks(&self, batch: &Batch) -> Result<Option<Arc<Awaited>>, ()> {
        let awaited = || self.each.iter().filter(|want| want.state.terms.is_awaited && lines_of(batch, &want.rows) > 0);
        if awaited().any(|want| want.state.inner.lock().awaiting.len() >= AWAITED_MAX) {
            return Err(());
        }
        let is_asked = awaited().next().is_some();
        Ok(is_asked.then(|| Arc::new(Awaited::new(lines_of_any(awaited(), batch)))))
    }

    /// Who is to be told when the sinks have settled the body that asked to be; `None` if there is no such sink.
    pub(crate) fn awaited(&self) -> Option<&Arc<Awaited>> {
        self.awaited.as_ref()
    }

    /// Whether it is about the sinks that there are. Called under the publish lock.
    pub(crate) fn is_current(&self, outlets: &Outlets) -> bool {
        self.generation == outlets.generation.load(Relaxed)
    }

    /// Makes it be about the sinks that there are. Not under the publish lock.
    pub(crate) fn renew(&mut self, outlets: &Outlets, batch: &Batch) {
        self.generation = outlets.generation.load(Relaxed);
        if self.generation == 0 {
            return;
        }
        if let Some(awaited) = &self.awaited {
            // What it counted on may be gone.
            awaited.shorten();
        }
        let mut before = std::mem::take(&mut self.each);
        let want = |state: &Arc<OutletState>| {
            let known = before.iter().position(|want| Arc::ptr_eq(&want.state, state));
            known.map(|at| before.swap_remove(at)).unwrap_or_else(|| Want {
                state: Arc::clone(state),
                rows: wanted_of(batch, state.filter()),
                room: None,
                is_dropped: false,
            })
        };
        self.each = outlets.list().iter().filter(|state| !state.retired.load(Relaxed)).map(want).collect();
        self.union = Union::of(&self.each, batch);
    }

    /// Whether there is no sink.
    pub(crate) fn are_none(&self) -> bool {
        self.each.is_empty()
    }

    /// Whether any sink wants the row at `index`.
    pub(crate) fn has(&self, index: u32) -> bool {
        self.each.iter().any(|want| want.rows.as_ref().is_none_or(|rows| rows.binary_search(&index).is_ok()))
    }

    /// Gives the sinks their lines, with the publish lock held and before anybody can see the batch.
    pub(crate) fn offer(&mut self, batch: &Arc<Batch>) {
        for want in &mut self.each {
            let lines = lines_of(batch, &want.rows);
            let mut inner = want.state.inner.lock();
            let Inner { tally, source, awaiting, .. } = &mut *inner;
            tally.filtered(batch.lines() - lines);
            tally.came_in(lines);
            let mut is_taken = true;
            match source {
                Source::Position(position) => position.coming(batch.seq, &want.rows, lines, batch.received),
                Source::Channel(_) if lines == 0 => {}
                Source::Channel(channel) => {
                    let block = want.state.terms.full == OutletFull::Block;
                    if let Some(room) = &mut want.room {
                        room.settle(channel);
                    }
                    is_taken = channel.push(batch, &want.rows, block);
                    want.is_dropped = !is_taken && tally.dropped(SinkReason::QueueFull, lines);
                }
            }
            if let Some(awaited) = self.awaited.as_ref().filter(|_| lines > 0 && want.state.terms.is_awaited) {
                awaiting.push(batch.seq, awaited, is_taken);
            }
        }
    }

    /// The fate of a group's lines, of which its machine's queue, if there is one, takes those of some streams: accepted, filtered,
    /// unrouted.
    pub(crate) fn fate(&self, index: usize, group: &Group, queue: Option<(Offered, Streams)>) -> (u64, u64, u64) {
        let lines = group.lines();
        match (&self.union, queue) {
            (Union::NoSink, None) => (0, 0, lines),
            (Union::NoSink, Some((offered, _))) => (offered.accepted, offered.filtered, 0),
            (Union::All, _) => (lines, 0, 0),
            (Union::Some(counts), queue) => {
                let all = queue.map_or(0, |(offered, _)| offered.accepted);
                let beside = (0..Kind::COUNT)
                    .filter(|&kind| queue.is_none_or(|(_, streams)| !streams.wants_number(kind)))
                    .map(|kind| u64::from(counts[index][kind]));
                let accepted = all + beside.sum::<u64>();
                (accepted, lines - accepted, 0)
            }
        }
    }

    /// Wakes the sinks' readers, and notes what found no room; with no lock held.
    pub(crate) fn tell(self, batch: &Batch) {
        for want in self.each {
            if want.is_dropped {
                want.state.note_dropped(batch, &want.rows);
            }
            want.state.ready.notify_one();
        }
    }
}

/// Lines that any of these want.
fn lines_of_any<'a>(wants: impl Iterator<Item = &'a Want>, batch: &Batch) -> u64 {
    let mut wanted = vec![false; batch.rows.len()];
    for want in wants {
        let Some(rows) = &want.rows else { return batch.lines() };
        rows.iter().for_each(|row| wanted[*row as usize] = true);
    }
    wanted.into_iter().filter(|wanted| *wanted).count() as u64
}

impl Union {
    fn of(wants: &[Want], batch: &Batch) -> Self {
        match wants {
            [] => Self::NoSink,
            wants if wants.iter().any(|want| want.rows.is_none()) => Self::All,
            wants => {
                let mut counts = vec![[0; Kind::COUNT]; batch.groups.len()].into_boxed_slice();
                let mut counted = vec![false; batch.rows.len()];
                for &row in wants.iter().filter_map(|want| want.rows.as_deref()).flatten() {
                    if !std::mem::replace(&mut counted[row as usize], true) {
                        let row = &batch.rows[row as usize];
                        counts[row.group as usize][row.kind as usize] += 1;
                    }
                }
                Self::Some(counts)
            }
        }
    }
}

impl OutletState {
    /// Notes for the journal whose lines found no room; they are counted already.
    fn note_dropped(&self, batch: &Batch, rows: &Wanted) {
        match rows {
            None => self.lost.note(SinkReason::QueueFull, batch, 0..batch.rows.len() as u32),
            Some(rows) => self.lost.note(SinkReason::QueueFull, batch, rows.iter().copied()),
        }
    }
}
