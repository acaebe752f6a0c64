//! The stores, and each one's wire form.
//!
//! Bodies are written by hand into one buffer: a tree of values would cost more than all else of a delivery.

mod datadog;
mod elasticsearch;
mod loki;
mod otlp;
mod rows;

use std::{hash::Hash, time::Duration};

use hashbrown::HashMap;
use jiff::Timestamp;
use serde::Deserialize;

pub(super) use self::elasticsearch::IndexName;
use super::{settings::Compression, time};
use crate::{
    batch::{Clock, EntryView, write_decimal, write_json_string},
    sink::{
        Encoding, Parcel, ParcelBounds,
        member::{AT_TIMESTAMP, DT, Member, TIME},
    },
};

/// Which store it is, and with that the form of a body, where it goes and what an answer means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// A JSON object a line.
    #[default]
    Ndjson,
    /// One JSON array of objects.
    Array,
    Axiom,
    BetterStack,
    #[serde(rename = "clickhouse")]
    ClickHouse,
    Datadog,
    /// Elasticsearch, OpenSearch and what speaks their bulk API.
    Elasticsearch,
    Fleetdrain,
    Loki,
    Otlp,
    #[serde(rename = "victorialogs")]
    VictoriaLogs,
}

impl Format {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Array | Self::Datadog | Self::Loki | Self::Otlp => "application/json",
            _ => "application/x-ndjson",
        }
    }

    /// Where the store is, for those that have one place for all.
    pub(super) fn default_url(self) -> Option<&'static str> {
        match self {
            Self::Axiom => Some("https://api.axiom.co"),
            Self::Datadog => Some("https://http-intake.logs.datadoghq.com"),
            _ => None,
        }
    }

    /// Traffic between machines of one network costs less than compression; traffic to a vendor does not.
    pub(super) fn default_compression(self) -> Compression {
        match self {
            Self::Axiom | Self::BetterStack | Self::Datadog => Compression::Gzip,
            _ => Compression::None,
        }
    }

    /// As each store's documentation has it.
    pub(super) fn takes(self, compression: Compression) -> bool {
        let no_zstd = matches!(self, Self::BetterStack | Self::Datadog | Self::Elasticsearch | Self::Loki);
        compression != Compression::Zstd || !no_zstd
    }

    pub(super) fn parcel_defaults(self) -> ParcelBounds {
        let bounds = ParcelBounds::default();
        match self {
            // At most 1,000 entries and 5 MB, and the record is sent beside its message.
            Self::Datadog => ParcelBounds { lines: 1_000, ..bounds },
            // Each insert makes a part that has to be merged.
            Self::ClickHouse => ParcelBounds { lines: 100_000, bytes: 8 << 20, age: Duration::from_secs(5) },
            Self::Elasticsearch => ParcelBounds { bytes: 4 << 20, ..bounds },
            _ => bounds,
        }
    }

    /// The member that tells a line's time, of those that have one beside what [`Encoding::write`] has.
    fn time_member(self) -> Option<&'static Member> {
        match self {
            Self::Axiom | Self::VictoriaLogs => Some(&TIME),
            Self::BetterStack => Some(&DT),
            Self::Elasticsearch => Some(&AT_TIMESTAMP),
            _ => None,
        }
    }
}

/// All that a body depends on beside its lines.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub(super) format: Format,
    pub(super) encoding: Encoding,
    /// Elasticsearch: where each line names its index.
    pub(super) index: Option<IndexName>,
}

impl Form {
    /// Room for a body of `parcel` that need not grow.
    pub(super) fn size_hint(&self, parcel: &Parcel) -> usize {
        let (times, each) = match self.format {
            Format::Ndjson | Format::Array | Format::Fleetdrain => (1, 160),
            Format::Axiom | Format::BetterStack | Format::VictoriaLogs => (1, 200),
            Format::Elasticsearch => (1, 320),
            Format::Loki | Format::Datadog | Format::ClickHouse => (2, 400),
            Format::Otlp => (2, 700),
        };
        usize::try_from(parcel.bytes()).unwrap_or(0) * times + parcel.lines() * each + 64
    }

    /// Appends the body.
    pub(super) fn write(&self, parcel: &Parcel, out: &mut Vec<u8>) {
        match self.format {
            Format::Ndjson | Format::Fleetdrain => rows::lines(self.encoding, parcel, out),
            Format::Array => rows::array(self.encoding, parcel, out),
            Format::Axiom | Format::BetterStack | Format::VictoriaLogs => self.timed_lines(parcel, out),
            Format::ClickHouse => rows::columns(self.encoding, parcel, out),
            Format::Datadog => datadog::write(self.encoding, parcel, out),
            Format::Elasticsearch => elasticsearch::write(self, parcel, out),
            Format::Loki => loki::write(self.encoding, parcel, out),
            Format::Otlp => otlp::write(self.encoding, parcel, out),
        }
    }

    /// A body that holds nothing.
    pub(super) fn nothing(&self) -> &'static [u8] {
        match self.format {
            Format::Array | Format::Datadog => b"[]",
            Format::Loki => br#"{"streams":[]}"#,
            Format::Otlp => br#"{"resourceLogs":[]}"#,
            _ => b"",
        }
    }

    fn timed_lines(&self, parcel: &Parcel, out: &mut Vec<u8>) {
        let mut clock = Clock::default();
        for entry in parcel.entries() {
            self.timed_line(&entry, &mut clock, out);
            out.push(b'\n');
        }
    }

    /// A line with its time under the name that the store looks for: the record's own where it can be read, else when it was
    /// received. A store that cannot read a time drops the line, or gives it the time at which it came. What the record has under that
    /// name gives way.
    fn timed_line(&self, entry: &EntryView<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
        let start = out.len();
        self.encoding.write(entry, clock, out);
        let Some(member) = self.format.time_member() else { return };
        member.take(entry.raw(), out, start);
        member.begin(out);
        write_time(time::of(entry), out);
        out.push(b'}');
    }
}

/// Appends RFC 3339 as a JSON string.
fn write_time(time: Timestamp, out: &mut Vec<u8>) {
    use std::io::Write;
    let _ = write!(out, "\"{time}\"");
}

/// Appends `,"key":"text"`, or nothing where there is no text.
fn member(key: &str, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(b"\":");
        write_json_string(out, text);
    }
}

/// Appends a nanosecond count, or another number, as a JSON string.
fn quoted_number(number: u64, out: &mut Vec<u8>) {
    out.push(b'"');
    write_decimal(out, number);
    out.push(b'"');
}

/// Appends an entry's id as a JSON string.
fn quoted_id(entry: &EntryView<'_>, out: &mut Vec<u8>) {
    out.push(b'"');
    if let Some(id) = entry.id() {
        id.write(out);
    }
    out.push(b'"');
}

/// Appends the time of receipt as a JSON string.
fn quoted_receipt(entry: &EntryView<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
    out.push(b'"');
    if let Some(at) = entry.received_at() {
        clock.write(out, at);
    }
    out.push(b'"');
}

/// Appends the number of the line within its machine's, or `null`.
fn sequence(entry: &EntryView<'_>, out: &mut Vec<u8>) {
    match entry.machine_seq() {
        Some(seq) => write_decimal(out, seq),
        None => out.extend_from_slice(b"null"),
    }
}

/// Lines that have the same key, keys in order of first sight and lines in theirs.
fn grouped<'a, K: Copy + Eq + Hash>(
    parcel: &'a Parcel,
    key: impl Fn(&EntryView<'a>) -> K,
) -> Vec<(K, Vec<EntryView<'a>>)> {
    let mut places: HashMap<K, usize> = HashMap::new();
    let mut groups: Vec<(K, Vec<EntryView<'a>>)> = Vec::new();
    for entry in parcel.entries() {
        let key = key(&entry);
        let place = *places.entry(key).or_insert_with(|| {
            groups.push((key, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(entry);
    }
    groups
}

#[cfg(test)]
mod tests;
