//! The next hops that a lane's end holds ready: pure, time is an argument.
//!
//! A relay's grant ends when it is not renewed, and with the process that gave it. One that has
//! ended is worse than none: the relay drops the packets, and nobody says so.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{flow::Route, identity::NodeName, underlay::NextHop, wire::label::Label};

/// A relay's grant lasts 120 s unless renewed; the last of its time is not relied upon.
const VALID: Duration = Duration::from_secs(110);

/// A grant is renewed at this age, so that two attempts may fail.
const RENEW_AT: Duration = Duration::from_secs(40);

/// A next hop, and what its grant depends on.
#[derive(Debug)]
struct Held {
    hop: NextHop,
    /// Which process of the relay granted it, if that is known.
    granter: Option<u64>,
    /// When it was granted, or last renewed.
    renewed: Instant,
}

impl Held {
    /// Whether the relay's process, now known to be `present`, is another than the one that granted.
    fn is_from_another(&self, present: Option<u64>) -> bool {
        self.granter.zip(present).is_some_and(|(granter, present)| granter != present)
    }
}

/// The next hops held, by route.
#[derive(Debug, Default)]
pub(super) struct Hops(HashMap<Route, Held>);

impl Hops {
    /// The next hop of `route`, unless its relay, which now runs as process `present`, has forgotten
    /// the grant.
    pub(super) fn get(&self, now: Instant, route: &Route, present: Option<u64>) -> Option<NextHop> {
        let held = self.0.get(route)?;
        let ended = *route != Route::Direct
            && (now >= held.renewed + VALID || held.is_from_another(present));
        (!ended).then(|| held.hop.clone())
    }

    /// Holds what process `granter` of the relay has granted, unless it granted another hop while
    /// this one was asked for. Returns the hop that is held: no other is renewed, so no other may be
    /// used.
    pub(super) fn hold(
        &mut self,
        now: Instant,
        route: &Route,
        hop: NextHop,
        granter: Option<u64>,
    ) -> NextHop {
        if let Some(first) = self.get(now, route, granter) {
            return first;
        }
        self.0.insert(route.clone(), Held { hop: hop.clone(), granter, renewed: now });
        hop
    }

    /// The label held for `route`, whatever its age.
    pub(super) fn label(&self, route: &Route) -> Option<Label> {
        self.0.get(route).map(|held| held.hop.label)
    }

    /// The grants that have to be renewed now.
    pub(super) fn due(&self, now: Instant) -> Vec<(Route, Label)> {
        let due = self
            .0
            .iter()
            .filter(|(route, held)| **route != Route::Direct && now >= held.renewed + RENEW_AT);
        due.map(|(route, held)| (route.clone(), held.hop.label)).collect()
    }

    /// Takes note that the relay holds the grant of `label` for another while.
    pub(super) fn renewed(&mut self, now: Instant, route: &Route, label: Label) {
        if let Some(held) = self.0.get_mut(route).filter(|held| held.hop.label == label) {
            held.renewed = now;
        }
    }

    /// Forgets the grant of `label`.
    pub(super) fn forget(&mut self, route: &Route, label: Label) {
        if self.label(route) == Some(label) {
            self.0.remove(route);
        }
    }

    /// Forgets the grants of relays that have restarted: `present` says which process each one is.
    /// True if there was one.
    pub(super) fn forget_restarted(&mut self, present: impl Fn(&NodeName) -> Option<u64>) -> bool {
        let before = self.0.len();
        self.0.retain(|route, held| match route {
            Route::Direct => true,
            Route::Via(relay) => !held.is_from_another(present(relay)),
        });
        self.0.len() < before
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::underlay::Neighbour;

    fn hop(label: u64) -> NextHop {
        let neighbour = Arc::new(Neighbour::new("utah".parse().unwrap(), None));
        NextHop { neighbour, label: Label(label) }
    }

    fn utah() -> Route {
        Route::Via("utah".parse().unwrap())
    }

    #[test]
    fn a_grant_that_was_not_renewed_in_time_is_not_used() {
        let (mut hops, t0) = (Hops::default(), Instant::now());
        hops.hold(t0, &utah(), hop(1), Some(7));
        hops.hold(t0, &Route::Direct, hop(2), Some(7));
        assert!(hops.due(t0 + RENEW_AT - Duration::from_millis(1)).is_empty());
        assert_eq!(hops.due(t0 + RENEW_AT), [(utah(), Label(1))]);
        assert!(hops.get(t0 + VALID, &utah(), Some(7)).is_none());
        assert!(hops.get(t0 + VALID, &Route::Direct, Some(7)).is_some(), "nobody granted that");
        hops.renewed(t0 + RENEW_AT, &utah(), Label(1));
        assert!(hops.get(t0 + VALID, &utah(), Some(7)).is_some());
    }

    #[test]
    fn the_grants_of_a_relay_that_restarted_are_forgotten() {
        let (mut hops, t0) = (Hops::default(), Instant::now());
        hops.hold(t0, &utah(), hop(1), Some(7));
        hops.hold(t0, &Route::Direct, hop(2), Some(7));
        assert!(hops.get(t0, &utah(), None).is_some(), "while its link is away");
        assert!(!hops.forget_restarted(|_| None) && !hops.forget_restarted(|_| Some(7)));
        assert!(hops.get(t0, &utah(), Some(8)).is_none());
        assert!(hops.forget_restarted(|_| Some(8)));
        assert_eq!((hops.label(&utah()), hops.label(&Route::Direct)), (None, Some(Label(2))));
    }

    #[test]
    fn of_two_grants_asked_for_at_once_both_askers_use_the_first() {
        let (mut hops, t0) = (Hops::default(), Instant::now());
        let used = [1, 2].map(|label| hops.hold(t0, &utah(), hop(label), Some(7)).label);
        assert_eq!((used, hops.label(&utah())), ([Label(1); 2], Some(Label(1))));
        let anew = hops.hold(t0, &utah(), hop(3), Some(8)).label;
        assert_eq!(anew, Label(3), "the process that granted the first is gone");
    }

    #[test]
    fn an_answer_about_an_older_grant_does_not_concern_the_newer_one() {
        let (mut hops, t0) = (Hops::default(), Instant::now());
        hops.hold(t0, &utah(), hop(2), None);
        hops.renewed(t0 + RENEW_AT, &utah(), Label(1));
        hops.forget(&utah(), Label(1));
        assert_eq!(hops.due(t0 + RENEW_AT), [(utah(), Label(2))]);
    }
}
