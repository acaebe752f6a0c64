//! `fleetdrain explain`: what became of one entry.

use std::fmt::Write;

use hyper::StatusCode;
use serde_json::Value;

use super::{
    Exit, Failure,
    client::{Client, ClientArgs, encode},
    complain,
    losses::table,
    print,
    text::{escape, thousands},
};
use crate::batch::EntryId;

pub(super) const EXAMPLES: &str = "\
Exit code: 0 if the entry is there, or was and is gone; 65 if ID is no entry's
id; 69 if this drain never gave it, or cannot be asked.

Examples:
  fleetdrain explain 8f0c2a91d3e4-1a2b-3c-9e107d9d
  fleetdrain explain \"$(fleetdrain tail -n --last 1 -j | jq -r .id)\"";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// The entry's id, as tail and logs tell it
    #[arg(value_name = "ID")]
    id: String,
    /// Print the answer as it came
    #[arg(short, long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    if let Err(error) = args.id.parse::<EntryId>() {
        complain(&error.to_string());
        return Ok(Exit::Data);
    }
    let client = Client::new(&args.client)?;
    let (status, body) = client.ask_whole(&format!("/api/v1/explain/{}", encode(&args.id))).await?;
    if !status.is_success() {
        let refused = client.refused(status, &body);
        // Not `Usage`, which a 400 is of other calls.
        if status == StatusCode::BAD_REQUEST {
            complain(&refused.to_string());
            return Ok(Exit::Data);
        }
        return Err(refused.into());
    }
    let answer: Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::Unavailable(format!("the drain's answer is not JSON: {error}")))?;
    if args.json {
        return print(&[body.trim_ascii_end(), b"\n"].concat());
    }
    print(text(&answer).as_bytes())
}

/// For people: a line for each fact.
fn text(answer: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<10} {}", escape(&text));
    };
    let string = |value: &Value| value.as_str().map(str::to_owned);
    let entry = &answer["entry"];
    line("id", string(&answer["id"]).unwrap_or_default());
    if let Some(why) = string(&answer["why"]) {
        line("gone", why);
    }
    if entry.is_object() {
        line("received", string(&entry["received_at"]).unwrap_or_default());
    }
    if let Some(machine) = string(&answer["machine"]["machine_id"]) {
        line("machine", format!("{machine} ({})", answer["machine"]["state"].as_str().unwrap_or("unknown")));
    }
    for (name, key) in [("app", "app_name"), ("region", "region"), ("stream", "stream"), ("message", "message")] {
        if let Some(text) = string(&entry[key]).filter(|text| !text.is_empty()) {
            line(name, text);
        }
    }
    if let Value::Number(seq) = &entry["machine_seq"] {
        line("number", format!("{} of its machine's lines since the drain's start", thousands(seq)));
    }
    line("kept", kept(&answer["kept"]));
    match &answer["limited"] {
        Value::Bool(limited) => line("limited", if *limited { "yes" } else { "no" }.to_owned()),
        _ => line("limited", "not known any more".to_owned()),
    }
    let fates = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
    let queues = fates("queues");
    if queues.is_empty() {
        line("queue", "none: nobody is subscribed to the machine".to_owned());
    }
    queues.iter().for_each(|queue| line("queue", fate(queue)));
    fates("sinks")
        .iter()
        .for_each(|sink| line("sink", format!("{}: {}", sink["name"].as_str().unwrap_or("?"), fate(sink))));
    let losses = fates("losses");
    if losses.is_empty() {
        line("losses", "none in the journal of this machine since".to_owned());
        return out;
    }
    line("losses", "of this machine, or of nobody knows whom, since:".to_owned());
    out.push_str(&String::from_utf8_lossy(&table(&losses).render()));
    out
}

fn kept(kept: &Value) -> String {
    let places = [("history", "in the history in memory"), ("queue", "in a queue in memory")];
    let memory = places.iter().filter(|(key, _)| kept[*key] == true).map(|(_, text)| (*text).to_owned());
    let spool = kept["spool"].as_object().map(|spool| {
        let number = |key| spool.get(key).and_then(Value::as_u64).unwrap_or_default();
        let file = spool.get("file").and_then(Value::as_str).unwrap_or("?");
        format!("on the disk in {file}, sequence {}, at byte {}", number("sequence"), number("offset"))
    });
    let all: Vec<_> = memory.chain(spool).collect();
    if all.is_empty() { "nowhere".to_owned() } else { all.join("; ") }
}

fn fate(fate: &Value) -> String {
    let text = |key: &str| fate[key].as_str();
    let mut out = text("state").unwrap_or("unknown").to_owned();
    if let Some(reason) = text("reason").filter(|reason| *reason != out) {
        let _ = write!(out, ", {reason}");
    }
    if let Some(detail) = text("detail").filter(|detail| !detail.is_empty()) {
        let _ = write!(out, ": {detail}");
    }
    if let (Some(streams), Some(full)) = (text("streams"), text("full")) {
        let _ = write!(out, " (streams={streams}, full={full})");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_a_line_each_and_escaped() {
        let answer = serde_json::json!({
            "id": "1-2-3-4", "state": "held", "why": null, "limited": false,
            "entry": { "machine_id": "m", "message": "a\u{1b}[2J", "received_at": "2026-01-01T00:00:00Z", "machine_seq": 1234 },
            "machine": { "machine_id": "m", "state": "live" },
            "kept": { "history": true, "queue": false, "spool": { "file": "x.seg", "sequence": 3, "offset": 64 } },
            "queues": [{ "state": "dropped", "reason": "queue_full", "detail": "d", "streams": "stdout", "full": "block" }],
            "sinks": [{ "name": "store", "state": "in_flight", "reason": null, "detail": "e" }],
            "losses": [{ "machine": "m", "lines": 7 }],
        });
        let text = text(&answer);
        for expected in [
            "message    a\\x1b[2J",
            "number     1,234 of",
            "kept       in the history in memory; on the disk in x.seg, sequence 3, at byte 64",
            "limited    no",
            "queue      dropped, queue_full: d (streams=stdout, full=block)",
            "sink       store: in_flight: e",
            "LINES",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn what_is_gone_says_why() {
        let answer =
            serde_json::json!({ "id": "1-2-3-4", "state": "gone", "why": "evicted", "entry": null, "kept": {} });
        let text = text(&answer);
        for expected in
            ["gone       evicted", "kept       nowhere", "limited    not known", "queue      none", "losses     none"]
        {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
