//! What a sink's lines that were dropped were of, until it is journaled.
//!
//! Under a lock of its own: to say whose lines they are takes a look at each, for which publishing must not wait.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
};

use jiff::Timestamp;

use super::SinkReason;
use crate::{
    batch::{Batch, EntryId},
    journal::{Loss, widest},
    sync::Mutex,
};

/// Machines whose losses are told apart, for each reason.
const MACHINES_MAX: usize = 4096;

/// Losses by reason and machine.
#[derive(Debug, Default)]
pub(super) struct Lost([Mutex<HashMap<Box<str>, Loss>>; SinkReason::ALL.len()]);

/// Rows of one group that were dropped.
#[derive(Clone, Copy)]
struct Share {
    lines: u64,
    first: u32,
    last: u32,
}

impl Lost {
    /// Notes whose the rows of a batch were that are dropped, which are ascending.
    pub(super) fn note(&self, reason: SinkReason, batch: &Batch, rows: impl Iterator<Item = u32>) {
        let now = Timestamp::now();
        let shares = shares(batch, rows);
        let mut lost = self.0[reason as usize].lock();
        for (group, share) in shares {
            let machine = batch.machine_id(&batch.groups[group as usize]);
            let entry = |row: u32| batch.view_of(&batch.rows[row as usize]);
            let known = lost.len() < MACHINES_MAX || lost.contains_key(machine);
            let (machine, app) = if known { (machine, entry(share.first).app_name()) } else { ("", "") };
            let ids: Option<(EntryId, EntryId)> = entry(share.first).id().zip(entry(share.last).id());
            let loss = lost.entry(machine.into()).or_insert_with(|| loss(reason, machine, app, now));
            (loss.lines, loss.to) = (loss.lines + share.lines, now);
            if known {
                loss.ids = widest(loss.ids, ids);
            }
        }
    }

    /// Notes lines of which nobody knows whose they were.
    pub(super) fn note_unknown(&self, reason: SinkReason, lines: u64) {
        let now = Timestamp::now();
        let mut lost = self.0[reason as usize].lock();
        let loss = lost.entry("".into()).or_insert_with(|| loss(reason, "", "", now));
        (loss.lines, loss.to) = (loss.lines + lines, now);
    }

    /// What was noted since this was last asked, of the sink of that name.
    pub(super) fn take(&self, name: &str) -> Vec<Loss> {
        let place: Cow<'static, str> = format!("sink:{name}").into();
        let lost = self.0.iter().flat_map(|lost| std::mem::take(&mut *lost.lock()).into_values());
        lost.map(|loss| Loss { place: place.clone(), ..loss }).collect()
    }
}

/// The rows by the groups that they are in.
fn shares(batch: &Batch, rows: impl Iterator<Item = u32>) -> HashMap<u32, Share, foldhash::fast::RandomState> {
    let mut shares = HashMap::<u32, Share, _>::default();
    for row in rows {
        match shares.entry(batch.rows[row as usize].group) {
            Entry::Vacant(vacant) => drop(vacant.insert(Share { lines: 1, first: row, last: row })),
            Entry::Occupied(mut share) => {
                let share = share.get_mut();
                (share.lines, share.last) = (share.lines + 1, row);
            }
        }
    }
    shares
}

fn loss(reason: SinkReason, machine: &str, app: &str, now: Timestamp) -> Loss {
    Loss {
        machine: machine.to_owned(),
        app: app.to_owned(),
        place: Cow::Borrowed("sink"),
        reason: reason.as_str(),
        lines: 0,
        from: now,
        to: now,
        ids: None,
    }
}
