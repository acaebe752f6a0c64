//! Compares what was promised with what is there.

use super::fleet::Fleet;
use super::ledger::{Fate, Ledger};
use super::view::{NAMED_MAX, View};
use serde::Serialize;

/// What the promises are in this run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Bodies had an `Idempotency-Key`.
    pub(super) keys: bool,
    /// The disk was full: the oldest records may have gone, and only they.
    pub(super) oldest_may_go: bool,
}

/// What is there of what was sent, in records.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Verdict {
    pub(super) stored: u64,
    /// Acknowledged and not there.
    pub(super) lost: u64,
    /// There more often than its tries without a sure answer allow, or than once with a key.
    pub(super) repeated: u64,
    /// There though every try was refused.
    pub(super) refused_but_there: u64,
    /// Bodies of which one record is there more often than another.
    pub(super) torn_bodies: u64,
    /// Out of the order that they were sent in, within their machine.
    pub(super) out_of_order: u64,
    /// Acknowledged, and gone with the oldest for want of room.
    pub(super) gone_with_the_oldest: u64,
    /// Never acknowledged, and there: tries that nobody knew the end of.
    pub(super) unacknowledged_but_there: u64,
    /// There more than once, as is allowed without a key.
    pub(super) repeats_allowed: u64,
    #[serde(skip)]
    pub(super) named: Vec<String>,
}

impl Verdict {
    pub(super) fn is_clean(&self) -> bool {
        self.lost + self.repeated + self.refused_but_there + self.torn_bodies + self.out_of_order == 0
    }

    fn name(&mut self, text: impl FnOnce() -> String) {
        if self.named.len() < NAMED_MAX {
            self.named.push(text());
        }
    }
}

/// Judges what the history holds.
pub(super) fn judge(fleet: Fleet, ledgers: &[Ledger], view: &View, rules: Rules) -> Verdict {
    let mut verdict = Verdict { stored: view.read, ..Verdict::default() };
    for (sender, ledger) in ledgers.iter().enumerate() {
        let mut seen = !rules.oldest_may_go;
        for (number, (range, fate)) in ledger.bodies().enumerate() {
            let counts = || range.clone().map(|record| view.count(sender, record));
            let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
            seen |= most > 0;
            let records = range.end - range.start;
            if fate.acknowledged && !seen {
                verdict.gone_with_the_oldest += records;
                continue;
            }
            let first = |wanted: &dyn Fn(u8) -> bool| {
                let record = range.clone().find(|&record| wanted(view.count(sender, record))).unwrap_or(range.start);
                let (machine, sequence) = (fleet.machine_of(sender, record), fleet.sequence_of(record));
                format!("machine {} number {sequence}", fleet.id_text(machine))
            };
            let told = |what: &str, count: u64, first: String| {
                format!(
                    "{what}: {count} of {records} records of body {number} of sender {sender}, first {first}; {}",
                    fate.text()
                )
            };
            let allowed = fate.copies(rules.keys);
            let few = counts().filter(|count| count < allowed.start()).count() as u64;
            // A count of 3 stands for more.
            let many = counts().filter(|count| count > allowed.end()).count() as u64;
            verdict.lost += few;
            if few > 0 {
                verdict.name(|| told("lost", few, first(&|count| count < *allowed.start())));
            }
            if many > 0 {
                let by = if *allowed.end() == 0 { &mut verdict.refused_but_there } else { &mut verdict.repeated };
                *by += many;
                let what = if *allowed.end() == 0 { "there though refused" } else { "repeated" };
                verdict.name(|| told(what, many, first(&|count| count > *allowed.end())));
            }
            if least != most {
                verdict.torn_bodies += 1;
                verdict.name(|| told("taken in part", records, first(&|count| count == least)));
            }
            verdict.tell_allowed(fate, records, least);
        }
    }
    for (owner, last) in view.out_of_order(ledgers) {
        verdict.out_of_order += 1;
        let id = fleet.id_text(owner.machine);
        let (number, last) = (fleet.sequence_of(owner.record), fleet.sequence_of(last));
        verdict.name(|| format!("out of order: machine {id} number {number} behind {last}"));
    }
    for (sender, record) in never_sent(ledgers, view) {
        verdict.refused_but_there += 1;
        verdict.name(|| format!("never sent: record {record} of sender {sender}"));
    }
    verdict
}

impl Verdict {
    fn tell_allowed(&mut self, fate: Fate, records: u64, copies: u8) {
        if !fate.acknowledged && !fate.is_broken && copies > 0 {
            self.unacknowledged_but_there += records;
        }
        if copies > 1 {
            self.repeats_allowed += records * u64::from(copies - 1);
        }
    }
}

/// Records behind the last that a sender has settled.
fn never_sent<'a>(ledgers: &'a [Ledger], view: &'a View) -> impl Iterator<Item = (usize, u64)> + 'a {
    ledgers.iter().enumerate().flat_map(move |(sender, ledger)| {
        let end = ledger.records();
        (end..end + 4_096).filter(move |&record| view.count(sender, record) > 0).map(move |record| (sender, record))
    })
}

#[cfg(test)]
mod tests {
    use super::super::read::Line;
    use super::*;

    const FLEET: Fleet = Fleet { run: 9, senders: 1, machines: 2 };
    const KEYS: Rules = Rules { keys: true, oldest_may_go: false };
    const NO_KEYS: Rules = Rules { keys: false, oldest_may_go: false };

    fn judged(bodies: &[(u64, Fate)], records: &[u64], rules: Rules) -> Verdict {
        let mut ledger = Ledger::default();
        bodies.iter().for_each(|&(end, fate)| ledger.settle(end, fate));
        let mut view = View::new("test", FLEET, true);
        let mut message = String::new();
        for (line, &record) in records.iter().enumerate() {
            let machine = FLEET.machine_of(0, record);
            FLEET.message(machine, FLEET.sequence_of(record), &mut message);
            let (id, machine) = (format!("1-{line:x}-0-0"), FLEET.id_text(machine));
            view.take(&Line::Entry { id: id.into(), machine: machine.into(), message: message.as_str().into() });
        }
        judge(FLEET, &[ledger], &view, rules)
    }

    fn taken(open: u8) -> Fate {
        Fate { acknowledged: true, open, ..Fate::default() }
    }

    fn open(open: u8) -> Fate {
        Fate { open, ..Fate::default() }
    }

    const REFUSED: Fate = Fate { acknowledged: false, refused: 1, open: 0, is_broken: false };

    #[test]
    fn what_was_acknowledged_and_is_there_once_is_clean() {
        let verdict = judged(&[(2, taken(0)), (4, REFUSED), (6, open(1)), (8, open(1))], &[0, 1, 6, 7], KEYS);
        assert!(verdict.is_clean(), "{verdict:?}");
        assert_eq!((verdict.stored, verdict.unacknowledged_but_there), (4, 2));
    }

    #[test]
    fn a_lost_record_is_named() {
        let verdict = judged(&[(2, taken(0)), (4, taken(1))], &[0, 1], KEYS);
        assert_eq!((verdict.lost, verdict.torn_bodies), (2, 0));
        assert!(verdict.named[0].contains(&FLEET.id_text(0)) && verdict.named[0].contains("number 1"), "{verdict:?}");
    }

    #[test]
    fn a_repeat_is_allowed_only_for_an_open_try_and_never_with_a_key() {
        let (bodies, twice) = ([(2, taken(1))], [0, 1, 0, 1]);
        assert!(judged(&bodies, &twice, NO_KEYS).is_clean());
        assert_eq!(judged(&bodies, &twice, KEYS).repeated, 2);
        assert_eq!(judged(&[(2, taken(0))], &twice, NO_KEYS).repeated, 2);
        assert_eq!(judged(&bodies, &[0, 1, 0, 1, 0, 1], NO_KEYS).repeated, 2);
    }

    #[test]
    fn what_was_only_refused_must_not_be_there() {
        assert_eq!(judged(&[(2, REFUSED)], &[0, 1], NO_KEYS).refused_but_there, 2);
        let broken = Fate { is_broken: true, open: 1, ..Fate::default() };
        assert_eq!(judged(&[(2, broken)], &[0, 1], NO_KEYS).refused_but_there, 2);
        assert_eq!(judged(&[], &[0, 1], NO_KEYS).refused_but_there, 2, "never sent");
    }

    #[test]
    fn a_body_taken_in_part_is_told() {
        let verdict = judged(&[(4, open(1))], &[0, 1, 2], NO_KEYS);
        assert_eq!((verdict.torn_bodies, verdict.lost), (1, 0));
    }

    #[test]
    fn on_a_full_disk_only_the_oldest_may_be_gone() {
        let rules = Rules { oldest_may_go: true, ..KEYS };
        let bodies = [(2, taken(0)), (4, taken(0)), (6, taken(0))];
        let verdict = judged(&bodies, &[2, 3, 4, 5], rules);
        assert_eq!((verdict.is_clean(), verdict.gone_with_the_oldest), (true, 2));
        assert_eq!(judged(&bodies, &[2, 3], rules).lost, 2);
        assert_eq!(judged(&bodies, &[2, 3, 4, 5], KEYS).lost, 2);
    }
}
