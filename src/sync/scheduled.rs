//! Shuttle's types with the methods of those that they stand for.
//!
//! `Notify` is tokio's own, behind a place to switch at: under shuttle all threads share one of the system, so that each of its
//! calls is one step, and it works with any executor's wakers.

use std::sync::PoisonError;

use shuttle::sync::atomic::{AtomicBool, Ordering::SeqCst};
pub(crate) use shuttle::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
pub(crate) use tokio::sync::futures::Notified;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Notify {
    inner: tokio::sync::Notify,
    /// Each use of it is a place to switch at.
    step: AtomicBool,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        self.step.load(SeqCst);
        self.inner.notified()
    }

    pub(crate) fn notify_waiters(&self) {
        self.step.load(SeqCst);
        self.inner.notify_waiters();
    }

    #[cfg_attr(not(feature = "sinks"), allow(dead_code, reason = "only sinks' readers are woken one by one"))]
    pub(crate) fn notify_one(&self) {
        self.step.load(SeqCst);
        self.inner.notify_one();
    }
}
