//! The choice of a route, by the overlay's figures and by the lane's own findings.

use std::time::{Duration, Instant};

use super::{Asked, RouteAgent};
use crate::{
    failover::{Command, SeenRoute, capacity::Worth},
    flow::Route,
    overlay::{
        candidates::{Candidate, Exclusion},
        history::RouteHistory,
        metrics::PathMetrics,
        select::{Decision, Verdict},
        units::LossRate,
    },
};

/// The state of a route by probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// Its links are up.
    Up,
    /// A link was down and has not had three good probes yet.
    Recovering,
    /// A link is down, or its relay refused.
    Down,
}

/// The state of a route by probes; `None` if it is forbidden or impossible.
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

/// Whether a route's first link works while another route is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// It answered a probe that left then; `None` if its state cannot be known.
    Answered(Option<Instant>),
    /// It was not asked yet.
    NotAsked,
    /// It was asked, and its answer is under way or late.
    Pending,
    /// It was asked, and its answer is later than it would be on a link that works.
    Late,
    /// It was asked and did not answer in time.
    Overdue,
}

impl RouteAgent {
    /// Explains the decision that would be made now, and earlier ones. It decides nothing.
    #[must_use]
    pub(crate) fn explain(
        &self,
        now: Instant,
        candidates: Vec<Candidate>,
    ) -> (Decision, RouteHistory) {
        let marked = self.blame.mark(now, candidates);
        (self.selector.clone().decide(now, marked), self.selector.history().clone())
    }

    pub(super) fn seen(&self, route: &Route) -> Option<&SeenRoute> {
        self.routes.iter().find(|seen| seen.candidate.route == *route)
    }

    fn metrics(&self, route: &Route) -> Option<PathMetrics> {
        self.seen(route)?.candidate.metrics
    }

    /// The round-trip time of `route` by probes.
    pub(super) fn expected_rtt(&self, route: &Route) -> Option<Duration> {
        self.metrics(route).map(|metrics| metrics.rtt)
    }

    /// The same, or an assumed value without probes.
    pub(super) fn assumed_rtt(&self, route: &Route) -> Duration {
        self.expected_rtt(route).unwrap_or(self.timing.unknown_rtt)
    }

    /// How much later than usual the first link of `route` answers now, if it was asked: what goes over to it from a
    /// route that failed fills its queue.
    pub(super) fn lateness(&self, route: &Route) -> Duration {
        let asked = self.probes.get(route.first_node(&self.peer));
        let usual = self.seen(route).and_then(|seen| seen.link_rtt);
        let newest = asked.and_then(|asked| asked.newest).zip(usual);
        newest.map_or(Duration::ZERO, |((_, took), usual)| took.saturating_sub(usual))
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.routes.iter().map(|seen| seen.candidate.clone()).collect()
    }

    /// The candidates with the lane's own findings: failed ones are excluded.
    fn judged(&self, now: Instant) -> Vec<Candidate> {
        self.blame.mark(now, self.candidates())
    }

    /// The next best routes besides that in use.
    pub(super) fn alternatives(&self, now: Instant) -> Vec<Route> {
        let decision = self.explain(now, self.candidates()).0;
        let others = decision.alternatives.into_iter().chain(decision.route);
        others.filter(|route| *route != self.route).collect()
    }

    /// Asks the first link of `route` whether it works.
    pub(super) fn probe_first_link(&mut self, now: Instant, route: &Route) {
        let first = route.first_node(&self.peer).clone();
        self.probes.entry(first.clone()).or_insert(Asked::new(now));
        self.push(Command::Probe(first));
    }

    /// A link that was asked when silence was suspected has not answered in time. Other routes are
    /// silent, too, so the fault is near this end.
    pub(super) fn notice_near_trouble(&mut self, now: Instant) {
        self.near_trouble |= self.finds_on_others(now, |found| found == Evidence::Overdue);
    }

    /// Whether the first link of another route than that in use is found so.
    pub(super) fn finds_on_others(&self, now: Instant, so: impl Fn(Evidence) -> bool) -> bool {
        let others = self.routes.iter().map(|seen| &seen.candidate.route);
        others.filter(|route| **route != self.route).any(|route| so(self.evidence(now, route)))
    }

    pub(super) fn evidence(&self, now: Instant, route: &Route) -> Evidence {
        let link_rtt = self.seen(route).and_then(|seen| seen.link_rtt);
        let (Some(_), Some(rtt)) = (self.suspected_at, link_rtt) else {
            return Evidence::Answered(None);
        };
        let Some(asked) = self.probes.get(route.first_node(&self.peer)) else {
            return Evidence::NotAsked;
        };
        if asked.proof.is_some() {
            return Evidence::Answered(asked.proof);
        }
        match now.saturating_duration_since(asked.at) {
            waited if waited >= self.overdue_after(rtt) => Evidence::Overdue,
            waited if waited >= rtt + self.timing.step => Evidence::Late,
            _ => Evidence::Pending,
        }
    }

    /// How long an answer takes at most that takes `rtt` as a rule.
    pub(super) fn overdue_after(&self, rtt: Duration) -> Duration {
        rtt + rtt / 4 + self.timing.verdict_after
    }

    /// The route to take instead of the silent one in use: the best one whose first link works.
    /// `None` while none is known to work, or if it is better to stay.
    ///
    /// The ping and the probe of that link have to leave at the same time. If the link answers only a probe that left
    /// later than the ping on the route in use, all links were silent, and the fault may be over for all.
    pub(super) fn instead(&mut self, now: Instant) -> Option<Route> {
        let routes = self.other_routes(now);
        for route in &routes {
            match self.evidence(now, route) {
                Evidence::Answered(_) | Evidence::Pending | Evidence::Late => break,
                Evidence::Overdue => {}
                Evidence::NotAsked => {
                    self.probe_first_link(now, route);
                    break;
                }
            }
        }
        let mut routes = routes.into_iter();
        let (instead, left) = routes.find_map(|route| match self.evidence(now, &route) {
            Evidence::Answered(left) => Some((route, left)),
            _ => None,
        })?;
        let together = |left| self.suspected_at.is_some_and(|at| left <= at + self.timing.step);
        if self.compared_at.is_none() && !left.is_none_or(together) {
            self.compared_at = Some(now);
            self.ping_now();
        }
        let verdict = self.overdue_after(self.assumed_rtt(&self.route));
        self.compared_at.is_none_or(|at| now >= at + verdict).then_some(instead)
    }

    /// The routes besides the silent one in use, in the order in which they are tried. If no other
    /// is usable, these are the blamed ones that probes do not find worse than the one in use, except those that
    /// failed just now.
    fn other_routes(&self, now: Instant) -> Vec<Route> {
        let mut candidates = self.judged(now);
        for candidate in candidates.iter_mut().filter(|c| c.route == self.route) {
            candidate.excluded.get_or_insert(Exclusion::Silent);
        }
        let decision = self.selector.clone().decide(now, candidates);
        let usable = |c: &Candidate| {
            matches!(c.excluded, None | Some(Exclusion::LeftToOthers)) && c.route != self.route
        };
        let explained = || decision.candidates.iter().map(|explained| &explained.candidate);
        let routes: Vec<Route> =
            explained().filter(|c| usable(c)).map(|c| c.route.clone()).collect();
        if !routes.is_empty() {
            return routes;
        }
        let own = explained().find(|c| c.route == self.route);
        let own = own.and_then(|c| standing(c.excluded.as_ref()));
        let others = explained().filter(|c| {
            c.route != self.route && !self.blame.failed_lately(now, &self.timing, &c.route)
        });
        let mut others: Vec<_> = others
            .filter_map(|c| Some((standing(c.excluded.as_ref())?, c.route.clone())))
            .filter(|(standing, _)| own.is_none_or(|own| *standing <= own))
            .collect();
        others.sort_by_key(|(standing, route)| (*standing, self.blame.order(route)));
        others.into_iter().map(|(_, route)| route).collect()
    }

    /// A better route than the one in use: by the hint, or, if the lane is limited by its route,
    /// one that carried clearly more.
    pub(super) fn better(&mut self, now: Instant) -> Option<Route> {
        let marked = self.judged(now);
        let usable =
            |route: &Route| marked.iter().any(|c| c.route == *route && c.excluded.is_none());
        if self.is_bulk(now) && usable(&self.route) {
            self.selector.forget_merit(now);
            return self.roomier(now);
        }
        let decision = self.selector.decide(now, marked);
        let chosen = decision.candidates.iter().find(|c| c.verdict == Verdict::Chosen);
        if let Some(chosen) = chosen {
            let best = chosen.candidate.route.clone();
            let less = self.capacity.is_less(now, &self.timing, &best);
            return (best != self.route && !less).then_some(best);
        }
        let own = self.standing_of(&decision, &self.route)?;
        if own != Standing::Down {
            return None;
        }
        let others = self.other_routes(now);
        others.into_iter().find(|r| self.standing_of(&decision, r) == Some(Standing::Up))
    }

    /// Whether probes say that the route in use is down, or was until just now. Then the lane asks the far end
    /// instead of comparing routes: after an outage of this node's own line the links to two neighbours come
    /// up at different times, although both paths work. If there is no answer, silence moves the lane.
    pub(super) fn is_down_by_probes(&self) -> bool {
        let own =
            self.seen(&self.route).and_then(|seen| standing(seen.candidate.excluded.as_ref()));
        own.is_some_and(|own| own != Standing::Up)
    }

    fn standing_of(&self, decision: &Decision, route: &Route) -> Option<Standing> {
        let explained = decision.candidates.iter().find(|c| c.candidate.route == *route)?;
        standing(explained.candidate.excluded.as_ref())
    }

    /// A route that carried clearly more than the lane delivers now, and is not blamed at present.
    pub(super) fn roomier(&self, now: Instant) -> Option<Route> {
        let others = self.judged(now).into_iter();
        let admissible = others.filter(|c| c.route != self.route && c.excluded.is_none());
        let more = admissible.filter(|c| self.capacity.is_more(now, &self.timing, &c.route));
        more.max_by_key(|c| self.capacity.carried(now, &self.timing, &c.route)).map(|c| c.route)
    }

    /// The best usable route that may carry more than is known, if the lane is limited by the route in use. Those that were
    /// tried in vain come after the others, in the order of their trials.
    pub(super) fn worth_a_trial(&self, now: Instant) -> Option<Route> {
        if !self.capacity.is_limited() {
            return None;
        }
        let marked = self.judged(now);
        let usable = marked.iter().filter(|c| c.route != self.route && c.excluded.is_none());
        let promised = usable.filter_map(|c| {
            let worth = self.capacity.worth(now, &self.timing, &c.route);
            let hindrance = self.hindrance(c.metrics?.rtt, c.metrics?.worse_loss());
            (worth != Worth::Nothing).then_some((worth, hindrance, &c.route))
        });
        let best = promised.min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        best.map(|(_, _, route)| route.clone())
    }

    /// The loss by probes of the route in use, if it is high enough to count without packets of the
    /// lane. A lane that carries much measures the loss itself, at the end that sends; its own queue
    /// loses probes, too.
    pub(super) fn lost_probes(&self) -> Option<LossRate> {
        let loss = self.metrics(&self.route).filter(|_| self.loss.is_quiet())?.worse_loss();
        (loss.ppm() >= self.timing.probes_lost.ppm()).then_some(loss)
    }

    /// The bound on the throughput of a sender that slows down at loss: rtt · √p (Mathis et al., 1997).
    /// Less loss than a third of `leave_above` counts as that third: a hundred probes cannot distinguish it
    /// from none.
    fn hindrance(&self, rtt: Duration, loss: LossRate) -> f64 {
        let least = self.timing.leave_above.fraction() / 3.0;
        rtt.as_secs_f64() * loss.fraction().max(least).sqrt()
    }

    /// The route with the largest expected throughput, if that is clearly more than on the one in
    /// use, which loses `loss` of the packets. Routes that failed some time ago are included,
    /// because the lane needs an alternative. Routes that carried less than the lane delivers now
    /// are not.
    pub(super) fn cleaner(&self, now: Instant, loss: LossRate) -> Option<Route> {
        let cost = self.hindrance(self.metrics(&self.route)?.rtt, loss);
        let others = self.routes.iter().map(|seen| &seen.candidate).filter(|other| {
            other.route != self.route
                && other.excluded.is_none()
                && !self.blame.is_fresh(now, &other.route)
                && !self.capacity.is_less(now, &self.timing, &other.route)
        });
        let promised = others.filter_map(|other| {
            let metrics = other.metrics?;
            let promised = self.hindrance(metrics.rtt, metrics.worse_loss());
            let blamed = self.blame.fault(now, &other.route).is_some();
            (promised * self.timing.cleaner_factor <= cost).then_some((
                blamed,
                promised,
                &other.route,
            ))
        });
        let best = promised.min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        best.map(|(_, _, route)| route.clone())
    }

    /// Whether to follow the far end to `route`: not if it failed lately, unless no better one is
    /// known.
    pub(super) fn goes_along(&self, now: Instant, route: &Route) -> bool {
        if self.blame.fault(now, route).is_none() {
            return true;
        }
        let decision = self.explain(now, self.candidates()).0;
        let usable = decision.candidates.iter().any(|c| c.verdict == Verdict::Chosen);
        let of = |route: &Route| self.standing_of(&decision, route);
        !usable && of(route) <= of(&self.route)
    }
}
