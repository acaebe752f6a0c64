//! The connection, and the loop that takes messages from it.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use async_nats::{Auth, Client, ClientError, ConnectOptions, Event, Message, Subscriber, connection::State};
use bytes::Bytes;
use futures_core::Stream;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    FlyCounters,
    canary::{self, Canary},
    gather::{self, OwnApp},
};
use crate::{
    admission::{Admission, Cause, Draft, ERRORS_MAX, Refused},
    budget::Permit,
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
/// How often the server is asked whether it is there; after three without an answer the connection is over.
const PING: Duration = Duration::from_secs(10);
/// How far a gap reaches back before it was seen, at most: so long a dead connection may look alive.
const UNSEEN: Duration = Duration::from_secs(30);
/// How long to wait for room between tries, at most.
const RETRY: Duration = Duration::from_millis(50);
/// Waits between tries to connect double from the first to the last.
const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(10);
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
    pending_max: usize,
    /// For what waits within the client.
    _pending: Option<Permit>,
    limits: Limits,
    parser: Parser,
    body: Vec<u8>,
    lines: u64,
    watched: Watched,
}

/// What was seen of the connection at the last look.
#[derive(Debug)]
struct Watched {
    connects: u64,
    /// Since when it is not connected.
    gap_from: Option<Timestamp>,
    in_messages: u64,
    heard: Timestamp,
    /// Dropped messages as they stood at the last look at an empty subscription.
    candidate: u64,
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
        let pending_max = fly.pending_max.min(config.memory.budget / 8 / PENDING_BYTES).max(1);
        let canary = fly.canary.then(|| Canary::new(Arc::clone(&counters)));
        let canary = canary.and_then(|canary| {
            canary.inspect_err(|error| tracing::error!(%error, "no canary: its thread cannot be started")).ok()
        });
        counters.started(canary.is_some());
        Self {
            own_app: fly.own_app.as_deref().map(OwnApp::new),
            canary,
            pending_max,
            _pending: collector.budget().try_reserve(pending_max * PENDING_BYTES),
            limits: Limits { line_bytes_max: config.ingest.line_bytes_max, errors_max: ERRORS_MAX },
            parser: Parser::new(fly.boot_lines),
            body: Vec::new(),
            lines: 0,
            watched: Watched {
                connects: 0,
                gap_from: Some(Timestamp::now()),
                in_messages: 0,
                heard: Timestamp::now(),
                candidate: 0,
            },
            config: fly,
            collector,
            counters,
            token,
            keep,
        }
    }

    /// Takes messages until `shutdown`, then what has come by then.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let Some((client, mut subscribers)) = self.connect().await else { return };
        let mut watch = ticks(WATCH);
        let mut canaries = ticks(canary::EVERY);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = watch.tick() => self.watch(&client, false),
                _ = canaries.tick(), if self.canary.is_some() => self.send_canary(&client),
                first = next(&mut subscribers) => match first {
                    Some(first) => self.take(first, &mut subscribers, &client, &shutdown).await,
                    None => break,
                },
            }
        }
        self.end(&client, &mut subscribers).await;
    }

    async fn connect(&self) -> Option<(Client, Vec<Subscriber>)> {
        let (user, token, counters) = (self.config.org.clone(), Arc::clone(&self.token), Arc::clone(&self.counters));
        let auth = move |_nonce| {
            let (user, password) = (user.clone(), token.lock().clone());
            async move {
                let mut auth = Auth::new();
                if user.is_some() || !password.is_empty() {
                    (auth.username, auth.password) = (user, Some(password));
                }
                Ok(auth)
            }
        };
        let options = ConnectOptions::with_auth_callback(auth)
            .name("fleetdrain")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .ignore_discovered_servers()
            .ping_interval(PING)
            .subscription_capacity(self.pending_max)
            .reconnect_delay_callback(delay)
            .event_callback(move |event| {
                note(&counters, &event);
                std::future::ready(())
            });
        let client = match options.connect(self.config.url.as_str()).await {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, url = self.config.url, "fly: this cannot be connected to");
                self.counters.erred(error.to_string());
                return None;
            }
        };
        let mut subscribers = Vec::new();
        for subject in self.config.subjects.clone() {
            let subscribed = match self.config.queue_group.clone() {
                Some(group) => client.queue_subscribe(subject, group).await,
                None => client.subscribe(subject).await,
            };
            match subscribed {
                Ok(subscriber) => subscribers.push(subscriber),
                Err(error) => {
                    tracing::error!(%error, "fly: a subject cannot be subscribed to");
                    self.counters.erred(error.to_string());
                }
            }
        }
        Some((client, subscribers))
    }

    fn send_canary(&mut self, client: &Client) {
        // What cannot come back would be missed.
        if let Some(canary) = self.canary.as_mut().filter(|_| client.connection_state() == State::Connected) {
            canary.send();
        }
    }

    /// Gathers what follows `first` for a few milliseconds, and has the drain take it.
    async fn take(
        &mut self,
        first: Message,
        subscribers: &mut Vec<Subscriber>,
        client: &Client,
        shutdown: &CancellationToken,
    ) {
        self.add(&first);
        let until = Instant::now() + self.config.batch_age;
        while !self.is_full() {
            match timeout_at(until, next(subscribers)).await {
                Ok(Some(message)) => self.add(&message),
                Ok(None) | Err(_) => break,
            }
        }
        self.hand_on(client, shutdown).await;
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
    async fn hand_on(&mut self, client: &Client, shutdown: &CancellationToken) {
        let lines = std::mem::take(&mut self.lines);
        if lines == 0 {
            return;
        }
        // Copied to its size: what was reserved is used again.
        let body = Bytes::copy_from_slice(&self.body);
        self.body.clear();
        let mut held = None;
        loop {
            let collector = self.collector.clone();
            let mut room = collector.budget().room();
            room.enable();
            match self.offer(&body, held.take()).await {
                Ok(()) => return,
                Err((Cause::TooLarge | Cause::Unknown | Cause::ShuttingDown, _)) => break,
                Err((_, draft)) => held = draft,
            }
            self.watch(client, true);
            let _ = timeout(RETRY, room.wait()).await;
            // Who is held while it all ends gets another moment from `end`.
            if shutdown.is_cancelled() && collector.is_shutting_down() {
                break;
            }
        }
        self.lose(lines);
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
        if body.len() > budget.body_bytes_max() {
            return Err(Cause::TooLarge);
        }
        let mut permit = budget.try_reserve(body.len()).ok_or(Cause::Memory)?;
        let parsed = self.parser.parse_lines(body, self.limits);
        let mut draft = Draft::new(body.clone(), parsed, Timestamp::now(), self.collector.keeps_bodies());
        let held = draft.held_bytes();
        if !permit.try_resize(held) {
            return Err(if held > budget.body_bytes_max() { Cause::TooLarge } else { Cause::Memory });
        }
        draft.batch.permit = Some(permit);
        Ok(draft)
    }

    /// Stops listening and takes what has come by then.
    async fn end(&mut self, client: &Client, subscribers: &mut Vec<Subscriber>) {
        if client.connection_state() == State::Connected {
            for subscriber in subscribers.iter_mut() {
                let _ = subscriber.drain().await;
            }
        } else {
            subscribers.clear();
        }
        let never = CancellationToken::new();
        while let Some(message) = next(subscribers).await {
            self.add(&message);
            if self.is_full() {
                self.hand_on(client, &never).await;
            }
        }
        self.hand_on(client, &never).await;
        self.watch(client, false);
        self.settle(client.statistics().in_messages.load(Relaxed), true);
        self.counters.stopped();
        tracing::info!("fly: unsubscribed, and what had come is taken");
    }

    /// Looks at the connection, and at what the client dropped. `held`: the drain takes nothing now.
    fn watch(&mut self, client: &Client, held: bool) {
        let statistics = client.statistics();
        let (connects, in_messages) = (statistics.connects.load(Relaxed), statistics.in_messages.load(Relaxed));
        let is_connected = client.connection_state() == State::Connected;
        let now = Timestamp::now();
        let seen = &mut self.watched;
        if in_messages != seen.in_messages {
            (seen.in_messages, seen.heard) = (in_messages, now);
        }
        let is_new = connects != seen.connects;
        if (!is_connected || is_new) && seen.gap_from.is_none() {
            let unseen = now.checked_sub(UNSEEN).unwrap_or(now);
            seen.gap_from = Some(seen.heard.max(unseen));
            tracing::warn!(from = %seen.heard, "fly: the connection is lost; what Fly sends now is lost too");
        }
        self.counters.connected(is_connected);
        self.counters.connects.store(connects, Relaxed);
        if is_connected && let Some(from) = self.watched.gap_from.take() {
            if self.watched.connects > 0 {
                self.collector.shared.journal.note_gap(PLACE, "disconnected", from, now);
            }
            (self.watched.connects, self.watched.heard) = (connects, now);
            let subjects = self.config.subjects.join(",");
            tracing::info!(url = self.config.url, subjects, missed_since = %from, "fly: connected");
        }
        self.settle(in_messages, !held);
    }

    /// Counts what the client has dropped of the `in_messages` that it got: all that we did not get and that does not wait.
    ///
    /// The main loop comes here only between messages, but something may wait all the same: so it is counted what stood so at two
    /// looks, less what may wait if the drain is held.
    fn settle(&mut self, in_messages: u64, may_be_empty: bool) {
        let missing = in_messages.saturating_sub(self.counters.taken.load(Relaxed));
        let waiting = self.pending_max as u64 * self.config.subjects.len() as u64 + 1;
        let known = self.counters.overflow.load(Relaxed);
        let sure = missing.saturating_sub(waiting);
        let candidate = std::mem::replace(&mut self.watched.candidate, missing);
        let is_quiet = may_be_empty && candidate == missing;
        let dropped = if is_quiet { missing } else { sure };
        if dropped > known {
            self.lose(dropped - known);
        }
    }

    fn lose(&mut self, lines: u64) {
        // What we had and could not hand on is lost as well, and was taken.
        self.counters.overflow.fetch_add(lines, Relaxed);
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

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The next message of any subscription; `None` when all are over. Cancel safe.
async fn next(subscribers: &mut Vec<Subscriber>) -> Option<Message> {
    struct Next<'a>(&'a mut Vec<Subscriber>);
    impl Future for Next<'_> {
        type Output = Option<Message>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            let mut at = 0;
            while let Some(subscriber) = self.0.get_mut(at) {
                match Pin::new(subscriber).poll_next(cx) {
                    // The others are first next time.
                    Poll::Ready(Some(message)) => {
                        self.0.rotate_left(at + 1);
                        return Poll::Ready(Some(message));
                    }
                    Poll::Ready(None) => drop(self.0.remove(at)),
                    Poll::Pending => at += 1,
                }
            }
            if self.0.is_empty() { Poll::Ready(None) } else { Poll::Pending }
        }
    }
    Next(subscribers).await
}

/// How long to wait before the next try to connect, from the first on: a random half of it, so that a fleet does not come at once.
fn delay(attempt: usize) -> Duration {
    let doubled = DELAY_MIN.saturating_mul(1 << attempt.saturating_sub(1).min(10)).min(DELAY_MAX);
    let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    if attempt <= 1 { doubled.mul_f64(random) } else { doubled.mul_f64(0.5 + random / 2.0) }
}

/// What the client says of itself. Each dropped message is such an event, and the client forgets some of them, so they are not what
/// is counted as dropped.
fn note(counters: &FlyCounters, event: &Event) {
    match event {
        Event::SlowConsumer(_) => {
            counters.slow_consumers.fetch_add(1, Relaxed);
        }
        Event::ServerError(error) if counters.erred(error.to_string()) => {
            tracing::error!(%error, "fly: the server objects");
        }
        Event::ClientError(ClientError::Other(error)) if counters.erred(error.clone()) => {
            tracing::error!(error, "fly: cannot connect; trying on");
        }
        _ => {}
    }
}
