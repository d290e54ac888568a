//! From an application's wish to a flow: rules, the choice of the exit, the lane.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    association::Associated,
    exits::{Figures, Held, Offer, connect_cost, cost, order},
    flow_log::FlowLog,
    local::LocalFlow,
    local_datagrams::LocalDatagrams,
    serving::Serving,
    steering::Steering,
};
use crate::{
    config::{Action, Rules, Wishes},
    flow::{
        Association, AssociationRequest, BoxFuture, DatagramDrop, DatagramDrops, DatagramFlow,
        DatagramSink, Flow, FlowDialer, FlowRequest, Hint, Host, Ingress, Refusal, RefusalKind,
        RouteWish, Target,
    },
    identity::NodeName,
    lane::{FlowAcceptor as _, LaneKey, LanePool, RouteControl},
    live::Live,
    mesh::Mesh,
    overlay::select::Selector,
    wire::link::LaneEndRole,
};

/// Most exits that may refuse a flow before its client is told. With more, a destination that no exit
/// carries would open a lane to every exit of the overlay.
pub(super) const MAX_REFUSALS: usize = 4;

/// How often a flow that waits asks the mesh to look for routes.
const HURRY_EVERY: Duration = Duration::from_millis(200);

/// Opens flows for the entry.
pub(super) struct Dialer {
    pub(super) rules: Live<Rules>,
    mesh: Arc<Mesh>,
    pool: Arc<LanePool>,
    /// Opens flows that leave at this node.
    pub(super) acceptor: Arc<Serving>,
    held: Mutex<Held>,
    log: Arc<FlowLog>,
    datagram_drops: Arc<DatagramDrops>,
    /// What the user wants of new flows.
    steering: Mutex<Steering>,
    /// Counts the flows that are spread.
    spread: AtomicU8,
}

impl FlowDialer for Dialer {
    fn dial(&self, request: FlowRequest) -> BoxFuture<'_, Result<Box<dyn Flow>, Refusal>> {
        Box::pin(async move {
            let dialled = self.open(&request, &Streams).await;
            match &dialled {
                Ok(flow) => self.log.opened(flow.label()),
                Err(refusal) => self.log.refused(&request.target, refusal),
            }
            dialled
        })
    }

    fn associate(
        self: Arc<Self>,
        request: AssociationRequest,
        client: Arc<dyn DatagramSink>,
    ) -> Arc<dyn Association> {
        Associated::begin(self, request, None, client)
    }

    fn served(&self, exit: Option<&NodeName>) -> Vec<String> {
        self.mesh.served_by(exit)
    }

    fn datagram_drops(&self) -> Arc<DatagramDrops> {
        self.datagram_drops.clone()
    }
}

/// What a dial opens at an exit.
pub(super) trait Opens: Sync {
    /// One flow of this kind.
    type Flow: Send;

    /// Whether lanes for datagrams carry it.
    const DATAGRAMS: bool;

    /// Opens a flow that leaves at this node.
    fn here(
        &self,
        dialer: &Dialer,
        request: &FlowRequest,
        key: &LaneKey,
    ) -> impl Future<Output = Result<Self::Flow, Refusal>> + Send;

    /// Opens a flow on the lane of `key`; `others`: whether there are other exits to turn to.
    fn through(
        &self,
        pool: &LanePool,
        request: &FlowRequest,
        key: &LaneKey,
        others: bool,
    ) -> impl Future<Output = Result<Self::Flow, Refusal>> + Send;
}

/// Opens flows of connections.
struct Streams;

impl Opens for Streams {
    type Flow = Box<dyn Flow>;
    const DATAGRAMS: bool = false;

    async fn here(
        &self,
        dialer: &Dialer,
        request: &FlowRequest,
        key: &LaneKey,
    ) -> Result<Self::Flow, Refusal> {
        let guard = dialer.pool.list_flow(request, key);
        let (us, label) = (dialer.mesh.us(), guard.entry().label);
        let asked = Instant::now();
        let outward = dialer.acceptor.open(us, label, &request.target).await;
        let took = (asked.elapsed(), Duration::ZERO);
        let found = outward.as_ref().map(|_| took).map_err(|refusal| refusal.kind);
        dialer.pool.observe(&request.target, &key.exit, found);
        let outward = outward?;
        Ok(Box::new(LocalFlow::new(guard, outward, dialer.pool.limits())))
    }

    async fn through(
        &self,
        pool: &LanePool,
        request: &FlowRequest,
        key: &LaneKey,
        others: bool,
    ) -> Result<Self::Flow, Refusal> {
        pool.open_flow(request, key, others).await
    }
}

/// Opens flows of an association, whose client this takes what comes back.
struct Datagrams(Arc<dyn DatagramSink>);

impl Opens for Datagrams {
    type Flow = Arc<dyn DatagramFlow>;
    const DATAGRAMS: bool = true;

    async fn here(
        &self,
        dialer: &Dialer,
        request: &FlowRequest,
        key: &LaneKey,
    ) -> Result<Self::Flow, Refusal> {
        let (guard, drops) = (dialer.pool.list_flow(request, key), dialer.datagram_drops.clone());
        let (us, limits) = (dialer.mesh.us(), dialer.pool.limits());
        let label = guard.entry().label;
        let open = |back| match request.ingress {
            Ingress::Conduit => dialer.acceptor.receive(us, label, back, drops),
            _ => dialer.acceptor.associate(us, back, drops),
        };
        let flow = LocalDatagrams::begin(guard, self.0.clone(), limits, open)?;
        Ok(Arc::new(flow))
    }

    async fn through(
        &self,
        pool: &LanePool,
        request: &FlowRequest,
        key: &LaneKey,
        others: bool,
    ) -> Result<Self::Flow, Refusal> {
        pool.open_datagrams(request, key, others, self.0.clone()).await
    }
}

impl Dialer {
    pub(super) fn new(
        rules: Rules,
        (mesh, pool): (Arc<Mesh>, Arc<LanePool>),
        acceptor: Arc<Serving>,
        (log, datagram_drops): (Arc<FlowLog>, Arc<DatagramDrops>),
    ) -> Self {
        let (held, spread) = (Mutex::default(), AtomicU8::new(0));
        Self {
            rules: Live::new(rules),
            mesh,
            pool,
            acceptor,
            held,
            log,
            datagram_drops,
            spread,
            steering: Mutex::default(),
        }
    }

    /// Opens a flow of an association; `client` takes what comes back.
    pub(super) async fn open_datagrams(
        &self,
        request: &FlowRequest,
        client: Arc<dyn DatagramSink>,
    ) -> Result<Arc<dyn DatagramFlow>, Refusal> {
        let opened = self.open(request, &Datagrams(client)).await;
        match &opened {
            Ok(flow) => self.log.opened(flow.label()),
            Err(refusal) => self.log.refused(&request.target, refusal),
        }
        opened
    }

    /// Counts a datagram that is dropped.
    pub(super) fn dropped(&self, reason: DatagramDrop) {
        self.datagram_drops.count(reason);
    }

    /// The log of this entry's flows.
    pub(super) fn log(&self) -> &FlowLog {
        &self.log
    }

    /// Opens a flow, and waits for a route where that may help.
    async fn open<O: Opens>(&self, request: &FlowRequest, what: &O) -> Result<O::Flow, Refusal> {
        let deadline = Instant::now() + self.pool.limits().route_timeout();
        let mut news = self.mesh.route_news();
        let mut waits = false;
        loop {
            let refusal = match self.try_exits(request, what).await {
                Err(refusal) if self.may_pass(&refusal) => refusal,
                done => return done,
            };
            if !waits {
                tracing::info!(%refusal, "the flow waits for a route");
                waits = true;
            }
            if !self.route_may_be_up(&mut news, deadline).await {
                return Err(refusal);
            }
        }
    }

    /// Tries the exits in turn.
    async fn try_exits<O: Opens>(
        &self,
        request: &FlowRequest,
        what: &O,
    ) -> Result<O::Flow, Refusal> {
        let keys = match O::DATAGRAMS {
            true => self.datagram_keys(request)?.into_iter().map(|(key, _)| key).collect(),
            false => self.keys(request)?,
        };
        if keys.iter().any(|key| key.way.is_some()) {
            // The next flow takes the next way.
            self.spread.fetch_add(1, Ordering::Relaxed);
        }
        let mut refusals = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            let others = at + 1 < keys.len();
            let opened = match self.is_here(&key.exit) {
                true => what.here(self, request, key).await,
                false => what.through(&self.pool, request, key, others).await,
            };
            match opened {
                Ok(flow) => {
                    self.held().hold(&request.target.host, &key.exit);
                    return Ok(flow);
                }
                Err(refusal) => refusals.push(refusal.at(key.exit.clone())),
            }
            if is_final(&refusals) {
                break;
            }
            if let (true, Some(refusal)) = (others, refusals.last()) {
                tracing::info!(exit = %key.exit, %refusal, "trying the next exit");
            }
        }
        Err(to_tell(refusals))
    }

    /// Whether the reason for a refusal may pass by itself within seconds: no route, or no exit, is up. While
    /// no link is up, an exit that is not known yet may become known.
    fn may_pass(&self, refusal: &Refusal) -> bool {
        match refusal.kind {
            RefusalKind::ExitUnreachable => true,
            RefusalKind::NoExit => refusal.exit.is_none() || !self.mesh.has_link(),
            _ => false,
        }
    }

    /// Waits until a route may have come up; false after the deadline. The mesh looks for one meanwhile.
    async fn route_may_be_up(&self, news: &mut watch::Receiver<()>, deadline: Instant) -> bool {
        let mut hurry = tokio::time::interval(HURRY_EVERY);
        loop {
            tokio::select! {
                biased;
                () = sleep_until(deadline) => return false,
                changed = news.changed() => return changed.is_ok(),
                _ = hurry.tick() => self.mesh.hurry(),
            }
        }
    }

    /// The lanes that may carry the flow, in the order to be tried.
    pub(super) fn keys(&self, request: &FlowRequest) -> Result<Vec<LaneKey>, Refusal> {
        Ok(self.choices(request)?.into_iter().map(|(key, _)| key).collect())
    }

    /// The same, each with how closely its exit serves the destination.
    fn choices(&self, request: &FlowRequest) -> Result<Vec<(LaneKey, usize)>, Refusal> {
        let steering = self.steering().clone();
        let (user, client) = (request.user.as_deref(), request.client.ip());
        let choice = self.rules.get().choose(&request.target, user, client, &steering.paused);
        let wishes = match choice.action {
            Action::Overlay(wishes) => steering.steer(wishes),
            Action::Reject => {
                let rule = choice.rule.unwrap_or_default();
                let detail = format!("rule {rule} of this entry rejects {}", request.target);
                return Err(Refusal::new(RefusalKind::Policy, detail));
            }
        };
        let host = &request.target.host;
        let Wishes { exits, hint, class, pin, avoid, fallback, patience, spread } = wishes;
        let hint = request.hint.clone().or(hint).unwrap_or_default();
        let (class, patience) = (request.class.clone().or(class), request.patience.or(patience));
        let wish = RouteWish { hint, class, pin, avoid };
        let any = |names: Vec<NodeName>| names.into_iter().map(|name| (name, 0)).collect();
        let (exits, fallback) = match &request.exit {
            Some(exit) => (any(self.active(vec![exit.clone()])?), Vec::new()),
            None if exits.is_empty() => (self.unnamed(&request.target), self.active(fallback)?),
            None if fallback.is_empty() => (any(self.active(exits)?), fallback),
            None => match self.active(exits) {
                Ok(exits) => (any(exits), self.active(fallback).unwrap_or_default()),
                Err(_) => (Vec::new(), self.active(fallback)?),
            },
        };
        let fits = exits.clone();
        let fit =
            |exit: &NodeName| fits.iter().find(|(name, _)| name == exit).map_or(0, |(_, fit)| *fit);
        let ordered = [self.ordered(exits, host, &wish), self.ordered(any(fallback), host, &wish)];
        let way = spread.map(|lanes| self.spread.load(Ordering::Relaxed) % lanes.max(1));
        let datagrams = false;
        let key = |exit: NodeName| {
            let fit = fit(&exit);
            (LaneKey { exit, wish: wish.clone(), patience, way, datagrams }, fit)
        };
        Ok(ordered.into_iter().flatten().map(key).collect())
    }

    /// The lanes that may carry datagrams, each with how closely its exit serves the destination. Datagrams
    /// are not spread: all destinations of an association shall see one source address.
    pub(super) fn datagram_keys(
        &self,
        request: &FlowRequest,
    ) -> Result<Vec<(LaneKey, usize)>, Refusal> {
        let keys = self.choices(request)?.into_iter();
        Ok(keys.map(|(key, fit)| (LaneKey { way: None, datagrams: true, ..key }, fit)).collect())
    }

    /// The exits for a flow that names none. This node is one only if a program in it serves the target, or
    /// it knows no other.
    fn unnamed(&self, target: &Target) -> Vec<(NodeName, usize)> {
        let here = || vec![(self.mesh.us().name.clone(), 0)];
        if self.acceptor.serves(target) {
            return here();
        }
        let others = self.mesh.exits_serving(&target.host);
        if others.is_empty() && self.mesh.serves_itself(&target.host) {
            return here();
        }
        others
    }

    /// Whether a flow without any wish has an exit with a route that is up, and a link is up.
    pub(super) fn can_open(&self) -> bool {
        let exits = self.mesh.known_members().into_iter().filter_map(|member| member.certified);
        let mut exits = exits.filter(|peer| peer.roles.exit && self.mesh.is_exit(&peer.name));
        let wish = RouteWish::default();
        let is_up = |exit: &NodeName| {
            let candidates = self.mesh.candidates(exit, LaneEndRole::Entry, &wish);
            let now = Instant::now().into_std();
            Selector::new(wish.hint.clone()).decide(now, candidates).route.is_some()
        };
        let here = self.mesh.is_exit(&self.mesh.us().name);
        self.mesh.has_link() && (here || exits.any(|exit| is_up(&exit.name)))
    }

    /// Those of `exits` that are exits now; a refusal if none of several is, or is known at all.
    fn active(&self, exits: Vec<NodeName>) -> Result<Vec<NodeName>, Refusal> {
        let (known, unknown): (Vec<_>, Vec<_>) =
            exits.into_iter().partition(|exit| self.mesh.knows(exit));
        if let (true, Some(exit)) = (known.is_empty(), unknown.into_iter().next()) {
            let detail = format!(
                "no node of this overlay that is known here is named {exit}; `ronproxy routes` lists the exits"
            );
            return Err(Refusal::new(RefusalKind::NoExit, detail).at(exit));
        }
        let (active, others): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|exit| self.mesh.is_exit(exit));
        match others.into_iter().next() {
            Some(exit) if active.is_empty() => {
                let who = match self.is_here(&exit) {
                    true => format!("this node ({exit})"),
                    false => format!("node {exit}"),
                };
                let detail = format!(
                    "{who} is not an exit: it needs a certificate that grants it and [exit] enabled = true"
                );
                Err(Refusal::new(RefusalKind::NotAnExit, detail).at(exit))
            }
            _ => Ok(active),
        }
    }

    /// Whether a flow that is to leave at `exit` leaves at this node.
    pub(super) fn is_here(&self, exit: &NodeName) -> bool {
        self.mesh.us().name == *exit
    }

    /// The exits, each given with how closely it serves `host`, in the order to be tried.
    fn ordered(
        &self,
        exits: Vec<(NodeName, usize)>,
        host: &Host,
        wish: &RouteWish,
    ) -> Vec<NodeName> {
        let figures = self.figures(&exits, &wish.hint);
        let connect = |exit: &NodeName| match &wish.hint {
            Hint::App(metric) if metric.is_connect() => connect_cost(self.connect_time(host, exit)),
            _ => 0,
        };
        let offer = |(exit, fit): (NodeName, usize)| {
            if self.is_here(&exit) {
                let cost = figures.as_ref().map_or_else(|| connect(&exit), |f| f.of(&exit));
                return Offer { exit, fit, cost: Some(cost) };
            }
            let candidates = self.mesh.candidates(&exit, LaneEndRole::Entry, wish);
            let mut selector = Selector::new(wish.hint.clone());
            let decision = selector.decide(Instant::now().into_std(), candidates);
            let cost = decision.route.map(|route| {
                if let Some(figures) = &figures {
                    return figures.of(&exit);
                }
                let taken = decision.candidates.iter().find(|c| c.candidate.route == route);
                let route = cost(&wish.hint, taken.and_then(|taken| taken.candidate.metrics));
                route.saturating_add(connect(&exit))
            });
            Offer { exit, fit, cost }
        };
        order(exits.into_iter().map(offer).collect(), self.held().exit(host))
    }

    /// How long `exit` took lately to connect to `host`; `None`: nothing is known of the last minutes.
    pub(super) fn connect_time(&self, host: &Host, exit: &NodeName) -> Option<Duration> {
        self.pool.connect_time(host, exit)
    }

    /// What the application's metric says of the exits; `None`: it does not decide among them.
    fn figures(&self, exits: &[(NodeName, usize)], hint: &Hint) -> Option<Figures> {
        let Hint::App(metric) = hint else { return None };
        let figure = |(exit, _): &(NodeName, usize)| {
            Some((exit.clone(), self.mesh.figure(metric, exit)?.millionths()))
        };
        Figures::of_exits(exits.iter().filter_map(figure))
    }

    /// What new flows are steered to.
    pub(super) fn steering(&self) -> MutexGuard<'_, Steering> {
        self.steering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether no other exit is to be asked after these refusals.
fn is_final(refusals: &[Refusal]) -> bool {
    // An exit that cannot be reached costs no lane.
    let answered = refusals.iter().filter(|r| r.kind != RefusalKind::ExitUnreachable).count();
    answered >= MAX_REFUSALS || refusals.last().is_some_and(|r| !r.kind.may_differ_elsewhere())
}

/// Which of several exits' refusals the client is told: one that concerns the destination, else the
/// first of an exit that answered, else the last.
fn to_tell(mut refusals: Vec<Refusal>) -> Refusal {
    let at = refusals
        .iter()
        .position(|refusal| !refusal.kind.may_differ_elsewhere())
        .or_else(|| refusals.iter().position(|r| r.kind != RefusalKind::ExitUnreachable))
        .or(refusals.len().checked_sub(1));
    match at {
        Some(at) => refusals.swap_remove(at),
        None => Refusal::new(RefusalKind::NoExit, "no exit is known yet"),
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialer")
    }
}
