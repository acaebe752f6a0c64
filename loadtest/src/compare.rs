//! CPU per line of several servers under the same bodies.

mod beside;
mod bodies;
mod contender;
mod followers;
mod table;

pub(crate) use bodies::{Bodies, BodyArgs, MachineList, RUN, send};
pub(crate) use contender::Kind;
pub(crate) use table::{median, thousands};

use crate::client::Target;
use crate::encode::Encoding;
use crate::failure::Failure;
use crate::generate::{Form, Shapes};
use crate::process;
use clap::Args;
use contender::Contender;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Ceiling, naive and the drain, pinned to one CPU, the generator on another.
///
/// Flags that take a list measure every combination, all in interleaved rounds, so that their ratios can be trusted.
#[derive(Args, Clone, Debug)]
pub(crate) struct CompareArgs {
    /// The drain's binary; without it only the yardsticks are measured
    #[arg(long, value_name = "FILE")]
    pub(crate) drain: Option<PathBuf>,
    /// The example that subscribes and drains every machine [default: examples/count_lines beside the drain, if there]
    #[arg(long, value_name = "FILE")]
    pub(crate) count_lines: Option<PathBuf>,
    /// The server that stands for Fly's NATS
    #[arg(long, value_name = "FILE", env = "NATS_SERVER", default_value = "nats-server")]
    pub(crate) nats_server: PathBuf,
    /// Who is measured [default: ceiling, naive, and of drain and count_lines what is there]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) servers: Vec<Kind>,
    /// Lines per body
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100, 10])]
    pub(crate) lines_per_body: Vec<usize>,
    /// Lines sent to each server in each round
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) lines: usize,
    /// Unmeasured lines sent to each server first; the default fills the drain's history, whose memory is touched for
    /// the first time by then
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) warm_up: usize,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Machines in the fleet
    #[arg(long, value_delimiter = ',', default_values_t = [1_000], value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) machines: Vec<u32>,
    /// Exponent of Zipf's law over the machines; 0 is uniform
    #[arg(long, default_value_t = 1.0)]
    pub(crate) zipf: f64,
    /// Distinct lines pregenerated; the bodies are repeated from there
    #[arg(long, default_value_t = 200_000)]
    pub(crate) distinct_lines: usize,
    /// Mean bytes of a record
    #[arg(long, default_value_t = 340)]
    pub(crate) line_bytes: usize,
    /// Whether lines repeat the shipper's shape or each has its own
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Shapes::Fly])]
    pub(crate) shapes: Vec<Shapes>,
    /// The bodies' form
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Form::Lines])]
    pub(crate) form: Vec<Form>,
    /// The bodies' content encoding
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Encoding::Identity])]
    pub(crate) encoding: Vec<Encoding>,
    /// Worker threads of `count_lines` and `fleet`, each on a CPU of its own; all others have one
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) threads: Vec<u16>,
    /// Connections of the generator
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) connections: u16,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What all servers are sent in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) lines_per_body: usize,
    pub(crate) machines: u32,
    pub(crate) shapes: Shapes,
    pub(crate) form: Form,
    pub(crate) encoding: Encoding,
}

impl Case {
    /// All combinations that are asked for.
    fn all(args: &CompareArgs) -> Vec<Self> {
        let mut cases = Vec::new();
        for &machines in &args.machines {
            for &shapes in &args.shapes {
                for &form in &args.form {
                    for &encoding in &args.encoding {
                        let case = |&lines_per_body| Self { lines_per_body, machines, shapes, form, encoding };
                        cases.extend(args.lines_per_body.iter().map(case));
                    }
                }
            }
        }
        cases
    }

    fn bodies(self, args: &CompareArgs) -> BodyArgs {
        let Self { lines_per_body, machines, shapes, form, encoding } = self;
        let &CompareArgs { zipf, distinct_lines, line_bytes, .. } = args;
        BodyArgs { lines_per_body, machines, zipf, distinct_lines, line_bytes, shapes, form, encoding }
    }
}

/// What one server did in one round.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) cpu_seconds: f64,
    pub(crate) wall_seconds: f64,
}

/// All rounds of one server with one case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) server: String,
    #[serde(flatten)]
    pub(crate) case: Case,
    pub(crate) threads: u16,
    pub(crate) lines: usize,
    pub(crate) rounds: Vec<Round>,
    pub(crate) resident_bytes: u64,
}

impl Series {
    /// CPU seconds per million lines, by round.
    pub(crate) fn costs(&self) -> Vec<f64> {
        self.rounds.iter().map(|round| round.cpu_seconds * 1e6 / self.lines as f64).collect()
    }

    /// The inverse of the median cost.
    pub(crate) fn lines_per_cpu_second(&self) -> f64 {
        1e6 / median(&self.costs())
    }

    /// CPU seconds per million lines above those of `other`: the median over rounds, as [`Series::times`].
    pub(crate) fn above(&self, other: &Self) -> f64 {
        let pairs = self.costs().into_iter().zip(other.costs());
        median(&pairs.map(|(own, others)| own - others).collect::<Vec<_>>())
    }

    /// How many times as dear as `other`: the median over rounds, each against its neighbour, so that what slows the
    /// whole machine for a while cancels.
    pub(crate) fn times(&self, other: &Self) -> f64 {
        let pairs = self.costs().into_iter().zip(other.costs());
        median(&pairs.map(|(own, others)| own / others).collect::<Vec<_>>())
    }
}

/// Runs the comparison.
pub(crate) fn run(args: &CompareArgs) -> Result<(), Failure> {
    let all = measure_all(args)?;
    print!("{}", table::tables(args, &all));
    write_json(args.json.as_deref(), &all)
}

/// Measures every case with every server.
pub(crate) fn measure_all(args: &CompareArgs) -> Result<Vec<Series>, Failure> {
    let empty = args.lines_per_body.is_empty() || args.machines.is_empty() || args.threads.is_empty();
    if empty || args.lines_per_body.contains(&0) || args.lines == 0 || args.distinct_lines == 0 {
        return Err(Failure::usage("lines, distinct lines and lines per body must be above 0, and no list empty"));
    }
    process::prepare_open_files();
    let cpus = process::cpus();
    let lists = args.machines.iter().map(|&machines| MachineList::write(machines)).collect::<Result<Vec<_>, _>>()?;
    let mut contenders = Vec::new();
    for list in &lists {
        contenders.extend(Contender::start_all(args, list, &cpus)?);
    }
    // From here on: the servers have been started where they belong.
    let (_, own) = places(&cpus, 1);
    let pinned = own.is_some_and(|own| process::pin(&[own]));
    eprintln!("{}", table::heading(args, pinned.then_some(cpus.as_slice())));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::io)?;
    let all = runtime.block_on(measure(args, &mut contenders))?;
    contenders.into_iter().try_for_each(|contender| runtime.block_on(contender.settle()))?;
    Ok(all)
}

/// The CPUs of a server with `threads` threads, and the generator's. With one CPU nobody is pinned; where there are too
/// few the generator shares the server's last.
pub(crate) fn places(cpus: &[usize], threads: u16) -> (&[usize], Option<usize>) {
    match cpus {
        [] | [_] => (&[], None),
        [.., last] => (&cpus[..cpus.len().min(threads.into())], Some(*last)),
    }
}

async fn measure(args: &CompareArgs, contenders: &mut [Contender]) -> Result<Vec<Series>, Failure> {
    for contender in contenders.iter_mut() {
        contender.follow().await?;
    }
    let mut measured: Vec<(Arc<Bodies>, usize, Series)> = Vec::new();
    for case in Case::all(args) {
        let bodies = Arc::new(Bodies::of(&case.bodies(args))?);
        for (number, contender) in contenders.iter().enumerate().filter(|(_, one)| one.machines == case.machines) {
            let lines = args.lines.div_ceil(case.lines_per_body) * case.lines_per_body;
            let (server, threads) = (contender.server.name.clone(), contender.threads);
            let series = Series { server, case, threads, lines, rounds: Vec::new(), resident_bytes: 0 };
            measured.push((Arc::clone(&bodies), number, series));
        }
    }
    // Warm-up: the tables of machines, the allocator and the branch predictors settle outside the measurement.
    for (bodies, number, series) in &measured {
        let count = args.warm_up.div_ceil(series.case.lines_per_body);
        contenders[*number].take(bodies, count, args.connections).await?;
    }
    // Interleaved, so that what else happens on the machine meets all servers and cases alike.
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        for (bodies, number, series) in &mut measured {
            let contender = &mut contenders[*number];
            let before = contender.server.cpu_at_rest()?;
            let wall = contender.take(bodies, series.lines / series.case.lines_per_body, args.connections).await?;
            let cpu = contender.server.cpu_at_rest()? - before;
            series.rounds.push(Round { cpu_seconds: cpu.as_secs_f64(), wall_seconds: wall.as_secs_f64() });
            series.resident_bytes = contender.server.resident_bytes();
        }
    }
    Ok(measured.into_iter().map(|(_, _, series)| series).collect())
}

/// Writes figures to a file, if one is asked for.
pub(crate) fn write_json(path: Option<&Path>, figures: &impl Serialize) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(figures).map_err(Failure::io)?;
    std::fs::write(path, text).map_err(|error| Failure::io(format!("{}: {error}", path.display())))
}

/// `examples/count_lines` beside the drain, unless told otherwise.
pub(crate) fn count_lines_of(given: Option<&Path>, drain: Option<&Path>) -> Option<PathBuf> {
    let beside = || {
        let example = drain?.parent()?.join("examples/count_lines");
        example.is_file().then_some(example)
    };
    given.map(Path::to_owned).or_else(beside)
}

/// The target of a listener of our own child.
pub(crate) async fn target(url: &str) -> Result<Target, Failure> {
    Target::resolve(url, None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_the_generator_have_cpus_of_their_own_where_there_are_enough() {
        assert_eq!(places(&[3], 1), (&[][..], None));
        assert_eq!(places(&[3, 5], 1), (&[3][..], Some(5)));
        assert_eq!(places(&[3, 5], 2), (&[3, 5][..], Some(5)));
        assert_eq!(places(&[0, 1, 2, 3], 2), (&[0, 1][..], Some(3)));
    }

    #[test]
    fn ratios_pair_the_rounds() {
        let case = Case {
            lines_per_body: 1,
            machines: 1,
            shapes: Shapes::Fly,
            form: Form::Lines,
            encoding: Encoding::Identity,
        };
        let series = |seconds: [f64; 3]| Series {
            server: String::new(),
            case,
            threads: 1,
            lines: 1,
            rounds: seconds.map(|cpu_seconds| Round { cpu_seconds, wall_seconds: 1.0 }).to_vec(),
            resident_bytes: 0,
        };
        // The machine became three times slower: the medians alone would say 3.
        assert_eq!(series([2.0, 6.0, 6.0]).times(&series([1.0, 1.0, 3.0])), 2.0);
        assert_eq!(series([2.0, 6.0, 6.0]).above(&series([1.0, 1.0, 3.0])), 3e6);
    }
}
