//! Whether a reader saw every line once and in order.

use crate::generate::{MachineId, Mark};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// How many lines each machine has sent, by stream.
pub(crate) type Sent = HashMap<MachineId, [u64; 2]>;

/// One machine's stream as seen by one reader.
#[derive(Clone, Debug)]
struct Track {
    next: u64,
    /// Passed over and not seen since: start → end (exclusive).
    missing: BTreeMap<u64, u64>,
    torn: bool,
}

impl Default for Track {
    fn default() -> Self {
        Self { next: 1, missing: BTreeMap::new(), torn: false }
    }
}

/// What a reader saw, summed up. All but `read` and `skipped_told` must be 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Seen {
    pub(crate) read: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) reordered: u64,
    /// Lines of machines that this reader did not ask for, or of no machine of ours.
    pub(crate) foreign: u64,
    /// Told by `{"event":"skipped"}`: missing, but honestly so.
    pub(crate) skipped_told: u64,
    /// Told as skipped without a number: then nothing missing can be called lost.
    pub(crate) skipped_unknown: u64,
    /// In flight when this reader tore its own connection: the contract allows their loss.
    pub(crate) lost_in_flight: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.reordered += other.reordered;
        self.foreign += other.foreign;
        self.skipped_told += other.skipped_told;
        self.skipped_unknown += other.skipped_unknown;
        self.lost_in_flight += other.lost_in_flight;
    }

    /// Whether the promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost == 0 && self.repeated == 0 && self.reordered == 0 && self.foreign == 0
    }
}

/// Follows what one reader reads.
#[derive(Debug, Default)]
pub(crate) struct Verifier {
    /// The machine that was asked for, none: all.
    machine: Option<MachineId>,
    /// Which streams the reader gets.
    streams: [bool; 2],
    tracks: HashMap<(MachineId, u8), Track>,
    seen: Seen,
}

impl Verifier {
    pub(crate) fn new(machine: Option<MachineId>, streams: [bool; 2]) -> Self {
        Self { machine, streams, ..Self::default() }
    }

    /// Takes note of one line.
    pub(crate) fn line(&mut self, mark: &Mark) {
        let expected = self.machine.is_none_or(|machine| machine == mark.machine);
        if !expected || !self.streams[mark.stream as usize] {
            self.seen.foreign += 1;
            return;
        }
        self.seen.read += 1;
        let track = self.tracks.entry((mark.machine, mark.stream)).or_default();
        let torn = std::mem::take(&mut track.torn);
        let sequence = mark.sequence;
        if sequence < track.next {
            if fill(&mut track.missing, sequence) {
                self.seen.reordered += 1;
            } else {
                self.seen.repeated += 1;
            }
            return;
        }
        if sequence > track.next {
            if torn {
                self.seen.lost_in_flight += sequence - track.next;
            } else {
                track.missing.insert(track.next, sequence);
            }
        }
        track.next = sequence + 1;
    }

    pub(crate) fn foreign(&mut self) {
        self.seen.foreign += 1;
    }

    pub(crate) fn skipped(&mut self, lines: Option<u64>) {
        match lines {
            Some(lines) => self.seen.skipped_told += lines,
            None => self.seen.skipped_unknown += 1,
        }
    }

    /// The reader tore its connection to a queue: the next gap of each stream is what was in flight.
    pub(crate) fn torn(&mut self) {
        if let Some(machine) = self.machine {
            for stream in 0..2 {
                self.tracks.entry((machine, stream)).or_default().torn = true;
            }
        }
    }

    pub(crate) fn read(&self) -> u64 {
        self.seen.read
    }

    /// Whether the last line of each stream has been seen; earlier ones may be missing.
    pub(crate) fn at_the_end(&self, sent: &Sent) -> bool {
        self.wanted(sent)
            .all(|(key, count)| count == 0 || self.tracks.get(&key).is_some_and(|track| track.next > count))
    }

    /// The verdict, given what was sent.
    pub(crate) fn verdict(&self, sent: &Sent) -> Seen {
        let mut seen = self.seen;
        let mut missing = 0;
        for (key, count) in self.wanted(sent) {
            let Some(track) = self.tracks.get(&key) else {
                missing += count;
                continue;
            };
            missing += track.missing.iter().map(|(start, end)| end - start).sum::<u64>();
            let rest = (count + 1).saturating_sub(track.next);
            if track.torn {
                seen.lost_in_flight += rest;
            } else {
                missing += rest;
            }
            // Numbers that nobody sent.
            seen.foreign += track.next.saturating_sub(count + 1);
        }
        seen.lost = if seen.skipped_unknown > 0 { 0 } else { missing.saturating_sub(seen.skipped_told) };
        seen
    }

    fn wanted<'a>(&'a self, sent: &'a Sent) -> impl Iterator<Item = ((MachineId, u8), u64)> + 'a {
        sent.iter()
            .filter(|(id, _)| self.machine.is_none_or(|machine| machine == **id))
            .flat_map(|(id, counts)| [((*id, 0), counts[0]), ((*id, 1), counts[1])])
            .filter(|((_, stream), _)| self.streams[*stream as usize])
    }
}

/// Takes `sequence` out of the missing ranges; false if it was in none.
fn fill(missing: &mut BTreeMap<u64, u64>, sequence: u64) -> bool {
    let Some((&start, &end)) = missing.range(..=sequence).next_back() else { return false };
    if sequence >= end {
        return false;
    }
    missing.remove(&start);
    if start < sequence {
        missing.insert(start, sequence);
    }
    if sequence + 1 < end {
        missing.insert(sequence + 1, end);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::machine_id;

    fn see(sequences: &[u64], sent: u64) -> Seen {
        after(sequences, sent, |_| ())
    }

    fn after(sequences: &[u64], sent: u64, also: impl FnOnce(&mut Verifier)) -> Seen {
        let machine = machine_id(1, 1);
        let mut verifier = Verifier::new(Some(machine), [true, true]);
        for &sequence in sequences {
            verifier.line(&Mark { machine, stream: 0, sequence, due_micros: 0 });
        }
        also(&mut verifier);
        verifier.verdict(&Sent::from([(machine, [sent, 0])]))
    }

    #[test]
    fn what_arrives_once_and_in_order_is_clean() {
        let seen = see(&[1, 2, 3, 4], 4);
        assert!(seen.is_clean());
        assert_eq!(seen.read, 4);
    }

    #[test]
    fn lost_lines_are_found_at_the_start_in_the_middle_and_at_the_end() {
        assert_eq!(see(&[2, 3], 3).lost, 1);
        assert_eq!(see(&[1, 4], 4).lost, 2);
        assert_eq!(see(&[1, 2], 5).lost, 3);
        assert_eq!(see(&[], 5).lost, 5);
    }

    #[test]
    fn a_repeated_line_is_found_near_and_far() {
        assert_eq!(see(&[1, 1, 2], 2).repeated, 1);
        assert_eq!(see(&[1, 2, 3, 1, 2, 3], 3).repeated, 3);
        assert_eq!(see(&[1, 4, 4, 2, 2], 4), Seen { read: 5, lost: 1, repeated: 2, reordered: 1, ..Seen::default() });
    }

    #[test]
    fn a_line_that_comes_late_is_reordered_and_not_lost() {
        assert_eq!(see(&[1, 3, 2, 4], 4), Seen { read: 4, reordered: 1, ..Seen::default() });
        assert_eq!(see(&[5, 3, 1, 2, 4], 5).reordered, 4);
    }

    #[test]
    fn what_was_told_as_skipped_is_not_lost() {
        let seen = after(&[1, 5], 5, |verifier| verifier.skipped(Some(3)));
        assert_eq!((seen.lost, seen.skipped_told), (0, 3));
        assert!(seen.is_clean());
        assert_eq!(after(&[1, 5], 5, |verifier| verifier.skipped(Some(2))).lost, 1);
        assert_eq!(after(&[1, 5], 5, |verifier| verifier.skipped(None)).lost, 0);
    }

    #[test]
    fn lines_of_another_machine_and_numbers_never_sent_are_foreign() {
        let other = Mark { machine: machine_id(1, 2), stream: 0, sequence: 1, due_micros: 0 };
        assert_eq!(after(&[1], 1, |verifier| verifier.line(&other)).foreign, 1);
        assert_eq!(see(&[1, 2, 3], 2).foreign, 1);
    }

    #[test]
    fn a_gap_where_the_reader_tore_its_connection_was_in_flight() {
        let machine = machine_id(1, 1);
        let mark = |sequence| Mark { machine, stream: 0, sequence, due_micros: 0 };
        let seen = after(&[1, 2], 9, |verifier| {
            verifier.torn();
            [5, 6, 8, 9].map(mark).iter().for_each(|mark| verifier.line(mark));
        });
        assert_eq!((seen.lost_in_flight, seen.lost), (2, 1));
    }

    #[test]
    fn streams_are_numbered_apart_and_only_those_asked_for_are_expected() {
        let machine = machine_id(1, 1);
        let mut verifier = Verifier::new(None, [true, false]);
        verifier.line(&Mark { machine, stream: 0, sequence: 1, due_micros: 0 });
        let sent = Sent::from([(machine, [1, 7])]);
        assert!(verifier.at_the_end(&sent));
        assert!(verifier.verdict(&sent).is_clean());
    }
}
