//! One reader of the drain's control listener, verifying what it reads.

use super::meter::Meter;
use crate::client::{Broken, Connection, Target};
use crate::generate::{MachineId, Mark, RUN_LENGTH};
use crate::scenario::{Churn, From, Readers};
use crate::verify::{Seen, Sent, Verifier};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use memchr::memmem::Finder;
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// So often a reader looks whether it has everything.
const LOOK: Duration = Duration::from_millis(100);
/// How long after DELETE the end may take to come.
const END_WAIT: Duration = Duration::from_secs(5);
/// The receive buffer of a slow reader: megabytes in the kernel would hide that it is slow.
const SLOW_BUFFER: u32 = 16 * 1024;
/// So long connecting is tried.
const CONNECT_FOR: Duration = Duration::from_secs(10);

/// A reader to be.
pub(crate) struct Reader {
    /// None: `tail`.
    pub(crate) machine: Option<MachineId>,
    pub(crate) target: Target,
    pub(crate) settings: Readers,
    pub(crate) run: [u8; RUN_LENGTH],
    pub(crate) slow: bool,
    /// Differs between readers, so that they do not churn all at once.
    pub(crate) number: u32,
    pub(crate) meter: Arc<Meter>,
    /// What was sent, once sending is over.
    pub(crate) sent: watch::Receiver<Option<Arc<Sent>>>,
}

/// What a reader has to tell in the end.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) verifier: Verifier,
    /// Whether the stream said that it is over, none if nobody ended it.
    pub(crate) ended: Option<bool>,
    pub(crate) reconnects: u64,
    pub(crate) trouble: Option<String>,
}

impl Told {
    pub(crate) fn verdict(&self, sent: &Sent) -> Seen {
        self.verifier.verdict(sent)
    }
}

#[derive(Deserialize)]
struct Event {
    event: String,
    lines: Option<u64>,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Id {
    id: serde_json::Value,
}

/// Why a stretch of reading on one connection is over.
enum Over {
    /// The stream said `end`: finished for good.
    Finished,
    /// It ended as we had asked, by `total_timeout`, or we went.
    Churned,
    /// The connection broke.
    Broken(String),
    /// Everything was read, or nothing more came.
    Complete,
}

struct Reading {
    reader: Reader,
    told: Told,
    /// Of a line that is not complete yet.
    rest: Vec<u8>,
    last: Vec<u8>,
    latencies: Vec<u64>,
    finder: Finder<'static>,
    progress: Instant,
    /// Whether we know that sending is over; only from then on does silence mean something.
    over: bool,
    finishing: Option<Instant>,
    /// From when a slow reader's pace counts, and what it had read then.
    paced_from: (Instant, u64),
}

impl Reader {
    /// Reads to the end; says `ready` when subscribed.
    pub(crate) async fn read(self, ready: oneshot::Sender<()>) -> Told {
        let streams = [true, self.settings.stderr || self.settings.from != From::Queue];
        let mut needle = self.run.to_vec();
        needle.push(b' ');
        let now = Instant::now();
        let mut reading = Reading {
            told: Told { verifier: Verifier::new(self.machine, streams), ended: None, reconnects: 0, trouble: None },
            finder: Finder::new(&needle).into_owned(),
            reader: self,
            rest: Vec::new(),
            last: Vec::new(),
            latencies: Vec::new(),
            progress: now,
            over: false,
            finishing: None,
            paced_from: (now, 0),
        };
        reading.follow(ready).await;
        reading.told
    }
}

impl Reading {
    async fn follow(&mut self, ready: oneshot::Sender<()>) {
        let mut ready = Some(ready);
        let mut give_up = Instant::now() + CONNECT_FOR;
        loop {
            match self.open().await {
                Ok(Some((connection, body))) => {
                    ready.take().map(|ready| ready.send(()));
                    let over = self.stretch(body).await;
                    drop(connection);
                    give_up = Instant::now() + CONNECT_FOR;
                    match over {
                        Over::Finished | Over::Complete => break,
                        Over::Churned => {}
                        Over::Broken(error) => {
                            self.told.trouble.get_or_insert(format!("a reader's connection broke: {error}"));
                            // Not ours to forgive: what was in it counts as lost.
                            self.rest.clear();
                            tokio::time::sleep(LOOK).await;
                            if self.complete().await {
                                break;
                            }
                        }
                    }
                    self.told.reconnects += 1;
                }
                // 204: resumed behind the end.
                Ok(None) => {
                    self.told.ended = Some(true);
                    break;
                }
                Err(error) => {
                    self.told.trouble.get_or_insert(format!("a reader could not read: {error}"));
                    if Instant::now() > give_up {
                        break;
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    fn tear_connection(&mut self) {
        self.rest.clear();
        if self.reader.settings.from == From::Queue {
            self.told.verifier.torn();
        }
    }

    async fn open(&mut self) -> Result<Option<(Connection, Incoming)>, Broken> {
        let path = self.path();
        let mut connection = Connection::open(&self.reader.target, self.reader.slow.then_some(SLOW_BUFFER)).await?;
        let request = self.reader.target.request(Method::GET, &path).body(Full::default())?;
        let answer = tokio::time::timeout(CONNECT_FOR, connection.send(request)).await??;
        match answer.status() {
            StatusCode::OK => Ok(Some((connection, answer.into_body()))),
            StatusCode::NO_CONTENT => Ok(None),
            status => Err(format!("GET {path} was answered {status}").into()),
        }
    }

    fn path(&self) -> String {
        let settings = &self.reader.settings;
        let id = self.reader.machine.map(|id| String::from_utf8_lossy(&id).into_owned()).unwrap_or_default();
        let mut path = match settings.from {
            From::Queue if settings.stderr => format!("/api/v1/machines/{id}/queue?streams=stdout,stderr"),
            From::Queue => format!("/api/v1/machines/{id}/queue?streams=stdout"),
            From::Logs => format!("/api/v1/machines/{id}/logs?backlog=true"),
            From::Tail => "/api/v1/tail".to_owned(),
        };
        if let (From::Queue, Some(full)) = (settings.from, settings.full) {
            path.push_str(&format!("&full={}", full.as_str()));
        }
        if let (Some(every), Churn::Clean) = (settings.churn_every, settings.churn)
            && self.sending()
        {
            path.push_str(&format!("&total_timeout={}ms", self.jittered(every.0).as_millis()));
        }
        if settings.from == From::Logs
            && let Ok(Id { id }) = serde_json::from_slice(&self.last)
        {
            path.push_str(&format!("&after={}", id.as_str().map_or_else(|| id.to_string(), str::to_owned)));
        }
        path
    }

    fn sending(&self) -> bool {
        !self.reader.meter.sending_over.load(Relaxed)
    }

    /// Half to one and a half of `every`, by reader and turn.
    fn jittered(&self, every: Duration) -> Duration {
        let turn = u64::from(self.reader.number).wrapping_mul(7_919) + self.told.reconnects * 104_729;
        every.mul_f64(0.5 + (turn % 1_000) as f64 / 1_000.0)
    }

    /// Reads one connection until something ends it.
    async fn stretch(&mut self, mut body: Incoming) -> Over {
        let settings = &self.reader.settings;
        let leave = match (settings.churn_every, settings.churn) {
            (Some(every), Churn::Abrupt) => Some(Instant::now() + self.jittered(every.0)),
            _ => None,
        };
        loop {
            let read = tokio::time::timeout(LOOK, body.frame()).await;
            let ended = match read {
                Ok(Some(Ok(frame))) => {
                    let ended = frame.into_data().ok().and_then(|data| self.take(&data));
                    self.be_slow().await;
                    ended
                }
                Ok(Some(Err(error))) => Some(Over::Broken(error.to_string())),
                Ok(None) => Some(Over::Broken("the stream stopped without saying `end`".to_owned())),
                Err(_) => None,
            };
            if let Some(over) = ended {
                return over;
            }
            if leave.is_some_and(|leave| Instant::now() > leave) && self.sending() {
                self.tear_connection();
                return Over::Churned;
            }
            if self.complete().await {
                return Over::Complete;
            }
        }
    }

    /// A slow reader has a steady pace while lines are sent, and catches up afterwards. What it could have read when there was
    /// less it does not make up for.
    async fn be_slow(&mut self) {
        let pace = self.reader.settings.slow_lines_per_second;
        while self.reader.slow && self.sending() {
            let (since, before) = self.paced_from;
            let read = self.told.verifier.read();
            let ahead = (read - before) as f64 - since.elapsed().as_secs_f64() * pace;
            if ahead < -pace {
                self.paced_from = (Instant::now(), read);
            }
            if ahead <= 0.0 {
                return;
            }
            tokio::time::sleep(LOOK / 4).await;
        }
    }

    /// Takes a frame apart; says how the stream ended if it did.
    fn take(&mut self, mut data: &[u8]) -> Option<Over> {
        let now = self.reader.meter.since_epoch(Instant::now()).as_micros() as u64;
        let mut over = None;
        while let Some(end) = memchr::memchr(b'\n', data) {
            let (line, behind) = (&data[..end], &data[end + 1..]);
            data = behind;
            let ended = if self.rest.is_empty() {
                self.line(line, now)
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.line(&whole, now)
            };
            over = over.or(ended);
        }
        self.rest.extend_from_slice(data);
        if !self.latencies.is_empty() {
            self.progress = Instant::now();
            self.reader.meter.read(&self.latencies);
            self.latencies.clear();
        }
        over
    }

    fn line(&mut self, line: &[u8], now: u64) -> Option<Over> {
        if let Some(mark) = self.finder.find(line).and_then(|at| Mark::read(&line[at..], &self.reader.run)) {
            self.told.verifier.line(&mark);
            self.latencies.push(now.saturating_sub(mark.due_micros));
            if self.reader.settings.from == From::Logs {
                self.last.clear();
                self.last.extend_from_slice(line);
            }
            return None;
        }
        if line.trim_ascii().is_empty() {
            return None;
        }
        match serde_json::from_slice::<Event>(line) {
            Ok(Event { event, lines, .. }) if event == "skipped" => {
                self.told.verifier.skipped(lines);
                self.progress = Instant::now();
                None
            }
            Ok(Event { event, reason, .. }) if event == "end" => Some(if reason == "total_timeout" {
                Over::Churned
            } else {
                self.told.ended = Some(reason == "finished");
                Over::Finished
            }),
            // Another run's lines are not ours to judge when all machines are watched.
            _ if self.reader.machine.is_none() => None,
            _ => {
                self.told.verifier.foreign();
                None
            }
        }
    }

    /// Whether all that was sent was read, or nothing more comes. A machine that was read to its last line is then
    /// finished, and the end awaited: it too is a promise.
    async fn complete(&mut self) -> bool {
        let Some(sent) = self.reader.sent.borrow().clone() else { return false };
        if let Some(finishing) = self.finishing {
            let overdue = finishing.elapsed() > END_WAIT;
            if overdue {
                self.told.ended = Some(false);
            }
            return overdue;
        }
        let all = self.told.verifier.at_the_end(&sent);
        if !std::mem::replace(&mut self.over, true) {
            self.progress = Instant::now();
        }
        if !all && self.progress.elapsed() < self.reader.settings.settle.0 {
            return false;
        }
        let Some(id) = self.reader.machine else { return true };
        let path = format!("/api/v1/machines/{}", String::from_utf8_lossy(&id));
        match self.reader.target.call(Method::DELETE, &path).await {
            Ok((StatusCode::ACCEPTED, _)) => {
                self.finishing = Some(Instant::now());
                false
            }
            // Never seen: nothing was sent for it.
            Ok((StatusCode::NOT_FOUND, _)) => true,
            Ok((status, _)) => {
                self.told.trouble.get_or_insert(format!("DELETE {path} was answered {status}"));
                true
            }
            Err(error) => {
                self.told.trouble.get_or_insert(error.to_string());
                true
            }
        }
    }
}
