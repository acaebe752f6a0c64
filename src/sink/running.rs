//! The sinks of a drain, from start to stop.

use std::sync::Arc;

#[cfg(feature = "spool")]
use crate::collector::outlet::RewindError;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    BadSetting, MadeFor, Sink,
    config::SinkConfig,
    dead_letter::DeadLetters,
    drive::{Terms, drive},
};
use crate::{
    collector::{
        LogCollector,
        outlet::{OutletState, OutletTerms},
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
    state: Arc<OutletState>,
    paused: watch::Sender<bool>,
}

impl Handle {
    /// What is known of it: its counts, under the names of their metrics, and what it does.
    fn facts(&self) -> Value {
        let stats = self.state.stats();
        let state = match (*self.paused.borrow(), &stats.last_error) {
            (true, _) => "paused",
            (false, Some(_)) => "failing",
            (false, None) => "running",
        };
        let mut facts = json!(stats);
        facts["type"] = self.kind.as_str().into();
        facts["state"] = state.into();
        facts
    }
}

/// Every sink with its delivery loop.
#[derive(Default)]
pub(crate) struct Sinks {
    handles: Arc<[Handle]>,
    loops: Mutex<JoinSet<()>>,
}

impl Sinks {
    /// Opens the sinks' ends of `collector` and starts their loops. Those that a spool remembers and nobody has set are forgotten.
    pub(crate) async fn start(
        collector: &LogCollector,
        config: &Config,
        shutdown: &CancellationToken,
    ) -> Result<Self, BadSink> {
        forget_others(collector, &config.sinks).await;
        let (mut handles, mut loops) = (Vec::new(), JoinSet::new());
        for of in &config.sinks {
            let made = of.settings.make(&MadeFor { encoding: of.encoding });
            let sink: Arc<dyn Sink> = made.map_err(|source| BadSink { name: of.name.clone(), source })?.into();
            let bytes_max = of.queue_bytes.unwrap_or(config.memory.budget / 8);
            let terms = OutletTerms {
                name: of.name.as_str().into(),
                filter: Some(of.filter.clone()),
                full: of.full,
                bytes_max,
                is_awaited: of.is_awaited,
            };
            let collector = collector.clone();
            // A disk may take its time.
            let outlet = spawn_blocking(move || collector.add_outlet(terms)).await;
            let outlet = outlet.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            let (paused, is_paused) = watch::channel(false);
            let state = Arc::clone(outlet.state());
            handles.push(Handle { name: of.name.clone(), kind: of.kind.clone(), state, paused });
            let dir = config.spool.dir.as_deref().or(config.journal.dir.as_deref());
            let terms = Terms {
                parcels: of.parcels,
                concurrency_max: of.concurrency_max,
                deadline: of.deliver_deadline,
                bytes_max,
                dead_letters: DeadLetters::new(dir, &of.name),
            };
            loops.spawn(drive(outlet, sink, terms, is_paused, shutdown.clone()));
        }
        Ok(Self { handles: handles.into(), loops: Mutex::new(loops) })
    }

    /// Answers what is asked of sinks over HTTP.
    pub(crate) fn hook(&self) -> SinksHook {
        let handles = Arc::clone(&self.handles);
        Box::new(move |call| answer(&handles, call))
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

/// Whether each sink's store would take lines, and if not why.
#[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "`validate --connect` asks"))]
pub(crate) async fn probe(config: &Config) -> Vec<(String, Result<(), String>)> {
    let mut answers = Vec::new();
    for of in &config.sinks {
        let answer = match of.settings.make(&MadeFor { encoding: of.encoding }) {
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

fn answer(handles: &[Handle], call: SinkCall) -> Result<Value, SinkRefusal> {
    let of = |name: &str| handles.iter().find(|handle| handle.name == name).ok_or(SinkRefusal::Unknown);
    match call {
        SinkCall::List => Ok(json!({ "sinks": handles.iter().map(Handle::facts).collect::<Vec<_>>() })),
        SinkCall::Pause { name, paused } => {
            let handle = of(&name)?;
            handle.paused.send_replace(paused);
            tracing::info!(sink = name, paused, "told to");
            Ok(handle.facts())
        }
        SinkCall::Rewind { name, since, dry_run } => rewind(of(&name)?, since, dry_run),
    }
}

#[cfg(feature = "spool")]
fn rewind(handle: &Handle, since: Timestamp, dry_run: bool) -> Result<Value, SinkRefusal> {
    let rewound = handle.state.rewind(since, dry_run).map_err(|error| match error {
        RewindError::NoSpool => SinkRefusal::NoSpool,
        RewindError::Unreadable(_) => SinkRefusal::Unreadable,
    })?;
    if !dry_run {
        tracing::info!(sink = handle.name, %since, lines = rewound.lines, "rewound");
    }
    Ok(json!({ "dry_run": dry_run, "from": rewound.from.map(|from| from.to_string()), "lines": rewound.lines }))
}

#[cfg(not(feature = "spool"))]
fn rewind(_: &Handle, _: Timestamp, _: bool) -> Result<Value, SinkRefusal> {
    Err(SinkRefusal::NoSpool)
}

async fn forget_others(collector: &LogCollector, sinks: &[SinkConfig]) {
    #[cfg(feature = "spool")]
    {
        let (collector, names) = (collector.clone(), sinks.iter().map(|sink| sink.name.clone()).collect::<Vec<_>>());
        let forget = move || collector.forget_sinks_but(&names.iter().map(String::as_str).collect::<Vec<_>>());
        if let Err(error) = spawn_blocking(forget).await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    #[cfg(not(feature = "spool"))]
    let _ = (collector, sinks);
}
