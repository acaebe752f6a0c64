//! Deliveries to servers that answer as they are told.

use std::{
    io::Read,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    sink::{Destination, Encoding, MadeFor},
    tls::{Certificate, Identity},
};

const LINES: &str = "{\"instance\":\"m\",\"message\":\"the first line of all\"}\n{\"instance\":\"m\",\"message\":\"b\"}\n{\"instance\":\"n\",\"message\":\"c\"}";

fn settings(toml: &str) -> Settings {
    toml::from_str(toml).unwrap()
}

fn make(toml: &str) -> Result<Http, crate::sink::BadSetting> {
    settings(toml).make(&MadeFor { encoding: Encoding::Raw, drain: None })
}

/// What came in one request.
#[derive(Clone, Debug, Default)]
struct Came {
    connection: usize,
    head: String,
    body: Vec<u8>,
}

impl Came {
    fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.clone().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A server that gives its answers in turn, the last one for ever.
struct Store {
    address: std::net::SocketAddr,
    came: Arc<Mutex<Vec<Came>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Store {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Store {
    async fn answering(answers: &[&str]) -> Self {
        Self::with(answers, None).await
    }

    async fn with(answers: &[&str], certificate: Option<Certificate>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let came = Arc::new(Mutex::new(Vec::new()));
        let answers: Arc<[String]> = answers.iter().map(|&answer| answer.to_owned()).collect();
        let (shared, certificate) = (Arc::clone(&came), certificate.map(Arc::new));
        let task = tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (answers, came, certificate) = (Arc::clone(&answers), Arc::clone(&shared), certificate.clone());
                tokio::spawn(async move {
                    match certificate {
                        None => serve(stream, connection, &answers, &came).await,
                        Some(certificate) => {
                            let Ok(stream) = certificate.accept(stream).await else { return };
                            serve(stream, connection, &answers, &came).await;
                        }
                    }
                });
            }
        });
        Self { address, came, task }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn came(&self) -> Vec<Came> {
        self.came.lock().clone()
    }
}

/// An answer that ends in `\0` is broken off there with a reset; an empty one is none.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    answers: &[String],
    came: &Mutex<Vec<Came>>,
) {
    let mut read = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let text = String::from_utf8(read[..head].to_vec()).unwrap();
        let mut request = Came { connection, head: text, body: Vec::new() };
        let length: usize = request.header("content-length").unwrap().parse().unwrap();
        while read.len() < head + length {
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        }
        request.body = read[head..head + length].to_vec();
        read.drain(..head + length);
        let answer = {
            let mut came = came.lock();
            came.push(request);
            answers.get(came.len() - 1).or(answers.last()).cloned().unwrap()
        };
        if answer.is_empty() {
            continue;
        }
        stream.write_all(answer.trim_end_matches('\0').as_bytes()).await.unwrap_or_default();
        if answer.ends_with('\0') {
            return;
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// What becomes of a parcel of three lines that is answered so.
async fn judged(toml: &str, answer: &str) -> Result<(), Failure> {
    let store = Store::answering(&[answer]).await;
    let sink = make(&format!("url = \"{}\"\n{toml}", store.url())).unwrap();
    sink.deliver(&Parcel::of_body(LINES)).await
}

fn kind(outcome: &Result<(), Failure>) -> String {
    match outcome {
        Ok(()) => "ok".to_owned(),
        Err(Failure::Unavailable { retry_after, .. }) => match retry_after {
            Some(wait) => format!("unavailable {}", wait.as_secs()),
            None => "unavailable".to_owned(),
        },
        Err(Failure::Denied { .. }) => "denied".to_owned(),
        Err(Failure::TooLarge { .. }) => "too large".to_owned(),
        Err(Failure::Never { .. }) => "never".to_owned(),
        Err(Failure::Partly { again, never, .. }) => format!("again {again:?} never {never:?}"),
    }
}

#[tokio::test]
async fn a_parcel_is_one_request_that_says_which_it_is() {
    let store = Store::answering(&[&answer("200 OK", "", "")]).await;
    let toml = format!("url = \"{}/in?a=b\"\ntoken = \"abc\"\nheaders = {{ x-own = \"1\" }}", store.url());
    let sink = make(&toml).unwrap();
    let parcel = Parcel::of_body(LINES);
    sink.deliver(&parcel).await.unwrap();
    let came = &store.came()[0];
    assert!(came.head.starts_with("POST /in?a=b HTTP/1.1\r\n"), "{}", came.head);
    assert_eq!(came.header("idempotency-key"), Some(parcel.id()));
    assert_eq!(came.header("authorization"), Some("Bearer abc"));
    assert_eq!(came.header("x-own"), Some("1"));
    assert_eq!(came.header("user-agent"), Some(AGENT));
    assert_eq!(came.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(came.header("host"), Some(store.address.to_string().as_str()));
    assert_eq!(came.header("content-encoding"), None);
    assert_eq!(came.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(), 3);
}

#[tokio::test]
async fn what_a_status_means_is_what_is_done_about_it() {
    for (status, headers, wanted) in [
        ("200 OK", "", "ok"),
        ("202 Accepted", "", "ok"),
        ("204 No Content", "", "ok"),
        ("301 Moved Permanently", "location: http://elsewhere/\r\n", "denied"),
        ("400 Bad Request", "", "never"),
        ("401 Unauthorized", "", "denied"),
        ("402 Payment Required", "", "denied"),
        ("403 Forbidden", "", "denied"),
        ("404 Not Found", "", "denied"),
        ("405 Method Not Allowed", "", "denied"),
        ("508 Loop Detected", "", "denied"),
        ("415 Unsupported Media Type", "", "denied"),
        ("408 Request Timeout", "", "unavailable"),
        ("413 Content Too Large", "", "too large"),
        ("422 Unprocessable Content", "", "never"),
        ("425 Too Early", "", "unavailable"),
        ("429 Too Many Requests", "retry-after: 7\r\n", "unavailable 7"),
        ("430 Limit Reached", "", "unavailable"),
        ("500 Internal Server Error", "", "unavailable"),
        ("503 Service Unavailable", "Retry-After: Thu, 01 Jan 1970 00:00:00 GMT\r\n", "unavailable 0"),
        ("503 Service Unavailable", "retry-after: soon\r\nFleetdrain-Ack: unknown\r\n", "unavailable"),
    ] {
        let outcome = judged("", &answer(status, headers, "")).await;
        assert_eq!(kind(&outcome), wanted, "{status} {headers}");
    }
}

#[tokio::test]
async fn a_date_to_come_again_is_counted_from_now() {
    let at = jiff::Timestamp::try_from(SystemTime::now() + Duration::from_secs(600)).unwrap();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap();
    let outcome = judged("", &answer("503 Busy", &format!("retry-after: {date}\r\n"), "")).await;
    let Err(Failure::Unavailable { retry_after: Some(wait), .. }) = outcome else { panic!("{outcome:?}") };
    assert!((500..=600).contains(&wait.as_secs()), "{wait:?}");
}

#[tokio::test]
async fn redirects_are_told_and_not_followed() {
    let elsewhere = Store::answering(&[&answer("200 OK", "", "")]).await;
    let moved = answer("307 Temporary Redirect", &format!("location: {}/\r\n", elsewhere.url()), "");
    let outcome = judged("token = \"abc\"", &moved).await;
    assert!(outcome.unwrap_err().to_string().contains("not followed"));
    assert_eq!(elsewhere.came().len(), 0);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_none() {
    let long = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf\0";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n\0";
    for broken in [long, chunked, "HTTP/1.1 20\0", "nonsense\r\n\r\n\0", "\0"] {
        assert_eq!(kind(&judged("", broken).await), "unavailable", "{broken:?}");
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let outcome = make(&format!("url = \"http://{address}\"")).unwrap().deliver(&Parcel::of_body(LINES)).await;
    let Err(failure @ Failure::Unavailable { .. }) = outcome else { panic!("{outcome:?}") };
    assert!(failure.to_string().contains("refused"), "{failure}");
}

#[tokio::test]
async fn endless_answers_are_read_to_a_bound() {
    let endless = format!(
        "HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\n\r\n{}",
        "1000\r\n".to_owned() + &"x".repeat(0x1000) + "\r\n"
    );
    // It never ends, nor does the connection: who reads to the end hangs.
    let many = endless.clone() + &("1000\r\n".to_owned() + &"x".repeat(0x1000) + "\r\n").repeat(40);
    let outcome = judged("", &many).await;
    assert_eq!(kind(&outcome), "unavailable");
    assert!(outcome.unwrap_err().to_string().len() < 300);
}

#[tokio::test]
async fn connections_are_kept_and_a_refusal_closes_none() {
    let (ok, busy) = (answer("200 OK", "", "thanks"), answer("503 Busy", "", "later"));
    let store = Store::answering(&[&ok, &busy, &ok]).await;
    let sink = make(&format!("url = \"{}\"", store.url())).unwrap();
    for _ in 0..5 {
        let _ = sink.deliver(&Parcel::of_body(LINES)).await;
    }
    let connections: Vec<usize> = store.came().iter().map(|came| came.connection).collect();
    assert_eq!(connections, [0; 5]);
}

#[tokio::test]
async fn compressed_bodies_are_the_same_lines() {
    let store = Store::answering(&[&answer("200 OK", "", "")]).await;
    let parcel = Parcel::of_body(LINES);
    for compression in ["none", "gzip", "zstd"] {
        let sink = make(&format!("url = \"{}\"\ncompression = \"{compression}\"", store.url())).unwrap();
        sink.deliver(&parcel).await.unwrap();
    }
    let [plain, gzip, zstd] = &store.came()[..] else { panic!() };
    let mut unzipped = Vec::new();
    flate2::read::GzDecoder::new(&gzip.body[..]).read_to_end(&mut unzipped).unwrap();
    assert_eq!((gzip.header("content-encoding"), &unzipped), (Some("gzip"), &plain.body));
    let unpacked = zstd::stream::decode_all(&zstd.body[..]).unwrap();
    assert_eq!((zstd.header("content-encoding"), &unpacked), (Some("zstd"), &plain.body));
}

#[tokio::test]
async fn what_is_told_holds_no_secret_and_no_line() {
    let echo = answer("400 Bad", "", "token s3cr3t-t0ken cannot have the first line of all\r\nsorry");
    let failure = judged("token = \"s3cr3t-t0ken\"", &echo).await.unwrap_err().to_string();
    assert!(failure.contains("400 Bad") || failure.contains("400"), "{failure}");
    assert!(failure.ends_with(r"\r\nsorry") && !failure.contains("t0ken") && !failure.contains("first"), "{failure}");
    let settings =
        settings("url = \"http://a\"\ntoken = \"s3cr3t\"\npassword = \"s3cr3t\"\nheaders = { k = \"s3cr3t\" }");
    assert!(!format!("{settings:?}").contains("s3cr3t"));
}

#[tokio::test]
async fn elasticsearch_is_asked_about_each_line() {
    let toml = "format = \"elasticsearch\"\nindex = \"logs\"";
    let items = |statuses: [u16; 3]| {
        let item = |status: u16| match status {
            201 => "{\"create\":{\"status\":201}}".to_owned(),
            _ => format!("{{\"create\":{{\"status\":{status},\"error\":{{\"type\":\"some_exception\"}}}}}}"),
        };
        let items = statuses.map(item).join(",");
        answer("200 OK", "", &format!("{{\"errors\":true,\"items\":[{items}]}}"))
    };
    for (body, wanted) in [
        (answer("200 OK", "", r#"{"errors":false}"#), "ok"),
        (items([201, 409, 201]), "ok"),
        (items([429, 201, 400]), "again [0] never [2]"),
        (items([201, 201, 400]), "again [] never [2]"),
        (items([429, 503, 429]), "unavailable"),
        (items([400, 400, 400]), "again [] never [0, 1, 2]"),
        (answer("200 OK", "", r#"{"errors":true,"items":[]}"#), "unavailable"),
        (answer("200 OK", "", "<html>"), "unavailable"),
        (answer("413 Too Large", "", ""), "too large"),
    ] {
        assert_eq!(kind(&judged(toml, &body).await), wanted, "{body}");
    }
}

#[tokio::test]
async fn accounts_of_stores_are_believed() {
    for (toml, status, headers, body, wanted) in [
        ("format = \"otlp\"", "200 OK", "", "{}", "ok"),
        ("format = \"otlp\"", "200 OK", "", r#"{"partialSuccess":{"errorMessage":"a warning"}}"#, "ok"),
        ("format = \"otlp\"", "200 OK", "", r#"{"partialSuccess":{"rejectedLogRecords":"2"}}"#, "never"),
        ("format = \"otlp\"", "200 OK", "", r#"{"partialSuccess":{"rejectedLogRecords":2}}"#, "never"),
        ("format = \"axiom\"\ndataset = \"d\"", "200 OK", "", r#"{"ingested":3,"failed":0}"#, "ok"),
        ("format = \"axiom\"\ndataset = \"d\"", "200 OK", "", r#"{"ingested":2,"failed":1}"#, "never"),
        ("format = \"fleetdrain\"", "200 OK", "", r#"{"received":3,"accepted":1,"filtered":2,"rejected":0}"#, "ok"),
        (
            "format = \"fleetdrain\"",
            "200 OK",
            "",
            r#"{"received":3,"rejected":1,"errors":[{"record":2,"reason":"line_too_long"}]}"#,
            "again [] never [1]",
        ),
        ("format = \"fleetdrain\"", "200 OK", "", r#"{"received":3,"rejected":2,"errors":[{"record":2}]}"#, "never"),
        ("format = \"datadog\"", "202 Accepted", "", "{}", "ok"),
        ("format = \"better_stack\"", "402 Payment Required", "", "Quota exceeded", "denied"),
        ("format = \"loki\"", "204 No Content", "", "", "ok"),
        ("format = \"loki\"", "400 Bad Request", "", "entry too far behind", "never"),
        ("format = \"clickhouse\"\ntable = \"t\"", "200 OK", "", "", "ok"),
        ("format = \"clickhouse\"\ntable = \"t\"", "200 OK", "X-ClickHouse-Exception-Code: 241\r\n", "", "unavailable"),
        ("format = \"clickhouse\"\ntable = \"t\"", "200 OK", "", "Code: 27. DB::Exception: Cannot parse", "never"),
        (
            "format = \"clickhouse\"\ntable = \"t\"",
            "404 Not Found",
            "X-ClickHouse-Exception-Code: 60\r\n",
            "",
            "denied",
        ),
        ("format = \"clickhouse\"\ntable = \"t\"", "500 No", "X-ClickHouse-Exception-Code: 252\r\n", "", "unavailable"),
        ("format = \"clickhouse\"\ntable = \"t\"", "500 No", "X-ClickHouse-Exception-Code: 117\r\n", "", "never"),
    ] {
        let outcome = judged(toml, &answer(status, headers, body)).await;
        assert_eq!(kind(&outcome), wanted, "{toml} {status} {headers} {body}");
    }
}

#[tokio::test]
async fn each_store_is_met_where_it_listens() {
    for (toml, path) in [
        ("format = \"loki\"", "/loki/api/v1/push"),
        ("format = \"otlp\"", "/v1/logs"),
        ("format = \"datadog\"", "/api/v2/logs"),
        ("format = \"axiom\"\ndataset = \"my logs\"", "/v1/datasets/my%20logs/ingest"),
        ("format = \"better_stack\"", "/"),
        ("format = \"fleetdrain\"", "/"),
        (
            "format = \"elasticsearch\"\nindex = \"logs\"",
            "/logs/_bulk?filter_path=errors%2Citems.%2A.status%2Citems.%2A.error.type",
        ),
        (
            "format = \"victorialogs\"",
            "/insert/jsonline?_msg_field=message%2Clog%2Cmsg&_time_field=_time&_stream_fields=fly.app.name%2Cfly.region",
        ),
        (
            "format = \"clickhouse\"\ndatabase = \"d\"\ntable = \"t\"",
            "/?query=INSERT%20INTO%20d.t%20FORMAT%20JSONEachRow&date_time_input_format=best_effort\
             &input_format_skip_unknown_fields=1&insert_deduplication_token=ID",
        ),
    ] {
        let answers = answer("200 OK", "", "{\"errors\":false}");
        let store = Store::answering(&[&answers]).await;
        let sink = make(&format!("url = \"{}\"\n{toml}", store.url())).unwrap();
        let parcel = Parcel::of_body(LINES);
        sink.deliver(&parcel).await.unwrap();
        let head = &store.came()[0].head;
        let wanted = format!("POST {} HTTP/1.1\r\n", path.replace("ID", parcel.id()));
        assert!(head.starts_with(&wanted), "{head}");
    }
}

#[tokio::test]
async fn a_probe_asks_for_what_lines_need_and_leaves_none() {
    for (status, wanted) in [
        ("204 No Content", "ok"),
        ("400 Bad Request", "ok"),
        ("422 Unprocessable", "ok"),
        ("401 Unauthorized", "denied"),
        ("404 Not Found", "denied"),
        ("405 Method Not Allowed", "denied"),
        ("503 Busy", "unavailable"),
    ] {
        let store = Store::answering(&[&answer(status, "", "")]).await;
        let sink = make(&format!("url = \"{}\"\nformat = \"loki\"\ncompression = \"gzip\"", store.url())).unwrap();
        assert_eq!(kind(&sink.probe().await), wanted, "{status}");
        let came = &store.came()[0];
        assert_eq!((came.body.as_slice(), came.header("idempotency-key")), (&br#"{"streams":[]}"#[..], None));
    }
}

#[tokio::test]
async fn a_store_proves_who_it_is() {
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let identity = Identity::from_pem(own.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let store = Store::with(&[&answer("200 OK", "", "")], Some(Certificate::new(&identity))).await;
    let file = crate::scratch::path("ca");
    std::fs::write(&file, own.pem()).unwrap();
    let url = format!("url = \"https://localhost:{}\"", store.address.port());
    let trusting = make(&format!("{url}\nca_file = {file:?}")).unwrap();
    trusting.deliver(&Parcel::of_body(LINES)).await.unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&file, other.cert.pem()).unwrap();
    let distrusting = make(&format!("{url}\nca_file = {file:?}")).unwrap();
    let outcome = distrusting.deliver(&Parcel::of_body(LINES)).await;
    std::fs::remove_file(&file).unwrap();
    let Err(failure @ Failure::Unavailable { .. }) = outcome else { panic!("{outcome:?}") };
    assert!(failure.to_string().contains("certificate"), "{failure}");
    assert_eq!(store.came().len(), 1);
}

#[tokio::test]
async fn settings_that_cannot_be_are_told_by_key() {
    for (toml, key) in [
        ("", "url"),
        ("url = \"ftp://a\"", "url"),
        ("url = \"a\"", "url"),
        ("url = \"http://u:p@a\"", "url"),
        ("url = \"http://a\"\ntoken = \"a\\r\\nx: y\"", "token"),
        ("url = \"http://a\"\ntoken = \"\"", "token"),
        ("url = \"http://a\"\ntoken = \"é\"", "token"),
        ("url = \"http://a\"\ntoken = \"a\"\ntoken_file = \"/b\"", "token_file"),
        ("url = \"http://a\"\ntoken_file = \"/nowhere\"", "token_file"),
        ("url = \"http://a\"\ntoken = \"a\"\nuser = \"b\"", "token"),
        ("url = \"http://a\"\npassword = \"b\"", "password"),
        ("url = \"http://a\"\nuser = \"a:b\"", "user"),
        ("url = \"http://a\"\nuser = \"a\"\npassword = \"b\\n\"", "password"),
        ("url = \"http://a\"\nheaders = { \"x\\r\\ny\" = \"1\" }", "headers"),
        ("url = \"http://a\"\nheaders = { x = \"1\\r\\ny: 2\" }", "headers"),
        ("url = \"http://a\"\nheaders = { content-length = \"1\" }", "headers"),
        ("url = \"http://a\"\nheaders = { Transfer-Encoding = \"chunked\" }", "headers"),
        ("url = \"http://a\"\nheaders = { authorization = \"1\" }\ntoken = \"a\"", "headers"),
        ("url = \"http://a\"\nca_file = \"/nowhere\"", "ca_file"),
        ("url = \"http://a\"\nindex = \"a\"", "index"),
        ("url = \"http://a\"\nformat = \"elasticsearch\"", "index"),
        ("url = \"http://a\"\nformat = \"elasticsearch\"\nindex = \"A\"", "index"),
        ("format = \"axiom\"", "dataset"),
        ("url = \"http://a\"\ntoken_header = \"a b\"", "token_header"),
        ("url = \"http://a\"\ntoken_header = \"content-length\"", "token_header"),
        ("url = \"http://a\"\nformat = \"clickhouse\"", "table"),
        ("url = \"http://a\"\nformat = \"clickhouse\"\ntable = \"a; DROP TABLE b\"", "table"),
        ("url = \"http://a\"\nformat = \"clickhouse\"\ntable = \"a\"\ndatabase = \"`\"", "database"),
        ("url = \"http://a\"\nformat = \"loki\"\ncompression = \"zstd\"", "compression"),
    ] {
        let error = make(toml).err().unwrap_or_else(|| panic!("{toml}"));
        assert_eq!(error.key, key, "{toml}: {error}");
    }
    for toml in ["url = 1", "nonsense = 1", "format = \"nonsense\"", "method = \"GET\"", "connect_timeout = \"5\""] {
        assert!(toml::from_str::<Settings>(toml).is_err(), "{toml}");
    }
}

#[tokio::test]
async fn credentials_go_where_the_store_looks_for_them() {
    for (toml, header, value) in [
        ("format = \"datadog\"\ntoken = \"k\"", "dd-api-key", "k"),
        ("format = \"elasticsearch\"\nindex = \"i\"\ntoken = \"k\"", "authorization", "ApiKey k"),
        ("user = \"u\"\npassword = \"p:w\"", "authorization", "Basic dTpwOnc="),
        ("token = \"k\"\ntoken_header = \"X-API-Key\"", "x-api-key", "k"),
        ("token = \"Basic abc=\"\ntoken_header = \"authorization\"", "authorization", "Basic abc="),
    ] {
        let store = Store::answering(&[&answer("200 OK", "", "{\"errors\":false}")]).await;
        let sink = make(&format!("url = \"{}\"\n{toml}", store.url())).unwrap();
        sink.deliver(&Parcel::of_body(LINES)).await.unwrap();
        assert_eq!(store.came()[0].header(header), Some(value), "{toml}");
    }
}
