//! One machine's bounded queue: live or behind, its full policies, what readers hold and give back.
//!
//! A live queue is a flume channel of groups; a reader that waits for one gets it past the channel. It goes *behind* when it is
//! full: newer lines then stay in the history, and its reader continues there with the one cursor until it has passed the
//! machine's last group. Channel slots are never the limit: the bound, in lines and bytes, is kept here under the queue's lock.
//! The end of a queue is a position, not an item.
//!
//! Whoever changes a queue's state (offer, claim, evict) holds the collector's publish lock first, but for taking items,
//! delivering them and giving them back, which are the reader's and need this lock alone.

mod behind;
mod channel;
mod item;
mod latencies;
mod lost;
mod reader;
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "the server is who asks"))]
mod trace;
mod waiters;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

#[cfg(feature = "server")]
pub(crate) use self::trace::{Line, Trace};
use self::{
    behind::{Behind, Stand},
    channel::Channel,
    item::{Ids, group_cost, ids, ids_where, room_for_a_copy},
    latencies::Latencies,
    lost::note_lost,
    waiters::Waiters,
};
pub(crate) use self::{
    behind::{Fetched, OnDisk},
    item::Item,
    lost::Lost,
    reader::{Handing, Wait},
    trace::Began,
    waiters::Wakes,
};
use crate::{
    batch::{Batch, Group, GroupRef, Row, Streams},
    budget::{Budget, Permit},
    collector::Ledger,
    config::Full,
    history::{Held, History, Trail},
    sync::Mutex,
};

/// A `block` queue without a reader for so long refuses nobody any more.
const READERLESS_AFTER: Duration = Duration::from_secs(1);
/// Groups handed on as they are to a reader that was woken and has not come yet: several bodies may be read before its
/// task has its turn, and it comes for all of them at once.
pub(crate) const HANDED_ON_MAX: usize = 4;
/// Room for so many groups is kept where they are handed on.
const KEPT_GROUPS_MAX: usize = 16;
/// Places of skipped lines remembered apart; beyond, neighbours are told as one.
const SKIPS_MAX: usize = 256;

/// The bounds of every queue of a collector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) lines: u64,
    pub(crate) bytes: usize,
    pub(crate) stalled_after: Duration,
    pub(crate) abandoned_after: Duration,
}

/// What all queues of a collector share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) bounds: Bounds,
    pub(crate) budget: Arc<Budget>,
    pub(crate) ledger: Arc<Ledger>,
    /// The addresses of queues that have dropped lines which are still to be journaled: nobody looks at the others.
    pub(crate) losers: Mutex<Vec<usize>>,
}

/// Where a queue stands in the spool.
#[cfg(feature = "spool")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The batch before which every wanted line was delivered.
    pub(crate) at: u64,
    /// Wanted lines from there on that were not.
    pub(crate) lines: u64,
    /// All of these are in batches before this number.
    pub(crate) to: u64,
    /// Lines that were dropped before, of which its reader is still to be told.
    pub(crate) skipped: u64,
}

/// What a queue takes and what it does when it is full; for its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) streams: Streams,
    pub(crate) full: Full,
}

/// Lines that were dropped, and before which `machine_seq` the reader is told.
#[derive(Clone, Copy, Debug)]
struct Skip {
    from: u64,
    to: u64,
    lines: u64,
    what: Missing,
}

/// What is told of dropped lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// How many.
    Skipped,
    /// How many, and that they were over a limit.
    Limited,
    /// That nobody knows how many.
    #[cfg_attr(not(feature = "spool"), allow(dead_code, reason = "only what outlives a process is lost uncounted"))]
    Unknown,
}

impl Skip {
    fn told(self) -> Taken {
        match self.what {
            Missing::Skipped => Taken::Skipped(self.lines),
            Missing::Limited => Taken::Limited(self.lines),
            Missing::Unknown => Taken::SkippedUnknown,
        }
    }
}

/// Why a queue ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Finished,
    Shutdown,
}

#[derive(Debug, Default)]
struct State {
    /// Older than everything in the channel, in order: what readers gave back, and what was handed on to one that waits or rests.
    front: VecDeque<Item>,
    channel: Channel,
    /// Lines and bytes in `front`, in the channel and in readers' hands.
    lines: u64,
    bytes: usize,
    /// Of these, in readers' hands.
    held_lines: u64,
    held_bytes: usize,
    rare: Option<Box<Rare>>,
    /// Boxed, because most queues of most machines never are.
    behind: Option<Box<Behind>>,
    /// The `machine_seq` behind the newest line that a reader ever took: what was given back before it has gaps behind it.
    taken_to: u64,
    readers: Readers,
    /// None of those that wait is asleep while there is something.
    waiters: Waiters,
    /// Boxed, because nobody reads most machines.
    handed_over: Option<Box<HandedOver>>,
}

/// How many readers there are, or since when there is none. One or the other: a queue is small.
#[derive(Clone, Copy, Debug)]
enum Readers {
    Some(u32),
    NoneSince(Instant),
}

impl Default for Readers {
    fn default() -> Self {
        Self::Some(0)
    }
}

impl Readers {
    fn count(self) -> u32 {
        match self {
            Self::Some(count) => count,
            Self::NoneSince(_) => 0,
        }
    }

    fn come(&mut self) {
        *self = Self::Some(self.count() + 1);
    }

    fn go(&mut self, now: Instant) {
        *self = match self.count() {
            0 | 1 => Self::NoneSince(now),
            count => Self::Some(count - 1),
        };
    }

    /// Whether there has been none for `time`.
    fn are_gone_for(self, time: Duration, now: Instant) -> bool {
        match self {
            Self::Some(_) => false,
            Self::NoneSince(since) => now.duration_since(since) >= time,
        }
    }
}

/// What readers have taken.
#[derive(Debug, Default)]
struct HandedOver {
    latencies: Latencies,
    /// The oldest batch of which they hold something, if they hold anything.
    from: u64,
}

/// What most queues of most machines never have.
#[derive(Debug, Default)]
struct Rare {
    blocking: Blocking,
    /// Lines that were dropped and are still to be told, in order.
    skips: VecDeque<Skip>,
    dropped: u64,
    /// What was dropped and is still to be journaled.
    lost: Vec<Lost>,
    /// Why it ended, and behind which of its machine's lines.
    ended: Option<(Ended, Trail)>,
    memory: trace::Memory,
}

/// What a `block` queue promises.
#[derive(Debug, Default)]
struct Blocking {
    /// Promised to bodies that are being admitted.
    lines: u64,
    bytes: usize,
    /// Since when nothing fitted.
    stalled_since: Option<Instant>,
}

impl State {
    /// Lines and bytes promised to bodies that are being admitted.
    fn reserved(&self) -> (u64, usize) {
        self.rare.as_ref().map_or((0, 0), |rare| (rare.blocking.lines, rare.blocking.bytes))
    }

    /// Something fitted.
    fn is_moving(&mut self) {
        self.rare.iter_mut().for_each(|rare| rare.blocking.stalled_since = None);
    }

    /// The first of the skipped lines, if they are to be told before `seq`, which is asked for only if there are any.
    fn next_skip(&mut self, seq: impl FnOnce() -> u64) -> Option<Skip> {
        let rare = self.rare.as_mut().filter(|rare| !rare.skips.is_empty())?;
        let seq = seq();
        rare.skips.pop_front_if(|skip| skip.from <= seq)
    }

    /// Whether lines were dropped that are still to be told.
    fn has_skips(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.skips.is_empty())
    }

    /// Why it ended, and behind which of its machine's lines.
    fn ended(&self) -> Option<(Ended, Trail)> {
        self.rare.as_ref()?.ended
    }

    /// The machine's `trail` as far as it concerns this queue: no line behind the end is its own.
    fn until_the_end(&self, trail: Trail) -> Trail {
        self.ended().map_or(trail, |(_, end)| end)
    }

    /// The oldest item that waits.
    fn pop(&mut self) -> Option<Item> {
        let Some(item) = self.front.pop_front() else { return self.channel.pop() };
        if self.front.is_empty() && self.front.capacity() > KEPT_GROUPS_MAX {
            self.front = VecDeque::new();
        }
        Some(item)
    }

    /// Whether lines may go as they are, not as copies, to a reader that waits for them: some, for it may have been polled and left
    /// alone.
    fn hands_on(&self) -> bool {
        self.waiters.has_waiting() && self.channel.is_empty() && self.front.len() < HANDED_ON_MAX
    }

    /// The same to a reader that rests: it comes of itself. Room for a copy is kept for when it does not.
    fn hands_on_with_room(&self, budget: &Budget) -> bool {
        self.waiters.has_resting() && self.channel.is_empty() && budget.has_plenty()
    }

    /// A reader takes `item`, and holds it from now on.
    fn hand_over(&mut self, item: &Item, ledger: &Ledger) {
        let (from, is_first) = (item.origin.batch, self.held_lines == 0);
        let handed_over = self.handed_over.get_or_insert_default();
        handed_over.from = if is_first { from } else { handed_over.from.min(from) };
        if item.weight > 0 {
            let latency = item.batch.received.elapsed();
            ledger.delivery_latency.record_times(latency, item.weight);
            handed_over.latencies.record(latency, item.weight);
        }
        self.held_lines += item.lines;
        self.held_bytes += item.bytes;
        self.taken_to = self.taken_to.max(item.end_seq());
    }
}

/// What a reader finds when it asks for the next lines.
#[derive(Debug)]
pub(crate) enum Taken {
    /// The reader holds these now, and must deliver them or give them back.
    Item(Item),
    /// So many lines were dropped here.
    Skipped(u64),
    /// Lines were lost here, and nobody knows how many.
    SkippedUnknown,
    /// So many lines were over a limit here.
    Limited(u64),
    /// The channel is drained, and the history has more: claim it through the collector.
    Behind,
    /// What comes next is on the disk: to be fetched, and then claimed.
    OnDisk(Box<OnDisk>),
    /// Nothing now; see [`Wait`].
    Empty,
    Ended(Ended),
}

/// What became of a group that was offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offered {
    pub(crate) accepted: u64,
    pub(crate) filtered: u64,
}

/// What the collector must do after an offer, claim or eviction: where a queue that is behind stands now.
pub(crate) type Place = Option<GroupRef>;

/// Numbers of one queue, for stats and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct QueueFacts {
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
    pub(crate) readers: u32,
    pub(crate) behind: bool,
    pub(crate) ended: bool,
    pub(crate) oldest: Option<Instant>,
    pub(crate) latency_p50_seconds: Option<f64>,
    pub(crate) latency_p99_seconds: Option<f64>,
}

/// One machine's bounded queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) terms: Terms,
    #[cfg_attr(not(any(feature = "server", feature = "spool")), allow(dead_code, reason = "nobody asks"))]
    pub(crate) began: Began,
    common: Arc<Common>,
    state: Mutex<State>,
}

/// Room that a `block` queue keeps for a body that is being admitted; dropping it gives the room back.
#[derive(Debug)]
pub(crate) struct QueueRoom {
    queue: Arc<Queue>,
    lines: u64,
    bytes: usize,
    copy: Option<Permit>,
}

impl Drop for QueueRoom {
    fn drop(&mut self) {
        if self.lines > 0 {
            self.settle(&mut self.queue.clone().state.lock());
            self.queue.common.budget.announce_room();
        }
    }
}

impl QueueRoom {
    pub(crate) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Gives the room back under the queue's lock, so that nobody takes it before the lines that it was kept for.
    fn settle(&mut self, state: &mut State) -> Option<Permit> {
        if let Some(rare) = &mut state.rare {
            let blocking = &mut rare.blocking;
            blocking.lines -= std::mem::take(&mut self.lines);
            blocking.bytes -= std::mem::take(&mut self.bytes);
        }
        self.copy.take()
    }
}

/// The publisher's side.
impl Queue {
    pub(crate) fn new(terms: Terms, common: Arc<Common>, now: Instant) -> Self {
        let state = Mutex::new(State { readers: Readers::NoneSince(now), ..State::default() });
        Self { terms, began: Began::now(0), common, state }
    }

    pub(crate) fn with_began(self, began: Began) -> Self {
        Self { began, ..self }
    }

    /// Keeps room for `group` if this is a live `block` queue; `Err` when it has none.
    ///
    /// A queue that is behind, has had no reader for a second, or has stalled, promises nothing and blocks nobody.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        batch: &Batch,
        group: &Group,
        now: Instant,
    ) -> Result<Option<QueueRoom>, ()> {
        let (lines, bytes) = group_cost(batch, group, self.terms.streams);
        let mut state = self.state.lock();
        if lines == 0 || self.terms.full != Full::Block || state.behind.is_some() || state.ended().is_some() {
            return Ok(None);
        }
        let fits = self.fits(&state, lines, bytes);
        let is_awaited = fits && state.hands_on();
        let readerless = state.readers.are_gone_for(READERLESS_AFTER, now);
        let blocking = &mut state.rare.get_or_insert_default().blocking;
        let copy = fits.then(|| room_for_a_copy(&self.common.budget, batch, bytes)).flatten();
        if copy.is_none() && !is_awaited {
            let since = *blocking.stalled_since.get_or_insert(now);
            let stalled = now.duration_since(since) >= self.common.bounds.stalled_after;
            return if stalled || readerless { Ok(None) } else { Err(()) };
        }
        blocking.stalled_since = None;
        blocking.lines += lines;
        blocking.bytes += bytes;
        Ok(Some(QueueRoom { queue: Arc::clone(self), lines, bytes, copy }))
    }

    /// Offers a group that was just published. Never fails: what does not fit is left to the history or dropped.
    ///
    /// Whoever offers counts what is accepted into the ledger, once a batch.
    ///
    /// `room` is what [`Queue::reserve`] gave. Returns its fate, and where the queue stands if it went behind just now.
    pub(crate) fn offer(
        &self,
        batch: &Arc<Batch>,
        at: GroupRef,
        mut room: Option<QueueRoom>,
        history: &History,
        trail: Trail,
        wakes: &mut Wakes,
    ) -> (Offered, Place) {
        let group = &batch.groups[at.group as usize];
        let (wanted, limited) = batch.wanted(group, self.terms.streams);
        let offered = Offered { accepted: wanted, filtered: group.lines() - wanted };
        let mut state = self.state.lock();
        let promised = room.as_mut().map(|room| room.settle(&mut state));
        if wanted == 0 {
            return (offered, None);
        }
        if limited > 0 {
            self.drop_limited(&mut state, batch, group, limited);
        }
        let wanted = wanted - limited;
        if wanted == 0 {
            // Only that lines are missing is to be told.
            state.waiters.wake_all(wakes);
            return (offered, None);
        }
        if let Some(behind) = &mut state.behind {
            behind.lines += wanted;
            return (offered, None);
        }
        let item = Item::of_group(Arc::clone(batch), at, wanted, self.terms.streams);
        let place = self.take_in(&mut state, item, promised, history, trail);
        // Whatever became of it, there is something now. Readers that wait beside other lines were woken by those.
        state.waiters.wake_all(wakes);
        (offered, place)
    }

    /// Drops what is over a limit of a group that was just published.
    fn drop_limited(&self, state: &mut State, batch: &Batch, group: &Group, lines: u64) {
        let limited = |row: &Row| row.limited && self.terms.streams.wants(row.kind);
        let ids = ids_where(batch, group.rows.clone(), limited);
        let first = group.rows.clone().find(|index| limited(batch.row(*index)));
        let from = first.map_or(group.first_seq, |first| group.first_seq + u64::from(batch.row(first).rank));
        self.skip(state, from, group.end_seq(), lines, ids, Reason::Limited);
    }

    /// `promised` is that of a body that reserved, with its permit for a copy if that needed one.
    fn take_in(
        &self,
        state: &mut State,
        mut item: Item,
        promised: Option<Option<Permit>>,
        history: &History,
        trail: Trail,
    ) -> Place {
        if self.terms.full == Full::DropOldest {
            self.drop_until_fits(state, item.lines, item.bytes);
        } else if promised.is_none() && !self.fits(state, item.lines, item.bytes) {
            return self.go_behind(state, &item, history, trail);
        }
        if state.hands_on() {
            self.hand_on(state, item);
            return None;
        }
        // A body that was let in without room for a copy was because a reader waited, which may have left.
        let was_awaited = matches!(promised, Some(None));
        match promised.flatten().or_else(|| item.room_for_a_copy(&self.common.budget)) {
            Some(room) if state.hands_on_with_room(&self.common.budget) => {
                item.room = Some(room);
                self.hand_on(state, item);
            }
            Some(room) => self.keep(state, item.copied_into(room, self.terms.streams)),
            None if was_awaited && state.channel.is_empty() => self.hand_on(state, item),
            None => return self.without_a_copy(state, item, history, trail),
        }
        None
    }

    /// An item goes to readers past the channel, which holds nothing.
    fn hand_on(&self, state: &mut State, item: Item) {
        self.count_in(state, &item);
        state.front.push_back(item);
    }

    /// A copy waits in the channel.
    fn keep(&self, state: &mut State, copy: Item) {
        self.count_in(state, &copy);
        state.channel.push(copy);
    }

    fn count_in(&self, state: &mut State, item: &Item) {
        state.is_moving();
        state.lines += item.lines;
        state.bytes += item.bytes;
    }

    /// The reserve for copies is used up.
    fn without_a_copy(&self, state: &mut State, mut item: Item, history: &History, trail: Trail) -> Place {
        if self.terms.full != Full::DropOldest {
            let returned = self.return_copies(state, history);
            let first = returned.first().unwrap_or(&item);
            let lines = returned.iter().map(|item| item.lines).sum::<u64>() + item.lines;
            return self.continue_at(state, first.cursor(), lines, first.batch.received, history, trail);
        }
        // Its own oldest copies make room, until there are none left.
        while self.drop_oldest(state, u64::MAX) {
            if let Some(copy) = item.compacted(&self.common.budget, self.terms.streams) {
                self.keep(state, copy);
                return None;
            }
        }
        let ids = item.ids(item.rows.clone(), self.terms.streams);
        self.skip(state, item.first_seq(), item.end_seq(), item.lines, ids, Reason::QueueFull);
        None
    }

    /// An empty queue takes any one body; else both bounds hold, with what is promised.
    fn fits(&self, state: &State, lines: u64, bytes: usize) -> bool {
        let (lines_now, bytes_now) = self.counted(state);
        lines_now == 0 || lines_now + lines <= self.common.bounds.lines && bytes_now + bytes <= self.common.bounds.bytes
    }

    /// Lines and bytes that count for the bound.
    fn counted(&self, state: &State) -> (u64, usize) {
        if self.terms.full == Full::DropOldest {
            // What a reader holds cannot be dropped, and must not cost the newest lines their place.
            return (state.lines - state.held_lines, state.bytes - state.held_bytes);
        }
        let (lines, bytes) = state.reserved();
        (state.lines + lines, state.bytes + bytes)
    }

    fn drop_until_fits(&self, state: &mut State, lines: u64, bytes: usize) {
        while !self.fits(state, lines, bytes) {
            let over_lines = (self.counted(state).0 + lines).saturating_sub(self.common.bounds.lines);
            // Bytes are only known line by line; lines alone say how many must go at least.
            if !self.drop_oldest(state, over_lines.max(1)) {
                return;
            }
        }
    }

    /// Drops up to `lines` of the oldest item that waits; `false` if none does.
    fn drop_oldest(&self, state: &mut State, lines: u64) -> bool {
        let Some(mut item) = state.pop() else { return false };
        let (from, start) = (item.first_seq(), item.rows.start);
        let before = (item.lines, item.bytes);
        for _ in 0..lines.min(item.lines) {
            item.next_row(self.terms.streams);
        }
        if item.lines == 0 {
            item.bytes = 0;
            item.rows.start = item.rows.end;
        }
        let dropped = before.0 - item.lines;
        state.lines -= dropped;
        state.bytes -= before.1 - item.bytes;
        let to = if item.lines == 0 { item.end_seq() } else { item.first_seq() };
        let ids = item.ids(start..item.rows.start, self.terms.streams);
        self.skip(state, from, to, dropped, ids, Reason::QueueFull);
        if item.lines > 0 {
            state.front.push_front(item);
        }
        true
    }

    /// Notes dropped lines for the reader and the journal, and counts them.
    fn skip(&self, state: &mut State, from: u64, to: u64, lines: u64, ids: Ids, reason: Reason) {
        if lines == 0 {
            return;
        }
        self.common.ledger.queue_dropped(reason, lines);
        let Rare { skips, dropped, lost, memory, .. } = &mut **state.rare.get_or_insert_default();
        *dropped += lines;
        memory.note(from, to, reason);
        if lost.is_empty() {
            self.common.losers.lock().push(std::ptr::from_ref(self).addr());
        }
        note_lost(lost, reason, lines, ids);
        let what = if reason == Reason::Limited { Missing::Limited } else { Missing::Skipped };
        let at = skips.partition_point(|skip| skip.from <= from);
        // Lines over a limit are dropped as they come, so older ones may still be dropped after them.
        let neighbour = at.checked_sub(1).filter(|&before| skips[before].to == from && skips[before].what == what);
        let many = skips.len() >= SKIPS_MAX;
        let any = || skips.iter().rposition(|skip| skip.what != Missing::Unknown).filter(|_| many);
        match neighbour.or_else(any) {
            Some(index) => {
                let skip = &mut skips[index];
                skip.lines += lines;
                skip.to = to.max(skip.to);
                if what == Missing::Skipped {
                    skip.what = what;
                }
            }
            None => skips.insert(at, Skip { from, to, lines, what }),
        }
    }

    /// Takes back the copies that the history still holds, so that a queue whose reader sleeps costs the reserve nothing.
    fn return_copies(&self, state: &mut State, history: &History) -> Vec<Item> {
        while let Some(item) = state.channel.pop() {
            state.front.push_back(item);
        }
        let (first_held, taken_to) = (history.first_seq(), state.taken_to);
        let kept = state.front.partition_point(|item| item.origin.batch < first_held || item.first_seq() < taken_to);
        let returned: Vec<Item> = state.front.drain(kept..).collect();
        // The reserve is used up: what held them all goes too.
        state.front.shrink_to_fit();
        state.lines -= returned.iter().map(|item| item.lines).sum::<u64>();
        state.bytes -= returned.iter().map(|item| item.bytes).sum::<usize>();
        returned
    }

    /// Whether nobody has read it for so long.
    #[cfg(feature = "spool")]
    pub(crate) fn is_readerless_since(&self, now: Instant, after: Duration) -> bool {
        self.state.lock().readers.are_gone_for(after, now)
    }

    /// Where it stands, where all that is known of the machine is `trail`.
    #[cfg(feature = "spool")]
    pub(crate) fn standing(&self, trail: Trail) -> Standing {
        let mut state = self.state.lock();
        let state = &mut *state;
        let waiting = state.pop().map(|item| {
            let batch = item.origin.batch;
            state.front.push_front(item);
            batch
        });
        let held = state.handed_over.as_ref().filter(|_| state.held_lines > 0).map(|handed| handed.from);
        let behind = state.behind.as_ref().map(|behind| behind.place().batch);
        let to = state.until_the_end(trail).end;
        let at = [held, waiting, behind].into_iter().flatten().min().unwrap_or(to);
        let lines = state.lines + state.behind.as_ref().map_or(0, |behind| behind.lines);
        let skips = state.rare.iter().flat_map(|rare| &rare.skips);
        let skipped = skips.filter(|skip| skip.what == Missing::Skipped).map(|skip| skip.lines).sum();
        Standing { at, lines, to, skipped }
    }

    /// A queue that was taken up where an earlier process left it is to tell of so many lines that were dropped, and counted, there:
    /// before the one with `machine_seq` `before`. For who takes it up, before anything else of it.
    #[cfg(feature = "spool")]
    pub(crate) fn skipped_before(&self, before: u64, lines: u64) {
        if lines > 0 {
            let skip = Skip { from: before.saturating_sub(lines), to: before, lines, what: Missing::Skipped };
            self.state.lock().rare.get_or_insert_default().skips.push_back(skip);
        }
    }

    /// A queue that was taken up where an earlier process left it has lost lines meanwhile, before the one with `machine_seq`
    /// `before`: so many, and perhaps others before those of `unknown`, which ascend. For who takes it up, before anybody reads.
    #[cfg(feature = "spool")]
    pub(crate) fn lost_before(&self, before: u64, lines: u64, unknown: impl Iterator<Item = u64>) {
        self.common.ledger.queue_in(lines);
        let mut state = self.state.lock();
        self.skip(&mut state, before.saturating_sub(lines), before, lines, None, Reason::HistoryEvicted);
        for from in unknown {
            let skip = Skip { from, to: from, lines: 0, what: Missing::Unknown };
            state.rare.get_or_insert_default().skips.push_back(skip);
        }
    }

    /// Where a finished machine's queue ends, as the number of a batch. A shutdown ends none that outlives the process.
    #[cfg(feature = "spool")]
    pub(crate) fn end_at(&self) -> Option<u64> {
        let ended = self.state.lock().ended();
        ended.filter(|(ended, _)| *ended == Ended::Finished).map(|(_, trail)| trail.end)
    }

    /// Drops what has waited without a reader for too long. Returns where the queue stands then, and whether it moved.
    pub(crate) fn abandon(&self, now: Instant, history: &History, trail: Trail) -> (Place, bool) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let trail = state.until_the_end(trail);
        let place = |state: &State| state.behind.as_ref().map(|behind| behind.place());
        let before = place(state);
        let after = self.common.bounds.abandoned_after;
        if !state.readers.are_gone_for(after, now) {
            return (before, false);
        }
        let too_old = |batch: &Batch| now.duration_since(batch.received) >= after;
        let moved = self.drop_while(state, |_, batch| too_old(batch), Reason::Abandoned, history, trail);
        (place(state), moved)
    }

    /// Drops the oldest batches that `goes` is true of, by number and content. Whether one was dropped that the queue stood at, being
    /// behind. What is on the disk is looked at by who may wait for it.
    fn drop_while(
        &self,
        state: &mut State,
        goes: impl Fn(u64, &Batch) -> bool,
        reason: Reason,
        history: &History,
        trail: Trail,
    ) -> bool {
        if !self.drop_waiting(state, &goes, reason) {
            return false;
        }
        let mut moved = false;
        while let Some(Stand::Held(at, _)) = state.behind.as_ref().map(|behind| &behind.stand) {
            let Held::Batch(batch) = history.batch(at.batch) else { break };
            if !goes(batch.seq, &batch) {
                break;
            }
            self.drop_group(state, &batch, reason, history, trail);
            moved = true;
        }
        moved
    }

    /// As [`Queue::drop_while`], of what waits in memory. Whether that was all of it.
    fn drop_waiting(&self, state: &mut State, goes: impl Fn(u64, &Batch) -> bool, reason: Reason) -> bool {
        while let Some(item) = state.pop() {
            if !goes(item.origin.batch, &item.batch) {
                state.front.push_front(item);
                return false;
            }
            state.lines -= item.lines;
            state.bytes -= item.bytes;
            let ids = item.ids(item.rows.clone(), self.terms.streams);
            self.skip(state, item.first_seq(), item.end_seq(), item.lines, ids, reason);
        }
        true
    }

    /// Sets the end behind what is queued, which goes up to `trail`.
    pub(crate) fn end(&self, ended: Ended, trail: Trail, wakes: &mut Wakes) {
        let mut state = self.state.lock();
        state.rare.get_or_insert_default().ended.get_or_insert((ended, trail));
        state.waiters.wake_all(wakes);
    }

    /// Drops everything that no reader holds; the end then stands alone. Returns how many lines readers hold still.
    pub(crate) fn give_up(&self, reason: Reason, history: &History, trail: Trail) -> u64 {
        let mut state = self.state.lock();
        let state = &mut *state;
        self.drop_waiting(state, |_, _| true, reason);
        if let Some(behind) = state.behind.take() {
            let from = behind.cursor.next_seq();
            let ids = self.ids_of_rest(&behind, history, state.until_the_end(trail));
            self.skip(state, from, from, behind.lines, ids, reason);
        }
        state.held_lines
    }

    /// Drops what waits of the batches before number `to`. Returns where the queue stands then.
    #[cfg(feature = "spool")]
    pub(crate) fn give_up_before(&self, to: u64, reason: Reason, history: &History, trail: Trail) -> Place {
        let mut state = self.state.lock();
        let state = &mut *state;
        let trail = state.until_the_end(trail);
        self.drop_while(state, |seq, _| seq < to, reason, history, trail);
        state.behind.as_ref().map(|behind| behind.place())
    }

    /// Lines in readers' hands.
    pub(crate) fn held_lines(&self) -> u64 {
        self.state.lock().held_lines
    }

    /// What was dropped since this was asked last.
    pub(crate) fn take_lost(&self) -> Vec<Lost> {
        self.state.lock().rare.as_mut().map(|rare| std::mem::take(&mut rare.lost)).unwrap_or_default()
    }

    pub(crate) fn facts(&self) -> QueueFacts {
        let mut state = self.state.lock();
        let state = &mut *state;
        let waiting = state.pop().map(|item| {
            let received = item.batch.received;
            state.front.push_front(item);
            received
        });
        // What waits in the queue is older than what is still to be caught up.
        let behind = state.behind.as_ref().filter(|behind| behind.lines > 0);
        let oldest = waiting.or_else(|| behind.map(|behind| behind.received));
        let latency = |quantile| state.handed_over.as_ref().and_then(|handed| handed.latencies.quantile(quantile));
        QueueFacts {
            lines: state.lines + state.behind.as_ref().map_or(0, |behind| behind.lines),
            bytes: state.bytes as u64,
            dropped: state.rare.as_ref().map_or(0, |rare| rare.dropped),
            readers: state.readers.count(),
            behind: state.behind.is_some(),
            ended: state.ended().is_some(),
            oldest,
            latency_p50_seconds: latency(0.5),
            latency_p99_seconds: latency(0.99),
        }
    }

    /// Where a queue that is behind stands.
    pub(crate) fn place(&self) -> Place {
        self.state.lock().behind.as_ref().map(|behind| behind.place())
    }

    /// Whether nothing is queued, held or to be caught up. A reader may still have to be told of dropped lines.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.state.lock();
        state.lines == 0 && state.behind.is_none()
    }
}

/// Why queued lines were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    QueueFull = 0,
    HistoryEvicted = 1,
    Abandoned = 2,
    Limited = 3,
    Shutdown = 4,
}

impl Reason {
    /// The names in metrics, by the variants' numbers: the closed set of the contract.
    pub(crate) const NAMES: [&str; 5] = ["queue_full", "history_evicted", "abandoned", "limited", "shutdown"];

    pub(crate) fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

#[cfg(test)]
mod tests;
