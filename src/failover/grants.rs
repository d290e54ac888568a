//! The relays' grants that a lane's end holds.
//!
//! A grant ends when it is not renewed, and with the process of the relay that gave it. The relay
//! drops packets under an ended grant, and does not report that. So an ended grant must not be
//! used.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Timing;
use crate::{flow::Route, wire::label::Label};

/// A label, and what it depends on.
#[derive(Debug, Clone, Copy)]
struct Grant {
    label: Label,
    /// Which process of the relay granted it, if that is known.
    process: Option<u64>,
    /// When it was granted, or last renewed.
    renewed: Instant,
}

/// The grants held, by route, and those asked for. The direct route needs none.
#[derive(Debug, Default)]
pub(super) struct Grants {
    held: BTreeMap<Route, Grant>,
    asked: BTreeMap<Route, Instant>,
}

impl Grants {
    /// The label of `route`, unless the grant has ended.
    pub(super) fn get(&self, now: Instant, timing: &Timing, route: &Route) -> Option<Label> {
        let grant = self.held.get(route)?;
        (now < grant.renewed + timing.grant_valid).then_some(grant.label)
    }

    /// The label held for `route`, whatever its age.
    pub(super) fn label(&self, route: &Route) -> Option<Label> {
        self.held.get(route).map(|grant| grant.label)
    }

    /// Whether the relay of `route` is to be asked now. After `answer` the request counts as
    /// unanswered.
    pub(super) fn ask(&mut self, now: Instant, route: &Route, answer: Duration) -> bool {
        let waiting = self.asked.get(route).is_some_and(|at| now < *at + answer);
        if !waiting {
            self.asked.insert(route.clone(), now);
        }
        !waiting
    }

    /// Process `process` of the relay of `route` granted `label`. An existing grant stays, and only
    /// that one is renewed.
    pub(super) fn granted(
        &mut self,
        now: Instant,
        timing: &Timing,
        route: &Route,
        label: Label,
        process: Option<u64>,
    ) {
        self.asked.remove(route);
        let other = |held: &Grant| held.process.zip(process).is_some_and(|(a, b)| a != b);
        let lasts = |held: &Grant| now < held.renewed + timing.grant_valid && !other(held);
        if !self.held.get(route).is_some_and(lasts) {
            self.held.insert(route.clone(), Grant { label, process, renewed: now });
        }
    }

    /// The relay of `route` gave no grant.
    pub(super) fn not_granted(&mut self, route: &Route) {
        self.asked.remove(route);
    }

    /// The grants that have to be renewed now.
    pub(super) fn due(&self, now: Instant, timing: &Timing) -> Vec<(Route, Label)> {
        let due = self.held.iter().filter(|(_, grant)| now >= grant.renewed + timing.grant_renew);
        due.map(|(route, grant)| (route.clone(), grant.label)).collect()
    }

    /// The relay answered whether it still holds `label`.
    pub(super) fn renewed(&mut self, now: Instant, route: &Route, label: Label, holds: bool) {
        let Some(grant) = self.held.get_mut(route).filter(|grant| grant.label == label) else {
            return;
        };
        if holds {
            grant.renewed = now;
        } else {
            self.held.remove(route);
        }
    }

    /// The relay of `route` runs as `process`. If another process gave the grant, the grant has
    /// ended.
    pub(super) fn relay_runs_as(&mut self, route: &Route, process: u64) -> bool {
        let gone = |grant: &Grant| grant.process.is_some_and(|granter| granter != process);
        let restarted = self.held.get(route).is_some_and(gone);
        if restarted {
            self.held.remove(route);
        }
        restarted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utah() -> Route {
        Route::Via("utah".parse().unwrap())
    }

    #[test]
    fn a_grant_that_was_not_renewed_in_time_is_not_used() {
        let (mut grants, timing, t0) = (Grants::default(), Timing::default(), Instant::now());
        grants.granted(t0, &timing, &utah(), Label(1), Some(7));
        assert!(grants.due(t0 + timing.grant_renew - timing.step, &timing).is_empty());
        assert_eq!(grants.due(t0 + timing.grant_renew, &timing), [(utah(), Label(1))]);
        assert_eq!(grants.get(t0 + timing.grant_valid, &timing, &utah()), None);
        grants.renewed(t0 + timing.grant_renew, &utah(), Label(1), true);
        assert_eq!(grants.get(t0 + timing.grant_valid, &timing, &utah()), Some(Label(1)));
        grants.renewed(t0 + timing.grant_renew, &utah(), Label(1), false);
        assert_eq!(grants.label(&utah()), None);
    }

    #[test]
    fn the_grant_of_a_relay_that_restarted_is_forgotten() {
        let (mut grants, timing, t0) = (Grants::default(), Timing::default(), Instant::now());
        grants.granted(t0, &timing, &utah(), Label(1), Some(7));
        assert!(!grants.relay_runs_as(&utah(), 7));
        assert!(grants.relay_runs_as(&utah(), 8));
        assert_eq!(grants.label(&utah()), None);
    }

    #[test]
    fn a_second_grant_is_dropped_unless_another_process_gave_it() {
        let (mut grants, timing, t0) = (Grants::default(), Timing::default(), Instant::now());
        for (label, process, held) in [(1, 7, 1), (2, 7, 1), (3, 8, 3)] {
            grants.granted(t0, &timing, &utah(), Label(label), Some(process));
            assert_eq!(grants.label(&utah()), Some(Label(held)));
        }
    }

    #[test]
    fn an_answer_about_an_older_grant_does_not_concern_the_newer_one() {
        let (mut grants, timing, t0) = (Grants::default(), Timing::default(), Instant::now());
        grants.granted(t0, &timing, &utah(), Label(2), None);
        grants.renewed(t0, &utah(), Label(1), false);
        assert_eq!(grants.label(&utah()), Some(Label(2)));
    }

    #[test]
    fn a_relay_is_asked_once_until_it_answers_or_is_late() {
        let (mut grants, t0) = (Grants::default(), Instant::now());
        let late = Duration::from_millis(200);
        assert!(grants.ask(t0, &utah(), late));
        assert!(!grants.ask(t0 + late / 2, &utah(), late));
        assert!(grants.ask(t0 + late, &utah(), late));
        grants.not_granted(&utah());
        assert!(grants.ask(t0 + late, &utah(), late));
    }
}
