//! The one table of the control listener's calls: what is routed, what `Allow` says, which parameters a call takes, and
//! what `openapi.json` tells of it.

use super::{
    access::ACCESS_TOKEN,
    machines::LIMIT_MAX,
    params::{Form, Parameter},
};

/// A path of the control listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Index,
    Metrics,
    Livez,
    Readyz,
    Healthz,
    Stats,
    Machines,
    Machine,
    Queue,
    Logs,
    Tail,
    Rejected,
    Losses,
    Explain,
    Sinks,
    PauseSink,
    ResumeSink,
    RewindSink,
    OpenApi,
}

impl Call {
    /// Whether the holder of a signed link may GET this, filtered to what the link says.
    pub(super) fn is_for_links(self) -> bool {
        matches!(self, Self::Machines | Self::Machine | Self::Logs | Self::Tail)
    }

    /// Whether a page follows it with an `EventSource`, which cannot send a head.
    pub(super) fn is_stream(self) -> bool {
        matches!(self, Self::Logs | Self::Tail)
    }
}

/// What can be done at a path.
#[derive(Debug)]
pub(super) struct Operation {
    /// `GET` answers `HEAD` too.
    pub(super) method: &'static str,
    pub(super) what: &'static str,
    pub(super) parameters: &'static [&'static Parameter],
    /// Statuses beside 400, 401, 403, 404 and 405, which any call may answer.
    pub(super) answers: &'static [(u16, &'static str)],
}

/// A path, and what can be done there.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) call: Call,
    /// With `{id}` where a machine's id stands, or a sink's name, or an entry's id.
    pub(super) path: &'static str,
    /// Needs no token.
    pub(super) open: bool,
    pub(super) operations: &'static [Operation],
}

impl Route {
    /// The operation of a method, if there is one here.
    pub(super) fn operation(&self, method: &str) -> Option<&'static Operation> {
        let method = if method == "HEAD" { "GET" } else { method };
        self.operations.iter().find(|operation| operation.method == method)
    }

    /// The methods that work here, as `Allow` lists them.
    pub(super) fn allow(&self) -> String {
        let methods: Vec<&str> = self
            .operations
            .iter()
            .map(|operation| if operation.method == "GET" { "GET, HEAD" } else { operation.method })
            .collect();
        methods.join(", ")
    }
}

/// The route of `path`, and the machine's id in it, still percent-encoded.
pub(super) fn find(path: &str) -> Option<(&'static Route, Option<&str>)> {
    ROUTES.iter().find_map(|route| {
        let Some((before, after)) = route.path.split_once("{id}") else {
            return (route.path == path).then_some((route, None));
        };
        let id = path.strip_prefix(before)?.strip_suffix(after)?;
        (!id.contains('/')).then_some((route, Some(id)))
    })
}

const STREAMS: Parameter =
    Parameter::new("streams", Form::Streams, "what the queue takes: a list of stdout, stderr and system, or all");
const FULL: Parameter =
    Parameter::new("full", Form::OneOf(&["catch_up", "block", "drop_oldest"]), "what the queue does when it is full");
const BACKLOG: Parameter =
    Parameter::new("backlog", Form::Flag, "whether a new queue begins with what the history holds (default false)");
const LOGS_BACKLOG: Parameter =
    Parameter::new("backlog", Form::Flag, "whether to begin with what the history holds (default true)");
const ITEM_TIMEOUT: Parameter =
    Parameter::new("item_timeout", Form::Duration, "end when a line takes longer than this");
const TOTAL_TIMEOUT: Parameter = Parameter::new("total_timeout", Form::Duration, "end this long after the request");
const MAX_LINES: Parameter = Parameter::new("max_lines", Form::Count, "end after so many lines");
const FOLLOW: Parameter = Parameter::new("follow", Form::Flag, "false: end when caught up (default true)");
const RAW: Parameter = Parameter::new("raw", Form::Flag, "whether entries carry the record as sent (default false)");
const SINCE: Parameter = Parameter::new("since", Form::Duration, "only lines received in so long a time before now");
const LAST: Parameter = Parameter::new("last", Form::Count, "of the past only so many of the newest lines that match");
const AFTER: Parameter = Parameter::new(
    "after",
    Form::Text,
    "only lines behind the one with this id; the header Last-Event-ID does the same",
);
const LINK: Parameter =
    Parameter::new(ACCESS_TOKEN, Form::Secret, "a signed link's token, where Authorization cannot be sent");
const APP: Parameter = Parameter::new("app", Form::List, "only these apps");
const REGION: Parameter = Parameter::new("region", Form::List, "only these regions");
const MACHINE: Parameter = Parameter::new("machine", Form::List, "only these machines");
const STREAM: Parameter = Parameter::new("stream", Form::List, "only these streams");
const LEVEL: Parameter = Parameter::new("level", Form::List, "only these levels");
const INCLUDE: Parameter = Parameter::new("include", Form::Text, "only messages that match this regular expression");
const EXCLUDE: Parameter = Parameter::new("exclude", Form::Text, "no messages that match this regular expression");
const SORT: Parameter = Parameter::new(
    "sort",
    Form::OneOf(&["lines", "bytes", "dropped", "lag"]),
    "what comes first: the most of this (default lines)",
);
const LIMIT: Parameter =
    Parameter::new("limit", Form::CountFrom1(LIMIT_MAX as u64), "how many at most, 1 to 10000 (default 100)");
const PAGE_AFTER: Parameter = Parameter::new("after", Form::Text, "the page behind this one: its `next`");
const LINGER: Parameter =
    Parameter::new("linger", Form::Duration, "how long lines are still the machine's (default 0s)");

const UNTIL: Parameter = Parameter::new(
    "until",
    Form::OneOf(&["exit"]),
    "exit: end with the machine's exit and its code, and do not finish it",
);
const EXIT_LINGER: Parameter = Parameter::new(
    "linger",
    Form::Duration,
    "with until=exit: how long lines may come behind the exit (default 5s, at most 30s); each begins it anew, to 30s in all",
);

const LOST_SINCE: Parameter =
    Parameter::new("since", Form::Duration, "only what was lost in so long a time before now");
const LOST_OF: Parameter = Parameter::new(
    "machine",
    Form::Text,
    "only what was lost of this machine; losses of which nobody knows whose they are always belong to it",
);

const REWIND_SINCE: Parameter = Parameter::new(
    "since",
    Form::Duration,
    "how far to go back before now; what was received since is delivered again",
)
.required();
const DRY_RUN: Parameter =
    Parameter::new("dry_run", Form::Flag, "true: only say how many lines that would be (default false)");

const LINES: (u16, &str) = (200, "lines, as they come: NDJSON, or by Accept text/event-stream or text/plain");
const LINES_OF_A_MACHINE: (u16, &str) = (
    200,
    "lines, as they come: NDJSON, or by Accept text/event-stream or text/plain; the last record is {\"event\":\"end\",\"reason\":…}: \
     finished, item_timeout, total_timeout, max_lines, caught_up, shutdown, or exited with \"exit_code\", a number or null",
);
const MACHINE_FACTS: (u16, &str) = (200, "what is known of the machine");

const fn get(
    what: &'static str,
    parameters: &'static [&'static Parameter],
    answers: &'static [(u16, &'static str)],
) -> Operation {
    Operation { method: "GET", what, parameters, answers }
}

const fn post(
    what: &'static str,
    parameters: &'static [&'static Parameter],
    answers: &'static [(u16, &'static str)],
) -> Operation {
    Operation { method: "POST", what, parameters, answers }
}

const SINK: (u16, &str) = (200, "the sink");

/// Every call.
pub(super) const ROUTES: &[Route] = &[
    Route {
        call: Call::Index,
        path: "/",
        open: false,
        operations: &[get("what is here", &[], &[(200, "a page that lists every call")])],
    },
    Route {
        call: Call::Metrics,
        path: "/metrics",
        open: true,
        operations: &[get("metrics for Prometheus", &[], &[(200, "Prometheus text format")])],
    },
    Route {
        call: Call::Livez,
        path: "/livez",
        open: true,
        operations: &[get("whether the process is up", &[], &[(200, "it is")])],
    },
    Route {
        call: Call::Readyz,
        path: "/readyz",
        open: true,
        operations: &[get("whether it can take logs", &[], &[(200, "it can"), (503, "it cannot, and why")])],
    },
    Route {
        call: Call::Healthz,
        path: "/healthz",
        open: true,
        operations: &[get("the verdict for alerts", &[], &[(200, "all is well"), (503, "it is not, and why")])],
    },
    Route {
        call: Call::Stats,
        path: "/api/v1/stats",
        open: false,
        operations: &[get("every counter of the ledger", &[], &[(200, "the counters")])],
    },
    Route {
        call: Call::Machines,
        path: "/api/v1/machines",
        open: false,
        operations: &[get("every machine seen, a page at a time", &[&SORT, &LIMIT, &PAGE_AFTER], &[(200, "a page")])],
    },
    Route {
        call: Call::Machine,
        path: "/api/v1/machines/{id}",
        open: false,
        operations: &[
            get("one machine", &[], &[MACHINE_FACTS]),
            Operation {
                method: "PUT",
                what: "subscribe: create the machine's queue if there is none",
                parameters: &[&STREAMS, &FULL, &BACKLOG],
                answers: &[
                    MACHINE_FACTS,
                    (201, "the queue was created"),
                    (409, "the queue exists with other terms"),
                    (503, "over queue.subscriptions_max, or shutting down"),
                ],
            },
            Operation {
                method: "DELETE",
                what: "finish: the end stands behind what is queued",
                parameters: &[&LINGER],
                answers: &[(202, "it will be finished when the linger is over")],
            },
        ],
    },
    Route {
        call: Call::Queue,
        path: "/api/v1/machines/{id}/queue",
        open: false,
        operations: &[get(
            "consume the machine's queue until the end; subscribes first unless the machine is finished",
            &[
                &STREAMS,
                &FULL,
                &BACKLOG,
                &UNTIL,
                &EXIT_LINGER,
                &ITEM_TIMEOUT,
                &TOTAL_TIMEOUT,
                &MAX_LINES,
                &FOLLOW,
                &RAW,
            ],
            &[LINES_OF_A_MACHINE, (409, "the queue exists with other terms"), (503, "over queue.subscriptions_max")],
        )],
    },
    Route {
        call: Call::Logs,
        path: "/api/v1/machines/{id}/logs",
        open: false,
        operations: &[get(
            "look at one machine: what the history holds, then live until it is finished",
            &[
                &LOGS_BACKLOG,
                &SINCE,
                &LAST,
                &AFTER,
                &UNTIL,
                &EXIT_LINGER,
                &ITEM_TIMEOUT,
                &TOTAL_TIMEOUT,
                &MAX_LINES,
                &FOLLOW,
                &RAW,
                &LINK,
            ],
            &[LINES_OF_A_MACHINE, (204, "the machine is finished and there is nothing behind `after`")],
        )],
    },
    Route {
        call: Call::Tail,
        path: "/api/v1/tail",
        open: false,
        operations: &[get(
            "look at all machines, live",
            &[
                &APP,
                &REGION,
                &MACHINE,
                &STREAM,
                &LEVEL,
                &INCLUDE,
                &EXCLUDE,
                &SINCE,
                &LAST,
                &AFTER,
                &ITEM_TIMEOUT,
                &TOTAL_TIMEOUT,
                &MAX_LINES,
                &FOLLOW,
                &RAW,
                &LINK,
            ],
            &[LINES],
        )],
    },
    Route {
        call: Call::Rejected,
        path: "/api/v1/rejected",
        open: false,
        operations: &[get("the last 100 rejected records", &[], &[(200, "the records, the newest first")])],
    },
    Route {
        call: Call::Losses,
        path: "/api/v1/losses",
        open: false,
        operations: &[get(
            "the loss journal: what was lost, of which machine, where and why",
            &[&LOST_SINCE, &LOST_OF],
            &[(200, "the losses, the oldest first")],
        )],
    },
    Route {
        call: Call::Explain,
        path: "/api/v1/explain/{id}",
        open: false,
        operations: &[get(
            "what became of one entry: where it is kept, which queues and sinks had it, what was lost",
            &[],
            &[
                (200, "what is known of it; of one that is gone, too"),
                (404, "no entry of this drain has the id: the detail says of what it may be"),
                (503, "the disk cannot be read now"),
            ],
        )],
    },
    Route {
        call: Call::Sinks,
        path: "/api/v1/sinks",
        open: false,
        operations: &[get("every sink: its counts, its lag, its last error", &[], &[(200, "the sinks")])],
    },
    Route {
        call: Call::PauseSink,
        path: "/api/v1/sinks/{id}/pause",
        open: false,
        operations: &[post("have a sink deliver nothing until it is resumed", &[], &[SINK])],
    },
    Route {
        call: Call::ResumeSink,
        path: "/api/v1/sinks/{id}/resume",
        open: false,
        operations: &[post("have a sink go on", &[], &[SINK])],
    },
    Route {
        call: Call::RewindSink,
        path: "/api/v1/sinks/{id}/rewind",
        open: false,
        operations: &[post(
            "have a sink deliver again what the spool received since",
            &[&REWIND_SINCE, &DRY_RUN],
            &[
                (200, "from where it delivers again, and how many lines"),
                (409, "there is no spool to go back in"),
                (503, "the spool cannot be read now"),
            ],
        )],
    },
    Route {
        call: Call::OpenApi,
        path: "/api/v1/openapi.json",
        open: false,
        operations: &[get("all of this, as OpenAPI 3.1", &[], &[(200, "the document")])],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn call(path: &str) -> Option<(Call, Option<&str>)> {
        find(path).map(|(route, id)| (route.call, id))
    }

    #[test]
    fn paths_find_their_calls_and_ids() {
        assert_eq!(call("/"), Some((Call::Index, None)));
        assert_eq!(call("/api/v1/machines"), Some((Call::Machines, None)));
        assert_eq!(call("/api/v1/machines/m1"), Some((Call::Machine, Some("m1"))));
        assert_eq!(call("/api/v1/machines/a%2Fb/logs"), Some((Call::Logs, Some("a%2Fb"))));
        assert_eq!(call("/api/v1/machines/logs/queue"), Some((Call::Queue, Some("logs"))));
        assert_eq!(call("/api/v1/machines//queue"), Some((Call::Queue, Some(""))));
        for path in ["", "/api", "/api/v1/", "/api/v1/stats/", "/api/v1/machines/a/b", "/api/v1/machines/a/logs/", "*"]
        {
            assert_eq!(call(path), None, "{path}");
        }
    }

    #[test]
    fn allow_lists_what_works() {
        let (route, _) = find("/api/v1/machines/m1").unwrap();
        assert_eq!(route.allow(), "GET, HEAD, PUT, DELETE");
        assert!(route.operation("HEAD").is_some_and(|operation| operation.method == "GET"));
        assert!(route.operation("POST").is_none());
    }

    #[test]
    fn every_call_has_one_route() {
        let calls: std::collections::HashSet<_> = ROUTES.iter().map(|route| route.call).collect();
        assert_eq!(calls.len(), ROUTES.len());
    }
}
