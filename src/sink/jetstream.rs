//! The sink `jetstream`: parcels as messages in a stream of NATS JetStream.
//!
//! A parcel becomes one message for each subject that the template gives its lines, so one if that is the same for all. Delivered is
//! what the stream has acknowledged. A message carries the id of its lines and its subject as `Nats-Msg-Id`: of the same lines sent
//! again within its duplicate window the stream keeps one. The stream is made where there is none, and left as it is where there is.
//!
//! The client is not left to reconnect by itself: messages would wait in it that nobody counts, and why it cannot would not be known.
//! A connection that ends fails what is under way on it, and the next delivery makes another.

#[cfg(test)]
mod tests;

use std::{future::ready, path::PathBuf, time::Duration};

use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Request, RequestErrorKind, ServerAddr,
    client::RequestError,
    connection::State,
    header::{NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID},
    jetstream::{
        self, ErrorCode,
        publish::PublishAck,
        response::Response,
        stream::{Config, RetentionPolicy, StorageType},
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{
    BadSetting, Delivery, Destination, Encoding, Failure, MadeFor, Parcel, ParcelBounds, Sink,
    compress::Compression,
    config::shown_host,
    encode::NOTE_BYTES,
    lots::{Lot, split, told},
    secret::{Secret, read_file, secret},
    template::Template,
    unavailable, with_causes,
};
use crate::{
    config::value::{de_duration_some, de_size_some},
    tls::{Identity, Trust, install_provider},
};

/// Messages sent and not yet acknowledged.
const IN_FLIGHT_MAX: usize = 1_000;

/// How often the server is asked whether it is there; after three without an answer the connection is over.
const PING: Duration = Duration::from_secs(10);

/// How long to wait for an answer about the stream itself.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// What a stream knows repeats by unless it is set: a few of the delivery loop's longest waits.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);

/// The most that JetStream keeps (docs.nats.io, "Streams").
const REPLICAS_MAX: usize = 5;

/// `type = "jetstream"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Servers of one cluster, with commas between; with `tls://` they must speak TLS.
    url: String,
    user: Option<String>,
    password: Option<Secret>,
    password_file: Option<PathBuf>,
    token: Option<Secret>,
    token_file: Option<PathBuf>,
    /// A user's JWT and the seed of its key, as `nsc` writes them.
    creds_file: Option<PathBuf>,
    /// Certificates in PEM: believe only whom they name.
    ca_file: Option<PathBuf>,
    /// Our own certificate and its key, for servers that ask for one.
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    /// Where messages go; `{app}`, `{region}`, `{machine}`, `{date}` and `{hour}` are the line's.
    #[serde(default = "default_subject")]
    subject: String,
    #[serde(default = "no_compression")]
    compression: Compression,
    #[serde(default = "default_stream")]
    stream: String,
    // How the stream is made where there is none.
    #[serde(default = "one")]
    replicas: usize,
    #[serde(default)]
    retention: RetentionPolicy,
    #[serde(default)]
    storage: StorageType,
    /// No bound unless it is set.
    #[serde(default, deserialize_with = "de_duration_some")]
    max_age: Option<Duration>,
    /// No bound unless it is set.
    #[serde(default, deserialize_with = "de_size_some")]
    max_bytes: Option<usize>,
    #[serde(default, deserialize_with = "de_duration_some")]
    duplicate_window: Option<Duration>,
}

fn default_stream() -> String {
    "FLEETDRAIN".to_owned()
}

fn default_subject() -> String {
    "fleetdrain.logs".to_owned()
}

fn no_compression() -> Compression {
    Compression::None
}

fn one() -> usize {
    1
}

fn bad(key: &'static str, problem: impl Into<String>) -> BadSetting {
    BadSetting { key, problem: problem.into() }
}

impl Destination for Settings {
    type Sink = JetStream;

    fn make(&self, made_for: &MadeFor) -> Result<JetStream, BadSetting> {
        install_provider();
        // Read anew for each connection; what cannot be read now is a mistake of the configuration.
        self.options()?;
        self.check_certificates()?;
        Ok(JetStream {
            servers: self.servers()?,
            template: self.template()?,
            stream: self.stream()?,
            encoding: made_for.encoding,
            settings: self.clone(),
            link: Mutex::default(),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
        })
    }

    fn parcel_defaults(&self) -> ParcelBounds {
        // With what is added to each line less than the 1 MiB that servers take as a message unless told otherwise.
        ParcelBounds { lines: 3_000, bytes: 512 << 10, age: Duration::from_secs(1) }
    }
}

impl Settings {
    fn servers(&self) -> Result<Vec<ServerAddr>, BadSetting> {
        let read = |url: &str| {
            let server: Result<ServerAddr, _> = url.trim().parse();
            let server = server.ok().filter(|server| ["nats", "tls"].contains(&server.scheme()));
            let server = server.filter(|server| !server.host().is_empty());
            let wrong = || bad("url", format!("{:?}: expected URLs such as nats://nats.example:4222", shown_host(url)));
            let server = server.ok_or_else(wrong)?;
            match server.has_user_pass() || server.password().is_some() {
                true => Err(bad("url", "a name and a password belong into user and password_file")),
                false => Ok(server),
            }
        };
        self.url.split(',').map(read).collect()
    }

    /// How to connect, with secrets as they are now.
    fn options(&self) -> Result<ConnectOptions, BadSetting> {
        let token = secret("token", "token_file", self.token.as_ref(), self.token_file.as_deref())?;
        let password = secret("password", "password_file", self.password.as_ref(), self.password_file.as_deref())?;
        let options = ConnectOptions::new();
        let mut options = match (token, &self.user, password, &self.creds_file) {
            (None, None, None, None) => options,
            (Some(token), None, None, None) => options.token(token),
            (None, Some(user), password, None) => options.user_and_password(user.clone(), password.unwrap_or_default()),
            (None, None, None, Some(path)) => {
                let creds = String::from_utf8(read_file("creds_file", path)?);
                let creds = creds.map_err(|_| bad("creds_file", "it is not UTF-8"))?;
                // What is wrong with it is not repeated: it may hold the seed.
                options
                    .credentials(&creds)
                    .map_err(|_| bad("creds_file", "it holds no JWT and seed as nsc writes them"))?
            }
            (None, None, Some(_), _) => return Err(bad("password", "it needs a user")),
            _ => return Err(bad("token", "only one of token, user and creds_file may be set")),
        };
        if let Some(path) = &self.ca_file {
            options = options.add_root_certificates(path.clone());
        }
        if let (Some(certificate), Some(key)) = (&self.cert_file, &self.key_file) {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options)
    }

    fn check_certificates(&self) -> Result<(), BadSetting> {
        if let Some(path) = &self.ca_file {
            Trust::from_pem(&read_file("ca_file", path)?).map_err(|error| bad("ca_file", error.to_string()))?;
        }
        match (&self.cert_file, &self.key_file) {
            (None, None) => Ok(()),
            (Some(certificate), Some(key)) => {
                let (certificate, key) = (read_file("cert_file", certificate)?, read_file("key_file", key)?);
                let identity = Identity::from_pem(&certificate, &key).map(drop);
                identity
                    .map_err(|error| bad(if error.is_of_key() { "key_file" } else { "cert_file" }, error.to_string()))
            }
            (Some(_), None) => Err(bad("key_file", "is missing beside cert_file")),
            (None, Some(_)) => Err(bad("cert_file", "is missing beside key_file")),
        }
    }

    /// The subject as a template of names: what stands between its dots as what stands between slashes, so that no value makes
    /// more or fewer of them. See [`subject_named`].
    fn template(&self) -> Result<Template, BadSetting> {
        let wrong = |problem: &str| bad("subject", format!("{:?}: {problem}", self.subject));
        if self.subject.contains(|char: char| !char.is_ascii_graphic() || "*>/\\".contains(char)) {
            return Err(wrong("a blank, a wildcard, a slash or a character that is not ASCII"));
        }
        if self.subject.starts_with('$') || self.subject.split('.').any(str::is_empty) {
            return Err(wrong("a part between dots is empty, or it begins with $"));
        }
        Template::parse(&self.subject.replace('.', "/"), false).map_err(|error| wrong(&error.to_string()))
    }

    fn stream(&self) -> Result<Config, BadSetting> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if self.stream.is_empty() || !self.stream.bytes().all(is_part) {
            return Err(bad("stream", format!("{:?}: expected letters, digits, - and _", self.stream)));
        }
        if !(1..=REPLICAS_MAX).contains(&self.replicas) {
            return Err(bad("replicas", format!("{} is not between 1 and {REPLICAS_MAX}", self.replicas)));
        }
        let max_bytes = self.max_bytes.map_or(Ok(-1), i64::try_from);
        let window = self.max_age.map_or(DUPLICATE_WINDOW, |age| DUPLICATE_WINDOW.min(age));
        let any = |part| if str::contains(part, '{') { "*" } else { part };
        Ok(Config {
            name: self.stream.clone(),
            subjects: vec![self.subject.split('.').map(any).collect::<Vec<_>>().join(".")],
            num_replicas: self.replicas,
            retention: self.retention,
            storage: self.storage,
            max_age: self.max_age.unwrap_or_default(),
            max_bytes: max_bytes.map_err(|_| bad("max_bytes", "is more than a stream can hold"))?,
            duplicate_window: self.duplicate_window.unwrap_or(window),
            ..Config::default()
        })
    }
}

/// The subject that a name of [`Settings::template`] stands for.
fn subject_named(name: &str) -> String {
    name.replace('.', "%2E").replace('/', ".")
}

/// A stream.
pub(crate) struct JetStream {
    settings: Settings,
    servers: Vec<ServerAddr>,
    template: Template,
    /// As it is made where there is none.
    stream: Config,
    encoding: Encoding,
    link: Mutex<Option<Link>>,
    in_flight: Semaphore,
}

impl Sink for JetStream {
    fn deliver<'a>(&'a self, parcel: &'a Parcel) -> Delivery<'a> {
        Box::pin(async move {
            let link = self.link().await?;
            let size = parcel.bytes() as usize + parcel.lines() * NOTE_BYTES;
            let mut first = Some(Vec::with_capacity(size));
            let begin = |_: &str| first.take().unwrap_or_default();
            let lots = split(parcel, &self.template, self.encoding, true, begin);
            let (count, link) = (lots.len(), &link);
            let put = |Lot { name, buffer: lines, places, id, .. }| async move {
                let put = self.put(link, subject_named(&name), &id, lines).await;
                put.err().map(|failure| (places, failure))
            };
            let putting: FuturesUnordered<_> = lots.into_iter().map(put).collect();
            told(putting.filter_map(ready).collect().await, count)
        })
    }

    /// Sends a message that says that it comes behind another that there is not: a stream that would take it refuses it for that.
    fn probe(&self) -> Delivery<'_> {
        Box::pin(async {
            let link = self.connect().await?;
            let mut headers = self.headers();
            headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, "fleetdrain-probe");
            let any = |part| if part == "*" { "fleetdrain-probe" } else { part };
            let subject = self.stream.subjects[0].split('.').map(any).collect::<Vec<_>>().join(".");
            match link.ask::<PublishAck>(&subject, headers, Bytes::new()).await? {
                Some(Response::Ok(_)) => Ok(()),
                Some(Response::Err { error }) if error.error_code() == ErrorCode::STREAM_WRONG_LAST_MESSAGE_ID => {
                    Ok(())
                }
                Some(Response::Err { error }) => Err(failure(&error)),
                None => self.probe_absent(&link, &subject).await,
            }
        })
    }

    fn concurrency_max(&self) -> usize {
        IN_FLIGHT_MAX
    }
}

impl JetStream {
    /// Sends one message and waits until the stream has it; makes the stream if there is none.
    async fn put(&self, link: &Link, subject: String, id: &str, lines: Vec<u8>) -> Result<(), Failure> {
        let _permit = self.in_flight.acquire().await;
        let body = self.settings.compression.pack_aside(lines).await?;
        let mut headers = self.headers();
        // With the subject: a parcel is several messages where lines have subjects of their own, and two sinks may fill one stream.
        headers.insert(NATS_MESSAGE_ID, format!("{id}/{subject}"));
        match self.settings.compression {
            Compression::None => {}
            Compression::Zstd => headers.insert("Content-Encoding", "zstd"),
            Compression::Gzip => headers.insert("Content-Encoding", "gzip"),
        }
        let mut answer = link.ask::<PublishAck>(&subject, headers.clone(), body.clone()).await?;
        if answer.is_none() {
            self.create(link, &subject).await?;
            answer = link.ask(&subject, headers, body).await?;
        }
        match answer {
            Some(Response::Ok(_)) => Ok(()),
            Some(Response::Err { error }) => Err(failure(&error)),
            None => Err(unavailable(format!("stream {}: no leader that takes {subject}", self.stream.name))),
        }
    }

    /// What a message says wherever it goes: a stream that is not the one that is meant does not take it.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_STREAM, self.stream.name.as_str());
        headers
    }

    /// Makes the stream, since nobody takes `subject`.
    async fn create(&self, link: &Link, subject: &str) -> Result<(), Failure> {
        let config = serde_json::to_vec(&self.stream).map_err(|error| denied(error.to_string()))?;
        match self.ask_api(link, "CREATE", config.into()).await? {
            Response::Ok(IgnoredAny) => {
                tracing::info!(stream = self.stream.name, subjects = self.stream.subjects[0], "jetstream: made");
                Ok(())
            }
            Response::Err { error } if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                Err(self.takes_not(subject))
            }
            Response::Err { error } => Err(failure(&error)),
        }
    }

    /// Whether the stream could be made, since nobody takes `subject`.
    async fn probe_absent(&self, link: &Link, subject: &str) -> Result<(), Failure> {
        match self.ask_api::<IgnoredAny>(link, "INFO", Bytes::new()).await? {
            Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(()),
            Response::Err { error } => Err(failure(&error)),
            Response::Ok(_) => Err(self.takes_not(subject)),
        }
    }

    fn takes_not(&self, subject: &str) -> Failure {
        denied(format!("stream {}: it is there, and takes nothing on {subject}", self.stream.name))
    }

    async fn ask_api<T: DeserializeOwned>(&self, link: &Link, verb: &str, body: Bytes) -> Result<Response<T>, Failure> {
        let subject = format!("$JS.API.STREAM.{verb}.{}", self.stream.name);
        let answer = timeout(API_TIMEOUT, link.ask(&subject, HeaderMap::new(), body)).await;
        let answer = answer.map_err(|_| unavailable(format!("{subject}: no answer within {API_TIMEOUT:?}")))?;
        answer?.ok_or_else(|| denied("JetStream is not enabled there".to_owned()))
    }

    /// The connection, made if there is none.
    async fn link(&self) -> Result<Link, Failure> {
        let known = self.link.lock().clone().filter(Link::is_up);
        if let Some(link) = known {
            return Ok(link);
        }
        // Two deliveries may come here at once; what the first has under way on its own connection goes on.
        let link = self.connect().await?;
        *self.link.lock() = Some(link.clone());
        Ok(link)
    }

    async fn connect(&self) -> Result<Link, Failure> {
        let (tell, told) = watch::channel(Told::default());
        let options = self.settings.options().map_err(|bad| denied(bad.to_string()))?;
        let options = options
            .name("fleetdrain")
            .ping_interval(PING)
            .request_timeout(None)
            .client_capacity(IN_FLIGHT_MAX)
            .ignore_discovered_servers()
            // Each server once: then the client ends, and with it what is under way.
            .max_reconnects(self.servers.len())
            .event_callback(move |event| {
                tell.send_modify(|told| told.note(event));
                ready(())
            });
        match options.connect(self.servers.clone()).await {
            Ok(client) => Ok(Link { client, told }),
            Err(error) => Err(not_connected(&self.settings.url, &error)),
        }
    }
}

/// One connection.
#[derive(Clone, Debug)]
struct Link {
    client: Client,
    told: watch::Receiver<Told>,
}

/// What the server has said that answers no request.
#[derive(Clone, Debug, Default)]
struct Told {
    is_over: bool,
    objection: Option<String>,
}

impl Told {
    fn note(&mut self, event: Event) {
        match event {
            Event::Disconnected | Event::Closed => self.is_over = true,
            Event::ServerError(error) => self.objection = Some(error.to_string()),
            _ => {}
        }
    }
}

impl Link {
    fn is_up(&self) -> bool {
        !self.told.borrow().is_over && self.client.connection_state() == State::Connected
    }

    /// Sends a message and waits for its answer; `None` where nobody takes such.
    async fn ask<T>(&self, subject: &str, headers: HeaderMap, body: Bytes) -> Result<Option<Response<T>>, Failure>
    where
        T: DeserializeOwned,
    {
        let mut told = self.told.clone();
        // What it objected to by now is not about this message.
        told.mark_unchanged();
        let request = Request::new().headers(headers).payload(body).timeout(None);
        let answer = tokio::select! {
            answer = self.client.send_request(subject.to_owned(), request) => answer,
            failure = objection(told, subject) => return Err(failure),
        };
        match answer {
            Ok(message) => match serde_json::from_slice(&message.payload) {
                Ok(answer) => Ok(Some(answer)),
                Err(error) => Err(unavailable(format!("{subject}: not JetStream's answer: {error}"))),
            },
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(None),
            Err(error) => Err(not_sent(&error)),
        }
    }
}

/// Waits until the connection is over, or the server will not have a message on `subject`.
async fn objection(mut told: watch::Receiver<Told>, subject: &str) -> Failure {
    let mut is_new = false;
    loop {
        let Told { is_over, objection } = told.borrow_and_update().clone();
        match objection {
            Some(reason) if is_new && reason.contains(&format!("\"{subject}\"")) => return denied(reason),
            Some(reason) if is_over && is_about_us(&reason) => return denied(reason),
            Some(reason) if is_over => return unavailable(format!("the connection is over: {reason}")),
            None if is_over => return unavailable("the connection is over".to_owned()),
            _ => {}
        }
        if told.changed().await.is_err() {
            return unavailable("the connection is over".to_owned());
        }
        is_new = true;
    }
}

/// Whether a server says that it does not know us, or no more.
fn is_about_us(reason: &str) -> bool {
    let reason = reason.to_lowercase();
    ["authorization", "authentication", "permission"].iter().any(|word| reason.contains(word))
}

fn not_connected(url: &str, error: &ConnectError) -> Failure {
    let reason = format!("{url}: {}", with_causes(error));
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => denied(reason),
        _ if is_about_us(&reason) => denied(reason),
        _ => unavailable(reason),
    }
}

fn not_sent(error: &RequestError) -> Failure {
    let reason = with_causes(error);
    match error.kind() {
        RequestErrorKind::MaxPayloadExceeded => Failure::TooLarge { reason },
        _ => unavailable(reason),
    }
}

/// What JetStream says. Nothing of it is about the lines but their size: none is ever given up for it.
fn failure(error: &jetstream::Error) -> Failure {
    let reason = format!("{error}");
    match error.error_code() {
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
            Failure::TooLarge { reason }
        }
        // Full, without a quorum, starting.
        _ if error.code() >= 500 => unavailable(reason),
        _ => denied(reason),
    }
}

fn denied(reason: String) -> Failure {
    Failure::Denied { reason }
}
