//! Other sinks while the drain runs.
//!
//! One whose settings, and the files that they name, are as they were is not touched. One that is no longer set is offered nothing
//! more, flushes, and goes; what it has not had of a spool waits there for as long as the spool keeps it. One whose settings have
//! changed is stopped, and another of its name goes on with what it had not settled: neither takes a line that the other has.

use std::{convert::Infallible, fmt, future::ready, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{All, BadSink, Ending, Handle, Order, Running, Sink, SinkConfig, Sinks, make, on_a_thread_for_it};
use crate::{
    collector::{
        LogCollector,
        outlet::{Outlet, OutletTerms},
    },
    config::Config,
};

/// What a swap came to: names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Swapped {
    pub(crate) added: Vec<String>,
    pub(crate) changed: Vec<String>,
    pub(crate) removed: Vec<String>,
}

impl fmt::Display for Swapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("added", &self.added), ("changed", &self.changed), ("removed", &self.removed)];
        let told: Vec<_> = parts
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what} {}", names.join(", ")))
            .collect();
        f.write_str(if told.is_empty() { "as they were" } else { "" })?;
        f.write_str(&told.join("; "))
    }
}

/// Where a sink gets its end of the collector from.
enum Before {
    /// There is no other of its name.
    Nobody,
    /// One that goes for good.
    Leaving(oneshot::Receiver<Infallible>),
    /// One whose place it takes.
    Running(oneshot::Receiver<Outlet>),
}

impl Before {
    /// `None`: it is too late.
    async fn outlet(self, collector: LogCollector, terms: OutletTerms) -> Option<Outlet> {
        let before = match self {
            Self::Nobody => None,
            Self::Leaving(gone) => {
                let _ = gone.await;
                None
            }
            Self::Running(outlet) => Some(outlet.await.ok()?),
        };
        let open = move || match before {
            None => collector.add_outlet(terms),
            Some(before) => before.handed_over(terms),
        };
        Some(on_a_thread_for_it(open).await)
    }
}

impl Sinks {
    /// Makes the sinks be those of `config`. Those that are new are consumers when this returns; those that go may flush for a while.
    ///
    /// # Errors
    ///
    /// When one cannot be made; then nothing has changed.
    pub(crate) async fn swap(&self, config: &Config) -> Result<Swapped, BadSink> {
        let is_kept = |of: &SinkConfig, all: &All| {
            all.handles.iter().any(|handle| handle.name == of.name && handle.fingerprint == of.fingerprint)
        };
        let fresh: Vec<&SinkConfig> = {
            let all = self.all.lock();
            config.sinks.iter().filter(|of| !is_kept(of, &all)).collect()
        };
        let made =
            fresh.into_iter().map(|of| Ok((of, make(of, &self.collector)?))).collect::<Result<Vec<_>, BadSink>>()?;
        let mut swapped = Swapped::default();
        let begun: Vec<_> = {
            let mut all = self.all.lock();
            self.remove_others(&mut all, config, &mut swapped);
            let begun = made.into_iter().map(|(of, sink)| self.replace(&mut all, of, sink, &mut swapped)).collect();
            let place = |handle: &Handle| config.sinks.iter().position(|of| of.name == handle.name);
            all.handles.sort_by_key(place);
            begun
        };
        for (before, terms, running) in begun {
            self.begin(before, terms, running).await;
        }
        Ok(swapped)
    }

    /// Makes `sink` be the one of its name, and has the one before it end.
    fn replace(
        &self,
        all: &mut All,
        of: &SinkConfig,
        sink: Arc<dyn Sink>,
        swapped: &mut Swapped,
    ) -> (Before, OutletTerms, Running) {
        let at = all.handles.iter().position(|handle| handle.name == of.name);
        let is_paused = at.is_some_and(|at| *all.handles[at].orders.borrow() == Order::Pause);
        let (orders, told) = watch::channel(if is_paused { Order::Pause } else { Order::Run });
        let (ending, ended) = oneshot::channel();
        let (name, kind) = (of.name.clone(), of.kind.clone());
        let handle = Handle { name: name.clone(), kind, fingerprint: of.fingerprint, orders, ending };
        let before = if let Some(at) = at {
            swapped.changed.push(name);
            let Handle { orders, ending, .. } = std::mem::replace(&mut all.handles[at], handle);
            let (to, outlet) = oneshot::channel();
            // The ending first: the loop may end as soon as it has its order.
            let _ = ending.send(Ending::HandOver { deadline: Instant::now() + self.terms.flush, to });
            orders.send_replace(Order::HandOver);
            Before::Running(outlet)
        } else {
            all.handles.push(handle);
            let leaving = all.leaving.remove(&name);
            swapped.added.push(name);
            leaving.map_or(Before::Nobody, Before::Leaving)
        };
        let shutdown = self.shutdown.clone();
        let running = Running { sink, terms: self.terms.of_loop(of), orders: told, ending: ended, shutdown };
        (before, self.terms.of_outlet(of), running)
    }

    async fn begin(&self, before: Before, terms: OutletTerms, running: Running) {
        // A sink that is new is a consumer of the next line that comes.
        let is_new = matches!(before, Before::Nobody);
        let outlet = before.outlet(self.collector.clone(), terms);
        let outlet: BoxFuture<'static, _> = if is_new { Box::pin(ready(outlet.await)) } else { Box::pin(outlet) };
        let mut loops = self.loops.lock();
        while loops.try_join_next().is_some() {}
        loops.spawn(async move {
            if let Some(outlet) = outlet.await {
                running.run(outlet).await;
            }
        });
    }

    fn remove_others(&self, all: &mut All, config: &Config, swapped: &mut Swapped) {
        let deadline = Instant::now() + self.terms.flush;
        let is_set = |handle: &Handle| config.sinks.iter().any(|of| of.name == handle.name);
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut all.handles).into_iter().partition(is_set);
        all.handles = kept;
        all.leaving.retain(|_, gone| matches!(gone.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        for Handle { name, orders, ending, .. } in gone {
            self.collector.retire_outlet(&name);
            let (sender, receiver) = oneshot::channel();
            // The ending first: the loop may end as soon as it has its order.
            let _ = ending.send(Ending::Leave { deadline, _gone: sender });
            orders.send_replace(Order::Finish);
            all.leaving.insert(name.clone(), receiver);
            swapped.removed.push(name);
        }
    }
}
