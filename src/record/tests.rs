//! Each rule as a claim, then everything at once against the reference.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::Value as Serde;

use super::{
    agreement::{agreed_within, expected, parsers, strings, strings_by_serde},
    reference::{self, Entry, Expected},
    *,
};

const LIMITS: Limits = Limits { line_bytes_max: 1 << 20, errors_max: usize::MAX };

const FLY: &str = r#"{"event":{"provider":"app"},"fly":{"app":{"instance":"6e82d4e6a37548","name":"quiet-hill-42"},"region":"ams"},"host":"c0de","log":{"level":"info"},"message":"time=\"12:00\" level=debug msg=\"checked\"","timestamp":"2026-06-27T01:19:12.541906845Z"}"#;

/// All ways through the parser and the reference agree; gives what they say.
#[track_caller]
fn agreed(body: impl AsRef<[u8]>) -> Expected {
    agreed_within(body.as_ref(), LIMITS)
}

/// The one entry of a record with a machine and `fields`.
#[track_caller]
fn with(fields: &str) -> Entry {
    let found = agreed(format!(r#"{{"machine_id":"m",{fields}}}"#));
    assert_eq!(found.errors, []);
    found.entries[0].clone()
}

#[track_caller]
fn machine(record: &str) -> String {
    agreed(record).entries.first().map(|entry| entry.machine.clone()).unwrap_or_default()
}

/// The reasons and lines of a body's rejections, and its machines.
#[track_caller]
fn account(body: impl AsRef<[u8]>) -> (Vec<String>, Vec<(u64, u64, &'static str)>) {
    let found = agreed(body);
    let errors = found.errors.iter().map(|error| (error.record, error.line, error.reason.as_str()));
    (found.entries.iter().map(|entry| entry.machine.clone()).collect(), errors.collect())
}

fn m(id: &str) -> String {
    format!(r#"{{"machine_id":"{id}"}}"#)
}

mod fields {
    use super::*;

    #[test]
    fn a_real_fly_record_gives_every_field() {
        let found = agreed(FLY);
        let entry = &found.entries[0];
        assert_eq!(entry.machine, "6e82d4e6a37548");
        assert_eq!(entry.message, r#"time="12:00" level=debug msg="checked""#);
        assert_eq!((&*entry.stream, &*entry.app, &*entry.region), ("stdout", "quiet-hill-42", "ams"));
        assert_eq!(
            (&*entry.host, &*entry.level, &*entry.timestamp),
            ("c0de", "info", "2026-06-27T01:19:12.541906845Z")
        );
        assert_eq!(entry.raw, FLY.as_bytes());
    }

    #[test]
    fn a_machine_is_named_by_the_first_that_fits() {
        let all = r#"{"machine_id":"d","instance":"c","fly":{"machine":{"id":"b"},"app":{"instance":"a"}}}"#;
        assert_eq!(machine(all), "a");
        assert_eq!(machine(&all.replace(r#""a""#, r#""""#)), "b");
        assert_eq!(machine(&all.replace(r#""a""#, "null").replace(r#""b""#, "[1]")), "c");
        assert_eq!(machine(r#"{"machine_id":"d","instance":{"x":1},"fly":"x"}"#), "d");
        assert_eq!(machine(r#"{"machine_id":17}"#), "17");
        assert_eq!(machine(r#"{"machine_id":-1.50e+3}"#), "-1.50e+3");
        assert_eq!(account(r#"{"machine_id":true,"fly":null}"#).1, [(1, 1, "no_machine_id")]);
        assert_eq!(account("{}").1, [(1, 1, "no_machine_id")]);
        assert_eq!(account(r#"{"content":"tests"}"#).1, [(1, 1, "no_machine_id")]);
    }

    #[test]
    fn falsy_values_never_fit() {
        for falsy in [
            "\"\"", "0", "-0", "0.0", "0e10", "0.000E-5", "-0.0e+0", "false", "null", "[]", "{}", "{ }", "[ \n\t ]",
            "[\r\n]",
        ] {
            let entry = with(&format!(
                "\"message\":{falsy},\"log\":{falsy},\"msg\":\"x\",\"timestamp\":{falsy},\"time\":5,\"stream\":{falsy}"
            ));
            assert_eq!((&*entry.message, &*entry.timestamp, &*entry.stream), ("x", "5", "stdout"), "{falsy}");
            let record = format!("{{\"instance\":{falsy},\"machine_id\":\"m\",\"fly\":{falsy},\"event\":{falsy}}}");
            assert_eq!(machine(&record), "m");
        }
        assert_eq!(with(r#""message":0.0001"#).message, "0.0001");
        assert_eq!(with(r#""message":"0""#).message, "0");
        assert_eq!(with(r#""message":1e999"#).message, "1e999");
        assert_eq!(with(r#""message":0e1,"msg":0.1e0"#).message, "0.1e0");
    }

    #[test]
    fn an_id_has_at_most_128_bytes_after_unescaping() {
        let (fits, long) = ("a".repeat(128), "a".repeat(129));
        assert_eq!(machine(&format!(r#"{{"instance":"{long}","machine_id":"{fits}"}}"#)), fits);
        assert_eq!(machine(&format!(r#"{{"instance":"{}","machine_id":"b"}}"#, "\\u0061".repeat(128))), fits);
        assert_eq!(machine(&format!(r#"{{"instance":"{}","machine_id":"b"}}"#, "\\u0061".repeat(129))), "b");
        assert_eq!(machine(&format!(r#"{{"instance":{},"machine_id":"b"}}"#, "1".repeat(129))), "b");
        assert_eq!(machine(&format!(r#"{{"instance":{},"machine_id":"b"}}"#, "1".repeat(128))), "1".repeat(128));
        // 43 repaired bytes are 129.
        let body = [b"{\"instance\":\"", &[0xFF; 43][..], b"\",\"machine_id\":\"b\"}"].concat();
        assert_eq!(agreed(body).entries[0].machine, "b");
        assert_eq!(account(format!(r#"{{"instance":"{long}"}}"#)).1, [(1, 1, "no_machine_id")]);
    }

    #[test]
    fn only_message_may_be_an_object_or_array_and_stays_as_sent() {
        assert_eq!(with(r#""message":{ "a" : [1, {}] },"log":"x""#).message, r#"{ "a" : [1, {}] }"#);
        assert_eq!(with("\"message\":[0 ,\"\\u0041\"]").message, "[0 ,\"\\u0041\"]");
        assert_eq!(with(r#""message":[[]]"#).message, "[[]]");
        assert_eq!(with(r#""log":{"level":"warn"},"msg":"m""#).message, "m");
        assert_eq!(with(r#""log":["x"],"msg":{"a":1}"#).message, "");
        assert_eq!(with(r#""message":false,"log":"l""#).message, "l");
        for key in ["message", "log", "msg"] {
            assert_eq!(with(&format!("\"{key}\" : true ")).message, "true");
            assert_eq!(with(&format!("\"{key}\":-12.5E3 ")).message, "-12.5E3");
        }
    }

    #[test]
    fn a_stream_is_what_it_says_else_what_the_platform_is_known_by() {
        for (fields, stream) in [
            (r#""stream":"stderr","source":"fly""#, "stderr"),
            (r#""stream":"stdout","event":{"provider":"runner"}"#, "stdout"),
            (r#""stream":"my own","source":"fly""#, "my own"),
            (r#""stream":"s\u0074derr""#, "stderr"),
            (r#""stream":"a\nb""#, "a\nb"),
            (r#""stream":7,"source":"fly""#, "system"),
            (r#""stream":"","source":"proxy""#, "system"),
            (r#""source":"mach\u0069ne""#, "system"),
            (r#""source":"Fly""#, "stdout"),
            (r#""source":"other","event":{"provider":"runner"}"#, "system"),
            (r#""event":{"provider":"app"}"#, "stdout"),
            (r#""event":{"provider":"ap\u0070"}"#, "stdout"),
            (r#""event":{"provider":""}"#, "stdout"),
            (r#""event":{"provider":1}"#, "stdout"),
            (r#""event":"runner","provider":"runner""#, "stdout"),
            (r#""event":[{"provider":"runner"}]"#, "stdout"),
        ] {
            assert_eq!(with(fields).stream, stream, "{fields}");
        }
    }

    #[test]
    fn timestamps_are_strings_or_numbers_as_sent() {
        assert_eq!(with(r#""dt":"4","ts":3,"time":"2","timestamp":true"#).timestamp, "2");
        assert_eq!(with(r#""dt":"4","ts":1656.10,"timestamp":{}"#).timestamp, "1656.10");
        assert_eq!(with(r#""dt":123456789012345678901234567890"#).timestamp, "123456789012345678901234567890");
        assert_eq!(with(r#""dt":[1]"#).timestamp, "");
    }

    #[test]
    fn app_region_host_and_level_are_strings_only() {
        let entry = with(r#""fly":{"app":{"name":1},"region":true},"host":5,"log":{"level":["x"]},"level":"debug""#);
        assert_eq!((&*entry.app, &*entry.region, &*entry.host, &*entry.level), ("", "", "", "debug"));
        assert_eq!(with(r#""log":{"level":"a"},"level":"b""#).level, "a");
        assert_eq!(with(r#""log":"text","level":"b""#).level, "b");
        assert_eq!(with(r#""fly":{"app":[{"name":"x"}],"name":"y"}"#).app, "");
    }

    #[test]
    fn the_last_of_a_repeated_key_wins_with_its_whole_value() {
        let id = |rest: &str| machine(&format!(r#"{{"fly":{{"app":{{"instance":"a"}}}},{rest}}}"#));
        assert_eq!(id(r#""fly":null"#), "");
        assert_eq!(id(r#""fly":{}"#), "");
        assert_eq!(id(r#""fly":{"region":"x"},"instance":"b""#), "b");
        assert_eq!(id(r#""\u0066ly":3,"instance":"b""#), "b");
        assert_eq!(machine(r#"{"fly":{"app":{"instance":"a"},"app":[]},"instance":"b"}"#), "b");
        assert_eq!(machine(r#"{"fly":{"app":{"instance":"a","instance":"c"}}}"#), "c");
        assert_eq!(machine(r#"{"instance":"a","instance":"","machine_id":"b"}"#), "b");
        assert_eq!(with(r#""message":"a","message":{}"#).message, "");
        assert_eq!(with(r#""message":{"a":1},"message":"b""#).message, "b");
        assert_eq!(with(r#""log":{"level":"a"},"log":"b""#).level, "");
        assert_eq!(with(r#""log":"b","log":{"level":"a"},"msg":"c""#).message, "c");
        assert_eq!(with(r#""event":{"provider":"x"},"event":{"other":"x"}"#).stream, "stdout");
    }

    #[test]
    fn keys_may_be_written_with_escapes() {
        assert_eq!(machine(r#"{"\u0066\u006Cy":{"ap\u0070":{"\u0069nstance":"a"}}}"#), "a");
        assert_eq!(machine(r#"{"machine\u005fid":17}"#), "17");
        let escaped: String = "machine_id".bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        assert_eq!(machine(&format!(r#"{{"{escaped}":17}}"#)), "17");
        assert_eq!(machine(&format!(r#"{{"{escaped}\u0000":17}}"#)), "");
        assert_eq!(with(r#""m\u0065ssage" : true"#).message, "true");
        assert_eq!(with(r#""\u006desSage":"no","ms\u0067":"yes""#).message, "yes");
    }

    #[test]
    fn what_stands_deeper_or_elsewhere_is_not_meant() {
        assert_eq!(machine(r#"{"x":{"machine_id":"a","fly":{"app":{"instance":"b"}}}}"#), "");
        assert_eq!(machine(r#"{"fly":{"machine_id":"a","instance":"b","id":"c"}}"#), "");
        assert_eq!(machine(r#"{"fly.app.instance":"a"}"#), "");
        assert_eq!(machine(r#"{"fly":[{"app":{"instance":"a"}}]}"#), "");
        assert_eq!(machine(r#"{"fly":{"app":{"x":{"instance":"a"}}}}"#), "");
    }

    #[test]
    fn a_text_that_stands_between_the_quotes_of_others_is_escaped() {
        // In an owned entry the unescaped texts lie one behind the other, here with a quote before the second and one behind it.
        let entry = with(r#""message":"a\"","timestamp":"t\n","fly":{"app":{"name":"\"b"}}"#);
        assert_eq!((&*entry.message, &*entry.timestamp, &*entry.app), ("a\"", "t\n", "\"b"));
    }

    #[test]
    fn escapes_become_what_they_mean() {
        assert_eq!(
            with(r#""message":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\u0000""#).message,
            "\"\\/\u{8}\u{c}\n\r\té😀\0"
        );
        assert_eq!(with(r#""message":"\\\\\"""#).message, "\\\\\"");
        assert_eq!(with("\"message\":\"é\\n😀\"").message, "é\n😀");
        assert_eq!(with("\"message\":\"\u{7f}\u{2028}\"").message, "\u{7f}\u{2028}");
    }
}

mod repairs {
    use super::*;

    #[test]
    fn lone_surrogates_are_repaired_and_counted() {
        for (source, text) in [
            (r"\ud800", "\u{FFFD}"),
            (r"a\udc00b", "a\u{FFFD}b"),
            (r"\ud800\ud800", "\u{FFFD}\u{FFFD}"),
            (r"\ud83d\ud83d\ude00", "\u{FFFD}😀"),
            (r"\ud800x\udc00", "\u{FFFD}x\u{FFFD}"),
            (r"\ud800\n", "\u{FFFD}\n"),
            (r"\ud800\u0041", "\u{FFFD}A"),
            (r"\ude00\ud83d", "\u{FFFD}\u{FFFD}"),
            (r"\uD83D\uDE00\uDE00", "😀\u{FFFD}"),
        ] {
            let found = agreed(format!(r#"{{"machine_id":"m","message":"{source}"}}"#));
            assert_eq!((&*found.entries[0].message, found.repaired), (text, 1), "{source}");
        }
        assert_eq!(agreed(r#"{"machine_id":"m","x":["\ud800"]}"#).repaired, 1);
        assert_eq!(agreed(r#"{"machine_id":"m","\ud800":1}"#).repaired, 1);
        assert_eq!(agreed(r#"{"x":["\ud800"]}"#).repaired, 0);
        assert_eq!(agreed(r#"{"machine_id":"m","x":"\ud83d\ude00"}"#).repaired, 0);
    }

    #[test]
    fn invalid_utf8_in_strings_is_repaired_as_std_does() {
        for bytes in [
            &b"\xFF"[..],
            b"\xE2\x82",
            b"a\xF0\x9F\x98",
            b"\xED\xA0\x80",
            b"\xC0\x80",
            b"ok \xE2\x82\xAC \xE2\x28",
            b"\xE2\\n\x82",
        ] {
            let body = [b"{\"machine_id\":\"m\",\"message\":\"", bytes, b"\"}"].concat();
            let found = agreed(&body);
            let text = String::from_utf8_lossy(bytes).replace("\\n", "\n");
            assert_eq!((&*found.entries[0].message, found.repaired), (&*text, 1));
            assert_eq!(found.entries[0].raw, body);
            let neighbours = [FLY.as_bytes(), b"\n", &body, b"\n", FLY.as_bytes()].concat();
            let found = agreed(neighbours);
            assert_eq!((found.entries.len(), found.repaired), (3, 1));
        }
        let found = agreed(b"{\"machine_id\":\"m\",\"message\":[\"\xFF\"]}");
        assert_eq!((&*found.entries[0].message, found.repaired), ("[\"\u{FFFD}\"]", 1));
    }

    #[test]
    fn what_is_invalid_in_one_place_does_not_touch_the_rest() {
        let broken = b"{\"machine_id\":\"m\",\"message\":\"\xE2\x82\"}";
        for between in [&b"\n"[..], b"", b","] {
            let body =
                [FLY.as_bytes(), broken, broken, FLY.as_bytes(), FLY.as_bytes(), broken, FLY.as_bytes()].join(between);
            let body = if between == b"," { [b"[", &body[..], b"]"].concat() } else { body };
            let found = agreed(&body);
            assert_eq!((found.entries.len(), found.repaired, found.errors.len()), (7, 3, 0));
        }
        assert_eq!(agreed([FLY.as_bytes(), b"\n\xE2\x82"].concat()).entries.len(), 1);
    }

    #[test]
    fn invalid_utf8_outside_strings_is_malformed() {
        for body in [
            &b"{\"machine_id\":\"m\"\xFF}"[..],
            b"{\xC2\xA0\"machine_id\":\"m\"}",
            b"{\"machine_id\":1\xFF}",
            b"\xFF\xFE{\0}\0",
        ] {
            assert_eq!(account(body).1, [(1, 1, "malformed_json")]);
        }
    }
}

mod grammar {
    use super::*;

    #[test]
    fn json_is_rfc_8259_and_nothing_else() {
        for bad in [
            "NaN",
            "Infinity",
            "-Infinity",
            "+1",
            "01",
            "-01",
            "1.",
            ".5",
            "1.e1",
            "1e",
            "1e+",
            "-",
            "0x1",
            "1_0",
            "tru",
            "True",
            "nulll",
            "undefined",
            "'a'",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\" 1}",
            "{\"a\":}",
            "{,}",
            "[1}",
            "{\"a\":1]",
            "\"\t\"",
            "\"\u{1}\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "\"\\",
            "\"a",
            "1 /*c*/",
            "1 //c",
            "\u{b}1",
            "\u{c}1",
            "1\0",
            "\u{a0}1",
            "--1",
            "1-1",
            "1e1.0",
            "00",
            "-",
            "\"a\"b",
            "[",
            "{",
            "]",
            "}",
        ] {
            let body = format!("{{\"machine_id\":\"m\",\"x\":{bad}}}\n{}", m("next"));
            let (machines, errors) = account(&body);
            assert_eq!(errors[0], (1, 1, "malformed_json"), "{bad}");
            assert_eq!(machines, ["next"], "{bad}");
            assert_eq!(account(bad).1.last().map(|error| error.2), Some("malformed_json"), "{bad}");
        }
        for good in
            ["1", "-0", "1E400", "-1e-400", "0.10", "true", "null", "\"\\u0000\"", "[[],{}]", " 1 ", "1e0000001"]
        {
            with(&format!("\"x\":{good}"));
        }
        let digits = "9".repeat(5000);
        assert_eq!(with(&format!("\"message\":{digits}.{digits}e{digits}")).message.len(), 15_002);
    }

    #[test]
    fn every_byte_in_every_place_is_judged_alike() {
        let record = br#"{"fly":{"app":{"instance":"a\u0062\\"}},"message":-10.5e+7,"log":[true,null, {"x":""}],"t":"\ud83d\ude00"}"#;
        for at in 0..record.len() {
            for byte in 0..=255 {
                let mut body = record.to_vec();
                body[at] = byte;
                agreed(&body);
                body.insert(at, record[at]);
                agreed(&body);
            }
            agreed(&record[..at]);
            agreed(&record[at..]);
        }
    }

    #[test]
    fn a_thousand_levels_are_fine_and_one_more_is_too_deep() {
        let nested = |levels: usize| {
            format!("{{\"machine_id\":\"m\",\"message\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1))
        };
        assert_eq!(agreed(nested(1000)).entries[0].message.len(), 1998);
        assert_eq!(account(nested(1001)).1, [(1, 1, "too_deep")]);
        assert_eq!(account(nested(100_000)).1, [(1, 1, "too_deep")]);
        let objects = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert_eq!(account(objects(1000)).1, [(1, 1, "no_machine_id")]);
        assert_eq!(account(objects(1001)).1, [(1, 1, "too_deep")]);
        assert_eq!(account(format!("[{},{}]", objects(1001), m("b"))), (vec!["b".into()], vec![(1, 1, "too_deep")]));
        assert_eq!(account(format!("{}{}{}", m("a"), objects(1001), m("b"))).0, ["a", "b"]);
    }

    #[test]
    fn a_nest_bomb_is_one_rejection_in_every_form() {
        for bomb in ["[".repeat(200_000), "{\"a\":".repeat(200_000), "[{\"a\":".repeat(100_000)] {
            assert_eq!(account(&bomb).1, [(1, 1, "too_deep")]);
            assert_eq!(account(format!("{}\n{bomb}", m("a"))), (vec!["a".into()], vec![(2, 2, "too_deep")]));
            assert_eq!(account(format!("[{},\n{bomb}", m("a"))), (vec!["a".into()], vec![(2, 2, "too_deep")]));
        }
    }

    #[test]
    fn the_first_reason_that_holds_is_given() {
        let limits = Limits { line_bytes_max: 40, errors_max: 10 };
        let reasons = |body: &str| {
            agreed_within(body.as_bytes(), limits).errors.iter().map(|error| error.reason.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(reasons(&"[".repeat(3000)), ["line_too_long"]);
        assert_eq!(
            reasons(&format!("  {}\n1\nx\n{{}}\n", "x".repeat(41))),
            ["line_too_long", "not_an_object", "malformed_json", "no_machine_id"]
        );
        assert_eq!(reasons(&format!("  {{\"machine_id\":\"{}\"}}   \r\n", "x".repeat(23))), [""; 0]);
        assert_eq!(reasons(&format!("{{\"machine_id\":\"{}\"}}", "x".repeat(24))), ["line_too_long"]);
        assert_eq!(reasons(&format!("[{{\"x\":\"{}\"}}, 1]", "x".repeat(90))), ["line_too_long", "not_an_object"]);
    }
}

mod forms {
    use super::*;

    #[test]
    fn lines_stand_each_on_its_own() {
        let body = format!("\u{FEFF}\r\n{}\r\n\n \t\r\nbad\n  {}  \r\n[1]\n\"x\"\n{}", m("a"), m("b"), m("c"));
        let (machines, errors) = account(&body);
        assert_eq!(machines, ["a", "b", "c"]);
        assert_eq!(errors, [(2, 5, "malformed_json"), (4, 7, "not_an_object"), (5, 8, "not_an_object")]);
        assert_eq!(agreed(&body).entries[1].raw, m("b").as_bytes());
    }

    #[test]
    fn a_blank_body_has_no_records() {
        for body in ["", "\n", " \r\n\t\n", "\u{FEFF}", "\u{FEFF}\n", "[]", " [ ] \n"] {
            assert_eq!(account(body), (vec![], vec![]), "{body:?}");
        }
    }

    #[test]
    fn an_array_holds_records() {
        let body = format!(" \n[{},\n1 , \"x\",[{}] ,{}\n]\n", m("a"), m("x"), m("b"));
        let (machines, errors) = account(body);
        assert_eq!(machines, ["a", "b"]);
        assert_eq!(errors, [(2, 3, "not_an_object"), (3, 3, "not_an_object"), (4, 3, "not_an_object")]);
    }

    #[test]
    fn a_broken_array_keeps_what_came_before() {
        let a = m("a");
        for (body, line) in [
            (format!("[{a}"), 1),
            (format!("[{a}\n\n"), 1),
            (format!("[{a},"), 1),
            (format!("[{a},\n]"), 2),
            (format!("[{a},,{a}]"), 1),
            (format!("[{a}\n{a}]"), 2),
            (format!("[{a}]\n{a}"), 2),
            (format!("[{a}]]"), 1),
            (format!("[{a},\n{{\"x\":tru}},{a}]"), 2),
            (format!("[{a},\n{{\"x\":\"cut"), 2),
            (format!("[{a}}}"), 1),
        ] {
            assert_eq!(account(&body), (vec!["a".into()], vec![(2, line, "malformed_json")]), "{body}");
        }
        assert_eq!(account("[").1, [(1, 1, "malformed_json")]);
        assert_eq!(account("[\n").1, [(1, 1, "malformed_json")]);
        assert_eq!(account("[,1]").1, [(1, 1, "malformed_json")]);
    }

    #[test]
    fn objects_follow_each_other_with_or_without_space() {
        let body = format!("{}{} {}\n\n{}", m("a"), m("b"), m("c"), m("d"));
        assert_eq!(account(body).0, ["a", "b", "c", "d"]);
        let pretty = "{\n  \"machine_id\": \"a\"\n}\n{\n  \"machine_id\": \"b\"\n}\n";
        assert_eq!(account(pretty).0, ["a", "b"]);
        assert_eq!(account(format!("{}\r{}", m("a"), m("b"))).0, ["a", "b"]);
        assert_eq!(account(format!("{{}}{}", m("a"))), (vec!["a".into()], vec![(1, 1, "no_machine_id")]));
    }

    #[test]
    fn a_broken_object_is_one_rejection_and_reading_resumes_at_the_next_line_of_one() {
        let body = "{\n \"machine_id\": \"a\"\n}\n{\n \"x\": tru,\n \"y\": {\n }\n}\n{\"machine_id\":\"b\"}{\"x\":\n{\n\"machine_id\":\"c\"\n}";
        assert_eq!(
            account(body),
            (vec!["a".into(), "b".into(), "c".into()], vec![(2, 4, "malformed_json"), (4, 9, "malformed_json")])
        );
        // Cut off behind a key's colon: the next object would fit there, and must not go with it.
        let body =
            "{\n\"machine_id\":\"a\"\n}\n{\"fly\":{\n \"name\":\n{\n\"machine_id\":\"b\"\n}\n{\"machine_id\":\"c\"}\n";
        assert_eq!(account(body), (vec!["a".into(), "b".into(), "c".into()], vec![(2, 4, "malformed_json")]));
        // Cut off where the next begins.
        let body = "{\n\"machine_id\":\"a\"\n}\n{\n\"x\":1\n{\n\"machine_id\":\"b\"\n}\n";
        assert_eq!(account(body), (vec!["a".into(), "b".into()], vec![(2, 4, "malformed_json")]));
        let body =
            "{\"machine_id\":\"a\"} junk {\"machine_id\":\"x\"}\n  {\"machine_id\":\"y\"}\n{\"machine_id\":\"b\"}";
        assert_eq!(account(body), (vec!["a".into(), "b".into()], vec![(2, 1, "malformed_json")]));
        let body = "{\"machine_id\":\"a\"}{\"x\":\"cut\n{\"machine_id\":\"b\"}";
        assert_eq!(account(body), (vec!["a".into(), "b".into()], vec![(2, 1, "malformed_json")]));
    }

    #[test]
    fn many_objects_cut_short_take_no_whole_one_along_and_none_goes_uncounted() {
        let cut = "{\"machine_id\":\"x\",\"fly\":\n";
        for cuts in [3, 100, 3_000] {
            let body = format!("{}{}\n{}{}\n", m("a"), m("b"), cut.repeat(cuts), m("good"));
            let found = agreed(body);
            let is_taken = found.entries.iter().any(|entry| entry.machine == "good");
            assert_eq!(is_taken, cuts < 3_000, "of so many not all are read again");
            assert_eq!(found.received as usize, cuts + 3);
        }
    }

    #[test]
    fn a_first_line_that_is_broken_means_lines() {
        let (a, b) = (m("a"), m("b"));
        assert_eq!(account(format!("{{\"x\":\"cut\n{a}\n{b}")).0, ["a", "b"]);
        assert_eq!(account(format!("{{\"x\":1\n{a}\n{b}")).0, ["a", "b"]);
        assert_eq!(account(format!("{{\"x\":\n{a}\n{b}")).0, ["a", "b"]);
        assert_eq!(
            account(format!("{{\"x\":\"a\nb\"}}\n{a}")),
            (vec!["a".into()], vec![(1, 1, "malformed_json"), (2, 2, "malformed_json")])
        );
        assert_eq!(account(format!("junk\n{a}{b}\n{a}")).0, ["a"]);
        assert_eq!(account(format!("17 {a}\n{b}")).0, ["b"]);
        // Only the first record decides.
        assert_eq!(
            account(format!("{a} \t\r\n{a}{b}\n{b}")),
            (vec!["a".into(), "b".into()], vec![(2, 2, "malformed_json")])
        );
    }

    #[test]
    fn utf16_is_malformed_lines() {
        let text = format!("{}\n{}\n", m("a"), m("b"));
        let le: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let be: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for body in [&le, &be, &[b"\xFF\xFE", &le[..]].concat(), &[b"\xFE\xFF", &be[..]].concat()] {
            let found = agreed(body);
            assert_eq!((found.entries.len(), found.rejected[2]), (0, found.received));
            assert!(found.received > 0);
        }
    }

    #[test]
    fn only_so_many_errors_are_kept_but_all_are_counted() {
        let body = "x\n".repeat(250);
        let limits = Limits { errors_max: 10, ..LIMITS };
        let parsed = Parser::default().parse(body.as_bytes(), limits);
        assert_eq!((parsed.errors.len(), parsed.rejected[2], parsed.received), (10, 250, 250));
        assert_eq!(parsed.samples.len(), 100);
        assert_eq!(
            parsed.samples[99].error,
            RecordError { record: 250, line: 250, reason: RejectReason::MalformedJson }
        );
        assert_eq!(&*parsed.samples[0].bytes, b"x");
    }

    #[test]
    fn a_sample_shows_what_is_broken() {
        let body = format!("[{} {}  \n", m("a"), "y".repeat(2000));
        let parsed = Parser::default().parse(body.as_bytes(), LIMITS);
        assert_eq!(&*parsed.samples[0].bytes, "y".repeat(1024).as_bytes());
        let parsed = Parser::default().parse(b"[{\"a\":1,]  \r\n", LIMITS);
        assert_eq!(&*parsed.samples[0].bytes, b"{\"a\":1,]");
    }
}

mod library {
    use super::*;

    #[test]
    fn a_parsed_body_gives_entries_in_order_and_names_what_it_skipped() {
        let parsed = parse_ndjson(format!("{}\nbad\n{FLY}\n{}", m("a"), m("b")));
        let ids: Vec<_> = parsed.entries().map(|entry| entry.machine_id()).collect();
        assert_eq!(ids, ["a", "6e82d4e6a37548", "b"]);
        assert_eq!((parsed.received(), parsed.rejected(), parsed.repaired()), (4, 1, 0));
        assert_eq!(parsed.errors()[0].line, 2);
        let entries = parsed.into_entries();
        assert_eq!(entries[1].raw(), FLY.as_bytes());
        assert_eq!(entries[1].message(), r#"time="12:00" level=debug msg="checked""#);
    }

    #[test]
    fn a_record_is_the_same_entry_however_it_was_read() {
        let entries = parse_ndjson([FLY; 4].join("\n")).into_entries();
        let alone = parse_log_entry(FLY.as_bytes()).expect("valid");
        assert!(entries.iter().all(|entry| *entry == alone));
        assert_ne!(alone, parse_log_entry(FLY.replace("checked", "chequed").as_bytes()).expect("valid"));
        assert_ne!(alone, parse_log_entry(FLY.replace('{', "{ ").as_bytes()).expect("valid"));
    }

    #[test]
    fn one_record_gives_an_entry_or_its_reason() {
        let entry = parse_log_entry(format!(" \n{FLY}\r\n").as_bytes()).expect("valid");
        assert_eq!((entry.raw(), entry.level(), entry.host()), (FLY.as_bytes(), "info", "c0de"));
        assert_eq!(parse_log_entry(b"").err(), Some(RejectReason::MalformedJson));
        assert_eq!(parse_log_entry(b"{} {}").err(), Some(RejectReason::MalformedJson));
        assert_eq!(parse_log_entry(b"7").err(), Some(RejectReason::NotAnObject));
        assert_eq!(parse_log_entry(b"{}").err(), Some(RejectReason::NoMachineId));
        assert_eq!(parse_log_entry("[".repeat(5000).as_bytes()).err(), Some(RejectReason::TooDeep));
        assert_eq!(parse_log_entry(b"{\"instance\":\"\xFF\"}").expect("repaired").machine_id(), "\u{FFFD}");
    }
}

/// Parsers that have seen each of the records twice, one for each way through them.
fn trained(records: &[impl AsRef<str>]) -> [Parser; 3] {
    parsers().map(|mut parser| {
        for record in records.iter().flat_map(|record| [record.as_ref(); 2]) {
            let _ = parser.parse(format!("[{record}]").as_bytes(), LIMITS);
        }
        parser
    })
}

mod shapes {
    use super::*;

    /// Whether parsers that know the shape of `record` take it for that of `other`.
    #[track_caller]
    fn known(record: &str, other: &str) -> bool {
        let [best, portable, _] = trained(&[record]).map(|mut parser| {
            let read = parser.shapes.read_known(other.as_bytes(), 0, false, &mut parser.found);
            read.is_some_and(|read| read.end == other.len())
        });
        assert_eq!(best, portable, "{record} {other}");
        best
    }

    /// What a parser that knows the shape of `record` says of `other`, which is what the reference says.
    #[track_caller]
    fn after(record: &str, other: &str) -> Expected {
        let wanted = reference::parse(other.as_bytes(), LIMITS);
        for mut parser in trained(&[record]) {
            let got = expected(other.as_bytes(), parser.parse(other.as_bytes(), LIMITS));
            assert_eq!(got, wanted, "{other}");
        }
        wanted
    }

    #[test]
    fn of_a_known_shape_is_known_what_need_not_be_mended_when_it_is_written() {
        let cases: [(&[u8], Sent); 8] = [
            (FLY.as_bytes(), Sent::Ready),
            ("{\"instance\":\"m\",\"message\":\"\u{e9}\"}".as_bytes(), Sent::Ready),
            (b"{\"instance\":\"m\",\"message\":\"\xE9\"}", Sent::Any),
            (b"{\"instance\":\"m\",\r\"message\":\"\"}", Sent::Utf8),
            (b"{\"instance\":\"m\",\n\"message\":\"\"}", Sent::Utf8),
            (b"{\"instance\":\"m\",\"fleetdrain\":{\"id\":\"a\"}}", Sent::Utf8),
            (b"{\"instance\":\"m\",\"a\":{\"fleetdrain\":1}}", Sent::Utf8),
            (b"{\"instance\":\"m\",\"message\":\"fleetdrain\"}", Sent::Ready),
        ];
        for (record, sent) in cases {
            let learned = String::from_utf8_lossy(record);
            let [best, portable, never] = trained(&[&learned]).map(|mut parser| {
                let body = [b"[", record, b"]"].concat();
                let parsed = parser.parse(&body, LIMITS);
                let sent = parsed.rows[0].sent;
                expected(&body, parsed);
                sent
            });
            assert_eq!((best, portable), (sent, sent), "{learned}");
            assert_eq!(never, Sent::by_utf8(sent.is_utf8()), "{learned}");
        }
    }

    #[test]
    fn values_may_differ_and_nothing_else() {
        let other = FLY.replace("6e82d4e6a37548", "x").replace("checked", r#"\"\u00e9\\"#).replace("info", "");
        assert!(known(FLY, FLY) && known(FLY, &other));
        assert_eq!(after(FLY, &other).entries[0].message, r#"time="12:00" level=debug msg=""é\""#);
        for (from, to) in
            [("\"host\":", "\"host\" :"), ("\"host\"", "\"h\\u006fst\""), ("\"c0de\"", "1"), ("},", "} ,")]
        {
            let other = FLY.replacen(from, to, 1);
            assert!(!known(FLY, &other), "{other}");
            after(FLY, &other);
        }
    }

    #[test]
    fn numbers_are_values_too() {
        let record = r#"{"machine_id":17,"ts":1656.25,"status":200,"message":"m"}"#;
        let other = r#"{"machine_id":-1e9,"ts":0.0,"status":1E+400,"message":""}"#;
        assert!(known(record, other));
        assert_eq!(after(record, other).entries[0].machine, "-1e9");
        for bad in ["01", "1.", "-", "", "1e", "+1", "1 1"] {
            assert_eq!(
                after(record, &record.replace("200", bad)).errors[0].reason,
                RejectReason::MalformedJson,
                "{bad}"
            );
        }
    }

    #[test]
    fn the_rules_run_on_each_records_own_values() {
        let record =
            r#"{"instance":"a","machine_id":"b","stream":"stderr","event":{"provider":"app"},"log":"x","msg":"y"}"#;
        for (from, to) in [
            ("\"a\"", "\"\""),
            ("\"b\"", "\"\\ud800\""),
            ("stderr", ""),
            ("stderr", "other"),
            ("\"app\"", "\"runner\""),
            ("\"x\"", "\"\""),
            ("\"a\"", &format!("\"{}\"", "i".repeat(129))),
        ] {
            let other = record.replacen(from, to, 1);
            assert!(known(record, &other), "{other}");
            assert_eq!(after(record, &other).entries.len(), 1);
        }
        assert_eq!(after(record, &record.replace("stderr", "").replace("app", "runner")).entries[0].stream, "system");
        assert_eq!(after(record, &record.replace("\"b\"", "\"\\ud800\"")).repaired, 1);
    }

    #[test]
    fn of_a_repeated_key_the_last_counts() {
        for record in [
            r#"{"instance":"a","instance":"b"}"#,
            r#"{"fly":{"app":{"instance":"a"}},"fly":{"region":"r"},"machine_id":"m"}"#,
            r#"{"machine_id":"m","message":{"a":"b"},"message":"c"}"#,
            r#"{"machine_id":"m","log":"a","log":{"level":"b"},"msg":"c"}"#,
            r#"{"machine_id":"m","log":{"level":"b"},"log":"","msg":"c"}"#,
            r#"{"machine_id":"m","message":"b","message":null,"msg":"c"}"#,
        ] {
            assert!(known(record, record), "{record}");
            after(record, record);
            after(record, &record.replace("\"b\"", "\"\"").replace("\"a\"", "\"\""));
        }
    }

    #[test]
    fn what_a_hole_cannot_hold_is_malformed() {
        for bad in ["\n", "\t", "\"", "\\", "\\q", "\\u12", "\0", "\u{1f}"] {
            after(FLY, &FLY.replace("c0de", bad));
            after(FLY, &format!("[{}]", FLY.replace("c0de", bad)));
        }
        for at in 0..FLY.len() {
            after(FLY, &FLY[..at]);
            after(FLY, &format!("{FLY}{}", &FLY[at..]));
            after(FLY, &format!("[{FLY},{}]", &FLY[at..]));
        }
    }

    #[test]
    fn records_whose_constants_matter_are_never_taken_for_a_shape() {
        assert!(!known(r#"{"machine_id":"m","message":true}"#, r#"{"machine_id":"m","message":true}"#));
        assert!(!known(r#"{"machine_id":"m","message":{"a":1}}"#, r#"{"machine_id":"m","message":{"a":1}}"#));
        let many = format!(r#"{{"machine_id":"m","x":[{}1]}}"#, "1,".repeat(64));
        assert!(!known(&many, &many));
        let long = format!(r#"{{"machine_id":"m","{}":1}}"#, "k".repeat(5000));
        assert!(!known(&long, &long));
    }

    #[test]
    fn a_value_of_the_usual_length_is_looked_at_all_the_same() {
        // Four bytes, as all before: an escape, a quote too early, a control byte, text beyond ASCII, a quote too late.
        for host in [r#"a\"b"#, r#"a","#, "a\u{1}bc", "é12", r#"\u00"#, "c0de5"] {
            let usual = format!("{FLY}\n").repeat(20);
            agreed(usual.clone() + &FLY.replace("c0de", host));
            agreed(usual + &FLY.replace("c0de", host) + "\n" + FLY);
        }
    }

    #[test]
    fn shapes_that_take_turns_are_each_expected() {
        let records: Vec<_> = (0..16).map(|i| format!(r#"{{"machine_id":"m","k{i:02}":"x"}}"#)).collect();
        let [mut parser, ..] = trained(&records);
        let body = records.iter().cycle().take(160).map(|record| format!("{record}\n")).collect::<String>();
        let _ = parser.parse(body.as_bytes(), LIMITS);
        // Though only the first few are tried: each is the one that came behind the last.
        for record in records.iter().cycle().take(32) {
            assert!(parser.shapes.read_known(record.as_bytes(), 0, true, &mut parser.found).is_some(), "{record}");
        }
    }

    #[test]
    fn a_cache_that_is_of_no_use_is_looked_at_again_when_shapes_repeat() {
        let mut parser = trained(&[FLY]).into_iter().next().unwrap();
        let one_each: String = (0..500).map(|i| format!("{{\"machine_id\":\"m\",\"k{i}\":1}}\n")).collect();
        let parsed = parser.parse(one_each.as_bytes(), LIMITS);
        assert_eq!(parsed.rows.len(), 500);
        let known = |parser: &mut Parser| parser.shapes.read(FLY.as_bytes(), 0, true, &mut parser.found).is_some();
        assert!((0..8).filter(|_| known(&mut parser)).count() < 8);
        assert_eq!((0..8).filter(|_| known(&mut parser)).count(), 8);
    }

    #[test]
    fn a_constant_that_varies_does_not_evict_the_good_ones() {
        let good: Vec<_> = (0..8).map(|i| format!(r#"{{"machine_id":"m","good{i}":"x"}}"#)).collect();
        let [mut parser, ..] = trained(&good);
        for i in 0..1000 {
            let _ = parser.parse(format!(r#"{{"machine_id":"m","k{i}":1}}"#).as_bytes(), LIMITS);
        }
        for record in good.iter().rev() {
            // One that stands behind those that are tried comes to the front by its first record that is looked at.
            let _ = parser.parse(format!("{record}\n").repeat(8).as_bytes(), LIMITS);
            assert!(parser.shapes.read_known(record.as_bytes(), 0, true, &mut parser.found).is_some(), "{record}");
        }
    }
}

mod differential {
    use super::*;

    /// A JSON value of any kind, with a liking for what the rules look at.
    fn value() -> impl Strategy<Value = String> {
        let plain = select(
            &[
                "null",
                "true",
                "false",
                "0",
                "-0.0",
                "0e5",
                "17",
                "-1.5e-3",
                "1e999",
                "18446744073709551616",
                "\"\"",
                "\"app\"",
                "\"fly\"",
                "\"stderr\"",
                "\"a\\nb\"",
                "\"\\ud800\"",
                "\"\\ud83d\\ude00\"",
                "\"\\u0061\"",
                "\"\\\\\"",
                "\"é\"",
                "{}",
                "[]",
                "[ ]",
                "{\n}",
                "\"}{\"",
                "\"\\\"},{\"",
                "\"text with spaces\"",
                "01",
                "nul",
                "\"\\q\"",
                "\"\t\"",
            ][..],
        )
        .prop_map(str::to_owned);
        let any = "\"[a-z\\\\{}\\[\\]:, é\u{7f}]{0,12}\"";
        let long = (1_usize..300).prop_map(|len| format!("\"{}\"", "x".repeat(len)));
        let leaf = prop_oneof![6 => plain, 2 => any, 1 => long];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                object(inner).boxed(),
            ]
        })
    }

    fn key() -> impl Strategy<Value = &'static str> {
        select(
            &[
                "fly",
                "app",
                "instance",
                "name",
                "machine",
                "id",
                "region",
                "log",
                "level",
                "event",
                "provider",
                "machine_id",
                "message",
                "msg",
                "stream",
                "timestamp",
                "time",
                "ts",
                "dt",
                "host",
                "source",
                "x",
                "\\u0066ly",
                "ap\\u0070",
                "m\\u0065ssage",
                "machine\\u005fid",
                "\\ud800",
                "",
            ][..],
        )
    }

    fn blank() -> impl Strategy<Value = &'static str> {
        select(&["", "", "", "", "", " ", "\t", "\r", "\n"][..])
    }

    fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        vec((key(), blank(), value), 0..6).prop_map(|items| {
            let items: Vec<_> =
                items.iter().map(|(key, blank, value)| format!("\"{key}\"{blank}:{blank}{value}")).collect();
            format!("{{{}}}", items.join(","))
        })
    }

    fn record() -> impl Strategy<Value = String> {
        let shaped = (value(), value(), value()).prop_map(|(a, b, c)| {
            format!(r#"{{"event":{{"provider":{a}}},"fly":{{"app":{{"instance":{b},"name":"n"}}}},"message":{c}}}"#)
        });
        prop_oneof![4 => Just(FLY.to_owned()), 4 => object(value()), 3 => shaped, 1 => value(), 1 => Just(m("a"))]
    }

    #[derive(Clone, Debug)]
    enum Mutation {
        Flip(usize, u8),
        Insert(usize, Vec<u8>),
        Delete(usize, usize),
        Truncate(usize),
        Repeat(usize, usize),
    }

    fn mutation() -> impl Strategy<Value = Mutation> {
        let marks = select(&b"{}[]:,\"\\\n\r\t 0-e.ut\x00\x1f\xff\xe2\x82"[..]);
        let at = any::<prop::sample::Index>().prop_map(|index| index.index(1 << 20));
        prop_oneof![
            (at.clone(), prop_oneof![any::<u8>(), marks.clone()]).prop_map(|(at, byte)| Mutation::Flip(at, byte)),
            (at.clone(), vec(marks, 1..4)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
            (at.clone(), 1_usize..9).prop_map(|(at, len)| Mutation::Delete(at, len)),
            at.clone().prop_map(Mutation::Truncate),
            (at, 1_usize..40).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        ]
    }

    fn mutate(body: &mut Vec<u8>, mutation: Mutation) {
        if body.is_empty() {
            return;
        }
        let place = |at: usize| at % body.len();
        match mutation {
            Mutation::Flip(at, byte) => {
                let at = place(at);
                body[at] = byte;
            }
            Mutation::Insert(at, bytes) => drop(body.splice(place(at)..place(at), bytes).collect::<Vec<_>>()),
            Mutation::Delete(at, len) => drop(body.drain(place(at)..body.len().min(place(at) + len))),
            Mutation::Truncate(at) => body.truncate(place(at)),
            Mutation::Repeat(at, len) => {
                let piece = body[place(at)..body.len().min(place(at) + len)].to_vec();
                drop(body.splice(place(at)..place(at), piece).collect::<Vec<_>>());
            }
        }
    }

    /// The records that a body is made of, and the body after mutations.
    fn body() -> impl Strategy<Value = (Vec<String>, Vec<u8>)> {
        let form = select(
            &[
                ("", "\n", ""),
                ("", "\r\n", "\n"),
                ("[", ",", "]"),
                ("[\n", " ,\n", "\n]\n"),
                ("", "", ""),
                ("\u{FEFF}", "\n\n", ""),
            ][..],
        );
        (form, vec(record(), 0..6), vec(mutation(), 0..4)).prop_map(|((open, between, close), records, mutations)| {
            let mut body = format!("{open}{}{close}", records.join(between)).into_bytes();
            mutations.into_iter().for_each(|mutation| mutate(&mut body, mutation));
            (records, body)
        })
    }

    fn cases() -> u32 {
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_body_is_read_as_the_reference_reads_it((_, body) in body(), line_bytes_max in select(&[1_usize << 20, 1 << 20, 300, 60][..])) {
            agreed_within(&body, Limits { line_bytes_max, errors_max: 5 });
        }

        #[test]
        fn what_simd_json_reads_we_read((_, body) in body()) {
            for line in body.split(|&byte| byte == b'\n') {
                let parsed = parse_log_entry(line);
                if simd_json::to_tape(&mut line.to_vec()).is_ok() {
                    prop_assert_ne!(parsed.err(), Some(RejectReason::MalformedJson));
                }
            }
        }

        #[test]
        fn known_shapes_change_nothing((records, body) in body(), line_bytes_max in select(&[1_usize << 20, 300][..])) {
            let limits = Limits { line_bytes_max, errors_max: 5 };
            let wanted = reference::parse(&body, limits);
            for mut parser in trained(&records) {
                let (first, again) = (parser.parse(&body, limits), parser.parse(&body, limits));
                prop_assert_eq!(&expected(&body, first), &wanted, "{}", String::from_utf8_lossy(&body));
                prop_assert_eq!(&expected(&body, again), &wanted, "{}", String::from_utf8_lossy(&body));
            }
        }

        #[test]
        fn a_string_of_any_length_with_anything_in_it_is_read_alike(
            pieces in vec(select(&["a", "b", "0123456789abcdef", "é", "\u{10348}", "\\n", "\\\"", "\\\\", "\\u001b", "\\ud83d\\ude00", "\\ud800", "\\u12"][..]), 0..40),
            odd in select(&["", "", "", "\"", "\n", "\\", "\\x", "\u{1f}", "\u{7f}"][..]),
        ) {
            let text = pieces.concat() + odd;
            for hole in ["6e82d4e6a37548", "c0de", "checked"] {
                let mut body = format!("{FLY}\n{FLY}\n{}\n", FLY.replace(hole, &text)).into_bytes();
                agreed_within(&body, LIMITS);
                // Without anything behind it, and with a byte that is no text.
                body.pop();
                agreed_within(&body, LIMITS);
                let at = body.len() - FLY.len() / 2;
                body[at] = 0xFF;
                agreed_within(&body, LIMITS);
            }
        }

        #[test]
        fn serde_json_agrees_where_it_reads_the_record_too(record in record()) {
            let parsed = parse_log_entry(record.as_bytes());
            let malformed = parsed.as_ref().err() == Some(&RejectReason::MalformedJson);
            match serde_json::from_str::<Serde>(&record) {
                // It refuses lone surrogates and numbers over f64, we do not.
                Err(_) if malformed || record.contains("\\ud800") || record.contains("1e999") => {}
                Err(error) => prop_assert!(false, "{record}: {error}"),
                Ok(tree) => {
                    prop_assert!(!malformed, "{}", record);
                    if let Ok(entry) = parsed {
                        prop_assert_eq!(strings(&entry), strings_by_serde(&tree));
                    }
                }
            }
        }
    }
}

mod boot {
    use super::*;
    use crate::{batch::Kind, config::BootLines};

    fn kinds(boot_lines: BootLines, records: &[String]) -> Vec<Kind> {
        // Again and again, so that shapes are known.
        let body = records.concat().repeat(3);
        let rows = Parser::new(boot_lines).parse(body.as_bytes(), LIMITS).rows;
        let kinds: Vec<_> = rows.iter().map(|row| row.kind).collect();
        kinds.chunks(records.len()).for_each(|round| assert_eq!(round, &kinds[..records.len()]));
        kinds[..records.len()].to_vec()
    }

    #[test]
    fn boot_lines_are_system_where_asked_and_only_flys() {
        let fly = |provider: &str, message: &str| {
            format!(
                "{}\n",
                FLY.replace("app\"},", &format!("{provider}\"}},")).replace("\"time=", &format!("\"{message}time="))
            )
        };
        let named = fly("app", " INFO Starting clean up.").replace("{\"event\"", "{\"stream\":\"stdout\",\"event\"");
        let records = [
            fly("app", ""),
            fly("app", " INFO Starting clean up."),
            fly("app", "[    0.000000] Linux version 5.15.98-fly"),
            fly(
                "app",
                "2026-01-15T11:19:12.315178457 [01KF0NKGMJW8866MYQ14GQHFTY:main] Listening on API socket (\\\"/fc.sock\\\").",
            ),
            fly("app", " INFO \\u0053tarting clean up."),
            fly("app", "and then: INFO Starting clean up."),
            fly("", " INFO Starting clean up."),
            fly("runner", "Configuring firecracker"),
            named,
        ];
        use Kind::{Stdout, System};
        let expected = [Stdout, System, System, System, System, Stdout, Stdout, System, Stdout];
        assert_eq!(kinds(BootLines::System, &records), expected);
        let expected = [Stdout, Stdout, Stdout, Stdout, Stdout, Stdout, Stdout, System, Stdout];
        assert_eq!(kinds(BootLines::Stdout, &records), expected, "the table of the rules");
    }
}
