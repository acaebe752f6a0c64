//! The guard between a socket and hyper: it cuts each message by rules stricter than hyper's, passes exactly that message's
//! bytes on, and only then looks at what comes next.
//!
//! hyper accepts nine of thirty hostile framings that the contract refuses, closes silently where the contract wants a 408,
//! and resets a sender that is still sending when the answer is early. The guard mends all three without a second HTTP
//! implementation: what it refuses it replaces by a request of its own ([`REFUSED_METHOD`]) that the service answers, so the
//! answers' order and form stay hyper's business.

use std::{
    future::Future as _,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::{
    head::{self, Fault, Framing, HEAD_BYTES_MAX, Search},
    link::Link,
};

/// The method of the request that stands in for one that the guard refused.
pub(super) const REFUSED_METHOD: &str = "FLEETDRAIN-REFUSED";

/// What hyper reads in place of a message that the guard refused: one last request without a body.
const REFUSED_REQUEST: &[u8] = b"FLEETDRAIN-REFUSED / HTTP/1.1\r\nHost: guard\r\nConnection: close\r\n\r\n";

/// How much is read at once while a head is looked for; a body's bytes beyond that go straight to hyper's buffer.
const HEAD_READ_BYTES: usize = 8 << 10;

/// After an answer that came before its body's end, so much more is read and thrown away, for so long: see contract, 2.
const DISCARD_BYTES_MAX: u64 = 64 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(5);

/// How long closing a connection may take where something must be sent for it: TLS says that it ends, and the far side may
/// not read.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(5);

/// How much is thrown away at a time.
const DISCARD_READ_BYTES: usize = 16 << 10;

/// After so much of it others have their turn, for so long: whoever sends on and on what nobody reads has a quarter of a gigabyte a
/// second at most.
const DISCARD_PACE_BYTES: u64 = 256 << 10;
const DISCARD_PACE: Duration = Duration::from_millis(1);

/// The deadlines of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// From a head's first byte to its last.
    pub(crate) header: Duration,
    /// Without a request, and without an answer under way.
    pub(crate) idle: Duration,
    /// How long an answer goes on after the far side has closed its half; `None`: to its end.
    pub(crate) half_closed: Option<Duration>,
    /// How long a write may make no progress; `None`: for ever.
    pub(crate) write: Option<Duration>,
}

/// A deadline's timer, moved forward lazily: it fires early and is set anew, so that a request costs no timer.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// Which part of the byte stream comes next.
#[derive(Debug)]
enum Stage {
    /// A head, of which `scanned` bytes were looked at.
    Head { scanned: usize, since: Option<Instant>, blank_line_skipped: bool },
    /// A head of which so many bytes are still to be handed on, then its body.
    Pass { head_left: usize, framing: Framing, last: bool },
    /// The request that stands in for a refused one, or what is left of it.
    Refused(&'static [u8]),
    /// Nothing that still comes is a request.
    Over,
}

impl Stage {
    const NEXT: Self = Self::Head { scanned: 0, since: None, blank_line_skipped: false };
}

/// A byte stream that passes only messages whose framing is beyond doubt; see the module.
#[derive(Debug)]
pub(super) struct Guard<S> {
    io: S,
    /// Read from the socket and not yet handed on; empty, and without memory, while the connection is idle.
    ahead: BytesMut,
    stage: Stage,
    /// Whether a request was handed on since other connections had their turn.
    had_turn: bool,
    /// When the far side closed its half.
    ended: Option<Instant>,
    deadlines: Deadlines,
    read_alarm: Alarm,
    write_alarm: Alarm,
    /// Whether a write could not go on, which the link knows then, and since when, where that has a bound.
    stalled: bool,
    stalled_since: Option<Instant>,
    /// Since when the connection is being closed.
    closing_since: Option<Instant>,
    link: Arc<Link>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    pub(super) fn new(io: S, deadlines: Deadlines, link: Arc<Link>) -> Self {
        Self {
            io,
            ahead: BytesMut::new(),
            stage: Stage::NEXT,
            had_turn: false,
            ended: None,
            deadlines,
            read_alarm: Alarm::default(),
            write_alarm: Alarm::default(),
            stalled: false,
            stalled_since: None,
            closing_since: None,
            link,
        }
    }

    /// Waits for the first head, or for whatever will be said of it; `false` when there is none and nothing to say. An error is
    /// found again by who reads. Cancel safe.
    pub(super) async fn first_head(&mut self) -> bool {
        std::future::poll_fn(|cx| self.poll_head(cx)).await.unwrap_or(true)
    }

    /// Closes the connection so that the far side can read the last answer: no more is sent, and what it still sends is
    /// read and thrown away for a while. A reset would take the answer from it unread.
    pub(super) async fn close(mut self) {
        if self.shutdown().await.is_err() || self.ended.is_some() {
            return;
        }
        let between = matches!(self.stage, Stage::Head { .. }) && self.ahead.is_empty();
        if between && !self.has_unread().await {
            return;
        }
        self.discard().await;
    }

    /// Closes a connection that was answered without being read.
    pub(super) async fn close_after_refusal(mut self) {
        if self.shutdown().await.is_ok() {
            self.discard().await;
        }
    }

    async fn discard(&mut self) {
        self.ahead = BytesMut::new();
        let _ = tokio::time::timeout(DISCARD_TIME_MAX, discard(&mut self.io)).await;
    }

    async fn has_unread(&mut self) -> bool {
        let poll = |cx: &mut Context<'_>| Poll::Ready(matches!(self.poll_fill(cx), Poll::Ready(Ok(1..))));
        std::future::poll_fn(poll).await
    }

    /// Reads what there is into `ahead`; 0 at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); HEAD_READ_BYTES];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
        self.ahead.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Waits for the next head; ready when the stage has changed, or with `false` when there will be none.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if !self.ahead.is_empty() {
                ready!(self.poll_turn(cx));
            }
            match self.find_head() {
                Ok(false) => {}
                Ok(true) => break,
                Err(fault) => {
                    self.refuse(fault);
                    break;
                }
            }
            if self.ended.is_some() {
                return self.poll_ended(cx).map(|()| Ok(false));
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => self.end(),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.had_turn = false;
                    ready!(self.poll_deadline(cx));
                    if self.ahead.is_empty() {
                        return Poll::Ready(Ok(false));
                    }
                    self.refuse(Fault::Late);
                    break;
                }
            }
        }
        self.link.begin();
        Poll::Ready(Ok(true))
    }

    /// Lets others go first, where a request follows one that was just handed on: a connection that sends all it can, without a look at
    /// the answers, would have all the time there is. Not when it is about to be closed: what is here is to have its answer.
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        if !std::mem::take(&mut self.had_turn) || self.link.is_closing() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Cuts the next head off what was read, if all of it is there.
    fn find_head(&mut self) -> Result<bool, Fault> {
        let Stage::Head { scanned, since, blank_line_skipped } = &mut self.stage else { return Ok(true) };
        // RFC 9112, 2.2: one empty line before a request is ignored; some old clients send it after a body.
        if !*blank_line_skipped && self.ahead.starts_with(b"\r\n") {
            self.ahead.advance(2);
            (*scanned, *blank_line_skipped) = (0, true);
        }
        if self.ahead.is_empty() {
            *since = None;
            return Ok(false);
        }
        since.get_or_insert_with(Instant::now);
        match head::search(&self.ahead, scanned) {
            Search::Found(length) if length <= HEAD_BYTES_MAX => {
                let head = head::examine(&self.ahead[..length])?;
                self.stage = Stage::Pass { head_left: length, framing: head.framing, last: head.last };
                self.had_turn = true;
                Ok(true)
            }
            Search::More if self.ahead.len() <= HEAD_BYTES_MAX => Ok(false),
            Search::Found(_) | Search::More => Err(Fault::TooLarge),
            Search::Fault(fault) => Err(fault),
        }
    }

    fn refuse(&mut self, fault: Fault) {
        self.link.fail(fault);
        self.stage = Stage::Refused(REFUSED_REQUEST);
    }

    fn end(&mut self) {
        self.ended = Some(Instant::now());
        self.link.set_gone();
    }

    /// Waits until the connection is idle for too long, or the head at hand too slow.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = match (&self.stage, self.link.idle_since()) {
            (Stage::Head { since: Some(since), .. }, _) => *since + self.deadlines.header,
            (_, Some(since)) => since + self.deadlines.idle,
            // An answer is under way. hyper may not poll again when it is done, so the alarm is set all the same.
            (_, None) => Instant::now() + self.deadlines.idle,
        };
        self.read_alarm.poll(cx, deadline)
    }

    /// Tells hyper of the end only when it owes no answer, or has not finished it within the time set for that: hyper would
    /// drop the answer to a sender that has only closed its half.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.link.idle_since().is_some() {
            return Poll::Ready(());
        }
        self.link.wake_when_answered(cx.waker());
        match (self.deadlines.half_closed, self.ended) {
            (Some(grace), Some(ended)) => self.read_alarm.poll(cx, ended + grace),
            _ => Poll::Pending,
        }
    }

    /// After the last request: only the far side's end is still looked for.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ended.is_none() {
            // Bounded: who goes on sending after its last request is not read until the connection closes.
            if self.ahead.len() > HEAD_READ_BYTES {
                self.link.wake_when_answered(cx.waker());
                return if self.link.idle_since().is_some() { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            if ready!(self.poll_fill(cx))? == 0 {
                self.end();
            }
        }
        self.poll_ended(cx).map(Ok)
    }

    /// Hands on as much of the message at hand as there is and as fits.
    ///
    /// What was read with the head is at most [`HEAD_READ_BYTES`]; the body behind it comes along if it is there, so that hyper
    /// hands on few large pieces and not one small one first.
    fn poll_pass(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        self.pass_ahead(buf)?;
        let has_some = buf.filled().len() > before;
        // Chunks may turn out to be broken, and then what came before must have been handed on.
        let goes_on = matches!(self.stage, Stage::Pass { framing: Framing::Length(_), .. }) || !has_some;
        if !goes_on || !self.ahead.is_empty() || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match self.poll_pass_fresh(cx, buf) {
            Poll::Pending if has_some => Poll::Ready(Ok(())),
            outcome => outcome,
        }
    }

    /// Hands on what was read already; a chunked body apart from its head, for only a head that was handed on can be answered.
    fn pass_ahead(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let Stage::Pass { head_left, framing, .. } = &mut self.stage else { return Ok(()) };
        let head = (*head_left).min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(head));
        *head_left -= head;
        if *head_left == 0 && !self.ahead.is_empty() && (head == 0 || matches!(framing, Framing::Length(_))) {
            let length = self.ahead.len().min(buf.remaining());
            let taken = take(framing, &self.ahead[..length]).map_err(|fault| broken(&self.link, fault))?;
            buf.put_slice(&self.ahead.split_to(taken));
        }
        self.passed();
        Ok(())
    }

    /// Hands on what comes from the socket, straight into hyper's buffer.
    fn poll_pass_fresh(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let fresh = &buf.filled()[before..];
        if fresh.is_empty() {
            self.end();
            return Poll::Ready(Ok(()));
        }
        let Stage::Pass { framing, .. } = &mut self.stage else { return Poll::Ready(Ok(())) };
        let taken = take(framing, fresh).map_err(|fault| broken(&self.link, fault))?;
        self.ahead.extend_from_slice(&fresh[taken..]);
        buf.set_filled(before + taken);
        self.passed();
        Poll::Ready(Ok(()))
    }

    /// Goes on to the next message once all of this one was handed on.
    fn passed(&mut self) {
        if let Stage::Pass { head_left: 0, framing, last } = &self.stage
            && is_complete(framing)
        {
            self.stage = if *last { Stage::Over } else { Stage::NEXT };
        }
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
    }

    /// Keeps watch over a write that could not go on.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(patience) = self.deadlines.write else { return Poll::Pending };
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        ready!(self.write_alarm.poll(cx, since + patience));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the far side does not read its answer"))
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.stalled != outcome.is_pending() {
            self.stalled = outcome.is_pending();
            self.link.set_stalled(self.stalled);
        }
        if outcome.is_ready() {
            self.stalled_since = None;
            return outcome;
        }
        self.poll_stalled(cx).map(Err)
    }
}

/// How many of `bytes` belong to the body at hand.
fn take(framing: &mut Framing, bytes: &[u8]) -> Result<usize, Fault> {
    match framing {
        Framing::Length(left) => {
            let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
            *left -= taken as u64;
            Ok(taken)
        }
        Framing::Chunked(scan) => Ok(scan.take(bytes)?),
    }
}

fn is_complete(framing: &Framing) -> bool {
    match framing {
        Framing::Length(left) => *left == 0,
        Framing::Chunked(scan) => scan.is_done(),
    }
}

/// Fails the body at hand; the handler finds the reason in the link.
fn broken(link: &Link, fault: Fault) -> io::Error {
    link.fail(fault.clone());
    io::Error::new(io::ErrorKind::InvalidData, fault)
}

async fn discard(io: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut space = vec![0; DISCARD_READ_BYTES];
    for _ in 0..DISCARD_BYTES_MAX / DISCARD_PACE_BYTES {
        let mut left = DISCARD_PACE_BYTES;
        while left > 0 {
            let length = io.read(&mut space).await?;
            if length == 0 {
                return Ok(());
            }
            left = left.saturating_sub(length as u64);
        }
        sleep(DISCARD_PACE).await;
    }
    Ok(())
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if matches!(this.stage, Stage::Head { .. }) && !ready!(this.poll_head(cx))? {
            return Poll::Ready(Ok(()));
        }
        match &mut this.stage {
            Stage::Pass { .. } => this.poll_pass(cx, buf),
            Stage::Refused(rest) => {
                let length = rest.len().min(buf.remaining());
                buf.put_slice(&rest[..length]);
                *rest = &rest[length..];
                if rest.is_empty() {
                    this.stage = Stage::Over;
                }
                Poll::Ready(Ok(()))
            }
            Stage::Head { .. } | Stage::Over => this.poll_over(cx),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.written(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_write_vectored(cx, slices);
        this.written(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// TLS takes a write before it is sent, and then it is here that a far side which does not read is noticed.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.io).poll_flush(cx);
        this.written(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(outcome) = Pin::new(&mut this.io).poll_shutdown(cx) {
            return Poll::Ready(outcome);
        }
        let since = *this.closing_since.get_or_insert_with(Instant::now);
        ready!(this.write_alarm.poll(cx, since + SHUTDOWN_TIME_MAX));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the far side does not read that the connection ends")))
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
mod seen;
#[cfg(test)]
mod tests;
