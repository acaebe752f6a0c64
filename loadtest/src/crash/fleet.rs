//! The fleet of a crash run: who sends which record, and what is in it. All of it follows from numbers, so that a reader
//! can make each message again and compare, and nobody has to remember ten million of them.

use crate::generate::{MachineId, machine_id};
use crate::random::Random;
use std::fmt::Write;

const WORDS: [&str; 16] = [
    "request",
    "completed",
    "in",
    "ms",
    "GET /api/v1/orders",
    "status=200",
    "user=4711",
    "\"quoted\"",
    "tab\there",
    "line\nbreak",
    "C:\\app\\run",
    "größe",
    "日本語のログ",
    "🚀",
    "retry",
    "{\"id\":7}",
];

/// Which records there may be. Sender `s` has the machines `s * machines ..`, and its records go to them in turn: record
/// `r` of a sender is number `r / machines` of its machine `r % machines`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fleet {
    pub(super) run: u32,
    pub(super) senders: u32,
    /// Machines of each sender.
    pub(super) machines: u32,
}

/// Whose record a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) machine: u32,
    pub(super) sender: usize,
    /// The sender's number of it.
    pub(super) record: u64,
}

/// What a line that was read turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Ours(Owner),
    /// One of our records, but not as it was sent.
    Altered(Owner),
    /// No record of this run.
    Foreign,
}

impl Fleet {
    pub(super) fn machines_in_all(&self) -> u32 {
        self.senders * self.machines
    }

    pub(super) fn machine_of(&self, sender: usize, record: u64) -> u32 {
        sender as u32 * self.machines + (record % u64::from(self.machines)) as u32
    }

    pub(super) fn sequence_of(&self, record: u64) -> u64 {
        record / u64::from(self.machines)
    }

    pub(super) fn id(&self, machine: u32) -> MachineId {
        machine_id(self.run, machine)
    }

    pub(super) fn id_text(&self, machine: u32) -> String {
        String::from_utf8_lossy(&self.id(machine)).into_owned()
    }

    /// The message of a record: `RUN MACHINE SEQUENCE` and a text of its own.
    pub(super) fn message(&self, machine: u32, sequence: u64, out: &mut String) {
        out.clear();
        // A String takes any write.
        let _ = write!(out, "{:08x} {machine:05} {sequence:010}", self.run);
        let mut random = Random::new(u64::from(self.run) << 32 ^ u64::from(machine) << 48 ^ sequence);
        for _ in 0..random.below(24) {
            out.push(' ');
            out.push_str(WORDS[random.below(WORDS.len())]);
        }
    }

    /// Which record a line is, by its machine and message.
    pub(super) fn find(&self, id: &str, message: &str, scratch: &mut String) -> Found {
        let Some((machine, sequence)) = self.numbers(message) else { return Found::Foreign };
        let record = sequence * u64::from(self.machines) + u64::from(machine % self.machines);
        let owner = Owner { machine, sender: (machine / self.machines) as usize, record };
        self.message(machine, sequence, scratch);
        if scratch == message && id.as_bytes() == self.id(machine) { Found::Ours(owner) } else { Found::Altered(owner) }
    }

    fn numbers(&self, message: &str) -> Option<(u32, u64)> {
        let mut words = message.splitn(4, ' ');
        let run = u32::from_str_radix(words.next()?, 16).ok()?;
        let (machine, sequence) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (run == self.run && machine < self.machines_in_all()).then_some((machine, sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: Fleet = Fleet { run: 0xabc, senders: 3, machines: 4 };

    #[test]
    fn every_record_is_found_again_and_an_altered_one_is_told() {
        let (mut message, mut scratch) = (String::new(), String::new());
        for (sender, record) in [(0, 0), (1, 5), (2, 4_711)] {
            let machine = FLEET.machine_of(sender, record);
            FLEET.message(machine, FLEET.sequence_of(record), &mut message);
            let owner = Owner { machine, sender, record };
            let id = FLEET.id_text(machine);
            assert_eq!(FLEET.find(&id, &message, &mut scratch), Found::Ours(owner));
            assert_eq!(FLEET.find(&FLEET.id_text(machine + 1), &message, &mut scratch), Found::Altered(owner));
            message.push('!');
            assert_eq!(FLEET.find(&id, &message, &mut scratch), Found::Altered(owner));
        }
    }

    #[test]
    fn another_runs_lines_are_foreign() {
        let mut message = String::new();
        let other = Fleet { run: 0xabd, ..FLEET };
        other.message(0, 0, &mut message);
        assert_eq!(FLEET.find(&other.id_text(0), &message, &mut String::new()), Found::Foreign);
        assert_eq!(FLEET.find("a", "hello", &mut String::new()), Found::Foreign);
    }
}
