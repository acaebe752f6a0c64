//! Bodies that are small on the wire and large when decoded, made by repeating a piece.

use crate::encode::Encoding;
use crate::failure::Failure;
use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use std::io::Read;

/// What one piece decodes to.
const PIECE: usize = 10 << 20;
/// So many pieces: 10 GiB.
const PIECES: usize = 1_024;

/// A body that must be refused.
#[derive(Clone, Debug)]
pub(super) struct Bomb {
    pub(super) name: &'static str,
    pub(super) encoding: &'static str,
    pub(super) body: Bytes,
    /// Each of these is as good.
    pub(super) statuses: &'static [u16],
}

pub(super) fn bombs() -> Result<Vec<Bomb>, Failure> {
    let zeros = vec![0; PIECE];
    let gzip = gzip(&zeros)?;
    let zstd = Encoding::Zstd.encode(&zeros).map_err(Failure::io)?;
    let bomb = |name, encoding, body: Vec<u8>, statuses| Bomb { name, encoding, body: body.into(), statuses };
    Ok(vec![
        bomb("gzip, 10 GiB in 1,024 members", "gzip", gzip.repeat(PIECES), &[413]),
        bomb("zstd, 10 GiB in 1,024 frames", "zstd", zstd.repeat(PIECES), &[413]),
        bomb("deflate, 10 GiB in one stream", "deflate", deflate(&zeros)?, &[413]),
        // Magic, no single segment, a window of 2^31, and one block that repeats a byte once (RFC 8878, 3.1.1).
        bomb("zstd, a window of 2 GiB", "zstd", b"\x28\xb5\x2f\xfd\x00\xa8\x0b\x00\x00\x00".to_vec(), &[400, 413]),
        // The length comes first in a raw block: 4 GiB less one byte.
        bomb("snappy, 4 GiB by its own word", "snappy", b"\xff\xff\xff\xff\x0f\x00\x00".to_vec(), &[400, 413]),
        // Nothing of it is decoded: what as many bytes cost that are read and thrown away.
        bomb("as large as the gzip one, unknown", "br", vec![0; gzip.len() * PIECES], &[415]),
        bomb("gzip in gzip", "gzip, gzip", self::gzip(&gzip)?, &[415]),
        bomb("nothing of it is what it says", "zstd", gzip, &[400]),
    ])
}

/// As small as can be: a body over `ingest.body_bytes_max` would be refused unread.
fn gzip(plain: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut encoded = Vec::new();
    let mut encoder = flate2::bufread::GzEncoder::new(plain, Compression::best());
    encoder.read_to_end(&mut encoded).map_err(Failure::io)?;
    Ok(encoded)
}

/// A zlib stream of zeros: a piece that ends with a full flush can be repeated.
fn deflate(zeros: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut piece = Vec::with_capacity(zeros.len() / 100);
    let mut compress = Compress::new(Compression::best(), false);
    compress.compress_vec(zeros, &mut piece, FlushCompress::Full).map_err(Failure::io)?;
    if compress.total_in() != zeros.len() as u64 {
        return Err(Failure::io("deflate has not taken the whole piece"));
    }
    Ok([b"\x78\x01", &*piece.repeat(PIECES)].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bombs_begin_as_what_they_say_and_are_small() {
        let piece = 3 * PIECE as u64;
        for Bomb { name, encoding, body, statuses } in bombs().unwrap() {
            assert!(body.len() < 12 << 20, "{name}: {}", body.len());
            if statuses != [413] {
                continue;
            }
            let decoder: Box<dyn Read> = match encoding {
                "gzip" => Box::new(flate2::bufread::MultiGzDecoder::new(&body[..])),
                "zstd" => Box::new(zstd::stream::read::Decoder::with_buffer(&body[..]).unwrap()),
                _ => Box::new(flate2::bufread::ZlibDecoder::new(&body[..])),
            };
            assert_eq!(std::io::copy(&mut decoder.take(piece), &mut std::io::sink()).unwrap(), piece, "{name}");
        }
    }
}
