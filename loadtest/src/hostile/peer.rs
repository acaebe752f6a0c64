//! Peers that cost a server connections, time or memory, and how each of them was got rid of.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

/// Between two bytes of one that trickles.
const TRICKLE: Duration = Duration::from_millis(250);

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Connects and says nothing.
    Idle,
    /// Sends its head byte by byte.
    SlowHead,
    /// Sends its body byte by byte.
    SlowBody,
    /// Announces a body and is not heard of again: as one that vanished.
    SilentBody,
    /// Closes its half within the body.
    HalfBody,
    /// Sends one request after the other and reads no answer.
    NeverReads,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// Answered with this status, then closed.
    Status(u16),
    /// Closed without a word, or reset.
    Closed,
    /// Not at all, as long as it was waited for.
    StillOpen,
    /// It could not even connect.
    NotConnected(String),
}

const HEAD: &[u8] =
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n";
const SLOW_HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ";
const REQUEST: &[u8] =
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 31\r\n\r\n{\"instance\":\"m\",\"message\":\"hi\"}";

/// Behaves so until it is got rid of, or `patience` is over. When that was, counted from when it was connected.
pub(super) async fn behave(
    manner: Manner,
    address: SocketAddr,
    patience: Duration,
    connected: Arc<Notify>,
) -> (End, Duration) {
    let mut stream = match connect(manner, address).await {
        Ok(stream) => stream,
        Err(error) => return (End::NotConnected(error.to_string()), Duration::ZERO),
    };
    connected.notify_one();
    let mut began = Instant::now();
    let end = match manner {
        Manner::NeverReads => never_reads(&mut stream, patience, &mut began).await,
        _ => {
            let (mut reading, mut writing) = stream.split();
            let mut told = Vec::new();
            tokio::select! {
                () = write(manner, &mut writing) => End::StillOpen,
                end = hear(&mut reading, &mut told) => end,
                () = tokio::time::sleep(patience) => End::StillOpen,
            }
        }
    };
    (end, began.elapsed())
}

/// Never ends: whoever stops writing goes on waiting.
async fn write(manner: Manner, writing: &mut (impl AsyncWriteExt + Unpin)) {
    // What cannot be written any more is told by who reads.
    match manner {
        Manner::Idle | Manner::NeverReads => {}
        Manner::SlowHead => trickle(SLOW_HEAD, writing).await,
        Manner::SlowBody => trickle(HEAD, writing).await,
        Manner::SilentBody => drop(writing.write_all(HEAD).await),
        Manner::HalfBody => {
            let _ = writing.write_all(HEAD).await;
            let _ = writing.write_all(b"{\"instance\":\"m\",").await;
            let _ = writing.shutdown().await;
        }
    }
    std::future::pending::<()>().await;
}

async fn trickle(first: &[u8], writing: &mut (impl AsyncWriteExt + Unpin)) {
    if writing.write_all(first).await.is_err() {
        return;
    }
    loop {
        tokio::time::sleep(TRICKLE).await;
        if writing.write_all(b"x").await.is_err() {
            return;
        }
    }
}

/// Reads to the end of the connection.
async fn hear(reading: &mut (impl AsyncReadExt + Unpin), told: &mut Vec<u8>) -> End {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = reading.read(&mut buffer).await {
        told.extend_from_slice(&buffer[..count]);
    }
    status(told).map_or(End::Closed, End::Status)
}

/// The status that an answer begins with.
pub(super) fn status(told: &[u8]) -> Option<u16> {
    std::str::from_utf8(told.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).ok()?.parse().ok()
}

/// Writes until the kernel takes no more, and is got rid of when the socket is broken: then it takes an error. Its time counts
/// from when it could write no more: until then its answers were taken, by the kernel.
async fn never_reads(stream: &mut TcpStream, patience: Duration, began: &mut Instant) -> End {
    let requests = REQUEST.repeat(64);
    let mut written = 0;
    loop {
        match tokio::time::timeout(patience, stream.write(&requests[written..])).await {
            // Whole requests, in whatever pieces the kernel takes them.
            Ok(Ok(count @ 1..)) => {
                written = (written + count) % requests.len();
                *began = Instant::now();
            }
            Ok(_) => return End::Closed,
            Err(_) => return End::StillOpen,
        }
    }
}

/// A small receive buffer: megabytes in the kernel would take its answers for a long time.
async fn connect(manner: Manner, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if manner == Manner::NeverReads {
        socket.set_recv_buffer_size(4 << 10)?;
    }
    socket.connect(address).await
}
