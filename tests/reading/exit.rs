//! `until=exit`: a machine's log ends by itself, for who asks for it.

use super::*;

const EXITED: &str = "machine exited with exit code 137, not restarting";

fn fly(provider: &str, message: &str) -> Value {
    json!({ "event": { "provider": provider }, "fly": { "app": { "instance": "m" } }, "message": message })
}

fn end(code: impl Into<Value>) -> Value {
    json!({ "event": "end", "reason": "exited", "exit_code": code.into() })
}

#[tokio::test]
async fn logs_end_with_the_exit_and_its_code() {
    let drain = Drain::new().await;
    let mut logs = drain.get(&format!("{M}/m/logs?until=exit&linger=100ms")).await;
    let mut others = drain.get(&format!("{M}/m/logs")).await;
    drain.push_records(&[fly("app", "a"), fly("runner", EXITED)]);
    drain.push_records(&[fly("app", "late")]);
    assert_eq!(logs.messages(3).await, ["a", EXITED, "late"]);
    assert_eq!(logs.rest().await, [end(137)]);
    // Nobody else's log has ended, and the machine is not finished.
    assert_eq!(others.messages(3).await.len(), 3);
    drain.push_records(&[fly("app", "second")]);
    assert_eq!(others.messages(1).await, ["second"]);
    assert_eq!(drain.json(&format!("{M}/m")).await["state"], "live");
}

#[tokio::test]
async fn an_exit_without_a_code_does_not_get_that_of_the_life_before() {
    let drain = Drain::new().await;
    let init = |word: &str| fly("app", &format!(" INFO {word}"));
    drain.push_records(&[init("Main child exited normally with code: 0")]);
    drain.push_records(&[init("Starting init (commit: 5293a085)...")]);
    drain.push_records(&[fly("runner", "machine restart policy set to 'no', not restarting")]);
    let path = format!("{M}/m/logs?until=exit&linger=0s");
    assert_eq!(drain.get(&path).await.rest().await.last(), Some(&end(Value::Null)));
    drain.push_records(&[init("Main child exited normally with code: 3")]);
    drain.push_records(&[fly("runner", "machine restart policy set to 'no', not restarting")]);
    assert_eq!(drain.get(&path).await.rest().await.last(), Some(&end(3)));
}

#[tokio::test]
async fn an_event_stream_ends_with_the_exit_too_and_text_without_a_word() {
    let drain = Drain::new().await;
    drain.push_records(&[fly("app", "a"), fly("runner", EXITED)]);
    let path = format!("{M}/m/logs?until=exit&linger=0s");
    let text = drain.send("GET", &path, &[("Accept", "text/event-stream")]).await.text().await;
    let end = "event: end\ndata: {\"event\":\"end\",\"reason\":\"exited\",\"exit_code\":137}\n\n";
    assert!(text.ends_with(end), "{text}");
    assert_eq!(drain.send("GET", &path, &[("Accept", "text/plain")]).await.text().await, format!("a\n{EXITED}\n"));
}

#[tokio::test]
async fn a_queue_ends_with_the_exit_that_it_does_not_hold() {
    let drain = Drain::new().await;
    let path = format!("{M}/m/queue?until=exit&linger=50ms");
    assert_eq!(drain.send("PUT", &format!("{M}/m"), &[]).await.status, 201);
    drain.push_records(&[fly("app", "a"), fly("runner", EXITED), fly("app", "b")]);
    let rest = drain.get(&path).await.rest().await;
    assert_eq!(rest[..2].iter().map(message).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(rest[2..], [end(137)]);
    // It was told; the next one counts, and the queue is as it was.
    let mut queue = drain.get(&path).await;
    drain.push_records(&[fly("app", "c"), fly("runner", "machine restart policy set to 'no', not restarting")]);
    assert_eq!(queue.messages(1).await, ["c"]);
    assert_eq!(queue.rest().await, [end(Value::Null)]);
    assert_eq!(drain.json(&format!("{M}/m")).await["state"], "live");
}

#[tokio::test]
async fn who_resumes_behind_the_exit_is_told_it_again() {
    let drain = Drain::new().await;
    drain.push_records(&[fly("app", "a"), fly("runner", EXITED)]);
    let path = format!("{M}/m/logs?until=exit&linger=0s");
    let lines = drain.get(&path).await.rest().await;
    let last = lines[1]["id"].as_str().unwrap();
    for query in [format!("after={last}"), "last=0".to_owned(), "since=0s".to_owned()] {
        assert_eq!(drain.get(&format!("{path}&{query}")).await.rest().await, [end(137)], "{query}");
    }
    drain.collector.finish("m");
    assert_eq!(drain.get(&format!("{path}&after={last}")).await.rest().await, [end(137)]);
}

#[tokio::test]
async fn what_does_not_wait_says_whether_it_was_the_exit() {
    let drain = Drain::new().await;
    let path = format!("{M}/m/logs?until=exit&linger=0s&follow=false");
    drain.push("m", 0..1);
    assert_eq!(drain.get(&path).await.until_end().await, (numbers(0..1), "caught_up".to_owned()));
    drain.push_records(&[fly("runner", EXITED)]);
    assert_eq!(drain.get(&path).await.until_end().await.1, "exited");
    let queue = format!("{M}/m/queue?until=exit&linger=0s&follow=false&backlog=true");
    assert_eq!(drain.get(&queue).await.until_end().await, (numbers(0..1), "exited".to_owned()));
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told() {
    let drain = Drain::new().await;
    for (query, expected) in [
        ("until=finish", "until=\"finish\" is not exit"),
        ("until=exit&linger=31s", "linger=\"31s\" is over 30s"),
        ("linger=5s", "linger goes with until=exit"),
        ("until=exit&linger=5", "linger=\"5\" is not a duration"),
    ] {
        for call in ["logs", "queue"] {
            let mut answer = drain.get(&format!("{M}/m/{call}?{query}")).await;
            assert_eq!(answer.status, 400, "{call}?{query}");
            assert!(answer.problem().await.contains(expected), "{call}?{query}");
        }
    }
    assert_eq!(drain.get("/api/v1/tail?until=exit").await.status, 400);
    let document = drain.json("/api/v1/openapi.json").await;
    for call in ["logs", "queue"] {
        let told = &document["paths"][format!("{M}/{{id}}/{call}")]["get"];
        let until = told["parameters"].as_array().unwrap().iter().find(|one| one["name"] == "until").unwrap();
        assert_eq!(until["schema"]["enum"], json!(["exit"]));
        assert!(told["responses"]["200"]["description"].as_str().unwrap().contains("exited"), "{told}");
    }
}

#[tokio::test]
async fn patterns_and_boot_lines_are_settings_for_posted_records_too() {
    let drain = Drain::with(|config| {
        config.fly.exit_patterns = fleetdrain::exit::ExitPatterns::new(&["^gone with (?<code>[0-9]+)$"]).unwrap();
        config.fly.boot_lines = fleetdrain::config::BootLines::System;
    })
    .await;
    let _ = drain.collector.subscribe("m").unwrap();
    let body: String = [
        fly("app", "[    0.000000] Linux version 5.15.98-fly"),
        fly("app", " INFO Starting init (commit: 5293a085)..."),
        fly("app", "hello"),
        fly("runner", "gone with 7"),
    ]
    .map(|record| format!("{record}\n"))
    .concat();
    let addr = drain.server.ingest_addr().unwrap();
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head =
        format!("POST / HTTP/1.1\r\nHost: {addr}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#""accepted":1,"filtered":3"#), "{answer}");
    let queue = drain.get(&format!("{M}/m/queue?until=exit&linger=0s")).await.rest().await;
    assert_eq!((message(&queue[0]), &queue[1]), ("hello".to_owned(), &end(7)));
    let logs = drain.get(&format!("{M}/m/logs?until=exit&linger=0s")).await.rest().await;
    let streams: Vec<&str> = logs[..4].iter().map(|entry| entry["stream"].as_str().unwrap()).collect();
    assert_eq!(streams, ["system", "system", "stdout", "system"]);
}
