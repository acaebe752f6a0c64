//! The machine table and the publish section: subscribe, finish, and the routing of batches to queues.
//!
//! Publish is serial, and that is what makes everything else simple: line numbers, `machine_seq`, the append to the history
//! and the offers to all machines of a batch are one short critical section, so history order = queue order = `machine_seq`
//! order. The obvious alternative, to number under the history's lock and offer concurrently, repeats and loses batches.
//!
//! Lock order: publish → shard of the table → machine → queue or outlet → history; the roster's is taken with none of these wanted
//! behind it. No `async fn` here: a DashMap guard must never cross an await.

#[cfg(feature = "server")]
mod explain;
mod facts;
mod forgotten;
mod limit;
mod losses;
mod machine;
#[cfg_attr(not(feature = "sinks"), path = "collector/outlet/absent.rs")]
pub(crate) mod outlet;
mod publish;
mod roster;
#[cfg(feature = "spool")]
mod spooled;
#[cfg(all(feature = "server", not(feature = "spool")))]
mod unspooled;

use std::{collections::hash_map::RandomState as StdRandomState, fmt, hash::BuildHasher, sync::Arc, time::Duration};

use compact_str::CompactString;
use dashmap::DashMap;
use jiff::Timestamp;
use tokio::time::Instant;

#[cfg(feature = "server")]
pub(crate) use self::explain::Unexplained;
pub use self::facts::{MachineFacts, SinkStats, Stats};
pub(crate) use self::{facts::Ledger, machine::Machine, publish::Fates};
use self::{
    forgotten::Forgotten,
    machine::{ById, Ending, MachineState},
    outlet::Outlets,
    publish::Publisher,
    roster::Roster,
};
use crate::{
    batch::{Kind, Streams},
    budget::Budget,
    config::{self, BootLines, Full},
    exit::{ExitPatterns, ExitWatch},
    history::{History, MachineCursor, Start, Trail},
    journal::Journal,
    queue::{self, Began, Bounds, Common, Ended, Queue, Reason, Terms, Wakes},
    stream::LogQueue,
    sync::{
        Mutex, MutexGuard, Notify,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

/// The longest id of a machine, in bytes; see the record rules.
pub const MACHINE_ID_BYTES_MAX: usize = 128;
/// Shards of the machine table: enough that a sweep holds up a sixty-fourth of the machines at a time.
const SHARDS: usize = 64;
/// When the table is full, one in so many machines goes at once, so that making room is rare.
const EVICTED_SHARE: usize = 64;
/// Times that the table is swept within the shortest time anything in it is kept, and the longest between two sweeps.
const SWEEPS: u32 = 20;
const SWEEP_MAX: Duration = Duration::from_secs(30);

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
    /// See [`config::Limit`].
    pub limit: config::Limit,
    /// See [`config::Fly::exit_patterns`].
    pub exit_patterns: ExitPatterns,
    /// See [`config::Fly::boot_lines`].
    pub boot_lines: BootLines,
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
            limit: config.limit.clone(),
            exit_patterns: config.fly.exit_patterns.clone(),
            boot_lines: config.fly.boot_lines,
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

/// Lines of a machine on the disk, by kind, in batches before number `to`.
#[derive(Clone, Copy, Debug)]
struct Backlog {
    to: u64,
    lines: [u64; Kind::COUNT],
    /// When the first of them was received.
    received: Option<Instant>,
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

pub(crate) struct Shared {
    pub(crate) config: CollectorConfig,
    pub(crate) budget: Arc<Budget>,
    pub(crate) ledger: Arc<Ledger>,
    queues: Arc<Common>,
    pub(crate) history: History,
    pub(crate) journal: Journal,
    /// Held while queues tell what they dropped, so that who reads the journal then finds all of it there.
    journaling: Mutex<()>,
    /// A set: `DashSet` cannot be told its shards. An insert keeps the key that is there.
    table: DashMap<ById, (), foldhash::fast::RandomState>,
    /// Machines in the table, and of these those that users know of.
    machines: AtomicUsize,
    seen: AtomicUsize,
    forgotten: Forgotten,
    publisher: Mutex<Publisher>,
    roster: Mutex<Roster>,
    /// The sinks' ends.
    pub(crate) outlets: Outlets,
    subscriptions: AtomicUsize,
    /// Readers of all machines.
    pub(crate) fleet: Notify,
    shutting_down: AtomicBool,
    epoch: u64,
    started: Instant,
    started_at: Timestamp,
    swept: Mutex<Instant>,
    #[cfg(feature = "spool")]
    stored: Mutex<spooled::Stored>,
    #[cfg(feature = "spool")]
    finishing: spooled::Finishing,
    /// What queues take whose subscribers do not say.
    streams: Mutex<Streams>,
}

impl Shared {
    /// A moment since the start by the wall's clock as it went then.
    fn time_of(&self, moment: Instant) -> Timestamp {
        self.started_at.saturating_add(moment.saturating_duration_since(self.started)).unwrap_or(Timestamp::MAX)
    }
}

/// Routes lines to machines' queues, and remembers the recent ones. Cheap to clone; all clones are the same collector.
///
/// The counterpart of the Python module's `LogCollector`.
///
/// ```
/// use fleetdrain::{LogCollector, Streams, SubscribeOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let collector = LogCollector::default();
/// collector.push_line("4d891d77b05118", "sent before anybody had subscribed")?;
///
/// // With a backlog the new queue begins with what the history holds.
/// let options = SubscribeOptions { streams: Some(Streams::ALL), backlog: true, ..SubscribeOptions::default() };
/// let (queue, is_new) = collector.subscribe_with("4d891d77b05118", options)?;
/// assert!(is_new);
/// assert_eq!(queue.lines(), 1);
/// // Who subscribes again gets the same queue: each line goes to one of its readers.
/// assert!(collector.subscribe("4d891d77b05118")?.is_same(&queue));
///
/// assert_eq!(collector.machine_ids(), ["4d891d77b05118"]);
/// assert!(collector.finish("4d891d77b05118"), "it was known");
/// let stats = collector.stats();
/// assert_eq!((stats.lines_received, stats.lines_unrouted, stats.queue_lines), (1, 1, 1));
/// # Ok(()) }
/// ```
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
        // Random by the hasher's own seed: ids of two processes must not be taken for each other's.
        let epoch = StdRandomState::new().hash_one(Timestamp::now().as_nanosecond()) >> 16;
        let budget = Budget::new(config.budget_bytes);
        Self::going_on(config, budget, Start::default(), epoch)
    }

    /// A collector whose history goes on from `start`, and whose ids are of `epoch`.
    fn going_on(config: CollectorConfig, budget: Arc<Budget>, start: Start, epoch: u64) -> Self {
        let history = History::new(config.history_bytes, start);
        let ledger = Arc::<Ledger>::default();
        let bounds = Bounds {
            lines: config.queue.lines as u64,
            bytes: config.queue.bytes,
            stalled_after: config.queue.stalled_after,
            abandoned_after: config.queue.abandoned_after,
        };
        let queues =
            Common { bounds, budget: Arc::clone(&budget), ledger: Arc::clone(&ledger), losers: Mutex::default() };
        let streams = config.queue.streams;
        let shared = Shared {
            config,
            budget,
            ledger,
            queues: Arc::new(queues),
            history,
            journal: Journal::default(),
            journaling: Mutex::default(),
            table: DashMap::with_hasher_and_shard_amount(foldhash::fast::RandomState::default(), SHARDS),
            machines: AtomicUsize::new(0),
            seen: AtomicUsize::new(0),
            forgotten: Forgotten::default(),
            publisher: Mutex::default(),
            roster: Mutex::default(),
            outlets: Outlets::default(),
            subscriptions: AtomicUsize::new(0),
            fleet: Notify::new(),
            shutting_down: AtomicBool::new(false),
            epoch,
            started: Instant::now(),
            started_at: Timestamp::now(),
            swept: Mutex::new(Instant::now()),
            #[cfg(feature = "spool")]
            stored: Mutex::default(),
            #[cfg(feature = "spool")]
            finishing: spooled::Finishing::default(),
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

    /// Whether bodies are kept as they were sent, because the spool needs them so.
    pub(crate) fn keeps_bodies(&self) -> bool {
        self.shared.history.past().is_some()
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
        let backlog = self.backlog_on_disk(machine_id, options);
        let (machine, mut publisher) = self.machine_to_subscribe(machine_id)?;
        let subscribed = self.subscribe_machine(&mut publisher, &machine, options, backlog)?;
        drop(publisher);
        #[cfg(feature = "spool")]
        self.store_new_position(&machine, &subscribed);
        Ok(subscribed)
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
        backlog: Option<Backlog>,
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
        let queue = self.create_queue(publisher, machine, options, backlog, None)?;
        Ok((LogQueue::new(self, machine, &queue), true))
    }

    /// What the disk holds for a queue that is to begin with it; looked up before anything is locked, because it takes time.
    fn backlog_on_disk(&self, machine_id: &str, options: SubscribeOptions) -> Option<Backlog> {
        let past = self.shared.history.past().filter(|_| options.backlog)?;
        let to = self.shared.history.end().0;
        let lines = past.machine_lines(machine_id, 0..to);
        let streams = options.streams.unwrap_or(self.shared.config.queue.streams);
        Some(Backlog { to, lines, received: past.received_from(machine_id, 0, streams) })
    }

    fn start_on_disk(&self, queue: &Queue, machine: &Machine, trail: Trail, backlog: Backlog) -> queue::Place {
        let Backlog { to, mut lines, received } = backlog;
        let past = self.shared.history.past().filter(|_| to < trail.end);
        let since = past.map_or_else(Default::default, |past| past.machine_lines(&machine.id, to..trail.end));
        lines.iter_mut().zip(since).for_each(|(sum, lines)| *sum += lines);
        let cursor = MachineCursor::new(trail.next_seq - lines.iter().sum::<u64>(), 0);
        let wanted = queue.terms.streams.count_all(&lines);
        queue.start_behind(&self.shared.history, trail, cursor, wanted, received.unwrap_or_else(Instant::now))
    }

    /// The queue to consume: subscribes first, unless the machine is finished. One step, so that a finish in between cannot
    /// be undone by it.
    ///
    /// # Errors
    ///
    /// As [`LogCollector::subscribe_with`].
    #[cfg(feature = "server")]
    pub(crate) fn queue_to_consume(&self, id: &str, options: SubscribeOptions) -> Result<Consume, SubscribeError> {
        let backlog = self.backlog_on_disk(id, options);
        let (machine, mut publisher) = self.machine_to_subscribe(id)?;
        {
            let state = machine.state.lock();
            if let Some(ended) = state.ended() {
                let queue = state.queue.as_ref().map(|queue| LogQueue::new(self, &machine, queue));
                return Ok(queue.map_or(Consume::Over(ended), Consume::Queue));
            }
        }
        let subscribed = self.subscribe_machine(&mut publisher, &machine, options, backlog)?;
        drop(publisher);
        #[cfg(feature = "spool")]
        self.store_new_position(&machine, &subscribed);
        Ok(Consume::Queue(subscribed.0))
    }

    /// The machine of that name, new if need be, under the publish lock and so not forgotten meanwhile.
    fn machine_for_good(&self, machine_id: &str) -> (Arc<Machine>, MutexGuard<'_, Publisher>) {
        loop {
            let machine = self.machine(machine_id);
            let publisher = self.shared.publisher.lock();
            if !machine.forgotten.load(Relaxed) {
                return (machine, publisher);
            }
        }
    }

    /// As [`LogCollector::watch_exit`], for who reads the machine's queue.
    pub(crate) fn watch_exit_of_queue(&self, machine: &Arc<Machine>, linger: Duration) -> ExitWatch {
        machine.with_exits(|exits| exits.watch_for_queue(machine, linger))
    }

    /// Waits for an exit of the machine that is told in a batch numbered `from` or later; one of before now counts only if the
    /// machine has not begun again since.
    pub(crate) fn watch_exit(&self, machine: &Arc<Machine>, linger: Duration, from: u64) -> ExitWatch {
        machine.with_exits(|exits| exits.watch(machine, linger, from))
    }

    /// Where a queue begins that is created now, under the publish lock.
    fn begins_now(&self, backlog: bool) -> Began {
        let history = &self.shared.history;
        let line = match history.past() {
            _ if !backlog => history.end().1,
            Some(past) => past.oldest_line(),
            None => history.oldest_line(),
        };
        Began::now(line)
    }

    fn create_queue(
        &self,
        publisher: &mut Publisher,
        machine: &Arc<Machine>,
        options: SubscribeOptions,
        backlog: Option<Backlog>,
        began: Option<Began>,
    ) -> Result<Arc<Queue>, SubscribeError> {
        let defaults = &self.shared.config.queue;
        let bound = defaults.subscriptions_max;
        if self.shared.subscriptions.load(Relaxed) >= bound {
            return Err(SubscribeError::TooMany { bound });
        }
        let now = Instant::now();
        let terms =
            Terms { streams: options.streams.unwrap_or(defaults.streams), full: options.full.unwrap_or(defaults.full) };
        let began = began.unwrap_or_else(|| self.begins_now(options.backlog));
        let queue = Arc::new(Queue::new(terms, Arc::clone(&self.shared.queues), now).with_began(began));
        let mut state = machine.state.lock();
        if options.backlog {
            let (history, trail) = (&self.shared.history, machine.trail.load());
            let place = match backlog {
                Some(backlog) => self.start_on_disk(&queue, machine, trail, backlog),
                None => queue.start_at(history, trail, trail.oldest_seq(history)),
            };
            publisher.moved(machine, &queue, None, place);
        }
        let from = if options.backlog { 0 } else { machine.trail.load().end };
        machine.with_exits_known(&mut state, |exits| exits.queue_from(from));
        if let Some(old) = state.queue.replace(Arc::clone(&queue)) {
            state.dropped_before += old.facts().dropped;
        }
        self.enter(machine, &mut state, None);
        state.touched = now;
        self.see(&mut state);
        drop(state);
        machine.blocks.store(terms.full == Full::Block, Relaxed);
        self.shared.subscriptions.fetch_add(1, Relaxed);
        self.shared.roster.lock().insert(Arc::clone(machine), Arc::clone(&queue));
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
        let mut wakes = Wakes::default();
        let publisher = self.shared.publisher.lock();
        let Some(machine) = self.known(machine_id) else { return false };
        if machine.state.lock().seen.is_none() {
            return false;
        }
        self.finish_machine(&publisher, &machine, Ended::Finished, &mut wakes);
        true
    }

    /// Notes that a machine is to be finished at `at`; see [`Lingering`]. A later time than that noted before counts too.
    pub(crate) fn linger_until(&self, machine_id: &str, at: Instant) -> Lingering {
        let Some(machine) = self.known(machine_id) else { return Lingering::NeverSeen };
        let mut state = machine.state.lock();
        if state.seen.is_none() {
            return Lingering::NeverSeen;
        }
        if state.ended().is_some() {
            return Lingering::Settled;
        }
        let before = self.enter(&machine, &mut state, Some(Ending::Lingering(at)));
        drop(state);
        match before {
            Some(Ending::Lingering(pending)) if pending <= at => Lingering::Settled,
            _ => Lingering::Wanted(machine),
        }
    }

    /// Finishes a machine whose time has come. Returns until when to wait if it was put off meanwhile.
    pub(crate) fn finish_if_due(&self, machine: &Arc<Machine>) -> Option<Instant> {
        let mut wakes = Wakes::default();
        // Decided under the lock that lines come in by: whoever puts the end off in time keeps every line until then.
        let publisher = self.shared.publisher.lock();
        let at = machine.state.lock().finishes_at()?;
        if at > Instant::now() {
            return Some(at);
        }
        self.finish_machine(&publisher, machine, Ended::Finished, &mut wakes);
        None
    }

    fn finish_machine(
        &self,
        _serial: &MutexGuard<'_, Publisher>,
        machine: &Arc<Machine>,
        ended: Ended,
        wakes: &mut Wakes,
    ) {
        let mut state = machine.state.lock();
        if state.ended().is_some() {
            return;
        }
        self.enter(machine, &mut state, Some(Ending::Finished(Instant::now(), ended)));
        machine.blocks.store(false, Relaxed);
        if let Some(queue) = &state.queue {
            queue.end(ended, machine.trail.load(), wakes);
            self.shared.subscriptions.fetch_sub(1, Relaxed);
        }
        drop(state);
        machine.wake_watchers();
        self.shared.budget.announce_room();
    }

    /// Every change of how a machine's log ends, which is noted for the next process. Returns what it was.
    fn enter(&self, machine: &Machine, state: &mut MachineState, ending: Option<Ending>) -> Option<Ending> {
        let before = std::mem::replace(&mut state.ending, ending.map(Box::new)).map(|before| *before);
        #[cfg(feature = "spool")]
        self.note_ending(machine, before, ending);
        #[cfg(not(feature = "spool"))]
        let _ = machine;
        before
    }

    /// Ends every machine's log that is subscribed, behind what is queued.
    pub fn finish_all(&self) {
        let mut wakes = Wakes::default();
        let publisher = self.shared.publisher.lock();
        let machines: Vec<_> = self.shared.roster.lock().iter().map(|(machine, _)| Arc::clone(machine)).collect();
        for machine in machines {
            self.finish_machine(&publisher, &machine, Ended::Finished, &mut wakes);
        }
    }

    /// Refuses what is still to come and ends every reader, behind what is queued.
    pub(crate) fn shut_down(&self) {
        let mut wakes = Wakes::default();
        let publisher = self.shared.publisher.lock();
        self.shared.shutting_down.store(true, Relaxed);
        for machine in self.all_machines() {
            self.finish_machine(&publisher, &machine, Ended::Shutdown, &mut wakes);
        }
        drop(publisher);
        self.shared.fleet.notify_waiters();
        self.shared.outlets.wake();
        self.shared.budget.announce_room();
    }

    /// Drops what no reader has taken and what sinks have not settled, with reason `shutdown`. Returns how many lines are lost when the process ends now:
    /// with these, what readers hold and have not handed on.
    pub(crate) fn drop_what_is_left(&self) -> u64 {
        let before = self.queue_lines_dropped();
        let mut publisher = self.shared.publisher.lock();
        publisher.behind.clear();
        let queues = self.shared.roster.lock().all();
        let give_up = |(machine, queue): &(Arc<Machine>, Arc<Queue>)| {
            queue.give_up(Reason::Shutdown, &self.shared.history, machine.trail())
        };
        let held: u64 = queues.iter().map(give_up).sum();
        drop(publisher);
        self.queue_lines_dropped() - before + held + self.shared.outlets.give_up()
    }

    /// The ids of all machines that are subscribed and not finished, in no order.
    #[must_use]
    pub fn machine_ids(&self) -> Vec<String> {
        // Not under the roster's lock: a machine's own comes before it.
        let all = self.shared.roster.lock().all();
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

    /// A machine that users may know of; `None` also for one that only waits to be seen.
    pub(crate) fn known(&self, machine_id: &str) -> Option<Arc<Machine>> {
        self.shared.table.get(machine_id).map(|entry| Arc::clone(&entry.key().0))
    }

    /// The machine of that name, new if need be.
    pub(crate) fn machine(&self, machine_id: &str) -> Arc<Machine> {
        if let Some(machine) = self.known(machine_id) {
            return machine;
        }
        let known_from = self.shared.history.end().0;
        let machine = Arc::new(Machine::new(CompactString::from(machine_id), Instant::now(), known_from));
        self.shared.forgotten.get(machine_id).into_iter().for_each(|known| machine.go_on(known));
        if self.shared.table.insert(ById(Arc::clone(&machine)), ()).is_some() {
            // Somebody else was first; once more, for that one may have been forgotten already.
            return self.machine(machine_id);
        }
        self.shared.forgotten.remove(machine_id);
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
                let touched = match state.ending.as_deref() {
                    Some(Ending::Finished(at, _)) => state.touched.max(*at),
                    None | Some(Ending::Lingering(_)) => state.touched,
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
        if machine.forgotten.load(Relaxed) || !state.is_idle() || machine.watchers.load(Relaxed) > 0 {
            return;
        }
        machine.forgotten.store(true, Relaxed);
        publisher.meters.forget(&machine.id);
        if state.seen.take().is_some() {
            self.shared.seen.fetch_sub(1, Relaxed);
        }
        let queue = state.queue.take();
        self.enter(machine, &mut state, None);
        let known = machine.known(&state).filter(|known| self.shared.history.holds(known.last.batch));
        drop(state);
        // Before it is out of the table: who then adds it anew finds it.
        self.shared.forgotten.keep(&machine.id, known);
        self.shared.table.remove_if(machine.id.as_str(), |held, ()| Arc::ptr_eq(&held.0, machine));
        self.shared.machines.fetch_sub(1, Relaxed);
        if let Some(queue) = queue {
            let place = queue.place();
            publisher.moved(machine, &queue, place, None);
            queue.give_up(Reason::Abandoned, &self.shared.history, machine.trail());
            self.journal_queue(machine, &queue);
            self.shared.roster.lock().remove(&queue);
        }
    }

    /// A body is on its way in for a machine that was forgotten since it was looked up: remembers it again.
    fn revive(&self, machine: &mut Arc<Machine>) {
        // Only who holds the publish lock, as the caller does, forgets and revives; others may add a new one of the name.
        loop {
            if let Some(other) = self.known(&machine.id) {
                *machine = other;
                return;
            }
            if self.shared.table.insert(ById(Arc::clone(machine)), ()).is_none() {
                break;
            }
        }
        self.shared.forgotten.remove(&machine.id);
        machine.forgotten.store(false, Relaxed);
        self.shared.machines.fetch_add(1, Relaxed);
    }

    /// What time brings: drops what was abandoned, forgets machines that are over their time. Call it about every second
    /// (it does nothing until something can be due); [`crate::LogDrainServer`] does.
    pub fn maintain(&self) {
        #[cfg(feature = "spool")]
        self.store_positions_in_time();
        self.journal_losses();
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
        #[cfg(feature = "spool")]
        self.abandon_on_disk(now);
        let expired = |machine: &Arc<Machine>| {
            let state = machine.state.lock();
            machine.watchers.load(Relaxed) == 0 && state.is_idle() && state.expired(now, keep)
        };
        let expired: Vec<_> = self
            .shared
            .table
            .iter()
            .filter(|entry| expired(&entry.key().0))
            .map(|entry| Arc::clone(&entry.key().0))
            .collect();
        for machine in &expired {
            self.forget(machine);
        }
        self.shared.forgotten.evicted(self.shared.history.first_seq());
    }

    fn abandon_and_tidy(&self, now: Instant) {
        // Not in the loop's head, which would hold the lock until the loop's end.
        let queues = self.shared.roster.lock().all();
        for (machine, queue) in queues {
            let facts = queue.facts();
            if facts.readers == 0 && facts.lines > 0 {
                let mut publisher = self.shared.publisher.lock();
                let from = queue.place();
                let (to, _) = queue.abandon(now, &self.shared.history, machine.trail());
                publisher.moved(&machine, &queue, from, to);
            }
            // A shutdown ends queues that go on at the next start.
            if facts.ended && queue.is_drained() && !self.is_shutting_down() {
                self.journal_queue(&machine, &queue);
                self.shared.roster.lock().remove(&queue);
            }
        }
    }
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
