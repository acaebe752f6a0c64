//! The comparison as text.

use super::{CompareArgs, Series};
use std::fmt::Write;

pub(super) fn heading(args: &CompareArgs, pinned: Option<(usize, usize)>) -> String {
    let mut text = format!(
        "{} lines a round, {} rounds, records of {} bytes (30 % with escapes, 7 % non-ASCII), {} machines, Zipf {}, {:?} shapes, form {:?}, {:?}\n",
        args.lines, args.rounds, args.line_bytes, args.machines, args.zipf, args.shapes, args.form, args.encoding
    );
    match pinned {
        Some((server, own)) => {
            let _ = write!(text, "servers pinned to CPU {server}, generator to CPU {own}; ");
        }
        None => text.push_str("NOT pinned (one CPU, or not allowed): trust these figures less; "),
    }
    text.push_str("CPU is user + system time of the whole process; median over rounds (min–max)");
    text
}

/// One body size: a row a server.
pub(super) fn section(series: &[Series]) -> String {
    let cost = |name: &str| series.iter().find(|series| series.server == name).map(|series| median(&costs(series)));
    let (naive, ceiling) = (cost("naive"), cost("ceiling"));
    let mut text = format!("\n{} lines per body\n", series.first().map_or(0, |series| series.lines_per_body));
    let _ = writeln!(
        text,
        "{:<12} {:>10} {:>17} {:>15} {:>10} {:>11} {:>13} {:>9}",
        "server", "CPU-s/M", "(min–max)", "lines/CPU-s", "vs naive", "vs ceiling", "wall lines/s", "RSS"
    );
    for series in series {
        let costs = costs(series);
        let cost = median(&costs);
        let walls: Vec<f64> = series.rounds.iter().map(|round| series.lines as f64 / round.wall_seconds).collect();
        let range = format!(
            "({:.3}–{:.3})",
            costs.iter().copied().fold(f64::MAX, f64::min),
            costs.iter().copied().fold(0.0, f64::max)
        );
        let _ = writeln!(
            text,
            "{:<12} {:>10.3} {:>17} {:>15} {:>10} {:>11} {:>13} {:>7} MB",
            series.server,
            cost,
            range,
            thousands(1e6 / cost),
            naive.map_or_else(|| "-".to_owned(), |naive| format!("{:.2}x", naive / cost)),
            ceiling.map_or_else(|| "-".to_owned(), |ceiling| format!("{:.2}x", ceiling / cost)),
            thousands(median(&walls)),
            series.resident_bytes / 1_000_000
        );
    }
    text
}

/// CPU seconds per million lines, by round.
fn costs(series: &Series) -> Vec<f64> {
    series.rounds.iter().map(|round| round.cpu_seconds * 1e6 / series.lines as f64).collect()
}

fn median(values: &[f64]) -> f64 {
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
    let digits = format!("{value:.0}");
    let mut text = String::new();
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
    }
}
