//! One machine of the table: its counters, its place in the history, its queue, and who looks at it.

use std::{
    borrow::Borrow,
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    num::NonZeroU32,
    sync::{Arc, OnceLock},
    time::Duration,
};

use compact_str::CompactString;
use hashbrown::HashTable;
use tokio::time::Instant;

use crate::{
    batch::{Batch, FIRST_SEQ, Group, GroupRef, Mark},
    config,
    exit::{Exit, Exits},
    history::Trail,
    queue::{Ended, Queue, Wakes},
    sync::{
        Mutex, Notify,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

/// The window over which machines are ranked by their lines.
pub(super) const RANK_WINDOW: Duration = Duration::from_secs(300);
/// The window over which a machine's rate is told.
pub(super) const RATE_WINDOW: Duration = Duration::from_secs(10);

/// A sliding window, from two fixed ones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    index: u32,
    now: u32,
    before: u32,
}

impl Window {
    fn roll(&mut self, index: u32) {
        if index != self.index {
            self.before = if index == self.index + 1 { self.now } else { 0 };
            (self.now, self.index) = (0, index);
        }
    }

    pub(super) fn add(&mut self, index: u32, count: u64) {
        self.roll(index);
        self.now = self.now.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    pub(super) fn total(mut self, elapsed: Duration, width: Duration) -> f64 {
        let position = elapsed.as_secs_f64() / width.as_secs_f64();
        self.roll(position as u32);
        f64::from(self.now) + f64::from(self.before) * (1.0 - position.fract())
    }
}

/// A machine's place in the history.
///
/// Only who holds the publish lock moves it, and holds the machine's lock too: so the publisher reads it with no more than its own
/// lock, which spares it a round of locking over all machines of a batch, and everybody else with the machine's.
#[derive(Debug)]
pub(super) struct TrailCell {
    next_seq: AtomicU64,
    batch: AtomicU64,
    group: AtomicU32,
    /// The machine's, which never changes. Here, where it takes no room.
    pub(super) mark: Option<Mark>,
}

impl TrailCell {
    /// No group has this number: the machine has none yet, and is known since before the batch.
    const NONE: u32 = u32::MAX;

    fn new(mark: Option<Mark>, known_from: u64) -> Self {
        let (next_seq, batch) = (AtomicU64::new(FIRST_SEQ), AtomicU64::new(known_from));
        Self { next_seq, batch, group: AtomicU32::new(Self::NONE), mark }
    }

    pub(super) fn load(&self) -> Trail {
        let (batch, group) = (self.batch.load(Relaxed), self.group.load(Relaxed));
        let last = (group != Self::NONE).then_some(GroupRef { batch, group });
        let end = if last.is_some() { batch + 1 } else { batch };
        Trail { last, next_seq: self.next_seq.load(Relaxed), end }
    }

    pub(super) fn store(&self, last: GroupRef, next_seq: u64) {
        self.batch.store(last.batch, Relaxed);
        self.group.store(last.group, Relaxed);
        self.next_seq.store(next_seq, Relaxed);
    }
}

/// A machine of the table.
pub(crate) struct Machine {
    /// In place up to 24 bytes, and Fly's have 14: the look-up compares it in the line of memory that it must read anyway.
    pub(crate) id: CompactString,
    /// Its `next_seq` counts the machine's lines too.
    pub(super) trail: TrailCell,
    /// No longer in the table; whoever still holds it must look again. Changed under the publish lock alone.
    pub(super) forgotten: AtomicBool,
    pub(super) state: Mutex<MachineState>,
    /// Readers of `logs` that look at this machine; they are woken by it alone.
    pub(super) watchers: AtomicU32,
    watched: OnceLock<Box<Watched>>,
    /// Whether its queue is one that may refuse bodies: spares the others a lock.
    pub(super) blocks: AtomicBool,
}

/// What few machines have.
#[derive(Debug, Default)]
struct Watched {
    /// Wakes who looks at it.
    notify: Notify,
    /// Its last exit, and who waits for one. Changed with the machine's state locked.
    exits: Mutex<Exits>,
}

pub(super) struct MachineState {
    pub(super) bytes: u64,
    /// What queues before the current one dropped.
    pub(super) dropped_before: u64,
    pub(super) place: Option<Arc<Place>>,
    /// When its last line was received or it was subscribed.
    pub(super) touched: Instant,
    pub(super) recent: Window,
    pub(super) rate: Window,
    pub(super) rate_bytes: Window,
    pub(super) queue: Option<Arc<Queue>>,
    /// `None` while it is live, as most machines are.
    pub(super) ending: Option<Box<Ending>>,
    /// Known to users, since it has sent a line or was subscribed: a second more than had gone by since the collector's start.
    pub(super) seen: Option<NonZeroU32>,
}

/// How a machine's log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// To be finished then.
    Lingering(Instant),
    Finished(Instant, Ended),
}

/// A machine's lines: where its last are, and how many it has sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) last: GroupRef,
    next_seq: u64,
    bytes: u64,
}

/// Where a machine runs. A fleet has few of these, and each is held once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    app: Box<str>,
    region: Box<str>,
}

/// The places that were seen lately.
#[derive(Default)]
pub(super) struct Places {
    pub(super) table: HashTable<Arc<Place>>,
    hasher: foldhash::fast::RandomState,
}

impl Places {
    /// Beyond, it begins anew: names come from the network. Who has a place keeps it.
    pub(super) const MAX: usize = 4096;

    pub(super) fn get(&mut self, app: &str, region: &str) -> Arc<Place> {
        let Self { table, hasher } = self;
        if table.len() >= Self::MAX {
            table.clear();
        }
        let same = |place: &Arc<Place>| *place.app == *app && *place.region == *region;
        let hash = |place: &Arc<Place>| hasher.hash_one((&*place.app, &*place.region));
        let place = || Arc::new(Place { app: app.into(), region: region.into() });
        Arc::clone(table.entry(hasher.hash_one((app, region)), same, hash).or_insert_with(place).get())
    }
}

impl MachineState {
    pub(super) fn app(&self) -> &str {
        self.place.as_ref().map_or("", |place| &place.app)
    }

    pub(super) fn region(&self) -> &str {
        self.place.as_ref().map_or("", |place| &place.region)
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        match self.ending.as_deref() {
            Some(Ending::Finished(_, ended)) => Some(*ended),
            None | Some(Ending::Lingering(_)) => None,
        }
    }

    /// When it will be finished, if that is settled already.
    pub(super) fn finishes_at(&self) -> Option<Instant> {
        match self.ending.as_deref() {
            Some(Ending::Lingering(at)) => Some(*at),
            None | Some(Ending::Finished(..)) => None,
        }
    }

    pub(super) fn live_queue(&self) -> Option<&Arc<Queue>> {
        self.queue.as_ref().filter(|_| self.ended().is_none())
    }

    /// Whether nobody is subscribed to it, and nobody reads what is left of its queue.
    pub(super) fn is_idle(&self) -> bool {
        self.live_queue().is_none() && self.queue.as_ref().is_none_or(|queue| queue.facts().readers == 0)
    }

    /// Whether it was kept for as long as it must be.
    pub(super) fn expired(&self, now: Instant, keep: &config::Machines) -> bool {
        match self.ending.as_deref() {
            Some(Ending::Finished(at, _)) => now.saturating_duration_since(*at) >= keep.finished_keep,
            None | Some(Ending::Lingering(_)) => now.saturating_duration_since(self.touched) >= keep.idle_expire,
        }
    }
}

impl Machine {
    /// `known_from`: the number that the next batch gets, or less.
    pub(super) fn new(id: CompactString, now: Instant, known_from: u64) -> Self {
        let state = MachineState {
            bytes: 0,
            dropped_before: 0,
            place: None,
            touched: now,
            recent: Window::default(),
            rate: Window::default(),
            rate_bytes: Window::default(),
            queue: None,
            ending: None,
            seen: None,
        };
        Self {
            trail: TrailCell::new(Mark::of(id.as_bytes()), known_from),
            id,
            forgotten: AtomicBool::new(false),
            state: Mutex::new(state),
            watchers: AtomicU32::new(0),
            watched: OnceLock::new(),
            blocks: AtomicBool::new(false),
        }
    }

    /// What stays known of it when it is forgotten, with its state locked; `None` if it has no line.
    pub(super) fn known(&self, state: &MachineState) -> Option<Known> {
        let Trail { last, next_seq, .. } = self.trail.load();
        Some(Known { last: last?, next_seq, bytes: state.bytes })
    }

    /// It was known before. To be called before it is in the table.
    pub(super) fn go_on(&self, Known { last, next_seq, bytes }: Known) {
        self.trail.store(last, next_seq);
        self.state.lock().bytes = bytes;
    }

    pub(crate) fn trail(&self) -> Trail {
        let _state = self.state.lock();
        self.trail.load()
    }

    /// Why the machine has ended, with its place at this moment: nothing past it is a finished machine's to wait for.
    pub(crate) fn trail_and_end(&self) -> (Trail, Option<Ended>) {
        let state = self.state.lock();
        (self.trail.load(), state.ended())
    }

    /// Looks at the machine's place while no line of it can come.
    pub(crate) fn with_place<T>(&self, look: impl FnOnce(Trail) -> T) -> T {
        let _state = self.state.lock();
        look(self.trail.load())
    }

    /// Changes its exits.
    pub(crate) fn with_exits<T>(&self, change: impl FnOnce(&mut Exits) -> T) -> T {
        let _state = self.state.lock();
        change(&mut self.watched().exits.lock())
    }

    /// As [`Machine::with_exits`], by who has locked the state, and only if there may be some.
    pub(super) fn with_exits_known(&self, _state: &mut MachineState, change: impl FnOnce(&mut Exits)) {
        if let Some(watched) = self.watched.get() {
            change(&mut watched.exits.lock());
        }
    }

    /// Notes that the machine has lines in a batch that is published, and maybe tells there that it has exited.
    pub(super) fn note_exit(
        &self,
        _state: &mut MachineState,
        exit: Option<Exit>,
        batch: &Batch,
        group: &Group,
        wakes: &mut Wakes,
    ) {
        let watched = if exit.is_some() { Some(self.watched()) } else { self.watched.get().map(|watched| &**watched) };
        if let Some(watched) = watched {
            watched.exits.lock().note(exit, batch, group, wakes);
        }
    }

    fn watched(&self) -> &Watched {
        self.watched.get_or_init(Box::default)
    }

    pub(crate) fn watch(&self) -> &Notify {
        &self.watched().notify
    }

    pub(crate) fn remove_watcher(&self) {
        self.watchers.fetch_sub(1, Relaxed);
    }

    pub(super) fn wake_watchers(&self) {
        if let Some(watched) = self.watched.get() {
            watched.notify.notify_waiters();
        }
    }
}

/// A machine as the table's key: by its id.
#[derive(Clone)]
pub(super) struct ById(pub(super) Arc<Machine>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.as_str().hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("id", &self.id).finish_non_exhaustive()
    }
}
