//! The locks, counters and wakes by which threads meet in budget, admission, collector, queue and history.
//!
//! They are `parking_lot`'s, the standard library's and tokio's. `scripts/schedules.sh` builds the tests with shuttle's in their
//! place, which let a scheduler choose who goes on at each of them; see `schedules`. What only counts (the ledger) is not among
//! them: no decision hangs on it, and each would be one more place to switch at.

#[cfg(all(test, shuttle))]
mod scheduled;

#[cfg(not(all(test, shuttle)))]
pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock};
#[cfg(not(all(test, shuttle)))]
pub(crate) use tokio::sync::{Notify, futures::Notified};

#[cfg(all(test, shuttle))]
pub(crate) use self::scheduled::{Mutex, MutexGuard, Notified, Notify, RwLock};

/// As [`std::sync::atomic`].
pub(crate) mod atomic {
    #[cfg(all(test, shuttle))]
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
    #[cfg(not(all(test, shuttle)))]
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
}
