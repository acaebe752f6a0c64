//! `fleetdrain parse`: what the drain makes of a body, without a drain.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{Exit, Failure, complain, text};
use crate::{
    batch::EntryView,
    config::Config,
    record::{Limits, Parsed, Parser},
};

pub(super) const EXAMPLES: &str = "\
Reads NDJSON, one JSON array, or objects one after another. Rejected records go
to standard error as `line N: reason`.

Examples:
  fleetdrain parse records.ndjson | jq -r .message
  zcat captured.gz | fleetdrain parse --strict > entries.ndjson";

/// The largest body that the drain takes, whatever it is set to: rows point into it with 31 bits.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// Output is written in pieces of about this size.
const PIECE_BYTES: usize = 64 << 10;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Exit with 65 if any record is rejected
    #[arg(long)]
    strict: bool,
    /// Files to read; `-` or none: standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let stdin = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &stdin[..] } else { &args.files };
    let mut parser = Parser::default();
    let limits = Limits { line_bytes_max: Config::default().ingest.line_bytes_max, errors_max: usize::MAX };
    let mut exit = Exit::Success;
    for path in files {
        // The other files are still worth reading; the exit code remembers.
        let body = match read(path) {
            Ok(body) => body,
            Err(error) => {
                complain(&format!("{}: {error}", path.display()));
                exit = Exit::Io;
                continue;
            }
        };
        let parsed = parser.parse(&body, limits);
        print_entries(&body, &parsed)?;
        let prefix = if files.len() > 1 { format!("{}: ", path.display()) } else { String::new() };
        print_rejected(&prefix, &parsed);
        if args.strict && !parsed.errors.is_empty() && exit == Exit::Success {
            exit = Exit::Data;
        }
    }
    Ok(exit)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut body = Vec::new();
    source.take(BODY_BYTES_MAX + 1).read_to_end(&mut body)?;
    if body.len() as u64 > BODY_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "over 1GiB, the largest body: split it"));
    }
    Ok(body)
}

fn print_entries(body: &[u8], parsed: &Parsed) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let mut out = Vec::with_capacity(2 * PIECE_BYTES);
    let mut write = |out: &mut Vec<u8>| {
        let written = stdout.write_all(out).and_then(|()| stdout.flush());
        out.clear();
        written.map_err(Failure::stdout)
    };
    for row in &parsed.rows {
        EntryView { body, arena: &parsed.arena, row, origin: None }.write_json(&mut out, true);
        out.push(b'\n');
        if out.len() >= PIECE_BYTES {
            write(&mut out)?;
        }
    }
    write(&mut out)
}

fn print_rejected(prefix: &str, parsed: &Parsed) {
    let prefix = text::escape(prefix);
    let mut out = Vec::new();
    for error in &parsed.errors {
        let _ = writeln!(out, "{prefix}line {}: {}", error.line, error.reason.as_str());
    }
    // A closed standard error is no reason to lose what goes to standard output.
    let _ = io::stderr().write_all(&out);
}
