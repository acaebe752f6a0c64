//! What may be wrong with a configuration, and where.

use std::{error::Error, fmt, io, net::SocketAddr, path::PathBuf};

use thiserror::Error;

#[cfg(feature = "sinks")]
use super::Source;
use crate::{grant::ShortKey, tls::IdentityError};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The configuration file; line and column count from 1.
    File {
        /// As it was named.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Characters, counted from 1.
        column: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// No one value: the whole.
    Whole,
}

impl Place {
    /// Who set what stands there.
    #[cfg(feature = "sinks")]
    pub(super) fn source(&self) -> Source {
        match self {
            Self::File { .. } => Source::File,
            Self::Variable(_) => Source::Env,
            Self::Flag(_) => Source::Flag,
            Self::Whole => Source::Default,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
            Self::Whole => f.write_str("configuration"),
        }
    }
}

/// What is wrong with one value.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Problem {
    /// No such key or variable.
    #[error("unknown {what}, the nearest is {nearest}")]
    Unknown {
        /// `key`, `section` or `variable`.
        what: &'static str,
        /// The most similar one that exists.
        nearest: String,
    },
    /// The file is not TOML.
    #[error("{message}")]
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// The value cannot be read as what the setting is.
    #[error("{value} is not {expected}")]
    NotA {
        /// As given.
        value: String,
        /// A description with an example.
        expected: &'static str,
    },
    /// The value is outside its bounds.
    #[error("{value} is not between {min} and {max}")]
    OutOfBounds {
        /// As given.
        value: String,
        /// The smallest that is allowed.
        min: String,
        /// The largest that is allowed.
        max: String,
    },
    /// A secret in a file that is copied, committed and printed.
    #[error("tokens do not belong in this file, use {token_file} or {variable}")]
    TokenInFile {
        /// The key to use instead.
        token_file: &'static str,
        /// The variable to use instead.
        variable: String,
    },
    /// A setting of a sink that makes no sense; the text says what and why.
    #[error("{message}")]
    Sink {
        /// What is wrong with it.
        message: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An empty token file or variable would otherwise open the door that it was meant to lock.
    #[error("it holds no token")]
    NoToken,
    /// A token that no `Authorization` header could carry; it is not repeated here.
    #[error("the token on line {line} holds a blank or a character that is not ASCII")]
    BadToken {
        /// Counted from 1.
        line: usize,
    },
    /// An empty file would lock everybody out, or open the door that it was meant to lock.
    #[error("{} holds no signing key", path.display())]
    NoSigningKey {
        /// The file.
        path: PathBuf,
    },
    /// A key that is too easy to guess.
    #[error(transparent)]
    ShortSigningKey(ShortKey),
    /// A certificate without a key, or a key without a certificate.
    #[error("it needs {missing}: TLS takes both or neither")]
    HalfTls {
        /// The key that is not set.
        missing: &'static str,
    },
    /// A certificate or private key that cannot be presented.
    #[error("{}", path.display())]
    BadIdentity {
        /// The file that is to blame.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// A host name without an address.
    #[error("cannot resolve {value}")]
    Unresolved {
        /// As given.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// Both listeners at one address.
    #[error("{address} is ingest.listen already")]
    SameAddress {
        /// The address.
        address: SocketAddr,
    },
    /// Everybody could read every log.
    #[error(
        "{address} is not loopback, so it needs a token: set FLEETDRAIN_CONTROL__TOKEN or control.token_file, \
         or accept that everybody reads your logs with --insecure-control"
    )]
    OpenControl {
        /// The address.
        address: SocketAddr,
    },
}

/// One mistake: which key, where, what.
#[derive(Debug)]
#[non_exhaustive]
pub struct Mistake {
    /// The key as in `ingest.listen`, or as it was misspelt; empty where the file as a whole is meant.
    pub key: String,
    /// Where the value stands.
    pub place: Place,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.problem)?;
        let mut cause = self.problem.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Every mistake of a configuration; never empty. Prints one a line.
#[derive(Debug, Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{mistake}")?;
        }
        Ok(())
    }
}
