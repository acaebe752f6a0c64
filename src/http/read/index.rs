//! `GET /`: what is here, as a page that works without scripts and asks nobody else for anything.

use std::{fmt::Write, sync::LazyLock};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{
    HeaderMap, Response,
    header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue, REFERRER_POLICY},
};
use ring::digest::{SHA256, digest};

use super::routes::{Operation, ROUTES, Route};
use crate::http::{Body, full};

/// How the page looks: the policy allows this very text and no other.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:1rem/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #8886}\
code,pre{font:.875rem/1.5 ui-monospace,monospace}\
pre{overflow-x:auto;padding:.75rem 1rem;border:1px solid #8886;border-radius:.25rem}";

/// What the examples ask, where a request does not say what it asked.
const HERE: &str = "http://127.0.0.1:8081";

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const EXAMPLES: &str = r#"export FLEETDRAIN_URL=http://127.0.0.1:8081 FLEETDRAIN_TOKEN=      # this listener; its token if it has one
drain() { curl -sS -H "Authorization: Bearer $FLEETDRAIN_TOKEN" "$@"; }

drain "$FLEETDRAIN_URL/api/v1/machines?sort=lines&limit=10"        # who is loud
drain -N "$FLEETDRAIN_URL/api/v1/tail?include=panic"               # follow all machines
drain -N -H 'Accept: text/plain' "$FLEETDRAIN_URL/api/v1/tail"     # the messages alone
drain -N "$FLEETDRAIN_URL/api/v1/machines/4d891d77b05118/logs"     # one machine, to its end
drain "$FLEETDRAIN_URL/api/v1/losses?since=24h"                    # what was lost, and why
drain -X PUT "$FLEETDRAIN_URL/api/v1/machines/4d891d77b05118"      # subscribe: a queue of its own
drain -N "$FLEETDRAIN_URL/api/v1/machines/4d891d77b05118/queue"    # take from it"#;

static PAGE: LazyLock<String> = LazyLock::new(page);

/// Nothing is loaded, sent or framed; the icon is an empty `data:` URL, so that browsers do not ask for `/favicon.ico`.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).expect("a policy of base64 and words is header text")
});

/// The page, with the headers that keep it to itself, for a request with `asked` to a listener that speaks TLS or not.
pub(super) fn answer(asked: &HeaderMap, speaks_tls: bool) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(PAGE.replace(HERE, &url(asked, speaks_tls)))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Where the page was asked for, if that can stand in the page and in a shell as it is: nothing but a host and a port.
fn url(asked: &HeaderMap, speaks_tls: bool) -> String {
    let host = asked.get(HOST).and_then(|host| host.to_str().ok());
    let is_plain = |host: &&str| {
        let mut bytes = host.bytes();
        (1..=255).contains(&host.len()) && bytes.all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    };
    // A proxy that ends TLS says so.
    let is_https = speaks_tls || asked.get(X_FORWARDED_PROTO).is_some_and(|proto| proto == "https");
    match host.filter(is_plain) {
        Some(host) if is_https => format!("https://{host}"),
        Some(host) => format!("http://{host}"),
        None => HERE.to_owned(),
    }
}

fn page() -> String {
    let rows: String =
        ROUTES.iter().flat_map(|route| route.operations.iter().map(move |one| row(route, one))).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>fleetdrain</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>fleetdrain {version}</h1>\n\
         <p>The control listener of a log drain: here logs are read. Senders post to the other listener.</p>\n\
         <h2>What is here</h2>\n<table>\n<tr><th>call</th><th>what it does</th></tr>\n{rows}</table>\n\
         <p><code>logs</code> and <code>tail</code> look: any number of readers, and none disturbs another. <code>queue</code> \
         consumes: each line goes to one reader. With a token set, all but the calls marked <em>open</em> need it.</p>\n\
         <h2>Ask</h2>\n<pre>{examples}</pre>\n\
         <p>Or with the program itself, which reads the same two variables: <code>fleetdrain tail</code>, \
         <code>fleetdrain machines</code>, <code>fleetdrain stats</code>, <code>fleetdrain losses</code>, \
         <code>fleetdrain health</code>.</p>\n</body>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
        examples = escaped(EXAMPLES),
    )
}

fn row(route: &Route, one: &Operation) -> String {
    let mut call = escaped(&format!("{} {}", one.method, route.path));
    if leads_to_a_document(route, one) {
        call = format!("<a href=\"{}\">{call}</a>", escaped(route.path));
    }
    let mut row = format!("<tr><td><code>{call}</code></td><td>{}", escaped(one.what));
    if route.open {
        row.push_str(" <em>(open)</em>");
    }
    let names: Vec<_> = one.parameters.iter().map(|parameter| parameter.name).collect();
    if !names.is_empty() {
        let _ = write!(row, "<br><small>takes {}</small>", escaped(&names.join(", ")));
    }
    row + "</td></tr>\n"
}

/// Whether a click on it shows something and ends: a path that names a machine does not, nor does a stream.
fn leads_to_a_document(route: &Route, one: &Operation) -> bool {
    one.method == "GET" && !route.path.contains('{') && !route.call.is_stream()
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_on_the_page() {
        let page = page();
        for route in ROUTES {
            for one in route.operations {
                let call = escaped(&format!("{} {}", one.method, route.path));
                assert!(page.contains(&call), "{call}");
                assert!(page.contains(&escaped(one.what)), "{call}");
            }
        }
    }

    #[test]
    fn the_examples_ask_where_the_page_was_asked_for() {
        assert!(PAGE.contains(&format!("FLEETDRAIN_URL={HERE} ")));
        let asked = |host: &[u8], proto: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_bytes(host).unwrap());
            headers.insert(X_FORWARDED_PROTO, proto.parse().unwrap());
            headers
        };
        for host in ["drain.internal", "127.0.0.1:19081", "[fdaa::3]:8081"] {
            assert_eq!(url(&asked(host.as_bytes(), ""), false), format!("http://{host}"));
            assert_eq!(url(&asked(host.as_bytes(), ""), true), format!("https://{host}"));
            assert_eq!(url(&asked(host.as_bytes(), "https"), false), format!("https://{host}"));
        }
        let long = "a".repeat(256);
        for host in ["", "<b>", "a b", "a;id", "$(id)", "`id`", "a'b", "a\"b", "a&b", "a/b", "user@a", &long] {
            assert_eq!(url(&asked(host.as_bytes(), ""), false), HERE, "{host}");
        }
        assert_eq!(url(&asked(b"\xff", ""), false), HERE);
        assert_eq!(url(&HeaderMap::new(), false), HERE);
    }

    #[test]
    fn nothing_that_is_told_can_become_markup() {
        assert_eq!(escaped("<a href=\"x\">'&'"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;");
    }
}
