//! A small table that outlives a crash: names and what is known of them, in one file of changes.
//!
//! ```text
//! file    FDTABLE\n, frames
//! frame   bytes u32 · CRC32C of what follows u32 · changes
//! change  set 1 or removed 0 u8 · name's bytes u16 · value's bytes u16 · name · value
//! ```
//!
//! What changed since the last time is one more frame, written and synced; once the frames hold more than twice what is
//! true, the whole table is written anew beside the file and takes its name. A frame that is damaged or torn costs its own
//! changes: what they changed stands where it stood before.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSlice},
    sync::Arc,
};

use super::{
    format::{UNFINISHED, checksum, u32_at},
    fs::{Access, File, Fs},
    scan::is_damage,
};

const MAGIC: &[u8; 8] = b"FDTABLE\n";
const FRAME: usize = 8;
const CHANGE: usize = 5;

/// Frames are not written anew for less than this many bytes.
const BYTES_MIN: u64 = 64 << 10;

type Name = Box<[u8]>;

#[derive(Debug)]
pub(crate) struct Table {
    name: &'static str,
    rows: BTreeMap<Name, Box<[u8]>>,
    /// Names set or removed since they were last stored.
    changed: BTreeSet<Name>,
    /// Whether it was read and not stored since: a process that was killed may have left what only the page cache holds.
    is_unsure: bool,
    /// The file and where its last frame ends; `None` if the table has to be written anew.
    file: Option<(Arc<dyn File>, u64)>,
}

impl Table {
    /// Reads the table, or begins one.
    pub(crate) fn open(fs: &dyn Fs, name: &'static str) -> io::Result<Self> {
        let mut table = Self { name, rows: BTreeMap::new(), changed: BTreeSet::new(), is_unsure: false, file: None };
        match fs.open(name, Access::Read) {
            Ok(file) => {
                table.is_unsure = true;
                match table.read(&*file) {
                    // The rest of the spool is worth starting for.
                    Err(error) if is_damage(&error) => tracing::error!(%error, table = name, "unreadable, begun anew"),
                    read => read?,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(table)
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.rows.iter().map(|(name, value)| (&**name, &**value))
    }

    pub(crate) fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.rows.get(name).map(|value| &**value)
    }

    /// Both at most 64 KiB; a longer row is not kept.
    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) {
        if name.len().max(value.len()) > usize::from(u16::MAX) {
            tracing::error!(
                table = self.name,
                name = name.len(),
                value = value.len(),
                "too long for a row of the spool"
            );
        } else if self.value(name) != Some(value) {
            self.rows.insert(name.into(), value.into());
            self.changed.insert(name.into());
        }
    }

    pub(crate) fn remove(&mut self, name: &[u8]) {
        if self.rows.remove(name).is_some() {
            self.changed.insert(name.into());
        }
    }

    /// Makes every row durable. After an error none of them counts as stored, and the next call tries anew.
    pub(crate) fn store(&mut self, fs: &dyn Fs) -> io::Result<()> {
        if self.changed.is_empty() && !self.is_unsure {
            return Ok(());
        }
        let kept: u64 = self.rows.iter().map(|(name, value)| (CHANGE + name.len() + value.len()) as u64).sum();
        // A file that a write or sync failed on is not written to again: `take` forgets it unless all goes well.
        self.file = match self.file.take().filter(|(_, end)| *end < BYTES_MIN.max(2 * kept)) {
            Some((file, end)) => {
                let frame = self.frame(&mut self.changed.iter());
                file.write_all_at(&mut [IoSlice::new(&frame)], end)?;
                file.sync()?;
                Some((file, end + frame.len() as u64))
            }
            None => Some(self.write_anew(fs)?),
        };
        self.changed.clear();
        self.is_unsure = false;
        Ok(())
    }

    fn write_anew(&self, fs: &dyn Fs) -> io::Result<(Arc<dyn File>, u64)> {
        let unfinished = format!("{}{UNFINISHED}", self.name);
        let file = fs.create_anew(&unfinished)?;
        let frame = self.frame(&mut self.rows.keys());
        file.write_all_at(&mut [IoSlice::new(MAGIC), IoSlice::new(&frame)], 0)?;
        file.sync()?;
        fs.rename(&unfinished, self.name)?;
        fs.sync_dir()?;
        Ok((file, (MAGIC.len() + frame.len()) as u64))
    }

    fn frame(&self, names: &mut dyn Iterator<Item = &Name>) -> Vec<u8> {
        let mut frame = vec![0; FRAME];
        for name in names {
            let value = self.rows.get(name);
            let bytes = value.map_or(0, |value| value.len());
            frame.push(value.is_some().into());
            frame.extend_from_slice(&(name.len() as u16).to_le_bytes());
            frame.extend_from_slice(&(bytes as u16).to_le_bytes());
            frame.extend_from_slice(name);
            frame.extend_from_slice(value.map_or(&[], |value| value));
        }
        let bytes = ((frame.len() - FRAME) as u32).to_le_bytes();
        let crc = checksum(&[&frame[FRAME..]]).to_le_bytes();
        frame[..4].copy_from_slice(&bytes);
        frame[4..FRAME].copy_from_slice(&crc);
        frame
    }

    /// Takes in every whole frame. The file is not written to again: its last frame may be torn, or not synced.
    fn read(&mut self, file: &dyn File) -> io::Result<()> {
        let mut bytes = vec![0; file.len()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let mut rest = bytes.get(MAGIC.len()..).unwrap_or_default();
        while let Some((head, frames)) = rest.split_first_chunk::<FRAME>() {
            let Some((changes, frames)) = frames.split_at_checked(u32_at(head, 0) as usize) else { break };
            if checksum(&[changes]) == u32_at(head, 4) {
                self.take_in(changes);
            }
            rest = frames;
        }
        Ok(())
    }

    fn take_in(&mut self, mut changes: &[u8]) {
        while let Some(([set, head @ ..], rest)) = changes.split_first_chunk::<CHANGE>() {
            let [name, value] = [&head[..2], &head[2..]].map(|len| usize::from(u16::from_le_bytes([len[0], len[1]])));
            let (Some(name), Some(value)) = (rest.get(..name), rest.get(name..name + value)) else { break };
            if *set == 1 {
                self.rows.insert(name.into(), value.into());
            } else {
                self.rows.remove(name);
            }
            changes = &rest[name.len() + value.len()..];
        }
    }
}
