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
    pub(super) overflow: AtomicU64,
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
    /// What the server or the way to it said last.
    error: Option<String>,
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

    /// Notes whether it is connected. What was wrong before is over.
    pub(super) fn connected(&self, connected: bool) {
        if self.connected.swap(connected, Relaxed) != connected {
            let mut watched = self.watched.lock();
            watched.since = Some(Instant::now());
            if connected {
                watched.error = None;
            }
        }
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
        self.overflow.load(Relaxed)
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
        let overflow = self.overflow();
        FlySnapshot {
            enabled: self.watched.lock().since.is_some(),
            connected: self.connected.load(Relaxed),
            reconnects: self.connects.load(Relaxed).saturating_sub(1),
            slow_consumers: self.slow_consumers.load(Relaxed),
            messages: self.taken.load(Relaxed) + overflow,
            bytes: self.bytes.load(Relaxed),
            lines_dropped: [self.own_app.load(Relaxed), overflow],
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
        counters.connected(true);
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
}
