//! Signed links: what their holders may read, each rule of it, and nothing else.

use std::{
    net::SocketAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fleetdrain::{
    LogCollector, LogDrainServer,
    collector::CollectorConfig,
    config::{Config, SigningKeys},
};
use http_body_util::BodyExt;
use hyper::{Method, Response, StatusCode, body::Incoming};
use ring::hmac;
use serde_json::{Value, json};

use crate::{
    pki::scratch,
    soon,
    support::{
        Client,
        drain::{Drain, run},
    },
};

const KEY: &str = "a key of more than 32 bytes for tests";

struct Locked {
    collector: LogCollector,
    addr: SocketAddr,
    _server: LogDrainServer,
}

/// A drain with a token, `full`, and a signing key.
async fn locked() -> Locked {
    locked_with(|_| {}).await
}

async fn locked_with(set: impl FnOnce(&mut Config)) -> Locked {
    let mut config = Config::default();
    config.control.tokens = vec!["full".to_owned()];
    config.control.signing_keys = SigningKeys::parse(KEY).unwrap();
    set(&mut config);
    let collector = LogCollector::new(CollectorConfig::from(&config));
    let mut server = LogDrainServer::with_config(collector.clone(), config).host("127.0.0.1").control("127.0.0.1:0");
    server.start().await.unwrap();
    Locked { collector, addr: server.control_addr().unwrap(), _server: server }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A link's token, made here and not by what is tested.
fn token_of(key: &str, claims: &Value) -> String {
    let parts = [json!({ "alg": "HS256", "typ": "JWT" }), claims.clone()];
    let message = parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A token that is good for a minute.
fn link(mut claims: Value) -> String {
    claims["exp"] = (now() + 60).into();
    token_of(KEY, &claims)
}

fn record(machine: &str, app: &str, message: &str) -> Value {
    json!({ "fly": { "app": { "instance": machine, "name": app } }, "message": message })
}

struct Answer {
    response: Response<Incoming>,
    got: String,
}

impl Answer {
    fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    /// All of it.
    async fn text(mut self) -> String {
        // Keep-alives could go on for ever.
        soon(async { while self.more().await {} }).await;
        self.got
    }

    async fn json(self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    async fn more(&mut self) -> bool {
        let Some(frame) = soon(self.response.body_mut().frame()).await else { return false };
        self.got.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        true
    }

    /// What came up to and with `text`.
    async fn until(&mut self, text: &str) -> &str {
        let came = async {
            while !self.got.contains(text) {
                assert!(self.more().await, "{text} never came: {}", self.got);
            }
        };
        soon(came).await;
        &self.got
    }

    /// The messages of a stream that ends.
    async fn messages(self) -> Vec<String> {
        let text = self.text().await;
        let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.filter_map(|entry| Some(entry["message"].as_str()?.to_owned())).collect()
    }
}

impl Locked {
    fn push(&self, records: &[Value]) {
        let body: String = records.iter().map(|record| format!("{record}\n")).collect();
        let _ = self.collector.push(body).unwrap();
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let response = Client::connect(self.addr).await.send(method, path, headers, "").await;
        Answer { response, got: String::new() }
    }

    /// With a token as bearer.
    async fn ask(&self, token: &str, method: &str, path: &str) -> Answer {
        self.send(method, path, &[("authorization", &format!("Bearer {token}"))]).await
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.ask(token, "GET", path).await
    }
}

const LOGS_M1: &str = "/api/v1/machines/m1/logs?follow=false";
const TAIL: &str = "/api/v1/tail?follow=false&last=100";

/// Two machines of one app, and one of another.
fn two_apps(drain: &Locked) {
    drain.push(&[record("m1", "web", "1 of m1"), record("m2", "web", "1 of m2"), record("m3", "billing", "1 of m3")]);
    drain.push(&[record("m3", "billing", "2 of m3"), record("m1", "web", "2 of m1")]);
}

#[tokio::test]
async fn a_link_reads_its_machines_and_no_others() {
    let drain = locked().await;
    two_apps(&drain);
    let token = link(json!({ "machines": ["m1", "m3"] }));
    assert_eq!(drain.get(&token, LOGS_M1).await.messages().await, ["1 of m1", "2 of m1"]);
    let all = ["1 of m1", "1 of m3", "2 of m3", "2 of m1"];
    assert_eq!(drain.get(&token, TAIL).await.messages().await, all);
    let asked_for_more = format!("{TAIL}&machine=m1,m2&app=web");
    assert_eq!(drain.get(&token, &asked_for_more).await.messages().await, ["1 of m1", "2 of m1"]);
    for path in ["/api/v1/machines/m2/logs?follow=false", "/api/v1/machines/m2", "/api/v1/machines/never/logs"] {
        let answer = drain.get(&token, path).await;
        assert_eq!(answer.status(), 403, "{path}");
        let problem = answer.json().await;
        assert!(problem["detail"].as_str().unwrap().starts_with("this link is not for machine"), "{problem}");
    }
    let head = drain.ask(&token, "HEAD", "/api/v1/machines/m2/logs").await;
    assert_eq!(head.status(), 403);
    assert_eq!(drain.get(&token, "/api/v1/machines/m1").await.json().await["machine_id"], "m1");
}

#[tokio::test]
async fn machines_are_listed_only_as_far_as_the_link_goes() {
    let drain = locked().await;
    two_apps(&drain);
    let listed = async |token: &str, query: &str| {
        let page = drain.get(token, &format!("/api/v1/machines?sort=lines{query}")).await.json().await;
        let ids: Vec<_> = page["machines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["machine_id"].as_str().unwrap().to_owned())
            .collect();
        (ids, page["next"].as_str().map(str::to_owned))
    };
    assert_eq!(listed("full", "").await.0.len(), 3);
    assert_eq!(listed(&link(json!({ "apps": ["web"] })), "").await, (vec!["m1".into(), "m2".into()], None));
    let token = link(json!({ "machines": ["m2", "m3", "never"] }));
    let (first, next) = listed(&token, "&limit=1").await;
    let (second, last) = listed(&token, &format!("&limit=1&after={}", next.unwrap())).await;
    assert_eq!((first, second, last), (vec!["m3".into()], vec!["m2".into()], None), "pages have no gaps");
}

#[tokio::test]
async fn whatever_is_not_logs_tail_or_machines_is_403_for_a_link() {
    let drain = locked().await;
    two_apps(&drain);
    for token in [link(json!({ "machines": ["m1"] })), link(json!({ "apps": ["web"] }))] {
        for (method, path) in [
            ("GET", "/"),
            ("GET", "/api/v1/stats"),
            ("GET", "/api/v1/rejected"),
            ("GET", "/api/v1/explain/1-0-1-0"),
            ("GET", "/api/v1/openapi.json"),
            ("GET", "/api/v1/machines/m1/queue?follow=false"),
            ("HEAD", "/api/v1/machines/m1/queue"),
            ("PUT", "/api/v1/machines/m1"),
            ("DELETE", "/api/v1/machines/m1"),
            ("POST", "/api/v1/machines/m1/logs"),
            ("PUT", "/api/v1/tail"),
            ("OPTIONS", "/api/v1/tail"),
            ("DELETE", "/api/v1/machines"),
            ("GET", "/api/v1/nothing"),
        ] {
            let answer = drain.ask(&token, method, path).await;
            assert_eq!(answer.status(), 403, "{method} {path}");
        }
        for path in ["/metrics", "/livez", "/readyz", "/healthz"] {
            assert_eq!(drain.get(&token, path).await.status(), 200, "{path} needs no token at all");
        }
    }
    let facts = drain.get("full", "/api/v1/machines/m1").await.json().await;
    assert_eq!((&facts["state"], &facts["subscribed"]), (&"live".into(), &false.into()), "nothing was done either");
}

#[tokio::test]
async fn a_link_for_an_app_reads_its_lines_and_no_others() {
    let drain = locked().await;
    two_apps(&drain);
    drain.push(&[json!({ "instance": "m4", "message": "1 of m4, of no app" })]);
    let token = link(json!({ "apps": ["web", "other"] }));
    assert_eq!(drain.get(&token, TAIL).await.messages().await, ["1 of m1", "1 of m2", "2 of m1"]);
    assert_eq!(drain.get(&token, LOGS_M1).await.messages().await, ["1 of m1", "2 of m1"]);
    for machine in ["m3", "m4"] {
        for path in ["/logs?follow=false", ""] {
            let path = format!("/api/v1/machines/{machine}{path}");
            assert_eq!(drain.get(&token, &path).await.status(), 403, "{path}");
        }
    }
    assert_eq!(drain.get(&token, "/api/v1/machines/never").await.status(), 404);
}

#[tokio::test]
async fn of_a_machine_not_yet_seen_no_line_of_another_app_is_shown() {
    let drain = locked().await;
    let token = link(json!({ "apps": ["web"] }));
    let mut logs = drain.get(&token, "/api/v1/machines/later/logs").await;
    let mut tail = drain.get(&token, "/api/v1/tail").await;
    assert_eq!((logs.status(), tail.status()), (200, 200));
    drain.push(&[record("later", "billing", "secret"), record("later", "web", "first")]);
    drain.push(&[json!({ "instance": "later", "message": "of nobody" }), record("later", "billing", "secret too")]);
    drain.push(&[record("later", "web", "second")]);
    for stream in [&mut logs, &mut tail] {
        let got = stream.until("second").await;
        assert!(got.contains("first") && !got.contains("secret") && !got.contains("nobody"), "{got}");
        assert_eq!(got.lines().count(), 2, "{got}");
    }
}

#[tokio::test]
async fn of_a_machine_that_changed_its_app_only_the_apps_own_lines_are_shown() {
    let drain = locked().await;
    drain.push(&[record("m1", "billing", "before"), record("m1", "web", "since")]);
    let token = link(json!({ "apps": ["web"] }));
    assert_eq!(drain.get(&token, LOGS_M1).await.messages().await, ["since"]);
    assert_eq!(drain.get(&token, &format!("{LOGS_M1}&raw=true&last=2")).await.messages().await, ["since"]);
    assert_eq!(
        drain.get(&link(json!({ "apps": ["billing"] })), LOGS_M1).await.status(),
        403,
        "it is the other app's now"
    );
}

#[tokio::test]
async fn the_newest_lines_are_counted_among_those_that_may_be_shown() {
    let drain = locked().await;
    drain.push(&[record("m1", "web", "1"), record("m1", "web", "2"), record("m1", "web", "3")]);
    drain.push(&[record("m1", "billing", "secret"), record("m1", "billing", "secret"), record("m1", "web", "4")]);
    let token = link(json!({ "apps": ["web"] }));
    for path in ["/api/v1/machines/m1/logs?follow=false&last=2", "/api/v1/tail?follow=false&last=2"] {
        assert_eq!(drain.get(&token, path).await.messages().await, ["3", "4"], "{path}");
    }
}

#[tokio::test]
async fn a_link_for_some_streams_shows_no_others() {
    let drain = locked().await;
    let of = |stream: &str| json!({ "instance": "m1", "message": stream, "stream": stream });
    drain.push(&[
        of("stdout"),
        of("stderr"),
        of("custom"),
        of("system"),
        json!({ "instance": "m1", "message": "none named" }),
    ]);
    for (streams, shown) in [
        (json!(["stderr", "system"]), vec!["stderr", "system"]),
        (json!(["stdout"]), vec!["stdout", "none named"]),
        (json!(["custom"]), vec!["custom"]),
    ] {
        let token = link(json!({ "machines": ["m1"], "streams": streams }));
        for path in [LOGS_M1, TAIL] {
            assert_eq!(drain.get(&token, path).await.messages().await, shown, "{path}");
        }
        let asked_for_more = format!("{TAIL}&stream=stdout,stderr,custom,system");
        assert_eq!(drain.get(&token, &asked_for_more).await.messages().await, shown);
    }
}

#[tokio::test]
async fn a_token_in_a_url_is_a_links_and_for_streams_only() {
    let drain = locked().await;
    two_apps(&drain);
    let token = link(json!({ "machines": ["m1"] }));
    let with =
        |path: &str, token: &str| format!("{path}{}access_token={token}", if path.contains('?') { '&' } else { '?' });
    let bearer = format!("Bearer {token}");
    for path in [LOGS_M1, TAIL] {
        let answer = drain.send("GET", &with(path, &token), &[("accept", "text/event-stream")]).await;
        assert_eq!((answer.status(), answer.header("cache-control")), (200, Some("no-store")), "{path}");
        assert!(answer.text().await.contains("data: {\"machine_id\":\"m1\""));
        assert_eq!(drain.send("HEAD", &with(path, &token), &[]).await.status(), 200);
        // A full token never stands in a URL.
        assert_eq!(drain.send("GET", &with(path, "full"), &[]).await.status(), 401);
        for twice in [with(&with(path, &token), &token), with(path, &token)] {
            let headers: &[_] =
                if twice.matches("access_token").count() == 2 { &[] } else { &[("authorization", bearer.as_str())] };
            assert_eq!(drain.send("GET", &twice, headers).await.status(), 400, "{path}");
        }
    }
    for path in ["/api/v1/machines", "/api/v1/machines/m1", "/api/v1/stats", "/api/v1/machines/m1/queue"] {
        let answer = drain.send("GET", &with(path, &token), &[]).await;
        assert_eq!((answer.status(), answer.header("www-authenticate")), (401, Some("Bearer")), "{path}");
    }
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("x:{token}")));
    assert_eq!(
        drain.send("GET", LOGS_M1, &[("authorization", &basic)]).await.status(),
        401,
        "Bearer, and nothing else"
    );
    assert_eq!(
        drain.get("full", "/api/v1/machines/m2/logs?follow=false").await.status(),
        200,
        "full tokens are as they were"
    );
}

#[tokio::test]
async fn a_token_that_is_worth_nothing_is_401_and_not_repeated() {
    let drain = locked().await;
    two_apps(&drain);
    let claims = |exp: u64| json!({ "machines": ["m1"], "exp": exp });
    let week = 7 * 86_400;
    let good = token_of(KEY, &claims(now() + week - 60));
    assert_eq!(drain.get(&good, LOGS_M1).await.status(), 200);
    let (_, signature) = good.rsplit_once('.').unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let unsigned = format!("{none}.{}", URL_SAFE_NO_PAD.encode(claims(now() + 60).to_string()));
    for bad in [
        token_of(KEY, &claims(now() - 1)),
        token_of(KEY, &claims(now() + week + 60)),
        token_of("another key of more than 32 bytes, too", &claims(now() + 60)),
        token_of(KEY, &json!({ "exp": now() + 60 })),
        token_of(KEY, &json!({ "exp": now() + 60, "machines": ["m1"], "apps": ["web"] })),
        token_of(KEY, &json!({ "exp": now() + 60, "machines": ["m1"], "regions": ["lax"] })),
        format!("{unsigned}."),
        format!("{unsigned}.{signature}"),
        "a.b.c".to_owned(),
        "..".to_owned(),
        "fulL".to_owned(),
    ] {
        let in_url = format!("{LOGS_M1}&access_token={bad}");
        for answer in [drain.get(&bad, LOGS_M1).await, drain.send("GET", &in_url, &[]).await] {
            assert_eq!((answer.status(), answer.header("www-authenticate")), (401, Some("Bearer")), "{bad}");
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            let text = answer.text().await;
            assert!(!text.contains(&bad) && !text.contains("m1"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_link() {
    let drain = locked().await;
    drain.push(&[record("m1", "web", "hello")]);
    let token = token_of(KEY, &json!({ "machines": ["m1"], "exp": now() + 3 }));
    // All open before the first of them ends.
    let mut streams = Vec::new();
    for path in ["/api/v1/machines/m1/logs", "/api/v1/tail", "/api/v1/machines/m1/logs?total_timeout=1h"] {
        streams.push(drain.get(&token, path).await);
    }
    for stream in streams {
        assert_eq!(stream.status(), 200);
        let text = stream.text().await;
        assert!(text.ends_with("{\"event\":\"end\",\"reason\":\"total_timeout\"}\n"), "{text}");
    }
    assert_eq!(drain.get(&token, LOGS_M1).await.status(), 401);
}

#[tokio::test]
async fn a_signing_key_alone_locks_the_door_as_a_token_would() {
    let drain = locked_with(|config| config.control.tokens.clear()).await;
    two_apps(&drain);
    for path in ["/", "/api/v1/stats", LOGS_M1, TAIL, "/api/v1/machines", "/api/v1/machines/m1/queue"] {
        assert_eq!(drain.send("GET", path, &[]).await.status(), 401, "{path}");
        assert_eq!(drain.get("", path).await.status(), 401, "{path}");
    }
    for path in ["/metrics", "/livez", "/readyz", "/healthz"] {
        assert_eq!(drain.send("GET", path, &[]).await.status(), 200, "{path}");
    }
    let token = link(json!({ "machines": ["m1"] }));
    let elsewhere = [("origin", "https://evil.example"), ("authorization", &*format!("Bearer {token}"))];
    assert_eq!(
        drain.send("GET", LOGS_M1, &elsewhere).await.status(),
        200,
        "names and origins matter only without a lock"
    );
}

const PAGE: &str = "https://page.example";

#[tokio::test]
async fn a_page_of_a_known_origin_may_read_what_a_link_may_and_nothing_else() {
    let drain =
        locked_with(|config| config.control.cors_origins = vec!["http://other.example".into(), PAGE.into()]).await;
    two_apps(&drain);
    let token = link(json!({ "machines": ["m1"] }));
    let bearer = format!("Bearer {token}");
    let with_link = |path: &str| format!("{path}&access_token={token}");
    let allowed = "access-control-allow-origin";
    let preflight = |origin: &'static str, method: &'static str| {
        [
            ("origin", origin),
            ("access-control-request-method", method),
            ("access-control-request-headers", "authorization"),
        ]
    };
    for path in [LOGS_M1, TAIL, "/api/v1/machines", "/api/v1/machines/m1"] {
        let answer = drain.send("OPTIONS", path, &preflight(PAGE, "GET")).await;
        assert_eq!((answer.status(), answer.header(allowed)), (204, Some(PAGE)), "{path}");
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, HEAD"));
        assert_eq!(answer.header("access-control-allow-headers"), Some("Authorization, Last-Event-ID"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert_eq!(answer.header("vary"), Some("Origin"));
        let answer = drain.send("GET", path, &[("origin", PAGE), ("authorization", &bearer)]).await;
        assert_eq!((answer.status(), answer.header(allowed), answer.header("vary")), (200, Some(PAGE), Some("Origin")));
        // A page is to see why it gets nothing.
        let answer = drain.send("GET", path, &[("origin", PAGE)]).await;
        assert_eq!((answer.status(), answer.header(allowed)), (401, Some(PAGE)), "{path}");
        for origin in
            ["https://evil.example", "https://page.example.evil.example", "http://page.example", "null", "*", ""]
        {
            let answer = drain.send("OPTIONS", path, &preflight(origin, "GET")).await;
            assert_eq!((answer.status(), answer.header(allowed)), (401, None), "{path} {origin}");
            let answer = drain.send("GET", path, &[("origin", origin), ("authorization", &bearer)]).await;
            assert_eq!((answer.header(allowed), answer.header("vary")), (None, Some("Origin")), "{path} {origin}");
        }
        for method in ["PUT", "DELETE", "POST"] {
            let answer = drain.send("OPTIONS", path, &preflight(PAGE, method)).await;
            assert_eq!((answer.status(), answer.header(allowed)), (401, None), "{path} {method}");
            let answer = drain.send(method, path, &[("origin", PAGE), ("authorization", "Bearer full")]).await;
            assert_eq!(answer.header(allowed), None, "{method} {path}");
        }
        let two = drain.send("GET", path, &[("origin", PAGE), ("origin", PAGE), ("authorization", &bearer)]).await;
        assert_eq!(two.header(allowed), None);
    }
    for path in ["/", "/api/v1/stats", "/api/v1/machines/m1/queue", "/metrics", "/healthz", "/nothing"] {
        let answer = drain.send("OPTIONS", path, &preflight(PAGE, "GET")).await;
        assert_eq!(answer.header(allowed), None, "{path}");
        let answer = drain.send("GET", path, &[("origin", PAGE), ("authorization", "Bearer full")]).await;
        assert_eq!(answer.header(allowed), None, "{path}");
    }
    // An EventSource: no preflight, no head of its own.
    let answer = drain.send("GET", &with_link(LOGS_M1), &[("origin", PAGE), ("accept", "text/event-stream")]).await;
    assert_eq!((answer.status(), answer.header(allowed)), (200, Some(PAGE)));
}

#[tokio::test]
async fn without_a_lock_no_page_reads_a_developers_logs_whatever_its_origin() {
    let drain = locked_with(|config| {
        config.control.tokens.clear();
        config.control.signing_keys = SigningKeys::default();
        config.control.cors_origins = vec![PAGE.into()];
    })
    .await;
    for method in ["GET", "OPTIONS"] {
        let answer = drain.send(method, TAIL, &[("origin", PAGE), ("access-control-request-method", "GET")]).await;
        assert_eq!((answer.status(), answer.header("access-control-allow-origin")), (403, None), "{method}");
    }
    let with_a_link = format!("{TAIL}&access_token={}", link(json!({ "machines": ["m1"] })));
    assert_eq!(drain.send("GET", &with_a_link, &[]).await.status(), 200, "a link's URL works before an open door too");
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What `fleetdrain link` prints, one line each.
fn minted(args: &[&str], env: &[(&str, &str)]) -> Vec<String> {
    let (code, out, err) = run(&[&["link"], args].concat(), env);
    assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
    out.lines().map(str::to_owned).collect()
}

async fn status(addr: SocketAddr, path: &str, token: &str) -> StatusCode {
    let bearer = format!("Bearer {token}");
    Client::connect(addr).await.send(Method::GET, path, &[("authorization", &bearer)], "").await.status()
}

#[tokio::test]
async fn links_are_minted_and_their_keys_rotated() {
    const NEW: &str = "the next key, of more than 32 bytes too";
    let dir = scratch("rotation");
    let keys = write(&dir, "keys", KEY);
    let env = [("FLEETDRAIN_CONTROL__SIGNING_KEY_FILE", keys.as_str())];
    let mut drain = Drain::start(&env);
    let addr = drain.control;
    let posted = Client::connect(drain.ingest).await.post(&[], record("m 1", "web", "hello").to_string()).await;
    assert_eq!(posted.0, StatusCode::OK);
    let logs = "/api/v1/machines/m%201/logs?follow=false";

    let base = format!("http://{addr}");
    let old = minted(&["-m", "m 1", "--ttl", "7d", "--url", &base], &env);
    assert_eq!((old.len(), status(addr, logs, &old[0]).await), (2, StatusCode::OK));
    assert_eq!(old[1], format!("{base}/api/v1/machines/m%201/logs?access_token={}", old[0]));
    let path = old[1].strip_prefix(&base).unwrap();
    assert!(crate::support::text(addr, &format!("{path}&follow=false")).await.contains("hello"));
    let (code, out, err) = run(&["tail", "-n", "--url", &base], &[("FLEETDRAIN_TOKEN", &old[0])]);
    assert!(code == 0 && out.contains("hello"), "{code} {out} {err}");
    let tail = minted(&["-a", "web", "-a", "other", "--url", &base], &env);
    assert!(tail[1].starts_with(&format!("{base}/api/v1/tail?access_token=")), "{tail:?}");
    let stderr_only = minted(&["--app", "web", "--streams", "stderr,system", "--key-file", &keys], &[]);
    let (code, out, _) = run(&["tail", "-n", "--url", &base], &[("FLEETDRAIN_TOKEN", &stderr_only[0])]);
    assert_eq!((code, out.as_str()), (0, ""));

    // The new key signs, the old one still vouches.
    write(&dir, "keys", &format!("{NEW}\n{KEY}\n"));
    drain.signal("-HUP");
    drain.says("reloaded");
    let new = minted(&["-m", "m 1"], &env);
    for token in [&old[0], &new[0]] {
        assert_eq!(status(addr, logs, token).await, StatusCode::OK);
    }
    // A bad key keeps them both.
    write(&dir, "keys", "short");
    drain.signal("-HUP");
    assert!(drain.says("the old one stays").contains("has 5 bytes, at least 32 are needed"));
    assert_eq!(status(addr, logs, &old[0]).await, StatusCode::OK);
    write(&dir, "keys", NEW);
    drain.signal("-HUP");
    drain.says("reloaded");
    assert_eq!(status(addr, logs, &old[0]).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(addr, logs, &new[0]).await, StatusCode::OK);
}

#[test]
fn a_link_that_cannot_be_minted_is_a_usage_error_that_names_the_bound() {
    let keys = write(&scratch("usage"), "keys", KEY);
    let long = "x".repeat(129);
    for (args, expected) in [
        (vec!["--key-file", &keys], "--machine"),
        (vec!["--key-file", &keys, "-m", "a", "-a", "b"], "cannot be used with"),
        (vec!["--key-file", &keys, "-m", "a", "--ttl", "8d"], "not between 1s and 7d"),
        (vec!["--key-file", &keys, "-m", "a", "--ttl", "999ms"], "not between 1s and 7d"),
        (vec!["--key-file", &keys, "-m", "a", "--ttl", "5"], "not a duration"),
        (vec!["--key-file", &keys, "-m", "a", "--streams", "stdour"], "stdour"),
        (vec!["--key-file", &keys, "-m", &long], "1 to 128 bytes, not 129"),
        (vec!["--key-file", &keys, "-a", ""], "an empty name"),
        (vec!["--key-file", &keys, "-m", "a", "--url", "ftp://x"], "http or https"),
        (vec!["-m", "a"], "there is no key to sign with"),
    ] {
        let (code, out, err) = run(&[vec!["link"], args].concat(), &[]);
        assert!(code == 64 && out.is_empty() && err.contains(expected), "{code} {err}");
    }
    let (code, _, err) = run(&["link", "-m", "a", "--key-file", "/nowhere"], &[]);
    assert!(code == 78 && err.contains("cannot read /nowhere"), "{code} {err}");
}

#[tokio::test]
async fn no_token_is_ever_logged() {
    let keys = write(&scratch("logged"), "keys", KEY);
    let env = [("FLEETDRAIN_CONTROL__SIGNING_KEY_FILE", keys.as_str()), ("FLEETDRAIN_LOG__LEVEL", "trace")];
    let drain = Drain::start(&env);
    let token = link(json!({ "machines": ["m1"] }));
    let wrong = format!("{token}x");
    for path in [
        format!("{LOGS_M1}&access_token={token}"),
        format!("{LOGS_M1}&access_token={wrong}"),
        format!("{LOGS_M1}&access_token={token}&access_token={token}"),
        format!("/api/v1/stats?access_token={token}"),
        format!("{LOGS_M1}&last=x&access_token={token}"),
    ] {
        let response = Client::connect(drain.control).await.send(Method::GET, &path, &[], "").await;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(!String::from_utf8_lossy(&body).contains(&token), "an answer does not repeat it either");
        status(drain.control, LOGS_M1, &wrong).await;
    }
    drain.signal("-TERM");
    let (code, said) = drain.wait();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("shutting down"), "it does log: {said}");
    let claims = token.split('.').nth(1).unwrap();
    assert!(!said.contains(claims) && !said.contains(KEY), "{said}");
}
