//! Messages to one body of lines: one message is exactly one record, whatever is in it.

use memchr::{memchr2, memmem::Finder};

/// What stands for a message of nothing but blanks: rejected as no object, and not overlooked as an empty line.
const BLANK: &[u8] = b"\"\"";

/// Appends a message as one line.
pub(super) fn append(payload: &[u8], body: &mut Vec<u8>) {
    let start = body.len();
    if payload.iter().all(u8::is_ascii_whitespace) {
        body.extend_from_slice(BLANK);
    } else {
        body.extend_from_slice(payload);
        let mut from = start;
        while let Some(at) = memchr2(b'\n', b'\r', &body[from..]) {
            body[from + at] = b' ';
            from += at + 1;
        }
    }
    body.push(b'\n');
}

/// Tells our own app's records.
pub(super) struct OwnApp {
    name: String,
    quoted: Finder<'static>,
}

impl OwnApp {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), quoted: Finder::new(&format!("\"{name}\"")).into_owned() }
    }

    /// By its subject, `logs.APP.REGION.MACHINE`, or by its own word.
    pub(super) fn sent(&self, subject: &str, payload: &[u8]) -> bool {
        if subject.split('.').nth(1) == Some(self.name.as_str()) {
            return true;
        }
        self.quoted.find(payload).is_some()
            && crate::record::parse_log_entry(payload).is_ok_and(|entry| entry.app_name() == self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Limits, Parser};

    #[test]
    fn a_message_is_exactly_one_record_whatever_is_in_it() {
        let good = "{\"instance\":\"m\",\"message\":\"a\"}";
        let messages = [
            "[{\"instance\":\"m\"}]",
            "",
            "\r\n",
            "not json",
            good,
            "{\"instance\":\"m\",\r\n\"message\":\n\"b\"}\n",
            "{\"instance\":\"m\"}{\"instance\":\"n\"}",
        ];
        let mut body = Vec::new();
        messages.iter().for_each(|message| append(message.as_bytes(), &mut body));
        let parsed = Parser::default().parse_lines(&body, Limits { line_bytes_max: 1 << 20, errors_max: 10 });
        assert_eq!((parsed.received, parsed.rows.len()), (7, 2));
        let records: Vec<u64> = parsed.errors.iter().map(|error| error.record).collect();
        assert_eq!(records, [1, 2, 3, 4, 7]);
    }

    #[test]
    fn our_own_app_is_told_by_subject_and_by_record() {
        let own = OwnApp::new("drain");
        assert!(own.sent("logs.drain.ams.m", b"not json"));
        assert!(own.sent("logs", br#"{"fly":{"app":{"instance":"m","name":"drain"}}}"#));
        assert!(!own.sent("logs.web.ams.m", br#"{"fly":{"app":{"instance":"m","name":"web"}},"message":"\"drain\""}"#));
        assert!(!own.sent("logs.web.ams.m", br#"{"fly":{"app":{"instance":"m","name":"web"}},"host":"drain"}"#));
    }
}
