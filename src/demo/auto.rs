//! `demo --auto`: what happens when, who downloads meanwhile, and what came of it.
//!
//! The script is data. Two downloads of the same object are compared: one by way of the overlay, the other
//! held to the direct path by a rule, as a connection without an overlay is.

use std::{
    collections::VecDeque,
    future::ready,
    time::{Duration, Instant},
};

use super::{
    client::Client,
    commands::Command,
    pair::{Connection, Pair},
    paths::{PathId, Place},
    site::HOSTS,
    stage::HEAVY,
};

/// Connections through the overlay: one download, and streams with a line each second.
const CONNECTIONS: usize = 12;

/// What is downloaded: more than the paths carry in the time of the script at its slowest.
const ENDLESS: &str = "/big?mb=4096";

/// How long the script waits for the first bytes of all connections. One that has none then counts as lost.
const OPEN_WITHIN: Duration = Duration::from_secs(20);

/// A stream of one line each second.
const STREAM: &str = "/slow";

/// Something that happens by itself.
#[derive(Debug)]
struct Step {
    /// When, in beats since the start.
    beat: u32,
    caption: &'static str,
    command: Option<Command>,
}

/// The script. The last step but one tells what came of it, and the last one ends it.
fn script() -> VecDeque<Step> {
    let step = |beat, caption, command| Step { beat, caption, command };
    [
        step(0, "Twelve connections go from ArosNet to MIT through the overlay.", None),
        // The direct one, as the download without the overlay takes it; the other may have left it.
        step(
            5,
            "The direct path is cut. The overlay takes another one.",
            Some(Command::Cut(PathId::DIRECT)),
        ),
        step(11, "The path in use is cut, too.", Some(Command::CutInUse)),
        step(16, "All paths are healed.", Some(Command::HealAll)),
        step(
            20,
            "The direct path loses 30 % of its packets.",
            Some(Command::Lose(PathId::DIRECT, HEAVY)),
        ),
        step(25, "The node at Utah is killed.", Some(Command::Crash(Place::Utah))),
        step(29, "Everything is healed.", Some(Command::HealAll)),
        step(33, "The path in use is cut again.", Some(Command::CutInUse)),
        step(37, "", None),
        step(43, "This was the demo.", None),
    ]
    .into()
}

/// The demo that plays by itself.
#[derive(Debug)]
pub(super) struct Auto {
    opened: Instant,
    /// When all connections had brought something, or were waited for long enough: the script's time 0.
    start: Option<Instant>,
    beat: Duration,
    steps: VecDeque<Step>,
    caption: String,
    pair: Pair,
    streams: Vec<Connection>,
    cut: usize,
    killed: usize,
    ended: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    cut: usize,
    killed: usize,
    connections: usize,
    /// Connections that ended, though their answers do not.
    pub(super) lost: usize,
    longest: Duration,
}

impl Auto {
    /// Opens the connections; a beat is the unit of the script's times.
    pub(super) fn start(client: Client, now: Instant, beat: Duration) -> Self {
        let stream =
            || Connection::open(client, HOSTS[0], STREAM, Duration::from_secs(1), |_| ready(()));
        Self {
            opened: now,
            start: None,
            beat,
            steps: script(),
            caption: "Connections are opened.".to_owned(),
            pair: Pair::start(client, ENDLESS, now, |_| ready(())),
            streams: (1..CONNECTIONS).map(|_| stream()).collect(),
            cut: 0,
            killed: 0,
            ended: false,
        }
    }

    /// The next step, if it is due: its caption, and what it does.
    pub(super) fn due(&mut self, now: Instant) -> Option<(String, Option<Command>)> {
        let after = self.beat * self.steps.front()?.beat;
        if now.saturating_duration_since(self.start?) < after {
            return None;
        }
        let step = self.steps.pop_front()?;
        match step.command {
            Some(Command::CutInUse | Command::Cut(_)) => self.cut += 1,
            Some(Command::Crash(_)) => self.killed += 1,
            _ => {}
        }
        self.ended = self.steps.is_empty();
        self.caption = match step.caption {
            "" => self.summary(now).to_string(),
            caption => caption.to_owned(),
        };
        Some((self.caption.clone(), step.command))
    }

    /// Whether the last step has been.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes in what has arrived by `now`.
    pub(super) fn look(&mut self, now: Instant) {
        self.pair.look(now);
        let late = now.saturating_duration_since(self.opened) > OPEN_WITHIN;
        let all = self.pair.flows() && self.streams.iter().all(|open| open.bytes() > 0);
        if self.start.is_none() && (late || all) {
            self.start = Some(now);
        }
    }

    /// What happens now, in a sentence.
    pub(super) fn caption(&self) -> &str {
        &self.caption
    }

    /// The two downloads.
    pub(super) fn pair(&self) -> &Pair {
        &self.pair
    }

    fn connections(&self) -> impl Iterator<Item = &Connection> {
        std::iter::once(self.pair.overlay()).chain(&self.streams)
    }

    /// What came of it so far.
    pub(super) fn summary(&self, now: Instant) -> Summary {
        let longest = self.connections().map(|open| open.longest_pause(now)).max();
        Summary {
            cut: self.cut,
            killed: self.killed,
            connections: self.connections().count(),
            lost: self.connections().filter(|open| open.is_lost()).count(),
            longest: longest.unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named = |count: usize, what: &str| {
            format!("{count} {what}{}", if count == 1 { "" } else { "s" })
        };
        write!(
            f,
            "{} cut, {} killed, {}, {} lost, longest pause {:.1} s",
            named(self.cut, "path"),
            named(self.killed, "node"),
            named(self.connections, "connection"),
            self.lost,
            self.longest.as_secs_f64(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_cuts_three_paths_and_kills_a_node_in_order() {
        let steps = script();
        assert!(steps.iter().zip(steps.iter().skip(1)).all(|(a, b)| a.beat < b.beat));
        let cut = |step: &&Step| matches!(step.command, Some(Command::CutInUse | Command::Cut(_)));
        let cuts = steps.iter().filter(cut);
        assert_eq!(cuts.count(), 3);
        let killed = steps.iter().filter(|step| matches!(step.command, Some(Command::Crash(_))));
        assert_eq!(killed.count(), 1);
        assert!(steps.iter().all(|step| step.caption.len() <= 76), "it fits 80 columns");
    }

    #[test]
    fn a_summary_is_one_sentence() {
        let longest = Duration::from_millis(312);
        let summary = Summary { cut: 3, killed: 1, connections: 12, lost: 0, longest };
        let expected = "3 paths cut, 1 node killed, 12 connections, 0 lost, longest pause 0.3 s";
        assert_eq!(summary.to_string(), expected);
    }
}
