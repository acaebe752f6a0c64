//! What a service sees of a byte stream, through the guard or without it: what tests and fuzzing compare.

use http_body_util::BodyExt;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::duplex;

use super::*;
use crate::http::{Body, full};

pub(super) const DEADLINES: Deadlines = Deadlines {
    header: Duration::from_secs(10),
    idle: Duration::from_secs(10),
    half_closed: None,
    write: Some(Duration::from_secs(10)),
};

/// What a service saw of a request: method, target, body.
pub(super) type Seen = (String, String, Vec<u8>);

/// Everything that `wire`, written in pieces of `piece` bytes, makes a service see; without its last, broken request.
pub(super) async fn seen(wire: &[u8], piece: usize, guarded: bool) -> Vec<Seen> {
    let (mut far, near) = duplex(1 << 20);
    let requests = Arc::new(Mutex::new(Vec::new()));
    let link = Link::new();
    let service = {
        let (requests, link) = (Arc::clone(&requests), Arc::clone(&link));
        service_fn(move |request: Request<Incoming>| {
            let (requests, link) = (Arc::clone(&requests), Arc::clone(&link));
            async move {
                let (head, body) = request.into_parts();
                if head.method.as_str() != REFUSED_METHOD
                    && let Ok(body) = body.collect().await
                {
                    let seen = (head.method.to_string(), head.uri.to_string(), body.to_bytes().to_vec());
                    requests.lock().push(seen);
                }
                link.end();
                Ok::<_, std::convert::Infallible>(Response::<Body>::new(full("")))
            }
        })
    };
    let write = async {
        for bytes in wire.chunks(piece) {
            if far.write_all(bytes).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = far.shutdown().await;
        let mut answers = Vec::new();
        let _ = far.read_to_end(&mut answers).await;
    };
    let mut builder = http1::Builder::new();
    builder.half_close(true);
    let serve = async {
        if guarded {
            let guard = Guard::new(near, DEADLINES, Arc::clone(&link));
            let _ = builder.serve_connection(TokioIo::new(guard), service).await;
        } else {
            let _ = builder.serve_connection(TokioIo::new(near), service).await;
        }
    };
    tokio::join!(serve, write);
    let requests = requests.lock();
    requests.clone()
}
