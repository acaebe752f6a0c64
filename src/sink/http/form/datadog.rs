//! Datadog's logs intake: `POST /api/v2/logs`, an array of at most 1,000 logs and 5 MB.

use super::{member, quoted_id, quoted_receipt, sequence, write_time};
use crate::{
    batch::{Clock, EntryView, write_json_string},
    sink::{Encoding, Parcel, http::time},
};

pub(super) fn write(encoding: Encoding, parcel: &Parcel, out: &mut Vec<u8>) {
    let mut clock = Clock::default();
    let mut before = b'[';
    for entry in parcel.entries() {
        out.push(before);
        log(encoding, &entry, &mut clock, out);
        before = b',';
    }
    out.push(b']');
}

fn log(encoding: Encoding, entry: &EntryView<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"ddsource\":\"fly\",\"message\":");
    write_json_string(out, entry.message());
    member("service", entry.app_name(), out);
    member("hostname", entry.host(), out);
    member("status", entry.level(), out);
    out.extend_from_slice(b",\"timestamp\":");
    write_time(time::of(entry), out);
    out.extend_from_slice(b",\"ddtags\":");
    write_json_string(out, &tags(entry));
    member("stream", entry.stream(), out);
    out.extend_from_slice(b",\"fleetdrain\":{\"id\":");
    quoted_id(entry, out);
    out.extend_from_slice(b",\"received_at\":");
    quoted_receipt(entry, clock, out);
    out.extend_from_slice(b",\"machine_seq\":");
    sequence(entry, out);
    member("machine_id", entry.machine_id(), out);
    out.push(b'}');
    if encoding == Encoding::Raw {
        out.extend_from_slice(b",\"record\":");
        // With the note at its end once more, so that it is the same record that other stores get.
        encoding.write(entry, clock, out);
    }
    out.push(b'}');
}

/// `app:…,region:…,machine:…`; a comma would begin another tag.
fn tags(entry: &EntryView<'_>) -> String {
    let tags = [("app", entry.app_name()), ("region", entry.region()), ("machine", entry.machine_id())];
    let tags = tags.iter().filter(|(_, text)| !text.is_empty());
    tags.map(|(key, text)| format!("{key}:{}", text.replace(',', "_"))).collect::<Vec<_>>().join(",")
}
