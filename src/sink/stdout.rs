//! The sink `stdout`: lines to the process's standard output.
//!
//! A reader that is slow is waited for, in a thread of its own: no worker of the runtime stands still for it, nor does the end of
//! the process. A line that could be written only in part is finished before anything else is written, when that is possible again.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{BadSetting, Delivery, Destination, Encoding, Failure, MadeFor, Parcel, ParcelBounds, Sink};
use crate::batch::Clock;

/// How long is waited before a pipe that does not block is tried again.
const PAUSE: Duration = Duration::from_millis(5);

/// `type = "stdout"`: no settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {}

impl Destination for Settings {
    type Sink = Stdout;

    fn make(&self, made_for: &MadeFor) -> Result<Stdout, BadSetting> {
        Ok(Stdout::to(made_for.encoding, Box::new(|| Ok(Box::new(Output::of_process()?)))))
    }

    fn parcel_defaults(&self) -> ParcelBounds {
        // Somebody may be looking.
        ParcelBounds { age: Duration::from_millis(100), ..ParcelBounds::default() }
    }
}

type Open = Box<dyn FnOnce() -> io::Result<Box<dyn Write + Send>> + Send>;

/// Lines to an output that may stand still.
pub(crate) struct Stdout {
    encoding: Encoding,
    writer: Mutex<Writer>,
}

enum Writer {
    /// Started with the first parcel.
    Waiting(Option<Open>),
    Running(SyncSender<Task>),
}

struct Task {
    lines: Vec<u8>,
    told: oneshot::Sender<io::Result<()>>,
}

impl Stdout {
    fn to(encoding: Encoding, open: Open) -> Self {
        Self { encoding, writer: Mutex::new(Writer::Waiting(Some(open))) }
    }

    /// Hands lines to the thread. Refused while it is still at those of a parcel that was given up.
    fn hand(&self, task: Task) -> io::Result<()> {
        let mut writer = self.writer.lock();
        if let Writer::Waiting(open) = &mut *writer {
            let open = open.take().ok_or_else(|| io::Error::other("it could not be opened"))?;
            let (sender, tasks) = sync_channel(1);
            let output = open()?;
            thread::Builder::new().name("sink-stdout".to_owned()).spawn(move || run(output, &tasks))?;
            *writer = Writer::Running(sender);
        }
        let Writer::Running(sender) = &*writer else { unreachable!("it was started") };
        sender.try_send(task).map_err(|error| match error {
            TrySendError::Full(_) => io::Error::new(io::ErrorKind::WouldBlock, "its reader is slow"),
            TrySendError::Disconnected(_) => io::Error::other("its thread has ended"),
        })
    }
}

impl Sink for Stdout {
    fn deliver<'a>(&'a self, parcel: &'a Parcel) -> Delivery<'a> {
        Box::pin(async move {
            let mut lines = Vec::with_capacity(parcel.bytes() as usize + 128 * parcel.lines());
            let mut clock = Clock::default();
            for entry in parcel.entries() {
                self.encoding.write(&entry, &mut clock, &mut lines);
                lines.push(b'\n');
            }
            let (told, written) = oneshot::channel();
            let handed = self.hand(Task { lines, told });
            let written = match handed {
                Ok(()) => written.await.unwrap_or_else(|_| Err(io::Error::other("its thread has ended"))),
                Err(error) => Err(error),
            };
            written.map_err(|error| Failure::Unavailable {
                reason: format!("standard output: {error}"),
                retry_after: None,
            })
        })
    }

    fn probe(&self) -> Delivery<'_> {
        Box::pin(async { Ok(()) })
    }

    /// Its lines are to be in the order in which they were received.
    fn concurrency_max(&self) -> usize {
        1
    }
}

fn run(mut output: Box<dyn Write + Send>, tasks: &Receiver<Task>) {
    let mut rest = Vec::new();
    for Task { lines, told } in tasks {
        // Whom nobody waits for comes again.
        if !told.is_closed() {
            let _ = told.send(write(&mut *output, &mut rest, &lines));
        }
    }
}

/// Writes the rest of a line that was begun, then `lines`. If that fails within a line, `rest` is what is missing of it.
fn write(output: &mut dyn Write, rest: &mut Vec<u8>, lines: &[u8]) -> io::Result<()> {
    let (written, error) = write_some(output, rest);
    rest.drain(..written);
    error?;
    let (written, error) = write_some(output, lines);
    if written > 0 && lines[written - 1] != b'\n' {
        let missing = lines[written..].split_inclusive(|&byte| byte == b'\n').next();
        rest.extend_from_slice(missing.unwrap_or_default());
    }
    error
}

/// Writes as much as can be written, and says how much.
fn write_some(output: &mut dyn Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A pipe that somebody has told not to block: its reader is waited for all the same.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return (written, Err(error)),
        }
    }
    (written, output.flush())
}

/// Standard output without the buffer that all of the process shares, which does not say how much was written.
struct Output(File);

impl Output {
    fn of_process() -> io::Result<Self> {
        Ok(Self(io::stdout().as_fd().try_clone_to_owned()?.into()))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, PipeReader, pipe},
        sync::Arc,
    };

    use super::*;

    fn parcel(from: usize, lines: usize) -> Parcel {
        let line = |n| format!("{{\"instance\":\"m\",\"message\":\"{n}\",\"pad\":\"{}\"}}\n", "x".repeat(200));
        Parcel::of_body((from..from + lines).map(line).collect::<String>())
    }

    fn to_pipe() -> (Stdout, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        (Stdout::to(Encoding::Raw, Box::new(|| Ok(Box::new(writer)))), reader)
    }

    fn number(line: &str) -> usize {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["message"].as_str().unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn a_slow_reader_is_waited_for_and_gets_every_line() {
        let (sink, reader) = to_pipe();
        // More than a pipe holds, with a reader that begins only when the sink stands still.
        let parcel = parcel(0, 2000);
        let mut delivery = sink.deliver(&parcel);
        assert!(futures_util::poll!(&mut delivery).is_pending());
        let read = thread::spawn(move || {
            BufReader::new(reader).lines().map(|line| number(&line.unwrap())).collect::<Vec<_>>()
        });
        delivery.as_mut().await.unwrap();
        drop(delivery);
        drop(sink);
        assert_eq!(read.join().unwrap(), (0..2000).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_closed_pipe_is_not_available() {
        let (sink, reader) = to_pipe();
        drop(reader);
        for _ in 0..2 {
            let failure = sink.deliver(&parcel(0, 1)).await.unwrap_err();
            assert!(matches!(failure, Failure::Unavailable { .. }), "{failure}");
        }
    }

    #[tokio::test]
    async fn no_more_than_one_parcel_waits_behind_one_that_was_given_up() {
        let (sink, mut reader) = to_pipe();
        let parcel = parcel(0, 2000);
        let mut given_up = sink.deliver(&parcel);
        assert!(futures_util::poll!(&mut given_up).is_pending());
        // It was begun, and is more than the pipe holds.
        std::io::Read::read_exact(&mut reader, &mut [0]).unwrap();
        drop(given_up);
        let mut waiting = sink.deliver(&parcel);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(futures_util::poll!(sink.deliver(&parcel)).is_ready());
        drop(reader);
    }

    /// An output that takes some bytes and then fails, until it is mended.
    struct Failing(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (written, room) = &mut *self.0.lock();
            let taken = bytes.len().min(*room);
            *room -= taken;
            written.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_line_that_was_begun_is_finished_before_anything_else() {
        let parcel = parcel(0, 3);
        for room in 0..900 {
            let output = Arc::new(Mutex::new((Vec::new(), room)));
            let failing = Failing(Arc::clone(&output));
            let sink = Stdout::to(Encoding::Raw, Box::new(|| Ok(Box::new(failing))));
            let failed = sink.deliver(&parcel).await.is_err();
            output.lock().1 = 1 << 20;
            sink.deliver(&parcel).await.unwrap();
            let text = String::from_utf8(output.lock().0.clone()).unwrap();
            let numbers: Vec<_> = text.lines().map(number).collect();
            assert!(failed && numbers.len() < 6 || numbers.len() == 6, "{room} {numbers:?}");
            assert!(numbers.ends_with(&[0, 1, 2]));
        }
    }
}
