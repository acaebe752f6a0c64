//! Where a reader's lines come from: a queue that it consumes, or one machine or all that it looks at.
//!
//! All three fill a frame when they are asked to, and hold no batch beyond it unless the next is asked for within moments: between
//! two frames the reader's socket may be slow, and nobody's bytes may wait for that.

use std::sync::Arc;

use super::{
    encode::{EndReason, Frame},
    filter::Filter,
};
use crate::{
    batch::Batch,
    config::Full,
    grant::Grant,
    http::BUFFER_BYTES_MAX,
    queue::Ended,
    stream::{
        FleetStream, LogStream, Ready,
        view::{MachineView, Seen},
    },
};

/// Lines looked at in one go, a millisecond or two of filtering, before others get their turn.
const LOOKED_AT_MAX: u32 = 8192;
/// Behind a larger frame hyper's buffer may be full, and it does not ask for the next before the socket takes some of it: nobody would
/// know that the reader has stopped reading.
const RESTS_BYTES_MAX: usize = BUFFER_BYTES_MAX - (2 << 10);

/// How far a frame was filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// The frame is full, or it is others' turn: there may be more at once.
    More,
    /// What comes next is on the disk.
    Past,
    /// There is nothing more now.
    CaughtUp,
    /// There will be nothing more.
    Ended(EndReason),
}

impl From<Ended> for EndReason {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Finished => Self::Finished,
            Ended::Shutdown => Self::Shutdown,
        }
    }
}

/// What a reader reads.
#[derive(Debug)]
pub(super) enum Source {
    Queue(LogStream),
    Machine(MachineSource),
    Fleet(FleetSource),
    /// Nothing, any more: what was held is given back.
    Over(EndReason),
}

impl Source {
    /// Puts into `frame` what there is to read now. `rests`: the caller asks again within moments, or calls [`Source::let_go`].
    pub(super) fn fill(&mut self, frame: &mut Frame, rests: bool) -> Filled {
        match self {
            Self::Queue(stream) => {
                let filled = fill_from_queue(stream, frame);
                stream.deliver();
                let rests = rests && frame.bytes() <= RESTS_BYTES_MAX;
                match filled {
                    Filled::CaughtUp if rests => stream.rest(),
                    Filled::More if rests => {}
                    Filled::More | Filled::Past | Filled::CaughtUp | Filled::Ended(_) => stream.let_go(),
                }
                filled
            }
            Self::Machine(source) => source.fill(frame),
            Self::Fleet(source) => source.fill(frame),
            Self::Over(reason) => Filled::Ended(*reason),
        }
    }

    /// Lets go of what others have in memory before a wait for something else.
    pub(super) fn let_go(&mut self) {
        if let Self::Queue(stream) = self {
            stream.let_go();
        }
    }

    /// Whether what comes is dropped, or its sender refused, once so much waits to be read.
    pub(super) fn is_bounded(&self) -> bool {
        matches!(self, Self::Queue(stream) if stream.full() != Full::CatchUp)
    }

    /// Waits until [`Source::fill`] may have something new. Cancel safe.
    pub(super) async fn changed(&mut self) {
        match self {
            Self::Queue(stream) => {
                stream.more().await;
            }
            Self::Machine(source) if source.view.is_on_disk() => source.view.fetch().await,
            Self::Machine(source) => source.view.changed().await,
            Self::Fleet(source) if source.stream.is_on_disk() => source.stream.fetch().await,
            Self::Fleet(source) => source.stream.changed().await,
            Self::Over(_) => {}
        }
    }
}

/// Each line that goes into the frame is delivered thereby, before the frame is handed on.
fn fill_from_queue(stream: &mut LogStream, frame: &mut Frame) -> Filled {
    loop {
        while frame.has_room() {
            match stream.next_ready() {
                Some(Ready::Line(entry)) => frame.entry(&entry),
                Some(Ready::Skipped(lines)) => frame.skipped(Some(lines)),
                Some(Ready::SkippedUnknown) => frame.skipped(None),
                Some(Ready::Limited(lines)) => frame.limited(lines),
                None => break,
            }
        }
        if !frame.has_room() {
            return Filled::More;
        }
        let has_more = stream.has_more(frame.lines_left());
        if stream.is_on_disk() {
            return Filled::Past;
        }
        if !has_more {
            if let Some(status) = stream.exit_status() {
                return Filled::Ended(EndReason::Exited(status.code()));
            }
            return match stream.outcome() {
                Some(Ok(ended)) => Filled::Ended(ended.into()),
                // Its time-outs are not set: the reader's own count what is shown, here and in views.
                Some(Err(_)) | None => Filled::CaughtUp,
            };
        }
    }
}

/// Looks at one machine.
#[derive(Debug)]
pub(super) struct MachineSource {
    pub(super) view: MachineView,
    /// What may be shown; `None`: everything.
    pub(super) grant: Option<Arc<Grant>>,
    /// The number of the first line that is too new to be shown: `follow=false`.
    pub(super) until: Option<u64>,
}

impl MachineSource {
    fn fill(&mut self, frame: &mut Frame) -> Filled {
        let mut looked_at = 0;
        while frame.has_room() && looked_at < LOOKED_AT_MAX {
            let lines = match self.view.step() {
                Some(Seen::Lines(lines)) => lines,
                Some(Seen::Skipped(lines)) => {
                    frame.skipped(lines);
                    continue;
                }
                Some(Seen::Past) => return Filled::Past,
                None => return self.caught_up(),
            };
            for (index, entry) in lines.rows.clone().zip(lines.entries()) {
                if is_too_new(self.until, entry.line()) {
                    return Filled::Ended(EndReason::CaughtUp);
                }
                if !frame.has_room() || looked_at >= LOOKED_AT_MAX {
                    self.view.put_back(&lines, index);
                    return Filled::More;
                }
                looked_at += 1;
                if self.grant.as_ref().is_none_or(|grant| grant.shows(&entry)) {
                    frame.entry(&entry);
                }
            }
        }
        Filled::More
    }

    fn caught_up(&self) -> Filled {
        if let Some(status) = self.view.exited() {
            return Filled::Ended(EndReason::Exited(status.code()));
        }
        match self.view.ended() {
            Some(ended) => Filled::Ended(ended.into()),
            None => Filled::CaughtUp,
        }
    }
}

fn is_too_new(until: Option<u64>, line: Option<u64>) -> bool {
    until.zip(line).is_some_and(|(until, line)| line >= until)
}

/// Looks at all machines.
#[derive(Debug)]
pub(super) struct FleetSource {
    pub(super) stream: FleetStream,
    pub(super) filter: Filter,
    /// The number of the first line that is too new to be shown: `follow=false`.
    pub(super) until: Option<u64>,
}

impl FleetSource {
    fn fill(&mut self, frame: &mut Frame) -> Filled {
        let mut looked_at = 0;
        while frame.has_room() && looked_at < LOOKED_AT_MAX {
            match self.stream.step() {
                Some(Seen::Skipped(lines)) => frame.skipped(lines),
                Some(Seen::Past) => return Filled::Past,
                Some(Seen::Lines(lines)) => {
                    if lines.skipped_before() > 0 {
                        frame.skipped(Some(lines.skipped_before()));
                    }
                    let (batch, from) = lines.parts();
                    if is_too_new(self.until, Some(batch.first_line + u64::from(from))) {
                        return Filled::Ended(EndReason::CaughtUp);
                    }
                    if let Some(ordinal) = show(batch, from, &self.filter, frame, &mut looked_at) {
                        self.stream.put_back(&lines, ordinal);
                    }
                }
                None if self.stream.is_over() => return Filled::Ended(EndReason::Shutdown),
                None => return Filled::CaughtUp,
            }
        }
        Filled::More
    }
}

/// Shows the wanted rows of a batch from ordinal `from` on; where it stopped, if that was before the end.
fn show(batch: &Batch, from: u32, filter: &Filter, frame: &mut Frame, looked_at: &mut u32) -> Option<u32> {
    for row in &batch.rows[from as usize..] {
        if !frame.has_room() || *looked_at >= LOOKED_AT_MAX {
            return Some(row.ordinal);
        }
        *looked_at += 1;
        let entry = batch.view_of(row);
        if filter.wants(&entry) {
            frame.entry(&entry);
        }
    }
    None
}
