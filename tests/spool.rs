//! The spool on a real disk, and what `fleetdrain spool` shows and mends of it.

#![cfg(all(feature = "spool", feature = "cli"))]
// clippy.toml lets tests unwrap, but sees only functions marked as tests, not their helpers.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use bytes::Bytes;
use fleetdrain::spool::{Bounds, Lines, NewRecord, Seek, Spool};
use jiff::Timestamp;
use serde_json::Value;

/// An empty directory of a test's own.
fn dir(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("spool").join(name);
    let _ = fs::remove_dir_all(&dir);
    dir
}

fn line(machine: &str, message: &str) -> String {
    format!(r#"{{"instance":"{machine}","message":"{message}"}}"#)
}

/// A shut spool of 40 records in several segments; each has a line of `odd` or `even`, and one of `both`.
fn fill(dir: &Path) {
    let spool = Spool::open(dir, Bounds { segment_bytes: 2048, ..Bounds::new(1 << 30) }, None).unwrap();
    for number in 0..40 {
        let machine = if number % 2 == 0 { "even" } else { "odd" };
        let lines = [line(machine, &format!("line {number}")), line("both", "and this")];
        let body = if number % 3 == 0 { format!("[{}]", lines.join(",")) } else { lines.join("\n") };
        let record = NewRecord {
            body: body.into(),
            received_at: Timestamp::now(),
            lines: 2,
            machines: &[(machine, Lines([1, 0, 0, 0])), ("both", Lines([1, 0, 0, 0]))],
            key: b"",
        };
        spool.append(&record).unwrap().wait().unwrap();
    }
    spool.shut();
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn fleetdrain(command: &[&str], dir: &Path) -> Ran {
    let mut process = assert_cmd::cargo_bin_cmd!("fleetdrain");
    process.arg("spool").args(command).arg("--dir").arg(dir).timeout(std::time::Duration::from_secs(60));
    let output = process.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = paths.filter(|path| path.extension().is_some_and(|is| is == "seg")).collect();
    segments.sort();
    segments
}

#[test]
fn ls_lists_the_segments_and_dump_prints_what_is_in_them() {
    let dir = dir("ls");
    fill(&dir);
    let listed = fleetdrain(&["ls", "--json"], &dir);
    let listed: Vec<Value> = listed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(listed.len(), segments(&dir).len());
    assert!(listed.len() > 3);
    assert_eq!(listed.iter().map(|segment| segment["records"].as_u64().unwrap()).sum::<u64>(), 40);
    assert_eq!((&listed[0]["sequences"][0], &listed.last().unwrap()["lines"][1]), (&1.into(), &80.into()));
    let table = fleetdrain(&["ls"], &dir);
    assert!(table.out.starts_with("SEGMENT") && table.out.lines().count() == listed.len() + 1, "{}", table.out);

    let all = fleetdrain(&["dump"], &dir);
    assert_eq!((all.code, all.out.lines().count(), all.err.as_str()), (0, 80, ""));
    let odd = fleetdrain(&["dump", "-m", "odd", "--since", "1h"], &dir);
    let messages = odd.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["message"].clone());
    let expected = (0..40).filter(|number| number % 2 == 1).map(|number| Value::from(format!("line {number}")));
    assert!(messages.eq(expected), "{}", odd.out);
    let ids: Vec<Value> = all.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    assert!(ids.iter().all(|entry| entry["received_at"].is_string() && entry["machine_seq"].is_null()));
    let number = |entry: &Value| {
        let id = entry["id"].as_str().unwrap();
        u64::from_str_radix(id.split('-').nth(1).unwrap(), 16).unwrap()
    };
    assert!(ids.iter().map(number).eq(0..80), "an id each, as a drain tells it");
    let raw = fleetdrain(&["dump", "--raw", "--from", "40"], &dir);
    assert_eq!(
        raw.out,
        format!("{}\n{}\n", line("odd", "line 39"), line("both", "and this")),
        "lines, to be posted again"
    );
}

#[test]
fn verify_finds_damage_and_repair_mends_it() {
    let dir = dir("verify");
    fill(&dir);
    let whole = fleetdrain(&["verify"], &dir);
    assert_eq!(whole.code, 0, "{}", whole.out);
    let second = &segments(&dir)[1];
    let mut content = fs::read(second).unwrap();
    content[200] ^= 4;
    fs::write(second, &content).unwrap();
    let damaged = fleetdrain(&["verify"], &dir);
    assert_eq!(damaged.code, 65);
    let dumped = fleetdrain(&["dump", "--raw"], &dir);
    assert_eq!((dumped.code, dumped.out.lines().count()), (65, 78), "{}", dumped.err);
    assert!(dumped.err.contains("damaged places were left out, 1 of them"), "{}", dumped.err);
    assert!(damaged.out.contains("damaged from byte 64 to"), "{}", damaged.out);
    assert_eq!(fs::read(second).unwrap(), content, "verify changed something");
    let repaired = fleetdrain(&["repair"], &dir);
    assert_eq!(repaired.code, 0);
    assert!(repaired.out.contains("mended: damaged from byte 64 to"), "it says what it did: {}", repaired.out);
    let mended = fleetdrain(&["verify"], &dir);
    assert_eq!(mended.code, 0, "{}", mended.out);
    assert!(mended.out.contains("left out"), "{}", mended.out);
    assert_eq!(fleetdrain(&["dump"], &dir).out.lines().count(), 78);
    assert!(
        fs::read_dir(&dir)
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_str().unwrap().starts_with("quarantine-") })
    );
}

#[test]
fn what_cannot_be_opened_is_told_by_the_exit_code() {
    let dir = dir("exit");
    let none = fleetdrain(&["ls"], &dir);
    assert_eq!(none.code, 74, "{}", none.err);
    fs::create_dir_all(&dir).unwrap();
    for command in ["ls", "verify", "repair", "dump"] {
        let empty = fleetdrain(&[command], &dir);
        assert_eq!(empty.code, 74, "{}", empty.err);
        assert!(empty.err.contains("there is no spool"), "{}", empty.err);
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    fill(&dir);
    let spool = Spool::open(&dir, Bounds::default(), None).unwrap();
    let locked = fleetdrain(&["repair"], &dir);
    assert_eq!(locked.code, 69, "{}", locked.err);
    spool.shut();
    drop(spool);
    fs::write(dir.join("format"), "fleetdrain spool 9 0123456789abcdef\n").unwrap();
    for command in ["ls", "verify", "repair", "dump"] {
        let other = fleetdrain(&[command], &dir);
        assert_eq!(other.code, 78, "{}", other.err);
        assert!(other.err.contains("version 9"), "{}", other.err);
    }
}

/// Prints how long a start takes: `cargo test --release --test spool -- --ignored --nocapture`.
#[test]
#[ignore = "writes 10 GiB"]
fn a_start_with_ten_gibibytes_of_backlog() {
    let dir = dir("large");
    let bounds = Bounds { bytes_max: 100 << 30, ..Bounds::default() };
    let spool = Spool::open(&dir, bounds, None).unwrap();
    let body = Bytes::from(vec![b'x'; 340_000]);
    let mut pending = Vec::new();
    for number in 0..32_000u32 {
        let machine = format!("{:014x}", number % 1000);
        let record = NewRecord {
            body: body.clone(),
            received_at: Timestamp::now(),
            lines: 1000,
            machines: &[(&machine, Lines([1000, 0, 0, 0]))],
            key: b"",
        };
        pending.push(spool.append(&record).unwrap());
        if pending.len() == 16 {
            for record in pending.drain(..) {
                record.wait().unwrap();
            }
        }
    }
    let bytes = spool.counted().bytes;
    spool.shut();
    drop(spool);
    let start = |what: &str| {
        let started = Instant::now();
        let spool = Spool::open(&dir, bounds, None).unwrap();
        println!("{bytes} bytes, {what}: ready in {:?}", started.elapsed());
        let started = Instant::now();
        assert_eq!(spool.machine_records("nobody", 0).count(), 0);
        let records = spool.machine_records("00000000000007", 0).count();
        println!("one machine's {records} records read in {:?}", started.elapsed());
        assert_eq!((records, spool.range().1.end), (32, 32_000_000));
        assert!(spool.first(Seek::Line(31_999_999)).unwrap().is_some());
        spool.shut();
    };
    start("shut before");
    // As a kill leaves it: the last segment without its end.
    let last = segments(&dir).pop().unwrap();
    let file = fs::OpenOptions::new().write(true).open(&last).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    start("last segment not sealed");
    fs::remove_dir_all(&dir).unwrap();
}
