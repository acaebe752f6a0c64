//! A file system that keeps the least that POSIX lets it keep, and fails when it is told to. Deterministic.
//!
//! What was not synced is a list of what was done since. A crash keeps any part of it: each sector of a write, each length,
//! each name on its own. A failed sync does the same to the file at once and then calls it clean, as Linux does: what
//! it lost stays readable until the crash, and no later sync brings it back.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::fs::{Access, File, Fs};

const SECTOR: u64 = 512;

/// A small generator with good bits (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Less than `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// One in so many calls fails with EIO; 0: none.
    pub(crate) eio_in: u64,
    /// One in so many writes takes only a part; 0: none.
    pub(crate) short_in: u64,
    /// Bytes on the disk in all.
    pub(crate) space: Option<u64>,
    /// So many of the next syncs, cuts and writes of files fail with EIO.
    pub(crate) syncs_fail: u64,
    pub(crate) cuts_fail: u64,
    pub(crate) writes_fail: u64,
}

/// Whether one more is to fail.
fn fails(left: &mut u64) -> bool {
    let fails = *left > 0;
    *left = left.saturating_sub(1);
    fails
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: u64, bytes: Vec<u8> },
    Length(u64),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(len) => content.resize(*len as usize, 0),
            Self::Write { at, bytes } => {
                let end = *at as usize + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*at as usize..end].copy_from_slice(bytes);
            }
        }
    }

    /// Applies any part of it.
    fn tear(&self, content: &mut Vec<u8>, rng: &mut Rng) {
        let Self::Write { at, bytes } = self else {
            if rng.once_in(2) {
                self.apply(content);
            }
            return;
        };
        // All or nothing is as likely as a mixture.
        let mood = rng.below(3);
        let (mut from, end) = (*at, at + bytes.len() as u64);
        while from < end {
            let to = ((from / SECTOR + 1) * SECTOR).min(end);
            if mood == 0 || (mood == 1 && rng.once_in(2)) {
                let piece = &bytes[(from - at) as usize..(to - at) as usize];
                Self::Write { at: from, bytes: piece.to_vec() }.apply(content);
            }
            from = to;
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
}

impl Inode {
    /// What a crash or a failed sync leaves on the disk.
    fn tear(&mut self, rng: &mut Rng) {
        for change in std::mem::take(&mut self.changes) {
            change.tear(&mut self.durable, rng);
        }
    }
}

/// A change of the directory. Each is about one file, whatever has its name when the change takes hold.
#[derive(Clone, Debug)]
enum Entry {
    Link(String, usize),
    Unlink(String, usize),
    Rename(String, String, usize),
}

impl Entry {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, inode) => drop(names.insert(name.clone(), *inode)),
            Self::Unlink(name, inode) => unlink(names, name, *inode),
            Self::Rename(from, to, inode) => {
                unlink(names, from, *inode);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

fn unlink(names: &mut BTreeMap<String, usize>, name: &str, inode: usize) {
    if names.get(name) == Some(&inode) {
        names.remove(name);
    }
}

#[derive(Debug)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    entries: Vec<Entry>,
    rng: Rng,
    faults: Faults,
    /// How many more calls there are before the power goes.
    calls_left: Option<u64>,
    /// Which handle has the lock; handles of before a crash are dead.
    generation: u64,
    calls: u64,
    bytes_read: u64,
    /// The file whose first block cannot be read.
    broken: Option<usize>,
}

/// A handle on the simulated directory. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Sim {
    disk: Arc<Mutex<Disk>>,
    generation: u64,
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        let disk = Disk {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            entries: Vec::new(),
            rng: Rng(seed),
            faults: Faults::default(),
            calls_left: None,
            generation: 0,
            calls: 0,
            bytes_read: 0,
            broken: None,
        };
        Self { disk: Arc::new(Mutex::new(disk)), generation: 0 }
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.disk.lock().faults = faults;
    }

    /// The power goes after so many more calls.
    pub(crate) fn crash_after(&self, calls: u64) {
        self.disk.lock().calls_left = Some(calls);
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.disk.lock().calls_left == Some(0)
    }

    /// How many calls were made that change something.
    pub(crate) fn calls(&self) -> u64 {
        self.disk.lock().calls
    }

    /// How many bytes were read.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.disk.lock().bytes_read
    }

    /// How many bytes the files have.
    pub(crate) fn used(&self) -> u64 {
        self.disk.lock().used()
    }

    /// The first 4 KiB of a file cannot be read from now on.
    pub(crate) fn break_block(&self, name: &str) {
        let mut disk = self.disk.lock();
        disk.broken = Some(disk.names[name]);
    }

    /// The power goes, if it has not yet, and comes back: a handle on what is left. Others are dead.
    pub(crate) fn crash(&self) -> Self {
        let mut disk = self.disk.lock();
        let disk = &mut *disk;
        for entry in std::mem::take(&mut disk.entries) {
            if disk.rng.once_in(2) {
                entry.apply(&mut disk.durable_names);
            }
        }
        for inode in &mut disk.inodes {
            inode.tear(&mut disk.rng);
            inode.content.clone_from(&inode.durable);
        }
        disk.names.clone_from(&disk.durable_names);
        disk.calls_left = None;
        disk.generation += 1;
        Self { disk: Arc::clone(&self.disk), generation: disk.generation }
    }

    /// Ends the process, not the machine: everything written is still there.
    pub(crate) fn kill(&self) -> Self {
        let mut disk = self.disk.lock();
        disk.calls_left = None;
        disk.generation += 1;
        Self { disk: Arc::clone(&self.disk), generation: disk.generation }
    }

    /// The content of a file.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let disk = self.disk.lock();
        disk.inodes[disk.names[name]].content.clone()
    }

    /// Changes bytes of a file behind everybody's back.
    pub(crate) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.disk.lock();
        let inode = disk.names[name];
        let inode = &mut disk.inodes[inode];
        change(&mut inode.content);
        inode.durable.clone_from(&inode.content);
    }

    /// An independent disk with the same content.
    pub(crate) fn copy(&self) -> Self {
        let disk = self.disk.lock();
        let copy = Self::new(disk.rng.0);
        {
            let mut to = copy.disk.lock();
            to.inodes.clone_from(&disk.inodes);
            to.names.clone_from(&disk.names);
            to.durable_names.clone_from(&disk.durable_names);
        }
        copy
    }

    /// One more call that changes something, unless the power is gone or the disk fails.
    fn call(&self) -> io::Result<parking_lot::MutexGuard<'_, Disk>> {
        let mut disk = self.disk.lock();
        disk.check(self.generation)?;
        disk.calls += 1;
        if let Some(left) = &mut disk.calls_left {
            *left -= 1;
        }
        // The call during which the power goes is half done or not at all: it fails, and may leave its mark.
        if disk.calls_left == Some(0) {
            return if disk.rng.once_in(2) { Ok(disk) } else { Err(Errno::IO.into()) };
        }
        let eio_in = disk.faults.eio_in;
        if eio_in > 0 && disk.rng.once_in(eio_in) {
            return Err(Errno::IO.into());
        }
        Ok(disk)
    }
}

impl Disk {
    fn check(&self, generation: u64) -> io::Result<()> {
        if self.generation != generation || self.calls_left == Some(0) {
            return Err(io::Error::other("the power is gone"));
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].content.len() as u64).sum()
    }

    fn enter(&mut self, entry: Entry) {
        entry.apply(&mut self.names);
        self.entries.push(entry);
    }
}

impl Fs for Sim {
    fn lock(&self) -> io::Result<()> {
        self.disk.lock().check(self.generation)
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let disk = self.disk.lock();
        disk.check(self.generation)?;
        let of = |(name, inode): (&String, &usize)| (name.clone(), disk.inodes[*inode].content.len() as u64);
        Ok(disk.names.iter().map(of).collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut disk = self.call()?;
        if disk.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.enter(Entry::Link(name.to_owned(), inode));
        Ok(Arc::new(SimFile { sim: self.clone(), inode, access: Access::Write }))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let disk = self.disk.lock();
        disk.check(self.generation)?;
        let inode = *disk.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { sim: self.clone(), inode, access }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.call()?;
        let inode = *disk.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        disk.enter(Entry::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        let mut disk = self.call()?;
        let inode = *disk.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        disk.enter(Entry::Unlink(name.to_owned(), inode));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.call()?;
        let disk = &mut *disk;
        for entry in std::mem::take(&mut disk.entries) {
            entry.apply(&mut disk.durable_names);
        }
        if disk.calls_left == Some(0) { Err(Errno::IO.into()) } else { Ok(()) }
    }

    fn free(&self) -> Option<u64> {
        let disk = self.disk.lock();
        disk.faults.space.map(|space| space.saturating_sub(disk.used()))
    }
}

#[derive(Debug)]
struct SimFile {
    sim: Sim,
    inode: usize,
    access: Access,
}

impl SimFile {
    fn change(&self, disk: &mut Disk, change: Change) {
        assert_eq!(self.access, Access::Write);
        let inode = &mut disk.inodes[self.inode];
        change.apply(&mut inode.content);
        inode.changes.push(change);
    }

    /// How many more bytes the disk has for a file that should be `len` long.
    fn room(&self, disk: &Disk, len: u64) -> u64 {
        let held = disk.inodes[self.inode].content.len() as u64;
        let space = disk.faults.space.unwrap_or(u64::MAX / 2);
        len.min(held.max(held + space.saturating_sub(disk.used())))
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        let disk = self.sim.disk.lock();
        disk.check(self.sim.generation)?;
        Ok(disk.inodes[self.inode].content.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut disk = self.sim.disk.lock();
        disk.check(self.sim.generation)?;
        if disk.broken == Some(self.inode) && at < 4096 {
            return Err(Errno::IO.into());
        }
        let content = &disk.inodes[self.inode].content;
        let from = content.get(at as usize..).unwrap_or_default();
        let bytes = from.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&from[..bytes]);
        disk.bytes_read += bytes as u64;
        Ok(bytes)
    }

    fn write_at(&self, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let mut disk = self.sim.call()?;
        if fails(&mut disk.faults.writes_fail) {
            return Err(Errno::IO.into());
        }
        let mut bytes = pieces.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<u8>>();
        let short_in = disk.faults.short_in;
        if short_in > 0 && bytes.len() > 1 && disk.rng.once_in(short_in) {
            let part = 1 + disk.rng.below(bytes.len() as u64 - 1);
            bytes.truncate(part as usize);
        }
        let room = self.room(&disk, at + bytes.len() as u64).saturating_sub(at);
        if room == 0 && !bytes.is_empty() {
            return Err(Errno::NOSPC.into());
        }
        bytes.truncate(room as usize);
        let written = bytes.len();
        self.change(&mut disk, Change::Write { at, bytes });
        if disk.calls_left == Some(0) { Err(Errno::IO.into()) } else { Ok(written) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.sim.call()?;
        if fails(&mut disk.faults.cuts_fail) {
            return Err(Errno::IO.into());
        }
        self.change(&mut disk, Change::Length(len));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut disk = self.sim.call()?;
        if self.room(&disk, len) < len {
            return Err(Errno::NOSPC.into());
        }
        self.change(&mut disk, Change::Length(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let synced = self
            .sim
            .call()
            .and_then(|mut disk| if fails(&mut disk.faults.syncs_fail) { Err(Errno::IO.into()) } else { Ok(disk) });
        match synced {
            Ok(mut disk) => {
                let gone = disk.calls_left == Some(0);
                let inode = &mut disk.inodes[self.inode];
                for change in std::mem::take(&mut inode.changes) {
                    change.apply(&mut inode.durable);
                }
                if gone { Err(Errno::IO.into()) } else { Ok(()) }
            }
            Err(error) => {
                let mut disk = self.sim.disk.lock();
                if disk.check(self.sim.generation).is_ok() {
                    let disk = &mut *disk;
                    disk.inodes[self.inode].tear(&mut disk.rng);
                }
                Err(error)
            }
        }
    }
}
