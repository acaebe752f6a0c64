//! Text for a terminal: escapes, colours, tables.

use std::{borrow::Cow, fmt::Write, io};

use anstream::{AutoStream, ColorChoice};

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Colour {
    #[default]
    Auto,
    Always,
    Never,
}

impl Colour {
    /// Whether standard output is coloured: `auto` asks whether it is a terminal, and `NO_COLOR`.
    pub(super) fn is_on(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => AutoStream::choice(&io::stdout()) != ColorChoice::Never,
        }
    }
}

/// Whether a terminal would obey, not show, this character: controls but the tab, and those that reorder text.
fn is_unsafe(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// Makes control characters visible: a log line must not move the cursor, retitle the window or paste commands.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if is_unsafe(c) && (c as u32) < 0x80 => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if is_unsafe(c) => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// As [`escape`], but so that JSON stays the same JSON: such characters stand in strings only.
pub(super) fn escape_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_unsafe(c) {
            let _ = write!(out, "\\u{:04x}", c as u32);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// What a column is wide at most: a longer cell takes its own row's room only.
const WIDTH_MAX: usize = 48;

/// Columns as wide as their widest cell; those of numbers are aligned to the right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// Adds a row; its cells may hold anything.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(|cell| escape(&cell).into_owned()).collect());
    }

    pub(super) fn render(&self) -> Vec<u8> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let widths: Vec<usize> =
            (0..columns).map(|c| cells(c).map(|cell| width(cell)).max().unwrap_or(0).min(WIDTH_MAX)).collect();
        let right: Vec<bool> = (0..columns).map(|c| cells(c).skip(1).all(|cell| is_number(cell))).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column].saturating_sub(width(cell)));
                let (before, after) = if right[column] { (pad.as_str(), "") } else { ("", pad.as_str()) };
                let _ = write!(line, "{before}{cell}{after}  ");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out.into_bytes()
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

fn is_number(cell: &str) -> bool {
    !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'.' | b'-'))
}

/// `1234567` as `1,234,567`; other JSON numbers as they are.
pub(super) fn thousands(number: &serde_json::Number) -> String {
    let text = number.to_string();
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + text.len() / 3);
    for (index, digit) in text.chars().enumerate() {
        if index > 0 && (text.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_reaches_a_terminal() {
        let nasty = "a\x1b[31m\u{9b}2J\x07\r\n\t\u{202e}é\x7f";
        assert_eq!(escape(nasty), "a\\x1b[31m\\u{9b}2J\\x07\\r\\n\t\\u{202e}é\\x7f");
        assert_eq!(escape("plain\ttext"), "plain\ttext");
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let json = "{\"a\":\"\u{9b}\u{202e}\x7f\"}";
        let escaped = escape_json(json);
        assert!(!escaped.contains(is_unsafe));
        let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(same(&escaped), same(json));
    }

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["a".into(), "1,000".into()]);
        table.row(["long".into(), "7".into()]);
        assert_eq!(String::from_utf8(table.render()).unwrap(), "NAME      N\na     1,000\nlong      7\n");
    }

    #[test]
    fn thousands_are_set_apart() {
        let shown: Vec<_> = [0u64, 999, 1000, 1_234_567].iter().map(|&n| thousands(&n.into())).collect();
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }
}
