//! The two HTTP listeners. (Stub: the room's own engineer brings the accept loop, the guard, and `ingest`.)

pub(crate) mod auth;
pub(crate) mod problem;
pub(crate) mod read;
pub(crate) mod status;

use std::{convert::Infallible, future::Future, io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[doc(hidden)]
pub use self::read::ControlListener;
use crate::config::Ingest;

/// An answer's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is there as a whole.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

#[derive(Debug, Default)]
pub(crate) struct HttpCounters;

#[derive(Clone, Debug)]
pub(crate) struct Settings;

impl Settings {
    pub(crate) fn control(_config: &Ingest, _counters: Arc<HttpCounters>) -> Self {
        Self
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot listen")]
pub struct ListenError(#[from] io::Error);

impl ListenError {
    pub(crate) fn new(_at: SocketAddr, source: io::Error) -> Self {
        Self(source)
    }
}

pub(crate) fn listen(at: SocketAddr) -> Result<TcpListener, ListenError> {
    let listener = std::net::TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}

pub(crate) async fn serve<H, F>(
    listener: TcpListener,
    handler: H,
    _settings: Settings,
    shutdown: CancellationToken,
    tracker: TaskTracker,
) where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let Ok((stream, peer)) = accepted else { continue };
        let _ = stream.set_nodelay(true);
        let handler = handler.clone();
        let handler = handler.clone();
        let shutdown = shutdown.clone();
        tracker.spawn(async move {
            let service = service_fn(move |request| {
                let answer = handler(request, peer);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(64 << 10);
            let serving = builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(serving);
            tokio::select! {
                _ = &mut serving => {}
                () = shutdown.cancelled() => {
                    serving.as_mut().graceful_shutdown();
                    let _ = serving.await;
                }
            }
        });
    }
}
