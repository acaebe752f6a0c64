//! The connection, and the loop that takes messages from it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::Message;
use bytes::Bytes;
use jiff::Timestamp;
use memchr::{memchr, memchr_iter, memrchr};
use parking_lot::Mutex;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    FlyCounters,
    canary::{self, Canary},
    gather::{self, OwnApp},
    inbox::{Inbox, Link},
};
use crate::{
    admission::{Admission, Cause, Draft, ERRORS_MAX, Refused},
    budget::{Budget, Permit},
    collector::LogCollector,
    config::{Config, Fly},
    journal::Loss,
    record::{Limits, Parser, RejectedSample},
};

/// What is told to keep rejected records for who asks for them.
pub(crate) type Keep = Box<dyn Fn(Vec<RejectedSample>, Timestamp) + Send + Sync>;

/// Where the loss journal says that something was lost.
const PLACE: &str = "source:fly";
/// How often connection and losses are looked at.
const WATCH: Duration = Duration::from_millis(100);
/// How far a gap reaches back before it was seen, at most: so long a dead connection may look alive.
const UNSEEN: Duration = Duration::from_secs(30);
/// How long to wait for room between tries, at most.
const RETRY: Duration = Duration::from_millis(50);
/// How long to wait before a body is offered again of which it is not known whether the spool has it, as senders are told to.
const REPEAT: Duration = Duration::from_secs(1);
/// How long the server may take at the end to say that it sends no more; less where all is to end sooner.
const ANSWER: Duration = Duration::from_secs(1);
/// What a waiting message is charged as: a record of Fly's with its subject and its share of the client's buffer.
const PENDING_BYTES: usize = 1 << 10;

/// Fly's NATS as a source.
pub(crate) struct FlySource {
    config: Fly,
    collector: LogCollector,
    counters: Arc<FlyCounters>,
    token: Arc<Mutex<String>>,
    keep: Keep,
    own_app: Option<OwnApp>,
    canary: Option<Canary>,
    pending: Pending,
    answer: Duration,
    limits: Limits,
    parser: Parser,
    body: Vec<u8>,
    lines: u64,
    watched: Watched,
}

/// What may wait within the client.
struct Pending {
    /// Messages of each subject.
    each: usize,
    _permit: Option<Permit>,
}

/// What was seen of the connection at the last look.
#[derive(Debug)]
struct Watched {
    connects: u64,
    /// Since when it is not connected.
    gap_from: Option<Timestamp>,
    came: u64,
    heard: Timestamp,
}

impl FlySource {
    pub(crate) fn new(
        config: &Config,
        collector: LogCollector,
        counters: Arc<FlyCounters>,
        token: Arc<Mutex<String>>,
        keep: Keep,
    ) -> Self {
        let fly = config.fly.clone();
        let canary = fly.canary.then(|| Canary::new(Arc::clone(&counters)));
        let canary = canary.and_then(|canary| {
            canary.inspect_err(|error| tracing::error!(%error, "no canary: its thread cannot be started")).ok()
        });
        counters.started(canary.is_some());
        Self {
            own_app: fly.own_app.as_deref().map(OwnApp::new),
            canary,
            pending: Pending::reserve(&fly, collector.budget()),
            answer: ANSWER.min(config.shutdown.deadline / 4),
            limits: Limits { line_bytes_max: config.ingest.line_bytes_max, errors_max: ERRORS_MAX },
            parser: Parser::new(fly.boot_lines),
            body: Vec::new(),
            lines: 0,
            watched: Watched { connects: 0, gap_from: Some(Timestamp::now()), came: 0, heard: Timestamp::now() },
            config: fly,
            collector,
            counters,
            token,
            keep,
        }
    }

    /// Takes messages until `shutdown`, then what has come by then.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let Some(mut inbox) = self.connect().await else { return };
        let mut watch = ticks(WATCH);
        let mut canaries = ticks(canary::EVERY);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = watch.tick() => self.watch(&mut inbox),
                _ = canaries.tick(), if self.canary.is_some() => self.send_canary(&inbox),
                first = inbox.next() => match first {
                    Some(first) => self.take(first, &mut inbox).await,
                    None => break,
                },
            }
        }
        self.end(&mut inbox).await;
    }

    async fn connect(&self) -> Option<Inbox> {
        Inbox::connect(&self.config, Arc::clone(&self.token), &self.counters, self.pending.each).await
    }

    fn send_canary(&mut self, inbox: &Inbox) {
        // What cannot come back would be missed.
        if let Some(canary) = self.canary.as_mut().filter(|_| inbox.is_connected()) {
            canary.send();
        }
    }

    /// Gathers what follows `first` for a few milliseconds, and has the drain take it.
    async fn take(&mut self, first: Message, inbox: &mut Inbox) {
        self.add(&first);
        let until = Instant::now() + self.config.batch_age;
        while !self.is_full() {
            match timeout_at(until, inbox.next()).await {
                Ok(Some(message)) => self.add(&message),
                Ok(None) | Err(_) => break,
            }
        }
        self.hand_on(inbox).await;
    }

    fn is_full(&self) -> bool {
        self.lines >= self.config.batch_lines as u64 || self.body.len() >= self.config.batch_bytes
    }

    fn add(&mut self, message: &Message) {
        self.counters.taken.fetch_add(1, Relaxed);
        self.counters.bytes.fetch_add(message.payload.len() as u64, Relaxed);
        let lag = self.canary.as_ref().and_then(|canary| canary.lag(&message.payload));
        if let Some(lag) = lag {
            self.counters.canary_back(lag);
        }
        if lag.is_some() || self.own_app.as_ref().is_some_and(|own| own.sent(&message.subject, &message.payload)) {
            self.counters.own_app.fetch_add(1, Relaxed);
            return;
        }
        if self.body.capacity() == 0 {
            self.body.reserve(self.config.batch_bytes.min(64 << 10));
        }
        gather::append(&message.payload, &mut self.body);
        self.lines += 1;
    }

    /// Has the drain take what was gathered, however long it takes; while it is shutting down it takes no more.
    ///
    /// Not cancel safe: dropped, what was gathered is lost.
    async fn hand_on(&mut self, inbox: &mut Inbox) {
        if std::mem::take(&mut self.lines) == 0 {
            return;
        }
        // Copied to its size: what was reserved is used again.
        let mut bodies = vec![Bytes::copy_from_slice(&self.body)];
        self.body.clear();
        while let Some(body) = bodies.pop() {
            match self.insist(&body, inbox).await {
                Ok(()) => {}
                Err(Cause::TooLarge) => match halves(&body) {
                    Some((first, second)) => bodies.extend([second, first]),
                    None => {
                        tracing::warn!(
                            bytes = body.len(),
                            "fly: a message is over a quarter of memory.budget and is dropped"
                        );
                        self.lose(&self.counters.given_up, 1);
                    }
                },
                Err(_) => self.lose(&self.counters.given_up, memchr_iter(b'\n', &body).count() as u64),
            }
        }
    }

    /// Has the drain take a body, unless it never will.
    async fn insist(&mut self, body: &Bytes, inbox: &mut Inbox) -> Result<(), Cause> {
        let (collector, mut held) = (self.collector.clone(), None);
        loop {
            let mut room = collector.budget().room();
            room.enable();
            let cause = match self.offer(body, held.take()).await {
                Ok(()) => return Ok(()),
                Err((cause @ (Cause::TooLarge | Cause::ShuttingDown), _)) => return Err(cause),
                Err((cause, draft)) => {
                    held = draft;
                    cause
                }
            };
            self.watch(inbox);
            if cause == Cause::Unknown {
                // The spool may have it: rather twice than not at all.
                sleep(REPEAT).await;
            } else {
                let _ = timeout(RETRY, room.wait()).await;
            }
            if collector.is_shutting_down() {
                return Err(Cause::ShuttingDown);
            }
        }
    }

    /// One try. Gives the draft back where it can be offered again as it is.
    async fn offer(&mut self, body: &Bytes, held: Option<Box<Draft>>) -> Result<(), (Cause, Option<Box<Draft>>)> {
        let mut draft = match held {
            Some(draft) => *draft,
            None => self.draft(body).map_err(|cause| (cause, None))?,
        };
        let (samples, at) = (std::mem::take(&mut draft.samples), draft.batch.received_at);
        match self.collector.admit(draft) {
            Ok(Admission::Taken(_)) => {}
            // What was refused by the disk is made anew.
            Ok(Admission::Writing(writing)) => {
                let _ = writing.await.map_err(|cause| (cause, None))?;
            }
            Err(Refused { mut draft, cause, .. }) => {
                draft.samples = samples;
                return Err((cause, Some(draft)));
            }
        }
        (self.keep)(samples, at);
        Ok(())
    }

    fn draft(&mut self, body: &Bytes) -> Result<Draft, Cause> {
        let budget = self.collector.budget();
        // As of what is posted: beyond, two of them might not fit at once, and the newest stays in the history.
        let most = budget.limit() / 4;
        if body.len() > most {
            return Err(Cause::TooLarge);
        }
        let mut permit = budget.try_reserve(body.len()).ok_or(Cause::Memory)?;
        let parsed = self.parser.parse_lines(body, self.limits);
        let mut draft = Draft::new(body.clone(), parsed, Timestamp::now(), self.collector.keeps_bodies());
        let held = draft.held_bytes();
        if held > most {
            return Err(Cause::TooLarge);
        }
        if !permit.try_resize(held) {
            return Err(Cause::Memory);
        }
        draft.batch.permit = Some(permit);
        Ok(draft)
    }

    /// Stops listening and takes what has come by then.
    async fn end(&mut self, inbox: &mut Inbox) {
        inbox.unsubscribe().await;
        let until = Instant::now() + self.answer;
        let mut is_closed = false;
        loop {
            // The server does not answer, or what it sends has no end.
            if !is_closed && Instant::now() >= until {
                inbox.close().await;
                is_closed = true;
            }
            match timeout(self.config.batch_age, inbox.next()).await {
                Ok(Some(message)) => self.add(&message),
                Ok(None) => break,
                Err(_) => self.hand_on(inbox).await,
            }
            if self.is_full() {
                self.hand_on(inbox).await;
            }
        }
        self.hand_on(inbox).await;
        self.watch(inbox);
        self.lose(&self.counters.dropped, inbox.dropped_in_all());
        self.note_gap(self.watched.connects, Timestamp::now());
        self.counters.stopped();
        tracing::info!("fly: unsubscribed, and what had come is taken");
    }

    /// Looks at the connection, and at what the client dropped.
    fn watch(&mut self, inbox: &mut Inbox) {
        let Link { connects, is_connected, came } = inbox.link();
        let now = Timestamp::now();
        let seen = &mut self.watched;
        if came != seen.came {
            (seen.came, seen.heard) = (came, now);
        }
        let is_new = connects != seen.connects;
        if (!is_connected || is_new) && seen.gap_from.is_none() {
            let unseen = now.checked_sub(UNSEEN).unwrap_or(now);
            seen.gap_from = Some(seen.heard.max(unseen));
            tracing::warn!(from = %seen.heard, "fly: the connection is lost; what Fly sends now is lost too");
        }
        self.counters.connected(is_connected, connects);
        if is_connected && let Some(from) = self.watched.gap_from {
            self.note_gap(connects.saturating_sub(1), now);
            (self.watched.connects, self.watched.heard) = (connects, now);
            let subjects = self.config.subjects.join(",");
            tracing::info!(url = self.config.url, subjects, missed_since = %from, "fly: connected");
        }
        self.lose(&self.counters.dropped, inbox.dropped());
    }

    /// A gap is over. Before the first of the connections there was nothing to be missed.
    fn note_gap(&mut self, connects_before: u64, to: Timestamp) {
        if let Some(from) = self.watched.gap_from.take().filter(|_| connects_before > 0) {
            self.collector.shared.journal.note_gap(PLACE, "disconnected", from, to);
        }
    }

    /// Lines are lost for want of room: those that we never had, or those that we had and that the drain did not take.
    fn lose(&self, counter: &AtomicU64, lines: u64) {
        if lines == 0 {
            return;
        }
        counter.fetch_add(lines, Relaxed);
        let now = Timestamp::now();
        self.collector.shared.journal.note(Loss {
            machine: String::new(),
            app: String::new(),
            place: PLACE.into(),
            reason: "overflow",
            lines,
            from: now,
            to: now,
            ids: None,
        });
    }
}

impl Pending {
    /// Room for `fly.pending_max` messages, or for as many as fit, and at least for one of each subject.
    fn reserve(config: &Fly, budget: &Arc<Budget>) -> Self {
        let subjects = config.subjects.len().max(1);
        let mut each = config.pending_max.min(budget.limit() / 8 / PENDING_BYTES) / subjects;
        loop {
            let permit = budget.try_reserve(each.max(1) * subjects * PENDING_BYTES);
            if permit.is_some() || each <= 1 {
                return Self { each: each.max(1), _permit: permit };
            }
            each /= 2;
        }
    }
}

/// Two bodies of the lines of one, each in memory of its own; `None` if there is only one line.
fn halves(body: &[u8]) -> Option<(Bytes, Bytes)> {
    let (before, behind) = body.split_at(body.len() / 2);
    let end = memrchr(b'\n', before).or_else(|| Some(before.len() + memchr(b'\n', behind)?))?;
    let (first, second) = body.split_at(end + 1);
    (!second.is_empty()).then(|| (Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)))
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests;
