//! A sender that counts: one body after the other over one connection, each until its fate is known.

use super::body::{Body, Maker};
use super::ledger::{Fate, Ledger};
use super::view::NAMED_MAX;
use crate::client::{Answer, Broken, Connection, Target, chain};
use crate::failure::Failure;
use crate::random::Random;
use http_body_util::Full;
use hyper::{Method, StatusCode, header};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A try must be answered within this time: a drain that holds a sender refuses it after `backpressure.wait`, 10 s.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// A sender that is behind its pace by more than this does not make up for it.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// What all senders and who directs them share.
#[derive(Debug)]
pub(super) struct Shared {
    epoch: Instant,
    acknowledged: AtomicU64,
    last_acknowledged: AtomicU64,
    /// Of the first sender, which has the machine whose queue may block: whole bodies acknowledged, and bodies answered 429.
    last_whole: AtomicU64,
    last_blocked: AtomicU64,
    /// Records a second of all senders together, as the bits of a float.
    pace: AtomicU64,
    finish: AtomicBool,
    /// How often the drain was killed.
    killed: AtomicU64,
}

impl Shared {
    pub(super) fn new(pace: f64) -> Self {
        let zero = AtomicU64::default;
        Self {
            epoch: Instant::now(),
            acknowledged: zero(),
            last_acknowledged: zero(),
            last_whole: zero(),
            last_blocked: zero(),
            pace: pace.to_bits().into(),
            finish: AtomicBool::default(),
            killed: zero(),
        }
    }

    fn note(&self, records: u64) {
        self.acknowledged.fetch_add(records, Relaxed);
        self.last_acknowledged.store(self.micros(), Relaxed);
    }

    fn micros(&self) -> u64 {
        self.epoch.elapsed().as_micros() as u64
    }

    fn is_since(&self, last: &AtomicU64, since: Instant) -> bool {
        u128::from(last.load(Relaxed)) >= (since - self.epoch).as_micros()
    }

    /// Sets how many records a second are sent from now on, of all senders together.
    pub(super) fn set_pace(&self, records_per_second: f64) {
        self.pace.store(records_per_second.to_bits(), Relaxed);
    }

    fn pace(&self) -> f64 {
        f64::from_bits(self.pace.load(Relaxed))
    }

    /// Whether a body with a record of each of the first sender's machines was acknowledged at `since` or later.
    pub(super) fn unblocked_since(&self, since: Instant) -> bool {
        self.is_since(&self.last_whole, since)
    }

    /// Whether the first sender was answered 429 at `since` or later.
    pub(super) fn blocked_since(&self, since: Instant) -> bool {
        self.is_since(&self.last_blocked, since)
    }

    /// Records acknowledged so far.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Relaxed)
    }

    /// Whether a body was acknowledged at `since` or later.
    pub(super) fn acknowledged_since(&self, since: Instant) -> bool {
        self.is_since(&self.last_acknowledged, since)
    }

    /// The drain is about to be killed.
    pub(super) fn kills(&self) {
        self.killed.fetch_add(1, Relaxed);
    }

    /// Tells the senders to bring the body that they are at to its end, and stop.
    pub(super) fn finish(&self) {
        self.finish.store(true, Relaxed);
    }

    fn is_finishing(&self) -> bool {
        self.finish.load(Relaxed)
    }
}

/// What a sender did and was told.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Tally {
    pub(super) bodies: u64,
    /// Cut off within their encoding.
    pub(super) broken_bodies: u64,
    pub(super) records: u64,
    pub(super) acknowledged_records: u64,
    /// Tries by status.
    pub(super) answers: BTreeMap<u16, u64>,
    /// Answers 200 by what they say is promised.
    pub(super) acks: BTreeMap<String, u64>,
    /// Tries that broke off without an answer.
    pub(super) unanswered: u64,
    /// Of them, those whose sender hung up.
    pub(super) abandoned: u64,
    /// Tries answered `Fleetdrain-Ack: unknown`.
    pub(super) unknown: u64,
    /// Answers that say that the body had been taken before.
    pub(super) duplicates: u64,
    /// Bodies given up without having been acknowledged.
    pub(super) given_up: u64,
    pub(super) connections: u64,
    /// Answers that the contract does not allow.
    pub(super) wrong: u64,
    #[serde(skip)]
    pub(super) wrong_named: Vec<String>,
    /// How long each answer 429 or 503 took from when the body was sent, in microseconds.
    #[serde(skip)]
    pub(super) refusals: Vec<u32>,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.bodies += other.bodies;
        self.broken_bodies += other.broken_bodies;
        self.records += other.records;
        self.acknowledged_records += other.acknowledged_records;
        other.answers.into_iter().for_each(|(status, count)| *self.answers.entry(status).or_default() += count);
        other.acks.into_iter().for_each(|(ack, count)| *self.acks.entry(ack).or_default() += count);
        self.unanswered += other.unanswered;
        self.abandoned += other.abandoned;
        self.unknown += other.unknown;
        self.duplicates += other.duplicates;
        self.given_up += other.given_up;
        self.connections += other.connections;
        self.wrong += other.wrong;
        self.wrong_named.extend(other.wrong_named);
        self.wrong_named.truncate(NAMED_MAX);
        self.refusals.extend(other.refusals);
    }

    fn wrong(&mut self, text: String) {
        self.wrong += 1;
        if self.wrong_named.len() < NAMED_MAX {
            self.wrong_named.push(text);
        }
    }
}

/// How a try ended.
enum Tried {
    Acknowledged,
    Refused,
    /// It may have been taken.
    Open,
    /// There was no connection to send it over.
    NotSent,
}

/// One connection's worth of the fleet.
pub(super) struct Sender {
    pub(super) run: u32,
    pub(super) number: usize,
    pub(super) target: Target,
    pub(super) maker: Maker,
    pub(super) random: Random,
    /// Whether bodies have an `Idempotency-Key`.
    pub(super) keys: bool,
    pub(super) has_spool: bool,
    /// Of the pace that all of them share.
    pub(super) share: f64,
    pub(super) shared: Arc<Shared>,
    pub(super) ledger: Ledger,
    pub(super) tally: Tally,
    pub(super) connection: Option<Connection>,
}

impl Sender {
    /// Sends until it is told to finish, and comes back with what it learned.
    pub(super) async fn send(mut self) -> Result<Self, Failure> {
        let mut due = Instant::now();
        while !self.shared.is_finishing() {
            let body = self.maker.body()?;
            tokio::time::sleep_until(due.into()).await;
            self.settle(&body).await;
            let records = (body.records.end - body.records.start) as f64;
            due += Duration::from_secs_f64(records / (self.share * self.shared.pace()));
            due = due.max(Instant::now().checked_sub(BEHIND_MAX).unwrap_or(due));
        }
        Ok(self)
    }

    async fn settle(&mut self, body: &Body) {
        let records = body.records.end - body.records.start;
        let mut fate = Fate { is_broken: body.is_broken, ..Fate::default() };
        loop {
            let is_first = fate.open == 0 && fate.refused == 0;
            match self.attempt(body, is_first).await {
                Tried::Acknowledged => {
                    fate.acknowledged = true;
                    self.shared.note(records);
                    if self.number == 0 && records >= self.maker.machines() {
                        self.shared.last_whole.store(self.shared.micros(), Relaxed);
                    }
                    self.tally.acknowledged_records += records;
                    break;
                }
                Tried::Refused => fate.refused = fate.refused.saturating_add(1),
                Tried::Open => fate.open = fate.open.saturating_add(1),
                Tried::NotSent => {}
            }
            if self.gives_up(fate) {
                self.tally.given_up += 1;
                break;
            }
            tokio::time::sleep(Duration::from_millis(5 + self.random.below(40) as u64)).await;
        }
        self.tally.bodies += 1;
        self.tally.broken_bodies += u64::from(body.is_broken);
        self.tally.records += records;
        self.ledger.settle(body.records.end, fate);
    }

    /// Some bodies are not repeated: where a drain says that it took nothing, nothing must be found. One that may have been
    /// taken is only given up without a key: with one, repeating it until it is acknowledged is what makes it exactly once.
    fn gives_up(&mut self, fate: Fate) -> bool {
        let tried = fate.refused > 0 || fate.open > 0;
        if !tried {
            return false;
        }
        fate.is_broken || ((fate.open == 0 || !self.keys) && self.random.below(4) == 0)
    }

    async fn attempt(&mut self, body: &Body, is_first: bool) -> Tried {
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            let Ok(connection) = Connection::open(&self.target, None).await else { return Tried::NotSent };
            self.connection = Some(connection);
            self.tally.connections += 1;
        }
        let abandoned = body.abandoned.filter(|_| is_first);
        let killed = self.shared.killed.load(Relaxed);
        match tokio::time::timeout(abandoned.unwrap_or(ANSWER_WAIT), self.exchange(body)).await {
            Ok(Ok((answer, sent))) => {
                self.time(answer.status, sent);
                self.judge(body, &answer)
            }
            Ok(Err(error)) => {
                self.connection = None;
                // Nothing of it has gone out: hyper gave the request back.
                if chain(&*error).contains("operation was canceled") {
                    return Tried::NotSent;
                }
                self.tally.unanswered += 1;
                Tried::Open
            }
            Err(_) => {
                self.connection = None;
                self.tally.unanswered += 1;
                self.tally.abandoned += u64::from(abandoned.is_some());
                if abandoned.is_none() {
                    // After a kill there is nobody to answer: the kernel owes the connection's end.
                    let (range, kills) = (&body.records, self.shared.killed.load(Relaxed) - killed);
                    self.tally.wrong(format!(
                        "no answer within {ANSWER_WAIT:?}, and {kills} kills, to records {range:?} of sender {}",
                        self.number
                    ));
                }
                Tried::Open
            }
        }
    }

    /// The answer, and since when it could be expected.
    async fn exchange(&mut self, body: &Body) -> Result<(Answer, Instant), Broken> {
        let mut request = self.target.request(Method::POST, "/").header(header::CONTENT_TYPE, "application/json");
        if let Some(encoding) = body.encoding.header() {
            request = request.header(header::CONTENT_ENCODING, encoding);
        }
        if self.keys {
            request =
                request.header("idempotency-key", format!("{:08x}-{}-{}", self.run, self.number, body.records.start));
        }
        let request = request.body(body.bytes.clone())?;
        let connection = self.connection.as_mut().ok_or("no connection")?;
        let sent = Instant::now();
        let (answer, sent) = match body.takes {
            None => (connection.exchange(request.map(Full::new)).await?, sent),
            Some(takes) => connection.exchange_slowly(request, takes).await?,
        };
        if answer.headers.get(header::CONNECTION).is_some_and(|value| value == "close") {
            self.connection = None;
        }
        Ok((answer, sent))
    }

    fn time(&mut self, status: StatusCode, sent: Instant) {
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            self.tally.refusals.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        if status == StatusCode::TOO_MANY_REQUESTS && self.number == 0 {
            self.shared.last_blocked.store(self.shared.micros(), Relaxed);
        }
    }

    fn judge(&mut self, body: &Body, answer: &Answer) -> Tried {
        *self.tally.answers.entry(answer.status.as_u16()).or_default() += 1;
        let ack = answer.headers.get("fleetdrain-ack").and_then(|ack| ack.to_str().ok()).unwrap_or("none").to_owned();
        match answer.status {
            StatusCode::OK => {
                self.account(body, answer, &ack);
                *self.tally.acks.entry(ack).or_default() += 1;
                Tried::Acknowledged
            }
            StatusCode::BAD_REQUEST if body.is_broken => Tried::Refused,
            StatusCode::SERVICE_UNAVAILABLE if ack == "unknown" => {
                self.tally.unknown += 1;
                self.expect_retry_after(answer);
                Tried::Open
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                self.expect_retry_after(answer);
                Tried::Refused
            }
            status => {
                self.tally.wrong(format!("{} was answered {status}: {}", self.text(body), excerpt(answer)));
                Tried::Refused
            }
        }
    }

    /// Checks an answer 200: every record of the body is accounted for, and by whom they are kept is told.
    fn account(&mut self, body: &Body, answer: &Answer, ack: &str) {
        let records = body.records.end - body.records.start;
        let is_durable = ["disk", "sink", "jetstream"].contains(&ack);
        if body.is_broken {
            self.tally.wrong(format!("{}, which cannot be decoded, was answered 200", self.text(body)));
        }
        if is_durable != self.has_spool {
            self.tally.wrong(format!("{} was answered 200 with Fleetdrain-Ack: {ack}", self.text(body)));
        }
        let account = answer.account().unwrap_or_default();
        self.tally.duplicates += u64::from(account.duplicate);
        let is_accepted = account.accepted == records || !self.has_spool;
        if !account.balances() || account.received != records || !is_accepted {
            self.tally.wrong(format!("{} was answered 200 with the account {}", self.text(body), excerpt(answer)));
        }
    }

    fn expect_retry_after(&mut self, answer: &Answer) {
        if !answer.headers.contains_key(header::RETRY_AFTER) {
            self.tally.wrong(format!("{} without Retry-After: {}", answer.status, excerpt(answer)));
        }
    }

    fn text(&self, body: &Body) -> String {
        let (Body { records, encoding, .. }, number) = (body, self.number);
        format!("the body of sender {number} with its records {records:?} ({encoding:?})")
    }
}

fn excerpt(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]).into_owned()
}
