//! A drain in few lines that keeps its bodies in one file: what `crash` itself is tested against. It takes the flags of
//! `fleetdrain serve`, and breaks each promise that `crash` judges if it is told to.

use crate::encode::decode;
use crate::failure::Failure;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

/// How long what should come at once is put off by the faults that do so.
const LATE: Duration = Duration::from_millis(100);
/// Every so many-th body is treated wrongly by the faults that do so.
const EVERY: u64 = 40;

/// The keeper's options: those of `fleetdrain serve` that `crash` uses.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct KeeperArgs {
    #[arg(long, value_name = "HOST:PORT")]
    listen: SocketAddr,
    #[arg(long, value_name = "HOST:PORT")]
    control: SocketAddr,
    #[arg(long, value_name = "DIR")]
    spool: PathBuf,
    /// Which promise it breaks
    #[arg(long, value_enum, env = "FLEETDRAIN_KEEPER__FAULT", default_value_t = Fault::None)]
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Fault {
    None,
    /// Acknowledges before it writes.
    Lose,
    /// Shows what is not yet written to who follows.
    ShowEarly,
    /// Keeps some bodies twice.
    Repeat,
    /// Does not know an earlier process's keys.
    ForgetKeys,
    /// Keeps some bodies that it refuses.
    KeepRefused,
    /// Keeps some bodies without their last record.
    Tear,
    /// Keeps some bodies back to front.
    Turn,
    /// Changes some messages.
    Alter,
    /// Numbers ids anew in each process.
    Renumber,
    /// Leaves out a line where a reader resumes.
    SkipAtResume,
    /// Says `memory` where it is on the disk.
    SayMemory,
    /// Takes nothing any more once its disk has failed.
    Sulk,
    /// Ends with 3 on SIGTERM.
    EndBadly,
}

/// A body as it stands in the file, one a line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept {
    key: String,
    /// Machine and message of each record.
    records: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Book {
    lines: Vec<(String, String)>,
    keys: HashSet<String>,
    bodies: u64,
}

impl Book {
    fn enter(&mut self, kept: Kept) {
        self.keys.insert(kept.key);
        self.lines.extend(kept.records);
    }
}

/// The file, and where the next body goes.
#[derive(Debug)]
struct Bodies {
    file: File,
    end: u64,
}

#[derive(Debug)]
struct Keeper {
    fault: Fault,
    file: Mutex<Bodies>,
    book: Mutex<Book>,
    /// Lines that an earlier process numbered.
    before: usize,
    changed: Notify,
    sulks: AtomicBool,
}

type Answer = Response<Either<Full<Bytes>, Following>>;

/// Serves until it is killed.
pub(crate) fn run(args: &KeeperArgs) -> Result<(), Failure> {
    let keeper = Arc::new(Keeper::open(args).map_err(Failure::io)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(Failure::io)?.block_on(async {
        // All of it before the first answer: with that it counts as ready, and may be read or told to end at once.
        let kind = tokio::signal::unix::SignalKind::terminate();
        let mut told = tokio::signal::unix::signal(kind).map_err(Failure::io)?;
        let ingest = TcpListener::bind(args.listen).await.map_err(Failure::io)?;
        let control = TcpListener::bind(args.control).await.map_err(Failure::io)?;
        for listener in [ingest, control] {
            tokio::spawn(accept(listener, Arc::clone(&keeper)));
        }
        told.recv().await;
        // Nothing is half done while the file is held.
        let _file = keeper.file.lock();
        std::process::exit(if args.fault == Fault::EndBadly { 3 } else { 0 })
    })
}

async fn accept(listener: TcpListener, keeper: Arc<Keeper>) {
    while let Ok((stream, _)) = listener.accept().await {
        let keeper = Arc::clone(&keeper);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&keeper, request));
            let _ = Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(keeper: &Arc<Keeper>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').collect();
    let query = request.uri().query().unwrap_or_default().to_owned();
    Ok(match (request.method(), segments.as_slice()) {
        (&Method::POST, _) => keeper.ingest(request).await,
        (&Method::GET, ["", "readyz"]) => status(StatusCode::OK),
        (&Method::PUT, ["", "api", "v1", "machines", _]) => status(StatusCode::CREATED),
        (&Method::GET, ["", "api", "v1", "tail"]) => keeper.read(None, &query),
        (&Method::GET, ["", "api", "v1", "machines", id, _]) => keeper.read(Some((*id).to_owned()), &query),
        _ => status(StatusCode::NOT_FOUND),
    })
}

impl Keeper {
    fn open(args: &KeeperArgs) -> std::io::Result<Self> {
        std::fs::create_dir_all(&args.spool)?;
        let path = args.spool.join("bodies");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let mut book = Book::default();
        // What a kill has cut off ends with no line feed, and the next body must not stand behind it.
        let whole = memchr::memrchr(b'\n', &text).map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        let lines = text[..whole].split(|&byte| byte == b'\n');
        lines.filter_map(|line| serde_json::from_slice(line).ok()).for_each(|kept| book.enter(kept));
        if args.fault == Fault::ForgetKeys {
            book.keys.clear();
        }
        let before = if args.fault == Fault::Renumber { book.lines.len() } else { 0 };
        Ok(Self {
            fault: args.fault,
            file: Bodies { file, end: whole as u64 }.into(),
            book: book.into(),
            before,
            changed: Notify::new(),
            sulks: AtomicBool::new(false),
        })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ingest(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        let header = |name: &str| request.headers().get(name).cloned();
        let (encoding, key) = (header("content-encoding"), header("idempotency-key"));
        let key = key.and_then(|key| Some(key.to_str().ok()?.to_owned())).unwrap_or_default();
        let Ok(body) = request.into_body().collect().await else { return status(StatusCode::BAD_REQUEST) };
        let body = body.to_bytes();
        let Ok(decoded) = decode(encoding.as_ref().map(header::HeaderValue::as_bytes), &body) else {
            return status(StatusCode::BAD_REQUEST);
        };
        let records = records(decoded.as_deref().unwrap_or(&body));
        let count = records.len();
        let this = Arc::clone(self);
        // To its end, even if its sender hangs up.
        let taken = tokio::spawn(async move { this.take(Kept { key, records }).await });
        match taken.await {
            Ok(refused @ (Taken::Refused | Taken::Unknown)) => {
                let mut answer = status(StatusCode::SERVICE_UNAVAILABLE);
                answer.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
                if refused == Taken::Unknown {
                    answer.headers_mut().insert("fleetdrain-ack", header::HeaderValue::from_static("unknown"));
                }
                answer
            }
            Ok(taken) => {
                let account = json!({
                    "received": count, "accepted": count, "filtered": 0, "unrouted": 0, "rejected": 0,
                    "duplicate": taken == Taken::Before,
                });
                let mut answer = Response::new(Either::Left(Full::new(Bytes::from(account.to_string()))));
                let ack = if self.fault == Fault::SayMemory { "memory" } else { "disk" };
                answer.headers_mut().insert("fleetdrain-ack", header::HeaderValue::from_static(ack));
                answer
            }
            Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    async fn take(self: Arc<Self>, mut kept: Kept) -> Taken {
        let number = {
            let mut book = self.book();
            if !kept.key.is_empty() && !book.keys.insert(kept.key.clone()) {
                return Taken::Before;
            }
            book.bodies += 1;
            book.bodies
        };
        let is_hit = |fault| self.fault == fault && number.is_multiple_of(EVERY);
        if is_hit(Fault::Tear) {
            kept.records.pop();
        }
        if is_hit(Fault::Turn) {
            kept.records.reverse();
        }
        if is_hit(Fault::Alter) {
            kept.records[0].1.push('!');
        }
        match self.fault {
            Fault::Lose => {
                let this = Arc::clone(&self);
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    this.keep(kept)
                });
                return Taken::Now;
            }
            Fault::ShowEarly => {
                self.show(kept.clone());
                tokio::time::sleep(LATE).await;
                return self.file.lock().unwrap_or_else(PoisonError::into_inner).write(&kept);
            }
            Fault::Repeat if is_hit(Fault::Repeat) => drop(self.keep(kept.clone())),
            _ => {}
        }
        let taken = self.keep(kept);
        if self.fault == Fault::ForgetKeys {
            // So that a kill comes between the two.
            tokio::time::sleep(LATE).await;
        }
        if is_hit(Fault::KeepRefused) { Taken::Refused } else { taken }
    }

    fn keep(&self, kept: Kept) -> Taken {
        if self.sulks.load(Relaxed) {
            self.book().keys.remove(&kept.key);
            return Taken::Refused;
        }
        // Shown in the file's order.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = file.write(&kept);
        match taken {
            Taken::Now => self.show(kept),
            _ => {
                self.book().keys.remove(&kept.key);
                self.sulks.store(self.fault == Fault::Sulk, Relaxed);
            }
        }
        taken
    }

    fn show(&self, kept: Kept) {
        self.book().enter(kept);
        self.changed.notify_waiters();
    }

    fn read(self: &Arc<Self>, machine: Option<String>, query: &str) -> Answer {
        let after = query.split('&').find_map(|pair| pair.strip_prefix("after="));
        let line = after.and_then(|id| usize::from_str_radix(id.split('-').nth(1)?, 16).ok());
        let next = line.map_or(0, |line| line + 1 + self.before);
        let next = if after.is_some() && self.fault == Fault::SkipAtResume { next + 1 } else { next };
        if query.contains("follow=false") {
            let mut text = self.lines(machine.as_deref(), next).0;
            text.push_str("{\"event\":\"end\",\"reason\":\"caught_up\"}\n");
            return Response::new(Either::Left(Full::new(text.into())));
        }
        let (sender, frames) = mpsc::channel(1);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let mut next = next;
            loop {
                let changed = this.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let (text, end) = this.lines(machine.as_deref(), next);
                next = end;
                if !text.is_empty() && sender.send(text.into()).await.is_err() {
                    return;
                }
                changed.await;
            }
        });
        Response::new(Either::Right(Following(frames)))
    }

    /// The lines from `next` on, and where they end.
    fn lines(&self, machine: Option<&str>, next: usize) -> (String, usize) {
        let book = self.book();
        let mut text = String::new();
        let from = next.min(book.lines.len());
        for (line, (id, message)) in book.lines.iter().enumerate().skip(from) {
            if machine.is_none_or(|machine| machine == id) {
                let number = line.checked_sub(self.before).unwrap_or(line);
                let entry = json!({"machine_id": id, "message": message, "id": format!("1-{number:x}-0-0")});
                // A String takes any write.
                let _ = writeln!(text, "{entry}");
            }
        }
        (text, book.lines.len())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Now,
    Before,
    Refused,
    Unknown,
}

impl Bodies {
    /// Writes and syncs a body. After an error nothing of it is there; how sure that is, the answer says.
    fn write(&mut self, kept: &Kept) -> Taken {
        let mut line = serde_json::to_vec(kept).expect("texts always serialize");
        line.push(b'\n');
        let written = self.file.write_all_at(&line, self.end);
        let synced = written.as_ref().map_or(Ok(()), |()| self.file.sync_data());
        if written.is_ok() && synced.is_ok() {
            self.end += line.len() as u64;
            return Taken::Now;
        }
        let _ = self.file.set_len(self.end);
        if written.is_err() { Taken::Refused } else { Taken::Unknown }
    }
}

/// Machine and message of each record, in whatever form.
fn records(body: &[u8]) -> Vec<(String, String)> {
    let values: Vec<Value> = match body.first() {
        Some(b'[') => serde_json::from_slice(body).unwrap_or_default(),
        _ => serde_json::Deserializer::from_slice(body).into_iter().map_while(Result::ok).collect(),
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    values.iter().map(|record| (text(&record["fly"]["app"]["instance"]), text(&record["message"]))).collect()
}

fn status(status: StatusCode) -> Answer {
    let mut answer = Response::new(Either::Left(Full::default()));
    *answer.status_mut() = status;
    answer
}

/// Lines as they come.
#[derive(Debug)]
struct Following(mpsc::Receiver<Bytes>);

impl Body for Following {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(|bytes| Ok(Frame::data(bytes))))
    }
}
