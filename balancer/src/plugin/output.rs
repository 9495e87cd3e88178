//! How answers are written: text with or without colour, or JSON.

use std::fmt::Write;

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

/// Form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Whether there is colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// None.
    Plain,
    /// By the control sequences of ECMA-48 §8.3.117.
    Coloured,
}

impl Style {
    /// Colour is for terminals, unless `NO_COLOR` is set and not empty (<https://no-color.org>).
    pub(super) fn of(is_terminal: bool, no_colour: bool) -> Self {
        if is_terminal && !no_colour { Self::Coloured } else { Self::Plain }
    }

    /// `text` in the colour of `tone`.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => 0,
            Tone::Good => 32,
            Tone::Bad => 31,
        };
        if self == Self::Plain || code == 0 {
            text.to_owned()
        } else {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        }
    }
}

/// What a piece of text stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// Neither.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Not so.
    Bad,
}

/// The answer to a question.
pub(super) struct Answer {
    value: Value,
    plain: String,
    coloured: String,
    /// Whether all is well.
    pub(super) is_good: bool,
}

impl Answer {
    /// `value` in both forms.
    pub(super) fn of<T: Serialize>(
        value: &T,
        is_good: bool,
        text: impl Fn(Style) -> String,
    ) -> anyhow::Result<Self> {
        let value = serde_json::to_value(value).context("the answer cannot be written as JSON")?;
        Ok(Self { value, plain: text(Style::Plain), coloured: text(Style::Coloured), is_good })
    }

    /// As it is to be written, with a newline at the end.
    pub(super) fn written(&self, format: Format, style: Style) -> String {
        let mut text = match (format, style) {
            (Format::Json, _) => format!("{:#}", self.value),
            (Format::Text, Style::Plain) => self.plain.clone(),
            (Format::Text, Style::Coloured) => self.coloured.clone(),
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }
}

/// Columns under headings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    pub(super) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    /// A row; what is empty is shown as `-`.
    pub(super) fn row<const N: usize>(&mut self, cells: [(String, Tone); N]) {
        let shown =
            |(text, tone): (String, Tone)| (if text.is_empty() { "-".to_owned() } else { text }, tone);
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// The lines. The last column is not padded.
    pub(super) fn text(&self, style: Style) -> String {
        let width = |column: usize| {
            let cells =
                self.rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count());
            cells.chain(self.head.get(column).map(|head| head.len())).max().unwrap_or_default()
        };
        let head = self.head.iter().map(|head| ((*head).to_owned(), Tone::Plain)).collect();
        let mut lines = String::new();
        for row in [&head].into_iter().chain(&self.rows) {
            for (column, (text, tone)) in row.iter().enumerate() {
                lines.push_str(&style.paint(*tone, text));
                if column + 1 < row.len() {
                    let gap = width(column) + 3 - text.chars().count();
                    lines.push_str(&" ".repeat(gap));
                }
            }
            lines.push('\n');
        }
        lines
    }
}

/// A cell without colour.
pub(super) fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

/// A cell that is coloured by whether all is well.
pub(super) fn judged(text: impl Into<String>, is_good: bool) -> (String, Tone) {
    (text.into(), if is_good { Tone::Good } else { Tone::Bad })
}

/// Adds a paragraph with a heading, when there is something to list.
pub(super) fn list(text: &mut String, heading: &str, items: &[String], tone: Tone, style: Style) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{heading}:");
    for item in items {
        let _ = writeln!(text, "  {}", style.paint(tone, item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_with_and_without_colour() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row([plain("a"), judged("served", true)]);
        table.row([plain("longer-ä"), judged("", false)]);
        assert_eq!(
            table.text(Style::Plain),
            "NAME       STATE\n\
             a          served\n\
             longer-ä   -\n"
        );
        assert_eq!(
            table.text(Style::Coloured),
            "NAME       STATE\n\
             a          \u{1b}[32mserved\u{1b}[0m\n\
             longer-ä   \u{1b}[31m-\u{1b}[0m\n"
        );
    }

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        let table = [
            (true, false, Style::Coloured),
            (true, true, Style::Plain),
            (false, false, Style::Plain),
            (false, true, Style::Plain),
        ];
        for (is_terminal, no_colour, want) in table {
            assert_eq!(Style::of(is_terminal, no_colour), want);
        }
    }
}
