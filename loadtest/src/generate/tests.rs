use super::*;
use serde_json::Value;
use std::collections::{HashMap, HashSet};

const STAMP: [u8; 30] = *b"2026-06-27T01:19:11.789045558Z";
const RUN: u32 = 0x00c0_ffee;

fn body(spec: &RecordSpec, lines: usize) -> (Generator, Vec<u8>, Contents) {
    let mut generator = Generator::whole_fleet(spec, RUN, 100, 1.0, 42);
    let mut bytes = Vec::new();
    let contents = generator.body(lines, 1_234_567, &STAMP, &mut bytes);
    (generator, bytes, contents)
}

fn records(body: &[u8]) -> Vec<Value> {
    body.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("valid JSON"))
        .collect()
}

#[test]
fn records_are_valid_json_that_say_who_they_are() {
    let (_, bytes, contents) = body(&RecordSpec { stderr: 0.2, ..RecordSpec::default() }, 2_000);
    let records = records(&bytes);
    assert_eq!(records.len(), 2_000);
    assert_eq!((contents.lines(), contents.malformed), (2_000, 0));
    let mut next: HashMap<(MachineId, u8), u64> = HashMap::new();
    for record in records {
        let mark = Mark::read(record["message"].as_str().unwrap().as_bytes(), &run_id(RUN)).unwrap();
        assert_eq!(record["fly"]["app"]["instance"].as_str().unwrap().as_bytes(), mark.machine);
        assert_eq!(record["stream"].as_str() == Some("stderr"), mark.stream == STDERR);
        assert_eq!(mark.due_micros, 1_234_567);
        let last = next.entry((mark.machine, mark.stream)).or_default();
        *last += 1;
        assert_eq!(mark.sequence, *last, "numbers count up from 1 by machine and stream");
    }
}

#[test]
fn sizes_and_shares_are_met() {
    let (_, bytes, _) = body(&RecordSpec { stderr: 0.25, ..RecordSpec::default() }, 20_000);
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
    let share = |count: usize| count as f64 / lines.len() as f64;
    let mean = lines.iter().map(|line| line.len()).sum::<usize>() as f64 / lines.len() as f64;
    assert!((mean - 340.0).abs() < 10.0, "{mean}");
    let escapes = share(lines.iter().filter(|line| line.contains(&b'\\')).count());
    assert!((escapes - 0.3).abs() < 0.02, "{escapes}");
    let non_ascii = share(lines.iter().filter(|line| !line.is_ascii()).count());
    assert!((non_ascii - 0.07).abs() < 0.01, "{non_ascii}");
    let stderr = share(lines.iter().filter(|line| memchr::memmem::find(line, b"\"stderr\"").is_some()).count());
    assert!((stderr - 0.25).abs() < 0.02, "{stderr}");
}

#[test]
fn an_array_is_one_json_value_even_with_malformed_records() {
    let (_, bytes, contents) = body(&RecordSpec { form: Form::Array, malformed: 0.1, ..RecordSpec::default() }, 500);
    let Value::Array(elements) = serde_json::from_slice(&bytes).unwrap() else { panic!("not an array") };
    assert_eq!(elements.len() as u64, contents.lines());
    let rejected = elements.iter().filter(|element| element["fly"]["app"]["name"].is_null()).count() as u64;
    assert_eq!(rejected, contents.malformed);
    assert!(contents.malformed > 10);
}

#[test]
fn malformed_lines_are_malformed_and_counted() {
    let (_, bytes, contents) = body(&RecordSpec { malformed: 0.2, ..RecordSpec::default() }, 1_000);
    let good = bytes
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter(|record| record["fly"]["app"]["instance"].as_str().is_some_and(|id| !id.is_empty()))
        .count();
    assert_eq!(good, contents.good.len());
    assert_eq!(contents.lines(), 1_000);
    assert!(contents.malformed > 100);
}

#[test]
fn varied_lines_share_no_shape() {
    let (_, bytes, _) = body(&RecordSpec { shapes: Shapes::Varied, ..RecordSpec::default() }, 1_000);
    let keys: HashSet<String> = records(&bytes)
        .iter()
        .flat_map(|record| {
            record.as_object().unwrap().keys().filter(|key| key.starts_with('k')).cloned().collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(keys.len(), 1_000);
}

#[test]
fn a_body_taken_back_gives_its_numbers_to_the_next() {
    let (mut generator, _, contents) = body(&RecordSpec::default(), 50);
    generator.take_back(&contents);
    assert!(generator.machines.iter().all(|machine| machine.sent == [0, 0]));
}

#[test]
fn machine_ids_are_unique_and_of_flys_shape() {
    let ids: HashSet<MachineId> = (0..100_000).map(|number| machine_id(RUN, number)).collect();
    assert_eq!(ids.len(), 100_000);
    assert!(ids.iter().flatten().all(u8::is_ascii_hexdigit));
}

#[test]
fn timestamps_are_rfc3339() {
    assert_eq!(&rfc3339(0), b"1970-01-01T00:00:00.000000000Z");
    assert_eq!(&rfc3339(1_782_523_151_789_045_558), b"2026-06-27T01:19:11.789045558Z");
    assert_eq!(&rfc3339(1_709_164_800_000_000_000), b"2024-02-29T00:00:00.000000000Z");
}

#[test]
fn a_mark_of_another_run_is_not_ours() {
    let (_, bytes, _) = body(&RecordSpec::default(), 1);
    let at = memchr::memmem::find(&bytes, &run_id(RUN)).unwrap();
    assert!(Mark::read(&bytes[at..], &run_id(RUN)).is_some());
    assert!(Mark::read(&bytes[at..], &run_id(1)).is_none());
    assert!(Mark::read(&bytes[at..at + 20], &run_id(RUN)).is_none());
}
