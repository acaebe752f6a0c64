use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Wake, Waker},
};

use proptest::prelude::*;
use tokio::io::duplex;

use super::{
    seen::{DEADLINES, seen},
    *,
};

/// A request that may be lawful or not quite.
fn request() -> impl Strategy<Value = String> {
    let version = prop_oneof![9 => Just("1.1"), 1 => Just("1.0")];
    let host = prop_oneof![9 => Just("Host: a\r\n"), 1 => Just("")];
    let length = "[a-z]{0,20}".prop_flat_map(|body| {
        let off = prop_oneof![8 => Just(0), 1 => Just(1), 1 => Just(2)];
        off.prop_map(move |off| format!("Content-Length: {}\r\n\r\n{body}", body.len() + off))
    });
    let chunk = ("[a-z]{1,20}", prop_oneof![6 => Just(""), 1 => Just(";x=y"), 1 => Just(" "), 1 => Just("\t;z")])
        .prop_map(|(data, extension)| format!("{:x}{extension}\r\n{data}\r\n", data.len()));
    let last = prop_oneof![6 => Just("0\r\n\r\n"), 1 => Just("0\r\nX: y\r\n\r\n"), 1 => Just("0\n\r\n"), 1 => Just("")];
    let coding =
        prop_oneof![8 => Just("chunked"), 1 => Just("Chunked"), 1 => Just("x, chunked"), 1 => Just("chunked,")];
    let chunked = (coding, prop::collection::vec(chunk, 0..4), last)
        .prop_map(|(coding, chunks, last)| format!("Transfer-Encoding: {coding}\r\n\r\n{}{last}", chunks.concat()));
    let none = Just("\r\n".to_owned());
    let framing = prop_oneof![3 => length, 3 => chunked, 1 => none];
    (version, host, framing, "[a-z]{1,5}")
        .prop_map(|(version, host, framing, path)| format!("POST /{path} HTTP/{version}\r\n{host}{framing}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_the_guard_passes_hyper_reads_alike(
        requests in prop::collection::vec(request(), 1..8),
        flip in prop::option::weighted(0.5, (any::<prop::sample::Index>(), any::<u8>())),
        piece in 1_usize..200,
    ) {
        let mut wire = requests.concat().into_bytes();
        if let Some((at, byte)) = flip {
            let at = at.index(wire.len());
            wire[at] = byte;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (guarded, bare) = runtime.block_on(async {
            (seen(&wire, piece, true).await, seen(&wire, wire.len(), false).await)
        });
        prop_assert!(guarded.len() <= bare.len(), "{guarded:?} {bare:?}");
        prop_assert_eq!(&guarded[..], &bare[..guarded.len()]);
        let whole = runtime.block_on(seen(&wire, wire.len(), true));
        prop_assert_eq!(guarded, whole, "the pieces make a difference");
    }
}

#[tokio::test]
async fn every_body_byte_reaches_hyper_whatever_its_buffer_holds() {
    let body = "0123456789".repeat(30_000);
    let wire = format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()).repeat(2);
    for piece in [1 << 20, 4096, 1000] {
        let seen = seen(wire.as_bytes(), piece, true).await;
        assert_eq!(seen.len(), 2);
        assert!(seen.iter().all(|(_, _, seen)| seen == body.as_bytes()));
    }
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffer() {
    let (mut far, near) = duplex(1 << 16);
    let mut guard = Guard::new(near, DEADLINES, Link::new());
    far.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut head = [0; 100];
    let length = guard.read(&mut head).await.unwrap();
    assert!(head[..length].ends_with(b"\r\n\r\n"));
    assert_eq!(guard.ahead.capacity(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silence_and_a_slow_head_end_at_their_deadlines() {
    let (header, idle) = (Duration::from_secs(3), Duration::from_secs(7));
    let deadlines = Deadlines { header, idle, ..DEADLINES };
    let (_far, near) = duplex(100);
    let since = Instant::now();
    assert!(!Guard::new(near, deadlines, Link::new()).first_head().await, "nothing is to be said");
    assert_eq!(since.elapsed(), idle);

    let (mut far, near) = duplex(100);
    let (since, link) = (Instant::now(), Link::new());
    let mut guard = Guard::new(near, deadlines, Arc::clone(&link));
    let trickle = async {
        loop {
            far.write_all(b"G").await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        is_head = guard.first_head() => assert!(is_head, "it is to be told"),
        () = trickle => {}
    }
    assert_eq!(since.elapsed(), header, "however often a byte of it comes");
    assert!(matches!(link.fault(), Some(Fault::Late)), "{:?}", link.fault());
}

#[tokio::test]
async fn who_sends_one_request_after_the_other_gives_way_to_others() {
    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let (mut far, near) = duplex(1 << 16);
    far.write_all(REQUEST.repeat(100).as_bytes()).await.unwrap();
    let link = Link::new();
    let mut guard = Guard::new(near, DEADLINES, Arc::clone(&link));
    let mut buffer = vec![0; 1 << 16];
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let mut read = || {
        let mut buf = ReadBuf::new(&mut buffer);
        let polled = Pin::new(&mut guard).poll_read(&mut Context::from_waker(&waker), &mut buf);
        (polled.is_ready(), buf.filled().len())
    };
    assert_eq!(read(), (true, REQUEST.len()));
    for _ in 0..50 {
        assert_eq!(read(), (false, 0));
        assert!(woken.0.swap(false, Relaxed), "or nobody would go on");
        assert_eq!(read(), (true, REQUEST.len()));
    }
    link.set_closing();
    for _ in 51..100 {
        assert_eq!(read(), (true, REQUEST.len()), "what is here is to have its answer");
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_its_answer_is_cut_off() {
    let (_far, near) = duplex(10);
    let mut guard = Guard::new(near, DEADLINES, Link::new());
    let error = guard.write_all(&[0; 100]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_that_reads_at_all_is_not_cut_off() {
    let (mut far, near) = duplex(10);
    let mut guard = Guard::new(near, DEADLINES, Link::new());
    let read = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(9)).await;
            far.read_exact(&mut [0; 10]).await.unwrap();
        }
    };
    let (written, ()) = tokio::join!(guard.write_all(&[0; 100]), read);
    written.unwrap();
}

#[tokio::test(start_paused = true)]
async fn discarding_ends_by_time_by_bytes_and_at_the_end() {
    let (far, near) = duplex(10);
    let since = Instant::now();
    Guard::new(near, DEADLINES, Link::new()).close_after_refusal().await;
    assert_eq!(since.elapsed(), DISCARD_TIME_MAX);
    drop(far);

    let (far, near) = duplex(10);
    drop(far);
    let since = Instant::now();
    Guard::new(near, DEADLINES, Link::new()).close_after_refusal().await;
    assert_eq!(since.elapsed(), Duration::ZERO);

    let mut endless = tokio::io::repeat(b'x');
    let since = Instant::now();
    discard(&mut endless).await.unwrap();
    // Others had their turns meanwhile, and yet it is well within its time.
    let turns = (DISCARD_BYTES_MAX / DISCARD_PACE_BYTES) as u32;
    assert_eq!(since.elapsed(), DISCARD_PACE * turns);
    assert!(since.elapsed() < DISCARD_TIME_MAX / 10);
}

/// A far side that reads nothing, as TLS meets it: writes are taken, and neither they nor the end can be sent.
struct Stuck;

impl AsyncRead for Stuck {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Stuck {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_sent_and_an_end_that_cannot_be_told_have_their_deadlines() {
    let mut guard = Guard::new(Stuck, DEADLINES, Link::new());
    let begun = Instant::now();
    assert_eq!(guard.flush().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(begun.elapsed(), DEADLINES.write.unwrap());
    let begun = Instant::now();
    guard.close().await;
    assert_eq!(begun.elapsed(), SHUTDOWN_TIME_MAX);

    // Nobody sets a deadline for a reader's answer; its end has one all the same.
    let guard = Guard::new(Stuck, Deadlines { write: None, ..DEADLINES }, Link::new());
    tokio::time::timeout(2 * SHUTDOWN_TIME_MAX, guard.close()).await.unwrap();
}
