//! The simulation: routers, the paths between them, and one queue of what happens when.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::{Duration, Instant},
};

use rand::RngExt;
use rand_pcg::Pcg64Mcg;
use ronproxy::internals::{
    emulator::{Event, Site, Topology},
    flow::Route,
    identity::NodeName,
    overlay::{
        budget::DEFAULT_BUDGET,
        linkstate::{Flood, MAX_SIGNATURE, Roles},
        metrics::PathMetrics,
        policy::Policy,
        router::Router,
    },
};

use crate::{
    control::{Control, Generation, resend_after},
    figures::rng,
    net::Net,
    queue::{Entry, Message, Spent, What},
};

/// A packet of a QUIC handshake.
const HANDSHAKE_BYTES: usize = 1_200;

/// One node.
struct Node {
    name: NodeName,
    router: Router,
    policy: Policy,
    site: Vec<NodeName>,
    chance: Pcg64Mcg,
    /// The earliest wake-up in the queue.
    wake: Option<Instant>,
    /// Which neighbours do not know yet that this is a new process.
    fresh_to: Vec<bool>,
    spent: Spent,
}

pub(crate) struct Sim {
    start: Instant,
    now: Instant,
    created: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    net: Net,
    nodes: Vec<Node>,
    controls: BTreeMap<(usize, usize), Control>,
}

impl Sim {
    /// All sites of `topology` as nodes that relay and are exits, without policy.
    pub(crate) fn new(topology: &Topology, seed: u64) -> Self {
        Self::with_policy(topology, seed, |_| Policy::default())
    }

    pub(crate) fn with_policy(
        topology: &Topology,
        seed: u64,
        policy: impl Fn(&str) -> Policy,
    ) -> Self {
        let start = Instant::now();
        let sites = topology.sites();
        let node = |(at, site): (usize, &Site)| Node {
            name: site.name.parse().unwrap(),
            router: router(site.name.parse().unwrap(), 1, policy(&site.name)),
            policy: policy(&site.name),
            site: Vec::new(),
            chance: rng(seed.wrapping_mul(1_000_003) ^ (at as u64 + 1) << 32),
            wake: None,
            fresh_to: vec![false; sites.len()],
            spent: Spent::default(),
        };
        let nodes: Vec<_> = sites.iter().enumerate().map(node).collect();
        let net = Net::new(topology, seed);
        let (queue, controls) = (BinaryHeap::new(), BTreeMap::new());
        let mut sim = Self { start, now: start, created: 0, queue, net, nodes, controls };
        for at in 0..sim.nodes.len() {
            sim.push(start, What::Wake(at));
            for to in at + 1..sim.nodes.len() {
                sim.controls.insert((at, to), Control::new(start));
                sim.push(start, What::Dial(at, to));
            }
        }
        sim
    }

    /// Plans changes of the paths.
    pub(crate) fn plan(&mut self, events: Vec<Event>) {
        for event in events {
            self.push(self.start + event.at, What::Change(event));
        }
    }

    /// These nodes are one site, and share what they measure.
    pub(crate) fn site(&mut self, members: &[usize]) {
        let names: Vec<_> = members.iter().map(|at| self.nodes[*at].name.clone()).collect();
        for at in members {
            self.nodes[*at].site.clone_from(&names);
            self.nodes[*at].router.share_with(names.clone());
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn time(&self) -> Duration {
        self.now - self.start
    }

    pub(crate) fn node(&self, name: &str) -> usize {
        self.nodes.iter().position(|node| node.name.as_str() == name).unwrap()
    }

    pub(crate) fn name(&self, at: usize) -> &NodeName {
        &self.nodes[at].name
    }

    pub(crate) fn router(&self, at: usize) -> &Router {
        &self.nodes[at].router
    }

    /// Watches the links of node `at` to these neighbours closely for a while.
    pub(crate) fn watch(&mut self, at: usize, links: &[NodeName]) {
        self.nodes[at].router.watch(self.now, links);
        self.advance(at);
    }

    pub(crate) fn spent(&self, at: usize) -> Spent {
        self.nodes[at].spent
    }

    /// What `route` is really like now; `None` while a path of it is cut.
    pub(crate) fn truth(&self, from: usize, to: usize, route: &Route) -> Option<PathMetrics> {
        let Some(relay) = route.relay() else { return self.net.truth(from, to) };
        let relay = self.node(relay.as_str());
        Some(self.net.truth(from, relay)?.then(self.net.truth(relay, to)?))
    }

    /// Every conceivable route from one node to another.
    pub(crate) fn routes(&self, from: usize, to: usize) -> Vec<Route> {
        let relays = (0..self.nodes.len()).filter(|at| *at != from && *at != to);
        let relayed = relays.map(|at| Route::Via(self.nodes[at].name.clone()));
        [Route::Direct].into_iter().chain(relayed).collect()
    }

    /// Lets time pass until `time` after the start.
    pub(crate) fn run_until(&mut self, time: Duration) {
        let until = self.start + time;
        while let Some(Reverse(Entry(at, ..))) = self.queue.peek()
            && *at <= until
        {
            let Some(Reverse(Entry(at, _, what))) = self.queue.pop() else { break };
            self.now = at;
            self.happen(what);
        }
        self.now = until;
    }

    /// The node starts again as a new process, which knows nothing.
    pub(crate) fn restart(&mut self, at: usize, incarnation: u64) {
        let node = &mut self.nodes[at];
        node.router = router(node.name.clone(), incarnation, node.policy.clone());
        node.router.share_with(node.site.clone());
        node.fresh_to.fill(true);
        for other in (0..self.nodes.len()).filter(|other| *other != at) {
            let pair = (at.min(other), at.max(other));
            self.control(pair).end();
            self.push(self.now, What::Dial(pair.0, pair.1));
        }
    }

    fn push(&mut self, at: Instant, what: What) {
        self.created += 1;
        self.queue.push(Reverse(Entry(at, self.created, what)));
    }

    fn control(&mut self, pair: (usize, usize)) -> &mut Control {
        self.controls.get_mut(&(pair.0.min(pair.1), pair.0.max(pair.1))).unwrap()
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Wake(at) => {
                if self.nodes[at].wake.is_none_or(|wake| wake <= self.now) {
                    self.nodes[at].wake = None;
                    self.advance(at);
                }
            }
            What::Arrive { from, to, cuts, message, generation, attempt } => {
                if self.net.was_cut(from, to, cuts) {
                    self.lost(from, to, message, generation, attempt);
                } else {
                    self.arrive(from, to, message, generation);
                }
            }
            What::Send { from, to, message, generation, attempt } => {
                self.send(from, to, message, generation, attempt);
            }
            What::Dial(a, b) => self.dial(a, b),
            What::Stand(a, b) => self.stand(a, b),
            What::Look(a, b, generation) => self.look(a, b, generation),
            What::Change(event) => self.net.apply(&event.change),
        }
    }

    fn advance(&mut self, at: usize) {
        let now = self.now;
        let Node { router, chance, .. } = &mut self.nodes[at];
        let due = router.advance(now, &mut || chance.random());
        for (peer, probe) in due.probes {
            self.tell(at, &peer, Message::Probe(probe));
        }
        if let Some((advert, _)) = due.advert {
            let flood = Flood::new(advert, vec![0; MAX_SIGNATURE]);
            for peer in self.linked(at) {
                self.tell(at, &peer, Message::Advert(flood.clone()));
            }
        }
        if let Some((sharers, links)) = due.shared {
            for sharer in sharers {
                self.tell(at, &sharer, Message::Shared(links.clone()));
            }
        }
        let next = self.nodes[at].router.next_timeout(now);
        if self.nodes[at].wake.is_none_or(|wake| next < wake) {
            self.nodes[at].wake = Some(next);
            self.push(next, What::Wake(at));
        }
    }

    fn linked(&self, at: usize) -> Vec<NodeName> {
        let others = (0..self.nodes.len()).filter(|other| *other != at);
        let up = others.filter(|other| self.controls[&(at.min(*other), at.max(*other))].up);
        up.map(|other| self.nodes[other].name.clone()).collect()
    }

    fn tell(&mut self, from: usize, to: &NodeName, message: Message) {
        let to = self.node(to.as_str());
        let generation = self.control((from, to)).generation;
        self.send(from, to, message, generation, 0);
    }

    fn send(
        &mut self,
        from: usize,
        to: usize,
        message: Message,
        generation: Generation,
        attempt: u32,
    ) {
        let control = self.control((from, to));
        if !control.up || control.generation != generation {
            return;
        }
        let bytes = message.bytes();
        self.nodes[from].spent.add(&message, bytes);
        match self.net.send(self.now, from, to, bytes) {
            Some(sent) => {
                let cuts = sent.cuts;
                let arrive = What::Arrive { from, to, cuts, message, generation, attempt };
                self.push(sent.at, arrive);
            }
            None => self.lost(from, to, message, generation, attempt),
        }
    }

    /// Probes are datagrams; everything else is sent again.
    fn lost(
        &mut self,
        from: usize,
        to: usize,
        message: Message,
        generation: Generation,
        attempt: u32,
    ) {
        if matches!(message, Message::Probe(_)) {
            return;
        }
        let after = resend_after(self.net.truth(from, to), attempt);
        let again = What::Send { from, to, message, generation, attempt: attempt + 1 };
        self.push(self.now + after, again);
    }

    fn arrive(&mut self, from: usize, to: usize, message: Message, generation: Generation) {
        let now = self.now;
        let control = self.control((from, to));
        if !control.up || control.generation != generation {
            return;
        }
        control.hear(now, to < from);
        self.nodes[to].spent.add(&message, message.bytes());
        let sender = self.nodes[from].name.clone();
        match message {
            Message::Probe(probe) => {
                if let Some(answer) = self.nodes[to].router.heard_probe(now, &sender, &probe) {
                    self.tell(to, &sender, Message::Probe(answer));
                }
                self.advance(to);
            }
            Message::Advert(flood) => {
                let linked = self.linked(to);
                let router = &mut self.nodes[to].router;
                let heard = router.heard_advertisement(now, &sender, flood, &linked);
                for (peer, flood) in heard.send {
                    self.tell(to, &peer, Message::Advert(flood));
                }
                self.advance(to);
            }
            Message::Shared(links) => {
                self.nodes[to].router.heard_shared(now, &sender, links);
                self.advance(to);
            }
            Message::Digest(digest) => {
                for flood in self.nodes[to].router.newer_than(now, &digest) {
                    self.tell(to, &sender, Message::Advert(flood));
                }
            }
        }
    }

    /// Tries once to link two nodes: a packet there, one back.
    fn dial(&mut self, a: usize, b: usize) {
        if self.control((a, b)).up {
            return;
        }
        let there = self.net.send(self.now, a, b, HANDSHAKE_BYTES);
        let back = there.and_then(|sent| self.net.send(sent.at, b, a, HANDSHAKE_BYTES));
        match back {
            Some(sent) => self.push(sent.at, What::Stand(a, b)),
            None => {
                let retry = self.control((a, b)).next_retry();
                self.push(self.now + retry, What::Dial(a, b));
            }
        }
    }

    fn stand(&mut self, a: usize, b: usize) {
        let now = self.now;
        let control = self.control((a, b));
        if control.up {
            return;
        }
        control.stand(now);
        let (generation, look) = (control.generation, control.gives_up_at());
        self.push(look, What::Look(a, b, generation));
        for (us, them) in [(a, b), (b, a)] {
            let restarted = std::mem::take(&mut self.nodes[them].fresh_to[us]);
            let peer = self.nodes[them].name.clone();
            let Node { router, chance, .. } = &mut self.nodes[us];
            router.link_up(now, &peer, restarted, chance.random());
            let digest = router.digest(now);
            self.tell(us, &peer, Message::Digest(digest));
            self.advance(us);
        }
    }

    /// Ends a link of which an end has heard nothing for too long.
    fn look(&mut self, a: usize, b: usize, generation: Generation) {
        let now = self.now;
        let control = self.control((a, b));
        if !control.up || control.generation != generation {
            return;
        }
        let look = control.gives_up_at();
        if look > now {
            self.push(look, What::Look(a, b, generation));
        } else {
            control.end();
            self.push(now, What::Dial(a, b));
        }
    }
}

fn router(name: NodeName, incarnation: u64, policy: Policy) -> Router {
    let roles = Roles::RELAY.with(Roles::EXIT);
    Router::named(name, roles, Vec::new(), incarnation, policy, DEFAULT_BUDGET)
}
