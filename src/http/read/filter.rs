//! Which lines a `tail` shows.

use std::sync::Arc;

use regex::Regex;

use super::params::{Query, bad_value};
use crate::{batch::EntryView, filter, grant::Grant, http::problem::Problem};

/// What is asked for, of what may be shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// What may be shown at all; `None`: everything.
    grant: Option<Arc<Grant>>,
    asked: filter::Filter,
}

impl Filter {
    pub(super) fn of(query: &Query<'_>, grant: Option<Arc<Grant>>) -> Result<Self, Problem> {
        let asked = filter::Filter {
            machines: query.list("machine"),
            apps: query.list("app"),
            regions: query.list("region"),
            streams: query.list("stream"),
            levels: query.list("level"),
            include: pattern(query, "include")?,
            exclude: pattern(query, "exclude")?,
        };
        Ok(Self { grant, asked })
    }

    /// Whether a line is wanted.
    pub(super) fn wants(&self, entry: &EntryView<'_>) -> bool {
        self.grant.as_ref().is_none_or(|grant| grant.shows(entry)) && self.asked.wants(entry)
    }
}

fn pattern(query: &Query<'_>, name: &str) -> Result<Option<Regex>, Problem> {
    let Some(text) = query.text(name) else { return Ok(None) };
    filter::pattern(text).map(Some).map_err(|expected| bad_value(name, text, &expected))
}
