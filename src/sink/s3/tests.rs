use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use futures_util::TryStreamExt;
use object_store::ObjectStore;

use super::*;

/// A server of the protocol, ended behind the test.
struct Server(Child, String);

impl Server {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sinks/s3_server.py");
        let mut server = Command::new("python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("http://"), "{url:?}");
        Self(server, url.trim().to_owned())
    }

    fn sink(&self, rest: &str) -> S3 {
        let mut sink = made(&format!("endpoint = {:?}\nregion = \"us-east-1\"\n{rest}", self.1)).unwrap();
        let (id, secret) = ("id".to_owned(), "secret".to_owned());
        let credential = object_store::aws::AwsCredential { key_id: id, secret_key: secret, token: None };
        let builder = AmazonS3Builder::new()
            .with_credentials(std::sync::Arc::new(object_store::StaticCredentialProvider::new(credential)))
            .with_region("us-east-1")
            .with_endpoint(&self.1)
            .with_allow_http(true)
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_bucket_name(if rest.contains("nowhere") { "nowhere" } else { "logs" });
        sink.store = builder.build().unwrap();
        sink
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn made(settings: &str) -> Result<S3, BadSetting> {
    let settings: Settings = toml::from_str(settings).unwrap();
    settings.make(&MadeFor { encoding: Encoding::Raw, drain: None })
}

fn numbered(lines: usize, pad: usize) -> Parcel {
    let line = |n| {
        let app = ["a/b", "c"][n % 2];
        let fly = format!(r#"{{"app":{{"name":"{app}","instance":"m"}}}}"#);
        let pad: String = (0..pad).map(|at| char::from(b'a' + ((at * at + n * 7) % 26) as u8)).collect();
        format!("{{\"fly\":{fly},\"message\":\"{n}\",\"pad\":\"{pad}\"}}\n")
    };
    Parcel::of_body((0..lines).map(line).collect::<String>())
}

async fn objects(sink: &S3) -> Vec<(String, usize)> {
    let listed: Vec<_> = sink.store.list(None).try_collect().await.unwrap();
    let mut found = Vec::new();
    for object in listed {
        let bytes = sink.store.get(&object.location).await.unwrap().bytes().await.unwrap();
        let bytes = match sink.compression {
            Compression::Zstd => zstd::decode_all(&*bytes).unwrap(),
            _ => bytes.to_vec(),
        };
        found.push((object.location.to_string(), memchr::memchr_iter(b'\n', &bytes).count()));
    }
    found.sort();
    found
}

#[tokio::test]
#[ignore = "needs a real S3 server: scripts/test.sh"]
async fn a_parcel_is_an_object_an_app_and_overwrites_itself() {
    let server = Server::start();
    let sink = server.sink("bucket = \"logs\"\nkey = \"{app}/{id}.ndjson\"");
    sink.probe().await.unwrap();
    let parcel = numbered(5, 10);
    sink.deliver(&parcel).await.unwrap();
    sink.deliver(&parcel).await.unwrap();
    let found = objects(&sink).await;
    let lines =
        |prefix: &str| found.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, lines)| *lines).collect();
    assert_eq!((found.len(), lines("a%2Fb/"), lines("c/")), (2, vec![3], vec![2]));
    // What was not answered goes again without what was.
    let runs = parcel.parts(&[1, 3]).into_iter().map(|(_, run)| run).collect();
    sink.deliver(&Parcel::new(runs)).await.unwrap();
    assert_eq!(objects(&sink).await, found);
}

#[tokio::test]
#[ignore = "needs a real S3 server: scripts/test.sh"]
async fn a_large_object_is_sent_in_parts() {
    let server = Server::start();
    let rest = "bucket = \"logs\"\nkey = \"{id}.ndjson\"\ncompression = \"none\"\npart_bytes = \"5MiB\"";
    let sink = server.sink(rest);
    sink.deliver(&numbered(600, 20_000)).await.unwrap();
    let found = objects(&sink).await;
    assert_eq!(found.iter().map(|(_, lines)| *lines).collect::<Vec<_>>(), [600]);
}

#[tokio::test]
#[ignore = "needs a real S3 server: scripts/test.sh"]
async fn a_bucket_that_is_not_there_and_a_server_that_is_gone_are_told_apart() {
    let server = Server::start();
    let sink = server.sink("bucket = \"nowhere\"");
    let failure = sink.deliver(&numbered(1, 1)).await.unwrap_err();
    assert!(matches!(failure, Failure::Denied { .. }), "{failure}");
    assert!(matches!(sink.probe().await.unwrap_err(), Failure::Denied { .. }));
    let sink = server.sink("bucket = \"logs\"");
    drop(server);
    let failure = sink.deliver(&numbered(1, 1)).await.unwrap_err();
    assert!(matches!(failure, Failure::Unavailable { .. }), "{failure}");
}

#[test]
fn what_cannot_be_is_told_by_its_key() {
    let cases = [
        ("key = \"{app}.ndjson\"", "key"),
        ("part_bytes = \"1MiB\"", "part_bytes"),
        ("endpoint = \"store.example\"", "endpoint"),
        ("access_key_id_file = \"/x\"", "secret_access_key_file"),
        ("access_key_id_file = \"/nowhere/x\"\nsecret_access_key_file = \"/nowhere/y\"", "access_key_id_file"),
    ];
    for (rest, key) in cases {
        let bad = made(&format!("bucket = \"b\"\n{rest}")).err().unwrap();
        assert_eq!(bad.key, key, "{bad}");
    }
}

#[test]
fn what_a_store_says_is_of_one_kind() {
    let generic = |text: &str| failure(&Error::Generic { store: "S3", source: text.into() });
    assert!(matches!(generic("<Code>EntityTooLarge</Code>"), Failure::TooLarge { .. }));
    assert!(matches!(generic("<Code>ExpiredToken</Code>"), Failure::Denied { .. }));
    for text in ["503 <Code>SlowDown</Code>", "429", "500", "timed out", "400 <Code>RequestTimeout</Code>"] {
        assert!(matches!(generic(text), Failure::Unavailable { .. }), "{text}");
    }
}
