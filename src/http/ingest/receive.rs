//! A body off the wire: decoded and charged as it grows, within its sender's time.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::{
    sync::SemaphorePermit,
    task::yield_now,
    time::{Instant, timeout_at},
};

use super::{Arrived, Ingest, READY_BYTES, RETRY_AFTER, no_memory, shutting_down, undecodable};
use crate::{
    body::{BodyReader, DECODED_FREELY_MAX, Encoding, Progress},
    budget::Permit,
    http::{
        hold::{Expired, Hold},
        link::Link,
        problem::{Problem, Reason},
    },
};

impl Ingest {
    pub(super) async fn receive(
        &self,
        encoding: Encoding,
        inbound: &mut Inbound,
        hold: &mut Hold<'_>,
    ) -> Result<Arrived, Problem> {
        let mut reader = BodyReader::new(encoding, self.limits, inbound.announced());
        let filled = self.fill(&mut reader, inbound, hold).await;
        self.counters.received(reader.wire_bytes(), reader.decoded_bytes());
        let mut permit = filled?;
        let held = reader.kept_bytes();
        let bytes = reader.into_bytes();
        self.grow(&mut permit, held, hold).await?;
        Ok(Arrived { bytes, held, permit })
    }

    /// Reads a body to its end, frame by frame; the permit covers what the reader holds.
    async fn fill(
        &self,
        reader: &mut BodyReader,
        inbound: &mut Inbound,
        hold: &mut Hold<'_>,
    ) -> Result<Permit, Problem> {
        let budget = self.collector.budget();
        let nothing = || budget.try_reserve(0).ok_or_else(|| no_memory(budget, 0));
        if inbound.asks {
            // The refusal is to come instead of the 100. Only asked for: who holds nothing yet is charged nothing yet.
            let announced = inbound.announced().and_then(|bytes| usize::try_from(bytes).ok());
            self.grow(&mut nothing()?, announced.unwrap_or(READY_BYTES).min(budget.body_bytes_max()), hold).await?;
        }
        let mut permit = nothing()?;
        let mut turn = None;
        while let Some(mut frame) = inbound.next_in_turn(&mut turn, hold).await? {
            while let Progress::NeedsRoom { consumed, want } =
                reader.push(&frame, permit.bytes()).map_err(|error| undecodable(&error))?
            {
                frame.advance(consumed);
                self.grow_in_turn(reader, &mut permit, want, &mut turn, inbound, hold).await?;
            }
        }
        while let Progress::NeedsRoom { want, .. } =
            reader.finish(permit.bytes()).map_err(|error| undecodable(&error))?
        {
            self.grow_in_turn(reader, &mut permit, want, &mut turn, inbound, hold).await?;
        }
        Ok(permit)
    }

    /// As [`Ingest::grow`], for a decoder. A bomb is a few bytes on the wire and decodes for long: who has decoded much goes on in its
    /// turn, of few at a time, and gives way to others of its thread before each step.
    async fn grow_in_turn<'a>(
        &'a self,
        reader: &BodyReader,
        permit: &mut Permit,
        want: usize,
        turn: &mut Option<SemaphorePermit<'a>>,
        inbound: &Inbound,
        hold: &mut Hold<'_>,
    ) -> Result<(), Problem> {
        if reader.is_plain() || want <= DECODED_FREELY_MAX {
            return self.grow(permit, want, hold).await;
        }
        self.check_fits(want)?;
        match turn {
            Some(_) => {
                // Other threads, too: on a busy processor they would wait for the rest of this one's slice, some milliseconds.
                std::thread::yield_now();
                yield_now().await;
            }
            None => *turn = Some(self.turn(inbound, hold).await?),
        }
        if !permit.try_resize(want) {
            // Whoever could give room may wait for the turn.
            *turn = None;
            self.grow(permit, want, hold).await?;
            *turn = Some(self.turn(inbound, hold).await?);
        }
        Ok(())
    }

    async fn turn(&self, inbound: &Inbound, hold: &Hold<'_>) -> Result<SemaphorePermit<'_>, Problem> {
        match timeout_at(inbound.ends_by(hold), self.decoding.acquire()).await {
            Ok(turn) => turn.map_err(|_| shutting_down()),
            Err(_) => Err(too_slow()),
        }
    }

    /// Resizes `permit` to `bytes`, holding the sender until there is room for them.
    pub(super) async fn grow(&self, permit: &mut Permit, bytes: usize, hold: &mut Hold<'_>) -> Result<(), Problem> {
        self.check_fits(bytes)?;
        let budget = self.collector.budget();
        hold.until(budget, permit.bytes(), || permit.try_resize(bytes).then_some(())).await.map_err(|expired| {
            match expired {
                Expired::Refuse => no_memory(budget, bytes).retry_after(RETRY_AFTER),
                Expired::ShuttingDown => shutting_down(),
            }
        })
    }
}

/// Bytes of a body that are read though nobody wants them.
const SKIPPED_BYTES_MAX: u64 = 64 << 10;

fn too_slow() -> Problem {
    Problem::refusal(Reason::TooSlow, "the body did not end within ingest.body_deadline")
}

/// A body on its way in from hyper.
pub(super) struct Inbound {
    pub(super) body: Incoming,
    pub(super) link: Option<Arc<Link>>,
    pub(super) deadline: Instant,
    /// Its sender waits for a 100, which hyper sends when the body is first read.
    pub(super) asks: bool,
    /// Its end was read; hyper does not say so of a chunked body.
    pub(super) ended: bool,
}

impl Inbound {
    /// Its Content-Length.
    pub(super) fn announced(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    pub(super) fn is_over(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    /// The time for which the sender was held is not its own.
    fn ends_by(&self, hold: &Hold<'_>) -> Instant {
        self.deadline + hold.waited()
    }

    /// The next bytes, as [`Inbound::next`] has them. A turn is kept if they are there already: many who have each decoded a part would
    /// want for room together.
    async fn next_in_turn(
        &mut self,
        turn: &mut Option<SemaphorePermit<'_>>,
        hold: &Hold<'_>,
    ) -> Result<Option<Bytes>, Problem> {
        if turn.is_some() {
            tokio::select! {
                biased;
                next = self.next(hold) => return next,
                // Meanwhile the connection reads what has arrived.
                () = yield_now() => {}
            }
            *turn = None;
        }
        self.next(hold).await
    }

    /// The next bytes, or `None` at the body's end.
    async fn next(&mut self, hold: &Hold<'_>) -> Result<Option<Bytes>, Problem> {
        loop {
            match timeout_at(self.ends_by(hold), self.body.frame()).await {
                Ok(None) => {
                    self.ended = true;
                    return Ok(None);
                }
                // Trailers mean nothing here.
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_) => continue,
                },
                Ok(Some(Err(_))) => return Err(self.broken()),
                Err(_) => return Err(too_slow()),
            }
        }
    }

    /// Reads past a short body that nobody wants, so that the connection can go on behind it.
    pub(super) async fn skip_short(&mut self) {
        let mut left = SKIPPED_BYTES_MAX;
        // Who waits for a 100 sends nothing before.
        if self.asks || self.announced().is_some_and(|bytes| bytes > left) {
            return;
        }
        while let Ok(frame) = timeout_at(self.deadline, self.body.frame()).await {
            let Some(Ok(frame)) = frame else {
                self.ended = frame.is_none();
                return;
            };
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(rest) = left.checked_sub(bytes) else { return };
            left = rest;
        }
    }

    /// Why the body broke: by its framing, or because the sender went away in the middle of it.
    fn broken(&self) -> Problem {
        let fault = self.link.as_deref().and_then(Link::fault);
        let detail = fault.map_or_else(|| "the body ended before its end".to_owned(), |fault| fault.to_string());
        Problem::refusal(Reason::BadRequest, detail)
    }
}
