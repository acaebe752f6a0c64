//! What a sender knows of each body in the end.

use std::ops::{Range, RangeInclusive};

/// What became of a body, by the drain's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// The last try was answered 200.
    pub(super) acknowledged: bool,
    /// Tries that were answered with a refusal: nothing was taken.
    pub(super) refused: u8,
    /// Tries that had no answer, or one that says `Fleetdrain-Ack: unknown`: each may have been taken.
    pub(super) open: u8,
    /// It could not be decoded.
    pub(super) is_broken: bool,
}

impl Fate {
    /// How often each of its records may be found.
    pub(super) fn copies(self, keys: bool) -> RangeInclusive<u8> {
        let open = if keys { self.open.min(1) } else { self.open };
        match self {
            Self { is_broken: true, .. } => 0..=0,
            Self { acknowledged: true, .. } if keys => 1..=1,
            Self { acknowledged: true, .. } => 1..=1 + open,
            _ => 0..=open,
        }
    }

    pub(super) fn text(self) -> String {
        let Self { acknowledged, refused, open, is_broken } = self;
        let broken = if is_broken { "not decodable, " } else { "" };
        let acknowledged = if acknowledged { "acknowledged" } else { "not acknowledged" };
        format!("{broken}{acknowledged}, {open} tries without a sure answer, {refused} refused")
    }
}

/// One sender's bodies: eight bytes each, however many records they have.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    ends: Vec<u32>,
    fates: Vec<Fate>,
}

impl Ledger {
    /// Notes the fate of the next body, which has its records up to `end`.
    pub(super) fn settle(&mut self, end: u64, fate: Fate) {
        self.ends.push(u32::try_from(end).expect("a sender has fewer than 2^32 records"));
        self.fates.push(fate);
    }

    pub(super) fn records(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0).into()
    }

    pub(super) fn bodies(&self) -> impl Iterator<Item = (Range<u64>, Fate)> + '_ {
        (0..self.fates.len()).map(|body| (self.range(body), self.fates[body]))
    }

    /// The body that a record is in; none if nobody has sent it.
    pub(super) fn body_of(&self, record: u64) -> Option<usize> {
        let body = self.ends.partition_point(|&end| u64::from(end) <= record);
        (body < self.ends.len()).then_some(body)
    }

    pub(super) fn range(&self, body: usize) -> Range<u64> {
        let start = body.checked_sub(1).map_or(0, |before| self.ends[before]);
        start.into()..self.ends[body].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fate(acknowledged: bool, open: u8) -> Fate {
        Fate { acknowledged, open, ..Fate::default() }
    }

    #[test]
    fn a_key_makes_it_exactly_once_and_without_one_each_open_try_may_count() {
        assert_eq!(fate(true, 2).copies(true), 1..=1);
        assert_eq!(fate(true, 2).copies(false), 1..=3);
        assert_eq!(fate(false, 2).copies(true), 0..=1);
        assert_eq!(fate(false, 2).copies(false), 0..=2);
        assert_eq!(fate(false, 0).copies(false), 0..=0);
        assert_eq!(Fate { is_broken: true, open: 1, ..Fate::default() }.copies(false), 0..=0);
    }

    #[test]
    fn a_record_is_found_in_its_body() {
        let mut ledger = Ledger::default();
        [3, 4, 9].into_iter().for_each(|end| ledger.settle(end, Fate::default()));
        let bodies: Vec<_> = (0..10).map(|record| ledger.body_of(record)).collect();
        assert_eq!(bodies[..4], [Some(0), Some(0), Some(0), Some(1)]);
        assert!(bodies[4..9].iter().all(|&body| body == Some(2)));
        assert_eq!(bodies[9], None);
        assert_eq!(ledger.bodies().map(|(range, _)| range).collect::<Vec<_>>(), [0..3, 3..4, 4..9]);
    }
}
