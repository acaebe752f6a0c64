//! What a store's answer means.

use std::{collections::HashMap, time::Duration};

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;

use super::form::Format;
use crate::sink::Failure;

/// Characters of a store's own words that are told on.
const TOLD_MAX: usize = 200;

/// The longest that a store is obeyed when it says when to come again; what it says then is asked anew.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// When a limit is lifted, in seconds since 1970, from who does not say Retry-After (Axiom).
const LIMIT_RESETS: [&str; 2] = ["x-ingestlimit-reset", "x-ratelimit-reset"];

/// As much as was read of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    /// `X-ClickHouse-Exception-Code`.
    exception: Option<u32>,
    /// `Location`, or that there was one.
    leads_elsewhere: bool,
    pub(super) body: Vec<u8>,
    /// The connection ended before the answer did.
    pub(super) broke_off: bool,
    /// There was more of it than is read.
    pub(super) cut_short: bool,
}

/// A failure that is not yet in words.
#[derive(Debug)]
pub(super) struct Failed {
    kind: Kind,
    what: String,
    /// The store's own words; to be masked.
    told: Vec<u8>,
}

#[derive(Debug)]
enum Kind {
    Unavailable(Option<Duration>),
    Denied,
    TooLarge,
    Never,
    Partly { again: Vec<usize>, never: Vec<usize>, retry_after: Option<Duration> },
}

impl Failed {
    /// In words: who says it, what it is, and what `masked` leaves of the store's own.
    pub(super) fn told_by(self, store: &str, masked: impl FnOnce(&[u8]) -> String) -> Failure {
        let mut reason = format!("{store}: {}", self.what);
        if !self.told.is_empty() {
            reason = format!("{reason}: {}", masked(&self.told));
        }
        match self.kind {
            Kind::Unavailable(retry_after) => Failure::Unavailable { reason, retry_after },
            Kind::Denied => Failure::Denied { reason },
            Kind::TooLarge => Failure::TooLarge { reason },
            Kind::Never => Failure::Never { reason },
            Kind::Partly { again, never, retry_after } => Failure::Partly { again, never, reason, retry_after },
        }
    }
}

impl Format {
    /// Bytes of an answer that are read for each line: Elasticsearch answers each.
    pub(super) fn answer_bytes_per_line(self) -> usize {
        if self == Self::Elasticsearch { 256 } else { 0 }
    }
}

impl Answer {
    pub(super) fn new(status: StatusCode, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            status,
            retry_after: text(RETRY_AFTER.as_str())
                .and_then(|value| retry_after(value, Timestamp::now()))
                .or_else(|| LIMIT_RESETS.iter().find_map(|name| until(text(name)?, Timestamp::now()))),
            exception: text("x-clickhouse-exception-code").and_then(|code| code.trim().parse().ok()),
            leads_elsewhere: headers.contains_key("location"),
            body: Vec::new(),
            broke_off: false,
            cut_short: false,
        }
    }

    /// Whether the store has all of the parcel's `lines`.
    pub(super) fn judge(&self, format: Format, lines: usize) -> Result<(), Failed> {
        if format == Format::ClickHouse
            && let Some(code) = self.exception_code()
        {
            return Err(self.failed(of_exception(code, self.status, self.retry_after)));
        }
        if !self.status.is_success() {
            return Err(self.failed(self.of_status()));
        }
        if self.broke_off {
            // What it would have said may have been that it failed: ClickHouse breaks an answer off to say so.
            return Err(self.failed_by(Kind::Unavailable(None), "the answer broke off"));
        }
        match format {
            Format::Axiom => self.judge_axiom(),
            Format::Elasticsearch => self.judge_bulk(lines),
            Format::Fleetdrain => self.judge_fleetdrain(lines),
            Format::Otlp => self.judge_otlp(),
            _ => Ok(()),
        }
    }

    /// Whether it would take lines. That it does not like a body without any is no obstacle.
    pub(super) fn judge_probe(&self) -> Result<(), Failed> {
        if self.status.is_success() {
            return Ok(());
        }
        let kind = match self.exception {
            Some(code) => of_exception(code, self.status, self.retry_after),
            None => self.of_status(),
        };
        if matches!(kind, Kind::Never | Kind::TooLarge) { Ok(()) } else { Err(self.failed(kind)) }
    }

    fn of_status(&self) -> Kind {
        match self.status.as_u16() {
            400 | 422 => Kind::Never,
            413 => Kind::TooLarge,
            // It is this very drain, or leads back to it.
            508 => Kind::Denied,
            // 430: a limit is reached (Axiom).
            408 | 425 | 429 | 430 | 500.. => Kind::Unavailable(self.retry_after),
            // Of the request and the place, not of the lines: a method, a media type, a proxy in between. 402: a quota is used up
            // (Better Stack). 3xx: the place is another; a redirected POST may lose its body.
            _ => Kind::Denied,
        }
    }

    fn failed(&self, kind: Kind) -> Failed {
        let what = if self.status.is_redirection() && self.leads_elsewhere {
            format!("{}, which is not followed: set url to where it leads", self.status)
        } else {
            self.status.to_string()
        };
        Failed { kind, what, told: self.body.clone() }
    }

    fn failed_by(&self, kind: Kind, what: &str) -> Failed {
        Failed { kind, what: format!("{}, but {what}", self.status), told: Vec::new() }
    }

    /// ClickHouse names its errors by numbers, in a header or, once it has begun to answer 200, in the body.
    fn exception_code(&self) -> Option<u32> {
        let of_body = || {
            let at = memmem::find(&self.body, b"Code: ")?;
            memmem::find(&self.body[at..], b"DB::Exception")?;
            let digits = self.body[at + 6..].iter().take_while(|byte| byte.is_ascii_digit());
            String::from_utf8(digits.copied().collect()).ok()?.parse().ok()
        };
        self.exception.filter(|code| *code != 0).or_else(of_body)
    }

    fn judge_axiom(&self) -> Result<(), Failed> {
        #[derive(Deserialize)]
        struct Account {
            #[serde(default)]
            failed: u64,
        }
        match serde_json::from_slice(&self.body) {
            // Which ones it does not say; one by one it does.
            Ok(Account { failed }) if failed > 0 => {
                Err(self.failed_by(Kind::Never, &format!("{failed} lines have failed")))
            }
            _ => Ok(()),
        }
    }

    fn judge_otlp(&self) -> Result<(), Failed> {
        let answer: Option<Value> = serde_json::from_slice(&self.body).ok();
        let partly = answer.as_ref().and_then(|answer| answer.get("partialSuccess"));
        let rejected = match partly.and_then(|partly| partly.get("rejectedLogRecords")) {
            Some(Value::String(number)) => number.parse().unwrap_or(0),
            Some(number) => number.as_u64().unwrap_or(0),
            None => 0,
        };
        if rejected == 0 {
            return Ok(());
        }
        let why = partly.and_then(|partly| partly.get("errorMessage")).and_then(Value::as_str).unwrap_or_default();
        let failed = self.failed_by(Kind::Never, &format!("{rejected} lines were rejected"));
        Err(Failed { told: why.as_bytes().to_vec(), ..failed })
    }

    fn judge_fleetdrain(&self, lines: usize) -> Result<(), Failed> {
        #[derive(Deserialize)]
        struct Account {
            #[serde(default)]
            rejected: usize,
            #[serde(default)]
            errors: Vec<Rejected>,
        }
        #[derive(Deserialize)]
        struct Rejected {
            record: usize,
        }
        let Ok(Account { rejected, errors }) = serde_json::from_slice(&self.body) else { return Ok(()) };
        if rejected == 0 {
            return Ok(());
        }
        let mut never: Vec<usize> = errors.iter().filter_map(|error| error.record.checked_sub(1)).collect();
        never.retain(|place| *place < lines);
        never.sort_unstable();
        never.dedup();
        // It names the first few only.
        let kind = if never.len() == rejected {
            Kind::Partly { again: Vec::new(), never, retry_after: None }
        } else {
            Kind::Never
        };
        Err(self.failed_by(kind, &format!("{rejected} lines were rejected")))
    }

    /// A bulk request is answered 200 whatever became of its lines: each has a status of its own.
    fn judge_bulk(&self, lines: usize) -> Result<(), Failed> {
        #[derive(Deserialize)]
        struct Bulk {
            errors: bool,
            #[serde(default)]
            items: Vec<HashMap<String, Item>>,
        }
        #[derive(Deserialize)]
        struct Item {
            status: u16,
            error: Option<Value>,
        }
        let bulk: Option<Bulk> = serde_json::from_slice(&self.body).ok();
        let Some(bulk) = bulk.filter(|bulk| !bulk.errors || bulk.items.len() == lines) else {
            let what = if self.cut_short { "the answer is too long" } else { "the answer is none to a bulk request" };
            return Err(self.failed_by(Kind::Unavailable(None), what));
        };
        let (mut again, mut never, mut denied, mut why) = (Vec::new(), Vec::new(), 0, None);
        for (place, item) in bulk.items.iter().enumerate().filter(|_| bulk.errors) {
            let Some(item) = item.values().next() else { continue };
            match item.status {
                // 409: it came before, and is there.
                200..=299 | 409 => continue,
                401 | 403 | 404 => {
                    denied += 1;
                    again.push(place);
                }
                408 | 429 | 500.. => again.push(place),
                _ => never.push(place),
            }
            why = why.or_else(|| Some((item.status, item.error.as_ref()?.get("type")?.as_str()?.to_owned())));
        }
        if again.is_empty() && never.is_empty() {
            return Ok(());
        }
        let (status, why) = why.unwrap_or_default();
        let what = format!("{} of {lines} lines have failed, the first with {status}", again.len() + never.len());
        let retry_after = self.retry_after;
        let kind = match again.len() {
            all if all == lines && denied == lines => Kind::Denied,
            all if all == lines => Kind::Unavailable(retry_after),
            _ => Kind::Partly { again, never, retry_after },
        };
        Err(Failed { told: why.into_bytes(), ..self.failed_by(kind, &what) })
    }
}

/// What is to be done about an error of ClickHouse (`ErrorCodes.cpp`): its statuses tell too little.
fn of_exception(code: u32, status: StatusCode, retry_after: Option<Duration>) -> Kind {
    match code {
        // A line that cannot be read: numbers, dates, quotes, unknown members, types.
        6 | 26 | 27 | 33 | 38 | 41 | 53 | 69 | 70 | 72 | 117 | 131 | 321 | 349 | 441 | 467 | 676 => Kind::Never,
        // No column, syntax, table, database, setting; no access.
        16 | 62 | 60 | 81 | 115 | 192..=195 | 497 | 516 => Kind::Denied,
        _ if status == StatusCode::PAYLOAD_TOO_LARGE => Kind::TooLarge,
        _ => Kind::Unavailable(retry_after),
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
            Duration::try_from(date.duration_since(now).max(SignedDuration::ZERO)).ok()?
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// How long it is until a time in seconds since 1970.
fn until(value: &str, now: Timestamp) -> Option<Duration> {
    let at = Timestamp::from_second(value.trim().parse().ok()?).ok()?;
    let wait = Duration::try_from(at.duration_since(now)).ok()?;
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The first of a store's words, without secrets and without what it repeats of `sent`: users' lines do not belong into logs.
pub(super) fn mask(text: &[u8], sent: &[u8], secrets: &[String]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(4 * TOLD_MAX)]).into_owned();
    let mut text = secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), "…"));
    if let Some((end, _)) = text.char_indices().nth(TOLD_MAX) {
        text.truncate(end);
    }
    let text = without_repeated(&text, sent);
    text.trim().chars().flat_map(|char| escaped(char).chars().collect::<Vec<_>>()).collect()
}

fn escaped(char: char) -> String {
    if char.is_control() { char.escape_default().to_string() } else { char.to_string() }
}

/// As long as a piece must be to be known again; shorter ones are words that anybody uses.
const PIECE: usize = 12;

fn without_repeated(text: &str, sent: &[u8]) -> String {
    let bytes = text.as_bytes();
    let mut repeated = vec![false; bytes.len()];
    let mut pieces: HashMap<&[u8], Vec<usize>> = HashMap::new();
    let mut beginnings = vec![false; 1 << 16];
    let begins = |piece: &[u8]| usize::from(piece[0]) << 8 | usize::from(piece[1]);
    for (start, piece) in bytes.windows(PIECE).enumerate() {
        pieces.entry(piece).or_default().push(start);
        beginnings[begins(piece)] = true;
    }
    // One pass, however much was sent: a store that fails does so often.
    for piece in sent.windows(PIECE).filter(|piece| beginnings[begins(piece)]) {
        for start in pieces.remove(piece).unwrap_or_default() {
            repeated[start..start + PIECE].fill(true);
        }
    }
    let mut left = String::new();
    for (at, char) in text.char_indices() {
        if !repeated[at] {
            left.push(char);
        } else if !left.ends_with('…') {
            left.push('…');
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-11-24T20:00:00Z".parse().unwrap();
        let wait = |value: &str| retry_after(value, now).map(|wait| wait.as_secs());
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait(" 0 "), Some(0));
        assert_eq!(wait("Tue, 24 Nov 2026 20:01:30 GMT"), Some(90));
        assert_eq!(wait("Tue, 24 Nov 2026 19:00:00 GMT"), Some(0));
        assert_eq!(wait("99999999"), Some(3600));
        for none in ["", "soon", "-1", "1.5"] {
            assert_eq!(wait(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_limit_is_waited_for_until_it_is_lifted() {
        let now: Timestamp = "2026-11-24T20:00:00Z".parse().unwrap();
        let wait = |value: i64| until(&value.to_string(), now).map(|wait| wait.as_secs());
        assert_eq!(wait(now.as_second() + 40), Some(40));
        assert_eq!(wait(now.as_second() + 99_999), Some(3600));
        // Past, or so many seconds from now, which it is not.
        assert_eq!(wait(40), None);
    }

    #[test]
    fn what_was_sent_is_not_told_on() {
        let sent = br#"{"message":"user bob has password hunter2 and more"}"#;
        let told = mask(b"cannot parse: user bob has password hunter2 and\nnobody else \x07", sent, &[]);
        assert!(!told.contains("hunter2") && !told.contains("bob"), "{told}");
        assert!(told.starts_with("cannot parse") && told.ends_with(r"\nnobody else \u{7}"), "{told}");
        assert_eq!(mask(b"key s3cr3t is wrong", b"", &["s3cr3t".to_owned()]), "key … is wrong");
        assert_eq!(mask("é".repeat(1000).as_bytes(), b"", &[]).chars().count(), TOLD_MAX);
    }
}
