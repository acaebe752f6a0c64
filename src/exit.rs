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

use self::patterns::InitWord;
pub use self::patterns::{BadPatterns, ExitPatterns};
pub(crate) use self::watch::{End, ExitWatch, Exits};
use crate::batch::{Batch, EntryView, Group, Kind};

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

/// An exit that a machine's records in one batch tell, with the code that they tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) status: ExitStatus,
    /// It began in this batch, before that: what lines of before tell is of another life.
    began: bool,
    /// It begins again in this batch, behind that: what later lines tell is of another life.
    begins: bool,
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
    /// Init has begun again since: it says no more of this exit.
    begins: bool,
}

impl Mark {
    pub(crate) fn new(status: ExitStatus, batch: u64, at: Instant) -> Self {
        Self { status, batch, at, last: at, gap: Duration::ZERO, begins: false }
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
pub(crate) fn exits_in(patterns: &ExitPatterns, batch: &Batch) -> Vec<(u32, Exit)> {
    let groups = batch.groups.iter().enumerate().filter(|(_, group)| group.counts[Kind::System as usize] > 0);
    groups.filter_map(|(index, group)| Some((index as u32, exit_in(patterns, batch, group)?))).collect()
}

fn exit_in(patterns: &ExitPatterns, batch: &Batch, group: &Group) -> Option<Exit> {
    let told = |index: &u32| {
        let row = batch.row(*index);
        row.runner.then(|| patterns.read(batch.view_of(row).message())).flatten()
    };
    let (index, status) = group.rows.clone().rev().find_map(|index| Some((index, told(&index)?)))?;
    if status.code().is_some() {
        return Some(Exit { status, began: true, begins: false });
    }
    let before = word_in(batch, (group.rows.start..index).rev(), &mut LOOKED_BACK_MAX.clone());
    let behind = word_in(batch, index + 1..group.rows.end, &mut LOOKED_BACK_MAX.clone());
    let code = [before, behind].into_iter().flatten().find_map(InitWord::code);
    let is_start = |word| word == Some(InitWord::Starting);
    Some(Exit { status: ExitStatus { code }, began: is_start(before), begins: is_start(behind) })
}

/// The first word of init on a life of the machine in these rows; takes the rows looked at off `left`.
fn word_in(batch: &Batch, rows: impl Iterator<Item = u32>, left: &mut u32) -> Option<InitWord> {
    let mut looked_at = rows.take(*left as usize).inspect(|_| *left -= 1);
    looked_at.find_map(|index| word_of_init(&batch.view(index)))
}

/// What init says there on a life of the machine, if it is init that says it: Fly sends its lines as the app's.
fn word_of_init(entry: &EntryView<'_>) -> Option<InitWord> {
    let word = InitWord::read(entry.message())?;
    // Few lines come so far, and none on the way in.
    let record: serde_json::Value = serde_json::from_slice(entry.raw()).ok()?;
    (record["event"]["provider"] == "app").then_some(word)
}

/// An exit whose record has no code gets the one that init told shortly before. `groups` gives the machine's groups before, the
/// newest first, for as long as it is told to.
pub(crate) fn look_back(exit: Exit, groups: impl FnOnce(&mut dyn FnMut(&Group, &Batch) -> bool)) -> Exit {
    if exit.began || exit.status.code().is_some() {
        return exit;
    }
    let (mut left, mut word) = (LOOKED_BACK_MAX, None);
    groups(&mut |group, batch| {
        word = word_in(batch, group.rows.clone().rev(), &mut left);
        word.is_none() && left > 0
    });
    Exit { status: ExitStatus { code: word.and_then(InitWord::code) }, ..exit }
}

#[cfg(test)]
#[cfg(feature = "server")]
mod tests;
