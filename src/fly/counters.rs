//! What the source has counted, and whether something is wrong with it.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    http::status::{Reason, Trouble},
    metrics::FlySnapshot,
};

/// A canary that is out for longer is missing: six in a row have not come back.
const CANARY_MISSING: Duration = Duration::from_secs(60);

/// The counters of the source `fly`; all 0 without it.
#[derive(Debug, Default)]
#[cfg_attr(not(feature = "fly"), allow(dead_code, reason = "only the source counts"))]
pub(crate) struct FlyCounters {
    pub(super) connects: AtomicU64,
    pub(super) connected: AtomicBool,
    pub(super) slow_consumers: AtomicU64,
    /// Messages that we got from the client.
    pub(super) taken: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) own_app: AtomicU64,
    /// Messages that the client dropped because too many waited: we never had them.
    pub(super) dropped: AtomicU64,
    /// Lines of messages that we had, and the drain did not take.
    pub(super) given_up: AtomicU64,
    pub(super) canary_sent: AtomicU64,
    pub(super) canary_received: AtomicU64,
    canary_lag_micros: AtomicU64,
    watched: Mutex<Watched>,
}

/// What the verdict is made of.
#[derive(Debug, Default)]
struct Watched {
    /// Since when it is as it is; `None`: the source does not run.
    since: Option<Instant>,
    /// What the server or the way to it said last, since it was connected last.
    error: Option<String>,
    /// How often the client has said that it is connected.
    told_connects: u64,
    canary: bool,
    canary_back: Option<Instant>,
    /// Messages taken when the last canary came back.
    taken_then: u64,
}

#[cfg_attr(not(feature = "fly"), allow(dead_code, reason = "only the source counts"))]
impl FlyCounters {
    pub(super) fn started(&self, canary: bool) {
        let mut watched = self.watched.lock();
        (watched.since, watched.canary) = (Some(Instant::now()), canary);
    }

    pub(super) fn stopped(&self) {
        self.watched.lock().since = None;
        self.connected.store(false, Relaxed);
    }

    /// Notes whether it is connected, and how often it has been in all.
    pub(super) fn connected(&self, connected: bool, connects: u64) {
        let is_new = self.connects.swap(connects, Relaxed) != connects;
        if self.connected.swap(connected, Relaxed) != connected || is_new {
            let mut watched = self.watched.lock();
            watched.since = Some(Instant::now());
            // Where the client did not say so in its place among the errors, this is as good as can be.
            if connected && watched.told_connects < connects {
                watched.error = None;
            }
        }
    }

    /// The client says that it is connected: what was wrong before is over, and what the server objects to now comes behind.
    pub(super) fn told_connected(&self) {
        let mut watched = self.watched.lock();
        (watched.error, watched.told_connects) = (None, watched.told_connects + 1);
    }

    /// Notes what is wrong; `true` if it is something new.
    pub(super) fn erred(&self, error: String) -> bool {
        let mut watched = self.watched.lock();
        let is_new = watched.error.as_ref() != Some(&error);
        watched.error = Some(error);
        is_new
    }

    pub(super) fn canary_back(&self, lag: Duration) {
        self.canary_lag_micros.store(u64::try_from(lag.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.canary_received.fetch_add(1, Relaxed);
        let mut watched = self.watched.lock();
        (watched.canary_back, watched.taken_then) = (Some(Instant::now()), self.taken.load(Relaxed));
    }

    /// Lines that were lost for want of room.
    pub(crate) fn overflow(&self) -> u64 {
        self.dropped.load(Relaxed) + self.given_up.load(Relaxed)
    }

    /// What `/healthz` is to tell.
    pub(crate) fn troubles(&self) -> Vec<Reason> {
        let watched = self.watched.lock();
        let Some(since) = watched.since else { return Vec::new() };
        let silent = |detail| vec![Reason::new(Trouble::SourceSilent, detail)];
        if !self.connected.load(Relaxed) {
            let (seconds, error) = (since.elapsed().as_secs(), watched.error.as_deref().unwrap_or("no answer yet"));
            return silent(format!("fly: not connected for {seconds} s: {error}"));
        }
        if let Some(error) = &watched.error {
            return silent(format!("fly: connected, but: {error}"));
        }
        let heard = watched.canary_back.map_or(since, |back| back.max(since));
        if !watched.canary || heard.elapsed() <= CANARY_MISSING {
            return Vec::new();
        }
        let (seconds, others) = (heard.elapsed().as_secs(), self.taken.load(Relaxed) - watched.taken_then);
        let sent = self.canary_sent.load(Relaxed);
        silent(format!(
            "fly or us? connected, but no canary came back for {seconds} s ({sent} sent); {others} other messages came meanwhile"
        ))
    }

    pub(crate) fn snapshot(&self) -> FlySnapshot {
        FlySnapshot {
            enabled: self.watched.lock().since.is_some(),
            connected: self.connected.load(Relaxed),
            reconnects: self.connects.load(Relaxed).saturating_sub(1),
            slow_consumers: self.slow_consumers.load(Relaxed),
            messages: self.taken.load(Relaxed) + self.dropped.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            lines_dropped: [self.own_app.load(Relaxed), self.overflow()],
            canary_sent: self.canary_sent.load(Relaxed),
            canary_received: self.canary_received.load(Relaxed),
            canary_lag_seconds: Duration::from_micros(self.canary_lag_micros.load(Relaxed)).as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(counters: &FlyCounters) -> String {
        counters.troubles().first().map_or_else(String::new, |reason| reason.detail.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_whether_fly_or_we_are_silent() {
        let counters = FlyCounters::default();
        assert_eq!(counters.troubles(), []);
        counters.started(true);
        assert!(
            counters.erred("authorization violation".to_owned())
                && !counters.erred("authorization violation".to_owned())
        );
        assert!(detail(&counters).contains("not connected for 0 s: authorization violation"));
        counters.connected(true, 1);
        assert_eq!(counters.troubles(), []);
        tokio::time::advance(CANARY_MISSING).await;
        assert_eq!(counters.troubles(), []);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(detail(&counters).starts_with("fly or us?"));
        counters.canary_back(Duration::from_millis(1_500));
        assert_eq!((counters.troubles(), counters.snapshot().canary_lag_seconds), (vec![], 1.5));
        counters.stopped();
        assert_eq!(counters.troubles(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_over_with_the_next_connection_whether_its_loss_was_seen_or_not() {
        let counters = FlyCounters::default();
        counters.started(false);
        counters.told_connected();
        counters.connected(true, 1);
        counters.erred("timed out".to_owned());
        assert!(detail(&counters).starts_with("fly: connected, but: timed out"));
        // Lost and found between two looks, and the client forgot to say so.
        counters.connected(true, 2);
        assert_eq!(counters.troubles(), []);
        // Said, and seen later: what the server objects to came behind.
        counters.told_connected();
        counters.told_connected();
        counters.erred("permissions violation".to_owned());
        counters.connected(true, 3);
        assert!(detail(&counters).starts_with("fly: connected, but: permissions violation"));
    }

    #[test]
    fn a_message_that_was_taken_and_given_up_came_once() {
        let counters = FlyCounters::default();
        counters.taken.store(10, Relaxed);
        counters.given_up.store(4, Relaxed);
        counters.dropped.store(3, Relaxed);
        let counted = counters.snapshot();
        assert_eq!((counted.messages, counted.lines_dropped), (13, [0, 7]));
    }
}
