//! One line of the stream, as a person or a program wants it.

use std::borrow::Cow;

use serde::Deserialize;

use crate::cli::text::{escape, escape_json};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Look {
    /// `TIME APP[MACHINE] REGION [LEVEL] MESSAGE`
    #[default]
    Default,
    /// The message only
    Raw,
    /// The JSON entry as it came
    Json,
}

/// What a line of the stream says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An entry, which was printed, and its id.
    Entry(Option<String>),
    Skipped(Option<u64>),
    /// The end, why, and with which code the machine exited.
    End(String, Option<i64>),
}

/// The keys of the stream's records that matter here; others may come.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line<'a> {
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    lines: Option<u64>,
    exit_code: Option<i64>,
    id: Option<String>,
    #[serde(borrow)]
    machine_id: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    received_at: Cow<'a, str>,
    #[serde(borrow)]
    app_name: Cow<'a, str>,
    #[serde(borrow)]
    region: Cow<'a, str>,
    #[serde(borrow)]
    level: Cow<'a, str>,
}

/// Prints lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Printer {
    pub(super) look: Look,
    pub(super) colour: bool,
    /// A terminal obeys control characters, so they are escaped there; elsewhere every byte goes through.
    pub(super) terminal: bool,
}

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";
/// Readable on dark and on light: no black, white or yellow among them, and red is for errors.
const MACHINES: [&str; 10] = [
    "\x1b[32m",
    "\x1b[34m",
    "\x1b[35m",
    "\x1b[36m",
    "\x1b[92m",
    "\x1b[94m",
    "\x1b[95m",
    "\x1b[96m",
    "\x1b[38;5;172m",
    "\x1b[38;5;99m",
];

impl Printer {
    /// Appends what `line`, a record of the stream without its line break, looks like, and says what it was.
    pub(super) fn print(self, line: &[u8], out: &mut Vec<u8>) -> Event {
        let Ok(record) = serde_json::from_slice::<Line<'_>>(line) else {
            // Something newer than this client: better shown than swallowed.
            self.push_json(line, out);
            return Event::Entry(None);
        };
        match record.event.as_deref() {
            Some("skipped") => return Event::Skipped(record.lines),
            Some("end") => return Event::End(record.reason.into_owned(), record.exit_code),
            Some(_) => return Event::Entry(None),
            None => {}
        }
        match self.look {
            Look::Json => self.push_json(line, out),
            Look::Raw => {
                out.extend_from_slice(self.safe(&record.message).as_bytes());
                out.push(b'\n');
            }
            Look::Default => self.push_default(&record, out),
        }
        Event::Entry(record.id)
    }

    fn push_json(self, line: &[u8], out: &mut Vec<u8>) {
        let line = line.trim_ascii();
        match self.terminal {
            true => out.extend_from_slice(escape_json(&String::from_utf8_lossy(line)).as_bytes()),
            false => out.extend_from_slice(line),
        }
        out.push(b'\n');
    }

    fn push_default(self, record: &Line<'_>, out: &mut Vec<u8>) {
        let time = if record.timestamp.is_empty() { &record.received_at } else { &record.timestamp };
        self.push(out, DIM, &[time]);
        self.push(out, colour_of(&record.machine_id), &[&record.app_name, "[", &record.machine_id, "]"]);
        if !record.region.is_empty() {
            self.push(out, DIM, &[&record.region]);
        }
        if !record.level.is_empty() {
            self.push(out, level_colour(&record.level), &["[", &record.level, "]"]);
        }
        out.extend_from_slice(self.safe(&record.message).as_bytes());
        out.push(b'\n');
    }

    /// One field in its colour, and a space.
    fn push(self, out: &mut Vec<u8>, colour: &str, parts: &[&str]) {
        if self.colour {
            out.extend_from_slice(colour.as_bytes());
        }
        for part in parts {
            out.extend_from_slice(self.safe(part).as_bytes());
        }
        if self.colour {
            out.extend_from_slice(RESET.as_bytes());
        }
        out.push(b' ');
    }

    fn safe(self, text: &str) -> Cow<'_, str> {
        if self.terminal { escape(text) } else { Cow::Borrowed(text) }
    }
}

/// The same machine has the same colour today, tomorrow and on a colleague's screen.
fn colour_of(machine: &str) -> &'static str {
    // FNV-1a: any hash would do that is the same everywhere.
    let hash = machine
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    MACHINES[(hash % MACHINES.len() as u64) as usize]
}

fn level_colour(level: &str) -> &'static str {
    match level.to_ascii_lowercase().as_str() {
        "error" | "err" | "fatal" | "panic" | "critical" | "crit" | "alert" | "emerg" => "\x1b[31m",
        "warn" | "warning" => "\x1b[33m",
        "debug" | "trace" => DIM,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &[u8] = br#"{"machine_id":"m1","message":"a\u001b[31mb\nc","stream":"stdout","timestamp":"T","app_name":"web","region":"lax","host":"","level":"info","id":"1-2-3","received_at":"R","machine_seq":1}"#;

    fn print(printer: Printer, line: &[u8]) -> (Event, String) {
        let mut out = Vec::new();
        let event = printer.print(line, &mut out);
        (event, String::from_utf8(out).unwrap())
    }

    fn plain(look: Look) -> Printer {
        Printer { look, colour: false, terminal: false }
    }

    #[test]
    fn every_look_shows_its_part() {
        let (event, text) = print(plain(Look::Default), ENTRY);
        assert_eq!(event, Event::Entry(Some("1-2-3".to_owned())));
        assert_eq!(text, "T web[m1] lax [info] a\x1b[31mb\nc\n");
        assert_eq!(print(plain(Look::Raw), ENTRY).1, "a\x1b[31mb\nc\n");
        assert_eq!(print(plain(Look::Json), ENTRY).1.as_bytes(), [ENTRY, b"\n"].concat());
    }

    #[test]
    fn a_terminal_gets_no_control_character() {
        let terminal = Printer { terminal: true, ..plain(Look::Raw) };
        assert_eq!(print(terminal, ENTRY).1, "a\\x1b[31mb\\nc\n");
    }

    #[test]
    fn a_machine_keeps_its_colour() {
        let coloured = Printer { colour: true, ..plain(Look::Default) };
        assert!(print(coloured, ENTRY).1.contains(&format!("{}web[m1]{RESET}", colour_of("m1"))));
        let used: std::collections::BTreeSet<_> = (0..100).map(|n| colour_of(&format!("machine{n}"))).collect();
        assert!(used.len() > MACHINES.len() / 2);
    }

    #[test]
    fn events_are_told_apart_from_entries() {
        let (event, text) = print(plain(Look::Json), br#"{"event":"skipped","lines":12}"#);
        assert_eq!((event, text.as_str()), (Event::Skipped(Some(12)), ""));
        let (event, _) = print(plain(Look::Json), br#"{"event":"skipped","lines":null}"#);
        assert_eq!(event, Event::Skipped(None));
        let (event, _) = print(plain(Look::Json), br#"{"event":"end","reason":"caught_up"}"#);
        assert_eq!(event, Event::End("caught_up".to_owned(), None));
        let (event, _) = print(plain(Look::Json), br#"{"event":"end","reason":"exited","exit_code":137}"#);
        assert_eq!(event, Event::End("exited".to_owned(), Some(137)));
    }
}
