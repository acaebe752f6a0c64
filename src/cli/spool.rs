//! `fleetdrain spool`: what is in a spool, whether it is whole, and mending it. Needs no drain.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::json;

use super::{
    Exit, Failure, complain, print,
    text::{Table, thousands},
};
use crate::{
    batch::{EntryView, Origin, SPOOLED},
    record::{Limits, Parser},
    spool::{
        OpenError, Record, Seek,
        offline::{self, Checked, SegmentInfo},
    },
};

pub(super) const EXAMPLES: &str = "\
`ls`, `verify` and `dump` change nothing, also beside a running drain.

Examples:
  fleetdrain spool ls --dir /var/lib/fleetdrain
  fleetdrain spool verify --dir /var/lib/fleetdrain || echo damaged
  fleetdrain spool dump --dir /var/lib/fleetdrain --since 1h | jq -r .message";

const LS_EXAMPLES: &str = "\
Examples:
  fleetdrain spool ls --dir /var/lib/fleetdrain
  fleetdrain spool ls --dir /var/lib/fleetdrain --json | jq .received";

const VERIFY_EXAMPLES: &str = "\
Examples:
  fleetdrain spool verify --dir /var/lib/fleetdrain
  fleetdrain spool verify --dir /var/lib/fleetdrain > report || cat report";

const DUMP_EXAMPLES: &str = "\
Examples:
  fleetdrain spool dump --dir /var/lib/fleetdrain -m 4d891d77b05118 --since 1h
  fleetdrain spool dump --dir /var/lib/fleetdrain --raw > backup.ndjson";

const REPAIR_HELP: &str = "\
The drain must not be running. What is damaged is copied beside the segments, as
quarantine-*.bin.

Examples:
  fleetdrain spool repair --dir /var/lib/fleetdrain";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the segments, oldest first
    #[command(after_help = LS_EXAMPLES)]
    Ls {
        #[command(flatten)]
        dir: Dir,
        /// One JSON object a segment
        #[arg(short, long)]
        json: bool,
    },
    /// Read everything and compare it with its checksums: exit 65 if there is something to repair
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(Dir),
    /// Give every segment an index of what can be read of it, and cut what was torn off
    #[command(after_help = REPAIR_HELP)]
    Repair(Dir),
    /// Print what the spool holds, one JSON entry a line
    #[command(after_help = DUMP_EXAMPLES)]
    Dump(Dump),
}

#[derive(Debug, clap::Args)]
struct Dir {
    /// The spool's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Dump {
    #[command(flatten)]
    dir: Dir,
    /// Only this machine
    #[arg(short, long, value_name = "ID")]
    machine: Option<String>,
    /// Begin with the record of this sequence
    #[arg(long, value_name = "SEQUENCE", conflicts_with = "since")]
    from: Option<u64>,
    /// Begin with what was received since then, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = since)]
    since: Option<Duration>,
    /// Print the records as they were sent, one a line: what can be posted again
    #[arg(long)]
    raw: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.command {
        Command::Ls { dir, json } => ls(&dir.dir, *json),
        Command::Verify(dir) => {
            let checked = offline::verify(&dir.dir).map_err(in_dir(&dir.dir))?;
            let exit = if checked.iter().all(Checked::is_whole) { Exit::Success } else { Exit::Data };
            report(&checked, verdict)?;
            Ok(exit)
        }
        Command::Repair(dir) => report(&offline::repair(&dir.dir).map_err(in_dir(&dir.dir))?, mended),
        Command::Dump(args) => dump(args),
    }
}

/// The exit code that the contract has for a spool that cannot be opened.
pub(super) fn exit(error: &OpenError) -> Exit {
    match error {
        OpenError::Locked => Exit::Unavailable,
        OpenError::UnknownVersion { .. } => Exit::Config,
        _ => Exit::Io,
    }
}

fn since(text: &str) -> Result<Duration, String> {
    crate::config::value::duration(text).ok_or_else(|| "expected a duration such as 90s or 1h30m".to_owned())
}

fn in_dir(dir: &Path) -> impl FnOnce(OpenError) -> Failure {
    let dir = dir.display().to_string();
    move |source| Failure::Spool { dir, source }
}

fn ls(dir: &Path, as_json: bool) -> Result<Exit, Failure> {
    let segments = offline::ls(dir).map_err(in_dir(dir))?;
    if as_json {
        let lines = segments.iter().map(|segment| format!("{}\n", to_json(segment)));
        return print(lines.collect::<String>().as_bytes());
    }
    let mut table = Table::new(&["SEGMENT", "BODIES", "LINES", "BYTES", "FIRST RECEIVED", "LAST RECEIVED", "INDEX"]);
    for segment in &segments {
        let (first, last) = received(segment);
        let index = if segment.is_sealed { "yes" } else { "no" };
        let lines = number(segment.lines.end - segment.lines.start);
        let records = number(segment.records);
        table.row([segment.name.clone(), records, lines, number(segment.bytes), first, last, index.to_owned()]);
    }
    print(&table.render())
}

fn to_json(segment: &SegmentInfo) -> serde_json::Value {
    json!({
        "name": segment.name,
        "records": segment.records,
        "sequences": [segment.seqs.start, segment.seqs.end],
        "lines": [segment.lines.start, segment.lines.end],
        "bytes": segment.bytes,
        "received": segment.received.map(|(first, last)| [first.to_string(), last.to_string()]),
        "sealed": segment.is_sealed,
    })
}

fn received(segment: &SegmentInfo) -> (String, String) {
    segment.received.map_or_else(Default::default, |(first, last)| (format!("{first:.0}"), format!("{last:.0}")))
}

fn number(number: u64) -> String {
    thousands(&number.into())
}

fn report(checked: &[Checked], say: impl Fn(&Checked) -> String) -> Result<Exit, Failure> {
    let mut table = Table::new(&["SEGMENT", "BODIES", "VERDICT"]);
    for checked in checked {
        table.row([checked.segment.name.clone(), number(checked.segment.records), say(checked)]);
    }
    print(&table.render())
}

/// What is to be said of a segment that was repaired.
fn mended(checked: &Checked) -> String {
    let verdict = verdict(checked);
    if checked.is_unreadable {
        format!("left as it is: {verdict}")
    } else if checked.is_whole() && checked.segment.is_sealed {
        verdict
    } else {
        format!("mended: {verdict}")
    }
}

/// What is to be said of a segment: `whole`, or everything that is not.
fn verdict(checked: &Checked) -> String {
    let mut verdict = Vec::new();
    for damage in &checked.damage {
        let left_out = if checked.segment.is_sealed && !checked.is_index_damaged { ", left out" } else { "" };
        verdict.push(format!("damaged from byte {} to {}{left_out}", damage.start, damage.end));
    }
    let notes = [
        (checked.is_header_damaged, "damaged header"),
        (checked.is_index_damaged, "index does not fit"),
        (checked.is_unreadable, "unreadable parts"),
        (!checked.segment.is_sealed, "no index yet"),
    ];
    verdict.extend(notes.iter().filter(|(holds, _)| *holds).map(|(_, note)| (*note).to_owned()));
    if checked.torn_bytes > 0 {
        verdict.push(format!("{} bytes torn off", number(checked.torn_bytes)));
    }
    if verdict.is_empty() { "whole".to_owned() } else { verdict.join("; ") }
}

fn dump(args: &Dump) -> Result<Exit, Failure> {
    let seek = match (args.from, args.since) {
        (Some(seq), _) => Seek::Seq(seq),
        (None, Some(since)) => Seek::Time(Timestamp::now().saturating_sub(since).unwrap_or(Timestamp::MIN)),
        (None, None) => Seek::Seq(0),
    };
    let mut printer = Printer { args, parser: Parser::default(), out: Vec::new(), failed: None };
    let machine = args.machine.as_deref();
    offline::dump(&args.dir.dir, seek, machine, |spool, record| printer.print(spool, &record))
        .map_err(in_dir(&args.dir.dir))?;
    match printer.failed {
        Some(failed) => Err(failed),
        None if args.is_of_all() => left_out(&args.dir.dir),
        None => Ok(Exit::Success),
    }
}

/// Says what a dump of everything does not have: whoever keeps it for a backup is to know.
fn left_out(dir: &Path) -> Result<Exit, Failure> {
    let checked = offline::verify(dir).map_err(in_dir(dir))?;
    let places = checked.iter().map(|segment| segment.damage.len()).sum::<usize>();
    if places == 0 && !checked.iter().any(|segment| segment.is_unreadable) {
        return Ok(Exit::Success);
    }
    complain(&format!("damaged places were left out, {places} of them: `fleetdrain spool verify` says where"));
    Ok(Exit::Data)
}

impl Dump {
    fn is_of_all(&self) -> bool {
        self.machine.is_none() && self.from.is_none() && self.since.is_none()
    }
}

struct Printer<'a> {
    args: &'a Dump,
    parser: Parser,
    out: Vec<u8>,
    failed: Option<Failure>,
}

impl Printer<'_> {
    /// Prints what is wanted of a record; whether to go on.
    fn print(&mut self, spool: u64, record: &Record) -> bool {
        self.out.clear();
        self.render(spool, record);
        let mut stdout = io::stdout().lock();
        let printed = stdout.write_all(&self.out).and_then(|()| stdout.flush());
        self.failed = printed.map_err(Failure::stdout).err();
        self.failed.is_none()
    }

    fn render(&mut self, spool: u64, record: &Record) {
        let parsed = self.parser.parse(&record.body, Limits { line_bytes_max: usize::MAX, errors_max: 0 });
        let lines = parsed.rows.len() as u64;
        for row in &parsed.rows {
            let line = record.first_line + u64::from(row.ordinal);
            let origin =
                Origin { epoch: spool | SPOOLED, line, machine_seq: 0, mark: None, received_at: record.received_at };
            let entry = EntryView { body: &record.body, arena: &parsed.arena, row, origin: Some(origin) };
            if self.args.machine.as_ref().is_none_or(|machine| entry.machine_id() == machine) {
                match self.args.raw {
                    true => entry.write_raw(&mut self.out),
                    false => entry.write_json(&mut self.out, true),
                }
                self.out.push(b'\n');
            }
        }
        if lines != record.lines {
            complain(&format!("record {}: {lines} lines can be parsed, it had {}", record.seq, record.lines));
        }
    }
}
