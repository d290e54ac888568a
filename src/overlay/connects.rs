//! How long exits take to connect to destinations, as the flows of this entry see it (HotOS 2001, section 3.1:
//! passive observation). Pure.
//!
//! The connect time of a flow is the time from its OPEN to the exit's answer, less the lane's round trip: the
//! exit's look-up of the name and its TCP handshake with the destination. The means forget like those that
//! applications post ([`posted`](super::posted)), but sooner. An exit that lies or a client that opens many
//! destinations can only make the hint `app:connect` rank worse.
//!
//! A client that gives up before the exit answers leaves no value, however long it waited.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{linkstate::MAX_NODES, means::Means};
use crate::{
    flow::{Host, RefusalKind},
    identity::NodeName,
};

/// A failure counts as long as an exit tries to connect. So an exit that fails at once never looks near, and
/// one that cannot reach a destination comes after one that connects.
pub const FAILED: Duration = Duration::from_secs(10);

/// One bad value keeps an exit away from a destination for 8 min at most.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// Exits with totals of their own: as many as an overlay has nodes. The names of later ones, which come when
/// members leave and others join, are counted as `other`.
const MAX_EXITS: usize = MAX_NODES;

/// The connect times that an entry has seen, of each destination by each exit.
#[derive(Debug)]
pub struct Connects {
    means: Means<(Host, NodeName)>,
    totals: BTreeMap<String, ConnectTotals>,
}

/// The connects of one exit since the node started, of all destinations.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ConnectTotals {
    /// Those that succeeded.
    pub connected: u64,
    /// What these took together, in seconds, each at most 10 s.
    pub seconds: f64,
    /// Destinations that were unreachable for the exit.
    pub unreachable: u64,
    /// Destinations, or the exit, that did not answer in time.
    pub timed_out: u64,
}

impl Default for Connects {
    fn default() -> Self {
        Self { means: Means::new(HALF_LIFE), totals: BTreeMap::new() }
    }
}

impl Connects {
    /// The exit answered that it is connected, `answered` after it was asked over a lane with the round-trip
    /// time `rtt`.
    pub fn connected(
        &mut self,
        now: Instant,
        (host, exit): (&Host, &NodeName),
        answered: Duration,
        rtt: Duration,
    ) {
        let took = answered.saturating_sub(rtt).min(FAILED);
        self.means.add(now, (host.clone(), exit.clone()), took.as_secs_f64());
        let totals = self.totals_of(exit);
        totals.connected += 1;
        totals.seconds += took.as_secs_f64();
    }

    /// The exit does not connect. Counts only if the exit's way to the destination failed: a destination that
    /// refuses has answered, and other refusals say nothing of that way.
    pub fn refused(&mut self, now: Instant, (host, exit): (&Host, &NodeName), kind: RefusalKind) {
        match kind {
            RefusalKind::Unreachable => self.totals_of(exit).unreachable += 1,
            RefusalKind::TimedOut => self.totals_of(exit).timed_out += 1,
            _ => return,
        }
        self.means.add(now, (host.clone(), exit.clone()), FAILED.as_secs_f64());
    }

    fn totals_of(&mut self, exit: &NodeName) -> &mut ConnectTotals {
        let has_room = self.totals.len() < MAX_EXITS || self.totals.contains_key(exit.as_str());
        let name = if has_room { exit.as_str() } else { "other" };
        self.totals.entry(name.to_owned()).or_default()
    }

    /// How long the exit takes to connect there, at most 10 s; `None`: nothing is known of the last
    /// minutes.
    #[must_use]
    pub fn time(&self, now: Instant, (host, exit): (&Host, &NodeName)) -> Option<Duration> {
        self.means.mean(now, &(host.clone(), exit.clone())).map(Duration::from_secs_f64)
    }

    /// The totals of each exit.
    #[must_use]
    pub fn totals(&self) -> Vec<(String, ConnectTotals)> {
        self.totals.iter().map(|(exit, totals)| (exit.clone(), *totals)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::means::MAX_VALUES, *};

    const RTT: Duration = Duration::from_millis(60);

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    fn exit(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    #[test]
    fn the_connect_time_leaves_the_round_trip_of_the_lane_out() {
        let (mut connects, now) = (Connects::default(), Instant::now());
        let (site, mit) = (host("a.test"), exit("mit"));
        assert_eq!(connects.time(now, (&site, &mit)), None);
        connects.connected(now, (&site, &mit), Duration::from_millis(85), RTT);
        assert_eq!(connects.time(now, (&site, &mit)), Some(Duration::from_millis(25)));
        assert_eq!(connects.time(now, (&site, &exit("utah"))), None);
        assert_eq!(connects.time(now, (&host("b.test"), &mit)), None);
        // An estimate of the round trip that is too large, as after a reroute, is no negative time.
        let fast = host("fast.test");
        connects.connected(now, (&fast, &mit), RTT / 2, RTT);
        assert_eq!(connects.time(now, (&fast, &mit)), Some(Duration::ZERO));
        let later = now + 8 * HALF_LIFE;
        assert_eq!(connects.time(later, (&site, &mit)), None, "it is soft state");
    }

    #[test]
    fn a_failure_at_once_is_never_a_fast_connect() {
        let (mut connects, now) = (Connects::default(), Instant::now());
        let (site, refuses, slow) = (host("a.test"), exit("refuses"), exit("slow"));
        connects.refused(now, (&site, &refuses), RefusalKind::Unreachable);
        connects.connected(now, (&site, &slow), Duration::from_secs(3), RTT);
        let time = |connects: &Connects, exit| connects.time(now, (&site, exit)).unwrap();
        assert!(time(&connects, &slow) < time(&connects, &refuses));
        // No time is longer than a failure counts, be the exit's answer as late as it may.
        connects.connected(now, (&host("b.test"), &slow), Duration::MAX, Duration::ZERO);
        assert_eq!(connects.time(now, (&host("b.test"), &slow)), Some(FAILED));
        // What works again soon counts less than what always worked, and more than what never does.
        connects.connected(now, (&site, &refuses), RTT, RTT);
        assert_eq!(time(&connects, &refuses), FAILED / 2);
    }

    #[test]
    fn only_a_failed_way_to_the_destination_counts_as_slow() {
        use RefusalKind::*;
        let counts = |kind| {
            let (mut connects, now) = (Connects::default(), Instant::now());
            let (site, mit) = (host("a.test"), exit("mit"));
            connects.refused(now, (&site, &mit), kind);
            connects.time(now, (&site, &mit)) == Some(FAILED)
        };
        assert!([Unreachable, TimedOut].into_iter().all(counts));
        let others = [
            Policy,
            NameNotFound,
            ConnectionRefused,
            NoExit,
            ExitUnreachable,
            Overloaded,
            Protocol,
            NotAnExit,
        ];
        assert!(!others.into_iter().any(counts));
    }

    #[test]
    fn an_exits_connects_are_counted_whatever_the_destination() {
        let (mut connects, now, mit) = (Connects::default(), Instant::now(), exit("mit"));
        for (site, answered) in [("a.test", 2), ("b.test", 4)] {
            connects.connected(now, (&host(site), &mit), answered * RTT, RTT);
        }
        for kind in [RefusalKind::Unreachable, RefusalKind::TimedOut, RefusalKind::Policy] {
            connects.refused(now, (&host("c.test"), &mit), kind);
        }
        let seconds = (4 * RTT).as_secs_f64();
        let expected = ConnectTotals { connected: 2, seconds, unreachable: 1, timed_out: 1 };
        assert_eq!(connects.totals(), [("mit".to_owned(), expected)]);
    }

    #[test]
    fn more_exits_than_have_room_are_counted_together() {
        let (mut connects, now, site) = (Connects::default(), Instant::now(), host("a.test"));
        for n in 0..MAX_EXITS + 5 {
            connects.connected(now, (&site, &exit(&format!("exit-{n}"))), 2 * RTT, RTT);
        }
        let totals = connects.totals();
        assert_eq!(totals.len(), MAX_EXITS + 1);
        let other = totals.iter().find(|(exit, _)| exit == "other").unwrap();
        assert_eq!(other.1.connected, 5);
    }

    #[test]
    fn destinations_by_the_million_fill_no_more_than_the_cap() {
        let (mut connects, start) = (Connects::default(), Instant::now());
        let (own, mit) = (host("own.test"), exit("mit"));
        for n in 0..4 * MAX_VALUES {
            let now = start + Duration::from_millis(n as u64);
            connects.connected(now, (&host(&format!("h{n}.test")), &mit), RTT * 2, RTT);
            connects.connected(now, (&own, &mit), RTT * 2, RTT);
        }
        assert_eq!(connects.means.len(), MAX_VALUES);
        let now = start + Duration::from_secs(5);
        assert_eq!(connects.time(now, (&own, &mit)), Some(RTT), "what is in use stays");
        assert_eq!(connects.time(now, (&host("h0.test"), &mit)), None);
    }
}
