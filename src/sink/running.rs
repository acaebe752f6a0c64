//! The sinks of a drain, from start to stop, and their swap in between.

mod swap;

use std::{collections::HashMap, convert::Infallible, path::PathBuf, pin::pin, sync::Arc, time::Duration};

#[cfg(feature = "spool")]
use crate::collector::outlet::RewindError;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch},
    task::{JoinSet, spawn_blocking},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::swap::Swapped;
use super::{
    BadSetting, MadeFor, Sink,
    config::{SinkConfig, queue_bytes_default},
    dead_letter::DeadLetters,
    drive::{Order, Terms, drive},
};
use crate::{
    collector::{
        LogCollector,
        outlet::{Outlet, OutletState, OutletTerms},
    },
    config::Config,
    http::read::{SinkCall, SinkRefusal, SinksHook},
};

/// A sink cannot be made, though its settings were well when they were read.
#[derive(Debug, thiserror::Error)]
#[error("sinks.{name}: {source}")]
pub(crate) struct BadSink {
    name: String,
    source: BadSetting,
}

/// What may be known of a running sink, and asked of it.
struct Handle {
    name: String,
    /// Its `type`.
    kind: String,
    fingerprint: u64,
    orders: watch::Sender<Order>,
    ending: oneshot::Sender<Ending>,
}

impl Handle {
    /// What is known of it: its counts, under the names of their metrics, and what it does.
    fn facts(&self, collector: &LogCollector) -> Value {
        let stats = self.state(collector).map(|state| state.stats());
        let failing = stats.as_ref().is_some_and(|stats| stats.failing().is_some());
        let state = match (*self.orders.borrow(), failing, &stats) {
            (Order::Pause, ..) => "paused",
            (_, true, _) => "failing",
            (_, false, Some(_)) => "running",
            // The one before it, of the same name, is not over yet.
            (_, false, None) => "starting",
        };
        let mut facts = stats.map_or_else(|| json!({ "name": self.name }), |stats| json!(stats));
        facts["type"] = self.kind.as_str().into();
        facts["state"] = state.into();
        facts
    }

    fn state(&self, collector: &LogCollector) -> Option<Arc<OutletState>> {
        collector.outlets().iter().find(|state| state.name() == self.name).cloned()
    }
}

/// What becomes of a sink that is stopped while the drain runs on.
enum Ending {
    /// It flushes, then is gone; whoever waits for that hears of it by the sender's end.
    Leave { deadline: Instant, _gone: oneshot::Sender<Infallible> },
    /// Another goes on with its end of the collector.
    HandOver { deadline: Instant, to: oneshot::Sender<Outlet> },
}

impl Ending {
    fn deadline(&self) -> Instant {
        match self {
            Self::Leave { deadline, .. } | Self::HandOver { deadline, .. } => *deadline,
        }
    }
}

/// Every sink with its delivery loop.
pub(crate) struct Sinks {
    collector: LogCollector,
    shutdown: CancellationToken,
    terms: CommonTerms,
    all: Arc<Mutex<All>>,
    loops: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct All {
    handles: Vec<Handle>,
    /// Those that flush before they go, by name.
    leaving: HashMap<String, oneshot::Receiver<Infallible>>,
}

/// What holds for all sinks from the start of the drain on.
#[derive(Clone)]
struct CommonTerms {
    /// Of a sink's queue where it is not set.
    queue_bytes: usize,
    dead_letters: Option<PathBuf>,
    /// How long one that is stopped may flush.
    flush: Duration,
}

impl CommonTerms {
    fn of_outlet(&self, of: &SinkConfig) -> OutletTerms {
        OutletTerms {
            name: of.name.as_str().into(),
            filter: Some(of.filter.clone()),
            full: of.full,
            bytes_max: of.queue_bytes.unwrap_or(self.queue_bytes),
            is_awaited: of.is_awaited,
        }
    }

    fn of_loop(&self, of: &SinkConfig) -> Terms {
        Terms {
            parcels: of.parcels,
            concurrency_max: of.concurrency_max,
            deadline: of.deliver_deadline,
            bytes_max: of.queue_bytes.unwrap_or(self.queue_bytes),
            dead_letters: DeadLetters::new(self.dead_letters.as_deref(), &of.name),
        }
    }
}

fn make(of: &SinkConfig, collector: &LogCollector) -> Result<Arc<dyn Sink>, BadSink> {
    let made = of.settings.make(&MadeFor { encoding: of.encoding, drain: Some(collector.epoch()) });
    Ok(made.map_err(|source| BadSink { name: of.name.clone(), source })?.into())
}

impl Sinks {
    /// Opens the sinks' ends of `collector` and starts their loops. Those that a spool remembers and nobody has set are forgotten.
    pub(crate) async fn start(
        collector: &LogCollector,
        config: &Config,
        shutdown: &CancellationToken,
    ) -> Result<Self, BadSink> {
        forget_others(collector, &config.sinks).await;
        let dir = config.spool.dir.as_ref().or(config.journal.dir.as_ref());
        let sinks = Self {
            collector: collector.clone(),
            shutdown: shutdown.clone(),
            terms: CommonTerms {
                queue_bytes: queue_bytes_default(config),
                dead_letters: dir.cloned(),
                flush: config.shutdown.deadline,
            },
            all: Arc::default(),
            loops: Mutex::default(),
        };
        sinks.swap(config).await?;
        Ok(sinks)
    }

    /// Answers what is asked of sinks over HTTP.
    pub(crate) fn hook(&self) -> SinksHook {
        let (collector, all) = (self.collector.clone(), Arc::clone(&self.all));
        Box::new(move |call| answer(&collector, &all, call))
    }

    /// Waits for the loops to deliver what there is, and ends them at `deadline`: what they have not delivered by then stays with the
    /// collector. It must have shut down.
    pub(crate) async fn stop(&self, deadline: Instant) {
        let mut loops = std::mem::take(&mut *self.loops.lock());
        let all = async { while loops.join_next().await.is_some() {} };
        if timeout_at(deadline, all).await.is_err() {
            loops.shutdown().await;
        }
    }
}

/// One sink with its delivery loop, from when it has its end of the collector.
struct Running {
    sink: Arc<dyn Sink>,
    terms: Terms,
    orders: watch::Receiver<Order>,
    ending: oneshot::Receiver<Ending>,
    shutdown: CancellationToken,
}

impl Running {
    async fn run(self, mut outlet: Outlet) {
        let Self { sink, terms, orders, mut ending, shutdown } = self;
        let ending = {
            let mut driving = pin!(drive(&mut outlet, Arc::clone(&sink), terms, orders, shutdown));
            let told = tokio::select! {
                () = &mut driving => None,
                told = &mut ending => Some(told.ok()),
            };
            match told {
                // It may have been told at the same moment.
                None => ending.try_recv().ok(),
                Some(Some(ending)) => {
                    // What is left then is given up, handed over, or in the spool.
                    let _ = timeout_at(ending.deadline(), driving).await;
                    Some(ending)
                }
                // Nobody is left who could tell it anything but to shut down.
                Some(None) => {
                    driving.await;
                    None
                }
            }
        };
        if let Err(failure) = sink.close().await {
            let sink = outlet.state().name();
            tracing::error!(sink, %failure, "what was delivered could not be completed");
        }
        // The next may have its place, such as a directory.
        drop(sink);
        match ending {
            // Who was to go on may have ended, and everything else with it.
            Some(Ending::HandOver { to, .. }) => drop(to.send(outlet)),
            // Who waits for it to be gone hears of that behind it.
            ending => {
                drop(outlet);
                drop(ending);
            }
        }
    }
}

/// Whether each sink's store would take lines, and if not why.
#[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "`validate --connect` asks"))]
pub(crate) async fn probe(config: &Config) -> Vec<(String, Result<(), String>)> {
    let mut answers = Vec::new();
    for of in &config.sinks {
        let answer = match of.settings.make(&MadeFor { encoding: of.encoding, drain: None }) {
            Ok(sink) => match timeout(of.deliver_deadline, sink.probe()).await {
                Ok(answer) => answer.map_err(|failure| failure.to_string()),
                Err(_) => Err(format!("no answer within {:?}", of.deliver_deadline)),
            },
            Err(bad) => Err(bad.to_string()),
        };
        answers.push((of.name.clone(), answer));
    }
    answers
}

fn answer(collector: &LogCollector, all: &Mutex<All>, call: SinkCall) -> Result<Value, SinkRefusal> {
    let all = all.lock();
    let of = |name: &str| {
        let handle = all.handles.iter().find(|handle| handle.name == name);
        handle.ok_or_else(|| {
            let known: Vec<_> = all.handles.iter().map(|handle| handle.name.as_str()).collect();
            SinkRefusal::Unknown { name: name.to_owned(), known: known.join(", ") }
        })
    };
    match call {
        SinkCall::List => {
            Ok(json!({ "sinks": all.handles.iter().map(|handle| handle.facts(collector)).collect::<Vec<_>>() }))
        }
        SinkCall::Pause { name, paused } => {
            let handle = of(&name)?;
            handle.orders.send_replace(if paused { Order::Pause } else { Order::Run });
            tracing::info!(sink = name, "{} by the control API", if paused { "paused" } else { "resumed" });
            Ok(handle.facts(collector))
        }
        SinkCall::Rewind { name, since, dry_run } => {
            let state = of(&name)?.state(collector).ok_or(SinkRefusal::Unreadable)?;
            // It may wait for the disk.
            drop(all);
            rewind(&state, since, dry_run)
        }
    }
}

#[cfg(feature = "spool")]
fn rewind(state: &OutletState, since: Timestamp, dry_run: bool) -> Result<Value, SinkRefusal> {
    let rewound = state.rewind(since, dry_run).map_err(|error| match error {
        RewindError::NoSpool => SinkRefusal::NoSpool,
        RewindError::Unreadable(_) => SinkRefusal::Unreadable,
    })?;
    if !dry_run {
        tracing::info!(sink = state.name(), %since, lines = rewound.lines, "rewound");
    }
    Ok(json!({ "dry_run": dry_run, "from": rewound.from.map(|from| from.to_string()), "lines": rewound.lines }))
}

#[cfg(not(feature = "spool"))]
fn rewind(_: &OutletState, _: Timestamp, _: bool) -> Result<Value, SinkRefusal> {
    Err(SinkRefusal::NoSpool)
}

async fn forget_others(collector: &LogCollector, sinks: &[SinkConfig]) {
    #[cfg(feature = "spool")]
    {
        let (collector, names) = (collector.clone(), sinks.iter().map(|sink| sink.name.clone()).collect::<Vec<_>>());
        let forget = move || collector.forget_sinks_but(&names.iter().map(String::as_str).collect::<Vec<_>>());
        on_a_thread_for_it(forget).await;
    }
    #[cfg(not(feature = "spool"))]
    let _ = (collector, sinks);
}

/// Waits for what waits for the disk.
async fn on_a_thread_for_it<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(wait).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
