//! The whole drain over loopback HTTP: from a sender's body to a thousand readers in process.
//!
//! ```sh
//! cargo bench --features bench --bench end_to_end
//! ```
//!
//! A turn is one body on each connection; a connection sends its next body when the last is answered. Figures are the CPU
//! time of the server's threads, not of the senders': what a core bears, whatever else the machine does. The server has one
//! worker. The floor is bare hyper that reads bodies and throws them away. Latencies under a given load are for `loadtest/`
//! to tell.

#![allow(clippy::unwrap_used, reason = "a panic here is the bench's failure report")]
#![allow(missing_docs, reason = "criterion's macros write public items")]

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main, measurement::WallTime};
use fleetdrain::{LogCollector, LogDrainServer, LogStream, collector::CollectorConfig};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

use support::{Fleet, Random, fill_history, is_trial, machine_id, throughput};

const MACHINES: usize = 1_000;
const LINES: [usize; 3] = [10, 100, 1_000];
const CONNECTIONS: [usize; 3] = [1, 4, 32];
/// Different bodies that senders have.
const BODIES: usize = 16;
/// hyper's read buffer in the drain; the floor must not have a worse one.
const READ_BYTES: usize = 64 << 10;
/// Until a server that is done is asleep: the kernel books the time of a thread that runs at its next tick only.
const BOOKED: Duration = Duration::from_millis(1);
/// No measurement takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server on a thread of its own.
struct Server {
    addr: SocketAddr,
    /// Lines that readers have taken; the floor has no readers.
    read: Option<Arc<AtomicU64>>,
    _runtime: Runtime,
    _drain: Option<LogDrainServer>,
}

impl Server {
    /// The drain, with every machine subscribed and read in a task of its own, and a history full of bodies of so many lines.
    fn drain(lines: usize) -> Self {
        let runtime = one_worker();
        let (collector, read) = (LogCollector::default(), Arc::new(AtomicU64::new(0)));
        if !is_trial() {
            // By the thread that will take bodies: it gets the memory of those that are evicted.
            let filled = collector.clone();
            let fill = async move {
                fill_history(&filled, &Fleet::new(MACHINES), lines, CollectorConfig::default().history_bytes);
            };
            runtime.block_on(runtime.spawn(fill)).unwrap();
        }
        for number in 0..MACHINES {
            let stream = LogStream::new(collector.subscribe(&machine_id(number)).unwrap());
            runtime.spawn(count(stream, Arc::clone(&read)));
        }
        let mut drain = LogDrainServer::new(collector).host("127.0.0.1");
        runtime.block_on(drain.start()).unwrap();
        let addr = drain.ingest_addr().unwrap();
        Self { addr, read: Some(read), _runtime: runtime, _drain: Some(drain) }
    }

    fn bare_hyper() -> Self {
        let runtime = one_worker();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut http = http1::Builder::new();
                http.max_buf_size(READ_BYTES);
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service_fn(discard)));
            }
        });
        Self { addr, read: None, _runtime: runtime, _drain: None }
    }
}

fn one_worker() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn discard(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        drop(frame?);
    }
    Ok(Response::new(Empty::new()))
}

async fn count(mut stream: LogStream, read: Arc<AtomicU64>) {
    while let Some(batch) = stream.next_batch().await {
        read.fetch_add(batch.len() as u64, Relaxed);
    }
}

/// A keep-alive connection that knows just enough HTTP.
struct Sender {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Sender {
    async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, answer: Vec::new() }
    }

    /// Posts one body, and waits for the whole answer.
    async fn post(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.unwrap();
        self.answer.clear();
        while !self.is_answered() {
            assert!(self.stream.read_buf(&mut self.answer).await.unwrap() > 0, "the server has closed the connection");
        }
    }

    fn is_answered(&self) -> bool {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head_bytes) = head.parse(&self.answer).unwrap() else { return false };
        assert_eq!(head.code, Some(200));
        let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length")).unwrap();
        let body_bytes: usize = std::str::from_utf8(length.value).unwrap().parse().unwrap();
        self.answer.len() >= head_bytes + body_bytes
    }
}

fn request(body: &[u8]) -> Vec<u8> {
    let head = format!("POST / HTTP/1.1\r\nHost: drain\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// What is sent: on each connection one of these after another.
struct Load {
    connections: usize,
    lines: usize,
    requests: Arc<Vec<Vec<u8>>>,
}

impl Load {
    fn new(connections: usize, lines: usize) -> Self {
        let (fleet, mut random) = (Fleet::new(MACHINES), Random::new(1));
        let requests = (0..BODIES).map(|_| request(&fleet.body(lines, &mut random))).collect();
        Self { connections, lines, requests: Arc::new(requests) }
    }

    fn bytes_a_turn(&self) -> usize {
        self.connections * self.requests.iter().map(Vec::len).sum::<usize>() / BODIES
    }

    /// Sends so many bodies on each connection, until the last is answered and its lines are read.
    async fn send(&self, server: &Server, senders: Vec<Sender>, turns: u64) -> Vec<Sender> {
        let before = server.read.as_ref().map_or(0, |read| read.load(Relaxed));
        let mut sending = JoinSet::new();
        for (index, mut sender) in senders.into_iter().enumerate() {
            let requests = Arc::clone(&self.requests);
            sending.spawn(async move {
                let bodies = requests.iter().cycle().skip(index % BODIES);
                for (request, _) in bodies.zip(0..turns) {
                    sender.post(request).await;
                }
                sender
            });
        }
        let senders = sending.join_all().await;
        let lines = turns * (self.connections * self.lines) as u64;
        while server.read.as_ref().is_some_and(|read| read.load(Relaxed) < before + lines) {
            yield_now().await;
        }
        senders
    }

    fn bench(&self, group: &mut BenchmarkGroup<'_, WallTime>, name: &str, server: &Server) {
        group.throughput(throughput(self.connections * self.lines, self.bytes_a_turn()));
        let id = format!("{} lines, {} connections", self.lines, self.connections);
        let client = Builder::new_current_thread().enable_all().build().unwrap();
        let mut senders = Some(client.block_on(async {
            let mut senders = Vec::new();
            for _ in 0..self.connections {
                senders.push(Sender::connect(server.addr).await);
            }
            senders
        }));
        group.bench_function(BenchmarkId::new(name, id), |bench| {
            bench.iter_custom(|turns| {
                let sending = self.send(server, senders.take().unwrap(), turns);
                let start = server_cpu_time();
                client.block_on(async {
                    senders = Some(timeout(DEADLINE, sending).await.unwrap());
                    sleep(BOOKED).await;
                });
                server_cpu_time().saturating_sub(start)
            });
        });
    }
}

/// CPU time of all threads but this one, which is the senders'.
fn server_cpu_time() -> Duration {
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap();
    // The other server's threads are idle, and those that have ended are counted too.
    let own = read(ClockId::ThreadCPUTime);
    read(ClockId::ProcessCPUTime).saturating_sub(own)
}

fn end_to_end(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("end_to_end");
    let connections: &[usize] = if is_trial() { &CONNECTIONS[..2] } else { &CONNECTIONS };
    let floor = Server::bare_hyper();
    for lines in LINES {
        let drain = Server::drain(lines);
        for &connections in connections {
            let load = Load::new(connections, lines);
            load.bench(&mut group, "drain", &drain);
            load.bench(&mut group, "floor: hyper", &floor);
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = support::settings().sample_size(10);
    targets = end_to_end
}
criterion_main!(benches);
