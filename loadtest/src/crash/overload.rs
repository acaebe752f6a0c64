//! Twice what the drain takes, with a `block` queue whose reader is dead: who is refused is told at once, and is taken again soon
//! after the cause has gone.

use super::drain::Setup;
use super::report::Times;
use super::sender::Shared;
use crate::compare::thousands;
use crate::failure::Failure;
use crate::stall;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Nobody is held, a queue is soon full, and one that is full stays so until somebody reads.
pub(super) const SETTINGS: [(&str, &str); 3] =
    [("backpressure.wait", "0s"), ("queue.lines", "200"), ("queue.stalled_after", "1h")];
/// So long the drain is sent what it takes; the first half is not measured.
const CALIBRATION: Duration = Duration::from_secs(4);
/// So many times what it took then is it sent afterwards.
const TIMES: f64 = 2.0;
/// A dead reader's queue is full within this time.
const FULL_WAIT: Duration = Duration::from_secs(10);
/// A reader that finds no drain tries again after so long.
const RECONNECT: Duration = Duration::from_millis(10);
/// A queue whose reader is gone goes behind after a second: a new one comes after this time.
const GONE: Duration = Duration::from_millis(1_500);

/// What the reader of the queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Reads,
    Stalls,
    Gone,
}

/// What the overload was, and how it was told.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Overloaded {
    /// Records a second: what the drain took, and what it was then sent by schedule.
    calibrated: f64,
    asked: f64,
    /// Times in which the dead reader's queue refused nobody.
    pub(super) unblocked: u64,
    /// From when the dead reader reads again, or has gone, to the next 200 of the sender that was refused for its queue.
    pub(super) freed: Times,
}

impl Overloaded {
    pub(super) fn text(&self) -> String {
        let Self { calibrated, asked, freed, .. } = self;
        format!(
            "{} records a second by schedule, {:.1} times the {} that it took; from the dead reader's end to the next 200: {}",
            thousands(*asked),
            asked / calibrated,
            thousands(*calibrated),
            freed.text()
        )
    }
}

/// The one queue's reader, which dies now and then.
pub(super) struct Reader {
    manner: watch::Sender<Manner>,
    task: JoinHandle<()>,
}

impl Reader {
    /// Subscribes `machine` with `full=block` and reads.
    pub(super) fn start(setup: &Setup, machine: &str, runtime: &Runtime) -> Self {
        let (manner, told) = watch::channel(Manner::Reads);
        let (target, path) = (setup.control(), format!("/api/v1/machines/{machine}/queue?full=block"));
        let task = runtime.spawn(async move {
            let mut told = told;
            loop {
                // It is there when the drain is: a kill is no reader's fault.
                match stall::open(&target, &path).await {
                    Ok(stream) => read(stream, &mut told).await,
                    Err(_) => tokio::time::sleep(RECONNECT).await,
                }
                if told.borrow().eq(&Manner::Gone) {
                    let _ = told.changed().await;
                }
            }
        });
        Self { manner, task }
    }

    /// From now on it reads, whatever it did.
    pub(super) fn revive(&self) {
        self.manner.send_replace(Manner::Reads);
    }

    /// It dies, until its sender is refused; then its end, by reading on or by hanging up, is timed to the next 200 of that sender.
    pub(super) fn die(&self, shared: &Shared) -> bool {
        self.manner.send_replace(Manner::Stalls);
        let since = Instant::now();
        while !shared.blocked_since(since) && since.elapsed() < FULL_WAIT {
            std::thread::sleep(Duration::from_millis(1));
        }
        shared.blocked_since(since)
    }

    /// The cause goes. How long it took until who was refused for it was taken again, at most `patience`.
    pub(super) fn end(&self, hangs_up: bool, shared: &Shared, patience: Duration) -> Duration {
        let since = Instant::now();
        self.manner.send_replace(if hangs_up { Manner::Gone } else { Manner::Reads });
        while !shared.unblocked_since(since) && since.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        let took = since.elapsed();
        if hangs_up {
            std::thread::sleep(GONE.saturating_sub(took));
            self.revive();
        }
        took
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads, or does not, as it is told, until the connection breaks or it is to go.
async fn read(mut stream: tokio::net::TcpStream, told: &mut watch::Receiver<Manner>) {
    let mut space = vec![0; 64 << 10];
    loop {
        let manner = *told.borrow_and_update();
        if manner == Manner::Gone {
            return;
        }
        let reads = async {
            match manner {
                Manner::Reads => matches!(stream.read(&mut space).await, Ok(1..)),
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            is_there = reads => if !is_there { return },
            changed = told.changed() => if changed.is_err() { return },
        }
    }
}

/// Finds what the drain takes, and has it sent twice as much from now on.
pub(super) fn calibrate(shared: &Arc<Shared>) -> Result<Overloaded, Failure> {
    shared.set_pace(f64::INFINITY);
    std::thread::sleep(CALIBRATION / 2);
    let (before, began) = (shared.acknowledged(), Instant::now());
    std::thread::sleep(CALIBRATION / 2);
    let calibrated = (shared.acknowledged() - before) as f64 / began.elapsed().as_secs_f64();
    if calibrated < 1.0 {
        return Err(Failure::data("the drain took nothing in the calibration"));
    }
    let asked = TIMES * calibrated;
    shared.set_pace(asked);
    eprintln!("it takes {} records a second, and is sent {}", thousands(calibrated), thousands(asked));
    Ok(Overloaded { calibrated, asked, ..Overloaded::default() })
}
