//! What the two listeners count, for `metrics` to read at a scrape.

use std::{
    sync::atomic::{AtomicU64, Ordering},
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

impl Role {
    pub(crate) const ALL: [Self; 2] = [Self::Ingest, Self::Control];

    /// The value of the label `listener`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Control => "control",
        }
    }
}

/// The statuses that are counted each by itself; any other counts as 500.
pub(crate) const CODES: [u16; 18] =
    [200, 201, 202, 204, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 500, 503];

const CODE_OTHER: usize = 16;

/// Upper bounds of the duration histogram's buckets, in seconds; the last bucket has none.
pub(crate) const DURATION_BOUNDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// How long requests took, from their head to their answer's head.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    buckets: [AtomicU64; DURATION_BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Durations {
    fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = DURATION_BOUNDS.iter().position(|&bound| seconds <= bound).unwrap_or(DURATION_BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Requests in each bucket alone, not added up; see [`DURATION_BOUNDS`].
    pub(crate) fn buckets(&self) -> [u64; DURATION_BOUNDS.len() + 1] {
        std::array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed))
    }

    pub(crate) fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64()
    }
}

/// The counters of both listeners; all start at 0.
#[derive(Debug, Default)]
pub(crate) struct HttpCounters {
    requests: [[AtomicU64; CODES.len()]; Role::ALL.len()],
    durations: [Durations; Role::ALL.len()],
    refused: [AtomicU64; Reason::ALL.len()],
    wire_bytes: AtomicU64,
    body_bytes: AtomicU64,
    duplicates: AtomicU64,
}

impl HttpCounters {
    pub(super) fn answered(&self, role: Role, status: StatusCode, duration: Duration) {
        let code = CODES.iter().position(|&code| code == status.as_u16()).unwrap_or(CODE_OTHER);
        self.requests[role as usize][code].fetch_add(1, Ordering::Relaxed);
        self.durations[role as usize].record(duration);
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

    /// `http_requests_total`, by the position of its code in [`CODES`].
    pub(crate) fn requests(&self, role: Role) -> [u64; CODES.len()] {
        std::array::from_fn(|code| self.requests[role as usize][code].load(Ordering::Relaxed))
    }

    /// `http_request_duration_seconds`
    pub(crate) fn durations(&self, role: Role) -> &Durations {
        &self.durations[role as usize]
    }

    /// `bodies_refused_total`
    pub(crate) fn bodies_refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Ordering::Relaxed)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_outside_the_closed_set_counts_as_500() {
        let counters = HttpCounters::default();
        counters.answered(Role::Control, StatusCode::IM_A_TEAPOT, Duration::ZERO);
        counters.answered(Role::Control, StatusCode::OK, Duration::ZERO);
        let requests = counters.requests(Role::Control);
        assert_eq!(CODES[CODE_OTHER], 500);
        assert_eq!((requests[0], requests[CODE_OTHER], requests.iter().sum()), (1, 1, 2u64));
        assert_eq!(counters.requests(Role::Ingest).iter().sum::<u64>(), 0);
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let durations = Durations::default();
        durations.record(Duration::from_micros(500));
        durations.record(Duration::from_secs(11));
        let buckets = durations.buckets();
        assert_eq!((buckets[0], buckets[DURATION_BOUNDS.len()]), (1, 1));
        assert!((durations.sum_seconds() - 11.0005).abs() < 1e-9);
    }
}
