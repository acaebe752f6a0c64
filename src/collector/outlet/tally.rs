//! What became of the lines that a sink wants: always `in = delivered + dropped + in_flight`.

use std::{borrow::Cow, collections::HashMap};

use jiff::Timestamp;

use super::SinkReason;
use crate::{
    batch::EntryView,
    journal::{Loss, widest},
};

/// Machines whose losses are told apart, for each reason, until they are journaled.
const MACHINES_MAX: usize = 4096;

/// The counters. Guarded by the outlet's lock, so that they agree whenever they are looked at.
#[derive(Debug, Default)]
pub(super) struct Tally {
    settled: Settled,
    pub(super) retries: u64,
    pub(super) last_success: Option<Timestamp>,
    /// What was dropped and is not journaled, by reason and machine.
    lost: [HashMap<Box<str>, Loss>; SinkReason::ALL.len()],
    /// Everything was given up: what its reader says of it comes too late.
    closed: bool,
    /// Lines counted in that an end of that name before this one had not settled, and that have not come back yet.
    carried: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Settled {
    pub(super) lines_in: u64,
    pub(super) filtered: u64,
    pub(super) delivered: u64,
    pub(super) dropped: [u64; SinkReason::ALL.len()],
}

impl Tally {
    pub(super) fn settled(&self) -> Settled {
        self.settled
    }

    /// Lines neither delivered nor dropped.
    pub(super) fn in_flight(&self) -> u64 {
        let Settled { lines_in, delivered, dropped, .. } = self.settled;
        lines_in.saturating_sub(delivered + dropped.iter().sum::<u64>())
    }

    pub(super) fn came_in(&mut self, lines: u64) {
        self.settled.lines_in += lines;
    }

    /// Lines are there again: those that were carried over are counted in already.
    pub(super) fn came_back(&mut self, lines: u64) {
        let known = lines.min(self.carried);
        self.carried -= known;
        self.came_in(lines - known);
    }

    /// What is counted, without what is not journaled.
    pub(super) fn counters(&self) -> Self {
        Self { settled: self.settled, retries: self.retries, last_success: self.last_success, ..Self::default() }
    }

    /// The counters go on in the next end of that name; what is not settled is to come back there.
    pub(super) fn carried_over(self) -> Self {
        Self { carried: self.in_flight(), closed: false, ..self }
    }

    /// What has not come back by now never will: it is gone, or no longer wanted.
    pub(super) fn forgo_carried(&mut self) {
        let carried = std::mem::take(&mut self.carried);
        self.dropped_unknown(SinkReason::Shutdown, carried);
    }

    pub(super) fn filtered(&mut self, lines: u64) {
        self.settled.filtered += lines;
    }

    pub(super) fn delivered(&mut self, lines: u64) {
        if !self.closed {
            self.settled.delivered += lines;
            self.last_success = Some(Timestamp::now());
        }
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn dropped<'a>(&mut self, reason: SinkReason, entries: impl Iterator<Item = EntryView<'a>>) {
        if self.closed {
            return;
        }
        let now = Timestamp::now();
        for entry in entries {
            self.settled.dropped[reason as usize] += 1;
            self.note(reason, &entry, now);
        }
    }

    /// Counts lines that are dropped; [`Tally::note`] says which.
    pub(super) fn count_dropped(&mut self, reason: SinkReason, lines: u64) {
        self.settled.dropped[reason as usize] += lines;
    }

    /// Drops lines of which nobody knows whose they are.
    pub(super) fn dropped_unknown(&mut self, reason: SinkReason, lines: u64) {
        if lines > 0 && !self.closed {
            self.count_dropped(reason, lines);
            let now = Timestamp::now();
            let lost = self.lost[reason as usize].entry("".into()).or_insert_with(|| loss(reason, "", "", now));
            (lost.lines, lost.to) = (lost.lines + lines, now);
        }
    }

    /// Notes whose line is dropped, for the journal.
    pub(super) fn note(&mut self, reason: SinkReason, entry: &EntryView<'_>, now: Timestamp) {
        let lost = &mut self.lost[reason as usize];
        let machine = entry.machine_id();
        let machine = if lost.len() >= MACHINES_MAX && !lost.contains_key(machine) { "" } else { machine };
        // Not by `entry`, which would need a name of its own each time.
        if !lost.contains_key(machine) {
            lost.insert(machine.into(), loss(reason, machine, entry.app_name(), now));
        }
        let Some(lost) = lost.get_mut(machine) else { return };
        (lost.lines, lost.to) = (lost.lines + 1, now);
        if !machine.is_empty() {
            lost.ids = widest(lost.ids, entry.id().map(|id| (id, id)));
        }
    }

    /// What was dropped since this was last asked.
    pub(super) fn take_lost(&mut self, name: &str) -> Vec<Loss> {
        let place: Cow<'static, str> = format!("sink:{name}").into();
        let lost = self.lost.iter_mut().flat_map(|lost| std::mem::take(lost).into_values());
        lost.map(|loss| Loss { place: place.clone(), ..loss }).collect()
    }
}

fn loss(reason: SinkReason, machine: &str, app: &str, now: Timestamp) -> Loss {
    let (machine, app) = (machine.to_owned(), if machine.is_empty() { String::new() } else { app.to_owned() });
    Loss {
        machine,
        app,
        place: Cow::Borrowed("sink"),
        reason: reason.as_str(),
        lines: 0,
        from: now,
        to: now,
        ids: None,
    }
}
