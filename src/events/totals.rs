//! Counters of events since the node started, for metrics. PURE.

use std::collections::BTreeMap;

use super::{Event, RerouteKind};
use crate::flow::RefusalKind;

/// Upper bounds of the histogram of stalls, in milliseconds: from one round trip across a continent to
/// the time after which people give up.
pub const STALL_BOUNDS: [u32; 10] = [50, 100, 200, 300, 500, 1_000, 2_000, 5_000, 10_000, 30_000];

/// Pairs of exit and route with a counter of their own; what comes later is counted as `other`. An
/// overlay of 256 nodes with four exits has about as many.
const MAX_PAIRS: usize = 1024;

/// What flows through one exit by one route carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Flows that opened on it.
    pub flows: u64,
    /// Bytes from applications.
    pub sent: u64,
    /// Bytes to applications.
    pub received: u64,
}

/// Counters since the node started.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    reroutes: [u64; RerouteKind::ALL.len()],
    /// Stalls up to each bound, and longer ones; not cumulative.
    stalls: [u64; STALL_BOUNDS.len() + 1],
    stalls_ms: f64,
    refused: BTreeMap<&'static str, u64>,
    used: BTreeMap<(String, String), Used>,
}

impl Totals {
    /// Counts an event.
    pub fn count(&mut self, event: &Event) {
        match event {
            Event::Rerouted { reason, stall_ms, .. } => {
                self.reroutes[*reason as usize] += 1;
                if let Some(ms) = stall_ms {
                    let place = STALL_BOUNDS.iter().position(|bound| *ms <= f64::from(*bound));
                    self.stalls[place.unwrap_or(STALL_BOUNDS.len())] += 1;
                    self.stalls_ms += ms;
                }
            }
            Event::FlowRefused { reason, .. } => {
                *self.refused.entry(RefusalKind::name(*reason)).or_default() += 1;
            }
            Event::FlowOpened { exit, route, .. } => {
                let route = route.as_ref().map(ToString::to_string);
                self.used(exit.as_str(), route.as_deref()).flows += 1;
            }
            _ => {}
        }
    }

    /// Counts bytes that a flow through `exit` carried on `route`; `None`: it leaves at this node.
    pub fn carried(&mut self, exit: &str, route: Option<&str>, (sent, received): (u64, u64)) {
        let used = self.used(exit, route);
        used.sent += sent;
        used.received += received;
    }

    fn used(&mut self, exit: &str, route: Option<&str>) -> &mut Used {
        let mut pair = (exit.to_owned(), route.unwrap_or("local").to_owned());
        if self.used.len() >= MAX_PAIRS && !self.used.contains_key(&pair) {
            pair = ("other".to_owned(), "other".to_owned());
        }
        self.used.entry(pair).or_default()
    }

    /// Reroutes by reason.
    pub fn reroutes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RerouteKind::ALL.iter().map(|kind| kind.name()).zip(self.reroutes)
    }

    /// Stalls not longer than each of [`STALL_BOUNDS`], then all; and their sum in seconds.
    #[must_use]
    pub fn stalls(&self) -> ([u64; STALL_BOUNDS.len() + 1], f64) {
        let mut sum = 0;
        let cumulative = self.stalls.map(|count| {
            sum += count;
            sum
        });
        (cumulative, self.stalls_ms / 1e3)
    }

    /// Refused flows by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refused.iter().map(|(reason, count)| (*reason, *count))
    }

    /// What flows carried, by exit and route.
    pub fn by_route(&self) -> impl Iterator<Item = (&str, &str, Used)> {
        self.used.iter().map(|((exit, route), used)| (exit.as_str(), route.as_str(), *used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{events::LaneSide, flow::Route};

    fn rerouted(stall_ms: Option<f64>) -> Event {
        Event::Rerouted {
            lane: 1,
            end: LaneSide::Exit,
            peer: "a".parse().unwrap(),
            from: Route::Direct,
            to: Route::Direct,
            reason: RerouteKind::Silent,
            why: String::new(),
            stall_ms,
        }
    }

    #[test]
    fn stalls_are_counted_up_to_each_bound() {
        let mut totals = Totals::default();
        for stall in [Some(50.0), Some(51.0), Some(250.0), Some(90_000.0), None] {
            totals.count(&rerouted(stall));
        }
        let (counts, seconds) = totals.stalls();
        assert_eq!(counts, [1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4]);
        assert!((seconds - 90.351).abs() < 1e-9, "{seconds}");
        assert_eq!(totals.reroutes().next(), Some(("silent", 5)));
    }

    #[test]
    fn more_pairs_than_have_room_are_counted_together() {
        let mut totals = Totals::default();
        for n in 0..MAX_PAIRS + 5 {
            totals.carried(&format!("exit-{n}"), None, (1, 2));
        }
        assert_eq!(totals.by_route().count(), MAX_PAIRS + 1);
        let other = totals.by_route().find(|(exit, ..)| *exit == "other").unwrap();
        assert_eq!(other.2, Used { flows: 0, sent: 5, received: 10 });
    }
}
