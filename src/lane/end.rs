//! One end of a lane: its slot, its route, and the next hops it may use.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    history::{Cause, History, LaneFacts, Reroute, RerouteFacts},
    hops::Hops,
    keeper::now,
    suspects::Suspects,
};
use crate::{
    flow::{BoxFuture, Hint, OnLane, Route, RouteWish},
    identity::{NodeName, Peer},
    overlay::{candidates::Candidate, monitor::PassiveSample, select::Selector},
    transport::RerouteMark,
    underlay::{NextHop, SlotActivity, SlotId, Switch},
    wire::{
        label::Label,
        link::{LaneEndRole, LinkRefusal, OpenLane},
    },
};

/// What a lane needs of the overlay around it. Implemented by the mesh, and by fakes in tests.
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

    /// Asks `exit` for a lane; answers with the exit's label.
    fn open_lane(
        &self,
        exit: &NodeName,
        open: OpenLane,
    ) -> BoxFuture<'_, Result<Label, LinkRefusal>>;

    /// The next hop for packets to `request.peer` on `request.route`; asks the relay for a grant
    /// where the route has one.
    fn next_hop(&self, request: HopRequest) -> BoxFuture<'_, Result<NextHop, LinkRefusal>>;

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
    /// Which end we are.
    pub role: LaneEndRole,
    /// The traffic class of the lane's flows.
    pub class: Option<String>,
}

/// One end of a lane. Dropping it closes its slot.
pub struct LaneEnd {
    slot: SlotId,
    role: LaneEndRole,
    peer: NodeName,
    pub(super) far_label: Label,
    pub(super) wish: RouteWish,
    pub(super) switch: Arc<Switch>,
    activity: Arc<SlotActivity>,
    mark: Arc<RerouteMark>,
    pub(super) control: Arc<dyn RouteControl>,
    state: Mutex<EndState>,
}

/// What changes in the life of a lane's end.
pub(super) struct EndState {
    pub(super) route: Route,
    pub(super) hops: Hops,
    pub(super) suspects: Suspects,
    pub(super) selector: Selector,
    history: History,
}

impl LaneEnd {
    /// The end of a lane in `slot`, which has no route yet.
    pub(super) fn new(
        switch: Arc<Switch>,
        (slot, activity): (SlotId, Arc<SlotActivity>),
        control: Arc<dyn RouteControl>,
        peer: NodeName,
        far_label: Label,
        role: LaneEndRole,
        (wish, way): (RouteWish, Option<u8>),
    ) -> Self {
        let state = EndState {
            route: Route::Direct,
            hops: Hops::default(),
            suspects: Suspects::default(),
            selector: Selector::sharing(wish.hint.clone(), way),
            history: History::default(),
        };
        Self {
            slot,
            role,
            peer,
            far_label,
            wish,
            switch,
            mark: Arc::new(RerouteMark::new(activity.clone())),
            activity,
            control,
            state: Mutex::new(state),
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
        self.state().route.clone()
    }

    /// What passed through the slot.
    #[must_use]
    pub fn activity(&self) -> &SlotActivity {
        &self.activity
    }

    /// What listings show.
    #[must_use]
    pub fn facts(&self) -> LaneFacts {
        let mut state = self.state();
        let last = state.history.last(self.activity.arrivals());
        LaneFacts {
            lane: self.slot.0,
            peer: self.peer.clone(),
            route: state.route.clone(),
            reroutes: state.history.count(),
            last_reroute: last.last().map(|reroute| reroute.reason.to_string()),
            history: last.iter().map(RerouteFacts::from).collect(),
            packets: self.activity.packets(),
        }
    }

    /// Sends on `route` from the next packet on. True if that is a change.
    ///
    /// What was sent after `cause.dead_since` goes out again on the new route, first.
    ///
    /// # Errors
    /// When the route cannot be prepared; the old one stays in use.
    pub async fn use_route(&self, route: &Route, cause: Cause) -> Result<bool, LinkRefusal> {
        let hop = self.prepare(route).await?;
        if self.route() != *route {
            self.send_again(&cause);
        }
        let rtt = self.measured(route).map(|metrics| metrics.rtt);
        let mut state = self.state();
        let left = std::mem::replace(&mut state.route, route.clone());
        let changed = left != *route;
        if changed {
            self.mark.rerouted(now(), rtt);
            let reason = cause.reason;
            tracing::info!(lane = self.slot.0, peer = %self.peer, from = %left, to = %route, %reason, "rerouted");
            state.history.add(self.activity.arrivals(), (left, route.clone()), &cause);
        }
        self.switch.route_slot(self.slot, Some(hop));
        Ok(changed)
    }

    /// Takes `route` as the lane's first one.
    ///
    /// # Errors
    /// When the route cannot be prepared.
    pub(super) async fn begin_on(&self, route: &Route) -> Result<(), LinkRefusal> {
        let hop = self.prepare(route).await?;
        self.state().route = route.clone();
        self.switch.route_slot(self.slot, Some(hop));
        Ok(())
    }

    /// All routes to the far end, as the overlay measures them.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        self.control.candidates(&self.peer, self.role, &self.wish)
    }

    /// Tells the overlay that nothing comes through on `route`.
    pub(super) fn suspect(&self, route: &Route) {
        self.control.suspect(&self.peer, route);
    }

    /// Which process the far end is, as far as we know.
    pub(super) fn far_incarnation(&self) -> Option<u64> {
        self.control.incarnation(&self.peer)
    }

    /// Why the far end, which showed the certificate `peer`, is no member any more, if so.
    pub(super) fn far_end_expelled(&self, peer: &Peer) -> Option<String> {
        self.control.standing(peer).err()
    }

    /// The least round-trip time to `relay` lately.
    pub(super) fn least_rtt_to(&self, relay: &NodeName) -> Option<Duration> {
        self.control.least_rtt(relay)
    }

    /// Tells the overlay what this lane saw on the direct path.
    pub(super) fn observed(&self, sample: &PassiveSample) {
        self.control.observe(&self.peer, sample);
    }

    /// What the lane's flows want of their route.
    pub(super) fn hint(&self) -> &Hint {
        &self.wish.hint
    }

    /// Which end of the lane this is.
    #[must_use]
    pub fn role(&self) -> LaneEndRole {
        self.role
    }

    /// Tells the lane's congestion controller of reroutes.
    pub(super) fn mark(&self) -> &Arc<RerouteMark> {
        &self.mark
    }

    /// What a flow that begins on the lane has to know to find its reroutes.
    pub(super) fn carries(&self) -> OnLane {
        OnLane { lane: self.slot.0, reroutes_before: self.state().history.count() }
    }

    /// The last changes of the route, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Reroute> {
        self.state().history.last(self.activity.arrivals())
    }

    /// Whether the route in use was taken that short a time ago.
    pub(super) fn moved_within(&self, time: Duration) -> bool {
        self.state().history.moved_at().is_some_and(|at| at.elapsed() < time)
    }

    /// What went out since the route died goes out again, before the next packet.
    pub(super) fn send_again(&self, cause: &Cause) {
        if let (Some(since), Some(from)) = (cause.dead_since, cause.lost_from) {
            self.switch.send_again(self.slot, since.into_std(), from.map(|from| from.into_std()));
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, EndState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LaneEnd {
    fn drop(&mut self) {
        self.switch.close_slot(self.slot);
    }
}

impl fmt::Debug for LaneEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {} to {} {}", self.slot.0, self.peer, self.route())
    }
}
