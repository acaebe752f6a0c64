//! The seed's field rules, once, for whoever finds the values: the scanner and the shapes.
//!
//! A finder reports each value of a key that [`Level::locate`] knows; a later one of the same key takes the place of an earlier
//! one with all that lay inside it. [`Found::row`] then takes the first that fits of each field's list.

use std::{ops::Range, str};

use super::text;
use crate::batch::{Kind, Row, Span};

/// The longest id that names a machine, in bytes (contract, section 2).
const MACHINE_BYTES_MAX: usize = 128;

/// A value that some field may be taken from. What lies inside an object stands before it, so that a repeated key clears a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Slot {
    FlyAppInstance,
    FlyAppName,
    FlyMachineId,
    FlyRegion,
    LogLevel,
    Log,
    EventProvider,
    Instance,
    MachineId,
    Message,
    Msg,
    Stream,
    Timestamp,
    Time,
    Ts,
    Dt,
    Host,
    Level,
    Source,
}

const SLOTS: usize = Slot::Source as usize + 1;

const MACHINE: [Slot; 4] = [Slot::FlyAppInstance, Slot::FlyMachineId, Slot::Instance, Slot::MachineId];
const MESSAGE: [Slot; 3] = [Slot::Message, Slot::Log, Slot::Msg];
const TIMESTAMP: [Slot; 4] = [Slot::Timestamp, Slot::Time, Slot::Ts, Slot::Dt];
const LEVEL: [Slot; 2] = [Slot::LogLevel, Slot::Level];

impl Slot {
    /// Whether some rule takes an object or array from here.
    pub(super) fn takes_containers(self) -> bool {
        self == Self::Message
    }
}

/// An object whose keys matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Record,
    Fly,
    FlyApp,
    FlyMachine,
    Log,
    Event,
}

/// What a key means where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The slot of its value.
    pub(super) slot: Option<Slot>,
    /// The meaning of its value's keys, if that is an object.
    pub(super) inside: Option<Level>,
    first: u8,
    last: u8,
}

impl Place {
    fn value(slot: Slot) -> Option<Self> {
        Some(Self { slot: Some(slot), inside: None, first: slot as u8, last: slot as u8 })
    }

    fn object(inside: Level, slot: Option<Slot>, first: Slot, last: Slot) -> Option<Self> {
        Some(Self { slot, inside: Some(inside), first: first as u8, last: last as u8 })
    }

    /// The slots that a new value of this key empties.
    fn slots(self) -> Range<usize> {
        usize::from(self.first)..usize::from(self.last) + 1
    }
}

impl Level {
    /// What `key` (unescaped) means in an object of this level.
    pub(super) fn locate(self, key: &[u8]) -> Option<Place> {
        match self {
            Self::Record => locate_in_record(key),
            Self::Fly => match key {
                b"app" => Place::object(Self::FlyApp, None, Slot::FlyAppInstance, Slot::FlyAppName),
                b"machine" => Place::object(Self::FlyMachine, None, Slot::FlyMachineId, Slot::FlyMachineId),
                b"region" => Place::value(Slot::FlyRegion),
                _ => None,
            },
            Self::FlyApp => match key {
                b"instance" => Place::value(Slot::FlyAppInstance),
                b"name" => Place::value(Slot::FlyAppName),
                _ => None,
            },
            Self::FlyMachine if key == b"id" => Place::value(Slot::FlyMachineId),
            Self::Log if key == b"level" => Place::value(Slot::LogLevel),
            Self::Event if key == b"provider" => Place::value(Slot::EventProvider),
            Self::FlyMachine | Self::Log | Self::Event => None,
        }
    }
}

fn locate_in_record(key: &[u8]) -> Option<Place> {
    match key {
        b"fly" => Place::object(Level::Fly, None, Slot::FlyAppInstance, Slot::FlyRegion),
        b"log" => Place::object(Level::Log, Some(Slot::Log), Slot::LogLevel, Slot::Log),
        b"event" => Place::object(Level::Event, None, Slot::EventProvider, Slot::EventProvider),
        b"instance" => Place::value(Slot::Instance),
        b"machine_id" => Place::value(Slot::MachineId),
        b"message" => Place::value(Slot::Message),
        b"msg" => Place::value(Slot::Msg),
        b"stream" => Place::value(Slot::Stream),
        b"timestamp" => Place::value(Slot::Timestamp),
        b"time" => Place::value(Slot::Time),
        b"ts" => Place::value(Slot::Ts),
        b"dt" => Place::value(Slot::Dt),
        b"host" => Place::value(Slot::Host),
        b"level" => Place::value(Slot::Level),
        b"source" => Place::value(Slot::Source),
        _ => None,
    }
}

/// What kind of value a slot holds. Falsy values never fit, so they are as good as absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Absent,
    /// A string without escapes.
    Plain,
    /// A string with escapes.
    Escaped,
    Number,
    True,
    /// A non-empty object or array.
    Container,
}

/// A value and its place in the body: of a string what lies between the quotes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Value {
    sort: Sort,
    start: u32,
    len: u32,
}

impl Value {
    /// A string, as good as absent if it is empty.
    pub(super) fn string(start: usize, len: usize, escaped: bool) -> Self {
        match (len, escaped) {
            (0, _) => Self::of(Sort::Absent, start, 0),
            (_, false) => Self::of(Sort::Plain, start, len),
            (_, true) => Self::of(Sort::Escaped, start, len),
        }
    }

    /// A number of this text, as good as absent if it is any zero.
    pub(super) fn number(start: usize, digits: &[u8]) -> Self {
        let mantissa = digits.iter().take_while(|&&byte| !matches!(byte, b'e' | b'E'));
        if mantissa.clone().any(|byte| matches!(byte, b'1'..=b'9')) {
            Self::of(Sort::Number, start, digits.len())
        } else {
            Self::of(Sort::Absent, start, 0)
        }
    }

    pub(super) fn of(sort: Sort, start: usize, len: usize) -> Self {
        Self { sort, start: start as u32, len: len as u32 }
    }

    fn is_string(self) -> bool {
        matches!(self.sort, Sort::Plain | Sort::Escaped)
    }

    fn is_string_or_number(self) -> bool {
        self.is_string() || self.sort == Sort::Number
    }
}

/// Where the text of found values is.
pub(super) struct Texts<'a> {
    pub(super) body: &'a [u8],
    /// Whether the record is known to be valid UTF-8.
    pub(super) valid: bool,
}

impl Texts<'_> {
    /// A span of valid UTF-8: of the body where the text can be used as it stands there, else of the arena.
    #[inline]
    fn span(&self, value: Value, arena: &mut Vec<u8>) -> Span {
        match value.sort {
            Sort::Absent => Span::EMPTY,
            Sort::Escaped => self.unescaped(value, arena),
            _ if self.valid => Span::body(value.start as usize, value.len as usize),
            _ => self.repaired(value, arena),
        }
    }

    fn unescaped(&self, value: Value, arena: &mut Vec<u8>) -> Span {
        let from = arena.len();
        text::unescape(self.source(value), self.valid, arena);
        Span::arena(from, arena.len() - from)
    }

    fn repaired(&self, value: Value, arena: &mut Vec<u8>) -> Span {
        let source = self.source(value);
        if str::from_utf8(source).is_ok() {
            return Span::body(value.start as usize, source.len());
        }
        let from = arena.len();
        text::push_repaired(source, arena);
        Span::arena(from, arena.len() - from)
    }

    fn source(&self, value: Value) -> &[u8] {
        &self.body[value.start as usize..][..value.len as usize]
    }
}

/// The values of one record that some rule may want.
#[derive(Debug, Default)]
pub(super) struct Found([Value; SLOTS]);

impl Found {
    pub(super) fn clear(&mut self) {
        self.0 = [Value::default(); SLOTS];
    }

    /// Forgets what an earlier value of the same key had brought.
    pub(super) fn forget(&mut self, place: Place) {
        self.0[place.slots()].fill(Value::default());
    }

    pub(super) fn set(&mut self, slot: Slot, value: Value) {
        self.0[slot as usize] = value;
    }

    /// Whether some value is neither string nor number, so that it is part of the record's shape.
    pub(super) fn has_fixed(&self) -> bool {
        self.0.iter().any(|value| matches!(value.sort, Sort::True | Sort::Container))
    }

    /// Whether the slot's value, fit or not, is the string or number that begins at `start`.
    pub(super) fn stands_at(&self, slot: Slot, start: usize) -> bool {
        self.get(slot).start as usize == start
    }

    fn get(&self, slot: Slot) -> Value {
        self.0[slot as usize]
    }

    fn first(&self, slots: &[Slot], fits: impl Fn(Value) -> bool) -> Value {
        slots.iter().map(|&slot| self.get(slot)).find(|&value| fits(value)).unwrap_or_default()
    }

    /// The row of the record at `raw`; none if nothing in it names a machine.
    pub(super) fn row(&self, texts: &Texts<'_>, raw: Span, arena: &mut Vec<u8>) -> Option<Row> {
        let machine = self.machine(texts, arena)?;
        let (kind, stream) = self.stream(texts, arena);
        let mut text = |value| texts.span(value, arena);
        Some(Row {
            raw,
            machine,
            message: text(self.first(&MESSAGE, |value| value.sort != Sort::Absent)),
            stream,
            timestamp: text(self.first(&TIMESTAMP, Value::is_string_or_number)),
            app: text(self.first(&[Slot::FlyAppName], Value::is_string)),
            region: text(self.first(&[Slot::FlyRegion], Value::is_string)),
            host: text(self.first(&[Slot::Host], Value::is_string)),
            level: text(self.first(&LEVEL, Value::is_string)),
            ordinal: 0,
            rank: 0,
            kind,
        })
    }

    fn machine(&self, texts: &Texts<'_>, arena: &mut Vec<u8>) -> Option<Span> {
        MACHINE.iter().map(|&slot| self.get(slot)).filter(|&value| value.is_string_or_number()).find_map(|value| {
            let before = arena.len();
            let span = texts.span(value, arena);
            if span.len() <= MACHINE_BYTES_MAX {
                return Some(span);
            }
            arena.truncate(before);
            None
        })
    }

    /// The stream's kind, and its own name if it is of the sender's naming.
    fn stream(&self, texts: &Texts<'_>, arena: &mut Vec<u8>) -> (Kind, Span) {
        let before = arena.len();
        let mut text = |slot| {
            let value = self.first(&[slot], Value::is_string);
            let span = texts.span(value, arena);
            (span, Kind::of(span.of(texts.body, arena)), is_platform(slot, span.of(texts.body, arena)))
        };
        let (span, kind, _) = text(Slot::Stream);
        if kind == Kind::Other && !span.is_empty() {
            return (kind, span);
        }
        let kind = match span.is_empty() {
            false => kind,
            true if text(Slot::Source).2 || text(Slot::EventProvider).2 => Kind::System,
            true => Kind::Stdout,
        };
        arena.truncate(before);
        (kind, Span::EMPTY)
    }
}

/// Whether the value of `source` or `event.provider` says that the platform wrote the line, not the app.
fn is_platform(slot: Slot, text: &[u8]) -> bool {
    match slot {
        Slot::Source => matches!(text, b"fly" | b"proxy" | b"machine"),
        Slot::EventProvider => !matches!(text, b"" | b"app"),
        _ => false,
    }
}
