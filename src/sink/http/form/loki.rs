//! Loki's push API: `POST /loki/api/v1/push`.
//!
//! A set of labels is a stream, and each costs Loki an index entry and an open chunk: only what has few values is a label. The
//! machine, and all that tells one line from another, is structured metadata (Loki 2.9, and on by default since 3.0).

use super::{grouped, quoted_id, quoted_number, quoted_receipt};
use crate::{
    batch::{Clock, EntryView, write_json_string},
    sink::{
        Encoding, Parcel,
        http::time::{self, Severity},
    },
};

type Labels<'a> = (&'a str, &'a str, Option<Severity>);

pub(super) fn write(encoding: Encoding, parcel: &Parcel, out: &mut Vec<u8>) {
    let mut clock = Clock::default();
    let mut line = Vec::new();
    let groups = grouped(parcel, |entry| (entry.app_name(), entry.region(), Severity::of(entry.level())));
    let mut before: &[u8] = b"{\"streams\":[";
    for (labels, mut entries) in groups {
        // In order of time: an older Loki takes no other, and a newer one has less to sort.
        entries.sort_by_cached_key(time::of);
        out.extend_from_slice(before);
        write_labels(labels, out);
        out.extend_from_slice(b",\"values\":");
        let mut first = b'[';
        for entry in &entries {
            out.push(first);
            write_value(encoding, entry, &mut clock, &mut line, out);
            first = b',';
        }
        out.extend_from_slice(b"]}");
        before = b",";
    }
    out.extend_from_slice(b"]}");
}

/// Loki wants one label at least; an empty one is as good as none.
fn write_labels((app, region, level): Labels<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"stream\":{\"app\":");
    write_json_string(out, if app.is_empty() { "unknown" } else { app });
    super::member("region", region, out);
    super::member("level", level.map_or("", Severity::name), out);
    out.push(b'}');
}

/// `["nanoseconds","line",{metadata}]`; every value of the metadata is a string.
fn write_value(encoding: Encoding, entry: &EntryView<'_>, clock: &mut Clock, line: &mut Vec<u8>, out: &mut Vec<u8>) {
    out.push(b'[');
    quoted_number(time::nanos(time::of(entry)), out);
    out.push(b',');
    match encoding {
        Encoding::Entry => write_json_string(out, entry.message()),
        Encoding::Raw => {
            line.clear();
            encoding.write(entry, clock, line);
            write_json_string(out, &String::from_utf8_lossy(line));
        }
    }
    out.extend_from_slice(b",{\"id\":");
    quoted_id(entry, out);
    if let Some(seq) = entry.machine_seq() {
        out.extend_from_slice(b",\"machine_seq\":");
        quoted_number(seq, out);
    }
    out.extend_from_slice(b",\"received_at\":");
    quoted_receipt(entry, clock, out);
    super::member("machine_id", entry.machine_id(), out);
    super::member("stream", entry.stream(), out);
    super::member("host", entry.host(), out);
    if Severity::of(entry.level()).is_none() {
        super::member("level_sent", entry.level(), out);
    }
    out.extend_from_slice(b"}]");
}
