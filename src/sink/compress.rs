//! What files and objects are packed with.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use flate2::{Compression as Level, write::GzEncoder};
use serde::Deserialize;

#[cfg(any(feature = "s3", feature = "jetstream"))]
use super::{Failure, aside};

/// How what is written is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compression {
    None,
    #[default]
    Zstd,
    Gzip,
}

impl Compression {
    /// What a name ends with.
    pub(super) fn ending(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }

    /// What a file of this name is compressed with.
    pub(super) fn of_name(name: &str) -> Self {
        let found = [Self::Zstd, Self::Gzip].into_iter().find(|compression| name.ends_with(compression.ending()));
        found.unwrap_or(Self::None)
    }

    /// A name with the ending, if it is not there already.
    pub(super) fn named(self, mut name: String) -> String {
        if !name.ends_with(self.ending()) {
            name.push_str(self.ending());
        }
        name
    }

    /// The lines as one frame, or member, that can stand behind another and be told apart from half of one: it has a checksum.
    pub(super) fn pack(self, lines: &[u8]) -> io::Result<Cow<'_, [u8]>> {
        Ok(match self {
            Self::None => lines.into(),
            Self::Zstd => {
                let mut compressor = zstd::bulk::Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL)?;
                compressor.include_checksum(true)?;
                compressor.compress(lines)?.into()
            }
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::with_capacity(lines.len() / 4), Level::default());
                encoder.write_all(lines)?;
                encoder.finish()?.into()
            }
        })
    }

    /// The same on a thread of its own: it takes longer than a worker of the runtime has.
    #[cfg(any(feature = "s3", feature = "jetstream"))]
    pub(super) async fn pack_aside(self, lines: Vec<u8>) -> Result<bytes::Bytes, Failure> {
        if self == Self::None {
            return Ok(lines.into());
        }
        let packed = aside(move || self.pack(&lines).map(Cow::into_owned)).await?;
        packed.map(Into::into).map_err(|error| Failure::Never { reason: error.to_string() })
    }
}
