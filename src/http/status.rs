//! How the drain is: `/livez`, `/readyz`, and `/healthz` with the verdict for alerts.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

/// What has happened within this time before now counts for the verdict.
const WINDOW: Duration = Duration::from_secs(60);
/// Counters are kept so far apart, so that a window is at most some sixty of them however often they are looked at.
const SPACING: Duration = Duration::from_secs(1);

/// What can be wrong: the closed set of `/healthz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trouble {
    /// Lines were dropped in the last minute.
    Losing,
    /// Bodies were refused for want of room in the last minute.
    Refusing,
    /// A sink delivers nothing.
    SinkFailing,
    /// A source that used to send has fallen silent.
    SourceSilent,
    /// The process is about to end.
    ShuttingDown,
}

impl Trouble {
    /// All of them, in the order in which they are told.
    pub(crate) const ALL: [Self; 5] =
        [Self::Losing, Self::Refusing, Self::SinkFailing, Self::SourceSilent, Self::ShuttingDown];
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    pub(crate) reason: Trouble,
    /// For people: what and how much.
    pub(crate) detail: String,
}

impl Reason {
    pub(crate) fn new(reason: Trouble, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// The verdict: well if there is no reason to say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) status: &'static str,
    pub(crate) reasons: Vec<Reason>,
    /// What will be wrong one day, and is not yet: it makes nobody unwell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

impl Verdict {
    pub(crate) fn new(mut reasons: Vec<Reason>) -> Self {
        reasons.sort_by_key(|reason| Trouble::ALL.iter().position(|trouble| *trouble == reason.reason));
        Self { status: if reasons.is_empty() { "ok" } else { "failing" }, reasons, warnings: Vec::new() }
    }

    pub(crate) fn is_well(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// Counters that only grow, of which the verdict wants the growth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Lines dropped, wherever.
    pub(crate) dropped: u64,
    /// Bodies refused for want of room: `queue_full`, `memory`, `spool`, `jetstream`.
    pub(crate) refused: u64,
}

/// Remembers a minute of counters. [`Health::note`] is to be called about every second; a probe counts as a call.
#[derive(Debug)]
pub(crate) struct Health {
    /// The oldest is the newest that is older than the window, or the very first.
    noted: Mutex<VecDeque<(Instant, Counted)>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { noted: Mutex::new(VecDeque::from([(Instant::now(), Counted::default())])) }
    }
}

impl Health {
    /// Notes the counters of this moment. Returns what they have grown by within the window.
    pub(crate) fn note(&self, counted: Counted) -> Counted {
        let now = Instant::now();
        let mut noted = self.noted.lock();
        if noted.back().is_none_or(|(at, _)| now.duration_since(*at) >= SPACING) {
            noted.push_back((now, counted));
        }
        while noted.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            noted.pop_front();
        }
        let before = noted.front().map_or_else(Counted::default, |(_, counted)| *counted);
        Counted {
            dropped: counted.dropped.saturating_sub(before.dropped),
            refused: counted.refused.saturating_sub(before.refused),
        }
    }

    /// The reasons that counters give.
    pub(crate) fn reasons(&self, counted: Counted) -> Vec<Reason> {
        let Counted { dropped, refused } = self.note(counted);
        let seconds = WINDOW.as_secs();
        let were = |count, one, many| if count == 1 { format!("1 {one} was") } else { format!("{count} {many} were") };
        let losing = || {
            let lines = were(dropped, "line", "lines");
            Reason::new(Trouble::Losing, format!("{lines} dropped in the last {seconds} s"))
        };
        let refusing = || {
            let bodies = were(refused, "body", "bodies");
            Reason::new(Trouble::Refusing, format!("{bodies} refused in the last {seconds} s"))
        };
        let losing = (dropped > 0).then(losing);
        losing.into_iter().chain((refused > 0).then(refusing)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn troubles(health: &Health, dropped: u64, refused: u64) -> Vec<Trouble> {
        health.reasons(Counted { dropped, refused }).iter().map(|reason| reason.reason).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_drop_counts_for_a_minute() {
        let health = Health::default();
        assert_eq!(troubles(&health, 0, 0), []);
        for second in 0..60 {
            tokio::time::advance(SPACING).await;
            assert_eq!(troubles(&health, 5, 0), [Trouble::Losing], "{second}");
        }
        tokio::time::advance(SPACING).await;
        assert_eq!(troubles(&health, 5, 0), []);
        assert_eq!(troubles(&health, 5, 1), [Trouble::Refusing]);
        assert!(health.noted.lock().len() <= 62);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_note_every_second_a_drop_is_not_overlooked() {
        let health = Health::default();
        tokio::time::advance(WINDOW * 10).await;
        assert_eq!(troubles(&health, 7, 7), [Trouble::Losing, Trouble::Refusing]);
        for _ in 0..10_000 {
            health.note(Counted { dropped: 7, refused: 7 });
        }
        assert!(health.noted.lock().len() <= 2);
        tokio::time::advance(WINDOW * 2).await;
        assert_eq!(troubles(&health, 7, 7), []);
    }

    #[test]
    fn reasons_are_told_by_their_names_in_one_order() {
        let reasons = Trouble::ALL.into_iter().rev().map(|trouble| Reason::new(trouble, "why")).collect();
        let verdict = serde_json::to_value(Verdict::new(reasons)).unwrap();
        let names: Vec<_> =
            verdict["reasons"].as_array().unwrap().iter().map(|reason| reason["reason"].clone()).collect();
        assert_eq!(names, ["losing", "refusing", "sink_failing", "source_silent", "shutting_down"]);
        assert_eq!(verdict["status"], "failing");
        assert!(Verdict::new(Vec::new()).is_well());
    }
}
