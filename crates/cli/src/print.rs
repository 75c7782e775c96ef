//! Results on standard output: tables for people, JSON and YAML for programs.

use std::io::Write as _;

use anyhow::{Context, Result};
use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    #[value(alias = "short")]
    Table,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// The option `-o` that every command has.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Output {
    /// How results are written
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub(crate) format: Format,
}

impl Output {
    /// Writes a result: the value as JSON or YAML, or the text made for people.
    pub(crate) fn write(self, value: &Value, text: impl FnOnce() -> String) -> Result<()> {
        let text = match self.format {
            Format::Table => text(),
            Format::Json => format!("{}\n", serde_json::to_string_pretty(value)?),
            Format::Yaml => serde_yaml::to_string(value)?,
        };
        to_stdout(&text)
    }
}

/// Writes text to standard output. Unlike `print!`, no panic when the reader has gone, as `head` does.
pub(crate) fn to_stdout(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot write to standard output"),
    }
}

/// A table with left-aligned columns, two blanks between them, and no lines.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_have_no_blanks_at_the_end() {
        let text = table(
            &["NAME", "STATE"],
            [vec!["a-long-name".into(), "x".into()], vec!["b".into(), String::new()]],
        );
        assert_eq!(text, "NAME         STATE\na-long-name  x\nb\n");
    }
}
