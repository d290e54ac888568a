//! One end of a lane: its slot, its route, and the next hops it may use.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    driver::route_number,
    facts::{LaneFacts, RerouteFacts, stands_still},
};
use crate::{
    failover::{Reroute, RouteAgent, SeenRoute, Timing, Traffic},
    flow::{BoxFuture, Hint, OnLane, Route, RouteWish},
    identity::{NodeName, Peer},
    overlay::{
        candidates::Candidate,
        history::RouteHistory,
        monitor::PassiveSample,
        select::{Decision, Selector},
    },
    transport::RerouteMark,
    underlay::{Neighbour, NextHop, SlotActivity, SlotId, Switch},
    wire::{
        label::Label,
        link::{LaneAsker, LaneEndRole, LinkRefusal, OpenLane},
    },
};

/// The services that a lane needs from the overlay. The mesh implements them, and fakes in tests.
pub trait RouteControl: Send + Sync + 'static {
    /// All routes to `peer` with what is measured of them, for the end `role` of a lane.
    fn candidates(&self, peer: &NodeName, role: LaneEndRole, wish: &RouteWish) -> Vec<Candidate>;

    /// Takes note that a lane to `peer` hears nothing on `route`.
    fn suspect(&self, peer: &NodeName, route: &Route);

    /// Which process of `peer` we have, or last had, a link to; `None` if none so far.
    fn incarnation(&self, peer: &NodeName) -> Option<u64>;

    /// Whether the node that showed the certificate `peer` is still a member; the error says why
    /// not.
    fn standing(&self, peer: &Peer) -> Result<(), String>;

    /// Takes note of what a lane saw among its own packets on the direct path to `peer`. (What it
    /// sees on a relayed route cannot be attributed to one of its two links.)
    fn observe(&self, peer: &NodeName, sample: &PassiveSample);

    /// The least round-trip time that probes to `neighbour` took lately.
    fn least_rtt(&self, neighbour: &NodeName) -> Option<Duration>;

    /// When the newest probe message left that `neighbour` has answered; `None` before the first.
    fn answered(&self, neighbour: &NodeName) -> Option<Instant>;

    /// Watches the links to `neighbours` closely for a while: a lane in use goes by them.
    fn watch(&self, neighbours: &[NodeName]);

    /// Probes the link to `neighbour` now.
    fn probe(&self, neighbour: &NodeName);

    /// Where `neighbour` is, with or without a link to it.
    fn neighbour(&self, neighbour: &NodeName) -> Arc<Neighbour>;

    /// Asks `exit` for a lane; answers with the exit's label.
    fn open_lane(
        &self,
        exit: &NodeName,
        open: OpenLane,
    ) -> BoxFuture<'_, Result<Label, LinkRefusal>>;

    /// The next hop for packets to `request.peer` on `request.route`; asks the relay for a grant
    /// where the route has one.
    fn next_hop(&self, request: HopRequest) -> BoxFuture<'_, Result<NextHop, LinkRefusal>>;

    /// Takes note that this end of a lane moved to another route, and that its stall is over.
    fn rerouted(&self, _end: &LaneEnd, _reroute: &Reroute) {}

    /// Extends grants that were obtained from `relay`; answers for each whether it still holds.
    fn renew(&self, relay: &NodeName, labels: Vec<Label>) -> BoxFuture<'_, Vec<bool>>;
}

/// Which next hop a lane's end asks for.
#[derive(Debug, Clone)]
pub struct HopRequest {
    /// The node at the far end.
    pub peer: NodeName,
    /// The label the far end chose for the lane.
    pub far_label: Label,
    /// How to get there.
    pub route: Route,
    /// Which end we are, and what proves it to the relay.
    pub asker: LaneAsker,
}

/// One end of a lane. Dropping it closes its slot.
pub struct LaneEnd {
    slot: SlotId,
    asker: LaneAsker,
    peer: NodeName,
    pub(super) far_label: Label,
    pub(super) wish: RouteWish,
    pub(super) switch: Arc<Switch>,
    activity: Arc<SlotActivity>,
    mark: Arc<RerouteMark>,
    pub(super) control: Arc<dyn RouteControl>,
    agent: Mutex<RouteAgent>,
}

/// What a lane's end is made of.
pub(super) struct Parts {
    pub(super) switch: Arc<Switch>,
    pub(super) slot: (SlotId, Arc<SlotActivity>),
    pub(super) control: Arc<dyn RouteControl>,
    pub(super) peer: NodeName,
    pub(super) far_label: Label,
    pub(super) asker: LaneAsker,
    pub(super) wish: RouteWish,
    /// The route that the lane begins on, and the selector that chose it.
    pub(super) route: Route,
    pub(super) selector: Selector,
}

impl LaneEnd {
    /// The end of a lane that does not send yet.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { switch, slot: (slot, activity), control, peer, far_label, asker, wish, .. } =
            parts;
        let agent = RouteAgent::new(
            now(),
            asker.role(),
            peer.clone(),
            parts.route,
            parts.selector,
            Timing::default(),
        );
        Self {
            slot,
            asker,
            peer,
            far_label,
            wish,
            switch,
            mark: Arc::new(RerouteMark::new(activity.clone())),
            activity,
            control,
            agent: Mutex::new(agent),
        }
    }

    /// The slot.
    #[must_use]
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// The node at the far end.
    #[must_use]
    pub fn peer(&self) -> &NodeName {
        &self.peer
    }

    /// The route in use.
    #[must_use]
    pub fn route(&self) -> Route {
        self.agent().route().clone()
    }

    /// What passed through the slot.
    #[must_use]
    pub fn activity(&self) -> &SlotActivity {
        &self.activity
    }

    /// The facts for listings; its connection knows the bytes.
    #[must_use]
    pub fn facts(&self) -> LaneFacts {
        let traffic = self.traffic();
        let (route, (last, reroutes)) = {
            let mut agent = self.agent();
            agent.settle(&traffic);
            (agent.route().clone(), agent.history())
        };
        LaneFacts {
            lane: self.slot.0,
            peer: self.peer.clone(),
            route,
            reroutes,
            last_reroute: last.last().map(|reroute| reroute.reason.to_string()),
            history: last.iter().map(|reroute| RerouteFacts::of(reroute, now())).collect(),
            stands_still_seconds: stands_still(
                (self.mark.awaits_answer(), &traffic),
                last.last(),
                now(),
            ),
            packets: self.activity.packets(),
            bytes: (0, 0),
        }
    }

    /// Obtains what is needed to send on the lane's first route, and begins.
    ///
    /// # Errors
    /// When the relay refuses, or a link is down.
    pub(super) async fn begin(&self) -> Result<(), LinkRefusal> {
        let route = self.route();
        let hop = self.ask(&route).await?;
        if let Some(relay) = route.relay() {
            let process = self.control.incarnation(relay);
            self.agent().hold_grant(now(), &route, hop.label, process);
        }
        self.mark.begins_on(route_number(&route));
        self.switch.route_slot(self.slot, Some(hop));
        Ok(())
    }

    /// Asks for the next hop of `route`.
    ///
    /// # Errors
    /// When the relay refuses, or a link is down.
    pub(super) async fn ask(&self, route: &Route) -> Result<NextHop, LinkRefusal> {
        let request = HopRequest {
            peer: self.peer.clone(),
            far_label: self.far_label,
            route: route.clone(),
            asker: self.asker.clone(),
        };
        self.control.next_hop(request).await
    }

    /// The next hop of `route` under a relay's `label`; `None` for the direct route.
    pub(super) fn hop(&self, route: &Route, label: Option<Label>) -> NextHop {
        let first = route.first_node(&self.peer);
        NextHop { neighbour: self.control.neighbour(first), label: label.unwrap_or(self.far_label) }
    }

    /// All routes to the far end, as the overlay measures them.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        self.control.candidates(&self.peer, self.role(), &self.wish)
    }

    /// The same with what is known of each one's first link.
    pub(super) fn seen_routes(&self) -> Vec<SeenRoute> {
        let candidates = self.candidates().into_iter();
        candidates
            .map(|candidate| {
                let first = candidate.route.first_node(&self.peer);
                SeenRoute {
                    link_rtt: self.control.least_rtt(first),
                    process: self.control.incarnation(first),
                    candidate,
                }
            })
            .collect()
    }

    /// What has passed through the slot.
    pub(super) fn traffic(&self) -> Traffic {
        let (asked, answered) = self.mark.progress();
        let arrivals = self.activity.arrivals();
        let std = tokio::time::Instant::into_std;
        Traffic {
            asked,
            answered,
            received: self.activity.packets().1,
            departed: self.activity.departed(),
            arrived: arrivals.last().map(std),
            pause: arrivals.last_pause().map(|(began, ended)| (std(began), std(ended))),
            smoothed_rtt: self.mark.smoothed_rtt(),
            least_rtt: self.mark.least_rtt(),
        }
    }

    /// When the far end was last heard of, while an answer of it is waited for.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.traffic().arrived.filter(|_| self.mark.awaits_answer())
    }

    /// Why the far end, which showed the certificate `peer`, is no member any more, if so.
    pub(super) fn far_end_expelled(&self, peer: &Peer) -> Option<String> {
        self.control.standing(peer).err()
    }

    /// The decision that the agent would make now, its reasons, and the decisions before. Nothing changes.
    #[must_use]
    pub fn explain(&self) -> (Decision, RouteHistory) {
        let candidates = self.candidates();
        self.agent().explain(now(), candidates)
    }

    /// What the lane's flows want of their route.
    pub(super) fn hint(&self) -> &Hint {
        &self.wish.hint
    }

    /// Which end of the lane this is.
    #[must_use]
    pub fn role(&self) -> LaneEndRole {
        self.asker.role()
    }

    /// Tells the lane's congestion controller of reroutes.
    pub(super) fn mark(&self) -> &Arc<RerouteMark> {
        &self.mark
    }

    /// What a flow that begins on the lane has to know to find its reroutes.
    pub(super) fn carries(&self) -> OnLane {
        OnLane { lane: self.slot.0, reroutes_before: self.agent().history().1 }
    }

    /// The last changes of the route, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Reroute> {
        let mut agent = self.agent();
        agent.settle(&self.traffic());
        agent.history().0
    }

    pub(super) fn agent(&self) -> MutexGuard<'_, RouteAgent> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LaneEnd {
    fn drop(&mut self) {
        self.switch.close_slot(self.slot);
    }
}

impl fmt::Debug for LaneEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {} to {}", self.slot.0, self.peer)
    }
}

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
