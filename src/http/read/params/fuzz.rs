//! Any query, duration, count, path segment and entry id.

use super::{DURATION_MAX, Form, Parameter, Query, decode_segment, parse_count, parse_duration};
use crate::{batch::EntryId, config::value::format_duration, fuzzing::Choices};

const KNOWN: [&Parameter; 4] = [
    &Parameter::new("after", Form::Text, ""),
    &Parameter::new("streams", Form::List, ""),
    &Parameter::new("since", Form::Duration, ""),
    &Parameter::new("max_lines", Form::Count, ""),
];

/// A query's values are what a form decoder, written apart, makes of them, and all others are refused; durations, counts and ids that
/// are read are those that their grammar says, and written anew they are read alike.
pub(crate) fn queries(data: &[u8]) {
    let mut choices = Choices(data);
    let part = choices.below(4);
    let Ok(text) = std::str::from_utf8(choices.0) else { return };
    match part {
        0 => query(text),
        1 => durations(text),
        2 => ids(text),
        _ => {
            assert_eq!(decode_segment(text).ok().map(std::borrow::Cow::into_owned), decoded(text));
            assert_eq!(parse_count(text), digits(text).and_then(|number| u64::try_from(number).ok()));
        }
    }
}

fn query(text: &str) {
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?))
    });
    let pairs: Option<Vec<_>> = pairs.collect();
    let is_taken = pairs.as_ref().is_some_and(|pairs| {
        pairs.iter().enumerate().all(|(at, (name, _))| {
            let is_new = !pairs[..at].iter().any(|(before, _)| before == name);
            KNOWN.iter().any(|known| known.name == name && (is_new || known.form == Form::List))
        })
    });
    let parsed = Query::parse(Some(text), &KNOWN);
    assert_eq!(parsed.is_ok(), is_taken, "{text:?}");
    let (Ok(parsed), Some(pairs)) = (parsed, pairs) else { return };
    for name in ["after", "since", "max_lines"] {
        let value = pairs.iter().find(|(given, _)| given == name).map(|(_, value)| &**value);
        assert_eq!(parsed.text(name), value, "{text:?}");
    }
    let lists: Vec<_> =
        pairs.iter().filter(|(name, _)| name == "streams").flat_map(|(_, list)| list.split(',')).collect();
    assert_eq!(parsed.list("streams"), lists);
    assert_eq!(
        parsed.duration("since").ok(),
        parsed.text("since").map_or(Some(None), |text| parse_duration(text).map(Some))
    );
}

/// Percent-decodes; a percent sign without two digits behind it stands for itself. `None`: not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let digit = |at: usize| behind.get(at).and_then(|&byte| char::from(byte).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (first, digit(0), digit(1)) {
            out.push((high * 16 + low) as u8);
            rest = &behind[2..];
        } else {
            out.push(*first);
            rest = behind;
        }
    }
    String::from_utf8(out).ok()
}

/// The number that ASCII digits say, up to 2¹²⁷.
fn digits(text: &str) -> Option<u128> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten().filter(|number| *number < 1 << 127)
}

fn durations(text: &str) {
    let parsed = parse_duration(text);
    assert_eq!(parsed.map(|duration| duration.as_millis()), millis(text), "{text:?}");
    if let Some(duration) = parsed {
        let written = format_duration(duration);
        assert_eq!(parse_duration(&written), Some(duration), "{written}");
    }
}

/// Reads a duration from its end: units smallest first, each at most once.
fn millis(text: &str) -> Option<u128> {
    let (mut rest, mut sum) = (text, 0_u128);
    for (unit, size) in [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)] {
        let Some(front) = rest.strip_suffix(unit) else { continue };
        let number = front.trim_end_matches(|digit: char| digit.is_ascii_digit());
        // A number over 64 bits is over the bound whatever its unit, but a zero of any length is none.
        sum = sum.checked_add(digits(&front[number.len()..])?.checked_mul(size)?)?;
        rest = number;
    }
    (!text.is_empty() && rest.is_empty() && sum <= DURATION_MAX.as_millis()).then_some(sum)
}

fn ids(text: &str) {
    let parsed = text.parse::<EntryId>();
    let parts: Vec<_> = text.split('-').collect();
    let fits = |part: &str, digits_max: usize| {
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_number && part.trim_start_matches('0').len() <= digits_max
    };
    let is_id = matches!(&parts[..], [epoch, line, seq, mark] if [epoch, line, seq].iter().all(|part| fits(part, 16)) && fits(mark, 8));
    match parsed {
        // Whoever writes capitals did not get the id from us: some are refused, and none is read as another.
        Err(_) => assert!(!is_id || text.bytes().any(|byte| byte.is_ascii_uppercase()), "{text:?}"),
        Ok(id) => {
            assert!(is_id, "{text:?}");
            let written = id.to_string();
            assert_eq!(written.parse(), Ok(id));
            let canonical = |part: &&str| {
                let digits = part.trim_start_matches('0').to_ascii_lowercase();
                if digits.is_empty() { "0".to_owned() } else { digits }
            };
            assert_eq!(written, parts.iter().map(canonical).collect::<Vec<_>>().join("-"));
        }
    }
}
