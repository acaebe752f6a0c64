//! One record in the form of Fly's log shipper, and bodies of several.

use std::fmt;

use serde_json::Value;

/// A record as Fly's log shipper writes it: what one machine, or Fly for it, has logged.
///
/// ```
/// use fleetdrain::testing::FlyRecord;
///
/// let record = FlyRecord::new("4d891d77b05118", "hello").app("web").region("fra").level("warn");
/// let entry = fleetdrain::parse_log_entry(record.to_string().as_bytes()).expect("it is a record");
/// assert_eq!((entry.machine_id(), entry.app_name(), entry.region()), ("4d891d77b05118", "web", "fra"));
/// assert_eq!((entry.level(), entry.message(), entry.stream()), ("warn", "hello", "stdout"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlyRecord {
    machine: String,
    message: String,
    app: String,
    region: String,
    host: String,
    level: String,
    provider: String,
    stream: Option<String>,
    timestamp: String,
}

impl FlyRecord {
    /// What the app on `machine` has written to standard output: of the app `my-app` in `lax`, at level `info`.
    #[must_use]
    pub fn new(machine: &str, message: &str) -> Self {
        Self {
            machine: machine.to_owned(),
            message: message.to_owned(),
            app: "my-app".to_owned(),
            region: "lax".to_owned(),
            host: "f442".to_owned(),
            level: "info".to_owned(),
            provider: "app".to_owned(),
            stream: None,
            timestamp: "2026-06-27T01:19:11.789045558Z".to_owned(),
        }
    }

    /// The app's name.
    #[must_use]
    pub fn app(self, name: &str) -> Self {
        Self { app: name.to_owned(), ..self }
    }

    /// Fly's code of the region, such as `lax`.
    #[must_use]
    pub fn region(self, code: &str) -> Self {
        Self { region: code.to_owned(), ..self }
    }

    /// The host that the machine runs on.
    #[must_use]
    pub fn host(self, name: &str) -> Self {
        Self { host: name.to_owned(), ..self }
    }

    /// The level, such as `info` or `error`.
    #[must_use]
    pub fn level(self, level: &str) -> Self {
        Self { level: level.to_owned(), ..self }
    }

    /// Who has written it: `app`, or of Fly's own `runner`, `proxy`, `machine`… whose records are of the stream `system`.
    #[must_use]
    pub fn provider(self, provider: &str) -> Self {
        Self { provider: provider.to_owned(), ..self }
    }

    /// A `stream` of its own, such as `stderr`. Fly's records have none; other senders' do.
    #[must_use]
    pub fn stream(self, stream: &str) -> Self {
        Self { stream: Some(stream.to_owned()), ..self }
    }

    /// When it was written, in RFC 3339.
    #[must_use]
    pub fn timestamp(self, timestamp: &str) -> Self {
        Self { timestamp: timestamp.to_owned(), ..self }
    }
}

/// The record as JSON on one line, its keys in the order in which Fly's shipper writes them.
impl fmt::Display for FlyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &str| Value::from(text).to_string();
        let (provider, machine, app) = (text(&self.provider), text(&self.machine), text(&self.app));
        write!(f, r#"{{"event":{{"provider":{provider}}},"fly":{{"app":{{"instance":{machine},"name":{app}}}"#)?;
        let (region, host, level) = (text(&self.region), text(&self.host), text(&self.level));
        write!(f, r#","region":{region}}},"host":{host},"log":{{"level":{level}}}"#)?;
        write!(f, r#","message":{}"#, text(&self.message))?;
        if let Some(stream) = &self.stream {
            write!(f, r#","stream":{}"#, text(stream))?;
        }
        write!(f, r#","timestamp":{}}}"#, text(&self.timestamp))
    }
}

/// A body of lines, one record each: NDJSON.
pub fn ndjson(records: impl IntoIterator<Item = FlyRecord>) -> String {
    records.into_iter().map(|record| format!("{record}\n")).collect()
}

/// A body that is one JSON array, as Fly's log shipper sends it.
///
/// ```
/// use fleetdrain::testing::{self, FlyRecord};
///
/// let body = testing::array([FlyRecord::new("m1", "one"), FlyRecord::new("m1", "two")]);
/// assert_eq!(fleetdrain::parse_ndjson(body).entries().count(), 2);
/// ```
pub fn array(records: impl IntoIterator<Item = FlyRecord>) -> String {
    let records: Vec<String> = records.into_iter().map(|record| record.to_string()).collect();
    format!("[{}]", records.join(","))
}
