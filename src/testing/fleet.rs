//! The load of many machines, the same for the same seed.

use jiff::{SignedDuration, Timestamp};

use super::{
    FlyRecord,
    random::{Alias, Random, zipf_weights},
};

const APPS: [&str; 4] = ["web", "api", "worker", "jobs"];
const REGIONS: [&str; 6] = ["lax", "fra", "iad", "nrt", "syd", "gru"];
/// The time of the first record; each is a millisecond later than the one before.
const START: &str = "2026-06-27T01:19:11Z";

/// A fleet whose machines log as real ones do: few much, many little, by Zipf's law.
///
/// An endless iterator of records; the same seed gives the same ones on every platform and for ever. Each message begins with
/// its number within its machine, from 1, so that a test can tell whether all came, and in order. One in twenty has the
/// level `error`.
///
/// ```
/// use fleetdrain::{LogCollector, testing::{self, Fleet}};
///
/// let mut fleet = Fleet::new(100, 42);
/// let loudest = fleet.machine_ids()[0].clone();
///
/// let collector = LogCollector::default();
/// let receipt = collector.push(testing::ndjson(fleet.by_ref().take(1_000)))?;
/// assert_eq!((receipt.received, receipt.rejected), (1_000, 0));
/// let facts = collector.machine_facts(&loudest).expect("it was drawn");
/// assert!(facts.lines > 100, "of a hundred machines the first makes a fifth");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Fleet {
    ids: Vec<String>,
    sent: Vec<u64>,
    picks: Alias,
    random: Random,
    at: Timestamp,
}

impl Fleet {
    /// A fleet of `machines` machines, at least one, whose second sends half as much as the first, and so on.
    #[must_use]
    pub fn new(machines: usize, seed: u64) -> Self {
        Self::with_zipf(machines, 1.0, seed)
    }

    /// As [`Fleet::new`], with the exponent of Zipf's law: 0 has all machines send as much.
    #[must_use]
    pub fn with_zipf(machines: usize, exponent: f64, seed: u64) -> Self {
        let machines = machines.max(1);
        let mut random = Random::new(seed);
        // 14 hexadecimal digits, as Fly's Machines have.
        let ids = (0..machines).map(|_| format!("{:014x}", random.next() >> 8)).collect();
        Self {
            ids,
            sent: vec![0; machines],
            picks: Alias::new(&zipf_weights(machines, exponent)),
            random,
            at: START.parse().expect("it is RFC 3339"),
        }
    }

    /// The machines' ids, the loudest first.
    #[must_use]
    pub fn machine_ids(&self) -> &[String] {
        &self.ids
    }
}

impl Iterator for Fleet {
    type Item = FlyRecord;

    fn next(&mut self) -> Option<FlyRecord> {
        let machine = self.picks.draw(&mut self.random);
        self.sent[machine] += 1;
        let failed = self.random.below(20) == 0;
        let (status, millis) = (if failed { 503 } else { 200 }, self.random.below(1_000));
        let message = format!("{} GET /items/{} {status} {millis}ms", self.sent[machine], self.random.below(10_000));
        self.at = self.at.checked_add(SignedDuration::from_millis(1)).ok()?;
        let record = FlyRecord::new(&self.ids[machine], &message)
            .app(APPS[machine % APPS.len()])
            .region(REGIONS[machine % REGIONS.len()])
            .level(if failed { "error" } else { "info" })
            .timestamp(&format!("{:.9}", self.at));
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_fleet() {
        let records = |seed| Fleet::new(50, seed).take(200).collect::<Vec<_>>();
        assert_eq!(records(1), records(1));
        assert_ne!(records(1), records(2));
    }

    #[test]
    fn each_machine_counts_its_own_lines() {
        let mut last = std::collections::HashMap::new();
        for record in Fleet::with_zipf(5, 0.0, 7).take(500) {
            let entry = crate::parse_log_entry(record.to_string().as_bytes()).unwrap();
            let number: u64 = entry.message().split(' ').next().unwrap().parse().unwrap();
            let before = last.insert(entry.machine_id().to_owned(), number);
            assert_eq!(number, before.unwrap_or(0) + 1);
        }
        assert_eq!((last.len(), last.values().sum::<u64>()), (5, 500));
    }
}
