//! One HTTP/1.1 connection at a time, for senders and readers.

use crate::failure::Failure;
use crate::stall;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use socket2::SockRef;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpSocket;
use tokio::time::Interval;

/// Where a listener is: `http://HOST:PORT`, nothing behind it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) authority: String,
    pub(crate) token: Option<String>,
}

impl Target {
    /// Resolves `url` once, so that no sender measures the resolver.
    pub(crate) async fn resolve(url: &str, token: Option<String>) -> Result<Self, Failure> {
        let uri: Uri = url.parse().map_err(|error| Failure::usage(format!("url {url:?}: {error}")))?;
        if uri.scheme_str() != Some("http") {
            return Err(Failure::usage(format!("url {url:?}: only http:// is spoken")));
        }
        let authority = uri.authority().ok_or_else(|| Failure::usage(format!("url {url:?}: no host")))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let mut addresses = tokio::net::lookup_host((host, authority.port_u16().unwrap_or(80)))
            .await
            .map_err(|error| Failure::unavailable(format!("{url}: {error}")))?;
        let address = addresses.next().ok_or_else(|| Failure::unavailable(format!("{url}: no address")))?;
        Ok(Self { address, authority: authority.to_string(), token })
    }

    /// A request for `path` with the Host and token that this target wants.
    pub(crate) fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let request = Request::builder().method(method).uri(path).header(header::HOST, &self.authority);
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// Sends one request without a body over a connection of its own and collects the answer.
    pub(crate) async fn call(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::unavailable(format!("{method} {path}: {error}"));
        let mut connection = Connection::open(self, None).await.map_err(|error| failed(&error))?;
        let request = self.request(method.clone(), path).body(Full::default()).map_err(|error| failed(&error))?;
        let answer = connection.send(request).await.map_err(|error| failed(&error))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|error| failed(&error))?.to_bytes();
        Ok((status, body))
    }
}

/// What is sent: a body at once, or slowly.
type Outgoing = Either<Full<Bytes>, Trickle>;

/// A body that goes out in even pieces.
#[derive(Debug)]
struct Trickle {
    rest: Bytes,
    piece_bytes: usize,
    interval: Interval,
    /// When the last piece went out.
    last: Arc<Mutex<Instant>>,
}

impl Trickle {
    const PIECES: u32 = 50;

    fn new(body: Bytes, takes: Duration, last: Arc<Mutex<Instant>>) -> Self {
        let piece_bytes = body.len().div_ceil(Self::PIECES as usize).max(1);
        Self { rest: body, piece_bytes, interval: tokio::time::interval(takes / Self::PIECES), last }
    }
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        std::task::ready!(self.interval.poll_tick(cx));
        let length = self.piece_bytes.min(self.rest.len());
        let piece = self.rest.split_to(length);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }
}

/// An open connection. Dropping it closes it, whatever is under way.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Outgoing>,
    driver: tokio::task::JoinHandle<()>,
}

/// A connection that broke, or never was.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

/// An error with its causes: hyper's own words ("connection error") hide the reason.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Connection {
    /// `receive_bytes` bounds the kernel's receive buffer: a slow reader behind megabytes of it would not look slow.
    pub(crate) async fn open(target: &Target, receive_bytes: Option<u32>) -> Result<Self, Broken> {
        let socket = if target.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
            SockRef::from(&socket).set_tcp_mss(stall::SEGMENT)?;
        }
        let stream = socket.connect(target.address).await?;
        stream.set_nodelay(true)?;
        let mut builder = Builder::new();
        if let Some(bytes) = receive_bytes {
            builder.max_buf_size((bytes as usize).max(8 * 1024));
        }
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(async move {
            // What went wrong is told to whoever waits for the answer.
            let _ = connection.await;
        });
        Ok(Self { sender, driver })
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Broken> {
        self.sender.ready().await?;
        Ok(self.sender.send_request(request.map(Either::Left)).await?)
    }

    /// Sends and collects the answer; the body goes out evenly over `takes`. Also when the last of it that was sent
    /// before the answer went out.
    pub(crate) async fn exchange_slowly(
        &mut self,
        request: Request<Bytes>,
        takes: Duration,
    ) -> Result<(Answer, Instant), Broken> {
        self.sender.ready().await?;
        let last = Arc::new(Mutex::new(Instant::now()));
        let request = request.map(|body| Either::Right(Trickle::new(body, takes, Arc::clone(&last))));
        let answer = self.sender.send_request(request).await?;
        let last = *last.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((Answer::collect(answer).await?, last))
    }

    /// Sends and collects the answer.
    pub(crate) async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Broken> {
        Answer::collect(self.send(request).await?).await
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A collected answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    async fn collect(answer: Response<Incoming>) -> Result<Self, Broken> {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Self { status: parts.status, headers: parts.headers, body })
    }

    /// The account of an answer 200, none if it has none.
    pub(crate) fn account(&self) -> Option<Account> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// What became of the records of a body, by the drain's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
pub(crate) struct Account {
    pub(crate) received: u64,
    pub(crate) accepted: u64,
    #[serde(default)]
    pub(crate) filtered: u64,
    #[serde(default)]
    pub(crate) unrouted: u64,
    pub(crate) rejected: u64,
    #[serde(default)]
    pub(crate) duplicate: bool,
}

impl Account {
    /// Whether every record has exactly one fate.
    pub(crate) fn balances(&self) -> bool {
        self.received == self.accepted + self.filtered + self.unrouted + self.rejected
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.accepted += other.accepted;
        self.filtered += other.filtered;
        self.unrouted += other.unrouted;
        self.rejected += other.rejected;
    }
}
