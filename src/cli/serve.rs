//! `fleetdrain serve`: the configuration, the log and the runtime; the rest is `service`.

use std::{path::PathBuf, time::Duration};

use super::{Exit, Failure, allocator::keep_pages_small, logging};
use crate::config::{Flag, Loader, LogFormat};
#[cfg(feature = "spool")]
use crate::service::ServeError;

pub(super) const EXAMPLES: &str = "\
Every setting has a key in the file and a variable FLEETDRAIN_SECTION__KEY;
flags win over the environment, that over the file. Tokens:
FLEETDRAIN_INGEST__TOKEN, FLEETDRAIN_CONTROL__TOKEN.

Examples:
  fleetdrain serve
  fleetdrain serve --spool /var/lib/fleetdrain
  fleetdrain serve --config fleetdrain.toml --include-stderr
  FLEETDRAIN_FLY__ORG=my-org FLEETDRAIN_FLY__TOKEN=secret fleetdrain serve --fly
  FLEETDRAIN_CONTROL__TOKEN=secret fleetdrain serve --control 0.0.0.0:8081";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) settings: Settings,
}

/// The flags that set something; `validate` takes them too, to check what `serve` would do with them.
#[derive(Debug, clap::Args)]
pub(super) struct Settings {
    /// Configuration file, see `fleetdrain config`
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where senders post to, by default `[::]:8080`
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where readers ask, by default `127.0.0.1:8081`
    #[arg(long, value_name = "HOST:PORT")]
    control: Option<String>,
    /// Keep batches in this directory, so that what is acknowledged outlives a crash
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Take logs from Fly's NATS: FLEETDRAIN_FLY__ORG and FLEETDRAIN_FLY__TOKEN say who asks
    #[arg(long)]
    fly: bool,
    /// Queues take stderr too, not only stdout
    #[arg(long)]
    include_stderr: bool,
    /// Let everybody read who reaches a control listener off loopback
    #[arg(long)]
    insecure_control: bool,
    /// How the own log is written to standard error: auto, text or json
    #[arg(long, value_name = "FORMAT", value_parser = LogFormat::ALL.map(LogFormat::as_str))]
    log_format: Option<String>,
    /// Level of the own log, or directives such as info,fleetdrain::http=debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Settings {
    /// What loads the configuration that these flags are part of, now and on every reload.
    pub(super) fn loader(&self) -> Loader {
        let spool = self.spool.as_ref().map(|dir| dir.to_string_lossy().into_owned());
        let include_stderr = self.include_stderr.then(|| "stdout,stderr".to_owned());
        let insecure_control = self.insecure_control.then(|| "true".to_owned());
        let flags = [
            ("--listen", "ingest.listen", self.listen.clone()),
            ("--control", "control.listen", self.control.clone()),
            ("--spool", "spool.dir", spool),
            ("--fly", "fly.enabled", self.fly.then(|| "true".to_owned())),
            ("--include-stderr", "queue.streams", include_stderr),
            ("--insecure-control", "control.insecure", insecure_control),
            ("--log-format", "log.format", self.log_format.clone()),
            ("--log-level", "log.level", self.log_level.clone()),
        ];
        let flags = flags.into_iter().filter_map(|(name, key, value)| Some(Flag { name, key, value: value? }));
        Loader { file: self.config.clone(), flags: flags.collect() }
    }
}

/// How long threads are waited for at the very end.
const LAST_WAIT: Duration = Duration::from_millis(100);

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let loader = args.settings.loader();
    let loaded = loader.load()?;
    logging::start(loaded.config.log.format, &loaded.config.log.level)?;
    keep_pages_small();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("fleetdrain").build();
    let runtime = runtime.map_err(Failure::io("cannot start the runtime"))?;
    let served = runtime.block_on(crate::service::serve(loaded, loader));
    // What still waits for a disk is as good as killed: everything that was to be waited for has been, for as long as it may take.
    runtime.shutdown_timeout(LAST_WAIT);
    served.map(|()| Exit::Success).map_err(|error| match error {
        #[cfg(feature = "spool")]
        ServeError::Spool { dir, source } => Failure::Spool { dir: dir.display().to_string(), source },
        error => Failure::Serve(error),
    })
}
