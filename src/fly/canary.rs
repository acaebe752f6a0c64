//! A numbered line on our own standard output, which Fly carries back: it tells whether Fly or we are silent.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    io::{self, Write},
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use memchr::memmem::Finder;

use super::FlyCounters;

/// How often one flies.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// This process's canaries.
pub(super) struct Canary {
    token: String,
    finder: Finder<'static>,
    /// A full pipe must block nothing but the thread behind this.
    writer: SyncSender<String>,
    number: u64,
}

impl Canary {
    pub(super) fn new(counters: Arc<FlyCounters>) -> io::Result<Self> {
        // Random enough that no other process, and nobody who wants to fool us, has the same.
        let random = || RandomState::new().build_hasher().finish();
        let token = format!("canary-{:016x}{:016x}", random(), random());
        let (writer, lines) = sync_channel::<String>(1);
        thread::Builder::new().name("fly-canary".to_owned()).spawn(move || {
            while let Ok(line) = lines.recv() {
                // Whole under the lock, so that it never stands within a line of somebody else's.
                let mut out = io::stdout().lock();
                if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok() {
                    counters.canary_sent.fetch_add(1, Relaxed);
                }
            }
        })?;
        Ok(Self { finder: Finder::new(&token).into_owned(), token, writer, number: 0 })
    }

    /// Sends one; none while the last is still being written.
    pub(super) fn send(&mut self) {
        let line = format!("{{\"fleetdrain\":\"{}.{}.{}\"}}\n", self.token, self.number + 1, micros_now());
        if self.writer.try_send(line).is_ok() {
            self.number += 1;
        }
    }

    /// How long a canary was under way, if `record` carries one of ours.
    pub(super) fn lag(&self, record: &[u8]) -> Option<Duration> {
        let at = self.finder.find(record)?;
        let mut rest = record[at + self.token.len()..].split(|byte| !byte.is_ascii_digit());
        let mut number = || std::str::from_utf8(rest.next()?).ok()?.parse::<u64>().ok();
        // Between the token and the first dot stands nothing.
        let (none, _number, sent) = (number(), number()?, number()?);
        none.is_none().then(|| Duration::from_micros(micros_now().saturating_sub(sent)))
    }
}

fn micros_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
