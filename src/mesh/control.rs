//! Which routes lanes may take, and how to get onto them.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::Mesh;
use crate::{
    events::{Event, LaneSide, RerouteKind},
    failover::Reroute,
    flow::{AppMetric, BoxFuture, Host, Route, RouteWish},
    identity::{NodeName, Peer},
    lane::{HopRequest, LaneEnd, RouteControl, why},
    link::{Link, LinkDrop, LinkError},
    overlay::{
        candidates::{AppValue, Candidate},
        linkstate::Roles,
        monitor::{LinkState, PassiveSample},
        posted::{Declared, PostError},
    },
    underlay::{Neighbour, NextHop},
    wire::{
        label::Label,
        lane::RerouteReason,
        link::{ForwardRequest, LaneEndRole, LinkRefusal, OpenLane, Reply, Request, RequestFault},
    },
};

/// Requests for labels of lanes with one far end, at once and in a second: after an outage each of its 64 lanes
/// asks for three routes, and labels last for two minutes. A relay answers 64 a second, and ends its link with
/// this node if it is asked too often. A lane follows its far end to another route, and the far end may tell
/// of moves at any pace.
pub(super) const ASKS: (u32, f64) = (256, 16.0);

impl Mesh {
    async fn ask_for_lane(&self, exit: &NodeName, open: OpenLane) -> Result<Reply, LinkError> {
        let route = open.route.clone();
        let request = self.lane_request(exit, open)?;
        match route {
            // A link outlives its path for a while; asking over it would wait for nothing.
            Route::Via(relay) if !self.is_path_up(exit) => {
                self.links.request(&relay, &Request::PassOn(request)).await
            }
            _ => self.links.request(exit, &Request::OpenLane(request)).await,
        }
    }

    /// Takes one request for a label because of a lane with `far_end` from the budget of that node.
    fn take_ask(&self, far_end: &NodeName) -> Result<(), LinkRefusal> {
        let now = tokio::time::Instant::now().into_std();
        if self.asks.lock().unwrap_or_else(PoisonError::into_inner).take(now, far_end) {
            return Ok(());
        }
        self.links.drops().count(LinkDrop::LaneRequest(RequestFault::TooFast));
        Err(LinkRefusal::Unproved(RequestFault::TooFast))
    }

    pub(super) fn is_path_up(&self, peer: &NodeName) -> bool {
        let now = tokio::time::Instant::now().into_std();
        let measured = self.routing().links(now).get(peer).map(|link| link.state);
        let down = matches!(measured, Some(LinkState::Down | LinkState::Recovering { .. }));
        self.links.get(peer).is_some() && !down
    }

    /// Whether `name` is an exit now.
    ///
    /// Its signed advertisement decides. Before one arrives a node is taken for an exit: the node
    /// itself refuses the flow if it is none.
    #[must_use]
    pub fn is_exit(&self, name: &NodeName) -> bool {
        if *name == self.us.name {
            return self.exit;
        }
        let now = tokio::time::Instant::now().into_std();
        self.routing().roles(now, name).is_none_or(|roles| roles.contains(Roles::EXIT))
    }

    /// Takes a value of an application's metric for an exit, and for a route to it.
    ///
    /// # Errors
    /// As for [`Posted::post`](crate::overlay::posted::Posted::post).
    pub fn post(
        &self,
        metric: &AppMetric,
        declared: Declared,
        to: (&NodeName, Option<&Route>),
        value: f64,
    ) -> Result<(), PostError> {
        let now = tokio::time::Instant::now().into_std();
        self.routing().posted().post(now, metric, declared, to, value)
    }

    /// The value of a metric, as it was posted, of an exit or of one route to it.
    #[must_use]
    pub fn posted(
        &self,
        metric: &AppMetric,
        exit: &NodeName,
        route: Option<&Route>,
    ) -> Option<f64> {
        let now = tokio::time::Instant::now().into_std();
        self.routing().posted().mean(now, metric, exit, route)
    }

    /// The same of an exit as a figure of which less is better.
    #[must_use]
    pub fn figure(&self, metric: &AppMetric, exit: &NodeName) -> Option<AppValue> {
        let now = tokio::time::Instant::now().into_std();
        self.routing().posted().value(now, metric, exit, None)
    }

    /// Whether this node is an exit that serves `host`.
    #[must_use]
    pub fn serves_itself(&self, host: &Host) -> bool {
        self.exit && fit(&self.us.serves, host).is_some()
    }

    /// The other exits that serve `host` by their certificates, by name, each with how closely it
    /// does: the length of the longest domain suffix or prefix, 0 for one without limits.
    #[must_use]
    pub fn exits_serving(&self, host: &Host) -> Vec<(NodeName, usize)> {
        let certified = self.known_members().into_iter().filter_map(|member| member.certified);
        let exits = certified.filter(|peer| peer.roles.exit && self.is_exit(&peer.name));
        exits.filter_map(|exit| Some((exit.name.clone(), fit(&exit.serves, host)?))).collect()
    }

    /// What all exits serve by their certificates, or this one, whether they are up or not: domains and networks,
    /// sorted, each once.
    #[must_use]
    pub fn served_by(&self, exit: Option<&NodeName>) -> Vec<String> {
        let asked = |name: &NodeName| exit.is_none_or(|exit| exit == name);
        let certified = self.known_members().into_iter().filter_map(|member| member.certified);
        let exits = certified.filter(|peer| peer.roles.exit && asked(&peer.name));
        let here = (self.exit && asked(&self.us.name)).then(|| self.us.serves.clone());
        let all = exits.map(|peer| peer.serves.clone()).chain(here).flatten();
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// How well an exit that serves `serves` fits `host`: the length of the longest domain suffix or
/// CIDR prefix, 0 for one without limits, `None` for one that does not serve it.
fn fit(serves: &[String], host: &Host) -> Option<usize> {
    if serves.is_empty() {
        return Some(0);
    }
    let fits = serves.iter().filter_map(|served| match host {
        Host::Name(name) => {
            let suffix = served.trim_start_matches("*.");
            let within = name == suffix
                || name.strip_suffix(suffix).is_some_and(|prefix| prefix.ends_with('.'));
            within.then_some(1 + suffix.len())
        }
        Host::Ip(ip) => {
            let net: ipnet::IpNet = served.parse().ok()?;
            net.contains(ip).then_some(1 + usize::from(net.prefix_len()))
        }
    });
    fits.max()
}

impl RouteControl for Mesh {
    fn candidates(&self, peer: &NodeName, role: LaneEndRole, wish: &RouteWish) -> Vec<Candidate> {
        let groups = match role {
            LaneEndRole::Entry => self.us.groups.clone(),
            LaneEndRole::Exit => {
                self.links.get(peer).map_or_else(Vec::new, |link| link.peer().groups.clone())
            }
        };
        let now = tokio::time::Instant::now().into_std();
        self.routing().candidates(now, peer, wish, &groups)
    }

    fn suspect(&self, peer: &NodeName, route: &Route) {
        self.look_at_network();
        let now = tokio::time::Instant::now().into_std();
        self.routing().suspect(now, peer, route);
        self.news.notify_one();
        self.members().suspect(now, route.first_node(peer));
        self.dial_news.notify_one();
    }

    fn standing(&self, peer: &Peer) -> Result<(), String> {
        Self::standing(self, peer).map_err(|ended| ended.to_string())
    }

    fn incarnation(&self, peer: &NodeName) -> Option<u64> {
        self.links.incarnation(peer)
    }

    fn least_rtt(&self, neighbour: &NodeName) -> Option<Duration> {
        self.routing().least_rtt(neighbour)
    }

    fn answered(&self, neighbour: &NodeName) -> Option<Instant> {
        self.routing().answered(neighbour)
    }

    fn watch(&self, neighbours: &[NodeName]) {
        self.routing().watch(tokio::time::Instant::now().into_std(), neighbours);
        self.news.notify_one();
    }

    fn probe(&self, neighbour: &NodeName) {
        let now = tokio::time::Instant::now().into_std();
        self.routing().suspect(now, neighbour, &Route::Direct);
        self.news.notify_one();
    }

    fn neighbour(&self, neighbour: &NodeName) -> Arc<Neighbour> {
        self.links.neighbour(neighbour)
    }

    fn observe(&self, peer: &NodeName, sample: &PassiveSample) {
        self.routing().observe(tokio::time::Instant::now().into_std(), peer, sample);
    }

    fn open_lane(
        &self,
        exit: &NodeName,
        open: OpenLane,
    ) -> BoxFuture<'_, Result<Label, LinkRefusal>> {
        let exit = exit.clone();
        Box::pin(async move {
            let mut reply = self.ask_for_lane(&exit, open.clone()).await;
            if let Err(LinkError::Refused(LinkRefusal::Unproved(fault))) = reply
                && self.may_ask_again(&exit, fault)
            {
                reply = self.ask_for_lane(&exit, open).await;
            }
            match reply.map_err(|error| refusal(error, &exit))? {
                Reply::LaneOpened { label } => Ok(label),
                _ => Err(LinkRefusal::Unexpected),
            }
        })
    }

    fn next_hop(&self, request: HopRequest) -> BoxFuture<'_, Result<NextHop, LinkRefusal>> {
        Box::pin(async move {
            let HopRequest { peer, far_label, route, asker } = request;
            match route {
                Route::Direct => {
                    let link = self.links.get(&peer).ok_or(LinkRefusal::NoLink(peer))?;
                    Ok(NextHop { neighbour: link.neighbour().clone(), label: far_label })
                }
                Route::Via(relay) => {
                    // Whoever asked for this lane named the relay.
                    let link = self.links.get(&relay).ok_or(LinkRefusal::NoLink(relay.clone()))?;
                    if relay == peer || !self.attestations.newest_of(link.peer()).roles.relay {
                        return Err(LinkRefusal::NotMyRole("relay".into()));
                    }
                    self.take_ask(&peer)?;
                    let ask = ForwardRequest { toward: peer.clone(), label: far_label, asker };
                    let reply = self.links.request(&relay, &Request::Forward(ask)).await;
                    let reply = reply.map_err(|error| refusal(error, &relay));
                    match reply.inspect_err(|refusal| log_no_label(&link, &peer, refusal))? {
                        Reply::Granted { label, .. } => {
                            Ok(NextHop { neighbour: self.links.neighbour(&relay), label })
                        }
                        _ => Err(LinkRefusal::Unexpected),
                    }
                }
            }
        })
    }

    fn rerouted(&self, end: &LaneEnd, reroute: &Reroute) {
        let event = Event::Rerouted {
            lane: end.slot().0,
            end: match end.role() {
                LaneEndRole::Entry => LaneSide::Entry,
                LaneEndRole::Exit => LaneSide::Exit,
            },
            peer: end.peer().clone(),
            from: reroute.from.clone(),
            to: reroute.to.clone(),
            reason: match reroute.reason {
                RerouteReason::Silent { .. } => RerouteKind::Silent,
                RerouteReason::Lossy { .. } => RerouteKind::Lossy,
                RerouteReason::Better => RerouteKind::Better,
                RerouteReason::FarEnd => RerouteKind::FarEnd,
                RerouteReason::Trial => RerouteKind::Trial,
            },
            why: why(reroute),
            stall_ms: reroute.stall.map(|stall| stall.as_secs_f64() * 1e3),
        };
        let now = tokio::time::Instant::now().into_std();
        self.events.record_ago(now.saturating_duration_since(reroute.at), event);
    }

    fn renew(&self, relay: &NodeName, labels: Vec<Label>) -> BoxFuture<'_, Vec<bool>> {
        let relay = relay.clone();
        Box::pin(async move {
            match self.links.request(&relay, &Request::Renew(labels)).await {
                Ok(Reply::Renewed(renewed)) => renewed,
                _ => Vec::new(),
            }
        })
    }
}

/// The far end may cause this at any pace.
fn log_no_label(relay: &Link, peer: &NodeName, refusal: &LinkRefusal) {
    let now = tokio::time::Instant::now().into_std();
    if let Some(more) = relay.conduct().log(now, "no label") {
        tracing::info!(relay = %relay.peer().name, %peer, %refusal, more, "no label for a route");
    }
}

fn refusal(error: LinkError, node: &NodeName) -> LinkRefusal {
    match error {
        LinkError::Refused(refusal) => refusal,
        _ => LinkRefusal::NoLink(node.clone()),
    }
}
