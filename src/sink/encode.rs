//! How a line is written for a store.

use serde::Deserialize;

use crate::batch::{Clock, EntryView};

/// The form of each line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Encoding {
    /// The record as sent, with one member more at its end: `"fleetdrain":{"id":…,"received_at":…,"machine_seq":…}`, so that any
    /// store can tell by a query whether it has everything.
    #[default]
    Raw,
    /// The entry as readers get it.
    Entry,
}

impl Encoding {
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "`validate` shows it"))]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Entry => "entry",
        }
    }

    /// Appends one line as one JSON object, without a newline.
    pub(crate) fn write(self, entry: &EntryView<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
        match self {
            Self::Raw => entry.write_noted(clock, out),
            Self::Entry => entry.write_json_by(clock, out, false),
        }
    }
}
