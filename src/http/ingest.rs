//! What senders may ask: a body taken whole or refused whole, a health check, and nothing else.
//!
//! A body goes through `receive` (off the wire, decoded, charged as it grows), `build` (parsed, off the reactor if it is
//! large) and `admit`; at each step it may be held for room, all together no longer than `backpressure.wait`.
//!
//! ## Metrics
//!
//! `bodies_refused_total`, `bodies_duplicate_total`, `wire_bytes_total`, `body_bytes_total`.

mod receive;

use std::{
    future::{Future, ready},
    num::NonZero,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::Either;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{
        ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue,
        WWW_AUTHENTICATE,
    },
};
use jiff::Timestamp;
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use self::receive::Inbound;
use super::{
    Body,
    account::account,
    auth::Tokens,
    counters::HttpCounters,
    full,
    hold::{Expired, Hold, Holding},
    idempotency::{Claim, KEY_BYTES_MAX, Keys, Known},
    link::Link,
    problem::{Problem, Reason},
    rejected::RejectedRecords,
};
use crate::{
    admission::{Ack, Admission, Cause, Draft, Receipt, Refused},
    body::{BodyError, BodyLimits, Encoding},
    budget::{Budget, Permit},
    collector::LogCollector,
    config::Config,
    record::{Limits, Parsers},
};

/// The header that tells what an acknowledgement is worth.
const ACK: &str = "fleetdrain-ack";

/// Bodies over this are parsed on the blocking pool: at 400 ns a line this is about a millisecond, and other
/// connections of the same thread wait for it.
const PARSE_INLINE_BYTES_MAX: usize = 1 << 20;

/// Rejections told in an answer; see contract, 2.
const ERRORS_MAX: usize = 10;

/// When a sender should come again that was refused for want of memory, or because its first try is under way.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A body's table of rows is charged ahead of parsing as one byte in so many of the body: a 313-byte record has an
/// 80-byte row, twice while the rows are grouped. What it really is, is charged after.
const TABLE_SHARE: usize = 2;

/// What `/readyz` asks the budget for: the room of a small body.
const READY_BYTES: usize = 64 << 10;

/// Encodings that a body may have, as a 415 tells.
const ENCODINGS: &str = "identity, gzip, x-gzip, deflate, zstd, snappy";

/// The ingest listener's service.
#[derive(Debug)]
pub(crate) struct Ingest {
    collector: LogCollector,
    limits: BodyLimits,
    line_bytes_max: usize,
    body_deadline: Duration,
    ack_deadline: Duration,
    tokens: Arc<Tokens>,
    counters: Arc<HttpCounters>,
    rejected: Arc<RejectedRecords>,
    keys: Arc<Keys>,
    holding: Holding,
    parsers: Parsers,
    /// Large bodies parsed at once: one a core, so that what they hold uncharged meanwhile is bounded.
    parsing: Arc<Semaphore>,
    /// Turns at decoding for bodies that have become large: half of the cores', so that other senders find the rest.
    decoding: Semaphore,
}

impl Ingest {
    /// `shutdown`: from then on bodies are refused and held senders let go.
    pub(crate) fn new(
        config: &Config,
        collector: LogCollector,
        tokens: Arc<Tokens>,
        counters: Arc<HttpCounters>,
        rejected: Arc<RejectedRecords>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let keys = Arc::new(Keys::new(config.idempotency.clone()));
        for (key, age, receipt) in collector.recent_keys(config.idempotency.keep, config.idempotency.keys_max) {
            keys.remember(&key, age, receipt);
        }
        Arc::new(Self {
            collector,
            limits: BodyLimits {
                wire_bytes_max: config.ingest.body_bytes_max,
                decoded_bytes_max: config.ingest.decoded_bytes_max,
            },
            line_bytes_max: config.ingest.line_bytes_max,
            body_deadline: config.ingest.body_deadline,
            ack_deadline: config.ingest.ack_deadline,
            tokens,
            counters,
            rejected,
            keys,
            holding: Holding::new(config.backpressure.clone(), shutdown),
            parsers: Parsers::new(2 * cores, config.fly.boot_lines),
            parsing: Arc::new(Semaphore::new(cores)),
            decoding: Semaphore::new((cores / 2).max(1)),
        })
    }

    /// Answers one request.
    pub(crate) fn answer(self: Arc<Self>, request: Request<Incoming>) -> impl Future<Output = Response<Body>> {
        let is_probe = matches!(request.uri().path(), "/livez" | "/readyz");
        Either::Right(ready(match *request.method() {
            Method::POST | Method::PUT => return Either::Left(self.post(request)),
            Method::HEAD => self.head(request.headers()),
            Method::GET if is_probe => self.probe(request.uri().path()),
            _ => method_not_allowed(request.method(), is_probe),
        }))
    }

    fn head(&self, headers: &HeaderMap) -> Response<Body> {
        match self.authorize(headers) {
            Ok(()) => Response::new(full("")),
            // A health check is no body, so this one does not count as refused.
            Err(problem) => respond(&problem),
        }
    }

    fn probe(&self, path: &str) -> Response<Body> {
        let budget = self.collector.budget();
        let room = READY_BYTES.min(budget.body_bytes_max());
        match path {
            "/readyz" if self.holding.is_shutting_down() => shutting_down().response(),
            "/readyz" if budget.try_reserve(room).is_none() => {
                no_memory(budget, room).retry_after(RETRY_AFTER).response()
            }
            "/readyz" if !self.collector.spool_takes(room) => not_admitted(Cause::Spool, RETRY_AFTER).response(),
            _ => Response::new(full("ok\n")),
        }
    }

    fn post(self: Arc<Self>, request: Request<Incoming>) -> impl Future<Output = Response<Body>> {
        let (mut head, body) = request.into_parts();
        let link = head.extensions.remove::<Arc<Link>>();
        let terms = self.terms(&head.headers);
        let deadline = Instant::now() + self.body_deadline;
        let asks = asks(&head.headers);
        // The head ends here: it lies in hyper's buffer, which is read into again once nobody holds it.
        let mut inbound = Inbound { body, link, deadline, asks, ended: false };
        async move {
            let outcome = match terms {
                Ok(terms) => self.take(terms, &mut inbound).await,
                Err(refusal) => Err(refusal),
            };
            let mut response = match outcome {
                Ok((answer, ack)) => taken(answer, ack),
                Err(refusal) => self.refuse(&refusal),
            };
            // What is left of the body is not read as a body any more, so nothing behind it can be read either.
            if !inbound.is_over() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }

    fn refuse(&self, refusal: &Problem) -> Response<Body> {
        if let Some(reason) = refusal.reason {
            self.counters.refused(reason);
        }
        respond(refusal)
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.tokens.admit(headers) {
            return Ok(());
        }
        Err(Problem::refusal(
            Reason::Unauthorized,
            "expected a live ingest token: Bearer, or Basic with it as password",
        ))
    }

    /// What the headers of a body say of it.
    fn terms(&self, headers: &HeaderMap) -> Result<Terms, Problem> {
        self.authorize(headers)?;
        if headers.get(FROM).is_some_and(|from| *from == from_value(self.collector.epoch())) {
            let detail = "it comes from a sink of this very drain: its lines would go round for ever";
            let refusal = Problem::refusal(Reason::BadRequest, detail);
            return Err(Problem { status: StatusCode::LOOP_DETECTED, ..refusal });
        }
        Ok(Terms { key: idempotency_key(headers)?.map(Into::into), encoding: encoding(headers)? })
    }

    /// Takes a body, or nothing of it; the account as JSON, and what the answer is worth.
    ///
    /// Cancel safe: dropped before the collector took the body, nothing is taken; dropped later, all of it is, or nothing.
    async fn take(&self, terms: Terms, inbound: &mut Inbound) -> Result<(String, Ack), Problem> {
        let claim = match terms.key.map(|key| self.keys.claim(&key)) {
            None => None,
            Some(Known::New(claim)) => Some(claim),
            Some(Known::UnderWay) => {
                let detail = "a body with this Idempotency-Key is under way and not yet answered";
                return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(RETRY_AFTER));
            }
            Some(Known::Taken(receipt)) => {
                self.counters.repeated();
                inbound.skip_short().await;
                return Ok((account(&receipt, true), receipt.ack));
            }
        };
        let receipt = self.take_new(claim, terms.encoding, inbound).await?;
        Ok((account(&receipt, false), receipt.ack))
    }

    /// `claim` is settled when the body is taken, though its sender may have gone by then.
    async fn take_new(
        &self,
        claim: Option<Claim>,
        encoding: Encoding,
        inbound: &mut Inbound,
    ) -> Result<Receipt, Problem> {
        if self.holding.is_shutting_down() {
            return Err(shutting_down());
        }
        self.check_announced(inbound.announced(), &encoding)?;
        let mut hold = self.holding.hold(inbound.link.clone());
        let arrived = tokio::select! {
            biased;
            arrived = self.receive(encoding, inbound, &mut hold) => arrived?,
            () = self.holding.shutdown_grace() => return Err(shutting_down()),
        };
        // Nothing here borrows the draft: this future would keep a place for it beside that of `admit`.
        let draft = self.build(arrived, &mut hold).await?;
        if draft.received == 0 {
            let receipt = Receipt { ack: self.collector.ack(), ..Receipt::default() };
            claim.into_iter().for_each(|claim| claim.settle(&receipt));
            return Ok(receipt);
        }
        self.admit(claimed(draft, claim)?, &mut hold).await
    }

    /// Refuses by its Content-Length a body that would be refused anyway, before it is sent.
    fn check_announced(&self, announced: Option<u64>, encoding: &Encoding) -> Result<(), Problem> {
        let Some(length) = announced.map(|length| usize::try_from(length).unwrap_or(usize::MAX)) else { return Ok(()) };
        if length > self.limits.wire_bytes_max {
            let max = self.limits.wire_bytes_max;
            return Err(too_large(format!("the body is {length} bytes, over ingest.body_bytes_max = {max}")));
        }
        if !matches!(encoding, Encoding::Identity) {
            return Ok(());
        }
        if length > self.limits.decoded_bytes_max {
            let max = self.limits.decoded_bytes_max;
            return Err(too_large(format!("the body is {length} bytes, over ingest.decoded_bytes_max = {max}")));
        }
        self.check_fits(length)
    }

    fn check_fits(&self, bytes: usize) -> Result<(), Problem> {
        let max = self.collector.budget().body_bytes_max();
        if bytes <= max {
            return Ok(());
        }
        Err(too_large(format!(
            "the body needs {bytes} bytes, over the {max} that an empty memory.budget has for bodies"
        )))
    }

    /// Parses a body into a draft that is charged for what it really holds.
    async fn build(&self, mut arrived: Arrived, hold: &mut Hold<'_>) -> Result<Draft, Problem> {
        let length = arrived.bytes.len();
        let ahead = (arrived.held + length / TABLE_SHARE).min(self.collector.budget().body_bytes_max());
        self.grow(&mut arrived.permit, ahead.max(arrived.held), hold).await?;
        let held = arrived.held;
        let (mut draft, mut permit) = match length {
            0..=PARSE_INLINE_BYTES_MAX => {
                build(&self.parsers, arrived, self.record_limits(), self.collector.keeps_bodies())
            }
            _ => self.build_elsewhere(arrived).await?,
        };
        // Records that were moved out of a body of rejected ones have let go of it.
        let held = if draft.batch.bytes.len() == length { held } else { draft.batch.bytes.len() };
        self.grow(&mut permit, held + draft.batch.table_bytes(), hold).await?;
        draft.batch.permit = Some(permit);
        Ok(draft)
    }

    /// The permit and the slot go along: who hangs up meanwhile does not free what is still held.
    async fn build_elsewhere(&self, arrived: Arrived) -> Result<(Draft, Permit), Problem> {
        let slot = Arc::clone(&self.parsing).acquire_owned().await.map_err(|_| shutting_down())?;
        let (parsers, limits, whole) = (self.parsers.clone(), self.record_limits(), self.collector.keeps_bodies());
        let build = move || {
            let _slot = slot;
            build(&parsers, arrived, limits, whole)
        };
        match tokio::task::spawn_blocking(build).await {
            Ok(built) => Ok(built),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(shutting_down()),
        }
    }

    fn record_limits(&self) -> Limits {
        Limits { line_bytes_max: self.line_bytes_max, errors_max: ERRORS_MAX }
    }

    /// Offers `draft` to the collector until it is taken, or its sender was held for long enough.
    fn admit(&self, mut draft: Draft, hold: &mut Hold<'_>) -> impl Future<Output = Result<Receipt, Problem>> {
        let samples = std::mem::take(&mut draft.samples);
        let at = draft.batch.received_at;
        let mut draft = Some(draft);
        async move {
            let mut refusal = None;
            let attempt = || match self.collector.admit(draft.take()?) {
                Ok(admission) => Some(Ok(admission)),
                // Waiting makes neither better.
                Err(Refused { cause: cause @ (Cause::ShuttingDown | Cause::TooLarge), retry_after, .. }) => {
                    Some(Err(not_admitted(cause, retry_after)))
                }
                Err(Refused { draft: back, cause, retry_after }) => {
                    draft = Some(*back);
                    refusal = Some(not_admitted(cause, retry_after));
                    None
                }
            };
            let outcome = hold.until(self.collector.budget(), 0, attempt).await;
            let admission = outcome.map_err(|expired| match expired {
                Expired::Refuse => refusal.unwrap_or_else(shutting_down),
                Expired::ShuttingDown => shutting_down(),
            })??;
            let committed = match admission {
                Admission::Taken(committed) => committed,
                Admission::Writing(writing) => writing.await.map_err(|cause| not_admitted(cause, RETRY_AFTER))?,
            };
            self.rejected.keep(samples, at);
            match committed.by_sinks {
                None => Ok(committed.receipt),
                Some(settled) => self.acknowledged(settled).await,
            }
        }
    }

    /// Waits for the sinks that are to acknowledge a body that was taken.
    async fn acknowledged(&self, settled: oneshot::Receiver<Receipt>) -> Result<Receipt, Problem> {
        let ended = "the drain ends before a sink has acknowledged the body";
        let settled = async { settled.await.map_err(|_| not_acknowledged(ended.to_owned())) };
        tokio::select! {
            biased;
            settled = timeout(self.ack_deadline, settled) => settled.unwrap_or_else(|_| {
                let detail = "no word from a sink with ack = \"sink\" within ingest.ack_deadline";
                let which = "`fleetdrain sinks` says which, and why";
                Err(not_acknowledged(format!("{detail} = {:?}; {which}", self.ack_deadline)))
            }),
            () = self.holding.shutdown_grace() => Err(not_acknowledged(ended.to_owned())),
        }
    }
}

/// How a body is to be read, and by what it is known when it comes again.
struct Terms {
    key: Option<Box<[u8]>>,
    encoding: Encoding,
}

/// A whole body, decoded, and the permit on what it holds.
struct Arrived {
    bytes: Bytes,
    /// Bytes that `bytes` really holds: its buffer's capacity.
    held: usize,
    permit: Permit,
}

/// Parses a body into a draft; see [`Draft::new`] for `whole`.
fn build(parsers: &Parsers, arrived: Arrived, limits: Limits, whole: bool) -> (Draft, Permit) {
    let parsed = parsers.parse(&arrived.bytes, limits);
    (Draft::new(arrived.bytes, parsed, Timestamp::now(), whole), arrived.permit)
}

/// A draft that is offered for its sender, and settles its claim when it is taken.
fn claimed(mut draft: Draft, claim: Option<Claim>) -> Result<Draft, Problem> {
    if draft.is_unreadable() {
        return Err(unreadable(&draft));
    }
    draft.asks_sinks = true;
    if let Some(claim) = claim {
        draft.key = Some(claim.key().into());
        draft.taken = Some(Box::new(move |receipt| claim.settle(receipt)));
    }
    Ok(draft)
}

/// Whether a sender waits for a 100 before it sends the body.
fn asks(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The key that a request names, checked.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let Some(key) = headers.get("idempotency-key").map(HeaderValue::as_bytes) else { return Ok(None) };
    match key.len() {
        0 => Err(Problem::refusal(Reason::BadRequest, "Idempotency-Key is empty")),
        1..=KEY_BYTES_MAX => Ok(Some(key)),
        length => {
            let detail = format!("Idempotency-Key is {length} bytes, over {KEY_BYTES_MAX}");
            Err(Problem::refusal(Reason::BadRequest, detail))
        }
    }
}

/// What a sink says of the drain whose lines it delivers.
pub(crate) const FROM: HeaderName = HeaderName::from_static("fleetdrain-from");

/// How a drain names itself there.
pub(crate) fn from_value(epoch: u64) -> HeaderValue {
    HeaderValue::try_from(format!("{epoch:x}")).expect("digits are a header's value")
}

/// The one encoding that a body has.
fn encoding(headers: &HeaderMap) -> Result<Encoding, Problem> {
    let lines = headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
    let codings = lines.flat_map(|line| line.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    // What stands between two commas may be nothing (RFC 9110, 5.6.1).
    let mut codings = codings.filter(|coding| !coding.is_empty());
    let Some(coding) = codings.next() else { return Ok(Encoding::Identity) };
    if codings.next().is_some() {
        return Err(unsupported("more than one Content-Encoding, expected at most one".to_owned()));
    }
    let unknown = || {
        unsupported(format!(
            "unknown Content-Encoding {:?}, expected one of {ENCODINGS}",
            coding.escape_ascii().to_string()
        ))
    };
    Encoding::from_header(coding).ok_or_else(unknown)
}

fn unsupported(detail: String) -> Problem {
    Problem::refusal(Reason::UnsupportedEncoding, detail)
}

fn too_large(detail: String) -> Problem {
    Problem::refusal(Reason::TooLarge, detail)
}

fn shutting_down() -> Problem {
    Problem::refusal(Reason::ShuttingDown, "the drain is shutting down").retry_after(RETRY_AFTER)
}

fn no_memory(budget: &Budget, bytes: usize) -> Problem {
    let (used, limit) = (budget.used(), budget.limit());
    Problem::refusal(Reason::Memory, format!("no room for {bytes} bytes: {used} of memory.budget = {limit} are used"))
}

fn not_admitted(cause: Cause, retry_after: Duration) -> Problem {
    let refusal = match cause {
        Cause::TooLarge => return too_large("the body does not fit an empty memory.budget".to_owned()),
        Cause::QueueFull => Problem::refusal(Reason::QueueFull, "a machine in it has a full queue with full=block"),
        Cause::SinkFull => {
            let refusal = Problem::refusal(Reason::QueueFull, "a sink for it is full, and has full=block");
            Problem { status: StatusCode::SERVICE_UNAVAILABLE, ..refusal }
        }
        Cause::Memory => Problem::refusal(Reason::Memory, "the memory budget has no room"),
        Cause::Spool => Problem::refusal(
            Reason::Spool,
            "the spool has no room for it beside what sinks and queues have not had (spool.bytes_max), or its disk refused it",
        ),
        Cause::Unknown => {
            let detail = "a sync of the spool failed: the body may have been taken, or not";
            Problem { is_unknown: true, ..Problem::refusal(Reason::Spool, detail) }
        }
        Cause::ShuttingDown => shutting_down(),
    };
    refusal.retry_after(retry_after)
}

/// The body was taken, and its sender is to repeat it all the same.
fn not_acknowledged(detail: String) -> Problem {
    let refusal = Problem::refusal(Reason::QueueFull, detail);
    Problem { status: StatusCode::SERVICE_UNAVAILABLE, is_unknown: true, ..refusal }.retry_after(RETRY_AFTER)
}

fn unreadable(draft: &Draft) -> Problem {
    let line = draft.errors.first().map_or(1, |error| error.line);
    let received = draft.received;
    let hint = undeclared(&draft.batch.bytes).map_or_else(String::new, |encoding| {
        format!("; it begins like {encoding}, which takes a Content-Encoding: {encoding}")
    });
    let detail = format!("none of {received} records is JSON; the first is on line {line} of the decoded body{hint}");
    Problem::refusal(Reason::BadRequest, detail)
}

/// The encoding that a body begins like, where its sender has not said so (RFC 1952, 2.3.1; RFC 8878, 3.1.1).
fn undeclared(body: &[u8]) -> Option<Encoding> {
    match body {
        [0x1f, 0x8b, ..] => Some(Encoding::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Encoding::Zstd),
        _ => None,
    }
}

fn undecodable(error: &BodyError) -> Problem {
    match error {
        BodyError::WireTooLarge { bound } => too_large(format!("{error}: ingest.body_bytes_max = {bound}")),
        BodyError::DecodedTooLarge { bound } => too_large(format!("{error}: ingest.decoded_bytes_max = {bound}")),
        _ => Problem::refusal(Reason::BadRequest, error.to_string()),
    }
}

fn respond(problem: &Problem) -> Response<Body> {
    let mut response = problem.response();
    let headers = response.headers_mut();
    if problem.is_unknown {
        headers.insert(ACK, HeaderValue::from_static("unknown"));
    }
    match problem.status {
        StatusCode::UNAUTHORIZED => headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(ENCODINGS)),
        _ => None,
    };
    response
}

fn method_not_allowed(method: &Method, is_probe: bool) -> Response<Body> {
    let allowed = if is_probe { "POST, PUT, HEAD, GET" } else { "POST, PUT, HEAD" };
    let detail = format!("{method} is not allowed here, expected one of {allowed}");
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn taken(mut account: String, ack: Ack) -> Response<Body> {
    // So that a terminal's prompt begins on a line of its own.
    account.push('\n');
    let mut response = Response::new(full(account));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACK, HeaderValue::from_static(ack.as_str()));
    response
}
