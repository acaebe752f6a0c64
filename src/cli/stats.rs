//! `fleetdrain stats`: the ledger.

use serde_json::Value;

use super::{
    Exit, Failure,
    client::{Client, ClientArgs},
    print,
    text::{Table, thousands},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  fleetdrain stats
  fleetdrain stats --json | jq .lines_received";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// Print the answer as it came
    #[arg(short, long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let client = Client::new(&args.client)?;
    let body = client.ask_document("/api/v1/stats").await?;
    if args.json {
        return print(&[body.trim_ascii_end(), b"\n"].concat());
    }
    let ledger: Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::Unavailable(format!("the drain's answer is not JSON: {error}")))?;
    let mut table = Table::new(&["COUNTER", "VALUE"]);
    flatten(&mut table, "", &ledger);
    print(&table.render())
}

/// One row for each number, those of inner objects under their path, those of lists under their names.
fn flatten(table: &mut Table, path: &str, value: &Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(table, &path, value);
            }
        }
        Value::Number(number) => table.row([path.to_owned(), thousands(number)]),
        Value::String(text) => table.row([path.to_owned(), text.clone()]),
        Value::Null => table.row([path.to_owned(), "-".to_owned()]),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let name = item.get("name").and_then(Value::as_str).map_or_else(|| index.to_string(), str::to_owned);
                flatten(table, &format!("{path}.{name}"), item);
            }
        }
        Value::Bool(_) => table.row([path.to_owned(), value.to_string()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_counters_stand_under_their_path() {
        let mut table = Table::new(&["COUNTER", "VALUE"]);
        flatten(
            &mut table,
            "",
            &serde_json::json!({"lines": 1234, "dropped": {"queue_full": 0}, "sinks": [{"name": "s", "in": 5}]}),
        );
        let text = String::from_utf8(table.render()).unwrap();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|row| row.split_whitespace().collect()).collect();
        let expected = [["dropped.queue_full", "0"], ["lines", "1,234"], ["sinks.s.in", "5"], ["sinks.s.name", "s"]];
        assert_eq!(rows, expected);
    }
}
