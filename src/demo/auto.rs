//! `demo --auto`: what happens when, who downloads meanwhile, and what came of it.
//!
//! The script is data. Two downloads of the same object are compared: one by way of the overlay, the other
//! held to the direct path by a rule, as a connection without an overlay is.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{
    client::Client,
    commands::Command,
    paths::{PathId, Place},
    site::{HELD, HOSTS},
    stage::HEAVY,
    text::mbits,
};

/// Connections through the overlay: one download, and streams with a line each second.
const CONNECTIONS: usize = 12;

/// What is downloaded: more than the paths carry in the time of the script at its slowest.
const ENDLESS: &str = "/big?mb=4096";

/// How long the script waits for the first bytes of all connections. One that has none then counts as lost.
const OPEN_WITHIN: Duration = Duration::from_secs(20);

/// A stream of one line each second.
const STREAM: &str = "/slow";

/// Rates are means over this time: a stall of 0.2 s is seen as a notch.
const SAMPLE: Duration = Duration::from_millis(200);

/// Samples kept: more than a half of any screen shows.
const SAMPLES: usize = 300;

/// Something that happens by itself.
#[derive(Debug)]
struct Step {
    /// When, in beats since the start.
    beat: u32,
    caption: &'static str,
    command: Option<Command>,
}

/// The script. Its last step is the end.
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
        step(29, "The path in use is cut again.", Some(Command::CutInUse)),
        step(33, "Everything is healed.", Some(Command::HealAll)),
        step(37, "This was the demo.", None),
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
    caption: &'static str,
    connections: Vec<Connection>,
    /// Through the overlay, and held to the direct path.
    traces: [Trace; 2],
    held: Connection,
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
    /// Connections that ended before they should.
    pub(super) lost: usize,
    longest: Duration,
}

impl Auto {
    /// Opens the connections; a beat is the unit of the script's times.
    pub(super) fn start(client: Client, now: Instant, beat: Duration) -> Self {
        let download = Connection::open(client, HOSTS[0], ENDLESS, Duration::ZERO);
        let streams = (1..CONNECTIONS)
            .map(|_| Connection::open(client, HOSTS[0], STREAM, Duration::from_secs(1)));
        Self {
            opened: now,
            start: None,
            beat,
            steps: script(),
            caption: "Connections are opened.",
            connections: std::iter::once(download).chain(streams).collect(),
            traces: [Trace::new(now), Trace::new(now)],
            held: Connection::open(client, HELD, ENDLESS, Duration::ZERO),
            cut: 0,
            killed: 0,
            ended: false,
        }
    }

    /// The next step, if it is due: its caption, and what it does.
    pub(super) fn due(&mut self, now: Instant) -> Option<(&'static str, Option<Command>)> {
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
        self.caption = step.caption;
        self.ended = self.steps.is_empty();
        Some((step.caption, step.command))
    }

    /// Whether the last step has been.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes in what has arrived by `now`.
    pub(super) fn look(&mut self, now: Instant) {
        let overlay = self.connections.first().map_or(0, Connection::bytes);
        let arrived = [overlay, self.held.bytes()];
        for (trace, bytes) in self.traces.iter_mut().zip(arrived) {
            trace.take(now, bytes);
        }
        let mut all = self.connections.iter().chain([&self.held]);
        let late = now.saturating_duration_since(self.opened) > OPEN_WITHIN;
        if self.start.is_none() && (late || all.all(|open| open.bytes() > 0)) {
            self.start = Some(now);
        }
    }

    /// What happens now, in a sentence.
    pub(super) fn caption(&self) -> &'static str {
        self.caption
    }

    /// The rates of the two downloads in bits per second, oldest first, each with its title.
    pub(super) fn graphs(&self) -> [(String, Vec<u64>); 2] {
        let [overlay, held] = &self.traces;
        [("Through the overlay", overlay), ("Without it: the direct path only", held)]
            .map(|(title, trace)| (format!("{title}: {}", mbits(trace.now())), trace.rates()))
    }

    /// The same in a line.
    pub(super) fn rates(&self) -> String {
        let [overlay, held] = &self.traces;
        let (overlay, held) = (mbits(overlay.now()), mbits(held.now()));
        format!("the download through the overlay: {overlay}; without it: {held}")
    }

    /// What came of it so far.
    pub(super) fn summary(&self, now: Instant) -> Summary {
        let longest = self.connections.iter().map(|open| open.meter().longest_by(now)).max();
        Summary {
            cut: self.cut,
            killed: self.killed,
            connections: self.connections.len(),
            lost: self.connections.iter().filter(|open| open.is_lost()).count(),
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

/// A request whose answer does not end. Dropping it ends it.
#[derive(Debug)]
struct Connection {
    meter: Arc<Mutex<Meter>>,
    task: JoinHandle<()>,
}

impl Connection {
    /// Asks for `path`; `usual` is the time between two pieces of the answer.
    fn open(client: Client, host: &'static str, path: &'static str, usual: Duration) -> Self {
        let meter = Arc::new(Mutex::new(Meter { usual, ..Meter::default() }));
        let seen = meter.clone();
        let progress = move |bytes| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), bytes);
        };
        let task = tokio::spawn(async move {
            if let Err(error) = client.download(host, path, progress).await {
                tracing::debug!(%error, host, path, "a connection of the demo ended");
            }
        });
        Self { meter, task }
    }

    /// Whether it has ended, though its answer does not, or never began.
    fn is_lost(&self) -> bool {
        self.task.is_finished() || self.bytes() == 0
    }

    fn bytes(&self) -> u64 {
        self.meter().bytes
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What has arrived, and how long it paused.
#[derive(Debug, Default)]
struct Meter {
    usual: Duration,
    bytes: u64,
    last: Option<Instant>,
    /// The longest pause between two pieces, beyond the usual one.
    longest: Duration,
}

impl Meter {
    fn take(&mut self, now: Instant, bytes: u64) {
        self.longest = self.longest_by(now);
        self.last = Some(now);
        self.bytes = bytes;
    }

    /// The longest pause, also one that lasts at `now`.
    fn longest_by(&self, now: Instant) -> Duration {
        let pause = self.last.map(|last| now.saturating_duration_since(last));
        self.longest.max(pause.unwrap_or_default().saturating_sub(self.usual))
    }
}

/// The rate of a download over time.
#[derive(Debug)]
struct Trace {
    last: (Instant, u64),
    rates: VecDeque<u64>,
}

impl Trace {
    fn new(now: Instant) -> Self {
        Self { last: (now, 0), rates: VecDeque::new() }
    }

    fn take(&mut self, now: Instant, bytes: u64) {
        let (at, before) = self.last;
        let span = now.saturating_duration_since(at);
        if span < SAMPLE {
            return;
        }
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.last = (now, bytes);
        if self.rates.len() == SAMPLES {
            self.rates.pop_front();
        }
        self.rates.push_back(bytes.saturating_sub(before) * 8 * 1000 / millis);
    }

    /// The mean of the last second.
    fn now(&self) -> u64 {
        let last = self.rates.iter().rev().take(5);
        last.clone().sum::<u64>() / (last.count() as u64).max(1)
    }

    fn rates(&self) -> Vec<u64> {
        self.rates.iter().copied().collect()
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

    #[test]
    fn a_stall_is_a_notch_in_the_trace_and_a_pause_of_the_meter() {
        let start = Instant::now();
        let (mut trace, mut meter) = (Trace::new(start), Meter::default());
        for tick in 1..=SAMPLES as u64 + 10 {
            let now = start + SAMPLE * u32::try_from(tick).unwrap();
            let bytes = if tick == 200 { 199 * 250_000 } else { tick * 250_000 };
            trace.take(now, bytes);
            if tick != 200 {
                meter.take(now, bytes);
            }
        }
        let rates = trace.rates();
        assert_eq!(rates.len(), SAMPLES);
        assert_eq!((rates.iter().min(), rates.iter().max()), (Some(&0), Some(&20_000_000)));
        assert_eq!((trace.now(), meter.longest), (10_000_000, SAMPLE * 2));
        let end = meter.last.unwrap() + SAMPLE * 3;
        assert_eq!(meter.longest_by(end), SAMPLE * 3, "a pause that lasts counts");
    }
}
