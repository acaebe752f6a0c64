//! What goes, when: retention, and the cursors that hold it back.
//!
//! | the oldest segment | every cursor has passed it | not yet | there are no cursors |
//! |---|---|---|---|
//! | received longer ago than `spool.keep` | released | stays | dropped, `expired` |
//! | spool over `spool.bytes_max`, or the disk full | released | `drop_oldest`: dropped, `full`; `refuse`: stays | dropped, `full` |
//!
//! Cursors are durable before a segment is unlinked: none ever points to before what there is. One that is parked, whose sink is away,
//! is no cursor to this table: what goes meanwhile, it is behind.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use jiff::Timestamp;

use super::{
    Full, KINDS, Removing,
    format::{Base, FOOTER, machine_hash},
    fs::Fs,
    log::{Log, Segment, nanoseconds},
    write::nanoseconds_of,
};

/// Why a segment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Every cursor has passed it.
    Released,
    /// Nobody had a cursor, and it was older than `spool.keep`.
    Expired,
    /// There was no room for it.
    Full,
}

/// The removed segment whose file may still be on the disk.
#[derive(Debug, Default)]
pub(crate) struct Unlinking(Option<Base>);

impl Unlinking {
    fn finish(&mut self, fs: &dyn Fs) -> io::Result<()> {
        let Some(base) = self.0 else { return Ok(()) };
        match fs.unlink(&base.segment_name()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs.sync_dir()?,
        }
        self.0 = None;
        Ok(())
    }
}

impl Log {
    /// Removes the oldest segments for as long as the bounds ask for it; `extra` bytes are about to be taken.
    pub(super) fn retain(&self, now: Timestamp, extra: u64) {
        let mut removing = self.removing.lock();
        while let Some((oldest, next)) = self.oldest() {
            let over = self.bytes() + extra > self.bounds.bytes_max;
            let old = || self.is_old(&oldest, now);
            let Some(reason) = self.may_go(next, over, old) else { break };
            if let Err(error) = self.remove(&mut removing, &oldest, next, reason) {
                tracing::warn!(%error, segment = oldest.base.seq, "an old segment of the spool cannot be removed");
                break;
            }
        }
    }

    /// The disk is full: removes the oldest segment if nobody needs it. How many bytes that were.
    pub(super) fn make_room(&self) -> Option<u64> {
        let mut removing = self.removing.lock();
        let (oldest, next) = self.oldest()?;
        let reason = self.may_go(next, true, || false)?;
        let bytes = oldest.bytes.load(Relaxed);
        self.remove(&mut removing, &oldest, next, reason).ok().map(|()| bytes)
    }

    /// The oldest segment and what comes after it. The last one is not up to be removed: the numbers go on from it.
    fn oldest(&self) -> Option<(Arc<Segment>, Base)> {
        let list = self.list.read();
        Some((Arc::clone(list.segments.front()?), list.segments.get(1)?.base))
    }

    fn may_go(&self, next: Base, over: bool, old: impl FnOnce() -> bool) -> Option<Gone> {
        match self.slowest_cursor() {
            None if over => Some(Gone::Full),
            None => old().then_some(Gone::Expired),
            Some(slowest) if slowest >= next.seq => (over || old()).then_some(Gone::Released),
            Some(_) => (over && self.bounds.full == Full::DropOldest).then_some(Gone::Full),
        }
    }

    fn is_old(&self, segment: &Segment, now: Timestamp) -> bool {
        // One that cannot be read is as old as the others will be.
        let newest = self.newest(segment).ok().flatten();
        newest.is_none_or(|newest| newest.saturating_add(nanoseconds_of(self.bounds.keep)) < nanoseconds(now))
    }

    fn remove(&self, removing: &mut Unlinking, segment: &Segment, next: Base, reason: Gone) -> io::Result<()> {
        // One at a time: after a crash the oldest may be back, but never one with a hole behind it.
        removing.finish(&*self.fs)?;
        self.cursors.lock().store(&*self.fs)?;
        let passed = match reason {
            Gone::Released => next.line,
            Gone::Expired => segment.base.line,
            Gone::Full => self.slowest_cursor().map_or(segment.base.line, |cursor| self.line_of(segment, next, cursor)),
        };
        if let Some(observer) = &self.observer {
            observer.removing(&Removing { log: self, segment, end: next, reason });
        }
        // First out of sight: a reader that opened it before reads on, one that comes later goes on behind it.
        let lost = segment.lost.lock().lines;
        self.list.write().segments.pop_front();
        self.damage.lock().remove(segment.base.segment_name().as_bytes());
        self.cache.lock().retain(|closed| !closed.is(segment.base));
        let lines = (next.line - segment.base.line).saturating_sub(lost);
        let released = (passed - segment.base.line).min(lines);
        self.counts.released.fetch_add(released, Relaxed);
        let dropped = if reason == Gone::Expired { &self.counts.dropped_expired } else { &self.counts.dropped_full };
        dropped.fetch_add(lines - released, Relaxed);
        removing.0 = Some(segment.base);
        removing.finish(&*self.fs)
    }

    /// The first line of a segment that a cursor has not passed.
    fn line_of(&self, segment: &Segment, next: Base, cursor: u64) -> u64 {
        let found = self.with_index(segment, |index| {
            let at = index.partition(&|entry| entry.seq < cursor)?;
            if at < index.records() { Ok(index.entry(at)?.first_line) } else { Ok(next.line) }
        });
        found.unwrap_or(segment.base.line).clamp(segment.base.line, next.line)
    }

    /// The sequence that the slowest cursor wants next; `None` without cursors. One that is parked waits for nothing.
    pub(super) fn slowest_cursor(&self) -> Option<u64> {
        let (cursors, parked) = (self.cursors.lock(), self.parked.lock());
        cursors.rows().filter(|(name, _)| !parked.contains(*name)).map(|(_, value)| cursor(value)).min()
    }

    /// Bytes of all segments on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.list.read().segments.iter().map(|segment| segment.bytes.load(Relaxed)).sum()
    }

    /// Bytes of records that not every cursor has passed; 0 without cursors.
    pub(super) fn unsent_bytes(&self) -> u64 {
        let Some(slowest) = self.slowest_cursor() else { return 0 };
        let Some(segment) = self.segment_with(slowest) else { return 0 };
        let before = self.with_index(&segment, |index| {
            let at = index.partition(&|entry| entry.seq < slowest)?;
            if at == index.records() { Ok(u64::MAX) } else { Ok(index.entry(at)?.offset) }
        });
        let list = self.list.read();
        let unsent = list.segments.iter().filter(|other| other.base >= segment.base).map(|other| {
            let bytes = other.live.read().as_ref().map_or_else(|| other.bytes.load(Relaxed), |live| live.end);
            let passed = if other.base == segment.base { before.as_ref().map_or(0, |before| *before) } else { 0 };
            bytes.saturating_sub(passed)
        });
        unsent.sum()
    }

    /// Whether `spool.full = refuse` refuses `bytes` more: they would not fit beside what cursors hold back. A segment goes
    /// as a whole, and the one that is written takes its room beforehand, as the next one will.
    pub(super) fn is_full_for(&self, bytes: u64) -> bool {
        let Some(slowest) = self.slowest_cursor().filter(|_| self.bounds.full == Full::Refuse) else { return false };
        let list = self.list.read();
        let passed = list.segments.partition_point(|segment| segment.base.seq <= slowest).saturating_sub(1);
        let (mut closed, mut active) = (0, bytes);
        for (index, segment) in list.segments.iter().enumerate().skip(passed) {
            match segment.live.read().as_ref() {
                Some(live) => active += live.end + (live.index.bytes() + FOOTER) as u64,
                None if list.end_of(index).seq > slowest => closed += segment.bytes.load(Relaxed),
                None => {}
            }
        }
        let segment = self.bounds.segment_bytes;
        let next = if active > segment { segment } else { 0 };
        closed + active.max(segment) + next > self.bounds.bytes_max
    }
}

/// What a row of the table of cursors says.
pub(super) fn cursor(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Removing<'_> {
    /// How many lines of a machine go, by kind, of those at `seq` or behind.
    #[must_use]
    pub fn machine_lines(&self, machine: &str, seq: u64) -> [u64; KINDS] {
        let (hash, seqs) = (machine_hash(machine), seq..u64::MAX);
        // What an index that cannot be read held is not known.
        self.log.with_index(self.segment, |index| index.machine_lines(hash, &seqs)).unwrap_or_default()
    }
}
