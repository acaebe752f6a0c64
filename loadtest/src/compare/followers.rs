//! Readers over HTTP that only count: a comparison is about the drain, and the reader must not be what limits it.

use crate::client::{Broken, Connection, Target};
use crate::failure::Failure;
use crate::generate::machine_id;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Without a line for so long, what is missing does not come any more.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// One connection a machine, each following its queue.
#[derive(Debug)]
pub(super) struct Followers {
    read: Vec<Arc<AtomicU64>>,
    expected: Vec<u64>,
    broken: Arc<Mutex<Option<String>>>,
}

impl Followers {
    /// Subscribes to the queues of `machines` machines of run `run`; each is there when this returns.
    pub(super) async fn connect(control: &Target, run: u32, machines: u32) -> Result<Self, Failure> {
        let broken = Arc::new(Mutex::new(None));
        let mut read = Vec::new();
        for number in 0..machines {
            let id = machine_id(run, number);
            let path = format!("/api/v1/machines/{}/queue?streams=stdout", String::from_utf8_lossy(&id));
            let opened = open(control, &path).await;
            let (connection, body) =
                opened.map_err(|error| Failure::unavailable(format!("reader {number} of {machines}: {error}")))?;
            let count = Arc::new(AtomicU64::new(0));
            read.push(Arc::clone(&count));
            let broken = Arc::clone(&broken);
            tokio::spawn(async move {
                let why = follow(body, &count).await;
                drop(connection);
                broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
            });
        }
        Ok(Self { read, expected: vec![0; machines as usize], broken })
    }

    /// What each machine was sent, to be added to what the readers must have.
    pub(super) fn expected(&mut self) -> &mut [u64] {
        &mut self.expected
    }

    /// Waits until every reader has exactly what its machine was sent.
    pub(super) async fn have_all(&self) -> Result<(), Failure> {
        let expected: u64 = self.expected.iter().sum();
        let total = || self.read.iter().map(|count| count.load(Relaxed)).sum::<u64>();
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let read = total();
            if read >= expected || since.elapsed() > SILENCE_MAX {
                break;
            }
            if read != last {
                (last, since) = (read, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if let Some(why) = self.broken.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return Err(Failure::data(format!("a reader stopped: {why}")));
        }
        let wrong = self.expected.iter().zip(&self.read).filter(|(want, read)| **want != read.load(Relaxed)).count();
        match wrong {
            0 => Ok(()),
            _ => Err(Failure::data(format!("{} lines read of {expected}, {wrong} machines wrong", total()))),
        }
    }
}

async fn open(control: &Target, path: &str) -> Result<(Connection, Incoming), Broken> {
    let mut connection = Connection::open(control, None).await?;
    let answer = connection.send(control.request(Method::GET, path).body(Full::default())?).await?;
    match answer.status() {
        StatusCode::OK => Ok((connection, answer.into_body())),
        status => Err(format!("GET {path} was answered {status}").into()),
    }
}

/// Counts until the stream ends, and says why it did.
async fn follow(mut body: Incoming, count: &AtomicU64) -> String {
    let mut lines = Lines::default();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                count.fetch_add(lines.count(&data), Relaxed);
            }
            Some(Err(error)) => return error.to_string(),
            None => return "the stream ended".to_owned(),
        }
    }
}

/// Counts newlines but for those of keep-alives, which are empty lines. An event's line is counted too and so makes the sum
/// wrong, unless as many lines are missing: hence the drain's own statistics are asked in the end.
#[derive(Debug)]
struct Lines {
    at_start: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { at_start: true }
    }
}

impl Lines {
    fn count(&mut self, data: &[u8]) -> u64 {
        let (mut lines, mut from) = (0, 0);
        for at in memchr::memchr_iter(b'\n', data) {
            lines += u64::from(at > from || !self.at_start);
            (from, self.at_start) = (at + 1, true);
        }
        self.at_start = from == data.len() && self.at_start;
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_over_any_frames_and_keep_alives_are_not() {
        let stream = b"{\"a\":1}\n\n{\"b\":2}\n{\"c\":3}\n\n";
        for cut in 0..=stream.len() {
            for second in cut..=stream.len() {
                let mut lines = Lines::default();
                let parts = [&stream[..cut], &stream[cut..second], &stream[second..]];
                assert_eq!(parts.map(|part| lines.count(part)).iter().sum::<u64>(), 3, "{cut} {second}");
            }
        }
    }
}
