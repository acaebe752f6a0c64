//! From file, environment and flags to a [`Config`], or to every mistake in them.

#[cfg(feature = "sinks")]
mod sinks;

use std::{
    collections::BTreeMap,
    env, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use toml::de::{DeTable, DeValue};

use super::{
    Config, Control, GIB, Identity, MIB, MachineMemory, Mistake, Mistakes, Place, Problem, SETTINGS, Setting,
    SigningKeys,
    setting::{Value, variable},
    value::format_size,
};

/// The keys that are secrets, and what to use in the file instead.
const TOKENS: [(&str, &str); 3] =
    [("ingest.token", "ingest.token_file"), ("control.token", "control.token_file"), ("fly.token", "fly.token_file")];

/// What clients read.
const CLIENTS: [&str; 3] = ["FLEETDRAIN_URL", "FLEETDRAIN_TOKEN", "FLEETDRAIN_CA_FILE"];

/// Only variables that begin so and hold `__` are the server's; `FLEETDRAIN_URL` is a client's.
const PREFIX: &str = "FLEETDRAIN_";

/// A setting given by a flag.
#[derive(Clone, Debug)]
pub struct Flag {
    /// The flag as typed, as in `--listen`.
    pub name: &'static str,
    /// The key of the setting, as in `ingest.listen`.
    pub key: &'static str,
    /// The value as typed.
    pub value: String,
}

/// Everything that a configuration is made of.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The configuration file: its path and its text.
    pub file: Option<(PathBuf, String)>,
    /// The environment.
    pub env: Vec<(String, String)>,
    /// Flags that set something.
    pub flags: Vec<Flag>,
    /// How much memory there is.
    pub memory: Option<MachineMemory>,
}

/// Gathers the [`Sources`] of this process; kept by `serve` for a reload.
#[derive(Clone, Debug, Default)]
pub struct Loader {
    /// `--config`
    pub file: Option<PathBuf>,
    /// Flags that set something.
    pub flags: Vec<Flag>,
}

impl Loader {
    /// Reads the file, the environment and the token files anew.
    ///
    /// # Errors
    /// Every mistake that was found.
    pub fn load(&self) -> Result<Loaded, Mistakes> {
        let read = |path: &PathBuf| match fs::read_to_string(path) {
            Ok(text) => Ok((path.clone(), text)),
            Err(source) => Err(Mistakes(vec![Mistake {
                key: String::new(),
                place: Place::Flag("--config"),
                problem: Problem::Unreadable { path: path.clone(), source },
            }])),
        };
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        load(&Sources {
            file: self.file.as_ref().map(read).transpose()?,
            env: env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect(),
            flags: self.flags.clone(),
            memory: MachineMemory::of_this_process(),
        })
    }
}

/// Which kind of source gave a setting its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nobody set it.
    #[default]
    Default,
    /// The configuration file.
    File,
    /// An environment variable.
    Env,
    /// A flag.
    Flag,
}

impl Source {
    /// Its name, in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Env => "env",
            Self::Flag => "flag",
        }
    }
}

/// A configuration without mistakes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What an operator should know although it is no mistake: clamped values, open doors.
    pub warnings: Vec<String>,
    sources: BTreeMap<&'static str, Source>,
    notes: BTreeMap<&'static str, String>,
}

/// One setting of a [`Loaded`] configuration.
#[derive(Clone, Debug)]
pub struct Effective {
    /// Which setting.
    pub setting: &'static Setting,
    /// Its value as text; `None`: nothing is set.
    pub value: Option<String>,
    /// Who set it.
    pub source: Source,
    /// How the value came about, where it is not simply what was set.
    pub note: Option<String>,
}

impl Loaded {
    /// Every setting with its value, in the order of the catalogue.
    pub fn effective(&self) -> impl Iterator<Item = Effective> {
        SETTINGS.iter().map(|setting| Effective {
            setting,
            value: setting.show(&self.config),
            source: self.sources.get(setting.key).copied().unwrap_or_default(),
            note: self.notes.get(setting.key).cloned(),
        })
    }
}

/// Makes a configuration of its sources: flags over environment over file over defaults.
///
/// Reads the token files and resolves the host names that the sources name; else a pure function of them.
///
/// # Errors
/// Every mistake in any of the sources, also in values that another source overrides.
pub fn load(sources: &Sources) -> Result<Loaded, Mistakes> {
    let mut loading = Loading::default();
    if let Some((path, text)) = &sources.file {
        loading.read_file(path, text);
    }
    loading.read_env(&sources.env);
    for flag in &sources.flags {
        loading.set(flag.key, &Value::Text(flag.value.clone()), Place::Flag(flag.name), Source::Flag);
    }
    #[cfg(feature = "sinks")]
    loading.make_sinks();
    loading.read_token_files();
    loading.read_signing_keys();
    loading.read_identities();
    loading.derive_memory(sources.memory);
    let app = sources.env.iter().find(|(name, value)| name == "FLY_APP_NAME" && !value.is_empty());
    loading.derive_control(app.is_some());
    loading.config.fly.own_app = app.map(|(_, name)| name.clone());
    loading.warn_of_fly();
    loading.warn_of_open_doors();
    loading.finish()
}

/// A configuration in the making.
#[derive(Default)]
struct Loading {
    config: Config,
    mistakes: Vec<Mistake>,
    places: BTreeMap<&'static str, (Source, Place)>,
    notes: BTreeMap<&'static str, String>,
    warnings: Vec<String>,
    #[cfg(feature = "sinks")]
    sinks: sinks::Tables,
}

impl Loading {
    fn mistake(&mut self, key: impl Into<String>, place: Place, problem: Problem) {
        self.mistakes.push(Mistake { key: key.into(), place, problem });
    }

    /// Sets a key of the catalogue; the caller has looked it up or names it itself.
    fn set(&mut self, key: &str, value: &Value, place: Place, source: Source) {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let problem = Problem::Unknown { what: "key", nearest: nearest_key(key).to_owned() };
            return self.mistake(key.escape_debug().to_string(), place, problem);
        };
        match setting.apply(&mut self.config, value) {
            Ok(()) => {
                self.places.insert(setting.key, (source, place));
            }
            Err(problem) => self.mistake(setting.key, place, problem),
        }
    }

    fn is_set(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Where a key was set, for a mistake that shows only when all is read.
    fn place(&self, key: &str) -> Place {
        self.places.get(key).map_or(Place::Whole, |(_, place)| place.clone())
    }

    fn read_file(&mut self, path: &Path, text: &str) {
        let at = |span: Range<usize>| {
            let before = &text[..text.floor_char_boundary(span.start)];
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            Place::File {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
            }
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // What is left of a broken file would only give mistakes that are none.
            for error in errors {
                let message = error.message().trim().replace('\n', ", ");
                self.mistake("", at(error.span().unwrap_or(0..0)), Problem::Syntax { message });
            }
            return;
        }
        for (section, value) in table.get_ref() {
            let place = at(section.span());
            #[cfg(feature = "sinks")]
            if section.get_ref() == "sinks" {
                self.read_sinks(value, text, place, at);
                continue;
            }
            let section = section.get_ref().as_ref();
            let known = SETTINGS.iter().any(|setting| setting.section() == section);
            match value.get_ref() {
                DeValue::Table(table) if known => {
                    for (name, value) in table {
                        let key = format!("{section}.{}", name.get_ref());
                        let inner = value.get_ref().as_table().filter(|_| is_table(&key));
                        for (name, value) in inner.into_iter().flatten() {
                            let key = format!("{key}.{}", name.get_ref());
                            let at = (at(name.span()), at(value.span()));
                            self.set_from_file(&key, value.get_ref(), &text[value.span()], at.0, at.1);
                        }
                        if inner.is_none() {
                            let at = (at(name.span()), at(value.span()));
                            self.set_from_file(&key, value.get_ref(), &text[value.span()], at.0, at.1);
                        }
                    }
                }
                value if known => {
                    let value = value.type_str().to_owned();
                    self.mistake(section, place, Problem::NotA { value, expected: "a table" });
                }
                DeValue::Table(_) => {
                    let problem = Problem::Unknown { what: "section", nearest: nearest_section(section).to_owned() };
                    self.mistake(section.escape_debug().to_string(), place, problem);
                }
                _ => {
                    let problem = Problem::Unknown { what: "key", nearest: nearest_key(section).to_owned() };
                    self.mistake(section.escape_debug().to_string(), place, problem);
                }
            }
        }
    }

    /// An unknown key is placed where it stands, a bad value where the value stands.
    fn set_from_file(&mut self, key: &str, value: &DeValue<'_>, text: &str, key_at: Place, value_at: Place) {
        if let Some(&(key, token_file)) = TOKENS.iter().find(|(token, _)| *token == key) {
            return self.mistake(key, key_at, Problem::TokenInFile { token_file, variable: variable(key) });
        }
        let known = SETTINGS.iter().any(|setting| setting.key == key);
        let value = match value {
            DeValue::String(text) => Value::Text(text.clone().into_owned()),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::Other(text.to_owned()),
            },
            DeValue::Array(items) => words(items).map_or_else(|| Value::Other("an array".to_owned()), Value::List),
            DeValue::Table(_) => Value::Other("a table".to_owned()),
            DeValue::Float(_) | DeValue::Datetime(_) => Value::Other(text.to_owned()),
        };
        self.set(key, &value, if known { value_at } else { key_at }, Source::File);
    }

    fn read_env(&mut self, env: &[(String, String)]) {
        let ours = env.iter().map(|(name, _)| name).filter(|name| name.starts_with(PREFIX));
        for name in ours.filter(|name| !name.contains("__") && !CLIENTS.contains(&name.as_str())) {
            let nearest = nearest_variable(name);
            self.warnings.push(format!("{name} is not read: what sets something has __ in it, such as {nearest}"));
        }
        let mut env: Vec<_> = env.iter().filter(|(name, _)| name.starts_with(PREFIX) && name.contains("__")).collect();
        // The order of an environment means nothing; mistakes should come in the same one each time.
        env.sort_unstable();
        for (name, value) in env {
            let place = Place::Variable(name.clone());
            #[cfg(feature = "sinks")]
            if self.set_sink_by_variable(name, value) {
                continue;
            }
            if let Some((key, _)) = TOKENS.iter().find(|(key, _)| variable(key) == *name) {
                match tokens(value) {
                    Ok(tokens) => self.tokens(key).extend(tokens),
                    Err(problem) => self.mistake(*key, place, problem),
                }
                continue;
            }
            match SETTINGS.iter().find(|setting| setting.variable() == *name) {
                Some(setting) => self.set(setting.key, &Value::Text(value.clone()), place, Source::Env),
                None => {
                    let nearest = nearest_variable(name);
                    self.mistake("", place, Problem::Unknown { what: "variable", nearest });
                }
            }
        }
    }

    fn tokens(&mut self, key: &str) -> &mut Vec<String> {
        match key.split_once('.').map(|(section, _)| section) {
            Some("ingest") => &mut self.config.ingest.tokens,
            Some("fly") => &mut self.config.fly.tokens,
            _ => &mut self.config.control.tokens,
        }
    }

    /// Those of the files are as live as those of the environment.
    fn read_token_files(&mut self) {
        let ingest = ("ingest.token_file", self.config.ingest.token_file.clone());
        let control = ("control.token_file", self.config.control.token_file.clone());
        let fly = ("fly.token_file", self.config.fly.token_file.clone());
        for (key, path) in [ingest, control, fly] {
            let Some(path) = path else { continue };
            let read = fs::read_to_string(&path).map_err(|source| Problem::Unreadable { path, source });
            match read.and_then(|text| tokens(&text)) {
                Ok(tokens) => self.tokens(key).extend(tokens),
                Err(problem) => self.mistake(key, self.place(key), problem),
            }
        }
    }

    fn read_signing_keys(&mut self) {
        let Some(path) = self.config.control.signing_key_file.clone() else { return };
        match read_signing_keys(path) {
            Ok(keys) => self.config.control.signing_keys = keys,
            Err(problem) => {
                self.mistake("control.signing_key_file", self.place("control.signing_key_file"), problem);
            }
        }
    }

    /// The certificates and their keys: read and checked here, so that a reload takes all of them or none.
    fn read_identities(&mut self) {
        let Config { ingest, control, .. } = &self.config;
        let files = [
            ("ingest.tls_cert_file", "ingest.tls_key_file", &ingest.tls_cert_file, &ingest.tls_key_file),
            ("control.tls_cert_file", "control.tls_key_file", &control.tls_cert_file, &control.tls_key_file),
        ];
        for (cert_key, key_key, cert_file, key_file) in files.map(|(a, b, cert, key)| (a, b, cert.clone(), key.clone()))
        {
            let identity = match (cert_file, key_file) {
                (None, None) => continue,
                (Some(_), None) => Err((cert_key, Problem::HalfTls { missing: key_key })),
                (None, Some(_)) => Err((key_key, Problem::HalfTls { missing: cert_key })),
                (Some(cert), Some(key)) => read_identity((cert_key, cert), (key_key, key)),
            };
            match identity {
                Ok(identity) => self.take_identity(cert_key, identity),
                Err((key, problem)) => self.mistake(key, self.place(key), problem),
            }
        }
    }

    fn take_identity(&mut self, cert_key: &'static str, identity: Identity) {
        let expires = identity.expires();
        self.notes.insert(cert_key, format!("expires {expires}"));
        if expires <= Timestamp::now() {
            self.warnings.push(format!("{cert_key}: a certificate has expired, {expires}"));
        }
        let at = if cert_key.starts_with("ingest.") {
            &mut self.config.ingest.identity
        } else {
            &mut self.config.control.identity
        };
        *at = Some(identity);
    }

    /// The budget of the machine, and what depends on the budget.
    fn derive_memory(&mut self, machine: Option<MachineMemory>) {
        if !self.is_set("memory.budget") {
            let (budget, note) = default_budget(machine);
            self.config.memory.budget = budget;
            self.notes.insert("memory.budget", note);
        } else if let Some(MachineMemory { bytes, from }) = machine
            && self.config.memory.budget as u64 > bytes
        {
            let budget = format_size(self.config.memory.budget);
            self.warnings.push(format!("memory.budget {budget} is more than the {from}, {bytes} bytes"));
        }
        let budget = self.config.memory.budget;
        if !self.is_set("history.bytes") {
            self.config.history.bytes = budget / 4;
            self.notes.insert("history.bytes", "a quarter of memory.budget".to_owned());
        } else if self.config.history.bytes > budget {
            let (value, max) =
                (format_size(self.config.history.bytes), format!("memory.budget {}", format_size(budget)));
            let problem = Problem::OutOfBounds { value, min: "0".to_owned(), max };
            self.mistake("history.bytes", self.place("history.bytes"), problem);
        }
        let asked = self.config.ingest.decoded_bytes_max;
        // What a spool of that size could not keep until it is read is refused before it is acknowledged.
        let spool = self.config.spool.dir.as_ref().map(|_| self.config.spool.bytes_max / 2);
        let (bound, share) = match spool {
            Some(bytes) if bytes < budget / 4 => (bytes, "half of spool.bytes_max"),
            _ => (budget / 4, "a quarter of memory.budget"),
        };
        if asked > bound {
            self.config.ingest.decoded_bytes_max = bound;
            let note = format!("{share}, instead of {}", format_size(asked));
            if self.is_set("ingest.decoded_bytes_max") {
                self.warnings.push(format!("ingest.decoded_bytes_max is {}: {note}", format_size(bound)));
            }
            self.notes.insert("ingest.decoded_bytes_max", note);
        }
    }

    /// Where control listens, and whether it may.
    fn derive_control(&mut self, on_fly: bool) {
        let has_token = !self.config.control.tokens.is_empty();
        let default = match on_fly && has_token {
            true => {
                self.notes.insert("control.listen", "on Fly with a control token".to_owned());
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8081))
            }
            false => SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
        };
        if self.is_set("control.listen") {
            self.notes.remove("control.listen");
        }
        if !self.is_set("ingest.listen") {
            let note = "[::]:8080, or 0.0.0.0:8080 where IPv6 is off: decided when it binds";
            self.notes.insert("ingest.listen", note.to_owned());
        }
        let address = *self.config.control.listen.get_or_insert(default);
        // A file that could not be read is told already, and is no decision for an open door.
        let Control { token_file, signing_key_file, insecure, .. } = &self.config.control;
        let locked = has_token || token_file.is_some() || signing_key_file.is_some() || *insecure;
        if !locked && !is_loopback(address.ip()) {
            self.mistake("control.listen", self.place("control.listen"), Problem::OpenControl { address });
        }
        if self.config.ingest.listen == Some(address) && address.port() != 0 {
            self.mistake("control.listen", self.place("control.listen"), Problem::SameAddress { address });
        }
    }

    fn warn_of_open_doors(&mut self) {
        let Config { ingest, control, .. } = &self.config;
        if ingest.tokens.is_empty() && !ingest.listen.is_some_and(|address| is_loopback(address.ip())) {
            let warning =
                "ingest has no token: whoever reaches it may send (FLEETDRAIN_INGEST__TOKEN or ingest.token_file)";
            self.warnings.push(warning.to_owned());
        }
        let has_keys = !control.signing_keys.is_empty();
        let is_exposed = control.listen.is_some_and(|address| !is_loopback(address.ip()));
        let warning = match (control.tokens.is_empty(), has_keys) {
            (true, true) => Some("control has signing keys and no token: nobody reads more than a link shows"),
            (true, false) if is_exposed => Some("control has no token: whoever reaches it reads every log"),
            _ => None,
        };
        self.warnings.extend(warning.map(str::to_owned));
        if !control.cors_origins.is_empty() && control.tokens.is_empty() && !has_keys {
            let warning = "control.cors_origins lets no page read while there is neither signing_key_file nor a token";
            self.warnings.push(warning.to_owned());
        }
    }

    fn warn_of_fly(&mut self) {
        let super::Fly { enabled: true, org, tokens, queue_group, canary, own_app, .. } = &self.config.fly else {
            return;
        };
        let warnings = [
            (org.is_none() != tokens.is_empty() || tokens.len() > 1).then_some(
                "fly.org and one token go together: the slug is the user, the token (FLEETDRAIN_FLY__TOKEN or fly.token_file) the password",
            ),
            (org.is_none() && tokens.is_empty())
                .then_some("fly has neither org nor token: Fly's NATS lets nobody in without"),
            queue_group.as_ref().map(|_| {
                "fly.queue_group: each message goes to one member, so every machine's log here is a part of it only"
            }),
            (*canary && own_app.is_none()).then_some(
                "fly.canary waits for our own standard output to come back, and FLY_APP_NAME is not set: off Fly, set it to false",
            ),
        ];
        self.warnings.extend(warnings.into_iter().flatten().map(str::to_owned));
    }

    fn finish(mut self) -> Result<Loaded, Mistakes> {
        if !self.mistakes.is_empty() {
            // As one reads the file, what is of no line of it last.
            self.mistakes.sort_by_key(|mistake| match mistake.place {
                Place::File { line, column, .. } => (line, column),
                _ => (usize::MAX, 0),
            });
            return Err(Mistakes(self.mistakes));
        }
        let sources = self.places.into_iter().map(|(key, (source, _))| (key, source)).collect();
        Ok(Loaded { config: self.config, warnings: self.warnings, sources, notes: self.notes })
    }
}

/// 60 % of what there is, at most 1 GiB, and how that came about.
fn default_budget(machine: Option<MachineMemory>) -> (usize, String) {
    let Some(MachineMemory { bytes, from }) = machine else {
        return (GIB, "1GiB, as this system does not say how much memory it has".to_owned());
    };
    // A lower bound keeps the budget of a tiny cgroup in its own bounds; whole KiB read better.
    let share = usize::try_from(bytes / 100 * 60).unwrap_or(usize::MAX) >> 10 << 10;
    let mib = bytes / MIB as u64;
    (share.clamp(MIB, GIB), format!("60% of the {from}, {mib}MiB, at most 1GiB"))
}

fn read_signing_keys(path: PathBuf) -> Result<SigningKeys, Problem> {
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(Problem::Unreadable { path, source }),
    };
    match SigningKeys::parse(&text) {
        Ok(keys) if keys.is_empty() => Err(Problem::NoSigningKey { path }),
        Ok(keys) => Ok(keys),
        Err(short) => Err(Problem::ShortSigningKey(short)),
    }
}

/// Reads a certificate and its private key, each a key of the catalogue and a path. An error is with the key to blame.
fn read_identity(
    (cert_key, cert): (&'static str, PathBuf),
    (key_key, key): (&'static str, PathBuf),
) -> Result<Identity, (&'static str, Problem)> {
    let read = |name, path: &PathBuf| {
        fs::read(path).map_err(|source| (name, Problem::Unreadable { path: path.clone(), source }))
    };
    let (cert_pem, key_pem) = (read(cert_key, &cert)?, read(key_key, &key)?);
    Identity::from_pem(&cert_pem, &key_pem).map_err(|source| {
        let (name, path) = if source.is_of_key() { (key_key, key) } else { (cert_key, cert) };
        (name, Problem::BadIdentity { path, source })
    })
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// The tokens in `text`, one a line; blank lines do not count.
fn tokens(text: &str) -> Result<Vec<String>, Problem> {
    let lines =
        text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())).filter(|(_, line)| !line.is_empty());
    let tokens: Result<Vec<_>, _> = lines
        .map(|(line, token)| match token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(token.to_owned()),
            false => Err(Problem::BadToken { line }),
        })
        .collect();
    tokens.and_then(|tokens| if tokens.is_empty() { Err(Problem::NoToken) } else { Ok(tokens) })
}

/// Whether settings lie in a table of that name within their section, as in `limit.machine`.
fn is_table(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// An array of words; `None` where it holds something else.
fn words(items: &toml::de::DeArray<'_>) -> Option<Vec<String>> {
    items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
}

/// The known key that is most like `key`; the right name in a wrong section is nearer than a like name.
fn nearest_key(key: &str) -> &'static str {
    let name = key.rsplit('.').next().unwrap_or(key);
    let nearness = |setting: &&Setting| {
        let same_name = if setting.name() == name { 1.0 } else { 0.0 };
        same_name + likeness(setting.key, key).max(likeness(setting.name(), key))
    };
    SETTINGS.iter().max_by(|a, b| nearness(a).total_cmp(&nearness(b))).map_or("", |setting| setting.key)
}

fn nearest_section(section: &str) -> &'static str {
    let sections = SETTINGS.iter().map(Setting::section).chain(["sinks"]);
    sections.max_by(|a, b| likeness(a, section).total_cmp(&likeness(b, section))).unwrap_or_default()
}

fn nearest_variable(name: &str) -> String {
    if name.starts_with("FLEETDRAIN_SINK") {
        return "FLEETDRAIN_SINKS__NAME__KEY".to_owned();
    }
    let tokens = TOKENS.iter().map(|(key, _)| variable(key));
    let known = SETTINGS.iter().map(Setting::variable).chain(tokens);
    known.max_by(|a, b| likeness(a, name).total_cmp(&likeness(b, name))).unwrap_or_default()
}

fn likeness(a: &str, b: &str) -> f64 {
    // The measure is quadratic; no key is so long that more of a misspelt one could matter.
    let cut = |text: &str| text.chars().take(64).collect::<String>();
    strsim::normalized_damerau_levenshtein(a, &cut(b))
}
