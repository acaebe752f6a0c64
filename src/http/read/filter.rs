//! Which lines a `tail` shows.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::params::{Query, bad_value};
use crate::{batch::EntryView, grant::Grant, http::problem::Problem};

/// The largest compiled pattern: a short one can ask for megabytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Every part must hold; an empty list holds for all.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// What may be shown at all; `None`: everything.
    grant: Option<Arc<Grant>>,
    machines: Vec<String>,
    apps: Vec<String>,
    regions: Vec<String>,
    streams: Vec<String>,
    levels: Vec<String>,
    include: Option<Regex>,
    exclude: Option<Regex>,
}

impl Filter {
    pub(super) fn of(query: &Query<'_>, grant: Option<Arc<Grant>>) -> Result<Self, Problem> {
        Ok(Self {
            grant,
            machines: query.list("machine"),
            apps: query.list("app"),
            regions: query.list("region"),
            streams: query.list("stream"),
            levels: query.list("level"),
            include: pattern(query, "include")?,
            exclude: pattern(query, "exclude")?,
        })
    }

    /// Whether a line is wanted.
    pub(super) fn wants(&self, entry: &EntryView<'_>) -> bool {
        self.grant.as_ref().is_none_or(|grant| grant.shows(entry))
            && holds(&self.machines, || entry.machine_id())
            && holds(&self.apps, || entry.app_name())
            && holds(&self.regions, || entry.region())
            && holds(&self.streams, || entry.stream())
            && holds(&self.levels, || entry.level())
            && self.include.as_ref().is_none_or(|pattern| pattern.is_match(entry.message()))
            && !self.exclude.as_ref().is_some_and(|pattern| pattern.is_match(entry.message()))
    }
}

fn holds<'a>(wanted: &[String], value: impl FnOnce() -> &'a str) -> bool {
    wanted.is_empty() || {
        let value = value();
        wanted.iter().any(|one| one == value)
    }
}

fn pattern(query: &Query<'_>, name: &str) -> Result<Option<Regex>, Problem> {
    let Some(text) = query.text(name) else { return Ok(None) };
    let compiled = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
    compiled.map(Some).map_err(|error| match error {
        regex::Error::CompiledTooBig(bound) => {
            bad_value(name, text, &format!("a regular expression of at most {bound} bytes when compiled"))
        }
        error => bad_value(name, text, &format!("a regular expression: {error}")),
    })
}
