//! A machine's end, as Fly's `runner` tells it in the machine's own log: which record says so, with which code, and where the
//! log of a reader ends that asked for no more than one life of the machine.
//!
//! An exit is noted when its record is published, by whoever is subscribed or not. It ends nobody's log by itself: a reader that
//! wants to end with it ([`ExitWatch`]) goes on for a while, because lines come late, and each late line begins that while anew,
//! up to [`LINGER_MAX`] behind the exit. Where that is over there is a number of a batch, and the lines of that batch and of
//! those behind it are the machine's next life's. Fly's text is no API, so the patterns are a setting.

mod patterns;
mod watch;

use std::time::Duration;

use tokio::time::Instant;

pub use self::patterns::{BadPatterns, ExitPatterns};
pub(crate) use self::{
    patterns::code_of_init,
    watch::{End, ExitWatch, Exits},
};
use crate::batch::{Batch, Group, Kind};

/// How long a reader waits for late lines if it does not say.
pub const LINGER: Duration = Duration::from_secs(5);
/// How long late lines may put off the end, and the longest linger.
pub const LINGER_MAX: Duration = Duration::from_secs(30);
/// How many lines before an exit without a code are looked at for init's word on it: init ends with a few lines of its own.
const LOOKED_BACK_MAX: u32 = 64;

/// How a machine exited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExitStatus {
    code: Option<i32>,
}

impl ExitStatus {
    pub(crate) fn new(code: Option<i32>) -> Self {
        Self { code }
    }

    /// The code that its main process exited with, 128 and the signal's number if a signal ended it; `None` if Fly does not say.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        self.code
    }
}

/// The last exit that a machine's log has told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) status: ExitStatus,
    /// The number of the batch with its record.
    pub(crate) batch: u64,
    at: Instant,
    /// When the machine's last line came.
    last: Instant,
    /// The longest time that no line came since the exit, up to the last line.
    gap: Duration,
}

impl Mark {
    pub(crate) fn new(status: ExitStatus, batch: u64, at: Instant) -> Self {
        Self { status, batch, at, last: at, gap: Duration::ZERO }
    }

    /// An exit of before, and when lines came behind it.
    #[cfg(all(feature = "server", feature = "spool"))]
    pub(crate) fn of_past(status: ExitStatus, batch: u64, at: Instant, later: impl Iterator<Item = Instant>) -> Self {
        let mut mark = Self::new(status, batch, at);
        later.for_each(|received| mark.note(received));
        mark
    }

    /// A line has come.
    fn note(&mut self, received: Instant) {
        self.gap = self.gap.max(received.saturating_duration_since(self.last));
        self.last = self.last.max(received);
    }

    /// Until when a line is a late one.
    fn deadline(&self, linger: Duration) -> Instant {
        (self.last + linger).min(self.at + LINGER_MAX)
    }

    /// Whether every line that came since was a late one: the machine has not begun again.
    fn stands(&self, linger: Duration) -> bool {
        self.gap <= linger && self.last <= self.at + LINGER_MAX
    }
}

/// The exits that the records of a batch tell, by the index of the machine's group; of several in one group the last.
pub(crate) fn exits_in(patterns: &ExitPatterns, batch: &Batch) -> Vec<(u32, ExitStatus)> {
    let groups = batch.groups.iter().enumerate().filter(|(_, group)| group.counts[Kind::System as usize] > 0);
    groups.filter_map(|(index, group)| Some((index as u32, exit_in(patterns, batch, group)?))).collect()
}

fn exit_in(patterns: &ExitPatterns, batch: &Batch, group: &Group) -> Option<ExitStatus> {
    let told = |index: &u32| {
        let row = batch.row(*index);
        row.runner.then(|| patterns.read(batch.view_of(row).message())).flatten()
    };
    let (index, status) = group.rows.clone().rev().find_map(|index| Some((index, told(&index)?)))?;
    let code = status.code().or_else(|| code_before(batch, group.rows.start..index, &mut LOOKED_BACK_MAX.clone()));
    Some(ExitStatus { code })
}

/// The code that init tells in these rows, the newest first; takes the rows looked at off `left`.
fn code_before(batch: &Batch, rows: std::ops::Range<u32>, left: &mut u32) -> Option<i32> {
    rows.rev().find_map(|index| {
        *left = left.checked_sub(1)?;
        code_of_init(batch.view(index).message())
    })
}

/// As [`ExitStatus::code`], of an exit whose record has none: what init said shortly before. `groups` gives the machine's groups
/// before, the newest first, for as long as it is told to.
pub(crate) fn look_back(groups: impl FnOnce(&mut dyn FnMut(&Group, &Batch) -> bool)) -> ExitStatus {
    let (mut left, mut code) = (LOOKED_BACK_MAX, None);
    groups(&mut |group, batch| {
        code = code_before(batch, group.rows.clone(), &mut left);
        code.is_none() && left > 0
    });
    ExitStatus { code }
}

#[cfg(test)]
#[cfg(feature = "server")]
mod tests;
