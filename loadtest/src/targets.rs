//! The whole table of targets, one command after the other.

use crate::compare::{Series, median, thousands};
use crate::failure::Failure;
use crate::report::Measured as Overload;
use crate::{latency, memory, viewers};
use clap::Args;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs every command behind the targets, and says which are met.
///
/// Each command is shown and can be run alone. A missed target is a figure, not a failure: the exit code is 0 if all was
/// measured.
#[derive(Args, Clone, Debug)]
pub(crate) struct TargetsArgs {
    /// The drain's binary, with examples/count_lines beside it
    #[arg(long, value_name = "FILE")]
    drain: PathBuf,
    /// The scenarios' folder
    #[arg(long, value_name = "DIR", default_value = "loadtest/scenarios")]
    scenarios: PathBuf,
    /// Take more lines and rounds, and ten minutes for overload: half an hour or more in all
    #[arg(long)]
    long: bool,
    /// Only the commands whose arguments contain this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Only show the commands
    #[arg(long)]
    dry_run: bool,
}

/// A line of the table.
struct Row {
    figure: String,
    target: String,
    measured: String,
    is_met: bool,
}

/// What a figure must be.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    fn new(figure: &str, value: f64, bound: &Bound, unit: &str) -> Self {
        let text = |value: f64| match value {
            value if value.abs() >= 1_000.0 => format!("{}{unit}", thousands(value)),
            value if value.abs() >= 100.0 => format!("{value:.0}{unit}"),
            value => format!("{value:.2}{unit}"),
        };
        let (target, is_met) = match *bound {
            Bound::AtMost(bound) => (format!("≤ {}", text(bound)), value <= bound),
            Bound::AtLeast(bound) => (format!("≥ {}", text(bound)), value >= bound),
        };
        Self { figure: figure.to_owned(), target, measured: text(value), is_met }
    }

    fn print(&self) {
        let verdict = if self.is_met { "met" } else { "MISSED" };
        println!("{:<66} {:>14} {:>14}  {verdict}", self.figure, self.target, self.measured);
    }
}

/// A command, and what is read from its figures.
struct Step {
    arguments: Vec<String>,
    rows: fn(&Path) -> Result<Vec<Row>, Failure>,
}

/// Runs them all.
pub(crate) fn run(args: &TargetsArgs) -> Result<(), Failure> {
    let own = std::env::current_exe().map_err(Failure::io)?;
    let only = |step: &Step| args.only.as_ref().is_none_or(|only| step.arguments.join(" ").contains(only));
    let steps: Vec<Step> = steps(args).into_iter().filter(only).collect();
    if steps.is_empty() {
        return Err(Failure::usage("no command contains the text of --only"));
    }
    let mut failed = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        println!("\n$ loadtest {}", step.arguments.join(" "));
        if args.dry_run {
            continue;
        }
        let json = std::env::temp_dir().join(format!("loadtest-target-{}-{number}.json", std::process::id()));
        let rows = measure(&own, step, &json);
        let _ = std::fs::remove_file(&json);
        match rows {
            Ok(rows) => rows.iter().for_each(Row::print),
            Err(failure) => {
                println!("FAILED: {failure}");
                failed.push(failure);
            }
        }
    }
    match failed.into_iter().next() {
        Some(first) => Err(first.because("not everything could be measured")),
        None => Ok(()),
    }
}

fn measure(own: &Path, step: &Step, json: &Path) -> Result<Vec<Row>, Failure> {
    let mut command = Command::new(own);
    command.args(&step.arguments).arg("--json").arg(json).stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().map_err(Failure::io)?;
    if !status.success() {
        return Err(Failure::data(format!("it ended with {status}")));
    }
    (step.rows)(json)
}

fn steps(args: &TargetsArgs) -> Vec<Step> {
    let drain = args.drain.display().to_string();
    let size: &[&str] =
        if args.long { &["--lines", "3000000", "--rounds", "7"] } else { &["--lines", "1000000", "--rounds", "3"] };
    let step = |command: &str, arguments: &[&str], rows| {
        let all = [&[command, "--drain", &drain], arguments].concat();
        Step { arguments: all.into_iter().map(str::to_owned).collect(), rows }
    };
    let compare = |arguments: &[&str], rows| step("compare", &[arguments, size].concat(), rows);
    let overload = |scenario: &str, rows| {
        let path = args.scenarios.join(scenario).display().to_string();
        step("run", &["--scenario", &path, "--duration", if args.long { "10m" } else { "20s" }], rows)
    };
    let seconds = if args.long { "120" } else { "15" };
    vec![
        compare(&["--servers", "ceiling,naive,count_lines,fleet,queues", "--lines-per-body", "1000"], |json| {
            Ok(one_body_size(&Compared::read(json)?))
        }),
        compare(&["--servers", "ceiling,count_lines", "--lines-per-body", "1000,100,10"], |json| {
            let all = Compared::read(json)?;
            let share = |lines: usize, least: f64| {
                let (ceiling, counted) = (all.of("ceiling", lines), all.of("count_lines", lines));
                let figure = format!("share of the ceiling, {lines} lines a body");
                Row::new(&figure, 100.0 * ceiling.times(counted), &Bound::AtLeast(least), " %")
            };
            Ok(vec![share(1_000, 20.0), share(100, 40.0), share(10, 70.0)])
        }),
        compare(&["--servers", "count_lines", "--lines-per-body", "1000", "--shapes", "fly,varied"], |json| {
            let varied = Compared::read(json)?;
            let figure = "lines per CPU-second, every line another shape";
            Ok(vec![Row::new(figure, varied.last().lines_per_cpu_second(), &Bound::AtLeast(1.8e6), "")])
        }),
        compare(&["--servers", "count_lines", "--lines-per-body", "1000", "--form", "lines,array"], |json| {
            let all = Compared::read(json)?;
            Ok(vec![all.last_to_first("JSON array against NDJSON of the same records", 1.15)])
        }),
        compare(&["--servers", "count_lines", "--lines-per-body", "1000", "--encoding", "identity,gzip"], |json| {
            let cost = median(&Compared::read(json)?.last().costs());
            Ok(vec![Row::new("gzip bodies, CPU-s per million lines", cost, &Bound::AtMost(0.55), "")])
        }),
        compare(&["--servers", "count_lines", "--lines-per-body", "1000", "--machines", "1000,100000"], |json| {
            let all = Compared::read(json)?;
            Ok(vec![all.last_to_first("CPU per line at 100,000 machines against 1,000", 1.5)])
        }),
        compare(&["--servers", "count_lines", "--lines-per-body", "1000", "--threads", "1,2"], |json| {
            let all = Compared::read(json)?;
            Ok(vec![all.last_to_first("two worker threads against one, CPU per line", 1.15)])
        }),
        step("memory", &[], |json| {
            let memory::Measured { seen, queue, .. } = read(json)?;
            let id = memory::ID_BYTES;
            Ok(vec![
                Row::new("idle memory of a machine seen, without its id", seen - id, &Bound::AtMost(256.0), " B"),
                Row::new(
                    "idle memory of one subscribed, without its id",
                    seen + queue - id,
                    &Bound::AtMost(512.0),
                    " B",
                ),
            ])
        }),
        step("latency", &["--duration", seconds], |json| {
            let latency::Measured { waited: [_, p99, p999, _], .. } = read(json)?;
            Ok(vec![
                Row::new("received → taken at half load, p99", p99 / 1e3, &Bound::AtMost(1.0), " ms"),
                Row::new("received → taken at half load, p99.9", p999 / 1e3, &Bound::AtMost(5.0), " ms"),
            ])
        }),
        step("viewers", &["--rounds", if args.long { "7" } else { "3" }], |json| {
            let viewers::Measured { cost } = read(json)?;
            let figure = "CPU per line beside 10,000 viewers that stall, against without";
            Ok(vec![Row::new(figure, cost, &Bound::AtMost(viewers::COST_MAX), "")])
        }),
        overload("fleet_to_block_queues_overload_2x.toml", |json| overloaded("readers at half the rate", json)),
        overload("slow_senders_to_queues_overload_2x.toml", |json| overloaded("slow senders", json)),
    ]
}

fn one_body_size(all: &Compared) -> Vec<Row> {
    let (naive, counted) = (all.of("naive", 1_000), all.of("count_lines", 1_000));
    let (fleet, queues) = (all.of("fleet", 1_000), all.of("queues", 1_000));
    let more = |figure, value, bound| Row::new(figure, value, &bound, "");
    vec![
        more("times cheaper a line than naive", naive.times(counted), Bound::AtLeast(6.5)),
        more("lines per CPU-second", counted.lines_per_cpu_second(), Bound::AtLeast(3.5e6)),
        more("1,000 LogStreams against one FleetStream", counted.times(fleet), Bound::AtMost(1.4)),
        more("1,000 machines followed over HTTP against in process", queues.times(counted), Bound::AtMost(2.5)),
    ]
}

fn overloaded(who: &str, json: &Path) -> Result<Vec<Row>, Failure> {
    let report: Overload = read(json)?;
    let memory = report.memory.ok_or_else(|| Failure::data("the drain's memory is not known"))?;
    let excess = 100.0 * memory.excess();
    Ok(vec![
        Row::new(&format!("2× overload, {who}: resident over the budget"), excess, &Bound::AtMost(15.0), " %"),
        Row::new(&format!("2× overload, {who}: refusals p99"), report.refusals.p99, &Bound::AtMost(10.0), " ms"),
    ])
}

/// The series of a comparison.
struct Compared(Vec<Series>);

impl Compared {
    fn read(json: &Path) -> Result<Self, Failure> {
        let all: Vec<Series> = read(json)?;
        if all.is_empty() { Err(Failure::data("nothing was compared")) } else { Ok(Self(all)) }
    }

    /// The commands above name whoever is asked for here.
    fn of(&self, server: &str, lines_per_body: usize) -> &Series {
        let is = |series: &&Series| series.server == server && series.case.lines_per_body == lines_per_body;
        self.0.iter().find(is).expect("the command measures it")
    }

    fn last(&self) -> &Series {
        self.0.last().expect("not empty")
    }

    fn last_to_first(&self, figure: &str, most: f64) -> Row {
        Row::new(figure, self.last().times(&self.0[0]), &Bound::AtMost(most), "")
    }
}

fn read<T: DeserializeOwned>(json: &Path) -> Result<T, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::io(format!("{}: {error}", json.display()));
    let bytes = std::fs::read(json).map_err(|error| failed(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_met_or_missed() {
        let met = |value, bound| Row::new("x", value, &bound, "").is_met;
        assert!(met(1.4, Bound::AtMost(1.4)) && !met(1.41, Bound::AtMost(1.4)));
        assert!(met(3.5e6, Bound::AtLeast(3.5e6)) && !met(3.4e6, Bound::AtLeast(3.5e6)));
    }

    #[test]
    fn every_command_of_the_table_is_understood() {
        use clap::Parser;
        for long in [false, true] {
            let args =
                TargetsArgs { drain: "drain".into(), scenarios: "scenarios".into(), long, only: None, dry_run: false };
            for step in steps(&args) {
                let all = ["loadtest"].into_iter().chain(step.arguments.iter().map(String::as_str));
                crate::Cli::try_parse_from(all.chain(["--json", "x"])).unwrap();
            }
        }
    }
}
