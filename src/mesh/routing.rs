//! What this node measures, what it heard, and the candidates that follow: the pure core with a
//! lock around it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    flow::{Route, RouteWish},
    identity::{NodeName, Peer},
    overlay::{
        budget::plan,
        candidates::{Candidate, Constraints, View, candidates},
        linkstate::{
            Advertisement, Flood, Install, LinkReport, LinkStateDb, Originator, Roles, Trigger,
            Version,
        },
        monitor::{LinkEvent, LinkSummary, Monitor, PassiveSample, Probe},
        policy::{Policy, RuleName, Tag},
        units::Bitrate,
    },
};

/// What a link's advertisement takes per neighbour, to divide the budget before one was made.
const REPORT_BYTES: usize = 14;

/// The state of routing at one node.
pub(super) struct Routing {
    us: NodeName,
    roles: Roles,
    serves: Vec<String>,
    policy: Policy,
    budget: Bitrate,
    state: Mutex<State>,
}

struct State {
    monitors: BTreeMap<NodeName, Monitor>,
    db: LinkStateDb,
    originator: Originator,
}

/// What the node has to send after the clock moved on.
#[derive(Default)]
pub(super) struct Due {
    pub(super) probes: Vec<(NodeName, Probe)>,
    pub(super) events: Vec<(NodeName, LinkEvent)>,
    pub(super) advert: Option<(Advertisement, Trigger)>,
    pub(super) expired: Vec<NodeName>,
}

impl Routing {
    pub(super) fn new(
        us: &Peer,
        relaying: bool,
        incarnation: u64,
        policy: Policy,
        budget: Bitrate,
    ) -> Self {
        let mut roles = Roles::NONE;
        if us.roles.exit {
            roles = roles.with(Roles::EXIT);
        }
        if relaying {
            roles = roles.with(Roles::RELAY);
        }
        let state = State {
            monitors: BTreeMap::new(),
            db: LinkStateDb::new(us.name.clone()),
            originator: Originator::new(us.name.clone(), incarnation),
        };
        let (us, serves) = (us.name.clone(), us.serves.clone());
        Self { us, roles, serves, policy, budget, state: Mutex::new(state) }
    }

    /// A link to `peer` stands; `restarted` if the peer is a new process, which knows nothing of
    /// the probes before.
    pub(super) fn link_up(&self, now: Instant, peer: &NodeName, restarted: bool, epoch: u16) {
        let mut state = self.state();
        if restarted || !state.monitors.contains_key(peer) {
            state.monitors.insert(peer.clone(), Monitor::new(now, epoch));
            state.originator.changed();
        } else if let Some(monitor) = state.monitors.get_mut(peer) {
            monitor.probe_now(now);
        }
        self.divide_budget(now, &mut state);
    }

    fn divide_budget(&self, now: Instant, state: &mut State) {
        let neighbours = state.monitors.len();
        let plan = plan(self.budget, neighbours, 40 + neighbours * REPORT_BYTES);
        for monitor in state.monitors.values_mut() {
            monitor.set_interval(now, plan.probe_interval);
        }
        state.originator.set_interval(plan.advert_interval);
    }

    /// Takes a probe message; the answer is to be sent at once.
    pub(super) fn heard_probe(
        &self,
        now: Instant,
        peer: &NodeName,
        probe: &Probe,
    ) -> Option<Probe> {
        self.state().monitors.get_mut(peer)?.handle_message(now, probe)
    }

    /// Probes the links of `route` at once: a lane hears nothing on it.
    pub(super) fn suspect(&self, now: Instant, peer: &NodeName, route: &Route) {
        let first = route.relay().unwrap_or(peer);
        if let Some(monitor) = self.state().monitors.get_mut(first) {
            monitor.probe_now(now);
        }
    }

    /// Takes what a lane saw on the direct path to `peer`.
    pub(super) fn observe(&self, now: Instant, peer: &NodeName, sample: &PassiveSample) {
        if let Some(monitor) = self.state().monitors.get_mut(peer) {
            monitor.record_passive(now, sample);
        }
    }

    /// When [`Routing::advance`] is to be called next.
    pub(super) fn next_timeout(&self, now: Instant) -> Instant {
        let state = self.state();
        let monitors = state.monitors.values().filter_map(Monitor::poll_timeout).min();
        let expiry = state.db.poll_timeout();
        let advert = state.originator.poll_timeout(now);
        monitors.into_iter().chain(expiry).chain([advert]).min().unwrap_or(advert)
    }

    /// Lets time pass; returns what has to be sent. `draw` gives uniform numbers in 0..1.
    pub(super) fn advance(&self, now: Instant, draw: &mut dyn FnMut() -> f64) -> Due {
        let mut state = self.state();
        let mut due = Due { expired: state.db.expire(now), ..Due::default() };
        for (peer, monitor) in &mut state.monitors {
            monitor.handle_timeout(now);
            due.probes.extend(monitor.poll_transmit(now, draw()).map(|p| (peer.clone(), p)));
            due.events.extend(monitor.poll_event().map(|event| (peer.clone(), event)));
        }
        if !due.events.is_empty() {
            state.originator.changed();
        }
        let links: Vec<LinkReport> = state
            .monitors
            .iter()
            .map(|(peer, monitor)| LinkReport::new(peer.clone(), &monitor.summary(now)))
            .collect();
        state.originator.measured(&links);
        due.advert = state.originator.poll(now, self.roles, &self.serves, links);
        due
    }

    /// Takes an advertisement that came from a neighbour; says what became of it, and to which of
    /// the neighbours `up` it is to be forwarded.
    pub(super) fn install(
        &self,
        now: Instant,
        flood: Flood,
        up: &[NodeName],
    ) -> (Install, Vec<NodeName>) {
        let mut state = self.state();
        let (origin, version) = (flood.advert.origin.clone(), flood.advert.version);
        let installed = state.db.install(now, flood);
        match installed {
            Install::Installed => {
                let forward = state.db.forward_to(&origin, up, now);
                (installed, forward)
            }
            Install::Own => {
                state.originator.outbid(version);
                (installed, Vec::new())
            }
            _ => (installed, Vec::new()),
        }
    }

    /// The advertisement of `origin` as it is to be passed on now.
    pub(super) fn flood(&self, now: Instant, origin: &NodeName) -> Option<Flood> {
        self.state().db.flood(origin, now)
    }

    /// The versions this node holds.
    pub(super) fn digest(&self, now: Instant) -> Vec<(NodeName, Version)> {
        self.state().db.digest(now)
    }

    /// The advertisements that a neighbour with `digest` lacks.
    pub(super) fn newer_than(&self, now: Instant, digest: &[(NodeName, Version)]) -> Vec<Flood> {
        self.state().db.newer_than(digest, now)
    }

    /// All routes to `peer` with their figures, for flows whose source has `groups`.
    pub(super) fn candidates(
        &self,
        now: Instant,
        peer: &NodeName,
        wish: &RouteWish,
        groups: &[String],
    ) -> Vec<Candidate> {
        let state = self.state();
        let links = summaries(&state, now);
        let view = View { own: &self.us, links: &links, db: &state.db, policy: &self.policy, now };
        let tag = Tag { groups: groups.to_vec(), class: wish.class.clone() };
        let constraints = Constraints {
            via: wish.pin.as_ref().and_then(Route::relay).cloned(),
            avoid: wish.avoid.clone(),
            direct_only: wish.pin == Some(Route::Direct),
        };
        candidates(&view, peer, &tag, &constraints)
    }

    /// Whether this node, as a relay, admits a flow between the two nodes by its own rules.
    pub(super) fn admits(
        &self,
        groups: &[String],
        class: Option<&str>,
        from: &NodeName,
        to: &NodeName,
    ) -> Result<(), RuleName> {
        let tag = Tag { groups: groups.to_vec(), class: class.map(str::to_owned) };
        self.policy.admits(&tag, Some(&self.us), from, to)
    }

    /// The links as they are measured now.
    pub(super) fn links(&self, now: Instant) -> BTreeMap<NodeName, LinkSummary> {
        summaries(&self.state(), now)
    }

    /// What the exits in the overlay serve, by their advertisements.
    pub(super) fn serves(&self, now: Instant, exit: &NodeName) -> Option<Vec<String>> {
        self.state().db.get(exit, now).map(|advert| advert.serves.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn summaries(state: &State, now: Instant) -> BTreeMap<NodeName, LinkSummary> {
    let monitors = state.monitors.iter();
    monitors.map(|(peer, monitor)| (peer.clone(), monitor.summary(now))).collect()
}
