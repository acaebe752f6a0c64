//! Lines on their way to a store.

use std::{ops::Range, sync::Arc};

use crate::batch::{Batch, EntryView};

/// FNV-1a of 64 bits, the same in every process (draft-eastlake-fnv).
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// Lines of one or several batches, in the order in which they were received.
///
/// Holds its batches, and with them their part of the byte budget, for as long as it lives.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    /// The same for the same lines, in every process: what a store that knows repeats is to know it by. At most 128 bytes of
    /// letters, digits, `-` and `_`.
    id: String,
    runs: Vec<Run>,
    lines: usize,
    /// Bytes of the records as sent.
    bytes: u64,
}

/// Which lines there are, for a name that is the same for the same lines.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lines {
    /// Epoch and line, here and below.
    first: Option<(u64, u64)>,
    last: (u64, u64),
    count: usize,
    digest: u64,
}

impl Lines {
    pub(super) fn add(&mut self, epoch: u64, line: u64) {
        if self.first.is_none() {
            (self.first, self.digest) = (Some((epoch, line)), FNV_BASIS);
        }
        (self.last, self.count) = ((epoch, line), self.count + 1);
        for byte in [epoch, line].into_iter().flat_map(u64::to_le_bytes) {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
    }

    /// Whether none is missing between the first and the last.
    fn are_whole(&self) -> bool {
        let (Some((epoch, first)), (last_epoch, last)) = (self.first, self.last) else { return true };
        epoch == last_epoch && last.wrapping_sub(first).wrapping_add(1) == self.count as u64
    }

    /// The epoch, the first line, the last line and how many there are; where others are missing in between, as with a filter, also
    /// which ones are there: another filter may want as many others.
    pub(super) fn id(&self) -> String {
        let ((epoch, first), (_, last)) = (self.first.unwrap_or_default(), self.last);
        let id = format!("{epoch:x}-{first:x}-{last:x}-{:x}", self.count);
        if self.are_whole() { id } else { format!("{id}-{:x}", self.digest) }
    }
}

/// Lines of one batch.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) batch: Arc<Batch>,
    /// By their place in the body.
    pub(crate) rows: Rows,
}

/// Which rows of a batch.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    Range(Range<u32>),
    /// Ascending.
    These(Arc<[u32]>, Range<usize>),
}

impl Rows {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Range(rows) => rows.len(),
            Self::These(_, range) => range.len(),
        }
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        let (first, these): (_, &[u32]) = match self {
            Self::Range(rows) => (rows.start, &[]),
            Self::These(rows, range) => (0, &rows[range.clone()]),
        };
        (0..self.len()).map(move |at| these.get(at).copied().unwrap_or(first + at as u32))
    }
}

impl Run {
    pub(crate) fn entries(&self) -> impl Iterator<Item = EntryView<'_>> {
        self.rows.iter().map(|row| self.batch.view_of(&self.batch.rows[row as usize]))
    }

    /// The bytes of each record as sent.
    fn sizes(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|row| self.batch.rows[row as usize].raw.len())
    }

    /// The line of the first row and that of the last: both have been published.
    fn ends(&self) -> (u64, u64) {
        let line = |row: u32| self.batch.first_line + u64::from(row);
        let (first, last) = match &self.rows {
            Rows::Range(rows) => (rows.start, rows.end.saturating_sub(1)),
            Rows::These(rows, range) => (rows[range.start], rows[range.end - 1]),
        };
        (line(first), line(last))
    }

    /// Whether it is all of its batch: one whose rows need not be looked at to know their bytes.
    fn is_whole(&self) -> bool {
        self.rows.len() == self.batch.rows.len()
    }

    /// Bytes of the records as sent.
    fn bytes(&self) -> u64 {
        match self.is_whole() {
            true => self.batch.record_bytes,
            false => self.sizes().map(|bytes| bytes as u64).sum(),
        }
    }

    /// How many rows fit into so many lines and bytes, one at least if `any`, and their bytes.
    pub(crate) fn fitting(&self, lines: usize, bytes: usize, any: bool) -> (usize, usize) {
        let (all, all_bytes) = (self.rows.len(), self.batch.record_bytes as usize);
        if self.is_whole() && all <= lines && all_bytes <= bytes {
            return (all, all_bytes);
        }
        let (mut count, mut sum) = (0, 0);
        for more in self.sizes().take(lines) {
            if sum + more > bytes && !(any && count == 0) {
                break;
            }
            (count, sum) = (count + 1, sum + more);
        }
        (count, sum)
    }

    /// The first `count` rows, and the rest if there is one.
    pub(crate) fn split_at(self, count: usize) -> (Self, Option<Self>) {
        if count >= self.rows.len() {
            return (self, None);
        }
        let Self { batch, rows } = self;
        let (front, behind) = match rows {
            Rows::Range(rows) => {
                let at = rows.start + count as u32;
                (Rows::Range(rows.start..at), Rows::Range(at..rows.end))
            }
            Rows::These(rows, range) => {
                let at = range.start + count;
                (Rows::These(Arc::clone(&rows), range.start..at), Rows::These(rows, at..range.end))
            }
        };
        (Self { batch: Arc::clone(&batch), rows: front }, Some(Self { batch, rows: behind }))
    }
}

impl Parcel {
    /// The lines at `places`, which are ascending, by the runs that they are in.
    pub(crate) fn parts(&self, places: &[usize]) -> Vec<(usize, Run)> {
        let (mut places, mut before) = (places.iter().peekable(), 0);
        let mut parts = Vec::new();
        for (index, run) in self.runs.iter().enumerate() {
            let behind = before + run.rows.len();
            let all: Vec<u32> = run.rows.iter().collect();
            let mut rows = Vec::new();
            while let Some(place) = places.next_if(|place| **place < behind) {
                rows.push(all[place - before]);
            }
            if !rows.is_empty() {
                let range = 0..rows.len();
                parts.push((index, Run { batch: Arc::clone(&run.batch), rows: Rows::These(rows.into(), range) }));
            }
            before = behind;
        }
        parts
    }

    /// A parcel of `runs`, which are in order and hold a line at least.
    pub(crate) fn new(runs: Vec<Run>) -> Self {
        let lines = runs.iter().map(|run| run.rows.len()).sum();
        let bytes = runs.iter().map(Run::bytes).sum();
        let mut parcel = Self { id: String::new(), runs, lines, bytes };
        parcel.id = parcel.id_of_lines();
        parcel
    }

    fn id_of_lines(&self) -> String {
        let (Some(first_run), Some(last_run)) = (self.runs.first(), self.runs.last()) else { return String::new() };
        let (first, last) = ((first_run.batch.epoch, first_run.ends().0), (last_run.batch.epoch, last_run.ends().1));
        let mut known = Lines { first: Some(first), last, count: self.lines, digest: 0 };
        if !known.are_whole() {
            known = Lines::default();
            for run in &self.runs {
                run.rows.iter().for_each(|row| known.add(run.batch.epoch, run.batch.first_line + u64::from(row)));
            }
        }
        known.id()
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn lines(&self) -> usize {
        self.lines
    }

    /// Bytes of the records as sent.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    /// The lines, in the order in which they were received.
    pub(crate) fn entries(&self) -> impl Iterator<Item = EntryView<'_>> {
        self.runs.iter().flat_map(Run::entries)
    }
}

#[cfg(test)]
impl Parcel {
    /// The lines of a body, as one that was pushed.
    pub(crate) fn of_body(body: impl Into<bytes::Bytes>) -> Self {
        let batch = Self::batch_of(body);
        let rows = Rows::Range(0..batch.lines() as u32);
        Self::new(vec![Run { batch, rows }])
    }

    fn batch_of(body: impl Into<bytes::Bytes>) -> Arc<Batch> {
        let collector = crate::LogCollector::default();
        let _ = collector.push(body).expect("there is room");
        let history = &collector.shared.history;
        history.batch_before(history.end().0).expect("a record was accepted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EntryId, batch::Clock, sink::Encoding};

    #[test]
    fn other_lines_are_another_parcel() {
        let line = |number| format!("{{\"instance\":\"m\",\"message\":\"{number}\"}}\n");
        let batch = Parcel::batch_of((0..5).map(line).collect::<String>());
        let id = |rows: &[u32]| {
            let rows = Rows::These(rows.into(), 0..rows.len());
            Parcel::new(vec![Run { batch: Arc::clone(&batch), rows }]).id
        };
        let all = Parcel::new(vec![Run { batch: Arc::clone(&batch), rows: Rows::Range(0..5) }]).id;
        assert_eq!(id(&[0, 1, 2, 3, 4]), all, "however they are told");
        // As many, from the same line to the same line.
        assert_ne!(id(&[0, 1, 4]), id(&[0, 2, 4]));
        assert_eq!(id(&[0, 2, 4]), id(&[0, 2, 4]));
        assert!(id(&[0, 2, 4]).len() <= 128);
    }

    #[test]
    fn what_fits_is_the_same_whether_or_not_rows_are_looked_at() {
        let line = |number: usize| format!("{{\"instance\":\"m{}\",\"message\":\"{number}\"}}\n", number % 3);
        // Most of what it came in is left behind.
        let batch = Parcel::batch_of((0..9).map(line).collect::<String>() + &"not JSON\n".repeat(100));
        let sizes: Vec<usize> = batch.rows.iter().map(|row| row.raw.len()).collect();
        for (rows, sizes) in [
            (Rows::Range(0..9), &sizes[..]),
            (Rows::These((0..9).collect(), 0..9), &sizes),
            (Rows::Range(2..9), &sizes[2..]),
            (Rows::These((0..9).collect(), 1..8), &sizes[1..8]),
        ] {
            let run = Run { batch: Arc::clone(&batch), rows };
            let total = sizes.iter().sum::<usize>();
            assert_eq!(Parcel::new(vec![run.clone()]).bytes(), total as u64);
            for (lines, bytes) in [(9, total), (9, total - 1), (3, total), (9, sizes[0] - 1), (9, 0)] {
                let fits = |count: &usize| sizes[..*count].iter().sum::<usize>() <= bytes;
                let count = (0..=sizes.len().min(lines)).rev().find(fits).unwrap();
                for any in [false, true] {
                    let count = count.max(any.into());
                    let expected = (count, sizes[..count].iter().sum());
                    assert_eq!(run.fitting(lines, bytes, any), expected, "{:?} {lines} {bytes} {any}", run.rows);
                }
            }
        }
    }

    #[test]
    fn each_line_is_written_with_what_the_drain_knows_of_it() {
        let parcel =
            Parcel::of_body("{\"instance\":\"m\",\"message\":\"a\"}\n\n [1]\n{\"instance\":\"n\",\r\"log\":{} } \n");
        let mut clock = Clock::default();
        let mut lines = Vec::new();
        for entry in parcel.entries() {
            let mut line = Vec::new();
            Encoding::Raw.write(&entry, &mut clock, &mut line);
            lines.push(serde_json::from_slice::<serde_json::Value>(&line).unwrap());
        }
        assert_eq!((parcel.lines(), lines.len()), (2, 2));
        assert_eq!((&lines[0]["message"], &lines[1]["instance"]), (&"a".into(), &"n".into()));
        for (line, entry) in lines.iter().zip(parcel.entries()) {
            let note = &line["fleetdrain"];
            assert_eq!(note["id"], entry.id().unwrap().to_string());
            // In any process: what the collector has kept of a machine is what its name makes.
            let mark = EntryId::mark(entry.machine_id());
            assert!(note["id"].as_str().unwrap().ends_with(&format!("-1-{mark:x}")), "{note}");
            assert_eq!(note["received_at"], entry.received_at().unwrap().to_string());
            assert_eq!(note["machine_seq"], 1);
        }
    }
}
