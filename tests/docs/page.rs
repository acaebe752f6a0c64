//! A page of the docs and its blocks.

use std::{fs, path::PathBuf};

/// A page: its text and the blocks in it.
pub(crate) struct Page {
    /// Its path from the project's root.
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) blocks: Vec<Block>,
    /// The first line of an indented block, if there is one.
    pub(crate) indented: Option<String>,
}

/// A fenced block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Page and line.
    pub(crate) place: String,
    pub(crate) language: String,
    marks: Vec<String>,
    /// The paragraph before it: what its reader is told to do.
    pub(crate) lead: String,
    pub(crate) text: String,
}

impl Block {
    pub(crate) fn has(&self, mark: &str) -> bool {
        self.marks.iter().any(|found| found == mark)
    }

    /// The file that it is.
    pub(crate) fn file(&self) -> Option<&str> {
        self.marks.iter().map(String::as_str).find(|mark| mark.contains('.'))
    }

    /// Its lines, but for blank ones and comments.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
    }

    /// Whether its reader is told to end the drain that runs, before anything of it.
    pub(crate) fn ends_the_drain(&self) -> bool {
        self.lead.contains("Ctrl-C the drain")
    }
}

pub(crate) fn repo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(repo().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// README.md and everything in docs/.
pub(crate) fn pages() -> Vec<Page> {
    let mut names = vec!["README.md".to_owned()];
    for entry in fs::read_dir(repo().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    names.into_iter().map(parse).collect()
}

fn parse(name: String) -> Page {
    let text = read(&name);
    let (mut blocks, mut open, mut indented, mut before) = (Vec::<Block>::new(), false, None, "");
    let lines: Vec<&str> = text.lines().collect();
    for (&line, number) in lines.iter().zip(1..) {
        match line.trim_start().strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                let mut words = info.split_whitespace().map(str::to_owned);
                let language = words.next().unwrap_or_default();
                let place = format!("{name}:{number}");
                let lead = paragraph(&lines[..number - 1]);
                blocks.push(Block { place, language, marks: words.collect(), lead, text: String::new() });
                open = true;
            }
            None if open => {
                let block = &mut blocks.last_mut().unwrap().text;
                block.push_str(line);
                block.push('\n');
            }
            // Four blanks behind an empty line; more are within a list.
            None if line.starts_with("    ") && !line.starts_with("     ") && before.is_empty() => {
                indented = Some(format!("line {number}: {line}"));
            }
            None => {}
        }
        before = line;
    }
    assert!(!open, "{name}: the last block has no end");
    Page { name, text, blocks, indented }
}

/// The paragraph that `lines` end with; empty behind another block.
fn paragraph(lines: &[&str]) -> String {
    let lines = lines.iter().rev().skip_while(|line| line.trim().is_empty());
    let mut lines: Vec<&str> =
        lines.copied().take_while(|line| !line.trim().is_empty() && !line.trim_start().starts_with("```")).collect();
    lines.reverse();
    lines.join(" ")
}
