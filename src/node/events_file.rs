//! The time line on disk, `events.jsonl`: what happened in the last day is there after a restart.
//!
//! Events are appended as lines of JSON. A line that a crash cut off is skipped. A file that has grown is written
//! anew, with what is still kept.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    events::{Events, Page, Query, Record},
    identity,
};

/// Between two writes. What happened in the last second before a crash may be missing.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// The file is written anew beyond this size: all that is kept has about 1 MB.
const MAX_FILE: u64 = 4 << 20;

/// The time line of a running node, and its file.
pub(crate) struct EventsFile {
    path: PathBuf,
    events: Arc<Events>,
    /// The number of the last event in the file.
    written: u64,
}

impl EventsFile {
    /// Reads the file at `path` into `events`. What cannot be read is no reason not to start.
    pub(crate) fn open(path: PathBuf, events: Arc<Events>) -> Self {
        match fs::read(&path) {
            Ok(bytes) => events.restore(records(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, "the events of earlier runs cannot be read"),
        }
        let mut file = Self { path, events, written: 0 };
        // Those of an earlier process are numbered as before only if nothing has happened yet.
        file.save_with(Self::write_anew);
        file
    }

    /// Removes the file at `path`: events are not kept on disk any more.
    pub(crate) fn remove(path: &Path) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the events of earlier runs are still on disk");
            }
            _ => {}
        }
    }

    /// Writes what happens; never ends.
    pub(crate) async fn run(&mut self) {
        loop {
            let news = Query { since: Some(self.written), ..Query::default() };
            self.events.news(&news).await;
            self.save();
            sleep(WRITE_EVERY).await;
        }
    }

    /// Writes what is not written yet.
    pub(crate) fn save(&mut self) {
        let big = fs::metadata(&self.path).is_ok_and(|file| file.len() > MAX_FILE);
        self.save_with(if big { Self::write_anew } else { Self::append });
    }

    fn save_with(&mut self, write: fn(&Self) -> io::Result<u64>) {
        match write(self) {
            Ok(written) => self.written = written,
            Err(error) => tracing::warn!(%error, "the events could not be written down"),
        }
    }

    fn append(&self) -> io::Result<u64> {
        let page = self.events.read(&Query { since: Some(self.written), ..Query::default() });
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&self.path)?.write_all(&lines(&page)?)?;
        Ok(page.next)
    }

    fn write_anew(&self) -> io::Result<u64> {
        let page = self.events.read(&Query::default());
        identity::write(&self.path, &lines(&page)?)?;
        Ok(page.next)
    }
}

fn lines(page: &Page) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for record in &page.events {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// The events in a file; a line that is none is skipped.
fn records(bytes: &[u8]) -> Vec<Record> {
    let lines = bytes.split(|byte| *byte == b'\n');
    let mut records: Vec<Record> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        // Beyond that a number in JSON is not exact.
        .filter(|record: &Record| record.id < 1 << 53)
        .collect();
    // Two processes that ran at once, or a file that somebody changed.
    records.sort_by_key(|record| record.id);
    records.dedup_by_key(|record| record.id);
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Event, KEPT};

    fn up(name: &str) -> Event {
        Event::LinkUp { peer: name.parse().unwrap() }
    }

    fn names(events: &Events) -> Vec<(u64, String)> {
        let page = events.read(&Query::default());
        page.events.iter().map(|record| (record.id, record.event.to_string())).collect()
    }

    #[test]
    fn events_are_there_after_a_restart_and_a_damaged_line_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let run = |name: &str| {
            let events = Arc::<Events>::default();
            let mut file = EventsFile::open(path.clone(), events.clone());
            events.record(up(name));
            file.save();
            file.save();
            names(&events)
        };
        assert_eq!(run("a"), [(1, "the link to a is up".to_owned())]);
        let mut text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        text.push_str("{\"id\":2,\"at");
        fs::write(&path, text).unwrap();
        let after = run("b");
        assert_eq!(after.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
        assert!(after[1].1.contains("to b"));
        fs::write(&path, [0xff; 100]).unwrap();
        assert_eq!(run("c").len(), 1);
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &fs::metadata(&path).unwrap().permissions(),
            );
            assert_eq!(mode & 0o777, 0o600, "destinations are in it");
        }
    }

    #[test]
    fn the_file_stays_small_whatever_happens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let events = Arc::<Events>::default();
        let mut file = EventsFile::open(path.clone(), events.clone());
        let mut largest = 0;
        // 100,000 events, about 6 MB in all.
        for _ in 0..100 {
            (0..1000).for_each(|_| events.record(up("a-node-with-a-long-name-0123456789")));
            file.save();
            largest = largest.max(fs::metadata(&path).unwrap().len());
        }
        assert!(largest > MAX_FILE / 2 && largest < MAX_FILE + 200_000, "{largest}");
        assert_eq!(records(&fs::read(&path).unwrap()).last().unwrap().id, 100_000);
        let restarted = Arc::<Events>::default();
        EventsFile::open(path.clone(), restarted.clone());
        assert_eq!((names(&restarted).len(), restarted.last()), (KEPT, 100_000));
        assert!(fs::metadata(&path).unwrap().len() < 200_000, "written anew");
    }
}
