//! The straightforward server: collect the body, a `serde_json::Value` a line, owned strings, an unbounded queue and
//! a task a machine. It answers the drain's account and speaks as much of its reading side as `run` needs, so that
//! the load test itself can be tested against it. It has no bounds: do not put it anywhere near a network.

use super::{ServeArgs, serve};
use crate::encode::decode;
use crate::failure::Failure;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The naive server's options.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct NaiveArgs {
    #[command(flatten)]
    serve: ServeArgs,
    /// Lose every so many-th accepted line: shows that `run` notices
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u64).range(1..))]
    lose_every: Option<u64>,
    /// Deliver every so many-th accepted line twice: shows that `run` notices
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u64).range(1..))]
    repeat_every: Option<u64>,
    /// Refuse every so many-th body: shows what `run` makes of refusals
    #[arg(long, value_name = "BODIES", value_parser = clap::value_parser!(u64).range(1..))]
    refuse_every: Option<u64>,
}

/// Entries that a reader's frame holds at most.
const FRAME_ENTRIES: usize = 256;

#[derive(Clone, Debug, Serialize)]
struct Entry {
    machine_id: String,
    message: String,
    stream: String,
    timestamp: String,
    app_name: String,
    region: String,
}

#[derive(Debug, Default)]
struct Server {
    machines: Mutex<HashMap<String, UnboundedSender<Entry>>>,
    accepted: AtomicU64,
    rejected: AtomicU64,
    drained: AtomicU64,
    pushed: AtomicU64,
    bodies: AtomicU64,
    lose_every: Option<u64>,
    repeat_every: Option<u64>,
    refuse_every: Option<u64>,
}

type Answer = Response<Either<Full<Bytes>, QueueBody>>;

/// Runs the naive server.
pub(crate) fn run(args: &NaiveArgs) -> Result<(), Failure> {
    let &NaiveArgs { lose_every, repeat_every, refuse_every, .. } = args;
    let server = Arc::new(Server { lose_every, repeat_every, refuse_every, ..Server::default() });
    serve(&args.serve, move |stream| {
        let server = Arc::clone(&server);
        async move {
            let service = service_fn(|request| answer(&server, request));
            let _ = Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    })
}

async fn answer(server: &Arc<Server>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let segments: Vec<&str> = request.uri().path().split('/').collect();
    let answer = match (request.method(), segments.as_slice()) {
        (&Method::POST, _) => ingest(server, request).await,
        (&Method::GET, ["", "api", "v1", "machines", id, "queue"]) => server.follow(id),
        (&Method::DELETE, ["", "api", "v1", "machines", id]) => server.finish(id),
        (&Method::GET, ["", "api", "v1", "stats"]) => server.stats(),
        _ => status(StatusCode::NOT_FOUND),
    };
    Ok(answer)
}

async fn ingest(server: &Arc<Server>, request: Request<Incoming>) -> Answer {
    let encoding = request.headers().get(header::CONTENT_ENCODING).cloned();
    let Ok(body) = request.into_body().collect().await else { return status(StatusCode::BAD_REQUEST) };
    let body = body.to_bytes();
    if server.refuses() {
        let mut answer = status(StatusCode::SERVICE_UNAVAILABLE);
        answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("0"));
        return answer;
    }
    let Ok(decoded) = decode(encoding.as_ref().map(header::HeaderValue::as_bytes), &body) else {
        return status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    };
    let body = decoded.as_deref().unwrap_or(&body);
    let (mut received, mut accepted) = (0_u64, 0_u64);
    let mut take = |record: Option<Value>| {
        received += 1;
        if let Some(entry) = record.as_ref().and_then(entry) {
            accepted += 1;
            server.push_with_faults(entry);
        }
    };
    if body.first() == Some(&b'[') {
        let Ok(Value::Array(records)) = serde_json::from_slice(body) else { return status(StatusCode::BAD_REQUEST) };
        records.into_iter().for_each(|record| take(Some(record)));
    } else {
        for line in body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            take(serde_json::from_slice(line).ok());
        }
    }
    server.accepted.fetch_add(accepted, Relaxed);
    server.rejected.fetch_add(received - accepted, Relaxed);
    let rejected = received - accepted;
    document(&json!({
        "received": received, "accepted": accepted, "filtered": 0, "unrouted": 0, "rejected": rejected,
    }))
}

/// The seed's rules, without their corners.
fn entry(record: &Value) -> Option<Entry> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let app = &record["fly"]["app"];
    let machine_id = [&app["instance"], &record["instance"], &record["machine_id"]]
        .into_iter()
        .find_map(|id| id.as_str().filter(|id| !id.is_empty()))?;
    let stream = match record["stream"].as_str() {
        Some(stream) => stream.to_owned(),
        None if matches!(record["event"]["provider"].as_str(), None | Some("app")) => "stdout".to_owned(),
        None => "system".to_owned(),
    };
    Some(Entry {
        machine_id: machine_id.to_owned(),
        message: text(&record["message"]),
        stream,
        timestamp: text(&record["timestamp"]),
        app_name: text(&app["name"]),
        region: text(&record["fly"]["region"]),
    })
}

impl Server {
    fn machines(&self) -> MutexGuard<'_, HashMap<String, UnboundedSender<Entry>>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuses(&self) -> bool {
        self.refuse_every.is_some_and(|every| (self.bodies.fetch_add(1, Relaxed) + 1).is_multiple_of(every))
    }

    fn push_with_faults(self: &Arc<Self>, entry: Entry) {
        if self.lose_every.is_none() && self.repeat_every.is_none() {
            return self.push(entry);
        }
        let number = self.pushed.fetch_add(1, Relaxed) + 1;
        let hits = |every: Option<u64>| every.is_some_and(|every| number.is_multiple_of(every));
        if hits(self.repeat_every) {
            self.push(entry.clone());
        }
        if !hits(self.lose_every) {
            self.push(entry);
        }
    }

    fn push(self: &Arc<Self>, entry: Entry) {
        let mut machines = self.machines();
        let back = match machines.get(&entry.machine_id) {
            Some(queue) => queue.send(entry).err(),
            None => Some(tokio::sync::mpsc::error::SendError(entry)),
        };
        if let Some(tokio::sync::mpsc::error::SendError(entry)) = back {
            let (sender, queue) = unbounded_channel();
            tokio::spawn(drain(Arc::clone(self), queue));
            let id = entry.machine_id.clone();
            // The task that holds the other half has just been spawned.
            let _ = sender.send(entry);
            machines.insert(id, sender);
        }
    }

    fn follow(&self, id: &str) -> Answer {
        let (sender, queue) = unbounded_channel();
        self.machines().insert(id.to_owned(), sender);
        Response::new(Either::Right(QueueBody { queue, ended: false }))
    }

    fn finish(&self, id: &str) -> Answer {
        let known = self.machines().remove(id).is_some();
        status(if known { StatusCode::ACCEPTED } else { StatusCode::NOT_FOUND })
    }

    fn stats(&self) -> Answer {
        let (accepted, rejected) = (self.accepted.load(Relaxed), self.rejected.load(Relaxed));
        document(&json!({
            "lines_received": accepted + rejected, "lines_accepted": accepted, "lines_filtered": 0,
            "lines_unrouted": 0, "lines_rejected": rejected, "lines_drained": self.drained.load(Relaxed),
        }))
    }
}

async fn drain(server: Arc<Server>, mut queue: UnboundedReceiver<Entry>) {
    while let Some(entry) = queue.recv().await {
        drop(entry);
        server.drained.fetch_add(1, Relaxed);
    }
}

fn status(status: StatusCode) -> Answer {
    let mut answer = Response::new(Either::Left(Full::default()));
    *answer.status_mut() = status;
    answer
}

fn document(value: &Value) -> Answer {
    Response::new(Either::Left(Full::new(Bytes::from(value.to_string()))))
}

/// A machine's queue as NDJSON until it is finished.
#[derive(Debug)]
struct QueueBody {
    queue: UnboundedReceiver<Entry>,
    ended: bool,
}

impl Body for QueueBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut entries = Vec::new();
        let count = std::task::ready!(self.queue.poll_recv_many(cx, &mut entries, FRAME_ENTRIES));
        let mut frame = Vec::new();
        for entry in entries {
            // Strings alone always serialize.
            let _ = serde_json::to_writer(&mut frame, &entry);
            frame.push(b'\n');
        }
        if count == 0 {
            self.ended = true;
            frame.extend_from_slice(b"{\"event\":\"end\",\"reason\":\"finished\"}\n");
        }
        Poll::Ready(Some(Ok(Frame::data(frame.into()))))
    }
}
