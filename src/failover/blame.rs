//! Routes that failed under the lane's own packets, and for how long they are excluded.
//!
//! Probes may find such a route good: a relay may drop data and forward probes, or a path may flap.
//! So the route is excluded for a while, and for longer each time it fails again.
//!
//! Blame for silence is provisional until the move away from the route has brought an answer.
//! Without an answer the fault was at an end of the lane, and the blame is withdrawn.

use std::{collections::BTreeMap, time::Instant};

use super::{MAX_ROUTES, Timing};
use crate::{
    flow::Route,
    overlay::candidates::{Candidate, Exclusion},
};

/// The fault of a route. Of two blamed routes the one with the lesser fault is tried first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// It lost this share of the packets, in percent.
    Lossy(u8),
    /// Nothing came through.
    Silent,
    /// Its relay refused a grant: by its policy, its role, or for a limit.
    Refused,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    at: Instant,
    until: Instant,
    times: u32,
    fault: Fault,
    provisional: bool,
}

/// The routes that a lane's end excludes.
#[derive(Debug, Default)]
pub(super) struct Blame {
    records: BTreeMap<Route, Record>,
}

impl Blame {
    /// Excludes `route`. An excluded route is used only when no other works, so its failure then is
    /// not counted again.
    pub(super) fn add(&mut self, now: Instant, timing: &Timing, route: &Route, fault: Fault) {
        self.records.retain(|_, record| now < record.until + timing.memory);
        let before = self.records.get(route).copied();
        if before.is_none() && self.records.len() >= MAX_ROUTES {
            let first = self.records.iter().min_by_key(|(_, record)| record.until);
            if let Some(first) = first.map(|(route, _)| route.clone()) {
                self.records.remove(&first);
            }
        }
        let times = match before {
            None => 1,
            Some(record) if now < record.until => record.times,
            Some(record) => record.times + 1,
        };
        let doubled = timing.first_hold * 2u32.saturating_pow((times - 1).min(8));
        let until = now + doubled.min(timing.memory);
        let provisional =
            fault == Fault::Silent && before.is_none_or(|b| b.provisional || now >= b.until);
        self.records.insert(route.clone(), Record { at: now, until, times, fault, provisional });
    }

    /// A move brought an answer: the provisional blame stands.
    pub(super) fn confirm(&mut self) {
        self.records.values_mut().for_each(|record| record.provisional = false);
    }

    /// No move brought an answer, and the silence ended by itself. No route is blamed for it.
    pub(super) fn withdraw(&mut self) {
        self.records.retain(|_, record| !record.provisional);
    }

    /// Removes the blame of `route`.
    pub(super) fn forget(&mut self, route: &Route) {
        self.records.remove(route);
    }

    /// A packet came in on `route`, so it is not excluded for silence any more. If it fails again, it is excluded for longer
    /// than before.
    pub(super) fn excuse(&mut self, now: Instant, route: &Route) {
        let silent = self.records.get_mut(route).filter(|record| record.fault == Fault::Silent);
        silent.into_iter().for_each(|record| record.until = record.until.min(now));
    }

    /// Why `route` is excluded now, if it is.
    pub(super) fn fault(&self, now: Instant, route: &Route) -> Option<Fault> {
        self.records.get(route).filter(|record| now < record.until).map(|record| record.fault)
    }

    /// The candidates; those that are blamed are marked as excluded.
    pub(super) fn mark(&self, now: Instant, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        for candidate in candidates.iter_mut().filter(|candidate| candidate.excluded.is_none()) {
            candidate.excluded = self.fault(now, &candidate.route).map(|fault| match fault {
                Fault::Silent => Exclusion::Silent,
                Fault::Lossy(percent) => Exclusion::Lossy { percent },
                Fault::Refused => Exclusion::LabelRefused,
            });
        }
        candidates
    }

    /// Whether `route` is in the first quarter of its exclusion. Then even a lane on a lossy route
    /// does not take it.
    pub(super) fn is_fresh(&self, now: Instant, route: &Route) -> bool {
        let quarter = |record: &Record| record.at + (record.until - record.at) / 4;
        self.records.get(route).is_some_and(|record| now < quarter(record))
    }

    /// Whether `route` failed within the last `tick`. A route that fails at once would be taken without end if no other
    /// one works.
    pub(super) fn failed_lately(&self, now: Instant, timing: &Timing, route: &Route) -> bool {
        self.records.get(route).is_some_and(|record| now < record.at + timing.tick)
    }

    /// The order in which blamed routes are tried when there is no other: the least fault first,
    /// then the one that failed longest ago. A route without blame comes first.
    pub(super) fn order(&self, route: &Route) -> Option<(Fault, Instant)> {
        self.records.get(route).map(|record| (record.fault, record.at))
    }

    /// How long `route` stays excluded.
    #[cfg(test)]
    fn left(&self, now: Instant, route: &Route) -> Option<std::time::Duration> {
        self.records.get(route).and_then(|record| record.until.checked_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn via(name: &str) -> Route {
        Route::Via(name.parse().unwrap())
    }

    #[test]
    fn the_fault_after_a_route_was_heard_again_counts_as_the_second() {
        let (mut blame, timing, t0) = (Blame::default(), Timing::default(), Instant::now());
        blame.add(t0, &timing, &via("a"), Fault::Silent);
        blame.add(t0, &timing, &via("b"), Fault::Lossy(30));
        [via("a"), via("b"), via("c")].iter().for_each(|route| blame.excuse(t0, route));
        assert_eq!(blame.fault(t0, &via("a")), None);
        assert_eq!(blame.fault(t0, &via("b")), Some(Fault::Lossy(30)));
        blame.add(t0, &timing, &via("a"), Fault::Silent);
        assert_eq!(blame.left(t0, &via("a")), Some(2 * timing.first_hold));
    }

    #[test]
    fn a_route_that_fails_again_is_excluded_twice_as_long() {
        let (mut blame, timing, t0) = (Blame::default(), Timing::default(), Instant::now());
        blame.add(t0, &timing, &Route::Direct, Fault::Silent);
        assert_eq!(blame.left(t0, &Route::Direct), Some(timing.first_hold));
        let again = t0 + timing.first_hold + timing.tick;
        assert_eq!(blame.fault(again, &Route::Direct), None);
        blame.add(again, &timing, &Route::Direct, Fault::Silent);
        assert_eq!(blame.left(again, &Route::Direct), Some(2 * timing.first_hold));
    }

    #[test]
    fn a_route_that_fails_while_excluded_is_not_counted_again() {
        let (mut blame, timing, t0) = (Blame::default(), Timing::default(), Instant::now());
        for ms in [0, 500, 1_000] {
            let now = t0 + Duration::from_millis(ms);
            blame.add(now, &timing, &Route::Direct, Fault::Silent);
            assert_eq!(blame.left(now, &Route::Direct), Some(timing.first_hold));
        }
    }

    #[test]
    fn provisional_blame_is_withdrawn_and_confirmed_blame_is_not() {
        let (mut blame, timing, t0) = (Blame::default(), Timing::default(), Instant::now());
        blame.add(t0, &timing, &Route::Direct, Fault::Silent);
        blame.confirm();
        blame.add(t0, &timing, &via("utah"), Fault::Silent);
        blame.add(t0, &timing, &via("mit"), Fault::Lossy(30));
        blame.withdraw();
        assert_eq!(blame.fault(t0, &via("utah")), None);
        assert_eq!(blame.fault(t0, &Route::Direct), Some(Fault::Silent));
        assert_eq!(blame.fault(t0, &via("mit")), Some(Fault::Lossy(30)));
    }

    #[test]
    fn routes_without_end_fill_no_more_than_the_cap() {
        let (mut blame, timing, t0) = (Blame::default(), Timing::default(), Instant::now());
        for n in 0..2 * MAX_ROUTES {
            let route = via(&format!("n{n}"));
            blame.add(t0 + Duration::from_millis(n as u64), &timing, &route, Fault::Refused);
            assert_eq!(blame.fault(t0, &route), Some(Fault::Refused));
        }
        assert_eq!(blame.records.len(), MAX_ROUTES);
    }

    #[test]
    fn a_route_that_failed_may_be_taken_again_after_a_tick() {
        let (mut blame, timing, t0) = (Blame::default(), Timing::default(), Instant::now());
        blame.add(t0, &timing, &via("a"), Fault::Refused);
        assert!(blame.failed_lately(t0, &timing, &via("a")));
        assert!(!blame.failed_lately(t0 + timing.tick, &timing, &via("a")));
        assert!(!blame.failed_lately(t0, &timing, &via("b")));
    }
}
