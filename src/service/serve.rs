//! The process: from its configuration to its last word.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    ServeError,
    notify::Notify,
    running::{Certificates, Running, close_journal, on_a_thread_for_it, open_journal, scheme},
};
use crate::{
    collector::{CollectorConfig, LogCollector},
    config::{Config, Loaded, Loader, value::format_duration},
    http,
    journal::UncleanStop,
    metrics::SpoolSnapshot,
    sink::running::Swapped,
};
#[cfg(feature = "spool")]
use crate::{
    config::SpoolFull,
    spool::{Bounds, Full},
};

/// Where readers ask unless told otherwise: who is on this machine may read.
const CONTROL_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);
/// Runs the drain until SIGTERM or SIGINT; `loader` reads the configuration anew on SIGHUP.
///
/// # Errors
///
/// What kept it from listening, or that acknowledged lines were left behind.
pub async fn serve(loaded: Loaded, loader: Loader) -> Result<(), ServeError> {
    let Loaded { config, warnings, .. } = loaded;
    let mut signals = Signals::new().map_err(ServeError::Signals)?;
    // Both listeners have so many.
    http::prepare_open_files(2 * config.ingest.connections_max);
    let collector = collector(&config).await?;
    let ingest = config.ingest.listen.unwrap_or(http::INGEST_DEFAULT);
    let control = config.control.listen.unwrap_or(CONTROL_DEFAULT);
    open_journal(&collector, &config)?;
    // Before anybody can send.
    let left = collector.spool_counted();
    let running = Running::start(&collector, &config, ingest, Some(control)).await;
    if running.is_err() {
        close_journal(&collector).await;
    }
    let running = running?;
    announce(&collector, &left, &running, &config, &warnings);
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

/// What no reader has taken is in the spool, but for what that had no room or time for while a queue had it in memory.
async fn close(collector: LogCollector) -> Result<(), ServeError> {
    let before = collector.queue_lines_dropped();
    let closing = collector.clone();
    on_a_thread_for_it(move || closing.close_spool()).await;
    let (left, lines) = (collector.stats().queue_lines, collector.queue_lines_dropped() - before);
    tracing::info!(queue_lines = left, "the spool is closed; queues go on from there at the next start");
    if lines > 0 { Err(ServeError::LinesLeft { lines }) } else { Ok(()) }
}

/// Says where it listens, what an acknowledgement means, what an earlier run has left and what is unsafe. The two listening lines are
/// for programs too.
fn announce(collector: &LogCollector, left: &SpoolSnapshot, running: &Running, config: &Config, warnings: &[String]) {
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
    if left.lines > 0 {
        let age = format_duration(Duration::from_secs(left.oldest_age_seconds as u64));
        eprintln!("it holds {} lines of before, the oldest received {age} ago", left.lines);
    }
    if let Some(stop) = collector.shared.journal.unclean_stop() {
        eprintln!("warning: the run before ended without a shutdown: {} (`fleetdrain losses`)", cost(stop));
    }
    #[cfg(feature = "sinks")]
    for sink in &config.sinks {
        eprintln!("sink {}: {}", sink.name, sink.kind);
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
}

fn cost(stop: UncleanStop) -> String {
    match stop.undelivered {
        Some(lines) => format!(
            "{lines} acknowledged lines were unread when it was last known to live, counted for each queue and sink"
        ),
        None => "nobody knows how many acknowledged lines that cost".to_owned(),
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
        running.abandon();
        kept
    }

    #[tokio::test]
    async fn a_reload_never_opens_a_control_listener_off_loopback() {
        assert!(keeps_its_token("0.0.0.0:0").await);
        assert!(!keeps_its_token("127.0.0.1:0").await);
    }
}
