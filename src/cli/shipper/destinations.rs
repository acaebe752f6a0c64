//! Where Fly's log shipper sends records to, by what is set in its environment.

/// One destination, as it becomes a sink. Of those with one name the first is taken that has what it needs.
pub(super) struct Destination {
    pub(super) name: &'static str,
    /// All of these must be set: `A`, one of `A|B`, or `A=VALUE`.
    pub(super) needs: &'static [&'static str],
    /// Nothing can be delivered without, though the shipper tries.
    pub(super) wants: &'static [&'static str],
    /// Keys of the sink's table, with `${NAME}` and `${NAME:-OTHERWISE}`; `type` is `http` unless it stands here.
    pub(super) keys: &'static [(&'static str, &'static str)],
    /// What goes behind a path in the URL that the user has set.
    pub(super) path: &'static str,
    /// Keys that are set by variables of ours, to what a shell makes of this.
    pub(super) secrets: &'static [(&'static str, &'static str)],
    /// What is not as it was.
    pub(super) note: &'static str,
}

const NONE: Destination = Destination { name: "", needs: &[], wants: &[], keys: &[], path: "", secrets: &[], note: "" };

const LOKI_PATH: &str = "/loki/api/v1/push";
const LOKI_NOTE: &str =
    "labels are app, region and level; the machine is structured metadata, and a message that is JSON stays one text";

pub(super) const DESTINATIONS: &[Destination] = &[
    Destination {
        name: "s3",
        needs: &["AWS_ACCESS_KEY_ID", "AWS_BUCKET|BUCKET_NAME"],
        wants: &["AWS_SECRET_ACCESS_KEY"],
        keys: &[
            ("type", "s3"),
            ("bucket", "${AWS_BUCKET:-${BUCKET_NAME}}"),
            ("region", "${AWS_REGION:-auto}"),
            ("endpoint", "${AWS_ENDPOINT_URL_S3:-${S3_ENDPOINT}}"),
            ("key", "{app}/{date}/{id}.ndjson"),
            ("compression", "gzip"),
        ],
        secrets: &[
            ("AWS_ACCESS_KEY_ID", "$AWS_ACCESS_KEY_ID"),
            ("AWS_SECRET_ACCESS_KEY", "$AWS_SECRET_ACCESS_KEY"),
            ("AWS_SERVER_SIDE_ENCRYPTION", "$S3_SSE"),
            ("AWS_SSE_KMS_KEY_ID", "$S3_SSE_KMS_KEY_ID"),
        ],
        ..NONE
    },
    Destination {
        name: "axiom",
        needs: &["AXIOM_TOKEN", "AXIOM_DATASET"],
        keys: &[("format", "axiom"), ("dataset", "${AXIOM_DATASET}")],
        secrets: &[("TOKEN", "$AXIOM_TOKEN")],
        ..NONE
    },
    Destination {
        name: "baselime",
        needs: &["BASELIME_API_KEY"],
        keys: &[("format", "array"), ("url", "https://events.baselime.io/v1/${BASELIME_DATASET:-flyio}")],
        secrets: &[("TOKEN", "$BASELIME_API_KEY")],
        ..NONE
    },
    Destination {
        name: "better_stack",
        needs: &["BETTER_STACK_SOURCE_TOKEN|LOGTAIL_TOKEN"],
        keys: &[
            ("format", "better_stack"),
            ("url", "https://${BETTER_STACK_INGESTING_HOST:-${BETTER_STACK_URI:-in.logs.betterstack.com}}"),
        ],
        secrets: &[("TOKEN", "${BETTER_STACK_SOURCE_TOKEN:-$LOGTAIL_TOKEN}")],
        ..NONE
    },
    Destination {
        name: "datadog",
        needs: &["DATADOG_API_KEY"],
        keys: &[("format", "datadog"), ("url", "https://http-intake.logs.${DATADOG_SITE:-datadoghq.com}")],
        secrets: &[("TOKEN", "$DATADOG_API_KEY")],
        ..NONE
    },
    Destination {
        name: "erasearch",
        needs: &["ERASEARCH_URL", "ERASEARCH_INDEX", "ERASEARCH_AUTH"],
        keys: &[
            ("format", "elasticsearch"),
            ("url", "${ERASEARCH_URL}"),
            ("index", "${ERASEARCH_INDEX}"),
            ("token_header", "authorization"),
        ],
        path: "/${ERASEARCH_INDEX}/_bulk",
        secrets: &[("TOKEN", "$ERASEARCH_AUTH")],
        note: "a message that is JSON stays one text",
        ..NONE
    },
    Destination {
        name: "highlight",
        needs: &["HIGHLIGHT_PROJECT_ID"],
        keys: &[
            ("format", "ndjson"),
            ("url", "https://pub.highlight.io/v1/logs/json"),
            ("token_header", "x-highlight-project"),
            ("compression", "gzip"),
        ],
        secrets: &[("TOKEN", "$HIGHLIGHT_PROJECT_ID")],
        ..NONE
    },
    Destination {
        name: "honeybadger",
        needs: &["HONEYBADGER_API_KEY"],
        keys: &[("format", "ndjson"), ("url", "https://api.honeybadger.io/v1/events"), ("token_header", "x-api-key")],
        secrets: &[("TOKEN", "$HONEYBADGER_API_KEY")],
        note: "the time is sent as timestamp, not as ts: events have the time of their arrival",
        ..NONE
    },
    Destination {
        name: "honeycomb",
        needs: &["HONEYCOMB_API_KEY"],
        keys: &[
            ("format", "otlp"),
            ("url", "https://api.honeycomb.io"),
            ("token_header", "x-honeycomb-team"),
            ("compression", "gzip"),
        ],
        secrets: &[("TOKEN", "$HONEYCOMB_API_KEY")],
        note: "sent as OTLP: the dataset is the service's name, which is the app's, and not HONEYCOMB_DATASET",
        ..NONE
    },
    Destination {
        name: "http",
        needs: &["HTTP_URL", "HTTP_TOKEN"],
        keys: &[("format", "array"), ("url", "${HTTP_URL}")],
        secrets: &[("TOKEN", "$HTTP_TOKEN")],
        ..NONE
    },
    Destination {
        name: "http",
        needs: &["HTTP_URL"],
        keys: &[("format", "array"), ("url", "${HTTP_URL}"), ("user", "${HTTP_USER}")],
        secrets: &[("PASSWORD", "$HTTP_PASSWORD")],
        ..NONE
    },
    Destination {
        name: "humio",
        needs: &["HUMIO_TOKEN"],
        keys: &[
            ("format", "ndjson"),
            ("url", "${HUMIO_ENDPOINT:-https://cloud.humio.com}/api/v1/ingest/hec/raw"),
            ("compression", "gzip"),
        ],
        secrets: &[("TOKEN", "$HUMIO_TOKEN")],
        note: "sent as raw events of its HEC: the token's parser has to be the one for JSON",
        ..NONE
    },
    Destination {
        name: "hyperdx",
        needs: &["HYPERDX_API_KEY"],
        keys: &[("format", "array"), ("url", "https://in.hyperdx.io/?hdx_platform=flyio")],
        secrets: &[("TOKEN", "$HYPERDX_API_KEY")],
        ..NONE
    },
    Destination {
        name: "logflare",
        needs: &["LOGFLARE_API_KEY", "LOGFLARE_SOURCE_TOKEN"],
        keys: &[("format", "array"), ("url", "https://api.logflare.app/logs/vector"), ("token_header", "x-api-key")],
        secrets: &[
            ("TOKEN", "$LOGFLARE_API_KEY"),
            ("URL", "https://api.logflare.app/logs/vector?source=$LOGFLARE_SOURCE_TOKEN"),
        ],
        ..NONE
    },
    Destination {
        name: "loki",
        needs: &["LOKI_URL"],
        keys: &[("format", "loki"), ("url", "${LOKI_URL}"), ("user", "${LOKI_USERNAME}"), ("compression", "gzip")],
        path: LOKI_PATH,
        secrets: &[("PASSWORD", "$LOKI_PASSWORD")],
        note: LOKI_NOTE,
        ..NONE
    },
    Destination {
        name: "new_relic",
        needs: &["NEW_RELIC_LICENSE_KEY", "NEW_RELIC_REGION=eu"],
        keys: &[
            ("format", "otlp"),
            ("url", "https://otlp.eu01.nr-data.net"),
            ("token_header", "api-key"),
            ("compression", "gzip"),
        ],
        secrets: &[("TOKEN", "$NEW_RELIC_LICENSE_KEY")],
        note: NEW_RELIC_NOTE,
        ..NONE
    },
    Destination {
        name: "new_relic",
        needs: &["NEW_RELIC_LICENSE_KEY"],
        keys: &[
            ("format", "otlp"),
            ("url", "https://otlp.nr-data.net"),
            ("token_header", "api-key"),
            ("compression", "gzip"),
        ],
        secrets: &[("TOKEN", "$NEW_RELIC_LICENSE_KEY")],
        note: NEW_RELIC_NOTE,
        ..NONE
    },
    Destination {
        name: "openobserve",
        needs: &["OPENOBSERVE_URI"],
        keys: &[
            ("format", "array"),
            ("url", "${OPENOBSERVE_URI}"),
            ("user", "${OPENOBSERVE_USER}"),
            ("compression", "gzip"),
        ],
        secrets: &[("PASSWORD", "$OPENOBSERVE_PASSWORD")],
        ..NONE
    },
    Destination {
        name: "opsverse",
        needs: &["OPSVERSE_LOGS_ENDPOINT"],
        keys: &[
            ("format", "loki"),
            ("url", "${OPSVERSE_LOGS_ENDPOINT}"),
            ("user", "${OPSVERSE_USERNAME}"),
            ("compression", "gzip"),
        ],
        path: LOKI_PATH,
        secrets: &[("PASSWORD", "$OPSVERSE_PASSWORD")],
        note: LOKI_NOTE,
        ..NONE
    },
    Destination {
        name: "quickwit",
        needs: &["QUICKWIT_URL"],
        keys: &[("format", "ndjson"), ("url", "${QUICKWIT_URL}/api/v1/otel-logs-v0_7/ingest")],
        ..NONE
    },
    Destination {
        name: "sematext",
        needs: &["SEMATEXT_TOKEN", "SEMATEXT_REGION=eu"],
        keys: &[("format", "elasticsearch"), ("url", "https://logsene-receiver.eu.sematext.com"), ("index", "unset")],
        secrets: &[("INDEX", "$SEMATEXT_TOKEN")],
        ..NONE
    },
    Destination {
        name: "sematext",
        needs: &["SEMATEXT_TOKEN"],
        keys: &[("format", "elasticsearch"), ("url", "https://logsene-receiver.sematext.com"), ("index", "unset")],
        secrets: &[("INDEX", "$SEMATEXT_TOKEN")],
        ..NONE
    },
    Destination {
        name: "signoz",
        needs: &["SIGNOZ_INGESTION_KEY"],
        keys: &[
            ("format", "array"),
            ("url", "${SIGNOZ_URI:-https://ingest.us.signoz.cloud/logs/vector}"),
            ("token_header", "signoz-access-token"),
        ],
        secrets: &[("TOKEN", "$SIGNOZ_INGESTION_KEY")],
        ..NONE
    },
    Destination {
        name: "uptrace",
        needs: &["UPTRACE_API_KEY", "UPTRACE_PROJECT"],
        keys: &[
            ("format", "ndjson"),
            ("url", "https://api.uptrace.dev/api/v1/vector-logs"),
            ("token_header", "uptrace-dsn"),
            ("compression", "gzip"),
        ],
        secrets: &[("TOKEN", "https://$UPTRACE_API_KEY@api.uptrace.dev/$UPTRACE_PROJECT")],
        ..NONE
    },
];

const NEW_RELIC_NOTE: &str = "sent as OTLP, which needs the license key and no account";

/// What the shipper reads and there is nothing for here, and why.
pub(super) const NO_COUNTERPART: &[(&[&str], &str)] = &[
    (&["APPSIGNAL_PUSH_API_KEY"], "AppSignal wants its key within the URL of every request"),
    (&["CLOUDWATCH_LOG_GROUP_NAME"], "there is no sink for CloudWatch"),
    (&["GRAVWELL_URL", "GRAVWELL_TOKEN", "GRAVWELL_TAG"], "Gravwell wants each record packed in base64"),
    (&["LOGDNA_API_KEY", "MEZMO_API_KEY"], "Mezmo (LogDNA) wants lines in a form of its own"),
    (&["NEW_RELIC_INSERT_KEY"], "New Relic takes OTLP with a license key: set NEW_RELIC_LICENSE_KEY"),
    (&["PAPERTRAIL_ENDPOINT", "PAPERTRAIL_ENCODING_CODEC"], "there is no sink for syslog"),
    (&["S3_STORAGE_CLASS"], "objects get the bucket's default class; a lifecycle rule can move them"),
    (&["SLACK_WEBHOOK_URL", "SLACK_ALERT_KEYWORDS"], "alerts are for Prometheus, by the metrics of this drain"),
    (&["UPTRACE_SINK_INPUT", "UPTRACE_SINK_ENCODING"], "records go as they were sent, one JSON object a line"),
];
