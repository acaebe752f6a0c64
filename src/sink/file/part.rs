//! One file while it is written, and how it gets its name.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use tokio::time::Instant;

use super::{
    direct::{self, Blocks, Tail},
    disk::Disk,
};

/// What a file is called until it is complete: no template makes a name that begins with a dot.
const PREFIX: &str = ".";
const SUFFIX: &str = ".part";

/// A file that is not complete.
#[derive(Debug)]
pub(super) struct Part {
    /// What it will be called.
    target: PathBuf,
    path: PathBuf,
    /// `None` where too many others are open.
    file: Option<File>,
    /// What of it is synced, in bytes.
    len: u64,
    /// What was written behind that.
    written: u64,
    /// What is written next goes past the page cache.
    is_direct: bool,
    /// Not where the file system has no such way.
    may_be_direct: bool,
    /// Of what is synced, and then of what was written.
    tail: Tail,
    /// Zeros may stand behind all that was written.
    is_padded: bool,
    /// Something may stand behind all that is counted.
    is_torn: bool,
    /// A sync has failed: what the disk has is not what is read, and nothing more belongs behind it.
    pub(super) is_suspect: bool,
    pub(super) born: Instant,
    /// When it was last written to, in turns.
    pub(super) used: u64,
}

impl Part {
    /// Makes the file `target` is to become, with the directories that it takes below `root`.
    pub(super) fn create(disk: &dyn Disk, root: &Path, target: PathBuf) -> io::Result<Self> {
        let path = path_of(&target);
        create_above(disk, root, &path)?;
        let file = create_or_find_empty(&path)?;
        // What is left of it would be in the way of the next try.
        disk.sync_name(&path).inspect_err(|_| drop(fs::remove_file(&path)))?;
        let born = Instant::now();
        Ok(Self {
            target,
            path,
            file: Some(file),
            len: 0,
            written: 0,
            is_direct: false,
            may_be_direct: true,
            tail: Tail::default(),
            is_padded: false,
            is_torn: false,
            is_suspect: false,
            born,
            used: 0,
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes of it that fill no block yet.
    pub(super) fn tail(&self) -> &[u8] {
        self.tail.bytes()
    }

    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Gives the descriptor back; the next write takes one again.
    pub(super) fn shut(&mut self) {
        (self.file, self.is_direct) = (None, false);
    }

    fn open(&mut self) -> io::Result<&File> {
        match &mut self.file {
            Some(file) => Ok(file),
            none => Ok(none.insert(OpenOptions::new().write(true).open(&self.path)?)),
        }
    }

    /// Writes behind what is synced, all of it or nothing. `in_place` are whole blocks of the same, its tail in front of them, where there
    /// are; elsewhere they are put together in `blocks`.
    pub(super) fn write(
        &mut self,
        disk: &dyn Disk,
        bytes: &[u8],
        in_place: Option<&[u8]>,
        blocks: &mut Blocks,
    ) -> io::Result<()> {
        self.mend(disk)?;
        self.open()?;
        let len = self.len;
        let written = match self.write_direct(disk, bytes, in_place, blocks) {
            Some(written) => written,
            None => write_all_at(disk, self.open()?, bytes, len),
        };
        match written {
            Ok(()) => {
                self.written = bytes.len() as u64;
                self.tail.push(bytes);
            }
            Err(_) => self.cut(disk),
        }
        written
    }

    /// As [`Part::write`], past the page cache; `None` if that is not to be, or cannot.
    fn write_direct(
        &mut self,
        disk: &dyn Disk,
        bytes: &[u8],
        in_place: Option<&[u8]>,
        blocks: &mut Blocks,
    ) -> Option<io::Result<()>> {
        self.set_direct(disk, self.may_be_direct && bytes.len() >= direct::BYTES_MIN);
        let file = self.file.as_ref().filter(|_| self.is_direct)?;
        self.is_padded = true;
        let tail = self.tail.bytes();
        let start = self.len - tail.len() as u64;
        let written = match in_place {
            Some(whole) => write_all_at(disk, file, whole, start),
            None => blocks.fill(tail, bytes, |whole, before| write_all_at(disk, file, whole, start + before)),
        };
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput) {
            // Its blocks are larger, or it cannot after all.
            self.may_be_direct = false;
            self.set_direct(disk, false);
            return None;
        }
        Some(written)
    }

    fn set_direct(&mut self, disk: &dyn Disk, is_direct: bool) {
        let Some(file) = self.file.as_ref().filter(|_| is_direct != self.is_direct) else { return };
        if disk.set_direct(file, is_direct).is_ok() {
            self.is_direct = is_direct;
        } else {
            self.may_be_direct = false;
            // What is opened anew is not.
            self.shut();
        }
    }

    /// Syncs what was written; if that fails, nothing was.
    pub(super) fn sync(&mut self, disk: &dyn Disk) -> io::Result<()> {
        let synced = self.open().and_then(|file| disk.sync(file));
        match synced {
            Ok(()) => self.len += self.written,
            Err(_) => {
                self.is_suspect = true;
                self.cut(disk);
            }
        }
        self.written = 0;
        synced
    }

    /// Takes away what stands behind the synced lines. A disk that refuses even that is asked again before anything is done.
    fn cut(&mut self, disk: &dyn Disk) {
        self.is_torn = true;
        let _ = self.mend(disk);
    }

    fn mend(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.is_torn {
            let len = self.len;
            disk.cut(self.open()?, len)?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// Gives the file its name. One without lines is removed.
    pub(super) fn complete(&mut self, disk: &dyn Disk) -> io::Result<()> {
        self.mend(disk)?;
        if self.is_padded {
            let len = self.len;
            let file = self.open()?;
            // Before it has its name: with that, nobody cuts it any more.
            disk.cut(file, len).and_then(|()| disk.sync(file))?;
            self.is_padded = false;
        }
        settle(disk, &self.path, &self.target, self.len)
    }
}

/// Makes the file at `path`. One that is there and empty is what an earlier try could not take away.
fn create_or_find_empty(path: &Path) -> io::Result<File> {
    match OpenOptions::new().write(true).create_new(true).mode(0o640).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::metadata(path)?.len() == 0 => {
            OpenOptions::new().write(true).open(path)
        }
        made => made,
    }
}

fn write_all_at(disk: &dyn Disk, file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match disk.write_at(file, bytes, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                at += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Renames the file at `path`, which has `len` bytes that are synced, to `target` or the like of it.
pub(super) fn settle(disk: &dyn Disk, path: &Path, target: &Path, len: u64) -> io::Result<()> {
    match len {
        0 => fs::remove_file(path)?,
        // Nobody else writes here, so that the name is still free when it is taken.
        _ => fs::rename(path, free(target)?)?,
    }
    disk.sync_name(path)
}

/// `target` if nothing has that name, or else with the first free number before its endings.
fn free(target: &Path) -> io::Result<PathBuf> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".zst").or_else(|| name.strip_suffix(".gz")).unwrap_or(&name);
    let (stem, ending) = name.split_at(stem.rfind('.').unwrap_or(stem.len()));
    let mut path = target.to_owned();
    let mut number = 1_u64;
    loop {
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
            Ok(_) => number += 1,
        }
        path.set_file_name(format!("{stem}-{number}{ending}"));
    }
}

/// Where the file that is to become `target` is until then.
fn path_of(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{PREFIX}{name}{SUFFIX}"))
}

/// What the file with this name is to become; `None` if it is none of ours, or complete.
pub(super) fn target_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX).filter(|name| !name.is_empty() && !name.starts_with('.'))
}

/// Makes the directories that `path` takes below `root`; each new name is to outlive a crash as the file does.
fn create_above(disk: &dyn Disk, root: &Path, path: &Path) -> io::Result<()> {
    let above = path.parent().unwrap_or(root);
    let below_root: Vec<_> = above.ancestors().take_while(|directory| *directory != root).collect();
    for directory in below_root.into_iter().rev() {
        create_directory(disk, directory)?;
    }
    Ok(())
}

/// Makes a directory if it is not there.
pub(super) fn create_directory(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o750).create(path) {
        // The next try is to make it durable, too.
        Ok(()) => disk.sync_name(path).inspect_err(|_| drop(fs::remove_dir(path))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}
