//! Values with units: `64MiB`, `1h30m`.

use std::{fmt, str::FromStr, time::Duration};

use bytesize::ByteSize;
use serde::{Deserializer, de};

/// Units of a duration, largest first: the order in which they may stand.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `500ms`, `30s`, `10m`, `1h30m`: whole numbers, each with its unit, largest unit first and none twice.
///
/// `None` for anything else, a bare number too: it would be a guess.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let amount: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
        let (_, millis) = units.find(|(unit, _)| *unit == &rest[..letters])?;
        rest = &rest[letters..];
        total = total.checked_add(amount.checked_mul(*millis)?)?;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

/// The shortest text that [`duration`] reads back; parts under a millisecond are left out.
pub(crate) fn format_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, size) in UNITS {
        let amount = millis / u128::from(size);
        millis %= u128::from(size);
        if amount > 0 {
            text.push_str(&format!("{amount}{unit}"));
        }
    }
    text
}

/// Reads `65536`, `64KiB`, `10MB`, `1.5GiB`.
pub(crate) fn size(text: &str) -> Option<usize> {
    let bytes = ByteSize::from_str(text).ok()?.as_u64();
    usize::try_from(bytes).ok()
}

/// The size in the largest binary unit that divides it.
pub(crate) fn format_size(bytes: usize) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = |shift: u32| bytes != 0 && (bytes as u64).trailing_zeros() >= shift;
    match units.iter().find(|(_, shift)| fits(*shift)) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// What a [`duration`] is, where something else was given.
pub(crate) const A_DURATION: &str = "a duration such as 500ms, 30s or 1h30m";
/// What a [`size`] is, where something else was given.
pub(crate) const A_SIZE: &str = "a size such as 65536, 64KiB or 10MB";

/// Reads a [`duration`] of a settings struct: `#[serde(deserialize_with = "de_duration")]`.
///
/// # Errors
///
/// When it is none, with the value that was given.
#[cfg_attr(not(test), allow(dead_code, reason = "destinations use them"))]
pub(crate) fn de_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(A_DURATION)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            duration(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }
    from.deserialize_any(Visitor)
}

/// Reads a [`size`] of a settings struct, with a unit or as a number of bytes: `#[serde(deserialize_with = "de_size")]`.
///
/// # Errors
///
/// When it is none, with the value that was given.
#[cfg_attr(not(test), allow(dead_code, reason = "destinations use them"))]
pub(crate) fn de_size<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(A_SIZE)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<usize, E> {
            size(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
        }

        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<usize, E> {
            usize::try_from(bytes).map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
        }

        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<usize, E> {
            usize::try_from(bytes).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(bytes), &self))
        }
    }
    from.deserialize_any(Visitor)
}

/// As [`de_duration`], for what may be left out: with `default` beside it.
///
/// # Errors
///
/// As [`de_duration`].
#[cfg_attr(not(test), allow(dead_code, reason = "destinations use them"))]
pub(crate) fn de_duration_some<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    de_duration(from).map(Some)
}

/// As [`de_size`], for what may be left out: with `default` beside it.
///
/// # Errors
///
/// As [`de_size`].
#[cfg_attr(not(test), allow(dead_code, reason = "destinations use them"))]
pub(crate) fn de_size_some<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
    de_size(from).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_need_their_units_in_order() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("0s"), Some(Duration::ZERO));
        for bad in ["", "5", "h", "1m1h", "1h1h", "-1s", "1.5s", "1 s", "1S", "10µs", "99999999999999999999s", "1é"] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn sizes_know_both_kinds_of_units() {
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("10MB"), Some(10_000_000));
        assert_eq!(size("1024"), Some(1024));
        for bad in ["", "MiB", "-1", "1 parsec", "1e3"] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Some {
        #[serde(deserialize_with = "de_duration")]
        wait: Duration,
        #[serde(deserialize_with = "de_size")]
        bytes: usize,
        #[serde(deserialize_with = "de_duration_some")]
        age: Option<Duration>,
        #[serde(deserialize_with = "de_size_some")]
        room: Option<usize>,
    }

    #[test]
    fn settings_structs_read_values_with_units() {
        let read = toml::from_str::<Some>;
        let some = read("wait = \"30s\"\nbytes = \"10MB\"").unwrap();
        assert_eq!(some, Some { wait: Duration::from_secs(30), bytes: 10_000_000, ..Some::default() });
        let some = read("age = \"1m\"\nroom = 4096").unwrap();
        assert_eq!((some.age, some.room), (Option::Some(Duration::from_secs(60)), Option::Some(4096)));
        for (bad, told) in [
            ("wait = 30", "a duration such as"),
            ("wait = \"30\"", "\"30\""),
            ("bytes = -1", "-1"),
            ("room = \"much\"", "\"much\""),
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(millis in 0u64..1 << 50, bytes in 0usize..1 << 50, shift in 0u32..40) {
            let time = Duration::from_millis(millis);
            prop_assert_eq!(duration(&format_duration(time)), Some(time));
            let bytes = bytes >> shift << shift;
            prop_assert_eq!(size(&format_size(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = (duration(&text), size(&text));
        }
    }
}
