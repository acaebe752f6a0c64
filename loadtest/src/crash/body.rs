//! Bodies of numbered records, in the forms and encodings that a drain must read.

use super::fleet::Fleet;
use crate::encode::Encoding;
use crate::failure::Failure;
use crate::random::Random;
use bytes::Bytes;
use std::ops::Range;
use std::time::Duration;

/// How the records of a body are put together.
#[derive(Clone, Copy, Debug)]
enum Form {
    Lines,
    Array,
    /// One object behind the other, nothing between.
    Objects,
}

const FORMS: [Form; 4] = [Form::Lines, Form::Lines, Form::Array, Form::Objects];
const ENCODINGS: [Encoding; 5] =
    [Encoding::Identity, Encoding::Identity, Encoding::Gzip, Encoding::Zstd, Encoding::Deflate];

/// A body to be sent until its fate is known.
#[derive(Clone, Debug)]
pub(super) struct Body {
    /// The sender's numbers of its records.
    pub(super) records: Range<u64>,
    pub(super) bytes: Bytes,
    pub(super) encoding: Encoding,
    /// Cut off within its encoding: it must be answered 400, and none of it may ever be seen.
    pub(super) is_broken: bool,
    /// It goes out evenly over this time.
    pub(super) takes: Option<Duration>,
    /// At the first try its sender hangs up after so long.
    pub(super) abandoned: Option<Duration>,
}

/// Makes one sender's bodies.
#[derive(Debug)]
pub(super) struct Maker {
    fleet: Fleet,
    sender: usize,
    next: u64,
    /// On average.
    lines: usize,
    /// Whether a sender may hang up: only where a key says that a repeated body is the same one.
    may_abandon: bool,
    random: Random,
}

impl Maker {
    pub(super) fn new(fleet: Fleet, sender: usize, lines: usize, may_abandon: bool, random: Random) -> Self {
        Self { fleet, sender, next: 0, lines, may_abandon, random }
    }

    /// Of its sender.
    pub(super) fn machines(&self) -> u64 {
        u64::from(self.fleet.machines)
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    pub(super) fn body(&mut self) -> Result<Body, Failure> {
        let lines = 1 + self.random.below(2 * self.lines - 1) as u64;
        let records = self.next..self.next + lines;
        self.next = records.end;
        let form = FORMS[self.random.below(FORMS.len())];
        let plain = self.plain(form, records.clone());
        let is_broken = self.chance(1);
        let encoding = if is_broken { Encoding::Gzip } else { ENCODINGS[self.random.below(ENCODINGS.len())] };
        let mut bytes = encoding.encode(&plain).map_err(Failure::io)?;
        if is_broken {
            // Within the checksum at its end: all records have been read by then.
            bytes.truncate(bytes.len() - 1 - self.random.below(8));
        }
        let takes = self.chance(4).then(|| Duration::from_millis(5 + self.random.below(60) as u64));
        let abandoned = (self.may_abandon && !is_broken && self.chance(2))
            .then(|| Duration::from_micros(self.random.below(4_000) as u64));
        Ok(Body { records, bytes: bytes.into(), encoding, is_broken, takes, abandoned })
    }

    fn plain(&self, form: Form, records: Range<u64>) -> Vec<u8> {
        let (before, between, behind): (&[u8], &[u8], &[u8]) = match form {
            Form::Lines => (b"", b"\n", b"\n"),
            Form::Array => (b"[", b",", b"]"),
            Form::Objects => (b"", b"", b""),
        };
        let mut out = Vec::with_capacity(400 * (records.end - records.start) as usize);
        out.extend_from_slice(before);
        let mut message = String::new();
        for record in records.clone() {
            if record > records.start {
                out.extend_from_slice(between);
            }
            let machine = self.fleet.machine_of(self.sender, record);
            self.fleet.message(machine, self.fleet.sequence_of(record), &mut message);
            append(&mut out, &self.fleet.id(machine), &message);
        }
        out.extend_from_slice(behind);
        out
    }
}

/// A record as Fly's shipper sends it.
fn append(out: &mut Vec<u8>, id: &[u8], message: &str) {
    out.extend_from_slice(br#"{"event":{"provider":"app"},"fly":{"app":{"instance":""#);
    out.extend_from_slice(id);
    out.extend_from_slice(br#"","name":"crash"},"region":"lax"},"host":"f442","log":{"level":"info"},"message":"#);
    serde_json::to_writer(&mut *out, message).expect("a Vec takes any write");
    out.extend_from_slice(br#","timestamp":"2026-06-27T01:19:11.789045558Z"}"#);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::decode;

    #[test]
    fn bodies_hold_their_records_and_a_broken_one_cannot_be_decoded() {
        let fleet = Fleet { run: 1, senders: 1, machines: 3 };
        let mut maker = Maker::new(fleet, 0, 20, true, Random::new(7));
        let (mut next, mut broken) = (0, 0);
        for _ in 0..500 {
            let body = maker.body().unwrap();
            assert_eq!(body.records.start, next);
            next = body.records.end;
            let decoded = decode(body.encoding.header().map(str::as_bytes), &body.bytes);
            if body.is_broken {
                broken += 1;
                assert!(decoded.is_err());
                continue;
            }
            let plain = decoded.unwrap().unwrap_or_else(|| body.bytes.to_vec());
            let found = memchr::memmem::find_iter(&plain, b"\"instance\":").count() as u64;
            assert_eq!(found, body.records.end - body.records.start);
        }
        assert!(broken > 0);
    }
}
