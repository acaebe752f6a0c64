//! The spool's threads, and the bounded queue before the writer.
//!
//! The writer takes all that waits, writes and syncs it, and takes all that has come meanwhile: a lone sender never waits for
//! company, and a hundred share one sync. The teller tells each its fate, in the log's order. The keeper stores tables and removes what is old, each second.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, mpsc},
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::{
    AppendError, Appended, NewRecord, Observer, ReserveError,
    format::{checksum, encode_meta, machine_hash},
    log::{Log, nanoseconds},
    write::{Committed, Completion, Handed, tell},
};

/// How often the keeper looks.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Threads {
    queue: Arc<Queue>,
    joins: Mutex<Vec<JoinHandle<()>>>,
}

/// What waits for the writer.
#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    shutting: Condvar,
    bytes_max: u64,
    observer: Option<Arc<dyn Observer>>,
}

#[derive(Default)]
struct State {
    records: VecDeque<Handed>,
    /// Reserved, waiting or being written.
    bytes: u64,
    is_shut: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("records", &self.records.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Threads {
    pub(super) fn start(log: &Arc<Log>) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            arrived: Condvar::new(),
            shutting: Condvar::new(),
            bytes_max: log.bounds.waiting_bytes_max,
            observer: log.observer.clone(),
        });
        // Made first, so that the one thread ends if the other cannot be started.
        let threads = Self { queue: Arc::clone(&queue), joins: Mutex::default() };
        let (writer, writers_log) = (Arc::clone(&queue), Arc::clone(log));
        let (committed, told) = mpsc::channel();
        threads.spawn("spool-writer", move || writer.write(&writers_log, &committed))?;
        let teller = Arc::clone(&queue);
        threads.spawn("spool-teller", move || teller.tell(&told))?;
        let log = Arc::clone(log);
        threads.spawn("spool-keeper", move || queue.keep(&log))?;
        Ok(threads)
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let join = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        self.joins.lock().push(join);
        Ok(())
    }

    pub(super) fn reserve(&self, log: &Log, bytes: u64) -> Result<Slot, ReserveError> {
        let mut state = self.queue.state.lock();
        if state.is_shut {
            return Err(ReserveError::Shut);
        }
        if state.bytes > 0 && state.bytes + bytes > self.queue.bytes_max {
            return Err(ReserveError::Busy);
        }
        // Under the lock, so that two do not take the same room.
        if log.is_full_for(state.bytes + bytes) {
            return Err(ReserveError::Full);
        }
        state.bytes += bytes;
        Ok(Slot { queue: Arc::clone(&self.queue), bytes })
    }

    /// Ends the threads when everything handed over is written.
    pub(super) fn shut(&self) {
        self.queue.shut();
        let joins = std::mem::take(&mut *self.joins.lock());
        for join in joins {
            // A thread that panicked has said so; its records' fate was told as unknown.
            let _ = join.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Not joined: the last handle may be dropped on one of the threads, or where waiting is not allowed.
        self.queue.shut();
    }
}

/// If a thread should panic, nobody waits for it.
struct Shut<'a>(&'a Queue);

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        self.0.shut();
        // Told outside the lock.
        let left = std::mem::take(&mut self.0.state.lock().records);
        drop(left);
    }
}

impl Queue {
    fn shut(&self) {
        self.state.lock().is_shut = true;
        self.arrived.notify_all();
        self.shutting.notify_all();
    }

    /// The teller's thread: what a record's owner does when it is durable takes no time from the next one's write.
    fn tell(&self, told: &mpsc::Receiver<Committed>) {
        let _shut = Shut(self);
        told.iter().for_each(tell);
    }

    /// The writer's thread.
    fn write(&self, log: &Log, committed: &mpsc::Sender<Committed>) {
        let _shut = Shut(self);
        loop {
            let records = {
                let mut state = self.state.lock();
                while state.records.is_empty() && !state.is_shut {
                    self.arrived.wait(&mut state);
                }
                std::mem::take(&mut state.records)
            };
            if records.is_empty() {
                break;
            }
            // Where there is no teller any more, what is dropped here says so.
            log.commit(records, |group| drop(committed.send(group)));
        }
        log.seal_active();
    }

    /// The keeper's thread.
    fn keep(&self, log: &Log) {
        let mut state = self.state.lock();
        while !state.is_shut {
            self.shutting.wait_for(&mut state, TICK);
            drop(state);
            log.tidy(Timestamp::now());
            if let Some(observer) = &self.observer {
                observer.room();
            }
            state = self.state.lock();
        }
        drop(state);
        if let Err(error) = log.store_tables() {
            tracing::error!(%error, "the spool's tables could not be stored");
        }
    }

    fn submit(&self, handed: Handed) {
        let mut state = self.state.lock();
        if state.is_shut {
            drop(state);
            return handed.done.refuse(io::Error::other("the spool is shut"));
        }
        state.records.push_back(handed);
        drop(state);
        self.arrived.notify_one();
    }

    fn give_back(&self, bytes: u64) {
        self.state.lock().bytes -= bytes;
        if let Some(observer) = &self.observer {
            observer.room();
        }
    }
}

/// A place for one record; see [`super::Spool::reserve`].
#[derive(Debug)]
pub struct Slot {
    queue: Arc<Queue>,
    bytes: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.queue.give_back(self.bytes);
    }
}

impl Slot {
    /// Hands the record to the writer. What comes back is resolved when its fate is known; dropping it changes nothing.
    ///
    /// Tasks that wait for several records wake in any order: who needs the log's order takes [`Slot::append_then`].
    #[must_use]
    pub fn append(self, record: &NewRecord<'_>) -> Pending {
        let (sender, receiver) = oneshot::channel();
        self.append_then(record, move |result| {
            // Nobody may be waiting any more.
            let _ = sender.send(result);
        });
        Pending(receiver)
    }

    /// Hands the record to the writer; one thread calls `then` when its fate is known: one record after the other, in the log's
    /// order.
    pub fn append_then(
        self,
        record: &NewRecord<'_>,
        then: impl FnOnce(Result<Appended, AppendError>) + Send + 'static,
    ) {
        self.encode(record).append_then(then);
    }

    /// Works out all that does not depend on the record's numbers; it is not needed any more then.
    pub fn encode(self, record: &NewRecord<'_>) -> Encoded {
        Encoded { slot: self, handed: hand(record) }
    }
}

/// A record to be appended.
#[must_use]
pub struct Encoded {
    slot: Slot,
    /// `None` if it is too large.
    handed: Option<Handed>,
}

impl Encoded {
    /// See [`Slot::append_then`].
    pub fn append_then(self, then: impl FnOnce(Result<Appended, AppendError>) + Send + 'static) {
        let Self { slot, handed } = self;
        let queue = Arc::clone(&slot.queue);
        let done = Completion::new(move |result| {
            // First, so that whoever is told finds the room.
            drop(slot);
            then(result);
        });
        match handed {
            Some(handed) => queue.submit(Handed { done, ..handed }),
            None => done.refuse(io::Error::new(io::ErrorKind::InvalidInput, "over 4 GiB, or a name over 64 KiB")),
        }
    }
}

impl std::fmt::Debug for Encoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoded").field("slot", &self.slot).finish_non_exhaustive()
    }
}

/// Everything of a record that does not depend on its numbers, worked out on the sender's time; `None` if it is too large.
pub(super) fn hand(record: &NewRecord<'_>) -> Option<Handed> {
    let meta = encode_meta(record.key, record.machines)?;
    u32::try_from(meta.len() + record.body.len()).ok()?;
    Some(Handed {
        payload_crc: checksum(&[&meta, &record.body]),
        key_bytes: record.key.len() as u32,
        meta,
        body: record.body.clone(),
        lines: record.lines,
        machines: record.machines.iter().map(|(id, lines)| (machine_hash(id), *lines)).collect(),
        received_at: nanoseconds(record.received_at),
        done: Completion::default(),
    })
}

/// A record whose fate is not known yet. Cancel safe: dropping it changes nothing about the record.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<Appended, AppendError>>);

impl Pending {
    /// Waits on this thread, which must not be one of a runtime's.
    ///
    /// # Errors
    ///
    /// See [`AppendError`].
    pub fn wait(self) -> Result<Appended, AppendError> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(gone()))
    }
}

impl Future for Pending {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|told| told.unwrap_or_else(|_| Err(gone())))
    }
}

/// What is told of a record whose writer went away.
pub(super) fn gone() -> AppendError {
    AppendError::unknown(io::Error::other("the spool's writer is gone"))
}
