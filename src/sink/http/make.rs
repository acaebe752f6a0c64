//! From settings to a client that can send.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap, Uri,
    header::{self, AUTHORIZATION, HeaderName, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{
    Http, IDEMPOTENCY_KEY, Target,
    form::{Form, Format, IndexName},
    settings::{Method, Settings},
};
use crate::{
    http::ingest::{FROM, from_value},
    sink::{
        BadSetting, Destination, Encoding, MadeFor, ParcelBounds,
        config::shown_host,
        secret::{Secret, read_file, secret},
    },
    tls::Trust,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection is kept that has nothing to do: less than what load balancers allow (60 s and more).
const IDLE: Duration = Duration::from_secs(30);
const IDLE_CONNECTIONS_MAX: usize = 32;

/// What need not be escaped in a query (RFC 3986, unreserved).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn bad(key: &'static str, problem: impl Into<String>) -> BadSetting {
    BadSetting { key, problem: problem.into() }
}

impl Destination for Settings {
    type Sink = Http;

    fn make(&self, made_for: &MadeFor) -> Result<Http, BadSetting> {
        self.check_belonging()?;
        self.named_header()?;
        let compression = self.compression.unwrap_or(self.format.default_compression());
        if !self.format.takes(compression) {
            return Err(bad("compression", "this store does not take zstd: expected none or gzip"));
        }
        let index = self.index.as_deref().map(IndexName::read).transpose();
        let index = index.map_err(|problem| bad("index", problem))?;
        let target = self.target(made_for.encoding, index.as_ref())?;
        let mut secrets: Vec<String> = self.headers.values().map(|value| value.0.clone()).collect();
        let mut headers = self.all_headers(&mut secrets)?;
        if let Some(drain) = made_for.drain {
            headers.insert(FROM, from_value(drain));
        }
        Ok(Http {
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
                .build(self.connector(&target.uri)?),
            form: Form {
                format: self.format,
                encoding: made_for.encoding,
                index: index.filter(|index| index.constant().is_none()),
            },
            method: match self.method {
                Method::Post => hyper::Method::POST,
                Method::Put => hyper::Method::PUT,
            },
            target,
            headers,
            compression,
            buffers: super::Buffers::default(),
            secrets,
        })
    }

    fn parcel_defaults(&self) -> ParcelBounds {
        self.format.parcel_defaults()
    }
}

impl Settings {
    /// A setting of one store says nothing to another.
    fn check_belonging(&self) -> Result<(), BadSetting> {
        let of_one = [
            ("index", self.index.is_some(), Format::Elasticsearch, "elasticsearch"),
            ("dataset", self.dataset.is_some(), Format::Axiom, "axiom"),
            ("database", self.database.is_some(), Format::ClickHouse, "clickhouse"),
            ("table", self.table.is_some(), Format::ClickHouse, "clickhouse"),
            ("deduplicate", self.deduplicate.is_some(), Format::ClickHouse, "clickhouse"),
        ];
        match of_one.iter().find(|(_, set, format, _)| *set && *format != self.format) {
            Some((key, _, _, format)) => Err(bad(key, format!("it is for format = {format:?} alone"))),
            None => Ok(()),
        }
    }

    fn target(&self, encoding: Encoding, index: Option<&IndexName>) -> Result<Target, BadSetting> {
        let text = if self.url.is_empty() { self.format.default_url().unwrap_or_default() } else { &self.url };
        let wrong = |problem: &str| bad("url", format!("{:?}: {problem}", shown_host(text)));
        let url: Uri = text.parse().map_err(|_| wrong("expected a URL such as https://store.example:8080"))?;
        let scheme = url.scheme_str().filter(|scheme| ["http", "https"].contains(scheme));
        let scheme = scheme.ok_or_else(|| wrong("expected http:// or https://"))?;
        let authority = url.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("url", "a name and a password belong into user and password_file"));
        }
        let mut path = url.path().to_owned();
        if path == "/" {
            path = self.path_of_store(authority.host(), index)?;
        }
        let query = self.query(url.query().unwrap_or_default(), encoding)?;
        let mark = if query.is_empty() { "" } else { "?" };
        let uri = format!("{scheme}://{authority}{path}{mark}{query}");
        let deduplicate = self.format == Format::ClickHouse && self.deduplicate.unwrap_or(true);
        Ok(Target {
            uri_before_id: deduplicate.then(|| format!("{uri}&insert_deduplication_token=")),
            uri: uri.parse().map_err(|_| wrong("it is too long, or holds what no URL may"))?,
            store: format!("{scheme}://{authority}"),
        })
    }

    fn path_of_store(&self, host: &str, index: Option<&IndexName>) -> Result<String, BadSetting> {
        Ok(match self.format {
            Format::Loki => "/loki/api/v1/push".to_owned(),
            Format::Otlp => "/v1/logs".to_owned(),
            Format::Datadog => "/api/v2/logs".to_owned(),
            Format::VictoriaLogs => "/insert/jsonline".to_owned(),
            Format::Axiom => {
                let dataset = self.dataset.as_deref().filter(|dataset| !dataset.is_empty());
                let dataset = dataset.ok_or_else(|| bad("dataset", "it must be set, or the whole path in url"))?;
                let dataset = utf8_percent_encode(dataset, RESERVED);
                // An edge deployment has a path of its own.
                let is_edge = host.ends_with(".edge.axiom.co");
                if is_edge { format!("/v1/ingest/{dataset}") } else { format!("/v1/datasets/{dataset}/ingest") }
            }
            Format::Elasticsearch => match index.map(IndexName::constant) {
                Some(Some(name)) => format!("/{name}/_bulk"),
                Some(None) => "/_bulk".to_owned(),
                None => return Err(bad("index", "it must be set, or the whole path in url")),
            },
            Format::Ndjson | Format::Array | Format::BetterStack | Format::ClickHouse | Format::Fleetdrain => {
                "/".to_owned()
            }
        })
    }

    /// The user's own query, and behind it what the store needs and the user has not said.
    fn query(&self, own: &str, encoding: Encoding) -> Result<String, BadSetting> {
        let raw = encoding == Encoding::Raw;
        let arguments: Vec<(&str, String)> = match self.format {
            Format::VictoriaLogs => vec![
                ("_msg_field", if raw { "message,log,msg" } else { "message" }.to_owned()),
                ("_time_field", "_time".to_owned()),
                ("_stream_fields", if raw { "fly.app.name,fly.region" } else { "app_name,region" }.to_owned()),
            ],
            // An answer that names every line is as long as the body.
            Format::Elasticsearch => vec![("filter_path", "errors,items.*.status,items.*.error.type".to_owned())],
            Format::ClickHouse => vec![
                ("query", format!("INSERT INTO {} FORMAT JSONEachRow", self.table_name()?)),
                ("date_time_input_format", "best_effort".to_owned()),
                ("input_format_skip_unknown_fields", "1".to_owned()),
            ],
            _ => Vec::new(),
        };
        let has = |key: &str| own.split('&').any(|pair| pair.split('=').next() == Some(key));
        let mut query = own.to_owned();
        for (key, value) in arguments.iter().filter(|(key, _)| !has(key)) {
            let separator = if query.is_empty() { "" } else { "&" };
            query.push_str(&format!("{separator}{key}={}", utf8_percent_encode(value, RESERVED)));
        }
        Ok(query)
    }

    fn table_name(&self) -> Result<String, BadSetting> {
        let table = self.table.as_deref().ok_or_else(|| bad("table", "it must be set"))?;
        let names = [("database", self.database.as_deref()), ("table", Some(table))];
        let is_name = |name: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            !name.is_empty() && name.bytes().all(fits) && !name.starts_with(|first: char| first.is_ascii_digit())
        };
        for (key, name) in names {
            if let Some(name) = name.filter(|name| !is_name(name)) {
                return Err(bad(key, format!("{name:?}: expected letters, digits and _")));
            }
        }
        Ok(names.iter().filter_map(|(_, name)| *name).collect::<Vec<_>>().join("."))
    }

    fn all_headers(&self, secrets: &mut Vec<String>) -> Result<HeaderMap, BadSetting> {
        let mut headers = HeaderMap::new();
        for (name, Secret(value)) in &self.headers {
            let known = HeaderName::try_from(name.as_str());
            let name = known.map_err(|_| bad("headers", format!("{name:?} is no name of a header")))?;
            if is_ours(&name) {
                return Err(bad("headers", format!("{name} is not to be set")));
            }
            let value = sensitive(value).ok_or_else(|| bad("headers", format!("{name} has a value that is none")))?;
            headers.insert(name, value);
        }
        if let Some((name, value)) = self.credentials(secrets)?
            && headers.insert(name.clone(), value).is_some()
        {
            return Err(bad("headers", format!("{name} is what token or user is sent as")));
        }
        Ok(headers)
    }

    fn credentials(&self, secrets: &mut Vec<String>) -> Result<Option<(HeaderName, HeaderValue)>, BadSetting> {
        let token = secret("token", "token_file", self.token.as_ref(), self.token_file.as_deref())?;
        let password = secret("password", "password_file", self.password.as_ref(), self.password_file.as_deref())?;
        secrets.extend(token.iter().chain(&password).cloned());
        match (token, &self.user, password) {
            (None, None, None) => Ok(None),
            (Some(token), None, None) => self.token_header(&token).map(Some),
            (None, Some(user), password) => {
                if user.contains(':') || user.contains(char::is_control) {
                    return Err(bad("user", "it holds a colon or a control character"));
                }
                let pair = STANDARD.encode(format!("{user}:{}", password.unwrap_or_default()));
                let value = sensitive(&format!("Basic {pair}")).ok_or_else(|| bad("user", "it is no header"))?;
                secrets.push(pair);
                Ok(Some((AUTHORIZATION, value)))
            }
            (Some(_), ..) => Err(bad("token", "it does not go with user and password")),
            (None, None, Some(_)) => Err(bad("password", "it needs a user")),
        }
    }

    fn token_header(&self, token: &str) -> Result<(HeaderName, HeaderValue), BadSetting> {
        if let Some(name) = self.named_header()? {
            let value = token.is_ascii().then(|| sensitive(token)).flatten();
            return Ok((name, value.ok_or_else(|| bad("token", "it holds a character that is not ASCII"))?));
        }
        let (name, value) = match self.format {
            Format::Datadog => (HeaderName::from_static("dd-api-key"), token.to_owned()),
            Format::Elasticsearch => (AUTHORIZATION, format!("ApiKey {token}")),
            _ => (AUTHORIZATION, format!("Bearer {token}")),
        };
        let value = token.bytes().all(|byte| byte.is_ascii_graphic()).then(|| sensitive(&value)).flatten();
        Ok((name, value.ok_or_else(|| bad("token", "it holds a blank or a character that is not ASCII"))?))
    }

    fn named_header(&self) -> Result<Option<HeaderName>, BadSetting> {
        let Some(text) = &self.token_header else { return Ok(None) };
        let name = HeaderName::try_from(text.as_str());
        let name = name.map_err(|_| bad("token_header", format!("{text:?} is no name of a header")))?;
        if is_ours(&name) { Err(bad("token_header", format!("{name} is not to be set"))) } else { Ok(Some(name)) }
    }

    fn connector(&self, uri: &Uri) -> Result<HttpsConnector<HttpConnector>, BadSetting> {
        let trust = match &self.ca_file {
            Some(path) => Trust::from_pem(&read_file("ca_file", path)?),
            None if uri.scheme_str() == Some("https") => Trust::system(),
            None => Ok(Trust::nobody()),
        };
        let trust = trust.map_err(|error| bad("ca_file", error.to_string()))?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(self.connect_timeout.unwrap_or(CONNECT_TIMEOUT)));
        let builder = HttpsConnectorBuilder::new().with_tls_config(trust.config());
        Ok(builder.https_or_http().enable_http1().wrap_connector(tcp))
    }
}

/// Headers that say how a body is framed, or that the sink itself sends.
fn is_ours(name: &HeaderName) -> bool {
    const FRAMING: [HeaderName; 7] = [
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::HOST,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    FRAMING.contains(name) || *name == IDEMPOTENCY_KEY
}

/// A header's value that is printed nowhere; `None` where a header cannot hold it, such as a line break.
fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}
