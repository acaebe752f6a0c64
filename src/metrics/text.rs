//! The Prometheus text format, 0.0.4, as far as the exporter does not write it.

use std::fmt::{Display, Write};

/// The longest label value: a machine's id fits whole, an app's hostile name does not fill the scrape.
pub(super) const LABEL_BYTES_MAX: usize = 128;

/// Appends `# HELP` and `# TYPE`.
pub(super) fn write_head(out: &mut String, name: &str, kind: &str, help: &str) {
    push(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
}

/// Appends one sample. `labels` come in order, their values as they are.
pub(super) fn write_sample(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl Display) {
    out.push_str(name);
    for (index, (label, text)) in labels.iter().enumerate() {
        push(out, format_args!("{}{label}=\"", if index == 0 { '{' } else { ',' }));
        write_label_value(out, text);
        out.push('"');
    }
    let end = if labels.is_empty() { "" } else { "}" };
    push(out, format_args!("{end} {value}\n"));
}

/// Appends a label's value with its escapes, cut to [`LABEL_BYTES_MAX`] bytes of `text`.
///
/// The format has three; any other character stands for itself, control characters too (scraped with Prometheus 2.42).
fn write_label_value(out: &mut String, text: &str) {
    for char in text[..text.floor_char_boundary(LABEL_BYTES_MAX)].chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes any write");
}
