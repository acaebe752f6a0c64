//! One row for each thing that may be set.

use std::time::Duration;

use super::{
    super::{GIB, MIB},
    Kind, Setting,
    words::{
        LOG_LEVELS, read_boot_lines, read_full, read_log_format, read_log_level, read_nats_url, read_org, read_origins,
        read_queue_group, read_spool_full, read_streams, read_subjects, shown,
    },
};

const TIB: usize = 1 << 40;
const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

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
            "the largest body decoded; never more than a quarter of memory.budget, or half of spool.bytes_max",
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
        "what a full queue does; block answers senders 429 while its reader is slow",
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
