//! Copies of what is damaged, for people to look at; bounded.

use std::{
    io::{self, IoSlice},
    ops::Range,
};

use super::{
    format::{Base, QUARANTINE},
    fs::{File, Fs},
};

/// The most that is kept of one damaged place, in bytes.
const PIECE_MAX: u64 = 16 << 20;
/// The most that is kept in all, in bytes.
const BYTES_MAX: u64 = 64 << 20;
/// The most files.
const FILES_MAX: usize = 256;

/// How much is in quarantine.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    files: usize,
    bytes: u64,
}

impl Quarantine {
    /// What a directory's files say of it.
    pub(crate) fn of(files: &[(String, u64)]) -> Self {
        let kept = || files.iter().filter(|(name, _)| name.starts_with(QUARANTINE));
        Self { files: kept().count(), bytes: kept().map(|(_, bytes)| bytes).sum() }
    }

    /// One that takes nothing: for who only looks.
    pub(crate) fn shut() -> Self {
        Self { files: FILES_MAX, bytes: 0 }
    }

    /// Copies a damaged part of a segment, unless the quarantine is full. It is a help, so a failure is none of the log's.
    pub(crate) fn keep(&mut self, fs: &dyn Fs, file: &dyn File, base: Base, damage: Range<u64>) {
        let bytes = (damage.end - damage.start).min(PIECE_MAX);
        if self.files >= FILES_MAX || self.bytes + bytes > BYTES_MAX {
            tracing::warn!(segment = base.seq, ?damage, "damage in the spool, of which no copy is kept");
            return;
        }
        match copy(fs, file, base, damage.start, bytes) {
            Ok(name) => {
                self.files += 1;
                self.bytes += bytes;
                tracing::warn!(segment = base.seq, ?damage, copy = name, "damage in the spool");
            }
            Err(error) => tracing::warn!(segment = base.seq, ?damage, %error, "damage in the spool, and no copy of it"),
        }
    }
}

fn copy(fs: &dyn Fs, file: &dyn File, base: Base, at: u64, bytes: u64) -> io::Result<String> {
    let mut piece = vec![0; bytes as usize];
    file.read_exact_at(&mut piece, at)?;
    let name = format!("{QUARANTINE}{:020}-{at:012}.bin", base.seq);
    let copy = fs.create_anew(&name)?;
    // Not synced: what it is a copy of stays where it is.
    copy.write_all_at(&mut [IoSlice::new(&piece)], 0)?;
    Ok(name)
}
