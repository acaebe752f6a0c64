//! Bodies made small.

use std::io::{self, Write};

use flate2::write::GzEncoder;

use super::settings::Compression;

/// Logs compress well at any level; a higher one costs several times the CPU for a tenth of the bytes.
const GZIP_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 1;

impl Compression {
    pub(super) fn content_encoding(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

pub(super) fn compress(compression: Compression, body: &[u8]) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(body.to_vec()),
        Compression::Gzip => {
            let room = Vec::with_capacity(body.len() / 4 + 64);
            let mut encoder = GzEncoder::new(room, flate2::Compression::new(GZIP_LEVEL));
            encoder.write_all(body)?;
            encoder.finish()
        }
        Compression::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL),
    }
}
