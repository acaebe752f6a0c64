//! Which lines somebody wants, by what they say of themselves: for who looks, and for sinks.

use regex::{Regex, RegexBuilder};

use crate::batch::EntryView;

/// The largest compiled pattern: a short one can ask for megabytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Every part must hold; an empty list holds for all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) machines: Vec<String>,
    pub(crate) apps: Vec<String>,
    pub(crate) regions: Vec<String>,
    pub(crate) streams: Vec<String>,
    pub(crate) levels: Vec<String>,
    /// What the message must match.
    pub(crate) include: Option<Regex>,
    /// What it must not.
    pub(crate) exclude: Option<Regex>,
}

impl Filter {
    /// Whether a line is wanted.
    pub(crate) fn wants(&self, entry: &EntryView<'_>) -> bool {
        holds(&self.machines, || entry.machine_id())
            && holds(&self.apps, || entry.app_name())
            && holds(&self.regions, || entry.region())
            && holds(&self.streams, || entry.stream())
            && holds(&self.levels, || entry.level())
            && self.include.as_ref().is_none_or(|pattern| pattern.is_match(entry.message()))
            && !self.exclude.as_ref().is_some_and(|pattern| pattern.is_match(entry.message()))
    }

    /// Whether it wants every line there can be.
    #[cfg(feature = "sinks")]
    #[allow(dead_code, reason = "the delivery loop comes next")]
    pub(crate) fn wants_all(&self) -> bool {
        let lists = [&self.machines, &self.apps, &self.regions, &self.streams, &self.levels];
        lists.iter().all(|list| list.is_empty()) && self.include.is_none() && self.exclude.is_none()
    }
}

fn holds<'a>(wanted: &[String], value: impl FnOnce() -> &'a str) -> bool {
    wanted.is_empty() || {
        let value = value();
        wanted.iter().any(|one| one == value)
    }
}

/// Compiles a regular expression on messages, of a bounded size.
///
/// # Errors
///
/// What was expected instead.
pub(crate) fn pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(bound) => {
            format!("a regular expression of at most {bound} bytes when compiled")
        }
        error => format!("a regular expression: {}", in_one_line(&error)),
    })
}

/// What is wrong with a pattern, without the pattern and what points to the place in it, which take four lines.
pub(crate) fn in_one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines()
        .rev()
        .find_map(|line| line.strip_prefix("error: "))
        .map_or_else(|| text.replace('\n', " "), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_pattern_takes_one_line() {
        for (text, problem) in [
            ("a(", "unclosed group"),
            ("a\n[b", "unclosed character class"),
            ("*", "repetition operator missing expression"),
        ] {
            assert_eq!(pattern(text).unwrap_err(), format!("a regular expression: {problem}"));
        }
        assert!(pattern("(a{1000}){1000}").unwrap_err().starts_with("a regular expression of at most "));
    }
}
