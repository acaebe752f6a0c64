//! Sockets to listen on, and an accept loop that outlives a lack of file descriptors.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::RawFd,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Where senders find the drain unless told otherwise; see contract, 1.
pub(crate) const INGEST_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8080);

/// Connections that the system keeps until they are accepted; it may keep fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// A silent connection is probed after so long, and so often until it answers.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Bytes that wait in the kernel to be sent; more than one frame of lines, so that a reader that reads need not wait for the next.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 128 << 10;

/// How long to wait when there is no file descriptor for a connection: first, and at most.
const BACK_OFF_MIN: Duration = Duration::from_millis(10);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}")]
#[non_exhaustive]
pub struct ListenError {
    /// The address.
    pub addr: SocketAddr,
    /// Why.
    pub source: io::Error,
}

impl ListenError {
    pub(super) fn new(addr: SocketAddr, source: io::Error) -> Self {
        Self { addr, source }
    }
}

/// Listens on `addr`; on `[::]` for both IPv6 and IPv4, and where IPv6 is off on `0.0.0.0` in its stead.
///
/// # Errors
///
/// The address is taken, not ours, or not allowed.
pub(crate) fn listen(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    let everywhere = addr.ip() == Ipv6Addr::UNSPECIFIED;
    match bind(addr) {
        Err(error) if everywhere && no_ipv6(&error) => bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, addr.port()))),
        outcome => outcome,
    }
    .map_err(|source| ListenError::new(addr, source))
}

fn no_ipv6(error: &io::Error) -> bool {
    let none = [io::ErrorKind::Unsupported, io::ErrorKind::AddrNotAvailable];
    none.contains(&error.kind()) || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // Connections inherit it: a far side that vanished without a word does not stay for ever.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL))?;
    // The kernel takes no megabytes for a reader that has stopped reading, where it knows the option: they would be lost with it.
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Waits for the next connection, however long the system has no file descriptor for it.
///
/// Cancel safe.
pub(super) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut back_off = BACK_OFF_MIN;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it an answer may wait 40 ms for the far side's delayed acknowledgement.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) if is_exhausted(&error) => {
                if back_off == BACK_OFF_MIN {
                    tracing::warn!(%error, "no file descriptor for a new connection; trying again until there is one");
                }
                tokio::time::sleep(back_off).await;
                back_off = (2 * back_off).min(BACK_OFF_MAX);
            }
            // The connection went away before it was accepted (accept(2), "Error handling").
            Err(error) => tracing::debug!(%error, "connection not accepted"),
        }
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| exhausted.iter().any(|errno| errno.raw_os_error() == code))
}

/// Files that a process has open beside its connections: sockets to stores, the spool's and the sinks' files.
const FILES_BESIDE: usize = 1024;

/// Raises the limit on open files to what the system allows this process, and has room made for those of `connections` at once.
///
/// The usual soft limit of 1,024 is far under `ingest.connections_max`. And the kernel's table of open files doubles when it is full:
/// where there are threads, whoever opens a file then waits until every processor has let go of the old one, with all who wait for that
/// thread. Ten thousand connections that come at once were six such waits, of 9 to 22 ms.
pub(crate) fn prepare_open_files(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let allowed = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    let last = (connections + FILES_BESIDE).min(allowed.map_or(usize::MAX, |allowed| allowed as usize)) - 1;
    let Ok(file) = File::open("/dev/null") else { return };
    // Closed at once: the table stays as large.
    let made = rustix::io::fcntl_dupfd_cloexec(&file, RawFd::try_from(last).unwrap_or(RawFd::MAX));
    if let Err(error) = made {
        tracing::debug!(%error, "no room made for {connections} connections at once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_unspecified_address_takes_both_families() {
        let listener = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connected = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (_, peer) = accept(&listener).await;
        assert_eq!(peer.port(), connected.local_addr().unwrap().port());
    }

    #[test]
    fn open_files_are_raised_to_the_hard_limit_and_have_room() {
        prepare_open_files(3_000);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        if cfg!(target_os = "linux") {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
            let room = 3_000.min(limit.maximum.unwrap_or(u64::MAX));
            assert!(size.trim().parse::<u64>().unwrap() >= room, "{size}");
        }
    }
}
