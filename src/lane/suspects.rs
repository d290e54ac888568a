//! Routes that a lane found dead or lossy under its own packets: pure, time is an argument.
//!
//! Probes on links may find such a route well: a relay may drop data and forward probes, a path
//! may flap. A route is therefore avoided for a while, and longer each time.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    flow::Route,
    overlay::candidates::{Candidate, Exclusion},
};

/// First time a dead route is avoided: long enough for three good probes of its links.
const FIRST_HOLD: Duration = Duration::from_secs(20);

/// Longest time: with it, a link that flaps every 10 s for hours moves a lane every ten minutes.
const LONGEST_HOLD: Duration = Duration::from_secs(600);

/// A route that carried packets well for so long after its hold is trusted again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// Most routes remembered: direct and every relay of a large overlay.
const MAX_SUSPECTS: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Record {
    died: Instant,
    until: Instant,
    strikes: u32,
    fault: Fault,
}

/// What was wrong with a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// It lost this share of the packets, in percent.
    Lossy(u8),
    /// Nothing came through.
    Silent,
}

/// The routes a lane's end avoids.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    records: HashMap<Route, Record>,
}

impl Suspects {
    /// Records that `route` was found dead or lossy.
    pub(super) fn failed(&mut self, now: Instant, route: &Route, fault: Fault) {
        self.records.retain(|_, record| now < record.until + FORGIVEN_AFTER);
        let strikes = self.records.get(route).map_or(0, |record| record.strikes);
        if self.records.len() >= MAX_SUSPECTS && strikes == 0 {
            return;
        }
        let hold = (FIRST_HOLD * 2u32.saturating_pow(strikes.min(8))).min(LONGEST_HOLD);
        let record = Record { died: now, until: now + hold, strikes: strikes + 1, fault };
        self.records.insert(route.clone(), record);
    }

    /// Why `route` is to be avoided now, if it is.
    pub(super) fn fault(&self, now: Instant, route: &Route) -> Option<Fault> {
        self.records.get(route).filter(|record| now < record.until).map(|record| record.fault)
    }

    /// The candidates, those that are to be avoided now excluded for it.
    pub(super) fn judge(&self, now: Instant, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        for candidate in candidates.iter_mut().filter(|candidate| candidate.excluded.is_none()) {
            candidate.excluded = self.fault(now, &candidate.route).map(|fault| match fault {
                Fault::Silent => Exclusion::Silent,
                Fault::Lossy(percent) => Exclusion::Lossy { percent },
            });
        }
        candidates
    }

    /// Whether `route` is to be avoided now.
    pub(super) fn avoids(&self, now: Instant, route: &Route) -> bool {
        self.fault(now, route).is_some()
    }

    /// Of `routes`, best first, the one to use instead of `dead`: the best that is not avoided, or
    /// where all are, the least lossy, or else the one that died longest ago.
    pub(super) fn instead_of(&self, now: Instant, dead: &Route, routes: &[Route]) -> Option<Route> {
        let others = || routes.iter().filter(|route| *route != dead);
        let trusted = others().find(|route| !self.avoids(now, route));
        let least =
            || others().min_by_key(|route| self.records.get(route).map(|r| (r.fault, r.died)));
        trusted.or_else(least).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(relay: &str) -> Route {
        Route::Via(relay.parse().unwrap())
    }

    #[test]
    fn a_dead_route_is_avoided_longer_each_time() {
        let (mut suspects, mut now) = (Suspects::default(), Instant::now());
        let mut holds = Vec::new();
        for _ in 0..8 {
            suspects.failed(now, &Route::Direct, Fault::Silent);
            let until = suspects.records[&Route::Direct].until;
            assert!(suspects.avoids(until - Duration::from_millis(1), &Route::Direct));
            assert!(!suspects.avoids(until, &Route::Direct));
            holds.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(holds, [20, 40, 80, 160, 320, 600, 600, 600]);
    }

    #[test]
    fn the_best_trusted_route_replaces_a_dead_one() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let routes = [Route::Direct, via("utah"), via("mediaone")];
        suspects.failed(now, &Route::Direct, Fault::Silent);
        assert_eq!(suspects.instead_of(now, &Route::Direct, &routes), Some(via("utah")));
        suspects.failed(now, &via("utah"), Fault::Silent);
        assert_eq!(suspects.instead_of(now, &via("utah"), &routes), Some(via("mediaone")));
    }

    #[test]
    fn where_all_routes_are_dead_the_one_that_died_first_is_tried_again() {
        let (mut suspects, t0) = (Suspects::default(), Instant::now());
        let routes = [Route::Direct, via("utah"), via("mediaone")];
        for (i, route) in routes.iter().enumerate() {
            suspects.failed(t0 + Duration::from_millis(i as u64), route, Fault::Silent);
        }
        let now = t0 + Duration::from_secs(1);
        assert_eq!(suspects.instead_of(now, &via("mediaone"), &routes), Some(Route::Direct));
        assert_eq!(suspects.instead_of(now, &Route::Direct, &routes[..1]), None);
    }

    #[test]
    fn a_lossy_route_is_better_than_a_silent_one() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let routes = [Route::Direct, via("utah"), via("mediaone")];
        suspects.failed(now, &via("utah"), Fault::Silent);
        suspects.failed(now, &via("mediaone"), Fault::Lossy(30));
        suspects.failed(now, &Route::Direct, Fault::Silent);
        assert_eq!(suspects.instead_of(now, &Route::Direct, &routes), Some(via("mediaone")));
    }
}
