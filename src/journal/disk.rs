//! The files of the loss journal: `losses.ndjson`, the one before it, and the heartbeat.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{UncleanStop, Undelivered, entry::Entry};

const CURRENT: &str = "losses.ndjson";
const BEFORE: &str = "losses.1.ndjson";
const HEARTBEAT: &str = "losses.heartbeat";
/// Not the directory itself, which the spool locks.
const LOCK: &str = "losses.lock";
/// A heartbeat that says nothing new is written this often.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);

/// What the process holds that is not in `losses.ndjson`.
#[derive(Debug, Serialize, Deserialize)]
struct Heartbeat {
    /// The process stopped by itself, and has told all that it had to tell.
    stopped: bool,
    at: String,
    /// Acknowledged lines that an unclean stop would cost; `None` where a spool keeps them.
    undelivered: Option<u64>,
    /// When the oldest of them was received.
    oldest: Option<String>,
    entries: Vec<Entry>,
}

/// What the process before this one left.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// What it had not appended, with what its stop may have cost.
    pub(super) entries: Vec<Entry>,
    pub(super) unclean_stop: Option<UncleanStop>,
}

/// A directory, locked, and what was last written there.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    current: File,
    len: u64,
    /// Of each of the two files.
    len_max: u64,
    beat: Option<(Timestamp, Option<Undelivered>, Vec<Entry>)>,
    is_failing: [bool; 2],
    /// Held for as long as the directory is this process's.
    _lock: File,
}

impl Disk {
    pub(super) fn open(dir: &Path, bytes_max: usize) -> io::Result<(Self, Left)> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let lock = options().open(dir.join(LOCK))?;
        lock.try_lock().map_err(io::Error::from)?;
        let mut current = options().open(dir.join(CURRENT))?;
        let len = cut_torn_line(&mut current)?;
        let dir = dir.to_owned();
        let len_max = bytes_max as u64 / 2;
        let disk = Self { dir, current, len, len_max, beat: None, is_failing: [false; 2], _lock: lock };
        let left = disk.left_by_the_last()?;
        Ok((disk, left))
    }

    fn left_by_the_last(&self) -> io::Result<Left> {
        let path = self.dir.join(HEARTBEAT);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Left::default()),
            Err(error) => return Err(error),
        };
        let now = Timestamp::now();
        let Ok(last) = serde_json::from_slice::<Heartbeat>(&text) else {
            // Only a power cut leaves half a heartbeat: what it said is not known.
            let at = fs::metadata(&path)?.modified().ok().and_then(|at| Timestamp::try_from(at).ok());
            return Ok(Left {
                entries: vec![Entry::of_unclean_stop(at.unwrap_or(now), now, None)],
                unclean_stop: Some(UncleanStop { undelivered: None }),
            });
        };
        let mut entries = last.entries;
        if !entries.is_empty() {
            // The heartbeat may be older than what was appended last.
            let (appended, _) = self.read(|entry| entries.iter().any(|left| entry.covers(left)));
            entries.retain(|left| !appended.iter().any(|entry| entry.covers(left)));
        }
        let mut unclean_stop = None;
        if let (false, Some(undelivered)) = (last.stopped, last.undelivered) {
            let time = |text: &str| text.parse::<Timestamp>().ok();
            let from = last.oldest.as_deref().and_then(time).or_else(|| time(&last.at)).unwrap_or(now);
            entries.push(Entry::of_unclean_stop(from, now, Some(undelivered)));
            unclean_stop = Some(UncleanStop { undelivered: Some(undelivered) });
        }
        Ok(Left { entries, unclean_stop })
    }

    /// Appends `entries` and syncs. How many of them, the first, are on the disk: fewer than all when it fails.
    pub(super) fn append(&mut self, entries: &[Entry]) -> usize {
        let mut done = 0;
        let appended = self.try_append(entries, &mut done);
        self.note(0, &appended);
        if appended.is_err() {
            // Half a line would be taken for the beginning of the next.
            let _ = self.current.set_len(self.len);
        }
        done
    }

    fn try_append(&mut self, entries: &[Entry], done: &mut usize) -> io::Result<()> {
        let mut lines = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let before = lines.len();
            entry.write(&mut lines);
            if self.len + lines.len() as u64 > self.len_max && self.len + before as u64 > 0 {
                let line = lines.split_off(before);
                self.write(&lines)?;
                *done = index;
                self.rotate()?;
                lines = line;
            }
        }
        self.write(&lines)?;
        *done = entries.len();
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.current.seek(SeekFrom::Start(self.len))?;
        self.current.write_all(lines)?;
        self.current.sync_data()?;
        self.len += lines.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(self.dir.join(CURRENT), self.dir.join(BEFORE))?;
        self.current = options().open(self.dir.join(CURRENT))?;
        self.len = 0;
        self.sync_dir()
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Says what is not in `losses.ndjson`, if that has changed or was said long ago.
    pub(super) fn beat(&mut self, undelivered: Option<Undelivered>, entries: Vec<Entry>) {
        let now = Timestamp::now();
        if let Some((at, told, kept)) = &self.beat
            && now.duration_since(*at).unsigned_abs() < HEARTBEAT_EVERY
            && (*told, kept) == (undelivered, &entries)
        {
            return;
        }
        // Losses are made durable. How much is undelivered is another each second, and a process that is killed leaves the page
        // cache as it is.
        let is_new = self.beat.as_ref().is_none_or(|(.., kept)| *kept != entries);
        let heartbeat = Heartbeat {
            stopped: false,
            at: now.to_string(),
            undelivered: undelivered.map(|undelivered| undelivered.lines),
            oldest: undelivered.map(|undelivered| undelivered.oldest.to_string()),
            entries,
        };
        let written = self.write_heartbeat(&heartbeat, is_new);
        self.note(1, &written);
        self.beat = written.is_ok().then_some((now, undelivered, heartbeat.entries));
    }

    /// Says that the process stops by itself; `entries` could not be appended.
    pub(super) fn close(&mut self, entries: Vec<Entry>) {
        let at = Timestamp::now().to_string();
        let heartbeat = Heartbeat { stopped: true, at, undelivered: None, oldest: None, entries };
        let written = self.write_heartbeat(&heartbeat, true);
        self.note(1, &written);
    }

    fn write_heartbeat(&self, heartbeat: &Heartbeat, durable: bool) -> io::Result<()> {
        let new = self.dir.join("losses.heartbeat.new");
        let mut file = options().truncate(true).open(&new)?;
        file.write_all(&serde_json::to_vec(heartbeat)?)?;
        if durable {
            file.sync_data()?;
        }
        fs::rename(new, self.dir.join(HEARTBEAT))?;
        if durable { self.sync_dir() } else { Ok(()) }
    }

    /// The entries that `wanted` picks, the oldest first, and when the first begins if there may have been others before it.
    pub(super) fn read(&self, wanted: impl Fn(&Entry) -> bool) -> (Vec<Entry>, Option<Timestamp>) {
        let (mut entries, mut oldest) = (Vec::new(), None);
        for name in [BEFORE, CURRENT] {
            let text = match fs::read(self.dir.join(name)) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::warn!(%error, name, "a file of the loss journal cannot be read");
                    continue;
                }
            };
            // A line that is no entry was damaged on the disk: it says nothing of its neighbours.
            let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
            for entry in lines.filter_map(|line| serde_json::from_slice::<Entry>(line).ok()) {
                if name == BEFORE {
                    oldest.get_or_insert(entry.from);
                }
                entries.extend(wanted(&entry).then_some(entry));
            }
        }
        (entries, oldest)
    }

    /// Says once that one of the two files cannot be written, and once that it can again.
    fn note(&mut self, which: usize, outcome: &io::Result<()>) {
        let path = self.dir.join([CURRENT, HEARTBEAT][which]);
        match outcome {
            Err(error) if !self.is_failing[which] => {
                self.is_failing[which] = true;
                tracing::error!(%error, path = %path.display(), "the loss journal cannot be written: it stays in memory");
            }
            Ok(()) if self.is_failing[which] => {
                self.is_failing[which] = false;
                tracing::info!(path = %path.display(), "the loss journal is written again");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
impl Disk {
    /// Has every append fail, or none any more.
    pub(super) fn refuse_writes(&mut self, refuse: bool) {
        let mut options = OpenOptions::new();
        self.current = options.read(true).write(!refuse).open(self.dir.join(CURRENT)).expect("it was made");
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}

/// Cuts what was being written when the process or the machine stopped; the length left.
fn cut_torn_line(file: &mut File) -> io::Result<u64> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let whole = memchr::memrchr(b'\n', &text).map_or(0, |end| end + 1);
    if whole < text.len() {
        file.set_len(whole as u64)?;
        file.sync_data()?;
    }
    Ok(whole as u64)
}
