//! Reading one machine's queue: [`LogQueue`], [`LogStream`] with its time-outs, and the Python module's helpers on them.

mod held;
pub(crate) mod view;

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use self::held::Held;
pub use self::view::{FleetBatch, FleetStream};
use crate::{
    batch::{EntryView, LogEntry, Streams},
    collector::{LogCollector, Machine},
    exit::{End, ExitStatus, ExitWatch},
    queue::{Ended, Fetched, Handing, Item, OnDisk, Queue, Taken, Wait},
};

/// A machine's queue, as a live handle: while one exists the queue counts as read. Clones share the same queue.
pub struct LogQueue {
    collector: LogCollector,
    machine: Arc<Machine>,
    queue: Arc<Queue>,
}

impl LogQueue {
    pub(crate) fn new(collector: &LogCollector, machine: &Arc<Machine>, queue: &Arc<Queue>) -> Self {
        queue.attach();
        Self { collector: collector.clone(), machine: Arc::clone(machine), queue: Arc::clone(queue) }
    }

    /// The machine whose queue this is.
    #[must_use]
    pub fn machine_id(&self) -> &str {
        &self.machine.id
    }

    /// Wanted lines that are not delivered yet, those still to be caught up and those in readers' hands too.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.queue.facts().lines
    }

    /// Whether two handles are the same queue.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.queue, &other.queue)
    }

    /// What there is to read at once; [`Taken::Empty`] if nothing.
    pub(crate) fn take(&self) -> Taken {
        loop {
            match self.queue.take() {
                Taken::Behind => {
                    if let Some(taken) = self.claim() {
                        return taken;
                    }
                }
                taken => return taken,
            }
        }
    }

    /// The queue itself.
    #[cfg(any(test, feature = "spool"))]
    pub(crate) fn inner(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// The next lines of a queue that is behind; `None` if it has changed meanwhile.
    fn claim(&self) -> Option<Taken> {
        self.collector.claim(&self.machine, &self.queue)
    }

    /// Fetches what comes next from the disk.
    fn fetch(&self, at: OnDisk) -> Fetching {
        let (collector, machine) = (self.collector.clone(), Arc::clone(&self.machine));
        Box::pin(async move { collector.fetch(machine, at).await })
    }
}

impl Clone for LogQueue {
    fn clone(&self) -> Self {
        Self::new(&self.collector, &self.machine, &self.queue)
    }
}

impl Drop for LogQueue {
    fn drop(&mut self) {
        self.queue.detach(Instant::now());
    }
}

impl fmt::Debug for LogQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogQueue").field("machine_id", &self.machine.id).finish_non_exhaustive()
    }
}

/// What a [`LogStream`] comes upon; see [`LogStream::next_event`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamEvent {
    /// A line.
    Entry(LogEntry),
    /// So many lines were dropped here: the queue was full, or its reader too far behind.
    Skipped(u64),
    /// Lines were lost here, and nobody knows how many: they left the spool, or were damaged, around a stop of the process.
    SkippedUnknown,
    /// So many lines were dropped here: the machine or its app was over its limit.
    Limited(u64),
}

/// As [`StreamEvent`], borrowed from the batch.
#[derive(Debug)]
pub(crate) enum Ready<'a> {
    Line(EntryView<'a>),
    Skipped(u64),
    SkippedUnknown,
    Limited(u64),
}

/// Reads a machine's queue to its end: an async iterator of owned entries, with time-outs.
///
/// The counterpart of the Python module's `LogStream`: `item_timeout` starts anew for each line, `total_timeout` runs from
/// the first read, the nearer of both counts, and a time-out ends the stream quietly. Reading on after the end yields
/// nothing, again and again. Several streams on one queue share its lines. Dropping a stream puts back what it had not
/// yielded, and the next reader gets that first.
///
/// ```
/// use std::time::Duration;
///
/// use fleetdrain::{LogCollector, LogStream};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let collector = LogCollector::default();
/// let queue = collector.subscribe("m1")?;
/// let mut stream = LogStream::new(queue.clone()).with_item_timeout(Duration::from_millis(20));
///
/// collector.push_line("m1", "hello")?;
/// assert_eq!(stream.next().await.expect("it is queued").message(), "hello");
/// // Nothing more comes: the time-out ends the stream, quietly, and for good.
/// assert!(stream.next().await.is_none() && stream.next().await.is_none());
/// assert!(stream.done() && stream.timed_out());
///
/// // The queue lives on, and another stream reads it to its end.
/// collector.push_line("m1", "once more")?;
/// collector.finish("m1");
/// let rest = LogStream::new(queue).collect().await;
/// assert_eq!(rest.len(), 1);
/// # Ok(()) }
/// ```
pub struct LogStream {
    queue: LogQueue,
    held: Held,
    /// Dropped lines that were come upon and are still to be told.
    skipped: u64,
    skipped_unknown: bool,
    /// The same, of those that were over a limit.
    limited: u64,
    item_timeout: Option<Duration>,
    total_timeout: Option<Duration>,
    /// When the total time-out is over; set by the first read.
    total: Option<Instant>,
    waiting: Option<Waiting>,
    /// As who rests it is known to the queue; see [`LogStream::rest`].
    resting: Wait,
    fetching: Option<Fetching>,
    /// Ends the stream with its machine's exit.
    exit: Option<Box<ExitWatch>>,
    lines_yielded: u64,
    lines_skipped: u64,
    state: Reading,
}

/// What comes next, on its way from the disk.
type Fetching = Pin<Box<dyn Future<Output = Fetched> + Send>>;

/// A wait under way, and the time-out that bounds it, however often it is woken for nothing.
struct Waiting {
    wait: Wait,
    at: Option<(Instant, Timeout)>,
    timeout: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    On,
    Ended(Ended),
    Exited(ExitStatus),
    TimedOut(Timeout),
}

/// Which time-out ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    Item,
    Total,
}

impl LogStream {
    /// Reads `queue` without time-outs.
    #[must_use]
    pub fn new(queue: LogQueue) -> Self {
        let held = Held::new(&queue.queue);
        Self {
            queue,
            held,
            skipped: 0,
            skipped_unknown: false,
            limited: 0,
            item_timeout: None,
            total_timeout: None,
            total: None,
            waiting: None,
            resting: Wait::default(),
            fetching: None,
            exit: None,
            lines_yielded: 0,
            lines_skipped: 0,
            state: Reading::On,
        }
    }

    /// Ends the stream when a line takes longer than this.
    #[must_use]
    pub fn with_item_timeout(mut self, timeout: Duration) -> Self {
        self.item_timeout = Some(timeout);
        self
    }

    /// Ends the stream this long after the first read.
    #[must_use]
    pub fn with_total_timeout(mut self, timeout: Duration) -> Self {
        self.total_timeout = Some(timeout);
        self
    }

    /// Ends the stream with the machine's exit, as Fly's `runner` tells it in the machine's log: behind the lines that came before it
    /// and those that come late.
    ///
    /// A late line is one that comes within `linger` of the exit or of the late line before it, and within 30 s of the exit; a longer
    /// linger counts as 30 s, and [`LINGER`](crate::exit::LINGER) is a good one. What comes later is of the machine's next life: it
    /// stays queued, and so does the queue, for the machine is not finished thereby.
    ///
    /// An exit counts that is told in the queue's time: one of before the queue was created does not (if it was created with its
    /// backlog, it does), nor one of before now if the machine has begun again since, nor one that has ended another stream before
    /// this call. A machine that Fly starts again by its restart policy has not exited.
    ///
    /// ```
    /// use fleetdrain::{LogCollector, LogStream, exit};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let collector = LogCollector::default();
    /// // Before the machine is started: nothing of it is missed, and no earlier life of it counts.
    /// let mut stream = LogStream::new(collector.subscribe("4d891d77b05118")?).until_exit(exit::LINGER);
    /// collector.push(
    ///     r#"{"event":{"provider":"app"},"fly":{"app":{"instance":"4d891d77b05118"}},"message":"out of ideas"}
    /// {"event":{"provider":"runner"},"fly":{"app":{"instance":"4d891d77b05118"}},"message":"machine exited with exit code 3, not restarting"}"#,
    /// )?;
    ///
    /// let lines = stream.collect().await;
    /// assert_eq!(lines.len(), 1, "a queue takes standard output unless asked otherwise");
    /// assert_eq!(stream.exit_status().and_then(|status| status.code()), Some(3));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn until_exit(mut self, linger: Duration) -> Self {
        let LogQueue { collector, machine, .. } = &self.queue;
        self.exit = Some(Box::new(collector.watch_exit_of_queue(machine, linger)));
        self
    }

    /// How the machine exited, once that has ended the stream; see [`LogStream::until_exit`]. `None` before, and where something
    /// else has ended it.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        match self.state {
            Reading::Exited(status) => Some(status),
            Reading::On | Reading::Ended(_) | Reading::TimedOut(_) => None,
        }
    }

    /// The machine that is read.
    #[must_use]
    pub fn machine_id(&self) -> &str {
        self.queue.machine_id()
    }

    /// What its queue does when it is full.
    #[cfg(feature = "server")]
    pub(crate) fn full(&self) -> crate::config::Full {
        self.queue.queue.terms.full
    }

    /// Whether the stream is over, by its end or a time-out.
    #[must_use]
    pub fn done(&self) -> bool {
        self.state != Reading::On
    }

    /// Whether a time-out ended it.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        matches!(self.state, Reading::TimedOut(_))
    }

    /// Lines yielded so far.
    #[must_use]
    pub fn lines_yielded(&self) -> u64 {
        self.lines_yielded
    }

    /// Lines dropped from the queue before this stream came to them, those over a limit too.
    #[must_use]
    pub fn lines_skipped(&self) -> u64 {
        self.lines_skipped
    }

    /// Whether it rests, for its queue.
    #[cfg(test)]
    pub(crate) fn rests(&self) -> bool {
        self.resting.is_some()
    }

    /// Lines that its queue has not delivered.
    #[cfg(test)]
    pub(crate) fn queue_lines(&self) -> u64 {
        self.queue.lines()
    }

    /// Which end or time-out is behind [`LogStream::done`].
    pub(crate) fn outcome(&self) -> Option<Result<Ended, Timeout>> {
        match self.state {
            Reading::On | Reading::Exited(_) => None,
            Reading::Ended(ended) => Some(Ok(ended)),
            Reading::TimedOut(timeout) => Some(Err(timeout)),
        }
    }

    /// The next line, or `None` at the end or a time-out, again and again.
    ///
    /// Cancel safe: a line is yielded by the call that returns it, or stays queued.
    pub async fn next(&mut self) -> Option<LogEntry> {
        loop {
            match self.next_event().await? {
                StreamEvent::Entry(entry) => return Some(entry),
                StreamEvent::Skipped(_) | StreamEvent::SkippedUnknown | StreamEvent::Limited(_) => {}
            }
        }
    }

    /// As [`LogStream::next`], and says where lines were dropped. Cancel safe.
    pub async fn next_event(&mut self) -> Option<StreamEvent> {
        let reader = CancelSafe(self);
        poll_fn(|cx| reader.0.poll_event(cx)).await
    }

    /// The next lines as they lie in their batch: zero-copy, and within the byte budget for as long as they are held.
    ///
    /// All of them are delivered with this call. `None` at the end or a time-out. Cancel safe.
    pub async fn next_batch(&mut self) -> Option<EntryBatch> {
        let reader = CancelSafe(self);
        poll_fn(|cx| reader.0.poll_batch(cx)).await
    }

    /// Reads the rest, until the end or a time-out.
    pub async fn collect(&mut self) -> Vec<LogEntry> {
        let mut entries = Vec::new();
        while let Some(entry) = self.next().await {
            entries.push(entry);
        }
        entries
    }

    /// A stream of the messages alone.
    pub fn messages(self) -> impl Stream<Item = String> + Unpin {
        Messages(self)
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamEvent>> {
        loop {
            if let Some(event) = self.ready_event() {
                return Poll::Ready(Some(event));
            }
            if !ready!(self.poll_more(cx)) {
                return Poll::Ready(None);
            }
            // The caller may sleep between two lines: nobody else's bytes may wait for it.
            if self.held.lines() > 1 {
                self.held.keep_copies();
            }
        }
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<EntryBatch>> {
        loop {
            (self.skipped, self.skipped_unknown, self.limited) = (0, false, 0);
            if !self.total_is_over()
                && let Some(item) = self.held.take()
            {
                self.queue.queue.deliver(item.lines, item.bytes);
                return Poll::Ready(Some(self.batch_of(item)));
            }
            if self.is_over() {
                return Poll::Ready(None);
            }
            // What may lie behind an exit is looked at before it counts as delivered.
            let handing = if self.exit.is_some() { Handing::Hold } else { Handing::Deliver };
            match ready!(self.poll_take(cx, handing)) {
                Some(Taken::Item(item)) if handing == Handing::Deliver => {
                    return Poll::Ready(Some(self.batch_of(item)));
                }
                taken => {
                    if !taken.is_some_and(|taken| self.keep(taken)) {
                        return Poll::Ready(None);
                    }
                }
            }
        }
    }

    /// What was read already and is still to be yielded.
    pub(crate) fn ready_event(&mut self) -> Option<StreamEvent> {
        if self.done() || self.total_is_over() {
            return None;
        }
        if self.skipped > 0 {
            return Some(StreamEvent::Skipped(std::mem::take(&mut self.skipped)));
        }
        if std::mem::take(&mut self.skipped_unknown) {
            return Some(StreamEvent::SkippedUnknown);
        }
        if self.limited > 0 {
            return Some(StreamEvent::Limited(std::mem::take(&mut self.limited)));
        }
        let entry = self.held.next_entry()?;
        self.lines_yielded += 1;
        Some(StreamEvent::Entry(entry))
    }

    /// As [`LogStream::ready_event`], borrowed: the line is delivered with the next call of [`LogStream::deliver`].
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only readers over HTTP write lines as they lie"))]
    pub(crate) fn next_ready(&mut self) -> Option<Ready<'_>> {
        if self.done() || self.total_is_over() {
            return None;
        }
        if self.skipped > 0 {
            return Some(Ready::Skipped(std::mem::take(&mut self.skipped)));
        }
        if std::mem::take(&mut self.skipped_unknown) {
            return Some(Ready::SkippedUnknown);
        }
        if self.limited > 0 {
            return Some(Ready::Limited(std::mem::take(&mut self.limited)));
        }
        let view = self.held.show()?;
        self.lines_yielded += 1;
        Some(Ready::Line(view))
    }

    /// What was shown is delivered.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only readers over HTTP write lines as they lie"))]
    pub(crate) fn deliver(&mut self) {
        self.held.deliver();
    }

    /// Waits for more to yield; `false` at the end or a time-out. Cancel safe.
    pub(crate) async fn more(&mut self) -> bool {
        self.held.shrink();
        let reader = CancelSafe(self);
        poll_fn(|cx| reader.0.poll_more(cx)).await
    }

    /// Its caller has what there was and asks again within moments, or calls [`LogStream::let_go`]. Until then what comes is not
    /// copied for it, while there is memory in plenty.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only readers over HTTP go at a pace"))]
    pub(crate) fn rest(&mut self) {
        self.queue.queue.rest(&mut self.resting);
    }

    /// Gives back what it holds, and lets go of other machines' bytes: its caller waits for something else.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only readers over HTTP wait for another"))]
    pub(crate) fn let_go(&mut self) {
        self.queue.queue.leave(&mut self.resting);
        self.held.give_back();
    }

    /// Whether there is more to yield; `false` at the end or a time-out.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.is_over() {
            return Poll::Ready(false);
        }
        let taken = ready!(self.poll_take(cx, Handing::Hold));
        Poll::Ready(taken.is_some_and(|taken| self.keep(taken)))
    }

    /// Whether the stream is done, or is now because its time is up.
    fn is_over(&mut self) -> bool {
        if !self.done() && self.total_is_over() {
            // A stream that is done may live on; the lines that it will not yield are for the next reader.
            self.stop_waiting();
            self.let_go();
            self.state = Reading::TimedOut(Timeout::Total);
        }
        self.done()
    }

    /// Keeps what was taken until it is yielded; `false` at the end.
    fn keep(&mut self, taken: Taken) -> bool {
        match taken {
            Taken::Item(item) => {
                if let Some(end) = self.exit_end().filter(|end| item.batch.seq >= end.batch) {
                    // It is the next life's, and whoever reads that gets it.
                    self.queue.queue.give_back(std::iter::once(item));
                    self.exited(end);
                    return false;
                }
                self.held.push(item);
            }
            Taken::Skipped(lines) => {
                self.skipped += lines;
                self.lines_skipped += lines;
            }
            Taken::SkippedUnknown => self.skipped_unknown = true,
            Taken::Limited(lines) => {
                self.limited += lines;
                self.lines_skipped += lines;
            }
            Taken::Ended(ended) => {
                // Whoever finishes a machine because it has exited need not wait for the last line.
                let status = self.exit.as_ref().filter(|_| ended == Ended::Finished).and_then(|exit| exit.status());
                self.state = status.map_or(Reading::Ended(ended), Reading::Exited);
                return false;
            }
            Taken::OnDisk(at) => self.fetching = Some(self.queue.fetch(*at)),
            Taken::Behind | Taken::Empty => {}
        }
        true
    }

    /// Where the machine's exit ends the stream.
    fn exit_end(&self) -> Option<End> {
        self.exit.as_ref()?.end()
    }

    fn exited(&mut self, end: End) {
        // Told once: the next reader of the queue waits for the next.
        self.queue.machine.with_exits(|exits| exits.told_to_queue(end.exit));
        self.state = Reading::Exited(end.status);
    }

    /// Takes what comes next, or waits for it; `None` when a time-out or the machine's exit came first.
    fn poll_take(&mut self, cx: &mut Context<'_>, handing: Handing) -> Poll<Option<Taken>> {
        let taken = ready!(self.poll_wait(cx, handing));
        self.stop_waiting();
        Poll::Ready(taken)
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>, handing: Handing) -> Poll<Option<Taken>> {
        let nearer = if self.waiting.is_none() { self.nearer_timeout() } else { None };
        let resting = &mut self.resting;
        let waiting =
            self.waiting.get_or_insert_with(|| Waiting { wait: std::mem::take(resting), at: nearer, timeout: None });
        loop {
            // Asked first: what is taken then came before the end, and what is not was not there.
            let end = self.exit.as_ref().and_then(|exit| exit.end());
            let claimed = match &mut self.fetching {
                Some(fetching) => {
                    let Poll::Ready(fetched) = fetching.as_mut().poll(cx) else { break };
                    self.fetching = None;
                    self.queue.collector.claim_fetched(&self.queue.machine, &self.queue.queue, fetched)
                }
                None => match self.queue.queue.poll_take(&mut waiting.wait, cx, handing) {
                    Poll::Pending => {
                        if let Some(end) = end {
                            self.exited(end);
                            return Poll::Ready(None);
                        }
                        // Over just now: what came before is taken first.
                        if !self.exit.as_mut().is_some_and(|exit| exit.poll_over(cx).is_ready()) {
                            break;
                        }
                        None
                    }
                    Poll::Ready(Taken::Behind) => self.queue.claim(),
                    Poll::Ready(taken) => return Poll::Ready(Some(taken)),
                },
            };
            match claimed {
                None => {}
                Some(Taken::OnDisk(at)) => self.fetching = Some(self.queue.fetch(*at)),
                Some(taken) => {
                    if let (Taken::Item(item), Handing::Deliver) = (&taken, handing) {
                        self.queue.queue.deliver(item.lines, item.bytes);
                    }
                    return Poll::Ready(Some(taken));
                }
            }
        }
        let Some((at, which)) = waiting.at else { return Poll::Pending };
        // Only who really waits pays for a timer.
        ready!(waiting.timeout.get_or_insert_with(|| Box::pin(sleep_until(at))).as_mut().poll(cx));
        self.state = Reading::TimedOut(which);
        Poll::Ready(None)
    }

    /// No longer counts as waiting.
    fn stop_waiting(&mut self) {
        if let Some(mut waiting) = self.waiting.take() {
            self.queue.queue.leave(&mut waiting.wait);
        }
    }

    fn nearer_timeout(&self) -> Option<(Instant, Timeout)> {
        let item = self.item_timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        match (item, self.total) {
            (Some(item), Some(total)) if item < total => Some((item, Timeout::Item)),
            (_, Some(total)) => Some((total, Timeout::Total)),
            (Some(item), None) => Some((item, Timeout::Item)),
            (None, None) => None,
        }
    }

    fn total_is_over(&mut self) -> bool {
        let Some(timeout) = self.total_timeout else { return false };
        let now = Instant::now();
        if self.total.is_none() {
            self.total = now.checked_add(timeout);
        }
        self.total.is_some_and(|total| now >= total)
    }

    fn batch_of(&mut self, item: Item) -> EntryBatch {
        let item = item.without_room();
        self.lines_yielded += item.lines;
        EntryBatch { streams: self.queue.queue.terms.streams, item }
    }

    /// Whether something can be yielded without waiting: `follow=false` ends where this is `false`. Of what is there no more than
    /// about `most` lines are taken.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only readers over HTTP look without waiting"))]
    pub(crate) fn has_more(&mut self, most: u64) -> bool {
        if self.skipped > 0 || self.skipped_unknown || self.limited > 0 || !self.held.is_empty() {
            return true;
        }
        if self.is_on_disk() {
            return true;
        }
        // Before the next is taken: what a reader holds tells how far it has come.
        self.held.deliver();
        let end = self.exit_end();
        match self.queue.take() {
            Taken::Empty | Taken::Behind => {
                end.into_iter().for_each(|end| self.exited(end));
                false
            }
            taken => {
                let has_more = self.keep(taken);
                // Where an exit may end it each is looked at by itself.
                if self.exit.is_none() {
                    self.held.take_more(most);
                }
                has_more
            }
        }
    }

    /// Whether what comes next has to be waited for, from the disk.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.fetching.is_some()
    }
}

impl Stream for LogStream {
    type Item = LogEntry;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<LogEntry>> {
        loop {
            match ready!(self.poll_event(cx)) {
                Some(StreamEvent::Entry(entry)) => return Poll::Ready(Some(entry)),
                Some(StreamEvent::Skipped(_) | StreamEvent::SkippedUnknown | StreamEvent::Limited(_)) => {}
                None => return Poll::Ready(None),
            }
        }
    }
}

impl fmt::Debug for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStream")
            .field("machine_id", &self.machine_id())
            .field("state", &self.state)
            .field("lines_yielded", &self.lines_yielded)
            .finish_non_exhaustive()
    }
}

/// A read that is cancelled no longer counts as waiting, so that nothing is handed to a reader who is not there.
struct CancelSafe<'a>(&'a mut LogStream);

impl Drop for CancelSafe<'_> {
    fn drop(&mut self) {
        self.0.stop_waiting();
    }
}

impl Drop for LogStream {
    fn drop(&mut self) {
        self.stop_waiting();
        self.queue.queue.leave(&mut self.resting);
    }
}

struct Messages(LogStream);

impl Stream for Messages {
    type Item = String;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<String>> {
        let entry = ready!(Pin::new(&mut self.0).poll_next(cx));
        Poll::Ready(entry.map(|entry| entry.message().to_owned()))
    }
}

/// Lines of one machine as they lie in their batch: zero-copy, and within the byte budget for as long as this is held.
pub struct EntryBatch {
    item: Item,
    streams: Streams,
}

impl EntryBatch {
    /// How many lines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.item.lines as usize
    }

    /// Whether there are none, which does not happen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.item.lines == 0
    }

    /// The lines, in order.
    pub fn entries(&self) -> impl Iterator<Item = EntryView<'_>> {
        let batch = &*self.item.batch;
        let rows = self.item.rows.clone().map(|index| batch.row(index));
        rows.filter(|row| self.streams.wants_row(row)).map(|row| batch.view_of(row))
    }
}

impl fmt::Debug for EntryBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryBatch").field("lines", &self.item.lines).finish_non_exhaustive()
    }
}

/// A queue that was not read to its end in time.
#[derive(Debug, thiserror::Error)]
#[error("the queue did not end within {timeout:?}; {} lines were read", entries.len())]
#[non_exhaustive]
pub struct DrainTimeout {
    /// What was read until then.
    pub entries: Vec<LogEntry>,
    /// The bound.
    pub timeout: Duration,
}

/// Reads a queue to its end.
///
/// The counterpart of the Python module's `drain_queue`, whose time-out lost what was read.
///
/// # Errors
///
/// [`DrainTimeout`] when `timeout` is over first; it carries what was read.
pub async fn drain_queue(queue: &LogQueue, timeout: Option<Duration>) -> Result<Vec<LogEntry>, DrainTimeout> {
    let mut stream = LogStream::new(queue.clone());
    stream.total_timeout = timeout;
    let entries = stream.collect().await;
    match timeout.filter(|_| stream.timed_out()) {
        Some(timeout) => Err(DrainTimeout { entries, timeout }),
        None => Ok(entries),
    }
}

/// A queue as a stream of its lines, until the end.
///
/// The counterpart of the Python module's `async_iter_queue`.
#[must_use]
pub fn async_iter_queue(queue: &LogQueue) -> LogStream {
    LogStream::new(queue.clone())
}

#[cfg(test)]
mod tests;
