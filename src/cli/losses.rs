//! `fleetdrain losses`: the loss journal.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Exit, Failure,
    client::{Client, ClientArgs, Query},
    complain, print,
    text::{Table, thousands},
};
use crate::config::value::{duration, format_duration};

pub(super) const EXAMPLES: &str = "\
Examples:
  fleetdrain losses --since 24h && echo 'nothing was lost'
  fleetdrain losses -m 4d891d77b05118 --json | jq '[.losses[].lines] | add'";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// Only what was lost since then, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
    /// Only what was lost of this machine, or of nobody knows whom
    #[arg(short, long, value_name = "ID")]
    machine: Option<String>,
    /// Print the answer as it came
    #[arg(short, long)]
    json: bool,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    duration(text).ok_or_else(|| "not a duration such as 30s, 5m or 24h".to_owned())
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let client = Client::new(&args.client)?;
    let mut query = Query::new("/api/v1/losses");
    args.since.inspect(|&since| query.push("since", &format_duration(since)));
    args.machine.iter().for_each(|id| query.push("machine", id));
    let body = client.ask_document(&query.into_path()).await?;
    let answer: Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::Unavailable(format!("the drain's answer is not JSON: {error}")))?;
    let Some(losses) = answer.get("losses").and_then(Value::as_array) else {
        return Err(Failure::Unavailable("the drain's answer has no losses".to_owned()));
    };
    if args.json {
        print(&[body.trim_ascii_end(), b"\n"].concat())?;
    } else if !losses.is_empty() {
        print(&table(losses).render())?;
    }
    if let Some(since) = forgotten_before(&answer, args.since) {
        complain(&format!("the journal reaches back to {since} only: what was lost before is not known"));
    }
    Ok(if losses.is_empty() { Exit::Success } else { Exit::Found })
}

pub(super) fn table(losses: &[Value]) -> Table {
    let mut table = Table::new(&["FROM", "TO", "MACHINE", "APP", "WHERE", "REASON", "LINES"]);
    for loss in losses {
        let text = |name| loss.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let row = ["from", "to", "machine", "app", "where", "reason"].map(text);
        let [from, to, machine, app, place, reason] = row;
        table.row([seconds(&from), seconds(&to), machine, app, place, reason, lines(loss)]);
    }
    table
}

/// How many, or what is known of it.
fn lines(loss: &Value) -> String {
    match (loss.get("lines"), loss.get("undelivered")) {
        (Some(Value::Number(lines)), _) => thousands(lines),
        (_, Some(Value::Number(lines))) => format!("unknown ({} were undelivered)", thousands(lines)),
        _ => "unknown".to_owned(),
    }
}

/// A time to the second, as people read it.
fn seconds(text: &str) -> String {
    text.parse::<Timestamp>().map_or_else(|_| text.to_owned(), |at| format!("{at:.0}"))
}

/// Until when nothing is known of the time that was asked for.
fn forgotten_before(answer: &Value, since: Option<Duration>) -> Option<String> {
    let text = answer.get("complete_since")?.as_str()?;
    let complete: Timestamp = text.parse().ok()?;
    let asked = since.map(|since| Timestamp::now().checked_sub(since).unwrap_or(Timestamp::MIN));
    asked.is_some_and(|asked| asked < complete).then(|| seconds(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let losses = [
            serde_json::json!({"from": "2026-01-01T00:00:00.5Z", "to": "?", "machine": "m\u{1b}", "lines": 1234}),
            serde_json::json!({"reason": "unclean_stop", "lines": null, "undelivered": 12}),
        ];
        let text = String::from_utf8(table(&losses).render()).unwrap();
        assert!(text.contains("2026-01-01T00:00:0") && text.contains("m\\x1b") && text.contains("1,234"), "{text}");
        assert!(text.contains("unknown (12 were undelivered)"), "{text}");
    }

    #[test]
    fn a_journal_that_is_younger_than_what_was_asked_for_is_told() {
        let now = Timestamp::now().to_string();
        let young = serde_json::json!({ "complete_since": now });
        assert!(forgotten_before(&young, Some(Duration::from_secs(60))).is_some());
        assert_eq!(forgotten_before(&young, Some(Duration::ZERO)), None);
        assert_eq!(forgotten_before(&young, None), None);
        assert_eq!(forgotten_before(&serde_json::json!({"complete_since": null}), Some(Duration::MAX)), None);
    }
}
