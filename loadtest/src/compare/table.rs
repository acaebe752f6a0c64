//! The comparison as text.

use super::{Case, CompareArgs, Series, places};
use std::fmt::Write;

/// What is measured and where, in short. `cpus`: those that servers and generator were pinned to.
pub(super) fn heading(args: &CompareArgs, cpus: Option<&[usize]>) -> String {
    let mut text = format!(
        "{} lines a round, {} rounds, records of {} bytes (30 % with escapes, 7 % non-ASCII), Zipf {}\n",
        args.lines, args.rounds, args.line_bytes, args.zipf
    );
    let threads = args.threads.iter().copied().max().unwrap_or(1);
    match cpus.map(|cpus| places(cpus, threads)) {
        Some((servers, Some(own))) => {
            let _ = write!(text, "servers pinned to CPU {servers:?} (one a thread), generator to CPU {own}; ");
            if servers.contains(&own) {
                text.push_str("they SHARE one: trust the figures of more threads less; ");
            }
        }
        _ => text.push_str("NOT pinned (one CPU, or not allowed): trust these figures less; "),
    }
    text.push_str("CPU is user + system time of the whole process; medians over rounds (min–max), ratios by round");
    text
}

/// A table a case, then each server's cost from case to case.
pub(super) fn tables(args: &CompareArgs, all: &[Series]) -> String {
    let cases = Case::all(args);
    let mut text = String::new();
    for case in &cases {
        let series: Vec<&Series> = all.iter().filter(|series| series.case == *case).collect();
        let _ = write!(text, "\n{}\n{}", name(case), section(&series));
    }
    if let [first, others @ ..] = cases.as_slice()
        && !others.is_empty()
    {
        let _ = writeln!(text, "\ntimes the CPU per line of: {}", name(first));
        for case in others {
            for series in all.iter().filter(|series| series.case == *case) {
                let same = |one: &&Series| one.case == *first && one.server == series.server;
                if let Some(base) = all.iter().find(same) {
                    let _ = writeln!(text, "{:<15} {:>6.2}x  {}", series.server, series.times(base), name(case));
                }
            }
        }
    }
    text
}

fn name(case: &Case) -> String {
    let Case { lines_per_body, machines, shapes, form, encoding } = case;
    format!("{lines_per_body} lines per body, {machines} machines, {shapes:?} shapes, form {form:?}, {encoding:?}")
}

/// One case: a row a server.
fn section(all: &[&Series]) -> String {
    let find = |name: &str| all.iter().find(|series| series.server == name);
    let (naive, ceiling, count_lines, drain) = (find("naive"), find("ceiling"), find("count_lines"), find("drain"));
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<15} {:>9} {:>17} {:>13} {:>9} {:>11} {:>14} {:>13} {:>13} {:>9}",
        "server",
        "CPU-s/M",
        "(min–max)",
        "lines/CPU-s",
        "vs naive",
        "vs ceiling",
        "x count_lines",
        "above drain",
        "wall lines/s",
        "RSS"
    );
    for series in all {
        let costs = series.costs();
        let cost = median(&costs);
        let walls: Vec<f64> = series.rounds.iter().map(|round| series.lines as f64 / round.wall_seconds).collect();
        let range = format!(
            "({:.3}–{:.3})",
            costs.iter().copied().fold(f64::MAX, f64::min),
            costs.iter().copied().fold(0.0, f64::max)
        );
        let ratio = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}x"));
        let _ = writeln!(
            text,
            "{:<15} {:>9.3} {:>17} {:>13} {:>9} {:>11} {:>14} {:>13} {:>13} {:>6} MB",
            series.server,
            cost,
            range,
            thousands(1e6 / cost),
            ratio(naive.map(|naive| naive.times(series))),
            ratio(ceiling.map(|ceiling| ceiling.times(series))),
            ratio(count_lines.map(|count_lines| series.times(count_lines))),
            drain.map_or_else(|| "-".to_owned(), |drain| format!("{:.3} s/M", series.above(drain))),
            thousands(median(&walls)),
            series.resident_bytes / 1_000_000
        );
    }
    text
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// A number with a comma every three digits.
pub(crate) fn thousands(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 && digits != "0" { "-".to_owned() } else { String::new() };
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(-119.0), "-119");
    }
}
