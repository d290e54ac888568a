//! How every listing is shown: once, or again and again.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use clap::Args;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    CliError,
    folder::Folder,
    output::{columns, json_line, print, print_json, rows, unread},
};
use crate::text::EscapedLines;

/// People read a figure for about so long; ages are shown in seconds.
const EVERY: Duration = Duration::from_secs(1);

/// What every listing understands.
#[derive(Debug, Clone, Args)]
pub(super) struct Show {
    /// Print facts as JSON; with --watch one document a line
    #[arg(long)]
    json: bool,
    /// Show it again each second, until interrupted
    #[arg(long)]
    watch: bool,
}

impl Show {
    /// As these options say.
    pub(super) fn new(json: bool, watch: bool) -> Self {
        Self { json, watch }
    }

    /// Shows what the node in `folder` answers to this question.
    pub(super) async fn answer<T: Serialize + DeserializeOwned>(
        &self,
        folder: &Folder,
        question: &str,
        text: impl Fn(&T, Option<usize>) -> String,
    ) -> Result<(), CliError> {
        let client = folder.client();
        self.run(async || Ok(client.get::<T>(question).await?), text).await
    }

    /// Shows the facts that `read` gets, by `text`, which fits them into the columns of a terminal.
    pub(super) async fn run<T: Serialize>(
        &self,
        read: impl AsyncFn() -> Result<T, CliError>,
        text: impl Fn(&T, Option<usize>) -> String,
    ) -> Result<(), CliError> {
        if self.watch {
            return tokio::select! {
                done = self.repeat(read, text) => done,
                // Without the signal's handler the system ends the process.
                Ok(()) = tokio::signal::ctrl_c() => Ok(()),
                () = unread() => Ok(()),
            };
        }
        let facts = read().await?;
        if self.json { print_json(&facts) } else { print(text(&facts, columns())) }
    }

    async fn repeat<T: Serialize>(
        &self,
        read: impl AsyncFn() -> Result<T, CliError>,
        text: impl Fn(&T, Option<usize>) -> String,
    ) -> Result<(), CliError> {
        let screen = !self.json && io::stdout().is_terminal();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let facts = read().await?;
            let shown = match (self.json, screen) {
                (true, _) => json_line(&facts)? + "\n",
                (_, true) => redrawn(&frame(&text(&facts, columns()), columns(), rows())),
                (_, false) => format!("{}\n\n", EscapedLines(text(&facts, None))),
            };
            if !put(&shown)? {
                return Ok(());
            }
        }
    }
}

/// Writes `text` and says whether somebody still reads.
fn put(text: &str) -> Result<bool, CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true).map_err(CliError::Output),
    }
}

/// The lines that a terminal of this size shows. Its last row stays free, as a line there would scroll.
fn frame(text: &str, columns: Option<usize>, rows: Option<usize>) -> Vec<String> {
    let columns = columns.unwrap_or(usize::MAX).max(1);
    let cut = |line: &str| {
        let cells: Vec<char> = line.chars().collect();
        let pieces = cells.chunks(columns).map(|piece| piece.iter().collect());
        if cells.is_empty() { vec![String::new()] } else { pieces.collect::<Vec<String>>() }
    };
    let text = EscapedLines(text).to_string();
    let mut lines: Vec<String> = text.lines().flat_map(cut).collect();
    let room = rows.unwrap_or(usize::MAX).saturating_sub(1).max(1);
    if lines.len() > room {
        let hidden = lines.len() + 1 - room;
        lines.truncate(room - 1);
        lines.push(format!("… {hidden} more lines").chars().take(columns).collect());
    }
    lines
}

/// The lines in the place of those before them: from the upper left corner on, each cleared to its end, and
/// nothing below.
fn redrawn(lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\x1b[K\r\n")).collect();
    format!("\x1b[H{lines}\x1b[J")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_never_scrolls_the_terminal() {
        let text = "a\n\nlong line\nb\nc\nd";
        assert_eq!(frame(text, None, None), ["a", "", "long line", "b", "c", "d"]);
        assert_eq!(frame(text, Some(5), Some(9)), ["a", "", "long ", "line", "b", "c", "d"]);
        assert_eq!(frame(text, Some(20), Some(4)), ["a", "", "… 4 more lines"]);
        for (columns, rows) in [(1, 1), (20, 5), (1, 100), (200, 2)] {
            let lines = frame(text, Some(columns), Some(rows));
            assert!(lines.len() < rows.max(2), "{lines:?}");
            assert!(lines.iter().all(|line| line.chars().count() <= columns), "{lines:?}");
        }
    }

    #[test]
    fn a_frame_has_no_control_characters_but_its_own() {
        assert_eq!(frame("a\u{1b}[2Jb", None, None), [r"a\u{1b}[2Jb"]);
        assert_eq!(redrawn(&["a".to_owned()]), "\x1b[Ha\x1b[K\r\n\x1b[J");
    }
}
