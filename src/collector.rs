//! The machine table and the publish section: subscribe, finish, and the routing of batches to queues.
//!
//! Publish is serial, and that is what makes everything else simple: line numbers, `machine_seq`, the append to the history
//! and the offers to all machines of a batch are one short critical section, so history order = queue order = `machine_seq`
//! order. The obvious alternative, to number under the history's lock and offer concurrently, repeats and loses batches.
//!
//! Lock order: publish → shard of the table → machine → queue → history; the roster's is taken with none of these wanted
//! behind it. No `async fn` here: a DashMap guard must never cross an await.

use std::{
    collections::{BTreeMap, HashMap, hash_map::RandomState as StdRandomState},
    fmt,
    hash::BuildHasher,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::{DashMap, Entry};
use hashbrown::HashTable;
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::{sync::Notify, time::Instant};

use crate::{
    batch::{Batch, Streams},
    budget::Budget,
    config::{self, Full},
    history::{Held, History, Trail},
    metrics::Histogram,
    queue::{Bounds, Ended, Offered, Place as QueuePlace, Queue, QueueFacts, QueueRoom, Reason, Taken, Terms},
    record::RejectReason,
    stream::LogQueue,
};

/// The longest id of a machine, in bytes; see the record rules.
pub const MACHINE_ID_BYTES_MAX: usize = 128;
/// Shards of the machine table: enough that a sweep holds up a sixty-fourth of the machines at a time.
const SHARDS: usize = 64;
/// When the table is full, one in so many machines goes at once, so that making room is rare.
const EVICTED_SHARE: usize = 64;
/// The window over which machines are ranked by their lines.
const RANK_WINDOW: Duration = Duration::from_secs(300);
/// The window over which a machine's rate is told.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// Times that the table is swept within the shortest time anything in it is kept, and the longest between two sweeps.
const SWEEPS: u32 = 20;
const SWEEP_MAX: Duration = Duration::from_secs(30);
/// Apps' and regions' names longer than this are cut in the machine table; records keep them whole.
const NAME_BYTES_MAX: usize = 128;

/// Every counter of the balances, separate per collector, without any metrics recorder.
pub(crate) struct Ledger {
    pub(crate) received: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) filtered: AtomicU64,
    pub(crate) unrouted: AtomicU64,
    pub(crate) repaired: AtomicU64,
    pub(crate) rejected: [AtomicU64; RejectReason::ALL.len()],
    queue_in: AtomicU64,
    queue_delivered: AtomicU64,
    queue_dropped: [AtomicU64; Reason::NAMES.len()],
    pub(crate) viewer_skipped: AtomicU64,
    pub(crate) viewers: AtomicU64,
    /// Received → taken by a queue's reader, once a group.
    pub(crate) delivery_latency: Arc<Histogram>,
    /// A record's own timestamp → received.
    pub(crate) log_lag: Arc<Histogram>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            received: AtomicU64::default(),
            accepted: AtomicU64::default(),
            filtered: AtomicU64::default(),
            unrouted: AtomicU64::default(),
            repaired: AtomicU64::default(),
            rejected: Default::default(),
            queue_in: AtomicU64::default(),
            queue_delivered: AtomicU64::default(),
            queue_dropped: Default::default(),
            viewer_skipped: AtomicU64::default(),
            viewers: AtomicU64::default(),
            delivery_latency: Arc::new(Histogram::new(Histogram::LATENCY)),
            log_lag: Arc::new(Histogram::new(Histogram::LAG)),
        }
    }
}

impl Ledger {
    pub(crate) fn queue_in(&self, lines: u64) {
        self.queue_in.fetch_add(lines, Relaxed);
    }

    pub(crate) fn queue_delivered(&self, lines: u64) {
        self.queue_delivered.fetch_add(lines, Relaxed);
    }

    pub(crate) fn queue_dropped(&self, reason: Reason, lines: u64) {
        self.queue_dropped[reason as usize].fetch_add(lines, Relaxed);
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("received", &self.received).finish_non_exhaustive()
    }
}

/// Every counter of the balances, and what is held now. Balances hold at every quiet moment:
/// `lines_received = lines_accepted + lines_filtered + lines_unrouted + lines_rejected` and
/// `queue_lines_in = queue_lines_delivered + queue_lines_dropped + queue_lines`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the metric of its name; see the metrics reference")]
pub struct Stats {
    pub lines_received: u64,
    pub lines_accepted: u64,
    pub lines_filtered: u64,
    pub lines_unrouted: u64,
    pub lines_rejected: u64,
    pub lines_rejected_by_reason: BTreeMap<&'static str, u64>,
    pub lines_repaired: u64,
    pub queue_lines_in: u64,
    pub queue_lines_delivered: u64,
    pub queue_lines_dropped: u64,
    pub queue_lines_dropped_by_reason: BTreeMap<&'static str, u64>,
    /// Counted in the queues, not derived from the three before.
    pub queue_lines: u64,
    pub queue_bytes: u64,
    pub viewer_skipped_lines: u64,
    pub viewers: u64,
    pub machines: u64,
    pub subscriptions: u64,
    pub history_lines: u64,
    pub history_bytes: u64,
    pub history_seconds: f64,
    pub memory_used_bytes: u64,
    pub memory_budget_bytes: u64,
    pub oldest_entry_age_seconds: f64,
}

impl Stats {
    /// Rejected lines in the order of [`RejectReason::ALL`].
    #[must_use]
    pub fn rejected_by_reason(&self) -> [u64; RejectReason::ALL.len()] {
        RejectReason::ALL.map(|reason| self.lines_rejected_by_reason.get(reason.as_str()).copied().unwrap_or(0))
    }

    /// Dropped lines in the order of [`Reason`].
    #[cfg(feature = "server")]
    pub(crate) fn dropped_by_reason(&self) -> [u64; Reason::NAMES.len()] {
        Reason::NAMES.map(|reason| self.queue_lines_dropped_by_reason.get(reason).copied().unwrap_or(0))
    }
}

/// What a collector may hold.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CollectorConfig {
    /// The byte budget, see [`config::Memory::budget`].
    pub budget_bytes: usize,
    /// See [`config::History::bytes`].
    pub history_bytes: usize,
    /// See [`config::Ingest::line_bytes_max`].
    pub line_bytes_max: usize,
    /// See [`config::Queue`].
    pub queue: config::Queue,
    /// See [`config::Machines`].
    pub machines: config::Machines,
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self::from(&config::Config::default())
    }
}

impl From<&config::Config> for CollectorConfig {
    fn from(config: &config::Config) -> Self {
        Self {
            budget_bytes: config.memory.budget,
            history_bytes: config.history.bytes,
            line_bytes_max: config.ingest.line_bytes_max,
            queue: config.queue.clone(),
            machines: config.machines.clone(),
        }
    }
}

/// How a machine is subscribed; what is `None` is the collector's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Which streams the queue takes.
    pub streams: Option<Streams>,
    /// What a full queue does.
    pub full: Option<Full>,
    /// Whether the queue begins with what the history holds; only looked at when it is created.
    pub backlog: bool,
}

/// Why a machine could not be subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The queue exists with other terms, which are its own for good.
    #[error("the machine's queue exists with streams={streams} and full={full:?}, which stay as they are")]
    Conflict {
        /// What it takes.
        streams: Streams,
        /// What it does when it is full.
        full: Full,
    },
    /// Over `queue.subscriptions_max`.
    #[error("{bound} machines are subscribed, which is queue.subscriptions_max")]
    TooMany {
        /// The bound.
        bound: usize,
    },
    /// Empty, or over [`MACHINE_ID_BYTES_MAX`].
    #[error("a machine id has 1 to {MACHINE_ID_BYTES_MAX} bytes, not {bytes}")]
    BadId {
        /// Its length.
        bytes: usize,
    },
    /// The collector is shutting down.
    #[error("the collector is shutting down")]
    ShuttingDown,
}

/// What a consumer of a machine reads; see [`LogCollector::queue_to_consume`].
#[cfg(feature = "server")]
#[derive(Debug)]
pub(crate) enum Consume {
    Queue(LogQueue),
    /// The machine is finished, and was never subscribed.
    Over(Ended),
}

/// What became of the wish to finish a machine later.
#[derive(Debug)]
pub(crate) enum Lingering {
    NeverSeen,
    /// It is finished, or whoever waits to finish it will see the new time.
    Settled,
    /// Somebody must wait, and then call [`LogCollector::finish_if_due`].
    Wanted(Arc<Machine>),
}

/// One machine, as told to operators.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the JSON API's; see the API reference")]
pub struct MachineFacts {
    pub machine_id: String,
    pub state: &'static str,
    pub app_name: String,
    pub region: String,
    pub lines: u64,
    pub bytes: u64,
    pub dropped: u64,
    pub lines_per_second: f64,
    pub bytes_per_second: f64,
    /// Lines of about the last five minutes.
    pub lines_recent: u64,
    pub subscribed: bool,
    pub streams: Option<String>,
    pub full: Option<&'static str>,
    pub queue_lines: u64,
    pub queue_bytes: u64,
    pub queue_behind: bool,
    pub readers: u32,
    /// How long the oldest queued line has waited.
    pub lag_seconds: f64,
    pub latency_p50_seconds: Option<f64>,
    pub latency_p99_seconds: Option<f64>,
    pub last_seen: Option<String>,
}

/// Lines and bytes of a sliding window, from two fixed ones.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
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

    fn add(&mut self, index: u32, count: u64) {
        self.roll(index);
        self.now = self.now.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn total(mut self, elapsed: Duration, width: Duration) -> f64 {
        let position = elapsed.as_secs_f64() / width.as_secs_f64();
        self.roll(position as u32);
        f64::from(self.now) + f64::from(self.before) * (1.0 - position.fract())
    }
}

/// A machine of the table.
pub(crate) struct Machine {
    pub(crate) id: Arc<str>,
    state: Mutex<MachineState>,
    /// Readers of `logs` that look at this machine; they are woken by it alone.
    watchers: AtomicU32,
    watched: OnceLock<Box<Notify>>,
    /// Whether its queue is one that may refuse bodies: spares the others a lock.
    blocks: AtomicBool,
}

struct MachineState {
    /// Its `next_seq` counts the machine's lines too.
    trail: Trail,
    bytes: u64,
    /// What queues before the current one dropped.
    dropped_before: u64,
    place: Option<Arc<Place>>,
    /// When its last line was received, in microseconds since 1970; 0 if none was.
    seen_at: i64,
    touched: Instant,
    recent: Window,
    rate: Window,
    rate_bytes: Window,
    queue: Option<Arc<Queue>>,
    life: Life,
    /// Known to users: it has sent a line or was subscribed.
    seen: bool,
    /// No longer in the table; whoever still holds it must look again.
    forgotten: bool,
}

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Live,
    /// To be finished then.
    Lingering(Instant),
    Finished(Instant, Ended),
}

/// Where a machine runs. A fleet has few of these, and each is held once.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    app: Box<str>,
    region: Box<str>,
}

/// The places that were seen lately.
#[derive(Default)]
struct Places {
    table: HashTable<Arc<Place>>,
    hasher: foldhash::fast::RandomState,
}

impl Places {
    /// Beyond, it begins anew: names come from the network. Who has a place keeps it.
    const MAX: usize = 4096;

    fn get(&mut self, app: &str, region: &str) -> Arc<Place> {
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
    fn lines(&self) -> u64 {
        self.trail.next_seq - 1
    }

    fn app(&self) -> &str {
        self.place.as_ref().map_or("", |place| &place.app)
    }

    fn region(&self) -> &str {
        self.place.as_ref().map_or("", |place| &place.region)
    }

    fn ended(&self) -> Option<Ended> {
        match self.life {
            Life::Finished(_, ended) => Some(ended),
            Life::Live | Life::Lingering(_) => None,
        }
    }

    fn live_queue(&self) -> Option<&Arc<Queue>> {
        self.queue.as_ref().filter(|_| self.ended().is_none())
    }

    /// Whether nobody is subscribed to it, and nobody reads what is left of its queue.
    fn is_idle(&self) -> bool {
        self.live_queue().is_none() && self.queue.as_ref().is_none_or(|queue| queue.facts().readers == 0)
    }

    /// Whether it was kept for as long as it must be.
    fn expired(&self, now: Instant, keep: &config::Machines) -> bool {
        match self.life {
            Life::Finished(at, _) => now.saturating_duration_since(at) >= keep.finished_keep,
            Life::Live | Life::Lingering(_) => now.saturating_duration_since(self.touched) >= keep.idle_expire,
        }
    }
}

impl Machine {
    fn new(id: Arc<str>, now: Instant) -> Self {
        let state = MachineState {
            trail: Trail { last: None, next_seq: 1 },
            bytes: 0,
            dropped_before: 0,
            place: None,
            seen_at: 0,
            touched: now,
            recent: Window::default(),
            rate: Window::default(),
            rate_bytes: Window::default(),
            queue: None,
            life: Life::Live,
            seen: false,
            forgotten: false,
        };
        Self {
            id,
            state: Mutex::new(state),
            watchers: AtomicU32::new(0),
            watched: OnceLock::new(),
            blocks: AtomicBool::new(false),
        }
    }

    pub(crate) fn trail(&self) -> Trail {
        self.state.lock().trail
    }

    /// Why the machine has ended, with its place at this moment: nothing past it is a finished machine's to wait for.
    pub(crate) fn trail_and_end(&self) -> (Trail, Option<Ended>) {
        let state = self.state.lock();
        (state.trail, state.ended())
    }

    pub(crate) fn watch(&self) -> &Notify {
        self.watched.get_or_init(Box::default)
    }

    pub(crate) fn remove_watcher(&self) {
        self.watchers.fetch_sub(1, Relaxed);
    }

    fn wake_watchers(&self) {
        if let Some(watched) = self.watched.get() {
            watched.notify_waiters();
        }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What the publish lock guards.
#[derive(Default)]
struct Publisher {
    /// When the newest batch was received.
    newest: Option<(Timestamp, Instant)>,
    places: Places,
    /// Queues that are behind, by the batch that each would read next: an eviction looks only at those it concerns.
    behind: BTreeMap<(u64, usize), (Arc<Machine>, Arc<Queue>)>,
}

fn key(queue: &Arc<Queue>) -> usize {
    Arc::as_ptr(queue).addr()
}

impl Publisher {
    /// Bodies are parsed side by side, and a wall clock may be set back; published times only go forward.
    fn set_received(&mut self, batch: &mut Batch) {
        if let Some((at, instant)) = self.newest {
            batch.received_at = batch.received_at.max(at);
            batch.received = batch.received.max(instant);
        }
        self.newest = Some((batch.received_at, batch.received));
    }

    fn moved(&mut self, machine: &Arc<Machine>, queue: &Arc<Queue>, from: QueuePlace, to: QueuePlace) {
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

/// Queues that hold, or may yet hold, lines: the live ones and the finished ones that are not drained.
type Roster = HashMap<usize, (Arc<Machine>, Arc<Queue>)>;

pub(crate) struct Shared {
    pub(crate) config: CollectorConfig,
    pub(crate) budget: Arc<Budget>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) history: History,
    table: DashMap<Arc<str>, Arc<Machine>, foldhash::fast::RandomState>,
    /// Machines in the table, and of these those that users know of.
    machines: AtomicUsize,
    seen: AtomicUsize,
    publisher: Mutex<Publisher>,
    roster: Mutex<Roster>,
    subscriptions: AtomicUsize,
    /// Readers of all machines.
    pub(crate) fleet: Notify,
    shutting_down: AtomicBool,
    epoch: u64,
    started: Instant,
    swept: Mutex<Instant>,
    /// What queues take whose subscribers do not say.
    streams: Mutex<Streams>,
}

/// Routes lines to machines' queues, and remembers the recent ones. Cheap to clone; all clones are the same collector.
///
/// The counterpart of the Python module's `LogCollector`.
#[derive(Clone)]
pub struct LogCollector {
    pub(crate) shared: Arc<Shared>,
}

impl Default for LogCollector {
    fn default() -> Self {
        Self::new(CollectorConfig::default())
    }
}

impl fmt::Debug for LogCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogCollector").field("machines", &self.shared.table.len()).finish_non_exhaustive()
    }
}

impl LogCollector {
    /// An empty collector that holds at most what `config` says.
    #[must_use]
    pub fn new(config: CollectorConfig) -> Self {
        let budget = Budget::new(config.budget_bytes);
        let history = History::new(config.history_bytes);
        let streams = config.queue.streams;
        // Random by the hasher's own seed: ids of two processes must not be taken for each other's.
        let epoch = StdRandomState::new().hash_one(Timestamp::now().as_nanosecond()) >> 16;
        let shared = Shared {
            config,
            budget,
            ledger: Arc::default(),
            history,
            table: DashMap::with_hasher_and_shard_amount(foldhash::fast::RandomState::default(), SHARDS),
            machines: AtomicUsize::new(0),
            seen: AtomicUsize::new(0),
            publisher: Mutex::default(),
            roster: Mutex::default(),
            subscriptions: AtomicUsize::new(0),
            fleet: Notify::new(),
            shutting_down: AtomicBool::new(false),
            epoch,
            started: Instant::now(),
            swept: Mutex::new(Instant::now()),
            streams: Mutex::new(streams),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The byte budget that bodies and batches are charged to.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.shared.budget
    }

    /// What queues take that are created from now on by subscribers who do not say.
    pub fn set_default_streams(&self, streams: Streams) {
        *self.shared.streams.lock() = streams;
    }

    /// Takes bodies and subscribers again, after [`LogCollector::shut_down`].
    #[cfg(feature = "server")]
    pub(crate) fn open(&self) {
        self.shared.shutting_down.store(false, Relaxed);
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shared.shutting_down.load(Relaxed)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// Subscribes to a machine: gets its queue, or creates it. Who subscribes twice gets the same queue, and each line goes
    /// to one of its readers.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`]: too many, a bad id, or shutting down.
    pub fn subscribe(&self, machine_id: &str) -> Result<LogQueue, SubscribeError> {
        self.subscribe_with(machine_id, SubscribeOptions::default()).map(|(queue, _)| queue)
    }

    /// As [`LogCollector::subscribe`], with terms; the second is whether the queue was created.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::Conflict`] where the queue exists with other terms, and those of [`LogCollector::subscribe`].
    pub fn subscribe_with(
        &self,
        machine_id: &str,
        options: SubscribeOptions,
    ) -> Result<(LogQueue, bool), SubscribeError> {
        let (machine, mut publisher) = self.machine_to_subscribe(machine_id)?;
        self.subscribe_machine(&mut publisher, &machine, options)
    }

    fn machine_to_subscribe(
        &self,
        machine_id: &str,
    ) -> Result<(Arc<Machine>, MutexGuard<'_, Publisher>), SubscribeError> {
        let bytes = machine_id.len();
        if bytes == 0 || bytes > MACHINE_ID_BYTES_MAX {
            return Err(SubscribeError::BadId { bytes });
        }
        Ok(self.machine_for_good(machine_id))
    }

    fn subscribe_machine(
        &self,
        publisher: &mut Publisher,
        machine: &Arc<Machine>,
        options: SubscribeOptions,
    ) -> Result<(LogQueue, bool), SubscribeError> {
        if self.is_shutting_down() {
            return Err(SubscribeError::ShuttingDown);
        }
        if let Some(queue) = machine.state.lock().live_queue() {
            let Terms { streams, full } = queue.terms;
            if options.streams.is_some_and(|asked| asked != streams) || options.full.is_some_and(|asked| asked != full)
            {
                return Err(SubscribeError::Conflict { streams, full });
            }
            return Ok((LogQueue::new(self, machine, queue), false));
        }
        let queue = self.create_queue(publisher, machine, options)?;
        Ok((LogQueue::new(self, machine, &queue), true))
    }

    /// The queue to consume: subscribes first, unless the machine is finished. One step, so that a finish in between cannot
    /// be undone by it.
    ///
    /// # Errors
    ///
    /// As [`LogCollector::subscribe_with`].
    #[cfg(feature = "server")]
    pub(crate) fn queue_to_consume(&self, id: &str, options: SubscribeOptions) -> Result<Consume, SubscribeError> {
        let (machine, mut publisher) = self.machine_to_subscribe(id)?;
        {
            let state = machine.state.lock();
            if let Some(ended) = state.ended() {
                let queue = state.queue.as_ref().map(|queue| LogQueue::new(self, &machine, queue));
                return Ok(queue.map_or(Consume::Over(ended), Consume::Queue));
            }
        }
        self.subscribe_machine(&mut publisher, &machine, options).map(|(queue, _)| Consume::Queue(queue))
    }

    /// The machine of that name, new if need be, under the publish lock and so not forgotten meanwhile.
    fn machine_for_good(&self, machine_id: &str) -> (Arc<Machine>, MutexGuard<'_, Publisher>) {
        loop {
            let machine = self.machine(machine_id);
            let publisher = self.shared.publisher.lock();
            if !machine.state.lock().forgotten {
                return (machine, publisher);
            }
        }
    }

    fn create_queue(
        &self,
        publisher: &mut Publisher,
        machine: &Arc<Machine>,
        options: SubscribeOptions,
    ) -> Result<Arc<Queue>, SubscribeError> {
        let defaults = &self.shared.config.queue;
        let bound = defaults.subscriptions_max;
        if self.shared.subscriptions.load(Relaxed) >= bound {
            return Err(SubscribeError::TooMany { bound });
        }
        let now = Instant::now();
        let terms =
            Terms { streams: options.streams.unwrap_or(defaults.streams), full: options.full.unwrap_or(defaults.full) };
        let bounds = Bounds {
            lines: defaults.lines as u64,
            bytes: defaults.bytes,
            stalled_after: defaults.stalled_after,
            abandoned_after: defaults.abandoned_after,
        };
        let (budget, ledger) = (Arc::clone(&self.shared.budget), Arc::clone(&self.shared.ledger));
        let queue = Arc::new(Queue::new(terms, bounds, budget, ledger, now));
        let mut state = machine.state.lock();
        if options.backlog {
            let from = state.trail.oldest_seq(&self.shared.history);
            let place = queue.start_at(&self.shared.history, state.trail, from);
            publisher.moved(machine, &queue, None, place);
        }
        if let Some(old) = state.queue.replace(Arc::clone(&queue)) {
            state.dropped_before += old.facts().dropped;
        }
        (state.life, state.touched) = (Life::Live, now);
        self.see(&mut state);
        drop(state);
        machine.blocks.store(terms.full == Full::Block, Relaxed);
        self.shared.subscriptions.fetch_add(1, Relaxed);
        self.shared.roster.lock().insert(key(&queue), (Arc::clone(machine), Arc::clone(&queue)));
        Ok(queue)
    }

    /// The queue of a machine whether it is finished or not, for who reads it to its end.
    #[cfg(test)]
    pub(crate) fn queue_to_read(&self, machine_id: &str) -> Option<LogQueue> {
        let machine = self.known(machine_id)?;
        let state = machine.state.lock();
        let queue = state.queue.clone()?;
        drop(state);
        Some(LogQueue::new(self, &machine, &queue))
    }

    /// Ends a machine's log behind what is queued; `false` if it was never seen. Reading goes on until the end.
    pub fn finish(&self, machine_id: &str) -> bool {
        let publisher = self.shared.publisher.lock();
        let Some(machine) = self.known(machine_id) else { return false };
        if !machine.state.lock().seen {
            return false;
        }
        self.finish_machine(&publisher, &machine, Ended::Finished);
        true
    }

    /// Notes that a machine is to be finished at `at`; see [`Lingering`]. A later time than that noted before counts too.
    pub(crate) fn linger_until(&self, machine_id: &str, at: Instant) -> Lingering {
        let Some(machine) = self.known(machine_id) else { return Lingering::NeverSeen };
        let mut state = machine.state.lock();
        if !state.seen {
            return Lingering::NeverSeen;
        }
        let before = state.life;
        if !matches!(before, Life::Finished(..)) {
            state.life = Life::Lingering(at);
        }
        drop(state);
        match before {
            Life::Finished(..) => Lingering::Settled,
            Life::Lingering(pending) if pending <= at => Lingering::Settled,
            Life::Live | Life::Lingering(_) => Lingering::Wanted(machine),
        }
    }

    /// Finishes a machine whose time has come. Returns until when to wait if it was put off meanwhile.
    pub(crate) fn finish_if_due(&self, machine: &Arc<Machine>) -> Option<Instant> {
        // Decided under the lock that lines come in by: whoever puts the end off in time keeps every line until then.
        let publisher = self.shared.publisher.lock();
        let Life::Lingering(at) = machine.state.lock().life else { return None };
        if at > Instant::now() {
            return Some(at);
        }
        self.finish_machine(&publisher, machine, Ended::Finished);
        None
    }

    fn finish_machine(&self, _serial: &MutexGuard<'_, Publisher>, machine: &Arc<Machine>, ended: Ended) {
        let mut state = machine.state.lock();
        if state.ended().is_some() {
            return;
        }
        state.life = Life::Finished(Instant::now(), ended);
        machine.blocks.store(false, Relaxed);
        if let Some(queue) = &state.queue {
            queue.end(ended, state.trail);
            self.shared.subscriptions.fetch_sub(1, Relaxed);
        }
        drop(state);
        machine.wake_watchers();
        self.shared.budget.announce_room();
    }

    /// Ends every machine's log that is subscribed, behind what is queued.
    pub fn finish_all(&self) {
        let publisher = self.shared.publisher.lock();
        let machines: Vec<_> = self.shared.roster.lock().values().map(|(machine, _)| Arc::clone(machine)).collect();
        for machine in machines {
            self.finish_machine(&publisher, &machine, Ended::Finished);
        }
    }

    /// Refuses what is still to come and ends every reader, behind what is queued.
    pub(crate) fn shut_down(&self) {
        let publisher = self.shared.publisher.lock();
        self.shared.shutting_down.store(true, Relaxed);
        let machines: Vec<_> = self.shared.table.iter().map(|entry| Arc::clone(entry.value())).collect();
        for machine in machines {
            self.finish_machine(&publisher, &machine, Ended::Shutdown);
        }
        drop(publisher);
        self.shared.fleet.notify_waiters();
        self.shared.budget.announce_room();
    }

    /// Drops what no reader has taken, with reason `shutdown`. Returns how many lines are lost when the process ends now:
    /// with these, what readers hold and have not handed on.
    pub(crate) fn drop_what_is_left(&self) -> u64 {
        let before = self.queue_lines_dropped();
        let mut publisher = self.shared.publisher.lock();
        publisher.behind.clear();
        let queues: Vec<_> = self.shared.roster.lock().values().map(|(_, queue)| Arc::clone(queue)).collect();
        let held: u64 = queues.iter().map(|queue| queue.give_up(Reason::Shutdown)).sum();
        self.queue_lines_dropped() - before + held
    }

    /// The ids of all machines that are subscribed and not finished, in no order.
    #[must_use]
    pub fn machine_ids(&self) -> Vec<String> {
        // Not under the roster's lock: a machine's own comes before it.
        let all: Vec<_> = self.shared.roster.lock().values().cloned().collect();
        let live = all
            .iter()
            .filter(|(machine, queue)| machine.state.lock().live_queue().is_some_and(|live| Arc::ptr_eq(live, queue)));
        live.map(|(machine, _)| machine.id.to_string()).collect()
    }

    /// A handle that finishes its machine when it is dropped.
    ///
    /// # Errors
    ///
    /// As [`LogCollector::subscribe`], which it does first.
    pub fn attach(&self, machine_id: &str) -> Result<Attached, SubscribeError> {
        let queue = self.subscribe(machine_id)?;
        Ok(Attached { collector: self.clone(), queue })
    }

    /// Every counter of the balances, and what is held now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let (ledger, shared) = (&self.shared.ledger, &self.shared);
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let now = Instant::now();
        let (history_bytes, history_lines, oldest) = shared.history.held();
        let queues = self.queue_totals();
        let by = |names: &[&'static str], counts: &[AtomicU64]| {
            names.iter().copied().zip(counts.iter().map(load)).collect::<BTreeMap<_, _>>()
        };
        let rejected = by(&RejectReason::ALL.map(RejectReason::as_str), &ledger.rejected);
        let dropped = by(&Reason::NAMES, &ledger.queue_dropped);
        let age = |since: Option<Instant>| since.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        Stats {
            lines_received: load(&ledger.received),
            lines_accepted: load(&ledger.accepted),
            lines_filtered: load(&ledger.filtered),
            lines_unrouted: load(&ledger.unrouted),
            lines_rejected: rejected.values().sum(),
            lines_rejected_by_reason: rejected,
            lines_repaired: load(&ledger.repaired),
            queue_lines_in: load(&ledger.queue_in),
            queue_lines_delivered: load(&ledger.queue_delivered),
            queue_lines_dropped: dropped.values().sum(),
            queue_lines_dropped_by_reason: dropped,
            queue_lines: queues.lines,
            queue_bytes: queues.bytes,
            viewer_skipped_lines: load(&ledger.viewer_skipped),
            viewers: load(&ledger.viewers),
            machines: shared.seen.load(Relaxed) as u64,
            subscriptions: shared.subscriptions.load(Relaxed) as u64,
            history_lines,
            history_bytes: history_bytes as u64,
            history_seconds: age(oldest),
            memory_used_bytes: shared.budget.used() as u64,
            memory_budget_bytes: shared.budget.limit() as u64,
            oldest_entry_age_seconds: age(queues.oldest),
        }
    }

    /// Lines that queues have dropped so far; cheaper than [`LogCollector::stats`].
    pub(crate) fn queue_lines_dropped(&self) -> u64 {
        self.shared.ledger.queue_dropped.iter().map(|counter| counter.load(Relaxed)).sum()
    }

    fn queue_totals(&self) -> QueueFacts {
        // Not under the roster's lock: facts take each queue's own.
        let queues: Vec<_> = self.shared.roster.lock().values().map(|(_, queue)| Arc::clone(queue)).collect();
        queues.iter().map(|queue| queue.facts()).fold(QueueFacts::default(), |sum, queue| QueueFacts {
            lines: sum.lines + queue.lines,
            bytes: sum.bytes + queue.bytes,
            oldest: [sum.oldest, queue.oldest].into_iter().flatten().min(),
            ..sum
        })
    }

    /// Facts of one machine, or `None` if it was never seen.
    #[must_use]
    pub fn machine_facts(&self, machine_id: &str) -> Option<MachineFacts> {
        let machine = self.known(machine_id)?;
        self.facts_of(&machine, Instant::now())
    }

    /// Facts of every machine seen, in no order.
    #[must_use]
    pub fn all_machine_facts(&self) -> Vec<MachineFacts> {
        let now = Instant::now();
        self.all_machines().iter().filter_map(|machine| self.facts_of(machine, now)).collect()
    }

    /// The machines with most lines in about the last five minutes, at most `count` of them.
    #[cfg(feature = "server")]
    pub(crate) fn loudest_machines(&self, count: usize) -> Vec<MachineFacts> {
        let now = Instant::now();
        let elapsed = now.duration_since(self.shared.started);
        let mut ranked: Vec<_> = self
            .shared
            .table
            .iter()
            .filter_map(|entry| {
                let state = entry.value().state.lock();
                state.seen.then(|| (state.recent.total(elapsed, RANK_WINDOW) as u64, Arc::clone(entry.value())))
            })
            .collect();
        if ranked.len() > count && count > 0 {
            ranked.select_nth_unstable_by_key(count - 1, |(lines, _)| std::cmp::Reverse(*lines));
        }
        ranked.truncate(count);
        ranked.iter().filter_map(|(_, machine)| self.facts_of(machine, now)).collect()
    }

    /// Shows every machine seen to `visit`, in no order: a million facts at once would be half a gigabyte.
    #[cfg(feature = "server")]
    pub(crate) fn visit_machines(&self, visit: impl FnMut(MachineFacts)) {
        let now = Instant::now();
        self.all_machines().iter().filter_map(|machine| self.facts_of(machine, now)).for_each(visit);
    }

    fn all_machines(&self) -> Vec<Arc<Machine>> {
        self.shared.table.iter().map(|entry| Arc::clone(entry.value())).collect()
    }

    fn facts_of(&self, machine: &Machine, now: Instant) -> Option<MachineFacts> {
        let state = machine.state.lock();
        if !state.seen {
            return None;
        }
        let elapsed = now.duration_since(self.shared.started);
        let queue = state.queue.as_ref().map(|queue| queue.facts()).unwrap_or_default();
        let terms = state.live_queue().map(|queue| queue.terms);
        let per_second = |window: Window| window.total(elapsed, RATE_WINDOW) / RATE_WINDOW.as_secs_f64();
        Some(MachineFacts {
            machine_id: machine.id.to_string(),
            state: if state.ended().is_some() { "finished" } else { "live" },
            app_name: state.app().to_owned(),
            region: state.region().to_owned(),
            lines: state.lines(),
            bytes: state.bytes,
            dropped: state.dropped_before + queue.dropped,
            lines_per_second: per_second(state.rate),
            bytes_per_second: per_second(state.rate_bytes),
            lines_recent: state.recent.total(elapsed, RANK_WINDOW) as u64,
            subscribed: terms.is_some(),
            streams: terms.map(|terms| terms.streams.to_string()),
            full: terms.map(|terms| terms.full.as_str()),
            queue_lines: queue.lines,
            queue_bytes: queue.bytes,
            queue_behind: queue.behind,
            readers: queue.readers,
            lag_seconds: queue.oldest.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64()),
            latency_p50_seconds: queue.latency_p50_seconds,
            latency_p99_seconds: queue.latency_p99_seconds,
            last_seen: last_seen(state.seen_at),
        })
    }

    /// A machine that users may know of; `None` also for one that only waits to be seen.
    pub(crate) fn known(&self, machine_id: &str) -> Option<Arc<Machine>> {
        self.shared.table.get(machine_id).map(|entry| Arc::clone(entry.value()))
    }

    /// The machine of that name, new if need be.
    pub(crate) fn machine(&self, machine_id: &str) -> Arc<Machine> {
        if let Some(machine) = self.known(machine_id) {
            return machine;
        }
        let machine = match self.shared.table.entry(Arc::from(machine_id)) {
            Entry::Occupied(entry) => return Arc::clone(entry.get()),
            Entry::Vacant(entry) => {
                let machine = Arc::new(Machine::new(Arc::clone(entry.key()), Instant::now()));
                entry.insert(Arc::clone(&machine));
                machine
            }
        };
        if self.shared.machines.fetch_add(1, Relaxed) >= self.shared.config.machines.max {
            self.evict_least_recent(&machine);
        }
        machine
    }

    /// The machine of that name, which is then not forgotten until [`Machine::remove_watcher`].
    pub(crate) fn watch_machine(&self, machine_id: &str) -> Arc<Machine> {
        let (machine, publisher) = self.machine_for_good(machine_id);
        machine.watchers.fetch_add(1, Relaxed);
        drop(publisher);
        machine
    }

    /// Makes room in a full table: forgets the least recent of the machines that nobody is subscribed to or looks at.
    fn evict_least_recent(&self, newest: &Arc<Machine>) {
        let mut idle: Vec<(Instant, Arc<Machine>)> = Vec::new();
        for machine in self.all_machines() {
            let state = machine.state.lock();
            if !Arc::ptr_eq(&machine, newest) && state.is_idle() && machine.watchers.load(Relaxed) == 0 {
                let touched = match state.life {
                    Life::Finished(at, _) => at.max(state.touched),
                    Life::Live | Life::Lingering(_) => state.touched,
                };
                drop(state);
                idle.push((touched, machine));
            }
        }
        let over = self.shared.table.len().saturating_sub(self.shared.config.machines.max);
        let count = (over + self.shared.config.machines.max / EVICTED_SHARE).clamp(1, idle.len().max(1));
        if idle.len() > count {
            idle.select_nth_unstable_by_key(count - 1, |(touched, _)| *touched);
        }
        for (_, machine) in idle.into_iter().take(count) {
            self.forget(&machine);
        }
    }

    /// Forgets a machine, unless somebody has come to want it since it was chosen.
    fn forget(&self, machine: &Arc<Machine>) {
        let mut publisher = self.shared.publisher.lock();
        let mut state = machine.state.lock();
        if state.forgotten || !state.is_idle() || machine.watchers.load(Relaxed) > 0 {
            return;
        }
        state.forgotten = true;
        if std::mem::take(&mut state.seen) {
            self.shared.seen.fetch_sub(1, Relaxed);
        }
        let queue = state.queue.take();
        drop(state);
        self.shared.table.remove_if(&machine.id, |_, held| Arc::ptr_eq(held, machine));
        self.shared.machines.fetch_sub(1, Relaxed);
        if let Some(queue) = queue {
            let place = queue.place();
            publisher.moved(machine, &queue, place, None);
            queue.give_up(Reason::Abandoned);
            self.shared.roster.lock().remove(&key(&queue));
        }
    }

    /// A body is on its way in for a machine that was forgotten since it was looked up: remembers it again.
    fn revive(&self, machine: &mut Arc<Machine>) {
        match self.shared.table.entry(Arc::clone(&machine.id)) {
            Entry::Occupied(entry) => *machine = Arc::clone(entry.get()),
            Entry::Vacant(entry) => {
                let mut state = machine.state.lock();
                (state.forgotten, state.life) = (false, Life::Live);
                drop(state);
                entry.insert(Arc::clone(machine));
                self.shared.machines.fetch_add(1, Relaxed);
            }
        }
    }

    /// What time brings: drops what was abandoned, forgets machines that are over their time. Call it about every second
    /// (it does nothing until something can be due); [`crate::LogDrainServer`] does.
    pub fn maintain(&self) {
        let (keep, queue) = (&self.shared.config.machines, &self.shared.config.queue);
        let shortest = keep.finished_keep.min(keep.idle_expire).min(queue.abandoned_after);
        let now = Instant::now();
        {
            let mut swept = self.shared.swept.lock();
            if now.duration_since(*swept) < (shortest / SWEEPS).min(SWEEP_MAX) {
                return;
            }
            *swept = now;
        }
        self.abandon_and_tidy(now);
        let expired = |machine: &Arc<Machine>| {
            let state = machine.state.lock();
            machine.watchers.load(Relaxed) == 0 && state.is_idle() && state.expired(now, keep)
        };
        let expired: Vec<_> = self
            .shared
            .table
            .iter()
            .filter(|entry| expired(entry.value()))
            .map(|entry| Arc::clone(entry.value()))
            .collect();
        for machine in &expired {
            self.forget(machine);
        }
    }

    fn abandon_and_tidy(&self, now: Instant) {
        let queues: Vec<_> = self.shared.roster.lock().iter().map(|(key, pair)| (*key, pair.clone())).collect();
        for (key, (machine, queue)) in queues {
            let facts = queue.facts();
            if facts.readers == 0 && facts.lines > 0 {
                let mut publisher = self.shared.publisher.lock();
                let from = queue.place();
                let (to, _) = queue.abandon(now, &self.shared.history, machine.trail());
                publisher.moved(&machine, &queue, from, to);
            }
            if facts.ended && queue.is_drained() {
                self.shared.roster.lock().remove(&key);
            }
        }
    }
}

/// The publish section.
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

    /// Numbers a batch, appends it to the history and offers it to its machines' queues. Cannot fail.
    ///
    /// Returns the fate of its lines: accepted, filtered, unrouted.
    pub(crate) fn publish(
        &self,
        mut batch: Batch,
        machines: Vec<Option<Arc<Machine>>>,
        rooms: Vec<(u32, QueueRoom)>,
    ) -> (u64, u64, u64) {
        let shared = &*self.shared;
        let groups = machines.into_iter().zip(&batch.groups);
        let new = |group| self.machine(batch.machine_id(group));
        let mut machines: Vec<_> = groups.map(|(known, group)| known.unwrap_or_else(|| new(group))).collect();
        let mut publisher = shared.publisher.lock();
        let (seq, first_line) = shared.history.end();
        (batch.seq, batch.first_line, batch.epoch) = (seq, first_line, shared.epoch);
        publisher.set_received(&mut batch);
        for (group, machine) in batch.groups.iter_mut().zip(&mut machines) {
            let trail = self.trail_to_extend(machine);
            (group.first_seq, group.prev) = (trail.next_seq, trail.last);
        }
        let batch = Arc::new(batch);
        shared.history.append(Arc::clone(&batch));
        let mut evicted = Vec::new();
        while let Some(batch) = shared.history.evict() {
            self.count_evicted(&mut publisher, &batch);
            evicted.push(batch);
        }
        let mut rooms = rooms.into_iter().peekable();
        let mut fates = (0, 0, 0);
        for (index, machine) in machines.iter().enumerate() {
            let room = rooms.next_if(|(at, _)| *at as usize == index).map(|(_, room)| room);
            let lines = batch.groups[index].lines();
            match self.offer(&mut publisher, machine, &batch, index as u32, room) {
                Some(offered) => {
                    fates.0 += offered.accepted;
                    fates.1 += offered.filtered;
                }
                None => fates.2 += lines,
            }
        }
        drop(publisher);
        shared.fleet.notify_waiters();
        // Batches that nobody holds any more are freed here, out of everybody's way.
        drop(evicted);
        fates
    }

    fn trail_to_extend(&self, machine: &mut Arc<Machine>) -> Trail {
        let state = machine.state.lock();
        if !state.forgotten {
            return state.trail;
        }
        drop(state);
        self.revive(machine);
        machine.trail()
    }

    fn offer(
        &self,
        publisher: &mut Publisher,
        machine: &Arc<Machine>,
        batch: &Arc<Batch>,
        index: u32,
        room: Option<QueueRoom>,
    ) -> Option<Offered> {
        let at = crate::batch::GroupRef { batch: batch.seq, group: index };
        let group = &batch.groups[index as usize];
        let mut state = machine.state.lock();
        state.trail = Trail { last: Some(at), next_seq: group.end_seq() };
        self.note(&mut publisher.places, &mut state, batch, group);
        let offered = state.live_queue().map(|queue| {
            // Room in a queue that was replaced meanwhile is of no use to the new one.
            let room = room.filter(|room| Arc::ptr_eq(room.queue(), queue));
            let (offered, went_behind) = queue.offer(batch, at, room, &self.shared.history, state.trail);
            publisher.moved(machine, queue, None, went_behind);
            offered
        });
        drop(state);
        if machine.watchers.load(Relaxed) > 0 {
            machine.wake_watchers();
        }
        offered
    }

    /// A machine becomes known to users.
    fn see(&self, state: &mut MachineState) {
        if !std::mem::replace(&mut state.seen, true) {
            self.shared.seen.fetch_add(1, Relaxed);
        }
    }

    fn note(&self, places: &mut Places, state: &mut MachineState, batch: &Batch, group: &crate::batch::Group) {
        self.see(state);
        state.bytes += group.bytes;
        state.seen_at = batch.received_at.as_microsecond();
        state.touched = batch.received;
        let elapsed = batch.received.saturating_duration_since(self.shared.started).as_secs();
        let rate_index = (elapsed / RATE_WINDOW.as_secs()) as u32;
        state.recent.add((elapsed / RANK_WINDOW.as_secs()) as u32, group.lines());
        state.rate.add(rate_index, group.lines());
        state.rate_bytes.add(rate_index, group.bytes);
        let last = batch.view(group, group.rows.end - 1);
        let (app, region) = (name_or(last.app_name(), state.app()), name_or(last.region(), state.region()));
        if (app, region) != (state.app(), state.region()) {
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

    /// The batch of that number, if the history holds it.
    pub(crate) fn batch(&self, seq: u64) -> Option<Arc<Batch>> {
        match self.shared.history.batch(seq) {
            Held::Batch(batch) => Some(batch),
            Held::Evicted | Held::NotYet => None,
        }
    }
}

/// A name as far as it is kept, or the one `before` where a record has none.
fn name_or<'a>(name: &'a str, before: &'a str) -> &'a str {
    if name.is_empty() { before } else { &name[..name.floor_char_boundary(NAME_BYTES_MAX)] }
}

fn last_seen(micros: i64) -> Option<String> {
    let at = Timestamp::from_microsecond(micros).ok()?;
    (micros != 0).then(|| at.to_string())
}

/// A subscription that finishes its machine when it is dropped; see [`LogCollector::attach`].
#[derive(Debug)]
pub struct Attached {
    collector: LogCollector,
    queue: LogQueue,
}

impl Attached {
    /// The machine's queue.
    #[must_use]
    pub fn queue(&self) -> &LogQueue {
        &self.queue
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.collector.finish(self.queue.machine_id());
    }
}

#[cfg(test)]
pub(crate) mod tests;
