//! When a line was written, and how bad it is: what stores want as a number.

use jiff::Timestamp;

use crate::batch::EntryView;

/// The record's own time if it is one, else when it was received. Always between 1970 and 2262, so that its nanoseconds are an
/// `i64` for every store.
pub(super) fn of(entry: &EntryView<'_>) -> Timestamp {
    let own = read(entry.timestamp()).filter(|time| nanoseconds(*time).is_some_and(|nanos| nanos > 0));
    own.or_else(|| entry.received_at()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Since 1970; `None` for what stores cannot have.
fn nanoseconds(time: Timestamp) -> Option<i64> {
    i64::try_from(time.as_nanosecond()).ok()
}

/// Nanoseconds since 1970 of a time that [`of`] gave.
pub(super) fn nanos(time: Timestamp) -> u64 {
    nanoseconds(time).and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or(0)
}

/// RFC 3339, or a Unix time whose unit its size tells.
fn read(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    if !bytes.first()?.is_ascii_digit() || bytes.len() > 40 {
        return None;
    }
    if bytes.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') { unix(text) } else { text.parse().ok() }
}

/// A number of 9 or 10 digits before the point is seconds, of 12 or 13 milliseconds, and so on; what is shorter is no time of
/// a log.
fn unix(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (units_in_second, fraction_digits) = match whole.len() {
        9..=11 => (1, 9),
        12..=14 => (1_000, 6),
        15..=17 => (1_000_000, 3),
        18..=19 => (1_000_000_000, 0),
        _ => return None,
    };
    let whole: i128 = whole.parse().ok()?;
    let fraction: String = fraction.chars().chain("000000000".chars()).take(fraction_digits).collect();
    let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    Timestamp::from_nanosecond(whole * (1_000_000_000 / units_in_second) + fraction).ok()
}

/// How bad a line is, in the words and numbers of OpenTelemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(super) enum Severity {
    Trace = 1,
    Debug = 5,
    Info = 9,
    Warn = 13,
    Error = 17,
    Fatal = 21,
}

impl Severity {
    /// What people and libraries write for it; `None` for anything else.
    pub(super) fn of(level: &str) -> Option<Self> {
        const NAMES: [(Severity, &[&str]); 6] = [
            (Severity::Info, &["info", "information", "informational", "notice"]),
            (Severity::Error, &["error", "err"]),
            (Severity::Warn, &["warn", "warning"]),
            (Severity::Debug, &["debug"]),
            (Severity::Trace, &["trace"]),
            (Severity::Fatal, &["fatal", "critical", "crit", "alert", "emerg", "emergency", "panic"]),
        ];
        let is = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(level));
        NAMES.iter().find(|(_, names)| is(names)).map(|(severity, _)| *severity)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_sent() {
        let at: Timestamp = "2026-11-24T20:33:17.25Z".parse().unwrap();
        for text in [
            "2026-11-24T20:33:17.25Z",
            "2026-11-24T21:33:17.25+01:00",
            "2026-11-24 20:33:17.250Z",
            "1795552397.25",
            "1795552397250",
            "1795552397250000",
            "1795552397250000000",
        ] {
            assert_eq!(read(text), Some(at), "{text}");
        }
        for text in
            ["", "now", "12", "2026", "1.2.3", "-5", "1795552397.25.1", "99999999999999999999", "2026-13-01T00:00:00Z"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn levels_have_one_name_each() {
        for (level, name) in [("INFO", "info"), ("Warning", "warn"), ("crit", "fatal"), ("err", "error")] {
            assert_eq!(Severity::of(level).map(Severity::name), Some(name), "{level}");
        }
        for level in ["", "verbose-ish", "30"] {
            assert_eq!(Severity::of(level), None, "{level}");
        }
    }
}
