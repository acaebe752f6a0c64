//! The machine table over HTTP: list, look at one, subscribe, finish.

use std::{cmp::Ordering, time::Duration};

use hyper::StatusCode;
use serde::Serialize;

use super::params::{Query, bad, bad_value, parse_count};
use crate::{
    collector::{LogCollector, MACHINE_ID_BYTES_MAX, MachineFacts, SubscribeError, SubscribeOptions},
    config::Full,
    http::problem::Problem,
};

/// Machines on a page unless the caller says otherwise, and at most.
const LIMIT: usize = 100;
pub(super) const LIMIT_MAX: usize = 10_000;
/// When to try again to subscribe: subscriptions end when machines do.
const SUBSCRIBE_RETRY_AFTER: Duration = Duration::from_secs(5);

/// What a list is sorted by; the most comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Lines,
    Bytes,
    Dropped,
    Lag,
}

impl Sort {
    const ALL: [(&'static str, Self); 4] =
        [("lines", Self::Lines), ("bytes", Self::Bytes), ("dropped", Self::Dropped), ("lag", Self::Lag)];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| *name == text).map(|(_, sort)| sort)
    }

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, sort)| *sort == self).map_or("", |(name, _)| name)
    }

    fn key(self, facts: &MachineFacts) -> u64 {
        match self {
            Self::Lines => facts.lines,
            Self::Bytes => facts.bytes,
            Self::Dropped => facts.dropped,
            // Bits of numbers that are not negative sort as the numbers do.
            Self::Lag => facts.lag_seconds.max(0.0).to_bits(),
        }
    }
}

/// A place in a sorted list. Machines with the same key are in the order of their ids, so no two share a place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    key: u64,
    id: String,
}

impl Place {
    fn of(facts: &MachineFacts, sort: Sort) -> Self {
        Self { key: sort.key(facts), id: facts.machine_id.clone() }
    }

    fn cmp(&self, key: u64, id: &str) -> Ordering {
        key.cmp(&self.key).then_with(|| self.id.as_str().cmp(id))
    }

    fn token(&self, sort: Sort) -> String {
        format!("{}.{:x}.{}", sort.name(), self.key, self.id)
    }

    fn parse(token: &str, sort: Sort) -> Option<Self> {
        let (key, id) = token.strip_prefix(sort.name())?.strip_prefix('.')?.split_once('.')?;
        Some(Self { key: u64::from_str_radix(key, 16).ok()?, id: id.to_owned() })
    }
}

/// Which page is asked for.
#[derive(Debug)]
pub(super) struct Page {
    sort: Sort,
    limit: usize,
    after: Option<Place>,
}

impl Page {
    pub(super) fn of(query: &Query<'_>) -> Result<Self, Problem> {
        let sort = query.read("sort", Sort::parse, "one of lines, bytes, dropped and lag")?.unwrap_or(Sort::Lines);
        let limit =
            |text: &str| usize::try_from(parse_count(text)?).ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
        let limit = query.read("limit", limit, &format!("a whole number from 1 to {LIMIT_MAX}"))?.unwrap_or(LIMIT);
        let form = format!("the `next` of a page sorted by {}", sort.name());
        let after = query.read("after", |token| Place::parse(token, sort), &form)?;
        Ok(Self { sort, limit, after })
    }

    /// The page out of what `visit_all` shows, in any order. Never holds more than twice the page.
    pub(super) fn pick(&self, visit_all: impl FnOnce(&mut dyn FnMut(MachineFacts))) -> MachineList {
        let sort = self.sort;
        let is_behind = |facts: &MachineFacts| {
            self.after.as_ref().is_none_or(|after| after.cmp(sort.key(facts), &facts.machine_id) == Ordering::Less)
        };
        let by_place = |a: &MachineFacts, b: &MachineFacts| {
            sort.key(b).cmp(&sort.key(a)).then_with(|| a.machine_id.cmp(&b.machine_id))
        };
        // One more than the page tells that there is a next one.
        let wanted = self.limit + 1;
        let mut picked: Vec<MachineFacts> = Vec::new();
        visit_all(&mut |facts| {
            if is_behind(&facts) {
                picked.push(facts);
            }
            if picked.len() >= 2 * wanted {
                picked.select_nth_unstable_by(wanted, by_place);
                picked.truncate(wanted);
            }
        });
        picked.sort_unstable_by(by_place);
        let has_more = picked.len() > self.limit;
        picked.truncate(self.limit);
        let next = picked.last().filter(|_| has_more).map(|last| Place::of(last, sort).token(sort));
        MachineList { machines: picked, next }
    }
}

/// A page of machines.
#[derive(Debug, Serialize)]
pub(super) struct MachineList {
    machines: Vec<MachineFacts>,
    /// For `after`, to get the next page; `None` on the last one.
    next: Option<String>,
}

/// An id as it may be asked for: 1 to 128 bytes.
pub(super) fn check_id(id: &str) -> Result<(), Problem> {
    if id.is_empty() || id.len() > MACHINE_ID_BYTES_MAX {
        return Err(bad(format_args!("a machine id has 1 to {MACHINE_ID_BYTES_MAX} bytes, not {}", id.len())));
    }
    Ok(())
}

/// The facts of a machine, or 404.
pub(super) fn facts(collector: &LogCollector, id: &str) -> Result<MachineFacts, Problem> {
    collector.machine_facts(id).ok_or_else(|| never_seen(id))
}

/// An answer 404 for a machine.
pub(super) fn never_seen(id: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("no machine {id:?} was seen since the drain started"))
}

/// The terms that a query asks for.
pub(super) fn subscribe_options(query: &Query<'_>) -> Result<SubscribeOptions, Problem> {
    let streams = query.text("streams").map(|list| list.parse().map_err(|_| list));
    let streams = streams
        .transpose()
        .map_err(|list: &str| bad_value("streams", list, "a list of stdout, stderr and system, or all"))?;
    let full =
        |text: &str| [Full::CatchUp, Full::Block, Full::DropOldest].into_iter().find(|full| full.as_str() == text);
    let full = query.read("full", full, "one of catch_up, block and drop_oldest")?;
    Ok(SubscribeOptions { streams, full, backlog: query.flag("backlog")?.unwrap_or(false) })
}

/// What could not be subscribed, as it is answered.
pub(super) fn not_subscribed(error: SubscribeError) -> Problem {
    let (status, retry_after) = match error {
        SubscribeError::Conflict { .. } => (StatusCode::CONFLICT, None),
        SubscribeError::BadId { .. } => (StatusCode::BAD_REQUEST, None),
        SubscribeError::TooMany { .. } | SubscribeError::ShuttingDown => {
            (StatusCode::SERVICE_UNAVAILABLE, Some(SUBSCRIBE_RETRY_AFTER))
        }
    };
    let detail = match error {
        SubscribeError::Conflict { streams, full } => format!(
            "the machine's queue exists with streams={streams} and full={}, which stay as they are",
            full.as_str()
        ),
        error => error.to_string(),
    };
    Problem { retry_after, ..Problem::new(status, detail) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::read::routes;

    fn page(query: &str) -> Result<Page, Problem> {
        let (route, _) = routes::find("/api/v1/machines").unwrap();
        Page::of(&Query::parse(Some(query), route.operations[0].parameters)?)
    }

    fn machines() -> Vec<MachineFacts> {
        let collector = LogCollector::default();
        for (machine, lines) in (0..25).map(|machine| (machine, machine % 4 + 1)) {
            for _ in 0..lines {
                let _ = collector.push_line(&format!("m.{machine}"), "x").unwrap();
            }
        }
        collector.all_machine_facts()
    }

    #[test]
    fn pages_of_any_sort_and_size_have_neither_gap_nor_repeat() {
        let all = machines();
        for sort in ["lines", "bytes", "dropped", "lag"] {
            for limit in [1, 7, 24, 25, 26, 100] {
                let (mut seen, mut after) = (Vec::new(), String::new());
                loop {
                    let page = page(&format!("sort={sort}&limit={limit}{after}"))
                        .unwrap()
                        .pick(|visit| all.iter().cloned().for_each(visit));
                    assert!(page.machines.len() <= limit);
                    seen.extend(page.machines.iter().map(|facts| (facts.lines, facts.machine_id.clone())));
                    let Some(next) = page.next else { break };
                    after = format!("&after={next}");
                }
                assert_eq!(seen.len(), all.len(), "{sort} {limit}");
                assert_eq!(seen.iter().map(|(_, id)| id).collect::<BTreeSet<_>>().len(), all.len());
                if sort == "lines" {
                    assert!(seen.is_sorted_by(|a, b| a.0 >= b.0), "{seen:?}");
                }
            }
        }
    }

    #[test]
    fn a_page_that_is_no_page_is_refused() {
        for query in
            ["limit=0", "limit=10001", "limit=x", "limit=%2B5x", "sort=name", "after=x", "sort=bytes&after=lines.1.m"]
        {
            let problem = page(query).unwrap_err();
            assert_eq!(problem.status, 400, "{query}");
            assert!(
                problem.detail.contains(query.rsplit_once('=').unwrap().0.rsplit('&').next().unwrap()),
                "{problem:?}"
            );
        }
    }
}
