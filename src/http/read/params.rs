//! Parameters of the control listener's calls: one table says what a call takes, and everything else is a 400.

use std::{borrow::Cow, fmt, time::Duration};

use hyper::StatusCode;
use percent_encoding::percent_decode_str;

use crate::{config::value::duration, http::problem::Problem};

/// Longer time-outs than this are taken for mistakes (and would leave the clock's range at some point).
const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);

/// What a parameter's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `500ms`, `30s`, `5m`, `1h`, `1d`.
    Duration,
    /// A whole number.
    Count,
    /// A whole number from 1 to this.
    CountFrom1(u64),
    /// `all`, or some of `stdout`, `stderr` and `system` with commas between.
    Streams,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Words with commas between; may be given several times.
    List,
    /// Anything, once.
    Text,
    /// Read by [`secret`], and never repeated.
    Secret,
}

/// A parameter of a call.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) form: Form,
    pub(super) what: &'static str,
    /// Whether the call is nothing without it.
    pub(super) required: bool,
}

impl Parameter {
    pub(super) const fn new(name: &'static str, form: Form, what: &'static str) -> Self {
        Self { name, form, what, required: false }
    }

    pub(super) const fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

/// The query of a request, decoded; every name in it is known to the call.
#[derive(Debug)]
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Decodes `query` as browsers encode forms: `+` is a space.
    pub(super) fn parse(query: Option<&'a str>, known: &[&Parameter]) -> Result<Self, Problem> {
        let mut pairs: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode_form(name)?;
            if known.iter().any(|parameter| parameter.name == name && parameter.form == Form::Secret) {
                continue;
            }
            let value = decode_form(value)?;
            let Some(parameter) = known.iter().find(|parameter| parameter.name == name) else {
                return Err(unknown(&name, known));
            };
            if parameter.form != Form::List && pairs.iter().any(|(before, _)| *before == name) {
                return Err(bad(format_args!("{name} is given twice: this parameter is taken once")));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// The value of `name`, if it was given.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| &**value)
    }

    /// All words of the lists that were given for `name`.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let lists = self.0.iter().filter(|(given, _)| given == name);
        lists.flat_map(|(_, list)| list.split(',')).map(str::to_owned).collect()
    }

    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, Problem> {
        self.read(name, parse_duration, "a duration of up to 366d, such as 500ms, 30s, 5m, 1h or 1d")
    }

    pub(super) fn count(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.read(name, parse_count, "a whole number up to 18446744073709551615")
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        self.read(name, |text| text.parse().ok(), "true or false")
    }

    /// The value of `name` as `parse` reads it; `form` says what that is.
    pub(super) fn read<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        form: &str,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        parse(text).map(Some).ok_or_else(|| bad_value(name, text, form))
    }
}

/// What a query holds of a parameter that is a secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Secret {
    None,
    One(Vec<u8>),
    /// It is given more than once.
    More,
}

/// The value of `name`, whatever else is in the query.
pub(super) fn secret(query: Option<&str>, name: &str) -> Secret {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(given, _)| percent_decode_str(given).eq(name.bytes())).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (None, _) => Secret::None,
        (Some(value), None) => Secret::One(percent_decode_str(value).collect()),
        (Some(_), Some(_)) => Secret::More,
    }
}

/// A path's segment, percent-decoded.
pub(super) fn decode_segment(segment: &str) -> Result<Cow<'_, str>, Problem> {
    let decoded = percent_decode_str(segment).decode_utf8();
    decoded.map_err(|_| bad(format_args!("the machine id {segment:?} is not UTF-8 when percent-decoded")))
}

fn decode_form(text: &str) -> Result<Cow<'_, str>, Problem> {
    let not_utf8 = |_| bad(format_args!("{text:?} in the query is not UTF-8 when percent-decoded"));
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8().map_err(not_utf8);
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(|text| Cow::Owned(text.into_owned())).map_err(not_utf8)
}

/// An answer 400 that names a parameter, what was given and what is allowed.
pub(super) fn bad_value(name: &str, given: &str, form: &str) -> Problem {
    bad(format_args!("{name}={:?} is not {form}", Shortened(given)))
}

pub(super) fn bad(detail: fmt::Arguments<'_>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail.to_string())
}

fn unknown(name: &str, known: &[&Parameter]) -> Problem {
    let names: Vec<_> = known.iter().map(|parameter| parameter.name).collect();
    let takes = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    bad(format_args!("unknown parameter {:?}: this call takes {takes}", Shortened(name)))
}

/// What was given, at a length that fits an answer.
struct Shortened<'a>(&'a str);

impl fmt::Debug for Shortened<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = &self.0[..self.0.floor_char_boundary(200)];
        if short.len() < self.0.len() { write!(f, "{short:?}…") } else { write!(f, "{short:?}") }
    }
}

pub(super) fn parse_count(text: &str) -> Option<u64> {
    // `parse` alone would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Reads `500ms`, `30s`, `1h30m` as the configuration does, up to [`DURATION_MAX`].
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    duration(text).filter(|duration| *duration <= DURATION_MAX)
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&Parameter; 3] = [
        &Parameter::new("one", Form::Text, ""),
        &Parameter::new("many", Form::List, ""),
        &Parameter::new("wait", Form::Duration, ""),
    ];

    fn parse(query: &str) -> Result<Query<'_>, String> {
        Query::parse(Some(query), &KNOWN).map_err(|problem| {
            assert_eq!(problem.status, 400);
            problem.detail
        })
    }

    #[test]
    fn durations_are_those_of_the_configuration() {
        for (text, millis) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("1d", Some(86_400_000)),
            ("366d", Some(366 * 86_400_000)),
            ("367d", None),
            ("99999999999999999999d", None),
            ("18446744073709551615h", None),
            ("5", None),
            ("s", None),
            ("", None),
            ("-5s", None),
            ("+5s", None),
            ("1.5s", None),
            ("5 s", None),
            ("5S", None),
            ("1h30m", Some(5_400_000)),
            ("5s748ms", Some(5_748)),
            ("30m1h", None),
            ("5us", None),
            ("٥s", None),
        ] {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn a_query_is_decoded_as_a_form() {
        let query = parse("&one=a+b%2Bc%26&&many=x,y&many=z%2Cq").unwrap();
        assert_eq!(query.text("one"), Some("a b+c&"));
        assert_eq!(query.list("many"), ["x", "y", "z", "q"]);
        assert_eq!(query.text("wait"), None);
        assert_eq!(query.duration("wait").unwrap(), None);
    }

    #[test]
    fn what_a_call_does_not_take_is_named() {
        let detail = parse("one=1&other=2").unwrap_err();
        assert!(detail.contains("\"other\"") && detail.contains("one, many, wait"), "{detail}");
        assert!(parse("one=1&one=1").unwrap_err().contains("twice"));
        assert!(parse("one=%ff").is_err());
        let detail = parse("wait=soon").unwrap().duration("wait").unwrap_err().detail;
        assert!(detail.contains("wait=\"soon\"") && detail.contains("500ms"), "{detail}");
        let long = "é".repeat(5000);
        assert!(parse(&format!("wait={long}")).unwrap().duration("wait").unwrap_err().detail.len() < 1000);
    }

    #[test]
    fn counts_and_flags_are_strict() {
        for (text, count) in [("0", Some(0)), ("10", Some(10)), ("+1", None), ("-1", None), ("1e3", None), ("", None)] {
            assert_eq!(parse(&format!("one={}", text.replace('+', "%2B"))).unwrap().count("one").ok().flatten(), count);
        }
        assert_eq!(parse("one=true").unwrap().flag("one").unwrap(), Some(true));
        assert!(parse("one=1").unwrap().flag("one").is_err());
        assert!(parse("one").unwrap().flag("one").is_err());
    }

    #[test]
    fn a_count_that_is_too_large_is_told_its_bound() {
        let problem = parse("one=18446744073709551616").unwrap().count("one").unwrap_err();
        assert!(problem.detail.contains("up to 18446744073709551615"), "{problem:?}");
    }

    #[test]
    fn a_secret_is_found_alone_and_never_repeated() {
        let known = [&Parameter::new("key", Form::Secret, ""), KNOWN[0]];
        for (query, expected) in [
            ("one=1", Secret::None),
            ("one=1&key=a.b", Secret::One(b"a.b".to_vec())),
            ("k%65y=a%2Eb&one=1", Secret::One(b"a.b".to_vec())),
            ("key=%ff", Secret::One(b"\xff".to_vec())),
            ("key", Secret::One(Vec::new())),
            ("key=a&key=b", Secret::More),
        ] {
            assert_eq!(secret(Some(query), "key"), expected, "{query}");
            let query = Query::parse(Some(query), &known).unwrap();
            assert_eq!(query.text("key"), None);
        }
        assert_eq!(secret(None, "key"), Secret::None);
    }

    #[test]
    fn a_segment_is_percent_decoded_and_a_plus_stays() {
        assert_eq!(decode_segment("a%2Fb+c").unwrap(), "a/b+c");
        assert!(decode_segment("%ff").is_err());
    }
}
