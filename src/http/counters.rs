//! What the two listeners count, for `metrics` to read at a scrape.

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::StatusCode;

use super::problem::Reason;

/// Which listener a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Role {
    Ingest,
    Control,
}

/// Called with each answered request: its listener, its status, and the time from its head to its answer's head.
pub(crate) type OnAnswer = Box<dyn Fn(Role, u16, Duration) + Send + Sync>;

/// The counters of both listeners; all start at 0.
#[derive(Default)]
pub(crate) struct HttpCounters {
    /// Set once, before serving, by whoever keeps `http_requests_total` and `http_request_duration_seconds`.
    pub(crate) on_answer: OnceLock<OnAnswer>,
    refused: [AtomicU64; Reason::COUNT],
    wire_bytes: AtomicU64,
    body_bytes: AtomicU64,
    duplicates: AtomicU64,
}

impl HttpCounters {
    pub(super) fn answered(&self, role: Role, status: StatusCode, took: Duration) {
        if let Some(observe) = self.on_answer.get() {
            observe(role, status.as_u16(), took);
        }
    }

    pub(super) fn refused(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, wire_bytes: u64, body_bytes: u64) {
        self.wire_bytes.fetch_add(wire_bytes, Ordering::Relaxed);
        self.body_bytes.fetch_add(body_bytes, Ordering::Relaxed);
    }

    pub(super) fn repeated(&self) {
        self.duplicates.fetch_add(1, Ordering::Relaxed);
    }

    /// `bodies_refused_total`, in the order of [`Reason`], which is the contract's.
    pub(crate) fn bodies_refused(&self) -> [u64; Reason::COUNT] {
        std::array::from_fn(|reason| self.refused[reason].load(Ordering::Relaxed))
    }

    /// `wire_bytes_total`: bytes of bodies as received, of refused ones too.
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.wire_bytes.load(Ordering::Relaxed)
    }

    /// `body_bytes_total`: the same, decoded.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }

    /// `bodies_duplicate_total`
    pub(crate) fn bodies_duplicate(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for HttpCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpCounters").field("refused", &self.refused).finish_non_exhaustive()
    }
}
