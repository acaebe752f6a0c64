//! The catalogue: one line for each thing that may be set.

use std::{
    fmt::Write,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use super::{
    BootLines, Config, Full, GIB, LogFormat, MIB, Problem, SpoolFull,
    value::{A_DURATION, A_SIZE, duration, format_duration, format_size, size},
};
use crate::{batch::Streams, exit::ExitPatterns};

const TIB: usize = 1 << 40;
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// One thing that may be set.
#[derive(Debug)]
pub struct Setting {
    /// Section and key, as in `ingest.listen`.
    pub key: &'static str,
    /// What it is, in one sentence without a full stop.
    pub help: &'static str,
    /// How the default comes about where it is not one value.
    pub derived: Option<&'static str>,
    kind: Kind,
}

/// What a setting is, where it lies in a [`Config`], and its bounds.
#[derive(Debug)]
enum Kind {
    Size { at: fn(&mut Config) -> &mut usize, min: usize, max: usize },
    Count { at: fn(&mut Config) -> &mut usize, min: usize, max: usize },
    Time { at: fn(&mut Config) -> &mut Duration, min: Duration, max: Duration },
    Address(fn(&mut Config) -> &mut Option<SocketAddr>),
    Path(fn(&mut Config) -> &mut Option<PathBuf>),
    Switch(fn(&mut Config) -> &mut bool),
    Patterns(fn(&mut Config) -> &mut ExitPatterns),
    Word { expected: &'static str, read: fn(&mut Config, &str) -> bool, show: fn(&Config) -> String },
}

/// A value as its source gave it.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    /// An array of texts; only for settings that are lists.
    List(Vec<String>),
    /// Something that no setting takes, as it stands in the file.
    Other(String),
}

impl Value {
    /// How it is named in a mistake.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::List(texts) => format!("[{}]", texts.join(",")),
            Self::Other(text) => text.clone(),
        }
    }

    /// What a setting that is a text makes of it.
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A count; from the environment it comes as text.
    fn as_count(&self) -> Option<usize> {
        match self {
            Self::Integer(number) => usize::try_from(*number).ok(),
            Self::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        }
    }

    fn as_size(&self) -> Option<usize> {
        self.as_count().or_else(|| self.as_text().and_then(size))
    }

    fn as_switch(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

const fn setting(key: &'static str, kind: Kind, help: &'static str) -> Setting {
    Setting { key, help, derived: None, kind }
}

/// Everything that may be set, in the order of the sections.
pub static SETTINGS: [Setting; 63] = [
    Setting {
        derived: Some("[::]:8080, or 0.0.0.0:8080 where IPv6 is off"),
        ..setting(
            "ingest.listen",
            Kind::Address(|c| &mut c.ingest.listen),
            "where senders post to; port 0 asks the operating system",
        )
    },
    setting(
        "ingest.token_file",
        Kind::Path(|c| &mut c.ingest.token_file),
        "a file of tokens for senders, one a line, all live",
    ),
    setting(
        "ingest.tls_cert_file",
        Kind::Path(|c| &mut c.ingest.tls_cert_file),
        "a file of certificates in PEM, the server's own first: the listener speaks TLS; read again on SIGHUP",
    ),
    setting(
        "ingest.tls_key_file",
        Kind::Path(|c| &mut c.ingest.tls_key_file),
        "a file with the private key of the first certificate, in PEM and not encrypted",
    ),
    setting(
        "ingest.body_bytes_max",
        Kind::Size { at: |c| &mut c.ingest.body_bytes_max, min: 1, max: GIB },
        "the largest body on the wire",
    ),
    Setting {
        derived: Some("256MiB, at most a quarter of memory.budget"),
        ..setting(
            "ingest.decoded_bytes_max",
            Kind::Size { at: |c| &mut c.ingest.decoded_bytes_max, min: 1, max: GIB },
            "the largest body decoded; never more than a quarter of memory.budget",
        )
    },
    setting(
        "ingest.line_bytes_max",
        Kind::Size { at: |c| &mut c.ingest.line_bytes_max, min: 1, max: GIB },
        "the largest single record; a longer one is rejected, its neighbours are not",
    ),
    setting(
        "ingest.header_deadline",
        Kind::Time { at: |c| &mut c.ingest.header_deadline, min: MILLISECOND, max: HOUR },
        "from a request's first byte to the end of its head",
    ),
    setting(
        "ingest.body_deadline",
        Kind::Time { at: |c| &mut c.ingest.body_deadline, min: MILLISECOND, max: HOUR },
        "from the end of a head to the last byte of its body",
    ),
    setting(
        "ingest.ack_deadline",
        Kind::Time { at: |c| &mut c.ingest.ack_deadline, min: MILLISECOND, max: HOUR },
        "how long an answer waits for a sink that is to acknowledge; then it is a 503 with Fleetdrain-Ack: unknown",
    ),
    setting(
        "ingest.idle",
        Kind::Time { at: |c| &mut c.ingest.idle, min: MILLISECOND, max: DAY },
        "how long a connection may stay without a request",
    ),
    setting(
        "ingest.connections_max",
        Kind::Count { at: |c| &mut c.ingest.connections_max, min: 1, max: 1_000_000 },
        "connections at once",
    ),
    Setting {
        derived: Some("127.0.0.1:8081; [::]:8081 when FLY_APP_NAME and a control token are set"),
        ..setting(
            "control.listen",
            Kind::Address(|c| &mut c.control.listen),
            "where readers, scrapers and operators ask; off loopback only with a token",
        )
    },
    setting(
        "control.token_file",
        Kind::Path(|c| &mut c.control.token_file),
        "a file of tokens for readers, one a line, all live",
    ),
    setting(
        "control.tls_cert_file",
        Kind::Path(|c| &mut c.control.tls_cert_file),
        "a file of certificates in PEM, the server's own first: the listener speaks TLS; read again on SIGHUP",
    ),
    setting(
        "control.tls_key_file",
        Kind::Path(|c| &mut c.control.tls_key_file),
        "a file with the private key of the first certificate, in PEM and not encrypted",
    ),
    setting(
        "control.signing_key_file",
        Kind::Path(|c| &mut c.control.signing_key_file),
        "a file of keys for signed links, one a line of at least 32 bytes: the first signs, all vouch",
    ),
    setting(
        "control.cors_origins",
        Kind::Word {
            expected: "a list of origins such as https://page.example or http://localhost:3000, or none",
            read: read_origins,
            show: |c| if c.control.cors_origins.is_empty() { "none".into() } else { c.control.cors_origins.join(",") },
        },
        "web pages that may read what a signed link may read",
    ),
    setting(
        "control.insecure",
        Kind::Switch(|c| &mut c.control.insecure),
        "lets control listen off loopback without a token: everybody reads your logs",
    ),
    setting(
        "control.stalled_after",
        Kind::Time { at: |c| &mut c.control.stalled_after, min: MILLISECOND, max: YEAR },
        "a reader that takes nothing of its answer for so long is cut off; it may come again and go on behind the last id",
    ),
    setting(
        "backpressure.wait",
        Kind::Time { at: |c| &mut c.backpressure.wait, min: Duration::ZERO, max: HOUR },
        "how long a sender is held for room before it is refused",
    ),
    setting(
        "backpressure.waiting_max",
        Kind::Count { at: |c| &mut c.backpressure.waiting_max, min: 0, max: 1_000_000 },
        "senders held at once; the next is refused at once",
    ),
    setting(
        "idempotency.keys_max",
        Kind::Count { at: |c| &mut c.idempotency.keys_max, min: 0, max: 100_000_000 },
        "Idempotency-Keys remembered at once",
    ),
    setting(
        "idempotency.keep",
        Kind::Time { at: |c| &mut c.idempotency.keep, min: MILLISECOND, max: YEAR },
        "how long each Idempotency-Key is remembered",
    ),
    Setting {
        derived: Some("60% of the cgroup limit or of memory, at most 1GiB"),
        ..setting(
            "memory.budget",
            Kind::Size { at: |c| &mut c.memory.budget, min: MIB, max: 64 * TIB },
            "bytes for bodies, batches, queues, history and readers",
        )
    },
    Setting {
        derived: Some("a quarter of memory.budget"),
        ..setting(
            "history.bytes",
            Kind::Size { at: |c| &mut c.history.bytes, min: 0, max: 64 * TIB },
            "recent lines kept for backlog, logs, tail and queues that catch up; at most memory.budget",
        )
    },
    setting(
        "queue.lines",
        Kind::Count { at: |c| &mut c.queue.lines, min: 1, max: 100_000_000 },
        "lines in each machine's queue",
    ),
    setting(
        "queue.bytes",
        Kind::Size { at: |c| &mut c.queue.bytes, min: 1, max: TIB },
        "bytes in each machine's queue",
    ),
    setting(
        "queue.full",
        Kind::Word {
            expected: "catch_up, block or drop_oldest",
            read: read_full,
            show: |c| c.queue.full.as_str().into(),
        },
        "what a full queue does; block answers senders 429",
    ),
    setting(
        "queue.streams",
        Kind::Word {
            expected: "a list of stdout, stderr and system, or all",
            read: read_streams,
            show: |c| c.queue.streams.to_string(),
        },
        "which streams a queue takes unless its subscriber says otherwise",
    ),
    setting(
        "queue.stalled_after",
        Kind::Time { at: |c| &mut c.queue.stalled_after, min: MILLISECOND, max: DAY },
        "a block queue into which nothing fitted for so long goes behind",
    ),
    setting(
        "queue.abandoned_after",
        Kind::Time { at: |c| &mut c.queue.abandoned_after, min: MILLISECOND, max: YEAR },
        "what has waited without a reader for so long is dropped",
    ),
    setting(
        "queue.subscriptions_max",
        Kind::Count { at: |c| &mut c.queue.subscriptions_max, min: 1, max: 100_000_000 },
        "queues at once",
    ),
    setting(
        "machines.finished_keep",
        Kind::Time { at: |c| &mut c.machines.finished_keep, min: Duration::ZERO, max: YEAR },
        "how long a finished machine is remembered",
    ),
    setting(
        "machines.idle_expire",
        Kind::Time { at: |c| &mut c.machines.idle_expire, min: MILLISECOND, max: YEAR },
        "a machine without a queue that was silent for so long is forgotten",
    ),
    setting(
        "machines.max",
        Kind::Count { at: |c| &mut c.machines.max, min: 1, max: 100_000_000 },
        "machines remembered at once, least recent out",
    ),
    setting(
        "limit.machine.lines_per_second",
        Kind::Count { at: |c| &mut c.limit.machine.lines_per_second, min: 0, max: 1_000_000_000 },
        "lines that a machine's queue takes, with a burst of 10s; more is dropped as limited; 0 is no limit",
    ),
    setting(
        "limit.machine.bytes_per_second",
        Kind::Size { at: |c| &mut c.limit.machine.bytes_per_second, min: 0, max: TIB },
        "the same in bytes of the records as sent",
    ),
    setting(
        "limit.app.lines_per_second",
        Kind::Count { at: |c| &mut c.limit.app.lines_per_second, min: 0, max: 1_000_000_000 },
        "lines that the queues of all machines of an app take, with a burst of 10s; 0 is no limit",
    ),
    setting(
        "limit.app.bytes_per_second",
        Kind::Size { at: |c| &mut c.limit.app.bytes_per_second, min: 0, max: TIB },
        "the same in bytes of the records as sent",
    ),
    Setting {
        derived: Some("spool.dir"),
        ..setting(
            "journal.dir",
            Kind::Path(|c| &mut c.journal.dir),
            "where losses are on record; without it and without a spool in memory, and gone with the process",
        )
    },
    setting(
        "journal.bytes_max",
        Kind::Size { at: |c| &mut c.journal.bytes_max, min: 64 << 10, max: GIB },
        "bytes of losses on record; the oldest go",
    ),
    setting(
        "metrics.machines_max",
        Kind::Count { at: |c| &mut c.metrics.machines_max, min: 0, max: 1_000_000 },
        "machines with metric series of their own: those with most lines in the last 5 minutes",
    ),
    setting(
        "spool.dir",
        Kind::Path(|c| &mut c.spool.dir),
        "a directory of the drain's own for batches on disk: an acknowledgement then outlives any crash; none by default",
    ),
    setting(
        "spool.keep",
        Kind::Time { at: |c| &mut c.spool.keep, min: MILLISECOND, max: YEAR },
        "how long batches are kept on disk, unless there is no room",
    ),
    setting(
        "spool.bytes_max",
        Kind::Size { at: |c| &mut c.spool.bytes_max, min: MIB, max: 1024 * TIB },
        "bytes on disk, all in all",
    ),
    setting(
        "spool.full",
        Kind::Word { expected: "refuse or drop_oldest", read: read_spool_full, show: |c| c.spool.full.as_str().into() },
        "what is done when it is full of what sinks have not sent; without sinks the oldest goes",
    ),
    setting(
        "fly.enabled",
        Kind::Switch(|c| &mut c.fly.enabled),
        "take logs from Fly's NATS, as `--fly` says; see docs/fly.md",
    ),
    setting(
        "fly.url",
        Kind::Word { expected: "nats://HOST:PORT", read: read_nats_url, show: |c| c.fly.url.clone() },
        "where Fly's NATS is; the default is that of any private network",
    ),
    setting(
        "fly.org",
        Kind::Word { expected: "a slug, or none", read: read_org, show: |c| shown(c.fly.org.as_ref()) },
        "the organisation's slug, as `fly orgs list` tells it: the user",
    ),
    setting(
        "fly.token_file",
        Kind::Path(|c| &mut c.fly.token_file),
        "a file with the access token, the password; read again on SIGHUP, for the next time it connects",
    ),
    setting(
        "fly.subjects",
        Kind::Word {
            expected: "subjects such as logs.> or logs.my-app.>, none of them within another",
            read: read_subjects,
            show: |c| c.fly.subjects.join(","),
        },
        "what is subscribed to: `logs.APP.REGION.MACHINE`, where `*` is any one and `>` any rest",
    ),
    setting(
        "fly.queue_group",
        Kind::Word { expected: "a name, or none", read: read_queue_group, show: |c| shown(c.fly.queue_group.as_ref()) },
        "share the messages with other members: each then has only a part of every machine's log",
    ),
    setting(
        "fly.batch_lines",
        Kind::Count { at: |c| &mut c.fly.batch_lines, min: 1, max: 100_000 },
        "messages that make a batch",
    ),
    setting(
        "fly.batch_bytes",
        Kind::Size { at: |c| &mut c.fly.batch_bytes, min: 1 << 10, max: 16 * MIB },
        "bytes that make a batch",
    ),
    setting(
        "fly.batch_age",
        Kind::Time { at: |c| &mut c.fly.batch_age, min: MILLISECOND, max: Duration::from_secs(1) },
        "the longest that a message waits for others to make a batch",
    ),
    setting(
        "fly.pending_max",
        Kind::Count { at: |c| &mut c.fly.pending_max, min: 1, max: 10_000_000 },
        "messages of all subjects that wait while the drain is full, in memory.budget as 1 KiB each and at most an eighth of it; more are dropped and counted",
    ),
    setting(
        "fly.canary",
        Kind::Switch(|c| &mut c.fly.canary),
        "write a numbered line to standard output every 10s and look whether Fly brings it back",
    ),
    Setting {
        derived: Some("what Fly's runner writes, see docs/fly.md"),
        ..setting(
            "fly.exit_patterns",
            Kind::Patterns(|c| &mut c.fly.exit_patterns),
            "which messages of Fly's runner say that a machine has exited; the capture `code` is the exit code; for records that senders post too",
        )
    },
    setting(
        "fly.boot_lines",
        Kind::Word { expected: "stdout or system", read: read_boot_lines, show: |c| c.fly.boot_lines.as_str().into() },
        "which stream the lines of init, the kernel and Firecracker are of; for records that senders post too",
    ),
    setting(
        "shutdown.deadline",
        Kind::Time { at: |c| &mut c.shutdown.deadline, min: Duration::ZERO, max: HOUR },
        "how long ending streams and flushing may take; keep it under the platform's kill time-out (Fly: 5s)",
    ),
    setting(
        "log.format",
        Kind::Word { expected: "auto, text or json", read: read_log_format, show: |c| c.log.format.as_str().into() },
        "how the process's own log is written; auto is text, coloured on a terminal",
    ),
    setting(
        "log.level",
        Kind::Word { expected: LOG_LEVELS, read: read_log_level, show: |c| c.log.level.clone() },
        "the least level of the own log, for all modules or for some",
    ),
];

/// What `log.level` takes.
const LOG_LEVELS: &str = "error, warn, info, debug, trace or off, or such as info,fleetdrain::http=debug";

fn read_full(config: &mut Config, text: &str) -> bool {
    let full = Full::ALL.into_iter().find(|full| full.as_str() == text);
    full.inspect(|&full| config.queue.full = full).is_some()
}

fn read_spool_full(config: &mut Config, text: &str) -> bool {
    let full = SpoolFull::ALL.into_iter().find(|full| full.as_str() == text);
    full.inspect(|&full| config.spool.full = full).is_some()
}

/// Origins exactly as browsers send them, or the page would be refused and nobody would know why.
fn read_origins(config: &mut Config, text: &str) -> bool {
    let origins: Vec<String> = match text {
        "none" | "" => Vec::new(),
        list => list.split(',').map(|origin| origin.trim().to_owned()).collect(),
    };
    let known = origins.iter().all(|origin| is_origin(origin));
    if known {
        config.control.cors_origins = origins;
    }
    known
}

/// Whether `text` is a scheme, a host and perhaps a port, as browsers write them: in lower case, without a default port, without
/// anything behind it (RFC 6454, 6.2).
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_port =
        |port: &str| port.parse().is_ok_and(|number: u16| number != default_port && number.to_string() == port);
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| ip.to_string() == address),
        None => !host.is_empty() && host.bytes().all(is_name),
    };
    is_host && port.is_none_or(is_port)
}

fn shown(name: Option<&String>) -> String {
    name.cloned().unwrap_or_else(|| "none".to_owned())
}

/// A host and a port; who we are does not belong here.
fn read_nats_url(config: &mut Config, text: &str) -> bool {
    let rest = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://"));
    let host_and_port = rest.and_then(|rest| rest.rsplit_once(':'));
    let known = host_and_port.is_some_and(|(host, port)| {
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        let is_bracketed = !host.contains(':') || host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && is_bracketed && host.bytes().all(is_host) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if known {
        text.clone_into(&mut config.fly.url);
    }
    known
}

/// What a token of a subject, a user or a queue group may be: nothing that NATS would take for something else.
fn is_nats_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b".*>".contains(&byte))
}

fn read_org(config: &mut Config, text: &str) -> bool {
    config.fly.org = (text != "none").then(|| text.to_owned());
    is_nats_name(text)
}

fn read_queue_group(config: &mut Config, text: &str) -> bool {
    config.fly.queue_group = (text != "none").then(|| text.to_owned());
    is_nats_name(text)
}

/// A message that two of them match would come twice.
fn read_subjects(config: &mut Config, text: &str) -> bool {
    let subjects: Vec<String> = text.split(',').map(|subject| subject.trim().to_owned()).collect();
    let known = subjects.iter().all(|subject| is_subject(subject))
        && subjects.iter().enumerate().all(|(at, subject)| !subjects[..at].iter().any(|other| overlap(subject, other)));
    if known {
        config.fly.subjects = subjects;
    }
    known
}

fn is_subject(subject: &str) -> bool {
    let (rest, last) = subject.rsplit_once('.').unwrap_or(("*", subject));
    let is_token = |token: &str| token == "*" || is_nats_name(token);
    rest.split('.').all(is_token) && (last == ">" || is_token(last))
}

/// Whether some message has a subject that both match.
fn overlap(one: &str, other: &str) -> bool {
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

fn read_streams(config: &mut Config, text: &str) -> bool {
    let streams = Streams::from_str(text).ok();
    streams.inspect(|&streams| config.queue.streams = streams).is_some()
}

fn read_boot_lines(config: &mut Config, text: &str) -> bool {
    let lines = BootLines::ALL.into_iter().find(|lines| lines.as_str() == text);
    lines.inspect(|&lines| config.fly.boot_lines = lines).is_some()
}

const A_LIST_OF_PATTERNS: &str = "a list of 1 to 16 regular expressions, each of up to 1KiB";

/// Patterns as an array, or in the environment one a line.
fn patterns(value: &Value) -> Option<ExitPatterns> {
    match value {
        Value::List(texts) => ExitPatterns::new(texts).ok(),
        value => ExitPatterns::new(&value.as_text()?.lines().collect::<Vec<_>>()).ok(),
    }
}

fn read_log_format(config: &mut Config, text: &str) -> bool {
    let format = LogFormat::ALL.into_iter().find(|format| format.as_str() == text);
    format.inspect(|&format| config.log.format = format).is_some()
}

fn read_log_level(config: &mut Config, text: &str) -> bool {
    let is_level = |text: &str| ["error", "warn", "info", "debug", "trace", "off"].contains(&text);
    let is_module = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:".contains(&byte))
    };
    // A module alone is no level: a misspelt one would be taken for it.
    let is_directive = |text: &str| match text.split_once('=') {
        Some((module, level)) => is_module(module) && is_level(level),
        None => is_level(text),
    };
    let known = text.split(',').all(is_directive);
    if known {
        text.clone_into(&mut config.log.level);
    }
    known
}

impl Setting {
    /// The section of the file that the key stands in.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(section, _)| section)
    }

    /// The key within its section.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The environment variable that sets it, as in `FLEETDRAIN_INGEST__LISTEN`.
    #[must_use]
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// What may be set, as in `1 to 1GiB`.
    #[must_use]
    pub fn bounds(&self) -> String {
        match &self.kind {
            Kind::Size { min, max, .. } => format!("{} to {}", format_size(*min), format_size(*max)),
            Kind::Count { min, max, .. } => format!("{min} to {max}"),
            Kind::Time { min, max, .. } => format!("{} to {}", format_duration(*min), format_duration(*max)),
            Kind::Address(_) => "HOST:PORT".to_owned(),
            Kind::Path(_) => "a path".to_owned(),
            Kind::Switch(_) => "true or false".to_owned(),
            Kind::Patterns(_) => A_LIST_OF_PATTERNS.to_owned(),
            Kind::Word { expected, .. } => (*expected).to_owned(),
        }
    }

    /// The default as text, or how it is derived; `None`: nothing is set.
    #[must_use]
    pub fn default_text(&self) -> Option<String> {
        self.derived.map(str::to_owned).or_else(|| self.show(&Config::default()))
    }

    /// The value in `config`, as the file would take it but without quotes; `None`: nothing is set.
    #[must_use]
    pub fn show(&self, config: &Config) -> Option<String> {
        // The catalogue names each place once, by `&mut`; this is not a hot path.
        let config = &mut config.clone();
        match &self.kind {
            Kind::Size { at, .. } => Some(format_size(*at(config))),
            Kind::Count { at, .. } => Some(at(config).to_string()),
            Kind::Time { at, .. } => Some(format_duration(*at(config))),
            Kind::Address(at) => at(config).map(|address| address.to_string()),
            Kind::Path(at) => at(config).as_ref().map(|path| path.display().to_string()),
            Kind::Switch(at) => Some(at(config).to_string()),
            Kind::Patterns(at) => Some(at(config).texts().collect::<Vec<_>>().join("\n")),
            Kind::Word { show, .. } => Some(show(config)),
        }
    }

    /// Puts `value` into `config`, or says what is wrong with it and leaves `config` as it was.
    pub(super) fn apply(&self, config: &mut Config, value: &Value) -> Result<(), Problem> {
        let not_a = |expected| Problem::NotA { value: value.shown(), expected };
        match &self.kind {
            Kind::Size { at, min, max } => {
                let bytes = value.as_size().ok_or_else(|| not_a(A_SIZE))?;
                *at(config) = within(bytes, *min, *max, format_size)?;
            }
            Kind::Count { at, min, max } => {
                let count = value.as_count().ok_or_else(|| not_a("a whole number"))?;
                *at(config) = within(count, *min, *max, |count| count.to_string())?;
            }
            Kind::Time { at, min, max } => {
                let time = value.as_text().and_then(duration);
                let time = time.ok_or_else(|| not_a(A_DURATION))?;
                *at(config) = within(time, *min, *max, format_duration)?;
            }
            Kind::Address(at) => *at(config) = Some(address(value)?),
            Kind::Path(at) => {
                let path = value.as_text().ok_or_else(|| not_a("a path"))?;
                *at(config) = Some(PathBuf::from(path));
            }
            Kind::Switch(at) => *at(config) = value.as_switch().ok_or_else(|| not_a("true or false"))?,
            Kind::Patterns(at) => *at(config) = patterns(value).ok_or_else(|| not_a(A_LIST_OF_PATTERNS))?,
            Kind::Word { expected, read, .. } => {
                let list = if let Value::List(texts) = value { Some(texts.join(",")) } else { None };
                if !list.as_deref().or_else(|| value.as_text()).is_some_and(|text| read(config, text)) {
                    return Err(not_a(expected));
                }
            }
        }
        Ok(())
    }

    /// The default as the file takes it.
    fn toml_default(&self) -> String {
        let text = self.show(&Config::default()).unwrap_or_default();
        match &self.kind {
            Kind::Count { .. } | Kind::Switch(_) => text,
            _ => toml::Value::String(text).to_string(),
        }
    }
}

/// The environment variable for a key, as in `FLEETDRAIN_INGEST__LISTEN`.
pub(super) fn variable(key: &str) -> String {
    format!("FLEETDRAIN_{}", key.replace('.', "__").to_ascii_uppercase())
}

fn within<T: PartialOrd + Copy>(value: T, min: T, max: T, show: impl Fn(T) -> String) -> Result<T, Problem> {
    if value < min || value > max {
        return Err(Problem::OutOfBounds { value: show(value), min: show(min), max: show(max) });
    }
    Ok(value)
}

/// Reads `HOST:PORT`, where HOST is an address, IPv6 in brackets, or a name.
fn address(value: &Value) -> Result<SocketAddr, Problem> {
    let not_a = || Problem::NotA { value: value.shown(), expected: "HOST:PORT, such as 0.0.0.0:8080 or [::]:8080" };
    let text = value.as_text().ok_or_else(not_a)?;
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(not_a)?;
    let port: u16 = port.parse().map_err(|_| not_a())?;
    // A resolver would take `256.1.1.1` or an unbracketed IPv6 address for a name and ask the network about it.
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !host.chars().all(name) || !host.contains(|c: char| c.is_ascii_alphabetic()) {
        return Err(not_a());
    }
    let unresolved = |source| Problem::Unresolved { value: format!("{host:?}"), source };
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(unresolved)?.collect();
    // `localhost` is often ::1 first, even where IPv6 is off.
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| unresolved(std::io::ErrorKind::NotFound.into()))
}

/// A configuration file that sets nothing: every key with its default, bounds and meaning, commented out.
#[must_use]
pub fn default_toml() -> String {
    let mut text = String::from(
        "# fleetdrain: every setting with its default. Take away the `#` before a key to change it.\n\
         # Flags win over FLEETDRAIN_SECTION__KEY in the environment, that over this file.\n\
         # Tokens do not belong here: FLEETDRAIN_INGEST__TOKEN, FLEETDRAIN_CONTROL__TOKEN, or token_file.\n",
    );
    let mut section = "";
    for setting in &SETTINGS {
        if setting.section() != section {
            section = setting.section();
            let _ = writeln!(text, "\n[{section}]");
        }
        let _ = writeln!(text, "\n# {} ({})", setting.help, setting.bounds());
        match setting.derived {
            Some(derived) => {
                let _ = writeln!(text, "# default: {derived}");
                let _ = writeln!(text, "# {} =", setting.name());
            }
            None => {
                let _ = writeln!(text, "# {} = {}", setting.name(), setting.toml_default());
            }
        }
    }
    text.push_str(
        "\n# Sinks are tables [sinks.NAME], each with a type, such as file, http, s3 or jetstream: docs/sinks.md has their keys, and\n\
         # `fleetdrain validate` shows what each goes by.\n",
    );
    text
}

/// The table of all settings in Markdown, for `docs/configuration.md`.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("| key | default | bounds | what it is |\n|---|---|---|---|\n");
    for setting in &SETTINGS {
        let default = setting.default_text().unwrap_or_else(|| "none".to_owned());
        let _ = writeln!(text, "| `{}` | {default} | {} | {} |", setting.key, setting.bounds(), setting.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        for good in [
            "https://page.example",
            "http://localhost:3000",
            "https://page.example:8443",
            "http://10.0.0.1",
            "http://[::1]:3000",
            "http://page.example:443",
            "https://under_score.example",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "*",
            "null",
            "",
            "page.example",
            "https://",
            "https://page.example/",
            "https://page.example/path",
            "https://Page.example",
            "HTTPS://page.example",
            "https://page.example:443",
            "http://page.example:80",
            "https://page.example:0443",
            "https://page.example:",
            "https://page.example:65536",
            "https://*.example",
            "https://user@page.example",
            "https://page.example https://other.example",
            "ftp://page.example",
            "http://[::1",
            "http://[0:0::1]",
            "https://pagé.example",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
