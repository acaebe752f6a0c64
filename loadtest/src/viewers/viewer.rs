//! A viewer that reads the head of its answer and then nothing, until it reads on.

use crate::client::Target;
use crate::failure::Failure;
use crate::generate::{MachineId, Mark, run_id};
use crate::stall;
use memchr::memmem::Finder;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Who has all that was produced waits so long for what should not come.
const AFTERWARDS: Duration = Duration::from_millis(50);

/// How many lines each machine had sent at some moment.
pub(super) type Counts = HashMap<MachineId, u64>;

/// One viewer.
#[derive(Debug)]
pub(super) struct Viewer {
    stream: TcpStream,
    watch: Watch,
}

/// What became of one in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It has what it should have.
    CaughtUp,
    /// Nothing more came.
    Silent,
    /// The connection was closed or reset.
    Cut,
}

impl Viewer {
    /// Asks for the lines of `machine`, or of all, that come after those of `began`, and reads the head of the answer.
    pub(super) async fn open(
        target: &Target,
        machine: Option<MachineId>,
        run: u32,
        began: Arc<Counts>,
    ) -> Result<Self, Failure> {
        let path = match machine {
            None => "/api/v1/tail".to_owned(),
            Some(id) => format!("/api/v1/machines/{}/logs?backlog=false", String::from_utf8_lossy(&id)),
        };
        Ok(Self { stream: stall::open(target, &path).await?, watch: Watch::new(machine, run, began) })
    }

    /// Reads until it has, or was told of, all that `produced` has since it began, or nothing comes for `patience`.
    pub(super) async fn read_on(mut self, produced: &Counts, patience: Duration) -> (End, Watch) {
        stall::read_on(&self.stream);
        let wanted = self.watch.wanted(produced);
        let mut space = vec![0; 64 << 10];
        let end = loop {
            let is_through = self.watch.told() >= wanted;
            match timeout(if is_through { AFTERWARDS } else { patience }, self.stream.read(&mut space)).await {
                Ok(Ok(count @ 1..)) => self.watch.take(&space[..count]),
                Ok(Ok(0) | Err(_)) => break End::Cut,
                Err(_) if is_through => break End::CaughtUp,
                Err(_) => break End::Silent,
            }
        };
        (end, self.watch)
    }
}

#[derive(Deserialize)]
struct Event {
    event: String,
    lines: Option<u64>,
}

/// What one has read.
#[derive(Debug)]
pub(super) struct Watch {
    /// None: all.
    machine: Option<MachineId>,
    began: Arc<Counts>,
    finder: Finder<'static>,
    run: [u8; 8],
    /// Of a line that is not complete yet.
    rest: Vec<u8>,
    /// The last line read of each machine.
    last: Counts,
    pub(super) seen: u64,
    pub(super) skipped: u64,
    /// Told without a number.
    pub(super) unknown: u64,
    /// A second time, out of order, or from before it began.
    pub(super) again: u64,
    /// Not of this run, or of a machine that was not asked for.
    pub(super) foreign: u64,
}

impl Watch {
    fn new(machine: Option<MachineId>, run: u32, began: Arc<Counts>) -> Self {
        let run = run_id(run);
        let finder = Finder::new(&[&run[..], b" "].concat()).into_owned();
        let (rest, last) = (Vec::new(), Counts::new());
        Self { machine, began, finder, run, rest, last, seen: 0, skipped: 0, unknown: 0, again: 0, foreign: 0 }
    }

    /// Lines that it has, or knows that it has not.
    fn told(&self) -> u64 {
        self.seen + self.skipped
    }

    /// Lines that it was to have, or to be told of.
    pub(super) fn wanted(&self, produced: &Counts) -> u64 {
        let own = produced.iter().filter(|(id, _)| self.machine.is_none_or(|machine| machine == **id));
        own.map(|(id, count)| count - self.began.get(id).copied().unwrap_or(0)).sum()
    }

    /// What is wrong; nothing if seen + skipped = produced, each line once and in order.
    pub(super) fn wrong(&self, produced: &Counts) -> Option<String> {
        let Self { seen, skipped, unknown, again, foreign, .. } = self;
        let wanted = self.wanted(produced);
        let who = self.machine.map_or("tail".to_owned(), |id| format!("logs of {}", String::from_utf8_lossy(&id)));
        let is_right = self.told() == wanted && unknown + again + foreign == 0;
        (!is_right).then(|| {
            format!(
                "{who}: {seen} seen + {skipped} skipped of {wanted} produced; skipped without a number {unknown} times, \
                 {again} again or out of order, {foreign} foreign"
            )
        })
    }

    fn take(&mut self, mut data: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', data) {
            let (line, behind) = (&data[..end], &data[end + 1..]);
            data = behind;
            if self.rest.is_empty() {
                self.line(line);
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole);
            }
        }
        self.rest.extend_from_slice(data);
    }

    fn line(&mut self, line: &[u8]) {
        if let Some(mark) = self.finder.find(line).and_then(|at| Mark::read(&line[at..], &self.run)) {
            self.entry(&mark);
        } else if !line.trim_ascii().is_empty() {
            match serde_json::from_slice::<Event>(line) {
                Ok(Event { event, lines: Some(lines) }) if event == "skipped" => self.skipped += lines,
                Ok(Event { event, lines: None }) if event == "skipped" => self.unknown += 1,
                _ => self.foreign += 1,
            }
        }
    }

    fn entry(&mut self, mark: &Mark) {
        self.seen += 1;
        self.foreign += u64::from(self.machine.is_some_and(|machine| machine != mark.machine));
        let began = self.began.get(&mark.machine).copied().unwrap_or(0);
        let last = self.last.entry(mark.machine).or_insert(began);
        self.again += u64::from(mark.sequence <= *last);
        *last = mark.sequence.max(*last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Generator, RecordSpec, machine_id, rfc3339};

    const RUN: u32 = 7;

    /// Lines 1 to 10 of the one machine, as a viewer gets them, but for a `fault`.
    fn judged(fault: impl Fn(&mut Vec<String>)) -> Option<String> {
        let mut generator = Generator::whole_fleet(&RecordSpec::default(), RUN, 1, 0.0, 1);
        let mut body = Vec::new();
        generator.body(10, 0, &rfc3339(0), &mut body);
        let mut lines: Vec<String> = String::from_utf8(body).unwrap().lines().map(str::to_owned).collect();
        fault(&mut lines);
        let began = Arc::new(Counts::from([(machine_id(RUN, 0), 2)]));
        let mut watch = Watch::new(None, RUN, began);
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        // In pieces that end within lines.
        text.as_bytes().chunks(100).for_each(|piece| watch.take(piece));
        watch.wrong(&Counts::from([(machine_id(RUN, 0), 10)]))
    }

    fn skipped(lines: &str) -> String {
        format!(r#"{{"event":"skipped","lines":{lines}}}"#)
    }

    #[test]
    fn who_has_every_line_or_is_told_of_it_is_right() {
        assert_eq!(judged(|lines| drop(lines.drain(..2))), None);
        assert_eq!(judged(|lines| drop(lines.splice(..6, [skipped("4"), String::new()]))), None);
    }

    #[test]
    fn a_line_too_few_too_many_or_out_of_place_is_found() {
        type Fault = fn(&mut Vec<String>);
        let faults: [(&str, Fault); 7] = [
            ("untold", |lines| drop(lines.drain(..3))),
            ("told too little", |lines| drop(lines.splice(..6, [skipped("3")]))),
            ("told too much", |lines| drop(lines.splice(..6, [skipped("5")]))),
            ("without a number", |lines| drop(lines.splice(..6, [skipped("null"), skipped("4")]))),
            ("again", |lines| drop(lines.splice(..3, [lines[9].clone()]))),
            ("from before", |lines| drop(lines.drain(1..3))),
            ("foreign", |lines| drop(lines.splice(..2, ["{\"message\":\"no mark\"}".to_owned()]))),
        ];
        for (name, fault) in faults {
            assert!(judged(fault).is_some(), "{name}");
        }
    }
}
