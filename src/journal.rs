//! The loss journal: what was lost, of which machine, where, why and when.
//!
//! Whoever gives up lines counts them where it stands and has them noted here, a few times a second and never on the way in. Notes
//! of one machine, place and reason are one [`Entry`] for each [`WINDOW`]. Everything is bounded, and what bounds it never loses
//! count: over a bound, entries become one of no machine in particular, so every lost line is in exactly one entry.
//!
//! With a directory, entries are appended to `losses.ndjson` about once a second, and a *heartbeat* beside it says what is in
//! memory still: the entries of the window, and how many acknowledged lines nobody has read. Who finds the heartbeat of a process
//! that did not stop by itself knows what that stop may have cost. Without a directory the journal ends with the process.

mod disk;
mod entry;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, VecDeque, hash_map},
    io,
    path::Path,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;

use self::disk::{Disk, Left};
pub(crate) use self::entry::{Entry, Loss};
use crate::batch::EntryId;

/// Notes within so long a time are one entry.
const WINDOW: Duration = Duration::from_secs(10);
/// Entries of the window, and others that are not on disk: some 2 MiB of each at the most.
const ENTRIES_MAX: usize = 4096;

/// What makes two losses the same entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// `None`: of whatever machine.
    machine: Option<Box<str>>,
    place: Cow<'static, str>,
    reason: Cow<'static, str>,
}

/// What is known of the acknowledged lines in memory, which an unclean stop would cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undelivered {
    pub(crate) lines: u64,
    /// When the oldest of them was received.
    pub(crate) oldest: Timestamp,
}

/// The process before this one did not stop by itself, and what it had acknowledged was in memory alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UncleanStop {
    /// How many such lines there were when it was last known to live; `None`: nobody knows.
    pub(crate) undelivered: Option<u64>,
}

/// What [`Journal::read`] answers.
#[derive(Debug)]
pub(crate) struct Losses {
    /// The oldest first.
    pub(crate) entries: Vec<Entry>,
    /// Whether they outlive the process.
    pub(crate) on_disk: bool,
    /// Losses before this are not all known any more; `None`: all that there ever were in this directory are.
    pub(crate) complete_since: Option<Timestamp>,
}

/// The loss journal.
#[derive(Debug)]
pub(crate) struct Journal {
    notes: Mutex<Notes>,
    /// Held while files are read or written; taken before `notes`.
    disk: Mutex<Option<Disk>>,
    unclean_stop: Mutex<Option<UncleanStop>>,
}

/// What is in memory.
#[derive(Debug)]
struct Notes {
    window_end: Timestamp,
    window: HashMap<Key, Entry>,
    /// Entries of windows that are over and are not on disk.
    over: VecDeque<Entry>,
    /// What `over` had no room for, by place and reason.
    rest: BTreeMap<(Cow<'static, str>, Cow<'static, str>), Entry>,
    since: Timestamp,
}

impl Default for Journal {
    fn default() -> Self {
        let notes = Notes {
            window_end: Timestamp::MIN,
            window: HashMap::new(),
            over: VecDeque::new(),
            rest: BTreeMap::new(),
            since: Timestamp::now(),
        };
        Self { notes: Mutex::new(notes), disk: Mutex::default(), unclean_stop: Mutex::default() }
    }
}

impl Journal {
    /// Notes lines that were lost just now. Cheap, and never waits for a disk.
    pub(crate) fn note(&self, loss: Loss) {
        self.notes.lock().note(loss);
    }

    /// Notes lines that were lost of which nobody knows how many; an entry of its own.
    #[cfg_attr(
        not(feature = "spool"),
        allow(dead_code, reason = "only what outlives a process is lost without being counted")
    )]
    pub(crate) fn note_unknown(&self, loss: Loss) {
        self.notes.lock().keep(Entry { lines: None, ..Entry::from(loss) });
    }

    /// Notes a time in which a source was not heard; an entry of its own, however long it is.
    #[cfg_attr(not(feature = "fly"), allow(dead_code, reason = "only a source that connects has gaps"))]
    pub(crate) fn note_gap(&self, place: &'static str, reason: &'static str, from: Timestamp, to: Timestamp) {
        self.notes.lock().keep(Entry::of_gap(place, reason, from, to));
    }

    /// Keeps losses in `dir` from now on, at most about `bytes_max` of them, and takes stock of how the process before this one
    /// stopped.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if another process keeps its own there; what else the directory refuses.
    pub(crate) fn keep_in(&self, dir: &Path, bytes_max: usize) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let (opened, Left { entries, unclean_stop }) = Disk::open(dir, bytes_max)?;
        let mut notes = self.notes.lock();
        entries.into_iter().for_each(|entry| notes.keep(entry));
        *self.unclean_stop.lock() = unclean_stop;
        *disk = Some(opened);
        Ok(())
    }

    /// How the process before this one stopped, if it did not by itself; `None` also where no directory tells.
    pub(crate) fn unclean_stop(&self) -> Option<UncleanStop> {
        *self.unclean_stop.lock()
    }

    /// Writes what is to be written; to be called about every second, where it may wait for a disk.
    ///
    /// `undelivered` is what an unclean stop would cost; `None` where a spool keeps it.
    pub(crate) fn write(&self, undelivered: Option<Undelivered>) {
        let mut disk = self.disk.lock();
        self.notes.lock().end_window(Timestamp::now());
        if let Some(disk) = &mut *disk {
            self.append(disk);
            let window = self.notes.lock().not_on_disk();
            disk.beat(undelivered, window);
        }
    }

    /// Writes everything and notes that the process stops by itself. The journal is in memory again from then on.
    pub(crate) fn close(&self) {
        let Some(mut disk) = self.disk.lock().take() else { return };
        self.notes.lock().end_window(Timestamp::MAX);
        self.append(&mut disk);
        let left = self.notes.lock().not_on_disk();
        disk.close(left);
    }

    /// Appends the entries of windows that are over; those that could not be written stay.
    fn append(&self, disk: &mut Disk) {
        let entries: Vec<Entry> = {
            let notes = self.notes.lock();
            notes.rest.values().chain(&notes.over).cloned().collect()
        };
        if !entries.is_empty() {
            let appended = disk.append(&entries);
            self.notes.lock().forget(&entries[..appended]);
        }
    }

    /// Losses that reached into the time from `since` on, of `machine` or of one that is not known; of all where `None`.
    pub(crate) fn read(&self, since: Option<Timestamp>, machine: Option<&str>) -> Losses {
        let wanted = |entry: &Entry| {
            since.is_none_or(|since| entry.to >= since)
                && machine.is_none_or(|id| entry.machine.as_deref().is_none_or(|of| of == id))
        };
        let disk = self.disk.lock();
        let (mut entries, oldest) = disk.as_ref().map(|disk| disk.read(wanted)).unwrap_or_default();
        let notes = self.notes.lock();
        entries.extend(notes.all().filter(|entry| wanted(entry)).cloned());
        entries.sort_by_key(|entry| entry.from);
        let complete_since = if disk.is_some() { oldest } else { Some(notes.since) };
        Losses { entries, on_disk: disk.is_some(), complete_since }
    }
}

impl Notes {
    fn note(&mut self, loss: Loss) {
        self.end_window(loss.to);
        let mut entry = Entry::from(loss);
        let mut key = key_of(&entry);
        if self.window.len() >= ENTRIES_MAX && !self.window.contains_key(&key) {
            entry = entry.of_any_machine();
            key = key_of(&entry);
        }
        match self.window.entry(key) {
            hash_map::Entry::Occupied(mut known) => known.get_mut().add(entry),
            hash_map::Entry::Vacant(place) => {
                // Two windows of the same key never overlap; see `Disk::open`.
                let start = self.window_end.saturating_sub(WINDOW).unwrap_or(Timestamp::MIN);
                entry.from = entry.from.max(start).min(entry.to);
                place.insert(entry);
            }
        }
    }

    /// Begins a new window if the last is over at `now`.
    fn end_window(&mut self, now: Timestamp) {
        if now < self.window_end {
            return;
        }
        let window = std::mem::take(&mut self.window);
        window.into_values().for_each(|entry| self.keep(entry));
        self.window_end = now.saturating_add(WINDOW).unwrap_or(Timestamp::MAX);
        if now == Timestamp::MAX {
            self.window_end = Timestamp::MIN;
        }
    }

    /// Keeps an entry that gets no more notes; the oldest then make room, by becoming one for all machines.
    fn keep(&mut self, entry: Entry) {
        self.over.push_back(entry);
        while self.over.len() > ENTRIES_MAX {
            let Some(oldest) = self.over.pop_front() else { return };
            let entry = oldest.of_any_machine();
            match self.rest.get_mut(&(entry.place.clone(), entry.reason.clone())) {
                Some(rest) => rest.add(entry),
                None => {
                    self.rest.insert((entry.place.clone(), entry.reason.clone()), entry);
                }
            }
        }
    }

    /// Forgets what is on disk now; what was noted meanwhile stays.
    fn forget(&mut self, written: &[Entry]) {
        // Only `Journal::append`, under the disk's lock, takes away; so the oldest are still what they were, but that some may have
        // made room: these are in `rest`, with what was written of it.
        let mut written: HashMap<(Key, Timestamp), &Entry> =
            written.iter().map(|entry| ((key_of(entry), entry.from), entry)).collect();
        self.over.retain(|entry| written.remove(&(key_of(entry), entry.from)).is_none());
        for entry in written.into_values() {
            let key = (entry.place.clone(), entry.reason.clone());
            if let Some(rest) = self.rest.get_mut(&key)
                && !rest.take_away(entry)
            {
                self.rest.remove(&key);
            }
        }
    }

    /// Every entry that is not on disk.
    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.rest.values().chain(&self.over).chain(self.window.values())
    }

    fn not_on_disk(&self) -> Vec<Entry> {
        self.all().cloned().collect()
    }
}

/// The first and the last line of two stretches of them; what several readers give up comes in no order.
pub(crate) fn widest(one: Option<(EntryId, EntryId)>, other: Option<(EntryId, EntryId)>) -> Option<(EntryId, EntryId)> {
    let (Some((first, last)), Some((other_first, other_last))) = (one, other) else { return one.or(other) };
    let earlier = if other_first.line < first.line { other_first } else { first };
    let later = if other_last.line > last.line { other_last } else { last };
    Some((earlier, later))
}

fn key_of(entry: &Entry) -> Key {
    let machine = entry.machine.as_deref().map(Box::from);
    Key { machine, place: entry.place.clone(), reason: entry.reason.clone() }
}

#[cfg(test)]
mod tests;
