//! What is not held any more: batches read back from the spool, for whoever comes to them.
//!
//! Everything here but [`Past::read`] waits for the disk. A batch that was read is charged to the budget like any other, for as
//! long as it is held; so many are read at once as [`READS_MAX`] says.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

use super::{FleetCursor, FleetStep, History, MachineCursor, MachineStep, Next, Trail};
#[cfg(feature = "server")]
use super::{Lookup, Stored};
use crate::{
    batch::{Batch, GroupRef, Kind, SPOOLED, Streams},
    budget::{Budget, Permit},
    config::BootLines,
    record::{Limits, Parsers},
    spool::{Lines, Place, ReadError, Record, Seek, Spool},
};

/// Searches that may go on at once; whoever comes later waits for one to end.
const SEARCHES_MAX: usize = 4;
/// Batches that are read and parsed at once: each takes a thread where blocking is allowed, and until it is parsed its bytes.
const READS_MAX: usize = 8;
/// A record of `place.bytes()` is charged ahead as one and a half of it, for its rows.
const TABLE_SHARE: usize = 2;
/// How long a read waits for room in the budget, and how often it looks. Then it is made all the same: a reader that nobody
/// makes room for must not wait for ever, and [`READS_MAX`] of them are bounded too.
const ROOM_WAIT: Duration = Duration::from_secs(10);
const ROOM_LOOK: Duration = Duration::from_millis(5);

/// A batch of fewer bytes fits into a frame or two, and is not kept for the next.
const RECENT_BYTES_MIN: usize = 64 << 10;
/// The part of the budget that such batches may hold, and how long each is kept that nobody comes back for.
const RECENT_SHARE: usize = 16;
const RECENT_KEEP: Duration = Duration::from_secs(1);
/// How long a disk that does not answer is asked again, and how often.
const PERSISTENCE: Duration = Duration::from_secs(10);
const PERSISTENCE_PAUSE: Duration = Duration::from_millis(50);

/// Where the history goes on from.
#[derive(Debug, Default)]
pub(crate) struct Start {
    /// The least number that the first batch may get.
    pub(crate) seq: u64,
    /// Lines before it.
    pub(crate) line: u64,
    /// What was before it.
    pub(crate) past: Option<Past>,
}

/// The spool, as what the history has let go of.
#[derive(Debug)]
pub(crate) struct Past {
    spool: Spool,
    budget: Arc<Budget>,
    parsers: Parsers,
    /// Parsers by the other setting of `fly.boot_lines`.
    other_parsers: Parsers,
    reads: Arc<Semaphore>,
    searches: Arc<Semaphore>,
    recent: Mutex<Recent>,
    /// Batches before this number have left the disk, or are about to.
    left: AtomicU64,
}

/// Large batches that were read a moment ago, the newest last: a reader takes them frame by frame, holds nothing between two, and
/// would read each once for every frame.
#[derive(Debug, Default)]
struct Recent(VecDeque<(Arc<Batch>, Instant)>);

impl Recent {
    fn find(&mut self, seq: u64) -> Option<Arc<Batch>> {
        let (batch, used) = self.0.iter_mut().find(|(batch, _)| batch.seq == seq)?;
        *used = Instant::now();
        Some(Arc::clone(batch))
    }

    fn keep(&mut self, batch: &Arc<Batch>, bytes_max: usize) {
        if batch.bytes.len() < RECENT_BYTES_MIN {
            return;
        }
        self.0.push_back((Arc::clone(batch), Instant::now()));
        while self.0.iter().map(|(batch, _)| batch.charged_bytes()).sum::<usize>() > bytes_max {
            self.0.pop_front();
        }
    }
}

impl Past {
    pub(crate) fn start(spool: Spool, budget: Arc<Budget>, boot_lines: BootLines) -> Start {
        let (seqs, lines) = spool.range();
        let past = Self {
            spool,
            budget,
            parsers: Parsers::new(READS_MAX + SEARCHES_MAX, boot_lines),
            other_parsers: Parsers::new(0, boot_lines.other()),
            reads: permits(READS_MAX),
            searches: permits(SEARCHES_MAX),
            recent: Mutex::default(),
            left: AtomicU64::new(seqs.start),
        };
        Start { seq: seqs.end, line: lines.end, past: Some(past) }
    }

    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// What ids of its lines begin with.
    pub(crate) fn epoch(&self) -> u64 {
        self.spool.id() | SPOOLED
    }

    /// Lets `read` wait for the disk on a thread for that, one of a few. Needs a runtime of tokio. Cancel safe if what `read`
    /// does may be done for nobody.
    pub(crate) async fn read<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> T {
        wait_for(&self.reads, read).await
    }

    /// As [`Past::read`], for what may take long: to find the newest lines that match can take a walk over all there is.
    #[cfg(feature = "server")]
    pub(crate) async fn search<T: Send + 'static>(&self, search: impl FnOnce() -> T + Send + 'static) -> T {
        wait_for(&self.searches, search).await
    }

    /// Batches before number `seq` are about to leave the disk.
    pub(crate) fn leave(&self, seq: u64) {
        self.left.fetch_max(seq, Relaxed);
    }

    /// Whether the batch of that number is not on the disk any more, or not for long.
    pub(crate) fn has_left(&self, seq: u64) -> bool {
        seq < self.left.load(Relaxed)
    }

    /// The number of the oldest batch that may be on the disk.
    pub(crate) fn oldest_seq(&self) -> u64 {
        self.spool.range().0.start
    }

    /// The first line that is on the disk.
    pub(crate) fn oldest_line(&self) -> u64 {
        self.spool.range().1.start
    }

    /// How many lines a machine has in batches of these numbers, by kind.
    pub(crate) fn machine_lines(&self, machine: &str, seqs: Range<u64>) -> [u64; Kind::COUNT] {
        persist(|| self.spool.machine_lines(machine, seqs.clone())).unwrap_or_default()
    }

    /// The `machine_seq` of the machine's first line in batches from number `seq` on.
    pub(crate) fn seq_at(&self, machine: &str, seq: u64, trail: Trail) -> u64 {
        let behind: u64 = self.machine_lines(machine, seq..trail.end).iter().sum();
        trail.next_seq - behind
    }

    /// When the machine's first lines of these streams in batches from number `seq` on were received.
    pub(crate) fn received_from(&self, machine: &str, seq: u64, streams: Streams) -> Option<Instant> {
        let wanted = |lines: Lines| streams.count(&lines.0) > 0;
        found(|| self.spool.machine_first_with(machine, seq, wanted)).map(|place| instant_of(place.received_at()))
    }

    /// The first batch received at `time` or later, if there is one; an error if that cannot be known now.
    pub(crate) fn batch_at_time(&self, time: Timestamp) -> Result<Option<Place>, ReadError> {
        persist(|| self.spool.first(Seek::Time(time)))
    }

    /// The batch that holds `line`, or the next one.
    pub(crate) fn batch_at_line(&self, line: u64) -> Option<Place> {
        found(|| self.spool.first(Seek::Line(line)))
    }

    /// Where the batch with `line` is; by the segments' indexes.
    #[cfg(feature = "server")]
    pub(crate) fn look_up(&self, line: u64) -> (Lookup, Option<Place>) {
        let Ok(place) = persist(|| self.spool.first(Seek::Line(line))) else { return (Lookup::Unreadable, None) };
        let oldest = self.oldest_line();
        let Some(place) = place.filter(|place| place.first_line() <= line) else {
            if line >= oldest {
                return (Lookup::Damaged, None);
            }
            let first = found(|| self.spool.first(Seek::Seq(0)));
            return (Lookup::Removed { oldest: first.map(|place| place.received_at()) }, None);
        };
        let stored = Stored {
            file: place.segment_name(),
            offset: place.offset(),
            bytes: place.bytes() as u64,
            sequence: place.seq(),
            lines: place.lines(),
        };
        (Lookup::Found(stored), Some(place))
    }

    /// The last batch before that number, with lines of `machine` if one is named.
    pub(crate) fn batch_before(&self, seq: u64, machine: Option<&str>) -> Option<Place> {
        found(|| match machine {
            Some(machine) => self.spool.machine_last_before(machine, seq),
            None => self.spool.last_before(seq),
        })
    }

    /// Whether records are missing between batches of these numbers, of which nobody knows whose they were.
    pub(crate) fn has_gap(&self, seqs: Range<u64>) -> bool {
        self.spool.has_gap(&seqs)
    }

    /// Makes the batch at `place` again; `None` if it is damaged, or was removed meanwhile.
    pub(crate) fn load(&self, place: &Place) -> Option<Batch> {
        self.load_into(self.wait_for_room(place.bytes() + place.bytes() / TABLE_SHARE), place)
    }

    /// As [`Past::load`], for who may come back for the rest of it.
    fn load_shared(&self, place: &Place) -> Option<Arc<Batch>> {
        if let Some(batch) = self.recent.lock().find(place.seq()) {
            return Some(batch);
        }
        let batch = Arc::new(self.load(place)?);
        self.recent.lock().keep(&batch, self.budget.limit() / RECENT_SHARE);
        Some(batch)
    }

    /// Lets go of what nobody has come back for.
    pub(crate) fn forget(&self, now: Instant) {
        self.recent.lock().0.retain(|(_, used)| now.duration_since(*used) < RECENT_KEEP);
    }

    fn load_into(&self, permit: Option<Permit>, place: &Place) -> Option<Batch> {
        let record = match persist(|| self.spool.read(place)) {
            Ok(record) => record,
            Err(ReadError::Gone) => return None,
            Err(error) => {
                tracing::warn!(%error, seq = place.seq(), "a batch of the spool cannot be read, and is left out");
                return None;
            }
        };
        let mut batch = self.parse(&record);
        if batch.lines() != record.lines {
            // Whoever reads it counts on that; its lines are told as missed, as a damaged one's are.
            tracing::error!(seq = record.seq, was = record.lines, is = batch.lines(), "a batch is not what it was");
            return None;
        }
        (batch.seq, batch.first_line, batch.epoch) = (record.seq, record.first_line, self.epoch());
        batch.from_spool = true;
        batch.received = instant_of(record.received_at);
        batch.permit = permit.map(|mut permit| {
            // What was charged ahead is more than enough, but for records of a few bytes; those are few bytes.
            let _ = permit.try_resize(batch.bytes.len() + batch.table_bytes());
            permit
        });
        Some(batch)
    }

    /// The batch that a record was made of. What its lines were by kind they stay, though `fly.boot_lines` may have changed since:
    /// the index counts them so, and who reads counts on it.
    fn parse(&self, record: &Record) -> Batch {
        // What was accepted then is now, whatever the bound has become.
        let limits = Limits { line_bytes_max: usize::MAX, errors_max: 0 };
        let batch = |parsers: &Parsers| {
            let parsed = parsers.parse(&record.body, limits);
            Batch::new(record.body.clone(), parsed.arena, parsed.rows, record.received_at)
        };
        let stdout = |counts: &[u32; Kind::COUNT]| u64::from(counts[Kind::Stdout as usize]);
        let now = batch(&self.parsers);
        let was: u64 = record.machines().map(|(_, lines)| stdout(&lines.0)).sum();
        if now.groups.iter().map(|group| stdout(&group.counts)).sum::<u64>() == was {
            return now;
        }
        batch(&self.other_parsers)
    }

    /// Lines of the batch that `cursor` stands in which it has passed: all, and those that `streams` wants.
    pub(crate) fn read_of(&self, machine: &str, cursor: &MachineCursor, streams: Streams) -> (u64, u64) {
        let read = cursor.next - cursor.first;
        if read == 0 {
            return (0, 0);
        }
        let place = found(|| self.spool.machine_first(machine, cursor.from));
        // Not made to wait for room: who asks may be the one that makes some.
        let batch = place.filter(|place| place.seq() == cursor.from).and_then(|place| self.load_into(None, &place));
        let Some(batch) = batch else { return (read, 0) };
        let Some(group) = batch.groups.iter().find(|group| batch.machine_id(group) == machine) else {
            return (read, 0);
        };
        let passed = group.rows.clone().take(read as usize).map(|index| batch.row(index));
        (read, passed.filter(|row| streams.wants(row.kind)).count() as u64)
    }

    fn wait_for_room(&self, bytes: usize) -> Option<Permit> {
        let bytes = bytes.min(self.budget.body_bytes_max());
        let until = Instant::now() + ROOM_WAIT;
        loop {
            match self.budget.try_reserve(bytes) {
                None if Instant::now() < until => {
                    self.recent.lock().0.clear();
                    std::thread::sleep(ROOM_LOOK);
                }
                permit => return permit,
            }
        }
    }
}

fn permits(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count))
}

async fn wait_for<T: Send + 'static>(slots: &Arc<Semaphore>, read: impl FnOnce() -> T + Send + 'static) -> T {
    let slot = Arc::clone(slots).acquire_owned().await.expect("it is never closed");
    let read = move || {
        let _slot = slot;
        read()
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime shuts down, and whoever waits here with it.
        Err(_) => std::future::pending().await,
    }
}

/// A time of receipt on the clock that ages are measured by.
pub(crate) fn instant_of(time: Timestamp) -> Instant {
    let (now, age) = (Instant::now(), Timestamp::now().duration_since(time));
    now.checked_sub(Duration::try_from(age).unwrap_or_default()).unwrap_or(now)
}

/// Asks the disk again for a while when it does not answer: nothing is lost for an error that passes.
fn persist<T>(mut ask: impl FnMut() -> Result<T, ReadError>) -> Result<T, ReadError> {
    let until = Instant::now() + PERSISTENCE;
    loop {
        match ask() {
            Err(ReadError::Io(error)) if Instant::now() < until => {
                tracing::debug!(%error, "the spool cannot be read now");
                std::thread::sleep(PERSISTENCE_PAUSE);
            }
            Err(error @ ReadError::Io(_)) => {
                tracing::error!(%error, "the spool cannot be read");
                return Err(error);
            }
            answer => return answer,
        }
    }
}

/// What a disk that does not answer holds cannot be found, and is told as missed.
fn found(find: impl FnMut() -> Result<Option<Place>, ReadError>) -> Option<Place> {
    persist(find).ok().flatten()
}

impl FleetCursor {
    /// As [`FleetCursor::step`], where that says [`Next::Past`].
    pub(crate) fn read_past(&mut self, history: &History) -> Next<FleetStep> {
        let past = history.past().expect("only where there is one a step says so");
        let mut line = self.line;
        loop {
            let held = history.oldest_line();
            let Some(place) = past.batch_at_line(line).filter(|place| place.first_line() < held) else {
                let missed = held.saturating_sub(self.line);
                *self = history.at_line(held.max(self.line));
                return Next::Lost(missed);
            };
            if let Some(batch) = past.load_shared(&place) {
                return Next::Lines(self.pass(batch));
            }
            line = place.first_line() + place.lines();
        }
    }
}

impl MachineCursor {
    /// As [`MachineCursor::step`], where that says [`Next::Past`].
    pub(crate) fn read_past(&mut self, history: &History, machine: &str, trail: Trail) -> Next<MachineStep> {
        let past = history.past().expect("only where there is one a step says so");
        let held = self.next_held(history, trail);
        let (end, end_seq) = held
            .map_or((trail.end, trail.next_seq), |(at, batch)| (at.batch, batch.groups[at.group as usize].first_seq));
        let mut from = self.from;
        loop {
            let place = found(|| past.spool.machine_first(machine, from)).filter(|place| place.seq() < end);
            let Some(place) = place else {
                let missed = end_seq.saturating_sub(self.next);
                self.pass_by(missed, end);
                return Next::Lost(missed);
            };
            // Asked for behind the look-up: what was removed before it counts.
            if past.spool.range().0.start > self.from || from > self.from {
                self.first = self.first.max(past.seq_at(machine, place.seq(), trail));
            }
            from = place.seq() + 1;
            let Some(batch) = past.load_shared(&place) else { continue };
            let Some(group) = batch.groups.iter().find(|group| batch.machine_id(group) == machine) else { continue };
            if self.first + group.lines() <= self.next {
                (self.from, self.first) = (from, self.first + group.lines());
                continue;
            }
            // The machine's own lines alone, whose numbers are this cursor's.
            let mut own = batch.compact(group, group.rows.clone(), Streams::ALL);
            own.groups[0].first_seq = self.first;
            own.permit = past.budget.try_reserve(own.bytes.len() + own.table_bytes());
            return Next::Lines(self.pass(GroupRef { batch: batch.seq, group: 0 }, Arc::new(own)));
        }
    }
}
