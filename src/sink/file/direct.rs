//! Writing past the page cache: nobody here reads the lines again, and the copy into it costs more than all else that becomes of a line.
//!
//! The disk then takes whole blocks only, from memory that begins where a block may. What fills none yet is written with zeros behind
//! it, and again with what follows.

use std::ops::Range;

/// The least that is worth it: the write waits for the disk, as the sync behind it does once more.
pub(super) const BYTES_MIN: usize = 64 << 10;

/// What disks take as one.
const BLOCK: usize = 4096;
/// Bytes written at once.
const STEP: usize = 1 << 20;

/// Memory that disks take blocks from.
#[derive(Debug, Default)]
pub(super) struct Blocks(Vec<u8>);

impl Blocks {
    fn aligned(&mut self) -> &mut [u8] {
        self.0.resize(STEP + BLOCK, 0);
        let start = self.0.as_ptr().align_offset(BLOCK);
        &mut self.0[start..start + STEP]
    }

    /// Gives `write` the blocks that `tail` and `bytes` make, the last filled up with zeros, and how many bytes come before each.
    pub(super) fn fill<E>(
        &mut self,
        tail: &[u8],
        mut bytes: &[u8],
        mut write: impl FnMut(&[u8], u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let blocks = self.aligned();
        blocks[..tail.len()].copy_from_slice(tail);
        let (mut filled, mut before) = (tail.len(), 0);
        loop {
            let (now, rest) = bytes.split_at(bytes.len().min(STEP - filled));
            blocks[filled..filled + now.len()].copy_from_slice(now);
            filled += now.len();
            let whole = filled.next_multiple_of(BLOCK);
            blocks[filled..whole].fill(0);
            write(&blocks[..whole], before)?;
            if rest.is_empty() {
                return Ok(());
            }
            (bytes, filled, before) = (rest, 0, before + whole as u64);
        }
    }
}

/// Begins an empty buffer with a file's `tail`, so that what comes behind it lies as it will in the file's blocks: where the buffer
/// does not grow any more. One that is small will, and there may be thousands of them.
pub(super) fn begin(buffer: &mut Vec<u8>, tail: &[u8]) {
    if buffer.capacity() < BYTES_MIN {
        return;
    }
    buffer.resize(buffer.as_ptr().align_offset(BLOCK) % BLOCK, 0);
    buffer.extend_from_slice(tail);
}

/// Fills the last block of a buffer with zeros, if it has room. Gives where its lines are, which begin at `start`.
pub(super) fn fill_up(buffer: &mut Vec<u8>, start: usize) -> Range<usize> {
    let lines = start..buffer.len();
    let missing = buffer.as_ptr_range().end.align_offset(BLOCK);
    if missing <= buffer.capacity() - buffer.len() {
        buffer.resize(buffer.len() + missing, 0);
    }
    lines
}

/// The blocks of a buffer that hold `tail` and what begins at `start`, zeros behind; `None` if they are no blocks, or have another
/// tail.
pub(super) fn in_place<'a>(buffer: &'a [u8], start: usize, tail: &[u8]) -> Option<&'a [u8]> {
    let blocks = &buffer[start.checked_sub(tail.len())?..];
    let are_whole = blocks.as_ptr().addr().is_multiple_of(BLOCK) && blocks.len().is_multiple_of(BLOCK);
    (are_whole && blocks.starts_with(tail)).then_some(blocks)
}

/// The bytes of a file that fill no block yet.
#[derive(Debug, Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// `bytes` come behind.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let left = (self.0.len() + bytes.len()) % BLOCK;
        match left.checked_sub(bytes.len()) {
            Some(kept) => drop(self.0.drain(..self.0.len() - kept)),
            None => self.0.clear(),
        }
        self.0.extend_from_slice(&bytes[bytes.len().saturating_sub(left)..]);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_are_whole_and_aligned_and_hold_all_that_was_written(
            sizes in prop::collection::vec(prop_oneof![0..3 * BLOCK, Just(BLOCK), STEP - BLOCK..2 * STEP], 1..6),
        ) {
            let (mut file, mut wanted) = (Vec::new(), Vec::new());
            let (mut blocks, mut tail) = (Blocks::default(), Tail::default());
            for (number, size) in sizes.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..size).map(|at| (at / 7 + number) as u8 | 1).collect();
                let start = wanted.len() - tail.bytes().len();
                let Ok(()) = blocks.fill(tail.bytes(), &bytes, |written, before| {
                    let at = start + before as usize;
                    assert_eq!((at % BLOCK, written.len() % BLOCK, written.as_ptr().addr() % BLOCK), (0, 0, 0));
                    file.resize(file.len().max(at + written.len()), 0);
                    file[at..at + written.len()].copy_from_slice(written);
                    Ok::<_, Infallible>(())
                });
                tail.push(&bytes);
                wanted.extend(bytes);
                prop_assert_eq!(tail.bytes().len(), wanted.len() % BLOCK);
                prop_assert!(file[..wanted.len()] == wanted && file[wanted.len()..].iter().all(|&byte| byte == 0));
            }
        }

        #[test]
        fn a_buffer_that_does_not_grow_is_blocks_as_it_is(
            offset in 0..2 * BLOCK, tail in 0..BLOCK, size in 0..3 * BLOCK, spare in 0..2 * BLOCK,
        ) {
            let tail: Vec<u8> = (0..tail).map(|at| (at / 7) as u8 | 1).collect();
            let mut buffer = Vec::with_capacity(BYTES_MIN + offset + 2 * BLOCK + size + spare);
            let before = buffer.as_ptr();
            begin(&mut buffer, &tail);
            let start = buffer.len();
            buffer.resize(start + size, b'x');
            let lines = fill_up(&mut buffer, start);
            assert_eq!(buffer.as_ptr(), before);
            prop_assert_eq!(&lines, &(start..start + size));
            let blocks = in_place(&buffer, start, &tail).expect("there was room");
            assert_eq!((blocks.len() % BLOCK, blocks.as_ptr().addr() % BLOCK), (0, 0));
            let (front, rest) = blocks.split_at(tail.len());
            prop_assert!(front == tail && rest[..size].iter().all(|&byte| byte == b'x'));
            prop_assert!(rest[size..].iter().all(|&byte| byte == 0) && rest.len() - size < BLOCK);
            // The file has been completed in between, or something else was written.
            let other: Vec<u8> = tail.iter().map(|&byte| byte ^ 2).collect();
            prop_assert!(in_place(&buffer, start, &other).is_none() || tail.is_empty());
            prop_assert!(in_place(&buffer, start, &[]).is_none() || tail.is_empty());
            let mut small = Vec::new();
            begin(&mut small, &tail);
            prop_assert_eq!(small.capacity(), 0);
        }
    }
}
