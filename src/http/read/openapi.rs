//! `openapi.json`: the route table in OpenAPI 3.1, so that the two cannot disagree.

mod answers;

use serde_json::{Map, Value, json};

use super::{
    access::ACCESS_TOKEN,
    params::{Form, Parameter},
    routes::{Call, Operation, ROUTES, Route},
};

/// The document.
pub(super) fn document() -> Value {
    let paths: Map<String, Value> = ROUTES.iter().map(|route| (route.path.to_owned(), path(route))).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "fleetdrain control API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "logs and tail look without disturbing; queue consumes: each line goes to one reader.",
        },
        "security": [{ "bearer": [] }, { "basic": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "basic": { "type": "http", "scheme": "basic", "description": "the token is the password" },
                "link": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "a signed link's token: only what the link is for",
                },
                "link_in_query": { "type": "apiKey", "in": "query", "name": ACCESS_TOKEN },
            },
            "schemas": answers::schemas(),
            "responses": {
                "problem": {
                    "description": "an error",
                    "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/problem" } } },
                },
            },
        },
    })
}

fn path(route: &Route) -> Value {
    let mut path: Map<String, Value> =
        route.operations.iter().map(|one| (one.method.to_ascii_lowercase(), operation(route, one))).collect();
    if route.path.contains("{id}") {
        let id = json!({ "type": "string", "minLength": 1, "maxLength": crate::collector::MACHINE_ID_BYTES_MAX });
        let whose = match route.call {
            Call::PauseSink | Call::ResumeSink | Call::RewindSink => "the sink's name",
            Call::Explain => "the entry's id, as readers are told it",
            _ => "the machine's id",
        };
        path.insert(
            "parameters".into(),
            json!([{ "name": "id", "in": "path", "required": true, "description": whose, "schema": id }]),
        );
    }
    path.into()
}

fn operation(route: &Route, operation: &Operation) -> Value {
    let mut document = json!({
        "operationId": format!("{}{:?}", operation.method.to_ascii_lowercase(), route.call),
        "summary": operation.what,
        "parameters": in_query(operation).map(parameter).collect::<Vec<_>>(),
        "responses": answers::of(route, operation),
    });
    if route.open {
        document["security"] = json!([]);
    } else if operation.method == "GET" && route.call.is_for_links() {
        document["security"] = json!([{ "bearer": [] }, { "basic": [] }, { "link": [] }]);
        if route.call.is_stream() {
            document["security"] = json!([{ "bearer": [] }, { "basic": [] }, { "link": [] }, { "link_in_query": [] }]);
        }
    }
    document
}

const STREAMS: &str = "^(all|(stdout|stderr|system)(,(stdout|stderr|system))*)$";

/// A secret is told as a way to get in, not as a parameter.
fn in_query(operation: &Operation) -> impl Iterator<Item = &'static Parameter> {
    operation.parameters.iter().copied().filter(|parameter| parameter.form != Form::Secret)
}

fn parameter(parameter: &Parameter) -> Value {
    let schema = match parameter.form {
        // Several units may stand together, as in 1h30m, and the bound is 366d: a pattern that says less than is taken.
        Form::Duration => json!({ "type": "string", "pattern": "^[0-9]{1,6}(ms|s)$|^[0-9]{1,3}(m|h)$|^[0-9]{1,2}d$" }),
        Form::Count => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
        Form::CountFrom1(most) => json!({ "type": "integer", "minimum": 1, "maximum": most }),
        Form::Streams => json!({ "type": "string", "pattern": STREAMS }),
        Form::Flag => json!({ "type": "boolean" }),
        Form::OneOf(words) => json!({ "type": "string", "enum": words }),
        Form::List => json!({ "type": "array", "items": { "type": "string" } }),
        Form::Text | Form::Secret => json!({ "type": "string" }),
    };
    let mut document =
        json!({ "name": parameter.name, "in": "query", "description": parameter.what, "schema": schema });
    if parameter.form == Form::List {
        document["explode"] = false.into();
    }
    if parameter.required {
        document["required"] = true.into();
    }
    document
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_route_and_parameter_is_told() {
        let document = document();
        let mut ids = HashSet::new();
        for route in ROUTES {
            for one in route.operations {
                let told = &document["paths"][route.path][one.method.to_ascii_lowercase()];
                assert_eq!(told["summary"], one.what, "{} {}", one.method, route.path);
                assert_eq!(told["parameters"].as_array().unwrap().len(), in_query(one).count());
                assert!(told["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2')));
                assert!(ids.insert(told["operationId"].as_str().unwrap().to_owned()));
            }
        }
        let ways = |path: &str, method: &str| document["paths"][path][method]["security"].as_array().map(Vec::len);
        assert_eq!(ways("/api/v1/tail", "get"), Some(4));
        assert_eq!(ways("/api/v1/machines", "get"), Some(3));
        assert_eq!(ways("/api/v1/machines/{id}", "put"), None);
        assert_eq!(ways("/metrics", "get"), Some(0));
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["paths"].as_object().unwrap().len(), ROUTES.len());
    }

    #[test]
    fn every_answer_has_its_own_status() {
        let document = document();
        let statuses = |path: &str, method: &str| {
            let responses = document["paths"][path][method]["responses"].as_object().unwrap();
            responses.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(statuses("/metrics", "get"), "200 403");
        assert_eq!(statuses("/api/v1/stats", "get"), "200 400 401 403");
        assert_eq!(statuses("/api/v1/machines/{id}", "put"), "200 201 400 401 403 404 409 503");
        assert_eq!(statuses("/api/v1/sinks/{id}/rewind", "post"), "200 400 401 403 404 409 503");
        let machine = &document["paths"]["/api/v1/machines/{id}"]["get"]["responses"]["200"];
        assert_eq!(machine["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/machine");
    }

    #[test]
    fn the_calls_of_the_contract_are_all_there() {
        let contract = [
            ("/", "get"),
            ("/metrics", "get"),
            ("/livez", "get"),
            ("/readyz", "get"),
            ("/healthz", "get"),
            ("/api/v1/stats", "get"),
            ("/api/v1/machines", "get"),
            ("/api/v1/machines/{id}", "get"),
            ("/api/v1/machines/{id}", "put"),
            ("/api/v1/machines/{id}", "delete"),
            ("/api/v1/machines/{id}/queue", "get"),
            ("/api/v1/machines/{id}/logs", "get"),
            ("/api/v1/tail", "get"),
            ("/api/v1/rejected", "get"),
            ("/api/v1/losses", "get"),
            ("/api/v1/explain/{id}", "get"),
            ("/api/v1/sinks", "get"),
            ("/api/v1/sinks/{id}/pause", "post"),
            ("/api/v1/sinks/{id}/resume", "post"),
            ("/api/v1/sinks/{id}/rewind", "post"),
            ("/api/v1/openapi.json", "get"),
        ];
        let document = document();
        for (path, method) in contract {
            assert!(document["paths"][path][method].is_object(), "{method} {path}");
        }
    }
}
