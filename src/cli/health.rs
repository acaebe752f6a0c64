//! `fleetdrain health`: the drain's own verdict.

use std::fmt::Write;

use hyper::StatusCode;
use serde_json::Value;

use super::{
    Exit, Failure,
    client::{Client, ClientArgs},
    print, text,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  fleetdrain health && echo fine
  HEALTHCHECK CMD [\"fleetdrain\", \"health\"]      (in a Dockerfile)";

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
    let (status, body) = client.ask_whole("/healthz").await?;
    let healthy = status.is_success();
    if !healthy && status != StatusCode::SERVICE_UNAVAILABLE {
        return Err(client.refused(status, &body).into());
    }
    let out =
        if args.json { String::from_utf8_lossy(&body).trim_end().to_owned() + "\n" } else { verdict(healthy, &body) };
    print(out.as_bytes())?;
    Ok(if healthy { Exit::Success } else { Exit::Unavailable })
}

/// `healthy` or `unhealthy`, and under it whatever reasons and warnings the answer gives.
fn verdict(healthy: bool, body: &[u8]) -> String {
    let mut out = String::from(if healthy { "healthy\n" } else { "unhealthy\n" });
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    for reason in answer.get("reasons").and_then(Value::as_array).into_iter().flatten() {
        let _ = writeln!(out, "  {}", text::escape(&sentence(reason)));
    }
    for warning in answer.get("warnings").and_then(Value::as_array).into_iter().flatten() {
        let _ = writeln!(out, "  warning: {}", text::escape(&sentence(warning)));
    }
    out
}

/// A reason is a text, or an object with a text in it.
fn sentence(reason: &Value) -> String {
    let text = |name: &str| reason.get(name).and_then(Value::as_str).map(str::to_owned);
    match (reason.as_str(), text("reason"), text("detail")) {
        (Some(reason), ..) => reason.to_owned(),
        (None, Some(reason), Some(detail)) if reason == "losing" => {
            format!("{reason}: {detail} (`fleetdrain losses` has which)")
        }
        (None, Some(reason), Some(detail)) => format!("{reason}: {detail}"),
        (None, Some(text), None) | (None, None, Some(text)) => text,
        (None, None, None) => reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_one_a_line() {
        let body = br#"{"status":"failing","reasons":["losing",{"reason":"refusing","detail":"memory"},{"x":1}]}"#;
        assert_eq!(verdict(false, body), "unhealthy\n  losing\n  refusing: memory\n  {\"x\":1}\n");
        let body = br#"{"reasons":[{"reason":"losing","detail":"3 lines"}]}"#;
        assert!(verdict(false, body).contains("losing: 3 lines (`fleetdrain losses`"));
        assert_eq!(verdict(true, b"ok"), "healthy\n");
        let body = br#"{"status":"ok","reasons":[],"warnings":["the old one stays\u001b"]}"#;
        assert_eq!(verdict(true, body), "healthy\n  warning: the old one stays\\x1b\n");
    }
}
