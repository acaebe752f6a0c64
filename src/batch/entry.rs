//! A line as its readers see it: borrowed from its batch, or owned.

use std::fmt;

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    digits::{DECIMAL_MAX, HEX_MAX, put_decimal, put_hex},
    id::{EntryId, Origin},
    row::{Row, Sent, Span, move_row, text},
    shown_seq,
    streams::Kind,
};

/// An entry that borrows from its batch: what readers print and [`LogEntry`] owns.
#[derive(Clone, Copy, Debug)]
pub struct EntryView<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) arena: &'a [u8],
    pub(crate) row: &'a Row,
    pub(crate) origin: Option<Origin>,
}

impl<'a> EntryView<'a> {
    fn text(&self, span: Span) -> &'a str {
        text(span, self.body, self.arena)
    }

    /// The Machine's id; never empty, at most 128 bytes.
    #[must_use]
    pub fn machine_id(&self) -> &'a str {
        self.text(self.row.machine)
    }

    /// The line itself; an object or array that was sent as `message` is its JSON text as sent.
    #[must_use]
    pub fn message(&self) -> &'a str {
        self.text(self.row.message)
    }

    /// `stdout`, `stderr`, `system`, or what the sender called it.
    #[must_use]
    pub fn stream(&self) -> &'a str {
        match self.row.kind {
            Kind::Stdout => "stdout",
            Kind::Stderr => "stderr",
            Kind::System => "system",
            Kind::Other => self.text(self.row.stream),
        }
    }

    /// The record's own time as sent, or `""`.
    #[must_use]
    pub fn timestamp(&self) -> &'a str {
        self.text(self.row.timestamp)
    }

    /// The app's name, or `""`.
    #[must_use]
    pub fn app_name(&self) -> &'a str {
        self.text(self.row.app)
    }

    /// The region's code, or `""`.
    #[must_use]
    pub fn region(&self) -> &'a str {
        self.text(self.row.region)
    }

    /// Fly's host, or `""`.
    #[must_use]
    pub fn host(&self) -> &'a str {
        self.text(self.row.host)
    }

    /// The level as sent, or `""`.
    #[must_use]
    pub fn level(&self) -> &'a str {
        self.text(self.row.level)
    }

    /// The record as sent, byte for byte.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.row.raw.of(self.body, self.arena)
    }

    /// The line's id; `None` for what was parsed but never pushed.
    #[must_use]
    pub fn id(&self) -> Option<EntryId> {
        self.origin.map(|origin| origin.id(self.machine_id().as_bytes()))
    }

    /// All that is read from the record.
    fn texts(&self) -> [&'a str; 8] {
        [
            self.machine_id(),
            self.message(),
            self.stream(),
            self.timestamp(),
            self.app_name(),
            self.region(),
            self.host(),
            self.level(),
        ]
    }

    /// When the drain had received it; `None` for what was parsed but never pushed.
    #[must_use]
    pub fn received_at(&self) -> Option<Timestamp> {
        self.origin.map(|origin| origin.received_at)
    }

    /// 1, 2, 3… per machine while it is known to this process; `None` for what a spool kept from before, and for what was parsed
    /// but never pushed.
    #[must_use]
    pub fn machine_seq(&self) -> Option<u64> {
        self.origin.and_then(|origin| shown_seq(origin.machine_seq))
    }

    /// How many lines of all machines were published before it.
    #[cfg(feature = "server")]
    pub(crate) fn line(&self) -> Option<u64> {
        self.origin.map(|origin| origin.line)
    }

    /// Appends the entry as one JSON object on one line, without a newline: the fields in the contract's order, then `id`,
    /// `received_at` and `machine_seq` where the drain gave them, then `raw` if asked for.
    pub fn write_json(&self, out: &mut Vec<u8>, with_raw: bool) {
        self.write_json_by(&mut Clock::default(), out, with_raw);
    }

    /// As [`EntryView::write_json`], for many lines: those of one batch share the text of their time of receipt.
    pub(crate) fn write_json_by(&self, clock: &mut Clock, out: &mut Vec<u8>, with_raw: bool) {
        let row = self.row;
        let fields: [(&[u8], Span); 5] = [
            (b",\"timestamp\":", row.timestamp),
            (b",\"app_name\":", row.app),
            (b",\"region\":", row.region),
            (b",\"host\":", row.host),
            (b",\"level\":", row.level),
        ];
        out.extend_from_slice(b"{\"machine_id\":");
        self.write_text(out, row.machine);
        out.extend_from_slice(b",\"message\":");
        self.write_text(out, row.message);
        out.extend_from_slice(b",\"stream\":");
        match row.kind {
            Kind::Other => self.write_text(out, row.stream),
            Kind::Stdout | Kind::Stderr | Kind::System => write_json_string(out, self.stream()),
        }
        for (key, span) in fields {
            out.extend_from_slice(key);
            self.write_text(out, span);
        }
        if let Some(origin) = self.origin {
            clock.write_members(out, b",", origin, self.row.machine.of(self.body, self.arena));
        }
        if with_raw {
            out.extend_from_slice(b",\"raw\":");
            self.write_raw(out);
        }
        out.push(b'}');
    }

    /// Appends the record as sent, on one line, without a newline: line breaks between tokens become spaces, invalid UTF-8 becomes
    /// U+FFFD.
    pub(crate) fn write_raw(&self, out: &mut Vec<u8>) {
        let (raw, start) = (self.raw(), out.len());
        match self.row.sent {
            Sent::Ready => return out.extend_from_slice(raw),
            Sent::Utf8 => out.extend_from_slice(raw),
            Sent::Any => out.extend_from_slice(String::from_utf8_lossy(raw).as_bytes()),
        }
        // A line break inside a string would have been malformed, so every one that is left stands between tokens.
        let mut rest = &mut out[start..];
        while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
            rest[at] = b' ';
            rest = &mut rest[at + 1..];
        }
    }

    /// Whether a text of it is that of another.
    #[cfg(feature = "sinks")]
    #[inline]
    pub(crate) fn has_same(&self, other: &EntryView<'_>, text: impl Fn(&Row) -> Span) -> bool {
        super::same_bytes(text(self.row).of(self.body, self.arena), text(other.row).of(other.body, other.arena))
    }

    /// Appends `before` and what the drain gave it as members, if it gave it something: `id`, `received_at` and `machine_seq`.
    #[cfg(feature = "sinks")]
    pub(crate) fn write_given<const N: usize>(&self, clock: &mut Clock, out: &mut Vec<u8>, before: &[u8; N]) {
        if let Some(origin) = self.origin {
            clock.write_members(out, before, origin, self.row.machine.of(self.body, self.arena));
        }
    }

    /// Appends a text of the row as a JSON string. One that lies in the record between quotes is one already: it was read as a
    /// string without escapes, and is copied with them.
    #[inline]
    fn write_text(&self, out: &mut Vec<u8>, span: Span) {
        match self.quoted(span) {
            Some(string) => out.extend_from_slice(string),
            None => write_json_string(out, self.text(span)),
        }
    }

    /// A text with the quotes around it, if it stands so in the record. Numbers and containers do not; what was unescaped or
    /// repaired lies elsewhere, where the bytes beside it are another's.
    #[inline]
    fn quoted(&self, span: Span) -> Option<&'a [u8]> {
        let record = self.row.raw;
        if span.is_empty() || !span.is_within(record) || span.start() == record.start() {
            return None;
        }
        let end = span.start() + span.len() + 1;
        let string = self.body.get(span.start() - 1..end).filter(|_| end <= record.start() + record.len())?;
        (string.first() == Some(&b'"') && string.last() == Some(&b'"')).then_some(string)
    }

    /// An owned copy of this line alone.
    #[must_use]
    pub fn to_entry(&self) -> LogEntry {
        let mut bytes = Vec::with_capacity(self.row.raw.len() + self.row.bytes_apart());
        let row = move_row(*self.row, self.body, self.arena, &mut bytes);
        LogEntry { bytes: bytes.into_boxed_slice(), row, origin: self.origin }
    }
}

/// Writes what the drain gave lines, and keeps what those of one batch have alike: to write a time of receipt anew costs as much as
/// half of the entry.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// Whose epoch and time of receipt `front` and `behind` hold.
    of: Option<(u64, Timestamp)>,
    time: String,
    /// What stands before the line's number, and what behind its id.
    front: Piece<FRONT_MAX>,
    behind: Piece<BEHIND_MAX>,
}

/// A text of at most `N` bytes that is put as `N`: no call for what is a few moves.
#[derive(Debug)]
struct Piece<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Piece<N> {
    fn new(text: &str) -> Self {
        let (mut bytes, len) = ([0; N], text.len());
        bytes[..len].copy_from_slice(text.as_bytes());
        Self { bytes, len }
    }

    /// Puts it at `at`, where `N` bytes have room, and gives where it ends: behind that may stand anything.
    #[inline]
    fn put(&self, out: &mut [u8], at: usize) -> usize {
        out[at..at + N].copy_from_slice(&self.bytes);
        at + self.len
    }
}

impl<const N: usize> Default for Piece<N> {
    fn default() -> Self {
        Self::new("")
    }
}

/// Room for the text before an id, with its epoch.
const FRONT_MAX: usize = 32;
/// Room for what an id has of its line: three numbers in hex, and a byte behind each.
const OWN_MAX: usize = 3 * (HEX_MAX + 1);
/// Room for the text behind an id, with the time.
const BEHIND_MAX: usize = 80;
/// Room for what stands before the members.
const BEFORE_MAX: usize = 16;
/// Room for all of them.
const MEMBERS_MAX: usize = BEFORE_MAX + FRONT_MAX + OWN_MAX + BEHIND_MAX + DECIMAL_MAX;

impl Clock {
    /// Appends a time.
    #[cfg(feature = "sinks")]
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, at: Timestamp) {
        // Of any epoch: members of the same line may be written, too.
        if self.of.is_none_or(|(_, of)| of != at) {
            self.set((0, at));
        }
        out.extend_from_slice(self.time.as_bytes());
    }

    /// Appends `before` and the members `id`, `received_at` and `machine_seq`. Made where it stays, and its length told once: a copy
    /// of what was just written in pieces would wait for them.
    fn write_members<const N: usize>(&mut self, out: &mut Vec<u8>, before: &[u8; N], origin: Origin, machine: &[u8]) {
        const { assert!(N <= BEFORE_MAX) }
        self.set((origin.epoch, origin.received_at));
        let id = origin.id(machine);
        let start = out.len();
        out.extend_from_slice(&[0; MEMBERS_MAX]);
        let members = &mut out[start..];
        members[..N].copy_from_slice(before);
        let mut end = self.front.put(members, N);
        for (number, behind) in [(id.line, b'-'), (id.machine_seq, b'-'), (id.machine.into(), b'"')] {
            end = put_hex(members, end, number);
            members[end] = behind;
            end += 1;
        }
        end = self.behind.put(members, end);
        match shown_seq(origin.machine_seq) {
            Some(seq) => end = put_decimal(members, end, seq),
            None => {
                members[end..end + 4].copy_from_slice(b"null");
                end += 4;
            }
        }
        out.truncate(start + end);
    }

    fn set(&mut self, of: (u64, Timestamp)) {
        if self.of != Some(of) {
            let (epoch, at) = of;
            (self.of, self.time) = (Some(of), at.to_string());
            self.front = Piece::new(&format!("\"id\":\"{epoch:x}-"));
            self.behind = Piece::new(&format!(",\"received_at\":\"{}\",\"machine_seq\":", self.time));
        }
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn write_json_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a Vec takes any write, and a str is always a JSON string");
}

/// One parsed record, owned: `Clone + Send + Sync + 'static`, one allocation, outside the byte budget.
///
/// The counterpart of the Python module's `LogEntry`. The fields and where they come from are in the crate's record rules.
#[derive(Clone)]
pub struct LogEntry {
    bytes: Box<[u8]>,
    row: Row,
    origin: Option<Origin>,
}

macro_rules! owned_accessors {
    ($($(#[$doc:meta])* $name:ident -> $type:ty;)*) => {
        impl LogEntry {
            $($(#[$doc])* #[must_use] pub fn $name(&self) -> $type { self.view().$name() })*
        }
    };
}

owned_accessors! {
    /// The Machine's id; never empty, at most 128 bytes.
    machine_id -> &str;
    /// The line itself; an object or array that was sent as `message` is its JSON text as sent.
    message -> &str;
    /// `stdout`, `stderr`, `system`, or what the sender called it.
    stream -> &str;
    /// The record's own time as sent, or `""`.
    timestamp -> &str;
    /// The app's name, or `""`.
    app_name -> &str;
    /// The region's code, or `""`.
    region -> &str;
    /// Fly's host, or `""`.
    host -> &str;
    /// The level as sent, or `""`.
    level -> &str;
    /// The record as sent, byte for byte.
    raw -> &[u8];
    /// The line's id; `None` for what was parsed but never pushed.
    id -> Option<EntryId>;
    /// When the drain had received it; `None` for what was parsed but never pushed.
    received_at -> Option<Timestamp>;
    /// 1, 2, 3… per machine while it is known to this process; `None` for what a spool kept from before, and for what was parsed
    /// but never pushed.
    machine_seq -> Option<u64>;
}

impl LogEntry {
    /// The same entry, borrowed.
    #[must_use]
    pub fn view(&self) -> EntryView<'_> {
        EntryView { body: &self.bytes, arena: &[], row: &self.row, origin: self.origin }
    }
}

/// By what it tells, whatever batch it was in.
impl PartialEq for LogEntry {
    fn eq(&self, other: &Self) -> bool {
        let told = |entry: &Self| (entry.id(), entry.received_at(), entry.machine_seq());
        told(self) == told(other) && self.raw() == other.raw() && self.view().texts() == other.view().texts()
    }
}

impl Eq for LogEntry {}

impl fmt::Debug for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogEntry")
            .field("machine_id", &self.machine_id())
            .field("message", &self.message())
            .field("stream", &self.stream())
            .field("timestamp", &self.timestamp())
            .field("app_name", &self.app_name())
            .field("region", &self.region())
            .field("machine_seq", &self.machine_seq())
            .finish_non_exhaustive()
    }
}

impl Serialize for LogEntry {
    /// The keys of [`EntryView::write_json`] without `raw`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("machine_id", self.machine_id())?;
        map.serialize_entry("message", self.message())?;
        map.serialize_entry("stream", self.stream())?;
        map.serialize_entry("timestamp", self.timestamp())?;
        map.serialize_entry("app_name", self.app_name())?;
        map.serialize_entry("region", self.region())?;
        map.serialize_entry("host", self.host())?;
        map.serialize_entry("level", self.level())?;
        if let Some(origin) = &self.origin {
            map.serialize_entry("id", &format_args!("{}", origin.id(self.machine_id().as_bytes())))?;
            map.serialize_entry("received_at", &format_args!("{}", origin.received_at))?;
            map.serialize_entry("machine_seq", &self.machine_seq())?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[cfg(feature = "sinks")]
    #[test]
    fn a_time_is_made_once_for_lines_that_have_it_written_twice() {
        let origin = Origin { epoch: 7, line: 1, machine_seq: 2, mark: None, received_at: Timestamp::UNIX_EPOCH };
        let (mut clock, mut out) = (Clock::default(), Vec::new());
        clock.write_members(&mut out, b"", origin, b"m");
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\"received_at\":\"1970-01-01T00:00:00Z\""), "{text}");
        let (kept, mut out) = (clock.of, Vec::new());
        clock.write(&mut out, origin.received_at);
        assert_eq!((clock.of, out.as_slice()), (kept, &b"1970-01-01T00:00:00Z"[..]));
        let mut out = Vec::new();
        clock.write(&mut out, Timestamp::MAX);
        assert_eq!(String::from_utf8(out).unwrap(), Timestamp::MAX.to_string());
        let mut out = Vec::new();
        clock.write_members(&mut out, b"", origin, b"m");
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    #[test]
    fn the_longest_members_have_room() {
        let (last, line) =
            (Timestamp::from_nanosecond(Timestamp::MIN.as_nanosecond() + 999_999_999).unwrap(), u64::MAX);
        let origin = Origin { epoch: u64::MAX >> 1, line, machine_seq: u64::MAX - 1, mark: None, received_at: last };
        let mut out = Vec::new();
        Clock::default().write_members(&mut out, &[b' '; BEFORE_MAX], origin, b"m");
        let (id, seq) = (origin.id(b"m"), shown_seq(origin.machine_seq).unwrap());
        let expected = format!("\"id\":\"{id}\",\"received_at\":\"{last}\",\"machine_seq\":{seq}");
        assert_eq!(String::from_utf8(out).unwrap(), " ".repeat(BEFORE_MAX) + &expected);
    }

    proptest! {
        #[test]
        fn ids_are_written_as_the_formatter_shows_them(shift in 0..64_u32, any: u64) {
            let number = any >> shift;
            let id = EntryId { epoch: any, line: number, machine_seq: shift.into(), machine: number as u32 };
            let mut out = Vec::new();
            id.write(&mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), id.to_string());
        }
    }
}
