//! The directory: who may write there, which files are being written, and when each is complete.

use std::{
    borrow::Cow,
    collections::HashMap,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    direct::{self, Blocks},
    disk::{Disk, Real},
    part::{Part, create_directory, settle, target_of},
    recover::whole,
};
use crate::sink::{compress::Compression, lots::Lot};

/// Files that are open at once; the others' descriptors are given back.
const OPEN_MAX: usize = 256;

/// Files that are being written. With one more, that which was not written to for longest is complete.
const PARTS_MAX: usize = 4096;

/// Files that are written before the first of them is synced: the disk then has several to order.
const SYNCED_TOGETHER: usize = 64;

/// How deep directories are searched for what was left: as many `/` fit in no template.
const DEPTH_MAX: usize = 512;

/// When a file is complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) bytes: u64,
    pub(super) age: Duration,
}

/// A directory that is ours alone.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    /// Held for as long as it is ours.
    _lock: File,
    compression: Compression,
    bounds: Bounds,
    disk: Arc<dyn Disk>,
    /// By the name that they will have.
    parts: HashMap<String, Part>,
    open: usize,
    turn: u64,
    blocks: Blocks,
}

/// Which lots could not be written, by their place, and the last reason.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) failed: Vec<usize>,
    pub(super) error: Option<io::Error>,
}

impl Outcome {
    fn fails(&mut self, lot: usize, error: io::Error) {
        self.failed.push(lot);
        self.error = Some(error);
    }
}

impl Directory {
    /// Makes the directory if need be, takes it, and completes what an earlier run has left.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` if it, or one above or below it, is another sink's.
    pub(super) fn open(
        root: &Path,
        compression: Compression,
        bounds: Bounds,
        disk: &Arc<dyn Disk>,
    ) -> io::Result<Self> {
        create(root)?;
        // The real place: the way to it may change.
        let root = root.canonicalize()?;
        let lock = lock(&root)?;
        recover(&root, 0)?;
        let disk = Arc::clone(disk);
        Ok(Self {
            root,
            _lock: lock,
            compression,
            bounds,
            disk,
            parts: HashMap::new(),
            open: 0,
            turn: 0,
            blocks: Blocks::default(),
        })
    }

    /// Whether files could be written: makes one and removes it.
    pub(super) fn probe(root: &Path) -> io::Result<()> {
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
        let path = existing.join(format!(".fleetdrain-probe-{}", std::process::id()));
        let written = File::create_new(&path).and_then(|file| Real.write_at(&file, b"\n", 0).and(Real.sync(&file)));
        let removed = fs::remove_file(&path);
        written.and(removed)
    }

    /// Begins the buffer of a lot so that it can go to its file as it is: with what the file's last block has already.
    pub(super) fn begin(&self, name: &str, buffer: &mut Vec<u8>) {
        if self.compression == Compression::None {
            direct::begin(buffer, self.parts.get(name).map_or(&[], Part::tail));
        }
    }

    /// Appends each lot to its file and syncs it.
    pub(super) fn write(&mut self, lots: &mut [Lot]) -> Outcome {
        let mut outcome = Outcome::default();
        for (chunk, first) in lots.chunks_mut(SYNCED_TOGETHER).zip((0..).step_by(SYNCED_TOGETHER)) {
            let mut written = Vec::with_capacity(chunk.len());
            for (lot, place) in chunk.iter_mut().zip(first..) {
                let name = self.compression.named(lot.name.clone());
                match self.append(&name, lot) {
                    Ok(()) => written.push((name, place)),
                    Err(error) => outcome.fails(place, error),
                }
            }
            for (name, place) in written {
                let part = self.parts.get_mut(&name).expect("it was written to in this turn");
                if let Err(error) = part.sync(&*self.disk) {
                    outcome.fails(place, error);
                }
            }
        }
        outcome
    }

    fn append(&mut self, name: &str, lot: &mut Lot) -> io::Result<()> {
        let lines = direct::fill_up(&mut lot.buffer, lot.start);
        let bytes = self.compression.pack(&lot.buffer[lines])?;
        let is_full = |part: &Part| {
            part.is_suspect
                || (part.len() > 0 && part.len() + bytes.len() as u64 > self.bounds.bytes)
                || part.born.elapsed() >= self.bounds.age
        };
        if self.parts.get(name).is_some_and(is_full) {
            self.complete(name)?;
        }
        self.make_room(name)?;
        self.turn += 1;
        if !self.parts.contains_key(name) {
            let part = Part::create(&*self.disk, &self.root, self.root.join(name))?;
            self.open += 1;
            self.parts.insert(name.to_owned(), part);
        }
        let part = self.parts.get_mut(name).expect("it is there, or was made");
        let was_open = part.is_open();
        part.used = self.turn;
        let in_place = match bytes {
            Cow::Borrowed(_) => direct::in_place(&lot.buffer, lot.start, part.tail()),
            Cow::Owned(_) => None,
        };
        let written = part.write(&*self.disk, &bytes, in_place, &mut self.blocks);
        self.open = self.open + usize::from(part.is_open()) - usize::from(was_open);
        written
    }

    /// Keeps the bounds, with the file `name` among those that are open.
    fn make_room(&mut self, name: &str) -> io::Result<()> {
        let part = self.parts.get(name);
        if part.is_none() && self.parts.len() >= PARTS_MAX {
            let oldest = self.parts.iter().min_by_key(|(_, part)| part.used).map(|(name, _)| name.clone());
            self.complete(&oldest.unwrap_or_default())?;
        } else if !part.is_some_and(Part::is_open) && self.open >= OPEN_MAX {
            let open = self.parts.values_mut().filter(|part| part.is_open());
            if let Some(oldest) = open.min_by_key(|part| part.used) {
                oldest.shut();
                self.open -= 1;
            }
        }
        Ok(())
    }

    fn complete(&mut self, name: &str) -> io::Result<()> {
        let Some(part) = self.parts.get_mut(name) else { return Ok(()) };
        let was_open = part.is_open();
        match part.complete(&*self.disk) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::error!(file = name, "a file was removed while it was written");
            }
            Err(error) => {
                // Opened for this alone; there may be thousands of them.
                if !was_open {
                    part.shut();
                }
                return Err(error);
            }
            Ok(()) => {}
        }
        self.open -= usize::from(was_open);
        self.parts.remove(name);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn open_files(&self) -> usize {
        assert_eq!(self.open, self.parts.values().filter(|part| part.is_open()).count());
        self.open
    }

    fn names_of(&self, wanted: impl Fn(&Part) -> bool) -> Vec<String> {
        self.parts.iter().filter(|(_, part)| wanted(part)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether a file is old enough.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.parts.values().any(|part| now.duration_since(part.born) >= self.bounds.age)
    }

    /// Completes files that are old enough. What fails is tried again at the next look.
    pub(super) fn complete_due(&mut self, now: Instant) {
        let age = self.bounds.age;
        for name in self.names_of(|part| now.duration_since(part.born) >= age) {
            if let Err(error) = self.complete(&name) {
                tracing::warn!(file = name, %error, "a file cannot be completed");
            }
        }
    }

    /// Completes every file that it can.
    ///
    /// # Errors
    ///
    /// The last reason why one could not; the next run will try it.
    pub(super) fn complete_all(&mut self) -> io::Result<()> {
        let mut completed = Ok(());
        for name in self.names_of(|_| true) {
            completed = self.complete(&name).and(completed);
        }
        completed
    }
}

/// Makes a directory with all above it.
fn create(path: &Path) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|above| !above.exists()).collect();
    missing.into_iter().rev().try_for_each(|path| create_directory(&Real, path))
}

/// Takes a directory for this sink alone, with all that is below it.
fn lock(root: &Path) -> io::Result<File> {
    let lock = File::open(root)?;
    lock.try_lock().map_err(|error| busy(root, error))?;
    for above in root.ancestors().skip(1) {
        // Not ours, but nobody's either: whoever writes there would write here.
        match File::open(above) {
            Ok(above_file) => above_file.try_lock_shared().map_err(|error| busy(above, error))?,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lock)
}

fn busy(path: &Path, error: TryLockError) -> io::Error {
    match error {
        TryLockError::Error(error) => error,
        TryLockError::WouldBlock => {
            let problem = format!("another sink, here or in another process, writes to {}", path.display());
            io::Error::new(io::ErrorKind::ResourceBusy, problem)
        }
    }
}

/// Completes what is left in a directory and below it: the last run has not ended as it should.
fn recover(directory: &Path, depth: usize) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && depth < DEPTH_MAX {
            File::open(&path)?.try_lock_shared().map_err(|error| busy(&path, error))?;
            recover(&path, depth + 1)?;
        } else if kind.is_file()
            && let Some(target) = entry.file_name().to_str().and_then(target_of)
        {
            recover_part(&path, target)?;
        }
    }
    Ok(())
}

fn recover_part(path: &Path, target: &str) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let (len, whole) = (file.metadata()?.len(), whole(&file, Compression::of_name(target))?);
    if whole < len {
        file.set_len(whole)?;
    }
    file.sync_all()?;
    let target = path.with_file_name(target);
    settle(&Real, path, &target, whole)?;
    tracing::info!(file = %target.display(), bytes = whole, cut = len - whole, "completed what an earlier run had left");
    Ok(())
}
