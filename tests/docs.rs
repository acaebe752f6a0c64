//! What README.md and docs/ show is the shipped thing: every command and snippet of theirs is run, or checked, here.
//!
//! A document is run from its top to its end as one shell script in a directory of its own, with ports of its own in place of
//! those it names. What a block is follows from its language and the words behind it:
//!
//! | block | what is done |
//! |---|---|
//! | `sh` | run; must exit 0. `fleetdrain serve` is the last of its block and starts the document's drain, which later blocks talk to. It does not start beside another: "Ctrl-C the drain" in the paragraph before a block ends the one that runs |
//! | `sh background` | each line runs in a terminal of its own until the drain is ended; it must print something and not fail; `quiet`: need not print; `service`: goes on to the end |
//! | `sh retry` | run again until it exits 0, at most a minute |
//! | `python` | run by python3 |
//! | `json`, `text output` | what the block before it prints; `…` stands for anything, and as a key for further keys |
//! | any with `FILE.EXT` | written to that file, for the blocks that follow |
//! | `toml`, `toml fleetdrain….toml` | a configuration that `validate` takes; under another name only TOML |
//! | `promql` | names metrics that there are |
//! | `rust` | an example of the crate's docs, where `cargo test --doc` runs it |
//! | `text` | prose or a picture |
//! | `prometheus`, `chromium` behind any | only in the test that has these programs |
//! | `skip` behind any | not run, for a reason in [`SKIPPED`] |

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a panic here is the test's failure report")]

#[path = "docs/page.rs"]
mod page;
#[path = "docs/run.rs"]
mod run;
mod support;

use std::collections::BTreeMap;

use fleetdrain::LogCollector;
use page::{Block, Page, pages, read};
use regex::Regex;
use run::Programs;

/// Blocks that are not run: the document, what the block begins with, and why.
const SKIPPED: &[(&str, &str, &str)] = &[
    ("README.md", "bash scripts/test.sh", "runs this test"),
    (
        "README.md",
        "curl -N 'http://127.0.0.1:8081/api/v1/machines/4d891d77b05118/logs?after=ID'",
        "ID is yours; docs/reading.md resumes by a real one",
    ),
    ("docs/quick-start.md", "git clone", "needs the network, and builds for minutes what is under test here"),
    ("docs/performance.md", "loadtest/targets.sh", "measures for half an hour"),
    ("docs/deploy.md", "fly apps create fleetdrain\n", "needs an account at Fly.io"),
    ("docs/deploy.md", "fly secrets set -a fleetdrain", "needs an account at Fly.io"),
    ("docs/deploy.md", "fly apps create fleetdrain-shipper\n", "needs an account at Fly.io"),
    ("docs/deploy.md", "systemctl daemon-reload", "needs systemd as the first process"),
    ("docs/deploy.md", "docker build", "needs Docker"),
    (
        "docs/deploy.md",
        "scripts/release.sh",
        "builds for minutes; tests/deploy/release.rs runs what comes behind the build",
    ),
    ("docs/performance.md", "target/release/fleetdrain serve", "needs a release build, and measures"),
    ("docs/performance.md", "target/release/loadtest ", "needs a release build, and measures"),
];

#[test]
fn every_command_and_snippet_of_the_docs_runs() {
    run_all(Programs::OfEverySystem);
}

#[test]
#[ignore = "needs prometheus and chromium (Debian packages of these names)"]
fn every_command_and_snippet_runs_beside_prometheus_and_a_browser() {
    run_all(Programs::All);
}

fn run_all(programs: Programs) {
    let failures: Vec<String> = std::thread::scope(|scope| {
        let pages: Vec<_> =
            pages().into_iter().map(|page| scope.spawn(move || run::page(&page, programs).err())).collect();
        pages.into_iter().filter_map(|page| page.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn what_is_skipped_is_little_and_has_a_reason() {
    let mut reasons: BTreeMap<(&str, &str), &str> =
        SKIPPED.iter().map(|(page, begin, reason)| ((*page, *begin), *reason)).collect();
    for page in pages() {
        for block in page.blocks.iter().filter(|block| block.has("skip")) {
            let listed = SKIPPED
                .iter()
                .find(|(name, begin, _)| *name == page.name && block.text.trim_start().starts_with(begin));
            let (name, begin, reason) = listed.unwrap_or_else(|| panic!("{}: no reason in SKIPPED", block.place));
            println!("{} is not run: {reason}", block.place);
            reasons.remove(&(*name, *begin));
        }
    }
    assert!(reasons.is_empty(), "listed, and not there: {reasons:?}");
    assert!(SKIPPED.len() <= 12, "what the docs show is to be run");
}

#[test]
fn every_block_says_what_it_is() {
    for page in pages() {
        assert_eq!(page.indented, None, "{}: an indented block; fence it and say what it is", page.name);
        for block in page.blocks {
            let known =
                ["sh", "python", "json", "text", "toml", "yaml", "html", "promql", "rust", "ini", "conf", "sql"];
            assert!(known.contains(&&*block.language), "{}: {:?} is none of {known:?}", block.place, block.language);
            let needs_name = ["yaml", "html", "ini", "conf"].contains(&&*block.language);
            assert!(!needs_name || block.file().is_some(), "{}: which file is it?", block.place);
        }
    }
}

/// A command that stays in the foreground keeps what is pasted behind it from its shell.
#[test]
fn a_block_that_is_pasted_runs_to_its_end() {
    let serve = Regex::new(r"(fleetdrain|--) serve\b").unwrap();
    for block in blocks_of("sh") {
        let commands: Vec<&str> = block.commands().collect();
        if let Some(at) = commands.iter().position(|line| serve.is_match(line)) {
            assert_eq!(commands[at + 1..], [""; 0], "{}: behind `serve`, which does not come back", block.place);
            assert!(!block.has("background"), "{}: a drain has no mark", block.place);
        }
        // In what a command prints it stands for anything; a shell takes it as it is.
        assert!(!block.text.contains('…'), "{}: … is nothing that can be pasted", block.place);
        if block.has("background") && commands.len() > 1 {
            assert!(
                block.lead.contains("terminal"),
                "{}: say that each line is for a terminal of its own",
                block.place
            );
        }
    }
}

/// What a fence says behind its language is not shown.
#[test]
fn a_file_that_a_command_uses_is_named_to_the_reader() {
    for page in pages() {
        let commands: String =
            page.blocks.iter().filter(|block| block.language == "sh").map(|one| &*one.text).collect();
        for block in &page.blocks {
            if let Some(file) = block.file().filter(|file| commands.contains(file)) {
                assert!(block.lead.contains(&format!("`{file}`")), "{}: it is to be saved as {file}", block.place);
            }
        }
    }
}

#[test]
fn rust_examples_are_the_crates() {
    let lib = read("src/lib.rs");
    for page in pages().iter().filter(|page| page.blocks.iter().any(|block| block.language == "rust")) {
        let included = format!("include_str!(\"../{}\")", page.name);
        assert!(lib.contains(&included), "src/lib.rs does not have {included}: its examples are not run");
    }
}

#[test]
fn queries_name_metrics_that_there_are() {
    let catalogue = read("docs/metrics.md");
    let name = Regex::new(r"\b(?:fleetdrain|process)_[a-z0-9_]+\b").unwrap();
    for block in blocks_of("promql") {
        for found in name.find_iter(&block.text) {
            let family = found.as_str().trim_end_matches("_bucket");
            assert!(catalogue.contains(&format!("| `{family}` |")), "{}: there is no {family}", block.place);
        }
    }
}

/// An expression without what a board puts into it, and what a page puts there.
fn bare(expression: &str) -> String {
    let chosen = Regex::new(r"\{job=~[^}]*\}|\[[^\]]*\]").unwrap();
    chosen.replace_all(expression, "").into_owned()
}

/// Who looks at a board finds the loss as the quick start does.
#[test]
fn the_quick_start_asks_what_a_board_asks() {
    let board: serde_json::Value = serde_json::from_str(&read("dashboards/overview.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let panel = panels.iter().find(|panel| panel["title"] == "Losses by way and reason").expect("the panel");
    let asked: Vec<String> =
        panel["targets"].as_array().unwrap().iter().map(|one| bare(one["expr"].as_str().unwrap())).collect();
    let query = Regex::new(r"'([^']*lines_dropped_total[^']*)'").unwrap();
    let page = read("docs/quick-start.md");
    let shown = bare(&query.captures(&page).expect("a query for losses")[1]);
    assert!(asked.contains(&shown), "{shown} is none of {asked:?}");
}

fn blocks_of(language: &str) -> Vec<Block> {
    pages().into_iter().flat_map(|page| page.blocks).filter(|block| block.language == language).collect()
}

#[test]
fn links_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)#:]+)(#[^)]*)?\)").unwrap();
    for Page { name, text, .. } in pages() {
        let dir = page::repo().join(&name).parent().unwrap().to_owned();
        for found in link.captures_iter(&text) {
            assert!(dir.join(&found[1]).exists(), "{name}: {} is not there", &found[1]);
        }
    }
}

#[test]
fn commands_in_sentences_have_flags_that_there_are() {
    let command = Regex::new(r"`fleetdrain ([a-z]+)( [^`]*)?`").unwrap();
    let flag = Regex::new(r" (--[a-z][a-z-]*|-[a-z])\b").unwrap();
    let mut help: BTreeMap<String, String> = BTreeMap::new();
    for Page { name, text, .. } in pages() {
        for found in command.captures_iter(&text) {
            let help = help.entry(found[1].to_owned()).or_insert_with(|| run::help(&found[1]));
            assert!(!help.is_empty(), "{name}: {} is no command", &found[0]);
            for flag in flag.captures_iter(found.get(2).map_or("", |rest| rest.as_str())) {
                assert!(help.contains(&flag[1]), "{name}: {} has no {}", &found[0], &flag[1]);
            }
        }
    }
}

/// What is charged for a line beside its bytes, in bodies of `lines` lines of `lines / 3` machines, as a fleet's are.
fn memory_beside_a_line(lines: usize) -> f64 {
    let collector = LogCollector::default();
    let record = |line: usize| support::fly_record(&format!("{:014x}", line % (lines / 3)), &"x".repeat(130));
    let body = (0..lines).map(record).collect::<Vec<_>>().join("\n");
    for _ in 0..20 {
        assert_eq!(collector.push(body.clone()).unwrap().received, lines as u64);
    }
    let stats = collector.stats();
    (stats.memory_used_bytes as f64 - 20.0 * body.len() as f64) / stats.lines_received as f64
}

#[test]
fn a_line_costs_the_memory_that_the_sizing_says() {
    let page = read("docs/operations.md");
    let formula = Regex::new(r"history.bytes / \(R × \(B \+ (\d+)\)\)").unwrap();
    let named: f64 = formula.captures(&page).expect("docs/operations.md has the formula")[1].parse().unwrap();
    for lines in [100, 1_000] {
        let measured = memory_beside_a_line(lines);
        assert!(
            (0.75 * named..=1.05 * named).contains(&measured),
            "{measured} bytes in bodies of {lines}, {named} in the docs"
        );
    }
}
