//! What is told of a line in one queue, or at one sink.

use jiff::Timestamp;
use serde::Serialize;

use super::{Left, Line};
#[cfg(feature = "sinks")]
use crate::collector::outlet::SinkTrace;
use crate::{
    batch::EntryId,
    collector::LogCollector,
    journal::{Entry, Losses},
    queue::{Queue, Trace},
};

/// What became of a line in a queue or at a sink.
#[derive(Debug, Serialize)]
pub(crate) struct Fate {
    /// A sink's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) state: &'static str,
    /// Of a line that was dropped, or may have been: why.
    pub(crate) reason: Option<String>,
    pub(crate) detail: String,
    /// A queue's terms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) streams: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) full: Option<&'static str>,
}

/// What the fates are read from.
pub(super) struct Known<'a> {
    pub(super) id: EntryId,
    /// The line was not received before this.
    pub(super) since: Timestamp,
    /// When this process began.
    pub(super) started: Timestamp,
    /// Whether it was over a limit, as far as that is known.
    pub(super) limited: Option<bool>,
    pub(super) losses: &'a Losses,
}

/// A state, a reason, a detail.
type Told = (&'static str, Option<String>, String);

fn plain(state: &'static str, detail: impl Into<String>) -> Told {
    (state, None, detail.into())
}

impl Known<'_> {
    pub(super) fn of_queue(&self, queue: &Queue, trace: &Trace) -> Fate {
        let streams = queue.terms.streams;
        let (state, reason, detail) = match trace {
            Trace::Before => plain("before", "the queue was subscribed later, and does not begin with it"),
            Trace::After => plain("after", "the queue had ended before it came"),
            Trace::Filtered => plain("filtered", format!("the queue takes {streams} alone")),
            Trace::Limited => limited("the queue dropped it as it came"),
            Trace::Queued(..) => plain("queued", "it waits in memory for a reader"),
            Trace::Behind { on_disk: true } => plain("behind", "the queue is behind, and comes to it on the disk"),
            Trace::Behind { on_disk: false } => plain("behind", "the queue is behind, and comes to it in the history"),
            Trace::Handed { lines } => plain(
                "handed",
                format!("it is delivered, or among {lines} lines that a reader has taken and not yet handed on"),
            ),
            Trace::Dropped(reason) => {
                ("dropped", Some(reason.as_str().to_owned()), "the queue gave it up before a reader came".to_owned())
            }
            Trace::Delivered => {
                self.but_for("queue", self.started, Some("limited"), || plain("delivered", "a reader took it"))
            }
            Trace::Passed { before_this_process } => {
                self.passed("queue", *before_this_process, queue.began.line().is_none())
            }
        };
        let full = Some(queue.terms.full.as_str());
        Fate { name: None, state, reason, detail, streams: Some(streams.to_string()), full }
    }

    /// Of a place that is past the line.
    fn passed(&self, place: &str, before_this_process: bool, no_beginning: bool) -> Told {
        // What this process is past, it is past since it began.
        let since = if before_this_process { self.since } else { self.since.max(self.started) };
        self.but_for(place, since, None, || {
            if let Some(since) = self.losses.complete_since.filter(|complete| *complete > since) {
                return plain(
                    "unknown",
                    format!("delivered or dropped: the loss journal is complete since {since} only"),
                );
            }
            let detail = match (before_this_process, no_beginning) {
                (true, true) => "a process before this one was past it, if the queue was there then; no loss is known",
                (true, false) => "a process before this one was past it, and no loss is known",
                (false, _) => "it is past, and no loss is known",
            };
            plain("delivered", detail)
        })
    }

    /// What the journal tells of the line in a place since some time; else what `otherwise` says. Losses of which nobody knows which lines they
    /// were may be this one, but where only one `reason` is asked for.
    fn but_for(&self, place: &str, since: Timestamp, reason: Option<&str>, otherwise: impl FnOnce() -> Told) -> Told {
        let here = || {
            let of_place = self.losses.entries.iter().filter(|entry| entry.place == place);
            let was_limited = self.limited != Some(false);
            of_place
                .filter(move |entry| reason.is_none_or(|reason| entry.reason == reason))
                .filter(move |entry| was_limited || entry.reason != "limited")
        };
        if let Some(entry) = here().find(|entry| is_certain(entry, self.id)) {
            return ("dropped", Some(entry.reason.to_string()), "the loss journal says so".to_owned());
        }
        let maybe = here()
            .find(|entry| covers(entry, self.id) || reason.is_none() && entry.first_id.is_none() && entry.to >= since);
        maybe.map_or_else(otherwise, |entry| {
            let detail = format!("delivered, or one of those lost from {} to {}", entry.from, entry.to);
            ("unknown", Some(entry.reason.to_string()), detail)
        })
    }
}

#[cfg(feature = "sinks")]
impl LogCollector {
    pub(super) fn sink_fates(&self, known: &Known<'_>, line: Line, left: Option<&Left>) -> Vec<Fate> {
        let row = left.map(|left| left.batch.view_of(&left.batch.rows[left.row]));
        let entry = row.as_ref().map(|row| (row, line.limited == Some(true)));
        let fate = |sink: &std::sync::Arc<super::super::outlet::OutletState>| {
            let (state, reason, detail) = match sink.trace(line.number, entry) {
                SinkTrace::Before => plain("before", "the sink began later"),
                SinkTrace::Filtered => plain("filtered", "the sink does not want it"),
                SinkTrace::Limited => limited("the sink does not get what is over a limit"),
                SinkTrace::Waiting => plain("waiting", "the sink has not come to it"),
                SinkTrace::InFlight => plain("in_flight", "it is on its way, and not acknowledged"),
                SinkTrace::Passed { before_this_process } => {
                    known.passed(&format!("sink:{}", sink.name()), before_this_process, false)
                }
            };
            Fate { name: Some(sink.name().to_owned()), state, reason, detail, streams: None, full: None }
        };
        self.outlets().iter().map(fate).collect()
    }
}

#[cfg(not(feature = "sinks"))]
impl LogCollector {
    pub(super) fn sink_fates(&self, _known: &Known<'_>, _line: Line, _left: Option<&Left>) -> Vec<Fate> {
        Vec::new()
    }
}

fn limited(detail: &str) -> Told {
    ("limited", Some("limited".to_owned()), detail.to_owned())
}

/// Whether a line may be one of a loss, by the ids that this has.
pub(super) fn covers(entry: &Entry, id: EntryId) -> bool {
    entry.first_id.zip(entry.last_id).is_some_and(|(first, last)| {
        first.epoch == id.epoch && first.machine == id.machine && (first.line..=last.line).contains(&id.line)
    })
}

/// Whether a line is one of a loss: its first or last, or one of a stretch that was lost in whole.
fn is_certain(entry: &Entry, id: EntryId) -> bool {
    let Some((first, last)) = entry.first_id.zip(entry.last_id).filter(|_| covers(entry, id)) else { return false };
    let is_whole =
        |from: u64, to: u64| entry.lines.is_some_and(|lines| to.saturating_sub(from).saturating_add(1) == lines);
    id == first
        || id == last
        || is_whole(first.line, last.line)
        || first.machine_seq > 0 && is_whole(first.machine_seq, last.machine_seq)
}
