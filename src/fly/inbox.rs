//! The connection to Fly's NATS: what has come and waits for us, and what the client dropped because too much did.

use std::{
    collections::hash_map::RandomState,
    future::poll_fn,
    hash::{BuildHasher, Hasher},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use async_nats::{
    Auth, Client, ClientError, ConnectOptions, Event, Message, Statistics, Subscriber, connection::State,
};
use futures_core::Stream;
use parking_lot::Mutex;
use tokio::task::coop::has_budget_remaining;

use super::{
    FlyCounters,
    drops::{Counts, Drops},
};
use crate::config::Fly;

/// How often the server is asked whether it is there; after three without an answer the connection is over.
const PING: Duration = Duration::from_secs(10);
/// Waits between tries to connect double from the first to the last.
const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(10);

/// Subscriptions, over one connection after the other.
pub(super) struct Inbox {
    client: Client,
    statistics: Arc<Statistics>,
    subscribers: Vec<Subscriber>,
    waiting_max: u64,
    taken: u64,
    drops: Drops,
}

/// What is seen of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) connects: u64,
    pub(super) is_connected: bool,
    /// Messages that came so far.
    pub(super) came: u64,
}

impl Inbox {
    /// Subscribes to what `config` says, as soon as there is a connection. Of each subject `waiting_max` messages may wait.
    pub(super) async fn connect(
        config: &Fly,
        token: Arc<Mutex<String>>,
        counters: &Arc<FlyCounters>,
        waiting_max: usize,
    ) -> Option<Self> {
        let options = options(config, token, Arc::clone(counters), waiting_max);
        let client = match options.connect(config.url.as_str()).await {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, url = config.url, "fly: this cannot be connected to");
                counters.erred(error.to_string());
                return None;
            }
        };
        let mut subscribers = Vec::new();
        for subject in config.subjects.clone() {
            let subscribed = match config.queue_group.clone() {
                Some(group) => client.queue_subscribe(subject, group).await,
                None => client.subscribe(subject).await,
            };
            match subscribed {
                Ok(subscriber) => subscribers.push(subscriber),
                Err(error) => {
                    tracing::error!(%error, "fly: a subject cannot be subscribed to");
                    counters.erred(error.to_string());
                }
            }
        }
        Some(Self {
            statistics: client.statistics(),
            client,
            waiting_max: waiting_max as u64 * subscribers.len() as u64,
            subscribers,
            taken: 0,
            drops: Drops::default(),
        })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    pub(super) fn link(&self) -> Link {
        let connects = self.statistics.connects.load(Relaxed);
        Link { connects, is_connected: self.is_connected(), came: self.counts().came }
    }

    /// The next message of any subscription; `None` when all are over. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Message> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let mut next = self.poll_subscribers(cx);
        // Without budget they are pending whatever waits.
        if next.is_pending() && has_budget_remaining() {
            // Counted before it is looked again: what comes in between is not taken for dropped.
            let counts = self.counts();
            next = self.poll_subscribers(cx);
            if next.is_pending() {
                self.drops.nothing_waits(counts);
            }
        }
        if let Poll::Ready(Some(_)) = next {
            self.taken += 1;
        }
        next
    }

    fn poll_subscribers(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let mut at = 0;
        while let Some(subscriber) = self.subscribers.get_mut(at) {
            match Pin::new(subscriber).poll_next(cx) {
                // The others are first next time.
                Poll::Ready(Some(message)) => {
                    self.subscribers.rotate_left(at + 1);
                    return Poll::Ready(Some(message));
                }
                Poll::Ready(None) => drop(self.subscribers.remove(at)),
                Poll::Pending => at += 1,
            }
        }
        if self.subscribers.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }

    fn counts(&self) -> Counts {
        Counts { came: self.statistics.in_messages.load(Relaxed), taken: self.taken }
    }

    /// Messages that turn out to have been dropped by the client.
    pub(super) fn dropped(&mut self) -> u64 {
        self.drops.look(self.counts(), self.waiting_max)
    }

    /// As [`Inbox::dropped`], when [`Inbox::next`] has told that all is over.
    pub(super) fn dropped_in_all(&mut self) -> u64 {
        self.drops.over(self.counts())
    }

    /// Asks the server to send no more. What it has sent by then still comes, and then it is over.
    pub(super) async fn unsubscribe(&mut self) {
        if !self.is_connected() {
            return self.close().await;
        }
        for subscriber in &mut self.subscribers {
            let _ = subscriber.drain().await;
        }
    }

    /// Lets nothing more come, whatever the server does. What waits by then is still to be had.
    pub(super) async fn close(&mut self) {
        for subscriber in &mut self.subscribers {
            let _ = subscriber.unsubscribe().await;
        }
    }
}

fn options(config: &Fly, token: Arc<Mutex<String>>, counters: Arc<FlyCounters>, waiting_max: usize) -> ConnectOptions {
    let user = config.org.clone();
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
    ConnectOptions::with_auth_callback(auth)
        .name("fleetdrain")
        .retry_on_initial_connect()
        .max_reconnects(None)
        .ignore_discovered_servers()
        .ping_interval(PING)
        .subscription_capacity(waiting_max)
        .reconnect_delay_callback(delay)
        .event_callback(move |event| {
            note(&counters, &event);
            std::future::ready(())
        })
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
        Event::Connected => counters.told_connected(),
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
