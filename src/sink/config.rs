//! `[sinks.NAME]`: what is set of a sink.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    mem::take,
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

/// Keys that are lists: a variable has their items between commas.
pub(crate) const LISTS: [&str; 5] = ["apps", "regions", "machines", "streams", "levels"];

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

/// What every sink has, within its bounds.
struct Checked {
    common: Common,
    parcels: ParcelBounds,
    filter: Filter,
}

impl Common {
    fn check(mut self, defaults: ParcelBounds, wrongs: &mut Vec<Wrong>) -> Checked {
        let parcels = ParcelBounds {
            lines: self.batch_lines_max.unwrap_or(defaults.lines),
            bytes: self.batch_bytes_max.unwrap_or(defaults.bytes),
            age: self.batch_age_max.unwrap_or(defaults.age),
        };
        let counts = [
            ("batch_lines_max", parcels.lines, LINES_MAX),
            ("batch_bytes_max", parcels.bytes, 1 << 30),
            ("concurrency_max", self.concurrency_max, CONCURRENCY_MAX),
        ];
        for (key, value, max) in counts {
            if value == 0 || value > max {
                wrongs.push(Wrong::new(key, format!("{value} is not between 1 and {max}")));
            }
        }
        let hour = Duration::from_secs(3600);
        for (key, time) in [("batch_age_max", parcels.age), ("deliver_deadline", self.deliver_deadline)] {
            if time.is_zero() || time > hour {
                wrongs.push(Wrong::new(key, format!("{time:?} is not between 1ms and 1h")));
            }
        }
        let mut compiled = |key, text: Option<String>| {
            let text = text?;
            pattern(&text).map_err(|wrong| wrongs.push(Wrong::new(key, format!("{text:?} is not {wrong}")))).ok()
        };
        let filter = Filter {
            include: compiled("include", self.include.take()),
            exclude: compiled("exclude", self.exclude.take()),
            machines: take(&mut self.machines),
            apps: take(&mut self.apps),
            regions: take(&mut self.regions),
            streams: take(&mut self.streams),
            levels: take(&mut self.levels),
        };
        Checked { common: self, parcels, filter }
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
    /// All that is wrong, by its key; what a mistake hides is told with the next try.
    pub(crate) fn read(name: &str, mut table: toml::Table) -> Result<Self, Vec<Wrong>> {
        let mut wrongs = Vec::new();
        if !is_name(name) {
            let problem = format!("a sink's name is 1 to {NAME_BYTES_MAX} of a-z, 0-9 and _, and begins with a letter");
            wrongs.push(Wrong::new("", problem));
        }
        let fingerprint = fingerprint(&table);
        let kinds = Settings::KINDS.join(", ");
        let common = read_common(&mut table, &mut wrongs);
        let own = table
            .iter()
            .filter(|(key, _)| *key != "type")
            .map(|(key, value)| (key.clone(), shown(key, value)))
            .collect();
        let kind = match table.remove("type") {
            Some(toml::Value::String(kind)) if Settings::KINDS.contains(&kind.as_str()) => Some(kind),
            Some(other) => {
                wrongs.push(Wrong::new("type", format!("{other} is none of {kinds}")));
                None
            }
            None => {
                wrongs.push(Wrong::new("type", format!("it needs one of {kinds}")));
                None
            }
        };
        let settings = kind.as_deref().and_then(|kind| read_own(kind, table, &mut wrongs));
        let bounds = settings.as_ref().map(Settings::parcel_defaults).unwrap_or_default();
        let checked = common.check(bounds, &mut wrongs);
        if let Some(settings) = &settings {
            // What cannot be made is a mistake of the configuration.
            let made = settings.make(&MadeFor { encoding: checked.common.record, drain: None });
            wrongs.extend(made.err().map(|bad| Wrong::new(bad.key, bad.problem)));
        }
        match (kind, settings) {
            (Some(kind), Some(settings)) if wrongs.is_empty() => {
                Ok(Self { fingerprint, own, ..Self::of(name, kind, settings, checked) })
            }
            _ => Err(wrongs),
        }
    }

    fn of(name: &str, kind: String, settings: Settings, checked: Checked) -> Self {
        let Checked { common, parcels, filter } = checked;
        Self {
            name: name.to_owned(),
            kind,
            settings,
            encoding: common.record,
            filter,
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
        }
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
        toml::Value::String(text) if key == "url" => shown_url(text).to_owned(),
        toml::Value::String(text) if !SECRETS.iter().any(|(secret, _)| *secret == key) => text.clone(),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => value.to_string(),
        _ => "set".to_owned(),
    }
}

/// A URL without what may be a secret in it.
pub(super) fn shown_url(url: &str) -> &str {
    // A name and a password may hold anything.
    if url.contains('@') { "…" } else { url.split('?').next().unwrap_or_default() }
}

/// Of that its host alone: some stores have their secret in the path.
pub(super) fn shown_host(url: &str) -> &str {
    let url = shown_url(url);
    let path = url.find("://").map_or(0, |scheme| scheme + 3);
    url[path..].find('/').map_or(url, |end| &url[..path + end])
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

/// Takes what every sink has out of `table`, key by key, so that a mistake is told by its key.
fn read_common(table: &mut toml::Table, wrongs: &mut Vec<Wrong>) -> Common {
    let mut right = toml::Table::new();
    for key in COMMON {
        let Some(value) = table.remove(key) else { continue };
        match toml::Table::from_iter([(key.to_owned(), value.clone())]).try_into::<Common>() {
            Ok(_) => drop(right.insert(key.to_owned(), value)),
            Err(error) => wrongs.push(Wrong::new(key, plain(error.message()))),
        }
    }
    right.try_into().expect("each of its keys was read alone")
}

/// Reads the destination's own keys: without each that is wrong, so that the others are told, too. `None` if one was.
fn read_own(kind: &str, mut table: toml::Table, wrongs: &mut Vec<Wrong>) -> Option<Settings> {
    let mut without: Vec<String> = Vec::new();
    loop {
        let keys: Vec<String> = table.keys().cloned().collect();
        match Settings::read(kind, table.clone())? {
            Ok(settings) => return without.is_empty().then_some(settings),
            Err(error) => {
                let is_left_out = without.iter().any(|key| error.message() == format!("missing field `{key}`"));
                let wrong = of_its_own(&error, &keys);
                let is_known = table.remove(&wrong.key).is_some();
                without.push(wrong.key.clone());
                if !is_left_out {
                    wrongs.push(wrong);
                }
                if !is_known {
                    return None;
                }
            }
        }
    }
}

/// Which of the destination's own keys is meant, and the nearest of those that there are if it is unknown.
fn of_its_own(error: &toml::de::Error, keys: &[String]) -> Wrong {
    let message = error.message();
    let Some(unknown) = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) else {
        let text = error.to_string();
        let named = |key: &str, before: &str| text.contains(&format!("{before}`{key}`"));
        let key = keys.iter().find(|key| named(key, "in ")).or_else(|| keys.iter().find(|key| named(key, "")));
        return Wrong::new(key.map_or("", String::as_str), plain(message));
    };
    let expected = message.split('`').skip(3).step_by(2).chain(COMMON).chain(["type"]);
    let likeness = |key: &str| strsim::normalized_damerau_levenshtein(key, unknown);
    let nearest = expected.max_by(|one, other| likeness(one).total_cmp(&likeness(other))).unwrap_or("type");
    Wrong::new(unknown, format!("unknown key, the nearest is {nearest}"))
}

/// What a deserializer says is wrong, in the words of the other mistakes.
fn plain(message: &str) -> String {
    let unquoted = |text: &str| text.replace('`', "");
    let invalid = ["invalid type: ", "invalid value: ", "invalid length "];
    if let Some((given, expected)) =
        invalid.iter().find_map(|prefix| message.strip_prefix(prefix)).and_then(|rest| rest.split_once(", expected "))
    {
        let given = match (given.split_once('`'), given) {
            // A number, or true or false, behind the word for what it is.
            (Some((_, value)), _) => value.trim_end_matches('`').to_owned(),
            (None, "map") => "a table".to_owned(),
            (None, "sequence") => "a list".to_owned(),
            (None, _) => given.strip_prefix("string ").unwrap_or(given).to_owned(),
        };
        let expected = match expected {
            "usize" | "u64" | "u32" | "u16" | "i32" | "i64" => "a whole number from 0 up",
            "path string" => "a path",
            "a string" => "a text",
            "a boolean" => "true or false",
            "a sequence" => "a list",
            "a map" => "a table",
            other => other,
        };
        return format!("{given} is not {expected}");
    }
    if let Some((given, expected)) =
        message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once("`, expected "))
    {
        let expected = unquoted(expected.strip_prefix("one of ").unwrap_or(expected)).replace(" or ", ", ");
        return format!("{given:?} is not one of {expected}");
    }
    match message.strip_prefix("missing field ") {
        Some(key) => format!("it needs {}", unquoted(key)),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SinkConfig, Vec<Wrong>> {
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
    fn a_mistake_is_told_in_plain_words() {
        let told = |text: &str| read(text).unwrap_err().remove(0).problem;
        for (key, problem) in [
            ("batch_lines_max = -3", "-3 is not a whole number from 0 up"),
            ("batch_lines_max = \"many\"", "\"many\" is not a whole number from 0 up"),
            ("batch_age_max = 5", "5 is not a duration such as 500ms, 30s or 1h30m"),
            ("queue_bytes = 1.5", "1.5 is not a size such as 65536, 64KiB or 10MB"),
            ("apps = \"a\"", "\"a\" is not a list"),
            ("include = []", "a list is not a text"),
            ("ack = \"no\"", "\"no\" is not one of none, sink"),
            ("directory = 7", "7 is not a path"),
            ("directory = \"/a\"\ncompression = \"lz4\"", "\"lz4\" is not one of none, zstd, gzip"),
            ("directory = \"/a\"\npath = { a = 1 }", "a table is not a text"),
            ("compression = \"gzip\"", "it needs directory"),
        ] {
            assert_eq!(told(&format!("type = \"file\"\n{key}")), problem, "{key}");
        }
        assert_eq!(told("type = \"s3\"\nbucket = \"b\"\nkey = \"{id}\"\npath_style = 1"), "1 is not true or false");
    }

    #[test]
    fn a_mistake_is_told_by_its_key() {
        let wrong = |text: &str| read(text).unwrap_err().remove(0);
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
        let all = |text: &str| read(text).unwrap_err().into_iter().map(|wrong| wrong.key).collect::<Vec<_>>();
        assert_eq!(
            all("batch_lines_max = 0\nqueue_bytes = 1.5\nexclude = \"(\""),
            ["queue_bytes", "type", "batch_lines_max", "exclude"]
        );
        // What is left out because it is wrong is not missing, too.
        let file =
            "type = \"file\"\ndirectory = 5\ncompression = \"lz4\"\nfile_byte_max = 1\nfile_age_max = 7\nack = \"no\"";
        let mut keys = all(file);
        keys.sort();
        assert_eq!(keys, ["ack", "compression", "directory", "file_age_max", "file_byte_max"]);
        assert_eq!(all("type = \"file\"\ncompression = \"lz4\""), ["compression", ""]);
        assert_eq!(all("type = \"http\"\nurl = \"ftp://a\"\nack = \"no\""), ["ack", "url"]);
        for name in ["", "Archive", "a-b", "1a", "a/b", &"a".repeat(33)] {
            let table = "type = \"null\"".parse().unwrap();
            assert!(SinkConfig::read(name, table).is_err(), "{name:?}");
        }
    }
}
