//! An entry that decides again and again which route a lane to one exit is to take.

use std::time::Duration;

use ronproxy::internals::{
    flow::{Route, RouteWish},
    overlay::{
        metrics::PathMetrics,
        select::{Decision, Selector},
    },
};

use crate::sim::Sim;

/// How often a lane asks for a better route (`failover/timing.rs`, `tick`).
pub(crate) const STEER: Duration = Duration::from_millis(250);

pub(crate) struct Watch {
    pub(crate) from: usize,
    pub(crate) to: usize,
    wish: RouteWish,
    groups: Vec<String>,
    selector: Selector,
}

impl Watch {
    pub(crate) fn new(sim: &Sim, from: &str, to: &str, hint: &str) -> Self {
        Self::in_groups(sim, from, to, hint, &[])
    }

    /// The same for flows of sources in these groups.
    pub(crate) fn in_groups(sim: &Sim, from: &str, to: &str, hint: &str, groups: &[&str]) -> Self {
        let hint: ronproxy::internals::flow::Hint = hint.parse().unwrap();
        Self {
            from: sim.node(from),
            to: sim.node(to),
            wish: RouteWish { hint: hint.clone(), ..RouteWish::default() },
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            selector: Selector::new(hint),
        }
    }

    /// Decides, and watches the links of the route in use and of the next best ones, as a lane in use does.
    pub(crate) fn decide(&mut self, sim: &mut Sim) -> Decision {
        let (router, exit) = (sim.router(self.from), sim.name(self.to).clone());
        let candidates = router.candidates(sim.now(), &exit, &self.wish, &self.groups);
        let decision = self.selector.decide(sim.now(), candidates);
        let routes = decision.route.iter().chain(&decision.alternatives);
        let relays: Vec<_> = routes.filter_map(Route::relay).cloned().collect();
        // So does the other end of the lane.
        let ends = [(self.from, exit), (self.to, sim.name(self.from).clone())];
        for (end, other) in ends {
            let links: Vec<_> = relays.iter().cloned().chain([other]).collect();
            sim.watch(end, &links);
        }
        decision
    }

    /// The route in use, as it is written: `direct`, `via utah`, `none`.
    pub(crate) fn route(&self) -> String {
        self.selector.current().map_or_else(|| "none".to_owned(), ToString::to_string)
    }

    /// The groups of the flows' sources.
    pub(crate) fn groups(&self) -> &[String] {
        &self.groups
    }

    /// What the route in use is really like.
    pub(crate) fn truth(&self, sim: &Sim) -> Option<PathMetrics> {
        sim.truth(self.from, self.to, self.selector.current()?)
    }

    /// What the direct path is really like.
    pub(crate) fn direct(&self, sim: &Sim) -> Option<PathMetrics> {
        sim.truth(self.from, self.to, &Route::Direct)
    }

    /// The route that is really the best, by `figure`: smaller is better.
    pub(crate) fn best<T: PartialOrd>(
        &self,
        sim: &Sim,
        figure: impl Fn(PathMetrics) -> T,
    ) -> Option<T> {
        let routes = sim.routes(self.from, self.to);
        let figures = routes.iter().filter_map(|route| sim.truth(self.from, self.to, route));
        figures.map(figure).reduce(|a, b| if b < a { b } else { a })
    }

    /// Changes of route, without the first choice.
    pub(crate) fn changes(&self) -> u64 {
        self.selector.history().total().saturating_sub(1)
    }

    /// Why the last changes of route were made, newest first.
    pub(crate) fn told(&self) -> Vec<String> {
        let changes = self.selector.history().newest_first();
        let shown =
            |route: &Option<Route>| route.as_ref().map_or("none".to_owned(), Route::to_string);
        changes.map(|c| format!("{} → {}: {}", shown(&c.from), shown(&c.to), c.reason)).collect()
    }
}

/// Runs until `until`; every `step`, all watches decide, and then `look` sees them.
pub(crate) fn run(
    sim: &mut Sim,
    watches: &mut [Watch],
    until: Duration,
    step: Duration,
    mut look: impl FnMut(&Sim, &[Watch]),
) {
    while sim.time() + step <= until {
        sim.run_until(sim.time() + step);
        for watch in watches.iter_mut() {
            watch.decide(sim);
        }
        look(sim, watches);
    }
}
