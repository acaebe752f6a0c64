use tokio::{io::AsyncReadExt, sync::oneshot};

use super::*;

struct Listening {
    addr: SocketAddr,
    answers: Arc<std::sync::Mutex<Vec<(Role, u16)>>>,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

fn control<H, F>(handler: H) -> Listening
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    control_with(&Config::default(), handler)
}

fn control_with<H, F>(config: &Config, handler: H) -> Listening
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    let (counters, answers) = (Arc::<HttpCounters>::default(), Arc::<std::sync::Mutex<Vec<_>>>::default());
    let seen = Arc::clone(&answers);
    let _ = counters.on_answer.set(Box::new(move |role, code, _| seen.lock().unwrap().push((role, code))));
    let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
    let settings = Settings::control(config, counters, None);
    tracker.spawn(serve(listener, handler, settings, shutdown.clone(), tracker.clone()));
    Listening { addr, answers, shutdown, tracker }
}

/// Tells when a handler is dropped.
struct OnDrop(Option<oneshot::Sender<()>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.0.take().map(|sender| sender.send(()));
    }
}

#[tokio::test]
async fn a_reader_that_leaves_ends_its_handler() {
    let (dropped, gone) = oneshot::channel();
    let watch = Arc::new(std::sync::Mutex::new(Some(OnDrop(Some(dropped)))));
    let control = control(move |_, _| {
        let watch = watch.lock().unwrap().take();
        async move {
            let _watch = watch;
            std::future::pending().await
        }
    });
    let mut reader = TcpStream::connect(control.addr).await.unwrap();
    reader.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(reader);
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap().unwrap();
}

/// A body without an end, that tells when it is dropped.
struct Endless(#[expect(dead_code, reason = "for its drop")] OnDrop);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 4096])))))
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_for_too_long_is_cut_off() {
    let mut config = Config::default();
    config.control.stalled_after = Duration::from_millis(20);
    let (dropped, gone) = oneshot::channel();
    let watch = Arc::new(std::sync::Mutex::new(Some(OnDrop(Some(dropped)))));
    let control = control_with(&config, move |_, _| {
        let watch = watch.lock().unwrap().take();
        async move { Response::new(Endless(watch.expect("asked once")).boxed_unsync()) }
    });
    let mut reader = TcpStream::connect(control.addr).await.unwrap();
    reader.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap().unwrap();
    drop(reader);
}

#[tokio::test]
async fn a_reader_that_only_half_closes_gets_a_short_answer() {
    let control = control(|_, peer: SocketAddr| async move { Response::new(full(peer.ip().to_string())) });
    let mut reader = TcpStream::connect(control.addr).await.unwrap();
    reader.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    reader.shutdown().await.unwrap();
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1"), "{answer}");
    control.shutdown.cancel();
    control.tracker.close();
    control.tracker.wait().await;
    assert_eq!(*control.answers.lock().unwrap(), [(Role::Control, 200)]);
}
