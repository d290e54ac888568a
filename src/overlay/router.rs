//! The routing state of one node: its measurements, the advertisements of others, and the
//! candidates. It joins the other modules of this folder. The mesh drives it with packets, and
//! simulations with messages.

mod site;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    flow::{Hint, Route, RouteWish},
    identity::{NodeName, Peer},
    overlay::{
        budget::{IDLE_INTERVAL, Plan, plan},
        candidates::{Candidate, Constraints, View, candidates},
        linkstate::{
            Advertisement, Flood, Install, LinkReport, LinkStateDb, MAX_SIGNATURE, Originator,
            Roles, Trigger, Version,
        },
        metrics::PathMetrics,
        monitor::{LinkEvent, LinkState, LinkSummary, Monitor, Need, PassiveSample, Probe, Probed},
        policy::{Policy, RuleName, Tag},
        posted::Posted,
        select::is_lossy,
        sharing::{SharedLink, Sharing},
        trial,
        units::Bitrate,
    },
};

/// The assumed size of an advertisement, per neighbour and in addition, to divide the budget before
/// the first one is made.
const REPORT_BYTES: usize = 14;
/// What a message to the nodes of the site has beside the report of a link: its age and who measured.
const SHARED_MORE_BYTES: usize = 3;
const ADVERT_HEAD_BYTES: usize = 65 + MAX_SIGNATURE;

/// How long a link is watched closely after a lane in use went by it, or since it stands. People who read
/// or type pause for less.
const WATCHED_FOR: Duration = Duration::from_secs(30);

/// The state of routing at one node.
#[derive(Debug)]
pub struct Router {
    us: NodeName,
    roles: Roles,
    addresses: Vec<SocketAddr>,
    serves: Vec<String>,
    policy: Policy,
    budget: Bitrate,
    monitors: BTreeMap<NodeName, Monitor>,
    /// The links that are watched closely, and until when.
    watched: BTreeMap<NodeName, Instant>,
    /// How many links either end watched closely when the budget was last divided.
    busy: usize,
    db: LinkStateDb,
    originator: Originator,
    posted: Posted,
    sharing: Sharing,
    /// The members that another node of the site measures for this one.
    spared: BTreeSet<NodeName>,
}

/// The result of a neighbour's advertisement.
#[derive(Debug)]
pub struct Heard {
    /// What the database did with it.
    pub installed: Install,
    /// What to send now, each to its neighbour.
    pub send: Vec<(NodeName, Flood)>,
}

/// The messages to send after time has passed, and the events.
#[derive(Debug, Default)]
pub struct Due {
    /// Probes to send, each to its neighbour.
    pub probes: Vec<(NodeName, Probe)>,
    /// Links that went up or down.
    pub events: Vec<(NodeName, LinkEvent)>,
    /// An advertisement to send to all neighbours, and why now.
    pub advert: Option<(Advertisement, Trigger)>,
    /// Nodes whose advertisement has expired.
    pub expired: Vec<NodeName>,
    /// Figures to tell, and the sharers to tell them to.
    pub shared: Option<(Vec<NodeName>, Vec<SharedLink>)>,
    /// Sharers that are not believed for a while, each about a member.
    pub distrusted: Vec<(NodeName, NodeName)>,
}

impl Router {
    /// The router of the node whose certificate says `us`, without links. `does` is the set of
    /// roles that the node has now, within its certificate. `incarnation` should be larger than at
    /// the last start.
    #[must_use]
    pub fn new(us: &Peer, does: Roles, incarnation: u64, policy: Policy, budget: Bitrate) -> Self {
        let serves = us.serves.clone();
        let mut this = Self::named(us.name.clone(), does, serves, incarnation, policy, budget);
        this.originator.certified(us.starts.as_secs());
        this
    }

    /// The values that applications posted.
    pub fn posted(&mut self) -> &mut Posted {
        &mut self.posted
    }

    /// Judges flows by another policy from now on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// From now on the node advertises under the certificate that says `us`, its next one.
    pub fn renew(&mut self, us: &Peer) {
        self.serves.clone_from(&us.serves);
        self.originator.certified(us.starts.as_secs());
    }

    /// Sets the node's own addresses. If they changed, an advertisement is due.
    pub fn set_addresses(&mut self, addresses: Vec<SocketAddr>) {
        if self.addresses != addresses {
            self.addresses = addresses;
            self.originator.changed();
        }
    }

    /// The same for a node without a certificate, as in a simulation.
    #[must_use]
    pub fn named(
        us: NodeName,
        roles: Roles,
        serves: Vec<String>,
        incarnation: u64,
        policy: Policy,
        budget: Bitrate,
    ) -> Self {
        Self {
            roles,
            addresses: Vec::new(),
            serves,
            policy,
            budget,
            monitors: BTreeMap::new(),
            watched: BTreeMap::new(),
            busy: 0,
            db: LinkStateDb::new(us.clone()),
            originator: Originator::new(us.clone(), incarnation),
            posted: Posted::default(),
            sharing: Sharing::new(us.clone()),
            spared: BTreeSet::new(),
            us,
        }
    }

    /// There is a link to `peer`; `restarted` if the peer is a new process, which does not know the
    /// earlier probes.
    pub fn link_up(&mut self, now: Instant, peer: &NodeName, restarted: bool, epoch: u16) {
        if restarted || !self.monitors.contains_key(peer) {
            self.monitors.insert(peer.clone(), Monitor::new(now, epoch));
            self.originator.changed();
        } else if let Some(monitor) = self.monitors.get_mut(peer) {
            monitor.shook_hands();
            monitor.probe_now(now);
        }
        self.sharing.greet(peer);
        self.watched.insert(peer.clone(), now + WATCHED_FOR);
        self.divide_budget(now);
    }

    /// From now on the link to `peer` goes over another carrier, which this monitor has measured. Without its figures
    /// those of the old carrier's round trips stay.
    pub fn adopt(&mut self, now: Instant, peer: &NodeName, mut monitor: Monitor) {
        if monitor.summary(now).state != LinkState::Up {
            return self.another_path(peer);
        }
        if let Some(old) = self.monitors.get(peer) {
            monitor.succeed(now, old);
        }
        self.monitors.insert(peer.clone(), monitor);
        self.originator.changed();
        self.divide_budget(now);
    }

    /// The links that are up and lose so much that another carrier may be better.
    pub fn lossy(&self, now: Instant) -> BTreeSet<NodeName> {
        let lossy = |summary: LinkSummary| {
            summary.state == LinkState::Up && summary.metrics().is_some_and(is_lossy)
        };
        let found = self.monitors.iter().filter(|(_, monitor)| lossy(monitor.summary(now)));
        found.map(|(peer, _)| peer.clone()).collect()
    }

    /// What this node's own probes measured of the link to `peer` lately; `None` if they are few or
    /// old. `by_stream`: it goes over a stream, where late exchanges count as lost.
    pub fn measured(&self, now: Instant, peer: &NodeName, by_stream: bool) -> Option<PathMetrics> {
        let monitor = self.monitors.get(peer).filter(|monitor| monitor.is_measured(now))?;
        trial::measured(monitor, now, by_stream)
    }

    /// The link to `peer` goes over another carrier than before.
    pub fn another_path(&mut self, peer: &NodeName) {
        self.monitors.get_mut(peer).into_iter().for_each(Monitor::another_path);
    }

    /// The connection to `peer` has ended. A link that is probed rarely is probed at once, so that it is soon
    /// known to be down.
    pub fn link_down(&mut self, now: Instant, peer: &NodeName) {
        self.unanswered(now, peer);
        self.sharing.gone(now, peer);
    }

    /// The members whose links are probed once in 100 s.
    #[must_use]
    pub fn probed_rarely(&self) -> Vec<NodeName> {
        let rare = self.monitors.iter().filter(|(_, monitor)| monitor.is_rare());
        rare.map(|(peer, _)| peer.clone()).collect()
    }

    /// What goes to `peer` is not answered. A link that is probed rarely is probed at once.
    pub fn unanswered(&mut self, now: Instant, peer: &NodeName) {
        self.monitors.get_mut(peer).into_iter().for_each(|monitor| monitor.unanswered(now));
    }

    /// Watches the links to `peers` closely for half a minute: a lane in use goes by them.
    pub fn watch(&mut self, now: Instant, peers: &[NodeName]) {
        let known = peers.iter().filter(|peer| self.monitors.contains_key(*peer));
        let mut more = false;
        for peer in known {
            more |= self.watched.insert(peer.clone(), now + WATCHED_FOR).is_none();
        }
        if more {
            self.divide_budget(now);
        }
    }

    /// Deletes a node whose certificate has ended or was revoked: its link and its advertisement.
    pub fn forget(&mut self, now: Instant, peer: &NodeName) {
        self.db.forget(peer);
        self.sharing.forget(peer);
        self.spared.remove(peer);
        self.watched.remove(peer);
        if self.monitors.remove(peer).is_some() {
            self.originator.changed();
            self.divide_budget(now);
        }
    }

    /// The budget of measuring and advertising, and the plan.
    #[must_use]
    pub fn budget(&self) -> (Bitrate, Plan) {
        let neighbours = self.monitors.len();
        let advert = ADVERT_HEAD_BYTES + neighbours * REPORT_BYTES;
        let idle = neighbours - self.busy;
        // One that another node measures has a tenth of the probes.
        let spared = self.spared.len().min(idle);
        let idle = idle - spared + spared.div_ceil(10);
        let (sharers, links) = self.sharing.load();
        let shared = (sharers, links * (REPORT_BYTES + SHARED_MORE_BYTES));
        (self.budget, plan(self.budget, self.busy, idle, advert, shared))
    }

    /// How many links either end watches closely: each end pays half of every exchange.
    fn count_busy(&self, now: Instant) -> usize {
        let busy = |(peer, monitor): &(&NodeName, &Monitor)| {
            self.watched.contains_key(*peer) || monitor.is_asked(now)
        };
        self.monitors.iter().filter(busy).count()
    }

    fn divide_budget(&mut self, now: Instant) {
        self.busy = self.count_busy(now);
        let (_, plan) = self.budget();
        for (peer, monitor) in &mut self.monitors {
            let watched = self.watched.contains_key(peer);
            monitor.set_need(
                now,
                match (watched, self.spared.contains(peer)) {
                    (true, _) => Need::Usual,
                    (false, true) => Need::Few,
                    (false, false) if self.sharing.is_on() => Need::Usual,
                    (false, false) => Need::Any,
                },
            );
            let interval = if watched { plan.probe_interval } else { IDLE_INTERVAL };
            monitor.set_interval(now, interval);
        }
        self.originator.set_pace(plan.advert_interval, plan.advert_spacing);
    }

    /// Takes a probe message. The caller sends the answer at once.
    pub fn heard_probe(&mut self, now: Instant, peer: &NodeName, probe: &Probe) -> Option<Probe> {
        self.monitors.get_mut(peer)?.handle_message(now, probe)
    }

    /// What became of the probes of the link to `peer`; `None` without one.
    pub fn probed(&self, peer: &NodeName) -> Option<Probed> {
        self.monitors.get(peer).map(Monitor::probed)
    }

    /// Probes the links of `route` at once, for a lane that suspects silence on it.
    pub fn suspect(&mut self, now: Instant, peer: &NodeName, route: &Route) {
        let first = route.first_node(peer);
        if let Some(monitor) = self.monitors.get_mut(first) {
            monitor.probe_now(now);
        }
    }

    /// Probes the link to `peer` sooner if it is not up.
    pub fn hurry_link(&mut self, now: Instant, peer: &NodeName) {
        self.monitors.get_mut(peer).into_iter().for_each(|monitor| monitor.hurry(now));
    }

    /// Probes the links that are not up sooner: a flow waits for a route.
    pub fn hurry(&mut self, now: Instant) {
        self.monitors.values_mut().for_each(|monitor| monitor.hurry(now));
    }

    /// Probes all links at once: the network may be another one.
    pub fn suspect_all(&mut self, now: Instant) {
        self.monitors.values_mut().for_each(|monitor| monitor.probe_now(now));
    }

    /// Takes the figures of a lane on the direct path to `peer`.
    pub fn observe(&mut self, now: Instant, peer: &NodeName, sample: &PassiveSample) {
        if let Some(monitor) = self.monitors.get_mut(peer) {
            monitor.record_passive(now, sample);
        }
    }

    /// When [`Router::advance`] is to be called next.
    pub fn next_timeout(&self, now: Instant) -> Instant {
        let monitors = self.monitors.values().filter_map(Monitor::poll_timeout).min();
        let expiry = self.db.poll_timeout();
        let advert = self.originator.poll_timeout(now);
        let shared = self.sharing.poll_timeout(now, &|node| self.is_up(now, node));
        let all = monitors.into_iter().chain(expiry).chain(shared).chain([advert]);
        all.min().unwrap_or(advert)
    }

    /// Advances the time; returns the messages to send. `draw` gives uniform numbers in 0..1.
    pub fn advance(&mut self, now: Instant, draw: &mut dyn FnMut() -> f64) -> Due {
        let mut due = Due { expired: self.db.expire(now), ..Due::default() };
        self.watched.retain(|_, until| now < *until);
        self.monitors.values_mut().for_each(|monitor| monitor.handle_timeout(now));
        if self.share(now, &mut due) || self.busy != self.count_busy(now) {
            self.divide_budget(now);
        }
        for (peer, monitor) in &mut self.monitors {
            due.probes.extend(monitor.poll_transmit(now, draw()).map(|p| (peer.clone(), p)));
            due.events.extend(monitor.poll_event().map(|event| (peer.clone(), event)));
        }
        for (peer, _) in due.events.iter().filter(|(_, event)| *event != LinkEvent::StillDown) {
            self.originator.changed();
            self.sharing.greet(peer);
        }
        let links: Vec<LinkReport> = self
            .monitors
            .iter()
            .map(|(peer, monitor)| LinkReport::new(peer.clone(), &monitor.summary(now)))
            .collect();
        self.originator.measured(&links);
        due.advert = self.originator.poll(now, self.roles, &self.addresses, &self.serves, links);
        due
    }

    /// The result that [`Self::heard_advertisement`] would have. The caller asks before it checks
    /// the signature.
    pub fn judge(&self, now: Instant, flood: &Flood) -> Install {
        self.db.judge(now, flood)
    }

    /// The last advertisement of a node, also if it has expired. It is for its origin that
    /// restarted with a smaller incarnation and has to exceed it.
    pub fn last_flood(&self, now: Instant, origin: &NodeName) -> Option<Flood> {
        self.db.last_flood(origin, now)
    }

    /// Takes an advertisement that the neighbour `sender` sent; `linked` are the neighbours that can
    /// be sent to. When it is [`Install::Own`], an advertisement of this node has become due.
    ///
    /// A new one goes to the nodes to which this node forwards. An origin that restarted with a
    /// smaller incarnation gets its own old advertisement, which it has to exceed.
    pub fn heard_advertisement(
        &mut self,
        now: Instant,
        sender: &NodeName,
        flood: Flood,
        linked: &[NodeName],
    ) -> Heard {
        let (origin, version) = (flood.advert.origin.clone(), flood.advert.version);
        let installed = self.db.install(now, flood);
        let to = match installed {
            Install::Installed | Install::Younger => self.db.forward_to(&origin, linked, now),
            Install::Stale if origin == *sender => vec![origin.clone()],
            Install::Own => {
                self.originator.outbid(version);
                Vec::new()
            }
            _ => Vec::new(),
        };
        let again = |peer: &NodeName| *peer == *sender && installed != Install::Stale;
        let send = to
            .into_iter()
            .filter(|peer| !again(peer))
            .filter_map(|peer| Some((peer, self.db.last_flood(&origin, now)?)))
            .collect();
        Heard { installed, send }
    }

    /// The versions this node holds.
    pub fn digest(&self, now: Instant) -> Vec<(NodeName, Version)> {
        self.db.digest(now)
    }

    /// The advertisements that a neighbour with `digest` lacks.
    pub fn newer_than(&self, now: Instant, digest: &[(NodeName, Version)]) -> Vec<Flood> {
        self.db.newer_than(digest, now)
    }

    /// All routes to `peer` with their figures, for flows whose source has `groups`.
    pub fn candidates(
        &self,
        now: Instant,
        peer: &NodeName,
        wish: &RouteWish,
        groups: &[String],
    ) -> Vec<Candidate> {
        let links = self.summaries(now);
        let view = View { own: &self.us, links: &links, db: &self.db, policy: &self.policy, now };
        let tag = Tag { groups: groups.to_vec(), class: wish.class.clone() };
        let constraints = Constraints {
            via: wish.pin.as_ref().and_then(Route::relay).cloned(),
            avoid: wish.avoid.clone(),
            direct_only: wish.pin == Some(Route::Direct),
        };
        let mut found = candidates(&view, peer, &tag, &constraints);
        if let Hint::App(metric) = &wish.hint {
            for candidate in &mut found {
                candidate.app = self.posted.value(now, metric, peer, Some(&candidate.route));
            }
        }
        found
    }

    /// Whether this node, as a relay, admits a flow between the two nodes by its own rules.
    pub fn admits(
        &self,
        groups: &[String],
        class: Option<&str>,
        from: &NodeName,
        to: &NodeName,
    ) -> Result<(), RuleName> {
        let tag = Tag { groups: groups.to_vec(), class: class.map(str::to_owned) };
        self.policy.admits(&tag, Some(&self.us), from, to)
    }

    /// The links as they are measured now, with figures of other nodes where own ones are missing or old.
    pub fn links(&self, now: Instant) -> BTreeMap<NodeName, LinkSummary> {
        self.summaries(now)
    }

    /// The advertisements that hold at `now`.
    pub fn advertised(&self, now: Instant) -> impl Iterator<Item = &Advertisement> {
        self.db.iter(now)
    }

    /// The least round-trip time that probes to `neighbour` took lately.
    pub fn least_rtt(&self, neighbour: &NodeName) -> Option<Duration> {
        self.monitors.get(neighbour)?.least_rtt()
    }

    /// When a probe message of `neighbour` came in last.
    pub fn heard(&self, neighbour: &NodeName) -> Option<Instant> {
        self.monitors.get(neighbour)?.heard()
    }

    /// When the newest probe message left that `neighbour` has answered.
    pub fn answered(&self, neighbour: &NodeName) -> Option<Instant> {
        self.monitors.get(neighbour)?.answered()
    }

    /// What a node does for others now, by its advertisement; `None` when none is held.
    pub fn roles(&self, now: Instant, node: &NodeName) -> Option<Roles> {
        self.db.get(node, now).map(|advert| advert.roles)
    }

    fn summaries(&self, now: Instant) -> BTreeMap<NodeName, LinkSummary> {
        let monitors = self.monitors.iter();
        let figures = monitors.map(|(peer, monitor)| {
            let own = monitor.summary(now);
            let shared = self.shared(now, peer);
            (peer.clone(), shared.map_or(own, |figure| figure.over(own)))
        });
        figures.collect()
    }
}
