//! Routes that a lane found dead or lossy under its own packets, or that were refused to it: pure,
//! time is an argument.
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
    wire::link::LinkRefusal,
};

/// First time a dead route is avoided: long enough for three good probes of its links.
const FIRST_HOLD: Duration = Duration::from_secs(20);

/// Longest time: with it, a link that flaps every 10 s for hours moves a lane every ten minutes.
const LONGEST_HOLD: Duration = Duration::from_secs(600);

/// A route that carried packets well for so long after its hold is trusted again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// A route that dies again so soon has not worked in between.
const AGAIN: Duration = Duration::from_secs(10);

/// Most routes remembered: direct and every relay of a large overlay.
const MAX_SUSPECTS: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Record {
    died: Instant,
    until: Instant,
    strikes: u32,
    /// It had died a moment before.
    again: bool,
    fault: Fault,
}

/// How probes find a route that the lane itself cannot or does not want to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Its links are up.
    Up,
    /// A link was down and has not yet proved itself.
    Recovering,
    /// A link is down.
    Down,
}

/// What was wrong with a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// It lost this share of the packets, in percent.
    Lossy(u8),
    /// Nothing came through.
    Silent,
    /// Its relay does not forward for this lane: by its policy, its role, or for a limit.
    Refused,
}

impl Fault {
    /// What is wrong with a route for which no next hop could be had.
    pub(super) fn of(refusal: &LinkRefusal) -> Self {
        match refusal {
            LinkRefusal::Policy(_) | LinkRefusal::NotMyRole(_) | LinkRefusal::Full(_) => {
                Self::Refused
            }
            LinkRefusal::NoLink(_) | LinkRefusal::Unexpected | LinkRefusal::Renewal(_) => {
                Self::Silent
            }
        }
    }
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
        // A route that is avoided is in use only where none works, or where the far end sleeps: to
        // be silent then is nothing that it did again.
        let before = self.records.get(route);
        let strikes = match before {
            None => 1,
            Some(record) if now < record.until => record.strikes,
            Some(record) => record.strikes + 1,
        };
        let again = before.is_some_and(|record| now < record.died + AGAIN);
        if self.records.len() >= MAX_SUSPECTS && before.is_none() {
            return;
        }
        let hold = (FIRST_HOLD * 2u32.saturating_pow((strikes - 1).min(8))).min(LONGEST_HOLD);
        let record = Record { died: now, until: now + hold, strikes, again, fault };
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
                Fault::Refused => Exclusion::LabelRefused,
            });
        }
        candidates
    }

    /// Whether `route` is to be avoided now.
    pub(super) fn avoids(&self, now: Instant, route: &Route) -> bool {
        self.fault(now, route).is_some()
    }

    /// Whether `route` is not even to be taken by a lane that has to leave another one: for the
    /// first quarter of its time.
    pub(super) fn shuns(&self, now: Instant, route: &Route) -> bool {
        let record = self.records.get(route);
        record.is_some_and(|record| now < record.died + (record.until - record.died) / 4)
    }

    /// Where no route is usable, the one to use instead of `dead`: of those that probes find best, the
    /// least lossy, or else the one that died longest ago.
    ///
    /// `None`: stay. While the probes of all other routes are lost, too, the silence may be the fault
    /// of the far end's route, which differs from ours, and the far end is about to change it. But a
    /// route that dies again is left for one that a probe has just passed.
    pub(super) fn last_resort(&self, dead: &Route, routes: &[(Standing, Route)]) -> Option<Route> {
        let record = |route: &Route| self.records.get(route).map(|r| (r.fault, r.died));
        let others = routes.iter().filter(|(_, route)| route != dead);
        let (best, route) = others.min_by_key(|(standing, route)| (*standing, record(route)))?;
        let ours = routes.iter().find(|(_, route)| route == dead).map(|(standing, _)| standing);
        let again = self.records.get(dead).is_some_and(|record| record.again);
        let promising = again && *best < Standing::Down;
        (promising || ours.is_none_or(|ours| best <= ours)).then(|| route.clone())
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
    fn an_outage_of_all_routes_counts_once_for_each() {
        let (mut suspects, mut now) = (Suspects::default(), Instant::now());
        for _ in 0..20 {
            for route in [Route::Direct, via("utah")] {
                suspects.failed(now, &route, Fault::Silent);
                now += Duration::from_secs(1);
            }
        }
        assert!(!suspects.avoids(now + FIRST_HOLD, &Route::Direct));
        suspects.failed(now + FIRST_HOLD, &Route::Direct, Fault::Silent);
        assert!(
            suspects.avoids(now + 2 * FIRST_HOLD, &Route::Direct),
            "the next outage is another"
        );
    }

    fn up(routes: &[Route]) -> Vec<(Standing, Route)> {
        routes.iter().map(|route| (Standing::Up, route.clone())).collect()
    }

    #[test]
    fn where_all_routes_are_dead_the_one_that_died_first_is_tried_again() {
        let (mut suspects, t0) = (Suspects::default(), Instant::now());
        let routes = [Route::Direct, via("utah"), via("mediaone")];
        for (i, route) in routes.iter().enumerate() {
            suspects.failed(t0 + Duration::from_millis(i as u64), route, Fault::Silent);
        }
        assert_eq!(suspects.last_resort(&via("mediaone"), &up(&routes)), Some(Route::Direct));
        assert_eq!(suspects.last_resort(&Route::Direct, &up(&routes[..1])), None);
    }

    #[test]
    fn a_lossy_route_is_better_than_a_silent_one() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let routes = [Route::Direct, via("utah"), via("mediaone")];
        suspects.failed(now, &via("utah"), Fault::Silent);
        suspects.failed(now, &via("mediaone"), Fault::Lossy(30));
        suspects.failed(now, &Route::Direct, Fault::Silent);
        assert_eq!(suspects.last_resort(&Route::Direct, &up(&routes)), Some(via("mediaone")));
    }

    #[test]
    fn a_lane_in_need_takes_a_route_that_died_some_time_ago() {
        let (mut suspects, t0) = (Suspects::default(), Instant::now());
        suspects.failed(t0, &Route::Direct, Fault::Silent);
        let later = t0 + FIRST_HOLD / 4;
        assert!(suspects.shuns(later - Duration::from_millis(1), &Route::Direct));
        assert!(!suspects.shuns(later, &Route::Direct) && suspects.avoids(later, &Route::Direct));
        assert!(!suspects.shuns(t0, &via("utah")));
    }

    #[test]
    fn a_silent_route_is_kept_while_the_probes_of_all_others_are_lost() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let mut routes = [
            (Standing::Up, Route::Direct),
            (Standing::Down, via("utah")),
            (Standing::Down, via("nyu")),
        ];
        suspects.failed(now, &via("nyu"), Fault::Silent);
        suspects.failed(now, &Route::Direct, Fault::Silent);
        assert_eq!(suspects.last_resort(&Route::Direct, &routes), None);
        suspects.failed(now + Duration::from_secs(1), &Route::Direct, Fault::Silent);
        assert_eq!(suspects.last_resort(&Route::Direct, &routes), None);
        routes[2].0 = Standing::Recovering;
        assert_eq!(suspects.last_resort(&Route::Direct, &routes), Some(via("nyu")));
    }

    #[test]
    fn a_route_whose_links_are_up_is_tried_before_one_that_died_longer_ago() {
        let (mut suspects, t0) = (Suspects::default(), Instant::now());
        suspects.failed(t0, &via("utah"), Fault::Silent);
        suspects.failed(t0 + Duration::from_secs(1), &via("nyu"), Fault::Silent);
        suspects.failed(t0 + Duration::from_secs(2), &Route::Direct, Fault::Silent);
        let routes = [
            (Standing::Down, Route::Direct),
            (Standing::Down, via("utah")),
            (Standing::Up, via("nyu")),
        ];
        assert_eq!(suspects.last_resort(&Route::Direct, &routes), Some(via("nyu")));
    }

    #[test]
    fn a_route_that_dies_again_is_left_for_one_whose_links_are_up() {
        let (mut suspects, t0) = (Suspects::default(), Instant::now());
        let ms = |ms| t0 + Duration::from_millis(ms);
        suspects.failed(ms(0), &via("south"), Fault::Silent);
        suspects.failed(ms(100), &via("north"), Fault::Silent);
        suspects.failed(ms(200), &Route::Direct, Fault::Silent);
        suspects.failed(ms(300), &via("north"), Fault::Silent);
        let routes = [
            (Standing::Up, Route::Direct),
            (Standing::Up, via("north")),
            (Standing::Down, via("south")),
        ];
        assert_eq!(suspects.last_resort(&via("north"), &routes), Some(Route::Direct));
    }

    #[test]
    fn a_silent_route_is_better_than_one_that_is_refused() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        let routes = [Route::Direct, via("utah"), via("mediaone")];
        let policy = LinkRefusal::Policy("research-only".into());
        suspects.failed(now, &via("utah"), Fault::of(&policy));
        let later = now + Duration::from_secs(1);
        suspects.failed(later, &via("mediaone"), Fault::of(&LinkRefusal::Unexpected));
        suspects.failed(later, &Route::Direct, Fault::Silent);
        assert_eq!(suspects.last_resort(&Route::Direct, &up(&routes)), Some(via("mediaone")));
    }
}
