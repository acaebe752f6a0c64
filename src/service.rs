//! Builds and wires all rooms, and owns the order in which they start and stop.
//!
//! Stop order: stop accepting → refuse what is under way → end every stream behind its queued lines → give readers until
//! `shutdown.deadline` to take them → say what was left.

mod notify;
mod wiring;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::{Instant, interval, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    batch::Streams,
    collector::{CollectorConfig, LogCollector},
    config::{Config, Control, Identity, Loaded, Loader, SigningKeys},
    http::{
        self, ListenError, Settings,
        auth::Tokens,
        ingest::Ingest,
        read::{self, Access, ControlState},
    },
    sink::running::{BadSink, Sinks, Swapped},
    tls::Certificate,
};
#[cfg(feature = "spool")]
use crate::{
    config::SpoolFull,
    spool::{Bounds, Full, OpenError},
};

use self::{notify::Notify, wiring::Wiring};

/// Where readers ask unless told otherwise: who is on this machine may read.
const CONTROL_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);
/// How often the collector looks whether time has brought anything.
const MAINTENANCE: Duration = Duration::from_millis(250);
/// How often the loss journal is written.
const JOURNALING: Duration = Duration::from_secs(1);

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

/// What runs between start and stop.
struct Running {
    ingest: SocketAddr,
    control: Option<SocketAddr>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    tokens: ListenerTokens,
    certificates: Certificates,
    reloaded: Arc<AtomicBool>,
    sinks: Sinks,
    fly: Fly,
}

/// The source `fly`, where it runs: stopped before the collector takes no more.
#[derive(Default)]
struct Fly {
    token: Arc<parking_lot::Mutex<String>>,
    stop: CancellationToken,
    task: TaskTracker,
}

impl Fly {
    #[cfg(feature = "fly")]
    fn start(config: &Config, wiring: &Wiring) -> Self {
        let fly = Self::default();
        fly.task.close();
        fly.reload(config);
        if config.fly.enabled {
            let rejected = Arc::clone(&wiring.rejected);
            let keep: crate::fly::Keep = Box::new(move |samples, at| rejected.keep(samples, at));
            let (counters, token) = (Arc::clone(&wiring.fly), Arc::clone(&fly.token));
            let source = crate::fly::FlySource::new(config, wiring.collector.clone(), counters, token, keep);
            fly.task.spawn(source.run(fly.stop.clone()));
        }
        fly
    }

    #[cfg(not(feature = "fly"))]
    fn start(config: &Config, _: &Wiring) -> Self {
        if config.fly.enabled {
            tracing::error!("fly.enabled is set, and this program is built without it");
        }
        let fly = Self::default();
        fly.task.close();
        fly
    }

    /// For the next time it connects.
    fn reload(&self, config: &Config) {
        *self.token.lock() = config.fly.tokens.first().cloned().unwrap_or_default();
    }

    async fn stop(&self) {
        self.stop.cancel();
        self.task.wait().await;
    }
}

/// The live tokens of both listeners.
struct ListenerTokens {
    ingest: Arc<Tokens>,
    control: Arc<Tokens>,
}

/// What each listener presents; `None`: it speaks plainly.
#[derive(Clone, Default)]
struct Certificates {
    ingest: Option<Arc<Certificate>>,
    control: Option<Arc<Certificate>>,
}

impl Certificates {
    fn new(config: &Config) -> Self {
        let present = |identity: &Option<Identity>| identity.as_ref().map(Certificate::new).map(Arc::new);
        Self { ingest: present(&config.ingest.identity), control: present(&config.control.identity) }
    }

    /// Presents those of `config`; a listener that spoke plainly still does, and one that spoke TLS keeps its certificate where
    /// there is none now.
    fn replace(&self, config: &Config) {
        let ingest = ("ingest", &self.ingest, &config.ingest.identity);
        let control = ("control", &self.control, &config.control.identity);
        for (listener, certificate, identity) in [ingest, control] {
            match (certificate, identity) {
                (Some(certificate), Some(identity)) => certificate.replace(identity),
                (None, None) => {}
                (Some(_), None) => {
                    tracing::warn!("{listener} keeps its certificate: it speaks plainly from the next start on");
                }
                (None, Some(_)) => {
                    tracing::warn!("{listener} still speaks plainly: TLS takes effect at the next start");
                }
            }
        }
    }

    fn expiries(&self) -> [f64; 2] {
        let seconds = |certificate: &Option<Arc<Certificate>>| {
            certificate.as_ref().map_or(0.0, |certificate| certificate.expires().as_second() as f64)
        };
        [seconds(&self.ingest), seconds(&self.control)]
    }
}

/// How a listener is addressed.
fn scheme(certificate: Option<&Arc<Certificate>>) -> &'static str {
    if certificate.is_some() { "https" } else { "http" }
}

impl Running {
    async fn start(
        collector: &LogCollector,
        config: &Config,
        ingest_addr: SocketAddr,
        control_addr: Option<SocketAddr>,
    ) -> Result<Self, ServeError> {
        let ingest_listener = http::listen(ingest_addr)?;
        let control_listener = control_addr.map(http::listen).transpose()?;
        collector.open();
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        // Before the first body: what is accepted goes to every sink.
        let sinks = Sinks::start(collector, config, &shutdown).await?;
        let tokens = ListenerTokens {
            ingest: Arc::new(Tokens::new(&config.ingest.tokens)),
            control: Arc::new(Tokens::with_keys(&config.control.tokens, config.control.signing_keys.clone())),
        };
        let certificates = Certificates::new(config);
        let wiring = Wiring::new(collector, config, certificates.clone());
        let reloaded = Arc::clone(&wiring.reloaded);
        let bound = |listener: &TcpListener, asked| listener.local_addr().unwrap_or(asked);
        let ingest = bound(&ingest_listener, ingest_addr);
        let fly = Fly::start(config, &wiring);
        let service = Ingest::new(
            config,
            collector.clone(),
            Arc::clone(&tokens.ingest),
            Arc::clone(&wiring.counters),
            Arc::clone(&wiring.rejected),
            shutdown.clone(),
        );
        let settings = Settings::ingest(&config.ingest, Arc::clone(&wiring.counters), certificates.ingest.clone());
        let handler = move |request, _peer| Arc::clone(&service).answer(request);
        tracker.spawn(http::serve(ingest_listener, handler, settings, shutdown.clone(), tracker.clone()));
        let control = control_listener.map(|listener| {
            let addr = bound(&listener, ingest_addr);
            let certificate = certificates.control.clone();
            let settings = Settings::control(config, Arc::clone(&wiring.counters), certificate);
            let access = Access::new(Arc::clone(&tokens.control), addr)
                .with_tls(certificates.control.is_some())
                .with_cors_origins(&config.control.cors_origins);
            let state = wiring.control(access, sinks.hook());
            tracker.spawn(note_health(Arc::clone(&state), shutdown.clone()));
            let handler = move |request, _peer| read::handle(Arc::clone(&state), request);
            tracker.spawn(http::serve(listener, handler, settings, shutdown.clone(), tracker.clone()));
            addr
        });
        tracker.spawn(maintain(collector.clone(), shutdown.clone()));
        if journal_dir(config).is_some() {
            tracker.spawn(keep_journal(collector.clone(), shutdown.clone()));
        }
        tracker.close();
        Ok(Self { ingest, control, shutdown, tracker, tokens, certificates, reloaded, fly, sinks })
    }

    /// Whether every connection was over within `deadline`.
    async fn stop(&self, collector: &LogCollector, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        // What a source has in hand is taken before nothing is any more; readers get the rest of the time.
        let _ = timeout(deadline / 2, self.fly.stop()).await;
        // Nothing in between: who is told to end is refused from then on, or its lines would come behind the readers' end.
        self.shutdown.cancel();
        collector.shut_down();
        // A source that is held is refused now, and counts what it has in hand.
        let (readers, (), _) = tokio::join!(
            timeout_at(until, self.tracker.wait()),
            self.sinks.stop(until),
            timeout_at(until, self.fly.stop())
        );
        readers.is_ok()
    }

    /// Whether the tokens of `config` would let everybody read who reaches the control listener. Its checks are of the
    /// address that it names itself, which is not the one listened on since the start.
    fn would_open_control(&self, config: &Config) -> bool {
        let is_exposed = self.control.is_some_and(|addr| !addr.ip().to_canonical().is_loopback());
        let Control { tokens, signing_keys, insecure, .. } = &config.control;
        is_exposed && tokens.is_empty() && signing_keys.is_empty() && !insecure
    }

    /// Either all of it, or nothing.
    async fn reload(&self, config: &Config) -> Result<Swapped, BadSink> {
        let swapped = self.sinks.swap(config).await?;
        self.tokens.ingest.replace(&config.ingest.tokens, SigningKeys::default());
        self.tokens.control.replace(&config.control.tokens, config.control.signing_keys.clone());
        self.certificates.replace(config);
        self.fly.reload(config);
        Ok(swapped)
    }
}

/// A probe alone may come too seldom to tell a minute's losses from older ones.
async fn note_health(state: Arc<ControlState>, shutdown: CancellationToken) {
    let mut ticks = interval(MAINTENANCE);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        state.note_health();
    }
}

async fn maintain(collector: LogCollector, shutdown: CancellationToken) {
    let mut ticks = interval(MAINTENANCE);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        if !collector.keeps_bodies() {
            collector.maintain();
            continue;
        }
        let collector = collector.clone();
        // Who panicked has said so, and the next turn comes.
        let _ = spawn_blocking(move || collector.maintain()).await;
    }
}

/// What is noted after this has ended is written by [`close_journal`]; what is undelivered only gets less.
async fn keep_journal(collector: LogCollector, shutdown: CancellationToken) {
    let mut ticks = interval(JOURNALING);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let collector = collector.clone();
        // A disk may take its time.
        let _ = spawn_blocking(move || collector.write_journal()).await;
    }
}

/// Where losses are on record: beside the spool unless it is said where.
fn journal_dir(config: &Config) -> Option<&Path> {
    config.journal.dir.as_deref().or(config.spool.dir.as_deref())
}

fn open_journal(collector: &LogCollector, config: &Config) -> Result<(), ServeError> {
    let Some(dir) = journal_dir(config) else { return Ok(()) };
    let kept = collector.shared.journal.keep_in(dir, config.journal.bytes_max);
    kept.map_err(|source| ServeError::Journal { dir: dir.to_owned(), source })
}

async fn close_journal(collector: &LogCollector) {
    let collector = collector.clone();
    let _ = spawn_blocking(move || collector.close_journal()).await;
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
            running.shutdown.cancel();
            running.fly.stop.cancel();
        }
    }
}

/// What `GET /metrics` answers for `collector`, without a listener in front.
#[cfg(feature = "bench")]
pub(crate) fn metrics_text(collector: &LogCollector, config: &Config) -> impl Fn() -> String + use<> {
    let wiring = Wiring::new(collector, config, Certificates::default());
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

/// Runs the drain until SIGTERM or SIGINT; `loader` reads the configuration anew on SIGHUP.
///
/// # Errors
///
/// What kept it from listening, or that acknowledged lines were left behind.
pub async fn serve(loaded: Loaded, loader: Loader) -> Result<(), ServeError> {
    let Loaded { config, warnings, .. } = loaded;
    let mut signals = Signals::new().map_err(ServeError::Signals)?;
    http::raise_open_files();
    let collector = collector(&config).await?;
    let ingest = config.ingest.listen.unwrap_or(http::INGEST_DEFAULT);
    let control = config.control.listen.unwrap_or(CONTROL_DEFAULT);
    open_journal(&collector, &config)?;
    let running = Running::start(&collector, &config, ingest, Some(control)).await;
    if running.is_err() {
        close_journal(&collector).await;
    }
    let running = running?;
    announce(&running, &config, &warnings);
    let notify = Notify::from_env();
    notify.ready();
    let _watchdog = notify.keep_watchdog();
    while signals.next().await == Told::Reload {
        notify.reloading();
        reload(&running, &loader).await;
        notify.ready();
    }
    notify.stopping();
    let deadline = config.shutdown.deadline;
    tracing::info!(?deadline, "shutting down: no new bodies, streams end behind what is queued");
    tokio::select! {
        _ = running.stop(&collector, deadline) => {}
        // Whoever asks twice does not want to wait.
        () = signals.stop() => tracing::warn!("told to stop again: readers get no more time"),
    }
    if collector.keeps_bodies() {
        let closed = close(collector.clone()).await;
        // Behind the spool's last chance to lose something.
        close_journal(&collector).await;
        return closed;
    }
    let left = collector.drop_what_is_left();
    collector.journal_what_is_held();
    close_journal(&collector).await;
    match left {
        0 => {
            tracing::info!("nothing was left behind");
            Ok(())
        }
        lines => Err(ServeError::LinesLeft { lines }),
    }
}

/// The collector that `config` asks for.
async fn collector(config: &Config) -> Result<LogCollector, ServeError> {
    let terms = CollectorConfig::from(config);
    let Some(dir) = config.spool.dir.clone() else { return Ok(LogCollector::new(terms)) };
    #[cfg(not(feature = "spool"))]
    {
        let _ = (terms, dir);
        Err(ServeError::NoSpool)
    }
    #[cfg(feature = "spool")]
    {
        let bounds = Bounds {
            keep: config.spool.keep,
            full: match config.spool.full {
                SpoolFull::Refuse => Full::Refuse,
                SpoolFull::DropOldest => Full::DropOldest,
            },
            ..Bounds::new(config.spool.bytes_max as u64)
        };
        let at = dir.clone();
        let opened = on_a_thread_for_it(move || LogCollector::with_spool(terms, &at, bounds)).await;
        opened.map_err(|source| ServeError::Spool { dir, source })
    }
}

/// Nothing that was acknowledged is lost with the process: what no reader has taken is in the spool.
async fn close(collector: LogCollector) -> Result<(), ServeError> {
    let left = collector.stats().queue_lines;
    on_a_thread_for_it(move || collector.close_spool()).await;
    tracing::info!(queue_lines = left, "the spool is closed; queues go on from there at the next start");
    Ok(())
}

/// Waits for what waits for the disk.
async fn on_a_thread_for_it<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(wait).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Says where it listens, what an acknowledgement means and what is unsafe. The two listening lines are for programs too.
fn announce(running: &Running, config: &Config, warnings: &[String]) {
    let Certificates { ingest, control } = &running.certificates;
    eprintln!("ingest listening on {}://{}", scheme(ingest.as_ref()), running.ingest);
    if let Some(addr) = running.control {
        eprintln!("control listening on {}://{addr}", scheme(control.as_ref()));
    }
    let budget = bytesize::ByteSize::b(config.memory.budget as u64).display().iec();
    match &config.spool.dir {
        Some(dir) => eprintln!("a 200 means: on disk, in {}, synced; memory stays within {budget}", dir.display()),
        None => eprintln!("a 200 means: in memory, within {budget}; a crash loses what no reader has taken"),
    }
    #[cfg(feature = "sinks")]
    for sink in &config.sinks {
        eprintln!("sink {} is a {}", sink.name, sink.kind);
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}

/// A bad configuration keeps the old one and says so.
async fn reload(running: &Running, loader: &Loader) {
    let done = try_reload(running, loader).await;
    running.reloaded.store(done.is_ok(), Relaxed);
    match done {
        Ok(swapped) => tracing::info!(
            sinks = %swapped,
            "reloaded: tokens, certificates and sinks are live; other settings take effect at the next start"
        ),
        Err(why) => tracing::error!("the configuration is not reloaded, the old one stays: {why}"),
    }
}

async fn try_reload(running: &Running, loader: &Loader) -> Result<Swapped, String> {
    let loaded = loader.load().map_err(|mistakes| mistakes.to_string())?;
    if running.would_open_control(&loaded.config) {
        return Err("it has no control token".to_owned());
    }
    let swapped = running.reload(&loaded.config).await.map_err(|bad| bad.to_string())?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(swapped)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal to stop. Cancel safe.
    async fn stop(&mut self) {
        while self.next().await != Told::Stop {}
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a control listener at `addr` with a token still has one after a reload that brings none.
    async fn keeps_its_token(addr: &str) -> bool {
        let mut config = Config::default();
        config.control.tokens = vec!["secret".to_owned()];
        let collector = LogCollector::new(CollectorConfig::from(&config));
        let ingest = "127.0.0.1:0".parse().unwrap();
        let running = Running::start(&collector, &config, ingest, Some(addr.parse().unwrap())).await.unwrap();
        reload(&running, &Loader::default()).await;
        let kept = !running.tokens.control.live().is_open();
        assert_eq!(running.reloaded.load(Relaxed), !kept);
        running.shutdown.cancel();
        kept
    }

    #[tokio::test]
    async fn a_reload_never_opens_a_control_listener_off_loopback() {
        assert!(keeps_its_token("0.0.0.0:0").await);
        assert!(!keeps_its_token("127.0.0.1:0").await);
    }
}
