//! What can go wrong with a disk while lines are written, so that tests can let it.

use std::{fmt, fs::File, io, os::unix::fs::FileExt, path::Path};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Writes and syncs.
pub(super) trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Writes some of `bytes` at `at`; how many.
    fn write_at(&self, file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
        FileExt::write_at(file, bytes, at)
    }

    /// Whether what is written next goes past the page cache.
    fn set_direct(&self, file: &File, is_direct: bool) -> io::Result<()> {
        let flags = fcntl_getfl(file)?;
        Ok(fcntl_setfl(file, if is_direct { flags | OFlags::DIRECT } else { flags - OFlags::DIRECT })?)
    }

    /// Makes the content durable, and the length with it.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn cut(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    /// Makes the name of `path` durable, or that it has none.
    fn sync_name(&self, path: &Path) -> io::Result<()> {
        File::open(path.parent().unwrap_or(path))?.sync_all()
    }
}

/// The operating system's.
#[derive(Debug)]
pub(super) struct Real;

impl Disk for Real {}
