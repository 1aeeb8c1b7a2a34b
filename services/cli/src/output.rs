//! What standard output gets: a table for people or one JSON value for programs, never a mixture.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;

/// Its variants have no help of their own, which would make every command's help long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    // One value.
    Json,
    // One value on each line: the rows of a list, or the one value.
    Jsonl,
}

/// What a command has to tell.
pub(crate) trait Show: Serialize {
    /// The same for people, as lines. Text that came from outside goes through [`printable`].
    fn text(&self) -> String;

    /// What `jsonl` has a line for each of: the elements of a list, or the whole.
    fn rows(&self) -> serde_json::Result<Vec<Value>> {
        Ok(match serde_json::to_value(self)? {
            Value::Array(rows) => rows,
            whole => vec![whole],
        })
    }
}

/// Where a command's words go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) quiet: bool,
}

impl Output {
    /// Writes a command's result to standard output.
    pub(crate) fn show(self, result: &impl Show) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Table => result.text(),
            Format::Json => {
                serde_json::to_string_pretty(result).context("failed to write the result as JSON")?
            }
            Format::Jsonl => {
                let rows = result.rows().context("failed to write the result as JSON")?;
                rows.iter().map(|row| format!("{row}\n")).collect()
            }
        };
        if text.is_empty() {
            // No rows, no lines.
            return Ok(());
        }
        write_out(text.trim_end().as_bytes())?;
        write_out(b"\n")
    }

    /// Tells people what happens, on standard error, unless they asked for quiet.
    pub(crate) fn say(self, text: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{}", text.as_ref());
        }
    }

    /// Whether somebody watches, so that progress is worth drawing.
    pub(crate) fn is_watched(self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }
}

/// Writes data to standard output. A reader that went away has read enough: that is no error.
pub(crate) fn write_out(data: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("failed to write to standard output"),
    }
}

/// Lines under a heading, aligned in columns; the heading alone says that there are none.
pub(crate) fn columns<const N: usize>(
    heading: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heading);
    for row in rows {
        table.add_row(row);
    }
    aligned(&table)
}

/// One line for each name and value.
pub(crate) fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for (name, value) in pairs {
        table.add_row([name.to_owned(), value]);
    }
    aligned(&table)
}

/// The table without its margins.
fn aligned(table: &Table) -> String {
    table
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned() + "\n")
        .collect()
}

/// Text from outside, such as an object's key, with control characters shown as escapes: a key must not drive the
/// reader's terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().fold(String::new(), |mut shown, c| {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
        shown
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_margins() {
        let text = columns(["NAME", "TASKS"], [["stress".to_owned(), "5".to_owned()]]);
        assert_eq!(text, "NAME    TASKS\nstress  5\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\nü"), "a\\u{1b}[2J\\nü");
    }
}
