//! Looking without disturbing: all machines ([`FleetStream`]), or one ([`MachineView`], behind `logs`).
//!
//! Both are a cursor over the history and a wake: nothing is queued for them, none of them costs ingest more than the wake,
//! and what is evicted before they come to it is told, counted before any filter.

#[cfg(feature = "spool")]
mod past;

use std::{
    fmt,
    ops::Range,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::{
    batch::{Batch, EntryId, EntryView, FIRST_SEQ, Group, GroupRef},
    collector::{LogCollector, Machine},
    exit::{ExitStatus, ExitWatch},
    history::{FleetCursor, FleetStep, History, MachineCursor, MachineStep, Next, Trail},
    queue::Ended,
};

/// Where a view begins. Of several the latest place counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewStart {
    /// What the history holds first; else only what is still to come.
    pub backlog: bool,
    /// Only what was received at this time or later; implies `backlog`.
    pub since: Option<Timestamp>,
    /// Only so many of the newest lines that match; implies `backlog`.
    pub last: Option<u64>,
    /// Behind the line with this id; implies `backlog`.
    pub after: Option<EntryId>,
}

impl ViewStart {
    pub(crate) fn looks_back(&self) -> bool {
        self.backlog || self.since.is_some() || self.last.is_some() || self.after.is_some()
    }
}

/// Counts a viewer for as long as it lives.
#[derive(Debug)]
struct Viewer(LogCollector);

impl Viewer {
    fn new(collector: &LogCollector) -> Self {
        collector.shared.ledger.viewers.fetch_add(1, Relaxed);
        Self(collector.clone())
    }

    fn skipped(&self, lines: u64) {
        self.0.shared.ledger.viewer_skipped.fetch_add(lines, Relaxed);
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.shared.ledger.viewers.fetch_sub(1, Relaxed);
    }
}

/// What a view comes upon.
#[derive(Debug)]
pub(crate) enum Seen<T> {
    Lines(T),
    /// Lines evicted before the view came to them; `None` where it cannot be known.
    Skipped(Option<u64>),
    /// What comes next is on the disk: to be fetched before the next step.
    Past,
}

/// What comes next, on its way from the disk: kept by who waits for it, so that a wait that is cut short loses nothing.
struct Fetching<T>(Mutex<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T> fmt::Debug for Fetching<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetching").finish_non_exhaustive()
    }
}

impl<T> Future for Fetching<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.0.get_mut().as_mut().poll(cx)
    }
}

fn fetch<T: Send + 'static>(
    collector: &LogCollector,
    read: impl FnOnce(&History) -> T + Send + 'static,
) -> Fetching<T> {
    let collector = collector.clone();
    // Nobody ever waits for the lock: it makes a view one that tasks can share.
    Fetching(Mutex::new(Box::pin(async move {
        let Some(past) = collector.shared.history.past() else {
            unreachable!("without a spool nothing is on the disk")
        };
        let of = collector.clone();
        past.read(move || read(&of.shared.history)).await
    })))
}

/// Lines of one machine, as they lie in their batch.
#[derive(Debug)]
pub(crate) struct MachineLines {
    pub(crate) batch: Arc<Batch>,
    pub(crate) group: u32,
    pub(crate) rows: Range<u32>,
}

impl MachineLines {
    pub(crate) fn entries(&self) -> impl Iterator<Item = EntryView<'_>> {
        self.rows.clone().map(|index| self.batch.view(index))
    }
}

/// Looks at one machine, and ends with it.
#[derive(Debug)]
pub(crate) struct MachineView {
    viewer: Viewer,
    machine: Arc<Machine>,
    cursor: MachineCursor,
    /// Whether the next step needs the disk, and what was fetched for it.
    on_disk: bool,
    fetching: Option<Fetching<(MachineCursor, Next<MachineStep>, bool)>>,
    fetched: Option<Next<MachineStep>>,
    /// Lines lost where it cannot be known how many, still to be told.
    unknown_skipped: bool,
    ended: Option<Ended>,
    /// Ends the view with the machine's exit, and how that was, once it has.
    exit: Option<ExitWatch>,
    exited: Option<ExitStatus>,
}

impl MachineView {
    /// Looks at a machine, seen or not yet seen. `wanted` is the filter that `last` counts by.
    ///
    /// With a spool, one that looks back waits for the disk.
    pub(crate) fn new(
        collector: &LogCollector,
        machine_id: &str,
        start: &ViewStart,
        wanted: impl Fn(&EntryView<'_>) -> bool,
    ) -> Self {
        let machine = collector.watch_machine(machine_id);
        let viewer = Viewer::new(collector);
        let (cursor, unknown_skipped) = machine_start(collector, &machine, start, wanted);
        Self {
            viewer,
            machine,
            cursor,
            on_disk: false,
            fetching: None,
            fetched: None,
            unknown_skipped,
            ended: None,
            exit: None,
            exited: None,
        }
    }

    /// Ends the view with the machine's exit: the next one, or with `past` the last one if the machine has not begun again since.
    pub(crate) fn until_exit(mut self, linger: Duration, past: bool) -> Self {
        let from = if past { 0 } else { self.cursor.from() };
        self.exit = Some(self.viewer.0.watch_exit(&self.machine, linger, from));
        self
    }

    /// The next lines, or `None` when caught up or at the end; see [`MachineView::ended`].
    pub(crate) fn step(&mut self) -> Option<Seen<MachineLines>> {
        if std::mem::take(&mut self.unknown_skipped) {
            return Some(Seen::Skipped(None));
        }
        // Asked before the place: what is there then came before the end, and what comes behind it has its batch's number.
        let end = self.exit.as_ref().and_then(ExitWatch::end);
        let is_shutting_down = self.viewer.0.is_shutting_down();
        // The end is read with the place, so that no line can come between the two.
        let (trail, ended) = self.machine.trail_and_end();
        match self.fetched.take().or_else(|| self.cursor.step(&self.viewer.0.shared.history, trail)) {
            Some(Next::Lines(step)) if self.is_behind_exit(step.batch.seq) => {
                self.exited = self.exit.as_ref().and_then(ExitWatch::status);
                None
            }
            Some(Next::Lines(step)) if step.missed == 0 => {
                Some(Seen::Lines(MachineLines { batch: step.batch, group: step.at.group, rows: step.rows }))
            }
            Some(Next::Lines(step)) => {
                // Told first; the lines behind it are looked up again, so that no batch is held across a slow socket.
                let first = step.batch.groups[step.at.group as usize].first_seq;
                self.cursor = MachineCursor::new(first, step.at.batch);
                Some(self.skipped(step.missed))
            }
            // What was looked for on the disk has been read meanwhile.
            Some(Next::Lost(0)) => self.step(),
            Some(Next::Lost(missed)) => Some(self.skipped(missed)),
            Some(Next::Past) => {
                self.on_disk = true;
                Some(Seen::Past)
            }
            None => {
                let finished =
                    self.exit.as_ref().filter(|_| ended == Some(Ended::Finished)).and_then(ExitWatch::status);
                self.exited = end.map(|end| end.status).or(finished);
                self.ended = ended.or_else(|| is_shutting_down.then_some(Ended::Shutdown));
                None
            }
        }
    }

    fn is_behind_exit(&self, batch: u64) -> bool {
        self.exit.as_ref().and_then(ExitWatch::end).is_some_and(|end| batch >= end.batch)
    }

    /// Whether the last step was [`Seen::Past`], and it was not fetched since.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.on_disk
    }

    /// Fetches what the next step gives, where the last was [`Seen::Past`]. Cancel safe.
    pub(crate) async fn fetch(&mut self) {
        let (collector, machine, cursor) = (&self.viewer.0, &self.machine, &self.cursor);
        let fetching = self.fetching.get_or_insert_with(|| {
            let (machine, mut cursor) = (Arc::clone(machine), cursor.clone());
            fetch(collector, move |history| {
                let from = cursor.from();
                let next = cursor.read_past(history, &machine.id, machine.trail());
                let to = match &next {
                    Next::Lines(step) => step.at.batch,
                    Next::Lost(_) | Next::Past => cursor.from(),
                };
                // Records that are missing may have been this machine's.
                let has_gap = history.past().is_some_and(|past| past.has_gap(from..to));
                (cursor, next, has_gap)
            })
        });
        let (cursor, next, has_gap) = fetching.await;
        self.fetching = None;
        (self.cursor, self.on_disk, self.unknown_skipped) = (cursor, false, has_gap);
        self.fetched = Some(next);
    }

    /// Goes back to the row at `index` of `lines`, which were the last taken: nothing is held while a reader is slow.
    pub(crate) fn put_back(&mut self, lines: &MachineLines, index: u32) {
        let group = &lines.batch.groups[lines.group as usize];
        let at = GroupRef { batch: lines.batch.seq, group: lines.group };
        self.cursor.put_back(&lines.batch, at, group.first_seq + u64::from(index - group.rows.start));
    }

    /// Whether the machine is finished and there is nothing to show, nor to tell, beyond what was asked for.
    pub(crate) fn is_over(&self) -> bool {
        let (trail, ended) = self.machine.trail_and_end();
        ended == Some(Ended::Finished)
            && !self.unknown_skipped
            && self.fetched.is_none()
            && self.cursor.next_seq() >= trail.next_seq
    }

    fn skipped<T>(&self, missed: u64) -> Seen<T> {
        self.viewer.skipped(missed);
        Seen::Skipped(Some(missed))
    }

    /// Why there will be nothing more; set once [`MachineView::step`] has shown everything.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// The exit that the view will end with.
    #[cfg(all(test, feature = "server", feature = "spool"))]
    pub(crate) fn exit_told(&self) -> Option<ExitStatus> {
        self.exit.as_ref().and_then(ExitWatch::status)
    }

    /// How the machine exited, once that has ended the view and [`MachineView::step`] has shown everything.
    pub(crate) fn exited(&self) -> Option<ExitStatus> {
        self.exited
    }

    /// Waits until [`MachineView::step`] may have something new. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        let machine = Arc::clone(&self.machine);
        let notified = machine.watch().notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let (trail, ended) = self.machine.trail_and_end();
        // A machine that was first looked at after the shutdown began is not among those that it ended.
        if self.fetched.is_none()
            && ended.is_none()
            && self.cursor.next_seq() >= trail.next_seq
            && !self.viewer.0.is_shutting_down()
        {
            match &mut self.exit {
                None => notified.await,
                Some(exit) => tokio::select! {
                    () = notified => {}
                    () = exit.over() => {}
                },
            }
        }
    }
}

impl Drop for MachineView {
    fn drop(&mut self) {
        self.machine.remove_watcher();
    }
}

/// Where to begin, and whether it is unknown what was missed before it.
fn machine_start(
    collector: &LogCollector,
    machine: &Machine,
    start: &ViewStart,
    wanted: impl Fn(&EntryView<'_>) -> bool,
) -> (MachineCursor, bool) {
    let trail = machine.trail();
    if !start.looks_back() {
        return (MachineCursor::live(trail), false);
    }
    #[cfg(feature = "spool")]
    if let Some(past) = collector.shared.history.past() {
        return past::machine_start(past, &collector.shared.history, &machine.id, trail, start, wanted);
    }
    let (next, unknown) = held_start(collector, machine, trail, start, wanted);
    (MachineCursor::new(next, 0), unknown)
}

/// As [`machine_start`], where the history is all there is.
fn held_start(
    collector: &LogCollector,
    machine: &Machine,
    trail: Trail,
    start: &ViewStart,
    wanted: impl Fn(&EntryView<'_>) -> bool,
) -> (u64, bool) {
    let history = &collector.shared.history;
    let oldest = trail.oldest_seq(history);
    let mut next = oldest;
    let mut unknown = false;
    if let Some(id) = start.after {
        match after_in_machine(collector, machine, id) {
            Some(after) => next = after,
            None => unknown = true,
        }
    }
    if let Some(since) = start.since {
        let mut first = trail.next_seq;
        trail.walk_back(history, |_, group, batch| {
            let young = batch.received_at >= since;
            if young {
                first = group.first_seq;
            }
            young
        });
        next = next.max(first);
    }
    if let Some(last) = start.last {
        let mut first = trail.next_seq;
        let mut left = last;
        trail.walk_back(history, |_, group, batch| {
            for index in group.rows.clone().rev() {
                if left == 0 {
                    break;
                }
                let entry = batch.view(index);
                if wanted(&entry) {
                    left -= 1;
                    first = group.first_seq + u64::from(index - group.rows.start);
                }
            }
            left > 0
        });
        next = next.max(first);
    }
    (next, unknown)
}

/// The `machine_seq` of the first of the machine's lines behind `id`; `None` where it cannot be known.
fn after_in_machine(collector: &LogCollector, machine: &Machine, id: EntryId) -> Option<u64> {
    if id.epoch != collector.epoch() {
        return None;
    }
    let trail = machine.trail();
    let mut next = trail.next_seq;
    let mut reached = trail.last.is_none();
    trail.walk_back(&collector.shared.history, |_, group, batch| {
        let behind = |index: &u32| batch.first_line + u64::from(batch.row(*index).ordinal) > id.line;
        let before = group.rows.clone().take_while(|index| !behind(index)).count() as u64;
        if before < group.lines() {
            next = group.first_seq + before;
        }
        reached = before > 0 || group.prev.is_none();
        !reached
    });
    if reached {
        return Some(next);
    }
    // What is held does not reach back to the id, so only the id itself can tell; one of another machine (from a tail) does
    // not count this one's lines.
    (id.machine == EntryId::mark(&machine.id)).then(|| id.machine_seq.saturating_add(FIRST_SEQ).min(next))
}

/// A batch as a reader of all machines gets it: zero-copy, and within the byte budget for as long as it is held.
#[derive(Clone, Debug)]
pub struct FleetBatch {
    batch: Arc<Batch>,
    from: u32,
    skipped: u64,
}

impl FleetBatch {
    /// How many lines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.batch.rows.len() - self.from as usize
    }

    /// Whether there are none, which does not happen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lines evicted before the reader came to this batch.
    #[must_use]
    pub fn skipped_before(&self) -> u64 {
        self.skipped
    }

    /// The machines of the batch with their lines, each machine's in order.
    pub fn machines(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = EntryView<'_>>)> {
        self.batch.groups.iter().map(move |group| (self.batch.machine_id(group), self.lines_of(group)))
    }

    /// The batch as it lies, and the [`crate::batch::Row::ordinal`] of the first row wanted of it.
    pub(crate) fn parts(&self) -> (&Batch, u32) {
        (&self.batch, self.from)
    }

    fn lines_of<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = EntryView<'a>> {
        let rows = group.rows.clone().map(|index| self.batch.row(index));
        rows.filter(|row| row.ordinal >= self.from).map(|row| self.batch.view_of(row))
    }

    /// The lines in the order in which they were sent.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = EntryView<'_>> + ExactSizeIterator {
        self.batch.rows[self.from as usize..].iter().map(|row| self.batch.view_of(row))
    }
}

/// Looks at all machines, present and future: whole batches, grouped by machine. Ends when the collector shuts down.
///
/// ```
/// use fleetdrain::LogCollector;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let collector = LogCollector::default();
/// let mut fleet = collector.fleet();
/// collector.push("{\"instance\":\"m1\",\"message\":\"a\"}\n{\"instance\":\"m2\",\"message\":\"b\"}")?;
///
/// let batch = fleet.next().await.expect("the collector is not shut down");
/// assert_eq!((batch.len(), batch.skipped_before()), (2, 0));
/// for (machine, mut entries) in batch.machines() {
///     println!("{machine}: {}", entries.next().expect("each has a line").message());
/// }
/// # Ok(()) }
/// ```
pub struct FleetStream {
    viewer: Viewer,
    cursor: FleetCursor,
    /// Whether the next step needs the disk, and what was fetched for it.
    on_disk: bool,
    fetching: Option<Fetching<(FleetCursor, Next<FleetStep>)>>,
    fetched: Option<FleetStep>,
    /// Lines lost of which nothing is left, to be told with the next batch.
    lost: u64,
    unknown_skipped: bool,
}

impl FleetStream {
    pub(crate) fn new(collector: &LogCollector, start: &ViewStart, wanted: impl Fn(&EntryView<'_>) -> bool) -> Self {
        let viewer = Viewer::new(collector);
        let (cursor, unknown_skipped) = fleet_start(collector, start, wanted);
        Self { viewer, cursor, on_disk: false, fetching: None, fetched: None, lost: 0, unknown_skipped }
    }

    /// The next batch, or `None` when the collector has shut down and everything was read. Cancel safe.
    ///
    /// A reader too far behind finds [`FleetBatch::skipped_before`] lines evicted.
    pub async fn next(&mut self) -> Option<FleetBatch> {
        loop {
            match self.step() {
                Some(Seen::Lines(batch)) => return Some(batch),
                Some(Seen::Skipped(_)) => {}
                Some(Seen::Past) => self.fetch().await,
                None if self.is_over() => return None,
                None => self.changed().await,
            }
        }
    }

    /// The next lines, or `None` when caught up. Lines skipped are told in the batch; [`Seen::Skipped`] only where their
    /// number is not known.
    pub(crate) fn step(&mut self) -> Option<Seen<FleetBatch>> {
        if std::mem::take(&mut self.unknown_skipped) {
            return Some(Seen::Skipped(None));
        }
        let step = match self.fetched.take() {
            Some(step) => step,
            None => match self.cursor.step(&self.viewer.0.shared.history)? {
                Next::Lines(step) => step,
                Next::Past => {
                    self.on_disk = true;
                    return Some(Seen::Past);
                }
                Next::Lost(_) => unreachable!("the newest batch is always held"),
            },
        };
        let skipped = step.missed + std::mem::take(&mut self.lost);
        self.viewer.skipped(skipped);
        Some(Seen::Lines(FleetBatch { batch: step.batch, from: step.from, skipped }))
    }

    /// Whether the last step was [`Seen::Past`], and it was not fetched since.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.on_disk
    }

    /// Fetches what the next step gives, where the last was [`Seen::Past`]. Cancel safe.
    pub(crate) async fn fetch(&mut self) {
        let (collector, mut cursor) = (&self.viewer.0, self.cursor);
        let fetching = self.fetching.get_or_insert_with(|| {
            fetch(collector, move |history| {
                let next = cursor.read_past(history);
                (cursor, next)
            })
        });
        let (cursor, next) = fetching.await;
        self.fetching = None;
        (self.cursor, self.on_disk) = (cursor, false);
        match next {
            Next::Lines(step) => self.fetched = Some(step),
            Next::Lost(lines) => self.lost += lines,
            Next::Past => {}
        }
    }

    /// Goes back to the row with `ordinal` of `lines`: nothing is held while a reader is slow.
    pub(crate) fn put_back(&mut self, lines: &FleetBatch, ordinal: u32) {
        self.cursor = FleetCursor::at(lines.batch.seq, lines.batch.first_line + u64::from(ordinal));
    }

    /// Whether there will be nothing more once [`FleetStream::step`] says that it is caught up.
    pub(crate) fn is_over(&self) -> bool {
        self.viewer.0.is_shutting_down() && self.is_caught_up()
    }

    /// Whether everything sent up to now was read.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.fetched.is_none() && self.cursor.line() >= self.viewer.0.shared.history.end().1
    }

    /// Waits until [`FleetStream::step`] may have something new. Cancel safe.
    pub(crate) async fn changed(&self) {
        let notified = self.viewer.0.shared.fleet.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if self.is_caught_up() && !self.viewer.0.is_shutting_down() {
            notified.await;
        }
    }
}

impl fmt::Debug for FleetStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetStream").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

fn fleet_start(
    collector: &LogCollector,
    start: &ViewStart,
    wanted: impl Fn(&EntryView<'_>) -> bool,
) -> (FleetCursor, bool) {
    let history = &collector.shared.history;
    if !start.looks_back() {
        return (history.live(), false);
    }
    let mut cursor = history.at_line(history.oldest_line());
    let mut unknown = false;
    #[cfg(feature = "spool")]
    if let Some(past) = history.past() {
        return past::fleet_start(past, history, start, wanted);
    }
    match start.after {
        Some(id) if id.epoch == collector.epoch() => cursor = history.after_line(id.line),
        Some(_) => unknown = true,
        None => {}
    }
    if let Some(since) = start.since {
        cursor = cursor.max(history.at_time(since));
    }
    if let Some(last) = start.last {
        cursor = cursor.max(history.at_line(newest_matching(collector, last, wanted)));
    }
    (cursor, unknown)
}

/// The number of the `last`-newest line that is wanted, or of the oldest held if there are fewer.
fn newest_matching(collector: &LogCollector, last: u64, wanted: impl Fn(&EntryView<'_>) -> bool) -> u64 {
    let history = &collector.shared.history;
    let (mut seq, mut first) = history.end();
    let mut left = last;
    while left > 0 {
        let Some(batch) = history.batch_before(seq) else { break };
        seq = batch.seq;
        let lines = FleetBatch { batch, from: 0, skipped: 0 };
        for entry in lines.entries().rev().filter(|entry| wanted(entry)) {
            if left == 0 {
                break;
            }
            left -= 1;
            first = lines.batch.first_line + u64::from(entry.row.ordinal);
        }
    }
    first
}

impl LogCollector {
    /// Looks at all machines from now on; see [`LogCollector::fleet_from`].
    #[must_use]
    pub fn fleet(&self) -> FleetStream {
        self.fleet_from(&ViewStart::default())
    }

    /// Looks at all machines from `start` on.
    #[must_use]
    pub fn fleet_from(&self, start: &ViewStart) -> FleetStream {
        FleetStream::new(self, start, |_| true)
    }
}
