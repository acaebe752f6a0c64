//! Bodies of one object a line: as it is, in an array, or in columns.

use super::{quoted_id, quoted_receipt, sequence, write_time};
use crate::{
    batch::{Clock, EntryView, write_json_string},
    sink::{Encoding, Parcel, http::time},
};

/// One JSON object a line.
pub(super) fn lines(encoding: Encoding, parcel: &Parcel, out: &mut Vec<u8>) {
    let mut clock = Clock::default();
    parcel.entries().for_each(|entry| {
        encoding.write(&entry, &mut clock, out);
        out.push(b'\n');
    });
}

/// One JSON array of objects.
pub(super) fn array(encoding: Encoding, parcel: &Parcel, out: &mut Vec<u8>) {
    let mut clock = Clock::default();
    let mut before = b'[';
    for entry in parcel.entries() {
        out.push(before);
        encoding.write(&entry, &mut clock, out);
        before = b',';
    }
    out.push(b']');
}

/// `JSONEachRow` of ClickHouse: a member a column, none of them nested, so that a table has the same columns whatever apps
/// send. `record` is the record as sent, as text.
pub(super) fn columns(encoding: Encoding, parcel: &Parcel, out: &mut Vec<u8>) {
    let mut clock = Clock::default();
    for entry in parcel.entries() {
        columns_of(&entry, &mut clock, out);
        if encoding == Encoding::Raw {
            out.extend_from_slice(b",\"record\":");
            write_json_string(out, &String::from_utf8_lossy(entry.raw()));
        }
        out.extend_from_slice(b"}\n");
    }
}

fn columns_of(entry: &EntryView<'_>, clock: &mut Clock, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"timestamp\":");
    write_time(time::of(entry), out);
    out.extend_from_slice(b",\"received_at\":");
    quoted_receipt(entry, clock, out);
    out.extend_from_slice(b",\"id\":");
    quoted_id(entry, out);
    out.extend_from_slice(b",\"machine_seq\":");
    sequence(entry, out);
    for (key, text) in [
        (",\"machine_id\":", entry.machine_id()),
        (",\"app_name\":", entry.app_name()),
        (",\"region\":", entry.region()),
        (",\"host\":", entry.host()),
        (",\"stream\":", entry.stream()),
        (",\"level\":", entry.level()),
        (",\"message\":", entry.message()),
    ] {
        out.extend_from_slice(key.as_bytes());
        write_json_string(out, text);
    }
}
