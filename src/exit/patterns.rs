//! Which record says that a machine has exited, and with which code.

#[cfg(feature = "server")]
use regex::{Regex, RegexBuilder};

use super::ExitStatus;
#[cfg(feature = "server")]
use crate::filter::in_one_line;

/// How many patterns there may be, and how long each.
#[cfg(feature = "server")]
const PATTERNS_MAX: usize = 16;
#[cfg(feature = "server")]
const PATTERN_BYTES_MAX: usize = 1 << 10;
/// What a pattern may grow to when it is made ready.
#[cfg(feature = "server")]
const COMPILED_BYTES_MAX: usize = 1 << 18;

/// What Fly's runner writes when a machine has exited and will not be started again by its restart policy; seen in logs of 2022 to
/// 2026. A machine that is restarted goes on: none of these is written then.
#[cfg(feature = "server")]
const FLYS: [&str; 3] = [
    r"^machine exited with exit code (?<code>-?\d+), not restarting",
    r"^machine restart policy set to .*, not restarting",
    r"^machine has reached its max restart count",
];

/// Regular expressions for the records of Fly's `runner` that say that a machine has exited: `fly.exit_patterns`.
///
/// The capture `code`, where a pattern has one, is the exit code.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "server"), derive(Default))]
pub struct ExitPatterns {
    #[cfg(feature = "server")]
    patterns: Vec<Regex>,
}

/// A list that is none of patterns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPatterns(String);

#[cfg(feature = "server")]
impl ExitPatterns {
    /// Patterns of these texts.
    ///
    /// # Errors
    ///
    /// [`BadPatterns`] if there is none or more than 16, or if one is no regular expression, or is over 1 KiB.
    pub fn new<T: AsRef<str>>(texts: &[T]) -> Result<Self, BadPatterns> {
        if texts.is_empty() || texts.len() > PATTERNS_MAX {
            return Err(BadPatterns(format!("{} patterns, not 1 to {PATTERNS_MAX}", texts.len())));
        }
        let patterns: Result<Vec<_>, _> = texts.iter().map(|text| pattern(text.as_ref())).collect();
        Ok(Self { patterns: patterns? })
    }

    /// The texts.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(Regex::as_str)
    }

    /// How the machine exited if a runner's message says that it has.
    pub(crate) fn read(&self, message: &str) -> Option<ExitStatus> {
        let found = self.patterns.iter().find_map(|pattern| pattern.captures(message))?;
        Some(ExitStatus { code: found.name("code").and_then(|code| code.as_str().parse().ok()) })
    }
}

#[cfg(feature = "server")]
fn pattern(text: &str) -> Result<Regex, BadPatterns> {
    if text.len() > PATTERN_BYTES_MAX {
        return Err(BadPatterns(format!("a pattern of {} bytes, over {PATTERN_BYTES_MAX}", text.len())));
    }
    let pattern = RegexBuilder::new(text).size_limit(COMPILED_BYTES_MAX).build();
    pattern.map_err(|error| BadPatterns(format!("{text:?} is no regular expression: {}", in_one_line(&error))))
}

#[cfg(feature = "server")]
impl Default for ExitPatterns {
    fn default() -> Self {
        Self::new(&FLYS).expect("Fly's patterns are right")
    }
}

#[cfg(not(feature = "server"))]
impl ExitPatterns {
    pub(crate) fn read(&self, message: &str) -> Option<ExitStatus> {
        flys(message)
    }
}

/// As Fly's patterns, for a library without regular expressions.
#[cfg(any(test, not(feature = "server")))]
pub(super) fn flys(message: &str) -> Option<ExitStatus> {
    if let Some(rest) = message.strip_prefix("machine exited with exit code ") {
        let (code, _) = rest.split_once(", not restarting")?;
        let digits = code.strip_prefix('-').unwrap_or(code);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        return is_number.then(|| ExitStatus { code: code.parse().ok() });
    }
    let by_policy = message.starts_with("machine restart policy set to ") && message.contains(", not restarting");
    (by_policy || message.starts_with("machine has reached its max restart count")).then(ExitStatus::default)
}

/// What a line of Fly's init says of the life of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InitWord {
    /// One begins: what was said before is of another.
    Starting,
    /// It ended, with that code.
    Exited(i32),
}

impl InitWord {
    /// Exactly as init writes it, with the blank that stands before its level.
    pub(super) fn read(message: &str) -> Option<Self> {
        let told = message.strip_prefix(" INFO ")?;
        if told.starts_with("Starting init (commit: ") {
            return Some(Self::Starting);
        }
        let told = told.strip_prefix("Main child exited ")?;
        if let Some(code) = told.strip_prefix("normally with code: ") {
            return code.trim_end().parse().ok().map(Self::Exited);
        }
        let signal = told.strip_prefix("with signal (with signal '")?;
        signal_number(signal.split('\'').next()?).map(|number| Self::Exited(128 + number))
    }

    pub(super) fn code(self) -> Option<i32> {
        match self {
            Self::Starting => None,
            Self::Exited(code) => Some(code),
        }
    }
}

/// The number of a signal on Linux, by its name; those that end a process.
fn signal_number(name: &str) -> Option<i32> {
    let number = match name.strip_prefix("SIG")? {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "TRAP" => 5,
        "ABRT" => 6,
        "BUS" => 7,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        "STKFLT" => 16,
        "XCPU" => 24,
        "XFSZ" => 25,
        "VTALRM" => 26,
        "PROF" => 27,
        "IO" => 29,
        "PWR" => 30,
        "SYS" => 31,
        _ => return None,
    };
    Some(number)
}
