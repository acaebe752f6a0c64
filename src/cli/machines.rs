//! `fleetdrain machines`: every machine that the drain has seen.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Exit, Failure,
    client::{Client, ClientArgs, Query},
    complain, print,
    text::{Table, thousands},
};
use crate::config::value::format_duration;

pub(super) const EXAMPLES: &str = "\
Examples:
  fleetdrain machines --sort dropped --limit 10
  fleetdrain machines --json | jq -r '.machines[].machine_id'";

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Sort {
    Lines,
    Bytes,
    Dropped,
    Lag,
}

impl Sort {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::Bytes => "bytes",
            Self::Dropped => "dropped",
            Self::Lag => "lag",
        }
    }
}

/// How many are asked for unless it is said.
const LIMIT: u32 = 50;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// Which machines come first: those with most of it
    #[arg(short, long, value_enum, default_value = "lines")]
    sort: Sort,
    /// How many [default: 50]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Print the answer as it came
    #[arg(short, long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let client = Client::new(&args.client)?;
    let mut query = Query::new("/api/v1/machines");
    query.push("sort", args.sort.as_str());
    query.push("limit", &args.limit.unwrap_or(LIMIT).to_string());
    let body = client.ask_document(&query.into_path()).await?;
    if args.json {
        return print(&[body.trim_ascii_end(), b"\n"].concat());
    }
    let answer: Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::Unavailable(format!("the drain's answer is not JSON: {error}")))?;
    print(&table(&answer, Timestamp::now()).render())?;
    // Who asked for so many has them.
    if args.limit.is_none() && answer.get("next").is_some_and(|next| !next.is_null()) {
        complain("there are more machines: raise --limit");
    }
    Ok(Exit::Success)
}

fn table(answer: &Value, now: Timestamp) -> Table {
    let mut table =
        Table::new(&["MACHINE", "STATE", "APP", "REGION", "LINES", "LINES/S", "QUEUE", "DROPPED", "P99", "LAST SEEN"]);
    for machine in answer.get("machines").and_then(Value::as_array).into_iter().flatten() {
        table.row([
            cell(machine, "machine_id"),
            state(machine),
            cell(machine, "app_name"),
            cell(machine, "region"),
            cell(machine, "lines"),
            rate(machine),
            cell(machine, "queue_lines"),
            cell(machine, "dropped"),
            latency(machine),
            age(machine, now),
        ]);
    }
    table
}

/// A member as text; `-` where there is none.
fn cell(machine: &Value, name: &str) -> String {
    match machine.get(name) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => thousands(number),
        Some(Value::Bool(value)) => value.to_string(),
        _ => "-".to_owned(),
    }
}

/// `live` or `finished`, and between the two for as long as it lingers.
fn state(machine: &Value) -> String {
    match machine.get("finishes_at") {
        Some(Value::String(_)) => "finishing".to_owned(),
        _ => cell(machine, "state"),
    }
}

fn rate(machine: &Value) -> String {
    let rate = machine.get("lines_per_second").and_then(Value::as_f64);
    rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

fn latency(machine: &Value) -> String {
    let seconds = machine.get("latency_p99_seconds").and_then(Value::as_f64);
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 1.0 => format!("{:.1}ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1}s"),
    }
}

/// How long ago it was last seen, in whole seconds.
fn age(machine: &Value, now: Timestamp) -> String {
    let seen = machine.get("last_seen").and_then(Value::as_str);
    let Some(seen) = seen.and_then(|text| text.parse::<Timestamp>().ok()) else {
        return cell(machine, "last_seen");
    };
    let seconds = u64::try_from(now.as_second() - seen.as_second()).unwrap_or(0);
    format!("{} ago", format_duration(std::time::Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_unknown_members_do_not_matter() {
        let answer = serde_json::json!({"machines": [
            {"machine_id": "a", "state": "live", "finishes_at": "2026-01-01T00:02:00Z", "lines": 12345, "lines_per_second": 2.25, "latency_p99_seconds": 0.0123, "last_seen": "2026-01-01T00:00:00Z", "new": []},
            {"machine_id": "b\u{1b}[2J", "queue_lines": null, "latency_p99_seconds": 16.6933},
        ]});
        let now = "2026-01-01T00:01:05Z".parse().unwrap();
        let text = String::from_utf8(table(&answer, now).render()).unwrap();
        assert!(text.contains("12,345"), "{text}");
        assert!(text.contains("1m5s ago") && text.contains("finishing"), "{text}");
        assert!(text.contains("12.3ms") && text.contains("16.7s"), "{text}");
        assert!(text.contains("b\\x1b[2J"), "{text}");
    }
}
