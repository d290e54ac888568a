//! From observations to what is shown: rates, loss, stalls, events. PURE: `now` is an argument.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    facts::{Change, Condition, FlowFact, LaneFact, Observation, PathFact, paths_of},
    paths::PathId,
    text::millis,
    view,
};
use crate::emulator::LossRate;

/// Rates are means over this time: short enough to see a stall, long enough to read the number.
const RATE_OVER: Duration = Duration::from_secs(1);

/// Loss is counted over this time: some hundred packets when a flow is busy.
const LOSS_OVER: Duration = Duration::from_secs(10);

/// A busy flow without a byte for this long has stalled. Half of what people notice.
const STALL: Duration = Duration::from_millis(250);

/// A flow is busy when it carried this much in the last second; a page's tail is not a stall.
const BUSY: u64 = 64 * 1024;

/// Events kept for the screen: more than any screen shows.
const MAX_EVENTS: usize = 100;

/// A path as shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PathView {
    /// Which one.
    pub path: PathId,
    /// What the visitor did to it.
    pub condition: Condition,
    /// Whether the nodes have a link over it.
    pub linked: bool,
    /// The round-trip time the nodes measure.
    pub rtt: Option<Duration>,
    /// The share of packets lost lately; `None` when too few were sent to tell.
    pub lost: Option<LossRate>,
    /// Bits per second, both ways together.
    pub rate: u64,
    /// Whether a lane's route uses it.
    pub in_use: bool,
}

/// A flow as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FlowView {
    /// The facts.
    pub fact: FlowFact,
    /// Bits per second to and from the application.
    pub rate: u64,
    /// For how long it has stood still, if it is stalled.
    pub stalled: Option<Duration>,
}

/// Something that happened, with the time since the demo began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// When.
    pub at: Duration,
    /// What.
    pub text: String,
}

/// All that is shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshot {
    /// Whether each site's node runs.
    pub running: [bool; 4],
    /// The paths, by number.
    pub paths: Vec<PathView>,
    /// The lanes.
    pub lanes: Vec<LaneFact>,
    /// The flows.
    pub flows: Vec<FlowView>,
    /// What happened, oldest first.
    pub events: VecDeque<Event>,
}

/// Compares each observation with those before.
#[derive(Debug)]
pub(super) struct Watch {
    start: Instant,
    paths: Vec<PathMeter>,
    flows: HashMap<String, FlowMeter>,
    last: Option<Observation>,
    snapshot: Snapshot,
    noted: u64,
}

#[derive(Debug)]
struct PathMeter {
    bytes: Window,
    sent: Window,
    lost: Window,
}

#[derive(Debug)]
struct FlowMeter {
    carried: Window,
    total: u64,
    progress: Instant,
    busy: bool,
}

/// A counter's recent values.
#[derive(Debug)]
struct Window {
    span: Duration,
    samples: VecDeque<(Instant, u64)>,
}

impl Watch {
    /// A watch that begins at `start`.
    #[must_use]
    pub(super) fn new(start: Instant) -> Self {
        let meter = |_| PathMeter {
            bytes: Window::new(RATE_OVER),
            sent: Window::new(LOSS_OVER),
            lost: Window::new(LOSS_OVER),
        };
        Self {
            start,
            paths: PathId::all().map(meter).collect(),
            flows: HashMap::new(),
            last: None,
            snapshot: Snapshot::default(),
            noted: 0,
        }
    }

    /// Notes something that happened.
    pub(super) fn note(&mut self, now: Instant, text: impl Into<String>) {
        let events = &mut self.snapshot.events;
        if events.len() == MAX_EVENTS {
            events.pop_front();
        }
        events.push_back(Event { at: now.duration_since(self.start), text: text.into() });
        self.noted += 1;
    }

    /// How many events there have been.
    #[must_use]
    pub(super) fn count(&self) -> u64 {
        self.noted
    }

    /// The events after the first `count`, as far as they are still kept.
    pub(super) fn since(&self, count: u64) -> impl Iterator<Item = &Event> {
        let fresh = usize::try_from(self.noted - count).unwrap_or(usize::MAX);
        self.snapshot.events.iter().skip(self.snapshot.events.len().saturating_sub(fresh))
    }

    /// Takes in what is observed at `now`.
    pub(super) fn observe(&mut self, now: Instant, seen: Observation) {
        for text in self.last.iter().flat_map(|last| changes(last, &seen)).collect::<Vec<_>>() {
            self.note(now, text);
        }
        let flows = seen.flows.iter().map(|flow| self.observe_flow(now, flow)).collect();
        self.flows.retain(|label, _| seen.flows.iter().any(|flow| flow.label == *label));
        let used: Vec<PathId> = seen.lanes.iter().flat_map(|lane| paths_of(&lane.route)).collect();
        let meters = PathId::all().zip(self.paths.iter_mut()).zip(&seen.paths);
        self.snapshot.paths = meters
            .map(|((path, meter), fact)| meter.observe(now, path, fact, used.contains(&path)))
            .collect();
        self.snapshot.flows = flows;
        self.snapshot.running = seen.running;
        self.snapshot.lanes.clone_from(&seen.lanes);
        self.last = Some(seen);
    }

    fn observe_flow(&mut self, now: Instant, fact: &FlowFact) -> FlowView {
        let fresh =
            || FlowMeter { carried: Window::new(RATE_OVER), total: 0, progress: now, busy: false };
        let meter = self.flows.entry(fact.label.clone()).or_insert_with(fresh);
        let ended = meter.observe(now, fact.sent + fact.received);
        let view = FlowView {
            fact: fact.clone(),
            rate: meter.carried.per_second() * 8,
            stalled: meter.stalled(now),
        };
        if let Some(stall) = ended {
            let text = format!("flow {} stood still for {} ms", fact.label, stall.as_millis());
            self.note(now, format!("{text}, then went on"));
        }
        view
    }

    /// What is to be shown.
    #[must_use]
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

/// What the nodes did between two observations.
fn changes(last: &Observation, seen: &Observation) -> Vec<String> {
    let links = PathId::all().zip(last.paths.iter().zip(&seen.paths));
    let links = links.filter(|(_, (before, after))| before.linked != after.linked);
    let links = links.map(|(path, (_, after))| {
        let state = if after.linked { "up: both nodes reach each other" } else { "down" };
        format!("link {path} {state}")
    });
    let routes = seen.lanes.iter().flat_map(|lane| {
        match last.lanes.iter().find(|before| before.lane == lane.lane) {
            Some(before) => reroutes(before, lane),
            None => vec![format!("lane {} to {} open, {}", lane.lane, lane.peer, lane.route)],
        }
    });
    let lost = last.lanes.iter().filter(|b| seen.lanes.iter().all(|lane| lane.lane != b.lane));
    let lost = lost.map(|lane| format!("lane {} to {} closed", lane.lane, lane.peer));
    links.chain(routes).chain(lost).collect()
}

/// What happened to a lane's route: new reroutes, and older ones that packets have followed by now.
fn reroutes(before: &LaneFact, lane: &LaneFact) -> Vec<String> {
    // The history is the end of a longer one; each change's number in that tells which it is.
    let numbered = |lane: &LaneFact| {
        let first = lane.reroutes.saturating_sub(lane.history.len() as u64);
        (first..).zip(lane.history.clone()).collect::<Vec<_>>()
    };
    let old: HashMap<u64, Change> = numbered(before).into_iter().collect();
    let tell = |(number, change): (u64, Change)| match (old.get(&number), change.stall) {
        (None, _) if number >= before.reroutes => {
            Some(format!("lane {} REROUTED: {}", lane.lane, view::change(&change)))
        }
        (Some(Change { stall: None, .. }), Some(stall)) => {
            Some(format!("lane {} goes on {}, stall {}", lane.lane, change.to, millis(stall)))
        }
        _ => None,
    };
    numbered(lane).into_iter().filter_map(tell).collect()
}

impl PathMeter {
    fn observe(&mut self, now: Instant, path: PathId, fact: &PathFact, in_use: bool) -> PathView {
        self.bytes.push(now, fact.traffic.bytes);
        self.sent.push(now, fact.traffic.sent);
        self.lost.push(now, fact.traffic.lost);
        let (sent, lost) = (self.sent.gained(), self.lost.gained());
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        let share = LossRate::from_fraction(lost as f64 / sent.max(1) as f64);
        PathView {
            path,
            condition: fact.condition,
            linked: fact.linked,
            rtt: fact.rtt,
            lost: (sent >= 20).then_some(share),
            rate: self.bytes.per_second() * 8,
            in_use,
        }
    }
}

impl FlowMeter {
    /// Takes in the flow's total; answers with the stall that this progress ended.
    fn observe(&mut self, now: Instant, total: u64) -> Option<Duration> {
        self.carried.push(now, total);
        if total == self.total {
            return None;
        }
        let ended = self.stalled(now);
        self.total = total;
        self.progress = now;
        self.busy = self.carried.gained() >= BUSY;
        ended
    }

    fn stalled(&self, now: Instant) -> Option<Duration> {
        let still = now.duration_since(self.progress);
        (self.busy && still >= STALL).then_some(still)
    }
}

impl Window {
    fn new(span: Duration) -> Self {
        Self { span, samples: VecDeque::new() }
    }

    /// Samples closer than 1/50 of the span replace the newest one, so memory is bounded.
    fn push(&mut self, now: Instant, value: u64) {
        let close = self.samples.len() > 1
            && self
                .samples
                .get(self.samples.len() - 2)
                .is_some_and(|(at, _)| now.duration_since(*at) < self.span / 50);
        if close {
            self.samples.pop_back();
        }
        self.samples.push_back((now, value));
        while self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > self.span) {
            self.samples.pop_front();
        }
    }

    fn gained(&self) -> u64 {
        let (first, last) = (self.samples.front(), self.samples.back());
        first.zip(last).map_or(0, |((_, first), (_, last))| last.saturating_sub(*first))
    }

    /// The mean increase per second.
    fn per_second(&self) -> u64 {
        let (first, last) = (self.samples.front(), self.samples.back());
        let Some(((first, _), (last, _))) = first.zip(last) else { return 0 };
        let millis = u64::try_from(last.duration_since(*first).as_millis()).unwrap_or(u64::MAX);
        // Below a quarter of a second a rate is noise.
        if millis < 250 { 0 } else { self.gained() * 1000 / millis }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
