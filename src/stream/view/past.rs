//! Where a view begins that looks back further than the history holds: looked up in the spool, which has all of it.

use std::sync::Arc;

use jiff::Timestamp;

use super::ViewStart;
use crate::{
    batch::{Batch, EntryId, EntryView},
    history::{FleetCursor, History, MachineCursor, Past, Trail},
    spool::Place,
};

/// The latest of the places that `start` names, and whether it is unknown what was missed before it.
pub(super) fn machine_start(
    past: &Past,
    history: &History,
    machine: &str,
    trail: Trail,
    start: &ViewStart,
    wanted: impl Fn(&EntryView<'_>) -> bool,
) -> (MachineCursor, bool) {
    let from = |seq: u64| MachineCursor::new(past.seq_at(machine, seq, trail), seq.min(trail.end));
    let latest = |one: MachineCursor, other: MachineCursor| if other.next_seq() > one.next_seq() { other } else { one };
    let oldest = from(0);
    // A segment may go before the history lets go of what was in it.
    let mut cursor = first_held(history, trail).filter(|held| held.next_seq() < oldest.next_seq()).unwrap_or(oldest);
    let mut unknown = false;
    if let Some(id) = start.after {
        match after_in_machine(past, history, machine, trail, id) {
            Some(after) => cursor = after,
            None => unknown = true,
        }
    }
    if let Some(since) = start.since {
        cursor = latest(cursor, from(at_time(past, since).map_or(trail.end, |place| place.seq())));
    }
    if let Some(last) = start.last {
        cursor = latest(cursor, newest_of_machine(past, machine, trail, last, wanted));
    }
    (cursor, unknown)
}

fn at_time(past: &Past, time: Timestamp) -> Option<Place> {
    past.batch_at_time(time).ok().flatten()
}

/// Behind the line `id`; `None` where it cannot be known how many lines were missed since.
fn after_in_machine(past: &Past, history: &History, machine: &str, trail: Trail, id: EntryId) -> Option<MachineCursor> {
    if id.epoch != past.epoch() {
        return None;
    }
    let line = id.line.saturating_add(1);
    if line < past.oldest_line() {
        return (line >= history.oldest_line()).then(|| held_from(history, trail, line));
    }
    let Some(place) = past.batch_at_line(line).filter(|place| place.seq() < trail.end) else {
        return Some(MachineCursor::live(trail));
    };
    let first = past.seq_at(machine, place.seq(), trail);
    let read = match line.saturating_sub(place.first_line()) {
        0 => 0,
        ordinal => past.load(&place).map_or(0, |batch| lines_before(&batch, machine, ordinal as u32)),
    };
    Some(MachineCursor::within(place.seq(), first, first + read))
}

/// Where a machine's oldest line is that the history holds.
fn first_held(history: &History, trail: Trail) -> Option<MachineCursor> {
    let mut first = None;
    trail.walk_back(history, |at, group, _| {
        first = Some(MachineCursor::new(group.first_seq, at.batch));
        true
    });
    first
}

/// The machine's first line from `line` on, where the history holds all there is from there on.
fn held_from(history: &History, trail: Trail, line: u64) -> MachineCursor {
    let mut cursor = MachineCursor::live(trail);
    trail.walk_back(history, |at, group, batch| {
        let is_before = |index: &u32| batch.first_line + u64::from(batch.row(*index).ordinal) < line;
        let before = group.rows.clone().take_while(is_before).count() as u64;
        if before < group.lines() {
            cursor = MachineCursor::within(at.batch, group.first_seq, group.first_seq + before);
        }
        before == 0
    });
    cursor
}

/// How many of a machine's lines in a batch come before the one with `ordinal`.
fn lines_before(batch: &Batch, machine: &str, ordinal: u32) -> u64 {
    let Some(group) = batch.groups.iter().find(|group| batch.machine_id(group) == machine) else { return 0 };
    group.rows.clone().take_while(|index| batch.row(*index).ordinal < ordinal).count() as u64
}

/// The `last`-newest line of a machine that is wanted, or its oldest if there are fewer.
fn newest_of_machine(
    past: &Past,
    machine: &str,
    trail: Trail,
    last: u64,
    wanted: impl Fn(&EntryView<'_>) -> bool,
) -> MachineCursor {
    let mut cursor = MachineCursor::live(trail);
    let (mut seq, mut left) = (trail.end, last);
    while left > 0 {
        let Some(place) = past.batch_before(seq, Some(machine)) else { break };
        seq = place.seq();
        let Some(batch) = past.load(&place) else { continue };
        let Some(group) = batch.groups.iter().find(|group| batch.machine_id(group) == machine) else { continue };
        let first = past.seq_at(machine, seq, trail);
        let newest = group.rows.clone().rev().filter(|index| wanted(&batch.view(*index)));
        for index in newest.take(usize::try_from(left).unwrap_or(usize::MAX)) {
            left -= 1;
            cursor = MachineCursor::within(seq, first, first + u64::from(index - group.rows.start));
        }
    }
    cursor
}

/// As [`machine_start`], for all machines.
pub(super) fn fleet_start(
    past: &Past,
    history: &History,
    start: &ViewStart,
    wanted: impl Fn(&EntryView<'_>) -> bool,
) -> (FleetCursor, bool) {
    let mut cursor = history.at_line(past.oldest_line().min(history.oldest_line()));
    let mut unknown = false;
    match start.after {
        Some(id) if id.epoch == past.epoch() => cursor = history.after_line(id.line),
        Some(_) => unknown = true,
        None => {}
    }
    if let Some(since) = start.since {
        let line = at_time(past, since).map_or(u64::MAX, |place| place.first_line());
        cursor = cursor.max(history.at_line(line));
    }
    if let Some(last) = start.last {
        cursor = cursor.max(history.at_line(newest_matching(past, history, last, wanted)));
    }
    (cursor, unknown)
}

/// The number of the `last`-newest line that is wanted, or of the oldest if there are fewer.
fn newest_matching(past: &Past, history: &History, last: u64, wanted: impl Fn(&EntryView<'_>) -> bool) -> u64 {
    let (mut seq, mut first) = history.end();
    let mut left = last;
    while left > 0 {
        // What is held spares the disk.
        let batch = match history.batch_before(seq) {
            Some(held) => held,
            None => {
                let Some(place) = past.batch_before(seq, None) else { break };
                seq = place.seq();
                let Some(batch) = past.load(&place) else { continue };
                Arc::new(batch)
            }
        };
        seq = batch.seq;
        let newest = batch.rows.iter().rev().filter(|row| wanted(&batch.view_of(row)));
        for row in newest.take(usize::try_from(left).unwrap_or(usize::MAX)) {
            left -= 1;
            first = batch.first_line + u64::from(row.ordinal);
        }
    }
    first
}
