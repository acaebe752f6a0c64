//! `[sinks.NAME]`: what is set of a sink.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use serde::Deserialize;

use super::{Encoding, MadeFor, ParcelBounds, Settings};
use crate::{
    collector::outlet::OutletFull,
    config::{
        Config, Source,
        value::{de_duration, de_duration_some, de_size_some, format_duration, format_size},
    },
    filter::{Filter, pattern},
};

/// One sink as it is set.
#[derive(Clone, Debug)]
pub(crate) struct SinkConfig {
    pub(crate) name: String,
    /// Its `type`.
    pub(crate) kind: String,
    pub(crate) settings: Settings,
    pub(crate) encoding: Encoding,
    pub(crate) filter: Filter,
    /// Whether senders wait until this sink has their lines.
    pub(crate) is_awaited: bool,
    pub(crate) full: OutletFull,
    /// `None`: an eighth of `memory.budget`.
    pub(crate) queue_bytes: Option<usize>,
    pub(crate) parcels: ParcelBounds,
    pub(crate) concurrency_max: usize,
    pub(crate) deliver_deadline: Duration,
    /// Who set which of its keys; the others are as the destination likes them.
    pub(crate) sources: BTreeMap<String, Source>,
    /// What is set of the destination's own keys, without what nobody is to see.
    pub(crate) own: Vec<(String, String)>,
    /// Of all that is set, and of what is in the files that it names: another if any of it has changed.
    pub(crate) fingerprint: u64,
}

/// What is wrong with a sink's table: the key, if it is one, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) key: String,
    pub(crate) problem: String,
}

impl Wrong {
    fn new(key: &str, problem: impl Into<String>) -> Self {
        Self { key: key.to_owned(), problem: problem.into() }
    }
}

/// The longest name of a sink: it is a label of metrics and part of file names.
const NAME_BYTES_MAX: usize = 32;
const LINES_MAX: usize = 1_000_000;

/// Keys that are secrets, and what to use in the file instead.
pub(crate) const SECRETS: [(&str, &str); 3] =
    [("token", "token_file"), ("password", "password_file"), ("secret_access_key", "secret_access_key_file")];

const CONCURRENCY_MAX: usize = 1_000;

/// Whether senders are answered only when a sink has what they sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ack {
    #[default]
    None,
    Sink,
}

/// What every sink has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Common {
    batch_lines_max: Option<usize>,
    #[serde(deserialize_with = "de_size_some")]
    batch_bytes_max: Option<usize>,
    #[serde(deserialize_with = "de_duration_some")]
    batch_age_max: Option<Duration>,
    record: Encoding,
    ack: Ack,
    full: Option<OutletFull>,
    #[serde(deserialize_with = "de_size_some")]
    queue_bytes: Option<usize>,
    concurrency_max: usize,
    #[serde(deserialize_with = "de_duration")]
    deliver_deadline: Duration,
    apps: Vec<String>,
    regions: Vec<String>,
    machines: Vec<String>,
    streams: Vec<String>,
    levels: Vec<String>,
    include: Option<String>,
    exclude: Option<String>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            batch_lines_max: None,
            batch_bytes_max: None,
            batch_age_max: None,
            record: Encoding::default(),
            ack: Ack::default(),
            full: None,
            queue_bytes: None,
            concurrency_max: 8,
            deliver_deadline: Duration::from_secs(60),
            apps: Vec::new(),
            regions: Vec::new(),
            machines: Vec::new(),
            streams: Vec::new(),
            levels: Vec::new(),
            include: None,
            exclude: None,
        }
    }
}

/// The keys of [`Common`].
const COMMON: [&str; 16] = [
    "batch_lines_max",
    "batch_bytes_max",
    "batch_age_max",
    "record",
    "ack",
    "full",
    "queue_bytes",
    "concurrency_max",
    "deliver_deadline",
    "apps",
    "regions",
    "machines",
    "streams",
    "levels",
    "include",
    "exclude",
];

impl SinkConfig {
    /// Reads what is set of the sink `name`.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, by its key.
    pub(crate) fn read(name: &str, mut table: toml::Table) -> Result<Self, Wrong> {
        if !is_name(name) {
            let problem = format!("a sink's name is 1 to {NAME_BYTES_MAX} of a-z, 0-9 and _, and begins with a letter");
            return Err(Wrong::new("", problem));
        }
        let fingerprint = fingerprint(&table);
        let kinds = Settings::KINDS.join(", ");
        let kind = match table.remove("type") {
            Some(toml::Value::String(kind)) => kind,
            Some(other) => return Err(Wrong::new("type", format!("{other} is none of {kinds}"))),
            None => return Err(Wrong::new("type", format!("it needs one of {kinds}"))),
        };
        let common = read_common(&mut table)?;
        let known: Vec<String> = table.keys().cloned().collect();
        let own = table.iter().map(|(key, value)| (key.clone(), shown(key, value))).collect();
        let settings = Settings::read(&kind, table)
            .ok_or_else(|| Wrong::new("type", format!("{kind:?} is none of {kinds}")))?
            .map_err(|error| of_its_own(&error, &known))?;
        let config = Self { fingerprint, own, ..Self::of(name, kind, settings, common)? };
        let made_for = MadeFor { encoding: config.encoding };
        // What cannot be made is a mistake of the configuration.
        config.settings.make(&made_for).map_err(|bad| Wrong::new(bad.key, bad.problem))?;
        Ok(config)
    }

    fn of(name: &str, kind: String, settings: Settings, common: Common) -> Result<Self, Wrong> {
        let compiled = |key, text: Option<String>| {
            let compile =
                |text: String| pattern(&text).map_err(|wrong| Wrong::new(key, format!("{text:?} is not {wrong}")));
            text.map(compile).transpose()
        };
        let defaults = settings.parcel_defaults();
        let parcels = ParcelBounds {
            lines: common.batch_lines_max.unwrap_or(defaults.lines),
            bytes: common.batch_bytes_max.unwrap_or(defaults.bytes),
            age: common.batch_age_max.unwrap_or(defaults.age),
        };
        within("batch_lines_max", parcels.lines, 1, LINES_MAX)?;
        within("batch_bytes_max", parcels.bytes, 1, 1 << 30)?;
        within("concurrency_max", common.concurrency_max, 1, CONCURRENCY_MAX)?;
        let hour = Duration::from_secs(3600);
        for (key, time) in [("batch_age_max", parcels.age), ("deliver_deadline", common.deliver_deadline)] {
            if time.is_zero() || time > hour {
                return Err(Wrong::new(key, format!("{time:?} is not between 1ms and 1h")));
            }
        }
        Ok(Self {
            name: name.to_owned(),
            kind,
            settings,
            encoding: common.record,
            filter: Filter {
                machines: common.machines,
                apps: common.apps,
                regions: common.regions,
                streams: common.streams,
                levels: common.levels,
                include: compiled("include", common.include)?,
                exclude: compiled("exclude", common.exclude)?,
            },
            is_awaited: common.ack == Ack::Sink,
            // Who waits for a sink would rather wait for room, too.
            full: common.full.unwrap_or(match common.ack {
                Ack::None => OutletFull::DropNewest,
                Ack::Sink => OutletFull::Block,
            }),
            queue_bytes: common.queue_bytes,
            parcels,
            concurrency_max: common.concurrency_max,
            deliver_deadline: common.deliver_deadline,
            sources: BTreeMap::new(),
            own: Vec::new(),
            fingerprint: 0,
        })
    }

    /// What it goes by: key and value. Of the filter's and the destination's own only those that are set.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "`validate` shows it"))]
    pub(crate) fn terms(&self, config: &Config) -> Vec<(String, String)> {
        // With a spool it is the spool that is full.
        let full = if config.spool.dir.is_some() { "-" } else { self.full.as_str() };
        let mut terms = vec![
            ("type", self.kind.clone()),
            ("record", self.encoding.as_str().to_owned()),
            ("batch_lines_max", self.parcels.lines.to_string()),
            ("batch_bytes_max", format_size(self.parcels.bytes)),
            ("batch_age_max", format_duration(self.parcels.age)),
            ("concurrency_max", self.concurrency_max.to_string()),
            ("deliver_deadline", format_duration(self.deliver_deadline)),
            ("queue_bytes", format_size(self.queue_bytes.unwrap_or(queue_bytes_default(config)))),
            ("ack", if self.is_awaited { "sink" } else { "none" }.to_owned()),
            ("full", full.to_owned()),
        ];
        let Filter { machines, apps, regions, streams, levels, include, exclude } = &self.filter;
        for (key, list) in
            [("apps", apps), ("regions", regions), ("machines", machines), ("streams", streams), ("levels", levels)]
        {
            terms.extend((!list.is_empty()).then(|| (key, list.join(", "))));
        }
        for (key, pattern) in [("include", include), ("exclude", exclude)] {
            terms.extend(pattern.as_ref().map(|pattern| (key, pattern.as_str().to_owned())));
        }
        let terms = terms.into_iter().map(|(key, value)| (key.to_owned(), value));
        terms.chain(self.own.iter().cloned()).collect()
    }
}

/// Of a sink's queue where it is not set.
pub(crate) fn queue_bytes_default(config: &Config) -> usize {
    config.memory.budget / 8
}

/// A value as anybody may see it.
fn shown(key: &str, value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) if key == "url" => {
            let text = text.split('?').next().unwrap_or_default();
            if text.contains('@') { "set".to_owned() } else { text.to_owned() }
        }
        toml::Value::String(text) if !SECRETS.iter().any(|(secret, _)| *secret == key) => text.clone(),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => value.to_string(),
        _ => "set".to_owned(),
    }
}

fn fingerprint(table: &toml::Table) -> u64 {
    let mut hasher = DefaultHasher::new();
    table.to_string().hash(&mut hasher);
    for (_, file) in table.iter().filter(|(key, _)| key.ends_with("_file")) {
        // One that cannot be read is told when the sink is made.
        file.as_str().and_then(|file| fs::read(file).ok()).hash(&mut hasher);
    }
    hasher.finish()
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn within(key: &str, value: usize, min: usize, max: usize) -> Result<(), Wrong> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Wrong::new(key, format!("{value} is not between {min} and {max}")))
}

/// Takes what every sink has out of `table`, key by key, so that a mistake is told by its key.
fn read_common(table: &mut toml::Table) -> Result<Common, Wrong> {
    let mut own = toml::Table::new();
    for key in COMMON {
        let Some(value) = table.remove(key) else { continue };
        let alone = toml::Table::from_iter([(key.to_owned(), value.clone())]);
        alone.try_into::<Common>().map_err(|error| Wrong::new(key, error.message()))?;
        own.insert(key.to_owned(), value);
    }
    own.try_into().map_err(|error: toml::de::Error| Wrong::new("", error.message()))
}

/// Which of the destination's own keys is meant, and the nearest of those that there are if it is unknown.
fn of_its_own(error: &toml::de::Error, keys: &[String]) -> Wrong {
    let message = error.message();
    let Some(unknown) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) else {
        let text = error.to_string();
        let key = keys.iter().find(|key| text.contains(&format!("`{key}`")));
        return Wrong::new(key.map_or("", String::as_str), message);
    };
    let expected = message.split('`').skip(3).step_by(2).chain(COMMON).chain(["type"]);
    let likeness = |key: &str| strsim::normalized_damerau_levenshtein(key, unknown);
    let nearest = expected.max_by(|one, other| likeness(one).total_cmp(&likeness(other))).unwrap_or("type");
    Wrong::new(unknown, format!("unknown key, the nearest is {nearest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SinkConfig, Wrong> {
        SinkConfig::read("archive", text.parse().unwrap())
    }

    #[test]
    fn what_is_not_set_is_as_the_destination_likes_it() {
        let config = read("type = \"null\"\nlevels = [\"error\"]\nbatch_bytes_max = \"64KiB\"").unwrap();
        assert_eq!(config.parcels, ParcelBounds { bytes: 64 << 10, ..ParcelBounds::default() });
        assert_eq!((config.concurrency_max, config.filter.levels), (8, vec!["error".to_owned()]));
    }

    #[test]
    fn what_it_goes_by_is_shown_without_secrets() {
        let text = "type = \"http\"\nurl = \"http://a/b?key=secret\"\ntoken = \"secret\"\nheaders = { x = \"secret\" }\nformat = \"loki\"";
        let terms = read(text).unwrap().terms(&Config::default());
        let value = |wanted: &str| terms.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
        assert_eq!((value("url"), value("format"), value("token")), (Some("http://a/b"), Some("loki"), Some("set")));
        assert_eq!((value("full"), value("queue_bytes").is_some()), (Some("drop_newest"), true));
        assert!(!format!("{terms:?}").contains("secret"), "{terms:?}");
    }

    #[test]
    fn a_mistake_is_told_by_its_key() {
        let wrong = |text: &str| read(text).unwrap_err();
        assert_eq!(wrong("").key, "type");
        assert_eq!(wrong("type = \"nul\"").key, "type");
        let unknown = wrong("type = \"null\"\nbatch_line_max = 5");
        assert_eq!(unknown.key, "batch_line_max");
        assert!(unknown.problem.contains("batch_lines_max"), "{unknown:?}");
        assert_eq!(wrong("type = \"null\"\nbatch_lines_max = 0").key, "batch_lines_max");
        assert_eq!(wrong("type = \"null\"\nbatch_lines_max = \"many\"").key, "batch_lines_max");
        assert_eq!(wrong("type = \"null\"\nbatch_age_max = 5").key, "batch_age_max");
        assert_eq!(wrong("type = \"null\"\nqueue_bytes = \"1 parsec\"").key, "queue_bytes");
        assert_eq!(wrong("type = \"null\"\ninclude = \"(\"").key, "include");
        assert_eq!(wrong("type = \"file\"\ndirectory = \"relative\"").key, "directory");
        for name in ["", "Archive", "a-b", "1a", "a/b", &"a".repeat(33)] {
            let table = "type = \"null\"".parse().unwrap();
            assert!(SinkConfig::read(name, table).is_err(), "{name:?}");
        }
    }
}
