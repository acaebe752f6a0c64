//! The control listener: who may read ([`Access`]), what there is to call ([`routes`]), and readers' answers.
//!
//! `logs` and `tail` look: any number of readers, none disturbs another or ingest. `queue` consumes. All three are bodies
//! that hyper pulls ([`reader`]): a line of a queue counts as delivered when hyper takes the frame it is in, and what was
//! not taken is given back when the body is dropped.
//!
//! ## Metrics
//!
//! None of its own: queues, views and their skipped lines count in the collector's ledger.

mod access;
mod encode;
mod filter;
mod index;
mod machines;
mod openapi;
mod pace;
mod params;
mod reader;
mod routes;
mod source;

use std::{fmt, sync::Arc, time::Duration};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, VARY, WWW_AUTHENTICATE,
    },
    http::request::Parts,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

pub(crate) use self::access::Access;
#[cfg(feature = "fuzzing")]
pub(crate) use self::params::fuzz;
use self::{
    access::{Denied, Who},
    encode::{Encoder, Format},
    filter::Filter,
    machines::Page,
    pace::Pacing,
    params::{Query, bad},
    reader::{Limits, Reader},
    routes::{Call, Operation, Route},
    source::{FleetSource, MachineSource, Source},
};
use super::{
    Body, full,
    link::Link,
    problem::Problem,
    rejected::{Rejected, RejectedRecords},
    status::{Counted, Health, Reason, Trouble, Verdict},
};
use crate::{
    batch::{EntryId, EntryView},
    collector::{Consume, LogCollector, MachineFacts, Unexplained},
    exit,
    stream::{
        FleetStream, LogStream,
        view::{MachineView, ViewStart},
    },
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells nginx, and whoever took it over, not to collect an answer before passing it on.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const X_CONTENT_TYPE_OPTIONS: HeaderName = HeaderName::from_static("x-content-type-options");

const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What other rooms have to tell; each is asked when a reader asks.
pub(crate) struct Hooks {
    /// The Prometheus text.
    pub(crate) metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// Counters of `GET /api/v1/stats` beside the collector's: refused bodies, bytes, sinks, spool.
    pub(crate) counters: Box<dyn Fn() -> Map<String, Value> + Send + Sync>,
    /// What is asked of sinks: which one, what, and its answer; `None`: all of them are asked for.
    pub(crate) sinks: SinksHook,
    /// The last rejected records.
    pub(crate) rejected: Arc<RejectedRecords>,
    /// Lines dropped elsewhere than in queues, and bodies refused for want of room.
    pub(crate) counted: Box<dyn Fn() -> Counted + Send + Sync>,
    /// What is wrong elsewhere: sinks that fail, sources that are silent.
    pub(crate) troubles: Box<dyn Fn() -> Vec<Reason> + Send + Sync>,
    /// What hurts nobody yet: a configuration that could not be reloaded.
    pub(crate) warning: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

/// What is asked of sinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SinkCall {
    List,
    Pause {
        name: String,
        paused: bool,
    },
    /// Waits for the disk.
    Rewind {
        name: String,
        since: Timestamp,
        dry_run: bool,
    },
}

/// Why a sink does not do what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SinkRefusal {
    #[error("there is no sink {name:?}; there are: {}", if known.is_empty() { "none" } else { known })]
    Unknown { name: String, known: String },
    #[cfg_attr(not(feature = "sinks"), expect(dead_code, reason = "sinks refuse so"))]
    #[error("there is no spool to go back in")]
    NoSpool,
    #[cfg_attr(not(feature = "sinks"), expect(dead_code, reason = "sinks refuse so"))]
    #[error("the spool cannot be read now")]
    Unreadable,
}

/// Answers what is asked of sinks.
pub(crate) type SinksHook = Box<dyn Fn(SinkCall) -> Result<Value, SinkRefusal> + Send + Sync>;

impl Default for Hooks {
    fn default() -> Self {
        Self {
            metrics: Box::new(String::new),
            counters: Box::new(Map::new),
            sinks: Box::new(|_| Err(SinkRefusal::Unknown { name: String::new(), known: String::new() })),
            rejected: Arc::default(),
            counted: Box::new(Counted::default),
            troubles: Box::new(Vec::new),
            warning: Box::new(|| None),
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// What the control listener's routes work on.
#[derive(Debug)]
pub(crate) struct ControlState {
    collector: LogCollector,
    access: Access,
    hooks: Hooks,
    health: Health,
    pacing: Arc<Pacing>,
}

impl ControlState {
    pub(crate) fn new(collector: LogCollector, access: Access, hooks: Hooks) -> Arc<Self> {
        Arc::new(Self { collector, access, hooks, health: Health::default(), pacing: Arc::default() })
    }

    /// Notes the counters that the verdict compares; to be called about every second.
    pub(crate) fn note_health(&self) {
        self.health.note(self.counted());
    }

    /// The verdict for alerts.
    pub(crate) fn verdict(&self) -> Verdict {
        let mut reasons = self.health.reasons(self.counted());
        reasons.extend((self.hooks.troubles)());
        if self.collector.is_shutting_down() {
            reasons.push(Reason::new(Trouble::ShuttingDown, "the process is about to end"));
        }
        Verdict { warnings: (self.hooks.warning)().into_iter().collect(), ..Verdict::new(reasons) }
    }

    fn counted(&self) -> Counted {
        let elsewhere = (self.hooks.counted)();
        Counted { dropped: elsewhere.dropped + self.collector.queue_lines_dropped(), ..elsewhere }
    }

    /// Whether logs can be taken now.
    fn readiness(&self) -> Verdict {
        let is_full = || self.collector.budget().try_reserve(READY_BYTES).is_none();
        let reason = if self.collector.is_shutting_down() {
            Some(Reason::new(Trouble::ShuttingDown, "the process is about to end"))
        } else if is_full() {
            Some(Reason::new(Trouble::Refusing, "the byte budget has no room"))
        } else if !self.collector.spool_takes(READY_BYTES) {
            Some(Reason::new(Trouble::Refusing, "the spool takes nothing"))
        } else {
            None
        };
        Verdict::new(reason.into_iter().collect())
    }
}

/// What `/readyz` asks the budget for: the room of a small body.
const READY_BYTES: usize = 64 << 10;

/// Answers one request to the control listener.
///
/// Reads nothing of the request's body. An answer of lines goes on until its end; dropping it gives back what was not handed
/// to the connection.
pub(crate) async fn handle<B>(state: Arc<ControlState>, request: Request<B>) -> Response<Body> {
    let (head, _) = request.into_parts();
    let found = routes::find(head.uri.path());
    let route = found.map(|(route, _)| route);
    let page = state.access.page(&head, route);
    let mut response = if page.is_some() && head.method == Method::OPTIONS {
        preflight()
    } else {
        answer(&state, &head, found).await.unwrap_or_else(|problem| problem.response())
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Some(page) = page {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, page.clone());
    }
    if state.access.tells_pages_apart(route) {
        headers.insert(VARY, HeaderValue::from_static("Origin"));
    }
    response
}

/// Tells a browser that a page may ask what it wants to ask.
fn preflight() -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Authorization, Last-Event-ID"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

async fn answer(
    state: &Arc<ControlState>,
    head: &Parts,
    found: Option<(&'static Route, Option<&str>)>,
) -> Result<Response<Body>, Problem> {
    let who = match state.access.check(head, found.map(|(route, _)| route)) {
        Ok(who) => who,
        Err(denied) => return Ok(turned_away(denied)),
    };
    let Some((route, id)) = found else {
        return Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no {:?}", head.uri.path())));
    };
    let Some(operation) = route.operation(head.method.as_str()) else {
        return Ok(not_allowed(&head.method, &route.allow()));
    };
    let id = id.map(params::decode_segment).transpose()?;
    if route.call != Call::Explain {
        id.iter().try_for_each(|id| machines::check_id(id))?;
    }
    let asked = Asked { state, head, who, operation, id: id.as_deref().unwrap_or_default() };
    asked.answer(route.call).await
}

fn turned_away(denied: Denied) -> Response<Body> {
    let mut response = Problem::new(denied.status(), denied.to_string()).response();
    if denied.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn not_allowed(method: &Method, allow: &str) -> Response<Body> {
    let detail = format!("{method} does not work here, only {allow}");
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).response();
    let allow = HeaderValue::from_str(allow).expect("methods of the route table are header text");
    response.headers_mut().insert(ALLOW, allow);
    response
}

/// A request that may pass, at its route.
struct Asked<'a> {
    state: &'a Arc<ControlState>,
    head: &'a Parts,
    who: Who,
    operation: &'static Operation,
    /// What the path names, which in most is a machine; empty where it names nothing.
    id: &'a str,
}

impl Asked<'_> {
    async fn answer(&self, call: Call) -> Result<Response<Body>, Problem> {
        // Scrapers and probes put what they like behind their paths.
        let query = match call {
            Call::Index | Call::Metrics | Call::Livez | Call::Readyz | Call::Healthz => Query::parse(None, &[])?,
            _ => Query::parse(self.head.uri.query(), self.operation.parameters)?,
        };
        match call {
            Call::Index => Ok(index::answer(&self.head.headers, self.state.access.speaks_tls())),
            Call::Metrics => self.metrics().await,
            Call::Livez => Ok(text(StatusCode::OK, JSON, r#"{"status":"ok"}"#)),
            Call::Readyz => Ok(verdict(&self.state.readiness())),
            Call::Healthz => Ok(verdict(&self.state.verdict())),
            Call::Stats => Ok(self.stats()),
            Call::Machines => self.machines(&query).await,
            Call::Machine => self.machine(&query).await,
            Call::Queue => self.queue(&query).await,
            Call::Logs => self.logs(&query).await,
            Call::Tail => self.tail(&query).await,
            Call::Rejected => Ok(self.rejected()),
            Call::Losses => self.losses(&query).await,
            Call::Explain => self.explain().await,
            Call::Sinks => self.sinks(SinkCall::List).await,
            Call::PauseSink => self.sinks(SinkCall::Pause { name: self.id.to_owned(), paused: true }).await,
            Call::ResumeSink => self.sinks(SinkCall::Pause { name: self.id.to_owned(), paused: false }).await,
            Call::RewindSink => {
                let since = query.duration("since")?.ok_or_else(|| {
                    Problem::new(StatusCode::BAD_REQUEST, "since is missing: how far to go back, such as since=2h")
                })?;
                let since = Timestamp::now().saturating_sub(since).unwrap_or(Timestamp::MIN);
                let dry_run = query.flag("dry_run")?.unwrap_or_default();
                self.sinks(SinkCall::Rewind { name: self.id.to_owned(), since, dry_run }).await
            }
            Call::OpenApi => Ok(document(StatusCode::OK, &openapi::document())),
        }
    }

    async fn metrics(&self) -> Result<Response<Body>, Problem> {
        let state = Arc::clone(self.state);
        let metrics = aside(move || (state.hooks.metrics)()).await?;
        Ok(text(StatusCode::OK, PROMETHEUS, metrics))
    }

    async fn sinks(&self, call: SinkCall) -> Result<Response<Body>, Problem> {
        let state = Arc::clone(self.state);
        let answer = aside(move || (state.hooks.sinks)(call)).await?;
        let status = |refusal: &SinkRefusal| match refusal {
            SinkRefusal::Unknown { .. } => StatusCode::NOT_FOUND,
            SinkRefusal::NoSpool => StatusCode::CONFLICT,
            SinkRefusal::Unreadable => StatusCode::SERVICE_UNAVAILABLE,
        };
        let answer = answer.map_err(|refusal| Problem::new(status(&refusal), refusal.to_string()))?;
        Ok(document(StatusCode::OK, &answer))
    }

    fn stats(&self) -> Response<Body> {
        let mut stats = json!(self.state.collector.stats());
        if let Value::Object(all) = &mut stats {
            all.extend((self.state.hooks.counters)());
        }
        document(StatusCode::OK, &stats)
    }

    async fn machines(&self, query: &Query<'_>) -> Result<Response<Body>, Problem> {
        let page = Page::of(query)?;
        let collector = self.state.collector.clone();
        let grant = self.who.grant().cloned();
        let is_told = move |facts: &MachineFacts| grant.as_ref().is_none_or(|grant| grant.tells_of(facts));
        // A hundred thousand machines take a while: not on a thread that serves connections.
        aside(move || {
            let list = page.pick(|visit| {
                collector.visit_machines(|facts| {
                    if is_told(&facts) {
                        visit(facts);
                    }
                });
            });
            document(StatusCode::OK, &list)
        })
        .await
    }

    /// Whether the machine may be asked for: a link is for some.
    fn may_ask(&self) -> Result<(), Problem> {
        let Some(grant) = self.who.grant() else { return Ok(()) };
        if grant.may_ask_for(self.id, self.state.collector.machine_facts(self.id).as_ref()) {
            return Ok(());
        }
        Err(Problem::new(StatusCode::FORBIDDEN, format!("this link is not for machine {:?}", self.id)))
    }

    async fn machine(&self, query: &Query<'_>) -> Result<Response<Body>, Problem> {
        self.may_ask()?;
        let collector = &self.state.collector;
        let status = match self.operation.method {
            "PUT" => {
                let options = machines::subscribe_options(query)?;
                let subscribed = self
                    .subscribed(options.backlog, move |collector, id| collector.subscribe_with(id, options))
                    .await?;
                let (_, is_new) = subscribed.map_err(machines::not_subscribed)?;
                self.stored().await?;
                if is_new { StatusCode::CREATED } else { StatusCode::OK }
            }
            "DELETE" => {
                let linger = query.duration("linger")?.unwrap_or_default();
                let is_known = collector.finish_after(self.id, linger)
                    || self.recalled().await? && collector.finish_after(self.id, linger);
                if !is_known {
                    return Err(machines::never_seen(self.id));
                }
                self.stored().await?;
                StatusCode::ACCEPTED
            }
            _ => StatusCode::OK,
        };
        Ok(document(status, &machines::facts(collector, self.id)?))
    }

    fn rejected(&self) -> Response<Body> {
        let records: Vec<Value> = self.state.hooks.rejected.newest_first().iter().map(rejected_record).collect();
        document(StatusCode::OK, &json!({ "rejected": records }))
    }

    async fn losses(&self, query: &Query<'_>) -> Result<Response<Body>, Problem> {
        let (since, machine) = (ago(query)?, query.text("machine").map(str::to_owned));
        machine.iter().try_for_each(|id| machines::check_id(id))?;
        let collector = self.state.collector.clone();
        // Megabytes may be read from the disk.
        aside(move || {
            let losses = collector.losses(since, machine.as_deref());
            let document = json!({
                "losses": losses.entries,
                "kept": if losses.on_disk { "disk" } else { "memory" },
                "complete_since": losses.complete_since.map(|at| at.to_string()),
            });
            self::document(StatusCode::OK, &document)
        })
        .await
    }

    async fn explain(&self) -> Result<Response<Body>, Problem> {
        let id: EntryId = self.id.parse().map_err(|_| params::bad_value("id", self.id, "the id of an entry"))?;
        let collector = self.state.collector.clone();
        // May wait for the disk.
        let explained = aside(move || collector.explain(id)).await?;
        let status = |unexplained| match unexplained {
            Unexplained::Unreadable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::NOT_FOUND,
        };
        let explained = explained.map_err(|why| Problem::new(status(why), why.to_string()))?;
        Ok(document(StatusCode::OK, &explained))
    }

    async fn queue(&self, query: &Query<'_>) -> Result<Response<Body>, Problem> {
        let (options, limits) = (machines::subscribe_options(query)?, limits(query)?);
        let until_exit = until_exit(query)?;
        let encoder = self.encoder(query)?;
        if self.head.method == Method::HEAD {
            return Ok(lines(encoder, full("")));
        }
        if until_exit.is_some() {
            self.recall_exit().await;
        }
        let consume = self.subscribed(options.backlog, move |collector, id| collector.queue_to_consume(id, options));
        let consume = consume.await?.map_err(machines::not_subscribed)?;
        self.stored().await?;
        let source = match consume {
            Consume::Queue(queue) => Source::Queue(match until_exit {
                Some(linger) => LogStream::new(queue).until_exit(linger),
                None => LogStream::new(queue),
            }),
            Consume::Over(ended) => Source::Over(ended.into()),
        };
        Ok(self.lines(encoder, Reader::new(source, encoder, limits, &self.state.pacing).delivering_to(self.link())))
    }

    /// The connection that the request came over.
    fn link(&self) -> Option<Arc<Link>> {
        self.head.extensions.get::<Arc<Link>>().cloned()
    }

    fn lines(&self, encoder: Encoder, reader: Reader) -> Response<Body> {
        lines(encoder, reader.charged_to(self.state.collector.budget()).into_body(self.link()))
    }

    /// Subscribes; with a backlog on the disk on a thread of its own.
    async fn subscribed<T: Send + 'static>(
        &self,
        backlog: bool,
        subscribe: impl FnOnce(&LogCollector, &str) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let collector = &self.state.collector;
        if !backlog || !collector.keeps_bodies() {
            return Ok(subscribe(collector, self.id));
        }
        let (collector, id) = (collector.clone(), self.id.to_owned());
        aside(move || subscribe(&collector, &id)).await
    }

    /// With a spool: waits until what was subscribed or finished is on the disk, so that a crash does not undo the answer.
    async fn stored(&self) -> Result<(), Problem> {
        let collector = self.state.collector.clone();
        if !collector.keeps_bodies() {
            return Ok(());
        }
        aside(move || collector.store_subscriptions()).await
    }

    /// Whether an earlier process has kept lines of the machine, which is known from then on.
    async fn recalled(&self) -> Result<bool, Problem> {
        let (collector, id) = (self.state.collector.clone(), self.id.to_owned());
        aside(move || collector.recall_machine(&id)).await
    }

    async fn logs(&self, query: &Query<'_>) -> Result<Response<Body>, Problem> {
        self.may_ask()?;
        let backlog = query.flag("backlog")?.unwrap_or(true);
        let start = view_start(query, &self.head.headers, backlog)?;
        let (limits, encoder) = (self.limits(query)?, self.encoder(query)?);
        let until_exit = until_exit(query)?;
        if self.head.method == Method::HEAD {
            return Ok(lines(encoder, full("")));
        }
        if until_exit.is_some() {
            self.recall_exit().await;
        }
        let collector = &self.state.collector;
        let grant = self.who.grant().cloned();
        let by_whom = grant.clone();
        let is_shown = move |entry: &EntryView<'_>| by_whom.as_ref().is_none_or(|grant| grant.shows(entry));
        let view = match collector.shared.history.past() {
            None => MachineView::new(collector, self.id, &start, is_shown),
            Some(past) => {
                let (collector, id, start) = (collector.clone(), self.id.to_owned(), start.clone());
                past.search(move || MachineView::new(&collector, &id, &start, is_shown)).await
            }
        };
        if start.after.is_some() && view.is_over() && until_exit.is_none() {
            return Ok(nothing());
        }
        let view = match until_exit {
            Some(linger) => view.until_exit(linger, start.looks_back()),
            None => view,
        };
        let source = Source::Machine(MachineSource { view, grant, until: until(collector, limits) });
        Ok(self.lines(encoder, Reader::new(source, encoder, limits, &self.state.pacing)))
    }

    /// Finds an exit that was told before this process began.
    async fn recall_exit(&self) {
        #[cfg(feature = "spool")]
        if let Some(past) = self.state.collector.shared.history.past() {
            let (collector, id) = (self.state.collector.clone(), self.id.to_owned());
            past.search(move || collector.recall_exit(&id)).await;
        }
    }

    async fn tail(&self, query: &Query<'_>) -> Result<Response<Body>, Problem> {
        let start = view_start(query, &self.head.headers, false)?;
        let filter = Filter::of(query, self.who.grant().cloned())?;
        let (limits, encoder) = (self.limits(query)?, self.encoder(query)?);
        if self.head.method == Method::HEAD {
            return Ok(lines(encoder, full("")));
        }
        let collector = self.state.collector.clone();
        // To find the newest lines that match can take a walk over all that is held.
        let search = move || {
            let stream = FleetStream::new(&collector, &start, |entry| filter.wants(entry));
            (stream, filter)
        };
        let (stream, filter) = match self.state.collector.shared.history.past() {
            Some(past) => past.search(search).await,
            None => aside(search).await?,
        };
        let until = until(&self.state.collector, limits);
        let source = Source::Fleet(FleetSource { stream, filter, until });
        Ok(self.lines(encoder, Reader::new(source, encoder, limits, &self.state.pacing)))
    }

    /// A link's streams end with it.
    fn limits(&self, query: &Query<'_>) -> Result<Limits, Problem> {
        let mut limits = limits(query)?;
        if let Some(grant) = self.who.grant() {
            let left = grant.left_at(Timestamp::now());
            limits.total_timeout = Some(limits.total_timeout.map_or(left, |asked| asked.min(left)));
        }
        Ok(limits)
    }

    fn encoder(&self, query: &Query<'_>) -> Result<Encoder, Problem> {
        let raw = query.flag("raw")?.unwrap_or(false);
        Ok(Encoder { format: Format::of(&self.head.headers), raw })
    }
}

fn limits(query: &Query<'_>) -> Result<Limits, Problem> {
    Ok(Limits {
        item_timeout: query.duration("item_timeout")?,
        total_timeout: query.duration("total_timeout")?,
        max_lines: query.count("max_lines")?,
        follow: query.flag("follow")?.unwrap_or(true),
    })
}

/// Whether to end with the machine's exit, and how long lines may come behind it.
fn until_exit(query: &Query<'_>) -> Result<Option<Duration>, Problem> {
    let until = query.read("until", |text| (text == "exit").then_some(()), "exit")?;
    let linger = query.duration("linger")?;
    match (until, linger) {
        (Some(()), Some(linger)) if linger > exit::LINGER_MAX => {
            Err(bad(format_args!("linger={:?} is over 30s", query.text("linger").unwrap_or_default())))
        }
        (Some(()), linger) => Ok(Some(linger.unwrap_or(exit::LINGER))),
        (None, Some(_)) => Err(bad(format_args!("linger goes with until=exit"))),
        (None, None) => Ok(None),
    }
}

/// Where a view that does not follow ends: at what was there when it was asked for, or a busy machine would hold it for ever.
fn until(collector: &LogCollector, limits: Limits) -> Option<u64> {
    (!limits.follow).then(|| collector.shared.history.end().1)
}

fn view_start(query: &Query<'_>, headers: &HeaderMap, backlog: bool) -> Result<ViewStart, Problem> {
    Ok(ViewStart { backlog, since: ago(query)?, last: query.count("last")?, after: after(query, headers)? })
}

/// The time that `since` names.
fn ago(query: &Query<'_>) -> Result<Option<Timestamp>, Problem> {
    let since = query.duration("since")?.map(|since| Timestamp::now().checked_sub(since));
    since.transpose().map_err(|error| bad(format_args!("since is before all time: {error}")))
}

/// The line to resume behind. The header wins: a browser that reconnects keeps the query of its first request.
fn after(query: &Query<'_>, headers: &HeaderMap) -> Result<Option<EntryId>, Problem> {
    let header = headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty());
    let (name, text) = match (header, query.text("after")) {
        (Some(value), _) => ("Last-Event-ID", String::from_utf8_lossy(value.as_bytes())),
        (None, Some(text)) => ("after", text.into()),
        (None, None) => return Ok(None),
    };
    text.parse().map(Some).map_err(|_| params::bad_value(name, &text, "the id of an entry"))
}

/// Runs what takes a while on a thread of its own.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a reader's question could not be answered");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made")
    })
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn document(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    let mut json = serde_json::to_vec(document).expect("documents of ours have string keys and finite numbers");
    json.push(b'\n');
    text(status, JSON, json)
}

fn verdict(verdict: &Verdict) -> Response<Body> {
    let status = if verdict.is_well() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    document(status, verdict)
}

/// An answer that goes on.
fn lines(encoder: Encoder, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(encoder.format.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// There is nothing, and there will be nothing: an `EventSource` stops asking.
fn nothing() -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn rejected_record(record: &Rejected) -> Value {
    // An array that is cut off between two records breaks where nothing stands.
    let detail = record.bytes.is_empty().then_some("the body ends where more must come");
    json!({
        "time": record.at.to_string(),
        "reason": record.error.reason.as_str(),
        "record": record.error.record,
        "line": record.error.line,
        "bytes": String::from_utf8_lossy(&record.bytes),
        "detail": detail,
    })
}
