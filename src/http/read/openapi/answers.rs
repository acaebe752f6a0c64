//! What answers look like: a media type and a schema for each.

use serde_json::{Map, Value, json};

use crate::http::read::routes::{Call, Operation, Route};

/// The answers of an operation by their statuses: its own, and the errors that a call of its kind may give.
pub(super) fn of(route: &Route, operation: &Operation) -> Map<String, Value> {
    let own = operation.answers.iter().map(|(status, what)| {
        let mut answer = json!({ "description": what });
        if let Some(content) = content(route.call, *status) {
            answer["content"] = content;
        }
        (status.to_string(), answer)
    });
    let mut answers: Map<String, Value> = own.collect();
    for status in errors(route) {
        answers.entry(status).or_insert_with(|| json!({ "$ref": "#/components/responses/problem" }));
    }
    answers
}

/// 403: a web page of another origin is turned away from everything while there is no token.
fn errors(route: &Route) -> impl Iterator<Item = &'static str> {
    let has_id = route.path.contains("{id}");
    let locked = (!route.open).then_some(["400", "401"]).into_iter().flatten();
    locked.chain(["403"]).chain(has_id.then_some("404"))
}

fn content(call: Call, status: u16) -> Option<Value> {
    if status == 204 {
        return None;
    }
    let is_verdict = matches!(call, Call::Livez | Call::Readyz | Call::Healthz);
    if status >= 400 && !is_verdict {
        return Some(json!({ "application/problem+json": { "schema": schema("problem") } }));
    }
    let text = json!({ "schema": { "type": "string" } });
    Some(match call {
        Call::Index => json!({ "text/html": text }),
        Call::Metrics => json!({ "text/plain": text }),
        Call::Queue | Call::Logs | Call::Tail => {
            json!({ "application/x-ndjson": text, "text/event-stream": text, "text/plain": text })
        }
        call => json!({ "application/json": { "schema": of_document(call) } }),
    })
}

fn of_document(call: Call) -> Value {
    match call {
        Call::Machine => schema("machine"),
        Call::Machines => object(&[("machines", list(&schema("machine"))), ("next", nullable("string"))]),
        Call::Livez | Call::Readyz | Call::Healthz => schema("verdict"),
        Call::Rejected => object(&[("rejected", list(&schema("rejected")))]),
        Call::Losses => object(&[
            ("losses", list(&schema("loss"))),
            ("kept", json!({ "enum": ["disk", "memory"] })),
            ("complete_since", nullable("string")),
        ]),
        Call::Sinks => object(&[("sinks", list(&schema("sink")))]),
        Call::PauseSink | Call::ResumeSink => schema("sink"),
        Call::RewindSink => {
            object(&[("dry_run", of_type("boolean")), ("from", nullable("string")), ("lines", of_type("integer"))])
        }
        _ => of_type("object"),
    }
}

/// The schemas that answers share.
pub(super) fn schemas() -> Value {
    let [text, count, number] = ["string", "integer", "number"].map(of_type);
    let [maybe_text, maybe_count, maybe_number] = ["string", "integer", "number"].map(nullable);
    let reason = object(&[("reason", text.clone()), ("detail", text.clone())]);
    json!({
        "problem": object(&[
            ("type", text.clone()), ("title", text.clone()), ("status", count.clone()), ("detail", text.clone()),
        ]),
        "verdict": {
            "type": "object",
            "required": ["status"],
            "properties": {
                "status": { "enum": ["ok", "failing"] }, "reasons": list(&reason), "warnings": list(&text),
            },
        },
        "machine": object(&[
            ("machine_id", text.clone()),
            ("state", json!({ "enum": ["live", "finished"] })),
            ("finishes_at", maybe_text.clone()),
            ("app_name", text.clone()),
            ("region", text.clone()),
            ("lines", count.clone()),
            ("bytes", count.clone()),
            ("dropped", count.clone()),
            ("lines_per_second", number.clone()),
            ("bytes_per_second", number.clone()),
            ("subscribed", of_type("boolean")),
            ("full", maybe_text.clone()),
            ("queue_lines", count.clone()),
            ("queue_bytes", count.clone()),
            ("readers", count.clone()),
            ("lag_seconds", number.clone()),
            ("latency_p50_seconds", maybe_number.clone()),
            ("latency_p99_seconds", maybe_number.clone()),
            ("last_seen", maybe_text.clone()),
        ]),
        "rejected": object(&[
            ("time", text.clone()), ("reason", text.clone()), ("record", count.clone()), ("line", count.clone()),
            ("bytes", text.clone()), ("detail", maybe_text.clone()),
        ]),
        "loss": object(&[("reason", text.clone()), ("lines", maybe_count)]),
        "sink": object(&[
            ("name", text.clone()),
            ("type", text.clone()),
            ("state", text),
            ("lines_in", count.clone()),
            ("lines_delivered", count.clone()),
            ("lines_dropped", count.clone()),
            ("lines_in_flight", count),
            ("lag_seconds", number),
            ("last_success_timestamp_seconds", maybe_number),
            ("last_error", maybe_text),
        ]),
    })
}

fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn of_type(name: &str) -> Value {
    json!({ "type": name })
}

fn nullable(name: &str) -> Value {
    json!({ "type": [name, "null"] })
}

fn list(of: &Value) -> Value {
    json!({ "type": "array", "items": of })
}

/// An object that always has these; more may come with a later version.
fn object(members: &[(&str, Value)]) -> Value {
    let names: Vec<_> = members.iter().map(|(name, _)| name).collect();
    let properties: Map<String, Value> =
        members.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "required": names, "properties": properties })
}
