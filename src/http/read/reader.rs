//! The body of a reader's answer: frames are made when hyper asks for them and has written the one before, so a slow reader
//! costs one frame and no more.
//!
//! Frames are charged to the budget until they are written. Readers that stop reading hold theirs: once all of them together
//! hold what they may, further ones get small frames.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame as BodyFrame;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    encode::{Encoder, EndReason, FRAME_BYTES, FRAME_BYTES_LEAST, Frame},
    pace::{Paced, Pacing},
    source::{Filled, Source},
};
use crate::{
    budget::{Budget, Permit},
    http::{Body, link::Link},
};

/// Silence after which something is sent, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// When a reader's answer ends before its source does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// How long each line shown may take.
    pub(super) item_timeout: Option<Duration>,
    pub(super) total_timeout: Option<Duration>,
    pub(super) max_lines: Option<u64>,
    /// Whether to wait for more once caught up.
    pub(super) follow: bool,
}

/// One reader.
#[derive(Debug)]
pub(super) struct Reader {
    source: Source,
    encoder: Encoder,
    lines_left: u64,
    follow: bool,
    item_timeout: Option<Duration>,
    total: Option<Instant>,
    /// Since when the next line is waited for; `None` until it has to be.
    waiting_since: Option<Instant>,
    quiet_since: Instant,
    /// Of all readers, and when the next frame of this one may be made.
    pacing: Arc<Pacing>,
    paced: Option<Paced>,
    /// Whether it is known when the far side stops reading, so that memory may be held while it reads.
    rests: bool,
    /// Where what is shown is thereby delivered: the connection, whose far side must be there for it.
    link: Option<Arc<Link>>,
    /// What frames are charged to, and the last frame's charge until its bytes are handed on.
    budget: Option<Arc<Budget>>,
    charge: Option<Permit>,
    /// Bytes of the last frame; the next is likely to hold as many.
    frame_bytes: usize,
    over: bool,
}

/// Why a wait was over.
enum Woken {
    Changed,
    Quiet,
    TimedOut(EndReason),
}

impl Reader {
    /// Goes at a pace that suits the others of `pacing`.
    pub(super) fn new(source: Source, encoder: Encoder, limits: Limits, pacing: &Arc<Pacing>) -> Self {
        let now = Instant::now();
        Self {
            source,
            encoder,
            lines_left: limits.max_lines.unwrap_or(u64::MAX),
            follow: limits.follow,
            item_timeout: limits.item_timeout,
            total: limits.total_timeout.map(|timeout| now + timeout),
            waiting_since: None,
            quiet_since: now,
            pacing: Arc::clone(pacing),
            paced: None,
            rests: false,
            link: None,
            budget: None,
            charge: None,
            frame_bytes: 0,
            over: false,
        }
    }

    /// Charges what is on its way to the reader to `budget`.
    pub(super) fn charged_to(mut self, budget: &Arc<Budget>) -> Self {
        self.budget = Some(Arc::clone(budget));
        self
    }

    /// Hands on nothing any more once the far side has closed its half of the connection: what it would not read is for the next
    /// reader. One that does not follow gets what there is; it may have closed its half with the request.
    pub(super) fn delivering_to(mut self, link: Option<Arc<Link>>) -> Self {
        self.link = link.filter(|_| self.follow);
        self
    }

    /// Whether nobody is there for what would be handed on.
    fn is_left(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_gone())
    }

    /// The answer's body, over a connection if it is known.
    pub(super) fn into_body(mut self, connection: Option<Arc<Link>>) -> Body {
        self.rests = connection.is_some();
        Lines { state: State::Idle(Box::new(self)), connection, has_given: false }.boxed_unsync()
    }

    /// The next frame, never empty, or `None` when all is said.
    ///
    /// Lines of a queue are delivered when they go into a frame, and there is no wait between that and returning it.
    async fn next_frame(&mut self) -> Option<Vec<u8>> {
        if let Some(paced) = &self.paced {
            let since = *self.waiting_since.get_or_insert_with(Instant::now);
            let item = self.item_timeout.map(|timeout| since + timeout);
            let ends = [self.total, item].into_iter().flatten();
            sleep_until(ends.fold(paced.until, Instant::min)).await;
            self.paced = None;
        }
        while !self.over {
            if self.is_left() {
                self.over = true;
                self.source = Source::Over(EndReason::CaughtUp);
                return None;
            }
            let (frame, filled) = self.fill();
            if !frame.is_empty() {
                let now = Instant::now();
                self.quiet_since = now;
                let bytes = frame.into_bytes();
                self.paced = matches!(filled, Filled::CaughtUp)
                    .then(|| self.pacing.after(now, bytes.len(), self.source.is_bounded()));
                return Some(bytes);
            }
            match filled {
                Filled::Ended(_) => {}
                Filled::More => tokio::task::yield_now().await,
                Filled::CaughtUp | Filled::Past => match self.wait().await {
                    Woken::Changed => {}
                    Woken::Quiet => {
                        self.quiet_since = Instant::now();
                        let keep_alive = self.encoder.keep_alive();
                        if !keep_alive.is_empty() {
                            return Some(keep_alive.to_vec());
                        }
                    }
                    Woken::TimedOut(reason) => {
                        let mut frame = Frame::new(self.encoder, 0, FRAME_BYTES_LEAST);
                        self.end(&mut frame, reason);
                        return Some(frame.into_bytes()).filter(|bytes| !bytes.is_empty());
                    }
                },
            }
        }
        None
    }

    /// A frame of what there is now, with the end in it if that was all.
    fn fill(&mut self) -> (Frame, Filled) {
        let (bytes_max, room) = self.room();
        let mut frame = Frame::new(self.encoder, self.lines_left, bytes_max).with_room_for(self.frame_bytes);
        if self.total.is_some_and(|total| Instant::now() >= total) {
            self.end(&mut frame, EndReason::TotalTimeout);
            return (frame, Filled::Ended(EndReason::TotalTimeout));
        }
        let filled = self.source.fill(&mut frame, self.rests);
        self.lines_left -= frame.lines();
        if frame.lines() > 0 {
            self.waiting_since = None;
        }
        let end = match filled {
            Filled::Ended(reason) => Some(reason),
            Filled::CaughtUp if !self.follow => Some(EndReason::CaughtUp),
            _ if self.lines_left == 0 => Some(EndReason::MaxLines),
            Filled::More | Filled::Past | Filled::CaughtUp => None,
        };
        if let Some(reason) = end {
            self.end(&mut frame, reason);
        }
        self.frame_bytes = frame.bytes();
        self.charge = room.filter(|_| !frame.is_empty());
        if let Some(charge) = &mut self.charge {
            // One long line may hold more than there is room for: it has been taken, and is on its way.
            let _ = charge.try_resize(frame.capacity());
        }
        (frame, end.map_or(filled, Filled::Ended))
    }

    /// How large the next frame may be, and its charge. Never nothing: it may be readers that make room, those of queues.
    fn room(&self) -> (usize, Option<Permit>) {
        let Some(budget) = &self.budget else { return (FRAME_BYTES, None) };
        match budget.try_frame(FRAME_BYTES) {
            Some(room) => (FRAME_BYTES, Some(room)),
            None => (FRAME_BYTES_LEAST, budget.try_reserve(FRAME_BYTES_LEAST)),
        }
    }

    fn end(&mut self, frame: &mut Frame, reason: EndReason) {
        frame.end(reason);
        self.over = true;
        // What was taken from a queue and not shown is given back now, not when the connection is closed.
        self.source = Source::Over(reason);
    }

    async fn wait(&mut self) -> Woken {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let item = self.item_timeout.map(|timeout| (since + timeout, Woken::TimedOut(EndReason::ItemTimeout)));
        let total = self.total.map(|total| (total, Woken::TimedOut(EndReason::TotalTimeout)));
        let quiet = (self.quiet_since + KEEP_ALIVE, Woken::Quiet);
        let deadlines = [total, item, Some(quiet)].into_iter().flatten();
        let (at, woken) = deadlines.min_by_key(|(at, _)| *at).expect("there is always the one of silence");
        let left = async {
            match &self.link {
                Some(link) => link.gone().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = left => Woken::Changed,
            changed = timeout_at(at, self.source.changed()) => changed.map_or(woken, |()| Woken::Changed),
        }
    }
}

/// A frame that is charged until it is written.
struct Charged {
    bytes: Vec<u8>,
    _charge: Permit,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

type Making = Pin<Box<dyn Future<Output = (Box<Reader>, Option<Vec<u8>>)> + Send>>;

/// Makes one frame at a time, and only when asked.
struct Lines {
    state: State,
    connection: Option<Arc<Link>>,
    /// Whether hyper has had a frame since it was last made to wait.
    has_given: bool,
}

enum State {
    Idle(Box<Reader>),
    Making(Making),
    Over,
}

impl Lines {
    /// Waits until the frame before is written. hyper would ask for 64 KiB and more to be held for a reader that does not read:
    /// it is made to write first, and then it is known whether it could.
    fn poll_written(&mut self, cx: &Context<'_>) -> Poll<()> {
        let (Some(connection), State::Idle(reader)) = (&self.connection, &mut self.state) else {
            return Poll::Ready(());
        };
        if std::mem::take(&mut self.has_given) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let taking = connection.poll_taking(cx);
        if taking.is_pending() {
            // Whoever reads nothing has no part in what others may write, and holds nothing of others.
            reader.paced = None;
            reader.source.let_go();
        }
        taking
    }
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<BodyFrame<Bytes>, io::Error>>> {
        ready!(self.poll_written(cx));
        let mut making: Making = match std::mem::replace(&mut self.state, State::Over) {
            State::Making(making) => making,
            State::Over => return Poll::Ready(None),
            State::Idle(mut reader) => Box::pin(async move {
                let frame = reader.next_frame().await;
                (reader, frame)
            }),
        };
        let Poll::Ready((mut reader, frame)) = making.as_mut().poll(cx) else {
            self.state = State::Making(making);
            return Poll::Pending;
        };
        let charge = reader.charge.take();
        if frame.is_some() && !reader.over {
            self.state = State::Idle(reader);
        }
        self.has_given = true;
        Poll::Ready(frame.map(|bytes| {
            Ok(BodyFrame::data(match charge {
                Some(charge) => Bytes::from_owner(Charged { bytes, _charge: charge }),
                None => bytes.into(),
            }))
        }))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::advance,
    };

    use super::{super::pace::PACE_LEAST, *};
    use crate::{
        LogDrainServer,
        collector::{CollectorConfig, LogCollector, SubscribeOptions},
        config::Full,
        http::read::encode::Format,
        stream::LogStream,
    };

    #[tokio::test(start_paused = true)]
    async fn a_busy_machine_is_shown_at_a_pace_and_a_quiet_one_at_once() {
        let collector = LogCollector::default();
        let queue = collector.subscribe("m").unwrap();
        let limits = Limits { item_timeout: None, total_timeout: None, max_lines: None, follow: true };
        let encoder = Encoder { format: Format::Text, raw: false };
        let mut reader = Reader::new(Source::Queue(LogStream::new(queue)), encoder, limits, &Arc::default());
        let push = |line: &str| collector.push_line("m", line).unwrap();
        let start = Instant::now();

        let _ = push("0");
        assert_eq!(reader.next_frame().await.unwrap(), b"0\n");
        assert_eq!(start.elapsed(), Duration::ZERO, "it was quiet");
        let _ = (push("1"), push("2"));
        assert_eq!(reader.next_frame().await.unwrap(), b"1\n2\n");
        assert_eq!(start.elapsed(), PACE_LEAST);
        advance(Duration::from_secs(1)).await;
        let since = Instant::now();
        let _ = push("3");
        assert_eq!(reader.next_frame().await.unwrap(), b"3\n");
        assert_eq!(since.elapsed(), Duration::ZERO, "it was quiet again");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_delivered_to_who_has_gone() {
        let collector = LogCollector::default();
        let queue = collector.subscribe("m").unwrap();
        let encoder = Encoder { format: Format::Text, raw: false };
        for follow in [true, false] {
            let limits = Limits { item_timeout: None, total_timeout: None, max_lines: None, follow };
            let link = Link::new();
            let source = Source::Queue(LogStream::new(queue.clone()));
            let mut reader =
                Reader::new(source, encoder, limits, &Arc::default()).delivering_to(Some(Arc::clone(&link)));
            let going = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                link.set_gone();
                let _ = collector.push_line("m", "for the next").unwrap();
            };
            if follow {
                let (frame, ()) = tokio::join!(reader.next_frame(), going);
                assert_eq!((frame, queue.lines()), (None, 1));
            } else {
                // It may have closed its half with the request.
                link.set_gone();
                assert_eq!(reader.next_frame().await.unwrap(), b"for the next\n");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn among_many_a_reader_goes_slower_but_not_where_its_queue_would_drop_meanwhile() {
        let collector = LogCollector::default();
        let dropping = SubscribeOptions { full: Some(Full::DropOldest), ..SubscribeOptions::default() };
        for (machine, options, pace) in
            [("m", SubscribeOptions::default(), Duration::from_millis(100)), ("n", dropping, PACE_LEAST)]
        {
            let queue = collector.subscribe_with(machine, options).unwrap().0;
            let (pacing, _others) = Pacing::among(999);
            let limits = Limits { item_timeout: Some(Duration::from_secs(1)), ..FOREVER };
            let mut reader = Reader::new(Source::Queue(LogStream::new(queue)), TEXT, limits, &pacing);
            let start = Instant::now();
            let mut next = async || {
                let _ = collector.push_line(machine, "x").unwrap();
                assert_eq!(reader.next_frame().await.unwrap(), b"x\n");
                start.elapsed()
            };
            assert_eq!((next().await, next().await), (Duration::ZERO, pace), "{machine}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_may_take_as_long_as_was_said_also_among_many() {
        let collector = LogCollector::default();
        let queue = collector.subscribe("m").unwrap();
        let (pacing, _others) = Pacing::among(10_000);
        let limits = Limits { item_timeout: Some(Duration::from_millis(100)), ..FOREVER };
        let mut reader = Reader::new(Source::Queue(LogStream::new(queue)), JSON, limits, &pacing);
        let _ = collector.push_line("m", "x").unwrap();
        reader.next_frame().await.unwrap();
        let start = Instant::now();
        let end = reader.next_frame().await.unwrap();
        assert_eq!(end, b"{\"event\":\"end\",\"reason\":\"item_timeout\"}\n");
        assert_eq!(start.elapsed(), Duration::from_millis(100));
    }

    const FOREVER: Limits = Limits { item_timeout: None, total_timeout: None, max_lines: None, follow: true };
    const TEXT: Encoder = Encoder { format: Format::Text, raw: false };
    const JSON: Encoder = Encoder { format: Format::Ndjson, raw: false };

    #[tokio::test(start_paused = true)]
    async fn the_next_frame_is_made_when_the_one_before_is_written() {
        let collector = LogCollector::default();
        let queue = collector.subscribe("m").unwrap();
        let link = Link::new();
        let pacing = Arc::default();
        let reader = Reader::new(Source::Queue(LogStream::new(queue.clone())), TEXT, FOREVER, &pacing);
        let mut body = reader.into_body(Some(Arc::clone(&link)));
        let _ = collector.push_line("m", "0").unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "0\n");
        let _ = collector.push_line("m", "1").unwrap();
        assert_eq!(queue.inner().uncopied(), 1, "it is to come for it");
        link.set_stalled(true);
        for _ in 0..3 {
            let polled = hyper::body::Body::poll_frame(Pin::new(&mut body), &mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
            assert_eq!(queue.lines(), 1, "not taken for who does not read");
            advance(PACE_LEAST).await;
        }
        assert_eq!(pacing.readers(), 0, "nor has it a part in the pace of others");
        assert_eq!(queue.inner().uncopied(), 0, "nor does it keep what others may need the room of");
        let (next, ()) = tokio::join!(body.frame(), async {
            tokio::task::yield_now().await;
            link.set_stalled(false);
        });
        assert_eq!(next.unwrap().unwrap().into_data().unwrap(), "1\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_amid_a_body_keeps_nothing_of_others_in_it() {
        let config = CollectorConfig { history_bytes: 1, ..CollectorConfig::default() };
        let collector = LogCollector::new(config);
        let queue = collector.subscribe("m").unwrap();
        let link = Link::new();
        let reader = Reader::new(Source::Queue(LogStream::new(queue.clone())), TEXT, FOREVER, &Arc::default());
        let mut body = reader.into_body(Some(Arc::clone(&link)));
        let line = |machine: &str| format!("{{\"instance\":\"{machine}\",\"message\":\"{}\"}}\n", "x".repeat(1000));
        let others = line("n").repeat(200);
        let _ = collector.push_line("m", "0").unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "0\n");
        let _ = collector.push(line("m").repeat(70) + &others).unwrap();
        // The history keeps the newest body, whatever its size.
        let _ = collector.push(line("n")).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), 62 * 1001, "a full frame");
        assert!(collector.budget().used() > others.len(), "it was to go on");
        link.set_stalled(true);
        for _ in 0..2 {
            let polled = hyper::body::Body::poll_frame(Pin::new(&mut body), &mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
        }
        assert_eq!(queue.lines(), 8);
        assert!(collector.budget().used() < others.len() / 4, "{}", collector.budget().used());
    }

    #[tokio::test]
    async fn one_that_stops_reading_its_socket_keeps_nothing_of_others() {
        let config = CollectorConfig { history_bytes: 1, ..CollectorConfig::default() };
        let collector = LogCollector::new(config);
        let queue = collector.subscribe("m").unwrap();
        let mut server = LogDrainServer::new(collector.clone()).host("127.0.0.1").control("127.0.0.1:0");
        server.start().await.unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let mut connection = socket.connect(server.control_addr().unwrap()).await.unwrap();
        connection
            .write_all(b"GET /api/v1/machines/m/queue HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n")
            .await
            .unwrap();
        let mut status = [0; 12];
        connection.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        let line = "x".repeat(1 << 10);
        let soon = async |mut is_so: Box<dyn FnMut() -> bool>| {
            for _ in 0..10_000 {
                if is_so() {
                    return true;
                }
                (0..100).for_each(|_| drop(collector.push_line("m", &line)));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            false
        };
        // It reads for a while, so that the kernel takes it for one that takes much.
        let mut read = vec![0; 8 << 20];
        let lines_read = (read.len() / line.len()) as u64;
        let (stats, mut before, mut unchanged) = (collector.clone(), 0, 0);
        let takes_nothing = move || {
            let delivered = stats.stats().queue_lines_delivered;
            unchanged = if delivered == before { unchanged + 1 } else { 0 };
            before = delivered;
            delivered >= lines_read && unchanged >= 30
        };
        let reading = async {
            connection.read_exact(&mut read).await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            stopped = soon(Box::new(takes_nothing)) => assert!(stopped, "what is not read is not taken"),
            () = reading => {}
        }
        let unread = collector.stats().queue_lines_delivered as usize * (line.len() + 1) - read.len();
        #[cfg(target_os = "linux")]
        assert!(unread < 1 << 20, "{unread} bytes are lost if it goes now");
        let inner = Arc::clone(queue.inner());
        let keeps_nothing = move || (inner.probe().waiting, inner.probe().held_lines, inner.uncopied()) == (0, 0, 0);
        assert!(soon(Box::new(keeps_nothing)).await, "{:?} {}", queue.inner().probe(), queue.inner().uncopied());
        server.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_rests_behind_no_frame_that_may_fill_the_connections_buffer() {
        let collector = LogCollector::default();
        let queue = collector.subscribe("m").unwrap();
        let link = Link::new();
        let reader = Reader::new(Source::Queue(LogStream::new(queue.clone())), TEXT, FOREVER, &Arc::default());
        let mut body = reader.into_body(Some(link));
        for (bytes, waiting) in [(100, 1), (62_000, 1), (64_000, 0), (200_000, 0), (10, 1)] {
            let _ = collector.push_line("m", &"x".repeat(bytes)).unwrap();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().len(), bytes + 1);
            assert_eq!(queue.inner().probe().waiting, waiting, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_is_charged_until_it_is_written_and_small_where_there_is_no_room() {
        let collector = LogCollector::default();
        let budget = Arc::clone(collector.budget());
        let queue = collector.subscribe("m").unwrap();
        let reader = Reader::new(Source::Queue(LogStream::new(queue)), TEXT, FOREVER, &Arc::default());
        let mut body = reader.charged_to(&budget).into_body(None);
        let line = "x".repeat(1 << 10);
        let push = || (0..9).for_each(|_| drop(collector.push_line("m", &line).unwrap()));

        push();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.len(), 9 * (line.len() + 1));
        let held = budget.used();
        drop(frame);
        assert!(held - budget.used() >= 9 << 10, "{held} then {}", budget.used());

        let others: Vec<Permit> = std::iter::from_fn(|| budget.try_frame(FRAME_BYTES)).collect();
        push();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.len(), 3 * (line.len() + 1));
        drop((others, frame));
        let rest = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(rest.len(), 6 * (line.len() + 1));
    }
}
