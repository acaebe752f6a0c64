//! Builds and wires all rooms, and owns the order in which they start and stop.
//!
//! Stop order: stop accepting → refuse what is under way → end every stream behind its queued lines → give readers until
//! `shutdown.deadline` to take them → say what was left.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::{interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    batch::Streams,
    collector::{CollectorConfig, LogCollector},
    config::{Config, Loaded, Loader},
    http,
};

/// How often the collector looks whether time has brought anything.
const MAINTENANCE: Duration = Duration::from_millis(250);

/// The HTTP server in front of a collector: senders post to it, and with [`LogDrainServer::control`] readers read from it.
///
/// The counterpart of the Python module's `LogDrainServer`.
pub struct LogDrainServer {
    collector: LogCollector,
    config: Config,
    host: String,
    port: u16,
    running: Option<Running>,
}

struct Running {
    ingest: SocketAddr,
    control: Option<SocketAddr>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
    state: Arc<http::State>,
}
