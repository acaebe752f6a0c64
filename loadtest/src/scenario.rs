//! What is simulated: a TOML file, and flags over it.

use crate::encode::Encoding;
use crate::failure::Failure;
use crate::generate::{Form, RecordSpec, Shapes};
use crate::schedule::{Burst, Profile, Wave};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::time::Duration;

/// A whole scenario.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scenario {
    pub(crate) description: String,
    pub(crate) drain: Drain,
    pub(crate) fleet: Fleet,
    pub(crate) load: Load,
    pub(crate) records: Records,
    pub(crate) readers: Readers,
}

/// How the drain is started, where `run` starts it (`--drain`).
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Drain {
    /// Pinned to so many CPUs, the generator to the others; none: both everywhere.
    pub(crate) cpus: Option<usize>,
    /// So much of the CPUs' time, as a throttled container has: it is stopped for the rest of each tenth of a second.
    pub(crate) cpu_quota: Option<f64>,
    /// Its settings, as `"memory.budget" = "256MiB"`.
    pub(crate) settings: BTreeMap<String, String>,
    /// The run fails if a night's resident memory has grown by more than this share from the second day to the last.
    pub(crate) resident_grows_max: Option<f64>,
}

/// The machines.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fleet {
    pub(crate) machines: u32,
    /// Exponent of Zipf's law; 0 is uniform.
    pub(crate) zipf: f64,
    /// The first machine's share of all lines, over Zipf.
    pub(crate) hot_share: Option<f64>,
    /// So often followed machines are finished (DELETE) and replaced by new ones.
    pub(crate) churn_every: Option<Span>,
    /// So many at a time.
    pub(crate) churn_machines: usize,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { machines: 1_000, zipf: 1.0, hot_share: None, churn_every: None, churn_machines: 1 }
    }
}

/// The senders.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Load {
    pub(crate) rate: Rate,
    pub(crate) duration: Span,
    /// Ends the run earlier, once so many lines are sent.
    pub(crate) lines: Option<u64>,
    pub(crate) lines_per_body: usize,
    pub(crate) connections: usize,
    pub(crate) encoding: Encoding,
    pub(crate) burst: Option<BurstKeys>,
    /// The waves of a day, in place of `rate`.
    pub(crate) waves: Option<Vec<WaveKeys>>,
    /// So many days make up `duration`.
    pub(crate) days: u32,
    /// The run fails unless the drain was overloaded: a scenario that promises overload must not pass without.
    pub(crate) overloads: bool,
    /// A body is sent evenly over this time, as over a slow network.
    pub(crate) body_takes: Option<Span>,
    /// All senders drop their connections at once, so often.
    pub(crate) reconnect_every: Option<Span>,
    pub(crate) refused: Refused,
    /// For `rate = "2x"`: so long the fleet sends as fast as it can first.
    pub(crate) calibrate: Span,
    /// Without keys a body whose answer was lost is sent again at the risk of doubling it.
    pub(crate) idempotency_keys: bool,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            rate: Rate::Lines(20_000.0),
            duration: Span(Duration::from_secs(20)),
            lines: None,
            lines_per_body: 500,
            connections: 4,
            encoding: Encoding::Identity,
            burst: None,
            waves: None,
            days: 10,
            overloads: false,
            body_takes: None,
            reconnect_every: None,
            refused: Refused::Retry,
            calibrate: Span(Duration::from_secs(5)),
            idempotency_keys: true,
        }
    }
}

impl Load {
    /// Whether some rate is a multiple of what the drain takes, which must then be found out first.
    pub(crate) fn needs_calibration(&self) -> bool {
        let burst = self.burst.as_ref().map(|burst| burst.rate);
        let waves = self.waves.iter().flatten().map(|wave| wave.rate);
        [Some(self.rate), burst].into_iter().flatten().chain(waves).any(|rate| matches!(rate, Rate::Times(_)))
    }

    /// The open-loop profile, none for a closed loop. `calibrated`: what the drain takes in lines a second.
    pub(crate) fn profile(&self, calibrated: f64) -> Option<Profile> {
        if let Some(waves) = &self.waves {
            let day = self.duration.0 / self.days;
            let shares: f64 = waves.iter().map(|wave| wave.share).sum();
            let waves = waves.iter().map(|wave| {
                let lines_per_second = wave.rate.lines_per_second(calibrated)?;
                Some(Wave { name: wave.name.clone(), lines_per_second, length: day.mul_f64(wave.share / shares) })
            });
            return waves.collect::<Option<Vec<Wave>>>().map(Profile::days);
        }
        let lines_per_second = self.rate.lines_per_second(calibrated)?;
        let burst = self.burst.as_ref().and_then(|burst| {
            let lines_per_second = burst.rate.lines_per_second(calibrated)?;
            Some(Burst { lines_per_second, every: burst.every.0, length: burst.length.0 })
        });
        Some(Profile { burst, ..Profile::steady(lines_per_second) })
    }
}

/// A burst of `rate` lines a second at the end of each `every`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BurstKeys {
    rate: Rate,
    every: Span,
    length: Span,
}

/// A stretch of a day.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaveKeys {
    pub(crate) name: String,
    rate: Rate,
    /// How long it is, against the others of the day.
    share: f64,
}

/// What a sender does with a body that was refused (429, 503).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Refused {
    /// Send it again after `Retry-After`.
    Retry,
    /// Count its lines and go on.
    Count,
}

/// What the records look like; see [`RecordSpec`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Records {
    pub(crate) line_bytes: usize,
    pub(crate) line_bytes_spread: f64,
    pub(crate) escapes: f64,
    pub(crate) non_ascii: f64,
    pub(crate) malformed: f64,
    pub(crate) stderr: f64,
    pub(crate) form: Form,
    pub(crate) shapes: Shapes,
}

impl Default for Records {
    fn default() -> Self {
        let RecordSpec { line_bytes, line_bytes_spread, escapes, non_ascii, malformed, stderr, form, shapes } =
            RecordSpec::default();
        Self { line_bytes, line_bytes_spread, escapes, non_ascii, malformed, stderr, form, shapes }
    }
}

impl Records {
    pub(crate) fn spec(&self) -> RecordSpec {
        let &Self { line_bytes, line_bytes_spread, escapes, non_ascii, malformed, stderr, form, shapes } = self;
        RecordSpec { line_bytes, line_bytes_spread, escapes, non_ascii, malformed, stderr, form, shapes }
    }
}

/// Who reads, and how well.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Readers {
    /// Machines followed (spread over the ranks, the loudest first), or viewers of `tail`.
    pub(crate) count: u32,
    pub(crate) from: From,
    /// stdout alone, or stderr too; `logs` and `tail` always get both.
    pub(crate) stderr: bool,
    /// What the queue of a reader does when it is full; none: the drain's default.
    pub(crate) full: Option<Full>,
    /// This share of the readers reads at most `slow_lines_per_second` while lines are sent.
    pub(crate) slow: f64,
    pub(crate) slow_lines_per_second: f64,
    /// A reader goes and comes back, so often.
    pub(crate) churn_every: Option<Span>,
    pub(crate) churn: Churn,
    /// A reader that gets nothing for so long after the last line was sent has what it gets.
    pub(crate) settle: Span,
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            count: 50,
            from: From::Queue,
            stderr: true,
            full: None,
            slow: 0.0,
            slow_lines_per_second: 100.0,
            churn_every: None,
            churn: Churn::Clean,
            settle: Span(Duration::from_secs(10)),
        }
    }
}

impl Readers {
    /// Whether reader `number` is a slow one: every n-th, so that slow ones are among the loud machines' readers too.
    pub(crate) fn has_slow(&self, number: u32) -> bool {
        (f64::from(number + 1) * self.slow).floor() > (f64::from(number) * self.slow).floor()
    }
}

/// Which of the drain's ways of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    /// Consume a machine's queue.
    Queue,
    /// Look at a machine.
    Logs,
    /// Look at all machines.
    Tail,
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Full {
    /// The reader continues in the history.
    CatchUp,
    /// Senders are refused.
    Block,
    /// The oldest lines go.
    DropOldest,
}

impl Full {
    /// As the drain's `full=` has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::CatchUp => "catch_up",
            Self::Block => "block",
            Self::DropOldest => "drop_oldest",
        }
    }
}

/// How a reader goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Churn {
    /// By `total_timeout`: nothing may be lost.
    Clean,
    /// By closing the connection. From a queue, what was in flight may be lost; `logs` resumes by id without a gap.
    Abrupt,
}

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    /// So many lines a second, open loop.
    Lines(f64),
    /// As fast as the drain answers, closed loop.
    Max,
    /// So many times what the drain took in a calibration.
    Times(f64),
}

impl Rate {
    /// None for a closed loop.
    fn lines_per_second(self, calibrated: f64) -> Option<f64> {
        match self {
            Self::Lines(lines) => Some(lines),
            Self::Max => None,
            Self::Times(times) => Some(times * calibrated),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let positive = |number: f64| (number.is_finite() && number > 0.0).then_some(number);
        if text == "max" {
            return Some(Self::Max);
        }
        match text.strip_suffix('x') {
            Some(times) => Some(Self::Times(positive(times.parse().ok()?)?)),
            None => Some(Self::Lines(positive(text.replace('_', "").parse().ok()?)?)),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            other => other.to_string(),
        };
        Self::read(&text)
            .ok_or_else(|| D::Error::custom(format!("rate {text:?}: a number of lines, \"max\" or \"2x\"")))
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Lines(lines) => serializer.serialize_f64(*lines),
            Self::Max => serializer.serialize_str("max"),
            Self::Times(times) => serializer.serialize_str(&format!("{times}x")),
        }
    }
}

/// A duration as `500ms`, `30s`, `5m` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    fn read(text: &str) -> Option<Self> {
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return None,
        };
        let span = Duration::try_from_secs_f64(digits.parse::<f64>().ok()? * unit).ok()?;
        (!span.is_zero()).then_some(Self(span))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::read(&text).ok_or_else(|| D::Error::custom(format!("duration {text:?}: like \"500ms\", \"30s\", \"5m\"")))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}ms", self.0.as_millis()))
    }
}

impl Scenario {
    /// Reads `text` and lays `overrides` (`section.key`, value) over it.
    pub(crate) fn read(text: &str, overrides: &[(String, String)]) -> Result<Self, Failure> {
        let mut table: toml::Table = text.parse().map_err(Failure::usage)?;
        for (key, value) in overrides {
            lay(&mut table, key, value)?;
        }
        let is_asked = |section: &str, key: &str| table.get(section).is_some_and(|section| section.get(key).is_some());
        let (connections, readers) = (is_asked("load", "connections"), is_asked("readers", "count"));
        let mut scenario = Self::deserialize(table).map_err(Failure::usage)?;
        // A small fleet has as many as it has machines, unless someone wants more.
        let machines = scenario.fleet.machines;
        if !connections {
            scenario.load.connections = scenario.load.connections.min(machines.max(1) as usize);
        }
        if !readers && scenario.readers.from != From::Tail {
            scenario.readers.count = scenario.readers.count.min(machines);
        }
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), Failure> {
        let (fleet, load, records, readers) = (&self.fleet, &self.load, &self.records, &self.readers);
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let quota = self.drain.cpu_quota;
        let wrong = [
            (quota.is_some_and(|quota| !(0.05..1.0).contains(&quota)), "drain.cpu_quota must be from 0.05 to below 1"),
            (fleet.machines == 0, "fleet.machines must be above 0"),
            (fleet.hot_share.is_some_and(|hot| hot <= 0.0 || hot >= 1.0), "fleet.hot_share must be between 0 and 1"),
            (load.lines_per_body == 0, "load.lines_per_body must be above 0"),
            (load.connections == 0, "load.connections must be above 0"),
            (load.connections > fleet.machines as usize, "load.connections must not be above fleet.machines"),
            (load.burst.as_ref().is_some_and(|burst| burst.length.0 > burst.every.0), "load.burst: length above every"),
            (
                load.burst.is_some()
                    && (load.rate == Rate::Max || load.burst.as_ref().is_some_and(|burst| burst.rate == Rate::Max)),
                "load.burst needs rates: \"max\" has no schedule",
            ),
            (load.days == 0, "load.days must be above 0"),
            (
                load.waves
                    .iter()
                    .flatten()
                    .any(|wave| wave.rate == Rate::Max || wave.share.is_nan() || wave.share <= 0.0),
                "load.waves needs rates, \"max\" has no schedule, and shares above 0",
            ),
            (
                load.waves.as_ref().is_some_and(|waves| waves.is_empty() || load.burst.is_some()),
                "load.waves needs at least one, and no load.burst beside it",
            ),
            (
                self.drain.resident_grows_max.is_some_and(|share| share.is_nan() || share <= 0.0),
                "drain.resident_grows_max must be above 0",
            ),
            (
                self.drain.resident_grows_max.is_some() && (load.waves.is_none() || load.days < 3),
                "drain.resident_grows_max compares nights: it needs load.waves and at least 3 load.days",
            ),
            (
                ![records.escapes, records.non_ascii, records.malformed, records.stderr].into_iter().all(share),
                "shares in records must be from 0 to 1",
            ),
            (!share(records.line_bytes_spread), "records.line_bytes_spread must be from 0 to 1"),
            (
                !share(readers.slow) || readers.slow_lines_per_second <= 0.0,
                "readers.slow must be a share, at a rate above 0",
            ),
            (
                readers.from != From::Tail && readers.count > fleet.machines,
                "readers.count must not be above fleet.machines",
            ),
            (
                fleet.churn_every.is_some() && (readers.from != From::Queue || readers.count == 0),
                "fleet.churn_every replaces followed machines: it needs readers.from = \"queue\" and readers.count",
            ),
            (
                readers.full.is_some() && readers.from != From::Queue,
                "readers.full is what a full queue does: it needs readers.from = \"queue\"",
            ),
            (
                readers.churn_every.is_some() && readers.from == From::Tail,
                "readers.churn_every needs from = \"queue\" or \"logs\"",
            ),
        ];
        match wrong.iter().find(|(wrong, _)| *wrong) {
            Some((_, message)) => Err(Failure::usage(self.with_value(message))),
            None => Ok(()),
        }
    }

    /// A message that begins with a key, with what that key has.
    fn with_value(&self, message: &str) -> String {
        let table = toml::Value::try_from(self).ok();
        let key = message.split(' ').next().unwrap_or_default();
        let value = key.split('.').fold(table.as_ref(), |value, part| value?.get(part));
        value.map_or_else(|| message.to_owned(), |value| format!("{message}, and it is {value}"))
    }
}

fn lay(table: &mut toml::Table, key: &str, value: &str) -> Result<(), Failure> {
    // `load.rate=2x` need not be quoted: what is no TOML value is a string.
    let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut parsed| parsed.remove("v"));
    let value = parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut path: Vec<&str> = key.split('.').collect();
    let last = path.pop().unwrap_or_default();
    let mut table = table;
    for section in path {
        let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = entry.as_table_mut().ok_or_else(|| Failure::usage(format!("{key}: {section} is no section")))?;
    }
    table.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_ours_is_valid() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let mut count = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let scenario = Scenario::read(&text, &[]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(!scenario.description.is_empty(), "{}", path.display());
            count += 1;
        }
        assert!(count >= 10, "{count} scenarios");
    }

    #[test]
    fn overrides_win_over_the_file() {
        let over = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let overrides = [over("load.rate", "2x"), over("load.duration", "500ms"), over("fleet.machines", "77")];
        let scenario = Scenario::read("[load]\nrate = 10\n", &overrides).unwrap();
        assert_eq!(scenario.load.rate, Rate::Times(2.0));
        assert_eq!(scenario.load.duration.0, Duration::from_millis(500));
        assert_eq!(scenario.fleet.machines, 77);
    }

    #[test]
    fn a_small_fleet_has_no_more_connections_and_readers_than_machines() {
        let over = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let scenario = Scenario::read("", &[over("fleet.machines", "3")]).unwrap();
        assert_eq!((scenario.load.connections, scenario.readers.count), (3, 3));
        let asked = [over("fleet.machines", "3"), over("readers.count", "4")];
        let error = Scenario::read("", &asked).unwrap_err().to_string();
        assert!(error.contains("readers.count must not be above fleet.machines, and it is 4"), "{error}");
        let asked = [over("load.connections", "0")];
        assert!(
            Scenario::read("", &asked)
                .unwrap_err()
                .to_string()
                .contains("load.connections must be above 0, and it is 0")
        );
    }

    #[test]
    fn rates_and_bursts_are_multiples_of_what_was_calibrated() {
        let text = "[load]\nrate = \"0.5x\"\nburst = { rate = \"2x\", every = \"10s\", length = \"2s\" }";
        let load = Scenario::read(text, &[]).unwrap().load;
        assert!(load.needs_calibration());
        let profile = load.profile(1_000.0).unwrap();
        assert_eq!(profile.lines_per_second, 500.0);
        assert_eq!(profile.burst.unwrap().lines_per_second, 2_000.0);
        let text = "[load]\nduration = \"100s\"\ndays = 5\nwaves = [{ name = \"night\", rate = 10, share = 3 }, \
                    { name = \"day\", rate = \"2x\", share = 1 }]";
        let load = Scenario::read(text, &[]).unwrap().load;
        assert!(load.needs_calibration());
        let profile = load.profile(1_000.0).unwrap();
        assert_eq!(profile.lines_per_second, 507.5);
        assert_eq!(profile.waves[0].length, Duration::from_secs(15));
        let fixed = Scenario::read("[load]\nrate = 10", &[]).unwrap().load;
        assert!(!fixed.needs_calibration());
        assert_eq!(fixed.profile(0.0).unwrap().lines_per_second, 10.0);
    }

    #[test]
    fn unknown_keys_and_nonsense_are_refused() {
        for text in ["[load]\nrates = 1", "[load]\nrate = \"fast\"", "[load]\nduration = 3", "[records]\nstderr = 2.0"]
        {
            assert_eq!(Scenario::read(text, &[]).unwrap_err().code, 64, "{text}");
        }
    }
}
