//! What is kept of a queue beside its position.

use crate::{batch::Streams, config::Full};

/// The first byte of what this code writes.
const VERSION: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) streams: Streams,
    pub(super) full: Full,
    /// A finished machine's queue ends before this batch.
    pub(super) end: Option<u64>,
}

impl Note {
    pub(super) fn encode(self) -> Vec<u8> {
        let full = match self.full {
            Full::CatchUp => 0,
            Full::Block => 1,
            Full::DropOldest => 2,
        };
        let mut note = vec![VERSION, self.streams.bits(), full];
        note.extend(self.end.into_iter().flat_map(u64::to_le_bytes));
        note
    }

    pub(super) fn decode(note: &[u8]) -> Option<Self> {
        let ([VERSION, streams, full], end) = note.split_first_chunk()? else { return None };
        let full = match full {
            0 => Full::CatchUp,
            1 => Full::Block,
            2 => Full::DropOldest,
            _ => return None,
        };
        Some(Self {
            streams: Streams::of_bits(*streams)?,
            full,
            end: end.first_chunk().copied().map(u64::from_le_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_what_is_none_is_not() {
        for full in [Full::CatchUp, Full::Block, Full::DropOldest] {
            for end in [None, Some(0), Some(u64::MAX)] {
                for streams in ["stdout", "stdout,stderr", "system", "all"] {
                    let note = Note { streams: streams.parse().unwrap(), full, end };
                    assert_eq!(Note::decode(&note.encode()), Some(note));
                }
            }
        }
        for bad in [&[][..], &[1], &[1, 1], &[2, 1, 0], &[1, 1, 3], &[1, 0, 0], &[1, 16, 0]] {
            assert_eq!(Note::decode(bad), None, "{bad:?}");
        }
    }
}
