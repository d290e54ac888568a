//! What the demo sees of its nodes and paths at one moment. PURE.

use std::{ops::Add, time::Duration};

use super::paths::{PathId, Place};
use crate::{emulator::LossRate, flow::Route};

/// What the visitor has done to a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Condition {
    /// Nothing.
    Whole,
    /// It is cut.
    Cut,
    /// It loses this share of its packets.
    Lossy(LossRate),
}

/// Packets and bytes the emulated Internet has carried, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Traffic {
    /// Packets sent.
    pub sent: u64,
    /// Packets that did not arrive.
    pub lost: u64,
    /// Bytes that arrived.
    pub bytes: u64,
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            lost: self.lost + other.lost,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Everything at one moment.
#[derive(Debug, Clone)]
pub(super) struct Observation {
    /// Whether each site's node runs, in the order of [`Place::ALL`].
    pub running: [bool; 4],
    /// The paths, in the order of their numbers.
    pub paths: Vec<PathFact>,
    /// The entry's lanes.
    pub lanes: Vec<LaneFact>,
    /// The entry's flows.
    pub flows: Vec<FlowFact>,
}

/// A path and the link that uses it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PathFact {
    /// What the visitor did to it.
    pub condition: Condition,
    /// Whether both nodes have a link over it.
    pub linked: bool,
    /// The round-trip time the nodes measure.
    pub rtt: Option<Duration>,
    /// What it carried, both ways together.
    pub traffic: Traffic,
}

/// A lane of the entry.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LaneFact {
    /// Its number.
    pub lane: u32,
    /// The exit.
    pub peer: String,
    /// The route its packets take now.
    pub route: Route,
    /// Its routing hint.
    pub hint: String,
    /// Its round-trip time, end to end.
    pub rtt: Option<Duration>,
    /// How often it changed its route.
    pub reroutes: u64,
    /// The last changes, oldest first.
    pub history: Vec<Change>,
}

/// A change of a lane's route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// The route that was left.
    pub from: String,
    /// The route that was taken.
    pub to: String,
    /// Why.
    pub reason: String,
    /// How long the lane stood still; `None` while it does.
    pub stall: Option<Duration>,
}

/// A flow of the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FlowFact {
    /// Its label.
    pub label: String,
    /// Its destination.
    pub target: String,
    /// The route it takes now.
    pub route: Option<String>,
    /// How often it was rerouted.
    pub reroutes: u64,
    /// The last time of these.
    pub last: Option<Change>,
    /// Bytes from the application.
    pub sent: u64,
    /// Bytes to the application.
    pub received: u64,
}

/// The paths that a route from the entry to the exit uses.
#[must_use]
pub(super) fn paths_of(route: &Route) -> Vec<PathId> {
    match route {
        Route::Direct => vec![PathId::DIRECT],
        Route::Via(relay) => {
            let Some(relay) = Place::find(relay.as_str()) else { return Vec::new() };
            let legs = [(Place::ArosNet, relay), (relay, Place::Mit)];
            legs.into_iter().filter_map(|(a, b)| PathId::between(a, b)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_through_a_relay_uses_two_paths() {
        let via = Route::Via("utah".parse().unwrap());
        let numbers = |route| paths_of(route).into_iter().map(PathId::number).collect::<Vec<_>>();
        assert_eq!(numbers(&Route::Direct), [1]);
        assert_eq!(numbers(&via), [2, 3]);
        assert_eq!(numbers(&Route::Via("berkeley".parse().unwrap())), [0; 0]);
    }
}
