//! Why a command ends, and with which exit code (the drain's own codes).

use crate::client::{Broken, chain};
use std::fmt;

/// The end of a command that did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    message: String,
}

impl Failure {
    /// The command line or the scenario asks for something impossible.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { code: 64, message: message.to_string() }
    }

    /// The far side broke its promise: lines or accounts do not add up.
    pub(crate) fn data(message: impl fmt::Display) -> Self {
        Self { code: 65, message: message.to_string() }
    }

    /// The far side cannot be reached, or refuses what it should take.
    pub(crate) fn unavailable(message: impl fmt::Display) -> Self {
        Self { code: 69, message: message.to_string() }
    }

    /// A file, a socket or a process of our own failed.
    pub(crate) fn io(message: impl fmt::Display) -> Self {
        Self { code: 74, message: message.to_string() }
    }
}

impl Failure {
    /// The same end, with its cause.
    pub(crate) fn because(self, cause: impl fmt::Display) -> Self {
        Self { message: format!("{}; {cause}", self.message), ..self }
    }
}

impl From<Broken> for Failure {
    fn from(error: Broken) -> Self {
        Self::unavailable(chain(&*error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
