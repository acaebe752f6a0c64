//! Builds and wires all rooms, and owns the order in which they start and stop.
//!
//! Stop order: stop accepting → refuse what is under way → end every stream behind its queued lines → give readers until
//! `shutdown.deadline` to take them → say what was left.

mod notify;
mod running;
mod serve;
mod wiring;

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use self::running::{Running, close_journal, on_a_thread_for_it, open_journal, scheme};
pub use self::serve::serve;
#[cfg(feature = "spool")]
use crate::spool::OpenError;
use crate::{batch::Streams, collector::LogCollector, config::Config, http::ListenError, sink::running::BadSink};

/// The HTTP server in front of a collector: senders post to it, and with [`LogDrainServer::control`] readers read from it.
///
/// The counterpart of the Python module's `LogDrainServer`.
///
/// ```
/// use fleetdrain::{LogCollector, LogDrainServer};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let collector = LogCollector::default();
/// let mut server = LogDrainServer::new(collector).host("127.0.0.1").control("127.0.0.1:0");
/// assert_eq!(server.url(), None, "it has not started");
/// server.start().await?;
/// println!("senders post to {}", server.url().expect("it has started"));
/// println!("readers ask at http://{}", server.control_addr().expect("it has started"));
/// server.stop().await;
/// # Ok(()) }
/// ```
pub struct LogDrainServer {
    collector: LogCollector,
    config: Config,
    host: String,
    port: u16,
    control: Option<String>,
    running: Option<Running>,
}

impl LogDrainServer {
    /// A server for `collector` that listens on a free port of all interfaces, once it is started.
    #[must_use]
    pub fn new(collector: LogCollector) -> Self {
        Self::with_config(collector, Config::default())
    }

    /// As [`LogDrainServer::new`], with deadlines, bounds and tokens.
    #[must_use]
    pub fn with_config(collector: LogCollector, config: Config) -> Self {
        Self { collector, config, host: "0.0.0.0".to_owned(), port: 0, control: None, running: None }
    }

    /// The address or name to listen on for senders.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// The port to listen on for senders; 0 asks the operating system for a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Also listens for readers, on `HOST:PORT`.
    #[must_use]
    pub fn control(mut self, addr: &str) -> Self {
        self.control = Some(addr.to_owned());
        self
    }

    /// Whether queues that are created from now on without streams of their own take standard error too.
    #[must_use]
    pub fn include_stderr(self, include: bool) -> Self {
        self.collector.set_default_streams(if include { Streams::STDOUT_AND_STDERR } else { Streams::STDOUT });
        self
    }
}

impl LogDrainServer {
    /// Starts listening. Does nothing if it listens already.
    ///
    /// # Errors
    ///
    /// When an address is unknown or taken, or `journal.dir` cannot be had.
    pub async fn start(&mut self) -> io::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let ingest = resolve(&format!("{}:{}", bracketed(&self.host), self.port))?;
        let control = self.control.as_deref().map(resolve).transpose()?;
        open_journal(&self.collector, &self.config).map_err(io::Error::other)?;
        let running = Running::start(&self.collector, &self.config, ingest, control).await;
        if running.is_err() {
            close_journal(&self.collector).await;
        }
        self.running = Some(running.map_err(io::Error::other)?);
        Ok(())
    }

    /// Stops listening, ends every stream behind its queued lines, and gives readers over HTTP until `shutdown.deadline`
    /// to take them. What is queued stays readable in process. Does nothing if it does not listen.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop(&self.collector, self.config.shutdown.deadline).await;
            let collector = self.collector.clone();
            on_a_thread_for_it(move || collector.store_positions(true)).await;
            close_journal(&self.collector).await;
        }
    }

    /// `http://ADDR:PORT` of the listener for senders, with a certificate `https`; `None` before start and after stop.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        let running = self.running.as_ref()?;
        Some(format!("{}://{}", scheme(running.certificates.ingest.as_ref()), running.ingest))
    }

    /// The port that senders post to; `None` before start and after stop.
    #[must_use]
    pub fn actual_port(&self) -> Option<u16> {
        self.ingest_addr().map(|addr| addr.port())
    }

    /// Where it listens for senders; `None` before start and after stop.
    #[must_use]
    pub fn ingest_addr(&self) -> Option<SocketAddr> {
        self.running.as_ref().map(|running| running.ingest)
    }

    /// Where it listens for readers; `None` before start, after stop, and without [`LogDrainServer::control`].
    #[must_use]
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.running.as_ref().and_then(|running| running.control)
    }
}

impl fmt::Debug for LogDrainServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogDrainServer").field("url", &self.url()).finish_non_exhaustive()
    }
}

impl Drop for LogDrainServer {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abandon();
        }
    }
}

/// What `GET /metrics` answers for `collector`, without a listener in front.
#[cfg(feature = "bench")]
pub(crate) fn metrics_text(collector: &LogCollector, config: &Config) -> impl Fn() -> String + use<> {
    let wiring = wiring::Wiring::new(collector, config, running::Certificates::default());
    move || wiring.render()
}

/// An IPv6 address as it stands before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

fn resolve(addr: &str) -> io::Result<SocketAddr> {
    let unknown = || io::Error::new(io::ErrorKind::AddrNotAvailable, format!("no address for {addr:?}"));
    addr.to_socket_addrs()?.next().ok_or_else(unknown)
}

/// What kept `serve` from running, or what it left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A sink cannot be made, though its settings were well when they were read.
    #[error("{0}")]
    Sink(String),
    /// The directory of the loss journal cannot be had.
    #[error("the loss journal cannot be kept in {}", dir.display())]
    Journal {
        /// `journal.dir`.
        dir: PathBuf,
        /// Why; `WouldBlock` if another process keeps its own there.
        source: io::Error,
    },
    /// The system does not let the process hear of signals.
    #[error("cannot hear of signals")]
    Signals(#[source] io::Error),
    /// The spool cannot be opened.
    #[cfg(feature = "spool")]
    #[error("{dir}: the spool cannot be used", dir = dir.display())]
    Spool {
        /// Where it is.
        dir: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// This program is built without a spool, and asked for one.
    #[cfg(not(feature = "spool"))]
    #[error("spool.dir is set, and this program is built without a spool")]
    NoSpool,
    /// Acknowledged lines that no reader took; they were dropped with reason `shutdown`.
    #[error("{lines} acknowledged lines were left in queues and sinks, in no spool, and are dropped")]
    LinesLeft {
        /// How many.
        lines: u64,
    },
}

impl From<BadSink> for ServeError {
    fn from(bad: BadSink) -> Self {
        Self::Sink(bad.to_string())
    }
}
