//! Output: lines, JSON, and tables with aligned columns, without colour.

use std::{
    fmt::{self, Display},
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use tokio::time::interval;

use super::CliError;
use crate::text::{Escaped, EscapedLines, is_unsafe};

/// Prints a line to stdout, without control characters but line ends and tabs. A reader that has gone away, as `head` does, is no error.
pub(super) fn print(line: impl Display) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", EscapedLines(line)).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(CliError::Output),
    }
}

/// How often a command that waits looks whether somebody still reads: a person notices no such delay.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits until nobody reads stdout: its pipe was closed, as `head` does, or its terminal is gone.
pub(super) async fn unread() {
    let mut looks = interval(LOOK_EVERY);
    loop {
        looks.tick().await;
        let out = io::stdout();
        // The system tells of these two without being asked.
        let mut asked = [PollFd::new(&out, PollFlags::empty())];
        let told = poll(&mut asked, Some(&Timespec::default())).is_ok();
        if told && asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return;
        }
    }
}

/// Prints facts as one JSON document.
pub(super) fn print_json(facts: &impl Serialize) -> Result<(), CliError> {
    let text =
        serde_json::to_string_pretty(facts).map_err(|error| CliError::Output(error.into()))?;
    print(json_escaped(&text))
}

/// Facts as one line of JSON.
pub(super) fn json_line(facts: &impl Serialize) -> Result<String, CliError> {
    let text = serde_json::to_string(facts).map_err(|error| CliError::Output(error.into()))?;
    Ok(json_escaped(&text))
}

/// JSON allows DEL, C1 controls and direction marks as they are; a terminal obeys them. All of them
/// have one unit of UTF-16, and stand only inside strings.
pub(super) fn json_escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_unsafe(c) && c != '\n' {
            // Writing to a string does not fail.
            let _ = fmt::Write::write_fmt(&mut escaped, format_args!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Prints a note to stderr. Nothing depends on notes, so failures are ignored.
pub(super) fn note(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{}", EscapedLines(line));
}

/// A cell of a table; `-` for what there is not.
pub(super) fn or_dash(cell: Option<impl Display>) -> String {
    cell.map_or_else(|| "-".to_owned(), |cell| cell.to_string())
}

/// A table under construction.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub(super) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| Escaped(cell).to_string()).collect());
    }

    /// The table in so many columns of a terminal, without a line end after the last row; `None`: as wide as
    /// it needs to be.
    ///
    /// A table that is too wide becomes a list: each row begins with its first cell, and the others follow
    /// it with their heads.
    pub(super) fn within(&self, columns: Option<usize>) -> String {
        let aligned = self.aligned();
        match columns {
            Some(columns) if aligned.lines().any(|line| line.chars().count() > columns) => {
                self.listed(columns)
            }
            _ => aligned,
        }
    }

    /// The rows as a list of facts.
    fn listed(&self, columns: usize) -> String {
        let Some((heads, rows)) = self.rows.split_first() else { return String::new() };
        let row = |row: &Vec<String>| {
            let facts = heads.iter().zip(row).skip(1).filter(|(_, cell)| !cell.is_empty());
            let facts = facts.map(|(head, cell)| format!("{} {cell}", head.trim()));
            let first = row.first().cloned().unwrap_or_default();
            [vec![first], filled(facts, columns)].concat().join("\n")
        };
        rows.iter().map(row).collect::<Vec<_>>().join("\n")
    }

    /// The table with aligned columns.
    fn aligned(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// The columns of the terminal that shows standard output; `None`: it is no terminal.
pub(super) fn columns() -> Option<usize> {
    let size = io::stdout().is_terminal().then(crossterm::terminal::size)?.ok()?;
    Some(usize::from(size.0)).filter(|columns| *columns > 0)
}

/// The rows of the terminal that shows standard output; `None`: it is no terminal.
pub(super) fn rows() -> Option<usize> {
    let size = io::stdout().is_terminal().then(crossterm::terminal::size)?.ok()?;
    Some(usize::from(size.1)).filter(|rows| *rows > 0)
}

/// Facts one after the other in indented lines of at most `columns`, as far as each of them fits.
fn filled(facts: impl Iterator<Item = String>, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for fact in facts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 2 + fact.chars().count() <= columns => {
                line.push_str("  ");
                line.push_str(&fact);
            }
            _ => lines.extend(wrapped(&fact, Some(columns), "  ", "    ")),
        }
    }
    lines
}

/// `text` in lines of at most `columns`, broken at spaces, the first behind `first` and the others behind
/// `rest`; `None`: in one line. A longer word has a line of its own.
pub(super) fn wrapped(text: &str, columns: Option<usize>, first: &str, rest: &str) -> Vec<String> {
    let columns = columns.unwrap_or(usize::MAX);
    let (mut lines, mut line, mut words) = (Vec::new(), first.to_owned(), 0);
    for word in text.split(' ') {
        if words > 0 && line.chars().count() + 1 + word.chars().count() > columns {
            lines.push(std::mem::replace(&mut line, rest.to_owned()));
            words = 0;
        }
        if words > 0 {
            line.push(' ');
        }
        line.push_str(word);
        words += 1;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_trailing_space() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["longer-name".to_owned(), "1".to_owned()]);
        table.row(["ü".to_owned(), String::new()]);
        assert_eq!(table.within(None), "NAME         N\nlonger-name  1\nü");
        assert_eq!(table.within(Some(14)), table.within(None));
    }

    #[test]
    fn a_table_that_is_too_wide_becomes_a_list_that_fits() {
        let mut table = Table::new(&["PEER", "STATE", "ROUTE", "RTT"]);
        let route = "via utah (2 reroutes, last: silent for 130 ms, 12s ago)";
        table.row(["mit".into(), "up".into(), route.into(), "12.0 ms".into()]);
        table.row(["utah".into(), "down".into(), "direct".into(), "-".into()]);
        let expected = "mit
  STATE up
  ROUTE via utah (2 reroutes, last:
    silent for 130 ms, 12s ago)
  RTT 12.0 ms
utah
  STATE down  ROUTE direct  RTT -";
        let list = table.within(Some(36));
        assert_eq!(list, expected);
        assert!(list.lines().all(|line| line.chars().count() <= 36), "{list}");
    }

    #[test]
    fn json_for_a_terminal_means_the_same() {
        let facts = serde_json::json!({ "name": "a\u{1b}\u{9b}31m\u{7f}\u{202e}\nü" });
        let text = json_escaped(&serde_json::to_string_pretty(&facts).unwrap());
        assert!(!text.replace('\n', "").contains(is_unsafe), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), facts);
    }

    #[test]
    fn a_listing_cannot_drive_the_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.row(["a\u{1b}[2Jb".to_owned()]);
        assert_eq!(table.within(None), "NAME\na\\u{1b}[2Jb");
    }
}
