//! Bodies of records in the shape that Fly really sends.
//!
//! Templates are made once; a line is a copy of one with a machine, a sequence number and a time patched in at fixed
//! offsets, so that making a line costs less than any server needs to read it. Every message begins with a [`Mark`].

mod template;

pub(crate) use template::{MACHINE_LENGTH, MARK_LENGTH, MachineId, RUN_LENGTH, machine_id, run_id};
use template::{Template, Templates};

use crate::random::{Alias, Random, zipf_weights};
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// How the lines of a body are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// One record a line: NDJSON.
    Lines,
    /// One JSON array: what the official Fly log shipper sends.
    Array,
}

/// Whether senders repeat one template, as real ones do, or every line has a shape of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shapes {
    /// The envelope of the official shipper.
    Fly,
    /// A key that no other line has, and up to three further fields.
    Varied,
}

/// What the records look like. Shares are fractions of the lines.
#[derive(Clone, Debug)]
pub(crate) struct RecordSpec {
    pub(crate) line_bytes: usize,
    /// Sizes are uniform in `line_bytes` ± this fraction of it.
    pub(crate) line_bytes_spread: f64,
    pub(crate) escapes: f64,
    pub(crate) non_ascii: f64,
    pub(crate) malformed: f64,
    pub(crate) stderr: f64,
    pub(crate) form: Form,
    pub(crate) shapes: Shapes,
}

impl Default for RecordSpec {
    fn default() -> Self {
        Self {
            line_bytes: 340,
            line_bytes_spread: 0.3,
            escapes: 0.3,
            non_ascii: 0.07,
            malformed: 0.0,
            stderr: 0.0,
            form: Form::Lines,
            shapes: Shapes::Fly,
        }
    }
}

/// The number of a run that begins now: two runs against one drain must not share machines.
pub(crate) fn new_run() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u32 ^ std::process::id()
}

/// A machine as the generator sees it: its id and how many lines it has sent, stdout and stderr apart, because a
/// reader may ask for one of them alone.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) id: MachineId,
    pub(crate) sent: [u64; 2],
    envelope: usize,
}

impl Machine {
    pub(crate) fn new(run: u32, number: u32) -> Self {
        Self { id: machine_id(run, number), sent: [0; 2], envelope: number as usize % template::ENVELOPES }
    }
}

/// The index in [`Machine::sent`] of standard output.
pub(crate) const STDOUT: u8 = 0;
/// The index in [`Machine::sent`] of standard error.
pub(crate) const STDERR: u8 = 1;

/// What a body holds besides its bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    /// The machine and stream of each good line, so that a refused body can be taken back.
    pub(crate) good: Vec<(u32, u8)>,
    pub(crate) malformed: u64,
}

impl Contents {
    pub(crate) fn lines(&self) -> u64 {
        self.good.len() as u64 + self.malformed
    }
}

/// Makes the bodies of one connection; no other connection sends for its machines, because order is promised
/// within a machine *and connection*.
#[derive(Debug)]
pub(crate) struct Generator {
    pub(crate) machines: Vec<Machine>,
    templates: Templates,
    picks: Alias,
    random: Random,
    malformed: f64,
    stderr: f64,
    form: Form,
    varied: u32,
}

impl Generator {
    /// `weights` are those of `machines`, in the same order.
    pub(crate) fn new(spec: &RecordSpec, run: u32, machines: Vec<Machine>, weights: &[f64], seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            templates: Templates::new(spec, run, &mut random),
            picks: Alias::new(weights),
            machines,
            malformed: spec.malformed,
            stderr: spec.stderr,
            form: spec.form,
            // Two connections of one run must not send each other's "unique" shapes.
            varied: random.next() as u32,
            random,
        }
    }

    /// A fleet of `count` machines whose load follows Zipf's law with `exponent`, sent by one connection.
    pub(crate) fn whole_fleet(spec: &RecordSpec, run: u32, count: usize, exponent: f64, seed: u64) -> Self {
        let machines = (0..count).map(|number| Machine::new(run, number as u32)).collect();
        Self::new(spec, run, machines, &zipf_weights(count, exponent), seed)
    }

    /// Writes a body of `lines` lines that was due at `due_micros` after the run began to `out`, which is cleared.
    pub(crate) fn body(&mut self, lines: usize, due_micros: u64, timestamp: &[u8; 30], out: &mut Vec<u8>) -> Contents {
        out.clear();
        let due = decimal::<12>(due_micros);
        let mut contents = Contents { good: Vec::with_capacity(lines), malformed: 0 };
        if self.form == Form::Array {
            out.push(b'[');
        }
        for position in 0..lines {
            if position > 0 {
                out.push(if self.form == Form::Array { b',' } else { b'\n' });
            }
            // Never the first: a broken first record would decide the body's form, and an array ends at its break.
            if position > 0 && self.malformed > 0.0 && self.random.unit() < self.malformed {
                out.extend_from_slice(self.templates.malformed(self.form, &mut self.random));
                contents.malformed += 1;
            } else {
                contents.good.push(self.good_line(&due, timestamp, out));
            }
        }
        out.push(if self.form == Form::Array { b']' } else { b'\n' });
        contents
    }

    fn good_line(&mut self, due: &[u8; 12], timestamp: &[u8; 30], out: &mut Vec<u8>) -> (u32, u8) {
        let index = self.picks.draw(&mut self.random);
        let stream = if self.stderr > 0.0 && self.random.unit() < self.stderr { STDERR } else { STDOUT };
        let machine = &mut self.machines[index];
        machine.sent[stream as usize] += 1;
        let template = self.templates.good(machine.envelope, stream, &mut self.random);
        self.varied = self.varied.wrapping_add(1);
        append(template, machine, stream, (due, timestamp, self.varied), out);
        (index as u32, stream)
    }

    /// Forgets a body that the drain took nothing of: the next body uses its numbers again, so that a drain that
    /// took it after all is caught as repeating.
    pub(crate) fn take_back(&mut self, contents: &Contents) {
        for &(machine, stream) in &contents.good {
            self.machines[machine as usize].sent[stream as usize] -= 1;
        }
    }
}

fn append(
    template: &Template,
    machine: &Machine,
    stream: u8,
    (due, timestamp, varied): (&[u8; 12], &[u8; 30], u32),
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(&template.bytes);
    let line = &mut out[start..];
    let mut patch = |at: usize, bytes: &[u8]| line[at..at + bytes.len()].copy_from_slice(bytes);
    patch(template.instance, &machine.id);
    patch(template.mark + template::MARK_MACHINE, &machine.id);
    patch(template.mark + template::MARK_SEQUENCE, &decimal::<10>(machine.sent[stream as usize]));
    patch(template.mark + template::MARK_DUE, due);
    patch(template.timestamp, timestamp);
    if let Some(at) = template.varied_key {
        patch(at, &hex8(varied));
    }
}

/// What a message says about itself: `RUN MACHINE oSEQUENCE DUE`, all of fixed width (`e` for standard error).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) machine: MachineId,
    pub(crate) stream: u8,
    pub(crate) sequence: u64,
    pub(crate) due_micros: u64,
}

impl Mark {
    /// Reads the mark at the start of `message`, none if it is not one of run `run`.
    pub(crate) fn read(message: &[u8], run: &[u8; RUN_LENGTH]) -> Option<Self> {
        let mark = message.get(..MARK_LENGTH)?;
        if &mark[..RUN_LENGTH] != run {
            return None;
        }
        let machine = mark[template::MARK_MACHINE..][..MACHINE_LENGTH].try_into().ok()?;
        let stream = match mark[template::MARK_STREAM] {
            b'o' => STDOUT,
            b'e' => STDERR,
            _ => return None,
        };
        let sequence = number(&mark[template::MARK_SEQUENCE..][..10])?;
        let due_micros = number(&mark[template::MARK_DUE..][..12])?;
        Some(Self { machine, stream, sequence, due_micros })
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value: u64, digit| digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0')))
}

fn decimal<const N: usize>(mut value: u64) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        if value == 0 {
            break;
        }
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    digits
}

fn hex8(value: u32) -> [u8; 8] {
    std::array::from_fn(|at| b"0123456789abcdef"[(value >> (28 - 4 * at)) as usize & 15])
}

/// `nanos` since 1970 as RFC 3339 with nanoseconds, the width of Fly's own timestamps.
pub(crate) fn rfc3339(nanos: u128) -> [u8; 30] {
    let seconds = (nanos / 1_000_000_000) as i64;
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60,
        nanos % 1_000_000_000
    );
    let mut bytes = [b'0'; 30];
    bytes.copy_from_slice(&text.as_bytes()[..30]);
    bytes
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests;
