//! `GET /`: the page that lists what is here.

use std::process::Command;

use hyper::{Method, StatusCode};

use crate::support::{Client, drain::Drain, text};

/// The values of an attribute, in the order of the page.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let start = format!(" {attribute}=\"");
    page.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[tokio::test]
async fn the_page_is_locked_to_itself() {
    let drain = Drain::start(&[]);
    let response = Client::connect(drain.control).await.send(Method::GET, "/", &[], "").await;
    assert_eq!(response.status(), StatusCode::OK);
    let header = |name: &str| response.headers()[name].to_str().unwrap();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("referrer-policy"), "no-referrer");
    let policy = header("content-security-policy");
    for rule in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
        assert!(policy.split("; ").any(|told| told == rule), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{policy}");
}

#[tokio::test]
async fn the_page_loads_nothing_and_runs_nothing() {
    let drain = Drain::start(&[]);
    let page = text(drain.control, "/").await;
    for tag in ["<script", "<img", "<iframe", "<object", "<form", "<base", "http-equiv"] {
        assert!(!page.contains(tag), "{tag}");
    }
    assert_eq!(values(&page, "src"), [""; 0]);
    for link in values(&page, "href") {
        assert!(link == "data:," || link.starts_with('/') && !link.starts_with("//"), "{link}");
    }
    let hosts: Vec<_> =
        page.split("http").skip(1).filter_map(|rest| rest.split_once("://")?.1.split(['/', ' ']).next()).collect();
    assert_eq!(hosts, [drain.control.to_string()], "only the examples', which ask where they were asked for");
}

#[tokio::test]
async fn every_link_of_the_page_answers() {
    let drain = Drain::start(&[]);
    let page = text(drain.control, "/").await;
    let links: Vec<_> = values(&page, "href").into_iter().filter(|link| *link != "data:,").collect();
    for expected in ["/metrics", "/healthz", "/api/v1/machines", "/api/v1/stats", "/api/v1/openapi.json"] {
        assert!(links.contains(&expected), "{links:?}");
    }
    for link in links {
        text(drain.control, link).await;
    }
}

#[tokio::test]
async fn with_a_token_the_page_needs_it() {
    let drain = Drain::start(&[("FLEETDRAIN_CONTROL__TOKEN", "secret")]);
    let mut client = Client::connect(drain.control).await;
    for (headers, status) in [(vec![], 401), (vec![("authorization", "Bearer secret")], 200)] {
        assert_eq!(client.send(Method::GET, "/", &headers, "").await.status(), status);
    }
}

/// The commands in the page's example, such that they end when they have shown what there is.
fn examples(page: &str, token: &str) -> String {
    let (_, pre) = page.split_once("<pre>").unwrap();
    let pre = pre.split_once("</pre>").unwrap().0;
    let script = ["&lt;<", "&gt;>", "&quot;\"", "&#39;'", "&amp;&"].iter().fold(pre.to_owned(), |script, pair| {
        let (escape, plain) = pair.split_once(';').unwrap();
        script.replace(&format!("{escape};"), plain)
    });
    let script = script.replace("FLEETDRAIN_TOKEN= ", &format!("FLEETDRAIN_TOKEN={token} "));
    let script = script.replace("/tail?", "/tail?follow=false&");
    ["/tail\"", "/logs\"", "/queue\""]
        .iter()
        .fold(script, |script, end| script.replace(end, &format!("{}?follow=false\"", end.trim_end_matches('"'))))
}

#[tokio::test]
#[ignore = "needs curl"]
async fn the_examples_of_the_page_work_as_they_stand() {
    for token in ["", "secret"] {
        let env = [("FLEETDRAIN_CONTROL__TOKEN", token)];
        let drain = Drain::start(if token.is_empty() { &[] } else { &env });
        let authorization = format!("Bearer {token}");
        let mut client = Client::connect(drain.control).await;
        let response = client.send(Method::GET, "/", &[("authorization", &authorization)], "").await;
        let page = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        let script = examples(std::str::from_utf8(&page).unwrap(), token);
        // What each call answers, and nothing else.
        let told = "curl() { command curl -o /dev/null -w '%{http_code}\\n' \"$@\"; }";
        let output = Command::new("bash").args(["-euc", &format!("{told}\n{script}")]).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(
            out.split_whitespace().collect::<Vec<_>>(),
            ["200", "200", "200", "200", "200", "201", "200"],
            "{script}\n{err}"
        );
    }
}

#[tokio::test]
#[ignore = "needs chromium"]
async fn a_browser_shows_the_page_and_complains_of_nothing() {
    let drain = Drain::start(&[]);
    let profile = std::env::temp_dir().join(format!("fleetdrain-chromium-{}", drain.control.port()));
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--enable-logging=stderr", "--log-level=0", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("http://{}/", drain.control))
        .output()
        .unwrap();
    let _ = std::fs::remove_dir_all(profile);
    let (page, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(page.contains("<h1>fleetdrain ") && page.contains("<a href=\"/metrics\">"), "{page}\n{log}");
    let complaints: Vec<_> =
        log.lines().filter(|line| line.contains("CONSOLE") || line.contains("Content Security")).collect();
    assert_eq!(complaints, [""; 0]);
}
