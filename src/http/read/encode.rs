//! What readers get: NDJSON, server-sent events or plain text, written into one buffer a frame.

use hyper::{HeaderMap, header::ACCEPT};

use crate::batch::{Clock, EntryView};

/// A frame takes no further line beyond this: with one more of usual length it stays within 64 KiB.
pub(super) const FRAME_BYTES: usize = 60 << 10;
/// The same while readers have all that they may have of the budget.
pub(super) const FRAME_BYTES_LEAST: usize = 3 << 10;
/// What a frame begins with; live frames are a line or a few.
const FRAME_BYTES_FIRST: usize = 1 << 10;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Ndjson,
    EventStream,
    Text,
}

impl Format {
    /// In the order of preference where `Accept` leaves the choice.
    const ALL: [Self; 3] = [Self::Ndjson, Self::Text, Self::EventStream];

    /// The format that `Accept` asks for; NDJSON where it asks for none of ours.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let ranges: Vec<Range<'_>> = values.flat_map(|value| value.split(',')).filter_map(Range::parse).collect();
        let best = Self::ALL.into_iter().rev().map(|format| (format.rank(&ranges), format));
        match best.max_by_key(|(rank, _)| *rank) {
            Some(((quality, _), format)) if quality > 0 => format,
            _ => Self::Ndjson,
        }
    }

    /// The value of `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::EventStream => "text/event-stream",
            Self::Text => "text/plain; charset=utf-8",
        }
    }

    /// How well the ranges suit: the quality that the most specific one gives, then how specific that is.
    fn rank(self, ranges: &[Range<'_>]) -> (u16, u8) {
        let fitting = ranges.iter().filter_map(|range| Some((self.specificity(range)?, range.quality)));
        fitting.max().map_or((0, 0), |(specificity, quality)| (quality, specificity))
    }

    fn specificity(self, range: &Range<'_>) -> Option<u8> {
        let types: &[&str] = match self {
            Self::Ndjson => &["application/x-ndjson", "application/ndjson", "application/jsonl", "application/json"],
            Self::EventStream => &["text/event-stream"],
            Self::Text => &["text/plain"],
        };
        match range.media.split_once('/')? {
            ("*", "*") => Some(0),
            (group, "*") => types[0].split_once('/').filter(|(ours, _)| group.eq_ignore_ascii_case(ours)).map(|_| 1),
            _ => types.iter().any(|ours| range.media.eq_ignore_ascii_case(ours)).then_some(2),
        }
    }
}

/// One media range of `Accept`; its quality in thousandths.
struct Range<'a> {
    media: &'a str,
    quality: u16,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|media| !media.is_empty())?;
        let quality = parts
            .filter_map(|parameter| parameter.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
            .map_or(Some(1.0), |(_, value)| value.trim().parse::<f32>().ok())?;
        Some(Self { media, quality: (quality.clamp(0.0, 1.0) * 1000.0) as u16 })
    }
}

/// Why a reader's answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndReason {
    Finished,
    /// The machine has exited, with this code if it is known.
    Exited(Option<i32>),
    ItemTimeout,
    TotalTimeout,
    MaxLines,
    CaughtUp,
    Shutdown,
}

impl EndReason {
    /// The name in the end record.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Exited(_) => "exited",
            Self::ItemTimeout => "item_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::MaxLines => "max_lines",
            Self::CaughtUp => "caught_up",
            Self::Shutdown => "shutdown",
        }
    }
}

/// How one reader's lines are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoder {
    pub(super) format: Format,
    /// Whether entries carry the record as sent.
    pub(super) raw: bool,
}

impl Encoder {
    fn entry(self, clock: &mut Clock, out: &mut Vec<u8>, entry: &EntryView<'_>) {
        match self.format {
            Format::Ndjson => {
                entry.write_json_by(clock, out, self.raw);
                out.push(b'\n');
            }
            Format::EventStream => {
                if let Some(id) = entry.id() {
                    out.extend_from_slice(b"id: ");
                    id.write(out);
                    out.push(b'\n');
                }
                out.extend_from_slice(b"data: ");
                entry.write_json_by(clock, out, self.raw);
                out.extend_from_slice(b"\n\n");
            }
            Format::Text => {
                out.extend_from_slice(entry.message().as_bytes());
                out.push(b'\n');
            }
        }
    }

    fn skipped(self, out: &mut Vec<u8>, lines: Option<u64>) {
        match lines {
            Some(lines) => self.event(out, "skipped", format_args!(r#"{{"event":"skipped","lines":{lines}}}"#)),
            None => self.event(out, "skipped", format_args!(r#"{{"event":"skipped","lines":null}}"#)),
        }
    }

    fn limited(self, out: &mut Vec<u8>, lines: u64) {
        self.event(out, "limited", format_args!(r#"{{"event":"limited","lines":{lines}}}"#));
    }

    fn end(self, out: &mut Vec<u8>, reason: EndReason) {
        let name = reason.as_str();
        match reason {
            EndReason::Exited(Some(code)) => {
                self.event(out, "end", format_args!(r#"{{"event":"end","reason":"{name}","exit_code":{code}}}"#));
            }
            EndReason::Exited(None) => {
                self.event(out, "end", format_args!(r#"{{"event":"end","reason":"{name}","exit_code":null}}"#));
            }
            _ => self.event(out, "end", format_args!(r#"{{"event":"end","reason":"{name}"}}"#)),
        }
    }

    fn event(self, out: &mut Vec<u8>, name: &str, record: std::fmt::Arguments<'_>) {
        match self.format {
            Format::Ndjson => append(out, format_args!("{record}\n")),
            Format::EventStream => append(out, format_args!("event: {name}\ndata: {record}\n\n")),
            Format::Text => {}
        }
    }

    /// What is sent into a long silence, so that proxies keep the connection.
    pub(super) fn keep_alive(self) -> &'static [u8] {
        match self.format {
            Format::Ndjson => b"\n",
            Format::EventStream => b":\n\n",
            Format::Text => b"",
        }
    }
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    std::io::Write::write_fmt(out, text).expect("a Vec takes any write");
}

/// One frame of an answer, while it is filled.
#[derive(Debug)]
pub(super) struct Frame {
    encoder: Encoder,
    out: Vec<u8>,
    /// No further line beyond this.
    bytes_max: usize,
    /// What is taken for it with its first line.
    bytes_first: usize,
    /// Lines that the reader may still get.
    lines_left: u64,
    lines: u64,
    clock: Clock,
}

impl Frame {
    /// An empty frame of at most `lines_left` lines, and no further one beyond `bytes_max`.
    pub(super) fn new(encoder: Encoder, lines_left: u64, bytes_max: usize) -> Self {
        let (bytes_first, clock) = (FRAME_BYTES_FIRST, Clock::default());
        Self { encoder, out: Vec::new(), bytes_max, bytes_first, lines_left, lines: 0, clock }
    }

    /// With room for so many bytes from the beginning, as far as it may hold them and one line more of usual length.
    pub(super) fn with_room_for(self, bytes: usize) -> Self {
        let bytes_first = bytes.next_power_of_two().clamp(FRAME_BYTES_FIRST, self.bytes_max.next_power_of_two());
        Self { bytes_first, ..self }
    }

    /// Whether another line may be put in.
    pub(super) fn has_room(&self) -> bool {
        self.out.len() < self.bytes_max && self.lines < self.lines_left
    }

    pub(super) fn entry(&mut self, entry: &EntryView<'_>) {
        if self.out.capacity() == 0 {
            self.out.reserve(self.bytes_first);
        }
        self.lines += 1;
        self.encoder.entry(&mut self.clock, &mut self.out, entry);
    }

    pub(super) fn skipped(&mut self, lines: Option<u64>) {
        self.encoder.skipped(&mut self.out, lines);
    }

    pub(super) fn limited(&mut self, lines: u64) {
        self.encoder.limited(&mut self.out, lines);
    }

    pub(super) fn end(&mut self, reason: EndReason) {
        self.encoder.end(&mut self.out, reason);
    }

    /// Lines that may still be put in.
    pub(super) fn lines_left(&self) -> u64 {
        self.lines_left - self.lines
    }

    /// Lines in it.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.out.len()
    }

    /// Bytes that it takes.
    pub(super) fn capacity(&self) -> usize {
        self.out.capacity()
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::{Batch, FIRST_SEQ, Kind, Row, Span},
        record::{Limits, Parser},
    };

    #[test]
    fn a_frame_takes_room_for_as_much_as_the_last_held_and_not_twice_that() {
        let encoder = Encoder { format: Format::Text, raw: false };
        for (last, bytes_max, room) in [
            (0, FRAME_BYTES, 1 << 10),
            (5000, FRAME_BYTES, 8 << 10),
            (FRAME_BYTES + 300, FRAME_BYTES, 64 << 10),
            (FRAME_BYTES, FRAME_BYTES_LEAST, 4 << 10),
        ] {
            assert_eq!(Frame::new(encoder, 1, bytes_max).with_room_for(last).bytes_first, room, "{last} {bytes_max}");
        }
    }

    fn format(accept: &str) -> Format {
        Format::of(&HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]))
    }

    #[test]
    fn accept_picks_the_format_and_ndjson_is_the_default() {
        assert_eq!(Format::of(&HeaderMap::new()), Format::Ndjson);
        for (accept, expected) in [
            ("*/*", Format::Ndjson),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Ndjson),
            ("application/json", Format::Ndjson),
            ("text/event-stream", Format::EventStream),
            ("TEXT/Event-Stream", Format::EventStream),
            ("text/event-stream, */*;q=0.1", Format::EventStream),
            ("*/*, text/event-stream", Format::EventStream),
            ("text/plain", Format::Text),
            ("text/plain; charset=utf-8", Format::Text),
            ("text/*", Format::Text),
            ("text/*, text/plain;q=0", Format::EventStream),
            ("text/plain;q=0.5, text/event-stream;q=0.6", Format::EventStream),
            ("text/plain;q=0.9, text/event-stream;q=0.6", Format::Text),
            ("application/x-ndjson, text/event-stream", Format::Ndjson),
            ("text/event-stream;q=0", Format::Ndjson),
            ("image/png", Format::Ndjson),
            ("garbage", Format::Ndjson),
            ("", Format::Ndjson),
        ] {
            assert_eq!(format(accept), expected, "{accept}");
        }
    }

    fn written(format: Format, raw: bool, body: &str) -> String {
        let limits = Limits { line_bytes_max: 1 << 20, errors_max: 10 };
        let parsed = Parser::default().parse(body.as_bytes(), limits);
        let bytes = body.as_bytes().to_vec().into();
        let mut batch = Batch::new(bytes, parsed.arena, parsed.rows, jiff::Timestamp::UNIX_EPOCH);
        batch.groups[0].first_seq = FIRST_SEQ;
        let mut frame = Frame::new(Encoder { format, raw }, u64::MAX, FRAME_BYTES);
        for index in 0..batch.rows.len() as u32 {
            frame.entry(&batch.view(index));
        }
        frame.skipped(Some(7));
        frame.skipped(None);
        frame.end(EndReason::CaughtUp);
        String::from_utf8(frame.into_bytes()).unwrap()
    }

    #[test]
    fn an_entry_reads_the_same_alone_and_in_a_frame_and_as_serde_has_it() {
        let numbers = [0, 1, 9, 10, 15, 16, 255, 1 << 32, u64::MAX - 7];
        let body = br#"{"instance":"m","message":"x"}"#.to_vec();
        let parsed = Parser::default().parse(&body, Limits { line_bytes_max: 1 << 20, errors_max: 10 });
        let mut clock = Clock::default();
        for (millis, number) in [0, 1, 1000, 1500, 1_700_000_000_123].into_iter().cycle().zip(numbers) {
            let at = jiff::Timestamp::from_millisecond(millis).unwrap();
            let mut batch = Batch::new(body.clone().into(), parsed.arena.clone(), parsed.rows.clone(), at);
            (batch.epoch, batch.first_line, batch.groups[0].first_seq) =
                (number, number, FIRST_SEQ.wrapping_add(number));
            let entry = batch.view(0);
            let (mut alone, mut framed) = (Vec::new(), Vec::new());
            entry.write_json(&mut alone, false);
            entry.write_json_by(&mut clock, &mut framed, false);
            assert_eq!(alone, framed);
            assert_eq!(String::from_utf8(alone).unwrap(), serde_json::to_string(&entry.to_entry()).unwrap());
        }
    }

    #[test]
    fn text_is_the_message_and_a_line_feed_and_nothing_else() {
        assert_eq!(written(Format::Text, false, r#"{"instance":"m","message":"a\tb"}"#), "a\tb\n");
    }

    #[test]
    fn every_ndjson_line_is_one_json_document() {
        let body = "[{\"instance\":\"m\",\r\n \"message\":\"a\\nb\"}]";
        let text = written(Format::Ndjson, true, body);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!((&lines[0]["message"], &lines[0]["raw"]["message"]), (&"a\nb".into(), &"a\nb".into()));
        assert_eq!(text.lines().nth(1), Some(r#"{"event":"skipped","lines":7}"#));
        assert_eq!(text.lines().nth(2), Some(r#"{"event":"skipped","lines":null}"#));
        assert_eq!(text.lines().nth(3), Some(r#"{"event":"end","reason":"caught_up"}"#));
    }

    #[test]
    fn an_event_has_its_id_and_one_data_line() {
        let text = written(Format::EventStream, false, r#"{"instance":"m","message":"a\nb"}"#);
        let events: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!(events.len(), 4, "{text}");
        let (id, data) = events[0].split_once('\n').unwrap();
        let entry: serde_json::Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(id.strip_prefix("id: ").unwrap(), entry["id"]);
        assert_eq!(events[1], "event: skipped\ndata: {\"event\":\"skipped\",\"lines\":7}");
        assert_eq!(events[3], "event: end\ndata: {\"event\":\"end\",\"reason\":\"caught_up\"}");
    }

    /// `cargo test --profile … -- --ignored --nocapture`: what an entry costs a reader.
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_an_entry() {
        let line = r#"{"event":{"provider":"app"},"fly":{"app":{"instance":"4d891d77b05118","name":"my-app"},"region":"lax"},"host":"f442","log":{"level":"info"},"message":"GET /api/v1/things/42 200 in 13 ms, user 1234, and some more text that makes it a usual line","timestamp":"2026-06-27T01:19:11.789045558Z"}"#;
        let body = format!("{line}\n").repeat(1000);
        let parsed = Parser::default().parse(body.as_bytes(), Limits { line_bytes_max: 1 << 20, errors_max: 10 });
        let batch = Batch::new(body.into_bytes().into(), parsed.arena, parsed.rows, jiff::Timestamp::now());
        let entry = batch.view(7);
        let mut out = Vec::with_capacity(1 << 20);
        let mut clock = Clock::default();
        for round in 0..3 {
            let since = std::time::Instant::now();
            for _ in 0..100_000 {
                out.clear();
                entry.write_json(&mut out, false);
            }
            let alone = since.elapsed() / 100_000;
            let since = std::time::Instant::now();
            for _ in 0..100_000 {
                out.clear();
                entry.write_json_by(&mut clock, &mut out, false);
            }
            println!(
                "{round}: {alone:?} an entry alone, {:?} in a frame, {} bytes",
                since.elapsed() / 100_000,
                out.len()
            );
        }
    }

    #[test]
    fn a_frame_ends_at_its_bytes_and_at_its_lines() {
        let text = "x".repeat(1000);
        let rows = [Row { message: Span::body(0, 1000), kind: Kind::Stdout, ..Row::default() }];
        let batch = Batch::new(text.into(), Vec::new(), rows.into(), jiff::Timestamp::UNIX_EPOCH);
        let fill = |lines_left, bytes_max| {
            let mut frame = Frame::new(Encoder { format: Format::Text, raw: false }, lines_left, bytes_max);
            while frame.has_room() {
                frame.entry(&batch.view(0));
            }
            (frame.lines(), frame.into_bytes().len())
        };
        assert_eq!(fill(3, FRAME_BYTES).0, 3);
        assert_eq!(fill(0, FRAME_BYTES), (0, 0));
        assert!(fill(u64::MAX, FRAME_BYTES).1 <= 64 << 10);
        assert!(fill(u64::MAX, FRAME_BYTES_LEAST).1 <= 4 << 10);
    }
}
