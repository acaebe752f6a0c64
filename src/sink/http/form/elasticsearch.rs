//! The bulk API of Elasticsearch and OpenSearch: `POST /INDEX/_bulk`.
//!
//! Lines are created under their own ids: one that came before is answered 409 and is there once.

use jiff::{Timestamp, tz::TimeZone};

use super::{Form, quoted_id};
use crate::{
    batch::{Clock, EntryView, write_json_string},
    sink::{Parcel, http::time},
};

/// The name of an index or data stream that depends on the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sink::http) struct IndexName(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    App,
    Region,
    Date,
}

impl IndexName {
    /// Reads `logs-{app}-{date}`; says what is wrong with it.
    pub(in crate::sink::http) fn read(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}').ok_or("a { without a }")?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(match name {
                "app" => Piece::App,
                "region" => Piece::Region,
                "date" => Piece::Date,
                _ => return Err(format!("{{{name}}} is none of {{app}}, {{region}} and {{date}}")),
            });
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        let allowed = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "-_.".contains(char);
        let texts = pieces.iter().filter_map(|piece| if let Piece::Text(text) = piece { Some(text) } else { None });
        let mut texts = texts.clone().flat_map(|text| text.chars());
        match texts.find(|char| !allowed(*char)) {
            Some(char) => Err(format!("{char:?}: an index is named by lower-case letters, digits, -, _ and .")),
            None if text.is_empty() || text.starts_with(['-', '_', '.', '+']) => {
                Err(format!("{text:?} is no name of an index"))
            }
            None => Ok(Self(pieces)),
        }
    }

    /// The name, where it is the same for all lines.
    pub(in crate::sink::http) fn constant(&self) -> Option<&str> {
        match &*self.0 {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    fn of(&self, entry: &EntryView<'_>, time: Timestamp) -> String {
        let mut name = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::App => push_part(entry.app_name(), &mut name),
                Piece::Region => push_part(entry.region(), &mut name),
                Piece::Date => name.push_str(&time.to_zoned(TimeZone::UTC).strftime("%Y.%m.%d").to_string()),
            }
        }
        name
    }
}

/// What a line says must not break the name, nor leave a hole in it.
pub(super) fn push_part(text: &str, name: &mut String) {
    let allowed = |char: char| if char.is_ascii_alphanumeric() || "-_.".contains(char) { char } else { '_' };
    let text = if text.is_empty() { "unknown" } else { text };
    name.extend(text.chars().take(64).map(|char| allowed(char).to_ascii_lowercase()));
}

pub(super) fn write(form: &Form, parcel: &Parcel, out: &mut Vec<u8>) {
    let mut clock = Clock::default();
    for entry in parcel.entries() {
        out.extend_from_slice(b"{\"create\":{\"_id\":");
        quoted_id(&entry, out);
        if let Some(index) = &form.index {
            out.extend_from_slice(b",\"_index\":");
            write_json_string(out, &index.of(&entry, time::of(&entry)));
        }
        out.extend_from_slice(b"}}\n");
        form.timed_line(&entry, &mut clock, out);
        out.push(b'\n');
    }
}
