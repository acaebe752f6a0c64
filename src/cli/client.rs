//! A small HTTP/1.1 client for the control listener.

use std::{env, fmt, fs, future::Future, path::PathBuf, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Body, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::{Exit, Failure, with_causes};
use crate::tls::Trust;

/// Long enough for a far region, short enough for a person who waits.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// From the request to the head of its answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// The largest whole answer, and the largest line of a stream.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What need not be escaped in a path segment or query value (RFC 3986, unreserved).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Which drain to ask.
#[derive(Debug, clap::Args)]
pub(super) struct ClientArgs {
    /// The drain's control listener; its token comes from FLEETDRAIN_TOKEN
    #[arg(long, value_name = "URL", env = "FLEETDRAIN_URL", default_value = "http://127.0.0.1:8081", global = true)]
    url: String,
    /// For https: believe only whom the certificates in this PEM file name, instead of whom this system believes
    #[arg(long, value_name = "FILE", env = "FLEETDRAIN_CA_FILE", global = true)]
    ca_file: Option<PathBuf>,
}

/// Runs a client command until it ends or is interrupted.
pub(super) fn block_on(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(Failure::io("cannot start the runtime"))?;
    let exit = runtime.block_on(async {
        tokio::select! {
            exit = command => exit,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.map(|()| Exit::Interrupted).map_err(Failure::io("cannot wait for signals"))
            }
        }
    });
    // A name lookup may still hang on a thread of its own; nobody waits for it.
    runtime.shutdown_background();
    exit
}

/// Where a drain is.
#[derive(Debug)]
pub(super) struct Target {
    host: String,
    port: u16,
    is_https: bool,
    /// As in the URL, for the Host header.
    authority: String,
    /// A path before `/api`, where the drain stands behind a proxy; without a slash at its end.
    prefix: String,
}

impl Target {
    /// Reads a URL with nothing behind its path.
    pub(super) fn parse(url: &str) -> Result<Self, Failure> {
        let bad = |why: &str| Failure::Usage(format!("--url {url:?}: {why}"));
        let uri: Uri = url.parse().map_err(|_| bad("not a URL such as http://127.0.0.1:8081"))?;
        let is_https = match uri.scheme_str() {
            Some("http") | None => false,
            Some("https") => true,
            Some(_) => return Err(bad("the scheme must be http or https")),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("the token comes from FLEETDRAIN_TOKEN, not from the URL"));
        }
        if uri.query().is_some() {
            return Err(bad("it must not have a query"));
        }
        Ok(Self {
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(if is_https { 443 } else { 80 }),
            is_https,
            authority: authority.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.prefix)
    }
}

/// Asks one drain.
#[derive(Debug)]
pub(super) struct Client {
    target: Target,
    /// Set for https.
    trust: Option<Trust>,
    token: Option<String>,
}

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{status} from {url}: {detail}")]
    Refused { url: String, status: StatusCode, detail: String, had_token: bool },
}

impl AskError {
    /// Whether the same question may be answered later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused { status: StatusCode::UNAUTHORIZED, had_token: true, .. } => Self::BadToken,
            AskError::Refused { status: StatusCode::UNAUTHORIZED, had_token: false, .. } => Self::NoToken,
            AskError::Refused { status: StatusCode::BAD_REQUEST, detail, .. } => Self::Usage(detail),
            error => Self::Unavailable(error.to_string()),
        }
    }
}

impl Client {
    /// Reads the URL and `FLEETDRAIN_TOKEN`.
    pub(super) fn new(args: &ClientArgs) -> Result<Self, Failure> {
        let token = env::var("FLEETDRAIN_TOKEN").ok().map(|token| token.trim().to_owned());
        let token = token.filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Failure::Usage("FLEETDRAIN_TOKEN holds a blank or a character that is not ASCII".to_owned()));
        }
        let target = Target::parse(&args.url)?;
        let trust = target.is_https.then(|| trust(args.ca_file.as_ref())).transpose()?;
        Ok(Self { target, trust, token })
    }

    /// Asks for `path`, which begins with a slash and is escaped; whatever the status of the answer.
    pub(super) async fn ask(&self, path: &str, accept: &str) -> Result<Response<Incoming>, AskError> {
        self.tell(Method::GET, path, accept).await
    }

    async fn tell(&self, method: Method, path: &str, accept: &str) -> Result<Response<Incoming>, AskError> {
        let unreachable = |reason: &dyn fmt::Display| self.unreachable(reason);
        let connect = timeout(CONNECT_DEADLINE, self.connect());
        let mut sender = connect.await.map_err(|_| unreachable(&"no connection within 10s"))??;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.target.prefix))
            .header(header::HOST, &self.target.authority)
            .header(header::ACCEPT, accept)
            .header(header::USER_AGENT, concat!("fleetdrain/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| unreachable(&e))?;
        let answer = timeout(ANSWER_DEADLINE, sender.send_request(request));
        answer.await.map_err(|_| unreachable(&"no answer within 30s"))?.map_err(|e| unreachable(&e))
    }

    /// A connection, which lives as long as its answer: it ends when the body is read or dropped, and with the runtime.
    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, AskError> {
        let Target { host, port, .. } = &self.target;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| self.unreachable(&error))?;
        let sender = match &self.trust {
            None => handshake(stream).await,
            Some(trust) => {
                let stream = trust.connect(host, stream).await.map_err(|error| self.unreachable(&error))?;
                handshake(stream).await
            }
        };
        sender.map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, reason: &dyn fmt::Display) -> AskError {
        AskError::Unreachable { url: self.target.to_string(), reason: reason.to_string() }
    }

    /// Asks for a whole document; also gives back one that came with a status that is no success.
    pub(super) async fn ask_whole(&self, path: &str) -> Result<(StatusCode, Bytes), AskError> {
        self.tell_whole(Method::GET, path).await
    }

    async fn tell_whole(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), AskError> {
        let answer = self.tell(method, path, "application/json").await?;
        let status = answer.status();
        let body = timeout(ANSWER_DEADLINE, whole(answer.into_body())).await;
        let body = body.map_err(|_| self.unreachable(&"the answer did not end within 30s"))?;
        let body = body.map_err(|reason| self.unreachable(&reason))?;
        Ok((status, body))
    }

    /// Asks for a whole document of a successful answer.
    pub(super) async fn ask_document(&self, path: &str) -> Result<Bytes, AskError> {
        self.tell_document(Method::GET, path).await
    }

    /// Has the drain do something, and asks for the whole document of a successful answer.
    pub(super) async fn tell_document(&self, method: Method, path: &str) -> Result<Bytes, AskError> {
        let (status, body) = self.tell_whole(method, path).await?;
        if status.is_success() { Ok(body) } else { Err(self.refused(status, &body)) }
    }

    /// Asks for a stream of lines.
    pub(super) async fn ask_lines(&self, path: &str) -> Result<(StatusCode, Lines<Incoming>), AskError> {
        let answer = self.ask(path, "application/x-ndjson").await?;
        let status = answer.status();
        if status.is_success() {
            return Ok((status, Lines::new(answer.into_body())));
        }
        let body =
            timeout(ANSWER_DEADLINE, whole(answer.into_body())).await.ok().and_then(Result::ok).unwrap_or_default();
        Err(self.refused(status, &body))
    }

    pub(super) fn refused(&self, status: StatusCode, body: &[u8]) -> AskError {
        let (had_token, mut detail) = (self.token.is_some(), detail(body));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            detail
                .push_str(": it looks like the listener for senders, and readers ask the control listener (port 8081)");
        }
        AskError::Refused { url: self.target.to_string(), status, detail, had_token }
    }
}

/// Whom to believe.
fn trust(ca_file: Option<&PathBuf>) -> Result<Trust, Failure> {
    let Some(path) = ca_file else {
        return Trust::system().map_err(|error| Failure::Usage(with_causes(&error)));
    };
    let pem = fs::read(path).map_err(Failure::io(format!("--ca-file {}", path.display())))?;
    Trust::from_pem(&pem)
        .map_err(|error| Failure::Usage(format!("--ca-file {}: {}", path.display(), with_causes(&error))))
}

/// HTTP over whatever stream there is.
async fn handshake<S>(stream: S) -> hyper::Result<SendRequest<Empty<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn whole(body: Incoming) -> Result<Bytes, String> {
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
}

/// What an error says of itself: `application/problem+json` (RFC 9457), else its first line.
fn detail(body: &[u8]) -> String {
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let member = |name: &str| problem.as_ref().and_then(|problem| problem.get(name)?.as_str().map(str::to_owned));
    let line = || String::from_utf8_lossy(body).lines().next().unwrap_or_default().chars().take(200).collect();
    member("detail").or_else(|| member("title")).unwrap_or_else(line)
}

/// `text` as a path segment or query value.
pub(super) fn encode(text: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(text, RESERVED)
}

/// A path with a query.
#[derive(Debug)]
pub(super) struct Query {
    path: String,
    separator: char,
}

impl Query {
    pub(super) fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), separator: '?' }
    }

    pub(super) fn push(&mut self, name: &str, value: &str) {
        self.path.push_str(&format!("{}{name}={}", self.separator, encode(value)));
        self.separator = '&';
    }

    pub(super) fn into_path(self) -> String {
        self.path
    }
}

/// Cuts a body into lines.
#[derive(Debug)]
pub(super) struct Lines<B> {
    body: B,
    buffer: Vec<u8>,
}

impl<B> Lines<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    fn new(body: B) -> Self {
        Self { body, buffer: Vec::new() }
    }

    /// The next whole lines, together, the last line break included; `None` at the end of the body. What comes after the last
    /// line break of a body that ends is no line: the connection broke there.
    ///
    /// Cancel safe: what was read stays here.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() else { continue };
            let Some(end) = memchr::memrchr(b'\n', &data) else {
                if self.buffer.len() + data.len() > ANSWER_BYTES_MAX {
                    return Err(format!("a line of more than {ANSWER_BYTES_MAX} bytes"));
                }
                self.buffer.extend_from_slice(&data);
                continue;
            };
            let mut lines = std::mem::take(&mut self.buffer);
            lines.extend_from_slice(&data[..=end]);
            self.buffer.extend_from_slice(&data[end + 1..]);
            return Ok(Some(lines));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, Failure> {
        Target::parse(url)
    }

    #[test]
    fn urls_name_host_port_and_prefix() {
        let drain = target("http://[fdaa::3]:9000/drain/").unwrap();
        assert_eq!((drain.host.as_str(), drain.port, drain.prefix.as_str()), ("fdaa::3", 9000, "/drain"));
        assert_eq!(drain.authority, "[fdaa::3]:9000");
        let drain = target("localhost:8081").unwrap();
        assert_eq!((drain.host.as_str(), drain.port, drain.prefix.as_str()), ("localhost", 8081, ""));
        assert_eq!(target("http://drain").unwrap().port, 80);
        assert_eq!(target("https://drain").unwrap().port, 443);
        for url in ["https://drain:1/x", "http://drain"] {
            assert_eq!(target(url).unwrap().to_string(), url);
        }
    }

    #[test]
    fn urls_that_cannot_be_asked_are_usage_errors() {
        for url in ["ftp://drain", "http://user@drain", "http://drain/?q=1", "", "http://"] {
            let failure = target(url).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage, "{url}");
        }
    }

    #[test]
    fn query_values_are_escaped() {
        let mut query = Query::new(format!("/machines/{}/logs", encode("a/b?c")));
        query.push("include", "a&b=c d+é");
        query.push("last", "5");
        assert_eq!(query.into_path(), "/machines/a%2Fb%3Fc/logs?include=a%26b%3Dc%20d%2B%C3%A9&last=5");
    }

    #[test]
    fn problems_speak_through_their_detail() {
        assert_eq!(detail(br#"{"title":"Bad Request","detail":"include: not a regex"}"#), "include: not a regex");
        assert_eq!(detail(br#"{"title":"Bad Request"}"#), "Bad Request");
        assert_eq!(detail(b"nope\nmore"), "nope");
    }
}
