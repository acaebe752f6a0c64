//! The content encodings, both ways.

use serde::{Deserialize, Serialize};
use std::io::{self, Read};

/// The `Content-Encoding` of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    /// As it is.
    Identity,
    /// gzip, at level 1: what a shipper that has little time uses, and the generator too.
    Gzip,
    /// Zstandard, at level 1.
    Zstd,
    /// zlib, which HTTP calls deflate, at level 1.
    Deflate,
}

impl Encoding {
    /// The header's value, none for identity.
    pub(crate) fn header(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
            Self::Deflate => Some("deflate"),
        }
    }

    pub(crate) fn encode(self, body: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Identity => Ok(body.to_vec()),
            Self::Gzip => {
                let mut encoded = Vec::with_capacity(body.len() / 4);
                flate2::bufread::GzEncoder::new(body, flate2::Compression::fast()).read_to_end(&mut encoded)?;
                Ok(encoded)
            }
            Self::Zstd => zstd::bulk::compress(body, 1),
            Self::Deflate => {
                let mut encoded = Vec::with_capacity(body.len() / 4);
                flate2::bufread::ZlibEncoder::new(body, flate2::Compression::fast()).read_to_end(&mut encoded)?;
                Ok(encoded)
            }
        }
    }
}

/// Decodes a body as a server without bounds would.
pub(crate) fn decode(encoding: Option<&[u8]>, body: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut decoded = Vec::new();
    match encoding {
        None | Some(b"identity") => return Ok(None),
        Some(b"gzip") => flate2::bufread::MultiGzDecoder::new(body).read_to_end(&mut decoded)?,
        Some(b"zstd") => zstd::stream::read::Decoder::with_buffer(body)?.read_to_end(&mut decoded)?,
        Some(b"deflate") => flate2::bufread::ZlibDecoder::new(body).read_to_end(&mut decoded)?,
        Some(_) => return Err(io::Error::from(io::ErrorKind::Unsupported)),
    };
    Ok(Some(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_can_be_decoded() {
        let body = b"a line of a log\n".repeat(1_000);
        for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Deflate] {
            let encoded = encoding.encode(&body).unwrap();
            assert!(encoded.len() < body.len() / 4);
            let header = encoding.header().map(str::as_bytes);
            assert_eq!(decode(header, &encoded).unwrap().as_deref(), Some(body.as_slice()));
        }
    }
}
