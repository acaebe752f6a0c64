//! A waker is its executor's code: it may drop readers and call the collector, when it wakes and when it is dropped.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use futures_core::Stream;
use parking_lot::Mutex;

use super::policies::with;
use crate::{
    collector::{LogCollector, tests::push_numbers},
    config::Full,
    stream::{LogQueue, LogStream},
};

/// Holds a reader that waits, as an executor that keeps a task's future in its waker does.
struct Holding {
    collector: LogCollector,
    stream: Mutex<Option<LogStream>>,
    ran: Arc<AtomicBool>,
}

impl Holding {
    /// Takes every lock that there is, but each for itself.
    fn run(&self) {
        drop(self.stream.lock().take());
        drop(self.collector.subscribe("another"));
        drop(self.collector.push_line("another", "x"));
        let _ = self.collector.all_machine_facts();
        self.ran.store(true, SeqCst);
    }
}

impl Wake for Holding {
    fn wake(self: Arc<Self>) {
        self.run();
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.run();
    }
}

fn poll(stream: &mut LogStream, waker: &Waker) {
    assert!(Pin::new(stream).poll_next(&mut Context::from_waker(waker)).is_pending());
}

/// A waker that holds a reader which waits; and whether it ran.
fn holding(collector: &LogCollector, queue: &LogQueue) -> (Waker, Arc<AtomicBool>) {
    let mut held = LogStream::new(queue.clone());
    poll(&mut held, Waker::noop());
    let ran = Arc::default();
    let (collector, stream) = (collector.clone(), Mutex::new(Some(held)));
    (Waker::from(Arc::new(Holding { collector, stream, ran: Arc::clone(&ran) })), ran)
}

/// A reader that waits with a waker that holds another one; and whether that waker ran.
fn waiting(collector: &LogCollector, queue: &LogQueue) -> (LogStream, Arc<AtomicBool>) {
    let (waker, ran) = holding(collector, queue);
    let mut stream = LogStream::new(queue.clone());
    poll(&mut stream, &waker);
    (stream, ran)
}

/// Whether the waker of a reader that waits gets to its end when `act` is done; a lock that is held would stop it for ever.
#[track_caller]
fn assert_runs(act: impl FnOnce(&LogCollector, &LogQueue, LogStream) + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let (collector, queue) = with(Full::DropOldest, |_| {});
        let (stream, ran) = waiting(&collector, &queue);
        act(&collector, &queue, stream);
        let _ = sender.send(ran.load(SeqCst));
    });
    let ran = receiver.recv_timeout(Duration::from_secs(20)).expect("a lock is held while a waker runs");
    assert!(ran, "it was neither woken nor dropped");
}

#[test]
fn lines_wake_a_reader_with_no_lock_held() {
    assert_runs(|collector, _, _stream| drop(push_numbers(collector, "m", 0..1).unwrap()));
}

#[test]
fn the_end_wakes_a_reader_with_no_lock_held() {
    assert_runs(|collector, _, _stream| assert!(collector.finish("m")));
    assert_runs(|collector, _, _stream| collector.finish_all());
    assert_runs(|collector, _, _stream| collector.shut_down());
}

#[test]
fn an_exit_wakes_a_reader_with_no_lock_held() {
    let exited =
        r#"{"event":{"provider":"runner"},"instance":"m","message":"machine exited with exit code 0, not restarting"}"#;
    assert_runs(move |collector, queue, stream| {
        // The queue takes no line of the platform's: it is the exit that wakes.
        let mut exiting = LogStream::new(queue.clone()).until_exit(Duration::ZERO);
        let (waker, ran) = holding(collector, queue);
        poll(&mut exiting, &waker);
        drop(waker);
        let _ = collector.push(exited).unwrap();
        assert!(ran.load(SeqCst));
        drop((stream, exiting));
    });
}

#[test]
fn lines_given_back_wake_a_reader_with_no_lock_held() {
    assert_runs(|collector, queue, mut stream| {
        let mut holder = LogStream::new(queue.clone());
        let _ = push_numbers(collector, "m", 0..2).unwrap();
        assert!(Pin::new(&mut holder).poll_next(&mut Context::from_waker(Waker::noop())).is_ready());
        let (again, ran) = waiting(collector, queue);
        drop(holder);
        assert!(ran.load(SeqCst));
        drop((stream.ready_event(), again));
    });
}

#[test]
fn a_waker_is_replaced_with_no_lock_held() {
    assert_runs(|_, _, mut stream| poll(&mut stream, Waker::noop()));
}

#[test]
fn a_reader_leaves_its_waker_with_no_lock_held() {
    assert_runs(|_, _, stream| drop(stream));
}
