//! The seed's field rules, once, for whoever finds the values: the scanner and the shapes.
//!
//! A finder reports each value of a key that [`Level::locate`] knows; a later one of the same key takes the place of an earlier
//! one with all that lay inside it. [`Found::row`] then takes the first that fits of each field's list.

use std::{ops::Range, str};

use super::{boot::is_boot_line, text};
use crate::batch::{Kind, Row, Sent, Span};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
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
///
/// One word of 3 bits sort, 31 bits start, 30 bits length: as three fields it was stored in pieces and read back whole, and the
/// processor waited longer for that than all the rest of a value takes. No value of a record that is kept is longer; see
/// [`super::forms`]' room for the arena.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Value(u64);

impl Value {
    const LEN_BITS: u32 = 30;
    const SORT_SHIFT: u32 = 61;
    const LEN_MASK: u64 = (1 << Self::LEN_BITS) - 1;
    const START_MASK: u64 = (1 << (Self::SORT_SHIFT - Self::LEN_BITS)) - 1;

    /// A string, as good as absent if it is empty.
    #[inline]
    pub(super) fn string(start: usize, len: usize, escaped: bool) -> Self {
        let sort = if escaped { Sort::Escaped } else { Sort::Plain };
        Self::of(if len == 0 { Sort::Absent } else { sort }, start, len)
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

    #[inline]
    pub(super) fn of(sort: Sort, start: usize, len: usize) -> Self {
        let (start, len) = (start as u64 & Self::START_MASK, len as u64 & Self::LEN_MASK);
        Self((sort as u64) << Self::SORT_SHIFT | start << Self::LEN_BITS | len)
    }

    fn start(self) -> usize {
        (self.0 >> Self::LEN_BITS & Self::START_MASK) as usize
    }

    fn len(self) -> usize {
        (self.0 & Self::LEN_MASK) as usize
    }

    fn is(self, sort: Sort) -> bool {
        self.0 >> Self::SORT_SHIFT == sort as u64
    }

    fn is_present(self) -> bool {
        !self.is(Sort::Absent)
    }

    fn is_string(self) -> bool {
        (Sort::Plain as u64..=Sort::Escaped as u64).contains(&(self.0 >> Self::SORT_SHIFT))
    }

    fn is_string_or_number(self) -> bool {
        (Sort::Plain as u64..=Sort::Number as u64).contains(&(self.0 >> Self::SORT_SHIFT))
    }
}

/// Where the text of found values is.
pub(super) struct Texts<'a> {
    pub(super) body: &'a [u8],
    pub(super) sent: Sent,
}

impl Texts<'_> {
    /// A span of valid UTF-8: of the body where the text can be used as it stands there, else of the arena.
    #[inline]
    fn span(&self, value: Value, arena: &mut Vec<u8>) -> Span {
        if self.sent.is_utf8() && !value.is(Sort::Escaped) {
            return if value.is_present() { Span::body(value.start(), value.len()) } else { Span::EMPTY };
        }
        self.rewritten(value, arena)
    }

    #[inline(never)]
    fn rewritten(&self, value: Value, arena: &mut Vec<u8>) -> Span {
        let (source, from) = (self.source(value), arena.len());
        if value.is(Sort::Escaped) {
            text::unescape(source, self.sent.is_utf8(), arena);
        } else if str::from_utf8(source).is_ok() {
            return if value.is_present() { Span::body(value.start(), value.len()) } else { Span::EMPTY };
        } else {
            text::push_repaired(source, arena);
        }
        Span::arena(from, arena.len() - from)
    }

    /// What `read` makes of a value's text, which is not kept.
    fn peek<T>(&self, value: Value, arena: &mut Vec<u8>, read: impl FnOnce(&[u8]) -> T) -> T {
        let before = arena.len();
        let span = self.span(value, arena);
        let made = read(span.of(self.body, arena));
        arena.truncate(before);
        made
    }

    fn source(&self, value: Value) -> &[u8] {
        &self.body[value.start()..][..value.len()]
    }
}

/// The values of one record that some rule may want.
#[derive(Debug, Default)]
pub(super) struct Found {
    values: [Value; SLOTS],
    /// Whose values these are: of a shape with this number, or 0 of the scanner.
    owner: u64,
}

impl Found {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Makes room for the values of the shape of this number. It fills the same slots each time, so what it has left from the
    /// last time need not be cleared.
    #[inline]
    pub(super) fn belong_to(&mut self, shape: u64) {
        if self.owner != shape {
            self.clear();
            self.owner = shape;
        }
    }

    /// Forgets what an earlier value of the same key had brought.
    pub(super) fn forget(&mut self, place: Place) {
        self.values[place.slots()].fill(Value::default());
    }

    pub(super) fn set(&mut self, slot: Slot, value: Value) {
        self.values[slot as usize] = value;
    }

    /// Whether some value is neither string nor number, so that it is part of the record's shape.
    pub(super) fn has_fixed(&self) -> bool {
        self.values.iter().any(|value| value.is(Sort::True) || value.is(Sort::Container))
    }

    /// Whether the slot's value, fit or not, is the string or number that begins at `start`.
    pub(super) fn stands_at(&self, slot: Slot, start: usize) -> bool {
        self.get(slot).start() == start
    }

    fn get(&self, slot: Slot) -> Value {
        self.values[slot as usize]
    }

    #[inline]
    fn first(&self, slots: &[Slot], fits: impl Fn(Value) -> bool) -> Value {
        slots.iter().map(|&slot| self.get(slot)).find(|&value| fits(value)).unwrap_or_default()
    }

    /// The row of the record at `raw`; none if nothing in it names a machine. `boot_is_system`: a line that the platform wrote in the
    /// app's name is `system`.
    #[inline]
    pub(super) fn row(&self, texts: &Texts<'_>, raw: Span, boot_is_system: bool, arena: &mut Vec<u8>) -> Option<Row> {
        let machine = self.machine(texts, arena)?;
        let (mut kind, stream) = self.stream(texts, arena);
        let message = texts.span(self.first(&MESSAGE, Value::is_present), arena);
        if boot_is_system
            && kind == Kind::Stdout
            && is_boot_line(message.of(texts.body, arena))
            && self.is_apps(texts, arena)
        {
            kind = Kind::System;
        }
        let runner = kind == Kind::System && self.is_runners(texts, arena);
        let timestamp = texts.span(self.first(&TIMESTAMP, Value::is_string_or_number), arena);
        let app = texts.span(self.first(&[Slot::FlyAppName], Value::is_string), arena);
        let region = texts.span(self.first(&[Slot::FlyRegion], Value::is_string), arena);
        let host = texts.span(self.first(&[Slot::Host], Value::is_string), arena);
        let level = texts.span(self.first(&LEVEL, Value::is_string), arena);
        let (ordinal, group, rank) = (0, 0, 0);
        Some(Row {
            raw,
            machine,
            message,
            stream,
            timestamp,
            app,
            region,
            host,
            level,
            ordinal,
            group,
            rank,
            kind,
            runner,
            limited: false,
            sent: texts.sent,
        })
    }

    #[inline]
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

    /// Whether Fly says that the app wrote it, and the record itself does not name its stream.
    fn is_apps(&self, texts: &Texts<'_>, arena: &mut Vec<u8>) -> bool {
        !self.get(Slot::Stream).is_string() && self.is_provider(texts, b"app", arena)
    }

    /// Whether Fly's runner wrote it.
    #[inline(never)]
    fn is_runners(&self, texts: &Texts<'_>, arena: &mut Vec<u8>) -> bool {
        self.is_provider(texts, b"runner", arena)
    }

    fn is_provider(&self, texts: &Texts<'_>, name: &[u8], arena: &mut Vec<u8>) -> bool {
        let provider = self.get(Slot::EventProvider);
        provider.is_string() && texts.peek(provider, arena, |text| text == name)
    }

    /// The stream's kind, and its own name if it is of the sender's naming.
    fn stream(&self, texts: &Texts<'_>, arena: &mut Vec<u8>) -> (Kind, Span) {
        let own = self.get(Slot::Stream);
        if own.is_string() {
            return match texts.peek(own, arena, Kind::of) {
                Kind::Other => (Kind::Other, texts.span(own, arena)),
                kind => (kind, Span::EMPTY),
            };
        }
        let mut says_platform = |slot| {
            let value = self.get(slot);
            value.is_string() && texts.peek(value, arena, |text| is_platform(slot, text))
        };
        let platform = says_platform(Slot::Source) || says_platform(Slot::EventProvider);
        (if platform { Kind::System } else { Kind::Stdout }, Span::EMPTY)
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
