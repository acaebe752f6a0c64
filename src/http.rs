//! The two HTTP listeners: accept loop, deadlines, caps, tokens, routes.
//!
//! A connection's bytes go through `guard` to hyper, and what hyper makes of them to a handler: `ingest` for senders,
//! `read` for readers. Every connection is a task in the caller's tracker and ends by itself after the shutdown token.
//!
//! ## Metrics
//!
//! `http_requests_total`, `http_request_duration_seconds`; see `counters`.

mod account;
pub(crate) mod auth;
mod chunked;
pub(crate) mod counters;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
mod guard;
mod head;
mod hold;
mod idempotency;
pub(crate) mod ingest;
pub(crate) mod link;
pub(crate) mod listen;
pub(crate) mod problem;
pub(crate) mod read;
pub(crate) mod rejected;
pub(crate) mod status;

use std::{
    convert::Infallible,
    future::{Future, ready},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::Either};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body as _, Frame, Incoming, SizeHint},
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::{
    counters::{HttpCounters, Role},
    guard::Deadlines,
    listen::{INGEST_DEFAULT, ListenError, listen, prepare_open_files},
};
use self::{
    guard::{Guard, REFUSED_METHOD},
    link::Link,
    problem::{Problem, Reason},
};
use crate::{
    budget::Budget,
    collector::LogCollector,
    config::{Config, Ingest},
    tls::{Certificate, ServerStream},
};

/// hyper's buffer for a connection: 64 KiB beat its default of 408 KiB by 5–25 % of transport (design, 2).
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Connections over the cap that are answered 503 at once; further ones wait to be accepted.
const REFUSING_MAX: usize = 64;

/// When to come again for who found all connections taken.
const CONNECTIONS_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long an answer to a reader goes on after the reader closed its half: enough for one that only half-closed
/// (`nc -N`) to get a short answer, and short enough that a queue's lines are not handed to a reader that is gone.
const READER_HALF_CLOSED: Duration = Duration::from_millis(200);

/// After the shutdown began, what a sender still sends behind its answer is thrown away for so long at most.
const SHUTDOWN_DISCARD: Duration = Duration::from_millis(500);

/// An answer's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is there as a whole.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// How one listener treats its connections.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) role: Role,
    pub(crate) connections_max: usize,
    pub(crate) deadlines: Deadlines,
    pub(crate) counters: Arc<HttpCounters>,
    /// What to present; `None`: the listener speaks plainly.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

impl Settings {
    /// For senders: every answer reaches even who has closed its half, but who does not read it is cut off.
    pub(crate) fn ingest(config: &Ingest, counters: Arc<HttpCounters>, certificate: Option<Arc<Certificate>>) -> Self {
        let (header, idle) = (config.header_deadline, config.idle);
        let deadlines = Deadlines { header, idle, half_closed: None, write: Some(idle) };
        Self { role: Role::Ingest, connections_max: config.connections_max, deadlines, counters, certificate }
    }

    /// For readers: an answer may take for ever, and ends soon after its reader is gone. Who takes nothing of it for longer than
    /// a pager is looked at is cut off, or those who never read would have all the connections there are.
    pub(crate) fn control(config: &Config, counters: Arc<HttpCounters>, certificate: Option<Arc<Certificate>>) -> Self {
        let (header, idle) = (config.ingest.header_deadline, config.ingest.idle);
        let write = Some(config.control.stalled_after);
        let deadlines = Deadlines { header, idle, half_closed: Some(READER_HALF_CLOSED), write };
        let connections_max = config.ingest.connections_max;
        Self { role: Role::Control, connections_max, deadlines, counters, certificate }
    }
}

/// Serves `listener` until `shutdown`, then returns; connections under way end by themselves, and `tracker` knows when.
///
/// `handler` answers a request of a peer. Its future is dropped when the connection breaks or, on the control listener, the
/// peer is gone. A handler that leaves its request's body unread has its connection closed.
pub(crate) async fn serve<H, F>(
    listener: TcpListener,
    handler: H,
    settings: Settings,
    shutdown: CancellationToken,
    tracker: TaskTracker,
) where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let connections = Arc::new(Semaphore::new(settings.connections_max));
    let refusing = Arc::new(Semaphore::new(REFUSING_MAX));
    let settings = Arc::new(settings);
    let accept_all = async {
        loop {
            let (stream, peer) = listen::accept(&listener).await;
            if let Ok(place) = Arc::clone(&connections).try_acquire_owned() {
                let (handler, settings) = (handler.clone(), Arc::clone(&settings));
                let shutdown = shutdown.clone();
                match settings.certificate.clone() {
                    None => tracker.spawn(connection(stream, peer, handler, settings, shutdown, place)),
                    Some(certificate) => tracker.spawn(async move {
                        if let Some(stream) = secured(stream, peer, &certificate, &settings, &shutdown).await {
                            connection(stream, peer, handler, settings, shutdown, place).await;
                        }
                    }),
                };
            } else if let Ok(place) = Arc::clone(&refusing).acquire_owned().await {
                let (settings, shutdown) = (Arc::clone(&settings), shutdown.clone());
                match settings.certificate.clone() {
                    None => tracker.spawn(refuse_connection(stream, settings, place)),
                    Some(certificate) => tracker.spawn(async move {
                        if let Some(stream) = secured(stream, peer, &certificate, &settings, &shutdown).await {
                            refuse_connection(stream, settings, place).await;
                        }
                    }),
                };
            }
        }
    };
    let _: Option<Infallible> = shutdown.run_until_cancelled(accept_all).await;
}

/// Shakes hands with a far side that is to speak TLS; `None` where that came to nothing, and the connection is closed.
///
/// It has as long as for a head. While the drain shuts down nobody waits for it.
async fn secured(
    stream: TcpStream,
    peer: SocketAddr,
    certificate: &Certificate,
    settings: &Settings,
    shutdown: &CancellationToken,
) -> Option<Box<ServerStream<TcpStream>>> {
    // Boxed, both: a TLS stream is a thousand bytes and more, and a task has room for it at each place that it is moved to.
    let shaking = tokio::time::timeout(settings.deadlines.header, Box::pin(certificate.accept(stream)));
    match shutdown.run_until_cancelled(shaking).await? {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "no TLS handshake");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "no TLS handshake within the header deadline");
            None
        }
    }
}

/// Serves one connection to its end. Over a TCP stream or TLS: a copy of the code for each, so that the one does not pay for the
/// other.
async fn connection<S, H, F>(
    stream: S,
    peer: SocketAddr,
    handler: H,
    settings: Arc<Settings>,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin,
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let link = Link::new();
    let closing = Arc::clone(&link);
    let mut guard = Guard::new(stream, settings.deadlines, Arc::clone(&link));
    // hyper takes 16 KiB for its buffers at once: not for who says nothing, or is slow to.
    if shutdown.run_until_cancelled(guard.first_head()).await == Some(false) {
        return close(guard, &shutdown).await;
    }
    // Boxed, so that a connection without a request does not keep room for one: hyper has it from the first byte on.
    let service =
        service_fn(move |request| Box::pin(answer(request, peer, &handler, Arc::clone(&link), Arc::clone(&settings))));
    let mut builder = http1::Builder::new();
    // The guard has the header deadline: hyper's begins with the wait for a request and would end idle connections.
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(BUFFER_BYTES_MAX);
    let mut serving = builder.serve_connection(TokioIo::new(guard), service);
    // In this order: a request that is there already when the shutdown comes is to have its answer.
    let ended = tokio::select! {
        biased;
        ended = &mut serving => ended,
        () = async { shutdown.cancelled().await; closing.set_closing(); tokio::task::yield_now().await } => {
            Pin::new(&mut serving).graceful_shutdown();
            (&mut serving).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended early");
    }
    close(serving.into_parts().io.into_inner(), &shutdown).await;
}

/// Closes a connection so that the far side can read what was sent, while the drain shuts down in less time.
///
/// Boxed: it takes as much as all that comes before, for which a connection would keep room while it is open.
fn close<'a, S>(guard: Guard<S>, shutdown: &'a CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'a,
{
    Box::pin(async move {
        tokio::select! {
            () = guard.close() => {}
            () = async { shutdown.cancelled().await; tokio::time::sleep(SHUTDOWN_DISCARD).await } => {}
        }
    })
}

/// Answers one request. A connection has room for this future while a body is on its way, and an `async fn` has room twice for
/// what it takes: so nothing here is one, and no step keeps the request.
fn answer<H, F>(
    mut request: Request<Incoming>,
    peer: SocketAddr,
    handler: &H,
    link: Arc<Link>,
    settings: Arc<Settings>,
) -> impl Future<Output = Result<Response<Tracked>, Infallible>> + use<H, F>
where
    H: Fn(Request<Incoming>, SocketAddr) -> F,
    F: Future<Output = Response<Body>>,
{
    let since = Instant::now();
    let is_last = request.version() == Version::HTTP_10;
    let takes_body = settings.role == Role::Ingest && matches!(*request.method(), Method::POST | Method::PUT);
    let has_unwanted_body = !takes_body && !request.body().is_end_stream();
    let response = match refused_by_guard(&request, &link, &settings) {
        Some(problem) => Either::Left(ready(problem.response())),
        None => {
            request.extensions_mut().insert(Arc::clone(&link));
            Either::Right(handler(request, peer))
        }
    };
    response.map(move |mut response| {
        if is_last {
            // The version too: hyper adds `keep-alive` to an answer of 1.1 to a request of 1.0 that asks for it.
            *response.version_mut() = Version::HTTP_10;
        }
        if is_last || has_unwanted_body {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        settings.counters.answered(settings.role, response.status(), since.elapsed());
        Ok(response.map(|body| Tracked { body, link }))
    })
}

/// The answer to what the guard did not let through, if `request` stands in for that.
fn refused_by_guard(request: &Request<Incoming>, link: &Link, settings: &Settings) -> Option<Problem> {
    if request.method().as_str() != REFUSED_METHOD {
        return None;
    }
    let fault = link.fault()?;
    let reason = if fault.status() == StatusCode::REQUEST_TIMEOUT { Reason::TooSlow } else { Reason::BadRequest };
    if settings.role == Role::Ingest {
        settings.counters.refused(reason);
    }
    Some(Problem { reason: Some(reason), ..Problem::new(fault.status(), fault.to_string()) })
}

/// Answers 503 to a connection over the cap. An answer, and no reset: the sender is to come again.
async fn refuse_connection<S>(stream: S, settings: Arc<Settings>, _place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let after = CONNECTIONS_RETRY_AFTER.as_secs();
    let max = settings.connections_max;
    let body = format!(
        r#"{{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"all {max} connections are taken"}}"#
    );
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: {length}\r\n\
         Retry-After: {after}\r\nConnection: close\r\n\r\n{body}"
    );
    let mut guard = Guard::new(stream, settings.deadlines, Link::new());
    if guard.write_all(answer.as_bytes()).await.is_ok() && guard.flush().await.is_ok() {
        settings.counters.answered(settings.role, StatusCode::SERVICE_UNAVAILABLE, Duration::ZERO);
        guard.close_after_refusal().await;
    }
}

/// An answer's body that tells the link when hyper lets go of it.
struct Tracked {
    body: Body,
    link: Arc<Link>,
}

impl hyper::body::Body for Tracked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.link.end();
    }
}

/// A running ingest listener, for this crate's own end-to-end tests.
#[doc(hidden)]
#[derive(Debug)]
pub struct IngestListener {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it charges bodies to.
    pub budget: Arc<Budget>,
    counters: Arc<HttpCounters>,
    rejected: Arc<rejected::RejectedRecords>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

impl IngestListener {
    /// Listens as `config` says and serves until [`IngestListener::stop`].
    ///
    /// # Errors
    ///
    /// The address cannot be bound.
    pub fn start(config: &Config, collector: LogCollector) -> Result<Self, ListenError> {
        let listener = listen(config.ingest.listen.unwrap_or(listen::INGEST_DEFAULT))?;
        let addr = listener.local_addr().map_err(|source| ListenError::new(listen::INGEST_DEFAULT, source))?;
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        let counters = Arc::<HttpCounters>::default();
        let tokens = Arc::new(auth::Tokens::new(&config.ingest.tokens));
        let rejected = Arc::<rejected::RejectedRecords>::default();
        let budget = Arc::clone(collector.budget());
        let shared = (Arc::clone(&counters), Arc::clone(&rejected));
        let ingest = ingest::Ingest::new(config, collector, tokens, shared.0, shared.1, shutdown.clone());
        let handler = move |request, _| Arc::clone(&ingest).answer(request);
        let certificate = config.ingest.identity.as_ref().map(|identity| Arc::new(Certificate::new(identity)));
        let settings = Settings::ingest(&config.ingest, Arc::clone(&counters), certificate);
        tracker.spawn(serve(listener, handler, settings, shutdown.clone(), tracker.clone()));
        Ok(Self { addr, budget, counters, rejected, shutdown, tracker })
    }

    /// How many bodies were refused for `reason`.
    #[must_use]
    pub fn refused(&self, reason: &str) -> u64 {
        let refused = self.counters.bodies_refused();
        Reason::ALL.iter().zip(refused).find(|(one, _)| one.as_str() == reason).map_or(0, |(_, count)| count)
    }

    /// How many rejected records are kept for a look at them.
    #[must_use]
    pub fn rejected(&self) -> usize {
        self.rejected.newest_first().len()
    }

    /// Stops accepting and waits for all connections to end.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests;
