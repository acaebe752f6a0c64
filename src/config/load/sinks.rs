//! `[sinks.NAME]` of the file, and `FLEETDRAIN_SINKS__NAME__KEY`.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Component, Path, PathBuf, absolute},
};

use toml::{Spanned, de::DeValue};

use super::{Loading, Place, Problem};
use crate::{
    batch::Kind,
    config::Config,
    sink::config::{LISTS, SECRETS, SinkConfig, Wrong},
};

const PREFIX: &str = "FLEETDRAIN_SINKS__";

/// What was set of each sink so far, by its name.
pub(super) type Tables = BTreeMap<String, Table>;

#[derive(Default)]
pub(super) struct Table {
    set: toml::Table,
    /// What variables have set, as it stands there.
    texts: BTreeMap<String, String>,
    /// Where each key was set, and the whole.
    places: BTreeMap<String, Place>,
    place: Option<Place>,
}

impl Loading {
    /// Takes the file's `[sinks]`.
    pub(super) fn read_sinks(
        &mut self,
        sinks: &Spanned<DeValue<'_>>,
        text: &str,
        place: Place,
        at: impl Fn(Range<usize>) -> Place,
    ) {
        // It was read once: this is the same without places.
        let all: toml::Table = text.parse().unwrap_or_default();
        let (Some(places), Some(toml::Value::Table(all))) = (sinks.get_ref().as_table(), all.get("sinks")) else {
            let value = sinks.get_ref().type_str().to_owned();
            return self.mistake("sinks", place, Problem::NotA { value, expected: "a table of sinks" });
        };
        for (name, of) in places {
            let (place, name) = (at(name.span()), name.get_ref().as_ref());
            let (Some(of), Some(toml::Value::Table(set))) = (of.get_ref().as_table(), all.get(name)) else {
                let message = "a sink is a table, such as [sinks.archive]".to_owned();
                self.mistake(format!("sinks.{name}"), place, Problem::Sink { message });
                continue;
            };
            let table = self.sinks.entry(name.to_owned()).or_default();
            table.place = Some(place);
            let mut secrets = Vec::new();
            for (key, _) in of {
                let (place, key) = (at(key.span()), key.get_ref().as_ref());
                match SECRETS.iter().find(|(secret, _)| *secret == key) {
                    Some(&(secret, token_file)) => secrets.push((secret, token_file, place)),
                    None => {
                        table.set.insert(key.to_owned(), set[key].clone());
                        table.places.insert(key.to_owned(), place);
                    }
                }
            }
            for (secret, token_file, place) in secrets {
                let variable = format!("{PREFIX}{}__{}", name.to_uppercase(), secret.to_uppercase());
                self.mistake(format!("sinks.{name}.{secret}"), place, Problem::TokenInFile { token_file, variable });
            }
        }
    }

    /// Takes a variable that sets something of a sink; says whether it is one.
    pub(super) fn set_sink_by_variable(&mut self, variable: &str, value: &str) -> bool {
        let Some((name, key)) = variable.strip_prefix(PREFIX).and_then(|rest| rest.split_once("__")) else {
            return false;
        };
        let (name, key) = (name.to_lowercase(), key.to_lowercase());
        let table = self.sinks.entry(name).or_default();
        table.places.insert(key.clone(), Place::Variable(variable.to_owned()));
        let is_secret = SECRETS.iter().any(|(secret, _)| *secret == key);
        let read = match key.as_str() {
            _ if is_secret => value.into(),
            key if LISTS.contains(&key) && !value.trim_start().starts_with('[') => {
                value.split(',').map(|item| toml::Value::from(item.trim())).collect::<Vec<_>>().into()
            }
            _ => plain(value),
        };
        table.texts.insert(key.clone(), value.to_owned());
        table.set.insert(key, read);
        true
    }

    /// Makes the sinks' settings of what was set, or mistakes.
    pub(super) fn make_sinks(&mut self) {
        for (name, table) in std::mem::take(&mut self.sinks) {
            let wrongs = match read(&name, table.set, &table.texts) {
                Ok(mut sink) => {
                    let unusual =
                        sink.filter.streams.iter().filter(|stream| Kind::of(stream.as_bytes()) == Kind::Other);
                    self.warnings.extend(unusual.map(|stream| {
                        let known = "stdout, stderr, system";
                        format!("sinks.{name}.streams: {stream:?} is none of {known}: only records that say so have it")
                    }));
                    let wrong = shares_directory(&sink, &self.config);
                    sink.sources = table.places.iter().map(|(key, place)| (key.clone(), place.source())).collect();
                    self.config.sinks.push(sink);
                    wrong.into_iter().collect()
                }
                Err(wrongs) => wrongs,
            };
            for Wrong { key, problem: message } in wrongs {
                let place = table.places.get(&key).or(table.place.as_ref()).cloned().unwrap_or(Place::Whole);
                let key = if key.is_empty() { format!("sinks.{name}") } else { format!("sinks.{name}.{key}") };
                self.mistake(key, place, Problem::Sink { message });
            }
        }
    }
}

/// Reads a sink. What a variable says may read as a number, and be a text all the same: an index named 2024.
fn read(name: &str, mut set: toml::Table, texts: &BTreeMap<String, String>) -> Result<SinkConfig, Vec<Wrong>> {
    let wrongs = match SinkConfig::read(name, set.clone()) {
        Ok(sink) => return Ok(sink),
        Err(wrongs) => wrongs,
    };
    let mut is_other = false;
    for (key, text) in texts {
        if wrongs.iter().any(|wrong| wrong.key == *key) && !LISTS.contains(&key.as_str()) {
            let before = set.insert(key.clone(), text.as_str().into());
            is_other |= before.is_some_and(|before| !before.is_str());
        }
    }
    if !is_other {
        return Err(wrongs);
    }
    match SinkConfig::read(name, set) {
        Err(others) if others.len() >= wrongs.len() => Err(wrongs),
        read => read,
    }
}

/// A directory is one sink's, with all that is below it.
fn shares_directory(sink: &SinkConfig, config: &Config) -> Option<Wrong> {
    let own = sink.settings.directory()?;
    let real_own = real(own);
    let sinks =
        config.sinks.iter().filter_map(|sink| Some((format!("sinks.{}", sink.name), sink.settings.directory()?)));
    let ours = [("spool.dir", &config.spool.dir), ("journal.dir", &config.journal.dir)];
    let ours = ours.into_iter().filter_map(|(key, path)| Some((key.to_owned(), path.as_deref()?)));
    sinks.chain(ours).find_map(|(key, other)| {
        let real_other = real(other);
        let is_shared = real_own.starts_with(&real_other) || real_other.starts_with(&real_own);
        let problem = format!("{own:?}: {key} has {other:?} for itself, with all below it");
        is_shared.then(|| Wrong { key: "directory".to_owned(), problem })
    })
}

/// Where a path leads: as much of it as is there, and the rest.
fn real(path: &Path) -> PathBuf {
    let path = &absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match there {
        Some((above, mut real)) => {
            for part in path.strip_prefix(above).unwrap_or(path).components() {
                match part {
                    Component::ParentDir => drop(real.pop()),
                    part => real.push(part),
                }
            }
            real
        }
        None => path.clone(),
    }
}

/// A variable's value as the file would have it: a number, a truth or an array if it reads as one, else a text.
fn plain(value: &str) -> toml::Value {
    let read = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
    let is_plain =
        |read: &toml::Value| matches!(read, toml::Value::Integer(_) | toml::Value::Boolean(_) | toml::Value::Array(_));
    read.filter(is_plain).unwrap_or_else(|| value.into())
}
