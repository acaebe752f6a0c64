//! Directories of unit tests.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use jiff::Timestamp;

/// A path that nothing has, not even what a killed test of the same process number has left; to be removed by its test.
pub(crate) fn path(of: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (number, now) = (COUNT.fetch_add(1, Relaxed), Timestamp::now().as_microsecond());
    std::env::temp_dir().join(format!("fleetdrain-{of}-{}-{now}-{number}", std::process::id()))
}
