//! `fleetdrain validate` and `fleetdrain config`.

use super::{Exit, Failure, complain, print, serve::Settings, shipper, text::Table};
use crate::{
    config::{Effective, Loaded, default_toml, reference},
    metrics,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  fleetdrain validate --config fleetdrain.toml
  FLEETDRAIN_MEMORY__BUDGET=512MiB fleetdrain validate";

pub(super) const CONFIG_EXAMPLES: &str = "\
Examples:
  fleetdrain config > fleetdrain.toml
  fleetdrain config from-shipper > fleetdrain.toml";

/// The flags of `serve`, so that what it would do can be seen beforehand.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Also ask every sink's store whether it would take lines; exit 69 if one would not
    #[cfg(feature = "sinks")]
    #[arg(long)]
    connect: bool,
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: Option<ConfigCommand>,
    /// The table of docs/configuration.md instead
    #[arg(long, hide = true)]
    markdown: bool,
    /// The table of docs/metrics.md instead
    #[arg(long, hide = true, conflicts_with = "markdown")]
    metrics_markdown: bool,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Turn the environment of Fly's log shipper into a configuration, and name what has no counterpart
    #[command(after_help = shipper::EXAMPLES)]
    FromShipper(shipper::Args),
}

/// Prints every setting with its value and who set it; warnings go to standard error.
pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let loaded = args.settings.loader().load()?;
    for warning in &loaded.warnings {
        complain(&format!("warning: {warning}"));
    }
    let printed = print(&report(&loaded))?;
    #[cfg(feature = "sinks")]
    if args.connect {
        return super::client::block_on(connect(&loaded));
    }
    Ok(printed)
}

/// Asks every sink's store, and says what each answers.
#[cfg(feature = "sinks")]
async fn connect(loaded: &Loaded) -> Result<Exit, Failure> {
    let mut exit = Exit::Success;
    for (name, answer) in crate::sink::running::probe(&loaded.config).await {
        match answer {
            Ok(()) => complain(&format!("sinks.{name}: it would take lines")),
            Err(reason) => {
                complain(&format!("sinks.{name}: {reason}"));
                exit = Exit::Unavailable;
            }
        }
    }
    Ok(exit)
}

pub(super) fn print_config(args: &ConfigArgs) -> Result<Exit, Failure> {
    let text = match args {
        ConfigArgs { command: Some(ConfigCommand::FromShipper(args)), .. } => return shipper::run(args),
        ConfigArgs { metrics_markdown: true, .. } => metrics::reference(),
        ConfigArgs { markdown: true, .. } => reference(),
        ConfigArgs { .. } => default_toml(),
    };
    print(text.as_bytes())
}

fn report(loaded: &Loaded) -> Vec<u8> {
    let mut table = Table::new(&["KEY", "VALUE", "FROM", "NOTE"]);
    for Effective { setting, value, source, note } in loaded.effective() {
        let value = value.unwrap_or_else(|| "-".to_owned());
        table.row([setting.key.to_owned(), value, source.as_str().to_owned(), note.unwrap_or_default()]);
    }
    for (key, tokens) in
        [("ingest tokens", &loaded.config.ingest.tokens), ("control tokens", &loaded.config.control.tokens)]
    {
        table.row([key.to_owned(), tokens.len().to_string(), String::new(), String::new()]);
    }
    let keys = loaded.config.control.signing_keys.len();
    table.row(["control signing keys".to_owned(), keys.to_string(), String::new(), String::new()]);
    #[cfg(feature = "sinks")]
    for sink in &loaded.config.sinks {
        for (key, value) in sink.terms(&loaded.config) {
            let source = sink.sources.get(&key).copied().unwrap_or_default();
            table.row([format!("sinks.{}.{key}", sink.name), value, source.as_str().to_owned(), String::new()]);
        }
    }
    table.render()
}
