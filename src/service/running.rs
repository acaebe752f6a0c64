//! What runs between start and stop: listeners, sinks, the source `fly`, and who looks after the collector.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    task::spawn_blocking,
    time::{Instant, interval, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ServeError, wiring::Wiring};
use crate::{
    collector::LogCollector,
    config::{Config, Control, Identity, SigningKeys},
    http::{
        self, Settings,
        auth::Tokens,
        ingest::Ingest,
        read::{self, Access, ControlState},
    },
    sink::running::{BadSink, Sinks, Swapped},
    tls::Certificate,
};

/// How often the collector looks whether time has brought anything.
const MAINTENANCE: Duration = Duration::from_millis(250);
/// How often the loss journal is written.
const JOURNALING: Duration = Duration::from_secs(1);

/// What runs between start and stop.
pub(super) struct Running {
    pub(super) ingest: SocketAddr,
    pub(super) control: Option<SocketAddr>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    pub(super) tokens: ListenerTokens,
    pub(super) certificates: Certificates,
    pub(super) reloaded: Arc<AtomicBool>,
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
pub(super) struct ListenerTokens {
    pub(super) ingest: Arc<Tokens>,
    pub(super) control: Arc<Tokens>,
}

/// What each listener presents; `None`: it speaks plainly.
#[derive(Clone, Default)]
pub(super) struct Certificates {
    pub(super) ingest: Option<Arc<Certificate>>,
    pub(super) control: Option<Arc<Certificate>>,
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

    pub(super) fn expiries(&self) -> [f64; 2] {
        let seconds = |certificate: &Option<Arc<Certificate>>| {
            certificate.as_ref().map_or(0.0, |certificate| certificate.expires().as_second() as f64)
        };
        [seconds(&self.ingest), seconds(&self.control)]
    }
}

/// How a listener is addressed.
pub(super) fn scheme(certificate: Option<&Arc<Certificate>>) -> &'static str {
    if certificate.is_some() { "https" } else { "http" }
}

impl Running {
    pub(super) async fn start(
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
    pub(super) async fn stop(&self, collector: &LogCollector, deadline: Duration) -> bool {
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

    /// Tells all of it to end and waits for nothing.
    pub(super) fn abandon(&self) {
        self.shutdown.cancel();
        self.fly.stop.cancel();
    }

    /// Whether the tokens of `config` would let everybody read who reaches the control listener. Its checks are of the
    /// address that it names itself, which is not the one listened on since the start.
    pub(super) fn would_open_control(&self, config: &Config) -> bool {
        let is_exposed = self.control.is_some_and(|addr| !addr.ip().to_canonical().is_loopback());
        let Control { tokens, signing_keys, insecure, .. } = &config.control;
        is_exposed && tokens.is_empty() && signing_keys.is_empty() && !insecure
    }

    /// Either all of it, or nothing.
    pub(super) async fn reload(&self, config: &Config) -> Result<Swapped, BadSink> {
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

pub(super) fn open_journal(collector: &LogCollector, config: &Config) -> Result<(), ServeError> {
    let Some(dir) = journal_dir(config) else { return Ok(()) };
    let kept = collector.shared.journal.keep_in(dir, config.journal.bytes_max);
    kept.map_err(|source| ServeError::Journal { dir: dir.to_owned(), source })
}

pub(super) async fn close_journal(collector: &LogCollector) {
    let collector = collector.clone();
    let _ = spawn_blocking(move || collector.close_journal()).await;
}

/// Waits for what waits for the disk.
pub(super) async fn on_a_thread_for_it<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(wait).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
