//! The command line: flags, logging, the runtime, signals and exit codes; one file a subcommand.

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use crate::{config::Mistakes, service::ServeError};
use clap::{CommandFactory, Parser, Subcommand};

mod allocator;
mod client;
mod explain;
mod health;
mod link;
mod logging;
mod losses;
mod machines;
mod manual;
mod parse;
mod serve;
mod shipper;
mod sinks;
#[cfg(feature = "spool")]
mod spool;
mod stats;
mod tail;
mod text;
mod validate;

pub use allocator::Allocator;

/// How a command ended, as the contract's exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Success,
    /// What was looked for is there, and should not be.
    Found,
    Usage,
    Data,
    Unavailable,
    Io,
    Config,
    Interrupted,
    /// As a machine exited.
    As(u8),
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Found => 1,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unavailable => 69,
            Self::Io => 74,
            Self::Config => 78,
            Self::Interrupted => 130,
            Self::As(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed; told on standard error.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// Whoever read our standard output has seen enough: no failure, but the end.
    #[error("standard output is closed")]
    Closed,
    #[error("the drain asks for a token (401): set FLEETDRAIN_TOKEN")]
    NoToken,
    #[error("the drain refuses the token in FLEETDRAIN_TOKEN (401)")]
    BadToken,
    #[error(transparent)]
    Config(#[from] Mistakes),
    #[error("{}", with_causes(.0))]
    Serve(ServeError),
    #[cfg(feature = "spool")]
    #[error("{dir}: {}", with_causes(.source))]
    Spool { dir: String, source: crate::spool::OpenError },
}

impl Failure {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Closed => Exit::Success,
            Self::Usage(_) => Exit::Usage,
            Self::Unavailable(_) => Exit::Unavailable,
            Self::Io { .. } | Self::Serve(_) => Exit::Io,
            Self::NoToken | Self::BadToken | Self::Config(_) => Exit::Config,
            #[cfg(feature = "spool")]
            Self::Spool { source, .. } => spool::exit(source),
        }
    }

    fn stdout(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io { what: "standard output".to_owned(), source },
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  fleetdrain serve                senders on :8080, readers on 127.0.0.1:8081
  curl --data-binary @records.ndjson http://localhost:8080/
  fleetdrain tail -a my-app -i 'error|panic'
  fleetdrain parse records.ndjson | jq .message";

/// The central log drain for large Fly.io fleets: every machine's log is a stream, every record is accounted for.
#[derive(Debug, Parser)]
#[command(name = "fleetdrain", version, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the drain
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::Args),
    /// Turn any body that senders post into one JSON entry a line
    #[command(after_help = parse::EXAMPLES)]
    Parse(parse::Args),
    /// Follow the logs of all machines, or of some
    #[command(after_help = tail::EXAMPLES)]
    Tail(tail::Args),
    /// List the machines that the drain has seen
    #[command(after_help = machines::EXAMPLES)]
    Machines(machines::Args),
    /// Show the drain's ledger: what came in, where it went, what was lost
    #[command(after_help = stats::EXAMPLES)]
    Stats(stats::Args),
    /// Show what was lost, of which machine and why: exit 1 if anything was, 0 if nothing
    #[command(after_help = losses::EXAMPLES)]
    Losses(losses::Args),
    /// Show what sinks do; have one pause, go on, or go back
    #[command(after_help = sinks::EXAMPLES)]
    Sinks(sinks::Args),
    /// Tell what became of one entry: where it is kept, which queues and sinks had it, what was lost
    #[command(after_help = explain::EXAMPLES)]
    Explain(explain::Args),
    /// Make a signed link that shows some machines for a while
    #[command(after_help = link::EXAMPLES)]
    Link(link::Args),
    /// Check a configuration and print every setting, or every mistake
    #[command(after_help = validate::EXAMPLES)]
    Validate(validate::Args),
    /// Print a configuration file with every setting, its default and meaning
    #[command(after_help = validate::CONFIG_EXAMPLES)]
    Config(validate::ConfigArgs),
    /// Look into a spool, check it, repair it
    #[cfg(feature = "spool")]
    #[command(after_help = spool::EXAMPLES)]
    Spool(spool::Args),
    /// Ask a running drain for its verdict: exit 0 if healthy, else 69
    #[command(after_help = health::EXAMPLES)]
    Health(health::Args),
    /// Print the completions for a shell
    #[command(after_help = "Examples:\n  fleetdrain completions bash > /etc/bash_completion.d/fleetdrain")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    #[command(after_help = "Examples:\n  fleetdrain man | man -l -\n  fleetdrain man --dir /usr/share/man/man1")]
    Man {
        /// Write the pages of all commands here
        #[arg(long, value_name = "DIR")]
        dir: Option<std::path::PathBuf>,
    },
}

/// Runs the command that `args` ask for, the program's name first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to be done about a standard error that is closed.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Success }.into();
        }
    };
    match dispatch(cli.command) {
        Ok(exit) => exit.into(),
        Err(Failure::Closed) => Exit::Success.into(),
        Err(failure) => {
            for line in failure.to_string().lines() {
                complain(line);
            }
            failure.exit().into()
        }
    }
}

fn dispatch(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Parse(args) => parse::run(&args),
        Command::Tail(args) => client::block_on(tail::run(args)),
        Command::Machines(args) => client::block_on(machines::run(args)),
        Command::Stats(args) => client::block_on(stats::run(args)),
        Command::Losses(args) => client::block_on(losses::run(args)),
        Command::Sinks(args) => client::block_on(sinks::run(args)),
        Command::Explain(args) => client::block_on(explain::run(args)),
        Command::Link(args) => link::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Config(args) => validate::print_config(&args),
        #[cfg(feature = "spool")]
        Command::Spool(args) => spool::run(&args),
        Command::Health(args) => client::block_on(health::run(args)),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fleetdrain", &mut out);
            print(&out)
        }
        Command::Man { dir: Some(dir) } => {
            let pages = std::fs::create_dir_all(&dir).and_then(|()| manual::write(&dir));
            pages.map(|()| Exit::Success).map_err(Failure::io(dir.display().to_string()))
        }
        Command::Man { dir: None } => print(&manual::page(&Cli::command()).map_err(Failure::io("manual page"))?),
    }
}

/// An error's message and those of its causes, outermost first.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Writes all of `out` to standard output.
fn print(out: &[u8]) -> Result<Exit, Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(out).and_then(|()| stdout.flush()).map_err(Failure::stdout)?;
    Ok(Exit::Success)
}

/// One line on standard error, where a closed one is no reason to stop.
fn complain(line: &str) {
    let line = text::escape(line);
    let _ = writeln!(io::stderr(), "fleetdrain: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// `command` and every command below it.
    fn each(command: &mut clap::Command, check: &mut impl FnMut(&mut clap::Command)) {
        check(command);
        let below = command.get_subcommands_mut().filter(|below| below.get_name() != "help");
        below.for_each(|below| each(below, check));
    }

    #[test]
    fn every_help_fits_a_screen_and_has_examples() {
        let mut command = Cli::command();
        command.build();
        let mut seen = 0;
        each(&mut command, &mut |command| {
            seen += 1;
            // What is wider is broken, and an example then is none.
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains("Examples:"), "{}", command.get_name());
            assert!(examples.lines().all(|line| line.chars().count() <= 80), "{examples}");
            let help = command.clone().term_width(80).render_help().to_string();
            assert!(help.lines().count() <= 50, "{help}");
            assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
        });
        assert!(seen > 20, "commands of commands too");
    }
}
