//! Runs a page's blocks, and compares what they print with what the page shows.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
};

use serde_json::Value;

use crate::page::{Block, Page, repo};

/// What there is beside the drain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Programs {
    /// bash, curl, openssl, python3.
    OfEverySystem,
    /// Those of [`NEEDED`] too.
    All,
}

/// Marks of blocks that need a program which not everybody has.
const NEEDED: [&str; 2] = ["prometheus", "chromium"];

/// The shell functions and the order of events that pages are run by.
const PRELUDE: &str = include_str!("prelude.sh");
const BINARY: &str = env!("CARGO_BIN_EXE_fleetdrain");
/// What of the sources a page may use.
const SOURCES: [&str; 4] = ["dashboards", "deploy", "loadtest", "scripts"];
/// Where a page installs things.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/bin", "/etc/fleetdrain", "/etc/systemd/system"];

/// The directory of the programs under test, `loadtest` among them: cargo builds that beside us only if it is told to.
fn programs() -> &'static Path {
    static BUILT: Once = Once::new();
    let dir = Path::new(BINARY).parent().unwrap();
    BUILT.call_once(|| {
        if !dir.join("loadtest").exists() {
            let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
            // As everything is built that is tested, so that nothing is built twice.
            cargo.args(["build", "--workspace", "--all-features", "--bin", "loadtest"]);
            cargo.arg("--target-dir").arg(dir.parent().unwrap());
            assert!(cargo.current_dir(repo()).status().unwrap().success(), "loadtest cannot be built");
        }
    });
    dir
}

/// A port that nobody listens on, and nobody is given who asks for any (Linux gives those from 32768 on): a page restarts its drain
/// on the ports that it names, so these must be known beforehand.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 40) as u16 * 250;
    loop {
        let port = first + NEXT.fetch_add(1, Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A page's own directory and ports.
struct Place {
    dir: PathBuf,
    ports: [u16; 4],
}

impl Place {
    fn new(page: &Page, programs: Programs) -> Self {
        let name = page.name.replace('/', "-");
        let suffix = if programs == Programs::All { "-all" } else { "" };
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("docs-{name}{suffix}"));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join(".blocks")).unwrap();
        // As if it were the root of the sources, or a release that was unpacked.
        for name in SOURCES {
            symlink(repo().join(name), dir.join(name)).unwrap();
        }
        symlink(BINARY, dir.join("fleetdrain")).unwrap();
        for name in SYSTEM_DIRS {
            fs::create_dir_all(dir.join(name.trim_start_matches('/'))).unwrap();
        }
        Self { dir, ports: [(); 4].map(|()| port()) }
    }

    /// `text` with what a page may not really use replaced: ports, names and directories.
    fn translate(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let control = format!("http://127.0.0.1:{}", self.ports[1]);
        for (from, to) in
            [("https://drain.example", &*control), ("fleetdrain.internal", "127.0.0.1"), ("[::]:", "0.0.0.0:")]
        {
            text = text.replace(from, to);
        }
        let [ingest, control, prometheus, page] = self.ports;
        for (from, port) in
            [(":8080", ingest), (":8081", control), (":9090", prometheus), (":9091", prometheus), (":3000", page)]
        {
            text = text.replace(from, &format!(":{port}"));
        }
        text = text.replace("http.server 3000", &format!("http.server {page}"));
        for dir in ["/var/lib/fleetdrain", "/var/log/fleet", "/data"].iter().chain(&SYSTEM_DIRS) {
            text = text.replace(dir, &format!("{}{dir}", self.dir.display()));
        }
        text
    }

    fn block(&self, number: usize, ending: &str) -> PathBuf {
        self.dir.join(format!(".blocks/{number}.{ending}"))
    }
}

/// Runs `page`; the error says which block failed and how.
pub(crate) fn page(page: &Page, programs: Programs) -> Result<(), String> {
    let place = Place::new(page, programs);
    let is_run = |block: &&Block| {
        !block.has("skip") && (programs == Programs::All || !NEEDED.iter().any(|program| block.has(program)))
    };
    let blocks: Vec<&Block> = page.blocks.iter().filter(is_run).collect();
    let mut script = format!("{PRELUDE}\n");
    for (number, block) in blocks.iter().enumerate() {
        if let Some(step) = step(&place, number, block, programs) {
            let end = if block.ends_the_drain() { "end_the_drain\n" } else { "" };
            script.push_str(&format!("begin '{}'\n{end}{step}\n", block.place));
        }
    }
    script.push_str("finish\n");
    fs::write(place.dir.join(".blocks/run.sh"), script).unwrap();
    execute(&place)?;
    for (number, block) in blocks.iter().enumerate() {
        let is_output = block.language == "json" || (block.language == "text" && block.has("output"));
        if is_output && block.file().is_none() {
            let number = number.checked_sub(1).ok_or_else(|| format!("{}: the output of which block?", block.place))?;
            let printed = fs::read_to_string(place.block(number, "out"))
                .map_err(|error| format!("{}: the block before it prints nothing: {error}", block.place))?;
            compare(block, &place.translate(&block.text), &printed)?;
        }
    }
    Ok(())
}

/// The line of the script that runs `block`; none for what is only read.
fn step(place: &Place, number: usize, block: &Block, programs: Programs) -> Option<String> {
    let text = place.translate(&block.text);
    if let Some(file) = block.file() {
        // At its turn, and not before: a page may write a file twice.
        let source = place.block(number, "file");
        fs::write(&source, &text).unwrap();
        let validate = block.language == "toml" && file.starts_with("fleetdrain");
        let check = match &*block.language {
            "toml" if validate => format!("fleetdrain validate --config {file} >/dev/null"),
            "toml" => {
                let parsed = toml::from_str::<toml::Table>(&text);
                assert!(parsed.is_ok(), "{}: {}", block.place, parsed.unwrap_err());
                return Some(format!("cp {} {file}", source.display()));
            }
            "yaml" if file.starts_with("prometheus") && programs == Programs::All => {
                format!("promtool check config {file} >/dev/null")
            }
            _ => "true".to_owned(),
        };
        return Some(format!("cp {} {file}\n{check}", source.display()));
    }
    let (source, out) = (place.block(number, "txt"), place.block(number, "out"));
    fs::write(&source, &text).unwrap();
    let (source, out) = (source.display(), out.display());
    match &*block.language {
        "sh" if block.has("background") => {
            let kind = ["quiet", "service"].into_iter().find(|kind| block.has(kind)).unwrap_or("loud");
            Some(format!("in_background {source} {out} {kind}"))
        }
        "sh" if block.has("retry") => Some(format!("again_until_it_works {source} >{out}")),
        "sh" => Some(format!("source {source} >{out}")),
        "python" => Some(format!("python3 {source} >{out}")),
        "toml" => Some(format!("fleetdrain validate --config {source} >/dev/null")),
        "promql" if block.has("prometheus") => Some(format!("query_each {source} {}", place.ports[2])),
        _ => None,
    }
}

fn execute(place: &Place) -> Result<(), String> {
    let bin = programs().display();
    let mut bash = Command::new("timeout");
    // SIGTERM, upon which the script ends what it has started.
    bash.args(["--kill-after=10", "180", "bash", ".blocks/run.sh"]).current_dir(&place.dir);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLEETDRAIN_") || name == "FLY_APP_NAME" {
            bash.env_remove(name);
        }
    }
    bash.env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap_or_default()));
    bash.env("INGEST_PORT", place.ports[0].to_string()).env("CONTROL_PORT", place.ports[1].to_string());
    let output = bash.output().unwrap();
    if output.status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(place.dir.join(".blocks/serve.log")).unwrap_or_default();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{said}\n{}; the directory is {}; the drain said:\n{log}", output.status, place.dir.display()))
}

/// Compares what a block prints with what the page shows.
fn compare(block: &Block, shown: &str, printed: &str) -> Result<(), String> {
    let is_same = if block.language == "json" {
        let values =
            |text: &str| serde_json::Deserializer::from_str(text).into_iter::<Value>().collect::<Result<Vec<_>, _>>();
        let (shown, printed) = (values(shown), values(printed));
        match (shown, printed) {
            (Ok(shown), Ok(printed)) => {
                shown.len() == printed.len()
                    && shown.iter().zip(&printed).all(|(shown, printed)| same_value(shown, printed))
            }
            _ => false,
        }
    } else {
        same_text(shown.trim_end(), printed.trim_end())
    };
    if is_same { Ok(()) } else { Err(format!("{}: shown is\n{shown}\nand printed is\n{printed}", block.place)) }
}

fn same_value(shown: &Value, printed: &Value) -> bool {
    match (shown, printed) {
        (Value::String(shown), printed) if shown == "…" => !printed.is_object() && !printed.is_array(),
        (Value::String(shown), Value::String(printed)) => same_text(shown, printed),
        (Value::Array(shown), Value::Array(printed)) => {
            shown.len() == printed.len() && shown.iter().zip(printed).all(|(shown, printed)| same_value(shown, printed))
        }
        (Value::Object(shown), Value::Object(printed)) => {
            let is_part = shown.contains_key("…");
            let mut shown = shown.iter().filter(|(key, _)| *key != "…");
            (is_part || shown.clone().count() == printed.len())
                && shown.all(|(key, value)| printed.get(key).is_some_and(|printed| same_value(value, printed)))
        }
        (shown, printed) => shown == printed,
    }
}

/// Whether `printed` is `shown`, in which `…` stands for any text.
fn same_text(shown: &str, printed: &str) -> bool {
    let pattern: Vec<String> = shown.split('…').map(regex::escape).collect();
    regex::Regex::new(&format!("(?s)^{}$", pattern.join(".*"))).unwrap().is_match(printed)
}

/// The help of a command; empty if there is none.
pub(crate) fn help(command: &str) -> String {
    let output = Command::new(BINARY).args([command, "--help"]).output().unwrap();
    if output.status.success() { String::from_utf8(output.stdout).unwrap() } else { String::new() }
}
