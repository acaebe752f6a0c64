//! The drain that is killed: always on the same ports and the same directory.

use crate::client::Target;
use crate::failure::Failure;
use crate::process::{Launch, Server};
use crate::random::Random;
use hyper::{Method, StatusCode};
use nix::sys::signal::Signal;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How long a start may take before the run is given up.
const READY_WAIT: Duration = Duration::from_secs(60);
/// Below the ports that the system gives to who connects: a sender that tries a port of those while nobody listens there can
/// get connected to itself.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// How to start it.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) program: PathBuf,
    /// None: in memory.
    pub(super) spool: Option<PathBuf>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) ports: [u16; 2],
}

impl Setup {
    fn launch(&self) -> Launch<'_> {
        let [ingest, control] = self.ports.map(|port| format!("127.0.0.1:{port}"));
        let mut launch = Launch::new(&self.program, &["serve", "--listen", &ingest, "--control", &control]);
        if let Some(spool) = &self.spool {
            launch.arguments.extend(["--spool".to_owned(), spool.display().to_string()]);
        }
        self.settings.iter().fold(launch, |launch, (key, value)| launch.set(key, value))
    }

    pub(super) fn target(&self, listener: usize) -> Target {
        let address = (Ipv4Addr::LOCALHOST, self.ports[listener]).into();
        Target { address, authority: format!("127.0.0.1:{}", self.ports[listener]), token: None }
    }

    pub(super) fn ingest(&self) -> Target {
        self.target(0)
    }

    pub(super) fn control(&self) -> Target {
        self.target(1)
    }
}

/// Two ports that nobody listens on.
pub(super) fn free_ports(random: &mut Random) -> Result<[u16; 2], Failure> {
    let mut free = || {
        let ports = (0..100).map(|_| PORTS.start + random.below(PORTS.len()) as u16);
        let is_free = |&port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        ports.into_iter().find(is_free).ok_or_else(|| Failure::io("no free port between 20000 and 30000"))
    };
    let first = free()?;
    loop {
        let second = free()?;
        if second != first {
            return Ok([first, second]);
        }
    }
}

/// One process of it.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) server: Server,
    started: Instant,
}

impl Life {
    pub(super) fn start(setup: &Setup) -> Result<Self, Failure> {
        let started = Instant::now();
        Ok(Self { server: Server::spawn("drain", &setup.launch())?, started })
    }

    /// Waits until it would take a body; how long that took from its start.
    pub(super) fn ready(&mut self, setup: &Setup, runtime: &Runtime) -> Result<Duration, Failure> {
        let target = setup.ingest();
        while self.started.elapsed() < READY_WAIT {
            if let Ok((StatusCode::OK, _)) = runtime.block_on(target.call(Method::GET, "/readyz")) {
                return Ok(self.started.elapsed());
            }
            if self.server.ended().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(self
            .server
            .explain(Failure::unavailable(format!("the drain was not ready after {:?}", self.started.elapsed()))))
    }

    /// Ends it; fails if it had ended by itself before.
    pub(super) fn end(mut self, signal: Signal) -> Result<ExitStatus, Failure> {
        self.is_alive()?;
        self.server.signal(signal)
    }

    /// Fails if it has ended by itself.
    pub(super) fn is_alive(&mut self) -> Result<(), Failure> {
        match self.server.ended() {
            None => Ok(()),
            Some(_) => Err(self.server.explain(Failure::data("the drain ended by itself"))),
        }
    }
}

/// One value of `/metrics`, summed over its labels; none if there is no such family.
pub(super) fn metric(setup: &Setup, runtime: &Runtime, family: &str) -> Result<Option<f64>, Failure> {
    let (_, text) = runtime.block_on(setup.control().call(Method::GET, "/metrics"))?;
    let text = String::from_utf8_lossy(&text);
    let values = text.lines().filter_map(|line| line.strip_prefix(family)).filter(|rest| rest.starts_with(['{', ' ']));
    let values: Vec<f64> = values.filter_map(|rest| rest.rsplit(' ').next()?.parse().ok()).collect();
    Ok((!values.is_empty()).then(|| values.iter().sum()))
}

/// Copies the files of a directory that has no others.
pub(super) fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
