//! How much is whole of a file that nobody has completed.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use flate2::bufread::GzDecoder;
use memchr::{memchr, memrchr};

use crate::sink::compress::Compression;

/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;

/// The length up to which `file` has whole lines, or whole frames of them.
///
/// What was acknowledged was synced before, and is whole; what is behind it may be anything that a disk makes of half a write.
pub(super) fn whole(file: &File, compression: Compression) -> io::Result<u64> {
    match compression {
        Compression::None => whole_lines(file),
        Compression::Zstd => whole_frames(file, |reader| {
            let mut frame = zstd::stream::read::Decoder::with_buffer(reader)?.single_frame();
            io::copy(&mut frame, &mut io::sink())
        }),
        Compression::Gzip => whole_frames(file, |reader| io::copy(&mut GzDecoder::new(reader), &mut io::sink())),
    }
}

/// Up to the last line break before the first zero, which no line has: blocks that were never written read so.
fn whole_lines(mut file: &File) -> io::Result<u64> {
    let (mut at, mut whole) = (0, 0);
    let mut block = vec![0; BLOCK];
    loop {
        let read = match file.read(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let written = memchr(0, &block[..read]).unwrap_or(read);
        if let Some(last) = memrchr(b'\n', &block[..written]) {
            whole = at + last as u64 + 1;
        }
        if read == 0 || written < read {
            return Ok(whole);
        }
        at += read as u64;
    }
}

/// Up to the last frame that can be read, checksum and all.
fn whole_frames(file: &File, read_frame: impl Fn(&mut Counted<'_>) -> io::Result<u64>) -> io::Result<u64> {
    let mut reader = Counted { reader: BufReader::with_capacity(BLOCK, file), taken: 0 };
    let mut whole = 0;
    while !reader.fill_buf()?.is_empty() && read_frame(&mut reader).is_ok() {
        whole = reader.taken;
    }
    Ok(whole)
}

/// Knows how much of a file was taken from it.
struct Counted<'a> {
    reader: BufReader<&'a File>,
    taken: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.taken += read as u64;
        Ok(read)
    }
}

impl BufRead for Counted<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount as u64;
        self.reader.consume(amount);
    }
}
