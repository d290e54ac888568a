//! Which route a lane's end takes: by what the overlay measures, and by what the lane found itself.

use std::time::Duration;

use super::{
    LaneEnd,
    keeper::now,
    suspects::{Fault, Standing},
};
use crate::{
    flow::Route,
    overlay::{
        candidates::Exclusion,
        history::RouteHistory,
        metrics::PathMetrics,
        select::{Decision, Verdict},
        units::LossRate,
    },
};

/// How much better a route must promise to be than a lossy one in use: the same as the margin of a
/// latency change, three times over, for this evidence is an extrapolation.
const CLEANER: f64 = 1.3;

/// Less loss than this counts as so much: a hundred probes cannot tell it from none.
const NEGLIGIBLE_LOSS: f64 = 0.002;

/// What bounds a loss-driven sender's throughput on a path: rtt · √p (Mathis et al., 1997).
fn hindrance(rtt: Duration, loss: LossRate) -> f64 {
    rtt.as_secs_f64() * loss.fraction().max(NEGLIGIBLE_LOSS).sqrt()
}

/// The best usable route. One that is only kept for want of a usable one is none.
fn usable(decision: &Decision) -> Option<Route> {
    let best = decision.route.as_ref()?;
    let chosen = decision.candidates.iter().find(|c| c.verdict == Verdict::Chosen)?;
    (chosen.candidate.route == *best).then(|| best.clone())
}

/// How the probes find a route that is not usable; `None` if it must or can not be taken at all.
fn standing(excluded: Option<&Exclusion>) -> Option<Standing> {
    match excluded {
        None | Some(Exclusion::Silent | Exclusion::Lossy { .. } | Exclusion::LeftToOthers) => {
            Some(Standing::Up)
        }
        Some(Exclusion::Recovering { .. }) => Some(Standing::Recovering),
        Some(Exclusion::LinkDown(..) | Exclusion::LabelRefused) => Some(Standing::Down),
        Some(
            Exclusion::Pinned
            | Exclusion::Vetoed
            | Exclusion::Policy(_)
            | Exclusion::NotRelay
            | Exclusion::Unknown,
        ) => None,
    }
}

/// The routes that can be taken at all, with how the probes find each.
fn standings(decision: &Decision) -> Vec<(Standing, Route)> {
    let candidates = decision.candidates.iter().map(|explained| &explained.candidate);
    candidates.filter_map(|c| Some((standing(c.excluded.as_ref())?, c.route.clone()))).collect()
}

fn standing_of(standings: &[(Standing, Route)], route: &Route) -> Option<Standing> {
    standings.iter().find(|(_, other)| other == route).map(|(standing, _)| *standing)
}

impl LaneEnd {
    /// Decides which route to use now, by what is measured and by what this lane found dead.
    pub(super) fn decide(&self) -> Decision {
        let candidates = self.candidates();
        let now = now();
        let mut state = self.state();
        let judged = state.suspects.judge(now, candidates);
        state.selector.decide(now, judged)
    }

    /// What would be decided now and why, and the decisions before; decides nothing.
    #[must_use]
    pub fn explain(&self) -> (Decision, RouteHistory) {
        let candidates = self.candidates();
        let now = now();
        let state = self.state();
        let judged = state.suspects.judge(now, candidates);
        let decision = state.selector.clone().decide(now, judged);
        (decision, state.selector.history().clone())
    }

    /// The route to move to because the overlay finds it better than the one in use; or, where all
    /// others are avoided and a link of that one is down, because its own links are up.
    pub(super) fn better(&self) -> Option<Route> {
        let (decision, current) = (self.decide(), self.route());
        if let Some(best) = usable(&decision) {
            return Some(best).filter(|best| *best != current);
        }
        let standings = standings(&decision);
        if standing_of(&standings, &current) != Some(Standing::Down) {
            return None;
        }
        let other = self.state().suspects.last_resort(&current, &standings)?;
        (standing_of(&standings, &other) == Some(Standing::Up)).then_some(other)
    }

    /// The route that promises the most throughput, if it promises clearly more than the one in
    /// use, which loses `loss` of what is sent. Routes that were found dead or lossy some time ago
    /// are taken into account, too: a way out is needed.
    pub(super) fn cleaner(&self, loss: LossRate) -> Option<Route> {
        let candidates = self.candidates();
        let (now, current) = (now(), self.route());
        let used = candidates.iter().find(|candidate| candidate.route == current)?;
        let cost = hindrance(used.metrics?.rtt, loss);
        let state = self.state();
        let others = candidates.iter().filter(|other| {
            other.route != current
                && other.excluded.is_none()
                && !state.suspects.shuns(now, &other.route)
        });
        let promised = others.filter_map(|other| {
            let metrics = other.metrics?;
            let promised = hindrance(metrics.rtt, metrics.worse_loss());
            let suspect = state.suspects.avoids(now, &other.route);
            (promised * CLEANER <= cost).then_some((suspect, promised, &other.route))
        });
        let best = promised.min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        best.map(|(_, _, route)| route.clone())
    }

    /// What the overlay measures of `route`; `None` while it does not.
    pub(super) fn measured(&self, route: &Route) -> Option<PathMetrics> {
        let candidates = self.candidates();
        candidates.into_iter().find(|candidate| candidate.route == *route)?.metrics
    }

    /// The route to take instead of `dead`: the best usable one, or else a last resort; `None`
    /// where staying promises most.
    pub(super) fn instead_of(&self, dead: &Route) -> Option<Route> {
        let decision = self.decide();
        if let Some(route) = usable(&decision).filter(|route| route != dead) {
            return Some(route);
        }
        self.state().suspects.last_resort(dead, &standings(&decision))
    }

    /// Whether to go along with the far end to `route`: not if it was found dead lately, unless
    /// nothing better is known. Two ends that each try a route of their own may never meet on the
    /// one that works.
    pub(super) fn goes_along(&self, route: &Route) -> bool {
        let now = now();
        if !self.state().suspects.avoids(now, route) {
            return true;
        }
        let decision = self.decide();
        let standings = standings(&decision);
        let of = |route: &Route| standing_of(&standings, route);
        usable(&decision).is_none() && of(route) <= of(&self.route())
    }

    /// Records that nothing comes through on `route`, or too little.
    pub(super) fn found(&self, route: &Route, fault: Fault) {
        self.state().suspects.failed(now(), route, fault);
        if fault == Fault::Silent {
            self.suspect(route);
        }
    }
}
