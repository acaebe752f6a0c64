//! One entry of the loss journal, in memory and as a line of JSON.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::batch::EntryId;

/// Apps' names longer than this are cut.
const APP_BYTES_MAX: usize = 128;

/// Lines that were lost, as whoever gave them up tells it.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    /// Empty: nobody knows which.
    pub(crate) machine: String,
    pub(crate) app: String,
    /// `queue`, `spool`, `source:NAME` or `sink:NAME`.
    pub(crate) place: Cow<'static, str>,
    pub(crate) reason: &'static str,
    pub(crate) lines: u64,
    /// When the first and the last of them were given up.
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    /// The first and the last of them, if they are known.
    pub(crate) ids: Option<(EntryId, EntryId)>,
}

/// Lines lost of one machine, in one place, for one reason, in about ten seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    #[serde(with = "text")]
    pub(crate) from: Timestamp,
    #[serde(with = "text")]
    pub(crate) to: Timestamp,
    /// `None`: more than one, or nobody knows which.
    pub(crate) machine: Option<String>,
    pub(crate) app: Option<String>,
    #[serde(rename = "where")]
    pub(crate) place: Cow<'static, str>,
    pub(crate) reason: Cow<'static, str>,
    /// `None`: nobody knows how many.
    pub(crate) lines: Option<u64>,
    #[serde(with = "text_or_null")]
    pub(crate) first_id: Option<EntryId>,
    #[serde(with = "text_or_null")]
    pub(crate) last_id: Option<EntryId>,
    /// Of an unclean stop: acknowledged lines that nobody had read when the process was last known to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) undelivered: Option<u64>,
}

impl From<Loss> for Entry {
    fn from(loss: Loss) -> Self {
        let mut app = loss.app;
        app.truncate(app.floor_char_boundary(APP_BYTES_MAX));
        Self {
            from: loss.from,
            to: loss.to.max(loss.from),
            machine: Some(loss.machine).filter(|machine| !machine.is_empty()),
            app: Some(app).filter(|app| !app.is_empty()),
            place: loss.place,
            reason: loss.reason.into(),
            lines: Some(loss.lines),
            first_id: loss.ids.map(|(first, _)| first),
            last_id: loss.ids.map(|(_, last)| last),
            undelivered: None,
        }
    }
}

impl Entry {
    /// What a process that did not stop by itself may have cost.
    pub(super) fn of_unclean_stop(from: Timestamp, to: Timestamp, undelivered: Option<u64>) -> Self {
        Self {
            from: from.min(to),
            to,
            machine: None,
            app: None,
            place: "queue".into(),
            reason: "unclean_stop".into(),
            lines: None,
            first_id: None,
            last_id: None,
            undelivered,
        }
    }

    /// A time in which a source was not heard: nobody knows what it would have sent.
    pub(super) fn of_gap(place: &'static str, reason: &'static str, from: Timestamp, to: Timestamp) -> Self {
        Self { place: place.into(), reason: reason.into(), ..Self::of_unclean_stop(from, to, None) }
    }

    /// Adds what was lost of the same machine, place and reason.
    pub(super) fn add(&mut self, other: Self) {
        self.from = self.from.min(other.from);
        self.to = self.to.max(other.to);
        self.app = other.app.or_else(|| self.app.take());
        self.lines = self.lines.zip(other.lines).map(|(one, other)| one + other);
        let both = |one: Option<EntryId>, other: Option<EntryId>, pick: fn(EntryId, EntryId) -> EntryId| {
            one.zip(other).map_or(one.or(other), |(one, other)| Some(pick(one, other)))
        };
        self.first_id = both(self.first_id, other.first_id, |a, b| if b.line < a.line { b } else { a });
        self.last_id = both(self.last_id, other.last_id, |a, b| if b.line > a.line { b } else { a });
    }

    /// Takes away what `other`, which is part of this, has counted; `false` if nothing is left.
    pub(super) fn take_away(&mut self, other: &Self) -> bool {
        let left = self.lines.zip(other.lines).map(|(all, part)| all.saturating_sub(part));
        self.lines = left;
        left.is_some_and(|lines| lines > 0)
    }

    /// The same loss without saying whose.
    pub(super) fn of_any_machine(self) -> Self {
        Self { machine: None, app: None, first_id: None, last_id: None, ..self }
    }

    /// Whether `other` may be an earlier state of this entry.
    pub(super) fn covers(&self, other: &Self) -> bool {
        (&self.machine, &self.place, &self.reason) == (&other.machine, &other.place, &other.reason)
            && self.from <= other.from
            && self.to >= other.to
    }

    /// One line of JSON, with its line break.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("an entry has string keys, and a Vec takes any write");
        out.push(b'\n');
    }
}

/// What is written as `Display` shows it.
mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// As [`text`], or null.
mod text_or_null {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        Option::<String>::deserialize(deserializer)?.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
