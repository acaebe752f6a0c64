//! What systemd is told (`sd_notify(3)`): ready, reloading, stopping, and now and then that the process is well.

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::net::{SocketAddr, UnixDatagram},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

/// Where to tell it; nowhere when nobody has asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Notify {
    socket: Option<SocketAddr>,
    /// How often the process must tell that it is well, or is ended.
    watchdog: Option<Duration>,
}

impl Notify {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` ask for it.
    pub(super) fn from_env() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| match address(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET is no address: nobody is told that the drain is ready");
                None
            }
        });
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| is_for_us && *usec > 0).map(Duration::from_micros);
        Self { socket, watchdog }
    }

    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32).as_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Tells that the process is well, twice in the time that it has, until the task is dropped: also while it stops, which may
    /// take longer than that.
    pub(super) fn keep_watchdog(&self) -> AbortOnDropHandle<()> {
        let notify = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let Some(within) = notify.watchdog.filter(|_| notify.socket.is_some()) else { return };
            let mut ticks = interval(within / 2);
            loop {
                ticks.tick().await;
                notify.tell("WATCHDOG=1");
            }
        }))
    }

    fn tell(&self, what: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, what) {
            tracing::warn!(%error, what, "the service manager cannot be told");
        }
    }
}

/// A path, or on Linux the name of an abstract socket behind an `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_encoded_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(name)
}

fn send(socket: &SocketAddr, what: &str) -> io::Result<()> {
    let from = UnixDatagram::unbound()?;
    // Who does not read is no reason to wait.
    from.set_nonblocking(true)?;
    from.send_to_addr(what.as_bytes(), socket).map(drop)
}
