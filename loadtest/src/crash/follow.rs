//! Readers that follow while the drain is killed, and go on where they were.

use super::drain::Setup;
use super::fleet::Fleet;
use super::read::read;
use super::view::{NAMED_MAX, View};
use crate::client::Target;
use crate::failure::Failure;
use hyper::{Method, StatusCode};
use serde::Serialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// How long a reader waits before it connects anew.
const RECONNECT: Duration = Duration::from_millis(10);
/// A subscription is on the disk within a second, as its position is.
const SUBSCRIBED: Duration = Duration::from_millis(2_500);
/// Readers that got nothing for so long have what they get.
const SETTLE: Duration = Duration::from_secs(5);

/// What is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    /// Nothing.
    None,
    /// The queue of each machine: subscribed before the first line, consumed at least once.
    Queue,
    /// The log of each machine, resumed by id.
    Logs,
    /// All machines at once, resumed by id.
    Tail,
}

/// The readers of a run.
pub(super) struct Followers {
    pub(super) from: From,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    view: Mutex<View>,
    trouble: Mutex<Vec<String>>,
}

impl Followers {
    /// Subscribes, and starts to follow.
    pub(super) fn start(from: From, fleet: Fleet, setup: &Setup, runtime: &Runtime) -> Result<Self, Failure> {
        let view = View::new("followed", fleet, from == From::Tail);
        let shared = Arc::new(Shared { view: view.into(), trouble: Mutex::default() });
        let machines: Vec<Option<u32>> = match from {
            From::None => Vec::new(),
            From::Tail => vec![None],
            From::Queue | From::Logs => (0..fleet.machines_in_all()).map(Some).collect(),
        };
        if from == From::Queue {
            subscribe(fleet, &setup.control(), runtime)?;
        }
        let tasks = machines.into_iter().map(|machine| {
            let one = One { from, fleet, machine, target: setup.control(), shared: Arc::clone(&shared) };
            runtime.spawn(one.follow())
        });
        let tasks = tasks.collect();
        if from == From::Queue {
            std::thread::sleep(SUBSCRIBED);
        }
        Ok(Self { from, shared, tasks })
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.shared.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until they have read `lines`, or nothing more comes, and gives what they have read and what was wrong.
    pub(super) fn settle(self, lines: u64) -> (View, Vec<String>) {
        let (mut read, mut progress) = (0, Instant::now());
        // A queue may give lines again: having read as many is no sign of having read all.
        while !(self.from != From::Queue && read >= lines) && progress.elapsed() < SETTLE {
            let now = self.view().read;
            if now > read {
                (read, progress) = (now, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.tasks.iter().for_each(JoinHandle::abort);
        let trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.view().clone(), trouble)
    }
}

fn subscribe(fleet: Fleet, target: &Target, runtime: &Runtime) -> Result<(), Failure> {
    for machine in 0..fleet.machines_in_all() {
        let path = format!("/api/v1/machines/{}", fleet.id_text(machine));
        match runtime.block_on(target.call(Method::PUT, &path))? {
            (StatusCode::CREATED, _) => {}
            (status, _) => return Err(Failure::data(format!("PUT {path} was answered {status}"))),
        }
    }
    Ok(())
}

/// A reader.
struct One {
    from: From,
    fleet: Fleet,
    machine: Option<u32>,
    target: Target,
    shared: Arc<Shared>,
}

impl One {
    async fn follow(self) {
        loop {
            let path = self.path();
            let outcome = read(&self.target, &path, |line| self.view().take(line)).await;
            match outcome {
                Ok(reason) if reason == "shutdown" => {}
                Ok(reason) => self.trouble(format!("GET {path} ended with {reason}")),
                Err(error) => {
                    let error = error.to_string();
                    // A drain that is killed, or not ready yet, is what this is about.
                    if error.starts_with("GET ") && !error.contains("503") {
                        self.trouble(error);
                    }
                }
            }
            if let (From::Queue, Some(machine)) = (self.from, self.machine) {
                self.view().begin_anew(machine);
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    fn path(&self) -> String {
        let id = self.machine.map(|machine| self.fleet.id_text(machine)).unwrap_or_default();
        let view = self.view();
        match (self.from, view.last_id(self.machine)) {
            (From::Queue, _) => format!("/api/v1/machines/{id}/queue"),
            (From::Logs, None) => format!("/api/v1/machines/{id}/logs"),
            (From::Logs, Some(after)) => format!("/api/v1/machines/{id}/logs?after={after}"),
            (From::None | From::Tail, None) => "/api/v1/tail?since=24h".to_owned(),
            (From::None | From::Tail, Some(after)) => format!("/api/v1/tail?after={after}"),
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.shared.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self, text: String) {
        let mut trouble = self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.len() < NAMED_MAX {
            trouble.push(text);
        }
    }
}
