//! What kind of output a line is, and which kinds a queue takes.

use std::{fmt, str::FromStr};

use super::row::Row;

/// What kind of output a line is; decides which queues want it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    #[default]
    Stdout = 0,
    Stderr = 1,
    System = 2,
    /// A `stream` of the sender's own naming; its text is [`Row::stream`].
    Other = 3,
}

impl Kind {
    pub(crate) const COUNT: usize = 4;

    /// The kind that a `stream` value names.
    pub(crate) fn of(stream: &[u8]) -> Self {
        match stream {
            b"stdout" => Self::Stdout,
            b"stderr" => Self::Stderr,
            b"system" => Self::System,
            _ => Self::Other,
        }
    }
}

/// The kinds of lines that a queue takes; see contract: stdout unless asked otherwise, `system` only where named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Streams(u8);

impl Streams {
    /// Standard output only: the default of a queue.
    pub const STDOUT: Self = Self(1 << Kind::Stdout as u8);
    /// Standard output and standard error: `include_stderr`.
    pub const STDOUT_AND_STDERR: Self = Self(Self::STDOUT.0 | 1 << Kind::Stderr as u8);
    /// Everything, platform records and streams of the sender's own naming too.
    pub const ALL: Self = Self((1 << Kind::COUNT) - 1);

    pub(crate) fn wants(self, kind: Kind) -> bool {
        self.wants_number(kind as usize)
    }

    /// As [`Streams::wants`], by the kind's number.
    pub(crate) fn wants_number(self, kind: usize) -> bool {
        self.0 & (1 << kind) != 0
    }

    /// A bit for each kind.
    #[cfg(feature = "spool")]
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// What [`Streams::bits`] gave.
    #[cfg(feature = "spool")]
    pub(crate) fn of_bits(bits: u8) -> Option<Self> {
        (bits != 0 && bits & !Self::ALL.0 == 0).then_some(Self(bits))
    }

    /// Whether a queue of these streams gives this line to its reader.
    pub(crate) fn wants_row(self, row: &Row) -> bool {
        self.wants(row.kind) && !row.limited
    }

    /// How many of a group's lines are wanted.
    pub(crate) fn count(self, counts: &[u32; Kind::COUNT]) -> u64 {
        self.count_all(&counts.map(u64::from))
    }

    /// As [`Streams::count`], for the lines of many groups.
    pub(crate) fn count_all(self, counts: &[u64; Kind::COUNT]) -> u64 {
        (0..Kind::COUNT).filter(|&kind| self.0 & (1 << kind) != 0).map(|kind| counts[kind]).sum()
    }
}

/// A name that is not a stream; see [`Streams`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown stream {0:?}: expected a list of stdout, stderr and system, or all")]
pub struct UnknownStream(String);

impl FromStr for Streams {
    type Err = UnknownStream;

    /// Reads `stdout`, `stdout,stderr`, `system`, `all` and the like.
    fn from_str(list: &str) -> Result<Self, UnknownStream> {
        list.split(',').map(str::trim).try_fold(Self(0), |Self(mask), name| {
            Ok(Self(match name {
                "stdout" => mask | 1 << Kind::Stdout as u8,
                "stderr" => mask | 1 << Kind::Stderr as u8,
                "system" => mask | 1 << Kind::System as u8,
                "all" => Self::ALL.0,
                other => return Err(UnknownStream(other.to_owned())),
            }))
        })
    }
}

impl fmt::Display for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all");
        }
        let names = [(Kind::Stdout, "stdout"), (Kind::Stderr, "stderr"), (Kind::System, "system")];
        let wanted = names.iter().filter(|(kind, _)| self.wants(*kind)).map(|(_, name)| *name);
        f.write_str(&wanted.collect::<Vec<_>>().join(","))
    }
}
