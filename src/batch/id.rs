//! The name of a line, by which a reader resumes.

use std::{fmt, num::NonZeroU32, str::FromStr};

use jiff::Timestamp;

use super::{
    SPOOLED,
    digits::{HEX_MAX, put_hex},
    shown_seq,
};

/// Names one line for as long as this process lives (with a spool: longer). Opaque to users, who hand it back to resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    pub(crate) epoch: u64,
    pub(crate) line: u64,
    pub(crate) machine_seq: u64,
    /// Tells one machine's ids from another's: who resumes in the log of another machine than the id is of must not be told
    /// a number of skipped lines that was counted there. See [`EntryId::mark`].
    pub(crate) machine: u32,
}

impl EntryId {
    /// A short hash of a machine's name, the same in every process: with a spool, ids outlive theirs.
    pub(crate) fn mark(machine: &str) -> u32 {
        mark_of(machine.as_bytes())
    }

    /// Appends what `Display` shows, without its machinery.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        let (mut text, mut len) = ([0; 4 * (HEX_MAX + 1)], 0);
        for number in [self.epoch, self.line, self.machine_seq, self.machine.into()] {
            len = put_hex(&mut text, len, number);
            text[len] = b'-';
            len += 1;
        }
        out.extend_from_slice(&text[..len - 1]);
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}-{:x}", self.epoch, self.line, self.machine_seq, self.machine)
    }
}

fn mark_of(machine: &[u8]) -> u32 {
    // FNV-1a, folded. Two machines with the same mark cost a wrong number of skipped lines, no line. Another hash would be another id
    // for lines that spools and stores have.
    let hash = machine
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ hash >> 32) as u32
}

/// What [`EntryId::mark`] makes of a machine, kept so that it need not be made for each line; of one machine in four billion it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(NonZeroU32);

impl Mark {
    pub(crate) fn of(machine: &[u8]) -> Option<Self> {
        NonZeroU32::new(mark_of(machine)).map(Self)
    }
}

/// A text that is no id of an entry; see [`EntryId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an entry id")]
pub struct BadEntryId(String);

impl FromStr for EntryId {
    type Err = BadEntryId;

    fn from_str(text: &str) -> Result<Self, BadEntryId> {
        let parse = || {
            let mut parts = text.split('-').map(|part| match part.as_bytes() {
                [b'0'..=b'9' | b'a'..=b'f', ..] => u64::from_str_radix(part, 16).ok(),
                _ => None,
            });
            let (epoch, line, machine_seq) = (parts.next()??, parts.next()??, parts.next()??);
            let id = Self { epoch, line, machine_seq, machine: parts.next()??.try_into().ok()? };
            parts.next().is_none().then_some(id)
        };
        parse().ok_or_else(|| BadEntryId(text.chars().take(80).collect()))
    }
}

/// What the drain adds to a record: what its id is made of, and when it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) epoch: u64,
    pub(crate) line: u64,
    pub(crate) machine_seq: u64,
    /// The machine's, where it is known.
    pub(crate) mark: Option<Mark>,
    pub(crate) received_at: Timestamp,
}

impl Origin {
    /// The id, which is made only where it is shown: few of the lines that are looked at are.
    pub(super) fn id(self, machine: &[u8]) -> EntryId {
        let Self { epoch, line, machine_seq, mark, .. } = self;
        // An id that outlives the process is the same in the next one, which counts a machine's lines anew.
        let machine_seq = shown_seq(machine_seq).filter(|_| epoch & SPOOLED == 0).unwrap_or(0);
        EntryId { epoch, line, machine_seq, machine: mark.map_or_else(|| mark_of(machine), |Mark(mark)| mark.get()) }
    }
}
