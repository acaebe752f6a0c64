//! `fleetdrain sinks`: what sinks do, and having them pause, go on or go back.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::{
    Exit, Failure,
    client::{AskError, Client, ClientArgs, Query, encode},
    complain, print,
    text::{Table, thousands},
};
use crate::config::value::{duration, format_duration};

pub(super) const EXAMPLES: &str = "\
Without a command: a table of all sinks.

Examples:
  fleetdrain sinks
  fleetdrain sinks --json | jq '.sinks[] | {name, last_error}'
  fleetdrain sinks pause archive
  fleetdrain sinks rewind archive --since 2h --dry-run";

const PAUSE_EXAMPLE: &str = "\
Lines wait for it meanwhile: in the spool, or within `queue_bytes`.

Examples:
  fleetdrain sinks pause archive";

const RESUME_EXAMPLE: &str = "\
Examples:
  fleetdrain sinks resume archive";

const REWIND_EXAMPLES: &str = "\
Needs a spool. What arrived before arrives once more, under the ids that it had.

Examples:
  fleetdrain sinks rewind archive --since 2h --dry-run
  fleetdrain sinks rewind archive --since 2h";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    client: ClientArgs,
    /// Print the answer as it came
    #[arg(short, long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Have a sink deliver nothing until it is resumed
    #[command(after_help = PAUSE_EXAMPLE)]
    Pause {
        /// Which sink
        name: String,
    },
    /// Have a sink go on
    #[command(after_help = RESUME_EXAMPLE)]
    Resume {
        /// Which sink
        name: String,
    },
    /// Have a sink deliver again what was received since
    #[command(after_help = REWIND_EXAMPLES)]
    Rewind {
        /// Which sink
        name: String,
        /// How far to go back, such as 2h
        #[arg(long, value_name = "DURATION", value_parser = since)]
        since: Duration,
        /// Only say how many lines that would be
        #[arg(long)]
        dry_run: bool,
    },
}

fn since(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "not a duration such as 30s, 5m or 2h".to_owned())
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let client = Client::new(&args.client)?;
    let body = match &args.command {
        None => client.ask_document("/api/v1/sinks").await?,
        Some(Command::Pause { name }) => tell(&client, name, "pause", &[]).await?,
        Some(Command::Resume { name }) => tell(&client, name, "resume", &[]).await?,
        Some(Command::Rewind { name, since, dry_run }) => {
            let since = format_duration(*since);
            tell(&client, name, "rewind", &[("since", &since), ("dry_run", &dry_run.to_string())]).await?
        }
    };
    if args.json {
        return print(&[body.trim_ascii_end(), b"\n"].concat());
    }
    let answer: Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::Unavailable(format!("the drain's answer is not JSON: {error}")))?;
    match &args.command {
        None => list(&answer),
        Some(Command::Pause { .. } | Command::Resume { .. }) => print(&table(std::slice::from_ref(&answer)).render()),
        Some(Command::Rewind { name, .. }) => print(rewound(name, &answer).as_bytes()),
    }
}

/// Tells a sink to do something; one that is not there is told with those that are.
async fn tell(client: &Client, name: &str, what: &str, parameters: &[(&str, &str)]) -> Result<bytes::Bytes, Failure> {
    let mut query = Query::new(format!("/api/v1/sinks/{}/{what}", encode(name)));
    parameters.iter().for_each(|(name, value)| query.push(name, value));
    match client.tell_document(Method::POST, &query.into_path()).await {
        Err(AskError::Refused { status: StatusCode::NOT_FOUND, .. }) => Err(unknown(client, name).await?),
        answer => Ok(answer?),
    }
}

async fn unknown(client: &Client, name: &str) -> Result<Failure, Failure> {
    let body = client.ask_document("/api/v1/sinks").await?;
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let names: Vec<&str> = sinks(&answer).iter().filter_map(|sink| sink.get("name")?.as_str()).collect();
    let known = match names.as_slice() {
        [] => "this drain has none".to_owned(),
        names => format!("there are {}", names.join(", ")),
    };
    Ok(Failure::Usage(format!("there is no sink {name:?}: {known}")))
}

fn sinks(answer: &Value) -> &[Value] {
    answer.get("sinks").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn list(answer: &Value) -> Result<Exit, Failure> {
    if answer.get("sinks").is_none_or(|sinks| !sinks.is_array()) {
        return Err(Failure::Unavailable("the drain's answer has no sinks".to_owned()));
    }
    match sinks(answer) {
        [] => complain("this drain has no sinks"),
        sinks => {
            print(&table(sinks).render())?;
        }
    }
    Ok(Exit::Success)
}

fn table(sinks: &[Value]) -> Table {
    let mut table =
        Table::new(&["SINK", "TYPE", "STATE", "IN", "DELIVERED", "DROPPED", "IN FLIGHT", "LAG", "LAST ERROR"]);
    for sink in sinks {
        table.row([
            cell(sink, "name"),
            cell(sink, "type"),
            cell(sink, "state"),
            cell(sink, "lines_in"),
            cell(sink, "lines_delivered"),
            cell(sink, "lines_dropped"),
            cell(sink, "lines_in_flight"),
            lag(sink),
            cell(sink, "last_error"),
        ]);
    }
    table
}

/// A member as text; `-` where there is none.
fn cell(sink: &Value, name: &str) -> String {
    match sink.get(name) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => thousands(number),
        _ => "-".to_owned(),
    }
}

/// How long the oldest line has waited, in whole seconds once it is more than one.
fn lag(sink: &Value) -> String {
    let Some(seconds) = sink.get("lag_seconds").and_then(Value::as_f64) else { return "-".to_owned() };
    let lag = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let unit = if lag < Duration::from_secs(1) { lag.subsec_millis() } else { 0 };
    format_duration(Duration::from_secs(lag.as_secs()) + Duration::from_millis(unit.into()))
}

fn rewound(name: &str, answer: &Value) -> String {
    let would = answer.get("dry_run").and_then(Value::as_bool) == Some(true);
    let lines = match answer.get("lines") {
        Some(Value::Number(lines)) if lines.as_u64() != Some(0) => thousands(lines),
        _ => return format!("{name}: the spool holds nothing from then that it has had\n"),
    };
    let verb = if would { "would be" } else { "are" };
    let from = cell(answer, "from");
    format!("{name}: {lines} lines, from {from} on, {verb} delivered again\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sink_does_fits_a_line() {
        let sinks = [
            serde_json::json!({
                "name": "archive", "type": "file", "state": "running", "lines_in": 12345, "lines_delivered": 12345,
                "lines_dropped": 0, "lines_in_flight": 0, "lag_seconds": 0.25, "last_error": null,
            }),
            serde_json::json!({"name": "b\u{1b}", "lag_seconds": 75.5, "last_error": "401 Unauthorized\nno"}),
        ];
        let text = String::from_utf8(table(&sinks).render()).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("archive  file  running  12,345     12,345") && text.contains("250ms"), "{text}");
        assert!(text.contains("b\\x1b") && text.contains("1m15s") && text.contains("401 Unauthorized\\nno"), "{text}");
    }

    #[test]
    fn what_is_delivered_again_is_told_with_its_number() {
        let answer = serde_json::json!({"dry_run": true, "from": "2026-01-01T00:00:00Z", "lines": 12345});
        assert_eq!(rewound("a", &answer), "a: 12,345 lines, from 2026-01-01T00:00:00Z on, would be delivered again\n");
        let nothing = rewound("a", &serde_json::json!({"dry_run": false, "from": null, "lines": 0}));
        assert!(nothing.contains("nothing"), "{nothing}");
    }
}
