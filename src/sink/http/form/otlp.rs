//! OTLP/HTTP logs in JSON: `POST /v1/logs`.
//!
//! An `ExportLogsServiceRequest` in the JSON mapping of protobuf: names in lowerCamelCase, 64-bit integers as strings. A machine is a
//! resource.

use super::{grouped, quoted_number};
use crate::{
    batch::{EntryView, write_decimal, write_json_string},
    sink::{
        Encoding, Parcel,
        http::time::{self, Severity},
    },
};

pub(super) fn write(encoding: Encoding, parcel: &Parcel, out: &mut Vec<u8>) {
    let groups = grouped(parcel, |entry| (entry.machine_id(), entry.app_name(), entry.region(), entry.host()));
    let mut before: &[u8] = b"{\"resourceLogs\":[";
    for ((machine, app, region, host), entries) in groups {
        out.extend_from_slice(before);
        out.extend_from_slice(b"{\"resource\":{\"attributes\":[");
        // A resource has a service's name, by the semantic conventions.
        string("service.name", if app.is_empty() { "unknown_service" } else { app }, out);
        for (key, text) in [("service.instance.id", machine), ("cloud.region", region), ("host.name", host)] {
            if !text.is_empty() {
                out.push(b',');
                string(key, text, out);
            }
        }
        out.extend_from_slice(b"]},\"scopeLogs\":[{\"scope\":{\"name\":\"fleetdrain\"},\"logRecords\":");
        let mut first = b'[';
        for entry in &entries {
            out.push(first);
            log_record(encoding, entry, out);
            first = b',';
        }
        out.extend_from_slice(b"]}]}");
        before = b",";
    }
    out.extend_from_slice(b"]}");
}

fn log_record(encoding: Encoding, entry: &EntryView<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"timeUnixNano\":");
    quoted_number(time::nanos(time::of(entry)), out);
    if let Some(at) = entry.received_at() {
        out.extend_from_slice(b",\"observedTimeUnixNano\":");
        quoted_number(time::nanos(at), out);
    }
    if let Some(severity) = Severity::of(entry.level()) {
        out.extend_from_slice(b",\"severityNumber\":");
        write_decimal(out, severity as u64);
    }
    super::member("severityText", entry.level(), out);
    out.extend_from_slice(b",\"body\":{\"stringValue\":");
    write_json_string(out, entry.message());
    out.extend_from_slice(b"},\"attributes\":[");
    string("log.iostream", entry.stream(), out);
    if let Some(id) = entry.id() {
        out.push(b',');
        string("fleetdrain.id", &id.to_string(), out);
    }
    if let Some(seq) = entry.machine_seq() {
        out.extend_from_slice(b",{\"key\":\"fleetdrain.machine_seq\",\"value\":{\"intValue\":");
        quoted_number(seq, out);
        out.extend_from_slice(b"}}");
    }
    if encoding == Encoding::Raw {
        out.push(b',');
        string("log.record.original", &String::from_utf8_lossy(entry.raw()), out);
    }
    out.extend_from_slice(b"]}");
}

fn string(key: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"key\":\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\",\"value\":{\"stringValue\":");
    write_json_string(out, text);
    out.extend_from_slice(b"}}");
}
