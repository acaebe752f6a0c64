//! The process's own log, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

use super::Failure;
use crate::config::LogFormat;

/// Starts logging `format` at `level`: a level such as `info`, or directives such as `info,fleetdrain::http=debug`.
pub(super) fn start(format: LogFormat, level: &str) -> Result<(), Failure> {
    // It has a line for each message that it drops, when there are most of them; the source tells of these in sum.
    let quiet = if matches!(level, "off" | "error") { "" } else { "async_nats=warn," };
    let filter = EnvFilter::try_new(format!("{quiet}{level}"));
    let filter = filter.map_err(|error| Failure::Usage(format!("log level {level:?}: {error}")))?;
    let colour = format == LogFormat::Auto
        && io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Auto | LogFormat::Text => builder.with_target(false).try_init(),
    };
    started.map_err(|error| Failure::Usage(format!("cannot start logging: {error}")))
}
