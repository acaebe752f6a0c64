//! Decoder state, kept from one body to the next: setting it up costs more than a small body.
//!
//! Each thread keeps a few; what a body took on one thread it may give back on another. Idle state is not charged to any
//! budget, so its bound is in the constants here.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

use flate2::Decompress;
use zstd::zstd_safe::{DCtx, DParameter, ResetDirective};

/// What an inflation holds: a window of 32 KiB, its tables and their padding (zlib-rs 0.6).
pub(super) const INFLATE_STATE_BYTES: usize = 48 << 10;
/// What a zstd context holds before it has seen a frame; the real size is asked of it then.
pub(super) const ZSTD_STATE_BYTES: usize = 96 << 10;

/// Inflations that a thread keeps.
const INFLATE_KEPT_MAX: usize = 8;
/// Zstd contexts that a thread keeps.
const ZSTD_KEPT_MAX: usize = 2;
/// The largest zstd context kept: one for the window of 2 MiB that level 3 makes of a body of unknown length.
const ZSTD_KEPT_BYTES_MAX: usize = 3 << 20;

thread_local! {
    static INFLATES: RefCell<Vec<Decompress>> = const { RefCell::new(Vec::new()) };
    static ZSTDS: RefCell<Vec<DCtx<'static>>> = const { RefCell::new(Vec::new()) };
}

/// A raw or zlib inflation that goes back to its thread's pool.
pub(super) struct PooledInflate(Option<Decompress>);

impl PooledInflate {
    /// `zlib_header`: zlib-wrapped, else raw deflate.
    pub(super) fn take(zlib_header: bool) -> Self {
        let kept = INFLATES.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        let inflate = match kept {
            Some(mut inflate) => {
                inflate.reset(zlib_header);
                inflate
            }
            None => Decompress::new(zlib_header),
        };
        Self(Some(inflate))
    }
}

impl Deref for PooledInflate {
    type Target = Decompress;

    fn deref(&self) -> &Decompress {
        self.0.as_ref().expect("taken only in drop")
    }
}

impl DerefMut for PooledInflate {
    fn deref_mut(&mut self) -> &mut Decompress {
        self.0.as_mut().expect("taken only in drop")
    }
}

impl Drop for PooledInflate {
    fn drop(&mut self) {
        if let Some(inflate) = self.0.take() {
            // An error means that the thread is ending: the state goes with it.
            let _ = INFLATES.try_with(|pool| give_back(&mut pool.borrow_mut(), inflate, INFLATE_KEPT_MAX));
        }
    }
}

/// A zstd context that goes back to its thread's pool.
pub(super) struct PooledZstd(Option<DCtx<'static>>);

impl PooledZstd {
    /// A context with a bound on its window, as large as `bytes_max` at most; `None` if memory is out.
    pub(super) fn take(bytes_max: usize, window_log_max: u32) -> Option<Self> {
        let kept = ZSTDS.try_with(|pool| pool.borrow_mut().pop()).ok().flatten();
        let mut context = match kept.filter(|context| context.sizeof() <= bytes_max) {
            Some(context) => context,
            None => DCtx::try_create()?,
        };
        context.reset(ResetDirective::SessionOnly).ok()?;
        context.set_parameter(DParameter::WindowLogMax(window_log_max)).ok()?;
        Some(Self(Some(context)))
    }
}

impl Deref for PooledZstd {
    type Target = DCtx<'static>;

    fn deref(&self) -> &DCtx<'static> {
        self.0.as_ref().expect("taken only in drop")
    }
}

impl DerefMut for PooledZstd {
    fn deref_mut(&mut self) -> &mut DCtx<'static> {
        self.0.as_mut().expect("taken only in drop")
    }
}

impl Drop for PooledZstd {
    fn drop(&mut self) {
        if let Some(context) = self.0.take().filter(|context| context.sizeof() <= ZSTD_KEPT_BYTES_MAX) {
            let _ = ZSTDS.try_with(|pool| give_back(&mut pool.borrow_mut(), context, ZSTD_KEPT_MAX));
        }
    }
}

fn give_back<T>(pool: &mut Vec<T>, state: T, kept_max: usize) {
    if pool.len() < kept_max {
        pool.push(state);
    }
}
