//! Everything an operator may set, its default, unit and bounds; the only reader of file and environment.
//!
//! A [`Setting`] is one line of the catalogue [`SETTINGS`]: from it come the keys of the TOML file, the names of the
//! environment variables, `fleetdrain config`, `fleetdrain validate` and `docs/configuration.md`. [`load()`] is a pure function
//! of [`Sources`] but for the token files and host names they name; [`Loader`] gathers those from the process, again and
//! again where a reload is asked for.
//!
//! Flags win over the environment, that over the file, that over the defaults. Every mistake is found before any is told.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

#[cfg(feature = "server")]
mod error;
#[cfg(feature = "server")]
mod load;
#[cfg(feature = "server")]
mod memory;
#[cfg(feature = "server")]
mod setting;
#[cfg(feature = "server")]
pub(crate) mod value;

#[cfg(feature = "server")]
pub use self::{
    error::{Mistake, Mistakes, Place, Problem},
    load::{Effective, Flag, Loaded, Loader, Source, Sources, load},
    memory::MachineMemory,
    setting::{SETTINGS, Setting, default_toml, reference},
};
#[cfg(feature = "server")]
pub use crate::{
    grant::{ShortKey, SigningKeys},
    tls::Identity,
};

use crate::exit::ExitPatterns;

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// The whole configuration; each field is a section of the TOML file.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Config {
    /// `[ingest]`
    pub ingest: Ingest,
    /// `[control]`
    pub control: Control,
    /// `[backpressure]`
    pub backpressure: Backpressure,
    /// `[memory]`
    pub memory: Memory,
    /// `[history]`
    pub history: History,
    /// `[queue]`
    pub queue: Queue,
    /// `[machines]`
    pub machines: Machines,
    /// `[limit]`
    pub limit: Limit,
    /// `[idempotency]`
    pub idempotency: Idempotency,
    /// `[journal]`
    pub journal: Journal,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[spool]`
    pub spool: Spool,
    /// `[fly]`
    pub fly: Fly,
    /// `[sinks.NAME]`, by name
    #[cfg(feature = "sinks")]
    pub(crate) sinks: Vec<crate::sink::config::SinkConfig>,
    /// `[shutdown]`
    pub shutdown: Shutdown,
    /// `[log]`
    pub log: Log,
}

/// `[ingest]`: the listener that senders post to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ingest {
    /// Where to listen; `None`: `[::]:8080`, or `0.0.0.0:8080` where IPv6 is off.
    pub listen: Option<SocketAddr>,
    /// All live tokens; empty: none is asked for.
    pub tokens: Vec<String>,
    /// A file of tokens, one a line.
    pub token_file: Option<PathBuf>,
    /// A file of certificates in PEM, the server's own first.
    pub tls_cert_file: Option<PathBuf>,
    /// A file with the private key of the first certificate in PEM.
    pub tls_key_file: Option<PathBuf>,
    /// What the two files hold; `None`: the listener speaks plainly.
    #[cfg(feature = "server")]
    pub identity: Option<Identity>,
    /// The largest body on the wire.
    pub body_bytes_max: usize,
    /// The largest body decoded; never more than a quarter of the budget, nor 1 GiB.
    pub decoded_bytes_max: usize,
    /// The largest single record.
    pub line_bytes_max: usize,
    /// From a head's first byte to its last.
    pub header_deadline: Duration,
    /// From a head's last byte to its body's last.
    pub body_deadline: Duration,
    /// How long an answer waits for sinks with `ack = "sink"`.
    pub ack_deadline: Duration,
    /// How long a connection may stay without a request.
    pub idle: Duration,
    /// Connections at once.
    pub connections_max: usize,
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            listen: None,
            tokens: Vec::new(),
            token_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            #[cfg(feature = "server")]
            identity: None,
            body_bytes_max: 64 * MIB,
            decoded_bytes_max: 256 * MIB,
            line_bytes_max: MIB,
            header_deadline: Duration::from_secs(10),
            body_deadline: Duration::from_secs(60),
            ack_deadline: Duration::from_secs(30),
            idle: Duration::from_secs(120),
            connections_max: 10_000,
        }
    }
}

/// `[control]`: the listener for readers, scrapers and operators.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Control {
    /// Where to listen; `None`: `127.0.0.1:8081`, on Fly with a token `[::]:8081`.
    pub listen: Option<SocketAddr>,
    /// All live tokens; empty: none is asked for.
    pub tokens: Vec<String>,
    /// A file of tokens, one a line.
    pub token_file: Option<PathBuf>,
    /// A file of certificates in PEM, the server's own first.
    pub tls_cert_file: Option<PathBuf>,
    /// A file with the private key of the first certificate in PEM.
    pub tls_key_file: Option<PathBuf>,
    /// What the two files hold; `None`: the listener speaks plainly.
    #[cfg(feature = "server")]
    pub identity: Option<Identity>,
    /// A file of keys that vouch for signed links, one a line.
    pub signing_key_file: Option<PathBuf>,
    /// What the file holds; empty: there are no links.
    #[cfg(feature = "server")]
    pub signing_keys: SigningKeys,
    /// Origins of web pages that may read what a link may read, as browsers write them: `https://page.example`.
    pub cors_origins: Vec<String>,
    /// `--insecure-control`: off loopback without a token.
    pub insecure: bool,
    /// How long a reader may take nothing of its answer before it is cut off.
    pub stalled_after: Duration,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            listen: None,
            tokens: Vec::new(),
            token_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            #[cfg(feature = "server")]
            identity: None,
            signing_key_file: None,
            #[cfg(feature = "server")]
            signing_keys: SigningKeys::default(),
            cors_origins: Vec::new(),
            insecure: false,
            stalled_after: Duration::from_secs(15 * 60),
        }
    }
}

/// `[backpressure]`: how long a sender is held before it is refused.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Backpressure {
    /// The longest a body waits for room.
    pub wait: Duration,
    /// Bodies that may wait at once.
    pub waiting_max: usize,
}

impl Default for Backpressure {
    fn default() -> Self {
        Self { wait: Duration::from_secs(10), waiting_max: 64 }
    }
}

/// `[memory]`: the byte budget.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Memory {
    /// Bytes for bodies, batches, queues, history and readers' buffers.
    pub budget: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { budget: GIB }
    }
}

/// `[history]`: recent batches in memory.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct History {
    /// Bytes kept; the newest batch stays, however large.
    pub bytes: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { bytes: GIB / 4 }
    }
}

/// `[queue]`: each machine's queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Queue {
    /// Lines in one queue.
    pub lines: usize,
    /// Bytes in one queue.
    pub bytes: usize,
    /// What happens when one of them is reached.
    pub full: Full,
    /// What a queue takes unless its subscriber says otherwise.
    pub streams: crate::batch::Streams,
    /// A `block` queue into which nothing fitted for so long goes behind.
    pub stalled_after: Duration,
    /// What has waited without a reader for so long is dropped.
    pub abandoned_after: Duration,
    /// Queues at once.
    pub subscriptions_max: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            lines: 10_000,
            bytes: 4 * MIB,
            full: Full::CatchUp,
            streams: crate::batch::Streams::STDOUT,
            stalled_after: Duration::from_secs(10),
            abandoned_after: Duration::from_secs(600),
            subscriptions_max: 200_000,
        }
    }
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Full {
    /// Refuses nobody: newer lines stay in the history and the reader continues there.
    #[default]
    CatchUp,
    /// Senders get 429.
    Block,
    /// The oldest lines are dropped, and the reader is told.
    DropOldest,
}

impl Full {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::CatchUp, Self::Block, Self::DropOldest];

    /// The name in the configuration and in `?full=`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CatchUp => "catch_up",
            Self::Block => "block",
            Self::DropOldest => "drop_oldest",
        }
    }
}

/// `[machines]`: the machine table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Machines {
    /// How long a finished machine is remembered.
    pub finished_keep: Duration,
    /// A machine without a queue that was silent for so long is forgotten.
    pub idle_expire: Duration,
    /// Machines remembered at once; the least recent goes first.
    pub max: usize,
}

impl Default for Machines {
    fn default() -> Self {
        Self { finished_keep: Duration::from_secs(3600), idle_expire: Duration::from_secs(3600), max: 1_000_000 }
    }
}

/// `[limit]`: what the queues of one machine, and of all machines of an app, take in a second; more is dropped.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Limit {
    /// `[limit.machine]`
    pub machine: Rate,
    /// `[limit.app]`
    pub app: Rate,
}

/// How much may pass in a second, with a burst of ten seconds' worth. 0: any amount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rate {
    /// Lines.
    pub lines_per_second: usize,
    /// Bytes of the records as sent.
    pub bytes_per_second: usize,
}

impl Rate {
    /// Whether anything is limited.
    #[must_use]
    pub fn is_on(self) -> bool {
        self != Self::default()
    }
}

/// `[idempotency]`: remembered `Idempotency-Key`s.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Idempotency {
    /// Keys remembered at once.
    pub keys_max: usize,
    /// How long each is remembered.
    pub keep: Duration,
}

impl Default for Idempotency {
    fn default() -> Self {
        Self { keys_max: 100_000, keep: Duration::from_secs(600) }
    }
}

/// `[journal]`: what was lost, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Journal {
    /// Where losses are kept; `None`: in memory, and gone with the process.
    pub dir: Option<PathBuf>,
    /// Bytes of them on disk; the oldest go.
    pub bytes_max: usize,
}

impl Default for Journal {
    fn default() -> Self {
        Self { dir: None, bytes_max: 8 * MIB }
    }
}

/// `[metrics]`
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Metrics {
    /// Machines with series of their own.
    pub machines_max: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { machines_max: 50 }
    }
}

/// `[spool]`: batches on disk, so that what is acknowledged outlives a crash.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Spool {
    /// Where; `None`: there is none, and an acknowledgement is worth as much as memory.
    pub dir: Option<PathBuf>,
    /// How long batches are kept, unless there is no room.
    pub keep: Duration,
    /// Bytes of all segments on the disk.
    pub bytes_max: usize,
    /// What is done when it is full of what sinks have not sent.
    pub full: SpoolFull,
}

impl Default for Spool {
    fn default() -> Self {
        let keep = Duration::from_secs(24 * 60 * 60);
        Self { dir: None, keep, bytes_max: 10 * GIB, full: SpoolFull::default() }
    }
}

/// What is done when the spool is full of what sinks have not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpoolFull {
    /// Bodies are refused.
    #[default]
    Refuse,
    /// The oldest batches go all the same.
    DropOldest,
}

impl SpoolFull {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Refuse, Self::DropOldest];

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::DropOldest => "drop_oldest",
        }
    }
}

/// `[fly]`: Fly's NATS as a source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fly {
    /// Whether logs are taken from there.
    pub enabled: bool,
    /// Where it is, as in `nats://HOST:PORT`.
    pub url: String,
    /// The organisation's slug: the user.
    pub org: Option<String>,
    /// The access token: the password. The first counts.
    pub tokens: Vec<String>,
    /// A file of tokens, one a line.
    pub token_file: Option<PathBuf>,
    /// What is subscribed to.
    pub subjects: Vec<String>,
    /// Members of a queue group share the messages.
    pub queue_group: Option<String>,
    /// Messages that make a batch.
    pub batch_lines: usize,
    /// Bytes that make a batch.
    pub batch_bytes: usize,
    /// The longest that a message waits for others.
    pub batch_age: Duration,
    /// Messages that may wait while the drain is full, of all subjects; what comes then is dropped and counted.
    pub pending_max: usize,
    /// Whether a numbered line goes to standard output every ten seconds.
    pub canary: bool,
    /// Which records of Fly's runner say that a machine has exited; whichever way they come.
    pub exit_patterns: ExitPatterns,
    /// Which stream lines of init, the kernel and Firecracker are of; whichever way they come.
    pub boot_lines: BootLines,
    /// Our own app, whose records are left out: `FLY_APP_NAME`.
    pub own_app: Option<String>,
}

impl Default for Fly {
    fn default() -> Self {
        Self {
            enabled: false,
            url: "nats://[fdaa::3]:4223".to_owned(),
            org: None,
            tokens: Vec::new(),
            token_file: None,
            subjects: vec!["logs.>".to_owned()],
            queue_group: None,
            batch_lines: 4096,
            batch_bytes: MIB,
            batch_age: Duration::from_millis(5),
            pending_max: 16_384,
            canary: true,
            exit_patterns: ExitPatterns::default(),
            boot_lines: BootLines::default(),
            own_app: None,
        }
    }
}

/// What becomes of the lines that Fly's init, the kernel and Firecracker write, and Fly sends as the app's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootLines {
    /// They are `stdout`, as what the app writes.
    #[default]
    Stdout,
    /// They are `system`, as what Fly's runner writes.
    System,
}

impl BootLines {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::System];

    /// Not this one.
    #[cfg(feature = "spool")]
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Stdout => Self::System,
            Self::System => Self::Stdout,
        }
    }

    /// The name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::System => "system",
        }
    }
}

/// `[shutdown]`
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Shutdown {
    /// How long ending streams and flushing may take.
    pub deadline: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(4) }
    }
}

/// `[log]`: what the process says of itself, on standard error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Log {
    /// How each event is written.
    pub format: LogFormat,
    /// The least level written, or directives such as `info,fleetdrain::http=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}

/// How the process's own log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text, with colours on a terminal.
    #[default]
    Auto,
    /// Text without colours.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Text, Self::Json];

    /// The name in the configuration and behind `--log-format`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}
