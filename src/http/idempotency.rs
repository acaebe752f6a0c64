//! Remembered `Idempotency-Key`s: a sender that never read its answer may repeat the body without doubling its lines.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{admission::Receipt, config};

/// The longest key, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 128;

/// The keys of bodies that were taken, and of those under way. Bounded by `idempotency.keys_max`, and by the number of
/// connections for those under way.
#[derive(Debug)]
pub(super) struct Keys {
    bounds: config::Idempotency,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    keys: HashMap<Arc<[u8]>, Option<Arc<Receipt>>>,
    /// Taken ones, by when.
    taken: VecDeque<(Arc<[u8]>, Instant)>,
}

/// What is known of a key.
#[derive(Debug)]
pub(super) enum Known {
    /// Nothing; it is under way from now on, until the claim is settled or dropped.
    New(Claim),
    UnderWay,
    Taken(Arc<Receipt>),
}

impl Keys {
    pub(super) fn new(bounds: config::Idempotency) -> Self {
        Self { bounds, table: Mutex::default() }
    }

    /// A body that was taken `age` ago, before this process began.
    pub(super) fn remember(&self, key: &[u8], age: Duration, receipt: Receipt) {
        let Some(at) = Instant::now().checked_sub(age) else { return };
        let key: Arc<[u8]> = key.into();
        let mut table = self.table();
        if table.keys.insert(Arc::clone(&key), Some(Arc::new(receipt))).is_none() {
            table.taken.push_back((key, at));
        }
        table.forget_old(&self.bounds);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn claim(self: &Arc<Self>, key: &[u8]) -> Known {
        let mut table = self.table();
        table.forget_old(&self.bounds);
        match table.keys.get(key) {
            Some(Some(receipt)) => Known::Taken(Arc::clone(receipt)),
            Some(None) => Known::UnderWay,
            None => {
                let key: Arc<[u8]> = key.into();
                table.keys.insert(Arc::clone(&key), None);
                Known::New(Claim { keys: Arc::clone(self), key: Some(key) })
            }
        }
    }
}

impl Table {
    fn forget_old(&mut self, bounds: &config::Idempotency) {
        while let Some((key, at)) = self.taken.front() {
            if self.taken.len() <= bounds.keys_max && at.elapsed() < bounds.keep {
                break;
            }
            self.keys.remove(key);
            self.taken.pop_front();
        }
    }
}

/// A key whose body is under way; dropping it forgets the key, so that the body may be repeated.
#[derive(Debug)]
pub(super) struct Claim {
    keys: Arc<Keys>,
    key: Option<Arc<[u8]>>,
}

impl Claim {
    pub(super) fn key(&self) -> &[u8] {
        self.key.as_deref().unwrap_or_default()
    }

    /// The body was taken: its account is remembered.
    pub(super) fn settle(mut self, receipt: &Receipt) {
        let Some(key) = self.key.take() else { return };
        let mut table = self.keys.table();
        table.keys.insert(Arc::clone(&key), Some(Arc::new(receipt.clone())));
        table.taken.push_back((key, Instant::now()));
        table.forget_old(&self.keys.bounds);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.keys.table().keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys_max: usize) -> Arc<Keys> {
        Arc::new(Keys::new(config::Idempotency { keys_max, keep: Duration::from_secs(60) }))
    }

    fn take(keys: &Arc<Keys>, key: &[u8]) {
        let Known::New(claim) = keys.claim(key) else { panic!("{key:?} is known") };
        claim.settle(&Receipt::default());
    }

    #[tokio::test]
    async fn a_key_is_under_way_then_taken_and_forgotten_when_refused() {
        let keys = keys(10);
        let Known::New(claim) = keys.claim(b"a") else { panic!() };
        assert!(matches!(keys.claim(b"a"), Known::UnderWay));
        drop(claim);
        take(&keys, b"a");
        assert!(matches!(keys.claim(b"a"), Known::Taken(_)));
    }

    #[tokio::test]
    async fn the_oldest_goes_when_there_are_too_many() {
        let keys = keys(2);
        for key in [b"a", b"b", b"c"] {
            take(&keys, key);
        }
        assert!(matches!(keys.claim(b"a"), Known::New(_)));
        assert!(matches!(keys.claim(b"c"), Known::Taken(_)));
        assert_eq!(keys.table().taken.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_before_the_start_is_forgotten_when_it_is_as_old() {
        tokio::time::advance(Duration::from_secs(600)).await;
        let keys = keys(10);
        for (key, age) in [(b"a", 70), (b"b", 50), (b"c", 10)] {
            keys.remember(key, Duration::from_secs(age), Receipt::default());
        }
        assert!(matches!(keys.claim(b"a"), Known::New(_)));
        assert!(matches!(keys.claim(b"b"), Known::Taken(_)));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(matches!(keys.claim(b"b"), Known::New(_)));
        assert!(matches!(keys.claim(b"c"), Known::Taken(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_forgotten_after_its_time() {
        let keys = keys(10);
        take(&keys, b"a");
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(matches!(keys.claim(b"a"), Known::New(_)));
        assert_eq!(keys.table().keys.len(), 0);
    }
}
