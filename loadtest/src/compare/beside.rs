//! What some contenders need beside them: a store that their sink fills, or Fly's NATS.

use super::{Bodies, Kind, target};
use crate::failure::Failure;
use crate::process::{Launch, Server};
use crate::run::gauge;
use crate::sink::{delivered, received};
use async_nats::{Client, ConnectOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often the drain is asked how far it is: seldom enough that the answers cost nothing beside the lines.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Nothing takes so long but what never comes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Messages published and not yet received, at most: less than the drain lets wait before it drops (`fly.pending_max`).
const AHEAD: u64 = 12_000;
/// The organisation and its token, as Fly's NATS asks for them.
const ORG: &str = "load";
const TOKEN: &str = "load-token";

/// A companion; dropping it ends it.
pub(super) enum Beside {
    /// An HTTP server that throws away what it gets.
    Store(Server),
    /// Where files go.
    Directory(PathBuf),
    /// What stands for Fly's NATS.
    Nats { port: u16, _server: Server, client: Option<Client> },
}

impl Beside {
    /// Starts what `kind` needs, if it needs anything, on `cpus`.
    pub(super) fn start(kind: Kind, nats_server: &Path, cpus: &[usize]) -> Result<Option<Self>, Failure> {
        match kind {
            Kind::HttpSink => {
                let own = std::env::current_exe().map_err(Failure::io)?;
                let launch = Launch { cpus, ..Launch::new(&own, &["ceiling", "--listen", "127.0.0.1:0"]) };
                Ok(Some(Self::Store(Server::start("store", &launch)?)))
            }
            Kind::FileSink => {
                static NUMBER: AtomicU32 = AtomicU32::new(0);
                let name = format!("loadtest-files-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
                Ok(Some(Self::Directory(std::env::temp_dir().join(name))))
            }
            Kind::Fly => {
                let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
                let port = free.map_err(Failure::io)?.port();
                let number = port.to_string();
                let arguments = ["-a", "127.0.0.1", "-p", &number, "--user", ORG, "--pass", TOKEN];
                let server = Server::spawn("nats-server", &Launch { cpus, ..Launch::new(nats_server, &arguments) })?;
                Ok(Some(Self::Nats { port, _server: server, client: None }))
            }
            _ => Ok(None),
        }
    }

    /// The drain that goes with it.
    pub(super) fn settings<'a>(&self, launch: Launch<'a>) -> Launch<'a> {
        match self {
            Self::Store(store) => roomy(launch)
                .environment("FLEETDRAIN_SINKS__STORE__TYPE", "http")
                .environment("FLEETDRAIN_SINKS__STORE__URL", &store.ingest)
                .environment("FLEETDRAIN_SINKS__STORE__COMPRESSION", "none"),
            Self::Directory(directory) => roomy(launch)
                .environment("FLEETDRAIN_SINKS__STORE__TYPE", "file")
                .environment("FLEETDRAIN_SINKS__STORE__DIRECTORY", &directory.to_string_lossy())
                .environment("FLEETDRAIN_SINKS__STORE__COMPRESSION", "none"),
            Self::Nats { port, .. } => launch
                .set("fly.enabled", "true")
                .set("fly.url", &format!("nats://127.0.0.1:{port}"))
                .set("fly.org", ORG)
                .set("fly.token", TOKEN)
                .set("fly.canary", "false"),
        }
    }

    /// Waits until what the drain has got so far, `lines` in all, is where it belongs.
    pub(super) async fn settled(&self, drain: &Server, lines: u64) -> Result<(), Failure> {
        match self {
            Self::Store(_) | Self::Directory(_) => delivered(&target(&drain.control).await?, lines, ASK_EVERY).await,
            Self::Nats { .. } => received(&target(&drain.control).await?, lines, ASK_EVERY).await,
        }
    }

    /// Publishes the lines of `count` bodies as Fly does, one message each, to a drain that has got `so_far` lines; `None` where bodies
    /// are posted.
    pub(super) async fn publish(
        &mut self,
        drain: &Server,
        bodies: &Bodies,
        count: usize,
        so_far: u64,
    ) -> Option<Result<(), Failure>> {
        let Self::Nats { port, client, .. } = self else { return None };
        Some(publish(*port, client, drain, bodies, count, so_far).await)
    }
}

/// Room for what the sink has not delivered yet while senders send as fast as they can.
fn roomy(launch: Launch<'_>) -> Launch<'_> {
    launch
        .set("memory.budget", "3GiB")
        .set("history.bytes", "256MiB")
        .environment("FLEETDRAIN_SINKS__STORE__QUEUE_BYTES", "2GiB")
}

async fn publish(
    port: u16,
    client: &mut Option<Client>,
    drain: &Server,
    bodies: &Bodies,
    count: usize,
    so_far: u64,
) -> Result<(), Failure> {
    let client = match client {
        Some(client) => client,
        None => {
            let options = ConnectOptions::with_user_and_password(ORG.to_owned(), TOKEN.to_owned());
            let connected = options.retry_on_initial_connect().connect(format!("nats://127.0.0.1:{port}")).await;
            subscribed(drain).await?;
            client.insert(connected.map_err(Failure::unavailable)?)
        }
    };
    let control = target(&drain.control).await?;
    let (mut sent, mut known) = (so_far, so_far);
    for number in 0..count {
        for (subject, line) in bodies.messages(number) {
            client.publish(subject, line).await.map_err(Failure::unavailable)?;
            sent += 1;
        }
        if sent - known > AHEAD {
            client.flush().await.map_err(Failure::unavailable)?;
            known = sent - AHEAD / 2;
            received(&control, known, ASK_EVERY).await?;
        }
    }
    client.flush().await.map_err(Failure::unavailable)
}

/// Waits until the drain is subscribed: what is published before goes nowhere.
async fn subscribed(drain: &Server) -> Result<(), Failure> {
    let control = target(&drain.control).await?;
    let started = Instant::now();
    while gauge(&control, "fleetdrain_fly_connected").await != Some(1.0) {
        if started.elapsed() > PATIENCE {
            return Err(Failure::data("the drain does not connect to nats-server".to_owned()));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    // Its subscriptions follow at once, but behind it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Self::Directory(directory) = self {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}
