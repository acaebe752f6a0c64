//! What is kept of a queue beside its position.

use crate::{batch::Streams, config::Full};

/// The first byte of what this code writes.
const VERSION: u8 = 3;
/// It has nothing skipped.
const BEFORE: u8 = 2;
/// It has no beginning either.
const FIRST: u8 = 1;
/// In place of a line that is not known.
const UNKNOWN: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) streams: Streams,
    pub(super) full: Full,
    /// The line of all machines' that it began with.
    pub(super) began: Option<u64>,
    /// Wanted lines that were not delivered, and the batch before which they are.
    pub(super) left: Option<(u64, u64)>,
    /// Lines that were dropped, and counted, of which its reader is still to be told.
    pub(super) skipped: u64,
    /// A finished machine's queue ends before this batch.
    pub(super) end: Option<u64>,
}

impl Note {
    /// As one of two queues of a machine: of the two the later one's terms count.
    pub(super) fn with(self, other: Self) -> Self {
        let is_later = other.end.unwrap_or(u64::MAX) > self.end.unwrap_or(u64::MAX);
        let left = self.left.zip(other.left).map(|((lines, to), (more, other))| (lines + more, to.max(other)));
        let skipped = self.skipped + other.skipped;
        Self { left, skipped, ..if is_later { other } else { self } }
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let full = match self.full {
            Full::CatchUp => 0,
            Full::Block => 1,
            Full::DropOldest => 2,
        };
        let mut note = vec![VERSION, self.streams.bits(), full];
        note.extend(self.began.unwrap_or(UNKNOWN).to_le_bytes());
        let (lines, to) = self.left.unwrap_or((UNKNOWN, UNKNOWN));
        note.extend([lines, to, self.skipped].into_iter().flat_map(u64::to_le_bytes));
        note.extend(self.end.into_iter().flat_map(u64::to_le_bytes));
        note
    }

    pub(super) fn decode(note: &[u8]) -> Option<Self> {
        let ([version, streams, full], rest) = note.split_first_chunk()?;
        let full = match full {
            0 => Full::CatchUp,
            1 => Full::Block,
            2 => Full::DropOldest,
            _ => return None,
        };
        let numbers = match *version {
            VERSION => 4,
            BEFORE => 3,
            FIRST => 0,
            _ => return None,
        };
        let (known, end) = rest.split_at_checked(8 * numbers)?;
        let number = |at: usize| known.get(8 * at..)?.first_chunk().copied().map(u64::from_le_bytes);
        let [began, lines, to, skipped] = [0, 1, 2, 3].map(|at| number(at).filter(|number| *number != UNKNOWN));
        let end = end.first_chunk().copied().map(u64::from_le_bytes);
        let (streams, skipped) = (Streams::of_bits(*streams)?, skipped.unwrap_or(0));
        Some(Self { streams, full, began, left: lines.zip(to), skipped, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_what_is_none_is_not() {
        for full in [Full::CatchUp, Full::Block, Full::DropOldest] {
            for (began, end) in [(None, None), (Some(7), None), (None, Some(0)), (Some(0), Some(u64::MAX))] {
                for streams in ["stdout", "stdout,stderr", "system", "all"] {
                    for (left, skipped) in [(None, 0), (Some((0, 0)), 3), (Some((7, 1 << 40)), 1 << 50)] {
                        let note = Note { streams: streams.parse().unwrap(), full, began, left, skipped, end };
                        assert_eq!(Note::decode(&note.encode()), Some(note));
                    }
                }
            }
        }
        for bad in [&[][..], &[1], &[1, 1], &[2, 1, 0], &[3, 1, 0], &[4, 1, 0], &[1, 1, 3], &[1, 0, 0], &[1, 16, 0]] {
            assert_eq!(Note::decode(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn notes_of_earlier_versions_are_read_without_what_they_lack() {
        let streams = "stdout".parse().unwrap();
        let note = |end| Note { streams, full: Full::Block, began: None, left: None, skipped: 0, end };
        let mut second = vec![2, 1, 1];
        second.extend([5, 6, 7, 9].into_iter().flat_map(u64::to_le_bytes));
        assert_eq!(Note::decode(&second), Some(Note { began: Some(5), left: Some((6, 7)), ..note(Some(9)) }));
        assert_eq!(Note::decode(&second[..27]), Some(Note { began: Some(5), left: Some((6, 7)), ..note(None) }));
        assert_eq!(Note::decode(&[1, 1, 1]), Some(note(None)));
        assert_eq!(Note::decode(&[1, 1, 1, 9, 0, 0, 0, 0, 0, 0, 0]), Some(note(Some(9))));
    }
}
