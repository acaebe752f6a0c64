//! Bare hyper: bodies are read and thrown away. No server on this transport can be cheaper.

use super::{ServeArgs, serve};
use crate::failure::Failure;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

/// hyper's read buffer: 64 KiB beats its default by 5–25 % (design.md §2), and the ceiling should be one.
const READ_BYTES: usize = 64 * 1024;

/// Runs the ceiling.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    serve(args, |stream| async {
        let service = service_fn(discard);
        // A connection that breaks is its sender's to report.
        let _ = Builder::new().max_buf_size(READ_BYTES).serve_connection(TokioIo::new(stream), service).await;
    })
}

async fn discard(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        drop(frame?);
    }
    Ok(Response::new(Empty::new()))
}
