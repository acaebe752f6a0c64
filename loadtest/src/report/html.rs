//! The report as one HTML page with inline SVG.

use super::{Latency, Report, Sample};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const BOTTOM: f64 = 32.0;
const COLOURS: [&str; 3] = ["#2563eb", "#d97706", "#b91c1c"];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#1f2937}\
pre{background:#f3f4f6;padding:1em;white-space:pre-wrap;font-size:13px}svg{width:100%;height:auto}\
text{font:12px system-ui,sans-serif;fill:#4b5563}.grid{stroke:#e5e7eb}.bad{color:#b91c1c}.good{color:#15803d}";

/// A named line of points.
struct Line<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// Writes the page.
pub(super) fn page(report: &Report) -> String {
    let line = |name, value: fn(&Sample) -> f64| Line { name, points: samples(report, value) };
    let latency = |name, value: fn(&Sample) -> f64| Line { name, points: latencies(report, value) };
    let throughput = [line("sent", |sample| sample.sent_per_second), line("read", |sample| sample.read_per_second)];
    let mut over_time = vec![
        latency("answer p99", |sample| sample.answer_p99_ms),
        latency("end to end p99", |sample| sample.end_to_end_p99_ms),
    ];
    let mut curves = vec![
        Line { name: "answer", points: curve(&report.answers) },
        Line { name: "end to end", points: curve(&report.end_to_end) },
    ];
    if report.refusals.count > 0 {
        over_time.push(latency("refusal p99", |sample| sample.refusal_p99_ms));
        curves.push(Line { name: "refusal", points: curve(&report.refusals) });
    }
    let seconds = |at: f64| format!("{} s", short(at));
    let class = if report.violations.is_empty() { "good" } else { "bad" };
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>loadtest {}</title><style>{STYLE}</style>\
         <h1>loadtest {}</h1><p>{}</p><p class=\"{class}\"><strong>{}</strong></p>",
        escape(&report.run),
        escape(&report.run),
        escape(&report.scenario.description),
        escape(report.verdict())
    );
    let _ = write!(page, "<h2>Lines a second</h2>{}", plot(&throughput, seconds));
    let _ = write!(page, "<h2>Latency by percentile, milliseconds</h2>{}", plot(&curves, percentile));
    let _ = write!(page, "<h2>p99 latency over time, milliseconds</h2>{}", plot(&over_time, seconds));
    if report.refusals.count > 0 {
        let refused = [line("refused", |sample| sample.refused_per_second)];
        let _ = write!(page, "<h2>Bodies refused a second</h2>{}", plot(&refused, seconds));
    }
    if let Some(memory) = report.memory {
        let resident = line("resident MB", |sample| sample.resident_bytes / 1e6);
        let budget = resident.points.iter().map(|&(at, _)| (at, memory.budget_bytes / 1e6)).collect();
        let lines = [resident, Line { name: "budget", points: budget }];
        let _ = write!(page, "<h2>The drain's memory, MB</h2>{}", plot(&lines, seconds));
    }
    let _ = write!(page, "<h2>Report</h2><pre>{}</pre>", escape(report.text().trim()));
    let scenario = toml::to_string_pretty(&report.scenario).unwrap_or_default();
    let _ = writeln!(page, "<h2>Scenario</h2><pre>{}</pre></html>", escape(&scenario));
    page
}

/// A second in which nothing was measured has no latency: it is left out, and not drawn as 0.
fn latencies(report: &Report, value: fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    samples(report, value).into_iter().filter(|point| point.1 > 0.0).collect()
}

fn samples(report: &Report, value: fn(&Sample) -> f64) -> Vec<(f64, f64)> {
    report.samples.iter().map(|sample| (sample.at_seconds, value(sample))).collect()
}

/// Quantiles on a scale where each nine is as wide as the one before.
fn curve(latency: &Latency) -> Vec<(f64, f64)> {
    latency.curve.iter().map(|&(quantile, value)| (-(1.0 - quantile).log10(), value)).collect()
}

fn percentile(at: f64) -> String {
    let percent = 100.0 * (1.0 - 10_f64.powf(-at));
    let decimals = (at.floor() as usize).saturating_sub(1);
    format!("{percent:.decimals$} %")
}

fn plot(lines: &[Line], label: impl Fn(f64) -> String) -> String {
    let all = || lines.iter().flat_map(|line| &line.points);
    let (right, top) = all().fold((0.0_f64, 0.0_f64), |(x, y), point| (x.max(point.0), y.max(point.1)));
    if right <= 0.0 || top <= 0.0 {
        return "<p>nothing measured</p>".to_owned();
    }
    let (step_x, step_y) = (step(right), step(top));
    let top = (top / step_y).ceil() * step_y;
    let x = |value: f64| LEFT + value / right * (WIDTH - LEFT - 20.0);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - 24.0);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for value in ticks(top, step_y) {
        let at = y(value);
        let _ =
            write!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", WIDTH - 20.0);
        let _ =
            write!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 6.0, at + 4.0, short(value));
    }
    for value in ticks(right, step_x) {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(value),
            HEIGHT - 10.0,
            label(value)
        );
    }
    for (number, (line, colour)) in lines.iter().zip(COLOURS).enumerate() {
        let points: Vec<String> =
            line.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let points = points.join(" ");
        let _ = write!(svg, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{points}\"/>");
        let at = LEFT + 10.0 + 150.0 * number as f64;
        let _ = write!(
            svg,
            "<text x=\"{at}\" y=\"14\" style=\"fill:{colour};font-weight:600\">{}</text>",
            escape(line.name)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// A round step that gives four to ten ticks.
fn step(top: f64) -> f64 {
    let magnitude = 10_f64.powf(top.log10().floor());
    match top / magnitude {
        ratio if ratio < 2.0 => magnitude / 5.0,
        ratio if ratio < 5.0 => magnitude / 2.0,
        _ => magnitude,
    }
}

fn ticks(top: f64, step: f64) -> impl Iterator<Item = f64> {
    (0..=(top / step + 1e-9).floor() as u32).map(move |number| f64::from(number) * step)
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e4 => format!("{}k", value / 1e3),
        value => format!("{}", (value * 1_000.0).round() / 1_000.0),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_give_a_few_round_ticks() {
        for top in [0.3, 1.0, 7.0, 19.0, 21_337.0, 999_999.0] {
            let count = ticks(top, step(top)).count();
            assert!((4..=11).contains(&count), "{top}: {count}");
        }
    }

    #[test]
    fn percentiles_are_named_with_as_many_nines_as_they_have() {
        assert_eq!(percentile(1.0), "90 %");
        assert_eq!(percentile(2.0), "99.0 %");
        assert_eq!(percentile(3.0), "99.90 %");
    }

    #[test]
    fn what_a_scenario_says_cannot_break_the_page() {
        assert_eq!(escape("<script>\"&"), "&lt;script&gt;&quot;&amp;");
    }
}
