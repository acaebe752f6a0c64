//! Any body against the reference grammar and serde_json, and the shape cache against the scanner.

use serde_json::Value;

use super::{
    Limits, RejectReason,
    agreement::{agreed_within, expected, parsers, strings, strings_by_serde},
    parse_log_entry,
};
use crate::fuzzing::Choices;

/// A body in any form becomes what the reference grammar, written apart from the parser, makes of it: rows, fields, raw bytes, reasons,
/// lines and order. A line by itself is JSON to us if it is to serde_json, and then both read the same fields.
pub(crate) fn records(data: &[u8]) {
    let mut choices = Choices(data);
    let limits =
        Limits { line_bytes_max: choices.one_of(&[1 << 20, 300, 40]), errors_max: choices.one_of(&[10, 0, 2]) };
    let body = choices.0;
    agreed_within(body, limits);
    let line = body.split(|&byte| byte == b'\n').next().unwrap_or_default();
    agrees_with_serde(line);
}

fn agrees_with_serde(line: &[u8]) {
    let parsed = parse_log_entry(line);
    let is_json = !matches!(parsed, Err(RejectReason::MalformedJson | RejectReason::TooDeep));
    match serde_json::from_slice::<Value>(line) {
        Ok(tree) => {
            assert!(is_json, "serde_json reads {:?}", String::from_utf8_lossy(line));
            if let Ok(entry) = parsed {
                assert_eq!(strings(&entry), strings_by_serde(&tree));
            }
        }
        Err(error) => assert!(
            !is_json || may_differ(line),
            "serde_json does not read {:?}: {error}",
            String::from_utf8_lossy(line)
        ),
    }
}

/// What serde_json refuses and we do not: invalid UTF-8, lone surrogates, numbers over an `f64`, nesting over 128.
fn may_differ(line: &[u8]) -> bool {
    let has_surrogate = line.windows(3).any(|bytes| bytes[0] == b'u' && bytes[1].eq_ignore_ascii_case(&b'd'));
    let has_large = line.windows(2).any(|bytes| bytes[0].eq_ignore_ascii_case(&b'e')) || line.len() > 300;
    let depth = line.iter().filter(|byte| b"[{".contains(byte)).count();
    std::str::from_utf8(line).is_err() || has_surrogate || has_large || depth > 126
}

/// Templates as senders use them: Fly's shipper, other orders of keys, numbers, escaped and repeated keys, nothing of Fly's.
const TEMPLATES: [&str; 6] = [
    r#"{"event":{"provider":"app"},"fly":{"app":{"instance":"6e82d4e6a37548","name":"quiet-hill-42"},"region":"ams"},"host":"c0de","log":{"level":"info"},"message":"level=debug msg=\"checked\"","timestamp":"2026-06-27T01:19:12.541906845Z"}"#,
    r#"{"message":"up","instance":"a1","level":"warn","ts":1656.25,"stream":"stderr"}"#,
    r#"{"machine_id":17,"msg":true,"time":-1.5e3,"n":[1,"x",{"y":null}],"source":"fly"}"#,
    r#"{ "\u0066ly" : {"app":{"instance":"a","instance":"b"}} , "log" : "text" , "dt" : 1 }"#,
    "{\"fly\":{\"machine\":{\"id\":\"m\"}},\n\"message\":{\"a\":[1, \"é\"]},\n\"host\":\"\"}",
    r#"{"content":"tests","nothing":"of a machine's"}"#,
];

/// Records of a few templates, changed here and there, are the same rows by each way of the shape cache as by the scanner alone; the
/// first time, when shapes are learnt, and the second.
pub(crate) fn shapes(data: &[u8]) {
    let mut choices = Choices(data);
    let limits = Limits { line_bytes_max: choices.one_of(&[1 << 20, 200]), errors_max: 10 };
    let (open, between, close) = choices.one_of(&[("", "\n", "\n"), ("[", ",", "]"), ("", "", ""), ("", "\r\n", "")]);
    let known = [0; 3].map(|_| choices.one_of(&TEMPLATES));
    // Seen twice, a shape is known.
    let lessons = known.map(|template| format!("[{template},{template}]"));
    let records: Vec<_> = std::iter::from_fn(|| changed(&mut choices, &known)).take(24).collect();
    let body = [open.as_bytes(), &records.join(between.as_bytes()), close.as_bytes()].concat();

    let [best, portable, never] = parsers().map(|mut parser| {
        for lesson in &lessons {
            let _ = parser.parse(lesson.as_bytes(), limits);
        }
        let first = parser.parse(&body, limits);
        [first, parser.parse(&body, limits)].map(|parsed| expected(&body, parsed))
    });
    let [wanted, again] = &never;
    for got in [again].into_iter().chain(&best).chain(&portable) {
        assert!(got == wanted, "{}\ngot {got:?}\nwanted {wanted:?}", String::from_utf8_lossy(&body));
    }
}

/// One of the templates with up to three changes; `None` at the end of the input.
fn changed(choices: &mut Choices<'_>, known: &[&str]) -> Option<Vec<u8>> {
    if choices.is_over() {
        return None;
    }
    let mut record = choices.one_of(known).as_bytes().to_vec();
    for _ in 0..choices.below(4) {
        // Two bytes less two: a place anywhere in the longest template.
        let at = (choices.below(256) + choices.below(256)) % (record.len() + 1);
        let end = (at + choices.below(24)).min(record.len());
        let bytes = choices.below(24);
        record.splice(at..end, choices.take(bytes).iter().copied());
    }
    Some(record)
}
