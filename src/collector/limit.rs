//! Limits of machines and apps: lines and bytes in a second, with a burst of ten seconds' worth.
//!
//! What is over a limit is marked while its batch is published, and dropped by the machine's queue: the history keeps it, and who
//! looks sees it. A limit concerns what a queue takes, so lines that no queue wants cost nobody's. Records of the platform
//! (`system`) are exempt: that a machine was stopped for being too loud must not be dropped for that. Time is that of receipt.
//!
//! The spool does not keep the marks. A queue that reads its lines back from the disk gives out what was told as limited too, and
//! counts it in once more: nothing is unaccounted for, but more passes than the limit.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Machine, outlet::Wants};
use crate::{
    batch::{Batch, Kind},
    config::{Limit, Rate},
};

/// How long a meter takes to fill up: what may pass at once is what may pass in this time.
const BURST: Duration = Duration::from_secs(10);
/// Meters count in billionths, so that no refill is rounded.
const ONE: i128 = 1_000_000_000;
/// Apps with a meter of their own: names come from the network. The others share one.
const APPS_MAX: usize = 4096;
/// The table of machines has its own bound, and takes its meters with it.
const MACHINES_MAX: usize = usize::MAX;
/// How often a full table is searched for meters that are not needed.
const SWEEP: Duration = Duration::from_secs(1);

/// What may still pass of a limit: a bucket of lines and one of bytes, full at first.
#[derive(Clone, Copy, Debug)]
struct Meter {
    filled: Instant,
    lines: i128,
    bytes: i128,
}

impl Meter {
    fn new(rate: Rate, now: Instant) -> Self {
        let (lines, bytes) = brim(rate);
        Self { filled: now, lines, bytes }
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_nanos() as i128;
        let (lines, bytes) = brim(rate);
        self.lines = (self.lines + rate.lines_per_second as i128 * elapsed).min(lines);
        self.bytes = (self.bytes + rate.bytes_per_second as i128 * elapsed).min(bytes);
        self.filled = self.filled.max(now);
    }

    fn is_full(&self, rate: Rate) -> bool {
        (self.lines, self.bytes) == brim(rate)
    }

    /// Whether a line may pass. One of any length may when there is a byte left, and is paid for by those after it: else one that
    /// is longer than the burst could never pass.
    fn has_room(&self, rate: Rate) -> bool {
        (rate.lines_per_second == 0 || self.lines >= ONE) && (rate.bytes_per_second == 0 || self.bytes > 0)
    }

    fn take(&mut self, rate: Rate, bytes: usize) {
        if rate.lines_per_second > 0 {
            self.lines -= ONE;
        }
        if rate.bytes_per_second > 0 {
            self.bytes -= bytes as i128 * ONE;
        }
    }
}

/// Lines and bytes of a full meter.
fn brim(rate: Rate) -> (i128, i128) {
    let nanoseconds = BURST.as_nanos() as i128;
    (rate.lines_per_second as i128 * nanoseconds, rate.bytes_per_second as i128 * nanoseconds)
}

/// The meters of machines, and those of apps. Not in the machine's entry, where they would cost those that have no limit.
#[derive(Debug)]
pub(super) struct Meters {
    machines: Table,
    apps: Table,
}

impl Default for Meters {
    fn default() -> Self {
        Self { machines: Table::new(MACHINES_MAX), apps: Table::new(APPS_MAX) }
    }
}

impl Meters {
    /// A machine is forgotten, and begins anew if it comes back.
    pub(super) fn forget(&mut self, machine: &str) {
        self.machines.named.remove(machine);
    }
}

/// Meters by the names of what they measure.
#[derive(Debug)]
struct Table {
    max: usize,
    named: HashMap<Box<str>, Meter, foldhash::fast::RandomState>,
    /// That of all that found no room.
    rest: Option<Meter>,
    swept: Option<Instant>,
}

impl Table {
    fn new(max: usize) -> Self {
        Self { max, named: HashMap::default(), rest: None, swept: None }
    }

    /// The meter of `name`, filled up to `now`.
    fn meter(&mut self, name: &str, rate: Rate, now: Instant) -> &mut Meter {
        // Not by `entry`, which would need a name of its own each time.
        if !self.named.contains_key(name) {
            if self.named.len() >= self.max {
                self.sweep(rate, now);
            }
            if self.named.len() < self.max {
                self.named.insert(name.into(), Meter::new(rate, now));
            }
        }
        let rest = &mut self.rest;
        let meter = self.named.get_mut(name).unwrap_or_else(|| rest.get_or_insert_with(|| Meter::new(rate, now)));
        meter.fill(rate, now);
        meter
    }

    /// Forgets those that could begin anew: their meters are full.
    fn sweep(&mut self, rate: Rate, now: Instant) {
        if self.swept.is_some_and(|swept| now.saturating_duration_since(swept) < SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.named.retain(|_, meter| {
            meter.fill(rate, now);
            !meter.is_full(rate)
        });
    }
}

/// Marks the lines of a batch that are over a limit, of those that a queue or a sink wants; `machines` are those of its groups.
pub(super) fn mark(limit: &Limit, meters: &mut Meters, batch: &mut Batch, machines: &[Arc<Machine>], wants: &Wants) {
    let now = batch.received;
    let Meters { machines: machine_meters, apps } = meters;
    for (index, machine) in machines.iter().enumerate() {
        let state = machine.state.lock();
        let streams = state.live_queue().map(|queue| queue.terms.streams);
        if streams.is_none() && wants.are_none() {
            continue;
        }
        let rows = batch.groups[index].rows.clone();
        let sent = batch.view(rows.end - 1);
        let app = if sent.app_name().is_empty() { state.app() } else { sent.app_name() };
        let of_app = limit.app.is_on() && !app.is_empty();
        let mut of_app = of_app.then(|| apps.meter(app, limit.app, now));
        let on = limit.machine.is_on();
        let mut of_machine = on.then(|| machine_meters.meter(&machine.id, limit.machine, now));
        for at in rows {
            let row = batch.row_mut(at);
            let is_wanted = streams.is_some_and(|streams| streams.wants(row.kind)) || wants.has(row.ordinal);
            if row.kind == Kind::System || !is_wanted {
                continue;
            }
            // Only a line that passes both is paid for in either.
            let passes = of_app.as_ref().is_none_or(|meter| meter.has_room(limit.app))
                && of_machine.as_ref().is_none_or(|meter| meter.has_room(limit.machine));
            if passes {
                let bytes = row.raw.len();
                of_app.iter_mut().for_each(|meter| meter.take(limit.app, bytes));
                of_machine.iter_mut().for_each(|meter| meter.take(limit.machine, bytes));
            } else {
                row.limited = true;
                batch.has_limited = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(lines: usize, bytes: usize) -> Rate {
        let mut rate = Rate::default();
        (rate.lines_per_second, rate.bytes_per_second) = (lines, bytes);
        rate
    }

    proptest! {
        #[test]
        fn in_any_time_no_more_passes_than_burst_and_rate_and_no_less_than_both_allow(
            lines_per_second in 0..50usize,
            bytes_per_second in 0..5000usize,
            sent in prop::collection::vec((0..3000u64, 1..2000usize), 1..200),
        ) {
            let rate = rate(lines_per_second, bytes_per_second);
            let start = Instant::now();
            let mut meter = Meter::new(rate, start);
            let (mut now, mut passed) = (start, Vec::new());
            for (millis, bytes) in sent {
                now += Duration::from_millis(millis);
                meter.fill(rate, now);
                let has_room = meter.has_room(rate);
                // Every stretch of time that ends now, counted by hand.
                let within = |from: usize| {
                    let since = passed.get(from).map_or(now, |(at, _): &(Instant, usize)| *at);
                    let allowed = |per_second: usize| per_second as f64 * (10.0 + (now - since).as_secs_f64());
                    let lines = (passed.len() - from) as f64 + 1.0;
                    let bytes: f64 = passed[from..].iter().map(|(_, bytes)| *bytes as f64).sum();
                    (lines_per_second == 0 || lines <= allowed(lines_per_second) + 1e-6)
                        && (bytes_per_second == 0 || bytes + 1e-6 < allowed(bytes_per_second))
                };
                prop_assert_eq!(has_room, (0..=passed.len()).all(within));
                if has_room {
                    meter.take(rate, bytes);
                    passed.push((now, bytes));
                }
            }
        }
    }

    #[test]
    fn apps_beyond_the_table_share_a_meter_until_others_are_idle() {
        let rate = rate(1, 0);
        let start = Instant::now();
        let mut apps = Table::new(APPS_MAX);
        for number in 0..APPS_MAX {
            apps.meter(&format!("a{number}"), rate, start).take(rate, 1);
        }
        apps.meter("one more", rate, start).take(rate, 1);
        assert!(!apps.meter("and another", rate, start).is_full(rate), "shared");
        assert_eq!(apps.named.len(), APPS_MAX);
        let later = start + BURST;
        assert!(apps.meter("and another", rate, later).is_full(rate), "its own");
        assert_eq!(apps.named.len(), 1);
    }
}
