//! How a line is written for a store.

use serde::Deserialize;

use super::member::FLEETDRAIN;
use crate::batch::{Clock, EntryView, Sent};

/// About what [`Encoding::Raw`] adds to a record.
pub(super) const NOTE_BYTES: usize = 144;

/// What stands between a record's members and what the drain knows of it.
const OPENS: &[u8; 15] = b",\"fleetdrain\":{";

/// The form of each line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Encoding {
    /// The record as sent, with one member more at its end: `"fleetdrain":{"id":…,"received_at":…,"machine_seq":…}`, so that any
    /// store can tell by a query whether it has everything. What another drain has noted so is its member `before`.
    #[default]
    Raw,
    /// The entry as readers get it.
    Entry,
}

impl Encoding {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Entry => "entry",
        }
    }

    /// Appends one line as one JSON object, without a newline.
    pub(crate) fn write(self, entry: &EntryView<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
        match self {
            Self::Raw => write_noted(entry, clock, out),
            Self::Entry => entry.write_json_by(clock, out, false),
        }
    }
}

fn write_noted(entry: &EntryView<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(entry.raw().len() + NOTE_BYTES);
    entry.write_raw(out);
    if entry.line().is_none() {
        return;
    }
    let before = match entry.row.sent {
        Sent::Ready => None,
        Sent::Utf8 | Sent::Any => FLEETDRAIN.take(entry.raw(), out, start),
    };
    // Behind another member: it has a machine's id.
    out.pop();
    entry.write_given(clock, out, OPENS);
    if let Some(before) = before {
        out.extend_from_slice(b",\"before\":");
        out.extend_from_slice(&before);
    }
    out.extend_from_slice(b"}}");
}
