use async_nats::ServerError;

use super::*;

const URL: &str = "url = \"nats://nats.example\"\n";

fn made(settings: &str) -> Result<JetStream, BadSetting> {
    let settings: Settings = toml::from_str(&format!("{URL}{settings}")).unwrap();
    settings.make(&MadeFor { encoding: Encoding::Raw, drain: None })
}

fn wrong(settings: &str) -> &'static str {
    made(settings).err().unwrap_or_else(|| panic!("{settings} is no mistake")).key
}

#[test]
fn what_cannot_be_is_told_by_its_key() {
    let url = |url: &str| {
        let settings: Settings = toml::from_str(&format!("url = {url:?}")).unwrap();
        settings.make(&MadeFor { encoding: Encoding::Raw, drain: None }).map(drop).map_err(|bad| bad.key)
    };
    assert_eq!(url("nats://one.example:4222, tls://two.example"), Ok(()));
    for bad in ["", "http://nats.example", "nats://me:secret@nats.example", "nats://one,", "nats://"] {
        assert_eq!(url(bad), Err("url"), "{bad:?}");
    }
    assert_eq!(wrong("token = \"t\"\nuser = \"u\""), "token");
    assert_eq!(wrong("user = \"u\"\ncreds_file = \"/dev/null\""), "token");
    assert_eq!(wrong("password = \"p\""), "password");
    assert_eq!(wrong("password_file = \"/nowhere\"\nuser = \"u\""), "password_file");
    assert_eq!(wrong("creds_file = \"/dev/null\""), "creds_file");
    assert_eq!(wrong("ca_file = \"/dev/null\""), "ca_file");
    assert_eq!(wrong("cert_file = \"/dev/null\""), "key_file");
    assert_eq!(wrong("key_file = \"/dev/null\""), "cert_file");
    assert_eq!(wrong("replicas = 6"), "replicas");
    for stream in ["", "a.b", "a b", "*"] {
        assert_eq!(wrong(&format!("stream = {stream:?}")), "stream", "{stream:?}");
    }
    for subject in ["", ".", "a..b", "a.*", "a.>", "a b", "a/b", "$JS.API", "{id}", "{app", "l\u{f6}gs"] {
        assert_eq!(wrong(&format!("subject = {subject:?}")), "subject", "{subject:?}");
    }
}

#[test]
fn the_stream_takes_every_subject_that_the_template_makes() {
    let sink = made("subject = \"logs.{app}-x.{region}.all\"\nmax_age = \"1m\"\nmax_bytes = \"1GiB\"").unwrap();
    assert_eq!(sink.stream.subjects, ["logs.*.*.all"]);
    assert_eq!((sink.stream.max_bytes, sink.stream.max_age), (1 << 30, Duration::from_secs(60)));
    // No server takes a longer one.
    assert_eq!(sink.stream.duplicate_window, sink.stream.max_age);
    let body: String = ["shop", "a.b", "", "*", ">", "a b"]
        .iter()
        .map(|app| format!("{{\"fly\":{{\"app\":{{\"name\":\"{app}\",\"instance\":\"m\"}},\"region\":\"lax\"}}}}\n"))
        .collect();
    let lots = split(&Parcel::of_body(body), &sink.template, Encoding::Raw, false, |_| Vec::new());
    let subjects: Vec<_> = lots.iter().map(|lot| subject_named(&lot.name)).collect();
    let expected = ["shop", "a%2Eb", "_", "%2A", "%3E", "a%20b"].map(|app| format!("logs.{app}-x.lax.all"));
    assert_eq!(subjects, expected);
}

#[test]
fn nothing_that_jetstream_says_gives_a_line_up() {
    let said = |code: usize, err_code: u64| {
        let error = format!("{{\"code\":{code},\"err_code\":{err_code},\"description\":\"as it was told\"}}");
        failure(&serde_json::from_str(&error).unwrap())
    };
    assert!(matches!(said(400, 10054), Failure::TooLarge { .. }));
    // Full with `discard = new`, and without a quorum.
    assert!(matches!(said(503, 10077), Failure::Unavailable { .. }));
    assert!(matches!(said(503, 10008), Failure::Unavailable { .. }));
    // Another stream's subject, and three replicas of a server that is alone.
    assert!(matches!(said(400, 10060), Failure::Denied { .. }));
    assert!(matches!(said(400, 10052), Failure::Denied { .. }));
}

#[tokio::test]
async fn an_objection_is_heard_by_whom_it_is_about() {
    let (tell, told) = watch::channel(Told::default());
    let objects = |text: &str| {
        let error = ServerError::Other(format!("Permissions Violation for Publish to \"{text}\""));
        tell.send_modify(|told| told.note(Event::ServerError(error)));
    };
    objects("a");
    let old = {
        let mut told = told.clone();
        told.mark_unchanged();
        tokio::spawn(async move { objection(told, "a").await })
    };
    let other = tokio::spawn({
        let told = told.clone();
        async move { objection(told, "b").await }
    });
    tokio::task::yield_now().await;
    // One from before the message was sent is about another.
    assert!(!old.is_finished() && !other.is_finished());
    objects("b");
    assert!(matches!(other.await.unwrap(), Failure::Denied { .. }));
    tokio::task::yield_now().await;
    assert!(!old.is_finished());
    tell.send_modify(|told| {
        told.note(Event::ServerError(ServerError::Other("User Authentication Revoked".to_owned())));
        told.note(Event::Disconnected);
    });
    assert!(matches!(old.await.unwrap(), Failure::Denied { .. }));
}
