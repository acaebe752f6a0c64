//! All ways through the parser beside each other, the reference and serde_json: what tests and fuzzing ask of each body.

use serde_json::Value as Serde;

use super::{
    Limits, Parsed, Parser,
    reference::{self, Entry, Expected},
    shape::{Shapes, Way},
};
use crate::batch::{EntryView, LogEntry, Sent, Span};

/// By the best way that this processor has, by the portable one, and by the scanner alone.
pub(super) fn parsers() -> [Parser; 3] {
    [
        Parser::default(),
        Parser { shapes: Shapes::new(Way::Portable), ..Parser::default() },
        Parser { shapes: Shapes::new(Way::Never), ..Parser::default() },
    ]
}

/// What was parsed, in the reference's words; asserts that a row, its entry and both their JSON say the same.
pub(super) fn expected(body: &[u8], parsed: Parsed) -> Expected {
    assert!(parsed.samples.len() <= 100 && parsed.samples.iter().all(|sample| sample.bytes.len() <= 1024));
    let rows = parsed.rows.iter().enumerate();
    let entries = rows.map(|(ordinal, row)| {
        assert_eq!(row.ordinal as usize, ordinal);
        assert!(!row.raw.is_arena());
        let text = |span: Span| str::from_utf8(span.of(body, &parsed.arena)).expect("valid UTF-8").to_owned();
        let view = EntryView { body, arena: &parsed.arena, row, origin: None };
        let entry = view.to_entry();
        if row.sent == Sent::Ready {
            let raw = str::from_utf8(entry.raw()).expect("valid UTF-8");
            assert!(!raw.contains(['\r', '\n']) && raw.starts_with('{') && raw.ends_with('}'));
            // serde_json does not read lone surrogates and large numbers; a name with an escape in it is another for whoever reads none.
            let object: Option<serde_json::Map<String, Serde>> = serde_json::from_str(raw).ok();
            let is_noted = object.is_some_and(|object| object.contains_key("fleetdrain"));
            assert!(!is_noted || raw.contains('\\'), "{raw}");
        }
        let by_serde = serde_json::to_string(&entry).expect("no map is involved");
        for view in [view, entry.view()] {
            let mut written = Vec::new();
            view.write_json(&mut written, false);
            assert_eq!(String::from_utf8(written).as_deref(), Ok(&*by_serde));
        }
        Entry {
            raw: row.raw.of(body, &[]).to_vec(),
            machine: text(row.machine),
            message: text(row.message),
            stream: if row.stream.is_empty() { view.stream().to_owned() } else { text(row.stream) },
            timestamp: text(row.timestamp),
            app: text(row.app),
            region: text(row.region),
            host: text(row.host),
            level: text(row.level),
        }
    });
    let entries = entries.collect();
    let Parsed { received, rejected, repaired, errors, .. } = parsed;
    Expected { entries, received, rejected, repaired, errors }
}

/// Asserts that all ways through the parser and the reference agree; gives what they say.
#[track_caller]
pub(super) fn agreed_within(body: &[u8], limits: Limits) -> Expected {
    let wanted = reference::parse(body, limits);
    assert_eq!(wanted.received, wanted.entries.len() as u64 + wanted.rejected.iter().sum::<u64>());
    for mut parser in parsers() {
        let got = expected(body, parser.parse(body, limits));
        assert!(got == wanted, "{}\ngot {got:?}\nwanted {wanted:?}", String::from_utf8_lossy(body));
    }
    wanted
}

/// The fields of an entry that are strings only: app, region, host, level.
pub(super) fn strings(entry: &LogEntry) -> [Option<&str>; 4] {
    [entry.app_name(), entry.region(), entry.host(), entry.level()]
        .map(|text| Some(text).filter(|text| !text.is_empty()))
}

/// The same by serde_json's reading of the record, which knows no spans.
pub(super) fn strings_by_serde(record: &Serde) -> [Option<&str>; 4] {
    let text = |path: &str| record.pointer(path).and_then(Serde::as_str).filter(|text| !text.is_empty());
    [text("/fly/app/name"), text("/fly/region"), text("/host"), text("/log/level").or(text("/level"))]
}
