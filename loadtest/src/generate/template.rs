//! The templates that lines are copied from.

use super::{Form, RecordSpec, STDERR, STDOUT, Shapes};
use crate::random::Random;

/// A run's id in hexadecimal digits.
pub(crate) const RUN_LENGTH: usize = 8;
/// A machine's id: 14 hexadecimal digits, as Fly's Machines have.
pub(crate) const MACHINE_LENGTH: usize = 14;
pub(super) const MARK_MACHINE: usize = RUN_LENGTH + 1;
pub(super) const MARK_STREAM: usize = MARK_MACHINE + MACHINE_LENGTH + 1;
pub(super) const MARK_SEQUENCE: usize = MARK_STREAM + 1;
pub(super) const MARK_DUE: usize = MARK_SEQUENCE + 10 + 1;
/// The length of a whole mark.
pub(crate) const MARK_LENGTH: usize = MARK_DUE + 12;

/// The id of a machine, as sent.
pub(crate) type MachineId = [u8; MACHINE_LENGTH];

/// App, region and host go with the machine; so many combinations there are.
pub(super) const ENVELOPES: usize = 8;
/// Templates of each envelope and stream: a share is met to half a percent.
const VARIANTS: usize = 200;

const APPS: [&str; ENVELOPES] = [
    "restless-moon-8905",
    "fly-builder-autumn-violet-9735",
    "dc-team-52-simon-46d213",
    "flyio-web",
    "checkout-worker",
    "img-resize-prod",
    "api",
    "tenant-runner-7f3a",
];
const REGIONS: [&str; ENVELOPES] = ["lax", "iad", "sjc", "fra", "nrt", "ord", "ams", "syd"];
const HOSTS: [&str; ENVELOPES] = ["f442", "971e", "0ad1", "3902", "b7c3", "11de", "c08f", "6e5a"];
const WORDS: [&str; 24] = [
    "request",
    "completed",
    "in",
    "ms",
    "status=200",
    "GET",
    "/api/v1/orders",
    "user=4711",
    "retry",
    "upstream",
    "checking",
    "docker",
    "activity",
    "level=debug",
    "connection",
    "closed",
    "worker",
    "queue",
    "flushed",
    "cache",
    "miss",
    "a690644f-30e4-4271",
    "2a09:8280:1::1:8c5",
    "[info]",
];
const ESCAPED: [&str; 6] =
    [r#"\"POST\""#, r"\tat main.rs:42\n", r"C:\\app\\run", r"\u001b[32mok\u001b[0m", r#"{\"id\":7}"#, r"\/health"];
const NON_ASCII: [&str; 5] = ["→ prêt", "日本語のログ", "größe", "✓ done", "🚀"];

/// A line to copy, with the offsets of what is patched.
#[derive(Debug, Default)]
pub(super) struct Template {
    pub(super) bytes: Vec<u8>,
    pub(super) instance: usize,
    pub(super) mark: usize,
    pub(super) timestamp: usize,
    pub(super) varied_key: Option<usize>,
}

/// All templates of a generator.
#[derive(Debug)]
pub(super) struct Templates {
    /// By stream, envelope, variant.
    good: Vec<Template>,
}

impl Templates {
    pub(super) fn new(spec: &RecordSpec, run: u32, random: &mut Random) -> Self {
        let mut good = Vec::with_capacity(2 * ENVELOPES * VARIANTS);
        for stream in [STDOUT, STDERR] {
            for envelope in 0..ENVELOPES {
                let mut escapes = flags(spec.escapes, random);
                let mut non_ascii = flags(spec.non_ascii, random);
                for _ in 0..VARIANTS {
                    let seasoning = (escapes.pop().unwrap_or(false), non_ascii.pop().unwrap_or(false));
                    good.push(template(spec, run, (stream, envelope), seasoning, random));
                }
            }
        }
        Self { good }
    }

    pub(super) fn good(&self, envelope: usize, stream: u8, random: &mut Random) -> &Template {
        &self.good[(stream as usize * ENVELOPES + envelope) * VARIANTS + random.below(VARIANTS)]
    }

    /// A record that must be rejected. In an array only what is valid JSON: a break would end the body.
    pub(super) fn malformed(&self, form: Form, random: &mut Random) -> &'static [u8] {
        const JSON: [&[u8]; 4] =
            [b"42", b"\"a text alone\"", br#"{"message":"no machine"}"#, br#"{"fly":{"app":{"instance":""}}}"#];
        const BROKEN: [&[u8]; 4] = [
            br#"{"fly":{"app":{"instance":"4d891d77b05118","name":"cut-o"#,
            b"panic: runtime error: index out of range",
            br#"{"message":"no comma" "host":"f442"}"#,
            br#"{"message":"NaN is not JSON","value":NaN}"#,
        ];
        let kinds = if form == Form::Array { JSON.len() } else { JSON.len() + BROKEN.len() };
        let kind = random.below(kinds);
        JSON.get(kind).copied().unwrap_or_else(|| BROKEN[kind - JSON.len()])
    }
}

/// `VARIANTS` flags in random order, of which `share` are set.
fn flags(share: f64, random: &mut Random) -> Vec<bool> {
    let set = (share * VARIANTS as f64).round() as usize;
    let mut flags: Vec<bool> = (0..VARIANTS).map(|index| index < set).collect();
    random.shuffle(&mut flags);
    flags
}

fn template(
    spec: &RecordSpec,
    run: u32,
    (stream, envelope): (u8, usize),
    seasoning: (bool, bool),
    random: &mut Random,
) -> Template {
    let mut template = Template::default();
    let bytes = &mut template.bytes;
    bytes.extend_from_slice(br#"{"event":{"provider":"app"},"fly":{"app":{"instance":""#);
    template.instance = bytes.len();
    bytes.extend_from_slice(&[b'0'; MACHINE_LENGTH]);
    bytes.extend_from_slice(
        format!(r#"","name":"{}"}},"region":"{}"}},"#, APPS[envelope], REGIONS[envelope]).as_bytes(),
    );
    bytes.extend_from_slice(format!(r#""host":"{}","#, HOSTS[envelope]).as_bytes());
    if spec.shapes == Shapes::Varied {
        bytes.extend_from_slice(b"\"k");
        template.varied_key = Some(bytes.len());
        bytes.extend_from_slice(b"00000000\":1,");
        for extra in 0..random.below(4) {
            bytes.extend_from_slice(format!(r#""extra_{extra}":{},"#, random.below(100_000)).as_bytes());
        }
    }
    bytes.extend_from_slice(br#""log":{"level":"info"},"message":""#);
    template.mark = bytes.len();
    let letter = if stream == STDERR { 'e' } else { 'o' };
    bytes.extend_from_slice(format!("{run:08x} {:014} {letter}{:010} {:012} ", 0, 0, 0).as_bytes());
    let tail = if stream == STDERR { r#"","stream":"stderr","timestamp":""# } else { r#"","timestamp":""# };
    // The timestamp and the two closing bytes.
    let text_bytes = line_bytes(spec, random).saturating_sub(bytes.len() + tail.len() + 30 + 2);
    text(text_bytes, seasoning, random, bytes);
    bytes.extend_from_slice(tail.as_bytes());
    template.timestamp = bytes.len();
    bytes.extend_from_slice(b"2026-06-27T01:19:11.789045558Z\"}");
    template
}

fn line_bytes(spec: &RecordSpec, random: &mut Random) -> usize {
    let factor = 1.0 + spec.line_bytes_spread * (2.0 * random.unit() - 1.0);
    (spec.line_bytes as f64 * factor).round() as usize
}

/// Appends exactly `length` bytes of message text; the seasoning goes in whatever the length, or the shares would
/// silently not be met (a line may then be a few bytes longer).
fn text(length: usize, (escapes, non_ascii): (bool, bool), random: &mut Random, out: &mut Vec<u8>) {
    let end = out.len() + length;
    if escapes {
        for _ in 0..=random.below(3) {
            out.extend_from_slice(ESCAPED[random.below(ESCAPED.len())].as_bytes());
            out.push(b' ');
        }
    }
    if non_ascii {
        out.extend_from_slice(NON_ASCII[random.below(NON_ASCII.len())].as_bytes());
        out.push(b' ');
    }
    while out.len() < end {
        out.extend_from_slice(WORDS[random.below(WORDS.len())].as_bytes());
        out.push(b' ');
        if out.len() > end {
            // Words are ASCII: cutting one leaves valid text.
            out.truncate(end);
        }
    }
}

/// The id of machine `number` of run `run` (24 bits of it): unique, and scattered like real ids.
pub(crate) fn machine_id(run: u32, number: u32) -> MachineId {
    // An odd factor permutes the 56 bits, so no two machines of a run meet.
    let packed = (u64::from(run & 0xff_ffff) << 32) | u64::from(number);
    let scattered = packed.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xff_ffff_ffff_ffff;
    std::array::from_fn(|at| b"0123456789abcdef"[(scattered >> (52 - 4 * at)) as usize & 15])
}

/// The run's id as it stands in each message.
pub(crate) fn run_id(run: u32) -> [u8; RUN_LENGTH] {
    super::hex8(run)
}
