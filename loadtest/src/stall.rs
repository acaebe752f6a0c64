//! Connections of readers that stop reading.

use crate::client::Target;
use crate::failure::Failure;
use socket2::{Domain, SockRef, Socket, Type};
use std::fmt::Display;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// The receive buffer of one that stalls: megabytes in the kernel would read on for it.
const STALLED_BUFFER: usize = 4 << 10;
/// And of one that reads on.
const READING_BUFFER: usize = 256 << 10;
/// As over Ethernet. Loopback's segments of 64 KiB have the kernel keep megabytes for each peer that does not read.
pub(crate) const SEGMENT: u32 = 1_448;
/// The head of an answer comes within this time.
const HEAD_WAIT: Duration = Duration::from_secs(20);

/// Asks for `path` and reads the head of the answer, and nothing behind it.
pub(crate) async fn open(target: &Target, path: &str) -> Result<TcpStream, Failure> {
    let failed = |error: &dyn Display| Failure::unavailable(format!("GET {path}: {error}"));
    let mut stream = connect(target).await.map_err(|error| failed(&error))?;
    // 1.0: the body is what follows, without chunks, which ten thousand readers need not take apart.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", target.authority);
    stream.write_all(request.as_bytes()).await.map_err(|error| failed(&error))?;
    let head = timeout(HEAD_WAIT, read_head(&mut stream)).await;
    let head = head.map_err(|_| failed(&"no answer"))?.map_err(|error| failed(&error))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(stream),
        _ => Err(failed(&format!("answered {}", head.lines().next().unwrap_or_default()))),
    }
}

/// From now on it reads as fast as it can.
pub(crate) fn read_on(stream: &TcpStream) {
    // What the window was made for at the beginning still bounds it: then it only takes longer.
    let _ = SockRef::from(stream).set_recv_buffer_size(READING_BUFFER);
}

async fn connect(target: &Target) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target.address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Before it is connected: both are told to the far side then.
    socket.set_recv_buffer_size(STALLED_BUFFER)?;
    socket.set_tcp_mss(SEGMENT)?;
    TcpSocket::from_std_stream(socket.into()).connect(target.address).await
}

/// Byte by byte: what follows is not to be read yet.
async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
