//! `loadtest`: what an operator uses to size a fleet. See the README beside this file.

mod client;
mod compare;
mod crash;
mod encode;
mod failure;
mod generate;
mod healthy;
mod hostile;
mod jetstream;
mod latency;
mod memory;
mod process;
#[path = "../../src/testing/random.rs"]
mod random;
mod report;
mod run;
mod scenario;
mod schedule;
mod serve;
mod sink;
mod stall;
mod targets;
mod verify;
mod viewers;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Load for fleetdrain: verified line by line, measured without coordinated omission")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve bare hyper that discards bodies: what the transport alone costs
    Ceiling(serve::ServeArgs),
    /// Serve the straightforward server: a JSON value a line, owned strings, unbounded queues
    Naive(serve::naive::NaiveArgs),
    /// A drain of one file that breaks its promises if told to: what `crash` is tested against
    #[command(name = "serve", hide = true)]
    Keeper(serve::keeper::KeeperArgs),
    /// Simulate a fleet and its readers, verify every line
    Run(Box<run::RunArgs>),
    /// Measure CPU per line of ceiling, naive and the drain with the same bodies in interleaved rounds
    Compare(compare::CompareArgs),
    /// Kill a drain again and again, and judge what is left of what it acknowledged
    Crash(Box<crash::CrashArgs>),
    /// Slow and hostile peers: each must be got rid of in time, and healthy senders hardly notice
    Hostile(hostile::HostileArgs),
    /// Measure what the sink `jetstream` ships beside async-nats alone
    #[command(name = "jetstream")]
    JetStream(jetstream::JetStreamArgs),
    /// Measure how long lines wait between receipt and reader at half load
    Latency(latency::LatencyArgs),
    /// Measure what an idle machine costs in memory
    Memory(memory::MemoryArgs),
    /// Run every command behind the targets and say which are met
    Targets(targets::TargetsArgs),
    /// Viewers that stop reading: what they cost senders, and that each is told what it missed
    Viewers(viewers::ViewersArgs),
}

fn main() -> ExitCode {
    let done = match Cli::try_parse() {
        Ok(cli) => match cli.command {
            Command::Ceiling(args) => serve::ceiling::run(&args),
            Command::Naive(args) => serve::naive::run(&args),
            Command::Keeper(args) => serve::keeper::run(&args),
            Command::Run(args) => run::run(&args),
            Command::Compare(args) => compare::run(&args),
            Command::Crash(args) => crash::run(&args),
            Command::Hostile(args) => hostile::run(&args),
            Command::JetStream(args) => jetstream::run(&args),
            Command::Latency(args) => latency::run(&args),
            Command::Memory(args) => memory::run(&args),
            Command::Targets(args) => targets::run(&args),
            Command::Viewers(args) => viewers::run(&args),
        },
        Err(error) => {
            let _ = error.print();
            // clap's own code for a usage error is 2; the drain's is 64. Help and version are no errors.
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("loadtest: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn help_fits_a_terminal() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.clone().term_width(80).render_help().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{}: {line:?}", command.get_name());
            }
        }
    }
}
