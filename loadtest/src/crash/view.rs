//! What one reader has read: how often each record, and in which order.

use super::fleet::{Fleet, Found, Owner};
use super::ledger::Ledger;
use super::read::Line;
use std::collections::BTreeMap;

/// So many places where a machine's records went back are remembered.
const BACKWARDS_MAX: usize = 1_000_000;
/// One in so many records is remembered with its id, up to so many: to show an example where ids differ.
const SAMPLED: u64 = 64;
const SAMPLES_MAX: usize = 50_000;
/// So many faults are told in words.
pub(super) const NAMED_MAX: usize = 20;

/// How often each record of a sender was seen, in two bits: 3 stands for 3 and more.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(Vec<u8>);

impl Counts {
    fn place(record: u64) -> (usize, u32) {
        ((record / 4) as usize, (record % 4) as u32 * 2)
    }

    pub(super) fn of(&self, record: u64) -> u8 {
        let (byte, shift) = Self::place(record);
        self.0.get(byte).map_or(0, |bits| bits >> shift & 3)
    }

    fn add(&mut self, record: u64) {
        let (byte, shift) = Self::place(record);
        if byte >= self.0.len() {
            self.0.resize((byte + 1).max(self.0.len() * 3 / 2), 0);
        }
        if self.of(record) < 3 {
            self.0[byte] += 1 << shift;
        }
    }
}

/// One machine as this reader sees it.
#[derive(Clone, Debug, Default)]
struct Track {
    /// The id of the newest line.
    last_id: String,
    /// The line that the newest id names.
    last_line: Option<u64>,
    /// The sender's number of the newest record.
    last_record: Option<u64>,
    /// Of all records, in their order.
    order: u64,
    /// Of all ids, in their order.
    ids: u64,
}

/// What is wrong with what was read, whatever was sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) altered: u64,
    pub(super) ids_not_increasing: u64,
    /// Told as skipped: with a spool nothing is.
    pub(super) skipped: u64,
    pub(super) named: Vec<String>,
}

impl Faults {
    fn name(&mut self, text: impl FnOnce() -> String) {
        if self.named.len() < NAMED_MAX {
            self.named.push(text());
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.altered + self.ids_not_increasing
    }
}

/// Follows what a reader reads, of one machine or of all.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) name: &'static str,
    fleet: Fleet,
    counts: Vec<Counts>,
    tracks: Vec<Track>,
    /// Of all machines together.
    whole: Track,
    /// Whether lines of all machines come in one order.
    is_whole: bool,
    /// Where a machine's record was not behind the one before: repeated, or out of order.
    backwards: Vec<(Owner, u64)>,
    samples: BTreeMap<(usize, u64), String>,
    pub(super) read: u64,
    pub(super) foreign: u64,
    pub(super) faults: Faults,
    scratch: String,
}

impl View {
    pub(super) fn new(name: &'static str, fleet: Fleet, is_whole: bool) -> Self {
        Self {
            name,
            fleet,
            counts: vec![Counts::default(); fleet.senders as usize],
            tracks: vec![Track::default(); fleet.machines_in_all() as usize],
            whole: Track::default(),
            is_whole,
            backwards: Vec::new(),
            samples: BTreeMap::new(),
            read: 0,
            foreign: 0,
            faults: Faults::default(),
            scratch: String::new(),
        }
    }

    pub(super) fn count(&self, sender: usize, record: u64) -> u8 {
        self.counts[sender].of(record)
    }

    /// The newest id, of one machine or of all.
    pub(super) fn last_id(&self, machine: Option<u32>) -> Option<&str> {
        let track = machine.map_or(&self.whole, |machine| &self.tracks[machine as usize]);
        (!track.last_id.is_empty()).then_some(&*track.last_id)
    }

    pub(super) fn take(&mut self, line: &Line<'_>) {
        match line {
            Line::Entry { id, machine, message } => self.entry(id, machine, message),
            Line::Skipped(lines) => {
                self.faults.skipped += lines.unwrap_or(1);
                self.faults.name(|| format!("told as skipped: {lines:?} lines"));
            }
        }
    }

    fn entry(&mut self, id: &str, machine: &str, message: &str) {
        let owner = match self.fleet.find(machine, message, &mut self.scratch) {
            Found::Foreign => {
                self.foreign += 1;
                return;
            }
            Found::Altered(owner) => {
                self.faults.altered += 1;
                self.faults.name(|| format!("altered: id {id}, machine {machine}: {message:?}"));
                owner
            }
            Found::Ours(owner) => owner,
        };
        self.read += 1;
        self.counts[owner.sender].add(owner.record);
        let track = &mut self.tracks[owner.machine as usize];
        if let Some(last) = track.last_record.filter(|&last| owner.record <= last)
            && self.backwards.len() < BACKWARDS_MAX
        {
            self.backwards.push((owner, last));
        }
        track.last_record = Some(owner.record);
        // Both take note of it.
        let (of_machine, of_all) = (track.follow(id, &owner), self.whole.follow(id, &owner));
        if owner.record.is_multiple_of(SAMPLED) && self.samples.len() < SAMPLES_MAX {
            self.samples.insert((owner.sender, owner.record), id.to_owned());
        }
        if !of_machine || (self.is_whole && !of_all) {
            self.faults.ids_not_increasing += 1;
            self.faults.name(|| format!("an id that is not behind the one before: {id} of machine {machine}"));
        }
    }

    /// The reader of a machine begins anew, perhaps further back.
    pub(super) fn begin_anew(&mut self, machine: u32) {
        let track = &mut self.tracks[machine as usize];
        (track.last_line, track.last_record) = (None, None);
    }

    /// Places where a machine's order is not what was sent: all that went back, but where a body is repeated from its first
    /// record on.
    pub(super) fn out_of_order<'a>(&'a self, ledgers: &'a [Ledger]) -> impl Iterator<Item = (Owner, u64)> + 'a {
        self.backwards.iter().copied().filter(|&(owner, last)| {
            let ledger = &ledgers[owner.sender];
            let Some(body) = ledger.body_of(owner.record) else { return true };
            let is_first = owner.record - ledger.range(body).start < u64::from(self.fleet.machines);
            !(is_first && ledger.body_of(last) == Some(body))
        })
    }

    /// Whether this reader has read what another has, in the same order.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.read == other.read && self.agrees(other, |track| track.order)
    }

    /// Whether it was under the same ids.
    pub(super) fn has_same_ids(&self, other: &Self) -> bool {
        self.agrees(other, |track| track.ids)
    }

    fn agrees(&self, other: &Self, digest: impl Fn(&Track) -> u64) -> bool {
        let whole = !(self.is_whole && other.is_whole) || digest(&self.whole) == digest(&other.whole);
        whole && self.tracks.iter().zip(&other.tracks).all(|(here, there)| digest(here) == digest(there))
    }

    /// A record that another reader had under another id: here, there.
    pub(super) fn renamed<'a>(&'a self, other: &'a Self) -> Option<(Owner, &'a str, &'a str)> {
        let mut both = self.samples.iter().filter_map(|(key, here)| Some((*key, here, other.samples.get(key)?)));
        let ((sender, record), here, there) = both.find(|(_, here, there)| here != there)?;
        Some((Owner { machine: self.fleet.machine_of(sender, record), sender, record }, here, there))
    }

    /// Records that this reader saw more or less often than another: sender, record, here, there.
    pub(super) fn differences<'a>(
        &'a self,
        other: &'a Self,
        ledgers: &'a [Ledger],
    ) -> impl Iterator<Item = (usize, u64, u8, u8)> + 'a {
        let all =
            ledgers.iter().enumerate().flat_map(|(sender, ledger)| (0..ledger.records()).map(move |at| (sender, at)));
        all.map(|(sender, record)| (sender, record, self.count(sender, record), other.count(sender, record)))
            .filter(|(_, _, here, there)| here != there)
    }
}

impl Track {
    /// Notes a line; false if its id is not behind the one before.
    fn follow(&mut self, id: &str, owner: &Owner) -> bool {
        self.last_id.clear();
        self.last_id.push_str(id);
        let of_id = id
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        self.ids = mix(self.ids, of_id);
        self.order = mix(self.order, owner.record << 10 | owner.sender as u64);
        let line = line_of(id);
        let increased = line.is_some() && line > self.last_line;
        self.last_line = line;
        increased
    }
}

fn mix(digest: u64, next: u64) -> u64 {
    (digest.rotate_left(5) ^ next).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The number of the line that an id names: the second of its hexadecimal fields. Ids are opaque to users; the harness looks
/// inside, because to hold all of them would take more memory than the drain does.
fn line_of(id: &str) -> Option<u64> {
    u64::from_str_radix(id.split('-').nth(1)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Fate;
    use super::*;

    const FLEET: Fleet = Fleet { run: 5, senders: 1, machines: 2 };

    fn view(records: &[u64]) -> View {
        let mut view = View::new("test", FLEET, true);
        for (line, &record) in records.iter().enumerate() {
            let machine = FLEET.machine_of(0, record);
            let mut message = String::new();
            FLEET.message(machine, FLEET.sequence_of(record), &mut message);
            let (id, machine) = (format!("1-{line:x}-0-0"), FLEET.id_text(machine));
            view.take(&Line::Entry { id: id.into(), machine: machine.into(), message: message.into() });
        }
        view
    }

    fn ledgers() -> Vec<Ledger> {
        let mut ledger = Ledger::default();
        [4, 8].into_iter().for_each(|end| ledger.settle(end, Fate::default()));
        vec![ledger]
    }

    #[test]
    fn records_are_counted_to_three() {
        let view = view(&[0, 1, 1, 1, 1, 9]);
        let counts: Vec<u8> = (0..10).map(|record| view.count(0, record)).collect();
        assert_eq!(counts, [1, 3, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(view.read, 6);
    }

    #[test]
    fn only_a_body_repeated_from_its_start_may_go_back() {
        let ledgers = ledgers();
        assert_eq!(view(&[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]).out_of_order(&ledgers).count(), 0);
        // Another machine's order is its own.
        assert_eq!(view(&[1, 0, 3, 2]).out_of_order(&ledgers).count(), 0);
        assert_eq!(view(&[0, 2, 2]).out_of_order(&ledgers).count(), 1, "repeated alone");
        assert_eq!(view(&[4, 0]).out_of_order(&ledgers).count(), 1, "an earlier body behind a later");
        assert_eq!(view(&[2, 0]).out_of_order(&ledgers).count(), 0, "as good as a repeated body; the counts tell");
    }

    #[test]
    fn two_readers_differ_in_records_order_or_ids() {
        let ledgers = ledgers();
        assert!(view(&[0, 1, 2]).is_same(&view(&[0, 1, 2])));
        let (here, there) = (view(&[0, 1]), view(&[0, 1, 2]));
        assert!(!here.is_same(&there));
        assert_eq!(here.differences(&there, &ledgers).collect::<Vec<_>>(), [(0, 2, 0, 1)]);
        assert!(!view(&[0, 1]).is_same(&view(&[1, 0])));
        // Another line before it: the same records of machine 0, under other ids.
        let (here, there) = (view(&[0, 2]), view(&[1, 0, 2]));
        assert!(!here.has_same_ids(&there));
        let owner = Owner { machine: 0, sender: 0, record: 0 };
        assert_eq!(here.renamed(&there), Some((owner, "1-0-0-0", "1-1-0-0")));
    }

    #[test]
    fn an_id_that_comes_again_is_told() {
        let mut view = view(&[0, 1]);
        let (mut message, machine) = (String::new(), FLEET.id_text(0));
        FLEET.message(0, 1, &mut message);
        view.take(&Line::Entry { id: "1-1-0-0".into(), machine: machine.into(), message: message.into() });
        assert_eq!(view.faults.ids_not_increasing, 1);
    }
}
