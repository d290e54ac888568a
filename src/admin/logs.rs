//! The last lines of the log, in memory: a node's log may go to a terminal that is closed, to the journal, or
//! to a file that only somebody else knows.

#[cfg(feature = "cli")]
use std::time::{SystemTime, UNIX_EPOCH};
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};

use super::query::{self, Part};
#[cfg(feature = "cli")]
use crate::text::cleaned;

/// Lines kept, and bytes of their texts: an evening of a node at `info`, and 1 MB at most.
#[cfg(feature = "cli")]
const MAX_LINES: usize = 2000;
#[cfg(feature = "cli")]
const MAX_BYTES: usize = 512 << 10;

/// Bytes kept of one line. Longer ones have text of others in them.
#[cfg(feature = "cli")]
const MAX_LINE: usize = 4096;

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogLine {
    /// Its number: 1 is the first since the node started.
    pub(crate) id: u64,
    /// When it was written, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub(crate) level: String,
    /// The line without its time.
    pub(crate) text: String,
}

/// The answer to `GET /logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPage {
    /// The lines, oldest first.
    pub(crate) lines: Vec<LogLine>,
    /// How many after the one asked for are no longer kept.
    pub(crate) dropped: u64,
    /// What to ask for next.
    pub(crate) next: u64,
}

/// The levels, from the gravest on.
pub(crate) const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Which lines are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    part: Part,
    /// The least grave level, by its place in [`LEVELS`].
    level: usize,
}

/// The last lines of the log.
#[derive(Debug)]
pub(crate) struct LogLines {
    kept: Mutex<Kept>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<LogLine>,
    #[cfg(feature = "cli")]
    bytes: usize,
    last: u64,
}

impl Default for LogLines {
    fn default() -> Self {
        Self { kept: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl LogLines {
    /// Adds a line; old ones make room.
    #[cfg(feature = "cli")]
    pub(crate) fn push(&self, level: &str, text: &str) {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        let last = self.kept().push(at_ms, level, text);
        self.last.send_replace(last);
    }

    /// The lines that are wanted, after waiting for some if there are none yet.
    pub(super) async fn read(&self, wanted: &Wanted) -> LogPage {
        let mut last = self.last.subscribe();
        let news = async {
            loop {
                last.mark_unchanged();
                let page = self.kept().read(wanted);
                if !page.lines.is_empty() || page.dropped > 0 || last.changed().await.is_err() {
                    return page;
                }
            }
        };
        match timeout(wanted.part.wait, news).await {
            Ok(page) => page,
            Err(_) => self.kept().read(wanted),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    #[cfg(feature = "cli")]
    fn push(&mut self, at_ms: u64, level: &str, text: &str) -> u64 {
        self.last += 1;
        let text = cleaned(text, MAX_LINE);
        self.bytes += text.len();
        self.lines.push_back(LogLine { id: self.last, at_ms, level: level.to_owned(), text });
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.text.len();
        }
        self.last
    }

    fn read(&self, wanted: &Wanted) -> LogPage {
        // A number of an earlier process of this node.
        let since = wanted.part.since.filter(|since| *since <= self.last);
        let after = since.unwrap_or(0);
        let levels = &LEVELS[..=wanted.level];
        let fits = |line: &&LogLine| line.id > after && levels.contains(&line.level.as_str());
        let mut lines: Vec<LogLine> = self.lines.iter().filter(fits).cloned().collect();
        if let (None, Some(limit)) = (since, wanted.part.limit) {
            drop(lines.drain(..lines.len().saturating_sub(limit)));
        }
        let first = self.lines.front().map_or(self.last + 1, |line| line.id);
        let dropped = since.map_or(0, |since| first.saturating_sub(since + 1));
        LogPage { lines, dropped, next: self.last }
    }
}

/// Reads the question.
///
/// # Errors
/// A sentence that says what to write instead.
pub(super) fn read(text: &str) -> Result<Wanted, String> {
    let mut level = LEVELS.len() - 1;
    let part = query::part(text, "level", |name, value| {
        let is_level = name == "level";
        if is_level {
            let found = LEVELS.iter().position(|level| *level == value);
            level = found.ok_or_else(|| {
                format!("{value:?} is no level; write one of {}", LEVELS.join(", "))
            })?;
        }
        Ok(is_level)
    })?;
    Ok(Wanted { part, level })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::LONGEST_WAIT;

    fn wanted(text: &str) -> Wanted {
        read(text).unwrap()
    }

    #[test]
    fn the_last_lines_are_kept_and_a_reader_learns_what_it_missed() {
        let mut kept = Kept::default();
        for n in 0..MAX_LINES + 7 {
            kept.push(0, if n % 2 == 0 { "info" } else { "warn" }, "x");
        }
        let page = kept.read(&wanted("since=0"));
        assert_eq!((page.lines.len(), page.dropped), (MAX_LINES, 7));
        assert_eq!(kept.read(&wanted(&format!("since={}", page.next))).dropped, 0);
        assert_eq!(kept.read(&wanted("level=warn")).lines.len(), MAX_LINES / 2);
        let last = kept.read(&wanted("limit=3"));
        assert_eq!(last.lines.iter().map(|line| line.id).collect::<Vec<_>>(), [2005, 2006, 2007]);
        // A flood of long lines, cut within a character.
        let long = format!("x{}", "ü".repeat(5000));
        for _ in 0..1000 {
            kept.push(0, "info", &long);
        }
        assert!(kept.bytes <= MAX_BYTES && kept.lines.len() < 200);
        assert!(kept.lines.iter().all(|line| line.text.len() <= MAX_LINE));
        assert_eq!(kept.read(&wanted("since=999999")).lines.len(), kept.lines.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_waits_for_lines_of_its_level_and_not_for_ever() {
        let lines = std::sync::Arc::new(LogLines::default());
        let asked = wanted("since=0&level=warn&wait=4");
        let reader = {
            let lines = lines.clone();
            tokio::spawn(async move { lines.read(&asked).await })
        };
        tokio::task::yield_now().await;
        lines.push("info", "a");
        tokio::task::yield_now().await;
        lines.push("warn", "b");
        let page = reader.await.unwrap();
        assert_eq!((page.lines.len(), page.lines[0].text.as_str(), page.next), (1, "b", 2));
        assert!(lines.read(&wanted("since=2&wait=9")).await.lines.is_empty());
    }

    #[test]
    fn nonsense_is_answered_with_what_to_write() {
        for (text, expected) in
            [("since=x", "digits"), ("level=loud", "error, warn"), ("a=b", "since, limit")]
        {
            assert!(read(text).unwrap_err().contains(expected), "{text}");
        }
        assert_eq!(wanted("wait=99").part.wait, LONGEST_WAIT);
    }
}
