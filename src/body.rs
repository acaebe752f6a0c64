//! Content decoding. (Stub: identity only; the real one follows.)

use bytes::Bytes;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Deflate,
    Zstd,
    Snappy,
}

impl Encoding {
    pub(crate) fn from_header(value: &[u8]) -> Option<Self> {
        match value.to_ascii_lowercase().as_slice() {
            b"identity" => Some(Self::Identity),
            b"gzip" | b"x-gzip" => Some(Self::Gzip),
            b"deflate" => Some(Self::Deflate),
            b"zstd" => Some(Self::Zstd),
            b"snappy" => Some(Self::Snappy),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    pub(crate) wire_bytes_max: usize,
    pub(crate) decoded_bytes_max: usize,
}

#[derive(Debug)]
pub(crate) struct BodyReader {
    buffer: Vec<u8>,
    limits: BodyLimits,
    size_hint: Option<u64>,
}

#[derive(Debug)]
pub(crate) enum Progress {
    Done,
    NeedsRoom { consumed: usize, want: usize },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is over ingest.body_bytes_max = {max} on the wire")]
    WireTooLarge { max: usize },
    #[error("the body is over ingest.decoded_bytes_max = {max} decoded")]
    DecodedTooLarge { max: usize },
    #[error("the body is corrupt")]
    #[allow(dead_code)]
    Corrupt {},
}

impl BodyReader {
    pub(crate) fn new(_encoding: Encoding, limits: BodyLimits, size_hint: Option<u64>) -> Self {
        Self { buffer: Vec::new(), limits, size_hint }
    }

    pub(crate) fn push(&mut self, frame: &[u8], room: usize) -> Result<Progress, BodyError> {
        let length = self.buffer.len() + frame.len();
        if length > self.limits.wire_bytes_max {
            return Err(BodyError::WireTooLarge { max: self.limits.wire_bytes_max });
        }
        if length > self.limits.decoded_bytes_max {
            return Err(BodyError::DecodedTooLarge { max: self.limits.decoded_bytes_max });
        }
        if length > self.buffer.capacity() {
            let hint = self.size_hint.map_or(0, |hint| hint as usize);
            let want = hint.max(length.next_power_of_two());
            if want > room {
                return Ok(Progress::NeedsRoom { consumed: 0, want });
            }
            self.buffer.reserve_exact(want - self.buffer.len());
        }
        self.buffer.extend_from_slice(frame);
        Ok(Progress::Done)
    }

    pub(crate) fn finish(&mut self, _room: usize) -> Result<Progress, BodyError> {
        Ok(Progress::Done)
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.buffer.into()
    }

    pub(crate) fn kept_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    #[allow(dead_code)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    pub(crate) fn wire_bytes(&self) -> u64 {
        self.buffer.len() as u64
    }

    pub(crate) fn decoded_bytes(&self) -> u64 {
        self.buffer.len() as u64
    }
}
