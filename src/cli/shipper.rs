//! `fleetdrain config from-shipper`: the environment of Fly's log shipper as our configuration.
//!
//! What the shipper reads is known from its README and its `vector-configs` (github.com/superfly/fly-log-shipper). No value of a
//! variable that is a secret is looked at but for whether there is one: what is printed names the variable.

mod destinations;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    path::PathBuf,
};

use self::destinations::{DESTINATIONS, Destination, NO_COUNTERPART};
use super::{Exit, Failure, complain, print};

pub(super) const EXAMPLES: &str = "\
Where the shipper's variables are set, or with them in a file. Secrets are not
printed: the comments at the top name the variables to set, each by the
shipper's own.

Examples:
  fleetdrain config from-shipper > fleetdrain.toml
  fly ssh console -a my-shipper -C env > shipper.env
  fleetdrain config from-shipper --env shipper.env > fleetdrain.toml
  fleetdrain validate --config fleetdrain.toml";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Read NAME=VALUE lines from here (`-` is standard input) instead of this process's environment
    #[arg(long, value_name = "FILE")]
    env: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let environment = match &args.env {
        None => std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
            .collect(),
        Some(path) => lines(&read(path)?),
    };
    let Some(translation) = translate(&environment) else {
        complain("none of the variables is set that Fly's log shipper reads, such as ORG, ACCESS_TOKEN or LOKI_URL");
        return Ok(Exit::Data);
    };
    let printed = print(translation.toml.as_bytes())?;
    translation.notes.iter().for_each(|note| complain(note));
    Ok(printed)
}

fn read(path: &PathBuf) -> Result<String, Failure> {
    let text = if path.as_os_str() == "-" { io::read_to_string(io::stdin()) } else { fs::read_to_string(path) };
    text.map_err(Failure::io(format!("--env {}", path.display())))
}

/// `NAME=VALUE` a line, as `env` prints it; the rest is no variable.
fn lines(text: &str) -> BTreeMap<String, String> {
    let variable = |line: &str| {
        let (name, value) = line.trim_end_matches('\r').split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(variable).collect()
}

/// What the shipper has not, and who reads this file may want.
const SPOOL: &str = "\
# On a volume what was acknowledged outlives a crash, and sinks go on from where they were:
# [spool]
# dir = \"/data\"
";

/// What is printed.
#[derive(Debug)]
struct Translation {
    toml: String,
    /// What has no counterpart, and what is not the same.
    notes: Vec<String>,
}

/// The shipper's variables that are set. An empty one is none.
struct Variables<'a>(&'a BTreeMap<String, String>);

impl Variables<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Whether what a destination needs is set: `A`, one of `A|B`, or `A=VALUE`.
    fn has(&self, need: &str) -> bool {
        match need.split_once('=') {
            Some((name, wanted)) => self.value(name).is_some_and(|value| value.eq_ignore_ascii_case(wanted)),
            None => need.split('|').any(|name| self.value(name).is_some()),
        }
    }

    /// `template` with its `${NAME}` and `${NAME:-OTHERWISE}`; `None` if that leaves nothing.
    fn expand(&self, template: &str) -> Option<String> {
        let mut out = String::new();
        let mut rest = template;
        while let Some((before, behind)) = rest.split_once("${") {
            out.push_str(before);
            let (variable, after) = behind.split_at(closing(behind)?);
            let (name, otherwise) = variable.split_once(":-").unwrap_or((variable, ""));
            match self.value(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&self.expand(otherwise).unwrap_or_default()),
            }
            rest = after.get(1..)?;
        }
        out.push_str(rest);
        (!out.is_empty()).then_some(out)
    }

    /// Whether any variable of a shell's expression is set.
    fn any_of(&self, expression: &str) -> bool {
        names_in(expression).any(|name| self.value(name).is_some())
    }
}

/// Where the brace is closed that was opened before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    text.bytes().position(|byte| {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        depth == 0
    })
}

/// The variables that a shell's expression or a template names.
fn names_in(expression: &str) -> impl Iterator<Item = &str> {
    expression.split('$').skip(1).filter_map(|part| {
        let part = part.trim_start_matches('{');
        let end = part.find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_');
        Some(&part[..end.unwrap_or(part.len())]).filter(|name| !name.is_empty())
    })
}

/// What is set of the shipper as our configuration; `None` if nothing is.
fn translate(environment: &BTreeMap<String, String>) -> Option<Translation> {
    let variables = Variables(environment);
    let mut made = Making::default();
    made.fly(&variables);
    let mut names = BTreeSet::new();
    for destination in DESTINATIONS {
        if destination.needs.iter().all(|need| variables.has(need)) && names.insert(destination.name) {
            made.sink(destination, &variables);
        }
    }
    made.leave_out(&variables, &names);
    made.finish()
}

#[derive(Default)]
struct Making {
    body: String,
    /// Our variables, and what of the shipper's each is set to, as a shell has it.
    secrets: Vec<(String, &'static str)>,
    notes: Vec<String>,
    known: bool,
}

impl Making {
    fn fly(&mut self, variables: &Variables<'_>) {
        const READ: [&str; 5] = ["ORG", "ACCESS_TOKEN", "SUBJECT", "QUEUE", "NETWORK"];
        self.known = READ.iter().any(|name| variables.has(name));
        self.body.push_str("[fly]\nenabled = true\n");
        self.key("org", variables.value("ORG").unwrap_or("personal"));
        if let Some(network) = variables.value("NETWORK") {
            self.key("url", &format!("nats://[{network}::3]:4223"));
        }
        if let Some(subject) = variables.value("SUBJECT") {
            let _ = writeln!(self.body, "subjects = [{}]", quoted(subject));
        }
        if let Some(queue) = variables.value("QUEUE") {
            self.key("queue_group", queue);
            self.notes.push(
                "QUEUE: with a queue group every machine's log here is a part of it only; one drain needs none"
                    .to_owned(),
            );
        }
        if variables.has("ACCESS_TOKEN") {
            self.secrets.push(("FLEETDRAIN_FLY__TOKEN".to_owned(), "$ACCESS_TOKEN"));
        } else {
            self.notes.push(
                "ACCESS_TOKEN is not set: FLEETDRAIN_FLY__TOKEN must be, to `fly tokens create readonly`".to_owned(),
            );
        }
    }

    fn sink(&mut self, of: &Destination, variables: &Variables<'_>) {
        self.known = true;
        let _ = write!(self.body, "\n[sinks.{}]\n", of.name);
        if !of.keys.iter().any(|(key, _)| *key == "type") {
            self.key("type", "http");
        }
        for &(key, template) in of.keys {
            let Some(value) = variables.expand(template) else { continue };
            if key == "url" { self.url(of, template, value, variables) } else { self.key(key, &value) }
        }
        for &(key, expression) in of.secrets.iter().filter(|(_, expression)| variables.any_of(expression)) {
            // Those of S3 are read by their own names.
            let ours = if key.starts_with("AWS_") { key.to_owned() } else { variable(of.name, key) };
            self.secrets.push((ours, expression));
        }
        for need in of.wants.iter().filter(|need| !variables.has(need)) {
            self.notes.push(format!("{}: {need} is not set", of.name));
        }
        if !of.note.is_empty() {
            self.notes.push(format!("{}: {}", of.name, of.note));
        }
    }

    /// A URL of the user's own: what may be a secret in it stays out, and a path goes before the store's.
    fn url(&mut self, of: &Destination, template: &'static str, url: String, variables: &Variables<'_>) {
        let is_theirs = template.starts_with("${");
        let (mut url, query) = match url.split_once('?').filter(|_| is_theirs) {
            Some((url, _)) => (url.to_owned(), true),
            None => (url, false),
        };
        if let Some((scheme, host)) = url.split_once("://")
            && let Some((_, host)) = host.rsplit_once('@')
        {
            url = format!("{scheme}://{host}");
            let (user, password) = (variable(of.name, "USER"), variable(of.name, "PASSWORD"));
            self.notes.push(format!("{}: a name and a password in a URL belong into {user} and {password}", of.name));
        }
        let path =
            url.split_once("://").and_then(|(_, rest)| Some(rest.split_once('/')?.1.trim_end_matches('/').to_owned()));
        if let Some(path) = path.filter(|path| !path.is_empty())
            && let Some(own) = variables.expand(of.path)
            && !path.ends_with(own.trim_start_matches('/'))
        {
            url = format!("{}{own}", url.trim_end_matches('/'));
        }
        self.key("url", &url);
        if query {
            self.secrets.push((variable(of.name, "URL"), template));
            self.notes.push(format!("{}: what stands behind ? in its URL may be a secret, and is left out", of.name));
        }
    }

    fn key(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.body, "{key} = {}", quoted(value));
    }

    /// Names what is set and has no counterpart.
    fn leave_out(&mut self, variables: &Variables<'_>, made: &BTreeSet<&str>) {
        for (names, why) in NO_COUNTERPART {
            let set: Vec<&str> = names.iter().copied().filter(|name| variables.has(name)).collect();
            if !set.is_empty() {
                self.known = true;
                self.notes.push(format!("no counterpart: {}: {why}", set.join(", ")));
            }
        }
        let vectors: Vec<&str> =
            variables.0.keys().map(String::as_str).filter(|name| name.starts_with("VECTOR_")).collect();
        if !vectors.is_empty() {
            self.notes.push(format!("no counterpart: {}: Vector's own", vectors.join(", ")));
        }
        // The shipper leaves such a destination out too, and says nothing.
        for of in DESTINATIONS.iter().filter(|of| !made.contains(of.name)) {
            let plain = |need: &&&str| !need.contains('=');
            let (set, unset): (Vec<&str>, Vec<&str>) =
                of.needs.iter().filter(plain).partition(|need| variables.has(need));
            if !set.is_empty() && !unset.is_empty() {
                self.known = true;
                let note = format!("no sink {}: {} is set without {}", of.name, set.join(", "), unset.join(", "));
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
            }
        }
    }

    fn finish(self) -> Option<Translation> {
        if !self.known {
            return None;
        }
        let mut toml = "# From the environment of Fly's log shipper.\n".to_owned();
        if !self.secrets.is_empty() {
            toml.push_str(
                "#\n# Secrets stand in no file. In a shell that has the shipper's variables:\n#   fly secrets set",
            );
            for (ours, expression) in &self.secrets {
                let _ = write!(toml, " \\\n#     {ours}=\"{expression}\"");
            }
            toml.push('\n');
        }
        if !self.notes.is_empty() {
            toml.push_str("#\n# Not the same as before:\n");
            self.notes.iter().for_each(|note| toml.push_str(&format!("#   - {note}\n")));
        }
        let _ = write!(toml, "\n{}\n{SPOOL}", self.body);
        Some(Translation { toml, notes: self.notes })
    }
}

fn variable(sink: &str, key: &str) -> String {
    format!("FLEETDRAIN_SINKS__{}__{key}", sink.to_uppercase())
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
