//! TLS: what is spoken, what a handshake may cost, and certificates that change.

use std::{net::SocketAddr, time::Duration};

use fleetdrain::{
    LogCollector, LogDrainServer,
    config::{Config, Identity},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    SOON,
    pki::{Pki, handshake, scratch, shown},
    soon,
    support::drain::{Drain, run},
};

const HOUR: Duration = Duration::from_secs(3600);

struct Secured {
    pki: Pki,
    server: LogDrainServer,
    ingest: SocketAddr,
    control: SocketAddr,
}

/// A drain whose two listeners speak TLS.
async fn secured(set: impl FnOnce(&mut Config)) -> Secured {
    let pki = Pki::new();
    let issued = pki.issue(2100);
    let identity = Identity::from_pem(issued.certificate.as_bytes(), issued.key.as_bytes()).unwrap();
    let mut config = Config::default();
    (config.ingest.identity, config.control.identity) = (Some(identity.clone()), Some(identity));
    set(&mut config);
    let mut server =
        LogDrainServer::with_config(LogCollector::default(), config).host("127.0.0.1").control("127.0.0.1:0");
    server.start().await.unwrap();
    let (ingest, control) = (server.ingest_addr().unwrap(), server.control_addr().unwrap());
    Secured { pki, server, ingest, control }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn post(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Everything that comes until the far side has closed.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset closes too.
    let _ = soon(stream.read_to_end(&mut rest)).await;
    rest
}

#[tokio::test]
async fn both_listeners_speak_tls_and_http_1_1_only() {
    let drain = secured(|_| {}).await;
    assert!(drain.server.url().unwrap().starts_with("https://"));
    let answer = drain.pki.ask(drain.ingest, &post(r#"{"instance":"m","message":"hello"}"#)).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""received":1"#), "{answer}");
    let answer = drain.pki.ask(drain.control, &get("/api/v1/machines/m/logs?follow=false")).await;
    assert!(answer.contains("hello") && answer.contains("caught_up"), "{answer}");
    for addr in [drain.ingest, drain.control] {
        let both = handshake(&drain.pki.client(&["h2", "http/1.1"]), addr).await.unwrap();
        assert_eq!(both.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let none = handshake(&drain.pki.client(&[]), addr).await.unwrap();
        assert_eq!(none.get_ref().1.alpn_protocol(), None);
        let error = handshake(&drain.pki.client(&["h2"]), addr).await.unwrap_err();
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
        assert!(handshake(&Pki::new().client(&[]), addr).await.is_err(), "it shows what its authority has signed");
    }
}

#[tokio::test]
async fn who_does_not_begin_like_tls_is_closed_at_once() {
    let drain = secured(|config| (config.ingest.header_deadline, config.ingest.idle) = (HOUR, HOUR)).await;
    for addr in [drain.ingest, drain.control] {
        for plain in ["G", &get("/livez")] {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(plain.as_bytes()).await.unwrap();
            assert!(!String::from_utf8_lossy(&rest(&mut stream).await).contains("HTTP"));
        }
    }
}

#[tokio::test]
async fn a_handshake_has_no_longer_than_a_head() {
    let drain = secured(|config| {
        (config.ingest.header_deadline, config.ingest.idle) = (Duration::from_millis(50), HOUR);
    })
    .await;
    for addr in [drain.ingest, drain.control] {
        // Nothing, and the begin of a handshake record.
        for begin in [&b""[..], b"\x16\x03\x01\x02\x00"] {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(begin).await.unwrap();
            assert_eq!(rest(&mut stream).await, b"");
        }
        // One that is over leaves the connection its idle time.
        let mut stream = drain.pki.connect(addr).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(get("/livez").as_bytes()).await.unwrap();
        assert!(rest(&mut stream).await.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_handshake_takes_a_connections_place() {
    let drain = secured(|config| {
        (config.ingest.header_deadline, config.ingest.connections_max) = (HOUR, 1);
    })
    .await;
    for addr in [drain.ingest, drain.control] {
        let shaking = TcpStream::connect(addr).await.unwrap();
        let answer = drain.pki.ask(addr, &get("/livez")).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("all 1 connections are taken"), "{answer}");
        drop(shaking);
        let begun = std::time::Instant::now();
        while !drain.pki.ask(addr, &get("/livez")).await.starts_with("HTTP/1.1 200") {
            assert!(begun.elapsed() < SOON, "its place is free again");
        }
    }
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_handshake() {
    let mut drain = secured(|config| (config.ingest.header_deadline, config.shutdown.deadline) = (HOUR, HOUR)).await;
    let _shaking = [TcpStream::connect(drain.ingest).await.unwrap(), TcpStream::connect(drain.control).await.unwrap()];
    // Accepted in their order: when these are answered, the two are shaking hands.
    drain.pki.ask(drain.ingest, &get("/livez")).await;
    drain.pki.ask(drain.control, &get("/livez")).await;
    soon(drain.server.stop()).await;
}

#[tokio::test]
async fn framing_and_early_answers_are_the_same_over_tls() {
    let drain = secured(|config| config.ingest.body_bytes_max = 1 << 20).await;
    let two = post(r#"{"instance":"m","message":"1"}"#).replace("Connection: close\r\n", "") + &post("{}");
    let answers = drain.pki.ask(drain.ingest, &two).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
    let answer = drain.pki.ask(drain.ingest, "POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    // Far more than sockets and buffers hold: the answer comes while most of it is not sent, and still arrives.
    let body = " ".repeat(16 << 20);
    let answer = drain.pki.ask(drain.ingest, &post(&body)).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let lines: String = (0..3000).map(|n| format!("{{\"instance\":\"m\",\"message\":\"{n:0200}\"}}\n")).collect();
    let answer = drain.pki.ask(drain.ingest, &post(&lines)).await;
    assert!(answer.contains(r#""received":3000"#), "{answer}");
    let answer = drain.pki.ask(drain.control, &get("/api/v1/machines/m/logs?follow=false")).await;
    assert!(answer.contains(&format!("{:0200}", 2999)) && answer.contains("caught_up"), "a long answer is whole");
}

fn metric(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_else(|| panic!("{metrics}"));
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn a_plain_listener_has_no_certificate_to_expire() {
    let drain = secured(|config| config.control.identity = None).await;
    let mut stream = TcpStream::connect(drain.control).await.unwrap();
    stream.write_all(get("/metrics").as_bytes()).await.unwrap();
    let metrics = String::from_utf8(rest(&mut stream).await).unwrap();
    let expiry = |listener| {
        metric(&metrics, &format!("fleetdrain_certificate_expiry_timestamp_seconds{{listener=\"{listener}\"}}"))
    };
    assert_eq!(expiry("control"), 0.0);
    // 2100-01-01T00:00:00Z.
    assert_eq!(expiry("ingest"), 4_102_444_800.0);
}

/// A drain with files for both certificates and a token file.
fn with_files(dir: &std::path::Path, pki: &Pki) -> Drain {
    pki.issue(2100).write(dir);
    std::fs::write(dir.join("tokens"), "old\n").unwrap();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (cert, key, tokens) = (path("cert.pem"), path("key.pem"), path("tokens"));
    Drain::start(&[
        ("FLEETDRAIN_INGEST__TLS_CERT_FILE", &cert),
        ("FLEETDRAIN_INGEST__TLS_KEY_FILE", &key),
        ("FLEETDRAIN_CONTROL__TLS_CERT_FILE", &cert),
        ("FLEETDRAIN_CONTROL__TLS_KEY_FILE", &key),
        ("FLEETDRAIN_INGEST__TOKEN_FILE", &tokens),
    ])
}

/// The status that a token gets.
async fn status(pki: &Pki, drain: &Drain, token: &str) -> String {
    let request = post("").replace("Host: a", &format!("Host: a\r\nAuthorization: Bearer {token}"));
    pki.ask(drain.ingest, &request).await[9..12].to_owned()
}

#[tokio::test]
async fn tokens_and_certificates_reload_together_or_not_at_all() {
    let (pki, dir) = (Pki::new(), scratch("reload"));
    let mut drain = with_files(&dir, &pki);
    assert_eq!(drain.schemes, ["https", "https"]);
    let mut before = [pki.connect(drain.ingest).await, pki.connect(drain.control).await];
    let first = shown(&before[0]);

    // A good token beside a key that belongs to another certificate: neither is taken.
    std::fs::write(dir.join("tokens"), "new\n").unwrap();
    std::fs::write(dir.join("key.pem"), pki.issue(2100).key).unwrap();
    drain.signal("-HUP");
    let said = drain.says("the old one stays");
    assert!(
        said.contains("ingest.tls_key_file") && said.contains("does not belong to the first certificate"),
        "{said}"
    );
    let metrics = pki.ask(drain.control, &get("/metrics")).await;
    assert_eq!(metric(&metrics, "fleetdrain_config_reload_success"), 0.0);
    assert_eq!((status(&pki, &drain, "old").await, status(&pki, &drain, "new").await), ("200".into(), "401".into()));
    assert_eq!(shown(&pki.connect(drain.control).await), first);

    // Good certificates beside a bad token: neither again.
    let second = pki.issue(2050);
    second.write(&dir);
    std::fs::write(dir.join("tokens"), "not a token\n").unwrap();
    drain.signal("-HUP");
    drain.says("the old one stays");
    assert_eq!(shown(&pki.connect(drain.ingest).await), first);
    assert_eq!(status(&pki, &drain, "old").await, "200");

    std::fs::write(dir.join("tokens"), "new\n").unwrap();
    drain.signal("-HUP");
    drain.says("tokens, certificates and sinks are live");
    for addr in [drain.ingest, drain.control] {
        assert_eq!(shown(&pki.connect(addr).await), second.der());
    }
    assert_eq!((status(&pki, &drain, "old").await, status(&pki, &drain, "new").await), ("401".into(), "200".into()));
    let metrics = pki.ask(drain.control, &get("/metrics")).await;
    assert_eq!(metric(&metrics, "fleetdrain_config_reload_success"), 1.0);
    // 2050-01-01T00:00:00Z.
    let expiry = "fleetdrain_certificate_expiry_timestamp_seconds{listener=\"ingest\"}";
    assert_eq!(metric(&metrics, expiry), 2_524_608_000.0);

    // Connections from before all that are as good as ever.
    for stream in &mut before {
        stream.write_all(get("/livez").as_bytes()).await.unwrap();
        assert!(rest(stream).await.starts_with(b"HTTP/1.1 200"));
    }
    drain.signal("-TERM");
    assert_eq!(drain.wait().0, 0);
}

#[tokio::test]
async fn nobody_resumes_a_session_of_a_certificate_that_was_replaced() {
    let (pki, dir) = (Pki::new(), scratch("resume"));
    let mut drain = with_files(&dir, &pki);
    let client = pki.client(&["http/1.1"]);
    // Tickets come with the first answer.
    let resumed = async || {
        let mut stream = handshake(&client, drain.ingest).await.unwrap();
        stream.write_all(get("/livez").as_bytes()).await.unwrap();
        assert!(rest(&mut stream).await.starts_with(b"HTTP/1.1 200"));
        stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    };
    assert_eq!((resumed().await, resumed().await), (false, true), "sessions are resumed");
    pki.issue(2050).write(&dir);
    drain.signal("-HUP");
    drain.says("certificates and sinks are live");
    let mut stream = handshake(&client, drain.ingest).await.unwrap();
    stream.write_all(get("/livez").as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with(b"HTTP/1.1 200"));
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
}

#[tokio::test]
async fn client_commands_believe_whom_they_are_told_to_and_nobody_else() {
    let (pki, dir) = (Pki::new(), scratch("client"));
    let drain = with_files(&dir, &pki);
    pki.ask(
        drain.ingest,
        &post(r#"{"instance":"m","message":"hello"}"#).replace("Host: a", "Host: a\r\nAuthorization: Bearer old"),
    )
    .await;
    let path = |name: &str, pem: &str| {
        std::fs::write(dir.join(name), pem).unwrap();
        dir.join(name).to_str().unwrap().to_owned()
    };
    let (ours, theirs) = (path("ca.pem", &pki.ca_pem), path("other.pem", &Pki::new().ca_pem));
    let url = format!("https://{}", drain.control);
    let by_name = format!("https://localhost:{}", drain.control.port());
    let commands: [(&[&str], &str); 4] =
        [(&["tail", "-n"], "hello"), (&["machines"], "live"), (&["stats"], "lines_received"), (&["health"], "healthy")];
    for (command, expected) in commands {
        for url in [&url, &by_name] {
            let args = [command, &["--url", url, "--ca-file", &ours]].concat();
            let (code, out, err) = run(&args, &[]);
            assert!(code == 0 && out.contains(expected), "{command:?}: {code} {out} {err}");
        }
        let (code, out, err) = run(command, &[("FLEETDRAIN_URL", &url), ("FLEETDRAIN_CA_FILE", &ours)]);
        assert!(code == 0 && out.contains(expected), "{command:?}: {code} {out} {err}");
        let (code, _, err) = run(&[command, &["--url", &url, "--ca-file", &theirs]].concat(), &[]);
        assert!(
            code == 69 && err.contains(&format!("cannot reach {url}")) && err.contains("invalid peer certificate"),
            "{err}"
        );
    }
    // What this machine's store holds does not include an authority of a moment ago.
    let (code, _, err) = run(&["stats", "--url", &url], &[("SSL_CERT_FILE", &theirs)]);
    assert!(code == 69 && err.contains("invalid peer certificate"), "{err}");
    let (code, out, _) = run(&["stats", "--url", &url], &[("SSL_CERT_FILE", &ours)]);
    assert!(code == 0 && out.contains("lines_received"), "the store is the system's");
    for (file, expected) in
        [("/nowhere", "--ca-file /nowhere"), (dir.join("tokens").to_str().unwrap(), "no certificate in PEM")]
    {
        let (code, _, err) = run(&["stats", "--url", &url, "--ca-file", file], &[]);
        assert!(code != 0 && code != 69 && err.contains(expected), "{code} {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_commands_do_not_believe_a_certificate_of_another_name() {
    let drain = secured(|_| {}).await;
    let ca = scratch("name").join("ca.pem");
    std::fs::write(&ca, &drain.pki.ca_pem).unwrap();
    let stats = |port: u16| {
        let url = format!("https://127.0.0.1:{port}");
        run(&["stats", "--url", &url, "--ca-file", ca.to_str().unwrap()], &[])
    };
    assert_eq!(stats(drain.control.port()).0, 0);
    let issued = drain.pki.issue_for(&["drain.example"], 2100);
    let other = secured(|config| {
        let identity = Identity::from_pem(issued.certificate.as_bytes(), issued.key.as_bytes());
        config.control.identity = Some(identity.unwrap());
    })
    .await;
    let (code, _, err) = stats(other.control.port());
    assert!(code == 69 && err.contains("not valid for name"), "{code} {err}");
}
