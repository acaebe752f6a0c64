//! All that the spool asks of a file system: one flat directory, files written at a place, and three kinds of sync.
//!
//! [`Disk`] is the real one. Tests have another that forgets what was not synced; so nothing here may promise more than
//! POSIX does: what was written is durable after [`File::sync`], a name after [`Fs::sync_dir`], neither before.

use std::{
    fmt,
    fs::{DirBuilder, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{FallocateFlags, FlockOperation};

/// The most pieces that one write takes: `IOV_MAX` on Linux.
const PIECES_MAX: usize = 1024;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// One directory.
pub(crate) trait Fs: Send + Sync + fmt::Debug {
    /// Takes the directory for this process alone, until the last handle on it is dropped.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if another process has it.
    fn lock(&self) -> io::Result<()>;

    /// Every file's name and length in bytes, in no order.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Makes a file that does not exist yet.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens a file that exists.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>>;

    /// Renames a file; one that has the new name is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn unlink(&self, name: &str) -> io::Result<()>;

    /// Makes what was created, renamed and unlinked durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// Bytes that the volume has free for us, if it says.
    fn free(&self) -> Option<u64> {
        None
    }
}

/// One file. Every call may be made by several threads at once.
pub(crate) trait File: Send + Sync + fmt::Debug {
    /// Bytes.
    fn len(&self) -> io::Result<u64>;

    /// Reads at `at`; how many bytes, 0 only at the end. May be fewer than asked for.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes the pieces one behind the other at `at`; how many bytes. May be fewer than given.
    fn write_at(&self, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize>;

    /// Cuts the file, or lets it grow with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Takes room for `len` bytes from the disk beforehand, and lets the file grow to them with zeros.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Makes the content durable, and the length as far as it takes to read it.
    fn sync(&self) -> io::Result<()>;
}

impl dyn Fs + '_ {
    /// Makes a file, without what may have stood under its name: that was left half done, and nothing refers to it.
    pub(crate) fn create_anew(&self, name: &str) -> io::Result<Arc<dyn File>> {
        match self.unlink(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.create(name),
        }
    }
}

impl dyn File + '_ {
    /// Fills `buffer` from `at` on.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the file ends before.
    pub(crate) fn read_exact_at(&self, mut buffer: &mut [u8], mut at: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of the pieces at `at`, one behind the other.
    pub(crate) fn write_all_at(&self, mut pieces: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
        // Empty pieces in front would look like a write that does not get on.
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            match self.write_at(&pieces[..pieces.len().min(PIECES_MAX)], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut pieces, written);
                    at += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A directory of the operating system.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// The directory itself: what is locked and synced.
    dir: std::fs::File,
}

impl Disk {
    /// Opens a directory that exists.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), dir: std::fs::File::open(path)? })
    }

    /// Opens a directory, made if there is none, for its owner alone: it holds users' logs.
    pub(crate) fn open_or_create(path: &Path) -> io::Result<Self> {
        let missing: Vec<_> =
            path.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.exists()).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // Each new name must outlive a crash as what will be in it does.
        for made in missing {
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Self::open(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Fs for Disk {
    fn lock(&self) -> io::Result<()> {
        Ok(rustix::fs::flock(&self.dir, FlockOperation::NonBlockingLockExclusive)?)
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(found) if found.is_file() => files.push((name, found.len())),
                Ok(_) => {}
                // Unlinked by the drain whose spool an offline tool is looking at.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Arc::new(DiskFile(options.open(self.path(name))?)))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(access == Access::Write).open(self.path(name))?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn free(&self) -> Option<u64> {
        let volume = rustix::fs::fstatvfs(&self.dir).ok()?;
        volume.f_bavail.checked_mul(volume.f_frsize)
    }
}

#[derive(Debug)]
struct DiskFile(std::fs::File);

impl File for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(&self.0, buffer, at)
    }

    fn write_at(&self, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(&self.0, pieces, at)?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
