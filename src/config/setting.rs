//! The catalogue: one line for each thing that may be set.

mod table;
mod words;

use std::{
    fmt::Write,
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

pub use self::table::SETTINGS;
use super::{
    Config, Problem,
    value::{A_DURATION, A_SIZE, duration, format_duration, format_size, size},
};
use crate::exit::ExitPatterns;

/// One thing that may be set.
#[derive(Debug)]
pub struct Setting {
    /// Section and key, as in `ingest.listen`.
    pub key: &'static str,
    /// What it is, in one sentence without a full stop.
    pub help: &'static str,
    /// How the default comes about where it is not one value.
    pub derived: Option<&'static str>,
    kind: Kind,
}

/// What a setting is, where it lies in a [`Config`], and its bounds.
#[derive(Debug)]
enum Kind {
    Size { at: fn(&mut Config) -> &mut usize, min: usize, max: usize },
    Count { at: fn(&mut Config) -> &mut usize, min: usize, max: usize },
    Time { at: fn(&mut Config) -> &mut Duration, min: Duration, max: Duration },
    Address(fn(&mut Config) -> &mut Option<SocketAddr>),
    Path(fn(&mut Config) -> &mut Option<PathBuf>),
    Switch(fn(&mut Config) -> &mut bool),
    Patterns(fn(&mut Config) -> &mut ExitPatterns),
    Word { expected: &'static str, read: fn(&mut Config, &str) -> bool, show: fn(&Config) -> String },
}

/// A value as its source gave it.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    /// An array of texts; only for settings that are lists.
    List(Vec<String>),
    /// Something that no setting takes, as it stands in the file.
    Other(String),
}

impl Value {
    /// How it is named in a mistake.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::List(texts) => format!("[{}]", texts.join(",")),
            Self::Other(text) => text.clone(),
        }
    }

    /// What a setting that is a text makes of it.
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A count; from the environment it comes as text.
    fn as_count(&self) -> Option<usize> {
        match self {
            Self::Integer(number) => usize::try_from(*number).ok(),
            Self::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        }
    }

    /// Whether it is a whole number, of whatever size and sign.
    fn is_whole(&self) -> bool {
        let is_whole = |text: &str| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        match self {
            Self::Integer(_) => true,
            Self::Text(text) | Self::Other(text) => is_whole(text),
            Self::Bool(_) | Self::List(_) => false,
        }
    }

    fn as_size(&self) -> Option<usize> {
        self.as_count().or_else(|| self.as_text().and_then(size))
    }

    fn as_switch(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

const A_LIST_OF_PATTERNS: &str = "a list of 1 to 16 regular expressions, each of up to 1KiB";

/// Patterns as an array, or in the environment one a line.
fn patterns(value: &Value) -> Option<ExitPatterns> {
    match value {
        Value::List(texts) => ExitPatterns::new(texts).ok(),
        value => ExitPatterns::new(&value.as_text()?.lines().collect::<Vec<_>>()).ok(),
    }
}

impl Setting {
    /// The section of the file that the key stands in.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(section, _)| section)
    }

    /// The key within its section.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The environment variable that sets it, as in `FLEETDRAIN_INGEST__LISTEN`.
    #[must_use]
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// What may be set, as in `1 to 1GiB`.
    #[must_use]
    pub fn bounds(&self) -> String {
        match &self.kind {
            Kind::Size { min, max, .. } => format!("{} to {}", format_size(*min), format_size(*max)),
            Kind::Count { min, max, .. } => format!("{min} to {max}"),
            Kind::Time { min, max, .. } => format!("{} to {}", format_duration(*min), format_duration(*max)),
            Kind::Address(_) => "HOST:PORT".to_owned(),
            Kind::Path(_) => "a path".to_owned(),
            Kind::Switch(_) => "true or false".to_owned(),
            Kind::Patterns(_) => A_LIST_OF_PATTERNS.to_owned(),
            Kind::Word { expected, .. } => (*expected).to_owned(),
        }
    }

    /// The default as text, or how it is derived; `None`: nothing is set.
    #[must_use]
    pub fn default_text(&self) -> Option<String> {
        self.derived.map(str::to_owned).or_else(|| self.show(&Config::default()))
    }

    /// The value in `config`, as the file would take it but without quotes; `None`: nothing is set.
    #[must_use]
    pub fn show(&self, config: &Config) -> Option<String> {
        // The catalogue names each place once, by `&mut`; this is not a hot path.
        let config = &mut config.clone();
        match &self.kind {
            Kind::Size { at, .. } => Some(format_size(*at(config))),
            Kind::Count { at, .. } => Some(at(config).to_string()),
            Kind::Time { at, .. } => Some(format_duration(*at(config))),
            Kind::Address(at) => at(config).map(|address| address.to_string()),
            Kind::Path(at) => at(config).as_ref().map(|path| path.display().to_string()),
            Kind::Switch(at) => Some(at(config).to_string()),
            Kind::Patterns(at) => Some(at(config).texts().collect::<Vec<_>>().join("\n")),
            Kind::Word { show, .. } => Some(show(config)),
        }
    }

    /// Puts `value` into `config`, or says what is wrong with it and leaves `config` as it was.
    pub(super) fn apply(&self, config: &mut Config, value: &Value) -> Result<(), Problem> {
        let not_a = |expected| Problem::NotA { value: value.shown(), expected };
        match &self.kind {
            Kind::Size { at, min, max } => {
                let bytes = value.as_size().ok_or_else(|| not_a(A_SIZE))?;
                *at(config) = within(bytes, *min, *max, format_size)?;
            }
            Kind::Count { at, min, max } => {
                let count = value.as_count().ok_or_else(|| match value.is_whole() {
                    true => Problem::OutOfBounds { value: value.shown(), min: min.to_string(), max: max.to_string() },
                    false => not_a("a whole number"),
                })?;
                *at(config) = within(count, *min, *max, |count| count.to_string())?;
            }
            Kind::Time { at, min, max } => {
                let time = value.as_text().and_then(duration);
                let time = time.ok_or_else(|| not_a(A_DURATION))?;
                *at(config) = within(time, *min, *max, format_duration)?;
            }
            Kind::Address(at) => *at(config) = Some(address(value)?),
            Kind::Path(at) => {
                let path = value.as_text().ok_or_else(|| not_a("a path"))?;
                *at(config) = Some(PathBuf::from(path));
            }
            Kind::Switch(at) => *at(config) = value.as_switch().ok_or_else(|| not_a("true or false"))?,
            Kind::Patterns(at) => *at(config) = patterns(value).ok_or_else(|| not_a(A_LIST_OF_PATTERNS))?,
            Kind::Word { expected, read, .. } => {
                let list = if let Value::List(texts) = value { Some(texts.join(",")) } else { None };
                if !list.as_deref().or_else(|| value.as_text()).is_some_and(|text| read(config, text)) {
                    return Err(not_a(expected));
                }
            }
        }
        Ok(())
    }

    /// The default as the file takes it.
    fn toml_default(&self) -> String {
        let text = self.show(&Config::default()).unwrap_or_default();
        match &self.kind {
            Kind::Count { .. } | Kind::Switch(_) => text,
            _ => toml::Value::String(text).to_string(),
        }
    }
}

/// The environment variable for a key, as in `FLEETDRAIN_INGEST__LISTEN`.
pub(super) fn variable(key: &str) -> String {
    format!("FLEETDRAIN_{}", key.replace('.', "__").to_ascii_uppercase())
}

fn within<T: PartialOrd + Copy>(value: T, min: T, max: T, show: impl Fn(T) -> String) -> Result<T, Problem> {
    if value < min || value > max {
        return Err(Problem::OutOfBounds { value: show(value), min: show(min), max: show(max) });
    }
    Ok(value)
}

/// Reads `HOST:PORT`, where HOST is an address, IPv6 in brackets, or a name.
fn address(value: &Value) -> Result<SocketAddr, Problem> {
    let not_a = || Problem::NotA { value: value.shown(), expected: "HOST:PORT, such as 0.0.0.0:8080 or [::]:8080" };
    let text = value.as_text().ok_or_else(not_a)?;
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(not_a)?;
    let port: u16 = port.parse().map_err(|_| not_a())?;
    // A resolver would take `256.1.1.1` or an unbracketed IPv6 address for a name and ask the network about it.
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !host.chars().all(name) || !host.contains(|c: char| c.is_ascii_alphabetic()) {
        return Err(not_a());
    }
    let unresolved = |source| Problem::Unresolved { value: format!("{host:?}"), source };
    let found: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(unresolved)?.collect();
    // `localhost` is often ::1 first, even where IPv6 is off.
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| unresolved(std::io::ErrorKind::NotFound.into()))
}

/// A configuration file that sets nothing: every key with its default, bounds and meaning, commented out.
#[must_use]
pub fn default_toml() -> String {
    let mut text = String::from(
        "# fleetdrain: every setting with its default. Take away the `#` before a key to change it.\n\
         # Flags win over FLEETDRAIN_SECTION__KEY in the environment, that over this file.\n\
         # Tokens do not belong here: FLEETDRAIN_INGEST__TOKEN, FLEETDRAIN_CONTROL__TOKEN, or token_file.\n",
    );
    let mut section = "";
    for setting in &SETTINGS {
        if setting.section() != section {
            section = setting.section();
            let _ = writeln!(text, "\n[{section}]");
        }
        let _ = writeln!(text, "\n# {} ({})", setting.help, setting.bounds());
        match setting.derived {
            Some(derived) => {
                let _ = writeln!(text, "# default: {derived}");
                let _ = writeln!(text, "# {} =", setting.name());
            }
            None => {
                let _ = writeln!(text, "# {} = {}", setting.name(), setting.toml_default());
            }
        }
    }
    text.push_str(
        "\n# Sinks are tables [sinks.NAME], each with a type, such as file, http, s3 or jetstream: docs/sinks.md has their keys, and\n\
         # `fleetdrain validate` shows what each goes by.\n",
    );
    text
}

/// The table of all settings in Markdown, for `docs/configuration.md`.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from("| key | default | bounds | what it is |\n|---|---|---|---|\n");
    for setting in &SETTINGS {
        let default = setting.default_text().unwrap_or_else(|| "none".to_owned());
        let _ = writeln!(text, "| `{}` | {default} | {} | {} |", setting.key, setting.bounds(), setting.help);
    }
    text
}
