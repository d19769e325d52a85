//! What goes to standard output: a table for a person, or JSON for a program.

use std::io::{IsTerminal, Write};

use serde::Serialize;

/// Where answers go and in which form.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
}

/// A row of a table: what a person sees of a record whose JSON shows everything.
pub(crate) trait Row: Serialize {
    /// The heads of the columns.
    const HEADS: &'static [&'static str];

    /// The cells of this row.
    fn cells(&self) -> Vec<String>;
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// True where a program reads.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// True where a person watches standard error and wants to see progress.
    pub fn shows_progress(&self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }

    /// A list.
    pub fn rows<R: Row>(&self, rows: &[R]) -> anyhow::Result<()> {
        let text = if self.json {
            serde_json::to_string_pretty(rows)? + "\n"
        } else {
            table(R::HEADS, &rows.iter().map(Row::cells).collect::<Vec<_>>())
        };
        self.raw(text.as_bytes())
    }

    /// One record; `text` is what a person sees of it.
    pub fn one(&self, record: &impl Serialize, text: &str) -> anyhow::Result<()> {
        if self.json {
            return self.json(record);
        }
        self.lines(&text.lines().collect::<Vec<_>>())
    }

    /// Lines for a person.
    pub fn lines(&self, lines: &[impl AsRef<str>]) -> anyhow::Result<()> {
        self.raw(lines.iter().map(|line| plain(line.as_ref()) + "\n").collect::<String>().as_bytes())
    }

    /// A record that a person, too, sees as JSON: it has no other form.
    pub fn json(&self, record: &impl Serialize) -> anyhow::Result<()> {
        self.raw((serde_json::to_string_pretty(record)? + "\n").as_bytes())
    }

    /// Bytes as they are.
    pub fn raw(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }
}

/// Columns as wide as their widest cell, two spaces between them.
fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads = heads.iter().map(|head| (*head).to_owned()).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> =
        std::iter::once(&heads).chain(rows).map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Text without characters that would steer a terminal: names and labels come from anyone.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_do_not_trail() {
        let rows = vec![vec!["a".into(), "long one".into()], vec!["longer".into(), String::new()]];
        assert_eq!(table(&["NAME", "WHAT"], &rows), "NAME    WHAT\na       long one\nlonger\n");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
