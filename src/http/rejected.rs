//! The last rejected records, for `GET /api/v1/rejected`: what a sender's logs look like when they are not records.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;

use crate::record::{RecordError, RejectedSample};

/// Records kept; the oldest goes first.
pub(crate) const REJECTED_MAX: usize = 100;

/// Bytes kept of each.
const SAMPLE_BYTES_MAX: usize = 1 << 10;

/// One rejected record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    pub(crate) at: Timestamp,
    pub(crate) error: RecordError,
    /// The start of the record as sent, at most 1 KiB.
    pub(crate) bytes: Box<[u8]>,
}

/// The last [`REJECTED_MAX`] rejected records of bodies that were taken.
#[derive(Debug, Default)]
pub(crate) struct RejectedRecords(Mutex<VecDeque<Rejected>>);

impl RejectedRecords {
    pub(crate) fn keep(&self, samples: Vec<RejectedSample>, at: Timestamp) {
        if samples.is_empty() {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = samples.len().saturating_sub(REJECTED_MAX);
        for sample in samples.into_iter().skip(skipped) {
            if kept.len() == REJECTED_MAX {
                kept.pop_front();
            }
            kept.push_back(Rejected { at, error: sample.error, bytes: cut(sample.bytes) });
        }
    }

    /// All that are kept, the newest first.
    pub(crate) fn newest_first(&self) -> Vec<Rejected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

fn cut(bytes: Box<[u8]>) -> Box<[u8]> {
    if bytes.len() > SAMPLE_BYTES_MAX { bytes[..SAMPLE_BYTES_MAX].into() } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RejectReason;

    fn samples(records: std::ops::Range<u64>) -> Vec<RejectedSample> {
        let error = |record| RecordError { record, line: record, reason: RejectReason::MalformedJson };
        records.map(|record| RejectedSample { error: error(record), bytes: vec![b'x'; 2000].into() }).collect()
    }

    #[test]
    fn the_last_hundred_stay_and_each_is_cut() {
        let kept = RejectedRecords::default();
        kept.keep(samples(0..150), Timestamp::UNIX_EPOCH);
        kept.keep(samples(150..160), Timestamp::UNIX_EPOCH);
        let newest = kept.newest_first();
        assert_eq!(newest.len(), REJECTED_MAX);
        assert_eq!((newest[0].error.record, newest[99].error.record), (159, 60));
        assert!(newest.iter().all(|one| one.bytes.len() == SAMPLE_BYTES_MAX));
    }
}
