//! Who waits for a machine's exit, and where its log ends for them.
//!
//! Lock order: the machine's state, then a watch's own. The publisher notes each batch of a machine that has exited or is watched,
//! with the machine's lock held, which it has anyway; any other machine costs it the look at one pointer.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Exit, ExitStatus, LINGER_MAX, LOOKED_BACK_MAX, Mark, patterns::InitWord};
use crate::{
    batch::{Batch, Group},
    collector::Machine,
    queue::Wakes,
};

/// Of one machine: its last exit, and who waits for one.
#[derive(Debug, Default)]
pub(crate) struct Exits {
    last: Option<Mark>,
    /// The number of the first batch whose exit is told to readers of the queue: each ends those who read then, or the next who does.
    queue_from: u64,
    watches: Vec<Arc<Watched>>,
}

impl Exits {
    /// The machine has lines in a batch that is published, and maybe tells an exit there.
    pub(crate) fn note(&mut self, exit: Option<Exit>, batch: &Batch, group: &Group, wakes: &mut Wakes) {
        let status = exit.map(|exit| exit.status);
        match (&mut self.last, exit) {
            (last, Some(Exit { status, begins, .. })) => {
                *last = Some(Mark { begins, ..Mark::new(status, batch.seq, batch.received) });
            }
            (Some(last), None) => last.note(batch.received),
            (None, None) => {}
        }
        let late_code = self.last.as_mut().filter(|_| exit.is_none()).and_then(|last| late_code(last, batch, group));
        self.watches.iter().for_each(|watched| watched.note(status, late_code, batch, wakes));
    }

    /// Notes an exit that was told before this process knew the machine.
    #[cfg(all(feature = "server", feature = "spool"))]
    pub(crate) fn recall(&mut self, mark: Mark) {
        self.last.get_or_insert(mark);
    }

    /// Whether there is nothing in it.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.last.is_none() && self.watches.is_empty()
    }

    /// An exit of before that batch is of no concern to the queue any more.
    pub(crate) fn queue_from(&mut self, batch: u64) {
        self.queue_from = batch;
    }

    /// The exit in that batch was told to a reader of the queue.
    pub(crate) fn told_to_queue(&mut self, batch: u64) {
        self.queue_from = self.queue_from.max(batch + 1);
    }

    pub(crate) fn watch_for_queue(&mut self, machine: &Arc<Machine>, linger: Duration) -> ExitWatch {
        self.watch(machine, linger, self.queue_from)
    }

    pub(crate) fn watch(&mut self, machine: &Arc<Machine>, linger: Duration, from: u64) -> ExitWatch {
        let linger = linger.min(LINGER_MAX);
        let mark = self.last.filter(|mark| mark.batch >= from && mark.stands(linger));
        let state = Told { mark, ..Told::default() };
        let watched = Watched { linger, is_told: AtomicBool::new(mark.is_some()), state: Mutex::new(state) };
        let watched = Arc::new(watched);
        self.watches.push(Arc::clone(&watched));
        ExitWatch { machine: Arc::clone(machine), watched, timer: None }
    }

    fn leave(&mut self, watched: &Arc<Watched>) {
        self.watches.retain(|other| !Arc::ptr_eq(other, watched));
    }
}

/// The code of an exit without one, if init tells it in a late line: its word may come late like any other.
fn late_code(last: &mut Mark, batch: &Batch, group: &Group) -> Option<i32> {
    if last.begins || last.status.code().is_some() || !last.stands(LINGER_MAX) {
        return None;
    }
    let word = super::word_in(batch, group.rows.clone(), &mut LOOKED_BACK_MAX.clone())?;
    last.begins = word == InitWord::Starting;
    last.status = ExitStatus::new(word.code());
    word.code()
}

/// What one reader waits for.
#[derive(Debug)]
struct Watched {
    linger: Duration,
    /// Whether an exit is told: spares who asks often the locks.
    is_told: AtomicBool,
    state: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// The exit that counts for this reader: the first since it waits.
    mark: Option<Mark>,
    /// The first batch behind the end, once that stands.
    end: Option<u64>,
    waker: Option<Waker>,
}

impl Watched {
    fn note(&self, exit: Option<ExitStatus>, late_code: Option<i32>, batch: &Batch, wakes: &mut Wakes) {
        // Of many readers of a machine that runs none costs its batches a lock. Told only by who has the machine's.
        if exit.is_none() && !self.is_told.load(Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        let state = &mut *state;
        match &mut state.mark {
            None => {
                state.mark = exit.map(|status| Mark::new(status, batch.seq, batch.received));
                if exit.is_some() {
                    self.is_told.store(true, Relaxed);
                    state.waker.take().into_iter().for_each(|waker| wakes.push(waker));
                }
            }
            Some(_) if state.end.is_some() => {}
            Some(mark) if batch.received > mark.deadline(self.linger) => state.end = Some(batch.seq),
            Some(mark) => {
                mark.note(batch.received);
                let code = mark.status.code().or(late_code);
                mark.status = ExitStatus::new(code);
            }
        }
    }
}

/// The end of a reader's log by its machine's exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) status: ExitStatus,
    /// The number of the batch with the exit's record.
    pub(crate) exit: u64,
    /// The number of the first batch that is behind the end.
    pub(crate) batch: u64,
}

/// Waits for a machine's exit, for as long as it lives.
pub(crate) struct ExitWatch {
    machine: Arc<Machine>,
    watched: Arc<Watched>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl ExitWatch {
    /// Where the log ends; `None` as long as lines may come that belong to it.
    pub(crate) fn end(&self) -> Option<End> {
        if !self.watched.is_told.load(Relaxed) {
            return None;
        }
        // Decided under the lock that lines come in by: one that comes in time is before the end.
        self.machine.with_place(|trail| {
            let mut state = self.watched.state.lock();
            let mark = state.mark?;
            if state.end.is_none() && Instant::now() >= mark.deadline(self.watched.linger) {
                state.end = Some(trail.end);
            }
            Some(End { status: mark.status, exit: mark.batch, batch: state.end? })
        })
    }

    /// The exit, as soon as it is told: lines may still come.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.watched.state.lock().mark.map(|mark| mark.status)
    }

    /// Until there is an [`ExitWatch::end`].
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let at = {
                // Wakers are cloned and dropped with the lock not held; see [`Wakes`].
                let own = cx.waker().clone();
                let mut state = self.watched.state.lock();
                if state.end.is_some() {
                    return Poll::Ready(());
                }
                let Some(mark) = state.mark else {
                    let replaced = state.waker.replace(own);
                    drop(state);
                    drop(replaced);
                    return Poll::Pending;
                };
                mark.deadline(self.watched.linger)
            };
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            // Late lines only put it off: who is woken looks again.
            ready!(timer.as_mut().poll(cx));
        }
    }

    /// As [`ExitWatch::poll_over`]. Cancel safe.
    pub(crate) async fn over(&mut self) {
        poll_fn(|cx| self.poll_over(cx)).await;
    }
}

impl Drop for ExitWatch {
    fn drop(&mut self) {
        self.machine.with_exits(|exits| exits.leave(&self.watched));
    }
}

impl fmt::Debug for ExitWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExitWatch").field("status", &self.status()).finish_non_exhaustive()
    }
}
