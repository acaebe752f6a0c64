//! What the guard below hyper and the handler above it must tell each other about one connection.
//!
//! hyper stands between them and hides four things: that the guard refused what came next, that a body broke and why, that
//! the far side has closed its half while it is owed an answer, and that it does not read.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::{sync::Notify, time::Instant};

use super::head::Fault;

/// One connection, as its guard and its handler share it.
#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<State>,
    gone: AtomicBool,
    went: Notify,
    /// Whether the connection is to be closed when what is there is answered.
    closing: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// Messages whose head was handed to hyper and whose answer hyper has not yet got to the end of.
    unanswered: u32,
    /// When the connection began or last finished an answer.
    idle_since: Instant,
    /// To be woken when the last answer is finished.
    parked: Option<Waker>,
    /// Why nothing more on this connection is read as a request.
    fault: Option<Fault>,
    /// Whether the far side takes no more of what was written.
    stalled: bool,
    /// To be woken when it takes more.
    held_back: Option<Waker>,
}

impl Link {
    pub(super) fn new() -> Arc<Self> {
        let state = State {
            unanswered: 0,
            idle_since: Instant::now(),
            parked: None,
            fault: None,
            stalled: false,
            held_back: None,
        };
        let [gone, closing] = [false, false].map(AtomicBool::new);
        Arc::new(Self { state: Mutex::new(state), gone, went: Notify::new(), closing })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A message's head goes to hyper.
    pub(super) fn begin(&self) {
        self.state().unanswered += 1;
    }

    /// hyper has let go of a message's answer.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.unanswered = state.unanswered.saturating_sub(1);
        state.idle_since = Instant::now();
        if let Some(waker) = state.parked.take() {
            waker.wake();
        }
    }

    /// Since when the far side is owed nothing; `None` while it is owed an answer.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.unanswered == 0).then_some(state.idle_since)
    }

    pub(super) fn wake_when_answered(&self, waker: &Waker) {
        self.state().parked = Some(waker.clone());
    }

    /// Ends the connection's requests; the first fault stays.
    pub(super) fn fail(&self, fault: Fault) {
        self.state().fault.get_or_insert(fault);
    }

    /// Why the connection's requests ended, if the guard ended them.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.state().fault.clone()
    }

    /// The far side takes no more, or again takes some.
    pub(super) fn set_stalled(&self, stalled: bool) {
        let held_back = {
            let mut state = self.state();
            state.stalled = stalled;
            if stalled { None } else { state.held_back.take() }
        };
        if let Some(waker) = held_back {
            waker.wake();
        }
    }

    /// Ready when the far side takes what is written, as far as is known.
    pub(crate) fn poll_taking(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.stalled {
            return Poll::Ready(());
        }
        state.held_back = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn set_closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub(super) fn set_gone(&self) {
        if !self.gone.swap(true, Ordering::AcqRel) {
            self.went.notify_waiters();
        }
    }

    /// Whether the far side has closed its half of the connection; see [`Link::gone`].
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Waits until the far side has closed its half of the connection: it will send nothing more, and most likely it is
    /// gone. Seen only while hyper has nothing else to read.
    ///
    /// Cancel safe.
    pub(crate) async fn gone(&self) {
        let mut went = std::pin::pin!(self.went.notified());
        went.as_mut().enable();
        if !self.is_gone() {
            went.await;
        }
    }
}
