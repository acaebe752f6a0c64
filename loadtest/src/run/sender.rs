//! One connection's worth of the fleet.

use super::meter::Meter;
use crate::client::{Account, Answer, Broken, Connection, Target, chain};
use crate::failure::Failure;
use crate::generate::{Contents, Generator, Machine, rfc3339};
use crate::scenario::{Load, Refused};
use crate::schedule::Schedule;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, StatusCode, header};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// So long a body is tried again before the run is given up.
const RETRY_FOR: Duration = Duration::from_secs(60);
/// The same of the first, where there is no answer at all.
const FIRST_FOR: Duration = Duration::from_secs(3);
/// Senders that are behind their schedule go on for so long after its end, then leave the rest unsent.
const PATIENCE: Duration = Duration::from_secs(30);
/// A longer `Retry-After` is not waited out: the run is of minutes.
const RETRY_AFTER_MAX: u64 = 10;

/// How a sender spends a stretch of time.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    /// Closed loop, until then.
    Max { until: Instant },
    /// Open loop: bodies due from `start` on and before `until`.
    Open { start: Instant, until: Instant, schedule: Schedule },
}

/// A machine that takes the place of another; the answer is the one that went, with its counts.
#[derive(Debug)]
pub(crate) struct Swap {
    pub(crate) place: usize,
    pub(crate) machine: Machine,
    pub(crate) gone: oneshot::Sender<Machine>,
}

/// What a sender did and was told.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Tally {
    pub(crate) bodies: u64,
    pub(crate) lines: u64,
    pub(crate) malformed: u64,
    pub(crate) wire_bytes: u64,
    pub(crate) account: Account,
    pub(crate) refusals: u64,
    /// Lines that were refused and not sent again (`refused = "count"`).
    pub(crate) refused_lines: u64,
    /// Senders that left bodies of their schedule unsent, because they were too far behind.
    pub(crate) cut_short: u64,
    pub(crate) duplicates: u64,
    pub(crate) broken_connections: u64,
    pub(crate) first_broken: Option<String>,
    pub(crate) reconnects: u64,
    /// Answers whose account does not fit the body.
    pub(crate) wrong_accounts: u64,
    pub(crate) first_wrong: Option<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.bodies += other.bodies;
        self.lines += other.lines;
        self.malformed += other.malformed;
        self.wire_bytes += other.wire_bytes;
        self.account.add(&other.account);
        self.refusals += other.refusals;
        self.refused_lines += other.refused_lines;
        self.cut_short += other.cut_short;
        self.duplicates += other.duplicates;
        self.broken_connections += other.broken_connections;
        self.first_broken = self.first_broken.take().or_else(|| other.first_broken.clone());
        self.reconnects += other.reconnects;
        self.wrong_accounts += other.wrong_accounts;
        self.first_wrong = self.first_wrong.take().or_else(|| other.first_wrong.clone());
    }
}

/// Sends for its machines, one body after the other.
pub(crate) struct Sender {
    pub(crate) number: usize,
    pub(crate) share: f64,
    pub(crate) generator: Generator,
    pub(crate) target: Target,
    pub(crate) load: Load,
    pub(crate) run: u32,
    pub(crate) meter: Arc<Meter>,
    pub(crate) swaps: mpsc::UnboundedReceiver<Swap>,
    /// Lines that may still be sent by all senders together.
    pub(crate) budget: Arc<AtomicU64>,
    pub(crate) tally: Tally,
    pub(crate) connection: Option<Connection>,
    pub(crate) storms: u128,
}

struct Body {
    bytes: Bytes,
    contents: Contents,
    due: Instant,
}

impl Sender {
    /// Sends by `plan` and comes back with what it learned.
    pub(crate) async fn send(mut self, plan: Plan) -> Result<Self, Failure> {
        let sent = self.send_all(plan).await;
        if sent.is_err() {
            self.meter.stop.store(true, Relaxed);
        }
        sent.map(|()| self)
    }

    async fn send_all(&mut self, plan: Plan) -> Result<(), Failure> {
        for number in 0.. {
            let (due, until) = match &plan {
                Plan::Max { until } => (Instant::now(), *until),
                Plan::Open { start, until, schedule } => (*start + schedule.due(number), *until),
            };
            if due >= until || self.meter.stop.load(Relaxed) || !self.afford() {
                return Ok(());
            }
            if Instant::now() >= until + PATIENCE {
                self.tally.cut_short += 1;
                return Ok(());
            }
            self.swap_machines();
            let body = self.body(due)?;
            tokio::time::sleep_until(due.into()).await;
            self.meter.behind(due.elapsed());
            self.deliver(body).await?;
        }
        Ok(())
    }

    /// Takes a body's lines from the budget.
    fn afford(&self) -> bool {
        let lines = self.load.lines_per_body as u64;
        self.budget.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(lines)).is_ok()
    }

    /// Between bodies: every line of the machine that goes is answered, and none will follow.
    fn swap_machines(&mut self) {
        while let Ok(swap) = self.swaps.try_recv() {
            let gone = std::mem::replace(&mut self.generator.machines[swap.place], swap.machine);
            // Who asked may have given up at the end of the run; the counts are then in the lists of the rest.
            if let Err(gone) = swap.gone.send(gone) {
                self.generator.machines[swap.place] = gone;
            }
        }
    }

    fn body(&mut self, due: Instant) -> Result<Body, Failure> {
        let timestamp = rfc3339(self.meter.unix_nanos(due));
        let micros = self.meter.since_epoch(due).as_micros() as u64;
        let mut plain = Vec::with_capacity(self.load.lines_per_body * 400);
        let contents = self.generator.body(self.load.lines_per_body, micros, &timestamp, &mut plain);
        let bytes = match self.load.encoding.header() {
            None => plain,
            Some(_) => self.load.encoding.encode(&plain).map_err(Failure::io)?,
        };
        Ok(Body { bytes: bytes.into(), contents, due })
    }

    /// Sends a body until it is taken, or refused and that is what counts.
    async fn deliver(&mut self, body: Body) -> Result<(), Failure> {
        let key = format!("{:08x}-{}-{}", self.run, self.number, self.tally.bodies);
        self.tally.bodies += 1;
        let began = Instant::now();
        loop {
            let mut broken = None;
            let wait = match self.attempt(&key, &body.bytes).await {
                Ok((answer, _)) if answer.status == StatusCode::OK => {
                    self.taken(&body, &answer);
                    return Ok(());
                }
                Ok((answer, sent)) if matches!(answer.status.as_u16(), 429 | 503) => {
                    self.tally.refusals += 1;
                    self.meter.refused(sent);
                    // A 503 that may have taken the body can only be settled by sending it again under its key.
                    let unknown = answer.headers.get("fleetdrain-ack").is_some_and(|ack| ack == "unknown");
                    if self.load.refused == Refused::Count && !unknown {
                        self.tally.refused_lines += body.contents.lines();
                        self.generator.take_back(&body.contents);
                        return Ok(());
                    }
                    retry_after(&answer)
                }
                Ok((answer, _)) => {
                    return Err(Failure::data(format!("a body was answered {}: {}", answer.status, excerpt(&answer))));
                }
                Err(error) => {
                    self.tally.broken_connections += 1;
                    self.tally.first_broken.get_or_insert_with(|| chain(&*error));
                    broken = Some(chain(&*error));
                    self.connection = None;
                    Duration::from_millis(100)
                }
            };
            // Who has never answered is not slow, but not there.
            let is_there = broken.is_none() || self.tally.bodies > 1 || self.tally.refusals > 0;
            let patience = if is_there { RETRY_FOR } else { FIRST_FOR };
            if began.elapsed() + wait > patience {
                let last = broken.unwrap_or_else(|| "it was refused each time".to_owned());
                return Err(Failure::unavailable(format!("a body was not taken within {patience:?}: {last}")));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// The answer, and from when on it could be expected.
    async fn attempt(&mut self, key: &str, body: &Bytes) -> Result<(Answer, Instant), Broken> {
        let mut request = self.target.request(Method::POST, "/").header(header::CONTENT_TYPE, "application/json");
        if let Some(encoding) = self.load.encoding.header() {
            request = request.header(header::CONTENT_ENCODING, encoding);
        }
        if self.load.idempotency_keys {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(body.clone())?;
        let takes = self.load.body_takes;
        let connection = self.connected().await?;
        let sent = Instant::now();
        let (answer, sent) = match takes {
            None => (connection.exchange(request.map(Full::new)).await?, sent),
            Some(takes) => connection.exchange_slowly(request, takes.0).await?,
        };
        // It says that it closes: whoever sends on all the same reads an end where the next answer was due.
        if answer.headers.get(header::CONNECTION).is_some_and(|value| value == "close") {
            self.connection = None;
        }
        Ok((answer, sent))
    }

    async fn connected(&mut self) -> Result<&mut Connection, Broken> {
        if let Some(every) = self.load.reconnect_every {
            let storms = self.meter.epoch.elapsed().as_nanos() / every.0.as_nanos();
            if storms != self.storms {
                self.storms = storms;
                self.connection = None;
            }
        }
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            self.connection = Some(Connection::open(&self.target, None).await?);
            self.tally.reconnects += 1;
        }
        Ok(self.connection.as_mut().expect("opened above"))
    }

    fn taken(&mut self, body: &Body, answer: &Answer) {
        let lines = body.contents.lines();
        self.meter.answered(body.due, lines);
        self.tally.lines += lines;
        self.tally.malformed += body.contents.malformed;
        self.tally.wire_bytes += body.bytes.len() as u64;
        let account = answer.account().unwrap_or_default();
        self.tally.duplicates += u64::from(account.duplicate);
        self.tally.account.add(&account);
        if !account.balances() || account.received != lines || account.rejected != body.contents.malformed {
            self.tally.wrong_accounts += 1;
            let sent = format!("{lines} lines, {} of them malformed", body.contents.malformed);
            self.tally.first_wrong.get_or_insert_with(|| format!("sent {sent}; answer {}", excerpt(answer)));
        }
    }
}

fn retry_after(answer: &Answer) -> Duration {
    let seconds = answer.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1).min(RETRY_AFTER_MAX))
}

fn excerpt(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).into_owned()
}
