//! Bodies as each store's documentation has them.

use serde_json::{Value, json};

use super::{elasticsearch::push_part, *};

/// Three lines of two machines; the second has a time that is none and a level that nobody knows.
const BODY: &str = concat!(
    r#"{"fly":{"app":{"instance":"m1","name":"shop"},"region":"fra"},"host":"h1","log":{"level":"info"},"#,
    r#""message":"first \"line\"","timestamp":"2026-11-24T20:00:02Z"}"#,
    "\n",
    r#"{"fly":{"app":{"instance":"m2","name":"shop"},"region":"fra"},"log":{"level":"odd"},"message":"second","timestamp":"now"}"#,
    "\n",
    r#"{"fly":{"app":{"instance":"m1","name":"shop"},"region":"fra"},"host":"h1","log":{"level":"INFO"},"#,
    r#""message":"third","stream":"stderr","timestamp":"2026-11-24T20:00:01Z"}"#,
);

struct Sent {
    parcel: Parcel,
    text: String,
}

fn sent(format: Format, encoding: Encoding) -> Sent {
    sent_by(&Form { format, encoding, index: None })
}

fn sent_by(form: &Form) -> Sent {
    let parcel = Parcel::of_body(BODY);
    let mut out = Vec::with_capacity(form.size_hint(&parcel));
    let room = out.capacity();
    form.write(&parcel, &mut out);
    assert_eq!(out.capacity(), room, "the size hint was too small");
    Sent { parcel, text: String::from_utf8(out).unwrap() }
}

impl Sent {
    fn whole(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        assert!(self.text.ends_with('\n'));
        self.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn id(&self, line: usize) -> String {
        self.parcel.entries().nth(line).unwrap().id().unwrap().to_string()
    }

    fn received_at(&self) -> String {
        self.received().to_string()
    }

    fn received(&self) -> Timestamp {
        self.parcel.entries().next().unwrap().received_at().unwrap()
    }

    fn note(&self, line: usize, seq: u64) -> Value {
        json!({"id": self.id(line), "received_at": self.received_at(), "machine_seq": seq})
    }

    fn record(&self, line: usize) -> String {
        BODY.lines().nth(line).unwrap().to_owned()
    }
}

#[test]
fn lines_and_arrays_are_the_records_as_sent_with_what_the_drain_knows() {
    let lines = sent(Format::Ndjson, Encoding::Raw);
    let wanted: Vec<Value> = [(0, 1), (1, 1), (2, 2)]
        .map(|(line, seq)| {
            let mut record: Value = serde_json::from_str(&lines.record(line)).unwrap();
            record["fleetdrain"] = lines.note(line, seq);
            record
        })
        .into();
    assert_eq!(lines.lines(), wanted);
    assert_eq!(sent(Format::Fleetdrain, Encoding::Raw).lines().len(), 3);
    let array = sent(Format::Array, Encoding::Entry).whole();
    assert_eq!(array.as_array().unwrap().len(), 3);
    assert_eq!((&array[2]["machine_id"], &array[2]["machine_seq"]), (&json!("m1"), &json!(2)));
}

#[test]
fn stores_that_look_for_a_time_find_one_that_they_can_read() {
    for (format, member) in [(Format::VictoriaLogs, "_time"), (Format::Axiom, "_time"), (Format::BetterStack, "dt")] {
        let sent = sent(format, Encoding::Raw);
        let lines = sent.lines();
        assert_eq!(lines[0][member], "2026-11-24T20:00:02Z");
        assert_eq!(lines[1][member], sent.received_at());
        assert_eq!(lines[2]["fleetdrain"], sent.note(2, 2));
    }
}

#[test]
fn loki_gets_three_labels_and_the_machine_in_structured_metadata() {
    let sent = sent(Format::Loki, Encoding::Entry);
    let metadata = |line: usize, machine: &str, seq: &str, stream: &str| json!({"id": sent.id(line), "machine_seq": seq, "received_at": sent.received_at(), "machine_id": machine, "stream": stream});
    let mut first = metadata(0, "m1", "1", "stdout");
    let mut second = metadata(1, "m2", "1", "stdout");
    let mut third = metadata(2, "m1", "2", "stderr");
    first["host"] = "h1".into();
    third["host"] = "h1".into();
    second["level_sent"] = "odd".into();
    let received = sent.received().as_nanosecond().to_string();
    // By labels, and by time within them: the third line is older than the first.
    let wanted = json!({"streams": [
        {"stream": {"app": "shop", "region": "fra", "level": "info"}, "values": [
            ["1795550401000000000", "third", third],
            ["1795550402000000000", "first \"line\"", first],
        ]},
        {"stream": {"app": "shop", "region": "fra"}, "values": [[received, "second", second]]},
    ]});
    assert_eq!(sent.whole(), wanted);
}

#[test]
fn loki_gets_the_record_as_its_line_where_it_is_raw() {
    let sent = sent(Format::Loki, Encoding::Raw);
    let body = sent.whole();
    let line: Value = serde_json::from_str(body["streams"][1]["values"][0][1].as_str().unwrap()).unwrap();
    assert_eq!((&line["message"], &line["fleetdrain"]), (&json!("second"), &sent.note(1, 1)));
}

#[test]
fn elasticsearch_creates_each_line_under_its_id() {
    let sent = sent(Format::Elasticsearch, Encoding::Entry);
    let lines = sent.lines();
    assert_eq!(lines.len(), 6);
    for line in 0..3 {
        assert_eq!(lines[2 * line], json!({"create": {"_id": sent.id(line)}}));
        assert_eq!(lines[2 * line + 1]["id"], sent.id(line));
    }
    assert_eq!(lines[1]["@timestamp"], "2026-11-24T20:00:02Z");
}

#[test]
fn an_index_may_depend_on_the_line() {
    let index = Some(IndexName::read("logs-{app}-{region}-{date}").unwrap());
    let sent = sent_by(&Form { format: Format::Elasticsearch, encoding: Encoding::Raw, index });
    assert_eq!(sent.lines()[0]["create"]["_index"], "logs-shop-fra-2026.11.24");
    let mut name = "x-".to_owned();
    push_part("A b/ü", &mut name);
    assert_eq!(name, "x-a_b__");
    for bad in ["", "Logs", "a b", "-a", "{app", "{machine}", "a/b", "a\r\n"] {
        assert!(IndexName::read(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn clickhouse_gets_flat_columns() {
    let sent = sent(Format::ClickHouse, Encoding::Raw);
    let wanted = json!({
        "timestamp": "2026-11-24T20:00:01Z", "received_at": sent.received_at(), "id": sent.id(2), "machine_seq": 2,
        "machine_id": "m1", "app_name": "shop", "region": "fra", "host": "h1", "stream": "stderr", "level": "INFO",
        "message": "third", "record": sent.record(2),
    });
    assert_eq!(sent.lines()[2], wanted);
    let entry = self::sent(Format::ClickHouse, Encoding::Entry);
    assert_eq!(entry.lines()[0].get("record"), None);
}

#[test]
fn otlp_has_a_resource_for_each_machine() {
    let sent = sent(Format::Otlp, Encoding::Raw);
    let string = |key: &str, text: &str| json!({"key": key, "value": {"stringValue": text}});
    let body = sent.whole();
    let machines = body["resourceLogs"].as_array().unwrap();
    assert_eq!(machines.len(), 2);
    let resource = json!({"attributes": [
        string("service.name", "shop"), string("service.instance.id", "m1"),
        string("cloud.region", "fra"), string("host.name", "h1"),
    ]});
    assert_eq!(machines[0]["resource"], resource);
    // 64-bit integers are strings in the JSON of protobuf; an enum is a number.
    let record = json!({
        "timeUnixNano": "1795550401000000000",
        "observedTimeUnixNano": sent.received().as_nanosecond().to_string(),
        "severityNumber": 9, "severityText": "INFO",
        "body": {"stringValue": "third"},
        "attributes": [
            string("log.iostream", "stderr"), string("fleetdrain.id", &sent.id(2)),
            {"key": "fleetdrain.machine_seq", "value": {"intValue": "2"}},
            string("log.record.original", &sent.record(2)),
        ],
    });
    assert_eq!(machines[0]["scopeLogs"][0]["logRecords"][1], record);
    let odd = &machines[1]["scopeLogs"][0]["logRecords"][0];
    assert_eq!((odd.get("severityNumber"), &odd["severityText"]), (None, &json!("odd")));
}

#[test]
fn datadog_gets_its_reserved_attributes() {
    let sent = sent(Format::Datadog, Encoding::Entry);
    let wanted = json!({
        "ddsource": "fly", "message": "third", "service": "shop", "hostname": "h1", "status": "INFO",
        "timestamp": "2026-11-24T20:00:01Z", "ddtags": "app:shop,region:fra,machine:m1", "stream": "stderr",
        "fleetdrain": {
            "id": sent.id(2), "received_at": sent.received_at(), "machine_seq": 2, "machine_id": "m1",
        },
    });
    assert_eq!(sent.whole()[2], wanted);
    let raw = self::sent(Format::Datadog, Encoding::Raw).whole();
    assert_eq!(raw[0]["record"]["message"], "first \"line\"");
}

#[test]
fn whatever_a_record_holds_bodies_are_json() {
    let hostile = concat!(
        "{\"instance\":\"m\\u0000\\\"\\n\",\"message\":{\"a\":[1]},\"level\":\"\\u2028\\\\\",\"timestamp\":1795550401}\r\n",
        "{\"instance\":\"n\",\r\"message\":\"\\ud83d\\ude00 \u{1F600}\",\"host\":\"\\t\",\"fly\":{\"region\":\",\\\"\"} }",
    );
    let mut parcels = vec![Parcel::of_body(hostile)];
    parcels.push(Parcel::of_body(&b"{\"instance\":\"i\",\"message\":\"\xff\xfe\"}"[..]));
    for parcel in &parcels {
        for encoding in [Encoding::Raw, Encoding::Entry] {
            for format in [Format::Array, Format::Datadog, Format::Loki, Format::Otlp] {
                let form = Form { format, encoding, index: None };
                let mut out = Vec::new();
                form.write(parcel, &mut out);
                serde_json::from_slice::<Value>(&out).unwrap_or_else(|error| panic!("{format:?}: {error}"));
            }
            for format in [Format::Ndjson, Format::ClickHouse, Format::VictoriaLogs, Format::Elasticsearch] {
                let mut out = Vec::new();
                Form { format, encoding, index: None }.write(parcel, &mut out);
                let lines = String::from_utf8(out).unwrap();
                let each = if format == Format::Elasticsearch { 2 } else { 1 };
                assert_eq!(lines.lines().count(), each * parcel.lines());
                for line in lines.lines() {
                    serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{format:?}: {error}"));
                }
            }
        }
    }
}

#[test]
fn no_member_stands_twice() {
    let record = concat!(
        r#"{"instance":"m","fleetdrain":{"id":"first"},"@timestamp":"2026-11-24T20:00:02Z","_time":1,"dt":"2026-11-24T20:00:02Z","#,
        r#""message":"a \"dt\": of its own"}"#,
    );
    for (format, member) in [
        (Format::Ndjson, None),
        (Format::Elasticsearch, Some("@timestamp")),
        (Format::VictoriaLogs, Some("_time")),
        (Format::Axiom, Some("_time")),
        (Format::BetterStack, Some("dt")),
    ] {
        let parcel = Parcel::of_body(record);
        let mut out = Vec::new();
        Form { format, encoding: Encoding::Raw, index: None }.write(&parcel, &mut out);
        let text = String::from_utf8(out).unwrap();
        let line = text.lines().last().unwrap();
        for member in member.into_iter().chain(["fleetdrain"]) {
            assert_eq!(line.matches(&format!("\"{member}\":")).count(), 1, "{format:?}: {line}");
        }
        let line: Value = serde_json::from_str(line).unwrap();
        // What an earlier drain knew is not lost, and neither is anything else.
        assert_eq!(line["fleetdrain"]["before"], json!({"id": "first"}), "{format:?}");
        assert_eq!(line["message"], "a \"dt\": of its own");
        assert_eq!(line.as_object().unwrap().len(), 6, "{format:?}: {line}");
    }
}

/// What a script of `tests/sinks/` makes of a body: a JSON value a line.
fn read_by(script: &str, body: &str) -> Vec<Value> {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };
    let mut python = Command::new("python3")
        .arg(format!("{}/tests/sinks/{script}", env!("CARGO_MANIFEST_DIR")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{script} fails");
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
#[ignore = "needs chdb, which is ClickHouse as a library (PyPI): scripts/test.sh"]
fn clickhouse_reads_the_rows() {
    let sent = sent(Format::ClickHouse, Encoding::Raw);
    let rows = read_by("clickhouse.py", &sent.text);
    assert_eq!(rows.len(), 3);
    for (line, row) in rows.iter().enumerate() {
        assert_eq!((&row["id"], &row["record"]), (&sent.id(line).into(), &sent.record(line).into()));
        assert_eq!(row["machine_seq"], [1, 1, 2][line]);
    }
    assert_eq!((&rows[0]["message"], &rows[0]["level"]), (&"first \"line\"".into(), &"info".into()));
    assert_eq!(rows[2]["timestamp"], "2026-11-24 20:00:01.000000000");
    // Its time is none: that of its receipt is told.
    assert_eq!(rows[1]["timestamp"], rows[1]["received_at"]);
}

#[test]
#[ignore = "needs opentelemetry-proto (PyPI): scripts/test.sh"]
fn opentelemetry_reads_the_records() {
    let sent = sent(Format::Otlp, Encoding::Raw);
    let records = read_by("otlp.py", &sent.text);
    // By machine, in the order of their first lines.
    for (record, line) in records.iter().zip([0, 2, 1]) {
        assert_eq!(record["attributes"]["fleetdrain.id"], sent.id(line));
        assert_eq!(record["attributes"]["log.record.original"], sent.record(line));
        assert_eq!(record["resource"]["service.name"], "shop");
    }
    assert_eq!((records.len(), &records[0]["severity"], &records[2]["severity"]), (3, &9.into(), &0.into()));
    assert_eq!((&records[1]["body"], &records[1]["attributes"]["log.iostream"]), (&"third".into(), &"stderr".into()));
    assert_eq!(records[1]["nanoseconds"], 1_795_550_401_000_000_000_u64);
}
