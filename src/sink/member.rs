//! A member that a sink adds to records, which may have one of that name: a second one of the same name is what Elasticsearch refuses, and
//! of which others take either.

use std::{ops::Range, sync::LazyLock};

use memchr::memmem::Finder;

use crate::batch::NOTE;

/// The name of such a member.
pub(super) struct Member {
    /// With its quotes.
    name: &'static str,
    finder: LazyLock<Finder<'static>>,
}

/// What the drain knows of a line.
pub(super) static FLEETDRAIN: Member = Member { name: NOTE, finder: LazyLock::new(|| Finder::new(NOTE)) };
/// Its time, for Elasticsearch.
pub(super) static AT_TIMESTAMP: Member =
    Member { name: "\"@timestamp\"", finder: LazyLock::new(|| Finder::new("\"@timestamp\"")) };
/// The same for VictoriaLogs and Axiom.
pub(super) static TIME: Member = Member { name: "\"_time\"", finder: LazyLock::new(|| Finder::new("\"_time\"")) };
/// The same for Better Stack.
pub(super) static DT: Member = Member { name: "\"dt\"", finder: LazyLock::new(|| Finder::new("\"dt\"")) };

impl Member {
    /// Takes the members of this name out of the object that `out` holds from `start` on, which is made of `record`. Gives the value of
    /// the last one.
    pub(super) fn take(&self, record: &[u8], out: &mut Vec<u8>, start: usize) -> Option<Vec<u8>> {
        // Hardly any record has one, or its name in a text.
        self.finder.find(record)?;
        let object = out.split_off(start);
        let mut taken = None;
        out.push(b'{');
        for range in members(&object) {
            let member = object[range].trim_ascii();
            match member.strip_prefix(self.name.as_bytes()).and_then(|rest| rest.trim_ascii_start().strip_prefix(b":"))
            {
                Some(value) => taken = Some(value.trim_ascii().to_vec()),
                None => {
                    if out.len() > start + 1 {
                        out.push(b',');
                    }
                    out.extend_from_slice(member);
                }
            }
        }
        out.push(b'}');
        taken
    }

    /// Opens the object that `out` ends with, and begins this member in it: its value and the brace are to follow.
    pub(super) fn begin(&self, out: &mut Vec<u8>) {
        out.pop();
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        out.extend_from_slice(self.name.as_bytes());
        out.push(b':');
    }
}

/// Where the members of an object are, which is known to be one.
fn members(object: &[u8]) -> Vec<Range<usize>> {
    let (mut members, mut depth, mut start, mut at) = (Vec::new(), 0, 0, 0);
    while let Some(byte) = object.get(at) {
        match byte {
            b'"' => at = end_of_string(object, at),
            b'{' | b'[' => {
                depth += 1;
                if depth == 1 {
                    start = at + 1;
                }
            }
            b',' if depth == 1 => {
                members.push(start..at);
                start = at + 1;
            }
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 && !object[start..at].trim_ascii().is_empty() {
                    members.push(start..at);
                }
            }
            _ => {}
        }
        at += 1;
    }
    members
}

/// The closing quote of the string that opens at `at`.
fn end_of_string(text: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => break,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_taken_out_wherever_it_stands_and_nothing_else_is() {
        for (record, left, taken) in [
            (r#"{"dt":1}"#, "{}", Some("1")),
            (r#"{"dt":{"a":[1,"}\""]} , "b":2}"#, r#"{"b":2}"#, Some(r#"{"a":[1,"}\""]}"#)),
            (r#"{"a":"\\","dt" : "x,\"y" ,"b":[{"dt":3}]}"#, r#"{"a":"\\","b":[{"dt":3}]}"#, Some(r#""x,\"y""#)),
            (r#"{"dt":1,"a":2,"dt":3}"#, r#"{"a":2}"#, Some("3")),
            (r#"{"a":"dt","b":{"dt":1}}"#, r#"{"a":"dt","b":{"dt":1}}"#, None),
            (r#"{"a":"\"dt\":1"}"#, r#"{"a":"\"dt\":1"}"#, None),
        ] {
            let mut out = format!("before\n{record}").into_bytes();
            let found = DT.take(record.as_bytes(), &mut out, 7);
            assert_eq!(std::str::from_utf8(&out).unwrap(), format!("before\n{left}"), "{record}");
            assert_eq!(found.as_deref(), taken.map(str::as_bytes), "{record}");
            DT.begin(&mut out);
            out.extend_from_slice(b"7}");
            let again: serde_json::Value = serde_json::from_slice(&out[7..]).unwrap();
            assert_eq!(again["dt"], 7, "{record}");
        }
    }
}
